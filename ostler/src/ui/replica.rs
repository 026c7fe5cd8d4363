//! What the page's server knows of the cluster, and how old each part of it is.
//!
//! Decides what a frame changes, and how a host's freshness is called: by the monitor's word while
//! one is followed, else by the same rule from the agents' own signs of life. Whom to follow is the
//! follower's. What was learnt stays when a source is lost; it grows old, and says so.

use std::collections::{BTreeMap, BTreeSet};

use protocol::event::Frame;
use protocol::id::HostId;
use protocol::view::{Freshness, Merge, View};
use transport::Endpoint;

use crate::picture::{Picture, Row, endpoint_of};

/// A host heard within this time is fresh, as monitors have it.
pub(crate) const FRESH_MS: u64 = monitor::core::FRESH_MS;

/// What happens to a replica.
#[derive(Debug)]
pub(crate) enum Input {
    /// The source told something.
    Told(Frame),
    /// A host gave a sign of life by itself.
    Alive(HostId),
    /// Another source from now on, or none.
    Source(Source),
    /// Hosts that an operator has retired.
    Retired(BTreeSet<HostId>),
    /// An agent is reached by this way.
    Way(HostId, Endpoint),
}

/// Whom the knowledge comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Source {
    /// From nobody at the moment; why.
    #[default]
    Nobody,
    /// Somebody is being looked for, because of this.
    Seeking(String),
    /// A monitor at this address that has not told everything yet.
    Beginning(String),
    /// A monitor at this address.
    Monitor(String),
    /// The agents themselves, because of this.
    Agents(String),
}

/// What is known now. Cheap to copy but for the ages.
#[derive(Debug, Clone, Default)]
pub(crate) struct Replica {
    pub(crate) view: View,
    pub(crate) source: Source,
    heard: BTreeMap<HostId, Heard>,
    ways: BTreeMap<HostId, Endpoint>,
}

/// A host's freshness as it was told, and when it was last heard.
#[derive(Debug, Clone, Copy)]
struct Heard {
    told: Freshness,
    at_ms: u64,
}

/// How old the knowledge of a host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Age {
    pub(crate) freshness: Freshness,
    pub(crate) age_ms: u64,
}

/// The source left something out: it must begin anew.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("something is missing before event {0}")]
pub(crate) struct Gap(String);

impl Replica {
    /// Takes one input.
    pub(crate) fn handle(&mut self, now_ms: u64, input: Input) -> Result<(), Gap> {
        match input {
            Input::Told(frame) => return self.told(now_ms, frame),
            Input::Alive(host) => self.hear(host, Freshness::Fresh, now_ms),
            Input::Source(source) => self.source = source,
            Input::Way(host, way) => drop(self.ways.insert(host, way)),
            Input::Retired(hosts) => {
                for host in hosts {
                    self.view.forget(&host);
                    self.heard.remove(&host);
                }
            }
        }
        Ok(())
    }

    fn told(&mut self, now_ms: u64, frame: Frame) -> Result<(), Gap> {
        match frame {
            Frame::Inventory(inventory) => {
                // An agent has just said this; a monitor tells in a later frame how old it is.
                let told = match self.source {
                    Source::Agents(_) => Freshness::Fresh,
                    _ => Freshness::Stale,
                };
                let id = inventory.host.id.clone();
                self.heard.entry(id).or_insert(Heard { told, at_ms: now_ms });
                self.view.merge_inventory(*inventory);
            }
            Frame::Event(event) => {
                let words = format!("{} of {}", event.cursor, event.host.short());
                if let Merge::Gap { .. } = self.view.take_event(event) {
                    return Err(Gap(words));
                }
            }
            Frame::Current => {
                if let Source::Beginning(url) = &mut self.source {
                    self.source = Source::Monitor(std::mem::take(url));
                }
            }
            Frame::Freshness { host, freshness, age_ms } => {
                self.hear(host, freshness, now_ms.saturating_sub(age_ms));
            }
        }
        Ok(())
    }

    fn hear(&mut self, host: HostId, told: Freshness, at_ms: u64) {
        self.heard.insert(host, Heard { told, at_ms });
    }

    /// True while a source tells what happens.
    pub(crate) fn is_current(&self) -> bool {
        matches!(self.source, Source::Monitor(_) | Source::Agents(_))
    }

    /// How old the knowledge of a host is.
    pub(crate) fn age(&self, now_ms: u64, host: &HostId) -> Age {
        let Some(heard) = self.heard.get(host) else {
            return Age { freshness: Freshness::Stale, age_ms: 0 };
        };
        let age_ms = now_ms.saturating_sub(heard.at_ms);
        let freshness = match heard.told {
            // Said long ago by somebody who says nothing now.
            Freshness::Fresh if age_ms > FRESH_MS => self.silent(now_ms, age_ms),
            told => told,
        };
        Age { freshness, age_ms }
    }

