//! A script for each rule: what is stated, what is covered, and when a gate closes.

use protocol::id::{ClusterId, Epoch, TenantId};
use protocol::resources::Resources;
use protocol::signed::SecretKey;
use protocol::tenure::{Item, Standing};
use protocol::trust::{KILL_MS, TERM_MS};

use super::*;

const D: u64 = TERM_MS;
const K: u64 = KILL_MS;

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed([n; 32])
}

fn here() -> HostId {
    HostId::of(&key(1).public())
}

fn trust(n: u32, k: u32) -> Arc<Trust> {
    let slot = |slot: u32| {
        let key = key(10 + u8::try_from(slot).unwrap()).public();
        protocol::trust::Slot { slot, key, url: String::new() }
    };
    Arc::new(Trust {
        version: 1,
        operators: vec![key(9).public()],
        arbiters: (0..n).map(slot).collect(),
        k,
        roster: vec![key(1).public()],
        term_ms: D,
        kill_ms: K,
        ..Trust::of_nobody(ClusterId::new("c1").unwrap())
    })
}

fn id(num: u64) -> OfferId {
    OfferId { epoch: Epoch(1), num }
}

fn uuid(num: u64) -> Uuid {
    Uuid::from_u128(u128::from(num))
}

/// A hold that the given slots have granted at that time.
fn hold(num: u64, issued_ms: u64, slots: &[u32]) -> Drafted {
    let debits = slots.iter().map(|slot| (*slot, Resources::ZERO.into())).collect();
    Drafted {
        item: Item {
            id: id(num),
            job: "web".parse().unwrap(),
            resources: Resources::ZERO,
            tenant: TenantId::default_tenant(),
            debits: Some(debits),
            on_loss: OnLoss::Stop,
            delegated: None,
            standing: Standing::Hold,
        },
        uuid: uuid(1),
        issued_ms: Some(issued_ms),
        since: None,
    }
}

fn draft(items: Vec<Drafted>) -> Draft {
    Draft { epoch: Epoch(1), watermark: id(100), items, trust_version: 1, agreed: None }
}

struct Bench(Keeper, Option<Statement>);

impl Bench {
    fn new(n: u32, k: u32) -> Self {
        let mut bench = Self(Keeper::new(here(), 0, Saved::default()), None);
        bench.tell(0, Input::Trust(trust(n, k)));
        bench
    }

    /// What is done because of this; statements left out.
    fn tell(&mut self, now_ms: u64, input: Input) -> Vec<Effect> {
        let mut out = vec![];
        self.0.handle(now_ms, input, &mut out);
        out.retain(|effect| match effect {
            Effect::State(statement) => {
                self.1 = Some(statement.clone());
                false
            }
            _ => true,
        });
        out
    }

    /// The last statement, one that is due by then included.
    fn statement(&mut self, now_ms: u64) -> Statement {
        self.tell(now_ms, Input::Tick);
        self.1.clone().expect("something was stated")
    }

    fn term(&mut self, now_ms: u64, slot: u32, seq: u64, covered: &[u64]) -> Vec<Effect> {
        let covered = covered.iter().map(|num| id(*num)).collect();
        let term = Term { slot, host: here(), seq, covered, is_silent: false };
        self.tell(now_ms, Input::Term(term))
    }

    fn gate(&self, num: u64) -> Option<Gate> {
        self.0.table().of(id(num)).map(|kept| kept.gate)
    }

    fn until(&self, num: u64) -> u64 {
        self.0.table().of(id(num)).expect("it is kept").until_ms
    }
}

#[test]
fn r9_the_grants_cover_a_hold_from_when_its_offer_was_made() {
    let mut bench = Bench::new(3, 2);
    let out = bench.tell(1_500, Input::Draft(draft(vec![hold(1, 1_000, &[0, 2])])));
    assert_eq!(out, [Effect::Open(uuid(1))]);
    assert_eq!(bench.until(1), 1_000 + D - K);
}

