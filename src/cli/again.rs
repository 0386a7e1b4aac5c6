//! After a CUDA error that outlives its context nothing works in this process any more, but everything may in a new
//! one: the program starts itself once more, on what the unfinished job kept.

use super::progress::say;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use tessera::run::is_pipe;
use tessera::{Error, Kind, knobs};

/// How often a job is started again before its error is given.
const MOST: u32 = 2;
/// The knob that counts.
const COUNT: &str = "TESSERA_RESTARTS";

/// Starts the program again where that can help against `error`: with `--resume` where the job left a spool.
/// Returns only where it does not, or cannot: `input` and `output` that are pipes cannot be used twice.
pub(super) fn start_again(error: &Error, input: &Path, output: Option<&Path>, spooled: bool) {
    let count = knobs::get(COUNT).and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
    if error.kind() != Kind::DeviceLost || count >= MOST || is_pipe(input) || output.is_some_and(is_pipe) {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if spooled && !arguments.iter().any(|a| a == "--resume") {
        arguments.push("--resume".into());
    }
    say(&format!("{}; starting again ({} of {MOST})", error.message(), count + 1));
    let mut command = Command::new(program);
    command.args(arguments).env(COUNT, (count + 1).to_string());
    replace(command);
}

/// This process becomes the new one, so that signals and the exit code are its own.
#[cfg(unix)]
fn replace(mut command: Command) {
    use std::os::unix::process::CommandExt;
    let e = command.exec();
    say(&format!("cannot start again: {e}"));
}

/// The new process runs beside this one, which ends with its exit code.
#[cfg(not(unix))]
fn replace(mut command: Command) {
    match command.status() {
        Ok(status) => std::process::exit(status.code().unwrap_or(i32::from(Kind::DeviceLost.exit_code()))),
        Err(e) => say(&format!("cannot start again: {e}")),
    }
}
