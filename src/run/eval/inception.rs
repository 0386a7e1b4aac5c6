//! Reads the weights of SIFID's network from a file.

use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::metrics::Inception;
use crate::metrics::inception::tensors;
use crate::weights::Checkpoint;
use std::path::Path;

/// What to do about any file that is not it.
const ADVICE: &str = "take the weights of torchvision's inception_v3 or of pytorch-fid; \
                      tools/convert makes a safetensors file of their .pth";

/// The network of a safetensors file (F32, F16 or BF16) that holds [`tensors`] and whatever else. An error names the file, and
/// everything in it that is missing or of another shape, or the first number that is not finite.
pub fn inception(path: &Path) -> Result<Inception> {
    read(path).map_err(|e| if e.advice().is_some() { e } else { e.advise(ADVICE) })
}

fn read(path: &Path) -> Result<Inception> {
    let checkpoint = Checkpoint::open(path)?;
    let mut problems = Vec::new();
    let wanted = tensors();
    for (name, shape) in &wanted {
        match checkpoint.find(name) {
            None => problems.push(format!("`{name}` {shape:?} is missing")),
            Some(t) if t.shape != *shape => problems.push(format!("`{name}` is {:?}, not {shape:?}", t.shape)),
            Some(_) => {}
        }
    }
    if !problems.is_empty() {
        let count = problems.len();
        problems.truncate(limits::MAX_LISTED);
        let more = if count > problems.len() { "; .." } else { "" };
        let listed = problems.join("; ");
        let why = format!("{count} of {} tensors of Inception v3 do not fit: {listed}{more}", wanted.len());
        return Err(Error::new(Kind::Weights, "weights", format!("{}: {why}", path.display())));
    }
    Inception::new(&mut |name| checkpoint.read_f32(name)).map_err(|e| match e.stage() {
        // What the network says of its tensors names no file yet.
        "metrics" => e.at(path.display()),
        _ => e,
    })
}
