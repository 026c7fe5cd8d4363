//! What an agent's core is told and what it wants done: two closed lists.

use std::collections::{BTreeMap, BTreeSet};

use hypervisor::{CpuPlace, DomainEvent, DomainInfo, Lifecycle, Progress};
use protocol::api::{MigrateJob, OfferReply, OfferRequest, PutJob, ResizeJob, RevertJob, StopJob};
use protocol::event::Event;
use protocol::history::HistoryConfig;
use protocol::host::{HostIntent, ImageFacts};
use protocol::hugepages::PageSize;
use protocol::id::{ImageName, JobId, OfferId, PoolName, Revision, SnapshotName};
use protocol::job::{Card, Job, RunKey, ServiceEndpoint, ServiceSpec, Snapshot};
use protocol::network::{NetworkName, NetworkStatus, PutNetwork};
use protocol::pool::{PoolFacts, PoolsConfig};
use protocol::refusal::Refusal;
use protocol::resources::Resources;
use protocol::signed::{Digest, Signed};
use protocol::ticket::Handoff;
use protocol::trust::Trust;
use protocol::vm::{Rank, SizeChange, VmSpec};

use super::acts::Act;
use super::hugepages::HugepagesSeen;
use super::leaving::Leaver;
use super::ledger::Write;
use super::networks::SeenNetworks;
use super::pools::Turn;

/// Names the caller of a request, so that the answer finds its way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplyId(pub u64);

/// Names a piece of work, so that a late result of an earlier one is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkId(pub u64);

/// What may happen to an agent.
#[derive(Debug)]
pub enum Input {
    /// Somebody asks, and has been found allowed to.
    Request {
        /// Where the answer goes.
        reply: ReplyId,
        /// What is asked.
        request: Box<Request>,
    },
    /// A piece of work has ended.
    Done {
        /// Whose.
        job: JobId,
        /// Which.
        work: WorkId,
        /// How.
        outcome: WorkOutcome,
    },
    /// A migration under way reports how far it is.
    Progress {
        /// The job.
        job: JobId,
        /// How far.
        progress: Progress,
    },
    /// libvirt says that something happened to a domain. Only a hint: the core asks to look.
    Domain(DomainEvent),
    /// What a look at one domain showed; `None` when libvirt does not know it.
    Looked {
        /// Which look.
        look: Look,
        /// What is there.
        domain: Option<DomainInfo>,
    },
    /// What a look at a guest's network cards has shown; every look is answered.
    Cards {
        /// The job.
        job: JobId,
        /// Which look.
        look: u64,
        /// The cards; `None` when libvirt could not say.
        cards: Option<Vec<Card>>,
    },
    /// This much is in a one-off job's console log.
    Heard {
        /// The job.
        job: JobId,
        /// Bytes.
        bytes: u64,
    },
    /// A complete list of libvirt's domains: at start and after a lost connection.
    Domains(Vec<DomainInfo>),
    /// A service process has come up or gone down.
    Service {
        /// Its job.
        job: JobId,
        /// What happened.
        news: ServiceNews,
    },
    /// The arbiters were asked which trust document they obey.
    Right(Standing),
    /// What the keeper runs only while both the arbiters in force and the next ones cover it.
    Joint(Joint),
    /// The right to run a job is over, and the keeper has seen its guest dead.
    Lost {
        /// The job.
        job: JobId,
        /// The hold that was lost.
        hold: OfferId,
    },
    /// What there is of networks, and what came of making those that are wanted.
    Networks(Box<SeenNetworks>),
    /// The images on disk have changed.
    Images(BTreeMap<ImageName, ImageFacts>),
    /// What the host has was measured.
    Capacity(Resources),
    /// The huge pages that the host has were counted.
    Hugepages(BTreeMap<PageSize, HugepagesSeen>),
    /// What the volumes of a job in a pool were at some moments, as it is written beside them. Comes before
    /// the end of the work that has taken them.
    Snapshots {
        /// The job.
        job: JobId,
        /// All that there are.
        snapshots: Vec<Snapshot>,
    },
    /// The pools were looked at.
    Pools(BTreeMap<PoolName, PoolFacts>),
    /// The host is called otherwise, or reached elsewhere, than before.
    Placed {
        /// Its name.
        name: String,
        /// Where its agent answers.
        url: String,
    },
    /// Time has passed.
    Tick,
}

