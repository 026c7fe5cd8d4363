//! `ostler top`: what VMs use right now, from two looks at their hosts' counters.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use protocol::host::Host;
use protocol::id::{HostId, JobId};
use protocol::resources::Bytes;
use protocol::usage::{GuestUsage, Usage};
use serde_json::json;

use crate::cli::TopArgs;
use crate::exit::{Code, Failure};
use crate::picture::{Picture, chain};
use crate::session::Session;
use crate::show;

/// Hosts asked at a time.
const ASKED_AT_ONCE: usize = 64;
/// How long one may take.
const ASK_PATIENCE: Duration = Duration::from_secs(6);

/// What one VM has used between two looks.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
struct Use {
    name: String,
    host: String,
    /// CPUs that it kept busy.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpus: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<u64>,
    /// Bytes a second.
    disk_read: u64,
    disk_written: u64,
    received: u64,
    sent: u64,
}

/// What all guests of a host have used between two looks; scripts get it, and the page.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
struct HostUse {
    id: HostId,
    name: String,
    /// CPUs of the machine; agents of before do not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpus: Option<u32>,
    /// Of which guests kept so many busy, those included that are no jobs.
    busy_cpus: f64,
}

pub(crate) async fn run(session: &Session, args: TopArgs) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    for name in &args.names {
        picture.job(name)?;
    }
    let before = look(session, &picture, true).await;
    // A host reads its counters once a second at most.
    tokio::time::sleep(Duration::from_millis(args.over.0.max(1_000))).await;
    let after = look(session, &picture, false).await;
    let is_meant = |one: &Use| match args.names.is_empty() {
        true => true,
        false => args.names.iter().any(|name| name.as_str() == one.name),
    };
    let mut uses: Vec<Use> = Vec::new();
    let mut hosts: Vec<HostUse> = Vec::new();
    for (id, (host, after)) in &after {
        let Some((_, before)) = before.get(id) else { continue };
        hosts.extend(of_host(host, before, after));
        uses.extend(between(&host.name, before, after).into_iter().filter(is_meant));
    }
    uses.sort_by(|a, b| b.cpus.unwrap_or(0.0).total_cmp(&a.cpus.unwrap_or(0.0)));
    if session.is_json {
        show::json_pretty(&json!({ "vms": uses, "hosts": hosts, "warnings": picture.warnings }));
        return Ok(Code::Ok);
    }
    let header = ["NAME", "HOST", "CPU", "MEMORY", "READ/s", "WRITTEN/s", "RECEIVED/s", "SENT/s"];
    show::table(header, uses.iter().map(cells).collect());
    Ok(Code::Ok)
}

/// What every host says that its guests have used.
pub(crate) async fn look(
    session: &Session,
    picture: &Picture,
    warns: bool,
) -> BTreeMap<HostId, (Host, Usage)> {
    let hosts: Vec<Host> = picture.hosts().into_iter().map(|row| row.host).collect();
    let asked = stream::iter(hosts).map(|host| async move {
        let client = session.client.with_deadline(ASK_PATIENCE);
        let answer = client.get::<Usage>(&picture.agent(&host.id), "/v1/usage").await;
        (host, answer)
    });
    let answers: Vec<_> = asked.buffered(ASKED_AT_ONCE).collect().await;
    let mut usage = BTreeMap::new();
    for (host, answer) in answers {
        match answer {
            Ok(answer) => drop(usage.insert(host.id.clone(), (host, answer))),
            Err(error) if warns => {
                show::note(&format!("warning: {} does not say: {}", host.name, chain(&error)));
            }
            Err(_) => {}
        }
    }
    usage
}

/// The jobs whose process was there at both looks. Domains that are no job's have no name here.
fn between(host: &str, before: &Usage, after: &Usage) -> Vec<Use> {
    let elapsed_ms = after.at_ms.saturating_sub(before.at_ms);
    if elapsed_ms == 0 {
        return Vec::new();
    }
    let was = |job: &JobId| before.guests.iter().find(|guest| guest.job.as_ref() == Some(job));
    let uses = after.guests.iter().filter_map(|now| {
        let job = now.job.as_ref()?;
        Some(of_guest(host, job, was(job)?, now, elapsed_ms))
    });
    uses.collect()
}

