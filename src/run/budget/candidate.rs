//! One way to do a job, priced: a program at a tile shape and batch, which networks are resident when, what all of
//! it takes and how long.

use super::cost::Rates;
use super::needs::{DeviceNeeds, HostNeeds, Needs};
use crate::abi::{BackendKind, Caps};
use crate::error::Result;
use crate::extent::{ARENA_ALIGN, round_up};
use crate::graph::{DType, Graph, change};
use crate::plan::command::{Plan, SlotKind};
use crate::plan::stream::{self, Streamed};
use crate::run::engine::Engine;
use crate::system::Program;
use crate::system::onestep::Shaping;
use crate::system::phase::{Nesting, Phase, WindowPhase};
use crate::system::program::{CanvasId, PICTURE, Residency as Placed};
use std::sync::Arc;

/// What stays on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residency {
    /// Every network for the whole job.
    All,
    /// Every network, or piece of one, for the whole job, in one arena: they run one after another.
    OneArena,
    /// One network at a time, each over all windows, its parts in one arena; one of a single part that does not fit even
    /// then is streamed block by block.
    Networks,
}

/// One graph of a program, made ready.
#[derive(Debug, Clone)]
pub struct Part {
    /// Name in the engine's caches.
    pub key: String,
    /// Its plan with resident weights.
    pub plan: Arc<Plan>,
    /// The plan with streamed weights, where it is streamed.
    pub streamed: Option<Arc<Streamed>>,
    /// Host bytes in which packed weights of a streamed plan are kept.
    pub keep: u64,
    /// Sizes of the arena buffers that it shares with the other parts; none where it has its own.
    pub arena: Vec<u64>,
}

/// One way to do a job.
pub struct Candidate {
    /// Tile, overlap, batch of the first network, type.
    pub shaping: Shaping,
    /// Windows per launch of each network.
    pub batches: [u32; 3],
    /// The program.
    pub program: Program,
    /// What stays on the device.
    pub residency: Residency,
    /// Its graphs.
    pub parts: Vec<Part>,
    /// What it takes.
    pub needs: Needs,
    /// Seconds, by the rates assumed of the device.
    pub seconds: f64,
    /// It keeps within the bounds.
    pub fits: bool,
}

/// What there is room for.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Device bytes.
    pub device: u64,
    /// Host bytes.
    pub host: u64,
    /// Host memory of what brings and takes the rows.
    pub rows: u64,
}

impl Candidate {
    /// What stays on the device, in words.
    pub fn residency_words(&self) -> String {
        let streamed: Vec<&Part> = self.parts.iter().filter(|p| p.streamed.is_some()).collect();
        match (self.residency, streamed.as_slice()) {
            (Residency::All | Residency::OneArena, _) => "all networks resident".into(),
            (Residency::Networks, []) => "one network at a time".into(),
            (Residency::Networks, some) => {
                let networks: std::collections::BTreeSet<usize> = self.program.networks().into_iter().collect();
                let pieces: Vec<String> =
                    some.iter().filter_map(|p| p.streamed.as_ref()).map(|s| s.body.len().to_string()).collect();
                let kept = some.iter().all(|p| p.streamed.as_ref().is_some_and(|s| p.keep >= s.kept_bytes()));
                let from = if kept { "host memory" } else { "the file" };
                format!(
                    "one network at a time, blocks of {} of {} streamed from {from} in {} pieces",
                    some.len(),
                    networks.len(),
                    pieces.join(" and ")
                )
            }
        }
    }

    /// A sentence where networks take turns.
    pub(super) fn turns(&self) -> Option<String> {
        let turns = self.residency == Residency::Networks;
        turns.then(|| format!("{}: not all weights fit the memory allowed together", self.residency_words()))
    }

    /// Windows per launch of each graph.
    pub fn batches_used(&self) -> Vec<u32> {
        self.parts.iter().map(|p| p.plan.items).collect()
    }
}

impl Part {
    /// `graph` with resident weights.
    fn resident(engine: &mut Engine, folder: &str, graph: &Graph) -> Result<Part> {
        let key = format!("{} {folder}", graph.name);
        let plan = engine.plan(&key, graph)?;
        Ok(Part { key, plan, streamed: None, keep: 0, arena: Vec::new() })
    }

