//! What loading a checkpoint costs: `cargo bench --bench loading -- [keep=FILE] [pack|executor] [f16|f32]`
//! (`RAYON_NUM_THREADS=1` for one core).
//!
//! Makes a seeded synthetic f16 checkpoint with the tensors of the SD 2.1 UNet (1.73 GB, in a temporary
//! folder, or `keep=FILE`, which is kept and used again), then, for weights stored as f16 and as f32, reads
//! and packs every weight of a compiled plan and drops it (`pack`), and makes a whole executor on the cpu
//! backend (`executor`). The peak is of resident memory beyond what was resident before and beyond the
//! device's own bytes. The file is in the page cache, which is not counted as this process's memory.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;
use tessera::backend::Backend;
use tessera::backend::cpu::Cpu;
use tessera::graph::{DType, Graph};
use tessera::model::Extents;
use tessera::model::unet::UNet2DConditionModel;
use tessera::plan::command::{PackedWeight, Plan, SlotKind};
use tessera::run::executor::{Executor, SharedDevice};
use tessera::weights::Checkpoint;
use tessera::{Result, plan};

const SD21_UNET: &str = include_str!("../tests/data/configs/sd21_unet.json");

fn graph(dtype: DType) -> Result<Graph> {
    // small latents: the weights are what is measured
    UNet2DConditionModel::from_config(SD21_UNET)?.build(&Extents::of(8, 8), dtype)
}

/// Writes the checkpoint, its values small and without a pattern.
fn write(path: &Path, graph: &Graph) -> std::io::Result<()> {
    let (mut entries, mut end) = (Vec::new(), 0u64);
    for w in &graph.weights {
        let begin = end;
        end += 2 * w.shape.iter().product::<u64>();
        entries.push(format!(
            "\"{}\":{{\"dtype\":\"F16\",\"shape\":{:?},\"data_offsets\":[{begin},{end}]}}",
            w.name, w.shape
        ));
    }
    let header = format!("{{{}}}", entries.join(","));
    let mut out = BufWriter::with_capacity(1 << 20, std::fs::File::create(path)?);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..end / 8 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // four halves of 2^-8 to 2^-7, of either sign
        out.write_all(&((state & 0x83ff_83ff_83ff_83ff) | 0x1c00_1c00_1c00_1c00).to_le_bytes())?;
    }
    out.write_all(&vec![0; (end % 8) as usize])?;
    out.into_inner()?.sync_all()
}

/// A line of `/proc/self/status` in bytes; 0 where there is none.
fn status(key: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Makes the peak start anew from what is resident now; returns that.
fn reset_peak() -> u64 {
    // where the system does not allow it, the peak is too high, never too low
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    status("VmRSS")
}

fn packed(checkpoint: &Checkpoint, w: &PackedWeight) -> Result<Vec<u8>> {
    checkpoint.packed(&w.tensors, &w.packing, w.dtype)
}

/// Seconds, and peak bytes beyond the device's copy; `device` bytes.
struct Cost {
    seconds: f64,
    peak: u64,
    device: u64,
}

fn pack_all(path: &Path, plan: &Plan) -> Result<Cost> {
    let (before, start) = (reset_peak(), Instant::now());
    let checkpoint = Checkpoint::open(path)?;
    let mut device = 0;
    for slot in &plan.slots {
        if let SlotKind::Weight(w) = &slot.kind {
            device += std::hint::black_box(packed(&checkpoint, w)?).len() as u64;
        }
    }
    Ok(Cost { seconds: start.elapsed().as_secs_f64(), peak: status("VmHWM").saturating_sub(before), device })
}

fn resident(path: &Path, plan: Plan, cpu: Cpu) -> Result<Cost> {
    let (before, start) = (reset_peak(), Instant::now());
    let checkpoint = Checkpoint::open(path)?;
    let device = SharedDevice::new(Box::new(cpu));
    let executor = Executor::new(&device, plan, None, &mut |w| packed(&checkpoint, w))?;
    let (seconds, held) = (start.elapsed().as_secs_f64(), device.allocated());
    let peak = status("VmHWM").saturating_sub(before + held);
    drop(executor);
    Ok(Cost { seconds, peak, device: held })
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let chosen = |name: &str, other: &str| arguments.iter().any(|a| a == name) || !arguments.iter().any(|a| a == other);
    let folder = std::env::temp_dir().join(format!("tessera-loading-{}", std::process::id()));
    let kept = arguments.iter().find_map(|a| a.strip_prefix("keep=")).map(PathBuf::from);
    let path = kept.clone().unwrap_or_else(|| folder.join("unet.safetensors"));
    let io = |e: std::io::Error| tessera::fs::io_error("cannot write", &path, &e);
    if !path.exists() {
        if kept.is_none() {
            std::fs::create_dir_all(&folder).map_err(io)?;
        }
        write(&path, &graph(DType::F32)?).map_err(io)?;
    }
    let bytes = std::fs::metadata(&path).map_err(io)?.len();
    println!("{} bytes, {} threads", bytes, rayon_threads());
    println!(
        "{:<10} {:<5} {:>8} {:>8} {:>14} {:>14} {:>10}",
        "what", "as", "s", "GB/s", "device bytes", "peak beyond", "of file"
    );
    for dtype in [DType::F16, DType::F32] {
        if !chosen(dtype.name(), if dtype == DType::F16 { "f32" } else { "f16" }) {
            continue;
        }
        let mut rows = Vec::new();
        if chosen("pack", "executor") {
            let plan = plan::compile(graph(dtype)?, Cpu::with_threads(0)?.caps())?;
            rows.push(("pack", pack_all(&path, &plan)?));
        }
        if chosen("executor", "pack") {
            let cpu = Cpu::with_threads(0)?;
            let plan = plan::compile(graph(dtype)?, cpu.caps())?;
            rows.push(("executor", resident(&path, plan, cpu)?));
        }
        for (what, cost) in rows {
            println!(
                "{what:<10} {:<5} {:>8.2} {:>8.2} {:>14} {:>14} {:>9.3}x",
                dtype.name(),
                cost.seconds,
                bytes as f64 / cost.seconds * 1e-9,
                cost.device,
                cost.peak,
                cost.peak as f64 / bytes as f64
            );
        }
    }
    if kept.is_none() {
        std::fs::remove_dir_all(&folder).map_err(io)?;
    }
    Ok(())
}

/// Threads of the pool that packs.
fn rayon_threads() -> usize {
    rayon::current_num_threads()
}
