//! Kernels on the shapes that matter, one dispatch at a time:
//! `cargo bench --bench kernels -- [device=cpu|cuda:N|wgpu:N] [dtype=f32|f16] [threads=N] [FILTER ...]`.
//!
//! Prints one row per layer: best and median wall time, best processor time of all threads, GFLOP/s of the layer's
//! own arithmetic (a Winograd kernel does less) and GB/s of its operands. On a busy machine the processor time
//! is the figure to compare. A GPU runs each layer [`REPEATS`] times between two waits of the host, so that the wait is
//! shared; operands that fit its cache stay there. `benches/torch_layers.py` measures PyTorch on the same rows.

use std::time::Instant;
use tessera::Result;
use tessera::abi::params::{
    ACT_SILU, AttentionParams, Conv2dParams, GemmParams, GroupNormStatsParams, LayerNormParams, ModulateParams,
    NORM_BLOCK, NormApplyParams, ResampleParams,
};
use tessera::abi::{Access, BackendKind, Item, Params, Types, operands, table};
use tessera::backend::Backend;
use tessera::backend::cpu::Cpu;
use tessera::backend::cuda::CudaBackend;
use tessera::backend::wgpu::WgpuBackend;
use tessera::graph::layout::Packing;
use tessera::graph::op::Rearrange;
use tessera::graph::{Builder, DType, Lifetime, Shape};
use tessera::plan::command::{Dispatch, PackedWeight, Range, Slot, SlotId, SlotKind};

/// A layer: name, parameters, floating-point operations.
struct Layer {
    name: String,
    params: Params,
    flops: f64,
}

fn pitch(c: u32) -> u32 {
    c.next_multiple_of(8)
}

fn conv(name: &str, side: u32, [c, c2]: [u32; 2], oc: u32, kernel: u32, up: bool) -> Layer {
    let out = if up { 2 * side } else { side };
    let params = Conv2dParams {
        n: 1,
        h: side,
        w: side,
        pitch_x: pitch(c),
        pitch_x2: pitch(c2),
        oh: out,
        ow: out,
        oc,
        pitch_y: pitch(oc),
        kernel,
        stride: 1,
        pad_top: kernel / 2,
        pad_left: kernel / 2,
        upsample: u32::from(up),
        parts: u32::from(c2 > 0),
        ..Conv2dParams::default()
    };
    let flops = 2.0 * f64::from(out).powi(2) * f64::from((c + c2) * oc * kernel * kernel);
    let kind = if up { "up3x3".to_string() } else { format!("{kernel}x{kernel}") };
    let from = if c2 > 0 { format!("{c}+{c2}") } else { c.to_string() };
    Layer { name: format!("{name} conv{kind} {from}->{oc} @{side}"), params: Params::Conv2d(params), flops }
}

fn gemm(name: &str, m: u32, k: u32, n: u32, geglu: bool) -> Layer {
    let params = GemmParams { m, n, k, pitch_y: n, parts: u32::from(geglu), ..GemmParams::default() };
    let columns = if geglu { 2 * n } else { n };
    let flops = 2.0 * f64::from(m) * f64::from(k) * f64::from(columns);
    let kind = if geglu { "geglu" } else { "gemm" };
    Layer { name: format!("{name} {kind} {m}x{k}->{n}"), params: Params::Gemm(params), flops }
}

fn attention(name: &str, queries: u32, keys: u32, heads: u32, head_dim: u32) -> Layer {
    let width = heads * head_dim;
    let fused = queries == keys;
    let params = AttentionParams {
        n: 1,
        queries,
        keys,
        heads,
        head_dim,
        pitch_q: if fused { 3 * width } else { width },
        pitch_k: if fused { 3 * width } else { 2 * width },
        pitch_v: if fused { 3 * width } else { 2 * width },
        pitch_y: width,
        offset_k: if fused { width } else { 0 },
        offset_v: if fused { 2 * width } else { width },
        scale: 1.0 / (head_dim as f32).sqrt(),
        ..AttentionParams::default()
    };
    let flops = 4.0 * f64::from(queries) * f64::from(keys) * f64::from(width);
    Layer {
        name: format!("{name} attention {queries}x{keys} {heads}x{head_dim}"),
        params: Params::Attention(params),
        flops,
    }
}

