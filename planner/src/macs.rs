//! Which hardware addresses that wanted VMs would have are those of VMs that are alive already.
//!
//! Two guests with one address on one network get each other's frames, whatever hosts they are on: an
//! overlay or a VLAN has many. A host sees only its own; who sees all of them is whoever plans. Networks of
//! different hosts may well be apart, but their names do not say so.

use std::collections::{BTreeMap, BTreeSet};

use protocol::id::{HostId, JobId};
use protocol::job::JobSpec;
use protocol::view::HostRow;

use crate::expectation::Expectation;
use crate::input::PlanInput;
use crate::intent::Intent;
use crate::register::Register;

/// Who has which of the addresses that are wanted. Looked up once, and only if some are.
#[derive(Debug, Default)]
pub(crate) struct Macs<'a>(BTreeMap<String, BTreeSet<&'a JobId>>);

impl<'a> Macs<'a> {
    pub(crate) fn of(
        input: &'a PlanInput,
        register: Option<&'a Register>,
        differing: &BTreeSet<&'a HostId>,
    ) -> Self {
        let mut macs: BTreeMap<String, BTreeSet<&JobId>> = BTreeMap::new();
        for expectation in &input.expectations {
            if let Expectation::Runs { job, spec, .. } = expectation {
                macs.extend(spec.macs(job).into_iter().map(|mac| (mac, BTreeSet::new())));
            }
        }
        if macs.is_empty() {
            return Self(macs);
        }
        let is_on = |host: &HostId| input.intents.get(host) != Some(&Intent::Off);
        let rows: Vec<(&HostId, &HostRow)> = match register {
            None => input.view.hosts().collect(),
            Some(register) => {
                for (mac, owners) in &mut macs {
                    let known = register.owners(mac);
                    let known = known.filter(|(_, at)| !differing.contains(at) && is_on(at));
                    owners.extend(known.map(|(job, _)| job));
                }
                let rows = differing.iter().filter_map(|id| input.view.host(id));
                rows.map(|row| (&row.host.id, row)).collect()
            }
        };
        for (id, row) in rows {
            if !is_on(id) {
                continue;
            }
            for (job, known) in row.jobs.iter().filter(|(_, known)| !known.state.is_ended()) {
                for mac in known.spec.macs(job) {
                    if let Some(owners) = macs.get_mut(&mac) {
                        owners.insert(job);
                    }
                }
            }
        }
        Self(macs)
    }

    /// An address of this job that another one has, and whose it is.
    pub(crate) fn taken(&self, job: &JobId, spec: &JobSpec) -> Option<(String, JobId)> {
        if self.0.is_empty() {
            return None;
        }
        spec.macs(job).into_iter().find_map(|mac| {
            let other = self.0.get(&mac)?.iter().find(|owner| **owner != job)?;
            Some((mac, JobId::clone(other)))
        })
    }
}
