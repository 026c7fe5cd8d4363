//! The connection to libvirt: one at a time, and another one when it is lost.
//!
//! ```text
//!            open                    close callback, or a call that finds it dead
//!   Libvirt ──────▶ Connected(n) ──────────────────────────────────────────▶ Lost
//!                        ▲                                                     │
//!                        └──── re-opened by the supervisor, with back-off ─────┘  n + 1
//!   either ── leave ──▶ Left
//! ```
//!
//! Callbacks come on libvirt's only event thread, so they do no more than hand over what they were
//! told; a supervisor thread does the re-opening, which may block without limit.

use std::convert::Infallible;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use protocol::host::{Accel, HypervisorFacts};
use tokio::sync::mpsc;
use virt_sys as sys;

use super::ffi::{Connection, RawError};
use super::{LibvirtOptions, accel, embedded, words};
use crate::domain_xml::DriverKind;
use crate::error::{ErrorKind, HypervisorError};
use crate::event::WatchEvent;
use crate::hub::Hub;

/// Between two questions whether the daemon is there …
const KEEP_ALIVE_S: u16 = 5;
/// … and how many may stay unanswered: about 20 s in all, more than a busy daemon needs.
const KEEP_ALIVE_COUNT: u16 = 3;
/// First wait before re-opening: a daemon that was restarted is back in less.
const REOPEN_MIN: Duration = Duration::from_millis(200);
/// Longest wait before re-opening: an operator who has repaired it should not have to wait.
const REOPEN_MAX: Duration = Duration::from_secs(5);

/// The way to libvirt.
pub(super) struct Link {
    shared: Arc<Shared>,
}

struct Shared {
    options: LibvirtOptions,
    driver: DriverKind,
    state: Mutex<State>,
    facts: Mutex<HypervisorFacts>,
    hub: Arc<Hub>,
    notices: Mutex<Sender<Notice>>,
}

/// Which connection calls use.
enum State {
    /// The `generation`th one. Entered by opening.
    Connected { generation: u64, connection: Arc<Connection>, closed: Closed },
    /// None. Entered when the supervisor hears that the last one is lost.
    Lost { why: String },
    /// None any more. Entered by [`Link::leave`].
    Left,
}

/// Disconnected once the last user of a connection has closed it.
type Closed = Receiver<Infallible>;

/// What the supervisor is told.
enum Notice {
    /// The connection of this generation is gone.
    Lost { generation: u64, why: String },
    /// The hypervisor is being dropped.
    Stop,
}

impl Link {
    pub(super) fn open(options: LibvirtOptions) -> Result<Self, HypervisorError> {
        let what = format!("open {}", options.uri);
        let driver = driver_kind(&options.uri).ok_or_else(|| {
            let message = "use qemu:///system, qemu:///embed?root=DIR or test:///default";
            HypervisorError::new(&what, ErrorKind::Unsupported, message)
        })?;
        if let Some(root) = embedded::root(&options.uri) {
            embedded::prepare(&root)?;
        }
        let (sender, receiver) = channel();
        let hub = Arc::new(Hub::default());
        let opened = connect(&options.uri, driver, 1, &hub, &sender);
        let error = |raw: RawError| HypervisorError::new(&what, open_kind(&raw), raw.message);
        let (connection, closed) = opened.map_err(error)?;
        let facts = facts(&options, driver, &connection).map_err(error)?;
        let shared = Arc::new(Shared {
            options,
            driver,
            state: Mutex::new(State::connected(1, connection, closed)),
            facts: Mutex::new(facts),
            hub,
            notices: Mutex::new(sender),
        });
        let supervised = Arc::clone(&shared);
        thread::Builder::new()
            .name("libvirt-link".to_owned())
            .spawn(move || supervise(&supervised, &receiver))
            .map_err(|cause| HypervisorError::new(&what, ErrorKind::Failed, cause.to_string()))?;
        Ok(Self { shared })
    }

    pub(super) fn driver(&self) -> DriverKind {
        self.shared.driver
    }

    pub(super) fn facts(&self) -> HypervisorFacts {
        lock(&self.shared.facts).clone()
    }

    pub(super) fn watch(&self) -> mpsc::Receiver<WatchEvent> {
        self.shared.hub.watch()
    }

