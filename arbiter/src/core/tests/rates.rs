//! How many VMs a tenant may start within a time: what counts, for how long, what is given back, what a restart
//! forgets; and no interleaving with any quorum that starts more.

use protocol::tenure::Standing;
use protocol::trust::{Policy, StartRate, TenantPolicy};

use super::stop::item;
use super::*;

const WITHIN_S: u32 = 600;

fn with_rate(trust: Trust, starts: u32) -> Trust {
    let start_rate = Some(StartRate { starts, within_s: WITHIN_S });
    let rules = TenantPolicy { start_rate, ..TenantPolicy::default() };
    let policy = Policy { default: Some(rules), tenants: BTreeMap::new() };
    policy.validate().unwrap();
    Trust { policy: Arc::new(policy), ..trust }
}

fn counted_ms(trust: &Trust) -> u64 {
    let rate = trust.policy.start_rate(&TenantId::default_tenant()).unwrap();
    rate.counted_ms(trust.term_ms, trust.clock_ppm)
}

fn for_ms(answer: &Result<Resources, DenialReason>) -> Option<u64> {
    match answer {
        Err(DenialReason::Rate { for_ms, .. }) => *for_ms,
        other => panic!("not for want of starts: {other:?}"),
    }
}

#[test]
fn a_start_counts_for_its_time_and_the_no_says_how_much_longer() {
    let trust = with_rate(trust(1, 1, 1), 2);
    let counted_ms = counted_ms(&trust);
    let mut arbiter = Arbiter::ready(trust);
    assert_eq!(arbiter.ask(1_000, &offer(0, 1, "a", 1)), Ok(vcpus(1)));
    assert_eq!(arbiter.ask(5_000, &offer(0, 2, "b", 1)), Ok(vcpus(1)));
    let third = offer(0, 3, "c", 1);
    assert_eq!(for_ms(&arbiter.ask(6_000, &third)), Some(counted_ms - 5_000));
    assert_eq!(for_ms(&arbiter.ask(1_000 + counted_ms - 1, &third)), Some(1));
    assert_eq!(arbiter.ask(1_000 + counted_ms, &third), Ok(vcpus(1)));
    let fourth = for_ms(&arbiter.ask(1_000 + counted_ms, &offer(0, 4, "d", 1)));
    assert_eq!(fourth, Some(4_000), "the second is still counted");
}

#[test]
fn the_same_request_counts_once_and_so_does_more_of_its_debit() {
    let trust = with_quota(with_rate(trust(1, 1, 1), 1), 9);
    let mut arbiter = Arbiter::ready(trust);
    let ask = offer(0, 1, "a", 3);
    assert_eq!(arbiter.wish(1, &ask, 1), Ok(vcpus(1)));
    assert_eq!(arbiter.wish(2, &ask, 1), Ok(vcpus(1)));
    assert_eq!(arbiter.wish(3, &ask, 3), Ok(vcpus(3)));
    assert!(matches!(arbiter.ask(4, &offer(0, 2, "b", 1)), Err(DenialReason::Rate { .. })));
}

#[test]
fn who_asks_again_is_told_that_its_own_start_is_left() {
    let mut arbiter = Arbiter::ready(with_rate(trust(1, 1, 1), 1));
    assert_eq!(arbiter.ask(1, &offer(0, 1, "a", 1)), Ok(vcpus(1)));
    let left = |arbiter: &Arbiter, job: &str| {
        let job = JobId::new(job).unwrap();
        let room = arbiter.core.tenant_room(2, &TenantId::default_tenant(), &job).unwrap();
        room.starts.unwrap().left()
    };
    assert_eq!((left(&arbiter, "a"), left(&arbiter, "b")), (1, 0));
    arbiter.hears(3, 0, statement(1, vec![hold(1, "a", 1)], &[]));
    assert_eq!(left(&arbiter, "a"), 0, "it was started by it");
}

#[test]
fn a_grant_that_books_no_vm_takes_no_start() {
    let trust = with_rate(trust(3, 2, 1), 1);
    let mut arbiter = Arbiter::ready(trust);
    let signed = |num: u64, job: &str| Signed::seal(&offer(0, num, job, 1), &key(HOST));
    let wish = |vms| Some(Amounts { vms, ..vcpus(1).into() });
    for (num, vms, is_granted) in
        [(1, 0, true), (2, 0, true), (3, 1, true), (4, 1, false), (5, 0, true)]
    {
        let job = format!("j{num}");
        let (verdict, _) = arbiter.ask_for(num, signed(num, &job), wish(vms));
        assert_eq!(matches!(verdict, Verdict::Grant(_)), is_granted, "offer {num}");
    }
    // The first is to be one of those that book it after all.
    let (verdict, _) = arbiter.ask_for(6, signed(1, "j1"), wish(1));
    assert!(matches!(verdict, Verdict::Denial(_)), "{verdict:?}");
}

