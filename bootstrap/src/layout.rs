//! Which of Ostler's own roles runs on which host.
//!
//! Pure and deterministic: hosts are taken in the order of their ids, so two operators who run
//! bootstrap at once ask for the same. What runs already stays where it is; what ended is started
//! again where its data is; only what is nowhere gets a new place.

use std::collections::BTreeMap;

use protocol::id::{HostId, JobId, Revision};
use protocol::job::{Job, JobKind, JobState, Role};
use protocol::trust::{Seat, Trust, Witnesses};

/// How many processes of each role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Arbiters: 1, 3 or 5; an even number tolerates no more losses than one less, where nobody may lie.
    pub arbiters: u32,
    /// Monitors.
    pub monitors: u32,
    /// Controllers.
    pub controllers: u32,
    /// Witnesses that a new cluster begins with: none, 1, 3 or 5 (or [`Witnesses::of_use`]), each on a host without an arbiter. Later they
    /// are those of the trust document.
    pub witnesses: u32,
    /// How many arbiters, and how many witnesses, may lie without harm in a new cluster. Later the trust document
    /// says so.
    pub liars: u32,
}

impl Layout {
    /// What a cluster of this many hosts starts with.
    #[must_use]
    pub fn of_hosts(hosts: usize) -> Self {
        let monitors = if hosts > 1 { 2 } else { 1 };
        Self { arbiters: 1, monitors, controllers: 1, witnesses: 0, liars: 0 }
    }

    /// Whether those who don't lie are a quorum by themselves, so that a new cluster goes on whatever the others say.
    fn check_numbers(&self) -> Result<(), LayoutError> {
        let (liars, need) = (self.liars, self.liars.saturating_mul(3).saturating_add(1));
        let who = [("arbiters", self.arbiters), ("witnesses", self.witnesses)];
        let mut few = who.into_iter().filter(|(who, count)| *who == "arbiters" || *count > 0);
        match few.find(|(_, count)| liars > 0 && *count < need) {
            Some((who, count)) => Err(LayoutError::TooManyLiars { liars, who, count, need }),
            None if self.witnesses > 0 && !Witnesses::is_of_use(self.witnesses, liars) => {
                Err(LayoutError::WitnessesOfNoUse { witnesses: self.witnesses, liars })
            }
            None => Ok(()),
        }
    }

    /// The roles in the order in which they are started, with their numbers.
    #[must_use]
    pub fn roles(&self) -> [(Role, u32); 3] {
        [
            (Role::Arbiter, self.arbiters),
            (Role::Monitor, self.monitors),
            (Role::Controller, self.controllers),
        ]
    }

    /// The same with the witnesses, who are a trust document's once there is one.
    #[must_use]
    pub fn roles_by(&self, trust: Option<&Trust>) -> Vec<(Role, u32)> {
        let named = trust.map(|trust| u32::try_from(witnesses(trust).len()).unwrap_or(u32::MAX));
        let witnesses = named.unwrap_or(self.witnesses);
        let roles = self.roles().into_iter();
        roles.chain((witnesses > 0).then_some((Role::Witness, witnesses))).collect()
    }
}

/// The slots of all who are witnesses or are to be.
fn witnesses(trust: &Trust) -> Vec<u32> {
    let seats = trust.seats().into_iter();
    seats.filter(|(seat, _)| *seat == Seat::Witness).map(|(_, slot)| slot.slot).collect()
}

/// One process and where it belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The service job.
    pub job: JobId,
    /// What it does.
    pub role: Role,
    /// Its number within the role; an arbiter's slot.
    pub index: u32,
    /// Where.
    pub host: HostId,
    /// What is to be done about it.
    pub act: Act,
}

/// What a placement asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Nothing: it runs, or is on its way.
    Keep,
    /// PUT the job with this revision.
    Put(Revision),
}

