//! VMs that make way for others, whatever becomes of the controller meanwhile.

use std::time::Duration;

use protocol::api::{RunState, Want};
use protocol::job::{JobSpec, JobState};
use protocol::vm::{Priority, Rank};

use crate::fakes::{Cluster, spec};
use crate::{Controller, id, wait_until};

/// A VM that nearly fills the first host.
fn large(job: &str, rank: Rank) -> Want {
    let large = spec().with_size(|size| protocol::vm::Size { memory_bytes: 30 << 30, ..size });
    let spec: Option<JobSpec> = large.and_then(|spec| spec.ranked(rank));
    let (job, spec) = (job.parse().unwrap(), spec.unwrap());
    Want::Run { job, spec, on: None, again: false }
}

fn batch() -> Want {
    large("batch", Rank { priority: Priority::try_from(10).ok(), preemptible: Some(true) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_matters_more_has_the_room_of_what_may_be_stopped() {
    let cluster = Cluster::start(1).await;
    let controller = Controller::start(&cluster).await;
    controller.ask.submit(id(1), batch()).await.unwrap();
    assert_eq!(controller.ask.ended(id(1)).await.state, RunState::Succeeded);
    controller.ask.submit(id(1000), large("web", Rank::default())).await.unwrap();
    let ended = controller.ask.ended(id(1000)).await;
    assert_eq!(ended.state, RunState::Succeeded, "{ended:#?}");
    assert_eq!(cluster.rows("batch"), vec![(0, JobState::Stopped)]);
    assert_eq!(cluster.running("web"), vec![0]);
    controller.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_made_way_for_what_does_not_start_is_back_whenever_the_controller_is_killed() {
    let cluster = Cluster::start(1).await;
    cluster.set(0, |faults| faults.fails_start_of = Some("web".parse().unwrap()));
    let mut controller = Controller::start(&cluster).await;
    controller.ask.submit(id(1), batch()).await.unwrap();
    assert_eq!(controller.ask.ended(id(1)).await.state, RunState::Succeeded);
    for n in 0..6_u8 {
        // Runs of others for its sake have numbers that follow from it.
        let run = id(1000 * (2 + u128::from(n)));
        controller.ask.submit(run, large("web", Rank::default())).await.unwrap();
        // Somewhere between its plan and its end, another place each time.
        tokio::time::sleep(Duration::from_millis(40 * u64::from(n))).await;
        controller.kill().await;
        controller = Controller::start(&cluster).await;
        let ended = controller.ask.ended(run).await;
        assert_eq!(ended.state, RunState::RolledBack, "{ended:#?}");
        assert_eq!(
            cluster.rows("batch"),
            vec![(0, JobState::Running)],
            "killed after {} ms",
            20 * n
        );
        wait_until("nothing is left of web", || cluster.rows("web").is_empty()).await;
    }
    assert!(cluster.starts("batch") > 1, "it has made way");
    controller.kill().await;
}
