//! What a model folder holds, in words.

use crate::abi::Caps;
use crate::error::{Error, Kind, Result};
use crate::graph::{DType, Graph};
use crate::model::controlnet::ControlNetModel;
use crate::model::unet::UNet2DConditionModel;
use crate::model::vae::AutoencoderKL;
use crate::model::{Extents, parameters};
use crate::plan;
use crate::system::onestep::{self, OneStep};
use crate::weights::{Checkpoint, json};
use std::fmt::Write;
use std::path::Path;

/// Side of the window that plans are shown for, pixels.
const WINDOW: u32 = 512;

/// Describes the model in `folder`: networks, parameters, the system it serves; with `plan`, every step
/// of the plan of one window (512 x 512 pixels, cpu) with its arena offsets. A folder with one network's
/// own `config.json` is described as well.
pub fn inspect(folder: &Path, plan: bool) -> Result<String> {
    let mut text = String::new();
    let mut graphs: Vec<Graph> = Vec::new();
    if folder.join("model_index.json").is_file() {
        let class = onestep::class_of(folder)?;
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}: {class}", folder.display());
        if class == onestep::CLASS {
            let model = OneStep::open(folder)?;
            describe_onestep(&model, &mut text)?;
            let tokens = 77;
            graphs.push(model.graph(1, WINDOW, WINDOW, tokens, DType::F32)?);
        } else {
            let _ = writeln!(text, "  no system of this program runs it as a whole; its networks:");
            for part in ["vae", "unet", "controlnet"] {
                if folder.join(part).join("config.json").is_file() {
                    graphs.extend(describe_network(&folder.join(part), &mut text)?);
                }
            }
        }
    } else {
        let _ = writeln!(text, "{}:", folder.display());
        graphs.extend(describe_network(folder, &mut text)?);
    }
    if plan {
        for graph in graphs {
            let plan = plan::compile(graph, &Caps::cpu())?;
            let _ = writeln!(text, "{}", plan::report::listing(&plan));
        }
    }
    Ok(text)
}

fn describe_onestep(model: &OneStep, text: &mut String) -> Result<()> {
    for part in ["vae", "unet"] {
        describe_network(&model.folder.join(part), text)?;
    }
    let [a, b] = model.coefficients;
    let _ =
        writeln!(text, "  system onestep: one step at t = {}: x0 = {a:.6} z + {b:.6} prediction", model.timestep);
    let _ = writeln!(
        text,
        "  windows start at multiples of {} pixels; residual over bicubic: {}",
        model.stride(),
        model.residual
    );
    let planes: Vec<&str> = model.planes.iter().map(|p| p.name()).collect();
    if !planes.is_empty() {
        let _ = writeln!(text, "  conditioning planes: {}", planes.join(", "));
    }
    let graph = model.graph(1, WINDOW, WINDOW, 77, DType::F32)?;
    let plan = plan::compile(graph.clone(), &Caps::cpu())?;
    let pixels = f64::from(WINDOW) * f64::from(WINDOW);
    let _ = writeln!(
        text,
        "  in all {} parameters, {:.0} multiply-adds per output pixel",
        parameters(&graph),
        plan.cost.flops as f64 / 2.0 / pixels
    );
    let extra = model.checkpoints()?.check(&graph)?;
    if !extra.is_empty() {
        let _ = writeln!(text, "  {} tensors are not used, the first is `{}`", extra.len(), extra[0]);
    }
    Ok(())
}

/// One network's folder: class, parameters, stored types. Gives the graphs a window goes through.
fn describe_network(folder: &Path, text: &mut String) -> Result<Vec<Graph>> {
    let path = folder.join("config.json");
    let config = onestep::read_json(&path)?;
    let map = json::object(&path.display().to_string(), config.as_bytes())?;
    let class = map.get("_class_name").and_then(|v| v.as_str()).unwrap_or_default().to_owned();
    let at = |e: Error| e.at(path.display());
    let graphs = match class.as_str() {
        "AutoencoderKL" => {
            let vae = AutoencoderKL::from_config(&config).map_err(at)?;
            let latent = WINDOW / vae.factor();
            vec![vae.build_encoder(1, WINDOW, WINDOW, DType::F32)?, vae.build_decoder(1, latent, latent, DType::F32)?]
        }
        "UNet2DConditionModel" => {
            let unet = UNet2DConditionModel::from_config(&config).map_err(at)?;
            vec![unet.build(&Extents::of(64, 64), DType::F32)?]
        }
        "ControlNetModel" => {
            let net = ControlNetModel::from_config(&config).map_err(at)?;
            vec![net.build(&Extents::of(64, 64), 1.0, DType::F32)?]
        }
        other => {
            let why = format!("{}: class `{}` is not known", path.display(), json::quoted(other));
            return Err(Error::new(Kind::Weights, "inspect", why)
                .advise("known are AutoencoderKL, UNet2DConditionModel, ControlNetModel"));
        }
    };
    let name = folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let count: u64 = graphs.iter().map(parameters).sum();
    let _ = write!(text, "  {name}: {class}, {count} parameters");
    match Checkpoint::open(folder) {
        Ok(checkpoint) => {
            let mut types: Vec<&str> = checkpoint.tensors().iter().map(|t| t.dtype.name()).collect();
            types.sort_unstable();
            types.dedup();
            let _ = writeln!(text, ", {} tensors stored as {}", checkpoint.tensors().len(), types.join(", "));
        }
        Err(e) => {
            let _ = writeln!(text, "; weights: {}", e.message());
        }
    }
    Ok(graphs)
}
