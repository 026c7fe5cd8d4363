//! What a monitor decides: what enters the view, how fresh each row is, whom to distrust.
//!
//! Connections, clocks and subscribers are the shell's. The view never goes back and loses
//! no row but those of hosts that the operator has retired; silence changes a row's freshness and nothing else.
//!
//! ```text
//!               opened                       hostile frame
//!   (closed) ───────────▶ open ────────────────────────────▶ quarantined ──┐
//!      ▲                   │ gap: resync (opened again, no cursor)         │ opened again,
//!      └──── ended ────────┘                                               │ after a wait
//!                          ▲───────────────────────────────────────────────┘
//!
//!   fresh ──5 s unheard──▶ stale ──15 s unheard──▶ lost       heard: fresh again
//!                            └ not while this monitor is new, was asleep itself, or hears
//!                              nothing of more than half of all hosts
//! ```
//!
//! A newer agent may say things that this monitor does not understand. That is told loudly for its
//! row and never a reason to distrust it: what is missing is read again as an inventory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use protocol::event::{Event, Frame};
use protocol::host::Inventory;
use protocol::id::{Cursor, Epoch, HostId};
use protocol::view::{Freshness, Merge};

use crate::check::check;
use crate::packed::PackedView;

/// A row heard within this time is fresh. Sources are asked for a sign of life every 2 s, so one
/// lost answer does not matter.
pub const FRESH_MS: u64 = 5_000;

/// A row not heard for this long is lost: the time within which a host's tenure has run out, and
/// others may start its `stop` jobs elsewhere.
pub const LOST_MS: u64 = 15_000;

/// How long a monitor that has just started, or was itself asleep, declares nobody lost: time for
/// every host to be found, connected to and retried once.
pub const GRACE_MS: u64 = 20_000;

/// When two ticks are this far apart, this process was asleep and knows nothing of what happened
/// meanwhile.
pub const ASLEEP_MS: u64 = 5_000;

/// How long a named source may stay unheard before the view counts as complete without it.
pub const GIVE_UP_MS: u64 = 10_000;

/// How often ages are told to monitors that follow this one; well under [`FRESH_MS`], so that rows
/// stay fresh through a chain of monitors.
pub const AGES_INTERVAL_MS: u64 = 2_000;

/// Longest text of a trouble that is kept; the rest of a hostile text is of no use.
const TROUBLE_CHARS_MAX: usize = 400;

/// Whom a stream comes from.
///
/// Hosts come first, in the order of their ids.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// A host itself; its key was checked before the stream opened.
    Host(HostId),
    /// Another monitor, by its address.
    Monitor(String),
}

/// Who should be followed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Hosts and monitors to follow.
    pub sources: BTreeSet<Source>,
    /// The hosts of the trust document, if there is one: nobody else enters the view.
    pub roster: Option<BTreeSet<HostId>>,
    /// Hosts that the operator has retired: the only rows that ever leave the view.
    pub retired: BTreeSet<HostId>,
    /// True once discovery has answered, so that nobody is missing from `sources` only because
    /// the question is still open.
    pub is_settled: bool,
}

/// What happens to a monitor.
#[derive(Debug, Clone)]
pub enum Input {
    /// Discovery or trust named others than before.
    Wanted(Wanted),
    /// A stream is open, by this url.
    Opened {
        /// From whom.
        source: Source,
        /// By which way.
        url: String,
    },
    /// A stream brought a frame.
    Frame {
        /// From whom.
        source: Source,
        /// What it says.
        frame: Frame,
    },
    /// A host was asked for its inventory outside its stream, and answered.
    Read {
        /// By which way.
        url: String,
        /// What it says.
        inventory: Box<Inventory>,
    },
    /// A source said something that only a newer version understands; the rest was passed on.
    Newer {
        /// Of which host.
        host: HostId,
        /// What, in words.
        what: String,
    },
    /// A source gave a sign of life and had nothing to say.
    Alive {
        /// Who.
        source: Source,
    },
    /// A stream brought something that is no frame.
    Hostile {
        /// From whom.
        source: Source,
        /// What is wrong.
        why: String,
    },
    /// A stream has ended or could not be opened.
    Ended {
        /// From whom.
        source: Source,
        /// Why.
        why: String,
    },
    /// Time has passed; several times a second.
    Tick,
}

/// What the shell has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The frame just taken is news: tell it to every subscriber as it came. The view has it.
    PassOn,
    /// Tell every subscriber; the view already has it.
    Publish(Frame),
    /// Tell subscribers that are monitors, if there are any, how old each row is: [`Core::ages`].
    PublishAges,
    /// Open this stream again without a cursor: something was missed.
    Resync(Source),
    /// Drop this stream and open it again only after a while.
    Quarantine {
        /// From whom.
        source: Source,
        /// Why.
        why: String,
    },
}

