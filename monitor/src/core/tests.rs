//! Scripts for freshness and distrust, and two monitors that hear the same hosts badly.

use std::sync::Arc;

use proptest::prelude::*;
use protocol::event::Fact;
use protocol::host::{Host, HypervisorFacts};
use protocol::id::{Epoch, JobId, Revision};
use protocol::job::{Job, JobSpec, JobState};
use protocol::signed::SecretKey;
use protocol::vm::VmSpec;

use super::*;
use crate::packed::PackedRow;

fn host(n: u8) -> Host {
    let key = SecretKey::from_seed([n + 1; 32]).public();
    Host {
        name: format!("h{n}"),
        agent_version: "0".into(),
        hypervisor: HypervisorFacts {
            uri: "test:///default".into(),
            driver: "TEST".into(),
            libvirt_version: "9.0.0".into(),
            ..HypervisorFacts::default()
        },
        ..Host::of_key(key)
    }
}

fn id(n: u8) -> HostId {
    host(n).id
}

fn at(epoch: u64, seq: u64) -> Cursor {
    Cursor { epoch: Epoch(epoch), seq }
}

fn inventory(n: u8, cursor: Cursor) -> Frame {
    let inventory = Inventory { cursor, host: host(n), jobs: vec![], observed: vec![] };
    Frame::Inventory(Box::new(inventory))
}

fn job(n: u64) -> Job {
    let vm = VmSpec {
        vcpus: 1,
        memory_bytes: 1 << 30,
        disks: vec![],
        nics: vec![],
        ..VmSpec::default()
    };
    Job {
        revision: Revision(n),
        since_ms: n,
        ..Job::of(JobId::new(format!("j{}", n % 3)).unwrap(), JobSpec::vm(vm), JobState::Running)
    }
}

fn event(n: u8, cursor: Cursor) -> Event {
    let fact = Fact::JobChanged { job: Box::new(job(cursor.seq)) };
    Event { host: id(n), cursor, at_ms: 0, fact }
}

fn other() -> Source {
    Source::Monitor("https://m2".into())
}

/// A monitor with a script's shortcuts.
struct Monitor {
    core: Core,
    out: Vec<Effect>,
}

impl Monitor {
    /// One that started at 0 and is told to follow hosts 0..n.
    fn of(n: u8) -> Self {
        let sources = (0..n).map(|n| Source::Host(id(n))).collect();
        let mut monitor = Self { core: Core::new(0), out: vec![] };
        monitor.tell(
            0,
            Input::Wanted(Wanted {
                sources,
                roster: None,
                retired: BTreeSet::new(),
                is_settled: true,
            }),
        );
        monitor
    }

    fn following(monitor: bool, hosts: u8) -> Self {
        let mut sources: BTreeSet<Source> = (0..hosts).map(|n| Source::Host(id(n))).collect();
        sources.extend(monitor.then(other));
        let mut monitor = Self { core: Core::new(0), out: vec![] };
        monitor.tell(
            0,
            Input::Wanted(Wanted {
                sources,
                roster: None,
                retired: BTreeSet::new(),
                is_settled: true,
            }),
        );
        monitor
    }

    /// What is passed on is shown as the frame that it is.
    fn tell(&mut self, now_ms: u64, input: Input) -> Vec<Effect> {
        let came = match &input {
            Input::Frame { frame, .. } => Some(frame.clone()),
            Input::Read { inventory, .. } => Some(Frame::Inventory(inventory.clone())),
            _ => None,
        };
        self.core.handle(now_ms, input, &mut self.out);
        let out = std::mem::take(&mut self.out).into_iter();
        out.map(|effect| match (effect, &came) {
            (Effect::PassOn, Some(frame)) => Effect::Publish(frame.clone()),
            (Effect::PassOn, None) => panic!("nothing came that could be passed on"),
            (other, _) => other,
        })
        .collect()
    }

    fn open(&mut self, now_ms: u64, source: Source) -> Vec<Effect> {
        let url = format!("https://{source}");
        self.tell(now_ms, Input::Opened { source, url })
    }

    fn frame(&mut self, now_ms: u64, n: u8, frame: Frame) -> Vec<Effect> {
        self.tell(now_ms, Input::Frame { source: Source::Host(id(n)), frame })
    }

