//! The systems there are, how a model folder of each is opened, and what each needs of a model. A new system adds a row.

use super::casarbi::CasArbi;
use super::casr::Casr;
use super::job::System;
use super::{casarbi, casr, onestep};
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

/// Every system; the first one is the default.
pub const SYSTEMS: [Needs; 3] = [
    Needs {
        system: onestep::SYSTEM,
        class: onestep::CLASS,
        parts: &[("vae", "the autoencoder"), ("unet", "the denoiser")],
        scheduler: true,
    },
    Needs { system: casarbi::SYSTEM, class: casarbi::CLASS, parts: &casarbi::PARTS, scheduler: false },
    Needs { system: casr::SYSTEM, class: casr::CLASS, parts: &casr::PARTS, scheduler: true },
];

/// The system called `name`, or of the class `name`.
pub fn find(name: &str) -> Result<&'static Needs> {
    SYSTEMS.iter().find(|s| name == s.system || name == s.class).ok_or_else(|| {
        let names: Vec<&str> = SYSTEMS.iter().map(|s| s.system).collect();
        Error::new(Kind::Usage, "system", format!("there is no system `{name}`"))
            .advise(format!("use {}", names.join(" or ")))
    })
}

/// Opens the model in `folder`: by the system called `wanted`, or by the one whose class its index names.
pub fn open(folder: &Path, wanted: Option<&str>) -> Result<Box<dyn System>> {
    let class = onestep::class_of(folder)?;
    let wanted = wanted.map(find).transpose()?;
    let serves = SYSTEMS.iter().find(|s| s.class == class);
    if serves.is_none() || wanted.is_some_and(|w| w.class != class) {
        let why = format!("{} holds a `{class}`", folder.display());
        let classes: Vec<&str> = wanted.map_or_else(|| SYSTEMS.iter().map(|s| s.class).collect(), |w| vec![w.class]);
        let e = Error::new(Kind::Weights, "system", why);
        return Err(e.advise(format!("a folder of class {} is needed", classes.join(" or "))));
    }
    Ok(match class.as_str() {
        casarbi::CLASS => Box::new(CasArbi::open(folder)?),
        casr::CLASS => Box::new(Casr::open(folder)?),
        _ => Box::new(onestep::OneStep::open(folder)?),
    })
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
        let others: Vec<&str> = SYSTEMS.iter().map(|s| s.system).filter(|s| *s != self.system).collect();
        Err(Error::new(Kind::Weights, "system", why).advise(format!(
            "copy the missing folders, each with its config.json and safetensors file; without them --system {} runs \
             on its own model",
            others.join(" or ")
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let onestep = SYSTEMS[0];
        assert!(
            onestep.missing(Some(onestep::CLASS), |p| ["unet", "vae", "text_encoder"].contains(&p), true).is_empty()
        );
        let missing = onestep.missing(Some("StableDiffusionPipeline"), |p| p == "unet", false);
        assert_eq!(missing.len(), 3);
        assert!(missing[0].contains(onestep::CLASS) && missing[1] == "vae" && missing[2].contains("scheduler"));
        assert_eq!(find("nonsense").expect_err("none").kind(), Kind::Usage);
        assert_eq!(find(onestep::CLASS).expect("by class").system, "onestep");
    }
}