    /// The connection, for one operation.
    pub(super) fn connection(&self, what: &str) -> Result<Arc<Connection>, HypervisorError> {
        match &*lock(&self.shared.state) {
            State::Connected { connection, .. } => Ok(Arc::clone(connection)),
            State::Lost { why } => Err(not_tried(what, why)),
            State::Left => Err(not_tried(what, "the agent is stopping")),
        }
    }

    /// Takes leave of the daemon: nothing new is asked, what was asked may be answered within this time,
    /// and then the connection is closed. False when an answer is still due.
    ///
    /// A daemon that finds a client gone amid its calls may crash: libvirtd 9.0 did so once in about a
    /// thousand such ends, and not once in eight thousand leaves.
    pub(super) fn leave(&self, within: Duration) -> bool {
        let before = std::mem::replace(&mut *lock(&self.shared.state), State::Left);
        notify(&lock(&self.shared.notices), Notice::Stop);
        let State::Connected { connection, closed, .. } = before else { return true };
        // Closing calls libvirt, and a daemon that hangs answers that as little as anything else.
        let closing = thread::Builder::new().name("libvirt-leave".to_owned());
        let is_closing = closing.spawn(move || drop(connection)).is_ok();
        is_closing && matches!(closed.recv_timeout(within), Err(RecvTimeoutError::Disconnected))
    }

    /// Gives an error its kind. libvirt reports a dead connection in many ways, and a daemon's own
    /// trouble with *another* daemon in the same ones, so the connection itself is asked.
    pub(super) fn error(
        &self,
        what: &str,
        connection: &Arc<Connection>,
        raw: RawError,
    ) -> HypervisorError {
        if connection.is_alive() {
            return HypervisorError::new(what, words::kind(&raw), raw.message);
        }
        if let State::Connected { generation, connection: current, .. } = &*lock(&self.shared.state)
            && Arc::ptr_eq(current, connection)
        {
            let lost = Notice::Lost { generation: *generation, why: raw.message.clone() };
            notify(&lock(&self.shared.notices), lost);
        }
        HypervisorError::new(what, ErrorKind::Disconnected, raw.message)
    }
}

