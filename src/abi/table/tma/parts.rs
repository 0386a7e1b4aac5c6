//! Products of so few tiles that several blocks share each tile's K (`kernels/shared/tma_split.cuh`): how many parts a tile goes into,
//! and who sums them.
//!
//! The order of a sum follows from its parts, so how many there are follows from one item of the launch: an item has the same bits in
//! every batch. Who sums them follows from all items.

use super::super::{fold, product};
use super::{BOX, COLUMNS, ROWS, SMALL_COST, told};
use crate::abi::{Caps, Params, Types};

/// Parts of a tile at most, and blocks of K of one at least.
const MOST: u64 = 8;
/// See [`MOST`].
const LEAST_BLOCKS: u64 = 4;
/// Blocks that the parts of an item go to, at most. Four items of the denoiser's deep levels come to twice as many, since their tiles are
/// twice as high or hold two items, and that fills a card of 132 processors; fewer than any Hopper card has, so that all sum in the same
/// order.
const BLOCKS: u32 = 64;
/// Bytes that tell which parts of a tile are there, and tiles that have a place in them.
const HEAD: (u64, u64) = (8192, 256);
/// Bytes of the sums of a part of a small tile; a large one has twice as many.
const SUMS: u64 = 65_536;

/// What a launch in parts is told beside its operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// Parts of each tile's K; their sums are added in order.
    pub count: u32,
    /// Whether a block goes through all parts of its tiles, because there are more than there is room for.
    pub kept: bool,
}

/// Rows of one item, and depth of K, of a product.
fn item(p: &Params) -> (u64, u32) {
    match p {
        Params::Conv2d(c) => (product(&[c.oh, c.ow]), c.kernel.pow(2) * (c.pitch_x + c.pitch_x2)),
        Params::Gemm(g) => (u64::from(g.m / g.items.max(1)), g.k),
        _ => (0, 0),
    }
}

/// Blocks of K.
fn depth(p: &Params) -> u64 {
    u64::from(item(p).1.div_ceil(BOX))
}

/// Parts of each tile's K: as many as give one item's tiles to the blocks there are for it, where that is two for a tile at least.
pub(super) fn count(p: &Params, processors: u32) -> u64 {
    let across = u64::from(super::columns(p).div_ceil(COLUMNS));
    let tiles = item(p).0.div_ceil(u64::from(ROWS[1])).saturating_mul(across).max(1);
    let blocks = u64::from(BLOCKS.min(processors));
    (blocks / tiles).min(MOST).min(depth(p) / LEAST_BLOCKS).max(1)
}

/// Whether a block keeps all parts of its tiles: where parts of their own have no place for their sums.
fn kept(p: &Params, small: usize, processors: u32) -> bool {
    let tiles = super::tiles(p, ROWS[small], 1);
    let bytes = tiles.saturating_mul(count(p, processors)).saturating_mul(SUMS * [2, 1][small]);
    tiles > HEAD.1 || bytes > u64::from(processors) * 2 * SUMS
}

/// What a launch takes by tiles of one size: what each processor goes through, rows times blocks of K, with what small tiles cost more.
fn cost(p: &Params, small: usize, processors: u32) -> u64 {
    let (tiles, parts) = (super::tiles(p, ROWS[small], 1), count(p, processors));
    let per = |count: u64| count.div_ceil(u64::from(processors.max(1)));
    let blocks = if kept(p, small, processors) {
        per(tiles).saturating_mul(depth(p))
    } else {
        per(tiles.saturating_mul(parts)).saturating_mul(depth(p).div_ceil(parts))
    };
    blocks.saturating_mul(u64::from(ROWS[small]) * SMALL_COST[small])
}

/// Products that can be told of whose K goes into parts, by small tiles where those take less time.
pub(in super::super) fn splits<const SMALL: usize>(p: &Params, types: Types, caps: &Caps) -> bool {
    let parts = told::<false>(p, types, caps) && count(p, caps.processors) > 1;
    parts && (SMALL == 0 || cost(p, 1, caps.processors) < cost(p, 0, caps.processors))
}

/// Blocks of a launch in parts before it is held to the processors: one for each part that there may be.
pub(in super::super) fn grid<const SMALL: usize>(p: &Params, _: Types) -> [u32; 3] {
    fold(super::tiles(p, ROWS[SMALL], 1).saturating_mul(MOST))
}

