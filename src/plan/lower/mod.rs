//! From graph nodes to launches: parameters, operands, kernel rows. One node makes one step, except a
//! group norm, which makes three (statistics, merge, apply) with two scratch buffers between them, or two
//! where the convolution that made its input makes the statistics too.

mod moves;
mod nodes;

use super::cost;
use crate::abi::params::{
    ACT_GELU, ACT_LEAKY_RELU, ACT_NONE, ACT_QUICK_GELU, ACT_RELU, ACT_SILU, PointwiseParams, STATISTICS,
    TimeEmbeddingParams,
};
use crate::abi::table::{self, Row};
use crate::abi::{Access, BackendKind, Caps, Params, Types, operands};
use crate::error::{Error, Kind, Result};
use crate::extent;
use crate::graph::dtype::value_bytes;
use crate::graph::layout::{Order, Packing};
use crate::graph::op::{Node, Pointwise};
use crate::graph::{Act, DType, Graph, Lifetime, Op, Shape, ValueId, WeightId, verify};
use crate::plan::command::PackedWeight;
use std::collections::HashMap;

/// Something a launch reads or writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operand {
    /// Index into [`Lowered::buffers`].
    Buffer(usize),
    /// Index into [`Lowered::weights`].
    Weight(usize),
    /// The control slot.
    Control,
}

/// One launch, not yet placed in memory.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) params: Params,
    pub(super) types: Types,
    pub(super) row: &'static Row,
    pub(super) operands: Vec<Option<Operand>>,
    pub(super) label: String,
    pub(super) flops: u64,
    /// Runs once per job, not once per launch.
    pub(super) setup: bool,
    /// Binding whose memory the result may take over.
    replaces: Option<usize>,
}

/// A value or scratch that wants memory.
#[derive(Debug, Clone)]
pub(super) struct Buffer {
    pub(super) name: String,
    /// Exact size.
    pub(super) bytes: u64,
    /// Outlives a launch: inputs of the job, and what the setup list makes for the body.
    pub(super) persistent: bool,
    /// Written by the host before each launch.
    pub(super) window_input: bool,
    /// Read by the host after each launch.
    pub(super) output: bool,
}

/// A graph as steps over buffers: the setup steps first, then the body, each in the graph's order.
#[derive(Debug)]
pub(super) struct Lowered {
    pub(super) steps: Vec<Step>,
    /// Number of setup steps.
    pub(super) setup: usize,
    /// `buffers[i]` is graph value `i` as far as there are values; scratch follows.
    pub(super) buffers: Vec<Buffer>,
    pub(super) weights: Vec<PackedWeight>,
    /// Items the control slot must hold.
    pub(super) control_items: u32,
}

impl Step {
    /// Buffers this step reads, with repetition.
    pub(super) fn reads(&self) -> impl Iterator<Item = usize> + '_ {
        self.buffers(Access::Read)
    }

    /// Buffers this step writes.
    pub(super) fn writes(&self) -> impl Iterator<Item = usize> + '_ {
        self.buffers(Access::Write)
    }

    fn buffers(&self, access: Access) -> impl Iterator<Item = usize> + '_ {
        let bindings = self.params.stem().bindings();
        self.operands.iter().zip(bindings).filter_map(move |(operand, binding)| match operand {
            Some(Operand::Buffer(i)) if binding.access == access => Some(*i),
            _ => None,
        })
    }

    /// The buffer whose memory the result may take over, and the result's own, if the kernel allows it.
    pub(super) fn in_place(&self) -> Option<(usize, usize)> {
        let from = self.operands[self.replaces?];
        match (from, self.writes().next()) {
            (Some(Operand::Buffer(x)), Some(y)) => Some((x, y)),
            _ => None,
        }
    }
}

fn act_code(act: Act) -> u32 {
    match act {
        Act::None => ACT_NONE,
        Act::Silu => ACT_SILU,
        Act::Gelu => ACT_GELU,
        Act::QuickGelu => ACT_QUICK_GELU,
        Act::Relu => ACT_RELU,
        Act::LeakyRelu => ACT_LEAKY_RELU,
    }
}

