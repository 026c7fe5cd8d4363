//! `ostler backup`: copies of VMs in a folder of this machine, made while they run, and VMs made of them
//! again. What lies there needs no cluster: qcow2 files that `qemu-img` reads, and what the VM was as JSON.
//!
//! ```text
//! take: [taking] images of all disks, of one moment ─▶ [carry] here, by their digest ─▶ [kept] told as there
//! restore: [kept] what it was ─▶ images on a host, by their digest ─▶ a VM that begins with them
//! ```

mod kept;

mod carry;

mod take;

mod restore;

use std::path::PathBuf;

use protocol::id::JobId;
use protocol::resources::Bytes;
use serde_json::{Value, json};
use transport::Clock;

use self::kept::{Backup, Folder};
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
    /// How fast disks are read, a second [default: as fast as it goes]
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

pub(crate) async fn run(session: &Session, args: BackupArgs) -> Result<Code, Failure> {
    match args.command {
        BackupCommand::Take(args) => take::run(session, args).await,
        BackupCommand::Ls { folder } => ls(session, &Folder::at(&folder)?),
        BackupCommand::Check { folder } => check(session, &Folder::at(&folder)?).await,
        BackupCommand::Restore(args) => restore::run(session, args).await,
    }
}

fn ls(session: &Session, folder: &Folder) -> Result<Code, Failure> {
    let backups = folder.backups()?;
    if session.is_json {
        let shown: Vec<Value> = backups.iter().map(Backup::json).collect();
        show::json_pretty(&json!({ "backups": shown }));
        return Ok(Code::Ok);
    }
    let now_ms = Clock::real().now().wall_ms;
    let cells = backups.into_iter().map(|backup| {
        let disks: Vec<&str> = backup.told.disks.iter().map(|disk| disk.name.as_str()).collect();
        [
            backup.told.vm.to_string(),
            show::moment(backup.told.taken_ms),
            show::age(now_ms.saturating_sub(backup.told.taken_ms)),
            Bytes(backup.bytes()).to_string(),
            disks.join(","),
            backup.path.display().to_string(),
        ]
    });
    show::table(["VM", "OF", "AGE", "SIZE", "DISKS", "BACKUP"], cells.collect());
    Ok(Code::Ok)
}

/// Reads every byte: a disk that forgets says so only then.
async fn check(session: &Session, folder: &Folder) -> Result<Code, Failure> {
    let backups = folder.backups()?;
    if backups.is_empty() {
        let what = format!("no backup in {}", folder.path().display());
        return Err(Failure::new(Code::NotFound, what).next("ostler backup take VM --to FOLDER"));
    }
    let mut code = Code::Ok;
    for backup in backups {
        let path = backup.path.display().to_string();
        let damage = backup.check().await;
        if damage.is_some() {
            code = Code::Failed;
        }
        if session.is_json {
            show::json(&json!({ "backup": path, "is_whole": damage.is_none(), "damage": damage }));
        } else {
            show::line(&format!("{path}: {}", damage.as_deref().unwrap_or("is what was written")));
        }
    }
    Ok(code)
}
