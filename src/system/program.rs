//! THE program model: what a system returns instead of a loop.
//!
//! A [`Program`] holds canvases, tables, saved values, statistics, graphs and window lists, and ordered
//! blocks of phases over them. Everything is concrete for one target, tile shape and batch, so a program can
//! be printed, checked ([`Program::check`]), costed and thrown away. Canvases, saved values and statistics
//! are always f32.

use crate::error::{Error, Kind, Result};
use crate::extent;
use crate::graph::{Graph, Lifetime, Op, Shape};
use crate::noise;
use crate::tile::{Grid, Ramp};

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
    /// Row = `rows[window] * branches + branch`: a prompt per window.
    Window(Vec<u32>),
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

/// One phase.
#[derive(Debug, Clone, PartialEq)]
pub enum Phase {
    /// A graph over windows.
    Windows(WindowPhase),
    /// Whole canvases.
    Canvas(CanvasOp),
}

/// Which loop is outside when a block repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nesting {
    /// Every phase over all windows, then the next step.
    StepOutside,
    /// All steps of one batch of windows, then the next batch: window phases of one grid only.
    WindowOutside,
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

fn wrong(message: impl Into<String>) -> Error {
    Error::new(Kind::Internal, "system", message)
}

fn get<'a, T>(list: &'a [T], index: usize, what: &str) -> Result<&'a T> {
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
            Extent::OfTarget { num, den } => self
                .target
                .map(|side| ((u64::from(side) * u64::from(num)).div_ceil(u64::from(den.max(1)))) as u32),
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

    /// Checks that every reference exists and every shape fits, before anything is planned or run.
    pub fn check(&self) -> Result<()> {
        for block in &self.blocks {
            if block.steps == 0 {
                return Err(wrong(format!("{}: a block of no steps", self.name)));
            }
            let mut grids = Vec::new();
            for phase in &block.phases {
                match phase {
                    Phase::Windows(w) => {
                        self.check_windows(w, block).map_err(|e| e.at(&w.name))?;
                        grids.push(w.grid);
                    }
                    Phase::Canvas(op) => {
                        if block.nesting == Nesting::WindowOutside {
                            return Err(wrong("a canvas operation needs all windows, its block has windows outside"));
                        }
                        self.check_canvas_op(op)?;
                    }
                }
            }
            if block.nesting == Nesting::WindowOutside && grids.windows(2).any(|g| g[0] != g[1]) {
                return Err(wrong("phases of different grids cannot share one loop over windows"));
            }
        }
        self.check_bands()
    }

    fn check_bands(&self) -> Result<()> {
        for (i, canvas) in self.canvases.iter().enumerate() {
            if canvas.residency == Residency::Whole {
                continue;
            }
            let uses = |w: &WindowPhase| {
                let reads = w.sources.iter().any(|(_, s)| matches!(s, Source::Crop { canvas, .. } if canvas.0 == i));
                let writes = w.sinks.iter().any(|(_, s)| matches!(s, Sink::Blend { canvas, .. } if canvas.0 == i));
                reads || writes
            };
            let users: Vec<_> = self.window_phases().filter(|(w, _)| uses(w)).collect();
            let passes: u64 = users.iter().map(|&(_, steps)| u64::from(steps)).sum();
            let outside = self.blocks.iter().any(|b| {
                b.nesting == Nesting::WindowOutside
                    && b.phases.iter().any(|p| matches!(p, Phase::Windows(w) if uses(w)))
            });
            if users.len() > 1 || (passes > 1 && !outside) {
                return Err(wrong(format!("canvas `{}` is a band but {passes} passes use it", canvas.name)));
            }
        }
        Ok(())
    }

    fn check_canvas_op(&self, op: &CanvasOp) -> Result<()> {
        let whole = |id: &CanvasId| -> Result<&Canvas> {
            let canvas = get(&self.canvases, id.0, "canvas")?;
            if canvas.residency == Residency::Whole {
                return Ok(canvas);
            }
            Err(wrong(format!("canvas `{}` is a band, an operation on all of it is impossible", canvas.name)))
        };
        let same = |a: &CanvasId, b: &CanvasId| -> Result<()> {
            if whole(a)?.channels == whole(b)?.channels && self.extent(*a) == self.extent(*b) {
                return Ok(());
            }
            Err(wrong(format!("canvases `{}` and `{}` differ in size", whole(a)?.name, whole(b)?.name)))
        };
        match op {
            CanvasOp::Combine { to, terms, noise, .. } => {
                whole(to)?;
                let noise = noise.iter().map(|n| n.2);
                for coefficient in terms.iter().map(|t| t.1).chain(noise) {
                    if let Coefficient::Step(table, column) = coefficient
                        && get(&self.tables, table.0, "table")?.width <= column
                    {
                        return Err(wrong(format!("table {} has no column {column}", table.0)));
                    }
                }
                terms.iter().try_for_each(|(from, _)| same(from, to))
            }
            CanvasOp::Resize { from, to } => {
                if whole(from)?.channels != whole(to)?.channels {
                    return Err(wrong("a resize keeps the channels"));
                }
                Ok(())
            }
            CanvasOp::Moments { from, to } => {
                if whole(from)?.channels != get(&self.statistics, to.0, "statistic")?.channels {
                    return Err(wrong("moments have the canvas's channels"));
                }
                Ok(())
            }
            CanvasOp::Affine { from, affine, to } => {
                same(from, to)?;
                self.check_affine(affine, whole(from)?.channels)
            }
        }
    }

    fn check_affine(&self, affine: &Affine, channels: u32) -> Result<()> {
        let of = |id: &StatisticId| -> Result<()> {
            if get(&self.statistics, id.0, "statistic")?.channels == channels {
                return Ok(());
            }
            Err(wrong(format!("statistic {} does not have {channels} channels", id.0)))
        };
        match affine {
            Affine::GroupNorm { of: s, groups, weight, bias, .. } => {
                of(s)?;
                let c = channels as usize;
                if *groups == 0 || !channels.is_multiple_of(*groups) || weight.len() != c || bias.len() != c {
                    return Err(wrong(format!("{groups} groups or the affine vectors do not fit {channels} channels")));
                }
                Ok(())
            }
            Affine::Match { of: s, like, .. } => of(s).and_then(|()| of(like)),
        }
    }

    fn check_windows(&self, w: &WindowPhase, block: &Block) -> Result<()> {
        let graph = get(&self.graphs, w.graph.0, "graph")?;
        let grid = get(&self.grids, w.grid.0, "grid")?;
        self.batch(w)?;
        if w.branches == 0 {
            return Err(wrong("no branch at all"));
        }
        if let Contexts::Window(rows) = &w.contexts
            && rows.len() != grid.count()
        {
            return Err(wrong(format!("{} context rows for {} windows", rows.len(), grid.count())));
        }
        let inputs: Vec<_> = graph.nodes.iter().filter(|n| matches!(n.op, Op::Input(_))).collect();
        for node in &inputs {
            let value = graph.value(node.output);
            let mut found = w.sources.iter().filter(|(name, _)| *name == value.name);
            let (Some((_, source)), None) = (found.next(), found.next()) else {
                return Err(wrong(format!("input `{}` needs exactly one source", value.name)));
            };
            self.check_source(source, value.shape, value.lifetime, w, block)
                .map_err(|e| e.at(format!("input `{}`", value.name)))?;
        }
        if let Some((name, _)) =
            w.sources.iter().find(|(name, _)| !inputs.iter().any(|n| graph.value(n.output).name == *name))
        {
            return Err(wrong(format!("{} has no input `{name}`", graph.name)));
        }
        for (name, sink) in &w.sinks {
            let Some((_, id)) = graph.outputs.iter().find(|(n, _)| n == name) else {
                return Err(wrong(format!("{} has no output `{name}`", graph.name)));
            };
            self.check_sink(sink, graph.value(*id).shape, w).map_err(|e| e.at(format!("output `{name}`")))?;
        }
        let reads = |id: CanvasId| {
            w.sources.iter().any(|(_, s)| matches!(s, Source::Crop { canvas, .. } if *canvas == id))
        };
        for (_, sink) in &w.sinks {
            if let Sink::Blend { canvas, .. } = sink
                && reads(*canvas)
            {
                return Err(wrong(format!("it reads and writes canvas `{}`", self.canvases[canvas.0].name)));
            }
        }
        Ok(())
    }

    fn check_source(&self, s: &Source, port: Shape, life: Lifetime, w: &WindowPhase, block: &Block) -> Result<()> {
        let item = port.pixels() as usize * port.c as usize;
        let rows = if life == Lifetime::Window { 1 } else { port.n as usize };
        let per_window = |what: &str| {
            if life == Lifetime::Window { Ok(()) } else { Err(wrong(format!("{what} feeds window inputs only"))) }
        };
        let size = |have: usize| {
            if have == item * rows { Ok(()) } else { Err(wrong(format!("{have} values for {port} ({life:?})"))) }
        };
        match s {
            Source::Constant(values) => size(values.len()),
            Source::Table(table) => {
                let table = get(&self.tables, table.0, "table")?;
                match life {
                    Lifetime::Window => {
                        let windows = self.grids[w.grid.0].count();
                        if table.width == item && table.rows() == windows {
                            return Ok(());
                        }
                        Err(wrong(format!("table `{}` is not {windows} rows of {item}", table.name)))
                    }
                    Lifetime::Step if table.rows() != block.steps as usize => {
                        Err(wrong(format!("table `{}` has {} rows, not one per step", table.name, table.rows())))
                    }
                    Lifetime::Weight | Lifetime::Job | Lifetime::Step | Lifetime::Context => size(table.values.len()),
                }
            }
            Source::Crop { canvas, ratio, .. } => {
                per_window("a crop")?;
                let (canvas, grid) = (get(&self.canvases, canvas.0, "canvas")?, &self.grids[w.grid.0]);
                let want = [ratio.of(grid.rows.size)?, ratio.of(grid.cols.size)?];
                for origin in grid.rows.origins.iter().chain(&grid.cols.origins) {
                    ratio.of(*origin)?;
                }
                if want != [port.h, port.w] || canvas.channels != port.c {
                    return Err(wrong(format!("canvas `{}` gives {want:?}x{}, not {port}", canvas.name, canvas.channels)));
                }
                Ok(())
            }
            Source::Saved { saved, affine, initial } => {
                per_window("a saved value")?;
                let saved = get(&self.saved, saved.0, "saved value")?;
                if saved.grid != w.grid || Shape { n: 1, ..port } != saved.shape {
                    return Err(wrong(format!("`{}` is {} of grid {}", saved.name, saved.shape, saved.grid.0)));
                }
                if let Some(affine) = affine {
                    self.check_affine(affine, port.c)?;
                }
                initial.as_ref().map_or(Ok(()), |s| self.check_source(s, port, life, w, block))
            }
            Source::Gather(saved) => {
                if life == Lifetime::Window {
                    return Err(wrong("what all windows saved is not an input per window"));
                }
                let saved = get(&self.saved, saved.0, "saved value")?;
                size(self.grids[saved.grid.0].count() * saved.shape.pixels() as usize * saved.shape.c as usize)
            }
            Source::Noise { .. } => per_window("noise"),
        }
    }

    fn check_sink(&self, sink: &Sink, port: Shape, w: &WindowPhase) -> Result<()> {
        let branches = |gains: &[f32]| {
            if gains.len() == w.branches as usize {
                return Ok(());
            }
            Err(wrong(format!("{} gains for {} branches", gains.len(), w.branches)))
        };
        let grid = &self.grids[w.grid.0];
        match sink {
            Sink::Blend { canvas, ratio, gains, .. } => {
                branches(gains)?;
                let c = get(&self.canvases, canvas.0, "canvas")?;
                let want = [ratio.of(grid.rows.size)?, ratio.of(grid.cols.size)?];
                let whole = [ratio.of(grid.rows.extent)?, ratio.of(grid.cols.extent)?];
                if want != [port.h, port.w] || c.channels != port.c || whole != self.extent(*canvas) {
                    return Err(wrong(format!("{port} does not cover canvas `{}` by windows", c.name)));
                }
                Ok(())
            }
            Sink::Save { saved, gains } => {
                branches(gains)?;
                let saved = get(&self.saved, saved.0, "saved value")?;
                if saved.grid != w.grid || Shape { n: 1, ..port } != saved.shape {
                    return Err(wrong(format!("`{}` is {} of grid {}", saved.name, saved.shape, saved.grid.0)));
                }
                Ok(())
            }
            Sink::Moments { statistic, ratio } => {
                let want = [ratio.of(grid.rows.size)?, ratio.of(grid.cols.size)?];
                if want != [port.h, port.w] || get(&self.statistics, statistic.0, "statistic")?.channels != port.c {
                    return Err(wrong(format!("statistic {} does not count {port} at {ratio:?}", statistic.0)));
                }
                Ok(())
            }
        }
    }

    /// Key of the noise of a step.
    pub fn noise_key(&self, stage: u16, purpose: u16, step: u32) -> noise::Key {
        noise::Key { seed: self.seed, stage, purpose, step }
    }
}
