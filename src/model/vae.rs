//! `AutoencoderKL`: encoder and decoder, built separately.

use super::config::Fields;
use super::resnet::{Norm, downsample, resnet, upsample};
use super::transformer::pixel_attention;
use crate::error::{Error, Kind, Result};
use crate::extent::CHANNEL_ALIGN;
use crate::graph::op::{Lifetime, Padding};
use crate::graph::{Act, Builder, DType, Graph, Shape, ValueId};
use crate::limits;

/// Epsilon of every norm of the autoencoder; diffusers fixes it.
const NORM_EPS: f32 = 1e-6;

/// An autoencoder as its config describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct AutoencoderKL {
    in_channels: u32,
    out_channels: u32,
    channels: Vec<u32>,
    layers: u32,
    groups: u32,
    latent_channels: u32,
    mid_attention: bool,
    quant_conv: bool,
    post_quant_conv: bool,
    /// A latent enters the denoiser as `(z - shift_factor) * scaling_factor`.
    pub scaling_factor: f32,
    /// See [`AutoencoderKL::scaling_factor`]; 0 when the config has none.
    pub shift_factor: f32,
    /// The checkpoint's author asks for f32: its activations may leave f16's range. The engine's range guard
    /// finds such tiles in any case; a system may choose a wider type from the start.
    pub force_upcast: bool,
}

impl AutoencoderKL {
    /// Reads `vae/config.json`.
    pub fn from_config(text: &str) -> Result<AutoencoderKL> {
        let mut f = Fields::new("AutoencoderKL", text)?;
        let channels = f.channels_list("block_out_channels", &[64])?;
        let down = f.choices("down_block_types", &[0], &["DownEncoderBlock2D"])?;
        let up = f.choices("up_block_types", &[0], &["UpDecoderBlock2D"])?;
        for (key, n) in [("down_block_types", down.len()), ("up_block_types", up.len())] {
            if n != channels.len() {
                return Err(f.wrong(key, format!("expected one per block_out_channels, {}", channels.len())));
            }
        }
        let groups = f.u32("norm_num_groups", 32, limits::MAX_CHANNELS)?;
        if let Some(c) = channels.iter().find(|&&c| c % groups != 0) {
            return Err(f.wrong("norm_num_groups", format!("does not divide {c} channels")));
        }
        f.choice("act_fn", 0, &["silu", "swish"])?.ok_or_else(|| f.wrong("act_fn", "supported are silu, swish"))?;
        let scaling_factor = f.f32("scaling_factor", 0.18215)?;
        if scaling_factor <= 0.0 {
            return Err(f.wrong("scaling_factor", "expected a positive number"));
        }
        for key in ["latents_mean", "latents_std"] {
            f.only(key, &[])?;
        }
        let net = AutoencoderKL {
            in_channels: f.u32("in_channels", 3, limits::MAX_CHANNELS)?,
            out_channels: f.u32("out_channels", 3, limits::MAX_CHANNELS)?,
            channels,
            layers: f.u32("layers_per_block", 1, u64::from(limits::MAX_LEVEL_LAYERS))?,
            groups,
            latent_channels: f.u32("latent_channels", 4, limits::MAX_CHANNELS)?,
            mid_attention: f.bool("mid_block_add_attention", true)?,
            quant_conv: f.bool("use_quant_conv", true)?,
            post_quant_conv: f.bool("use_post_quant_conv", true)?,
            scaling_factor,
            shift_factor: f.optional_f32("shift_factor")?.unwrap_or(0.0),
            force_upcast: f.bool("force_upcast", true)?,
        };
        let coarsest = net.channels[net.channels.len() - 1];
        if net.mid_attention && !u64::from(coarsest).is_multiple_of(CHANNEL_ALIGN) {
            let why =
                format!("attention over {coarsest} channels, not a multiple of {CHANNEL_ALIGN}, is not supported");
            return Err(f.wrong("mid_block_add_attention", why));
        }
        f.finish()?;
        Ok(net)
    }

