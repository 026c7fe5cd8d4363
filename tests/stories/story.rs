//! A story: its lines read, planned and judged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use planner::case::{Verdict, Wanted, case, verdict};
use planner::{Heard, Intent, Outcome, PlanInput, State, Step, Terms, audit, plan};
use protocol::cpus::DedicatedCpus;
use protocol::host::Inventory;
use protocol::hugepages::{Pages, with_promised};
use protocol::id::{HostId, JobId, TenantId};
use protocol::job::JobState;
use protocol::trust::{Pattern, VmMax};
use protocol::used::HostUse;
use protocol::view::{Freshness, View};
use protocol::vm::VmSpec;
use serde_json::{Value, json};

use crate::world;

/// A story as it was read.
#[derive(Debug)]
pub(crate) struct Story {
    pub(crate) name: String,
    hosts: BTreeMap<String, Inventory>,
    heard: BTreeMap<HostId, Heard>,
    wanted: Wanted,
    /// Names that lines may speak of.
    vms: BTreeSet<String>,
    asserts: Vec<Vec<String>>,
}

impl Story {
    /// The stories of one file, each beginning with `story NAME`.
    pub(crate) fn all_of(file: &str, text: &str) -> Vec<Result<Self, String>> {
        let mut all: Vec<(String, Vec<&str>)> = Vec::new();
        for line in text.lines().map(str::trim) {
            match line.strip_prefix("story ") {
                Some(name) => all.push((name.to_owned(), vec![])),
                None if line.is_empty() || line.starts_with('#') => {}
                None => match all.last_mut() {
                    Some((_, lines)) => lines.push(line),
                    None => return vec![Err(format!("{file} does not begin with a story"))],
                },
            }
        }
        all.into_iter().map(|(name, lines)| Self::read(name, &lines)).collect()
    }

    fn read(name: String, lines: &[&str]) -> Result<Self, String> {
        let wanted: Wanted = serde_json::from_value(json!({})).map_err(|e| e.to_string())?;
        let mut story = Self {
            name,
            hosts: BTreeMap::new(),
            heard: BTreeMap::new(),
            wanted,
            vms: BTreeSet::new(),
            asserts: vec![],
        };
        for line in lines {
            // An event is a fact like any other; the word is for the reader.
            let line = line.strip_prefix("event ").unwrap_or(line);
            let words: Vec<&str> = line.split_whitespace().collect();
            story.take(&words).map_err(|error| format!("{error} in {line:?}"))?;
        }
        if story.asserts.is_empty() {
            return Err("asserts nothing".to_owned());
        }
        Ok(story)
    }

