//! Chooses window size, batch and what stays on the device so that everything planned keeps within the memory
//! allowed, before anything runs; refuses with the smallest caps that work.
//!
//! Candidates are all networks resident at each window size, one network at a time (blocks streamed where one does
//! not fit) where the weights are what does not fit, and larger batches of the best; each is planned and priced by
//! [`cost::Rates`], and the fastest that fits is taken. Rates are constants of the kind of device, so the choice
//! follows from the device, the job and the bounds alone.

mod bounds;
mod candidate;
pub mod cost;
mod latent;
mod needs;

use super::engine::Engine;
use super::options::{Estimate, UpscaleOptions, VaeMode};
use crate::abi::BackendKind;
use crate::error::{Error, Kind, Result};
use crate::image;
use crate::system::Program;
use crate::system::job::{Form, Job, System};
use crate::system::onestep::Shaping;
use crate::system::onestep_latent::Norms;
pub use bounds::{ASSUMED, Bound, Bounds, available_memory};
use candidate::candidate;
pub use candidate::{Candidate, Part, Residency, Room, seconds, wider};
pub use needs::{DeviceNeeds, HostNeeds, Needs};

/// Most candidates that are planned: a plan of published networks takes 15 ms on a slow core.
const CANDIDATES: usize = 32;
/// Larger windows are preferred unless smaller ones are faster by more than this: a network sees more of the picture.
const LARGER: f64 = 1.1;
/// Batches tried, smallest first.
const BATCHES: [u32; 4] = [2, 4, 8, 16];
/// A larger batch must be faster by this much: it takes memory.
const BATCH_GAIN: f64 = 0.97;
/// One network at a time is tried where the weights are at least this share of the bound (one in so many).
const WEIGHTS_MATTER: u64 = 16;

/// What was chosen.
pub struct Choice {
    /// Tile, overlap, batch of the first network, type.
    pub shaping: Shaping,
    /// Windows per launch of each network.
    pub batches: [u32; 3],
    /// The program at this shape.
    pub program: Program,
    /// What stays on the device.
    pub residency: Residency,
    /// The program's graphs, planned.
    pub parts: Vec<Part>,
    /// What it takes.
    pub needs: Needs,
    /// Seconds, by the rates assumed of the device.
    pub seconds: f64,
    /// Device bytes that may be allocated: the bound less what the driver takes for itself, and for networks in turn
    /// no more than is planned.
    pub cap: Option<u64>,
    /// What bounds device and host memory, in words.
    pub bounds: [Option<String>; 2],
    /// Sentences about the choice.
    pub notes: Vec<String>,
}

impl Choice {
    /// What stays on the device, in words.
    pub fn residency_words(&self) -> String {
        let streamed: Vec<&Part> = self.parts.iter().filter(|p| p.streamed.is_some()).collect();
        match (self.residency, streamed.as_slice()) {
            (Residency::All | Residency::OneArena, _) => "all networks resident".into(),
            (Residency::Networks, []) => "one network at a time".into(),
            (Residency::Networks, some) => {
                let pieces: Vec<String> =
                    some.iter().filter_map(|p| p.streamed.as_ref()).map(|s| s.body.len().to_string()).collect();
                let kept = some.iter().all(|p| p.streamed.as_ref().is_some_and(|s| p.keep >= s.kept_bytes()));
                let from = if kept { "host memory" } else { "the file" };
                format!(
                    "one network at a time, blocks of {} of {} streamed from {from} in {} pieces",
                    some.len(),
                    self.parts.len(),
                    pieces.join(" and ")
                )
            }
        }
    }

    /// Windows per launch of each graph.
    pub fn batches_used(&self) -> Vec<u32> {
        self.parts.iter().map(|p| p.plan.items).collect()
    }
}

