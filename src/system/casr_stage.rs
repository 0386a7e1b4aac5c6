//! The graphs of a CASR stage: superpixels, depth and SAM's tokens of the stage's input, and its tiles, whole or in two
//! halves with the refinement between them.

use super::casr::Casr;
use super::casr_settings::{Latent, Settings};
use super::link::Linker;
use crate::error::Result;
use crate::graph::op::{Axis, ChannelAffine, Graph, Op, Pointwise, Resample, Value, ValueId};
use crate::graph::{Act, Builder, DType, Lifetime, Shape};
use crate::model::Extents;
use crate::model::pictures::Normalisation;
use crate::model::sarm::SarmExtents;

/// Taps of a bicubic enlargement, and of a bilinear one.
pub(super) const CUBIC: u32 = 4;
/// See [`CUBIC`].
pub(super) const LINEAR: u32 = 2;
/// Channels of a picture.
const RGB: u32 = 3;

/// What fixes the graphs of a stage's tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tiles {
    /// Tiles a launch.
    pub(super) batch: u32,
    /// Rows and columns of a tile.
    pub(super) window: [u32; 2],
    /// Rows and columns of the stage's input that a tile's enlargement is made of.
    pub(super) input: [u32; 2],
    /// The same of the depth map; `None`: no depth.
    pub(super) depth: Option<[u32; 2]>,
    /// Whether there is a superpixel picture; else the enlargement stands in for it.
    pub(super) superpixels: bool,
    /// Whether the pictures come as the autoencoder's moments and the result goes as a latent: the autoencoder works on
    /// canvases.
    pub(super) latent: bool,
    /// Rows of the constant context.
    pub(super) tokens: u32,
    /// Storage type.
    pub(super) dtype: DType,
}

/// What SARM looks at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Looks {
    /// Tokens of all tiles.
    pub(super) cache: u32,
    /// The side that each tile's tokens are pooled to; `None`: all of them.
    pub(super) pooled: Option<u32>,
    /// SAM's tokens.
    pub(super) semantic: Option<u32>,
    /// Factor of what it adds.
    pub(super) scale: f32,
}

/// `gain * v + shift`, stored as `dtype`.
fn affine(l: &mut Linker, name: &str, v: ValueId, gain: f32, shift: f32, dtype: DType) -> Result<ValueId> {
    let op = Pointwise { alpha: gain, beta: None, gamma: shift, act: Act::None, clamp: None, table: false };
    l.push(name, Op::Pointwise(op), &[v], dtype)
}

fn narrow(l: &mut Linker, name: &str, v: ValueId, dtype: DType) -> Result<ValueId> {
    if l.value(v).dtype == dtype { Ok(v) } else { affine(l, name, v, 1.0, 0.0, dtype) }
}

fn input(l: &mut Linker, name: &str, batch: u32, [h, w]: [u32; 2], c: u32, dtype: DType) -> ValueId {
    let shape = Shape::new(batch, h, w, c);
    l.input(Value { name: name.into(), shape, dtype, lifetime: Lifetime::Window })
}

/// The input `{name}` enlarged to `window` by the tables `{name}.rows` and `{name}.columns`.
fn enlarged(l: &mut Linker, name: &str, t: &Tiles, from: [u32; 2], channels: u32, taps: u32) -> Result<ValueId> {
    let mut x = input(l, name, t.batch, from, channels, DType::F32);
    for (axis, leaf, out) in [(Axis::Rows, "rows", t.window[0]), (Axis::Columns, "columns", t.window[1])] {
        let table = input(l, &format!("{name}.{leaf}"), t.batch, [1, out], 1 + taps, DType::F32);
        x = l.push(&format!("{name}.by_{leaf}"), Op::Resample(Resample { axis, taps }), &[x, table], DType::F32)?;
    }
    Ok(x)
}

/// What a half of the tiles' work begins with.
struct Pictures {
    /// The enlargement, -1 to 1, f32.
    enlarged: Option<ValueId>,
    /// The superpixel picture, likewise.
    superpixels: Option<ValueId>,
}

