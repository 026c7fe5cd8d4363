//! Tasks of a simulated process: the same sequences of asking and waiting that the shells write as
//! `async`, polled by the simulator instead of a runtime.
//!
//! A task says what it wants as a [`Command`]; the world carries it out whenever it sees fit, or
//! never, and the answer makes the task go on. A process that dies drops its tasks wherever they
//! wait.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use host_agent::core::Input;
use protocol::id::{HostId, JobId, RunId};
use protocol::signed::Signed;
use protocol::trust::Ready;
use scheduler::Answer as RunAnswer;
use transport::Now;
use uuid::Uuid;

use super::hypervisor::{HvError, HvOp, HvReply};
use super::message::{Ask, Back, CallTrouble, NodeId, Told};

/// Names a question of a task, so that the answer finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId(pub u64);

/// Names a task within its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TaskId(pub u64);

/// What a task wants.
#[derive(Debug)]
pub enum Command {
    /// Ask another process.
    Call {
        /// Whom.
        to: NodeId,
        /// What.
        ask: Box<Ask>,
        /// How long to wait, in local milliseconds.
        patience_ms: u64,
    },
    /// Come back later, or when somebody uses the key.
    Sleep {
        /// Local milliseconds.
        ms: u64,
        /// Who else may wake it.
        key: Option<u64>,
    },
    /// Have libvirt do something.
    Hv {
        /// What.
        op: HvOp,
        /// How long to wait.
        deadline_ms: u64,
    },
    /// Make a job's volumes: true when there was room on the disk.
    MakeVolumes(JobId),
    /// Delete a job's volumes.
    DeleteVolumes(JobId),
    /// Keep a domain's definition on the disk: true when there was room.
    KeepDefinition(Uuid, String),
    /// Read what is kept.
    KeptDefinition(Uuid),
    /// Forget it.
    ForgetDefinition(Uuid),
    /// Wake whoever sleeps with this key.
    Wake(u64),
    /// Tell the agent's core.
    Post(Box<Input>),
    /// Answer somebody.
    Reply(Back, Box<Told>),
    /// A dispatched task of a run has its answer.
    Answered(RunId, u64, Box<RunAnswer>),
    /// A host was read: for coverage only.
    Heard(HostId),
    /// Something was exercised: for coverage only.
    Hit(&'static str),
    /// An arbiter gives a host the document of that version.
    Bring {
        /// Which host.
        host: usize,
        /// Which document.
        version: u64,
    },
    /// The operator has an arbiter's word.
    Word(Box<Signed<Ready>>),
}

/// What a task is told.
#[derive(Debug)]
pub enum Reply {
    /// The sleep is over, or it was woken.
    Woken,
    /// An answer, or why there is none.
    Call(Result<Told, CallTrouble>),
    /// libvirt's answer.
    Hv(Result<HvReply, HvError>),
    /// Whether it worked.
    Volumes(bool),
    /// What is kept of a definition.
    Kept(Option<String>),
}

#[derive(Debug, Default)]
struct Inner {
    now: Now,
    commands: Vec<(CallId, Command)>,
    answers: BTreeMap<CallId, Reply>,
    calls: u64,
}

/// What a task can do: want things and read the clock.
#[derive(Debug, Clone, Default)]
pub struct Ctx(Rc<RefCell<Inner>>);

/// A task under way.
pub type Task = Pin<Box<dyn Future<Output = ()>>>;

impl Ctx {
    /// The machine's clocks.
    #[must_use]
    pub fn now(&self) -> Now {
        self.0.borrow().now
    }

    /// Asks another process.
    pub async fn call(&self, to: NodeId, ask: Ask, patience_ms: u64) -> Result<Told, CallTrouble> {
        match self.want(Command::Call { to, ask: Box::new(ask), patience_ms }).await {
            Reply::Call(answer) => answer,
            other => unreachable!("a call was answered with {other:?}"),
        }
    }

    /// Waits.
    pub async fn sleep(&self, ms: u64) {
        self.want(Command::Sleep { ms, key: None }).await;
    }

    /// Waits, or until somebody wakes the key.
    pub async fn sleep_or_wake(&self, ms: u64, key: u64) {
        self.want(Command::Sleep { ms, key: Some(key) }).await;
    }

    /// Has libvirt do something.
    pub async fn hv(&self, op: HvOp, deadline_ms: u64) -> Result<HvReply, HvError> {
        match self.want(Command::Hv { op, deadline_ms }).await {
            Reply::Hv(answer) => answer,
            other => unreachable!("libvirt answered with {other:?}"),
        }
    }

    /// Makes volumes; false when the disk is full.
    pub async fn make_volumes(&self, job: &JobId) -> bool {
        match self.want(Command::MakeVolumes(job.clone())).await {
            Reply::Volumes(is_done) => is_done,
            other => unreachable!("the disk answered with {other:?}"),
        }
    }

    /// Keeps a definition; false when the disk is full.
    pub async fn keep_definition(&self, domain: Uuid, text: String) -> bool {
        match self.want(Command::KeepDefinition(domain, text)).await {
            Reply::Volumes(is_done) => is_done,
            other => unreachable!("the disk answered with {other:?}"),
        }
    }

    /// The definition that is kept.
    pub async fn kept_definition(&self, domain: Uuid) -> Option<String> {
        match self.want(Command::KeptDefinition(domain)).await {
            Reply::Kept(text) => text,
            other => unreachable!("the disk answered with {other:?}"),
        }
    }

    /// Says something that needs no answer.
    pub fn say(&self, command: Command) {
        let mut inner = self.0.borrow_mut();
        inner.calls += 1;
        let call = CallId(inner.calls);
        inner.commands.push((call, command));
    }

    fn want(&self, command: Command) -> Pending {
        let mut inner = self.0.borrow_mut();
        inner.calls += 1;
        let call = CallId(inner.calls);
        inner.commands.push((call, command));
        Pending { ctx: self.clone(), call }
    }

    /// Lets a task go on; what it now wants, and whether it has ended.
    pub(super) fn poll(&self, now: Now, task: &mut Task) -> (Vec<(CallId, Command)>, bool) {
        self.0.borrow_mut().now = now;
        let mut context = Context::from_waker(Waker::noop());
        let is_over = task.as_mut().poll(&mut context).is_ready();
        (std::mem::take(&mut self.0.borrow_mut().commands), is_over)
    }

    pub(super) fn answer(&self, call: CallId, reply: Reply) {
        self.0.borrow_mut().answers.insert(call, reply);
    }
}

struct Pending {
    ctx: Ctx,
    call: CallId,
}

impl Future for Pending {
    type Output = Reply;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Reply> {
        match self.ctx.0.borrow_mut().answers.remove(&self.call) {
            Some(reply) => Poll::Ready(reply),
            None => Poll::Pending,
        }
    }
}
