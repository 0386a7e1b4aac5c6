//! From a dispatch to a kernel: operands checked when a list is prepared, widened to f32 where they are
//! stored narrower, and the result narrowed.
//!
//! Kernels compute on f32 slices only. f32 is this backend's storage type; f16 and bf16 exist for parity with the
//! other backends and cost one conversion pass per operand.

use super::memory::{Block, Line, MAX_OPERANDS, Place, View};
use super::product::Order;
use super::scratch::Scratch;
use super::vector::{is_activation, vectorised};
use super::{
    attention, conv2d, gemm, group_norm_stats, layer_norm, modulate, norm_apply, norm_finalize, pointwise, rearrange,
    resample, time_embedding,
};
use crate::abi::operands::operands;
use crate::abi::table::{self, WeightForm};
use crate::abi::{Access, BackendKind, Item, Params, Types};
use crate::error::{Error, Kind, Result};
use crate::graph::DType;
use crate::plan::command::Dispatch;
use half::{bf16, f16};
use pulp::Arch;
use rayon::prelude::*;
use std::sync::atomic::{AtomicBool, Ordering};

/// One dispatch, resolved.
#[derive(Debug)]
pub(super) struct Kernel {
    params: Params,
    folded: bool,
    order: Order,
    /// Where the operands lie.
    pub(super) places: [Option<Place>; MAX_OPERANDS],
    /// Operands stored narrower than f32.
    narrow: [DType; MAX_OPERANDS],
    /// Index of the output and of the control buffer.
    output: usize,
    control: usize,
    /// Label of the dispatch, for errors.
    label: String,
}

/// Element type of binding `name`.
fn dtype(name: &str, types: Types) -> DType {
    match name {
        "x" | "x2" | "q" | "k" | "v" | "rel" | "a" | "b" | "gb" => types.x,
        "weight" => types.w,
        "y" | "residual" => types.y,
        // Tables, biases, affines, statistics.
        _ => DType::F32,
    }
}

/// Items of a launch, as far as its kernel reads them.
fn items_of(params: &Params) -> u32 {
    match params {
        Params::Conv2d(p) => p.n,
        // Rows that are sequences outnumber the items; only contexts are looked up by item.
        Params::Attention(p) if p.parts & 2 != 0 => p.n,
        Params::GroupNormStats(p) => p.n,
        // Tables are made before there are items.
        Params::Pointwise(p) if p.parts & 2 != 0 => p.n,
        Params::Attention(_)
        | Params::Pointwise(_)
        | Params::Gemm(_)
        | Params::NormFinalize(_)
        | Params::NormApply(_)
        | Params::LayerNorm(_)
        | Params::TimeEmbedding(_)
        | Params::Resample(_)
        | Params::Rearrange(_)
        | Params::Modulate(_) => 0,
    }
}

/// What of the parameters this backend's kernels rely on.
fn sound(params: &Params) -> bool {
    match params {
        Params::Conv2d(p) => {
            is_activation(p.act)
                && !params.wants_statistics()
                && p.kernel > 0
                && p.pitch_x > 0
                && p.pitch_y >= p.oc
                && [p.pitch_x, p.pitch_x2, p.pitch_y].iter().all(|c| c % 8 == 0)
                && (p.pitch_row_bias == 0 || p.pitch_row_bias >= p.pitch_y)
                && [p.h, p.w, p.oh, p.ow].iter().all(|&side| side > 0)
        }
        Params::Gemm(p) => is_activation(p.act) && p.k > 0 && p.pitch_y > 0 && p.k % 8 == 0 && p.pitch_y % 8 == 0,
        Params::Attention(p) => {
            let width = p.heads * p.head_dim;
            p.head_dim % 8 == 0
                && width > 0
                && p.keys > 0
                && p.queries > 0
                && p.offset_q + width <= p.pitch_q
                && p.offset_k + width <= p.pitch_k
                && p.offset_v + width <= p.pitch_v
                && width <= p.pitch_y
                && (p.parts & 4 == 0
                    || (p.parts & 2 == 0 && [p.queries, p.keys].iter().all(|&n| n == p.rel_h * p.rel_w)))
        }
        Params::GroupNormStats(p) => {
            p.pitch_x > 0 && p.h * p.w > 0 && p.blocks == (p.h * p.w).div_ceil(crate::abi::params::NORM_BLOCK)
        }
        Params::NormFinalize(p) => p.groups > 0 && (p.c + p.c2) % p.groups == 0 && p.pitch_x >= p.c,
        Params::NormApply(p) => {
            is_activation(p.act) && p.pixels > 0 && p.c + p.c2 <= p.pitch_y && p.c <= p.pitch_x && p.c2 <= p.pitch_x2
        }
        Params::LayerNorm(p) => p.c > 0 && p.c <= p.pitch,
        Params::TimeEmbedding(p) => p.dim <= p.pitch && p.pitch > 0,
        Params::Pointwise(p) => {
            is_activation(p.act)
                && p.pixels > 0
                && p.c > 0
                && p.c <= p.pitch_y
                && p.offset + p.c <= p.pitch_a
                && (p.pitch_b == 0 || p.c <= p.pitch_b)
        }
        Params::Resample(p) => {
            p.pitch > 0
                && p.pitch % 8 == 0
                && p.axis <= 1
                && p.taps > 0
                && p.taps < p.pitch_table
                && [p.n, p.h, p.w, p.out].iter().all(|&side| side > 0)
        }
        Params::Rearrange(p) => rearrange::sound(p),
        Params::Modulate(p) => {
            is_activation(p.act) && p.pixels > 0 && p.c > 0 && p.c <= p.pitch && 2 * p.c <= p.pitch_gb
        }
    }
}

