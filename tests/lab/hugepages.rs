//! Huge pages on real hosts: who has them, by what the kernel says of QEMU's memory, and who is told at once that
//! there are too few.

use std::fs;
use std::time::Duration;

use protocol::api::OfferRequest;
use protocol::hugepages::PageSize;
use protocol::id::{JobId, Revision};
use protocol::job::JobSpec;
use protocol::refusal::Refusal;
use protocol::ticket::Action;
use protocol::vm::{Hardware, VmSpec};
use serde_json::{Value, json};
use tests::lab::{Lab, say_skipped};
use tests::operator::{Operator, assert_refused, assert_runs};
use tests::wait::{is, until};

use crate::tickets::Caller;

/// What a host has is measured every 30 seconds.
const LIMIT: Duration = Duration::from_secs(90);

/// Huge pages of 2 MiB that the machine sets aside, all labs' hosts together.
const POOL: u64 = 128;

/// The machine's pool, which is as it was when this ends, however that is.
struct Pool {
    before: String,
}

impl Pool {
    const FILE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

    /// Nothing is set aside yet.
    fn begin() -> Option<Self> {
        let before = fs::read_to_string(Self::FILE).ok()?.trim().to_owned();
        let pool = Self { before };
        pool.set(POOL).then_some(())?;
        pool.set(0);
        Some(pool)
    }

    /// As `sysctl vm.nr_hugepages` does it; false when the kernel finds too few in one piece.
    fn set(&self, count: u64) -> bool {
        fs::write(Self::FILE, count.to_string()).is_ok()
            && fs::read_to_string(Self::FILE).is_ok_and(|has| has.trim() == count.to_string())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        drop(fs::write(Self::FILE, &self.before));
    }
}

/// What the hosts say of their huge pages of 2 MiB, by name.
fn told(operator: &Operator, host: &str) -> Value {
    let shown = operator.json(&["hosts"]);
    let rows = shown["hosts"].as_array().cloned().unwrap_or_default();
    let row = rows.into_iter().find(|row| row["host"]["name"] == host).unwrap_or_default();
    row["host"]["hugepages"]["2MiB"].clone()
}

fn await_told(operator: &Operator, host: &str, expected: &Value) {
    until(&format!("{host} to say {expected}"), LIMIT, || {
        let told = told(operator, host);
        is(told == *expected, told)
    });
}

