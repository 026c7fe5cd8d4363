//! libvirt's C functions as safe values: a handle frees what it owns, a call returns its error.
//!
//! This and the modules below it are the only ones with `unsafe` code. libvirt keeps its last error per thread, so it is read
//! right after the failing call, on the same thread. Nothing here decides what an error means.

#![expect(unsafe_code, reason = "libvirt is a C library; everything unsafe is kept in this module")]

mod console;
pub(super) use console::{Console, HeardFn};

mod domain;
pub(super) use domain::Domain;

mod events;
pub(super) use events::{RawEvent, RawWhat};

mod network;
pub(super) use network::Network;

mod screen;

mod stats;
pub(super) use stats::{Counted, Stat, TypedParams};

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::os::raw::{c_char, c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, Once, PoisonError};
use std::thread;
use std::time::Duration;

use uuid::Uuid;
use virt_sys as sys;

/// An error as libvirt reports it.
#[derive(Debug, Clone)]
pub(super) struct RawError {
    /// `virErrorNumber`.
    pub(super) code: u32,
    /// `virErrorDomain`: the part of libvirt that failed.
    pub(super) domain: u32,
    /// For people.
    pub(super) message: String,
}

impl RawError {
    /// The error of the libvirt call that has just failed on this thread.
    fn last() -> Self {
        // SAFETY: no arguments; the result is null or points to this thread's error, which stays
        // until the next libvirt call of this thread.
        let error = unsafe { sys::virGetLastError().as_ref() };
        error.map_or_else(
            || Self { code: 0, domain: 0, message: "libvirt gave no reason".to_owned() },
            |error| Self {
                code: error.code.unsigned_abs(),
                domain: error.domain.unsigned_abs(),
                // SAFETY: `message` is null or a C string owned by the error.
                message: unsafe { copy_text(error.message) },
            },
        )
    }

    /// An error of ours, in libvirt's terms.
    pub(super) fn own(code: u32, message: String) -> Self {
        Self { code, domain: 0, message }
    }

    /// A text that C can't hold.
    fn nul_byte() -> Self {
        let message = "text contains a NUL byte".to_owned();
        Self { code: sys::VIR_ERR_INVALID_ARG, domain: 0, message }
    }
}

/// Copies a C string; empty for null.
///
/// # Safety
/// `text` is null or points to a NUL-terminated string.
unsafe fn copy_text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: not null, and a C string by the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Copies and frees a C string that libvirt has allocated for us.
///
/// # Safety
/// `text` is null or was allocated with `malloc` and is used nowhere else.
unsafe fn take_text(text: *mut c_char) -> Result<String, RawError> {
    if text.is_null() {
        return Err(RawError::last());
    }
    // SAFETY: not null, a C string, and ours to free, by the caller's promise.
    unsafe {
        let copy = copy_text(text);
        libc::free(text.cast());
        Ok(copy)
    }
}

fn c_text(text: &str) -> Result<CString, RawError> {
    CString::new(text).map_err(|_| RawError::nul_byte())
}

fn check(result: c_int) -> Result<c_int, RawError> {
    if result < 0 { Err(RawError::last()) } else { Ok(result) }
}

/// Starts libvirt's event loop, once per process. It must run before a connection is opened that
/// wants events, and it never stops.
pub(super) fn start_event_loop() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        // SAFETY: a static function without data; it replaces libvirt's habit of printing every
        // error to stderr. Called before any other function of libvirt.
        unsafe { sys::virSetErrorFunc(ptr::null_mut(), Some(ignore_error)) };
        // SAFETY: no arguments; called once, before any connection exists.
        check(unsafe { sys::virEventRegisterDefaultImpl() })
            .unwrap_or_else(|error| panic!("register libvirt's event loop: {}", error.message));
        thread::Builder::new()
            .name("libvirt-events".to_owned())
            .spawn(|| {
                loop {
                    // SAFETY: no arguments; the default implementation is registered, and this is
                    // the only thread that runs it.
                    if let Err(error) = check(unsafe { sys::virEventRunDefaultImpl() }) {
                        tracing::error!(error = error.message, "libvirt's event loop failed");
                        thread::sleep(Duration::from_millis(100));
                    }
                }
            })
            .expect("start the thread of libvirt's event loop");
    });
}