/// What the arbiters say of the trust document in force here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// The slots of those that obey it.
    pub obey: BTreeSet<u32>,
    /// Those of them that grant: they have been silent, and know what every host holds.
    pub ready: BTreeSet<u32>,
    /// Its version, when they were asked.
    pub version: u64,
}

/// The holds that a keeper runs only by the cover of both committees of a change of arbiters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Joint {
    /// By which trust document: the keeper may not have heard of a later one.
    pub version: u64,
    /// By which change; `None`: no hold needs both.
    pub change: Option<Digest>,
    /// Which holds.
    pub holds: BTreeSet<OfferId>,
}

/// What may be asked of an agent.
#[derive(Debug, Clone)]
pub enum Request {
    /// Reserve room and sign an offer.
    Offer(OfferRequest),
    /// End an open offer.
    VoidOffer(OfferId),
    /// Take a job.
    Put {
        /// Its id.
        job: JobId,
        /// What and by what right.
        put: PutJob,
    },
    /// Stop a job.
    Stop {
        /// Its id.
        job: JobId,
        /// How.
        stop: StopJob,
    },
    /// Do something to a running guest.
    Act {
        /// Its id.
        job: JobId,
        /// What.
        act: Act,
    },
    /// Refuse to end a VM from now on, or no more.
    Protect {
        /// Its id.
        job: JobId,
        /// Whether it is to be protected.
        is_protected: bool,
    },
    /// Change how a VM stands to others.
    Rank {
        /// Its id.
        job: JobId,
        /// How.
        rank: Rank,
    },
    /// Give a job another size.
    Resize {
        /// Its id.
        job: JobId,
        /// What and by what right.
        resize: ResizeJob,
    },
    /// Take back the size that a task of a run has given it.
    UndoResize {
        /// Its id.
        job: JobId,
        /// The task; without one there is nothing to take back.
        run: Option<RunKey>,
    },
    /// Take a snapshot of a job's disks.
    TakeSnapshot {
        /// Its id.
        job: JobId,
        /// What to call it.
        name: SnapshotName,
        /// What the disks hold just now.
        measured: Measured,
    },
    /// Make a job's disks what they were.
    Revert {
        /// Its id.
        job: JobId,
        /// In which snapshot.
        name: SnapshotName,
        /// Which change of the job that is.
        revert: RevertJob,
    },
    /// Keep a snapshot no longer.
    DeleteSnapshot {
        /// Its id.
        job: JobId,
        /// Which.
        name: SnapshotName,
    },
    /// Keep a snapshot from being deleted while an image is made of it.
    ReadSnapshot {
        /// Its id.
        job: JobId,
        /// Which.
        name: SnapshotName,
        /// Who reads, by a name that nobody else has.
        reader: uuid::Uuid,
    },
    /// Say whether it was there all the time, and that it is read no more. Harmless when it never was.
    EndReading {
        /// Its id.
        job: JobId,
        /// Who has read.
        reader: uuid::Uuid,
    },
    /// Send a job to another host.
    Migrate {
        /// Its id.
        job: JobId,
        /// Where and how.
        migrate: MigrateJob,
        /// The change of the job that the target has made room for; `None`: whichever it is.
        revision: Option<Revision>,
    },
    /// Give up sending it.
    CancelMigration {
        /// Its id.
        job: JobId,
        /// The task that is being undone, when a run asks.
        run: Option<RunKey>,
    },
    /// Believe that the source has let go.
    Handoff {
        /// The job.
        job: JobId,
        /// The source's word.
        handoff: Signed<Handoff>,
    },
    /// Delete an ended job and its volumes.
    Delete {
        /// Its id.
        job: JobId,
        /// The task that is being undone, when a run asks.
        run: Option<RunKey>,
        /// Whether its volumes in shared pools are to go as well.
        shared: bool,
    },
    /// Give an adopted job back, with its guest as alive as it is.
    Release(JobId),
    /// Obey this trust document.
    Trust(Signed<Trust>),
    /// Intend this with the host from now on.
    Intend(Option<HostIntent>),
    /// Have these pools from now on, which were found as they say.
    Pools(PoolsConfig),
    /// Remember so much of what has ended.
    History(HistoryConfig),
    /// Say how much is remembered.
    ShowHistory,
    /// Have this network.
    PutNetwork {
        /// Its name.
        name: NetworkName,
        /// What and which change.
        put: PutNetwork,
    },
    /// Have it no more.
    DeleteNetwork(String),
    /// Say what it is and how.
    ShowNetwork(String),
}

