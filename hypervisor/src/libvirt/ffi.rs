//! libvirt's C functions as safe values: a handle frees what it owns, a call returns its error.
//!
//! This and the modules below it are the only ones with `unsafe` code. libvirt keeps its last error per thread, so it is read
//! right after the failing call, on the same thread. Nothing here decides what an error means.

#![expect(unsafe_code, reason = "libvirt is a C library; everything unsafe is kept in this module")]

use std::collections::BTreeMap;
mod network;
pub(super) use network::Network;
mod screen;

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

use crate::cards::Listed;

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

/// What libvirt told a lifecycle callback.
#[derive(Debug, Clone)]
pub(super) struct RawEvent {
    pub(super) uuid: Uuid,
    pub(super) name: String,
    pub(super) what: RawWhat,
}

/// Which callback it was.
#[derive(Debug, Clone, Copy)]
pub(super) enum RawWhat {
    /// `virDomainEventType` and its detail.
    Lifecycle(u32, u32),
    /// The guest has rebooted.
    Reboot,
    /// The guest's agent has opened or closed its channel.
    Agent,
}

/// Called on libvirt's event thread; must not block nor call libvirt.
type EventFn = Box<dyn Fn(RawEvent) + Send + Sync>;
/// Called when the connection is lost; must not block nor call libvirt.
type CloseFn = Box<dyn Fn(u32) + Send + Sync>;

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

    /// Has `f` called when the connection is lost.
    pub(super) fn on_close(&self, f: CloseFn) -> Result<(), RawError> {
        let opaque = leak(f);
        // SAFETY: the connection is open; `opaque` is what `closed` expects and `free_boxed::<CloseFn>`
        // frees.
        let result = unsafe {
            sys::virConnectRegisterCloseCallback(
                self.ptr.as_ptr(),
                Some(closed),
                opaque,
                Some(free_boxed::<CloseFn>),
            )
        };
        check(result).map(drop).inspect_err(|_| {
            // SAFETY: libvirt has refused it, so it is still ours.
            unsafe { free_boxed::<CloseFn>(opaque) };
        })
    }

    /// Has `f` called for each lifecycle event of any domain.
    pub(super) fn on_lifecycle(&self, f: EventFn) -> Result<(), RawError> {
        type Callback = unsafe extern "C" fn(
            sys::virConnectPtr,
            sys::virDomainPtr,
            c_int,
            c_int,
            *mut c_void,
        ) -> c_int;
        // SAFETY: libvirt asks for this cast: it calls the function with the arguments that belong
        // to the event id, which for lifecycle events are exactly `Callback`'s.
        let callback = unsafe { std::mem::transmute::<Callback, GenericCallback>(on_lifecycle) };
        self.on_event(sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, callback, f)
    }

    /// Has `f` called for each reboot of any guest.
    pub(super) fn on_reboot(&self, f: EventFn) -> Result<(), RawError> {
        self.on_event(sys::VIR_DOMAIN_EVENT_ID_REBOOT, on_reboot, f)
    }

    /// Has `f` called whenever the agent in a guest comes up or goes.
    pub(super) fn on_agent(&self, f: EventFn) -> Result<(), RawError> {
        type Callback =
            unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, c_int, *mut c_void);
        // SAFETY: as in `on_lifecycle`; `Callback` is what libvirt calls for this event id.
        let callback = unsafe { std::mem::transmute::<Callback, GenericCallback>(on_agent) };
        self.on_event(sys::VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, callback, f)
    }

    fn keep_network_callback(&self, id: c_int) {
        self.network_callbacks.lock().unwrap_or_else(PoisonError::into_inner).push(id);
    }

    fn on_event(&self, id: u32, callback: GenericCallback, f: EventFn) -> Result<(), RawError> {
        let opaque = leak(f);
        let id = c_int::try_from(id).expect("event ids are small");
        // SAFETY: the connection is open; null stands for all domains; `opaque` is what the callback
        // expects and `free_boxed::<EventFn>` frees.
        let result = unsafe {
            sys::virConnectDomainEventRegisterAny(
                self.ptr.as_ptr(),
                ptr::null_mut(),
                id,
                Some(callback),
                opaque,
                Some(free_boxed::<EventFn>),
            )
        };
        let callback_id = check(result).inspect_err(|_| {
            // SAFETY: libvirt has refused it, so it is still ours.
            unsafe { free_boxed::<EventFn>(opaque) };
        })?;
        self.event_callbacks.lock().unwrap_or_else(PoisonError::into_inner).push(callback_id);
        Ok(())
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

    /// What is counted of every domain with a process, without waiting for those that something is
    /// being done with.
    pub(super) fn stats(&self) -> Result<Vec<Counted>, RawError> {
        let which = sys::VIR_DOMAIN_STATS_CPU_TOTAL
            | sys::VIR_DOMAIN_STATS_BALLOON
            | sys::VIR_DOMAIN_STATS_INTERFACE
            | sys::VIR_DOMAIN_STATS_BLOCK;
        let flags = sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
            | sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT;
        let mut array: *mut sys::virDomainStatsRecordPtr = ptr::null_mut();
        // SAFETY: the connection is open; on success `array` is set to an array of libvirt's.
        let result = unsafe {
            sys::virConnectGetAllDomainStats(self.ptr.as_ptr(), which, &raw mut array, flags)
        };
        let count = usize::try_from(check(result)?).expect("checked to be no error");
        // SAFETY: the array has `count` valid records, each with a domain and `nparams` parameters,
        // until it is freed here with all of them.
        unsafe {
            let records = (0..count).map(|i| {
                let record = &**array.add(i);
                let params = usize::try_from(record.nparams).unwrap_or(0);
                let stats = (0..params).filter_map(|n| stat(&*record.params.add(n))).collect();
                // A handle of our own: the record frees the one that it has.
                sys::virDomainRef(record.dom);
                let domain = Domain::from_owned(record.dom)?;
                Ok(Counted { uuid: domain.uuid(), name: domain.name(), stats })
            });
            let records = records.collect();
            sys::virDomainStatsRecordListFree(array);
            records
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
            sys::virConnectUnregisterCloseCallback(self.ptr.as_ptr(), Some(closed));
            sys::virConnectClose(self.ptr.as_ptr());
        }
    }
}