unsafe extern "C" fn ignore_error(_data: *mut c_void, _error: sys::virErrorPtr) {}

/// A connection. Calls from several threads run concurrently.
pub(super) struct Connection {
    ptr: NonNull<sys::_virConnect>,
    /// Each registration keeps the connection alive inside libvirt, so they must go first.
    event_callbacks: Mutex<Vec<c_int>>,
    network_callbacks: Mutex<Vec<c_int>>,
    /// Goes last: who holds its other end learns that the connection has been closed.
    _open: Sender<Infallible>,
}

// SAFETY: libvirt's connections may be used from any thread, and by several at once.
unsafe impl Send for Connection {}
// SAFETY: as above.
unsafe impl Sync for Connection {}

impl Connection {
    /// Opens a connection. Blocks without limit when the daemon hangs. The receiver is disconnected
    /// when it has been closed, which its last user does.
    pub(super) fn open(uri: &str) -> Result<(Self, Receiver<Infallible>), RawError> {
        start_event_loop();
        let uri = c_text(uri)?;
        // SAFETY: a C string that outlives the call.
        let ptr = NonNull::new(unsafe { sys::virConnectOpen(uri.as_ptr()) });
        let ptr = ptr.ok_or_else(RawError::last)?;
        let (open, closed) = channel();
        let (event_callbacks, network_callbacks) = Default::default();
        Ok((Self { ptr, event_callbacks, network_callbacks, _open: open }, closed))
    }

    /// False only when libvirt knows that the connection is gone.
    pub(super) fn is_alive(&self) -> bool {
        // SAFETY: the connection is open. -1 means that the driver can't tell.
        unsafe { sys::virConnectIsAlive(self.ptr.as_ptr()) != 0 }
    }

    /// Gives up a daemon that leaves `count` questions, `interval_s` apart, unanswered.
    pub(super) fn set_keep_alive(&self, interval_s: u16, count: u16) -> Result<(), RawError> {
        // SAFETY: the connection is open.
        let result = unsafe {
            sys::virConnectSetKeepAlive(self.ptr.as_ptr(), interval_s.into(), count.into())
        };
        check(result).map(drop)
    }

    fn keep_network_callback(&self, id: c_int) {
        self.network_callbacks.lock().unwrap_or_else(PoisonError::into_inner).push(id);
    }

    /// The driver's name.
    pub(super) fn driver(&self) -> Result<String, RawError> {
        // SAFETY: the connection is open; the result is null or a static C string.
        let name = unsafe { sys::virConnectGetType(self.ptr.as_ptr()) };
        if name.is_null() {
            return Err(RawError::last());
        }
        // SAFETY: not null.
        Ok(unsafe { copy_text(name) })
    }

    /// libvirt's version at the other end, as major × 1 000 000 + minor × 1 000 + release.
    pub(super) fn libvirt_version(&self) -> Result<u64, RawError> {
        let mut version = 0;
        // SAFETY: the connection is open; `version` is ours.
        check(unsafe { sys::virConnectGetLibVersion(self.ptr.as_ptr(), &raw mut version) })?;
        Ok(version)
    }

    /// What the machine and libvirt's drivers have, as XML.
    pub(super) fn capabilities(&self) -> Result<String, RawError> {
        // SAFETY: the connection is open; the result is ours.
        unsafe { take_text(sys::virConnectGetCapabilities(self.ptr.as_ptr())) }
    }

    /// What guests of this virtualisation type may have; an error when there can be none.
    pub(super) fn domain_capabilities(&self, virt_type: &str) -> Result<String, RawError> {
        let virt_type = c_text(virt_type)?;
        let default = ptr::null();
        // SAFETY: the connection is open; null arguments stand for defaults; the result is ours.
        unsafe {
            take_text(sys::virConnectGetDomainCapabilities(
                self.ptr.as_ptr(),
                default,
                default,
                default,
                virt_type.as_ptr(),
                0,
            ))
        }
    }

