//! Operands that Hopper's tensor memory accelerator brings: which products it can be told of, and the maps that tell it
//! (`kernels/shared/tma.cuh`).

pub mod parts;
pub(super) mod whole;

use super::{columns, doubles, half};
use crate::abi::params::{AttentionParams, Conv2dParams, GemmParams};
use crate::abi::{Caps, Params, Types};

/// Rows of the tiles: two halves of 64 for each of two warpgroups, and one.
const ROWS: [u32; 2] = [256, 128];
/// Columns of a tile.
const COLUMNS: u32 = 128;
/// Elements of the fastest side of a box, and of K at a time: 128 bytes.
const BOX: u32 = 64;
/// Tokens that attention copies at a time: of the queries, of keys and values.
const QUERIES: u32 = 64;
/// See [`QUERIES`].
const KEYS: u32 = 128;
/// What a corner of a bounding box may be, pixels from the picture's.
const CORNER: std::ops::RangeInclusive<i64> = -128..=127;

/// Most maps of a launch.
pub const MAX_MAPS: usize = 3;

/// What one operand is to the accelerator; its elements have a half type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Map {
    /// `rows` rows of `columns` elements each; a copy takes 64 columns of `box_rows` rows.
    Rows {
        /// Elements of a row.
        columns: u32,
        /// Rows.
        rows: u64,
        /// Rows of a copy.
        box_rows: u32,
    },
    /// Rows of tokens of several items; a copy takes 64 channels of `box_tokens` tokens of one item.
    Tokens {
        /// Channels, tokens and items.
        sides: [u32; 3],
        /// Tokens of a copy.
        box_tokens: u32,
    },
    /// Pictures of pixels; a copy takes 64 channels of `pixels` places of the bounding box, row by row and picture by picture.
    Pixels {
        /// Channels, columns, rows and pictures.
        sides: [u32; 4],
        /// First place of the bounding box, columns and rows from the first pixel.
        lower: [i32; 2],
        /// Its last place, columns and rows from the last pixel.
        upper: [i32; 2],
        /// Pixels from one place to the next.
        stride: u32,
        /// Places of a copy.
        pixels: u32,
    },
}

/// The taps' corner of a convolution: where the first output pixel reads first and how far the last one is from the input's end.
fn corners(c: &Conv2dParams, doubled: bool) -> [[i64; 2]; 2] {
    let [w, h] = [c.w, c.h].map(i64::from);
    if doubled {
        // Every input pixel is a place, one up and left of itself; phases and taps move it by 0 to 2.
        return [[-1; 2]; 2];
    }
    let lower = [-i64::from(c.pad_left), -i64::from(c.pad_top)];
    let last = |places: u32| i64::from(places.saturating_sub(1)) * i64::from(c.stride);
    [lower, [lower[0] + last(c.ow) - (w - 1), lower[1] + last(c.oh) - (h - 1)]]
}

/// Whether the maps can tell of a convolution's operands.
fn described(c: &Conv2dParams, doubled: bool) -> bool {
    let whole = c.pitch_x.is_multiple_of(BOX) && c.pitch_x2.is_multiple_of(BOX);
    let corners = corners(c, doubled).iter().flatten().all(|v| CORNER.contains(v));
    whole && corners && (doubled || c.upsample == 0) && (1..=8).contains(&c.stride)
}

/// Tiles of `rows` rows.
fn tiles(p: &Params, rows: u32, phases: u64) -> u64 {
    let down = match p {
        Params::Conv2d(c) if phases == 1 => super::product(&[c.n, c.oh, c.ow]),
        Params::Conv2d(c) => super::product(&[c.n, c.h, c.w]),
        Params::Gemm(g) => u64::from(g.m),
        _ => 0,
    };
    (down.div_ceil(u64::from(rows)) * phases).saturating_mul(u64::from(columns(p).div_ceil(COLUMNS)))
}

/// Half types, an operand that can be told of, and at most a quarter more columns than there are.
fn told<const DOUBLES: bool>(p: &Params, types: Types, caps: &Caps) -> bool {
    let fits = match p {
        Params::Conv2d(c) => described(c, DOUBLES) && (!DOUBLES || doubles(p, types, caps)),
        Params::Gemm(_) => !DOUBLES,
        _ => false,
    };
    let covered = u64::from(columns(p).div_ceil(COLUMNS)) * u64::from(COLUMNS);
    caps.tma && half(p, types, caps) && fits && covered * 4 <= u64::from(columns(p)) * 5
}

/// What a row takes in a large tile and in a small one, which brings less for each byte of L2; that it costs an eighth is a guess.
const SMALL_COST: [u64; 2] = [8, 9];

fn of_gemm(g: &GemmParams, rows: u32) -> Vec<(usize, Map)> {
    let gates = 1 + (g.parts & 1);
    let x = Map::Rows { columns: g.k, rows: u64::from(g.m), box_rows: rows };
    let weight = Map::Rows { columns: g.pitch_y * gates, rows: u64::from(g.k), box_rows: BOX };
    vec![(0, x), (1, weight)]
}

