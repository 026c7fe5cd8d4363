//! Reading a large file as it comes, from a peer or from the web, and going on where it was cut.
//!
//! Decides what may be gone on from (a part of the very file that was begun), how long a source may
//! be silent, which redirections are followed, and which failures are worth asking again. What is
//! done with the bytes, and whether they are the right ones, is left to the caller.
//!
//! ```text
//! connect ─> ask from byte N ─> 206 from N ─────────▶ bytes … end
//!     │            │        └─> 200: from 0 again ──▶ bytes … end
//!     └── Broken ──┴─ 4xx, a redirection that leads nowhere: Refused
//! ```

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HOST, IF_RANGE,
    LOCATION, RANGE, USER_AGENT,
};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use crate::call_error::{CallError, with_causes};
use crate::endpoint::port_of;
use crate::io::BoxIo;
use crate::{tcp, tls};

/// Bytes that must come before a source has been waited for as long as it may be silent.
const PROGRESS_BYTES_MIN: u64 = 16 << 10;

/// Redirections that are followed: a mirror of a mirror of a mirror, and then some.
const REDIRECTS_MAX: usize = 5;

/// A file on the web.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebUrl {
    is_tls: bool,
    host: String,
    port: u16,
    path: PathAndQuery,
}

impl WebUrl {
    /// Reads `https://HOST[:PORT]/PATH` or `http://…`.
    ///
    /// # Errors
    /// In words, when it is neither, or has a name and password in it.
    pub fn parse(text: &str) -> Result<Self, String> {
        // What comes after a `#` is for readers.
        let text = text.split('#').next().unwrap_or(text);
        let uri: Uri = text.parse().map_err(|e| format!("the URL cannot be read: {e}"))?;
        let is_tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err("a URL starts with https:// or http://".to_owned()),
        };
        let Some(authority) = uri.authority().filter(|a| !a.host().is_empty()) else {
            return Err("the URL names no server".to_owned());
        };
        if authority.as_str().contains('@') {
            return Err("a URL with a name and a password in it is not taken: it would be logged \
                        and shown; let the server give the file without, or import it as a file"
                .to_owned());
        }
        let port = port_of(authority)?.unwrap_or(if is_tls { 443 } else { 80 });
        let path = uri.path_and_query().cloned();
        let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
        Ok(Self { is_tls, host: authority.host().to_owned(), port, path })
    }

    /// False when anybody on the way could change what comes.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// Where a redirection leads.
    fn redirected(&self, location: &str) -> Result<Self, String> {
        if location.starts_with("http://") || location.starts_with("https://") {
            return Self::parse(location);
        }
        if let Some(rest) = location.strip_prefix("//") {
            let scheme = if self.is_tls { "https" } else { "http" };
            return Self::parse(&format!("{scheme}://{rest}"));
        }
        let path = if location.starts_with('/') {
            location.to_owned()
        } else {
            let (folder, _) = self.path.path().rsplit_once('/').unwrap_or(("", ""));
            format!("{folder}/{location}")
        };
        let path = path.split('#').next().unwrap_or_default();
        let path = path.parse().map_err(|e| format!("it redirects to {path:?}: {e}"))?;
        Ok(Self { path, ..self.clone() })
    }

    pub(crate) fn path(&self) -> &PathAndQuery {
        &self.path
    }

    pub(crate) fn authority(&self) -> String {
        let usual = if self.is_tls { 443 } else { 80 };
        if self.port == usual { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }
}

/// Without its query: that may be a secret.
impl fmt::Display for WebUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path.path())
    }
}

/// Why a file did not come, or not to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DownloadError {
    /// Asking again may help: nobody answered, the line was cut, the server is busy.
    #[error("{0}")]
    Broken(String),
    /// It is there, and has too much to do; later it may have time.
    #[error("{0}")]
    Busy(String),
    /// Asking again will bring the same answer.
    #[error("{0}")]
    Refused(String),
}