type GenericCallback = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *mut c_void);

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

unsafe extern "C" fn closed(_conn: sys::virConnectPtr, reason: c_int, opaque: *mut c_void) {
    // SAFETY: registered together with a leaked `CloseFn`, which lives until `free_boxed`.
    let f = unsafe { &*opaque.cast::<CloseFn>() };
    f(reason.unsigned_abs());
}

unsafe extern "C" fn on_lifecycle(
    _conn: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    event: c_int,
    detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    let what = RawWhat::Lifecycle(event.unsigned_abs(), detail.unsigned_abs());
    // SAFETY: libvirt lends us the domain; `opaque` was registered as a leaked `EventFn`.
    unsafe { deliver(domain, what, opaque) };
    0
}

unsafe extern "C" fn on_reboot(
    _conn: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    opaque: *mut c_void,
) {
    // SAFETY: as in `on_lifecycle`.
    unsafe { deliver(domain, RawWhat::Reboot, opaque) };
}

unsafe extern "C" fn on_agent(
    _conn: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _state: c_int,
    _reason: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: as in `on_lifecycle`.
    unsafe { deliver(domain, RawWhat::Agent, opaque) };
}

/// # Safety
/// `domain` is valid during the call; `opaque` comes from `leak::<EventFn>`.
unsafe fn deliver(domain: sys::virDomainPtr, what: RawWhat, opaque: *mut c_void) {
    let mut bytes = [0; 16];
    // SAFETY: the domain is valid and `bytes` has the 16 bytes that libvirt writes. Name and uuid
    // are kept in the handle, so this asks nobody. `opaque` is a leaked `EventFn`.
    let (name, f) = unsafe {
        sys::virDomainGetUUID(domain, bytes.as_mut_ptr());
        (copy_text(sys::virDomainGetName(domain)), &*opaque.cast::<EventFn>())
    };
    f(RawEvent { uuid: Uuid::from_bytes(bytes), name, what });
}

/// Numbers that libvirt knows of a guest's memory; more than there are today.
const STATS_MAX: usize = 32;

/// What a guest has said of its memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct MemoryStats {
    /// What it could give away without missing it.
    pub(super) usable_kib: Option<u64>,
    /// When it said so, in seconds; `None`: never.
    pub(super) last_update: Option<u64>,
}

/// A domain. It keeps its connection open.
pub(super) struct Domain(NonNull<sys::_virDomain>);

