//! Whole networks on the cpu backend with seeded random weights:
//! `cargo bench --bench networks -- [threads=N] [runs=N] [profile] [FILTER ...]`.
//!
//! The SD autoencoder's decoder at 512x512, the SD 2.1 UNet at 64x64 latents (both f32, batch 1) and the
//! shipped small networks at 512x512. `profile` also times every launch by itself and sums by stem.
//! `benches/torch_networks.py` runs PyTorch on the same two networks.

use std::collections::BTreeMap;
use std::time::Instant;
use tessera::abi::params::CONTROL_HEADER_WORDS;
use tessera::abi::{Item, Stem};
use tessera::backend::cpu::Cpu;
use tessera::backend::{Backend, BufferId};
use tessera::graph::{DType, Graph};
use tessera::model::Extents;
use tessera::model::unet::UNet2DConditionModel;
use tessera::model::vae::AutoencoderKL;
use tessera::plan::command::{Dispatch, Plan, SlotKind};
use tessera::{Result, plan};

/// `unet/config.json` of Stable Diffusion 2.1 base, the fields that fix the network.
const SD21_UNET: &str = include_str!("../tests/data/configs/sd21_unet.json");

/// `vae/config.json` of the Stable Diffusion autoencoder.
const SD_VAE: &str = include_str!("../tests/data/configs/sd_vae.json");

const SMALL_VAE: &str = include_str!("../weights/onestep/vae/config.json");
const SMALL_UNET: &str = include_str!("../weights/onestep/unet/config.json");

fn graphs() -> Result<Vec<(&'static str, Graph)>> {
    let small = AutoencoderKL::from_config(SMALL_VAE)?;
    let latent = 512 / small.factor();
    Ok(vec![
        ("vae decoder 512x512", AutoencoderKL::from_config(SD_VAE)?.build_decoder(1, 64, 64, DType::F32)?),
        ("unet 64x64", UNet2DConditionModel::from_config(SD21_UNET)?.build(&Extents::of(64, 64), DType::F32)?),
        ("small encoder 512x512", small.build_encoder(1, 512, 512, DType::F32)?),
        (
            "small unet 512x512",
            UNet2DConditionModel::from_config(SMALL_UNET)?.build(&Extents::of(latent, latent), DType::F32)?,
        ),
        ("small decoder 512x512", small.build_decoder(1, latent, latent, DType::F32)?),
    ])
}

/// Processor time of all threads of this process in seconds; 0 where the system has no such count.
fn processor_time() -> f64 {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return 0.0 };
    let of = |dir: std::path::PathBuf| -> Option<f64> {
        std::fs::read_to_string(dir.join("schedstat")).ok()?.split(' ').next()?.parse().ok()
    };
    tasks.flatten().filter_map(|t| of(t.path())).sum::<f64>() * 1e-9
}

/// Allocates every slot and fills weights and persistent values with small numbers.
fn resident(backend: &mut dyn Backend, plan: &Plan) -> Result<Vec<BufferId>> {
    let mut state = 1u32;
    let mut buffers = Vec::new();
    for slot in &plan.slots {
        let buffer = backend.alloc(slot)?;
        match slot.kind {
            SlotKind::Weight(_) | SlotKind::Persistent | SlotKind::Ring => {
                let values: Vec<f32> = (0..slot.bytes / 4)
                    .map(|_| {
                        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        (state >> 8) as f32 / (1u32 << 24) as f32 * 0.06 - 0.03
                    })
                    .collect();
                backend.write(buffer, 0, bytemuck::cast_slice(&values))?;
            }
            SlotKind::Control => {
                let mut control = vec![0u8; 4 * CONTROL_HEADER_WORDS as usize];
                control.extend_from_slice(bytemuck::bytes_of(&Item::default()));
                backend.write(buffer, 0, &control)?;
            }
            SlotKind::Arena => {}
        }
        buffers.push(buffer);
    }
    Ok(buffers)
}

/// Wall and processor seconds of `runs` runs of `commands`, each sorted.
fn time(
    backend: &mut dyn Backend,
    commands: &[Dispatch],
    buffers: &[BufferId],
    runs: usize,
) -> Result<(Vec<f64>, Vec<f64>)> {
    let list = backend.prepare(commands, buffers)?;
    let (mut wall, mut processor) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let (start, used) = (Instant::now(), processor_time());
        backend.run(list)?;
        wall.push(start.elapsed().as_secs_f64());
        processor.push(processor_time() - used);
    }
    backend.discard(list);
    wall.sort_by(f64::total_cmp);
    processor.sort_by(f64::total_cmp);
    Ok((wall, processor))
}

fn profile(backend: &mut dyn Backend, plan: &Plan, buffers: &[BufferId], runs: usize) -> Result<()> {
    let mut stems: BTreeMap<(Stem, &str), (usize, f64, u64)> = BTreeMap::new();
    let mut rows = Vec::new();
    for dispatch in &plan.body {
        let (_, processor) = time(backend, std::slice::from_ref(dispatch), buffers, runs)?;
        let entry = stems.entry((dispatch.stem, dispatch.variant)).or_default();
        *entry = (entry.0 + 1, entry.1 + processor[0], entry.2 + dispatch.flops);
        rows.push((processor[0], dispatch));
    }
    for ((stem, variant), (count, seconds, flops)) in stems {
        println!(
            "    {:<18} {variant:<9} {count:>4} launches {:>9.2} ms {:>8.1} GFLOP/s",
            stem.name(),
            seconds * 1e3,
            flops as f64 / seconds * 1e-9
        );
    }
    rows.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (seconds, d) in rows.iter().take(12) {
        let rate = d.flops as f64 / seconds * 1e-9;
        println!(
            "    {:<60} {:>9.2} ms {rate:>8.1} GFLOP/s",
            format!("{} {} {}", d.label, d.stem.name(), d.variant),
            seconds * 1e3
        );
    }
    Ok(())
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let number = |name: &str| arguments.iter().find_map(|a| a.strip_prefix(name)?.parse::<usize>().ok());
    let runs = number("runs=").unwrap_or(5);
    let profiled = arguments.iter().any(|a| a == "profile");
    let mut backend = Cpu::with_threads(number("threads=").unwrap_or(0))?;
    println!("{}", backend.caps().name);
    println!("{:<24} {:>9} {:>10} {:>10} {:>10} {:>9}", "network", "GFLOP", "best s", "median s", "cpu s", "GFLOP/s");
    for (name, graph) in graphs()? {
        if !arguments.iter().filter(|a| !a.contains('=') && *a != "profile").all(|f| name.contains(f.as_str())) {
            continue;
        }
        let plan = plan::compile(graph, backend.caps())?;
        let buffers = resident(&mut backend, &plan)?;
        time(&mut backend, &plan.setup, &buffers, 1)?;
        let (wall, processor) = time(&mut backend, &plan.body, &buffers, runs)?;
        let flops = plan.body.iter().map(|d| d.flops).sum::<u64>() as f64;
        println!(
            "{name:<24} {:>9.1} {:>10.4} {:>10.4} {:>10.4} {:>9.1}",
            flops * 1e-9,
            wall[0],
            wall[wall.len() / 2],
            processor[0],
            flops / wall[0] * 1e-9
        );
        if profiled {
            profile(&mut backend, &plan, &buffers, runs.min(5))?;
        }
        buffers.into_iter().for_each(|b| backend.free(b));
    }
    Ok(())
}
