//! A change of arbiters, step by step; each looks first, so that the same command goes on after any end.
//!
//! ```text
//!   start the new ones ─▶ sign: these, then those ─▶ every host agrees, a quorum of those is ready
//!                                                        │
//!                  end the former ones ◀─ every host obeys ◀─ sign: those
//! ```
//!
//! Nothing is stopped on the way, and whatever may start before may start meanwhile. What the documents
//! say is `bootstrap::committee`'s.

use std::collections::BTreeSet;
use std::time::Duration;

use bootstrap::committee::{
    Candidate, Change, ChangeError, Found, begun, check_quorums, choose_host, completed, former,
    gone_on, is_member, left_over, number_above, taken_back,
};
use bootstrap::layout::service_job;
use futures_util::future::join_all;
use protocol::api::{HandoverReply, Health, PutJob, StopJob};
use protocol::host::Host;
use protocol::id::{HostId, Revision, TenantId};
use protocol::job::{Job, JobKind, JobSpec, JobState, Role, ServiceSpec};
use protocol::signed::Signed;
use protocol::trust::{Seat, Slot, Trust, quorum};
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::time::Instant;
use transport::discovery::Source;
use transport::{Endpoint, Method};

use super::{PATIENCE, arbiters_on, endpoint, everywhere, waiting};
use crate::cli::{ArbitersCommand, ChangeArgs};
use crate::exit::{Code, Failure};
use crate::govern::{Authority, Untold};
use crate::picture::Picture;
use crate::session::Session;
use crate::show;

/// How often what is waited for is looked at.
const POLL: Duration = Duration::from_millis(250);
/// How often a host that has not taken a document is given it again.
const GIVE_AGAIN: Duration = Duration::from_secs(2);
/// How long a service may take to answer, or to end.
const SERVICE_MAX: Duration = Duration::from_secs(30);

/// What the person wants.
struct Wanted {
    /// Who leaves, as they are called.
    leaves: Vec<String>,
    /// Where new ones go: so many, on these hosts if they are named.
    joins: Vec<Option<String>>,
}

/// A change under way.
pub(super) struct Work<'a> {
    pub(super) session: &'a Session,
    pub(super) authority: Authority,
    pub(super) picture: Picture,
    pub(super) there: Vec<Found>,
    /// The hosts that answer, by their own word and not by a view's.
    heard: BTreeSet<HostId>,
    until: Instant,
}

/// `replace`, `add`, `remove`, `resume`.
pub(super) async fn run(session: &Session, command: ArbitersCommand) -> Result<Code, Failure> {
    let (wanted, how) = match command {
        ArbitersCommand::Replace { old, with, how } => {
            (Some(Wanted { leaves: vec![old], joins: vec![with] }), how)
        }
        ArbitersCommand::Add { on, how } => {
            let joins = on.into_iter().map(Some).collect();
            (Some(Wanted { leaves: vec![], joins }), how)
        }
        ArbitersCommand::Remove { old, how } => (Some(Wanted { leaves: old, joins: vec![] }), how),
        ArbitersCommand::Resume { how } => (None, how),
        ArbitersCommand::Recover { .. } | ArbitersCommand::Cancel => {
            unreachable!("it has a way of its own")
        }
    };
    let mut work = Work::begin(session, &how).await?;
    let mut is_changed = false;
    work.go_on_with_bound(how.dry_run).await?;
    if let Some(wanted) = wanted
        && !work.is_so_already(&wanted)?
    {
        work.check_none_under_way()?;
        let (leaves, places) = work.plan(&wanted)?;
        work.tell_plan(&leaves, &places)?;
        if how.dry_run {
            return Ok(Code::Ok);
        }
        work.check_obeyed(&[]).await?;
        let joins = work.start_all(&places).await?;
        let next = begun(&work.authority.trust, &Change { leaves, joins }).map_err(refused)?;
        check_quorums(&next, &work.answering(&next).await).map_err(refused)?;
        work.decree(next).await?;
        is_changed = true;
    } else if how.dry_run {
        show::note("nothing would be changed but what is under way");
        return Ok(Code::Ok);
    }
    let (goes_on, ended) = work.finish().await?;
    is_changed |= goes_on;
    work.conclude(is_changed, &ended);
    Ok(Code::Ok)
}

