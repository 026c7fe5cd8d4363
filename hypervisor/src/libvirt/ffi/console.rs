//! A guest's serial console as a stream: what it says is heard, and what is typed goes to it.

use std::os::raw::{c_int, c_void};
use std::ptr::{self, NonNull};

use virt_sys as sys;

use super::{Domain, RawError, check, free_boxed, leak};

impl Domain {
    /// Opens the first console of a running guest, and hands over what it prints.
    pub(in crate::libvirt) fn open_console(&self, heard: HeardFn) -> Result<Console, RawError> {
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

/// Called on libvirt's event thread with what a guest prints, and with nothing at its end; must not
/// block nor call libvirt.
pub(in crate::libvirt) type HeardFn = Box<dyn Fn(&[u8]) + Send + Sync>;

/// An open console: a non-blocking stream whose incoming bytes the event thread hands over.
pub(in crate::libvirt) struct Console(NonNull<sys::_virStream>);

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
    pub(in crate::libvirt) fn write(&self, bytes: &[u8]) -> Result<usize, RawError> {
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
