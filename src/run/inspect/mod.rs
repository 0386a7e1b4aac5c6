//! What a model holds, and which systems it serves; the plan of one of its networks, as text and drawn.

mod inner;
mod text;

use super::component::{self, Component};
use super::engine::Engine;
use crate::abi::Caps;
use crate::error::{Error, Kind, Result};
use crate::fs;
use crate::graph::{DType, Graph};
use crate::plan;
use crate::system::System;
use crate::system::onestep::{self, OneStep};
use crate::system::registry;
use crate::weights::{Adapter, Checkpoint, IS_ADAPTER, Model, Part, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Sides of the window that plans of a whole system are shown for, pixels.
const WINDOW: [u32; 2] = [512, 512];
/// Tokens of a context in such plans: the text encoders' length.
const TOKENS: u32 = 77;

/// What to look at.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct InspectOptions {
    /// The model: a folder or a file, see [`Model`].
    pub path: PathBuf,
    /// Also gives the plan as text, step by step with its memory offsets.
    pub plan: bool,
    /// Also draws the arena of the plan to this file.
    pub svg: Option<PathBuf>,
    /// Replaces a drawing that exists.
    pub overwrite: bool,
    /// The network to plan; without it the system's whole graph, or every network.
    pub component: Option<Component>,
    /// Rows and columns of the planned network's own input.
    pub size: Option<[u32; 2]>,
    /// The device to plan for, or `any-cuda`, `any-wgpu`: what every such device can do, needing none; without it the host's cores.
    pub device: Option<String>,
    /// Storage type of activations; by default as the device prefers.
    pub dtype: Option<String>,
}

/// One network of a model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetworkInfo {
    /// Name of the part, as the folder of the diffusers layout is called.
    pub part: String,
    /// Class that its config names.
    pub class: String,
    /// Parameters of the network that the config describes; `None` where it is not one that runs here.
    pub parameters: Option<u64>,
    /// What a run of it is, with its multiply-adds.
    pub multiply_adds: Vec<(String, u64)>,
    /// Tensors in its files.
    pub tensors: usize,
    /// Types they are stored as.
    pub types: Vec<String>,
    /// Bytes of the tensors.
    pub bytes: u64,
    /// Files they lie in.
    pub files: usize,
    /// Tensors that the network has no use for.
    pub unused: Vec<String>,
    /// Components of `tessera run` that this part serves; none where only a system runs it.
    pub components: Vec<String>,
    /// Why it does not run.
    pub problems: Vec<String>,
}

/// An adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterInfo {
    /// The parts it says it changes; empty where its names do not say.
    pub parts: Vec<String>,
    /// Modules it changes.
    pub modules: usize,
    /// Ranks of the changes, each once.
    pub ranks: Vec<u64>,
    /// Bytes of its tensors.
    pub bytes: u64,
}

/// Whether a system can run the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemInfo {
    /// The system.
    pub system: String,
    /// What is missing; nothing when it can run.
    pub missing: Vec<String>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Inspection {
    /// Where.
    pub path: PathBuf,
    /// Class that `model_index.json` names, if there is one.
    pub class: Option<String>,
    /// The networks.
    pub networks: Vec<NetworkInfo>,
    /// Where the path holds an adapter instead of a model.
    pub adapter: Option<AdapterInfo>,
    /// Every system there is.
    pub systems: Vec<SystemInfo>,
    /// Sentences about the system that runs it.
    pub details: Vec<String>,
    /// The plan, where it was asked for.
    pub plan: Option<String>,
    /// The drawing that was written.
    pub svg: Option<PathBuf>,
}

