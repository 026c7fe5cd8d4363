//! Images that a host gets by itself, from a real server that misbehaves and from other agents.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use protocol::id::ImageName;
use protocol::image::{
    FetchImage, FetchState, FetchTrouble, ImageList, ImageSource, ImageStatus, SourceHost,
};
use protocol::vm::DiskSpec;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use transport::download::Had;

use super::*;

/// A web server with one file, and what is wrong with it.
#[derive(Clone)]
struct Server {
    address: std::net::SocketAddr,
    file: Arc<Vec<u8>>,
    faults: Arc<Mutex<Vec<Ill>>>,
    /// The first byte that each request has asked for.
    asked: Arc<Mutex<Vec<u64>>>,
    sent: Arc<AtomicUsize>,
}

/// What goes wrong with one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ill {
    /// The connection ends after so many bytes.
    Cut(usize),
    /// After so many bytes nothing more comes, and the connection stays.
    Stall(usize),
    /// The answer is an error.
    Status(u16),
    /// Nobody says how much will come.
    NoLength,
}

impl Server {
    async fn new(file: Vec<u8>, mut faults: Vec<Ill>) -> Self {
        faults.reverse();
        let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
        let web = Self {
            address: listener.local_addr().unwrap(),
            file: Arc::new(file),
            faults: Arc::new(Mutex::new(faults)),
            asked: Arc::default(),
            sent: Arc::default(),
        };
        let server = web.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let server = server.clone();
                // A client that goes away is no fault of the server.
                tokio::spawn(async move { drop(server.answer(stream).await) });
            }
        });
        web
    }

    async fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        let range = head.lines().find_map(|line| line.strip_prefix("range: bytes="));
        let from: u64 = range.map_or(0, |range| range.trim_end_matches('-').parse().unwrap());
        self.asked.lock().unwrap().push(from);
        let (from, total) = (usize::try_from(from).unwrap(), self.file.len());
        let fault = self.faults.lock().unwrap().pop();
        let status = match (fault, from) {
            (Some(Ill::Status(status)), _) => format!("{status} No"),
            (_, 0) => "200 OK".to_owned(),
            _ => {
                format!("206 Partial Content\r\ncontent-range: bytes {from}-{}/{total}", total - 1)
            }
        };
        let mut answer = format!("HTTP/1.1 {status}\r\nconnection: close\r\netag: \"v1\"\r\n");
        if fault != Some(Ill::NoLength) {
            answer += &format!("content-length: {}\r\n", total - from);
        }
        stream.write_all((answer + "\r\n").as_bytes()).await?;
        let rest = &self.file[from..];
        let rest = match fault {
            Some(Ill::Cut(bytes) | Ill::Stall(bytes)) => &rest[..bytes.min(rest.len())],
            Some(Ill::Status(_)) => &[],
            Some(Ill::NoLength) | None => rest,
        };
        for chunk in rest.chunks(64 << 10) {
            stream.write_all(chunk).await?;
            self.sent.fetch_add(chunk.len(), Ordering::Relaxed);
        }
        if let Some(Ill::Stall(_)) = fault {
            stream.flush().await?;
            stream.read_u8().await?;
        }
        stream.shutdown().await
    }

    fn source(&self) -> ImageSource {
        ImageSource::Url(format!("http://{}/guest.raw", self.address))
    }

    fn asked(&self) -> Vec<u64> {
        self.asked.lock().unwrap().clone()
    }
}

/// Bytes that are no repetition of themselves.
fn bytes(count: usize) -> Vec<u8> {
    let mut seed = 7_u32;
    let mut next = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        u8::try_from(seed >> 24).unwrap()
    };
    (0..count).map(|_| next()).collect()
}

impl Bench {
    async fn with(limit: impl FnOnce(&mut Bench)) -> Self {
        let mut bench = Self::new().await;
        bench.end().await;
        bench.fetching.silence = Duration::from_millis(500);
        bench.fetching.idle_max = 3;
        limit(&mut bench);
        bench.start().await;
        bench
    }

