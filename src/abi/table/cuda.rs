//! The CUDA backend's variants: rows, and how the kernel behind each is launched and called.

use super::tma::{parts, whole};
use super::{Row, WeightForm, any, columns, doubles, fold, half, product, row};
use crate::abi::params::{AttentionParams, Conv2dParams, PRODUCT_BLOCK};
use crate::abi::{Caps, Params, Stem, Types};
use crate::graph::dtype::DType;

/// What a kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// Compute capability 8.0 and all later ones.
    Sm80,
    /// Compute capability 9.0 alone, with what only it has.
    Sm90a,
}

impl Target {
    /// As the compiler names it.
    pub const fn name(self) -> &'static str {
        match self {
            Target::Sm80 => "sm_80",
            Target::Sm90a => "sm_90a",
        }
    }
}

/// How a variant is launched; `kernels/launch.txt` says the same of the kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// The stem.
    pub stem: Stem,
    /// The row's name.
    pub variant: &'static str,
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory of a block.
    pub shared: u32,
}

impl Launch {
    /// What its kernels are compiled for.
    pub fn target(&self) -> Target {
        let hopper = self.variant.contains("wgmma") || self.mapped();
        if hopper { Target::Sm90a } else { Target::Sm80 }
    }

    /// Whether its blocks stay and take one tile after another: then as many are started as the device has processors.
    pub fn stays(&self) -> bool {
        self.mapped() && self.stem != Stem::Attention
    }

    /// Bytes beside its operands, zero before it and after, that a launch on so many processors adds parts of sums in; 0 for none.
    pub fn partial_bytes(&self, processors: u32) -> u64 {
        if self.variant.contains("split") { parts::bytes(processors) } else { 0 }
    }

    /// Whether the tensor memory accelerator brings its operands.
    fn mapped(&self) -> bool {
        self.variant.contains("tma")
    }
}

/// Rows and columns of a block's tile in the products on the plain units.
const SIMT_TILE: u32 = 64;
/// Rows of a block's tile in the products on tensor cores.
const MMA_ROWS: u32 = 128;
/// Columns of the wide and of the narrow tile there.
const MMA_COLUMNS: [u32; 2] = [128, 64];
/// Bytes of shared memory of those: the stages of the two operands' pipeline.
const MMA_SHARED: u32 = 49_152;
/// The same of the products by `wgmma`, whose tiles are the same.
const WGMMA_SHARED: u32 = 98_304;
/// The same of the products whose operands the tensor memory accelerator brings: stages, staged sums and barriers.
const TMA_SHARED: u32 = 217_216;
/// Queries of a block of `attention`: on the plain units and with heads of 512 channels, on tensor cores, there with
/// heads of 160 channels, and there with heads of 64 that the tensor memory accelerator brings.
const ATTENTION_QUERIES: [u32; 4] = [32, 128, 64, 192];
/// Widest head of `attention` on the plain units.
const ATTENTION_HEAD: u32 = 512;
/// Channels that a thread of the elementwise kernels takes, and a thread of the others.
const CHANNELS: u32 = 8;
/// Channels of a block of `group_norm_stats`.
const STATS_CHANNELS: u32 = 64;
/// Rows of a block of `layer_norm`: one for each warp.
const LAYER_NORM_ROWS: u32 = 4;
/// Threads of the elementwise kernels, and of `time_embedding`.
const FLAT_THREADS: u32 = 256;
/// See [`FLAT_THREADS`].
const TIME_THREADS: u32 = 128;

/// Whether the wide tile covers the columns without more waste than the narrow one.
fn wide(p: &Params) -> bool {
    let [wide, narrow] = MMA_COLUMNS;
    columns(p).div_ceil(wide) * wide == columns(p).div_ceil(narrow) * narrow
}

/// Whether tiles of that width, of a doubled input or not, are for this product.
fn tiled<const WIDE: bool, const DOUBLES: bool>(p: &Params, types: Types, caps: &Caps) -> bool {
    (!WIDE || wide(p)) && (!DOUBLES || doubles(p, types, caps))
}

