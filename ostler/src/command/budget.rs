//! `ostler budget`: parts of tenants' quotas that hosts hand out by themselves, while arbiters may be away.
//!
//! A budget is had by a run, as a VM is, because it takes the arbiters' grants. What is used of it is summed up from
//! the view, for people; its host counts by its ledger. Which budget a VM is started by follows from its name.

use std::collections::BTreeMap;

use protocol::amounts::Amounts;
use protocol::api::Want;
use protocol::budget::{Budget, owners, used};
use protocol::id::{HostId, JobId, TenantId};
use protocol::job::{Job, JobKind, JobRow, JobSpec, JobState};
use protocol::resources::Bytes;
use protocol::view::View;
use serde::Serialize;
use serde_json::json;

use super::{rm, stop};
use crate::cli::{BudgetArgs, BudgetCommand, BudgetRmArgs, BudgetSetArgs};
use crate::exit::{Code, Failure};
use crate::follow::await_ended;
use crate::picture::Picture;
use crate::session::Session;
use crate::show;

/// See the module.
pub(crate) async fn run(session: &Session, args: BudgetArgs) -> Result<Code, Failure> {
    match args.command {
        None | Some(BudgetCommand::List) => list(session).await,
        Some(BudgetCommand::Set(args)) => set(session, args).await,
        Some(BudgetCommand::Rm(args)) => give_back(session, args).await,
    }
}

async fn set(session: &Session, args: BudgetSetArgs) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    let host = picture.host(&args.on)?.host.clone();
    if session.is_without_controller() {
        let what = "a budget takes the arbiters' grants, which a controller asks for";
        return Err(Failure::usage(what).next("the same without --hosts"));
    }
    let here = |row: &BudgetRow| row.host == host.id && row.tenant == args.tenant;
    let rows = rows(&picture.view);
    let known = match &args.name {
        Some(name) => rows.iter().find(|row| row.budget == *name),
        None => rows.iter().find(|row| here(row) && !row.state.is_ended()),
    };
    let name = match (&args.name, known) {
        (Some(name), _) => name.clone(),
        (None, Some(row)) => row.budget.clone(),
        (None, None) => name_of(&args.tenant, &host.name)?,
    };
    let size =
        size_of(&args, known.filter(|row| !row.state.is_ended()).map(|row| row.budget_size))?;
    let spec = JobSpec {
        kind: JobKind::Budget(size),
        tenant: args.tenant.clone(),
        labels: BTreeMap::new(),
    };
    spec.validate().map_err(|error| Failure::usage(error.to_string()))?;
    let want = Want::Run { job: name.clone(), spec, on: Some(host.id.clone()), again: false };
    let code = session.want(want, !args.wait.no_wait).await?;
    if !session.is_json && code == Code::Ok {
        show::note(&format!(
            "{} starts VMs called {name}.NAME by it, with `ostler run --budget --name {name}.NAME …`",
            host.name
        ));
    }
    Ok(code)
}

/// What it is called when nobody says: by whose it is, and where.
fn name_of(tenant: &TenantId, host_name: &str) -> Result<JobId, Failure> {
    let name = JobId::new(format!("{tenant}.{}", host_name.to_lowercase()));
    name.map_err(|error| Failure::usage(error.to_string()).next("--name, with a name for it"))
}

/// What is asked for; of one that is there what is not named stays as it is.
fn size_of(args: &BudgetSetArgs, known: Option<Budget>) -> Result<Budget, Failure> {
    let missing = |what: &str| {
        Failure::usage(format!("a budget has a limit of each amount, and {what} is not said"))
            .next("--vcpus N and --memory SIZE; of disks there is none unless --disk says so")
    };
    let vcpus = args.vcpus.or(known.map(|size| size.vcpus)).ok_or_else(|| missing("--vcpus"))?;
    let memory = args.memory.map(|bytes| bytes.0).or(known.map(|size| size.memory_bytes));
    let memory_bytes = memory.ok_or_else(|| missing("--memory"))?;
    let disk = args.disk.map(|bytes| bytes.0).or(known.map(|size| size.disk_bytes));
    // No VM has less than one CPU.
    let vms = args.vms.or(known.map(|size| size.vms)).unwrap_or(vcpus);
    Ok(Budget { vcpus, memory_bytes, disk_bytes: disk.unwrap_or(0), vms })
}

