//! A group: so many VMs made of one spec, named after it and numbered from 1.
//!
//! Decides which VMs a group means, and what is refused when one is written. It is short for a `runs` of each
//! of them and, if it is spread, a `spread_over` of all: plans and mends know no more of it. A smaller count
//! means fewer VMs; what has a higher number is then no business of the group, and nobody ends it for that.

use std::fmt;

use protocol::id::{JobId, NAME_CHARS_MAX};
use protocol::job::{JobKind, JobSpec};
use serde::{Deserialize, Serialize};

use crate::level::Level;
use crate::rules::{Clause, Rule, SpreadOver};

/// VMs of one group. Each is judged by itself, and a plan looks at a rule over all of them once for each step.
pub const GROUP_MAX: u32 = 256;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub struct Group {
    name: String,
    members: Vec<JobId>,
    spec: JobSpec,
    spread: Option<Spread>,
}

/// How a group is written.
#[derive(Debug, Clone, Deserialize)]
struct Written {
    name: JobId,
    count: u32,
    spec: JobSpec,
    #[serde(default)]
    spread: Option<Spread>,
}

/// How a group's VMs keep apart; as written `{}`, each is on a host of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// How much that matters; as much as that they run, if it is not said.
    #[serde(default)]
    pub level: Option<Level>,
    /// The host label that names the domain; none for the host itself.
    #[serde(default)]
    pub domain: Option<String>,
    /// How many may be in one.
    #[serde(default = "one")]
    pub per_domain_max: u32,
}

fn one() -> u32 {
    1
}

/// Why a group cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupError {
    /// Too few or too many.
    Count {
        /// As it was written.
        count: u32,
    },
    /// With its number, the name of the last is none.
    NameTooLong {
        /// The name of the group.
        name: JobId,
        /// What the last would be called.
        last: String,
    },
    /// It is of what is not kept running.
    NotVms,
    /// The spec is none.
    Spec {
        /// Why not.
        why: String,
    },
    /// All would have one hardware address.
    SameMac {
        /// The address.
        mac: String,
    },
    /// All would be one domain of libvirt's.
    Adopted,
    /// None may be anywhere.
    SpreadOverNothing,
}

impl fmt::Display for GroupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GroupError::Count { count: 0 } => f.write_str(
                "a group of none expects nothing and ends nothing: leave it out, and end what runs with `ostler \
                 stop` or `ostler rm`",
            ),
            GroupError::Count { count } => {
                write!(f, "a group has 1 to {GROUP_MAX} VMs, not {count}; make several groups of it")
            }
            GroupError::NameTooLong { name, last } => write!(
                f,
                "the last VM of group {name} would be called {last}, and a name has at most {NAME_CHARS_MAX} \
                 characters; a shorter one would do"
            ),
            GroupError::NotVms => f.write_str(
                "a group is of VMs: one-off jobs are over when they are done, and services are bootstrap's",
            ),
            GroupError::Spec { why } => f.write_str(why),
            GroupError::SameMac { mac } => write!(
                f,
                "every VM of the group would have the hardware address {mac}: leave `mac` out, and each gets its own"
            ),
            GroupError::Adopted => {
                f.write_str("an adopted VM is one domain of libvirt's, and no pattern for several")
            }
            GroupError::SpreadOverNothing => {
                f.write_str("`per_domain_max` 0 lets none be anywhere; 1 keeps each apart")
            }
        }
    }
}

impl TryFrom<Written> for Group {
    type Error = GroupError;

    fn try_from(written: Written) -> Result<Self, GroupError> {
        let Written { name, count, spec, spread } = written;
        if !(1..=GROUP_MAX).contains(&count) {
            return Err(GroupError::Count { count });
        }
        let member = |n: u32| {
            let last = format!("{name}-{n}");
            JobId::new(&last).map_err(|_| GroupError::NameTooLong { name: name.clone(), last })
        };
        // The longest first: of all that do not fit it is named.
        member(count)?;
        let members = (1..=count).map(member).collect::<Result<_, _>>()?;
        spec.validate().map_err(|error| GroupError::Spec { why: error.to_string() })?;
        let JobKind::Vm(vm) = &spec.kind else { return Err(GroupError::NotVms) };
        if let Some(mac) = vm.nics.iter().find_map(|nic| nic.mac.clone()) {
            return Err(GroupError::SameMac { mac });
        }
        if vm.adopted.is_some() {
            return Err(GroupError::Adopted);
        }
        if spread.as_ref().is_some_and(|spread| spread.per_domain_max == 0) {
            return Err(GroupError::SpreadOverNothing);
        }
        Ok(Self { name: name.to_string(), members, spec, spread })
    }
}

impl Group {
    /// What its VMs are named after.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its VMs, by their numbers.
    #[must_use]
    pub fn members(&self) -> &[JobId] {
        &self.members
    }

    /// What each is when it is made.
    #[must_use]
    pub fn spec(&self) -> &JobSpec {
        &self.spec
    }

