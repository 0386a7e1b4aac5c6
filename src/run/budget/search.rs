//! The search for the fastest plan that fits: window sizes, residencies, batches.

use super::candidate::{Candidate, Residency, Room, candidate};
use super::{Bounds, Choice, Needs, mib, overlap_for};
use crate::abi::BackendKind;
use crate::error::{Error, Kind, Result};
use crate::image;
use crate::run::engine::Engine;
use crate::run::options::{UpscaleOptions, VaeMode};
use crate::system::job::{Form, Job, System};
use crate::system::latent::{LatentForm, Norms};
use crate::system::onestep::Shaping;

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

/// A choice as the engine remembers it for the next picture of the same kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    tile: u32,
    batches: [u32; 3],
    residency: Residency,
}

/// A job as the search sees it.
pub(super) struct Search<'a> {
    pub(super) engine: &'a mut Engine,
    pub(super) model: &'a dyn System,
    pub(super) options: &'a UpscaleOptions,
    pub(super) job: &'a Job,
    pub(super) bounds: Bounds,
    pub(super) room: Room,
    /// Window sides to try, largest first; never empty.
    pub(super) tiles: Vec<u32>,
    /// Candidates planned so far.
    pub(super) planned: usize,
}

impl<'a> Search<'a> {
    /// The form over latent canvases, whose autoencoder has modes.
    fn latent_form(&self, vae: VaeMode) -> Result<&'a dyn LatentForm> {
        self.model.latent_form().ok_or_else(|| {
            let why = format!("--vae {}: the system {} has no autoencoder", vae.name(), self.model.name());
            Error::new(Kind::Usage, "budget", why).advise("leave --vae out")
        })
    }

    /// The best with the autoencoder in this mode, which is not `Auto`.
    pub(super) fn mode(&mut self, vae: VaeMode) -> Result<Choice> {
        let norms = match vae {
            VaeMode::Auto | VaeMode::Tile => None,
            VaeMode::Whole => Some(Norms::Whole),
            VaeMode::Exact => Some(Norms::Exact),
            VaeMode::Shared => Some(Norms::Shared),
        };
        let (taken, notes) = match norms {
            None => self.tiled()?,
            Some(norms) => self.latent(self.latent_form(vae)?, norms)?,
        };
        Ok(Choice { taken, vae, why: String::new(), cap: None, bounds: [None, None], notes })
    }

    /// Pixel tiles: what the engine remembers of the last picture of this kind, or else the fastest that fits.
    fn tiled(&mut self) -> Result<(Candidate, Vec<String>)> {
        let (vram, ram) = (self.options.vram, self.options.ram);
        let own = (self.options.tile, self.options.overlap, self.options.batch);
        let what = (self.job, vram, ram, own, &self.tiles);
        let memory = format!("{} {what:?}", self.model.folder().display());
        let taken = match self.engine.decision(&memory) {
            Some(d) => Some(self.one(d.tile, d.batches, d.residency, &mut Vec::new())?).filter(|c| c.fits),
            None => None,
        };
        let (taken, refused) = match taken {
            Some(taken) => (taken, false),
            None => self.best()?,
        };
        let decision = Decision { tile: taken.shaping.tile, batches: taken.batches, residency: taken.residency };
        self.engine.remember(memory, decision);
        let mut notes: Vec<String> = taken.turns().into_iter().collect();
        let largest = self.tiles[0];
        if refused && taken.shaping.tile != largest {
            notes
                .push(format!("windows of {} instead of {largest} keep within the memory allowed", taken.shaping.tile));
        }
        Ok((taken, notes))
    }

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
            Residency::Networks if self.model.divides() => Form::Apart(batches),
            Residency::All | Residency::OneArena | Residency::Networks => Form::Joined,
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
    fn best(&mut self) -> Result<(Candidate, bool)> {
        let batches = [self.options.batch.unwrap_or(1); 3];
        // Networks apart read the picture twice, which a pipe does not allow.
        let turns = !(self.model.divides() && image::is_pipe(&self.options.input));
        let together = if self.model.in_turn() { Residency::OneArena } else { Residency::All };
        let mut best: Option<Candidate> = None;
        let mut failed: Vec<(u32, Needs)> = Vec::new();
        let mut last = None;
        let mut grids = Vec::new();
        // Windows for which networks in turn have not been tried.
        let mut left = Vec::new();
        let mut weights = 0;
        let tiles = self.tiles.clone();
        for &tile in &tiles {
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
            None => Err(refusal(&failed, &self.bounds, self.room)),
        }
    }

    /// The candidate with larger batches, network by network, as long as they pay and fit.
    fn batched(&mut self, mut best: Candidate) -> Result<Candidate> {
        let caps = self.engine.caps();
        if self.options.batch.is_some() || caps.kind == BackendKind::Cpu || caps.software {
            return Ok(best);
        }
        let apart = best.residency == Residency::Networks && self.model.divides();
        // The denoiser first: its windows are small, and it has most weights.
        let networks: &[usize] = if apart { &[1, 0, 2] } else { &[0] };
        let windows = best.program.grids[0].count();
        for &network in networks {
            for batch in BATCHES {
                if self.planned >= CANDIDATES || batch as usize > windows {
                    break;
                }
                let mut batches = best.batches;
                if apart {
                    batches[network] = batch;
                } else {
                    batches = [batch; 3];
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
pub(super) fn refusal(failed: &[(u32, Needs)], bounds: &Bounds, room: Room) -> Error {
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
