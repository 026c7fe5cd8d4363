//! Hosts found in four ways, seen through what goes wrong with networks, addresses and keys.
//!
//! One story on three hosts: strangers stay outside, a cut host goes and comes back, a host moves, a
//! monitor dies, another lives on hearsay, a third meets a liar; `doctor views` has the last word.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::lab::{Lab, ostler, say_skipped};
use tests::operator::Operator;
use tests::wait::{is, until};
use transport::stream::{Upgrade, close};
use transport::{CancellationToken, Identity, Listen, Server};

use crate::metrics;

/// Where h3 is at first, and then.
const MOVED: &str = "113";

const LIMIT: Duration = Duration::from_secs(30);

/// A monitor at the operator's machine. It reads as the operator: its key is a copy.
struct OwnMonitor {
    child: Child,
    url: String,
    log: PathBuf,
}

impl OwnMonitor {
    fn start(operator: &Operator, address: &str, folder: &Path, words: &[&str]) -> Self {
        std::fs::create_dir_all(folder).expect("a folder");
        std::fs::copy(operator.context().join("operator.key"), folder.join("key")).expect("a key");
        let (log, ready) = (folder.join("log"), folder.join("ready.json"));
        let child = Command::new(ostler())
            .args(["monitor", "--listen", &format!("{address}:0"), "--data-dir"])
            .arg(folder)
            .arg("--ready-file")
            .arg(&ready)
            .args(words)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).expect("a log"))
            .spawn()
            .expect("ostler can be run");
        let (url, _) = until("the monitor to answer", LIMIT, || {
            let said = std::fs::read(&ready).map_err(|e| e.to_string())?;
            let said: Value = serde_json::from_slice(&said).map_err(|e| e.to_string())?;
            said["url"].as_str().map(str::to_owned).ok_or_else(|| said.to_string())
        });
        Self { child, url, log }
    }
}

impl Drop for OwnMonitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            eprintln!("== monitor {}\n{log}", self.url);
        }
    }
}

/// Something that has a key and answers like an agent, until it is asked for its events.
struct Liar {
    _runtime: tokio::runtime::Runtime,
    address: String,
    stop: CancellationToken,
}

impl Liar {
    fn start(address: &str) -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let identity = Arc::new(Identity::ephemeral());
        let stop = CancellationToken::new();
        let server = runtime.block_on(async {
            let listen = Listen::Tls(format!("{address}:0").parse().expect("an address"));
            Server::bind(listen, Arc::clone(&identity)).await.expect("the bridge has the address")
        });
        let address = server.local_addr().expect("it listens").to_string();
        let events = async |upgrade: Upgrade| {
            upgrade.frames(async |mut frames| {
                let sender = frames.sender();
                let _ =
                    sender.send(&serde_json::json!({ "frame": "inventory", "cursor": -1 })).await;
                while let Some(Ok(_)) = frames.next_frame().await {}
                frames.close(close::STOPPING, "enough lies").await;
            })
        };
        let health = serde_json::json!({
            "role": "agent", "is_ready": true, "key": identity.public(), "version": "0",
        });
        let router = axum::Router::new()
            .route("/v1/health", axum::routing::get(async move || transport::Json(health)))
            .route("/v1/events", axum::routing::get(events));
        runtime.spawn(server.serve(transport::problem::finish(router), stop.clone()));
        Self { _runtime: runtime, address, stop }
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// `hosts --json` rows of a host.
fn row(operator: &Operator, id: &str) -> Option<Value> {
    let output = operator.run(&["hosts", "--json"]);
    let shown: Value = serde_json::from_slice(&output.stdout).ok()?;
    shown["hosts"].as_array()?.iter().find(|row| row["host"]["id"] == id).cloned()
}

fn await_freshness(operator: &Operator, id: &str, wanted: &str) -> Duration {
    let (_, took) = until(&format!("the host to be {wanted}"), LIMIT, || {
        let seen = row(operator, id).map(|row| row["freshness"].clone());
        is(seen.as_ref().is_some_and(|seen| seen == wanted), seen)
    });
    took
}

/// The kinds of difference that `doctor views` finds, and its exit code.
fn doctor(operator: &Operator, more: &[&str]) -> (Option<i32>, Vec<Value>) {
    let words = [&["doctor", "views", "--json"], more].concat();
    let output = operator.run(&words);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| {
        panic!("doctor views: {e}: {}", String::from_utf8_lossy(&output.stderr))
    });
    let differences = said["differences"].as_array().cloned().unwrap_or_default();
    (output.status.code(), differences)
}

