//! A chore: what a person may have the page do that takes its time, as the command line that does it.
//!
//! Decides which commands those are, and that the page reaches no file of this machine but below the folder for
//! backups that `ostler ui` was given. A value is never a flag; what is a name and what is a size is decided where
//! command lines are read.

use std::path::{Component, Path};

use clap::Parser as _;
use protocol::id::JobId;
use serde::Deserialize;

use crate::cli::Cli;
use crate::exit::Failure;

/// What may be asked for.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "chore", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Chore {
    /// All disks of a VM as they are now are kept.
    TakeSnapshot { job: JobId, snapshot: String },
    /// They become again what they were.
    RevertSnapshot { job: JobId, snapshot: String },
    /// They are kept no longer.
    DeleteSnapshot { job: JobId, snapshot: String },
    /// An image of a VM's disk.
    TakeImage { job: JobId, name: String, disk: Option<String>, snapshot: Option<String> },
    /// An image from the web, on every host.
    ImportImage { url: String, name: String, sha256: Option<String> },
    /// An image to every host, from those that have it.
    CopyImage { name: String },
    /// An image is deleted from every host.
    DeleteImage { name: String },
    /// Images go that commands have made and no VM needs any more.
    PruneImages,
    /// Another VM that begins with what a VM's disks are.
    Clone { job: JobId, name: String, snapshot: Option<String>, on: Option<String> },
    /// Copies of VMs in the folder for backups.
    TakeBackup { job: JobId, keep: Option<String> },
    /// Copies of all of them.
    TakeBackups { keep: Option<String> },
    /// Every byte of a backup is read.
    CheckBackup { backup: String },
    /// A backup goes.
    DeleteBackup { backup: String },
    /// A VM of a backup.
    RestoreBackup { backup: String, name: Option<String>, on: Option<String> },
}

/// A command line, without `ostler`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line(pub(super) Vec<String>);

impl Chore {
    /// The VM that it is about, where there is one already.
    pub(super) fn job(&self) -> Option<&JobId> {
        match self {
            Self::TakeSnapshot { job, .. }
            | Self::RevertSnapshot { job, .. }
            | Self::DeleteSnapshot { job, .. }
            | Self::TakeImage { job, .. }
            | Self::Clone { job, .. }
            | Self::TakeBackup { job, .. } => Some(job),
            Self::ImportImage { .. }
            | Self::CopyImage { .. }
            | Self::DeleteImage { .. }
            | Self::PruneImages
            | Self::TakeBackups { .. }
            | Self::CheckBackup { .. }
            | Self::DeleteBackup { .. }
            | Self::RestoreBackup { .. } => None,
        }
    }

    /// The command line that does it, if it makes sense.
    pub(super) fn line(self, backups: Option<&str>) -> Result<Line, Failure> {
        let line = match self {
            Self::TakeSnapshot { job, snapshot } => of_snapshot("take", &job, snapshot),
            Self::RevertSnapshot { job, snapshot } => of_snapshot("revert", &job, snapshot),
            Self::DeleteSnapshot { job, snapshot } => of_snapshot("rm", &job, snapshot),
            Self::TakeImage { job, name, disk, snapshot } => {
                let flags = [("disk", disk), ("snapshot", snapshot)];
                line(&["images", "take"], flags, [job.to_string(), name])
            }
            Self::ImportImage { url, name, sha256 } => {
                let flags = [("name", Some(name)), ("sha256", sha256)];
                line(&["images", "import"], flags, [of_the_web(url)?])
            }
            Self::CopyImage { name } => line(&["images", "copy"], [], [name]),
            Self::DeleteImage { name } => line(&["images", "rm"], [], [name]),
            Self::PruneImages => line(&["images", "prune"], [], []),
            Self::Clone { job, name, snapshot, on } => {
                let flags = [("snapshot", snapshot), ("on", on)];
                line(&["clone"], flags, [job.to_string(), name])
            }
            Self::TakeBackup { job, keep } => {
                let flags = [("to", Some(given(backups)?.to_owned())), ("keep", keep)];
                line(&["backup", "take"], flags, [job.to_string()])
            }
            Self::TakeBackups { keep } => {
                let flags = [("to", Some(given(backups)?.to_owned())), ("keep", keep)];
                line(&["backup", "take", "--all"], flags, [])
            }
            Self::CheckBackup { backup } => {
                line(&["backup", "check"], [], [below(given(backups)?, backup)?])
            }
            Self::DeleteBackup { backup } => {
                line(&["backup", "rm"], [], [below(given(backups)?, backup)?])
            }
            Self::RestoreBackup { backup, name, on } => {
                let flags = [("name", name), ("on", on)];
                line(&["backup", "restore"], flags, [below(given(backups)?, backup)?])
            }
        };
        match Cli::try_parse_from(["ostler"].into_iter().chain(line.0.iter().map(String::as_str))) {
            Ok(_) => Ok(line),
            Err(error) => Err(Failure::of_usage(&error)),
        }
    }
}

