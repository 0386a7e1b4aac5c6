//! The networks `tessera run` knows: what each takes, and the graph for the shapes that were given.

use super::Component;
use super::tensors::{self, Axis, Elements, Given, Tensors, Values, Wanted, to_nhwc};
use crate::abi::Item;
use crate::error::{Error, Kind, Result};
use crate::extent;
use crate::graph::{DType, Graph};
use crate::model::Extents;
use crate::model::clip_text::ClipTextModel;
use crate::model::clip_vision::ClipVisionModel;
use crate::model::controlnet::ControlNetModel;
use crate::model::depth_anything::DepthAnything;
use crate::model::sam::SamVisionModel;
use crate::model::spixel_fcn::SpixelNet;
use crate::model::unet::UNet2DConditionModel;
use crate::model::vae::AutoencoderKL;
use crate::weights::Checkpoint;

const N: Axis = Axis::Free("N");
const H: Axis = Axis::Free("H");
const W: Axis = Axis::Free("W");
const T: Axis = Axis::Free("T");

/// A network read from its config.
pub(super) enum Network {
    Unet(UNet2DConditionModel),
    Encoder(AutoencoderKL),
    Decoder(AutoencoderKL),
    ControlNet(ControlNetModel),
    Text(ClipTextModel),
    Vision(ClipVisionModel),
    Superpixel(SpixelNet),
    Depth(DepthAnything),
    Sam(SamVisionModel),
}

/// A network made ready for given tensors.
pub(super) struct Job {
    /// The graph as built, not fused.
    pub(super) graph: Graph,
    /// Values of its inputs, NHWC.
    pub(super) feeds: Vec<(String, Vec<f32>)>,
    /// One item for each element of the batch.
    pub(super) items: Vec<Item>,
}

impl Network {
    /// Reads the config of `component`.
    pub(super) fn parse(component: Component, config: &str) -> Result<Network> {
        Ok(match component {
            Component::Unet => Network::Unet(UNet2DConditionModel::from_config(config)?),
            Component::VaeEncoder => Network::Encoder(AutoencoderKL::from_config(config)?),
            Component::VaeDecoder => Network::Decoder(AutoencoderKL::from_config(config)?),
            Component::ControlNet => Network::ControlNet(ControlNetModel::from_config(config)?),
            Component::TextEncoder => Network::Text(ClipTextModel::from_config(config)?),
            Component::VisionEncoder => Network::Vision(ClipVisionModel::from_config(config)?),
            Component::Superpixel => Network::Superpixel(SpixelNet::from_config(config)?),
            Component::Depth => Network::Depth(DepthAnything::from_config(config)?),
            Component::SamEncoder => Network::Sam(SamVisionModel::from_config(config)?),
        })
    }

    /// Rows and columns of the input for a picture of 512 x 512 pixels; of no meaning where they are not free.
    pub(super) fn usual_size(&self) -> Result<[u32; 2]> {
        Ok(match self {
            Network::Encoder(_) => [512, 512],
            Network::Unet(_) | Network::Decoder(_) | Network::ControlNet(_) => [64, 64],
            Network::Superpixel(net) => [512u32.next_multiple_of(net.factor()); 2],
            Network::Depth(net) => net.input_size(512, 512)?,
            Network::Text(_) | Network::Vision(_) | Network::Sam(_) => [0, 0],
        })
    }

    /// Whether the tensors are of this network's variant; an error says of which they are.
    pub(super) fn fits(&self, checkpoint: &Checkpoint) -> Result<()> {
        match self {
            Network::Depth(net) => net.fits(checkpoint),
            Network::Sam(net) => net.fits(checkpoint),
            Network::Unet(_)
            | Network::Encoder(_)
            | Network::Decoder(_)
            | Network::ControlNet(_)
            | Network::Text(_)
            | Network::Vision(_)
            | Network::Superpixel(_) => Ok(()),
        }
    }

