//! What an agent remembers over its own death: the memory of intent.
//!
//! libvirt is the reality; the ledger says what was promised and what was meant to happen. Each
//! [`Write`] is one row; the writes of one batch reach the disk together or not at all.

use std::collections::BTreeMap;

use protocol::amounts::Amounts;
use protocol::api::MigrateJob;
use protocol::history::HistoryConfig;
use protocol::host::HostIntent;
use protocol::id::{Epoch, HostId, JobId, OfferId, RunId};
use protocol::job::{Job, JobState, Reason, RunKey};
use protocol::network::NetworkName;
use protocol::pool::PoolsConfig;
use protocol::signed::{Digest, Signed};
use protocol::trust::Trust;
use protocol::vm::{DiskSpec, NicSpec, Size};
use serde::{Deserialize, Serialize};

use super::claims::Claim;
use super::history::Ended;
use super::leaving::Leaving;
use super::networks::NetworkRecord;
use super::pools::Stay;
use super::snapshots::LastRevert;

/// What is meant to happen to a job, whatever its state is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "intent", rename_all = "snake_case")]
pub enum Intent {
    /// It runs here.
    Run,
    /// It stands still here.
    Pause,
    /// Its memory goes to disk, and it ends.
    Save,
    /// It stops.
    Stop {
        /// How long the guest may take.
        grace_ms: u64,
    },
    /// Its guest is done, and its exit code is read.
    Conclude,
    /// It and its volumes go.
    Delete,
    /// It runs here already and becomes ours, as it is.
    Adopt,
    /// It becomes nobody's, with the definition that it came with.
    Release,
    /// It comes from another host.
    Receive {
        /// The host where it runs.
        from: HostId,
        /// The hold under which it runs there.
        hold: OfferId,
        /// True once the source has let go (rule M4). Until then it never counts as running here.
        is_handed: bool,
    },
    /// It goes to another host.
    Send(Box<MigrateJob>),
}

/// A job's row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    /// As it is shown to everybody.
    pub job: Job,
    /// What is meant to happen.
    #[serde(flatten)]
    pub intent: Intent,
    /// What each arbiter has booked for the hold.
    #[serde(default)]
    pub debits: BTreeMap<u32, Amounts>,
    /// When the offer was made that its hold was redeemed from: what its grants cover it from (R9).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued: Option<Issued>,
    /// What is counted in this boot of the machine.
    #[serde(default, skip_serializing_if = "Tally::is_empty")]
    pub tally: Tally,
    /// The last change of its size since it was put here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_resize: Option<Box<LastResize>>,
    /// Disks and cards that its spec has no more and its guest may have still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaving: Option<Box<Leaving>>,
    /// The last time that its disks were made what they were, since it was put here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_revert: Option<Box<LastRevert>>,
    /// Its stay here, if it has volumes in pools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stay: Option<Box<Stay>>,
    /// CPUs of the host that its virtual CPUs have to themselves, from the first on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<u32>,
    /// Whether its guest, or memory that was saved of it, may be on some of the host's CPUs only because the host gave
    /// others away.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub penned: bool,
    /// Whether its volumes in shared pools go with it, once it is being deleted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deletes_shared: bool,
    /// Whether its start goes on from memory that was saved: set when a saved job is started, and over once it
    /// runs. What libvirt has saved of any other job is forgotten by its next start.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restores: bool,
    /// When it ended, if it has; rows of older agents do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
}

impl JobRecord {
    /// True while memory of it is saved that its next start goes on from: one that failed has not used it up.
    #[must_use]
    pub fn has_saved_memory(&self) -> bool {
        let is_kept = self.restores && self.job.state == JobState::Failed;
        is_kept || self.job.reason == Some(Reason::Saved)
    }
}

/// What it takes to go back behind a change of size: when libvirt can't have it, or when the run that
/// asked for it turns back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastResize {
    /// What the spec said before of CPUs and memory.
    pub before: Size,
    /// What it said of its disks, in bytes by name: gone back to only when none of them has grown. Rows of
    /// older agents, whose disks never stayed what they were, do not say.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub disks: BTreeMap<String, u64>,
    /// Its disks and cards before, when some of them came or went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<Box<Devices>>,
    /// Who asked, when a run did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunKey>,
}

/// What a VM has of what can come and go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Devices {
    /// Its disks.
    pub disks: Vec<DiskSpec>,
    /// Its cards.
    pub nics: Vec<NicSpec>,
}

/// A moment of one boot of the machine; of no other is it any use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// The boot id.
    pub boot: String,
    /// Milliseconds since that boot.
    pub at_ms: u64,
    /// The hold under which the guest began, where a growth has replaced that since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<OfferId>,
}

/// What is counted of a job in one boot of the machine, in milliseconds since that boot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// When it came to run. `None`: it has not come to run since it was last started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ran_from_ms: Option<u64>,
    /// When it ended by itself and was to be started again, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restarts_ms: Vec<u64>,
    /// When it is started again, while that is to come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_at_ms: Option<u64>,
    /// True from a reboot until it runs: the right to run it has to be shown again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub needs_right: bool,
}

impl Tally {
    /// True when nothing is counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// One durable change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// A job's row is now this.
    Job(Box<JobRecord>),
    /// A job's row is gone, as somebody asked or as history.
    JobGone(JobId),
    /// Every row tells of this boot of the machine.
    Boot(String),
    /// Obey this document.
    Trust(Box<Signed<Trust>>),
    /// The host has agreed to this change of arbiters.
    Agreed(Digest),
    /// What the operator intends with the host is now this.
    HostIntent(Option<HostIntent>),
    /// The host's pools are now these.
    Pools(Box<PoolsConfig>),
    /// So much is remembered of what has ended.
    History(HistoryConfig),
    /// The newest claim and the undone tasks of a run are now this.
    Claim(RunId, Claim),
    /// A run was so long ago that its claim is forgotten.
    ClaimGone(RunId),
    /// A network's row is now this.
    Network(Box<NetworkRecord>),
    /// A network is gone, as somebody asked.
    NetworkGone(NetworkName),
}

/// The whole ledger, as read at start.
#[derive(Debug, Clone, Default)]
pub struct LedgerState {
    /// The agent's new life; already durable.
    pub epoch: Epoch,
    /// The machine's present boot id.
    pub boot: String,
    /// The boot of which the rows tell; a ledger is made with the present one. It becomes that of another
    /// boot together with what the reboot makes of the rows, so whoever comes after an agent that died before
    /// finds the reboot again.
    pub boot_of_rows: String,
    /// The trust document in force.
    pub trust: Option<Signed<Trust>>,
    /// The last change of arbiters that the host has agreed to.
    pub agreed: Option<Digest>,
    /// What the operator intends with the host.
    pub host_intent: Option<HostIntent>,
    /// The pools that were declared, with their ids.
    pub pools: PoolsConfig,
    /// How much is remembered of what has ended.
    pub history: HistoryConfig,
    /// Every job.
    pub jobs: Vec<JobRecord>,
    /// Every claim seen.
    pub claims: Vec<(RunId, Claim)>,
    /// Every network asked for.
    pub networks: Vec<NetworkRecord>,
}

impl LedgerState {
    /// True when the rows tell of an earlier boot of the machine.
    #[must_use]
    pub fn is_rebooted(&self) -> bool {
        !self.boot_of_rows.is_empty() && self.boot_of_rows != self.boot
    }
}