impl Casr {
    /// The whole of a tile: window inputs as [`Casr::features`] names them, output `result`.
    pub(super) fn tile(&self, s: &Settings, t: &Tiles) -> Result<Graph> {
        let mut l = Linker::new(self.name_of("casr", s, t));
        let pictures = self.pictures(&mut l, s, t, true)?;
        let (z, features) = self.features_of(&mut l, s, t, &pictures)?;
        self.finish(l, s, t, z, features, pictures.enlarged)
    }

    /// The first half: inputs `superpixels`, `input` with its tables, `depth` with its tables, `planes`,
    /// `unet.timestep` and so on; outputs `features`, `latent` and `keys`.
    pub(super) fn features(&self, s: &Settings, t: &Tiles, looks: &Looks) -> Result<Graph> {
        let mut l = Linker::new(format!("{} keys {:?}", self.name_of("casr features", s, t), looks.pooled));
        let pictures = self.pictures(&mut l, s, t, false)?;
        let (z, features) = self.features_of(&mut l, s, t, &pictures)?;
        if let Some((sarm, _)) = &self.sarm {
            let mut b = Builder::new("keys", t.dtype);
            let x = b.input("hidden_states", l.value(features).shape, t.dtype, Lifetime::Window);
            let keys = sarm.keys(&mut b, x, looks.pooled)?;
            b.output("keys", keys);
            let keys = l.part("sarm", &b.finish(), &[("hidden_states", features)])?[0];
            l.output("keys", keys);
        }
        l.output("features", features);
        l.output("latent", z);
        Ok(l.finish())
    }

    /// The second half: inputs `features`, `latent`, `sarm.cache`, `sarm.encoder_hidden_states`, and `input` with its
    /// tables where it is added; output `result`.
    pub(super) fn refined(&self, s: &Settings, t: &Tiles, looks: &Looks) -> Result<Graph> {
        let mut l = Linker::new(format!("{} {looks:?}", self.name_of("casr refine", s, t)));
        let f = self.vae.factor();
        let map = t.window.map(|side| side / f);
        let features = input(&mut l, "features", t.batch, map, self.unet.feature_channels(), t.dtype);
        let z = input(&mut l, "latent", t.batch, map, self.vae.latent_channels(), DType::F32);
        let added = s.residual && !t.latent;
        let enlarged = if added { Some(enlarged(&mut l, "input", t, t.input, RGB, CUBIC)?) } else { None };
        let mut x = features;
        if let Some((sarm, _)) = &self.sarm {
            let e =
                SarmExtents { batch: t.batch, map, cache: looks.cache, semantic: looks.semantic, scale: looks.scale };
            x = l.part("sarm", &sarm.build(&e, t.dtype)?, &[("hidden_states", features)])?[0];
        }
        self.finish(l, s, t, z, x, enlarged)
    }

    fn name_of(&self, what: &str, s: &Settings, t: &Tiles) -> String {
        let parts = (t.superpixels, t.depth, s.residual, t.latent);
        format!("{what} {:?} of {:?} b{} {parts:?} {}", t.window, t.input, t.batch, t.dtype.name())
    }

    fn pictures(&self, l: &mut Linker, s: &Settings, t: &Tiles, whole: bool) -> Result<Pictures> {
        if t.latent {
            return Ok(Pictures { enlarged: None, superpixels: None });
        }
        let shown = |picture: Latent| s.latents.iter().any(|l| l.shown(t.superpixels) == picture);
        let needed = shown(Latent::StageInput) || (whole && s.residual);
        let enlarged = if needed { Some(enlarged(l, "input", t, t.input, RGB, CUBIC)?) } else { None };
        let wanted = shown(Latent::Superpixels);
        let superpixels = wanted.then(|| input(l, "superpixels", t.batch, t.window, RGB, DType::F32));
        Ok(Pictures { enlarged, superpixels })
    }

