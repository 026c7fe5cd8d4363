//! Carries out dispatched tasks: one request or a few, and an answer the run machine understands.
//!
//! Decides what a reply or an error means: done, a definite no, or unclear. It never decides to
//! turn back, and keeps nothing but what a run needs to go on.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use planner::Fetch;
use protocol::api::{MigrateJob, OfferReply, OfferRequest, PutHandoff, PutJob, ResizeJob, StopJob};
use protocol::id::{HostId, JobId, OfferId, Revision};
use protocol::image::{FetchImage, FetchState, FetchTrouble, ImageSource, ImageStatus, SourceHost};
use protocol::job::{Job, JobState, Migration, Reason, ResizeStage, RunKey};
use protocol::refusal::Refusal;
use protocol::resources::Resources;
use protocol::signed::Signed;
use protocol::ticket::{
    Action, Answer as ArbiterAnswer, DenialReason, Handoff, Offer, TicketError,
};
use protocol::trust::Trust;
use protocol::vm::SizeChange;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use transport::client::Patience;
use transport::{CallError, Client, Clock, Endpoint, Method, Reply};

use crate::follow::Picture;
use crate::knowledge::Knowledge;
use crate::poll::Poll;
use crate::run::{Answer, No};
use crate::task::{Ask, Dispatch, TaskResult};

/// A host answers within this, or is asked again: an accepted PUT costs it one fsync.
const HOST_PATIENCE: Patience =
    Patience { connect: Duration::from_secs(2), call: Duration::from_secs(10) };
/// An offer lasts 9 s, so arbiters that do not answer at once are passed by.
const ARBITER_PATIENCE: Patience =
    Patience { connect: Duration::from_secs(1), call: Duration::from_secs(3) };
/// How long an offer is not asked for again that was made under an older trust document than the
/// arbiters'.
const TRUST_REST: Duration = Duration::from_secs(1);
/// How long one dispatch of a waiting task watches before it reports how far things are.
const WATCH: Duration = Duration::from_secs(3);
/// How often a waiting task asks the host when the view tells nothing.
const POLL: Duration = Duration::from_millis(500);

/// Everything dispatched tasks need.
#[derive(Debug, Clone)]
pub struct Executor {
    /// Asks.
    pub client: Client,
    /// For the age of what hosts say.
    pub clock: Clock,
    /// Where hosts are, and what they publish.
    pub picture: watch::Receiver<Arc<Picture>>,
    /// Who the arbiters are.
    pub trust: watch::Receiver<Option<Arc<Trust>>>,
    /// What hosts say is kept here for the next plan.
    pub knowledge: Arc<Mutex<Knowledge>>,
}

/// How a call to a host ended, short of a good reply.
enum Trouble {
    Refused(Refusal),
    Unclear { what: String, is_ambiguous: bool },
}

impl Executor {
    /// Carries out one dispatch.
    pub async fn perform(&self, dispatch: Dispatch) -> Answer {
        let Dispatch { key, job, ask, .. } = dispatch;
        match ask {
            Ask::Fetch(host, fetch) => self.fetch(&host, &job, &fetch).await,
            Ask::Offer(host, request) => self.offer(&host, &request).await,
            Ask::VoidOffer(host, id) => self.void_offer(&host, id).await,
            Ask::Grants(offer) => self.grants(&offer).await,
            Ask::Put(host, body) => self.put(&host, &job, &body, key).await,
            Ask::Discard { host, revision, is_new } => {
                self.discard(&host, &job, revision, is_new, key).await
            }
            Ask::AwaitRunning(host, revision) => {
                self.watch(&host, &job, |job| running(job, revision)).await
            }
            Ask::Resize(host, body) => self.resize(&host, &job, &body, key).await,
            Ask::UndoResize(host) => self.undo_resize(&host, &job, key).await,
            Ask::AwaitResized(host, revision, size) => {
                self.watch(&host, &job, |job| resized(job, revision, &size)).await
            }
            Ask::AwaitIncoming(host) => self.watch(&host, &job, incoming).await,
            Ask::Send(from, body, revision) => self.send_away(&from, &job, &body, revision).await,
            Ask::CancelSend { from, to } => self.cancel_send(&from, &to, &job, key).await,
            Ask::AwaitSent { from, to } => self.watch(&from, &job, |job| sent(job, &to)).await,
            Ask::HandOver(to, handoff) => self.hand_over(&to, &job, handoff).await,
            Ask::Stop(host, grace_ms) => self.stop(&host, &job, grace_ms, key).await,
            Ask::AwaitEnded(host) => self.watch(&host, &job, ended).await,
            Ask::Delete(host, shared) => self.delete(&host, &job, key, shared).await,
        }
    }

