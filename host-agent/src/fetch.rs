//! Getting one image from where it is: a web server, or other hosts.
//!
//! Decides what is asked first (how large it is, whether there is room), when a source is given up
//! for the next one, and how fast bytes may come. It ends with all bytes in the part, unchecked.
//!
//! ```text
//!        ┌── cut, silent, busy: the next source, after a pause, from where it was left ──┐
//!        ▼                                                                               │
//! ask ─> size, room ─> bytes ─────────────────────────────────────────────────────────▶ all
//!  │         └── too large, no room: end
//!  └── says no: without this source; end when none is left
//! ```

use std::io;
use std::sync::Arc;
use std::time::Duration;

use protocol::id::HostId;
use protocol::image::{DiskSource, FetchImage, FetchState, FetchTrouble, ImageSource};
use protocol::refusal::Refusal;
use protocol::resources::Resources;
use protocol::signed::Digest;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, sleep_until};
use transport::backoff::{Backoff, random_unit};
use transport::download::{Download, DownloadError, Had, Web, WebUrl};
use transport::{Client, Endpoint};

use crate::part::Part;
use crate::storage::StorageError;

/// Times that what came is thrown away because its source does not know of it any more.
const RESTARTS_MAX: u32 = 3;
/// First and longest pause before asking again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// Pause before a busy source is asked again, more or less.
const BUSY_PAUSE: Duration = Duration::from_secs(3);
/// How far the pace may lag behind before what was lost is given up: a stall is not made good for by
/// a burst.
const BURST: Duration = Duration::from_secs(1);

/// What an agent puts up with when it fetches images.
#[derive(Debug, Clone)]
pub struct FetchLimits {
    /// Largest image, in bytes.
    pub bytes_max: u64,
    /// How long a source may bring nothing.
    pub silence: Duration,
    /// Times in a row that nothing came before it is given up.
    pub idle_max: u32,
    /// How fast each image may come.
    pub bytes_per_second: Option<u64>,
    /// Whose certificates are believed on the web.
    pub web: Web,
}

impl Default for FetchLimits {
    fn default() -> Self {
        Self {
            bytes_max: crate::api::IMAGE_BYTES_MAX,
            silence: Duration::from_secs(30),
            // With the pauses between them a minute or two, in which a switch or a server restarts.
            idle_max: 10,
            bytes_per_second: None,
            web: Web::of_this_machine(),
        }
    }
}

/// What an image is to be got from.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    /// From elsewhere, by a [`Fetch`].
    Elsewhere(Vec<Source>),
    /// From a disk of this host, as a [`crate::disk_image::DiskImage`].
    Disk(DiskSource),
}

/// Where an image may come from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// The web.
    Url(WebUrl),
    /// Another host's agent.
    Host(HostId, Vec<String>),
}

impl Origin {
    /// What is named, if it makes sense.
    pub(crate) fn of(wanted: &FetchImage) -> Result<Self, Refusal> {
        let invalid = |message: String| Err(Refusal::Invalid { message });
        let sha256 = wanted.sha256;
        match &wanted.from {
            ImageSource::Url(url) => match WebUrl::parse(url) {
                Ok(url) if !url.is_tls() && sha256.is_none() => invalid(format!(
                    "{url}: over plain http anybody on the way could change what comes; name its \
                     sha256, or use https"
                )),
                Ok(url) => Ok(Origin::Elsewhere(vec![Source::Url(url)])),
                Err(why) => invalid(why),
            },
            ImageSource::Hosts(hosts) if hosts.is_empty() || sha256.is_none() => {
                invalid("name hosts to fetch from, and the sha256 that they have".to_owned())
            }
            ImageSource::Hosts(hosts) => {
                let sources = hosts.iter().map(|h| Source::Host(h.host.clone(), h.urls.clone()));
                Ok(Origin::Elsewhere(sources.collect()))
            }
            ImageSource::Disk(_) if sha256.is_some() => invalid(
                "what an image of a disk has as its sha256 is known once it is made: leave it out"
                    .to_owned(),
            ),
            ImageSource::Disk(disk) => Ok(Origin::Disk(disk.clone())),
        }
    }
}

impl Source {
    /// In words, without secrets.
    fn words(&self) -> String {
        match self {
            Source::Url(url) => url.to_string(),
            Source::Host(host, _) => format!("host {}", host.short()),
        }
    }
}

/// Says whether there is room, and takes it.
pub(crate) struct Room {
    /// What the host has now.
    pub measure: Box<dyn Fn() -> Resources + Send + Sync>,
    /// What it has promised.
    pub promised: Box<dyn Fn() -> Resources + Send + Sync>,
    /// One fetch at a time asks: the next one sees what the one before has taken.
    pub turn: Mutex<()>,
}

