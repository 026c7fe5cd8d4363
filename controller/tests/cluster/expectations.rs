//! What is expected, over the wire: stored, kept over restarts, heeded by new placements, and mended.

use protocol::api::{RunList, Want};
use protocol::expectations::{KeptStanding, PutExpectations, SetList, SetStatus};
use protocol::id::{JobId, Revision};
use protocol::job::JobState;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use transport::{CallError, Method};

use super::fakes::{Cluster, spec};
use super::{Asker, Controller, DEADLINE, id, start};

impl Asker {
    pub(crate) async fn put(
        &self,
        name: &str,
        revision: u64,
        list: Value,
    ) -> Result<u16, CallError> {
        let expectations = list.as_array().unwrap().clone();
        let put = PutExpectations { revision: Revision(revision), expectations };
        let path = format!("/v1/expectations/{name}");
        let reply = self.client.send::<_, SetStatus>(Method::PUT, &self.endpoint, &path, &put);
        reply.await.map(|reply| reply.status)
    }

    pub(crate) async fn set(&self, name: &str, wait_ms: u64) -> Result<SetStatus, CallError> {
        let path = format!("/v1/expectations/{name}?wait_ms={wait_ms}");
        self.client.get(&self.endpoint, &path).await
    }

    pub(crate) async fn standing_is(
        &self,
        name: &str,
        is_it: impl Fn(&KeptStanding) -> bool,
    ) -> KeptStanding {
        let wait = async {
            loop {
                let standing = self.set(name, 200).await.unwrap().expectations[0].standing.clone();
                if is_it(&standing) {
                    return standing;
                }
            }
        };
        tokio::time::timeout(DEADLINE, wait).await.expect("it comes to that")
    }

    /// The view may show what a run is for before the run has ended.
    async fn no_run_is_open(&self) {
        let wait = async {
            loop {
                let list: RunList = self.client.get(&self.endpoint, "/v1/runs").await.unwrap();
                match list.runs.iter().find(|run| !run.state.is_ended()) {
                    Some(open) => self.ended(open.id).await,
                    None => return,
                };
            }
        };
        tokio::time::timeout(DEADLINE, wait).await.expect("they end");
    }
}

fn status_of(error: &CallError) -> (u16, String) {
    let problem = error.problem().expect("an answer");
    (problem.status, problem.name().to_owned())
}