// SAFETY: libvirt's objects may be used from any thread, and by several at once.
unsafe impl Send for Domain {}
// SAFETY: as above.
unsafe impl Sync for Domain {}

impl Domain {
    fn from_owned(ptr: sys::virDomainPtr) -> Result<Self, RawError> {
        NonNull::new(ptr).map(Self).ok_or_else(RawError::last)
    }

    fn ptr(&self) -> sys::virDomainPtr {
        self.0.as_ptr()
    }

    pub(super) fn uuid(&self) -> Uuid {
        let mut bytes = [0; 16];
        // SAFETY: the domain is valid and `bytes` has the 16 bytes that libvirt writes.
        unsafe { sys::virDomainGetUUID(self.ptr(), bytes.as_mut_ptr()) };
        Uuid::from_bytes(bytes)
    }

    pub(super) fn name(&self) -> String {
        // SAFETY: the domain is valid; the name lives as long as it.
        unsafe { copy_text(sys::virDomainGetName(self.ptr())) }
    }

    /// `virDomainState` and its reason.
    pub(super) fn state(&self) -> Result<(u32, u32), RawError> {
        let (mut state, mut reason) = (0, 0);
        // SAFETY: the domain is valid; both numbers are ours.
        let result =
            unsafe { sys::virDomainGetState(self.ptr(), &raw mut state, &raw mut reason, 0) };
        check(result)?;
        Ok((state.unsigned_abs(), reason.unsigned_abs()))
    }

    /// CPUs, memory in KiB, and what of it the guest has not given back.
    pub(super) fn size(&self) -> Result<(u32, u64, u64), RawError> {
        // SAFETY: plain numbers, for which zero is a value.
        let mut info: sys::virDomainInfo = unsafe { std::mem::zeroed() };
        // SAFETY: the domain is valid; `info` is ours.
        check(unsafe { sys::virDomainGetInfo(self.ptr(), &raw mut info) })?;
        Ok((info.nrVirtCpu.into(), info.maxMem, info.memory))
    }

    pub(super) fn set_vcpus(&self, vcpus: u32, flags: u32) -> Result<(), RawError> {
        // SAFETY: the domain is valid.
        check(unsafe { sys::virDomainSetVcpusFlags(self.ptr(), vcpus, flags) }).map(drop)
    }

    pub(super) fn set_memory(&self, kib: u64, flags: u32) -> Result<(), RawError> {
        // SAFETY: the domain is valid.
        check(unsafe { sys::virDomainSetMemoryFlags(self.ptr(), kib, flags) }).map(drop)
    }

    /// How often a guest says how much memory it uses, in seconds; 0 for never.
    pub(super) fn set_memory_stats_period(&self, s: u16, flags: u32) -> Result<(), RawError> {
        // SAFETY: the domain is valid.
        check(unsafe { sys::virDomainSetMemoryStatsPeriod(self.ptr(), s.into(), flags) }).map(drop)
    }

    /// What the guest has said last of its memory.
    pub(super) fn memory_stats(&self) -> Result<MemoryStats, RawError> {
        let mut said = [sys::virDomainMemoryStatStruct { tag: 0, val: 0 }; STATS_MAX];
        let room = u32::try_from(said.len()).expect("a handful");
        // SAFETY: the domain is valid; libvirt writes at most `room` entries of the array.
        let count =
            check(unsafe { sys::virDomainMemoryStats(self.ptr(), said.as_mut_ptr(), room, 0) })?;
        let count = usize::try_from(count).expect("checked to be no error");
        let of = |tag: u32| {
            let found = said[..count].iter().find(|stat| stat.tag.unsigned_abs() == tag);
            found.map(|stat| stat.val)
        };
        Ok(MemoryStats {
            usable_kib: of(sys::VIR_DOMAIN_MEMORY_STAT_USABLE),
            last_update: of(sys::VIR_DOMAIN_MEMORY_STAT_LAST_UPDATE),
        })
    }

    /// Plugs a device in.
    pub(super) fn attach(&self, device: &str, flags: u32) -> Result<(), RawError> {
        let device = c_text(device)?;
        // SAFETY: the domain is valid; a C string that outlives the call.
        check(unsafe { sys::virDomainAttachDeviceFlags(self.ptr(), device.as_ptr(), flags) })
            .map(drop)
    }

    pub(super) fn is_persistent(&self) -> Result<bool, RawError> {
        // SAFETY: the domain is valid.
        Ok(check(unsafe { sys::virDomainIsPersistent(self.ptr()) })? == 1)
    }

