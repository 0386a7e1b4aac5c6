//! Seconds per phase of a job.

use std::time::Instant;

/// A clock that notes how long each phase took.
pub(super) struct Clock {
    /// When the job began.
    pub(super) began: Instant,
    last: Instant,
    /// Phases and their seconds, in order.
    pub(super) phases: Vec<(String, f64)>,
}

impl Clock {
    /// Starts it.
    pub(super) fn start() -> Clock {
        let now = Instant::now();
        Clock { began: now, last: now, phases: Vec::new() }
    }

    /// Ends the phase that began with the last lap.
    pub(super) fn lap(&mut self, name: &str) {
        let now = Instant::now();
        self.phases.push((name.to_owned(), (now - self.last).as_secs_f64()));
        self.last = now;
    }
}
