//! THE program model: what a system returns instead of a loop.
//!
//! A [`Program`] holds canvases, tables, saved values, statistics, graphs and window lists, and ordered
//! blocks of phases over them. Everything is concrete for one target, tile shape and batch, so a program can
//! be printed, checked ([`Program::check`]), costed and thrown away. Canvases, saved values and statistics
//! are always f32.

use super::phase::{Block, Nesting, Phase, Sink, Source, WindowPhase};
pub use super::state::{
    Affine, Canvas, CanvasId, Extent, GraphId, GridId, Ratio, Residency, Saved, SavedId, Statistic, StatisticId, Table,
    TableId,
};
pub(super) use super::state::{get, wrong};
use crate::error::Result;
use crate::graph::{DType, Graph, Lifetime};
use crate::noise;
use crate::tile::Grid;

/// Name of the canvas that holds the job's picture in its own size, values 0 to 1.
pub const PICTURE: &str = "picture";

/// A whole system at one target.
#[derive(Debug, Clone, PartialEq)]
pub struct Program {
    /// Name, for reports.
    pub name: String,
    /// Rows and columns of the result.
    pub target: [u32; 2],
    /// States.
    pub canvases: Vec<Canvas>,
    /// Constants by row.
    pub tables: Vec<Table>,
    /// Values per window.
    pub saved: Vec<Saved>,
    /// Reductions.
    pub statistics: Vec<Statistic>,
    /// Networks.
    pub graphs: Vec<Graph>,
    /// Window lists.
    pub grids: Vec<Grid>,
    /// The work, in order.
    pub blocks: Vec<Block>,
    /// Seed of the noise.
    pub seed: u64,
    /// Canvases that exist only from the block that first writes them to the last that reads them.
    pub transient: Vec<CanvasId>,
}

impl Program {
    /// An empty program.
    pub fn new(name: impl Into<String>, target: [u32; 2], seed: u64) -> Program {
        Program {
            name: name.into(),
            target,
            canvases: Vec::new(),
            tables: Vec::new(),
            saved: Vec::new(),
            statistics: Vec::new(),
            graphs: Vec::new(),
            grids: Vec::new(),
            blocks: Vec::new(),
            seed,
            transient: Vec::new(),
        }
    }

    /// Rows and columns of a canvas.
    pub fn extent(&self, canvas: CanvasId) -> [u32; 2] {
        match self.canvases[canvas.0].extent {
            Extent::Fixed(e) => e,
            Extent::OfTarget { num, den } => {
                self.target.map(|side| ((u64::from(side) * u64::from(num)).div_ceil(u64::from(den.max(1)))) as u32)
            }
        }
    }

    /// The canvas called `name`.
    pub fn canvas(&self, name: &str) -> Result<CanvasId> {
        let found = self.canvases.iter().position(|c| c.name == name);
        found.map(CanvasId).ok_or_else(|| wrong(format!("{}: there is no canvas `{name}`", self.name)))
    }

    /// Every window phase, with its block's number of steps.
    pub fn window_phases(&self) -> impl Iterator<Item = (&WindowPhase, u32)> {
        self.blocks.iter().flat_map(|b| {
            b.phases.iter().enumerate().filter_map(move |(i, p)| match p {
                Phase::Windows(w) => Some((w, b.repeats(i))),
                Phase::Canvas(_) => None,
            })
        })
    }

    /// How many windows' worth of a saved value there are at a time: those of one launch where its block gives them up
    /// at once, else all.
    pub fn slots(&self, saved: SavedId) -> usize {
        let all = self.saved.get(saved.0).and_then(|s| self.grids.get(s.grid.0)).map_or(0, Grid::count);
        let Some(block) = self.blocks.iter().find(|b| b.passing().any(|s| s == saved)) else { return all };
        let phases = block.phases.iter().filter_map(|p| match p {
            Phase::Windows(w) => self.batch(w).ok(),
            Phase::Canvas(_) => None,
        });
        all.min(phases.max().unwrap_or(1) as usize)
    }

    /// Items per launch of a phase.
    pub fn batch(&self, phase: &WindowPhase) -> Result<u32> {
        let graph = get(&self.graphs, phase.graph.0, "graph")?;
        let window = graph.values.iter().find(|v| v.lifetime == Lifetime::Window);
        window.map(|v| v.shape.n).ok_or_else(|| wrong(format!("{}: nothing differs between windows", graph.name)))
    }

