//! Where the two files of the ledger are: a folder, or whatever a test puts in its place.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use redb::StorageBackend;
use redb::backends::FileBackend;

/// One of the two files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Twin {
    /// The one that agents have always had.
    Main,
    /// The one that was added, so that damage to a file costs nothing.
    Second,
}

impl Twin {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Main, Self::Second];

    /// What it is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Main => "ledger.redb",
            Self::Second => "ledger-twin.redb",
        }
    }
}

impl fmt::Display for Twin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Where the files are kept. A file is in its place only once it is complete.
pub trait Shelf {
    /// An open file.
    type File: StorageBackend;

    /// The file in its place, if there is one.
    fn open(&self, twin: Twin) -> io::Result<Option<Self::File>>;

    /// An empty file that is not in its place yet.
    fn fresh(&self, twin: Twin) -> io::Result<Self::File>;

    /// Puts the fresh file in its place, durably, whatever was there.
    fn put_in_place(&self, twin: Twin) -> io::Result<()>;

    /// Moves a damaged file away, durably; it takes the place of an earlier one.
    fn put_aside(&self, twin: Twin) -> io::Result<()>;

    /// Where the damaged file was put, while it is there.
    fn aside(&self, twin: Twin) -> Option<String>;
}

/// A folder.
#[derive(Debug, Clone)]
pub struct FileShelf {
    folder: PathBuf,
}

impl FileShelf {
    /// The files in this folder, which is there.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Whether any file of a ledger is in its place.
    #[must_use]
    pub fn has_any(&self) -> bool {
        Twin::ALL.into_iter().any(|twin| self.place(twin).exists())
    }

    /// The file's place.
    #[must_use]
    pub fn place(&self, twin: Twin) -> PathBuf {
        self.folder.join(twin.name())
    }

    fn fresh_place(&self, twin: Twin) -> PathBuf {
        self.folder.join(format!(".{twin}.new"))
    }

    fn aside_place(&self, twin: Twin) -> PathBuf {
        self.folder.join(format!("{twin}.damaged"))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)?;
        File::open(&self.folder)?.sync_all()
    }
}

impl Shelf for FileShelf {
    type File = FileBackend;

    fn open(&self, twin: Twin) -> io::Result<Option<FileBackend>> {
        match OpenOptions::new().read(true).write(true).open(self.place(twin)) {
            Ok(file) => backend(file).map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn fresh(&self, twin: Twin) -> io::Result<FileBackend> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(true).mode(0o600);
        backend(options.open(self.fresh_place(twin))?)
    }

    fn put_in_place(&self, twin: Twin) -> io::Result<()> {
        self.rename(&self.fresh_place(twin), &self.place(twin))
    }

    fn put_aside(&self, twin: Twin) -> io::Result<()> {
        self.rename(&self.place(twin), &self.aside_place(twin))
    }

    fn aside(&self, twin: Twin) -> Option<String> {
        let place = self.aside_place(twin);
        place.exists().then(|| place.display().to_string())
    }
}

fn backend(file: File) -> io::Result<FileBackend> {
    FileBackend::new(file).map_err(|error| match error {
        redb::DatabaseError::Storage(redb::StorageError::Io(error)) => error,
        error => io::Error::other(error),
    })
}