impl Room {
    /// Takes it for a file that is to have so many bytes.
    pub(crate) async fn take(&self, part: &Part, total_bytes: u64) -> Result<(), FetchTrouble> {
        let _turn = self.turn.lock().await;
        let needed_bytes = part.missing_bytes(total_bytes);
        let capacity = (self.measure)();
        let free = capacity.minus((self.promised)());
        if needed_bytes > free.disk_bytes {
            return Err(FetchTrouble::NoSpace { needed_bytes, free, capacity });
        }
        part.take_room(total_bytes).map_err(of_disk)
    }
}

/// One image being fetched.
pub(crate) struct Fetch {
    /// Where from; the first is asked first.
    pub sources: Vec<Source>,
    /// What it must be, if that is known.
    pub sha256: Option<Digest>,
    /// At most so many bytes a second.
    pub bytes_per_second: Option<u64>,
    /// What is put up with.
    pub limits: FetchLimits,
    /// For other hosts.
    pub client: Client,
    /// Whether there is room.
    pub room: Arc<Room>,
}

/// Why a source did not bring it all.
enum Stop {
    /// No source would help.
    Trouble(FetchTrouble),
    /// Another one may, or this one later.
    Source(DownloadError),
}

impl From<StorageError> for Stop {
    fn from(error: StorageError) -> Self {
        Stop::Trouble(of_disk(error))
    }
}

impl Fetch {
    /// Brings all bytes into the part.
    pub(crate) async fn run(
        mut self,
        part: &mut Part,
        tell: &(dyn Fn(FetchState) + Send + Sync),
    ) -> Result<(), FetchTrouble> {
        let (mut at, mut version, mut trouble, mut restarts) = (0, None, None, 0);
        let mut pauses = Backoff::new(PAUSES.0, PAUSES.1);
        // All of it may have come before an earlier life ended.
        while self.sha256 != Some(part.digest()) {
            let before = part.bytes();
            let source = self.sources[at].clone();
            let pulled = self.pull(&source, part, &mut version, trouble.as_deref(), tell).await;
            let why = match pulled {
                Ok(()) => return Ok(()),
                Err(Stop::Trouble(trouble)) => return Err(trouble),
                Err(Stop::Source(DownloadError::Refused(_))) if self.sources.len() > 1 => {
                    self.sources.remove(at);
                    (at, version) = (at % self.sources.len(), None);
                    continue;
                }
                // It may not know of the beginning that we have.
                Err(Stop::Source(DownloadError::Refused(_)))
                    if part.bytes() > 0 && restarts < RESTARTS_MAX =>
                {
                    restarts += 1;
                    part.restart().await.map_err(of_disk)?;
                    version = None;
                    continue;
                }
                Err(Stop::Source(DownloadError::Refused(message))) => {
                    return Err(FetchTrouble::Refused { message });
                }
                Err(Stop::Source(error)) => error,
            };
            if part.bytes() > before {
                pauses.reset();
            }
            // Who is busy with others is not gone, and has time for us when they are done.
            let pause = match why {
                DownloadError::Busy(_) => BUSY_PAUSE.mul_f64(0.5 + random_unit()),
                DownloadError::Broken(_) | DownloadError::Refused(_) => pauses.next(random_unit()),
            };
            if pauses.failures() > self.limits.idle_max {
                return Err(FetchTrouble::Unreachable { message: why.to_string() });
            }
            let why = why.to_string();
            tell(self.state(&source, part, None, Some(&why)));
            trouble = Some(why);
            if self.sources.len() > 1 {
                (at, version) = ((at + 1) % self.sources.len(), None);
            }
            sleep(pause).await;
        }
        Ok(())
    }

    /// Reads from one source until its end, or until something stops it.
    async fn pull(
        &self,
        source: &Source,
        part: &mut Part,
        version: &mut Option<String>,
        trouble: Option<&str>,
        tell: &(dyn Fn(FetchState) + Send + Sync),
    ) -> Result<(), Stop> {
        tell(self.state(source, part, None, trouble));
        let is_checked = self.sha256.is_some();
        let had = Had { bytes: part.bytes(), version: version.take(), is_checked };
        let mut download = self.open(source, &had).await.map_err(Stop::Source)?;
        let (total_bytes, limit_bytes) = (download.total_bytes, self.limits.bytes_max);
        if total_bytes > limit_bytes {
            let bytes = total_bytes;
            return Err(Stop::Trouble(FetchTrouble::TooLarge { bytes, limit_bytes }));
        }
        if download.from_byte != part.bytes() {
            part.restart().await?;
        }
        *version = download.version.clone();
        self.room.take(part, total_bytes).await.map_err(Stop::Trouble)?;
        let mut pace = Pace::new(self.pace());
        while let Some(bytes) = download.next().await.map_err(Stop::Source)? {
            part.write(&bytes).await?;
            tell(self.state(source, part, Some(total_bytes), None));
            pace.pass(bytes.len() as u64).await;
        }
        Ok(())
    }

