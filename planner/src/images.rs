//! Which images a start needs that its host has not, and which hosts could give them.
//!
//! Decides who is asked for a copy: hosts that were heard, all of which have the same content under
//! the name. Where they contradict each other nobody is asked, because nobody knows which is meant.

use std::collections::{BTreeMap, BTreeSet};

use protocol::host::ImageFacts;
use protocol::id::{HostId, ImageName, JobId};
use protocol::job::JobSpec;
use protocol::view::{Freshness, HostRow};
use protocol::vm::DiskSpec;
use serde::{Deserialize, Serialize};

use crate::expectation::Expectation;
use crate::input::PlanInput;
use crate::intent::Intent;
use crate::pools::finds_disks;
use crate::state::State;

/// Sources named for one copy: the others are for when the first does not answer.
const SOURCES_MAX: usize = 3;

/// An image that must be copied to a host before something can start there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// The image.
    pub image: ImageName,
    /// What it is.
    pub facts: ImageFacts,
    /// Hosts that have it, in the order in which they are to be asked.
    pub from: Vec<HostId>,
}

/// Who has which of the images that are wanted. Looked up once, when somebody lacks one: whoever asks for each host and each
/// start would else walk all hosts each time.
#[derive(Debug, Default)]
pub(crate) struct Holders(BTreeMap<ImageName, Holding>);

#[derive(Debug)]
struct Holding {
    facts: ImageFacts,
    /// Two hosts have different contents under the name.
    is_ambiguous: bool,
    fresh: Vec<HostId>,
    stale: Vec<HostId>,
}

impl Holders {
    pub(crate) fn of(input: &PlanInput) -> Self {
        let mut wanted: BTreeSet<&ImageName> = BTreeSet::new();
        for expectation in &input.expectations {
            if let Expectation::Runs { spec, .. } = expectation {
                wanted.extend(images_of(spec));
            }
        }
        let mut holders: BTreeMap<ImageName, Holding> = BTreeMap::new();
        if wanted.is_empty() {
            return Self(holders);
        }
        let refused: BTreeSet<&HostId> =
            input.setbacks.iter().filter(|s| s.excludes_host()).map(|s| &s.host).collect();
        for (id, row) in input.view.hosts() {
            let freshness = input.heard.get(id).map_or(Freshness::Fresh, |heard| heard.freshness);
            let intent = input.intents.get(id);
            let is_off = matches!(intent, Some(Intent::Off | Intent::Asleep));
            if is_off || freshness == Freshness::Lost || refused.contains(id) {
                continue;
            }
            for image in &wanted {
                let Some(facts) = row.host.images.get(*image) else { continue };
                let holding = holders.entry(ImageName::clone(image)).or_insert_with(|| Holding {
                    facts: facts.clone(),
                    is_ambiguous: false,
                    fresh: Vec::new(),
                    stale: Vec::new(),
                });
                holding.is_ambiguous |= holding.facts.sha256 != facts.sha256;
                match freshness {
                    Freshness::Fresh => holding.fresh.push(id.clone()),
                    Freshness::Stale | Freshness::Lost => holding.stale.push(id.clone()),
                }
            }
        }
        Self(holders)
    }

    /// A copy for a host, from some of those that have it: not everybody asks the same one.
    fn fetch(&self, image: &ImageName, to: &HostId, seed: u64) -> Option<Fetch> {
        let holding = self.0.get(image).filter(|holding| !holding.is_ambiguous)?;
        let sources = if holding.fresh.is_empty() { &holding.stale } else { &holding.fresh };
        let first = turn(seed, image, to, sources.len());
        let from = sources.iter().cycle().skip(first).take(sources.len().min(SOURCES_MAX));
        let from = from.cloned().collect();
        Some(Fetch { image: image.clone(), facts: holding.facts.clone(), from })
    }
}

/// What has to be copied to the host before the job can start there. Images that nobody can give
/// are left to admission's no.
pub(crate) fn fetches(state: &State<'_>, job: &JobId, row: &HostRow, spec: &JobSpec) -> Vec<Fetch> {
    let host = &row.host.id;
    if state.placed(job, host).is_some_and(|placed| placed.keeps_disks()) {
        return Vec::new();
    }
    let finds = finds_disks(state, job, host, spec);
    let is_there = |disk: &&DiskSpec| {
        let facts = disk.named_pool().and_then(|pool| row.host.pools.get(pool));
        finds && facts.is_some_and(|facts| facts.is_shared)
    };
    let disks = spec.as_vm().map_or(&[][..], |vm| &vm.disks);
    let made = disks.iter().filter(|disk| !is_there(disk));
    let missing = made.filter_map(|disk| disk.image.as_ref());
    let missing = missing.filter(|image| state.image(row, image).is_none());
    let missing: BTreeSet<&ImageName> = missing.collect();
    let seed = state.input().seed;
    missing.into_iter().filter_map(|image| state.holders().fetch(image, host, seed)).collect()
}

/// Bytes that copies take of a host's disk.
pub(crate) fn bytes_of(fetches: &[Fetch]) -> u64 {
    fetches.iter().fold(0, |sum: u64, fetch| sum.saturating_add(fetch.facts.file_bytes))
}

fn images_of(spec: &JobSpec) -> impl Iterator<Item = &ImageName> {
    let disks = spec.as_vm().map_or(&[][..], |vm| &vm.disks);
    disks.iter().filter_map(|disk| disk.image.as_ref())
}

/// FNV-1a, so that it is the same everywhere.
fn turn(seed: u64, image: &ImageName, to: &HostId, count: usize) -> usize {
    let bytes = seed.to_le_bytes();
    let all = bytes.iter().chain(image.as_str().as_bytes()).chain(to.as_str().as_bytes());
    let hash = all.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let count = u64::try_from(count.max(1)).unwrap_or(1);
    usize::try_from(hash % count).unwrap_or(0)
}
