//! Standard input, which can be opened once: what a probe read waits here for the opening.

use super::input::Input;
use super::orient::Orientation;
use super::{Stored, bad};
use crate::error::Result;
use crate::fs::File;
use std::sync::{Mutex, MutexGuard, PoisonError};

enum State {
    Untouched,
    /// The header was read, no pixel yet.
    Probed(Box<dyn Stored>, Orientation),
    Taken,
}

static STATE: Mutex<State> = Mutex::new(State::Untouched);

fn state() -> MutexGuard<'static, State> {
    // Each change is one assignment.
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The picture on standard input.
pub(super) fn take() -> Result<(Box<dyn Stored>, Orientation)> {
    match std::mem::replace(&mut *state(), State::Taken) {
        State::Probed(stored, orientation) => Ok((stored, orientation)),
        State::Untouched => super::open_input(Input::of_pipe(File::stdin()?), None),
        State::Taken => {
            Err(bad("standard input was read already: its bytes come once").advise("save the picture to a file first"))
        }
    }
}

/// Keeps a picture whose pixels are unread for the next [`take`].
pub(super) fn put_back(stored: Box<dyn Stored>, orientation: Orientation) {
    *state() = State::Probed(stored, orientation);
}
