//! Runs and expectations in an SQLite file, one thread that writes, one sync for all that wait for it.
//!
//! Decides the schema and what happens to what cannot be read: one damaged run is set aside and
//! reported, the others go on; a file that is no database any more is moved away, because losing it
//! loses nothing that runs. The meaning of a record is the scheduler's.

use std::path::Path;
use std::thread;

use protocol::id::{RunId, SetName};
use protocol::power::Sleep;
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, params};
use scheduler::{
    Acceptance, Claimed, Conductor, RECORD_VERSION, RunRecord, SetRecord, Sets, StoreError, Storing,
};
use tokio::sync::{mpsc, oneshot};

/// The form of the tables; a file of a later form is left alone.
const SCHEMA_VERSION: i64 = 1;
/// Requests that wait for the writer; more wait at their callers, who are bounded themselves.
const QUEUE_MAX: usize = 1024;
/// Requests that share one sync.
const BATCH_MAX: usize = 256;
/// Ended runs that are kept. At a kilobyte or two each this stays under 20 MiB.
const HISTORY_MAX: i64 = 10_000;

const SCHEMA: &str = "
CREATE TABLE runs (
    id          TEXT PRIMARY KEY,
    job         TEXT NOT NULL,
    is_ended    INTEGER NOT NULL,
    claim       INTEGER NOT NULL,
    accepted_ms INTEGER NOT NULL,
    record      TEXT NOT NULL,
    damage      TEXT
) STRICT;
CREATE UNIQUE INDEX one_active_run_a_job ON runs (job) WHERE is_ended = 0;
CREATE INDEX newest_first ON runs (accepted_ms DESC, id DESC);
PRAGMA user_version = 1;
";

/// Came later; a program of before leaves it as it is, so the form is still the same.
const SCHEMA_OF_SETS: &str = "
CREATE TABLE IF NOT EXISTS expectations (
    name   TEXT PRIMARY KEY,
    record TEXT NOT NULL
) STRICT;
";

/// The same. One row a host, for as long as the file lives: who was away must not take what is over for news.
const SCHEMA_OF_SLEEPS: &str = "
CREATE TABLE IF NOT EXISTS sleeps (
    host   TEXT PRIMARY KEY,
    record TEXT NOT NULL
) STRICT;
";

/// A [`Conductor`] in a file.
#[derive(Debug, Clone)]
pub struct SqliteConductor {
    queue: mpsc::Sender<Work>,
}

/// Does something in the open transaction; what it answers with is told after the commit.
type Work = Box<dyn FnOnce(Result<&Connection, &StoreError>) -> Reply + Send>;
/// Tells whoever waits, given whether the commit went well.
type Reply = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