impl Request {
    /// The job whose work it may begin; `None` when it begins none.
    #[must_use]
    pub fn job(&self) -> Option<&JobId> {
        match self {
            Request::Put { job, .. }
            | Request::Stop { job, .. }
            | Request::Act { job, .. }
            | Request::Protect { job, .. }
            | Request::Rank { job, .. }
            | Request::Resize { job, .. }
            | Request::UndoResize { job, .. }
            | Request::TakeSnapshot { job, .. }
            | Request::Revert { job, .. }
            | Request::DeleteSnapshot { job, .. }
            | Request::ReadSnapshot { job, .. }
            | Request::EndReading { job, .. }
            | Request::Migrate { job, .. }
            | Request::CancelMigration { job, .. }
            | Request::Handoff { job, .. }
            | Request::Delete { job, .. }
            | Request::Release(job) => Some(job),
            Request::Offer(_)
            | Request::VoidOffer(_)
            | Request::Trust(_)
            | Request::Intend(_)
            | Request::Pools(_)
            | Request::History(_)
            | Request::ShowHistory
            | Request::PutNetwork { .. }
            | Request::DeleteNetwork(_)
            | Request::ShowNetwork(_) => None,
        }
    }
}

/// A good answer. Refusals are the other kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// An offer was made.
    Offered(OfferReply),
    /// The request was taken and is durable.
    Accepted(Box<Job>),
    /// It was so already; nothing was changed.
    AlreadySo(Box<Job>),
    /// Taken; there is nothing to show.
    Done,
    /// A snapshot may be read.
    Reading {
        /// The VM whose disks have it.
        vm: Box<VmSpec>,
        /// Of which moment it is, in milliseconds since 1970 by the host's clock.
        taken_ms: Option<u64>,
        /// By what right, if they are in a pool.
        turn: Option<Box<Turn>>,
    },
    /// How much is remembered of what has ended.
    History(HistoryConfig),
    /// A network.
    Network {
        /// What it is and how.
        status: Box<NetworkStatus>,
        /// True when something was written for this request.
        is_new: bool,
    },
}

/// What a core wants done.
#[derive(Debug)]
pub enum Effect {
    /// Make this durable before anything else of the same batch is done.
    Persist(Write),
    /// Answer a request.
    Reply(ReplyId, Result<Reply, Refusal>),
    /// Tell all followers.
    Publish(Event),
    /// Do something slow, and say how it went.
    Work {
        /// For which job.
        job: JobId,
        /// Which.
        id: WorkId,
        /// With which domain, when the job is a VM.
        uuid: uuid::Uuid,
        /// What.
        work: Work,
        /// By what right it uses volumes in pools, if the job has any there.
        turn: Option<Box<Turn>>,
        /// On which CPUs of the host the job's guest is to be.
        cpus: Box<CpuPlace>,
    },
    /// Look up a domain and feed [`Input::Looked`] back.
    Look(Look),
    /// Look at a guest's network cards and feed [`Input::Cards`] back, whatever comes of it.
    LookAtCards {
        /// The job.
        job: JobId,
        /// Its domain.
        uuid: uuid::Uuid,
        /// Which look.
        look: u64,
    },
    /// Measure a one-off job's console log and feed [`Input::Heard`] back.
    Listen(JobId),
    /// Keep the networks that [`super::Agent::networks`] lists.
    KeepNetworks,
    /// Ask the arbiters which trust document they obey, and feed [`Input::Right`] back.
    AskRight,
    /// Give the trust document to the services beside this agent.
    TrustChanged(Box<Signed<Trust>>),
    /// Use these pools.
    PoolsChanged(Box<PoolsConfig>),
}

