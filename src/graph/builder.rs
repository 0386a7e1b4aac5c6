//! Builds graphs: modules are entered by name, so that values and tensors carry the checkpoint's own
//! module paths.

use super::layout::Order;
use super::op::{
    Act, Attention, Axis, Conv2d, Graph, GroupNorm, LayerNorm, Lifetime, Linear, Modulate, Node, Op, Padding,
    Pointwise, Rearrange, Resample, TimeEmbedding, Value, ValueId, WeightDecl, WeightId,
};
use super::taps::{self, Filter};
use super::{DType, Shape, shape};
use crate::error::{Error, Kind, Result};

/// Builds one [`Graph`], op by op. Every method returns the new value, or the shape error.
#[derive(Debug)]
pub struct Builder {
    graph: Graph,
    dtype: DType,
    path: Vec<String>,
}

impl Builder {
    /// An empty graph called `name` whose values are stored as `dtype` unless asked otherwise.
    pub fn new(name: impl Into<String>, dtype: DType) -> Builder {
        Builder { graph: Graph { name: name.into(), ..Graph::default() }, dtype, path: Vec::new() }
    }

    /// Runs `body` inside the module `name`: tensors and values made there are prefixed by it.
    pub fn module<T>(&mut self, name: &str, body: impl FnOnce(&mut Builder) -> Result<T>) -> Result<T> {
        self.path.push(name.to_owned());
        let out = body(self);
        self.path.pop();
        out
    }

    /// Shape of `id`.
    pub fn shape(&self, id: ValueId) -> Shape {
        self.graph.value(id).shape
    }

    /// Type in which values are stored.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Type in which `id` is stored.
    pub fn dtype_of(&self, id: ValueId) -> DType {
        self.graph.value(id).dtype
    }

    /// The module path plus `leaf` (empty: the path alone).
    pub fn full_name(&self, leaf: &str) -> String {
        let mut parts: Vec<&str> = self.path.iter().map(String::as_str).collect();
        if !leaf.is_empty() {
            parts.push(leaf);
        }
        parts.join(".")
    }

    /// Declares a graph input called exactly `name`.
    pub fn input(&mut self, name: &str, shape: Shape, dtype: DType, lifetime: Lifetime) -> ValueId {
        let output = self.add_value(name.to_owned(), shape, dtype, lifetime);
        self.graph.nodes.push(Node { op: Op::Input(lifetime), inputs: Vec::new(), output });
        output
    }

    /// Declares (or finds again) the tensor `leaf` of the current module.
    pub fn weight(&mut self, leaf: &str, shape: &[u64]) -> WeightId {
        self.weight_in(leaf, shape, Order::Stored)
    }

    /// Declares (or finds again) the tensor `leaf` of the current module, which the op takes in `order`.
    pub fn weight_in(&mut self, leaf: &str, shape: &[u64], order: Order) -> WeightId {
        let name = self.full_name(leaf);
        if let Some(i) = self.graph.weights.iter().position(|w| w.name == name && w.order == order) {
            return WeightId(i as u32);
        }
        self.graph.weights.push(WeightDecl { name, shape: shape.to_vec(), order });
        WeightId(self.graph.weights.len() as u32 - 1)
    }

    /// An input of the job, f32, whose values belong to the graph; named by the module path plus `leaf`. `values` are
    /// one item, NHWC.
    pub fn constant(&mut self, leaf: &str, shape: Shape, values: Vec<f32>) -> ValueId {
        let name = self.full_name(leaf);
        let id = self.input(&name, shape, DType::F32, Lifetime::Job);
        self.graph.constants.push((id, values));
        id
    }

    /// Adds any op; the value is named by the module path plus `leaf`. Tables over steps and whatever
    /// else is made once per job stay f32; all others are stored as the builder's type.
    pub fn push(&mut self, leaf: &str, op: Op, inputs: &[ValueId]) -> Result<ValueId> {
        let table = inputs.iter().all(|&v| self.graph.value(v).lifetime <= Lifetime::Step);
        self.push_as(leaf, op, inputs, if table { DType::F32 } else { self.dtype })
    }

