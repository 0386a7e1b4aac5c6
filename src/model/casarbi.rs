//! CasArbi's denoiser: a UNet of SR3's shape (Saharia et al. 2021) that predicts the clean residual, with the encoder
//! of the picture's coordinates and the adapter that modulates its way down by them.

use super::config::Fields;
use super::resnet::{Norm, downsample, modulated, resnet, upsample};
use crate::error::{Error, Kind, Result};
use crate::extent::CHANNEL_ALIGN;
use crate::graph::op::{Attention, Lifetime, Padding, Pointwise, Rearrange, TimeEmbedding};
use crate::graph::{Act, Builder, DType, Graph, Op, Shape, ValueId};
use crate::limits;

/// A denoiser as its config describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct CasArbiDenoiser {
    in_channels: u32,
    out_channels: u32,
    lr_channels: u32,
    hr_channels: u32,
    channels: Vec<u32>,
    layers: u32,
    attends: Vec<bool>,
    window: u32,
    heads: u32,
    norm: Norm,
    time_proj: u32,
    time_dim: u32,
    adapter: bool,
    bands: u32,
    coordinate_channels: u32,
    input_skip: bool,
}

/// What a step of the denoiser sees, in its own graph.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// `x_t`, scaled, in the storage type.
    pub(crate) x: ValueId,
    /// The same in f32: added to the answer where the network says so.
    pub(crate) skip: ValueId,
    /// What [`CasArbiDenoiser::condition`] gives.
    pub(crate) condition: ValueId,
    /// `1000 sqrt(eta_t)`, a row for each step.
    pub(crate) time: ValueId,
    /// `1000 / scale`, a row for each step.
    pub(crate) scale: ValueId,
    /// What [`CasArbiDenoiser::coordinates`] gives; `None`: the adapter is left out.
    pub(crate) coordinates: Option<ValueId>,
}

impl CasArbiDenoiser {
    /// Reads `denoiser/config.json`.
    pub fn from_config(text: &str) -> Result<CasArbiDenoiser> {
        let mut f = Fields::new("CasArbiDenoiser", text)?;
        let most = limits::MAX_CHANNELS;
        let channels = f.channels_list("block_out_channels", &[64, 128, 256, 512, 512])?;
        let groups = f.u32("norm_num_groups", 32, most)?;
        let net = CasArbiDenoiser {
            in_channels: f.u32("in_channels", 3, most)?,
            out_channels: f.u32("out_channels", 3, most)?,
            lr_channels: f.u32("lr_channels", 64, most)?,
            hr_channels: f.u32("hr_channels", 64, most)?,
            layers: f.u32("layers_per_block", 2, u64::from(limits::MAX_LEVEL_LAYERS))?,
            attends: f.bools("attention_levels", &[false, false, false, true, false])?,
            window: f.u32("attention_window", 16, u64::from(limits::MAX_TILE))?,
            heads: f.u32("num_attention_heads", 1, most)?,
            norm: Norm { groups, eps: f.eps("norm_eps", 1e-5)? },
            time_proj: f.u32("time_proj_dim", 64, most)?,
            time_dim: f.u32("time_embedding_dim", 256, most)?,
            adapter: f.bool("adapter", true)?,
            bands: f.u32("coordinate_bands", 10, 24)?,
            coordinate_channels: f.u32("coordinate_channels", 64, most)?,
            input_skip: f.bool("input_skip", false)?,
            channels,
        };
        if net.input_skip && net.in_channels != net.out_channels {
            return Err(f.wrong("input_skip", "the input is added to an answer of other channels"));
        }
        if net.attends.len() != net.channels.len() {
            let why = format!("expected one per block_out_channels, {}", net.channels.len());
            return Err(f.wrong("attention_levels", why));
        }
        if !net.time_proj.is_multiple_of(2) {
            return Err(f.wrong("time_proj_dim", "an even number is needed"));
        }
        for (level, &c) in net.channels.iter().enumerate() {
            if c % groups != 0 {
                return Err(f.wrong("norm_num_groups", format!("does not divide the {c} channels of level {level}")));
            }
            let attends = net.attends[level] || level + 1 == net.channels.len();
            if attends && (c % net.heads != 0 || !u64::from(c / net.heads).is_multiple_of(CHANNEL_ALIGN)) {
                let why =
                    format!("does not divide the {c} channels of level {level} into multiples of {CHANNEL_ALIGN}");
                return Err(f.wrong("num_attention_heads", why));
            }
        }
        f.finish()?;
        Ok(net)
    }

