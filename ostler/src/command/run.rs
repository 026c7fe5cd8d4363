//! `ostler run`: a VM from an image, placed by the controller, or by hand on a lone host.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use protocol::api::{PutJob, Want};
use protocol::host::{Host, ImageFacts};
use protocol::hugepages::PageSize;
use protocol::id::{HostId, ImageName, JobId, Revision, TenantId};
use protocol::job::{Job, JobKind, JobSpec, OneOff};
use protocol::refusal::Refusal;
use protocol::vm::{CloudInit, CpuMode, CpuSpec, DiskSpec, Firmware, Hardware, OnLoss, VmSpec};
use transport::{CallError, Clock, Endpoint, Method, Reply};

use super::budget::owner_of;
use super::wait::verdict;
use crate::cli::{Ms, RunArgs};
use crate::exit::{Code, Failure};
use crate::follow::await_settled;
use crate::picture::Picture;
use crate::session::Session;
use crate::show;

/// How the names of Ostler's own services begin: one that is taken would be in the way of the next.
const SERVICES: &str = "ostler-";

/// How long a lone host may take to start a guest.
const START_MS_MAX: u64 = 60_000;

pub(crate) async fn run(session: &Session, args: RunArgs) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    let (spec, on) = described(session, &args, &picture)?;
    if args.budget {
        let is_waiting = !args.wait.no_wait;
        return by_budget(session, &picture, args.name, spec, is_waiting).await;
    }
    if session.is_without_controller() {
        return start(session, &picture, &args.name, spec, on, !args.wait.no_wait).await;
    }
    warn_of_few_arbiters(session, args.on_loss);
    let want = Want::Run { job: args.name, spec, on, again: false };
    session.want_with_room(want, args.make_room, !args.wait.no_wait).await
}

/// Starts it by the budget that owns its name: no arbiter is asked, and with `--hosts` no controller either.
pub(super) async fn by_budget(
    session: &Session,
    picture: &Picture,
    name: JobId,
    spec: JobSpec,
    is_waiting: bool,
) -> Result<Code, Failure> {
    let (budget, on) = owner_of(&picture.view, &name, &spec.tenant)?;
    if !session.is_without_controller() {
        return session.want(Want::Spend { job: name, spec, on, budget }, is_waiting).await;
    }
    let agent = picture.agent(&on);
    let host_name = picture.view.host(&on).map(|row| row.host.name.clone()).unwrap_or_default();
    let revision = picture.job(&name).map_or(1, |row| row.job.revision.0 + 1);
    let put = PutJob { budget: Some(budget), ..PutJob::of(Revision(revision), spec) };
    let mut job = put_patiently(session, &agent, &format!("/v1/jobs/{name}"), &put).await?.body;
    if is_waiting {
        job = await_settled(&session.client, &agent, &name, START_MS_MAX).await?;
    }
    tell(session, &job, &host_name);
    let has_ended = job.state.is_ended();
    Ok(match job.spec.as_one_off() {
        Some(_) if has_ended => verdict(&job),
        _ if has_ended => Code::Failed,
        _ => Code::Ok,
    })
}

/// What is to run, and where, if that was said.
pub(crate) fn described(
    session: &Session,
    args: &RunArgs,
    picture: &Picture,
) -> Result<(JobSpec, Option<HostId>), Failure> {
    check_name(&args.name)?;
    let mut spec = spec_of(args, picture)?;
    spec.tenant = args.tenant.clone().unwrap_or_else(|| session.tenant());
    spec.validate().map_err(|error| Failure::usage(error.to_string()))?;
    let on = args.on.as_deref().map(|text| picture.host(text)).transpose()?;
    Ok((spec, on.map(|row| row.host.id.clone())))
}

/// Ostler's own services are to find their names free.
pub(super) fn check_name(name: &JobId) -> Result<(), Failure> {
    if !name.as_str().starts_with(SERVICES) {
        return Ok(());
    }
    let what = format!("{name}: names that begin with {SERVICES} are Ostler's services'");
    Err(Failure::usage(what).next("another name"))
}

