//! Checks a program before anything is planned or run: every reference exists, every shape fits, bands are
//! used by one pass.

use super::phase::{Block, CanvasOp, Coefficient, Contexts, GridAxis, Nesting, Phase, Sink, Source, WindowPhase};
use super::program::{Affine, Canvas, CanvasId, Program, Residency, StatisticId, TableId, get, wrong};
use super::superpixels::Superpixels;
use crate::error::Result;
use crate::graph::{Lifetime, Shape};

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

    fn check_superpixels(&self, of: &Superpixels) -> Result<()> {
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
        let inputs: Vec<_> = graph.inputs().map(|(v, _)| graph.value(v)).collect();
        if let Contexts::Window { rows, tokens } = &w.contexts {
            if rows.len() != grid.count() {
                return Err(wrong(format!("{} context rows for {} windows", rows.len(), grid.count())));
            }
            let tables = inputs.iter().filter(|v| v.lifetime == Lifetime::Context);
            for table in tables {
                let have = u64::from(table.shape.n);
                let most = rows.iter().map(|&r| (u64::from(r) + 1) * u64::from(w.branches)).max().unwrap_or(0);
                if most > have || (!tokens.is_empty() && tokens.len() as u64 != have) {
                    let counts = tokens.len();
                    let why = format!("`{}` has {have} contexts; {most} are used, {counts} have lengths", table.name);
                    return Err(wrong(why));
                }
                if let Some(n) = tokens.iter().find(|&&n| u64::from(n) > table.shape.pixels()) {
                    return Err(wrong(format!("a context of {n} tokens in `{}`, {}", table.name, table.shape)));
                }
            }
        }
        for value in &inputs {
            let mut found = w.sources.iter().filter(|(name, _)| *name == value.name);
            let (Some((_, source)), None) = (found.next(), found.next()) else {
                return Err(wrong(format!("input `{}` needs exactly one source", value.name)));
            };
            self.check_source(source, value.shape, value.lifetime, w, block)
                .map_err(|e| e.at(format!("input `{}`", value.name)))?;
        }
        if let Some((name, _)) = w.sources.iter().find(|(name, _)| !inputs.iter().any(|v| v.name == *name)) {
            return Err(wrong(format!("{} has no input `{name}`", graph.name)));
        }
        for (name, sink) in &w.sinks {
            let Some((_, id)) = graph.outputs.iter().find(|(n, _)| n == name) else {
                return Err(wrong(format!("{} has no output `{name}`", graph.name)));
            };
            self.check_sink(sink, graph.value(*id).shape, w, block).map_err(|e| e.at(format!("output `{name}`")))?;
        }
        let reads =
            |id: CanvasId| w.sources.iter().any(|(_, s)| matches!(s, Source::Crop { canvas, .. } if *canvas == id));
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
                    return Err(wrong(format!(
                        "canvas `{}` gives {want:?}x{}, not {port}",
                        canvas.name, canvas.channels
                    )));
                }
                Ok(())
            }
            Source::CropAt { canvas, rows, cols, .. } => {
                per_window("a crop")?;
                let (id, grid) = (*canvas, &self.grids[w.grid.0]);
                let canvas = get(&self.canvases, id.0, "canvas")?;
                let extent = self.extent(id);
                let fits = |list: &[u32], count: usize, size: u32, side: u32| {
                    list.len() == count && list.iter().all(|&at| at.checked_add(size).is_some_and(|end| end <= side))
                };
                let rows = fits(rows, grid.rows.count(), port.h, extent[0]);
                let cols = fits(cols, grid.cols.count(), port.w, extent[1]);
                if !rows || !cols || canvas.channels != port.c || canvas.residency != Residency::Whole {
                    return Err(wrong(format!("canvas `{}` of {extent:?} has no crops of {port}", canvas.name)));
                }
                Ok(())
            }
            Source::Along { table, axis } => {
                per_window("a row of a table")?;
                self.along(*table, *axis, w, item)
            }
            Source::Planes(parts) => {
                per_window("planes")?;
                let mut count = 0;
                for (axis, table) in parts {
                    let side = match axis {
                        GridAxis::Rows => port.h,
                        GridAxis::Columns => port.w,
                    };
                    let planes = get(&self.tables, table.0, "table")?.width / side as usize;
                    self.along(*table, *axis, w, planes * side as usize)?;
                    count += planes;
                }
                if count == port.c as usize { Ok(()) } else { Err(wrong(format!("{count} planes for {port}"))) }
            }
            Source::Superpixels { of, .. } => {
                per_window("a superpixel picture")?;
                self.check_superpixels(of)?;
                let (grid, channels) = (&self.grids[w.grid.0], self.canvases[of.colours.0].channels);
                if [grid.rows.size, grid.cols.size] != [port.h, port.w] || channels != port.c {
                    return Err(wrong(format!(
                        "superpixels have {channels} channels at the windows' size, not {port}"
                    )));
                }
                Ok(())
            }
            Source::Saved { saved, affine, initial } => {
                per_window("a saved value")?;
                let saved = get(&self.saved, saved.0, "saved value")?;
                if saved.grid != w.grid || (Shape { n: 1, ..port }) != saved.shape {
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
            Source::Factors(affine) => {
                if life != Lifetime::Job || (port.h, port.w) != (1, 2) {
                    return Err(wrong(format!("factors are two rows of channels over the job, not {port}")));
                }
                self.check_affine(affine, port.c)
            }
            Source::Noise { .. } => per_window("noise"),
        }
    }

    /// A table has a row of `width` for each row or column of windows.
    fn along(&self, table: TableId, axis: GridAxis, w: &WindowPhase, width: usize) -> Result<()> {
        let (table, grid) = (get(&self.tables, table.0, "table")?, &self.grids[w.grid.0]);
        let count = match axis {
            GridAxis::Rows => grid.rows.count(),
            GridAxis::Columns => grid.cols.count(),
        };
        if table.width == width && table.rows() == count {
            return Ok(());
        }
        Err(wrong(format!("table `{}` is not {count} rows of {width}", table.name)))
    }

    fn check_sink(&self, sink: &Sink, port: Shape, w: &WindowPhase, block: &Block) -> Result<()> {
        let chained = || {
            if block.nesting == Nesting::Chained { Ok(()) } else { Err(wrong("only chained blocks store cells")) }
        };
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
                if saved.grid != w.grid || (Shape { n: 1, ..port }) != saved.shape {
                    return Err(wrong(format!("`{}` is {} of grid {}", saved.name, saved.shape, saved.grid.0)));
                }
                Ok(())
            }
            Sink::Store { canvas, ratio } => {
                chained()?;
                let c = get(&self.canvases, canvas.0, "canvas")?;
                let want = [ratio.of(grid.rows.size)?, ratio.of(grid.cols.size)?];
                let whole = [ratio.of(grid.rows.extent)?, ratio.of(grid.cols.extent)?];
                let have = self.extent(*canvas);
                // A canvas may end within the last grid pixel: the picture is padded to whole latents.
                let covers = |i: usize| have[i] <= whole[i] && u64::from(whole[i] - have[i]) < u64::from(ratio.num);
                if want != [port.h, port.w] || c.channels != port.c || !covers(0) || !covers(1) {
                    return Err(wrong(format!("{port} does not cover canvas `{}` by windows", c.name)));
                }
                Ok(())
            }
            Sink::Partials { statistic } => {
                chained()?;
                if port.w != 3 || get(&self.statistics, statistic.0, "statistic")?.channels != port.c {
                    return Err(wrong(format!("statistic {} does not count {port}", statistic.0)));
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
}
