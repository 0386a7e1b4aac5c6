//! Reads `scheduler/scheduler_config.json` field by field: every field is honoured, refused by name, or one
//! that the sampler at hand does not look at; a field nobody knows is refused.

use super::{BetaSchedule, Prediction, Schedule, alphas_cumprod};
use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::weights::json::{self, quoted};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// How a latent is brought from one time step to the next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Method {
    /// Ancestral sampling of Ho et al., `DDPMScheduler`.
    Ddpm,
    /// Song et al., `DDIMScheduler`: `eta` 0 is deterministic, 1 adds as much noise as DDPM.
    Ddim {
        /// Share of DDPM's noise.
        eta: f64,
    },
    /// Euler's method on the probability flow, `EulerDiscreteScheduler` without churn.
    Euler,
}

/// Which of the training's time steps are visited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spacing {
    /// The first of each interval, plus `steps_offset`.
    Leading,
    /// The last of each interval.
    Trailing,
    /// From the last to the first, both included.
    Linspace,
}

/// Where Euler's method ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinalSigma {
    /// At the clean sample.
    Zero,
    /// At the noise of training step 0.
    SigmaMin,
}

/// Variance of the noise that DDPM adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variance {
    /// The posterior's.
    FixedSmall,
    /// The same by its logarithm: equal up to rounding.
    FixedSmallLog,
    /// The forward process's.
    FixedLarge,
}

/// A scheduler as its config describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct SchedulerConfig {
    /// The forward process and what the denoiser predicts.
    pub schedule: Schedule,
    /// How to step.
    pub method: Method,
    /// `timestep_spacing`.
    pub spacing: Spacing,
    /// `steps_offset`, added by [`Spacing::Leading`].
    pub steps_offset: u32,
    /// DDIM's last step ends at the clean sample, not at the noise of training step 0.
    pub set_alpha_to_one: bool,
    /// `final_sigmas_type` of Euler.
    pub final_sigma: FinalSigma,
    /// `variance_type` of DDPM.
    pub variance: Variance,
}

/// Fields without effect here, each with the reason.
const WITHOUT_EFFECT: [(&str, &str); 6] = [
    ("_class_name", "says which class wrote the file; read before"),
    ("_diffusers_version", "which version wrote the file"),
    ("skip_prk_steps", "how the pseudo numerical methods warm up"),
    ("dynamic_thresholding_ratio", "read with `thresholding` only, which is refused"),
    ("sample_max_value", "read with `thresholding` only, which is refused"),
    ("clip_sample_range", "read with `clip_sample` only, which is refused"),
];

impl SchedulerConfig {
    /// Reads a config as the class that wrote it. `PNDMScheduler`, which Stable Diffusion 1.x and 2.x publish,
    /// is read as DDIM with eta 0: the same forward process and time steps; its multistep rule is not built.
    pub fn from_config(text: &str) -> Result<SchedulerConfig> {
        let map = json::object("scheduler config", text.as_bytes())?;
        let method = match map.get("_class_name").map(|v| v.as_str().unwrap_or_default()) {
            Some("DDPMScheduler") => Method::Ddpm,
            Some("DDIMScheduler" | "PNDMScheduler") => Method::Ddim { eta: 0.0 },
            Some("EulerDiscreteScheduler") => Method::Euler,
            other => {
                let known = "DDPMScheduler, DDIMScheduler, PNDMScheduler (as DDIM), EulerDiscreteScheduler";
                return Err(wrong("_class_name", other.unwrap_or("absent"), known));
            }
        };
        SchedulerConfig::read_as(method, text)
    }

    /// Reads any scheduler's config as `method`'s, as diffusers' `from_config` does across classes: fields that
    /// are absent take the defaults of `method`'s class.
    pub fn read_as(method: Method, text: &str) -> Result<SchedulerConfig> {
        let mut f = Fields::new(text)?;
        let euler = method == Method::Euler;
        let schedule = f.forward_process()?;
        let spacing = [Spacing::Leading, Spacing::Trailing, Spacing::Linspace];
        let spacing =
            f.choice("timestep_spacing", if euler { 2 } else { 0 }, ["leading", "trailing", "linspace"], spacing)?;
        let steps_offset = f.number("steps_offset", 0.0)?;
        if steps_offset.fract() != 0.0 || !(0.0..=f64::from(limits::MAX_TRAIN_STEPS)).contains(&steps_offset) {
            return Err(wrong("steps_offset", &steps_offset.to_string(), "a whole number from 0"));
        }
        let final_sigma = [FinalSigma::Zero, FinalSigma::SigmaMin];
        let final_sigma = f.choice("final_sigmas_type", 0, ["zero", "sigma_min"], final_sigma)?;
        let variance = [Variance::FixedSmall, Variance::FixedSmallLog, Variance::FixedLarge];
        let names = ["fixed_small", "fixed_small_log", "fixed_large"];
        let variance = f.choice("variance_type", 0, names, variance)?;
        let set_alpha_to_one = f.bool("set_alpha_to_one", true)?;
        // DDPM and DDIM clip unless told not to; Euler knows neither field.
        let clips = [f.bool("clip_sample", !euler)?, f.bool("thresholding", false)?];
        for (key, set) in ["clip_sample", "thresholding"].into_iter().zip(clips) {
            if set && !euler {
                return Err(wrong(key, "true, or absent and so true", "false"));
            }
        }
        f.choice("timestep_type", 0, ["discrete"], [()])?;
        f.choice("interpolation_type", 0, ["linear"], [()])?;
        for key in ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"] {
            f.refuse_true(key)?;
        }
        f.refuse_any("sigma_min")?;
        f.refuse_any("sigma_max")?;
        f.finish()?;
        let steps_offset = steps_offset as u32;
        Ok(SchedulerConfig { schedule, method, spacing, steps_offset, set_alpha_to_one, final_sigma, variance })
    }
}