    /// Like [`Builder::push`], stored as `dtype`.
    pub fn push_as(&mut self, leaf: &str, op: Op, inputs: &[ValueId], dtype: DType) -> Result<ValueId> {
        let name = self.full_name(leaf);
        let out = shape::infer(&op, &shape::of(&self.graph, inputs)).map_err(|e| e.at(&name))?;
        let lifetime = inputs.iter().map(|&v| self.graph.value(v).lifetime).max().unwrap_or(Lifetime::Weight);
        let output = self.add_value(name, out, dtype, lifetime);
        self.graph.nodes.push(Node { op, inputs: inputs.to_vec(), output });
        Ok(output)
    }

    /// A plain convolution module `name` with bias: tensors `name.weight` and `name.bias`.
    pub fn conv(
        &mut self,
        name: &str,
        x: ValueId,
        out: u32,
        kernel: u32,
        stride: u32,
        padding: Padding,
    ) -> Result<ValueId> {
        let dtype = self.dtype;
        self.conv_as(name, x, out, kernel, stride, padding, dtype)
    }

    /// Like [`Builder::conv`], stored as `dtype`.
    #[expect(clippy::too_many_arguments, reason = "these are the convolution's own parameters")]
    pub fn conv_as(
        &mut self,
        name: &str,
        x: ValueId,
        out: u32,
        kernel: u32,
        stride: u32,
        padding: Padding,
        dtype: DType,
    ) -> Result<ValueId> {
        let c = u64::from(self.shape(x).c);
        self.module(name, |b| {
            let weight = b.weight("weight", &[u64::from(out), c, u64::from(kernel), u64::from(kernel)]);
            let bias = Some(b.weight("bias", &[u64::from(out)]));
            let op = Conv2d {
                weight,
                bias,
                out_channels: out,
                kernel: [kernel, kernel],
                stride,
                padding,
                upsample: None,
                second: false,
                row_bias: false,
                residual: false,
                act: Act::None,
            };
            b.push_as("", Op::Conv2d(op), &[x], dtype)
        })
    }

    /// A convolution module `name` without bias, stride 1, that keeps the sides: an odd kernel.
    pub fn conv_without_bias(&mut self, name: &str, x: ValueId, out: u32, kernel: u32) -> Result<ValueId> {
        let c = u64::from(self.shape(x).c);
        self.module(name, |b| {
            let weight = b.weight("weight", &[u64::from(out), c, u64::from(kernel), u64::from(kernel)]);
            let op = Conv2d {
                weight,
                bias: None,
                out_channels: out,
                kernel: [kernel, kernel],
                stride: 1,
                padding: Padding::all(kernel / 2),
                upsample: None,
                second: false,
                row_bias: false,
                residual: false,
                act: Act::None,
            };
            b.push("", Op::Conv2d(op), &[x])
        })
    }

    /// A linear module `name` with or without bias.
    pub fn linear(&mut self, name: &str, x: ValueId, out: u32, bias: bool) -> Result<ValueId> {
        let c = u64::from(self.shape(x).c);
        self.module(name, |b| {
            let weights = vec![b.weight("weight", &[u64::from(out), c])];
            let biases = if bias { vec![b.weight("bias", &[u64::from(out)])] } else { Vec::new() };
            let op = Linear { weights, biases, out_channels: out, geglu: false, residual: false, act: Act::None };
            b.push("", Op::Linear(op), &[x])
        })
    }

    /// A module `name` that is a convolution without bias whose stride is its kernel, over patches that were
    /// unfolded into channels `(in, ky, kx)` beforehand: a product with the tensor `[out, in, kernel, kernel]`.
    pub fn patches(&mut self, name: &str, x: ValueId, out: u32, input: u32, kernel: u32) -> Result<ValueId> {
        let [o, i, k] = [out, input, kernel].map(u64::from);
        self.module(name, |b| {
            let weights = vec![b.weight("weight", &[o, i, k, k])];
            let biases = Vec::new();
            let op = Linear { weights, biases, out_channels: out, geglu: false, residual: false, act: Act::None };
            b.push("", Op::Linear(op), &[x])
        })
    }

    /// A group norm module `name`.
    pub fn group_norm(&mut self, name: &str, x: ValueId, groups: u32, eps: f32, act: Act) -> Result<ValueId> {
        let c = u64::from(self.shape(x).c);
        self.module(name, |b| {
            let weight = b.weight("weight", &[c]);
            let bias = b.weight("bias", &[c]);
            b.push("", Op::GroupNorm(GroupNorm { groups, eps, weight, bias, second: false, act }), &[x])
        })
    }