/// `cancel`.
pub(super) async fn cancel(session: &Session) -> Result<Code, Failure> {
    let how = ChangeArgs { dry_run: false, timeout: crate::cli::Ms(60_000) };
    let mut work = Work::begin(session, &how).await?;
    let Some(back) = taken_back(&work.authority.trust) else {
        show::note("no change of arbiters is under way");
        return Ok(Code::Ok);
    };
    // A host that has agreed refuses it, and would be alone with what it has agreed to.
    if let Some(who) = work.any_agreed().await {
        let what = format!("{who} has agreed to the change already, and others may count on it");
        return Err(Failure::new(Code::Refused, what).next("ostler arbiters resume"));
    }
    work.decree(back).await?;
    show::note(&format!(
        "the arbiters are as before, by trust version {}; what was started for the change runs on: \
         `ostler arbiters add` takes it",
        work.authority.trust.version
    ));
    Ok(Code::Ok)
}

pub(super) fn refused(error: ChangeError) -> Failure {
    let next = match &error {
        ChangeError::NoSuchSlot { .. } => "ostler arbiters",
        ChangeError::TooFewForLiars { .. } => "ostler arbiters add HOST, or replace",
        ChangeError::Last { .. } => "ostler arbiters replace, which puts another in its place",
        ChangeError::NoQuorum { .. } => {
            "ostler arbiters tells which are silent and why; those in force that are lost for good: \
             ostler arbiters recover; witnesses that are lost: ostler witnesses set, or none"
        }
        ChangeError::NotLost { .. } => {
            "ostler arbiters replace, for each that is lost; ostler arbiters resume, if this was done \
             already"
        }
    };
    Failure::new(Code::Refused, error.to_string()).next(next)
}

impl<'a> Work<'a> {
    pub(super) async fn begin(session: &'a Session, how: &ChangeArgs) -> Result<Self, Failure> {
        let picture = session.picture().await?;
        picture.warn();
        let authority = Authority::newest(session, &picture).await?;
        let there = everywhere(&picture);
        let heard = heard(session, &picture).await;
        let until = Instant::now() + Duration::from_millis(how.timeout.0);
        Ok(Self { session, authority, picture, there, heard, until })
    }

    pub(super) fn name(&self, host: &HostId) -> String {
        let row = self.picture.view.host(host);
        row.map_or_else(|| host.short().to_owned(), |row| row.host.name.clone())
    }

    /// A change that was taken back, or put aside for another, goes on when a host had agreed to it all the
    /// same.
    pub(super) async fn go_on_with_bound(&mut self, is_dry_run: bool) -> Result<(), Failure> {
        match self.bound_change().await? {
            Some(next) if !is_dry_run => self.decree(next).await,
            Some(_) | None => Ok(()),
        }
    }

    /// The document that goes on with a change which was taken back or put aside, and of which the person is
    /// told: a host that had agreed to it follows nothing else, and others may have counted on it.
    pub(super) async fn bound_change(&self) -> Result<Option<Trust>, Failure> {
        let Some((name, theirs)) = self.bound().await else { return Ok(None) };
        let Some(next) = gone_on(&self.authority.trust, &theirs) else { return Ok(None) };
        if let Some(other) = self.any_agreed().await {
            let what =
                format!("{name} has agreed to one change of arbiters, and {other} to another");
            return Err(Failure::new(Code::Refused, what)
                .next(format!("neither can be completed: retire {name} or {other}")));
        }
        let was = match self.authority.trust.succession.next {
            Some(_) => "put aside for another",
            None => "taken back",
        };
        show::note(&format!("{name} has agreed to a change that was {was}: it goes on"));
        Ok(Some(next))
    }