/// What is had of a file already.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Had {
    /// So many bytes from its beginning.
    pub bytes: u64,
    /// What the source called the version that they are of. Without it a part is gone on from only
    /// where the file is known by its content.
    pub version: Option<String>,
    /// True when the digest is checked in the end: then a part may be gone on from blindly.
    pub is_checked: bool,
}

impl Had {
    /// The first byte to ask for.
    fn first_byte(&self) -> u64 {
        if self.is_checked || self.version.is_some() { self.bytes } else { 0 }
    }
}

/// A file that is coming.
pub struct Download {
    /// Bytes of the whole file.
    pub total_bytes: u64,
    /// The first byte that will come: what was had, or 0 when the source begins anew.
    pub from_byte: u64,
    /// What the source calls this version of the file.
    pub version: Option<String>,
    body: Incoming,
    left_bytes: u64,
    silence: Duration,
    /// Waited for the source since it was last found fast enough.
    waited: Duration,
    bytes_since: u64,
}

impl Download {
    /// The next bytes; `None` when all have come. What its reader takes between two calls is not
    /// counted as the source's silence.
    pub async fn next(&mut self) -> Result<Option<Bytes>, DownloadError> {
        while self.left_bytes > 0 {
            let begun = Instant::now();
            let frame = timeout(self.silence.saturating_sub(self.waited), self.body.frame()).await;
            self.waited += begun.elapsed();
            let frame = match frame {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => return Err(broken(with_causes(&error))),
                Ok(None) => {
                    return Err(broken(format!(
                        "{} bytes are missing at its end",
                        self.left_bytes
                    )));
                }
                Err(_) => {
                    let (bytes, silence) = (self.bytes_since, self.silence);
                    return Err(broken(format!("only {bytes} bytes came within {silence:?}")));
                }
            };
            let Ok(mut bytes) = frame.into_data() else { continue };
            bytes.truncate(usize::try_from(self.left_bytes).unwrap_or(usize::MAX));
            self.left_bytes -= bytes.len() as u64;
            self.bytes_since += bytes.len() as u64;
            if self.bytes_since >= PROGRESS_BYTES_MIN {
                (self.bytes_since, self.waited) = (0, Duration::ZERO);
            }
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }
}

impl fmt::Debug for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { total_bytes, from_byte, .. } = self;
        f.debug_struct("Download")
            .field("total_bytes", total_bytes)
            .field("from_byte", from_byte)
            .finish_non_exhaustive()
    }
}

/// Asks web servers.
#[derive(Debug, Clone)]
pub struct Web {
    /// The authorities that are believed; `None`: those that the machine believes at that moment.
    authorities: Option<Arc<Vec<CertificateDer<'static>>>>,
}

impl Web {
    /// Believes the authorities that the machine believes: `SSL_CERT_FILE`, or its usual files. They
    /// are read whenever a server is asked: an authority that was added counts at once.
    #[must_use]
    pub fn of_this_machine() -> Self {
        Self { authorities: None }
    }

    /// Believes these authorities and no others.
    #[must_use]
    pub fn believing(authorities: Vec<CertificateDer<'static>>) -> Self {
        Self { authorities: Some(Arc::new(authorities)) }
    }

    /// TLS with the authorities of now, and how many they are.
    async fn tls(&self) -> (TlsConnector, usize) {
        let authorities = match &self.authorities {
            Some(authorities) => Vec::clone(authorities),
            None => tokio::task::spawn_blocking(of_the_machine).await.unwrap_or_default(),
        };
        let mut roots = RootCertStore::empty();
        let (count, _) = roots.add_parsable_certificates(authorities);
        let config = ClientConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .expect("the provider knows TLS")
            .with_root_certificates(roots)
            .with_no_client_auth();
        (TlsConnector::from(Arc::new(config)), count)
    }