fn apply(side: u32, c: u32) -> Layer {
    let params = NormApplyParams {
        n: 1,
        pixels: side * side,
        c,
        pitch_x: c,
        pitch_y: c,
        act: ACT_SILU,
        ..NormApplyParams::default()
    };
    let flops = 2.0 * f64::from(side * side * c);
    Layer { name: format!("norm_apply+silu {c} @{side}"), params: Params::NormApply(params), flops }
}

fn stats(side: u32, c: u32) -> Layer {
    let blocks = (side * side).div_ceil(NORM_BLOCK);
    let params = GroupNormStatsParams { n: 1, h: side, w: side, pitch_x: c, blocks, ..GroupNormStatsParams::default() };
    let flops = 4.0 * f64::from(side * side * c);
    Layer { name: format!("group_norm_stats {c} @{side}"), params: Params::GroupNormStats(params), flops }
}

fn norm(rows: u32, c: u32) -> Layer {
    let params = LayerNormParams { rows, c, pitch: c, eps: 1e-5 };
    Layer {
        name: format!("layer_norm {rows}x{c}"),
        params: Params::LayerNorm(params),
        flops: 6.0 * f64::from(rows * c),
    }
}

/// Self attention with relative positions: `n` sequences of `side` by `side` tokens.
fn relative(name: &str, n: u32, side: u32, heads: u32, head_dim: u32) -> Layer {
    let mut layer = attention(name, side * side, side * side, heads, head_dim);
    if let Params::Attention(p) = &mut layer.params {
        (p.n, p.rel_h, p.rel_w, p.parts) = (n, side, side, 4);
    }
    Layer { name: format!("{} relative x{n}", layer.name), flops: layer.flops * f64::from(n), ..layer }
}

/// A square map resized by `taps` weights a pixel along one axis.
fn resample(side: u32, c: u32, out: u32, taps: u32, axis: u32) -> Layer {
    let (pitch_c, pitch_table) = (pitch(c), pitch(taps + 1));
    let (h, w) = (side, side);
    let params =
        ResampleParams { n: 1, h, w, pitch: pitch_c, out, axis, taps, pitch_table, ..ResampleParams::default() };
    let flops = 2.0 * f64::from(side) * f64::from(out) * f64::from(c * taps);
    let name = format!("resample {} {taps} taps {c} @{side}->{out}", if axis == 0 { "rows" } else { "columns" });
    Layer { name, params: Params::Resample(params), flops }
}

/// A move of a square map, as the planner would ask for it.
fn moved(side: u32, c: u32, what: &str, op: Rearrange) -> Layer {
    let mut b = Builder::new("move", DType::F32);
    let x = b.input("x", Shape::new(1, side, side, c), DType::F32, Lifetime::Window);
    let y = b.rearrange("y", x, op).expect("a move that fits");
    b.output("y", y);
    let plan = tessera::plan::compile(b.finish(), &tessera::abi::Caps::cpu()).expect("plans");
    Layer { name: format!("rearrange {what} {c} @{side}"), params: plan.body[0].params, flops: 0.0 }
}

fn modulate(side: u32, c: u32) -> Layer {
    let (p, pitch_gb) = (pitch(c), pitch(2 * c));
    let params =
        ModulateParams { pixels: side * side, c, pitch: p, pitch_gb, act: ACT_SILU, ..ModulateParams::default() };
    let flops = 2.0 * f64::from(side * side * c);
    Layer { name: format!("modulate+silu {c} @{side}"), params: Params::Modulate(params), flops }
}

