//! `ostler protect`, `unprotect`: whether a VM's host refuses to end it. Asked of the host itself, which
//! needs nobody else for that.

use serde_json::json;

use super::act;
use crate::cli::ProtectArgs;
use crate::exit::{Code, Failure};
use crate::session::Session;
use crate::show;

pub(crate) async fn run(
    session: &Session,
    args: ProtectArgs,
    is_protected: bool,
) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    let word = if is_protected { "protect" } else { "unprotect" };
    let row = act::at_host(session, &picture, &args.name, word, &json!(null)).await?;
    if session.is_json {
        show::json_pretty(&json!({ "job": row.job, "host": row.host }));
        return Ok(Code::Ok);
    }
    show::line(&match is_protected {
        true => format!(
            "{} is protected on {}: it is not stopped, saved or deleted until `ostler unprotect {}`",
            args.name, row.host_name, args.name
        ),
        false => format!("{} is protected no more", args.name),
    });
    Ok(Code::Ok)
}
