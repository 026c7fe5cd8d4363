//! A watchdog for a host of the lab, whose kernel has none: reads the FIFO that the host's keeper feeds,
//! and cuts the host's power when the keeper does not.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::lab::{Lab, cut_power};

/// Where a host finds it.
pub const DOG_AT: &str = "/var/lib/ostler/dog";

/// See the module. Dropping it changes nothing: its threads end with the test.
#[derive(Debug, Clone, Default)]
pub struct Dog(Arc<Mutex<Known>>);

/// What it has seen.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// How often it was fed.
    pub meals: usize,
    /// True when the last that it heard is that nothing needs it.
    pub is_away: bool,
    /// When the host was off by its doing.
    pub bitten: Option<Instant>,
}

impl Dog {
    /// Waits for its first meal beside a host's data.
    ///
    /// # Panics
    /// When there is no room for a FIFO.
    #[must_use]
    pub fn beside(lab: &Lab, host: &str) -> Self {
        let path = lab.data(host).join(Path::new(DOG_AT).file_name().expect("it has a name"));
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("make a FIFO");
        // Writing as well, it outlives each of the keepers.
        let file = OpenOptions::new().read(true).write(true).open(path).expect("open a FIFO");
        let (meals, heard) = channel();
        let dog = Self::default();
        let (guard, host) = (dog.clone(), host.to_owned());
        thread::spawn(move || read(file, &meals));
        thread::spawn(move || guard.guard(&host, &heard));
        dog
    }

    /// What it has seen until now.
    #[must_use]
    pub fn known(&self) -> Known {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn guard(&self, host: &str, heard: &Receiver<String>) {
        let mut patience: Option<Duration> = None;
        loop {
            let line = match patience {
                None => heard.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(patience) => heard.recv_timeout(patience),
            };
            match line {
                Ok(line) => patience = self.hear(&line),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    cut_power(host);
                    return self.tell(|known| known.bitten = Some(Instant::now()));
                }
            }
        }
    }

    /// For how long it waits now.
    fn hear(&self, line: &str) -> Option<Duration> {
        self.tell(|known| {
            known.is_away = line == "V";
            known.meals += usize::from(line != "V");
        });
        (line != "V").then(|| Duration::from_millis(line.parse().expect("milliseconds")))
    }

    fn tell(&self, what: impl FnOnce(&mut Known)) {
        what(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn read(file: File, meals: &Sender<String>) {
    for line in BufReader::new(file).lines() {
        let Ok(line) = line else { return };
        if meals.send(line).is_err() {
            return;
        }
    }
}
