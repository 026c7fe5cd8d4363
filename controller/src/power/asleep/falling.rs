//! A host on its way to sleep: from the last question what is on it to its devices' word that it is off.
//!
//! Decides what is asked, in which order, and what is written down before the order is given; and what has become of a
//! host whose way there nobody has seen the end of.

use std::sync::Arc;
use std::time::Duration;

use protocol::host::{HostIntent, Inventory};
use protocol::id::HostId;
use protocol::power::{PowerAction, PowerState, Sleep, SleepStage};
use protocol::trust::Trust;
use protocol::view::HostRow;
use scheduler::StoreError;
use serde::de::IgnoredAny;
use transport::ProblemReply;

use super::empty::{is_left_empty, not_empty, stays_on};
use super::{Asleep, broken, cannot};
use crate::power::Machine;

/// How often it is made sure that a host is silent which its devices say is off.
const SILENCE_TRIES: u32 = 3;

/// How often devices are asked what has become of a host: each asking is a program that is run.
pub(super) const FIND_OUT_INTERVAL: Duration = Duration::from_secs(10);

/// The open offers of a host, of which only the number counts.
#[derive(serde::Deserialize)]
struct Offers {
    offers: Vec<IgnoredAny>,
}

/// A host that is being switched off at this moment. A run that is cancelled waits no longer, and what has become of
/// the host is found out then.
struct Falling<'a> {
    asleep: &'a Asleep,
    host: &'a HostId,
}

impl Drop for Falling<'_> {
    fn drop(&mut self) {
        self.asleep.falling().remove(self.host);
    }
}

impl Asleep {
    /// Puts a host to sleep, or says what is in the way. It is asked itself what is on it, right before.
    pub(crate) async fn put(
        &self,
        id: &HostId,
        undrain: bool,
        trust: Option<Arc<Trust>>,
    ) -> Result<PowerState, ProblemReply> {
        let machine = self.machine(id)?;
        if self.is_asleep(id) {
            return match machine.state().await? {
                PowerState::Off => Ok(PowerState::Off),
                state => Err(cannot(&format!(
                    "it was put to sleep, and its devices say {state}: it may be waking"
                ))),
            };
        }
        let row = self.heard(id)?;
        if !self.falling().insert(id.clone()) {
            return Err(cannot("it is being put to sleep already"));
        }
        let _falling = Falling { asleep: self, host: id };
        self.put_alone(&row, &machine, undrain, trust).await
    }

    async fn put_alone(
        &self,
        row: &HostRow,
        machine: &Machine,
        undrain: bool,
        trust: Option<Arc<Trust>>,
    ) -> Result<PowerState, ProblemReply> {
        let id = &row.host.id;
        match machine.state().await? {
            PowerState::On => {}
            state => return Err(cannot(&format!("it is heard, and its devices say {state}"))),
        }
        let inventory = self.empty(row, trust.as_deref()).await?;
        let sleep = Sleep {
            host: id.clone(),
            epoch: inventory.cursor.epoch,
            stage: SleepStage::Falling,
            since_ms: self.clock.now().wall_ms,
            undrain,
            inventory: Some(Arc::new(inventory)),
        };
        // Before the order: whoever finds it off after a crash must know that this was meant.
        self.keep(sleep.clone()).await.map_err(broken)?;
        // Somebody may have taken back the drain while that was written.
        if let Err(why) = self.empty(row, trust.as_deref()).await {
            self.keep_stage(&sleep, SleepStage::Awake).await.map_err(broken)?;
            return Err(why);
        }
        tracing::warn!(host = %id, "is put to sleep");
        let state = self.power.change(machine, PowerAction::Off).await?;
        for _ in 0..SILENCE_TRIES {
            if self.ask::<IgnoredAny>(row, "/v1/health").await.is_some() {
                return Err(self.turn_back(row, machine, &sleep).await);
            }
        }
        self.keep_stage(&sleep, SleepStage::Asleep).await.map_err(broken)?;
        tracing::info!(host = %id, "is asleep");
        Ok(state)
    }

    /// What a host says of itself now, if there is nothing on it that could be missed.
    async fn empty(&self, row: &HostRow, trust: Option<&Trust>) -> Result<Inventory, ProblemReply> {
        let unheard =
            || cannot("it does not answer this controller, so what is on it is not known");
        let inventory: Inventory = self.ask(row, "/v1/inventory").await.ok_or_else(unheard)?;
        let offers: Offers = self.ask(row, "/v1/offers").await.ok_or_else(unheard)?;
        if let Some(why) = stays_on(&inventory, trust) {
            return Err(cannot(&why));
        }
        if let Some(why) = not_empty(&inventory, offers.offers.len()) {
            return Err(ProblemReply::new(409, "not-drained", why));
        }
        Ok(inventory)
    }

    /// Its devices say off, and it answers: some other machine is off.
    async fn turn_back(&self, row: &HostRow, machine: &Machine, sleep: &Sleep) -> ProblemReply {
        let on = match self.power.change(machine, PowerAction::On).await {
            Ok(_) => "that one is turned on again".to_owned(),
            Err(error) => format!("that one may be off now: {error}"),
        };
        if sleep.undrain {
            self.undrain(row).await;
        }
        if let Err(error) = self.keep_stage(sleep, SleepStage::Awake).await {
            tracing::error!(host = %sleep.host, "is awake, which could not be stored: {error}");
        }
        let devices = machine.names().join(" and ");
        let what = format!(
            "{devices} say that it is off, and its agent answers still: they switch another machine; {on}. \
             See to the power file"
        );
        ProblemReply::new(502, "power-device", what)
    }

    /// What has become of a host whose going to sleep nobody has seen the end of.
    pub(super) async fn find_out(&self, host: &HostId) -> Result<(), StoreError> {
        let Ok(machine) = self.machine(host) else { return Ok(()) };
        let state = machine.state().await;
        let picture = self.picture.borrow().clone();
        let Some(sleep) = self.known().get(host).cloned().filter(|_| picture.is_current) else {
            return Ok(());
        };
        let heard = self.heard(host).ok();
        match (state, heard) {
            (Ok(PowerState::Off), None) => {
                // It may have been taken into use again since, and then it is lost and not asleep.
                let row = picture.view.host(host);
                let is_empty =
                    row.is_none_or(|row| row.cursor.epoch == sleep.epoch && is_left_empty(row));
                let stage = if is_empty { SleepStage::Asleep } else { SleepStage::Awake };
                tracing::info!(%host, "was to be put to sleep, and is off: {stage:?}");
                self.keep_stage(&sleep, stage).await
            }
            (Ok(PowerState::On), Some(row)) => {
                let is_drained = row.host.intent == Some(HostIntent::Drain);
                if sleep.undrain && is_drained && !self.undrain(&row).await {
                    return Ok(());
                }
                tracing::warn!(%host, "was to be put to sleep, and is on and heard");
                self.keep_stage(&sleep, SleepStage::Awake).await
            }
            // It is asked again.
            _ => Ok(()),
        }
    }
}
