//! How long something takes: runs that warm up, then timed ones for as long as was asked, their median and spread.

use crate::error::Result;
use crate::run::options::Cancel;
use std::time::Instant;

/// Timed runs at least, however long one takes.
pub(super) const LEAST_RUNS: usize = 3;
/// Timed runs at most.
const MOST_RUNS: usize = 10_000;

/// What the timed runs took, seconds of one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Timing {
    pub(super) runs: usize,
    pub(super) median: f64,
    /// Median distance from the median.
    pub(super) spread: f64,
    pub(super) best: f64,
    /// Least processor time, where the system tells.
    pub(super) processor: Option<f64>,
}

/// Runs `once`, which does its work `units` times, for `seconds` after as much as a quarter of that to warm up.
pub(super) fn sustained(
    seconds: f64,
    units: usize,
    cancel: &Cancel,
    mut once: impl FnMut() -> Result<()>,
) -> Result<Timing> {
    let warming = Instant::now();
    loop {
        cancel.check()?;
        once()?;
        if warming.elapsed().as_secs_f64() >= seconds / 4.0 {
            break;
        }
    }
    let (mut taken, mut processor) = (Vec::new(), None);
    let began = Instant::now();
    while taken.len() < LEAST_RUNS || (began.elapsed().as_secs_f64() < seconds && taken.len() < MOST_RUNS) {
        cancel.check()?;
        let (start, used) = (Instant::now(), processor_time());
        once()?;
        taken.push(start.elapsed().as_secs_f64() / units as f64);
        if let (Some(before), Some(after)) = (used, processor_time()) {
            let one = (after - before) / units as f64;
            processor = Some(processor.map_or(one, |least: f64| least.min(one)));
        }
    }
    Ok(Timing { processor, ..Timing::of(&taken) })
}

impl Timing {
    /// Of the seconds of some runs, at least one.
    pub(super) fn of(taken: &[f64]) -> Timing {
        let median = middle(taken.to_vec());
        let spread = middle(taken.iter().map(|t| (t - median).abs()).collect());
        let best = taken.iter().copied().fold(f64::INFINITY, f64::min);
        Timing { runs: taken.len(), median, spread, best, processor: None }
    }
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[half],
        _ => (values[half - 1] + values[half]) / 2.0,
    }
}

/// Processor time of all threads of this process in seconds, as the scheduler counts it; `None` where it does not.
fn processor_time() -> Option<f64> {
    let tasks = std::fs::read_dir("/proc/self/task").ok()?;
    let of = |dir: std::path::PathBuf| -> Option<f64> {
        std::fs::read_to_string(dir.join("schedstat")).ok()?.split(' ').next()?.parse().ok()
    };
    Some(tasks.flatten().filter_map(|t| of(t.path())).sum::<f64>() * 1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_spreads() {
        let t = Timing::of(&[5.0, 1.0, 2.0, 100.0]);
        assert_eq!((t.median, t.spread, t.best, t.runs), (3.5, 2.0, 1.0, 4));
        assert_eq!(Timing::of(&[2.0]).spread, 0.0);
    }

    #[test]
    fn what_takes_long_runs_three_times_and_a_cancel_ends_it() {
        let cancel = Cancel::new();
        let mut calls = 0;
        let t = sustained(0.0, 2, &cancel, || {
            calls += 1;
            std::thread::sleep(std::time::Duration::from_millis(4));
            Ok(())
        });
        assert_eq!((t.unwrap().runs, calls), (LEAST_RUNS, LEAST_RUNS + 1));
        cancel.cancel();
        assert!(sustained(0.0, 1, &cancel, || Ok(())).is_err());
    }
}
