//! What a job takes of device and host memory, by what it is for.

use crate::abi::{BackendKind, Caps};
use crate::extent::round_up;
use crate::limits::{CUDA_BESIDE_BYTES, CUDA_STAGING_BYTES, WGPU_STAGING_BYTES};
use crate::plan::command::{Plan, Port, SlotKind};
use crate::system::Program;
use crate::system::phase::{Nesting, Phase};

/// Beside what is planned: code, stacks, decoder and encoder buffers of the image libraries.
const HOST_OVERHEAD: u64 = 48 << 20;
/// Beside what is planned: pipelines and command buffers of a GPU driver. An allowance, not a measurement: no
/// driver tells.
const DRIVER_OVERHEAD: u64 = 64 << 20;
/// The same of a CUDA driver: a context with its compiled modules takes 200 to 500 MB by what others report;
/// not measured here.
const CUDA_OVERHEAD: u64 = 512 << 20;
/// Buffers of a device begin and end at multiples of this.
const ALIGN: u64 = 256;

/// Device bytes at the moment when most are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceNeeds {
    /// Packed weights, or the buffers they are streamed through.
    pub weights: u64,
    /// Activations.
    pub arena: u64,
    /// Values that outlive a launch, control words, kernel parameters.
    pub values: u64,
    /// Buffers that transfers go through.
    pub transfers: u64,
    /// What the driver takes for itself: an allowance.
    pub driver: u64,
}

/// Host bytes at the moment when most are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HostNeeds {
    /// Canvases, bands, and what windows save.
    pub canvases: u64,
    /// Window inputs and outputs, pinned memory.
    pub staging: u64,
    /// Weights on their way to the device, or kept packed for the next round.
    pub weights: u64,
    /// Decoder, resampler, alpha, encoder.
    pub rows: u64,
    /// The program itself: an allowance.
    pub program: u64,
    /// The device's own, where the device is the host.
    pub device: u64,
}

/// Bytes a job takes at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// On the device; on cpu that is host memory too and counted there as well.
    pub device: DeviceNeeds,
    /// On the host.
    pub host: HostNeeds,
}

impl DeviceNeeds {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.parts().iter().map(|p| p.1).sum()
    }

    /// What the program itself allocates: the account of the backend never shows more.
    pub fn allocated(&self) -> u64 {
        self.total() - self.driver
    }

    /// Names and bytes, in order.
    pub fn parts(&self) -> [(&'static str, u64); 5] {
        [
            ("weights", self.weights),
            ("arena", self.arena),
            ("values", self.values),
            ("transfers", self.transfers),
            ("driver", self.driver),
        ]
    }

    /// What `plan` takes when its weights are resident (or, of a streamed plan, its ring).
    pub fn of(plan: &Plan) -> DeviceNeeds {
        let sum = |want: fn(&SlotKind) -> bool| -> u64 {
            plan.slots.iter().filter(|s| want(&s.kind)).map(|s| round_up(s.bytes.max(1), ALIGN)).sum()
        };
        // Parameters of a command take one aligned place, and a list has one at least.
        let commands = plan.setup.iter().chain(&plan.body);
        let place = commands.map(|d| round_up(d.params.bytes().len() as u64, ALIGN)).max().unwrap_or(ALIGN);
        let parameters = place * (plan.setup.len() + plan.body.len() + 2) as u64;
        DeviceNeeds {
            weights: sum(|k| matches!(k, SlotKind::Weight(_) | SlotKind::Ring)),
            arena: sum(|k| matches!(k, SlotKind::Arena)),
            values: sum(|k| matches!(k, SlotKind::Persistent | SlotKind::Control)) + parameters,
            transfers: 0,
            driver: 0,
        }
    }

    /// Both at once.
    pub fn and(self, other: DeviceNeeds) -> DeviceNeeds {
        DeviceNeeds {
            weights: self.weights + other.weights,
            arena: self.arena + other.arena,
            values: self.values + other.values,
            transfers: self.transfers + other.transfers,
            driver: self.driver + other.driver,
        }
    }

    /// What every job takes on a device of this kind, whatever its plan.
    pub fn fixed(caps: &Caps) -> DeviceNeeds {
        let (transfers, driver) = match caps.kind {
            BackendKind::Cpu => (0, 0),
            // Reads go through one buffer, uploads in flight fill another; absent bindings have a little one.
            BackendKind::Wgpu => (2 * WGPU_STAGING_BYTES + (4 << 10), DRIVER_OVERHEAD),
            BackendKind::Cuda => (0, CUDA_OVERHEAD),
        };
        DeviceNeeds { transfers, driver, ..DeviceNeeds::default() }
    }
}

impl HostNeeds {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.parts().iter().map(|p| p.1).sum()
    }

    /// Names and bytes, in order.
    pub fn parts(&self) -> [(&'static str, u64); 6] {
        [
            ("canvases", self.canvases),
            ("staging", self.staging),
            ("weights", self.weights),
            ("rows", self.rows),
            ("program", self.program),
            ("device", self.device),
        ]
    }

    /// What every job takes, whatever its plan; `rows` is what brings and takes the rows.
    pub fn fixed(caps: &Caps, rows: u64) -> HostNeeds {
        let pinned = match caps.kind {
            BackendKind::Cpu | BackendKind::Wgpu => 0,
            BackendKind::Cuda => CUDA_STAGING_BYTES + 2 * CUDA_BESIDE_BYTES,
        };
        HostNeeds { rows, staging: pinned, program: HOST_OVERHEAD, ..HostNeeds::default() }
    }

    /// What inputs and outputs of all phases pass through as f32 without pitch padding: of a phase by itself every
    /// port has a place of its own; the phases of a chain have one place for the largest port of all.
    pub fn ports(program: &Program, plans: &[&Plan]) -> u64 {
        let bytes = |p: &Port| u64::from(p.shape.n) * p.shape.pixels() * u64::from(p.shape.c) * 4;
        let (mut own, mut shared) = (0, 0);
        for block in &program.blocks {
            for phase in &block.phases {
                let Phase::Windows(phase) = phase else { continue };
                let Some(plan) = plans.get(phase.graph.0) else { continue };
                let ports = plan.inputs.iter().chain(&plan.outputs);
                match block.nesting {
                    Nesting::Chained => shared = ports.map(bytes).max().unwrap_or(0).max(shared),
                    Nesting::StepOutside | Nesting::WindowOutside => own += ports.map(bytes).sum::<u64>(),
                }
            }
        }
        own + shared
    }

    /// What the values of the largest port of `plan` are stored in on their way: each executor has it.
    pub fn stored_port(plan: &Plan) -> u64 {
        let constants = plan.constants.iter().map(|(p, _)| p);
        plan.inputs.iter().chain(constants).chain(&plan.outputs).map(|p| p.range.bytes).max().unwrap_or(0)
    }

    /// Most host bytes that one weight of `plan` takes on its way to the device: as stored, as f32, packed.
    pub fn packing(plan: &Plan) -> u64 {
        let slots = plan.slots.iter().filter_map(|s| match &s.kind {
            SlotKind::Weight(w) => Some(w.packing.elements() * 8 + s.bytes),
            SlotKind::Arena | SlotKind::Persistent | SlotKind::Ring | SlotKind::Control => None,
        });
        slots.max().unwrap_or(0)
    }
}
