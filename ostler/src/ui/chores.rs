//! The chores of this page: which were begun, what each has said, and how it has ended.
//!
//! ```text
//!   begin ─▶ running ──▶ succeeded, failed, refused: by its exit code
//!               │ leave ─▶ ending ──▶ interrupted, once it has taken back what it had begun; or as above
//! ```
//!
//! Decides how many there may be and what is remembered of them. Running them is `workers`'.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::id::JobId;
use serde::Serialize;
use serde_json::Value;

use crate::exit::{Code, Failure};

/// Those that go on: each is a process that asks hosts, and some write to this machine's disk.
const RUNNING_MAX: usize = 8;

/// Those that are remembered, the newest: more than a person looks back at.
const REMEMBERED_MAX: usize = 50;

/// Lines that are kept of one, the newest: those of a long one repeat how far it is.
const LINES_MAX: usize = 100;

/// Characters that are kept of a line: a failure names every host that it is about.
const LINE_MAX: usize = 4000;

/// Which one, in the order of their beginning.
pub(super) type ChoreId = u64;

/// All of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Chores {
    rows: BTreeMap<ChoreId, Arc<ChoreCells>>,
    begun: ChoreId,
}

/// One, as the page shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct ChoreCells {
    id: ChoreId,
    /// What it is in a terminal, without `ostler`.
    line: String,
    /// The VM that it is about.
    job: Option<JobId>,
    state: ChoreState,
    is_ended: bool,
    begun_ms: u64,
    ended_ms: Option<u64>,
    /// What it has said.
    said: Vec<String>,
    /// Why it did not do what it was asked, as of `--json`.
    no: Option<Value>,
}

/// How one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ChoreState {
    /// Entered when it is begun.
    Running,
    /// It was told to end, and takes back what it can.
    Ending,
    /// What was asked is so.
    Succeeded,
    /// It is not, and some of it may be.
    Failed,
    /// Somebody said no, and nothing was changed.
    Refused,
    /// It has ended because it was told to.
    Interrupted,
}

impl Chores {
    /// Another one, unless there are too many.
    pub(super) fn begin(
        &mut self,
        now_ms: u64,
        line: String,
        job: Option<JobId>,
    ) -> Result<ChoreId, Failure> {
        if self.running().count() >= RUNNING_MAX {
            let what = format!("{RUNNING_MAX} commands of this page go on already");
            return Err(Failure::new(Code::Refused, what).next("wait until one of them has ended"));
        }
        self.begun += 1;
        let id = self.begun;
        let row = ChoreCells {
            id,
            line,
            job,
            state: ChoreState::Running,
            is_ended: false,
            begun_ms: now_ms,
            ended_ms: None,
            said: vec![],
            no: None,
        };
        self.rows.insert(id, Arc::new(row));
        self.forget();
        Ok(id)
    }

    /// It says something.
    pub(super) fn hear(&mut self, id: ChoreId, line: &str) {
        self.change(id, |row| {
            if row.said.len() == LINES_MAX {
                row.said.remove(0);
            }
            row.said.push(line.chars().take(LINE_MAX).collect());
        });
    }

    /// It is told to end.
    pub(super) fn leave(&mut self, id: ChoreId) {
        self.change(id, |row| row.state = ChoreState::Ending);
    }

    /// It has ended, and why not as it was asked to.
    pub(super) fn end(&mut self, id: ChoreId, now_ms: u64, code: Code, no: Option<Value>) {
        self.change(id, |row| {
            row.state = match code {
                Code::Ok => ChoreState::Succeeded,
                Code::Refused => ChoreState::Refused,
                Code::Interrupted => ChoreState::Interrupted,
                Code::Failed | Code::Usage | Code::Unreachable | Code::NotFound => {
                    ChoreState::Failed
                }
            };
            (row.is_ended, row.ended_ms, row.no) = (true, Some(now_ms), no);
        });
    }

    /// All that are remembered.
    pub(super) fn rows(&self) -> &BTreeMap<ChoreId, Arc<ChoreCells>> {
        &self.rows
    }

    /// Those that go on.
    pub(super) fn running(&self) -> impl Iterator<Item = &Arc<ChoreCells>> {
        self.rows.values().filter(|row| !row.is_ended)
    }

    fn change(&mut self, id: ChoreId, change: impl FnOnce(&mut ChoreCells)) {
        if let Some(row) = self.rows.get_mut(&id).filter(|row| !row.is_ended) {
            change(Arc::make_mut(row));
        }
    }

    fn forget(&mut self) {
        while self.rows.len() > REMEMBERED_MAX {
            let oldest = self.rows.values().find(|row| row.is_ended).map(|row| row.id);
            let Some(oldest) = oldest else { break };
            self.rows.remove(&oldest);
        }
    }
}

impl ChoreCells {
    pub(super) fn is_ended(&self) -> bool {
        self.is_ended
    }

    pub(super) fn line(&self) -> &str {
        &self.line
    }

    pub(super) fn said(&self) -> &[String] {
        &self.said
    }

    pub(super) fn no(&self) -> Option<&Value> {
        self.no.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(chores: &mut Chores) -> Result<ChoreId, Failure> {
        chores.begin(1, "clone web-1 web-2".into(), None)
    }

    #[test]
    fn a_chore_ends_once_and_keeps_its_last_words() {
        let mut chores = Chores::default();
        let id = begin(&mut chores).unwrap();
        for n in 0..=LINES_MAX {
            chores.hear(id, &n.to_string());
        }
        chores.leave(id);
        assert_eq!(chores.rows()[&id].state, ChoreState::Ending);
        chores.end(id, 5, Code::Interrupted, None);
        chores.end(id, 6, Code::Ok, None);
        chores.hear(id, "late");
        let row = &chores.rows()[&id];
        assert_eq!((row.state, row.ended_ms), (ChoreState::Interrupted, Some(5)));
        assert_eq!((row.said.len(), row.said[0].as_str()), (LINES_MAX, "1"));
    }

    #[test]
    fn few_go_on_and_the_oldest_that_have_ended_are_forgotten() {
        let mut chores = Chores::default();
        let first = begin(&mut chores).unwrap();
        for _ in 1..RUNNING_MAX {
            begin(&mut chores).unwrap();
        }
        assert_eq!(begin(&mut chores).unwrap_err().code, Code::Refused);
        chores.end(2, 2, Code::Ok, None);
        for _ in 0..REMEMBERED_MAX {
            let id = begin(&mut chores).unwrap();
            chores.end(id, 3, Code::Ok, None);
        }
        assert_eq!(chores.rows().len(), REMEMBERED_MAX);
        assert!(chores.rows().contains_key(&first), "it goes on");
        assert!(!chores.rows().contains_key(&2));
    }
}
