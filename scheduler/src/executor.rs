//! Carries out dispatched tasks: one request or a few, and an answer the run machine understands.
//!
//! Decides what a reply or an error means: done, a definite no, or unclear. It never decides to
//! turn back, and keeps nothing. How requests travel is [`Reach`]'s.

use std::collections::{BTreeMap, BTreeSet};

use planner::Fetch;
use protocol::api::{MigrateJob, OfferReply, OfferRequest, PutJob, ResizeJob, StopJob};
use protocol::budget::Budget;
use protocol::id::{HostId, JobId, OfferId, Revision};
use protocol::image::{FetchImage, FetchState, ImageSource, SourceHost};
use protocol::job::{Job, JobState, Reason, RunKey};
use protocol::refusal::Refusal;
use protocol::resources::Resources;
use protocol::signed::Signed;
use protocol::ticket::{Action, Handoff, Offer, Ticket, TicketError};
use protocol::trust::{Committee, Slot, Trust};
use protocol::vm::SizeChange;

use crate::judge::{
    ended, fetched, has_moved_to, incoming, is_going_to, is_ours, is_over, is_up, progress_words,
    refused, resized, running, sent,
};
use crate::level::{Move, level};
use crate::poll::Poll;
use crate::reach::{JobAsk, Reach, Trouble};
use crate::run::{Answer, No};
use crate::task::{Ask, Dispatch, TaskResult};

/// How long no other offer is asked for after one that was made under an older trust document than the
/// arbiters', or whose quota others have got: on average.
const REST_MS: u64 = 1_000;
/// How long one dispatch of a waiting task watches before it reports how far things are.
const WATCH_MS: u64 = 3_000;
/// How often a waiting task asks the host when the view tells nothing.
const POLL_MS: u64 = 500;

/// How often debits are spread anew for one offer: each time moves some dozen jobs, and an offer that ends
/// meanwhile is asked for again and finds less to move.
const LEVELS_MAX: u32 = 4;

/// What is said of a fetch that its host knows nothing of, until it is asked for again.
const WAITING: &str = "the host does not have it yet";

/// What is taken back; see [`Ask::Discard`].
struct Discarded {
    revision: Revision,
    is_new: bool,
    keeps_running: bool,
}

/// Carries out tasks over a [`Reach`].
#[derive(Debug, Clone)]
pub struct Executor<R>(pub R);

impl<R: Reach> Executor<R> {
    /// Carries out one dispatch.
    pub async fn perform(&self, dispatch: Dispatch) -> Answer {
        let Dispatch { key, job, ask, .. } = dispatch;
        match ask {
            Ask::MakeRoom { job, .. } | Ask::GiveBack { job, .. } => {
                let why = format!("only an engine has {job} moved: it takes a run of its own");
                Answer::Refused(No::Failed(why))
            }
            Ask::Preempt { job, .. } | Ask::StartAgain { job, .. } => {
                let why = format!("only an engine has {job} make room: it takes a run of its own");
                Answer::Refused(No::Failed(why))
            }
            Ask::Wake(host) | Ask::AwaitAwake(host) => {
                let why = format!("only an engine wakes {}", host.short());
                Answer::Refused(No::Failed(why))
            }
            Ask::Drain(host)
            | Ask::Undrain(host)
            | Ask::AwaitEmpty(host)
            | Ask::Sleep(host)
            | Ask::WakeAgain(host) => {
                let why = format!("only an engine puts {} to sleep", host.short());
                Answer::Refused(No::Failed(why))
            }
            Ask::Fetch(host, fetch) => self.fetch(&host, &job, &fetch).await,
            Ask::Offer(host, request) => self.offer(&host, &request).await,
            Ask::VoidOffer(host, id) => self.void_offer(&host, id).await,
            Ask::Grants(offer) => self.grants(&offer).await,
            Ask::Put(host, body) => self.put(&host, &job, body, key).await,
            Ask::Discard { host, revision, is_new, keeps_running } => {
                let put = Discarded { revision, is_new, keeps_running };
                self.discard(&host, &job, put, key).await
            }
            Ask::AwaitRunning(host, revision) => {
                self.watch(&host, &job, |job| running(job, revision)).await
            }
            Ask::Resize(host, body) => self.resize(&host, &job, body, key).await,
            Ask::UndoResize(host) => self.undo_resize(&host, &job, key).await,
            Ask::AwaitResized(host, revision, size) => {
                self.watch(&host, &job, |job| resized(job, revision, &size)).await
            }
            Ask::AwaitIncoming(host) => self.watch(&host, &job, incoming).await,
            Ask::Send(from, body, revision) => self.send_away(&from, &job, body, revision).await,
            Ask::CancelSend { from, to } => self.cancel_send(&from, &to, &job, key).await,
            Ask::AwaitSent { from, to } => self.watch(&from, &job, |job| sent(job, &to)).await,
            Ask::HandOver(to, handoff) => self.hand_over(&to, &job, handoff).await,
            Ask::Stop { host, grace_ms, lets } => {
                let stop = StopJob { grace_ms, run: Some(key), lets };
                self.stop(&host, &job, stop).await
            }
            Ask::AwaitEnded(host) => self.watch(&host, &job, ended).await,
            Ask::Delete(host, shared) => self.delete(&host, &job, key, shared).await,
        }
    }

