//! The operator at this machine: a discovery server, a context, and `ostler` commands.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use serde_json::Value;

use crate::lab::{Lab, ostler, repository};
use crate::wait::{is, until};

/// An operator with a folder of their own. Dropping it ends what they left running.
#[derive(Debug)]
pub struct Operator {
    folder: tempfile::TempDir,
    running: Vec<Child>,
}

/// A command that goes on, and what it prints, line by line.
#[derive(Debug)]
pub struct Following {
    child: Child,
    lines: Receiver<String>,
    notes: Receiver<String>,
}

impl Operator {
    /// A new operator who knows no cluster.
    #[must_use]
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self { folder, running: Vec::new() }
    }

    /// Serves discovery at this address and opens a cluster there; its URL.
    pub fn discover(&mut self, address: &str) -> String {
        let port = free_port(address);
        let listen = format!("{address}:{port}");
        let data = self.folder.path().join("discovery.json");
        let mut command = self.command(&["discovery", "serve", "--listen", &listen, "--data"]);
        command.arg(data).stdout(Stdio::null()).stderr(Stdio::null());
        self.running.push(command.spawn().expect("ostler can be run"));
        let server = format!("http://{listen}");
        let new = ["discovery", "new", "--server", &server];
        let (url, _) = until("the discovery server", Duration::from_secs(10), || {
            let output = self.run(&new);
            is(output.status.success(), text(&output.stderr))
                .map(|()| text(&output.stdout).trim().to_owned())
        });
        url
    }

    /// Runs a command to its end.
    #[must_use]
    pub fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("ostler can be run")
    }

    /// Runs a command that must succeed; what it prints.
    ///
    /// # Panics
    /// When it fails.
    pub fn must(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "ostler {}: {}\n{said}", words.join(" "), output.status);
        text(&output.stdout)
    }

    /// Runs a command that must succeed and print JSON.
    ///
    /// # Panics
    /// When it does not.
    pub fn json(&self, words: &[&str]) -> Value {
        let printed = self.must(&[words, &["--json"]].concat());
        serde_json::from_str(&printed)
            .unwrap_or_else(|e| panic!("ostler {} --json: {e}: {printed}", words.join(" ")))
    }

    /// A VM's rows as `ps` shows them: (state, host).
    #[must_use]
    pub fn ps(&self, name: &str) -> Vec<(String, String)> {
        let output = self.run(&["ps", "--json"]);
        let Ok(printed) = serde_json::from_slice::<Value>(&output.stdout) else { return vec![] };
        let rows = printed["jobs"].as_array().cloned().unwrap_or_default();
        let of_job = rows.iter().filter(|row| row["job"]["id"] == name);
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        of_job.map(|row| (word(&row["job"]["state"]), word(&row["host_name"]))).collect()
    }

    /// A VM's row of one host, ended ones included; null when there is none.
    #[must_use]
    pub fn row_on(&self, name: &str, host: &str) -> Value {
        let output = self.run(&["ps", "--all", "--json"]);
        let printed: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let rows = printed["jobs"].as_array().cloned().unwrap_or_default();
        let is_it = |row: &&Value| row["job"]["id"] == name && row["host_name"] == host;
        rows.iter().find(is_it).cloned().unwrap_or_default()
    }

    /// Waits until `ps` shows the VM in this state; the host's name.
    pub fn await_state(&self, name: &str, state: &str) -> String {
        let (host, _) = until(&format!("{name} to be {state}"), Duration::from_secs(60), || {
            let rows = self.ps(name);
            let found = rows.iter().find(|(s, _)| s == state).map(|(_, host)| host.clone());
            found.ok_or(rows)
        });
        host
    }

    /// Waits until no run is open. One may end after the VM's state shows what it was for; until then the VM
    /// is busy.
    pub fn await_no_run(&self) {
        until("no run to be open", Duration::from_secs(60), || {
            let runs = self.json(&["runs"])["runs"].as_array().cloned().unwrap_or_default();
            let is_open = |run: &Value| {
                let state = run["state"].as_str().unwrap_or_default();
                ["accepted", "running", "unwinding"].contains(&state)
            };
            let open: Vec<Value> = runs.into_iter().filter(is_open).collect();
            is(open.is_empty(), open)
        });
    }

    /// Runs a command and goes on.
    #[must_use]
    pub fn follow(&self, words: &[&str]) -> Following {
        let mut command = self.command(words);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Following::of(command)
    }

    /// The same at a terminal, where it can be typed to.
    #[must_use]
    pub fn follow_at_terminal(&self, words: &[&str]) -> Following {
        let ostler = ostler();
        let line = format!("{} {}", ostler.display(), words.join(" "));
        let mut command = Command::new("script");
        command.args(["-qfec", &line, "/dev/null"]).env("OSTLER_CONTEXT", self.context());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Following::of(command)
    }

    /// Begins a command and lets it go on by itself.
    #[must_use]
    pub fn begin(&self, words: &[&str]) -> Child {
        let mut command = self.command(words);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("ostler can be run")
    }

    /// Where the operator's key and trust document are.
    #[must_use]
    pub fn context(&self) -> PathBuf {
        self.folder.path().join("context")
    }

    /// Announces to a cluster of `hosts` agents and makes it one: discovery, agents, bootstrap,
    /// the guest image everywhere.
    pub fn make_cluster(&mut self, lab: &Lab) -> String {
        self.make_cluster_with(lab, &[])
    }

    /// The same, with more to say to `bootstrap`.
    pub fn make_cluster_with(&mut self, lab: &Lab, more: &[&str]) -> String {
        let url = self.make_bare_cluster_with(lab, more);
        self.import_guest();
        url
    }

    /// The same without any image.
    pub fn make_bare_cluster(&mut self, lab: &Lab) -> String {
        self.make_bare_cluster_with(lab, &[])
    }

    fn make_bare_cluster_with(&mut self, lab: &Lab, more: &[&str]) -> String {
        let url = self.discover(&lab.operator_address());
        for host in lab.hosts() {
            lab.start_agent(&host, &url);
        }
        let count = lab.hosts().len().to_string();
        self.must(&[&["bootstrap", "--discovery", &url, "-n", &count][..], more].concat());
        url
    }

    /// The host and, as seen there, the pid of a role's process.
    ///
    /// # Panics
    /// When no such process runs.
    #[must_use]
    pub fn service(&self, lab: &Lab, role: &str) -> (String, String) {
        let first = self.services(lab, role).into_iter().next();
        first.unwrap_or_else(|| panic!("no {role}"))
    }

    /// The same of every process of a role, in the order of their numbers.
    #[must_use]
    pub fn services(&self, lab: &Lab, role: &str) -> Vec<(String, String)> {
        let rows = self.json(&["ps", "--all"]);
        let rows = rows["jobs"].as_array().cloned().unwrap_or_default();
        let is_role = |row: &&Value| row["job"]["spec"]["service"]["role"] == role;
        rows.iter().filter(is_role).map(|row| Self::process_of(lab, row)).collect()
    }

    fn process_of(lab: &Lab, row: &Value) -> (String, String) {
        let host = row["host_name"].as_str().expect("a host").to_owned();
        let job = row["job"]["id"].as_str().expect("an id");
        let file = lab.data(&host).join("services").join(job).join("process.json");
        let process = std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let process: Value = serde_json::from_slice(&process).expect("JSON");
        (host, process["pid"].to_string())
    }

    /// Brings the guest image to every host.
    pub fn import_guest(&self) {
        let image = guest_image();
        let image = image.to_str().expect("a path in UTF-8").to_owned();
        self.must(&["images", "import", &image, "--name", "guest"]);
        until("every host to show the image", Duration::from_secs(10), || {
            let shown = self.json(&["hosts"]);
            let hosts = shown["hosts"].as_array().cloned().unwrap_or_default();
            let has = |row: &Value| row["host"]["images"].get("guest").is_some();
            is(!hosts.is_empty() && hosts.iter().all(has), hosts.len())
        });
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(ostler());
        command.args(words).env("OSTLER_CONTEXT", self.context()).stdin(Stdio::null());
        command
    }
}