#[test]
fn what_moves_fails_over_or_grows_takes_no_start() {
    let mut arbiter = Arbiter::ready(with_rate(trust(1, 1, 2), 1));
    let stop = |offer: Offer| Offer { on_loss: OnLoss::Stop, ..offer };
    let held = |num| vec![item(num, "web", Standing::Hold)];
    assert_eq!(arbiter.ask(1, &stop(offer(0, 1, "web", 1))), Ok(vcpus(1)));
    assert_eq!(arbiter.covers(2, 0, 1, held(1)), [1]);
    assert_eq!(arbiter.ask(3, &stop(resize(0, 2, "web", 2))), Ok(vcpus(2)));
    assert_eq!(arbiter.covers(4, 0, 2, held(2)), [2]);
    let action = Action::FailOver { from: host(0), hold: id(1, 2) };
    let elsewhere = stop(Offer { action, ..offer(1, 1, "web", 1) });
    assert_eq!(arbiter.ask(2 * T, &elsewhere), Ok(vcpus(1)));
    assert_eq!(arbiter.covers(2 * T, 1, 1, held(1)), [1]);
    assert_eq!(arbiter.ask(2 * T, &stop(migrate_in(0, 3, "web", 1, id(1, 1)))), Ok(vcpus(1)));
    assert!(matches!(arbiter.ask(2 * T, &offer(0, 9, "b", 1)), Err(DenialReason::Rate { .. })));
}

#[test]
fn a_start_is_given_back_by_its_hosts_word_alone() {
    let mut arbiter = Arbiter::ready(with_rate(trust(1, 1, 2), 1));
    assert_eq!(arbiter.ask(1, &offer(0, 1, "a", 1)), Ok(vcpus(1)));
    let next = offer(1, 1, "a", 1);
    // It is over, and whether it was used nobody has said: it may have run, and be gone again.
    arbiter.hears(2, 0, statement(1, vec![], &[]));
    assert!(matches!(arbiter.ask(3, &next), Err(DenialReason::Rate { .. })));
    let unused = |n, num| {
        let unused = BTreeSet::from([id(1, num)]);
        (n, Statement { unused, ..statement(num, vec![], &[]) })
    };
    let (n, of_another) = unused(1, 1);
    arbiter.hears(4, n, of_another);
    let (verdict, out) = arbiter.ask_signed(4, Signed::seal(&offer(1, 2, "a", 1), &key(HOST + 1)));
    assert!(matches!(verdict, Verdict::Denial(_)));
    assert!(out.contains(&Effect::ReadHost { host: host(0) }), "it may have news: {out:?}");
    let (n, its) = unused(0, 1);
    arbiter.hears(5, n, its.clone());
    assert_eq!(arbiter.ask(6, &offer(1, 2, "a", 1)), Ok(vcpus(1)));
    arbiter.hears(7, n, its);
    assert!(matches!(arbiter.ask(8, &offer(1, 3, "b", 1)), Err(DenialReason::Rate { .. })));
}

#[test]
fn an_arbiter_that_may_have_forgotten_starts_grants_none_until_they_would_be_over() {
    let trust = with_rate(trust(1, 1, 1), 2);
    let counted_ms = counted_ms(&trust);
    let mut arbiter = Arbiter::started(trust.clone(), 1_000, true);
    arbiter.hears(1_000 + T, 0, statement(0, vec![], &[]));
    let ask = offer(0, 1, "web", 1);
    assert_eq!(for_ms(&arbiter.ask(1_000 + T, &ask)), Some(counted_ms - T));
    assert_eq!(arbiter.ask(1_000 + counted_ms, &ask), Ok(vcpus(1)));
    // A rule that came while it was there counts what came after it.
    let mut before = Arbiter::started(super::trust(1, 1, 1), 1_000, true);
    before.hears(1_000 + T, 0, statement(0, vec![], &[]));
    before.tell(2_000, Input::Trust(Arc::new(Trust { version: 2, ..trust })));
    let ask = Offer { trust_version: 2, ..ask };
    assert_eq!(before.ask(2_000 + T, &ask), Ok(vcpus(1)));
}

