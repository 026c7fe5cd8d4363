//! Asking arbiters whether the trust document in force here is still theirs.
//!
//! An arbiter that obeys a newer one may have given this host's jobs to others; how many must say that
//! it is not so is the core's to decide.

use std::time::Duration;

use protocol::api::Health;
use protocol::trust::Trust;
use tokio::task::JoinSet;
use transport::{Client, Endpoint};

/// How long an arbiter may take; it is asked again at the next tick.
const DEADLINE: Duration = Duration::from_secs(3);

/// How many arbiters obey this very document.
pub(crate) async fn count(client: &Client, trust: &Trust) -> u32 {
    let client = client.with_deadline(DEADLINE);
    let mut asked = JoinSet::new();
    for arbiter in &trust.arbiters {
        let endpoint = Endpoint::of_key(arbiter.url.clone(), arbiter.key);
        let (client, version) = (client.clone(), trust.version);
        asked.spawn(async move {
            let health = client.get::<Health>(&endpoint, "/v1/health").await;
            health.is_ok_and(|health| health.trust_version == Some(version))
        });
    }
    let answers = asked.join_all().await;
    u32::try_from(answers.into_iter().filter(|obeys| *obeys).count()).unwrap_or(u32::MAX)
}
