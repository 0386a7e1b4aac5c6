//! What a launch's parameters imply for its bindings: which are present and how many bytes each spans.
//! The planner sizes scratch by it, the null backend holds every dispatch to it.

use super::params::{CONTROL_HEADER_WORDS, Item};
use super::table::{Row, WeightForm};
use super::{Params, Types};
use crate::graph::dtype::DType;
use crate::limits::MAX_BINDINGS;

/// One binding's extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operand {
    /// Bytes the kernel may touch.
    pub bytes: u64,
    /// The range has exactly this size; `false` for tables, whose number of rows is not a parameter.
    pub exact: bool,
}

/// Size of the control buffer for `items` batch elements.
pub fn control_bytes(items: u32) -> u64 {
    u64::from(CONTROL_HEADER_WORDS) * 4 + u64::from(items) * size_of::<Item>() as u64
}

fn bytes(dtype: DType, factors: &[u32]) -> u64 {
    factors.iter().fold(dtype.bytes(), |acc, &f| acc.saturating_mul(u64::from(f)))
}

fn exact(dtype: DType, factors: &[u32]) -> Option<Operand> {
    Some(Operand { bytes: bytes(dtype, factors), exact: true })
}

fn rows(dtype: DType, factors: &[u32]) -> Option<Operand> {
    Some(Operand { bytes: bytes(dtype, factors), exact: false })
}

fn when(present: bool, operand: Option<Operand>) -> Option<Operand> {
    operand.filter(|_| present)
}

/// Present operands of a launch by binding number; `None` where the binding must be absent.
pub fn operands(params: &Params, types: Types, row: &Row) -> [Option<Operand>; MAX_BINDINGS] {
    let Types { x, w, y } = types;
    let f32 = DType::F32;
    let control = |items: u32| Some(Operand { bytes: control_bytes(items), exact: false });
    let mut out = [None; MAX_BINDINGS];
    let list: &[Option<Operand>] = match params {
        Params::Conv2d(p) => {
            let pixels = [p.n, p.h, p.w];
            let source = |pitch| exact(x, &[pixels[0], pixels[1], pixels[2], pitch]);
            let result = exact(y, &[p.n, p.oh, p.ow, p.pitch_y]);
            let row_bias = p.parts & 2 != 0;
            let statistics = params.wants_statistics();
            // Four phases of 2x2 taps, or the kernel's own taps over both sources.
            let taps = if row.weight == WeightForm::Up2x2 { 16 } else { p.kernel * p.kernel };
            &[
                source(p.pitch_x),
                when(p.parts & 1 != 0, source(p.pitch_x2)),
                exact(w, &[taps, p.pitch_x + p.pitch_x2, p.pitch_y]),
                exact(f32, &[p.pitch_y]),
                when(row_bias, rows(f32, &[p.pitch_row_bias])),
                when(p.parts & 4 != 0, result),
                result,
                control(if row_bias || statistics { p.n } else { 0 }),
                when(statistics, exact(f32, &[p.n, (row.statistics)(params, types), 3, p.pitch_y])),
            ]
        }
        Params::Gemm(p) => {
            let halves = 1 + (p.parts & 1);
            let result = exact(y, &[p.m, p.pitch_y]);
            &[
                exact(x, &[p.m, p.k]),
                exact(w, &[p.k, halves, p.pitch_y]),
                exact(f32, &[halves, p.pitch_y]),
                when(p.parts & 4 != 0, result),
                result,
                control(0),
            ]
        }
        Params::Attention(p) => {
            let contexts = p.parts & 2 != 0;
            let source = |pitch| {
                if contexts { rows(x, &[p.keys, pitch]) } else { exact(x, &[p.n, p.keys, pitch]) }
            };
            let scratch = (row.scratch)(params, types);
            &[
                exact(x, &[p.n, p.queries, p.pitch_q]),
                source(p.pitch_k),
                source(p.pitch_v),
                when(p.parts & 4 != 0, exact(x, &[p.n, p.queries, p.heads, p.pitch_rel()])),
                exact(y, &[p.n, p.queries, p.pitch_y]),
                when(scratch > 0, Some(Operand { bytes: scratch, exact: true })),
                control(if contexts { p.n } else { 0 }),
            ]
        }
        Params::GroupNormStats(p) => &[
            exact(x, &[p.n, p.h, p.w, p.pitch_x]),
            when(p.parts & 1 != 0, exact(x, &[p.n, p.h, p.w, p.pitch_x2])),
            exact(f32, &[p.n, p.blocks, 3, p.pitch_x + p.pitch_x2]),
            control(p.n),
        ],
        Params::NormFinalize(p) => &[
            exact(f32, &[p.n, p.blocks, 3, p.pitch_x + p.pitch_x2]),
            exact(f32, &[2, (p.c + p.c2).next_multiple_of(8)]),
            exact(f32, &[p.n, 2, p.pitch_x + p.pitch_x2]),
            control(0),
        ],
        Params::NormApply(p) => &[
            exact(x, &[p.n, p.pixels, p.pitch_x]),
            when(p.pitch_x2 != 0, exact(x, &[p.n, p.pixels, p.pitch_x2])),
            exact(f32, &[p.n, 2, p.pitch_x + p.pitch_x2]),
            exact(y, &[p.n, p.pixels, p.pitch_y]),
            control(0),
        ],
        Params::LayerNorm(p) => {
            &[exact(x, &[p.rows, p.pitch]), exact(f32, &[2, p.pitch]), exact(y, &[p.rows, p.pitch]), control(0)]
        }
        Params::TimeEmbedding(p) => &[exact(x, &[p.rows, 8]), exact(y, &[p.rows, p.pitch]), control(0)],
        Params::Pointwise(p) => {
            let table = p.parts & 2 != 0;
            &[
                exact(x, &[p.n, p.pixels, p.pitch_a]),
                when(p.parts & 1 != 0, exact(x, &[p.n, p.pixels, p.pitch_b])),
                when(table, rows(f32, &[8])),
                exact(y, &[p.n, p.pixels, p.pitch_y]),
                control(if table { p.n } else { 0 }),
            ]
        }
        Params::Resample(p) => {
            let tables = if p.parts & 1 != 0 { p.n } else { 1 };
            let [oh, ow] = if p.axis == 0 { [p.out, p.w] } else { [p.h, p.out] };
            &[
                exact(x, &[p.n, p.h, p.w, p.pitch]),
                exact(f32, &[tables, p.out, p.pitch_table]),
                exact(y, &[p.n, oh, ow, p.pitch]),
                control(0),
            ]
        }
        Params::Rearrange(p) => {
            &[exact(x, &[p.n, p.h, p.w, p.pitch_x]), exact(y, &[p.n, p.oh, p.ow, p.pitch_y]), control(0)]
        }
        Params::Modulate(p) => &[
            exact(x, &[p.pixels, p.pitch]),
            exact(x, &[p.pixels, p.pitch_gb]),
            exact(y, &[p.pixels, p.pitch]),
            control(0),
        ],
    };
    for (slot, operand) in out.iter_mut().zip(list) {
        *slot = *operand;
    }
    out
}