    fn take(&mut self, words: &[&str]) -> Result<(), String> {
        match words {
            ["host", name, rest @ ..] => self.host(name, rest),
            ["vm", name, "on", host, rest @ ..] => self.vm(name, host, rest),
            ["expect", rest @ ..] => self.expect(rest),
            [intent @ ("drain" | "retire" | "off" | "asleep"), host] => {
                self.known_host(host)?;
                let intent = match *intent {
                    "drain" => Intent::Drain,
                    "retire" => Intent::Retire,
                    "asleep" => Intent::Asleep,
                    _ => Intent::Off,
                };
                self.wanted.intents.insert((*host).to_owned(), intent);
                Ok(())
            }
            ["device", host] => {
                self.known_host(host)?;
                self.wanted.may_sleep.push((*host).to_owned());
                Ok(())
            }
            ["terms", lapse, rest @ ..] => {
                let fenced_after_ms = match rest {
                    [] => None,
                    ["fenced", "after", silence] => Some(world::millis(silence)?),
                    [word, ..] => return Err(format!("unknown word {word}")),
                };
                let lapse_ms = world::millis(lapse)?;
                self.wanted.terms = Some(Terms { lapse_ms, fenced_after_ms });
                Ok(())
            }
            ["power", "is", "only", "told"] => {
                self.wanted.limits.savings_max = 0;
                Ok(())
            }
            [how @ ("lost" | "stale"), host] => {
                let id = self.known_host(host)?;
                let (freshness, age_ms) = match *how {
                    "lost" => (Freshness::Lost, 20_000),
                    _ => (Freshness::Stale, 6_000),
                };
                self.heard.insert(id, Heard { freshness, age_ms });
                Ok(())
            }
            ["relabel", host, label] => {
                let (key, value) = label.split_once('=').ok_or("write KEY=VALUE")?;
                let inventory = self.hosts.get_mut(*host).ok_or(format!("no host {host}"))?;
                inventory.host.labels.insert(key.to_owned(), value.to_owned());
                Ok(())
            }
            ["relabel", host, pool, label] => {
                let (key, value) = label.split_once('=').ok_or("write KEY=VALUE")?;
                let inventory = self.hosts.get_mut(*host).ok_or(format!("no host {host}"))?;
                let mut pools = inventory.host.pools.iter_mut();
                let of_name = pools.find(|(name, _)| name.as_str() == *pool);
                let (_, facts) = of_name.ok_or(format!("no pool {pool} on {host}"))?;
                facts.labels.insert(key.to_owned(), value.to_owned());
                Ok(())
            }
            ["shrinks", host, size] => {
                let inventory = self.hosts.get_mut(*host).ok_or(format!("no host {host}"))?;
                inventory.host.capacity.memory_bytes = world::bytes(size)?;
                Ok(())
            }
            ["policy", tenant, rule, rest @ ..] => self.policy(tenant, rule, rest),
            ["place", policy] => {
                let policy = serde_json::from_value(json!(policy)).map_err(|e| e.to_string())?;
                self.wanted.placement = policy;
                Ok(())
            }
            ["without", "making", "room"] => {
                self.wanted.limits.may_make_room = false;
                Ok(())
            }
            ["room", "for", level, "only"] => {
                let level = serde_json::from_value(json!(level)).map_err(|e| e.to_string())?;
                self.wanted.limits.room_level = level;
                Ok(())
            }
            ["without", "waking", "hosts"] => {
                self.wanted.limits.wakes_for = None;
                Ok(())
            }
            ["wake", "for", level, "only"] => {
                let level = serde_json::from_value(json!(level)).map_err(|e| e.to_string())?;
                self.wanted.limits.wakes_for = Some(level);
                Ok(())
            }
            ["without", "preempting"] => {
                self.wanted.limits.preempts_for = None;
                Ok(())
            }
            ["balance", "is", "only", "told"] => {
                self.wanted.limits.shifts_max = 0;
                Ok(())
            }
            ["balancing", "was", "begun"] => {
                self.wanted.limits.shifts_begun = true;
                Ok(())
            }
            ["then" | "never", _, ..] => {
                self.asserts.push(words.iter().map(|word| (*word).to_owned()).collect());
                Ok(())
            }
            [word, ..] => Err(format!("unknown word {word}")),
            [] => Ok(()),
        }
    }

    /// A rule of a tenant's, or of `default`.
    fn policy(&mut self, tenant: &str, rule: &str, words: &[&str]) -> Result<(), String> {
        let policy = Arc::make_mut(&mut self.wanted.policy);
        let rules = match tenant {
            "default" => policy.default.get_or_insert_default(),
            tenant => {
                let tenant = TenantId::new(tenant).map_err(|e| e.to_string())?;
                policy.tenants.entry(tenant).or_default()
            }
        };
        let patterns = || Some(words.iter().map(|&word| Pattern(word.to_owned())).collect());
        match rule {
            "vm_max" => {
                let mut vm_max = VmMax::default();
                for word in words {
                    match word.strip_suffix("cpus").map(str::parse) {
                        Some(Ok(count)) => vm_max.vcpus = Some(count),
                        Some(Err(_)) => return Err(format!("unknown word {word}")),
                        None => vm_max.memory_bytes = Some(world::bytes(word)?),
                    }
                }
                rules.vm_max = Some(vm_max);
            }
            "images" => rules.images = patterns(),
            "networks" => rules.networks = patterns(),
            "host_labels" => {
                for word in words {
                    let (key, value) = word.split_once('=').ok_or("write KEY=VALUE")?;
                    rules.host_labels.insert(key.to_owned(), value.to_owned());
                }
            }
            _ => return Err(format!("unknown word {rule}")),
        }
        policy.validate().map_err(|error| error.to_string())
    }

