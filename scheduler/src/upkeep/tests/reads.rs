//! What is judged anew when what it reads has changed: what pools say of themselves, and the terms of the trust document.

use protocol::pool::{PoolFacts, PoolId};
use protocol::vm::DiskSpec;

use super::*;

#[test]
fn what_a_pool_says_of_itself_is_read_again_when_it_says_something_else() {
    let mut world = World::new(1);
    let pool = |class: &str| PoolFacts {
        id: PoolId::from_u128(1),
        is_shared: true,
        path: "/srv/nfs".into(),
        unavailable: None,
        capacity_bytes: 9 * GIB,
        promised_bytes: GIB,
        free_bytes: 8 * GIB,
        labels: [("class".to_owned(), class.to_owned())].into(),
    };
    let says = |world: &mut World, class: &str| {
        world.host(1, |host, _| drop(host.pools.insert("nfs".parse().unwrap(), pool(class))));
    };
    says(&mut world, "ssd");
    let in_pool = Some("nfs".parse().unwrap());
    let disk = DiskSpec { name: "root".into(), pool: in_pool, ..DiskSpec::default() };
    let vm = VmSpec { vcpus: 1, memory_bytes: GIB, disks: vec![disk], ..VmSpec::default() };
    world.put_job(1, Job::of(id(1), JobSpec::vm(vm), JobState::Running));
    let on_ssd =
        json!([{ "expect": "storage_class", "job": "vm-1", "key": "class", "value": "ssd" }]);
    world.put("web", 1, Some(on_ssd));
    world.look(0);
    assert_eq!(world.verdict("web"), Verdict::Met);
    says(&mut world, "disk");
    world.look(10_000);
    let evidence = "vm-1 has disks in pool nfs of";
    assert!(
        matches!(world.verdict("web"), Verdict::Broken { evidence: words } if words.starts_with(evidence))
    );
}

#[test]
fn how_soon_a_job_would_run_again_is_judged_anew_by_other_terms_and_nothing_is_done_for_it() {
    let mut world = World::new(2);
    let on_loss = OnLoss::Stop;
    let vm = VmSpec { vcpus: 1, memory_bytes: GIB, on_loss, ..VmSpec::default() };
    world.put_job(1, Job::of(id(1), JobSpec::vm(vm), JobState::Running));
    let soon = json!([{ "expect": "restart_within", "job": "vm-1", "within_s": 18 }]);
    world.put("web", 1, Some(soon));
    assert_eq!(world.live(0), []);
    assert!(matches!(world.verdict("web"), Verdict::Broken { .. }), "nobody has said the terms");
    world.terms = Some(Terms { lapse_ms: 9_037, fenced_after_ms: None });
    assert_eq!(world.live(10_000), []);
    assert_eq!(world.verdict("web"), Verdict::Met);
    world.terms = Some(Terms { lapse_ms: 60_000, fenced_after_ms: None });
    assert_eq!(world.live(20_000), []);
    assert!(matches!(world.verdict("web"), Verdict::Broken { .. }));
}
