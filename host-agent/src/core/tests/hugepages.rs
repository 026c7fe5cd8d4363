//! Huge pages: who has which, what of them an offer holds, and what others take.

use protocol::hugepages::{HugepageFacts, PageSize, Pages};
use protocol::vm::Hardware;

use super::*;
use crate::core::HugepagesSeen;

/// The host has so many of 2 MiB, of which so many are taken by whomever.
fn seen(total: u64, taken: u64) -> Input {
    Input::Hugepages(BTreeMap::from([(PageSize::MIB2, HugepagesSeen { total, taken })]))
}

fn with_pages(mut bench: Bench, total: u64) -> Bench {
    bench.tell(seen(total, 0));
    bench
}

/// One CPU, and memory in so many pages of 2 MiB.
fn paged(pages: u64) -> JobSpec {
    JobSpec::vm(vm(pages))
}

fn vm(pages: u64) -> VmSpec {
    let hardware = Box::new(Hardware { hugepages_kib: Some(2048), ..Hardware::default() });
    VmSpec { vcpus: 1, memory_bytes: pages << 21, hardware, ..VmSpec::default() }
}

fn put(revision: u64, pages: u64) -> PutJob {
    PutJob::of(Revision(revision), paged(pages))
}

fn facts(bench: &Bench) -> HugepageFacts {
    bench.agent.inventory().host.hugepages.get(&PageSize::MIB2).copied().unwrap_or_default()
}

fn none(asked: u64, free: u64, total: u64) -> Refusal {
    Refusal::NoHugepages { page_size: PageSize::MIB2, asked, free, total }
}

fn stop(bench: &mut Bench, name: &str) {
    bench.ask(Request::Stop { job: job_id(name), stop: StopJob::within(0) }).unwrap();
    bench.end_work(WorkOutcome::Done);
}

#[test]
fn pages_are_a_jobs_from_its_row_until_its_end_and_no_memory_beside_them() {
    let mut bench = with_pages(Bench::lone(), 64);
    bench.put("a", put(1, 40)).unwrap();
    assert_eq!(facts(&bench), HugepageFacts { total: 64, promised: 40, others: 0 });
    assert_eq!(bench.agent.inventory().host.allocation.memory_bytes, 0);
    assert_eq!(bench.put("b", put(1, 32)), Err(none(32, 24, 64)));
    assert!(bench.agent.job(&job_id("b")).is_none(), "nothing was changed");
    bench.end_work(WorkOutcome::Done);
    stop(&mut bench, "a");
    assert_eq!(facts(&bench).promised, 0);
    bench.put("b", put(1, 32)).unwrap();
    // What has ended and starts again is asked as the first time.
    bench.end_work(WorkOutcome::Done);
    assert_eq!(bench.put("a", put(2, 40)), Err(none(40, 32, 64)));
}

#[test]
fn a_host_that_has_not_counted_or_has_none_gives_none() {
    let mut bench = Bench::lone();
    assert_eq!(bench.put("a", put(1, 32)), Err(none(32, 0, 0)));
    bench.tell(seen(0, 0));
    assert_eq!(bench.put("a", put(1, 32)), Err(none(32, 0, 0)));
    assert!(bench.agent.inventory().host.hugepages.is_empty(), "of none nothing is said");
}

#[test]
fn an_offer_holds_its_pages_until_it_ends() {
    let mut bench = with_pages(Bench::trusted(HOST), 64);
    let ask = |name: &str| OfferRequest {
        job: job_id(name),
        revision: Revision(1),
        spec: paged(40),
        action: Action::Start,
        finds_disks: false,
    };
    let Ok(Reply::Offered(offered)) = bench.ask(Request::Offer(ask("a"))) else {
        panic!("there are pages enough");
    };
    assert_eq!(facts(&bench).promised, 40);
    assert_eq!(bench.ask(Request::Offer(ask("b"))), Err(none(40, 24, 64)));
    // Its own ticket finds them free.
    let ticket = Some(granted(offered.offer));
    bench.put("a", PutJob { ticket, ..put(1, 40) }).unwrap();
    assert_eq!(facts(&bench).promised, 40);
    // Another one that nobody redeems.
    bench.tell(seen(128, 0));
    assert!(bench.ask(Request::Offer(ask("b"))).is_ok());
    assert_eq!(facts(&bench).promised, 80);
    bench.now.mono_ms += 60_000;
    bench.tell(Input::Tick);
    assert_eq!(facts(&bench).promised, 40);
}