/// A reason to ask libvirt about one domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Which domain.
    pub uuid: uuid::Uuid,
    /// What libvirt said had happened.
    pub hint: Option<Lifecycle>,
    /// True when an earlier look contradicted the ledger, and this one was begun because of that.
    pub is_second: bool,
    /// How often our job had changed when this look was begun; 0 for domains of others. A look that
    /// was overtaken by a change says nothing.
    pub change: u64,
}

impl Look {
    /// A first look, because of an event.
    #[must_use]
    pub fn because(event: &DomainEvent, change: u64) -> Self {
        Self { uuid: event.uuid, hint: Some(event.what), is_second: false, change }
    }
}

/// Slow things. Each may be asked for again after a crash and must then come to the same end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// Make the volumes that are missing, define the domain, forget what was saved of its memory, start it
    /// unless it runs.
    StartVm(VmSpec),
    /// The same, going on from what was saved of its memory.
    RestoreVm(VmSpec),
    /// The same, with a port for its exit code.
    StartOneOff(VmSpec),
    /// Read what a guest that is done has left as its exit code.
    ReadExit,
    /// Shut the guest down, and destroy it when its grace is over.
    StopVm {
        /// How long it may take.
        grace_ms: u64,
    },
    /// Have a running guest run on these CPUs of its host.
    PinVm(VmSpec),
    /// Stop the guest's CPUs.
    PauseVm,
    /// Let them run again.
    ResumeVm,
    /// Write the guest's memory to disk and end its process. Fine when that is so already.
    SaveVm,
    /// Press the guest's reset button.
    ResetVm,
    /// Ask the guest to reboot, and reset it when its grace is over.
    RebootVm {
        /// How long it may take.
        grace_ms: u64,
    },
    /// Let it start like this next, and give a guest that runs what it can have of it at once.
    ResizeVm {
        /// What it is.
        vm: VmSpec,
        /// What of its size is other than its guest has.
        change: Box<SizeChange>,
    },
    /// Ask the guest, if it runs, for what its spec has no more, and remove the files of disks that neither it
    /// nor its definition has.
    TakeOut {
        /// What.
        leaving: Vec<Leaver>,
        /// How long the guest may take.
        patience_ms: u64,
    },
    /// Do something with a snapshot of all disks, whether the guest runs or not.
    SnapshotVm {
        /// What it is.
        vm: VmSpec,
        /// The snapshot.
        name: SnapshotName,
        /// What.
        act: SnapshotAct,
        /// True when it may have been begun before: what is found of it is its own.
        is_again: bool,
    },
    /// Keep the definition of a domain that runs already, and write the job into it.
    AdoptVm,
    /// Give a domain the definition back that it was adopted with.
    ReleaseVm,
    /// Remove whatever is left of the job: domain and volumes, or a service's folder.
    Delete,
    /// Make empty volumes, and say where the source must send.
    PrepareIncoming(VmSpec),
    /// Let the guest that has arrived run.
    TakeOver,
    /// Send the guest away; it arrives paused and runs only after a handoff.
    SendVm {
        /// Where to, and how.
        migrate: Box<MigrateJob>,
        /// Virtual CPUs that its spec pins.
        pinned: Vec<u32>,
    },
    /// Find out how a sending ended that was begun in an earlier life, ending it if need be.
    SettleSend,
    /// Make libvirt give up sending. Ends at once; the sending itself then ends too.
    CancelSend,
    /// Keep a service process running until told to stop.
    StartService(ServiceSpec),
    /// End a service process.
    StopService,
}

impl Work {
    /// Whether it takes a job's volumes in pools for this host.
    #[must_use]
    pub fn takes_volumes(&self) -> bool {
        use Work::{RestoreVm, StartOneOff, StartVm, TakeOver};
        matches!(self, StartVm(_) | RestoreVm(_) | StartOneOff(_) | TakeOver)
    }

    /// Whether it puts a guest on its CPUs. One that goes on from saved memory is asked for once more, when it runs.
    #[must_use]
    pub fn places(&self) -> bool {
        matches!(self, Work::StartVm(_) | Work::StartOneOff(_) | Work::PinVm(_))
    }

