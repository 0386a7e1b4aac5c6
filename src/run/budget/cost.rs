//! Seconds: what a plan takes on a device of stated rates. The rates that choose are constants for each kind of
//! device, so that one choice is made for one device whatever else it does; the estimate that a dry run prints may
//! scale them by what a short probe measured.

use crate::abi::{BackendKind, Caps};
use crate::error::Result;
use crate::graph::op::Padding;
use crate::graph::{Builder, Lifetime, Shape};
use crate::plan::command::{PackedWeight, Plan};
use crate::run::executor::{Executor, SharedDevice};
use std::time::Instant;

/// What a device does in a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Floating-point operations of products.
    pub flops: f64,
    /// Bytes of its memory.
    pub bytes: f64,
    /// Seconds that a command takes at least.
    pub floor: f64,
    /// Bytes from the host to the device.
    pub upload: f64,
    /// Bytes of weights read from a file and packed.
    pub pack: f64,
    /// Workgroups that fill the device; fewer leave a part of it idle.
    pub groups: f64,
    /// Uploads go on while kernels run.
    pub beside: bool,
}

impl Rates {
    /// The rates assumed of a device. For a GPU they are those of a middling card of its kind, for the host and for a
    /// software rasteriser of a few cores.
    pub fn of(caps: &Caps) -> Rates {
        match caps.kind {
            BackendKind::Cpu => {
                Rates { flops: 1e11, bytes: 2e10, floor: 2e-6, upload: 1e10, pack: 5e8, groups: 1.0, beside: false }
            }
            BackendKind::Wgpu if caps.software => {
                Rates { flops: 1.5e10, bytes: 1e10, floor: 5e-5, upload: 4e9, pack: 5e8, groups: 1.0, beside: false }
            }
            BackendKind::Wgpu => {
                Rates { flops: 3e12, bytes: 2e11, floor: 1e-5, upload: 4e9, pack: 5e8, groups: 64.0, beside: false }
            }
            BackendKind::Cuda => {
                Rates { flops: 4e13, bytes: 6e11, floor: 3e-6, upload: 1e10, pack: 5e8, groups: 216.0, beside: true }
            }
        }
    }

    /// Seconds of one run of the body of `plan`.
    pub fn seconds(&self, plan: &Plan) -> f64 {
        let command = |d: &crate::plan::command::Dispatch| {
            let groups: f64 = d.grid.iter().map(|&g| f64::from(g)).product();
            let filled = (groups / self.groups).min(1.0);
            (d.flops as f64 / (self.flops * filled)).max(d.bytes as f64 / self.bytes).max(self.floor)
        };
        let ports = plan.inputs.iter().chain(&plan.outputs).filter(|p| p.lifetime == Lifetime::Window);
        let moved: u64 = ports.map(|p| p.range.bytes).sum();
        plan.body.iter().map(command).sum::<f64>() + moved as f64 / self.upload
    }
}

/// Sides of the square that the probe convolves, and its channels: 19 MFLOP, 302 MFLOP, 4.8 GFLOP.
const PROBE: [u32; 3] = [16, 64, 256];
/// See [`PROBE`].
const PROBE_CHANNELS: u32 = 64;
/// A probe that took this long is believed.
const PROBE_SECONDS: f64 = 0.02;

/// Times one convolution on the device: its seconds over those that `rates` give it. `None` where it does not run
/// (no room beside what is resident, say).
pub fn probe(device: &SharedDevice, caps: &Caps, rates: &Rates) -> Option<f64> {
    let mut ratio = None;
    for side in PROBE {
        let Ok((measured, expected)) = timed(device, caps, rates, side) else { break };
        ratio = Some(measured / expected);
        if measured >= PROBE_SECONDS {
            break;
        }
    }
    ratio
}

fn timed(device: &SharedDevice, caps: &Caps, rates: &Rates, side: u32) -> Result<(f64, f64)> {
    let mut b = Builder::new("probe", caps.storage);
    let shape = Shape::new(1, side, side, PROBE_CHANNELS);
    let x = b.input("x", shape, caps.storage, Lifetime::Window);
    let y = b.conv("conv", x, PROBE_CHANNELS, 3, 1, Padding::all(1))?;
    b.output("y", y);
    let plan = crate::plan::compile(b.finish(), caps)?;
    let expected = plan.body.iter().map(|d| d.flops as f64 / rates.flops).sum::<f64>();
    let mut zeros = |w: &PackedWeight| {
        let bytes = w.packing.elements() * w.dtype.bytes();
        Ok(vec![0; crate::extent::to_usize("probe", bytes)?])
    };
    let mut executor = Executor::new(device, plan, None, &mut zeros)?;
    let values = vec![0.0; (shape.pixels() * u64::from(shape.c)) as usize];
    executor.write_input("x", &values)?;
    let item = [crate::abi::Item::default()];
    // The first run touches everything once; some drivers compile in it.
    executor.run(&item)?;
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let began = Instant::now();
        executor.run(&item)?;
        let took = began.elapsed().as_secs_f64();
        best = best.min(took);
        if took > 10.0 * PROBE_SECONDS {
            break;
        }
    }
    Ok((best, expected))
}
