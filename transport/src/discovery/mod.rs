//! Finding hosts: from a discovery URL, a list of addresses, a file, mDNS, or any mix.
//!
//! Decides what a source is called and how findings are merged (by host id, then by address).
//! Nothing found here is believed: a found host is contacted with its id as the pin, so a source
//! can at worst hide a host, never pass another off as it.
//!
//! ```text
//! Source ── Finder (asks for ever) ──> Findings { hosts, sources }      who is there
//! Source <── Announcer (refreshes) ─── Advert { name, url }             here I am
//! ```

mod join;

mod book;

mod file;

mod finder;

mod directory;

mod announcer;

mod mdns;

mod record;

mod server;

mod url;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use protocol::id::HostId;
use protocol::signed::PublicKey;

use crate::endpoint::{Endpoint, port_of};

pub use announcer::{Advert, Announcer};
pub use book::BookLimits;
pub use directory::{Addresses, follow_addresses};
pub use finder::{Finder, Findings, SourceState};
pub use join::JoinSecret;
pub use record::{Departure, Instance, Registration, SshKey};
pub use server::{DiscoveryStore, discovery_router};
pub use url::{ClusterUrl, Doubt, Listed, Twins, Unproven, create_cluster};

/// The port of an agent when an address names none.
pub const AGENT_PORT: u16 = 7460;

/// How long a discovery server may take for an answer. Short, because a host that has moved may
/// have asked on a connection from its old address, on which no answer ever comes.
const ASK_MAX: Duration = Duration::from_secs(5);

/// One place to look for hosts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// A cluster at a discovery server: `http://SERVER/clusters/TOKEN#join=SECRET`.
    Url(ClusterUrl),
    /// One agent: `https://ADDRESS:PORT`, `ADDRESS:PORT` or `ADDRESS`.
    Address(String),
    /// A file with an address a line: `file:///PATH`.
    File(PathBuf),
    /// Whoever announces itself on the local network: `mdns`.
    Mdns,
}

/// Why a text names no source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no place to look for hosts ({why}): use http://SERVER/clusters/TOKEN, ADDRESS:PORT, file:///PATH or mdns"
)]
pub struct InvalidSource {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub why: String,
}

impl Source {
    /// The words that name it, a join secret included; `Display` leaves the secret out.
    #[must_use]
    pub fn full(&self) -> String {
        match self {
            Source::Url(url) => url.full(),
            Source::Address(_) | Source::File(_) | Source::Mdns => self.to_string(),
        }
    }

    /// The words for somebody who is to tell hosts from strangers and is no host: nothing in them is
    /// secret.
    #[must_use]
    pub fn to_verify(&self) -> String {
        match self {
            Source::Url(url) => url.to_verify().full(),
            Source::Address(_) | Source::File(_) | Source::Mdns => self.to_string(),
        }
    }

    /// A cluster whose join secret we were not told: everybody who knows its URL counts as a host.
    #[must_use]
    pub fn is_open_to_all(&self) -> bool {
        matches!(self, Source::Url(url) if url.join_key().is_none())
    }
}

/// A host as sources tell of it; not yet contacted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its id; unknown when only an address was given.
    pub host: Option<HostId>,
    /// Its key, when the source told it with proof.
    pub key: Option<PublicKey>,
    /// What the source calls it; for people.
    pub name: String,
    /// `https://ADDRESS:PORT`, of the source that was named first.
    pub url: String,
    /// Addresses that other sources told for the same host.
    pub other_urls: Vec<String>,
}

impl Found {
    /// How to contact it: at its first address, pinned to what is known of it.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint_at(&self.url)
    }

    /// All ways to contact it, the best first.
    pub fn endpoints(&self) -> impl Iterator<Item = Endpoint> {
        let urls = std::iter::once(&self.url).chain(&self.other_urls);
        urls.map(|url| self.endpoint_at(url))
    }

    fn endpoint_at(&self, url: &str) -> Endpoint {
        Endpoint { url: url.to_owned(), key: self.key, host: self.host.clone() }
    }

    /// Somebody at an address.
    fn at_address(url: String, host: Option<HostId>) -> Self {
        let name = url.trim_start_matches("https://").to_owned();
        Self { host, key: None, name, url, other_urls: Vec::new() }
    }
}

/// How often sources are asked and registrations refreshed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Between two looks at a source that answers.
    pub poll: Duration,
    /// Between two registrations; a third of their expiry, so that two may get lost.
    pub refresh: Duration,
    /// The first wait after a failure.
    pub retry_min: Duration,
    /// The longest wait after failures.
    pub retry_max: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(5),
            refresh: Duration::from_secs(30),
            retry_min: Duration::from_millis(500),
            retry_max: Duration::from_secs(30),
        }
    }
}

/// One list of hosts out of several, in the order of the sources: entries for one host id become
/// one entry, and a bare address that belongs to a known host is that host.
#[must_use]
pub fn merge<'a>(findings: impl IntoIterator<Item = &'a Found>) -> Vec<Found> {
    // Looked up, not searched for: a list of 10 000 hosts is merged every time it is read.
    let mut merged: Vec<Found> = Vec::new();
    let (mut of_host, mut of_url) = (BTreeMap::new(), BTreeSet::new());
    let (known, bare): (Vec<_>, Vec<_>) =
        findings.into_iter().partition(|found| found.host.is_some());
    for found in known {
        of_url.extend(std::iter::once(&found.url).chain(&found.other_urls));
        match of_host.entry(&found.host) {
            Entry::Occupied(place) => absorb(&mut merged[*place.get()], found),
            Entry::Vacant(place) => {
                place.insert(merged.len());
                merged.push(found.clone());
            }
        }
    }
    for found in bare {
        if of_url.insert(&found.url) {
            of_url.extend(&found.other_urls);
            merged.push(found.clone());
        }
    }
    merged
}