    fn host(&mut self, name: &str, words: &[&str]) -> Result<(), String> {
        let (size, words) = words.split_first().ok_or("a host needs its memory")?;
        let mut inventory = world::host(name, world::bytes(size)?)?;
        let (mut others_cpu_millis, mut is_measured) = (0, true);
        for word in words {
            if let Some(used) = word.strip_prefix("others=") {
                others_cpu_millis = world::cpu_millis(used)?;
            } else if let Some(words) = word.strip_prefix("hugepages=") {
                let (size, facts) = world::hugepages(words)?;
                inventory.host.hugepages.insert(size, facts);
            } else if let Some(count) = word.strip_prefix("dedicated=") {
                let total = count.parse().map_err(|_| format!("unknown word {word}"))?;
                inventory.host.dedicated_cpus = DedicatedCpus { total, promised: 0 };
            } else if *word == "unmeasured" {
                is_measured = false;
            } else if let Some(count) = word.strip_suffix("cpus") {
                let count = count.parse().map_err(|_| format!("unknown word {word}"))?;
                inventory.host.capacity.vcpus = count;
            } else if let Some(size) = word.strip_prefix("disk=") {
                inventory.host.capacity.disk_bytes = world::bytes(size)?;
            } else if let Some(image) = word.strip_prefix("image=") {
                let (image, facts) = world::image(image)?;
                inventory.host.images.insert(image, facts);
            } else if let Some((kind @ ("pool" | "shared"), words)) = word.split_once('=') {
                let (pool, facts) = world::pool(name, words, kind == "shared")?;
                inventory.host.pools.insert(pool, facts);
            } else if *word == "cannot-receive" {
                inventory.host.hypervisor.can_receive = false;
            } else if let Some((key, value)) = word.split_once('=') {
                inventory.host.labels.insert(key.to_owned(), value.to_owned());
            } else {
                return Err(format!("unknown word {word}"));
            }
        }
        if is_measured {
            let cpus = inventory.host.capacity.vcpus;
            let used = HostUse { cpus, others_cpu_millis };
            self.wanted.used.hosts.insert(name.to_owned(), used);
        }
        self.hosts.insert(name.to_owned(), inventory);
        Ok(())
    }

    fn vm(&mut self, name: &str, host: &str, words: &[&str]) -> Result<(), String> {
        let states = [
            ("starting", JobState::Starting),
            ("running", JobState::Running),
            ("paused", JobState::Paused),
            ("stopping", JobState::Stopping),
            ("stopped", JobState::Stopped),
            ("crashed", JobState::Crashed),
        ];
        let state = |word: &str| states.iter().find(|(known, _)| *known == word).map(|(_, s)| *s);
        let (states, words): (Vec<&str>, Vec<&str>) =
            words.iter().partition(|word| state(word).is_some());
        let state = states.first().and_then(|word| state(word)).unwrap_or(JobState::Running);
        let is_use = |word: &&str| word.starts_with("uses=") || word.starts_with("watched=");
        let (uses, words): (Vec<&str>, Vec<&str>) = words.into_iter().partition(is_use);
        if let Some(used) = world::vm_use(&uses)? {
            self.wanted.used.vms.insert(JobId::new(name).map_err(|e| e.to_string())?, used);
        }
        let job = world::job(name, world::spec(&words)?, state)?;
        let booked = job.spec.as_vm().map(VmSpec::bytes_by_pool).unwrap_or_default();
        for (pool, bytes) in booked {
            let pools = &self.hosts.get(host).ok_or(format!("no host {host}"))?.host.pools;
            let id = pools.get(pool).ok_or(format!("no pool {pool} on {host}"))?.id;
            let all = self.hosts.values_mut().flat_map(|one| one.host.pools.values_mut());
            for facts in all.filter(|facts| facts.id == id) {
                facts.promised_bytes += bytes;
            }
        }
        let inventory = self.hosts.get_mut(host).ok_or(format!("no host {host}"))?;
        inventory.host.allocation = inventory.host.allocation.plus(job.allocation());
        let promised = Pages::promised(&inventory.host.hugepages).plus(job.pages());
        inventory.host.hugepages = with_promised(&inventory.host.hugepages, promised);
        inventory.host.dedicated_cpus.promised += job.dedicated_cpus();
        inventory.jobs.push(job);
        self.vms.insert(name.to_owned());
        Ok(())
    }

