//! The cpu backend's variants.

use super::{Row, WeightForm};
use crate::abi::{Caps, Params, Stem, Types};

fn any(_: &Params, _: Types, _: &Caps) -> bool {
    true
}

fn is_upsample(p: &Params, _: Types, _: &Caps) -> bool {
    super::doubles(p)
}

fn one(_: &Params, _: Types) -> [u32; 3] {
    [1, 1, 1]
}

fn none(_: &Params, _: Types) -> u64 {
    0
}

const fn row(stem: Stem, variant: &'static str, weight: WeightForm) -> Row {
    Row { stem, variant, accepts: any, weight, grid: one, scratch: none }
}

/// See the module.
pub(super) const ROWS: &[Row] = &[
    Row { accepts: is_upsample, ..row(Stem::Conv2d, "up2x2", WeightForm::Up2x2) },
    row(Stem::Conv2d, "base", WeightForm::Kn),
    row(Stem::Gemm, "base", WeightForm::Kn),
    row(Stem::Attention, "base", WeightForm::None),
    row(Stem::GroupNormStats, "base", WeightForm::None),
    row(Stem::NormFinalize, "base", WeightForm::None),
    row(Stem::NormApply, "base", WeightForm::None),
    row(Stem::LayerNorm, "base", WeightForm::None),
    row(Stem::TimeEmbedding, "base", WeightForm::None),
    row(Stem::Pointwise, "base", WeightForm::None),
];
