//! A host's jobs as a monitor keeps them: each as its JSON, packed.
//!
//! A monitor has the jobs of ten thousand hosts and seldom looks at one; most that is known of a job is
//! what it is asked to be, in words that all jobs use. So each is kept as the text that readers get
//! anyway, compressed against `WORDS`: a third of the text and an eighth of a [`Job`] in memory,
//! whether jobs are alike or not. Only what every reader asks for, id and state, lies beside it.

use std::sync::Arc;

use lz4_flex::block::{
    compress_into_with_dict, decompress_size_prepended_with_dict, get_maximum_output_size,
};
use protocol::id::JobId;
use protocol::job::{Job, JobState};
use protocol::view::{JobTable, Jobs, Row, Rows};
use serde::ser::Error as _;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// What the JSON of most jobs is made of. It lives no longer than the process that packs with it, so
/// it may be changed at any time; words that are not in it cost memory and nothing else.
const WORDS: &[u8] = br##"{"one-off":{"vm":,"deadline_ms":,"idle_ms":,"service":{"role":"arbiter"
"controller","port":0,"discovery":["https://"hardware":{"firmware":"uefi","machine":"q35","cpu":{
"mode":"host-model"},"topology":{"sockets":1,"cores":,"threads":1},"vnc":true,"tpm":true},
"cloud_init":{"user_data":"#cloud-config\nhostname: \nssh_authorized_keys:\n  - ssh-ed25519 AAAA
"meta_data":"network_config":"restart":"always","on-failure","autostart":true,"on_loss":"stop",
"adopted":","ephemeral":true,"bus":"scsi","cache":"none","limit_iops":,"limit_bytes_s":,"boot":1,
"network":"bridge","bridge":"br0","libvirt","name":"default","mac":"52:54:00:","limit_kib_s":,
"resize":{"vcpus":,"memory_bytes":,"stage":"next_start","why":["migration":{"side":"outgoing","to":"h
"incoming","from":"h","url":"https://","moved_bytes":0,"total_bytes":,"handoff":{"endpoint":{"url":
"https://","key":"state":"stopped","reason":"requested","guest_shutdown","host_rebooted","killed",
"start_failed","message":"migrated","exited","code":0,"labels":{"state":"starting","state":"accepted",
{"id":"","revision":1,"spec":{"vm":{"vcpus":2,"memory_bytes":4294967296,"max_vcpus":,
"max_memory_bytes":,"disks":[{"name":"root","size_bytes":10737418240,"image":""}],"nics":[{
"network":"user"}]},"tenant":"default"},"state":"running","since_ms":17,"hold":{"epoch":1,"num":1},
"domain_uuid":"-5","run":{"run":"","task":1,"claim":1}}"##;

/// What a monitor knows.
pub type PackedView = Rows<PackedJobs>;

/// What a monitor knows of one host.
pub type PackedRow = Row<PackedJobs>;

/// Jobs in the order of their ids. Copies of a view share them; a change copies the pointers of one
/// host, some hundred at most, and no job.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackedJobs(Arc<Vec<PackedJob>>);

/// One job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedJob {
    id: JobId,
    state: JobState,
    packed: Arc<[u8]>,
}

impl PackedJobs {
    /// The job of this id.
    #[must_use]
    pub fn get(&self, id: &JobId) -> Option<&PackedJob> {
        self.place(id).ok().map(|at| &self.0[at])
    }

    /// The jobs, in the order of their ids.
    pub fn values(&self) -> std::slice::Iter<'_, PackedJob> {
        self.0.iter()
    }

    fn place(&self, id: &JobId) -> Result<usize, usize> {
        self.0.binary_search_by(|job| job.id.cmp(id))
    }
}

/// Room to pack in, used again for every job of a host: what lies between things that stay would be
/// holes afterwards.
#[derive(Default)]
struct Bench {
    text: Vec<u8>,
    packed: Vec<u8>,
}

impl Bench {
    fn pack(&mut self, job: &Job) -> PackedJob {
        self.text.clear();
        serde_json::to_writer(&mut self.text, job).expect("our nouns are always valid JSON");
        let length = u32::try_from(self.text.len()).expect("a message has 8 MiB at most");
        self.packed.clear();
        self.packed.extend(length.to_le_bytes());
        let start = self.packed.len();
        self.packed.resize(start + get_maximum_output_size(self.text.len()), 0);
        let packed = compress_into_with_dict(&self.text, &mut self.packed[start..], WORDS);
        let end = start + packed.expect("there is room for the worst of texts");
        let packed = Arc::from(&self.packed[..end]);
        PackedJob { id: job.id.clone(), state: job.state, packed }
    }
}

impl PackedJob {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &JobId {
        &self.id
    }

    /// Where it is in its life.
    #[must_use]
    pub fn state(&self) -> JobState {
        self.state
    }

    /// Its JSON.
    ///
    /// # Panics
    /// When memory is not what was written to it.
    #[must_use]
    pub fn text(&self) -> String {
        let text = decompress_size_prepended_with_dict(&self.packed, WORDS);
        let text = text.expect("it was packed with these words");
        String::from_utf8(text).expect("it was text")
    }

    /// The whole job.
    ///
    /// # Panics
    /// When a job cannot be read as it was written, which would be a fault of the noun.
    #[must_use]
    pub fn job(&self) -> Job {
        serde_json::from_str(&self.text()).expect("it was written from a job")
    }
}

impl JobTable for PackedJobs {
    fn of(jobs: Vec<Job>) -> Self {
        // As in a view whose jobs are whole: of two with one id the later counts.
        let (whole, mut bench) = (Jobs::of(jobs), Bench::default());
        whole.values().map(|job| bench.pack(job)).collect()
    }

    fn whole(&self) -> Vec<Job> {
        self.values().map(PackedJob::job).collect()
    }

    fn put(&mut self, job: Box<Job>) {
        let place = self.place(&job.id);
        let jobs = Arc::make_mut(&mut self.0);
        let packed = Bench::default().pack(&job);
        match place {
            Ok(at) => jobs[at] = packed,
            Err(at) => jobs.insert(at, packed),
        }
    }

    fn drop_job(&mut self, id: &JobId) {
        if let Ok(at) = self.place(id) {
            Arc::make_mut(&mut self.0).remove(at);
        }
    }
}

impl FromIterator<PackedJob> for PackedJobs {
    /// Takes jobs that are in the order of their ids.
    fn from_iter<I: IntoIterator<Item = PackedJob>>(jobs: I) -> Self {
        let mut jobs: Vec<PackedJob> = jobs.into_iter().collect();
        jobs.shrink_to_fit();
        Self(Arc::new(jobs))
    }
}

/// As a list, like an inventory's.
impl Serialize for PackedJobs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.values())
    }
}

/// As the job.
impl Serialize for PackedJob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = RawValue::from_string(self.text()).map_err(S::Error::custom)?;
        text.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use protocol::job::JobSpec;
    use serde_json::json;

    use super::*;

    fn job(id: &str, n: u64) -> Job {
        let spec = json!({ "vm": { "vcpus": 2, "memory_bytes": (n + 1) << 30,
            "disks": [{ "name": "root", "size_bytes": 10_u64 << 30, "image": "debian-12" }],
            "nics": [{ "network": "bridge", "bridge": "br0" }] },
            "tenant": format!("tenant-{n}"), "labels": { "app": "straße" } });
        serde_json::from_value(json!({ "id": id, "revision": n, "spec": spec,
            "state": "running", "since_ms": 1_790_000_000_000_u64 + n }))
        .expect("a job")
    }

    #[test]
    fn what_is_packed_is_what_was_there_and_a_good_deal_less() {
        let job = job("web-1", 7);
        let packed = Bench::default().pack(&job);
        assert_eq!((packed.job(), packed.id(), packed.state()), (job.clone(), &job.id, job.state));
        let text = serde_json::to_string(&job).unwrap();
        assert_eq!(packed.text(), text);
        assert_eq!(serde_json::to_string(&packed).unwrap(), text, "readers see no difference");
        let bytes = packed.packed.len();
        assert!(bytes * 2 < text.len(), "{bytes} bytes for {text}");
        assert!(bytes * 2 < size_of::<Job>() + size_of::<JobSpec>(), "{bytes} bytes");
    }

    #[test]
    fn packed_jobs_are_a_table_like_whole_ones() {
        let all = || ["b", "a", "c", "a"].iter().zip(0..).map(|(id, n)| job(id, n)).collect();
        let (mut packed, mut whole) = (PackedJobs::of(all()), Jobs::of(all()));
        assert_eq!(packed.whole(), whole.whole());
        for (id, n) in [("d", 9), ("a", 10), ("b", 11)] {
            packed.put(Box::new(job(id, n)));
            whole.put(Box::new(job(id, n)));
            assert_eq!(packed.whole(), whole.whole(), "after {id}");
        }
        for id in ["c", "nobody"].map(|id| id.parse::<JobId>().unwrap()) {
            packed.drop_job(&id);
            whole.drop_job(&id);
            assert_eq!(packed.whole(), whole.whole(), "without {id}");
            assert!(packed.get(&id).is_none());
        }
        assert_eq!(packed, PackedJobs::of(whole.whole()), "the same jobs are packed the same");
    }
}
