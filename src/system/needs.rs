//! What a system needs of a model's folder, and what to say where it lacks.

use crate::error::{Error, Kind, Result};
use std::path::Path;

/// What a system needs of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// The system's name, and that of its shipped model.
    pub system: &'static str,
    /// The class that the model's `model_index.json` names.
    pub class: &'static str,
    /// The folders of its networks, each with what it is and where it comes from.
    pub parts: &'static [(&'static str, &'static str)],
    /// Whether it needs `scheduler/scheduler_config.json`.
    pub scheduler: bool,
}

impl Needs {
    /// What a model lacks for this system, in words; empty when nothing is missing. `class` is what its
    /// `model_index.json` names, `has` tells which network folders it has, `scheduler` whether it has one's config.
    pub fn missing(&self, class: Option<&str>, has: impl Fn(&str) -> bool, scheduler: bool) -> Vec<String> {
        let mut missing = Vec::new();
        if class != Some(self.class) {
            missing.push(format!("a model_index.json of class {}", self.class));
        }
        missing.extend(self.parts.iter().filter(|(p, _)| !has(p)).map(|(p, _)| (*p).to_owned()));
        if self.scheduler && !scheduler {
            missing.push("scheduler/scheduler_config.json".into());
        }
        missing
    }

    /// An error that names every network `folder` lacks, what it is, and what can run without it.
    pub fn check(&self, folder: &Path) -> Result<()> {
        let lacks: Vec<String> = self
            .parts
            .iter()
            .filter(|(part, _)| !folder.join(part).join("config.json").is_file())
            .map(|(part, what)| format!("{part} ({what})"))
            .collect();
        if lacks.is_empty() {
            return Ok(());
        }
        let why = format!("{}: the system {} needs {}", folder.display(), self.system, lacks.join(" and "));
        Err(Error::new(Kind::Weights, "system", why).advise(
            "copy the missing folders, each with its config.json and safetensors file; without them the default system, onestep, \
             runs on its own model",
        ))
    }
}
