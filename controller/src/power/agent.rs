//! Speaks with fence agents, by their convention (the *FenceAgentAPI* of the ClusterLabs project): options
//! as lines `key=value` on standard input, what was found as the exit code. Passwords are in no argument.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::file::Device;

/// How long one order or question may take. Agents wait themselves for a device that is slow.
const CALL_MAX: Duration = Duration::from_secs(90);

/// Of what it printed, for people.
const WORDS_CHARS_MAX: usize = 300;

/// `status`: it is on.
const ON: i32 = 0;

/// `status`: it is off.
const OFF: i32 = 2;

/// A device did not do, or did not say, what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    /// There is no such program here.
    #[error("run {agent}: {source} (install the package fence-agents)")]
    NotRun { agent: String, source: std::io::Error },
    /// It did not end.
    #[error("{device}: no answer to {action} within {seconds} s", seconds = CALL_MAX.as_secs())]
    TimedOut { device: String, action: &'static str },
    /// It said no.
    #[error("{device}: {action} failed ({code}): {words}")]
    Failed { device: String, action: &'static str, code: String, words: String },
}

/// Whether the device says on.
pub(super) async fn is_on(device: &Device) -> Result<bool, AgentError> {
    let ended = call(device, "status").await?;
    match ended.code {
        Some(ON) => Ok(true),
        Some(OFF) => Ok(false),
        _ => Err(ended.failed(device, "status")),
    }
}

/// Gives the order. What came of it, [`is_on`] says.
pub(super) async fn switch(device: &Device, on: bool) -> Result<(), AgentError> {
    let action = if on { "on" } else { "off" };
    let ended = call(device, action).await?;
    match ended.code {
        Some(0) => Ok(()),
        _ => Err(ended.failed(device, action)),
    }
}

struct Ended {
    code: Option<i32>,
    words: String,
}

impl Ended {
    fn failed(self, device: &Device, action: &'static str) -> AgentError {
        let code = self.code.map_or("killed by a signal".to_owned(), |code| format!("exit {code}"));
        AgentError::Failed { device: device.to_string(), action, code, words: self.words }
    }
}

async fn call(device: &Device, action: &'static str) -> Result<Ended, AgentError> {
    let mut command = Command::new(&device.agent);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let not_run = |source| AgentError::NotRun { agent: device.agent.clone(), source };
    let mut child = command.spawn().map_err(not_run)?;
    let mut said = String::new();
    for (key, value) in &device.options {
        said += &format!("{key}={value}\n");
    }
    said += &format!("action={action}\n");
    let talk = async {
        if let Some(mut stdin) = child.stdin.take() {
            // One that has ended without reading says why by its exit code.
            let _ = stdin.write_all(said.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let ended = tokio::time::timeout(CALL_MAX, talk).await;
    let timed_out = |_| AgentError::TimedOut { device: device.to_string(), action };
    let output = ended.map_err(timed_out)?.map_err(not_run)?;
    Ok(Ended { code: output.status.code(), words: last_words(&output.stderr, device) })
}

/// The last line that it printed, without any value that could be a secret.
fn last_words(printed: &[u8], device: &Device) -> String {
    let text = String::from_utf8_lossy(printed);
    let is_help = |line: &&str| line.contains("Please use '-h' for usage");
    let line = text.lines().map(str::trim).rfind(|l| !l.is_empty() && !is_help(l));
    let mut words = line.unwrap_or("it said nothing").to_owned();
    let is_secret =
        |key: &str| ["pass", "community", "token"].iter().any(|word| key.contains(word));
    for (key, value) in &device.options {
        if is_secret(key) && !value.is_empty() {
            words = words.replace(value, "…");
        }
    }
    words.chars().take(WORDS_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// An agent that keeps the convention, with a file for a machine.
    fn device(folder: &std::path::Path, script: &str) -> Device {
        let path = folder.join("fence_test");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let options = [("password".to_owned(), "secret word".to_owned())];
        Device { agent: path.display().to_string(), options: options.into() }
    }

    #[tokio::test]
    async fn options_and_order_go_by_standard_input_and_the_exit_code_tells() {
        let folder = tempfile::tempdir().unwrap();
        let power = folder.path().join("power").display().to_string();
        let script = format!(
            "while read -r line; do case $line in action=*) do=${{line#*=}} ;; \
             'password=secret word') known=1 ;; esac; done\n\
             [ -n \"$known\" ] || exit 1\n\
             case $do in on) echo 1 >{power} ;; off) echo 0 >{power} ;; \
             status) [ \"$(cat {power})\" = 1 ] || exit 2 ;; *) exit 9 ;; esac"
        );
        let device = device(folder.path(), &script);
        switch(&device, true).await.unwrap();
        assert!(is_on(&device).await.unwrap());
        switch(&device, false).await.unwrap();
        assert!(!is_on(&device).await.unwrap());
    }

    #[tokio::test]
    async fn what_it_says_is_told_without_the_password() {
        let folder = tempfile::tempdir().unwrap();
        let script = "cat >/dev/null; echo 'login with secret word failed' >&2; \
                      echo \"Please use '-h' for usage\" >&2; exit 1";
        let device = device(folder.path(), script);
        let error = is_on(&device).await.unwrap_err().to_string();
        assert_eq!(error, "fence_test: status failed (exit 1): login with … failed");
        let none = Device { agent: "/nonexistent/fence_x".into(), options: Default::default() };
        let error = is_on(&none).await.unwrap_err().to_string();
        assert!(error.contains("install the package fence-agents"), "{error}");
    }
}