    /// Begins to read a file, from where it was left. No redirection leads from TLS to a line that
    /// anybody can write to, unless `had.is_checked`.
    pub async fn download(
        &self,
        url: &WebUrl,
        had: &Had,
        silence: Duration,
    ) -> Result<Download, DownloadError> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let response = timeout(silence, self.ask(&url, had)).await;
            let response = response
                .map_err(|_| broken(format!("{url} gave no answer within {silence:?}")))??;
            if !response.status().is_redirection() {
                return judge(&url, response, had, silence);
            }
            let location = response.headers().get(LOCATION).and_then(|l| l.to_str().ok());
            let Some(location) = location else {
                let status = response.status();
                return Err(refused(format!("{url} answers {status}, and not where to")));
            };
            let next = url.redirected(location).map_err(refused)?;
            if url.is_tls && !next.is_tls && !had.is_checked {
                return Err(refused(format!(
                    "{url} redirects to {next}, where anybody on the way could change what comes; \
                     name its sha256"
                )));
            }
            url = next;
        }
        Err(refused(format!("{url} is the end of more than {REDIRECTS_MAX} redirections")))
    }

    async fn ask(&self, url: &WebUrl, had: &Had) -> Result<Response<Incoming>, DownloadError> {
        let cannot = |what: &str, error: &dyn std::error::Error| {
            broken(format!("{what} {}: {}", url.authority(), with_causes(error)))
        };
        let io = self.connect(url).await?;
        let shaken = handshake::<_, Empty<Bytes>>(TokioIo::new(io)).await;
        let (mut sender, connection) = shaken.map_err(|e| cannot("speak HTTP with", &e))?;
        // Ends with the body, or when nobody reads it any more.
        tokio::spawn(connection);
        let mut request = Request::new(Empty::new());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = Uri::from(url.path.clone());
        let host = HeaderValue::from_str(&url.authority());
        let headers = request.headers_mut();
        headers.insert(HOST, host.map_err(|e| refused(format!("server of {url}: {e}")))?);
        headers.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("ostler/", env!("CARGO_PKG_VERSION"))),
        );
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.extend(range_headers(had));
        sender.send_request(request).await.map_err(|e| cannot("ask", &e))
    }

    /// A connection to the server of this URL, which over TLS has proved that it is that one.
    pub(crate) async fn connect(&self, url: &WebUrl) -> Result<BoxIo, DownloadError> {
        let to = url.authority();
        let failed = |error: io::Error| broken(format!("connect to {to}: {}", with_causes(&error)));
        let host = url.host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((host, url.port)).await.map_err(failed)?;
        tcp::set_up(&stream).map_err(failed)?;
        if !url.is_tls {
            return Ok(Box::new(stream));
        }
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| refused(format!("server {host}: {error}")))?;
        let (tls, authorities) = self.tls().await;
        match tls.connect(name, stream).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) if authorities == 0 => Err(broken(format!(
                "connect to {to}: {}; no authorities are known here (install `ca-certificates`)",
                with_causes(&error)
            ))),
            Err(error) => Err(failed(error)),
        }
    }
}

fn of_the_machine() -> Vec<CertificateDer<'static>> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!("read the machine's certificates: {error}");
    }
    found.certs
}

/// Asks for the rest, if there is a beginning that may be gone on from.
pub(crate) fn range_headers(had: &Had) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let from = had.first_byte();
    if from > 0 {
        let range = HeaderValue::from_str(&format!("bytes={from}-"));
        headers.insert(RANGE, range.expect("digits are a valid header"));
        if let Some(Ok(version)) = had.version.as_deref().map(HeaderValue::from_str) {
            headers.insert(IF_RANGE, version);
        }
    }
    headers
}