    /// This part for `items` items a launch; `graph` is the one it was planned from. What was streamed is, in pieces
    /// of the same bytes.
    pub fn with_items(&self, engine: &mut Engine, folder: &str, graph: &Graph, items: u32) -> Result<Part> {
        let mut part = Part::resident(engine, folder, &change::with_items(graph, items)?)?;
        if let Some(streamed) = &self.streamed {
            part.stream(streamed.largest_piece())?;
        }
        part.arena.clone_from(&self.arena);
        Ok(part)
    }

    /// `graph` for one item in the wider type `dtype`: what an item is computed in whose values left the range of the
    /// device's storage type. Streamed where `left` device bytes ask for it.
    pub fn wide(engine: &mut Engine, folder: &str, graph: &Graph, dtype: DType, left: u64) -> Result<Part> {
        let graph = change::widened(&change::with_items(graph, 1)?, dtype)?;
        let resident = Part::resident(engine, folder, &graph)?;
        if resident.needs().total() <= left {
            return Ok(resident);
        }
        let mut streamed = resident.clone();
        streamed.stream(piece(&resident.plan, left, engine.caps().max_chunk))?;
        // A ring for large commands may take more than all weights of a small network.
        Ok(if streamed.needs().total() < resident.needs().total() { streamed } else { resident })
    }

    /// Device bytes of its own.
    pub fn needs(&self) -> DeviceNeeds {
        self.streamed.as_ref().map_or_else(|| DeviceNeeds::of(&self.plan), |s| DeviceNeeds::of(&s.plan))
    }

    /// Host bytes for its weights.
    fn host_weights(&self) -> u64 {
        let packing = HostNeeds::packing(&self.plan);
        match &self.streamed {
            None => packing,
            Some(s) if self.keep >= s.kept_bytes() => packing + s.kept_bytes(),
            Some(s) => packing + self.keep + s.largest_piece(),
        }
    }

    fn stream(&mut self, piece: u64) -> Result<()> {
        let streamed = stream::stream(&self.plan, piece)?;
        self.key = format!("{} pieces of {piece}", self.key);
        self.streamed = Some(Arc::new(streamed));
        Ok(())
    }
}

/// The storage type for an item whose values left the range of the device's own: none where that has the range of
/// f32 already.
pub fn wider(caps: &Caps) -> Option<DType> {
    match (caps.storage, caps.kind) {
        (DType::F16, BackendKind::Cuda) => Some(DType::Bf16),
        (DType::F16, BackendKind::Cpu | BackendKind::Wgpu) => Some(DType::F32),
        (DType::F32 | DType::Bf16, _) => None,
    }
}