    /// A host that nobody speaks of: lost, if most others are heard; else it is we who hear nothing.
    fn silent(&self, now_ms: u64, age_ms: u64) -> Freshness {
        let is_heard = |heard: &&Heard| now_ms.saturating_sub(heard.at_ms) <= FRESH_MS;
        let heard = self.heard.values().filter(is_heard).count();
        let most_are_heard = heard * 2 >= self.heard.len();
        match self.source {
            Source::Agents(_) if age_ms > monitor::core::LOST_MS && most_are_heard => {
                Freshness::Lost
            }
            _ => Freshness::Stale,
        }
    }

    /// The same as every command sees it.
    pub(crate) fn picture(&self, now_ms: u64) -> Picture {
        let row = |(id, known): (&HostId, &protocol::view::HostRow)| {
            let Age { freshness, age_ms } = self.age(now_ms, id);
            let agent = self.ways.get(id).cloned().unwrap_or_else(|| endpoint_of(&known.host));
            Row { host: id.clone(), freshness, age_ms, agent }
        };
        let rows = self.view.hosts().map(row).collect();
        Picture { view: self.view.clone(), rows, ..Picture::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::tests::{host, inventory};
    use super::*;

    fn fresh(host: &HostId, age_ms: u64) -> Frame {
        Frame::Freshness { host: host.clone(), freshness: Freshness::Fresh, age_ms }
    }

    #[test]
    fn a_monitor_is_believed_and_its_silence_makes_old() {
        let mut replica = Replica::default();
        let (h1, h2) = (host(1), host(2));
        let lost =
            Frame::Freshness { host: h2.id.clone(), freshness: Freshness::Lost, age_ms: 60_000 };
        let begin = [
            Input::Source(Source::Beginning("https://m:1".into())),
            Input::Told(Frame::Inventory(Box::new(inventory(&h1, &[])))),
            Input::Told(Frame::Inventory(Box::new(inventory(&h2, &[])))),
            Input::Told(fresh(&h1.id, 400)),
            Input::Told(lost),
        ];
        let now_ms = 100_000;
        begin.into_iter().for_each(|input| replica.handle(now_ms, input).unwrap());
        assert!(!replica.is_current(), "it has not told everything");
        replica.handle(now_ms, Input::Told(Frame::Current)).unwrap();
        assert!(replica.is_current());
        let age = replica.age(now_ms + 600, &h1.id);
        assert_eq!(age, Age { freshness: Freshness::Fresh, age_ms: 1_000 });
        assert_eq!(replica.age(now_ms, &h2.id).freshness, Freshness::Lost);

        replica.handle(now_ms, Input::Source(Source::Seeking("cut".into()))).unwrap();
        assert!(!replica.is_current());
        // Not lost: nobody says so.
        let age = replica.age(now_ms + 59_600, &h1.id);
        assert_eq!(age, Age { freshness: Freshness::Stale, age_ms: 60_000 });
    }

    #[test]
    fn without_a_monitor_a_host_is_lost_only_while_others_are_heard() {
        let mut replica = Replica::default();
        let hosts = [host(1), host(2), host(3)];
        replica.handle(0, Input::Source(Source::Agents("no monitor".into()))).unwrap();
        for host in &hosts {
            replica
                .handle(0, Input::Told(Frame::Inventory(Box::new(inventory(host, &[])))))
                .unwrap();
        }
        let now_ms = monitor::core::LOST_MS + 1;
        assert_eq!(replica.age(now_ms, &hosts[0].id).freshness, Freshness::Stale);
        for host in &hosts[1..] {
            replica.handle(now_ms, Input::Alive(host.id.clone())).unwrap();
        }
        assert_eq!(replica.age(now_ms, &hosts[0].id).freshness, Freshness::Lost);
        assert_eq!(replica.age(now_ms, &hosts[1].id).freshness, Freshness::Fresh);
    }

    #[test]
    fn only_a_retired_host_leaves() {
        let mut replica = Replica::default();
        let (h1, h2) = (host(1), host(2));
        for host in [&h1, &h2] {
            replica
                .handle(0, Input::Told(Frame::Inventory(Box::new(inventory(host, &[])))))
                .unwrap();
        }
        replica.handle(0, Input::Source(Source::Nobody)).unwrap();
        assert_eq!(replica.picture(0).rows.len(), 2);
        replica.handle(0, Input::Retired([h1.id.clone()].into())).unwrap();
        assert_eq!(replica.picture(0).rows[0].host, h2.id);
    }
}
