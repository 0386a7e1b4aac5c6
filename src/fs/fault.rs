//! Makes the n-th file call of this thread fail: for tests.
//!
//! A counter per thread, so that tests that run side by side do not meet. Unarmed, a call pays
//! for one thread-local read.

use std::cell::Cell;
use std::io;

/// What happens at the armed call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The disk is full.
    NoSpace,
    /// The device failed (EIO).
    Device,
    /// Permission is denied.
    Denied,
    /// A signal came in between; a retry works.
    Interrupted,
    /// A write or read moves one byte only; other calls succeed.
    Short,
}

impl Fault {
    fn error(self) -> Option<io::Error> {
        let kind = match self {
            Fault::NoSpace => io::ErrorKind::StorageFull,
            Fault::Denied => io::ErrorKind::PermissionDenied,
            Fault::Interrupted => io::ErrorKind::Interrupted,
            // EIO; like all that the system says, it has a number.
            Fault::Device => return Some(io::Error::from_raw_os_error(5)),
            Fault::Short => return None,
        };
        Some(io::Error::from(kind))
    }
}

#[derive(Clone, Copy)]
struct Plan {
    at: u64,
    fault: Fault,
    persistent: bool,
    count: u64,
    hits: u64,
}

thread_local! {
    static PLAN: Cell<Option<Plan>> = const { Cell::new(None) };
}

/// While it lives, the calls of this thread are counted and the armed one fails.
pub struct Armed(());

/// Arms call number `at` (from 0) of this thread; `persistent` makes all later ones fail too.
pub fn arm(at: u64, fault: Fault, persistent: bool) -> Armed {
    PLAN.set(Some(Plan { at, fault, persistent, count: 0, hits: 0 }));
    Armed(())
}

impl Armed {
    /// Calls that failed or were shortened so far.
    pub fn hits(&self) -> u64 {
        PLAN.get().map_or(0, |p| p.hits)
    }

    /// Calls counted so far.
    pub fn calls(&self) -> u64 {
        PLAN.get().map_or(0, |p| p.count)
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        PLAN.set(None);
    }
}

/// Counts one call. `Ok(true)` asks a read or write to be short.
pub(super) fn gate() -> io::Result<bool> {
    let Some(mut plan) = PLAN.get() else { return Ok(false) };
    let hit = plan.count == plan.at || (plan.persistent && plan.count > plan.at);
    plan.count += 1;
    plan.hits += u64::from(hit);
    PLAN.set(Some(plan));
    if !hit {
        return Ok(false);
    }
    plan.fault.error().map_or(Ok(true), Err)
}
