//! The sums over all jobs, whatever happens to them in whatever order: a full count gives the same.

use hypervisor::StopReason;
use proptest::prelude::*;
use protocol::api::{ResizeJob, RevertJob};
use protocol::hugepages::{PageSize, Pages};
use protocol::id::SnapshotName;
use protocol::job::{JobKind, OneOff, Pace, ResizeStage};
use protocol::vm::{DiskSpec, NicSpec, OnLoss, Plug, SizeChange};

use super::*;
use crate::core::{HugepagesSeen, Measured};

const JOBS: u8 = 4;
/// Huge pages of the host: enough for three of its jobs.
const PAGES: u64 = 3 * 512;
const MACS: [&str; 2] = ["52:54:00:00:00:01", "52:54:00:00:00:02"];

/// One thing that happens: what, to which job, and how.
type Step = (u8, u8, u8);

fn step() -> impl Strategy<Value = Step> {
    (0..16_u8, 0..JOBS, any::<u8>())
}

fn name(n: u8) -> String {
    format!("web-{n}")
}

/// One of some specs: larger or smaller, with a disk, a card, or a need for cover.
fn any_spec(how: u8) -> JobSpec {
    let root = DiskSpec { name: "root".into(), size_bytes: 1 << 30, ..DiskSpec::default() };
    let nic = NicSpec {
        plug: Plug::Bridge { bridge: "br0".into() },
        model: protocol::vm::NicModel::default(),
        mac: (how & 16 == 0).then(|| MACS[usize::from(how & 1)].to_owned()),
        limit_kib_s: None,
    };
    let mut vm = VmSpec {
        vcpus: 1 + u32::from(how & 1),
        memory_bytes: 1 << 30,
        disks: if how & 2 == 0 { vec![] } else { vec![root] },
        nics: if how & 4 == 0 { vec![] } else { vec![nic] },
        ..VmSpec::default()
    };
    // Not with a card at an address of its own: those are few enough.
    if how & 128 != 0 && how & 4 == 0 {
        vm.hardware.hugepages_kib = Some(2048);
    }
    vm.hardware.dedicated_cpus = how & 17 == 16;
    if how & 32 == 0 {
        return JobSpec::vm(vm);
    }
    let kind = JobKind::OneOff(OneOff { vm, deadline_ms: 60_000, idle_ms: None });
    JobSpec { kind, ..spec(1) }
}

fn with_cover(spec: JobSpec, how: u8) -> JobSpec {
    match spec.kind {
        JobKind::Vm(vm) if how & 8 != 0 && vm.disks.is_empty() => {
            JobSpec::vm(VmSpec { on_loss: OnLoss::Stop, ..vm })
        }
        kind => JobSpec { kind, ..spec },
    }
}

/// How a piece of work ends.
fn any_outcome(work: &Work, job: &JobId, how: u8) -> WorkOutcome {
    let seen = |how: u8| {
        let mut seen = domain(job.as_str(), DomainState::Running);
        seen.resources.vcpus += u32::from(how & 1);
        Box::new(seen)
    };
    let measured = Measured { held_bytes: u64::from(how) << 20, took_bytes: 1 << 28 };
    match (how % 8, work) {
        (0, _) => WorkOutcome::Failed("no".into()),
        (1, _) => WorkOutcome::Unclear("no answer".into()),
        (2, Work::SendVm { .. } | Work::SettleSend) => {
            WorkOutcome::Sent(MigrationOutcome::StillHere { message: "no route".into() })
        }
        (2, Work::TakeOver) => WorkOutcome::NotThere,
        (_, Work::SendVm { .. } | Work::SettleSend) => WorkOutcome::Sent(MigrationOutcome::Gone),
        (_, Work::ReadExit) => WorkOutcome::Exited(Some(0)),
        (_, Work::SnapshotVm { .. }) => WorkOutcome::Snapshotted { taken_ms: 7, measured },
        (_, Work::PrepareIncoming(_)) => {
            WorkOutcome::Listening { url: "https://10.0.0.2:1".into() }
        }
        (how, Work::ResizeVm { .. }) => WorkOutcome::Resized {
            domain: seen(how),
            devices: vec![],
            left: vec![],
            is_giving: how & 2 != 0,
        },
        (how, Work::TakeOut { leaving, .. }) => {
            let kept = leaving.iter().filter(|_| how & 2 != 0).cloned();
            WorkOutcome::TakenOut(kept.map(|leaver| (leaver, "no".into())).collect())
        }
        _ => WorkOutcome::Done,
    }
}

