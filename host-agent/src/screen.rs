//! A guest's screen, for who is not at its host: its picture as PNG, and its VNC passed to and fro.
//!
//! Decides nothing of who may look. What a guest shows is its own: how large a picture is, is checked
//! before anything is made of it.

use std::os::unix::net::UnixStream as StdStream;

use hypervisor::Screenshot;
use png::{BitDepth, ColorType, Compression, Encoder};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use transport::stream::{Frame, Frames};

/// Bytes of VNC read and sent at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// Why there is no PNG of a picture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoPicture {
    /// It is of a sort that nobody here reads.
    #[error("the hypervisor gives pictures as {media}, which is neither PPM nor PNG")]
    Unknown {
        /// What sort.
        media: String,
    },
    /// It is not what it says it is.
    #[error("the hypervisor's picture is no PPM of one byte a colour: {why}")]
    Malformed {
        /// What is wrong.
        why: &'static str,
    },
    /// It could not be written.
    #[error("write a PNG: {0}")]
    NotWritten(String),
}

/// The picture as PNG.
pub(crate) fn png_of(shot: Screenshot) -> Result<Vec<u8>, NoPicture> {
    match shot.media.as_str() {
        "image/png" => Ok(shot.bytes),
        "image/x-portable-pixmap" => {
            let pixels = Pixels::read(&shot.bytes)?;
            pixels.png().map_err(|error| NoPicture::NotWritten(error.to_string()))
        }
        media => Err(NoPicture::Unknown { media: media.to_owned() }),
    }
}

/// A PPM that was read: rows of red, green and blue.
struct Pixels<'a> {
    width: u32,
    height: u32,
    rgb: &'a [u8],
}

impl<'a> Pixels<'a> {
    /// Reads `P6`, width, height and 255, each behind white space, then one such byte and the pixels.
    fn read(ppm: &'a [u8]) -> Result<Self, NoPicture> {
        let no = |why| NoPicture::Malformed { why };
        let mut rest = ppm.strip_prefix(b"P6").ok_or(no("it does not begin with P6"))?;
        let mut number = || {
            let begin = rest.iter().position(|byte| !byte.is_ascii_whitespace())?;
            let digits = rest[begin..].iter().position(|byte| !byte.is_ascii_digit())?;
            let text = std::str::from_utf8(&rest[begin..begin + digits]).ok()?;
            rest = &rest[begin + digits..];
            text.parse::<u32>().ok()
        };
        let sizes = (number(), number(), number());
        let (Some(width), Some(height), Some(255)) = sizes else {
            return Err(no("its size cannot be read"));
        };
        let pixels = u64::from(width) * u64::from(height);
        let rgb = rest.get(1..).unwrap_or_default();
        match pixels.checked_mul(3) {
            Some(bytes) if bytes > 0 && bytes == rgb.len() as u64 => {
                Ok(Self { width, height, rgb })
            }
            _ => Err(no("it has not as many pixels as it says")),
        }
    }

    fn png(&self) -> Result<Vec<u8>, png::EncodingError> {
        let mut file = Vec::new();
        let mut encoder = Encoder::new(&mut file, self.width, self.height);
        encoder.set_color(ColorType::Rgb);
        encoder.set_depth(BitDepth::Eight);
        encoder.set_compression(Compression::Fast);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(self.rgb)?;
        writer.finish()?;
        Ok(file)
    }
}

/// Passes VNC between a viewer and a guest until either side goes.
pub(crate) async fn serve(mut frames: Frames, guest: StdStream) {
    let opened = guest.set_nonblocking(true).and_then(|()| UnixStream::from_std(guest));
    let (mut from_guest, mut to_guest) = match opened {
        Ok(guest) => guest.into_split(),
        Err(error) => return tracing::warn!("pass on a guest's screen: {error}"),
    };
    let sender = frames.sender();
    let showing = async {
        let mut chunk = vec![0; CHUNK_BYTES];
        while let Ok(length @ 1..) = from_guest.read(&mut chunk).await {
            if sender.send_bytes(chunk[..length].to_vec()).await.is_err() {
                return;
            }
        }
    };
    let typing = async {
        while let Some(Ok(frame)) = frames.next_frame().await {
            let Frame::Bytes(bytes) = frame else { continue };
            if to_guest.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = showing => {}
        () = typing => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ppm(head: &str, pixels: &[u8]) -> Screenshot {
        let bytes = [head.as_bytes(), pixels].concat();
        Screenshot { media: "image/x-portable-pixmap".to_owned(), bytes }
    }

    #[test]
    fn a_ppm_becomes_a_png_of_the_same_pixels() {
        let pixels: Vec<u8> = (0..2 * 3 * 3).collect();
        let png = png_of(ppm("P6\n2 3\n255\n", &pixels)).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
        let mut read = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut read).unwrap();
        assert_eq!((info.width, info.height, read), (2, 3, pixels));
    }

    #[test]
    fn what_says_more_or_fewer_pixels_than_it_has_is_refused() {
        for (head, count) in [("P6\n2 2\n255\n", 11), ("P6\n2 2\n255\n", 13), ("P6 0 9 255\n", 0)] {
            let read = png_of(ppm(head, &vec![0; count]));
            assert!(matches!(read, Err(NoPicture::Malformed { .. })), "{head:?} with {count}");
        }
        let huge = png_of(ppm("P6 4294967295 4294967295 255\n", &[0; 3]));
        assert!(matches!(huge, Err(NoPicture::Malformed { .. })));
    }

    proptest! {
        #[test]
        fn no_picture_ends_the_agent(
            head in "P6[ \n]{0,2}[0-9]{0,12}[ \n][0-9]{0,3} (255)?\n?",
            pixels in any::<Vec<u8>>(),
        ) {
            let _ = png_of(ppm(&head, &pixels));
        }
    }
}
