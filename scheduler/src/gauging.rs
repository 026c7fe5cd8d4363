//! Asks hosts what their guests use, while that is expected to be about the same.
//!
//! Decides how often and whom: hosts that are heard and that an expectation is about, few at a time, a round after the
//! other. Where nothing is expected of what guests use, nobody is asked. What is made of the answers is
//! [`crate::gauge`]'s.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use planner::rules::Balanced;
use protocol::id::HostId;
use protocol::usage::Usage;
use protocol::used::Used;
use protocol::view::Freshness;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::Instrument as _;
use transport::Endpoint;

use crate::engine::Scheduler;
use crate::failover::freshness_of;
use crate::gauge::Gauge;

/// Rounds begin so far apart, or when the one before has ended: a host reads its counters once for all who ask within a
/// second, and means remember minutes.
const ROUND_INTERVAL: Duration = Duration::from_secs(10);

/// Hosts that are asked at a time: a thousand that answer at once take a second.
const ASKED_AT_ONCE: usize = 32;

/// How long one may take: libvirt has as long to count.
const ASK_MAX: Duration = Duration::from_secs(6);

impl Scheduler {
    /// What guests use, as far as it is known here: nothing, while nothing is expected of it.
    #[must_use]
    pub fn used(&self) -> Arc<Used> {
        self.keeping().used()
    }

    /// Keeps asking, as long as something is expected of what guests use.
    pub(crate) async fn gauge_guests(&self) {
        let mut news = self.keeping().subscribe();
        let work = async {
            let mut gauge = Gauge::default();
            loop {
                let rules = self.keeping().rules_of_use();
                if rules.is_empty() {
                    gauge = Gauge::default();
                    self.note_used(Used::default());
                    if news.changed().await.is_err() {
                        return;
                    }
                    continue;
                }
                let begun = Instant::now();
                self.ask_round(&rules, &mut gauge).await;
                self.note_used(gauge.used(self.now_ms()));
                sleep_until(begun + ROUND_INTERVAL).await;
            }
        };
        self.shutdown().run_until_cancelled(work).await;
    }

    fn note_used(&self, used: Used) {
        if self.keeping().note_used(used) {
            self.keeping().look_again();
        }
    }

    /// Asks every host once that is heard and that one of these is about.
    async fn ask_round(&self, rules: &[Balanced], gauge: &mut Gauge) {
        let picture = self.picture();
        let is_meant = |host: &HostId| {
            let row = picture.view.host(host);
            freshness_of(picture.heard.get(host)) == Freshness::Fresh
                && row.is_some_and(|row| rules.iter().any(|rule| rule.is_about(&row.host)))
        };
        let hosts = picture.view.hosts().map(|(host, _)| host).filter(|host| is_meant(host));
        let mut left: VecDeque<HostId> = hosts.cloned().collect();
        let mut asked: JoinSet<(HostId, Option<Usage>)> = JoinSet::new();
        loop {
            while asked.len() < ASKED_AT_ONCE
                && let Some(host) = left.pop_front()
            {
                let scheduler = self.clone();
                let ask = async move {
                    let usage = scheduler.ask_usage(&host).await;
                    (host, usage)
                };
                asked.spawn(ask.in_current_span());
            }
            let Some(answered) = asked.join_next().await else { return };
            let Ok((host, Some(usage))) = answered else { continue };
            // Where its guests are is judged by the view of when it answered.
            let picture = self.picture();
            if let Some(row) = picture.view.host(&host) {
                gauge.take(self.now_ms(), row, &usage);
            }
        }
    }

    /// What a host's guests have used; `None` when it does not say so in time: it is asked again in the next round.
    async fn ask_usage(&self, host: &HostId) -> Option<Usage> {
        let urls = self.picture().view.host(host).map(|row| row.host.urls.clone())?;
        let client = self.options().client.with_deadline(ASK_MAX);
        for url in urls {
            let agent = Endpoint::of_host(url, host.clone());
            match client.get::<Usage>(&agent, "/v1/usage").await {
                Ok(usage) => return Some(usage),
                Err(error) => {
                    tracing::debug!("{} does not say what is used: {error}", host.short());
                }
            }
        }
        None
    }
}