#[test]
fn who_takes_a_slot_over_grants_no_start_that_the_one_before_may_have_granted() {
    let trust = Trust { version: 5, ..with_rate(trust(1, 1, 1), 1) };
    let counted_ms = counted_ms(&trust);
    let mut arbiter = Arbiter::started(trust, 0, false);
    arbiter.hears(0, 0, statement(0, vec![], &[]));
    let ask = Offer { trust_version: 5, ..offer(0, 1, "web", 1) };
    assert_eq!(for_ms(&arbiter.ask(T, &ask)), Some(counted_ms - T));
}

#[test]
fn parts_that_do_not_go_evenly_go_to_the_lowest_slots() {
    let room = |slot: u8, starts: u32| {
        let mut core = Core::new(key(ARBITER + slot).public(), 0, false);
        let trust = with_rate(trust(3, 2, 0), starts);
        core.handle(0, Input::Trust(Arc::new(trust)), &mut vec![]);
        core.tenant_room(0, &TenantId::default_tenant(), &JobId::new("web").unwrap()).unwrap()
    };
    let parts =
        |starts| (0..3).map(|slot| room(slot, starts).starts.unwrap().part).collect::<Vec<_>>();
    assert_eq!(parts(1), [1, 1, 0]);
    assert_eq!(parts(2), [2, 1, 1]);
    assert_eq!(parts(9), [6, 6, 6]);
    assert_eq!(room(2, 1).starts.unwrap().for_ms, None, "it has no part");
}

/// A few hosts and arbiters with clocks of their own, between which anything is lost.
#[derive(Debug, Clone)]
enum Deed {
    /// A host offers a start; these arbiters are asked, in this order, each to book the VM or not.
    Start {
        h: usize,
        asks: Vec<(usize, bool)>,
    },
    /// An offer ends unused.
    Void {
        pick: usize,
    },
    /// A VM ends, and its row is gone.
    End {
        pick: usize,
    },
    /// An arbiter reads a host.
    Read {
        h: usize,
        a: usize,
    },
    Restart {
        a: usize,
    },
    Wait {
        ms: u64,
    },
}

fn deed() -> impl Strategy<Value = Deed> {
    let asks = prop::collection::vec((0..5usize, prop::bool::weighted(0.8)), 2..8);
    prop_oneof![
        16 => (0..2usize, asks).prop_map(|(h, asks)| Deed::Start { h, asks }),
        2 => any::<usize>().prop_map(|pick| Deed::Void { pick }),
        2 => any::<usize>().prop_map(|pick| Deed::End { pick }),
        6 => (0..2usize, 0..5usize).prop_map(|(h, a)| Deed::Read { h, a }),
        1 => (0..5usize).prop_map(|a| Deed::Restart { a }),
        4 => (1..200_000u64).prop_map(|ms| Deed::Wait { ms }),
    ]
}

struct Tried {
    host: usize,
    id: OfferId,
    is_open: bool,
    is_used: bool,
    is_there: bool,
}