    /// A layer norm module `name`.
    pub fn layer_norm(&mut self, name: &str, x: ValueId, eps: f32) -> Result<ValueId> {
        let dtype = self.dtype;
        self.layer_norm_as(name, x, eps, dtype)
    }

    /// Like [`Builder::layer_norm`], stored as `dtype`.
    pub fn layer_norm_as(&mut self, name: &str, x: ValueId, eps: f32, dtype: DType) -> Result<ValueId> {
        let c = u64::from(self.shape(x).c);
        self.module(name, |b| {
            let weight = b.weight("weight", &[c]);
            let bias = b.weight("bias", &[c]);
            b.push_as("", Op::LayerNorm(LayerNorm { eps, weight, bias }), &[x], dtype)
        })
    }

    /// Attention of `heads` heads over separate q, k and v.
    pub fn attention(&mut self, leaf: &str, qkv: [ValueId; 3], heads: u32, scale: f32) -> Result<ValueId> {
        self.masked_attention(leaf, qkv, heads, scale, false)
    }

    /// The same; with `causal`, token `i` sees keys `0..=i` only.
    pub fn masked_attention(
        &mut self,
        leaf: &str,
        [q, k, v]: [ValueId; 3],
        heads: u32,
        scale: f32,
        causal: bool,
    ) -> Result<ValueId> {
        let head_dim = self.shape(q).c / heads;
        let op = Attention {
            heads,
            head_dim,
            scale,
            q_offset: 0,
            k_offset: 0,
            v_offset: 0,
            causal,
            rows: false,
            relative: None,
        };
        self.push(leaf, Op::Attention(op), &[q, k, v])
    }

    /// `x` along one axis by a table of `taps` weights a row, see [`Resample`].
    pub fn resample(&mut self, leaf: &str, x: ValueId, table: ValueId, axis: Axis) -> Result<ValueId> {
        let taps = self.shape(table).c.saturating_sub(1);
        self.push(leaf, Op::Resample(Resample { axis, taps }), &[x, table])
    }

    /// `x` resized to `[h, w]`, one axis after the other: the one first that leaves less in between. An axis that
    /// keeps its side is left as it is.
    pub fn resize(&mut self, name: &str, x: ValueId, [h, w]: [u32; 2], filter: Filter) -> Result<ValueId> {
        let from = self.shape(x);
        let rows_first = u64::from(h) * u64::from(from.w) <= u64::from(from.h) * u64::from(w);
        let rows = (Axis::Rows, "rows", from.h, h);
        let columns = (Axis::Columns, "columns", from.w, w);
        let mut steps = if rows_first { vec![rows, columns] } else { vec![columns, rows] };
        steps.retain(|(_, _, from, to)| from != to);
        let mut x = x;
        for (i, &(axis, what, from, to)) in steps.iter().enumerate() {
            let table = taps::Taps::of(filter, from, to)?;
            let shape = Shape::new(1, 1, to, table.taps() + 1);
            let table = self.constant(&format!("{name}.{what}_taps"), shape, table.into_values());
            let leaf = if i + 1 == steps.len() { name.to_owned() } else { format!("{name}.{what}") };
            x = self.resample(&leaf, x, table, axis)?;
        }
        Ok(x)
    }

    /// A move of pixels, see [`Rearrange`].
    pub fn rearrange(&mut self, leaf: &str, x: ValueId, op: Rearrange) -> Result<ValueId> {
        self.push(leaf, Op::Rearrange(op), &[x])
    }

    /// `act(x * (1 + gamma) + beta)`, gamma and beta side by side in `gb`.
    pub fn modulate(&mut self, leaf: &str, x: ValueId, gb: ValueId, act: Act) -> Result<ValueId> {
        self.push(leaf, Op::Modulate(Modulate { act }), &[x, gb])
    }

