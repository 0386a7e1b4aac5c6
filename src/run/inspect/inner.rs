//! The networks that only a system runs, inside its own program: what each holds and costs.

use super::{NetworkInfo, describe_files};
use crate::abi::Caps;
use crate::error::Result;
use crate::graph::{DType, Graph};
use crate::model::casarbi::CasArbiDenoiser;
use crate::model::edsr::Edsr;
use crate::model::liif::{Liif, LiifExtents};
use crate::model::sam::SamVisionModel;
use crate::model::sarm::{Sarm, SarmExtents};
use crate::model::vae::AutoencoderKL;
use crate::plan;
use crate::system::onestep::read_json;
use crate::weights::{Checkpoint, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Side of the result that costs are given for, pixels, and of the picture that it is made of.
const SIDES: [u32; 2] = [512, 256];
/// Pixels of a latent's side, and SAM's tokens, where the networks that decide them are not there.
const USUAL: [u32; 2] = [8, 4096];

/// The graphs of a network of a model folder with that config, each with what a run of it is.
type Graphs = fn(&Path, &str) -> Result<Vec<(String, Graph)>>;

/// The networks by their folders.
const INNER: [(&str, Graphs); 5] =
    [("liif", liif), ("lr_encoder", lr_encoder), ("hr_encoder", hr_encoder), ("denoiser", denoiser), ("sarm", sarm)];

/// Those of a model's folder.
pub(super) fn networks(folder: &Path) -> Result<Vec<NetworkInfo>> {
    let here = INNER.iter().filter(|(part, _)| folder.join(part).join("config.json").is_file());
    here.map(|(part, graphs)| network(folder, part, *graphs)).collect()
}

fn network(folder: &Path, part: &str, graphs: Graphs) -> Result<NetworkInfo> {
    let config = read_json(&folder.join(part).join("config.json"))?;
    let map = json::object(part, config.as_bytes())?;
    let class = map.get("_class_name").and_then(|v| v.as_str()).unwrap_or("no class");
    let mut info = NetworkInfo { part: part.into(), class: json::quoted(class), ..NetworkInfo::default() };
    let mut declared = BTreeMap::<String, Vec<u64>>::new();
    match graphs(folder, &config).and_then(|graphs| costs(&graphs).map(|costs| (graphs, costs))) {
        Ok((graphs, costs)) => {
            declared.extend(graphs.into_iter().flat_map(|(_, g)| g.weights).map(|w| (w.name, w.shape)));
            info.multiply_adds = costs;
            info.parameters = Some(declared.values().map(|s| s.iter().product::<u64>()).sum());
        }
        Err(e) => info.problems.push(e.message().to_owned()),
    }
    describe_files(&mut info, Checkpoint::open(&folder.join(part)), &declared, |_| Ok(()));
    Ok(info)
}

/// Multiply-adds of a run of each graph.
pub(super) fn costs(graphs: &[(String, Graph)]) -> Result<Vec<(String, u64)>> {
    let cost = |(what, graph): &(String, Graph)| {
        Ok((what.clone(), plan::compile(graph.clone(), &Caps::cpu())?.cost.flops / 2))
    };
    graphs.iter().map(cost).collect()
}

fn liif(_: &Path, config: &str) -> Result<Vec<(String, Graph)>> {
    let [to, from] = SIDES;
    let graph =
        Liif::from_config(config)?.build(&LiifExtents { batch: 1, from: [from; 2], to: [to; 2] }, DType::F32)?;
    Ok(vec![(format!("a stage of {from}x{from} to {to}x{to}"), graph)])
}

fn lr_encoder(_: &Path, config: &str) -> Result<Vec<(String, Graph)>> {
    let from = SIDES[1];
    Ok(vec![(format!("a stage of {from}x{from}"), Edsr::from_config(config)?.build(1, from, from, DType::F32)?)])
}

fn hr_encoder(_: &Path, config: &str) -> Result<Vec<(String, Graph)>> {
    let to = SIDES[0];
    Ok(vec![(format!("a stage to {to}x{to}"), Edsr::from_config(config)?.build(1, to, to, DType::F32)?)])
}

fn denoiser(_: &Path, config: &str) -> Result<Vec<(String, Graph)>> {
    let (net, to) = (CasArbiDenoiser::from_config(config)?, SIDES[0]);
    Ok(vec![
        (format!("a step at {to}x{to}"), net.build(1, [to; 2], 1, DType::F32)?),
        (format!("a stage to {to}x{to}"), net.build_preparation(1, [to; 2], DType::F32)?),
    ])
}

/// In a window among others: it looks at the tokens of as many as it has itself.
fn sarm(folder: &Path, config: &str) -> Result<Vec<(String, Graph)>> {
    let (net, to) = (Sarm::from_config(config)?, SIDES[0]);
    let beside = |part: &str| read_json(&folder.join(part).join("config.json"));
    let factor = beside("vae").and_then(|c| AutoencoderKL::from_config(&c)).map_or(USUAL[0], |vae| vae.factor());
    let side = (to / factor).next_multiple_of(net.reduce());
    let tokens = beside("sam").and_then(|c| SamVisionModel::from_config(&c)).map_or(USUAL[1], |s| s.grid() * s.grid());
    let e = SarmExtents {
        batch: 1,
        map: [side; 2],
        cache: (side / net.reduce()).pow(2),
        semantic: net.semantic_channels().map(|_| tokens),
        scale: 1.0,
    };
    Ok(vec![
        (format!("a window of {to}x{to}"), net.build(&e, DType::F32)?),
        (format!("keys of a window of {to}x{to}"), net.build_keys(&e, DType::F32)?),
    ])
}
