//! Whether an offer is granted: rules R1, R2, R5 and R6, the tenant's hours and its rate.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::amounts::Amounts;
use protocol::api::StartsRoom;
use protocol::budget::Delegated;
use protocol::id::{HostId, JobId, OfferId};
use protocol::resources::Resources;
use protocol::signed::{Digest, PublicKey, Signed};
use protocol::ticket::{Action, Denial, DenialReason, Grant, HoldAt, Offer};
use protocol::trust::Trust;
use protocol::vm::OnLoss;

use super::room::Room;
use super::{Core, Effect, Times, Verdict};
use crate::books::{ENTRIES_PER_HOST_MAX, Entry, share};

impl Core {
    pub(super) fn answer(
        &mut self,
        now: Times,
        offer: &Signed<Offer>,
        wish: Option<Amounts>,
        out: &mut Vec<Effect>,
    ) -> Verdict {
        let (slot, trust) = match self.member() {
            Ok((slot, trust)) => (slot, Arc::clone(trust)),
            Err(why) => return Verdict::NotMember(why),
        };
        let digest = offer.digest();
        let is_witness = self.is_witness();
        let judged =
            check_policy(offer, &trust, &self.roster, out).and_then(|offer| match is_witness {
                true => self.judge_as_witness(now.now_ms, &offer, out),
                false => self.judge(now, (slot, &trust), digest, offer, wish, out),
            });
        match judged {
            Ok(debit) => Verdict::Grant(Grant { slot, offer: digest, debit }),
            Err(why) => Verdict::Denial(Denial { slot, offer: digest, why }),
        }
    }

    /// R1, R2, R5, the tenant's hours, R6 and its rate in this order; books the promise when all of them agree. Who asks again gets the
    /// same answer, or asks for more to be booked: what was signed once is never booked with less.
    fn judge(
        &mut self,
        now: Times,
        (slot, trust): (u32, &Trust),
        digest: Digest,
        offer: Offer,
        wish: Option<Amounts>,
        out: &mut Vec<Effect>,
    ) -> Result<Amounts, DenialReason> {
        let now_ms = now.now_ms;
        let silent_for = match offer.on_loss {
            OnLoss::Keep => self.silent_for(now_ms),
            OnLoss::Stop => self.lease_silent_for(now_ms),
        };
        if let Some(for_ms) = silent_for {
            return Err(DenialReason::Silent { for_ms });
        }
        if !self.missing.is_empty() {
            let count = u32::try_from(self.missing.len()).unwrap_or(u32::MAX);
            out.extend(self.missing.iter().cloned().map(|host| Effect::ReadHost { host }));
            return Err(DenialReason::Rebuilding { missing: count });
        }
        let takes = offer.takes();
        let planned = || offer.plan.get(&slot).copied().unwrap_or(offer.resources).into();
        let wish = wish.unwrap_or_else(planned);
        if !wish.fits_in(takes.told_by(wish)) {
            return policy(format!(
                "{wish} are to be booked at slot {slot}, more than the job's {takes}"
            ));
        }
        let known = self.check_identity(digest, &offer)?;
        if let Err(ended) = self.check_not_ended(&offer) {
            // Who is in the way is worth more than that it took too long.
            self.check_exclusive(now_ms, &offer, out)?;
            return Err(ended);
        }
        let booked = known.map_or(Amounts::ZERO, |entry| entry.debit);
        let is_hold = known.is_some_and(|entry| entry.is_hold);
        if known.is_some_and(|entry| entry.signed.is_some())
            && (is_hold || wish.min(takes).fits_in(booked))
        {
            return Ok(booked);
        }
        self.check_exclusive(now_ms, &offer, out)?;
        self.check_hours(now.wall_ms, trust, &offer, out)?;
        let debit = wish.max(booked);
        self.check_quota((slot, trust), &offer, debit, out)?;
        if is_start(&offer) && takes_a_start(debit) {
            self.check_rate(now_ms, (slot, trust), &offer, out)?;
            self.rates.count(now_ms, trust, &offer.tenant, (&offer.host, offer.id));
        }
        if offer.on_loss == OnLoss::Stop {
            let at = HoldAt { host: offer.host.clone(), hold: offer.id };
            let from = source_of(&offer).map(|(source, _)| source);
            self.leases.promise(now_ms, self.term_ms, &offer.job, &at, from);
        }
        let delegated = offer.delegated();
        let Offer { host, id, job, tenant, on_loss, .. } = offer;
        let signed = Some(digest);
        self.books.enter(Entry {
            host,
            id,
            job,
            tenant,
            debit,
            takes,
            signed,
            is_hold,
            on_loss,
            delegated,
            told: None,
        });
        Ok(debit)
    }