    /// Host n connects and tells everything.
    fn greet(&mut self, now_ms: u64, n: u8) {
        self.open(now_ms, Source::Host(id(n)));
        self.frame(now_ms, n, inventory(n, at(1, 0)));
        self.frame(now_ms, n, Frame::Current);
    }

    /// Ticks every second up to `to_ms`, the given hosts being alive.
    fn live(&mut self, from_ms: u64, to_ms: u64, alive: &[u8]) {
        for now_ms in (from_ms..=to_ms).step_by(1_000) {
            for n in alive {
                self.tell(now_ms, Input::Alive { source: Source::Host(id(*n)) });
            }
            self.tell(now_ms, Input::Tick);
        }
    }

    fn status(&self, n: u8) -> HostStatus {
        let all = self.core.statuses();
        all.into_iter().find(|status| status.host == id(n)).expect("a status for the host")
    }

    fn freshness(&self, n: u8) -> Freshness {
        self.status(n).freshness
    }
}

#[test]
fn a_view_is_complete_once_every_named_host_was_heard_or_given_up() {
    let mut monitor = Monitor::of(2);
    assert!(!monitor.core.is_complete(0));
    monitor.greet(100, 0);
    assert!(!monitor.core.is_complete(100));
    let why = "connection refused".to_owned();
    monitor.tell(200, Input::Ended { source: Source::Host(id(1)), why });
    assert_eq!(monitor.core.waiting_for(200).len(), 1);
    assert!(monitor.core.waiting_for(200)[0].contains("connection refused"));
    assert!(monitor.core.is_complete(GIVE_UP_MS), "given up");
    assert_eq!(monitor.status(1).trouble.as_deref(), Some("connection refused"));
    monitor.greet(GIVE_UP_MS, 1);
    assert_eq!(monitor.status(1).trouble, None);
}

#[test]
fn a_view_is_not_complete_while_discovery_has_not_answered() {
    let core = Core::new(0);
    assert!(!core.is_complete(1 << 40));
    assert_eq!(core.waiting_for(0), ["an answer from discovery"]);
}

#[test]
fn silence_makes_a_row_stale_then_lost_and_one_word_makes_it_fresh() {
    let mut monitor = Monitor::of(3);
    (0..3).for_each(|n| monitor.greet(0, n));
    monitor.live(0, 40_000, &[0, 1, 2]);
    monitor.live(41_000, 45_000, &[0, 1]);
    assert_eq!(monitor.freshness(2), Freshness::Fresh);
    monitor.live(46_000, 55_000, &[0, 1]);
    assert_eq!(monitor.freshness(2), Freshness::Stale);
    monitor.live(56_000, 56_000, &[0, 1]);
    assert_eq!(monitor.freshness(2), Freshness::Lost);
    assert_eq!(monitor.core.cursor(&id(2)), Some(at(1, 0)), "the row stays");
    let effects = monitor.tell(57_000, Input::Alive { source: Source::Host(id(2)) });
    let fresh = Frame::Freshness { host: id(2), freshness: Freshness::Fresh, age_ms: 0 };
    assert_eq!(effects, [Effect::Publish(fresh)]);
}

#[test]
fn lost_never_changes_jobs() {
    let mut monitor = Monitor::of(3);
    (0..3).for_each(|n| monitor.greet(0, n));
    monitor.frame(0, 2, Frame::Event(event(2, at(1, 1))));
    let before = monitor.core.view().clone();
    monitor.live(0, 80_000, &[0, 1]);
    assert_eq!(monitor.freshness(2), Freshness::Lost);
    assert_eq!(*monitor.core.view(), before);
}

#[test]
fn a_monitor_that_has_just_started_declares_nobody_lost() {
    let mut monitor = Monitor::of(3);
    (0..3).for_each(|n| monitor.greet(0, n));
    monitor.live(1_000, GRACE_MS - 1_000, &[0, 1]);
    assert_eq!(monitor.freshness(2), Freshness::Stale);
    monitor.live(GRACE_MS, GRACE_MS, &[0, 1]);
    assert_eq!(monitor.freshness(2), Freshness::Lost);
}

#[test]
fn a_monitor_that_was_asleep_declares_nobody_lost() {
    let mut monitor = Monitor::of(3);
    (0..3).for_each(|n| monitor.greet(0, n));
    monitor.live(0, 40_000, &[0, 1, 2]);
    monitor.live(100_000, 110_000, &[0, 1]);
    assert_eq!(monitor.freshness(2), Freshness::Stale);
}

