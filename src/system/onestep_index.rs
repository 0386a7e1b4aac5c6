//! The fields of a one-step model's `model_index.json`.

use crate::error::{Error, Kind, Result};
use crate::weights::json;
use serde_json::{Map, Value as Json};
use std::ops::RangeInclusive;

/// A constant plane after the latent channels of the UNet's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plane {
    /// Noise in the input.
    Noise,
    /// Compression artefacts in the input.
    Jpeg,
    /// Input side over output side.
    InverseScale,
    /// One where the input is the result of an earlier stage, zero where it is a picture.
    Cascaded,
}

impl Plane {
    /// Every plane with its name, underscores as dashes.
    pub(super) const ALL: [(&'static str, Plane); 4] = [
        ("noise-strength", Plane::Noise),
        ("jpeg-strength", Plane::Jpeg),
        ("inverse-scale", Plane::InverseScale),
        ("cascaded", Plane::Cascaded),
    ];

    /// Its name in `model_index.json`.
    pub fn name(self) -> &'static str {
        match self {
            Plane::Noise => "noise_strength",
            Plane::Jpeg => "jpeg_strength",
            Plane::InverseScale => "inverse_scale",
            Plane::Cascaded => "cascaded",
        }
    }
}

/// How near the modes of the autoencoder come to `whole`, as measured for a model: PSNR in dB of whole jobs' pictures to the
/// one that `whole` makes, the lowest of all pictures measured.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct VaeFigures {
    /// `tile`: side of the windows in output pixels, and dB; by rising side.
    pub tile: Vec<(u32, f64)>,
    /// `shared`: the same.
    pub shared: Vec<(u32, f64)>,
}

impl VaeFigures {
    /// The figure of `list` that holds for windows of `side`: of the largest measured that are no larger.
    pub fn at(list: &[(u32, f64)], side: u32) -> Option<f64> {
        list.iter().rev().find(|(measured, _)| *measured <= side).map(|(_, db)| *db)
    }
}

pub(super) fn wrong(message: impl Into<String>) -> Error {
    Error::new(Kind::Weights, "system", message)
}

/// `model_index.json`, with errors that name it.
pub(super) struct Index<'a> {
    pub(super) name: &'a str,
    pub(super) map: &'a Map<String, Json>,
}