/// Looks at a model; see [`InspectOptions`].
pub fn inspect(o: &InspectOptions) -> Result<Inspection> {
    if let Some(svg) = &o.svg {
        fs::refuse_existing(svg, o.overwrite)?;
    }
    let model = match Model::open(&o.path) {
        Ok(model) => model,
        // What is no model may be an adapter; if it is neither, the first reason counts.
        Err(e) => return adapter(o, e),
    };
    let parts = model.parts();
    let class = o.path.join("model_index.json").is_file().then(|| onestep::class_of(&o.path)).transpose()?;
    let scheduler = o.path.join("scheduler").join("scheduler_config.json").is_file();
    let mut found = Inspection { path: o.path.clone(), class, ..Inspection::default() };
    for &part in &parts {
        found.networks.push(network(&model, part)?);
    }
    found.networks.extend(inner::networks(&o.path)?);
    for needs in &registry::SYSTEMS {
        let has = |part: &str| o.path.join(part).join("config.json").is_file();
        let missing = needs.missing(found.class.as_deref(), has, scheduler);
        found.systems.push(SystemInfo { system: needs.system.into(), missing });
    }
    let mut whole = None;
    if let Some(system) = found.systems.iter_mut().find(|s| s.missing.is_empty()) {
        let opened = registry::open(&o.path, Some(&system.system));
        match opened.and_then(|model| Ok((describe(model.as_ref())?, model.as_one_step().cloned()))) {
            Ok((details, model)) => (found.details, whole) = (details, model),
            Err(e) => system.missing.push(e.message().to_owned()),
        }
    }
    if o.plan || o.svg.is_some() {
        plans(o, &model, whole.as_ref(), &mut found)?;
    } else if o.size.is_some() || o.component.is_some() || o.device.is_some() || o.dtype.is_some() {
        let why = "--component, --size, --device and --dtype choose what is planned";
        return Err(Error::new(Kind::Usage, "inspect", why).advise("add --plan or --svg FILE"));
    }
    Ok(found)
}

/// The adapter at the path, which is no model because of `e`.
fn adapter(o: &InspectOptions, e: Error) -> Result<Inspection> {
    if o.plan || o.svg.is_some() {
        return Err(e);
    }
    let a = match Adapter::open(&o.path) {
        Ok(a) => a,
        // of what is an adapter, what is wrong with it as one
        Err(why) => return Err(if e.advice() == Some(IS_ADAPTER) { why } else { e }),
    };
    let parts = a.parts().into_iter().map(|p| p.folder().to_owned()).collect();
    let info = AdapterInfo { parts, modules: a.modules(), ranks: a.ranks(), bytes: a.bytes() };
    Ok(Inspection { path: o.path.clone(), adapter: Some(info), ..Inspection::default() })
}

/// One network: what its config says and what its files hold.
fn network(model: &Model, part: Part) -> Result<NetworkInfo> {
    let config = model.config(part)?;
    let map = json::object(part.folder(), config.as_bytes())?;
    let class = map.get("_class_name").or_else(|| map.get("architectures").and_then(|a| a.get(0)));
    let mut info = NetworkInfo {
        part: part.folder().into(),
        class: json::quoted(class.and_then(|v| v.as_str()).unwrap_or("no class")),
        ..NetworkInfo::default()
    };
    // An autoencoder's halves share tensors of no name, but a tensor may be declared by both all the same.
    let (mut declared, mut components) = (BTreeMap::<String, Vec<u64>>::new(), Vec::new());
    for c in Component::of_part(part) {
        match c.tensors(&config) {
            Ok(tensors) => {
                declared.extend(tensors);
                components.push(c.name().to_owned());
            }
            Err(e) => info.problems.push(e.message().to_owned()),
        }
    }
    info.problems.dedup();
    if !components.is_empty() {
        info.parameters = Some(declared.values().map(|s| s.iter().product::<u64>()).sum());
    }
    let runs: Vec<(String, Graph)> = Component::of_part(part).filter_map(|c| run_of(c, &config).ok()).collect();
    info.multiply_adds = inner::costs(&runs).unwrap_or_default();
    let fits = |checkpoint: &Checkpoint| Component::of_part(part).try_for_each(|c| c.fits(&config, checkpoint));
    describe_files(&mut info, model.checkpoint(part), &declared, fits);
    if info.problems.is_empty() {
        info.components = components;
    }
    Ok(info)
}

/// A component's graph for a picture of 512 x 512 pixels, and what that run is.
fn run_of(component: Component, config: &str) -> Result<(String, Graph)> {
    let size = component.usual_size(config)?.map(|[h, w]| format!(" of {w}x{h}")).unwrap_or_default();
    Ok((format!("{}{size}", component.name()), component.graph(config, 1, None, DType::F32)?))
}