/// How much is known of one host, for people and for `GET /v1/view`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostStatus {
    /// The host.
    pub host: HostId,
    /// How fresh its row is.
    pub freshness: Freshness,
    /// When it was last heard, or first named if it never was.
    pub heard_ms: u64,
    /// By which way.
    pub path: Arc<str>,
    /// What is wrong, in words.
    pub trouble: Option<String>,
}

/// A stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Not connected. Entered at the start and when a stream ends.
    Closed,
    /// Frames are believed. Entered when the shell has opened it.
    Open,
    /// Something was missed; frames are ignored until it is opened again. Entered by a gap.
    Resyncing,
    /// Not believed; frames are ignored until it is opened again. Entered by a hostile frame.
    Quarantined,
}

#[derive(Debug)]
struct Stream {
    standing: Standing,
    url: Arc<str>,
    /// When the source was first wanted.
    named_ms: u64,
    /// True once history has ended on it (its `Current` frame came).
    is_caught_up: bool,
    trouble: Option<String>,
}

#[derive(Debug)]
struct Heard {
    freshness: Freshness,
    /// `None` for a host that was only named so far.
    at_ms: Option<u64>,
    named_ms: u64,
    path: Arc<str>,
    /// Set while the host itself tells older things than the view has.
    trouble: Option<String>,
    /// In which life it said things that only a newer version understands, and what.
    newer: Option<(Epoch, String)>,
}

/// One monitor.
#[derive(Debug)]
pub struct Core {
    view: PackedView,
    wanted: Wanted,
    streams: BTreeMap<Source, Stream>,
    hosts: BTreeMap<HostId, Heard>,
    grace_until_ms: u64,
    ticked_ms: u64,
    ages_due_ms: u64,
    /// Hosts silent at once, and all hosts, while they are too many to be declared lost.
    cut_off: Option<(usize, usize)>,
}

impl Core {
    /// A monitor that has just started and knows nobody.
    #[must_use]
    pub fn new(now_ms: u64) -> Self {
        Self {
            view: PackedView::default(),
            wanted: Wanted::default(),
            streams: BTreeMap::new(),
            hosts: BTreeMap::new(),
            grace_until_ms: now_ms + GRACE_MS,
            ticked_ms: now_ms,
            ages_due_ms: now_ms + AGES_INTERVAL_MS,
            cut_off: None,
        }
    }

    /// Takes one input; what has to be done is added to `out`, in order.
    pub fn handle(&mut self, now_ms: u64, input: Input, out: &mut Vec<Effect>) {
        match input {
            Input::Wanted(wanted) => self.want(now_ms, wanted),
            Input::Opened { source, url } => self.open(now_ms, &source, url, out),
            Input::Frame { source, frame } => self.take_frame(now_ms, &source, frame, out),
            Input::Read { url, inventory } => self.take_reading(now_ms, &url, *inventory, out),
            Input::Newer { host, what } => self.note_newer(now_ms, &host, &what),
            Input::Alive { source } => {
                if self.is_open(&source) {
                    self.hear_source(now_ms, &source, out);
                }
            }
            Input::Hostile { source, why } => self.quarantine(&source, why, out),
            Input::Ended { source, why } => self.end(&source, why),
            Input::Tick => self.tick(now_ms, out),
        }
    }

    /// What is known. Cheap to clone.
    #[must_use]
    pub fn view(&self) -> &PackedView {
        &self.view
    }

    /// Where a host's stream should resume; `None` to start from an inventory.
    #[must_use]
    pub fn cursor(&self, host: &HostId) -> Option<Cursor> {
        self.view.host(host).map(|row| row.cursor)
    }

    /// True once everybody who was named has been heard, or was given time enough.
    #[must_use]
    pub fn is_complete(&self, now_ms: u64) -> bool {
        self.wanted.is_settled && self.unheard(now_ms).next().is_none()
    }

    /// What it waits for before the view is complete, in words.
    #[must_use]
    pub fn waiting_for(&self, now_ms: u64) -> Vec<String> {
        let mut waiting = Vec::new();
        if !self.wanted.is_settled {
            waiting.push("an answer from discovery".to_owned());
        }
        waiting.extend(self.unheard(now_ms).map(|(source, stream)| {
            let why = stream.trouble.as_deref().unwrap_or("no answer yet");
            format!("{source}: {why}")
        }));
        waiting.extend(self.cut_off_words());
        waiting
    }