/// The SD 2.1 autoencoder's decoder at 512x512, its UNet at 64x64 latents, and a small network.
fn layers() -> Vec<Layer> {
    vec![
        conv("vae", 64, [512, 0], 512, 3, false),
        conv("vae", 128, [512, 0], 512, 3, false),
        conv("vae", 256, [512, 0], 256, 3, false),
        conv("vae", 256, [256, 0], 256, 3, false),
        conv("vae", 512, [256, 0], 128, 3, false),
        conv("vae", 512, [128, 0], 128, 3, false),
        conv("vae", 128, [128, 0], 128, 3, false),
        conv("vae", 64, [128, 0], 128, 3, true),
        conv("vae", 512, [128, 0], 3, 3, false),
        conv("vae", 128, [512, 0], 512, 3, true),
        conv("vae", 512, [256, 0], 128, 1, false),
        conv("unet", 64, [320, 0], 320, 3, false),
        conv("unet", 64, [320, 320], 320, 3, false),
        conv("unet", 32, [640, 0], 640, 3, false),
        conv("unet", 16, [1280, 0], 1280, 3, false),
        conv("unet", 16, [1280, 1280], 1280, 3, false),
        conv("unet", 8, [1280, 0], 1280, 3, false),
        conv("unet", 8, [1280, 1280], 1280, 3, false),
        conv("small", 512, [3, 0], 16, 3, false),
        conv("small", 512, [16, 0], 16, 3, false),
        conv("small", 512, [16, 0], 3, 3, false),
        conv("small", 256, [16, 0], 32, 3, false),
        conv("small", 256, [32, 0], 32, 3, false),
        conv("small", 128, [32, 0], 64, 3, false),
        conv("small", 128, [64, 0], 64, 3, false),
        conv("small", 128, [64, 64], 64, 3, false),
        conv("small", 256, [32, 0], 16, 3, true),
        gemm("unet", 4096, 320, 320, false),
        gemm("unet", 4096, 320, 1280, true),
        gemm("unet", 4096, 1280, 320, false),
        gemm("unet", 1024, 640, 2560, true),
        gemm("unet", 256, 1280, 5120, true),
        gemm("unet", 77, 1024, 320, false),
        attention("unet", 4096, 4096, 5, 64),
        attention("unet", 4096, 77, 5, 64),
        attention("unet", 1024, 1024, 10, 64),
        attention("vae", 4096, 4096, 1, 512),
        apply(512, 128),
        apply(512, 16),
        stats(512, 128),
        stats(512, 16),
        norm(4096, 320),
        // SAM ViT-B: windows of 14 x 14 and all of 64 x 64 tokens; and the same without relative positions.
        relative("sam", 25, 14, 12, 64),
        relative("sam", 1, 64, 12, 64),
        attention("sam", 4096, 4096, 12, 64),
        moved(64, 768, "windows", Rearrange::Windows { size: 14 }),
        moved(64, 768, "heads", Rearrange::SplitChannels { parts: 12 }),
        moved(64, 1024, "depth to space", Rearrange::DepthToSpace { factor: 2 }),
        moved(512, 64, "depth to space", Rearrange::DepthToSpace { factor: 2 }),
        moved(518, 3, "space to depth", Rearrange::SpaceToDepth { factor: 14 }),
        moved(512, 8, "windows", Rearrange::Windows { size: 8 }),
        resample(37, 256, 74, 2, 0),
        resample(256, 128, 512, 2, 0),
        resample(256, 128, 512, 2, 1),
        resample(1024, 3, 4096, 4, 0),
        resample(1024, 3, 4096, 4, 1),
        resample(2048, 3, 512, 16, 0),
        resample(2048, 3, 512, 16, 1),
        modulate(64, 320),
        modulate(512, 64),
    ]
}

/// Processor time of all threads of this process in seconds, as the scheduler counts it; 0 where there is
/// no such count.
fn processor_time() -> f64 {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return 0.0 };
    let of = |dir: std::path::PathBuf| -> Option<f64> {
        std::fs::read_to_string(dir.join("schedstat")).ok()?.split(' ').next()?.parse().ok()
    };
    tasks.flatten().filter_map(|t| of(t.path())).sum::<f64>() * 1e-9
}

/// One layer's figures.
struct Figures {
    best: f64,
    median: f64,
    processor: f64,
    bytes: u64,
    variant: &'static str,
}

/// Launches of a layer in one list on a GPU.
const REPEATS: usize = 20;

