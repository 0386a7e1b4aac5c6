//! `Dinov2Backbone`: the vision transformer whose tokens Depth Anything reads.
//!
//! The picture is a map of patches behind a class token. Its positions were trained on one square grid; on any other
//! they are interpolated, on the host, when the weights are read. The scale behind each branch is folded into the
//! linear layer that ends it, when that is read.

use super::clip::ACTIVATIONS;
use super::config::Fields;
use crate::error::{Error, Kind, Result};
use crate::extent::{self, CHANNEL_ALIGN};
use crate::graph::op::{Axis, Lifetime, Rearrange};
use crate::graph::{Act, Builder, DType, Shape, ValueId};
use crate::limits;
use crate::weights::Checkpoint;

const CLASS: &str = "backbone.embeddings.cls_token";
const POSITIONS: &str = "backbone.embeddings.position_embeddings";
/// Name of the graph's input that holds the positions.
pub(super) const POSITIONS_INPUT: &str = "positions";
/// Keys' parameter of the cubic kernel, as PyTorch has it without antialiasing.
const CUBIC: f64 = -0.75;

/// A backbone as its config describes it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Dinov2 {
    /// Channels of a token.
    pub(super) hidden: u32,
    pub(super) layers: u32,
    pub(super) channels: u32,
    /// Side of the pictures trained on, pixels.
    pub(super) image_size: u32,
    pub(super) patch: u32,
    /// Layers whose outputs go on, counted from 1; 0 is the embedding.
    pub(super) stages: Vec<u32>,
    heads: u32,
    intermediate: u32,
    act: Act,
    eps: f32,
    qkv_bias: bool,
    /// Whether what goes on is normalised.
    normed: bool,
    /// What DINOv2's own code adds to the sides of the grid when it interpolates; transformers adds nothing.
    offset: f64,
}

impl Dinov2 {
    /// Reads a `backbone_config`. `interpolate_offset` is DINOv2's own name of a constant that transformers leaves
    /// out: 0.1 for checkpoints in the naming of Depth Anything's own repository.
    pub(super) fn read(mut f: Fields) -> Result<Dinov2> {
        let hidden = f.u32("hidden_size", 768, limits::MAX_CHANNELS)?;
        let layers = f.u32("num_hidden_layers", 12, u64::from(limits::MAX_LEVEL_LAYERS))?;
        let heads = f.u32("num_attention_heads", 12, limits::MAX_CHANNELS)?;
        if hidden % heads != 0 || u64::from(hidden / heads) % CHANNEL_ALIGN != 0 {
            let why = format!("`hidden_size`, {hidden}, is not that many times a multiple of {CHANNEL_ALIGN}");
            return Err(f.wrong("num_attention_heads", why));
        }
        let intermediate = (f64::from(hidden) * f.f64("mlp_ratio", 4.0)?).floor();
        if !(1.0..=limits::MAX_CHANNELS as f64).contains(&intermediate) {
            return Err(f.wrong("mlp_ratio", format!("a middle of {intermediate} channels")));
        }
        let act = f.choice("hidden_act", 1, &ACTIVATIONS.map(|(name, _)| name))?;
        let Some(act) = act else { return Err(f.wrong("hidden_act", "a feed-forward needs one")) };
        let image_size = f.u32("image_size", 224, u64::from(limits::MAX_TILE))?;
        let patch = f.u32("patch_size", 14, u64::from(image_size))?;
        let grid = u64::from(image_size / patch);
        if grid * grid >= limits::MAX_POSITIONS {
            return Err(f.wrong("patch_size", format!("{grid}x{grid} patches, the limit is {}", limits::MAX_POSITIONS)));
        }
        let channels = f.u32("num_channels", 3, limits::MAX_CHANNELS)?;
        if u64::from(channels) * u64::from(patch) * u64::from(patch) > limits::MAX_CHANNELS {
            return Err(f.wrong("patch_size", format!("patches of more than {} values", limits::MAX_CHANNELS)));
        }
        f.only("use_swiglu_ffn", &[false.into()])?;
        f.only("pruned_heads", &[serde_json::json!({})])?;
        // tokens with the class token in front, as the neck wants them; the default is a map
        if f.bool("reshape_hidden_states", true)? {
            return Err(f.wrong("reshape_hidden_states", "it must be false: the neck makes maps of the tokens"));
        }
        let offset = f.f64("interpolate_offset", 0.0)?;
        if !(0.0..1.0).contains(&offset) {
            return Err(f.wrong("interpolate_offset", "expected a number from 0 to 1"));
        }
        let net = Dinov2 {
            hidden,
            layers,
            channels,
            image_size,
            patch,
            stages: stages(&mut f, layers)?,
            heads,
            intermediate: intermediate as u32,
            act: ACTIVATIONS[act].1,
            eps: f.eps("layer_norm_eps", 1e-6)?,
            qkv_bias: f.bool("qkv_bias", true)?,
            normed: f.bool("apply_layernorm", true)?,
            offset,
        };
        f.finish()?;
        Ok(net)
    }

