//! Flags of the commands about networks.

use clap::{ArgGroup, Args, Subcommand};
use protocol::network::{NetworkName, NetworkSpec, Subnet};

#[derive(Debug, Args)]
pub(crate) struct NetworksArgs {
    #[command(subcommand)]
    pub(crate) command: Option<NetworksCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NetworksCommand {
    /// Which network is on which host
    Ls,
    /// Have hosts make a network, or change it
    Create(CreateNetworkArgs),
    /// Take a network off hosts, if no VM there needs it
    Rm {
        /// The network
        name: NetworkName,
        /// Only from these hosts [default: all]
        #[arg(long, value_delimiter = ',', value_name = "HOST,…")]
        on: Vec<String>,
    },
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("kind").required(true).args(["nat", "isolated", "bridge", "vlan", "overlay"])))]
pub(crate) struct CreateNetworkArgs {
    /// What to call it
    pub(crate) name: NetworkName,
    /// Guests reach out through their host, which gives them addresses of this subnet
    #[arg(long, value_name = "SUBNET")]
    nat: Option<Subnet>,
    /// Guests of one host reach each other; with a subnet also their host, which gives them addresses
    #[arg(long, value_name = "SUBNET", num_args = 0..=1)]
    isolated: Option<Option<Subnet>>,
    /// A bridge that is on the hosts already
    #[arg(long, value_name = "BRIDGE")]
    bridge: Option<String>,
    /// A VLAN of an interface of the hosts
    #[arg(long, value_name = "TAG", requires = "uplink")]
    vlan: Option<u16>,
    /// The interface that carries the VLAN
    #[arg(long, value_name = "INTERFACE", requires = "vlan")]
    uplink: Option<String>,
    /// One Ethernet over all hosts that have it, in VXLAN, under this number; hosts that have it
    /// already stay in it
    #[arg(long, value_name = "VNI")]
    overlay: Option<u32>,
    /// Guests have their addresses from elsewhere
    #[arg(long, conflicts_with_all = ["bridge", "vlan", "overlay"])]
    no_dhcp: bool,
    /// Only on these hosts [default: all]
    #[arg(long, value_delimiter = ',', value_name = "HOST,…")]
    pub(crate) on: Vec<String>,
}

impl CreateNetworkArgs {
    /// What is asked for; of an overlay without its members, which are the hosts.
    pub(crate) fn spec(&self) -> Result<NetworkSpec, String> {
        let dhcp = !self.no_dhcp;
        let vlan = self.vlan.zip(self.uplink.clone());
        let kinds = [
            self.nat.map(|subnet| NetworkSpec::Nat { subnet, dhcp }),
            self.isolated.map(|subnet| NetworkSpec::Isolated { subnet, dhcp }),
            self.bridge.clone().map(|bridge| NetworkSpec::Bridge { bridge }),
            vlan.map(|(tag, uplink)| NetworkSpec::Vlan { uplink, tag }),
            self.overlay.map(|vni| NetworkSpec::Overlay { vni, members: vec![] }),
        ];
        let spec = kinds.into_iter().flatten().next();
        let spec = spec.ok_or("name one kind: --nat, --isolated, --bridge, --vlan or --overlay")?;
        match &spec {
            NetworkSpec::Overlay { .. } => Ok(spec),
            other => other.validate().map(|()| spec.clone()).map_err(|error| error.to_string()),
        }
    }
}
