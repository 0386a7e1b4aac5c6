//! A part cut at its norms and laid out over its windows: the graphs, grids and statistics that every pass uses.

use super::{Attention, Feed, Part, grid, window_extent};
use crate::error::Result;
use crate::graph::ValueId;
use crate::graph::cut::{self, Cut, MOMENTS};
use crate::system::phase::{Contexts, Sink, Source, WindowPhase};
use crate::system::program::{
    Affine, Canvas, CanvasId, Extent, GraphId, GridId, Program, Ratio, Residency, Statistic, StatisticId, wrong,
};
use crate::tile::geometry::{Placement, Tiling};
use crate::tile::{Grid, Ramp};
use std::collections::BTreeMap;

/// A part laid out over its windows, ready for passes.
#[derive(Debug, Clone)]
pub struct Laid {
    pub(super) name: String,
    pub(super) cut: Cut,
    /// Extents of one window's values, per value of the uncut graph.
    pub(super) scales: Vec<(u32, u32)>,
    pub(super) names: Vec<String>,
    pub(super) feeds: Vec<(ValueId, Feed)>,
    pub(super) output: CanvasId,
    latents: [u32; 2],
    graphs: Vec<GraphId>,
    grids: Vec<GridId>,
    pub(super) blended: Vec<bool>,
    norms: Vec<Affine>,
    /// Moments per norm.
    pub statistics: Vec<StatisticId>,
}

/// Cuts a part and adds its graphs, windows and statistics to the program. Graphs that are there already serve again.
pub fn lay(program: &mut Program, part: &Part<'_>) -> Result<Laid> {
    let from = window_extent(part.graph)?;
    let cut = cut::cut(part.graph)?;
    let halo = cut.segments.iter().map(|s| s.halo).max().unwrap_or(0);
    let windows = grid(part.latents, part.tile, halo)?;
    let to = [windows.rows.size, windows.cols.size];
    let plain = GridId(program.grids.len());
    program.grids.push(windows);
    let (mut graphs, mut grids, mut blended) = (Vec::new(), Vec::new(), Vec::new());
    for segment in &cut.segments {
        let (size, at) = match part.attention {
            _ if !segment.attends => (to, plain),
            Attention::Windowed(tile) => {
                let tile = tile.max(2);
                let overlap = tile / 4;
                let tiling = Tiling { tile, overlap, stride: 1, quantum: 1, placement: Placement::Fitted };
                let grid = Grid::new(part.latents[0], part.latents[1], &tiling)?;
                program.grids.push(grid.clone());
                ([grid.rows.size, grid.cols.size], GridId(program.grids.len() - 1))
            }
            Attention::Global => {
                let all = Tiling { tile: u32::MAX, overlap: 0, stride: 1, quantum: 1, placement: Placement::Even };
                program.grids.push(Grid::new(part.latents[0], part.latents[1], &all)?);
                (part.latents, GridId(program.grids.len() - 1))
            }
        };
        let batch = if segment.attends { 1 } else { part.batch };
        let graph = cut::resized(&segment.graph, batch, from, size)?;
        graphs.push(program.graph(graph));
        blended.push(program.grids[at.0].count() > 1 && segment.attends);
        grids.push(at);
    }
    let (mut statistics, mut norms) = (Vec::new(), Vec::new());
    for norm in &cut.norms {
        let channels = part.graph.value(norm.of).shape.c;
        statistics.push(StatisticId(program.statistics.len()));
        program.statistics.push(Statistic { name: norm.factors.clone(), channels });
        norms.push(Affine::GroupNorm {
            of: statistics[statistics.len() - 1],
            groups: norm.norm.groups,
            eps: f64::from(norm.norm.eps),
            weight: (part.tensors)(&part.graph.weight(norm.norm.weight).name)?,
            bias: (part.tensors)(&part.graph.weight(norm.norm.bias).name)?,
        });
    }
    let mut feeds = Vec::new();
    for (input, _) in part.graph.inputs() {
        let name = &part.graph.value(input).name;
        let Some(feed) = part.feeds.iter().find(|f| f.name == *name) else {
            return Err(wrong(format!("{}: nothing feeds `{name}`", part.name)));
        };
        feeds.push((input, feed.clone()));
    }
    let scale = |v: &crate::graph::op::Value| (v.shape.h / from[0].max(1), v.shape.c);
    Ok(Laid {
        name: part.name.to_owned(),
        scales: part.graph.values.iter().map(scale).collect(),
        names: part.graph.values.iter().map(|v| v.name.clone()).collect(),
        cut,
        feeds,
        output: part.output,
        latents: part.latents,
        graphs,
        grids,
        blended,
        norms,
        statistics,
    })
}