    /// Every host that was named or heard, with how much its row is worth.
    #[must_use]
    pub fn statuses(&self) -> Vec<HostStatus> {
        // Both maps have the order of the ids: one walk, instead of a search for each host.
        let mut streams = self.streams.iter().peekable();
        let status = |(host, heard): (&HostId, &Heard)| {
            let is_before = |source: &Source| matches!(source, Source::Host(h) if h < host);
            while streams.next_if(|(source, _)| is_before(source)).is_some() {}
            let is_its = |source: &Source| matches!(source, Source::Host(h) if h == host);
            let stream = streams.next_if(|(source, _)| is_its(source)).map(|(_, stream)| stream);
            self.status(host, heard, stream)
        };
        self.hosts.iter().map(status).collect()
    }

    /// How fresh and how old each row is, as a follower of this monitor is told.
    #[must_use]
    pub fn ages(&self, now_ms: u64) -> Vec<Frame> {
        let heard = self.hosts.iter().filter(|(_, heard)| heard.at_ms.is_some());
        heard.map(|(host, heard)| heard.frame(now_ms, host)).collect()
    }

    fn status(&self, host: &HostId, heard: &Heard, stream: Option<&Stream>) -> HostStatus {
        let is_silent = heard.freshness != Freshness::Fresh;
        let trouble = stream
            .and_then(|stream| stream.trouble.clone())
            .or_else(|| heard.trouble.clone())
            .or_else(|| heard.newer.as_ref().map(|(_, what)| what.clone()))
            .or_else(|| self.cut_off_words().filter(|_| is_silent && heard.at_ms.is_some()));
        HostStatus {
            host: host.clone(),
            freshness: heard.freshness,
            heard_ms: heard.at_ms.unwrap_or(heard.named_ms),
            path: Arc::clone(&heard.path),
            trouble,
        }
    }

    fn want(&mut self, now_ms: u64, wanted: Wanted) {
        self.streams.retain(|source, _| wanted.sources.contains(source));
        for host in &wanted.retired {
            self.view.forget(host);
            self.hosts.remove(host);
        }
        for source in &wanted.sources {
            self.streams.entry(source.clone()).or_insert_with(|| Stream {
                standing: Standing::Closed,
                url: Arc::default(),
                named_ms: now_ms,
                is_caught_up: false,
                trouble: None,
            });
            if let Source::Host(host) = source {
                name(&mut self.hosts, now_ms, host);
            }
        }
        // A host that was never heard and is wanted no more leaves no trace; a row stays.
        self.hosts.retain(|host, heard| {
            heard.at_ms.is_some() || wanted.sources.contains(&Source::Host(host.clone()))
        });
        self.wanted = wanted;
    }

    fn open(&mut self, now_ms: u64, source: &Source, url: String, out: &mut Vec<Effect>) {
        let Some(stream) = self.streams.get_mut(source) else { return };
        stream.standing = Standing::Open;
        stream.url = url.into();
        self.hear_source(now_ms, source, out);
    }

    fn end(&mut self, source: &Source, why: String) {
        let Some(stream) = self.streams.get_mut(source) else { return };
        // The reason of a quarantine or gap is worth more than that the stream was then closed.
        if matches!(stream.standing, Standing::Closed | Standing::Open) {
            stream.trouble = Some(shortened(why));
            stream.standing = Standing::Closed;
        }
    }

    fn take_frame(&mut self, now_ms: u64, source: &Source, frame: Frame, out: &mut Vec<Effect>) {
        let is_open = |stream: &&Stream| stream.standing == Standing::Open;
        let Some(stream) = self.streams.get(source).filter(is_open) else { return };
        if let Err(why) = check(source, &frame) {
            return self.quarantine(source, why, out);
        }
        if let Source::Host(host) = source {
            hear(&mut self.hosts, now_ms, host, now_ms, &stream.url, out);
        }
        match frame {
            Frame::Inventory(inventory) => {
                let host = inventory.host.id.clone();
                let (known, said) = (self.cursor(&host).unwrap_or_default(), inventory.cursor);
                if self.merge_inventory(now_ms, *inventory) {
                    out.push(Effect::PassOn);
                }
                if matches!(source, Source::Host(_)) && self.is_welcome(&host) {
                    self.judge_epoch(now_ms, &host, known, said);
                }
            }
            Frame::Event(event) => self.merge_event(source, event, out),
            Frame::Current => {
                if let Some(stream) = self.streams.get_mut(source) {
                    stream.is_caught_up = true;
                    stream.trouble = None;
                }
            }
            Frame::Freshness { host, age_ms, .. } => {
                // The other monitor's *age* counts, not its opinion: two monitors that follow each
                // other would keep each other believing in a dead host for ever.
                if self.is_welcome(&host) && self.view.host(&host).is_some() {
                    let path = self.streams.get(source).map(|stream| Arc::clone(&stream.url));
                    let at_ms = now_ms.saturating_sub(age_ms);
                    self.hear(now_ms, &host, at_ms, &path.unwrap_or_default(), out);
                }
            }
        }
    }