    /// Channels of the picture that is denoised, and of the prediction.
    pub fn picture_channels(&self) -> [u32; 2] {
        [self.in_channels, self.out_channels]
    }

    /// Channels of the features of the stage's input and of the base picture.
    pub fn feature_channels(&self) -> [u32; 2] {
        [self.lr_channels, self.hr_channels]
    }

    /// Channels of the condition.
    pub fn condition_channels(&self) -> u32 {
        self.channels[0]
    }

    /// Whether it has an adapter.
    pub fn has_adapter(&self) -> bool {
        self.adapter
    }

    /// Fourier bands of each coordinate.
    pub fn bands(&self) -> u32 {
        self.bands
    }

    /// Channels of the coordinate features.
    pub fn coordinate_channels(&self) -> u32 {
        self.coordinate_channels
    }

    /// Window side over the coarsest level's side.
    pub fn stride(&self) -> u32 {
        1 << (self.channels.len() - 1)
    }

    /// The graph of one step, `x` `[n, h, w, in]` and `condition` to `prediction`, f32; inputs `timestep` and `scale`
    /// (tables over steps) and, with an adapter, `coordinates`.
    pub fn build(&self, batch: u32, size: [u32; 2], steps: u32, dtype: DType) -> Result<Graph> {
        let [h, w] = size;
        let mut b = Builder::new(format!("casarbi {h}x{w} b{batch} {}", dtype.name()), dtype);
        let input =
            |b: &mut Builder, name: &str, c: u32| b.input(name, Shape::new(batch, h, w, c), dtype, Lifetime::Window);
        let x = input(&mut b, "x", self.in_channels);
        let skip = if dtype == DType::F32 { x } else { b.push_as("x.wide", same(), &[x], DType::F32)? };
        let seen = Seen {
            x,
            skip,
            condition: input(&mut b, "condition", self.channels[0]),
            time: b.input("timestep", Shape::new(steps, 1, 1, 1), DType::F32, Lifetime::Step),
            scale: b.input("scale", Shape::new(steps, 1, 1, 1), DType::F32, Lifetime::Step),
            coordinates: self.adapter.then(|| input(&mut b, "coordinates", self.coordinate_channels)),
        };
        let y = self.predict(&mut b, &seen)?;
        b.output("prediction", y);
        Ok(b.finish())
    }

    /// The graph of what a stage prepares for its steps: `lr` and `hr`, the encoders' features, to `condition`, and, with an
    /// adapter, the planes `coordinates` to `coordinate_features`.
    pub fn build_preparation(&self, batch: u32, [h, w]: [u32; 2], dtype: DType) -> Result<Graph> {
        let mut b = Builder::new(format!("casarbi preparation {h}x{w} b{batch} {}", dtype.name()), dtype);
        let input =
            |b: &mut Builder, name: &str, c: u32| b.input(name, Shape::new(batch, h, w, c), dtype, Lifetime::Window);
        let [lr, hr] = self.feature_channels();
        let (lr, hr) = (input(&mut b, "lr", lr), input(&mut b, "hr", hr));
        let condition = self.condition(&mut b, lr, hr)?;
        b.output("condition", condition);
        if self.adapter {
            let planes = input(&mut b, "coordinates", 2 * (1 + 2 * self.bands()));
            let features = self.coordinates(&mut b, planes)?;
            b.output("coordinate_features", features);
        }
        Ok(b.finish())
    }

    /// Once per stage: the condition of features of the stage's input, enlarged, and of the base picture.
    pub(crate) fn condition(&self, b: &mut Builder, lr: ValueId, hr: ValueId) -> Result<ValueId> {
        let both = b.push("condition.features", Op::Concat, &[lr, hr])?;
        b.conv_without_bias("conv_condition", both, self.channels[0], 3)
    }

