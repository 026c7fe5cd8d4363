//! A guest's screen: a picture of it, and a viewer's connection to it.

use std::os::fd::{FromRawFd as _, OwnedFd};
use std::ptr::NonNull;

use virt_sys as sys;

use super::{Domain, RawError, check, take_text};

/// Bytes read at a time.
const CHUNK_BYTES: usize = 256 << 10;

impl Domain {
    /// A picture of the guest's first screen: its media type, and the file.
    pub(in crate::libvirt) fn screenshot(
        &self,
        bytes_max: usize,
    ) -> Result<(String, Vec<u8>), RawError> {
        // SAFETY: the domain is valid; its connection is borrowed from it and lives as long.
        let stream =
            unsafe { NonNull::new(sys::virStreamNew(sys::virDomainGetConnect(self.ptr()), 0)) };
        let mut download = Download { stream: stream.ok_or_else(RawError::last)?, is_open: false };
        // SAFETY: domain and stream are valid; the text is ours to free.
        let media = unsafe {
            take_text(sys::virDomainScreenshot(self.ptr(), download.stream.as_ptr(), 0, 0))
        }?;
        download.is_open = true;
        Ok((media, download.read_all(bytes_max)?))
    }

    /// A viewer's end of the guest's first graphics, without a password.
    pub(in crate::libvirt) fn open_graphics(&self) -> Result<OwnedFd, RawError> {
        let flags = sys::VIR_DOMAIN_OPEN_GRAPHICS_SKIPAUTH;
        // SAFETY: the domain is valid.
        let fd = check(unsafe { sys::virDomainOpenGraphicsFD(self.ptr(), 0, flags) })?;
        // SAFETY: libvirt has made it for us, and nobody else has it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

/// A blocking stream from which something is read to its end.
struct Download {
    stream: NonNull<sys::_virStream>,
    /// True from its beginning until all was read.
    is_open: bool,
}

impl Download {
    fn read_all(&mut self, bytes_max: usize) -> Result<Vec<u8>, RawError> {
        let stream = self.stream.as_ptr();
        let (mut all, mut chunk) = (Vec::new(), vec![0_u8; CHUNK_BYTES]);
        loop {
            // SAFETY: the stream is valid; the buffer is ours and of that length.
            let received =
                unsafe { sys::virStreamRecv(stream, chunk.as_mut_ptr().cast(), chunk.len()) };
            match usize::try_from(check(received)?).expect("checked to be no error") {
                0 => break,
                length => all.extend_from_slice(&chunk[..length]),
            }
            if all.len() > bytes_max {
                let message = format!("the picture is larger than {bytes_max} bytes");
                return Err(RawError::own(sys::VIR_ERR_OPERATION_FAILED, message));
            }
        }
        self.is_open = false;
        // SAFETY: the stream is valid.
        check(unsafe { sys::virStreamFinish(stream) })?;
        Ok(all)
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        let stream = self.stream.as_ptr();
        // SAFETY: the stream is ours and used no more.
        unsafe {
            if self.is_open {
                sys::virStreamAbort(stream);
            }
            sys::virStreamFree(stream);
        }
    }
}
