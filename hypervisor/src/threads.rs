//! Threads for calls that block: as many as there are calls, and each used again for a while.
//!
//! A call never waits for another: when no thread is idle, one is made. To make one for each call costs
//! more than most calls, and a start of a VM is some ten of them.
//!
//! ```text
//!   made ──▶ at work ──done──▶ idle ──▶ at work        idle ──nothing for a while──▶ ended
//! ```

use std::collections::VecDeque;
use std::ffi::CString;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{io, thread};

/// How long a thread waits for its next call: a burst of starts finds those of its beginning.
const IDLE: Duration = Duration::from_secs(5);

/// The threads of this process.
pub(crate) static THREADS: Threads = Threads::new();

/// Threads that are at work or idle.
#[derive(Debug)]
pub(crate) struct Threads {
    state: Mutex<State>,
    is_wanted: Condvar,
}

#[derive(Default)]
struct State {
    /// What is to be done by idle threads. Never more than there are.
    wanted: VecDeque<Piece>,
    idle: usize,
}

/// Something to do, and how the thread is called meanwhile.
struct Piece {
    name: String,
    body: Box<dyn FnOnce() + Send>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} idle threads wanted", self.wanted.len(), self.idle)
    }
}

impl Threads {
    const fn new() -> Self {
        let state = State { wanted: VecDeque::new(), idle: 0 };
        Self { state: Mutex::new(state), is_wanted: Condvar::new() }
    }

    /// Runs `body` at once on a thread that does nothing else meanwhile and is called `name`, as far as
    /// the kernel keeps it: 15 bytes.
    ///
    /// # Errors
    /// When a thread is needed and the kernel has none; nothing is run then.
    pub(crate) fn run(
        &'static self,
        name: String,
        body: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let piece = Piece { name, body: Box::new(body) };
        let mut state = self.lock();
        if state.idle > state.wanted.len() {
            state.wanted.push_back(piece);
            drop(state);
            self.is_wanted.notify_one();
            return Ok(());
        }
        drop(state);
        let named = thread::Builder::new().name(piece.name.clone());
        named.spawn(move || self.work(piece)).map(drop)
    }

    /// A panic ends the thread, which is not idle then and so is missed by nobody.
    fn work(&self, first: Piece) {
        (first.body)();
        while let Some(Piece { name, body }) = self.next() {
            if let Ok(name) = CString::new(name) {
                // It is for people who look at a process that hangs, and nothing else.
                let _ = rustix::thread::set_name(&name);
            }
            body();
        }
    }

    /// Waits for the next piece; `None`: nothing came.
    fn next(&self) -> Option<Piece> {
        let mut state = self.lock();
        state.idle += 1;
        let is_idle = |state: &mut State| state.wanted.is_empty();
        let waited = self.is_wanted.wait_timeout_while(state, IDLE, is_idle);
        (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.idle -= 1;
        state.wanted.pop_front()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whoever panics does so while it holds no lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::mpsc::channel;
    use std::thread::ThreadId;

    use super::*;

    fn threads() -> &'static Threads {
        Box::leak(Box::new(Threads::new()))
    }

    fn until_idle(threads: &Threads, count: usize) {
        while threads.lock().idle != count {
            thread::yield_now();
        }
    }

    fn id_of(threads: &'static Threads, name: &str) -> (ThreadId, String) {
        let (say, heard) = channel();
        let body = move || {
            let name = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
            say.send((thread::current().id(), name.trim().to_owned())).unwrap();
        };
        threads.run(name.to_owned(), body).unwrap();
        heard.recv().unwrap()
    }

    #[test]
    fn a_thread_is_used_again_and_called_by_what_it_does() {
        let threads = threads();
        let (first, name) = id_of(threads, "hvdefine");
        assert_eq!(name, "hvdefine");
        until_idle(threads, 1);
        assert_eq!(id_of(threads, "hvstart"), (first, "hvstart".to_owned()));
    }

    #[test]
    fn no_call_waits_for_another() {
        let threads = threads();
        for _ in 0..2 {
            // Each waits for all: with a thread less none would get through.
            let all = std::sync::Arc::new(Barrier::new(9));
            for _ in 0..8 {
                let all = std::sync::Arc::clone(&all);
                let wait = move || {
                    all.wait();
                };
                threads.run("hv".to_owned(), wait).unwrap();
            }
            all.wait();
        }
    }

    #[test]
    fn a_panic_takes_no_place_of_others() {
        let threads = threads();
        let (say, heard) = channel::<()>();
        threads
            .run("hv".to_owned(), move || {
                let _say = say;
                panic!("as it should");
            })
            .unwrap();
        assert!(heard.recv().is_err());
        id_of(threads, "hv");
        until_idle(threads, 1);
    }
}