impl SqliteConductor {
    /// Opens the file, making it when there is none.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = match open(path) {
            Err(error) if is_no_database(&error) => {
                move_away(path, &error)?;
                open(path).map_err(|error| broken("open the runs", &error))?
            }
            opened => opened.map_err(|error| broken("open the runs", &error))?,
        };
        let found: i64 = connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .map_err(|error| broken("read the version of the runs", &error))?;
        if found > SCHEMA_VERSION {
            let why = format!(
                "{} has form {found}, this program knows {SCHEMA_VERSION}; use a newer one",
                path.display()
            );
            return Err(StoreError::Broken { tried: "open the runs", why });
        }
        if found == 0 {
            let made = connection.execute_batch(&format!("BEGIN;{SCHEMA}COMMIT;"));
            made.map_err(|error| broken("make the tables", &error))?;
        }
        let made = connection.execute_batch(SCHEMA_OF_SETS);
        made.map_err(|error| broken("make the table of expectations", &error))?;
        let made = connection.execute_batch(SCHEMA_OF_SLEEPS);
        made.map_err(|error| broken("make the table of sleeping hosts", &error))?;
        let (queue, queued) = mpsc::channel(QUEUE_MAX);
        let spawned = thread::Builder::new().name("runs".to_owned());
        let spawned = spawned.spawn(move || write(connection, queued));
        spawned.map_err(|error| StoreError::Broken {
            tried: "start the writer of runs",
            why: error.to_string(),
        })?;
        Ok(Self { queue })
    }

    /// Stores what is known of a host's sleep, in place of what was.
    pub(crate) fn save_sleep(&self, sleep: Sleep) -> Storing<'_, ()> {
        self.ask("save that a host sleeps", move |connection| sleeps::save(connection, &sleep))
    }

    /// What is known of hosts' sleep, and which records can't be read.
    pub(crate) fn sleeps(&self) -> Storing<'_, (Vec<Sleep>, Vec<String>)> {
        self.ask("list the sleeping hosts", sleeps::all)
    }

    fn ask<T: Send + 'static>(
        &self,
        tried: &'static str,
        act: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Storing<'_, T> {
        let (tell, told) = oneshot::channel();
        let work: Work = Box::new(move |connection| {
            let done = match connection {
                Ok(connection) => act(connection),
                Err(error) => Err(again(error)),
            };
            Box::new(move |committed| {
                // Whoever asked may have gone; what was stored stays.
                let _ = tell.send(committed.and(done));
            })
        });
        Box::pin(async move {
            let gone = || StoreError::Broken { tried, why: "the writer has ended".to_owned() };
            self.queue.send(work).await.map_err(|_| gone())?;
            told.await.map_err(|_| gone())?
        })
    }
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict == "ok" {
        return Ok(connection);
    }
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    Err(rusqlite::Error::SqliteFailure(code, Some(verdict)))
}

fn is_no_database(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt))
}

fn move_away(path: &Path, error: &rusqlite::Error) -> Result<(), StoreError> {
    let aside = (1..).map(|n| path.with_extension(format!("db.damaged-{n}")));
    let aside = aside.into_iter().find(|aside| !aside.exists()).expect("numbers do not end");
    tracing::error!(
        "{} is damaged ({error}); it is kept as {} and a new one begun. Guests are not touched. Forgotten here are runs, \
         those under way included, and what other controllers do not keep as well: what is expected (put it again: \
         `ostler expect FILE`) and which hosts sleep",
        path.display(),
        aside.display()
    );
    let moved = std::fs::rename(path, &aside);
    for rest in ["-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(rest);
        let _ = std::fs::remove_file(name);
    }
    moved.map_err(|error| StoreError::Broken {
        tried: "move the damaged runs away",
        why: error.to_string(),
    })
}

/// The writer: takes what has gathered, does it in one transaction, and tells everybody.
fn write(connection: Connection, mut queued: mpsc::Receiver<Work>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while queued.blocking_recv_many(&mut batch, BATCH_MAX) > 0 {
        let begun = connection.execute_batch("BEGIN IMMEDIATE");
        let begun = begun.map_err(|error| broken("begin to store", &error));
        let replies: Vec<Reply> =
            batch.drain(..).map(|work| work(begun.as_ref().map(|()| &connection))).collect();
        let committed = match &begun {
            Ok(()) => connection.execute_batch("COMMIT").map_err(|error| {
                let _ = connection.execute_batch("ROLLBACK");
                broken("store", &error)
            }),
            Err(error) => Err(again(error)),
        };
        for reply in replies {
            reply(match &committed {
                Ok(()) => Ok(()),
                Err(error) => Err(again(error)),
            });
        }
    }
}