impl Laid {
    /// Number of norms' depths; there is one more segment.
    pub fn boundaries(&self) -> usize {
        self.cut.segments.len() - 1
    }

    /// The graph of a segment.
    pub fn graph(&self, segment: usize) -> GraphId {
        self.graphs[segment]
    }

    /// The windows of a segment.
    pub fn grid(&self, segment: usize) -> GridId {
        self.grids[segment]
    }

    /// Whether the state after a segment must be kept in host memory, whatever is asked for: blended attention is
    /// counted from all of it; attention over everything is not computed twice.
    pub fn must_keep(&self, segment: usize) -> bool {
        self.cut.segments[segment].attends
    }

    /// Values that segments from `boundary` on read and earlier ones make.
    pub fn live(&self, boundary: usize) -> Vec<ValueId> {
        let alive = |i: &usize| {
            self.cut.made[*i].is_some_and(|m| m < boundary) && self.cut.last_read[*i].is_some_and(|l| l >= boundary)
        };
        (0..self.names.len()).filter(alive).map(|i| ValueId(i as u32)).collect()
    }

    /// Bytes (f32) of the state at a boundary.
    pub fn state_bytes(&self, boundary: usize) -> u64 {
        let pixels = u64::from(self.latents[0]) * u64::from(self.latents[1]);
        let of = |v: &ValueId| {
            let (scale, channels) = self.scales[v.0 as usize];
            pixels * u64::from(scale) * u64::from(scale) * u64::from(channels) * 4
        };
        self.live(boundary).iter().map(of).sum()
    }

    fn ratio(&self, v: ValueId) -> Ratio {
        Ratio { num: self.scales[v.0 as usize].0, den: 1 }
    }

    pub(super) fn canvas(&self, program: &mut Program, v: ValueId, name: &str, residency: Residency) -> CanvasId {
        let (scale, channels) = self.scales[v.0 as usize];
        let extent = Extent::Fixed(self.latents.map(|side| side.saturating_mul(scale)));
        let name = format!("{} {} {name}", self.name, self.names[v.0 as usize]);
        program.canvases.push(Canvas { name, extent, channels, residency });
        CanvasId(program.canvases.len() - 1)
    }

    pub(super) fn is_output(&self, v: ValueId) -> bool {
        self.cut.last_read[v.0 as usize].is_none()
    }

    /// One segment as a phase; `at` names the canvas of each value it reads.
    pub(super) fn phase(
        &self,
        segment: usize,
        name: String,
        at: &BTreeMap<ValueId, CanvasId>,
        statistics: &[StatisticId],
        sinks: Vec<(String, Sink)>,
    ) -> Result<WindowPhase> {
        let s = &self.cut.segments[segment];
        let mut sources = Vec::new();
        for &v in &s.reads {
            let ratio = self.ratio(v);
            let (canvas, [gain, shift]) = match self.feeds.iter().find(|(id, _)| *id == v) {
                Some((_, feed)) => (feed.canvas, feed.affine),
                None => {
                    let canvas = at.get(&v).copied();
                    let found = canvas.ok_or_else(|| wrong(format!("`{}` lies nowhere", self.names[v.0 as usize])));
                    (found?, [1.0, 0.0])
                }
            };
            sources.push((self.names[v.0 as usize].clone(), Source::Crop { canvas, ratio, gain, shift }));
        }
        for &n in &s.norms {
            let mut affine = self.norms[n].clone();
            if let Affine::GroupNorm { of, .. } = &mut affine {
                *of = statistics[n];
            }
            sources.push((self.cut.norms[n].factors.clone(), Source::Factors(affine)));
        }
        let (graph, grid) = (self.graphs[segment], self.grids[segment]);
        Ok(WindowPhase { name, graph, grid, branches: 1, contexts: Contexts::Branch, sources, sinks })
    }

    /// What takes a value of a segment into a canvas.
    pub(super) fn sink(&self, segment: usize, v: ValueId, canvas: CanvasId) -> Sink {
        let ratio = self.ratio(v);
        if !self.blended[segment] {
            return Sink::Store { canvas, ratio };
        }
        let (ramp, halo) = (Ramp::Cosine, 0);
        Sink::Blend { canvas, ratio, ramp, halo, gains: vec![1.0], last_step_only: false }
    }

    /// Name of the graph output that holds `v`.
    pub(super) fn port(&self, segment: usize, v: ValueId) -> String {
        let graph = &self.cut.segments[segment].graph;
        let own = &self.names[v.0 as usize];
        let output = |o: &&(String, ValueId)| graph.value(o.1).name == *own && !o.0.starts_with(MOMENTS);
        graph.outputs.iter().find(output).map_or_else(|| own.clone(), |o| o.0.clone())
    }
}