#[test]
fn what_is_taken_beyond_what_jobs_have_is_others_and_the_lesser_of_two_counts_is_believed() {
    let mut bench = with_pages(Bench::lone(), 64);
    bench.put("a", put(1, 32)).unwrap();
    bench.end_work(WorkOutcome::Done);
    bench.tell(seen(64, 32));
    assert_eq!(facts(&bench).others, 0);
    // Another program takes some: that is believed when it is seen again.
    bench.tell(seen(64, 48));
    assert_eq!(facts(&bench).others, 0);
    bench.tell(seen(64, 48));
    assert_eq!(facts(&bench), HugepageFacts { total: 64, promised: 32, others: 16 });
    assert_eq!(bench.put("b", put(1, 17)), Err(none(17, 16, 64)));
    // It gives them back: that is believed at once.
    bench.tell(seen(64, 32));
    assert_eq!(facts(&bench).others, 0);
    // A guest that ends between a count and its coming is nobody else.
    stop(&mut bench, "a");
    bench.tell(seen(64, 32));
    assert_eq!(facts(&bench), HugepageFacts { total: 64, promised: 0, others: 0 });
    bench.tell(seen(64, 0));
    bench.put("b", put(1, 64)).unwrap();
}

#[test]
fn a_change_of_the_pool_is_news_and_takes_from_nobody() {
    let mut bench = with_pages(Bench::lone(), 64);
    bench.put("a", put(1, 64)).unwrap();
    let before = bench.events.len();
    bench.tell(seen(64, 64));
    assert_eq!(bench.events.len(), before, "nothing is new");
    bench.tell(seen(32, 32));
    assert!(matches!(bench.events.last().map(|e| &e.fact), Some(Fact::HostChanged { .. })));
    assert_eq!(facts(&bench), HugepageFacts { total: 32, promised: 64, others: 0 });
    assert_eq!(bench.put("b", put(1, 32)), Err(none(32, 0, 32)));
    bench.tell(seen(128, 64));
    bench.put("b", put(1, 32)).unwrap();
}

#[test]
fn a_guest_of_others_in_huge_pages_takes_no_other_memory_and_is_adopted_with_its_pages() {
    let mut bench = Bench::lone();
    let uuid = uuid::Uuid::from_u128(7);
    let theirs = DomainInfo {
        uuid,
        job: None,
        page_size: Some(PageSize::MIB2),
        ..domain("legacy", DomainState::Running)
    };
    bench.tell(Input::Domains(vec![theirs]));
    let took = bench.agent.inventory().host.allocation;
    assert_eq!((took.vcpus, took.memory_bytes), (1, 0));
    // All are its own: 512 hold 1 GiB.
    bench.tell(seen(512, 512));
    assert_eq!(facts(&bench), HugepageFacts { total: 512, promised: 0, others: 512 });
    assert_eq!(bench.put("a", put(1, 32)), Err(none(32, 0, 512)));
    let spec = JobSpec::vm(VmSpec { adopted: Some(uuid), ..vm(512) });
    bench.put("b", PutJob::of(Revision(1), spec)).unwrap();
    bench.tell(seen(512, 512));
    assert_eq!(facts(&bench), HugepageFacts { total: 512, promised: 512, others: 0 });
    assert_eq!(bench.agent.inventory().host.allocation.memory_bytes, 0);
}

#[test]
fn the_next_life_counts_the_same() {
    let mut bench = with_pages(Bench::lone(), 64);
    bench.put("a", put(1, 40)).unwrap();
    bench.end_work(WorkOutcome::Done);
    bench.die(false);
    let memory_bytes = 80 << 20;
    let resources = Resources { memory_bytes, ..domain("a", DomainState::Running).resources };
    bench.tell(Input::Domains(vec![DomainInfo {
        resources,
        memory_now_bytes: memory_bytes,
        ..domain("a", DomainState::Running)
    }]));
    bench.tell(seen(64, 40));
    assert_eq!(facts(&bench), HugepageFacts { total: 64, promised: 40, others: 0 });
    assert_eq!(bench.agent.jobs.pages(), Pages { mib2: 40, gib1: 0 });
}