    /// What the wide latent's channels are multiplied by, and what is added, for each tile of a launch: its scaling, then
    /// the planes' values.
    pub(super) fn factors(&self, planes: &[f32], batch: u32) -> Vec<f32> {
        let z = self.vae.latent_channels() as usize;
        let (scaling, shift) = (self.vae.scaling_factor, self.vae.shift_factor);
        let mut rows = vec![scaling; z];
        rows.resize(z + planes.len(), 0.0);
        rows.extend(std::iter::repeat_n(-shift * scaling, z));
        rows.extend(planes);
        rows.repeat(batch as usize)
    }

    /// The latent that the step starts from, f32, and the UNet's features before its last norm.
    fn features_of(&self, l: &mut Linker, s: &Settings, t: &Tiles, p: &Pictures) -> Result<(ValueId, ValueId)> {
        let mut latents = Vec::new();
        for (i, latent) in s.latents.iter().enumerate() {
            let shown = latent.shown(t.superpixels);
            let same = (0..i).find(|&j| s.latents[j].shown(t.superpixels) == shown);
            let picture = match shown {
                Latent::Superpixels => p.superpixels,
                Latent::StageInput => p.enlarged,
            };
            let moments = match (same, picture) {
                (Some(j), _) => {
                    latents.push(latents[j]);
                    continue;
                }
                (None, _) if t.latent => {
                    let map = t.window.map(|side| side / self.vae.factor());
                    input(l, shown.moments(), t.batch, map, 2 * self.vae.latent_channels(), DType::F32)
                }
                (None, Some(picture)) => self.moments(l, t, &format!("picture.{i}.stored"), picture)?,
                (None, None) => return Err(super::state::wrong("casr: a latent without a picture")),
            };
            latents.push((self.mean(l, i, moments)?, moments));
        }
        let z = latents[s.sample].0;
        let latent = l.value(z).shape;
        let planes = s.planes.len() as u32;
        let mut parts = Vec::new();
        for (i, &(z, moments)) in latents.iter().enumerate() {
            let name = format!("latent.{i}.stored");
            if planes > 0 && i == 1 {
                // A convolution reads two sources: the planes take the place of channels behind the last latent's, whose
                // factor is 0.
                let channels = latent.c + planes;
                let wide = l.push("latent.wide", Op::Slice { begin: 0, channels }, &[moments], DType::F32)?;
                let shape = Shape::new(t.batch, 1, 2, channels);
                let factors = Value { name: "factors".into(), shape, dtype: DType::F32, lifetime: Lifetime::Job };
                let factors = l.input(factors);
                parts.push(l.push(
                    &name,
                    Op::ChannelAffine(ChannelAffine { act: Act::None }),
                    &[wide, factors],
                    t.dtype,
                )?);
            } else {
                parts.push(narrow(l, &name, z, t.dtype)?);
            }
        }
        if planes > 0 && latents.len() == 1 {
            let shape = latent.with_c(planes);
            parts.push(l.input(Value { name: "planes".into(), shape, dtype: t.dtype, lifetime: Lifetime::Job }));
        }
        let sample = match parts[..] {
            [one] => one,
            [a, b] => l.push("sample", Op::Concat, &[a, b], t.dtype)?,
            _ => return Err(super::state::wrong("casr: more than two parts of the UNet's input")),
        };
        let (batch, tokens) = (t.batch, t.tokens);
        let e = Extents { batch, height: latent.h, width: latent.w, steps: 1, contexts: 1, tokens };
        let Some((from, (_, control))) = t.depth.zip(self.depth.as_ref()) else {
            let unet = self.unet.build_features(&e, t.dtype, false)?;
            return Ok((z, l.part("unet", &unet, &[("sample", sample)])?[0]));
        };
        let depth = enlarged(l, "depth", t, from, RGB, LINEAR)?;
        let depth = narrow(l, "depth.stored", depth, t.dtype)?;
        let graph = control.build(&e, s.conditioning_scale, t.dtype)?;
        let names: Vec<String> = graph.outputs.iter().map(|(name, _)| name.clone()).collect();
        let residuals = l.part("controlnet", &graph, &[("sample", sample), ("controlnet_cond", depth)])?;
        let mut bind: Vec<(&str, ValueId)> = names.iter().map(String::as_str).zip(residuals).collect();
        bind.push(("sample", sample));
        let unet = self.unet.build_features(&e, t.dtype, true)?;
        Ok((z, l.part("unet", &unet, &bind)?[0]))
    }

