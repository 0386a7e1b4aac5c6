//! `tessera clean`: what interrupted jobs left behind.

use super::out;
use super::progress::say;
use super::units::mebibytes;
use clap::Args;
use std::path::PathBuf;
use tessera::Result;
use tessera::run::{self, Fate};

/// Shown below the options.
pub(super) const HELP: &str = "\
Examples:
  tessera clean                        spools and unfinished files in this folder
  tessera clean photos --recursive     and in every folder in photos
  tessera clean --dry-run              what would be removed";

#[derive(Debug, Args)]
pub(super) struct CleanArgs {
    /// Where to look [default: the current folder]
    #[arg(value_name = "FOLDER")]
    folders: Vec<PathBuf>,
    /// Also in the folders in it, and in those in them
    #[arg(long)]
    recursive: bool,
    /// Only says what would be removed
    #[arg(long)]
    dry_run: bool,
}

/// Removes what is left behind and prints it; what a living run needs stays. True when all went well.
pub(super) fn run(args: &CleanArgs) -> Result<bool> {
    let folders = if args.folders.is_empty() { vec![PathBuf::from(".")] } else { args.folders.clone() };
    let left = run::clean(&folders, args.recursive, args.dry_run)?;
    let (mut bytes, mut count, mut good) = (0, 0, true);
    for thing in &left {
        match &thing.fate {
            Fate::Removed => {
                out(&thing.path.display().to_string())?;
                bytes += thing.bytes;
                count += 1;
            }
            Fate::InUse => say(&format!("a living run needs {}", thing.path.display())),
            Fate::Failed(e) => {
                say(&e.to_string());
                good = false;
            }
        }
    }
    let what = if args.dry_run { "would be removed" } else { "removed" };
    say(&format!("{count} {what}, {}", mebibytes(bytes)));
    Ok(good)
}