/// See [`Schedule::from_config`].
pub(super) fn forward_process(text: &str) -> Result<Schedule> {
    let mut f = Fields::new(text)?;
    for key in ["thresholding", "clip_sample"] {
        f.refuse_true(key)?;
    }
    f.forward_process()
}

/// A config being read: getters mark a field as read.
struct Fields {
    map: Map<String, Value>,
    seen: BTreeSet<&'static str>,
}

impl Fields {
    fn new(text: &str) -> Result<Fields> {
        if text.len() as u64 > limits::MAX_CONFIG_BYTES {
            let why = format!("scheduler config: {} bytes, the limit is {}", text.len(), limits::MAX_CONFIG_BYTES);
            return Err(Error::new(Kind::Limit, "system", why));
        }
        let mut map = json::object("scheduler config", text.as_bytes())?;
        // Values that the writer filled in by itself give way to the reader's own defaults.
        if let Some(Value::Array(names)) = map.remove("_use_default_values") {
            names.iter().filter_map(Value::as_str).for_each(|n| drop(map.remove(n)));
        }
        Ok(Fields { map, seen: BTreeSet::new() })
    }

    /// The field, `None` when absent or null.
    fn take(&mut self, key: &'static str) -> Option<&Value> {
        self.seen.insert(key);
        self.map.get(key).filter(|v| !v.is_null())
    }

    fn number(&mut self, key: &'static str, default: f64) -> Result<f64> {
        self.take(key).map_or(Ok(default), |v| v.as_f64().ok_or_else(|| wrong(key, &v.to_string(), "a number")))
    }

    fn bool(&mut self, key: &'static str, default: bool) -> Result<bool> {
        self.take(key).map_or(Ok(default), |v| v.as_bool().ok_or_else(|| wrong(key, &v.to_string(), "true or false")))
    }

    /// The meaning of the field, a text among `names`.
    fn choice<T: Copy, const N: usize>(
        &mut self,
        key: &'static str,
        default: usize,
        names: [&str; N],
        meanings: [T; N],
    ) -> Result<T> {
        let Some(value) = self.take(key) else { return Ok(meanings[default]) };
        let found = names.iter().position(|n| value.as_str() == Some(n));
        found.map(|i| meanings[i]).ok_or_else(|| wrong(key, &value.to_string(), &names.join(", ")))
    }

    fn refuse_true(&mut self, key: &'static str) -> Result<()> {
        if self.bool(key, false)? { Err(wrong(key, "true", "false")) } else { Ok(()) }
    }

    fn refuse_any(&mut self, key: &'static str) -> Result<()> {
        self.take(key).map_or(Ok(()), |v| Err(wrong(key, &v.to_string(), "null")))
    }

    fn forward_process(&mut self) -> Result<Schedule> {
        let kinds = [BetaSchedule::Linear, BetaSchedule::ScaledLinear];
        let kind = self.choice("beta_schedule", 0, ["linear", "scaled_linear"], kinds)?;
        let predictions = [Prediction::Epsilon, Prediction::V, Prediction::Sample];
        let prediction = self.choice("prediction_type", 0, ["epsilon", "v_prediction", "sample"], predictions)?;
        self.refuse_true("rescale_betas_zero_snr")?;
        self.refuse_any("trained_betas")?;
        let (start, end) = (self.number("beta_start", 0.0001)?, self.number("beta_end", 0.02)?);
        let steps = self.number("num_train_timesteps", 1000.0)?;
        let fits = (0.0..1.0).contains(&start) && (0.0..1.0).contains(&end);
        if !fits || steps.fract() != 0.0 || !(1.0..=f64::from(limits::MAX_TRAIN_STEPS)).contains(&steps) {
            let found = format!("{start}, {end}, {steps}");
            return Err(wrong("beta_start, beta_end, num_train_timesteps", &found, "betas in 0..1"));
        }
        Ok(Schedule { alphas_cumprod: alphas_cumprod(kind, start, end, steps as usize), prediction })
    }

