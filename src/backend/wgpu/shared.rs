//! Errors of the device: scopes around calls, the lost flag, and errors nobody waited for.

use crate::error::{Error, Kind, Result};
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// What went wrong outside a call of ours.
#[derive(Debug, Default)]
pub(super) struct Faults {
    lost: Mutex<Option<String>>,
    stray: Mutex<Option<String>>,
}

fn put(slot: &Mutex<Option<String>>, message: String) {
    // The first message is the cause; later ones are its consequences.
    slot.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(message);
}

impl Faults {
    /// The device is gone.
    pub(super) fn lose(&self, message: String) {
        put(&self.lost, message);
    }

    /// An error that no scope caught.
    pub(super) fn remember(&self, message: String) {
        put(&self.stray, message);
    }

    /// An error if the device is gone, or if something failed unseen since the last call.
    pub(super) fn check(&self, doing: &str) -> Result<()> {
        if let Some(why) = self.lost.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            return Err(Error::new(Kind::DeviceLost, "wgpu", format!("{doing}: the device was lost: {why}"))
                .advise("the work since the last finished band is repeated on a new device"));
        }
        match self.stray.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(why) => Err(Error::new(Kind::Internal, "wgpu", format!("{doing}: {why}"))),
            None => Ok(()),
        }
    }
}

/// Runs `call` inside error scopes of every kind; `doing` names it in the error.
pub(super) fn scoped<T>(
    device: &wgpu::Device,
    faults: &Faults,
    doing: impl fmt::Display,
    call: impl FnOnce() -> T,
) -> Result<T> {
    let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
    let memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let value = call();
    // Popped innermost first; the outer scopes must be popped even when an inner one caught something.
    let caught = [validation.pop(), memory.pop(), internal.pop()].map(pollster::block_on);
    let mut first = Ok(value);
    for error in caught.into_iter().flatten() {
        let (kind, advice) = match &error {
            wgpu::Error::OutOfMemory { .. } => (Kind::Memory, Some("use a smaller tile, or a smaller --vram")),
            wgpu::Error::Validation { .. } | wgpu::Error::Internal { .. } => (Kind::Internal, None),
        };
        if first.is_ok() {
            let e = Error::new(kind, "wgpu", format!("{doing}: {error}"));
            first = Err(if let Some(a) = advice { e.advise(a) } else { e });
        }
    }
    // A lost device makes every later call fail one way or another: say the cause.
    faults.check(&doing.to_string())?;
    first
}

/// Waits until `submission` (or everything) is done.
pub(super) fn wait(
    device: &wgpu::Device,
    faults: &Faults,
    doing: &str,
    submission: Option<wgpu::SubmissionIndex>,
) -> Result<()> {
    let timeout = Some(Duration::from_secs(crate::limits::WGPU_WAIT_SECONDS));
    let result = device.poll(wgpu::PollType::Wait { submission_index: submission, timeout });
    faults.check(doing)?;
    result.map(|_| ()).map_err(|e| {
        Error::new(
            Kind::DeviceLost,
            "wgpu",
            format!("{doing}: no answer within {} s: {e}", crate::limits::WGPU_WAIT_SECONDS),
        )
        .advise("use a smaller tile, or another --device")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_device_stays_lost_and_a_stray_error_is_told_once() {
        let faults = Faults::default();
        faults.remember("first".into());
        faults.remember("second".into());
        let e = faults.check("a run").expect_err("stray");
        assert!(e.kind() == Kind::Internal && e.message().contains("first"), "{e}");
        assert!(faults.check("a run").is_ok());
        faults.lose("unplugged".into());
        for _ in 0..2 {
            assert_eq!(faults.check("a run").expect_err("lost").kind(), Kind::DeviceLost);
        }
    }
}