/// Guests that have come or gone meanwhile are left out. `None`: the two looks are one.
fn of_host(host: &Host, before: &Usage, after: &Usage) -> Option<HostUse> {
    let elapsed_ms = after.at_ms.checked_sub(before.at_ms).filter(|ms| *ms > 0)?;
    let was = |name: &str| before.guests.iter().find(|guest| guest.name == name)?.cpu_ns;
    let busy = after.guests.iter().filter_map(|now| now.cpu_ns?.checked_sub(was(&now.name)?));
    let busy = Duration::from_nanos(busy.sum()).as_secs_f64();
    Some(HostUse {
        id: host.id.clone(),
        name: host.name.clone(),
        cpus: after.machine.cpus,
        busy_cpus: busy / Duration::from_millis(elapsed_ms).as_secs_f64(),
    })
}

fn of_guest(host: &str, job: &JobId, was: &GuestUsage, now: &GuestUsage, elapsed_ms: u64) -> Use {
    // A guest that was started anew meanwhile has counted from zero.
    let rate = |read: fn(&GuestUsage) -> u64| {
        read(now).saturating_sub(read(was)).saturating_mul(1_000) / elapsed_ms
    };
    let busy_ns = now.cpu_ns.zip(was.cpu_ns).map(|(now, was)| now.saturating_sub(was));
    let elapsed = Duration::from_millis(elapsed_ms).as_secs_f64();
    Use {
        name: job.to_string(),
        host: host.to_owned(),
        cpus: busy_ns.map(|ns| Duration::from_nanos(ns).as_secs_f64() / elapsed),
        memory_bytes: now.memory_bytes,
        disk_read: rate(|guest| guest.disks.iter().map(|disk| disk.read_bytes).sum()),
        disk_written: rate(|guest| guest.disks.iter().map(|disk| disk.written_bytes).sum()),
        received: rate(|guest| guest.nics.iter().map(|nic| nic.received_bytes).sum()),
        sent: rate(|guest| guest.nics.iter().map(|nic| nic.sent_bytes).sum()),
    }
}

fn cells(one: &Use) -> [String; 8] {
    let Use { name, host, cpus, memory_bytes, disk_read, disk_written, received, sent } = one;
    let known = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    [
        name.clone(),
        host.clone(),
        known(cpus.map(|cpus| format!("{:.0}%", cpus * 100.0))),
        known(memory_bytes.map(|bytes| Bytes(bytes).to_string())),
        Bytes(*disk_read).to_string(),
        Bytes(*disk_written).to_string(),
        Bytes(*received).to_string(),
        Bytes(*sent).to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use protocol::usage::{DiskUsage, MachineUsage};

    use super::*;

    fn usage(at_ms: u64, cpu_ns: u64, read_bytes: u64) -> Usage {
        let disk = DiskUsage { device: "vda".into(), read_bytes, ..DiskUsage::default() };
        let guest = GuestUsage {
            name: "web-1".to_owned(),
            job: Some("web-1".parse().unwrap()),
            cpu_ns: Some(cpu_ns),
            disks: vec![disk],
            ..GuestUsage::default()
        };
        let machine = MachineUsage { cpus: None, memory_available_bytes: 0, load_1m: 0.0 };
        Usage { at_ms, machine, guests: vec![guest] }
    }

    #[test]
    fn rates_are_between_two_looks() {
        let uses =
            between("h1", &usage(1_000, 500_000_000, 100), &usage(3_000, 3_500_000_000, 4_100));
        let [one] = &uses[..] else { panic!("{uses:?}") };
        assert_eq!((one.cpus, one.disk_read, one.memory_bytes), (Some(1.5), 2_000, None));
        assert_eq!(&cells(one)[..4], ["web-1", "h1", "150%", "-"]);
    }

    #[test]
    fn a_guest_that_was_started_anew_has_used_nothing_yet_and_the_same_look_twice_tells_nothing() {
        let uses = between("h1", &usage(1_000, 9_000, 100), &usage(2_000, 10, 0));
        assert_eq!((uses[0].cpus, uses[0].disk_read), (Some(0.0), 0));
        assert_eq!(between("h1", &usage(1_000, 1, 1), &usage(1_000, 1, 1)), []);
    }

    #[test]
    fn a_host_is_as_busy_as_its_guests_that_were_there_at_both_looks() {
        let host = Host::of_key(protocol::signed::SecretKey::from_seed([1; 32]).public());
        let mut after = usage(3_000, 3_500_000_000, 0);
        let other = GuestUsage { name: "new".to_owned(), cpu_ns: Some(9), ..GuestUsage::default() };
        after.guests.push(other);
        let before = usage(1_000, 500_000_000, 0);
        let known = of_host(&host, &before, &after).unwrap();
        assert_eq!((known.busy_cpus, known.cpus), (1.5, None));
        assert_eq!(of_host(&host, &before, &before), None);
    }
}