    /// Host bytes of canvases and saved values: what residency costs beside staging.
    pub fn host_bytes(&self) -> u64 {
        let mut bytes = 0u64;
        let mut chained = std::collections::BTreeSet::new();
        let mut held = vec![0u64; self.blocks.len()];
        for (block, held) in self.blocks.iter().zip(&mut held).filter(|(b, _)| b.nesting == Nesting::Chained) {
            let Ok(schedule) = super::chain::schedule(self, block, 0) else { continue };
            for (id, band) in schedule.bands {
                *held += self.row_bytes(id) * u64::from(band.rows);
                chained.insert(id);
            }
        }
        for (i, canvas) in self.canvases.iter().enumerate() {
            let [h, w] = self.extent(CanvasId(i));
            let rows = match canvas.residency {
                Residency::Whole if self.transient.contains(&CanvasId(i)) => 0,
                Residency::Whole => u64::from(h),
                Residency::Band if chained.contains(&CanvasId(i)) => 0,
                Residency::Band => u64::from(h.min(self.band_rows(CanvasId(i)))),
                Residency::Spool | Residency::Device => 0,
            };
            bytes = bytes.saturating_add(rows * u64::from(w) * u64::from(canvas.channels) * 4);
        }
        let blocks = (0..self.blocks.len()).map(|b| self.transient_bytes(b, Residency::Whole).saturating_add(held[b]));
        bytes = bytes.saturating_add(blocks.max().unwrap_or(0));
        for (i, saved) in self.saved.iter().enumerate() {
            let windows = self.slots(SavedId(i)) as u64;
            bytes = bytes.saturating_add(windows * saved.shape.pixels() * u64::from(saved.shape.c) * 4);
        }
        bytes
    }

    /// Bytes of a row of a canvas, f32.
    pub fn row_bytes(&self, id: CanvasId) -> u64 {
        u64::from(self.extent(id)[1]) * u64::from(self.canvases[id.0].channels) * 4
    }

    /// Bytes of all of a canvas, f32.
    pub fn canvas_bytes(&self, id: CanvasId) -> u64 {
        u64::from(self.extent(id)[0]) * self.row_bytes(id)
    }

    /// The id of a graph, which is added where it is not there yet.
    pub fn graph(&mut self, graph: Graph) -> GraphId {
        let found = self.graphs.iter().position(|g| *g == graph);
        GraphId(found.unwrap_or_else(|| {
            self.graphs.push(graph);
            self.graphs.len() - 1
        }))
    }

    /// The number of the network that each graph is, or is a part of: what a chained block goes over row by row stays
    /// together.
    pub fn networks(&self) -> Vec<usize> {
        let mut numbers: Vec<usize> = (0..self.graphs.len()).collect();
        for block in self.blocks.iter().filter(|b| b.nesting == Nesting::Chained) {
            let graphs =
                block.phases.iter().filter_map(|p| if let Phase::Windows(w) = p { Some(w.graph.0) } else { None });
            let joined: Vec<usize> = graphs.filter_map(|g| numbers.get(g).copied()).collect();
            let Some(&first) = joined.iter().min() else { continue };
            numbers.iter_mut().filter(|n| joined.contains(n)).for_each(|n| *n = first);
        }
        numbers
    }

    /// First and last block that uses a canvas.
    pub fn used_by(&self, id: CanvasId) -> Option<[usize; 2]> {
        let uses = |b: &Block| {
            b.phases.iter().any(|p| match p {
                Phase::Windows(w) => w.canvases().any(|c| c == id),
                Phase::Canvas(op) => op.canvases().contains(&id),
            })
        };
        Some([self.blocks.iter().position(uses)?, self.blocks.iter().rposition(uses)?])
    }

    /// The graph whose output is stored in a canvas, and that output's type.
    pub fn port_of(&self, id: CanvasId) -> Option<(GraphId, DType)> {
        self.window_phases().find_map(|(w, _)| {
            let (name, _) = w.sinks.iter().find(|(_, s)| s.canvas() == Some(id))?;
            let graph = self.graphs.get(w.graph.0)?;
            let (_, value) = graph.outputs.iter().find(|(n, _)| n == name)?;
            Some((w.graph, graph.value(*value).dtype))
        })
    }

    /// Bytes (f32) of the transient canvases of one residency that exist during a block.
    pub fn transient_bytes(&self, block: usize, residency: Residency) -> u64 {
        let alive = self.transient.iter().filter(|id| {
            self.canvases[id.0].residency == residency
                && self.used_by(**id).is_some_and(|[first, last]| (first..=last).contains(&block))
        });
        let bytes = |id: &CanvasId| {
            if residency == Residency::Device { self.device_bytes(*id) } else { self.canvas_bytes(*id) }
        };
        alive.map(bytes).sum()
    }

    /// Bytes of all of a canvas on the device, f32: pixels have the pitch of ports there.
    pub fn device_bytes(&self, id: CanvasId) -> u64 {
        let channels = u64::from(self.canvases[id.0].channels.max(1));
        self.canvas_bytes(id) / channels * crate::extent::pitch(channels)
    }

    /// Rows of a band: the tallest window that touches the canvas.
    pub fn band_rows(&self, canvas: CanvasId) -> u32 {
        let mut rows = 1;
        for (phase, _) in self.window_phases() {
            let size = self.grids.get(phase.grid.0).map_or(0, |g| g.rows.size);
            let crops = phase.sources.iter().filter_map(|(_, s)| match s {
                Source::Crop { canvas: c, ratio, .. } if *c == canvas => ratio.of(size).ok(),
                _ => None,
            });
            let blends = phase.sinks.iter().filter_map(|(_, s)| match s {
                Sink::Blend { canvas: c, ratio, .. } if *c == canvas => ratio.of(size).ok(),
                _ => None,
            });
            rows = crops.chain(blends).fold(rows, u32::max);
        }
        rows
    }

    /// Key of the noise of a step.
    pub fn noise_key(&self, stage: u16, purpose: u16, step: u32) -> noise::Key {
        noise::Key { seed: self.seed, stage, purpose, step }
    }
}