    async fn fetch(
        &self,
        name: &str,
        from: ImageSource,
        sha256: Option<Digest>,
    ) -> Result<transport::Reply<ImageStatus>, CallError> {
        let wanted = FetchImage { from, sha256, bytes_per_second: None };
        let path = format!("/v1/images/{name}/fetch");
        self.client.send(Method::POST, &self.local(), &path, &wanted).await
    }

    async fn image(&self, name: &str) -> ImageStatus {
        self.client.get(&self.local(), &format!("/v1/images/{name}")).await.unwrap()
    }

    /// Waits until the image is here or has failed to come.
    async fn await_image(&self, name: &str) -> ImageStatus {
        let begin = Instant::now();
        loop {
            let status = self.image(name).await;
            let has_failed = matches!(status.fetch, Some(FetchState::Failed { .. }));
            if has_failed || status.facts.is_some() {
                return status;
            }
            assert!(begin.elapsed() < PATIENCE, "{status:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn await_bytes(&self, name: &str, bytes: u64) {
        let begin = Instant::now();
        loop {
            match self.image(name).await.fetch {
                Some(FetchState::Fetching { got_bytes, .. }) if got_bytes == bytes => return,
                other => assert!(begin.elapsed() < PATIENCE, "{other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn await_trouble(&self, name: &str) -> FetchTrouble {
        match self.await_image(name).await.fetch {
            Some(FetchState::Failed { why }) => why,
            other => panic!("{other:?} instead of trouble"),
        }
    }

    async fn delete_image(&self, name: &str) -> Result<(), CallError> {
        let path = format!("/v1/images/{name}");
        let deleted: Result<transport::Reply<()>, _> =
            self.client.send(Method::DELETE, &self.local(), &path, &()).await;
        deleted.map(|_| ())
    }

    fn image_files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.data().join("images")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    async fn me(&self) -> SourceHost {
        let inventory: Inventory = self.client.get(&self.local(), "/v1/inventory").await.unwrap();
        SourceHost { host: inventory.host.id, urls: inventory.host.urls }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_is_cut_or_falls_silent_goes_on_where_it_was() {
    let bench = Bench::with(|_| ()).await;
    let file = bytes(3 << 20);
    let busy = Ill::Status(429);
    let faults = vec![Ill::Cut(1 << 20), Ill::Status(503), busy, Ill::Stall(1 << 20), Ill::Cut(0)];
    let web = Server::new(file.clone(), faults).await;
    let digest = Digest::of(&file);
    let asked = bench.fetch("guest", web.source(), Some(digest)).await.unwrap();
    assert_eq!(asked.status, 202);
    let facts = bench.await_image("guest").await.facts.expect("it came");
    assert_eq!((facts.sha256, facts.file_bytes), (digest, 3 << 20));
    assert_eq!(std::fs::read(bench.data().join("images/guest.img")).unwrap(), file);
    let asked = web.asked();
    assert_eq!(asked[0], 0);
    assert!(asked[1..].iter().all(|from| *from > 0), "each went on: {asked:?}");
    assert!(web.sent.load(Ordering::Relaxed) <= file.len(), "nothing came twice");
    assert_eq!(bench.image_files(), ["guest.img", "guest.json"]);
    let again = bench.fetch("guest", web.source(), Some(digest)).await.unwrap();
    assert_eq!((again.status, web.asked().len()), (200, asked.len()));
    let inventory: Inventory = bench.client.get(&bench.local(), "/v1/inventory").await.unwrap();
    assert_eq!(inventory.host.images.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_is_not_what_was_announced_leaves_nothing() {
    let bench = Bench::with(|_| ()).await;
    let web = Server::new(bytes(1 << 20), vec![Ill::Cut(1000)]).await;
    bench.fetch("guest", web.source(), Some(Digest::of(b"other"))).await.unwrap();
    let trouble = bench.await_trouble("guest").await;
    assert!(matches!(trouble, FetchTrouble::WrongDigest { .. }), "{trouble}");
    assert!(bench.image_files().is_empty(), "{:?}", bench.image_files());
    let none: Inventory = bench.client.get(&bench.local(), "/v1/inventory").await.unwrap();
    assert!(none.host.images.is_empty());
    let right = Digest::of(&bytes(1 << 20));
    bench.fetch("guest", web.source(), Some(right)).await.unwrap();
    assert!(bench.await_image("guest").await.facts.is_some(), "asking again tries again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_or_has_no_room_or_no_size_is_not_begun() {
    let bench = Bench::with(|bench| bench.fetching.bytes_max = 1 << 20).await;
    let file = bytes((1 << 20) + 1);
    let digest = Some(Digest::of(&file));
    let web = Server::new(file, vec![]).await;
    bench.fetch("guest", web.source(), digest).await.unwrap();
    let trouble = bench.await_trouble("guest").await;
    let limit = FetchTrouble::TooLarge { bytes: (1 << 20) + 1, limit_bytes: 1 << 20 };
    assert_eq!(trouble, limit);
    assert!(bench.image_files().is_empty());

    let full = Bench::with(|bench| bench.share.disk_reserve_bytes = u64::MAX).await;
    full.fetch("guest", web.source(), digest).await.unwrap();
    let trouble = full.await_trouble("guest").await;
    let FetchTrouble::NoSpace { needed_bytes, free, .. } = trouble else { panic!("{trouble}") };
    assert_eq!((needed_bytes, free.disk_bytes), ((1 << 20) + 1, 0));
    assert!(full.image_files().is_empty());

    let endless = Server::new(bytes(10), vec![Ill::NoLength]).await;
    bench.fetch("other", endless.source(), Some(Digest::of(&bytes(10)))).await.unwrap();
    let trouble = bench.await_trouble("other").await;
    assert!(matches!(&trouble, FetchTrouble::Refused { message } if message.contains("how large")));
    assert!(bench.image_files().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_says_no_or_is_not_there_is_told_in_words() {
    let bench = Bench::with(|_| ()).await;
    let web = Server::new(bytes(10), vec![Ill::Status(404)]).await;
    let digest = Some(Digest::of(&bytes(10)));
    let plain = bench.fetch("guest", web.source(), None).await.unwrap_err();
    assert!(plain.to_string().contains("name its sha256"), "{plain}");
    bench.fetch("guest", web.source(), digest).await.unwrap();
    let trouble = bench.await_trouble("guest").await;
    assert!(trouble.to_string().contains("404"), "{trouble}");
    let nobody = ImageSource::Url("http://127.0.0.1:1/x".into());
    bench.fetch("guest", nobody, digest).await.unwrap();
    let trouble = bench.await_trouble("guest").await;
    assert!(matches!(trouble, FetchTrouble::Unreachable { .. }), "{trouble}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_names_another_file_is_not_taken_from_anywhere() {
    let bench = Bench::with(|_| ()).await;
    let mut file = bytes(4096);
    file[..104].fill(0);
    file[..4].copy_from_slice(b"QFI\xfb");
    (file[7], file[79]) = (3, 1 << 2);
    let web = Server::new(file.clone(), vec![]).await;
    bench.fetch("guest", web.source(), Some(Digest::of(&file))).await.unwrap();
    let trouble = bench.await_trouble("guest").await;
    assert!(matches!(trouble, FetchTrouble::BadImage { .. }), "{trouble}");
    assert!(bench.image_files().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_life_began_can_not_be_used_and_is_gone_on_from() {
    let mut bench = Bench::with(|bench| bench.fetching.silence = PATIENCE).await;
    let file = bytes(2 << 20);
    let web = Server::new(file.clone(), vec![Ill::Stall(1 << 20)]).await;
    let digest = Digest::of(&file);
    bench.fetch("guest", web.source(), Some(digest)).await.unwrap();
    bench.await_bytes("guest", 1 << 20).await;
    bench.end().await;
    bench.start().await;
    assert_eq!(bench.image_files(), [format!(".{digest}.part")]);
    let status = bench.image("guest").await;
    assert_eq!((status.facts, status.fetch), (None, None), "nothing that could be used");
    bench.fetch("guest", web.source(), Some(digest)).await.unwrap();
    assert!(bench.await_image("guest").await.facts.is_some());
    let asked = web.asked();
    assert!(asked.len() == 2 && asked[1] > 0, "{asked:?}");
    assert_eq!(std::fs::read(bench.data().join("images/guest.img")).unwrap(), file);

    // What the power has taken from a part is fetched again, and not taken for the whole.
    bench.delete_image("guest").await.unwrap();
    bench.end().await;
    let part = bench.data().join(format!("images/.{digest}.part"));
    std::fs::write(part, vec![0; 1 << 20]).unwrap();
    bench.start().await;
    bench.fetch("guest", web.source(), Some(digest)).await.unwrap();
    assert!(bench.await_image("guest").await.facts.is_some());
    assert_eq!(std::fs::read(bench.data().join("images/guest.img")).unwrap(), file);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_content_comes_once_whatever_its_names() {
    let bench = Bench::with(|_| ()).await;
    let file = bytes(1 << 20);
    let web = Server::new(file.clone(), vec![]).await;
    let digest = Some(Digest::of(&file));
    for name in ["one", "two", "one"] {
        bench.fetch(name, web.source(), digest).await.unwrap();
    }
    for name in ["one", "two"] {
        assert!(bench.await_image(name).await.facts.is_some());
    }
    assert_eq!(web.asked(), [0]);
    use std::os::unix::fs::MetadataExt as _;
    let inode = |name: &str| std::fs::metadata(bench.data().join(name)).unwrap().ino();
    assert_eq!(inode("images/one.img"), inode("images/two.img"));
    let other = bench.fetch("one", web.source(), Some(Digest::of(b"x"))).await.unwrap_err();
    assert!(other.to_string().contains("give the new one another name"), "{other}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_copies_from_another_by_its_content_and_from_any_byte() {
    let (here, there) = (Bench::with(|_| ()).await, Bench::with(|_| ()).await);
    let file = bytes(1 << 20);
    let web = Server::new(file.clone(), vec![]).await;
    let digest = Digest::of(&file);
    there.fetch("guest", web.source(), Some(digest)).await.unwrap();
    assert!(there.await_image("guest").await.facts.is_some());

    let gone = SourceHost { urls: vec!["https://127.0.0.1:1".into()], ..there.me().await };
    let stranger = SourceHost { urls: there.me().await.urls, ..here.me().await };
    let hosts = ImageSource::Hosts(vec![gone, stranger, there.me().await]);
    here.fetch("copy", hosts, Some(digest)).await.unwrap();
    let facts = here.await_image("copy").await.facts.expect("from the one who has it");
    assert_eq!(facts.sha256, digest);
    assert_eq!(std::fs::read(here.data().join("images/copy.img")).unwrap(), file);

    let had = Had { bytes: (1 << 20) - 3, is_checked: true, version: None };
    let path = format!("/v1/image-files/{digest}");
    let agent = there.tls().await;
    let mut rest = here.client.download(&agent, &path, &had, PATIENCE).await.unwrap();
    assert_eq!((rest.from_byte, rest.total_bytes), ((1 << 20) - 3, 1 << 20));
    assert_eq!(rest.next().await.unwrap().unwrap(), file[(1 << 20) - 3..]);
    assert_eq!(rest.next().await.unwrap(), None);
    let whole = Had { bytes: 1 << 20, ..had };
    let none = here.client.download(&agent, &path, &whole, PATIENCE).await.unwrap_err();
    assert!(none.to_string().contains("no-such-range"), "{none}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_deleted_only_when_nobody_needs_it() {
    let bench = Bench::with(|_| ()).await;
    let file = bytes(1 << 20);
    let web = Server::new(file.clone(), vec![]).await;
    bench.fetch("guest", web.source(), Some(Digest::of(&file))).await.unwrap();
    assert!(bench.await_image("guest").await.facts.is_some());
    let image = Some(ImageName::new("guest").unwrap());
    let disk = DiskSpec { name: "root".into(), size_bytes: 2 << 20, image, ..DiskSpec::default() };
    let vm = VmSpec { vcpus: 1, memory_bytes: 16 << 20, disks: vec![disk], ..VmSpec::default() };
    bench.put("web-1", JobSpec::vm(vm)).await.unwrap();
    bench.await_state("web-1", JobState::Running).await;

    let web_1 = JobId::new("web-1").unwrap();
    let refused = bench.delete_image("guest").await.unwrap_err();
    let no = refused.refusal().cloned();
    let image = ImageName::new("guest").unwrap();
    assert_eq!(no, Some(Refusal::ImageInUse { image, users: vec![web_1.clone()] }));
    let list: ImageList = bench.client.get(&bench.local(), "/v1/images").await.unwrap();
    assert_eq!(list.images[0].users, [web_1]);

    let stop = StopJob::within(0);
    let path = "/v1/jobs/web-1/stop";
    bench.client.send::<_, Job>(Method::POST, &bench.local(), path, &stop).await.unwrap();
    bench.await_state("web-1", JobState::Stopped).await;
    assert!(bench.delete_image("guest").await.is_err(), "its disks are still there");
    let path = "/v1/jobs/web-1";
    bench.client.send::<_, Option<Job>>(Method::DELETE, &bench.local(), path, &()).await.unwrap();
    let begin = Instant::now();
    while bench.client.get::<Job>(&bench.local(), path).await.is_ok() {
        assert!(begin.elapsed() < PATIENCE, "web-1 does not go");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bench.delete_image("guest").await.unwrap();
    bench.delete_image("guest").await.unwrap();
    assert!(bench.image_files().is_empty());
    assert_eq!(bench.image("guest").await.facts, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_what_is_on_its_way_calls_it_off() {
    let bench = Bench::with(|bench| bench.fetching.silence = PATIENCE).await;
    let file = bytes(1 << 20);
    let web = Server::new(file.clone(), vec![Ill::Stall(1000)]).await;
    let digest = Some(Digest::of(&file));
    bench.fetch("guest", web.source(), digest).await.unwrap();
    bench.await_bytes("guest", 1000).await;
    let other = bench.fetch("guest", web.source(), Some(Digest::of(b"x"))).await.unwrap_err();
    assert!(other.to_string().contains("is being fetched"), "{other}");
    bench.delete_image("guest").await.unwrap();
    assert_eq!(bench.image("guest").await.fetch, None);
    let begin = Instant::now();
    while !bench.image_files().is_empty() {
        assert!(begin.elapsed() < PATIENCE, "{:?} is left", bench.image_files());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bench.fetch("guest", web.source(), digest).await.unwrap();
    assert!(bench.await_image("guest").await.facts.is_some());
}

/// Hosts of a cluster may copy; who only looks may not, and strangers see nothing.
#[tokio::test(flavor = "multi_thread")]
async fn with_trust_hosts_may_copy_and_those_who_only_look_may_not() {
    let bench = Bench::with(|_| ()).await;
    let file = bytes(1000);
    let web = Server::new(file.clone(), vec![]).await;
    let digest = Digest::of(&file);
    bench.fetch("guest", web.source(), Some(digest)).await.unwrap();
    assert!(bench.await_image("guest").await.facts.is_some());
    let (operator, arbiter, host) =
        (Identity::ephemeral(), Identity::ephemeral(), Identity::ephemeral());
    let inventory: Inventory = bench.client.get(&bench.local(), "/v1/inventory").await.unwrap();
    let trust = Trust {
        version: 1,
        operators: vec![operator.public()],
        arbiters: vec![Slot { slot: 0, key: arbiter.public(), url: String::new() }],
        roster: vec![inventory.host.key, host.public()],
        ..Trust::of_nobody(ClusterId::new("c1").unwrap())
    };
    let agent = bench.tls().await;
    let signed = Signed::seal(&trust, operator.secret());
    let path = "/v1/config/trust";
    bench.client.send::<_, Option<()>>(Method::PUT, &agent, path, &signed).await.unwrap();
    let path = format!("/v1/image-files/{digest}");
    let may = async |identity: Identity| {
        let client = Client::new(Arc::new(identity));
        client.download(&agent, &path, &Had::default(), PATIENCE).await.is_ok()
    };
    assert!(may(operator).await && may(host).await);
    assert!(!may(arbiter).await && !may(Identity::ephemeral()).await);
}
