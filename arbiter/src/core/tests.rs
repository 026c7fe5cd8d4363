//! Scripts for each rule, and a small cluster in which anything may happen in any order.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use protocol::amounts::{Amounts, VMS_ANY};
use protocol::id::{ClusterId, Epoch, JobId, Revision, TenantId};
use protocol::resources::Resources;
use protocol::signed::SecretKey;
use protocol::ticket::{Action, DenialReason, HoldAt};
use protocol::trust::{KILL_MS, Slot, TERM_MS};
use protocol::vm::OnLoss;

use super::*;
use crate::books::share;
use crate::statement::{Debits, HoldItem};

mod budgets;
mod fence;
mod hours;
mod members;
mod rates;
mod stop;
mod witness;

const HOST: u8 = 100;
const ARBITER: u8 = 10;
const T: u64 = 9_037;

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed([n; 32])
}

fn host(n: u8) -> HostId {
    HostId::of(&key(HOST + n).public())
}

fn trust(n: u8, k: u32, hosts: u8) -> Trust {
    let slot =
        |i: u8| Slot { slot: u32::from(i), key: key(ARBITER + i).public(), url: String::new() };
    Trust {
        version: 1,
        operators: vec![key(1).public()],
        arbiters: (0..n).map(slot).collect(),
        k,
        roster: (0..hosts).map(|n| key(HOST + n).public()).collect(),
        ..Trust::of_nobody(ClusterId::new("c1").unwrap())
    }
}

fn with_quota(trust: Trust, vcpus: u32) -> Trust {
    with_limit(trust, Amounts { vcpus, ..Amounts::UNLIMITED })
}

fn with_limit(mut trust: Trust, quota: Amounts) -> Trust {
    trust.quota.insert(TenantId::default_tenant(), quota);
    trust
}

fn vcpus(vcpus: u32) -> Resources {
    Resources { vcpus, ..Resources::ZERO }
}

fn id(epoch: u64, num: u64) -> OfferId {
    OfferId { epoch: Epoch(epoch), num }
}

fn offer(n: u8, num: u64, job: &str, size: u32) -> Offer {
    Offer {
        host: host(n),
        id: id(1, num),
        job: JobId::new(job).unwrap(),
        revision: Revision(1),
        spec: Digest::of(b"spec"),
        action: Action::Start,
        resources: vcpus(size),
        tenant: TenantId::default_tenant(),
        plan: BTreeMap::new(),
        on_loss: OnLoss::Keep,
        trust_version: 1,
        agreed: None,
    }
}

fn migrate_in(n: u8, num: u64, job: &str, from: u8, hold: OfferId) -> Offer {
    Offer { action: Action::MigrateIn { from: host(from), hold }, ..offer(n, num, job, 1) }
}

fn resize(n: u8, num: u64, job: &str, size: u32) -> Offer {
    Offer { action: Action::Resize, ..offer(n, num, job, size) }
}

fn hold(num: u64, job: &str, size: u32) -> HoldItem {
    HoldItem {
        id: id(1, num),
        job: JobId::new(job).unwrap(),
        resources: vcpus(size),
        tenant: TenantId::default_tenant(),
        debits: Debits::Untold,
        on_loss: OnLoss::Keep,
        delegated: None,
    }
}

fn statement(watermark: u64, holds: Vec<HoldItem>, open: &[u64]) -> Statement {
    let offers = open.iter().map(|num| id(1, *num)).collect();
    let obeyed = Some(u64::MAX);
    Statement { watermark: id(1, watermark), holds, offers, obeyed, ..Statement::default() }
}

/// An arbiter with a script's shortcuts. Slot 0, a fresh key unless said otherwise.
struct Arbiter {
    core: Core,
    wall_ms: u64,
}

impl Arbiter {
    fn of(core: Core) -> Self {
        Self { core, wall_ms: 0 }
    }

    fn fresh(trust: Trust) -> Self {
        Self::started(trust, 0, false)
    }

    fn started(trust: Trust, now_ms: u64, may_have_promised: bool) -> Self {
        let mut arbiter = Self::of(Core::new(key(ARBITER).public(), now_ms, may_have_promised));
        arbiter.tell(now_ms, Input::Trust(Arc::new(trust)));
        arbiter
    }

    /// One that has read each roster host, all of them empty.
    fn ready(trust: Trust) -> Self {
        let hosts = u8::try_from(trust.roster.len()).unwrap();
        let mut arbiter = Self::fresh(trust);
        for n in 0..hosts {
            arbiter.hears(0, n, statement(0, vec![], &[]));
        }
        let waits = arbiter.core.waiting_for(0).into_iter();
        // Whoever joins later keeps its silence, and books all the same.
        let waits: Vec<_> = waits.filter(|w| !matches!(w, Waiting::Silence { .. })).collect();
        assert_eq!(waits, []);
        arbiter
    }

    fn tell(&mut self, now_ms: u64, input: Input) -> Vec<Effect> {
        let mut out = vec![];
        self.core.handle(now_ms, input, &mut out);
        out
    }

    fn hears(&mut self, asked_ms: u64, n: u8, statement: Statement) {
        self.tell(asked_ms, Input::Statement { host: host(n), asked_ms, statement });
    }

    fn ask_signed(&mut self, now_ms: u64, offer: Signed<Offer>) -> (Verdict, Vec<Effect>) {
        self.ask_for(now_ms, offer, None)
    }

    fn ask_for(
        &mut self,
        now_ms: u64,
        offer: Signed<Offer>,
        wish: Option<Amounts>,
    ) -> (Verdict, Vec<Effect>) {
        let mut out =
            self.tell(now_ms, Input::Ask { request: 7, wall_ms: self.wall_ms, offer, wish });
        let answer = out.pop();
        let Some(Effect::Answer { request: 7, verdict }) = answer else {
            panic!("the last effect is {answer:?}, not the answer");
        };
        (verdict, out)
    }

    /// Asks for so many CPUs to be booked.
    fn wish(&mut self, now_ms: u64, offer: &Offer, wish: u32) -> Result<Resources, DenialReason> {
        let n = (0..9).find(|n| host(*n) == offer.host).expect("a host of the script");
        let signed = Signed::seal(offer, &key(HOST + n));
        match self.ask_for(now_ms, signed, Some(vcpus(wish).into())).0 {
            Verdict::Grant(grant) => Ok(grant.debit.resources()),
            Verdict::Denial(denial) => Err(denial.why),
            Verdict::NotMember(why) => panic!("{why}"),
        }
    }

    fn ask(&mut self, now_ms: u64, offer: &Offer) -> Result<Resources, DenialReason> {
        let key = (0..4).map(|n| key(HOST + n)).find(|k| HostId::of(&k.public()) == offer.host);
        let signed = Signed::seal(offer, &key.expect("one of the first hosts"));
        match self.ask_signed(now_ms, signed).0 {
            Verdict::Grant(grant) => Ok(grant.debit.resources()),
            Verdict::Denial(denial) => Err(denial.why),
            Verdict::NotMember(why) => panic!("{why}"),
        }
    }
}

fn promised(n: u8, num: u64) -> Result<Resources, DenialReason> {
    Err(DenialReason::Promised { host: host(n), id: id(1, num), for_ms: None })
}

fn has_ended(answer: &Result<Resources, DenialReason>) -> bool {
    matches!(answer, Err(DenialReason::OfferEnded { .. }))
}