    /// The element with this namespace in the domain's metadata.
    pub(super) fn metadata(&self, namespace: &str) -> Result<String, RawError> {
        let namespace = c_text(namespace)?;
        let kind = metadata_element();
        // SAFETY: the domain is valid; a C string that outlives the call; the result is ours.
        unsafe { take_text(sys::virDomainGetMetadata(self.ptr(), kind, namespace.as_ptr(), 0)) }
    }

    /// Replaces or takes out the element with this namespace, now and in the definition.
    pub(super) fn set_metadata(
        &self,
        prefix: &str,
        namespace: &str,
        element: Option<&str>,
        flags: u32,
    ) -> Result<(), RawError> {
        let (prefix, namespace) = (c_text(prefix)?, c_text(namespace)?);
        let element = element.map(c_text).transpose()?;
        let text = element.as_ref().map_or(ptr::null(), |element| element.as_ptr());
        // SAFETY: the domain is valid; C strings that outlive the call, and null for "none".
        check(unsafe {
            sys::virDomainSetMetadata(
                self.ptr(),
                metadata_element(),
                text,
                prefix.as_ptr(),
                namespace.as_ptr(),
                flags,
            )
        })
        .map(drop)
    }

    /// Hardware addresses and IP addresses of its interfaces, as one of `virDomainInterfaceAddressesSource`
    /// has them.
    pub(super) fn interfaces(&self, source: u32) -> Result<Vec<Listed>, RawError> {
        let mut array = ptr::null_mut();
        // SAFETY: the domain is valid; `array` is ours.
        let result =
            unsafe { sys::virDomainInterfaceAddresses(self.ptr(), &raw mut array, source, 0) };
        let count = usize::try_from(check(result)?).expect("checked to be no error");
        // SAFETY: on success libvirt has allocated `count` interfaces for us, and the array itself.
        unsafe {
            let interfaces = (0..count).map(|i| take_interface(*array.add(i))).collect();
            libc::free(array.cast());
            Ok(interfaces)
        }
    }

    /// How long the guest's agent may take to answer whatever it is asked, in seconds, or one of
    /// `virDomainAgentResponseTimeoutValues`.
    pub(super) fn set_agent_timeout(&self, timeout: c_int) -> Result<(), RawError> {
        // SAFETY: the domain is valid.
        check(unsafe { sys::virDomainAgentSetResponseTimeout(self.ptr(), timeout, 0) }).map(drop)
    }

    pub(super) fn xml(&self, flags: u32) -> Result<String, RawError> {
        // SAFETY: the domain is valid; the result is ours.
        unsafe { take_text(sys::virDomainGetXMLDesc(self.ptr(), flags)) }
    }

    /// The size of a disk as the guest sees it.
    pub(super) fn disk_bytes(&self, target: &str) -> Result<u64, RawError> {
        let target = c_text(target)?;
        // SAFETY: plain numbers, for which zero is a value.
        let mut info: sys::virDomainBlockInfo = unsafe { std::mem::zeroed() };
        // SAFETY: the domain is valid; a C string that outlives the call; `info` is ours.
        check(unsafe {
            sys::virDomainGetBlockInfo(self.ptr(), target.as_ptr(), &raw mut info, 0)
        })?;
        Ok(info.capacity)
    }

    /// Makes a disk of a running guest this large; also smaller.
    pub(super) fn resize_disk(&self, target: &str, bytes: u64) -> Result<(), RawError> {
        let (target, flags) = (c_text(target)?, sys::VIR_DOMAIN_BLOCK_RESIZE_BYTES);
        // SAFETY: the domain is valid; a C string that outlives the call.
        check(unsafe { sys::virDomainBlockResize(self.ptr(), target.as_ptr(), bytes, flags) })
            .map(drop)
    }

    /// What its QEMU answers to a command of its protocol, errors included.
    pub(super) fn ask_qemu(&self, command: &str) -> Result<String, RawError> {
        let command = c_text(command)?;
        let mut answer = ptr::null_mut();
        // SAFETY: the domain is valid; a C string that outlives the call; `answer` is set to a string of
        // ours when the call succeeds.
        unsafe {
            check(sys::virDomainQemuMonitorCommand(
                self.ptr(),
                command.as_ptr(),
                &raw mut answer,
                sys::VIR_DOMAIN_QEMU_MONITOR_COMMAND_DEFAULT,
            ))?;
            take_text(answer)
        }
    }

