//! Forms of values that flags share, each with what would have been right.

use std::str::FromStr;

use protocol::hugepages::PageSize;
use protocol::id::RunId;
use protocol::resources::Bytes;
use protocol::vm::{NicModel, NicSpec, OnLoss, Plug, Priority, Restart};

/// A length of time: `500ms`, `30s`, `5m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ms(pub(crate) u64);

impl FromStr for Ms {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
        let wrong = || format!("{text:?} is not a time: write 500ms, 30s, 5m or 1h");
        let (number, unit) = text.split_at(text.find(char::is_alphabetic).ok_or_else(wrong)?);
        let (_, ms) = units.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        number.checked_mul(*ms).map(Ms).ok_or_else(wrong)
    }
}

/// A moment, in milliseconds since 1970: `2026-12-05T22:30Z`, `2026-12-05T22:30:00+01:00`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment(pub(crate) u64);

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let at = text.parse::<jiff::Timestamp>().ok();
        let ms = at.and_then(|at| u64::try_from(at.as_millisecond()).ok());
        ms.map(Self).ok_or_else(|| {
            format!("{text:?} is no moment: write 2026-12-05T22:30Z or 2026-12-05T22:30+01:00")
        })
    }
}

/// A disk on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DiskArg {
    pub(crate) name: Option<String>,
    pub(crate) size: Bytes,
}

impl FromStr for DiskArg {
    type Err = protocol::resources::InvalidSize;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            None => Ok(Self { name: None, size: text.parse()? }),
            Some((name, size)) => Ok(Self { name: Some(name.to_owned()), size: size.parse()? }),
        }
    }
}

/// Sizes of huge pages that guests can have.
const PAGE_SIZES: [PageSize; 2] = [PageSize::MIB2, PageSize::GIB1];

pub(super) fn parse_page_size(text: &str) -> Result<PageSize, String> {
    let size = text.parse().ok().filter(|size| PAGE_SIZES.contains(size));
    size.ok_or_else(|| format!("{text:?} is no size of huge pages: use 2MiB or 1GiB"))
}

pub(super) fn parse_hugepages(text: &str) -> Result<(PageSize, u64), String> {
    let wrong = || format!("{text:?} is no number of huge pages: write 2MiB=64 or 1GiB=2");
    let (size, count) = text.split_once('=').ok_or_else(wrong)?;
    Ok((parse_page_size(size)?, count.parse().map_err(|_| wrong())?))
}

pub(super) fn parse_nic(text: &str) -> Result<NicSpec, String> {
    let wrong = || {
        format!(
            "{text:?} is no network card: use user, bridge=NAME or network=NAME, and after it \
             ,mac=ADDRESS or ,model=virtio|e1000e|rtl8139"
        )
    };
    let mut words = text.split(',');
    let first = words.next().unwrap_or_default();
    let plug = match first.split_once('=') {
        None if first == "user" => Plug::User,
        Some(("bridge", bridge)) => Plug::Bridge { bridge: bridge.to_owned() },
        Some(("network", name)) => Plug::Libvirt { name: name.to_owned() },
        _ => return Err(wrong()),
    };
    let mut nic = NicSpec::from(plug);
    for word in words {
        match word.split_once('=') {
            Some(("mac", mac)) => nic.mac = Some(mac.to_owned()),
            Some(("model", "virtio")) => nic.model = NicModel::Virtio,
            Some(("model", "e1000e")) => nic.model = NicModel::E1000e,
            Some(("model", "rtl8139")) => nic.model = NicModel::Rtl8139,
            _ => return Err(wrong()),
        }
    }
    Ok(nic)
}

/// Where a discovery server is, without what would follow for one of its clusters.
pub(super) fn parse_server(text: &str) -> Result<String, String> {
    let wrong = || format!("{text:?} is no server: write http://SERVER:PORT or https://…");
    let uri: http::Uri = text.parse().map_err(|_| wrong())?;
    let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
    if !is_web || uri.host().is_none_or(str::is_empty) {
        return Err(wrong());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

pub(super) fn parse_restart(text: &str) -> Result<Restart, String> {
    match text {
        "never" => Ok(Restart::Never),
        "on-crash" => Ok(Restart::OnCrash),
        "always" => Ok(Restart::Always),
        _ => Err(format!("{text:?} is no such time: use never, on-crash or always")),
    }
}

pub(super) fn parse_on_loss(text: &str) -> Result<OnLoss, String> {
    match text {
        "keep" => Ok(OnLoss::Keep),
        "stop" => Ok(OnLoss::Stop),
        _ => Err(format!("{text:?} is nothing that becomes of a VM: use keep or stop")),
    }
}

pub(super) fn parse_priority(text: &str) -> Result<Priority, String> {
    let number: u8 = text.parse().map_err(|_| format!("{text:?} is no priority: use 1 to 100"))?;
    Priority::try_from(number).map_err(|error| error.to_string())
}

pub(crate) fn parse_label(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    pair.map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| format!("{text:?} is no label: write KEY=VALUE"))
}

/// The beginning of a run's id is enough for a person.
pub(crate) fn run_id_matches(id: RunId, text: &str) -> bool {
    text.len() >= 4 && id.to_string().starts_with(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_says_how_far_from_utc_it_is() {
        let ms = |text: &str| text.parse::<Moment>().map(|at| at.0);
        assert_eq!(ms("2026-01-05T00:00Z"), Ok(1_767_571_200_000));
        assert_eq!(ms("2026-01-05T00:00:01+01:00"), Ok(1_767_567_601_000));
        for text in ["2026-01-05", "2026-01-05T00:00", "monday", "1969-12-31T00:00Z", ""] {
            let said = ms(text).unwrap_err();
            assert!(said.contains("write 2026-12-05T22:30Z"), "{said}");
        }
    }

    #[test]
    fn a_server_is_said_with_its_scheme() {
        let is = |text: &str| parse_server(text).ok();
        assert_eq!(is("http://10.0.0.1:7400/").as_deref(), Some("http://10.0.0.1:7400"));
        assert_eq!(
            is("https://find.example/ostler").as_deref(),
            Some("https://find.example/ostler")
        );
        for text in ["nonsense", "10.0.0.1:7400", "ftp://10.0.0.1", "http://", ""] {
            let said = parse_server(text).unwrap_err();
            assert!(said.contains("write http://SERVER:PORT"), "{text}: {said}");
        }
    }
}
