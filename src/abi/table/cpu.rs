//! The cpu backend's variants.

use super::{Row, WeightForm, any, doubles, row};
use crate::abi::{Params, Stem, Types};

fn one(_: &Params, _: Types) -> [u32; 3] {
    [1, 1, 1]
}

/// See the module.
pub(super) const ROWS: &[Row] = &[
    row(Stem::Conv2d, "up2x2", doubles, WeightForm::Up2x2, one),
    row(Stem::Conv2d, "base", any, WeightForm::Kn, one),
    row(Stem::Gemm, "base", any, WeightForm::Kn, one),
    row(Stem::Attention, "base", any, WeightForm::None, one),
    row(Stem::GroupNormStats, "base", any, WeightForm::None, one),
    row(Stem::NormFinalize, "base", any, WeightForm::None, one),
    row(Stem::NormApply, "base", any, WeightForm::None, one),
    row(Stem::LayerNorm, "base", any, WeightForm::None, one),
    row(Stem::TimeEmbedding, "base", any, WeightForm::None, one),
    row(Stem::Pointwise, "base", any, WeightForm::None, one),
    row(Stem::Resample, "base", any, WeightForm::None, one),
    row(Stem::Rearrange, "base", any, WeightForm::None, one),
    row(Stem::Modulate, "base", any, WeightForm::None, one),
];