/// What an answer's head says of the file.
pub(crate) fn judge(
    source: &dyn fmt::Display,
    response: Response<Incoming>,
    had: &Had,
    silence: Duration,
) -> Result<Download, DownloadError> {
    let (head, body) = response.into_parts();
    let (status, headers) = (head.status, &head.headers);
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    if let Some(encoding) = text(CONTENT_ENCODING).filter(|word| *word != "identity") {
        return Err(refused(format!("{source} gives the file only encoded ({encoding})")));
    }
    // Only a strong validator says that the bytes are the same.
    let version = text(ETAG).filter(|tag| tag.starts_with('"')).map(str::to_owned);
    let begins = |total_bytes: u64, from_byte: u64| Download {
        total_bytes,
        from_byte,
        version,
        body,
        left_bytes: total_bytes - from_byte,
        silence,
        waited: Duration::ZERO,
        bytes_since: 0,
    };
    match status {
        StatusCode::OK => match text(CONTENT_LENGTH).and_then(|length| length.parse().ok()) {
            Some(total_bytes) => Ok(begins(total_bytes, 0)),
            None => Err(refused(format!(
                "{source} does not say how large the file is; download it and import the file"
            ))),
        },
        StatusCode::PARTIAL_CONTENT => {
            let range = text(CONTENT_RANGE).unwrap_or_default();
            match content_range(range) {
                Some((from, total)) if from == had.first_byte() && from < total => {
                    Ok(begins(total, from))
                }
                _ => Err(refused(format!(
                    "{source} was asked for bytes from {}, and gives {range:?}",
                    had.first_byte()
                ))),
            }
        }
        StatusCode::TOO_MANY_REQUESTS => {
            Err(DownloadError::Busy(format!("{source} answers {status}")))
        }
        StatusCode::REQUEST_TIMEOUT => Err(broken(format!("{source} answers {status}"))),
        status if status.is_server_error() => Err(broken(format!("{source} answers {status}"))),
        status => Err(refused(format!("{source} answers {status}"))),
    }
}

/// `bytes 100-199/200` as (100, 200).
fn content_range(text: &str) -> Option<(u64, u64)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (from, _) = range.split_once('-')?;
    Some((from.parse().ok()?, total.parse().ok()?))
}

/// What a peer's answer means for a file that it was to give.
pub(crate) fn of_call(error: &CallError) -> DownloadError {
    let words = with_causes(error);
    let is_broken = match error {
        CallError::Problem { problem, .. } if problem.status == 429 => {
            return DownloadError::Busy(words);
        }
        CallError::Problem { problem, .. } => problem.status >= 500,
        CallError::NotSent { .. } | CallError::Ambiguous { .. } => true,
        CallError::BadAnswer { .. } => false,
    };
    if is_broken { broken(words) } else { refused(words) }
}

fn broken(why: String) -> DownloadError {
    DownloadError::Broken(why)
}

fn refused(why: String) -> DownloadError {
    DownloadError::Refused(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_of_the_web_and_keeps_no_secret() {
        let url = WebUrl::parse("https://Example.org/a/b.qcow2?token=x#top").unwrap();
        assert!(url.is_tls() && url.port == 443);
        assert_eq!(url.to_string().to_lowercase(), "https://example.org/a/b.qcow2");
        assert_eq!(WebUrl::parse("http://[::1]:8080").unwrap().to_string(), "http://[::1]:8080/");
        for bad in ["ftp://x/y", "file:///etc/passwd", "/x", "https://", "https://me:secret@x/y"] {
            assert!(WebUrl::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_redirection_may_be_relative() {
        let url = WebUrl::parse("https://a.org/x/y").unwrap();
        let leads = |to: &str| url.redirected(to).unwrap().to_string();
        assert_eq!(leads("http://b.org/z"), "http://b.org/z");
        assert_eq!(leads("//b.org:99/z"), "https://b.org:99/z");
        assert_eq!(leads("/z"), "https://a.org/z");
        assert_eq!(leads("z"), "https://a.org/x/z");
        assert!(
            url.redirected("ftp://b.org/").is_err()
                || leads("ftp://b.org/").starts_with("https://a")
        );
    }

    #[test]
    fn a_part_without_a_version_is_gone_on_from_only_if_the_whole_is_checked() {
        let part = Had { bytes: 10, ..Had::default() };
        assert!(range_headers(&part).is_empty());
        let checked = Had { is_checked: true, ..part.clone() };
        assert_eq!(range_headers(&checked)[RANGE], "bytes=10-");
        let version = Some("\"v1\"".to_owned());
        let versioned = Had { version, ..part };
        assert_eq!(range_headers(&versioned)[IF_RANGE], "\"v1\"");
        assert_eq!(content_range("bytes 10-19/20"), Some((10, 20)));
        assert_eq!(content_range("bytes 10-19/*"), None);
    }
}