/// How long a choice should take: by what a short probe measures on the device, where that is cheap, else by the rates
/// assumed of its kind.
pub fn estimate(engine: &mut Engine, choice: &Choice) -> Estimate {
    let caps = engine.caps().clone();
    let rates = cost::Rates::of(&caps);
    let assumed = || {
        let origin = format!("assumed of such a device: {:.3} TFLOP/s; not measured", rates.flops / 1e12);
        Estimate { seconds: choice.seconds, origin }
    };
    if !engine.is_real() {
        return assumed();
    }
    engine.limit(choice.cap);
    let Some(ratio) = cost::probe(engine.device(), &caps, &rates) else { return assumed() };
    let rate = rates.flops / ratio;
    let origin = format!("by a probe on this device: {:.3} TFLOP/s in one convolution", rate / 1e12);
    let measured = cost::Rates { flops: rate, bytes: rates.bytes / ratio, floor: rates.floor * ratio, ..rates };
    Estimate { seconds: seconds(&measured, &choice.program, &choice.parts), origin }
}

/// A choice as the engine remembers it for the next picture of the same kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    tile: u32,
    batches: [u32; 3],
    residency: Residency,
}

/// A job as the search sees it.
struct Search<'a> {
    engine: &'a mut Engine,
    model: &'a dyn System,
    options: &'a UpscaleOptions,
    job: &'a Job,
    room: Room,
    planned: usize,
}

