//! Controllers that may say by themselves that a host is off, because they have switched it off and its devices
//! say so: automatic fencing.
//!
//! A fencer can't govern. All that it signs is an operator's document with more hosts said to be off, and that
//! document is in it as the operator signed it ([`Trust::upon`]), so anybody can see that nothing else was changed,
//! also who has missed all between.
//!
//! **A version is one document.** Hosts and arbiters know documents by their versions, so operator and fencers,
//! who don't ask each other, must never sign two of one version. Each has numbers of its own:
//!
//! ```text
//!   3000         an operator's document with fencers: a multiple of 1000
//!   3001 3011 …  what the fencer at place 1 says upon it
//!   3002 3012 …  what the fencer at place 2 says upon it
//!   4000         the operator's next
//! ```
//!
//! Without fencers versions are 1, 2, 3 as ever. A fencer never signs a version twice: it keeps what it has
//! signed. Two operators must still talk to each other.
//!
//! **Of two that speak at once only one is heard.** Their documents don't follow one another, so at most one of
//! them is ever obeyed by a quorum of arbiters, and nothing was started elsewhere for the other's sake. A fencer signs
//! upon the one that a quorum obeys, an operator what has its words ([`Trust::brought_together`]). Those who obeyed the
//! other follow as soon as an operator has disowned what it said, and hear afterwards what it lacked: see `fence`.
//!
//! **What a quorum has obeyed may be repeated.** An operator who saw no quorum may have signed without it, and then a
//! fencer says it again as it was said, upon that document ([`Trust::repeat`]): nobody loses anything by it that was not
//! over before. What no quorum has obeyed must not be repeated so: its host may have been turned on by hand since, and
//! the fencer of it says it anew only while the devices say that it is off.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Fence, Peer, Trust, TrustError};
use crate::id::HostId;
use crate::job::Role;
use crate::signed::{PublicKey, Signed};

/// From one operator's document with fencers to the next.
const STRIDE: u64 = 1_000;
/// From one of a fencer's documents to its next.
const TURN: u64 = 10;
/// Words that are remembered as disowned, the newest: by then whoever obeyed an older one has followed.
const DISOWNED_MAX: usize = 64;
/// Places for fencers. One is enough while its machine runs; each has to reach all hosts' devices.
pub const FENCERS_MAX: usize = 9;

/// By default a host is switched off after so long a silence: a kernel that hangs for a moment, or a cable that is
/// plugged into another socket, costs nobody a guest.
pub const FENCING_AFTER_MS: u64 = 30_000;
/// Shorter, and a host is switched off for what monitors call stale; longer, and nobody waits for it.
const AFTER_MS: std::ops::RangeInclusive<u64> = 5_000..=86_400_000;

/// Who switches off hosts that nobody hears, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fencing {
    /// Controllers that may; none, and operators alone do.
    pub fencers: Vec<Fencer>,
    /// After how long a silence, by the fencer's clock.
    pub after_ms: u64,
    /// Whether a host that was switched off is to stay so, for somebody to look at it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stays_off: bool,
    /// Words of fencers that no quorum of arbiters ever obeyed. Who does may follow a document without them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disowned: Vec<Disowned>,
}

/// A fencer's word that nothing may follow from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Disowned {
    /// Of which host.
    pub host: PublicKey,
    /// By which version.
    pub since: u64,
}

impl Default for Fencing {
    fn default() -> Self {
        Self { fencers: vec![], after_ms: FENCING_AFTER_MS, stays_off: false, disowned: vec![] }
    }
}

impl Fencing {
    /// Whether nobody fences by itself.
    #[must_use]
    pub fn is_nobodys(&self) -> bool {
        self.fencers.is_empty()
    }

    /// Whether there is nothing to write down.
    pub(super) fn is_plain(&self) -> bool {
        self.fencers.is_empty() && self.disowned.is_empty()
    }

