//! Which rule says no to what, by hand and against a naive reading of the document.

use proptest::prelude::*;

use super::*;
use crate::admission::{Arrival, Room, admit, admit_resize};
use crate::host::Host;
use crate::id::JobId;
use crate::job::{JobKind, JobState, Role, ServiceSpec};
use crate::signed::SecretKey;
use crate::vm::{Pin, SizeChange};

const GIB: u64 = 1 << 30;

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

fn patterns(names: &[&str]) -> Vec<Pattern> {
    names.iter().map(|name| Pattern((*name).to_owned())).collect()
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn vm() -> VmSpec {
    let image = Some(ImageName::new("debian-12").unwrap());
    let root = DiskSpec { name: "root".into(), size_bytes: GIB, image, ..DiskSpec::default() };
    VmSpec { vcpus: 2, memory_bytes: 2 * GIB, disks: vec![root], ..VmSpec::default() }
}

fn of_acme(vm: VmSpec) -> JobSpec {
    JobSpec { tenant: tenant("acme"), ..JobSpec::vm(vm) }
}

fn acme(rules: TenantPolicy) -> Policy {
    Policy { default: None, tenants: BTreeMap::from([(tenant("acme"), rules)]) }
}

fn rules_of(policy: &Policy, spec: &JobSpec) -> Vec<&'static str> {
    policy.breaches(spec).iter().map(Breach::rule).collect()
}

fn host(labels: BTreeMap<String, String>) -> Host {
    let capacity = Resources { vcpus: 64, memory_bytes: 64 * GIB, disk_bytes: 64 * GIB };
    let facts = crate::host::ImageFacts {
        sha256: crate::signed::Digest::of(b""),
        file_bytes: 1,
        virtual_bytes: 1,
        format: None,
    };
    let images = BTreeMap::from([(ImageName::new("debian-12").unwrap(), facts)]);
    let key = SecretKey::from_seed([3; 32]).public();
    let mut host = Host { capacity, images, labels, ..Host::of_key(key) };
    host.hypervisor.can_receive = true;
    host
}

#[test]
fn head_room_counts_as_if_it_were_used() {
    let vm_max = VmMax { vcpus: Some(4), ..VmMax::default() };
    let policy = acme(TenantPolicy { vm_max: Some(vm_max), ..TenantPolicy::default() });
    let with = |vcpus, max_vcpus| of_acme(VmSpec { vcpus, max_vcpus, ..vm() });
    assert_eq!(policy.breaches(&with(4, None)), []);
    assert_eq!(policy.breaches(&with(4, Some(4))), []);
    let too_much = policy.breaches(&with(2, Some(5)));
    let asked = Resources { vcpus: 5, memory_bytes: 2 * GIB, disk_bytes: GIB };
    assert_eq!(too_much, [Breach::VmMax { asked, at_most: vm_max }]);
    let words = too_much[0].to_string();
    assert_eq!(words, "vm_max: one VM is to have 5 vcpus, at most 4, head-room included");
}

#[test]
fn an_image_is_allowed_by_its_name_or_its_beginning() {
    let policy = |names: &[&str]| {
        acme(TenantPolicy { images: Some(patterns(names)), ..TenantPolicy::default() })
    };
    for allowed in [&["debian-12"][..], &["alpine", "debian-*"], &["*"]] {
        assert_eq!(policy(allowed).breaches(&of_acme(vm())), [], "{allowed:?}");
    }
    for denied in [&["debian-1"][..], &["alpine-*"], &[]] {
        assert_eq!(rules_of(&policy(denied), &of_acme(vm())), ["images"], "{denied:?}");
    }
    let mut empty = vm();
    empty.disks[0].image = None;
    assert_eq!(policy(&[]).breaches(&of_acme(empty)), [], "an empty disk asks nobody");
}

