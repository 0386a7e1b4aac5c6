//! Phases of a program: which graph runs over which windows, where its operands come from and where its
//! results go; what is done to whole canvases; and how phases repeat.

use super::state::{Affine, CanvasId, GraphId, GridId, Ratio, SavedId, StatisticId, TableId};
use super::superpixels::Superpixels;
use crate::tile::Ramp;

/// Where a graph input's values come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// The same values always; as many as the input's rows or one item needs.
    Constant(Vec<f32>),
    /// A table: all its rows for inputs over steps, contexts or the job; the window's own row for inputs
    /// that differ by window.
    Table(TableId),
    /// `gain * canvas + shift`, cut at the window, mirrored beyond the canvas.
    Crop {
        /// The canvas.
        canvas: CanvasId,
        /// Its pixels per grid pixel.
        ratio: Ratio,
        /// Factor.
        gain: f32,
        /// Constant.
        shift: f32,
    },
    /// `gain * canvas + shift`, cut where the lists say: a canvas whose pixels are no whole number of grid pixels. As
    /// large as the input, and wholly on the canvas.
    CropAt {
        /// The canvas: one that is kept in host memory.
        canvas: CanvasId,
        /// First row of the crop for each row of windows.
        rows: Vec<u32>,
        /// First column of the crop for each column of windows.
        cols: Vec<u32>,
        /// Factor.
        gain: f32,
        /// Constant.
        shift: f32,
    },
    /// A row of a table for each row, or each column, of windows.
    Along {
        /// The table.
        table: TableId,
        /// Which of the two.
        axis: GridAxis,
    },
    /// Planes that depend on the row, or on the column, alone, in the order of the tables. Each row (column) of windows
    /// has a row of the table: for each of its planes a value for each row (column) of pixels.
    Planes(Vec<(GridAxis, TableId)>),
    /// What an earlier phase or step saved for this window, then `affine`; `initial` stands in at step 0.
    Saved {
        /// The value.
        saved: SavedId,
        /// Applied on the way.
        affine: Option<Affine>,
        /// Used at step 0.
        initial: Option<Box<Source>>,
    },
    /// What every window saved, in window order: one long table for an input over contexts or the job.
    Gather(SavedId),
    /// `gain * picture + shift` of the superpixel picture at the grid's size: every region in its colour, mirrored beyond
    /// the edges.
    Superpixels {
        /// Its regions.
        of: Superpixels,
        /// Factor.
        gain: f32,
        /// Constant.
        shift: f32,
    },
    /// Factors that follow from statistics, `a` of all channels, then `b`: for inputs over the job, settled at
    /// the start of each pass.
    Factors(Affine),
    /// Standard normals times `gain` at the pixel's own position in the picture, the same in every window.
    Noise {
        /// Stage of a cascade.
        stage: u16,
        /// See `noise::Key`.
        purpose: u16,
        /// Factor.
        gain: f32,
    },
}

/// One of the two axes of a grid of windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GridAxis {
    /// Rows of windows.
    Rows,
    /// Columns of windows.
    Columns,
}

/// Where a graph output goes.
#[derive(Debug, Clone, PartialEq)]
pub enum Sink {
    /// Weighted into a canvas: `sum over branches of gains[branch] * value`, then the blend weights.
    Blend {
        /// The canvas.
        canvas: CanvasId,
        /// Its pixels per grid pixel.
        ratio: Ratio,
        /// Weights in the overlaps.
        ramp: Ramp,
        /// Grid pixels at inner edges that do not count.
        halo: u32,
        /// Factor per branch.
        gains: Vec<f32>,
        /// Only at the block's last step.
        last_step_only: bool,
    },
    /// Kept for the window, branches combined by `gains`.
    Save {
        /// The value.
        saved: SavedId,
        /// Factor per branch.
        gains: Vec<f32>,
    },
    /// The window's cell of a canvas, as it is: cells divide the picture without overlap, so nothing is blended.
    /// Only in chained blocks.
    Store {
        /// The canvas. What of a cell lies beyond it is left out.
        canvas: CanvasId,
        /// Its pixels per grid pixel.
        ratio: Ratio,
    },
    /// The output holds moments (`Op::ChannelMoments`) of the window's cell, which are merged block by block in
    /// window order. Only in chained blocks, whose launches tell the device what belongs to a cell.
    Partials {
        /// Result.
        statistic: StatisticId,
    },
    /// Moments per channel over the window's cell (cells divide the picture without overlap), merged in
    /// window order. The first branch counts.
    Moments {
        /// Result.
        statistic: StatisticId,
        /// The output's pixels per grid pixel.
        ratio: Ratio,
    },
}

