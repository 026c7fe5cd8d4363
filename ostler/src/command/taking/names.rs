//! Names of images of disks: whose disk, and when; by which it is known later that nobody is at work on one any more.

use protocol::id::ImageName;
use protocol::vm::{DiskSpec, VmSpec};
use transport::Clock;
use uuid::Uuid;

use crate::exit::{Code, Failure};
use crate::picture::Picture;

/// How the names of images begin that commands have made, and chosen the name of.
const IMAGES: &str = "for-";
/// How old one is when nobody is at work on it any more: nothing keeps it while it waits for those of larger disks,
/// or is carried away, which may take hours.
const IMAGE_LEFT_MS: u64 = 24 * 3_600_000;

/// A disk, and what its image is to be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::command) struct DiskImage {
    /// Its name within the VM.
    pub(in crate::command) disk: String,
    /// The image.
    pub(in crate::command) name: ImageName,
}

/// An image of each disk, for somebody, by names that nobody else has.
pub(in crate::command) fn images_for(whom: &str, vm: &VmSpec) -> Vec<DiskImage> {
    let now = stamp(Clock::real().now().wall_ms);
    let salt = &Uuid::new_v4().simple().to_string()[..8];
    let one = |(at, disk): (usize, &DiskSpec)| {
        let name = ImageName::new(format!("{IMAGES}{whom}-{}-{now}-{salt}", disk.name));
        let name = name.or_else(|_| ImageName::new(format!("{IMAGES}{at}-{now}-{salt}")));
        let name = name.expect("letters, digits and dashes, and not too many");
        DiskImage { disk: disk.name.clone(), name }
    };
    vm.disks.iter().enumerate().map(one).collect()
}

/// Whether a command has made this image, and nobody is at work on it any more if no VM needs it.
pub(in crate::command) fn is_left(name: &ImageName, now_ms: u64) -> bool {
    let Some(rest) = name.as_str().strip_prefix(IMAGES) else { return false };
    let latest = stamp(now_ms.saturating_sub(IMAGE_LEFT_MS));
    let mut words = rest.rsplit('-').skip(1);
    let (Some(time), Some(day)) = (words.next(), words.next()) else { return false };
    let is_number = |text: &str, digits: usize| {
        text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    is_number(day, 8) && is_number(time, 6) && format!("{day}-{time}") < latest
}

/// A moment as a name, which images may have in theirs: `20261130-012014`, in UTC.
pub(in crate::command) fn stamp(ms: u64) -> String {
    let ms = i64::try_from(ms).unwrap_or_default();
    let at = jiff::Timestamp::from_millisecond(ms).unwrap_or_default();
    at.strftime("%Y%m%d-%H%M%S").to_string()
}

/// Refuses a name that an image has somewhere: a VM may start on any host, from the one that is there.
pub(in crate::command) fn check_names(
    picture: &Picture,
    images: &[DiskImage],
) -> Result<(), Failure> {
    for DiskImage { name, .. } in images {
        let mut hosts = picture.view.hosts().map(|(_, row)| &row.host);
        if let Some(host) = hosts.find(|host| host.images.contains_key(name)) {
            let what = format!("{} has an image {name} already", host.name);
            let next = format!("choose another name, or `ostler images rm {name}`");
            return Err(Failure::new(Code::Refused, what).next(next));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(disk: &str) -> VmSpec {
        let disk = DiskSpec { name: disk.to_owned(), ..DiskSpec::default() };
        VmSpec { disks: vec![disk], ..VmSpec::default() }
    }

    #[test]
    fn names_are_nobody_elses_and_say_how_old_they_are() {
        let now_ms = Clock::real().now().wall_ms;
        for (whom, disk) in [("web-2", "root"), (&*"x".repeat(60), "root"), ("web-2", "Data_1")] {
            let (one, other) = (images_for(whom, &vm(disk)), images_for(whom, &vm(disk)));
            assert_ne!(one, other);
            assert!(!is_left(&one[0].name, now_ms), "somebody may be at it: {}", one[0].name);
            assert!(!is_left(&one[0].name, now_ms + IMAGE_LEFT_MS / 2), "{}", one[0].name);
            assert!(is_left(&one[0].name, now_ms + 2 * IMAGE_LEFT_MS), "{}", one[0].name);
        }
        for kept in ["guest", "for-web-2-root", "for-20200101-000000", "debian-20200101-000000-aa"]
        {
            assert!(!is_left(&kept.parse().unwrap(), now_ms), "{kept}");
        }
    }
}