#[test]
fn r11_less_than_a_quorum_opens_no_gate() {
    let mut bench = Bench::new(3, 2);
    let out = bench.tell(1_000, Input::Draft(draft(vec![hold(1, 1_000, &[0])])));
    assert_eq!((out, bench.gate(1)), (vec![Effect::Seal(uuid(1))], Some(Gate::Sealing)));
}

#[test]
fn a_start_that_comes_too_late_never_runs() {
    let mut bench = Bench::new(1, 1);
    let out = bench.tell(D - K, Input::Draft(draft(vec![hold(1, 0, &[0])])));
    assert_eq!((out, bench.gate(1)), (vec![Effect::Seal(uuid(1))], Some(Gate::Sealing)));
    bench.tell(D - K + 1, Input::Empty(uuid(1)));
    assert_eq!(bench.gate(1), Some(Gate::Lost));
}

/// What was saved is gone, and with it that the gate is open; the guest is behind it still.
#[test]
fn a_keeper_that_has_forgotten_a_guest_ends_it_before_it_says_that_its_hold_is_lost() {
    let drafted = Input::Draft(draft(vec![hold(1, 0, &[0])]));
    let mut next = Bench(Keeper::new(here(), D, Saved::default()), None);
    next.tell(D, Input::Trust(trust(1, 1)));
    assert_eq!(next.tell(D, drafted), [Effect::Seal(uuid(1))]);
    assert_eq!(next.gate(1), Some(Gate::Sealing));
    next.tell(D + 1, Input::Empty(uuid(1)));
    assert_eq!(next.gate(1), Some(Gate::Lost));
}

#[test]
fn r10_a_term_lasts_from_when_its_statement_was_sent_not_from_when_it_came() {
    let mut bench = Bench::new(1, 1);
    bench.tell(0, Input::Draft(draft(vec![hold(1, 0, &[0])])));
    let seq = bench.statement(2_000).seq;
    bench.term(6_000, 0, seq, &[1]);
    assert_eq!(bench.until(1), 2_000 + D - K);
    let unknown = seq + 1;
    bench.term(6_001, 0, unknown, &[1]);
    assert_eq!(bench.until(1), 2_000 + D - K, "nothing was stated under that number");
    let later = bench.statement(6_500).seq;
    assert_ne!(later, seq, "it was due at the first answer");
    bench.term(6_600, 0, later, &[1]);
    bench.term(6_700, 0, seq, &[]);
    assert_eq!(bench.until(1), 6_000 + D - K, "an older answer says nothing");
}

#[test]
fn r10_what_is_listed_and_not_covered_is_not_covered_any_more() {
    let mut bench = Bench::new(3, 2);
    bench.tell(0, Input::Draft(draft(vec![hold(1, 0, &[0, 1])])));
    let seq = bench.statement(2_000).seq;
    assert_eq!(bench.term(2_100, 0, seq, &[]), [Effect::Seal(uuid(1))]);
    assert_eq!(bench.gate(1), Some(Gate::Sealing));
}

#[test]
fn r1_a_silent_member_takes_nothing_away() {
    let mut bench = Bench::new(1, 1);
    bench.tell(0, Input::Draft(draft(vec![hold(1, 0, &[0])])));
    let seq = bench.statement(2_000).seq;
    let (covered, is_silent) = (BTreeSet::new(), true);
    bench.tell(2_100, Input::Term(Term { slot: 0, host: here(), seq, covered, is_silent }));
    assert_eq!((bench.gate(1), bench.until(1)), (Some(Gate::Open), D - K));
}