    /// Its name, for those who look on.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Work::StartVm(_) => "start_vm",
            Work::RestoreVm(_) => "restore_vm",
            Work::StartOneOff(_) => "start_one_off",
            Work::ReadExit => "read_exit",
            Work::StopVm { .. } => "stop_vm",
            Work::PinVm(_) => "pin_vm",
            Work::PauseVm => "pause_vm",
            Work::ResumeVm => "resume_vm",
            Work::SaveVm => "save_vm",
            Work::ResetVm => "reset_vm",
            Work::RebootVm { .. } => "reboot_vm",
            Work::ResizeVm { .. } => "resize_vm",
            Work::TakeOut { .. } => "take_out",
            Work::SnapshotVm { .. } => "snapshot_vm",
            Work::AdoptVm => "adopt_vm",
            Work::ReleaseVm => "release_vm",
            Work::Delete => "delete",
            Work::PrepareIncoming(_) => "prepare_incoming",
            Work::TakeOver => "take_over",
            Work::SendVm { .. } => "send_vm",
            Work::SettleSend => "settle_send",
            Work::CancelSend => "cancel_send",
            Work::StartService(_) => "start_service",
            Work::StopService => "stop_service",
        }
    }
}

/// What the files of a job's disks take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Measured {
    /// What the disks hold, in bytes: what the files take, and never more than what a guest can have
    /// written.
    pub held_bytes: u64,
    /// What the files take, with what snapshots in them keep.
    pub took_bytes: u64,
}

/// What is done with a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotAct {
    /// All disks get it, of one moment. `Failed`: none has it.
    Take,
    /// All disks become what they were; nobody uses them. `Failed`: they are as before.
    Revert,
    /// No disk has it any more. Fine when that is so already.
    Delete,
}

/// How a piece of work ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkOutcome {
    /// As wanted.
    Done,
    /// A guest is done, with this exit code if it has left one.
    Exited(Option<i32>),
    /// The domain is ours, and this is how it is.
    Adopted(Box<DomainInfo>),
    /// The domain is as it was before it was ours; `None`: there is none any more.
    Released(Option<Box<DomainInfo>>),
    /// The definition has the new size, and this is what the guest has of it.
    Resized {
        /// What is there.
        domain: Box<DomainInfo>,
        /// Disks and cards that it gets at its next start.
        devices: Vec<String>,
        /// What kept the rest.
        left: Vec<String>,
        /// True when the guest takes its time to give memory up.
        is_giving: bool,
    },
    /// What is still there of what was to be taken out, and why.
    TakenOut(Vec<(Leaver, String)>),
    /// A pool has no room, or is not this job's to grow in: no disk has grown, and nothing else has
    /// changed.
    Ungrown(String),
    /// All disks have the snapshot.
    Snapshotted {
        /// Of which moment it is, in milliseconds since 1970 by the host's clock.
        taken_ms: u64,
        /// What the disks hold since.
        measured: Measured,
    },
    /// Ready to receive.
    Listening {
        /// Where this agent takes the guest's streams: `https://IP:PORT`.
        url: String,
    },
    /// A migration ended.
    Sent(MigrationOutcome),
    /// Not as wanted, surely; what is left is what was there before.
    Failed(String),
    /// Nobody can say: it may have had its effect, or may yet have it. Never to be taken for a no.
    Unclear(String),
    /// What was to be worked on is surely not there.
    NotThere,
}

/// How sending a guest ended, by what the source's libvirt shows afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MigrationOutcome {
    /// It is gone from here.
    Gone,
    /// It is still here, as alive as before.
    StillHere {
        /// What libvirt said.
        message: String,
    },
    /// It has ended here, and did not arrive elsewhere.
    Ended,
    /// libvirt can't be asked, or is still at it; it is asked again.
    Unknown {
        /// What came back.
        message: String,
    },
}

/// What became of a service process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceNews {
    /// It answers.
    Up(ServiceEndpoint),
    /// It has ended and will be started again, unless it was told to stop.
    Down {
        /// Its exit code.
        code: i32,
    },
}
