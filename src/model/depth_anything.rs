//! `DepthAnythingForDepthEstimation`: relative inverse depth of a picture, by a DINOv2 backbone and a DPT head.

use super::config::Fields;
use super::dinov2::{Dinov2, POSITIONS_INPUT};
use super::pictures;
use crate::error::{Error, Kind, Result};
use crate::graph::op::{Lifetime, Padding, Pointwise};
use crate::graph::taps::Filter;
use crate::graph::{Act, Builder, DType, Graph, Op, Shape, ValueId};
use crate::limits;
use crate::weights::Checkpoint;

/// Published variants: name, channels and layers of the backbone.
const VARIANTS: [(&str, u32, u32); 3] = [("S (ViT-S)", 384, 12), ("B (ViT-B)", 768, 12), ("L (ViT-L)", 1024, 24)];

/// What becomes of one stage's map before it goes to the neck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resize {
    /// Enlarged by a transposed convolution, so many times.
    Up(u32),
    /// Left as it is.
    Same,
    /// Halved by a convolution.
    Half,
}

/// A depth network as its config describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct DepthAnything {
    backbone: Dinov2,
    /// Width of each stage's map, and what becomes of it; finest first.
    neck: Vec<(u32, Resize)>,
    fusion: u32,
    head: u32,
    /// Which of the fused maps the head reads.
    head_index: usize,
}

impl DepthAnything {
    /// Reads `depth/config.json`, a config of transformers.
    pub fn from_config(text: &str) -> Result<DepthAnything> {
        let class = "DepthAnythingForDepthEstimation";
        let mut f = Fields::transformers(class, "depth_anything", ["", ""], text)?;
        let backbone = Dinov2::read(f.section("backbone_config", "Dinov2Backbone", "dinov2")?)?;
        for key in ["backbone", "backbone_kwargs"] {
            f.only(key, &[])?;
        }
        for key in ["use_pretrained_backbone", "use_timm_backbone"] {
            f.only(key, &[false.into()])?;
        }
        let patch = f.u32("patch_size", 14, u64::from(limits::MAX_TILE))?;
        if patch != backbone.patch {
            return Err(f.wrong("patch_size", format!("the backbone's is {}", backbone.patch)));
        }
        let hidden = f.u32("reassemble_hidden_size", 384, limits::MAX_CHANNELS)?;
        if hidden != backbone.hidden {
            return Err(f.wrong("reassemble_hidden_size", format!("the backbone's tokens have {}", backbone.hidden)));
        }
        let widths = f.channels_list("neck_hidden_sizes", &[48, 96, 192, 384])?;
        let factors = f.numbers("reassemble_factors", limits::MAX_NETWORK_LEVELS)?.unwrap_or(vec![4.0, 2.0, 1.0, 0.5]);
        if widths.len() != backbone.stages.len() || factors.len() != widths.len() {
            let why =
                format!("{} widths and {} factors for {} stages", widths.len(), factors.len(), backbone.stages.len());
            return Err(f.wrong("neck_hidden_sizes", why));
        }
        let known = [(4.0, Resize::Up(4)), (2.0, Resize::Up(2)), (1.0, Resize::Same), (0.5, Resize::Half)];
        let mut neck = Vec::with_capacity(widths.len());
        for (width, factor) in widths.into_iter().zip(factors) {
            let Some((_, resize)) = known.iter().find(|(k, _)| *k == factor) else {
                return Err(f.wrong("reassemble_factors", "supported are 4, 2, 1, 0.5"));
            };
            neck.push((width, *resize));
        }
        let index = f.f32("head_in_index", -1.0)?;
        let from_end = if index < 0.0 { index + neck.len() as f32 } else { index };
        if index.fract() != 0.0 || from_end < 0.0 || from_end >= neck.len() as f32 {
            return Err(f.wrong("head_in_index", format!("there are {} maps", neck.len())));
        }
        // metric depth ends in a sigmoid and a largest depth; nothing here wants it
        f.only("depth_estimation_type", &["relative".into()])?;
        f.only("max_depth", &[1.into()])?;
        let fusion = f.u32("fusion_hidden_size", 64, limits::MAX_CHANNELS)?;
        if fusion < 2 {
            return Err(f.wrong("fusion_hidden_size", "the head halves it"));
        }
        let head = f.u32("head_hidden_size", 32, limits::MAX_CHANNELS)?;
        f.finish()?;
        Ok(DepthAnything { backbone, neck, fusion, head, head_index: from_end as usize })
    }

