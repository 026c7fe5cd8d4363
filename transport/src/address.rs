//! The address by which this machine reaches its network, for those who are told to listen on all.

use std::io;
use std::net::{IpAddr, UdpSocket};

/// The source address that the kernel's routes choose. Nothing is sent: connecting a UDP socket
/// only asks the routing table.
pub fn own_address() -> io::Result<IpAddr> {
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    // An address set aside for documentation (RFC 5737); only the route to it matters.
    socket.connect(("192.0.2.1", 9))?;
    Ok(socket.local_addr()?.ip())
}
