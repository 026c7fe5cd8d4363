//! Judging: which expectations are judged anew, by what, and what is remembered of each.
//!
//! Decides nothing of the world by itself: how a fact stands to an expectation is [`super::verdict`]'s. Here is
//! when that is asked, since when something is broken, and what else each judgement leaves behind.

use std::collections::{BTreeMap, BTreeSet};

use planner::rules::PowerSaving;
use planner::{Need, Rehearsal};
use protocol::id::{HostId, JobId, Revision};

use super::index::Key;
use super::saving::saving_of;
use super::set::Item;
use super::verdict::{self, Facts, Verdict, domain_of, is_rehearsed, judge};
use super::{Effect, Judged, Upkeep};

impl Upkeep {
    /// Who waits by orders that read what has changed.
    pub(super) fn waiting(&self, changed: &BTreeSet<Key>) -> BTreeSet<Key> {
        let orders = changed.iter().filter_map(|key| match self.item(key)? {
            Item::Order(order) => Some(&order.order.jobs),
            _ => None,
        });
        let jobs: BTreeSet<&JobId> = orders.flatten().collect();
        jobs.into_iter().flat_map(|job| self.index.readers_of(job)).cloned().collect()
    }

    pub(super) fn judge(&mut self, now_ms: u64, keys: BTreeSet<Key>, out: &mut Vec<Effect>) {
        // First, as what was seen once is judged otherwise when it is gone.
        let seen = keys.iter().filter_map(|key| match self.item(key)? {
            item @ Item::Runs { job, .. } => {
                let hosts = self.index.hosts_of(item)?;
                (!hosts.is_empty()).then(|| job.clone())
            }
            _ => None,
        });
        self.note_begun(&seen.collect(), out);
        self.rehearse(&keys);
        for key in keys {
            let Some(item) = self.item(&key) else { continue };
            // What is judged by all losses is judged once.
            let need = saving_of(item).map(|(_, rule)| self.need(rule));
            let verdict = match &need {
                Some(need) => verdict::saved(need.as_ref()),
                None => self.verdict(&key, item),
            };
            let need = need.flatten().map(|(need, _)| need);
            self.judged_count += 1;
            let before = self.judged.remove(&key);
            let is_broken = matches!(verdict, Verdict::Broken { .. });
            let since_ms = before.as_ref().and_then(|judged| judged.broken_since_ms);
            let held_ms = before.as_ref().and_then(|judged| judged.held_ms);
            let need_before = before.as_ref().and_then(|judged| judged.need);
            let need = need.map(|need| {
                let since_ms = need_before.filter(|(was, _)| *was == need).map(|(_, since)| since);
                (need, since_ms.unwrap_or(now_ms))
            });
            let report = before.and_then(|judged| judged.report).filter(|_| is_broken);
            let broken_since_ms = is_broken.then(|| since_ms.unwrap_or(now_ms));
            match is_broken {
                true => self.broken.insert(key.clone()),
                false => self.broken.remove(&key),
            };
            let judged = Judged { verdict, broken_since_ms, held_ms, report, need };
            self.judged.insert(key, judged);
        }
    }

    /// Brings up to date what these are judged by, and lets go what nobody is judged by any more.
    pub(super) fn rehearse(&mut self, keys: &BTreeSet<Key>) {
        let domains = |keys: &mut dyn Iterator<Item = &Key>| -> BTreeSet<Option<String>> {
            let items = keys.filter_map(|key| self.item(key)).filter(|item| is_rehearsed(item));
            items.map(|item| domain_of(item).map(str::to_owned)).collect()
        };
        let expected = domains(&mut self.index.whole());
        let domains = domains(&mut keys.iter());
        self.rehearsals.retain(|domain, _| expected.contains(domain));
        let index = &self.index;
        for domain in domains {
            let rehearsal = self.rehearsals.entry(domain).or_insert_with_key(|domain| {
                domain.as_ref().map_or_else(Rehearsal::of_hosts, Rehearsal::of_domains)
            });
            rehearsal.follow(index.view(), |host| index.freshness(host));
        }
    }

    fn need(&self, rule: &PowerSaving) -> Option<(Need, String)> {
        let freshness = |host: &HostId| self.index.freshness(host);
        verdict::need(self.index.view(), &freshness, &self.powers, rule)
    }

    pub(super) fn verdict(&self, key: &Key, item: &Item) -> Verdict {
        if is_rehearsed(item) {
            let domain = domain_of(item).map(str::to_owned);
            let rehearsal =
                self.rehearsals.get(&domain).expect("it was rehearsed before it is judged");
            return verdict::rehearsed(rehearsal);
        }
        let after = match item {
            Item::Runs { job, level, .. } => self.after(job, *level),
            _ => BTreeSet::new(),
        };
        let others = after.iter().flat_map(|other| self.index.homes_of(other));
        let hosts = self.index.hosts_of(item);
        let part = hosts.map(|mut hosts| {
            hosts.extend(others.cloned());
            self.index.view().part(&hosts)
        });
        let (none, nothing) = (BTreeSet::new(), BTreeMap::new());
        let record = self.sets.get(&key.0).map(|set| &set.record);
        judge(
            item,
            &Facts {
                view: part.as_ref().unwrap_or(self.index.view()),
                freshness: &|host| self.index.freshness(host),
                powers: &self.powers,
                used: &self.used,
                terms: self.terms,
                missing: self.index.missing(),
                begun: record.map_or(&none, |record| &record.begun),
                stopped: record.map_or(&nothing, |record| &record.stopped),
                after: &after,
            },
        )
    }

    pub(super) fn note_begun(&mut self, jobs: &BTreeSet<JobId>, out: &mut Vec<Effect>) {
        let mut changed = BTreeSet::new();
        for job in jobs {
            let keys: Vec<Key> = self.index.readers_of(job).cloned().collect();
            for (name, place) in keys {
                let Some(set) = self.sets.get_mut(&name) else { continue };
                let is_run = matches!(set.items.get(place), Some(Item::Runs { .. }));
                if is_run && set.record.begun.insert(job.clone()) {
                    changed.insert(name);
                }
            }
        }
        out.extend(changed.into_iter().map(Effect::Save));
    }

    pub(super) fn note_stop(
        &mut self,
        now_ms: u64,
        job: &JobId,
        revision: Revision,
        out: &mut Vec<Effect>,
    ) {
        for set in self.sets.values_mut() {
            let is_it = |item: &Item| matches!(item, Item::Runs { job: id, .. } if id == job);
            if set.items.iter().any(is_it) {
                set.record.note_stop(job.clone(), revision);
                out.push(Effect::Save(set.record.name.clone()));
            }
        }
        self.judge(now_ms, self.keys_of(job), out);
    }

    pub(super) fn keys_of(&self, job: &JobId) -> BTreeSet<Key> {
        self.index.readers_of(job).cloned().collect()
    }
}