    pub(super) fn create(&self, flags: u32) -> Result<(), RawError> {
        // SAFETY: the domain is valid.
        check(unsafe { sys::virDomainCreateWithFlags(self.ptr(), flags) }).map(drop)
    }

    pub(super) fn shutdown(&self, flags: u32) -> Result<(), RawError> {
        // SAFETY: the domain is valid.
        check(unsafe { sys::virDomainShutdownFlags(self.ptr(), flags) }).map(drop)
    }

    pub(super) fn destroy(&self) -> Result<(), RawError> {
        // SAFETY: the domain is valid; it stays so, as a handle.
        check(unsafe { sys::virDomainDestroy(self.ptr()) }).map(drop)
    }

    pub(super) fn suspend(&self) -> Result<(), RawError> {
        // SAFETY: the domain is valid.
        check(unsafe { sys::virDomainSuspend(self.ptr()) }).map(drop)
    }

    pub(super) fn resume(&self) -> Result<(), RawError> {
        // SAFETY: the domain is valid.
        check(unsafe { sys::virDomainResume(self.ptr()) }).map(drop)
    }

    pub(super) fn reset(&self) -> Result<(), RawError> {
        // SAFETY: the domain is valid.
        check(unsafe { sys::virDomainReset(self.ptr(), 0) }).map(drop)
    }

    pub(super) fn reboot(&self, flags: u32) -> Result<(), RawError> {
        // SAFETY: the domain is valid.
        check(unsafe { sys::virDomainReboot(self.ptr(), flags) }).map(drop)
    }

    pub(super) fn managed_save(&self) -> Result<(), RawError> {
        // SAFETY: the domain is valid.
        check(unsafe { sys::virDomainManagedSave(self.ptr(), 0) }).map(drop)
    }

    pub(super) fn undefine(&self, flags: u32) -> Result<(), RawError> {
        // SAFETY: the domain is valid; it stays so, as a handle.
        check(unsafe { sys::virDomainUndefineFlags(self.ptr(), flags) }).map(drop)
    }

    pub(super) fn migrate(
        &self,
        libvirt_uri: &str,
        params: &TypedParams,
        flags: u32,
    ) -> Result<(), RawError> {
        let uri = c_text(libvirt_uri)?;
        let count = params.count.unsigned_abs();
        // SAFETY: the domain is valid; a C string that outlives the call; `params` has `count`
        // entries, which libvirt only reads.
        check(unsafe {
            sys::virDomainMigrateToURI3(self.ptr(), uri.as_ptr(), params.ptr, count, flags)
        })
        .map(drop)
    }

    pub(super) fn abort_job(&self) -> Result<(), RawError> {
        // SAFETY: the domain is valid.
        check(unsafe { sys::virDomainAbortJob(self.ptr()) }).map(drop)
    }

    /// `virDomainJobType`, and the numbers that come with it.
    pub(super) fn job_stats(&self) -> Result<(u32, TypedParams), RawError> {
        let mut kind = 0;
        let mut stats = TypedParams::default();
        // SAFETY: the domain is valid; libvirt allocates the parameters, which `stats` then owns.
        check(unsafe {
            let (params, count) = (&raw mut stats.ptr, &raw mut stats.count);
            sys::virDomainGetJobStats(self.ptr(), &raw mut kind, params, count, 0)
        })?;
        Ok((kind.unsigned_abs(), stats))
    }

    /// For how long the guest may stand still at the end of the migration that is under way.
    pub(super) fn max_downtime_ms(&self) -> Result<u64, RawError> {
        let mut downtime_ms = 0;
        // SAFETY: the domain is valid, and the number outlives the call.
        check(unsafe { sys::virDomainMigrateGetMaxDowntime(self.ptr(), &raw mut downtime_ms, 0) })?;
        Ok(downtime_ms)
    }

    pub(super) fn set_max_downtime_ms(&self, downtime_ms: u32) -> Result<(), RawError> {
        // SAFETY: the domain is valid.
        check(unsafe { sys::virDomainMigrateSetMaxDowntime(self.ptr(), downtime_ms.into(), 0) })
            .map(drop)
    }

