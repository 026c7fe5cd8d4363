//! A cluster of `ostler dev` for one test: up when it is made, gone when it is dropped.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

pub(crate) const OSTLER: &str = env!("CARGO_BIN_EXE_ostler");

pub(crate) fn dev(data: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(OSTLER);
    command.arg("dev").args(arguments).arg("--data").arg(data).env_remove("OSTLER_CONTEXT");
    command
}

pub(crate) fn ostler(data: &Path, arguments: &[&str]) -> Output {
    let context = data.join("test/context");
    Command::new(OSTLER).args(arguments).env("OSTLER_CONTEXT", context).output().unwrap()
}

/// A running `ostler dev`, ended with its guests when the test ends, however that is.
pub(crate) struct Dev<'a> {
    data: &'a Path,
    pub(crate) child: Child,
    pub(crate) said: Vec<serde_json::Value>,
}

impl<'a> Dev<'a> {
    pub(crate) fn up(data: &'a Path) -> Self {
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

    pub(crate) fn ends(&self) -> Vec<(&str, &str)> {
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