/// Plays them; when in real time each VM was started.
fn started((n, k): (u8, u32), starts: u32, ppm: &[i64], deeds: &[Deed]) -> Vec<u64> {
    let trust = with_rate(trust(n, k, 2), starts);
    let members = usize::from(n);
    let started_ms: Vec<u64> = vec![0; members];
    let new = |a: usize, now_ms: u64, is_old: bool| {
        let mut core = Core::new(key(ARBITER + u8::try_from(a).unwrap()).public(), now_ms, is_old);
        core.handle(now_ms, Input::Trust(Arc::new(trust.clone())), &mut vec![]);
        core
    };
    let mut cores: Vec<Core> = (0..members).map(|a| new(a, started_ms[a], false)).collect();
    let mut tried: Vec<Tried> = Vec::new();
    let (mut real_ms, mut started) = (0u64, Vec::new());
    let clock = |a: usize, real_ms: u64| {
        let drift = i64::try_from(real_ms).unwrap() * ppm[a] / 1_000_000;
        real_ms.saturating_add_signed(drift)
    };
    let read = |core: &mut Core, now_ms: u64, h: usize, tried: &[Tried]| {
        let its = || tried.iter().filter(|one| one.host == h);
        let told =
            |wanted: fn(&Tried) -> bool| its().filter(move |one| wanted(one)).map(|one| one.id);
        let holds = told(|one| one.is_there).map(|id| hold(id.num, &format!("j{}", id.num), 1));
        let open: Vec<u64> = told(|one| one.is_open).map(|id| id.num).collect();
        let unused = told(|one| !one.is_open && !one.is_used).collect();
        let last = its().map(|one| one.id.num).max().unwrap_or(0);
        let statement = Statement { unused, ..statement(last, holds.collect(), &open) };
        let host = host(u8::try_from(h).unwrap());
        core.handle(now_ms, Input::Statement { host, asked_ms: now_ms, statement }, &mut vec![]);
    };
    for (a, core) in cores.iter_mut().enumerate() {
        (0..2).for_each(|h| read(core, clock(a, 0), h, &tried));
    }
    for deed in deeds {
        match deed {
            Deed::Start { h, asks } => {
                let num = u64::try_from(tried.len()).unwrap() + 1;
                let n = u8::try_from(*h).unwrap();
                let signed = Signed::seal(&offer(n, num, &format!("j{num}"), 1), &key(HOST + n));
                let mut debits: BTreeMap<u32, Amounts> = BTreeMap::new();
                for (a, books) in asks.iter().map(|(a, books)| (a % members, *books)) {
                    let wish = Some(Amounts { vms: u32::from(books), ..vcpus(1).into() });
                    let (offer, mut out) = (signed.clone(), vec![]);
                    let ask = Input::Ask { request: 0, wall_ms: 0, offer, wish };
                    cores[a].handle(clock(a, real_ms), ask, &mut out);
                    if let Some(Effect::Answer { verdict: Verdict::Grant(grant), .. }) = out.pop() {
                        debits.insert(grant.slot, grant.debit);
                    }
                }
                let booked = debits.values().map(|debit| debit.vms.min(1)).sum::<u32>();
                let is_used = debits.len() >= k as usize && booked >= k;
                let id = id(1, num);
                tried.push(Tried { host: *h, id, is_open: !is_used, is_used, is_there: is_used });
                if is_used {
                    // As late as it can be: the host's clock is slow, and the offer about to end.
                    started.push(real_ms + if num % 2 == 0 { TERM_MS } else { 0 });
                }
            }
            Deed::Void { pick } if !tried.is_empty() => {
                let at = pick % tried.len();
                tried[at].is_open = false;
            }
            Deed::End { pick } if !tried.is_empty() => {
                let at = pick % tried.len();
                tried[at].is_there = false;
            }
            Deed::Void { .. } | Deed::End { .. } => {}
            Deed::Read { h, a } => {
                let a = a % members;
                read(&mut cores[a], clock(a, real_ms), *h, &tried);
            }
            Deed::Restart { a } => {
                let a = a % members;
                cores[a] = new(a, clock(a, real_ms), true);
            }
            Deed::Wait { ms } => real_ms += ms,
        }
    }
    started.sort_unstable();
    started
}

proptest! {
    #[test]
    fn no_interleaving_starts_more_within_the_time_than_the_rate_says(
        members in prop::sample::select(vec![(1u8, 1u32), (3, 2), (3, 3), (5, 3)]),
        starts in 1..5u32,
        ppm in prop::collection::vec(-2_000..=2_000i64, 5),
        deeds in prop::collection::vec(deed(), 0..80),
    ) {
        let started = started(members, starts, &ppm, &deeds);
        for (first, last) in started.iter().zip(started.iter().skip(starts as usize)) {
            prop_assert!(last - first > u64::from(WITHIN_S) * 1_000, "{starts}: {started:?}");
        }
    }
}

/// The property above would hold as well if nothing were ever started.
#[test]
fn random_interleavings_use_the_rate_up() {
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let deeds = prop::collection::vec(deed(), 80);
    let (mut all, mut close) = (0, 0);
    for _ in 0..32 {
        let deeds = deeds.new_tree(&mut runner).unwrap().current();
        let started = started((3, 2), 4, &[0; 5], &deeds);
        all += started.len();
        let pairs = started.iter().zip(started.iter().skip(1));
        close += pairs.filter(|(first, last)| *last - *first < u64::from(WITHIN_S) * 1_000).count();
    }
    assert!(all > 60 && close > 20, "{all} starts, {close} with another within the time");
}

#[test]
fn who_remembers_as_much_as_it_may_says_no_only_until_some_of_it_is_over() {
    let trust = with_rate(trust(1, 1, 1), 10_000);
    let counted_ms = counted_ms(&trust);
    let tenant = |n: u64| TenantId::new(format!("t{}", n / 10_000)).unwrap();
    let mut arbiter = Arbiter::ready(trust.clone());
    for n in 0..100_000 {
        arbiter.core.rates.count(1_000, &trust, &tenant(n), (&host(9), id(1, n)));
    }
    let web = |num| Offer { tenant: tenant(100_000), ..offer(0, num, "web", 1) };
    assert!(for_ms(&arbiter.ask(2_000, &web(1))).is_some(), "its tenant has started none");
    arbiter.hears(1_000 + counted_ms, 0, statement(0, vec![], &[1]));
    assert_eq!(arbiter.ask(1_000 + counted_ms, &web(1)), Ok(vcpus(1)));
}