fn is_policy(answer: &Result<Resources, DenialReason>) -> bool {
    matches!(answer, Err(DenialReason::Policy { .. }))
}

#[test]
fn r1_a_restarted_arbiter_is_silent_for_one_term_and_says_for_how_long() {
    let mut arbiter = Arbiter::started(trust(1, 1, 1), 1_000, true);
    arbiter.hears(1_000, 0, statement(0, vec![], &[]));
    let ask = offer(0, 1, "web", 1);
    assert_eq!(arbiter.ask(1_000, &ask), Err(DenialReason::Silent { for_ms: T }));
    assert_eq!(arbiter.ask(1_000 + T - 1, &ask), Err(DenialReason::Silent { for_ms: 1 }));
    assert_eq!(arbiter.ask(1_000 + T, &ask), Ok(vcpus(1)));
}

#[test]
fn r1_a_fresh_key_has_promised_nothing_and_need_not_be_silent() {
    let mut arbiter = Arbiter::ready(trust(1, 1, 1));
    assert_eq!(arbiter.ask(0, &offer(0, 1, "web", 1)), Ok(vcpus(1)));
}

#[test]
fn r1_a_shorter_term_does_not_cut_the_silence_short() {
    let mut arbiter = Arbiter::started(trust(1, 1, 0), 0, true);
    let shorter = Trust { version: 2, term_ms: 3_000, ..trust(1, 1, 0) };
    arbiter.tell(10, Input::Trust(Arc::new(shorter)));
    assert_eq!(arbiter.core.waiting_for(10), [Waiting::Silence { for_ms: T - 10 }]);
}

#[test]
fn r2_nothing_is_granted_before_each_roster_host_was_read() {
    let mut arbiter = Arbiter::fresh(trust(1, 1, 2));
    let ask = offer(0, 1, "web", 1);
    assert_eq!(arbiter.ask(0, &ask), Err(DenialReason::Rebuilding { missing: 2 }));
    arbiter.hears(5, 0, statement(0, vec![], &[]));
    assert_eq!(arbiter.ask(5, &ask), Err(DenialReason::Rebuilding { missing: 1 }));
    arbiter.hears(9, 1, statement(4, vec![hold(4, "web", 1)], &[]));
    assert_eq!(arbiter.ask(9, &ask), promised(1, 4));
}

#[test]
fn r2_an_unknown_open_offer_may_be_a_forgotten_grant_until_the_silence_is_over() {
    let mut arbiter = Arbiter::started(trust(1, 1, 2), 0, true);
    arbiter.hears(1, 0, statement(0, vec![], &[]));
    arbiter.hears(1, 1, statement(5, vec![], &[5]));
    // Offer 5 was granted before the restart; it is redeemed right after that read.
    let ask = offer(0, 1, "web", 1);
    assert_eq!(arbiter.ask(T, &ask), Err(DenialReason::Rebuilding { missing: 1 }));
    arbiter.hears(T, 1, statement(5, vec![hold(5, "web", 1)], &[]));
    assert_eq!(arbiter.ask(T, &ask), promised(1, 5));
}

#[test]
fn r2_a_host_that_joins_the_roster_is_read_before_anything_is_granted() {
    let mut arbiter = Arbiter::ready(trust(1, 1, 1));
    let two = Arc::new(Trust { version: 2, ..trust(1, 1, 2) });
    let wanted = arbiter.tell(0, Input::Trust(two));
    assert_eq!(wanted, [Effect::ReadHost { host: host(1) }]);
    let ask = Offer { trust_version: 2, ..offer(0, 1, "web", 1) };
    assert_eq!(arbiter.ask(0, &ask), Err(DenialReason::Rebuilding { missing: 1 }));
    arbiter.hears(0, 1, statement(0, vec![], &[]));
    assert_eq!(arbiter.ask(0, &ask), Ok(vcpus(1)));
}

#[test]
fn r3_what_a_statement_omits_is_closed_and_what_is_younger_stays() {
    let mut arbiter = Arbiter::ready(trust(1, 1, 2));
    assert_eq!(arbiter.ask(0, &offer(0, 1, "a", 1)), Ok(vcpus(1)));
    assert_eq!(arbiter.ask(0, &offer(0, 2, "b", 1)), Ok(vcpus(1)));
    assert_eq!(arbiter.ask(0, &offer(0, 3, "c", 1)), Ok(vcpus(1)));
    arbiter.hears(1, 0, statement(2, vec![hold(2, "b", 1)], &[]));
    assert_eq!(arbiter.ask(1, &offer(1, 1, "a", 1)), Ok(vcpus(1)), "closed");
    assert_eq!(arbiter.ask(1, &offer(1, 2, "b", 1)), promised(0, 2), "held");
    assert_eq!(arbiter.ask(1, &offer(1, 3, "c", 1)), promised(0, 3), "above the watermark");
}

#[test]
fn r3_a_late_duplicate_of_an_ended_offer_does_not_enter_the_books_again() {
    let mut arbiter = Arbiter::ready(trust(1, 1, 2));
    let voided = offer(0, 1, "web", 1);
    assert_eq!(arbiter.ask(0, &voided), Ok(vcpus(1)));
    arbiter.hears(1, 0, statement(1, vec![], &[]));
    assert!(has_ended(&arbiter.ask(2, &voided)));
    // Host 0 dies here; had the duplicate been booked, nobody could ever release the job.
    assert_eq!(arbiter.ask(3, &offer(1, 1, "web", 1)), Ok(vcpus(1)));
}

#[test]
fn r3_an_old_statement_that_arrives_late_closes_nothing_that_is_younger() {
    let mut arbiter = Arbiter::ready(trust(1, 1, 2));
    arbiter.hears(5, 0, statement(3, vec![hold(3, "web", 1)], &[]));
    arbiter.hears(1, 0, statement(2, vec![], &[2]));
    assert_eq!(arbiter.ask(6, &offer(1, 1, "web", 1)), promised(0, 3));
    assert!(has_ended(&arbiter.ask(6, &offer(0, 2, "db", 1))), "offer 2 ended before offer 3");
}

#[test]
fn r5_who_is_in_the_way_is_told_of_an_offer_that_has_ended_meanwhile() {
    let mut arbiter = Arbiter::ready(trust(1, 1, 2));
    arbiter.hears(0, 0, statement(1, vec![hold(1, "web", 1)], &[]));
    let second = offer(1, 1, "web", 1);
    assert_eq!(arbiter.ask(1, &second), promised(0, 1));
    arbiter.hears(2, 1, statement(1, vec![], &[]));
    assert_eq!(arbiter.ask(3, &second), promised(0, 1), "another offer would not help");
    arbiter.hears(4, 0, statement(1, vec![], &[]));
    assert!(has_ended(&arbiter.ask(5, &second)), "now it would");
}

#[test]
fn r5_two_hosts_are_never_both_granted_one_job() {
    let mut arbiter = Arbiter::ready(trust(1, 1, 2));
    assert_eq!(arbiter.ask(0, &offer(0, 1, "web", 1)), Ok(vcpus(1)));
    let other = Signed::seal(&offer(1, 1, "web", 1), &key(HOST + 1));
    let (verdict, effects) = arbiter.ask_signed(1, other);
    let Verdict::Denial(denial) = verdict else { panic!("granted twice: {verdict:?}") };
    let id = id(1, 1);
    assert_eq!(denial.why, DenialReason::Promised { host: host(0), id, for_ms: None });
    assert_eq!(effects, [Effect::ReadHost { host: host(0) }], "the one in the way is asked");
}