    /// Channels of the picture.
    pub fn channels(&self) -> u32 {
        self.backbone.channels
    }

    /// Side of a patch, pixels: the picture's sides are multiples of it.
    pub fn patch(&self) -> u32 {
        self.backbone.patch
    }

    /// The size `[height, width]` that a picture of `height` x `width` is resized to for this network, see
    /// [`pictures::lower_bound`]; it is normalised by [`pictures::IMAGENET`].
    pub fn input_size(&self, height: u32, width: u32) -> Result<[u32; 2]> {
        pictures::lower_bound(height, width, self.backbone.image_size, self.backbone.patch)
    }

    /// The graph that makes `pixel_values` of a picture of the size `from`, values from 0 to 1, see
    /// [`pictures::preparation`].
    pub fn preparation(&self, batch: u32, from: [u32; 2], dtype: DType) -> Result<Graph> {
        let size = self.input_size(from[0], from[1])?;
        let bicubic = Filter::Bicubic { a: -0.75, antialias: false };
        pictures::preparation(batch, from, size, size, bicubic, &pictures::IMAGENET, dtype)
    }

    /// Which published variant this is, if it is one.
    pub fn variant(&self) -> Option<&'static str> {
        variant(self.backbone.hidden, self.backbone.layers)
    }

    /// Whether the tensors are of this network's variant; an error says of which they are.
    pub fn fits(&self, checkpoint: &Checkpoint) -> Result<()> {
        let shape = checkpoint.find("backbone.embeddings.cls_token").map(|t| t.shape.as_slice());
        let Some(&[1, 1, hidden]) = shape else { return Ok(()) };
        let layer = |i: &u32| checkpoint.find(&format!("backbone.encoder.layer.{i}.norm1.weight")).is_some();
        let layers = (0..limits::MAX_LEVEL_LAYERS).take_while(layer).count() as u32;
        let have = (u32::try_from(hidden).unwrap_or(u32::MAX), layers);
        let want = (self.backbone.hidden, self.backbone.layers);
        if have == want {
            return Ok(());
        }
        let shown = |(hidden, layers)| {
            let name = variant(hidden, layers).map_or_else(String::new, |v| format!("Depth Anything {v}: "));
            format!("{name}{layers} layers of {hidden} channels")
        };
        let why = format!("the tensors are {}; the config describes {}", shown(have), shown(want));
        let e = Error::new(Kind::Weights, "model", format!("{}: {why}", checkpoint.path().display()));
        Err(e.advise("use the config.json of the same checkpoint; a single file without one is told by its shapes"))
    }

    /// The tensors that are read on the host, beside those of the graph.
    pub fn host_tensors(&self) -> Vec<(String, Vec<u64>)> {
        self.backbone.host_tensors()
    }

    /// The graph of `batch` pictures of `height` x `width`, both multiples of [`DepthAnything::patch`]: inputs
    /// `pixel_values`, normalised, and `positions` as [`DepthAnything::inputs`] gives them, which are fixed for a job;
    /// output `predicted_depth`, f32 `[batch, height, width, 1]`, from 0: larger is nearer, up to an unknown factor and
    /// shift.
    pub fn build(&self, batch: u32, height: u32, width: u32, dtype: DType) -> Result<Graph> {
        let patch = self.backbone.patch;
        let sides = format!("depth: a picture of {height}x{width}");
        if height.min(width) < patch {
            let why = format!("{sides} is smaller than one patch of {patch}x{patch}");
            return Err(Error::new(Kind::Usage, "model", why).advise("enlarge the picture first"));
        }
        if !height.is_multiple_of(patch) || !width.is_multiple_of(patch) {
            let why = format!("{sides} is not of whole patches of {patch}x{patch}");
            return Err(Error::new(Kind::Usage, "model", why).advise("resize the picture to multiples of a patch"));
        }
        let grid = [height / patch, width / patch];
        if u64::from(grid[0]) * u64::from(grid[1]) >= limits::MAX_POSITIONS {
            let why = format!("{sides} has {}x{} patches, the limit is {}", grid[0], grid[1], limits::MAX_POSITIONS);
            return Err(Error::new(Kind::Limit, "model", why).advise("use a smaller picture"));
        }
        let mut builder = Builder::new(format!("depth {height}x{width} b{batch} {}", dtype.name()), dtype);
        let b = &mut builder;
        let shape = Shape::new(batch, height, width, self.backbone.channels);
        let x = b.input("pixel_values", shape, dtype, Lifetime::Window);
        let stages = b.module("backbone", |b| self.backbone.build(b, x))?;
        let x = b.module("neck", |b| self.neck(b, &stages))?;
        let depth = b.module("head", |b| {
            let x = b.conv("conv1", x, self.fusion / 2, 3, 1, Padding::all(1))?;
            let x = b.resize("resize", x, [height, width], Filter::BilinearCorners)?;
            let x = b.conv("conv2", x, self.head, 3, 1, Padding::all(1))?;
            let x = b.activation("activation1", x, Act::Relu)?;
            let x = b.conv_as("conv3", x, 1, 1, 1, Padding::default(), DType::F32)?;
            let relu = Pointwise { alpha: 1.0, beta: None, gamma: 0.0, act: Act::Relu, clamp: None, table: false };
            b.push_as("activation2", Op::Pointwise(relu), &[x], DType::F32)
        })?;
        b.output("predicted_depth", depth);
        Ok(builder.finish())
    }

    /// Stages as maps of one width, fused from the coarsest to the finest; the map that the head reads.
    fn neck(&self, b: &mut Builder, stages: &[ValueId]) -> Result<ValueId> {
        let mut maps = Vec::with_capacity(stages.len());
        for (i, (&stage, &(width, resize))) in stages.iter().zip(&self.neck).enumerate() {
            let map = b.module(&format!("reassemble_stage.layers.{i}"), |b| {
                let x = b.conv("projection", stage, width, 1, 1, Padding::default())?;
                match resize {
                    Resize::Up(factor) => b.conv_transpose("resize", x, width, factor, factor, 0),
                    Resize::Same => Ok(x),
                    Resize::Half => b.conv("resize", x, width, 3, 2, Padding::all(1)),
                }
            })?;
            maps.push(b.conv_without_bias(&format!("convs.{i}"), map, self.fusion, 3)?);
        }
        let mut fused: Option<ValueId> = None;
        for (i, &map) in maps.iter().rev().enumerate() {
            let next = maps.len().checked_sub(i + 2).and_then(|next| maps.get(next));
            let size = match next {
                Some(&next) => [b.shape(next).h, b.shape(next).w],
                None => [2 * b.shape(map).h, 2 * b.shape(map).w],
            };
            let x = b.module(&format!("fusion_stage.layers.{i}"), |b| {
                let x = match fused {
                    None => map,
                    Some(fused) => {
                        let residual = residual(b, "residual_layer1", map)?;
                        b.add("sum", residual, fused)?
                    }
                };
                let x = residual(b, "residual_layer2", x)?;
                let x = b.resize("resize", x, size, Filter::BilinearCorners)?;
                b.conv("projection", x, self.fusion, 1, 1, Padding::default())
            })?;
            if i == self.head_index {
                return Ok(x);
            }
            fused = Some(x);
        }
        Err(Error::new(Kind::Internal, "model", "depth: the head reads a map that is not made"))
    }

    /// The values of the graph's inputs that belong to the checkpoint, by name, for `batch` pictures of `height` x
    /// `width`.
    pub fn inputs(
        &self,
        checkpoint: &Checkpoint,
        batch: u32,
        height: u32,
        width: u32,
    ) -> Result<Vec<(&'static str, Vec<f32>)>> {
        let patch = self.backbone.patch;
        let positions = self.backbone.positions(checkpoint, [height / patch, width / patch])?;
        Ok(vec![(POSITIONS_INPUT, positions.repeat(batch as usize))])
    }
}

