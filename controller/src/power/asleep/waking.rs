//! A host that slept: heard again, taken into use again, and switched on by a run that needs it.
//!
//! Decides when it counts as awake, when its drain is taken back, and when no run switches it on any more.

use std::sync::atomic::Ordering;
use std::time::Duration;

use protocol::host::HostIntent;
use protocol::id::HostId;
use protocol::power::{PowerAction, Sleep, SleepStage};
use protocol::view::HostRow;
use scheduler::{NotSwitched, StoreError, Waker, Waking};
use serde::de::IgnoredAny;
use tokio::time::Instant;
use transport::{Endpoint, Method};

use super::Asleep;
use crate::power::PowerError;

/// How long a host may take from the order until it is heard. One that takes longer does not come up, and no
/// further run waits for it.
const BOOT_MAX: Duration = Duration::from_secs(600);

/// What is said of a host that has been, or is being, given the order.
const IS_FALLING: &str = "it is being switched off, and whether it is off is not known yet";

impl Asleep {
    pub(super) async fn look(&self) -> Result<(), StoreError> {
        let mut hosts = self.left(SleepStage::Asleep);
        hosts.extend(self.left(SleepStage::Falling));
        for host in hosts {
            let Ok(row) = self.heard(&host) else { continue };
            // What was learnt meanwhile counts.
            let Some(sleep) = self.known().get(&host).cloned() else { continue };
            if row.cursor.epoch > sleep.epoch {
                self.welcome(&sleep, &row).await?;
            } else if self.is_heard_since(&sleep)
                && self.ask::<IgnoredAny>(&row, "/v1/health").await.is_some()
            {
                tracing::error!(%host, "was put to sleep, and answers: its devices switch another machine");
                self.keep_stage(&sleep, SleepStage::Awake).await?;
            }
        }
        Ok(())
    }

    /// A host that slept is heard: it takes new VMs again, unless it was drained before.
    async fn welcome(&self, sleep: &Sleep, row: &HostRow) -> Result<(), StoreError> {
        // Others may have seen it wake long ago, and somebody may have drained it since.
        if !self.has_learnt.load(Ordering::Relaxed) {
            return Ok(());
        }
        if sleep.undrain && row.host.intent == Some(HostIntent::Drain) && !self.undrain(row).await {
            return Ok(());
        }
        tracing::info!(host = %sleep.host, "is awake");
        self.woken().remove(&sleep.host);
        let awake = Sleep { epoch: row.cursor.epoch, ..sleep.clone() };
        self.keep_stage(&awake, SleepStage::Awake).await
    }

    pub(super) async fn undrain(&self, row: &HostRow) -> bool {
        for url in &row.host.urls {
            let agent = Endpoint::of_host(url.clone(), row.host.id.clone());
            let path = "/v1/config/intent";
            let asked =
                self.client.send::<_, Option<IgnoredAny>>(Method::DELETE, &agent, path, &());
            match asked.await {
                Ok(_) => return true,
                Err(error) => {
                    tracing::warn!(host = %row.host.id, "is awake, and stays drained for now: {error}");
                }
            }
        }
        false
    }

    /// False of a host that has had power for too long and was not heard.
    pub(super) fn comes_up(&self, host: &HostId) -> bool {
        self.woken().get(host).is_none_or(|since| since.elapsed() < BOOT_MAX)
    }
}

impl Waker for Asleep {
    fn wake<'a>(&'a self, host: &'a HostId) -> Waking<'a> {
        Box::pin(async move {
            let stage = self.known().get(host).map(|sleep| sleep.stage);
            if stage == Some(SleepStage::Falling) {
                return Err(NotSwitched::Unclear(IS_FALLING.to_owned()));
            }
            // A run that goes on after hours, or after somebody has turned it off for good, wakes nobody.
            let may_wake = |sleep: &Sleep| sleep.stage == SleepStage::Asleep && sleep.undrain;
            if !self.known().get(host).is_some_and(may_wake) {
                return Err(NotSwitched::No(
                    "it is not asleep, or was turned off for good".to_owned(),
                ));
            }
            let machine = self.machine(host).map_err(|no| NotSwitched::No(no.0.detail))?;
            tracing::info!(%host, "is woken");
            self.woken().entry(host.clone()).or_insert_with(Instant::now);
            // Everybody who may look reads runs; what devices say is for who may switch them.
            self.power.change(&machine, PowerAction::On).await.map(drop).map_err(
                |error: PowerError| {
                    tracing::warn!(%host, "is not woken yet: {error}");
                    let what =
                        "its power devices have not turned it on; the controller's log says more";
                    NotSwitched::Unclear(what.to_owned())
                },
            )
        })
    }

    fn sleep<'a>(&'a self, host: &'a HostId) -> Waking<'a> {
        Box::pin(async move {
            let stage = self.known().get(host).map(|sleep| sleep.stage);
            // An earlier life has given the order, or is giving it: what has become of it is found out beside this.
            if stage == Some(SleepStage::Falling) {
                return Err(NotSwitched::Unclear(IS_FALLING.to_owned()));
            }
            if stage != Some(SleepStage::Asleep)
                && let Err(problem) = self.heard(host)
            {
                return Err(NotSwitched::Unclear(problem.0.detail));
            }
            let trust = self.trust.borrow().clone();
            match self.put(host, true, trust).await {
                Ok(_) => Ok(()),
                Err(problem) if problem.0.status == 409 => Err(NotSwitched::No(problem.0.detail)),
                Err(problem) => {
                    tracing::warn!(%host, "is not asleep yet: {}", problem.0.detail);
                    let what =
                        "its power devices have not turned it off; the controller's log says more";
                    Err(NotSwitched::Unclear(what.to_owned()))
                }
            }
        })
    }
}