/// Lowers a fused graph; the caller has verified it.
pub(super) fn lower(graph: &Graph, caps: &Caps) -> Result<Lowered> {
    let mut read_by_body = vec![false; graph.values.len()];
    for node in &graph.nodes {
        if graph.value(node.output).lifetime == Lifetime::Window {
            node.inputs.iter().for_each(|v| read_by_body[v.0 as usize] = true);
        }
    }
    let mut buffers: Vec<Buffer> = Vec::with_capacity(graph.values.len());
    for (v, &in_body) in graph.values.iter().zip(&read_by_body) {
        let bytes = value_bytes(u64::from(v.shape.n) * v.shape.pixels(), u64::from(v.shape.c), v.dtype);
        let persistent = v.lifetime != Lifetime::Window && in_body;
        buffers.push(Buffer { name: v.name.clone(), bytes, persistent, window_input: false, output: false });
    }
    for node in &graph.nodes {
        if let Op::Input(lifetime) = node.op {
            let buffer = &mut buffers[node.output.0 as usize];
            buffer.window_input = lifetime == Lifetime::Window;
            buffer.persistent = !buffer.window_input;
        }
    }
    for (_, v) in &graph.outputs {
        let buffer = &mut buffers[v.0 as usize];
        buffer.output = true;
        buffer.persistent |= graph.value(*v).lifetime != Lifetime::Window;
    }
    let mut context = Context {
        graph,
        caps,
        weights: weight_type(graph, caps),
        packed: HashMap::new(),
        lowered: Lowered {
            steps: Vec::with_capacity(graph.nodes.len() * 2),
            setup: 0,
            buffers,
            weights: Vec::new(),
            control_items: verify::items(graph),
        },
    };
    for node in &graph.nodes {
        context.node(node).map_err(|e| e.at(&graph.value(node.output).name))?;
    }
    let mut lowered = context.lowered;
    lowered.steps.sort_by_key(|s| !s.setup); // stable: the order within each list stays
    lowered.setup = lowered.steps.iter().filter(|s| s.setup).count();
    Ok(lowered)
}

/// Weight matrices are stored as the narrowest activations of the graph, also where they meet the few f32
/// ones (tables over steps hold 6% of a UNet's weights); a host whose products run in f32 keeps them in f32.
fn weight_type(graph: &Graph, caps: &Caps) -> DType {
    if caps.kind == BackendKind::Cpu && caps.storage == DType::F32 {
        return DType::F32;
    }
    graph.values.iter().map(|v| v.dtype).min_by_key(|t| t.bytes()).unwrap_or(DType::F32)
}

struct Context<'a> {
    graph: &'a Graph,
    caps: &'a Caps,
    /// Type of every weight matrix.
    weights: DType,
    /// Packed weights by content, so that equal ones are stored once.
    packed: HashMap<(Vec<Option<String>>, Packing, DType), usize>,
    lowered: Lowered,
}

fn product(what: &str, factors: &[u32]) -> Result<u32> {
    let factors: Vec<u64> = factors.iter().map(|&f| u64::from(f)).collect();
    extent::to_u32(what, extent::product(what, &factors)?)
}

