//! Carries out dispatched tasks over the simulated network: the same requests in the same order as
//! the scheduler's executor, and its very own reading of the answers ([`scheduler::judge`]).
//!
//! A waiting task polls instead of being woken by the view.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use host_agent::core::{Reply, Request};
use protocol::api::{MigrateJob, OfferRequest, PutJob, ResizeJob, StopJob};
use protocol::id::{HostId, JobId, OfferId, Revision, RunId};
use protocol::job::{Job, JobState, RunKey};
use protocol::refusal::Refusal;
use protocol::resources::Resources;
use protocol::signed::Signed;
use protocol::ticket::{Handoff, Offer, TicketError};
use protocol::trust::Trust;
use scheduler::judge::{
    ended, has_moved_to, incoming, is_going_to, is_ours, is_over, progress_words, resized, running,
    sent,
};
use scheduler::{Answer, Ask as Wanted, Dispatch, Knowledge, No, Picture, Poll, TaskResult};

use super::message::{Ask, CallTrouble, NodeId, Told};
use super::tasks::{Command, Ctx};

const HOST_PATIENCE_MS: u64 = 10_000;
const ARBITER_PATIENCE_MS: u64 = 3_000;
const TRUST_REST_MS: u64 = 1_000;
const WATCH_MS: u64 = 3_000;
const POLL_MS: u64 = 500;

/// Everything dispatched tasks need.
#[derive(Clone)]
pub(super) struct Executor {
    /// Asks and waits.
    pub ctx: Ctx,
    /// The engine's view.
    pub picture: Rc<RefCell<Picture>>,
    /// What hosts have said.
    pub knowledge: Rc<RefCell<Knowledge>>,
    /// The trust document.
    pub trust: Arc<Trust>,
    /// Where hosts answer.
    pub hosts: Rc<BTreeMap<HostId, NodeId>>,
    /// Where arbiters answer, by slot.
    pub arbiters: Rc<BTreeMap<u32, NodeId>>,
}

enum Trouble {
    Refused(Refusal),
    Unclear { what: String, is_ambiguous: bool },
}

fn unclear(what: &str) -> Answer {
    Answer::Unclear { what: what.to_owned(), is_ambiguous: false }
}

fn refused(no: Refusal) -> Answer {
    match no {
        Refusal::StaleClaim { seen, .. } => Answer::ClaimLost { seen },
        no => Answer::Refused(No::Host(no, Resources::ZERO)),
    }
}

/// Carries out one dispatch and says so.
pub(super) async fn perform(executor: Executor, run: RunId, flight: u64, dispatch: Dispatch) {
    let answer = executor.perform(dispatch).await;
    executor.ctx.say(Command::Answered(run, flight, Box::new(answer)));
}

impl Executor {
    async fn perform(&self, dispatch: Dispatch) -> Answer {
        let Dispatch { key, job, ask, .. } = dispatch;
        match ask {
            Wanted::Fetch(..) => unreachable!("no job of the simulation has an image"),
            Wanted::Offer(host, request) => self.offer(&host, request).await,
            Wanted::VoidOffer(host, id) => self.void_offer(&host, id).await,
            Wanted::Grants(offer) => self.grants(&offer).await,
            Wanted::Put(host, body) => self.put(&host, &job, body, key).await,
            Wanted::Discard { host, revision, is_new } => {
                self.discard(&host, &job, revision, is_new, key).await
            }
            Wanted::AwaitRunning(host, revision) => {
                self.watch(&host, &job, |job| running(job, revision)).await
            }
            Wanted::Resize(host, body) => self.resize(&host, &job, body, key).await,
            Wanted::UndoResize(host) => self.undo_resize(&host, &job, key).await,
            Wanted::AwaitResized(host, revision, size) => {
                self.watch(&host, &job, |job| resized(job, revision, &size)).await
            }
            Wanted::AwaitIncoming(host) => self.watch(&host, &job, incoming).await,
            Wanted::Send(from, body, revision) => self.send_away(&from, &job, body, revision).await,
            Wanted::CancelSend { from, to } => self.cancel_send(&from, &to, &job, key).await,
            Wanted::AwaitSent { from, to } => self.watch(&from, &job, |job| sent(job, &to)).await,
            Wanted::HandOver(to, handoff) => self.hand_over(&to, &job, handoff).await,
            Wanted::Stop(host, grace_ms) => self.stop(&host, &job, grace_ms, key).await,
            Wanted::AwaitEnded(host) => self.watch(&host, &job, ended).await,
            Wanted::Delete(host, _) => self.delete(&host, &job, key).await,
        }
    }

    async fn offer(&self, host: &HostId, request: OfferRequest) -> Answer {
        let job = request.job.clone();
        match self.call(host, Request::Offer(request)).await {
            Ok(Reply::Offered(reply)) => Answer::Done(TaskResult::Offer { offer: reply.offer }),
            Ok(_) => unclear("not an offer"),
            Err(trouble) => self.answer_of(host, &job, trouble).await,
        }
    }

