//! `ostler migrate`: a running VM moves to another host, as a run of the controller.

use protocol::api::Want;
use protocol::job::Pace;

use crate::cli::{MigrateArgs, Ms};
use crate::exit::{Code, Failure};
use crate::session::Session;
use crate::show;

pub(crate) async fn run(session: &Session, args: MigrateArgs) -> Result<Code, Failure> {
    if session.is_without_controller() {
        let what = "moving a VM takes two hosts and a ticket, so it needs a controller";
        return Err(Failure::usage(what).next("ostler bootstrap, then without --hosts"));
    }
    let pace = pace_of(&args)?;
    let picture = session.picture().await?;
    picture.warn();
    let row = picture.job(&args.name)?;
    let to = picture.host(&args.host)?;
    if row.host == to.host.id && !row.job.state.is_ended() {
        show::note(&format!("{} is on {} already", args.name, to.host.name));
    }
    let want = Want::Migrate { job: args.name, to: to.host.id.clone(), pace };
    session.want(want, !args.wait.no_wait).await
}

fn pace_of(args: &MigrateArgs) -> Result<Pace, Failure> {
    let pace = Pace {
        bandwidth_bytes_s: args.bandwidth.map(|size| size.0),
        downtime_ms: args.downtime.map(|Ms(ms)| u32::try_from(ms).unwrap_or(u32::MAX)),
        auto_converge: args.auto_converge,
    };
    pace.check().map_err(Failure::usage)?;
    Ok(pace)
}
