//! What a guest shows: a picture of its screen, as a driver gives it.

/// Largest picture that is taken: a screen of 8K in three bytes a pixel. Guests choose how large theirs is.
pub const SCREENSHOT_BYTES_MAX: usize = 128 << 20;

/// A picture of a guest's screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Screenshot {
    /// What sort of file it is: `image/x-portable-pixmap` of QEMU through libvirt 9, or `image/png`.
    pub media: String,
    /// The file.
    pub bytes: Vec<u8>,
}
