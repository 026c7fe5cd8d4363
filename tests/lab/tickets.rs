//! Nothing starts without the right to: each way of not having it, asked of a real host, with
//! `virsh` seeing that nothing was started.

use std::sync::Arc;
use std::time::Duration;

use protocol::api::{OfferReply, OfferRequest, PutJob};
use protocol::id::{HostId, JobId, Revision};
use protocol::job::{Job, JobSpec};
use protocol::signed::Signed;
use protocol::ticket::{Action, Answer, Offer, Ticket};
use protocol::trust::Trust;
use protocol::vm::VmSpec;
use serde_json::Value;
use tests::lab::Lab;
use tests::operator::Operator;
use tests::wait::until;
use transport::{CallError, Client, Endpoint, Identity, Method};

/// An operator's own client, for what no command does.
pub(crate) struct Caller {
    runtime: tokio::runtime::Runtime,
    client: Client,
    trust: Trust,
}

impl Caller {
    pub(crate) fn new(operator: &Operator) -> Self {
        let key = operator.context().join("operator.key");
        let identity = Identity::load(&key).expect("the operator has a key");
        let trust = std::fs::read(operator.context().join("trust.json")).expect("and trust");
        let trust: Signed<Trust> = serde_json::from_slice(&trust).expect("that is signed");
        Self {
            runtime: tokio::runtime::Runtime::new().expect("a runtime"),
            client: Client::new(Arc::new(identity)),
            trust: trust.open().expect("and genuine"),
        }
    }

    pub(crate) fn host(&self, lab: &Lab, name: &str) -> Endpoint {
        let url = format!("https://{}:7460", lab.address(name));
        let key = self.trust.roster.iter().find(|key| {
            let pinned = Endpoint::of_host(&url, HostId::of(key));
            self.runtime.block_on(self.client.get::<serde_json::Value>(&pinned, "/v1/host")).is_ok()
        });
        Endpoint::of_key(url, *key.expect("the host is on the roster"))
    }

    /// The host's answer to one question.
    pub(crate) fn ask(&self, host: &Endpoint, ask: &OfferRequest) -> Result<OfferReply, CallError> {
        let offered = self.client.send(Method::POST, host, "/v1/offers", ask);
        self.runtime.block_on(offered).map(|reply| reply.body)
    }

    fn offer(&self, host: &Endpoint, job: &str, spec: &JobSpec) -> OfferReply {
        let ask = OfferRequest {
            job: JobId::new(job).expect("a name"),
            revision: Revision(1),
            spec: spec.clone(),
            action: Action::Start,
            finds_disks: false,
        };
        self.ask(host, &ask).expect("an offer")
    }

    fn ticket(&self, offer: Signed<Offer>) -> Ticket {
        let arbiter = &self.trust.arbiters[0];
        let at = Endpoint::of_key(&arbiter.url, arbiter.key);
        let asked = self.client.send(Method::POST, &at, "/v1/grants", &offer);
        match self.runtime.block_on(asked).expect("an answer").body {
            Answer::Grant(grant) => Ticket { offer, grants: vec![grant] },
            Answer::Denial(denial) => panic!("denied: {:?}", denial.open()),
        }
    }

    fn put(
        &self,
        host: &Endpoint,
        job: &str,
        spec: &JobSpec,
        ticket: Option<Ticket>,
    ) -> Result<Job, CallError> {
        let put = PutJob { ticket, ..PutJob::of(Revision(1), spec.clone()) };
        let path = format!("/v1/jobs/{job}");
        let asked = self.client.send::<_, Job>(Method::PUT, host, &path, &put);
        self.runtime.block_on(asked).map(|reply| reply.body)
    }
}

/// A guest that is firmware only: nothing needs to boot here.
fn spec(memory_mib: u64) -> JobSpec {
    JobSpec::vm(VmSpec {
        vcpus: 1,
        memory_bytes: memory_mib << 20,
        disks: vec![],
        nics: vec![],
        ..VmSpec::default()
    })
}

fn problem(answer: Result<Job, CallError>) -> String {
    let error = answer.expect_err("it was started");
    error.problem().unwrap_or_else(|| panic!("no problem document: {error}")).name().to_owned()
}