    /// R1 and R5 for what may be lost, as far as leases go. Who asks again has it promised again, which
    /// makes no promise shorter; and what its host has struck off is over here as well.
    fn judge_as_witness(
        &mut self,
        now_ms: u64,
        offer: &Offer,
        out: &mut Vec<Effect>,
    ) -> Result<Amounts, DenialReason> {
        if offer.on_loss == OnLoss::Keep {
            return policy(format!(
                "job {} is kept when its host is lost: arbiters alone grant it, and this is a witness",
                offer.job
            ));
        }
        if let Some(for_ms) = self.lease_silent_for(now_ms) {
            return Err(DenialReason::Silent { for_ms });
        }
        let source = source_of(offer).map(|(source, _)| source);
        if source == Some(&offer.host) {
            return policy(format!(
                "host {} cannot migrate job {} to itself",
                offer.host, offer.job
            ));
        }
        self.check_lease(now_ms, offer, source, out)?;
        self.check_not_ended(offer)?;
        let at = HoldAt { host: offer.host.clone(), hold: offer.id };
        self.leases.promise(now_ms, self.term_ms, &offer.job, &at, source);
        Ok(Resources::ZERO.into())
    }

    /// One id is one offer.
    fn check_identity(
        &self,
        digest: Digest,
        offer: &Offer,
    ) -> Result<Option<&Entry>, DenialReason> {
        let known = self.books.of_offer(&offer.host, offer.id);
        let is_other = |entry: &&Entry| {
            entry.job != offer.job || entry.signed.is_some_and(|signed| signed != digest)
        };
        if let Some(entry) = known.filter(is_other) {
            return policy(format!(
                "host {} has used offer id {} for job {} already; it must never repeat an id",
                offer.host, offer.id, entry.job
            ));
        }
        if known.is_none() && self.books.count_of(&offer.host) >= ENTRIES_PER_HOST_MAX {
            return policy(format!(
                "host {} has {ENTRIES_PER_HOST_MAX} entries in the books; void or redeem offers first",
                offer.host
            ));
        }
        Ok(known)
    }

    /// An offer that its host has struck off is over (R3, R13). A late duplicate of it must not enter the books again:
    /// if the host died now, nobody could ever release it.
    fn check_not_ended(&self, offer: &Offer) -> Result<(), DenialReason> {
        let said = self.said.get(&offer.host);
        if said.is_some_and(|s| offer.id <= s.watermark && !s.listed.contains(&offer.id)) {
            return Err(DenialReason::OfferEnded { host: offer.host.clone(), id: offer.id });
        }
        Ok(())
    }

