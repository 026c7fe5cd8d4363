//! A replica of the view, kept by following one of several monitors.
//!
//! Decides whom to follow (the first that answers, the next when it fails), and when the replica
//! may be acted on: only after the monitor has said that history is over. What was learnt stays
//! when a monitor is lost; merging makes it safe to go on from another one's.
//!
//! ```text
//! seek ─▶ connect ─▶ inventories … Current ─▶ events, live ─▶ (lost, gap or cut) ─▶ seek, next one
//!                    └── is_current = false ──┘└── true ────┘
//! ```

use std::sync::Arc;
use std::time::Duration;

use imbl::OrdMap;
use protocol::event::Frame;
use protocol::id::HostId;
use protocol::view::{Freshness, Merge, View};
use tokio::sync::watch;
use transport::backoff::random_unit;
use transport::stream::{Liveness, connect_stream_with};
use transport::{Backoff, CancellationToken, Client, Clock, Endpoint};

/// First and longest pause after every monitor has failed.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// A monitor that gives no sign of life for this long is left for another one: a plan waits for a
/// picture that is current. As long as monitors themselves wait for agents.
const LIVENESS: Liveness =
    Liveness { ask_after: Duration::from_millis(1_500), lost_after: Duration::from_millis(4_500) };

/// The view as far as this process knows it.
#[derive(Debug, Clone, Default)]
pub struct Picture {
    /// Hosts and jobs.
    pub view: View,
    /// What the monitor thinks of each host, and when it said so. Shared between pictures like the
    /// view: a picture is published for every event, and must not cost what the cluster is large.
    pub heard: OrdMap<HostId, HeardAt>,
    /// Whether everything up to the present is in it.
    pub is_current: bool,
    /// Since when it has not been so, on this machine's monotonic clock; `None` while it is.
    pub stale_since_ms: Option<u64>,
    /// Whom it comes from, or what is wrong.
    pub source: String,
}

/// A monitor's opinion of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeardAt {
    /// How fresh the row is.
    pub freshness: Freshness,
    /// When the host was last heard, on this machine's monotonic clock.
    pub heard_ms: u64,
}

/// Follows whichever of `monitors` answers, until `shutdown`.
pub fn follow(
    client: Client,
    clock: Clock,
    monitors: watch::Receiver<Vec<Endpoint>>,
    shutdown: CancellationToken,
) -> watch::Receiver<Arc<Picture>> {
    let first = Picture { stale_since_ms: Some(clock.now().mono_ms), ..Picture::default() };
    let (publish, picture) = watch::channel(Arc::new(first.clone()));
    let mut follower = Follower { client, clock, monitors, picture: first, publish };
    tokio::spawn(async move {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = follower.run() => {}
        }
    });
    picture
}

struct Follower {
    client: Client,
    clock: Clock,
    monitors: watch::Receiver<Vec<Endpoint>>,
    picture: Picture,
    publish: watch::Sender<Arc<Picture>>,
}

impl Follower {
    async fn run(&mut self) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut turn = 0;
        loop {
            let monitors = self.monitors.borrow_and_update().clone();
            if monitors.is_empty() {
                self.lost("no monitor is known".to_owned());
                if self.monitors.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let monitor = &monitors[turn % monitors.len()];
            let why = self.follow_one(monitor, &mut backoff).await;
            tracing::info!("following monitor {monitor} ended: {why}");
            self.lost(format!("monitor {monitor}: {why}"));
            turn += 1;
            if turn.is_multiple_of(monitors.len()) {
                let pause = tokio::time::sleep(backoff.next(random_unit()));
                tokio::select! {
                    () = pause => {}
                    changed = self.monitors.changed() => if changed.is_err() { return },
                }
            }
        }
    }

    /// Follows one monitor for as long as that goes well; says why it ended.
    async fn follow_one(&mut self, monitor: &Endpoint, backoff: &mut Backoff) -> String {
        let mut frames =
            match connect_stream_with(&self.client, monitor, "/v1/events", LIVENESS).await {
                Ok(frames) => frames,
                Err(error) => return error.to_string(),
            };
        self.picture.source = monitor.url.clone();
        loop {
            let next = tokio::select! {
                next = frames.next::<Frame>() => next,
                // Trust may name the monitors only now: whatever was followed before is not one of
                // them, and may know one host alone.
                changed = self.monitors.wait_for(|monitors| !monitors.contains(monitor)) => {
                    return match changed {
                        Ok(_) => "it is named no more".to_owned(),
                        Err(_) => "nobody names monitors any more".to_owned(),
                    };
                }
            };
            let frame = match next {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return error.to_string(),
                None => return "it said goodbye".to_owned(),
            };
            match self.take(frame) {
                Ok(()) => {}
                Err(why) => return why,
            }
            if self.picture.is_current {
                backoff.reset();
            }
            self.publish.send_replace(Arc::new(self.picture.clone()));
        }
    }

    fn take(&mut self, frame: Frame) -> Result<(), String> {
        let picture = &mut self.picture;
        match frame {
            Frame::Inventory(inventory) => {
                picture.view.merge_inventory(*inventory);
            }
            Frame::Event(event) => {
                if let Merge::Gap { at } = picture.view.merge_event(&event) {
                    let (host, cursor) = (event.host.short(), event.cursor);
                    return Err(format!("gap in {host}'s events: at {at}, got {cursor}"));
                }
            }
            Frame::Current => (picture.is_current, picture.stale_since_ms) = (true, None),
            Frame::Freshness { host, freshness, age_ms } => {
                let heard_ms = self.clock.now().mono_ms.saturating_sub(age_ms);
                picture.heard.insert(host, HeardAt { freshness, heard_ms });
            }
        }
        Ok(())
    }

    fn lost(&mut self, why: String) {
        self.picture.is_current = false;
        self.picture.stale_since_ms.get_or_insert_with(|| self.clock.now().mono_ms);
        self.picture.source = why;
        self.publish.send_replace(Arc::new(self.picture.clone()));
    }
}