    /// Side of the grid of patches trained on.
    fn grid(&self) -> u32 {
        self.image_size / self.patch
    }

    /// The tensors that are read on the host, beside those of the graph: the class token and the positions, and
    /// the scales that are folded.
    pub(super) fn host_tensors(&self) -> Vec<(String, Vec<u64>)> {
        let hidden = u64::from(self.hidden);
        let positions = u64::from(self.grid()).pow(2) + 1;
        let mut tensors =
            vec![(CLASS.to_owned(), vec![1, 1, hidden]), (POSITIONS.to_owned(), vec![1, positions, hidden])];
        for layer in 0..self.layers {
            for scale in ["layer_scale1", "layer_scale2"] {
                tensors.push((format!("backbone.encoder.layer.{layer}.{scale}.lambda1"), vec![hidden]));
            }
        }
        tensors
    }

    /// The backbone on the picture `x`, whose sides are multiples of the patch: what goes on, each a map of tokens
    /// `[n, rows of patches, columns of patches, hidden]`.
    pub(super) fn build(&self, b: &mut Builder, x: ValueId) -> Result<Vec<ValueId>> {
        let map = [b.shape(x).h / self.patch, b.shape(x).w / self.patch];
        let (mut tokens, mut out) = (b.module("embeddings", |b| self.embed(b, x, map))?, Vec::new());
        for stage in 0..=self.layers {
            if stage > 0 {
                tokens = b.module(&format!("encoder.layer.{}", stage - 1), |b| self.layer(b, tokens))?;
            }
            if self.stages.contains(&stage) {
                let kept = if self.normed { b.layer_norm("layernorm", tokens, self.eps)? } else { tokens };
                let map = Rearrange::Pixels { begin: 1, size: map };
                out.push(b.rearrange(&format!("stage{stage}"), kept, map)?);
            }
        }
        Ok(out)
    }

    /// The patches' tokens behind a row of zeros, and the positions, of which the first has the class token added.
    fn embed(&self, b: &mut Builder, x: ValueId, [h, w]: [u32; 2]) -> Result<ValueId> {
        let x = b.module("patch_embeddings", |b| b.patch_embed("projection", x, self.hidden, self.patch))?;
        let tokens = h * w + 1;
        let x = b.rearrange("patches", x, Rearrange::Pixels { begin: 0, size: [1, h * w] })?;
        // every token is the patch before it, the first is none
        let rows = (0..tokens).flat_map(|i| [i.saturating_sub(1) as f32, if i == 0 { 0.0 } else { 1.0 }]).collect();
        let table = b.constant("class_taps", Shape::new(1, 1, tokens, 2), rows);
        let x = b.resample("tokens", x, table, Axis::Columns)?;
        let shape = Shape::new(b.shape(x).n, 1, tokens, self.hidden);
        let positions = b.input(POSITIONS_INPUT, shape, DType::F32, Lifetime::Job);
        b.add("", x, positions)
    }

    /// `Dinov2Layer`: attention and a feed-forward, each on the layer norm of the running sum.
    fn layer(&self, b: &mut Builder, x: ValueId) -> Result<ValueId> {
        let n = b.layer_norm("norm1", x, self.eps)?;
        let a = b.module("attention", |b| {
            let a = b.module("attention", |b| {
                let [q, k, v] = ["query", "key", "value"].map(|part| b.linear(part, n, self.hidden, self.qkv_bias));
                let scale = 1.0 / ((self.hidden / self.heads) as f32).sqrt();
                b.attention("", [q?, k?, v?], self.heads, scale)
            })?;
            b.linear("output.dense", a, self.hidden, true)
        })?;
        let x = b.add("attention.sum", a, x)?;
        let n = b.layer_norm("norm2", x, self.eps)?;
        let h = b.module("mlp", |b| {
            let h = b.linear("fc1", n, self.intermediate, true)?;
            let h = b.activation("activation", h, self.act)?;
            b.linear("fc2", h, self.hidden, true)
        })?;
        b.add("", h, x)
    }