#[test]
fn lab_nothing_starts_without_the_right_ticket() {
    let Some(lab) = Lab::up("lab_nothing_starts_without_the_right_ticket", 2) else { return };
    let mut operator = Operator::new();
    operator.make_cluster(&lab);
    let caller = Caller::new(&operator);
    let (h1, h2) = (caller.host(&lab, "h1"), caller.host(&lab, "h2"));
    let small = spec(64);

    assert_eq!(problem(caller.put(&h1, "a", &small, None)), "ticket-missing");
    let ungranted = Ticket { offer: caller.offer(&h1, "a", &small).offer, grants: vec![] };
    assert_eq!(problem(caller.put(&h1, "a", &small, Some(ungranted))), "ticket-without-quorum");
    let ticket = caller.ticket(caller.offer(&h1, "b", &small).offer);
    let ask =
        |host, job, spec: &JobSpec| problem(caller.put(host, job, spec, Some(ticket.clone())));
    assert_eq!(ask(&h2, "b", &small), "ticket-for-other-host");
    assert_eq!(ask(&h1, "c", &small), "ticket-for-other-job");
    assert_eq!(ask(&h1, "b", &spec(128)), "ticket-for-other-spec");

    let late = caller.offer(&h1, "d", &small);
    let late_ticket = caller.ticket(late.offer);
    // The one wait that is the point: the offer must end by itself.
    std::thread::sleep(Duration::from_millis(late.left_ms + 200));
    assert_eq!(problem(caller.put(&h1, "d", &small, Some(late_ticket))), "offer-ended");
    assert_eq!(lab.virsh_domains("h1"), Vec::<String>::new());
    assert_eq!(lab.virsh_domains("h2"), Vec::<String>::new());

    let ticket = caller.ticket(caller.offer(&h1, "e", &small).offer);
    caller.put(&h1, "e", &small, Some(ticket.clone())).expect("the right ticket");
    operator.await_state("e", "running");
    caller.put(&h1, "e", &small, Some(ticket.clone())).expect("the same again is no second job");
    assert_eq!(lab.virsh_domains("h1"), ["e"]);
    operator.must(&["stop", "e", "--force"]);
    operator.must(&["rm", "e"]);
    assert_eq!(problem(caller.put(&h1, "e", &small, Some(ticket))), "offer-used");
    assert_eq!(lab.virsh_domains("h1"), Vec::<String>::new());
}

#[test]
fn lab_a_run_that_waits_for_arbiters_is_cancelled_and_leaves_nothing() {
    let Some(lab) = Lab::up("lab_a_run_that_waits_for_arbiters_is_cancelled", 1) else { return };
    let mut operator = Operator::new();
    operator.make_cluster(&lab);
    let (host, arbiter) = operator.service(&lab, "arbiter");
    assert!(lab.exec(&host, &["kill", "-STOP", &arbiter]).status.success());
    operator.must(&[
        "run",
        "--image",
        "guest",
        "--name",
        "web-1",
        "--memory",
        "64MiB",
        "--no-wait",
    ]);
    let (id, _) = until("the run to wait for the arbiter", Duration::from_secs(20), || {
        let runs = operator.json(&["runs"]);
        let run = &runs["runs"][0];
        let waits = run["tasks"].as_array().is_some_and(|tasks| {
            let is_waiting = |task: &&Value| task["state"] == "started";
            tasks
                .iter()
                .filter(is_waiting)
                .any(|task| task["title"].to_string().contains("granted"))
        });
        match run["id"].as_str() {
            Some(id) if waits => Ok(id.to_owned()),
            _ => Err(runs.to_string()),
        }
    });
    let cancelled = operator.must(&["runs", "cancel", &id]);
    assert!(cancelled.contains("rolled_back: cancelled"), "{cancelled}");
    assert!(lab.exec(&host, &["kill", "-CONT", &arbiter]).status.success());
    assert_eq!(lab.virsh_domains(&host), Vec::<String>::new());
    assert!(!operator.run(&["runs", "cancel", &id]).status.success(), "it is over");

    operator.must(&["run", "--image", "guest", "--name", "web-1", "--memory", "64MiB"]);
    assert_eq!(lab.virsh_state(&host, "web-1"), "running");
}

