//! `tessera run`: one network on given tensors, so that anyone can hold it against their own PyTorch.
//!
//! Tensors come and go as safetensors files in the naming and the shapes of diffusers and transformers:
//! pictures NCHW, tokens `[N, T, C]`. `docs/run.md` lists them.

mod network;
mod tensors;
mod trace;

use super::clock::Clock;
use super::engine::Engine;
use super::executor::Executor;
use super::options::{Cancel, Observer, Progress};
use crate::abi::{Caps, Item};
use crate::error::{Error, Kind, Result};
use crate::graph::{DType, Graph, Lifetime, passes};
use crate::plan::command::{PackedWeight, Plan};
use crate::weights::{Adapter, Checkpoint, Model, Part, TensorWriter};
use crate::{fs, plan};
use network::{Job, Network};
use std::path::PathBuf;
use std::time::Instant;
use trace::{Form, Traced};

/// A network that can be run by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Component {
    /// The denoiser: `sample`, `timestep`, `encoder_hidden_states` to `sample`.
    Unet,
    /// The autoencoder's first half: `sample` to `latent_moments`.
    VaeEncoder,
    /// The autoencoder's second half: `sample` (or `latent_sample`) to `sample`.
    VaeDecoder,
    /// A ControlNet: like the denoiser, with `controlnet_cond`, to residuals.
    ControlNet,
    /// The text encoder: `input_ids` to `last_hidden_state`.
    TextEncoder,
    /// The vision encoder: `pixel_values` to `last_hidden_state`.
    VisionEncoder,
    /// The superpixel network: `pixel_values` to `logits`.
    Superpixel,
    /// The depth network: `pixel_values` to `predicted_depth`.
    Depth,
    /// SAM's picture encoder: `pixel_values` to `last_hidden_state`.
    SamEncoder,
}

impl Component {
    /// Every component, in the order they are listed.
    pub const ALL: [Component; 9] = [
        Component::Unet,
        Component::VaeEncoder,
        Component::VaeDecoder,
        Component::ControlNet,
        Component::TextEncoder,
        Component::VisionEncoder,
        Component::Superpixel,
        Component::Depth,
        Component::SamEncoder,
    ];

    /// Name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Component::Unet => "unet",
            Component::VaeEncoder => "vae-encoder",
            Component::VaeDecoder => "vae-decoder",
            Component::ControlNet => "controlnet",
            Component::TextEncoder => "text-encoder",
            Component::VisionEncoder => "vision-encoder",
            Component::Superpixel => "superpixel",
            Component::Depth => "depth",
            Component::SamEncoder => "sam-encoder",
        }
    }

    /// The component called `name`.
    pub fn parse(name: &str) -> Result<Component> {
        Component::ALL.into_iter().find(|c| c.name() == name).ok_or_else(|| {
            let names: Vec<&str> = Component::ALL.into_iter().map(Component::name).collect();
            Error::new(Kind::Usage, "run", format!("there is no component `{name}`"))
                .advise(format!("use one of {}", names.join(", ")))
        })
    }

    /// The part of a model that holds it.
    pub fn part(self) -> Part {
        match self {
            Component::Unet => Part::Unet,
            Component::VaeEncoder | Component::VaeDecoder => Part::Vae,
            Component::ControlNet => Part::ControlNet,
            Component::TextEncoder => Part::TextEncoder,
            Component::VisionEncoder => Part::ImageEncoder,
            Component::Superpixel => Part::Superpixel,
            Component::Depth => Part::Depth,
            Component::SamEncoder => Part::Sam,
        }
    }

    /// The components that a part of a model has.
    pub fn of_part(part: Part) -> impl Iterator<Item = Component> {
        Component::ALL.into_iter().filter(move |c| c.part() == part)
    }

    /// Whether its input may be of several sizes; otherwise the config alone says how large it is.
    pub fn has_sizes(self) -> bool {
        match self {
            Component::Unet
            | Component::VaeEncoder
            | Component::VaeDecoder
            | Component::ControlNet
            | Component::Superpixel
            | Component::Depth => true,
            Component::TextEncoder | Component::VisionEncoder | Component::SamEncoder => false,
        }
    }

    /// Names and shapes of the checkpoint's tensors that this component of a model with `config` reads.
    pub fn tensors(self, config: &str) -> Result<Vec<(String, Vec<u64>)>> {
        let network = Network::parse(self, config)?;
        let graph = network.graph_at(1, network.usual_size()?, DType::F32)?;
        let of_graph = graph.weights.into_iter().map(|w| (w.name, w.shape));
        Ok(of_graph.chain(network.host_tensors()).collect())
    }

    /// Rows and columns of its input for a picture of 512 x 512 pixels, where they are free.
    pub fn usual_size(self, config: &str) -> Result<Option<[u32; 2]>> {
        let size = Network::parse(self, config)?.usual_size()?;
        Ok(self.has_sizes().then_some(size))
    }

    /// The graph of this component of a model with `config`, at a size: rows and columns of its input
    /// where they are free, by default those for a picture of 512 x 512 pixels. For plans that are shown without
    /// tensors.
    pub fn graph(self, config: &str, batch: u32, size: Option<[u32; 2]>, dtype: DType) -> Result<Graph> {
        let network = Network::parse(self, config)?;
        let size = size.map_or_else(|| network.usual_size(), Ok)?;
        network.graph_at(batch, size, dtype)
    }

    /// Whether the tensors of `checkpoint` are of the variant that `config` describes, where a network has variants;
    /// an error says of which they are.
    pub fn fits(self, config: &str, checkpoint: &Checkpoint) -> Result<()> {
        Network::parse(self, config)?.fits(checkpoint)
    }
}

