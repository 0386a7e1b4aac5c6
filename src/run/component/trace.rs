//! What `--trace` writes: every value of the fused graph, under the path of the module it is the output of.
//!
//! Fusion is not changed for it, so that what is seen is what runs: a traced run gives the outputs of an
//! untraced one bit for bit. Where a kernel does more than the module, the name says so: `norm1+silu` is
//! the norm with the activation behind it, `conv1+time_emb_proj` the convolution with the time row added,
//! `to_q+to_k+to_v` three projections side by side. Names without `+` are what PyTorch's module of that
//! path gives; `attn1.sum`, `attn1.softmax` and the like have no module.

use super::network::Network;
use crate::abi::Item;
use crate::graph::op::{Graph, Node};
use crate::graph::{Act, Lifetime, Op, Shape};
use crate::weights::Checkpoint;
use std::collections::HashSet;

/// Form of a tensor in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `[n, c, h, w]`.
    Picture,
    /// `[n, h * w, c]`.
    Tokens,
    /// `[n, c]`: a table over steps.
    Row,
}

impl Form {
    /// Extents of a value of `shape`, for `n` items.
    pub(super) fn extents(self, n: u64, shape: Shape) -> Vec<u64> {
        let [h, w, c] = [shape.h, shape.w, shape.c].map(u64::from);
        match self {
            Form::Picture => vec![n, c, h, w],
            Form::Tokens => vec![n, h * w, c],
            Form::Row => vec![n, c],
        }
    }
}

/// One value to be read after the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Traced {
    /// Name of the graph output and of the tensor.
    pub(super) name: String,
    /// How it is written.
    pub(super) form: Form,
    /// What its rows are: items, steps or contexts.
    pub(super) lifetime: Lifetime,
}

impl Traced {
    /// Rows of the tensor: one per item, as PyTorch has it, also where the value has one per step or context.
    pub(super) fn rows(&self, shape: Shape, items: u32) -> u64 {
        match self.lifetime {
            Lifetime::Window | Lifetime::Step | Lifetime::Context => u64::from(items),
            Lifetime::Job | Lifetime::Weight => u64::from(shape.n),
        }
    }

    /// The value's rows, of `row` values each, as they are written.
    pub(super) fn spread(&self, values: Vec<f32>, row: usize, items: &[Item]) -> Vec<f32> {
        let pick = |of: fn(&Item) -> u32| {
            let rows = items.iter().map(|i| of(i) as usize * row);
            rows.flat_map(|at| values[at..at + row].iter().copied()).collect()
        };
        match self.lifetime {
            Lifetime::Step => pick(|i| i.step_row),
            Lifetime::Context => pick(|i| i.ctx_row),
            Lifetime::Window | Lifetime::Job | Lifetime::Weight => values,
        }
    }
}

/// Makes every value of a fused graph an output called `trace.<module path>`.
pub(super) fn observe(graph: &mut Graph, network: &Network, checkpoint: &Checkpoint) -> Vec<Traced> {
    let mut taken: HashSet<String> = graph.outputs.iter().map(|(name, _)| name.clone()).collect();
    let (mut traced, mut outputs) = (Vec::new(), Vec::new());
    for node in graph.nodes.iter().filter(|n| !matches!(n.op, Op::Input(_))) {
        let path = module_path(graph, node);
        let mut name = format!("trace.{path}");
        while !taken.insert(name.clone()) {
            name.push('\'');
        }
        let form = form(graph, node, &path, network, checkpoint);
        traced.push(Traced { name: name.clone(), form, lifetime: graph.value(node.output).lifetime });
        outputs.push((name, node.output));
    }
    graph.outputs.extend(outputs);
    traced
}

/// The module whose output `node` makes, and what else it does.
fn module_path(graph: &Graph, node: &Node) -> String {
    let name = graph.value(node.output).name.as_str();
    match &node.op {
        Op::GroupNorm(p) if p.act == Act::Silu => match name.strip_suffix("conv_norm_out") {
            // diffusers has a module for this one activation
            Some(parent) => format!("{parent}conv_act"),
            None => format!("{name}+silu"),
        },
        Op::Conv2d(p) if p.row_bias => format!("{name}+time_emb_proj"),
        // The gated unit is the module above its projection.
        Op::Linear(p) if p.geglu => name.strip_suffix(".proj").unwrap_or(name).to_owned(),
        Op::Input(_)
        | Op::Conv2d(_)
        | Op::Linear(_)
        | Op::GroupNorm(_)
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
        | Op::Modulate(_) => name.to_owned(),
    }
}

/// Tokens where PyTorch has tokens: inside transformer blocks and attention, and in the projection in front
/// of them where the checkpoint stores it as a linear layer.
fn form(graph: &Graph, node: &Node, path: &str, network: &Network, checkpoint: &Checkpoint) -> Form {
    let value = graph.value(node.output);
    let s = value.shape;
    if value.lifetime == Lifetime::Step && s.pixels() == 1 {
        return Form::Row;
    }
    let leaf = path.rsplit('.').next().unwrap_or(path);
    let projection = ["to_q", "to_k", "to_v", "softmax"].iter().any(|n| leaf.starts_with(n));
    let linear = leaf == "proj_in" && checkpoint.find(&format!("{path}.weight")).is_some_and(|t| t.shape.len() == 2);
    if network.is_all_tokens() || path.contains("transformer_blocks") || projection || linear {
        Form::Tokens
    } else {
        Form::Picture
    }
}