fn apart() -> Value {
    json!([{ "expect": "not_same_host", "jobs": ["web-1", "web-2", "web-3"] }])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_is_put_once_told_of_and_deleted_and_survives_a_kill() {
    let cluster = Cluster::start(2).await;
    let controller = Controller::start(&cluster).await;
    let ask = &controller.ask;
    assert_eq!(ask.put("apart", 1, apart()).await.unwrap(), 201);
    assert_eq!(ask.put("apart", 1, apart()).await.unwrap(), 200, "it is so already");
    let spare = json!([{ "expect": "lose_any_host" }]);
    let error = ask.put("apart", 1, spare.clone()).await.unwrap_err();
    assert_eq!(status_of(&error), (409, "expectations-changed".to_owned()));
    let absent = json!([{ "expect": "absent", "job": "web-1" }]);
    assert_eq!(status_of(&ask.put("x", 1, absent).await.unwrap_err()).0, 400);
    assert_eq!(
        status_of(&ask.put("x", 1, json!([{ "expect": "same_host" }])).await.unwrap_err()).0,
        400
    );
    assert_eq!(ask.put("spare", 5, spare).await.unwrap(), 201);
    controller.kill().await;

    let controller = Controller::start(&cluster).await;
    let ask = &controller.ask;
    ask.standing_is("apart", |standing| *standing == KeptStanding::Met).await;
    let list: SetList = ask.client.get(&ask.endpoint, "/v1/expectations").await.unwrap();
    let names: Vec<(&str, u64)> =
        list.sets.iter().map(|set| (set.name.as_str(), set.revision.0)).collect();
    assert_eq!(names, [("apart", 1), ("spare", 5)]);
    let gone = |revision: &'static str| {
        let path = format!("/v1/expectations/apart{revision}");
        async move {
            let client = &ask.client;
            client.send::<_, Option<IgnoredAny>>(Method::DELETE, &ask.endpoint, &path, &()).await
        }
    };
    assert_eq!(
        status_of(&gone("?revision=1").await.unwrap_err()).0,
        409,
        "somebody has changed it"
    );
    assert_eq!(gone("").await.unwrap().status, 204);
    assert_eq!(gone("").await.unwrap().status, 204, "it is so already");
    assert_eq!(status_of(&ask.set("apart", 0).await.unwrap_err()).0, 404);
    assert_eq!(status_of(&ask.put("apart", 2, apart()).await.unwrap_err()).0, 409);
    assert_eq!(ask.put("apart", 3, apart()).await.unwrap(), 201);
    controller.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_placements_heed_what_is_kept() {
    let cluster = Cluster::start(2).await;
    let controller = Controller::start(&cluster).await;
    let ask = &controller.ask;
    ask.put("apart", 1, apart()).await.unwrap();
    for n in [1, 2] {
        ask.submit(id(n), start(&format!("web-{n}"))).await.unwrap();
        assert!(ask.ended(id(n)).await.state.is_ended());
    }
    assert_ne!(cluster.running("web-1"), cluster.running("web-2"));
    // There are two hosts, and a third must not be with either.
    ask.submit(id(3), start("web-3")).await.unwrap();
    let reason = ask.ended(id(3)).await.reason.unwrap();
    assert!(reason.contains("has room, but must not: two on one host"), "{reason}");
    assert_eq!(cluster.running("web-3"), Vec::<usize>::new());
    controller.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_tell_of_runs_noes_and_what_is_kept() {
    let cluster = Cluster::start(2).await;
    let controller = Controller::start(&cluster).await;
    let ask = &controller.ask;
    cluster.set(cluster.by_preference()[0], |faults| faults.is_full = true);
    ask.submit(id(1), start("web-1")).await.unwrap();
    ask.ended(id(1)).await;
    ask.put("apart", 1, apart()).await.unwrap();
    ask.standing_is("apart", |standing| *standing == KeptStanding::Met).await;
    let text = ask.client.get_bytes(&ask.endpoint, "/metrics", 1 << 20).await.unwrap();
    let text = String::from_utf8(text.to_vec()).unwrap();
    for line in [
        "ostler_controller_runs_ended_total{kind=\"run\",state=\"succeeded\"} 1.0",
        "ostler_controller_runs_ended_total{kind=\"migrate\",state=\"stuck\"} 0.0",
        "ostler_controller_runs_open{kind=\"run\",state=\"running\"} 0.0",
        "ostler_controller_run_seconds_count{kind=\"run\"} 1",
        "ostler_controller_plans_total{for=\"run\",outcome=\"whole\"} 2.0",
        "ostler_controller_refusals_total{by=\"host\",reason=\"no-capacity\"} 1.0",
        "ostler_controller_expectations{level=\"must\",standing=\"met\"} 1.0",
        "ostler_controller_upkeep_resting_jobs{why=\"not_mended\"} 0.0",
        "ostler_controller_view_current 1.0",
        "ostler_controller_view_stale_seconds 0.0",
        "ostler_controller_hosts{freshness=\"fresh\"} 2.0",
        "ostler_controller_trust_version 1.0",
    ] {
        assert!(text.lines().any(|told| told == line), "{line} is not in\n{text}");
    }
    controller.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_expected_to_run_is_started_and_what_was_stopped_by_command_is_not() {
    let cluster = Cluster::start(2).await;
    let controller = Controller::start(&cluster).await;
    let ask = &controller.ask;
    let runs = json!([{ "expect": "runs", "job": "web-1", "spec": spec() }]);
    ask.put("web", 1, runs).await.unwrap();
    ask.standing_is("web", |standing| *standing == KeptStanding::Met).await;
    assert_eq!(cluster.running("web-1").len(), 1);
    let begun = ask.set("web", 0).await.unwrap().begun;
    assert_eq!(begun.iter().map(JobId::as_str).collect::<Vec<_>>(), ["web-1"]);
    ask.no_run_is_open().await;

    let job = JobId::new("web-1").unwrap();
    ask.submit(id(9), Want::stop(job.clone(), 0)).await.unwrap();
    ask.ended(id(9)).await;
    let is_held = |standing: &KeptStanding| matches!(standing, KeptStanding::Unmet { why, .. } if why.contains("ended by command"));
    ask.standing_is("web", is_held).await;
    controller.kill().await;

    let controller = Controller::start(&cluster).await;
    let ask = &controller.ask;
    ask.standing_is("web", is_held).await;
    assert_eq!(ask.set("web", 0).await.unwrap().stopped.len(), 1, "somebody has it stopped");
    // Deleted it is gone for good, also for a controller that has not seen it being deleted.
    ask.submit(id(10), Want::Delete { job }).await.unwrap();
    ask.ended(id(10)).await;
    controller.kill().await;
    let controller = Controller::start(&cluster).await;
    let is_gone = |standing: &KeptStanding| matches!(standing, KeptStanding::Unmet { why, .. } if why.contains("is gone"));
    controller.ask.standing_is("web", is_gone).await;
    assert_eq!(cluster.rows("web-1"), Vec::<(usize, JobState)>::new());
    controller.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_starts_after_another_vm_and_what_contradicts_it_is_refused() {
    let cluster = Cluster::start(2).await;
    let controller = Controller::start(&cluster).await;
    let ask = &controller.ask;
    let group = |count: u32| json!({ "expect": "group", "name": "web", "count": count, "spec": spec(), "spread": {} });
    let after = json!({ "expect": "starts_after", "jobs": ["web-1", "web-2"], "after": ["db-1"] });
    assert_eq!(ask.put("web", 1, json!([group(2), after])).await.unwrap(), 201);
    let waits = |standing: &KeptStanding| matches!(standing, KeptStanding::Unmet { why, .. } if why.contains("waits for db-1, which no host has"));
    ask.standing_is("web", waits).await;
    let refused = |set: &'static str, list: Value| async move {
        status_of(&ask.put(set, 1, list).await.unwrap_err())
    };
    let clash = (409, "expectations-clash".to_owned());
    assert_eq!(refused("x", json!([{ "expect": "runs", "job": "web-2" }])).await, clash);
    let back = json!([{ "expect": "starts_after", "jobs": ["db-1"], "after": ["web-2"] }]);
    assert_eq!(refused("x", back).await, clash);
    let invalid = (400, "invalid".to_owned());
    assert_eq!(refused("x", json!([group(0)])).await, invalid);
    let alone = json!([{ "expect": "starts_after", "jobs": ["a"], "after": ["a"] }]);
    assert_eq!(refused("x", alone).await, invalid);

    let db = json!([{ "expect": "runs", "job": "db-1", "spec": spec() }]);
    assert_eq!(ask.put("db", 1, db).await.unwrap(), 201);
    ask.standing_is("web", |standing| *standing == KeptStanding::Met).await;
    assert_ne!(cluster.running("web-1"), cluster.running("web-2"));
    let told = ask.set("web", 0).await.unwrap().expectations.swap_remove(0);
    let names: Vec<&str> = told.members.iter().map(|member| member.job.as_str()).collect();
    assert_eq!((names, told.surplus), (vec!["web-1", "web-2"], vec![]));

    // Smaller it ends nobody, and tells of who is left over.
    assert_eq!(ask.put("web", 2, json!([group(1)])).await.unwrap(), 201);
    ask.standing_is("web", |standing| *standing == KeptStanding::Met).await;
    let told = ask.set("web", 0).await.unwrap().expectations.swap_remove(0);
    assert_eq!(told.surplus, [JobId::new("web-2").unwrap()]);
    assert_eq!(cluster.running("web-2").len(), 1);
    controller.kill().await;
}