/// What to run on what.
#[derive(Debug, Clone, PartialEq)]
pub struct ComponentOptions {
    /// The network.
    pub component: Component,
    /// The model: a folder or a file, see [`Model`].
    pub model: PathBuf,
    /// File with the inputs.
    pub input: PathBuf,
    /// File for the outputs.
    pub output: PathBuf,
    /// `cpu`, `cuda`, `cuda:N`, `wgpu`, `wgpu:N` or `auto`.
    pub device: String,
    /// `f32`, `f16` or `bf16`: how activations are stored; by default as the device prefers.
    pub dtype: Option<String>,
    /// Also writes every value of the graph.
    pub trace: bool,
    /// Adapters merged into the weights, in this order, each with its strength.
    pub lora: Vec<(PathBuf, f32)>,
    /// Replaces an output that exists.
    pub overwrite: bool,
    /// Host threads, all cores by default.
    pub threads: Option<usize>,
}

impl ComponentOptions {
    /// A run with every choice left open.
    pub fn new(
        component: Component,
        model: impl Into<PathBuf>,
        input: impl Into<PathBuf>,
        output: impl Into<PathBuf>,
    ) -> ComponentOptions {
        ComponentOptions {
            component,
            model: model.into(),
            input: input.into(),
            output: output.into(),
            device: "auto".into(),
            dtype: None,
            trace: false,
            lora: Vec::new(),
            overwrite: false,
            threads: None,
        }
    }
}

/// What a run did.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ComponentReport {
    /// Name of the component.
    pub component: String,
    /// The file written.
    pub path: PathBuf,
    /// The device that ran it.
    pub device: String,
    /// Why this device.
    pub why: String,
    /// Storage type of activations.
    pub dtype: String,
    /// Items run in one launch.
    pub batch: u32,
    /// Tensors written: name and extents.
    pub tensors: Vec<(String, Vec<u64>)>,
    /// Floating-point operations of the launch.
    pub flops: u64,
    /// Bytes of the checkpoint's tensors that were read and packed.
    pub checkpoint_bytes: u64,
    /// Bytes of weights on the device.
    pub weight_bytes: u64,
    /// Bytes of activations on the device.
    pub arena_bytes: u64,
    /// Seconds per phase, in order: `open`, `plan`, `load`, `network`, `write`.
    pub phases: Vec<(String, f64)>,
    /// Seconds in all.
    pub seconds: f64,
    /// Sentences for the user.
    pub notes: Vec<String>,
}

