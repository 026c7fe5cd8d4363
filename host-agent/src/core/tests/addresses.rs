//! Guests' addresses: when they are looked for, and what is told of them.

use hypervisor::{DomainEvent, Lifecycle};
use protocol::job::{Address, AddressSource, Card, Unknown};

use super::*;

fn card(known: Option<(&str, AddressSource)>) -> Card {
    Card {
        mac: "52:54:00:00:00:01".into(),
        plug: "network".into(),
        source: Some("default".into()),
        device: None,
        addresses: known
            .map(|(ip, from)| Address { ip: ip.parse().unwrap(), from })
            .into_iter()
            .collect(),
        unknown: known.is_none().then_some(Unknown::NotSeen),
    }
}

const LEASE: Option<(&str, AddressSource)> = Some(("10.0.0.5", AddressSource::Lease));
const SEEN: Option<(&str, AddressSource)> = Some(("10.0.0.5", AddressSource::Neighbour));

/// A lone host on which these run.
fn running(names: &[&str]) -> Bench {
    let mut bench = Bench::lone();
    for name in names {
        bench.put(name, body(1, 1, None)).unwrap();
        bench.end_work(WorkOutcome::Done);
    }
    bench.events.clear();
    bench
}

fn pass(bench: &mut Bench, ms: u64) {
    bench.now.mono_ms += ms;
    bench.tell(Input::Tick);
}

/// Answers the one look that is under way.
fn answer(bench: &mut Bench, cards: Option<Vec<Card>>) {
    let (job, look) = bench.card_looks.pop().expect("a look is under way");
    assert!(bench.card_looks.is_empty());
    bench.tell(Input::Cards { job, look, cards });
}

fn shown(bench: &Bench) -> Vec<Card> {
    bench.agent.job(&job_id("web-1")).unwrap().job.cards.to_vec()
}

/// What followers were told of the cards since the last time.
fn told(bench: &mut Bench) -> Vec<Vec<Card>> {
    let cards = |event: Event| match event.fact {
        Fact::JobChanged { job } => Some(job.cards.to_vec()),
        _ => None,
    };
    std::mem::take(&mut bench.events).into_iter().filter_map(cards).collect()
}

#[test]
fn an_address_is_looked_for_often_while_the_guest_boots_and_told_once() {
    let mut bench = running(&["web-1"]);
    for _ in 0..3 {
        pass(&mut bench, 2_000);
        answer(&mut bench, Some(vec![card(None)]));
    }
    assert_eq!(told(&mut bench), [vec![card(None)]], "what has not changed is no news");
    pass(&mut bench, 2_000);
    answer(&mut bench, Some(vec![card(LEASE)]));
    assert_eq!(told(&mut bench), [vec![card(LEASE)]]);
    assert_eq!(shown(&bench), [card(LEASE)]);
    pass(&mut bench, 30_000);
    assert_eq!(bench.card_looks, [], "now it is settled");
    pass(&mut bench, 30_000);
    answer(&mut bench, Some(vec![card(LEASE)]));
    assert_eq!(told(&mut bench), Vec::<Vec<Card>>::new());
}

#[test]
fn a_guest_that_was_seen_before_its_lease_is_looked_at_until_that_is_known() {
    let mut bench = running(&["web-1"]);
    pass(&mut bench, 1);
    answer(&mut bench, Some(vec![card(SEEN)]));
    pass(&mut bench, 2_000);
    answer(&mut bench, Some(vec![card(LEASE)]));
    assert_eq!(told(&mut bench), [vec![card(SEEN)], vec![card(LEASE)]]);
    pass(&mut bench, 15_000);
    assert_eq!(bench.card_looks, [], "now it is settled");
}

#[test]
fn a_guest_that_stays_without_an_address_is_looked_at_less_often() {
    let mut bench = running(&["web-1"]);
    pass(&mut bench, 1);
    answer(&mut bench, Some(vec![card(None)]));
    pass(&mut bench, 120_000);
    answer(&mut bench, Some(vec![card(None)]));
    pass(&mut bench, 2_000);
    assert_eq!(bench.card_looks, []);
    pass(&mut bench, 13_000);
    answer(&mut bench, Some(vec![card(None)]));
}