#[test]
fn cards_and_the_hosts_hardware_are_told_by_what_they_are() {
    let rules = TenantPolicy {
        networks: Some(patterns(&["user", "network=blue-*"])),
        host_hardware: Some(vec![HostHardware::Pins]),
        ..TenantPolicy::default()
    };
    let with = |plug: Plug| VmSpec { nics: vec![NicSpec::from(plug)], ..vm() };
    let policy = acme(rules);
    assert_eq!(rules_of(&policy, &of_acme(with(Plug::User))), Vec::<&str>::new());
    let blue = with(Plug::Libvirt { name: "blue-1".into() });
    assert_eq!(rules_of(&policy, &of_acme(blue)), Vec::<&str>::new());
    // A bridge is no network, whatever its name.
    let bridge = with(Plug::Bridge { bridge: "blue-1".into() });
    assert_eq!(rules_of(&policy, &of_acme(bridge)), ["networks"]);
    let mut raw = vm();
    raw.hardware.pins = vec![Pin { vcpu: 0, cpus: vec![0] }];
    assert_eq!(rules_of(&policy, &of_acme(raw.clone())), Vec::<&str>::new());
    raw.hardware.pci = vec!["0000:03:00.0".into()];
    raw.hardware.hugepages_kib = Some(2048);
    assert_eq!(rules_of(&policy, &of_acme(raw)), ["host_hardware", "host_hardware"]);
}

#[test]
fn a_tenant_with_rules_of_its_own_has_none_of_the_default() {
    let none = TenantPolicy { images: Some(vec![]), ..TenantPolicy::default() };
    let mut policy = Policy { default: Some(none), ..Policy::default() };
    assert_eq!(rules_of(&policy, &of_acme(vm())), ["images"]);
    let refused = policy.refusal(&tenant("acme"), policy.breaches(&of_acme(vm())).remove(0));
    assert!(matches!(refused, Refusal::AgainstPolicy { is_default: true, .. }));
    policy.tenants.insert(tenant("acme"), TenantPolicy::default());
    assert_eq!(policy.breaches(&of_acme(vm())), [], "an entry that says nothing allows all");
}

#[test]
fn ostlers_own_services_are_asked_nothing() {
    let service = ServiceSpec { role: Role::Arbiter, port: 0, discovery: vec![] };
    let spec = JobSpec { kind: JobKind::Service(service), ..of_acme(vm()) };
    let rules = TenantPolicy {
        host_labels: labels(&[("owner", "acme")]),
        images: Some(vec![]),
        ..TenantPolicy::default()
    };
    let policy = acme(rules);
    assert_eq!(policy.breaches(&spec), []);
    assert_eq!(policy.breach_on(&spec, &BTreeMap::new()), None);
    assert!(policy.breach_on(&of_acme(vm()), &BTreeMap::new()).is_some());
}

#[test]
fn a_move_asks_for_the_hosts_labels_alone_and_a_start_asks_everything() {
    let rules = TenantPolicy {
        host_labels: labels(&[("owner", "acme")]),
        images: Some(vec![]),
        ..TenantPolicy::default()
    };
    let (policy, spec) = (acme(rules), of_acme(vm()));
    let ask = |labels: BTreeMap<String, String>, arrival| {
        let host = host(labels);
        let answer = admit(Room { policy: Some(&policy), ..Room::of(&host) }, &spec, arrival);
        match answer {
            Ok(()) => "yes",
            Err(Refusal::AgainstPolicy { breach, .. }) => breach.rule(),
            Err(other) => panic!("{other}"),
        }
    };
    let theirs = || labels(&[("owner", "acme"), ("rack", "a")]);
    assert_eq!(ask(theirs(), Arrival::Migrate), "yes");
    assert_eq!(ask(labels(&[("owner", "other")]), Arrival::Migrate), "host_labels");
    for start in [Arrival::Start, Arrival::StartAgain, Arrival::StartOnShared] {
        assert_eq!(ask(theirs(), start), "images");
    }
}