    /// The positions of a grid of `h` x `w` patches, `[1 + h * w, hidden]`, the class token added to the first.
    pub(super) fn positions(&self, checkpoint: &Checkpoint, [h, w]: [u32; 2]) -> Result<Vec<f32>> {
        let wanted = self.host_tensors();
        checkpoint.check(wanted.iter().map(|(n, s)| (n.as_str(), s.as_slice())))?;
        let (table, class) = (checkpoint.read_f32(POSITIONS)?, checkpoint.read_f32(CLASS)?);
        let hidden = self.hidden as usize;
        let (first, grid) = table.split_at(hidden.min(table.len()));
        let elements = (u64::from(h) * u64::from(w) + 1) * u64::from(self.hidden);
        if elements > limits::MAX_VALUE_ELEMENTS {
            let why = format!("{h}x{w} patches are too many: their positions have {elements} values");
            return Err(Error::new(Kind::Limit, "model", why).advise("use a smaller picture"));
        }
        let mut out = Vec::with_capacity(extent::to_usize("positions", elements)?);
        out.extend(first.iter().zip(class).map(|(p, c)| p + c));
        if [h, w] == [self.grid(); 2] {
            out.extend_from_slice(grid);
            return Ok(out);
        }
        let side = self.grid() as usize;
        let (rows, columns) = (self.taps(h), self.taps(w));
        let mut sum = vec![0.0f64; hidden];
        for row in &rows {
            for column in &columns {
                sum.fill(0.0);
                for (y, wy) in row {
                    for (x, wx) in column {
                        let at = (y * side + x) * hidden;
                        let token = grid.get(at..at + hidden).unwrap_or_default();
                        sum.iter_mut().zip(token).for_each(|(s, &v)| *s += wy * wx * f64::from(v));
                    }
                }
                out.extend(sum.iter().map(|&v| v as f32));
            }
        }
        Ok(out)
    }

    /// For each of `to` positions of one axis the four trained on that it is made of, with their weights: PyTorch's
    /// bicubic interpolation without aligned corners, whose factor is `grid / (to + offset)`.
    fn taps(&self, to: u32) -> Vec<[(usize, f64); 4]> {
        let side = self.grid();
        let scale = f64::from(side) / (f64::from(to) + self.offset);
        let near = |d: f64| ((CUBIC + 2.0) * d - (CUBIC + 3.0)) * d * d + 1.0;
        let far = |d: f64| ((CUBIC * d - 5.0 * CUBIC) * d + 8.0 * CUBIC) * d - 4.0 * CUBIC;
        let row = |o: u32| {
            let at = (f64::from(o) + 0.5) * scale - 0.5;
            let (first, t) = (at.floor(), at - at.floor());
            let index = |i: f64| (first + i).clamp(0.0, f64::from(side - 1)) as usize;
            [
                (index(-1.0), far(t + 1.0)),
                (index(0.0), near(t)),
                (index(1.0), near(1.0 - t)),
                (index(2.0), far(2.0 - t)),
            ]
        };
        (0..to).map(row).collect()
    }
}

/// The layers whose outputs go on, from `out_indices` or `out_features`, which say the same; the last by default.
fn stages(f: &mut Fields, layers: u32) -> Result<Vec<u32>> {
    let most = limits::MAX_LEVEL_LAYERS as usize;
    let indices = f.indices("out_indices", most, u64::from(layers))?;
    let names = f.texts("out_features")?;
    if let Some(names) = &names {
        let number = |n: &String| match n.as_str() {
            "stem" => Some(0),
            n => n.strip_prefix("stage")?.parse().ok().filter(|i| (1..=layers).contains(i)),
        };
        let listed: Option<Vec<u32>> = names.iter().map(number).collect();
        let Some(listed) = listed else {
            return Err(f.wrong("out_features", format!("expected names from stage1 to stage{layers}")));
        };
        if indices.as_ref().is_some_and(|i| *i != listed) {
            return Err(f.wrong("out_features", "`out_indices` says otherwise"));
        }
        return ordered(f, "out_features", listed);
    }
    ordered(f, "out_indices", indices.unwrap_or_else(|| vec![layers]))
}

/// `stages`, if they rise.
fn ordered(f: &Fields, key: &'static str, stages: Vec<u32>) -> Result<Vec<u32>> {
    if stages.is_empty() || stages.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(f.wrong(key, "expected stages in rising order"));
    }
    Ok(stages)
}
