//! The pools that this host has: which were declared, and what is found of them.
//!
//! Decides that a pool is looked at often, so that a mount that has gone is noticed before something
//! counts on it, and that a file system that hangs costs a thread and never the agent. What is done in
//! one is [`crate::pool`]'s.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use protocol::id::PoolName;
use protocol::pool::{PoolFacts, PoolSpec, PoolsConfig};
use protocol::refusal::Refusal;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;

use crate::core::Input;
use crate::pool::{Measured, Pool};
use crate::shell::Post;

/// How often it is looked whether pools are there.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// How often what is in them is counted, unless something has changed: every so many looks.
const LOOKS_PER_MEASURE: u32 = 6;
/// How long a file system may take to say whether a pool is there.
const LOOK_DEADLINE: Duration = Duration::from_secs(5);
/// How long anything else may take: a few small files, and waiting for a lock.
const DEED_DEADLINE: Duration = Duration::from_secs(20);
/// Differences of what is free below this are not news.
const FREE_GRAIN_BYTES: u64 = 64 << 20;

/// The declared pools. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pools {
    declared: Arc<RwLock<PoolsConfig>>,
    /// Told when volumes have come or gone.
    changed: Arc<Notify>,
}

/// Does something that may block for as long as it likes on a thread of its own, and gives up waiting
/// after a while. What was given up may still happen.
pub(crate) async fn off<T: Send + 'static>(
    deadline: Duration,
    f: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let (sender, done) = oneshot::channel();
    // A thread that hangs in the kernel must not keep the runtime from ending.
    std::thread::spawn(move || drop(sender.send(f())));
    match timeout(deadline, done).await {
        Ok(Ok(done)) => done,
        Ok(Err(_)) => Err("a fault of the agent".to_owned()),
        Err(_) => Err(format!("the file system does not answer within {deadline:?}")),
    }
}

impl Pools {
    /// Uses these pools, and no others.
    pub(crate) fn declare(&self, config: &PoolsConfig) {
        *self.declared.write().unwrap_or_else(PoisonError::into_inner) = config.clone();
        self.changed.notify_one();
    }

    /// The pools as they were declared.
    pub(crate) fn config(&self) -> PoolsConfig {
        self.declared.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A pool by name.
    pub(crate) fn get(&self, name: &PoolName) -> Result<Pool, String> {
        let declared = self.declared.read().unwrap_or_else(PoisonError::into_inner);
        let pool = declared.pools.get(name).and_then(|spec| Pool::of(name, spec));
        pool.ok_or_else(|| format!("this host has no pool {name}"))
    }

    /// Does something in a pool.
    pub(crate) async fn within<T: Send + 'static>(
        &self,
        name: &PoolName,
        f: impl FnOnce(&Pool) -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        self.within_for(DEED_DEADLINE, name, f).await
    }

    /// Does something in a pool that may take this long.
    pub(crate) async fn within_for<T: Send + 'static>(
        &self,
        deadline: Duration,
        name: &PoolName,
        f: impl FnOnce(&Pool) -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let pool = self.get(name)?;
        let what = name.clone();
        let done = off(deadline, move || f(&pool)).await;
        self.changed.notify_one();
        done.map_err(|why| format!("pool {what}: {why}"))
    }

    /// Finds pools that are to be declared, and makes those that are to be made; says the same with their
    /// ids, and which of them are new.
    pub(crate) async fn find(config: &PoolsConfig) -> Result<(PoolsConfig, Vec<Pool>), Refusal> {
        let mut found = config.clone();
        let mut made = Vec::new();
        for (name, spec) in &mut found.pools {
            let (name_of, spec_of) = (name.clone(), spec.clone());
            match off(DEED_DEADLINE, move || Pool::find(&name_of, &spec_of)).await {
                Ok((id, is_new)) => {
                    *spec = PoolSpec { id: Some(id), create: false, ..spec.clone() };
                    made.extend(Pool::of(name, spec).filter(|_| is_new));
                }
                Err(why) => {
                    made.iter().for_each(Pool::unmake);
                    return Err(Refusal::PoolUnavailable { pool: name.clone(), why });
                }
            }
        }
        Ok((found, made))
    }

    /// Looks at all of them at once. What was measured last serves where nothing is measured now.
    async fn look(
        &self,
        measured: &mut BTreeMap<PoolName, Measured>,
        all: bool,
    ) -> BTreeMap<PoolName, PoolFacts> {
        let mut looks = Vec::new();
        for (name, spec) in self.config().pools {
            let Some(pool) = Pool::of(&name, &spec) else { continue };
            let measures = all || !measured.contains_key(&name);
            let look = {
                let pool = pool.clone();
                off(LOOK_DEADLINE, move || {
                    pool.check()?;
                    let free_bytes = pool.free_bytes()?;
                    let measured = measures.then(|| pool.sweep().and_then(|()| pool.measure()));
                    Ok((free_bytes, measured.transpose()?))
                })
            };
            looks.push((name, spec.labels, pool, tokio::spawn(look)));
        }
        let mut facts = BTreeMap::new();
        for (name, labels, pool, look) in looks {
            let found = look.await.unwrap_or_else(|error| Err(error.to_string()));
            let (free_bytes, unavailable) = match found {
                Ok((free_bytes, now)) => {
                    measured.extend(now.map(|now| (name.clone(), now)));
                    (free_bytes, None)
                }
                Err(why) => (0, Some(why)),
            };
            let last = measured.get(&name).copied().unwrap_or_default();
            let found = facts_of(&pool, last, free_bytes, unavailable);
            facts.insert(name, PoolFacts { labels, ..found });
        }
        facts
    }

    /// Looks at them once, for whoever can't wait.
    pub(crate) async fn look_once(&self) -> BTreeMap<PoolName, PoolFacts> {
        self.look(&mut BTreeMap::new(), true).await
    }

    /// Looks from now on, and tells what it finds.
    pub(crate) async fn keep_looking(self, posts: mpsc::Sender<Post>) {
        let mut measured = BTreeMap::new();
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        let mut count: u32 = 0;
        loop {
            let is_told = tokio::select! {
                _ = looks.tick() => false,
                () = self.changed.notified() => true,
            };
            count = count.wrapping_add(1);
            let all = is_told || count.is_multiple_of(LOOKS_PER_MEASURE);
            let found = self.look(&mut measured, all).await;
            measured.retain(|name, _| found.contains_key(name));
            if posts.send(Post::Input(Input::Pools(found))).await.is_err() {
                return;
            }
        }
    }
}

fn facts_of(
    pool: &Pool,
    measured: Measured,
    free_bytes: u64,
    unavailable: Option<String>,
) -> PoolFacts {
    let rough = |bytes: u64| bytes / FREE_GRAIN_BYTES * FREE_GRAIN_BYTES;
    PoolFacts {
        id: pool.id(),
        is_shared: pool.is_shared(),
        path: pool.path().display().to_string(),
        unavailable,
        capacity_bytes: rough(free_bytes.saturating_add(measured.used_bytes)),
        promised_bytes: measured.promised_bytes,
        free_bytes: rough(free_bytes),
        labels: BTreeMap::new(),
    }
}
