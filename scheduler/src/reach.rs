//! How tasks reach hosts and arbiters, and what they know of the cluster while they do.
//!
//! What is asked and in which order is [`Executor`](crate::Executor)'s; this is the seam below it, so
//! that the same tasks run over the network ([`Network`](crate::Network)) and over a simulated one.

use std::sync::Arc;

use protocol::amounts::Amounts;
use protocol::api::{
    MigrateJob, OfferReply, OfferRequest, PutJob, ResizeJob, StopJob, TenantBook, TenantRoom,
};
use protocol::id::{HostId, ImageName, JobId, OfferId, Revision, TenantId};
use protocol::image::{FetchImage, ImageStatus};
use protocol::job::{Job, RunKey};
use protocol::refusal::Refusal;
use protocol::signed::Signed;
use protocol::ticket::{Answer, Handoff, Offer};
use protocol::trust::{Slot, Trust};
use protocol::view::HostRow;

use crate::poll::NoRoom;

/// Reaches hosts and arbiters. Every call has a deadline of its own; none is repeated.
pub trait Reach {
    /// Asks a host about a job; it answers with the job as it is then.
    fn job(
        &self,
        host: &HostId,
        job: &JobId,
        ask: JobAsk,
    ) -> impl Future<Output = Result<Job, Trouble>>;

    /// Asks a host to delete an ended job, and with `shared` its volumes in shared pools too. The job's
    /// row goes when all is deleted.
    fn delete(
        &self,
        host: &HostId,
        job: &JobId,
        key: RunKey,
        shared: bool,
    ) -> impl Future<Output = Result<(), Trouble>>;

    /// Asks a host for an offer.
    fn offer(
        &self,
        host: &HostId,
        request: &OfferRequest,
    ) -> impl Future<Output = Result<OfferReply, Trouble>>;

    /// Gives an offer back.
    fn void_offer(
        &self,
        host: &HostId,
        offer: OfferId,
    ) -> impl Future<Output = Result<(), Trouble>>;

    /// Asks a host how it stands with an image, and has it fetch the image when told how.
    fn image(
        &self,
        host: &HostId,
        image: &ImageName,
        fetch: Option<FetchImage>,
    ) -> impl Future<Output = Result<ImageStatus, Trouble>>;

    /// Shows an offer to an arbiter, and asks it to book so much, or what the offer says; an error says in
    /// words why there is no answer.
    fn grant(
        &self,
        arbiter: &Slot,
        offer: &Signed<Offer>,
        debit: Option<Amounts>,
    ) -> impl Future<Output = Result<Answer, String>>;

    /// Asks arbiters, all at once, what they could book for a job; with `is_fresh` they ask hosts before.
    fn tenant_rooms(
        &self,
        arbiters: Vec<Slot>,
        tenant: &TenantId,
        job: &JobId,
        is_fresh: bool,
    ) -> impl Future<Output = Vec<(u32, Result<TenantRoom, NoRoom>)>>;

    /// Asks an arbiter what it has booked for a tenant's jobs.
    fn tenant_book(
        &self,
        arbiter: &Slot,
        tenant: &TenantId,
    ) -> impl Future<Output = Result<TenantBook, String>>;

    /// The trust document in force here.
    fn trust(&self) -> Option<Arc<Trust>>;

    /// What the view has of a host.
    fn row<T>(&self, host: &HostId, read: impl FnOnce(&HostRow) -> T) -> Option<T>;

    /// Keeps what a host has said of a job for the next plan.
    fn hear(&self, host: &HostId, job: &JobId, row: Option<Job>);

    /// Keeps what a host has said of its room in a no.
    fn hear_no(&self, host: &HostId, no: &Refusal);

    /// A clock that never goes back, in milliseconds.
    fn now_ms(&self) -> u64;

    /// Waits.
    fn sleep(&self, ms: u64) -> impl Future<Output = ()>;

    /// Waits so long, or until the view shows the job on the host to be other than it does now.
    fn change(&self, host: &HostId, job: &JobId, ms: u64) -> impl Future<Output = ()>;
}

/// What a host is asked about a job. Each may be asked again: what is so already stays so.
#[derive(Debug, Clone)]
pub enum JobAsk {
    /// How is it?
    Read,
    /// Take it, in this revision.
    Put(PutJob),
    /// Stop it.
    Stop(StopJob),
    /// Give it another size.
    Resize(ResizeJob),
    /// Give a growth of this task back.
    UndoResize(RunKey),
    /// Send it to another host, which has made room for this change of it.
    Migrate(MigrateJob, Option<Revision>),
    /// Stop sending it.
    CancelMigration(RunKey),
    /// The source has let go: here is its word.
    HandOver(Signed<Handoff>),
}

/// How a call to a host ended, short of a good reply.
#[derive(Debug, Clone)]
pub enum Trouble {
    /// The host has said no.
    Refused(Refusal),
    /// There is no answer to go by.
    Unclear {
        /// What happened, for people.
        what: String,
        /// The request may have had its effect.
        is_ambiguous: bool,
    },
}

impl From<Refusal> for Trouble {
    /// A host that is busy has not said no: the same request will work later.
    fn from(no: Refusal) -> Self {
        match no {
            Refusal::Busy { .. } => Self::Unclear { what: no.to_string(), is_ambiguous: false },
            no => Self::Refused(no),
        }
    }
}