/// What came of a walk, so that one may see that it led somewhere.
#[derive(Debug, Default)]
struct Seen {
    ran: usize,
    resized: usize,
    snapshots: usize,
    moved: usize,
    covered: usize,
    paged: usize,
    dedicated: usize,
    /// A guest that somebody else has started may have found too few.
    is_short: bool,
    clashes: usize,
    deaths: usize,
}

impl Bench {
    /// One step, and the answer if it was a request.
    fn walk(&mut self, (what, which, how): Step, seen: &mut Seen) {
        let job = job_id(&name(which));
        let known = self.agent.job(&job).map(|record| record.job.clone());
        let revision = known.as_ref().map_or(Revision(1), |job| Revision(job.revision.0 + 1));
        let has_trust = self.agent.trust().is_some();
        let snapshot = SnapshotName::new(format!("s{}", how % 2)).unwrap();
        let request = match what {
            0..=2 => {
                let again = known.as_ref().filter(|_| how & 64 == 0);
                let spec = again.map_or_else(|| any_spec(how), |job| JobSpec::clone(&job.spec));
                let spec = if has_trust { with_cover(spec, how) } else { spec };
                let hold = OfferId { epoch: Epoch(1), num: 1 };
                let action = match how % 5 {
                    0 if has_trust => Action::MigrateIn { from: id_of(OTHER), hold },
                    _ => Action::Start,
                };
                let ticket = if has_trust {
                    match self.try_offer(&job, revision, spec.clone(), action) {
                        // Sometimes nobody comes for it.
                        Some(offer) if how % 7 != 0 => Some(granted(offer)),
                        _ => return,
                    }
                } else {
                    None
                };
                let put = PutJob { ticket, ..PutJob::of(revision, spec) };
                Request::Put { job, put }
            }
            3 => Request::Stop { job, stop: StopJob::within(how.into()) },
            4 => {
                let acts = [Act::Pause, Act::Resume, Act::Save, Act::Reset];
                Request::Act { job, act: acts[usize::from(how % 4)] }
            }
            5 => {
                let vcpus = Some(1 + u32::from(how % 3));
                let size = SizeChange { vcpus, ..SizeChange::default() };
                let spec = known.and_then(|job| job.spec.with_size(|now| now.changed(&size)));
                let ticket = spec.filter(|_| has_trust).and_then(|spec| {
                    self.try_offer(&job, revision, spec, Action::Resize).map(granted)
                });
                Request::Resize { job, resize: ResizeJob { revision, size, ticket, run: None } }
            }
            6 => {
                let measured = Measured { held_bytes: 1 << 20, took_bytes: 1 << 21 };
                Request::TakeSnapshot { job, name: snapshot, measured }
            }
            7 if how & 4 == 0 => {
                Request::Revert { job, name: snapshot, revert: RevertJob { revision } }
            }
            7 => Request::DeleteSnapshot { job, name: snapshot },
            8 => Request::Delete { job, run: None, shared: false },
            9 => {
                let to_hold = Some(OfferId { epoch: Epoch(1), num: 9 });
                let url = "https://10.0.0.2:7460".to_owned();
                let migrate =
                    MigrateJob { to: id_of(OTHER), to_hold, url, run: None, pace: Pace::default() };
                Request::Migrate { job, migrate, revision: None }
            }
            10..=12 => {
                if !self.works.is_empty() {
                    let (job, work, what) = self.works.remove(usize::from(how) % self.works.len());
                    let outcome = any_outcome(&what, &job, how / 3);
                    self.feed(Input::Done { job, work, outcome });
                }
                return;
            }
            13 => {
                let states = [
                    DomainState::Running,
                    DomainState::Paused(PauseReason::Migration),
                    DomainState::ShutOff(StopReason::Shutdown),
                    DomainState::ShutOff(StopReason::Crashed),
                ];
                let mut seen = domain(job.as_str(), states[usize::from(how % 4)]);
                seen.resources.vcpus += u32::from(how / 4 % 2);
                let domain = (how < 250).then_some(seen);
                let look = self.look(job.domain_uuid(), true);
                return self.feed(Input::Looked { look, domain });
            }
            14 => {
                self.now.mono_ms += u64::from(how) * 100;
                self.feed(hugepages(how));
                return self.feed(Input::Tick);
            }
            _ if how < 16 => {
                self.die(how < 8);
                seen.deaths += 1;
                return self.feed(Input::Domains(vec![]));
            }
            _ => {
                let hold = known.and_then(|job| job.hold).unwrap_or_default();
                return self.feed(Input::Lost { job, hold });
            }
        };
        self.feed(Input::Request { reply: ReplyId(0), request: Box::new(request) });
        if let Some(Err(Refusal::MacTaken { .. })) = self.replies.pop() {
            seen.clashes += 1;
        }
    }

