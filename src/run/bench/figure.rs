//! One figure, as it is kept: a line of JSON, a line of a table, and what a kept run says of it.

use crate::error::{Error, Kind, Result};
use crate::{fs, limits};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// How long one thing took, with all that is needed to read the figure a year later.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// `kernel`, `network`, `stem` (all launches of one kernel in a network), `phase` or `job`.
    pub what: String,
    /// What was run, with its shape.
    pub name: String,
    /// The device's own name.
    pub device: String,
    /// Storage type of activations and weights.
    pub dtype: String,
    /// The kernel variant that selection took; empty where there are many.
    pub variant: String,
    /// Timed runs, after those that warm up.
    pub runs: usize,
    /// Median seconds of one.
    pub seconds: f64,
    /// Median distance of the runs from that median, seconds.
    pub spread: f64,
    /// The fastest, seconds.
    pub best: f64,
    /// Least processor time of one run, all threads together, seconds; where the host computes and its system tells. On
    /// a busy machine this is the figure to compare.
    pub processor: Option<f64>,
    /// Host's seconds in the calls that start one recorded segment of a network, in the mean; where segments are recorded.
    pub launch: Option<f64>,
    /// Floating-point operations by the definition of what was run; a kernel may do with less. 0 where it does not count.
    pub flops: f64,
    /// Bytes of the operands, each once. 0 where it does not count.
    pub bytes: f64,
    /// Bytes over which the operands of successive runs rotate; what is less than the device's last cache was read from there.
    pub working_set: f64,
    /// Clock in MHz while it ran, where the system tells.
    pub clock_mhz: Option<f64>,
    /// Floating-point operations a second that the device can do at most in this type, where that is known.
    pub peak_flops: Option<f64>,
    /// Bytes a second that its memory can move at most, where that is known.
    pub peak_bytes: Option<f64>,
    /// Version of this program.
    pub version: String,
}

impl Figure {
    /// Operations a second of the median run.
    pub fn flops_rate(&self) -> f64 {
        self.flops / self.seconds
    }

    /// Bytes a second of the median run.
    pub fn bytes_rate(&self) -> f64 {
        self.bytes / self.seconds
    }

    /// Share of the device's arithmetic peak.
    pub fn of_peak(&self) -> Option<f64> {
        Some(self.flops_rate() / self.peak_flops?).filter(|_| self.flops > 0.0)
    }

    /// Share of the roofline: the time that arithmetic or memory alone would take, whichever is longer, over the time taken.
    pub fn of_roofline(&self) -> Option<f64> {
        let least = (self.flops / self.peak_flops?).max(self.bytes / self.peak_bytes?);
        Some(least / self.seconds).filter(|_| least > 0.0)
    }

    /// What two runs must agree in for their figures to be compared.
    fn key(&self) -> (&str, &str, &str) {
        (&self.what, &self.name, &self.dtype)
    }

    /// Head of the table that [`Figure::row`] makes lines of.
    pub fn head() -> String {
        format!(
            "{:<42} {:<4} {:<12} {:>10} {:>8} {:>9} {:>8} {:>6} {:>6} {:>6}",
            "what", "type", "variant", "median ms", "spread", "GFLOP/s", "GB/s", "peak", "roof", "MHz"
        )
    }

    /// One line; what is not known is a dash.
    pub fn row(&self) -> String {
        let rate = |v: f64| if v > 0.0 { format!("{:.1}", v * 1e-9) } else { "-".into() };
        let share = |v: Option<f64>| v.map_or_else(|| "-".into(), |v| format!("{:.1}%", 100.0 * v));
        let clock = self.clock_mhz.map_or_else(|| "-".into(), |v| format!("{v:.0}"));
        let variant = if self.variant.is_empty() { "-" } else { &self.variant };
        format!(
            "{:<42} {:<4} {:<12} {:>10.4} {:>7.1}% {:>9} {:>8} {:>6} {:>6} {:>6}{}",
            self.name,
            self.dtype,
            variant,
            self.seconds * 1e3,
            100.0 * self.spread / self.seconds,
            rate(self.flops_rate()),
            rate(self.bytes_rate()),
            share(self.of_peak()),
            share(self.of_roofline()),
            clock,
            self.launch.map(|s| format!("  {:.1} us to start a segment", s * 1e6)).unwrap_or_default()
        )
    }
}

/// The figures, one JSON object a line.
pub fn json_lines(figures: &[Figure]) -> Result<String> {
    let mut text = String::new();
    for figure in figures {
        let line = serde_json::to_string(figure).map_err(|e| Error::new(Kind::Internal, "bench", e.to_string()))?;
        text += &line;
        text.push('\n');
    }
    Ok(text)
}