/// Products on tensor cores.
fn on_mma<const WIDE: bool, const DOUBLES: bool>(p: &Params, types: Types, caps: &Caps) -> bool {
    half(p, types, caps) && tiled::<WIDE, DOUBLES>(p, types, caps)
}

/// The same by tensor cores that have `wgmma`.
fn on_wgmma<const WIDE: bool, const DOUBLES: bool>(p: &Params, types: Types, caps: &Caps) -> bool {
    caps.wgmma && on_mma::<WIDE, DOUBLES>(p, types, caps)
}

/// The same of f32 through tf32, where that was asked for.
fn on_tf32<const WIDE: bool, const DOUBLES: bool>(p: &Params, types: Types, caps: &Caps) -> bool {
    caps.tf32 && [types.x, types.w, types.y] == [DType::F32; 3] && tiled::<WIDE, DOUBLES>(p, types, caps)
}

fn heads(p: &Params, _: Types, _: &Caps) -> bool {
    matches!(p, Params::Attention(a) if a.head_dim <= ATTENTION_HEAD && a.head_dim % 8 == 0)
}

/// Half types and heads of exactly `D` channels: the kernel is unrolled over them.
fn half_heads<const D: u32>(p: &Params, t: Types, _: &Caps) -> bool {
    let types = matches!(t.x, DType::F16 | DType::Bf16) && (t.y == t.x || t.y == DType::F32);
    types && matches!(p, Params::Attention(a) if a.head_dim == D && a.parts & 4 == 0)
}

/// The same, on tensor cores that have `wgmma`.
fn wgmma_heads(p: &Params, t: Types, caps: &Caps) -> bool {
    caps.wgmma && half_heads::<64>(p, t, caps)
}

/// Attention without mask or contexts whose operands the tensor memory accelerator brings, of at least half of a block's queries
/// for each. Its weights are scaled by the highest score of 128 keys at a time, not 64 as in the other variants, so what decides
/// is one item's own, that batches change no bit.
fn tma_heads(p: &Params, t: Types, caps: &Caps) -> bool {
    let block = ATTENTION_QUERIES[3];
    let filled =
        |a: &AttentionParams| u64::from(a.queries) * 2 >= u64::from(a.queries.div_ceil(block)) * u64::from(block);
    let plain = matches!(p, Params::Attention(a) if a.parts == 0 && filled(a));
    caps.tma && plain && half_heads::<64>(p, t, caps)
}

/// Blocks of a convolution: tiles of pixels by tiles of channels; per phase, over the input's pixels, where
/// the doubled input is folded.
fn conv_blocks(c: &Conv2dParams, rows: u32, columns: u32, phases: u32) -> [u32; 3] {
    let pixels = if phases == 1 { product(&[c.n, c.oh, c.ow]) } else { product(&[c.n, c.h, c.w]) };
    fold(pixels.div_ceil(u64::from(rows)) * product(&[phases, c.pitch_y.div_ceil(columns)]))
}

fn blocks(p: &Params, rows: u32, tile: u32, phases: u32) -> [u32; 3] {
    match p {
        Params::Conv2d(c) => conv_blocks(c, rows, tile, phases),
        Params::Gemm(g) => fold(product(&[g.m.div_ceil(rows), columns(p).div_ceil(tile)])),
        _ => fold(1),
    }
}

fn simt(p: &Params, _: Types) -> [u32; 3] {
    blocks(p, SIMT_TILE, SIMT_TILE, 1)
}

fn mma<const NARROW: usize>(p: &Params, _: Types) -> [u32; 3] {
    blocks(p, MMA_ROWS, MMA_COLUMNS[NARROW], 1)
}

fn mma_phases<const NARROW: usize>(p: &Params, _: Types) -> [u32; 3] {
    blocks(p, MMA_ROWS, MMA_COLUMNS[NARROW], 4)
}

fn queries<const KIND: usize>(p: &Params, _: Types) -> [u32; 3] {
    match p {
        Params::Attention(a) => fold(product(&[a.n, a.heads, a.queries.div_ceil(ATTENTION_QUERIES[KIND])])),
        _ => fold(1),
    }
}