#[test]
fn a_resize_asks_only_what_grows() {
    let at_most = VmMax { vcpus: Some(1), memory_bytes: Some(4 * GIB), disk_bytes: Some(2 * GIB) };
    let rules = TenantPolicy {
        vm_max: Some(at_most),
        images: Some(vec![]),
        host_labels: labels(&[("owner", "acme")]),
        ..TenantPolicy::default()
    };
    // It has 2 vcpus already, of 1.
    let (policy, from, host) = (acme(rules), of_acme(vm()), host(BTreeMap::new()));
    let resize = |change: SizeChange| {
        let job = JobId::new("a").unwrap();
        let to = from.changed(&job, &change).unwrap().unwrap();
        let room = Room { policy: Some(&policy), ..Room::of(&host) };
        admit_resize(room, (&job, JobState::Running), &from, Some(from.resources()), &to)
    };
    let is_denied = |change| matches!(resize(change), Err(Refusal::AgainstPolicy { .. }));
    let none = SizeChange::default;
    assert_eq!(resize(SizeChange { memory_bytes: Some(4 * GIB), ..none() }), Ok(()));
    assert!(is_denied(SizeChange { memory_bytes: Some(5 * GIB), ..none() }));
    assert!(is_denied(SizeChange { max_memory_bytes: Some(5 * GIB), ..none() }), "head-room");
    assert!(is_denied(SizeChange { vcpus: Some(3), ..none() }));
    assert_eq!(resize(SizeChange { vcpus: Some(1), ..none() }), Ok(()));
    let disk = |bytes| SizeChange { disks: BTreeMap::from([("root".into(), bytes)]), ..none() };
    assert_eq!(resize(disk(2 * GIB)), Ok(()));
    assert!(is_denied(disk(3 * GIB)));
}

#[test]
fn rules_that_make_no_sense_say_what_would() {
    let fault = |rules: TenantPolicy| match acme(rules).validate() {
        Err(InvalidPolicy::OfTenant { fault, .. }) => fault,
        other => panic!("{other:?}"),
    };
    let none = TenantPolicy::default;
    let vm_max = |vm_max| fault(TenantPolicy { vm_max: Some(vm_max), ..none() });
    assert_eq!(vm_max(VmMax::default()), Fault::NoLimit);
    assert_eq!(vm_max(VmMax { vcpus: Some(0), ..VmMax::default() }), Fault::Vcpus(0));
    assert_eq!(vm_max(VmMax { memory_bytes: Some(1), ..VmMax::default() }), Fault::Memory(1));
    assert_eq!(vm_max(VmMax { disk_bytes: Some(1), ..VmMax::default() }), Fault::Disk(1));
    for wrong in ["Debian", "deb*an", "", "debian 12", "-*", "**"] {
        let images = Some(patterns(&[wrong]));
        assert_eq!(fault(TenantPolicy { images, ..none() }), Fault::Image(wrong.to_owned()));
    }
    for wrong in ["br0", "bridge=", "vlan=7", "user*", "bridge=a*b", "network=br0'/>", "bridge"] {
        let networks = Some(patterns(&[wrong]));
        assert_eq!(fault(TenantPolicy { networks, ..none() }), Fault::Network(wrong.to_owned()));
    }
    let host_labels = labels(&[("a=b", "c")]);
    assert!(matches!(fault(TenantPolicy { host_labels, ..none() }), Fault::Label(_)));
    let images = Some(vec![Pattern("a".into()); NAMES_MAX + 1]);
    assert!(matches!(fault(TenantPolicy { images, ..none() }), Fault::TooMany { .. }));
    let good = TenantPolicy {
        networks: Some(patterns(&["*", "user", "bridge=br*", "network=default", "network=*"])),
        images: Some(patterns(&["*", "debian-12", "debian-*"])),
        ..none()
    };
    assert_eq!(acme(good).validate(), Ok(()));
}

#[test]
fn a_document_with_a_word_that_nobody_knows_is_not_read() {
    for wrong in [
        r#"{"tenant": {}}"#,
        r#"{"default": {"image": []}}"#,
        r#"{"default": {"vm_max": {"memory": 1}}}"#,
        r#"{"default": {"host_hardware": ["usb"]}}"#,
    ] {
        assert!(serde_json::from_str::<Policy>(wrong).is_err(), "{wrong}");
    }
    assert_eq!(serde_json::from_str::<Policy>("{}").unwrap(), Policy::default());
}

