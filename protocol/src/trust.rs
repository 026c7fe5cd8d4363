//! Who is believed in a cluster: one document, signed by an operator, replaced by a higher version.
//!
//! `shared` between operator, hosts and members (protocol §2). A host without one is a lone host
//! and needs no tickets; with one, nothing starts without. Identity is a key, so the document is
//! also the list of who may talk to whom; there is no certificate authority to lose.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::amounts::Amounts;
use crate::id::{ClusterId, HostId, TenantId};
use crate::job::Role;
use crate::refusal::Refusal;
use crate::signed::{Message, PublicKey, Signed, SignedError};

mod council;
mod fence;
mod fencers;
mod named_key;
mod policy;
mod readers;
mod succession;
mod users;
pub use council::{Council, Seat, Witnesses};
pub use fence::{Fence, REASON_CHARS_MAX};
pub use fencers::{Disowned, FENCERS_MAX, FENCING_AFTER_MS, Fencer, Fencing};
pub use named_key::{NAME_CHARS_MAX, NamedKey};
pub use policy::{
    Breach, Closed, Day, EmptyWindow, Fault, HostHardware, InvalidPolicy, NoRate, NoTime, Pattern,
    Policy, RATE_STARTS_MAX, RATE_WITHIN_S_MAX, RATE_WITHIN_S_MIN, StartRate, StartWindows,
    TenantPolicy, TimeOfDay, UtcOffset, VmMax, WINDOWS_MAX, Window, breach_examples, span_words,
};
pub use readers::{READERS_MAX, Reader, Sight};
pub(crate) use succession::times;
pub use succession::{Committee, Handover, Next, Ready, Succession, check_agreed};
pub use users::{USERS_MAX, User};

/// The trust document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Trust {
    /// Which cluster this is.
    pub cluster: ClusterId,
    /// Grows with each change.
    pub version: u64,
    /// Keys whose signature makes a later version valid, and who may do everything.
    pub operators: Vec<PublicKey>,
    /// The arbiters, by slot. A slot counts once whatever number of copies signs for it.
    pub arbiters: Vec<Slot>,
    /// How many different arbiter slots a ticket needs.
    pub k: u32,
    /// How many arbiters may lie without harm.
    #[serde(default)]
    pub f: u32,
    /// Who says beside the arbiters where a job that may be lost runs.
    #[serde(default, skip_serializing_if = "Witnesses::is_none")]
    pub witnesses: Witnesses,
    /// The hosts.
    pub roster: Vec<PublicKey>,
    /// Monitors and controllers.
    #[serde(default)]
    pub peers: Vec<Peer>,
    /// Keys that look and do nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub readers: Vec<Reader>,
    /// Keys that run the VMs of a tenant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<User>,
    /// D: how long an offer, and a member's promise seen from the host, lasts. Host clock.
    pub term_ms: u64,
    /// K: how long killing a guest may take.
    pub kill_ms: u64,
    /// ρ: how wrong a clock's rate may be, in parts per million.
    pub clock_ppm: u64,
    /// What each tenant may have promised in the cluster; a tenant without entry has no limit.
    #[serde(default)]
    pub quota: BTreeMap<TenantId, Amounts>,
    /// What each tenant's VMs may be like, and where.
    #[serde(default, skip_serializing_if = "is_no_policy")]
    pub policy: Arc<Policy>,
    /// Hosts that were members and never come back: the operator's word that nothing of theirs runs
    /// (evidence `retired` of protocol §3). What was promised to them is free; a machine that is to
    /// come back comes with a new key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retired: Vec<PublicKey>,
    /// Hosts that were off, and may be back: the word that nothing ran there when it was given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fenced: Vec<Fence>,
    /// Who may say so without an operator, by the word of devices.
    #[serde(default, skip_serializing_if = "Fencing::is_plain")]
    pub fencing: Fencing,
    /// The operator's document that this is but for what fencers have said since. There only in what a fencer
    /// has signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upon: Option<Arc<Signed<Trust>>>,
    /// How its arbiters came to be, and who follows them.
    #[serde(default, skip_serializing_if = "Succession::is_plain")]
    pub succession: Succession,
}

