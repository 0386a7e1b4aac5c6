//! The passes over a part: all of it at once (`whole`), one per depth of norms (`exact`), or one with statistics from
//! elsewhere (`shared`).

use super::laid::Laid;
use super::{Keep, Part, window_extent};
use crate::error::Result;
use crate::graph::ValueId;
use crate::graph::cut::{self, MOMENTS};
use crate::system::phase::{Block, CanvasOp, Contexts, Nesting, Phase, Sink, Source, WindowPhase};
use crate::system::program::{CanvasId, GridId, Program, Ratio, Residency, StatisticId};
use crate::tile::Grid;
use crate::tile::geometry::{Placement, Tiling};
use std::collections::{BTreeMap, BTreeSet};

/// The whole network over the whole picture, one window, one graph.
pub fn whole(program: &mut Program, part: &Part<'_>) -> Result<()> {
    let from = window_extent(part.graph)?;
    let graph = cut::resized(part.graph, 1, from, part.latents)?;
    let all = Tiling { tile: u32::MAX, overlap: 0, stride: 1, quantum: 1, placement: Placement::Even };
    program.grids.push(Grid::new(part.latents[0], part.latents[1], &all)?);
    let mut sources = Vec::new();
    for feed in &part.feeds {
        let value = part.graph.values.iter().find(|v| v.name == feed.name);
        let num = value.map_or(1, |v| v.shape.h / from[0].max(1));
        let (canvas, [gain, shift]) = (feed.canvas, feed.affine);
        sources.push((feed.name.clone(), Source::Crop { canvas, ratio: Ratio { num, den: 1 }, gain, shift }));
    }
    let mut sinks = Vec::new();
    for (name, v) in &part.graph.outputs {
        let ratio = Ratio { num: part.graph.value(*v).shape.h / from[0].max(1), den: 1 };
        sinks.push((name.clone(), Sink::Store { canvas: part.output, ratio }));
    }
    let (graph, grid) = (program.graph(graph), GridId(program.grids.len() - 1));
    let name = part.name.to_owned();
    let phase = WindowPhase { name, graph, grid, branches: 1, contexts: Contexts::Branch, sources, sinks };
    program.blocks.push(Block { steps: 1, nesting: Nesting::Chained, phases: vec![Phase::Windows(phase)] });
    Ok(())
}

/// The passes of `exact`: one per depth of norms and, unless only the statistics are wanted, a last one that makes
/// the output. `keep[b]` says where the state at boundary `b` (before the norms of depth `b`) lives.
pub fn exact(program: &mut Program, laid: &Laid, keep: &[Keep], statistics_only: bool) -> Result<()> {
    let last = laid.boundaries();
    let mut kept: BTreeMap<ValueId, CanvasId> = BTreeMap::new();
    let mut base = 0;
    for s in 0..=last {
        if s == last && statistics_only {
            break;
        }
        let asked = keep.get(s + 1).copied().unwrap_or_default();
        let residency = match asked {
            _ if s == last => None,
            _ if laid.blended[s] => Some(Residency::Whole),
            Keep::Recompute if laid.must_keep(s) => Some(Residency::Whole),
            Keep::Recompute => None,
            Keep::Host => Some(Residency::Whole),
            Keep::Device => Some(Residency::Device),
            Keep::Spool => Some(Residency::Spool),
        };
        let mut stored: BTreeMap<ValueId, CanvasId> = BTreeMap::new();
        if let Some(residency) = residency {
            for v in laid.live(s + 1) {
                if !kept.contains_key(&v) {
                    let canvas = laid.canvas(program, v, "kept", residency);
                    program.transient.push(canvas);
                    stored.insert(v, canvas);
                }
            }
        }
        let output = (s == last).then_some(laid.output);
        let moments = if laid.blended[s] { None } else { Some(s) };
        chain(program, laid, base..s + 1, &kept, &stored, &laid.statistics, moments, output)?;
        if laid.blended[s] {
            count_blended(program, laid, s, &stored);
        }
        if residency.is_some() {
            kept.extend(stored);
            base = s + 1;
        }
    }
    Ok(())
}

/// One streaming pass with statistics from elsewhere.
pub fn shared(program: &mut Program, laid: &Laid, statistics: &[StatisticId]) -> Result<()> {
    let (none, all) = (BTreeMap::new(), 0..laid.cut.segments.len());
    chain(program, laid, all, &none, &none, statistics, None, Some(laid.output))
}

/// The blended result of windowed attention is counted from the canvas.
fn count_blended(program: &mut Program, laid: &Laid, s: usize, stored: &BTreeMap<ValueId, CanvasId>) {
    let mut phases = Vec::new();
    for (n, norm) in laid.cut.norms.iter().enumerate().filter(|(_, n)| n.made == s) {
        if let Some(&from) = stored.get(&norm.of) {
            phases.push(Phase::Canvas(CanvasOp::Moments { from, to: laid.statistics[n] }));
        }
    }
    program.blocks.push(Block { steps: 1, nesting: Nesting::StepOutside, phases });
}

/// A block of `segments`, joined by bands: reads what `kept` holds, stores what `stored` names, counts the moments
/// that segment `moments` makes, and writes the output.
#[expect(clippy::too_many_arguments, reason = "these are what one pass differs in from another")]
fn chain(
    program: &mut Program,
    laid: &Laid,
    segments: std::ops::Range<usize>,
    kept: &BTreeMap<ValueId, CanvasId>,
    stored: &BTreeMap<ValueId, CanvasId>,
    statistics: &[StatisticId],
    moments: Option<usize>,
    output: Option<CanvasId>,
) -> Result<()> {
    let pass = program.blocks.len();
    // From the last segment back: what later phases of this pass read must be made.
    let mut wanted: BTreeSet<ValueId> = BTreeSet::new();
    let mut at = kept.clone();
    let mut plan: Vec<(usize, Vec<(String, Sink)>)> = Vec::new();
    for s in segments.rev() {
        let segment = &laid.cut.segments[s];
        let mut sinks = Vec::new();
        for &v in &segment.makes {
            let port = laid.port(s, v);
            if wanted.contains(&v) {
                let canvas = laid.canvas(program, v, &format!("pass {pass}"), Residency::Band);
                at.insert(v, canvas);
                sinks.push((port.clone(), laid.sink(s, v, canvas)));
            }
            if let Some(&canvas) = stored.get(&v) {
                sinks.push((port.clone(), laid.sink(s, v, canvas)));
            }
            if let Some(canvas) = output.filter(|_| laid.is_output(v)) {
                sinks.push((port, laid.sink(s, v, canvas)));
            }
        }
        for (n, norm) in laid.cut.norms.iter().enumerate().filter(|(_, n)| n.made == s && moments == Some(s)) {
            let name = format!("{MOMENTS}{}", laid.names[norm.of.0 as usize]);
            sinks.push((name, Sink::Partials { statistic: laid.statistics[n] }));
        }
        if sinks.is_empty() {
            continue;
        }
        wanted.extend(segment.reads.iter().filter(|v| !kept.contains_key(v)));
        plan.push((s, sinks));
    }
    let mut phases = Vec::new();
    for (s, sinks) in plan.into_iter().rev() {
        let name = format!("{} {}/{}", laid.name, s + 1, laid.cut.segments.len());
        phases.push(Phase::Windows(laid.phase(s, name, &at, statistics, sinks)?));
    }
    program.blocks.push(Block { steps: 1, nesting: Nesting::Chained, phases });
    Ok(())
}