    /// Once per stage: coordinate features of the planes `x, sin(2^l pi x).., cos(2^l pi x)..`, then those of `y`.
    pub(crate) fn coordinates(&self, b: &mut Builder, planes: ValueId) -> Result<ValueId> {
        b.module("coordinate_encoder", |b| {
            let c = self.coordinate_channels;
            let x = b.conv("conv1", planes, c, 3, 1, Padding::all(1))?;
            let x = b.activation("conv1.act", x, Act::Silu)?;
            b.conv("conv2", x, c, 3, 1, Padding::all(1))
        })
    }

    /// A step's prediction, f32.
    pub(crate) fn predict(&self, b: &mut Builder, seen: &Seen) -> Result<ValueId> {
        let t = self.sinusoid(b, "time_proj", seen.time)?;
        let row = b.module("time_embedding", |b| {
            let t = b.linear("linear_1", t, self.time_dim, true)?;
            let t = b.activation("act", t, Act::Silu)?;
            let t = b.linear("linear_2", t, self.time_dim, true)?;
            b.activation("linear_2+silu", t, Act::Silu)
        })?;
        let x = b.conv("conv_in", seen.x, self.channels[0], 3, 1, Padding::all(1))?;
        let first = b.add("first", x, seen.condition)?;
        let mut modulations = match seen.coordinates {
            Some(coordinates) => self.adapt(b, first, coordinates, t, seen.scale)?,
            None => Vec::new(),
        }
        .into_iter();
        let last = self.channels.len() - 1;
        let mut x = first;
        let mut skips = vec![x];
        for (level, &c) in self.channels.iter().enumerate() {
            b.module(&format!("down_blocks.{level}"), |b| {
                for j in 0..self.layers {
                    x = modulated(b, &format!("resnets.{j}"), x, c, self.norm, Some(row), modulations.next())?;
                    x = self.attend(b, level, j, x)?;
                    skips.push(x);
                }
                if level != last {
                    x = downsample(b, x, 1)?;
                    skips.push(x);
                }
                Ok(())
            })?;
        }
        let c = self.channels[last];
        x = b.module("mid_block", |b| {
            let x = resnet(b, "resnets.0", x, c, self.norm, Some(row))?;
            let x = self.attention(b, "attentions.0", x)?;
            resnet(b, "resnets.1", x, c, self.norm, Some(row))
        })?;
        for (i, (level, &c)) in self.channels.iter().enumerate().rev().enumerate() {
            b.module(&format!("up_blocks.{i}"), |b| {
                for j in 0..=self.layers {
                    let Some(skip) = skips.pop() else { return Err(unbalanced()) };
                    let both = b.push(&format!("resnets.{j}.input"), Op::Concat, &[x, skip])?;
                    x = resnet(b, &format!("resnets.{j}"), both, c, self.norm, Some(row))?;
                    x = self.attend(b, level, j, x)?;
                }
                if level > 0 {
                    let Some(&skip) = skips.last() else { return Err(unbalanced()) };
                    let s = b.shape(skip);
                    x = upsample(b, x, [s.h, s.w])?;
                }
                Ok(())
            })?;
        }
        let x = b.group_norm("conv_norm_out", x, self.norm.groups, self.norm.eps, Act::Silu)?;
        let y = b.conv_as("conv_out", x, self.out_channels, 3, 1, Padding::all(1), DType::F32)?;
        if self.input_skip { b.add_as("prediction", y, seen.skip, DType::F32) } else { Ok(y) }
    }

    fn sinusoid(&self, b: &mut Builder, name: &str, value: ValueId) -> Result<ValueId> {
        let op = TimeEmbedding { dim: self.time_proj, flip_sin_to_cos: true, freq_shift: 0.0, max_period: 10_000.0 };
        b.time_embedding(name, value, op)
    }

