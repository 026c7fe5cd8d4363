//! What an image's coming and going means for jobs.

use protocol::host::ImageFacts;
use protocol::id::ImageName;
use protocol::signed::Digest;
use protocol::vm::DiskSpec;

use super::*;

fn image() -> BTreeMap<ImageName, ImageFacts> {
    let facts = ImageFacts {
        sha256: Digest::of(b"guest"),
        file_bytes: 1 << 20,
        virtual_bytes: 1 << 20,
        format: None,
    };
    BTreeMap::from([(ImageName::new("guest").unwrap(), facts)])
}

fn of_image(revision: u64) -> PutJob {
    let image = Some(ImageName::new("guest").unwrap());
    let disk = DiskSpec { name: "root".into(), size_bytes: 1 << 20, image, ..DiskSpec::default() };
    let vm = VmSpec { vcpus: 1, memory_bytes: 1 << 30, disks: vec![disk], ..VmSpec::default() };
    PutJob { spec: JobSpec::vm(vm), ..body(revision, 1, None) }
}

#[test]
fn an_image_that_is_gone_starts_nothing_new_and_what_has_its_disks_again() {
    let mut bench = Bench::lone();
    assert_eq!(refusal(bench.put("web-1", of_image(1))), "no-image");
    bench.tell(Input::Images(image()));
    assert!(matches!(bench.events.last().map(|e| &e.fact), Some(Fact::HostChanged { .. })));
    bench.put("web-1", of_image(1)).unwrap();
    bench.put("web-2", of_image(1)).unwrap();
    let (second, first) = (bench.works.pop().unwrap(), bench.works.pop().unwrap());
    bench.tell(Input::Done { job: first.0, work: first.1, outcome: WorkOutcome::Done });
    let outcome = WorkOutcome::Failed("no such file".into());
    bench.tell(Input::Done { job: second.0, work: second.1, outcome });
    let stop = Request::Stop { job: job_id("web-1"), stop: StopJob::within(0) };
    bench.ask(stop).unwrap();
    bench.end_work(WorkOutcome::Done);
    bench.tell(Input::Images(BTreeMap::new()));
    assert_eq!(refusal(bench.put("web-3", of_image(1))), "no-image");
    assert_eq!(refusal(bench.put("web-2", of_image(2))), "no-image", "it never had disks");
    assert!(matches!(bench.put("web-1", of_image(2)), Ok(Reply::Accepted(_))));
}
