//! Which images are here, which are coming, and which may go.
//!
//! Decides that one content comes once at a time, that asking again for what is on its way is asking
//! once, and the order of a deletion: nothing new is made from an image before it is looked who
//! needs it. How bytes come is [`crate::fetch`]'s, or [`crate::disk_image`]'s; where they lie
//! [`crate::images`]'s.
//!
//! ```text
//! delete: needed? ─ yes ─▶ refused          leave the list ─▶ told and settled ─▶ needed? ─ no ─▶ gone
//!                    no ──▶ ───────────────────┘                                    yes ─▶ back on it
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::host::ImageFacts;
use protocol::id::{ImageName, JobId};
use protocol::image::{DiskSource, FetchImage, FetchState, FetchTrouble, ImageList, ImageStatus};
use protocol::refusal::Refusal;
use protocol::signed::Digest;
use tokio::sync::{Mutex as Turn, Notify, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};
use transport::Client;

use crate::core::{Input, readable};
use crate::disk_image::{DiskImage, Reading};
use crate::feed::Feed;
use crate::fetch::{Fetch, FetchLimits, Origin, Room, Source, of_disk};
use crate::images::{Images, name_taken};
use crate::part::Part;
use crate::shell::Post;
use crate::storage::{Storage, StorageError};

/// Images fetched at a time: one that is slow does not hold up the next, and two fill a network.
const FETCHED_AT_ONCE: usize = 2;
/// Images made of disks at a time: each reads a disk that guests use, for hours perhaps.
const MADE_AT_ONCE: usize = 2;
/// Images being fetched or waiting for it, and failures remembered.
const FETCHES_MAX: usize = 64;
/// When to ask again while there are that many.
const BUSY_RETRY_MS: u64 = 5_000;
/// How often parts are looked for that nobody goes on with. Two looks apart, unchanged, they go.
const FORGET_INTERVAL: Duration = Duration::from_secs(3600);

/// See the module. Clones are the same library.
#[derive(Clone)]
pub(crate) struct Library(Arc<Inner>);

/// What a library works with.
pub(crate) struct Means {
    /// The files: images, and the disks that some are made of.
    pub storage: Storage,
    /// What the host has published.
    pub feed: Arc<Feed>,
    /// To the core.
    pub posts: mpsc::Sender<Post>,
    /// For other hosts.
    pub client: Client,
    /// What is put up with.
    pub limits: FetchLimits,
    /// Whether there is room.
    pub room: Room,
    /// Told when files have come or gone.
    pub measure: Arc<Notify>,
    /// Ends all fetches.
    pub shutdown: CancellationToken,
}

struct Inner {
    storage: Storage,
    images: Images,
    feed: Arc<Feed>,
    posts: mpsc::Sender<Post>,
    client: Client,
    limits: FetchLimits,
    room: Arc<Room>,
    measure: Arc<Notify>,
    shutdown: CancellationToken,
    fetches: Mutex<BTreeMap<ImageName, Coming>>,
    places: Semaphore,
    /// For images made of disks: what a start waits for must not wait for these.
    makers: Semaphore,
    /// Contents on their way, each fetched by one at a time.
    contents: Mutex<BTreeMap<Digest, Arc<Turn<()>>>>,
    /// The core hears of lists in the order in which they were made.
    telling: Turn<()>,
    removing: Turn<()>,
}

/// An image on its way, or that has failed to come.
struct Coming {
    wanted: FetchImage,
    state: Arc<Mutex<FetchState>>,
    off: CancellationToken,
}

impl Coming {
    fn has_failed(&self) -> bool {
        matches!(*lock(&self.state), FetchState::Failed { .. })
    }
}

/// How an image comes, once it is its turn.
enum Way {
    Elsewhere(Vec<Source>),
    Disk(Box<Reading>),
}

/// What came of asking for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// It is here.
    Here,
    /// It is on its way.
    Coming,
}

/// Why an image was not deleted, or what is here not told.
#[derive(Debug)]
pub(crate) enum LibraryError {
    /// With a reason.
    Refused(Refusal),
    /// The disk failed.
    Storage(StorageError),
}

impl From<StorageError> for LibraryError {
    fn from(error: StorageError) -> Self {
        LibraryError::Storage(error)
    }
}