async fn give_back(session: &Session, args: BudgetRmArgs) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    let row = budget_of(&picture, &args.name)?;
    let users = users(&picture.view, &row);
    if !users.is_empty() {
        let used = used(&args.name, users.iter().copied());
        let names: Vec<&str> = users.iter().map(|job| job.id.as_str()).collect();
        let what = format!("budget {} is used by {}, for {used}", args.name, names.join(", "));
        return Err(Failure::new(Code::Refused, what).next(format!(
            "stop or move these first; `ostler budget set {} --on {} …` makes it no larger than that",
            row.job.spec.tenant, row.host_name
        )));
    }
    if !session.is_without_controller() {
        return session.want(Want::Delete { job: args.name }, !args.wait.no_wait).await;
    }
    if !row.job.state.is_ended() {
        stop::at_host(session, &picture, &args.name, 0).await?;
        let agent = picture.agent(&row.host);
        await_ended(&session.client, &agent, &args.name, stop::STOP_MS_MORE).await?;
    }
    rm::at_host(session, &picture, &row).await?;
    match session.is_json {
        true => show::json(&json!({ "deleted": args.name, "host": row.host })),
        false => show::line(&format!("budget {} is given back by {}", args.name, row.host_name)),
    }
    Ok(Code::Ok)
}

fn budget_of(picture: &Picture, name: &JobId) -> Result<JobRow, Failure> {
    let row = picture.job(name)?;
    if row.job.spec.as_budget().is_some() {
        return Ok(row);
    }
    Err(Failure::usage(format!("{name} is no budget")).next("ostler budget list"))
}

/// The rows that are there by a budget.
fn users<'a>(view: &'a View, row: &JobRow) -> Vec<&'a Job> {
    let here = view.host(&row.host).into_iter().flat_map(|host| host.jobs.values());
    let here = here.map(|job| &**job);
    here.filter(|job| job.budget.as_ref() == Some(&row.job.id)).collect()
}

/// The budget by which a VM of that name is started, and the host that has it.
pub(crate) fn owner_of(
    view: &View,
    name: &JobId,
    tenant: &TenantId,
) -> Result<(JobId, HostId), Failure> {
    let all = rows(view);
    let usable =
        || all.iter().filter(|row| row.tenant == *tenant && row.state == JobState::Running);
    // Of several that own it the nearest.
    let mut names: Vec<JobId> = owners(name).collect();
    names.reverse();
    let found = names.iter().find_map(|name| usable().find(|row| row.budget == *name));
    if let Some(row) = found {
        return Ok((row.budget.clone(), row.host.clone()));
    }
    let what = format!("no budget of tenant {tenant} owns the name {name}");
    let next: Vec<String> = usable().map(|row| format!("{}.{name}", row.budget)).collect();
    Err(Failure::new(Code::NotFound, what).next(match next.is_empty() {
        true => format!("ostler budget set {tenant} --on HOST, while a quorum of arbiters answers"),
        false => format!("call it {}", next.join(" or ")),
    }))
}

async fn list(session: &Session) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    let rows = rows(&picture.view);
    if session.is_json {
        show::json_pretty(&json!({ "budgets": rows, "warnings": picture.warnings }));
        return Ok(Code::Ok);
    }
    picture.warn();
    let header = ["BUDGET", "TENANT", "HOST", "STATE", "VMS", "VCPUS", "MEMORY", "DISK"];
    show::table(header, rows.iter().map(cells).collect());
    Ok(Code::Ok)
}

/// A budget as `budget list --json` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct BudgetRow {
    budget: JobId,
    tenant: TenantId,
    host: HostId,
    host_name: String,
    state: JobState,
    #[serde(rename = "size")]
    budget_size: Budget,
    used: Amounts,
    users: Vec<JobId>,
    away: Vec<JobId>,
}

/// Every budget in the view, by name.
fn rows(view: &View) -> Vec<BudgetRow> {
    let mut rows = Vec::new();
    for (host, row) in view.hosts() {
        let budgets = row.jobs.values().filter_map(|job| Some((job, job.spec.as_budget()?)));
        for (job, budget_size) in budgets {
            let here = || row.jobs.values().map(|job| &**job);
            let users = here().filter(|user| user.budget.as_ref() == Some(&job.id));
            rows.push(BudgetRow {
                budget: job.id.clone(),
                tenant: job.spec.tenant.clone(),
                host: host.clone(),
                host_name: row.host.name.clone(),
                state: job.state,
                budget_size,
                used: used(&job.id, here()),
                users: users.map(|user| user.id.clone()).collect(),
                away: job.away.iter().cloned().collect(),
            });
        }
    }
    rows.sort_by(|a, b| (&a.budget, &a.host).cmp(&(&b.budget, &b.host)));
    rows
}