    /// A host that has agreed to a change other than the one under way, with its document.
    async fn bound(&self) -> Option<(String, Trust)> {
        for row in &self.picture.rows {
            let (client, path) = (&self.session.client, "/v1/config/trust");
            let Ok(signed) = client.get::<Option<Signed<Trust>>>(&row.agent, path).await else {
                continue;
            };
            let Some(trust) = signed.and_then(|signed| signed.open().ok()) else { continue };
            let is_old =
                trust.change().is_some() && trust.change() != self.authority.trust.change();
            if is_old && self.agreed_at(&row.agent).await == trust.change().map(|c| c.to_string()) {
                return Some((self.name(&row.host), trust));
            }
        }
        None
    }

    /// The change that a host says it has agreed to.
    async fn agreed_at(&self, agent: &Endpoint) -> Option<String> {
        let said = self.session.client.get::<serde_json::Value>(agent, "/v1/offers").await.ok()?;
        Some(said.get("agreed")?.as_str()?.to_owned())
    }

    // What is wanted.

    /// The slot that a person means by its number or by its host.
    fn slot_of(&self, text: &str) -> Result<u32, Failure> {
        if let Ok(slot) = text.parse() {
            return Ok(slot);
        }
        let host = &self.picture.host(text)?.host;
        let members = self.authority.trust.members();
        let on_it = self.there.iter().filter(|found| found.host == host.id);
        let slots: Vec<u32> = members
            .iter()
            .filter(|slot| on_it.clone().any(|found| is_member(found, slot)))
            .map(|slot| slot.slot)
            .collect();
        match slots.as_slice() {
            [slot] => Ok(*slot),
            [] => Err(Failure::new(Code::NotFound, format!("no arbiter is on {}", host.name))
                .next("ostler arbiters")),
            several => Err(Failure::usage(format!("{} has arbiters {several:?}", host.name))
                .next("name the slot")),
        }
    }

    /// Whether somebody asks again for what was done or is under way: who is to leave leaves, and the
    /// hosts that are named have one.
    fn is_so_already(&self, wanted: &Wanted) -> Result<bool, Failure> {
        let trust = &self.authority.trust;
        let last = trust.next_committee().unwrap_or(trust.committee());
        for text in &wanted.leaves {
            let slot = self.slot_of(text)?;
            let mut seats = trust.seats().into_iter();
            let is_witness = seats.any(|(seat, one)| seat == Seat::Witness && one.slot == slot);
            let was_one = trust.committee().has(slot) || slot < number_above(trust, &self.there);
            if is_witness || last.has(slot) || !was_one {
                return Ok(false);
            }
        }
        let has_one = |host: &HostId| {
            let mut on_it = self.there.iter().filter(|found| found.host == *host);
            on_it.any(|found| last.members.iter().any(|member| is_member(found, member)))
        };
        for text in wanted.joins.iter().flatten() {
            if !has_one(&self.picture.host(text)?.host.id) {
                return Ok(false);
            }
        }
        Ok(!wanted.leaves.is_empty() || !wanted.joins.is_empty())
    }

    pub(super) fn check_none_under_way(&self) -> Result<(), Failure> {
        let Some(next) = &self.authority.trust.succession.next else { return Ok(()) };
        let slots: Vec<String> = next.arbiters.iter().map(|a| a.slot.to_string()).collect();
        let what = format!("another change is under way, to arbiters {}", slots.join(", "));
        Err(Failure::new(Code::Refused, what)
            .next("ostler arbiters resume; or cancel, while no host has agreed to it"))
    }

    /// Nothing begins while a host obeys an older document: if that names a change which was taken back,
    /// the host may agree to it yet, and two changes that hosts are bound to can't be completed. `off` are the
    /// names of hosts that are retired with the change.
    pub(super) async fn check_obeyed(&self, off: &[&str]) -> Result<(), Failure> {
        let untold = self.authority.give_again(self.session, &self.picture).await?;
        let mut untold = untold.into_iter().filter(|untold| !off.contains(&untold.host.as_str()));
        let Some(Untold { host, why, .. }) = untold.next() else { return Ok(()) };
        let version = self.authority.trust.version;
        let what = format!("{host} does not take trust version {version}: {why}");
        Err(Failure::new(Code::Refused, what).next(format!(
            "ostler doctor; or, if {host} is off for good, ostler retire {host} --is-off"
        )))
    }

