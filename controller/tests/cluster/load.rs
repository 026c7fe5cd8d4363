//! Hosts whose guests are to use about as much of their CPUs, over the wire: who is asked, and what is begun for it.

use protocol::api::{RunList, Want};
use protocol::expectations::KeptStanding;
use protocol::used::Used;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use transport::Method;

use super::fakes::Cluster;
use super::{Asker, Controller, DEADLINE, id, start};

fn even(moves_per_hour: u32) -> Value {
    json!([{
        "expect": "balanced", "measure": "cpu", "within_percent": 20, "moves_per_hour": moves_per_hour,
        "after_s": 2,
    }])
}

impl Asker {
    async fn used(&self) -> Used {
        self.client.get(&self.endpoint, "/v1/used").await.unwrap()
    }

    async fn moves(&self) -> Vec<(Want, Option<String>)> {
        let list: RunList = self.client.get(&self.endpoint, "/v1/runs").await.unwrap();
        let runs = list.runs.into_iter().filter(|run| matches!(run.want, Want::Migrate { .. }));
        runs.map(|run| (run.want, run.because)).collect()
    }

    /// Two VMs on the first host.
    async fn crowd(&self, cluster: &Cluster) {
        for (n, name) in [(1, "web-1"), (2, "web-2")] {
            let on = Some(cluster.host_id(0));
            let want = match start(name) {
                Want::Run { job, spec, again, .. } => Want::Run { job, spec, on, again },
                other => other,
            };
            self.submit(id(n), want).await.unwrap();
            assert!(self.ended(id(n)).await.state.is_ended());
            assert_eq!(cluster.running(name), [0]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_vm_is_moved_to_an_idle_host_and_hosts_are_asked_only_while_that_is_expected() {
    let cluster = Cluster::start(2).await;
    cluster.can_receive();
    cluster.uses(0, "web-1", 3_000);
    cluster.uses(0, "web-2", 2_900);
    let controller = Controller::start(&cluster).await;
    let ask = &controller.ask;
    ask.crowd(&cluster).await;
    assert_eq!(cluster.usage_counts(), [0, 0], "nobody has asked for it");
    assert_eq!(ask.used().await, Used::default());

    ask.put("even", 1, even(0)).await.unwrap();
    let is_unmet = |standing: &KeptStanding| match standing {
        KeptStanding::Unmet { why, .. } => why.contains("is 73.8% busy"),
        _ => false,
    };
    ask.standing_is("even", is_unmet).await;
    let used = ask.used().await;
    assert_eq!(used.hosts.len(), 2, "{used:?}");
    let known: Vec<u64> = used.vms.values().map(|known| known.cpu_millis).collect();
    assert!(known[0].abs_diff(3_000) <= 5 && known[1].abs_diff(2_900) <= 5, "{used:?}");
    assert_eq!(ask.moves().await, [], "it has no leave to move anybody");

    ask.put("even", 2, even(60)).await.unwrap();
    let moved = async {
        loop {
            if let [(want, because), ..] = &ask.moves().await[..] {
                return (want.clone(), because.clone());
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    let (want, because) = tokio::time::timeout(DEADLINE, moved).await.expect("one is moved");
    let Want::Migrate { job, to, .. } = want else { panic!("{want:?}") };
    assert_eq!((job.as_str(), to), ("web-2", cluster.host_id(1)));
    assert!(because.unwrap().contains("is 73.8% busy and"));
    // A round every ten seconds: it is not asked as fast as it answers.
    let asked = cluster.usage_counts();
    assert!(asked.iter().all(|count| (2..=12).contains(count)), "{asked:?}");

    let path = "/v1/expectations/even";
    let gone = ask.client.send::<_, Option<IgnoredAny>>(Method::DELETE, &ask.endpoint, path, &());
    assert_eq!(gone.await.unwrap().status, 204);
    let forgotten = async {
        while ask.used().await != Used::default() {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(DEADLINE, forgotten).await.expect("what nobody asks for is forgotten");
    controller.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_is_not_counted_moves_nobody_and_it_is_said_why() {
    let cluster = Cluster::start(2).await;
    cluster.can_receive();
    cluster.uses(0, "web-1", 6_000);
    let controller = Controller::start(&cluster).await;
    let ask = &controller.ask;
    ask.crowd(&cluster).await;
    ask.put("even", 1, even(3_600)).await.unwrap();
    // Both hosts have answered twice, and one of them does not say what web-2 uses.
    let measured = async {
        loop {
            let used = ask.used().await;
            if used.hosts.len() == 2 && used.vms.len() == 1 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(DEADLINE, measured).await.expect("both are measured");
    let host = cluster.host_id(0).short().to_owned();
    let is_unknown = |standing: &KeptStanding| match standing {
        KeptStanding::Unmet { why, .. } => {
            *why == format!("what guests use is not known of {host}")
        }
        _ => false,
    };
    ask.standing_is("even", is_unknown).await;
    assert_eq!(ask.moves().await, []);
    controller.kill().await;
}
