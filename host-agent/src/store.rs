//! The ledger on disk: two files that say the same, each of which would do.
//!
//! ```text
//!   both read well ─────────────▶ the newer one counts; the other is made anew if it is behind
//!   one is damaged or missing ──▶ put aside, and made anew from the other: loud, and nothing is lost
//!   neither can be read ────────▶ the agent ends
//! ```
//!
//! Decides what of two files is true. A write counts once it is in both, so whichever can be read has
//! all that was ever answered; each knows by its own checksums whether it can be. That nobody can read
//! a promise stops the agent: to leave it out would be to deny it (its hold would vanish from what
//! arbiters read, and the job could start elsewhere while its guest runs here). Guests go on meanwhile.
//! What is written when is the core's; that nothing is answered before it is written is the shell's.

mod file;
mod rows;
mod shelf;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use protocol::id::Epoch;

pub use self::shelf::{FileShelf, Shelf, Twin};
use crate::core::{LedgerState, Write};
use file::LedgerFile;
use rows::{Change, Rows};

/// The open ledger. It belongs to one process at a time.
#[derive(Debug)]
pub struct Store {
    files: [LedgerFile; 2],
    /// Commits of this epoch, the failed one included.
    commits: AtomicU64,
    /// True once a commit has failed: what is in which file is found out by opening it anew.
    has_failed: AtomicBool,
}

/// Why the ledger can't be used. Guests go on; this agent does not.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk or the file says no.
    #[error("{what} the ledger: {source}")]
    Failed {
        /// What was tried.
        what: &'static str,
        /// What came back.
        source: Box<redb::Error>,
    },
    /// Another process has it.
    #[error("{what} the ledger: another agent works in this folder")]
    InUse {
        /// What was tried.
        what: &'static str,
    },
    /// A file of the ledger can't be moved or made.
    #[error("{what} {twin} of the ledger: {source}")]
    Shelf {
        /// What was tried.
        what: &'static str,
        /// With which file.
        twin: Twin,
        /// What came back.
        source: std::io::Error,
    },
    /// Neither file can be read by this version of the agent.
    #[error(
        "the ledger can't be read ({main} {main_why}; {twin} {twin_why}); guests run on, but the host must not forget what it has promised: put a backup of one of the files back, or the version of ostler that wrote them",
        main = Twin::Main, twin = Twin::Second
    )]
    Unreadable {
        /// What is wrong with the first.
        main_why: String,
        /// And with the second.
        twin_why: String,
    },
    /// An earlier commit has failed.
    #[error("the ledger has failed before; open it anew")]
    Over,
}

/// A file of the ledger that was damaged, and is kept for whoever wants to know why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Which.
    pub twin: Twin,
    /// What was wrong with it; `None`: it was put aside at an earlier start.
    pub why: Option<String>,
    /// Where it is now.
    pub kept: String,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { twin, why, kept } = self;
        let why = why.as_deref().map(|why| format!(" ({why})")).unwrap_or_default();
        write!(
            f,
            "{twin} was damaged{why} and has been made anew from its twin, nothing is lost; look after \
             the disk, and remove {kept} when you have seen it"
        )
    }
}

fn because<E: Into<redb::Error>>(what: &'static str) -> impl FnOnce(E) -> StoreError {
    move |error| match error.into() {
        redb::Error::DatabaseAlreadyOpen => StoreError::InUse { what },
        error => StoreError::Failed { what, source: Box::new(error) },
    }
}

/// How far a file is. Epochs are begun by older agents, too, which know nothing of twins.
type Stand = (Epoch, u64);

/// What is where a file should be.
enum Found {
    Missing,
    Damaged(String),
    Good(LedgerFile, Rows, Box<LedgerState>, Stand),
}

impl Found {
    fn stand(&self) -> Option<Stand> {
        match self {
            Found::Good(.., stand) => Some(*stand),
            Found::Missing | Found::Damaged(_) => None,
        }
    }

    fn why(&self) -> String {
        match self {
            Found::Missing => "is missing".to_owned(),
            Found::Damaged(why) => why.clone(),
            Found::Good(..) => "can be read".to_owned(),
        }
    }
}

