//! What addresses guests have: when to look, and what of it is news.
//!
//! libvirt says when the agent in a guest comes up, and nothing else: of a DHCP lease, or of a guest
//! seen on the wire, nobody is told. So guests are looked at, often while they boot and have no
//! address yet, seldom later, and a bounded number at a time whatever the host carries.
//!
//! What is seen is told like every other change of a job's row, and not written: another life looks
//! again.

use core::net::IpAddr;
use std::collections::BTreeMap;

use protocol::event::Fact;
use protocol::id::JobId;
use protocol::job::{Address, AddressSource, Card, Job, JobState, Unknown};
use transport::clock::Now;
use uuid::Uuid;

use super::agent::{Agent, Entry};
use super::input::Effect;

/// Looks under way at a time: each costs libvirt a few calls, and a thread while an agent is slow.
const LOOKS_MAX: usize = 4;
/// Between two looks at a guest that has only begun to run and has no address yet. Also the least of
/// all: no guest makes us look, or tell news of it, more often.
const BOOTING_MS: u64 = 2_000;
/// How long a guest is taken to boot.
const BOOT_MS_MAX: u64 = 120_000;
/// Between two looks at one that has no address for longer.
const WITHOUT_MS: u64 = 15_000;
/// Between two looks at any other.
const SETTLED_MS: u64 = 60_000;
/// How long an address counts that was seen on the wire: the kernel forgets who is silent for about a
/// minute, and a row should not change each time.
const NEIGHBOUR_MS: u64 = 300_000;

/// How far the looking at one guest is.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// The look under way, if any.
    look: Option<u64>,
    /// When it is next looked at, in milliseconds since boot.
    due_ms: u64,
    /// When it was last looked at.
    looked_ms: u64,
    /// When it was first looked at in its present run.
    since_ms: Option<u64>,
    /// When an address was last in the neighbour table, by card.
    neighbours: BTreeMap<(String, IpAddr), u64>,
}

impl Agent {
    /// Begins the looks that are due, the longest due first.
    pub(super) fn watch_addresses(&mut self, now: Now, out: &mut Vec<Effect>) {
        let under_way = self.jobs.values().filter(|entry| entry.addresses.look.is_some()).count();
        let mut due: Vec<(u64, JobId)> = Vec::new();
        for (id, entry) in self.jobs.iter() {
            let job = &entry.record.job;
            let is_vm = job.domain_uuid.is_some();
            let watch = &entry.addresses;
            if is_vm && runs(job.state) && watch.look.is_none() && watch.due_ms <= now.mono_ms {
                due.push((watch.due_ms, id.clone()));
            }
        }
        due.sort();
        for (_, id) in due.into_iter().take(LOOKS_MAX.saturating_sub(under_way)) {
            self.looks += 1;
            let (look, uuid) = (self.looks, self.domain_of(&id));
            self.jobs.change(&id, |Entry { addresses: watch, .. }| {
                watch.look = Some(look);
                watch.looked_ms = now.mono_ms;
                watch.since_ms.get_or_insert(now.mono_ms);
            });
            out.push(Effect::LookAtCards { job: id, uuid, look });
        }
    }

    /// Takes what a look has shown; `None`: libvirt could not say.
    pub(super) fn handle_cards(
        &mut self,
        now: Now,
        id: &JobId,
        look: u64,
        seen: Option<Vec<Card>>,
        out: &mut Vec<Effect>,
    ) {
        let changed = self.jobs.change(id, |entry| entry.see_cards(now, look, seen)).flatten();
        if let Some(job) = changed {
            self.publish(now, Fact::JobChanged { job: Box::new(job) }, out);
        }
    }

    /// Something has happened in the guest that may well have given it an address, or taken it.
    pub(super) fn expect_addresses(&mut self, uuid: Uuid) {
        let Some(id) = self.by_uuid.get(&uuid) else { return };
        self.jobs.change(id, |Entry { addresses: watch, .. }| {
            watch.due_ms = watch.due_ms.min(watch.looked_ms + BOOTING_MS);
        });
    }
}

impl Entry {
    /// Takes what a look has shown; the job, if it shows something else by that.
    fn see_cards(&mut self, now: Now, look: u64, seen: Option<Vec<Card>>) -> Option<Job> {
        let watch = &mut self.addresses;
        if watch.look != Some(look) {
            return None;
        }
        watch.look = None;
        let job = &mut self.record.job;
        let seen = seen.filter(|_| runs(job.state));
        let cards = seen.map(|cards| watch.with_neighbours(now.mono_ms, cards));
        watch.due_ms = now.mono_ms + watch.pause_ms(now.mono_ms, cards.as_deref());
        let cards = cards.map(Vec::into_boxed_slice).filter(|cards| *cards != job.cards)?;
        job.cards = cards;
        Some(job.clone())
    }
}

impl Watch {
    /// A guest that does not run has no address, and begins anew when it does.
    pub(super) fn follow(&mut self, state: JobState) {
        if !runs(state) {
            *self = Self { looked_ms: self.looked_ms, ..Self::default() };
        }
    }

    /// Addresses last seen on the wire a while ago still count, unless something better is known of
    /// their card.
    fn with_neighbours(&mut self, now_ms: u64, mut cards: Vec<Card>) -> Vec<Card> {
        for card in &cards {
            for address in card.addresses.iter().filter(|a| a.from == AddressSource::Neighbour) {
                self.neighbours.insert((card.mac.clone(), address.ip), now_ms);
            }
        }
        let is_recent = |seen_ms: u64| now_ms.saturating_sub(seen_ms) < NEIGHBOUR_MS;
        self.neighbours.retain(|(mac, _), seen_ms| {
            is_recent(*seen_ms) && cards.iter().any(|card| card.mac == *mac)
        });
        for card in &mut cards {
            if card.addresses.is_empty() {
                let of_card = self.neighbours.keys().filter(|(mac, _)| *mac == card.mac);
                let from = AddressSource::Neighbour;
                card.addresses = of_card.map(|(_, ip)| Address { ip: *ip, from }).collect();
                card.unknown = card.unknown.filter(|_| card.addresses.is_empty());
            }
        }
        cards
    }

    fn pause_ms(&self, now_ms: u64, cards: Option<&[Card]>) -> u64 {
        let lacks = |card: &Card| card.unknown == Some(Unknown::NotSeen);
        // A guest may be seen on the wire before its network has written down what it has leased.
        let is_seen_only = |card: &Card| {
            let mut from = card.addresses.iter().map(|address| address.from);
            card.plug == "network" && from.all(|from| from == AddressSource::Neighbour)
        };
        let is_booting = self.since_ms.is_some_and(|since| now_ms - since < BOOT_MS_MAX);
        let may_change = |card: &Card| lacks(card) || is_seen_only(card);
        match cards {
            Some(cards) if is_booting && cards.iter().any(may_change) => BOOTING_MS,
            Some(cards) if !cards.iter().any(lacks) => SETTLED_MS,
            Some(_) | None => WITHOUT_MS,
        }
    }
}

/// True when there is a guest that may have addresses.
pub(super) fn runs(state: JobState) -> bool {
    use JobState::{MigratingOut, Paused, Running, Stopping};
    matches!(state, Running | Paused | MigratingOut | Stopping)
}
