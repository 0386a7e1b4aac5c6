//! `CLIPVisionModel`: the image tower of CLIP, whose tokens stand in for a prompt.
//!
//! The graph has no convolution: its stride is its kernel, so it is one product over the patches, which the
//! host unfolds. The class token is a row of zeros among them; zeros times any weight are zero (there is no
//! bias), so its embedding can be added together with the positions.

use super::clip::Encoder;
use super::config::Fields;
use crate::error::{Error, Kind, Result};
use crate::extent;
use crate::graph::op::Lifetime;
use crate::graph::{Builder, DType, Graph, Shape};
use crate::limits;
use crate::weights::Checkpoint;

const CLASS: &str = "vision_model.embeddings.class_embedding";
const POSITIONS: &str = "vision_model.embeddings.position_embedding.weight";

/// An image tower as its config describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipVisionModel {
    encoder: Encoder,
    channels: u32,
    image_size: u32,
    patch: u32,
}

impl ClipVisionModel {
    /// Reads `image_encoder/config.json`, or the config of a whole CLIP.
    pub fn from_config(text: &str) -> Result<ClipVisionModel> {
        let section = ["vision_config", "vision_config_dict"];
        let mut f = Fields::transformers("CLIPVisionModel", "clip_vision_model", section, text)?;
        let encoder = Encoder::read(&mut f, [768, 3072, 12])?;
        let channels = f.u32("num_channels", 3, limits::MAX_CHANNELS)?;
        let image_size = f.u32("image_size", 224, u64::from(limits::MAX_TILE))?;
        let patch = f.u32("patch_size", 32, u64::from(image_size))?;
        let grid = u64::from(image_size / patch);
        if grid * grid >= limits::MAX_POSITIONS {
            return Err(f.wrong("patch_size", format!("{grid}x{grid} patches, the limit is {}", limits::MAX_POSITIONS)));
        }
        if u64::from(channels) * u64::from(patch) * u64::from(patch) > limits::MAX_CHANNELS {
            let why = format!("patches of more than {} values", limits::MAX_CHANNELS);
            return Err(f.wrong("patch_size", why));
        }
        f.finish()?;
        Ok(ClipVisionModel { encoder, channels, image_size, patch })
    }

    /// Sides of the picture, pixels.
    pub fn image_size(&self) -> u32 {
        self.image_size
    }

    /// Channels of the picture.
    pub fn channels(&self) -> u32 {
        self.channels
    }

    /// Tokens of the output: the class token, then the patches row by row.
    pub fn tokens(&self) -> u32 {
        let grid = self.image_size / self.patch;
        grid * grid + 1
    }

    /// Channels of the output.
    pub fn hidden_size(&self) -> u32 {
        self.encoder.hidden
    }

    /// The tensors that [`ClipVisionModel::inputs`] reads, beside those of the graph.
    pub fn host_tensors(&self) -> Vec<(String, Vec<u64>)> {
        let hidden = u64::from(self.encoder.hidden);
        vec![(CLASS.to_owned(), vec![hidden]), (POSITIONS.to_owned(), vec![u64::from(self.tokens()), hidden])]
    }

    /// Values of one patch.
    fn patch_values(&self) -> u32 {
        self.channels * self.patch * self.patch
    }

    /// The graph of `batch` pictures: inputs `patches` `[batch, 1, tokens, channels * patch * patch]` and
    /// `positions` `[batch, 1, tokens, hidden]` as [`ClipVisionModel::inputs`] gives them, output
    /// `last_hidden_state` of the latter shape: the last layer's sum, before `post_layernorm`, as transformers
    /// returns it. All three are f32, values in between are `dtype`.
    pub fn build(&self, batch: u32, dtype: DType) -> Result<Graph> {
        let side = self.image_size;
        let mut builder = Builder::new(format!("image_encoder {side}x{side} b{batch} {}", dtype.name()), dtype);
        let b = &mut builder;
        let rows = Shape::new(batch, 1, self.tokens(), self.patch_values());
        let patches = b.input("patches", rows, DType::F32, Lifetime::Window);
        let hidden = self.encoder.hidden;
        let positions = b.input("positions", rows.with_c(hidden), DType::F32, Lifetime::Window);
        let x = b.module("vision_model", |b| {
            let x = b.module("embeddings", |b| {
                let x = b.patches("patch_embedding", patches, hidden, self.channels, self.patch)?;
                b.add("", x, positions)
            })?;
            // transformers' own spelling, and so the checkpoints'
            let x = b.layer_norm("pre_layrnorm", x, self.encoder.eps)?;
            self.encoder.build(b, x, false, DType::F32)
        })?;
        b.output("last_hidden_state", x);
        Ok(builder.finish())
    }

