//! `ostler ui` over the wire, as a browser and as those who are none speak to it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{self, Message, WebSocket};

use crate::cluster::{Dev, OSTLER, ostler};

/// Longest wait for anything here: a monitor that stands still is given up after some seconds.
const LIMIT: Duration = Duration::from_secs(40);

/// `ostler ui`, and a browser that was given its address.
struct Page {
    child: Child,
    authority: String,
    entrance: String,
    room: String,
    cookie: String,
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Page {
    fn open(data: &Path) -> Self {
        let mut command = Command::new(OSTLER);
        command.args(["ui", "--listen", "127.0.0.1:0", "--json"]);
        command.env("OSTLER_CONTEXT", data.join("test/context")).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
        let url = said["url"].as_str().unwrap().strip_prefix("http://").unwrap();
        let (authority, entrance) = url.split_once('/').unwrap();
        let mut page = Self {
            child,
            authority: authority.to_owned(),
            entrance: format!("/{entrance}"),
            room: String::new(),
            cookie: String::new(),
        };
        let entered = page.send("GET", &page.entrance, &[("Host", authority)], "");
        assert_eq!(entered.status, 303, "{}", entered.head);
        page.room = entered.header("location").trim_end_matches('/').to_owned();
        let cookie = entered.header("set-cookie");
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
        assert!(cookie.contains(&format!("Path={}/", page.room)), "{cookie}");
        page.cookie = cookie.split(';').next().unwrap().to_owned();
        page
    }

    /// What the page itself would send.
    fn own(&self) -> Vec<(&str, String)> {
        vec![
            ("Host", self.authority.clone()),
            ("Origin", format!("http://{}", self.authority)),
            ("Cookie", self.cookie.clone()),
        ]
    }

    fn get(&self, path: &str) -> Answer {
        let own = self.own();
        self.send("GET", &format!("{}{path}", self.room), &borrowed(&own), "")
    }

    fn ask(&self, body: &Value) -> Answer {
        let own = self.own();
        self.send("POST", &format!("{}/ask", self.room), &borrowed(&own), &body.to_string())
    }

    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut stream = TcpStream::connect(&self.authority).unwrap();
        let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() {
            text +=
                &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        }
        stream.write_all(format!("{text}\r\n{body}").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }

    fn feed(&self) -> Feed {
        let own = self.own();
        Feed { socket: self.stream("/feed", &borrowed(&own)).unwrap(), seen: vec![] }
    }

    fn stream(
        &self,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<WebSocket<TcpStream>, Box<tungstenite::Error>> {
        let url = format!("ws://{}{}{path}", self.authority, self.room);
        let mut request = url.into_client_request().unwrap();
        for (name, value) in headers {
            let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let stream = TcpStream::connect(&self.authority).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        match tungstenite::client(request, stream) {
            Ok((socket, _)) => Ok(socket),
            Err(tungstenite::HandshakeError::Failure(error)) => Err(Box::new(error)),
            Err(error) => panic!("{error}"),
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map_or("", |(_, v)| v)
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}

/// The stream that a page follows.
struct Feed {
    socket: WebSocket<TcpStream>,
    seen: Vec<Value>,
}

impl Feed {
    /// Reads until there is such news, and forgets what was said of the same kind of thing before it,
    /// and how old all was: only of one kind is the order promised.
    fn until(&mut self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let begin = Instant::now();
        loop {
            if let Some(at) = self.seen.iter().position(&is_it) {
                let found = self.seen.remove(at);
                let is_past =
                    |news: &Value| news["news"] == found["news"] || news["news"] == "beat";
                let later = self.seen.split_off(at);
                self.seen.retain(|news| !is_past(news));
                self.seen.extend(later);
                return found;
            }
            assert!(begin.elapsed() < LIMIT, "never: {what}; last {:?}", self.seen.last());
            match self.socket.read().unwrap_or_else(|e| panic!("{what}: {e}")) {
                Message::Text(text) => {
                    let news: Vec<Value> = serde_json::from_str(&text).unwrap();
                    self.seen.extend(news);
                }
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{what}: {other:?}"),
            }
        }
    }

    fn source(&mut self, kind: &str, words: &str) -> String {
        let news = self.until(&format!("{kind} {words}"), |news| {
            let said = news["words"].as_str().unwrap_or_default();
            news["news"] == "source" && news["kind"] == kind && said.contains(words)
        });
        news["words"].as_str().unwrap().to_owned()
    }

    fn job(&mut self, id: &str, state: &str) -> Value {
        self.until(&format!("{id} {state}"), |news| {
            news["news"] == "job" && news["id"] == id && news["state"] == state
        })
    }
}

fn borrowed<'a>(headers: &'a [(&'a str, String)]) -> Vec<(&'a str, &'a str)> {
    headers.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

/// A monitor's process that stands still, and goes on when the test ends.
struct Frozen(Pid);

impl Frozen {
    /// The one that answers at this address.
    fn of(data: &Path, url: &str) -> Self {
        let services = (1..=3).flat_map(|n| {
            let folder = data.join(format!("test/h{n}/services"));
            std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
        });
        let is_it = |folder: &PathBuf| {
            std::fs::read_to_string(folder.join("ready.json")).is_ok_and(|text| text.contains(url))
        };
        let folder = services.into_iter().find(is_it).expect("a service answers there");
        let process = std::fs::read(folder.join("process.json")).unwrap();
        let process: Value = serde_json::from_slice(&process).unwrap();
        let pid = process["pid"].as_i64().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let pid = pid.expect("a pid");
        kill_process(pid, Signal::STOP).unwrap();
        Self(pid)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

#[test]
fn only_the_printed_address_leads_in_and_only_the_page_itself_may_ask() {
    let folder = tempfile::tempdir().unwrap();
    let _up = Dev::up(folder.path());
    let page = Page::open(folder.path());
    let (own, room) = (page.own(), page.room.clone());
    let host = ("Host", page.authority.as_str());

    let shown = page.get("/");
    assert_eq!(shown.status, 200);
    assert!(shown.header("content-type").starts_with("text/html"), "{}", shown.head);
    let policy = shown.header("content-security-policy");
    for part in [
        "default-src 'none'",
        "script-src 'self';",
        "style-src 'self';",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        &format!("connect-src 'self' ws://{};", page.authority),
    ] {
        assert!(policy.contains(part), "{part} is not in {policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(shown.header("referrer-policy"), "no-referrer");
    assert_eq!(shown.header("cache-control"), "no-store");
    assert_eq!(page.get("/main.js").header("content-type"), "text/javascript; charset=utf-8");
    assert_eq!(page.get("/nothing.js").status, 404);

    // Somebody who can reach the port and was not given the address.
    for path in ["/", "/?token=00000000000000000000000000000000", &format!("{room}/")] {
        let no = page.send("GET", path, &[host], "");
        assert_eq!(
            (no.status, no.json()["type"].clone()),
            (403, json!("urn:ostler:no-pass")),
            "{path}"
        );
        assert!(no.header("content-security-policy").contains("default-src 'none'"));
    }
    // Another page in the same browser, with our cookie: rebound, on another port, or anywhere.
    let stop = json!({ "ask": "stop", "job": "hello", "grace_ms": 0 }).to_string();
    let ask = format!("{room}/ask");
    let with = |name: &str, value: &str| {
        let others = own.iter().filter(|(other, _)| *other != name);
        let mut headers: Vec<(String, String)> =
            others.map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        headers.push((name.to_owned(), value.to_owned()));
        headers
    };
    for (headers, kind) in [
        (with("Host", "evil.example"), "other-host"),
        (with("Host", &page.authority.replace("127.0.0.1", "rebound.example")), "other-host"),
        (with("Origin", "http://evil.example"), "other-origin"),
        (with("Origin", "http://127.0.0.1:1"), "other-origin"),
        (with("Sec-Fetch-Site", "cross-site"), "other-origin"),
        (with("Cookie", "a=b"), "no-pass"),
    ] {
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let no = page.send("POST", &ask, &headers, &stop);
        assert_eq!(no.status, 403, "{headers:?}: {}", no.head);
        assert_eq!(no.json()["type"], format!("urn:ostler:{kind}"), "{headers:?}");
        for stream in ["/feed", "/jobs/hello/console"] {
            let error = page.stream(stream, &headers).map(drop).unwrap_err();
            assert!(error.to_string().contains("403"), "{headers:?}: {error}");
        }
    }
    let running = ostler(folder.path(), &["ps", "--json"]);
    let running: Value = serde_json::from_slice(&running.stdout).unwrap();
    assert_eq!(running["jobs"][0]["job"]["state"], "running", "nobody could stop it");
}

#[test]
fn the_feed_falls_over_to_the_other_monitor_and_then_to_the_agents() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let _up = Dev::up(data);
    let page = Page::open(data);
    let mut feed = page.feed();
    let first = feed.source("monitor", "https://");
    feed.job("hello", "running");
    feed.until("everything was told", |news| news["news"] == "complete");

    let first_frozen = Frozen::of(data, &first);
    let second = feed.source("monitor", "https://");
    assert_ne!(first, second);
    // What happens now is seen by way of the second.
    assert!(ostler(data, &["stop", "hello", "--force"]).status.success());
    feed.job("hello", "stopped");
    assert!(ostler(data, &["start", "hello"]).status.success());
    feed.job("hello", "running");

    let second_frozen = Frozen::of(data, &second);
    feed.source("agents", &second);
    let stop = json!({ "ask": "stop", "job": "hello", "grace_ms": 0, "at_host": true });
    let stopped = page.ask(&stop);
    assert_eq!(stopped.status, 200, "{}", stopped.body);
    feed.job("hello", "stopped");
    let is_all_heard = |news: &Value| news["news"] == "beat" && news["silent"] == json!([]);
    feed.until("agents that are heard", is_all_heard);

    drop(first_frozen);
    feed.source("monitor", &first);
    drop(second_frozen);
}

#[test]
fn what_the_page_asks_is_what_the_commands_ask() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let _up = Dev::up(data);
    let page = Page::open(data);
    let mut feed = page.feed();
    feed.until("everything was told", |news| news["news"] == "complete");

    let form = json!({ "ask": "run", "name": "web-1", "vcpus": "1", "memory": "64MiB",
        "image": null, "disk": null, "tenant": "acme", "on": null });
    let asked = page.ask(&form).json();
    assert_eq!(asked["words"], "asked for: run web-1", "{asked}");
    let job = feed.job("web-1", "running");
    assert_eq!((&job["tenant"], &job["memory_bytes"]), (&json!("acme"), &json!(64 << 20)));
    // A page that comes later is told all of it; the order of different things is nobody's promise.
    let run =
        page.feed().until("its run", |news| news["news"] == "run" && news["id"] == asked["run"]);
    assert!(run["wanted"].as_str().unwrap().contains("web-1"), "{run}");
    page.feed().until("its tenant's share", |news| {
        let rows = news["rows"].as_array().cloned().unwrap_or_default();
        rows.iter().any(|row| row["tenant"] == "acme" && row["vms"] == 1)
    });
    let no = page.ask(&form);
    assert_eq!(no.status, 409, "there is one already: {}", no.body);
    let mut wrong = form.clone();
    wrong["memory"] = json!("much");
    let no = page.ask(&wrong);
    assert_eq!(no.status, 400, "{}", no.body);
    assert!(no.json()["error"]["what"].as_str().unwrap().contains("much"), "{}", no.body);
    assert_eq!(page.ask(&json!({ "ask": "everything" })).status, 422);

    for (ask, state) in [("pause", "paused"), ("resume", "running")] {
        assert_eq!(page.ask(&json!({ "ask": ask, "job": "web-1" })).status, 200);
        feed.job("web-1", state);
    }
    let known = page.get("/jobs/web-1").json();
    assert_eq!(known["job"]["job"]["spec"]["vm"]["vcpus"], 1, "{known}");
    let past = page.get("/jobs/web-1/events").json();
    let newest = past["events"][0]["words"].as_str().unwrap();
    assert!(newest.starts_with("web-1 running"), "{past}");
    let why = page.get("/jobs/web-1/why").json();
    assert!(why["lines"][0].as_str().unwrap().starts_with("web-1 is running on h"), "{why}");

    let size =
        |vcpus: &str| json!({ "ask": "resize", "job": "web-1", "vcpus": vcpus, "memory": null });
    assert_eq!(page.ask(&size("some")).status, 400);
    assert_eq!(page.ask(&size("2")).status, 200);
    feed.until("it has no head-room", |news| {
        let words = news["resize"].as_str().unwrap_or_default();
        news["id"] == "web-1" && news["vcpus"] == 2 && words.ends_with("now 1 until its next start")
    });

    let host = job["host"].as_str().unwrap();
    let plan = page.get(&format!("/hosts/{host}/drain")).json();
    assert_eq!(plan["can_all_leave"], false, "pretended guests cannot move: {plan}");
    let no = page.ask(&json!({ "ask": "migrate", "job": "web-1", "to": null }));
    assert_eq!(no.status, 409, "{}", no.body);
    assert!(no.body.contains("web-1: cannot leave"), "{}", no.body);

    assert_eq!(page.ask(&json!({ "ask": "drain", "host": host })).status, 200);
    feed.until("a drained host", |news| news["news"] == "host" && news["intent"] == "drain");
    assert_eq!(page.ask(&json!({ "ask": "undrain", "host": host })).status, 200);
    feed.until("it is in use", |news| {
        news["news"] == "host" && news["id"] == host && news["intent"].is_null()
    });

    let delete = |name: &str| page.ask(&json!({ "ask": "delete", "job": "web-1", "name": name }));
    assert_eq!(delete("web-1").status, 409, "it runs");
    // The drain may have begun a move, which has its turn first.
    let begin = Instant::now();
    loop {
        let stopped = page.ask(&json!({ "ask": "stop", "job": "web-1", "grace_ms": 0 }));
        match stopped.status {
            200 => break,
            409 if begin.elapsed() < Duration::from_secs(20) => {
                std::thread::sleep(Duration::from_millis(50));
            }
            other => panic!("{other}: {}", stopped.body),
        }
    }
    feed.job("web-1", "stopped");
    assert_eq!(delete("web-2").status, 400, "that is not its name");
    assert_eq!(delete("web-1").status, 200);
    feed.until("it is gone", |news| news["news"] == "job_gone" && news["id"] == "web-1");
    assert_eq!(page.get("/jobs/web-1").status, 404);
}
