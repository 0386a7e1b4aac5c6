//! The residual-shifting schedule (ResShift, Yue et al. 2023): `x_t` goes from the clean picture at `eta_0 = 0` to the
//! condition `y` plus noise at `eta_T`.
//!
//! ```text
//! x_T     = y + kappa sqrt(eta_T) n
//! x_(t-1) = (eta_(t-1) / eta_t) x_t + (alpha_t / eta_t) x0 + kappa sqrt(eta_(t-1) alpha_t / eta_t) n,   alpha_t = eta_t - eta_(t-1)
//! ```

use crate::error::{Error, Kind, Result};

/// Most steps of a run: beyond it neighbouring steps differ by less than their noise.
pub(in crate::system) const MAX_STEPS: u32 = 1000;

/// The parameters of a schedule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ResShift {
    /// Steps `T`.
    pub steps: u32,
    /// Noise per root of `eta`.
    pub kappa: f64,
    /// Exponent of the growth of `log sqrt(eta)` over the steps.
    pub power: f64,
    /// `sqrt(eta_T)`.
    pub etas_end: f64,
    /// Least noise: `sqrt(eta_1) = min(min_noise / kappa, min_noise)`.
    pub min_noise: f64,
}

/// One step, from `x_t` to `x_(t-1)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ShiftStep {
    /// `sqrt(eta_t)`.
    pub sqrt_eta: f64,
    /// The network sees `input * x_t`: `1 / sqrt(1 + kappa^2 eta_t)`.
    pub input: f64,
    /// `(a, b, c)` such that `x_(t-1) = a x_t + b x0 + c n`; `(0, 1, 0)` in the last step.
    pub next: [f64; 3],
}

impl Default for ResShift {
    fn default() -> ResShift {
        ResShift { steps: 15, kappa: 2.0, power: 0.3, etas_end: 0.99, min_noise: 0.04 }
    }
}

impl ResShift {
    /// The published variant of four steps.
    pub fn four() -> ResShift {
        ResShift { steps: 4, min_noise: 0.2, ..ResShift::default() }
    }

    /// `sqrt(eta_1)` to `sqrt(eta_T)`, rising: `first * (end / first)^(((t - 1) / (T - 1))^power)`.
    pub fn sqrt_etas(&self) -> Result<Vec<f64>> {
        let wrong = |kind, why: String| Err(Error::new(kind, "system", why));
        if self.steps == 0 || self.steps > MAX_STEPS {
            return wrong(Kind::Usage, format!("{} sampling steps; there are 1 to {MAX_STEPS}", self.steps));
        }
        let first = (self.min_noise / self.kappa).min(self.min_noise);
        let sound = [self.kappa, self.power, self.etas_end, self.min_noise].iter().all(|v| v.is_finite() && *v > 0.0);
        if !sound || self.etas_end > 1.0 || first >= self.etas_end {
            let why = format!(
                "a schedule of kappa {}, power {}, etas_end {}, min_noise {} does not rise from {first} to an end of at \
                 most 1",
                self.kappa, self.power, self.etas_end, self.min_noise
            );
            return wrong(Kind::Weights, why);
        }
        let last = f64::from(self.steps - 1);
        let at = |t: u32| match t {
            // One step begins where the last one of several does.
            _ if self.steps == 1 => self.etas_end,
            t => first * (self.etas_end / first).powf((f64::from(t) / last).powf(self.power)),
        };
        Ok((0..self.steps).map(at).collect())
    }

    /// Deviation of the noise in `x_T`: `kappa sqrt(eta_T)`.
    pub fn initial(&self) -> Result<f64> {
        Ok(self.kappa * self.sqrt_etas()?.last().copied().unwrap_or(self.etas_end))
    }

    /// The steps of a run, noisiest first.
    pub fn run(&self) -> Result<Vec<ShiftStep>> {
        let roots = self.sqrt_etas()?;
        let step = |t: usize| {
            let (eta, before) = (roots[t].powi(2), if t == 0 { 0.0 } else { roots[t - 1].powi(2) });
            let alpha = eta - before;
            ShiftStep {
                sqrt_eta: roots[t],
                input: 1.0 / (1.0 + self.kappa.powi(2) * eta).sqrt(),
                next: [before / eta, alpha / eta, self.kappa * (before * alpha / eta).sqrt()],
            }
        };
        Ok((0..roots.len()).rev().map(step).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_schedules() {
        let near = |got: &[f64], want: &[f64]| {
            assert_eq!(got.len(), want.len());
            assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() < 6e-5), "{got:?}");
        };
        // ResShift's own, as its code gives them to four places.
        near(
            &ResShift::default().sqrt_etas().expect("published"),
            &[
                0.0200, 0.1172, 0.1763, 0.2336, 0.2916, 0.3510, 0.4124, 0.4759, 0.5417, 0.6099, 0.6807, 0.7540, 0.8300,
                0.9086, 0.9900,
            ],
        );
        near(&ResShift::four().sqrt_etas().expect("published"), &[0.1000, 0.5201, 0.7614, 0.9900]);
    }

    #[test]
    fn steps_end_clean_and_keep_the_variance_of_the_forward_process() {
        for s in [ResShift::default(), ResShift::four(), ResShift { steps: 1, ..ResShift::default() }] {
            let run = s.run().expect("steps");
            assert_eq!((run.len(), run[run.len() - 1].next), (s.steps as usize, [0.0, 1.0, 0.0]));
            for (now, after) in run.iter().zip(run.iter().skip(1).map(|s| s.sqrt_eta).chain([0.0])) {
                let [a, b, c] = now.next;
                assert!((a + b - 1.0).abs() < 1e-12, "a fixed point stays");
                let variance = (a * s.kappa * now.sqrt_eta).powi(2) + c * c;
                assert!((variance.sqrt() - s.kappa * after).abs() < 1e-9, "noise of the marginal");
            }
        }
    }

    #[test]
    fn schedules_that_do_not_rise_are_refused() {
        for bad in [
            ResShift { steps: 0, ..ResShift::default() },
            ResShift { kappa: f64::NAN, ..ResShift::default() },
            ResShift { power: 0.0, ..ResShift::default() },
            ResShift { etas_end: 1.5, ..ResShift::default() },
            ResShift { min_noise: 3.0, ..ResShift::default() },
        ] {
            assert!(bad.run().is_err(), "{bad:?}");
        }
    }
}
