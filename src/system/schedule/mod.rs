//! Noise schedules in f64, and the coefficients that turn a prediction into a clean or less noisy latent.
//!
//! Everything a sampler does to a latent is linear in the latent, the prediction and fresh noise, so a step is
//! a few numbers ([`Step`]); programs put them into tables. All of it is in real numbers: diffusers computes
//! the same in f32, whose roundings are not reproduced.

mod config;
mod resshift;
mod sampler;

use crate::error::{Error, Kind, Result};

pub use config::{FinalSigma, Method, SchedulerConfig, Spacing, Variance};
pub(super) use resshift::MAX_STEPS;
pub use resshift::{ResShift, ShiftStep};
pub use sampler::{Sampling, Step, leading, linspace, trailing};

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
    /// Reads the forward process and the prediction from `scheduler/scheduler_config.json`, for systems with a
    /// sampler of their own: fields that only say how to sample are not looked at. [`SchedulerConfig`] reads
    /// them all.
    pub fn from_config(text: &str) -> Result<Schedule> {
        config::forward_process(text)
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

    /// `(a, b)` such that the noise in `x_t` is `a * x_t + b * prediction`.
    pub fn noise(&self, t: u32) -> Result<[f64; 2]> {
        let abar = self.alpha_bar(t)?;
        let (signal, noise) = (abar.sqrt(), (1.0 - abar).sqrt());
        Ok(match self.prediction {
            Prediction::Epsilon => [0.0, 1.0],
            Prediction::V => [noise, signal],
            Prediction::Sample => [1.0 / noise, -signal / noise],
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

/// Classifier-free guidance by `scale`, as factors of the prediction without and with the prompt:
/// `without + scale * (with - without)`. A scale of 1 is the prompt's own prediction.
pub fn guidance(scale: f64) -> [f64; 2] {
    [1.0 - scale, scale]
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
            r#"{"clip_sample":"no"}"#,
            "[]",
        ] {
            assert_eq!(Schedule::from_config(bad).expect_err(bad).kind(), Kind::Weights);
        }
    }
}