    /// The adapter: gamma and beta for every resnet on the way down.
    fn adapt(
        &self,
        b: &mut Builder,
        first: ValueId,
        coordinates: ValueId,
        time: ValueId,
        scale: ValueId,
    ) -> Result<Vec<ValueId>> {
        b.module("adapter", |b| {
            let s = self.sinusoid(b, "scale_proj", scale)?;
            let row = b.module("embedding", |b| {
                let t = b.linear("linear_t", time, self.time_dim, true)?;
                let s = b.linear("linear_s", s, self.time_dim, false)?;
                let sum = b.add("sum", t, s)?;
                let sum = b.activation("act", sum, Act::Silu)?;
                let out = b.linear("linear_2", sum, self.time_dim, true)?;
                b.activation("linear_2+silu", out, Act::Silu)
            })?;
            let both = b.push("conv_in.input", Op::Concat, &[first, coordinates])?;
            let mut x = b.conv("conv_in", both, self.channels[0], 3, 1, Padding::all(1))?;
            let (mut out, mut inputs) = (Vec::new(), self.channels[0]);
            for (level, &c) in self.channels.iter().enumerate() {
                let module = format!("down_blocks.{level}");
                for j in 0..self.layers {
                    x = b.module(&module, |b| resnet(b, &format!("resnets.{j}"), x, c, self.norm, Some(row)))?;
                    out.push(b.conv(&format!("heads.{}", out.len()), x, 2 * inputs, 1, 1, Padding::default())?);
                    inputs = c;
                }
                if level + 1 != self.channels.len() {
                    x = b.module(&module, |b| downsample(b, x, 1))?;
                }
            }
            Ok(out)
        })
    }

    fn attend(&self, b: &mut Builder, level: usize, layer: u32, x: ValueId) -> Result<ValueId> {
        if self.attends[level] { self.attention(b, &format!("attentions.{layer}"), x) } else { Ok(x) }
    }

    /// `x + to_out(attention(group_norm(x)))` inside windows from the top left corner; beyond the edge tokens are
    /// zero and take part.
    fn attention(&self, b: &mut Builder, name: &str, x: ValueId) -> Result<ValueId> {
        b.module(name, |b| {
            let s = b.shape(x);
            let size = self.window;
            let t = b.group_norm("group_norm", x, self.norm.groups, self.norm.eps, Act::None)?;
            let t = b.push("windows", Op::Rearrange(Rearrange::Windows { size }), &[t])?;
            let q = b.linear("to_q", t, s.c, false)?;
            let k = b.linear("to_k", t, s.c, false)?;
            let v = b.linear("to_v", t, s.c, false)?;
            let head_dim = s.c / self.heads;
            let op = Attention {
                heads: self.heads,
                head_dim,
                scale: 1.0 / (head_dim as f32).sqrt(),
                q_offset: 0,
                k_offset: 0,
                v_offset: 0,
                causal: false,
                rows: true,
                relative: None,
            };
            let t = b.push("attention", Op::Attention(op), &[q, k, v])?;
            let t = b.linear("to_out.0", t, s.c, true)?;
            let t = b.push("unwindows", Op::Rearrange(Rearrange::Unwindows { size, to: [s.h, s.w] }), &[t])?;
            b.add("", t, x)
        })
    }
}

fn same() -> Op {
    Op::Pointwise(Pointwise { alpha: 1.0, beta: None, gamma: 0.0, act: Act::None, clamp: None, table: false })
}

fn unbalanced() -> Error {
    Error::new(Kind::Internal, "model", "a way up without a skip")
}

#[cfg(test)]
mod tests {
    use super::super::parameters;
    use super::*;

    #[test]
    fn defaults_are_of_the_published_size() {
        let net = CasArbiDenoiser::from_config("{}").expect("defaults");
        let count = parameters(&net.build(1, [128, 128], 1, DType::F32).expect("graph"));
        assert!((110_000_000..140_000_000).contains(&count), "{count}");
        assert_eq!((net.stride(), net.condition_channels()), (16, 64));
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        for (config, key) in [
            (r#"{"attention_levels":[true]}"#, "attention_levels"),
            (r#"{"norm_num_groups":24}"#, "norm_num_groups"),
            (r#"{"num_attention_heads":3}"#, "num_attention_heads"),
            (r#"{"time_proj_dim":63}"#, "time_proj_dim"),
            (r#"{"frobnicate":1}"#, "frobnicate"),
        ] {
            let e = CasArbiDenoiser::from_config(config).expect_err(key);
            assert!(e.message().contains(key), "{e}");
        }
    }
}