#[test]
fn the_guests_agent_makes_us_look_at_once_but_not_for_ever() {
    let mut bench = running(&["web-1"]);
    pass(&mut bench, 1);
    answer(&mut bench, Some(vec![card(LEASE)]));
    let uuid = job_id("web-1").domain_uuid();
    let what = Lifecycle::AgentChanged;
    let (before, event) = (bench.looks.len(), DomainEvent { uuid, name: "web-1".into(), what });
    for _ in 0..5 {
        bench.tell(Input::Domain(event.clone()));
        pass(&mut bench, 100);
    }
    assert_eq!(bench.card_looks, [], "no guest makes us look more often than every two seconds");
    assert_eq!(bench.looks.len(), before, "its state is another matter");
    pass(&mut bench, 1_500);
    answer(&mut bench, None);
    assert_eq!(shown(&bench), [card(LEASE)], "no answer is no news");
}

#[test]
fn few_guests_are_looked_at_at_a_time_and_each_has_its_turn() {
    let names: Vec<String> = (0..10).map(|n| format!("web-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut bench = Bench::new(HOST, LedgerState { epoch: Epoch(1), ..LedgerState::default() });
    for name in &names {
        bench.disk.jobs.push(record(name));
    }
    bench.die(false);
    let capacity = Resources { vcpus: 10, memory_bytes: 10 << 30, disk_bytes: 0 };
    bench.tell(Input::Capacity(capacity));
    let mut looked: BTreeMap<JobId, u64> = BTreeMap::new();
    for _ in 0..3 {
        pass(&mut bench, 1_000);
        let looks = std::mem::take(&mut bench.card_looks);
        assert_eq!(looks.len(), 4);
        pass(&mut bench, 1_000);
        assert_eq!(bench.card_looks, [], "nothing more while these are not answered");
        for (job, look) in looks {
            looked.insert(job.clone(), look);
            bench.tell(Input::Cards { job, look, cards: Some(vec![card(None)]) });
        }
    }
    assert_eq!(looked.len(), 10, "who was not looked at comes before who was");
}

#[test]
fn who_was_seen_on_the_wire_and_is_silent_keeps_its_address_a_while() {
    let mut bench = running(&["web-1"]);
    pass(&mut bench, 1);
    answer(&mut bench, Some(vec![card(SEEN)]));
    told(&mut bench);
    for _ in 0..4 {
        pass(&mut bench, 60_000);
        answer(&mut bench, Some(vec![card(None)]));
    }
    assert_eq!((told(&mut bench), shown(&bench)), (vec![], vec![card(SEEN)]));
    pass(&mut bench, 60_000);
    answer(&mut bench, Some(vec![card(None)]));
    assert_eq!(told(&mut bench), [vec![card(None)]]);
}

#[test]
fn a_guest_that_has_ended_has_no_address_and_a_late_answer_gives_it_none() {
    let mut bench = running(&["web-1"]);
    pass(&mut bench, 1);
    answer(&mut bench, Some(vec![card(LEASE)]));
    pass(&mut bench, 60_000);
    let (job, look) = bench.card_looks.pop().unwrap();
    let stop = Request::Stop { job: job.clone(), stop: StopJob::within(5) };
    bench.ask(stop).unwrap();
    bench.end_work(WorkOutcome::Done);
    assert_eq!(shown(&bench), []);
    bench.tell(Input::Cards { job, look, cards: Some(vec![card(LEASE)]) });
    assert_eq!(shown(&bench), []);
    assert_eq!(told(&mut bench).last().unwrap(), &[]);
}

#[test]
fn another_life_believes_nothing_that_it_has_not_seen() {
    let mut bench = running(&["web-1"]);
    pass(&mut bench, 1);
    answer(&mut bench, Some(vec![card(LEASE)]));
    // Written with the next change of the row, and not shown for that.
    let mut record = bench.agent.job(&job_id("web-1")).unwrap().clone();
    record.job.since_ms += 1;
    write_to(&mut bench.disk, Write::Job(Box::new(record)));
    bench.die(false);
    assert_eq!(shown(&bench), []);
    pass(&mut bench, 1);
    answer(&mut bench, Some(vec![card(LEASE)]));
    assert_eq!(shown(&bench), [card(LEASE)]);
}
