//! The other controllers of the cluster: what is expected is told to one of them, and kept by all.
//!
//! Decides how often each is asked. Nobody is told anything: whoever was away, or has lost its store,
//! asks, and takes what is later. So a set outlives any one controller as soon as another has asked.

use std::sync::Arc;
use std::time::Duration;

use protocol::expectations::SetList;
use protocol::job::Role;
use protocol::power::SleepList;
use protocol::signed::PublicKey;
use protocol::trust::Trust;
use scheduler::Scheduler;
use tokio::sync::watch;
use tokio::time::Instant;
use transport::{Client, Endpoint};

use crate::power::Asleep;

/// How often the others are asked. A set that only one controller keeps meanwhile is kept all the same.
const ASK_INTERVAL: Duration = Duration::from_secs(3);

/// How long an answer may take; who is down is asked again soon enough.
const ASK_MAX: Duration = Duration::from_secs(5);

/// How long it is waited for all others to tell who sleeps, before what is remembered here counts alone.
const LEARN_MAX: Duration = Duration::from_secs(60);

/// What learns.
pub(crate) struct Learner {
    pub(crate) scheduler: Scheduler,
    pub(crate) asleep: Arc<Asleep>,
}

/// Keeps what the others keep as well, and knows who sleeps, for ever.
pub(crate) async fn learn(
    Learner { scheduler, asleep }: Learner,
    client: Client,
    me: PublicKey,
    trust: watch::Receiver<Option<Arc<Trust>>>,
) {
    let client = client.with_deadline(ASK_MAX);
    let begin = Instant::now();
    loop {
        let all = others(trust.borrow().as_deref(), me);
        let mut have_all_told = true;
        for other in all {
            // One of before does not know of sleep.
            match client.get::<SleepList>(&other, "/v1/asleep").await {
                Ok(list) => {
                    if let Err(error) = asleep.learn(list.hosts).await {
                        tracing::error!("keep who sleeps, as {other} knows it: {error}");
                    }
                }
                Err(_) => have_all_told = false,
            }
            // Who does not answer is missed by whoever needs it, and said there.
            let Ok(list) = client.get::<SetList>(&other, "/v1/expectations?deleted=true").await
            else {
                continue;
            };
            match scheduler.keep_as_well(list.sets).await {
                Ok(0) => {}
                Ok(count) => tracing::info!("{count} sets of expectations learnt from {other}"),
                Err(error) => tracing::error!("keep what {other} keeps: {error}"),
            }
        }
        if have_all_told || begin.elapsed() >= LEARN_MAX {
            asleep.has_learnt();
        }
        tokio::time::sleep(ASK_INTERVAL).await;
    }
}

fn others(trust: Option<&Trust>, me: PublicKey) -> Vec<Endpoint> {
    let peers = trust.map_or(&[][..], |trust| &trust.peers);
    let controllers = peers.iter().filter(|peer| peer.role == Role::Controller && peer.key != me);
    controllers.map(|peer| Endpoint::of_key(peer.url.clone(), peer.key)).collect()
}
