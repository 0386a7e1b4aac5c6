//! Per backend, the variants of every stem in order of preference: which launches each accepts, how its
//! weight is packed, its grid and its scratch. Selection is a pure function of (parameters, types, caps).

mod cpu;
pub mod wgpu;

use super::{BackendKind, Caps, Params, Stem, Types};
use crate::error::{Error, Kind, Result};

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
}

/// The rows of one backend, in order of preference per stem.
pub fn rows(kind: BackendKind) -> &'static [Row] {
    match kind {
        BackendKind::Cpu => cpu::ROWS,
        BackendKind::Wgpu => wgpu::ROWS,
    }
}

/// The first row that accepts the launch.
pub fn select(params: &Params, types: Types, caps: &Caps) -> Result<&'static Row> {
    rows(caps.kind).iter().find(|r| r.stem == params.stem() && (r.accepts)(params, types, caps)).ok_or_else(|| {
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
        // These read other elements than they write. A residual would be safe, but saves nothing: at the
        // step that adds it, its product's own operands make the peak.
        Params::Conv2d(_)
        | Params::Gemm(_)
        | Params::Attention(_)
        | Params::GroupNormStats(_)
        | Params::NormFinalize(_)
        | Params::LayerNorm(_)
        | Params::TimeEmbedding(_) => None,
    }
}
