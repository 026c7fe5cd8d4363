//! Scripts of sets as they are put: what is refused, what two that differ come to, and what is remembered.

use super::*;

#[test]
fn what_would_not_last_is_objected_to() {
    let mut world = World::new(2);
    world.put(
        "web",
        1,
        Some(json!([
            { "expect": "runs_on", "job": "vm-1", "on": host(1) },
            { "expect": "has_size", "job": "vm-1", "size": { "vcpus": 2 } },
        ])),
    );
    let upkeep = &world.upkeep;
    let migrate = |to| Want::migrate(id(1), host(to));
    assert_eq!(upkeep.objection(&migrate(1)), None);
    assert!(upkeep.objection(&migrate(2)).unwrap().contains("expectations web"));
    let resize = |vcpus| {
        let size = protocol::vm::SizeChange { vcpus, ..Default::default() };
        Want::Resize { job: id(1), size }
    };
    assert_eq!(upkeep.objection(&resize(Some(2))), None);
    assert!(upkeep.objection(&resize(Some(3))).is_some());
    world.put("web", 2, None);
    assert_eq!(world.upkeep.objection(&migrate(2)), None, "it is kept no longer");
}

#[test]
fn what_must_not_be_kept_is_refused_when_it_is_put() {
    let refused = |value: Value| read(&[value]).unwrap_err().to_string();
    assert!(refused(json!({ "expect": "absent", "job": "a" })).contains("ostler rm"));
    assert!(refused(json!({ "expect": "is_stopped", "job": "a" })).contains("done once"));
    assert!(refused(json!({ "expect": "same_host" })).contains("expectation 1"));
    let once =
        json!({ "one-off": { "vm": { "vcpus": 1, "memory_bytes": GIB }, "deadline_ms": 1000 } });
    assert!(refused(json!({ "expect": "runs", "job": "a", "spec": once })).contains("one-off"));
    assert!(refused(json!({ "expect": "has_size", "job": "a", "size": {} })).contains("vcpus"));
    let unknown = read(&[json!({ "expect": "shines" })]).unwrap();
    assert!(matches!(&unknown.items[..], [Item::Unknown { .. }]));
}

#[test]
fn what_contradicts_itself_is_refused_when_it_is_put() {
    let refused = |list: Value| read(list.as_array().unwrap()).unwrap_err();
    let same = SetError::SameVm { job: id(2), first: 1, second: 2 };
    let one = json!({ "expect": "runs", "job": "vm-2" });
    assert_eq!(refused(json!([group(2), one])), same);
    assert_eq!(refused(json!([one, group(2)])), same);
    let twice = refused(json!([group(1), group(2)]));
    assert_eq!(twice, SetError::SameVm { job: id(1), first: 1, second: 2 });
    assert!(twice.to_string().contains("name the group otherwise"), "{twice}");
    assert!(read(&[one.clone(), one]).is_ok(), "the same said twice is no contradiction");
    assert!(read(&[group(2), json!({ "expect": "runs", "job": "vm-3" })]).is_ok());
    let circle = refused(json!([after(1, &[2]), after(2, &[3]), after(3, &[1])]));
    assert_eq!(circle, SetError::Circle { jobs: vec![id(1), id(2), id(3)] });
    assert!(
        circle.to_string().starts_with("vm-1 starts after vm-2, which starts after vm-3, which")
    );
    let many = (0..5).map(|n| {
        let mut many = group(256);
        many["name"] = json!(format!("vm-{n}"));
        many
    });
    let long = read(&many.collect::<Vec<_>>()).unwrap_err();
    assert_eq!(long, SetError::TooMany { count: 5 * 256 }, "each VM counts");
    let error = refused(json!([apart().unwrap()[0], group(0)])).to_string();
    assert!(error.starts_with("expectation 2: a group of none"), "{error}");
}

#[test]
fn what_contradicts_another_set_is_refused_when_it_is_put() {
    let mut world = World::new(1);
    world.put("web", 1, Some(json!([group(2), after(1, &[2])])));
    let clash = |set: &str, list: Value| {
        let kept = read(list.as_array().unwrap()).unwrap();
        world.upkeep.clash(&name(set), &kept)
    };
    let same = Some(Clash::SameVm { job: id(2), set: name("web") });
    assert_eq!(clash("other", json!([{ "expect": "runs", "job": "vm-2" }])), same);
    assert!(
        clash("other", json!([group(1)])).unwrap().to_string().contains("expectations web say")
    );
    assert_eq!(clash("other", json!([{ "expect": "runs", "job": "vm-3" }])), None);
    assert_eq!(clash("web", json!([group(3)])), None, "it takes the place of that one");
    let circle = clash("other", json!([after(2, &[3]), after(3, &[1])])).unwrap();
    let Clash::Circle { jobs } = &circle else { panic!("{circle:?}") };
    assert_eq!(jobs.len(), 3, "{circle}");
    assert!(circle.to_string().starts_with("with what other sets say, vm-"), "{circle}");
    assert_eq!(clash("web", json!([after(2, &[1])])), None);
}

#[test]
fn of_two_records_the_same_one_counts_everywhere() {
    let record = |revision, list: Option<Value>| {
        let list = list.map(|list| list.as_array().unwrap().clone());
        SetRecord::new(name("web"), Revision(revision), list, revision)
    };
    let (old, new) = (record(1, on_ssd()), record(2, apart()));
    assert_eq!(old.clone().merged(new.clone()), new);
    assert_eq!(new.clone().merged(old), new);
    let (one, other) = (record(2, on_ssd()), record(2, apart()));
    assert_eq!(one.clone().merged(other.clone()), other.merged(one));
    let seen = SetRecord { begun: BTreeSet::from([id(1)]), ..new.clone() };
    assert_eq!(new.clone().merged(seen.clone()), seen);
    assert_eq!(seen.clone().merged(new.clone()), seen);
    let stop = |revision| {
        let stopped = BTreeMap::from([(id(1), Revision(revision))]);
        SetRecord { stopped, ..new.clone() }
    };
    assert_eq!(stop(3).merged(stop(2)), stop(3), "the later one");
    assert_eq!(stop(2).merged(stop(3)), stop(3));
}

#[test]
fn a_set_that_is_changed_remembers_of_whom_it_still_expects_to_run_who_was_stopped() {
    let runs = |n| json!({ "expect": "runs", "job": id(n) });
    let record = |revision, list: Option<Vec<Value>>| {
        SetRecord::new(name("web"), Revision(revision), list, revision)
    };
    let mut before = record(1, Some(vec![runs(1), runs(2)]));
    before.begun = BTreeSet::from([id(1), id(2)]);
    before.stopped = BTreeMap::from([(id(1), Revision(4)), (id(2), Revision(5))]);
    let after = record(2, Some(vec![runs(2), runs(3)]));
    let expected = SetRecord {
        begun: BTreeSet::from([id(2)]),
        stopped: BTreeMap::from([(id(2), Revision(5))]),
        ..after.clone()
    };
    assert_eq!(after.clone().merged(before.clone()), expected);
    assert_eq!(before.clone().merged(after), expected);
    let deleted = record(2, None);
    assert_eq!(deleted.clone().merged(before), deleted, "put anew, it begins anew");
}
