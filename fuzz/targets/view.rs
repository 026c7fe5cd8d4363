//! What hosts have said, in any order, with loss and repetition: a view never goes back, holds only
//! what a host has really said, and does not depend on the way by which it came.

#![no_main]

use std::collections::BTreeMap;

use arbitrary::Arbitrary;
use fuzz::{host, job, job_id};
use libfuzzer_sys::fuzz_target;
use protocol::event::{Event, Fact};
use protocol::host::Inventory;
use protocol::id::{Cursor, Epoch, HostId};
use protocol::job::ObservedDomain;
use protocol::resources::Resources;
use protocol::view::{HostRow, Merge, View};
use uuid::Uuid;

/// Hosts that speak, and views that listen.
const HOSTS: usize = 3;
const VIEWS: usize = 3;

#[derive(Debug, Arbitrary)]
struct Sketch {
    /// What each host does, one after the other.
    scripts: [Vec<Deed>; HOSTS],
    /// From which cursor each host begins: the last one leaves no room.
    begin: u8,
    /// Which view hears which word of which host.
    heard: Vec<(u8, u8, u16, bool)>,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Deed {
    Restart,
    Job(u8, u8),
    Delete(u8),
    Rename,
    See(u8),
    Lose(u8),
}

struct History {
    inventories: Vec<Inventory>,
    events: Vec<Event>,
}

fuzz_target!(|sketch: Sketch| {
    let histories: Vec<History> = (sketch.scripts.iter().enumerate())
        .map(|(n, script)| history(u8::try_from(n).expect("few hosts"), sketch.begin, script))
        .collect();
    let mut views: [View; VIEWS] = Default::default();
    for (view, host, word, is_event) in &sketch.heard {
        let view = &mut views[usize::from(*view) % VIEWS];
        let history = &histories[usize::from(*host) % HOSTS];
        hear(view, history, usize::from(*word), *is_event);
    }
    for (_, row) in views.iter().flat_map(View::hosts) {
        let said = histories.iter().flat_map(|history| &history.inventories);
        let is_real = said.cloned().any(|inventory| HostRow::from(inventory) == *row);
        assert!(is_real, "nobody has ever said {row:?}");
    }
    try_merges(&views);
});

fn history(n: u8, begin: u8, script: &[Deed]) -> History {
    let seq = if begin == u8::MAX { u64::MAX - 4 } else { u64::from(begin) };
    let mut cursor = Cursor { epoch: Epoch(1), seq };
    let mut now = host(n);
    let (mut jobs, mut observed) = (BTreeMap::new(), BTreeMap::new());
    let mut said = History { inventories: vec![], events: vec![] };
    let inventory =
        |cursor, host: &_, jobs: &BTreeMap<_, _>, observed: &BTreeMap<_, _>| Inventory {
            cursor,
            host: protocol::host::Host::clone(host),
            jobs: jobs.values().cloned().collect(),
            observed: observed.values().cloned().collect(),
        };
    said.inventories.push(inventory(cursor, &now, &jobs, &observed));
    for (i, deed) in script.iter().take(40).enumerate() {
        let fact = match *deed {
            Deed::Restart => {
                cursor = Cursor { epoch: Epoch(cursor.epoch.0 + 1), seq: 0 };
                said.inventories.push(inventory(cursor, &now, &jobs, &observed));
                continue;
            }
            Deed::Job(n, revision) => {
                let job = job(n % 4, u64::from(revision));
                jobs.insert(job.id.clone(), job.clone());
                Fact::JobChanged { job: Box::new(job) }
            }
            Deed::Delete(n) => {
                jobs.remove(&job_id(n % 4));
                Fact::JobDeleted { job: job_id(n % 4) }
            }
            Deed::Rename => {
                now.name = format!("after {i}");
                Fact::HostChanged { host: Box::new(now.clone()) }
            }
            Deed::See(n) => {
                let domain = domain(n % 4, i);
                observed.insert(domain.uuid, domain.clone());
                Fact::DomainObserved { domain }
            }
            Deed::Lose(n) => {
                let uuid = Uuid::from_u128(u128::from(n % 4));
                observed.remove(&uuid);
                Fact::DomainGone { uuid }
            }
        };
        // A host whose numbers have run out says nothing more in this life.
        let Some(seq) = cursor.seq.checked_add(1) else { continue };
        cursor.seq = seq;
        said.events.push(Event { host: now.id.clone(), cursor, at_ms: 0, fact });
        said.inventories.push(inventory(cursor, &now, &jobs, &observed));
    }
    said
}

fn domain(n: u8, i: usize) -> ObservedDomain {
    ObservedDomain {
        uuid: Uuid::from_u128(u128::from(n)),
        name: format!("after {i}"),
        is_active: true,
        resources: Resources::ZERO,
        page_size: None,
        is_persistent: true,
    }
}

fn hear(view: &mut View, history: &History, word: usize, is_event: bool) {
    let host = &history.inventories[0].host.id;
    let at = |view: &View| view.host(host).map(|row| row.cursor);
    let (before, old) = (at(view), view.clone());
    let (merge, said) = if is_event && !history.events.is_empty() {
        let event = &history.events[word % history.events.len()];
        (view.merge_event(event), event.cursor)
    } else {
        let inventory = history.inventories[word % history.inventories.len()].clone();
        let said = inventory.cursor;
        (view.merge_inventory(inventory), said)
    };
    match merge {
        Merge::Applied => assert!(at(view) == Some(said) && before < at(view)),
        Merge::Old => assert!(*view == old && before >= Some(said)),
        Merge::Gap { at } => assert!(*view == old && at < said),
    }
}

fn cursors(view: &View) -> BTreeMap<HostId, Cursor> {
    view.hosts().map(|(host, row)| (host.clone(), row.cursor)).collect()
}

fn try_merges(views: &[View; VIEWS]) {
    let merged = |order: [usize; VIEWS]| {
        let mut sum = View::default();
        order.iter().for_each(|n| sum.merge_view(&views[*n]));
        sum
    };
    let sum = merged([0, 1, 2]);
    for order in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        assert_eq!(merged(order), sum, "merged in the order {order:?}");
    }
    let mut again = sum.clone();
    again.merge_view(&sum);
    assert_eq!(again, sum, "merged with itself");
    let known = cursors(&sum);
    for (host, at) in views.iter().flat_map(cursors) {
        assert!(known[&host] >= at, "{host} went back");
    }
}
