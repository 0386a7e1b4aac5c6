//! What one launch costs: floating-point operations as executed by the chosen variant, and the bytes of
//! its operands, each counted once.

use crate::abi::Params;
use crate::abi::table::{Row, WeightForm};
use crate::plan::command::{Plan, Range, SlotKind};

fn count(factors: &[u32]) -> u64 {
    factors.iter().fold(1u64, |acc, &f| acc.saturating_mul(u64::from(f)))
}

/// Floating-point operations of a launch; a multiply-add counts as two. Elementwise stems count a few per
/// element, which is small beside any product but keeps their GFLOP/s from reading as zero.
pub fn flops(params: &Params, row: &Row) -> u64 {
    match params {
        Params::Conv2d(p) => {
            // The folded form of a doubling convolution executes 4 taps instead of 9.
            let taps = if row.weight == WeightForm::Up2x2 { 4 } else { p.kernel * p.kernel };
            count(&[2, p.n, p.oh, p.ow, p.oc, taps, p.pitch_x + p.pitch_x2])
        }
        Params::Gemm(p) => count(&[2, p.m, p.n, p.k, 1 + (p.parts & 1)]),
        Params::Attention(p) => {
            let all = count(&[4, p.n, p.queries, p.keys, p.heads, p.head_dim]);
            // A causal mask leaves half of the square.
            if p.parts & 1 != 0 { all / 2 } else { all }
        }
        Params::GroupNormStats(p) => count(&[4, p.n, p.h, p.w, p.pitch_x + p.pitch_x2]),
        Params::NormFinalize(p) => count(&[8, p.n, p.blocks, p.c + p.c2]),
        Params::NormApply(p) => count(&[2, p.n, p.pixels, p.c + p.c2]),
        Params::LayerNorm(p) => count(&[8, p.rows, p.c]),
        Params::TimeEmbedding(p) => count(&[4, p.rows, p.dim]),
        Params::Pointwise(p) => count(&[4, p.n, p.pixels, p.c]),
        Params::Resample(p) => count(&[2, p.n, p.out, if p.axis == 0 { p.w } else { p.h }, p.pitch, p.taps]),
        // A move computes nothing; counted once per value, so that its rate does not read as zero.
        Params::Rearrange(p) => count(&[p.n, p.oh, p.ow, p.c]),
        Params::Modulate(p) => count(&[4, p.pixels, p.c]),
    }
}

/// Bytes of the operands of a launch, the control slot apart.
pub(super) fn bytes(bindings: &[Option<Range>], control: crate::plan::command::SlotId) -> u64 {
    bindings.iter().flatten().filter(|r| r.slot != control).map(|r| r.bytes).sum()
}

/// Fills in the totals that follow from slots and commands.
pub(super) fn total(plan: &mut Plan) {
    let sum = |want: fn(&SlotKind) -> bool| plan.slots.iter().filter(|s| want(&s.kind)).map(|s| s.bytes).sum();
    plan.cost.arena_bytes = sum(|k| matches!(k, SlotKind::Arena));
    plan.cost.persistent_bytes = sum(|k| matches!(k, SlotKind::Persistent));
    plan.cost.weight_bytes = sum(|k| matches!(k, SlotKind::Weight(_) | SlotKind::Ring));
    plan.cost.flops = plan.body.iter().map(|d| d.flops).sum();
    plan.cost.bytes = plan.body.iter().map(|d| d.bytes).sum();
}