    /// Whether it was news.
    fn merge_inventory(&mut self, now_ms: u64, inventory: Inventory) -> bool {
        if !self.is_welcome(&inventory.host.id) {
            return false;
        }
        name(&mut self.hosts, now_ms, &inventory.host.id);
        self.view.merge_inventory(inventory) == Merge::Applied
    }

    /// What a host says of its own life, compared with what was known of it.
    fn judge_epoch(&mut self, now_ms: u64, host: &HostId, known: Cursor, said: Cursor) {
        let heard = name(&mut self.hosts, now_ms, host);
        heard.newer.take_if(|(epoch, _)| *epoch < said.epoch);
        heard.trouble = (said.epoch < known.epoch).then(|| {
            format!(
                "it says it is at {said}, the view has {known}: was its ledger replaced by an older copy?"
            )
        });
    }

    fn take_reading(
        &mut self,
        now_ms: u64,
        url: &str,
        inventory: Inventory,
        out: &mut Vec<Effect>,
    ) {
        let host = inventory.host.id.clone();
        let frame = Frame::Inventory(Box::new(inventory));
        if !self.is_welcome(&host) || check(&Source::Host(host.clone()), &frame).is_err() {
            return;
        }
        self.hear(now_ms, &host, now_ms, &Arc::from(url), out);
        let Frame::Inventory(inventory) = frame else { return };
        if self.merge_inventory(now_ms, *inventory) {
            out.push(Effect::PassOn);
        }
    }

    fn note_newer(&mut self, now_ms: u64, host: &HostId, what: &str) {
        if self.is_welcome(host) {
            let epoch = self.cursor(host).unwrap_or_default().epoch;
            let what = shortened(format!("newer agent: {what}; update this monitor"));
            name(&mut self.hosts, now_ms, host).newer = Some((epoch, what));
        }
    }

    fn merge_event(&mut self, source: &Source, event: Event, out: &mut Vec<Effect>) {
        if !self.is_welcome(&event.host) {
            return;
        }
        let (host, cursor) = (event.host.clone(), event.cursor);
        match self.view.take_event(event) {
            Merge::Applied => out.push(Effect::PassOn),
            Merge::Old => {}
            Merge::Gap { at } => {
                let Some(stream) = self.streams.get_mut(source) else { return };
                stream.standing = Standing::Resyncing;
                let host = host.short();
                stream.trouble = Some(format!(
                    "event {cursor} of host {host} came after {at}: asked for an inventory"
                ));
                out.push(Effect::Resync(source.clone()));
            }
        }
    }

    fn quarantine(&mut self, source: &Source, why: String, out: &mut Vec<Effect>) {
        let Some(stream) = self.streams.get_mut(source) else { return };
        if stream.standing == Standing::Quarantined {
            return;
        }
        let why = shortened(why);
        stream.standing = Standing::Quarantined;
        stream.trouble = Some(format!("quarantined: {why}"));
        out.push(Effect::Quarantine { source: source.clone(), why });
    }

    fn tick(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        if now_ms.saturating_sub(self.ticked_ms) > ASLEEP_MS {
            self.grace_until_ms = now_ms + GRACE_MS;
        }
        self.ticked_ms = now_ms;
        self.judge(now_ms, out);
        if now_ms >= self.ages_due_ms {
            self.ages_due_ms = now_ms + AGES_INTERVAL_MS;
            out.push(Effect::PublishAges);
        }
    }

