//! A chore: what a person may have the page do that takes its time, as the command line that does it.
//!
//! Decides which commands those are, and that the page reaches no file of this machine but below the folder for
//! backups that `ostler ui` was given. A value is never a flag; what is a name and what is a size is decided where
//! command lines are read.

use std::path::{Component, Path};

use clap::Parser as _;
use protocol::id::JobId;
use protocol::network::NetworkKind;
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
    /// An image from the web; wherever `on` may name hosts, none are all.
    ImportImage { url: String, name: String, sha256: Option<String>, on: Option<String> },
    /// An image to hosts, from those that have it.
    CopyImage { name: String, on: Option<String> },
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
    /// A directory of hosts is a pool; `create`: one that is none becomes one.
    AddPool { name: String, path: String, shared: bool, create: bool, on: Option<String> },
    /// It is one no longer.
    RemovePool { name: String, on: Option<String> },
    /// Volumes that are nobody's go to their pool's trash.
    DeleteVolumes { pool: String, vm: String },
    /// And come back.
    RestoreVolumes { pool: String, entry: String },
    /// Hosts make a network: `what` it is of its kind is its subnet, bridge, tag or number.
    CreateNetwork {
        name: String,
        kind: NetworkKind,
        what: Option<String>,
        uplink: Option<String>,
        no_dhcp: bool,
        on: Option<String>,
    },
    /// It is taken off hosts.
    RemoveNetwork { name: String, on: Option<String> },
    /// A VM has another disk.
    AttachDisk { job: JobId, name: Option<String>, size: String, image: Option<String> },
    /// And one less, with all that is in it.
    DetachDisk { job: JobId, name: String },
    /// A disk becomes larger.
    GrowDisk { job: JobId, name: String, size: String },
    /// A VM has another network card.
    AttachCard { job: JobId, plug: String, model: Option<String>, mac: Option<String> },
    /// And one less.
    DetachCard { job: JobId, mac: String },
    /// How much a VM matters beside others.
    Rank { job: JobId, priority: String, is_preemptible: bool },
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
            | Self::TakeBackup { job, .. }
            | Self::AttachDisk { job, .. }
            | Self::DetachDisk { job, .. }
            | Self::GrowDisk { job, .. }
            | Self::AttachCard { job, .. }
            | Self::DetachCard { job, .. }
            | Self::Rank { job, .. } => Some(job),
            Self::ImportImage { .. }
            | Self::CopyImage { .. }
            | Self::DeleteImage { .. }
            | Self::PruneImages
            | Self::TakeBackups { .. }
            | Self::CheckBackup { .. }
            | Self::DeleteBackup { .. }
            | Self::RestoreBackup { .. }
            | Self::AddPool { .. }
            | Self::RemovePool { .. }
            | Self::DeleteVolumes { .. }
            | Self::RestoreVolumes { .. }
            | Self::CreateNetwork { .. }
            | Self::RemoveNetwork { .. } => None,
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
            Self::ImportImage { url, name, sha256, on } => {
                let flags = [("name", Some(name)), ("sha256", sha256), ("on", on)];
                line(&["images", "import"], flags, [of_the_web(url)?])
            }
            Self::CopyImage { name, on } => line(&["images", "copy"], [("on", on)], [name]),
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
            Self::AddPool { name, path, shared, create, on } => {
                let flags = [("--shared", shared), ("--create", create)];
                line(&with(&["pools", "add"], flags), each(on), [name, path])
            }
            Self::RemovePool { name, on } => line(&["pools", "rm"], each(on), [name]),
            Self::DeleteVolumes { pool, vm } => line(&["volumes", "rm"], [], [pool, vm]),
            Self::RestoreVolumes { pool, entry } => {
                line(&["volumes", "restore"], [], [pool, entry])
            }
            Self::CreateNetwork { name, kind, what, uplink, no_dhcp, on } => {
                // Of all kinds only this may have nothing more to say.
                let is_bare = kind == NetworkKind::Isolated && what.as_deref().is_none_or(is_blank);
                let flags = [("--isolated", is_bare), ("--no-dhcp", no_dhcp)];
                let command = with(&["networks", "create"], flags);
                let flags = [(kind.as_str(), what), ("uplink", uplink), ("on", on)];
                line(&command, flags, [name])
            }
            Self::RemoveNetwork { name, on } => line(&["networks", "rm"], [("on", on)], [name]),
            Self::AttachDisk { job, name, size, image } => {
                let name = name.filter(|name| !is_blank(name));
                let disk = name.map_or_else(|| size.clone(), |name| of_disk(&name, &size));
                line(&["attach"], [("disk", Some(disk)), ("image", image)], [job.to_string()])
            }
            Self::DetachDisk { job, name } => {
                line(&["detach", "--delete-data"], [("disk", Some(name))], [job.to_string()])
            }
            Self::GrowDisk { job, name, size } => {
                let disk = of_disk(&name, &size);
                line(&["resize"], [("disk", Some(disk))], [job.to_string()])
            }
            Self::AttachCard { job, plug, model, mac } => {
                let more = [("model", model), ("mac", mac)].into_iter().filter_map(said);
                let more = more.map(|(word, value)| format!(",{word}={value}"));
                let card = plug.trim().to_owned() + &more.collect::<String>();
                line(&["attach"], [("nic", Some(card))], [job.to_string()])
            }
            Self::DetachCard { job, mac } => {
                line(&["detach"], [("nic", Some(mac))], [job.to_string()])
            }
            Self::Rank { job, priority, is_preemptible } => {
                let may = if is_preemptible { "--preemptible" } else { "--not-preemptible" };
                line(&["rank", may], [], [job.to_string(), priority])
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

fn of_disk(name: &str, size: &str) -> String {
    format!("{}={}", name.trim(), size.trim())
}

/// A command with those of its flags that have no value and are meant.
fn with<'a, const N: usize>(command: &[&'a str], flags: [(&'a str, bool); N]) -> Vec<&'a str> {
    let meant = flags.into_iter().filter(|(_, is_meant)| *is_meant).map(|(flag, _)| flag);
    command.iter().copied().chain(meant).collect()
}

/// The hosts of a command that takes them one by one.
fn each(on: Option<String>) -> Vec<(&'static str, Option<String>)> {
    let on = on.unwrap_or_default();
    on.split(',').map(|host| ("on", Some(host.to_owned()))).collect()
}

fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}

/// What is left empty is not said.
fn said((word, value): (&str, Option<String>)) -> Option<(&str, String)> {
    let value = value.filter(|value| !is_blank(value))?;
    Some((word, value.trim().to_owned()))
}

fn line<'a, const V: usize>(
    command: &[&str],
    flags: impl IntoIterator<Item = (&'a str, Option<String>)>,
    values: [String; V],
) -> Line {
    let flags = flags.into_iter().filter_map(said);
    let flags = flags.map(|(flag, value)| format!("--{flag}={value}"));
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
mod tests;
