//! The page's files, as they are in `ostler/ui`: part of the program, nothing is read or fetched.

/// A file of the page.
pub(crate) struct File {
    /// Its name below the page.
    pub(crate) name: &'static str,
    /// Its media type.
    pub(crate) kind: &'static str,
    /// What is in it.
    pub(crate) text: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";

macro_rules! file {
    ($name:literal, $kind:expr) => {
        File { name: $name, kind: $kind, text: include_str!(concat!("../../ui/", $name)) }
    };
}

/// The page itself.
pub(crate) const PAGE: File = file!("page.html", HTML);

/// What the page loads.
const PARTS: &[File] = &[
    file!("page.css", CSS),
    file!("main.js", JS),
    file!("dom.js", JS),
    file!("words.js", JS),
    file!("store.js", JS),
    file!("feed.js", JS),
    file!("table.js", JS),
    file!("asking.js", JS),
    file!("vms.js", JS),
    file!("pane.js", JS),
    file!("acts.js", JS),
    file!("log.js", JS),
    file!("console.js", JS),
    file!("hosts.js", JS),
    file!("load.js", JS),
    file!("runs.js", JS),
    file!("list.js", JS),
    file!("filter.js", JS),
    file!("storage.js", JS),
    file!("pools.js", JS),
    file!("volumes.js", JS),
    file!("networks.js", JS),
    file!("newnetwork.js", JS),
    file!("plugs.js", JS),
    file!("images.js", JS),
    file!("disks.js", JS),
    file!("cards.js", JS),
    file!("snapshots.js", JS),
    file!("copies.js", JS),
    file!("backups.js", JS),
    file!("chores.js", JS),
    file!("quota.js", JS),
    file!("policy.js", JS),
    file!("people.js", JS),
    file!("council.js", JS),
    file!("power.js", JS),
    file!("others.js", JS),
    file!("icon.svg", "image/svg+xml"),
];

/// The file of this name.
pub(crate) fn part(name: &str) -> Option<&'static File> {
    PARTS.iter().find(|file| file.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_that_a_file_names_is_there() {
        let all = || PARTS.iter().chain([&PAGE]);
        for file in all() {
            let quoted = file.text.split(['"', '\'']).skip(1).step_by(1);
            let named = quoted.filter_map(|text| text.strip_prefix("./"));
            for name in named.filter(|name| name.ends_with(".js") || name.ends_with(".css")) {
                assert!(part(name).is_some(), "{} names {name}", file.name);
            }
        }
        for file in PARTS {
            let mark = format!("./{}", file.name);
            assert!(all().any(|other| other.text.contains(&mark)), "nothing uses {}", file.name);
        }
    }

    #[test]
    fn no_file_makes_markup_of_text_or_asks_anybody_else() {
        let sinks = [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "http://",
            "https://",
            " style=",
            " onclick=",
        ];
        for file in PARTS.iter().chain([&PAGE]) {
            for sink in sinks {
                // A namespace is a name, though it is written like an address.
                let text = file.text.replace("http://www.w3.org/2000/svg", "");
                assert!(!text.contains(sink), "{} has {sink:?}", file.name);
            }
        }
    }
}
