//! SARM, the semantic-aware refinement of CASR (arXiv 2602.22159): tokens of a tile look at the tokens of all tiles of the
//! stage, then at those of SAM's picture encoder. The publication gives no layout; ours is in `decisions/`.
//!
//! ```text
//! t = tokens(x)
//! t += attn1(norm1 t, cache)     cache = norm1 of the tokens of every tile
//! t += attn2(norm2 t, semantic)
//! t += ff(norm3 t)
//! y = x + scale spread(t - tokens(x))
//! ```
//!
//! Tokens are means of `reduce` x `reduce` pixels, and are spread over them again. Output projections begin at zero, so an
//! untrained block changes nothing.

use super::config::Fields;
use super::transformer::{attention, feed_forward};
use crate::error::Result;
use crate::graph::op::{Axis, Lifetime, Pointwise};
use crate::graph::taps::{Filter, Taps};
use crate::graph::{Act, Builder, DType, Graph, Op, Shape, ValueId};
use crate::limits;
use serde_json::json;

/// A refinement block as its config describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sarm {
    channels: u32,
    heads: u32,
    semantic: Option<u32>,
    reduce: u32,
    eps: f32,
}

/// Extents of one launch of the block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SarmExtents {
    /// Tiles.
    pub batch: u32,
    /// Rows and columns of the features.
    pub map: [u32; 2],
    /// Tokens of all tiles that are looked at.
    pub cache: u32,
    /// SAM's tokens; `None`: the block does not look at any.
    pub semantic: Option<u32>,
    /// Factor of what the block adds; 1 as trained.
    pub scale: f32,
}

impl Sarm {
    /// Reads `sarm/config.json`.
    pub fn from_config(text: &str) -> Result<Sarm> {
        let mut f = Fields::new("Sarm", text)?;
        let channels = f.u32("channels", 320, limits::MAX_CHANNELS)?;
        let heads = f.u32("num_attention_heads", 5, limits::MAX_CHANNELS)?;
        if !channels.is_multiple_of(heads) {
            return Err(f.wrong("num_attention_heads", format!("{channels} channels do not divide by it")));
        }
        let semantic = f.optional_channels("cross_attention_dim")?;
        let reduce = f.u32("reduce", 1, u64::from(limits::MAX_TILE))?;
        let eps = f.eps("norm_eps", 1e-5)?;
        f.only("act_fn", &[json!("geglu")])?;
        f.finish()?;
        Ok(Sarm { channels, heads, semantic, reduce, eps })
    }

    /// Channels of the features.
    pub fn channels(&self) -> u32 {
        self.channels
    }

    /// Channels of the semantic tokens, where the block looks at any.
    pub fn semantic_channels(&self) -> Option<u32> {
        self.semantic
    }

    /// Pixels a side that one token stands for; sides of the features are multiples of it.
    pub fn reduce(&self) -> u32 {
        self.reduce
    }

    /// The keys that a tile adds to the cache, f32 `[batch, 1, tokens, channels]`: its tokens, normalised; with `side`
    /// pooled to that many a side before. `x` is `[batch, h, w, channels]`.
    pub fn keys(&self, b: &mut Builder, x: ValueId, side: Option<u32>) -> Result<ValueId> {
        let s = b.shape(x);
        let mut t = self.tokens(b, "keys", x)?;
        if let Some(side) = side {
            let small = b.shape(t);
            t = pooled(b, "keys.pooled", t, [side.min(small.h), side.min(small.w)])?;
        }
        let t = b.layer_norm_as("norm1", t, self.eps, DType::F32)?;
        debug_assert_eq!(b.shape(t).n, s.n);
        Ok(t)
    }

    /// The graph of [`Sarm::keys`], unpooled: `hidden_states` to `keys`.
    pub fn build_keys(&self, e: &SarmExtents, dtype: DType) -> Result<Graph> {
        let mut b = Builder::new(format!("sarm keys {:?} b{} {}", e.map, e.batch, dtype.name()), dtype);
        let shape = Shape::new(e.batch, e.map[0], e.map[1], self.channels);
        let x = b.input("hidden_states", shape, dtype, Lifetime::Window);
        let keys = self.keys(&mut b, x, None)?;
        b.output("keys", keys);
        Ok(b.finish())
    }

