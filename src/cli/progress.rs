//! How a running job is shown on stderr: a bar, plain lines, or one JSON object a line.

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};
use tessera::run::{Observer, Progress};

/// What `--progress` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Style {
    /// A bar with the time left (the default on a terminal)
    Bar,
    /// A line every few seconds (the default elsewhere)
    Plain,
    /// One JSON object a line, for programs
    Json,
    /// Nothing but messages
    None,
}

/// Between two plain lines of one stage at least this much time passes.
const PLAIN_EVERY: Duration = Duration::from_secs(5);
/// The same for JSON lines.
const JSON_EVERY: Duration = Duration::from_millis(200);

/// Shows a job on stderr.
pub(super) struct Display {
    style: Style,
    bar: ProgressBar,
    stage: String,
    last: Option<Instant>,
}

impl Display {
    /// A display of the style asked for, or of the one that fits where stderr goes.
    pub(super) fn new(style: Option<Style>) -> Display {
        let fitting = if std::io::stderr().is_terminal() { Style::Bar } else { Style::Plain };
        let style = style.unwrap_or(fitting);
        let bar = if style == Style::Bar { ProgressBar::new(0) } else { ProgressBar::hidden() };
        if let Ok(look) = ProgressStyle::with_template("{prefix:>8} [{bar:32}] {percent:>3}%  {msg}") {
            bar.set_style(look.progress_chars("=> "));
        }
        Display { style, bar, stage: String::new(), last: None }
    }

    /// Takes the bar off the screen.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// Whether a line is due: the first and last of a stage always, others after `every`.
    fn due(&mut self, p: &Progress<'_>, every: Duration) -> bool {
        let new_stage = self.stage != p.stage;
        let last_one = p.total > 0 && p.done >= p.total;
        if !new_stage && !last_one && self.last.is_some_and(|at| at.elapsed() < every) {
            return false;
        }
        self.stage = p.stage.to_string();
        self.last = Some(Instant::now());
        true
    }
}

/// Writes a line to stderr. There is nobody to tell when that fails.
pub(super) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Seconds as people say them.
fn span(seconds: f64) -> String {
    // A clock that runs backwards or an estimate gone wild shows as 0 or as a very long time.
    let s = seconds.max(0.0);
    match s {
        s if s < 9.95 => format!("{s:.1} s"),
        s if s < 99.5 => format!("{s:.0} s"),
        s if s < 5_970.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

fn times(p: &Progress<'_>) -> String {
    match p.left {
        Some(left) => format!("{} gone, {} left", span(p.elapsed), span(left)),
        None => format!("{} gone", span(p.elapsed)),
    }
}

impl Observer for Display {
    fn progress(&mut self, p: &Progress<'_>) {
        match self.style {
            Style::None => {}
            Style::Bar => {
                self.bar.set_length(p.total);
                self.bar.set_position(p.done);
                self.bar.set_prefix(p.stage.to_string());
                self.bar.set_message(times(p));
                self.bar.tick();
            }
            Style::Plain => {
                if self.due(p, PLAIN_EVERY) {
                    let count = if p.total > 0 { format!(" {}/{}", p.done, p.total) } else { String::new() };
                    say(&format!("{}{count}, {}", p.stage, times(p)));
                }
            }
            Style::Json => {
                if self.due(p, JSON_EVERY) {
                    let line = json!({"stage": p.stage, "done": p.done, "total": p.total, "elapsed": p.elapsed, "left": p.left});
                    say(&line.to_string());
                }
            }
        }
    }

    fn note(&mut self, text: &str) {
        match self.style {
            Style::Json => say(&json!({"note": text}).to_string()),
            Style::Bar => self.bar.suspend(|| say(text)),
            Style::Plain | Style::None => say(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        let texts = [-1.0, 0.04, 9.9, 42.2, 100.0, 7200.0].map(span);
        assert_eq!(texts, ["0.0 s", "0.0 s", "9.9 s", "42 s", "2 min", "2.0 h"]);
    }

    #[test]
    fn plain_lines_are_few() {
        let mut d = Display::new(Some(Style::None));
        let at = |stage, done| Progress { stage, done, total: 9, elapsed: 0.0, left: None };
        let hour = Duration::from_secs(3600);
        let due: Vec<bool> = [at("a", 0), at("a", 1), at("a", 8), at("a", 9), at("b", 1), at("b", 2)]
            .iter()
            .map(|p| d.due(p, hour))
            .collect();
        assert_eq!(due, [true, false, false, true, true, false]);
    }
}