#[test]
fn r5_the_same_host_may_be_granted_the_job_again() {
    let mut arbiter = Arbiter::ready(trust(1, 1, 1));
    assert_eq!(arbiter.ask(0, &offer(0, 1, "web", 1)), Ok(vcpus(1)));
    assert_eq!(arbiter.ask(0, &offer(0, 2, "web", 4)), Ok(vcpus(4)), "a resize");
}

#[test]
fn r5_a_job_is_taken_over_only_from_the_host_that_holds_it() {
    let mut arbiter = Arbiter::ready(trust(1, 1, 3));
    assert!(is_policy(&arbiter.ask(0, &migrate_in(1, 1, "web", 0, id(1, 1)))), "nobody holds it");
    arbiter.hears(1, 0, statement(1, vec![hold(1, "web", 1)], &[]));
    assert!(is_policy(&arbiter.ask(1, &migrate_in(1, 2, "web", 0, id(1, 9)))), "another hold");
    assert_eq!(arbiter.ask(1, &migrate_in(1, 3, "web", 2, id(1, 1))), promised(0, 1), "from h2");
    assert!(is_policy(&arbiter.ask(1, &migrate_in(0, 2, "web", 0, id(1, 1)))), "from itself");
    assert_eq!(arbiter.ask(1, &migrate_in(1, 4, "web", 0, id(1, 1))), Ok(vcpus(1)));
    assert_eq!(arbiter.ask(1, &migrate_in(2, 1, "web", 0, id(1, 1))), promised(1, 4), "a third");
    assert_eq!(arbiter.ask(1, &offer(0, 3, "web", 1)), promised(1, 4), "the source, a restart");
    // The source lets go, the target has it.
    arbiter.hears(2, 0, statement(3, vec![], &[]));
    arbiter.hears(2, 1, statement(4, vec![hold(4, "web", 1)], &[]));
    assert_eq!(arbiter.ask(2, &migrate_in(2, 2, "web", 1, id(1, 4))), Ok(vcpus(1)));
}

#[test]
fn r5_a_guest_from_before_there_was_trust_is_in_the_way_of_a_second_one() {
    let mut arbiter = Arbiter::ready(trust(1, 1, 2));
    let untitled = HoldItem { id: OfferId::default(), ..hold(0, "web", 1) };
    arbiter.hears(1, 0, statement(0, vec![untitled], &[]));
    assert!(matches!(arbiter.ask(1, &offer(1, 1, "web", 1)), Err(DenialReason::Promised { .. })));
    let moved = migrate_in(1, 2, "web", 0, OfferId::default());
    assert_eq!(arbiter.ask(1, &moved), Ok(vcpus(1)));
    arbiter.hears(2, 0, statement(0, vec![], &[]));
    arbiter.hears(2, 1, statement(2, vec![], &[]));
    assert_eq!(arbiter.ask(2, &offer(1, 3, "web", 1)), Ok(vcpus(1)), "it ended on its host");
}

#[test]
fn r5_asking_again_for_the_same_offer_gives_the_same_answer() {
    let mut arbiter = Arbiter::ready(with_quota(trust(1, 1, 1), 1));
    let ask = offer(0, 1, "web", 1);
    assert_eq!(arbiter.ask(0, &ask), Ok(vcpus(1)));
    assert_eq!(arbiter.ask(1, &ask), Ok(vcpus(1)));
    assert_eq!(arbiter.core.books().entries().count(), 1);
    assert!(is_policy(&arbiter.ask(2, &offer(0, 1, "web", 2))), "one id, two offers");
    assert!(is_policy(&arbiter.ask(2, &offer(0, 1, "db", 1))), "one id, two jobs");
}

#[test]
fn r6_the_whole_quota_is_usable_with_one_arbiter_and_not_a_cpu_more() {
    let mut arbiter = Arbiter::ready(with_quota(trust(1, 1, 1), 10));
    for n in 1..=10 {
        assert_eq!(arbiter.ask(0, &offer(0, n, &format!("j{n}"), 1)), Ok(vcpus(1)));
    }
    let Err(DenialReason::Quota { limit, used, asked, at_most, .. }) =
        arbiter.ask(0, &offer(0, 11, "j11", 1))
    else {
        panic!("more than the quota was granted");
    };
    assert_eq!((limit.vcpus, used.vcpus, asked.vcpus), (10, 10, 1));
    assert_eq!(at_most.map(|most| most.vcpus), Some(0));
    let other = Offer { tenant: TenantId::new("other").unwrap(), ..offer(0, 12, "j12", 99) };
    assert_eq!(arbiter.ask(0, &other), Ok(vcpus(99)), "a tenant without quota has no limit");
}

#[test]
fn r6_a_job_at_full_quota_may_move_or_restart_because_it_counts_once() {
    let mut arbiter = Arbiter::ready(with_quota(trust(1, 1, 2), 4));
    assert_eq!(arbiter.ask(0, &offer(0, 1, "web", 4)), Ok(vcpus(4)));
    assert_eq!(arbiter.ask(0, &offer(0, 2, "web", 4)), Ok(vcpus(4)));
    let moved = Offer { resources: vcpus(4), ..migrate_in(1, 1, "web", 0, id(1, 2)) };
    assert_eq!(arbiter.ask(0, &moved), Ok(vcpus(4)));
}

#[test]
fn r6_a_job_that_grows_counts_with_the_larger_size_and_a_no_says_how_far_it_could() {
    let mut arbiter = Arbiter::ready(with_quota(trust(1, 1, 1), 6));
    arbiter.hears(1, 0, statement(2, vec![hold(1, "web", 2), hold(2, "db", 1)], &[]));
    let Err(DenialReason::Quota { used, asked, at_most, .. }) =
        arbiter.ask(1, &resize(0, 3, "web", 6))
    else {
        panic!("7 of 6 vcpus were granted");
    };
    assert_eq!((used.vcpus, asked.vcpus, at_most.map(|m| m.vcpus)), (3, 6, Some(5)));
    assert_eq!(arbiter.ask(1, &resize(0, 4, "web", 5)), Ok(vcpus(5)));
    assert!(matches!(arbiter.ask(1, &offer(0, 5, "api", 1)), Err(DenialReason::Quota { .. })));
    // Redeemed, the new hold stands for both; voided, only the old one.
    arbiter.hears(2, 0, statement(4, vec![hold(4, "web", 5), hold(2, "db", 1)], &[]));
    assert_eq!(arbiter.core.books().used(&TenantId::default_tenant()).vcpus, 6);
}

