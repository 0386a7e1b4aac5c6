//! Per backend, the variants of every stem in order of preference: which launches each accepts, how its
//! weight is packed, its grid and its scratch. Selection is a pure function of (parameters, types, caps).

mod cpu;
pub mod cuda;
pub mod tma;
pub mod wgpu;

use super::{BackendKind, Caps, Params, Stem, Types};
use crate::error::{Error, Kind, Result};
use crate::graph::dtype::DType;
use crate::limits::MAX_GRID_DIM;

/// How a variant wants its `weight` binding packed; the planner fills in the extents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WeightForm {
    /// The stem has no weight matrix.
    None,
    /// `Packing::ConvKn` or `Packing::LinearKn`.
    Kn,
    /// `Packing::ConvUp2x2`.
    Up2x2,
}

/// One variant of one stem on one backend.
#[derive(Debug)]
pub struct Row {
    /// The stem.
    pub stem: Stem,
    /// Name of the variant (`base`, `up2x2`, `k3_8x2` ...).
    pub variant: &'static str,
    /// Whether this variant computes such a launch.
    pub accepts: fn(&Params, Types, &Caps) -> bool,
    /// Weight packing.
    pub weight: WeightForm,
    /// Workgroups per dimension; `[1, 1, 1]` on cpu.
    pub grid: fn(&Params, Types) -> [u32; 3],
    /// Bytes of scratch, 0 for none.
    pub scratch: fn(&Params, Types) -> u64,
    /// Blocks per item of the statistics that it makes of its result where asked to, 0 where it makes none.
    pub statistics: fn(&Params, Types) -> u32,
}

impl Row {
    /// Whether this variant computes such a launch, with the statistics it asks for.
    pub fn takes(&self, params: &Params, types: Types, caps: &Caps) -> bool {
        (self.accepts)(params, types, caps) && (!params.wants_statistics() || (self.statistics)(params, types) > 0)
    }
}

/// The rows of one backend, in order of preference per stem.
pub fn rows(kind: BackendKind) -> &'static [Row] {
    match kind {
        BackendKind::Cpu => cpu::ROWS,
        BackendKind::Wgpu => wgpu::ROWS,
        BackendKind::Cuda => cuda::ROWS,
    }
}

/// The first row that accepts the launch.
pub fn select(params: &Params, types: Types, caps: &Caps) -> Result<&'static Row> {
    rows(caps.kind).iter().find(|r| r.stem == params.stem() && r.takes(params, types, caps)).ok_or_else(|| {
        Error::new(
            Kind::Device,
            "abi",
            format!("{} has no {} kernel for {types:?} and {params:?}", caps.name, params.stem().name()),
        )
        .advise("try another --device")
    })
}

/// The row called `variant`, if the backend has it.
pub fn find(kind: BackendKind, stem: Stem, variant: &str) -> Option<&'static Row> {
    rows(kind).iter().find(|r| r.stem == stem && r.variant == variant)
}

/// The binding that may be the very same range as `y`, where there is one. A kernel listed here reads each
/// element (or packed word) only in the thread that writes it, before it writes it, so a second run of the
/// same launch is the only thing lost. The planner uses it when the operand dies in this launch.
///
/// The cpu backend borrows its operands apart from its result and takes no such launch.
pub fn in_place(kind: BackendKind, params: &Params, types: Types) -> Option<usize> {
    if kind == BackendKind::Cpu || types.x != types.y {
        return None;
    }
    match params {
        Params::NormApply(p) => (p.pitch_x2 == 0 && p.pitch_x == p.pitch_y).then_some(0),
        Params::Pointwise(p) => (p.offset == 0 && p.pitch_a == p.pitch_y).then_some(0),
        Params::Modulate(_) => Some(0),
        // These read other elements than they write. A residual would be safe, but saves nothing: at the
        // step that adds it, its product's own operands make the peak.
        Params::Conv2d(_)
        | Params::Gemm(_)
        | Params::Attention(_)
        | Params::GroupNormStats(_)
        | Params::NormFinalize(_)
        | Params::LayerNorm(_)
        | Params::TimeEmbedding(_)
        | Params::Resample(_)
        | Params::Rearrange(_) => None,
    }
}