    // Copying images.

    /// Has the host fetch the image, and watches. Asked again it goes on with what is under way, also
    /// after the host's agent was restarted in the middle.
    async fn fetch(&self, host: &HostId, id: &JobId, fetch: &Fetch) -> Answer {
        let urls = |host: &HostId| {
            let picture = self.picture.borrow();
            picture.view.host(host).map(|row| row.host.urls.clone()).unwrap_or_default()
        };
        let sources =
            fetch.from.iter().map(|host| SourceHost { host: host.clone(), urls: urls(host) });
        let body = FetchImage {
            from: ImageSource::Hosts(sources.collect()),
            sha256: Some(fetch.facts.sha256),
            bytes_per_second: None,
        };
        let path = format!("/v1/images/{}", fetch.image);
        let mut asked =
            self.call::<_, ImageStatus>(Method::POST, host, &format!("{path}/fetch"), &body).await;
        let deadline = Instant::now() + WATCH;
        loop {
            let status = match asked {
                Ok(reply) => reply.body,
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
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                let note =
                    status.fetch.as_ref().map_or_else(|| WAITING.to_owned(), ToString::to_string);
                return Answer::NotYet { note };
            };
            sleep(left.min(POLL)).await;
            asked = self.call(Method::GET, host, &path, &()).await;
        }
    }

    // Starting.

    async fn offer(&self, host: &HostId, request: &OfferRequest) -> Answer {
        match self.call::<_, OfferReply>(Method::POST, host, "/v1/offers", request).await {
            Ok(reply) => Answer::Done(TaskResult::Offer { offer: reply.body.offer }),
            Err(trouble) => self.answer_of(host, &request.job, trouble).await,
        }
    }

    async fn void_offer(&self, host: &HostId, id: OfferId) -> Answer {
        let path = format!("/v1/offers/{}/{}", id.epoch, id.num);
        match self.call::<_, serde::de::IgnoredAny>(Method::DELETE, host, &path, &()).await {
            // Whatever it says, an offer that is not redeemed within its term ends by itself.
            Ok(_) | Err(Trouble::Refused(_)) => Answer::Done(TaskResult::Done),
            Err(Trouble::Unclear { .. }) => Answer::Done(TaskResult::Done),
        }
    }

    /// Asks the arbiters in slot order, the first reachable one alone first: of two rivals for a
    /// job only one gets past it, so that they do not split the rest between them.
    async fn grants(&self, offer: &Signed<Offer>) -> Answer {
        let Some(trust) = self.trust.borrow().clone() else {
            return unclear("no trust document is in force here".to_owned());
        };
        let client = self.client.with_patience(ARBITER_PATIENCE);
        let mut poll = Poll::of(&trust, offer);
        while let Some(arbiter) = poll.next_arbiter() {
            let endpoint = Endpoint::of_key(arbiter.url.clone(), arbiter.key);
            let answer = client.send(Method::POST, &endpoint, "/v1/grants", offer).await;
            let answer = answer.map(|Reply { body, .. }: Reply<ArbiterAnswer>| body);
            poll.take(arbiter.slot, answer.map_err(|error| full(&error)));
        }
        let answer = poll.conclude();
        if matches!(answer, Answer::OfferOver { .. }) {
            // The host is about to obey a later document, too.
            sleep(TRUST_REST).await;
        }
        answer
    }