#[test]
fn every_breach_survives_the_wire_with_its_numbers() {
    for breach in breach_examples() {
        let policy = Policy::default();
        let refusal = policy.refusal(&tenant("acme"), breach.clone());
        let problem = crate::refusal::Problem::from(refusal.clone());
        let text = serde_json::to_string(&problem).unwrap();
        assert!(text.contains(breach.rule()), "{text}");
        let back: crate::refusal::Problem = serde_json::from_str(&text).unwrap();
        assert_eq!(back.refusal, Some(refusal), "{text}");
    }
}

fn pattern() -> impl Strategy<Value = Pattern> {
    "[ab]{0,3}\\*?".prop_map(Pattern)
}

fn limit() -> impl Strategy<Value = Option<u32>> {
    prop::option::of(1..5_u32)
}

proptest! {
    /// A pattern is what a person would make of it: letter by letter up to the star.
    #[test]
    fn a_pattern_is_its_letters_and_then_anything(pattern in pattern(), name in "[ab]{0,4}") {
        let letters: Vec<char> = pattern.0.chars().collect();
        let ends_in_star = letters.last() == Some(&'*');
        let fixed = &letters[..letters.len() - usize::from(ends_in_star)];
        let name_letters: Vec<char> = name.chars().collect();
        let begins = name_letters.len() >= fixed.len() && name_letters[..fixed.len()] == *fixed;
        let expected = begins && (ends_in_star || name_letters.len() == fixed.len());
        prop_assert_eq!(pattern.matches(&name), expected);
    }

    /// What a start in some size is allowed, growing into that size is, and never the other way round for what
    /// grows from nothing much.
    #[test]
    fn growing_is_allowed_where_a_start_in_that_size_is(
        (max, max_gib) in (limit(), limit()),
        (from, from_gib, to, to_gib) in (1..6_u32, 1..6_u64, 1..6_u32, 1..6_u64),
    ) {
        let vm_max = VmMax {
            vcpus: max,
            memory_bytes: max_gib.map(|gib| u64::from(gib) * GIB),
            disk_bytes: None,
        };
        prop_assume!(vm_max != VmMax::default());
        let policy = acme(TenantPolicy { vm_max: Some(vm_max), ..TenantPolicy::default() });
        let sized = |vcpus, gib: u64| of_acme(VmSpec { vcpus, memory_bytes: gib * GIB, ..vm() });
        let (from, to) = (sized(from, from_gib), sized(to, to_gib));
        let (is_start_denied, is_growth_denied) =
            (!policy.breaches(&to).is_empty(), policy.breach_of_growth(&from, &to).is_some());
        prop_assert!(is_start_denied || !is_growth_denied);
        // Where nothing of it is too large now, the two are the same.
        if policy.breaches(&from).is_empty() {
            prop_assert_eq!(is_start_denied, is_growth_denied);
        }
    }
}

#[test]
fn a_vm_matters_no_more_than_its_tenant_may_say_and_a_users_no_more_than_what_is_not_said() {
    let ranked = |number: u8| {
        let vm = VmSpec { vcpus: 1, memory_bytes: 1 << 30, ..VmSpec::default() };
        JobSpec::vm(VmSpec { priority: number.try_into().unwrap(), ..vm })
    };
    let at_most = |number: u8| {
        let priority_max = Some(number.try_into().unwrap());
        let default = Some(TenantPolicy { priority_max, ..TenantPolicy::default() });
        Policy { default, ..Policy::default() }
    };
    let (none, seventy) = (Policy::default(), at_most(70));
    assert!(none.breaches(&ranked(100)).is_empty() && seventy.breaches(&ranked(70)).is_empty());
    assert_eq!(seventy.breaches(&ranked(71))[0].rule(), "priority_max");
    assert!(none.breaches_of_user(&ranked(50)).is_empty());
    assert_eq!(none.breaches_of_user(&ranked(51))[0].rule(), "priority_max");
    assert!(seventy.breaches_of_user(&ranked(70)).is_empty(), "the tenant's policy says so");
    // Another rank is asked only where it rises.
    let rises = |from, to, is_user| seventy.breach_of_rank(&ranked(from), &ranked(to), is_user);
    assert!(rises(50, 71, false).is_some() && rises(50, 71, true).is_some());
    assert!(rises(90, 80, false).is_none() && rises(50, 70, true).is_none());
}