/// A member's place in its committee.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    /// Its number.
    pub slot: u32,
    /// The key it signs with.
    pub key: PublicKey,
    /// Where it answers.
    pub url: String,
}

/// A key with a role that signs nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Its key.
    pub key: PublicKey,
    /// What it may do.
    pub role: Role,
    /// Where it answers.
    pub url: String,
}

/// What somebody wants to do, as far as permission goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// Read what is measured: counts, times and names, at `/metrics`.
    Scrape,
    /// Look at everything, specs with what they tell a guest at its first start included.
    Read,
    /// Start, stop, move and delete jobs, whose ever they are; use a console; bring images. A user may do some
    /// of it to the VMs of one tenant: [`Trust::permit_over`].
    Run,
    /// Change who is trusted, start and stop Ostler's own services.
    Govern,
}

impl Role {
    /// Whether the role has the right. Every member of the cluster may look.
    #[must_use]
    pub fn may(self, right: Right) -> bool {
        match right {
            Right::Scrape => true,
            Right::Read => self != Role::Scraper,
            Right::Run => matches!(self, Role::Operator | Role::Controller),
            Right::Govern => self == Role::Operator,
        }
    }
}

impl Message for Trust {
    const DOMAIN: &'static str = "trust";
}

/// Defaults of protocol §12: D = 9 s.
pub const TERM_MS: u64 = 9_000;
/// Defaults of protocol §12: K = 2 s.
pub const KILL_MS: u64 = 2_000;
/// Defaults of protocol §12: ρ = 0.2 %.
pub const CLOCK_PPM: u64 = 2_000;

/// Most arbiters, and most of them lying. More make each start slower and nothing safer.
pub const MEMBERS_MAX: u32 = 99;
/// Longest term: an hour without failover is as good as none.
pub const TERM_MS_MAX: u64 = 3_600_000;

/// Why a trust document is not taken. The one in force stays in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// The signature does not hold.
    #[error(transparent)]
    Signature(#[from] SignedError),
    /// The signer is no operator of the document in force (or of itself, if it is the first).
    #[error("trust version {version} is signed by {key}, which is not an operator's key here")]
    NotOperator {
        /// The refused version.
        version: u64,
        /// Who signed it.
        key: PublicKey,
    },
    /// It is for another cluster.
    #[error("trust is for cluster {theirs}, this is {ours}")]
    OtherCluster {
        /// The cluster of the document in force.
        ours: ClusterId,
        /// The cluster of the refused one.
        theirs: ClusterId,
    },
    /// It is not newer.
    #[error("trust version {theirs} is not newer than version {ours} in force")]
    NotNewer {
        /// The version in force.
        ours: u64,
        /// The refused version.
        theirs: u64,
    },
    /// Its numbers contradict each other.
    #[error("trust makes no sense: {0}")]
    Invalid(String),
    /// Its policy makes no sense.
    #[error("trust makes no sense: {0}")]
    Policy(#[from] InvalidPolicy),
    /// It may not follow the one in force: two quorums could miss each other, or a promise be forgotten.
    #[error(
        "trust version {version} may not follow the one in force: {why}; lawful would be {lawful}"
    )]
    Unlawful {
        /// The refused version.
        version: u64,
        /// What is wrong with it.
        why: String,
        /// What could follow.
        lawful: String,
    },
}

impl Trust {
    /// A cluster in which nobody is anything yet, with the protocol's default times: version 0, which
    /// no host takes. Documents are this with somebody in it.
    #[must_use]
    pub fn of_nobody(cluster: ClusterId) -> Self {
        Self {
            cluster,
            version: 0,
            operators: vec![],
            arbiters: vec![],
            k: 1,
            f: 0,
            witnesses: Witnesses::default(),
            roster: vec![],
            peers: vec![],
            readers: vec![],
            users: vec![],
            term_ms: TERM_MS,
            kill_ms: KILL_MS,
            clock_ppm: CLOCK_PPM,
            quota: BTreeMap::new(),
            policy: Arc::default(),
            retired: vec![],
            fenced: vec![],
            fencing: Fencing::default(),
            upon: None,
            succession: Succession::default(),
        }
    }