    /// The graph at a size, for plans shown without tensors: `height` and `width` of the network's own
    /// input where it has one of free size.
    pub(super) fn graph_at(&self, batch: u32, [height, width]: [u32; 2], dtype: DType) -> Result<Graph> {
        let e = Extents { batch, ..Extents::of(height, width) };
        match self {
            Network::Unet(net) => net.build(&e, dtype),
            Network::Encoder(net) => net.build_encoder(batch, height, width, dtype),
            Network::Decoder(net) => net.build_decoder(batch, height, width, dtype),
            Network::ControlNet(net) => net.build(&e, 1.0, dtype),
            Network::Text(net) => net.build(batch, net.max_tokens(), dtype),
            Network::Vision(net) => net.build(batch, dtype),
            Network::Superpixel(net) => net.build(batch, height, width, dtype),
            Network::Depth(net) => net.build(batch, height, width, dtype),
            Network::Sam(net) => net.build(batch, dtype),
        }
    }

    /// Tensors of the checkpoint that are read on the host, beside those of the graph.
    pub(super) fn host_tensors(&self) -> Vec<(String, Vec<u64>)> {
        match self {
            Network::Text(net) => net.host_tensors(),
            Network::Vision(net) => net.host_tensors(),
            Network::Depth(net) => net.host_tensors(),
            Network::Sam(net) => net.host_tensors(),
            Network::Unet(_)
            | Network::Encoder(_)
            | Network::Decoder(_)
            | Network::ControlNet(_)
            | Network::Superpixel(_) => Vec::new(),
        }
    }

    /// Whether every value with rows is a sequence of tokens.
    pub(super) fn is_all_tokens(&self) -> bool {
        match self {
            Network::Text(_) | Network::Vision(_) => true,
            Network::Unet(_)
            | Network::Encoder(_)
            | Network::Decoder(_)
            | Network::ControlNet(_)
            | Network::Superpixel(_)
            | Network::Depth(_)
            | Network::Sam(_) => false,
        }
    }

    /// Whether tensor `name` of the checkpoint belongs to this network's other half, which is not run.
    pub(super) fn other_half(&self, name: &str) -> bool {
        let starts = |with: [&str; 2]| with.iter().any(|w| name.starts_with(w));
        match self {
            Network::Encoder(_) => starts(["decoder.", "post_quant_conv."]),
            Network::Decoder(_) => starts(["encoder.", "quant_conv."]),
            Network::Unet(_)
            | Network::ControlNet(_)
            | Network::Text(_)
            | Network::Vision(_)
            | Network::Superpixel(_)
            | Network::Depth(_)
            | Network::Sam(_) => false,
        }
    }

    /// The tensors it takes from `file`. Only names and shapes are looked at: what a ControlNet gives to a UNet
    /// has shapes that follow from the sample's.
    pub(super) fn wanted(&self, file: &Checkpoint) -> Result<Vec<Wanted>> {
        let is = |n: u32| Axis::Is(u64::from(n));
        Ok(match self {
            Network::Unet(net) => {
                let mut wanted = denoiser(net.in_channels(), net.context_channels());
                wanted.extend(residuals(net, file)?);
                wanted
            }
            Network::ControlNet(net) => {
                let mut wanted = denoiser(net.in_channels(), net.context_channels());
                let f = u64::from(net.factor());
                let cond = [N, is(net.conditioning_channels()), Axis::Times(f, "H"), Axis::Times(f, "W")];
                wanted.push(Wanted::floats("controlnet_cond", &cond));
                wanted.push(Wanted {
                    names: vec!["conditioning_scale".into()],
                    shapes: vec![vec![], vec![Axis::Is(1)]],
                    elements: Elements::Numbers,
                    optional: true,
                });
                wanted
            }
            Network::Encoder(net) => {
                let f = u64::from(net.factor());
                let sides = [Axis::AtLeast("H", f), Axis::AtLeast("W", f)];
                vec![Wanted::floats("sample", &[N, is(net.in_channels()), sides[0], sides[1]])]
            }
            Network::Decoder(net) => {
                let mut w = Wanted::floats("sample", &[N, is(net.latent_channels()), H, W]);
                w.names.push("latent_sample".into());
                vec![w]
            }
            // How many tokens there may be, and which, is said when they are looked up.
            Network::Text(_) => vec![Wanted {
                names: vec!["input_ids".into()],
                shapes: vec![vec![N, T]],
                elements: Elements::Integers,
                optional: false,
            }],
            Network::Vision(net) => {
                let side = is(net.image_size());
                vec![Wanted::floats("pixel_values", &[N, is(net.channels()), side, side])]
            }
            // Which sides there may be is said where the graph is built.
            Network::Superpixel(net) => vec![Wanted::floats("pixel_values", &[N, is(net.in_channels()), H, W])],
            Network::Depth(net) => vec![Wanted::floats("pixel_values", &[N, is(net.channels()), H, W])],
            Network::Sam(net) => {
                let side = is(net.image_size());
                vec![Wanted::floats("pixel_values", &[N, is(net.channels()), side, side])]
            }
        })
    }