    // Copying images.

    /// Has the host fetch the image, and watches. Asked again it goes on with what is under way, also
    /// after the host's agent was restarted in the middle.
    async fn fetch(&self, host: &HostId, id: &JobId, fetch: &Fetch) -> Answer {
        let sources = fetch.from.iter().map(|host| SourceHost {
            host: host.clone(),
            urls: self.0.row(host, |row| row.host.urls.clone()).unwrap_or_default(),
        });
        let body = FetchImage {
            from: ImageSource::Hosts(sources.collect()),
            sha256: Some(fetch.facts.sha256),
            bytes_per_second: None,
        };
        let mut asked = self.0.image(host, &fetch.image, Some(body)).await;
        let deadline_ms = self.0.now_ms() + WATCH_MS;
        loop {
            let status = match asked {
                Ok(status) => status,
                // An agent that is too old for it, or has something else under that name: another
                // host may do.
                Err(Trouble::Refused(Refusal::Invalid { message: why })) => {
                    let what = format!("fetch image {}", fetch.image);
                    let no = Refusal::Unsupported { what, why };
                    return self.answer_of(host, id, Trouble::Refused(no)).await;
                }
                Err(trouble) => return self.answer_of(host, id, trouble).await,
            };
            match fetched(&status, fetch) {
                Some(Answer::Refused(No::Host(no, _))) => {
                    return self.answer_of(host, id, Trouble::Refused(no)).await;
                }
                Some(answer) => return answer,
                None => {}
            }
            let left_ms = deadline_ms.saturating_sub(self.0.now_ms());
            if left_ms == 0 {
                let note = status.fetch.as_ref().map(FetchState::to_string);
                return Answer::NotYet { note: note.unwrap_or_else(|| WAITING.to_owned()) };
            }
            self.0.sleep(left_ms.min(POLL_MS)).await;
            asked = self.0.image(host, &fetch.image, None).await;
        }
    }

    // Starting.

    async fn offer(&self, host: &HostId, request: &OfferRequest) -> Answer {
        match self.0.offer(host, request).await {
            Ok(reply) => Answer::Done(TaskResult::Offer { offer: reply.offer }),
            Err(trouble) => self.answer_of(host, &request.job, trouble).await,
        }
    }

    async fn void_offer(&self, host: &HostId, id: OfferId) -> Answer {
        // Whatever it says, an offer that is not redeemed within its term ends by itself.
        let _ = self.0.void_offer(host, id).await;
        Answer::Done(TaskResult::Done)
    }

