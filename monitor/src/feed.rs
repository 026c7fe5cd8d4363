//! The view as a stream: everything known, then every delta, to one subscriber at its own pace.
//!
//! Decides where a subscriber begins: where it left off, when this monitor still has what happened
//! since; else with an inventory of every host. Its `current` frames tell both: `resumed`, and the
//! `stream` and `seq` to come back with. A subscriber that falls off the ring is cut.
//!
//! ```text
//!   ?stream=S&seq=N, S is ours and N in the ring ──▶ deltas after N ──────────┐
//!   otherwise ──▶ an inventory and a freshness a host ────────────────────────┴─▶ current ─▶ deltas
//!                                                    (with marks: a current frame every 2 s) ◀──┘
//! ```

use std::sync::Arc;

use protocol::event::Frame;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use transport::FrameSender;
use transport::stream::{Encoded, Frames, StreamError, close};

use crate::core::HostStatus;
use crate::packed::PackedRow;
use crate::serve::Shared;
use crate::writer::Shown;

/// Deltas taken out of the ring at a time.
const CHUNK_DELTAS: usize = 256;

/// How the writer's own frames on freshness begin.
const FRESHNESS_START: &str = r#"{"frame":"freshness""#;

/// What a subscriber may ask for.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct FeedQuery {
    /// Tell each row's age every two seconds, as a monitor that follows this one needs.
    #[serde(default)]
    ages: bool,
    /// Tell where the subscriber stands every two seconds, not only once.
    #[serde(default)]
    marks: bool,
    /// The stream it has followed before.
    stream: Option<String>,
    /// How far.
    seq: Option<u64>,
}

/// A `current` frame that also says how to come back. Others read it as a plain one.
#[derive(Debug, Serialize)]
struct Mark<'a> {
    frame: &'static str,
    stream: &'a str,
    seq: u64,
    resumed: bool,
}

/// Why a subscriber is no more told anything.
enum End {
    /// The stream is over.
    Over,
    /// It did not keep up.
    Behind,
}

impl From<StreamError> for End {
    fn from(_: StreamError) -> Self {
        End::Over
    }
}

/// Serves one subscriber until one of the two has enough.
pub(crate) async fn run(shared: Arc<Shared>, mut frames: Frames, query: FeedQuery) {
    let sender = frames.sender();
    shared.published.metrics.subscribers.inc();
    let feed = Feed { shared: &shared, sender: &sender };
    tokio::select! {
        // Subscribers have nothing to say; reading is how their goodbye is noticed.
        () = async { while let Some(Ok(_)) = frames.next_frame().await {} } => {}
        end = feed.tell(&query) => if let Err(End::Behind) = end {
            shared.published.metrics.cut.inc();
            sender.cut(close::SLOW, "subscriber did not keep up");
        }
    }
    shared.published.metrics.subscribers.dec();
}

struct Feed<'a> {
    shared: &'a Shared,
    sender: &'a FrameSender,
}