/// Blocks of the statistics of a convolution, per item: rows of its tiles, that lie in one item and, of a doubled input, in one phase;
/// of values stored as the operands are.
fn statistics<const DOUBLES: bool>(p: &Params, types: Types) -> u32 {
    let Params::Conv2d(c) = p else { return 0 };
    let (pixels, phases) = if DOUBLES { (product(&[c.h, c.w]), 4) } else { (product(&[c.oh, c.ow]), 1) };
    let blocks = pixels / u64::from(PRODUCT_BLOCK) * phases;
    let whole = types.x == types.y && pixels.is_multiple_of(u64::from(PRODUCT_BLOCK));
    u32::try_from(blocks).ok().filter(|_| whole).unwrap_or(0)
}

/// A convolution whose ending makes statistics where asked.
const fn conv(
    variant: &'static str,
    accepts: fn(&Params, Types, &Caps) -> bool,
    weight: WeightForm,
    grid: fn(&Params, Types) -> [u32; 3],
) -> Row {
    let statistics = if matches!(weight, WeightForm::Up2x2) { statistics::<true> } else { statistics::<false> };
    Row { statistics, ..row(Stem::Conv2d, variant, accepts, weight, grid) }
}

fn flat(chunks: u64, threads: u32) -> [u32; 3] {
    fold(chunks.div_ceil(u64::from(threads)))
}

fn others(p: &Params, _: Types) -> [u32; 3] {
    match p {
        Params::GroupNormStats(s) => fold(product(&[s.n, s.blocks, (s.pitch_x + s.pitch_x2).div_ceil(STATS_CHANNELS)])),
        Params::NormFinalize(f) => fold(product(&[f.n, f.groups])),
        Params::NormApply(a) => flat(product(&[a.n, a.pixels, a.pitch_y / CHANNELS]), FLAT_THREADS),
        Params::LayerNorm(l) => fold(u64::from(l.rows.div_ceil(LAYER_NORM_ROWS))),
        Params::TimeEmbedding(t) => flat(product(&[t.rows, t.pitch / CHANNELS]), TIME_THREADS),
        Params::Pointwise(w) => flat(product(&[w.n, w.pixels, w.pitch_y / CHANNELS]), FLAT_THREADS),
        Params::Resample(r) => {
            let kept = if r.axis == 0 { r.w } else { r.h };
            flat(product(&[r.n, r.out, kept, r.pitch / CHANNELS]), FLAT_THREADS)
        }
        Params::Rearrange(r) => flat(product(&[r.n, r.oh, r.ow, r.pitch_y / CHANNELS]), FLAT_THREADS),
        Params::Modulate(m) => flat(product(&[m.pixels, m.pitch / CHANNELS]), FLAT_THREADS),
        Params::Conv2d(_) | Params::Gemm(_) | Params::Attention(_) => fold(1),
    }
}

