//! Who does the chores: a process of `ostler` for each, whose words are passed on as they come.
//!
//! One that is told to end gets the signal that Ctrl-C would send, once: a second would keep it from taking back
//! what it has begun. When the page's server ends, all of them are told so and waited for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Path, State};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::Child;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use transport::{CancellationToken, Clock, Json};

use super::ask::No;
use super::chore::Chore;
use super::chores::{ChoreCells, ChoreId, Chores};
use super::program::{Program, code_of, failure_in, failure_of, not_begun};
use super::serve::Shared;
use crate::exit::{Code, Failure};
use crate::show;

/// How long a person is kept waiting for the end of a short one: what is refused is mostly refused at once, and is
/// told where it was asked for.
const AT_ONCE: Duration = Duration::from_millis(2500);

/// How long they may take to end when the server ends: a snapshot is waited for half a minute.
const LEAVING: Duration = Duration::from_secs(45);

/// Lines that are read ahead of those who are told.
const LINES_AHEAD: usize = 32;

/// See the module.
pub(crate) struct Workers {
    program: Arc<Program>,
    clock: Clock,
    chores: watch::Sender<Arc<Chores>>,
    /// How to tell each to end.
    stops: Mutex<BTreeMap<ChoreId, CancellationToken>>,
}

impl Workers {
    pub(super) fn new(program: Arc<Program>, clock: Clock) -> Arc<Self> {
        let chores = watch::Sender::new(Arc::new(Chores::default()));
        Arc::new(Self { program, clock, chores, stops: Mutex::default() })
    }

    /// What is known of them, from now on.
    pub(super) fn chores(&self) -> watch::Receiver<Arc<Chores>> {
        self.chores.subscribe()
    }

    fn begin(self: &Arc<Self>, chore: Chore, backups: Option<&str>) -> Result<ChoreId, Failure> {
        let job = chore.job().cloned();
        let line = chore.line(backups)?;
        let shown = line.shown();
        let now_ms = self.clock.now().wall_ms;
        let mut begun = Ok(0);
        self.change(|chores| begun = chores.begin(now_ms, shown.clone(), job));
        let id = begun?;
        match self.program.command(&line.0).spawn() {
            Ok(child) => {
                let stop = CancellationToken::new();
                self.stops.lock().expect("no holder of this lock panics").insert(id, stop.clone());
                tokio::spawn(Arc::clone(self).work(id, child, stop));
                Ok(id)
            }
            Err(error) => {
                let failure = not_begun(&shown).because(error);
                let no = Some(failure.json()["error"].clone());
                self.change(|chores| chores.end(id, now_ms, failure.code, no));
                Err(failure)
            }
        }
    }

    async fn work(self: Arc<Self>, id: ChoreId, mut child: Child, stop: CancellationToken) {
        let (say, mut said) = mpsc::channel(LINES_AHEAD);
        if let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) {
            tokio::spawn(pass_on(out, say.clone()));
            tokio::spawn(pass_on(err, say));
        }
        let mut lines: Vec<String> = Vec::new();
        let mut is_told = false;
        loop {
            tokio::select! {
                line = said.recv() => match line {
                    Some(line) => {
                        self.change(|chores| chores.hear(id, &line));
                        lines.push(line);
                    }
                    None => break,
                },
                () = stop.cancelled(), if !is_told => {
                    is_told = true;
                    interrupt(&child);
                    self.change(|chores| chores.leave(id));
                }
            }
        }
        let code = child.wait().await.map_or(Code::Failed, code_of);
        let no = (code != Code::Ok).then(|| failure_in(&lines, code).json()["error"].clone());
        self.stops.lock().expect("no holder of this lock panics").remove(&id);
        let now_ms = self.clock.now().wall_ms;
        self.change(|chores| chores.end(id, now_ms, code, no));
    }

    /// The one of this number once it has ended.
    async fn ended(&self, id: ChoreId) -> Option<Arc<ChoreCells>> {
        let is_over =
            |chores: &Arc<Chores>| chores.rows().get(&id).is_none_or(|row| row.is_ended());
        let mut chores = self.chores();
        let chores = chores.wait_for(is_over).await.ok()?;
        chores.rows().get(&id).cloned()
    }

    /// Tells all to end, and waits until they have.
    pub(super) async fn leave(&self) {
        let count = self.chores.borrow().running().count();
        if count == 0 {
            return;
        }
        show::note(&format!(
            "waiting for {count} commands of the page to take back what they began"
        ));
        for stop in self.stops.lock().expect("no holder of this lock panics").values() {
            stop.cancel();
        }
        let mut chores = self.chores();
        let all_over = chores.wait_for(|chores| chores.running().next().is_none());
        if timeout(LEAVING, all_over).await.is_err() {
            show::note("some have not ended, and go on by themselves");
        }
    }

    fn change(&self, change: impl FnOnce(&mut Chores)) {
        self.chores.send_modify(|chores| change(Arc::make_mut(chores)));
    }
}

async fn pass_on(from: impl AsyncRead + Unpin, to: mpsc::Sender<String>) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if to.send(line).await.is_err() {
            return;
        }
    }
}

/// As Ctrl-C would. One that has ended meanwhile has no number any more.
fn interrupt(child: &Child) {
    let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    if let Some(pid) = pid {
        let _ = kill_process(pid, Signal::INT);
    }
}

/// What became of it at once.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    words: String,
    chore: ChoreId,
    is_ended: bool,
}

/// `POST /chores`.
pub(super) async fn begin(
    State(shared): State<Arc<Shared>>,
    Json(chore): Json<Chore>,
) -> Result<Json<Answer>, No> {
    let workers = &shared.workers;
    let id = workers.begin(chore, shared.backups.as_deref())?;
    let Ok(Some(row)) = timeout(AT_ONCE, workers.ended(id)).await else {
        let line = workers.chores().borrow().rows().get(&id).map(|row| row.line().to_owned());
        let words = format!("begun: ostler {}", line.unwrap_or_default());
        return Ok(Json(Answer { words, chore: id, is_ended: false }));
    };
    if let Some(failure) = row.no().and_then(failure_of) {
        return Err(failure.into());
    }
    let words =
        row.said().last().cloned().unwrap_or_else(|| format!("done: ostler {}", row.line()));
    Ok(Json(Answer { words, chore: id, is_ended: true }))
}

/// `DELETE /chores/{chore}`: it ends, and takes back what it can.
pub(super) async fn end(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<ChoreId>,
) -> Result<Json<Value>, No> {
    let stops = shared.workers.stops.lock().expect("no holder of this lock panics");
    let stop = stops.get(&id).ok_or_else(|| {
        Failure::new(Code::NotFound, "it has ended already").next("see how, among the commands")
    })?;
    stop.cancel();
    Ok(Json(Value::Null))
}