#[test]
fn r6_the_number_of_vms_is_limited_as_any_amount_is_and_a_no_says_by_how_much() {
    let limit = Amounts { vms: 2, ..Amounts::UNLIMITED };
    let mut arbiter = Arbiter::ready(with_limit(trust(1, 1, 2), limit));
    assert_eq!(arbiter.ask(0, &offer(0, 1, "web", 1)), Ok(vcpus(1)));
    assert_eq!(arbiter.ask(0, &offer(0, 2, "db", 9)), Ok(vcpus(9)));
    let Err(DenialReason::Quota { limit, used, asked, at_most, left, .. }) =
        arbiter.ask(0, &offer(1, 1, "api", 1))
    else {
        panic!("a third VM of two was granted");
    };
    let vms = [limit.vms, used.vms, asked.vms, at_most.unwrap().vms, left.unwrap().vms];
    assert_eq!(vms, [2, 2, 1, 0, 0]);
    // It counts once, whatever is done with it, until its hold is closed.
    arbiter.hears(1, 0, statement(2, vec![hold(1, "web", 1), hold(2, "db", 9)], &[]));
    assert_eq!(arbiter.ask(1, &resize(0, 3, "web", 4)), Ok(vcpus(4)));
    assert_eq!(arbiter.ask(1, &migrate_in(1, 2, "db", 0, id(1, 2))), Ok(vcpus(1)));
    assert_eq!(arbiter.core.books().used(&TenantId::default_tenant()).vms, 2);
    arbiter.hears(2, 0, statement(3, vec![hold(2, "db", 9)], &[]));
    assert_eq!(arbiter.ask(2, &offer(1, 3, "api", 1)), Ok(vcpus(1)));
}

#[test]
fn r6_a_debit_of_vms_is_one_or_none_and_unsaid_the_one() {
    let limit = Amounts { vms: 3, ..Amounts::UNLIMITED };
    let mut arbiter = Arbiter::ready(with_limit(trust(3, 2, 1), limit));
    let mut asked = |offer: &Offer, vms| {
        let wish = Amounts { vms, ..vcpus(1).into() };
        match arbiter.ask_for(0, Signed::seal(offer, &key(HOST)), Some(wish)).0 {
            Verdict::Grant(grant) => Ok(grant.debit.vms),
            Verdict::Denial(denial) => Err(denial.why),
            Verdict::NotMember(why) => panic!("{why}"),
        }
    };
    let (web, db) = (offer(0, 1, "web", 1), offer(0, 2, "db", 1));
    assert_eq!(asked(&web, 0), Ok(0));
    assert_eq!(asked(&web, 1), Ok(1), "more for the same offer");
    assert_eq!(asked(&web, 0), Ok(1), "and never less again");
    assert_eq!(asked(&db, VMS_ANY), Ok(VMS_ANY), "as before VMs were counted");
    assert!(is_policy(&asked(&db, 2).map(|_| Resources::ZERO)), "a job is one VM");
    // Its part is two of three, and both are booked: what books none here may still start.
    assert!(matches!(asked(&offer(0, 3, "api", 1), 1), Err(DenialReason::Quota { .. })));
    assert_eq!(asked(&offer(0, 4, "api", 1), 0), Ok(0));
}

/// A limit that comes later counts what was granted before, by tickets that say nothing of VMs.
#[test]
fn r6_vms_that_were_granted_without_a_limit_of_them_count_once_there_is_one() {
    let mut arbiter = Arbiter::ready(trust(3, 2, 1));
    assert_eq!(arbiter.ask(0, &offer(0, 1, "web", 1)), Ok(vcpus(1)));
    let debits = Debits::Known(BTreeMap::from([(0, vcpus(1).into()), (1, vcpus(1).into())]));
    let web = HoldItem { debits, ..hold(1, "web", 1) };
    let elsewhere = Debits::Known(BTreeMap::from([(1, vcpus(1).into()), (2, vcpus(1).into())]));
    let db = HoldItem { debits: elsewhere, ..hold(2, "db", 1) };
    arbiter.hears(1, 0, statement(2, vec![web, db], &[]));
    let books = arbiter.core.books();
    let tenant = TenantId::default_tenant();
    assert_eq!((books.used(&tenant).vms, books.promised(&tenant).vms), (1, 2));
    let limit = Amounts { vms: 2, ..Amounts::UNLIMITED };
    let limited = Trust { version: 2, ..with_limit(trust(3, 2, 1), limit) };
    arbiter.tell(2, Input::Trust(Arc::new(limited)));
    let api = Offer { trust_version: 2, ..offer(0, 3, "api", 1) };
    assert!(matches!(arbiter.ask(3, &api), Err(DenialReason::Quota { .. })));
    let web = Offer { trust_version: 2, ..resize(0, 4, "web", 3) };
    assert_eq!(arbiter.ask(3, &web), Ok(vcpus(3)), "what is there may be renewed");
}

#[test]
fn where_vms_are_not_limited_nothing_is_said_of_them() {
    let mut arbiter = Arbiter::ready(with_quota(trust(1, 1, 1), 2));
    let signed = Signed::seal(&offer(0, 1, "web", 2), &key(HOST));
    let (Verdict::Grant(grant), _) = arbiter.ask_signed(0, signed) else { panic!("denied") };
    assert!(!grant.debit.tells_vms());
    let Err(no) = arbiter.ask(0, &offer(0, 2, "db", 1)) else { panic!("3 of 2 were granted") };
    assert!(!serde_json::to_string(&no).unwrap().contains("vms"), "{no:?}");
    let (tenant, web) = (TenantId::default_tenant(), JobId::new("web").unwrap());
    let room = serde_json::to_string(&arbiter.core.tenant_room(0, &tenant, &web).unwrap()).unwrap();
    let book = serde_json::to_string(&arbiter.core.tenant_book(&tenant).unwrap()).unwrap();
    assert!(!room.contains("vms") && !book.contains("vms"), "{room} {book}");
}

#[test]
fn r6_what_a_guest_has_given_up_is_free_when_its_host_says_so() {
    let mut arbiter = Arbiter::ready(with_quota(trust(1, 1, 1), 6));
    assert_eq!(arbiter.ask(0, &offer(0, 1, "web", 6)), Ok(vcpus(6)));
    arbiter.hears(1, 0, statement(1, vec![hold(1, "web", 6)], &[]));
    assert!(matches!(arbiter.ask(1, &offer(0, 2, "db", 1)), Err(DenialReason::Quota { .. })));
    arbiter.hears(2, 0, statement(1, vec![hold(1, "web", 2)], &[]));
    assert_eq!(arbiter.ask(2, &offer(0, 2, "db", 4)), Ok(vcpus(4)));
    // Taken back without asking: nothing more is granted on top of it.
    arbiter.hears(3, 0, statement(2, vec![hold(1, "web", 6), hold(2, "db", 4)], &[]));
    assert!(matches!(arbiter.ask(3, &offer(0, 3, "api", 1)), Err(DenialReason::Quota { .. })));
}

#[test]
fn r5_a_job_is_resized_only_where_it_is() {
    let mut arbiter = Arbiter::ready(trust(1, 1, 2));
    arbiter.hears(1, 0, statement(1, vec![hold(1, "web", 2)], &[]));
    assert_eq!(arbiter.ask(1, &resize(1, 1, "web", 4)), promised(0, 1));
    assert_eq!(arbiter.ask(1, &resize(0, 2, "web", 4)), Ok(vcpus(4)));
}

#[test]
fn r6_the_share_is_what_k_of_n_debits_may_use_up() {
    let q = vcpus(10).into();
    assert_eq!(share(q, &trust(1, 1, 0), 0).vcpus, 10);
    let parts = |trust: &Trust, n: u32| -> Vec<u32> {
        (0..n).map(|slot| share(q, trust, slot).vcpus).collect()
    };
    assert_eq!(parts(&trust(3, 2, 0), 3), [7, 7, 6], "20 over three");
    assert_eq!(parts(&trust(5, 3, 0), 5), [6; 5]);
    let with_a_liar = Trust { f: 1, ..trust(4, 3, 0) };
    assert_eq!(parts(&with_a_liar, 4), [7, 7, 6, 6], "20 over any three");
}