#[test]
fn when_most_hosts_vanish_at_once_the_monitor_suspects_itself() {
    let mut monitor = Monitor::of(3);
    (0..3).for_each(|n| monitor.greet(0, n));
    monitor.live(0, 40_000, &[0, 1, 2]);
    monitor.live(41_000, 90_000, &[0]);
    assert_eq!(monitor.freshness(1), Freshness::Stale);
    let trouble = monitor.status(1).trouble.unwrap();
    assert!(trouble.contains("2 of 3") && trouble.contains("I may be the one cut off"));
    // One comes back; the other alone is no majority.
    monitor.live(91_000, 92_000, &[0, 1]);
    assert_eq!(monitor.freshness(2), Freshness::Lost);
    assert_eq!(monitor.status(1).trouble, None);
}

#[test]
fn hosts_that_die_one_after_the_other_are_each_declared_lost() {
    let mut monitor = Monitor::of(4);
    (0..4).for_each(|n| monitor.greet(0, n));
    monitor.live(0, 40_000, &[0, 1, 2, 3]);
    monitor.live(41_000, 60_000, &[0, 1, 2]);
    monitor.live(61_000, 80_000, &[0, 1]);
    monitor.live(81_000, 100_000, &[0]);
    let all: Vec<Freshness> = (0..4).map(|n| monitor.freshness(n)).collect();
    assert_eq!(all, [Freshness::Fresh, Freshness::Lost, Freshness::Lost, Freshness::Lost]);
}

#[test]
fn a_gap_asks_for_an_inventory_once_and_changes_nothing() {
    let mut monitor = Monitor::of(1);
    monitor.greet(0, 0);
    let before = monitor.core.view().clone();
    let source = Source::Host(id(0));
    let effects = monitor.frame(1, 0, Frame::Event(event(0, at(1, 2))));
    assert_eq!(effects, [Effect::Resync(source.clone())]);
    assert_eq!(monitor.frame(2, 0, Frame::Event(event(0, at(1, 3)))), []);
    assert_eq!(*monitor.core.view(), before);
    assert!(monitor.status(0).trouble.unwrap().contains("1:2"));
    monitor.open(3, source);
    monitor.frame(3, 0, inventory(0, at(1, 3)));
    monitor.frame(3, 0, Frame::Current);
    assert_eq!(monitor.core.cursor(&id(0)), Some(at(1, 3)));
    assert_eq!(monitor.status(0).trouble, None);
}

#[test]
fn a_host_that_breaks_the_rules_is_quarantined_and_its_row_kept() {
    let mut foreign_key = host(0);
    foreign_key.key = host(1).key;
    let self_denial = Fact::HostChanged { host: Box::new(host(1)) };
    let changed = Event { fact: self_denial, ..event(0, at(1, 1)) };
    let stolen = Inventory { cursor: at(9, 0), host: foreign_key, jobs: vec![], observed: vec![] };
    let freshness = Frame::Freshness { host: id(0), freshness: Freshness::Fresh, age_ms: 0 };
    for (hostile, words) in [
        (inventory(1, at(9, 0)), "speaks for host"),
        (Frame::Event(event(1, at(1, 1))), "speaks for host"),
        (Frame::Event(changed), "describes itself as"),
        (Frame::Inventory(Box::new(stolen)), "shows the key of"),
        (freshness, "no say"),
        (inventory(0, at(1, u64::MAX)), "beyond"),
        (inventory(0, at(u64::MAX, 0)), "beyond"),
    ] {
        let mut monitor = Monitor::of(2);
        monitor.greet(0, 0);
        monitor.greet(0, 1);
        let before = monitor.core.view().clone();
        let effects = monitor.frame(1, 0, hostile);
        let [Effect::Quarantine { source, why }] = &effects[..] else {
            panic!("{words}: {effects:?}");
        };
        assert!(why.contains(words), "{why}");
        assert_eq!(*source, Source::Host(id(0)));
        assert_eq!(*monitor.core.view(), before, "{words}");
        assert_eq!(monitor.frame(2, 0, Frame::Event(event(0, at(1, 1)))), [], "{words}: ignored");
        let trouble = monitor.status(0).trouble.unwrap();
        assert!(trouble.starts_with("quarantined: ") && trouble.contains(words), "{trouble}");
        assert_eq!(monitor.frame(2, 1, Frame::Event(event(1, at(1, 1)))).len(), 1, "others go on");
        // Believed again when it behaves.
        monitor.greet(3, 0);
        monitor.frame(3, 0, Frame::Event(event(0, at(1, 1))));
        assert_eq!(monitor.core.cursor(&id(0)), Some(at(1, 1)));
        assert_eq!(monitor.status(0).trouble, None);
    }
}