    /// A transposed convolution module `name` with bias, tensors `weight` `[in, out, k, k]` and `bias`: kernel and
    /// stride equal without padding, or kernel 4, stride 2 and padding 1. The map grows by the stride.
    pub fn conv_transpose(
        &mut self,
        name: &str,
        x: ValueId,
        out: u32,
        kernel: u32,
        stride: u32,
        padding: u32,
    ) -> Result<ValueId> {
        let c = u64::from(self.shape(x).c);
        let k = u64::from(kernel);
        let order = Order::Transposed { stride, padding };
        let stored = [c, u64::from(out), k, k];
        let all = order.taken(&stored).and_then(|s| s.first().and_then(|&all| u32::try_from(all).ok()));
        let Some(all) = all else {
            let why = format!("no transposed convolution of kernel {kernel}, stride {stride}, padding {padding}");
            return Err(Error::new(Kind::Internal, "graph", why).at(self.full_name(name)));
        };
        self.module(name, |b| {
            let weight = b.weight_in("weight", &stored, order);
            let bias = b.weight_in("bias", &[u64::from(out)], Order::Repeated { times: stride * stride });
            let op = if kernel == stride {
                product(vec![weight], vec![bias], all)
            } else {
                Op::Conv2d(Conv2d {
                    weight,
                    bias: Some(bias),
                    out_channels: all,
                    kernel: [3, 3],
                    stride: 1,
                    padding: Padding::all(1),
                    upsample: None,
                    second: false,
                    row_bias: false,
                    residual: false,
                    act: Act::None,
                })
            };
            let phases = b.push("phases", op, &[x])?;
            b.rearrange("", phases, Rearrange::DepthToSpace { factor: stride })
        })
    }

    /// A module `name` that is a convolution with bias of a whole picture, whose stride is its kernel `patch`: tensors
    /// `weight` `[out, c, patch, patch]` and `bias`. `patch` divides the picture's sides.
    pub fn patch_embed(&mut self, name: &str, x: ValueId, out: u32, patch: u32) -> Result<ValueId> {
        let c = u64::from(self.shape(x).c);
        let p = u64::from(patch);
        self.module(name, |b| {
            let patches = b.rearrange("patches", x, Rearrange::SpaceToDepth { factor: patch })?;
            let weight = b.weight_in("weight", &[u64::from(out), c, p, p], Order::Patches);
            let bias = b.weight("bias", &[u64::from(out)]);
            b.push("", product(vec![weight], vec![bias], out), &[patches])
        })
    }

    /// `a + b`.
    pub fn add(&mut self, leaf: &str, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.push(leaf, sum(), &[a, b])
    }

    /// Like [`Builder::add`], stored as `dtype`.
    pub fn add_as(&mut self, leaf: &str, a: ValueId, b: ValueId, dtype: DType) -> Result<ValueId> {
        self.push_as(leaf, sum(), &[a, b], dtype)
    }

    /// `act(a)`.
    pub fn activation(&mut self, leaf: &str, a: ValueId, act: Act) -> Result<ValueId> {
        let op = Pointwise { alpha: 1.0, beta: None, gamma: 0.0, act, clamp: None, table: false };
        self.push(leaf, Op::Pointwise(op), &[a])
    }

    /// Sinusoidal embedding, always f32.
    pub fn time_embedding(&mut self, leaf: &str, t: ValueId, op: TimeEmbedding) -> Result<ValueId> {
        self.push_as(leaf, Op::TimeEmbedding(op), &[t], DType::F32)
    }

    /// Names `id` as an output of the graph.
    pub fn output(&mut self, name: &str, id: ValueId) {
        self.graph.outputs.push((name.to_owned(), id));
    }

    /// Ends building.
    pub fn finish(self) -> Graph {
        self.graph
    }

    fn add_value(&mut self, name: String, shape: Shape, dtype: DType, lifetime: Lifetime) -> ValueId {
        self.graph.values.push(Value { name, shape, dtype, lifetime });
        ValueId(self.graph.values.len() as u32 - 1)
    }
}

fn product(weights: Vec<WeightId>, biases: Vec<WeightId>, out_channels: u32) -> Op {
    Op::Linear(Linear { weights, biases, out_channels, geglu: false, residual: false, act: Act::None })
}

fn sum() -> Op {
    Op::Pointwise(Pointwise { alpha: 1.0, beta: Some(1.0), gamma: 0.0, act: Act::None, clamp: None, table: false })
}