#[test]
fn r6_whatever_the_quota_its_parts_are_what_k_debits_can_use_up() {
    for (n, k) in [(1, 1), (3, 2), (4, 3), (5, 3), (7, 4)] {
        for quota in 0..60 {
            let trust = trust(n, k, 0);
            let sum: u32 =
                (0..u32::from(n)).map(|slot| share(vcpus(quota).into(), &trust, slot).vcpus).sum();
            assert_eq!(sum, quota * k, "{quota} over {k} of {n}");
        }
    }
}

#[test]
fn r6_an_offer_is_booked_with_as_much_as_is_asked_and_never_with_less_again() {
    let mut arbiter = Arbiter::ready(with_quota(trust(3, 2, 1), 6));
    let web = offer(0, 1, "web", 3);
    assert_eq!(arbiter.wish(0, &web, 1), Ok(vcpus(1)));
    assert_eq!(arbiter.wish(0, &web, 3), Ok(vcpus(3)));
    assert_eq!(arbiter.wish(0, &web, 2), Ok(vcpus(3)), "more than that is signed");
    assert_eq!(arbiter.wish(0, &offer(0, 2, "db", 3), 1), Ok(vcpus(1)));
    let Err(DenialReason::Quota { limit, used, asked, at_most, left, .. }) =
        arbiter.wish(0, &offer(0, 2, "db", 3), 3)
    else {
        panic!("6 of a part of 4 were booked");
    };
    assert_eq!((limit.vcpus, used.vcpus, asked.vcpus), (6, 6, 3), "in whole sizes");
    assert_eq!((at_most.map(|m| m.vcpus), left.map(|l| l.vcpus)), (Some(3), Some(1)));
    assert!(is_policy(&arbiter.wish(0, &offer(0, 3, "api", 1), 2)), "more than it takes");
}

/// Debits that nobody here has signed may be few; the whole size is known all the same.
#[test]
fn r6_a_quota_that_was_made_smaller_is_kept_to_by_whole_sizes() {
    let mut arbiter = Arbiter::ready(with_quota(trust(3, 2, 1), 6));
    let elsewhere = Debits::Known(BTreeMap::from([(1, vcpus(4).into()), (2, vcpus(4).into())]));
    let web = HoldItem { debits: elsewhere, ..hold(1, "web", 4) };
    arbiter.hears(1, 0, statement(1, vec![web], &[]));
    assert_eq!(arbiter.core.books().used(&TenantId::default_tenant()), Amounts::ZERO);
    let less = Trust { version: 2, ..with_quota(trust(3, 2, 1), 4) };
    arbiter.tell(2, Input::Trust(Arc::new(less)));
    let db = Offer { trust_version: 2, ..offer(0, 2, "db", 1) };
    assert!(matches!(arbiter.wish(3, &db, 0), Err(DenialReason::Quota { .. })));
    let again = Offer { trust_version: 2, ..offer(0, 3, "web", 4) };
    assert_eq!(arbiter.wish(3, &again, 0), Ok(Resources::ZERO), "what is there may be renewed");
}

#[test]
fn r6_who_was_no_arbiter_when_a_job_was_granted_counts_what_is_missing_without_it() {
    let debits = [(0, 1), (1, 3), (2, 2)].map(|(slot, debit)| (slot, vcpus(debit).into()));
    let debits = BTreeMap::from(debits);
    let mut one_for_one = trust(4, 2, 1);
    one_for_one.arbiters.remove(2);
    let booked = one_for_one.booked(&debits, vcpus(3).into());
    assert_eq!(booked[&3].vcpus, 2, "what the one before it had booked");
    // Three of five that have booked little must count for two of three.
    let of_five = (0..5).map(|slot| (slot, vcpus(if slot < 2 { 2 } else { 1 }).into())).collect();
    let sum = trust(3, 2, 1).booked(&of_five, vcpus(3).into());
    let sum: u32 = (0..3).map(|slot| sum[&slot].vcpus).sum();
    assert_eq!(sum, 6);
}

/// Between a change of arbiters and the next read of each host, nothing may count less than it takes.
#[test]
fn r6_what_hosts_have_told_counts_by_the_document_in_force_at_once() {
    let mut arbiter = Arbiter::ready(trust(3, 2, 1));
    let debits = BTreeMap::from([(1, vcpus(2).into()), (2, vcpus(2).into())]);
    let web = HoldItem { debits: Debits::Known(debits), ..hold(1, "web", 2) };
    arbiter.hears(1, 0, statement(1, vec![web], &[]));
    let used = |arbiter: &Arbiter| arbiter.core.books().used(&TenantId::default_tenant());
    assert_eq!(used(&arbiter), Amounts::ZERO, "two others have booked all of it");
    let mut others = Trust { version: 2, ..trust(4, 2, 1) };
    others.arbiters.retain(|slot| slot.slot != 2);
    arbiter.tell(2, Input::Trust(Arc::new(others)));
    assert_eq!(used(&arbiter).vcpus, 1, "half of what slot 2 had, slot 3 the rest");
}

#[test]
fn r6_what_is_learnt_from_a_statement_counts_and_is_checked_when_signed() {
    let mut arbiter = Arbiter::ready(with_quota(trust(1, 1, 2), 4));
    arbiter.hears(1, 0, statement(1, vec![hold(1, "big", 9)], &[]));
    assert!(matches!(arbiter.ask(1, &offer(1, 1, "web", 1)), Err(DenialReason::Quota { .. })));
    let late = offer(0, 1, "big", 9);
    assert!(matches!(arbiter.ask(1, &late), Err(DenialReason::Quota { .. })));
}

/// Others may have read that a promise is over, and have given its room away, before this arbiter hears of it (seed
/// 31033645 of the simulator).
#[test]
fn r6_who_starts_again_has_nothing_by_a_promise_or_a_hold_that_may_be_over() {
    let mut arbiter = Arbiter::ready(with_quota(trust(1, 1, 2), 4));
    assert_eq!(arbiter.ask(T, &offer(0, 1, "web", 3)), Ok(vcpus(3)));
    arbiter.hears(T, 1, statement(1, vec![hold(1, "db", 3)], &[]));
    let is_quota = |answer| matches!(answer, Err(DenialReason::Quota { .. }));
    assert!(is_quota(arbiter.ask(T, &offer(0, 2, "web", 3))), "it was promised, not had");
    arbiter.hears(T, 0, statement(3, vec![hold(3, "web", 3)], &[]));
    assert!(is_quota(arbiter.ask(T, &offer(0, 4, "web", 3))), "its host offers to start it");
    // What runs may change its place, whatever the quota.
    assert_eq!(arbiter.ask(T, &resize(0, 5, "web", 3)), Ok(vcpus(3)));
    assert!(is_quota(arbiter.ask(T, &resize(0, 6, "web", 4))));
    assert_eq!(arbiter.ask(T, &migrate_in(1, 7, "web", 0, id(1, 3))), Ok(vcpus(1)));
}