/// Times one layer by the variant that selection takes.
fn measure(backend: &mut dyn Backend, layer: &Layer, dtype: DType) -> Result<Figures> {
    let repeats = if backend.caps().kind == BackendKind::Cpu || backend.caps().software { 1 } else { REPEATS };
    let types = Types { x: dtype, w: dtype, y: dtype };
    let row = table::select(&layer.params, types, backend.caps())?;
    let stem = layer.params.stem();
    let mut slots = Vec::new();
    let mut bindings = Vec::new();
    let mut total = 0;
    // Each operand in a slot of its own; values are small and not regular.
    for (binding, operand) in stem.bindings().iter().zip(operands::operands(&layer.params, types, row)) {
        let Some(mut operand) = operand else {
            bindings.push(None);
            continue;
        };
        let kind = match binding.access {
            Access::Weight => SlotKind::Weight(PackedWeight {
                tensors: vec![None],
                packing: Packing::Vectors { lengths: vec![(operand.bytes / 4) as u32] },
                dtype,
            }),
            Access::Control => SlotKind::Control,
            Access::Read | Access::Write => SlotKind::Arena,
        };
        if binding.access == Access::Control {
            operand.bytes = 64 + size_of::<Item>() as u64;
        }
        total += operand.bytes;
        let slot = Slot { kind, bytes: operand.bytes };
        let buffer = backend.alloc(&slot)?;
        if binding.access != Access::Control {
            let mut values: Vec<f32> = (0..operand.bytes / 4)
                .map(|i| ((i.wrapping_mul(2_654_435_761) >> 8) % 1999) as f32 / 1e5 - 0.01)
                .collect();
            // Tables of taps are read in order across the side.
            if let (Params::Resample(p), "table") = (&layer.params, binding.name) {
                let side = if p.axis == 0 { p.h } else { p.w };
                for (o, row) in values.chunks_exact_mut(p.pitch_table as usize).enumerate() {
                    row[0] = (o * side as usize / p.out as usize) as f32;
                }
            }
            backend.write(buffer, 0, bytemuck::cast_slice(&values))?;
        }
        bindings.push(Some(Range { slot: SlotId(slots.len() as u32), offset: 0, bytes: operand.bytes }));
        slots.push(buffer);
    }
    let dispatch = Dispatch {
        stem,
        variant: row.variant,
        types,
        params: layer.params,
        grid: (row.grid)(&layer.params, types),
        bindings,
        label: layer.name.clone(),
        flops: layer.flops as u64,
        bytes: total,
    };
    let list = backend.prepare(&vec![dispatch; repeats], &slots)?;
    let mut seconds = Vec::new();
    let mut processor = f64::INFINITY;
    let begin = Instant::now();
    while seconds.len() < 3 || (begin.elapsed().as_secs_f64() < 0.6 && seconds.len() < 200) {
        let (start, used) = (Instant::now(), processor_time());
        backend.run(list)?;
        seconds.push(start.elapsed().as_secs_f64() / repeats as f64);
        processor = processor.min((processor_time() - used) / repeats as f64);
    }
    backend.discard(list);
    slots.into_iter().for_each(|b| backend.free(b));
    seconds.sort_by(f64::total_cmp);
    Ok(Figures { best: seconds[0], median: seconds[seconds.len() / 2], processor, bytes: total, variant: row.variant })
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let threads = arguments.iter().find_map(|a| a.strip_prefix("threads=")?.parse().ok()).unwrap_or(0);
    let given = |key: &str| arguments.iter().find_map(|a| a.strip_prefix(key));
    let dtype = if given("dtype=") == Some("f16") { DType::F16 } else { DType::F32 };
    let mut backend: Box<dyn Backend> = match (given("device=cuda:"), given("device=wgpu:")) {
        (Some(index), _) => Box::new(CudaBackend::open(index.parse().unwrap_or(0))?),
        (None, Some(index)) => Box::new(WgpuBackend::open(index.parse().unwrap_or(0))?),
        (None, None) => Box::new(Cpu::with_threads(threads)?),
    };
    println!("{} {}", backend.caps().name, dtype.name());
    println!(
        "{:<42} {:<12} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8}",
        "layer", "variant", "best ms", "median", "cpu ms", "GFLOP/s", "per core", "GB/s"
    );
    for layer in layers() {
        if !arguments.iter().filter(|a| !a.contains('=')).all(|f| layer.name.contains(f.as_str())) {
            continue;
        }
        let f = match measure(backend.as_mut(), &layer, dtype) {
            Ok(f) => f,
            // Some layers are larger than a device's largest buffer: the planner would tile them.
            Err(e) => {
                println!("{:<42} {e}", layer.name);
                continue;
            }
        };
        println!(
            "{:<42} {:<12} {:>9.3} {:>9.3} {:>9.3} {:>9.1} {:>9.1} {:>8.1}",
            layer.name,
            f.variant,
            f.best * 1e3,
            f.median * 1e3,
            f.processor * 1e3,
            layer.flops / f.best * 1e-9,
            layer.flops / f.processor * 1e-9,
            f.bytes as f64 / f.best * 1e-9
        );
    }
    Ok(())
}