    /// T of protocol §2: how long a member keeps a promise, on its own clock, so that it outlives
    /// what the host makes of it: ⌈D·(1+ρ)/(1−ρ)⌉.
    #[must_use]
    pub fn member_term_ms(&self) -> u64 {
        let fast = 1_000_000 + self.clock_ppm;
        let slow = 1_000_000 - self.clock_ppm;
        (self.term_ms * fast).div_ceil(slow)
    }

    /// Checks the numbers against each other (protocol §2).
    pub fn validate(&self) -> Result<(), TrustError> {
        let invalid = |why: String| Err(TrustError::Invalid(why));
        if self.f > MEMBERS_MAX || self.arbiters.len() > MEMBERS_MAX as usize {
            return invalid(format!("more than {MEMBERS_MAX} arbiters or liars"));
        }
        if self.term_ms > TERM_MS_MAX {
            return invalid(format!("term_ms = {} is over {TERM_MS_MAX}", self.term_ms));
        }
        if self.operators.is_empty() {
            return invalid("there is no operator key, so nobody could ever change it".into());
        }
        let mut slots: Vec<u32> = self.arbiters.iter().map(|a| a.slot).collect();
        slots.sort_unstable();
        slots.dedup();
        if slots.len() != self.arbiters.len() {
            return invalid("two arbiters have one slot".into());
        }
        check_quorum("arbiters", self.k, self.arbiters.len(), self.f)
            .map_err(TrustError::Invalid)?;
        self.witnesses.validate(self.f).map_err(TrustError::Invalid)?;
        council::check_apart(self).map_err(TrustError::Invalid)?;
        succession::validate(self).map_err(TrustError::Invalid)?;
        fence::validate(self).map_err(TrustError::Invalid)?;
        fencers::validate(self).map_err(TrustError::Invalid)?;
        named_key::validate::<Reader>(self).map_err(TrustError::Invalid)?;
        named_key::validate::<User>(self).map_err(TrustError::Invalid)?;
        self.policy.validate()?;
        if let Some(key) = self.roster.iter().find(|key| self.retired.contains(key)) {
            return invalid(format!("host {} is on the roster and retired", HostId::of(key)));
        }
        if self.clock_ppm >= 500_000 || self.kill_ms >= self.term_ms {
            return invalid(format!(
                "clock_ppm = {} must be under 500000 and kill_ms = {} under term_ms = {}",
                self.clock_ppm, self.kill_ms, self.term_ms
            ));
        }
        Ok(())
    }

    /// Takes a signed document as successor of the one in force, or says why not. The same version
    /// with the same content again is `Ok(None)`.
    ///
    /// The first document a host sees is believed if it is signed by one of its own operators:
    /// whoever claims a bare host first, owns it. A fencer's is believed for the operator's that it is upon.
    pub fn accept(
        in_force: Option<&Trust>,
        signed: &Signed<Trust>,
    ) -> Result<Option<Trust>, TrustError> {
        let new = Self::authentic(in_force, signed)?;
        match in_force {
            Some(old) if *old == new => Ok(None),
            Some(old) if old.version >= new.version => {
                Err(TrustError::NotNewer { ours: old.version, theirs: new.version })
            }
            Some(old) if old.retired.iter().any(|key| !new.retired.contains(key)) => {
                Err(TrustError::Invalid("it brings back a host that was retired for good".into()))
            }
            Some(old) => {
                fencers::check(old, &new)?;
                fence::check(old, &new)?;
                succession::check(old, &new).map(|()| Some(new))
            }
            None => Ok(Some(new)),
        }
    }

    /// The document, if it is signed by an operator of the one in force (of itself, where there is none), or by a
    /// fencer upon such a one, is of the same cluster and makes sense.
    fn authentic(in_force: Option<&Trust>, signed: &Signed<Trust>) -> Result<Trust, TrustError> {
        let new = signed.open()?;
        let operators = in_force.map_or(&new.operators, |t| &t.operators);
        match (operators.contains(&signed.key()), &new.upon) {
            (true, None) => {}
            (true, Some(_)) => {
                let why = "an operator's document is upon no other: leave `upon` away";
                return Err(TrustError::Invalid(why.into()));
            }
            (false, _) => {
                let key = fencers::open(&new, signed.key())?.key();
                if !operators.contains(&key) {
                    return Err(TrustError::NotOperator { version: new.operators_version(), key });
                }
            }
        }
        new.validate()?;
        match in_force {
            Some(old) if old.cluster != new.cluster => {
                Err(TrustError::OtherCluster { ours: old.cluster.clone(), theirs: new.cluster })
            }
            Some(_) | None => Ok(new),
        }
    }