/// `groups` workgroups (blocks) in two dimensions, each at most [`MAX_GRID_DIM`]; kernels undo it with
/// `y * (groups in x) + x` and skip the surplus.
fn fold(groups: u64) -> [u32; 3] {
    let rows = groups.div_ceil(u64::from(MAX_GRID_DIM)).max(1);
    let columns = groups.div_ceil(rows).max(1);
    // Beyond 2^32 workgroups the saturated grid is refused by the device's limit.
    [u32::try_from(columns).unwrap_or(u32::MAX), u32::try_from(rows).unwrap_or(u32::MAX), 1]
}

/// A row without scratch.
const fn row(
    stem: Stem,
    variant: &'static str,
    accepts: fn(&Params, Types, &Caps) -> bool,
    weight: WeightForm,
    grid: fn(&Params, Types) -> [u32; 3],
) -> Row {
    Row { stem, variant, accepts, weight, grid, scratch: none, statistics: no_statistics }
}

fn no_statistics(_: &Params, _: Types) -> u32 {
    0
}

fn any(_: &Params, _: Types, _: &Caps) -> bool {
    true
}

fn none(_: &Params, _: Types) -> u64 {
    0
}

fn product(factors: &[u32]) -> u64 {
    factors.iter().fold(1u64, |acc, &f| acc.saturating_mul(u64::from(f)))
}

/// Tensor cores multiply one half type and sum in f32; the result is that type or f32.
fn half(_: &Params, t: Types, _: &Caps) -> bool {
    matches!(t.x, DType::F16 | DType::Bf16) && t.w == t.x && (t.y == t.x || t.y == DType::F32)
}

/// Columns that the tiles of a product cover.
fn columns(p: &Params) -> u32 {
    match p {
        Params::Conv2d(c) => c.pitch_y,
        Params::Gemm(g) => g.pitch_y * (1 + (g.parts & 1)),
        _ => 0,
    }
}

/// Whether the weight of this convolution may be folded into four 2x2 ones. That needs the doubled input
/// whole: a cropped last row would count as zero in the 3x3, but its weight is already inside the 2x2.
fn doubles(p: &Params, _: Types, _: &Caps) -> bool {
    matches!(p, Params::Conv2d(c) if c.upsample == 1 && c.kernel == 3 && c.stride == 1
        && c.pad_top == 1 && c.pad_left == 1 && c.pitch_x2 == 0 && c.oh == 2 * c.h && c.ow == 2 * c.w)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::params::Conv2dParams;

    #[test]
    fn grids_fold_and_cover() {
        for groups in [0, 1, 65_535, 65_536, 131_071, 1 << 24, 65_535 * 65_535] {
            let [x, y, z] = fold(groups);
            assert!(x <= MAX_GRID_DIM && y <= MAX_GRID_DIM && z == 1, "{groups}: {x} {y}");
            assert!(u64::from(x) * u64::from(y) >= groups);
        }
    }

    #[test]
    fn a_cropped_upsample_is_not_folded() {
        let caps = Caps::wgpu_default();
        let types = Types { x: DType::F16, w: DType::F16, y: DType::F16 };
        let mut c = Conv2dParams {
            n: 1,
            h: 4,
            w: 4,
            pitch_x: 8,
            oh: 8,
            ow: 8,
            oc: 8,
            pitch_y: 8,
            kernel: 3,
            stride: 1,
            pad_top: 1,
            pad_left: 1,
            upsample: 1,
            ..Conv2dParams::default()
        };
        assert!(doubles(&Params::Conv2d(c), types, &caps));
        c.ow = 7;
        assert!(!doubles(&Params::Conv2d(c), types, &caps));
    }
}