    /// Tensors that PyTorch's module takes and this network has no use for.
    pub(super) fn ignored(&self) -> &'static [&'static str] {
        let context = match self {
            Network::Unet(net) => net.context_channels(),
            Network::ControlNet(net) => net.context_channels(),
            Network::Encoder(_)
            | Network::Decoder(_)
            | Network::Text(_)
            | Network::Vision(_)
            | Network::Superpixel(_)
            | Network::Depth(_)
            | Network::Sam(_) => Some(0),
        };
        if context.is_none() { &["encoder_hidden_states"] } else { &[] }
    }

    /// The graph for `given`, stored as `dtype`, and what feeds it; `checkpoint` is looked up on the host.
    pub(super) fn job(&self, given: &Tensors, checkpoint: &Checkpoint, dtype: DType) -> Result<Job> {
        match self {
            Network::Unet(net) => {
                let (e, mut job) = conditioned(given)?;
                job.graph = if given.get("mid_block_res_sample").is_some() {
                    for i in 0..net.skips() {
                        job.picture(given, &format!("down_block_res_samples.{i}"))?;
                    }
                    job.picture(given, "mid_block_res_sample")?;
                    net.build_with_residuals(&e, dtype)?
                } else {
                    net.build(&e, dtype)?
                };
                Ok(job)
            }
            Network::ControlNet(net) => {
                let (e, mut job) = conditioned(given)?;
                job.picture(given, "controlnet_cond")?;
                let scale = given.get("conditioning_scale").and_then(|g| g.floats().first().copied()).unwrap_or(1.0);
                job.graph = net.build(&e, scale, dtype)?;
                Ok(job)
            }
            Network::Encoder(net) => {
                let (e, mut job) = Job::of_picture(given, "sample", "sample")?;
                job.graph = net.build_encoder(e.batch, e.height, e.width, dtype)?;
                Ok(job)
            }
            Network::Decoder(net) => {
                let (e, mut job) = Job::of_picture(given, "sample", "latent_sample")?;
                job.graph = net.build_decoder(e.batch, e.height, e.width, dtype)?;
                Ok(job)
            }
            Network::Text(net) => {
                let ids = given.need("input_ids")?;
                let tokens = extent::to_u32("input_ids", ids.shape.get(1).copied().unwrap_or(0))?;
                let rows = rows_of_ids(ids, tokens, net.vocabulary())?;
                let batch = extent::to_u32("input_ids", rows.len() as u64)?;
                let embedded = net.embed(checkpoint, &rows).map_err(|e| match e.kind() {
                    // What is wrong with ids is wrong with the file they came from.
                    Kind::Usage => Error::new(Kind::BadInput, "tensors", format!("`input_ids`: {}", e.message())),
                    _ => e,
                })?;
                let feed = ("inputs_embeds".to_owned(), embedded);
                Ok(Job { graph: net.build(batch, tokens, dtype)?, feeds: vec![feed], ..Job::of_batch(batch) })
            }
            Network::Vision(net) => {
                let pixels = given.need("pixel_values")?;
                let batch = extent::to_u32("pixel_values", pixels.shape.first().copied().unwrap_or(0))?;
                let mut job = Job { graph: net.build(batch, dtype)?, ..Job::of_batch(batch) };
                job.host(net.inputs(checkpoint, &pixels.floats(), batch)?);
                Ok(job)
            }
            Network::Superpixel(net) => {
                let (e, mut job) = Job::of_picture(given, "pixel_values", "pixel_values")?;
                job.graph = net.build(e.batch, e.height, e.width, dtype).map_err(of_input)?;
                Ok(job)
            }
            Network::Depth(net) => {
                let (e, mut job) = Job::of_picture(given, "pixel_values", "pixel_values")?;
                job.graph = net.build(e.batch, e.height, e.width, dtype).map_err(of_input)?;
                job.host(net.inputs(checkpoint, e.batch, e.height, e.width)?);
                Ok(job)
            }
            Network::Sam(net) => {
                let (e, mut job) = Job::of_picture(given, "pixel_values", "pixel_values")?;
                job.graph = net.build(e.batch, dtype)?;
                job.host(net.inputs(checkpoint, e.batch)?);
                Ok(job)
            }
        }
    }
}