/// Bytes for the sums of a launch's parts.
pub(in super::super) fn bytes(processors: u32) -> u64 {
    HEAD.0 + u64::from(processors) * 2 * SUMS
}

/// What a launch of `variant` on so many processors is told of its parts; `None` for the variants without.
pub fn parts(p: &Params, variant: &str, processors: u32) -> Option<Parts> {
    let small = usize::from(variant.ends_with("_m128"));
    variant
        .contains("split")
        .then(|| Parts { count: u32::try_from(count(p, processors)).unwrap_or(1), kept: kept(p, small, processors) })
}

#[cfg(test)]
mod tests {
    use super::super::super::select;
    use super::*;
    use crate::abi::params::{Conv2dParams, GemmParams};
    use crate::graph::dtype::DType;

    const F16: Types = Types { x: DType::F16, w: DType::F16, y: DType::F16 };

    fn gemm(items: u32, rows: u32, n: u32, k: u32) -> Params {
        Params::Gemm(GemmParams { m: items * rows, n, k, pitch_y: n, items, ..GemmParams::default() })
    }

    fn conv(n: u32, side: u32, channels: u32) -> Params {
        Params::Conv2d(Conv2dParams {
            n,
            h: side,
            w: side,
            pitch_x: channels,
            oh: side,
            ow: side,
            oc: channels,
            pitch_y: channels,
            kernel: 3,
            stride: 1,
            pad_top: 1,
            pad_left: 1,
            ..Conv2dParams::default()
        })
    }

    fn takes(p: &Params, processors: u32) -> (&'static str, Option<Parts>) {
        let caps = Caps { tma: true, processors, ..Caps::cuda_default() };
        let variant = select(p, F16, &caps).expect("a kernel").variant;
        (variant, parts(p, variant, processors))
    }

    #[test]
    fn deep_products_of_few_tiles_go_into_parts() {
        let spread = |count| Some(Parts { count, kept: false });
        assert_eq!(takes(&gemm(1, 256, 1280, 5120), 132), ("tma_split_m128", spread(3)));
        assert_eq!(takes(&gemm(1, 256, 1280, 448), 132), ("mma", None), "K for one part only");
        assert_eq!(
            takes(&gemm(4, 256, 1280, 5120), 132),
            ("tma_split", spread(3)),
            "40 large tiles in one round, 80 small in two"
        );
        assert_eq!(takes(&gemm(1, 1024, 1280, 5120), 132), ("mma", None), "80 tiles of an item");
        assert_eq!(takes(&conv(4, 8, 1280), 132), ("tma_split_m128", spread(6)));
        assert_eq!(takes(&conv(4, 16, 1280), 132), ("tma_split", spread(3)));
        let kept = Some(Parts { count: 6, kept: true });
        assert_eq!(takes(&conv(16, 8, 1280), 132).1, kept, "more parts than there is room for");
    }

    #[test]
    fn parts_follow_from_one_item_and_are_alike_on_all_cards() {
        for p in [|n| conv(n, 8, 1280), |n| conv(n, 16, 640), |n| gemm(n, 64, 1280, 5120), |n| gemm(n, 77, 1280, 1024)]
        {
            let alone = takes(&p(1), 132).1.expect("in parts").count;
            for (items, processors) in [(1, 78), (2, 132), (3, 114), (5, 132), (8, 132), (64, 132), (8, 64)] {
                let found = takes(&p(items), processors).1.expect("in parts").count;
                assert_eq!(found, alone, "{items} items on {processors} processors");
            }
        }
    }

    #[test]
    fn sums_of_parts_have_room() {
        for processors in [2, 7, 64, 132] {
            for items in 1..70 {
                for p in [
                    conv(items, 8, 1280),
                    conv(items, 16, 1280),
                    gemm(items, 100, 640, 2560),
                    gemm(items, 1, 320, 1280),
                ] {
                    for (small, variant) in ["tma_split", "tma_split_m128"].into_iter().enumerate() {
                        let found = parts(&p, variant, processors).expect("in parts");
                        let tiles = super::super::tiles(&p, ROWS[small], 1);
                        let sums = if found.kept { u64::from(processors) } else { tiles * u64::from(found.count) };
                        assert!(found.kept || tiles <= HEAD.1, "{items} items on {processors}");
                        assert!(
                            sums * SUMS * [2, 1][small] <= bytes(processors) - HEAD.0,
                            "{items} items on {processors}"
                        );
                    }
                }
            }
        }
    }
}
