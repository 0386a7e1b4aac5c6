//! Checks a program before anything is planned or run: every reference exists, every shape fits, bands are
//! used by one pass.

use super::phase::{Block, CanvasOp, Coefficient, Nesting, Phase, Sink, Source, WindowPhase};
use super::program::{Affine, Canvas, CanvasId, Program, Residency, StatisticId, get, wrong};
use super::superpixels::Superpixels;
use crate::error::Result;

impl Program {
    /// Checks that every reference exists and every shape fits, before anything is planned or run.
    pub fn check(&self) -> Result<()> {
        // Plans and weights are remembered by the graph's name.
        for (i, graph) in self.graphs.iter().enumerate() {
            if self.graphs[..i].iter().any(|g| g.name == graph.name && g != graph) {
                return Err(wrong(format!("{}: two graphs are called `{}`", self.name, graph.name)));
            }
        }
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
                        if block.nesting != Nesting::StepOutside {
                            return Err(wrong("a canvas operation needs all windows, its block has windows outside"));
                        }
                        self.check_canvas_op(op)?;
                    }
                }
            }
            if block.nesting == Nesting::Chained {
                if block.steps != 1 {
                    return Err(wrong("a chained block has one step"));
                }
                super::chain::schedule(self, block, 0)?;
            }
            for saved in block.passing() {
                let inside = |p: &Phase| block.phases.iter().any(|q| std::ptr::eq(p, q));
                let elsewhere = |p: &&Phase| !inside(p) && p.touches(saved);
                if self.blocks.iter().flat_map(|b| &b.phases).any(|p| elsewhere(&p)) {
                    let name = &get(&self.saved, saved.0, "saved value")?.name;
                    return Err(wrong(format!("`{name}` is given up with its windows, another block uses it")));
                }
            }
            if block.nesting.is_window_outside() && grids.windows(2).any(|g| g[0] != g[1]) {
                return Err(wrong("phases of different grids cannot share one loop over windows"));
            }
        }
        self.check_bands()
    }

    fn check_bands(&self) -> Result<()> {
        for (i, canvas) in self.canvases.iter().enumerate() {
            if canvas.residency.is_kept() {
                let chained = self.blocks.iter().filter(|b| b.nesting != Nesting::Chained);
                let mut others = chained.flat_map(|b| &b.phases);
                let plain = others.any(|p| match p {
                    Phase::Windows(w) => w.canvases().any(|c| c.0 == i),
                    Phase::Canvas(CanvasOp::Sample { to, .. }) => to.0 == i,
                    Phase::Canvas(op) => op.canvases().contains(&CanvasId(i)),
                });
                if canvas.residency != Residency::Whole && plain {
                    return Err(wrong(format!("canvas `{}` serves chained blocks only", canvas.name)));
                }
                continue;
            }
            let chains = |b: &&Block| b.nesting == Nesting::Chained;
            let inside =
                |b: &&Block| b.phases.iter().any(|p| matches!(p, Phase::Windows(w) if w.canvases().any(|c| c.0 == i)));
            if self.blocks.iter().filter(inside).count() == 1 && self.blocks.iter().filter(inside).any(|b| chains(&b)) {
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
                b.nesting.is_window_outside() && b.phases.iter().any(|p| matches!(p, Phase::Windows(w) if uses(w)))
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
            CanvasOp::Place { from, to, size, fill } => {
                let (channels, room) = (whole(to)?.channels, self.extent(*to));
                if whole(from)?.channels != channels || fill.len() != channels as usize {
                    return Err(wrong("a canvas is placed with its channels, and a fill for each"));
                }
                if size[0] == 0 || size[1] == 0 || size[0] > room[0] || size[1] > room[1] {
                    return Err(wrong(format!("{size:?} pixels are placed into {room:?}")));
                }
                Ok(())
            }
            CanvasOp::Softmax { canvas } => whole(canvas).map(drop),
            CanvasOp::Span { from, to } => {
                if whole(from)?.channels != 1 || self.extent(*from) != self.extent(*to) || whole(to)?.channels == 0 {
                    return Err(wrong("a span is of one channel, into a canvas of its size"));
                }
                Ok(())
            }
            CanvasOp::RegionMeans(of) => self.check_superpixels(of),
            CanvasOp::Paint { of, to } => {
                self.check_superpixels(of)?;
                if whole(to)?.channels == whole(&of.colours)?.channels {
                    return Ok(());
                }
                Err(wrong("a superpixel picture has the channels of its colours"))
            }
            CanvasOp::Sample { from, to, blocks } => {
                let small = self.extent(*to);
                let fits = |i: usize| blocks[i] > 0 && small[i].is_multiple_of(blocks[i]);
                if whole(to)?.channels != get(&self.canvases, from.0, "canvas")?.channels || !fits(0) || !fits(1) {
                    return Err(wrong(format!("{blocks:?} blocks do not fill {small:?}")));
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

    pub(super) fn check_superpixels(&self, of: &Superpixels) -> Result<()> {
        let canvases = of.canvases().map(|id| get(&self.canvases, id.0, "canvas"));
        let [probabilities, picture, colours] = canvases;
        let (probabilities, picture, colours) = (probabilities?, picture?, colours?);
        if [probabilities, picture, colours].iter().any(|c| c.residency != Residency::Whole) {
            return Err(wrong("superpixels need whole canvases"));
        }
        let cells = self.extent(of.picture).map(|side| side.div_ceil(of.cell.max(1)));
        if of.cell == 0 || probabilities.channels != 9 || picture.channels != colours.channels {
            return Err(wrong("superpixels need cells, nine probabilities, and a colour for each channel"));
        }
        if self.extent(of.colours) != cells {
            return Err(wrong(format!("canvas `{}` is not {cells:?} cells", colours.name)));
        }
        Ok(())
    }

    pub(super) fn check_affine(&self, affine: &Affine, channels: u32) -> Result<()> {
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
}