impl Kernel {
    /// Checks `dispatch`, whose operands lie at `places`.
    pub(super) fn new(dispatch: &Dispatch, places: [Option<Place>; MAX_OPERANDS]) -> Result<Kernel> {
        let refuse = |what: String| Error::new(Kind::Internal, "cpu", what).at(&dispatch.label);
        let (params, types) = (dispatch.params, dispatch.types);
        let bindings = dispatch.stem.bindings();
        if params.stem() != dispatch.stem || bindings.len() != dispatch.bindings.len() || !sound(&params) {
            return Err(refuse(format!("a dispatch of {:?} with {params:?} makes no sense", dispatch.stem)));
        }
        let mut narrow = [DType::F32; MAX_OPERANDS];
        let control = bindings.iter().position(|b| b.access == Access::Control).unwrap_or(bindings.len());
        let row = table::rows(BackendKind::Cpu)
            .iter()
            .find(|r| r.stem == dispatch.stem && r.variant == dispatch.variant)
            .ok_or_else(|| refuse(format!("there is no variant `{}`", dispatch.variant)))?;
        let folded = row.weight == WeightForm::Up2x2;
        for (i, (binding, need)) in bindings.iter().zip(operands(&params, types, row)).enumerate() {
            narrow[i] = dtype(binding.name, types);
            let need = need.map_or(0, |o| o.bytes);
            let have = places[i].map_or(0, |p| p.bytes as u64);
            if have < need || (places[i].is_none() && !binding.optional) {
                return Err(refuse(format!("`{}` has {have} bytes, needs {need}", binding.name)));
            }
        }
        let output = bindings.iter().position(|b| b.access == Access::Write).unwrap_or(0);
        let order = match &params {
            Params::Conv2d(p) => conv2d::order(p, folded),
            Params::Gemm(p) => gemm::order(p),
            _ => Order::default(),
        };
        Ok(Kernel { params, folded, order, places, narrow, output, control, label: dispatch.label.clone() })
    }

    /// Scratch per thread.
    pub(super) fn scratch(&self) -> Scratch {
        match &self.params {
            Params::Conv2d(p) => conv2d::scratch(p, self.folded),
            Params::Gemm(_) => gemm::scratch(),
            Params::Attention(p) => attention::scratch(p),
            _ => Scratch::default(),
        }
    }

    /// f32 values into which operand `i` is widened; 0 where it is f32 already.
    pub(super) fn widened(&self, i: usize) -> usize {
        match (self.narrow[i], self.places[i]) {
            (DType::F32, _) | (_, None) => 0,
            (t, Some(place)) => place.bytes / t.bytes() as usize,
        }
    }