/// The storage type called `name`, where the device has it.
pub(super) fn storage(caps: &Caps, name: Option<&str>) -> Result<DType> {
    let Some(name) = name else { return Ok(caps.storage) };
    let known = [DType::F32, DType::F16, DType::Bf16];
    let dtype = known.into_iter().find(|t| t.name() == name).ok_or_else(|| {
        Error::new(Kind::Usage, "run", format!("there is no storage type `{name}`")).advise("use f32, f16 or bf16")
    })?;
    if caps.dtypes.contains(&dtype) {
        return Ok(dtype);
    }
    let have: Vec<&str> = caps.dtypes.iter().map(|t| t.name()).collect();
    let why = format!("{} does not store {name}; it stores {}", caps.name, have.join(" and "));
    Err(Error::new(Kind::Device, "run", why).advise("choose another --dtype or --device"))
}

/// What must hold of the output before anything is computed for it.
fn check_output(o: &ComponentOptions) -> Result<()> {
    if fs::same_file(&o.input, &o.output) {
        let why = format!("{} is the input", o.output.display());
        return Err(Error::new(Kind::Io, "files", why).advise("name another output"));
    }
    fs::refuse_existing(&o.output, o.overwrite)?;
    if o.output.is_dir() {
        let why = format!("{} is a folder", o.output.display());
        return Err(Error::new(Kind::Io, "files", why).advise("name a file"));
    }
    Ok(())
}

/// Runs one network on the tensors of a file and writes what comes out to another.
pub fn component(o: &ComponentOptions, observer: &mut dyn Observer, cancel: &Cancel) -> Result<ComponentReport> {
    let mut clock = Clock::start();
    check_output(o)?;
    let model = Model::open(&o.model)?;
    let part = o.component.part();
    let network = Network::parse(o.component, &model.config(part)?).map_err(|e| e.at(o.model.display()))?;
    let file = tensors::open(&o.input)?;
    let name = o.component.name();
    let given = tensors::read(&file, name, &network.wanted(&file)?, network.ignored())?;
    let (checkpoint, mut notes) = adapted(model.checkpoint(part)?, part, &o.lora)?;
    network.fits(&checkpoint)?;
    let engine = Engine::open(&o.device, o.threads)?;
    let dtype = storage(engine.caps(), o.dtype.as_deref())?;
    observer.note(&format!("device: {} ({})", engine.name(), engine.why()));
    clock.lap("open");

    let Job { graph, feeds, items } = network.job(&given, &checkpoint, dtype)?;
    for ignored in network.ignored().iter().filter(|n| tensors::shape_of(&file, n).is_some()) {
        notes.push(format!("`{ignored}` is not used: no layer of this network looks at it"));
    }
    drop(given);
    let host = network.host_tensors();
    let wanted = graph.weights.iter().map(|w| (w.name.as_str(), w.shape.as_slice()));
    let wanted = wanted.chain(host.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())));
    let extra: Vec<String> = checkpoint.check(wanted)?.into_iter().filter(|n| !network.other_half(n)).collect();
    if let Some(first) = extra.first() {
        notes.push(format!("{} tensor(s) of the checkpoint are not used, the first is `{first}`", extra.len()));
    }
    let stored = graph.weights.iter().filter_map(|w| checkpoint.find(&w.name));
    let checkpoint_bytes = stored.map(|t| t.bytes).sum();
    let mut fused = passes::fuse(graph)?;
    let mut outputs: Vec<Traced> = Vec::new();
    for (name, v) in &fused.outputs {
        let form = if network.is_all_tokens() { Form::Tokens } else { Form::Picture };
        outputs.push(Traced { name: name.clone(), form, lifetime: fused.value(*v).lifetime });
    }
    if o.trace {
        outputs.extend(trace::observe(&mut fused, &network, &checkpoint));
    }
    let plan = plan::plan(&fused, engine.caps())?;
    drop(fused);
    let shapes = written(&plan, &outputs)?;
    // Begun before the work: a place that cannot be written to is said now.
    let mut writer = TensorWriter::create(&o.output, o.overwrite, &shapes)?;
    clock.lap("plan");

    let mut report = ComponentReport {
        component: name.into(),
        path: o.output.clone(),
        device: engine.name().into(),
        why: engine.why().into(),
        dtype: dtype.name().into(),
        batch: plan.items,
        flops: plan.cost.flops,
        checkpoint_bytes,
        weight_bytes: plan.cost.weight_bytes,
        arena_bytes: plan.cost.arena_bytes + plan.cost.persistent_bytes,
        tensors: shapes,
        notes,
        ..ComponentReport::default()
    };
    report.notes.iter().for_each(|n| observer.note(n));
    let mut tell = |stage, began: Instant| {
        let elapsed = began.elapsed().as_secs_f64();
        observer.progress(&Progress { stage, done: 0, total: 0, elapsed, left: None });
    };
    tell("load", clock.began);
    let mut executor = load(&engine, plan, &checkpoint, cancel)?;
    clock.lap("load");

    tell("network", clock.began);
    launch(&mut executor, feeds, &items)?;
    cancel.check()?;
    clock.lap("network");

    tell("write", clock.began);
    let names: Vec<String> = writer.names().map(str::to_owned).collect();
    for name in names {
        if let Some(output) = outputs.iter().find(|t| t.name == name) {
            writer.write(&name, &collect(&mut executor, output, &items)?)?;
        }
        cancel.check()?;
    }
    writer.finish()?;
    clock.lap("write");
    report.seconds = clock.began.elapsed().as_secs_f64();
    report.phases = clock.phases;
    Ok(report)
}