/// Picks the shape of a job. `rows` is the host memory of what brings and takes the rows (decoder,
/// resampler, alpha, encoder). With `below` only smaller windows are tried: larger ones turned out not to fit.
pub fn choose(
    engine: &mut Engine,
    model: &dyn System,
    options: &UpscaleOptions,
    job: &Job,
    rows: u64,
    below: Option<u32>,
) -> Result<Choice> {
    let bounds = Bounds::new(engine, options)?;
    let bytes = |b: &Option<Bound>| b.as_ref().map_or(u64::MAX, |b| b.bytes);
    let room = Room { device: bytes(&bounds.device), host: bytes(&bounds.host), rows };
    let (vram, ram) = (options.vram, options.ram);
    let what = (job, vram, ram, options.tile, options.overlap, options.batch, below);
    let memory = format!("{} {what:?}", model.folder().display());
    let remembered = engine.decision(&memory);
    let tiles = tiles(model, options, below)?;
    let largest = tiles[0];
    let mut search = Search { engine, model, options, job, room, planned: 0 };
    if let Some(norms) = norms(options.vae) {
        let Some(one_step) = model.as_one_step() else {
            let why = format!("--vae {}: the system {} has no autoencoder", options.vae.name(), model.name());
            return Err(Error::new(Kind::Usage, "budget", why).advise("leave --vae out"));
        };
        let mut choice = search.latent(one_step, norms, &tiles, &bounds)?;
        choice.cap = cap(engine, &bounds, room, &choice.needs);
        let words = |b: &Option<Bound>| b.as_ref().map(|b| format!("{} ({})", mib(b.bytes), b.origin));
        choice.bounds = [words(&bounds.device), words(&bounds.host)];
        return Ok(choice);
    }
    let taken = match remembered {
        Some(d) => Some(search.one(d.tile, d.batches, d.residency, &mut Vec::new())?).filter(|c| c.fits),
        None => None,
    };
    let (taken, refused) = match taken {
        Some(taken) => (taken, false),
        None => search.best(&tiles, &bounds)?,
    };
    let decision = Decision { tile: taken.shaping.tile, batches: taken.batches, residency: taken.residency };
    engine.remember(memory, decision);
    let mut notes = Vec::new();
    if refused && taken.shaping.tile != largest {
        notes.push(format!("windows of {} instead of {largest} keep within the memory allowed", taken.shaping.tile));
    }
    let words = |b: &Option<Bound>| b.as_ref().map(|b| format!("{} ({})", mib(b.bytes), b.origin));
    let bounded = [words(&bounds.device), words(&bounds.host)];
    let mut cap = cap(engine, &bounds, room, &taken.needs);
    if taken.residency == Residency::Networks {
        // What had its turn goes: what is planned for the largest is all that is held.
        cap = cap.map(|c| c.min(taken.needs.device.allocated()));
    }
    let Candidate { shaping, batches, program, residency, parts, needs, seconds, .. } = taken;
    let bounds = bounded;
    let mut choice = Choice { shaping, batches, program, residency, parts, needs, seconds, cap, bounds, notes };
    if residency == Residency::Networks {
        let words = choice.residency_words();
        choice.notes.insert(0, format!("{words}: not all weights fit the memory allowed together"));
    }
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

/// The norms of the latent-canvas form, where that is asked for.
fn norms(vae: VaeMode) -> Option<Norms> {
    match vae {
        VaeMode::Auto | VaeMode::Tile => None,
        VaeMode::Whole => Some(Norms::Whole),
        VaeMode::Exact => Some(Norms::Exact),
        VaeMode::Shared => Some(Norms::Shared),
    }
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

impl Search<'_> {
    /// One candidate. Networks in turn that do not fit are tried once more in the smallest pieces; `failed` takes
    /// the needs of both.
    fn one(
        &mut self,
        tile: u32,
        batches: [u32; 3],
        residency: Residency,
        failed: &mut Vec<(u32, Needs)>,
    ) -> Result<Candidate> {
        self.planned += 1;
        let overlap = overlap_for(self.options, tile, self.model)?;
        let dtype = self.engine.caps().storage;
        let shaping = Shaping { tile, fitted: self.options.tile.is_none(), overlap, batch: batches[0], dtype };
        let form = match residency {
            Residency::All | Residency::OneArena => Form::Joined,
            Residency::Networks => Form::Apart(batches),
        };
        let program = self.model.program(self.job, &shaping, form)?;
        let folder = self.model.folder().display().to_string();
        let again = (residency == Residency::Networks).then(|| program.clone());
        let found = candidate(self.engine, &folder, program, shaping, batches, residency, self.room, false)?;
        if found.fits {
            return Ok(found);
        }
        failed.push((tile, found.needs));
        let Some(program) = again else { return Ok(found) };
        let found = candidate(self.engine, &folder, program, shaping, batches, residency, self.room, true)?;
        if !found.fits {
            failed.push((tile, found.needs));
        }
        Ok(found)
    }

    /// The fastest candidate that fits, and whether larger windows were refused for want of memory.
    fn best(&mut self, tiles: &[u32], bounds: &Bounds) -> Result<(Candidate, bool)> {
        let batches = [self.options.batch.unwrap_or(1); 3];
        // Networks in turn read the picture twice, which a pipe does not allow.
        let turns = self.model.divides() && !image::is_pipe(&self.options.input);
        let together = if self.model.in_turn() { Residency::OneArena } else { Residency::All };
        let mut best: Option<Candidate> = None;
        let mut failed: Vec<(u32, Needs)> = Vec::new();
        let mut last = None;
        let mut grids = Vec::new();
        // Windows for which networks in turn have not been tried.
        let mut left = Vec::new();
        let mut weights = 0;
        for &tile in tiles {
            // All weights alone may be too much, whatever the window; the last is planned all the same, for the advice.
            let mut heavy = weights > self.room.device && Some(&tile) != tiles.last();
            if !heavy {
                match self.one(tile, batches, together, &mut failed) {
                    Ok(found) => {
                        weights = found.needs.device.weights;
                        // A small picture needs windows no larger than itself, whatever the side asked for.
                        let grid = found.program.grids[0].clone();
                        if grids.contains(&grid) {
                            continue;
                        }
                        grids.push(grid);
                        heavy = !found.fits && weights >= self.room.device / WEIGHTS_MATTER;
                        better(&mut best, found);
                    }
                    // A value that exceeds the device's largest binding: a smaller window may not.
                    Err(e) if matches!(e.kind(), Kind::Limit | Kind::Memory) => last = Some(e),
                    Err(e) => return Err(e),
                }
            }
            if heavy && turns && self.planned < CANDIDATES {
                match self.one(tile, batches, Residency::Networks, &mut failed) {
                    Ok(found) => better(&mut best, found),
                    Err(e) if matches!(e.kind(), Kind::Limit | Kind::Memory) => last = Some(e),
                    Err(e) => return Err(e),
                }
            } else {
                left.push(tile);
            }
        }
        // Before a refusal, and so that its advice is the least there is: whatever has not been tried.
        if best.is_some() || !turns {
            left.clear();
        }
        for tile in left {
            match self.one(tile, batches, Residency::Networks, &mut failed) {
                Ok(found) => better(&mut best, found),
                Err(e) if matches!(e.kind(), Kind::Limit | Kind::Memory) => last = Some(e),
                Err(e) => return Err(e),
            }
        }
        match best {
            Some(best) => Ok((self.batched(best)?, !failed.is_empty())),
            None if failed.is_empty() => {
                Err(last.unwrap_or_else(|| Error::new(Kind::Memory, "budget", "no window size can be planned")))
            }
            None => Err(refusal(&failed, bounds, self.room)),
        }
    }

    /// The candidate with larger batches, network by network, as long as they pay and fit.
    fn batched(&mut self, mut best: Candidate) -> Result<Candidate> {
        let caps = self.engine.caps();
        if self.options.batch.is_some() || caps.kind == BackendKind::Cpu || caps.software {
            return Ok(best);
        }
        let networks: &[usize] = match best.residency {
            Residency::All | Residency::OneArena => &[0],
            // The denoiser first: its windows are small, and it has most weights.
            Residency::Networks => &[1, 0, 2],
        };
        let windows = best.program.grids[0].count();
        for &network in networks {
            for batch in BATCHES {
                if self.planned >= CANDIDATES || batch as usize > windows {
                    break;
                }
                let mut batches = best.batches;
                match best.residency {
                    Residency::All | Residency::OneArena => batches = [batch; 3],
                    Residency::Networks => batches[network] = batch,
                }
                let found = match self.one(best.shaping.tile, batches, best.residency, &mut Vec::new()) {
                    Ok(found) => found,
                    Err(e) if matches!(e.kind(), Kind::Limit | Kind::Memory) => break,
                    Err(e) => return Err(e),
                };
                if !found.fits || found.seconds > BATCH_GAIN * best.seconds {
                    break;
                }
                best = found;
            }
        }
        Ok(best)
    }
}

/// Takes `found` where it fits and is faster by enough, or the first that fits: windows come largest first.
fn better(best: &mut Option<Candidate>, found: Candidate) {
    if found.fits && best.as_ref().is_none_or(|b| found.seconds * LARGER < b.seconds) {
        *best = Some(found);
    }
}

/// What to say when nothing fits: the smallest caps that work, of those the user may change.
fn refusal(failed: &[(u32, Needs)], bounds: &Bounds, room: Room) -> Error {
    let totals = |n: &Needs| (n.device.total(), n.host.total());
    let all = failed.iter().map(|(tile, n)| (*tile, totals(n)));
    // One cap may do: the other is kept where it can be.
    let device = all.clone().filter(|(_, t)| t.1 <= room.host).min_by_key(|(_, t)| (t.0, t.1));
    let host = all.clone().filter(|(_, t)| t.0 <= room.device).min_by_key(|(_, t)| (t.1, t.0));
    let both = all.min_by_key(|(_, t)| (t.0.saturating_add(t.1), t.1));
    let Some((tile, (need_device, need_host))) = device.or(host).or(both) else {
        return Error::new(Kind::Internal, "budget", "nothing was planned");
    };
    let mut short = Vec::new();
    let mut advice = Vec::new();
    for (option, bound, need) in [("--vram", &bounds.device, need_device), ("--ram", &bounds.host, need_host)] {
        if let Some(b) = bound.as_ref().filter(|b| b.bytes < need) {
            let origin = if b.asked { option.to_owned() } else { format!("{option} (not given: {})", b.origin) };
            short.push(format!("{origin} {} is less than {}", mib(b.bytes), mib(need)));
            advice.push(format!("{option} {}", mib(need)));
        }
    }
    let why = format!("the smallest plan (windows of {tile}) does not fit: {}", short.join(", "));
    Error::new(Kind::Memory, "budget", why).advise(format!("the smallest that works: {}", advice.join(" ")))
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