/// The figures of a kept run: a file of [`json_lines`].
pub fn read(path: &Path) -> Result<Vec<Figure>> {
    let bytes = fs::File::open(path)?.read_all(limits::MAX_BENCH_BYTES)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut figures = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let figure: Figure = serde_json::from_str(line).map_err(|e| {
            let why = format!("{}, line {}: no figure of a kept run ({e})", path.display(), i + 1);
            Error::new(Kind::BadInput, "bench", why).advise("give a file that `tessera bench --save FILE` wrote")
        })?;
        // Whatever is divided by it later.
        if !(figure.seconds > 0.0 && figure.seconds.is_finite()) {
            let why = format!("{}, line {}: {} seconds", path.display(), i + 1, figure.seconds);
            return Err(Error::new(Kind::BadInput, "bench", why));
        }
        figures.push(figure);
    }
    Ok(figures)
}

/// The new figures beside those of a kept run, by name and type: how many times as fast each is now. What only one
/// of the two has is counted; another device or clock is said, since then the code alone does not explain it.
pub fn comparison(now: &[Figure], kept: &[Figure]) -> String {
    let before: BTreeMap<_, &Figure> = kept.iter().map(|f| (f.key(), f)).collect();
    let mut text = format!("{:<42} {:<4} {:>10} {:>10} {:>7}\n", "what", "type", "kept ms", "now ms", "faster");
    let (mut logs, mut devices) = (Vec::new(), Vec::new());
    for figure in now {
        let Some(old) = before.get(&figure.key()) else { continue };
        let times = old.seconds / figure.seconds;
        logs.push(times.ln());
        // A difference within both spreads is none.
        let noise = old.spread + figure.spread;
        let mark = if (old.seconds - figure.seconds).abs() <= noise { "  within the spread" } else { "" };
        let _ = writeln!(
            text,
            "{:<42} {:<4} {:>10.4} {:>10.4} {times:>6.2}x{mark}",
            figure.name,
            figure.dtype,
            old.seconds * 1e3,
            figure.seconds * 1e3
        );
        if old.device != figure.device && !devices.contains(&old.device) {
            devices.push(old.device.clone());
        }
    }
    let mean = (logs.iter().sum::<f64>() / logs.len().max(1) as f64).exp();
    let _ = write!(
        text,
        "{} figures in both runs, {mean:.3}x as fast in the geometric mean; {} only in this run, {} only in the kept one",
        logs.len(),
        now.len() - logs.len(),
        kept.len().saturating_sub(logs.len())
    );
    if !devices.is_empty() {
        let _ = write!(text, "\nthe kept run is of another device: {}", devices.join(", "));
    }
    text
}

#[cfg(test)]
pub(super) fn example(name: &str, seconds: f64) -> Figure {
    Figure {
        what: "kernel".into(),
        name: name.into(),
        device: "cpu".into(),
        dtype: "f32".into(),
        variant: "base".into(),
        runs: 9,
        seconds,
        spread: 0.01 * seconds,
        best: 0.9 * seconds,
        processor: None,
        launch: None,
        flops: 1e9,
        bytes: 1e8,
        working_set: 1e8,
        clock_mhz: None,
        peak_flops: Some(4e9),
        peak_bytes: Some(1e9),
        version: "0".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_what_binds() {
        let f = example("a", 0.5);
        // 2 GFLOP/s of 4; arithmetic would take 0.25 s, memory 0.1 s.
        assert_eq!((f.of_peak(), f.of_roofline()), (Some(0.5), Some(0.5)));
        let bound = Figure { bytes: 4e8, ..f.clone() };
        assert_eq!(bound.of_roofline(), Some(0.8));
        assert_eq!(Figure { peak_bytes: None, ..f.clone() }.of_roofline(), None);
        assert_eq!(Figure { flops: 0.0, ..f }.of_peak(), None);
    }

    #[test]
    fn a_kept_run_comes_back_and_is_compared() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kept.jsonl");
        let kept = [example("a", 1.0), example("b", 1.0), example("gone", 1.0)];
        std::fs::write(&path, json_lines(&kept).unwrap()).unwrap();
        assert_eq!(read(&path).unwrap(), kept);
        let now = [example("a", 0.5), example("b", 1.001), example("new", 1.0), example("newer", 1.0)];
        let text = comparison(&now, &kept);
        assert!(text.contains("2.00x\n") && text.contains("1.00x  within the spread"), "{text}");
        assert!(text.contains("2 figures in both runs") && text.contains("2 only in this run, 1 only in the kept one"));
        let elsewhere = [Figure { device: "card".into(), ..example("a", 1.0) }];
        assert!(comparison(&now, &elsewhere).ends_with("another device: card"));
        for (bad, says) in [("{}", "line 1"), ("\n[1]", "line 2"), ("nonsense", "line 1")] {
            std::fs::write(&path, bad).unwrap();
            let e = read(&path).unwrap_err();
            assert!(e.kind() == Kind::BadInput && e.message().contains(says), "{e}");
        }
        let zero = json_lines(&[Figure { seconds: 0.0, ..example("a", 1.0) }]).unwrap();
        std::fs::write(&path, zero).unwrap();
        assert!(read(&path).unwrap_err().message().contains("0 seconds"));
    }
}