/// See the module. `base` serves every type on the plain units; the tiles of one kernel family sum in the same
/// order, so which of them runs changes no bit. What sums in another order is chosen by one item of the launch alone:
/// parts of K, and attention by the tensor memory accelerator.
pub(super) const ROWS: &[Row] = &[
    conv("up2x2_tma", whole::accepts::<0, true>, WeightForm::Up2x2, whole::grid::<0, true>),
    conv("up2x2_tma_m128", whole::accepts::<1, true>, WeightForm::Up2x2, whole::grid::<1, true>),
    conv("tma", whole::accepts::<0, false>, WeightForm::Kn, whole::grid::<0, false>),
    conv("tma_m128", whole::accepts::<1, false>, WeightForm::Kn, whole::grid::<1, false>),
    row(Stem::Conv2d, "tma_split_m128", parts::splits::<1>, WeightForm::Kn, parts::grid::<1>),
    row(Stem::Conv2d, "tma_split", parts::splits::<0>, WeightForm::Kn, parts::grid::<0>),
    row(Stem::Gemm, "tma", whole::accepts::<0, false>, WeightForm::Kn, whole::grid::<0, false>),
    row(Stem::Gemm, "tma_m128", whole::accepts::<1, false>, WeightForm::Kn, whole::grid::<1, false>),
    row(Stem::Gemm, "tma_split_m128", parts::splits::<1>, WeightForm::Kn, parts::grid::<1>),
    row(Stem::Gemm, "tma_split", parts::splits::<0>, WeightForm::Kn, parts::grid::<0>),
    conv("up2x2_wgmma", on_wgmma::<true, true>, WeightForm::Up2x2, mma_phases::<0>),
    conv("up2x2_wgmma_n64", on_wgmma::<false, true>, WeightForm::Up2x2, mma_phases::<1>),
    conv("wgmma", on_wgmma::<true, false>, WeightForm::Kn, mma::<0>),
    conv("wgmma_n64", on_wgmma::<false, false>, WeightForm::Kn, mma::<1>),
    row(Stem::Gemm, "wgmma", on_wgmma::<true, false>, WeightForm::Kn, mma::<0>),
    row(Stem::Gemm, "wgmma_n64", on_wgmma::<false, false>, WeightForm::Kn, mma::<1>),
    conv("up2x2_mma", on_mma::<true, true>, WeightForm::Up2x2, mma_phases::<0>),
    conv("up2x2_mma_n64", on_mma::<false, true>, WeightForm::Up2x2, mma_phases::<1>),
    conv("mma", on_mma::<true, false>, WeightForm::Kn, mma::<0>),
    conv("mma_n64", on_mma::<false, false>, WeightForm::Kn, mma::<1>),
    conv("up2x2_tf32", on_tf32::<true, true>, WeightForm::Up2x2, mma_phases::<0>),
    conv("up2x2_tf32_n64", on_tf32::<false, true>, WeightForm::Up2x2, mma_phases::<1>),
    conv("tf32", on_tf32::<true, false>, WeightForm::Kn, mma::<0>),
    conv("tf32_n64", on_tf32::<false, false>, WeightForm::Kn, mma::<1>),
    row(Stem::Conv2d, "base", any, WeightForm::Kn, simt),
    row(Stem::Gemm, "mma", on_mma::<true, false>, WeightForm::Kn, mma::<0>),
    row(Stem::Gemm, "mma_n64", on_mma::<false, false>, WeightForm::Kn, mma::<1>),
    row(Stem::Gemm, "tf32", on_tf32::<true, false>, WeightForm::Kn, mma::<0>),
    row(Stem::Gemm, "tf32_n64", on_tf32::<false, false>, WeightForm::Kn, mma::<1>),
    row(Stem::Gemm, "base", any, WeightForm::Kn, simt),
    row(Stem::Attention, "tma_64", tma_heads, WeightForm::None, queries::<3>),
    row(Stem::Attention, "wgmma_64", wgmma_heads, WeightForm::None, queries::<1>),
    row(Stem::Attention, "mma_40", half_heads::<40>, WeightForm::None, queries::<1>),
    row(Stem::Attention, "mma_64", half_heads::<64>, WeightForm::None, queries::<1>),
    row(Stem::Attention, "mma_80", half_heads::<80>, WeightForm::None, queries::<1>),
    row(Stem::Attention, "mma_160", half_heads::<160>, WeightForm::None, queries::<2>),
    row(Stem::Attention, "mma_512", half_heads::<512>, WeightForm::None, queries::<0>),
    row(Stem::Attention, "base", heads, WeightForm::None, queries::<0>),
    row(Stem::GroupNormStats, "base", any, WeightForm::None, others),
    row(Stem::NormFinalize, "base", any, WeightForm::None, others),
    row(Stem::NormApply, "base", any, WeightForm::None, others),
    row(Stem::LayerNorm, "base", any, WeightForm::None, others),
    row(Stem::TimeEmbedding, "base", any, WeightForm::None, others),
    row(Stem::Pointwise, "base", any, WeightForm::None, others),
    row(Stem::Resample, "base", any, WeightForm::None, others),
    row(Stem::Rearrange, "base", any, WeightForm::None, others),
    row(Stem::Modulate, "base", any, WeightForm::None, others),
];

const fn launch(stem: Stem, variant: &'static str, threads: u32, shared: u32) -> Launch {
    Launch { stem, variant, threads, shared }
}

