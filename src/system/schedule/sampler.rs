//! The steps of a sampler as coefficients.

use super::config::{FinalSigma, Method, SchedulerConfig, Spacing, Variance};
use super::{Prediction, Schedule};
use crate::error::{Error, Kind, Result};

/// Least variance of DDPM's noise; diffusers clamps there so that its logarithm exists.
const LEAST_VARIANCE: f64 = 1e-20;

/// One step: what the network is given, and what becomes of its prediction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Given to the network as its time step. Whole, except for Euler over [`Spacing::Linspace`].
    pub timestep: f64,
    /// The network sees `input * x`.
    pub input: f64,
    /// `(a, b)` such that the predicted clean sample is `a * x + b * prediction`.
    pub clean: [f64; 2],
    /// `(a, b, c)` such that the next latent is `a * x + b * prediction + c * noise`, `noise` standard normal.
    pub next: [f64; 3],
}

impl Step {
    /// `(a, b)` such that the predicted clean sample is `a * z + b * prediction`, where `z = input * x` is what
    /// the network sees: the whole of a one-step program.
    pub fn one_step(&self) -> [f64; 2] {
        [self.clean[0] / self.input, self.clean[1]]
    }
}

/// A run of the sampler.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Deviation of the first latent.
    pub initial: f64,
    /// Every step, noisiest first.
    pub steps: Vec<Step>,
}

impl SchedulerConfig {
    /// The `count` steps of a run. An error if they do not fit the schedule, or if a coefficient is not finite.
    pub fn sampling(&self, count: u32) -> Result<Sampling> {
        let train = self.train_steps();
        if count == 0 || count > train {
            let why = format!("{count} sampler steps; the schedule has 1 to {train}");
            return Err(Error::new(Kind::Usage, "system", why));
        }
        let sampling = match self.method {
            Method::Ddpm => self.ddpm(count)?,
            Method::Ddim { eta } => self.ddim_steps(count, eta)?,
            Method::Euler => self.euler(count)?,
        };
        let finite = |s: &Step| s.input.is_finite() && s.clean.iter().chain(&s.next).all(|v| v.is_finite());
        match sampling.steps.iter().find(|s| !finite(s)) {
            None => Ok(sampling),
            Some(s) => {
                let why = format!("the step at {} has no finite coefficients: its noise vanishes", s.timestep);
                Err(Error::new(Kind::Weights, "system", why).advise("check beta_start, beta_end and eta"))
            }
        }
    }

    fn train_steps(&self) -> u32 {
        u32::try_from(self.schedule.alphas_cumprod.len()).unwrap_or(u32::MAX)
    }

    /// The time steps of DDPM and DDIM, which index the schedule.
    fn whole_steps(&self, count: u32) -> Vec<u32> {
        let train = self.train_steps();
        match self.spacing {
            Spacing::Leading => leading(train, count, self.steps_offset),
            Spacing::Trailing => trailing(train, count),
            Spacing::Linspace => linspace(train, count).into_iter().map(|t| t.round_ties_even() as u32).collect(),
        }
    }

    /// Ho et al. 2020, formula 7: the mean of the posterior between the clean sample and `x_t`, plus noise.
    fn ddpm(&self, count: u32) -> Result<Sampling> {
        let s = &self.schedule;
        let times = self.whole_steps(count);
        let step = |(i, &t): (usize, &u32)| {
            let abar = s.alpha_bar(t)?;
            let before = times.get(i + 1).map_or(Ok(1.0), |&p| s.alpha_bar(p))?;
            let alpha = abar / before;
            let beta = 1.0 - alpha;
            let clean = s.clean(t)?;
            let from_clean = before.sqrt() * beta / (1.0 - abar);
            let from_x = alpha.sqrt() * (1.0 - before) / (1.0 - abar);
            let small = ((1.0 - before) / (1.0 - abar) * beta).max(LEAST_VARIANCE);
            let variance = match self.variance {
                Variance::FixedSmall | Variance::FixedSmallLog => small,
                Variance::FixedLarge => beta,
            };
            let noise = if t > 0 { variance.sqrt() } else { 0.0 };
            let next = [from_clean * clean[0] + from_x, from_clean * clean[1], noise];
            Ok(Step { timestep: f64::from(t), input: 1.0, clean, next })
        };
        Ok(Sampling { initial: 1.0, steps: times.iter().enumerate().map(step).collect::<Result<_>>()? })
    }