    fn try_offer(
        &mut self,
        job: &JobId,
        revision: Revision,
        spec: JobSpec,
        action: Action,
    ) -> Option<Signed<Offer>> {
        let ask = OfferRequest { job: job.clone(), revision, spec, action, finds_disks: false };
        let request = Box::new(Request::Offer(ask));
        self.feed(Input::Request { reply: ReplyId(0), request });
        match self.replies.pop()? {
            Ok(Reply::Offered(offered)) => Some(offered.offer),
            _ => None,
        }
    }

    /// Every sum, as it was counted before there was an account.
    fn count(&self, seen: &mut Seen) {
        let agent = &self.agent;
        agent.jobs.audit();
        let jobs: Vec<&Job> = agent.jobs.values().map(|entry| &entry.record.job).collect();
        let offers = agent.offers.open().map(|(_, open)| open.resources);
        let others = agent.observed.values().filter(|d| d.is_active).map(|d| d.takes());
        let promised = jobs.iter().map(|job| job.allocation()).chain(offers).chain(others);
        let promised = promised.fold(Resources::ZERO, Resources::plus);
        assert_eq!(agent.inventory().host.allocation, promised, "no_promise_is_lost_or_made_twice");
        let offers = agent.offers.open().map(|(_, open)| open.pages);
        let pages = jobs.iter().map(|job| job.pages()).chain(offers);
        let pages = pages.fold(Pages::NONE, Pages::plus);
        assert_eq!(agent.pages_without(None, None), pages, "no_page_is_lost_or_promised_twice");
        // None is counted in another life before it is counted anew.
        if let Some(facts) = agent.inventory().host.hugepages.get(&PageSize::MIB2) {
            assert_eq!(facts.promised, pages.mib2, "what_is_told_is_so");
            assert!(pages.mib2 <= PAGES, "no_host_promises_more_pages_than_it_has");
        }
        seen.paged += usize::from(pages.mib2 > 0);
        self.count_cpus(&jobs, seen);
        let is_covered =
            |job: &&&Job| job.hold.is_some() && job.spec.as_vm().unwrap().on_loss == OnLoss::Stop;
        let covered = jobs.iter().filter(is_covered).count();
        assert_eq!(agent.jobs.needs_cover(), covered > 0, "who_needs_cover_is_known");
        for n in 0..JOBS {
            let (id, asked) = (job_id(&name(n)), MACS.map(str::to_owned));
            let without = agent.allocation_without(Some(&id), None, None);
            let kept = agent.job(&id).map_or(0, |record| record.job.snapshot_bytes());
            let held = agent.job(&id).map_or(Resources::ZERO, |record| record.job.allocation());
            let kept = Resources { disk_bytes: kept, ..Resources::ZERO };
            assert_eq!(without, promised.minus(held).plus(kept), "who_asks_is_not_in_its_own_way");
            let mut others = jobs.iter().filter(|job| job.id != id && !job.state.is_ended());
            let taken = others.find_map(|job| {
                let mac = job.spec.macs(&job.id).into_iter().find(|mac| asked.contains(mac))?;
                Some((job.id.clone(), mac))
            });
            let known = agent.jobs.has_mac(&asked, &id);
            let known = known.map(|(job, mac)| (job.clone(), mac.to_owned()));
            assert_eq!(known, taken, "no_address_is_given_twice");
        }
        seen.covered += covered;
        for job in jobs {
            seen.ran += usize::from(job.state == JobState::Running);
            let is_changing = |stage: ResizeStage| stage == ResizeStage::Changing;
            seen.resized += usize::from(job.resize.as_ref().is_some_and(|r| !is_changing(r.stage)));
            seen.snapshots += job.snapshots.len();
            seen.moved += usize::from(matches!(job.reason, Some(Reason::Migrated { .. })));
        }
    }
}