fn spec_of(args: &RunArgs, picture: &Picture) -> Result<JobSpec, Failure> {
    let image = args.image.as_ref().or(args.image_name.as_ref());
    let facts = image.map(|name| image_of(name, picture)).transpose()?;
    let vm = VmSpec {
        vcpus: args.vcpus,
        memory_bytes: args.memory.0,
        max_vcpus: args.max_vcpus,
        max_memory_bytes: args.max_memory.map(|bytes| bytes.0),
        disks: disks_of(args, image, facts.as_ref()),
        nics: args.nic.clone(),
        hardware: Box::new(Hardware {
            firmware: if args.uefi { Firmware::Uefi } else { Firmware::Bios },
            cpu: args.cpu.as_deref().map(cpu_of),
            dedicated_cpus: args.dedicated_cpus,
            hugepages_kib: args.hugepages.map(PageSize::kib),
            vnc: args.vnc,
            ..Hardware::default()
        }),
        cloud_init: cloud_init_of(args)?,
        restart: args.restart,
        autostart: args.autostart,
        on_loss: args.on_loss,
        protected: args.protected,
        priority: args.priority,
        preemptible: args.preemptible,
        adopted: None,
    };
    let labels = args.label.iter().cloned().collect();
    let idle_ms = args.idle.map(|idle| idle.0);
    let kind = match args.deadline {
        None => JobKind::Vm(vm),
        Some(Ms(deadline_ms)) => JobKind::OneOff(OneOff { vm, deadline_ms, idle_ms }),
    };
    Ok(JobSpec { kind, tenant: TenantId::default_tenant(), labels })
}

/// What needs cover ends with a majority of the arbiters, and one alone is a majority.
fn warn_of_few_arbiters(session: &Session, on_loss: OnLoss) {
    let arbiters = session.trust.as_ref().map_or(0, |trust| trust.arbiters.len());
    if session.trust.as_ref().is_some_and(|trust| trust.council().witnesses.is_some()) {
        return;
    }
    if on_loss == OnLoss::Stop && (1..3).contains(&arbiters) {
        show::note(&format!(
            "this cluster has {arbiters} arbiters: when a majority of them is away for some seconds, the VM \
             is killed; three outlive the loss of one (ostler arbiters add HOST…), and with witnesses it goes on \
             without any (ostler witnesses)"
        ));
    }
}

fn cpu_of(text: &str) -> CpuSpec {
    let (mode, model) = match text {
        "host-model" => (CpuMode::HostModel, None),
        "host-passthrough" => (CpuMode::HostPassthrough, None),
        "maximum" => (CpuMode::Maximum, None),
        model => (CpuMode::Custom, Some(model.to_owned())),
    };
    CpuSpec { mode, model, require: vec![], disable: vec![] }
}

fn cloud_init_of(args: &RunArgs) -> Result<Option<Box<CloudInit>>, Failure> {
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path)
            .map_err(|error| Failure::usage(format!("read {}: {error}", path.display())))
    };
    let Some(user_data) = &args.cloud_init_user_data else { return Ok(None) };
    Ok(Some(Box::new(CloudInit {
        user_data: read(user_data)?,
        meta_data: args.cloud_init_meta_data.as_ref().map(read).transpose()?,
        network_config: args.cloud_init_network_config.as_ref().map(read).transpose()?,
    })))
}

fn image_of(name: &ImageName, picture: &Picture) -> Result<ImageFacts, Failure> {
    let mut images = std::collections::BTreeMap::new();
    for (_, row) in picture.view.hosts() {
        images.extend(&row.host.images);
    }
    images.get(name).map(|facts| (*facts).clone()).ok_or_else(|| {
        let names: Vec<_> = images.keys().map(|name| name.as_str()).collect();
        let what = match names.as_slice() {
            [] => format!("no image {name}; the hosts have none at all"),
            some => format!("no image {name}; the hosts have {}", some.join(", ")),
        };
        Failure::new(Code::NotFound, what).next("ostler images import FILE --name NAME")
    })
}

fn disks_of(
    args: &RunArgs,
    image: Option<&ImageName>,
    facts: Option<&ImageFacts>,
) -> Vec<DiskSpec> {
    let mut disks: Vec<DiskSpec> = Vec::new();
    for (at, disk) in args.disk.iter().enumerate() {
        let usual = if at == 0 { "root".to_owned() } else { format!("disk{at}") };
        let name = disk.name.clone().unwrap_or(usual);
        disks.push(DiskSpec { name, size_bytes: disk.size.0, image: None, ..DiskSpec::default() });
    }
    if let (true, Some(facts)) = (disks.is_empty(), facts) {
        let size_bytes = facts.virtual_bytes.max(protocol::vm::DISK_BYTES_MIN);
        disks.push(DiskSpec {
            name: "root".into(),
            size_bytes,
            image: None,
            ..DiskSpec::default()
        });
    }
    if let Some(first) = disks.first_mut() {
        first.image = image.cloned();
    }
    for disk in &mut disks {
        disk.ephemeral = args.ephemeral;
        disk.pool = args.pool.clone();
    }
    disks
}

