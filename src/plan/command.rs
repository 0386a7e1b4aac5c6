//! What a backend sees: slots of memory and lists of dispatches. Plain data that can be printed,
//! compared, checked by the null backend and replayed.

use crate::abi::{Params, Stem, Types};
use crate::error::Result;
use crate::graph::layout::Packing;
use crate::graph::{DType, Lifetime, Shape};

/// Index of a slot in [`Plan::slots`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId(pub u32);

/// What a slot holds.
#[derive(Debug, Clone, PartialEq)]
pub enum SlotKind {
    /// A chunk of the arena: values that live within one launch share it.
    Arena,
    /// Values that outlive a launch (made by the setup list, or inputs of the job).
    Persistent,
    /// One packed weight; its recipe.
    Weight(PackedWeight),
    /// Weights that are streamed: a buffer that the pieces of a list take turns in.
    Ring,
    /// Status words and items, see `abi::params::Control`.
    Control,
}

/// A packed weight: which tensors, how packed, stored as what.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedWeight {
    /// Tensor names in the order the packing wants them; `None` = zeros (a bias that is not there).
    pub tensors: Vec<Option<String>>,
    /// The layout.
    pub packing: Packing,
    /// Element type.
    pub dtype: DType,
}

/// One buffer a plan needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Slot {
    /// What it holds.
    pub kind: SlotKind,
    /// Its size.
    pub bytes: u64,
}

/// A range of a slot. Offsets are multiples of `extent::ARENA_ALIGN`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Range {
    /// The slot.
    pub slot: SlotId,
    /// First byte.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// One kernel launch.
#[derive(Debug, Clone, PartialEq)]
pub struct Dispatch {
    /// The kernel's meaning.
    pub stem: Stem,
    /// The variant chosen, a name in `abi::table`.
    pub variant: &'static str,
    /// Element types.
    pub types: Types,
    /// Parameters.
    pub params: Params,
    /// Workgroups.
    pub grid: [u32; 3],
    /// One entry per binding of the stem; `None` where an optional part is absent.
    pub bindings: Vec<Option<Range>>,
    /// The graph value it makes (module path), for reports and errors.
    pub label: String,
    /// Floating-point operations (2 per multiply-add).
    pub flops: u64,
    /// Bytes moved at least: every operand once.
    pub bytes: u64,
}

/// A named value that the host writes before or reads after a launch.
#[derive(Debug, Clone, PartialEq)]
pub struct Port {
    /// Name of the graph input or output.
    pub name: String,
    /// Where it lies.
    pub range: Range,
    /// Its extents; stored NHWC with pitch.
    pub shape: Shape,
    /// Its storage type.
    pub dtype: DType,
    /// Inputs: how long it stays valid. Outputs: `Window`.
    pub lifetime: Lifetime,
}

/// What a plan costs; printed by `--dry-run` and `inspect --plan`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Cost {
    /// Bytes of all arena chunks.
    pub arena_bytes: u64,
    /// Peak of the bytes live at one command (the arena's lower bound).
    pub peak_live_bytes: u64,
    /// Bytes of persistent slots.
    pub persistent_bytes: u64,
    /// Bytes of packed weights.
    pub weight_bytes: u64,
    /// Floating-point operations of one launch.
    pub flops: u64,
    /// Bytes moved at least by one launch.
    pub bytes: u64,
}

/// A graph made ready for one kind of device.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The graph's name.
    pub name: String,
    /// Batch: number of items per launch.
    pub items: u32,
    /// Every buffer.
    pub slots: Vec<Slot>,
    /// Run once per job, after the job's inputs are written: whatever does not depend on the window.
    pub setup: Vec<Dispatch>,
    /// Run once per batch of windows.
    pub body: Vec<Dispatch>,
    /// Graph inputs that are given from outside.
    pub inputs: Vec<Port>,
    /// Inputs of the job that the graph brings along, with the values of one item (the same for all), written once
    /// before the setup list runs.
    pub constants: Vec<(Port, Vec<f32>)>,
    /// Graph outputs.
    pub outputs: Vec<Port>,
    /// The control slot.
    pub control: SlotId,
    /// Totals.
    pub cost: Cost,
}

impl Plan {
    /// The input port called `name`.
    pub fn input(&self, name: &str) -> Result<&Port> {
        find(&self.inputs, name, &self.name, "input")
    }

    /// The output port called `name`.
    pub fn output(&self, name: &str) -> Result<&Port> {
        find(&self.outputs, name, &self.name, "output")
    }
}

fn find<'a>(ports: &'a [Port], name: &str, plan: &str, what: &str) -> Result<&'a Port> {
    ports.iter().find(|p| p.name == name).ok_or_else(|| {
        let names: Vec<&str> = ports.iter().map(|p| p.name.as_str()).collect();
        crate::error::Error::new(
            crate::error::Kind::Internal,
            "plan",
            format!("{plan} has no {what} `{name}`; it has {}", names.join(", ")),
        )
    })
}