fn of_conv(c: &Conv2dParams, rows: u32, doubled: bool) -> Vec<(usize, Map)> {
    let [lower, upper] = corners(c, doubled).map(|corner| corner.map(|v| v as i32));
    let picture = |binding: usize, pitch: u32| {
        let stride = if doubled { 1 } else { c.stride };
        (binding, Map::Pixels { sides: [pitch, c.w, c.h, c.n], lower, upper, stride, pixels: rows })
    };
    let taps = if doubled { 16 } else { u64::from(c.kernel).pow(2) };
    let deep = taps * u64::from(c.pitch_x + c.pitch_x2);
    let weight = Map::Rows { columns: c.pitch_y, rows: deep, box_rows: BOX };
    // The kernel has a place for the second source's map, which it does not use without one.
    let second = if c.pitch_x2 == 0 { picture(0, c.pitch_x) } else { picture(1, c.pitch_x2) };
    vec![picture(0, c.pitch_x), second, (2, weight)]
}

fn of_attention(a: &AttentionParams) -> Vec<(usize, Map)> {
    let tokens =
        |binding, pitch, tokens, box_tokens| (binding, Map::Tokens { sides: [pitch, tokens, a.n], box_tokens });
    vec![
        tokens(0, a.pitch_q, a.queries, QUERIES),
        tokens(1, a.pitch_k, a.keys, KEYS),
        tokens(2, a.pitch_v, a.keys, KEYS),
    ]
}

/// The maps of a launch of `variant`, in the order of its parameters, each with the binding it is of; none for the variants that
/// copy by themselves.
pub fn maps(p: &Params, variant: &str) -> Vec<(usize, Map)> {
    if !variant.contains("tma") {
        return Vec::new();
    }
    let rows = ROWS[usize::from(variant.ends_with("_m128"))];
    match p {
        Params::Gemm(g) => of_gemm(g, rows),
        Params::Conv2d(c) => of_conv(c, rows, variant.starts_with("up2x2")),
        Params::Attention(a) => of_attention(a),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conv() -> Conv2dParams {
        let (h, w) = (40, 30);
        Conv2dParams { n: 2, h, w, pitch_x: 64, oh: h, ow: w, oc: 128, pitch_y: 128, ..Conv2dParams::default() }
    }

    pub(super) fn same() -> Conv2dParams {
        Conv2dParams { kernel: 3, stride: 1, pad_top: 1, pad_left: 1, ..conv() }
    }

    #[test]
    fn bounding_boxes_have_a_place_for_each_pixel() {
        let halved = Conv2dParams { kernel: 3, stride: 2, oh: 20, ow: 15, ..conv() };
        let lopsided = Conv2dParams { kernel: 3, stride: 2, pad_top: 1, pad_left: 1, w: 31, ow: 16, oh: 20, ..conv() };
        let one = Conv2dParams { kernel: 1, stride: 1, ..conv() };
        for c in [same(), halved, lopsided, one] {
            let [lower, upper] = corners(&c, false);
            let places = |side: u32, i: usize| (i64::from(side) - 1 + upper[i] - lower[i]) / i64::from(c.stride) + 1;
            assert_eq!([places(c.w, 0), places(c.h, 1)], [i64::from(c.ow), i64::from(c.oh)], "{c:?}");
        }
    }

    #[test]
    fn maps_follow_the_operands() {
        let a = AttentionParams {
            n: 2,
            queries: 70,
            keys: 90,
            pitch_q: 960,
            pitch_k: 960,
            pitch_v: 64,
            ..Default::default()
        };
        let heads = maps(&Params::Attention(a), "tma_64");
        assert_eq!(heads[1], (1, Map::Tokens { sides: [960, 90, 2], box_tokens: 128 }));
        let g = GemmParams { m: 300, n: 640, k: 320, pitch_y: 640, parts: 1, ..GemmParams::default() };
        let of = |v| maps(&Params::Gemm(g), v);
        assert_eq!(of("tma")[0], (0, Map::Rows { columns: 320, rows: 300, box_rows: 256 }));
        assert_eq!(of("tma_m128")[1], (1, Map::Rows { columns: 1280, rows: 320, box_rows: 64 }));
        assert!(of("wgmma").is_empty());
        let both = Conv2dParams { pitch_x2: 128, ..same() };
        let two = maps(&Params::Conv2d(both), "tma");
        assert!(matches!(two[1], (1, Map::Pixels { sides: [128, 30, 40, 2], .. })), "{two:?}");
        assert_eq!(two[2], (2, Map::Rows { columns: 128, rows: 9 * 192, box_rows: 64 }));
        let up = maps(&Params::Conv2d(same()), "up2x2_tma_m128");
        assert!(matches!(up[0], (0, Map::Pixels { lower: [-1, -1], upper: [-1, -1], pixels: 128, .. })), "{up:?}");
        assert_eq!(up[2], (2, Map::Rows { columns: 128, rows: 16 * 64, box_rows: 64 }));
    }
}
