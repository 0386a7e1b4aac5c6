//! What a model folder holds, in words.

use crate::error::{Error, Kind, Result};
use std::path::Path;

/// Describes the model in `folder`: networks, parameters, the system it serves; with `plan`, every step
/// of the plan of one window with its arena offsets.
pub fn inspect(folder: &Path, plan: bool) -> Result<String> {
    let _ = plan;
    Err(Error::new(Kind::Weights, "inspect", "no reader for model folders yet").at(folder.display()))
}
