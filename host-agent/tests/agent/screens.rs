//! Screens over the real shell: as pictures, and passed on until the guest goes or the right to look.

use hypervisor::Hypervisor as _;
use protocol::id::{ClusterId, JobId};
use protocol::job::{JobSpec, JobState};
use protocol::signed::Signed;
use protocol::trust::Trust;
use protocol::vm::Hardware;
use transport::stream::Frame as Sent;
use transport::{CallError, Client, Frames, Identity, Method, connect_stream};

use super::*;

fn with_screen() -> JobSpec {
    let JobKind::Vm(vm) = vm().kind else { panic!("it is a VM") };
    let hardware = Box::new(Hardware { vnc: true, ..*vm.hardware });
    JobSpec::vm(VmSpec { hardware, ..vm })
}

async fn hears(viewer: &mut Frames, words: &str) {
    let mut heard = Vec::new();
    while heard.len() < words.len() {
        let frame = tokio::time::timeout(PATIENCE, viewer.next_frame()).await.expect("in time");
        match frame {
            Some(Ok(Sent::Bytes(bytes))) => heard.extend_from_slice(&bytes),
            other => panic!("{other:?} instead of bytes"),
        }
    }
    assert_eq!(String::from_utf8_lossy(&heard), words);
}

async fn ends(viewer: &mut Frames) {
    let over = async { while let Some(Ok(_)) = viewer.next_frame().await {} };
    tokio::time::timeout(PATIENCE, over).await.expect("the stream ends");
}

fn problem(error: &CallError) -> (u16, String) {
    let problem = error.problem().expect("an answer");
    (problem.status, problem.name().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_screen_is_a_png_and_is_passed_on_until_its_guest_ends() {
    let bench = Bench::new().await;
    bench.put("web-1", with_screen()).await.unwrap();
    bench.put("bare", vm()).await.unwrap();
    bench.await_state("web-1", JobState::Running).await;
    bench.await_state("bare", JobState::Running).await;
    let (client, agent) = (&bench.client, bench.tls().await);
    let picture = |name: &str| format!("/v1/jobs/{name}/screenshot");
    let png = client.get_bytes(&agent, &picture("web-1"), 1 << 20).await.unwrap();
    assert!(png.starts_with(b"\x89PNG\r\n\x1a\n"), "{png:?}");
    let mut viewer = connect_stream(client, &agent, "/v1/jobs/web-1/vnc").await.unwrap();
    hears(&mut viewer, "RFB 003.008\n").await;
    viewer.send_bytes(b"RFB 003.007\n".to_vec()).await.unwrap();
    hears(&mut viewer, "RFB 003.007\n").await;

    let none = client.get_bytes(&agent, &picture("bare"), 1 << 20).await.unwrap_err();
    assert_eq!(problem(&none), (400, "invalid".to_owned()));
    let none = connect_stream(client, &agent, "/v1/jobs/bare/vnc").await.err().unwrap();
    assert_eq!(problem(&none), (400, "invalid".to_owned()));
    let none = client.get_bytes(&agent, &picture("gone"), 1 << 20).await.unwrap_err();
    assert_eq!(problem(&none), (404, "no-such-job".to_owned()));

    bench.fake.destroy(JobId::new("web-1").unwrap().domain_uuid()).unwrap();
    ends(&mut viewer).await;
    let late = client.get_bytes(&agent, &picture("web-1"), 1 << 20).await.unwrap_err();
    assert_eq!(problem(&late), (409, "wrong-state".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_run_jobs_sees_no_screen_and_a_view_ends_with_the_right_to_it() {
    let bench = Bench::new().await;
    bench.put("web-1", with_screen()).await.unwrap();
    bench.await_state("web-1", JobState::Running).await;
    let agent = bench.tls().await;
    let inventory: Inventory = bench.client.get(&bench.local(), "/v1/inventory").await.unwrap();
    let (first, second) = (Identity::ephemeral(), Arc::new(Identity::ephemeral()));
    let trust = Trust {
        version: 1,
        operators: vec![first.public(), second.public()],
        arbiters: vec![Slot { slot: 0, key: bench.client.identity().public(), url: String::new() }],
        roster: vec![inventory.host.key],
        ..Trust::of_nobody(ClusterId::new("c1").unwrap())
    };
    let bring = async |trust: &Trust| {
        let signed = Signed::seal(trust, first.secret());
        let path = "/v1/config/trust";
        bench.client.send::<_, Option<()>>(Method::PUT, &agent, path, &signed).await.unwrap();
    };
    bring(&trust).await;
    // An arbiter may read, and this is more.
    let path = "/v1/jobs/web-1/vnc";
    let refused = connect_stream(&bench.client, &agent, path).await.err().unwrap();
    assert_eq!(problem(&refused), (403, "forbidden".to_owned()));
    let picture = "/v1/jobs/web-1/screenshot";
    let refused = bench.client.get_bytes(&agent, picture, 1 << 20).await.unwrap_err();
    assert_eq!(problem(&refused), (403, "forbidden".to_owned()));

    let mut viewer = connect_stream(&Client::new(second), &agent, path).await.unwrap();
    hears(&mut viewer, "RFB 003.008\n").await;
    bring(&Trust { version: 2, operators: vec![first.public()], ..trust.clone() }).await;
    ends(&mut viewer).await;
}