    async fn put(&self, host: &HostId, id: &JobId, body: &PutJob, key: RunKey) -> Answer {
        let path = format!("/v1/jobs/{id}");
        let trouble = match self.call::<_, Job>(Method::PUT, host, &path, body).await {
            Ok(reply) => {
                self.hear(host, id, Some(reply.body));
                return Answer::Done(TaskResult::Done);
            }
            Err(trouble) => trouble,
        };
        // An answer may have been lost before: the ledger knows whether this very put is in it.
        let is_in_force = match self.read(host, id).await {
            Ok(Some(job)) => job.revision == body.revision && is_ours(&job, key),
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
    async fn discard(
        &self,
        host: &HostId,
        id: &JobId,
        revision: Revision,
        is_new: bool,
        key: RunKey,
    ) -> Answer {
        match self.read(host, id).await {
            Err(Trouble::Unclear { what, is_ambiguous }) => {
                return Answer::Unclear { what, is_ambiguous };
            }
            Err(Trouble::Refused(no)) => return refused(no),
            Ok(Some(job)) if !(is_ours(&job, key) && job.revision == revision) => {
                return Answer::Done(TaskResult::Done);
            }
            // A guest that has not arrived is not stopped but refused: deleting does that.
            Ok(Some(job)) if job.state == JobState::MigratingIn => {}
            // What was adopted runs on: deleting only gives it back.
            Ok(Some(job)) if is_new && job.spec.adopted().is_some() => {}
            Ok(Some(job)) if !job.state.is_ended() => {
                let body = StopJob { grace_ms: 0, run: Some(key) };
                let path = format!("/v1/jobs/{id}/stop");
                match self.call::<_, Job>(Method::POST, host, &path, &body).await {
                    Err(Trouble::Unclear { what, is_ambiguous }) => {
                        return Answer::Unclear { what, is_ambiguous };
                    }
                    // What it is now is seen below.
                    Ok(_) | Err(Trouble::Refused(_)) => {}
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

    async fn resize(&self, host: &HostId, id: &JobId, body: &ResizeJob, key: RunKey) -> Answer {
        let path = format!("/v1/jobs/{id}/resize");
        let trouble = match self.call::<_, Job>(Method::POST, host, &path, body).await {
            Ok(reply) => {
                self.hear(host, id, Some(reply.body));
                return Answer::Done(TaskResult::Done);
            }
            Err(trouble) => trouble,
        };
        // As with a put, the ledger knows whether this very change is in it.
        let row = self.read(host, id).await.ok().flatten();
        let is_in_force =
            row.as_ref().is_some_and(|job| job.revision == body.revision && is_ours(job, key));
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
        let RunKey { run, task, claim } = key;
        let path = format!("/v1/jobs/{id}/resize/undo?run={run}&task={task}&claim={claim}");
        match self.call::<_, Job>(Method::POST, host, &path, &()).await {
            Ok(reply) => {
                self.hear(host, id, Some(reply.body));
                Answer::Done(TaskResult::Done)
            }
            Err(Trouble::Unclear { what, is_ambiguous }) => Answer::Unclear { what, is_ambiguous },
            Err(Trouble::Refused(no)) => match no {
                Refusal::StaleClaim { seen, .. } => Answer::ClaimLost { seen },
                Refusal::Ticket { .. } | Refusal::NoRoomToGrow { .. } => Answer::TooLate,
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
        body: &MigrateJob,
        revision: Option<Revision>,
    ) -> Answer {
        let planned = revision.map(|revision| format!("?revision={revision}"));
        let path = format!("/v1/jobs/{id}/migrate{}", planned.unwrap_or_default());
        match self.call::<_, Job>(Method::POST, from, &path, body).await {
            Ok(reply) => {
                self.hear(from, id, Some(reply.body));
                Answer::Done(TaskResult::Done)
            }
            Err(trouble) => {
                // It may be on its way, or gone already, by an earlier request.
                let is_under_way = match self.read(from, id).await {
                    Ok(Some(job)) => is_going_to(&job, &body.to),
                    Ok(None) | Err(_) => false,
                };
                if is_under_way {
                    return Answer::Done(TaskResult::Done);
                }
                self.answer_of(from, id, trouble).await
            }
        }
    }

    async fn cancel_send(&self, from: &HostId, to: &HostId, id: &JobId, key: RunKey) -> Answer {
        let RunKey { run, task, claim } = key;
        let path = format!("/v1/jobs/{id}/migrate/cancel?run={run}&task={task}&claim={claim}");
        match self.call::<_, Job>(Method::POST, from, &path, &()).await {
            Err(Trouble::Unclear { what, is_ambiguous }) => {
                return Answer::Unclear { what, is_ambiguous };
            }
            Err(Trouble::Refused(Refusal::StaleClaim { seen, .. })) => {
                return Answer::ClaimLost { seen };
            }
            // What it is now is seen below.
            Ok(_) | Err(Trouble::Refused(_)) => {}
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
        let path = format!("/v1/jobs/{id}/handoff");
        let body = PutHandoff { handoff };
        match self.call::<_, Job>(Method::POST, to, &path, &body).await {
            Ok(reply) => {
                self.hear(to, id, Some(reply.body));
                Answer::Done(TaskResult::Done)
            }
            Err(trouble) => match self.read(to, id).await {
                Ok(Some(job)) if job.state == JobState::Running => Answer::Done(TaskResult::Done),
                // The guest is nowhere else: a no is not the end of asking.
                _ => match trouble {
                    Trouble::Refused(no) => unclear(no.to_string()),
                    Trouble::Unclear { what, is_ambiguous } => {
                        Answer::Unclear { what, is_ambiguous }
                    }
                },
            },
        }
    }

    // Ending.

    async fn stop(&self, host: &HostId, id: &JobId, grace_ms: u64, key: RunKey) -> Answer {
        let path = format!("/v1/jobs/{id}/stop");
        let body = StopJob { grace_ms, run: Some(key) };
        match self.call::<_, Job>(Method::POST, host, &path, &body).await {
            Ok(reply) => {
                self.hear(host, id, Some(reply.body));
                Answer::Done(TaskResult::Done)
            }
            Err(trouble) => self.answer_of(host, id, trouble).await,
        }
    }

    async fn delete(&self, host: &HostId, id: &JobId, key: RunKey, shared: bool) -> Answer {
        let RunKey { run, task, claim } = key;
        // Agents that know no pools are not told of them.
        let also = if shared { "&shared=true" } else { "" };
        let path = format!("/v1/jobs/{id}?run={run}&task={task}&claim={claim}{also}");
        match self.call::<_, serde::de::IgnoredAny>(Method::DELETE, host, &path, &()).await {
            Err(Trouble::Refused(Refusal::NoSuchJob { .. })) => {
                self.hear(host, id, None);
                Answer::Done(TaskResult::Done)
            }
            // Volumes take their time; the row goes last.
            Ok(_) => {
                let gone =
                    |job: Option<&Job>| job.is_none().then_some(Answer::Done(TaskResult::Done));
                self.watch(host, id, gone).await
            }
            Err(trouble) => self.answer_of(host, id, trouble).await,
        }
    }

    // Watching.

    /// Waits until the host's row satisfies `judge`, woken by the view and asking now and then.
    async fn watch(
        &self,
        host: &HostId,
        id: &JobId,
        judge: impl Fn(Option<&Job>) -> Option<Answer>,
    ) -> Answer {
        let deadline = Instant::now() + WATCH;
        let mut picture = self.picture.clone();
        loop {
            let trouble = match self.read(host, id).await {
                Ok(job) => match judge(job.as_ref()) {
                    Some(answer) => return answer,
                    None if Instant::now() >= deadline => {
                        return Answer::NotYet { note: progress_words(job.as_ref()) };
                    }
                    None => None,
                },
                Err(trouble) => Some(trouble),
            };
            if let Some(trouble) = trouble {
                return match trouble {
                    Trouble::Refused(no) => refused(no),
                    Trouble::Unclear { what, .. } => unclear(what),
                };
            }
            let next = (Instant::now() + POLL).min(deadline);
            let shown = |picture: &Picture| {
                picture.view.host(host).and_then(|row| row.jobs.get(id)).cloned()
            };
            let before = shown(&picture.borrow_and_update());
            let changed = picture.wait_for(|picture| shown(picture) != before);
            let _ = timeout_at(next, changed).await;
        }
    }

    /// A host's row of a job; `None` when it has none.
    async fn read(&self, host: &HostId, id: &JobId) -> Result<Option<Job>, Trouble> {
        let path = format!("/v1/jobs/{id}");
        match self.call::<_, Job>(Method::GET, host, &path, &()).await {
            Ok(reply) => {
                self.hear(host, id, Some(reply.body.clone()));
                Ok(Some(reply.body))
            }
            Err(Trouble::Refused(Refusal::NoSuchJob { .. })) => {
                self.hear(host, id, None);
                Ok(None)
            }
            Err(trouble) => Err(trouble),
        }
    }

    // Calling.

    /// One request to a host, by its addresses in turn.
    async fn call<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        method: Method,
        host: &HostId,
        path: &str,
        body: &B,
    ) -> Result<Reply<T>, Trouble> {
        let urls = {
            let picture = self.picture.borrow();
            picture.view.host(host).map(|row| row.host.urls.clone()).unwrap_or_default()
        };
        let client = self.client.with_patience(HOST_PATIENCE);
        let mut what = format!("{} is not in the view", host.short());
        for url in urls {
            let endpoint = Endpoint::of_host(url, host.clone());
            let error = match client.send(method.clone(), &endpoint, path, body).await {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            match &error {
                // Nothing left this machine: another address may do.
                CallError::NotSent { .. } => what = full(&error),
                CallError::Problem { problem, .. } => {
                    return Err(match &problem.refusal {
                        Some(Refusal::Busy { .. }) => {
                            Trouble::Unclear { what: problem.detail.clone(), is_ambiguous: false }
                        }
                        Some(refusal) => Trouble::Refused(refusal.clone()),
                        None if problem.status >= 500 => {
                            Trouble::Unclear { what: full(&error), is_ambiguous: true }
                        }
                        None => Trouble::Refused(Refusal::Invalid { message: full(&error) }),
                    });
                }
                CallError::Ambiguous { .. } | CallError::BadAnswer { .. } => {
                    return Err(Trouble::Unclear { what: full(&error), is_ambiguous: true });
                }
            }
        }
        Err(Trouble::Unclear { what, is_ambiguous: false })
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
                let row = self.picture.borrow().view.host(host).map(|row| row.host.allocation);
                Answer::Refused(No::Host(no, row.unwrap_or_default()))
            }
        }
    }

    fn hear(&self, host: &HostId, id: &JobId, job: Option<Job>) {
        let now_ms = self.clock.now().mono_ms;
        let mut knowledge = self.knowledge.lock().expect("no holder of this lock panics");
        knowledge.hear(now_ms, host.clone(), id.clone(), job);
    }
}

/// What is said of a fetch that its host knows nothing of, until it is asked for again.
const WAITING: &str = "the host does not have it yet";

// What a row means to a waiting task.

/// Whether the image is on the host, or will not come.
#[must_use]
pub fn fetched(status: &ImageStatus, fetch: &Fetch) -> Option<Answer> {
    if let Some(facts) = &status.facts {
        if facts.sha256 == fetch.facts.sha256 {
            return Some(Answer::Done(TaskResult::Done));
        }
        let (image, found) = (&fetch.image, facts.sha256);
        return Some(failed(&format!("it has another image {image}, with sha256 {found}")));
    }
    match &status.fetch {
        Some(FetchState::Failed {
            why: FetchTrouble::NoSpace { needed_bytes, free, capacity },
        }) => {
            let asked = Resources { disk_bytes: *needed_bytes, ..Resources::ZERO };
            let no = Refusal::NoCapacity { asked, free: *free, capacity: *capacity };
            Some(refused(no))
        }
        Some(FetchState::Failed { why }) => Some(failed(&format!("image {}: {why}", fetch.image))),
        Some(FetchState::Waiting | FetchState::Fetching { .. } | FetchState::Checking) | None => {
            None
        }
    }
}

/// Whether the job runs in at least this revision; a job that has ended never will.
#[must_use]
pub fn running(job: Option<&Job>, revision: Revision) -> Option<Answer> {
    let Some(job) = job else { return Some(failed("the host has no such job any more")) };
    match job.state {
        JobState::Running | JobState::Paused if job.revision >= revision => {
            Some(Answer::Done(TaskResult::Done))
        }
        // It was quicker than we.
        JobState::Stopped if job.spec.as_one_off().is_some() && job.revision >= revision => {
            Some(Answer::Done(TaskResult::Done))
        }
        JobState::Stopped | JobState::Failed | JobState::Crashed => {
            let why = job.reason.as_ref().map_or_else(String::new, |why| format!(": {why}"));
            Some(failed(&format!("the job is {}{why}", job.state)))
        }
        JobState::Accepted
        | JobState::Starting
        | JobState::Running
        | JobState::Paused
        | JobState::MigratingIn
        | JobState::MigratingOut
        | JobState::Stopping => None,
    }
}

/// Whether the host is through with another size for the job. What waits for its next start is not
/// waited for: it is promised, and so it is done.
#[must_use]
pub fn resized(job: Option<&Job>, revision: Revision, size: &SizeChange) -> Option<Answer> {
    let Some(job) = job else { return Some(failed("the host has no such job any more")) };
    if job.revision < revision {
        return None;
    }
    if job.resize.as_ref().is_some_and(|resize| resize.stage == ResizeStage::Changing) {
        return None;
    }
    let is_asked = job.spec.as_vm().is_some_and(|vm| vm.size().changed(size) == vm.size());
    if is_asked || job.revision > revision {
        return Some(Answer::Done(TaskResult::Done));
    }
    let why = job.reason.as_ref().map_or_else(String::new, |why| format!(": {why}"));
    Some(failed(&format!("the job has its old size{why}")))
}

/// Whether the target listens, and where.
#[must_use]
pub fn incoming(job: Option<&Job>) -> Option<Answer> {
    let Some(job) = job else { return Some(failed("the host has no such job any more")) };
    if let Some(Migration::Incoming { url, .. }) = job.migration.as_deref() {
        if url.is_empty() {
            return Some(failed(
                "the target's agent is of an older version, which no guest can be sent to: update it",
            ));
        }
        let (hold, url) = (job.hold, url.clone());
        return Some(Answer::Done(TaskResult::Incoming { hold, url }));
    }
    if job.state.is_ended() {
        let why = job.reason.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        return Some(failed(&format!("the job is {}{why}", job.state)));
    }
    None
}

/// Whether the source has let go, and its word for it.
#[must_use]
pub fn sent(job: Option<&Job>, to: &HostId) -> Option<Answer> {
    let Some(job) = job else { return Some(failed("the host has no such job any more")) };
    if has_moved_to(job, to) {
        let handoff = match job.migration.as_deref() {
            Some(Migration::Outgoing { handoff, .. }) => handoff.clone(),
            Some(Migration::Incoming { .. }) | None => None,
        };
        return Some(Answer::Done(TaskResult::Sent { handoff }));
    }
    match (&job.reason, job.state) {
        (_, JobState::MigratingOut) => None,
        (Some(why @ (Reason::MigrationFailed { .. } | Reason::MigrationCancelled)), _) => {
            Some(failed(&why.to_string()))
        }
        (_, state) => Some(failed(&format!("the job is {state} and not on its way"))),
    }
}

/// Whether nothing of the job runs.
#[must_use]
pub fn ended(job: Option<&Job>) -> Option<Answer> {
    let is_over = job.is_none_or(|job| job.state.is_ended());
    is_over.then_some(Answer::Done(TaskResult::Done))
}

/// Whether it has ended here because it moved there.
#[must_use]
pub fn has_moved_to(job: &Job, to: &HostId) -> bool {
    job.state.is_ended()
        && matches!(&job.reason, Some(Reason::Migrated { to: there }) if there == to)
}

/// Whether it is on its way there, or has arrived.
#[must_use]
pub fn is_going_to(job: &Job, to: &HostId) -> bool {
    let is_outgoing = matches!(job.migration.as_deref(), Some(Migration::Outgoing { to: there, .. }) if there == to);
    (job.state == JobState::MigratingOut && is_outgoing) || has_moved_to(job, to)
}

/// Whether this very task has asked for the last change.
#[must_use]
pub fn is_ours(job: &Job, key: RunKey) -> bool {
    job.run.is_some_and(|run| run.run == key.run && run.task == key.task)
}

/// How far it is, in words.
#[must_use]
pub fn progress_words(job: Option<&Job>) -> String {
    match job {
        None => "the host does not have it yet".to_owned(),
        Some(job) => match job.migration.as_deref() {
            Some(Migration::Outgoing { moved_bytes, total_bytes, .. }) if *total_bytes > 0 => {
                format!("{}: {moved_bytes} of {total_bytes} bytes moved", job.state)
            }
            Some(Migration::Outgoing { .. } | Migration::Incoming { .. }) | None => {
                let resize = job.resize_words().map(|words| format!(": {words}"));
                format!("{}{}", job.state, resize.unwrap_or_default())
            }
        },
    }
}

/// Whether the ticket's time is over, without effect: the same may be asked with another.
#[must_use]
pub fn is_over(error: &TicketError) -> bool {
    matches!(
        error,
        TicketError::OfferEnded { .. }
            | TicketError::OfferUnknown { .. }
            | TicketError::OfferUsed { .. }
            | TicketError::TicketOfOtherTrust { .. }
    )
}

/// Whether a job that was to be started in place of a lost hold has been promised to somebody else
/// since: another scheduler was first, and nobody has to wait for that to pass.
#[must_use]
pub fn is_taken_over(offer: &Signed<Offer>, why: &DenialReason) -> bool {
    let DenialReason::Promised { host, .. } = why else { return false };
    let asked = offer.open().map(|offer| offer.action);
    matches!(asked, Ok(Action::FailOver { from, .. }) if from != *host)
}

/// A no that asking again within the patience of a run will not change.
#[must_use]
pub fn is_firm(why: &DenialReason) -> bool {
    match why {
        DenialReason::Quota { .. }
        | DenialReason::Policy { .. }
        | DenialReason::NotTheLast { .. } => true,
        DenialReason::Silent { .. }
        | DenialReason::Rebuilding { .. }
        | DenialReason::OtherTrust { .. }
        | DenialReason::Promised { .. } => false,
    }
}

fn unclear(what: String) -> Answer {
    Answer::Unclear { what, is_ambiguous: false }
}

fn refused(no: Refusal) -> Answer {
    match no {
        Refusal::StaleClaim { seen, .. } => Answer::ClaimLost { seen },
        no => Answer::Refused(No::Host(no, Resources::ZERO)),
    }
}

fn failed(why: &str) -> Answer {
    Answer::Refused(No::Failed(why.to_owned()))
}

/// An error with its causes.
fn full(error: &CallError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