    /// R5. For a `keep` job nobody else may have an entry of the job, whatever its age (R7); for a
    /// `stop` job nobody else a live lease, nor an entry from when it was to be kept. A migration is from
    /// the one who has it.
    fn check_exclusive(
        &self,
        now_ms: u64,
        offer: &Offer,
        out: &mut Vec<Effect>,
    ) -> Result<(), DenialReason> {
        let from = source_of(offer);
        let lapses = |entry: &Entry| offer.on_loss == OnLoss::Stop && entry.on_loss == OnLoss::Stop;
        let is_in_the_way = |entry: &&Entry| {
            entry.host != offer.host
                && from.is_none_or(|(source, _)| entry.host != *source)
                && !lapses(entry)
        };
        if let Some(entry) = self.books.of_job(&offer.job).find(is_in_the_way) {
            out.push(Effect::ReadHost { host: entry.host.clone() });
            let (host, id) = (entry.host.clone(), entry.id);
            return Err(DenialReason::Promised { host, id, for_ms: None });
        }
        self.check_names(offer, out)?;
        if let Action::FailOver { from, hold } = &offer.action {
            let is_kept = offer.on_loss == OnLoss::Keep;
            if is_kept && !self.is_fenced(from) {
                return policy(format!(
                    "job {} is kept when its host is lost: only the word that the host is off \
                     starts it elsewhere, such as `ostler fence`",
                    offer.job
                ));
            }
            let lost = HoldAt { host: from.clone(), hold: *hold };
            self.leases.check_last(&offer.job, &lost)?;
        }
        if offer.on_loss == OnLoss::Stop {
            self.check_lease(now_ms, offer, from.map(|(source, _)| source), out)?;
        }
        let Some((source, hold)) = from else { return Ok(()) };
        if *source == offer.host {
            return policy(format!("host {source} cannot migrate job {} to itself", offer.job));
        }
        let is_source = |entry: &Entry| entry.host == *source && entry.id == hold;
        // What runs by a budget is held as that.
        let mut owners = self.books.owners_of(&offer.job).into_iter();
        if !self.books.of_job(&offer.job).any(is_source) && !owners.any(is_source) {
            out.push(Effect::ReadHost { host: source.clone() });
            return policy(format!(
                "host {source} does not hold job {} as {hold}; look at the job again and ask for a new offer",
                offer.job
            ));
        }
        Ok(())
    }

    /// R5 for names: what a host starts by a budget it starts without asking, so nobody else may have a name that
    /// the budget owns. A budget is not granted while somebody else has one, and nobody else is granted one while
    /// the budget may be used, but who takes over from its host. Names that are away are nobody's: the host never
    /// starts them by it again. What a host has already may have another size there.
    ///
    /// On the budget's own host its names are for VMs of the budget's tenant that are kept: of one that may be lost
    /// nobody could say, while that host is away, that it may run elsewhere.
    fn check_names(&self, offer: &Offer, out: &mut Vec<Effect>) -> Result<(), DenialReason> {
        self.check_name_here(offer)?;
        let source = source_of(offer).map(|(source, _)| source);
        let is_away = |budget: Option<&Delegated>, job: &JobId| {
            budget.is_some_and(|budget| budget.away.contains(job))
        };
        let owners = self.books.owners_of(&offer.job).into_iter();
        let mut owners = owners.filter(|entry| {
            let is_others = entry.host != offer.host && Some(&entry.host) != source;
            is_others && !is_away(entry.delegated.as_ref(), &offer.job)
        });
        let offered = offer.delegated();
        let mut owned = self
            .books
            .owned_by(&offer.job)
            .filter(|entry| entry.host != offer.host && !is_away(offered.as_ref(), &entry.job));
        let taken = match offer.action {
            Action::Resize => None,
            Action::Delegate { .. } => owners.next().or_else(|| owned.next()),
            Action::Start | Action::FailOver { .. } | Action::MigrateIn { .. } => owners.next(),
        };
        let Some(Entry { host, id, .. }) = taken else { return Ok(()) };
        out.push(Effect::ReadHost { host: host.clone() });
        Err(DenialReason::Promised { host: host.clone(), id: *id, for_ms: None })
    }

    fn check_name_here(&self, offer: &Offer) -> Result<(), DenialReason> {
        let comes = match offer.action {
            Action::Start | Action::FailOver { .. } | Action::MigrateIn { .. } => true,
            Action::Resize | Action::Delegate { .. } => false,
        };
        let owners = self.books.owners_of(&offer.job).into_iter();
        let Some(owner) = owners.into_iter().find(|owner| owner.host == offer.host) else {
            return Ok(());
        };
        let (job, budget) = (&offer.job, &owner.job);
        if comes && owner.tenant != offer.tenant {
            let (tenant, asked) = (&owner.tenant, &offer.tenant);
            return policy(format!(
                "the name {job} is budget {budget}'s, which is tenant {tenant}'s: a VM of tenant {asked} takes another"
            ));
        }
        if comes && offer.on_loss == OnLoss::Stop {
            return policy(format!(
                "the name {job} is budget {budget}'s: a VM that is stopped when its host is lost takes another, or \
                 nobody could start it elsewhere then"
            ));
        }
        Ok(())
    }

