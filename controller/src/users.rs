//! What users of a tenant may have done: runs about that tenant's VMs, and no others.
//!
//! A run acts with the controller's right, so it is looked before it is stored whose VM it is about: by what
//! is asked for, and by every row of it that is seen. What is seen may be old; that a name is another tenant's
//! on a host is refused by that host as well.

use protocol::api::{NewRun, Want};
use protocol::id::{JobId, RunId, TenantId};
use protocol::refusal::Refusal;
use protocol::trust::{Right, User};
use protocol::view::View;
use transport::{Peer, ProblemReply};

use crate::api::{Shared, broken, permit};

/// Lets the caller ask for this, or says why not.
pub(crate) fn permit_run(shared: &Shared, peer: Peer, asked: &NewRun) -> Result<(), ProblemReply> {
    let Some(user) = user(shared, peer) else { return permit(shared, peer, Right::Run) };
    let view = &shared.scheduler.picture().view;
    Ok(check(&user, asked, view)?)
}

/// Lets the caller have a run turn back: one about a VM of its own.
pub(crate) async fn permit_cancel(
    shared: &Shared,
    peer: Peer,
    id: RunId,
) -> Result<(), ProblemReply> {
    let Some(user) = user(shared, peer) else { return permit(shared, peer, Right::Run) };
    // One that is not there is said to be so.
    let Some(run) = shared.scheduler.find(id).await.map_err(broken)? else { return Ok(()) };
    let status = run.status();
    Ok(check_want(&user, &status.want, &shared.scheduler.picture().view)?)
}

fn user(shared: &Shared, peer: Peer) -> Option<User> {
    let trust = shared.trust.borrow().clone()?;
    trust.user(peer.key.as_ref()?).cloned()
}

fn check(user: &User, asked: &NewRun, view: &View) -> Result<(), Refusal> {
    if asked.make_room {
        return Err(forbidden(user, "have other VMs moved to make room: ask an operator"));
    }
    check_want(user, &asked.want, view)
}

fn check_want(user: &User, want: &Want, view: &View) -> Result<(), Refusal> {
    let is_seen = match want {
        Want::Run { spec, .. } if spec.as_vm().is_none() => {
            return Err(forbidden(user, "run one of Ostler's own services"));
        }
        Want::Run { spec, .. } if spec.adopted().is_some() => {
            return Err(forbidden(
                user,
                "adopt a domain, which is no tenant's yet: ask an operator",
            ));
        }
        Want::Run { job, spec, .. } => {
            check_tenant(user, &spec.tenant)?;
            check_rows(user, job, view)?;
            // It need not be there yet.
            true
        }
        Want::Stop { job, .. }
        | Want::Migrate { job, .. }
        | Want::Resize { job, .. }
        | Want::Delete { job } => check_rows(user, job, view)?,
        Want::FailOver { .. } | Want::Sleep { .. } | Want::Wake { .. } => {
            return Err(forbidden(user, "do this: it is about hosts, and not about a VM"));
        }
    };
    match is_seen {
        true => Ok(()),
        // Whose it is can't be told from what nobody shows.
        false => Err(Refusal::NoSuchJob { job: want.job().clone() }),
    }
}

/// Refuses when a row of the job is another tenant's; whether there is one at all.
fn check_rows(user: &User, job: &JobId, view: &View) -> Result<bool, Refusal> {
    let mut is_seen = false;
    for (_, found) in view.job(job) {
        if found.spec.as_vm().is_none() {
            return Err(forbidden(user, "touch one of Ostler's own services"));
        }
        check_tenant(user, &found.spec.tenant)?;
        is_seen = true;
    }
    Ok(is_seen)
}

fn check_tenant(user: &User, tenant: &TenantId) -> Result<(), Refusal> {
    if user.tenant == *tenant {
        return Ok(());
    }
    Err(forbidden(user, &format!("do this to a VM of tenant {tenant}")))
}