fn variant(hidden: u32, layers: u32) -> Option<&'static str> {
    VARIANTS.iter().find(|(_, h, l)| (*h, *l) == (hidden, layers)).map(|(name, ..)| *name)
}

/// `DepthAnythingPreActResidualLayer`: two convolutions, a ReLU in front of each, and the sum with the input.
fn residual(b: &mut Builder, name: &str, x: ValueId) -> Result<ValueId> {
    let c = b.shape(x).c;
    b.module(name, |b| {
        let h = b.activation("activation1", x, Act::Relu)?;
        let h = b.conv("convolution1", h, c, 3, 1, Padding::all(1))?;
        let h = b.activation("activation2", h, Act::Relu)?;
        let h = b.conv("convolution2", h, c, 3, 1, Padding::all(1))?;
        b.add("", h, x)
    })
}

#[cfg(test)]
mod tests {
    use super::super::parameters;
    use super::super::published::DEPTH_ANYTHING_S;
    use super::*;

    /// transformers counts 24,785,089: 384 more for the token of masked patches, and 73,856 for the half of the
    /// coarsest fusion that has nothing to fuse.
    #[test]
    fn the_published_network_has_the_published_number_of_parameters() {
        let net = DepthAnything::from_config(DEPTH_ANYTHING_S).expect("config");
        assert_eq!((net.channels(), net.patch(), net.variant()), (3, 14, Some("S (ViT-S)")));
        assert_eq!(net.input_size(480, 640).expect("size"), [518, 686]);
        let graph = net.build(1, 518, 686, DType::F16).expect("graph");
        crate::graph::verify::verify(&graph).expect("sound");
        let host: u64 = net.host_tensors().iter().map(|(_, s)| s.iter().product::<u64>()).sum();
        assert_eq!(parameters(&graph) + host + 384 + 73_856, 24_785_089);
        let depth = graph.value(graph.outputs[0].1);
        assert_eq!((depth.shape, depth.dtype), (Shape::new(1, 518, 686, 1), DType::F32));
        // the head of a config without fields is that of the small one
        let backbone = r#"{"backbone_config":{"hidden_size":384,"num_attention_heads":6,"out_indices":[9,10,11,12],
            "reshape_hidden_states":false,"image_size":518}}"#;
        assert_eq!(DepthAnything::from_config(backbone).expect("defaults"), net);
    }

    #[test]
    fn pictures_without_whole_patches_are_refused() {
        let net = DepthAnything::from_config(DEPTH_ANYTHING_S).expect("config");
        for (size, kind, says) in [
            ([13, 518], Kind::Usage, "smaller than one patch of 14x14"),
            ([0, 0], Kind::Usage, "smaller than one patch"),
            ([518, 520], Kind::Usage, "whole patches of 14x14"),
            ([14 * 256, 14 * 256], Kind::Limit, "256x256 patches"),
        ] {
            let e = net.build(1, size[0], size[1], DType::F32).expect_err(says);
            assert!(e.kind() == kind && e.message().contains(says), "{e}");
        }
    }

    #[test]
    fn what_is_not_built_is_refused_by_name() {
        let change = |key: &str, value: &str| {
            let mut map: serde_json::Map<_, _> = serde_json::from_str(DEPTH_ANYTHING_S).expect("json");
            let value = serde_json::from_str(value).expect("value");
            match key.split_once('/') {
                Some((section, key)) => map[section].as_object_mut().expect("object").insert(key.into(), value),
                None => map.insert(key.into(), value),
            };
            DepthAnything::from_config(&serde_json::to_string(&map).expect("text"))
        };
        for (key, value) in [
            ("depth_estimation_type", "\"metric\""),
            ("max_depth", "20"),
            ("head_in_index", "4"),
            ("head_in_index", "0.5"),
            ("patch_size", "16"),
            ("reassemble_hidden_size", "768"),
            ("reassemble_factors", "[8, 4, 2, 1]"),
            ("neck_hidden_sizes", "[48, 96, 192]"),
            ("fusion_hidden_size", "1"),
            ("backbone", "\"facebook/dinov2-small\""),
            ("use_timm_backbone", "true"),
            ("frobnicate", "1"),
            ("backbone_config", "null"),
            ("backbone_config/use_swiglu_ffn", "true"),
            ("backbone_config/reshape_hidden_states", "true"),
            ("backbone_config/out_indices", "[9, 10, 11, 13]"),
            ("backbone_config/out_indices", "[8, 10, 11, 12]"),
            ("backbone_config/num_attention_heads", "5"),
            ("backbone_config/hidden_act", "\"gelu_new\""),
            ("backbone_config/num_register_tokens", "4"),
            ("backbone_config/interpolate_offset", "1.5"),
            ("backbone_config/patch_size", "519"),
        ] {
            let e = change(key, value).expect_err(key);
            let named = key.rsplit('/').next().unwrap_or(key);
            let agreement = named == "out_indices" && e.message().contains("out_features");
            assert!(e.kind() == Kind::Weights && (e.message().contains(named) || agreement), "{key}: {e}");
        }
        // other maps of the same backbone
        assert_eq!(change("head_in_index", "3").expect("the finest").head_index, 3);
        assert_ne!(change("head_in_index", "-2").expect("a coarser one").head_index, 3);
        change("backbone_config/apply_layernorm", "false").expect("honoured");
    }
}
