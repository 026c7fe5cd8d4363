//! Taking disks and cards out of a guest that runs, and the files of disks that nobody has any more.
//!
//! What counts is what libvirt shows afterwards: a file goes when neither the guest nor its definition names it.

use std::path::PathBuf;
use std::time::Duration;

use hypervisor::{Fitting, Fittings, Hypervisor, Volume, call};
use protocol::id::JobId;
use uuid::Uuid;

use super::{CALL_DEADLINE, Trouble, Works};
use crate::core::{Leaver, WorkOutcome};

impl Works {
    /// Repeating it is harmless: what the guest does not have is gone.
    pub(super) async fn take_out(
        &self,
        job: &JobId,
        uuid: Uuid,
        leaving: &[Leaver],
        patience: Duration,
    ) -> Result<WorkOutcome, Trouble> {
        self.await_late_start(job).await?;
        let fitting_of = |leaver: &Leaver| match leaver {
            Leaver::Disk(name) => Fitting::Disk(PathBuf::from(self.storage.own_path(job, name))),
            Leaver::Card(mac) => Fitting::Card(mac.clone()),
        };
        let fittings: Vec<Fitting> = leaving.iter().map(fitting_of).collect();
        let mut why = Vec::new();
        if self.is_active(uuid).await? {
            let asked = fittings.clone();
            let detach = move |hv: &dyn Hypervisor| hv.detach(uuid, &asked, patience);
            why = call(&self.hv, "detach devices", patience + CALL_DEADLINE, detach).await?;
        }
        let shown = self.named_by(uuid).await?;
        let mut kept = Vec::new();
        for (leaver, fitting) in leaving.iter().zip(&fittings) {
            if shown.iter().any(|shown| shown.has(fitting)) {
                let said =
                    why.iter().find(|kept| kept.fitting == *fitting).map(|kept| kept.why.clone());
                let said = said.unwrap_or_else(|| "its definition has it still".to_owned());
                kept.push((leaver.clone(), said));
            } else if let Leaver::Disk(name) = leaver {
                self.storage.remove_own(job, std::iter::once(name.as_str()))?;
            }
        }
        Ok(WorkOutcome::TakenOut(kept))
    }

    /// What the domain has now, and what it would start with; nothing when there is none.
    async fn named_by(&self, uuid: Uuid) -> Result<Vec<Fittings>, Trouble> {
        if self.info(uuid).await?.is_none() {
            return Ok(Vec::new());
        }
        let now = self.fittings(uuid).await?;
        let next =
            self.call("read definition", CALL_DEADLINE, move |hv| hv.definition(uuid)).await?;
        Ok(vec![now, read(&next)?])
    }

    /// What a running guest has; of one that is off what it would start with.
    async fn fittings(&self, uuid: Uuid) -> Result<Fittings, Trouble> {
        let shown = self.call("xml", CALL_DEADLINE, move |hv| hv.xml(uuid)).await?;
        read(&shown)
    }

    /// A running guest's devices of these disks, given the ones that would follow from their places: a disk
    /// keeps the name that it had when others before it go.
    pub(super) async fn devices_of(
        &self,
        uuid: Uuid,
        volumes: &[Volume],
        by_place: &[String],
    ) -> Result<Vec<String>, Trouble> {
        let shown = self.fittings(uuid).await?;
        let found = volumes.iter().map(|volume| shown.device(&volume.path).map(str::to_owned));
        let found: Vec<Option<String>> = found.take(by_place.len()).collect();
        // Not our files: an adopted VM's disks are named by their devices.
        if found.iter().all(Option::is_none) {
            return Ok(by_place.to_vec());
        }
        let missing =
            |at: usize| Trouble::No(format!("its guest has no disk {:?}", volumes[at].name));
        let named = |(at, device): (usize, Option<String>)| device.ok_or_else(|| missing(at));
        found.into_iter().enumerate().map(named).collect()
    }
}

/// Taken for one without devices, it would lose the files of those that it has.
fn read(xml: &str) -> Result<Fittings, Trouble> {
    Fittings::read(xml).ok_or_else(|| Trouble::Unclear("libvirt gave no domain's XML".to_owned()))
}
