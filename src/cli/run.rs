//! `tessera run`: one network on given tensors.

use super::on_device::OnDevice;
use super::out;
use super::progress::say;
use super::units::{adapter, lossy, mebibytes};
use clap::Args;
use clap::builder::PossibleValuesParser;
use serde_json::{Value, json};
use std::path::PathBuf;
use tessera::Result;
use tessera::run::{self, Cancel, Component, ComponentOptions, ComponentReport, Observer, Progress};

/// Shown below the options.
pub(super) const HELP: &str = "\
Tensors are safetensors files in the naming and the shapes of diffusers and transformers: pictures NCHW,
tokens [N, T, C]. Outputs are F32; inputs F32, F16, BF16, and I64 or I32 for whole numbers. docs/run.md
lists them.

Examples:
  tessera run unet -m sd-turbo --in in.safetensors --out out.safetensors
  tessera run unet -m model.safetensors --lora style.safetensors:0.8 --in in.safetensors --out out.safetensors
  tessera run vae-decoder -m sd-turbo/vae --in z.safetensors --out x.safetensors -g cpu --trace";

/// Options of the command.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// The network
    #[arg(value_parser = PossibleValuesParser::new(Component::ALL.map(Component::name)))]
    component: String,
    /// The model: its folder, the folder of the network alone, or a single file
    #[arg(short, long, value_name = "MODEL")]
    model: PathBuf,
    /// File with the inputs
    #[arg(long = "in", value_name = "FILE")]
    input: PathBuf,
    /// File for the outputs
    #[arg(long = "out", value_name = "FILE")]
    output: PathBuf,
    /// Replaces an output that exists
    #[arg(long)]
    overwrite: bool,
    /// Also writes every value of the fused graph, as trace.<module path>
    #[arg(long)]
    trace: bool,
    /// Merges an adapter (peft's, diffusers' or kohya's naming) into the weights; may be given several times
    /// [default strength: 1]
    #[arg(long, value_name = "FILE[:STRENGTH]", value_parser = adapter)]
    lora: Vec<(PathBuf, f32)>,
    #[command(flatten)]
    on: OnDevice,
    /// Prints the report as one JSON object on stdout
    #[arg(long)]
    pub(super) json: bool,
}

/// Says notes on stderr; the phases are in the summary.
struct Notes;

impl Observer for Notes {
    fn progress(&mut self, _: &Progress<'_>) {}
    fn note(&mut self, text: &str) {
        say(text);
    }
}

/// Runs the network; prints the path or the report.
pub(super) fn run(args: &RunArgs, cancel: &Cancel) -> Result<()> {
    let component = Component::parse(&args.component)?;
    let mut o = ComponentOptions::new(component, &args.model, &args.input, &args.output);
    o.device.clone_from(&args.on.device);
    o.dtype.clone_from(&args.on.dtype);
    o.lora.clone_from(&args.lora);
    (o.trace, o.overwrite, o.threads) = (args.trace, args.overwrite, args.on.threads);
    let report = run::component(&o, &mut Notes, cancel)?;
    if args.json {
        return out(&report_json(&report).to_string());
    }
    say(&summary(&report));
    out(&report.path.display().to_string())
}

fn summary(r: &ComponentReport) -> String {
    let phases: Vec<String> = r.phases.iter().map(|(name, seconds)| format!("{name} {seconds:.2}")).collect();
    format!(
        "{} x{} as {}: {} tensor(s), {} of weights, {} of activations, {:.1} GFLOP in {:.2} s ({})",
        r.component,
        r.batch,
        r.dtype,
        r.tensors.len(),
        mebibytes(r.weight_bytes),
        mebibytes(r.arena_bytes),
        r.flops as f64 / 1e9,
        r.seconds,
        phases.join(", ")
    )
}

/// The report as `--json` prints it. Keys are never renamed; new ones may come.
fn report_json(r: &ComponentReport) -> Value {
    let phases: Vec<Value> = r.phases.iter().map(|(name, s)| json!({"name": name, "seconds": s})).collect();
    let tensors: Vec<Value> = r.tensors.iter().map(|(name, shape)| json!({"name": name, "shape": shape})).collect();
    json!({
        "component": r.component,
        "output": {"path": lossy(&r.path), "tensors": tensors},
        "device": {"name": r.device, "why": r.why},
        "dtype": r.dtype,
        "batch": r.batch,
        "flops": r.flops,
        "checkpoint_bytes": r.checkpoint_bytes,
        "weight_bytes": r.weight_bytes,
        "arena_bytes": r.arena_bytes,
        "phases": phases,
        "seconds": r.seconds,
        "notes": r.notes,
    })
}
