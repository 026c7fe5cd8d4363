//! `ostler agent`: the agent of this host, and where guests are embedded, its reaping parent.

use std::os::unix::process::ExitStatusExt as _;

use host_agent::{FetchLimits, Options, Share};
use protocol::hugepages::Pages;
use transport::{Clock, shutdown};

use super::roles::start_log;
use crate::block_on;
use crate::cli::{AgentArgs, ArgAccel, Global};
use crate::exit::{Code, Failure};
use crate::reaper::{Half, split};

pub(crate) fn run(args: AgentArgs, global: &Global) -> Result<Code, Failure> {
    let failed = |what: &str, error| Failure::new(Code::Failed, what).because(error);
    let needs_reaper = args.hypervisor.contains(":///embed");
    match split(needs_reaper).map_err(|error| failed("start the agent's process", error))? {
        Half::Agent => {}
        // An agent that was killed dies for the outside as if we had been.
        Half::Parent(status) => {
            let code = status.code().or(status.signal().map(|signal| 128 + signal));
            std::process::exit(code.unwrap_or(1));
        }
    }
    let _traces = start_log("agent", global.otlp.as_deref());
    let options = options_of(args)?;
    block_on(async {
        let stop = shutdown::on_signals().map_err(|error| failed("watch for signals", error))?;
        host_agent::serve(options, Clock::real(), stop)
            .await
            .map_err(|error| Failure::new(Code::Failed, "run the agent").because(error))
    })?;
    Ok(Code::Ok)
}

fn options_of(args: AgentArgs) -> Result<Options, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::new(Code::Failed, "find this program").because(error))?;
    let usual = Share::default();
    Ok(Options {
        data_dir: args.data_dir,
        listen: args.listen,
        advertise: args.advertise,
        name: args.name,
        hypervisor: args.hypervisor,
        accel: args.accel.map(ArgAccel::into),
        channels: host_agent::CHANNELS_DIR.into(),
        migrate_bandwidth: args.migrate_bandwidth.map(|size| size.0),
        discovery: args.discovery,
        share: Share {
            vcpu_overcommit: args.vcpu_overcommit.unwrap_or(usual.vcpu_overcommit),
            memory_reserve_bytes: args
                .memory_reserve
                .map_or(usual.memory_reserve_bytes, |size| size.0),
            memory_bytes: args.memory.map(|size| size.0),
            hugepages: (!args.hugepages.is_empty()).then(|| {
                let each = args.hugepages.into_iter().map(|(size, count)| Pages::of(size, count));
                each.fold(Pages::NONE, Pages::plus)
            }),
            disk_reserve_bytes: args.disk_reserve.map_or(usual.disk_reserve_bytes, |size| size.0),
        },
        dedicated_cpus: args.dedicated_cpus.unwrap_or_default(),
        fetching: FetchLimits {
            bytes_per_second: args.image_limit.map(|size| size.0),
            ..FetchLimits::default()
        },
        program,
        watchdog: args.watchdog,
        labels: args.label.into_iter().collect(),
    })
}