/// The checkpoint with adapters merged, and a sentence about each.
fn adapted(checkpoint: Checkpoint, part: Part, lora: &[(PathBuf, f32)]) -> Result<(Checkpoint, Vec<String>)> {
    let mut opened = Vec::with_capacity(lora.len());
    for (path, strength) in lora {
        opened.push((Adapter::open(path)?, *strength));
    }
    let sentence = |(a, s): &(Adapter, f32)| {
        format!("{} at strength {s}: an adapter of {} module(s)", a.path().display(), a.modules())
    };
    let notes = opened.iter().map(sentence).collect();
    let adapters: Vec<(&Adapter, f32)> = opened.iter().map(|(a, s)| (a, *s)).collect();
    Ok((checkpoint.with_adapters(part, &adapters)?, notes))
}

/// Reads and packs the weights.
fn load(engine: &Engine, plan: Plan, checkpoint: &Checkpoint, cancel: &Cancel) -> Result<Executor> {
    let mut pack = |w: &PackedWeight| {
        cancel.check()?;
        checkpoint.packed(&w.tensors, &w.packing, w.dtype)
    };
    Executor::new(engine.device(), plan, None, &mut pack)
}

/// Feeds the inputs, those that outlive a window first, and runs setup and body.
fn launch(executor: &mut Executor, feeds: Vec<(String, Vec<f32>)>, items: &[Item]) -> Result<()> {
    let mut of_window = Vec::new();
    for (name, values) in feeds {
        if executor.plan().input(&name)?.lifetime == Lifetime::Window {
            of_window.push((name, values));
        } else {
            executor.write_input(&name, &values)?;
        }
    }
    executor.setup()?;
    for (name, values) in of_window {
        executor.write_input(&name, &values)?;
    }
    executor.run(items)
}

/// Names and extents of the tensors that will be written: what has a row per step or context is written
/// with a row per item, as PyTorch has it.
fn written(plan: &Plan, outputs: &[Traced]) -> Result<Vec<(String, Vec<u64>)>> {
    let mut shapes = Vec::with_capacity(outputs.len());
    for t in outputs {
        let shape = plan.output(&t.name)?.shape;
        shapes.push((t.name.clone(), t.form.extents(t.rows(shape, plan.items), shape)));
    }
    Ok(shapes)
}

/// The values of one output as they are written.
fn collect(executor: &mut Executor, output: &Traced, items: &[Item]) -> Result<Vec<f32>> {
    let shape = executor.plan().output(&output.name)?.shape;
    let row = crate::extent::to_usize(&output.name, shape.pixels() * u64::from(shape.c))?;
    let mut values = vec![0.0; shape.n as usize * row];
    executor.read_output(&output.name, &mut values)?;
    let values = output.spread(values, row, items);
    let n = values.len().checked_div(row).unwrap_or(0);
    Ok(match output.form {
        Form::Picture => tensors::to_nchw(&values, [n, row / shape.c.max(1) as usize, shape.c as usize]),
        Form::Tokens | Form::Row => values,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_are_found_by_their_names() {
        for c in Component::ALL {
            assert_eq!(Component::parse(c.name()).expect("found"), c);
        }
        let e = Component::parse("vae").expect_err("ambiguous");
        assert!(e.kind() == Kind::Usage && e.to_string().contains("vae-encoder"), "{e}");
    }
}