/// Plans `program` and prices it. With `least`, networks in turn are streamed in the smallest pieces, whatever room
/// there is.
#[expect(clippy::too_many_arguments, reason = "a candidate is the sum of all choices")]
pub(super) fn candidate(
    engine: &mut Engine,
    folder: &str,
    program: Program,
    shaping: Shaping,
    batches: [u32; 3],
    residency: Residency,
    room: Room,
    least: bool,
) -> Result<Candidate> {
    let caps = engine.caps().clone();
    let mut parts = Vec::with_capacity(program.graphs.len());
    for graph in &program.graphs {
        parts.push(Part::resident(engine, folder, graph)?);
    }
    let fixed = DeviceNeeds::fixed(&caps);
    // Networks in turn may read a picture that is not held whole a second time beside the first.
    let whole = |id: CanvasId| program.canvases[id.0].residency == Placed::Whole;
    let again = residency == Residency::Networks && !program.canvas(PICTURE).is_ok_and(whole);
    let readings = if again { 2 } else { 1 };
    let mut host = HostNeeds::fixed(&caps, readings * room.rows);
    host.canvases = program.host_bytes();
    let plans: Vec<&Plan> = parts.iter().map(|p| p.plan.as_ref()).collect();
    let stored = plans.iter().map(|p| HostNeeds::stored_port(p));
    let networks = program.networks();
    let mut stored = match residency {
        Residency::All | Residency::OneArena => stored.sum::<u64>(),
        Residency::Networks => {
            let mut each = vec![0; parts.len()];
            networks.iter().zip(stored).for_each(|(&network, bytes)| each[network] += bytes);
            each.into_iter().max().unwrap_or(0)
        }
    };
    host.staging += HostNeeds::ports(&program, &plans) + stored;
    // States between passes lie on the device beside the networks.
    let states = (0..program.blocks.len()).map(|b| program.transient_bytes(b, Placed::Device)).max().unwrap_or(0);
    if residency == Residency::Networks {
        let mut left = if least { 0 } else { room.device.saturating_sub(fixed.total() + states) };
        if caps.kind == BackendKind::Cpu {
            // The device's memory is the host's.
            let packing = parts.iter().map(|p| HostNeeds::packing(&p.plan)).max().unwrap_or(0);
            left = left.min(room.host.saturating_sub(host.total() + packing));
        }
        for number in 0..parts.len() {
            let mut own = parts_of(&networks, &mut parts, number);
            let [part] = own.as_mut_slice() else { continue };
            let resident = part.needs().total();
            if resident <= left {
                continue;
            }
            let whole = part.clone();
            part.stream(piece(&part.plan, left, caps.max_chunk))?;
            // A ring for large commands may take more than all weights of a small network.
            if part.needs().total() >= resident {
                **part = whole;
            }
        }
    }
    let mut device = match residency {
        Residency::All => parts.iter().map(Part::needs).fold(fixed, DeviceNeeds::and),
        Residency::OneArena => fixed.and(in_one_arena(&mut parts.iter_mut().collect::<Vec<_>>())),
        Residency::Networks => {
            let needs = |number: usize| match parts_of(&networks, &mut parts, number).as_mut_slice() {
                [part] => part.needs(),
                own => in_one_arena(own),
            };
            let most = (0..networks.len()).map(needs).max_by_key(DeviceNeeds::total);
            fixed.and(most.unwrap_or_default())
        }
    };
    device.values += states;
    // An item that leaves the range of the storage type is computed again in a wider one, alone on the device.
    let mut wide_weights = 0;
    if let Some(dtype) = wider(&caps) {
        // The least it can do with: where there is more room it takes it when the time comes.
        for graph in &program.graphs {
            let wide = Part::wide(engine, folder, graph, dtype, 0)?;
            wide_weights = wide_weights.max(wide.host_weights());
            // It takes the place of the others.
            let more = HostNeeds::stored_port(&wide.plan).saturating_sub(stored);
            (host.staging, stored) = (host.staging + more, stored + more);
            let needs = fixed.and(wide.needs()).and(DeviceNeeds { values: states, ..DeviceNeeds::default() });
            if needs.total() > device.total() {
                device = needs;
            }
        }
    }
    host.device = if caps.kind == BackendKind::Cpu { device.total() } else { 0 };
    let widest = |parts: &[Part]| parts.iter().map(Part::host_weights).max().unwrap_or(0).max(wide_weights);
    host.weights = widest(&parts);
    // What host memory is left keeps streamed weights packed.
    let spare = room.host.saturating_sub(host.total());
    for part in &mut parts {
        part.keep = part.streamed.as_ref().map_or(0, |s| s.kept_bytes().min(spare));
        if part.keep > 0 {
            part.key = format!("{} keeping {}", part.key, part.keep);
        }
    }
    host.weights = widest(&parts);
    let needs = Needs { device, host };
    let fits = device.total() <= room.device && host.total() <= room.host;
    let seconds = seconds(&Rates::of(&caps), &program, &parts, residency);
    Ok(Candidate { shaping, batches, program, residency, parts, needs, seconds, fits })
}

/// The parts of network `number`; none where another number stands for it (`Program::networks`).
fn parts_of<'a>(networks: &[usize], parts: &'a mut [Part], number: usize) -> Vec<&'a mut Part> {
    networks.iter().zip(parts).filter(|(n, _)| **n == number).map(|(_, part)| part).collect()
}

/// Gives parts that run one after another one arena, and says what they take together: each weight once, since parts of one
/// network that apply the same one share it.
fn in_one_arena(parts: &mut [&mut Part]) -> DeviceNeeds {
    let arena = one_arena(parts);
    parts.iter_mut().for_each(|p| p.arena.clone_from(&arena));
    let mut seen = std::collections::HashSet::new();
    let mut weights = 0;
    for slot in parts.iter().flat_map(|p| &p.plan.slots) {
        if let SlotKind::Weight(recipe) = &slot.kind
            && seen.insert(format!("{recipe:?}"))
        {
            weights += round_up(slot.bytes.max(1), ARENA_ALIGN);
        }
    }
    let sum = parts.iter().map(|p| p.needs()).fold(DeviceNeeds::default(), DeviceNeeds::and);
    DeviceNeeds { arena: arena.iter().sum(), weights, ..sum }
}

