//! Chooses window size and batch so that everything planned fits the caps the user set, before anything
//! runs; refuses with the smallest that works.

use super::engine::Engine;
use super::options::UpscaleOptions;
use crate::abi::BackendKind;
use crate::error::{Error, Kind, Result};
use crate::plan::command::Plan;
use crate::system::Program;
use crate::system::onestep::{Conditioning, OneStep, Shaping};
use std::sync::Arc;

/// Window sides tried, best first.
const TILES: [u32; 10] = [512, 448, 384, 320, 256, 192, 160, 128, 96, 64];
/// Share of a window side that neighbours overlap by, and its bounds, pixels. On a photograph at x4, windows
/// of 64 to 256 with overlaps of 16 and of 32 gave the same picture to 50 dB and the same fidelity to 0.01
/// dB; more only costs time.
const OVERLAP_SHARE: u32 = 8;
/// See [`OVERLAP_SHARE`].
const OVERLAP_BOUNDS: [u32; 2] = [16, 32];
/// Beside what is planned: code, stacks, decoder and encoder buffers of the image libraries.
const HOST_OVERHEAD: u64 = 48 << 20;
/// Beside what is planned: pipelines, command buffers and staging of a GPU driver.
const DRIVER_OVERHEAD: u64 = 64 << 20;
/// The same of a CUDA driver: a context with its compiled modules takes 200 to 500 MB by what others report;
/// not measured here.
const CUDA_OVERHEAD: u64 = 512 << 20;

/// Bytes a job takes at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// On the device; on cpu that is host memory too and counted below.
    pub device: u64,
    /// On the host.
    pub host: u64,
}

/// What was chosen.
pub struct Choice {
    /// Tile, overlap, batch, type.
    pub shaping: Shaping,
    /// The program at this shape.
    pub program: Program,
    /// Name of the plan in the engine's cache.
    pub key: String,
    /// The plan of its graph.
    pub plan: Arc<Plan>,
    /// What it takes.
    pub needs: Needs,
    /// Sentences about the choice.
    pub notes: Vec<String>,
}

/// Picks the shape of a job. `rows` is the host memory of what brings and takes the rows (decoder,
/// resampler, alpha, encoder). With `below` only smaller windows are tried: larger ones turned out not to fit.
pub fn choose(
    engine: &mut Engine,
    model: &OneStep,
    options: &UpscaleOptions,
    target: [u32; 2],
    conditioning: &Conditioning,
    rows: u64,
    below: Option<u32>,
) -> Result<Choice> {
    let stride = model.stride();
    let mut tiles: Vec<u32> = match options.tile {
        Some(tile) => vec![checked_tile(tile, stride)?],
        None => TILES.iter().map(|t| t.next_multiple_of(stride)).collect(),
    };
    tiles.retain(|&t| below.is_none_or(|b| t < b));
    if tiles.is_empty() {
        return Err(Error::new(Kind::Memory, "budget", "the device has no room for the smallest window"));
    }
    // What is not capped is bounded by what the device has, where that is known.
    let vram = options.vram.or(engine.caps().memory);
    let batch = options.batch.unwrap_or(1);
    if batch == 0 || batch > crate::limits::MAX_BATCH {
        let most = crate::limits::MAX_BATCH;
        return Err(Error::new(Kind::Usage, "budget", format!("a batch of {batch}; it must be from 1 to {most}")));
    }
    let mut smallest: Option<(Needs, u32)> = None;
    let mut refused = 0;
    for &tile in &tiles {
        let overlap = overlap_for(options, tile, stride)?;
        let shaping = Shaping { tile, fitted: options.tile.is_none(), overlap, batch, dtype: engine.caps().storage };
        let program = model.program(target, conditioning, &shaping)?;
        let key = format!("{} {}", program.graphs[0].name, model.folder.display());
        let plan = match engine.plan(&key, &program.graphs[0]) {
            Ok(plan) => plan,
            // A value that exceeds the device's largest binding: a smaller window may not.
            Err(e) if e.kind() == Kind::Limit || e.kind() == Kind::Memory => {
                if tile == tiles[tiles.len() - 1] {
                    return Err(e);
                }
                refused += 1;
                continue;
            }
            Err(e) => return Err(e),
        };
        let needs = needs(engine, &plan, &program, rows);
        if vram.is_none_or(|cap| needs.device <= cap) && options.ram.is_none_or(|cap| needs.host <= cap) {
            let mut notes = Vec::new();
            if tile != tiles[0] {
                notes.push(format!("windows of {tile} instead of {} keep within the memory allowed", tiles[0]));
            }
            return Ok(Choice { shaping, program, key, plan, needs, notes });
        }
        if smallest.is_none_or(|(s, _)| needs.device + needs.host < s.device + s.host) {
            smallest = Some((needs, tile));
        }
    }
    let Some((needs, tile)) = smallest else {
        return Err(Error::new(Kind::Memory, "budget", format!("none of {refused} window sizes can be planned")));
    };
    let device = if options.vram.is_some() { "--vram" } else { "the device's memory of" };
    let caps = [(device, vram, needs.device), ("--ram", options.ram, needs.host)];
    let short: Vec<String> = caps
        .iter()
        .filter_map(|(name, cap, need)| {
            cap.filter(|c| c < need).map(|c| format!("{name} {} is less than {}", mib(c), mib(*need)))
        })
        .collect();
    let why = format!("the smallest plan (windows of {tile}) does not fit: {}", short.join(", "));
    Err(Error::new(Kind::Memory, "budget", why).advise(format!(
        "the smallest that works: --vram {} --ram {}",
        mib(needs.device),
        mib(needs.host)
    )))
}

fn checked_tile(tile: u32, stride: u32) -> Result<u32> {
    let most = crate::limits::MAX_TILE;
    if tile == 0 || tile > most || !tile.is_multiple_of(stride) {
        let why = format!("windows of {tile}; the side is a multiple of {stride} up to {most}");
        return Err(Error::new(Kind::Usage, "budget", why));
    }
    Ok(tile)
}

fn overlap_for(options: &UpscaleOptions, tile: u32, stride: u32) -> Result<u32> {
    match options.overlap {
        Some(overlap) if overlap < tile => Ok(overlap),
        Some(overlap) => {
            Err(Error::new(Kind::Usage, "budget", format!("an overlap of {overlap} leaves windows of {tile} no step")))
        }
        None => Ok((tile / OVERLAP_SHARE)
            .clamp(OVERLAP_BOUNDS[0], OVERLAP_BOUNDS[1])
            .next_multiple_of(stride)
            .min(tile / 2)),
    }
}

fn needs(engine: &Engine, plan: &Plan, program: &Program, rows: u64) -> Needs {
    let cost = &plan.cost;
    let planned = cost.arena_bytes + cost.persistent_bytes + cost.weight_bytes;
    // Staging holds every window input and output once as f32 without and once with pitch padding.
    let ports = plan.inputs.iter().chain(&plan.outputs).map(|p| p.range.bytes).sum::<u64>();
    let host = program.host_bytes() + 2 * ports + rows + HOST_OVERHEAD;
    match engine.caps().kind {
        BackendKind::Cpu => Needs { device: planned, host: host + planned },
        BackendKind::Wgpu => Needs { device: planned + DRIVER_OVERHEAD, host },
        BackendKind::Cuda => Needs { device: planned + CUDA_OVERHEAD, host },
    }
}

/// Bytes as the command line takes them, rounded up.
pub fn mib(bytes: u64) -> String {
    format!("{}MiB", bytes.div_ceil(1 << 20))
}