    /// Whether a word is disowned.
    pub(super) fn disowns(&self, word: &Fence) -> bool {
        let is_it = |other: &Disowned| (other.host, other.since) == (word.host, word.since);
        word.by_fencer && self.disowned.iter().any(is_it)
    }

    /// Disowns what another document says and the one that a quorum obeys does not.
    pub fn disown(&mut self, obeyed: &Trust, other: &Trust) {
        for word in other.fenced.iter().filter(|word| word.by_fencer) {
            if !other.says_anew(obeyed, &word.host) || self.disowns(word) {
                continue;
            }
            if self.disowned.len() == DISOWNED_MAX {
                self.disowned.remove(0);
            }
            self.disowned.push(Disowned { host: word.host, since: word.since });
        }
    }

    /// The place of a fencer.
    #[must_use]
    pub fn place_of(&self, key: &PublicKey) -> Option<u8> {
        self.fencers.iter().find(|fencer| fencer.key == *key).map(|fencer| fencer.place)
    }
}

/// A controller that may say that a host is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fencer {
    /// Its place, 1 to 9: the last digit of the versions that it signs.
    pub place: u8,
    /// Its key, a controller's among the peers.
    pub key: PublicKey,
}

impl Trust {
    /// The document that an operator changes and signs to follow this one.
    #[must_use]
    pub fn next(&self) -> Trust {
        let version = match self.fencing.is_nobodys() && self.upon.is_none() {
            true => self.version.saturating_add(1),
            false => multiple_after(self.version),
        };
        Trust { version, upon: None, ..self.clone() }
    }

    /// The same with these fencers and no others. Who had a place keeps it.
    pub fn next_with_fencers(&self, keys: &[PublicKey]) -> Result<Trust, TrustError> {
        let known = &self.fencing.fencers;
        let has_place = |key: &&PublicKey| known.iter().any(|fencer| fencer.key == **key);
        let stay = known.iter().filter(|fencer| keys.contains(&fencer.key));
        let mut fencers: Vec<Fencer> = stay.copied().collect();
        for key in keys.iter().filter(|key| !has_place(key)) {
            let is_taken = |place: u8| fencers.iter().chain(known).any(|f| f.place == place);
            let Some(place) = places().find(|place| !is_taken(*place)) else {
                return Err(TrustError::Invalid(too_many(keys.len())));
            };
            fencers.push(Fencer { place, key: *key });
        }
        fencers.sort_by_key(|fencer| fencer.place);
        let version = match fencers.is_empty() {
            true => self.next().version,
            false => multiple_after(self.version),
        };
        let fencing = Fencing { fencers, ..self.fencing.clone() };
        Ok(Trust { version, fencing, ..self.next() })
    }

    /// The document that the fencer signs to say that hosts are off besides what is said in this one; `signed` is
    /// this one as it was signed, `last` the last version that the fencer has ever signed, or 0. `None`: it is no
    /// fencer here, or has used up its versions: once an operator has signed anything, it has others.
    #[must_use]
    pub fn next_by_fencer(
        &self,
        signed: &Signed<Trust>,
        key: &PublicKey,
        last: u64,
    ) -> Option<Trust> {
        let place = u64::from(self.fencing.place_of(key)?);
        let after = self.version.max(last).checked_add(1)?;
        let version = after + (place + TURN - after % TURN) % TURN;
        let upon = self.upon.clone().unwrap_or_else(|| Arc::new(signed.clone()));
        (version / STRIDE == self.version / STRIDE).then(|| Trust {
            version,
            upon: Some(upon),
            ..self.clone()
        })
    }

