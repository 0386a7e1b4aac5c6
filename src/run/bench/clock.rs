//! The clock a figure was measured at. Where the system does not tell, there is none.

use crate::abi::BackendKind;
use crate::error::Result;
use std::process::{Command, Stdio};

/// The clock in MHz while `busy` keeps the device so. `busy` may be called any number of times.
pub(super) fn under_load(kind: BackendKind, mut busy: impl FnMut() -> Result<()>) -> Result<Option<f64>> {
    match kind {
        BackendKind::Cpu => {
            busy()?;
            Ok(std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| host(&text)))
        }
        BackendKind::Cuda => {
            let query = ["--query-gpu=clocks.sm", "--format=csv,noheader,nounits"];
            let asked = Command::new("nvidia-smi").args(query).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
            let Ok(mut asked) = asked else { return Ok(None) };
            // It answers after some milliseconds in which the card would clock down.
            let mut outcome = Ok(());
            while outcome.is_ok() && matches!(asked.try_wait(), Ok(None)) {
                outcome = busy();
            }
            let answer = asked.wait_with_output();
            outcome?;
            Ok(answer.ok().and_then(|a| card(&String::from_utf8_lossy(&a.stdout))))
        }
        // No interface tells.
        BackendKind::Wgpu => Ok(None),
    }
}

/// The mean clock of the host's cores.
fn host(text: &str) -> Option<f64> {
    let clocks: Vec<f64> = text
        .lines()
        .filter(|l| l.starts_with("cpu MHz"))
        .filter_map(|l| l.split(':').nth(1)?.trim().parse().ok())
        .collect();
    (!clocks.is_empty()).then(|| clocks.iter().sum::<f64>() / clocks.len() as f64)
}

/// The clock of the only card; of several nothing says which is meant.
fn card(text: &str) -> Option<f64> {
    let mut lines = text.lines().filter(|l| !l.trim().is_empty());
    let clock = lines.next()?.trim().parse().ok();
    clock.filter(|_| lines.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_as_systems_tell_them() {
        assert_eq!(host("processor : 0\ncpu MHz\t\t: 2000.0\ncpu MHz : 3000.5\n"), Some(2500.25));
        assert_eq!(host("processor : 0\n"), None);
        assert_eq!(card("1830\n"), Some(1830.0));
        assert_eq!((card("1830\n1200\n"), card(""), card("[N/A]\n")), (None, None, None));
    }
}
