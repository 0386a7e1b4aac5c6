//! Checks the phases over windows of a program: what each input reads and each output writes exists and has its shape.

use super::phase::{Block, Contexts, GridAxis, Nesting, Sink, Source, WindowPhase};
use super::program::{CanvasId, Program, Residency, TableId, get, wrong};
use crate::error::Result;
use crate::graph::{Lifetime, Shape};

impl Program {
    /// Checks a phase of `block`.
    pub(super) fn check_windows(&self, w: &WindowPhase, block: &Block) -> Result<()> {
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
