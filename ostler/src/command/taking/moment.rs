//! The moment that images are of: a snapshot that is made for them and forgotten afterwards, whatever becomes of them.
//!
//! Decides how long a host is waited for, and what is left of commands that were killed: one that nobody is at work on
//! any more.

use std::time::Duration;

use protocol::id::SnapshotName;
use protocol::job::{Job, Snapshot, SnapshotStage};
use protocol::refusal::Refusal;
use serde_json::json;
use transport::{CallError, Clock, Endpoint, Method};

use super::Original;
use crate::exit::Failure;
use crate::follow::await_job;
use crate::picture::chain;
use crate::show;

/// How long a host may take for a snapshot: the longest is the end of one of many large disks, and others may
/// be at it first.
const SNAPSHOT_MS_MAX: u64 = 600_000;
/// Pause before a host that is busy with it is asked again.
const PAUSE: Duration = Duration::from_millis(200);
/// How the names of snapshots begin that were made for this.
const SNAPSHOTS: &str = "for-images-";
/// How old such a snapshot is when nobody is at work on it any more: whoever reads a snapshot keeps it from being
/// deleted, and what is just beginning takes seconds.
const LEFT_MS: u64 = 600_000;
/// How long somebody who has had enough waits for a host to forget a snapshot.
const LEAVING_MS_MAX: u64 = 30_000;
/// After how long it is said what is waited for.
const SILENT_MS_MAX: u64 = 5_000;

/// The name of one that is made now.
pub(super) fn name_of(now_ms: u64) -> SnapshotName {
    SnapshotName::new(format!("{SNAPSHOTS}{now_ms}")).expect("letters, digits and dashes")
}

impl Original<'_> {
    /// The job once it has come to an end with the snapshot. A host that is busy with another one is asked again.
    pub(super) async fn snapshot(
        &self,
        name: &SnapshotName,
        is_begun: &mut bool,
    ) -> Result<Job, Failure> {
        let id = &self.job.id;
        let path = format!("/v1/jobs/{id}/snapshots/{name}");
        let (client, clock) = (&self.session.client, Clock::real());
        let deadline_ms = clock.now().mono_ms + SNAPSHOT_MS_MAX;
        loop {
            // Noted first: nobody may be there to hear the answer.
            *is_begun = true;
            let asked = client.send::<_, Job>(Method::PUT, self.agent(), &path, &json!(null)).await;
            let Err(error) = asked else { break };
            *is_begun = error.refusal().is_none();
            let is_busy = matches!(error.refusal(), Some(Refusal::Busy { .. }));
            if !is_busy || clock.now().mono_ms >= deadline_ms {
                return Err(error.into());
            }
            tokio::time::sleep(PAUSE).await;
        }
        let is_over = |job: &Job| {
            job.snapshot(name).is_none_or(|snapshot| snapshot.stage != SnapshotStage::Taking)
        };
        await_job(client, self.agent(), id, SNAPSHOT_MS_MAX, is_over).await
    }

    /// Forgets the snapshot, also where the VM has gone meanwhile; whoever has asked is told if it stays.
    pub(super) async fn release(&self, name: &SnapshotName) {
        let id = &self.job.id;
        let released = match self.release_at(self.agent(), name).await {
            Ok(true) => Ok(()),
            Ok(false) => self.release_elsewhere(name).await,
            Err(why) => Err(why),
        };
        if let Err(why) = released {
            show::note(&format!(
                "warning: snapshot {name} of {id} stays ({why}); next: ostler snapshots rm {id} {name}"
            ));
        }
    }

    /// A VM with its disks in a pool may have moved, and has taken its snapshots along.
    async fn release_elsewhere(&self, name: &SnapshotName) -> Result<(), String> {
        let picture = self.session.picture().await.map_err(|failure| failure.cause())?;
        let Ok(row) = picture.job(&self.job.id) else { return Ok(()) };
        if row.host != self.place.host.id {
            self.release_at(&picture.agent(&row.host), name).await?;
        }
        Ok(())
    }

    /// Whether it was there, and is not any more.
    async fn release_at(&self, agent: &Endpoint, name: &SnapshotName) -> Result<bool, String> {
        let (id, client) = (&self.job.id, &self.session.client);
        let path = format!("/v1/jobs/{id}/snapshots/{name}");
        let clock = Clock::real();
        let begin_ms = clock.now().mono_ms;
        let (mut deadline_ms, mut is_told) = (begin_ms + SNAPSHOT_MS_MAX, false);
        let mut why = loop {
            let asked = client.send::<_, Job>(Method::DELETE, agent, &path, &json!(null)).await;
            match asked {
                Ok(_) => break String::new(),
                Err(error) if is_not_there(&error) => return Ok(false),
                Err(error) => {
                    let why = chain(&error);
                    if clock.now().mono_ms >= deadline_ms {
                        break why;
                    }
                    self.wait_for(name, &why, begin_ms, &mut deadline_ms, &mut is_told).await;
                }
            }
        };
        while clock.now().mono_ms < deadline_ms {
            let job = client.get::<Job>(agent, &format!("/v1/jobs/{id}")).await;
            why = match job {
                Ok(job) => match job.snapshot(name) {
                    None => return Ok(true),
                    Some(snapshot) => {
                        snapshot.why.clone().unwrap_or_else(|| "it is being deleted".into())
                    }
                },
                Err(error) if is_not_there(&error) => return Ok(true),
                Err(error) => chain(&error),
            };
            self.wait_for(name, &why, begin_ms, &mut deadline_ms, &mut is_told).await;
        }
        Err(why)
    }

    /// Waits a little, and says once what for. Who has had enough already does not wait for long.
    async fn wait_for(
        &self,
        name: &SnapshotName,
        why: &str,
        begin_ms: u64,
        deadline_ms: &mut u64,
        is_told: &mut bool,
    ) {
        let now_ms = Clock::real().now().mono_ms;
        if !*is_told && now_ms >= begin_ms + SILENT_MS_MAX {
            *is_told = true;
            let host = &self.place.name;
            show::note(&format!("waiting for {host} to forget snapshot {name}: {why}"));
        }
        if self.interrupts.check("").is_err() {
            *deadline_ms = (*deadline_ms).min(now_ms + LEAVING_MS_MAX);
        }
        tokio::time::sleep(PAUSE).await;
    }

    /// Forgets snapshots that earlier commands have left when they were killed. One that is read stays.
    pub(super) async fn release_left(&self) {
        let at_ms = self.job.snapshots.iter().filter_map(|snapshot| snapshot.taken_ms).max();
        let at_ms = at_ms.unwrap_or_default();
        let is_left = |snapshot: &&Snapshot| {
            let age_ms = snapshot.taken_ms.map(|taken_ms| at_ms.saturating_sub(taken_ms));
            let is_ours = snapshot.name.as_str().starts_with(SNAPSHOTS);
            is_ours && age_ms.is_some_and(|age_ms| age_ms >= LEFT_MS)
        };
        for Snapshot { name, .. } in self.job.snapshots.iter().filter(is_left) {
            let path = format!("/v1/jobs/{}/snapshots/{name}", self.job.id);
            let client = &self.session.client;
            let gone =
                client.send::<_, Job>(Method::DELETE, self.agent(), &path, &json!(null)).await;
            if gone.is_ok() {
                show::note(&format!("snapshot {name}, which an earlier command has left, is gone"));
            }
        }
    }
}

fn is_not_there(error: &CallError) -> bool {
    let name = error.refusal().map(Refusal::name);
    matches!(name, Some("no-such-snapshot" | "no-such-job"))
}
