//! Chooses how the latent-canvas form of a job runs: window size, and for every state between two norms whether it
//! is kept on the device, in host memory or in the spool, or computed again, whichever costs least within the memory
//! allowed.

use super::candidate::{self, Candidate, Residency};
use super::cost::Rates;
use super::needs::DeviceNeeds;
use super::search::{Search, refusal};
use crate::abi::BackendKind;
use crate::error::{Error, Kind, Result};
use crate::image;
use crate::system::Program;
use crate::system::latent::{LatentForm, LatentPlan, Norms, Stages};
use crate::system::onestep::Shaping;
use crate::system::program::Residency as Placed;
use crate::system::vae_modes::{Attention, Keep};

/// Tokens above which the middle attention sees windows: it grows with their square.
const GLOBAL_TOKENS: u64 = 32_768;
/// Side of those windows, latents.
const ATTENTION_WINDOW: u32 = 128;
/// Bytes a second that a file is written or read with: a slow solid-state disk.
const SPOOL_RATE: f64 = 5e8;
/// How often the room for states is corrected by what the rest of the program turned out to need.
const ROUNDS: usize = 6;

/// Bytes there are for states: on the device, in host memory, in the spool.
#[derive(Debug, Clone, Copy)]
struct Space {
    device: u64,
    host: u64,
    spool: u64,
}

/// One place for a state, and its bandwidth.
fn places(rates: &Rates) -> [(Keep, f64); 3] {
    [(Keep::Device, rates.bytes), (Keep::Host, rates.upload), (Keep::Spool, SPOOL_RATE)]
}

/// The cheapest place for every state: over all ways to keep some boundaries, the least time of computing again from
/// the last one kept plus moving what is kept. `seconds` are those of each segment over all its windows.
#[expect(clippy::needless_range_loop, reason = "boundaries index several lists, two of them at a time")]
fn residences(stages: &Stages, seconds: &[f64], space: Space, rates: &Rates) -> Vec<Keep> {
    let last = stages.states.len() - 1;
    let places = places(rates);
    let room = |keep: Keep| match keep {
        Keep::Recompute => 0,
        Keep::Device => space.device,
        Keep::Host => space.host,
        Keep::Spool => space.spool,
    };
    // Passes that begin at boundary `b` and end before boundaries `b + 1 ..= s`.
    let passes = |b: usize, s: usize| -> f64 {
        let until = |t: usize| seconds[b..t].iter().sum::<f64>();
        (b + 1..=s).map(until).sum()
    };
    // Cost, boundary before, its place.
    let mut best: Vec<[Option<(f64, usize, usize)>; 3]> = vec![[None; 3]; last + 1];
    best[0] = [Some((0.0, 0, 0)), None, None];
    let mut end: Option<(f64, usize, usize)> = None;
    for b in 0..=last {
        for from in 0..3 {
            let Some((cost, _, _)) = best[b][from] else { continue };
            let read = if b == 0 { 0.0 } else { stages.states[b] as f64 / places[from].1 };
            for s in b + 1..=last {
                // What must be kept cannot be passed over.
                if (b + 1..s).any(|k| stages.forced[k - 1]) {
                    break;
                }
                for (to, (keep, bandwidth)) in places.iter().enumerate() {
                    let forced = stages.forced[s - 1];
                    if forced && *keep != Keep::Host {
                        continue;
                    }
                    let both = stages.states[s] + if from == to && b > 0 { stages.states[b] } else { 0 };
                    if !forced && both > room(*keep) {
                        continue;
                    }
                    let moved = read * (s - b) as f64 + stages.states[s] as f64 / bandwidth;
                    let all = cost + passes(b, s) + moved;
                    if best[s][to].is_none_or(|(c, _, _)| all < c) {
                        best[s][to] = Some((all, b, from));
                    }
                }
            }
            if (b + 1..=last).any(|k| stages.forced[k - 1]) {
                continue;
            }
            let all = cost + passes(b, last) + seconds[b..].iter().sum::<f64>() + read * (last + 1 - b) as f64;
            if end.is_none_or(|(c, _, _)| all < c) {
                end = Some((all, b, from));
            }
        }
    }
    let mut keep = vec![Keep::Recompute; last + 1];
    let (mut b, mut at) = end.map_or((0, 0), |(_, b, at)| (b, at));
    while b > 0 {
        keep[b] = places[at].0;
        let Some((_, before, from)) = best[b][at] else { break };
        (b, at) = (before, from);
    }
    keep
}