    /// Adds what fencers say in this document, which a quorum of arbiters obeys, to what is `heard`: the last of each
    /// host of the roster. What was heard before and is not in it is forgotten, unless it is newer: it was left behind,
    /// by a change of arbiters who had not heard of it, and its host may have gone on since.
    pub fn note_heard(&self, heard: &mut Vec<Fence>) {
        heard.retain(|word| word.since > self.version);
        let is_known = |word: &Fence, heard: &[Fence]| heard.iter().any(|h| h.host == word.host);
        for word in self.fenced.iter().filter(|word| self.is_fencers(word)) {
            if !is_known(word, heard) {
                heard.push(word.clone());
            }
        }
    }

    /// Says again what a quorum of arbiters has `heard` of hosts, word for word, where this document says less of them
    /// and does not disown it.
    pub fn repeat(&mut self, heard: &[Fence]) {
        for word in heard {
            let since = self.fence_of(&word.host).map_or(0, |known| known.since);
            if since < word.since && self.is_fencers(word) {
                self.fenced.retain(|known| known.host != word.host);
                self.fenced.push(word.clone());
            }
        }
    }

    /// What an operator changes and signs next ([`Trust::next`]), given every document that is seen: the newest that an
    /// operator has signed, with the words that the one has which a quorum of arbiters obeys, if that one is seen, and
    /// with those disowned that only others have. Where no quorum is seen, nobody knows whose words were heard: then
    /// the newest of all, as it is. It is numbered as the newest of all, so that what follows is newer still.
    #[must_use]
    pub fn brought_together(seen: &[Trust], obeyed: Option<&Trust>) -> Option<Trust> {
        let newest = seen.iter().max_by_key(|trust| trust.version)?;
        let has_fencers = seen.iter().any(|trust| !trust.fencing.is_nobodys());
        let Some(obeyed) = obeyed.filter(|_| has_fencers) else { return Some(newest.clone()) };
        let signed_by_operators = seen.iter().filter_map(|trust| match &trust.upon {
            None => Some(trust.clone()),
            Some(upon) => upon.open().ok(),
        });
        let mut next = signed_by_operators.max_by_key(|trust| trust.version)?;
        for word in obeyed.fenced.iter().filter(|word| next.roster.contains(&word.host)) {
            if obeyed.says_anew(&next, &word.host) {
                next.fenced.retain(|known| known.host != word.host);
                next.fenced.push(word.clone());
            }
        }
        let heard = next.clone();
        seen.iter().for_each(|other| next.fencing.disown(&heard, other));
        Some(Trust { version: newest.version, ..next })
    }

    /// Whoever is no controller any more says nothing.
    pub fn drop_fencers_that_left(&mut self) {
        let peers = &self.peers;
        let is_there = |key: &PublicKey| {
            peers.iter().any(|peer| peer.key == *key && peer.role == Role::Controller)
        };
        self.fencing.fencers.retain(|fencer| is_there(&fencer.key));
    }

    /// The version of the operator's document that this one is, or is upon.
    #[must_use]
    pub fn operators_version(&self) -> u64 {
        match self.upon {
            Some(_) => self.version - self.version % STRIDE,
            None => self.version,
        }
    }

    /// Whether a fencer of this document may say so of a host of it, as far as the document tells.
    fn is_fencers(&self, word: &Fence) -> bool {
        let place = self.fencing.place_of(&word.by);
        let is_its = place.is_some_and(|place| word.since % TURN == u64::from(place));
        let is_ours = self.roster.contains(&word.host);
        word.by_fencer && is_its && is_ours && !self.fencing.disowns(word)
    }

    /// Whether two documents differ in nothing but in what was said of hosts being off.
    fn is_but_for_fences(&self, other: &Trust) -> bool {
        let bare =
            |trust: &Trust| Trust { version: 0, fenced: vec![], upon: None, ..trust.clone() };
        self.operators_version() == other.operators_version() && bare(self) == bare(other)
    }
}