    /// Has the offer granted. Where the tenant has a limit, arbiters are asked before what they could
    /// book; if that would be enough, and is only where it is of no use, other jobs' debits are spread
    /// anew first.
    async fn grants(&self, offer: &Signed<Offer>) -> Answer {
        let Some(trust) = self.0.trust() else {
            return unclear("no trust document is in force here".to_owned());
        };
        let mut poll = Poll::of(&trust, offer);
        self.ask_rooms(&mut poll, offer, false).await;
        if poll.is_short() {
            self.ask_rooms(&mut poll, offer, true).await;
        }
        for _ in 0..LEVELS_MAX {
            if !poll.is_fragmented() || !self.level(&trust, offer).await {
                break;
            }
            self.ask_rooms(&mut poll, offer, true).await;
        }
        self.ask_grants(&mut poll, offer).await;
        let answer = poll.conclude();
        if matches!(answer, Answer::OfferOver { .. }) {
            // The host is about to obey a later document, or others were faster: what arbiters have
            // booked for this offer is theirs then.
            if let Ok(offer) = offer.open() {
                self.void_offer(&offer.host, offer.id).await;
            }
            self.0.sleep(rest_ms(offer)).await;
        }
        answer
    }

    async fn ask_rooms(&self, poll: &mut Poll<'_>, offer: &Signed<Offer>, is_fresh: bool) {
        let arbiters = poll.rooms_to_ask();
        let Some(offer) = offer.open().ok().filter(|_| !arbiters.is_empty()) else { return };
        let rooms = self.0.tenant_rooms(arbiters, &offer.tenant, &offer.job, is_fresh).await;
        for (slot, room) in rooms {
            poll.take_room(slot, room);
        }
    }

    async fn ask_grants(&self, poll: &mut Poll<'_>, offer: &Signed<Offer>) {
        while let Some((arbiter, debit)) = poll.next_arbiter() {
            let answer = self.0.grant(&arbiter, offer, debit).await;
            poll.take(arbiter.slot, answer);
        }
    }

    /// Spreads the debits of other jobs anew, so that this one's can be booked; false when that is of
    /// no use.
    async fn level(&self, trust: &Trust, offer: &Signed<Offer>) -> bool {
        let Ok(offer) = offer.open() else { return false };
        let committees: Vec<Committee<'_>> = trust.committees(offer.agreed).collect();
        let is_asked = |slot: &Slot| committees.iter().any(|committee| committee.has(slot.slot));
        let mut books = BTreeMap::new();
        for arbiter in trust.members().into_iter().filter(is_asked) {
            let Ok(book) = self.0.tenant_book(&arbiter, &offer.tenant).await else { return false };
            books.insert(arbiter.slot, book);
        }
        let size = trust.asks(&offer.tenant, offer.takes()).or_no_vms();
        let moves = level(&committees, &books, (&offer.job, size));
        let mut has_moved = false;
        for one in moves.into_iter().flatten() {
            has_moved |= self.spread_anew(trust, one).await;
        }
        has_moved
    }

    /// Has a job's host offer it once more in its size, and gives it the ticket with other debits. If
    /// anything is in the way, it stays as it is.
    async fn spread_anew(&self, trust: &Trust, Move { host, job, debits }: Move) -> bool {
        let Ok(Some(row)) = self.read(&host, &job).await else { return false };
        let (revision, spec) = (Revision(row.revision.0 + 1), row.spec.as_ref().clone());
        let budget = spec.as_budget();
        let action = budget.map_or(Action::Resize, |Budget { vms, .. }| Action::Delegate {
            vms,
            away: BTreeSet::new(),
        });
        let (as_it_is, finds_disks) = (spec.clone(), false);
        let request = OfferRequest { job: job.clone(), revision, spec, action, finds_disks };
        let Ok(OfferReply { offer, .. }) = self.0.offer(&host, &request).await else {
            return false;
        };
        let mut poll = Poll::with_debits(trust, &offer, debits);
        self.ask_grants(&mut poll, &offer).await;
        let Answer::Done(TaskResult::Grants { grants }) = poll.conclude() else {
            if let Ok(offer) = offer.open() {
                self.void_offer(&host, offer.id).await;
            }
            return false;
        };
        let (ticket, size) = (Some(Ticket { offer, grants }), SizeChange::default());
        if budget.is_some() {
            let put = PutJob { ticket, must_exist: true, ..PutJob::of(revision, as_it_is) };
            return self.ask(&host, &job, JobAsk::Put(put)).await.is_ok();
        }
        let resize = ResizeJob { revision, size, ticket, run: None };
        self.ask(&host, &job, JobAsk::Resize(resize)).await.is_ok()
    }