impl Store {
    /// Opens or creates the ledger and begins a new epoch, durably, before anything is offered in
    /// it (rule R16). `boot` is the machine's boot id, `at_s` the seconds since 1970 by its wall clock: an epoch
    /// is that number at least, so that a ledger which was put back from a backup counts on where it had
    /// not been yet. A clock that is wrong makes it larger, or no difference. Also tells which files were damaged.
    pub fn open<S: Shelf>(
        shelf: &S,
        boot: &str,
        at_s: u64,
    ) -> Result<(Self, LedgerState, Vec<Damage>), StoreError> {
        let found = [find(shelf, Twin::Main)?, find(shelf, Twin::Second)?];
        let stands = [found[0].stand(), found[1].stand()];
        let is_new = matches!(found, [Found::Missing, Found::Missing]);
        let (rows, mut state) = match &found {
            [Found::Missing, Found::Missing] => (Rows::default(), Box::default()),
            [Found::Good(_, rows, state, _), _] if stands[0] >= stands[1] => {
                (rows.clone(), state.clone())
            }
            [_, Found::Good(_, rows, state, _)] => (rows.clone(), state.clone()),
            [main, twin] => {
                return Err(StoreError::Unreadable { main_why: main.why(), twin_why: twin.why() });
            }
        };
        let newest = stands[0].max(stands[1]);
        let [main, second] = found;
        let (main, main_damage) = settle(shelf, Twin::Main, main, &rows, newest)?;
        let (second, second_damage) = settle(shelf, Twin::Second, second, &rows, newest)?;
        let files = [main, second];
        let epoch = Epoch(at_s.max(state.epoch.0.saturating_add(1)));
        let store = Self { files, commits: AtomicU64::new(0), has_failed: AtomicBool::new(false) };
        let mut changes = Change::of_epoch(epoch).to_vec();
        // Jobs are taken before libvirt has answered for the first time: whoever finds them after a reboot has
        // to know of which boot they tell.
        if is_new {
            boot.clone_into(&mut state.boot_of_rows);
            changes.push(Change::of(&Write::Boot(boot.to_owned())));
        }
        store.write(&changes)?;
        let damage = [(Twin::Main, main_damage), (Twin::Second, second_damage)];
        let damage = damage
            .into_iter()
            .filter_map(|(twin, why)| shelf.aside(twin).map(|kept| Damage { twin, why, kept }));
        let damage = damage.collect();
        let state = LedgerState { epoch, boot: boot.to_owned(), ..*state };
        Ok((store, state, damage))
    }

    /// Makes all of these durable, or none. Blocks for one disk sync.
    ///
    /// # Errors
    /// Nobody knows whether they are durable then, and nothing more can be written: the next opening
    /// finds all of them, or none.
    pub fn commit(&self, writes: &[Write]) -> Result<(), StoreError> {
        let number = self.commits.fetch_add(1, Ordering::SeqCst) + 1;
        let mut changes: Vec<Change> = writes.iter().map(Change::of).collect();
        changes.push(Change::of_commit(number));
        self.write(&changes)
    }

    fn write(&self, changes: &[Change]) -> Result<(), StoreError> {
        if self.has_failed.load(Ordering::SeqCst) {
            return Err(StoreError::Over);
        }
        let [main, second] = &self.files;
        // At once: the disk syncs both for hardly more than one.
        let (first, other) = std::thread::scope(|scope| {
            let other = scope.spawn(|| second.commit(changes));
            (main.commit(changes), other.join())
        });
        let other = other.unwrap_or_else(|_| {
            Err(redb::Error::Corrupted("redb panicked while it wrote".to_owned()))
        });
        first.and(other).map_err(because("write")).inspect_err(|_| {
            self.has_failed.store(true, Ordering::SeqCst);
        })
    }
}

fn find<S: Shelf>(shelf: &S, twin: Twin) -> Result<Found, StoreError> {
    let failed = |what| move |source| StoreError::Shelf { what, twin, source };
    let Some(file) = shelf.open(twin).map_err(failed("open"))? else { return Ok(Found::Missing) };
    let (file, rows) = match LedgerFile::open(file) {
        Ok(opened) => opened,
        Err(error) if is_damage(&error) => return Ok(Found::Damaged(error.to_string())),
        Err(error) => return Err(because("open")(error)),
    };
    match rows.read() {
        Ok((state, commits)) => {
            let stand = (state.epoch, commits);
            Ok(Found::Good(file, rows, Box::new(state), stand))
        }
        Err(why) => Ok(Found::Damaged(why)),
    }
}

/// The file, as new as the newest; and what was wrong with it, if it was damaged.
fn settle<S: Shelf>(
    shelf: &S,
    twin: Twin,
    found: Found,
    rows: &Rows,
    newest: Option<Stand>,
) -> Result<(LedgerFile, Option<String>), StoreError> {
    let failed = |what| move |source| StoreError::Shelf { what, twin, source };
    let damage = match found {
        Found::Good(file, _, _, stand) if Some(stand) == newest => return Ok((file, None)),
        // The last agent died between the two, or was one that knows of one file only.
        Found::Good(..) | Found::Missing => None,
        Found::Damaged(why) => {
            shelf.put_aside(twin).map_err(failed("put aside"))?;
            Some(why)
        }
    };
    let fresh = shelf.fresh(twin).map_err(failed("make"))?;
    let file = LedgerFile::made_of(fresh, rows).map_err(because("copy"))?;
    shelf.put_in_place(twin).map_err(failed("put in place"))?;
    Ok((file, damage))
}

/// Whether the file is to blame, and not what is around it: a full disk mends itself, and who has no
/// right to a file finds nothing out about it.
fn is_damage(error: &redb::Error) -> bool {
    use redb::Error;
    match error {
        Error::Corrupted(_)
        | Error::UpgradeRequired(_)
        | Error::TableTypeMismatch { .. }
        | Error::TypeDefinitionChanged { .. }
        | Error::TableIsMultimap(_) => true,
        Error::Io(error) => {
            let unreadable = [rustix::io::Errno::IO, rustix::io::Errno::UCLEAN];
            // Without a number: the file ends where it should not, or is no such file.
            error.raw_os_error().is_none_or(|n| unreadable.iter().any(|e| e.raw_os_error() == n))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