fn await_clean(operator: &Operator, more: &[&str]) {
    let (_, took) = until("the doctor to find nothing", LIMIT, || {
        let (code, differences) = doctor(operator, more);
        is(code == Some(0), differences)
    });
    println!("the views are clean after {took:?}");
}

fn has(differences: &[Value], kind: &str, words: &str) -> bool {
    differences.iter().any(|difference| {
        let said = difference["explanation"].as_str().unwrap_or_default();
        difference["kind"] == kind && said.contains(words)
    })
}

fn start(lab: &Lab, host: &str, words: &[&str]) {
    let program = ostler();
    let program = program.to_str().expect("a path in UTF-8");
    let begin = ["exec", "-d", "agent", host, program, "agent"];
    lab.must(&[&begin[..], words].concat());
}

fn agent_id(operator: &Operator, url: &str, name: &str) -> String {
    let (id, _) = until(&format!("{name} to be listed"), LIMIT, || {
        let listed = operator.json(&["discovery", "list", url]);
        let instances = listed["instances"].as_array().cloned().unwrap_or_default();
        let entry = instances.iter().find(|entry| entry["name"] == name);
        entry.and_then(|entry| entry["host"].as_str()).map(str::to_owned).ok_or(instances)
    });
    id
}

/// What a browser that is not ours sees of us on h1, as avahi-browse prints it.
fn avahi_sees(lab: &Lab) -> Option<String> {
    let tools = lab.exec("h1", &["sh", "-c", "command -v avahi-browse avahi-daemon dbus-daemon"]);
    if !tools.status.success() {
        say_skipped("lab_discovery_story", "avahi is not installed: run scripts/deps");
        return None;
    }
    lab.must(&["exec", "h1", "mkdir", "-p", "/run/dbus"]);
    lab.must(&["exec", "-d", "dbus", "h1", "dbus-daemon", "--system", "--nofork", "--nopidfile"]);
    let daemon = ["avahi-daemon", "--no-drop-root", "--no-chroot", "--no-rlimits"];
    until("the system bus", LIMIT, || {
        let there = lab.exec("h1", &["test", "-S", "/run/dbus/system_bus_socket"]);
        is(there.status.success(), ())
    });
    lab.must(&[&["exec", "-d", "avahi", "h1"][..], &daemon].concat());
    let (seen, _) = until("avahi to see a host", LIMIT, || {
        let browse = ["timeout", "5", "avahi-browse", "-rtp", "_ostler._tcp"];
        let seen = String::from_utf8_lossy(&lab.exec("h1", &browse).stdout).into_owned();
        is(seen.lines().any(|line| line.starts_with("=;")), seen.clone()).map(|()| seen)
    });
    Some(seen)
}