/// Why there is no placement. Nothing was asked of any host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// There is nothing to place on.
    #[error("no host to place services on")]
    NoHosts,
    /// An arbiter that the trust document names is on none of the hosts that answer. Another in its
    /// place would know nothing of what the lost one granted.
    #[error("arbiter {slot} ({url}) is on none of the hosts that answer")]
    ArbiterLost {
        /// Its slot.
        slot: u32,
        /// Where it used to answer.
        url: String,
    },
    /// Witnesses on hosts of arbiters are lost with these.
    #[error(
        "{witnesses} witnesses need hosts without arbiters, and there are {free}: bring more hosts, or ask for fewer \
         witnesses"
    )]
    NoPlaceForWitnesses {
        /// How many were asked for.
        witnesses: u32,
        /// Hosts without an arbiter.
        free: usize,
    },
    /// One less would bear as many losses.
    #[error("{witnesses} witnesses: {} are of use", Witnesses::of_use(*liars))]
    WitnessesOfNoUse {
        /// How many were asked for.
        witnesses: u32,
        /// How many may lie.
        liars: u32,
    },
    /// Those who don't lie would be no quorum.
    #[error("{liars} that may lie need {need} {who} at least, and {count} are asked for")]
    TooManyLiars {
        /// How many may lie.
        liars: u32,
        /// Of whom.
        who: &'static str,
        /// How many of them are asked for.
        count: u32,
        /// How many there have to be.
        need: u32,
    },
}

/// The name of a service job.
///
/// # Panics
/// Never: roles and numbers always make a valid name.
#[must_use]
pub fn service_job(role: Role, index: u32) -> JobId {
    JobId::new(format!("ostler-{role}-{index}")).expect("roles are lower-case words")
}

/// Decides the place of every service of the layout, and of those that run beyond it.
pub fn place(
    layout: Layout,
    trust: Option<&Trust>,
    hosts: &BTreeMap<HostId, Vec<Job>>,
) -> Result<Vec<Placement>, LayoutError> {
    if trust.is_none() {
        layout.check_numbers()?;
    }
    let mut load: BTreeMap<&HostId, u32> = hosts.keys().map(|host| (host, 0)).collect();
    let mut placements = Vec::new();
    let mut homeless = Vec::new();
    for (role, wanted) in layout.roles_by(trust) {
        let indexes = match (role, trust) {
            // Who is an arbiter or a witness is a matter of trust, not of the layout.
            (Role::Arbiter, Some(trust)) => {
                trust.members().iter().map(|arbiter| arbiter.slot).collect()
            }
            (Role::Witness, Some(trust)) => witnesses(trust),
            // No slot is in both committees.
            (Role::Witness, None) => (layout.arbiters..).take(wanted as usize).collect(),
            _ => (0..wanted.max(count_alive(role, hosts))).collect::<Vec<u32>>(),
        };
        for index in indexes {
            let job = service_job(role, index);
            let Some((host, present)) = best_present(&job, trust, hosts) else {
                // Another in the place of a witness that is lost would have another key, and be none.
                if role != Role::Witness || trust.is_none() {
                    homeless.push((role, index, job));
                }
                continue;
            };
            *load.entry(host).or_default() += 1;
            let (host, act) = (host.clone(), act_on(present));
            placements.push(Placement { job, role, index, host, act });
        }
    }
    for (role, index, job) in homeless {
        if let Some(lost) = lost_arbiter(role, index, trust) {
            return Err(lost);
        }
        let host = match role {
            Role::Witness => {
                apart(&placements, &load).ok_or_else(|| no_place(layout, &placements, hosts))?
            }
            _ => least(load.iter()).ok_or(LayoutError::NoHosts)?,
        };
        *load.entry(host).or_default() += 1;
        let (host, act) = (host.clone(), Act::Put(Revision(1)));
        placements.push(Placement { job, role, index, host, act });
    }
    placements.sort_by_key(|placement| (start_order(placement.role), placement.index));
    Ok(placements)
}

/// The host with the least to do.
fn least<'a, 'b: 'a>(load: impl Iterator<Item = (&'a &'b HostId, &'a u32)>) -> Option<&'b HostId> {
    load.min_by_key(|(host, load)| (**load, **host)).map(|(host, _)| *host)
}

