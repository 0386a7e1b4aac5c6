//! A stand-in for the picture, from which `shared` takes its statistics.

use super::laid::{Laid, lay};
use super::passes::exact;
use super::{Keep, Part};
use crate::error::Result;
use crate::system::phase::{Block, CanvasOp, Nesting, Phase};
use crate::system::program::{Canvas, CanvasId, Extent, Program, Residency, wrong};

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
    let sampled = lay(program, &part)?;
    let keep = vec![Keep::Host; sampled.boundaries() + 1];
    exact(program, &sampled, &keep, true)?;
    Ok(sampled)
}