#[test]
fn r6_the_plan_says_what_this_slot_books_and_may_not_exceed_the_job() {
    let mut arbiter = Arbiter::ready(trust(1, 1, 1));
    let mut ask = offer(0, 1, "web", 4);
    ask.plan.insert(0, vcpus(3));
    assert_eq!(arbiter.ask(0, &ask), Ok(vcpus(3)));
    let mut greedy = offer(0, 2, "db", 4);
    greedy.plan.insert(0, vcpus(5));
    assert!(is_policy(&arbiter.ask(0, &greedy)));
}

#[test]
fn r7_nothing_in_the_books_lapses_by_time() {
    let mut arbiter = Arbiter::ready(trust(1, 1, 2));
    assert_eq!(arbiter.ask(0, &offer(0, 1, "web", 1)), Ok(vcpus(1)));
    let years = 100 * 365 * 86_400_000;
    assert_eq!(arbiter.ask(years, &offer(1, 1, "web", 1)), promised(0, 1));
}

#[test]
fn r7_only_the_operator_releases_what_a_dead_host_holds() {
    let mut arbiter = Arbiter::ready(trust(1, 1, 2));
    assert_eq!(arbiter.ask(0, &offer(1, 1, "web", 1)), Ok(vcpus(1)));
    arbiter.tell(1, Input::Trust(Arc::new(Trust { version: 2, ..trust(1, 1, 1) })));
    let ask = Offer { trust_version: 2, ..offer(0, 1, "web", 1) };
    assert_eq!(arbiter.ask(1, &ask), Ok(vcpus(1)));
    // Back on the roster, it must be read first.
    arbiter.tell(2, Input::Trust(Arc::new(Trust { version: 3, ..trust(1, 1, 2) })));
    let ask = Offer { trust_version: 3, ..offer(0, 2, "db", 1) };
    assert_eq!(arbiter.ask(2, &ask), Err(DenialReason::Rebuilding { missing: 1 }));
}

#[test]
fn an_offer_must_be_a_roster_hosts_own_word_under_this_trust() {
    let mut arbiter = Arbiter::ready(trust(1, 1, 1));
    let stranger = Signed::seal(&offer(3, 1, "web", 1), &key(HOST + 3));
    let forged = Signed::seal(&offer(0, 1, "web", 1), &key(HOST + 3));
    for (offer, why) in [(stranger, "not on the roster"), (forged, "another key")] {
        let (Verdict::Denial(Denial { why: said, .. }), _) = arbiter.ask_signed(0, offer) else {
            panic!("granted: {why}");
        };
        assert!(said.to_string().contains(why), "{said}");
    }
    let later = Offer { trust_version: 2, ..offer(0, 1, "web", 1) };
    let (verdict, effects) = arbiter.ask_signed(0, Signed::seal(&later, &key(HOST)));
    assert!(matches!(verdict, Verdict::Denial(_)));
    assert_eq!(effects, [Effect::ReadTrust]);
}

#[test]
fn without_trust_or_slot_it_answers_for_nobody() {
    let mut arbiter = Arbiter::of(Core::new(key(ARBITER).public(), 0, false));
    let ask = Signed::seal(&offer(0, 1, "web", 1), &key(HOST));
    let (verdict, _) = arbiter.ask_signed(0, ask.clone());
    assert_eq!(verdict, Verdict::NotMember(NotMember::NoTrust));
    let mut others = trust(1, 1, 1);
    others.arbiters[0].key = key(77).public();
    arbiter.tell(0, Input::Trust(Arc::new(others)));
    let (verdict, _) = arbiter.ask_signed(0, ask);
    assert_eq!(verdict, Verdict::NotMember(NotMember::NoSlot { version: 1 }));
}

/// A host as far as tickets go: its offers, their end, its holds (rules R8, R9, R13).
#[derive(Debug, Default)]
struct Host {
    num: u64,
    offers: BTreeMap<OfferId, Issued>,
    holds: BTreeMap<OfferId, Held>,
    /// Everything it ever stated, with when it was asked.
    said: Vec<(u64, Statement)>,
}

#[derive(Debug, Clone)]
struct Issued {
    offer: Offer,
    issued_ms: u64,
    is_open: bool,
    grants: BTreeMap<u32, Amounts>,
}

#[derive(Debug, Clone)]
struct Held {
    offer: Offer,
    debits: BTreeMap<u32, Amounts>,
    /// What its guest has: less than the offer said, once it has given some up.
    takes: u32,
    /// False for a guest that has not been handed over yet: it does not run.
    may_run: bool,
}

/// Hosts, arbiters, and a shared clock.
struct Cluster {
    now_ms: u64,
    trust: Trust,
    hosts: Vec<Host>,
    arbiters: Vec<Core>,
    granted: usize,
    resized: usize,
    tells_debits: bool,
}

const JOBS: u8 = 4;
const QUOTA: u32 = 6;

impl Cluster {
    fn new(n: u8, k: u32, hosts: u8, tells_debits: bool, vms: u32) -> Self {
        let quota = Amounts { vcpus: QUOTA, vms, ..Amounts::UNLIMITED };
        let trust = with_limit(trust(n, k, hosts), quota);
        let mut arbiters: Vec<Core> =
            (0..n).map(|i| Core::new(key(ARBITER + i).public(), 0, false)).collect();
        for arbiter in &mut arbiters {
            arbiter.handle(0, Input::Trust(Arc::new(trust.clone())), &mut vec![]);
        }
        let hosts = (0..hosts).map(|_| Host::default()).collect();
        let (now_ms, granted, resized) = (0, 0, 0);
        let mut cluster = Self { now_ms, trust, hosts, arbiters, granted, resized, tells_debits };
        for a in 0..cluster.arbiters.len() {
            for h in 0..cluster.hosts.len() {
                cluster.read(h, a);
            }
        }
        cluster
    }

    fn issue(&mut self, h: usize, job: u8, size: u32, from: Option<usize>) {
        let now_ms = self.now_ms;
        let job = format!("j{}", job % JOBS);
        let n = u8::try_from(h).unwrap();
        let source = from.filter(|s| *s != h).and_then(|s| {
            let held = self.hosts[s].holds.iter().find(|(_, held)| held.offer.job.as_str() == job);
            held.map(|(id, held)| (s, *id, held.takes))
        });
        let host = &mut self.hosts[h];
        host.num += 1;
        let offer = match source {
            Some((s, hold, size)) => Offer {
                resources: vcpus(size),
                ..migrate_in(n, host.num, &job, u8::try_from(s).unwrap(), hold)
            },
            None => offer(n, host.num, &job, size),
        };
        let grants = BTreeMap::new();
        host.offers.insert(offer.id, Issued { offer, issued_ms: now_ms, is_open: true, grants });
    }

    /// Shows any offer ever issued, ended ones too, to an arbiter, and asks it to book so much.
    fn ask(&mut self, h: usize, pick: usize, a: usize, wish: Option<(u32, u32)>) {
        let Some(id) = nth(&self.hosts[h].offers, pick) else { return };
        let n = u8::try_from(h).unwrap();
        let issued = self.hosts[h].offers.get_mut(&id).unwrap();
        let size = issued.offer.resources;
        let wish = wish.map(|(of, vms)| Amounts { vms, ..vcpus(of.min(size.vcpus)).into() });
        let signed = Signed::seal(&issued.offer, &key(HOST + n));
        let mut out = vec![];
        self.arbiters[a].handle(
            self.now_ms,
            Input::Ask { request: 0, wall_ms: 0, offer: signed, wish },
            &mut out,
        );
        if let Some(Effect::Answer { verdict: Verdict::Grant(grant), .. }) = out.pop() {
            issued.grants.insert(grant.slot, grant.debit);
            self.granted += 1;
        }
    }

