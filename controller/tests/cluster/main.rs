//! A controller over real TLS against hosts, a monitor and an arbiter that keep the protocol and
//! do as the test says. What is judged is what the hosts saw.

mod expectations;

mod fakes;
mod load;
mod preemption;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use controller::{Options, serve};
use fakes::{Cluster, spec};
use protocol::api::{NewRun, RunList, RunState, RunStatus, TaskState, Want};
use protocol::id::{JobId, RunId};
use protocol::job::{JobState, ServiceEndpoint};
use protocol::refusal::Refusal;
use transport::{CallError, CancellationToken, Client, Clock, Endpoint, Identity, Method};
use uuid::Uuid;

/// Longest wait for anything here; ends are a second away at most.
const DEADLINE: Duration = Duration::from_secs(40);

fn options(cluster: &Cluster) -> Options {
    let data_dir = cluster.data_dir();
    Options {
        data_dir: data_dir.clone(),
        listen: "127.0.0.1:0".parse().unwrap(),
        trust_file: Some(cluster.trust_file()),
        ready_file: Some(data_dir.join("ready.json")),
        discovery: vec![],
        power_file: data_dir.join("power.json"),
    }
}

/// A controller in this process, and a way to ask it as an operator.
struct Controller {
    stop: CancellationToken,
    done: tokio::task::JoinHandle<()>,
    ask: Asker,
}

#[derive(Clone)]
struct Asker {
    client: Client,
    endpoint: Endpoint,
}

impl Controller {
    async fn start(cluster: &Cluster) -> Self {
        let stop = CancellationToken::new();
        let _ = std::fs::remove_file(cluster.data_dir().join("ready.json"));
        let serving = serve(options(cluster), Clock::real(), stop.clone());
        let done = tokio::spawn(async move { serving.await.unwrap() });
        let ask = Asker::at(cluster).await;
        Self { stop, done, ask }
    }

    /// Everything in memory is dropped where it stands; nothing is written any more.
    async fn kill(self) {
        self.stop.cancel();
        self.done.await.unwrap();
    }
}