impl Conductor for SqliteConductor {
    fn accept(&self, record: RunRecord) -> Storing<'_, Acceptance> {
        self.ask("accept a run", move |connection| accept(connection, &record))
    }

    fn save(&self, record: RunRecord) -> Storing<'_, ()> {
        self.ask("save a run", move |connection| save(connection, &record))
    }

    fn load(&self, run: RunId) -> Storing<'_, Option<RunRecord>> {
        self.ask("load a run", move |connection| load(connection, run))
    }

    fn claim_unfinished(&self) -> Storing<'_, Claimed> {
        self.ask("claim the unfinished runs", claim_unfinished)
    }

    fn list(&self, max: usize) -> Storing<'_, Vec<RunRecord>> {
        self.ask("list the runs", move |connection| list(connection, max))
    }

    fn save_set(&self, record: SetRecord) -> Storing<'_, ()> {
        self.ask("save expectations", move |connection| sets::save(connection, &record))
    }

    fn forget_set(&self, name: SetName) -> Storing<'_, ()> {
        self.ask("forget expectations", move |connection| sets::forget(connection, &name))
    }

    fn sets(&self) -> Storing<'_, Sets> {
        self.ask("list the expectations", sets::all)
    }
}

fn accept(connection: &Connection, record: &RunRecord) -> Result<Acceptance, StoreError> {
    if let Some(known) = load(connection, record.id)? {
        return Ok(if known.want == record.want {
            Acceptance::AlreadySo(Box::new(known))
        } else {
            Acceptance::OtherWant
        });
    }
    let sql = "SELECT id FROM runs WHERE job = ?1 AND is_ended = 0";
    let rival = connection
        .query_row(sql, [record.job().as_str()], |row| row.get::<_, String>(0))
        .optional()
        .map_err(|error| broken("look for a run of the job", &error))?;
    if let Some(run) = rival.and_then(|run| run.parse().ok()) {
        return Ok(Acceptance::JobBusy { run });
    }
    let sql = "INSERT INTO runs (id, job, is_ended, claim, accepted_ms, record)
               VALUES (?1, ?2, 0, ?3, ?4, ?5)";
    let inserted = connection.execute(
        sql,
        params![
            record.id.to_string(),
            record.job().as_str(),
            number(record.claim),
            number(record.accepted_ms),
            json(record)
        ],
    );
    inserted.map_err(|error| broken("accept a run", &error))?;
    Ok(Acceptance::Accepted)
}

fn save(connection: &Connection, record: &RunRecord) -> Result<(), StoreError> {
    let id = record.id.to_string();
    let is_ended = record.state.is_ended();
    let sql = "UPDATE runs SET is_ended = ?2, claim = ?3, record = ?4
               WHERE id = ?1 AND claim <= ?3";
    let saved = connection
        .execute(sql, params![id, is_ended, number(record.claim), json(record)])
        .map_err(|error| broken("save a run", &error))?;
    if saved == 0 {
        let claim = connection
            .query_row("SELECT claim FROM runs WHERE id = ?1", [&id], |row| row.get::<_, i64>(0))
            .optional()
            .map_err(|error| broken("read a claim", &error))?;
        return Err(match claim {
            Some(seen) => {
                StoreError::ClaimLost { run: record.id, seen: u64::try_from(seen).unwrap_or(0) }
            }
            None => StoreError::Broken { tried: "save a run", why: format!("no run {id}") },
        });
    }
    if is_ended {
        let sql = "DELETE FROM runs WHERE is_ended = 1 AND id IN (
                       SELECT id FROM runs WHERE is_ended = 1
                       ORDER BY accepted_ms DESC, id DESC LIMIT -1 OFFSET ?1)";
        let pruned = connection.execute(sql, [HISTORY_MAX]);
        pruned.map_err(|error| broken("prune old runs", &error))?;
    }
    Ok(())
}

fn load(connection: &Connection, run: RunId) -> Result<Option<RunRecord>, StoreError> {
    let text = connection
        .query_row("SELECT record FROM runs WHERE id = ?1", [run.to_string()], |row| {
            row.get::<_, String>(0)
        })
        .optional()
        .map_err(|error| broken("load a run", &error))?;
    let parsed = text.map(|text| parse(&text)).transpose();
    parsed.map_err(|damage| StoreError::Damaged { run, why: damage.to_string() })
}