    /// R5 for leases: nobody else may run it, but whom it comes from.
    fn check_lease(
        &self,
        now_ms: u64,
        offer: &Offer,
        source: Option<&HostId>,
        out: &mut Vec<Effect>,
    ) -> Result<(), DenialReason> {
        let taken = self.leases.check_take(now_ms, &offer.job, &offer.host, source);
        if let Err(DenialReason::Promised { host, .. }) = &taken {
            out.push(Effect::ReadHost { host: host.clone() });
        }
        taken
    }

    /// Whether it was ever said of the host that it was off.
    fn is_fenced(&self, host: &HostId) -> bool {
        let key = self.roster.get(host);
        let trust = self.trust.as_ref();
        key.zip(trust).is_some_and(|(key, trust)| trust.fence_of(key).is_some())
    }

    /// R6, twice. What is booked here must stay within this arbiter's part of the quota: that makes it
    /// exact. And the whole size within the whole quota, as far as is known here: that keeps to a quota
    /// that was made smaller than what was booked under the old one.
    ///
    /// Entries learnt from statements count as used; the check applies only to what is signed. What
    /// takes no more than what hosts have of the job adds nothing, and is never refused: a job may
    /// move, fail over and have its debits spread anew whatever the quota. But a promise that was not redeemed
    /// may be over, and so is what a host has had that offers a start: their room may be another's by now.
    fn check_quota(
        &self,
        (slot, trust): (u32, &Trust),
        offer: &Offer,
        debit: Amounts,
        out: &mut Vec<Effect>,
    ) -> Result<(), DenialReason> {
        let Some(quota) = trust.quota.get(&offer.tenant) else { return Ok(()) };
        let tenant = &offer.tenant;
        let (job, own) = (&offer.job, (&offer.host, offer.id));
        let is_past = |entry: &Entry| {
            (&entry.host, entry.id) == own || is_start(offer) && entry.host == offer.host
        };
        let had = self.books.held(tenant, job, is_past);
        let others = self.books.of_others(tenant, job);
        let room = Room { had, others, part: share(*quota, trust, slot), quota: *quota };
        let takes = offer.takes();
        if room.has_for(debit.min(takes), takes) {
            return Ok(());
        }
        let hosts = self.books.hosts_of_tenant(tenant);
        out.extend(hosts.into_iter().map(|host| Effect::ReadHost { host }));
        let (left, at_most) = (room.left(), room.at_most());
        Err(DenialReason::Quota {
            tenant: tenant.clone(),
            limit: *quota,
            used: self.books.promised(tenant).told_by(*quota),
            asked: takes.told_by(*quota),
            at_most: Some(Box::new(at_most)),
            left: Some(Box::new(left)),
        })
    }

    /// Whether it is a time to start or enlarge the tenant's VMs. A job that its host has had enlarged by others, or
    /// by nobody that is known here, is read before it is told that it grows.
    fn check_hours(
        &self,
        wall_ms: u64,
        trust: &Trust,
        offer: &Offer,
        out: &mut Vec<Effect>,
    ) -> Result<(), DenialReason> {
        let Some(closed) = trust.policy.closed(&offer.tenant, wall_ms) else { return Ok(()) };
        if !is_start(offer) {
            if !self.grows(offer) {
                return Ok(());
            }
            out.push(Effect::ReadHost { host: offer.host.clone() });
        }
        let (tenant, is_default) = (offer.tenant.clone(), trust.policy.is_default(&offer.tenant));
        Err(DenialReason::Window { tenant, is_default, closed: Box::new(closed) })
    }