impl Index<'_> {
    pub(super) fn bad(&self, key: &str, expected: &str) -> Error {
        let found = self.map.get(key).map_or_else(|| "missing".to_owned(), Json::to_string);
        wrong(format!("{}: `{key}` is {}, expected {expected}", self.name, json::quoted(&found)))
    }

    pub(super) fn only(&self, key: &str, value: &str) -> Result<()> {
        if self.map.get(key).and_then(Json::as_str) == Some(value) { Ok(()) } else { Err(self.bad(key, value)) }
    }

    pub(super) fn only_if_present(&self, key: &str, value: &Json) -> Result<()> {
        match self.map.get(key) {
            Some(v) if v != value => Err(self.bad(key, &value.to_string())),
            _ => Ok(()),
        }
    }

    pub(super) fn integer(&self, key: &str) -> Result<u32> {
        let value = self.map.get(key).and_then(Json::as_u64).and_then(|v| u32::try_from(v).ok());
        value.ok_or_else(|| self.bad(key, "a whole number"))
    }

    /// A finite number; `default` where there is none.
    pub(super) fn number(&self, key: &str, default: f64) -> Result<f64> {
        match self.map.get(key) {
            None | Some(Json::Null) => Ok(default),
            Some(v) => v.as_f64().filter(|v| v.is_finite()).ok_or_else(|| self.bad(key, "a number")),
        }
    }

    /// A whole number of `range`; `default` where there is none.
    pub(super) fn whole(&self, key: &str, default: u32, range: RangeInclusive<u32>) -> Result<u32> {
        let v = self.number(key, f64::from(default))?;
        if v.fract() == 0.0 && (f64::from(*range.start())..=f64::from(*range.end())).contains(&v) {
            return Ok(v as u32);
        }
        Err(self.bad(key, &format!("a whole number from {} to {}", range.start(), range.end())))
    }

    /// One number or several, each from 0 to `most`.
    pub(super) fn numbers(&self, key: &str, default: &[f64], most: f64) -> Result<Vec<f64>> {
        let list = match self.map.get(key) {
            None | Some(Json::Null) => return Ok(default.to_vec()),
            Some(Json::Array(list)) => list.clone(),
            Some(one) => vec![one.clone()],
        };
        let found: Option<Vec<f64>> = list.iter().map(|v| v.as_f64().filter(|v| (0.0..=most).contains(v))).collect();
        found.filter(|l| !l.is_empty()).ok_or_else(|| self.bad(key, &format!("numbers from 0 to {most}")))
    }

    /// The scales that a checkpoint was trained for, smallest and largest; `None` where it does not say.
    pub(super) fn scales(&self, key: &str) -> Result<Option<[f64; 2]>> {
        let Some(found) = self.map.get(key).filter(|v| !v.is_null()) else { return Ok(None) };
        let both: Vec<f64> = found.as_array().into_iter().flatten().filter_map(Json::as_f64).collect();
        match both[..] {
            [low, high] if 1.0 <= low && low <= high && high.is_finite() => Ok(Some([low, high])),
            _ => Err(self.bad(key, "two numbers from 1, the smaller first")),
        }
    }

    /// One of some named values, whose names may be written with underscores.
    pub(super) fn named<T: Copy>(&self, key: &str, all: &[(&str, T)]) -> Result<Option<T>> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        let names: Vec<&str> = all.iter().map(|a| a.0).collect();
        let found = all.iter().find(|a| a.0 == text.replace('_', "-"));
        found.map(|a| Some(a.1)).ok_or_else(|| self.bad(key, &names.join(", ")))
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.map.get(key) {
            None | Some(Json::Null) => Ok(None),
            Some(v) => v.as_str().map(Some).ok_or_else(|| self.bad(key, "a text")),
        }
    }

    pub(super) fn planes(&self) -> Result<Vec<Plane>> {
        let Some(conditioning) = self.map.get("conditioning").filter(|v| !v.is_null()) else { return Ok(Vec::new()) };
        let Some(list) = conditioning.get("planes").and_then(Json::as_array) else {
            return Err(self.bad("conditioning", "an object with a list `planes`"));
        };
        self.named_list("conditioning", list, &Plane::ALL)
    }

    /// A list of named values, whose names may be written with underscores; `None` where there is none.
    pub(super) fn list<T: Copy>(&self, key: &str, all: &[(&str, T)]) -> Result<Option<Vec<T>>> {
        match self.map.get(key) {
            None | Some(Json::Null) => Ok(None),
            Some(Json::Array(list)) => self.named_list(key, list, all).map(Some),
            Some(_) => Err(self.bad(key, "a list")),
        }
    }

    fn named_list<T: Copy>(&self, key: &str, list: &[Json], all: &[(&str, T)]) -> Result<Vec<T>> {
        let names: Vec<&str> = all.iter().map(|a| a.0).collect();
        let of = |v: &Json| {
            let text = v.as_str().map(|t| t.replace('_', "-"));
            let found = all.iter().find(|a| Some(a.0) == text.as_deref());
            found.map(|a| a.1).ok_or_else(|| self.bad(key, &format!("names among {}", names.join(", "))))
        };
        list.iter().map(of).collect()
    }

    pub(super) fn vae_figures(&self) -> Result<VaeFigures> {
        let Some(section) = self.map.get("vae_modes").filter(|v| !v.is_null()) else {
            return Ok(VaeFigures::default());
        };
        let bad =
            || self.bad("vae_modes", "an object of `tile_psnr` and `shared_psnr`, each dB by side of the windows");
        let list = |key: &str| -> Result<Vec<(u32, f64)>> {
            let section = section.as_object().ok_or_else(bad)?;
            let Some(list) = section.get(key) else { return Ok(Vec::new()) };
            let one = |(side, db): (&String, &Json)| {
                let db = db.as_f64().filter(|db| db.is_finite());
                Some((side.parse().ok()?, db?))
            };
            let figures = list.as_object().ok_or_else(bad)?.iter().map(one).collect::<Option<Vec<_>>>();
            let mut figures = figures.ok_or_else(bad)?;
            figures.sort_by_key(|f| f.0);
            Ok(figures)
        };
        Ok(VaeFigures { tile: list("tile_psnr")?, shared: list("shared_psnr")? })
    }

    pub(super) fn residual(&self) -> Result<bool> {
        match self.map.get("residual") {
            None | Some(Json::Null | Json::Bool(false)) => Ok(false),
            Some(Json::Bool(true)) => Ok(true),
            Some(Json::Object(r)) => {
                let fits = r.get("base").and_then(Json::as_str).is_none_or(|b| b == "bicubic")
                    && r.get("gain").and_then(Json::as_f64).is_none_or(|g| g == 1.0);
                if fits { Ok(true) } else { Err(self.bad("residual", "base bicubic, gain 1")) }
            }
            Some(_) => Err(self.bad("residual", "an object or a truth value")),
        }
    }
}
