//! Noise schedules in f64, and the coefficients that turn a prediction into a clean latent.

use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::weights::json;
use serde_json::{Map, Value};

/// What the denoiser predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prediction {
    /// The noise.
    Epsilon,
    /// `v = sqrt(abar) noise - sqrt(1 - abar) x0`.
    V,
    /// The clean sample.
    Sample,
}

/// The forward process of a scheduler: cumulative products per training step.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// `abar_t` for each training step.
    pub alphas_cumprod: Vec<f64>,
    /// What the denoiser predicts.
    pub prediction: Prediction,
}

/// How betas lie between their ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BetaSchedule {
    /// Evenly.
    Linear,
    /// Their square roots evenly.
    ScaledLinear,
}

/// `abar_t = prod(1 - beta)` over `steps` training steps.
pub fn alphas_cumprod(kind: BetaSchedule, start: f64, end: f64, steps: usize) -> Vec<f64> {
    let mut product = 1.0;
    let at = |i: usize, a: f64, b: f64| if steps > 1 { a + (b - a) * i as f64 / (steps - 1) as f64 } else { a };
    (0..steps)
        .map(|i| {
            let beta = match kind {
                BetaSchedule::Linear => at(i, start, end),
                BetaSchedule::ScaledLinear => at(i, start.sqrt(), end.sqrt()).powi(2),
            };
            product *= 1.0 - beta;
            product
        })
        .collect()
}

impl Schedule {
    /// Reads `scheduler/scheduler_config.json`. Only what changes the forward process and the prediction
    /// matters to systems with their own sampler; fields that would change those are refused by name.
    pub fn from_config(text: &str) -> Result<Schedule> {
        let map = json::object("scheduler config", text.as_bytes())?;
        let kind = match map.get("beta_schedule").and_then(Value::as_str).unwrap_or("linear") {
            "linear" => BetaSchedule::Linear,
            "scaled_linear" => BetaSchedule::ScaledLinear,
            other => return Err(wrong("beta_schedule", other, "linear, scaled_linear")),
        };
        let prediction = match map.get("prediction_type").and_then(Value::as_str).unwrap_or("epsilon") {
            "epsilon" => Prediction::Epsilon,
            "v_prediction" => Prediction::V,
            "sample" => Prediction::Sample,
            other => return Err(wrong("prediction_type", other, "epsilon, v_prediction, sample")),
        };
        for key in ["rescale_betas_zero_snr", "thresholding", "clip_sample"] {
            if map.get(key).and_then(Value::as_bool) == Some(true) {
                return Err(wrong(key, "true", "false"));
            }
        }
        if map.get("trained_betas").is_some_and(|v| !v.is_null()) {
            return Err(wrong("trained_betas", "a list", "null"));
        }
        let (start, end) = (number(&map, "beta_start", 0.0001)?, number(&map, "beta_end", 0.02)?);
        let steps = number(&map, "num_train_timesteps", 1000.0)?;
        let fits = (0.0..1.0).contains(&start) && (0.0..1.0).contains(&end);
        if !fits || steps.fract() != 0.0 || !(1.0..=f64::from(limits::MAX_TRAIN_STEPS)).contains(&steps) {
            return Err(wrong(
                "beta_start, beta_end, num_train_timesteps",
                &format!("{start}, {end}, {steps}"),
                "betas in 0..1",
            ));
        }
        Ok(Schedule { alphas_cumprod: alphas_cumprod(kind, start, end, steps as usize), prediction })
    }

    /// `abar_t`.
    pub fn alpha_bar(&self, t: u32) -> Result<f64> {
        self.alphas_cumprod.get(t as usize).copied().ok_or_else(|| {
            let n = self.alphas_cumprod.len();
            Error::new(Kind::Weights, "system", format!("time step {t} is outside the schedule of {n} steps"))
        })
    }

    /// `(a, b)` such that `x0 = a * x_t + b * prediction`.
    pub fn clean(&self, t: u32) -> Result<[f64; 2]> {
        let abar = self.alpha_bar(t)?;
        Ok(match self.prediction {
            Prediction::Epsilon => [1.0 / abar.sqrt(), -(1.0 - abar).sqrt() / abar.sqrt()],
            Prediction::V => [abar.sqrt(), -(1.0 - abar).sqrt()],
            Prediction::Sample => [0.0, 1.0],
        })
    }

    /// Coefficients of a deterministic (DDIM, eta 0) step from `t` to `prev` (`None`: to the clean sample):
    /// `x_prev = a * x_t + b * prediction`.
    pub fn ddim(&self, t: u32, prev: Option<u32>) -> Result<[f64; 2]> {
        let abar = self.alpha_bar(t)?;
        let before = prev.map_or(Ok(1.0), |p| self.alpha_bar(p))?;
        let [x, p] = self.clean(t)?;
        // noise = (x_t - sqrt(abar) x0) / sqrt(1 - abar)
        let noise = (1.0 - before).sqrt() / (1.0 - abar).sqrt();
        let from_clean = before.sqrt() - noise * abar.sqrt();
        Ok([from_clean * x + noise, from_clean * p])
    }
}

