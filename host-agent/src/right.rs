//! Asking arbiters and witnesses whether the trust document in force here is still theirs, and whether they grant.
//!
//! An arbiter that obeys a newer one may have given this host's jobs to others; how many must say that
//! it is not so is the core's to decide.

use std::time::Duration;

use protocol::api::Health;
use protocol::trust::Trust;
use tokio::task::JoinSet;
use transport::{Client, Endpoint};

use crate::core::Standing;

/// How long an arbiter may take; it is asked again at the next tick.
const DEADLINE: Duration = Duration::from_secs(3);

/// Which arbiters and witnesses, of those in force and those who are to take over, obey this very document.
pub(crate) async fn ask(client: &Client, trust: &Trust) -> Standing {
    let client = client.with_deadline(DEADLINE);
    let mut asked = JoinSet::new();
    for (_, arbiter) in trust.seats() {
        let endpoint = Endpoint::of_key(arbiter.url, arbiter.key);
        let client = client.clone();
        asked.spawn(async move {
            (arbiter.slot, client.get::<Health>(&endpoint, "/v1/health").await.ok())
        });
    }
    let mut standing = Standing { version: trust.version, ..Standing::default() };
    for (slot, health) in asked.join_all().await {
        let Some(health) = health.filter(|h| h.trust_version == Some(trust.version)) else {
            continue;
        };
        standing.obey.insert(slot);
        if health.is_ready {
            standing.ready.insert(slot);
        }
    }
    standing
}
