//! The discovery server's memory: clusters and who registered in them. Pure.
//!
//! Decides who may replace whom, what expires and how much is kept. An entry with a proof belongs
//! to its key: one without can neither replace, hide nor refresh it. Files, sockets and fresh
//! tokens are the store's and router's affair.
//!
//! ```text
//! POST ─> listed ── POST again: refreshed ──┐
//!           │  ^────────────────────────────┘
//!           └── no POST for 90 s (unproven: a day), or DELETE by its key ─> gone
//! ```

use std::collections::BTreeMap;

use protocol::refusal::{Problem, Refusal};
use protocol::signed::Signed;
use serde::{Deserialize, Serialize};

use super::record::{Departure, Instance};

/// Longest name or address that is kept.
const TEXT_BYTES_MAX: usize = 512;

/// Host keys that are kept for Flynn's clients.
const SSH_KEYS_MAX: usize = 8;

/// How much the server keeps, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BookLimits {
    /// Clusters; at the limit, the longest unused one without hosts makes room.
    pub clusters_max: usize,
    /// Hosts in one cluster.
    pub instances_max: usize,
    /// Life of a proven entry without refresh; hosts refresh every 30 s.
    pub proven_ms: u64,
    /// Life of an unproven entry: Flynn's clients register once and never again.
    pub unproven_ms: u64,
    /// How long an empty cluster is safe from making room.
    pub unused_ms_min: u64,
}

impl Default for BookLimits {
    fn default() -> Self {
        Self {
            // A few MiB in practice: most clusters are small.
            clusters_max: 10_000,
            // The largest cluster we promise to follow.
            instances_max: 10_000,
            proven_ms: 90_000,
            unproven_ms: 24 * 3600 * 1000,
            unused_ms_min: 3600 * 1000,
        }
    }
}

/// Clusters by token.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Book {
    clusters: BTreeMap<String, Cluster>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Cluster {
    entries: Vec<Entry>,
    #[serde(skip)]
    used_ms: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    instance: Instance,
    #[serde(skip)]
    seen_ms: u64,
    /// When its present life was first heard.
    #[serde(skip)]
    life_since_ms: u64,
}

/// What became of a registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Registered {
    /// It is new.
    Created(Instance),
    /// It was there and says something new now.
    Changed(Instance),
    /// It was there; only its time of expiry is new.
    AlreadySo(Instance),
}

impl Book {
    /// After a restart everything counts as just seen: hosts get their time to refresh.
    pub(super) fn start(&mut self, now_ms: u64) {
        for cluster in self.clusters.values_mut() {
            cluster.used_ms = now_ms;
            for entry in &mut cluster.entries {
                entry.seen_ms = now_ms;
                entry.life_since_ms = now_ms;
            }
        }
    }

    /// Opens a cluster.
    pub(super) fn create(
        &mut self,
        now_ms: u64,
        limits: &BookLimits,
        token: &str,
    ) -> Result<(), Box<Problem>> {
        if self.clusters.len() >= limits.clusters_max {
            self.make_room(now_ms, limits)?;
        }
        let cluster = Cluster { entries: Vec::new(), used_ms: now_ms };
        self.clusters.insert(token.to_owned(), cluster);
        Ok(())
    }

    /// Writes a host down, or refreshes it.
    pub(super) fn register(
        &mut self,
        now_ms: u64,
        limits: &BookLimits,
        token: &str,
        given: Instance,
    ) -> Result<Registered, Box<Problem>> {
        check_sizes(&given)?;
        let cluster = self.cluster(now_ms, limits, token)?;
        let is_proven = given.prove(token).is_some();
        let cluster_id = token.to_owned();
        let given = Instance { cluster_id, proven: is_proven, twin: false, ..given };
        if let Some(entry) = cluster.entries.iter_mut().find(|entry| is_same(entry, &given)) {
            entry.seen_ms = now_ms;
            if entry.instance.life != given.life {
                entry.life_since_ms = now_ms;
            }
            return Ok(entry.update(given));
        }
        if cluster.entries.len() >= limits.instances_max {
            let max = limits.instances_max;
            return Err(no(503, "full", format!("the cluster has {max} hosts already")));
        }
        cluster.entries.push(Entry {
            instance: given.clone(),
            seen_ms: now_ms,
            life_since_ms: now_ms,
        });
        Ok(Registered::Created(given))
    }

    /// The hosts of a cluster that have not expired.
    pub(super) fn list(
        &mut self,
        now_ms: u64,
        limits: &BookLimits,
        token: &str,
    ) -> Result<Vec<Instance>, Box<Problem>> {
        let entries = &self.cluster(now_ms, limits, token)?.entries;
        let mut by_key: BTreeMap<_, Vec<&Entry>> = BTreeMap::new();
        for entry in entries.iter().filter(|entry| entry.instance.proven) {
            by_key.entry(entry.instance.key).or_default().push(entry);
        }
        let shown = entries.iter().map(|entry| {
            let same_key = by_key.get(&entry.instance.key).into_iter().flatten();
            let twin = entry.instance.proven && { same_key }.any(|other| are_twins(entry, other));
            Instance { twin, ..entry.instance.clone() }
        });
        Ok(shown.collect())
    }

