//! A list of hosts in a file: an address a line, its host id after it if known, `#` comments.
//!
//! The file is read again and again, so that hosts can be added without restarting anybody.

use protocol::id::HostId;

use super::{Found, address_url};

/// Reads the list, or says which line is wrong. A list with a wrong line is not used at all: half
/// a list looks like lost hosts.
pub(super) fn parse(text: &str) -> Result<Vec<Found>, String> {
    let lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.split('#').next()));
    let mut found = Vec::new();
    for (number, line) in lines {
        let words: Vec<&str> = line.unwrap_or_default().split_whitespace().collect();
        let wrong = |why: String| format!("line {number}: {why}");
        let (address, host) = match words[..] {
            [] => continue,
            [address] => (address, None),
            [address, host] => {
                (address, Some(host.parse::<HostId>().map_err(|e| wrong(e.to_string()))?))
            }
            _ => return Err(wrong("expected an address and perhaps a host id".to_owned())),
        };
        let url = address_url(address).map_err(|why| wrong(format!("{address:?}: {why}")))?;
        found.push(Found::at_address(url, host));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_ids_are_read_and_comments_are_not() {
        let found = parse("# ours\n10.0.0.1:7460 h1 # rack 3\n\nhttps://10.0.0.2:9\n").unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].url, "https://10.0.0.1:7460");
        assert_eq!(found[0].host, Some("h1".parse().unwrap()));
        assert_eq!(found[1].host, None);
    }

    #[test]
    fn a_wrong_line_is_named() {
        let error = parse("10.0.0.1\n10.0.0.2 h2 more\n").unwrap_err();
        assert!(error.starts_with("line 2: "), "{error}");
    }
}
