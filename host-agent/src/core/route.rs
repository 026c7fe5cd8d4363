//! The addresses by which a guest is sent: numbers only, and nothing that libvirt would interpret.

// Of `core`: addresses as values, and no sockets.
use core::net::{IpAddr, SocketAddr};

/// `qemu+tcp://IP/system` or `qemu+tls://IP/system`, the IP in brackets if it is version 6.
pub(super) fn is_libvirt(uri: &str) -> bool {
    let host = uri.strip_prefix("qemu+tcp://").or_else(|| uri.strip_prefix("qemu+tls://"));
    host.and_then(|host| host.strip_suffix("/system")).is_some_and(is_ip)
}

/// `tcp://IP`.
pub(super) fn is_tcp(uri: &str) -> bool {
    uri.strip_prefix("tcp://").is_some_and(is_ip)
}

/// `tcp://IP:PORT`.
pub(super) fn is_tcp_port(uri: &str) -> bool {
    uri.strip_prefix("tcp://").is_some_and(|rest| rest.parse::<SocketAddr>().is_ok())
}

fn is_ip(text: &str) -> bool {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    match bare {
        Some(v6) => v6.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()),
        None => text.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_run_a_program_is_no_address() {
        assert!(
            is_libvirt("qemu+tcp://10.0.0.1/system") && is_libvirt("qemu+tls://[fe80::1]/system")
        );
        for bad in [
            "qemu+ext:///system?command=/bin/sh",
            "qemu+ssh://10.0.0.1/system?netcat=/bin/sh",
            "qemu+tcp://10.0.0.1/system?x=y",
            "qemu+tcp://root@10.0.0.1/system",
            "qemu+tcp://h2/system",
            "qemu:///system",
            "",
        ] {
            assert!(!is_libvirt(bad), "{bad:?} was taken");
        }
        assert!(is_tcp("tcp://10.0.0.1") && !is_tcp("exec:cat") && !is_tcp("tcp://10.0.0.1:1"));
        assert!(is_tcp_port("tcp://10.0.0.1:49152") && !is_tcp_port("unix:///x"));
    }
}
