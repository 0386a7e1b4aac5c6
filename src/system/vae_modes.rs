//! Encoders and decoders over pictures larger than a window, as programs: the network cut at its group norms,
//! every norm's statistics pooled over all windows.
//!
//! All segments share one grid of windows in latent pixels, so that a window's cell is whole at every level; the
//! halo is the largest that any segment needs. `exact` computes the function of the whole picture: one pass per
//! norm, each over the segments since the last state that was kept. `shared` takes the statistics from
//! elsewhere and needs one pass.

use super::phase::{Block, CanvasOp, Contexts, Nesting, Phase, Sink, Source, WindowPhase};
use super::program::{
    Affine, Canvas, CanvasId, Extent, GraphId, GridId, Program, Ratio, Residency, Statistic, StatisticId, wrong,
};
use crate::error::{Error, Kind, Result};
use crate::graph::cut::{self, Cut, MOMENTS};
use crate::graph::{Graph, Lifetime, ValueId};
use crate::tile::geometry::{Placement, Tiling};
use crate::tile::{Grid, Ramp};
use std::collections::{BTreeMap, BTreeSet};

/// Where the state between two norms lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Keep {
    /// Nowhere: the passes after it compute it again from the last state that was kept.
    #[default]
    Recompute,
    /// In host memory.
    Host,
    /// On the device.
    Device,
    /// In a file of the spool.
    Spool,
}

/// What the middle attention sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Attention {
    /// All latents.
    #[default]
    Global,
    /// Windows of this many latents on a side, overlapping by a quarter, blended.
    Windowed(u32),
}

/// How an input of a network is cut from a canvas.
#[derive(Debug, Clone, PartialEq)]
pub struct Feed {
    /// Name of the graph's input.
    pub name: String,
    /// The canvas.
    pub canvas: CanvasId,
    /// Applied on the way: factor and constant.
    pub affine: [f32; 2],
}

/// Reads a tensor of a checkpoint by the graph's name for it.
pub type Tensors<'a> = dyn Fn(&str) -> Result<Vec<f32>> + 'a;

/// An encoder or decoder over canvases.
pub struct Part<'a> {
    /// Name, for progress and messages.
    pub name: &'a str,
    /// The network over one window of any size, unfused; one output.
    pub graph: &'a Graph,
    /// Rows and columns of latents in all.
    pub latents: [u32; 2],
    /// Largest window side, latents.
    pub tile: u32,
    /// Windows per launch.
    pub batch: u32,
    /// Its inputs.
    pub feeds: Vec<Feed>,
    /// Where its output goes.
    pub output: CanvasId,
    /// See [`Attention`].
    pub attention: Attention,
    /// The norms' weights and biases.
    pub tensors: &'a Tensors<'a>,
}

/// A part laid out over its windows, ready for passes.
#[derive(Debug, Clone)]
pub struct Laid {
    name: String,
    cut: Cut,
    /// Extents of one window's values, per value of the uncut graph.
    scales: Vec<(u32, u32)>,
    names: Vec<String>,
    feeds: Vec<(ValueId, Feed)>,
    output: CanvasId,
    latents: [u32; 2],
    graphs: Vec<GraphId>,
    grids: Vec<GridId>,
    blended: Vec<bool>,
    norms: Vec<Affine>,
    /// Moments per norm.
    pub statistics: Vec<StatisticId>,
}

/// Latents at an inner edge of a window that its neighbours compute better.
pub fn halo(graph: &Graph) -> Result<u32> {
    let cut = cut::cut(graph)?;
    Ok(cut.segments.iter().map(|s| s.halo).max().unwrap_or(0))
}

fn window_extent(graph: &Graph) -> Result<[u32; 2]> {
    let windows = graph.values.iter().filter(|v| v.lifetime == Lifetime::Window);
    let least = windows.min_by_key(|v| v.shape.pixels());
    least.map(|v| [v.shape.h, v.shape.w]).ok_or_else(|| wrong(format!("{} has no windows", graph.name)))
}

/// The windows of a part: quantum 1, never mirrored; the overlap is twice the halo.
pub fn grid(latents: [u32; 2], tile: u32, halo: u32) -> Result<Grid> {
    let (overlap, stride, quantum, placement) = (2 * halo, 1, 1, Placement::Fitted);
    if tile <= overlap {
        let why = format!("windows of {tile} latents, of which neighbours compute {overlap} again, have no step");
        return Err(Error::new(Kind::Usage, "system", why).advise("use larger windows"));
    }
    Grid::new(latents[0], latents[1], &Tiling { tile, overlap, stride, quantum, placement })
}

