//! Every tolerance of the integration tests, with its reason.

use tessera::abi::Stem;
use tessera::graph::DType;

/// Allowed error of one value: `relative * |expected| + absolute * (largest |expected| of the output)`.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    /// Part that scales with the value.
    pub relative: f64,
    /// Part that scales with the output's largest value: sums cancel, so small results of large terms
    /// carry the error of the terms.
    pub absolute: f64,
}

/// What a kernel of `stem` may differ from the f64 reference when it stores `y`.
pub fn kernel(stem: Stem, y: DType) -> Tolerance {
    // Rounding of the store: half a unit in the last place, doubled for a value next to a tie.
    let store = match y {
        DType::F32 => 2f64.powi(-23),
        DType::F16 => 2f64.powi(-10),
        DType::Bf16 => 2f64.powi(-7),
    };
    // f32 arithmetic inside.
    let inside = match stem {
        // Sums of up to 3,000 products in f32, in any order, or through a Winograd transform.
        Stem::Conv2d | Stem::Gemm => 1e-5,
        // Two products and an exponential whose argument is a sum of up to 512 products; a score of 40
        // carries 40 times the rounding of a score of 1.
        Stem::Attention => 5e-5,
        // Sums of 256 values; `far from zero` cancels two digits of the mean in M2.
        Stem::GroupNormStats => 2e-5,
        // Merges hundreds of partials; b = bias - mean * a cancels.
        Stem::NormFinalize => 2e-5,
        // One multiply-add and an exponential of at most a few units in the last place.
        Stem::NormApply | Stem::Pointwise => 2e-6,
        // Values near 60 with spread 1: the mean's rounding is 60 * 2^-24 times the factor 1 / spread.
        Stem::LayerNorm => 2e-5,
        // sin and cos of arguments near 1000: one unit in the last place of the argument is 6e-5, and the
        // frequency itself is an exponential rounded to f32.
        Stem::TimeEmbedding => 5e-4,
    };
    Tolerance { relative: store + inside, absolute: inside }
}