impl Feed<'_> {
    async fn tell(&self, query: &FeedQuery) -> Result<(), End> {
        let published = &self.shared.published;
        let mut newest = published.ring.watch();
        // Subscribed before the first look, so that no round of ages is missed; and only by who wants
        // to hear them, as they are not made for nobody.
        let wants_ages = query.ages || query.marks;
        let mut ages = wants_ages.then(|| published.ages.subscribe());
        let (mut position, is_resumed) = match self.resumable(query) {
            Some(position) => (position, true),
            None => (self.tell_everything().await?, false),
        };
        position = self.tell_deltas(position).await?;
        if is_resumed && query.ages {
            let shown = self.shared.view().await;
            self.tell_freshness(&shown).await?;
        }
        self.tell_mark(position, is_resumed).await?;
        let mut marked = position;
        loop {
            tokio::select! {
                changed = newest.changed() => {
                    changed.map_err(|_| End::Over)?;
                    newest.mark_unchanged();
                    position = self.tell_deltas(position).await?;
                }
                told = next_round(&mut ages) => {
                    let told = told.ok_or(End::Over)?;
                    for age in told.iter().filter(|_| query.ages) {
                        self.send(age, position).await?;
                    }
                    if query.marks && position != marked {
                        self.tell_mark(position, is_resumed).await?;
                        marked = position;
                    }
                }
            }
        }
    }

    fn resumable(&self, query: &FeedQuery) -> Option<u64> {
        let is_ours = query.stream.as_ref() == Some(&self.shared.stream);
        query.seq.filter(|seq| is_ours && self.shared.published.ring.reaches(*seq))
    }

    /// Every row; the position after which deltas are news.
    async fn tell_everything(&self) -> Result<u64, End> {
        let published = &self.shared.published;
        let shown = self.shared.view().await;
        // What is known about the rows may be older than they are.
        let (known, position) = (shown.status.position, shown.position);
        // Taken at once, as the ring may not remember it when the rows are told.
        let since = published.ring.after(known, usize::MAX).map_err(|_| End::Behind)?;
        let since = since.into_iter().take(usize::try_from(position - known).unwrap_or(0));
        for (_, row) in shown.hosts() {
            self.send(&Encoded::of(&InventoryFrame::of(row)), position).await?;
        }
        self.tell_freshness(&shown).await?;
        drop(shown);
        // The rows have these changes already, what is known about the rows has not.
        for delta in since.filter(|delta| delta.as_str().starts_with(FRESHNESS_START)) {
            self.send(&delta, position).await?;
        }
        Ok(position)
    }

    async fn tell_freshness(&self, shown: &Shown) -> Result<(), End> {
        let now_ms = self.shared.clock.now().mono_ms;
        let is_shown = |host: &&HostStatus| shown.host(&host.host).is_some();
        for host in shown.status.hosts.iter().filter(is_shown) {
            let (host, freshness, heard_ms) = (host.host.clone(), host.freshness, host.heard_ms);
            let age_ms = now_ms.saturating_sub(heard_ms);
            self.sender.send(&Frame::Freshness { host, freshness, age_ms }).await?;
        }
        Ok(())
    }

    /// Every delta after a position up to now; the new position.
    async fn tell_deltas(&self, mut position: u64) -> Result<u64, End> {
        loop {
            let deltas = self.shared.published.ring.after(position, CHUNK_DELTAS);
            let deltas = deltas.map_err(|_| End::Behind)?;
            if deltas.is_empty() {
                return Ok(position);
            }
            for delta in &deltas {
                self.send(delta, position).await?;
                position += 1;
            }
        }
    }

    async fn tell_mark(&self, seq: u64, resumed: bool) -> Result<(), End> {
        let mark = Mark { frame: "current", stream: &self.shared.stream, seq, resumed };
        Ok(self.sender.send(&mark).await?)
    }

    /// Waits for room, but no longer than the ring remembers what comes next.
    async fn send(&self, text: &Encoded, position: u64) -> Result<(), End> {
        tokio::select! {
            biased;
            sent = self.sender.send_encoded(text) => Ok(sent?),
            () = self.shared.published.ring.fallen_behind(position) => Err(End::Behind),
        }
    }
}

/// The next round of ages; never, for who wants none.
async fn next_round(ages: &mut Option<watch::Receiver<Arc<[Encoded]>>>) -> Option<Arc<[Encoded]>> {
    match ages {
        Some(ages) => ages.changed().await.ok().map(|()| ages.borrow_and_update().clone()),
        None => std::future::pending().await,
    }
}

/// A row as the frame it came in.
#[derive(Serialize)]
struct InventoryFrame<'a> {
    frame: &'static str,
    #[serde(flatten)]
    row: &'a PackedRow,
}

impl<'a> InventoryFrame<'a> {
    fn of(row: &'a PackedRow) -> Self {
        Self { frame: "inventory", row }
    }
}