    /// A document that somebody else obeys, newer or older, for who signs the next. Any one host may lie, so it
    /// has to be signed by an operator who is known; whether it may follow what was missed is seen by whoever obeys it.
    pub fn recognise(known: &Trust, signed: &Signed<Trust>) -> Result<Trust, TrustError> {
        Self::authentic(Some(known), signed)
    }

    /// [`Trust::accept`] for a role that reads the document from the host that it runs on. Where it has missed
    /// one between, the host has not, and the host's choice counts.
    pub fn follow(
        in_force: Option<&Trust>,
        signed: &Signed<Trust>,
    ) -> Result<Option<Trust>, TrustError> {
        let has_missed =
            |old: &Trust, new: &Trust| new.cluster == old.cluster && new.version > old.version + 1;
        match (in_force, signed.open()) {
            (Some(old), Ok(new)) if has_missed(old, &new) => Self::accept(None, signed),
            _ => Self::accept(in_force, signed),
        }
    }

    /// What a key may do here; `None` for a stranger.
    #[must_use]
    pub fn role_of(&self, key: &PublicKey) -> Option<Role> {
        if self.operators.contains(key) {
            return Some(Role::Operator);
        }
        if self.arbiter(key).is_some() {
            return Some(Role::Arbiter);
        }
        if self.witness(key).is_some() {
            return Some(Role::Witness);
        }
        if let Some(peer) = self.peers.iter().find(|p| p.key == *key) {
            return Some(peer.role);
        }
        if self.roster.contains(key) {
            return Some(Role::Host);
        }
        if self.user(key).is_some() {
            return Some(Role::User);
        }
        self.readers.iter().find(|reader| reader.key == *key).map(Reader::role)
    }

    /// Whether whoever proved this key has the right; the refusal says who they are taken for.
    pub fn permit(&self, key: Option<&PublicKey>, right: Right) -> Result<(), Refusal> {
        let role = key.and_then(|key| self.role_of(key));
        if role.is_some_and(|role| role.may(right)) {
            return Ok(());
        }
        let who = match (key, role) {
            (_, Some(role)) => format!("a {role}"),
            (Some(key), None) => {
                format!("key {key}, which cluster {} does not know,", self.cluster)
            }
            (None, None) => "a caller without a key".to_owned(),
        };
        let what = match right {
            Right::Scrape => "read metrics here",
            Right::Read => "read here",
            Right::Run => "run, stop or move jobs",
            Right::Govern => "change trust or services",
        };
        Err(Refusal::Forbidden { who, what: what.to_owned() })
    }

    /// The key of a host on the roster.
    #[must_use]
    pub fn host_key(&self, host: &HostId) -> Option<PublicKey> {
        self.roster.iter().copied().find(|key| HostId::of(key) == *host)
    }

    /// The roster by host id. An id is a hash of its key: whoever looks more than one host up does
    /// that once, not for each host of each look.
    #[must_use]
    pub fn roster_by_host(&self) -> BTreeMap<HostId, PublicKey> {
        self.roster.iter().map(|key| (HostId::of(key), *key)).collect()
    }

    /// The hosts that never come back.
    #[must_use]
    pub fn retired_hosts(&self) -> BTreeSet<HostId> {
        self.retired.iter().map(HostId::of).collect()
    }

    /// What something of this size asks of its tenant's quota: VMs, too, where there is a limit of them.
    #[must_use]
    pub fn asks(&self, tenant: &TenantId, size: Amounts) -> Amounts {
        let limit = self.quota.get(tenant).copied().unwrap_or(Amounts::UNLIMITED);
        size.told_by(limit)
    }

