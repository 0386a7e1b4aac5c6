//! The layers that are measured: those that most of the time of published networks goes into, and one of each kind.

use crate::abi::params::{
    ACT_SILU, AttentionParams, Conv2dParams, GemmParams, GroupNormStatsParams, LayerNormParams, ModulateParams,
    NORM_BLOCK, NormApplyParams, ResampleParams, STATISTICS,
};
use crate::abi::{Caps, Params};
use crate::error::{Error, Kind, Result};
use crate::graph::op::Rearrange;
use crate::graph::{Builder, DType, Lifetime, Shape};
use crate::plan;

/// One launch of one kernel.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layer {
    /// Where it occurs, what it is, its shape.
    pub(super) name: String,
    pub(super) params: Params,
    /// Floating-point operations of its definition.
    pub(super) flops: f64,
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
    let params = GemmParams { m, n, k, pitch_y: n, parts: u32::from(geglu), items: 1, ..GemmParams::default() };
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
fn moved(side: u32, c: u32, what: &str, op: Rearrange) -> Result<Layer> {
    let mut b = Builder::new("move", DType::F32);
    let x = b.input("x", Shape::new(1, side, side, c), DType::F32, Lifetime::Window);
    let y = b.rearrange("y", x, op)?;
    b.output("y", y);
    let plan = plan::compile(b.finish(), &Caps::cpu())?;
    let name = format!("rearrange {what} {c} @{side}");
    let first = plan.body.first().ok_or_else(|| Error::new(Kind::Internal, "bench", format!("{name}: no launch")))?;
    Ok(Layer { name, params: first.params, flops: 0.0 })
}

fn modulate(side: u32, c: u32) -> Layer {
    let (p, pitch_gb) = (pitch(c), pitch(2 * c));
    let params =
        ModulateParams { pixels: side * side, c, pitch: p, pitch_gb, act: ACT_SILU, ..ModulateParams::default() };
    let flops = 2.0 * f64::from(side * side * c);
    Layer { name: format!("modulate+silu {c} @{side}"), params: Params::Modulate(params), flops }
}

/// The same for four items at once.
fn times4(layer: Layer) -> Layer {
    let mut params = layer.params;
    match &mut params {
        Params::Conv2d(p) => p.n = 4,
        Params::Attention(p) => p.n = 4,
        Params::Gemm(p) => (p.m, p.items) = (p.m * 4, 4),
        _ => return layer,
    }
    Layer { name: format!("{} x4", layer.name), params, flops: 4.0 * layer.flops }
}

/// The same with statistics of its result.
fn measured(layer: Layer) -> Layer {
    let mut params = layer.params;
    if let Params::Conv2d(p) = &mut params {
        p.parts |= STATISTICS;
    }
    Layer { name: format!("{} + statistics", layer.name), params, ..layer }
}

/// The SD 2.1 autoencoder's decoder at 512x512, its UNet at 64x64 latents (`x4`: at a batch of four), the largest square product, a
/// small network, and what the vision networks add.
pub(super) fn layers() -> Result<Vec<Layer>> {
    Ok(vec![
        conv("vae", 64, [512, 0], 512, 3, false),
        conv("vae", 128, [512, 0], 512, 3, false),
        conv("vae", 256, [512, 0], 256, 3, false),
        conv("vae", 256, [256, 0], 256, 3, false),
        conv("vae", 512, [256, 0], 128, 3, false),
        conv("vae", 512, [128, 0], 128, 3, false),
        measured(conv("vae", 512, [128, 0], 128, 3, false)),
        measured(conv("vae", 128, [512, 0], 512, 3, false)),
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
        times4(conv("unet", 64, [320, 0], 320, 3, false)),
        times4(conv("unet", 32, [640, 0], 640, 3, false)),
        times4(conv("unet", 16, [1280, 0], 1280, 3, false)),
        times4(conv("unet", 8, [1280, 0], 1280, 3, false)),
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
        times4(gemm("unet", 4096, 320, 320, false)),
        times4(gemm("unet", 4096, 320, 1280, true)),
        times4(gemm("unet", 1024, 640, 2560, true)),
        times4(gemm("unet", 256, 1280, 5120, true)),
        gemm("square", 8192, 8192, 8192, false),
        times4(attention("unet", 4096, 4096, 5, 64)),
        times4(attention("unet", 1024, 1024, 10, 64)),
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
        moved(64, 768, "windows", Rearrange::Windows { size: 14 })?,
        moved(64, 768, "heads", Rearrange::SplitChannels { parts: 12 })?,
        moved(64, 1024, "depth to space", Rearrange::DepthToSpace { factor: 2 })?,
        moved(512, 64, "depth to space", Rearrange::DepthToSpace { factor: 2 })?,
        moved(518, 3, "space to depth", Rearrange::SpaceToDepth { factor: 14 })?,
        moved(512, 8, "windows", Rearrange::Windows { size: 8 })?,
        resample(37, 256, 74, 2, 0),
        resample(256, 128, 512, 2, 0),
        resample(256, 128, 512, 2, 1),
        resample(1024, 3, 4096, 4, 0),
        resample(1024, 3, 4096, 4, 1),
        resample(2048, 3, 512, 16, 0),
        resample(2048, 3, 512, 16, 1),
        modulate(64, 320),
        modulate(512, 64),
    ])
}