    /// Song et al. 2021, formula 12. The step before is a fixed distance away, as diffusers has it, which is not
    /// always the next time step.
    fn ddim_steps(&self, count: u32, eta: f64) -> Result<Sampling> {
        let s = &self.schedule;
        let stride = self.train_steps() / count;
        let last = if self.set_alpha_to_one { 1.0 } else { s.alpha_bar(0)? };
        let step = |t: u32| {
            let abar = s.alpha_bar(t)?;
            let before = t.checked_sub(stride).map_or(Ok(last), |p| s.alpha_bar(p))?;
            let variance = (1.0 - before) / (1.0 - abar) * (1.0 - abar / before);
            let deviation = eta * variance.sqrt();
            let direction = 1.0 - before - deviation * deviation;
            if direction < 0.0 {
                let why = format!("eta {eta} adds more noise at step {t} than there is to be");
                return Err(Error::new(Kind::Usage, "system", why).advise("use an eta from 0 to 1"));
            }
            let (clean, noise) = (s.clean(t)?, s.noise(t)?);
            let (signal, direction) = (before.sqrt(), direction.sqrt());
            let along = |i: usize| signal * clean[i] + direction * noise[i];
            Ok(Step { timestep: f64::from(t), input: 1.0, clean, next: [along(0), along(1), deviation] })
        };
        Ok(Sampling { initial: 1.0, steps: self.whole_steps(count).into_iter().map(step).collect::<Result<_>>()? })
    }

    /// Karras et al. 2022, algorithm 2 without churn or correction, on latents `x = x0 + sigma * noise`.
    fn euler(&self, count: u32) -> Result<Sampling> {
        let train = self.train_steps();
        let whole = |times: Vec<u32>| times.into_iter().map(f64::from).collect();
        let times: Vec<f64> = match self.spacing {
            Spacing::Leading => whole(leading(train, count, self.steps_offset)),
            Spacing::Trailing => whole(trailing(train, count)),
            Spacing::Linspace => linspace(train, count),
        };
        let end = match self.final_sigma {
            FinalSigma::Zero => 0.0,
            FinalSigma::SigmaMin => sigma(&self.schedule, 0.0),
        };
        let mut sigmas: Vec<f64> = times.iter().map(|&t| sigma(&self.schedule, t)).collect();
        sigmas.push(end);
        let step = |(&timestep, pair): (&f64, &[f64])| {
            let (now, next) = (pair[0], pair[1]);
            let variance = now * now + 1.0;
            let clean = match self.schedule.prediction {
                Prediction::Epsilon => [1.0, -now],
                Prediction::V => [1.0 / variance, -now / variance.sqrt()],
                Prediction::Sample => [0.0, 1.0],
            };
            // x + (x - x0) / sigma * (next - sigma)
            let way = (next - now) / now;
            let next = [1.0 + (1.0 - clean[0]) * way, -clean[1] * way, 0.0];
            Step { timestep, input: 1.0 / variance.sqrt(), clean, next }
        };
        let steps = times.iter().zip(sigmas.windows(2)).map(step).collect();
        let most = sigmas.iter().copied().fold(0.0, f64::max);
        let initial = match self.spacing {
            Spacing::Linspace | Spacing::Trailing => most,
            Spacing::Leading => (most * most + 1.0).sqrt(),
        };
        Ok(Sampling { initial, steps })
    }
}

/// Noise per signal at time `t`, linear between training steps and constant outside.
fn sigma(s: &Schedule, t: f64) -> f64 {
    let last = s.alphas_cumprod.len() - 1;
    let at = |i: usize| ((1.0 - s.alphas_cumprod[i]) / s.alphas_cumprod[i]).sqrt();
    let t = t.clamp(0.0, last as f64);
    let (low, part) = (t.floor() as usize, t.fract());
    if part == 0.0 { at(low) } else { at(low) + part * (at((low + 1).min(last)) - at(low)) }
}

