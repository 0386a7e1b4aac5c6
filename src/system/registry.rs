//! The systems there are, how a model folder of each is opened, and what each needs of a model. A new system adds a row.

use super::casarbi::CasArbi;
use super::casr::Casr;
use super::job::System;
use super::needs::Needs;
use super::{casarbi, casr, onestep};
use crate::error::{Error, Kind, Result};
use std::path::Path;

/// Every system; the first one is the default.
pub const SYSTEMS: [Needs; 3] = [onestep::NEEDS, casarbi::NEEDS, casr::NEEDS];

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