/// One entry per row, in the same order.
pub const LAUNCHES: &[Launch] = &[
    launch(Stem::Conv2d, "up2x2_tma", 384, TMA_SHARED),
    launch(Stem::Conv2d, "up2x2_tma_m128", 384, TMA_SHARED),
    launch(Stem::Conv2d, "tma", 384, TMA_SHARED),
    launch(Stem::Conv2d, "tma_m128", 384, TMA_SHARED),
    launch(Stem::Conv2d, "tma_split_m128", 384, TMA_SHARED),
    launch(Stem::Conv2d, "tma_split", 384, TMA_SHARED),
    launch(Stem::Gemm, "tma", 384, TMA_SHARED),
    launch(Stem::Gemm, "tma_m128", 384, TMA_SHARED),
    launch(Stem::Gemm, "tma_split_m128", 384, TMA_SHARED),
    launch(Stem::Gemm, "tma_split", 384, TMA_SHARED),
    launch(Stem::Conv2d, "up2x2_wgmma", 256, WGMMA_SHARED),
    launch(Stem::Conv2d, "up2x2_wgmma_n64", 256, WGMMA_SHARED),
    launch(Stem::Conv2d, "wgmma", 256, WGMMA_SHARED),
    launch(Stem::Conv2d, "wgmma_n64", 256, WGMMA_SHARED),
    launch(Stem::Gemm, "wgmma", 256, WGMMA_SHARED),
    launch(Stem::Gemm, "wgmma_n64", 256, WGMMA_SHARED),
    launch(Stem::Conv2d, "up2x2_mma", 256, MMA_SHARED),
    launch(Stem::Conv2d, "up2x2_mma_n64", 256, MMA_SHARED),
    launch(Stem::Conv2d, "mma", 256, MMA_SHARED),
    launch(Stem::Conv2d, "mma_n64", 256, MMA_SHARED),
    launch(Stem::Conv2d, "up2x2_tf32", 256, MMA_SHARED),
    launch(Stem::Conv2d, "up2x2_tf32_n64", 256, MMA_SHARED),
    launch(Stem::Conv2d, "tf32", 256, MMA_SHARED),
    launch(Stem::Conv2d, "tf32_n64", 256, MMA_SHARED),
    launch(Stem::Conv2d, "base", 256, 0),
    launch(Stem::Gemm, "mma", 256, MMA_SHARED),
    launch(Stem::Gemm, "mma_n64", 256, MMA_SHARED),
    launch(Stem::Gemm, "tf32", 256, MMA_SHARED),
    launch(Stem::Gemm, "tf32_n64", 256, MMA_SHARED),
    launch(Stem::Gemm, "base", 256, 0),
    launch(Stem::Attention, "tma_64", 512, 178_240),
    launch(Stem::Attention, "wgmma_64", 256, 49_152),
    launch(Stem::Attention, "mma_40", 128, 28_672),
    launch(Stem::Attention, "mma_64", 128, 36_864),
    launch(Stem::Attention, "mma_80", 128, 33_792),
    launch(Stem::Attention, "mma_160", 128, 43_008),
    launch(Stem::Attention, "mma_512", 256, 101_376),
    launch(Stem::Attention, "base", 256, 0),
    launch(Stem::GroupNormStats, "base", 256, 0),
    launch(Stem::NormFinalize, "base", 128, 0),
    launch(Stem::NormApply, "base", FLAT_THREADS, 0),
    launch(Stem::LayerNorm, "base", 32 * LAYER_NORM_ROWS, 0),
    launch(Stem::TimeEmbedding, "base", TIME_THREADS, 0),
    launch(Stem::Pointwise, "base", FLAT_THREADS, 0),
    launch(Stem::Resample, "base", FLAT_THREADS, 0),
    launch(Stem::Rearrange, "base", FLAT_THREADS, 0),
    launch(Stem::Modulate, "base", FLAT_THREADS, 0),
];

/// How `variant` of `stem` is launched, if there is one.
pub fn find(stem: Stem, variant: &str) -> Option<&'static Launch> {
    LAUNCHES.iter().find(|l| l.stem == stem && l.variant == variant)
}

