//! The wgpu backend's variants: rows, and the permutation of the stem's shader behind each.

use super::{Row, WeightForm, any, doubles, fold, product, row};
use crate::abi::params::Conv2dParams;
use crate::abi::{Caps, Params, Stem, Types};

/// Flags and constants that make a shader this variant, see `backend/wgpu/preprocess.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permutation {
    /// The stem.
    pub stem: Stem,
    /// The row's name.
    pub variant: &'static str,
    /// Names for `#ifdef`.
    pub flags: &'static [&'static str],
    /// Values for `${NAME}`.
    pub constants: &'static [(&'static str, u32)],
}

/// Invocations of every workgroup.
pub const LANES: u32 = 64;
/// Rows (pixels) and columns (channels) of a workgroup's tile in the TILED permutations.
const TILE: u32 = 64;
/// Queries of a workgroup in `attention`.
const ATTENTION_QUERIES: u32 = 8;
/// Queries of an invocation in `attention`'s register form.
const ATTENTION_REGISTER_QUERIES: u32 = 4;
/// Widest head of `attention`: 2 vectors of channels for each of 64 invocations.
const ATTENTION_HEAD: u32 = 512;
/// Fewest output channels worth a tile of 64.
const TILED_CHANNELS: u32 = 32;

/// Pixels and vectors of 4 channels of one invocation of the register-tiled products.
const REGISTER_PIXELS: u32 = 8;
const REGISTER_COLUMNS: u32 = 2;

/// Hardware, and enough channels for a tile.
fn tiled(p: &Params, _: Types, caps: &Caps) -> bool {
    let channels = match p {
        Params::Conv2d(c) => c.pitch_y,
        Params::Gemm(g) => g.pitch_y,
        _ => 0,
    };
    !caps.software && channels >= TILED_CHANNELS
}

fn is_geglu(p: &Params) -> bool {
    matches!(p, Params::Gemm(g) if g.parts & 1 != 0)
}

fn geglu(p: &Params, _: Types, _: &Caps) -> bool {
    is_geglu(p)
}

fn plain_gemm(p: &Params, _: Types, _: &Caps) -> bool {
    !is_geglu(p)
}

fn tiled_gemm(p: &Params, types: Types, caps: &Caps) -> bool {
    tiled(p, types, caps) && !is_geglu(p)
}

fn tiled_doubles(p: &Params, types: Types, caps: &Caps) -> bool {
    tiled(p, types, caps) && doubles(p, types, caps)
}

fn narrow_heads(p: &Params, _: Types, _: &Caps) -> bool {
    matches!(p, Params::Attention(a) if a.head_dim <= ATTENTION_HEAD && a.head_dim % 8 == 0)
}

/// A software rasteriser and heads of exactly `D` channels: the kernel is unrolled over them.
fn heads_of<const D: u32>(p: &Params, _: Types, caps: &Caps) -> bool {
    caps.software && matches!(p, Params::Attention(a) if a.head_dim == D && a.parts & 4 == 0)
}

fn software(_: &Params, _: Types, caps: &Caps) -> bool {
    caps.software
}

/// Workgroups for `invocations` invocations.
fn flat(invocations: u64) -> [u32; 3] {
    fold(invocations.div_ceil(u64::from(LANES)))
}

/// Runs of `tile` pixels: over the whole launch, or per phase of each item in the folded form.
fn conv_tiles(c: &Conv2dParams, tile: u32, up: bool) -> u64 {
    if up {
        product(&[c.n, 4]) * product(&[c.h, c.w]).div_ceil(u64::from(tile))
    } else {
        product(&[c.n, c.oh, c.ow]).div_ceil(u64::from(tile))
    }
}

/// Grid of a product with `rows(tile)` row tiles by `pitch_y` channels.
fn registers(row_tiles: u64, pitch_y: u32, columns: u32) -> [u32; 3] {
    flat(row_tiles * u64::from((pitch_y / 4).div_ceil(columns)))
}

fn conv_grid(p: &Params, pixels: u32, up: bool) -> [u32; 3] {
    match p {
        Params::Conv2d(c) => registers(conv_tiles(c, pixels, up), c.pitch_y, REGISTER_COLUMNS),
        _ => fold(1),
    }
}

fn conv_one(p: &Params, _: Types) -> [u32; 3] {
    conv_grid(p, 1, false)
}