/// The same of those that have neither an arbiter nor a witness.
fn apart<'b>(placements: &[Placement], load: &BTreeMap<&'b HostId, u32>) -> Option<&'b HostId> {
    let is_free = |host: &HostId| {
        let there = placements.iter().filter(|placement| placement.host == *host);
        !there.into_iter().any(|p| matches!(p.role, Role::Arbiter | Role::Witness))
    };
    least(load.iter().filter(|(host, _)| is_free(host)))
}

fn no_place(
    layout: Layout,
    placements: &[Placement],
    hosts: &BTreeMap<HostId, Vec<Job>>,
) -> LayoutError {
    let has_arbiter =
        |host: &HostId| placements.iter().any(|p| p.role == Role::Arbiter && p.host == *host);
    let free = hosts.keys().filter(|host| !has_arbiter(host)).count();
    LayoutError::NoPlaceForWitnesses { witnesses: layout.witnesses, free }
}

/// Arbiters first, then those who watch, then those who act.
fn start_order(role: Role) -> u16 {
    match role {
        Role::Arbiter => 0,
        Role::Monitor => 1,
        Role::Controller => 2,
        Role::Witness => 3,
        Role::Operator | Role::Host | Role::User | Role::Reader | Role::Scraper => 4,
    }
}

/// The port of a service, given the first of the cluster's ports: each role has ten of its own, so
/// that several services fit on one host and a port survives a change of layout.
#[must_use]
pub fn port_of(role: Role, index: u32, base: u16) -> u16 {
    let index = u16::try_from(index).unwrap_or(u16::MAX);
    base.saturating_add(10 * start_order(role)).saturating_add(index)
}

fn lost_arbiter(role: Role, index: u32, trust: Option<&Trust>) -> Option<LayoutError> {
    let members = trust?.members();
    let slot = members.into_iter().find(|a| role == Role::Arbiter && a.slot == index)?;
    Some(LayoutError::ArbiterLost { slot: slot.slot, url: slot.url })
}

/// One more than the highest number of this role that is alive anywhere: a smaller layout given
/// later stops nothing.
fn count_alive(role: Role, hosts: &BTreeMap<HostId, Vec<Job>>) -> u32 {
    let prefix = format!("ostler-{role}-");
    hosts
        .values()
        .flatten()
        .filter(|job| is_service(job, role) && !job.state.is_ended())
        .filter_map(|job| job.id.as_str().strip_prefix(&prefix)?.parse::<u32>().ok())
        .max()
        .map_or(0, |highest| highest.saturating_add(1))
}

fn is_service(job: &Job, role: Role) -> bool {
    matches!(&job.spec.kind, JobKind::Service(service) if service.role == role)
}

/// Where the job is, if anywhere. On several hosts (one was away when bootstrap ran before) the one
/// that the trust document knows wins, then the one that is alive, then the first.
fn best_present<'a>(
    job: &JobId,
    trust: Option<&Trust>,
    hosts: &'a BTreeMap<HostId, Vec<Job>>,
) -> Option<(&'a HostId, &'a Job)> {
    let is_trusted = |job: &Job| {
        job.endpoint.as_ref().is_some_and(|e| trust.is_some_and(|t| t.role_of(&e.key).is_some()))
    };
    // An arbiter that has another key is another arbiter, whatever its name.
    let is_stranger = |job: &Job| {
        (is_service(job, Role::Arbiter) || is_service(job, Role::Witness))
            && trust.is_some()
            && job.endpoint.is_some()
            && !is_trusted(job)
    };
    hosts
        .iter()
        .flat_map(|(host, jobs)| jobs.iter().map(move |job| (host, job)))
        // A VM of that name is nobody's service.
        .filter(|(_, present)| present.id == *job && present.spec.as_vm().is_none())
        .filter(|(_, present)| !is_stranger(present))
        .min_by_key(|(host, job)| (!is_trusted(job), job.state.is_ended(), *host))
}

