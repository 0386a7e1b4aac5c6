//! `tessera inspect`: what a model holds and what it is good for.

use super::out;
use super::units::{lossy, sides};
use clap::Args;
use clap::builder::PossibleValuesParser;
use serde_json::{Value, json};
use std::path::PathBuf;
use tessera::Result;
use tessera::run::{self, Component, InspectOptions, Inspection};

/// Shown below the options.
pub(super) const HELP: &str = "\
Examples:
  tessera inspect sd-turbo                                   its networks, and the systems it can serve
  tessera inspect sd-turbo --component unet --plan           every step of a plan with its memory offsets
  tessera inspect sd-turbo --component vae-decoder --size 128x128 --svg arena.svg";

/// Options of the command.
#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// The model: its folder, the folder of one network, or a single file; or an adapter (LoRA)
    model: PathBuf,
    /// Also prints the plan: every step, and which bytes it reads and writes
    #[arg(long)]
    plan: bool,
    /// Also draws the plan's memory: steps from left to right, bytes from bottom to top
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Replaces a drawing that exists
    #[arg(long)]
    overwrite: bool,
    /// The network to plan [default: the whole system, or every network]
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(Component::ALL.map(Component::name)))]
    component: Option<String>,
    /// Width and height of what the planned network takes: pixels of a picture, or those of a latent
    /// [default: what a picture of 512x512 needs]
    #[arg(long, value_name = "WxH", value_parser = sides)]
    size: Option<[u32; 2]>,
    /// The device to plan for; any-cuda, any-wgpu: what every such device can do, here or not [default: cpu]
    #[arg(short = 'g', long, value_name = "DEVICE")]
    device: Option<String>,
    /// How activations are stored [default: f32 on cpu, f16 elsewhere]
    #[arg(long, value_name = "TYPE", value_parser = ["f32", "f16", "bf16"])]
    dtype: Option<String>,
    /// Prints one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

/// Describes a model.
pub(super) fn run(args: &InspectArgs) -> Result<()> {
    let component = args.component.as_deref().map(Component::parse).transpose()?;
    let found = run::inspect(&InspectOptions {
        path: args.model.clone(),
        plan: args.plan,
        svg: args.svg.clone(),
        overwrite: args.overwrite,
        component,
        // Written like a picture's size, kept like a value's.
        size: args.size.map(|[w, h]| [h, w]),
        device: args.device.clone(),
        dtype: args.dtype.clone(),
    })?;
    if args.json {
        return out(&inspection_json(&found).to_string());
    }
    out(found.to_string().trim_end())
}

/// The inspection as `--json` prints it. Keys are never renamed; new ones may come.
fn inspection_json(i: &Inspection) -> Value {
    let network = |n: &run::NetworkInfo| {
        json!({"part": n.part, "class": n.class, "parameters": n.parameters,
            "multiply_adds": n.multiply_adds.iter().map(|(run, count)| json!({"run": run, "count": count})).collect::<Vec<_>>(),
            "tensors": n.tensors, "types": n.types,
            "bytes": n.bytes, "files": n.files, "unused": n.unused, "components": n.components, "problems": n.problems})
    };
    let adapter =
        i.adapter.as_ref().map(|a| json!({"parts": a.parts, "modules": a.modules, "ranks": a.ranks, "bytes": a.bytes}));
    let systems =
        i.systems.iter().map(|s| json!({"system": s.system, "runs": s.missing.is_empty(), "missing": s.missing}));
    json!({
        "path": lossy(&i.path),
        "class": i.class,
        "networks": i.networks.iter().map(network).collect::<Vec<_>>(),
        "adapter": adapter,
        "systems": systems.collect::<Vec<_>>(),
        "details": i.details,
        "plan": i.plan,
        "svg": i.svg.as_deref().map(lossy),
    })
}