fn list(connection: &Connection, max: usize) -> Result<Vec<RunRecord>, StoreError> {
    let failed = |error: rusqlite::Error| broken("list the runs", &error);
    let mut records = Vec::new();
    // Each of the two has an index, which both at once would not have.
    for which in ["is_ended = 0", "is_ended <> 0"] {
        let sql = format!(
            "SELECT record FROM runs WHERE {which} ORDER BY accepted_ms DESC, id DESC LIMIT ?1"
        );
        let mut query = connection.prepare(&sql).map_err(failed)?;
        let left = i64::try_from(max.saturating_sub(records.len())).unwrap_or(i64::MAX);
        let rows = query.query_map([left], |row| row.get::<_, String>(0)).map_err(failed)?;
        for row in rows {
            // A damaged one was reported at the start; here it would only hide the others.
            if let Ok(record) = parse(&row.map_err(failed)?) {
                records.push(record);
            }
        }
    }
    Ok(records)
}

/// Raises every claim, so that an engine of before can save nothing any more.
fn claim_unfinished(connection: &Connection) -> Result<Claimed, StoreError> {
    let failed = |error: rusqlite::Error| broken("claim the unfinished runs", &error);
    let mut claimed = Claimed::default();
    let mut query = connection
        .prepare(
            "SELECT id, CAST(record AS BLOB) FROM runs WHERE is_ended = 0 ORDER BY accepted_ms, id",
        )
        .map_err(failed)?;
    let rows = query.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?)));
    let rows: Vec<(String, Vec<u8>)> =
        rows.map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
    for (id, record) in rows {
        match parse(&String::from_utf8_lossy(&record)) {
            Ok(mut record) => {
                record.claim += 1;
                save(connection, &record)?;
                claimed.runs.push(record);
            }
            Err(damage) => {
                // A record of a newer program is its to finish; a broken one is nobody's, and
                // must not keep its job from being changed for ever.
                if matches!(damage, Damage::Unreadable(_)) {
                    let sql = "UPDATE runs SET is_ended = 1, damage = ?2 WHERE id = ?1";
                    connection.execute(sql, params![id, damage.to_string()]).map_err(failed)?;
                }
                claimed.damaged.push((id, damage.to_string()));
            }
        }
    }
    Ok(claimed)
}

#[derive(Debug, thiserror::Error)]
enum Damage {
    #[error("record of form {0}, this program knows up to {RECORD_VERSION}; use a newer one")]
    Newer(u32),
    #[error("not readable: {0}")]
    Unreadable(String),
}

#[derive(serde::Deserialize)]
struct Version {
    version: u32,
}

fn parse(text: &str) -> Result<RunRecord, Damage> {
    match serde_json::from_str::<Version>(text) {
        Ok(Version { version }) if version > RECORD_VERSION => return Err(Damage::Newer(version)),
        Ok(_) => {}
        Err(error) => return Err(Damage::Unreadable(error.to_string())),
    }
    serde_json::from_str(text).map_err(|error| Damage::Unreadable(error.to_string()))
}

fn json(record: &RunRecord) -> String {
    serde_json::to_string(record).expect("a record is always valid JSON")
}

/// SQLite's integers are signed; ours stay far below the limit.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn broken(tried: &'static str, error: &rusqlite::Error) -> StoreError {
    StoreError::Broken { tried, why: error.to_string() }
}

/// The same error for each of those who waited for one commit.
fn again(error: &StoreError) -> StoreError {
    match error {
        StoreError::Broken { tried, why } => StoreError::Broken { tried, why: why.clone() },
        StoreError::ClaimLost { run, seen } => StoreError::ClaimLost { run: *run, seen: *seen },
        StoreError::Damaged { run, why } => StoreError::Damaged { run: *run, why: why.clone() },
    }
}

mod sets;

mod sleeps;

#[cfg(test)]
mod tests;
