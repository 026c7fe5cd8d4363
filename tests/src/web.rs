//! Web servers of stories: one that gives a file, and one that begins to and never goes on.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

/// Gives one file to whoever asks; its URL.
///
/// # Panics
/// When there is no such file or address.
#[must_use]
pub fn serve(address: &str, file: &Path) -> String {
    let bytes = std::fs::read(file).expect("the file is there");
    answer(address, move |mut stream| {
        // Whoever hangs up has had enough.
        let _ =
            stream.write_all(head(bytes.len()).as_bytes()).and_then(|()| stream.write_all(&bytes));
    })
}

/// Promises a file of so many bytes to whoever asks, and gives none of them; its URL.
///
/// # Panics
/// When there is no such address.
#[must_use]
pub fn stall(address: &str, bytes: usize) -> String {
    let mut held = Vec::new();
    answer(address, move |mut stream| {
        let _ = stream.write_all(head(bytes).as_bytes());
        held.push(stream);
    })
}

fn head(bytes: usize) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n")
}

fn answer(address: &str, mut give: impl FnMut(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind((address, 0)).expect("this machine has this address");
    let url = format!("http://{}/file", listener.local_addr().expect("a bound socket"));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut asked = Vec::new();
            let mut byte = [0];
            while !asked.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                asked.push(byte[0]);
            }
            give(stream);
        }
    });
    url
}
