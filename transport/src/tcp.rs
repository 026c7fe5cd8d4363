//! What every TCP connection of ours has: nothing is held back, and an end when the other host has
//! gone silent.
//!
//! Without this a cut cable is noticed after a quarter of an hour of retries while bytes are on their
//! way, and never while none are.

use std::io;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::TcpStream;

/// After this long without a word, the kernel asks whether the other end is still there.
const ASK_AFTER: Duration = Duration::from_secs(30);
/// How often it asks.
const ASK_INTERVAL: Duration = Duration::from_secs(10);
/// Questions without an answer that end the connection.
const ASKS_MAX: u32 = 3;
/// How long bytes may stay unacknowledged, or a full receiver may take none, in milliseconds.
const UNHEARD_MS_MAX: u32 = 30_000;

/// Sets up a connection that was just opened or accepted.
pub(crate) fn set_up(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, ASK_AFTER)?;
    sockopt::set_tcp_keepintvl(stream, ASK_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, ASKS_MAX)?;
    sockopt::set_tcp_user_timeout(stream, UNHEARD_MS_MAX)?;
    Ok(())
}
