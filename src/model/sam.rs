//! `SamVisionModel`: the picture encoder of Segment Anything.
//!
//! Most layers look at windows of the map by themselves; where the map ends, windows are filled with zeros, which are
//! tokens like any other. Scores grow by what a query makes of its distance to the key along each axis.

use super::clip::ACTIVATIONS;
use super::config::Fields;
use super::pictures;
use crate::error::{Error, Kind, Result};
use crate::extent::CHANNEL_ALIGN;
use crate::graph::op::{Attention, Lifetime, Linear, Rearrange};
use crate::graph::taps::Filter;
use crate::graph::{Act, Builder, DType, Graph, Op, Shape, ValueId};
use crate::limits;
use crate::weights::Checkpoint;

const POSITIONS: &str = "vision_encoder.pos_embed";
/// Epsilon of the neck's norms; transformers fixes it.
const NECK_EPS: f32 = 1e-6;
/// Published variants: name, channels and layers.
const VARIANTS: [(&str, u32, u32); 3] = [("ViT-B", 768, 12), ("ViT-L", 1024, 24), ("ViT-H", 1280, 32)];

/// A picture encoder as its config describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct SamVisionModel {
    hidden: u32,
    layers: u32,
    heads: u32,
    middle: u32,
    out_channels: u32,
    channels: u32,
    image_size: u32,
    patch: u32,
    act: Act,
    eps: f32,
    qkv_bias: bool,
    absolute: bool,
    relative: bool,
    window: u32,
    /// Layers that look at the whole map, from 0.
    global: Vec<u32>,
}

impl SamVisionModel {
    /// Reads `sam/config.json`, or the config of a whole SAM.
    pub fn from_config(text: &str) -> Result<SamVisionModel> {
        let section = ["vision_config", "vision_config"];
        let mut f = Fields::transformers("SamVisionModel", "sam_vision_model", section, text)?;
        let hidden = f.u32("hidden_size", 768, limits::MAX_CHANNELS)?;
        let layers = f.u32("num_hidden_layers", 12, u64::from(limits::MAX_LEVEL_LAYERS))?;
        let heads = f.u32("num_attention_heads", 12, limits::MAX_CHANNELS)?;
        if hidden % heads != 0 || u64::from(hidden / heads) % CHANNEL_ALIGN != 0 {
            let why = format!("`hidden_size`, {hidden}, is not that many times a multiple of {CHANNEL_ALIGN}");
            return Err(f.wrong("num_attention_heads", why));
        }
        let ratio = f.f64("mlp_ratio", 4.0)?;
        let middle = match f.optional_channels("mlp_dim")? {
            Some(middle) => middle,
            None => {
                let middle = (f64::from(hidden) * ratio).floor();
                if !(1.0..=limits::MAX_CHANNELS as f64).contains(&middle) {
                    return Err(f.wrong("mlp_ratio", format!("a middle of {middle} channels")));
                }
                middle as u32
            }
        };
        let act = f.choice("hidden_act", 1, &ACTIVATIONS.map(|(name, _)| name))?;
        let Some(act) = act else { return Err(f.wrong("hidden_act", "a feed-forward needs one")) };
        let image_size = f.u32("image_size", 1024, u64::from(limits::MAX_TILE))?;
        let patch = f.u32("patch_size", 16, u64::from(image_size))?;
        if image_size % patch != 0 {
            return Err(f.wrong("patch_size", format!("it does not divide `image_size`, {image_size}")));
        }
        let channels = f.u32("num_channels", 3, limits::MAX_CHANNELS)?;
        if u64::from(channels) * u64::from(patch) * u64::from(patch) > limits::MAX_CHANNELS {
            return Err(f.wrong("patch_size", format!("patches of more than {} values", limits::MAX_CHANNELS)));
        }
        let grid = u64::from(image_size / patch);
        if grid * grid > limits::MAX_POSITIONS {
            return Err(f.wrong("patch_size", format!("{grid}x{grid} patches, the limit is {}", limits::MAX_POSITIONS)));
        }
        let most = limits::MAX_LEVEL_LAYERS;
        let global = f.indices("global_attn_indexes", most as usize, u64::from(most))?;
        // published files carry the width of a text encoder's middle, which SAM has none of
        f.without_effect("intermediate_size");
        f.without_effect("projection_dim");
        let net = SamVisionModel {
            hidden,
            layers,
            heads,
            middle,
            out_channels: f.u32("output_channels", 256, limits::MAX_CHANNELS)?,
            channels,
            image_size,
            patch,
            act: ACTIVATIONS[act].1,
            eps: f.eps("layer_norm_eps", 1e-6)?,
            qkv_bias: f.bool("qkv_bias", true)?,
            absolute: f.bool("use_abs_pos", true)?,
            relative: f.bool("use_rel_pos", true)?,
            window: f.u32("window_size", 14, u64::from(limits::MAX_TILE))?,
            global: global.unwrap_or_else(|| vec![2, 5, 8, 11]),
        };
        f.finish()?;
        Ok(net)
    }

