use crate::exit::{Code, Failure};
pub(crate) fn run(_: &crate::cli::Global, _: crate::cli::DevArgs) -> Result<Code, Failure> {
    todo!()
}