/// Starts it without a controller.
pub(super) async fn start(
    session: &Session,
    picture: &Picture,
    id: &JobId,
    spec: JobSpec,
    on: Option<HostId>,
    is_waiting: bool,
) -> Result<Code, Failure> {
    let present = picture.job(id).ok();
    if let Some(row) =
        present.filter(|row| row.job.spec.is_alike(&spec) && !row.job.state.is_ended())
    {
        show::line(&format!("{id} is {} on {} already", row.job.state, row.host_name));
        return Ok(Code::Ok);
    }
    let (job, host) = at_hosts(session, picture, id, spec, on).await?;
    if !is_waiting {
        tell(session, &job, &host.name);
        return Ok(Code::Ok);
    }
    let job = await_settled(&session.client, &picture.agent(&host.id), id, START_MS_MAX).await?;
    tell(session, &job, &host.name);
    let has_ended = job.state.is_ended();
    Ok(match job.spec.as_one_off() {
        Some(_) if has_ended => verdict(&job),
        _ if has_ended => Code::Failed,
        _ => Code::Ok,
    })
}

/// Asks the hosts themselves, one after the other, the emptiest first; the one that took it. Does not
/// wait for the start.
pub(crate) async fn at_hosts(
    session: &Session,
    picture: &Picture,
    id: &JobId,
    spec: JobSpec,
    on: Option<HostId>,
) -> Result<(Job, Arc<Host>), Failure> {
    let mut hosts: Vec<_> = picture.view.hosts().map(|(_, row)| &row.host).collect();
    hosts.retain(|host| on.as_ref().is_none_or(|on| host.id == *on));
    hosts.sort_by_key(|host| (std::cmp::Reverse(host.free().memory_bytes), host.id.clone()));
    let revision = picture.job(id).map_or(1, |row| row.job.revision.0 + 1);
    let put = PutJob::of(Revision(revision), spec);
    let mut refused = None;
    for host in hosts {
        let agent = picture.agent(&host.id);
        let path = format!("/v1/jobs/{id}");
        match put_patiently(session, &agent, &path, &put).await {
            Ok(reply) => return Ok((reply.body, Arc::clone(host))),
            Err(error) if error.refusal().is_some_and(|no| no.is_about_this_host()) => {
                refused = Some(error);
            }
            Err(error) => {
                let failure = Failure::from(error);
                return Err(if host.trust_version.is_some() {
                    failure.next(
                        "this host is in a cluster: leave --hosts away, so that the \
                                  controller gets a ticket",
                    )
                } else {
                    failure
                });
            }
        }
    }
    Err(match refused {
        Some(error) => error.into(),
        None => Failure::new(Code::NotFound, "no host to run it on").next("ostler hosts"),
    })
}

/// Comes back when a busy host says so, for as long as a start may take.
async fn put_patiently(
    session: &Session,
    agent: &Endpoint,
    path: &str,
    put: &PutJob,
) -> Result<Reply<Job>, CallError> {
    let clock = Clock::real();
    let deadline_ms = clock.now().mono_ms + START_MS_MAX;
    loop {
        let asked = session.client.send(Method::PUT, agent, path, put).await;
        let busy = asked.as_ref().err().and_then(CallError::refusal);
        match busy {
            Some(Refusal::Busy { retry_after_ms, .. })
                if clock.now().mono_ms + retry_after_ms < deadline_ms =>
            {
                tokio::time::sleep(Duration::from_millis(*retry_after_ms)).await;
            }
            _ => return asked,
        }
    }
}

pub(super) fn tell(session: &Session, job: &protocol::job::Job, host_name: &str) {
    if session.is_json {
        show::json(job);
        return;
    }
    let why = job.reason.as_ref().map_or(String::new(), |reason| format!(" ({reason})"));
    let size = job.resize_words().map_or(String::new(), |words| format!(": {words}"));
    show::line(&format!("{} {} on {host_name}{why}{size}", job.id, job.state));
    show::resize_reasons(job);
}