/// The kernel's name in its module: `<stem>_<variant>_<x>_<w>_<y>`. Stems without a weight have the type of
/// their source in its place; statistics and (a, b) are f32 whatever a launch says of them.
pub fn entry(stem: Stem, variant: &str, types: Types) -> String {
    let Types { x, w, y } = types;
    let f32 = DType::F32;
    let [x, w, y] = match stem {
        Stem::Conv2d | Stem::Gemm => [x, w, y],
        Stem::GroupNormStats => [x, x, f32],
        Stem::NormFinalize => [f32; 3],
        Stem::TimeEmbedding => [f32, f32, y],
        Stem::Attention
        | Stem::NormApply
        | Stem::LayerNorm
        | Stem::Pointwise
        | Stem::Resample
        | Stem::Rearrange
        | Stem::Modulate => [x, x, y],
    };
    format!("{}_{variant}_{}_{}_{}", stem.name(), x.name(), w.name(), y.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::params::GemmParams;

    #[test]
    fn every_row_has_its_launch() {
        let rows: Vec<_> = ROWS.iter().map(|r| (r.stem, r.variant)).collect();
        let launches: Vec<_> = LAUNCHES.iter().map(|l| (l.stem, l.variant)).collect();
        assert_eq!(rows, launches);
        for l in LAUNCHES {
            let most = match l.target() {
                Target::Sm80 => crate::limits::CUDA_MAX_SHARED,
                Target::Sm90a => crate::limits::CUDA_MAX_SHARED_HOPPER,
            };
            assert!(l.threads % 32 == 0 && l.threads <= 1024 && l.shared <= most, "{l:?}");
        }
    }

    #[test]
    fn products_go_to_tensor_cores_in_half_types() {
        let caps = Caps::cuda_default();
        let types = |x, w, y| Types { x, w, y };
        let chosen = |n: u32, types, caps: &Caps| {
            let p = Params::Gemm(GemmParams { m: 5, n, k: 8, pitch_y: n, ..GemmParams::default() });
            super::super::select(&p, types, caps).map(|r| (r.variant, (r.grid)(&p, types)))
        };
        let f16 = types(DType::F16, DType::F16, DType::F16);
        assert_eq!(chosen(320, f16, &caps).ok(), Some(("mma_n64", [5, 1, 1])));
        assert_eq!(chosen(640, f16, &caps).ok(), Some(("mma", [5, 1, 1])));
        assert_eq!(chosen(72, types(DType::Bf16, DType::Bf16, DType::F32), &caps).ok(), Some(("mma", [1, 1, 1])));
        assert_eq!(chosen(72, types(DType::F32, DType::F16, DType::F16), &caps).ok(), Some(("base", [2, 1, 1])));
        let f32 = types(DType::F32, DType::F32, DType::F32);
        assert_eq!(chosen(72, f32, &caps).ok(), Some(("base", [2, 1, 1])));
        // f32 only where tf32 was asked for, and then nothing else.
        let asked = Caps { tf32: true, ..caps.clone() };
        assert_eq!(chosen(72, f32, &asked).ok(), Some(("tf32", [1, 1, 1])));
        assert_eq!(chosen(320, f32, &asked).ok(), Some(("tf32_n64", [5, 1, 1])));
        assert_eq!(chosen(320, f16, &asked).ok(), chosen(320, f16, &caps).ok());
        assert_eq!(chosen(72, types(DType::F32, DType::F16, DType::F16), &asked).ok(), Some(("base", [2, 1, 1])));
    }

    #[test]
    fn kernels_are_called_after_their_types() {
        let t = Types { x: DType::F16, w: DType::F32, y: DType::Bf16 };
        assert_eq!(entry(Stem::Conv2d, "mma", t), "conv2d_mma_f16_f32_bf16");
        assert_eq!(entry(Stem::Pointwise, "base", t), "pointwise_base_f16_f16_bf16");
        assert_eq!(entry(Stem::GroupNormStats, "base", t), "group_norm_stats_base_f16_f16_f32");
        assert_eq!(entry(Stem::NormFinalize, "base", t), "norm_finalize_base_f32_f32_f32");
    }
}