    /// Who leaves, and which hosts get one.
    fn plan(&self, wanted: &Wanted) -> Result<(BTreeSet<u32>, Vec<Place>), Failure> {
        let trust = &self.authority.trust;
        let leaves: Result<BTreeSet<u32>, Failure> =
            wanted.leaves.iter().map(|text| self.slot_of(text)).collect();
        let leaves = leaves?;
        let mut taken: BTreeSet<HostId> = BTreeSet::new();
        for member in trust.arbiters.iter().filter(|member| !leaves.contains(&member.slot)) {
            let found = self.there.iter().find(|found| is_member(found, member));
            taken.extend(found.map(|found| found.host.clone()));
        }
        let mut number = number_above(trust, &self.there);
        let mut left_over = left_over(trust, &self.there);
        let mut places = Vec::new();
        for with in &wanted.joins {
            let unused = left_over.take();
            let host = match (with, unused) {
                (Some(text), _) => self.fit(text, &taken)?,
                (None, Some(found)) if !taken.contains(&found.host) => {
                    self.fit(found.host.as_str(), &taken)?
                }
                (None, _) => self.choose(&taken, &leaves)?,
            };
            let again = unused.filter(|found| found.host == host.id);
            let index = again.map_or(number, |found| found.index);
            number = number.max(index + 1);
            taken.insert(host.id.clone());
            places.push(Place { host, seat: Seat::Arbiter, index, is_there: again.is_some() });
        }
        let joins = places.iter().map(|place| place.stand_in()).collect();
        begun(trust, &Change { leaves: leaves.clone(), joins }).map_err(refused)?;
        Ok((leaves, places))
    }

    /// A host that the person has named.
    pub(super) fn fit(&self, text: &str, taken: &BTreeSet<HostId>) -> Result<Host, Failure> {
        let host = self.picture.host(text)?.host.as_ref().clone();
        let refuse =
            |what: String, next: &str| Err(Failure::new(Code::Refused, what).next(next.to_owned()));
        if !self.authority.trust.roster.contains(&host.key) {
            return refuse(format!("{} is not on the roster", host.name), "ostler bootstrap");
        }
        if taken.contains(&host.id) {
            let what = format!("{} has an arbiter already: with it two would be lost", host.name);
            return refuse(what, "name another host");
        }
        if !self.is_heard(&host.id) {
            let what = format!("{} is not heard", host.name);
            return refuse(what, "name another host");
        }
        Ok(host)
    }

    pub(super) fn is_heard(&self, host: &HostId) -> bool {
        self.heard.contains(host)
    }