    /// Whether the job is to have more than it has where it is, or where it moves from.
    fn grows(&self, offer: &Offer) -> bool {
        match &offer.action {
            Action::Resize | Action::MigrateIn { .. } => {
                let own = Some((&offer.host, offer.id));
                let had = self.books.had(&offer.tenant, &offer.job, own).takes;
                // What runs by a budget has no entry, and is no larger than that; how large it grows within
                // it nobody is asked.
                let at = source_of(offer).map_or(&offer.host, |(source, _)| source);
                let owners = self.books.owners_of(&offer.job).into_iter();
                let owner = owners.into_iter().find(|owner| owner.host == *at);
                let had = owner.map_or(had, |owner| had.max(owner.takes));
                !Amounts::of_vm(offer.resources).fits_in(had)
            }
            Action::Start | Action::FailOver { .. } | Action::Delegate { .. } => false,
        }
    }

    /// Whether one more start is left of this arbiter's part of the tenant's rate. Hosts that may have news of
    /// offers that ended unused are read: such a start is given back.
    fn check_rate(
        &self,
        now_ms: u64,
        at: (u32, &Trust),
        offer: &Offer,
        out: &mut Vec<Effect>,
    ) -> Result<(), DenialReason> {
        if self.rates.counts(&offer.host, offer.id) {
            return Ok(());
        }
        let Some(room) = self.rates.left(now_ms, at, &offer.tenant, |_, _| false) else {
            return Ok(());
        };
        if room.left() > 0 {
            return Ok(());
        }
        let hosts = self.rates.hosts_of(&offer.tenant);
        out.extend(hosts.into_iter().map(|host| Effect::ReadHost { host }));
        let (tenant, is_default) = (offer.tenant.clone(), at.1.policy.is_default(&offer.tenant));
        let StartsRoom { limit, part, used, for_ms } = room;
        Err(DenialReason::Rate { tenant, is_default, limit, part, used, for_ms })
    }
}

/// Whether it starts a VM that was not there. What is to go on in place of a hold that was lost was.
fn is_start(offer: &Offer) -> bool {
    match &offer.action {
        Action::Start => true,
        Action::FailOver { .. }
        | Action::MigrateIn { .. }
        | Action::Resize
        | Action::Delegate { .. } => false,
    }
}

/// Whether a grant with this debit is one of the k that book the VM. One that says nothing of VMs books it.
fn takes_a_start(debit: Amounts) -> bool {
    debit.vms > 0
}

/// The host and hold that a migration is from.
fn source_of(offer: &Offer) -> Option<(&HostId, OfferId)> {
    match &offer.action {
        Action::Start | Action::FailOver { .. } | Action::Resize | Action::Delegate { .. } => None,
        Action::MigrateIn { from, hold } => Some((from, *hold)),
    }
}

/// Whether the offer is a host's of this cluster and makes sense, apart from any books.
fn check_policy(
    signed: &Signed<Offer>,
    trust: &Trust,
    roster: &BTreeMap<HostId, PublicKey>,
    out: &mut Vec<Effect>,
) -> Result<Offer, DenialReason> {
    let offer = match signed.open() {
        Ok(offer) => offer,
        Err(why) => return policy(why.to_string()),
    };
    if offer.trust_version != trust.version {
        if offer.trust_version > trust.version {
            out.push(Effect::ReadTrust);
        }
        let (offered, here) = (offer.trust_version, trust.version);
        return Err(DenialReason::OtherTrust { offered, here });
    }
    match roster.get(&offer.host) {
        Some(key) if *key == signed.key() => {}
        Some(_) => {
            return policy(format!(
                "offer of host {} is signed by another key, {}",
                offer.host,
                signed.key()
            ));
        }
        None => {
            return policy(format!(
                "host {} is not on the roster of trust version {}",
                offer.host, trust.version
            ));
        }
    }
    if let Some((slot, debit)) = offer.plan.iter().find(|(_, d)| !d.fits_in(offer.resources)) {
        return policy(format!(
            "offer plans to book {debit} at slot {slot}, more than the job's {}",
            offer.resources
        ));
    }
    Ok(offer)
}

fn policy<T>(message: String) -> Result<T, DenialReason> {
    Err(DenialReason::Policy { message })
}