    /// Takes a host off the list; a proven one only on its own word.
    pub(super) fn withdraw(
        &mut self,
        now_ms: u64,
        limits: &BookLimits,
        token: &str,
        id: &str,
        proof: Option<&Signed<Departure>>,
    ) -> Result<(), Box<Problem>> {
        let cluster = self.cluster(now_ms, limits, token)?;
        let Some(at) = cluster.entries.iter().position(|entry| entry.instance.id == id) else {
            return Ok(());
        };
        let instance = &cluster.entries[at].instance;
        let departure = Departure { cluster: token.to_owned(), instance: id.to_owned() };
        let is_own_word = proof.is_some_and(|proof| {
            Some(proof.key()) == instance.key && proof.open().as_ref() == Ok(&departure)
        });
        if instance.proven && !is_own_word {
            let who = "anybody but the host itself".to_owned();
            return Err(refuse(Refusal::Forbidden { who, what: "take it off the list".into() }));
        }
        cluster.entries.remove(at);
        Ok(())
    }

    fn cluster(
        &mut self,
        now_ms: u64,
        limits: &BookLimits,
        token: &str,
    ) -> Result<&mut Cluster, Box<Problem>> {
        let Some(cluster) = self.clusters.get_mut(token) else {
            let detail = "there is no cluster with this token here; check the URL for typing \
                          errors, or create one with POST /clusters";
            return Err(no(404, "no-such-cluster", detail));
        };
        cluster.used_ms = now_ms;
        cluster.entries.retain(|entry| !entry.is_expired(now_ms, limits));
        Ok(cluster)
    }

    fn make_room(&mut self, now_ms: u64, limits: &BookLimits) -> Result<(), Box<Problem>> {
        let is_spare = |cluster: &Cluster| {
            cluster.entries.iter().all(|entry| entry.is_expired(now_ms, limits))
                && now_ms.saturating_sub(cluster.used_ms) >= limits.unused_ms_min
        };
        let spare = self.clusters.iter().filter(|(_, cluster)| is_spare(cluster));
        let oldest = spare.min_by_key(|(_, cluster)| cluster.used_ms).map(|(id, _)| id.clone());
        match oldest {
            Some(token) => {
                self.clusters.remove(&token);
                Ok(())
            }
            None => {
                let max = limits.clusters_max;
                Err(no(503, "full", format!("this server keeps {max} clusters already")))
            }
        }
    }
}

impl Entry {
    fn update(&mut self, given: Instance) -> Registered {
        // Flynn's rule: whoever is there already keeps its id and its date.
        let (id, created_at) = (self.instance.id.clone(), self.instance.created_at.clone());
        let updated = Instance { id, created_at, ..given };
        if updated == self.instance {
            return Registered::AlreadySo(updated);
        }
        self.instance = updated.clone();
        Registered::Changed(updated)
    }

    fn is_expired(&self, now_ms: u64, limits: &BookLimits) -> bool {
        let life_ms = if self.instance.proven { limits.proven_ms } else { limits.unproven_ms };
        now_ms.saturating_sub(self.seen_ms) > life_ms
    }
}

/// One entry for a host's address, and one for an address that nobody proves: so a stranger who
/// registers a host's address stands beside it and not in its place.
fn is_same(entry: &Entry, given: &Instance) -> bool {
    let known = &entry.instance;
    known.url == given.url
        && known.proven == given.proven
        && (!given.proven || known.key == given.key)
}

/// Two machines with one key: each was heard after the other had come. A host that moved, or was
/// started again elsewhere, is heard at its old address no more once it is heard at the new one.
fn are_twins(one: &Entry, other: &Entry) -> bool {
    one.instance.life != other.instance.life
        && one.life_since_ms < other.seen_ms
        && other.life_since_ms < one.seen_ms
}

fn check_sizes(given: &Instance) -> Result<(), Box<Problem>> {
    let join = given.join.as_deref().unwrap_or_default();
    let texts = [given.name.as_str(), &given.url, &given.flynn_version, &given.life, join];
    if given.url.is_empty()
        || texts.iter().any(|text| text.len() > TEXT_BYTES_MAX)
        || given.ssh_public_keys.len() > SSH_KEYS_MAX
    {
        let message = format!(
            "an instance needs a url; texts may have {TEXT_BYTES_MAX} bytes, ssh_public_keys {SSH_KEYS_MAX} entries"
        );
        return Err(refuse(Refusal::Invalid { message }));
    }
    Ok(())
}

fn no(status: u16, name: &str, detail: impl Into<String>) -> Box<Problem> {
    Box::new(Problem::new(status, name, detail))
}