    async fn void_offer(&self, host: &HostId, id: OfferId) -> Answer {
        let _ = self.call(host, Request::VoidOffer(id)).await;
        Answer::Done(TaskResult::Done)
    }

    async fn grants(&self, offer: &Signed<Offer>) -> Answer {
        let mut poll = Poll::of(&self.trust, offer);
        while let Some(arbiter) = poll.next_arbiter() {
            let Some(node) = self.arbiters.get(&arbiter.slot) else { continue };
            let ask = Ask::Grants(offer.clone());
            let answer = match self.ctx.call(*node, ask, ARBITER_PATIENCE_MS).await {
                Ok(Told::Answer(answer)) => Ok(answer),
                Ok(_) | Err(_) => Err("no answer".to_owned()),
            };
            poll.take(arbiter.slot, answer);
        }
        let answer = poll.conclude();
        if matches!(answer, Answer::OfferOver { .. }) {
            self.ctx.sleep(TRUST_REST_MS).await;
        }
        answer
    }

    async fn put(&self, host: &HostId, id: &JobId, body: PutJob, key: RunKey) -> Answer {
        let revision = body.revision;
        let trouble = match self.call(host, Request::Put { job: id.clone(), put: body }).await {
            Ok(reply) => {
                self.hear_reply(host, id, reply);
                return Answer::Done(TaskResult::Done);
            }
            Err(trouble) => trouble,
        };
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
            Ok(Some(job)) if job.state == JobState::MigratingIn => {}
            Ok(Some(job)) if !job.state.is_ended() => {
                let stop = StopJob { grace_ms: 0, run: Some(key) };
                if let Err(Trouble::Unclear { what, is_ambiguous }) =
                    self.call(host, Request::Stop { job: id.clone(), stop }).await
                {
                    return Answer::Unclear { what, is_ambiguous };
                }
                match self.watch(host, id, ended).await {
                    Answer::Done(_) => {}
                    other => return other,
                }
            }
            Ok(None) if !is_new => return Answer::Done(TaskResult::Done),
            Ok(Some(_) | None) => {}
        }
        if is_new { self.delete(host, id, key).await } else { Answer::Done(TaskResult::Done) }
    }

    async fn resize(&self, host: &HostId, id: &JobId, body: ResizeJob, key: RunKey) -> Answer {
        let revision = body.revision;
        let request = Request::Resize { job: id.clone(), resize: body };
        let trouble = match self.call(host, request).await {
            Ok(reply) => {
                self.hear_reply(host, id, reply);
                return Answer::Done(TaskResult::Done);
            }
            Err(trouble) => trouble,
        };
        let row = self.read(host, id).await.ok().flatten();
        let is_in_force =
            row.as_ref().is_some_and(|job| job.revision == revision && is_ours(job, key));
        match (trouble, row) {
            _ if is_in_force => Answer::Done(TaskResult::Done),
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

    async fn undo_resize(&self, host: &HostId, id: &JobId, key: RunKey) -> Answer {
        match self.call(host, Request::UndoResize { job: id.clone(), run: Some(key) }).await {
            Ok(reply) => {
                self.hear_reply(host, id, reply);
                Answer::Done(TaskResult::Done)
            }
            Err(Trouble::Unclear { what, is_ambiguous }) => Answer::Unclear { what, is_ambiguous },
            Err(Trouble::Refused(no)) => match no {
                Refusal::StaleClaim { seen, .. } => Answer::ClaimLost { seen },
                Refusal::Ticket { .. } | Refusal::NoRoomToGrow { .. } => Answer::TooLate,
                Refusal::WrongState { .. } => unclear(&no.to_string()),
                Refusal::NoSuchJob { .. } | Refusal::Invalid { .. } => {
                    Answer::Done(TaskResult::Done)
                }
                no => refused(no),
            },
        }
    }

    async fn send_away(
        &self,
        from: &HostId,
        id: &JobId,
        body: MigrateJob,
        revision: Option<Revision>,
    ) -> Answer {
        let to = body.to.clone();
        let request = Request::Migrate { job: id.clone(), migrate: body, revision };
        match self.call(from, request).await {
            Ok(reply) => {
                self.hear_reply(from, id, reply);
                Answer::Done(TaskResult::Done)
            }
            Err(trouble) => {
                let is_under_way = match self.read(from, id).await {
                    Ok(Some(job)) => is_going_to(&job, &to),
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
        let request = Request::CancelMigration { job: id.clone(), run: Some(key) };
        match self.call(from, request).await {
            Err(Trouble::Unclear { what, is_ambiguous }) => {
                return Answer::Unclear { what, is_ambiguous };
            }
            Err(Trouble::Refused(Refusal::StaleClaim { seen, .. })) => {
                return Answer::ClaimLost { seen };
            }
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
        let Some(handoff) = handoff else { return Answer::Done(TaskResult::Done) };
        match self.call(to, Request::Handoff { job: id.clone(), handoff }).await {
            Ok(reply) => {
                self.hear_reply(to, id, reply);
                Answer::Done(TaskResult::Done)
            }
            Err(trouble) => match self.read(to, id).await {
                Ok(Some(job)) if job.state == JobState::Running => Answer::Done(TaskResult::Done),
                _ => match trouble {
                    Trouble::Refused(no) => unclear(&no.to_string()),
                    Trouble::Unclear { what, is_ambiguous } => {
                        Answer::Unclear { what, is_ambiguous }
                    }
                },
            },
        }
    }

    async fn stop(&self, host: &HostId, id: &JobId, grace_ms: u64, key: RunKey) -> Answer {
        let stop = StopJob { grace_ms, run: Some(key) };
        match self.call(host, Request::Stop { job: id.clone(), stop }).await {
            Ok(reply) => {
                self.hear_reply(host, id, reply);
                Answer::Done(TaskResult::Done)
            }
            Err(trouble) => self.answer_of(host, id, trouble).await,
        }
    }

    async fn delete(&self, host: &HostId, id: &JobId, key: RunKey) -> Answer {
        match self
            .call(host, Request::Delete { job: id.clone(), run: Some(key), shared: false })
            .await
        {
            Err(Trouble::Refused(Refusal::NoSuchJob { .. })) => {
                self.hear(host, id, None);
                Answer::Done(TaskResult::Done)
            }
            Ok(_) => {
                let gone =
                    |job: Option<&Job>| job.is_none().then_some(Answer::Done(TaskResult::Done));
                self.watch(host, id, gone).await
            }
            Err(trouble) => self.answer_of(host, id, trouble).await,
        }
    }

    async fn watch(
        &self,
        host: &HostId,
        id: &JobId,
        judge: impl Fn(Option<&Job>) -> Option<Answer>,
    ) -> Answer {
        let deadline_ms = self.ctx.now().mono_ms + WATCH_MS;
        loop {
            match self.read(host, id).await {
                Ok(job) => match judge(job.as_ref()) {
                    Some(answer) => return answer,
                    None if self.ctx.now().mono_ms >= deadline_ms => {
                        return Answer::NotYet { note: progress_words(job.as_ref()) };
                    }
                    None => {}
                },
                Err(Trouble::Refused(no)) => return refused(no),
                Err(Trouble::Unclear { what, .. }) => return unclear(&what),
            }
            let left_ms = deadline_ms.saturating_sub(self.ctx.now().mono_ms);
            self.ctx.sleep(left_ms.min(POLL_MS)).await;
        }
    }

    async fn read(&self, host: &HostId, id: &JobId) -> Result<Option<Job>, Trouble> {
        match self.send(host, Ask::Job(id.clone())).await? {
            Told::Job(Ok(job)) => {
                self.hear(host, id, Some(job.clone()));
                Ok(Some(job))
            }
            Told::Job(Err(Refusal::NoSuchJob { .. })) => {
                self.hear(host, id, None);
                Ok(None)
            }
            Told::Job(Err(no)) => Err(Trouble::Refused(no)),
            other => unreachable!("a read was answered with {other:?}"),
        }
    }

    async fn call(&self, host: &HostId, request: Request) -> Result<Reply, Trouble> {
        match self.send(host, Ask::Agent(request)).await? {
            Told::Agent(Ok(reply)) => Ok(reply),
            Told::Agent(Err(no @ Refusal::Busy { .. })) => {
                Err(Trouble::Unclear { what: no.to_string(), is_ambiguous: false })
            }
            Told::Agent(Err(no)) => Err(Trouble::Refused(no)),
            other => unreachable!("a request was answered with {other:?}"),
        }
    }

    async fn send(&self, host: &HostId, ask: Ask) -> Result<Told, Trouble> {
        let is_in_view = self.picture.borrow().view.host(host).is_some();
        let Some(node) = self.hosts.get(host).copied().filter(|_| is_in_view) else {
            let what = format!("{} is not in the view", host.short());
            return Err(Trouble::Unclear { what, is_ambiguous: false });
        };
        let name = ask.name();
        self.ctx.call(node, ask, HOST_PATIENCE_MS).await.map_err(|trouble| Trouble::Unclear {
            what: format!("{name} at {}: no answer", host.short()),
            is_ambiguous: trouble == CallTrouble::Ambiguous,
        })
    }

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
                let picture = self.picture.borrow();
                let row = picture.view.host(host).map(|row| row.host.allocation);
                Answer::Refused(No::Host(no, row.unwrap_or_default()))
            }
        }
    }

    fn hear_reply(&self, host: &HostId, id: &JobId, reply: Reply) {
        match reply {
            Reply::Accepted(job) | Reply::AlreadySo(job) => self.hear(host, id, Some(*job)),
            Reply::Offered(_) | Reply::Network { .. } | Reply::Done => {}
        }
    }

    fn hear(&self, host: &HostId, id: &JobId, job: Option<Job>) {
        let now_ms = self.ctx.now().mono_ms;
        self.knowledge.borrow_mut().hear(now_ms, host.clone(), id.clone(), job);
    }
}