fn conv_registers(p: &Params, _: Types) -> [u32; 3] {
    conv_grid(p, REGISTER_PIXELS, false)
}

fn conv_up(p: &Params, _: Types) -> [u32; 3] {
    conv_grid(p, REGISTER_PIXELS, true)
}

fn conv_tiled(p: &Params, _: Types) -> [u32; 3] {
    match p {
        Params::Conv2d(c) => fold(conv_tiles(c, TILE, false) * u64::from(c.pitch_y.div_ceil(TILE))),
        _ => fold(1),
    }
}

fn conv_up_tiled(p: &Params, _: Types) -> [u32; 3] {
    match p {
        Params::Conv2d(c) => fold(conv_tiles(c, TILE, true) * u64::from(c.pitch_y.div_ceil(TILE))),
        _ => fold(1),
    }
}

fn gemm_grid(p: &Params, rows: u32, columns: u32) -> [u32; 3] {
    match p {
        Params::Gemm(g) => registers(u64::from(g.m.div_ceil(rows)), g.pitch_y, columns),
        _ => fold(1),
    }
}

fn gemm_one(p: &Params, _: Types) -> [u32; 3] {
    gemm_grid(p, 1, REGISTER_COLUMNS)
}

fn gemm_registers(p: &Params, _: Types) -> [u32; 3] {
    gemm_grid(p, REGISTER_PIXELS, REGISTER_COLUMNS)
}

fn gemm_geglu(p: &Params, _: Types) -> [u32; 3] {
    gemm_grid(p, REGISTER_PIXELS, 1)
}

fn gemm_tiled(p: &Params, _: Types) -> [u32; 3] {
    match p {
        Params::Gemm(g) => fold(u64::from(g.m.div_ceil(TILE)) * u64::from(g.pitch_y.div_ceil(TILE))),
        _ => fold(1),
    }
}

/// One invocation per 4 channels of everything the other stems make; one workgroup per unit where they
/// cooperate.
fn others(p: &Params, _: Types) -> [u32; 3] {
    match p {
        Params::Attention(a) => fold(product(&[a.n, a.heads, a.queries.div_ceil(ATTENTION_QUERIES)])),
        Params::GroupNormStats(s) => flat(product(&[s.n, s.blocks, (s.pitch_x + s.pitch_x2) / 4])),
        Params::NormFinalize(f) => fold(product(&[f.n, f.groups])),
        Params::NormApply(a) => flat(product(&[a.n, a.pixels, a.pitch_y / 4])),
        Params::LayerNorm(l) => fold(u64::from(l.rows)),
        Params::TimeEmbedding(t) => flat(product(&[t.rows, t.pitch / 4])),
        Params::Pointwise(w) => flat(product(&[w.n, w.pixels, w.pitch_y / 4])),
        Params::Resample(r) => {
            let kept = if r.axis == 0 { r.w } else { r.h };
            flat(product(&[r.n, r.out, kept, r.pitch / 4]))
        }
        Params::Rearrange(r) => flat(product(&[r.n, r.oh, r.ow, r.pitch_y / 4])),
        Params::Modulate(m) => flat(product(&[m.pixels, m.pitch / 4])),
        Params::Conv2d(_) | Params::Gemm(_) => fold(1),
    }
}

fn attention_registers(p: &Params, _: Types) -> [u32; 3] {
    match p {
        Params::Attention(a) => flat(product(&[a.n, a.heads, a.queries.div_ceil(ATTENTION_REGISTER_QUERIES)])),
        _ => fold(1),
    }
}

fn layer_norm_rows(p: &Params, _: Types) -> [u32; 3] {
    match p {
        Params::LayerNorm(l) => flat(u64::from(l.rows)),
        _ => fold(1),
    }
}