fn refuse(refusal: Refusal) -> Box<Problem> {
    Box::new(refusal.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::Advert;
    use crate::identity::Identity;

    const URL: &str = "https://10.0.0.1:1";
    const LIMITS: BookLimits = BookLimits {
        clusters_max: 2,
        instances_max: 2,
        proven_ms: 90,
        unproven_ms: 900,
        unused_ms_min: 50,
    };

    fn book() -> Book {
        let mut book = Book::default();
        book.create(0, &LIMITS, "c").unwrap();
        book
    }

    fn signed(seed: u8) -> Instance {
        at(seed, URL, "1")
    }

    fn at(seed: u8, url: &str, life: &str) -> Instance {
        let identity = Identity::from_seed([seed; 32]);
        let advert = Advert { name: "h".into(), url: url.into(), life: life.into() };
        Instance { id: format!("i{seed}"), ..Instance::signed_by(&identity, "c", &advert) }
    }

    fn unsigned() -> Instance {
        Instance { proof: None, id: "u".into(), ..signed(1) }
    }

    #[test]
    fn an_entry_lives_as_long_as_it_is_refreshed() {
        let mut book = book();
        book.register(0, &LIMITS, "c", signed(1)).unwrap();
        let again = book.register(80, &LIMITS, "c", signed(1)).unwrap();
        assert!(matches!(again, Registered::AlreadySo(_)), "{again:?}");
        assert_eq!(book.list(170, &LIMITS, "c").unwrap().len(), 1);
        assert_eq!(book.list(171, &LIMITS, "c").unwrap().len(), 0);
    }

    #[test]
    fn an_unproven_entry_stands_beside_a_proven_one_for_the_same_address() {
        let mut book = book();
        book.register(0, &LIMITS, "c", signed(1)).unwrap();
        let stranger = book.register(0, &LIMITS, "c", unsigned()).unwrap();
        assert!(matches!(stranger, Registered::Created(Instance { proven: false, .. })));
        let proven: Vec<_> =
            book.list(0, &LIMITS, "c").unwrap().into_iter().filter(|i| i.proven).collect();
        assert_eq!(proven.len(), 1);
        assert_eq!(proven[0].id, "i1");
    }

    #[test]
    fn a_proven_entry_goes_only_on_its_own_word() {
        let mut book = book();
        book.register(0, &LIMITS, "c", signed(1)).unwrap();
        let said = Departure { cluster: "c".into(), instance: "i1".into() };
        let stranger = Signed::seal(&said, Identity::from_seed([2; 32]).secret());
        for proof in [None, Some(&stranger)] {
            let error = book.withdraw(0, &LIMITS, "c", "i1", proof).unwrap_err();
            assert_eq!(error.status, 403);
        }
        let own = Signed::seal(&said, Identity::from_seed([1; 32]).secret());
        book.withdraw(0, &LIMITS, "c", "i1", Some(&own)).unwrap();
        book.withdraw(0, &LIMITS, "c", "i1", Some(&own)).expect("twice is fine");
        assert_eq!(book.list(0, &LIMITS, "c").unwrap().len(), 0);
    }

    fn twins(book: &mut Book, now_ms: u64) -> usize {
        let listed = book.list(now_ms, &LIMITS, "c").unwrap();
        listed.iter().filter(|instance| instance.twin).count()
    }

    #[test]
    fn two_machines_that_take_turns_with_one_key_are_twins() {
        let mut book = book();
        let (one, copy) = (at(1, URL, "a"), at(1, "https://10.0.0.2:1", "b"));
        book.register(0, &LIMITS, "c", one.clone()).unwrap();
        book.register(10, &LIMITS, "c", copy.clone()).unwrap();
        assert_eq!(twins(&mut book, 10), 0, "this may be one machine that has moved");
        book.register(30, &LIMITS, "c", one.clone()).unwrap();
        assert_eq!(twins(&mut book, 30), 2);
        assert_eq!(twins(&mut book, 110), 0, "once the copy is gone");
        assert_eq!(book.list(110, &LIMITS, "c").unwrap().len(), 1);
    }

    #[test]
    fn a_host_that_moves_there_and_back_is_no_twin_of_itself() {
        let mut book = book();
        let (here, there) = (at(1, URL, "a"), at(1, "https://10.0.0.2:1", "a"));
        let restarted = at(1, URL, "b");
        for (now_ms, entry) in
            [(0, &here), (10, &there), (20, &here), (30, &there), (40, &restarted)]
        {
            book.register(now_ms, &LIMITS, "c", entry.clone()).unwrap();
            assert_eq!(twins(&mut book, now_ms), 0, "at {now_ms}");
        }
        book.register(50, &LIMITS, "c", restarted).unwrap();
        assert_eq!(twins(&mut book, 50), 0);
    }

    #[test]
    fn full_means_full_until_an_unused_cluster_makes_room() {
        let mut book = book();
        book.register(0, &LIMITS, "c", signed(1)).unwrap();
        book.register(0, &LIMITS, "c", signed(2)).unwrap();
        assert_eq!(book.register(0, &LIMITS, "c", signed(3)).unwrap_err().status, 503);
        book.create(0, &LIMITS, "d").unwrap();
        assert_eq!(book.create(49, &LIMITS, "e").unwrap_err().status, 503);
        book.create(50, &LIMITS, "e").unwrap();
        assert!(book.list(50, &LIMITS, "c").is_ok(), "the cluster in use went");
        assert_eq!(book.list(50, &LIMITS, "d").unwrap_err().status, 404);
    }
}
