//! `ostler backup`: copies of VMs in a folder of this machine, made while they run, and VMs made of them
//! again. What lies there needs no cluster: qcow2 files that `qemu-img` reads, and what the VM was as JSON.
//!
//! ```text
//! take: [taking] images of all disks, of one moment ─▶ [carry] here, by their digest ─▶ [kept] there once named
//! restore: [kept] what it was ─▶ images on a host, by their digest ─▶ a VM that begins with them
//! ```

mod kept;

mod carry;

mod take;

mod restore;

use std::path::{Path, PathBuf};

use protocol::id::JobId;
use protocol::resources::Bytes;
use serde_json::{Value, json};
use transport::Clock;

use self::kept::{Backup, Folder, Shelf};
use crate::cli::Global;
use crate::exit::{Code, Failure};
use crate::session::Session;
use crate::show;

#[derive(Debug, clap::Args)]
pub(crate) struct BackupArgs {
    #[command(subcommand)]
    command: BackupCommand,
}

#[derive(Debug, clap::Subcommand)]
enum BackupCommand {
    /// Copy VMs, with all that is on their disks, into a folder; they run on
    Take(TakeArgs),
    /// Which backups are in a folder
    Ls {
        /// The folder
        folder: PathBuf,
    },
    /// Read a backup, or all in a folder, and say whether each is what was written
    Check {
        /// The folder, a VM in it, or one backup
        folder: PathBuf,
    },
    /// Make a VM of a backup
    Restore(RestoreArgs),
    /// Delete backups; none needs another, and VMs that were made of them go on
    Rm {
        /// Each of them, as `ls` names it
        #[arg(required = true)]
        backups: Vec<PathBuf>,
    },
}

#[derive(Debug, clap::Args)]
struct TakeArgs {
    /// The VMs
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    vms: Vec<JobId>,
    /// All VMs that have disks of their own
    #[arg(long)]
    all: bool,
    /// The folder, in which each VM has one
    #[arg(long, value_name = "FOLDER")]
    to: PathBuf,
    /// Once there is a new one, keep so many of each VM, and delete older ones [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep: Option<u32>,
    /// How fast images of disks are written, a second [default: as fast as it goes]
    #[arg(long, value_name = "SIZE")]
    limit: Option<Bytes>,
}

#[derive(Debug, clap::Args)]
struct RestoreArgs {
    /// The backup, or the folder of a VM, of which the newest is taken
    backup: PathBuf,
    /// What to call the VM [default: as it was called]
    #[arg(long)]
    name: Option<JobId>,
    /// On this host [default: its disks go to the one with most room, and it starts where it fits best]
    #[arg(long, value_name = "HOST")]
    on: Option<String>,
    /// Move others away if that makes room for it
    #[arg(long)]
    make_room: bool,
    /// Return as soon as the controller has taken it
    #[arg(long)]
    no_wait: bool,
}

impl BackupArgs {
    /// Whether it looks at files alone, and needs no cluster.
    pub(crate) fn is_here(&self) -> bool {
        use BackupCommand::{Check, Ls, Rm};
        matches!(self.command, Ls { .. } | Check { .. } | Rm { .. })
    }
}

pub(crate) async fn run(session: &Session, args: BackupArgs) -> Result<Code, Failure> {
    match args.command {
        BackupCommand::Take(args) => take::run(session, args).await,
        BackupCommand::Restore(args) => restore::run(session, args).await,
        here => look(here, session.is_json).await,
    }
}

/// What needs no cluster: there may be none any more.
pub(crate) async fn here(global: &Global, args: BackupArgs) -> Result<Code, Failure> {
    look(args.command, global.json).await
}

