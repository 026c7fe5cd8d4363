//! What machine this is, as labels that a host says of itself, so that nobody has to write them down: its
//! architecture, CPU, caches, memory, maker and system. Read once, when the agent begins.
//!
//! Leaves to others: how much there is for guests (`sensors`). What a person writes with `--label` goes before.
//!
//! | label | from | |
//! |---|---|---|
//! | `arch`, `kernel` | `uname` | |
//! | `os` | `os-release` | such as `debian-12` |
//! | `cpu-vendor`, `cpu-model` | `cpuinfo` | |
//! | `cpu-features` | `cpuinfo` | those that all CPUs have, with commas between |
//! | `cpu-mhz` | `cpufreq` | the highest, of the slowest CPU; not said where the CPU has no such setting |
//! | `cache-kib` | the first CPU's caches | the largest |
//! | `maker`, `product` | firmware | |
//! | `memory-ecc`, `memory-mts` | firmware | how errors are found; transfers a second in millions, of the slowest module |
//! | `power-supplies` | firmware | how many are there |
//!
//! What a machine does not tell is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::hardware::firmware::Firmware;

mod firmware;

/// Longest value of a label: a CPU has some 150 features of 7 letters each.
const VALUE_MAX: usize = 4096;

/// Where a machine's kernel tells of it.
#[derive(Debug)]
pub(crate) struct Machine {
    root: PathBuf,
}

impl Machine {
    /// The one that this runs on.
    pub(crate) fn here() -> Self {
        Self { root: PathBuf::from("/") }
    }

    /// All that it tells of itself.
    pub(crate) fn labels(&self) -> BTreeMap<String, String> {
        let system = rustix::system::uname();
        let cpus = self.read("proc/cpuinfo").map(|text| Cpus::of(&text)).unwrap_or_default();
        let firmware = self.bytes("sys/firmware/dmi/tables/DMI").map(|table| Firmware::of(&table));
        let firmware = firmware.unwrap_or_default();
        let told = [
            ("arch", Some(system.machine().to_string_lossy().into_owned())),
            ("kernel", Some(system.release().to_string_lossy().into_owned())),
            ("os", self.os()),
            ("cpu-vendor", cpus.vendor),
            ("cpu-model", cpus.model),
            (
                "cpu-features",
                cpus.features.map(|all| all.into_iter().collect::<Vec<_>>().join(",")),
            ),
            ("cpu-mhz", self.mhz().map(|mhz| mhz.to_string())),
            ("cache-kib", self.cache_kib().map(|kib| kib.to_string())),
            ("maker", self.read("sys/class/dmi/id/sys_vendor")),
            ("product", self.read("sys/class/dmi/id/product_name")),
            ("memory-ecc", firmware.memory_ecc.map(str::to_owned)),
            ("memory-mts", firmware.memory_mts.map(|mts| mts.to_string())),
            ("power-supplies", firmware.power_supplies.map(|count| count.to_string())),
        ];
        let told = told.into_iter().filter_map(|(key, value)| Some((key, plain(&value?)?)));
        told.map(|(key, value)| (key.to_owned(), value)).collect()
    }

    fn os(&self) -> Option<String> {
        let text = self.read("etc/os-release").or_else(|| self.read("usr/lib/os-release"))?;
        let said = |key: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            value.map(|value| value.trim_matches(['"', '\'']).to_owned())
        };
        let id = said("ID")?;
        Some(said("VERSION_ID").map_or(id.clone(), |version| format!("{id}-{version}")))
    }

    /// The highest frequency that all CPUs reach.
    fn mhz(&self) -> Option<u64> {
        let cpus = std::fs::read_dir(self.root.join("sys/devices/system/cpu")).ok()?;
        let khz = cpus.flatten().filter_map(|cpu| {
            let text = std::fs::read_to_string(cpu.path().join("cpufreq/cpuinfo_max_freq")).ok()?;
            text.trim().parse::<u64>().ok()
        });
        khz.min().map(|khz| khz / 1_000)
    }

    fn cache_kib(&self) -> Option<u64> {
        let caches = std::fs::read_dir(self.root.join("sys/devices/system/cpu/cpu0/cache")).ok()?;
        let kib = caches.flatten().filter_map(|cache| {
            let text = std::fs::read_to_string(cache.path().join("size")).ok()?;
            let text = text.trim();
            match text.strip_suffix('M') {
                Some(mib) => mib.parse::<u64>().ok()?.checked_mul(1024),
                None => text.strip_suffix('K')?.parse::<u64>().ok(),
            }
        });
        kib.max()
    }

    fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        self.bytes(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    fn bytes(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        std::fs::read(self.root.join(path)).ok()
    }
}

