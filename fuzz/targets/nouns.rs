//! Whatever JSON a stranger sends is refused or understood, and what is understood is the same after
//! it was written and read again: on the wire, in a ledger, in another process.

#![no_main]

use std::sync::Arc;

use fuzz::{job, read};
use libfuzzer_sys::fuzz_target;
use monitor::newer;
use protocol::api::{
    HostRowReply, JobList, JobRows, MigrateJob, NewRun, OfferRequest, PutHandoff, PutIntent,
    PutJob, RebootJob, RunStatus, StopJob, ViewReply, Want,
};
use protocol::event::{Event, Frame};
use protocol::host::Inventory;
use protocol::job::{Job, JobSpec};
use protocol::pool::{PoolContent, PoolsConfig, Tag};
use protocol::refusal::{Problem, Refusal};
use protocol::signed::{Digest, Signed};
use protocol::ticket::{Answer, Denial, Grant, Handoff, Offer, Ticket};
use protocol::trust::{Right, Trust};
use protocol::view::{HostRow, View};
use serde::de::DeserializeOwned;
use transport::discovery::Instance;
use transport::stream::Encoded;

fuzz_target!(|text: &str| {
    if let Some(spec) = read::<JobSpec>(text) {
        try_spec(&spec);
    }
    if let Some(asked) = read::<PutJob>(text) {
        try_spec(&asked.spec);
    }
    if let Some(inventory) = read::<Inventory>(text) {
        let row = HostRow::from(inventory);
        assert_eq!(HostRow::from(Inventory::from(row.clone())), row);
    }
    if let Some(trust) = read::<Trust>(text) {
        try_trust(&trust);
    }
    if let Some(ticket) = read::<Ticket>(text) {
        try_signed(&ticket.offer);
        ticket.grants.iter().for_each(try_signed);
    }
    for signed in [read::<Signed<Offer>>(text)].into_iter().flatten() {
        try_signed(&signed);
    }
    if let Some(signed) = read::<Signed<Trust>>(text) {
        let _ = Trust::accept(None, &signed);
    }
    if let Some(refusal) = read::<Refusal>(text) {
        assert!((400..600).contains(&refusal.status()), "{refusal:?}");
        let _ = (refusal.to_string(), Problem::from(refusal));
    }
    if let Some(config) = read::<PoolsConfig>(text) {
        let _ = config.validate().map_err(|no| no.to_string());
    }
    if let Some(tag) = read::<Tag>(text) {
        let _ = tag.bytes();
    }
    read::<PoolContent>(text);
    read::<View>(text);
    read::<Job>(text);
    read::<Event>(text);
    if read::<Frame>(text).is_none() {
        // As a monitor reads what a newer agent says.
        let _ = newer::read(&Encoded::from(text.to_owned()));
    }
    read::<Offer>(text);
    read::<Grant>(text);
    read::<Denial>(text);
    read::<Handoff>(text);
    read::<Answer>(text);
    read::<Problem>(text);
    read::<Want>(text);
    read::<NewRun>(text);
    read::<RunStatus>(text);
    read::<OfferRequest>(text);
    read::<PutHandoff>(text);
    read::<PutIntent>(text);
    read::<StopJob>(text);
    read::<RebootJob>(text);
    read::<MigrateJob>(text);
    read::<JobList>(text);
    read::<JobRows>(text);
    read::<HostRowReply>(text);
    read::<ViewReply>(text);
    if let Some(instance) = read::<Instance>(text) {
        let _ = instance.prove("cluster");
    }
});

fn try_spec(spec: &JobSpec) {
    let _ = (spec.resources(), spec.takes());
    if let Err(error) = spec.validate() {
        let _ = error.to_string();
    }
    // A ticket names a spec by this, wherever it has been meanwhile.
    let text = serde_json::to_string(spec).expect("our nouns are always valid JSON");
    assert_eq!(Digest::of(text.as_bytes()), spec.digest());
    let mut job = job(0, 0);
    job.spec = Arc::new(spec.clone());
    let text = serde_json::to_string(&job).expect("our nouns are always valid JSON");
    let again: Job = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert_eq!(again.spec.digest(), spec.digest(), "after a way through a ledger: {text}");
}

fn try_trust(trust: &Trust) {
    if trust.validate().is_ok() {
        assert!(trust.member_term_ms() >= trust.term_ms, "{trust:?}");
        let k = usize::try_from(trust.k).expect("a valid k is small");
        assert!(2 * k > trust.arbiters.len(), "two quorums at once: {trust:?}");
    }
    let stranger = fuzz::key(0).public();
    let is_known = trust.role_of(&stranger).is_some();
    assert!(is_known || trust.permit(Some(&stranger), Right::Read).is_err());
    let _ = (trust.retired_hosts(), trust.roster_by_host());
}

fn try_signed<T>(signed: &Signed<T>)
where
    T: protocol::signed::Message + DeserializeOwned,
{
    let text = signed.to_string();
    let again: Signed<T> = text.parse().unwrap_or_else(|e| panic!("{e}: {text}"));
    assert!(again == *signed, "{text}");
    let _ = (signed.open().is_ok(), signed.digest());
}