    fn finish(self) -> Result<()> {
        let known = |k: &str| self.seen.contains(k) || WITHOUT_EFFECT.iter().any(|(name, _)| *name == k);
        let unknown: Vec<String> = self.map.keys().filter(|k| !known(k)).map(|k| quoted(k)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let shown = unknown.iter().take(limits::MAX_LISTED).cloned().collect::<Vec<_>>().join(", ");
        let why = format!("scheduler config: {} unknown field(s): {shown}", unknown.len());
        Err(Error::new(Kind::Weights, "system", why)
            .advise("this program would ignore what they mean, so it refuses; remove them only if they have no effect"))
    }
}

fn wrong(key: &str, found: &str, expected: &str) -> Error {
    let found = quoted(found);
    Error::new(Kind::Weights, "system", format!("scheduler config: `{key}` is {found}, supported: {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SD15: &str = r#"{"_class_name":"PNDMScheduler","_diffusers_version":"0.6.0","beta_end":0.012,
        "beta_schedule":"scaled_linear","beta_start":0.00085,"num_train_timesteps":1000,"set_alpha_to_one":false,
        "skip_prk_steps":true,"steps_offset":1,"trained_betas":null,"clip_sample":false}"#;
    const TURBO: &str = r#"{"_class_name":"EulerDiscreteScheduler","_diffusers_version":"0.24.0.dev0",
        "beta_end":0.012,"beta_schedule":"scaled_linear","beta_start":0.00085,"clip_sample":false,
        "interpolation_type":"linear","num_train_timesteps":1000,"prediction_type":"epsilon","sample_max_value":1.0,
        "set_alpha_to_one":false,"sigma_max":null,"sigma_min":null,"skip_prk_steps":true,"steps_offset":1,
        "timestep_spacing":"trailing","timestep_type":"discrete","trained_betas":null,"use_karras_sigmas":false}"#;

    #[test]
    fn the_published_configs_are_read() {
        let c = SchedulerConfig::from_config(SD15).expect("SD 1.5");
        assert_eq!((c.method, c.spacing), (Method::Ddim { eta: 0.0 }, Spacing::Leading));
        assert_eq!((c.steps_offset, c.set_alpha_to_one), (1, false));
        let c = SchedulerConfig::from_config(TURBO).expect("SD-Turbo");
        assert_eq!((c.method, c.spacing, c.final_sigma), (Method::Euler, Spacing::Trailing, FinalSigma::Zero));
        let plain = r#"{"_class_name":"EulerDiscreteScheduler"}"#;
        assert_eq!(SchedulerConfig::from_config(plain).expect("defaults").spacing, Spacing::Linspace);
        // what one class filled in by itself does not bind another
        let filled = SD15.replace(
            "\"_class_name\"",
            r#""timestep_spacing":"leading","_use_default_values":["timestep_spacing"],"_class_name""#,
        );
        let c = SchedulerConfig::read_as(Method::Euler, &filled).expect("across");
        assert_eq!(c.spacing, Spacing::Linspace);
    }

    #[test]
    fn every_field_that_is_not_built_is_refused_by_name() {
        for (extra, name) in [
            (r#""use_karras_sigmas":true"#, "use_karras_sigmas"),
            (r#""use_beta_sigmas":true"#, "use_beta_sigmas"),
            (r#""use_exponential_sigmas":true"#, "use_exponential_sigmas"),
            (r#""interpolation_type":"log_linear""#, "interpolation_type"),
            (r#""timestep_type":"continuous""#, "timestep_type"),
            (r#""timestep_spacing":"karras""#, "timestep_spacing"),
            (r#""final_sigmas_type":"one""#, "final_sigmas_type"),
            (r#""variance_type":"learned_range""#, "variance_type"),
            (r#""thresholding":true"#, "thresholding"),
            (r#""rescale_betas_zero_snr":true"#, "rescale_betas_zero_snr"),
            (r#""steps_offset":-1"#, "steps_offset"),
            (r#""steps_offset":0.5"#, "steps_offset"),
            (r#""sigma_min":0.1"#, "sigma_min"),
            (r#""trained_betas":[0.1]"#, "trained_betas"),
            (r#""frobnicate":1"#, "frobnicate"),
        ] {
            let text = format!(r#"{{"_class_name":"DDIMScheduler","clip_sample":false,{extra}}}"#);
            let e = SchedulerConfig::from_config(&text).expect_err(name);
            assert!(e.kind() == Kind::Weights && e.message().contains(name), "{e}");
        }
        for (text, name) in [
            (r#"{"_class_name":"DPMSolverMultistepScheduler"}"#, "DPMSolverMultistepScheduler"),
            (r#"{"clip_sample":false}"#, "_class_name"),
            // its default is true
            (r#"{"_class_name":"DDPMScheduler"}"#, "clip_sample"),
        ] {
            let e = SchedulerConfig::from_config(text).expect_err(name);
            assert!(e.message().contains(name), "{e}");
        }
    }
}