/// The time steps of `count` sampler steps, spaced from the start of each interval, plus `offset`.
pub fn leading(train: u32, count: u32, offset: u32) -> Vec<u32> {
    let stride = train / count.max(1);
    (0..count).rev().map(|i| i * stride + offset).collect()
}

/// The time steps of `count` sampler steps, spaced from the end.
pub fn trailing(train: u32, count: u32) -> Vec<u32> {
    let stride = f64::from(train) / f64::from(count.max(1));
    (0..count).map(|i| (f64::from(train) - f64::from(i) * stride).round() as u32 - 1).collect()
}

fn number(map: &Map<String, Value>, key: &str, default: f64) -> Result<f64> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(default),
        Some(v) => v.as_f64().ok_or_else(|| wrong(key, &v.to_string(), "a number")),
    }
}

fn wrong(key: &str, found: &str, expected: &str) -> Error {
    let found = json::quoted(found);
    Error::new(Kind::Weights, "system", format!("scheduler config: `{key}` is {found}, supported: {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(prediction: Prediction) -> Schedule {
        let alphas_cumprod = alphas_cumprod(BetaSchedule::ScaledLinear, 0.00085, 0.012, 1000);
        Schedule { alphas_cumprod, prediction }
    }

    #[test]
    fn scaled_linear_gives_the_published_products() {
        let s = published(Prediction::Epsilon);
        for (t, want) in [
            (0, 0.999_150),
            (1, 0.998_296),
            (20, 0.981_314),
            (200, 0.753_692),
            (249, 0.675_432),
            (299, 0.592_183),
            (399, 0.426_086),
            (499, 0.277_670),
            (749, 0.056_623),
            (899, 0.014_299),
            (981, 0.005_776),
            (999, 0.004_660),
        ] {
            let got = s.alpha_bar(t).expect("inside");
            assert!((got - want).abs() < 6e-7, "abar_{t} = {got}, not {want}");
        }
        assert!(s.alpha_bar(1000).is_err());
        let [a, b] = s.clean(999).expect("inside");
        assert!((a - 1.0 / 0.068_265).abs() < 1e-3 && (b + 0.997_667 / 0.068_265).abs() < 1e-3, "{a} {b}");
        let [a, b] = published(Prediction::V).clean(999).expect("inside");
        assert!((a - 0.068_265).abs() < 1e-6 && (b + 0.997_667).abs() < 1e-6);
    }

    #[test]
    fn every_prediction_recovers_the_clean_sample() {
        let (x0, noise) = (0.7, -1.3);
        for prediction in [Prediction::Epsilon, Prediction::V, Prediction::Sample] {
            let s = published(prediction);
            let abar = s.alpha_bar(640).expect("inside");
            let (a, b) = (abar.sqrt(), (1.0 - abar).sqrt());
            let x = a * x0 + b * noise;
            let p = match prediction {
                Prediction::Epsilon => noise,
                Prediction::V => a * noise - b * x0,
                Prediction::Sample => x0,
            };
            let [cx, cp] = s.clean(640).expect("inside");
            assert!((cx * x + cp * p - x0).abs() < 1e-12);
            let [cx, cp] = s.ddim(640, Some(620)).expect("inside");
            let before = s.alpha_bar(620).expect("inside");
            assert!((cx * x + cp * p - (before.sqrt() * x0 + (1.0 - before).sqrt() * noise)).abs() < 1e-12);
            let [cx, cp] = s.ddim(640, None).expect("inside");
            assert!((cx * x + cp * p - x0).abs() < 1e-12);
        }
    }

    #[test]
    fn time_steps_are_the_samplers() {
        let t = leading(1000, 50, 1);
        assert_eq!((t[0], t[1], t[48], t[49], t.len()), (981, 961, 21, 1, 50));
        assert_eq!(trailing(1000, 1), [999]);
        assert_eq!(trailing(1000, 2), [999, 499]);
    }

    #[test]
    fn configs_are_read_and_unknown_values_refused() {
        let s = Schedule::from_config(
            r#"{"beta_start":0.00085,"beta_end":0.012,"beta_schedule":"scaled_linear","num_train_timesteps":1000,
            "prediction_type":"v_prediction","clip_sample":false,"trained_betas":null}"#,
        )
        .expect("fine");
        assert_eq!(s, published(Prediction::V));
        for bad in [
            r#"{"beta_schedule":"squaredcos_cap_v2"}"#,
            r#"{"prediction_type":"flow"}"#,
            r#"{"rescale_betas_zero_snr":true}"#,
            r#"{"num_train_timesteps":0}"#,
            r#"{"beta_end":2}"#,
            r#"{"beta_start":"x"}"#,
            r#"{"trained_betas":[0.1]}"#,
            "[]",
        ] {
            assert_eq!(Schedule::from_config(bad).expect_err(bad).kind(), Kind::Weights);
        }
    }
}