/// The largest of the arena buffers of all parts, by their order.
fn one_arena(parts: &[&mut Part]) -> Vec<u64> {
    let mut arena: Vec<u64> = Vec::new();
    for part in parts {
        for (i, slot) in part.plan.slots.iter().filter(|s| s.kind == SlotKind::Arena).enumerate() {
            let bytes = round_up(slot.bytes.max(1), ARENA_ALIGN);
            match arena.get_mut(i) {
                Some(have) => *have = bytes.max(*have),
                None => arena.push(bytes),
            }
        }
    }
    arena
}

/// Bytes of a piece: an eighth of the weights, for long enough pieces to hide the upload of the next behind; less
/// where `left` for the whole network asks for less; at least what one command needs.
fn piece(plan: &Plan, left: u64, most: u64) -> u64 {
    let least = stream::largest_command(plan);
    let own = DeviceNeeds { weights: 0, ..DeviceNeeds::of(plan) };
    // Lists are cut: each piece's parameters may begin a place of their own.
    let room = left.saturating_sub(own.total()) / stream::RING as u64 / ARENA_ALIGN * ARENA_ALIGN;
    let wanted = round_up(plan.cost.weight_bytes / 8, ARENA_ALIGN);
    wanted.min(room).min(most).max(least)
}

/// How often each graph's weights are loaded: once where they stay. In turn, once for every phase that begins to use
/// them; where all phases of a block go over a few windows at a time, for every such few.
fn loads(program: &Program, parts: &[Part], residency: Residency) -> Vec<u64> {
    if residency != Residency::Networks {
        return vec![1; parts.len()];
    }
    let mut times = vec![0; parts.len()];
    let networks = program.networks();
    let mut held: Vec<usize> = Vec::new();
    for block in &program.blocks {
        let phases: Vec<_> = block
            .phases
            .iter()
            .filter_map(|p| if let Phase::Windows(w) = p { Some((w, w.graph.0)) } else { None })
            .collect();
        let rounds = |phase: &WindowPhase, graph: usize| {
            let (Some(grid), Some(part)) = (program.grids.get(phase.grid.0), parts.get(graph)) else { return 1 };
            match block.nesting {
                Nesting::StepOutside | Nesting::Chained => u64::from(block.steps),
                Nesting::WindowOutside | Nesting::Prepared { .. } => {
                    (grid.count() as u64).div_ceil(u64::from(part.plan.items.max(1)))
                }
            }
        };
        let network = |graph: usize| networks.get(graph).copied();
        let alone = phases.iter().all(|(_, g)| phases.first().is_some_and(|(_, first)| network(*first) == network(*g)));
        for (phase, graph) in phases {
            let Some(times) = times.get_mut(graph) else { continue };
            held.retain(|&other| network(other) == network(graph));
            if !held.contains(&graph) {
                *times += if alone { 1 } else { rounds(phase, graph) };
                held.push(graph);
            }
        }
    }
    times
}

/// Seconds of the whole job by `rates`.
pub fn seconds(rates: &Rates, program: &Program, parts: &[Part], residency: Residency) -> f64 {
    let mut total = 0.0;
    for (part, times) in parts.iter().zip(loads(program, parts, residency)) {
        total += times as f64 * part.plan.cost.weight_bytes as f64 * (1.0 / rates.pack + 1.0 / rates.upload);
    }
    for (phase, steps) in program.window_phases() {
        let Some(part) = parts.get(phase.graph.0) else { continue };
        let items = program.grids[phase.grid.0].count() as u64 * u64::from(phase.branches);
        let launches = items.div_ceil(u64::from(part.plan.items.max(1))) * u64::from(steps);
        let mut launch = rates.seconds(&part.plan);
        if let Some(s) = &part.streamed {
            let missing = s.kept_bytes().saturating_sub(part.keep).min(s.uploaded);
            let upload = s.uploaded as f64 / rates.upload + missing as f64 / rates.pack;
            launch = if rates.beside { launch.max(upload) } else { launch + upload };
        }
        total += launch * launches as f64;
    }
    total
}