/// Where the states of a choice lie, in words with bytes.
fn describe(stages: &[Stages], keep: &[Vec<Keep>], program: &Program) -> String {
    let at_once = |place: Keep| {
        let residency = match place {
            Keep::Device => Placed::Device,
            Keep::Host => Placed::Whole,
            Keep::Spool => Placed::Spool,
            Keep::Recompute => Placed::Band,
        };
        (0..program.blocks.len()).map(|b| program.transient_bytes(b, residency)).max().unwrap_or(0)
    };
    let mut parts = Vec::new();
    for (name, place) in
        [("on the device", Keep::Device), ("in host memory", Keep::Host), ("in the spool", Keep::Spool)]
    {
        let of = |(keep, stages): (&Vec<Keep>, &Stages)| -> u64 {
            keep.iter().zip(&stages.states).filter(|(k, _)| **k == place).map(|(_, bytes)| *bytes).sum()
        };
        let count = keep.iter().flatten().filter(|k| **k == place).count();
        let bytes = super::mib(keep.iter().zip(stages).map(of).fold(0, u64::saturating_add));
        if count > 0 {
            parts.push(format!("{count} {name} (one after another {bytes}, at once {})", super::mib(at_once(place))));
        }
    }
    let again = keep.iter().flat_map(|k| k.iter().skip(1)).filter(|k| **k == Keep::Recompute).count();
    if again > 0 {
        parts.push(format!("{again} computed again"));
    }
    format!("states between norms: {}", if parts.is_empty() { "none".into() } else { parts.join(", ") })
}