fn forbidden(user: &User, what: &str) -> Refusal {
    let who = format!("user {} of tenant {}", user.name, user.tenant);
    Refusal::Forbidden { who, what: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use protocol::host::{Host, Inventory};
    use protocol::id::{Cursor, Epoch};
    use protocol::job::{Job, JobSpec, JobState};
    use protocol::signed::SecretKey;
    use protocol::ticket::HoldAt;
    use protocol::vm::VmSpec;

    use super::*;

    fn job(job: &str) -> JobId {
        job.parse().unwrap()
    }

    fn of(tenant: &str) -> JobSpec {
        let vm = VmSpec { vcpus: 1, memory_bytes: 1 << 30, ..VmSpec::default() };
        JobSpec { tenant: tenant.parse().unwrap(), ..JobSpec::vm(vm) }
    }

    /// Two hosts: `mine` of tenant a on one, `theirs` of tenant b on the other, and `both` of each somewhere.
    fn view() -> View {
        let mut view = View::default();
        for (seed, jobs) in
            [(1, [("mine", "a"), ("both", "a")]), (2, [("theirs", "b"), ("both", "b")])]
        {
            let row = |(id, tenant): (&str, &str)| Job::of(job(id), of(tenant), JobState::Stopped);
            let key = SecretKey::from_seed([seed; 32]).public();
            view.merge_inventory(Inventory {
                cursor: Cursor { epoch: Epoch(1), seq: 1 },
                host: Host::of_key(key),
                jobs: jobs.map(row).to_vec(),
                observed: vec![],
            });
        }
        view
    }

    fn ask(want: Want) -> Result<(), Refusal> {
        let key = SecretKey::from_seed([7; 32]).public();
        let user = User { key, name: "ann".into(), tenant: "a".parse().unwrap() };
        check(&user, &NewRun::new(RunId(uuid::Uuid::nil()), want), &view())
    }

    fn run(id: &str, tenant: &str) -> Want {
        Want::Run { job: job(id), spec: of(tenant), on: None }
    }

    #[test]
    fn a_user_asks_for_its_tenants_vms_and_for_no_others() {
        assert_eq!(ask(run("mine", "a")), Ok(()));
        assert_eq!(ask(run("new", "a")), Ok(()));
        assert_eq!(ask(Want::Stop { job: job("mine"), grace_ms: 0 }), Ok(()));
        assert_eq!(ask(Want::Delete { job: job("mine") }), Ok(()));
        let forbidden = [
            run("new", "b"),
            // The name of another's, whose disks it would take.
            run("theirs", "a"),
            run("both", "a"),
            Want::Stop { job: job("theirs"), grace_ms: 0 },
            Want::Delete { job: job("both") },
        ];
        for want in forbidden {
            let said = ask(want.clone()).unwrap_err();
            assert_eq!(said.name(), "forbidden", "{want:?}");
            assert!(said.to_string().contains("user ann of tenant a"), "{said}");
        }
        let unseen = ask(Want::Delete { job: job("new") }).unwrap_err();
        assert_eq!(unseen.name(), "no-such-job");
    }

    #[test]
    fn what_is_no_tenants_is_not_a_users() {
        let host = Host::of_key(SecretKey::from_seed([1; 32]).public()).id;
        let lost = HoldAt { host, hold: protocol::id::OfferId::default() };
        let adopted = {
            let vm = VmSpec { adopted: Some(uuid::Uuid::nil()), ..VmSpec::default() };
            let spec = JobSpec { tenant: "a".parse().unwrap(), ..JobSpec::vm(vm) };
            Want::Run { job: job("new"), spec, on: None }
        };
        let fail_over = Want::FailOver {
            job: job("mine"),
            spec: of("a"),
            revision: protocol::id::Revision(1),
            lost,
        };
        for want in [adopted, fail_over] {
            assert_eq!(ask(want).unwrap_err().name(), "forbidden");
        }
        let key = SecretKey::from_seed([7; 32]).public();
        let user = User { key, name: "ann".into(), tenant: "a".parse().unwrap() };
        let new = NewRun::new(RunId(uuid::Uuid::nil()), run("mine", "a"));
        let with_room = NewRun { make_room: true, ..new };
        assert_eq!(check(&user, &with_room, &view()).unwrap_err().name(), "forbidden");
    }
}
