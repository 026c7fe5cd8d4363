//! Where a peer is reached, and who it has to be: an address and a pinned key.
//!
//! Decides what an address may look like, and when the one who answered is the one who was meant.

use std::fmt;
use std::path::PathBuf;

use http::uri::Authority;
use http::{HeaderValue, Uri};
use protocol::id::HostId;
use protocol::signed::PublicKey;

use crate::call_error::NotSent;

/// Where a peer is reached, and who it has to be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// `https://ADDRESS:PORT`, `unix:/PATH`, or `http://ADDRESS:PORT` for discovery.
    pub url: String,
    /// The key it must prove; `None` accepts any.
    pub key: Option<PublicKey>,
    /// The host it must be; `None` accepts any.
    pub host: Option<HostId>,
}

impl Endpoint {
    /// Whoever answers at this address. For first contact and local sockets.
    #[must_use]
    pub fn anyone(url: impl Into<String>) -> Self {
        Self { url: url.into(), key: None, host: None }
    }

    /// The holder of this key at this address.
    #[must_use]
    pub fn of_key(url: impl Into<String>, key: PublicKey) -> Self {
        Self { url: url.into(), key: Some(key), host: None }
    }

    /// This host at this address.
    #[must_use]
    pub fn of_host(url: impl Into<String>, host: HostId) -> Self {
        Self { url: url.into(), key: None, host: Some(host) }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

/// Nothing is sent to somebody who is not the one it was meant for.
pub(crate) fn check_pin(to: &Endpoint, found: Option<PublicKey>) -> Result<(), NotSent> {
    let is_key = to.key.is_none() || to.key == found;
    let host = found.as_ref().map(HostId::of);
    let is_host = to.host.is_none() || to.host == host;
    if is_key && is_host {
        return Ok(());
    }
    let expected = match (&to.key, &to.host) {
        (Some(key), _) if !is_key => format!("key {key}"),
        (_, Some(host)) => format!("host {host}"),
        _ => unreachable!("without a pin nothing is wrong"),
    };
    let found = match (found, host) {
        (Some(key), Some(host)) => format!("key {key} of host {host}"),
        _ => "no key, as there is no TLS on this address".to_owned(),
    };
    Err(NotSent::WrongKey { expected, found })
}

/// What an endpoint's URL leads to.
pub(crate) enum Target {
    Tls(String),
    Plain(String),
    Unix(PathBuf),
}

impl Target {
    pub(crate) fn of(url: &str) -> Result<Self, String> {
        if let Some(path) = url.strip_prefix("unix:") {
            return Ok(Target::Unix(path.trim_start_matches("//").into()));
        }
        let uri: Uri = url.parse().map_err(|e| format!("address {url:?}: {e}"))?;
        let (Some(host), "/" | "") = (uri.host(), uri.path()) else {
            return Err(format!("address {url:?} is not https://ADDRESS:PORT or unix:/PATH"));
        };
        let port = uri.authority().map(port_of).transpose()?.flatten();
        match uri.scheme_str() {
            Some("https") => Ok(Target::Tls(format!("{host}:{}", port.unwrap_or(443)))),
            Some("http") => Ok(Target::Plain(format!("{host}:{}", port.unwrap_or(80)))),
            _ => Err(format!("address {url:?} does not start with https://, http:// or unix:")),
        }
    }

    pub(crate) fn host_header(&self) -> Result<HeaderValue, String> {
        match self {
            Target::Tls(authority) | Target::Plain(authority) => {
                HeaderValue::from_str(authority).map_err(|e| format!("address {authority:?}: {e}"))
            }
            Target::Unix(_) => Ok(HeaderValue::from_static("localhost")),
        }
    }
}

/// The port of an address, if it names one. `http` itself reads a wrong port as no port.
pub(crate) fn port_of(authority: &Authority) -> Result<Option<u16>, String> {
    let text = authority.as_str();
    let text = text.rsplit_once('@').map_or(text, |(_, text)| text);
    match text[authority.host().len()..].strip_prefix(':') {
        None => Ok(None),
        Some(port) => {
            port.parse().map(Some).map_err(|_| format!("port {port:?} is no number up to 65535"))
        }
    }
}