impl Search<'_> {
    /// The latent-canvas form with norms as asked, at the largest window that fits; with sentences about it.
    pub(super) fn latent(&mut self, model: &dyn LatentForm, norms: Norms) -> Result<(Candidate, Vec<String>)> {
        let mut failed = Vec::new();
        let mut last = None;
        // All networks resident, then each in its turn, then streamed in the smallest pieces.
        let ways = [(Residency::OneArena, false), (Residency::Networks, false), (Residency::Networks, true)];
        for (residency, least) in ways {
            for tile in self.tiles.clone() {
                match self.latent_at(model, norms, tile, residency, least) {
                    Ok((found, mut notes)) if found.fits => {
                        notes.extend(found.turns());
                        return Ok((found, notes));
                    }
                    Ok((found, _)) => {
                        failed.push((tile, found.needs));
                        // The weights are the same whatever the window.
                        if residency == Residency::OneArena && found.needs.device.weights > self.room.device {
                            break;
                        }
                    }
                    // A window may be too small for its halo, or a value too large for the device.
                    Err(e) if matches!(e.kind(), Kind::Limit | Kind::Memory | Kind::Usage) => last = Some(e),
                    Err(e) => return Err(e),
                }
            }
        }
        if failed.is_empty() {
            return Err(last.unwrap_or_else(|| Error::new(Kind::Memory, "budget", "no window size can be planned")));
        }
        Err(refusal(&failed, &self.bounds, self.room))
    }

    /// One window size; `least`: what is streamed goes in the smallest pieces.
    fn latent_at(
        &mut self,
        model: &dyn LatentForm,
        norms: Norms,
        tile: u32,
        residency: Residency,
        least: bool,
    ) -> Result<(Candidate, Vec<String>)> {
        let overlap = super::overlap_for(self.options, tile, self.model)?;
        let (caps, batch) = (self.engine.caps().clone(), self.options.batch.unwrap_or(1));
        let shaping = Shaping { tile, fitted: true, overlap, batch, dtype: caps.storage };
        let tokens: u64 = model.latents(self.job.target).iter().map(|&v| u64::from(v)).product();
        let windowed = model.vae().has_mid_attention() && tokens > GLOBAL_TOKENS && norms != Norms::Whole;
        let attention = if windowed { Attention::Windowed(ATTENTION_WINDOW) } else { Attention::Global };
        let folder = self.model.folder().display().to_string();
        let rates = Rates::of(&caps);
        let again = LatentPlan { norms, keep: Vec::new(), attention, picture: Placed::Whole };
        let stages = match norms {
            Norms::Exact => model.latent_program(self.job, &shaping, &again)?.passes,
            Norms::Whole | Norms::Shared => Vec::new(),
        };
        let mut seconds: Vec<Vec<f64>> = Vec::new();
        for stages in &stages {
            let mut each = Vec::new();
            for (graph, windows) in &stages.segments {
                let plan = self.engine.plan(&format!("{} {folder}", graph.name), graph)?;
                let launches = windows.div_ceil(u64::from(plan.items.max(1)));
                each.push(rates.seconds(&plan) * launches as f64);
            }
            seconds.push(each);
        }
        let piped = self.options.output.as_deref().is_some_and(image::is_pipe);
        let picture_bytes = 12 * self.job.target.iter().map(|&v| u64::from(v)).product::<u64>();
        let fixed = DeviceNeeds::fixed(&caps).total();
        let mut space = Space {
            device: self.room.device.saturating_sub(fixed),
            host: self.room.host.saturating_sub(self.room.rows),
            // Beside a pipe there is no folder for files.
            spool: if piped { 0 } else { u64::MAX / 4 },
        };
        if caps.kind == BackendKind::Cpu {
            // One memory; what lies on the "device" is copied without a detour.
            (space.device, space.host) = (space.device.min(space.host), 0);
        }
        let mut picture = if piped || picture_bytes <= self.room.host / 8 { Placed::Whole } else { Placed::Spool };
        let mut result = None;
        for round in 0..ROUNDS {
            let keep = stages.iter().zip(&seconds).map(|(s, seconds)| residences(s, seconds, space, &rates)).collect();
            let plan = LatentPlan { keep, picture, ..again.clone() };
            let program = model.latent_program(self.job, &shaping, &plan)?.program;
            let keep = plan.keep;
            let (room, batches) = (self.room, [batch; 3]);
            let mut c = candidate::candidate(self.engine, &folder, program, shaping, batches, residency, room, least)?;
            let over = |need: u64, have: u64| need.saturating_sub(have);
            let (device, host) = (over(c.needs.device.total(), room.device), over(c.needs.host.total(), room.host));
            let mut notes = Vec::new();
            if norms == Norms::Exact {
                notes.push(describe(&stages, &keep, &c.program));
            }
            if windowed {
                notes.push(format!(
                    "the autoencoder's attention sees windows of {ATTENTION_WINDOW} latents: {tokens} tokens are more \
                     than {GLOBAL_TOKENS}"
                ));
            }
            // Written once and read once at least.
            let in_files = keep.iter().zip(&stages).flat_map(|(keep, s)| keep.iter().zip(&s.states));
            let in_files: u64 = in_files.filter(|(k, _)| **k == Keep::Spool).map(|(_, bytes)| *bytes).sum();
            c.seconds += 2.0 * in_files as f64 / SPOOL_RATE;
            let fits = c.fits;
            result = Some((c, notes));
            if fits || (norms != Norms::Exact && picture == Placed::Spool) {
                break;
            }
            if host > 0 && !piped {
                picture = Placed::Spool;
            }
            // Less room for states by what was missing, and in the end by half of it each time.
            let shrink =
                |v: u64, missing: u64| if round + 2 < ROUNDS { v.min(1 << 50).saturating_sub(missing) } else { 0 };
            space.device = shrink(space.device, device.max(if caps.kind == BackendKind::Cpu { host } else { 0 }));
            space.host = shrink(space.host, host);
        }
        result.ok_or_else(|| Error::new(Kind::Internal, "budget", "nothing was planned"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::Caps;

    fn stages(states: &[u64], forced: &[bool]) -> Stages {
        let segments = Vec::new();
        Stages { segments, states: states.to_vec(), forced: forced.to_vec() }
    }

    #[test]
    fn states_go_to_the_fastest_place_that_has_room_and_are_computed_again_where_none_has() {
        let rates = Rates::of(&Caps::cuda_default());
        let s = stages(&[0, 1_000, 1_000, 50_000], &[false; 4]);
        let seconds = [1.0; 4];
        let all = |device, host, spool| residences(&s, &seconds, Space { device, host, spool }, &rates);
        let (again, device, host, spool) = (Keep::Recompute, Keep::Device, Keep::Host, Keep::Spool);
        assert_eq!(all(100_000, 0, 0), [again, device, device, device]);
        assert_eq!(all(2_000, 60_000, 0), [again, device, device, host]);
        assert_eq!(all(2_000, 0, 0), [again, device, device, again]);
        assert_eq!(all(0, 0, 1 << 20), [again, spool, spool, spool]);
        assert_eq!(all(0, 0, 0), [again; 4]);
    }

    #[test]
    fn a_state_that_takes_longer_to_move_than_to_compute_is_computed_again() {
        let rates = Rates::of(&Caps::cuda_default());
        let s = stages(&[0, 1_000, 1 << 40, 1_000], &[false; 4]);
        let keep = residences(&s, &[1.0; 4], Space { device: 0, host: 0, spool: 1 << 50 }, &rates);
        assert_eq!(keep, [Keep::Recompute, Keep::Spool, Keep::Recompute, Keep::Spool]);
    }

    #[test]
    fn what_must_be_kept_is_kept_in_host_memory() {
        let rates = Rates::of(&Caps::cuda_default());
        let s = stages(&[0, 1_000, 1_000, 1_000], &[false, true, false, false]);
        let keep = residences(&s, &[1.0; 4], Space { device: 0, host: 0, spool: 0 }, &rates);
        assert_eq!(keep, [Keep::Recompute, Keep::Recompute, Keep::Host, Keep::Recompute]);
    }
}
