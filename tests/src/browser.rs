//! A browser without a window, driven over the DevTools protocol: what a person would see and click.
//!
//! Not every distribution has one as a package. Where there is none, a test says so and does nothing.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{self, Message, WebSocket};

use crate::lab::say_skipped;
use crate::wait::{is, until};

/// Programs that are such a browser, the smallest first.
const PROGRAMS: [&str; 3] = ["chromium-headless-shell", "chromium", "google-chrome"];

/// How long the browser may take for anything.
const LIMIT: Duration = Duration::from_secs(30);

/// One page in a browser of its own.
#[derive(Debug)]
pub struct Browser {
    /// What was started: with some packages a script that waits for the browser.
    child: Child,
    /// The browser itself.
    pid: Option<Pid>,
    socket: WebSocket<TcpStream>,
    session: String,
    asked: u64,
    /// What the page complained of: scripts that failed, files that the policy kept out.
    complaints: Vec<String>,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// A browser with an empty page. `None`: this machine has none, which is written down.
    ///
    /// # Panics
    /// When there is one and it does not work.
    #[must_use]
    pub fn start(test: &str) -> Option<Self> {
        let Some(program) = PROGRAMS.into_iter().find_map(in_path) else {
            say_skipped(
                test,
                "no browser: none of chromium-headless-shell, chromium, google-chrome",
            );
            return None;
        };
        let profile = tempfile::tempdir().expect("a temporary folder");
        let mut command = Command::new(program);
        // The sandbox needs rights that root in a container often lacks; the page is our own.
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]);
        command.arg(format!("--user-data-dir={}", profile.path().display())).arg("about:blank");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("the browser can be run");
        let file = profile.path().join("DevToolsActivePort");
        let (said, _) = until("the browser to answer", LIMIT, || {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            is(text.lines().count() == 2, text.clone()).map(|()| text)
        });
        let (port, path) = said.trim().split_once('\n').expect("a port and a path");
        let request = format!("ws://127.0.0.1:{port}{path}").into_client_request();
        let stream = TcpStream::connect(format!("127.0.0.1:{port}")).expect("it listens");
        stream.set_read_timeout(Some(LIMIT)).expect("a time-out");
        let (socket, _) = tungstenite::client(request.expect("a URL"), stream).expect("a stream");
        let mut browser = Self {
            child,
            pid: None,
            socket,
            session: String::new(),
            asked: 0,
            complaints: vec![],
            _profile: profile,
        };
        let all = browser.ask("SystemInfo.getProcessInfo", &json!({}));
        let all = all["processInfo"].as_array().cloned().unwrap_or_default();
        let main = all.iter().find(|process| process["type"] == "browser");
        let pid = main.and_then(|main| main["id"].as_i64());
        browser.pid = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let target = browser.ask("Target.createTarget", &json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.ask("Target.attachToTarget", &attach);
        browser.session = attached["sessionId"].as_str().expect("a session").to_owned();
        for domain in ["Page", "Runtime", "Log"] {
            browser.ask(&format!("{domain}.enable"), &json!({}));
        }
        browser.size(1400, 900);
        Some(browser)
    }

    /// Goes to an address.
    pub fn open(&mut self, url: &str) {
        let went = self.ask("Page.navigate", &json!({ "url": url }));
        assert!(went["errorText"].is_null(), "{url}: {went}");
    }

    /// What a JavaScript expression is on the page.
    ///
    /// # Panics
    /// When it throws.
    pub fn eval(&mut self, expression: &str) -> Value {
        let words =
            json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let answer = self.ask("Runtime.evaluate", &words);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer:#}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true; `what` it is in words.
    ///
    /// # Panics
    /// When it has not become so; says what the page shows.
    pub fn until(&mut self, what: &str, limit: Duration, expression: &str) -> Duration {
        let ((), took) = until(what, limit, || {
            let found = self.eval(&format!("Boolean({expression})"));
            if found == json!(true) {
                return Ok(());
            }
            Err(self.eval("document.body.innerText").as_str().unwrap_or_default().to_owned())
        });
        took
    }

    /// Clicks the first element of this kind with this text, as a person does: in its middle, where
    /// nothing may lie over it, and again if the page moved it away just then.
    ///
    /// # Panics
    /// When none appears, something else is there, or the click never reaches it.
    pub fn click(&mut self, selector: &str, text: &str) {
        let find = format!(
            "[...document.querySelectorAll({})].find((one) => one.textContent.trim() === {} \
             && one.getClientRects().length > 0 && !one.disabled)",
            json!(selector),
            json!(text)
        );
        until(&format!("a click to reach {selector} {text:?}"), LIMIT, || {
            self.until(&format!("{selector} {text:?}"), LIMIT, &find);
            let missed = self.click_once(&find);
            if let Some(instead) = &missed {
                eprintln!("a click on {selector} {text:?} reached {instead}");
            }
            missed.map_or(Ok(()), Err)
        });
    }

    /// One click on what `find` finds; `Some`: it reached this instead.
    fn click_once(&mut self, find: &str) -> Option<String> {
        let place = self.eval(&format!(
            "(() => {{ const one = {find}; if (!one) return null; \
             one.scrollIntoView({{ block: 'center' }}); \
             const at = one.getBoundingClientRect(); \
             const [x, y] = [at.x + at.width / 2, at.y + at.height / 2]; \
             const top = document.elementFromPoint(x, y); \
             const reached = window.reached = {{ pressed: null, isIt: false }}; \
             const hear = (event) => {{ reached.pressed ??= event.target.outerHTML.slice(0, 200); \
             if (event.type === 'click') reached.isIt ||= event.composedPath().includes(one); }}; \
             for (const kind of ['pointerdown', 'click']) \
             addEventListener(kind, hear, {{ capture: true, once: true }}); \
             return {{ x, y, isClear: one === top || one.contains(top), top: top?.outerHTML }}; }})()"
        ));
        if place.is_null() {
            return Some("nothing: it went away".to_owned());
        }
        assert_eq!(place["isClear"], true, "{find} lies under {}", place["top"]);
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({ "type": kind, "x": place["x"], "y": place["y"], "button": "left",
                "clickCount": 1 });
            self.ask("Input.dispatchMouseEvent", &event);
        }
        let reached = self.eval("window.reached");
        (reached["isIt"] != json!(true)).then(|| reached["pressed"].to_string())
    }

    /// Types into whatever has the focus.
    pub fn write(&mut self, text: &str) {
        self.ask("Input.insertText", &json!({ "text": text }));
    }

    /// Presses a key that is no character, such as `Enter`.
    pub fn press(&mut self, key: &str) {
        for kind in ["rawKeyDown", "keyUp"] {
            self.ask("Input.dispatchKeyEvent", &json!({ "type": kind, "key": key, "code": key }));
        }
    }

    /// The size of what is seen.
    pub fn size(&mut self, width: u32, height: u32) {
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.ask("Emulation.setDeviceMetricsOverride", &size);
    }

    /// `light` or `dark`.
    pub fn theme(&mut self, theme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": theme }]);
        self.ask("Emulation.setEmulatedMedia", &json!({ "features": features }));
    }

    /// What is seen now, as a PNG file, for people to look at.
    pub fn picture(&mut self, file: &Path) {
        let shot = self.ask("Page.captureScreenshot", &json!({ "format": "png" }));
        let text = shot["data"].as_str().expect("a picture");
        let bytes = data_encoding::BASE64.decode(text.as_bytes()).expect("base64");
        let folder = file.parent().expect("a file is in a folder");
        std::fs::create_dir_all(folder).expect("a folder");
        std::fs::write(file, bytes).expect("the picture can be written");
    }

    /// What the page has complained of until now.
    pub fn complaints(&mut self) -> Vec<String> {
        // Whatever was said before this answer has come before it.
        self.eval("0");
        std::mem::take(&mut self.complaints)
    }

    fn ask(&mut self, method: &str, params: &Value) -> Value {
        self.asked += 1;
        let id = self.asked;
        let mut message = json!({ "id": id, "method": method, "params": params });
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        self.socket.send(Message::text(message.to_string())).expect("the browser listens");
        loop {
            let said = self.socket.read().unwrap_or_else(|e| panic!("{method}: {e}"));
            let Message::Text(text) = said else { continue };
            let said: Value = serde_json::from_str(&text).expect("JSON");
            if said["id"] == id {
                assert!(said["error"].is_null(), "{method} {params}: {said}");
                return said["result"].clone();
            }
            self.listen(&said);
        }
    }

    fn listen(&mut self, said: &Value) {
        let params = &said["params"];
        match said["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" => {
                self.complaints.push(params["exceptionDetails"].to_string());
            }
            "Log.entryAdded" if params["entry"]["level"] == "error" => {
                self.complaints.push(params["entry"].to_string());
            }
            _ => {}
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its own children go with it.
        if let Some(pid) = self.pid {
            let _ = kill_process(pid, Signal::TERM);
        } else {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}
