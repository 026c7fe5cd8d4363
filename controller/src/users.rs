//! What users of a tenant may have done: runs about that tenant's VMs, and no others.
//!
//! A run acts with the controller's right, so it is looked before it is stored whose VM it is about: by what
//! is asked for, and by every row of it that is seen, and again each time that it is planned. What is seen may
//! be old; that a name is another tenant's on a host is refused by that host as well.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::api::{NewRun, Want};
use protocol::id::{JobId, RunId, TenantId};
use protocol::job::{JobKind, JobSpec};
use protocol::refusal::Refusal;
use protocol::trust::{Policy, Right, User};
use protocol::view::View;
use protocol::vm::VmSpec;
use transport::{Peer, ProblemReply};

use crate::api::{Shared, broken, permit};

/// How names begin that are not a user's to give: those of Ostler's own services, and of what is done to hosts.
const RESERVED: [&str; 2] = ["ostler-", "host-"];
/// The longest that a user's run may wait for a guest to end by itself: it keeps its place meanwhile.
const GRACE_MS_MAX: u64 = 600_000;

/// Lets the caller ask for this, or says why not; of which tenant, if it is a user.
pub(crate) fn permit_run(
    shared: &Shared,
    peer: Peer,
    asked: &NewRun,
) -> Result<Option<TenantId>, ProblemReply> {
    let Some(user) = user(shared, peer) else {
        permit(shared, peer, Right::Run)?;
        return Ok(None);
    };
    let picture = shared.scheduler.picture();
    if !picture.is_current {
        let detail = format!("it does not see all hosts yet ({}); ask again", picture.source);
        return Err(ProblemReply::new(503, "no-current-view", detail));
    }
    let policy = shared.trust.borrow().as_ref().map(|trust| Arc::clone(&trust.policy));
    check(&user, asked, &picture.view, &policy.unwrap_or_default())?;
    Ok(Some(user.tenant))
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

fn check(user: &User, asked: &NewRun, view: &View, policy: &Policy) -> Result<(), Refusal> {
    if asked.make_room {
        return Err(forbidden(user, "have other VMs moved to make room: ask an operator"));
    }
    if asked.because.is_some() {
        return Err(forbidden(user, "say for whose sake it is done"));
    }
    match &asked.want {
        Want::Run { job, spec, .. } | Want::Spend { job, spec, .. } => {
            if let Some(prefix) = RESERVED.iter().find(|prefix| job.as_str().starts_with(*prefix)) {
                return Err(forbidden(
                    user,
                    &format!("give a VM a name that begins with {prefix}"),
                ));
            }
            check_reach(policy, spec)?;
        }
        Want::Resize { size, .. } => {
            let nics = size.add_nics.clone();
            let kind = JobKind::Vm(VmSpec { nics, ..VmSpec::default() });
            let (tenant, labels) = (user.tenant.clone(), BTreeMap::new());
            check_reach(policy, &JobSpec { kind, tenant, labels })?;
        }
        Want::Stop { grace_ms, .. } if *grace_ms > GRACE_MS_MAX => {
            return Err(forbidden(
                user,
                &format!("have a run wait for more than {GRACE_MS_MAX} ms"),
            ));
        }
        _ => {}
    }
    check_want(user, &asked.want, view)
}

/// What reaches into a host is a user's only where a rule says so.
fn check_reach(policy: &Policy, spec: &JobSpec) -> Result<(), Refusal> {
    let Some(breach) = policy.breaches_of_user(spec).into_iter().next() else { return Ok(()) };
    let (tenant, is_default) = (spec.tenant.clone(), !policy.tenants.contains_key(&spec.tenant));
    Err(Refusal::AgainstPolicy { tenant, is_default, breach })
}

fn check_want(user: &User, want: &Want, view: &View) -> Result<(), Refusal> {
    let is_seen = match want {
        Want::Run { spec, .. } | Want::Spend { spec, .. } if spec.as_vm().is_none() => {
            return Err(forbidden(user, "run one of Ostler's own services, or delegate a budget"));
        }
        Want::Run { spec, .. } | Want::Spend { spec, .. } if spec.adopted().is_some() => {
            return Err(forbidden(
                user,
                "adopt a domain, which is no tenant's yet: ask an operator",
            ));
        }
        Want::Run { job, spec, .. } | Want::Spend { job, spec, .. } => {
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
            return Err(forbidden(user, "touch one of Ostler's own services, or a budget"));
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
    use protocol::job::{Job, JobState};
    use protocol::signed::SecretKey;
    use protocol::ticket::HoldAt;
    use protocol::vm::{NicSpec, Plug, SizeChange};

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
        check(&user, &NewRun::new(RunId(uuid::Uuid::nil()), want), &view(), &Policy::default())
    }

    fn run(id: &str, tenant: &str) -> Want {
        Want::Run { job: job(id), spec: of(tenant), on: None, again: false }
    }

    #[test]
    fn a_user_asks_for_its_tenants_vms_and_for_no_others() {
        assert_eq!(ask(run("mine", "a")), Ok(()));
        assert_eq!(ask(run("new", "a")), Ok(()));
        assert_eq!(ask(Want::stop(job("mine"), 0)), Ok(()));
        assert_eq!(ask(Want::Delete { job: job("mine") }), Ok(()));
        let forbidden = [
            run("new", "b"),
            // The name of another's, whose disks it would take.
            run("theirs", "a"),
            run("both", "a"),
            Want::stop(job("theirs"), 0),
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
            Want::Run { job: job("new"), spec, on: None, again: false }
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
        let with_room = NewRun { make_room: true, ..new.clone() };
        let because = NewRun { because: Some("me".into()), ..new };
        for new in [with_room, because] {
            let said = check(&user, &new, &view(), &Policy::default()).unwrap_err();
            assert_eq!(said.name(), "forbidden");
        }
        for name in ["ostler-monitor-0", "host-h1"] {
            assert_eq!(ask(run(name, "a")).unwrap_err().name(), "forbidden");
        }
        let patient = Want::stop(job("mine"), u64::MAX);
        assert_eq!(ask(patient).unwrap_err().name(), "forbidden");
    }

    #[test]
    fn what_reaches_into_a_host_is_a_users_only_by_a_rule() {
        let with = |change: &dyn Fn(&mut VmSpec)| {
            let mut spec = of("a");
            if let JobKind::Vm(vm) = &mut spec.kind {
                change(vm);
            }
            Want::Run { job: job("new"), spec, on: None, again: false }
        };
        let plugged = |plug: Plug| with(&move |vm| vm.nics = vec![NicSpec::from(plug.clone())]);
        let bridge = || Plug::Bridge { bridge: "br0".into() };
        let card = with(&|vm| vm.hardware.pci = vec!["0000:03:00.0".into()]);
        for want in [card.clone(), plugged(bridge())] {
            assert_eq!(ask(want).unwrap_err().name(), "against-policy");
        }
        assert_eq!(ask(plugged(Plug::User)), Ok(()));
        assert_eq!(ask(plugged(Plug::Libvirt { name: "blue".into() })), Ok(()));
        let size = SizeChange { add_nics: vec![NicSpec::from(bridge())], ..SizeChange::default() };
        let resize = Want::Resize { job: job("mine"), size };
        assert_eq!(ask(resize).unwrap_err().name(), "against-policy");
        // With a rule that says so.
        let rules = serde_json::json!({ "tenants": { "a": { "host_hardware": ["pci"] } } });
        let policy: Policy = serde_json::from_value(rules).unwrap();
        let key = SecretKey::from_seed([7; 32]).public();
        let user = User { key, name: "ann".into(), tenant: "a".parse().unwrap() };
        let new = NewRun::new(RunId(uuid::Uuid::nil()), card);
        assert_eq!(check(&user, &new, &view(), &policy), Ok(()));
    }
}