    async fn put(&self, host: &HostId, id: &JobId, body: PutJob, key: RunKey) -> Answer {
        let revision = body.revision;
        let Err(trouble) = self.ask(host, id, JobAsk::Put(body)).await else {
            return Answer::Done(TaskResult::Done);
        };
        // An answer may have been lost before: the ledger knows whether this very put is in it.
        let is_in_force = match self.read(host, id).await {
            Ok(Some(job)) => job.revision == revision && is_ours(&job, key),
            Ok(None) | Err(_) => false,
        };
        match trouble {
            _ if is_in_force => Answer::Done(TaskResult::Done),
            Trouble::Refused(Refusal::Ticket { error }) if is_over(&error) => {
                Answer::OfferOver { why: error.to_string() }
            }
            trouble => self.answer_of(host, id, trouble).await,
        }
    }

    /// Ends and deletes what a put of this task has begun, and nothing else.
    async fn discard(&self, host: &HostId, id: &JobId, put: Discarded, key: RunKey) -> Answer {
        let Discarded { revision, is_new, keeps_running } = put;
        match self.read(host, id).await {
            Err(Trouble::Unclear { what, is_ambiguous }) => {
                return Answer::Unclear { what, is_ambiguous };
            }
            Err(Trouble::Refused(no)) => return refused(no),
            Ok(Some(job)) if !(is_ours(&job, key) && job.revision == revision) => {
                return Answer::Done(TaskResult::Done);
            }
            // Another size of a budget is there at once, and is no harm; what is used of one stays.
            Ok(Some(job)) if job.spec.as_budget().is_some() && !is_new => {
                return Answer::Done(TaskResult::Done);
            }
            // It came up while nobody could ask for it.
            Ok(Some(job)) if keeps_running && is_up(&job, revision) => return Answer::TooLate,
            // A guest that has not arrived is not stopped but refused: deleting does that.
            Ok(Some(job)) if job.state == JobState::MigratingIn => {}
            // What was adopted runs on: deleting only gives it back.
            Ok(Some(job)) if is_new && job.spec.adopted().is_some() => {}
            Ok(Some(job)) if !job.state.is_ended() => {
                let stop = StopJob { run: Some(key), ..StopJob::within(0) };
                match self.ask(host, id, JobAsk::Stop(stop)).await {
                    Err(Trouble::Unclear { what, is_ambiguous }) => {
                        return Answer::Unclear { what, is_ambiguous };
                    }
                    Err(Trouble::Refused(Refusal::BudgetInUse { .. })) => return Answer::TooLate,
                    // What it is now is seen below.
                    Ok(()) | Err(Trouble::Refused(_)) => {}
                }
                match self.watch(host, id, ended).await {
                    Answer::Done(_) => {}
                    other => return other,
                }
            }
            Ok(Some(_)) => {}
            Ok(None) if !is_new => return Answer::Done(TaskResult::Done),
            // Deleting what is not there makes a late put find its undo before it.
            Ok(None) => {}
        }
        if is_new {
            self.delete(host, id, key, false).await
        } else {
            Answer::Done(TaskResult::Done)
        }
    }

    // Resizing.

    async fn resize(&self, host: &HostId, id: &JobId, body: ResizeJob, key: RunKey) -> Answer {
        let revision = body.revision;
        let Err(trouble) = self.ask(host, id, JobAsk::Resize(body)).await else {
            return Answer::Done(TaskResult::Done);
        };
        // As with a put, the ledger knows whether this very change is in it.
        let row = self.read(host, id).await.ok().flatten();
        let is_in_force =
            row.as_ref().is_some_and(|job| job.revision == revision && is_ours(job, key));
        match (trouble, row) {
            _ if is_in_force => Answer::Done(TaskResult::Done),
            // It is alive, other than the view has shown.
            (
                Trouble::Refused(Refusal::Ticket { error: TicketError::TicketMissing }),
                Some(job),
            ) => {
                let needed = "it is alive, and to grow takes a ticket".to_owned();
                let no = Refusal::WrongState { job: id.clone(), state: job.state, needed };
                Answer::Refused(No::Host(no, Resources::ZERO))
            }
            (Trouble::Refused(Refusal::Ticket { error }), _) if is_over(&error) => {
                Answer::OfferOver { why: error.to_string() }
            }
            (trouble, _) => self.answer_of(host, id, trouble).await,
        }
    }