    fn expect(&mut self, words: &[&str]) -> Result<(), String> {
        let (level, words) = match words {
            [level @ ("must" | "should" | "wish"), rest @ ..] => (*level, rest),
            rest => ("must", rest),
        };
        let list = |jobs: &[&str]| -> Vec<String> { jobs.iter().map(|&j| j.to_owned()).collect() };
        let mut value = match words {
            ["runs", job, rest @ ..] => {
                let (on, rest) = match rest {
                    ["on", host, rest @ ..] => (Some(self.known_host(host)?), rest),
                    rest => (None, rest),
                };
                let known = self.vms.contains(*job);
                self.vms.insert((*job).to_owned());
                let mut value = json!({ "expect": "runs", "job": job, "on": on });
                if !(known && rest.is_empty()) {
                    value["spec"] = json!(world::spec(rest)?);
                }
                value
            }
            ["runs_on", job, host] => {
                json!({ "expect": "runs_on", "job": self.known_vm(job)?, "on": self.known_host(host)? })
            }
            ["has_size", job, words @ ..] => {
                let mut size = json!({});
                for word in words {
                    let spec = world::spec(&[word])?;
                    let vm = spec.as_vm().ok_or("write 2GiB or 4cpus")?;
                    match word.ends_with("cpus") {
                        true => size["vcpus"] = json!(vm.vcpus),
                        false => size["memory_bytes"] = json!(vm.memory_bytes),
                    }
                }
                json!({ "expect": "has_size", "job": self.known_vm(job)?, "size": size })
            }
            ["restart_within", job, within] => {
                let within_s = world::millis(within)? / 1_000;
                json!({ "expect": "restart_within", "job": self.known_vm(job)?, "within_s": within_s })
            }
            [kind @ ("is_stopped" | "absent" | "no_migration"), job] => {
                json!({ "expect": kind, "job": self.known_vm(job)? })
            }
            ["host_label", job, label] => {
                let (key, value) = label.split_once('=').ok_or("write KEY=VALUE")?;
                let job = self.known_vm(job)?;
                json!({ "expect": "host_label", "job": job, "key": key, "value": value })
            }
            ["host_arch", job, arch] => {
                json!({ "expect": "host_arch", "job": self.known_vm(job)?, "arch": arch })
            }
            ["host_at_least", job, key, number] => {
                let number: u64 = number.parse().map_err(|_| format!("unknown word {number}"))?;
                let job = self.known_vm(job)?;
                json!({ "expect": "host_at_least", "job": job, "key": key, "number": number })
            }
            ["cpu_features", job, features @ ..] => {
                let job = self.known_vm(job)?;
                json!({ "expect": "cpu_features", "job": job, "features": list(features) })
            }
            [kind @ ("same_host" | "not_same_host" | "not_same_storage"), jobs @ ..] => {
                for job in jobs {
                    self.known_vm(job)?;
                }
                json!({ "expect": kind, "jobs": list(jobs) })
            }
            ["storage_class", job, label] => {
                let (key, value) = label.split_once('=').ok_or("write KEY=VALUE")?;
                let job = self.known_vm(job)?;
                json!({ "expect": "storage_class", "job": job, "key": key, "value": value })
            }
            ["storage_copies", job, copies, rest @ ..] => {
                let number =
                    |word: &str| word.parse::<u32>().map_err(|_| format!("unknown word {word}"));
                let boxes = match rest {
                    [] => 1,
                    ["over", boxes] => number(boxes)?,
                    [word, ..] => return Err(format!("unknown word {word}")),
                };
                let (job, copies) = (self.known_vm(job)?, number(copies)?);
                json!({ "expect": "storage_copies", "job": job, "copies": copies, "boxes": boxes })
            }
            ["spread_over", domain, max, jobs @ ..] => {
                for job in jobs {
                    self.known_vm(job)?;
                }
                let max: u32 = max.parse().map_err(|_| format!("unknown word {max}"))?;
                let domain = (*domain != "host").then_some(*domain);
                let jobs = list(jobs);
                json!({ "expect": "spread_over", "jobs": jobs, "domain": domain, "per_domain_max": max })
            }
            ["group", name, count, rest @ ..] => {
                let count: u32 = count.parse().map_err(|_| format!("unknown word {count}"))?;
                self.vms.extend((1..=count).map(|n| format!("{name}-{n}")));
                let (spread, rest) = match rest {
                    [rest @ .., "apart"] => (json!({}), rest),
                    [rest @ .., "apart", level @ ("should" | "wish")] => {
                        (json!({ "level": level }), rest)
                    }
                    [rest @ .., "per", domain] => (json!({ "domain": domain }), rest),
                    rest => (Value::Null, rest),
                };
                let spec = world::spec(rest)?;
                json!({ "expect": "group", "name": name, "count": count, "spec": spec, "spread": spread })
            }
            ["starts_after", job, others @ ..] => {
                for other in others {
                    self.known_vm(other)?;
                }
                let jobs = [self.known_vm(job)?];
                json!({ "expect": "starts_after", "jobs": jobs, "after": list(others) })
            }
            ["lose_any_host"] => json!({ "expect": "lose_any_host" }),
            ["lose_any_domain", domain] => {
                json!({ "expect": "lose_any_domain", "domain": domain })
            }
            ["balanced", within, labels @ ..] => {
                let (measure, labels) = match labels {
                    ["cpu", labels @ ..] => ("cpu", labels),
                    labels => ("promised", labels),
                };
                let percent = within.strip_suffix('%').ok_or("write PERCENT%")?;
                let percent: u32 = percent.parse().map_err(|_| format!("unknown word {within}"))?;
                let pair = |label: &str| {
                    let (key, value) = label.split_once('=').ok_or("write KEY=VALUE")?;
                    Ok::<_, String>((key.to_owned(), value.to_owned()))
                };
                let labels: Result<BTreeMap<_, _>, _> = labels.iter().map(|l| pair(l)).collect();
                let labels = labels?;
                json!({
                    "expect": "balanced", "within_percent": percent, "measure": measure,
                    "labels": labels,
                })
            }
            ["power_saving", words @ ..] => {
                let (mut value, mut labels) =
                    (json!({ "expect": "power_saving" }), BTreeMap::new());
                for word in words {
                    let (key, text) = word.split_once('=').ok_or("write KEY=VALUE")?;
                    match (key, text.parse::<u32>()) {
                        ("spare" | "awake_min", Ok(number)) => value[key] = json!(number),
                        _ => drop(labels.insert(key, text)),
                    }
                }
                value["labels"] = json!(labels);
                value
            }
            ["unknown", kind] => json!({ "expect": kind }),
            [word, ..] => return Err(format!("unknown word {word}")),
            [] => return Err("expect what?".to_owned()),
        };
        value["level"] = Value::from(level);
        self.wanted.expectations.push(value);
        Ok(())
    }