    async fn open(&self, source: &Source, had: &Had) -> Result<Download, DownloadError> {
        let silence = self.limits.silence;
        let (host, urls) = match source {
            Source::Url(url) => return self.limits.web.download(url, had, silence).await,
            Source::Host(host, urls) => (host, urls),
        };
        let sha256 = self.sha256.map(|sha256| sha256.to_string()).unwrap_or_default();
        let path = format!("/v1/image-files/{sha256}");
        let mut failed = DownloadError::Broken(format!("nobody knows where {host} answers"));
        for url in urls {
            let endpoint = Endpoint::of_host(url.clone(), host.clone());
            match self.client.download(&endpoint, &path, had, silence).await {
                Ok(download) => return Ok(download),
                Err(error @ DownloadError::Refused(_)) => return Err(error),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// The smaller of both limits.
    fn pace(&self) -> Option<u64> {
        let limits = [self.bytes_per_second, self.limits.bytes_per_second];
        limits.into_iter().flatten().min()
    }

    fn state(
        &self,
        source: &Source,
        part: &Part,
        total_bytes: Option<u64>,
        trouble: Option<&str>,
    ) -> FetchState {
        FetchState::Fetching {
            from: source.words(),
            got_bytes: part.bytes(),
            total_bytes,
            trouble: trouble.map(str::to_owned),
        }
    }
}

/// Lets bytes through at a rate.
struct Pace {
    bytes_per_second: Option<u64>,
    /// When the next bytes are due.
    due: Instant,
}

impl Pace {
    fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, due: Instant::now() }
    }

    async fn pass(&mut self, bytes: u64) {
        if let Some(due) = self.due_after(Instant::now(), bytes) {
            sleep_until(due).await;
        }
    }

    /// When the bytes after these may come; `None`: at once.
    fn due_after(&mut self, now: Instant, bytes: u64) -> Option<Instant> {
        let rate = self.bytes_per_second?.max(1);
        let micros = bytes.saturating_mul(1_000_000) / rate;
        self.due =
            self.due.max(now.checked_sub(BURST).unwrap_or(now)) + Duration::from_micros(micros);
        Some(self.due)
    }
}

/// What the disk said; a full one is no fault of its own.
pub(crate) fn of_disk(error: StorageError) -> FetchTrouble {
    match error {
        StorageError::WrongDigest { found, announced } => {
            FetchTrouble::WrongDigest { found, announced }
        }
        StorageError::BadImage(message) => FetchTrouble::BadImage { message },
        StorageError::Io { ref source, .. } if source.kind() == io::ErrorKind::StorageFull => {
            FetchTrouble::Disk { message: format!("{error}; the disk is full") }
        }
        error => FetchTrouble::Disk { message: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_pass_at_their_rate_and_a_stall_is_not_made_good_for() {
        let mut pace = Pace::new(Some(1000));
        let begun = pace.due;
        let mut now = begun;
        for _ in 0..10 {
            now = pace.due_after(now, 500).unwrap();
        }
        assert_eq!((now - begun).as_millis(), 5000);
        now += Duration::from_secs(60);
        let dues: Vec<_> = (0..10).map(|_| pace.due_after(now, 500).unwrap()).collect();
        let after = dues.last().unwrap().saturating_duration_since(now);
        assert_eq!(after.as_millis(), 4000, "a second's burst, and no more");
        assert_eq!(Pace::new(None).due_after(now, u64::MAX), None);
    }

    #[test]
    fn plain_http_needs_a_digest_and_hosts_as_well() {
        let digest = Some(Digest::of(b""));
        let of = |from: ImageSource, sha256| {
            Origin::of(&FetchImage { from, sha256, bytes_per_second: None })
        };
        let url = |url: &str| ImageSource::Url(url.to_owned());
        assert!(of(url("http://a.org/x"), None).is_err());
        assert!(of(url("http://a.org/x"), digest).is_ok());
        assert!(of(url("https://a.org/x"), None).is_ok());
        assert!(of(url("/etc/passwd"), digest).is_err());
        assert!(of(ImageSource::Hosts(vec![]), digest).is_err());
    }
}
