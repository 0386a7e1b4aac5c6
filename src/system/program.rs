//! THE program model: what a system returns instead of a loop.
//!
//! A [`Program`] holds canvases, tables, saved values, statistics, graphs and window lists, and ordered
//! blocks of phases over them. Everything is concrete for one target, tile shape and batch, so a program can
//! be printed, checked ([`Program::check`]), costed and thrown away. Canvases, saved values and statistics
//! are always f32.

use super::phase::{Block, Phase, Sink, Source, WindowPhase};
use crate::error::{Error, Kind, Result};
use crate::extent;
use crate::graph::{Graph, Lifetime, Shape};
use crate::noise;
use crate::tile::Grid;

/// Declares index newtypes into the program's lists.
macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub usize);
    )*};
}

ids! {
    /// Index in [`Program::canvases`].
    CanvasId,
    /// Index in [`Program::tables`].
    TableId,
    /// Index in [`Program::saved`].
    SavedId,
    /// Index in [`Program::statistics`].
    StatisticId,
    /// Index in [`Program::graphs`].
    GraphId,
    /// Index in [`Program::grids`].
    GridId,
}

/// How a canvas's size follows from the program's target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// The target's sides times `num / den`, rounded up.
    OfTarget {
        /// Factor.
        num: u32,
        /// Divisor.
        den: u32,
    },
    /// Exactly these rows and columns.
    Fixed([u32; 2]),
}

/// How much of a canvas exists at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residency {
    /// All of it, in host memory.
    Whole,
    /// Only the rows that the current row of windows needs. One phase reads it (an input) or blends into
    /// it (an output).
    Band,
}

/// A picture-like state.
#[derive(Debug, Clone, PartialEq)]
pub struct Canvas {
    /// Name, by which a job connects rows.
    pub name: String,
    /// Size rule.
    pub extent: Extent,
    /// Values per pixel.
    pub channels: u32,
    /// Residency.
    pub residency: Residency,
}

/// Constants by row: coefficients per step, tokens per context, codes per window.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// Name, for messages.
    pub name: String,
    /// Values of one row.
    pub width: usize,
    /// Rows, one after another.
    pub values: Vec<f32>,
}

impl Table {
    /// Row `i`.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.width..(i + 1) * self.width]
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.values.len() / self.width.max(1)
    }
}

/// A value kept per window between phases or steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Saved {
    /// Name, for messages.
    pub name: String,
    /// The windows it belongs to.
    pub grid: GridId,
    /// Extents of one window's value; `n` is 1.
    pub shape: Shape,
}

/// A reduction over pixels: count, mean and M2 per channel, in f64.
#[derive(Debug, Clone, PartialEq)]
pub struct Statistic {
    /// Name, for messages.
    pub name: String,
    /// Channels.
    pub channels: u32,
}

/// Per-channel `a * x + b` whose factors follow from statistics.
#[derive(Debug, Clone, PartialEq)]
pub enum Affine {
    /// Group normalisation by pooled statistics.
    GroupNorm {
        /// Moments of the values to normalise.
        of: StatisticId,
        /// Number of groups.
        groups: u32,
        /// Added to the variance.
        eps: f64,
        /// Per channel.
        weight: Vec<f32>,
        /// Per channel.
        bias: Vec<f32>,
    },
    /// Gives values of moments `of` the mean and deviation of `like` (unbiased variances, plus `eps`).
    Match {
        /// Moments of the values to change.
        of: StatisticId,
        /// Moments they get.
        like: StatisticId,
        /// Added to both variances.
        eps: f64,
    },
}

/// A position rule: canvas pixels = grid pixels times `num / den`, exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ratio {
    /// Factor.
    pub num: u32,
    /// Divisor.
    pub den: u32,
}

impl Ratio {
    /// The canvas has the grid's own pixels.
    pub const ONE: Ratio = Ratio { num: 1, den: 1 };

    /// `v` grid pixels in canvas pixels, if that is a whole number.
    pub fn of(self, v: u32) -> Result<u32> {
        let scaled = u64::from(v) * u64::from(self.num);
        if self.den == 0 || !scaled.is_multiple_of(u64::from(self.den)) {
            return Err(wrong(format!("{v} grid pixels times {}/{} are not whole pixels", self.num, self.den)));
        }
        extent::to_u32("canvas position", scaled / u64::from(self.den))
    }
}

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

pub(super) fn wrong(message: impl Into<String>) -> Error {
    Error::new(Kind::Internal, "system", message)
}

pub(super) fn get<'a, T>(list: &'a [T], index: usize, what: &str) -> Result<&'a T> {
    list.get(index).ok_or_else(|| wrong(format!("there is no {what} {index}")))
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
