//! A property: whatever changes, what was kept up to date is what a rehearsal made anew says, by hosts and by racks, and
//! what is stranded fits nowhere; and how far a change reaches.

use proptest::prelude::*;
use protocol::host::{Host, HostIntent, Inventory};
use protocol::id::{Cursor, Epoch};
use protocol::job::{Job, JobSpec};
use protocol::resources::Resources;
use protocol::signed::SecretKey;
use protocol::vm::VmSpec;

use super::*;

const GIB: u64 = 1 << 30;

/// A host with VMs of so many GiB, some of which are leaving.
fn inventory(n: u8, gib: u64, is_drained: bool, vms: &[(u64, bool)], seq: u64) -> Inventory {
    let job = |(at, (gib, is_leaving)): (usize, &(u64, bool))| {
        let vm = VmSpec { vcpus: 1, memory_bytes: gib * GIB, ..VmSpec::default() };
        let state = if *is_leaving { JobState::MigratingOut } else { JobState::Running };
        Job::of(JobId::new(format!("vm-{n}-{at}")).unwrap(), JobSpec::vm(vm), state)
    };
    let jobs: Vec<Job> = vms.iter().enumerate().map(job).collect();
    let allocation = jobs.iter().fold(Resources::ZERO, |sum, job| sum.plus(job.allocation()));
    let host = Host {
        id: HostId::new(format!("h{n:03}")).unwrap(),
        capacity: Resources { vcpus: 8, memory_bytes: gib * GIB, disk_bytes: 0 },
        allocation,
        intent: is_drained.then_some(HostIntent::Drain),
        ..Host::of_key(SecretKey::from_seed([n; 32]).public())
    };
    Inventory { cursor: Cursor { epoch: Epoch(1), seq }, host, jobs, observed: vec![] }
}

/// The same in a rack; 0 does not say.
fn racked(mut inventory: Inventory, rack: u8) -> Inventory {
    if rack > 0 {
        inventory.host.labels.insert("rack".to_owned(), format!("r{rack}"));
    }
    inventory
}

type Change = (u8, u64, bool, Vec<(u64, bool)>, u8, u8);

fn change() -> impl Strategy<Value = Change> {
    let vms = prop::collection::vec((1..6_u64, prop::bool::weighted(0.1)), 0..5);
    (0..70_u8, 4..16_u64, prop::bool::weighted(0.1), vms, 0..12_u8, 0..5_u8)
}

fn losses(rehearsal: &Rehearsal) -> Vec<Loss> {
    rehearsal.losses().cloned().collect()
}

proptest! {
    #[test]
    fn what_is_kept_up_to_date_is_what_is_made_anew(
        first in prop::collection::vec(change(), 1..70),
        bursts in prop::collection::vec(prop::collection::vec(change(), 1..4), 1..20),
    ) {
        let mut view = View::default();
        let mut lost: BTreeSet<HostId> = BTreeSet::new();
        let mut kept = Rehearsal::of_hosts();
        let mut racks = Rehearsal::of_domains("rack");
        for (seq, burst) in (1..).zip([first].into_iter().chain(bursts)) {
            for (n, gib, is_drained, vms, kind, rack) in burst {
                let next = racked(inventory(n, gib, is_drained, &vms, seq), rack);
                let host = next.host.id.clone();
                match kind {
                    0 => drop(lost.insert(host)),
                    1 => {
                        view.forget(&host);
                    }
                    _ => {
                        lost.remove(&host);
                        view.merge_inventory(next);
                    }
                }
            }
            let freshness = |host: &HostId| match lost.contains(host) {
                true => Freshness::Lost,
                false => Freshness::Fresh,
            };
            kept.follow(&view, freshness);
            racks.follow(&view, freshness);
            let mut anew = Rehearsal::of_hosts();
            anew.follow(&view, freshness);
            prop_assert_eq!(losses(&kept), losses(&anew));
            let mut anew = Rehearsal::of_domains("rack");
            anew.follow(&view, freshness);
            prop_assert_eq!(losses(&racks), losses(&anew));
            // By the state of a plan it is the same.
            let heard = lost.iter().map(|host| {
                (host.clone(), crate::Heard { freshness: Freshness::Lost, age_ms: 0 })
            });
            let input = crate::PlanInput {
                view: view.clone(),
                heard: heard.collect(),
                ..crate::PlanInput::default()
            }
            .with_host_intents();
            let state = State::new(&input);
            prop_assert_eq!(losses(&kept), losses(&Rehearsal::of_hosts().in_state(&state)));
            prop_assert_eq!(losses(&racks), losses(&Rehearsal::of_domains("rack").in_state(&state)));
            // What is stranded fits nowhere by itself, or others that are lost with it have taken the place.
            for loss in kept.stranding().chain(racks.stranding()) {
                for stranded in &loss.stranded {
                    prop_assert!(!stranded.needs.fits_in(stranded.nearest_free));
                }
            }
        }
    }
}

