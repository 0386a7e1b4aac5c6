//! Ctrl-C and termination: the first signal asks the job to end, the second ends the program at once.

use super::progress::say;
use std::process::exit;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;
use tessera::fs;
use tessera::run::{Cancel, unfinished_spool};

/// Exit code of an interrupted program (Ctrl-C).
const INTERRUPTED: i32 = 130;
/// Exit code of a terminated program.
#[cfg(unix)]
const TERMINATED: i32 = 143;

/// How long a job may take to end by itself after the first signal: it ends between two launches, and a
/// launch takes longer than this only on a device that hangs or a machine that is overloaded.
const PATIENCE: Duration = Duration::from_millis(1800);

/// The exit code of the signal that came, 0 while none did.
static CAME: AtomicI32 = AtomicI32::new(0);

/// The exit code that the signal received asks for, when one was received.
pub(super) fn exit_code() -> Option<u8> {
    u8::try_from(CAME.load(Ordering::SeqCst)).ok().filter(|&code| code != 0)
}

/// Notes a signal; the second one does not return.
fn note(code: i32, cancel: &Cancel) {
    if CAME.swap(code, Ordering::SeqCst) != 0 {
        end(code);
    }
    cancel.cancel();
    std::thread::spawn(move || {
        std::thread::sleep(PATIENCE);
        end(code);
    });
}

/// Ends the program now, without its unfinished files; finished rows stay.
fn end(code: i32) -> ! {
    fs::remove_unfinished();
    if let Some(spool) = unfinished_spool() {
        say(&format!("ended: finished rows are kept in {}: --resume goes on", spool.display()));
    }
    exit(code)
}

/// Starts listening. Where that fails (a sandbox without signals) the program works all the same, and
/// the system's own handling of signals applies.
#[cfg(unix)]
pub(super) fn listen(cancel: &Cancel) {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]) else { return };
    let cancel = cancel.clone();
    std::thread::spawn(move || {
        for signal in signals.forever() {
            note(if signal == SIGINT { INTERRUPTED } else { TERMINATED }, &cancel);
        }
    });
}

/// Starts listening, see the other system's twin.
#[cfg(not(unix))]
pub(super) fn listen(cancel: &Cancel) {
    let cancel = cancel.clone();
    // An error means that another handler is set already, which can't be in this program.
    let _ = ctrlc::set_handler(move || note(INTERRUPTED, &cancel));
}