    /// Sides of the picture, pixels: [`pictures::longest_side`] says how one of other sides gets there, and
    /// [`pictures::SAM`] how it is normalised.
    pub fn image_size(&self) -> u32 {
        self.image_size
    }

    /// Channels of the picture.
    pub fn channels(&self) -> u32 {
        self.channels
    }

    /// Channels of the output.
    pub fn out_channels(&self) -> u32 {
        self.out_channels
    }

    /// Rows and columns of the output.
    pub fn grid(&self) -> u32 {
        self.image_size / self.patch
    }

    /// The size `[height, width]` that a picture of `height` x `width` is resized to for this network, before it is
    /// filled up to a square with zeros on the right and below.
    pub fn resized(&self, height: u32, width: u32) -> [u32; 2] {
        pictures::longest_side(height, width, self.image_size)
    }

    /// The graph that makes `pixel_values` of a picture of the size `from`, values from 0 to 1, see
    /// [`pictures::preparation`].
    pub fn preparation(&self, batch: u32, from: [u32; 2], dtype: DType) -> Result<Graph> {
        let to = self.resized(from[0], from[1]);
        pictures::preparation(batch, from, to, [self.image_size; 2], Filter::Bilinear, &pictures::SAM, dtype)
    }

    /// Which published variant this is, if it is one.
    pub fn variant(&self) -> Option<&'static str> {
        variant(self.hidden, self.layers)
    }

    /// Whether the tensors are of this network's variant; an error says of which they are.
    pub fn fits(&self, checkpoint: &Checkpoint) -> Result<()> {
        let shape = checkpoint.find("vision_encoder.patch_embed.projection.weight").map(|t| t.shape.as_slice());
        let Some(&[hidden, ..]) = shape else { return Ok(()) };
        let layer = |i: &u32| checkpoint.find(&format!("vision_encoder.layers.{i}.layer_norm1.weight")).is_some();
        let layers = (0..limits::MAX_LEVEL_LAYERS).take_while(layer).count() as u32;
        let have = (u32::try_from(hidden).unwrap_or(u32::MAX), layers);
        if have == (self.hidden, self.layers) {
            return Ok(());
        }
        let shown = |(hidden, layers)| {
            let name = variant(hidden, layers).map_or_else(String::new, |v| format!("SAM {v}: "));
            format!("{name}{layers} layers of {hidden} channels")
        };
        let want = shown((self.hidden, self.layers));
        let why = format!("the tensors are {}; the config describes {want}", shown(have));
        let e = Error::new(Kind::Weights, "model", format!("{}: {why}", checkpoint.path().display()));
        Err(e.advise("use the config.json of the same checkpoint; a single file without one is told by its shapes"))
    }

    /// The tensors that are read on the host, beside those of the graph.
    pub fn host_tensors(&self) -> Vec<(String, Vec<u64>)> {
        let side = u64::from(self.grid());
        let positions = (POSITIONS.to_owned(), vec![1, side, side, u64::from(self.hidden)]);
        if self.absolute { vec![positions] } else { Vec::new() }
    }

    /// The graph of `batch` pictures: inputs `pixel_values`, normalised, of [`SamVisionModel::image_size`] a side, and
    /// `positions` as [`SamVisionModel::inputs`] gives them, which are fixed for a job; output `last_hidden_state`, f32
    /// `[batch, grid, grid, output channels]`.
    pub fn build(&self, batch: u32, dtype: DType) -> Result<Graph> {
        let (side, grid) = (self.image_size, self.grid());
        let mut builder = Builder::new(format!("sam_encoder {side}x{side} b{batch} {}", dtype.name()), dtype);
        let b = &mut builder;
        let x = b.input("pixel_values", Shape::new(batch, side, side, self.channels), dtype, Lifetime::Window);
        let y = b.module("vision_encoder", |b| {
            let mut x = b.module("patch_embed", |b| b.patch_embed("projection", x, self.hidden, self.patch))?;
            if self.absolute {
                let shape = Shape::new(batch, grid, grid, self.hidden);
                let positions = b.input("positions", shape, DType::F32, Lifetime::Job);
                x = b.add("embeddings", x, positions)?;
            }
            for i in 0..self.layers {
                let window = (!self.global.contains(&i)).then_some(self.window);
                x = b.module(&format!("layers.{i}"), |b| self.layer(b, x, window))?;
            }
            b.module("neck", |b| {
                let x = b.conv_without_bias("conv1", x, self.out_channels, 1)?;
                let x = b.layer_norm("layer_norm1", x, NECK_EPS)?;
                let x = b.conv_without_bias("conv2", x, self.out_channels, 3)?;
                b.layer_norm_as("layer_norm2", x, NECK_EPS, DType::F32)
            })
        })?;
        b.output("last_hidden_state", y);
        Ok(builder.finish())
    }

    /// `SamVisionLayer`: attention, within windows where `window` gives their side, and a feed-forward.
    fn layer(&self, b: &mut Builder, x: ValueId, window: Option<u32>) -> Result<ValueId> {
        let map = b.shape(x);
        let n = b.layer_norm("layer_norm1", x, self.eps)?;
        let a = match window {
            Some(size) => {
                let n = b.rearrange("windows", n, Rearrange::Windows { size })?;
                let a = b.module("attn", |b| self.attention(b, n, true, [size, size]))?;
                b.rearrange("unwindows", a, Rearrange::Unwindows { size, to: [map.h, map.w] })?
            }
            None => b.module("attn", |b| self.attention(b, n, false, [map.h, map.w]))?,
        };
        let x = b.add("attn.sum", a, x)?;
        let n = b.layer_norm("layer_norm2", x, self.eps)?;
        let h = b.module("mlp", |b| {
            let h = b.linear("lin1", n, self.middle, true)?;
            let h = b.activation("act", h, self.act)?;
            b.linear("lin2", h, self.hidden, true)
        })?;
        b.add("", h, x)
    }

    /// `SamVisionAttention` over sequences of `extent` tokens: the rows of the map, or all of it.
    fn attention(&self, b: &mut Builder, x: ValueId, rows: bool, extent: [u32; 2]) -> Result<ValueId> {
        let head_dim = self.hidden / self.heads;
        let qkv = b.linear("qkv", x, 3 * self.hidden, self.qkv_bias)?;
        let mut inputs = vec![qkv; 3];
        if self.relative {
            let q = b.push("query", Op::Slice { begin: 0, channels: self.hidden }, &[qkv])?;
            let q = b.rearrange("query.heads", q, Rearrange::SplitChannels { parts: self.heads })?;
            let reach = extent.map(|e| 2 * e - 1);
            let weights = ["rel_pos_h", "rel_pos_w"].into_iter().zip(reach);
            let weights = weights.map(|(name, r)| b.weight(name, &[u64::from(r), u64::from(head_dim)])).collect();
            let op = Linear {
                weights,
                biases: Vec::new(),
                out_channels: reach[0] + reach[1],
                geglu: false,
                residual: false,
                act: Act::None,
            };
            inputs.push(b.push("rel_pos", Op::Linear(op), &[q])?);
        }
        let op = Attention {
            heads: self.heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            q_offset: 0,
            k_offset: self.hidden,
            v_offset: 2 * self.hidden,
            causal: false,
            rows,
            relative: self.relative.then_some(extent),
        };
        let a = b.push("softmax", Op::Attention(op), &inputs)?;
        b.linear("proj", a, self.hidden, true)
    }

    /// The values of the graph's inputs that belong to the checkpoint, by name, for `batch` pictures.
    pub fn inputs(&self, checkpoint: &Checkpoint, batch: u32) -> Result<Vec<(&'static str, Vec<f32>)>> {
        let wanted = self.host_tensors();
        checkpoint.check(wanted.iter().map(|(n, s)| (n.as_str(), s.as_slice())))?;
        if !self.absolute {
            return Ok(Vec::new());
        }
        Ok(vec![("positions", checkpoint.read_f32(POSITIONS)?.repeat(batch as usize))])
    }
}