/// Which row of the tables over contexts an item reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contexts {
    /// Row = branch.
    Branch,
    /// A prompt per window.
    Window {
        /// Row = `rows[window] * branches + branch`.
        rows: Vec<u32>,
        /// Tokens of each row of the tables that count, the first ones, 0 for all of them: contexts of different
        /// lengths share one table, padded with zeros. Empty: all tokens of all rows.
        tokens: Vec<u32>,
    },
}

/// One graph over a window list.
#[derive(Debug, Clone, PartialEq)]
pub struct WindowPhase {
    /// Name, for progress and messages.
    pub name: String,
    /// The graph; its batch is the launch's.
    pub graph: GraphId,
    /// The windows.
    pub grid: GridId,
    /// Guidance branches: items per window.
    pub branches: u32,
    /// Context rows.
    pub contexts: Contexts,
    /// One source per graph input, by name.
    pub sources: Vec<(String, Source)>,
    /// Sinks of graph outputs, by name; an output may have several.
    pub sinks: Vec<(String, Sink)>,
}

impl WindowPhase {
    /// Canvases it reads and writes.
    pub fn canvases(&self) -> impl Iterator<Item = CanvasId> + '_ {
        let beside = self.sources.iter().flat_map(|(_, s)| match s {
            Source::Superpixels { of, .. } => [Some(of.picture), Some(of.colours)],
            _ => [None, None],
        });
        let read = self.sources.iter().filter_map(|(_, s)| s.canvas());
        read.chain(beside.flatten()).chain(self.sinks.iter().filter_map(|(_, s)| s.canvas()))
    }
}

impl Source {
    /// The canvas it is cut from; of superpixels that of their probabilities.
    pub fn canvas(&self) -> Option<CanvasId> {
        match self {
            Source::Crop { canvas, .. } | Source::CropAt { canvas, .. } => Some(*canvas),
            Source::Superpixels { of, .. } => Some(of.probabilities),
            Source::Saved { initial, .. } => initial.as_ref().and_then(|s| s.canvas()),
            Source::Constant(_)
            | Source::Table(_)
            | Source::Along { .. }
            | Source::Planes(_)
            | Source::Gather(_)
            | Source::Factors(_)
            | Source::Noise { .. } => None,
        }
    }
}

impl Sink {
    /// The canvas it writes.
    pub fn canvas(&self) -> Option<CanvasId> {
        match self {
            Sink::Blend { canvas, .. } | Sink::Store { canvas, .. } => Some(*canvas),
            Sink::Save { .. } | Sink::Moments { .. } | Sink::Partials { .. } => None,
        }
    }
}

/// A coefficient of a canvas operation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Coefficient {
    /// Fixed.
    Value(f32),
    /// Column of the table's row of the current step.
    Step(TableId, usize),
}

/// Work on whole canvases, done on the host.
#[derive(Debug, Clone, PartialEq)]
pub enum CanvasOp {
    /// `to = clamp(sum of coefficient * canvas + coefficient * noise + constant)`, pixel by pixel. `to` may be
    /// one of the terms.
    Combine {
        /// Written.
        to: CanvasId,
        /// Read.
        terms: Vec<(CanvasId, Coefficient)>,
        /// Standard normals, with their stage and purpose.
        noise: Option<(u16, u16, Coefficient)>,
        /// Added.
        constant: f32,
        /// Bounds applied last.
        clamp: Option<[f32; 2]>,
    },
    /// Bicubic (a = -0.5, antialiased when shrinking, edges clamped).
    Resize {
        /// Read.
        from: CanvasId,
        /// Written.
        to: CanvasId,
    },
    /// A mosaic of `[rows, columns]` blocks of equal size that fill `to`, cut from `from` at even distances from one
    /// edge to the other: a sample of it.
    Sample {
        /// Read; in host memory or a file.
        from: CanvasId,
        /// Written; its sides are multiples of the numbers of blocks. Where it is larger, `from` is mirrored.
        to: CanvasId,
        /// Blocks down and across.
        blocks: [u32; 2],
    },
    /// Bicubic as [`CanvasOp::Resize`], into the upper left `size` pixels of `to`; the rest of it becomes `fill`.
    Place {
        /// Read.
        from: CanvasId,
        /// Written.
        to: CanvasId,
        /// Rows and columns.
        size: [u32; 2],
        /// A value per channel.
        fill: Vec<f32>,
    },
    /// Every pixel's values to probabilities: `exp(v) / sum of exp(v)` over the channels.
    Softmax {
        /// Read and written.
        canvas: CanvasId,
    },
    /// A canvas of one channel to 0 to 1, `(v - least) / (largest - least + 1e-6)`, into each channel of `to`.
    Span {
        /// Read.
        from: CanvasId,
        /// Written.
        to: CanvasId,
    },
    /// Mean colours of superpixels into their canvas of colours.
    RegionMeans(Superpixels),
    /// The superpixel picture, every region in its colour, at the size of `to`.
    Paint {
        /// Read.
        of: Superpixels,
        /// Written.
        to: CanvasId,
    },
    /// Moments of a canvas.
    Moments {
        /// Read.
        from: CanvasId,
        /// Result.
        to: StatisticId,
    },
    /// Per-channel factors from statistics.
    Affine {
        /// Read.
        from: CanvasId,
        /// The factors.
        affine: Affine,
        /// Written; may be `from`.
        to: CanvasId,
    },
}