/// The time steps of `count` sampler steps over `train`, the first of each interval plus `offset`.
pub fn leading(train: u32, count: u32, offset: u32) -> Vec<u32> {
    let stride = train / count.max(1);
    (0..count).rev().map(|i| i * stride + offset).collect()
}

/// The time steps of `count` sampler steps over `train`, the last of each interval. Half steps round to even,
/// and the interval is rounded as numpy's `arange` rounds it, which decides some of them.
pub fn trailing(train: u32, count: u32) -> Vec<u32> {
    let train = f64::from(train);
    let stride = (train - train / f64::from(count.max(1))) - train;
    (0..count).map(|i| ((train + f64::from(i) * stride).round_ties_even() - 1.0).max(0.0) as u32).collect()
}

/// The time steps of `count` sampler steps over `train`, evenly from the last to the first; not rounded.
pub fn linspace(train: u32, count: u32) -> Vec<f64> {
    let (top, gaps) = (f64::from(train.saturating_sub(1)), count.saturating_sub(1));
    let stride = if gaps == 0 { 0.0 } else { top / f64::from(gaps) };
    (0..count).rev().map(|i| if i == gaps && gaps > 0 { top } else { f64::from(i) * stride }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_steps_are_the_samplers() {
        let t = leading(1000, 50, 1);
        assert_eq!((t[0], t[1], t[48], t[49], t.len()), (981, 961, 21, 1, 50));
        assert_eq!(trailing(1000, 1), [999]);
        assert_eq!(trailing(1000, 2), [999, 499]);
        assert_eq!(linspace(1000, 1), [0.0]);
        assert_eq!(linspace(1000, 3), [999.0, 499.5, 0.0]);
        assert_eq!(trailing(1000, 1000)[999], 0);
        assert!(leading(0, 0, 0).is_empty() && trailing(0, 0).is_empty() && linspace(0, 0).is_empty());
    }

    fn config(method: Method, text: &str) -> SchedulerConfig {
        SchedulerConfig::read_as(method, text).expect("config")
    }

    const SD: &str = r#"{"beta_schedule":"scaled_linear","beta_start":0.00085,"beta_end":0.012,
        "clip_sample":false,"timestep_spacing":"trailing","set_alpha_to_one":true}"#;

    #[test]
    fn one_step_is_the_same_whatever_the_method() {
        for prediction in ["epsilon", "v_prediction", "sample"] {
            let text = SD.replace("\"clip", &format!("\"prediction_type\":\"{prediction}\",\"clip"));
            let expected = config(Method::Euler, &text).schedule.clean(999).expect("inside");
            for method in [Method::Ddpm, Method::Ddim { eta: 0.0 }, Method::Euler] {
                let sampling = config(method, &text).sampling(1).expect("steps");
                let [step] = sampling.steps[..] else { panic!("one step") };
                assert_eq!(step.timestep, 999.0);
                let got = step.one_step();
                let close = got.iter().zip(expected).all(|(g, e)| (g - e).abs() <= 1e-12 * e.abs().max(1.0));
                assert!(close, "{prediction} {method:?}: {got:?} {expected:?}");
                // and the latent after the only step is the clean sample
                for (n, c) in step.next.iter().zip(step.clean) {
                    assert!((n - c).abs() <= 1e-12 * c.abs().max(1.0), "{prediction} {method:?}");
                }
            }
        }
    }

    #[test]
    fn steps_that_do_not_exist_are_refused() {
        let c = config(Method::Ddim { eta: 0.0 }, SD);
        assert_eq!(c.sampling(0).expect_err("none").kind(), Kind::Usage);
        assert_eq!(c.sampling(1001).expect_err("many").kind(), Kind::Usage);
        let c = config(Method::Ddim { eta: 40.0 }, SD);
        assert!(c.sampling(4).expect_err("eta").message().contains("eta 40"));
        let c = SchedulerConfig { spacing: Spacing::Leading, steps_offset: 1, ..config(Method::Ddpm, SD) };
        assert!(c.sampling(1000).expect_err("offset").message().contains("time step 1000"));
        let still = SD.replace("0.00085", "0").replace("0.012", "0");
        assert_eq!(config(Method::Euler, &still).sampling(3).expect_err("no noise").kind(), Kind::Weights);
    }
}
