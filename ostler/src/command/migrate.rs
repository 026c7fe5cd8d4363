//! `ostler migrate`: a running VM moves to another host, as a run of the controller.

use protocol::api::Want;

use crate::cli::MigrateArgs;
use crate::exit::{Code, Failure};
use crate::session::Session;
use crate::show;

pub(crate) async fn run(session: &Session, args: MigrateArgs) -> Result<Code, Failure> {
    if session.is_without_controller() {
        let what = "moving a VM takes two hosts and a ticket, so it needs a controller";
        return Err(Failure::usage(what).next("ostler bootstrap, then without --hosts"));
    }
    let picture = session.picture().await?;
    picture.warn();
    let row = picture.job(&args.name)?;
    let to = picture.host(&args.host)?;
    if row.host == to.host.id && !row.job.state.is_ended() {
        show::note(&format!("{} is on {} already", args.name, to.host.name));
    }
    let want = Want::Migrate { job: args.name, to: to.host.id.clone() };
    session.want(want, !args.wait.no_wait).await
}
