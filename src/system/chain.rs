//! Chained blocks: in which order rows of windows of several phases run in one pass, and how many rows each
//! band between them must hold. Pure geometry, so that a budget can be planned from it.
//!
//! A row of windows of the last phase pulls the rows it needs through the phases before it, so no whole state
//! exists between them. Within a turn every window of the row runs, in any order.

use super::phase::{Block, Phase, Sink, Source, WindowPhase};
use super::program::{CanvasId, GridId, Program, Ratio, Residency, wrong};
use crate::error::Result;
use std::collections::BTreeMap;

/// One band of a chained pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Band {
    /// The first row that is ever written.
    pub first: u32,
    /// Rows it holds at once, at most.
    pub rows: u32,
    /// A phase of the block writes it; otherwise rows are fed.
    pub made: bool,
}

/// The order of a chained pass.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Schedule {
    /// Phase (among the block's window phases) and row of windows, in the order they run.
    pub turns: Vec<(usize, usize)>,
    /// Every band the block uses.
    pub bands: BTreeMap<CanvasId, Band>,
}

/// A phase's use of one canvas.
#[derive(Clone, Copy)]
struct Use {
    canvas: CanvasId,
    ratio: Ratio,
    blended: bool,
}

/// What a phase reads and writes by windows.
fn uses(phase: &WindowPhase) -> (Vec<Use>, Vec<Use>) {
    let reads = phase.sources.iter().filter_map(|(_, s)| match s {
        Source::Crop { canvas, ratio, .. } => Some(Use { canvas: *canvas, ratio: *ratio, blended: false }),
        _ => None,
    });
    let writes = phase.sinks.iter().filter_map(|(_, s)| match s {
        Sink::Store { canvas, ratio } => Some(Use { canvas: *canvas, ratio: *ratio, blended: false }),
        Sink::Blend { canvas, ratio, .. } => Some(Use { canvas: *canvas, ratio: *ratio, blended: true }),
        _ => None,
    });
    (reads.collect(), writes.collect())
}

struct Planner<'p> {
    program: &'p Program,
    phases: Vec<&'p WindowPhase>,
    reads: Vec<Vec<Use>>,
    writes: Vec<Vec<Use>>,
    /// Phase that writes each band.
    maker: BTreeMap<CanvasId, usize>,
    /// Next row of windows of each phase.
    next: Vec<usize>,
    turns: Vec<(usize, usize)>,
}

impl Planner<'_> {
    fn rows(&self, i: usize) -> usize {
        self.axis(self.phases[i].grid).count()
    }

    fn axis(&self, grid: GridId) -> &crate::tile::geometry::Axis {
        &self.program.grids[grid.0].rows
    }

    /// First and end row of `u` that phase `i` reads for its row `r` of windows.
    fn span(&self, i: usize, r: usize, u: Use) -> Result<[u32; 2]> {
        let axis = self.axis(self.phases[i].grid);
        let [h, _] = self.program.extent(u.canvas);
        let first = u.ratio.of(axis.origins[r])?;
        Ok([first, first.saturating_add(u.ratio.of(axis.size)?).min(h)])
    }

    /// Row up to which `u` is finished when phase `i` has run its row `r` of windows.
    fn finished(&self, i: usize, r: usize, u: Use) -> Result<u32> {
        let axis = self.axis(self.phases[i].grid);
        let [h, _] = self.program.extent(u.canvas);
        let end = match axis.origins.get(r + 1) {
            None => return Ok(h),
            Some(&next) if u.blended => next,
            Some(_) => axis.cell(r)[1],
        };
        Ok(u.ratio.of(end)?.min(h))
    }

    /// Runs row `r` of phase `i`, after what it needs of phases before it.
    fn turn(&mut self, i: usize, r: usize) -> Result<()> {
        for u in self.reads[i].clone() {
            let Some(&j) = self.maker.get(&u.canvas) else { continue };
            let Some(made) = self.writes[j].iter().copied().find(|w| w.canvas == u.canvas) else { continue };
            let [_, until] = self.span(i, r, u)?;
            while self.next[j] < self.rows(j)
                && (self.next[j] == 0 || self.finished(j, self.next[j] - 1, made)? < until)
            {
                let row = self.next[j];
                self.turn(j, row)?;
            }
        }
        self.turns.push((i, r));
        self.next[i] = r + 1;
        Ok(())
    }
}

