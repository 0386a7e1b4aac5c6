//! Encoders and decoders over pictures larger than a window, as programs: the network cut at its group norms,
//! every norm's statistics pooled over all windows.
//!
//! All segments share one grid of windows in latent pixels, so that a window's cell is whole at every level; the
//! halo is the largest that any segment needs. `exact` computes the function of the whole picture: one pass per
//! norm, each over the segments since the last state that was kept. `shared` takes the statistics from
//! elsewhere and needs one pass.

mod laid;
mod passes;
mod proxy;

use super::program::{CanvasId, wrong};
use crate::error::{Error, Kind, Result};
use crate::graph::cut;
use crate::graph::{Graph, Lifetime};
use crate::tile::Grid;
use crate::tile::geometry::{Placement, Tiling};
pub use laid::{Laid, lay};
pub use passes::{exact, shared, whole};
pub use proxy::{Proxy, proxy};

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