    /// CPUs, and memory in KiB.
    pub(super) fn node(&self) -> Result<(u32, u64), RawError> {
        // SAFETY: plain numbers, for which zero is a value.
        let mut info: sys::virNodeInfo = unsafe { std::mem::zeroed() };
        // SAFETY: the connection is open; `info` is ours.
        check(unsafe { sys::virNodeGetInfo(self.ptr.as_ptr(), &raw mut info) })?;
        Ok((info.cpus, info.memory))
    }

    /// Makes or replaces a definition.
    pub(super) fn define(&self, xml: &str) -> Result<Domain, RawError> {
        let xml = c_text(xml)?;
        // SAFETY: the connection is open; a C string that outlives the call.
        let ptr = unsafe { sys::virDomainDefineXMLFlags(self.ptr.as_ptr(), xml.as_ptr(), 0) };
        Domain::from_owned(ptr)
    }

    /// The domain with this uuid.
    pub(super) fn domain(&self, uuid: Uuid) -> Result<Domain, RawError> {
        let bytes = uuid.into_bytes();
        // SAFETY: the connection is open; libvirt reads 16 bytes, which there are.
        let ptr = unsafe { sys::virDomainLookupByUUID(self.ptr.as_ptr(), bytes.as_ptr()) };
        Domain::from_owned(ptr)
    }

    /// The domain with this name.
    pub(super) fn domain_named(&self, name: &str) -> Result<Domain, RawError> {
        let name = c_text(name)?;
        // SAFETY: the connection is open; a C string that outlives the call.
        let ptr = unsafe { sys::virDomainLookupByName(self.ptr.as_ptr(), name.as_ptr()) };
        Domain::from_owned(ptr)
    }

    /// Every domain.
    pub(super) fn domains(&self) -> Result<Vec<Domain>, RawError> {
        let mut array = ptr::null_mut();
        // SAFETY: the connection is open; `array` is ours.
        let result = unsafe { sys::virConnectListAllDomains(self.ptr.as_ptr(), &raw mut array, 0) };
        let count = usize::try_from(check(result)?).expect("checked to be no error");
        // SAFETY: on success libvirt has allocated `count` domains for us, and the array itself.
        unsafe {
            let domains =
                (0..count).map(|i| Domain::from_owned(*array.add(i))).collect::<Result<_, _>>();
            libc::free(array.cast());
            domains
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let callbacks = self.event_callbacks.get_mut().unwrap_or_else(PoisonError::into_inner);
        for callback in callbacks.drain(..) {
            // SAFETY: the connection is open. It may fail on a dead one; libvirt then forgets the
            // callback with the connection.
            unsafe { sys::virConnectDomainEventDeregisterAny(self.ptr.as_ptr(), callback) };
        }
        let callbacks = self.network_callbacks.get_mut().unwrap_or_else(PoisonError::into_inner);
        for callback in callbacks.drain(..) {
            // SAFETY: as above.
            unsafe { sys::virConnectNetworkEventDeregisterAny(self.ptr.as_ptr(), callback) };
        }
        // SAFETY: the connection is open, and its last user is here: domains hold references of
        // their own inside libvirt.
        unsafe {
            sys::virConnectUnregisterCloseCallback(self.ptr.as_ptr(), Some(events::closed));
            sys::virConnectClose(self.ptr.as_ptr());
        }
    }
}

/// A thin pointer to a closure, for libvirt to keep.
fn leak<F>(f: F) -> *mut c_void {
    Box::into_raw(Box::new(f)).cast()
}

/// # Safety
/// `opaque` comes from `leak::<F>` and is used no more.
unsafe extern "C" fn free_boxed<F>(opaque: *mut c_void) {
    // SAFETY: by the caller's promise.
    drop(unsafe { Box::from_raw(opaque.cast::<F>()) });
}