    /// Channels of the picture that the encoder takes.
    pub fn in_channels(&self) -> u32 {
        self.in_channels
    }

    /// Channels of the picture that the decoder gives.
    pub fn out_channels(&self) -> u32 {
        self.out_channels
    }

    /// Channels of a latent (the encoder gives twice as many: means, then log variances).
    pub fn latent_channels(&self) -> u32 {
        self.latent_channels
    }

    /// Pixels per latent, on each axis.
    pub fn factor(&self) -> u32 {
        1 << (self.channels.len() - 1)
    }

    /// Whether encoder and decoder have an attention over all pixels in their middle.
    pub fn has_mid_attention(&self) -> bool {
        self.mid_attention
    }

    fn norm(&self) -> Norm {
        Norm { groups: self.groups, eps: NORM_EPS }
    }

    /// The encoder's graph: input `sample` (`batch` pictures of `height` x `width`, each at least
    /// [`AutoencoderKL::factor`]; what a side has beyond a multiple of it gives no latent, as in diffusers),
    /// output `latent_moments`, f32: means, then log variances.
    pub fn build_encoder(&self, batch: u32, height: u32, width: u32, dtype: DType) -> Result<Graph> {
        let factor = self.factor();
        if height.min(width) < factor {
            let why = format!("{height}x{width} pixels, less than the {factor} of one latent on a side");
            return Err(Error::new(Kind::Usage, "model", format!("autoencoder: {why}")).advise("pad the picture"));
        }
        let mut b = Builder::new(format!("vae_encoder {height}x{width} b{batch} {}", dtype.name()), dtype);
        let shape = Shape::new(batch, height, width, self.in_channels);
        let x = b.input("sample", shape, dtype, Lifetime::Window);
        let x = b.module("encoder", |b| {
            let mut x = b.conv("conv_in", x, self.channels[0], 3, 1, Padding::all(1))?;
            for (level, &c) in self.channels.iter().enumerate() {
                b.module(&format!("down_blocks.{level}"), |b| {
                    for i in 0..self.layers {
                        x = resnet(b, &format!("resnets.{i}"), x, c, self.norm(), None)?;
                    }
                    if level + 1 != self.channels.len() {
                        x = downsample(b, x, 0)?;
                    }
                    Ok(())
                })?;
            }
            let x = self.middle(b, x)?;
            let x = b.group_norm("conv_norm_out", x, self.groups, NORM_EPS, Act::Silu)?;
            b.conv_as("conv_out", x, 2 * self.latent_channels, 3, 1, Padding::all(1), DType::F32)
        })?;
        let x = if self.quant_conv {
            b.conv_as("quant_conv", x, 2 * self.latent_channels, 1, 1, Padding::default(), DType::F32)?
        } else {
            x
        };
        b.output("latent_moments", x);
        Ok(b.finish())
    }

    /// The decoder's graph: input `latent_sample` (`batch` latents of `height` x `width`, already divided
    /// by the scaling factor), output `sample`, f32.
    pub fn build_decoder(&self, batch: u32, height: u32, width: u32, dtype: DType) -> Result<Graph> {
        let mut b = Builder::new(format!("vae_decoder {height}x{width} b{batch} {}", dtype.name()), dtype);
        let shape = Shape::new(batch, height, width, self.latent_channels);
        let mut x = b.input("latent_sample", shape, dtype, Lifetime::Window);
        if self.post_quant_conv {
            x = b.conv("post_quant_conv", x, self.latent_channels, 1, 1, Padding::default())?;
        }
        let x = b.module("decoder", |b| {
            let last = self.channels.len() - 1;
            let x = b.conv("conv_in", x, self.channels[last], 3, 1, Padding::all(1))?;
            let mut x = self.middle(b, x)?;
            for (i, &c) in self.channels.iter().rev().enumerate() {
                b.module(&format!("up_blocks.{i}"), |b| {
                    for j in 0..=self.layers {
                        x = resnet(b, &format!("resnets.{j}"), x, c, self.norm(), None)?;
                    }
                    if i != last {
                        let s = b.shape(x);
                        x = upsample(b, x, [2 * s.h, 2 * s.w])?;
                    }
                    Ok(())
                })?;
            }
            let x = b.group_norm("conv_norm_out", x, self.groups, NORM_EPS, Act::Silu)?;
            b.conv_as("conv_out", x, self.out_channels, 3, 1, Padding::all(1), DType::F32)
        })?;
        b.output("sample", x);
        Ok(b.finish())
    }