    /// Freshness of every row. `lost` needs a monitor that is well itself.
    fn judge(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        let wanted = &self.wanted;
        let counts = |host: &HostId| wanted.roster.as_ref().is_none_or(|r| r.contains(host));
        let (mut all, mut vanished, mut is_calm) = (0, 0, true);
        for (host, heard) in &self.hosts {
            let is_silent = heard.at_ms.is_none() || heard.age_ms(now_ms) > FRESH_MS;
            is_calm &= !is_silent && heard.freshness == Freshness::Fresh;
            if heard.at_ms.is_some() && counts(host) {
                all += 1;
                vanished += usize::from(is_silent && heard.freshness != Freshness::Lost);
            }
        }
        self.cut_off = (vanished * 2 > all).then_some((vanished, all));
        if is_calm {
            return;
        }
        let may_lose = self.cut_off.is_none() && now_ms >= self.grace_until_ms;
        for (host, heard) in &mut self.hosts {
            let age_ms = heard.age_ms(now_ms);
            let is_lost = heard.freshness == Freshness::Lost || may_lose;
            let freshness = if heard.at_ms.is_none() {
                Freshness::Stale
            } else if age_ms <= FRESH_MS {
                Freshness::Fresh
            } else if age_ms > LOST_MS && is_lost {
                Freshness::Lost
            } else {
                Freshness::Stale
            };
            heard.become_fresh_or_not(now_ms, host, freshness, out);
        }
    }

    /// A sign of life of a source is one of its host; of a monitor it says nothing of any host.
    fn hear_source(&mut self, now_ms: u64, source: &Source, out: &mut Vec<Effect>) {
        if let (Source::Host(host), Some(stream)) = (source, self.streams.get(source)) {
            hear(&mut self.hosts, now_ms, host, now_ms, &stream.url, out);
        }
    }

    fn hear(
        &mut self,
        now_ms: u64,
        host: &HostId,
        at_ms: u64,
        path: &Arc<str>,
        out: &mut Vec<Effect>,
    ) {
        hear(&mut self.hosts, now_ms, host, at_ms, path, out);
    }

    fn is_open(&self, source: &Source) -> bool {
        self.streams.get(source).is_some_and(|stream| stream.standing == Standing::Open)
    }

    fn is_welcome(&self, host: &HostId) -> bool {
        self.wanted.roster.as_ref().is_none_or(|roster| roster.contains(host))
    }

    /// Sources that keep the view from being complete.
    fn unheard(&self, now_ms: u64) -> impl Iterator<Item = (&Source, &Stream)> {
        self.streams.iter().filter(move |(source, stream)| {
            let is_known = match source {
                Source::Host(host) => self.view.host(host).is_some(),
                Source::Monitor(_) => stream.is_caught_up,
            };
            !is_known && now_ms.saturating_sub(stream.named_ms) < GIVE_UP_MS
        })
    }

    fn cut_off_words(&self) -> Option<String> {
        self.cut_off.map(|(silent, all)| {
            format!("{silent} of {all} hosts are silent at once: I may be the one cut off, so none is declared lost")
        })
    }
}

impl Heard {
    fn age_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.at_ms.unwrap_or(self.named_ms))
    }

    fn frame(&self, now_ms: u64, host: &HostId) -> Frame {
        let (host, freshness) = (host.clone(), self.freshness);
        Frame::Freshness { host, freshness, age_ms: self.age_ms(now_ms) }
    }

    fn become_fresh_or_not(
        &mut self,
        now_ms: u64,
        host: &HostId,
        freshness: Freshness,
        out: &mut Vec<Effect>,
    ) {
        if self.freshness != freshness {
            self.freshness = freshness;
            out.push(Effect::Publish(self.frame(now_ms, host)));
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Host(host) => write!(f, "host {}", host.short()),
            Source::Monitor(url) => write!(f, "monitor {url}"),
        }
    }
}

fn hear(
    hosts: &mut BTreeMap<HostId, Heard>,
    now_ms: u64,
    host: &HostId,
    at_ms: u64,
    path: &Arc<str>,
    out: &mut Vec<Effect>,
) {
    let heard = name(hosts, now_ms, host);
    if heard.at_ms.is_some_and(|known| known >= at_ms) {
        return;
    }
    heard.at_ms = Some(at_ms);
    if !Arc::ptr_eq(&heard.path, path) {
        heard.path = Arc::clone(path);
    }
    if heard.age_ms(now_ms) <= FRESH_MS {
        heard.become_fresh_or_not(now_ms, host, Freshness::Fresh, out);
    }
}

fn name<'a>(hosts: &'a mut BTreeMap<HostId, Heard>, now_ms: u64, host: &HostId) -> &'a mut Heard {
    hosts.entry(host.clone()).or_insert_with(|| Heard {
        freshness: Freshness::Stale,
        at_ms: None,
        named_ms: now_ms,
        path: Arc::default(),
        trouble: None,
        newer: None,
    })
}

fn shortened(text: String) -> String {
    if text.chars().count() <= TROUBLE_CHARS_MAX {
        return text;
    }
    let mut short: String = text.chars().take(TROUBLE_CHARS_MAX).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests;
