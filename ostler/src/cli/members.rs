//! Flags of the commands that change who is trusted: arbiters, operators and readers.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use protocol::id::TenantId;
use protocol::signed::PublicKey;

use super::values::Ms;

#[derive(Debug, Args)]
pub(crate) struct ArbitersArgs {
    #[command(subcommand)]
    pub(crate) command: Option<ArbitersCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ArbitersCommand {
    /// Put another in the place of one that is lost or tired, or give it another key
    Replace {
        /// The one that leaves: its slot, or the host that it is on
        old: String,
        /// Where the new one goes; by default a host that has none and little else to do
        #[arg(long, value_name = "HOST")]
        with: Option<String>,
        #[command(flatten)]
        how: ChangeArgs,
    },
    /// One more on each of these hosts
    Add {
        /// The hosts
        #[arg(required = true, num_args = 1.., value_name = "HOST")]
        on: Vec<String>,
        #[command(flatten)]
        how: ChangeArgs,
    },
    /// Do without these
    Remove {
        /// Slots, or hosts that they are on
        #[arg(required = true, num_args = 1.., value_name = "OLD")]
        old: Vec<String>,
        #[command(flatten)]
        how: ChangeArgs,
    },
    /// Go on with a change that was interrupted
    Resume {
        #[command(flatten)]
        how: ChangeArgs,
    },
    /// Go on without those that are lost for good, when too few are left to grant anything: others take
    /// over as soon as every host has agreed. What runs and is kept runs on
    Recover {
        /// A host that is off and stays off: your word that nothing of it runs any more. It is retired,
        /// and what it ran may be started elsewhere
        #[arg(long, value_name = "HOST", num_args = 1..)]
        off: Vec<String>,
        /// Where new ones go; by default hosts that have none and little else to do
        #[arg(long, value_name = "HOST", num_args = 1..)]
        with: Vec<String>,
        #[command(flatten)]
        how: ChangeArgs,
    },
    /// Take back a change that no host has agreed to yet
    Cancel,
}

#[derive(Debug, Args)]
pub(crate) struct WitnessesArgs {
    #[command(subcommand)]
    pub(crate) command: Option<WitnessesCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum WitnessesCommand {
    /// One on each of these hosts, and on no others. Best on hosts without arbiters; 1, 3 or 5 of them
    Set {
        /// The hosts
        #[arg(required = true, num_args = 1.., value_name = "HOST")]
        on: Vec<String>,
        #[command(flatten)]
        how: ChangeArgs,
    },
    /// Do without any
    None {
        #[command(flatten)]
        how: ChangeArgs,
    },
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ChangeArgs {
    /// Tell what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How long to wait for hosts and arbiters; the same command goes on later
    #[arg(long, default_value = "5m", value_name = "TIME")]
    pub(crate) timeout: Ms,
}

#[derive(Debug, Args)]
pub(crate) struct OperatorsArgs {
    #[command(subcommand)]
    pub(crate) command: Option<OperatorsCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OperatorsCommand {
    /// Print the key of this context (`--context`), which need not belong to any cluster yet
    Key,
    /// Believe another key, such as `ostler operators key` prints in another context. Its owner then
    /// runs `ostler bootstrap` there, which changes nothing and fetches the trust document
    Add {
        /// The key
        #[arg(allow_hyphen_values = true)]
        key: PublicKey,
    },
    /// Believe a key no more
    Remove {
        /// The key
        #[arg(allow_hyphen_values = true)]
        key: PublicKey,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ReadersArgs {
    #[command(subcommand)]
    pub(crate) command: Option<ReadersCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ReadersCommand {
    /// Print the key of this context (`--context`), which need not belong to any cluster yet
    Key,
    /// Let a key look, such as `ostler readers key` prints in another context. Its owner then runs
    /// `ostler trust fetch` there
    Add {
        /// The key
        #[arg(allow_hyphen_values = true)]
        key: PublicKey,
        /// What to call it
        #[arg(long)]
        name: String,
        /// Let it read `/metrics` and nothing else
        #[arg(long)]
        metrics_only: bool,
    },
    /// Let a key look no more
    Remove {
        /// Its name, or the key
        #[arg(allow_hyphen_values = true)]
        reader: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct UsersArgs {
    #[command(subcommand)]
    pub(crate) command: Option<UsersCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum UsersCommand {
    /// Print the key of this context (`--context`), which need not belong to any cluster yet
    Key,
    /// Let a key run the VMs of a tenant, such as `ostler users key` prints in another context. Its owner
    /// then runs `ostler trust fetch` there
    Add {
        /// The key
        #[arg(allow_hyphen_values = true)]
        key: PublicKey,
        /// What to call it
        #[arg(long)]
        name: String,
        /// Whose VMs
        #[arg(long)]
        tenant: TenantId,
    },
    /// Let a key run VMs no more
    Remove {
        /// Its name, or the key
        #[arg(allow_hyphen_values = true)]
        user: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct PrometheusArgs {
    /// The folder to write, which Prometheus may read: files get the owner and group that it has
    pub(crate) folder: PathBuf,
    /// What its key is called in the cluster
    #[arg(long, default_value = "prometheus")]
    pub(crate) name: String,
}