    /// The moments of the latent of a picture in -1 to 1.
    fn moments(&self, l: &mut Linker, t: &Tiles, name: &str, picture: ValueId) -> Result<ValueId> {
        let stored = narrow(l, name, picture, t.dtype)?;
        let encoder = self.vae.build_encoder(t.batch, t.window[0], t.window[1], t.dtype)?;
        Ok(l.part("vae", &encoder, &[("sample", stored)])?[0])
    }

    /// The scaled latent, f32, whose moments these are.
    fn mean(&self, l: &mut Linker, i: usize, moments: ValueId) -> Result<ValueId> {
        let channels = self.vae.latent_channels();
        let mean = l.push(&format!("latent.{i}.mean"), Op::Slice { begin: 0, channels }, &[moments], DType::F32)?;
        let (scaling, shift) = (self.vae.scaling_factor, self.vae.shift_factor);
        if (scaling, shift) == (1.0, 0.0) {
            return Ok(mean);
        }
        affine(l, &format!("latent.{i}"), mean, scaling, -shift * scaling, DType::F32)
    }

    /// The autoencoder on canvases: the encoder from `window` (f32, -1 to 1) to `moments`, the decoder from `clean` to
    /// `result`, 0 to 1, with `window` where that is added.
    pub(super) fn autoencoder(&self, s: &Settings, t: &Tiles) -> Result<[Graph; 2]> {
        let of = |what: &str| format!("{what} {:?} b{} {}", t.window, t.batch, t.dtype.name());
        let mut l = Linker::new(of("casr-encode"));
        let window = input(&mut l, "window", t.batch, t.window, RGB, DType::F32);
        let moments = self.moments(&mut l, t, "window.stored", window)?;
        l.output("moments", moments);
        let encoder = l.finish();
        let mut l = Linker::new(of("casr-decode"));
        let map = t.window.map(|side| side / self.vae.factor());
        let clean = input(&mut l, "clean", t.batch, map, self.vae.latent_channels(), t.dtype);
        let window = s.residual.then(|| input(&mut l, "window", t.batch, t.window, RGB, DType::F32));
        let result = self.decoded(&mut l, t, clean, window)?;
        l.output("result", result);
        Ok([encoder, l.finish()])
    }

    /// The step, the decoder and the sum; the graph's output `result`, 0 to 1. Where the decoder works on a canvas, the
    /// step alone: output `clean`.
    fn finish(
        &self,
        mut l: Linker,
        s: &Settings,
        t: &Tiles,
        z: ValueId,
        features: ValueId,
        enlarged: Option<ValueId>,
    ) -> Result<Graph> {
        let map = l.value(z).shape;
        let head = self.unet.build_head(t.batch, map.h, map.w, t.dtype)?;
        let prediction = l.part("unet", &head, &[("hidden_states", features)])?[0];
        let [a, b] = self.coefficients;
        let scaling = f64::from(self.vae.scaling_factor);
        let (alpha, beta) = ((a / scaling) as f32, Some((b / scaling) as f32));
        let gamma = self.vae.shift_factor;
        let step = Pointwise { alpha, beta, gamma, act: Act::None, clamp: None, table: false };
        // In f32 from f32: only the result is stored narrow.
        let clean = l.push("clean", Op::Pointwise(step), &[z, prediction], t.dtype)?;
        if t.latent {
            l.output("clean", clean);
            return Ok(l.finish());
        }
        let result = self.decoded(&mut l, t, clean, enlarged.filter(|_| s.residual))?;
        l.output("result", result);
        Ok(l.finish())
    }

