//! What is said and refused while libvirt does not answer.

use protocol::api::OfferRequest;
use protocol::ticket::Action;

use super::*;

async fn ailments(bench: &Bench) -> Vec<String> {
    let health: serde_json::Value = bench.client.get(&bench.local(), "/v1/health").await.unwrap();
    serde_json::from_value(health["ailments"].clone()).unwrap_or_default()
}

/// Whether an offer is refused for that. Without a trust document another refusal follows.
async fn is_refused_for_it(bench: &Bench) -> bool {
    let request = OfferRequest {
        job: "web-2".parse().unwrap(),
        revision: Revision(1),
        spec: vm(),
        action: Action::Start,
        finds_disks: false,
    };
    let (client, local) = (&bench.client, bench.local());
    let asked =
        client.send::<_, serde_json::Value>(Method::POST, &local, "/v1/offers", &request).await;
    let no = asked.err().and_then(|error| error.refusal().cloned());
    matches!(no, Some(Refusal::Unsupported { what, .. }) if what == "take guests now")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_libvirt_is_away_says_so_and_makes_no_offers() {
    let bench = Bench::new().await;
    assert_eq!(ailments(&bench).await, [""; 0]);
    bench.fake.disconnect();
    let begin = Instant::now();
    while !ailments(&bench).await.iter().any(|what| what.contains("libvirt has not answered")) {
        assert!(begin.elapsed() < PATIENCE, "nobody is told");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let begin = Instant::now();
    while !is_refused_for_it(&bench).await {
        assert!(begin.elapsed() < PATIENCE, "it offers what it cannot give");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bench.fake.reconnect();
    let begin = Instant::now();
    while !ailments(&bench).await.is_empty() {
        assert!(begin.elapsed() < PATIENCE, "it is back, and nobody is told");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!is_refused_for_it(&bench).await);
}
