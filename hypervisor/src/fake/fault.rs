//! What may go wrong in a fake, one stroke at a time.

use std::time::Duration;

use crate::error::ErrorKind;

/// Something that goes wrong. Unless it says otherwise, once, at the next such call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The call fails, and nothing is done.
    Fail(Method, ErrorKind),
    /// The call takes effect, and yet an error comes back.
    Ambiguous(Method, ErrorKind),
    /// The call takes this much longer.
    Slow(Method, Duration),
    /// The call comes back only after [`Fake::release`](super::Fake::release).
    Hang(Method),
    /// The guest does not react to a request to shut down or to reboot.
    GuestIgnoresShutdown,
    /// The guest is asked to give CPUs or memory up, and keeps them.
    GuestKeepsSize,
    /// The machine has no place for another device while it runs.
    NoPort,
    /// The guest is asked to let go of disks or cards, and keeps them.
    GuestKeepsDevices,
    /// A migration ends without anybody here knowing where the guest is.
    MigrateUnknown {
        /// Whether it is in fact on the target.
        has_arrived: bool,
    },
    /// A migration goes on until it is aborted or [`Fake::release`](super::Fake::release) lets it end.
    MigrateStalls,
}

/// The methods that a fault can strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is the trait's method of that name")]
pub enum Method {
    Node,
    Define,
    Start,
    Shutdown,
    Destroy,
    Pause,
    Resume,
    Reset,
    Reboot,
    Save,
    /// [`crate::Hypervisor::forget_saved`].
    ForgetSaved,
    Undefine,
    Resize,
    Attach,
    Detach,
    Snapshot,
    DeleteSnapshot,
    GrowDisk,
    ResizeDefinition,
    Label,
    List,
    Lookup,
    Usage,
    Xml,
    Definition,
    Restore,
    Describe,
    Cards,
    Networks,
    MakeNetwork,
    RemoveNetwork,
    Migrate,
    GuestOwner,
    JobProgress,
    Pin,
    AllowDowntime,
    AbortJob,
    OpenConsole,
    RecordConsole,
    Screenshot,
    OpenGraphics,
}