fn act_on(present: &Job) -> Act {
    if present.state.is_ended() || present.state == JobState::Stopping {
        Act::Put(Revision(present.revision.0 + 1))
    } else {
        Act::Keep
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use protocol::job::{JobSpec, ServiceEndpoint, ServiceSpec};
    use protocol::signed::SecretKey;

    use super::*;

    const LAYOUT: Layout =
        Layout { arbiters: 1, monitors: 2, controllers: 1, witnesses: 0, liars: 0 };

    pub(crate) fn service(role: Role, index: u32, state: JobState, seed: u8) -> Job {
        let service = ServiceSpec { role, port: 0, discovery: vec![] };
        let kind = JobKind::Service(service);
        let spec = JobSpec { kind, ..JobSpec::vm(tiny_vm()) };
        let key = SecretKey::from_seed([seed; 32]).public();
        Job {
            revision: Revision(3),
            endpoint: Some(ServiceEndpoint { url: format!("https://10.0.0.9:{seed}"), key }.into()),
            ..Job::of(service_job(role, index), spec, state)
        }
    }

    fn tiny_vm() -> protocol::vm::VmSpec {
        protocol::vm::VmSpec { vcpus: 1, memory_bytes: 16 << 20, ..protocol::vm::VmSpec::default() }
    }

    fn bare(names: &[&str]) -> BTreeMap<HostId, Vec<Job>> {
        names.iter().map(|name| (HostId::new(*name).unwrap(), vec![])).collect()
    }

    fn rows(placements: &[Placement]) -> Vec<(&str, &str)> {
        placements.iter().map(|p| (p.job.as_str(), p.host.as_str())).collect()
    }

    #[test]
    fn bare_hosts_share_the_roles_in_the_order_of_their_ids() {
        let placements = place(LAYOUT, None, &bare(&["hc", "ha", "hb"])).unwrap();
        let expected = [
            ("ostler-arbiter-0", "ha"),
            ("ostler-monitor-0", "hb"),
            ("ostler-monitor-1", "hc"),
            ("ostler-controller-0", "ha"),
        ];
        assert_eq!(rows(&placements), expected);
        let put_first = Act::Put(Revision(1));
        assert!(placements.iter().all(|placement| placement.act == put_first));
    }

    #[test]
    fn a_new_cluster_has_its_witnesses_where_no_arbiter_is() {
        let layout = Layout { arbiters: 3, monitors: 1, witnesses: 3, ..LAYOUT };
        let six = bare(&["ha", "hb", "hc", "hd", "he", "hf"]);
        let placements = place(layout, None, &six).unwrap();
        let at = |role: Role| -> Vec<(u32, &str)> {
            let of_role = placements.iter().filter(|p| p.role == role);
            of_role.map(|p| (p.index, p.host.as_str())).collect()
        };
        assert_eq!(at(Role::Arbiter), [(0, "ha"), (1, "hb"), (2, "hc")]);
        assert_eq!(at(Role::Witness), [(3, "hf"), (4, "hd"), (5, "he")], "the least to do first");
        let five = bare(&["ha", "hb", "hc", "hd", "he"]);
        let none = Err(LayoutError::NoPlaceForWitnesses { witnesses: 3, free: 2 });
        assert_eq!(place(layout, None, &five), none);
    }

    #[test]
    fn those_who_do_not_lie_are_a_quorum_by_themselves() {
        let five = bare(&["ha", "hb", "hc", "hd", "he"]);
        let with = |arbiters, witnesses| Layout { arbiters, witnesses, liars: 1, ..LAYOUT };
        let few = place(with(3, 0), None, &five).unwrap_err();
        assert_eq!(few.to_string(), "1 that may lie need 4 arbiters at least, and 3 are asked for");
        assert!(place(with(4, 0), None, &five).is_ok());
        let few = place(with(4, 3), None, &five).unwrap_err();
        assert_eq!(
            few.to_string(),
            "1 that may lie need 4 witnesses at least, and 3 are asked for"
        );
        let odd = place(with(4, 5), None, &five).unwrap_err();
        assert_eq!(odd.to_string(), "5 witnesses: 4, 6 or 8 are of use");
    }

    #[test]
    fn one_host_carries_everything() {
        let placements = place(Layout::of_hosts(1), None, &bare(&["ha"])).unwrap();
        assert_eq!(placements.len(), 3);
        assert_eq!(place(LAYOUT, None, &bare(&[])), Err(LayoutError::NoHosts));
    }

    #[test]
    fn what_runs_stays_and_what_ended_starts_again_where_its_data_is() {
        let mut hosts = bare(&["ha", "hb", "hc"]);
        let at = |name: &str| HostId::new(name).unwrap();
        let arbiter = service(Role::Arbiter, 0, JobState::Crashed, 1);
        hosts.get_mut(&at("hc")).unwrap().push(arbiter);
        let monitor = service(Role::Monitor, 1, JobState::Running, 2);
        hosts.get_mut(&at("ha")).unwrap().push(monitor);
        let placements = place(LAYOUT, None, &hosts).unwrap();
        let expected = [
            ("ostler-arbiter-0", "hc"),
            ("ostler-monitor-0", "hb"),
            ("ostler-monitor-1", "ha"),
            ("ostler-controller-0", "ha"),
        ];
        assert_eq!(rows(&placements), expected);
        assert_eq!(placements[0].act, Act::Put(Revision(4)));
        assert_eq!(placements[2].act, Act::Keep);
    }

    #[test]
    fn a_smaller_layout_given_later_stops_nothing() {
        let mut hosts = bare(&["ha"]);
        let monitor = service(Role::Monitor, 4, JobState::Running, 2);
        hosts.values_mut().next().unwrap().push(monitor);
        let placements = place(LAYOUT, None, &hosts).unwrap();
        let monitor = service_job(Role::Monitor, 4);
        assert!(placements.iter().any(|p| p.job == monitor && p.act == Act::Keep));
    }

    #[test]
    fn arbiters_are_those_of_the_trust_document_whatever_their_number() {
        let mut hosts = bare(&["ha", "hb"]);
        let mut trust = crate::charter::tests::trust_of_arbiter("https://10.0.0.7:7461");
        let known = service(Role::Arbiter, 3, JobState::Running, 7);
        trust.arbiters[0].slot = 3;
        trust.arbiters[0].key = known.endpoint.as_ref().unwrap().key;
        hosts.get_mut(&HostId::new("hb").unwrap()).unwrap().push(known);
        let more = Layout { arbiters: 3, ..LAYOUT };
        let placements = place(more, Some(&trust), &hosts).unwrap();
        let arbiters = placements.iter().filter(|p| p.role == Role::Arbiter);
        let arbiters: Vec<_> = arbiters.map(|p| (p.job.as_str(), p.act)).collect();
        assert_eq!(arbiters, [("ostler-arbiter-3", Act::Keep)]);
        // One of that name and another key is not it.
        let stranger = service(Role::Arbiter, 3, JobState::Running, 8);
        hosts.get_mut(&HostId::new("hb").unwrap()).unwrap()[0] = stranger;
        let lost = place(more, Some(&trust), &hosts).unwrap_err();
        assert!(matches!(lost, LayoutError::ArbiterLost { slot: 3, .. }));
    }

    #[test]
    fn a_lost_arbiter_is_never_replaced_silently() {
        let trust = crate::charter::tests::trust_of_arbiter("https://10.0.0.7:7461");
        let lost = place(LAYOUT, Some(&trust), &bare(&["ha", "hb"])).unwrap_err();
        assert_eq!(lost, LayoutError::ArbiterLost { slot: 0, url: "https://10.0.0.7:7461".into() });
    }

    #[test]
    fn of_two_copies_of_a_service_the_trusted_one_counts() {
        let mut hosts = bare(&["ha", "hb"]);
        let stray = service(Role::Arbiter, 0, JobState::Running, 8);
        let known = service(Role::Arbiter, 0, JobState::Running, 7);
        let mut trust = crate::charter::tests::trust_of_arbiter("https://10.0.0.7:7461");
        trust.arbiters[0].key = known.endpoint.as_ref().unwrap().key;
        hosts.get_mut(&HostId::new("ha").unwrap()).unwrap().push(stray);
        hosts.get_mut(&HostId::new("hb").unwrap()).unwrap().push(known);
        let placements = place(LAYOUT, Some(&trust), &hosts).unwrap();
        assert_eq!(rows(&placements)[0], ("ostler-arbiter-0", "hb"));
    }
}