    /// Shows the last offer to all arbiters, spread by what each has left: CPU by CPU to the one that
    /// has most.
    fn ask_all(&mut self, h: usize, arbiters: usize) {
        let last = self.hosts[h].offers.len().saturating_sub(1);
        let Some(id) = nth(&self.hosts[h].offers, last) else { return };
        let Offer { tenant, job, resources, .. } = self.hosts[h].offers[&id].offer.clone();
        let room = |core: &Core| core.tenant_room(self.now_ms, &tenant, &job).unwrap().left;
        let rooms: Vec<Amounts> = self.arbiters.iter().map(room).collect();
        let spread = |size: u32, mut left: Vec<u32>| {
            let mut debits = vec![0; arbiters];
            for _ in 0..self.trust.k * size {
                let may = |a: &usize| left[*a] > 0 && debits[*a] < size;
                let Some(a) = (0..arbiters).filter(may).max_by_key(|a| left[*a]) else { break };
                left[a] -= 1;
                debits[a] += 1;
            }
            debits
        };
        let cpus = spread(resources.vcpus, rooms.iter().map(|room| room.vcpus).collect());
        let vms = match self.limit().tells_vms() {
            true => spread(1, rooms.iter().map(|room| room.vms).collect()),
            false => vec![VMS_ANY; arbiters],
        };
        for (a, debit) in cpus.into_iter().zip(vms).enumerate() {
            self.ask(h, last, a, Some(debit));
        }
    }

    fn redeem_last(&mut self, h: usize) {
        self.redeem(h, self.hosts[h].offers.len().saturating_sub(1));
    }

    /// R9, as the host does it.
    fn redeem(&mut self, h: usize, pick: usize) {
        let (now_ms, k) = (self.now_ms, self.trust.k);
        let host = &mut self.hosts[h];
        let Some(id) = nth(&host.offers, pick) else { return };
        let issued = host.offers.get_mut(&id).unwrap();
        let is_in_time = now_ms + KILL_MS < issued.issued_ms + TERM_MS;
        let size = Amounts::of_vm(issued.offer.resources);
        let debits = issued.grants.values().map(|debit| debit.min(size));
        let booked = debits.fold(Amounts::ZERO, Amounts::plus);
        let needed = (0..k).fold(Amounts::ZERO, |sum, _| sum.plus(size));
        let is_enough = issued.grants.len() >= k as usize && needed.fits_in(booked);
        if !issued.is_open || !is_in_time || !is_enough {
            return;
        }
        issued.is_open = false;
        let issued = issued.clone();
        let is_of_job = |held: &Held| held.offer.job == issued.offer.job;
        let takes = issued.offer.resources.vcpus;
        let may_run = match issued.offer.action {
            Action::Start | Action::FailOver { .. } => true,
            Action::MigrateIn { .. } => false,
            // The guest that is there gets more; of one that is not there, or not yet, nothing.
            Action::Delegate { .. } => false,
            Action::Resize => match host.holds.values().find(|held| is_of_job(held)) {
                Some(held) if held.may_run && held.takes <= takes => {
                    self.resized += 1;
                    true
                }
                _ => return,
            },
        };
        host.holds.retain(|_, held| !is_of_job(held));
        let held = Held { offer: issued.offer, debits: issued.grants, takes, may_run };
        host.holds.insert(id, held);
    }

    /// A guest gives CPUs up; nobody has to be asked for that.
    fn shrink(&mut self, h: usize, pick: usize, to: u32) {
        let Some(id) = nth(&self.hosts[h].holds, pick) else { return };
        if let Some(held) = self.hosts[h].holds.get_mut(&id).filter(|held| held.may_run) {
            held.takes = held.takes.min(to);
        }
    }

    fn issue_resize(&mut self, h: usize, pick: usize, size: u32) {
        let now_ms = self.now_ms;
        let n = u8::try_from(h).unwrap();
        let host = &mut self.hosts[h];
        let Some(id) = nth(&host.holds, pick) else { return };
        let job = host.holds[&id].offer.job.clone();
        host.num += 1;
        let offer = resize(n, host.num, job.as_str(), size);
        let grants = BTreeMap::new();
        host.offers.insert(offer.id, Issued { offer, issued_ms: now_ms, is_open: true, grants });
    }

    fn close(&mut self, h: usize, pick: usize) {
        if let Some(id) = nth(&self.hosts[h].holds, pick) {
            self.hosts[h].holds.remove(&id);
        }
    }

    fn void(&mut self, h: usize, pick: usize) {
        if let Some(id) = nth(&self.hosts[h].offers, pick) {
            self.hosts[h].offers.get_mut(&id).unwrap().is_open = false;
        }
    }

    /// M3 and M4: the source closes its hold and every open offer of that job, then the target
    /// may run it.
    fn hand_off(&mut self, h: usize, pick: usize) {
        let Some(id) = nth(&self.hosts[h].holds, pick) else { return };
        let held = self.hosts[h].holds[&id].clone();
        let Action::MigrateIn { from, hold } = &held.offer.action else { return };
        let source = (0..self.hosts.len()).find(|n| host(u8::try_from(*n).unwrap()) == *from);
        let source = &mut self.hosts[source.unwrap()];
        if held.may_run || !source.holds.get(hold).is_some_and(|held| held.may_run) {
            return;
        }
        source.holds.remove(hold);
        for issued in source.offers.values_mut().filter(|i| i.offer.job == held.offer.job) {
            issued.is_open = false;
        }
        self.hosts[h].holds.get_mut(&id).unwrap().may_run = true;
    }

    fn state(&mut self, h: usize) -> (u64, Statement) {
        let now_ms = self.now_ms;
        let host = &mut self.hosts[h];
        for issued in host.offers.values_mut() {
            issued.is_open &= now_ms < issued.issued_ms + TERM_MS;
        }
        let open = host.offers.iter().filter(|(_, issued)| issued.is_open).map(|(id, _)| *id);
        let holds = host.holds.iter().map(|(id, held)| HoldItem {
            id: *id,
            job: held.offer.job.clone(),
            resources: vcpus(held.takes),
            tenant: held.offer.tenant.clone(),
            debits: self.tells_debits.then(|| held.debits.clone()).into(),
            on_loss: OnLoss::Keep,
            delegated: None,
        });
        let statement = Statement {
            watermark: id(1, host.num),
            holds: holds.collect(),
            offers: open.collect(),
            obeyed: Some(u64::MAX),
            ..Statement::default()
        };
        host.said.push((now_ms, statement.clone()));
        (now_ms, statement)
    }

    fn read(&mut self, h: usize, a: usize) {
        let (asked_ms, statement) = self.state(h);
        self.deliver(h, a, asked_ms, statement);
    }

    /// An old statement, delayed in the network; but none from before the arbiter's start, which
    /// its connection would not carry.
    fn reread(&mut self, h: usize, a: usize, pick: usize, started_ms: &[u64]) {
        let said = &self.hosts[h].said;
        let (asked_ms, statement) = said[pick % said.len()].clone();
        if asked_ms > started_ms[a] {
            self.deliver(h, a, asked_ms, statement);
        }
    }