#[test]
fn the_reason_of_a_quarantine_outlives_the_stream_and_is_of_bounded_length() {
    let mut monitor = Monitor::of(1);
    monitor.greet(0, 0);
    let source = Source::Host(id(0));
    monitor.tell(1, Input::Hostile { source: source.clone(), why: "x".repeat(1 << 20) });
    monitor.tell(1, Input::Ended { source, why: "closed".into() });
    let trouble = monitor.status(0).trouble.unwrap();
    assert!(trouble.starts_with("quarantined: xxx") && trouble.len() < 500);
}

#[test]
fn an_epoch_never_goes_back_and_the_operator_is_told() {
    let mut monitor = Monitor::of(1);
    monitor.greet(0, 0);
    monitor.frame(0, 0, inventory(0, at(5, 7)));
    assert_eq!(monitor.frame(1, 0, inventory(0, at(2, 9))), []);
    assert_eq!(monitor.core.cursor(&id(0)), Some(at(5, 7)));
    assert!(monitor.status(0).trouble.unwrap().contains("older copy"));
}

#[test]
fn a_host_that_is_wanted_no_more_keeps_its_row_and_a_retired_one_does_not() {
    let mut monitor = Monitor::of(2);
    for n in 0..2 {
        monitor.greet(0, n);
    }
    let wanted = |retired: BTreeSet<HostId>| {
        let roster = Some([id(0)].into());
        let sources = [Source::Host(id(0))].into();
        Input::Wanted(Wanted { sources, roster, retired, is_settled: true })
    };
    monitor.tell(1, wanted(BTreeSet::new()));
    assert!(monitor.core.view().host(&id(1)).is_some());
    monitor.tell(2, wanted([id(1)].into()));
    assert!(monitor.core.view().host(&id(1)).is_none());
    assert!(monitor.core.statuses().iter().all(|status| status.host == id(0)));
    assert!(monitor.core.view().host(&id(0)).is_some());
}

#[test]
fn with_trust_nobody_off_the_roster_enters_the_view() {
    let mut monitor = Monitor::following(true, 0);
    let roster = Some([id(0)].into());
    let sources = [other(), Source::Host(id(0))].into();
    monitor.tell(
        0,
        Input::Wanted(Wanted { sources, roster, retired: BTreeSet::new(), is_settled: true }),
    );
    monitor.open(0, other());
    for n in 0..2 {
        let frame = inventory(n, at(1, 0));
        monitor.tell(0, Input::Frame { source: other(), frame });
    }
    let known: Vec<HostId> = monitor.core.view().hosts().map(|(host, _)| host.clone()).collect();
    assert_eq!(known, [id(0)]);
}

#[test]
fn a_row_known_only_through_another_monitor_is_as_old_as_that_one_says() {
    let mut monitor = Monitor::following(true, 0);
    monitor.open(0, other());
    let say = |monitor: &mut Monitor, now_ms, frame| {
        monitor.tell(now_ms, Input::Frame { source: other(), frame })
    };
    let age = |age_ms| Frame::Freshness { host: id(0), freshness: Freshness::Fresh, age_ms };
    say(&mut monitor, 30_000, inventory(0, at(1, 0)));
    say(&mut monitor, 30_000, age(1_000));
    say(&mut monitor, 30_000, Frame::Current);
    assert_eq!(monitor.freshness(0), Freshness::Fresh);
    assert!(monitor.core.is_complete(30_000));
    // The monitor lives, the host does not: its ages grow, and so do ours.
    for now_ms in (31_000..44_000).step_by(2_000) {
        say(&mut monitor, now_ms, age(now_ms - 29_000));
        monitor.tell(now_ms, Input::Tick);
    }
    assert_eq!(monitor.status(0).heard_ms, 29_000);
    assert_eq!(monitor.freshness(0), Freshness::Stale);
}