fn absorb(host: &mut Found, again: &Found) {
    host.key = host.key.or(again.key);
    for url in std::iter::once(&again.url).chain(&again.other_urls) {
        if !has_url(host, url) {
            host.other_urls.push(url.clone());
        }
    }
}

fn has_url(found: &Found, url: &str) -> bool {
    found.url == *url || found.other_urls.iter().any(|other| other == url)
}

/// `https://ADDRESS:PORT` of an address in any of the forms people write.
fn address_url(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("https://").unwrap_or(text).trim_end_matches('/');
    if rest.contains("://") || rest.contains('/') {
        return Err("an agent's address is https://ADDRESS:PORT".to_owned());
    }
    let authority: http::uri::Authority = rest.parse().map_err(|e| format!("{e}"))?;
    if authority.host().is_empty() || rest.contains('@') {
        return Err("there is no address in it".to_owned());
    }
    let port = port_of(&authority)?.unwrap_or(AGENT_PORT);
    Ok(format!("https://{}:{port}", authority.host()))
}

/// A text that may be shown, whatever was wrong with it.
fn without_secret(text: &str) -> String {
    match text.split_once('#') {
        Some((text, _)) => format!("{text}#…"),
        None => text.to_owned(),
    }
}

impl FromStr for Source {
    type Err = InvalidSource;

    fn from_str(text: &str) -> Result<Self, InvalidSource> {
        let text = text.trim();
        let invalid = |why: String| InvalidSource { text: without_secret(text), why };
        if text == "mdns" {
            return Ok(Source::Mdns);
        }
        if let Some(path) = text.strip_prefix("file://") {
            return match path.starts_with('/') {
                true => Ok(Source::File(path.into())),
                false => Err(invalid("the path must be absolute".to_owned())),
            };
        }
        if text.contains("/clusters/") || text.starts_with("http://") {
            return text.parse().map(Source::Url).map_err(invalid);
        }
        address_url(text).map(Source::Address).map_err(invalid)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Url(url) => url.fmt(f),
            Source::Address(url) => f.write_str(url),
            Source::File(path) => write!(f, "file://{}", path.display()),
            Source::Mdns => f.write_str("mdns"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;

    fn host(seed: u8, url: &str) -> Found {
        let identity = Identity::from_seed([seed; 32]);
        Found {
            host: Some(identity.host_id()),
            key: None,
            name: format!("host{seed}"),
            url: url.to_owned(),
            other_urls: Vec::new(),
        }
    }

    #[test]
    fn sources_are_written_as_people_write_them() {
        for (text, shown) in [
            ("mdns", "mdns"),
            ("10.0.0.1", "https://10.0.0.1:7460"),
            ("10.0.0.1:99", "https://10.0.0.1:99"),
            ("https://h1.example:99/", "https://h1.example:99"),
            ("[fd00::1]:99", "https://[fd00::1]:99"),
            ("file:///etc/ostler/hosts", "file:///etc/ostler/hosts"),
            ("http://d.example/clusters/abc", "http://d.example/clusters/abc"),
            ("https://d.example/base/clusters/abc/", "https://d.example/base/clusters/abc"),
        ] {
            let source: Source = text.parse().unwrap();
            assert_eq!(source.to_string(), shown, "{text}");
        }
    }

    #[test]
    fn a_join_secret_is_read_and_kept_out_of_sight() {
        let secret = JoinSecret::fresh();
        let text = format!("http://d.example/clusters/abc#join={}", secret.text());
        let source: Source = text.parse().unwrap();
        assert_eq!(source.full(), text);
        assert_eq!(source.to_string(), "http://d.example/clusters/abc");
        assert!(!format!("{source:?}").contains(&secret.text()));
        let open: Source = source.to_string().parse().unwrap();
        assert!(open.is_open_to_all() && !source.is_open_to_all());
        assert!(!source.to_verify().contains(&secret.text()));
        let verifying: Source = source.to_verify().parse().unwrap();
        assert_eq!(verifying.full(), source.to_verify());
        assert!(!verifying.is_open_to_all());
    }

    #[test]
    fn texts_that_name_no_source_are_refused() {
        for text in [
            "",
            "http://10.0.0.1:99",
            "file://relative",
            "ftp://10.0.0.1/clusters/abc",
            "http://d.example/clusters/",
            "http://d.example/clusters/\u{a0}/",
            "http://d.example/clusters/äbc",
            "http://d.example/clusters/abc#join=short",
            "http://d.example/clusters/abc#other",
            "10.0.0.1:port",
            "10.0.0.1:99999",
            "10.0.0.1:",
            "a b",
        ] {
            assert!(text.parse::<Source>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn one_host_from_two_sources_is_one_host_with_both_addresses() {
        let found = [host(1, "https://a:1"), host(2, "https://b:1"), host(1, "https://c:1")];
        let merged = merge(&found);
        assert_eq!(merged.len(), 2);
        assert_eq!(merged[0].url, "https://a:1");
        assert_eq!(merged[0].other_urls, ["https://c:1"]);
        assert!(merged[0].endpoints().all(|endpoint| endpoint.host == merged[0].host));
    }

    #[test]
    fn a_bare_address_of_a_known_host_is_that_host_whatever_the_order() {
        let bare = Found::at_address("https://a:1".to_owned(), None);
        let found = [bare.clone(), host(1, "https://a:1")];
        assert_eq!(merge(&found), merge(found.iter().rev()));
        assert_eq!(merge(&found).len(), 1);
        assert_eq!(merge([&bare]), [bare]);
    }
}