    /// Every host, with what speaks for and against an arbiter there.
    pub(super) fn candidates(&self) -> Vec<Candidate<'_>> {
        self.picture
            .view
            .hosts()
            .map(|(id, row)| {
                let services = row.jobs.values().filter(|job| job.spec.as_vm().is_none());
                let services = services.filter(|job| !job.state.is_ended()).count();
                Candidate { host: &row.host, services, is_heard: self.is_heard(id) }
            })
            .collect()
    }

    fn choose(&self, taken: &BTreeSet<HostId>, leaves: &BTreeSet<u32>) -> Result<Host, Failure> {
        // Where one leaves that is well, another would be no gain.
        let mut occupied = taken.clone();
        for member in self.authority.trust.arbiters.iter().filter(|m| leaves.contains(&m.slot)) {
            let found = self.there.iter().find(|found| is_member(found, member));
            occupied.extend(found.map(|found| found.host.clone()));
        }
        let chosen = choose_host(&self.authority.trust, &self.candidates(), &occupied).cloned();
        chosen.ok_or_else(|| {
            let what = "no host that is heard and not drained is without an arbiter";
            Failure::new(Code::Refused, what).next(
                "have another host join with `ostler bootstrap`, after `ostler arbiters remove` if the \
                 one that leaves does not answer; or name with --with the host that it leaves, which \
                 gives it another key",
            )
        })
    }

    /// What will be done, and whether it can come to its end.
    fn tell_plan(&self, leaves: &BTreeSet<u32>, places: &[Place]) -> Result<(), Failure> {
        self.tell_members(leaves, places);
        self.check_all_heard()
    }

    /// A change is complete when every host has agreed to it.
    pub(super) fn check_all_heard(&self) -> Result<(), Failure> {
        let roster = self.authority.trust.roster_by_host();
        let silent = roster.into_keys().filter(|host| !self.is_heard(host));
        let silent: Vec<String> = silent.map(|host| self.name(&host)).collect();
        if let [first, ..] = silent.as_slice() {
            let what = format!(
                "{} not heard: a change of arbiters is complete when every host has agreed to it, \
                 and until then one arbiter less may be lost",
                match silent.as_slice() {
                    [one] => format!("{one} is"),
                    several => format!("{} are", several.join(", ")),
                }
            );
            return Err(Failure::new(Code::Refused, what).next(format!(
                "bring {first} back; or, if it is off for good, `ostler retire {first} --is-off` first"
            )));
        }
        Ok(())
    }

    /// Who leaves and who comes.
    pub(super) fn tell_members(&self, leaves: &BTreeSet<u32>, places: &[Place]) {
        for slot in leaves {
            show::note(&format!("arbiter {slot} leaves"));
        }
        for Place { host, index, .. } in places {
            show::note(&format!("arbiter {index} comes, on {}", host.name));
        }
        let trust = &self.authority.trust;
        let n = trust.arbiters.len() - leaves.len() + places.len();
        let k = quorum(u32::try_from(n).unwrap_or(u32::MAX), trust.f);
        show::note(&format!("then a ticket needs {k} of {n}"));
    }

    // Doing it.

    async fn start_all(&mut self, places: &[Place]) -> Result<Vec<Slot>, Failure> {
        let present = self.answering(&self.authority.trust).await;
        check_quorums(&self.authority.trust, &present).map_err(refused)?;
        let mut joins = Vec::new();
        for place in places {
            joins.push(self.start(place).await?);
        }
        Ok(joins)
    }

    /// The members that answer, by slot.
    pub(super) async fn answering(&self, trust: &Trust) -> BTreeSet<u32> {
        let client = &self.session.client.with_patience(PATIENCE);
        let asked = trust.seats().into_iter().map(|(_, slot)| async move {
            let health = client.get::<Health>(&endpoint(&slot), "/v1/health").await;
            health.is_ok().then_some(slot.slot)
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    pub(super) async fn start(&self, place: &Place) -> Result<Slot, Failure> {
        let Place { host, seat, index, .. } = place;
        let job = service_job(Role::from(*seat), *index);
        let agent = self.picture.agent(&host.id);
        let path = format!("/v1/jobs/{job}");
        if !place.is_there {
            let kind = JobKind::Service(self.service(*seat, *index));
            let tenant = TenantId::default_tenant();
            let spec = JobSpec { kind, tenant, labels: std::collections::BTreeMap::new() };
            let put = PutJob::of(Revision(1), spec);
            self.session.client.send::<_, Job>(Method::PUT, &agent, &path, &put).await?;
        }
        let deadline = Instant::now() + SERVICE_MAX;
        while Instant::now() < deadline {
            let found: Job = self.session.client.get(&agent, &path).await?;
            if let (JobState::Running, Some(endpoint)) = (found.state, found.endpoint) {
                show::note(&format!("{job} answers on {} at {}", host.name, endpoint.url));
                return Ok(Slot { slot: *index, key: endpoint.key, url: endpoint.url.clone() });
            }
            tokio::time::sleep(POLL).await;
        }
        let what = format!("{job} on {} does not answer after {SERVICE_MAX:?}", host.name);
        Err(Failure::new(Code::Unreachable, what).next(format!("ostler log {job}")))
    }

    /// As the others were started, those of lost hosts among them. Where nobody remembers one, it looks for hosts
    /// where this person does, and its host chooses the port.
    fn service(&self, seat: Seat, index: u32) -> ServiceSpec {
        let last = arbiters_on(&self.picture, |_| true);
        let like = self.there.first().or(last.first()).map(|found| {
            let port = found.service.port;
            let number = u16::try_from(found.index).unwrap_or(0);
            let base = if port == 0 { 0 } else { port.saturating_sub(number) };
            (base, found.service.discovery.clone())
        });
        let known = || (0, self.session.sources.iter().map(Source::to_verify).collect());
        let (base, discovery) = like.unwrap_or_else(known);
        let number = u16::try_from(index).unwrap_or(0);
        // Ten ports a role: beyond them the host chooses.
        let port = if base == 0 || number >= 10 { 0 } else { base.saturating_add(number) };
        ServiceSpec { role: Role::from(seat), port, discovery }
    }

    pub(super) async fn decree(&mut self, next: Trust) -> Result<(), Failure> {
        self.authority.decree(self.session, &self.picture, next.clone()).await?;
        self.authority.trust = next;
        Ok(())
    }

    /// Completes what is under way, if anything is, and ends who has left: whether there was a change, and who
    /// was ended.
    pub(super) async fn finish(&mut self) -> Result<(bool, Vec<u32>), Failure> {
        let goes_on = self.authority.trust.succession.next.is_some();
        if goes_on {
            self.complete().await?;
        }
        Ok((goes_on, self.end_former().await?))
    }

    /// Waits until every host has agreed and a quorum of those who take over is ready; then they do.
    pub(super) async fn complete(&mut self) -> Result<(), Failure> {
        let begin = Instant::now();
        let mut given: Option<Instant> = None;
        let mut silent: Vec<Untold> = Vec::new();
        let mut said = BTreeSet::new();
        loop {
            if given.is_none_or(|at| at.elapsed() >= GIVE_AGAIN) {
                silent = self.authority.give_again(self.session, &self.picture).await?;
                given = Some(Instant::now());
            }
            let words = self.words().await;
            if let Ok(next) = completed(&self.authority.trust, &words) {
                show::note(&format!(
                    "every host has agreed after {:.1} s",
                    begin.elapsed().as_secs_f64()
                ));
                return self.decree(next).await;
            }
            let mut waits = waiting(self.session, &self.authority.trust, &self.picture).await;
            let untold = silent
                .iter()
                .map(|Untold { host, why, .. }| format!("{host} to take the document: {why}"));
            waits.extend(untold);
            if Instant::now() >= self.until {
                return Err(self.not_yet(begin.elapsed(), &waits));
            }
            // The same in other words is no news.
            let gist = |what: &String| what.split(':').next().map(str::to_owned);
            let gist: BTreeSet<String> = waits.iter().filter_map(gist).collect();
            if gist != said {
                said = gist;
                let seconds = begin.elapsed().as_secs();
                waits
                    .iter()
                    .for_each(|what| show::note(&format!("{seconds:>4} s  waits for {what}")));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn words(&self) -> Vec<Signed<protocol::trust::Ready>> {
        let next = self.authority.trust.succession.next.iter().flat_map(|n| n.arbiters.clone());
        let client = &self.session.client.with_patience(PATIENCE);
        let asked = next.map(|slot| async move {
            let path = "/v1/handover";
            client.get::<HandoverReply>(&endpoint(&slot), path).await.ok()?.ready
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    fn not_yet(&self, after: Duration, waits: &[String]) -> Failure {
        let what = format!(
            "the change is not complete after {} s; it waits for\n  - {}",
            after.as_secs(),
            waits.join("\n  - ")
        );
        Failure::new(Code::Unreachable, what).next(
            "ostler arbiters resume, once that is mended; a host that is off for good: ostler retire. \
             Everything runs on and may start meanwhile",
        )
    }

    /// Who has agreed to the change under way, if anybody has been heard to.
    pub(super) async fn any_agreed(&self) -> Option<String> {
        let change = self.authority.trust.change()?.to_string();
        for row in &self.picture.rows {
            if self.agreed_at(&row.agent).await.as_ref() == Some(&change) {
                return Some(self.name(&row.host));
            }
        }
        None
    }

    /// Ends the services of those who are arbiters no more, once every host has heard that they are
    /// not: until then they cover what runs there.
    pub(super) async fn end_former(&mut self) -> Result<Vec<u32>, Failure> {
        self.picture = self.session.picture().await?;
        self.there = everywhere(&self.picture);
        let trust = self.authority.trust.clone();
        let leave: Vec<Found> = former(&trust, &self.there).cloned().collect();
        if leave.is_empty() || trust.succession.next.is_some() {
            return Ok(vec![]);
        }
        loop {
            let silent = self.authority.give_again(self.session, &self.picture).await?;
            if silent.is_empty() {
                break;
            }
            if Instant::now() >= self.until {
                let line = |Untold { host, why, .. }: &Untold| format!("{host}: {why}");
                let list: Vec<_> = silent.iter().map(line).collect();
                let what = format!(
                    "the arbiters are changed; those who left go on covering until these hosts have \
                     heard of it\n  - {}",
                    list.join("\n  - ")
                );
                return Err(Failure::new(Code::Unreachable, what).next("ostler arbiters resume"));
            }
            tokio::time::sleep(GIVE_AGAIN).await;
        }
        let mut ended = Vec::new();
        for found in leave {
            self.end(&found).await?;
            ended.push(found.index);
        }
        Ok(ended)
    }

    async fn end(&self, found: &Found) -> Result<(), Failure> {
        let job = service_job(Role::from(found.seat), found.index);
        let agent = self.picture.agent(&found.host);
        let path = format!("/v1/jobs/{job}");
        if found.is_alive {
            let stop = StopJob::within(5_000);
            let stop_path = format!("{path}/stop");
            self.session.client.send::<_, Job>(Method::POST, &agent, &stop_path, &stop).await?;
        }
        let deadline = Instant::now() + SERVICE_MAX;
        loop {
            let sent = self.session.client.send::<_, Option<IgnoredAny>>(
                Method::DELETE,
                &agent,
                &path,
                &(),
            );
            match sent.await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= deadline => return Err(error.into()),
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    pub(super) fn conclude(&self, is_changed: bool, ended: &[u32]) {
        let trust = &self.authority.trust;
        let slots: Vec<u32> = trust.arbiters.iter().map(|arbiter| arbiter.slot).collect();
        if self.session.is_json {
            show::json_pretty(&json!({ "arbiters": slots, "k": trust.k, "ended": ended,
                "trust_version": trust.version, "is_changed": is_changed }));
            return;
        }
        let list: Vec<String> = slots.iter().map(ToString::to_string).collect();
        let (list, n, k, version) = (list.join(", "), slots.len(), trust.k, trust.version);
        let how = if is_changed { "" } else { " already" };
        show::note(&format!(
            "the arbiters are {list}{how}, by trust version {version}: a ticket needs {k} of {n}"
        ));
    }
}

/// Asks each host itself: a view shows who has just died as well.
async fn heard(session: &Session, picture: &Picture) -> BTreeSet<HostId> {
    let client = session.client.with_patience(PATIENCE);
    let asked = picture.rows.iter().map(|row| {
        let client = &client;
        async move {
            let health = client.get::<Health>(&row.agent, "/v1/health").await;
            health.is_ok().then(|| row.host.clone())
        }
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// Where a new arbiter or witness goes.
pub(super) struct Place {
    pub(super) host: Host,
    /// As what.
    pub(super) seat: Seat,
    /// Its number, which becomes its slot.
    pub(super) index: u32,
    /// It runs there already, from a change that was interrupted.
    pub(super) is_there: bool,
}

impl Place {
    /// The arbiter as if it ran, to see what the change would come to.
    pub(super) fn stand_in(&self) -> Slot {
        Slot { slot: self.index, key: self.host.key, url: String::new() }
    }
}