#[test]
fn two_monitors_that_follow_each_other_do_not_keep_a_dead_host_alive() {
    let mut monitors = [Monitor::following(true, 3), Monitor::following(true, 3)];
    for monitor in &mut monitors {
        (0..3).for_each(|n| monitor.greet(0, n));
        monitor.open(0, other());
    }
    for now_ms in (0..60_000).step_by(1_000) {
        let told: Vec<Vec<Frame>> = monitors.iter().map(|m| m.core.ages(now_ms)).collect();
        for (monitor, frames) in monitors.iter_mut().zip(told.into_iter().rev()) {
            for frame in frames {
                monitor.tell(now_ms, Input::Frame { source: other(), frame });
            }
            let alive: &[u8] = if now_ms < 30_000 { &[0, 1, 2] } else { &[0, 1] };
            monitor.live(now_ms, now_ms, alive);
        }
    }
    assert_eq!(monitors.map(|m| m.freshness(2)), [Freshness::Lost; 2]);
}

#[test]
fn a_second_monitors_sight_keeps_a_host_from_being_lost() {
    let mut monitor = Monitor::following(true, 3);
    (0..3).for_each(|n| monitor.greet(0, n));
    monitor.open(0, other());
    monitor.live(0, 40_000, &[0, 1, 2]);
    // We hear nobody any more; the other monitor still hears all but one of them.
    for now_ms in (41_000..=70_000).step_by(1_000) {
        for n in 0..2 {
            let frame = Frame::Freshness { host: id(n), freshness: Freshness::Fresh, age_ms: 500 };
            monitor.tell(now_ms, Input::Frame { source: other(), frame });
        }
        monitor.live(now_ms, now_ms, &[]);
    }
    let all: Vec<Freshness> = (0..3).map(|n| monitor.freshness(n)).collect();
    assert_eq!(all, [Freshness::Fresh, Freshness::Fresh, Freshness::Lost]);
    assert_eq!(
        *monitor.status(0).path,
        *other().to_string().replace("monitor ", "https://monitor ")
    );
}

#[test]
fn what_a_newer_agent_says_is_told_until_it_starts_anew() {
    let mut monitor = Monitor::of(1);
    monitor.greet(0, 0);
    monitor.tell(1, Input::Newer { host: id(0), what: "its moon".into() });
    let is_noted = |monitor: &Monitor| {
        monitor.status(0).trouble.is_some_and(|why| why.starts_with("newer agent: its moon"))
    };
    assert!(is_noted(&monitor));
    monitor.greet(2, 0);
    assert!(is_noted(&monitor), "the same life says such things again");
    monitor.frame(3, 0, inventory(0, at(2, 0)));
    assert!(!is_noted(&monitor));
}

#[test]
fn a_reading_outside_the_stream_enters_the_view_by_the_same_rules() {
    let mut monitor = Monitor::of(1);
    monitor.greet(0, 0);
    let read = |monitor: &mut Monitor, n: u8, cursor: Cursor| {
        let Frame::Inventory(inventory) = inventory(n, cursor) else { unreachable!() };
        monitor.tell(9, Input::Read { url: "https://h".into(), inventory })
    };
    assert_eq!(read(&mut monitor, 0, at(1, 4)).len(), 1);
    assert_eq!(monitor.core.cursor(&id(0)), Some(at(1, 4)));
    assert_eq!(read(&mut monitor, 0, at(1, 2)), [], "never back");
    assert_eq!(monitor.status(0).heard_ms, 9);
}

#[test]
fn ages_are_told_every_two_seconds() {
    let mut monitor = Monitor::of(1);
    monitor.greet(0, 0);
    let told = |monitor: &mut Monitor, now_ms| {
        let effects = monitor.tell(now_ms, Input::Tick);
        effects.contains(&Effect::PublishAges) && monitor.core.ages(now_ms).len() == 1
    };
    let times = (0..=8).filter(|half| told(&mut monitor, half * 500)).count();
    assert_eq!(times, 2);
}

/// A host's agent as far as followers see it: what it was at every cursor.
#[derive(Debug, Clone)]
struct Agent {
    n: u8,
    states: Vec<Inventory>,
    events: Vec<Event>,
}