/// All that a command has said.
#[must_use]
pub fn said(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// Fails if a command has failed.
#[track_caller]
pub fn assert_runs(output: &std::process::Output) {
    assert!(output.status.success(), "{}", said(output));
}

/// Fails unless a command was refused in these words.
#[track_caller]
pub fn assert_refused(output: &std::process::Output, why: &[&str]) {
    let said = said(output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    for part in why {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
}

/// The image of the lab's guests, made if need be.
///
/// # Panics
/// When it can't be made.
#[must_use]
pub fn guest_image() -> PathBuf {
    let made = Command::new(repository().join("scripts/guest-image")).output();
    let made = made.expect("the script can be run");
    assert!(made.status.success(), "guest image: {}", text(&made.stderr));
    repository().join("target/guest/guest.qcow2")
}

impl Default for Operator {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        for child in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Following {
    fn of(mut command: Command) -> Self {
        let mut child = command.spawn().expect("the command can be run");
        let lines = lines_of(child.stdout.take().expect("its output is piped"));
        let notes = lines_of(child.stderr.take().expect("its notes are piped"));
        Self { child, lines, notes }
    }

    /// The next line with this in it.
    ///
    /// # Panics
    /// When none comes within `limit`.
    pub fn line_with(&self, what: &str, limit: Duration) -> String {
        line_with(&self.lines, what, limit)
    }

    /// The next line for people, on the error output, with this in it.
    ///
    /// # Panics
    /// When none comes within `limit`.
    pub fn note_with(&self, what: &str, limit: Duration) -> String {
        line_with(&self.notes, what, limit)
    }

    /// Types a line.
    ///
    /// # Panics
    /// When the command has ended.
    pub fn type_line(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().expect("its input is piped");
        writeln!(stdin, "{line}").expect("it listens");
    }

    /// All lines that have come until now.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }
}

/// What comes out, line by line.
fn lines_of(output: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            if sender.send(text(&line)).is_err() {
                return;
            }
        }
    });
    lines
}

#[track_caller]
fn line_with(lines: &Receiver<String>, what: &str, limit: Duration) -> String {
    let mut seen = Vec::new();
    let begin = std::time::Instant::now();
    while let Some(left) = limit.checked_sub(begin.elapsed()) {
        match lines.recv_timeout(left) {
            Ok(line) if line.contains(what) => return line,
            Ok(line) => seen.push(line),
            Err(_) => break,
        }
    }
    panic!("no line with {what:?} within {limit:?}; seen: {seen:#?}");
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port(address: &str) -> u16 {
    let listener = TcpListener::bind((address, 0)).expect("the lab's bridge has this address");
    listener.local_addr().expect("a bound socket has an address").port()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
