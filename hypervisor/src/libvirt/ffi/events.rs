//! What libvirt tells by itself: lives of domains, their agents, and a connection that is lost.
//!
//! Callbacks run on libvirt's event thread, so what they call must not block nor call libvirt.

use std::os::raw::{c_int, c_void};
use std::ptr;
use std::sync::PoisonError;

use uuid::Uuid;
use virt_sys as sys;

use super::{Connection, RawError, check, copy_text, free_boxed, leak};

/// What libvirt told a lifecycle callback.
#[derive(Debug, Clone)]
pub(in crate::libvirt) struct RawEvent {
    pub(in crate::libvirt) uuid: Uuid,
    pub(in crate::libvirt) name: String,
    pub(in crate::libvirt) what: RawWhat,
}

/// Which callback it was.
#[derive(Debug, Clone, Copy)]
pub(in crate::libvirt) enum RawWhat {
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

impl Connection {
    /// Has `f` called when the connection is lost.
    pub(in crate::libvirt) fn on_close(&self, f: CloseFn) -> Result<(), RawError> {
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
    pub(in crate::libvirt) fn on_lifecycle(&self, f: EventFn) -> Result<(), RawError> {
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
    pub(in crate::libvirt) fn on_reboot(&self, f: EventFn) -> Result<(), RawError> {
        self.on_event(sys::VIR_DOMAIN_EVENT_ID_REBOOT, on_reboot, f)
    }

    /// Has `f` called whenever the agent in a guest comes up or goes.
    pub(in crate::libvirt) fn on_agent(&self, f: EventFn) -> Result<(), RawError> {
        type Callback =
            unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, c_int, *mut c_void);
        // SAFETY: as in `on_lifecycle`; `Callback` is what libvirt calls for this event id.
        let callback = unsafe { std::mem::transmute::<Callback, GenericCallback>(on_agent) };
        self.on_event(sys::VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, callback, f)
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
}

type GenericCallback = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *mut c_void);

pub(super) unsafe extern "C" fn closed(
    _conn: sys::virConnectPtr,
    reason: c_int,
    opaque: *mut c_void,
) {
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