    /// How they keep apart, as a rule; `level` is that of the group.
    #[must_use]
    pub fn clause(&self, level: Level) -> Option<Clause> {
        let Spread { level: own, domain, per_domain_max } = self.spread.clone()?;
        let rule = SpreadOver { jobs: self.members.clone(), domain, per_domain_max };
        Some(Clause { level: own.unwrap_or(level), rule: Rule::SpreadOver(rule) })
    }

    /// True for the name of a VM of a group of this name whose number is above the count.
    #[must_use]
    pub fn is_beyond(&self, number: u32) -> bool {
        number as usize > self.members.len()
    }
}

/// The group's name and the number in what could be the name of a group's VM.
#[must_use]
pub fn numbered(job: &JobId) -> Option<(&str, u32)> {
    let (name, number) = job.as_str().rsplit_once('-')?;
    let is_number = !number.starts_with('0') && number.bytes().all(|byte| byte.is_ascii_digit());
    Some((name, number.parse().ok().filter(|_| is_number)?))
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.members[..] {
            [only] => write!(f, "{only} runs")?,
            [first, .., last] => write!(f, "{first} to {last} run")?,
            [] => write!(f, "none of {} runs", self.name)?,
        }
        let Some(spread) = &self.spread else { return Ok(()) };
        let domain = spread.domain.as_deref().unwrap_or("host");
        write!(f, ", at most {} in one {domain}", spread.per_domain_max)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(value: Value) -> Result<Group, String> {
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    fn web(count: u32) -> Value {
        json!({ "name": "web", "count": count, "spec": { "vm": { "vcpus": 1, "memory_bytes": 1 << 30 } } })
    }

    fn names(group: &Group) -> Vec<&str> {
        group.members().iter().map(JobId::as_str).collect()
    }

    #[test]
    fn a_group_means_vms_that_are_numbered_from_one() {
        let group = read(web(3)).unwrap();
        assert_eq!(names(&group), ["web-1", "web-2", "web-3"]);
        assert_eq!(group.to_string(), "web-1 to web-3 run");
        assert_eq!(read(web(1)).unwrap().to_string(), "web-1 runs");
        assert_eq!(group.clause(Level::Must), None, "it need not keep apart");
        let mut spread = web(3);
        spread["spread"] = json!({});
        let clause = read(spread.clone()).unwrap().clause(Level::Should).unwrap();
        assert_eq!(clause.level, Level::Should, "as much as that they run");
        assert_eq!(clause.rule.to_string(), "at most 1 of web-1, web-2, web-3 in one host");
        spread["spread"] = json!({ "level": "wish", "domain": "rack", "per_domain_max": 2 });
        let group = read(spread).unwrap();
        assert_eq!(group.clause(Level::Must).unwrap().level, Level::Wish);
        assert_eq!(group.to_string(), "web-1 to web-3 run, at most 2 in one rack");
    }

    #[test]
    fn what_cannot_be_a_group_is_refused_with_what_would_do() {
        let refused = |value: Value, says: &str| {
            let error = read(value).unwrap_err();
            assert!(error.contains(says), "{error}");
        };
        refused(web(0), "leave it out");
        refused(web(GROUP_MAX + 1), "1 to 256 VMs, not 257");
        assert_eq!(names(&read(web(GROUP_MAX)).unwrap()).len(), 256);
        let long = |chars: usize, count: u32| {
            let mut value = web(count);
            value["name"] = json!("a".repeat(chars));
            value
        };
        assert!(read(long(61, 9)).is_ok());
        refused(long(61, 10), "at most 63 characters");
        refused(long(62, 1), "at most 63 characters");
        let with = |key: &str, what: Value| {
            let mut value = web(2);
            value["spec"]["vm"][key] = what;
            value
        };
        let mac = json!([{ "network": "user", "mac": "52:54:00:00:00:01" }]);
        refused(with("nics", mac), "52:54:00:00:00:01");
        refused(with("vcpus", json!(0)), "vcpus");
        let mut spread = web(2);
        spread["spread"] = json!({ "per_domain_max": 0 });
        refused(spread.clone(), "1 keeps each apart");
        spread["spread"] = json!({ "domian": "rack" });
        refused(spread, "domian");
        let once = json!({ "one-off": { "vm": { "vcpus": 1, "memory_bytes": 1 << 30 }, "deadline_ms": 1000 } });
        refused(json!({ "name": "web", "count": 1, "spec": once }), "one-off");
        refused(json!({ "name": "web", "count": 1 }), "spec");
    }

    #[test]
    fn a_number_is_told_from_what_only_looks_like_one() {
        let of = |name: &str| {
            let job = JobId::new(name).unwrap();
            numbered(&job).map(|(name, number)| (name.to_owned(), number))
        };
        assert_eq!(of("web-12"), Some(("web".to_owned(), 12)));
        assert_eq!(of("web-1-2"), Some(("web-1".to_owned(), 2)));
        for other in ["web", "web-", "web-0", "web-01", "web-a", "web-1a", "web-99999999999"] {
            assert_eq!(of(other), None, "{other}");
        }
        let group = read(web(3)).unwrap();
        assert!(!group.is_beyond(3) && group.is_beyond(4));
    }
}