impl Line {
    /// As a person would write it.
    pub(super) fn shown(&self) -> String {
        let is_plain = |word: &str| {
            let is_usual = |c: char| c.is_ascii_alphanumeric() || "-_=./:@,+".contains(c);
            !word.is_empty() && word.chars().all(is_usual)
        };
        let words = self.0.iter().filter(|word| *word != "--").map(|word| match is_plain(word) {
            true => word.clone(),
            false => format!("'{}'", word.replace('\'', r"'\''")),
        });
        words.collect::<Vec<_>>().join(" ")
    }
}

/// The folder for backups, if this page has one.
pub(super) fn given(backups: Option<&str>) -> Result<&str, Failure> {
    backups.ok_or_else(|| {
        Failure::usage("this page was given no folder for backups")
            .next("end it, and begin again with `ostler ui --backups FOLDER`")
    })
}

fn of_snapshot(verb: &str, job: &JobId, snapshot: String) -> Line {
    line(&["snapshots", verb], [], [job.to_string(), snapshot])
}

/// What is left empty is not said.
fn line<const F: usize, const V: usize>(
    command: &[&str],
    flags: [(&str, Option<String>); F],
    values: [String; V],
) -> Line {
    let flags = flags.into_iter().filter_map(|(flag, value)| {
        let value = value.map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())?;
        Some(format!("--{flag}={value}"))
    });
    let command = command.iter().map(|word| (*word).to_owned());
    let mark = (!values.is_empty()).then(|| "--".to_owned());
    let values = values.into_iter().map(|value| value.trim().to_owned());
    Line(command.chain(flags).chain(mark).chain(values).collect())
}

/// A file would be one of this machine's, which whoever has the page has not been given.
fn of_the_web(url: String) -> Result<String, Failure> {
    if ["https://", "http://"].iter().any(|scheme| url.trim().starts_with(scheme)) {
        return Ok(url);
    }
    let what = format!("{url:?} is no https:// or http:// URL, and the page sends no files");
    Err(Failure::usage(what).next("ostler images import FILE --name NAME"))
}

/// A backup that was listed: in the folder itself, and not where a name leads out of it.
fn below(folder: &str, backup: String) -> Result<String, Failure> {
    let inside = Path::new(&backup).strip_prefix(folder);
    let is_below =
        inside.is_ok_and(|path| path.components().all(|part| matches!(part, Component::Normal(_))));
    if is_below {
        return Ok(backup);
    }
    let what = format!("{backup} is not in {folder}, the folder of this page");
    Err(Failure::usage(what).next("ostler backup --help"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(asked: Value, backups: Option<&str>) -> Result<String, Failure> {
        let chore: Chore = serde_json::from_value(asked).unwrap();
        chore.line(backups).map(|line| line.shown())
    }

    #[test]
    fn a_form_is_the_command_line_that_a_person_would_write() {
        let asked = json!({ "chore": "clone", "job": "web-1", "name": " web-2", "on": " " });
        assert_eq!(read(asked, None).unwrap(), "clone web-1 web-2");
        let asked =
            json!({ "chore": "take_image", "job": "web-1", "name": "golden", "disk": "root" });
        assert_eq!(read(asked, None).unwrap(), "images take --disk=root web-1 golden");
        let asked = json!({ "chore": "take_backup", "job": "web-1", "keep": "7" });
        let shown = read(asked, Some("/var/my backups")).unwrap();
        assert_eq!(shown, "backup take '--to=/var/my backups' --keep=7 web-1");
    }

    #[test]
    fn a_value_is_no_flag_and_nonsense_is_refused_before_anything_runs() {
        for name in ["--force", "web 2", ""] {
            let asked = json!({ "chore": "clone", "job": "web-1", "name": name });
            assert_eq!(read(asked, None).unwrap_err().code, crate::exit::Code::Usage, "{name:?}");
        }
        let asked = json!({ "chore": "take_backups", "keep": "0" });
        assert!(read(asked, Some("/b")).is_err());
    }

    #[test]
    fn the_page_reaches_no_file_but_below_its_folder() {
        let asked = json!({ "chore": "delete_backup", "backup": "/b/web-1/20261130-012014" });
        assert_eq!(read(asked, Some("/b")).unwrap(), "backup rm /b/web-1/20261130-012014");
        let out = json!({ "chore": "delete_backup", "backup": "/b/../etc" });
        assert!(read(out, Some("/b")).is_err());
        let restore = |backup: &str, folder| {
            read(json!({ "chore": "restore_backup", "backup": backup }), folder)
        };
        restore("/b/web-1/20261130-012014", Some("/b")).unwrap();
        for outside in ["/etc", "/b/../etc", "b/web-1", "/bb/web-1", "--name=x"] {
            assert!(restore(outside, Some("/b")).is_err(), "{outside}");
        }
        assert!(restore("/b/web-1", None).unwrap_err().to_string().contains("--backups"));
        for file in ["/etc/shadow", "file:///etc/shadow", "shadow"] {
            let asked = json!({ "chore": "import_image", "url": file, "name": "x" });
            assert!(read(asked, None).unwrap_err().to_string().contains("no files"), "{file}");
        }
    }
}