    fn known_host(&self, name: &str) -> Result<HostId, String> {
        self.hosts.get(name).map(|inv| inv.host.id.clone()).ok_or(format!("no host {name}"))
    }

    fn known_vm(&self, name: &str) -> Result<JobId, String> {
        match self.vms.contains(name) {
            true => JobId::new(name).map_err(|e| e.to_string()),
            false => Err(format!("no vm {name}")),
        }
    }

    /// Plans and judges.
    pub(crate) fn run(&self) -> Result<(), String> {
        let mut view = View::default();
        for inventory in self.hosts.values() {
            view.merge_inventory(inventory.clone());
        }
        let (input, not_understood) = case(view, self.heard.clone(), self.wanted.clone());
        let malformed = not_understood.iter().find(|no| no.is_malformed);
        if let Some(no) = malformed {
            return Err(no.why.clone());
        }
        let outcome = plan(&input);
        if plan(&input) != outcome {
            return Err("another plan when made again".to_owned());
        }
        let faults = audit(&input, &outcome);
        if !faults.is_empty() {
            return Err(format!("audit: {faults:?}"));
        }
        let mut state = State::new(&input);
        for step in &outcome.plan.steps {
            step.check(&state).map_err(|why| format!("{step}: {why}"))?;
            state = step.apply(&state);
        }
        let told = Told {
            story: self,
            end: &state,
            outcome: &outcome,
            verdict: verdict(&input, &outcome, &not_understood),
            not_understood: not_understood.iter().map(|no| no.kind.as_str()).collect(),
            input: &input,
        };
        for words in &self.asserts {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            told.judge(&words).map_err(|error| format!("{}: {error}\n{told}", words.join(" ")))?;
        }
        Ok(())
    }
}