impl Library {
    /// A library over what is on disk.
    pub(crate) fn new(means: Means) -> Self {
        let Means { storage, feed, posts, client, limits, room, measure, shutdown } = means;
        let images = storage.images().clone();
        Self(Arc::new(Inner {
            storage,
            images,
            feed,
            posts,
            client,
            limits,
            room: Arc::new(room),
            measure,
            shutdown,
            fetches: Mutex::default(),
            places: Semaphore::new(FETCHED_AT_ONCE),
            makers: Semaphore::new(MADE_AT_ONCE),
            contents: Mutex::default(),
            telling: Turn::default(),
            removing: Turn::default(),
        }))
    }

    /// The files.
    pub(crate) fn images(&self) -> &Images {
        &self.0.images
    }

    /// Tells the core what is here now.
    pub(crate) async fn tell(&self) -> Result<(), StorageError> {
        let _telling = self.0.telling.lock().await;
        let images = self.0.images.list()?;
        let _ = self.0.posts.send(Post::Input(Input::Images(images))).await;
        self.0.measure.notify_one();
        Ok(())
    }

    // Looking.

    /// Everything that is here or on its way, and who needs it.
    pub(crate) fn list(&self) -> Result<ImageList, StorageError> {
        let host = self.0.feed.host();
        let (jobs, made) = (self.0.feed.jobs(), self.0.images.made()?);
        let here = host.images.iter().map(|(name, facts)| ImageStatus {
            name: name.clone(),
            facts: Some(facts.clone()),
            users: Images::users(name, &jobs, &made),
            fetch: None,
        });
        let mut images: BTreeMap<ImageName, ImageStatus> =
            here.map(|status| (status.name.clone(), status)).collect();
        for (name, coming) in lock(&self.0.fetches).iter() {
            let status =
                ImageStatus { name: name.clone(), facts: None, users: vec![], fetch: None };
            let status = images.entry(name.clone()).or_insert(status);
            status.fetch = Some(lock(&coming.state).clone());
        }
        Ok(ImageList { images: images.into_values().collect() })
    }

    /// One image, as it is shown to others: what is told as being here can be used.
    pub(crate) fn status(&self, name: &ImageName) -> Result<ImageStatus, StorageError> {
        let facts = self.here(name);
        // Whoever waits for it asks often, and has no use for this.
        let users = if facts.is_some() { self.users(name)? } else { vec![] };
        let fetch = lock(&self.0.fetches).get(name).map(|coming| lock(&coming.state).clone());
        Ok(ImageStatus { name: name.clone(), facts, users, fetch })
    }

    fn here(&self, name: &ImageName) -> Option<ImageFacts> {
        self.0.feed.host().images.get(name).cloned()
    }

    fn users(&self, name: &ImageName) -> Result<Vec<JobId>, StorageError> {
        let made = self.0.images.made()?;
        Ok(Images::users(name, &self.0.feed.jobs(), &made))
    }

    // Fetching.

    /// Begins to fetch an image, unless it is here or on its way.
    pub(crate) fn fetch(&self, name: &ImageName, wanted: FetchImage) -> Result<Asked, Refusal> {
        let origin = Origin::of(&wanted)?;
        if let Origin::Disk(source) = &origin {
            self.check_disk(source)?;
        }
        if let Some(facts) = self.here(name) {
            return match wanted.sha256 {
                Some(sha256) if sha256 != facts.sha256 => {
                    Err(Refusal::Invalid { message: name_taken(name, facts.sha256) })
                }
                _ => Ok(Asked::Here),
            };
        }
        let mut fetches = lock(&self.0.fetches);
        if let Some(coming) = fetches.get(name).filter(|coming| !coming.has_failed()) {
            let is_same = match (coming.wanted.sha256, wanted.sha256) {
                (Some(one), Some(other)) => one == other,
                _ => coming.wanted.from == wanted.from,
            };
            return if is_same {
                Ok(Asked::Coming)
            } else {
                let message = format!(
                    "another image {name} is being fetched: wait for it, or call that off with \
                     `ostler images rm {name}`"
                );
                Err(Refusal::Invalid { message })
            };
        }
        if fetches.len() >= FETCHES_MAX {
            fetches.retain(|_, coming| !coming.has_failed());
        }
        if fetches.len() >= FETCHES_MAX {
            return Err(Refusal::Busy {
                what: "images being fetched".to_owned(),
                limit: u32::try_from(FETCHES_MAX).unwrap_or(u32::MAX),
                retry_after_ms: BUSY_RETRY_MS,
            });
        }
        let state = Arc::new(Mutex::new(FetchState::Waiting));
        let off = self.0.shutdown.child_token();
        let coming = Coming { wanted: wanted.clone(), state: Arc::clone(&state), off: off.clone() };
        fetches.insert(name.clone(), coming);
        drop(fetches);
        let span = match transport::traces::here() {
            None => Span::none(),
            Some(place) => {
                let span = tracing::debug_span!(parent: None, "fetch", image = %name);
                place.takes(&span);
                span
            }
        };
        let bring = self.clone().bring(name.clone(), origin, wanted, state, off);
        tokio::spawn(bring.instrument(span));
        Ok(Asked::Coming)
    }