/// Checks a document's fencers against the rest of it.
pub(super) fn validate(trust: &Trust) -> Result<(), String> {
    let Fencing { fencers, after_ms, disowned, .. } = &trust.fencing;
    if disowned.len() > DISOWNED_MAX {
        return Err(format!("{} words are disowned, at most {DISOWNED_MAX}", disowned.len()));
    }
    if fencers.len() > FENCERS_MAX {
        return Err(too_many(fencers.len()));
    }
    if !AFTER_MS.contains(after_ms) {
        let (least, most) = (AFTER_MS.start(), AFTER_MS.end());
        return Err(format!("hosts are fenced after {after_ms} ms: use {least} to {most}"));
    }
    for (n, Fencer { place, key }) in fencers.iter().enumerate() {
        if !places().any(|other| other == *place) {
            return Err(format!("fencer {key} has place {place}: places are 1 to {FENCERS_MAX}"));
        }
        if fencers[..n].iter().any(|other| other.place == *place || other.key == *key) {
            return Err(format!("fencer {key} or its place {place} is there twice"));
        }
        let is_its = |peer: &&Peer| peer.key == *key && peer.role == Role::Controller;
        if !trust.peers.iter().any(|peer| is_its(&peer)) {
            return Err(format!("fencer {key} is no controller of this document"));
        }
    }
    if !fencers.is_empty() && trust.upon.is_none() && !trust.version.is_multiple_of(STRIDE) {
        return Err(format!(
            "version {} has fencers and is an operator's: {} would be right",
            trust.version,
            multiple_after(trust.version)
        ));
    }
    Ok(())
}

/// The operator's document that one is upon which no operator has signed, if its signer may say what it says.
/// By whom that one is signed is the caller's to check.
pub(super) fn open(new: &Trust, signer: PublicKey) -> Result<Arc<Signed<Trust>>, TrustError> {
    let no_operator = || TrustError::NotOperator { version: new.version, key: signer };
    let upon = new.upon.clone().ok_or_else(no_operator)?;
    let base = upon.open()?;
    let place = base.fencing.place_of(&signer).ok_or_else(no_operator)?;
    let unlawful = |why: &str| {
        let lawful = format!("version {} with more hosts said to be off", base.version);
        Err(TrustError::Unlawful { version: new.version, why: why.to_owned(), lawful })
    };
    base.validate()?;
    if base.upon.is_some() {
        return unlawful("it is upon another fencer's document");
    }
    if !new.is_but_for_fences(&base) || new.version <= base.version {
        return unlawful("a fencer signed it, and it differs in more than that");
    }
    if new.version % TURN != u64::from(place) {
        return unlawful("its number is another signer's");
    }
    for fence in new.fenced.iter().filter(|fence| base.fence_of(&fence.host) != Some(fence)) {
        if !base.is_fencers(fence) {
            let host = HostId::of(&fence.host);
            return unlawful(&format!(
                "that host {host} is off is not said by a fencer of its own"
            ));
        }
    }
    super::fence::check(&base, new)?;
    Ok(upon)
}

/// Whether a document may follow another, as far as it matters upon which they are.
pub(super) fn check(old: &Trust, new: &Trust) -> Result<(), TrustError> {
    let (ours, theirs) = (old.operators_version(), new.operators_version());
    if theirs < ours || (theirs == ours && !old.is_but_for_fences(new)) {
        return Err(TrustError::Unlawful {
            version: new.version,
            why: format!(
                "it is upon the operator's version {theirs}, and another, {ours}, is in force"
            ),
            lawful: format!("one upon version {ours}"),
        });
    }
    Ok(())
}

fn multiple_after(version: u64) -> u64 {
    (version / STRIDE).saturating_add(1).saturating_mul(STRIDE)
}

fn places() -> impl Iterator<Item = u8> {
    1..=u8::try_from(FENCERS_MAX).expect("there are nine")
}

fn too_many(count: usize) -> String {
    format!(
        "{count} fencers: at most {FENCERS_MAX}, and a place that becomes free can be given by the next document"
    )
}

#[cfg(test)]
mod tests;