impl Agent {
    /// Each step changes a job, or (multiples of 7) restarts the agent.
    fn living(n: u8, steps: &[u8]) -> Self {
        let mut view = PackedView::default();
        let Frame::Inventory(first) = inventory(n, at(1, 0)) else { unreachable!() };
        view.merge_inventory(*first);
        let mut agent = Self { n, states: vec![], events: vec![] };
        agent.remember(&view);
        for step in steps {
            let row = view.host(&id(n)).unwrap().clone();
            if step % 7 == 0 {
                let cursor = at(row.cursor.epoch.0 + 1, 0);
                view.merge_inventory(PackedRow { cursor, ..row }.into());
            } else {
                let event = event(n, row.cursor.next());
                view.merge_event(&event);
                agent.events.push(event);
            }
            agent.remember(&view);
        }
        agent
    }

    fn remember(&mut self, view: &PackedView) {
        self.states.push(view.host(&id(self.n)).unwrap().clone().into());
    }

    /// What a subscriber gets who connects when the host was in state `upto`.
    fn stream(&self, cursor: Option<Cursor>, upto: usize) -> Vec<Frame> {
        let now = &self.states[upto];
        let is_resumable = cursor.is_some_and(|c| c.epoch == now.cursor.epoch && c <= now.cursor);
        let mut frames = vec![];
        if is_resumable {
            let missed = self
                .events
                .iter()
                .filter(|event| Some(event.cursor) > cursor && event.cursor <= now.cursor);
            frames.extend(missed.cloned().map(Frame::Event));
        } else {
            frames.push(Frame::Inventory(Box::new(now.clone())));
        }
        frames.push(Frame::Current);
        let later = self
            .events
            .iter()
            .filter(|event| event.cursor > now.cursor && event.cursor.epoch == now.cursor.epoch);
        frames.extend(later.cloned().map(Frame::Event));
        frames
    }

    fn last(&self) -> usize {
        self.states.len() - 1
    }
}

/// One step of a bad network: connect to a host at some moment of its life, and get part of the
/// stream, with frames lost, repeated or swapped.
#[derive(Debug, Clone)]
struct Visit {
    n: u8,
    moment: usize,
    frames: usize,
    with_cursor: bool,
    lost: Option<usize>,
    repeated: Option<usize>,
    swapped: Option<usize>,
}

fn visit() -> impl Strategy<Value = Visit> {
    let some = || prop::option::weighted(0.3, 0..12usize);
    (0..3u8, any::<usize>(), 0..12usize, any::<bool>(), some(), some(), some()).prop_map(
        |(n, moment, frames, with_cursor, lost, repeated, swapped)| Visit {
            n,
            moment,
            frames,
            with_cursor,
            lost,
            repeated,
            swapped,
        },
    )
}

fn pay(monitor: &mut Monitor, agents: &[Agent], visit: &Visit) -> Vec<Frame> {
    let Some(agent) = agents.get(usize::from(visit.n)) else { return vec![] };
    let cursor = monitor.core.cursor(&id(agent.n)).filter(|_| visit.with_cursor);
    let mut frames = agent.stream(cursor, visit.moment % agent.states.len());
    if let Some(i) = visit.swapped.filter(|i| i + 1 < frames.len()) {
        frames.swap(i, i + 1);
    }
    if let Some(i) = visit.repeated.filter(|i| *i < frames.len()) {
        frames.insert(i, frames[i].clone());
    }
    if let Some(i) = visit.lost.filter(|i| *i < frames.len()) {
        frames.remove(i);
    }
    frames.truncate(visit.frames);
    deliver(monitor, agent, frames)
}

fn deliver(monitor: &mut Monitor, agent: &Agent, frames: Vec<Frame>) -> Vec<Frame> {
    monitor.open(0, Source::Host(id(agent.n)));
    let mut published = vec![];
    for frame in frames {
        let before = monitor.core.cursor(&id(agent.n));
        for effect in monitor.frame(0, agent.n, frame) {
            match effect {
                Effect::Publish(frame) => published.push(frame),
                Effect::PassOn | Effect::Resync(_) | Effect::PublishAges => {}
                Effect::Quarantine { why, .. } => panic!("an honest host was quarantined: {why}"),
            }
        }
        let after = monitor.core.cursor(&id(agent.n));
        assert!(before <= after, "the view went back from {before:?} to {after:?}");
        if let Some(row) = monitor.core.view().host(&id(agent.n)) {
            let is_real = agent.states.iter().any(|state| PackedRow::from(state.clone()) == *row);
            assert!(is_real, "the view holds a state that never was");
        }
    }
    published
}

