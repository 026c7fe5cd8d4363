//! What guests use, as people and Prometheus read it.

use hypervisor::ErrorKind;
use protocol::usage::Usage;

use super::*;

async fn metrics(bench: &Bench) -> String {
    let read = bench.client.get_bytes(&bench.local(), "/metrics", 1 << 20).await.unwrap();
    String::from_utf8(read.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_told_by_job_and_read_once_a_second() {
    let bench = Bench::new().await;
    bench.put("web-1", vm()).await.unwrap();
    bench.await_state("web-1", JobState::Running).await;
    let read = async || bench.client.get::<Usage>(&bench.local(), "/v1/usage").await.unwrap();
    let first = read().await;
    let [guest] = &first.guests[..] else { panic!("{first:?}") };
    assert_eq!((guest.name.as_str(), guest.job.as_ref().unwrap().as_str()), ("web-1", "web-1"));
    assert_eq!(guest.memory_bytes, Some(16 << 20));
    assert!(first.machine.memory_available_bytes > 0);
    assert!(first.machine.cpus.is_some_and(|cpus| cpus > 0), "{:?}", first.machine);
    let begin = Instant::now();
    loop {
        let next = read().await;
        if next.at_ms != first.at_ms {
            assert!(next.at_ms >= first.at_ms + 1_000, "{} after {}", next.at_ms, first.at_ms);
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "it is never read again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_there_also_when_the_hypervisor_does_not_answer() {
    let bench = Bench::new().await;
    bench.put("web-1", vm()).await.unwrap();
    bench.await_state("web-1", JobState::Running).await;
    bench.fake.inject(Fault::Fail(Call::Usage, ErrorKind::Disconnected));
    let text = metrics(&bench).await;
    assert!(text.contains("ostler_agent_usage_known 0.0\n"), "{text}");
    assert!(text.contains("ostler_agent_jobs{state=\"running\"} 1.0\n"), "{text}");
    assert!(text.contains("ostler_agent_promised_memory_bytes 16777216.0\n"), "{text}");
    assert!(!text.contains("ostler_agent_vm_"), "{text}");
    let begin = Instant::now();
    loop {
        let text = metrics(&bench).await;
        if text.contains("ostler_agent_usage_known 1.0\n") {
            let line = "ostler_agent_vm_memory_resident_bytes{vm=\"web-1\"} 16777216.0\n";
            assert!(text.contains(line), "{text}");
            assert!(text.contains("ostler_agent_vm_cpu_seconds_total{vm=\"web-1\"}"), "{text}");
            assert!(text.contains("ostler_agent_machine_cpus "), "{text}");
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "its answer is never taken: {text}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
