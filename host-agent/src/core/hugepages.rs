//! Huge pages: which of them are promised to jobs, and which are taken by what is no job.
//!
//! The kernel says how many there are and how many are taken, and not by whom. What is taken beyond what jobs
//! have is others': another program's, or a guest's that nobody has adopted. A job has its pages from its row on,
//! so while its guest is being started others seem to have fewer than they have; of two counts in a row the
//! smaller one is believed, so that a guest that ends between a count and its coming is nobody else.

use std::collections::BTreeMap;

use protocol::hugepages::{HugepageFacts, Hugepages, PageSize, Pages, with_promised};
use protocol::id::{JobId, OfferId};

use super::agent::Agent;

/// The pages of one size as they were counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HugepagesSeen {
    /// How many there are.
    pub total: u64,
    /// How many are taken, by whomever.
    pub taken: u64,
}

impl Agent {
    /// Sizes of which there are none any more are told no more.
    pub(super) fn handle_hugepages(&mut self, seen: &BTreeMap<PageSize, HugepagesSeen>) {
        let own = self.jobs.pages();
        let mut facts = Hugepages::new();
        let mut others_last = BTreeMap::new();
        for (&size, &HugepagesSeen { total, taken }) in seen {
            let others_now = taken.saturating_sub(own.count(size));
            let before = self.others_pages.get(&size).copied();
            others_last.insert(size, others_now);
            if total > 0 {
                let others = others_now.min(before.unwrap_or(others_now));
                facts.insert(size, HugepageFacts { total, promised: 0, others });
            }
        }
        self.others_pages = others_last;
        self.host.hugepages = facts;
    }

    /// The pages as they were counted last, with what is promised of them.
    pub(super) fn hugepages(&self) -> Hugepages {
        with_promised(&self.host.hugepages, self.pages_without(None, None))
    }

    /// The pages that are promised to jobs and to open offers, without those of a job and of an offer.
    pub(super) fn pages_without(&self, job: Option<&JobId>, offer: Option<OfferId>) -> Pages {
        let jobs = match job {
            Some(job) => self.jobs.pages_without(job),
            None => self.jobs.pages(),
        };
        let open = self.offers.open().filter(|(id, _)| offer != Some(*id));
        open.map(|(_, open)| open.pages).fold(jobs, Pages::plus)
    }
}
