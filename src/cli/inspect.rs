//! `tessera inspect`.

use super::out;
use clap::Args;
use std::path::PathBuf;
use tessera::{Result, run};

/// Shown below the options.
pub(super) const HELP: &str = "";

/// Options of the command.
#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// The model
    model: PathBuf,
    /// Plan
    #[arg(long)]
    plan: bool,
    /// Prints one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

/// Describes a model.
pub(super) fn run(args: &InspectArgs) -> Result<()> {
    run::inspect(&args.model, args.plan).and_then(|text| out(text.trim_end()))
}