#[test]
fn r12_the_gate_is_sealed_k_before_the_end_and_the_hold_is_stated_until_it_is_closed() {
    let mut bench = Bench::new(1, 1);
    let held = hold(1, 0, &[0]);
    bench.tell(0, Input::Draft(draft(vec![held.clone()])));
    assert_eq!(bench.0.due_ms().min(D - K), bench.0.due_ms(), "it wakes up in time");
    assert_eq!(bench.tell(D - K - 1, Input::Tick), []);
    assert_eq!(bench.tell(D - K, Input::Tick), [Effect::Seal(uuid(1))]);
    assert_eq!(bench.statement(D).items, std::slice::from_ref(&held.item));
    assert_eq!(bench.tell(D, Input::Empty(uuid(1))), []);
    assert_eq!(bench.gate(1), Some(Gate::Lost));
    assert_eq!(bench.statement(2 * D).items, [held.item]);
    assert_eq!(bench.tell(2 * D, Input::Draft(draft(vec![]))), [Effect::Remove(uuid(1))]);
    assert_eq!(bench.statement(3 * D).items, [], "the end is stated once more");
    assert_eq!(bench.0.due_ms(), u64::MAX, "and then there is nothing to say");
}

#[test]
fn r12_a_hold_that_was_lost_never_comes_back() {
    let mut bench = Bench::new(1, 1);
    bench.tell(0, Input::Draft(draft(vec![hold(1, 0, &[0])])));
    let seq = bench.statement(2_000).seq;
    bench.tell(D - K, Input::Tick);
    assert_eq!(bench.term(D - K + 1, 0, seq, &[1]), [], "the answer comes too late");
    bench.tell(D, Input::Empty(uuid(1)));
    let seq = bench.statement(D + 1_000).seq;
    assert_eq!(bench.term(D + 1_001, 0, seq, &[1]), []);
    assert_eq!(bench.gate(1), Some(Gate::Lost));
}

#[test]
fn r13_what_is_drafted_no_more_is_stated_until_nothing_of_it_is_left() {
    let mut bench = Bench::new(1, 1);
    let held = hold(1, 0, &[0]);
    bench.tell(0, Input::Draft(draft(vec![held.clone()])));
    assert_eq!(bench.tell(1, Input::Draft(draft(vec![]))), [Effect::Seal(uuid(1))]);
    assert_eq!(bench.statement(5_000).items, [held.item]);
    assert_eq!(bench.tell(5_001, Input::Empty(uuid(1))), [Effect::Remove(uuid(1))]);
    assert_eq!(bench.statement(9_000).items, []);
}

#[test]
fn a_new_hold_of_a_guest_waits_until_its_last_one_is_gone() {
    let mut bench = Bench::new(1, 1);
    bench.tell(0, Input::Draft(draft(vec![hold(1, 0, &[0])])));
    let out = bench.tell(1_000, Input::Draft(draft(vec![hold(2, 900, &[0])])));
    assert_eq!((out, bench.gate(2)), (vec![Effect::Seal(uuid(1))], Some(Gate::Shut)));
    assert_eq!(bench.tell(1_001, Input::Empty(uuid(1))), [Effect::Open(uuid(1))]);
    assert_eq!((bench.gate(1), bench.gate(2)), (None, Some(Gate::Open)));
}

/// The hold `num` of a guest that began under the hold `since`.
fn grown(num: u64, issued_ms: u64, since: u64) -> Drafted {
    Drafted { since: Some(id(since)), ..hold(num, issued_ms, &[0]) }
}

#[test]
fn a_hold_that_replaces_another_while_the_guest_runs_goes_on_with_its_gate_and_cover() {
    let mut bench = Bench::new(3, 2);
    bench.tell(0, Input::Draft(draft(vec![hold(1, 0, &[0, 1])])));
    let seq = bench.statement(4_000).seq;
    bench.term(4_001, 1, seq, &[1]);
    bench.term(4_001, 2, seq, &[1]);
    // Its only grant alone would be no quorum.
    let out = bench.tell(4_002, Input::Draft(draft(vec![grown(2, 3_000, 1)])));
    assert_eq!((out, bench.gate(1), bench.gate(2)), (vec![], None, Some(Gate::Open)));
    assert_eq!(bench.until(2), 4_000 + D - K);
    let stated = bench.statement(4_002);
    let ids: Vec<OfferId> = stated.items.iter().map(|item| item.id).collect();
    assert_eq!(ids, [id(2)]);
    bench.term(4_003, 0, stated.seq, &[2]);
    bench.term(4_003, 1, stated.seq, &[2]);
    assert_eq!(bench.until(2), 4_002 + D - K);
}