    fn middle(&self, b: &mut Builder, x: ValueId) -> Result<ValueId> {
        let c = b.shape(x).c;
        b.module("mid_block", |b| {
            let x = resnet(b, "resnets.0", x, c, self.norm(), None)?;
            let x = if self.mid_attention { pixel_attention(b, "attentions.0", x, self.norm())? } else { x };
            resnet(b, "resnets.1", x, c, self.norm(), None)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::parameters;
    use super::super::published::SD_VAE;
    use super::*;

    #[test]
    fn the_published_autoencoder_has_the_published_number_of_parameters() {
        let vae = AutoencoderKL::from_config(SD_VAE).expect("config");
        let encoder = vae.build_encoder(1, 512, 512, DType::F16).expect("encoder");
        let decoder = vae.build_decoder(1, 64, 64, DType::F16).expect("decoder");
        assert_eq!([parameters(&encoder), parameters(&decoder)], [34_163_664, 49_490_199]);
        assert_eq!(encoder.value(encoder.outputs[0].1).shape, Shape::new(1, 64, 64, 8));
        assert_eq!(decoder.value(decoder.outputs[0].1).shape, Shape::new(1, 512, 512, 3));
        assert_eq!(decoder.value(decoder.outputs[0].1).dtype, DType::F32);
        assert_eq!((vae.factor(), vae.latent_channels(), vae.scaling_factor), (8, 4, 0.18215));
    }

    #[test]
    fn pictures_below_one_latent_and_unknown_variants_are_refused() {
        let vae = AutoencoderKL::from_config(SD_VAE).expect("config");
        assert_eq!(vae.build_encoder(1, 7, 64, DType::F32).expect_err("7").kind(), Kind::Usage);
        let encoder = vae.build_encoder(1, 60, 64, DType::F32).expect("what is left over is cut off, as PyTorch does");
        assert_eq!(encoder.value(encoder.outputs[0].1).shape, Shape::new(1, 7, 8, 8));
        for (key, value) in [
            ("latents_mean", "[0.1]"),
            ("act_fn", "\"mish\""),
            ("scaling_factor", "0"),
            ("norm_num_groups", "24"),
            ("down_block_types", "[\"AttnDownEncoderBlock2D\"]"),
            ("spatial_norm", "1"),
        ] {
            let mut map: serde_json::Map<_, _> = serde_json::from_str(SD_VAE).expect("json");
            map.insert(key.into(), serde_json::from_str(value).expect("value"));
            let e = AutoencoderKL::from_config(&serde_json::to_string(&map).expect("text")).expect_err(key);
            assert!(e.message().contains(key), "{key}: {e}");
        }
    }

    #[test]
    fn without_attention_and_quant_convs_their_tensors_are_not_asked_for() {
        let text = r#"{"block_out_channels":[16,24],"down_block_types":["DownEncoderBlock2D","DownEncoderBlock2D"],
            "up_block_types":["UpDecoderBlock2D","UpDecoderBlock2D"],"norm_num_groups":8,"latent_channels":5,
            "mid_block_add_attention":false,"use_quant_conv":false,"use_post_quant_conv":false}"#;
        let vae = AutoencoderKL::from_config(text).expect("config");
        let graphs = [vae.build_encoder(2, 6, 10, DType::F32), vae.build_decoder(2, 3, 5, DType::F32)];
        for g in graphs {
            let g = g.expect("graph");
            assert!(g.weights.iter().all(|w| !w.name.contains("attentions") && !w.name.contains("quant")));
        }
    }
}