#[test]
fn lab_a_tenant_gets_what_its_quota_allows_and_no_more() {
    let Some(lab) = Lab::up("lab_a_tenant_gets_what_its_quota_allows", 1) else { return };
    let mut operator = Operator::new();
    operator.make_cluster(&lab);
    operator.must(&["quota", "set", "default", "--vcpus", "1"]);
    let run = |name: &'static str| ["run", "--memory", "64MiB", "--name", name];
    operator.must(&run("web-1"));
    let denied = operator.run(&run("web-2"));
    let said = String::from_utf8_lossy(&[denied.stdout, denied.stderr].concat()).into_owned();
    assert!(!denied.status.success() && said.contains("limit of 1 vcpu,"), "{said}");
    assert_eq!(lab.virsh_domains("h1"), ["web-1"], "virsh agrees");
    let quota = operator.json(&["quota"]);
    let row = &quota["quota"][0];
    let shown = (&row["tenant"], &row["limit"]["vcpus"], &row["used"]["vcpus"], &row["vms"]);
    assert!(shown.0 == "default" && shown.1 == 1 && shown.2 == 1 && shown.3 == 1, "{quota}");

    let set = operator.run(&["quota", "set", "default", "--memory", "32MiB"]);
    let said = String::from_utf8_lossy(&set.stderr).into_owned();
    assert!(set.status.success() && said.contains("nothing is stopped"), "{said}");
    assert_eq!(lab.virsh_state("h1", "web-1"), "running");
    operator.must(&["quota", "clear", "default"]);
    operator.must(&run("web-2"));
    assert_eq!(lab.virsh_domains("h1").len(), 2);

    // A number of them that comes later counts those that run.
    operator.must(&["quota", "set", "default", "--vms", "2"]);
    let denied = operator.run(&run("web-3"));
    let said = String::from_utf8_lossy(&[denied.stdout, denied.stderr].concat()).into_owned();
    assert!(!denied.status.success() && said.contains("limit of 2 vms"), "{said}");
    assert_eq!(operator.json(&["quota"])["quota"][0]["limit"]["vms"], 2);
    operator.must(&["stop", "web-1", "--force"]);
    operator.must(&run("web-3"));
    let states = ["web-1", "web-2", "web-3"].map(|name| lab.virsh_state("h1", name));
    assert_eq!(states, ["shut off", "running", "running"], "one in the place of another");
}

/// Three arbiters of which two grant: each books its part, so that all of the quota can be used, and two
/// thirds of it while one is away. What the two have booked alone meanwhile is spread anew later.
#[test]
fn lab_all_of_a_quota_is_used_and_two_thirds_with_one_arbiter_away() {
    let Some(lab) = Lab::up("lab_all_of_a_quota_is_used", 3) else { return };
    let mut operator = Operator::new();
    operator.make_cluster_with(&lab, &["--arbiters", "3"]);
    operator.must(&["quota", "set", "default", "--vcpus", "3", "--vms", "3"]);
    let run = |name: &'static str| ["run", "--memory", "64MiB", "--name", name];
    let said = |output: std::process::Output| {
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    for name in ["web-1", "web-2", "web-3"] {
        operator.must(&run(name));
    }
    let denied = operator.run(&run("web-4"));
    assert!(!denied.status.success());
    let words = said(denied);
    let has = |part: &str| assert!(words.contains(part), "{part} is not in: {words}");
    ["limit of 3 vms, 3 vcpus", "1 vm, 1 vcpu,", "at most 0 vms, 0 vcpus"]
        .into_iter()
        .for_each(has);
    assert_eq!(operator.json(&["quota"])["quota"][0]["used"]["vcpus"], 3);
    let shown = said(operator.run(&["quota"]));
    assert!(shown.contains("all of each limit can be used while all 3 arbiters"), "{shown}");

    let (host, arbiter) = operator.service(&lab, "arbiter");
    assert!(lab.exec(&host, &["kill", "-STOP", &arbiter]).status.success());
    for name in ["web-1", "web-2", "web-3"] {
        operator.must(&["stop", name, "--force"]);
        operator.must(&["rm", name]);
    }
    for name in ["db-1", "db-2"] {
        operator.must(&run(name));
    }
    let denied = operator.run(&run("db-3"));
    assert!(!denied.status.success(), "a third with two of three arbiters");
    let words = said(denied);
    assert!(words.contains("limit of 3 vms, 3 vcpus"), "{words}");
    let guests = || {
        let mut all: Vec<String> =
            lab.hosts().iter().flat_map(|host| lab.virsh_domains(host)).collect();
        all.sort();
        all
    };
    assert_eq!(guests(), ["db-1", "db-2"], "virsh agrees");

    assert!(lab.exec(&host, &["kill", "-CONT", &arbiter]).status.success());
    operator.must(&run("db-3"));
    assert_eq!(guests(), ["db-1", "db-2", "db-3"]);
    assert!(!operator.run(&run("db-4")).status.success());
}
