//! Merging against a naive model: a host's history is a list, a view is a prefix of it.

use proptest::prelude::*;

use super::*;
use crate::event::Frame;
use crate::host::HypervisorFacts;
use crate::id::{Epoch, Revision};
use crate::job::JobSpec;
use crate::resources::Resources;
use crate::signed::SecretKey;
use crate::vm::VmSpec;

fn host(n: u8) -> Host {
    let key = SecretKey::from_seed([n; 32]).public();
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

fn job(n: u8, revision: u64) -> Job {
    Job {
        revision: Revision(revision),
        since_ms: revision,
        ..Job::of(
            JobId::new(format!("j{n}")).unwrap(),
            JobSpec::vm(VmSpec {
                vcpus: 1,
                memory_bytes: 1 << 30,
                disks: vec![],
                nics: vec![],
                ..VmSpec::default()
            }),
            JobState::Running,
        )
    }
}

/// What one host said, in order: facts by epoch, each epoch starting with an inventory.
#[derive(Debug, Clone)]
struct History {
    inventories: Vec<Inventory>,
    events: Vec<Event>,
}

/// `script`: per step, which job changes (or, at multiples of 7, a restart of the agent).
fn history(n: u8, script: &[u8]) -> History {
    let mut row = HostRow::from(Inventory {
        cursor: Cursor { epoch: Epoch(1), seq: 0 },
        host: host(n),
        jobs: vec![],
        observed: vec![],
    });
    let mut said = History { inventories: vec![row.clone().into()], events: vec![] };
    for (i, step) in script.iter().enumerate() {
        if step % 7 == 0 {
            row.cursor = Cursor { epoch: Epoch(row.cursor.epoch.0 + 1), seq: 0 };
        } else {
            let fact = if step % 5 == 0 {
                Fact::JobDeleted { job: job(step % 3, 0).id }
            } else {
                Fact::JobChanged { job: Box::new(job(step % 3, i as u64)) }
            };
            let event =
                Event { host: host(n).id, cursor: row.cursor.next(), at_ms: i as u64, fact };
            row.apply(event.clone());
            said.events.push(event);
        }
        said.inventories.push(row.clone().into());
    }
    said
}

#[derive(Debug, Clone)]
enum Said {
    Inventory(Box<Inventory>),
    Event(Event),
}

fn tell(view: &mut View, said: &Said) {
    match said {
        Said::Inventory(inventory) => {
            view.merge_inventory(Inventory::clone(inventory));
        }
        Said::Event(event) => {
            view.merge_event(event);
        }
    }
}

fn everything(histories: &[History]) -> Vec<Said> {
    let mut all = vec![];
    for history in histories {
        all.extend(history.inventories.iter().cloned().map(Box::new).map(Said::Inventory));
        all.extend(history.events.iter().cloned().map(Said::Event));
    }
    all
}

fn scripts() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 0..12), 1..4)
}

proptest! {
    #[test]
    fn any_order_with_loss_and_repetition_ends_equal_once_the_last_word_arrives(
        scripts in scripts(),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 0..60),
        turns in prop::collection::vec(any::<prop::sample::Index>(), 0..60),
    ) {
        let histories: Vec<History> =
            scripts.iter().enumerate().map(|(n, s)| history(u8::try_from(n).unwrap(), s)).collect();
        let all = everything(&histories);
        let mut one = View::default();
        let mut other = View::default();
        for pick in picks { tell(&mut one, pick.get(&all)); }
        for turn in turns { tell(&mut other, turn.get(&all)); }
        for history in &histories {
            let last = history.inventories.last().unwrap();
            one.merge_inventory(last.clone());
            other.merge_inventory(last.clone());
        }
        prop_assert_eq!(one, other);
    }

    #[test]
    fn a_view_never_goes_back(
        script in prop::collection::vec(any::<u8>(), 0..20),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 0..60),
    ) {
        let history = history(0, &script);
        let all = everything(std::slice::from_ref(&history));
        let mut view = View::default();
        let mut at = Cursor::default();
        for pick in picks {
            tell(&mut view, pick.get(&all));
            let now = view.hosts().next().map_or(Cursor::default(), |(_, row)| row.cursor);
            prop_assert!(now >= at);
            at = now;
        }
        // Whatever it was told, what it holds is a state the host was really in.
        if let Some((_, row)) = view.hosts().next() {
            let real = history.inventories.iter().any(|i| HostRow::from(i.clone()) == *row);
            prop_assert!(real, "the view holds a state that never was");
        }
    }

    #[test]
    fn merging_views_is_commutative_associative_and_idempotent(
        scripts in scripts(),
        picks in prop::collection::vec((any::<prop::sample::Index>(), 0u8..3), 0..60),
    ) {
        let histories: Vec<History> =
            scripts.iter().enumerate().map(|(n, s)| history(u8::try_from(n).unwrap(), s)).collect();
        let all = everything(&histories);
        let mut views = [View::default(), View::default(), View::default()];
        for (pick, which) in picks { tell(&mut views[usize::from(which)], pick.get(&all)); }
        let merged = |order: [usize; 3]| {
            let mut sum = View::default();
            for i in order { sum.merge_view(&views[i]); }
            sum
        };
        let abc = merged([0, 1, 2]);
        prop_assert_eq!(&abc, &merged([2, 1, 0]));
        let mut bc = views[1].clone();
        bc.merge_view(&views[2]);
        let mut a_bc = views[0].clone();
        a_bc.merge_view(&bc);
        prop_assert_eq!(&abc, &a_bc);
        let mut again = abc.clone();
        again.merge_view(&abc);
        prop_assert_eq!(&abc, &again);
    }
}