/// What a network's files hold, against the tensors `declared` by its config.
fn describe_files(
    info: &mut NetworkInfo,
    checkpoint: Result<Checkpoint>,
    declared: &BTreeMap<String, Vec<u64>>,
    fits: impl Fn(&Checkpoint) -> Result<()>,
) {
    match checkpoint {
        Ok(checkpoint) => {
            let tensors = checkpoint.tensors();
            let types: BTreeSet<&str> = tensors.iter().map(|t| t.dtype.name()).collect();
            info.types = types.into_iter().map(str::to_owned).collect();
            (info.tensors, info.bytes) = (tensors.len(), tensors.iter().map(|t| t.bytes).sum());
            info.files = tensors.iter().map(|t| t.file).collect::<BTreeSet<_>>().len();
            let variant = fits(&checkpoint);
            if info.parameters.is_none() {
                // what the config says is a problem already
            } else if let Err(e) = variant {
                info.problems.push(e.message().to_owned());
            } else {
                match checkpoint.check(declared.iter().map(|(n, s)| (n.as_str(), s.as_slice()))) {
                    Ok(unused) => info.unused = unused,
                    Err(e) => info.problems.push(e.message().to_owned()),
                }
            }
        }
        Err(e) => info.problems.push(e.message().to_owned()),
    }
}

/// What a system makes of a model.
fn describe(model: &dyn System) -> Result<Vec<String>> {
    let mut details = model.describe()?;
    if let Some(model) = model.as_one_step() {
        let plan = plan::compile(model.graph(1, WINDOW[0], WINDOW[1], TOKENS, DType::F32)?, &Caps::cpu())?;
        let pixels = f64::from(WINDOW[0]) * f64::from(WINDOW[1]);
        details.push(format!("{:.0} multiply-adds per output pixel", plan.cost.flops as f64 / 2.0 / pixels));
    }
    Ok(details)
}

/// The plans that were asked for.
fn plans(o: &InspectOptions, model: &Model, whole: Option<&OneStep>, found: &mut Inspection) -> Result<()> {
    let caps = match o.device.as_deref() {
        None => Caps::cpu(),
        Some("any-cuda") => Caps::cuda_default(),
        Some("any-wgpu") => Caps::wgpu_default(),
        Some(device) => Engine::open(device, None)?.caps().clone(),
    };
    let dtype = component::storage(&caps, o.dtype.as_deref())?;
    let graphs = graphs(o, model, whole, dtype)?;
    let mut text = String::new();
    for graph in graphs {
        let plan = plan::compile(graph, &caps)?;
        if o.plan {
            text += &plan::report::listing(&plan);
        }
        if let Some(svg) = &o.svg {
            fs::write(svg, o.overwrite, plan::svg::arena(&plan).as_bytes())?;
            found.svg = Some(svg.clone());
        }
    }
    found.plan = o.plan.then_some(text);
    Ok(())
}

fn graphs(o: &InspectOptions, model: &Model, whole: Option<&OneStep>, dtype: DType) -> Result<Vec<Graph>> {
    let usage = |why: String| Error::new(Kind::Usage, "inspect", why);
    let chosen: Vec<Component> = match (o.component, whole) {
        (Some(c), _) => vec![c],
        (None, Some(system)) => {
            let [h, w] = o.size.unwrap_or(WINDOW);
            return Ok(vec![system.graph(1, h, w, TOKENS, dtype)?]);
        }
        (None, None) => model.parts().into_iter().flat_map(Component::of_part).collect(),
    };
    if chosen.len() != 1 && (o.svg.is_some() || o.size.is_some()) {
        let names: Vec<&str> = chosen.iter().map(|c| c.name()).collect();
        let option = if o.svg.is_some() { "--svg draws" } else { "--size is that of" };
        return Err(usage(format!("{option} one network; this model has {}", names.join(", ")))
            .advise("choose one with --component"));
    }
    let graph = |c: &Component| {
        if o.size.is_some() && !c.has_sizes() {
            return Err(usage(format!("the size of what a {} takes is in its config: --size has no use", c.name())));
        }
        c.graph(&model.config(c.part())?, 1, o.size, dtype).map_err(|e| e.at(c.name()))
    };
    chosen.iter().map(graph).collect()
}