fn cells(row: &BudgetRow) -> [String; 8] {
    let (used, size) = (row.used, row.budget_size);
    let bytes = |used: u64, size: u64| format!("{}/{}", Bytes(used), Bytes(size));
    [
        row.budget.to_string(),
        row.tenant.to_string(),
        row.host_name.clone(),
        row.state.to_string(),
        format!("{}/{}", used.vms, size.vms),
        format!("{}/{}", used.vcpus, size.vcpus),
        bytes(used.memory_bytes, size.memory_bytes),
        bytes(used.disk_bytes, size.disk_bytes),
    ]
}

#[cfg(test)]
mod tests {
    use protocol::host::{Host, Inventory};
    use protocol::id::{Cursor, Epoch};
    use protocol::signed::SecretKey;
    use protocol::vm::VmSpec;

    use super::*;

    fn id(text: &str) -> JobId {
        text.parse().unwrap()
    }

    fn tenant() -> TenantId {
        "a".parse().unwrap()
    }

    /// A host with a budget of 4 CPUs, and a VM with one of them by it.
    fn view() -> View {
        let budget = Budget { vcpus: 4, memory_bytes: 4 << 30, disk_bytes: 0, vms: 4 };
        let of = |kind| JobSpec { kind, tenant: tenant(), labels: BTreeMap::new() };
        let vm = VmSpec { vcpus: 1, memory_bytes: 1 << 30, ..VmSpec::default() };
        let by_it = Job {
            budget: Some(id("a.h1")),
            ..Job::of(id("a.h1.web"), of(JobKind::Vm(vm.clone())), JobState::Running)
        };
        let other = Job::of(id("web"), of(JobKind::Vm(vm)), JobState::Running);
        let budget = Job::of(id("a.h1"), of(JobKind::Budget(budget)), JobState::Running);
        let mut view = View::default();
        view.merge_inventory(Inventory {
            cursor: Cursor { epoch: Epoch(1), seq: 1 },
            host: Host::of_key(SecretKey::from_seed([1; 32]).public()),
            jobs: vec![budget, by_it, other],
            observed: vec![],
        });
        view
    }

    #[test]
    fn what_is_used_of_a_budget_is_what_is_there_by_it() {
        let rows = rows(&view());
        let [row] = &rows[..] else { panic!("{rows:?}") };
        assert_eq!((row.used.vcpus, row.used.vms), (1, 1));
        assert_eq!(row.users, [id("a.h1.web")]);
        assert_eq!(cells(row)[5], "1/4");
    }

    #[test]
    fn a_name_says_by_which_budget_it_is_started() {
        let view = view();
        let (budget, _) = owner_of(&view, &id("a.h1.db"), &tenant()).unwrap();
        assert_eq!(budget, id("a.h1"));
        let other = owner_of(&view, &id("db"), &tenant()).unwrap_err();
        assert!(other.to_string().contains("no budget of tenant a"), "{other}");
        assert!(owner_of(&view, &id("a.h1.db"), &"b".parse().unwrap()).is_err());
    }

    #[test]
    fn what_is_not_named_stays_as_it_is() {
        let args = |vcpus, memory: Option<u64>| BudgetSetArgs {
            tenant: tenant(),
            on: "h1".into(),
            name: None,
            vcpus,
            memory: memory.map(Bytes),
            disk: None,
            vms: None,
            wait: crate::cli::WaitArgs { no_wait: false },
        };
        let known = Budget { vcpus: 4, memory_bytes: 7, disk_bytes: 3, vms: 2 };
        let size = size_of(&args(Some(8), None), Some(known)).unwrap();
        assert_eq!(size, Budget { vcpus: 8, ..known });
        assert!(size_of(&args(Some(8), None), None).is_err(), "memory is not said");
        let size = size_of(&args(Some(8), Some(1)), None).unwrap();
        assert_eq!((size.vms, size.disk_bytes), (8, 0));
    }
}
