//! `ostler log`: the end of what a VM's console or a service said, as its host kept it.

use std::io::Write as _;

use crate::cli::LogArgs;
use crate::exit::{Code, Failure};
use crate::session::Session;

/// More than this is not a tail.
const LOG_BYTES_MAX: usize = 64 << 20;

pub(crate) async fn run(session: &Session, args: LogArgs) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    let row = picture.job(&args.name)?;
    let path = format!("/v1/jobs/{}/log?tail={}", args.name, args.tail);
    let agent = picture.agent(&row.host);
    let bytes = session.client.get_bytes(&agent, &path, LOG_BYTES_MAX).await?;
    if session.is_json {
        let text = String::from_utf8_lossy(&bytes);
        crate::show::json(&serde_json::json!({ "job": args.name, "host": row.host, "log": text }));
    } else {
        let _ = std::io::stdout().write_all(&bytes);
    }
    Ok(Code::Ok)
}
