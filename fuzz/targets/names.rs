//! Whatever text a stranger writes in place of a name, a key, a size or an address is refused or
//! understood, and shown as it is understood. A join secret is shown nowhere.

#![no_main]

use std::fmt::{Debug, Display};
use std::str::FromStr;

use libfuzzer_sys::fuzz_target;
use protocol::id::{ClusterId, HostId, ImageName, JobId, RunId, TenantId};
use protocol::resources::Bytes;
use protocol::signed::{Digest, PublicKey, Signed};
use protocol::ticket::Offer;
use transport::discovery::{ClusterUrl, JoinSecret, Source};

fuzz_target!(|text: &str| {
    shown::<JobId>(text);
    shown::<HostId>(text);
    shown::<ImageName>(text);
    shown::<TenantId>(text);
    shown::<ClusterId>(text);
    shown::<RunId>(text);
    shown::<Digest>(text);
    shown::<PublicKey>(text);
    shown::<Signed<Offer>>(text);
    if let Some(job) = text.parse::<JobId>().ok() {
        // It becomes a file's name, a domain's name and a part of a path.
        assert!(!text.contains(['/', '\0', '\n', '\'', '<']) && text != "." && text != "..");
        assert_eq!(job.domain_uuid(), job.domain_uuid());
    }
    if let Ok(size) = text.parse::<Bytes>() {
        // Shown rounded: only whole numbers of a unit come back as they were.
        let _ = size.to_string();
    }
    try_source(text);
});

fn shown<T: FromStr + Display + PartialEq + Debug>(text: &str)
where
    T::Err: Display,
{
    match text.parse::<T>() {
        Ok(value) => {
            let again = value.to_string().parse::<T>();
            assert!(again.is_ok_and(|again| again == value), "{value} of {text:?}");
        }
        Err(error) => drop(error.to_string()),
    }
}

fn try_source(text: &str) {
    // A file may be called what it likes.
    let secret = text.split_once("#join=").filter(|_| !text.trim_start().starts_with("file:"));
    // What stands before it as well is no secret.
    let secret = secret.filter(|(url, secret)| {
        secret.len() >= 16 && !url.contains(secret.get(..8).unwrap_or_default())
    });
    let hides = |said: String| {
        if let Some((_, secret)) = secret {
            assert!(!said.contains(secret), "{said} of {text:?}");
        }
    };
    match text.parse::<Source>() {
        Ok(source) => {
            hides(source.to_string());
            hides(format!("{source:?}"));
            let again = source.to_string().parse::<Source>();
            assert!(again.is_ok(), "{source} of {text:?}");
        }
        Err(error) => hides(error.to_string()),
    }
    if let Ok(url) = text.parse::<ClusterUrl>() {
        hides(url.to_string());
        assert_eq!(url.full().parse::<ClusterUrl>().as_ref(), Ok(&url), "of {text:?}");
        assert!(url.to_verify().join().is_none() && !url.token().is_empty());
    }
    if let Err(error) = text.parse::<JoinSecret>() {
        drop(error);
    }
}