impl Bench {
    fn count_cpus(&self, jobs: &[&Job], seen: &mut Seen) {
        let agent = &self.agent;
        let of_jobs: u32 = jobs.iter().map(|job| job.dedicated_cpus()).sum();
        let of_offers: u32 = agent.offers.open().map(|(_, open)| open.dedicated_cpus).sum();
        let told = agent.inventory().host.dedicated_cpus;
        assert_eq!(told.promised, of_jobs + of_offers, "no_cpu_is_lost_or_promised_twice");
        seen.dedicated += usize::try_from(of_jobs).unwrap();
        seen.is_short |= of_jobs > told.total;
        let mut all = vec![];
        for job in jobs {
            let cpus = &agent.job(&job.id).unwrap().cpus;
            let promised = usize::try_from(job.dedicated_cpus()).unwrap();
            assert!(cpus.len() <= promised, "nobody_has_more_than_is_promised");
            assert!(seen.is_short || cpus.len() == promised, "what_is_promised_is_given");
            let row = self.disk.jobs.iter().find(|row| row.job.id == job.id);
            assert_eq!(row.map(|row| &row.cpus), Some(cpus), "the_next_life_has_the_same");
            all.extend(cpus.iter().copied());
        }
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count, "no_cpu_is_given_twice");
        assert!(all.iter().all(|cpu| self.layout.dedicated.has(*cpu)));
    }
}

/// Eight CPUs on two nodes, of which half are dedicated.
fn layout() -> CpuLayout {
    let set = |text: &str| text.parse().unwrap();
    let nodes = [(0, set("0-4")), (1, set("5-7"))].into();
    CpuLayout { dedicated: set("4-7"), shared: set("0-3"), nodes }
}

/// As many pages as there always are, of which others have now these and now those.
fn hugepages(how: u8) -> Input {
    let seen = HugepagesSeen { total: PAGES, taken: u64::from(how) };
    Input::Hugepages(BTreeMap::from([(PageSize::MIB2, seen)]))
}

fn play(has_trust: bool, steps: &[Step]) -> Seen {
    let mut bench = if has_trust { Bench::trusted(HOST) } else { Bench::lone() };
    bench.layout = layout();
    bench.agent.layout = bench.layout.clone();
    bench.feed(hugepages(0));
    let mut seen = Seen::default();
    for step in steps {
        bench.walk(*step, &mut seen);
        bench.count(&mut seen);
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_happens_the_sums_are_those_of_a_full_count(
        has_trust in any::<bool>(),
        steps in prop::collection::vec(step(), 0..120),
    ) {
        play(has_trust, &steps);
    }
}

/// The property above would hold as well if nothing ever happened.
#[test]
fn such_walks_lead_to_all_that_is_summed() {
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let steps = prop::collection::vec(step(), 240);
    let mut all = Seen::default();
    for n in 0..16 {
        let seen = play(n % 2 == 0, &steps.new_tree(&mut runner).unwrap().current());
        all.ran += seen.ran;
        all.resized += seen.resized;
        all.snapshots += seen.snapshots;
        all.moved += seen.moved;
        all.covered += seen.covered;
        all.paged += seen.paged;
        all.dedicated += seen.dedicated;
        all.clashes += seen.clashes;
        all.deaths += seen.deaths;
    }
    let Seen { ran, resized, snapshots, moved, covered, paged, dedicated, clashes, deaths, .. } =
        all;
    let all_kinds = [ran, resized, snapshots, moved, covered, paged, dedicated, clashes, deaths];
    let least = all_kinds.into_iter().min();
    assert!(least > Some(0), "some of it never happened: {all:?}");
}
