//! Vector mathematics: plain loops that the compiler turns into vector code for whatever instruction set
//! [`Arch::dispatch`] finds at run time. No call here allocates.

use crate::abi::params::{ACT_GELU, ACT_LEAKY_RELU, ACT_NONE, ACT_QUICK_GELU, ACT_RELU, ACT_SILU};
use pulp::Arch;

/// `e^x` in f32: range reduction to |r| <= ln(2) / 2 and a polynomial of degree 6. At most 2 units in the
/// last place off over the finite range; 0 below -87.3, f32's largest power beyond 88.3, never NaN.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Clamped so that the exponent below stays a normal one; written with selects, which vectorise.
    let x = if x > 88.37 { 88.37 } else { x };
    let x = if x < -87.33 { -87.33 } else { x };
    // Rounds to nearest by adding 1.5 * 2^23; the sum's low bits are the integer.
    let shifted = x * std::f32::consts::LOG2_E + 12_582_912.0;
    let n = shifted - 12_582_912.0;
    // ln(2) in two parts: n * 0.693359375 is exact.
    let r = (x - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let p = 1.0 / 720.0 * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * (r * r) + r + 1.0;
    let scale = f32::from_bits((shifted.to_bits().wrapping_add(127)) << 23);
    p * scale
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Complementary error function by a Chebyshev fit (relative error 1.2e-7 before f32 rounding).
#[inline(always)]
fn erfc(x: f32) -> f32 {
    let z = x.abs();
    let t = 1.0 / (1.0 + 0.5 * z);
    let p = 0.170_872_77 * t - 0.822_152_2;
    let p = p * t + 1.488_515_9;
    let p = p * t - 1.135_204;
    let p = p * t + 0.278_868_07;
    let p = p * t - 0.186_288_06;
    let p = p * t + 0.096_784_18;
    let p = p * t + 0.374_091_96;
    let p = p * t + 1.000_023_7;
    let p = p * t - 1.265_512_2;
    let r = t * exp(p - z * z);
    if x < 0.0 { 2.0 - r } else { r }
}

/// `x * Phi(x)`.
#[inline(always)]
pub(super) fn gelu(x: f32) -> f32 {
    0.5 * x * erfc(-x * std::f32::consts::FRAC_1_SQRT_2)
}

/// Applies activation `code` to every value. One loop per activation, so that each vectorises.
#[inline(always)]
pub(super) fn activate(code: u32, values: &mut [f32]) {
    match code {
        ACT_SILU => values.iter_mut().for_each(|v| *v *= sigmoid(*v)),
        ACT_GELU => values.iter_mut().for_each(|v| *v = gelu(*v)),
        ACT_QUICK_GELU => values.iter_mut().for_each(|v| *v *= sigmoid(1.702 * *v)),
        // `max` would turn NaN into 0 and hide it from the finite scan.
        ACT_RELU => values.iter_mut().for_each(|v| *v = if *v < 0.0 { 0.0 } else { *v }),
        ACT_LEAKY_RELU => values.iter_mut().for_each(|v| *v = if *v < 0.0 { 0.1 * *v } else { *v }),
        // `ACT_NONE`; `prepare` refuses other codes.
        _ => {}
    }
}

/// Whether `code` is an activation [`activate`] knows.
pub(super) fn is_activation(code: u32) -> bool {
    matches!(code, ACT_NONE | ACT_SILU | ACT_GELU | ACT_QUICK_GELU | ACT_RELU | ACT_LEAKY_RELU)
}

/// Runs `work`, compiled for the best instruction set of this machine. `work` and what it calls must be
/// `#[inline(always)]`: a function of its own would be compiled for the baseline.
#[inline(always)]
pub(super) fn vectorised<R>(arch: Arch, work: impl FnOnce() -> R) -> R {
    struct Run<F>(F);
    impl<R, F: FnOnce() -> R> pulp::NullaryFnOnce for Run<F> {
        type Output = R;
        #[inline(always)]
        fn call(self) -> R {
            (self.0)()
        }
    }
    arch.dispatch(Run(work))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_is_within_two_units_in_the_last_place() {
        let mut worst = 0f64;
        for i in -870_000..=880_000 {
            let x = i as f32 * 1e-4;
            let (got, want) = (f64::from(exp(x)), f64::from(x).exp());
            worst = worst.max((got - want).abs() / want / f64::from(f32::EPSILON));
        }
        assert!(worst <= 2.0, "{worst} units");
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(-1e30) < 1.3e-38 && exp(1e30).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn activations_at_the_ends() {
        let mut v = [-2.0f32, 3.0, f32::NAN];
        activate(ACT_LEAKY_RELU, &mut v);
        assert!(v[0] == -0.2 && v[1] == 3.0 && v[2].is_nan(), "{v:?}");
        for code in [ACT_SILU, ACT_GELU, ACT_QUICK_GELU, ACT_RELU] {
            let mut v = [0.0f32, -1e30, 1e30, f32::NAN];
            activate(code, &mut v);
            assert_eq!(v[0], 0.0, "pad channels stay zero under {code}");
            assert!(v[1].abs() < 1e-6 && (v[2] / 1e30 - 1.0).abs() < 1e-6, "{code}: {v:?}");
            assert!(v[3].is_nan(), "{code} must not hide a NaN");
        }
    }
}
