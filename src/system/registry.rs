//! The systems there are, and what each needs of a model. A new system adds a row.

use super::onestep;
use crate::weights::Part;

/// What a system needs of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// The system's name.
    pub system: &'static str,
    /// The class that the model's `model_index.json` names.
    pub class: &'static str,
    /// The networks.
    pub parts: &'static [Part],
    /// Whether it needs `scheduler/scheduler_config.json`.
    pub scheduler: bool,
}

/// Every system.
pub const SYSTEMS: [Needs; 1] =
    [Needs { system: "onestep", class: onestep::CLASS, parts: &[Part::Vae, Part::Unet], scheduler: true }];

impl Needs {
    /// What a model lacks for this system, in words; empty when nothing is missing. `class` is what its
    /// `model_index.json` names, `parts` the networks it has, `scheduler` whether it has one's config.
    pub fn missing(&self, class: Option<&str>, parts: &[Part], scheduler: bool) -> Vec<String> {
        let mut missing = Vec::new();
        if class != Some(self.class) {
            missing.push(format!("a model_index.json of class {}", self.class));
        }
        missing.extend(self.parts.iter().filter(|p| !parts.contains(p)).map(|p| p.folder().to_owned()));
        if self.scheduler && !scheduler {
            missing.push("scheduler/scheduler_config.json".into());
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let onestep = SYSTEMS[0];
        assert!(onestep.missing(Some(onestep::CLASS), &[Part::Unet, Part::Vae, Part::TextEncoder], true).is_empty());
        let missing = onestep.missing(Some("StableDiffusionPipeline"), &[Part::Unet], false);
        assert_eq!(missing.len(), 3);
        assert!(missing[0].contains(onestep::CLASS) && missing[1] == "vae" && missing[2].contains("scheduler"));
    }
}