    /// Runs on the current thread pool. `wide` has [`Kernel::widened`] values per operand.
    /// Returns whether a narrowing store met a value that does not fit.
    pub(super) fn run(
        &self,
        arch: Arch,
        mut views: [View<'_>; MAX_OPERANDS],
        wide: &mut [Vec<Line>; MAX_OPERANDS],
    ) -> Result<bool> {
        let out_type = self.narrow[self.output];
        let out = views[self.output].take_write();
        let (head, tail) = wide.split_at_mut(self.output);
        let [out_wide, tail @ ..] = tail else { return Ok(false) };
        let mut inputs: [&[f32]; MAX_OPERANDS] = [&[]; MAX_OPERANDS];
        let spaces = head.iter_mut().map(Some).chain([None]).chain(tail.iter_mut().map(Some));
        for (i, space) in spaces.enumerate() {
            if let Some(space) = space
                && i != self.control
            {
                inputs[i] = widen(views[i].read(), self.narrow[i], bytemuck::cast_slice_mut(space));
            }
        }
        let header = crate::abi::params::CONTROL_HEADER_WORDS as usize * 4;
        let items: &[Item] = match views[self.control].read().get(header..) {
            Some(bytes) => bytemuck::cast_slice(&bytes[..items_of(&self.params) as usize * size_of::<Item>()]),
            None => &[],
        };
        self.check_rows(&inputs, items)?;
        if out_type == DType::F32 {
            self.compute(arch, &inputs, items, bytemuck::cast_slice_mut(out));
            return Ok(false);
        }
        let y: &mut [f32] = &mut bytemuck::cast_slice_mut(out_wide)[..self.widened(self.output)];
        self.compute(arch, &inputs, items, y);
        Ok(narrow(arch, y, out_type, out))
    }

    /// Rows of tables come from the items, at run time.
    fn check_rows(&self, inputs: &[&[f32]; MAX_OPERANDS], items: &[Item]) -> Result<()> {
        let (rows, row): (usize, fn(&Item) -> u32) = match &self.params {
            Params::Conv2d(p) if p.pitch_row_bias > 0 => (inputs[4].len() / p.pitch_row_bias as usize, |i| i.step_row),
            Params::Pointwise(p) if p.parts & 2 != 0 => (inputs[2].len() / 8, |i| i.step_row),
            Params::Attention(p) if p.parts & 2 != 0 => {
                let rows = |x: &[f32], pitch: u32| x.len() / (p.keys as usize * pitch as usize);
                (rows(inputs[1], p.pitch_k).min(rows(inputs[2], p.pitch_v)), |i| i.ctx_row)
            }
            _ => return Ok(()),
        };
        match items.iter().map(row).find(|&r| r as usize >= rows) {
            None => Ok(()),
            Some(r) => Err(Error::new(Kind::Internal, "cpu", format!("row {r} of a table of {rows}")).at(&self.label)),
        }
    }

    /// The call itself. `inputs` are in binding order.
    fn compute(&self, arch: Arch, inputs: &[&[f32]; MAX_OPERANDS], items: &[Item], y: &mut [f32]) {
        // A range may be longer than the value in it.
        let y = &mut y[..lengths_of_output(&self.params)];
        match &self.params {
            Params::Conv2d(p) => {
                let conv = conv2d::Conv {
                    p: *p,
                    items,
                    x: [inputs[0], inputs[1]],
                    weight: inputs[2],
                    bias: inputs[3],
                    row_bias: if p.parts & 2 != 0 { inputs[4] } else { &[] },
                    residual: if p.parts & 4 != 0 { inputs[5] } else { &[] },
                    order: &self.order,
                };
                if self.folded { conv2d::up2x2(arch, &conv, y) } else { conv2d::base(arch, &conv, y) }
            }
            Params::Gemm(p) => {
                let residual = if p.parts & 4 != 0 { inputs[3] } else { &[] };
                let gemm = gemm::Gemm {
                    p: *p,
                    x: inputs[0],
                    weight: inputs[1],
                    bias: inputs[2],
                    residual,
                    order: &self.order,
                };
                gemm::base(arch, &gemm, y);
            }
            Params::Attention(p) => {
                let rel = if p.parts & 4 != 0 { inputs[3] } else { &[] };
                let a = attention::Attention { p: *p, items, q: inputs[0], k: inputs[1], v: inputs[2], rel };
                attention::base(arch, &a, y);
            }
            Params::GroupNormStats(p) => group_norm_stats::base(arch, p, items, [inputs[0], inputs[1]], y),
            Params::NormFinalize(p) => norm_finalize::base(p, inputs[0], inputs[1], y),
            Params::NormApply(p) => norm_apply::base(arch, p, [inputs[0], inputs[1]], inputs[2], y),
            Params::LayerNorm(p) => layer_norm::base(arch, p, inputs[0], inputs[1], y),
            Params::TimeEmbedding(p) => time_embedding::base(p, inputs[0], y),
            Params::Pointwise(p) => {
                let b = if p.parts & 1 != 0 { inputs[1] } else { &[] };
                let table = if p.parts & 2 != 0 { inputs[2] } else { &[] };
                pointwise::base(arch, p, items, inputs[0], b, table, y);
            }
            Params::Resample(p) => resample::base(arch, p, inputs[0], inputs[1], y),
            Params::Rearrange(p) => rearrange::base(p, inputs[0], y),
            Params::Modulate(p) => modulate::base(arch, p, inputs[0], inputs[1], y),
        }
    }

    /// Sets `bits` in the status word of this launch's control buffer.
    pub(super) fn raise(&self, buffers: &mut [Option<Block>], bits: u32) {
        if let Some(place) = self.places[self.control]
            && let Some(Some(block)) = buffers.get_mut(place.buffer)
        {
            let words: &mut [u32] = bytemuck::cast_slice_mut(block.bytes_mut());
            words[place.offset / 4] |= bits;
        }
    }
}

/// Elements of the output; the extents have been checked against its range.
fn lengths_of_output(params: &Params) -> usize {
    let product = |f: &[u32]| f.iter().map(|&v| v as usize).product();
    match params {
        Params::Conv2d(p) => product(&[p.n, p.oh, p.ow, p.pitch_y]),
        Params::Gemm(p) => product(&[p.m, p.pitch_y]),
        Params::Attention(p) => product(&[p.n, p.queries, p.pitch_y]),
        Params::GroupNormStats(p) => product(&[p.n, p.blocks, 3, p.pitch_x + p.pitch_x2]),
        Params::NormFinalize(p) => product(&[p.n, 2, p.pitch_x + p.pitch_x2]),
        Params::NormApply(p) => product(&[p.n, p.pixels, p.pitch_y]),
        Params::LayerNorm(p) => product(&[p.rows, p.pitch]),
        Params::TimeEmbedding(p) => product(&[p.rows, p.pitch]),
        Params::Pointwise(p) => product(&[p.n, p.pixels, p.pitch_y]),
        Params::Resample(p) => product(&[p.n, p.out, if p.axis == 0 { p.w } else { p.h }, p.pitch]),
        Params::Rearrange(p) => product(&[p.n, p.oh, p.ow, p.pitch_y]),
        Params::Modulate(p) => product(&[p.pixels, p.pitch]),
    }
}

/// Values of a conversion task.
const CONVERT: usize = 1 << 14;

/// `bytes` as f32, converted into `space` where they are stored as another type.
fn widen<'a>(bytes: &'a [u8], t: DType, space: &'a mut [f32]) -> &'a [f32] {
    // The view of an absent operand has no alignment.
    if bytes.is_empty() {
        return &[];
    }
    let count = bytes.len() / t.bytes() as usize;
    match t {
        DType::F32 => return bytemuck::cast_slice(&bytes[..count * 4]),
        DType::F16 => {
            let from: &[f16] = bytemuck::cast_slice(&bytes[..count * 2]);
            space[..count].par_chunks_mut(CONVERT).zip(from.par_chunks(CONVERT)).for_each(|(to, from)| {
                half::slice::HalfFloatSliceExt::convert_to_f32_slice(from, to);
            });
        }
        DType::Bf16 => {
            let from: &[bf16] = bytemuck::cast_slice(&bytes[..count * 2]);
            space[..count].par_chunks_mut(CONVERT).zip(from.par_chunks(CONVERT)).for_each(|(to, from)| {
                half::slice::HalfFloatSliceExt::convert_to_f32_slice(from, to);
            });
        }
    }
    &space[..count]
}

/// Stores `values` as `t`, rounding to nearest even; returns whether one of them did not fit.
fn narrow(arch: Arch, values: &[f32], t: DType, out: &mut [u8]) -> bool {
    let overflow = AtomicBool::new(false);
    // bf16 has f32's range: only what is not finite already counts.
    let limit = if t == DType::F16 { crate::limits::F16_MAX } else { f32::MAX };
    out.par_chunks_mut(CONVERT * 2).zip(values.par_chunks(CONVERT)).for_each(|(out, values)| {
        let bad = vectorised(
            arch,
            #[inline(always)]
            || values.iter().fold(false, |bad, v| bad | (v.abs() > limit) | v.is_nan()),
        );
        if bad {
            overflow.store(true, Ordering::Relaxed);
        }
        let out = &mut out[..values.len() * 2];
        if t == DType::F16 {
            let out: &mut [f16] = bytemuck::cast_slice_mut(out);
            half::slice::HalfFloatSliceExt::convert_from_f32_slice(out, values);
        } else {
            let out: &mut [bf16] = bytemuck::cast_slice_mut(out);
            half::slice::HalfFloatSliceExt::convert_from_f32_slice(out, values);
        }
    });
    overflow.load(Ordering::Relaxed)
}