#[test]
fn lab_discovery_story() {
    let Some(lab) = Lab::up("lab_discovery_story", 4) else { return };
    let begin = Instant::now();
    let mut operator = Operator::new();
    let here = lab.operator_address();
    let url = operator.discover(&here);
    let open = url.split_once("#join=").expect("a new cluster has a join secret").0.to_owned();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let list = folder.path().join("hosts");
    std::fs::write(&list, format!("{}:7460 # h2, by hand\n", lab.address("h2"))).expect("a list");

    // Four ways: h1 by mDNS alone, h2 by the file, h3 by the URL; and h4 has only half of the URL.
    start(&lab, "h1", &["--discovery", "mdns", "--discovery", &url]);
    start(&lab, "h2", &["--listen", &format!("{}:7460", lab.address("h2"))]);
    start(&lab, "h3", &["--discovery", &url]);
    start(&lab, "h4", &["--discovery", &open]);
    let moving = agent_id(&operator, &url, "h3");
    agent_id(&operator, &url, "h4");
    if let Some(seen) = avahi_sees(&lab) {
        assert!(seen.contains("name=h1") && seen.contains("url=https://"), "{seen}");
    }
    println!("found in four ways after {:?}", begin.elapsed());

    let file = format!("file://{}", list.display());
    let address = format!("{}:7460", lab.address("h1"));
    let sources = ["--discovery", &url, "--discovery", &file, "--discovery", "mdns"];
    let said = operator.must(
        &[&["bootstrap", "-n", "3", "--arbiters", "1", "--hosts", &address][..], &sources].concat(),
    );
    assert!(said.contains("h4") && said.contains("unproven"), "{said}");
    assert_eq!(operator.json(&["hosts"])["hosts"].as_array().map(Vec::len), Some(3));
    println!("bootstrapped after {:?}", begin.elapsed());
    let (code, differences) = doctor(&operator, &[]);
    assert!(code == Some(1) && has(&differences, "unproven", "h4"), "{differences:?}");
    lab.must(&["stop", "h4", "agent"]);
    await_clean(&operator, &[]);

    // h3 runs a guest, is cut off, and comes back.
    let run = operator.run(&["run", "--name", "web-1", "--memory", "64MiB", "--on", "h3"]);
    assert!(run.status.success(), "{run:?}: {}", operator.json(&["runs"]));
    let told = operator.follow(&["events", "--follow", "--json"]);
    told.note_with("following", Duration::from_secs(10));
    lab.must(&["cut", "h3"]);
    let stale = await_freshness(&operator, &moving, "stale");
    let lost = await_freshness(&operator, &moving, "lost");
    println!("cut: stale after {stale:?}, lost {lost:?} later, at {:?}", begin.elapsed());
    let states: Vec<String> = operator.ps("web-1").into_iter().map(|(state, _)| state).collect();
    assert_eq!(states, ["running"], "lost is never stopped");
    lab.must(&["heal", "h3"]);
    println!("healed: fresh after {:?}", await_freshness(&operator, &moving, "fresh"));
    assert!(told.lines().iter().all(|line| !line.contains("\"stopped\"")), "a job was stopped");

    // h3 gets another address and another name; nothing is restarted.
    let was = lab.address("h3");
    let (network, _) = was.rsplit_once('.').expect("an IPv4 address");
    let now = format!("{network}.{MOVED}");
    let change = format!(
        "ip address del {was}/24 dev eth0; ip address add {now}/24 dev eth0; \
         ip route replace default via {here}; hostname moved"
    );
    lab.must(&["exec", "h3", "sh", "-c", &change]);
    let (_, took) = until("h3 to be seen at its new address", LIMIT, || {
        let seen = row(&operator, &moving);
        let is_there = seen.as_ref().is_some_and(|row| {
            row["freshness"] == "fresh"
                && row["host"]["name"] == "moved"
                && row["host"]["urls"][0] == format!("https://{now}:7460")
        });
        is(is_there, seen)
    });
    println!("moved: seen at its new address after {took:?}");
    assert_eq!(operator.ps("web-1"), [("running".to_owned(), "moved".to_owned())]);
    // The services there have moved with their host; bootstrap writes it into the trust document.
    operator.must(&[&["bootstrap", "-n", "3"][..], &sources].concat());
    operator.must(&["stop", "web-1", "--force"]);
    assert_eq!(lab.virsh_state("h3", "web-1"), "shut off", "the controller reached it there");
    println!("commanded there at {:?}", begin.elapsed());

    // A monitor that hears only another monitor, and one that also meets a liar.
    let peers = operator.json(&["trust", "show"]);
    let peers = peers["peers"].as_array().or(peers["trust"]["peers"].as_array()).cloned();
    let monitor = peers.unwrap_or_default().into_iter().find(|peer| peer["role"] == "monitor");
    let monitor = monitor.and_then(|peer| peer["url"].as_str().map(str::to_owned));
    let monitor = monitor.expect("a monitor in the trust document");
    let second =
        OwnMonitor::start(&operator, &here, &folder.path().join("second"), &["--follow", &monitor]);
    await_clean(&operator, &["--monitor", &second.url]);
    let liar = Liar::start(&here);
    let third = OwnMonitor::start(
        &operator,
        &here,
        &folder.path().join("third"),
        &["--discovery", &url, "--discovery", &file, "--discovery", &liar.address],
    );
    let with_third = ["--monitor", &second.url, "--monitor", &third.url];
    until("the doctor to name the liar", LIMIT, || {
        let (code, differences) = doctor(&operator, &with_third);
        // While it waits for the liar, the monitor does not call its view complete.
        let is_of_liar = |difference: &Value| {
            difference["kind"] == "quarantined" || difference["kind"] == "monitor-incomplete"
        };
        let is_named = has(&differences, "quarantined", "does not believe");
        is(code == Some(1) && is_named && differences.iter().all(is_of_liar), differences)
    });
    println!("the liar is named at {:?}", begin.elapsed());
    drop((third, liar));
    everything_is_in_a_bundle(&operator, &folder.path().join("bundle"), &url);

    restart_a_monitor(&lab, &operator, begin);
    await_clean(&operator, &["--monitor", &second.url]);
    println!("the story took {:?}", begin.elapsed());
}