impl State {
    fn connected(generation: u64, connection: Connection, closed: Closed) -> Self {
        Self::Connected { generation, connection: Arc::new(connection), closed }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        notify(&lock(&self.shared.notices), Notice::Stop);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn notify(notices: &Sender<Notice>, notice: Notice) {
    // A supervisor that has stopped needs no notices.
    drop(notices.send(notice));
}

fn not_tried(what: &str, why: &str) -> HypervisorError {
    HypervisorError::new(what, ErrorKind::Disconnected, format!("not tried: {why}"))
}

fn driver_kind(uri: &str) -> Option<DriverKind> {
    match uri {
        _ if embedded::root(uri).is_some() => Some(DriverKind::QemuEmbedded),
        "qemu:///embed" => None,
        _ if uri.starts_with("qemu:///embed") => None,
        _ if uri.starts_with("qemu") => Some(DriverKind::Qemu),
        _ if uri.starts_with("test:") => Some(DriverKind::Test),
        _ => None,
    }
}

/// Without a connection there is nothing to ask: whatever the wire reports means no daemon.
fn open_kind(raw: &RawError) -> ErrorKind {
    if words::is_from_wire(raw) { ErrorKind::Disconnected } else { words::kind(raw) }
}

/// Opens a connection that reports its events and its end.
fn connect(
    uri: &str,
    driver: DriverKind,
    generation: u64,
    hub: &Arc<Hub>,
    notices: &Sender<Notice>,
) -> Result<(Connection, Closed), RawError> {
    let (connection, closed) = Connection::open(uri)?;
    if driver == DriverKind::Qemu {
        connection.set_keep_alive(KEEP_ALIVE_S, KEEP_ALIVE_COUNT)?;
        let notices = notices.clone();
        connection.on_close(Box::new(move |reason| {
            let why = close_reason(reason).to_owned();
            notify(&notices, Notice::Lost { generation, why });
        }))?;
    }
    let publisher = |hub: &Arc<Hub>| {
        let hub = Arc::clone(hub);
        Box::new(move |raw| {
            if let Some(event) = words::event(raw) {
                hub.publish(&WatchEvent::Domain(event));
            }
        })
    };
    connection.on_lifecycle(publisher(hub))?;
    connection.on_reboot(publisher(hub))?;
    connection.on_agent(publisher(hub))?;
    // An embedded driver has no networks.
    if driver != DriverKind::QemuEmbedded {
        let hub = Arc::clone(hub);
        connection.on_network(Box::new(move || hub.publish(&WatchEvent::NetworksChanged)))?;
    }
    Ok((connection, closed))
}

fn close_reason(reason: u32) -> &'static str {
    match reason {
        sys::VIR_CONNECT_CLOSE_REASON_EOF => "libvirt's daemon has closed the connection",
        sys::VIR_CONNECT_CLOSE_REASON_KEEPALIVE => "libvirt's daemon does not answer",
        sys::VIR_CONNECT_CLOSE_REASON_CLIENT => "the connection was closed from this side",
        _ => "the connection to libvirt's daemon broke",
    }
}

fn facts(
    options: &LibvirtOptions,
    driver: DriverKind,
    connection: &Connection,
) -> Result<HypervisorFacts, RawError> {
    let (accel, accel_reason) = match driver {
        DriverKind::Test => (Accel::None, Some("libvirt's test driver only pretends".to_owned())),
        DriverKind::Qemu | DriverKind::QemuEmbedded => accel::choose(connection, options.accel),
    };
    Ok(HypervisorFacts {
        uri: options.uri.clone(),
        driver: connection.driver()?,
        libvirt_version: words::version(connection.libvirt_version()?),
        accel,
        accel_reason,
        can_receive: driver == DriverKind::Qemu,
        can_guard: false,
    })
}

/// Waits for losses and repairs them, until the hypervisor is dropped.
fn supervise(shared: &Shared, notices: &Receiver<Notice>) {
    while let Ok(notice) = notices.recv() {
        match notice {
            Notice::Stop => return,
            Notice::Lost { generation, why } => {
                if become_lost(shared, generation, why)
                    && !reopen_until_connected(shared, generation, notices)
                {
                    return;
                }
            }
        }
    }
}

/// False when that connection was replaced long ago.
fn become_lost(shared: &Shared, lost: u64, why: String) -> bool {
    let mut state = lock(&shared.state);
    if !matches!(&*state, State::Connected { generation, .. } if *generation == lost) {
        return false;
    }
    tracing::warn!(uri = shared.options.uri, why, "libvirt is away");
    let before = std::mem::replace(&mut *state, State::Lost { why: why.clone() });
    drop(state);
    // Freeing a connection calls libvirt; nobody must wait for that lock meanwhile.
    drop(before);
    shared.hub.publish(&WatchEvent::Disconnected { message: why });
    true
}

/// False when it was told to stop.
fn reopen_until_connected(shared: &Shared, lost: u64, notices: &Receiver<Notice>) -> bool {
    let sender = lock(&shared.notices).clone();
    let mut pause = REOPEN_MIN;
    // Each attempt has a number of its own: late news of a failed one must not end its successor.
    for generation in lost + 1.. {
        let opened = connect(&shared.options.uri, shared.driver, generation, &shared.hub, &sender)
            .and_then(|(connection, closed)| {
                let facts = facts(&shared.options, shared.driver, &connection)?;
                Ok((State::connected(generation, connection, closed), facts))
            });
        match opened {
            Ok((state, facts)) => return become_connected(shared, state, facts),
            Err(raw) => {
                let why = format!("open {}: {}", shared.options.uri, raw.message);
                tracing::debug!(why, "libvirt is still away");
                if !become_if_not_left(shared, State::Lost { why }) {
                    return false;
                }
            }
        }
        match notices.recv_timeout(pause) {
            Ok(Notice::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
            // Late news of a connection that is lost already, or of one that failed half-way.
            Ok(Notice::Lost { .. }) | Err(RecvTimeoutError::Timeout) => {}
        }
        pause = (pause * 2).min(REOPEN_MAX);
    }
    unreachable!("generations do not run out")
}

/// False when the agent has left meanwhile.
fn become_connected(shared: &Shared, state: State, facts: HypervisorFacts) -> bool {
    *lock(&shared.facts) = facts;
    if !become_if_not_left(shared, state) {
        return false;
    }
    tracing::info!(uri = shared.options.uri, "libvirt is back");
    shared.hub.publish(&WatchEvent::Reconnected);
    true
}

fn become_if_not_left(shared: &Shared, next: State) -> bool {
    let mut state = lock(&shared.state);
    let has_left = matches!(*state, State::Left);
    if !has_left {
        *state = next;
    }
    !has_left
}