    /// The arbiter that signs with this key, or that is to be one.
    #[must_use]
    pub fn arbiter(&self, key: &PublicKey) -> Option<&Slot> {
        let next = self.succession.next.iter().flat_map(|next| &next.arbiters);
        self.arbiters.iter().chain(next).find(|a| a.key == *key)
    }
}

fn is_no_policy(policy: &Arc<Policy>) -> bool {
    policy.is_empty()
}

/// Whether any two sets of k of n members meet in an honest one (protocol §2).
/// How many of `n` have to say yes, of whom as many as `f` may lie: any two such sets have more than `f` in common.
#[must_use]
pub fn quorum(n: u32, f: u32) -> u32 {
    n.saturating_add(f) / 2 + 1
}

fn check_quorum(who: &str, k: u32, n: usize, f: u32) -> Result<(), String> {
    let n = u32::try_from(n).unwrap_or(u32::MAX);
    let least = quorum(n, f);
    if k < least || k > n {
        return Err(format!(
            "k = {k} of n = {n} {who} with f = {f} liars: k must be from {least} to {n}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signed::SecretKey;

    fn key(n: u8) -> SecretKey {
        SecretKey::from_seed([n; 32])
    }

    fn trust(version: u64) -> Trust {
        Trust {
            version,
            operators: vec![key(1).public()],
            arbiters: vec![Slot { slot: 0, key: key(2).public(), url: String::new() }],
            roster: vec![key(3).public()],
            ..Trust::of_nobody(ClusterId::new("c1").unwrap())
        }
    }

    #[test]
    fn the_members_term_outlives_the_hosts_by_the_clock_margin() {
        assert_eq!(trust(1).member_term_ms(), 9_037);
    }

    #[test]
    fn only_an_operator_of_the_document_in_force_can_replace_it() {
        let first = Trust::accept(None, &Signed::seal(&trust(1), &key(1))).unwrap().unwrap();
        let mut usurped = trust(2);
        usurped.operators = vec![key(9).public()];
        let by_usurper = Signed::seal(&usurped, &key(9));
        assert!(matches!(
            Trust::accept(Some(&first), &by_usurper),
            Err(TrustError::NotOperator { version: 2, .. })
        ));
        let by_operator = Signed::seal(&trust(2), &key(1));
        assert_eq!(Trust::accept(Some(&first), &by_operator), Ok(Some(trust(2))));
        let again = Signed::seal(&trust(1), &key(1));
        assert_eq!(Trust::accept(Some(&first), &again), Ok(None));
        assert_eq!(
            Trust::accept(Some(&trust(2)), &again),
            Err(TrustError::NotNewer { ours: 2, theirs: 1 })
        );
    }

    #[test]
    fn what_others_obey_is_believed_only_of_an_operator_who_is_known() {
        let known = trust(3);
        let seen = |new: &Trust, signer: u8| {
            Trust::recognise(&known, &Signed::seal(new, &key(signer))).ok()
        };
        let others = Trust {
            arbiters: vec![Slot { slot: 7, key: key(8).public(), url: String::new() }],
            ..trust(9)
        };
        assert_eq!(seen(&others, 1), Some(others.clone()), "a change was missed");
        assert_eq!(seen(&trust(2), 1), Some(trust(2)));
        let mut usurped = trust(9);
        usurped.operators.push(key(9).public());
        assert_eq!(seen(&usurped, 9), None, "it names us and itself");
        let foreign = Trust { cluster: ClusterId::new("c2").unwrap(), ..trust(9) };
        assert_eq!(seen(&foreign, 1), None);
    }

    #[test]
    fn that_a_host_was_off_is_said_once_from_now_on_and_stays_said() {
        let off = |since: u64| Fence {
            host: key(3).public(),
            since,
            by: key(1).public(),
            by_fencer: false,
            at_ms: 0,
            reason: "its power supply burnt".into(),
        };
        let fenced =
            |version: u64, since: u64| Trust { fenced: vec![off(since)], ..trust(version) };
        let follows = |old: &Trust, new: &Trust| {
            Trust::accept(Some(old), &Signed::seal(new, &key(1))).is_ok_and(|new| new.is_some())
        };
        assert!(follows(&trust(1), &fenced(2, 2)));
        assert!(follows(&trust(1), &fenced(3, 2)), "a version was missed");
        assert!(!follows(&trust(2), &fenced(3, 2)), "version 2 was lived through without it");
        assert!(follows(&fenced(2, 2), &fenced(3, 2)), "the host may be back");
        assert!(follows(&fenced(2, 2), &fenced(3, 3)), "it is off again");
        assert!(!follows(&fenced(2, 2), &trust(3)), "taken back");
        assert!(!follows(&fenced(3, 3), &fenced(4, 2)), "made earlier");
        assert!(fenced(2, 3).validate().is_err(), "off in the future");
        let mut twice = fenced(2, 2);
        twice.fenced.push(off(1));
        assert!(twice.validate().is_err());
        let mut gone = trust(3);
        gone.retired = std::mem::take(&mut gone.roster);
        assert!(follows(&fenced(2, 2), &gone), "retired for good");
        let is_over = |obeyed| fenced(3, 2).is_over(&key(3).public(), obeyed);
        assert!(is_over(None) && is_over(Some(1)) && !is_over(Some(2)));
    }

    #[test]
    fn who_is_retired_never_comes_back() {
        let mut without = trust(2);
        without.retired = std::mem::take(&mut without.roster);
        assert_eq!(without.validate(), Ok(()));
        let sealed = |trust: &Trust| Signed::seal(trust, &key(1));
        assert!(Trust::accept(Some(&trust(1)), &sealed(&without)).unwrap().is_some());
        let mut again = trust(3);
        let refused = |new: &Trust| Trust::accept(Some(&without), &sealed(new)).is_err();
        assert!(refused(&again), "its retirement is forgotten");
        again.retired = without.retired.clone();
        assert!(refused(&again), "it is on the roster as well");
        again.roster.clear();
        assert!(!refused(&again));
    }

    #[test]
    fn a_policy_is_checked_with_its_document_and_written_only_where_there_is_one() {
        let with = |policy: Policy| Trust { policy: Arc::new(policy), ..trust(2) };
        let of_default = |vcpus| {
            let vm_max = Some(VmMax { vcpus: Some(vcpus), ..VmMax::default() });
            let default = Some(TenantPolicy { vm_max, ..TenantPolicy::default() });
            with(Policy { default, ..Policy::default() })
        };
        let accept = |new: &Trust| Trust::accept(Some(&trust(1)), &Signed::seal(new, &key(1)));
        assert_eq!(accept(&of_default(4)), Ok(Some(of_default(4))), "as it was signed");
        let wrong = InvalidPolicy::OfDefault(Fault::Vcpus(0));
        assert_eq!(accept(&of_default(0)), Err(TrustError::Policy(wrong)));
        let text = serde_json::to_string(&with(Policy::default())).unwrap();
        assert!(!text.contains("policy"), "{text}");
    }

    #[test]
    fn strangers_may_nothing_and_members_only_what_their_role_needs() {
        let trust = trust(1);
        let may = |n: u8, right| trust.permit(Some(&key(n).public()), right).is_ok();
        assert!(may(1, Right::Govern) && may(3, Right::Read));
        assert!(!may(3, Right::Run) && !may(77, Right::Read));
        assert!(trust.permit(None, Right::Read).is_err());
    }

    #[test]
    fn numbers_that_would_overflow_are_refused() {
        let refused = |change: fn(&mut Trust)| {
            let mut document = trust(1);
            change(&mut document);
            matches!(document.validate(), Err(TrustError::Invalid(_)))
        };
        assert!(refused(|t| t.f = u32::MAX));
        assert!(refused(|t| t.term_ms = u64::MAX));
        assert!(refused(|t| t.clock_ppm = u64::MAX));
    }

    #[test]
    fn a_quorum_that_two_could_have_at_once_is_refused() {
        let mut three = trust(1);
        for slot in 1..3 {
            let key = key(10 + u8::try_from(slot).unwrap()).public();
            three.arbiters.push(Slot { slot, key, url: String::new() });
        }
        assert!(matches!(three.validate(), Err(TrustError::Invalid(_))), "k = 1 of 3");
        three.k = 2;
        assert_eq!(three.validate(), Ok(()));
    }
}
