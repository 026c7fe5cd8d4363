//! The guests that arrive, as far as they have connections: how many each may have, and that these end with it.
//!
//! A source is another host, and may be broken or worse. One of its connections goes to this host's libvirt, so none
//! may outlive the arrival that it was opened for, whatever its source does, and it can't open ever more of them. An
//! arrival that nobody has connected to takes nothing. When one is over is known to others: to whoever takes a guest
//! over or gives it up ([`Arrivals::end`]), and to the API, which looks at its row.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use protocol::refusal::Refusal;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::PIPES_MAX;

/// Pipes of one arrival at a time. A source has no more than [`PIPES_MAX`], but may see the end of one before we do.
const OF_ARRIVAL_MAX: usize = 2 * PIPES_MAX;
/// Pipes of all arrivals at a time: of eight guests that have all they may have. A hundred of the usual ones, with a
/// disk, have fewer.
const OF_HOST_MAX: usize = 16 * PIPES_MAX;
/// By then an honest source has closed what it has closed.
const RETRY_MS: u64 = 1_000;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Arrivals {
    places: Arc<Semaphore>,
    /// Those that have pipes.
    by_domain: Arc<Mutex<HashMap<Uuid, Weak<Arrival>>>>,
}

#[derive(Debug)]
struct Arrival {
    places: Arc<Semaphore>,
    over: CancellationToken,
}

/// The place of one pipe, for as long as it is held.
#[derive(Debug)]
pub(crate) struct Landing {
    arrival: Arc<Arrival>,
    _of_arrival: OwnedSemaphorePermit,
    _of_host: OwnedSemaphorePermit,
}

impl Arrivals {
    /// Nobody arrives.
    pub(super) fn none() -> Self {
        Self { places: Arc::new(Semaphore::new(OF_HOST_MAX)), by_domain: Arc::default() }
    }

    /// A place for one more pipe of this domain's arrival.
    pub(super) fn land(&self, uuid: Uuid) -> Result<Landing, Refusal> {
        let of_host = place(&self.places, OF_HOST_MAX, "connections of guests that arrive here")?;
        let mut by_domain = self.lock();
        by_domain.retain(|_, arrival| arrival.strong_count() > 0);
        let known = by_domain.get(&uuid).and_then(Weak::upgrade);
        let arrival = known.unwrap_or_else(|| {
            let arrival = Arc::new(Arrival::new());
            by_domain.insert(uuid, Arc::downgrade(&arrival));
            arrival
        });
        drop(by_domain);
        let of_arrival = place(&arrival.places, OF_ARRIVAL_MAX, "connections of one guest")?;
        Ok(Landing { arrival, _of_arrival: of_arrival, _of_host: of_host })
    }

    /// Ends all pipes of this domain's arrival. The next one is another.
    pub(super) fn end(&self, uuid: Uuid) {
        let arrival = self.lock().remove(&uuid).as_ref().and_then(Weak::upgrade);
        if let Some(arrival) = arrival {
            arrival.over.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Weak<Arrival>>> {
        // Nobody who holds it does more than a look-up.
        self.by_domain.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Arrival {
    fn new() -> Self {
        let places = Arc::new(Semaphore::new(OF_ARRIVAL_MAX));
        Self { places, over: CancellationToken::new() }
    }
}

impl Landing {
    /// Works with the pipe until that is done, or the arrival is over.
    pub(crate) async fn until_over(self, work: impl Future<Output = ()>) {
        self.arrival.over.run_until_cancelled(work).await;
    }
}

fn place(
    places: &Arc<Semaphore>,
    limit: usize,
    what: &str,
) -> Result<OwnedSemaphorePermit, Refusal> {
    Arc::clone(places).try_acquire_owned().map_err(|_| Refusal::Busy {
        what: what.to_owned(),
        limit: u32::try_from(limit).unwrap_or(u32::MAX),
        retry_after_ms: RETRY_MS,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uuid(n: u128) -> Uuid {
        Uuid::from_u128(n)
    }

    fn fill(arrivals: &Arrivals, domain: u128) -> Vec<Landing> {
        std::iter::from_fn(|| arrivals.land(uuid(domain)).ok()).collect()
    }

    fn limit(refused: Result<Landing, Refusal>) -> u32 {
        match refused {
            Err(Refusal::Busy { limit, .. }) => limit,
            other => panic!("it is not refused as busy: {other:?}"),
        }
    }

    #[test]
    fn no_arrival_has_more_than_its_share_and_all_together_no_more_than_the_hosts() {
        let arrivals = Arrivals::none();
        let mut first = fill(&arrivals, 1);
        assert_eq!(first.len(), OF_ARRIVAL_MAX);
        assert_eq!(limit(arrivals.land(uuid(1))), 64);
        assert!(arrivals.land(uuid(2)).is_ok(), "another guest is not kept out");
        first.pop();
        assert!(arrivals.land(uuid(1)).is_ok(), "one that has ended counts no more");
        first.extend(arrivals.land(uuid(1)));
        let others: Vec<Landing> = (2..100).flat_map(|domain| fill(&arrivals, domain)).collect();
        assert_eq!(first.len() + others.len(), OF_HOST_MAX);
        assert_eq!(limit(arrivals.land(uuid(100))), 512);
        drop(others);
        assert!(arrivals.land(uuid(100)).is_ok());
        assert_eq!(arrivals.lock().len(), 2, "what has no pipes is forgotten");
    }

    #[tokio::test]
    async fn pipes_end_with_their_arrival_and_no_other_ones() {
        let arrivals = Arrivals::none();
        let [one, other] = [1, 2].map(|domain| arrivals.land(uuid(domain)).unwrap());
        arrivals.end(uuid(1));
        one.until_over(std::future::pending()).await;
        let next = arrivals.land(uuid(1)).unwrap();
        assert!(!next.arrival.over.is_cancelled(), "the next arrival is another");
        assert!(!other.arrival.over.is_cancelled());
        next.until_over(std::future::ready(())).await;
    }
}