impl Context<'_> {
    fn shape(&self, v: ValueId) -> Shape {
        self.graph.value(v).shape
    }

    fn dtype(&self, v: ValueId) -> DType {
        self.graph.value(v).dtype
    }

    /// Types of a step from `x` to `y`.
    fn types(&self, x: ValueId, y: ValueId, weighted: bool) -> Types {
        Types { x: self.dtype(x), w: if weighted { self.weights } else { DType::F32 }, y: self.dtype(y) }
    }

    fn node(&mut self, node: &Node) -> Result<()> {
        match &node.op {
            Op::Input(_) => Ok(()),
            Op::Conv2d(p) => self.conv(node, p),
            Op::Linear(p) => self.linear(node, p),
            Op::GroupNorm(p) => self.group_norm(node, p),
            Op::LayerNorm(p) => self.layer_norm(node, p),
            Op::Attention(p) => self.attention(node, p),
            Op::TimeEmbedding(p) => {
                let params = TimeEmbeddingParams {
                    rows: self.shape(node.inputs[0]).n,
                    dim: p.dim,
                    pitch: self.shape(node.output).pitch(),
                    flip: u32::from(p.flip_sin_to_cos),
                    shift: p.freq_shift,
                    max_period: p.max_period,
                    pad0: 0,
                    pad1: 0,
                };
                self.simple(node, Params::TimeEmbedding(params), &[Some(node.inputs[0])])
            }
            Op::Pointwise(p) => self.pointwise(node, p),
            Op::Slice { begin, channels } => {
                let plain = Pointwise { alpha: 1.0, beta: None, gamma: 0.0, act: Act::None, clamp: None, table: false };
                let params = PointwiseParams { offset: *begin, c: *channels, ..self.pointwise_params(node, &plain) };
                self.simple(node, Params::Pointwise(params), &[Some(node.inputs[0]), None, None])
            }
            Op::ChannelAffine(p) => self.channel_affine(node, p),
            Op::ChannelMoments => self.channel_moments(node),
            Op::Resample(p) => self.resample(node, p),
            Op::Rearrange(p) => self.rearrange(node, p),
            Op::Modulate(p) => self.modulate(node, p),
            Op::Concat | Op::Upsample { .. } => {
                Err(Error::new(Kind::Internal, "plan", format!("{} has no kernel of its own", node.op.name())))
            }
        }
    }

    /// A step without weights that reads `inputs` (in binding order) and writes the node's value.
    fn simple(&mut self, node: &Node, params: Params, inputs: &[Option<ValueId>]) -> Result<()> {
        let types = self.types(node.inputs[0], node.output, false);
        let mut list: Vec<_> = inputs.iter().map(|v| v.map(buffer)).collect();
        list.push(Some(buffer(node.output)));
        self.push(node, params, types, list)
    }

    /// Selects the kernel and appends the step; `list` lacks only scratch and control.
    fn push(&mut self, node: &Node, params: Params, types: Types, mut list: Vec<Option<Operand>>) -> Result<()> {
        let row = table::select(&params, types, self.caps)?;
        let needs = operands::operands(&params, types, row);
        let name = &self.graph.value(node.output).name;
        if matches!(params, Params::Attention(_)) {
            let scratch = (row.scratch)(&params, types);
            list.push((scratch > 0).then(|| self.scratch(format!("{name}.scratch"), scratch)));
        }
        list.push(Some(Operand::Control));
        self.control(needs[list.len() - 1]);
        // Statistics come when a norm asks for them.
        list.resize(params.stem().bindings().len(), None);
        let setup = self.is_setup(node);
        let flops = cost::flops(&params, row);
        let label = name.clone();
        let replaces = table::in_place(self.caps.kind, &params, types);
        self.lowered.steps.push(Step { params, types, row, operands: list, label, flops, setup, replaces });
        Ok(())
    }

    /// Whether the node's steps run once per job.
    fn is_setup(&self, node: &Node) -> bool {
        self.graph.value(node.output).lifetime != Lifetime::Window
    }

    /// Makes the control slot as long as a step needs it: setup kernels over more rows than the body has items read that many
    /// (zeroed) items.
    fn control(&mut self, need: Option<operands::Operand>) {
        while operands::control_bytes(self.lowered.control_items) < need.map_or(0, |n| n.bytes) {
            self.lowered.control_items = self.lowered.control_items.saturating_mul(2);
        }
    }

    /// Statistics of `v` and their blocks per item, by the ending of the convolution that makes it; `None` where that cannot.
    fn made_statistics(&mut self, v: ValueId, setup: bool) -> Option<(Operand, u32)> {
        let made = |s: &Step| s.setup == setup && s.writes().next() == Some(v.0 as usize);
        let at = self.lowered.steps.iter().rposition(made).filter(|_| self.caps.statistics)?;
        let step = &self.lowered.steps[at];
        let (types, row, mut params) = (step.types, step.row, step.params);
        let blocks = (row.statistics)(&params, types);
        let Params::Conv2d(conv) = &mut params else { return None };
        if blocks == 0 {
            return None;
        }
        conv.parts |= STATISTICS;
        let needs = operands::operands(&params, types, row);
        let place = params.stem().bindings().iter().position(|b| b.name == "statistics")?;
        if let Some(made) = step.operands[place] {
            return Some((made, blocks));
        }
        self.control(needs[place - 1]);
        let partials = self.scratch(format!("{}.statistics", self.graph.value(v).name), needs[place]?.bytes);
        let step = &mut self.lowered.steps[at];
        step.params = params;
        step.operands[place] = Some(partials);
        Some((partials, blocks))
    }

    fn scratch(&mut self, name: String, bytes: u64) -> Operand {
        let buffer = Buffer { name, bytes, persistent: false, window_input: false, output: false };
        self.lowered.buffers.push(buffer);
        Operand::Buffer(self.lowered.buffers.len() - 1)
    }

    fn weight(&mut self, tensors: Vec<Option<String>>, packing: Packing, dtype: DType) -> Option<Operand> {
        let key = (tensors, packing, dtype);
        if let Some(&at) = self.packed.get(&key) {
            return Some(Operand::Weight(at));
        }
        let at = self.lowered.weights.len();
        let (tensors, packing, dtype) = key.clone();
        self.lowered.weights.push(PackedWeight { tensors, packing, dtype });
        self.packed.insert(key, at);
        Some(Operand::Weight(at))
    }

    fn tensor(&self, id: WeightId) -> Option<String> {
        Some(self.graph.weight(id).name.clone())
    }

    /// `then` of the tensor `id`, whose elements the op may take in another order.
    fn reordered(&self, id: WeightId, then: Packing) -> Result<Packing> {
        let decl = self.graph.weight(id);
        if decl.order == Order::Stored {
            return Ok(then);
        }
        let shape = decl.shape.iter().map(|&s| extent::to_u32(&decl.name, s)).collect::<Result<_>>()?;
        Ok(Packing::Reordered { order: decl.order, shape, then: Box::new(then) })
    }

    /// A bias of `length` channels, zeros where there is none.
    fn bias(&mut self, id: Option<WeightId>, length: u32) -> Result<Option<Operand>> {
        let vector = Packing::Vectors { lengths: vec![length] };
        let packing = match id {
            Some(id) => self.reordered(id, vector)?,
            None => vector,
        };
        Ok(self.weight(vec![id.and_then(|id| self.tensor(id))], packing, DType::F32))
    }

    /// f32 vectors: biases and norm weights.
    fn vectors(&mut self, tensors: Vec<Option<String>>, lengths: Vec<u32>) -> Option<Operand> {
        self.weight(tensors, Packing::Vectors { lengths }, DType::F32)
    }
}

fn buffer(v: ValueId) -> Operand {
    Operand::Buffer(v.0 as usize)
}