/// What is wrong with a picture's sides is wrong with the file it came from.
fn of_input(e: Error) -> Error {
    match (e.kind(), e.advice()) {
        (Kind::Usage, Some(advice)) => Error::new(Kind::BadInput, "tensors", e.message()).advise(advice),
        _ => e,
    }
}

/// Token ids, one row for each text; one that no vocabulary can have is named here, the others where they are
/// looked up.
fn rows_of_ids(ids: &Given, tokens: u32, vocabulary: u32) -> Result<Vec<Vec<u32>>> {
    let Values::Integers(values) = &ids.values else {
        return Err(Error::new(Kind::Internal, "tensors", "`input_ids` are no whole numbers"));
    };
    let id = |(i, &v): (usize, &i64)| {
        u32::try_from(v).map_err(|_| {
            let why = format!("`input_ids` element {i} is {v}, expected 0 to {}", vocabulary.saturating_sub(1));
            Error::new(Kind::BadInput, "tensors", why)
        })
    };
    let all: Vec<u32> = values.iter().enumerate().map(id).collect::<Result<_>>()?;
    Ok(all.chunks(tokens.max(1) as usize).map(<[u32]>::to_vec).collect())
}

/// Inputs that denoiser and ControlNet share.
fn denoiser(in_channels: u32, context: Option<u32>) -> Vec<Wanted> {
    let mut wanted = vec![
        Wanted::floats("sample", &[N, Axis::Is(u64::from(in_channels)), H, W]),
        Wanted {
            names: vec!["timestep".into()],
            shapes: vec![vec![], vec![Axis::Is(1)], vec![N]],
            elements: Elements::Numbers,
            optional: false,
        },
    ];
    if let Some(c) = context.map(u64::from) {
        let mut w = Wanted::floats("encoder_hidden_states", &[N, T, Axis::Is(c)]);
        w.shapes.push(vec![Axis::Is(1), T, Axis::Is(c)]);
        wanted.push(w);
    }
    wanted
}

const DOWN: &str = "down_block_res_samples.";
const MID: &str = "mid_block_res_sample";

