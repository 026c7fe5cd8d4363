//! Adopting over the real shell: files, restarts of the agent, and consoles that libvirt keeps no log of.

use hypervisor::DomainState;
use protocol::api::DomainReply;
use protocol::resources::Resources;
use transport::Frames;
use transport::stream::Frame as Bytes;
use uuid::Uuid;

use super::*;

const LEGACY: Uuid = Uuid::from_u128(0xf00);

async fn bench_with_legacy() -> Bench {
    let bench = Bench::new().await;
    let size = Resources { vcpus: 2, memory_bytes: 64 << 20, disk_bytes: 0 };
    bench.fake.add_foreign("legacy", LEGACY, size);
    bench
}

async fn domain(bench: &Bench) -> Result<DomainReply, CallError> {
    bench.client.get(&bench.local(), "/v1/domains/legacy").await
}

pub(crate) async fn await_domain(bench: &Bench) -> DomainReply {
    let begin = Instant::now();
    loop {
        match domain(bench).await {
            Ok(reply) => return reply,
            Err(error) => assert!(begin.elapsed() < PATIENCE, "it is not observed: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn release(bench: &Bench) -> Result<Job, CallError> {
    let path = "/v1/jobs/legacy/release";
    bench.client.send(Method::POST, &bench.local(), path, &()).await.map(|reply| reply.body)
}

fn kept(bench: &Bench) -> PathBuf {
    bench.data().join(format!("adopted/{LEGACY}.xml"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_domain_is_adopted_outlives_the_agent_and_is_released_as_it_was() {
    let mut bench = bench_with_legacy().await;
    let original = bench.fake.definition(LEGACY).unwrap();
    let spec = await_domain(&bench).await.spec;
    bench.put("legacy", spec.clone()).await.unwrap();
    let job = bench.await_state("legacy", JobState::Running).await;
    assert_eq!(job.domain_uuid, Some(LEGACY));
    assert_eq!(std::fs::read_to_string(kept(&bench)).unwrap(), original);
    assert_ne!(bench.fake.definition(LEGACY).unwrap(), original, "it is labelled");
    assert_eq!(domain(&bench).await.unwrap_err().problem().unwrap().name(), "no-such-domain");

    bench.end().await;
    bench.start().await;
    bench.await_state("legacy", JobState::Running).await;
    let agent = bench.local();
    let stop = StopJob::within(0);
    let stopped = bench.client.send::<_, Job>(Method::POST, &agent, "/v1/jobs/legacy/stop", &stop);
    stopped.await.unwrap();
    bench.await_state("legacy", JobState::Stopped).await;
    // Even if somebody has undefined it meanwhile.
    bench.fake.undefine(LEGACY).unwrap();
    let put = PutJob::of(Revision(2), spec);
    let again = bench.client.send::<_, Job>(Method::PUT, &agent, "/v1/jobs/legacy", &put);
    again.await.unwrap();
    bench.await_state("legacy", JobState::Running).await;

    release(&bench).await.unwrap();
    await_domain(&bench).await;
    assert_eq!(bench.fake.definition(LEGACY).unwrap(), original);
    assert_eq!(bench.fake.domains()[0].state, DomainState::Running);
    assert!(!kept(&bench).exists());
    assert_eq!(release(&bench).await.unwrap_err().problem().unwrap().name(), "no-such-job");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_that_can_not_be_kept_is_not_changed() {
    let bench = bench_with_legacy().await;
    let original = bench.fake.definition(LEGACY).unwrap();
    let spec = await_domain(&bench).await.spec;
    std::fs::remove_dir(bench.data().join("adopted")).unwrap();
    bench.put("legacy", spec).await.unwrap();
    let begin = Instant::now();
    while bench.await_state("legacy", JobState::Starting).await.reason.is_none() {
        assert!(begin.elapsed() < PATIENCE, "it does not say why");
    }
    assert_eq!(bench.fake.definition(LEGACY).unwrap(), original);
    std::fs::create_dir(bench.data().join("adopted")).unwrap();
    bench.await_state("legacy", JobState::Running).await;
}

/// Types until what is typed is seen, by somebody else who looks.
async fn types_to(typist: &mut Frames, reader: &mut Frames, word: &str) {
    let begin = Instant::now();
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(word) {
        assert!(begin.elapsed() < PATIENCE, "{:?}", String::from_utf8_lossy(&seen));
        typist.send_bytes(word.as_bytes().to_vec()).await.unwrap();
        let frame = tokio::time::timeout(Duration::from_millis(200), reader.next_frame()).await;
        match frame {
            Ok(Some(Ok(Bytes::Bytes(bytes)))) => seen.extend_from_slice(&bytes),
            Ok(other) => panic!("{other:?} instead of bytes"),
            Err(_) => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_who_look_at_an_adopted_console_share_it_also_over_a_restart_of_the_guest() {
    let bench = bench_with_legacy().await;
    let spec = await_domain(&bench).await.spec;
    bench.put("legacy", spec).await.unwrap();
    bench.await_state("legacy", JobState::Running).await;
    let (agent, path) = (bench.tls().await, "/v1/jobs/legacy/console?write=true");
    let mut typist = connect_stream(&bench.client, &agent, path).await.unwrap();
    let mut reader = connect_stream(&bench.client, &agent, path).await.unwrap();
    types_to(&mut typist, &mut reader, "first").await;
    bench.fake.destroy(LEGACY).unwrap();
    bench.fake.start(LEGACY).unwrap();
    types_to(&mut reader, &mut typist, "second").await;
}