#[test]
fn a_change_is_rehearsed_by_its_neighbours_alone() {
    let mut view = View::default();
    for n in 0..250 {
        view.merge_inventory(inventory(n, 8, false, &[(3, false)], 1));
    }
    let fresh = |_: &HostId| Freshness::Fresh;
    let mut kept = Rehearsal::of_hosts();
    kept.follow(&view, fresh);
    assert_eq!((kept.rehearsed_count(), kept.stranding().count()), (250, 0));
    view.merge_inventory(inventory(100, 8, false, &[(3, false), (4, false)], 2));
    kept.follow(&view, fresh);
    assert_eq!(kept.rehearsed_count(), 252, "itself, and the one that would come to it");
    assert_eq!(kept.stranding().count(), 0, "99's fits on the next but one");
    view.merge_inventory(inventory(100, 8, false, &[(7, false)], 3));
    kept.follow(&view, fresh);
    let said = kept.to_string();
    assert!(said.starts_with("h100 would strand 1 VMs: vm-100-0 (needs 7GiB of memory"), "{said}");
    assert_eq!(kept.rehearsed_count(), 254);
}

#[test]
fn guests_that_only_fit_packed_tightly_are_not_stranded() {
    let mut view = View::default();
    view.merge_inventory(inventory(1, 9, false, &[(5, false), (4, false)], 1));
    // The first that has room for 5 GiB is the only one with room for it that 4 GiB would need.
    view.merge_inventory(inventory(2, 5, false, &[], 1));
    view.merge_inventory(inventory(3, 4, false, &[], 1));
    let mut kept = Rehearsal::of_hosts();
    kept.follow(&view, |_| Freshness::Fresh);
    assert_eq!(kept.stranding().count(), 0);
    view.merge_inventory(inventory(3, 3, false, &[], 2));
    kept.follow(&view, |_| Freshness::Fresh);
    let said = kept.to_string();
    assert_eq!(said, "h001 would strand 1 VMs: vm-1-1 (needs 4GiB of memory, 3GiB free)");
}

#[test]
fn a_rack_is_lost_with_all_its_hosts() {
    let mut view = View::default();
    // Each host's VM fits on its neighbour, which is in the same rack.
    for (n, rack) in [(1, 1), (2, 1), (3, 2), (4, 0)] {
        let vms = if n < 3 { vec![(3, false)] } else { vec![] };
        let gib = if n < 3 { 8 } else { 3 };
        view.merge_inventory(racked(inventory(n, gib, false, &vms, 1), rack));
    }
    let fresh = |_: &HostId| Freshness::Fresh;
    let mut racks = Rehearsal::of_domains("rack");
    racks.follow(&view, fresh);
    let lost: Vec<String> = racks.losses().map(|loss| loss.lost.to_string()).collect();
    assert_eq!(lost, ["hosts without rack", "rack=r1", "rack=r2"]);
    assert_eq!(racks.stranding().count(), 0, "h003 and h004 take one each");
    // The host that does not say is in the rack after all.
    view.merge_inventory(racked(inventory(4, 3, false, &[], 2), 1));
    racks.follow(&view, fresh);
    let said = racks.to_string();
    assert_eq!(said, "rack=r1 would strand 1 VMs: vm-2-0 (needs 3GiB of memory, 0B free)");
}
