//! From a graph and a device's [`Caps`] to a plan: order, lifetimes, arena offsets, kernel variants,
//! commands, cost. Nothing here touches a device.
//!
//! What the host must know of a plan: inputs of lifetime `Window` lie in the arena, whose memory the
//! launch reuses, so they are written before every run of the body (and after the setup list, which works
//! in the same arena); outputs are read before the next run. Everything else persists.

mod arena;
pub mod command;
pub mod cost;
mod lifetime;
mod lower;
mod order;
pub mod report;
pub mod stream;
pub mod svg;

use crate::abi::{Caps, operands};
use crate::error::{Error, Kind, Result};
use crate::extent::{ARENA_ALIGN, round_up};
use crate::graph::{Graph, Lifetime, ValueId, passes, verify};
use command::{Cost, Dispatch, Plan, Port, Range, Slot, SlotId, SlotKind};
use lower::{Lowered, Operand};

/// How to plan; the default is what every caller but tests wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Values that do not live at the same time may share memory. Without it every value has its own,
    /// which costs far more but shows whether a wrong result comes from the arena.
    pub reuse: bool,
    /// The steps may be reordered to lower the peak.
    pub reorder: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { reuse: true, reorder: true }
    }
}

/// Fuses `graph` and plans it.
pub fn compile(graph: Graph, caps: &Caps) -> Result<Plan> {
    plan(&passes::fuse(graph)?, caps)
}

/// Plans a fused graph for a device.
pub fn plan(graph: &Graph, caps: &Caps) -> Result<Plan> {
    plan_with(graph, caps, Options::default())
}

/// Like [`plan`], with options.
pub fn plan_with(graph: &Graph, caps: &Caps, options: Options) -> Result<Plan> {
    verify::lowered(graph)?;
    if let Some(v) = graph.values.iter().find(|v| !caps.dtypes.contains(&v.dtype)) {
        let why = format!("{} does not store {} (`{}` of {})", caps.name, v.dtype.name(), v.name, graph.name);
        return Err(Error::new(Kind::Device, "plan", why).advise("choose another storage type or device"));
    }
    let mut lowered = lower::lower(graph, caps)?;
    if options.reorder {
        order::reorder(&mut lowered);
    }
    place(graph, caps, &lowered, options)
}

/// Puts the buffers of a lowered graph into slots and its steps into commands.
fn place(graph: &Graph, caps: &Caps, lowered: &Lowered, options: Options) -> Result<Plan> {
    let capacity = caps.max_chunk.min(caps.max_binding);
    let lives = lifetime::lifetimes(lowered, options.reuse);
    let arena = arena::place(&lives.units, capacity, lives.peak).map_err(|e| e.at(largest(lowered)))?;

    let mut slots: Vec<Slot> = arena.chunks.iter().map(|&bytes| Slot { kind: SlotKind::Arena, bytes }).collect();
    let mut ranges: Vec<Range> = Vec::with_capacity(lowered.buffers.len());
    let mut persistent: Option<SlotId> = None;
    for (buffer, unit) in lowered.buffers.iter().zip(&lives.unit_of) {
        let (slot, offset) = match unit {
            Some(u) => (SlotId(arena.places[*u].chunk as u32), arena.places[*u].offset),
            None => append(&mut slots, &mut persistent, buffer.bytes, capacity).map_err(|e| e.at(&buffer.name))?,
        };
        ranges.push(Range { slot, offset, bytes: buffer.bytes });
    }
    let mut weights: Vec<Range> = Vec::with_capacity(lowered.weights.len());
    for packed in &lowered.weights {
        let bytes = packed.packing.elements() * packed.dtype.bytes();
        if bytes > capacity {
            let why = format!("{:?} takes {bytes} bytes, the device binds {capacity} at most", packed.tensors);
            return Err(Error::new(Kind::Device, "plan", why).advise("use another --device"));
        }
        weights.push(Range { slot: SlotId(slots.len() as u32), offset: 0, bytes });
        slots.push(Slot { kind: SlotKind::Weight(packed.clone()), bytes });
    }
    let control = SlotId(slots.len() as u32);
    let control_bytes = operands::control_bytes(lowered.control_items);
    slots.push(Slot { kind: SlotKind::Control, bytes: control_bytes });

    let at = |operand: &Operand| match operand {
        Operand::Buffer(i) => ranges[*i],
        Operand::Weight(i) => weights[*i],
        Operand::Control => Range { slot: control, offset: 0, bytes: control_bytes },
    };
    let mut commands = Vec::with_capacity(lowered.steps.len());
    for step in &lowered.steps {
        let grid = (step.row.grid)(&step.params, step.types);
        if grid.iter().any(|&g| g == 0 || g > caps.max_grid) {
            let why =
                format!("{}: a grid of {grid:?} workgroups, the device takes {} a side", step.label, caps.max_grid);
            return Err(Error::new(Kind::Limit, "plan", why).advise("use a smaller tile or batch"));
        }
        let bindings: Vec<Option<Range>> = step.operands.iter().map(|o| o.as_ref().map(at)).collect();
        commands.push(Dispatch {
            stem: step.params.stem(),
            variant: step.row.variant,
            types: step.types,
            params: step.params,
            grid,
            bytes: cost::bytes(&bindings, control),
            bindings,
            label: step.label.clone(),
            flops: step.flops,
        });
    }
    let body = commands.split_off(lowered.setup);
    let port = |name: &str, v: usize, lifetime| {
        let value = &graph.values[v];
        Port { name: name.to_owned(), range: ranges[v], shape: value.shape, dtype: value.dtype, lifetime }
    };
    let input = |v: ValueId, lifetime| port(&graph.value(v).name, v.0 as usize, lifetime);
    let inputs = graph.inputs().map(|(v, lifetime)| input(v, lifetime));
    let constants = graph.constants.iter().map(|(v, values)| (input(*v, Lifetime::Job), values.clone()));
    let outputs = graph.outputs.iter().map(|(name, v)| port(name, v.0 as usize, Lifetime::Window));
    let mut plan = Plan {
        name: graph.name.clone(),
        items: verify::items(graph),
        inputs: inputs.collect(),
        constants: constants.collect(),
        outputs: outputs.collect(),
        slots,
        setup: commands,
        body,
        control,
        cost: Cost { peak_live_bytes: lives.peak, ..Cost::default() },
    };
    cost::total(&mut plan);
    Ok(plan)
}

/// Name of the largest buffer, for the error that it does not fit.
fn largest(lowered: &Lowered) -> &str {
    lowered.buffers.iter().max_by_key(|b| b.bytes).map_or("", |b| &b.name)
}

/// Room for `bytes` at the end of the last persistent slot, or in a new one.
fn append(slots: &mut Vec<Slot>, last: &mut Option<SlotId>, bytes: u64, capacity: u64) -> Result<(SlotId, u64)> {
    if bytes > capacity {
        let why = format!("a value of {bytes} bytes exceeds the device's largest binding of {capacity}");
        return Err(Error::new(Kind::Limit, "plan", why).advise("use fewer steps or contexts, or another --device"));
    }
    let room = last.map(|id| (id, round_up(slots[id.0 as usize].bytes, ARENA_ALIGN)));
    if let Some((id, offset)) = room
        && offset + bytes <= capacity
    {
        slots[id.0 as usize].bytes = offset + bytes;
        return Ok((id, offset));
    }
    let id = SlotId(slots.len() as u32);
    slots.push(Slot { kind: SlotKind::Persistent, bytes });
    *last = Some(id);
    Ok((id, 0))
}
