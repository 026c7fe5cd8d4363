//! `ostler dev` with pretended guests, from nothing to gone: the program as people run it.
//!
//! Needs libvirt's library and no privileges; real guests are the lab's business.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

const OSTLER: &str = env!("CARGO_BIN_EXE_ostler");

fn dev(data: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(OSTLER);
    command.arg("dev").args(arguments).arg("--data").arg(data).env_remove("OSTLER_CONTEXT");
    command
}

fn ostler(data: &Path, arguments: &[&str]) -> Output {
    let context = data.join("test/context");
    Command::new(OSTLER).args(arguments).env("OSTLER_CONTEXT", context).output().unwrap()
}

/// A running `ostler dev`, ended with its guests when the test ends, however that is.
struct Dev<'a> {
    data: &'a Path,
    child: Child,
    said: Vec<serde_json::Value>,
}

impl<'a> Dev<'a> {
    fn up(data: &'a Path) -> Self {
        let mut command = dev(data, &["--hypervisor", "test", "--json"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = Vec::new();
        for line in lines {
            let line = line.unwrap();
            let value: serde_json::Value =
                serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
            let is_last = value.get("apis").is_some() || value.get("error").is_some();
            said.push(value);
            if is_last {
                break;
            }
        }
        Self { data, child, said }
    }

    fn ends(&self) -> Vec<(&str, &str)> {
        self.said
            .iter()
            .filter_map(|event| Some((event["id"].as_str()?, event["state"].as_str()?)))
            .filter(|(_, state)| *state == "done" || *state == "already")
            .collect()
    }
}

impl Drop for Dev<'_> {
    fn drop(&mut self) {
        let _ = dev(self.data, &["stop"]).output();
        let _ = self.child.wait();
    }
}

#[test]
fn a_cluster_comes_up_runs_vms_and_is_found_running_by_a_second_one() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let up = Dev::up(data);
    let last = up.said.last().unwrap();
    assert!(last.get("apis").is_some(), "{:#?}", up.said);
    assert_eq!(last["jobs"][0]["job"]["id"], "hello", "{last:#}");
    assert!(up.ends().iter().all(|(_, state)| *state == "done"), "{:?}", up.ends());

    let ran = ostler(data, &["run", "--name", "second", "--memory", "64MiB"]);
    assert!(ran.status.success(), "{ran:?}");
    assert!(String::from_utf8_lossy(&ran.stdout).contains("second running on h"), "{ran:?}");
    let again = ostler(data, &["run", "--name", "third", "--memory", "900GiB"]);
    assert_eq!(again.status.code(), Some(3), "{again:?}");
    assert!(String::from_utf8_lossy(&again.stderr).contains("900GiB"), "{again:?}");
    assert_eq!(ostler(data, &["rm", "second"]).status.code(), Some(3), "it runs");
    assert!(ostler(data, &["stop", "second", "--force"]).status.success());
    assert!(ostler(data, &["rm", "second"]).status.success());
    assert_eq!(ostler(data, &["rm", "second"]).status.code(), Some(5));

    let second = dev(data, &["--json"]).output().unwrap();
    assert!(second.status.success(), "{second:?}");
    let found: serde_json::Value = serde_json::from_slice(&second.stdout).unwrap();
    assert_eq!(found["cluster"], last["cluster"]);
}

#[test]
fn the_next_start_finds_everything_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let mut first = Dev::up(data);
    let cluster = first.said.last().unwrap()["cluster"].clone();
    // Nothing can be said beforehand to a process that is killed.
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    let second = Dev::up(data);
    assert_eq!(second.said.last().unwrap()["cluster"], cluster, "{:#?}", second.said);
    assert!(second.ends().iter().all(|(_, state)| *state == "already"), "{:?}", second.ends());
}