fn settle(monitor: &mut Monitor, agents: &[Agent]) {
    for agent in agents {
        let cursor = monitor.core.cursor(&id(agent.n));
        deliver(monitor, agent, agent.stream(cursor, agent.last()));
    }
}

fn lives() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 0..12), 1..4)
}

fn agents(lives: &[Vec<u8>]) -> Vec<Agent> {
    lives.iter().enumerate().map(|(n, l)| Agent::living(u8::try_from(n).unwrap(), l)).collect()
}

proptest! {
    #[test]
    fn any_number_of_monitors_end_equal_whatever_the_network_did(
        lives in lives(),
        networks in prop::collection::vec(prop::collection::vec(visit(), 0..24), 1..6),
    ) {
        let agents = agents(&lives);
        let mut views = vec![];
        for visits in &networks {
            let mut monitor = Monitor::of(3);
            for visit in visits { pay(&mut monitor, &agents, visit); }
            settle(&mut monitor, &agents);
            views.push(monitor.core.view().clone());
        }
        for view in &views {
            prop_assert_eq!(view, &views[0]);
            for agent in &agents {
                let truth = PackedRow::from(agent.states[agent.last()].clone());
                prop_assert_eq!(view.host(&id(agent.n)), Some(&truth));
            }
        }
    }

    /// The ring tells again what came after a position: from wherever a follower resumes, even with
    /// some of it told twice, it ends where the monitor is.
    #[test]
    fn a_subscriber_that_resumes_anywhere_ends_where_the_monitor_is(
        lives in lives(),
        visits in prop::collection::vec(visit(), 0..24),
        left_at in any::<prop::sample::Index>(),
        back_to in any::<prop::sample::Index>(),
    ) {
        let agents = agents(&lives);
        let mut upper = Monitor::of(3);
        let mut deltas = vec![];
        for visit in &visits { deltas.extend(pay(&mut upper, &agents, visit)); }
        let left_at = left_at.index(deltas.len() + 1);
        let back_to = back_to.index(left_at + 1);
        let mut lower = Monitor::following(true, 0);
        lower.open(0, other());
        for frame in deltas[..left_at].iter().chain(&deltas[back_to..]) {
            let frame = frame.clone();
            let effects = lower.tell(0, Input::Frame { source: other(), frame });
            prop_assert!(!effects.iter().any(|e| matches!(e, Effect::Resync(_))), "a gap");
        }
        prop_assert_eq!(lower.core.view(), upper.core.view());
    }

    #[test]
    fn a_subscriber_that_takes_every_delta_knows_what_the_monitor_knows(
        lives in lives(),
        before in prop::collection::vec(visit(), 0..12),
        after in prop::collection::vec(visit(), 0..24),
    ) {
        let agents = agents(&lives);
        let mut upper = Monitor::of(3);
        for visit in &before { pay(&mut upper, &agents, visit); }
        let mut lower = Monitor::following(true, 0);
        lower.open(0, other());
        let rows: Vec<PackedRow> = upper.core.view().hosts().map(|(_, row)| row.clone()).collect();
        let mut deltas: Vec<Frame> =
            rows.into_iter().map(|row| Frame::Inventory(Box::new(row.into()))).collect();
        for visit in &after { deltas.extend(pay(&mut upper, &agents, visit)); }
        for frame in deltas {
            let effects = lower.tell(0, Input::Frame { source: other(), frame });
            prop_assert!(!effects.iter().any(|e| matches!(e, Effect::Resync(_))), "a gap");
        }
        prop_assert_eq!(lower.core.view(), upper.core.view());
    }
}

#[test]
fn a_view_is_cheap_to_publish() {
    let mut monitor = Monitor::of(1);
    monitor.greet(0, 0);
    let before = monitor.core.view().host(&id(0)).unwrap().host.clone();
    monitor.frame(1, 0, Frame::Event(event(0, at(1, 1))));
    let after = monitor.core.view().host(&id(0)).unwrap();
    assert!(Arc::ptr_eq(&before, &after.host), "what did not change is shared");
}