    /// The block as a graph of its own: inputs `hidden_states` `[batch, h, w, channels]`, `cache`
    /// `[1, 1, tokens, channels]` (as [`Sarm::keys`] gives it) and, where it looks at any, `encoder_hidden_states`
    /// `[1, 1, tokens, channels]`, both tables of one context, the same for all tiles; output `hidden_states` of the first one's shape.
    pub fn build(&self, e: &SarmExtents, dtype: DType) -> Result<Graph> {
        let mut builder = Builder::new(format!("sarm {:?} b{} {}", e.map, e.batch, dtype.name()), dtype);
        let b = &mut builder;
        let x =
            b.input("hidden_states", Shape::new(e.batch, e.map[0], e.map[1], self.channels), dtype, Lifetime::Window);
        let y = self.apply(b, x, e)?;
        b.output("hidden_states", y);
        Ok(builder.finish())
    }

    /// The block on `x`; declares the inputs `cache` and `encoder_hidden_states`.
    fn apply(&self, b: &mut Builder, x: ValueId, e: &SarmExtents) -> Result<ValueId> {
        let dtype = b.dtype();
        let cache = b.input("cache", Shape::new(1, 1, e.cache, self.channels), dtype, Lifetime::Context);
        let start = self.tokens(b, "tokens", x)?;
        let n = b.layer_norm("norm1", start, self.eps)?;
        let a = b.module("attn1", |b| attention(b, n, cache, self.heads, false))?;
        let mut t = b.add("attn1.sum", a, start)?;
        if let (Some(channels), Some(tokens)) = (self.semantic, e.semantic) {
            let semantic =
                b.input("encoder_hidden_states", Shape::new(1, 1, tokens, channels), dtype, Lifetime::Context);
            let n = b.layer_norm("norm2", t, self.eps)?;
            let a = b.module("attn2", |b| attention(b, n, semantic, self.heads, false))?;
            t = b.add("attn2.sum", a, t)?;
        }
        let n = b.layer_norm("norm3", t, self.eps)?;
        let f = feed_forward(b, n)?;
        let t = b.add("ff.sum", f, t)?;
        let op =
            Pointwise { alpha: e.scale, beta: Some(-e.scale), gamma: 0.0, act: Act::None, clamp: None, table: false };
        let added = b.push("added", Op::Pointwise(op), &[t, start])?;
        let s = b.shape(x);
        let added = if self.reduce == 1 { added } else { b.resize("spread", added, [s.h, s.w], Filter::Nearest)? };
        b.add("", x, added)
    }

    fn tokens(&self, b: &mut Builder, name: &str, x: ValueId) -> Result<ValueId> {
        let s = b.shape(x);
        if self.reduce == 1 { Ok(x) } else { pooled(b, name, x, [s.h / self.reduce, s.w / self.reduce]) }
    }
}

/// PyTorch's adaptive average pooling to `[h, w]`: pixel `i` is the mean of `floor(i n / h) .. ceil((i + 1) n / h)`.
fn pooled(b: &mut Builder, name: &str, x: ValueId, [h, w]: [u32; 2]) -> Result<ValueId> {
    let s = b.shape(x);
    let mut y = x;
    for (axis, leaf, from, to) in [(Axis::Rows, "down", s.h, h), (Axis::Columns, "across", s.w, w)] {
        if from != to {
            let table = Taps::means(from, to)?;
            let (leaf, shape) = (format!("{name}.{leaf}"), Shape::new(1, 1, to, table.taps() + 1));
            let constant = b.constant(&format!("{leaf}.taps"), shape, table.into_values());
            y = b.resample(&leaf, y, constant, axis)?;
        }
    }
    Ok(y)
}
