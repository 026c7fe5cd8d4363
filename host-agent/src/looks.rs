//! Looks at domains that libvirt has not answered yet.
//!
//! Decides that what is looked for is looked for until there is an answer: the connection may never have been
//! lost, and then no complete list makes good for an event that nobody looked into. And that one domain is
//! asked for by one at a time while libvirt is silent, however often somebody wants to look.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hypervisor::{DomainInfo, Hypervisor, HypervisorError, call};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::core::{Input, Look};
use crate::shell::Post;

/// How long one may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// Pause before it is asked again.
const PAUSE: Duration = Duration::from_secs(1);
/// It is logged at first, and each so many times that it is asked again.
const LOGGED_EVERY: u32 = 30;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Looks {
    /// Those that wait for the one who asks again, by domain.
    waiting: Mutex<BTreeMap<Uuid, Vec<Look>>>,
}

impl Looks {
    /// Looks, and tells the core what is there.
    pub(crate) async fn look(
        self: Arc<Self>,
        hv: Arc<dyn Hypervisor>,
        posts: mpsc::Sender<Post>,
        look: Look,
    ) {
        let uuid = look.uuid;
        match find(&hv, uuid).await {
            Ok(domain) => return tell(&posts, [look], &domain).await,
            Err(error) if self.wait(look) => tracing::info!("{error}; tried again"),
            // Somebody asks again already, and tells of this one as well.
            Err(_) => return,
        }
        let mut tries = 0_u32;
        while !posts.is_closed() {
            tokio::time::sleep(PAUSE).await;
            tries = tries.wrapping_add(1);
            match find(&hv, uuid).await {
                Ok(domain) => {
                    let looks = self.lock().remove(&uuid).unwrap_or_default();
                    return tell(&posts, looks, &domain).await;
                }
                Err(error) if tries.is_multiple_of(LOGGED_EVERY) => {
                    tracing::info!("{error}; tried {tries} times");
                }
                Err(_) => {}
            }
        }
    }

    /// Whether the caller is the one who asks again.
    fn wait(&self, look: Look) -> bool {
        let mut waiting = self.lock();
        let looks = waiting.entry(look.uuid).or_default();
        let is_first = looks.is_empty();
        // One that was overtaken says nothing, and one of each kind is enough.
        looks.retain(|other| (other.hint, other.is_second) != (look.hint, look.is_second));
        looks.push(look);
        is_first
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Uuid, Vec<Look>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn find(hv: &Arc<dyn Hypervisor>, uuid: Uuid) -> Result<Option<DomainInfo>, HypervisorError> {
    call(hv, "look up", DEADLINE, move |hv| hv.lookup(uuid)).await
}

async fn tell(
    posts: &mpsc::Sender<Post>,
    looks: impl IntoIterator<Item = Look>,
    domain: &Option<DomainInfo>,
) {
    for look in looks {
        let domain = domain.clone();
        let _ = posts.send(Post::Input(Input::Looked { look, domain })).await;
    }
}

#[cfg(test)]
mod tests {
    use hypervisor::Lifecycle;

    use super::*;

    fn look(uuid: u128, hint: Option<Lifecycle>, change: u64) -> Look {
        Look { uuid: Uuid::from_u128(uuid), hint, is_second: false, change }
    }

    #[test]
    fn one_asks_again_for_a_domain_and_the_newest_of_each_kind_waits() {
        let looks = Looks::default();
        assert!(looks.wait(look(1, None, 1)));
        assert!(looks.wait(look(2, None, 1)), "another domain");
        for change in 2..1_000 {
            assert!(!looks.wait(look(1, None, change)));
        }
        assert!(!looks.wait(look(1, Some(Lifecycle::ShutDown), 1_000)));
        let waiting = looks.lock().remove(&Uuid::from_u128(1)).unwrap();
        assert_eq!(waiting, [look(1, None, 999), look(1, Some(Lifecycle::ShutDown), 1_000)]);
    }
}
