//! `tessera upscale` over a folder: what is said of each picture, and of all.

use super::out;
use super::progress::{Display, say};
use super::units::lossy;
use super::upscale::report_json;
use serde_json::{Value, json};
use tessera::Result;
use tessera::run::{self, Cancel, FolderOptions, MANIFEST, Outcome, Picture};

/// Upscales a folder: the path of each picture made goes to stdout as it is made, or one JSON object at the end.
/// True when nothing failed.
pub(super) fn run(options: &FolderOptions, as_json: bool, mut display: Display, cancel: &Cancel) -> Result<bool> {
    let mut told = Ok(());
    let mut tell = |picture: &Picture| {
        if let Outcome::Failed(e) = &picture.outcome {
            say(&super::one_line(&e.to_string()));
        }
        if let (false, Outcome::Done(report)) = (as_json, &picture.outcome)
            && told.is_ok()
        {
            told = out(&report.path.display().to_string());
        }
    };
    let outcome = run::folder(options, &mut display, cancel, &mut tell);
    display.finish();
    let all = outcome?;
    told?;
    let count = |kind: fn(&Outcome) -> bool| all.iter().filter(|p| kind(&p.outcome)).count();
    let done = count(|o| matches!(o, Outcome::Done(_)));
    let skipped = count(|o| matches!(o, Outcome::Skipped));
    let failed = count(|o| matches!(o, Outcome::Failed(_)));
    if as_json {
        let pictures: Vec<Value> = all.iter().map(picture_json).collect();
        out(&json!({"pictures": pictures, "done": done, "skipped": skipped, "failed": failed}).to_string())?;
    }
    let verb = if options.each.dry_run { "would be done" } else { "done" };
    let listed = if options.each.dry_run { String::new() } else { format!("; {MANIFEST} lists them") };
    say(&format!("{done} {verb}, {skipped} skipped, {failed} failed{listed}"));
    Ok(failed == 0)
}

fn picture_json(p: &Picture) -> Value {
    let mut value = json!({"input": lossy(&p.input), "output": p.output.as_deref().map(lossy)});
    let (name, more) = match &p.outcome {
        Outcome::Done(report) => ("done", ("report", report_json(report))),
        Outcome::Skipped => ("skipped", ("report", Value::Null)),
        Outcome::Failed(e) => {
            let error =
                json!({"kind": e.kind().name(), "stage": e.stage(), "message": e.message(), "advice": e.advice()});
            ("failed", ("error", error))
        }
    };
    value["status"] = name.into();
    value[more.0] = more.1;
    value
}