#[test]
fn a_keeper_that_missed_a_replacement_follows_the_next_and_no_other_guests() {
    let mut bench = Bench::new(1, 1);
    let mut other = hold(4, 0, &[0]);
    (other.item.job, other.uuid) = ("db".parse().unwrap(), uuid(4));
    bench.tell(0, Input::Draft(draft(vec![hold(1, 0, &[0]), other.clone()])));
    let out = bench.tell(1, Input::Draft(draft(vec![grown(5, 1, 1), other])));
    assert_eq!((out, bench.gate(5), bench.gate(4)), (vec![], Some(Gate::Open), Some(Gate::Open)));
    let out = bench.tell(2, Input::Draft(draft(vec![grown(9, 2, 6)])));
    assert_eq!(out, [Effect::Seal(uuid(4)), Effect::Seal(uuid(1))], "it began under another");
    assert_eq!(bench.gate(9), Some(Gate::Shut));
}

#[test]
fn a_right_that_is_over_does_not_come_back_with_a_new_hold() {
    let mut bench = Bench::new(1, 1);
    bench.tell(0, Input::Draft(draft(vec![hold(1, 0, &[0])])));
    assert_eq!(bench.tell(D - K, Input::Tick), [Effect::Seal(uuid(1))]);
    let out = bench.tell(D - K + 1, Input::Draft(draft(vec![grown(2, D - K, 1)])));
    assert_eq!((out, bench.gate(2)), (vec![], Some(Gate::Sealing)));
    assert_eq!(bench.tell(D, Input::Empty(uuid(1))), []);
    assert_eq!(bench.gate(2), Some(Gate::Lost), "told by its new number");
}

#[test]
fn a_killed_keeper_goes_on_where_it_was() {
    let mut bench = Bench::new(1, 1);
    bench.tell(0, Input::Draft(draft(vec![hold(1, 0, &[0])])));
    let seq = bench.statement(2_000).seq;
    bench.term(2_001, 0, seq, &[1]);
    let saved = bench.0.saved();
    let mut next = Bench(Keeper::new(here(), 3_000, saved), None);
    assert_eq!(next.tell(3_000, Input::Trust(trust(1, 1))), [Effect::Open(uuid(1))]);
    assert_eq!(next.until(1), 2_000 + D - K);
    assert!(next.statement(3_000 + D / 4).seq > seq, "no number is used twice");
    let saved = bench.0.saved();
    let mut late = Bench(Keeper::new(here(), D + 2_000, saved), None);
    let out = late.tell(D + 2_000, Input::Trust(trust(1, 1)));
    assert_eq!(out, [Effect::Seal(uuid(1))], "its agent has sealed it");
}

#[test]
fn an_agents_older_life_has_nothing_more_to_say() {
    let mut bench = Bench::new(1, 1);
    let new = Draft { epoch: Epoch(2), ..draft(vec![hold(1, 0, &[0])]) };
    bench.tell(0, Input::Draft(new));
    assert_eq!(bench.tell(1, Input::Draft(draft(vec![]))), []);
    assert_eq!(bench.gate(1), Some(Gate::Open));
}

#[test]
fn jobs_that_are_kept_are_stated_and_have_no_gate() {
    let mut bench = Bench::new(1, 1);
    let mut kept = hold(7, 0, &[0]);
    (kept.item.on_loss, kept.uuid) = (OnLoss::Keep, uuid(7));
    bench.tell(0, Input::Draft(draft(vec![kept.clone()])));
    assert_eq!(bench.0.due_ms(), u64::MAX, "nothing needs cover, so nothing is stated");
    bench.tell(0, Input::Draft(draft(vec![kept.clone(), hold(1, 0, &[0])])));
    assert_eq!(bench.statement(2_000).items.len(), 2);
    assert_eq!(bench.gate(7), None);
}