/// The schedule of a chained block whose last phases begin at row `from` of their windows (0: the whole pass).
pub fn schedule(program: &Program, block: &Block, from: usize) -> Result<Schedule> {
    let phases: Vec<&WindowPhase> = block
        .phases
        .iter()
        .filter_map(|p| match p {
            Phase::Windows(w) => Some(w),
            Phase::Canvas(_) => None,
        })
        .collect();
    let (reads, writes): (Vec<_>, Vec<_>) = phases.iter().map(|p| uses(p)).unzip();
    let is_band = |c: CanvasId| program.canvases[c.0].residency == Residency::Band;
    let mut maker = BTreeMap::new();
    for (i, list) in writes.iter().enumerate() {
        for u in list.iter().filter(|u| is_band(u.canvas)) {
            if maker.insert(u.canvas, i).is_some() {
                return Err(wrong(format!("two phases write canvas `{}`", program.canvases[u.canvas.0].name)));
            }
        }
    }
    for (i, list) in reads.iter().enumerate() {
        if let Some(u) = list.iter().find(|u| maker.get(&u.canvas).is_some_and(|&j| j >= i)) {
            let name = &program.canvases[u.canvas.0].name;
            return Err(wrong(format!("canvas `{name}` is read before it is written in one pass")));
        }
    }
    let next = vec![0; phases.len()];
    let mut p = Planner { program, phases, reads, writes, maker, next, turns: Vec::new() };
    let mut readers: BTreeMap<CanvasId, Vec<usize>> = BTreeMap::new();
    for &c in p.maker.keys() {
        readers.insert(c, (0..p.phases.len()).filter(|&i| p.reads[i].iter().any(|u| u.canvas == c)).collect());
    }

    // Where each phase begins: at the row of windows that makes the first row its readers need.
    let mut start = vec![usize::MAX; p.phases.len()];
    for i in (0..p.phases.len()).rev() {
        let mut first: Option<usize> = None;
        for w in p.writes[i].iter().filter(|w| readers.get(&w.canvas).is_some_and(|r| !r.is_empty())) {
            for &j in &readers[&w.canvas] {
                for u in p.reads[j].iter().filter(|u| u.canvas == w.canvas) {
                    let [need, _] = p.span(j, start[j].min(p.rows(j) - 1), *u)?;
                    let mut row = 0;
                    while row + 1 < p.rows(i) && p.finished(i, row, *w)? <= need {
                        row += 1;
                    }
                    // What is blended begins above: the window before reaches into the row.
                    let row = if w.blended { row.saturating_sub(1) } else { row };
                    first = Some(first.map_or(row, |f| f.min(row)));
                }
            }
        }
        start[i] = first.unwrap_or(from.min(p.rows(i) - 1));
        p.next[i] = start[i];
    }
    let drives = |p: &Planner<'_>, i: usize| {
        p.writes[i].iter().all(|w| readers.get(&w.canvas).is_none_or(|r: &Vec<usize>| r.is_empty()))
    };
    for i in 0..p.phases.len() {
        // A phase that also feeds others runs as they pull, and what nobody pulled at the end.
        if drives(&p, i) || i + 1 == p.phases.len() {
            for r in p.next[i]..p.rows(i) {
                p.turn(i, r)?;
            }
        }
    }
    for i in 0..p.phases.len() {
        for r in p.next[i]..p.rows(i) {
            p.turn(i, r)?;
        }
    }
    let bands = bands(&p, &start, is_band)?;
    Ok(Schedule { turns: p.turns, bands })
}

/// Replays the turns: what each band holds at most.
fn bands(p: &Planner<'_>, start: &[usize], is_band: impl Fn(CanvasId) -> bool) -> Result<BTreeMap<CanvasId, Band>> {
    let mut bands: BTreeMap<CanvasId, Band> = BTreeMap::new();
    let mut next = start.to_vec();
    let mut end: BTreeMap<CanvasId, u32> = BTreeMap::new();
    for (i, &begin) in start.iter().enumerate() {
        for u in p.writes[i].iter().filter(|u| is_band(u.canvas)) {
            let first = if begin == 0 { 0 } else { p.finished(i, begin - 1, *u)? };
            bands.insert(u.canvas, Band { first, rows: 0, made: true });
            end.insert(u.canvas, first);
        }
        for u in p.reads[i].iter().filter(|u| is_band(u.canvas)) {
            bands.entry(u.canvas).or_default();
            end.entry(u.canvas).or_default();
        }
    }
    for &(i, r) in &p.turns {
        let mut touched: Vec<CanvasId> = Vec::new();
        for u in p.reads[i].iter().filter(|u| bands.get(&u.canvas).is_some_and(|b| !b.made)) {
            let [_, until] = p.span(i, r, *u)?;
            let e = end.entry(u.canvas).or_default();
            *e = until.max(*e);
            touched.push(u.canvas);
        }
        for u in &p.writes[i] {
            let Some(b) = bands.get_mut(&u.canvas) else { continue };
            let before = end.get(&u.canvas).copied().unwrap_or(0);
            let after = p.finished(i, r, *u)?;
            end.insert(u.canvas, after);
            // What nobody reads leaves at the end of each turn.
            b.rows = b.rows.max(after - before);
            touched.push(u.canvas);
        }
        for c in touched {
            let mut low: Option<u32> = None;
            for (j, &row) in next.iter().enumerate() {
                for u in p.reads[j].iter().filter(|u| u.canvas == c) {
                    if row < p.rows(j) {
                        let [first, _] = p.span(j, row, *u)?;
                        low = Some(low.map_or(first, |l| l.min(first)));
                    }
                }
            }
            if let (Some(low), Some(b)) = (low, bands.get_mut(&c)) {
                b.rows = b.rows.max(end[&c].saturating_sub(low));
            }
        }
        next[i] = r + 1;
    }
    Ok(bands)
}