#[test]
fn an_event_that_is_not_the_next_is_a_gap_and_changes_nothing() {
    let history = history(0, &[1, 2, 3]);
    let mut view = View::default();
    assert_eq!(view.merge_event(&history.events[0]), Merge::Gap { at: Cursor::default() });
    view.merge_inventory(history.inventories[0].clone());
    let before = view.clone();
    assert_eq!(
        view.merge_event(&history.events[2]),
        Merge::Gap { at: history.inventories[0].cursor }
    );
    assert_eq!(view, before);
    assert_eq!(view.merge_event(&history.events[0]), Merge::Applied);
    assert_eq!(view.merge_event(&history.events[0]), Merge::Old);
}

#[test]
fn a_host_that_claims_the_last_number_cannot_break_the_arithmetic() {
    let mut inventory = history(0, &[]).inventories.remove(0);
    inventory.cursor.seq = u64::MAX;
    let event = Event {
        host: inventory.host.id.clone(),
        cursor: inventory.cursor,
        at_ms: 0,
        fact: Fact::JobDeleted { job: job(1, 0).id },
    };
    let mut view = View::default();
    view.merge_inventory(inventory);
    assert_eq!(view.merge_event(&event), Merge::Old);
    let earlier = Event { cursor: Cursor { seq: 0, ..event.cursor }, ..event };
    assert_eq!(view.merge_event(&earlier), Merge::Old);
}

#[test]
fn every_fact_survives_the_wire() {
    let domain = ObservedDomain {
        uuid: Uuid::from_u128(1),
        name: "legacy".into(),
        is_active: true,
        resources: Resources::ZERO,
        page_size: None,
        is_persistent: true,
    };
    let facts = [
        Fact::JobChanged { job: Box::new(job(1, 2)) },
        Fact::JobDeleted { job: job(1, 2).id },
        Fact::HostChanged { host: Box::new(host(1)) },
        Fact::DomainGone { uuid: domain.uuid },
        Fact::DomainObserved { domain },
    ];
    for fact in facts {
        let cursor = Cursor { epoch: Epoch(1), seq: 1 };
        let frame = Frame::Event(Event { host: host(1).id, cursor, at_ms: 1, fact });
        let text = serde_json::to_string(&frame).unwrap();
        assert_eq!(serde_json::from_str::<Frame>(&text).unwrap(), frame, "{text}");
    }
}

#[test]
fn a_view_survives_the_wire() {
    let mut view = View::default();
    view.merge_inventory(history(1, &[1, 2, 3]).inventories.pop().unwrap());
    let text = serde_json::to_string(&view).unwrap();
    assert_eq!(serde_json::from_str::<View>(&text).unwrap(), view);
}

#[test]
fn a_person_may_name_a_host_by_name_or_the_beginning_of_its_id() {
    let mut view = View::default();
    for n in 0..3 {
        view.merge_inventory(history(n, &[]).inventories.pop().unwrap());
    }
    let h1 = host(1);
    assert_eq!(view.find_host("h1").unwrap().host.id, h1.id);
    assert_eq!(view.find_host(&h1.id.as_str()[..9]).unwrap().host.id, h1.id);
    assert_eq!(view.find_host("nobody").unwrap_err().len(), 0);
}

proptest! {
    #[test]
    fn what_has_changed_of_a_hosts_jobs_is_what_a_look_at_all_of_them_finds(
        before in prop::collection::btree_map(0..12_u8, 0..3_u64, 0..10),
        changes in prop::collection::vec((0..12_u8, prop::option::of(0..3_u64)), 0..6),
        is_shared in any::<bool>(),
    ) {
        let before = Jobs::of(before.into_iter().map(|(n, revision)| job(n, revision)).collect());
        // Made from the other and sharing rows with it, or heard anew.
        let mut now = if is_shared { before.clone() } else { Jobs::of(before.whole()) };
        for (n, revision) in changes {
            match revision {
                Some(revision) => now.put(Box::new(job(n, revision))),
                None => now.drop_job(&job(n, 0).id),
            }
        }
        let ids = (0..12).map(|n| job(n, 0).id).collect::<std::collections::BTreeSet<_>>();
        let changed = ids.iter().map(|id| (before.get(id), now.get(id))).filter(|(old, new)| old != new);
        prop_assert_eq!(now.changed_since(&before), changed.collect::<Vec<_>>());
    }
}
