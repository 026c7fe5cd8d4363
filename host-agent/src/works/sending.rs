//! Sending a running guest to another host, and what is left of it here when that fails.

use std::convert::Infallible;
use std::time::Duration;

use hypervisor::{DomainState, ErrorKind, MigrateOutcome, MigrateTo, StopReason, call};
use protocol::api::MigrateJob;
use protocol::id::JobId;
use tokio::time::sleep;
use transport::Endpoint;
use uuid::Uuid;

use super::downtime::Downtime;
use super::{CALL_DEADLINE, Trouble, Works, devices_by_place};
use crate::channel::{Departure, Lane};
use crate::core::{Input, MigrationOutcome, Turn};

/// A whole migration. Beyond this it is not one any more; the source goes on.
const MIGRATE_DEADLINE: Duration = Duration::from_secs(24 * 3600);
/// How often a migration's progress is asked for.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);
const MIB: u64 = 1 << 20;

impl Works {
    pub(super) async fn send(
        &self,
        job: &JobId,
        migrate: MigrateJob,
        pinned: Vec<u32>,
        turn: Option<&Turn>,
    ) -> MigrationOutcome {
        let uuid = job.domain_uuid();
        let disks = match self.copied_devices(job, turn).await {
            Ok(disks) => disks,
            Err(message) => return MigrationOutcome::StillHere { message },
        };
        let departure = match self.depart(job, &migrate).await {
            Ok(departure) => departure,
            Err(message) => return MigrationOutcome::StillHere { message },
        };
        let pace = migrate.pace;
        let limit = pace.bandwidth_bytes_s.or(self.bandwidth_bytes_s);
        let to = MigrateTo {
            libvirt_uri: departure.libvirt_uri(),
            migrate_uri: departure.uri(Lane::Memory),
            disks_uri: departure.uri(Lane::Disks),
            disks,
            pinned,
            bandwidth_mib_s: limit.map(|limit| (limit / MIB).max(1)),
            auto_converge: pace.auto_converge,
            start_paused: true,
        };
        let sending = call(&self.hv, "migrate", MIGRATE_DEADLINE, move |hv| hv.migrate(uuid, &to));
        let ended = tokio::select! {
            ended = sending => ended,
            never = self.mind(job, uuid, Downtime::up_to(pace.downtime_ms())) => match never {},
        };
        match ended {
            Ok(MigrateOutcome::Moved) => MigrationOutcome::Gone,
            Ok(MigrateOutcome::StillHere { error, .. }) => {
                self.go_on_here(uuid, error.to_string()).await
            }
            Ok(MigrateOutcome::Unknown { error, .. }) => {
                MigrationOutcome::Unknown { message: error.to_string() }
            }
            Err(error) if error.kind.is_ambiguous() => {
                MigrationOutcome::Unknown { message: error.to_string() }
            }
            Err(error) => self.go_on_here(uuid, error.to_string()).await,
        }
    }

    /// The guest's devices of the disks that are copied; `None` for all of them.
    async fn copied_devices(
        &self,
        job: &JobId,
        turn: Option<&Turn>,
    ) -> Result<Option<Vec<String>>, String> {
        let Some(Turn { vm, .. }) = turn else { return Ok(None) };
        let copied = self.storage.copied_disks(vm).map_err(|error| error.to_string())?;
        let Some(copied) = copied else { return Ok(None) };
        let volumes = self.storage.made_volumes(job, vm).map_err(|error| error.to_string())?;
        let devices = self.devices_of(job.domain_uuid(), &volumes, &devices_by_place(vm)).await;
        let devices = devices.map_err(Trouble::into_message)?;
        Ok(Some(copied.into_iter().filter_map(|at| devices.get(at).cloned()).collect()))
    }

    /// Opens the channel to the target. Before it is open nothing has happened to the guest.
    async fn depart(&self, job: &JobId, migrate: &MigrateJob) -> Result<Departure, String> {
        let owner = call(&self.hv, "guest owner", CALL_DEADLINE, |hv| hv.guest_owner()).await;
        let owner = owner.map_err(|error| error.to_string())?;
        let to = Endpoint::of_host(&migrate.url, migrate.to.clone());
        let departure = self.channels.depart(job, job.domain_uuid(), owner, &to);
        departure.map_err(|error| format!("open the guest's channel: {error}"))
    }

    /// Tells how far a migration is, and allows its guest to stand still for longer when that is needed,
    /// for as long as it is asked to. One question at a time, and none any more after one without an
    /// answer: a migration towards a host that has gone silent makes libvirt hang there, and every
    /// question would cost a thread.
    async fn mind(&self, job: &JobId, uuid: Uuid, mut downtime: Downtime) -> Infallible {
        loop {
            sleep(PROGRESS_INTERVAL).await;
            let asked =
                call(&self.hv, "ask progress", CALL_DEADLINE, move |hv| hv.job_progress(uuid));
            let progress = match asked.await {
                Ok(Some(progress)) => progress,
                Err(error) if error.kind.is_ambiguous() => std::future::pending().await,
                Ok(None) | Err(_) => continue,
            };
            let told = Input::Progress { job: job.clone(), progress };
            let _ = self.inputs.try_send(told);
            let Some(ms) = progress.memory.and_then(|memory| downtime.after(&memory)) else {
                continue;
            };
            let allow = call(&self.hv, "allow downtime", CALL_DEADLINE, move |hv| {
                hv.allow_downtime(uuid, ms)
            });
            match allow.await {
                Err(error) if error.kind.is_ambiguous() => std::future::pending().await,
                // A refusal is asked again after the next look; it may just have ended.
                Ok(()) | Err(_) => {}
            }
        }
    }

    /// The guest has stayed. It was promised to nobody yet, so it may run on.
    async fn go_on_here(&self, uuid: Uuid, message: String) -> MigrationOutcome {
        match self.domain(uuid).await {
            Ok(Some(DomainState::Paused(_))) => {
                match self.call("resume", CALL_DEADLINE, move |hv| hv.resume(uuid)).await {
                    Ok(()) => MigrationOutcome::StillHere { message },
                    Err(_) => MigrationOutcome::Unknown { message },
                }
            }
            Ok(None | Some(DomainState::ShutOff(StopReason::Migrated))) => MigrationOutcome::Gone,
            Ok(Some(DomainState::ShutOff(_) | DomainState::Crashed)) => MigrationOutcome::Ended,
            Ok(Some(DomainState::Running | DomainState::ShuttingDown)) => {
                MigrationOutcome::StillHere { message }
            }
            Err(_) => MigrationOutcome::Unknown { message },
        }
    }

    /// Ends a sending that an earlier life began, and says where that left the guest.
    pub(super) async fn settle_send(&self, uuid: Uuid) -> MigrationOutcome {
        let under_way =
            call(&self.hv, "ask progress", CALL_DEADLINE, move |hv| hv.job_progress(uuid)).await;
        match under_way {
            Ok(None) => {}
            Ok(Some(_)) => {
                // A refusal means that it has just ended.
                let abort =
                    self.call("abort migration", CALL_DEADLINE, move |hv| hv.abort_job(uuid));
                let _ = abort.await;
                return MigrationOutcome::Unknown { message: "being cancelled".to_owned() };
            }
            Err(error) if matches!(error.kind, ErrorKind::NoSuchDomain | ErrorKind::NotRunning) => {
            }
            Err(error) => return MigrationOutcome::Unknown { message: error.to_string() },
        }
        self.go_on_here(uuid, "the agent was restarted in the middle of it".to_owned()).await
    }
}