/// What came of a story.
struct Told<'a> {
    story: &'a Story,
    input: &'a PlanInput,
    end: &'a State<'a>,
    outcome: &'a Outcome,
    verdict: Verdict,
    not_understood: Vec<&'a str>,
}

impl Told<'_> {
    fn judge(&self, words: &[&str]) -> Result<(), String> {
        let report = &self.outcome.report;
        let ok = match words {
            ["then", "nothing"] => self.verdict == Verdict::NothingToDo,
            ["then", "changes"] => self.verdict == Verdict::Changes,
            ["then", "cannot"] => self.verdict == Verdict::Cannot,
            ["then", "favour", words @ ..] => {
                let favours = self.outcome.plan.favours.iter().map(ToString::to_string);
                favours.collect::<Vec<_>>().contains(&words.join(" "))
            }
            ["then", "no", "favour"] => self.outcome.plan.favours.is_empty(),
            ["then", "preemption", words @ ..] => {
                let preemptions = self.outcome.plan.preemptions.iter().map(ToString::to_string);
                preemptions.collect::<Vec<_>>().contains(&words.join(" "))
            }
            ["then", "no", "preemption"] => self.outcome.plan.preemptions.is_empty(),
            ["then", "shift", words @ ..] => {
                let mut shifts = self.outcome.plan.shifts.iter();
                shifts.any(|shift| format!("{shift} {}", shift.reason()) == words.join(" "))
            }
            ["then", "saving", words @ ..] => {
                let mut savings = self.outcome.plan.savings.iter();
                savings.any(|saving| format!("{saving} {}", saving.reason()) == words.join(" "))
            }
            ["then", "no", "saving"] => self.outcome.plan.savings.is_empty(),
            ["then", "steps", count] => self.outcome.plan.steps.len().to_string() == *count,
            ["then", "step", step @ ..] => self.steps().contains(&step.join(" ")),
            ["then", job, "starts", "before", other] => {
                self.story.known_vm(job)?;
                self.story.known_vm(other)?;
                let place = |job: &str| {
                    let start = format!("start {job} on ");
                    self.steps().iter().position(|step| step.starts_with(&start))
                };
                place(job).zip(place(other)).is_some_and(|(job, other)| job < other)
            }
            ["then", job, "on", hosts @ ..] => {
                self.story.known_vm(job)?;
                for host in hosts {
                    self.story.known_host(host)?;
                }
                self.alive(job).iter().any(|at| hosts.contains(&at.as_str()))
            }
            ["then", job, "nowhere"] => {
                self.story.known_vm(job)?;
                self.alive(job).is_empty()
            }
            ["then", job, "apart", "from", other] => {
                self.story.known_vm(job)?;
                self.story.known_vm(other)?;
                self.alive(job).is_disjoint(&self.alive(other))
            }
            ["then", job, "with", other] => {
                self.story.known_vm(job)?;
                self.story.known_vm(other)?;
                self.alive(job) == self.alive(other) && !self.alive(job).is_empty()
            }
            ["then", host, "empty"] => {
                let host = self.story.known_host(host)?;
                let row = self.input.view.host(&host).ok_or("not in the view")?;
                self.end.jobs_alive(row).is_empty()
            }
            ["then", "unmet", job] => {
                self.story.known_vm(job)?;
                report.unmet.iter().any(|unmet| unmet.job.as_str() == *job)
            }
            ["then", "says", text @ ..] => self.words().contains(&text.join(" ")),
            ["then", "violated", kind] => self.kinds(&report.violations, "expect").contains(*kind),
            ["then", "kept", kind] => !self.kinds(&report.violations, "expect").contains(*kind),
            ["then", "problem", kind] => self.kinds(&report.problems, "problem").contains(*kind),
            ["then", "no", "problem", kind] => {
                !self.kinds(&report.problems, "problem").contains(*kind)
            }
            ["then", "not_understood", kind] => self.not_understood.contains(kind),
            ["never", verb @ ("start" | "stop" | "delete" | "move"), job] => {
                self.story.known_vm(job)?;
                !self.steps().iter().any(|step| step.starts_with(&format!("{verb} {job} ")))
            }
            ["never", "wake", host] => {
                self.story.known_host(host)?;
                let is_wake = |step: &String| {
                    *step == format!("wake {host}") || step.starts_with(&format!("wake {host} "))
                };
                !self.steps().iter().any(is_wake)
            }
            ["never", "sleep", host] => {
                self.story.known_host(host)?;
                !self.steps().contains(&format!("put {host} to sleep"))
            }
            ["never", "to", host] => {
                self.story.known_host(host)?;
                !self.steps().iter().any(|s| {
                    s.ends_with(&format!("on {host}")) || s.ends_with(&format!("to {host}"))
                })
            }
            _ => return Err("unknown assertion".to_owned()),
        };
        if ok { Ok(()) } else { Err("is not so".to_owned()) }
    }

    fn alive(&self, job: &str) -> BTreeSet<String> {
        let Ok(job) = JobId::new(job) else { return BTreeSet::new() };
        let rows = self.end.placements(&job);
        let alive = rows.iter().filter(|(_, placed)| !placed.state.is_ended());
        alive.map(|(host, _)| host.as_str().to_owned()).collect()
    }

    fn steps(&self) -> Vec<String> {
        self.outcome.plan.steps.iter().map(Step::to_string).collect()
    }

    /// Names of rules or problems, by the tag they have in JSON.
    fn kinds<T: serde::Serialize>(&self, list: &[T], tag: &str) -> BTreeSet<String> {
        let values = list.iter().filter_map(|item| serde_json::to_value(item).ok());
        let kind = |value: Value| {
            let own = value[tag].as_str().or_else(|| value["rule"][tag].as_str());
            own.map(str::to_owned)
        };
        values.filter_map(kind).collect()
    }

    fn words(&self) -> String {
        let report = &self.outcome.report;
        let evidence = report.violations.iter().map(|v| format!("{}: {v}", v.rule));
        let problems = report.problems.iter().map(ToString::to_string);
        let all = evidence.chain(problems).collect::<Vec<_>>().join("\n");
        format!("{report}\n{all}")
    }
}

impl std::fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "  steps: {}\n  {:?}\n  {}", self.steps().join("; "), self.verdict, self.words())
    }
}
