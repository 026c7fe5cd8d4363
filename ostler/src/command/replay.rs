//! `ostler replay PLAN`: makes a recorded plan again from its stored input, and says whether it is
//! the same to the letter; with `--with`, what it would have been in another world.

use std::path::PathBuf;

use planner::case::Record;

use crate::cli::Global;
use crate::command::plan::{self, Paper};
use crate::exit::{Code, Failure};
use crate::show;

/// See the module.
#[derive(Debug, clap::Args)]
pub(crate) struct ReplayArgs {
    /// What `ostler plan --record` wrote
    pub(crate) plan: PathBuf,
    #[arg(long, help = plan::WITH_HELP, value_name = "\"HOST WORD\"")]
    pub(crate) with: Vec<String>,
}

pub(crate) fn run(global: &Global, args: ReplayArgs) -> Result<Code, Failure> {
    let kept: Record = plan::read_json(&args.plan, Paper::Plan)?;
    let mut input = kept.input.clone();
    plan::with(&mut input, &args.with)?;
    let again = Record::make(input, kept.not_understood.clone());
    plan::tell(global.json, &again);
    if !args.with.is_empty() {
        return Ok(plan::code_of(again.verdict));
    }
    let text = |record: &Record| serde_json::to_string(record).expect("our nouns are valid JSON");
    if text(&kept) == text(&again) {
        show::note("the same plan, to the letter");
        return Ok(Code::Ok);
    }
    let what = "the plan came out different from the recorded one";
    Err(Failure::new(Code::Failed, what).next("was it made by another version of ostler?"))
}