mod between;
mod witnesses;

/// What the watchdog gets, which bites after so long.
fn leash(bench: &Bench, now_ms: u64) -> Leash {
    bench.0.leash(now_ms, bench.0.bite_ms().expect("its terms are long enough"))
}

#[test]
fn a5_the_watchdog_is_fed_while_it_would_bite_before_the_cover_ends() {
    let mut bench = Bench::new(3, 2);
    assert_eq!(bench.0.bite_ms(), Some(D - 2 * K));
    assert_eq!(leash(&bench, 0), Leash::Off, "nothing is held");
    bench.tell(1_500, Input::Draft(draft(vec![hold(1, 1_000, &[0, 2])])));
    let last_ms = 1_000 + D - (D - 2 * K) - 250;
    assert_eq!(leash(&bench, last_ms), Leash::Feed);
    assert_eq!(leash(&bench, last_ms + 1), Leash::Starve, "cut off: no more than that");
    // Its keeper ends it in time, and there is nothing to bite for.
    let out = bench.tell(1_000 + D - K, Input::Tick);
    assert_eq!(out, [Effect::Seal(uuid(1))]);
    assert_eq!(leash(&bench, 1_000 + D - K), Leash::Starve);
    bench.tell(1_000 + D - K + 20, Input::Empty(uuid(1)));
    assert_eq!(leash(&bench, 1_000 + D - K + 20), Leash::Off);
}

#[test]
fn a5_the_watchdog_is_fed_always_while_every_other_renewal_is_lost() {
    let mut bench = Bench::new(3, 2);
    bench.tell(0, Input::Draft(draft(vec![hold(1, 0, &[0, 2])])));
    let (mut last, mut count) = (0, 0);
    for now_ms in (0..60_000).step_by(50) {
        let seq = bench.statement(now_ms).seq;
        if seq != last {
            (last, count) = (seq, count + 1);
            if count % 2 == 0 {
                bench.term(now_ms, 0, seq, &[1]);
                bench.term(now_ms, 1, seq, &[1]);
            }
        }
        assert_eq!(leash(&bench, now_ms), Leash::Feed, "at {now_ms} ms");
    }
}

#[test]
fn r12_the_watchdog_gets_nothing_once_a_kill_has_hung_for_half_of_k_whatever_covers_it_then() {
    let mut bench = Bench::new(3, 2);
    bench.tell(1_500, Input::Draft(draft(vec![hold(1, 1_000, &[0, 2])])));
    let over_ms = 1_000 + D - K;
    bench.tell(over_ms, Input::Tick);
    // One that bites so soon would have been fed until then.
    assert_eq!(bench.0.leash(over_ms + K / 2 - 250, K / 2), Leash::Feed);
    // The host is healed meanwhile, and arbiters cover what it still lists.
    let seq = bench.statement(over_ms + 200).seq;
    for slot in 0..3 {
        bench.term(over_ms + 210, slot, seq, &[1]);
    }
    assert_eq!(bench.0.leash(over_ms + K / 2, K / 2), Leash::Starve);
    assert_eq!(leash(&bench, over_ms + K / 2), Leash::Starve);
    assert_eq!(bench.gate(1), Some(Gate::Sealing));
}

#[test]
fn a5_a_next_keeper_feeds_nothing_before_it_knows_how_long_what_it_finds_is_covered() {
    let mut bench = Bench::new(3, 2);
    bench.tell(1_500, Input::Draft(draft(vec![hold(1, 1_000, &[0, 2])])));
    let mut next = Bench(Keeper::new(here(), 2_000, bench.0.saved()), None);
    assert_eq!((next.0.bite_ms(), next.0.leash(2_000, 5_000)), (None, Leash::Starve));
    next.tell(2_000, Input::Trust(trust(3, 2)));
    assert_eq!(leash(&next, 2_000), Leash::Feed);
}