    /// The picture of a latent, 0 to 1, with the enlargement where that is added.
    fn decoded(&self, l: &mut Linker, t: &Tiles, clean: ValueId, enlarged: Option<ValueId>) -> Result<ValueId> {
        let map = l.value(clean).shape;
        let decoder = self.vae.build_decoder(t.batch, map.h, map.w, t.dtype)?;
        let picture = l.part("vae", &decoder, &[("latent_sample", clean)])?[0];
        match enlarged {
            Some(x) => {
                let half = Some(0.5);
                let sum = Pointwise { alpha: 0.5, beta: half, gamma: 0.5, act: Act::None, clamp: None, table: false };
                l.push("result", Op::Pointwise(sum), &[picture, x], DType::F32)
            }
            None => affine(l, "result", picture, 0.5, 0.5, DType::F32),
        }
    }
}

/// `network`, whose input `pixel_values` is normalised, on a picture in 0 to 1: input `picture` f32; its tensors and other
/// inputs are called `prefix.`, its first output `output`.
pub(super) fn on_picture(prefix: &str, network: &Graph, normalisation: &Normalisation, output: &str) -> Result<Graph> {
    let value = network.values.iter().find(|v| v.name == "pixel_values");
    let Some(value) = value else { return Err(super::state::wrong(format!("{prefix} reads no picture"))) };
    let mut b = Builder::new("normalise", value.dtype);
    let picture = b.input("picture", value.shape, DType::F32, Lifetime::Window);
    let factors = b.constant("factors", Shape::new(1, 1, 2, RGB), normalisation.factors().to_vec());
    let y = b.push("normalised", Op::ChannelAffine(ChannelAffine { act: Act::None }), &[picture, factors])?;
    b.output("normalised", y);
    let mut l = Linker::new(format!("{} of a picture", network.name));
    let x = input(&mut l, "picture", value.shape.n, [value.shape.h, value.shape.w], RGB, DType::F32);
    let x = l.part("picture", &b.finish(), &[("picture", x)])?[0];
    let y = l.part(prefix, network, &[("pixel_values", x)])?[0];
    l.output(output, y);
    Ok(l.finish())
}

/// The graphs of small windows: every tensor of every network.
pub(super) fn networks(model: &Casr) -> Result<Vec<Graph>> {
    let (s, dtype) = (&model.settings, DType::F32);
    let window = [2 * model.unit(); 2];
    let depth = model.depth.as_ref().map(|_| [4; 2]);
    let t = Tiles { batch: 1, window, input: [4; 2], depth, superpixels: true, latent: false, tokens: 1, dtype };
    let mut graphs = Vec::new();
    match &model.sarm {
        None => graphs.push(model.tile(s, &t)?),
        Some((sarm, _)) => {
            let semantic = sarm.semantic_channels().map(|_| 1);
            let looks = Looks { cache: 4, pooled: None, semantic, scale: 1.0 };
            graphs.extend([model.features(s, &t, &looks)?, model.refined(s, &t, &looks)?]);
        }
    }
    if let Some(net) = &model.superpixel {
        let side = net.factor();
        graphs.push(on_picture(
            "superpixel",
            &net.build(1, side, side, dtype)?,
            &crate::model::spixel_fcn::NORMALISATION,
            "logits",
        )?);
    }
    if let Some((net, _)) = &model.depth {
        let side = 2 * net.patch();
        graphs.push(on_picture(
            "depth",
            &net.build(1, side, side, dtype)?,
            &crate::model::pictures::IMAGENET,
            "depth",
        )?);
    }
    if let Some((_, Some(sam))) = &model.sarm {
        graphs.push(on_picture("sam", &sam.build(1, dtype)?, &crate::model::pictures::SAM, "tokens")?);
    }
    Ok(graphs)
}
