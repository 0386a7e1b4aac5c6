//! The main job: a picture in, a larger picture out.

use super::options::{Cancel, Observer, Report, UpscaleOptions};
use crate::error::{Error, Kind, Result};

/// Upscales one picture.
pub fn upscale(options: &UpscaleOptions, observer: &mut dyn Observer, cancel: &Cancel) -> Result<Report> {
    cancel.check()?;
    observer.note(&format!("reading {}", options.input.display()));
    Err(Error::new(Kind::Internal, "run", "the interpreter is not wired to pictures yet"))
}
