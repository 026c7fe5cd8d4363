//! What a monitor makes of streams that say anything, of hosts and of other monitors: no row goes
//! back or vanishes, nobody speaks for another host, and whoever tries is not believed.

#![no_main]

use std::collections::{BTreeMap, BTreeSet};

use arbitrary::Arbitrary;
use fuzz::{host, job, job_id};
use libfuzzer_sys::fuzz_target;
use monitor::check::CURSOR_MAX;
use monitor::core::{Core, Effect, Input, Source, Wanted};
use monitor::newer::{self, Newer, Reading};
use protocol::event::{Event, Fact, Frame};
use protocol::host::{Host, Inventory};
use protocol::id::{Cursor, Epoch, HostId};
use protocol::view::Freshness;
use transport::stream::Encoded;

const HOSTS: u8 = 3;

#[derive(Debug, Arbitrary)]
enum Deed {
    Open(u8),
    End(u8),
    Say {
        by: u8,
        of: u8,
        word: Word,
    },
    /// A frame as a stranger writes it.
    Write {
        by: u8,
        text: String,
    },
    Tick(u16),
    Want {
        hosts: u8,
        retired: u8,
        roster: Option<u8>,
    },
}

#[derive(Debug, Arbitrary)]
enum Word {
    Inventory { epoch: u64, seq: u64, wears: u8, jobs: u8 },
    Event { epoch: u64, seq: u64, job: u8, is_deleted: bool },
    Rename { epoch: u64, seq: u64, wears: u8 },
    Current,
    Age(u64),
}

fuzz_target!(|deeds: Vec<Deed>| {
    let mut now_ms = 1;
    let mut core = Core::new(now_ms);
    let mut retired = BTreeSet::new();
    let mut out = Vec::new();
    let everybody = Wanted {
        sources: (0..=HOSTS).map(source).collect(),
        is_settled: true,
        ..Wanted::default()
    };
    core.handle(now_ms, Input::Wanted(everybody), &mut out);
    for deed in deeds.into_iter().take(100) {
        let before = cursors(&core);
        out.clear();
        if let Deed::Tick(ms) = deed {
            now_ms += u64::from(ms);
        }
        if let Deed::Want { retired: more, .. } = &deed {
            retired.extend(some_hosts(*more));
        }
        let (input, is_forged) = input(deed, &retired);
        let by = match &input {
            Some(Input::Frame { source, .. }) => Some(source.clone()),
            _ => None,
        };
        if let Some(input) = input {
            core.handle(now_ms, input, &mut out);
        }
        let after = cursors(&core);
        if is_forged {
            assert_eq!(after, before, "a forged word changed the view");
        }
        for (host, at) in &before {
            let is_kept = after.get(host).is_some_and(|now| now >= at);
            assert!(is_kept || retired.contains(host), "{host} was at {at}, now {after:?}");
        }
        for (host, row) in core.view().hosts() {
            assert_eq!(*host, HostId::of(&row.host.key), "a row with another host's key");
            assert!(row.cursor.seq <= CURSOR_MAX && row.cursor.epoch.0 <= CURSOR_MAX);
        }
        // Whom a frame makes a liar is whoever has sent it.
        for effect in &out {
            if let Effect::Quarantine { source, .. } = effect {
                assert!(by.is_none() || by.as_ref() == Some(source));
            }
        }
        let _ = (core.statuses(), core.waiting_for(now_ms), core.ages(now_ms));
    }
});

/// Hosts 0 to 2, and another monitor.
fn source(n: u8) -> Source {
    match n % (HOSTS + 1) {
        HOSTS => Source::Monitor("https://m".to_owned()),
        n => Source::Host(host(n).id),
    }
}

fn some_hosts(bits: u8) -> BTreeSet<HostId> {
    (0..HOSTS).filter(|n| bits >> n & 1 == 1).map(|n| host(n).id).collect()
}

fn cursors(core: &Core) -> BTreeMap<HostId, Cursor> {
    core.view().hosts().map(|(host, row)| (host.clone(), row.cursor)).collect()
}

/// What the monitor is told, and whether it is a lie that it must notice.
fn input(deed: Deed, retired: &BTreeSet<HostId>) -> (Option<Input>, bool) {
    let input = match deed {
        Deed::Open(n) => Input::Opened { source: source(n), url: "https://x".to_owned() },
        Deed::End(n) => Input::Ended { source: source(n), why: "it ended".to_owned() },
        Deed::Tick(_) => Input::Tick,
        Deed::Want { hosts, roster, .. } => Input::Wanted(Wanted {
            sources: (0..=HOSTS).filter(|n| hosts >> n & 1 == 1).map(source).collect(),
            roster: roster.map(some_hosts),
            retired: retired.clone(),
            is_settled: true,
        }),
        Deed::Write { by, text } => match newer::read(&Encoded::from(text)) {
            Ok(Reading::Frame(frame) | Reading::Partly(frame, _)) => {
                Input::Frame { source: source(by), frame }
            }
            Ok(Reading::Missed(Newer { host: Some(host), what })) => Input::Newer { host, what },
            Ok(Reading::Missed(_) | Reading::Skipped(_)) => return (None, false),
            Err(error) => Input::Hostile { source: source(by), why: error.to_string() },
        },
        Deed::Say { by, of, word } => {
            let source = source(by);
            let (frame, wears) = frame(of % HOSTS, word);
            let for_another = |id: &HostId| *id != host(of % HOSTS).id;
            let is_forged = match &source {
                Source::Host(speaker) => for_another(speaker) && frame != Frame::Current,
                Source::Monitor(_) => false,
            };
            let is_masked = wears.is_some_and(|wears| wears % HOSTS != of % HOSTS);
            return (Some(Input::Frame { source, frame }), is_forged || is_masked);
        }
    };
    (Some(input), false)
}

/// A host that calls itself `of` and shows the key of `wears`.
fn masked(of: u8, wears: u8) -> Host {
    Host { key: host(wears % HOSTS).key, ..host(of) }
}

fn frame(of: u8, word: Word) -> (Frame, Option<u8>) {
    let cursor = |epoch, seq| Cursor { epoch: Epoch(epoch), seq };
    let event = |epoch, seq, fact| {
        Frame::Event(Event { host: host(of).id, cursor: cursor(epoch, seq), at_ms: 0, fact })
    };
    match word {
        Word::Inventory { epoch, seq, wears, jobs } => {
            let inventory = Inventory {
                cursor: cursor(epoch, seq),
                host: masked(of, wears),
                jobs: (0..jobs % 4).map(|n| job(n, seq)).collect(),
                observed: vec![],
            };
            (Frame::Inventory(Box::new(inventory)), Some(wears))
        }
        Word::Event { epoch, seq, job: n, is_deleted: true } => {
            (event(epoch, seq, Fact::JobDeleted { job: job_id(n % 4) }), None)
        }
        Word::Event { epoch, seq, job: n, is_deleted: false } => {
            (event(epoch, seq, Fact::JobChanged { job: Box::new(job(n % 4, seq)) }), None)
        }
        Word::Rename { epoch, seq, wears } => {
            let host = Box::new(masked(of, wears));
            (event(epoch, seq, Fact::HostChanged { host }), Some(wears))
        }
        Word::Current => (Frame::Current, None),
        Word::Age(age_ms) => {
            let freshness = Freshness::Fresh;
            (Frame::Freshness { host: host(of).id, freshness, age_ms }, None)
        }
    }
}