/// What every part says of itself, without the discovery URL, which is a password.
fn everything_is_in_a_bundle(operator: &Operator, bundle: &Path, discovery: &str) {
    let about = operator.json(&["bundle", &bundle.to_string_lossy()]);
    let answers = about["answers"].as_array().expect("whom it asked");
    let silent: Vec<&Value> = answers.iter().filter(|a| a.get("error").is_some()).collect();
    assert!(silent.is_empty(), "{silent:?}");
    let mut kinds = std::collections::BTreeSet::new();
    for answer in answers {
        let file = answer["file"].as_str().expect("a file");
        let text = std::fs::read_to_string(bundle.join(file)).expect("it is there");
        assert!(!text.contains(discovery), "{file} has the discovery URL");
        kinds.extend(file.split('/').next().map(str::to_owned));
    }
    assert!(kinds.iter().eq(["agents", "arbiters", "controllers", "monitors"]), "{kinds:?}");
    let metrics = answers.iter().filter(|answer| answer["path"] == "/metrics");
    let files = metrics.map(|answer| bundle.join(answer["file"].as_str().expect("a file")));
    metrics::are_what_prometheus_takes(&files.collect::<Vec<_>>());
}

/// kill -9 of one monitor: its agent starts it again, and it is complete within 2 s of that.
fn restart_a_monitor(lab: &Lab, operator: &Operator, begin: Instant) {
    let rows = operator.json(&["ps", "--all"]);
    let rows = rows["jobs"].as_array().cloned().unwrap_or_default();
    let is_monitor = |row: &&Value| {
        row["job"]["spec"]["service"]["role"] == "monitor" && row["host_name"] != "moved"
    };
    let found = rows.iter().find(is_monitor).expect("a monitor runs on h1 or h2");
    let (job, host) = (found["job"]["id"].as_str(), found["host_name"].as_str());
    let (job, host) = (job.expect("an id"), host.expect("a name"));
    let folder = lab.data(host).join("services").join(job);
    let pid = || -> Option<u64> {
        let process = std::fs::read(folder.join("process.json")).ok()?;
        serde_json::from_slice::<Value>(&process).ok()?["pid"].as_u64()
    };
    let old = pid().expect("it runs");
    let url = found["job"]["endpoint"]["url"].as_str().expect("where it answers");
    let killed = lab.exec(host, &["kill", "-9", &old.to_string()]);
    assert!(killed.status.success(), "{killed:?}");
    until("its agent to start it again", LIMIT, || is(pid().is_some_and(|now| now != old), ()));
    let started = Instant::now();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let key = Identity::load(&operator.context().join("operator.key")).expect("the operator's key");
    let client = transport::Client::new(Arc::new(key)).with_deadline(Duration::from_millis(500));
    let at = transport::Endpoint::anyone(url);
    until("it to be complete", LIMIT, || {
        let health = runtime.block_on(client.get::<Value>(&at, "/v1/health"));
        let health = health.map_err(|error| error.to_string())?;
        is(health["is_ready"] == true, health.to_string())
    });
    let took = started.elapsed();
    println!("a killed monitor was complete {took:?} after its start, at {:?}", begin.elapsed());
    assert!(took < Duration::from_secs(2), "{took:?}");
}