    /// Brings one image, and says how that ended.
    async fn bring(
        self,
        name: ImageName,
        origin: Origin,
        wanted: FetchImage,
        state: Arc<Mutex<FetchState>>,
        off: CancellationToken,
    ) {
        let brought = tokio::select! {
            brought = self.get(&name, origin, &wanted, &state) => brought,
            () = off.cancelled() => Err(FetchTrouble::CalledOff),
        };
        match brought {
            Ok(facts) => {
                tracing::info!(image = %name, sha256 = %facts.sha256, "fetched");
                // It is told as being here before it is told as not being fetched any more.
                self.settle().await;
                lock(&self.0.fetches).remove(&name);
            }
            Err(FetchTrouble::CalledOff) => {
                // It may have come in this very moment.
                if let Err(error) = self.tell().await {
                    tracing::warn!("{error}");
                }
                if let Some(sha256) = wanted.sha256.filter(|_| !self.0.shutdown.is_cancelled()) {
                    self.forget_part(sha256);
                }
            }
            Err(why) => {
                tracing::warn!(image = %name, "not fetched: {why}");
                *lock(&state) = FetchState::Failed { why };
            }
        }
        self.0.measure.notify_one();
    }

    async fn get(
        &self,
        name: &ImageName,
        origin: Origin,
        wanted: &FetchImage,
        state: &Mutex<FetchState>,
    ) -> Result<ImageFacts, FetchTrouble> {
        let images = &self.0.images;
        let content = wanted.sha256.map(|sha256| self.content(sha256));
        let _alone = match &content {
            Some(turn) => Some(turn.lock().await),
            None => None,
        };
        // A disk is read from now on, before its turn comes: whoever has asked may forget the snapshot once
        // all of this has ended.
        let (places, way) = match origin {
            Origin::Elsewhere(sources) => (&self.0.places, Way::Elsewhere(sources)),
            Origin::Disk(source) => {
                let reading = Reading::begin(self.0.posts.clone(), source).await?;
                (&self.0.makers, Way::Disk(Box::new(reading)))
            }
        };
        let Ok(_place) = places.acquire().await else { return Err(FetchTrouble::CalledOff) };
        if let Some(sha256) = wanted.sha256
            && let Some(facts) = images.link(name, sha256).map_err(of_disk)?
        {
            self.tell().await.map_err(of_disk)?;
            return Ok(facts);
        }
        let part = images.part(wanted.sha256).await.map_err(of_disk)?;
        let tell = |news: FetchState| *lock(state) = news;
        let part = match way {
            Way::Elsewhere(sources) => self.pull(part, sources, wanted, &tell).await?,
            Way::Disk(reading) => self.write(part, *reading, wanted, &tell).await?,
        };
        tell(FetchState::Checking);
        self.place(part, name, wanted.sha256).await.map_err(of_disk)
    }

    /// Brings the bytes from elsewhere.
    async fn pull(
        &self,
        mut part: Part,
        sources: Vec<Source>,
        wanted: &FetchImage,
        tell: &(dyn Fn(FetchState) + Send + Sync),
    ) -> Result<Part, FetchTrouble> {
        let Inner { limits, client, room, .. } = &*self.0;
        loop {
            let fetch = Fetch {
                sources: sources.clone(),
                sha256: wanted.sha256,
                bytes_per_second: wanted.bytes_per_second,
                limits: limits.clone(),
                client: client.clone(),
                room: Arc::clone(room),
            };
            if let Err(why) = fetch.run(&mut part, tell).await {
                // Only what may be gone on from is worth its room.
                if matches!(why, FetchTrouble::Unreachable { .. }) {
                    part.give_back_room().await.map_err(of_disk)?;
                } else {
                    part.discard();
                }
                return Err(why);
            }
            // What an earlier life wrote may have been lost with the power.
            let is_wrong = wanted.sha256.is_some_and(|sha256| sha256 != part.digest());
            if !(is_wrong && part.is_resumed()) {
                return Ok(part);
            }
            part.restart().await.map_err(of_disk)?;
        }
    }

