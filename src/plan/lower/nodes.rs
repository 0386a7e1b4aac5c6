//! The parameters and operands of each op's launches.

use super::{Context, Operand, act_code, buffer, product};
use crate::abi::params::{
    AttentionParams, Conv2dParams, GemmParams, GroupNormStatsParams, LayerNormParams, NORM_BLOCK, NormApplyParams,
    NormFinalizeParams, PointwiseParams,
};
use crate::abi::table::{self, WeightForm};
use crate::abi::{Params, Types};
use crate::error::Result;
use crate::extent;
use crate::graph::layout::Packing;
use crate::graph::op::{Attention, ChannelAffine, Conv2d, GroupNorm, LayerNorm, Linear, Node, Pointwise};
use crate::graph::{DType, Lifetime, ValueId, verify};

impl Context<'_> {
    pub(super) fn conv(&mut self, node: &Node, p: &Conv2d) -> Result<()> {
        let mut rest = node.inputs.iter().copied();
        let mut take = |present: bool| if present { rest.next() } else { None };
        let x = take(true).unwrap_or(node.output);
        let (x2, row_bias, residual) = (take(p.second), take(p.row_bias), take(p.residual));
        let (xs, ys) = (self.shape(x), self.shape(node.output));
        let params = Params::Conv2d(Conv2dParams {
            n: xs.n,
            h: xs.h,
            w: xs.w,
            pitch_x: xs.pitch(),
            pitch_x2: x2.map_or(0, |v| self.shape(v).pitch()),
            oh: ys.h,
            ow: ys.w,
            oc: ys.c,
            pitch_y: ys.pitch(),
            kernel: p.kernel[0],
            stride: p.stride,
            pad_top: p.padding.top,
            pad_left: p.padding.left,
            upsample: u32::from(p.upsample.is_some()),
            act: act_code(p.act),
            parts: u32::from(p.second) | u32::from(p.row_bias) << 1 | u32::from(p.residual) << 2,
            pitch_row_bias: row_bias.map_or(0, |v| self.shape(v).pitch()),
            pad0: 0,
            pad1: 0,
            pad2: 0,
        });
        let types = self.types(x, node.output, true);
        let packing = match table::select(&params, types, self.caps)?.weight {
            WeightForm::Up2x2 => Packing::ConvUp2x2 { input: xs.c, out: ys.c },
            WeightForm::Kn | WeightForm::None => {
                let sources = std::iter::once(x).chain(x2).map(|v| self.shape(v).c).collect();
                Packing::ConvKn { taps: p.kernel[0] * p.kernel[1], sources, out: ys.c }
            }
        };
        let packing = self.reordered(p.weight, packing)?;
        let weight = self.weight(vec![self.tensor(p.weight)], packing, types.w);
        let bias = self.bias(p.bias, ys.c)?;
        let y = Some(buffer(node.output));
        let [x2, row_bias, residual] = [x2, row_bias, residual].map(|v| v.map(buffer));
        self.push(node, params, types, vec![Some(buffer(x)), x2, weight, bias, row_bias, residual, y])
    }

    pub(super) fn linear(&mut self, node: &Node, p: &Linear) -> Result<()> {
        let x = node.inputs[0];
        let (xs, ys) = (self.shape(x), self.shape(node.output));
        let params = Params::Gemm(GemmParams {
            m: product("rows of a linear", &[xs.n, xs.h, xs.w])?,
            n: p.out_channels,
            k: xs.pitch(),
            pitch_y: ys.pitch(),
            act: act_code(p.act),
            parts: u32::from(p.geglu) | u32::from(p.residual) << 2,
            items: xs.n,
            pad0: 0,
        });
        let types = self.types(x, node.output, true);
        let outs = verify::linear_outs(self.graph, p);
        // A GEGLU bias is one tensor that fills two vectors; stacked biases fill one, as their columns do.
        let lengths = if p.geglu { vec![outs[0]; 2] } else { vec![p.out_channels] };
        let biases = if p.biases.is_empty() {
            vec![None; lengths.len()]
        } else {
            p.biases.iter().map(|&b| self.tensor(b)).collect()
        };
        let tensors = p.weights.iter().map(|&w| self.tensor(w)).collect();
        let packing = Packing::LinearKn { input: xs.c, outs, geglu: p.geglu };
        // Tensors in another order stand alone.
        let packing = if let [one] = p.weights[..] { self.reordered(one, packing)? } else { packing };
        let weight = self.weight(tensors, packing, types.w);
        let bias = match p.biases[..] {
            [one] if !p.geglu => self.bias(Some(one), p.out_channels)?,
            _ => self.vectors(biases, lengths),
        };
        let residual = p.residual.then(|| buffer(node.inputs[1]));
        self.push(node, params, types, vec![Some(buffer(x)), weight, bias, residual, Some(buffer(node.output))])
    }

    pub(super) fn group_norm(&mut self, node: &Node, p: &GroupNorm) -> Result<()> {
        let x = node.inputs[0];
        let x2 = p.second.then(|| node.inputs[1]);
        let (xs, ys) = (self.shape(x), self.shape(node.output));
        let (c2, pitch_x2) = x2.map_or((0, 0), |v| (self.shape(v).c, self.shape(v).pitch()));
        let (n, pitch_x, pitch_y) = (xs.n, xs.pitch(), ys.pitch());
        let name = self.graph.value(node.output).name.clone();
        let width = u64::from(n) * u64::from(pitch_x + pitch_x2) * DType::F32.bytes();
        let sources = [Some(buffer(x)), x2.map(buffer)];
        let made = if x2.is_none() { self.made_statistics(x, self.is_setup(node)) } else { None };
        let (partials, blocks) = match made {
            Some(made) => made,
            None => {
                let blocks = extent::to_u32("statistics blocks", xs.pixels().div_ceil(u64::from(NORM_BLOCK)))?;
                let partials = self.scratch(format!("{name}.partials"), 3 * u64::from(blocks) * width);
                self.moments(node, blocks, partials)?;
                (partials, blocks)
            }
        };
        let ab = self.scratch(format!("{name}.ab"), 2 * width);

        let merge = NormFinalizeParams { n, blocks, c: xs.c, c2, pitch_x, pitch_x2, groups: p.groups, eps: p.eps };
        let affine = self.vectors(vec![self.tensor(p.weight), self.tensor(p.bias)], vec![ys.c; 2]);
        let f32 = Types { x: DType::F32, w: DType::F32, y: DType::F32 };
        self.push(node, Params::NormFinalize(merge), f32, vec![Some(partials), affine, Some(ab)])?;

        let pixels = extent::to_u32("pixels", xs.pixels())?;
        let act = act_code(p.act);
        let apply = NormApplyParams { n, pixels, c: xs.c, c2, pitch_x, pitch_x2, pitch_y, act };
        let types = self.types(x, node.output, false);
        let list = vec![sources[0], sources[1], Some(ab), Some(buffer(node.output))];
        self.push(node, Params::NormApply(apply), types, list)
    }

    /// The first of a group norm's launches: the partial statistics of the node's inputs, in so many blocks an item.
    fn moments(&mut self, node: &Node, blocks: u32, partials: Operand) -> Result<()> {
        let x = node.inputs[0];
        let x2 = node.inputs.get(1).copied();
        let xs = self.shape(x);
        let params = Params::GroupNormStats(GroupNormStatsParams {
            n: xs.n,
            h: xs.h,
            w: xs.w,
            pitch_x: xs.pitch(),
            pitch_x2: x2.map_or(0, |v| self.shape(v).pitch()),
            blocks,
            parts: u32::from(x2.is_some()),
            pad0: 0,
        });
        let types = Types { x: self.dtype(x), w: DType::F32, y: DType::F32 };
        self.push(node, params, types, vec![Some(buffer(x)), x2.map(buffer), Some(partials)])
    }

    /// The last of a group norm's launches, with factors from elsewhere.
    pub(super) fn channel_affine(&mut self, node: &Node, p: &ChannelAffine) -> Result<()> {
        let [x, ab] = [0, 1].map(|i| node.inputs[i]);
        let (xs, ys) = (self.shape(x), self.shape(node.output));
        let params = Params::NormApply(NormApplyParams {
            n: xs.n,
            pixels: extent::to_u32("pixels", xs.pixels())?,
            c: xs.c,
            c2: 0,
            pitch_x: xs.pitch(),
            pitch_x2: 0,
            pitch_y: ys.pitch(),
            act: act_code(p.act),
        });
        let types = self.types(x, node.output, false);
        self.push(node, params, types, vec![Some(buffer(x)), None, Some(buffer(ab)), Some(buffer(node.output))])
    }

    /// The first of a group norm's launches alone; its partial statistics are the node's own value.
    pub(super) fn channel_moments(&mut self, node: &Node) -> Result<()> {
        self.moments(node, self.shape(node.output).h, buffer(node.output))
    }

    pub(super) fn layer_norm(&mut self, node: &Node, p: &LayerNorm) -> Result<()> {
        let s = self.shape(node.inputs[0]);
        let rows = product("rows of a layer norm", &[s.n, s.h, s.w])?;
        let params = Params::LayerNorm(LayerNormParams { rows, c: s.c, pitch: s.pitch(), eps: p.eps });
        let affine = self.vectors(vec![self.tensor(p.weight), self.tensor(p.bias)], vec![s.c; 2]);
        let types = self.types(node.inputs[0], node.output, false);
        self.push(node, params, types, vec![Some(buffer(node.inputs[0])), affine, Some(buffer(node.output))])
    }

    pub(super) fn attention(&mut self, node: &Node, p: &Attention) -> Result<()> {
        let [q, k, v] = [0, 1, 2].map(|i| node.inputs[i]);
        let lifetime = |v: ValueId| self.graph.value(v).lifetime;
        // Within the setup list the rows of both sides are contexts: plain items there.
        let contexts = lifetime(k) == Lifetime::Context && lifetime(q) != Lifetime::Context;
        // Rows that are sequences lie one after the other, as items do.
        let (qs, ks) = (self.shape(q), self.shape(k));
        let [n, queries, keys] = if p.rows {
            [product("sequences", &[qs.n, qs.h])?, qs.w, ks.w]
        } else {
            [qs.n, extent::to_u32("queries", qs.pixels())?, extent::to_u32("keys", ks.pixels())?]
        };
        let rel = p.relative.map(|_| node.inputs[3]);
        let [rel_h, rel_w] = p.relative.unwrap_or_default();
        let params = Params::Attention(AttentionParams {
            n,
            queries,
            keys,
            heads: p.heads,
            head_dim: p.head_dim,
            pitch_q: self.shape(q).pitch(),
            pitch_k: self.shape(k).pitch(),
            pitch_v: self.shape(v).pitch(),
            pitch_y: self.shape(node.output).pitch(),
            offset_q: p.q_offset,
            offset_k: p.k_offset,
            offset_v: p.v_offset,
            scale: p.scale,
            parts: u32::from(p.causal) | u32::from(contexts) << 1 | u32::from(rel.is_some()) << 2,
            rel_h,
            rel_w,
        });
        self.simple(node, params, &[Some(q), Some(k), Some(v), rel])
    }

    pub(super) fn pointwise_params(&self, node: &Node, p: &Pointwise) -> PointwiseParams {
        let (a, y) = (self.shape(node.inputs[0]), self.shape(node.output));
        let [lo, hi] = p.clamp.unwrap_or([f32::NEG_INFINITY, f32::INFINITY]);
        PointwiseParams {
            n: a.n,
            pixels: y.h * y.w,
            c: y.c,
            pitch_a: a.pitch(),
            pitch_b: p.beta.map_or(0, |_| y.pitch()),
            pitch_y: y.pitch(),
            offset: 0,
            act: act_code(p.act),
            alpha: p.alpha,
            beta: p.beta.unwrap_or(0.0),
            gamma: p.gamma,
            lo,
            hi,
            parts: u32::from(p.beta.is_some()) | u32::from(p.table) << 1,
            pad0: 0,
            pad1: 0,
        }
    }

    pub(super) fn pointwise(&mut self, node: &Node, p: &Pointwise) -> Result<()> {
        let params = Params::Pointwise(self.pointwise_params(node, p));
        let b = p.beta.map(|_| node.inputs[1]);
        let table = verify::table_input(&node.op).map(|i| node.inputs[i]);
        self.simple(node, params, &[Some(node.inputs[0]), b, table])
    }
}
