//! libvirt's networks as safe values.

use std::os::raw::{c_int, c_void};
use std::ptr::{self, NonNull};

use uuid::Uuid;
use virt_sys as sys;

use super::{Connection, RawError, c_text, check, copy_text, free_boxed, leak, take_text};

/// Called on libvirt's event thread; must not block nor call libvirt.
type ChangedFn = Box<dyn Fn() + Send + Sync>;

/// A network. It keeps its connection open.
pub(in crate::libvirt) struct Network(NonNull<sys::_virNetwork>);

impl Connection {
    /// Has `f` called whenever a network is defined, started, stopped or undefined.
    pub(in crate::libvirt) fn on_network(&self, f: ChangedFn) -> Result<(), RawError> {
        type Callback =
            unsafe extern "C" fn(sys::virConnectPtr, sys::virNetworkPtr, c_int, c_int, *mut c_void);
        type Generic = unsafe extern "C" fn(sys::virConnectPtr, sys::virNetworkPtr, *mut c_void);
        // SAFETY: libvirt asks for this cast: it calls the function with the arguments that belong to
        // the event id, which for lifecycle events are exactly `Callback`'s.
        let callback = unsafe { std::mem::transmute::<Callback, Generic>(on_network) };
        let opaque = leak(f);
        let id = c_int::try_from(sys::VIR_NETWORK_EVENT_ID_LIFECYCLE).expect("event ids are small");
        // SAFETY: the connection is open; null stands for all networks; `opaque` is what the callback
        // expects and `free_boxed::<ChangedFn>` frees.
        let result = unsafe {
            sys::virConnectNetworkEventRegisterAny(
                self.ptr.as_ptr(),
                ptr::null_mut(),
                id,
                Some(callback),
                opaque,
                Some(free_boxed::<ChangedFn>),
            )
        };
        let callback_id = check(result).inspect_err(|_| {
            // SAFETY: libvirt has refused it, so it is still ours.
            unsafe { free_boxed::<ChangedFn>(opaque) };
        })?;
        self.keep_network_callback(callback_id);
        Ok(())
    }

    /// Makes or replaces a definition.
    pub(in crate::libvirt) fn define_network(&self, xml: &str) -> Result<Network, RawError> {
        let xml = c_text(xml)?;
        // SAFETY: the connection is open; a C string that outlives the call.
        Network::from_owned(unsafe { sys::virNetworkDefineXML(self.ptr.as_ptr(), xml.as_ptr()) })
    }

    /// The network with this uuid.
    pub(in crate::libvirt) fn network(&self, uuid: Uuid) -> Result<Network, RawError> {
        let bytes = uuid.into_bytes();
        // SAFETY: the connection is open; libvirt reads 16 bytes, which there are.
        let ptr = unsafe { sys::virNetworkLookupByUUID(self.ptr.as_ptr(), bytes.as_ptr()) };
        Network::from_owned(ptr)
    }

    /// The network with this name.
    pub(in crate::libvirt) fn network_named(&self, name: &str) -> Result<Network, RawError> {
        let name = c_text(name)?;
        // SAFETY: the connection is open; a C string that outlives the call.
        Network::from_owned(unsafe {
            sys::virNetworkLookupByName(self.ptr.as_ptr(), name.as_ptr())
        })
    }

    /// Every network.
    pub(in crate::libvirt) fn networks(&self) -> Result<Vec<Network>, RawError> {
        let mut array = ptr::null_mut();
        // SAFETY: the connection is open; `array` is ours.
        let result =
            unsafe { sys::virConnectListAllNetworks(self.ptr.as_ptr(), &raw mut array, 0) };
        let count = usize::try_from(check(result)?).expect("checked to be no error");
        // SAFETY: on success libvirt has allocated `count` networks for us, and the array itself.
        unsafe {
            let networks =
                (0..count).map(|i| Network::from_owned(*array.add(i))).collect::<Result<_, _>>();
            libc::free(array.cast());
            networks
        }
    }
}

unsafe extern "C" fn on_network(
    _conn: sys::virConnectPtr,
    _network: sys::virNetworkPtr,
    _event: c_int,
    _detail: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: registered together with a leaked `ChangedFn`, which lives until `free_boxed`.
    let f = unsafe { &*opaque.cast::<ChangedFn>() };
    f();
}

impl Network {
    fn from_owned(ptr: sys::virNetworkPtr) -> Result<Self, RawError> {
        NonNull::new(ptr).map(Self).ok_or_else(RawError::last)
    }

    pub(in crate::libvirt) fn name(&self) -> String {
        // SAFETY: the network is valid; the name lives as long as it.
        unsafe { copy_text(sys::virNetworkGetName(self.0.as_ptr())) }
    }

    pub(in crate::libvirt) fn uuid(&self) -> Uuid {
        let mut bytes = [0; 16];
        // SAFETY: the network is valid and `bytes` has the 16 bytes that libvirt writes.
        unsafe { sys::virNetworkGetUUID(self.0.as_ptr(), bytes.as_mut_ptr()) };
        Uuid::from_bytes(bytes)
    }

    pub(in crate::libvirt) fn xml(&self, flags: u32) -> Result<String, RawError> {
        // SAFETY: the network is valid; the result is ours.
        unsafe { take_text(sys::virNetworkGetXMLDesc(self.0.as_ptr(), flags)) }
    }

    pub(in crate::libvirt) fn is_active(&self) -> Result<bool, RawError> {
        // SAFETY: the network is valid.
        Ok(check(unsafe { sys::virNetworkIsActive(self.0.as_ptr()) })? == 1)
    }

    pub(in crate::libvirt) fn is_persistent(&self) -> Result<bool, RawError> {
        // SAFETY: the network is valid.
        Ok(check(unsafe { sys::virNetworkIsPersistent(self.0.as_ptr()) })? == 1)
    }

    pub(in crate::libvirt) fn is_autostarted(&self) -> Result<bool, RawError> {
        let mut is = 0;
        // SAFETY: the network is valid; the number is ours.
        check(unsafe { sys::virNetworkGetAutostart(self.0.as_ptr(), &raw mut is) })?;
        Ok(is != 0)
    }

    pub(in crate::libvirt) fn set_autostart(&self) -> Result<(), RawError> {
        // SAFETY: the network is valid.
        check(unsafe { sys::virNetworkSetAutostart(self.0.as_ptr(), 1) }).map(drop)
    }

    pub(in crate::libvirt) fn create(&self) -> Result<(), RawError> {
        // SAFETY: the network is valid.
        check(unsafe { sys::virNetworkCreate(self.0.as_ptr()) }).map(drop)
    }

    pub(in crate::libvirt) fn destroy(&self) -> Result<(), RawError> {
        // SAFETY: the network is valid; it stays so, as a handle.
        check(unsafe { sys::virNetworkDestroy(self.0.as_ptr()) }).map(drop)
    }

    pub(in crate::libvirt) fn undefine(&self) -> Result<(), RawError> {
        // SAFETY: the network is valid; it stays so, as a handle.
        check(unsafe { sys::virNetworkUndefine(self.0.as_ptr()) }).map(drop)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and used no more.
        unsafe { sys::virNetworkFree(self.0.as_ptr()) };
    }
}