fn variant(hidden: u32, layers: u32) -> Option<&'static str> {
    VARIANTS.iter().find(|(_, h, l)| (*h, *l) == (hidden, layers)).map(|(name, ..)| *name)
}

#[cfg(test)]
mod tests {
    use super::super::parameters;
    use super::super::published::SAM_VIT_B;
    use super::*;

    #[test]
    fn the_published_network_has_the_published_number_of_parameters() {
        let net = SamVisionModel::from_config(SAM_VIT_B).expect("config");
        assert_eq!((net.image_size(), net.grid(), net.channels(), net.out_channels()), (1024, 64, 3, 256));
        assert_eq!((net.variant(), net.resized(1200, 1800)), (Some("ViT-B"), [683, 1024]));
        let graph = net.build(1, DType::F16).expect("graph");
        crate::graph::verify::verify(&graph).expect("sound");
        let host: u64 = net.host_tensors().iter().map(|(_, s)| s.iter().product::<u64>()).sum();
        assert_eq!(parameters(&graph) + host, 89_670_912);
        let out = graph.value(graph.outputs[0].1);
        assert_eq!((out.shape, out.dtype), (Shape::new(1, 64, 64, 256), DType::F32));
        // the section of a whole SAM, and the defaults
        let whole = format!(r#"{{"model_type":"sam","architectures":["SamModel"],"vision_config":{SAM_VIT_B}}}"#);
        assert_eq!(SamVisionModel::from_config(&whole).expect("whole"), net);
        assert_eq!(SamVisionModel::from_config("{}").expect("defaults"), net);
        let plain = SamVisionModel::from_config(r#"{"use_abs_pos":false,"use_rel_pos":false,"image_size":320}"#);
        let plain = plain.expect("without positions");
        let graph = plain.build(2, DType::F32).expect("graph");
        crate::graph::verify::verify(&graph).expect("sound");
        assert!(plain.host_tensors().is_empty() && graph.weights.iter().all(|w| !w.name.contains("rel_pos")));
    }

    #[test]
    fn what_is_not_built_is_refused_by_name() {
        for (key, value) in [
            ("image_size", "1000"),
            ("patch_size", "0"),
            ("num_attention_heads", "7"),
            ("hidden_act", "null"),
            ("window_size", "0"),
            ("global_attn_indexes", "[-1]"),
            ("mlp_ratio", "0"),
            ("num_hidden_layers", "100"),
            ("layer_norm_eps", "2"),
            ("use_rope", "true"),
        ] {
            let e = SamVisionModel::from_config(&format!("{{\"{key}\":{value}}}")).expect_err(key);
            let named = key == "image_size" && e.message().contains("patch_size");
            assert!(e.kind() == Kind::Weights && (e.message().contains(key) || named), "{key}: {e}");
        }
    }
}
