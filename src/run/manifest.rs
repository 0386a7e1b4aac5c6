//! The manifest of a folder of outputs: one JSON object a line for each picture begun, done, skipped or failed,
//! appended and on disk before the next picture begins.

use super::key::text_hash;
use super::options::{Report, UpscaleOptions};
use crate::error::{Error, Result};
use crate::fs::{self, AppendFile};
use crate::limits;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::path::Path;

/// Its name in the folder of outputs.
pub const MANIFEST: &str = "tessera-manifest.jsonl";

/// What the last line about an output says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    /// `started` or `done`.
    status: String,
    job: String,
    /// Whether the output was not there when the picture was begun.
    fresh: bool,
}

/// An open manifest.
pub(super) struct Manifest {
    file: AppendFile,
    /// By output, relative to the folder.
    last: HashMap<String, Said>,
}

/// What makes two jobs with one output the same: options that decide pixels, and the input's length and time.
pub(super) fn job_hash(options: &UpscaleOptions, input: &Path) -> String {
    let deciding = UpscaleOptions { size: options.size, ..super::key::deciding(options) };
    let model = options.model.as_deref().map(|m| m.display().to_string());
    text_hash(&format!("{} {deciding:?} {model:?} {:?}", env!("CARGO_PKG_VERSION"), fs::stamp(input)))
}

impl Manifest {
    /// Opens the manifest in `folder`, or begins one. What a killed run left half written is cut off; lines that
    /// are no JSON say nothing.
    pub(super) fn open(folder: &Path) -> Result<Manifest> {
        let (mut file, bytes) = AppendFile::open(&folder.join(MANIFEST), true, limits::MAX_JOURNAL_BYTES)?;
        let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1);
        if whole < bytes.len() {
            file.truncate(whole as u64)?;
        }
        let mut last = HashMap::new();
        for line in bytes[..whole].split(|&b| b == b'\n') {
            let Ok(Value::Object(record)) = serde_json::from_slice(line) else { continue };
            hear(&mut last, &record);
        }
        Ok(Manifest { file, last })
    }

    /// Whether the output that is there now is that of `job`: the manifest says that it was completed, or that it
    /// was begun when nothing was there. Outputs appear only complete.
    pub(super) fn is_done(&self, output: &str, job: &str) -> bool {
        self.last.get(output).is_some_and(|s| s.job == job && (s.status == "done" || s.status == "started" && s.fresh))
    }

    /// Whether the manifest knows that an output was made by another job.
    pub(super) fn is_anothers(&self, output: &str, job: &str) -> bool {
        self.last.get(output).is_some_and(|s| s.status == "done" && s.job != job)
    }

    /// Notes that a picture begins.
    pub(super) fn started(&mut self, input: &str, output: &str, job: &str, fresh: bool) -> Result<()> {
        self.add(json!({"status": "started", "input": input, "output": output, "job": job, "fresh": fresh}))
    }

    /// Notes that a picture is in its place.
    pub(super) fn done(&mut self, input: &str, output: &str, job: &str, seed: u64, r: &Report) -> Result<()> {
        self.add(json!({
            "status": "done",
            "input": input,
            "output": output,
            "from": [r.input.0, r.input.1],
            "to": [r.output.0, r.output.1],
            "seconds": r.seconds,
            "seed": seed,
            "model": r.model.to_string_lossy(),
            "device": r.device,
            "job": job,
        }))
    }

    /// Notes that a picture was left as it is.
    pub(super) fn skipped(&mut self, input: &str, output: &str, job: &str) -> Result<()> {
        self.add(json!({"status": "skipped", "input": input, "output": output, "job": job}))
    }

    /// Notes that a picture failed.
    pub(super) fn failed(&mut self, input: &str, output: Option<&str>, job: &str, e: &Error) -> Result<()> {
        let error = json!({"kind": e.kind().name(), "message": e.message()});
        self.add(json!({"status": "failed", "input": input, "output": output, "job": job, "error": error}))
    }

    fn add(&mut self, record: Value) -> Result<()> {
        let Value::Object(record) = record else { return Ok(()) };
        self.file.append(format!("{}\n", Value::Object(record.clone())).as_bytes())?;
        hear(&mut self.last, &record);
        Ok(())
    }
}

/// Takes a line into account. What was skipped or failed left an output that is there as it was; but what failed
/// is no longer begun.
fn hear(last: &mut HashMap<String, Said>, record: &Map<String, Value>) {
    let text = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (output, status) = (text("output"), text("status"));
    match status.as_str() {
        "started" | "done" => {
            let fresh = record.get("fresh").and_then(Value::as_bool).unwrap_or(false);
            last.insert(output, Said { status, job: text("job"), fresh });
        }
        "failed" if last.get(&output).is_some_and(|s| s.status == "started") => {
            last.remove(&output);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_last_line_says_of_the_same_job_counts() {
        let dir = tempfile::tempdir().unwrap();
        let mut m = Manifest::open(dir.path()).unwrap();
        assert!(Manifest::open(dir.path()).is_err(), "one run at a time");
        m.started("a.jpg", "a.png", "1", true).unwrap();
        m.done("a.jpg", "a.png", "1", 7, &Report::default()).unwrap();
        m.started("b.jpg", "b.png", "1", true).unwrap();
        m.started("c.jpg", "c.png", "1", false).unwrap();
        m.failed("d.jpg", Some("d.png"), "1", &Error::new(crate::Kind::Io, "x", "y")).unwrap();
        m.skipped("a.jpg", "a.png", "1").unwrap();
        m.failed("a.jpg", Some("a.png"), "2", &Error::new(crate::Kind::Io, "x", "it exists")).unwrap();
        m.started("e.jpg", "e.png", "1", true).unwrap();
        m.failed("e.jpg", Some("e.png"), "1", &Error::new(crate::Kind::Io, "x", "y")).unwrap();
        assert!(m.is_done("a.png", "1"), "in this run");
        drop(m);
        // Killed in the middle of a line.
        let path = dir.path().join(MANIFEST);
        let mut text = std::fs::read_to_string(&path).unwrap();
        let whole = text.clone();
        text.push_str("{\"status\": \"done\", \"output\": \"c.p");
        std::fs::write(&path, &text).unwrap();
        drop(Manifest::open(dir.path()).unwrap());
        assert!(!std::fs::read_to_string(&path).unwrap().contains("c.p\n") && text.len() > whole.len());
        std::fs::write(&path, format!("not JSON\n{whole}")).unwrap();
        let m = Manifest::open(dir.path()).unwrap();
        assert!(m.is_done("a.png", "1") && !m.is_done("a.png", "2") && m.is_anothers("a.png", "2"));
        assert!(m.is_done("b.png", "1"), "begun when nothing was there: what is there now is complete");
        assert!(!m.is_done("c.png", "1") && !m.is_done("d.png", "1") && !m.is_done("e.png", "1"));
    }
}