async fn look(command: BackupCommand, is_json: bool) -> Result<Code, Failure> {
    match command {
        BackupCommand::Ls { folder } => ls(is_json, &Folder::at(&folder)?),
        BackupCommand::Check { folder } => check(is_json, &Folder::at(&folder)?).await,
        BackupCommand::Rm { backups } => rm(is_json, &backups),
        BackupCommand::Take(_) | BackupCommand::Restore(_) => unreachable!("they need a cluster"),
    }
}

fn ls(is_json: bool, folder: &Folder) -> Result<Code, Failure> {
    let (backups, unreadable) = folder.backups()?;
    for failure in &unreadable {
        show::note(&format!("warning: {}", failure.cause()));
    }
    if is_json {
        let shown: Vec<Value> = backups.iter().map(Backup::json).collect();
        show::json_pretty(&json!({ "backups": shown }));
        return Ok(Code::Ok);
    }
    let now_ms = Clock::real().now().wall_ms;
    let cells = backups.into_iter().map(|backup| {
        let disks: Vec<&str> =
            backup.manifest.disks.iter().map(|disk| disk.name.as_str()).collect();
        [
            backup.manifest.vm.to_string(),
            show::moment(backup.manifest.taken_ms),
            show::age(now_ms.saturating_sub(backup.manifest.taken_ms)),
            Bytes(backup.bytes()).to_string(),
            disks.join(","),
            backup.path.display().to_string(),
        ]
    });
    show::table(["VM", "OF", "AGE", "SIZE", "DISKS", "BACKUP"], cells.collect());
    Ok(Code::Ok)
}

/// Reads every byte: a disk that forgets says so only then.
async fn check(is_json: bool, folder: &Folder) -> Result<Code, Failure> {
    let (backups, unreadable) = folder.backups()?;
    if backups.is_empty() && unreadable.is_empty() {
        let what = format!("no backup in {}", folder.path().display());
        return Err(Failure::new(Code::NotFound, what).next("ostler backup take VM --to FOLDER"));
    }
    let mut code = Code::Ok;
    for failure in unreadable {
        code = Code::Failed;
        failure.tell(is_json);
    }
    for backup in backups {
        let path = backup.path.display().to_string();
        let damage = backup.check().await;
        if damage.is_some() {
            code = Code::Failed;
        }
        if is_json {
            show::json(&json!({ "path": path, "is_whole": damage.is_none(), "damage": damage }));
        } else {
            show::line(&format!("{path}: {}", damage.as_deref().unwrap_or("is what was written")));
        }
    }
    Ok(code)
}

/// Each is looked at before any is deleted.
fn rm(is_json: bool, paths: &[PathBuf]) -> Result<Code, Failure> {
    let all: Vec<Backup> = paths.iter().map(|path| one(path)).collect::<Result<_, _>>()?;
    for backup in all {
        let (path, vm) = (backup.path.display().to_string(), backup.manifest.vm.clone());
        let left = Shelf::beside(&backup)?.delete(&backup)?;
        if is_json {
            show::json(&json!({ "path": path, "vm": vm, "is_deleted": true, "left": left }));
            continue;
        }
        show::note(&match left {
            0 => format!("{path} is deleted; it was the last of {vm} there"),
            1 => format!("{path} is deleted; there is one more of {vm}"),
            left => format!("{path} is deleted; there are {left} more of {vm}"),
        });
    }
    Ok(Code::Ok)
}

/// What is one backup, and no folder of many.
fn one(path: &Path) -> Result<Backup, Failure> {
    let folder = Folder::at(path)?;
    if let Some(backup) = folder.itself()? {
        return Ok(backup);
    }
    let (inside, unreadable) = folder.backups()?;
    let (path, count) = (path.display(), inside.len() + unreadable.len());
    Err(match count {
        0 => Failure::new(Code::NotFound, format!("{path} is no backup"))
            .next("ostler backup ls FOLDER"),
        _ => {
            Failure::usage(format!("{path} is a folder with {count} backups, and not one of them"))
                .next(format!("name each that is to go, as `ostler backup ls {path}` does"))
        }
    })
}