/// See the module. `base` is each product's first version: slow, and the one the others are checked by.
pub(super) const ROWS: &[Row] = &[
    row(Stem::Conv2d, "up2x2_tiled", tiled_doubles, WeightForm::Up2x2, conv_up_tiled),
    row(Stem::Conv2d, "up2x2", doubles, WeightForm::Up2x2, conv_up),
    row(Stem::Conv2d, "tiled", tiled, WeightForm::Kn, conv_tiled),
    row(Stem::Conv2d, "registers", any, WeightForm::Kn, conv_registers),
    row(Stem::Conv2d, "base", any, WeightForm::Kn, conv_one),
    row(Stem::Gemm, "geglu", geglu, WeightForm::Kn, gemm_geglu),
    row(Stem::Gemm, "tiled", tiled_gemm, WeightForm::Kn, gemm_tiled),
    row(Stem::Gemm, "registers", plain_gemm, WeightForm::Kn, gemm_registers),
    row(Stem::Gemm, "base", plain_gemm, WeightForm::Kn, gemm_one),
    row(Stem::Attention, "registers_40", heads_of::<40>, WeightForm::None, attention_registers),
    row(Stem::Attention, "registers_64", heads_of::<64>, WeightForm::None, attention_registers),
    row(Stem::Attention, "registers_80", heads_of::<80>, WeightForm::None, attention_registers),
    row(Stem::Attention, "base", narrow_heads, WeightForm::None, others),
    row(Stem::GroupNormStats, "base", any, WeightForm::None, others),
    row(Stem::NormFinalize, "base", any, WeightForm::None, others),
    row(Stem::NormApply, "base", any, WeightForm::None, others),
    row(Stem::LayerNorm, "rows", software, WeightForm::None, layer_norm_rows),
    row(Stem::LayerNorm, "base", any, WeightForm::None, others),
    row(Stem::TimeEmbedding, "base", any, WeightForm::None, others),
    row(Stem::Pointwise, "base", any, WeightForm::None, others),
    row(Stem::Resample, "base", any, WeightForm::None, others),
    row(Stem::Rearrange, "base", any, WeightForm::None, others),
    row(Stem::Modulate, "base", any, WeightForm::None, others),
];

const fn permutation(
    stem: Stem,
    variant: &'static str,
    flags: &'static [&'static str],
    constants: &'static [(&'static str, u32)],
) -> Permutation {
    Permutation { stem, variant, flags, constants }
}

const ONE_PIXEL: &[(&str, u32)] = &[("PIXELS", 1), ("COLUMNS", REGISTER_COLUMNS)];
const REGISTERS: &[(&str, u32)] = &[("PIXELS", REGISTER_PIXELS), ("COLUMNS", REGISTER_COLUMNS)];

/// One entry per row, in the same order.
pub const PERMUTATIONS: &[Permutation] = &[
    permutation(Stem::Conv2d, "up2x2_tiled", &["TILED", "UP2X2"], &[]),
    permutation(Stem::Conv2d, "up2x2", &["UP2X2"], REGISTERS),
    permutation(Stem::Conv2d, "tiled", &["TILED"], &[]),
    permutation(Stem::Conv2d, "registers", &[], REGISTERS),
    permutation(Stem::Conv2d, "base", &[], ONE_PIXEL),
    permutation(Stem::Gemm, "geglu", &["GEGLU"], &[("PIXELS", REGISTER_PIXELS), ("COLUMNS", 1)]),
    permutation(Stem::Gemm, "tiled", &["TILED"], &[]),
    permutation(Stem::Gemm, "registers", &[], REGISTERS),
    permutation(Stem::Gemm, "base", &[], ONE_PIXEL),
    permutation(Stem::Attention, "registers_40", &["REGISTERS"], &[("D4", 10)]),
    permutation(Stem::Attention, "registers_64", &["REGISTERS"], &[("D4", 16)]),
    permutation(Stem::Attention, "registers_80", &["REGISTERS"], &[("D4", 20)]),
    permutation(Stem::Attention, "base", &[], &[]),
    permutation(Stem::GroupNormStats, "base", &[], &[]),
    permutation(Stem::NormFinalize, "base", &[], &[]),
    permutation(Stem::NormApply, "base", &[], &[]),
    permutation(Stem::LayerNorm, "rows", &[], &[]),
    permutation(Stem::LayerNorm, "base", &["COOPERATIVE"], &[]),
    permutation(Stem::TimeEmbedding, "base", &[], &[]),
    permutation(Stem::Pointwise, "base", &[], &[]),
    permutation(Stem::Resample, "base", &[], &[]),
    permutation(Stem::Rearrange, "base", &[], &[]),
    permutation(Stem::Modulate, "base", &[], &[]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_its_permutation() {
        let rows: Vec<_> = ROWS.iter().map(|r| (r.stem, r.variant)).collect();
        let permutations: Vec<_> = PERMUTATIONS.iter().map(|p| (p.stem, p.variant)).collect();
        assert_eq!(rows, permutations);
    }
}