    /// The values of the graph's inputs, by name, for `batch` pictures `pixel_values` (NCHW, normalised as the
    /// checkpoint's preprocessor says). Pixels beyond the last whole patch are left out, as the convolution
    /// leaves them out.
    pub fn inputs(
        &self,
        checkpoint: &Checkpoint,
        pixel_values: &[f32],
        batch: u32,
    ) -> Result<Vec<(&'static str, Vec<f32>)>> {
        let [side, patch, channels] = [self.image_size, self.patch, self.channels].map(|v| v as usize);
        let picture = channels * side * side;
        let need = extent::product("pixel_values", &[u64::from(batch), picture as u64])?;
        if batch == 0 || pixel_values.len() as u64 != need {
            let why = format!(
                "pixel_values has {} values; {batch} picture(s) of {channels}x{side}x{side} have {need}",
                pixel_values.len()
            );
            return Err(Error::new(Kind::Usage, "model", why).advise("resize the picture as the preprocessor says"));
        }
        let wanted = self.host_tensors();
        checkpoint.check(wanted.iter().map(|(n, s)| (n.as_str(), s.as_slice())))?;
        let values = [self.patch_values(), self.encoder.hidden].map(u64::from);
        let [patches, positions] = values.map(|c| u64::from(batch) * u64::from(self.tokens()) * c);
        if patches.max(positions) > limits::MAX_VALUE_ELEMENTS {
            let why = format!("{batch} pictures are too many: a value has {} elements", patches.max(positions));
            return Err(Error::new(Kind::Limit, "model", why));
        }
        let mut rows: Vec<f32> = Vec::with_capacity(extent::to_usize("patches", patches)?);
        let grid = side / patch;
        for image in pixel_values.chunks_exact(picture) {
            rows.resize(rows.len() + values[0] as usize, 0.0);
            for (y, x) in (0..grid * grid).map(|i| (i / grid * patch, i % grid * patch)) {
                for line in (0..channels * patch).map(|i| i / patch * side + y + i % patch) {
                    rows.extend_from_slice(&image[line * side + x..][..patch]);
                }
            }
        }
        let mut table = checkpoint.read_f32(POSITIONS)?;
        table.iter_mut().zip(checkpoint.read_f32(CLASS)?).for_each(|(p, c)| *p += c);
        Ok(vec![("patches", rows), ("positions", table.repeat(batch as usize))])
    }
}

#[cfg(test)]
mod tests {
    use super::super::parameters;
    use super::super::published::VIT_L14;
    use super::*;

    /// transformers counts 2048 more, 303,179,776: `post_layernorm`, which the pooled output goes through and
    /// `last_hidden_state` does not.
    #[test]
    fn the_published_network_has_the_published_number_of_parameters() {
        let net = ClipVisionModel::from_config(VIT_L14).expect("config");
        assert_eq!((net.image_size(), net.channels(), net.tokens(), net.hidden_size()), (224, 3, 257, 1024));
        let graph = net.build(1, DType::F16).expect("graph");
        crate::graph::verify::verify(&graph).expect("sound");
        let host: u64 = net.host_tensors().iter().map(|(_, s)| s.iter().product::<u64>()).sum();
        assert_eq!(parameters(&graph) + host + 2048, 303_179_776);
        let patches = graph.weights.iter().find(|w| w.name == "vision_model.embeddings.patch_embedding.weight");
        assert_eq!(patches.expect("it is there").shape, [1024, 3, 14, 14]);
        assert!(graph.weights.iter().any(|w| w.name == "vision_model.pre_layrnorm.weight"));
    }

    #[test]
    fn impossible_patches_are_refused_by_name() {
        for (from, to) in [
            ("\"patch_size\":14", "\"patch_size\":225"),
            ("\"patch_size\":14", "\"patch_size\":0"),
            ("\"image_size\":224", "\"image_size\":4096"),
            ("\"num_channels\":3", "\"num_channels\":100000"),
        ] {
            let text = VIT_L14.replace(from, to).replace("\"patch_size\":14", "\"patch_size\":12");
            let e = ClipVisionModel::from_config(&text).expect_err(to);
            assert!(e.kind() == Kind::Weights && e.message().contains("patch_size"), "{e}");
        }
    }
}