    fn deliver(&mut self, h: usize, a: usize, asked_ms: u64, statement: Statement) {
        let host = host(u8::try_from(h).unwrap());
        let input = Input::Statement { host, asked_ms, statement };
        self.arbiters[a].handle(self.now_ms, input, &mut vec![]);
    }

    fn restart(&mut self, a: usize, started_ms: &mut [u64]) {
        let me = key(ARBITER + u8::try_from(a).unwrap()).public();
        self.arbiters[a] = Core::new(me, self.now_ms, true);
        started_ms[a] = self.now_ms;
        let trust = Arc::new(self.trust.clone());
        self.arbiters[a].handle(self.now_ms, Input::Trust(trust), &mut vec![]);
    }

    fn no_vm_runs_on_two_hosts(&self) {
        let mut running = BTreeSet::new();
        for host in &self.hosts {
            for held in host.holds.values().filter(|held| held.may_run) {
                assert!(running.insert(&held.offer.job), "{} runs twice", held.offer.job);
            }
        }
    }

    fn quota_is_never_exceeded(&self) {
        let running = self.hosts.iter().flat_map(|host| host.holds.values());
        let running = running.filter(|held| held.may_run);
        let takes = running.map(|held| Amounts::of_vm(vcpus(held.takes)));
        let (used, limit) = (takes.fold(Amounts::ZERO, Amounts::plus), self.limit());
        assert!(used.fits_in(limit), "{used} run of {limit}");
    }

    fn limit(&self) -> Amounts {
        self.trust.quota[&TenantId::default_tenant()]
    }
}

fn nth<V>(map: &BTreeMap<OfferId, V>, pick: usize) -> Option<OfferId> {
    map.keys().nth(pick % map.len().max(1)).copied()
}

#[derive(Debug, Clone)]
enum Act {
    Issue { h: usize, job: u8, size: u32, from: Option<usize> },
    Ask { h: usize, pick: usize, a: usize, wish: Option<(u32, u32)> },
    AskAll { h: usize },
    Redeem { h: usize, pick: usize },
    RedeemLast { h: usize },
    Close { h: usize, pick: usize },
    IssueResize { h: usize, pick: usize, size: u32 },
    Grow { h: usize, pick: usize, size: u32 },
    Shrink { h: usize, pick: usize, to: u32 },
    Void { h: usize, pick: usize },
    HandOff { h: usize, pick: usize },
    Read { h: usize, a: usize },
    Reread { h: usize, a: usize, pick: usize },
    Restart { a: usize },
    Wait { ms: u64 },
}

/// None, the one, or nothing said of it, which is the one.
fn wished_vms() -> impl Strategy<Value = u32> {
    prop::sample::select(vec![0, 1, VMS_ANY])
}

fn act() -> impl Strategy<Value = Act> {
    let (h, a, pick) = (0..3usize, 0..5usize, any::<usize>());
    prop_oneof![
        6 => (h.clone(), any::<u8>(), 1..5u32, prop::option::of(0..3usize))
            .prop_map(|(h, job, size, from)| Act::Issue { h, job, size, from }),
        3 => (h.clone(), pick, a.clone(), prop::option::of((0..5u32, wished_vms())))
            .prop_map(|(h, pick, a, wish)| Act::Ask { h, pick, a, wish }),
        6 => h.clone().prop_map(|h| Act::AskAll { h }),
        2 => (h.clone(), pick).prop_map(|(h, pick)| Act::Redeem { h, pick }),
        6 => h.clone().prop_map(|h| Act::RedeemLast { h }),
        3 => (h.clone(), pick).prop_map(|(h, pick)| Act::Close { h, pick }),
        1 => (h.clone(), pick, 1..7u32)
            .prop_map(|(h, pick, size)| Act::IssueResize { h, pick, size }),
        8 => (h.clone(), pick, 1..5u32).prop_map(|(h, pick, size)| Act::Grow { h, pick, size }),
        3 => (h.clone(), pick, 1..4u32).prop_map(|(h, pick, to)| Act::Shrink { h, pick, to }),
        1 => (h.clone(), pick).prop_map(|(h, pick)| Act::Void { h, pick }),
        4 => (h.clone(), pick).prop_map(|(h, pick)| Act::HandOff { h, pick }),
        8 => (h.clone(), a.clone()).prop_map(|(h, a)| Act::Read { h, a }),
        2 => (h, a.clone(), pick).prop_map(|(h, a, pick)| Act::Reread { h, a, pick }),
        1 => a.prop_map(|a| Act::Restart { a }),
        3 => (1..10_000u64).prop_map(|ms| Act::Wait { ms }),
    ]
}

fn play((n, k): (u8, u32), tells_debits: bool, vms: u32, acts: &[Act]) -> Cluster {
    let mut cluster = Cluster::new(n, k, 3, tells_debits, vms);
    let mut started_ms = vec![0; usize::from(n)];
    for act in acts {
        let n = usize::from(n);
        match act.clone() {
            Act::Issue { h, job, size, from } => cluster.issue(h, job, size, from),
            Act::Ask { h, pick, a, wish } => cluster.ask(h, pick, a % n, wish),
            Act::AskAll { h } => cluster.ask_all(h, n),
            Act::Grow { h, pick, size } => {
                cluster.issue_resize(h, pick, size);
                cluster.ask_all(h, n);
                cluster.redeem_last(h);
            }
            Act::Redeem { h, pick } => cluster.redeem(h, pick),
            Act::RedeemLast { h } => cluster.redeem_last(h),
            Act::Close { h, pick } => cluster.close(h, pick),
            Act::IssueResize { h, pick, size } => cluster.issue_resize(h, pick, size),
            Act::Shrink { h, pick, to } => cluster.shrink(h, pick, to),
            Act::Void { h, pick } => cluster.void(h, pick),
            Act::HandOff { h, pick } => cluster.hand_off(h, pick),
            Act::Read { h, a } => cluster.read(h, a % n),
            Act::Reread { h, a, pick } => cluster.reread(h, a % n, pick, &started_ms),
            Act::Restart { a } => cluster.restart(a % n, &mut started_ms),
            Act::Wait { ms } => cluster.now_ms += ms,
        }
        cluster.no_vm_runs_on_two_hosts();
        cluster.quota_is_never_exceeded();
    }
    cluster
}

proptest! {
    #[test]
    fn no_interleaving_exceeds_the_quota_or_runs_a_job_twice(
        members in prop::sample::select(vec![(1u8, 1u32), (3, 2), (5, 3)]),
        tells_debits in any::<bool>(),
        vms in prop::sample::select(vec![VMS_ANY, 1, 2, 3]),
        acts in prop::collection::vec(act(), 0..160),
    ) {
        play(members, tells_debits, vms, &acts);
    }
}

/// The property above would hold as well if nothing were ever granted.
#[test]
fn random_interleavings_do_get_grants() {
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let acts = prop::collection::vec(act(), 240);
    for vms in [VMS_ANY, 3] {
        let (mut granted, mut resized) = (0, 0);
        for _ in 0..16 {
            let acts = acts.new_tree(&mut runner).unwrap().current();
            let cluster = play((3, 2), false, vms, &acts);
            granted += cluster.granted;
            resized += cluster.resized;
        }
        assert!(granted > 200, "only {granted} grants in 16 plays");
        assert!(resized > 5, "only {resized} jobs have grown in 16 plays");
    }
}