/// A ControlNet's residuals, wanted all together where `file` has one of them.
fn residuals(net: &UNet2DConditionModel, file: &Checkpoint) -> Result<Vec<Wanted>> {
    if !file.tensors().iter().any(|t| t.name == MID || t.name.starts_with(DOWN)) {
        return Ok(Vec::new());
    }
    // A sample that does not fit is said elsewhere; then only the names can be asked for.
    let sides = match tensors::shape_of(file, "sample") {
        Some(&[n, c, h, w]) if c == u64::from(net.in_channels()) && n.min(h).min(w) > 0 => [n, h, w],
        _ => [1, 64, 64],
    };
    let [batch, height, width] = sides.map(|s| extent::to_u32("sample", s));
    let e = Extents { batch: batch?, ..Extents::of(height?, width?) };
    let graph = net.build_with_residuals(&e, DType::F32)?;
    let inputs = graph.values.iter().filter(|v| v.name == MID || is_residual(&v.name));
    Ok(inputs
        .map(|v| {
            let s = [v.shape.n, v.shape.c, v.shape.h, v.shape.w].map(|d| Axis::Is(u64::from(d)));
            Wanted::floats(v.name.clone(), &s)
        })
        .collect())
}

/// Whether `name` is an input like `down_block_res_samples.3` (and not a value made from one).
fn is_residual(name: &str) -> bool {
    name.strip_prefix(DOWN).is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

impl Job {
    /// A job of so many items, nothing else.
    fn of_batch(batch: u32) -> Job {
        Job { graph: Graph::default(), feeds: Vec::new(), items: vec![Item::default(); batch as usize] }
    }

    /// A job over the pictures `name`, fed to the graph's input `port`; `timestep` and contexts aside.
    fn of_picture(given: &Tensors, name: &str, port: &str) -> Result<(Extents, Job)> {
        let s = &given.need(name)?.shape;
        let side = |i: usize| extent::to_u32(name, s.get(i).copied().unwrap_or(0));
        let e = Extents { batch: side(0)?, ..Extents::of(side(2)?, side(3)?) };
        let mut job = Job::of_batch(e.batch);
        job.picture(given, name)?;
        if let Some(feed) = job.feeds.last_mut() {
            feed.0 = port.to_owned();
        }
        Ok((e, job))
    }

    /// Feeds what the network's own host code made of the checkpoint.
    fn host(&mut self, inputs: Vec<(&'static str, Vec<f32>)>) {
        self.feeds.extend(inputs.into_iter().map(|(name, values)| (name.to_owned(), values)));
    }

    /// Feeds the NCHW tensor `name` to the input of the same name.
    fn picture(&mut self, given: &Tensors, name: &str) -> Result<()> {
        let g = given.need(name)?;
        let &[n, c, h, w] = g.shape.as_slice() else {
            return Err(Error::new(Kind::Internal, "tensors", format!("`{name}` is no picture")));
        };
        let pixels = extent::product(name, &[h, w])?;
        let sizes = [extent::to_usize(name, n)?, extent::to_usize(name, c)?, extent::to_usize(name, pixels)?];
        self.feeds.push((name.to_owned(), to_nhwc(&g.floats(), sizes)));
        Ok(())
    }
}

/// A job with time steps and contexts: one table row each where all items share it, else one per item.
fn conditioned(given: &Tensors) -> Result<(Extents, Job)> {
    let (mut e, mut job) = Job::of_picture(given, "sample", "sample")?;
    let steps = given.need("timestep")?.floats();
    e.steps = extent::to_u32("timestep", steps.len() as u64)?;
    job.feeds.push(("timestep".into(), steps));
    if let Some(context) = given.get("encoder_hidden_states") {
        let extent = |i: usize| extent::to_u32("encoder_hidden_states", context.shape.get(i).copied().unwrap_or(0));
        (e.contexts, e.tokens) = (extent(0)?, extent(1)?);
        job.feeds.push(("encoder_hidden_states".into(), context.floats()));
    } else {
        (e.contexts, e.tokens) = (1, 1);
    }
    for (i, item) in (0u32..).zip(&mut job.items) {
        item.step_row = if e.steps > 1 { i } else { 0 };
        item.ctx_row = if e.contexts > 1 { i } else { 0 };
    }
    Ok((e, job))
}
