//! What a consumer can read by itself is not stored: concatenations, nearest-neighbour doublings; and
//! 1x1 convolutions that are plain matrix products.

use super::super::layout::Order;
use super::super::op::{Conv2d, Graph, Linear, Op, Padding};
use super::producers;
use crate::error::Result;

/// Gives both sources of a concatenation to the convolutions and group norms that read it. The
/// concatenation itself is then dead; a consumer of another kind keeps it alive, which the verifier refuses.
pub(super) fn fold_concat(graph: &mut Graph) -> Result<()> {
    let made = producers(graph);
    for i in 0..graph.nodes.len() {
        let foldable = match &graph.nodes[i].op {
            Op::Conv2d(p) => !p.second,
            Op::GroupNorm(p) => !p.second,
            Op::Input(_)
            | Op::Linear(_)
            | Op::LayerNorm(_)
            | Op::Attention(_)
            | Op::TimeEmbedding(_)
            | Op::Pointwise(_)
            | Op::Slice { .. }
            | Op::Concat
            | Op::Upsample { .. }
            | Op::ChannelAffine(_)
            | Op::ChannelMoments
            | Op::Resample(_)
            | Op::Rearrange(_)
            | Op::Modulate(_) => false,
        };
        if !foldable {
            continue;
        }
        let Some(source) = made[graph.nodes[i].inputs[0].0 as usize] else { continue };
        if !matches!(graph.nodes[source].op, Op::Concat) {
            continue;
        }
        let pair = graph.nodes[source].inputs.clone();
        let node = &mut graph.nodes[i];
        node.inputs.splice(0..1, pair);
        match &mut node.op {
            Op::Conv2d(p) => p.second = true,
            Op::GroupNorm(p) => p.second = true,
            Op::Input(_)
            | Op::Linear(_)
            | Op::LayerNorm(_)
            | Op::Attention(_)
            | Op::TimeEmbedding(_)
            | Op::Pointwise(_)
            | Op::Slice { .. }
            | Op::Concat
            | Op::Upsample { .. }
            | Op::ChannelAffine(_)
            | Op::ChannelMoments
            | Op::Resample(_)
            | Op::Rearrange(_)
            | Op::Modulate(_) => {}
        }
    }
    super::remove_dead(graph)
}

/// Lets a convolution double its input by itself.
pub(super) fn fold_upsample(graph: &mut Graph) -> Result<()> {
    let made = producers(graph);
    for i in 0..graph.nodes.len() {
        let Op::Conv2d(p) = &graph.nodes[i].op else { continue };
        // Kernels double only in front of a convolution that keeps the doubled size, with its taps as they are stored.
        if graph.weight(p.weight).order != Order::Stored
            || p.second
            || p.upsample.is_some()
            || p.stride != 1
            || p.padding != Padding::all(p.kernel[0] / 2)
        {
            continue;
        }
        let Some(source) = made[graph.nodes[i].inputs[0].0 as usize] else { continue };
        let Op::Upsample { size } = graph.nodes[source].op else { continue };
        let input = graph.nodes[source].inputs[0];
        let node = &mut graph.nodes[i];
        node.inputs[0] = input;
        if let Op::Conv2d(p) = &mut node.op {
            p.upsample = Some(size);
        }
    }
    super::remove_dead(graph)
}

/// A 1x1 convolution of one source, stride 1 and no padding is a matrix product over pixels: the same
/// arithmetic in the same order, without the index work of a convolution.
pub(super) fn conv_to_linear(graph: &mut Graph) -> Result<()> {
    for node in &mut graph.nodes {
        let Op::Conv2d(p) = &node.op else { continue };
        if is_product(p) {
            node.op = Op::Linear(Linear {
                weights: vec![p.weight],
                biases: p.bias.into_iter().collect(),
                out_channels: p.out_channels,
                geglu: false,
                residual: p.residual,
                act: p.act,
            });
        }
    }
    Ok(())
}

fn is_product(p: &Conv2d) -> bool {
    p.kernel == [1, 1]
        && p.stride == 1
        && p.padding == Padding::default()
        && !p.second
        && !p.row_bias
        && p.upsample.is_none()
}