/// Cuts a part and adds its graphs, windows and statistics to the program. With `like`, whose windows must be of
/// the same size, its graphs serve again.
pub fn lay(program: &mut Program, part: &Part<'_>, like: Option<&Laid>) -> Result<Laid> {
    let from = window_extent(part.graph)?;
    let cut = cut::cut(part.graph)?;
    let halo = cut.segments.iter().map(|s| s.halo).max().unwrap_or(0);
    let windows = grid(part.latents, part.tile, halo)?;
    let to = [windows.rows.size, windows.cols.size];
    let plain = GridId(program.grids.len());
    program.grids.push(windows);
    let (mut graphs, mut grids, mut blended) = (Vec::new(), Vec::new(), Vec::new());
    for (s, segment) in cut.segments.iter().enumerate() {
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
        let same = like.and_then(|l| l.graphs.get(s)).filter(|id| program.graphs[id.0] == graph);
        graphs.push(match same {
            Some(id) => *id,
            None => {
                program.graphs.push(graph);
                GraphId(program.graphs.len() - 1)
            }
        });
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

    fn canvas(&self, program: &mut Program, v: ValueId, name: &str, residency: Residency) -> CanvasId {
        let (scale, channels) = self.scales[v.0 as usize];
        let extent = Extent::Fixed(self.latents.map(|side| side.saturating_mul(scale)));
        let name = format!("{} {} {name}", self.name, self.names[v.0 as usize]);
        program.canvases.push(Canvas { name, extent, channels, residency });
        CanvasId(program.canvases.len() - 1)
    }

    fn is_output(&self, v: ValueId) -> bool {
        self.cut.last_read[v.0 as usize].is_none()
    }

    /// One segment as a phase; `at` names the canvas of each value it reads.
    fn phase(
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
    fn sink(&self, segment: usize, v: ValueId, canvas: CanvasId) -> Sink {
        let ratio = self.ratio(v);
        if !self.blended[segment] {
            return Sink::Store { canvas, ratio };
        }
        let (ramp, halo) = (Ramp::Cosine, 0);
        Sink::Blend { canvas, ratio, ramp, halo, gains: vec![1.0], last_step_only: false }
    }

    /// Name of the graph output that holds `v`.
    fn port(&self, segment: usize, v: ValueId) -> String {
        let graph = &self.cut.segments[segment].graph;
        let own = &self.names[v.0 as usize];
        let output = |o: &&(String, ValueId)| graph.value(o.1).name == *own && !o.0.starts_with(MOMENTS);
        graph.outputs.iter().find(output).map_or_else(|| own.clone(), |o| o.0.clone())
    }
}

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
    program.graphs.push(graph);
    let (graph, grid) = (GraphId(program.graphs.len() - 1), GridId(program.grids.len() - 1));
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

/// What stands in for the picture when statistics are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proxy {
    /// A mosaic of this many blocks down and across, spread over the picture.
    Mosaic([u32; 2]),
    /// The picture made smaller.
    Small,
}

/// Takes the statistics of all norms from a stand-in of at most `side` latents a side for the canvas of the part's
/// first feed, which must be in host memory (for a mosaic, a file will do).
pub fn proxy(program: &mut Program, part: &Part<'_>, laid: &Laid, how: Proxy, side: u32) -> Result<Laid> {
    let Some(feed) = part.feeds.first() else { return Err(wrong(format!("{}: nothing is fed", part.name))) };
    let scale = laid.feeds.iter().find(|(_, f)| f.name == feed.name).map_or(1, |(v, _)| laid.scales[v.0 as usize].0);
    let latents = part.latents.map(|v| v.min(side));
    let blocks = match how {
        Proxy::Small => [1, 1],
        Proxy::Mosaic(asked) => [0, 1].map(|i| asked[i].clamp(1, latents[i])),
    };
    // Whole latents per block.
    let latents = [0, 1].map(|i| latents[i] / blocks[i] * blocks[i]);
    let from = feed.canvas;
    let source = program.canvases[from.0].clone();
    let extent = Extent::Fixed(latents.map(|v| v.saturating_mul(scale)));
    let name = format!("{} proxy", part.name);
    program.canvases.push(Canvas { name, extent, channels: source.channels, residency: Residency::Whole });
    let to = CanvasId(program.canvases.len() - 1);
    program.transient.push(to);
    let op = match how {
        Proxy::Mosaic(_) => CanvasOp::Sample { from, to, blocks },
        Proxy::Small => CanvasOp::Resize { from, to },
    };
    program.blocks.push(Block { steps: 1, nesting: Nesting::StepOutside, phases: vec![Phase::Canvas(op)] });
    let mut feeds = part.feeds.clone();
    feeds[0].canvas = to;
    let name = format!("{} proxy", part.name);
    let part = Part {
        name: &name,
        graph: part.graph,
        latents,
        tile: side,
        batch: part.batch,
        feeds,
        output: part.output,
        attention: part.attention,
        tensors: part.tensors,
    };
    let sampled = lay(program, &part, Some(laid))?;
    let keep = vec![Keep::Host; sampled.boundaries() + 1];
    exact(program, &sampled, &keep, true)?;
    Ok(sampled)
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
