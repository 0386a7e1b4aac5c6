//! Products whose tiles have a block each, K from one end to the other.

use super::super::fold;
use super::{ROWS, SMALL_COST, parts, told};
use crate::abi::{Caps, Params, Types};

/// What a launch takes by tiles of one size: the rows that each processor goes through, tile after tile.
fn cost(p: &Params, small: usize, phases: u64, caps: &Caps) -> u64 {
    let rounds = super::tiles(p, ROWS[small], phases).div_ceil(u64::from(caps.processors.max(1)));
    rounds.saturating_mul(u64::from(ROWS[small]) * SMALL_COST[small])
}

/// An operand that can be told of, K not in parts, and a tile for every processor, large ones where they take no longer than small
/// ones: launches with fewer are spread better by the variants with smaller tiles, which sum in the same order.
pub(in super::super) fn accepts<const SMALL: usize, const DOUBLES: bool>(
    p: &Params,
    types: Types,
    caps: &Caps,
) -> bool {
    let phases = if DOUBLES { 4 } else { 1 };
    let enough = super::tiles(p, ROWS[SMALL], phases) >= u64::from(caps.processors);
    let whole = DOUBLES || parts::count(p, caps.processors) == 1;
    told::<DOUBLES>(p, types, caps)
        && whole
        && enough
        && (SMALL == 1 || cost(p, 0, phases, caps) <= cost(p, 1, phases, caps))
}

/// Blocks of a launch before it is held to the processors: one a tile.
pub(in super::super) fn grid<const SMALL: usize, const DOUBLES: bool>(p: &Params, _: Types) -> [u32; 3] {
    fold(super::tiles(p, ROWS[SMALL], if DOUBLES { 4 } else { 1 }))
}

#[cfg(test)]
mod tests {
    use super::super::super::select;
    use super::super::tests::same;
    use super::*;
    use crate::abi::params::{Conv2dParams, GemmParams};
    use crate::graph::dtype::DType;

    const F16: Types = Types { x: DType::F16, w: DType::F16, y: DType::F16 };

    #[test]
    fn what_maps_cannot_tell_goes_to_others() {
        let caps = Caps { tma: true, processors: 5, ..Caps::cuda_default() };
        let takes = |c: Conv2dParams| accepts::<0, false>(&Params::Conv2d(c), F16, &caps);
        assert!(takes(same()));
        assert!(!takes(Conv2dParams { pitch_x: 72, ..same() }), "blocks of K across taps");
        assert!(!takes(Conv2dParams { pitch_x2: 8, ..same() }), "a narrow second source");
        assert!(!takes(Conv2dParams { upsample: 1, ..same() }), "a doubled input");
        assert!(!takes(Conv2dParams { pad_left: 129, ..same() }), "a corner too far");
        assert!(!takes(Conv2dParams { pitch_y: 64, oc: 64, ..same() }), "half of the columns for nothing");
        assert!(!takes(Conv2dParams { n: 1, h: 4, oh: 4, ..same() }), "too few tiles");
        assert!(!accepts::<0, false>(&Params::Conv2d(same()), F16, &Caps { tma: false, ..caps.clone() }));
    }

    #[test]
    fn tiles_are_as_large_as_takes_least() {
        let caps = Caps { tma: true, processors: 132, ..Caps::cuda_default() };
        let takes = |m, n, k| {
            let p = Params::Gemm(GemmParams { m, n, k, pitch_y: n, ..GemmParams::default() });
            select(&p, F16, &caps).map(|r| r.variant)
        };
        assert_eq!(takes(2048, 1280, 5120).ok(), Some("tma_m128"));
        assert_eq!(
            takes(16384, 320, 2880).ok(),
            Some("tma_m128"),
            "192 large tiles are two rounds, 384 small ones three"
        );
        assert_eq!(takes(16384, 1280, 320).ok(), Some("tma"));
    }
}