impl CanvasOp {
    /// Canvases it reads and writes.
    pub fn canvases(&self) -> Vec<CanvasId> {
        match self {
            CanvasOp::Combine { to, terms, .. } => terms.iter().map(|t| t.0).chain([*to]).collect(),
            CanvasOp::Resize { from, to } | CanvasOp::Sample { from, to, .. } | CanvasOp::Affine { from, to, .. } => {
                vec![*from, *to]
            }
            CanvasOp::Place { from, to, .. } | CanvasOp::Span { from, to } => vec![*from, *to],
            CanvasOp::Softmax { canvas } => vec![*canvas],
            CanvasOp::RegionMeans(of) => of.canvases().to_vec(),
            CanvasOp::Paint { of, to } => of.canvases().into_iter().chain([*to]).collect(),
            CanvasOp::Moments { from, .. } => vec![*from],
        }
    }
}

/// One phase.
#[derive(Debug, Clone, PartialEq)]
pub enum Phase {
    /// A graph over windows.
    Windows(WindowPhase),
    /// Whole canvases.
    Canvas(CanvasOp),
}

impl Phase {
    /// Whether it reads or writes a saved value.
    pub fn touches(&self, saved: SavedId) -> bool {
        fn reads(source: &Source, id: SavedId) -> bool {
            match source {
                Source::Saved { saved, initial, .. } => *saved == id || initial.as_ref().is_some_and(|s| reads(s, id)),
                Source::Gather(saved) => *saved == id,
                Source::Constant(_)
                | Source::Table(_)
                | Source::Crop { .. }
                | Source::CropAt { .. }
                | Source::Along { .. }
                | Source::Planes(_)
                | Source::Superpixels { .. }
                | Source::Factors(_)
                | Source::Noise { .. } => false,
            }
        }
        match self {
            Phase::Windows(w) => {
                let writes = |s: &Sink| matches!(s, Sink::Save { saved: s, .. } if *s == saved);
                w.sources.iter().any(|(_, s)| reads(s, saved)) || w.sinks.iter().any(|(_, s)| writes(s))
            }
            Phase::Canvas(_) => false,
        }
    }
}

/// Which loop is outside when a block repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nesting {
    /// Every phase over all windows, then the next step.
    StepOutside,
    /// All steps of one batch of windows, then the next batch: window phases of one grid only.
    WindowOutside,
    /// As [`Nesting::WindowOutside`], but the first `once` phases run before the first step only. What these windows
    /// save is given up with them: no other block reads it.
    Prepared {
        /// Number of phases.
        once: u32,
    },
    /// Window phases joined by bands: rows of windows of a later phase pull the rows they need through the
    /// phases before, in one pass, see [`super::chain`]. One step; no canvas operations.
    Chained,
}

impl Nesting {
    /// Whether all steps of some windows are done before the next windows are begun.
    pub fn is_window_outside(self) -> bool {
        match self {
            Nesting::WindowOutside | Nesting::Prepared { .. } => true,
            Nesting::StepOutside | Nesting::Chained => false,
        }
    }
}

impl Block {
    /// How often phase `index` runs over a window.
    pub fn repeats(&self, index: usize) -> u32 {
        match self.nesting {
            Nesting::Prepared { once } if index < once as usize => 1,
            Nesting::Prepared { .. } | Nesting::StepOutside | Nesting::WindowOutside | Nesting::Chained => self.steps,
        }
    }

    /// The values that its windows save and give up at once.
    pub fn passing(&self) -> impl Iterator<Item = SavedId> + '_ {
        let phases = if matches!(self.nesting, Nesting::Prepared { .. }) { self.phases.as_slice() } else { &[] };
        phases.iter().flat_map(|p| {
            let sinks = match p {
                Phase::Windows(w) => w.sinks.as_slice(),
                Phase::Canvas(_) => &[],
            };
            sinks.iter().filter_map(|(_, s)| match s {
                Sink::Save { saved, .. } => Some(*saved),
                Sink::Blend { .. } | Sink::Store { .. } | Sink::Partials { .. } | Sink::Moments { .. } => None,
            })
        })
    }
}

/// Phases in order, repeated over steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// Repetitions; `Item::step_row` counts them.
    pub steps: u32,
    /// Nesting of the loops.
    pub nesting: Nesting,
    /// The phases.
    pub phases: Vec<Phase>,
}