/// Memory of a guest's QEMU in huge pages, in KiB, by the kernel.
fn hugetlb_kib(lab: &Lab, host: &str, guest: &str) -> u64 {
    let script = format!(r#"cat "/proc/$(cat /run/libvirt/qemu/{guest}.pid)/smaps""#);
    let maps = lab.exec(host, &["sh", "-c", &script]);
    let maps = String::from_utf8_lossy(&maps.stdout).into_owned();
    let kinds = ["Private_Hugetlb:", "Shared_Hugetlb:"];
    let lines = maps.lines().filter_map(|line| {
        let (kind, rest) = line.split_once(char::is_whitespace)?;
        kinds.contains(&kind).then(|| rest.trim().trim_end_matches(" kB").parse::<u64>().ok())?
    });
    lines.sum()
}

fn metric(lab: &Lab, host: &str, name: &str) -> String {
    let ask =
        ["curl", "-sf", "--unix-socket", "/var/lib/ostler/agent.sock", "http://agent/metrics"];
    let said = lab.exec(host, &ask).stdout;
    let said = String::from_utf8_lossy(&said).into_owned();
    let line =
        said.lines().find_map(|line| line.strip_prefix(&format!("{name}{{size=\"2MiB\"}} ")));
    line.unwrap_or_else(|| panic!("{host} tells no {name}: {said}")).to_owned()
}

fn run(operator: &Operator, name: &str, mib: u64, more: &[&str]) -> std::process::Output {
    let memory = format!("{mib}MiB");
    let words = ["run", "--name", name, "--memory", &memory, "--hugepages", "2MiB"];
    operator.run(&[&words[..], more].concat())
}

#[test]
fn lab_huge_pages_are_given_once_and_who_finds_too_few_is_told_at_once() {
    let test = "lab_huge_pages_are_given_once";
    let Some(pool) = Pool::begin() else {
        return say_skipped(
            test,
            "no huge pages: the kernel sets none aside for whoever runs this",
        );
    };
    let Some(lab) = Lab::up(test, 2) else { return };
    let mut operator = Operator::new();
    let url = operator.make_bare_cluster(&lab);
    // Both hosts are on one kernel, which has one pool: each is told its part.
    lab.must(&["stop", "h1", "agent"]);
    lab.start_agent_with("h1", &url, &["--hugepages", "2MiB=96"]);
    lab.must(&["stop", "h2", "agent"]);
    lab.start_agent_with("h2", &url, &["--hugepages", "2MiB=0"]);
    lab.await_agent("h1");
    lab.await_agent("h2");

    // Before anybody sets some aside there are none, and no host is asked in vain.
    let none = "needs 64 huge pages of 2MiB; the host has none of that size for guests";
    assert_refused(
        &run(&operator, "db", 128, &[]),
        &[none, "set 64 huge pages of 2MiB more aside"],
    );
    assert!(pool.set(POOL), "the kernel had as many a moment ago");
    await_told(&operator, "h1", &json!({ "total": 96, "promised": 0 }));
    assert_eq!(told(&operator, "h2"), Value::Null, "of none nothing is said");

    assert_runs(&run(&operator, "db", 128, &[]));
    assert_eq!(operator.await_state("db", "running"), "h1");
    assert_eq!(lab.virsh_state("h1", "db"), "running");
    assert!(hugetlb_kib(&lab, "h1", "db") >= 128 << 10, "its memory is in them");
    await_told(&operator, "h1", &json!({ "total": 96, "promised": 64 }));
    let table = operator.must(&["hosts"]);
    assert!(table.contains("64/96x2MiB"), "{table}");
    assert_eq!(metric(&lab, "h1", "ostler_agent_hugepages_free"), "32.0");

    // One more than fits: by the plan, and by a host that is asked itself.
    let few = "needs 64 huge pages of 2MiB; the host has 96, of which 64 are taken: 32 would fit";
    assert_refused(&run(&operator, "web", 128, &[]), &[few, "free 32 huge pages of 2MiB on h1"]);
    let hardware = Box::new(Hardware { hugepages_kib: Some(2048), ..Hardware::default() });
    let (vcpus, memory_bytes) = (1, 128 << 20);
    let vm = VmSpec { vcpus, memory_bytes, hardware, ..VmSpec::default() };
    let ask = OfferRequest {
        job: JobId::new("web").expect("a name"),
        revision: Revision(1),
        spec: JobSpec::vm(vm),
        action: Action::Start,
        finds_disks: false,
    };
    let caller = Caller::new(&operator);
    let no = caller.ask(&caller.host(&lab, "h1"), &ask).expect_err("there are too few");
    let page_size = PageSize::MIB2;
    let few = Refusal::NoHugepages { page_size, asked: 64, free: 32, total: 96 };
    assert_eq!(no.refusal(), Some(&few));
    for host in ["h1", "h2"] {
        assert!(!lab.virsh_domains(host).contains(&"web".to_owned()), "on {host}");
    }
    // What fits beside it is taken, and what needs none never asks.
    assert_runs(&run(&operator, "small", 64, &["--on", "h1"]));
    operator.must(&["run", "--name", "plain", "--memory", "128MiB", "--on", "h2"]);
    assert_eq!(hugetlb_kib(&lab, "h2", "plain"), 0);
    let none = "needs 64 huge pages of 2MiB; the host has none of that size for guests";
    assert_refused(&run(&operator, "web", 128, &["--on", "h2"]), &[none]);

    // After the first ends it fits, at once.
    operator.must(&["stop", "db", "--force"]);
    assert_runs(&run(&operator, "web", 128, &[]));
    assert_eq!(operator.await_state("web", "running"), "h1");
    assert!(hugetlb_kib(&lab, "h1", "web") >= 128 << 10);
    assert_refused(&operator.run(&["start", "db"]), &["needs 64 huge pages of 2MiB"]);
    operator.must(&["stop", "web", "--force"]);
    operator.must(&["start", "db"]);
    assert_eq!(lab.virsh_state("h1", "db"), "running");
    await_told(&operator, "h1", &json!({ "total": 96, "promised": 96 }));
    // Guests first: the kernel keeps pages that somebody has.
    drop(lab);
    drop(pool);
}
