//! THE program model: what a system returns instead of a loop.
//!
//! A [`Program`] holds canvases, tables, saved values, statistics, graphs and window lists, and ordered
//! blocks of phases over them. Everything is concrete for one target, tile shape and batch, so a program can
//! be printed, checked ([`Program::check`]), costed and thrown away. Canvases, saved values and statistics
//! are always f32.

use super::phase::{Block, Phase, Sink, Source, WindowPhase};
pub use super::state::{
    Affine, Canvas, CanvasId, Extent, GraphId, GridId, Ratio, Residency, Saved, SavedId, Statistic, StatisticId, Table,
    TableId,
};
pub(super) use super::state::{get, wrong};
use crate::error::Result;
use crate::graph::{Graph, Lifetime};
use crate::noise;
use crate::tile::Grid;

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
            b.phases.iter().filter_map(move |p| match p {
                Phase::Windows(w) => Some((w, b.steps)),
                Phase::Canvas(_) => None,
            })
        })
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
        for (i, canvas) in self.canvases.iter().enumerate() {
            let [h, w] = self.extent(CanvasId(i));
            let rows = match canvas.residency {
                Residency::Whole => u64::from(h),
                Residency::Band => u64::from(h.min(self.band_rows(CanvasId(i)))),
            };
            bytes = bytes.saturating_add(rows * u64::from(w) * u64::from(canvas.channels) * 4);
        }
        for saved in &self.saved {
            let windows = self.grids.get(saved.grid.0).map_or(0, Grid::count) as u64;
            bytes = bytes.saturating_add(windows * saved.shape.pixels() * u64::from(saved.shape.c) * 4);
        }
        bytes
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
