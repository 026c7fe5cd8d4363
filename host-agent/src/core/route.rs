//! The address to which a guest is sent: numbers only, so that no name is looked up in the middle of
//! a migration.

// Of `core`: addresses as values, and no sockets.
use core::net::SocketAddr;

/// `https://IP:PORT`, the IP in brackets if it is version 6.
pub(super) fn is_agent(url: &str) -> bool {
    url.strip_prefix("https://").is_some_and(|rest| rest.parse::<SocketAddr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_named_by_numbers() {
        assert!(is_agent("https://10.0.0.1:7460") && is_agent("https://[fe80::1]:7460"));
        for bad in ["http://10.0.0.1:7460", "https://h2:7460", "https://10.0.0.1", "unix:/x", ""] {
            assert!(!is_agent(bad), "{bad:?} was taken");
        }
    }
}