    /// Writes them from a disk.
    async fn write(
        &self,
        mut part: Part,
        reading: Reading,
        wanted: &FetchImage,
        tell: &(dyn Fn(FetchState) + Send + Sync),
    ) -> Result<Part, FetchTrouble> {
        let Inner { storage, room, .. } = &*self.0;
        let bytes_per_second = wanted.bytes_per_second;
        let image = DiskImage { reading, storage, room, bytes_per_second };
        image.write(&mut part, tell).await?;
        Ok(part)
    }

    /// Refuses at once what can't be made. It is looked again when its turn has come.
    fn check_disk(&self, source: &DiskSource) -> Result<(), Refusal> {
        let DiskSource { job: id, disk, snapshot } = source;
        let job = self.0.feed.job(id).ok_or_else(|| Refusal::NoSuchJob { job: id.clone() })?;
        let disks = job.spec.as_vm().map_or(&[][..], |vm| &vm.disks);
        if !disks.iter().any(|found| found.name == *disk) {
            let names: Vec<&str> = disks.iter().map(|found| found.name.as_str()).collect();
            let has = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(Refusal::Invalid {
                message: format!("{id} has no disk {disk}; it has {has}"),
            });
        }
        readable(&job, snapshot).map(drop)
    }

    /// Takes the room for an image that somebody sends.
    pub(crate) async fn take_room(&self, part: &Part, bytes: u64) -> Result<(), FetchTrouble> {
        self.0.room.take(part, bytes).await
    }

    /// Puts what came in place, and tells the core.
    pub(crate) async fn place(
        &self,
        part: Part,
        name: &ImageName,
        announced: Option<Digest>,
    ) -> Result<ImageFacts, StorageError> {
        let facts = self.0.images.place(part, name, announced).await?;
        self.tell().await?;
        Ok(facts)
    }

    fn content(&self, sha256: Digest) -> Arc<Turn<()>> {
        let mut contents = lock(&self.0.contents);
        contents.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(contents.entry(sha256).or_default())
    }

    /// Removes a part, unless another fetch goes on with it.
    fn forget_part(&self, sha256: Digest) {
        let mut contents = lock(&self.0.contents);
        contents.retain(|_, turn| Arc::strong_count(turn) > 1);
        if !contents.contains_key(&sha256)
            && let Err(error) = self.0.images.forget_part(sha256)
        {
            tracing::warn!("{error}");
        }
    }

    // Deleting.

    /// Deletes an image that nobody needs, and ends its fetch. Fine when there is none.
    pub(crate) async fn remove(&self, name: &ImageName) -> Result<(), LibraryError> {
        let _removing = self.0.removing.lock().await;
        if let Some(coming) = lock(&self.0.fetches).remove(name) {
            coming.off.cancel();
        }
        let images = &self.0.images;
        if !images.list()?.contains_key(name) {
            return Ok(());
        }
        self.refuse_if_needed(name)?;
        images.leave(name);
        let removed = self.remove_left(name).await;
        if removed.is_err() {
            images.stay(name);
        }
        self.tell().await?;
        removed
    }

    async fn remove_left(&self, name: &ImageName) -> Result<(), LibraryError> {
        self.tell().await?;
        self.settle().await;
        // Nothing can come to need it any more; but something may have, since it was looked.
        self.refuse_if_needed(name)?;
        Ok(self.0.images.remove(name)?)
    }

    fn refuse_if_needed(&self, name: &ImageName) -> Result<(), LibraryError> {
        let users = self.users(name)?;
        if users.is_empty() {
            return Ok(());
        }
        Err(LibraryError::Refused(Refusal::ImageInUse { image: name.clone(), users }))
    }

    /// Waits until the core has taken in, and published, all that it was told before.
    async fn settle(&self) {
        let (sender, answer) = oneshot::channel();
        if self.0.posts.send(Post::OpenOffers(sender)).await.is_ok() {
            let _ = answer.await;
        }
    }

    /// Forgets parts that nobody goes on with, for as long as the agent lives.
    pub(crate) async fn keep_forgetting(self) {
        let mut seen = BTreeMap::new();
        loop {
            tokio::time::sleep(FORGET_INTERVAL).await;
            let parts = self.0.images.parts().unwrap_or_default();
            for (sha256, bytes) in &parts {
                if seen.get(sha256) == Some(bytes) {
                    self.forget_part(*sha256);
                }
            }
            seen = parts;
        }
    }
}

/// Nobody who holds such a lock does more than a look-up.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
