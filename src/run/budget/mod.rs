//! Chooses window size, batch and what stays on the device so that everything planned keeps within the memory
//! allowed, before anything runs; refuses with the smallest caps that work.
//!
//! Candidates are all networks resident at each window size, one network at a time (blocks streamed where one does
//! not fit) where the weights are what does not fit, and larger batches of the best; each is planned and priced by
//! [`cost::Rates`], and the fastest that fits is taken. Rates are constants of the kind of device, so the choice
//! follows from the device, the job and the bounds alone.

mod auto;
mod bounds;
mod candidate;
pub mod cost;
mod latent;
mod needs;
mod search;

use super::engine::Engine;
use super::options::{Estimate, UpscaleOptions, VaeMode};
use crate::abi::BackendKind;
use crate::error::{Error, Kind, Result};
use crate::system::job::{Job, System};
pub use bounds::{ASSUMED, Bound, Bounds, available_memory};
pub use candidate::{Candidate, Part, Residency, Room, seconds, wider};
pub use needs::{DeviceNeeds, HostNeeds, Needs};
pub use search::Decision;
use search::Search;

/// What was chosen.
pub struct Choice {
    /// What fits: program, networks, what they take.
    pub taken: Candidate,
    /// What the autoencoder does; never `Auto`.
    pub vae: VaeMode,
    /// Why, where `auto` chose it; else empty.
    pub why: String,
    /// Device bytes that may be allocated: the bound less what the driver takes for itself, and for networks in turn
    /// no more than is planned.
    pub cap: Option<u64>,
    /// What bounds device and host memory, in words.
    pub bounds: [Option<String>; 2],
    /// Sentences about the choice.
    pub notes: Vec<String>,
}

/// How long a choice should take: by what a short probe measures on the device, where that is cheap, else by the rates
/// assumed of its kind.
pub fn estimate(engine: &mut Engine, choice: &Choice) -> Estimate {
    let caps = engine.caps().clone();
    let rates = cost::Rates::of(&caps);
    let assumed = || {
        let origin = format!("assumed of such a device: {:.3} TFLOP/s; not measured", rates.flops / 1e12);
        Estimate { seconds: choice.taken.seconds, origin }
    };
    if !engine.is_real() {
        return assumed();
    }
    engine.limit(choice.cap);
    let Some(ratio) = cost::probe(engine.device(), &caps, &rates) else { return assumed() };
    let rate = rates.flops / ratio;
    let origin = format!("by a probe on this device: {:.3} TFLOP/s in one convolution", rate / 1e12);
    let measured = cost::Rates { flops: rate, bytes: rates.bytes / ratio, floor: rates.floor * ratio, ..rates };
    Estimate { seconds: seconds(&measured, &choice.taken.program, &choice.taken.parts, choice.taken.residency), origin }
}

/// Picks the shape of a job. `rows` is the host memory of what brings and takes the rows (decoder,
/// resampler, alpha, encoder). With `below` only smaller windows are tried: larger ones turned out not to fit. `earlier` is
/// the mode of the autoencoder with which an earlier run began: `auto` keeps to it where it can.
pub fn choose(
    engine: &mut Engine,
    model: &dyn System,
    options: &UpscaleOptions,
    job: &Job,
    rows: u64,
    below: Option<u32>,
    earlier: Option<VaeMode>,
) -> Result<Choice> {
    let bounds = Bounds::new(engine, options)?;
    let bytes = |b: &Option<Bound>| b.as_ref().map_or(u64::MAX, |b| b.bytes);
    let room = Room { device: bytes(&bounds.device), host: bytes(&bounds.host), rows };
    let tiles = tiles(model, options, below)?;
    let mut search = Search { engine, model, options, job, bounds, room, tiles, planned: 0 };
    let mut choice = match options.vae {
        VaeMode::Auto if model.as_one_step().is_some() => search.auto(earlier)?,
        // There is no autoencoder whose modes differ.
        VaeMode::Auto => search.mode(VaeMode::Tile)?,
        mode => search.mode(mode)?,
    };
    let (bounds, taken) = (&search.bounds, &choice.taken);
    choice.cap = cap(search.engine, bounds, room, &taken.needs);
    if taken.residency == Residency::Networks {
        // What had its turn goes: what is planned for the largest is all that is held.
        choice.cap = choice.cap.map(|c| c.min(taken.needs.device.allocated()));
    }
    let words = |b: &Option<Bound>| b.as_ref().map(|b| format!("{} ({})", mib(b.bytes), b.origin));
    choice.bounds = [words(&bounds.device), words(&bounds.host)];
    Ok(choice)
}

/// Device bytes that may be allocated for what takes `needs`.
fn cap(engine: &Engine, bounds: &Bounds, room: Room, needs: &Needs) -> Option<u64> {
    let mut cap = bounds.device.as_ref().map(|b| b.bytes.saturating_sub(needs.device.driver));
    if engine.caps().kind == BackendKind::Cpu && bounds.host.is_some() {
        // The device's memory is the host's: what the rest of the job leaves.
        let rest = needs.host.total() - needs.host.device;
        cap = Some(cap.unwrap_or(u64::MAX).min(room.host.saturating_sub(rest)));
    }
    cap
}

/// Sides to try, largest first.
fn tiles(model: &dyn System, options: &UpscaleOptions, below: Option<u32>) -> Result<Vec<u32>> {
    let stride = model.stride();
    let mut tiles: Vec<u32> = match options.tile {
        Some(tile) => vec![checked_tile(tile, stride)?],
        // Windows begin at multiples of the stride: those of one stride would not overlap at all.
        None => model.sides().iter().map(|t| t.next_multiple_of(stride)).filter(|&t| t >= 2 * stride).collect(),
    };
    tiles.dedup();
    if tiles.is_empty() {
        tiles.push(2 * stride);
    }
    tiles.retain(|&t| below.is_none_or(|b| t < b));
    if tiles.is_empty() {
        return Err(Error::new(Kind::Memory, "budget", "the device has no room for the smallest window"));
    }
    let most = crate::limits::MAX_BATCH;
    if let Some(batch) = options.batch.filter(|&b| b == 0 || b > most) {
        return Err(Error::new(Kind::Usage, "budget", format!("a batch of {batch}; it must be from 1 to {most}")));
    }
    Ok(tiles)
}

fn checked_tile(tile: u32, stride: u32) -> Result<u32> {
    let most = crate::limits::MAX_TILE;
    if tile == 0 || tile > most || !tile.is_multiple_of(stride) {
        let why = format!("windows of {tile}; the side is a multiple of {stride} up to {most}");
        return Err(Error::new(Kind::Usage, "budget", why));
    }
    Ok(tile)
}

fn overlap_for(options: &UpscaleOptions, tile: u32, model: &dyn System) -> Result<u32> {
    match options.overlap {
        Some(overlap) if overlap < tile => Ok(overlap),
        Some(overlap) => {
            Err(Error::new(Kind::Usage, "budget", format!("an overlap of {overlap} leaves windows of {tile} no step")))
        }
        None => Ok(model.overlap(tile)),
    }
}

/// Bytes as the command line takes them, rounded up.
pub fn mib(bytes: u64) -> String {
    format!("{}MiB", bytes.div_ceil(1 << 20))
}