    /// Gives a growth back. What was given up stays so: to have it again takes a ticket, and a run that
    /// has made a job smaller goes forward.
    async fn undo_resize(&self, host: &HostId, id: &JobId, key: RunKey) -> Answer {
        match self.ask(host, id, JobAsk::UndoResize(key)).await {
            Ok(()) => Answer::Done(TaskResult::Done),
            Err(Trouble::Unclear { what, is_ambiguous }) => Answer::Unclear { what, is_ambiguous },
            Err(Trouble::Refused(no)) => match no {
                Refusal::StaleClaim { seen, .. } => Answer::ClaimLost { seen },
                Refusal::Ticket { .. }
                | Refusal::NoRoomToGrow { .. }
                | Refusal::NoHugepages { .. }
                | Refusal::NoDedicatedCpus { .. } => Answer::TooLate,
                // It is on its way from one state to another.
                Refusal::WrongState { .. } => unclear(no.to_string()),
                // Not there, or an agent of before there was a resize, which has done none.
                Refusal::NoSuchJob { .. } | Refusal::Invalid { .. } => {
                    Answer::Done(TaskResult::Done)
                }
                no => refused(no),
            },
        }
    }

    // Moving.

    async fn send_away(
        &self,
        from: &HostId,
        id: &JobId,
        body: MigrateJob,
        revision: Option<Revision>,
    ) -> Answer {
        let to = body.to.clone();
        let Err(trouble) = self.ask(from, id, JobAsk::Migrate(body, revision)).await else {
            return Answer::Done(TaskResult::Done);
        };
        // It may be on its way, or gone already, by an earlier request.
        match self.read(from, id).await {
            Ok(Some(job)) if is_going_to(&job, &to) => Answer::Done(TaskResult::Done),
            Ok(_) | Err(_) => self.answer_of(from, id, trouble).await,
        }
    }

    async fn cancel_send(&self, from: &HostId, to: &HostId, id: &JobId, key: RunKey) -> Answer {
        match self.ask(from, id, JobAsk::CancelMigration(key)).await {
            Err(Trouble::Unclear { what, is_ambiguous }) => {
                return Answer::Unclear { what, is_ambiguous };
            }
            Err(Trouble::Refused(Refusal::StaleClaim { seen, .. })) => {
                return Answer::ClaimLost { seen };
            }
            // What it is now is seen below.
            Ok(()) | Err(Trouble::Refused(_)) => {}
        }
        let stays = |job: Option<&Job>| match job {
            Some(job) if has_moved_to(job, to) => Some(Answer::TooLate),
            Some(job) if job.state == JobState::MigratingOut => None,
            Some(_) | None => Some(Answer::Done(TaskResult::Done)),
        };
        self.watch(from, id, stays).await
    }

    async fn hand_over(&self, to: &HostId, id: &JobId, handoff: Option<Signed<Handoff>>) -> Answer {
        // Without holds there is nothing to hand over: the target runs it when it has it all.
        let Some(handoff) = handoff else { return Answer::Done(TaskResult::Done) };
        let hold = handoff.open().ok().map(|handoff| handoff.to_hold);
        let Err(trouble) = self.ask(to, id, JobAsk::HandOver(handoff)).await else {
            return Answer::Done(TaskResult::Done);
        };
        match (self.read(to, id).await, trouble) {
            (Ok(Some(job)), _) if job.state == JobState::Running => Answer::Done(TaskResult::Done),
            (Ok(Some(job)), Trouble::Refused(_)) if is_taken(&job, hold) => {
                Answer::Refused(No::Failed(format!(
                    "{} was said to be off while {id} was on its way there, so it ended when it \
                     came; `ostler start {id}`, unless a controller has started it already",
                    to.short()
                )))
            }
            // The guest is nowhere else: a no is not the end of asking.
            (_, Trouble::Refused(no)) => unclear(no.to_string()),
            (_, Trouble::Unclear { what, is_ambiguous }) => Answer::Unclear { what, is_ambiguous },
        }
    }

    // Ending.