impl Asker {
    async fn at(cluster: &Cluster) -> Self {
        let ready = cluster.data_dir().join("ready.json");
        let found = tokio::time::timeout(DEADLINE, async {
            loop {
                let text = std::fs::read(&ready).unwrap_or_default();
                if let Ok(found) = serde_json::from_slice::<ServiceEndpoint>(&text) {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let ServiceEndpoint { url, key } = found.await.expect("controller is ready");
        Self {
            client: Client::new(Arc::clone(&cluster.operator)),
            endpoint: Endpoint::of_key(url, key),
        }
    }

    async fn submit(&self, id: RunId, want: Want) -> Result<RunStatus, CallError> {
        let body = NewRun::new(id, want);
        let reply = self.client.send(Method::POST, &self.endpoint, "/v1/runs", &body).await?;
        assert_eq!(reply.status, 202);
        Ok(reply.body)
    }

    async fn status(&self, id: RunId, wait_ms: u64) -> Result<RunStatus, CallError> {
        self.client.get(&self.endpoint, &format!("/v1/runs/{id}?wait_ms={wait_ms}")).await
    }

    async fn cancel(&self, id: RunId) -> Result<RunStatus, CallError> {
        let path = format!("/v1/runs/{id}/cancel");
        let reply = self.client.send(Method::POST, &self.endpoint, &path, &()).await?;
        assert_eq!(reply.status, 202);
        Ok(reply.body)
    }

    async fn ended(&self, id: RunId) -> RunStatus {
        let wait = async {
            loop {
                let status = self.status(id, 500).await.unwrap();
                if status.state.is_ended() {
                    return status;
                }
            }
        };
        tokio::time::timeout(DEADLINE, wait).await.expect("the run ends")
    }
}

fn id(n: u128) -> RunId {
    RunId(Uuid::from_u128(n))
}

fn start(job: &str) -> Want {
    Want::Run { job: JobId::new(job).unwrap(), spec: spec(), on: None, again: false }
}

async fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_is_started_stopped_started_again_and_deleted() {
    let cluster = Cluster::start(2).await;
    let controller = Controller::start(&cluster).await;
    let ask = &controller.ask;
    let accepted = ask.submit(id(1), start("web-1")).await.unwrap();
    assert!(!accepted.state.is_ended());
    let ended = ask.ended(id(1)).await;
    assert_eq!(ended.state, RunState::Succeeded, "{ended:#?}");
    assert!(ended.tasks.iter().all(|task| task.state == TaskState::Succeeded));
    assert_eq!(cluster.running("web-1").len(), 1);

    // Asking twice is asking once; another wish under the same id is refused.
    let again = ask.submit(id(1), start("web-1")).await.unwrap();
    assert_eq!(again.state, RunState::Succeeded);
    let other = ask.submit(id(1), start("web-2")).await.unwrap_err();
    assert_eq!(other.problem().unwrap().status, 422, "{other}");

    let job = JobId::new("web-1").unwrap();
    ask.submit(id(2), Want::stop(job.clone(), 0)).await.unwrap();
    assert_eq!(ask.ended(id(2)).await.state, RunState::Succeeded);
    assert_eq!(cluster.running("web-1").len(), 0);
    ask.submit(id(3), start("web-1")).await.unwrap();
    let ended = ask.ended(id(3)).await;
    assert_eq!(ended.state, RunState::Succeeded, "{ended:#?}");
    assert_eq!(cluster.running("web-1").len(), 1);
    ask.submit(id(4), Want::Delete { job }).await.unwrap();
    let ended = ask.ended(id(4)).await;
    assert_eq!(ended.state, RunState::Succeeded, "{ended:#?}");
    assert_eq!(cluster.rows("web-1"), vec![]);
    let list: RunList = ask.client.get(&ask.endpoint, "/v1/runs").await.unwrap();
    assert_eq!(list.runs.len(), 4);
    controller.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_refuses_is_replaced_by_another() {
    let cluster = Cluster::start(2).await;
    let controller = Controller::start(&cluster).await;
    // The view says that there is room; the host knows better.
    let first = cluster.by_preference()[0];
    cluster.set(first, |faults| faults.is_full = true);
    controller.ask.submit(id(1), start("web-1")).await.unwrap();
    let ended = controller.ask.ended(id(1)).await;
    assert_eq!((ended.state, ended.rounds), (RunState::Succeeded, 2), "{ended:#?}");
    let second = cluster.by_preference()[1];
    assert_eq!(cluster.running("web-1"), vec![second]);
    controller.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_fails_is_undone_and_tried_elsewhere() {
    let cluster = Cluster::start(2).await;
    let controller = Controller::start(&cluster).await;
    let [first, second] = cluster.by_preference()[..] else { panic!() };
    cluster.set(first, |faults| faults.fails_starts = true);
    controller.ask.submit(id(1), start("web-1")).await.unwrap();
    let ended = controller.ask.ended(id(1)).await;
    assert_eq!(ended.state, RunState::Succeeded, "{ended:#?}");
    assert_eq!(cluster.rows("web-1"), vec![(second, JobState::Running)], "nothing is left");
    controller.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_arbiters_deny_ends_with_their_words() {
    let cluster = Cluster::start(2).await;
    cluster.deny_quota(true);
    let controller = Controller::start(&cluster).await;
    controller.ask.submit(id(1), start("web-1")).await.unwrap();
    let ended = controller.ask.ended(id(1)).await;
    assert_eq!(ended.state, RunState::RolledBack);
    let reason = ended.reason.unwrap();
    assert!(reason.starts_with("denied: arbiter 0: tenant default has a limit"), "{reason}");
    assert_eq!(cluster.rows("web-1"), vec![]);
    assert_eq!(cluster.offers_open(), 0, "the offer was taken back");
    controller.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_room_anywhere_ends_with_numbers_per_host() {
    let cluster = Cluster::start(2).await;
    let controller = Controller::start(&cluster).await;
    let mut huge = spec();
    if let protocol::job::JobKind::Vm(vm) = &mut huge.kind {
        vm.memory_bytes = 64 << 30;
    }
    let want = Want::Run { job: JobId::new("huge").unwrap(), spec: huge, on: None, again: false };
    controller.ask.submit(id(1), want).await.unwrap();
    let ended = controller.ask.ended(id(1)).await;
    let reason = ended.reason.unwrap();
    assert_eq!(reason.matches("needs 64GiB of memory").count(), 2, "{reason}");
    controller.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_run_of_a_job_is_told_which_is_first() {
    let cluster = Cluster::start(1).await;
    cluster.set(0, |faults| faults.hangs_starts = true);
    let controller = Controller::start(&cluster).await;
    controller.ask.submit(id(1), start("web-1")).await.unwrap();
    let error = controller.ask.submit(id(2), start("web-1")).await.unwrap_err();
    let problem = error.problem().unwrap();
    assert_eq!(problem.status, 409);
    assert!(problem.detail.contains(&id(1).to_string()), "{}", problem.detail);
    cluster.set(0, |faults| faults.hangs_starts = false);
    assert_eq!(controller.ask.ended(id(1)).await.state, RunState::Succeeded);
    controller.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_start_is_taken_back_and_one_that_has_ended_stays_as_it_is() {
    let cluster = Cluster::start(1).await;
    cluster.set(0, |faults| faults.hangs_starts = true);
    let controller = Controller::start(&cluster).await;
    controller.ask.submit(id(1), start("web-1")).await.unwrap();
    wait_until("the host to have it", || !cluster.rows("web-1").is_empty()).await;
    let cancelled = controller.ask.cancel(id(1)).await.unwrap();
    assert_ne!(cancelled.state, RunState::Running);
    cluster.set(0, |faults| faults.hangs_starts = false);
    let ended = controller.ask.ended(id(1)).await;
    assert_eq!(ended.state, RunState::RolledBack);
    assert_eq!(ended.reason.unwrap(), "cancelled: somebody wanted it no more");
    assert_eq!((cluster.rows("web-1"), cluster.offers_open()), (vec![], 0));

    controller.ask.submit(id(2), start("web-1")).await.unwrap();
    assert_eq!(controller.ask.ended(id(2)).await.state, RunState::Succeeded);
    assert_eq!(controller.ask.cancel(id(2)).await.unwrap().state, RunState::Succeeded);
    let unknown = controller.ask.cancel(id(3)).await.unwrap_err();
    assert_eq!(unknown.problem().unwrap().status, 404);
    controller.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_may_nothing_and_a_monitor_only_look() {
    let cluster = Cluster::start(1).await;
    let controller = Controller::start(&cluster).await;
    let body = NewRun::new(id(1), start("web-1"));
    for (identity, may_look) in
        [(Arc::new(Identity::ephemeral()), false), (Arc::clone(&cluster.monitor), true)]
    {
        let client = Client::new(identity);
        let to = &controller.ask.endpoint;
        let looked = client.get::<RunList>(to, "/v1/runs").await;
        assert_eq!(looked.is_ok(), may_look);
        let asked = client.send::<_, RunStatus>(Method::POST, to, "/v1/runs", &body).await;
        let error = asked.unwrap_err();
        assert!(matches!(error.refusal(), Some(Refusal::Forbidden { .. })), "{error}");
    }
    controller.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_goes_on_in_the_next_life_of_the_controller() {
    let cluster = Cluster::start(2).await;
    let first = cluster.by_preference()[0];
    cluster.set(first, |faults| faults.hangs_starts = true);
    let controller = Controller::start(&cluster).await;
    controller.ask.submit(id(1), start("web-1")).await.unwrap();
    wait_until("the host has the job", || !cluster.rows("web-1").is_empty()).await;
    controller.kill().await;
    cluster.set(first, |faults| faults.hangs_starts = false);
    let controller = Controller::start(&cluster).await;
    let ended = controller.ask.ended(id(1)).await;
    assert_eq!((ended.state, ended.rounds), (RunState::Succeeded, 1), "{ended:#?}");
    assert_eq!(cluster.starts("web-1"), 1);
    controller.kill().await;
}

/// A controller in a process of its own, when asked for by [`Victim`]; else nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn victim_process() {
    let Ok(data_dir) = std::env::var("OSTLER_TEST_CONTROLLER_DIR") else { return };
    let trust_file = std::env::var("OSTLER_TEST_TRUST_FILE").unwrap();
    let data_dir = Path::new(&data_dir);
    let options = Options {
        data_dir: data_dir.to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        trust_file: Some(trust_file.into()),
        ready_file: Some(data_dir.join("ready.json")),
        discovery: vec![],
        power_file: data_dir.join("power.json"),
    };
    serve(options, Clock::real(), CancellationToken::new()).await.unwrap();
}

struct Victim(Child);

impl Victim {
    fn start(cluster: &Cluster) -> Self {
        let _ = std::fs::remove_file(cluster.data_dir().join("ready.json"));
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "victim_process", "--nocapture"])
            .env("OSTLER_TEST_CONTROLLER_DIR", cluster.data_dir())
            .env("OSTLER_TEST_TRUST_FILE", cluster.trust_file())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // SIGKILL: nothing of it gets to run.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_again_and_again_every_accepted_run_ends_once() {
    const RUNS: u128 = 24;
    let cluster = Cluster::start(3).await;
    cluster.set(cluster.by_preference()[0], |faults| faults.fails_starts = true);
    cluster.set_start_ms(60);
    let mut next = 1;
    for life in 0..8_u64 {
        let victim = Victim::start(&cluster);
        let ask = Asker::at(&cluster).await;
        for _ in 0..3 {
            // An answer that is lost with the process is asked for again in the next life.
            if ask.submit(id(next), start(&format!("vm-{next}"))).await.is_ok() {
                next += 1;
            }
        }
        tokio::time::sleep(Duration::from_millis(life * 37 % 200)).await;
        drop(victim);
    }
    let _victim = Victim::start(&cluster);
    let ask = Asker::at(&cluster).await;
    assert_eq!(next, RUNS + 1, "every run was accepted");
    for n in 1..next {
        let ended = ask.ended(id(n)).await;
        assert_eq!(ended.state, RunState::Succeeded, "{ended:#?}");
        let job = format!("vm-{n}");
        let rows = cluster.rows(&job);
        assert!(matches!(rows[..], [(_, JobState::Running)]), "{job}: {rows:?}\n{ended:#?}");
    }
    assert!(!cluster.ran_twice(), "no job ran in two places");
}