    /// Opens the first console of a running guest, and hands over what it prints.
    pub(super) fn open_console(&self, heard: HeardFn) -> Result<Console, RawError> {
        // SAFETY: the domain is valid; its connection is borrowed from it and lives as long.
        let stream = unsafe {
            let connection = sys::virDomainGetConnect(self.ptr());
            NonNull::new(sys::virStreamNew(connection, sys::VIR_STREAM_NONBLOCK))
        };
        let console = Console(stream.ok_or_else(RawError::last)?);
        // SAFETY: domain and stream are valid; null stands for the first console.
        check(unsafe {
            sys::virDomainOpenConsole(self.ptr(), ptr::null(), console.0.as_ptr(), 0)
        })?;
        console.on_output(heard)?;
        Ok(console)
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and used no more.
        unsafe { sys::virDomainFree(self.ptr()) };
    }
}

/// Copies and frees an interface with its addresses.
///
/// # Safety
/// `interface` was allocated by libvirt and is used nowhere else.
unsafe fn take_interface(interface: sys::virDomainInterfacePtr) -> Listed {
    // SAFETY: by the caller's promise; texts are null or C strings, and there are `naddrs` addresses.
    unsafe {
        let mac = copy_text((*interface).hwaddr);
        let count = usize::try_from((*interface).naddrs).unwrap_or(0);
        let ips = (0..count).map(|i| copy_text((*(*interface).addrs.add(i)).addr)).collect();
        sys::virDomainInterfaceFree(interface);
        Listed { mac, ips }
    }
}

fn metadata_element() -> c_int {
    c_int::try_from(sys::VIR_DOMAIN_METADATA_ELEMENT).expect("metadata types are small")
}

/// What libvirt has counted of one domain.
pub(super) struct Counted {
    pub(super) uuid: Uuid,
    /// The domain's.
    pub(super) name: String,
    /// By libvirt's names, such as `block.0.rd.bytes`.
    pub(super) stats: BTreeMap<String, Stat>,
}

/// One named value that libvirt counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stat {
    /// A count.
    Number(u64),
    /// A name.
    Text(String),
}

/// Name and value of a parameter; `None` for a negative number, a fraction and a type of a newer
/// libvirt.
///
/// # Safety
/// `param` is one that libvirt has filled in: its type says which member of its value is set.
unsafe fn stat(param: &sys::virTypedParameter) -> Option<(String, Stat)> {
    // SAFETY: libvirt ends the name with a NUL within its array; the type says what was set.
    unsafe {
        let value = match param.type_.unsigned_abs() {
            sys::VIR_TYPED_PARAM_INT => Stat::Number(u64::try_from(param.value.i).ok()?),
            sys::VIR_TYPED_PARAM_UINT => Stat::Number(param.value.ui.into()),
            sys::VIR_TYPED_PARAM_LLONG => Stat::Number(u64::try_from(param.value.l).ok()?),
            sys::VIR_TYPED_PARAM_ULLONG => Stat::Number(param.value.ul),
            sys::VIR_TYPED_PARAM_STRING => Stat::Text(copy_text(param.value.s)),
            _ => return None,
        };
        Some((copy_text(param.field.as_ptr()), value))
    }
}

/// Named values as libvirt takes and gives them.
pub(super) struct TypedParams {
    ptr: sys::virTypedParameterPtr,
    count: c_int,
    room: c_int,
}

impl Default for TypedParams {
    fn default() -> Self {
        Self { ptr: ptr::null_mut(), count: 0, room: 0 }
    }
}

impl TypedParams {
    pub(super) fn add_text(&mut self, name: &CStr, value: &str) -> Result<(), RawError> {
        let value = c_text(value)?;
        let (params, count, room) = (&raw mut self.ptr, &raw mut self.count, &raw mut self.room);
        // SAFETY: the three describe one array, which libvirt may move; it copies both strings.
        check(unsafe {
            sys::virTypedParamsAddString(params, count, room, name.as_ptr(), value.as_ptr())
        })
        .map(drop)
    }

    pub(super) fn add_number(&mut self, name: &CStr, value: u64) -> Result<(), RawError> {
        let (params, count, room) = (&raw mut self.ptr, &raw mut self.count, &raw mut self.room);
        // SAFETY: as in `add_text`.
        check(unsafe { sys::virTypedParamsAddULLong(params, count, room, name.as_ptr(), value) })
            .map(drop)
    }

