//! Who looks and does nothing: a person's key and a collector's, judged by what each is answered, and by programs
//! whose TLS is not ours.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tests::lab::Lab;
use tests::operator::Operator;
use tests::wait::{is, until};

const LIMIT: Duration = Duration::from_secs(60);

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// What curl, with OpenSSL, is answered by who lives at this address: the status, 0 for none, and what it says.
fn curl(folder: &Path, authorities: &str, target: &str, path: &str) -> (u16, String) {
    let (address, port) = target.rsplit_once(':').expect("an address and a port");
    let mut command = Command::new("curl");
    command.args(["-sS", "--max-time", "10", "-w", "\n%{http_code}"]);
    command.args(["--resolve", &format!("ostler:{port}:{address}")]);
    command.arg("--cacert").arg(folder.join(authorities));
    command.arg("--cert").arg(folder.join("cert.pem")).arg("--key").arg(folder.join("key.pem"));
    command.arg(format!("https://ostler:{port}{path}"));
    let output = command.output().expect("curl can be run");
    let text = said(&output);
    let status = String::from_utf8_lossy(&output.stdout);
    let status = status.trim_end().rsplit('\n').next().and_then(|word| word.parse().ok());
    (status.unwrap_or_default(), text)
}

fn targets(folder: &Path) -> Vec<(String, String, String)> {
    let text = std::fs::read(folder.join("targets.json")).expect("targets are there");
    let all: Vec<Value> = serde_json::from_slice(&text).expect("JSON");
    let word = |value: &Value| value.as_str().expect("a word").to_owned();
    let row = |target: &Value| {
        let labels = &target["labels"];
        (word(&target["targets"][0]), word(&labels["role"]), word(&labels["host"]))
    };
    all.iter().map(row).collect()
}

/// A person's key reads all and changes nothing; a collector's reads what is measured, of every part, and
/// takes nobody else for one; each until it is taken away.
#[test]
fn lab_readers_look_at_everything_or_at_metrics_and_change_nothing() {
    let Some(lab) = Lab::up("lab_readers_look", 3) else { return };
    let mut operator = Operator::new();
    let url = operator.make_cluster(&lab);
    operator.must(&["run", "--name", "web-1", "--memory", "64MiB"]);
    let home = operator.await_state("web-1", "running");

    // A person.
    let ann = Operator::new();
    let key = ann.json(&["readers", "key"])["own"].as_str().expect("a key").to_owned();
    let stranger = ann.run(&["trust", "fetch", &url]);
    let text = said(&stranger);
    assert!(stranger.status.code() == Some(5) && text.contains("ostler readers add"), "{text}");
    operator.must(&["readers", "add", &key, "--name", "ann"]);
    let fetched = said(&ann.run(&["trust", "fetch", &url]));
    assert!(fetched.contains("is known there as reader"), "{fetched}");
    until("her to see the VM", LIMIT, || {
        let rows = ann.ps("web-1");
        is(rows.iter().any(|(state, host)| state == "running" && *host == home), rows)
    });
    ann.must(&["hosts"]);
    ann.must(&["runs"]);
    for words in [
        &["stop", "web-1", "--force"][..],
        &["run", "--name", "web-2", "--memory", "64MiB"],
        &["quota", "set", "default", "--vcpus", "1"],
    ] {
        let output = ann.run(words);
        assert_eq!(output.status.code(), Some(3), "{words:?}: {}", said(&output));
    }
    assert_eq!(lab.virsh_state(&home, "web-1"), "running");

    // What collects metrics.
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let path = folder.to_str().expect("a name");
    operator.must(&["prometheus", path]);
    let all = targets(folder);
    let roles = |role: &str| all.iter().filter(|(_, of, _)| of == role).count();
    assert_eq!((roles("agent"), roles("arbiter")), (3, 1), "{all:?}");
    assert!(roles("monitor") >= 1 && roles("controller") >= 1, "{all:?}");
    let hosts = lab.hosts();
    for (target, role, host) in &all {
        assert!(hosts.contains(host), "{all:?}");
        let (status, text) = curl(folder, "ca.pem", target, "/metrics");
        let metric = format!("ostler_{role}_");
        assert!(status == 200 && text.contains(&metric), "{role} at {target}: {status} {text}");
        let other = match role.as_str() {
            "agent" => "/v1/jobs",
            "monitor" => "/v1/view",
            "arbiter" => "/v1/books",
            _ => "/v1/runs",
        };
        let (status, text) = curl(folder, "ca.pem", target, other);
        assert!(status == 403, "{role} at {target}: {status} {text}");
    }
    // Its own certificate vouches for nobody else.
    let (status, text) = curl(folder, "cert.pem", &all[0].0, "/metrics");
    assert!(status == 0 && text.contains("certificate"), "{status} {text}");
    let trusted = operator.json(&["trust", "show"])["version"].clone();
    let before = std::fs::read(folder.join("key.pem")).expect("a key");
    operator.must(&["prometheus", path]);
    assert_eq!(operator.json(&["trust", "show"])["version"], trusted, "it was so already");
    assert_eq!(std::fs::read(folder.join("key.pem")).expect("a key"), before);

    // A host that is away is shown as it was before.
    let busy = ["arbiter", "controller", "monitor"].map(|role| operator.service(&lab, role).0);
    let away = hosts.iter().find(|host| !busy.contains(*host));
    let authorities = || std::fs::read_to_string(folder.join("ca.pem")).expect("there are some");
    if let Some(away) = away {
        let before = authorities();
        lab.must(&["cut", away]);
        operator.must(&["prometheus", path]);
        assert_eq!(authorities(), before, "nothing is forgotten by silence");
        lab.must(&["heal", away]);
    }
    prometheus_sees_all(folder, all.len());

    // Each until it is taken away.
    operator.must(&["readers", "remove", "prometheus"]);
    operator.must(&["readers", "remove", &key]);
    until("every part to know them no more", LIMIT, || {
        let answers: Vec<u16> =
            all.iter().map(|(target, ..)| curl(folder, "ca.pem", target, "/metrics").0).collect();
        is(answers.iter().all(|status| *status == 403), answers)
    });
    until("her to see nothing", LIMIT, || {
        let output = ann.run(&["ps"]);
        is(output.status.code() == Some(3), said(&output))
    });
}

/// Prometheus itself, where it is installed: nothing of ours installs it.
fn prometheus_sees_all(folder: &Path, count: usize) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    let listen = port.expect("a port").to_string();
    let config = folder.join("scrape.yml");
    let mut text = std::fs::read_to_string(&config).expect("it is there");
    text.insert_str(0, "global: { scrape_interval: 1s }\n");
    std::fs::write(folder.join("prometheus.yml"), text).expect("written");
    let started = Command::new("prometheus")
        .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
        .arg(format!("--web.listen-address={listen}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = started else {
        println!("prometheus is not here: curl alone has read the metrics");
        return;
    };
    let asked = std::panic::catch_unwind(|| {
        until("Prometheus to see every part", LIMIT, || {
            let url = format!("http://{listen}/api/v1/query?query=sum(up)");
            let output =
                Command::new("curl").args(["-sS", "-g", &url]).output().expect("curl runs");
            let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            let up = answer["data"]["result"][0]["value"][1].as_str().map(str::to_owned);
            is(up == Some(count.to_string()), said(&output))
        });
    });
    child.kill().and_then(|()| child.wait()).expect("it ends");
    asked.unwrap_or_else(|why| std::panic::resume_unwind(why));
}