/// A value on one line; nothing when nothing is said.
fn plain(value: &str) -> Option<String> {
    let words = value.split(|c: char| c.is_whitespace() || c.is_control());
    let value = words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    (!value.is_empty() && value.len() <= VALUE_MAX).then_some(value)
}

/// What `cpuinfo` says. Its words differ with the architecture.
#[derive(Debug, Default)]
struct Cpus {
    vendor: Option<String>,
    model: Option<String>,
    features: Option<BTreeSet<String>>,
}

impl Cpus {
    fn of(text: &str) -> Self {
        let mut cpus = Self::default();
        for (key, value) in text.lines().filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            match key.trim() {
                "vendor_id" => cpus.vendor = Some(value.to_owned()),
                "model name" => cpus.model = Some(value.to_owned()),
                "flags" | "Features" => {
                    let here: BTreeSet<String> =
                        value.split_whitespace().map(str::to_owned).collect();
                    cpus.features = Some(match cpus.features.take() {
                        Some(all) => all.intersection(&here).cloned().collect(),
                        None => here,
                    });
                }
                _ => {}
            }
        }
        cpus
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
        let folder = tempfile::tempdir().expect("a folder");
        for (path, text) in files {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
            std::fs::write(path, text).expect("a file");
        }
        let root = folder.path().to_owned();
        (folder, Machine { root })
    }

    #[test]
    fn a_machine_says_what_its_kernel_tells() {
        let cpu = "sys/devices/system/cpu/cpu";
        let (_folder, machine) = machine(&[
            (
                "proc/cpuinfo",
                "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R)  Xeon(R) Gold 6338\n\
                 flags\t\t: fpu avx2 amx_tile\n\nprocessor\t: 1\nflags\t\t: avx2 fpu\n",
            ),
            ("etc/os-release", "NAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\nID=debian\n"),
            (&format!("{cpu}0/cpufreq/cpuinfo_max_freq"), "3200000\n"),
            (&format!("{cpu}1/cpufreq/cpuinfo_max_freq"), "3100000\n"),
            (&format!("{cpu}0/cache/index0/size"), "48K\n"),
            (&format!("{cpu}0/cache/index3/size"), "48M\n"),
            ("sys/class/dmi/id/sys_vendor", "Dell Inc.\n"),
            ("sys/class/dmi/id/product_name", " \n"),
        ]);
        let labels = machine.labels();
        let said = |key: &str| labels.get(key).map(String::as_str);
        assert_eq!(said("os"), Some("debian-12"));
        assert_eq!(said("cpu-vendor"), Some("GenuineIntel"));
        assert_eq!(said("cpu-model"), Some("Intel(R) Xeon(R) Gold 6338"));
        assert_eq!(said("cpu-features"), Some("avx2,fpu"), "what only one CPU has is no host's");
        assert_eq!(said("cpu-mhz"), Some("3100"));
        assert_eq!(said("cache-kib"), Some("49152"));
        assert_eq!(said("maker"), Some("Dell Inc."));
        assert_eq!(said("product"), None, "an empty word is none");
        assert_eq!(said("memory-ecc"), None);
        assert_eq!(said("arch"), Some(std::env::consts::ARCH));
    }

    #[test]
    fn a_machine_that_tells_nothing_has_only_what_the_kernel_itself_is() {
        let (_folder, machine) = machine(&[]);
        let keys: Vec<String> = machine.labels().into_keys().collect();
        assert_eq!(keys, ["arch", "kernel"]);
    }
}