    /// The number of this name, if there is one.
    pub(super) fn number(&self, name: &CStr) -> Option<u64> {
        let mut value = 0;
        // SAFETY: the array has `count` entries; `value` is ours.
        let found = unsafe {
            sys::virTypedParamsGetULLong(self.ptr, self.count, name.as_ptr(), &raw mut value)
        };
        (found == 1).then_some(value)
    }

    /// The signed number of this name, if there is one.
    pub(super) fn signed(&self, name: &CStr) -> Option<c_int> {
        let mut value = 0;
        // SAFETY: as above.
        let found = unsafe {
            sys::virTypedParamsGetInt(self.ptr, self.count, name.as_ptr(), &raw mut value)
        };
        (found == 1).then_some(value)
    }
}

impl Drop for TypedParams {
    fn drop(&mut self) {
        // SAFETY: the array is null or ours, with `count` entries.
        unsafe { sys::virTypedParamsFree(self.ptr, self.count) };
    }
}

/// Called on libvirt's event thread with what a guest prints, and with nothing at its end; must not
/// block nor call libvirt.
pub(super) type HeardFn = Box<dyn Fn(&[u8]) + Send + Sync>;

/// An open console: a non-blocking stream whose incoming bytes the event thread hands over.
pub(super) struct Console(NonNull<sys::_virStream>);

// SAFETY: libvirt's objects may be used from any thread.
unsafe impl Send for Console {}

impl Console {
    /// Nobody reading would stall the guest: its console's buffer fills, and its writes wait.
    fn on_output(&self, heard: HeardFn) -> Result<(), RawError> {
        let events = c_int::try_from(
            sys::VIR_STREAM_EVENT_READABLE
                | sys::VIR_STREAM_EVENT_HANGUP
                | sys::VIR_STREAM_EVENT_ERROR,
        )
        .expect("stream events are small");
        let (stream, opaque) = (self.0.as_ptr(), leak(heard));
        let free = Some(free_boxed::<HeardFn> as unsafe extern "C" fn(*mut c_void));
        // SAFETY: the stream is valid; `opaque` is what `take_output` expects and
        // `free_boxed::<HeardFn>` frees.
        check(unsafe {
            sys::virStreamEventAddCallback(stream, events, Some(take_output), opaque, free)
        })
        .map(drop)
        .inspect_err(|_| {
            // SAFETY: libvirt has refused it, so it is still ours.
            unsafe { free_boxed::<HeardFn>(opaque) };
        })
    }

    /// Writes what there is room for now; 0 when there is none.
    pub(super) fn write(&self, bytes: &[u8]) -> Result<usize, RawError> {
        // SAFETY: the stream is valid; libvirt reads `bytes.len()` bytes.
        let result =
            unsafe { sys::virStreamSend(self.0.as_ptr(), bytes.as_ptr().cast(), bytes.len()) };
        if result == WOULD_BLOCK {
            return Ok(0);
        }
        Ok(usize::try_from(check(result)?).expect("checked to be no error"))
    }
}

/// What a non-blocking stream returns instead of waiting.
const WOULD_BLOCK: c_int = -2;

unsafe extern "C" fn take_output(stream: sys::virStreamPtr, _events: c_int, opaque: *mut c_void) {
    // SAFETY: registered together with a leaked `HeardFn`, which lives until `free_boxed`.
    let heard = unsafe { &*opaque.cast::<HeardFn>() };
    let mut buffer = [0_u8; 4096];
    loop {
        // SAFETY: libvirt lends us the stream; the buffer is ours and of that length.
        let received =
            unsafe { sys::virStreamRecv(stream, buffer.as_mut_ptr().cast(), buffer.len()) };
        match usize::try_from(received) {
            Ok(length @ 1..) => heard(&buffer[..length]),
            Err(_) if received == WOULD_BLOCK => return,
            // The end, or an error: without this the callback would be called for ever.
            _ => {
                heard(&[]);
                // SAFETY: as above. libvirt allows removing a callback from within itself, and frees
                // what belongs to it when it has returned.
                unsafe { sys::virStreamEventRemoveCallback(stream) };
                return;
            }
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let stream = self.0.as_ptr();
        // SAFETY: the stream is ours and used no more. Removing a callback that has removed itself,
        // and aborting after a failed finish, return errors that mean nothing.
        unsafe {
            sys::virStreamEventRemoveCallback(stream);
            if sys::virStreamFinish(stream) < 0 {
                sys::virStreamAbort(stream);
            }
            sys::virStreamFree(stream);
        }
    }
}
