//! What crosses the simulated network: the same requests and answers as the HTTP interfaces, as
//! values instead of text.

use arbiter::statement::OpenOffers;
use host_agent::core::{Reply, Request};
use protocol::amounts::Amounts;
use protocol::api::{TenantBook, TenantRoom};
use protocol::event::Frame;
use protocol::host::Inventory;
use protocol::id::{Cursor, JobId, TenantId};
use protocol::job::Job;
use protocol::refusal::Refusal;
use protocol::signed::Signed;
use protocol::ticket::{Answer, Offer};
use protocol::trust::Ready;

use super::tasks::CallId;

/// A machine, and the one process of ours on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub usize);

/// A request.
#[derive(Debug, Clone)]
pub enum Ask {
    /// Anything that an agent's core answers.
    Agent(Request),
    /// `GET /v1/jobs/{id}`.
    Job(JobId),
    /// `GET /v1/offers`.
    OpenOffers,
    /// `GET /v1/inventory`.
    Inventory,
    /// `POST /v1/grants`: with how much it is asked to book.
    Grants(Signed<Offer>, Option<Amounts>),
    /// `GET /v1/tenants/{tenant}/jobs/{job}`: what it could book.
    TenantRoom {
        /// The tenant.
        tenant: TenantId,
        /// The job.
        job: JobId,
        /// Whether hosts are read first.
        is_fresh: bool,
    },
    /// `GET /v1/tenants/{tenant}`: what it has booked.
    TenantBook(TenantId),
    /// `GET /v1/health`.
    Health,
    /// `GET /v1/handover`.
    Handover,
    /// `GET /v1/events`: an event stream, from this cursor if it can be resumed.
    Subscribe {
        /// The stream's number.
        conn: u64,
        /// Where the follower stands.
        from: Option<Cursor>,
    },
}

/// An answer.
#[derive(Debug, Clone)]
pub enum Told {
    /// An agent's core's.
    Agent(Result<Reply, Refusal>),
    /// A job, or that there is none.
    Job(Result<Job, Refusal>),
    /// Open offers.
    OpenOffers(OpenOffers),
    /// Everything of one host.
    Inventory(Box<Inventory>),
    /// A grant or a denial.
    Answer(Answer),
    /// What an arbiter could book for a job.
    TenantRoom(TenantRoom),
    /// What it has booked for a tenant's jobs.
    TenantBook(TenantBook),
    /// Of no use: the arbiter is no member yet.
    NotMember,
    /// Alive.
    Health {
        /// The trust document that it obeys.
        trust_version: Option<u64>,
        /// Whether it waits for nothing.
        is_ready: bool,
    },
    /// An arbiter's word that a change may be completed, if it gives it.
    Handover(Option<Signed<Ready>>),
}

/// Where an answer goes.
#[derive(Debug, Clone, Copy)]
pub struct Back {
    /// The process that asks.
    pub node: NodeId,
    /// Its life.
    pub life: u32,
    /// Its question; `None` for a copy of the request whose answer goes nowhere.
    pub call: Option<CallId>,
}

/// Why a call brought no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallTrouble {
    /// Nothing was sent.
    NotSent,
    /// It may have had its effect.
    Ambiguous,
}

/// One item of an event stream.
#[derive(Debug, Clone)]
pub enum StreamItem {
    /// The stream is open.
    Opened,
    /// A sign of life, asked for.
    Pong,
    /// A frame.
    Frame(Frame),
}

impl Ask {
    /// For the trace and coverage.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Ask::Agent(request) => request_name(request),
            Ask::Job(_) => "get-job",
            Ask::OpenOffers => "get-offers",
            Ask::Inventory => "get-inventory",
            Ask::Grants(..) => "ask-grant",
            Ask::TenantRoom { .. } => "get-tenant-room",
            Ask::TenantBook(_) => "get-tenant-book",
            Ask::Health => "get-health",
            Ask::Handover => "get-handover",
            Ask::Subscribe { .. } => "subscribe",
        }
    }
}

/// For the trace and coverage.
#[must_use]
pub fn request_name(request: &Request) -> &'static str {
    match request {
        Request::Offer(_) => "ask-offer",
        Request::VoidOffer(_) => "void-offer",
        Request::Put { .. } => "put",
        Request::Stop { .. } => "stop",
        Request::Act { .. } => "act",
        Request::Protect { .. } => "protect",
        Request::Rank { .. } => "rank",
        Request::Resize { .. } => "resize",
        Request::UndoResize { .. } => "undo-resize",
        Request::TakeSnapshot { .. }
        | Request::Revert { .. }
        | Request::DeleteSnapshot { .. }
        | Request::ReadSnapshot { .. }
        | Request::EndReading { .. } => "snapshot",
        Request::Migrate { .. } => "migrate",
        Request::CancelMigration { .. } => "cancel-migration",
        Request::Handoff { .. } => "handoff",
        Request::Delete { .. } => "delete",
        Request::Release(_) => "release",
        Request::Trust(_) => "trust",
        Request::Intend(_) => "intend",
        Request::Pools(_) => "pools",
        Request::History(_) | Request::ShowHistory => "history",
        Request::PutNetwork { .. } | Request::DeleteNetwork(_) | Request::ShowNetwork(_) => {
            "network"
        }
    }
}