    async fn stop(&self, host: &HostId, id: &JobId, stop: StopJob) -> Answer {
        match self.ask(host, id, JobAsk::Stop(stop)).await {
            Ok(()) => Answer::Done(TaskResult::Done),
            Err(trouble) => self.answer_of(host, id, trouble).await,
        }
    }

    async fn delete(&self, host: &HostId, id: &JobId, key: RunKey, shared: bool) -> Answer {
        match self.0.delete(host, id, key, shared).await {
            Err(Trouble::Refused(Refusal::NoSuchJob { .. })) => {
                self.0.hear(host, id, None);
                Answer::Done(TaskResult::Done)
            }
            // Volumes take their time; the row goes last.
            Ok(()) => {
                let gone =
                    |job: Option<&Job>| job.is_none().then_some(Answer::Done(TaskResult::Done));
                self.watch(host, id, gone).await
            }
            Err(trouble) => self.answer_of(host, id, trouble).await,
        }
    }

    // Asking and watching.

    /// Waits until the host's row satisfies `judge`, woken by the view and asking now and then.
    async fn watch(
        &self,
        host: &HostId,
        id: &JobId,
        judge: impl Fn(Option<&Job>) -> Option<Answer>,
    ) -> Answer {
        let deadline_ms = self.0.now_ms() + WATCH_MS;
        loop {
            let job = match self.read(host, id).await {
                Ok(job) => job,
                Err(Trouble::Refused(no)) => return refused(no),
                Err(Trouble::Unclear { what, .. }) => return unclear(what),
            };
            if let Some(answer) = judge(job.as_ref()) {
                return answer;
            }
            let left_ms = deadline_ms.saturating_sub(self.0.now_ms());
            if left_ms == 0 {
                return Answer::NotYet { note: progress_words(job.as_ref()) };
            }
            self.0.change(host, id, left_ms.min(POLL_MS)).await;
        }
    }

    /// A host's row of a job; `None` when it has none.
    async fn read(&self, host: &HostId, id: &JobId) -> Result<Option<Job>, Trouble> {
        let row = match self.0.job(host, id, JobAsk::Read).await {
            Ok(job) => Some(job),
            Err(Trouble::Refused(Refusal::NoSuchJob { .. })) => None,
            Err(trouble) => return Err(trouble),
        };
        self.0.hear(host, id, row.clone());
        Ok(row)
    }

    /// Asks something of a job, and keeps what the host says it is then.
    async fn ask(&self, host: &HostId, id: &JobId, ask: JobAsk) -> Result<(), Trouble> {
        let job = self.0.job(host, id, ask).await?;
        self.0.hear(host, id, Some(job));
        Ok(())
    }

    /// Trouble as the run machine understands it; a no that shows our picture to be old is
    /// followed by a look.
    async fn answer_of(&self, host: &HostId, id: &JobId, trouble: Trouble) -> Answer {
        match trouble {
            Trouble::Unclear { what, is_ambiguous } => Answer::Unclear { what, is_ambiguous },
            Trouble::Refused(Refusal::StaleClaim { seen, .. }) => Answer::ClaimLost { seen },
            Trouble::Refused(no) => {
                let is_picture_old = matches!(
                    no,
                    Refusal::RevisionConflict { .. }
                        | Refusal::WrongState { .. }
                        | Refusal::NoSuchJob { .. }
                );
                if is_picture_old {
                    let _ = self.read(host, id).await;
                }
                self.0.hear_no(host, &no);
                let allocation = self.0.row(host, |row| row.host.allocation);
                Answer::Refused(No::Host(no, allocation.unwrap_or_default()))
            }
        }
    }
}

/// Whether the job has lost that hold by an operator's word: what was to run under it never will.
fn is_taken(job: &Job, hold: Option<OfferId>) -> bool {
    matches!(&job.reason, Some(Reason::Fenced { lost, .. }) if Some(*lost) == hold)
}

fn unclear(what: String) -> Answer {
    Answer::Unclear { what, is_ambiguous: false }
}

/// Between half and one and a half times as long as others rest, who have other offers: rivals that
/// rested alike would meet again.
fn rest_ms(offer: &Signed<Offer>) -> u64 {
    let digest = offer.digest().to_string();
    let part = digest.get(..2).and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(128);
    REST_MS / 2 + REST_MS * part / 256
}
