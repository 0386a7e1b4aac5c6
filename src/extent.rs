//! Checked sizes: the one place where lengths are multiplied, rounded and narrowed.
//!
//! Everything here works in `u64` and refuses to wrap.

use crate::error::{Error, Kind, Result};

/// Alignment of every value in an arena, bytes.
pub const ARENA_ALIGN: u64 = 256;
/// Channel pitch granularity: NHWC rows hold a multiple of this many channels.
pub const CHANNEL_ALIGN: u64 = 8;

/// The product of `factors`, or an error that names `what`.
pub fn product(what: &str, factors: &[u64]) -> Result<u64> {
    factors.iter().try_fold(1u64, |acc, &f| acc.checked_mul(f)).ok_or_else(|| {
        Error::new(Kind::Limit, "extent", format!("{what}: the product of {factors:?} overflows 64 bits"))
    })
}

/// `value` rounded up to a multiple of `align` (a power of two or any positive number).
pub fn round_up(value: u64, align: u64) -> u64 {
    debug_assert!(align > 0);
    value.div_ceil(align).saturating_mul(align)
}

/// Channel pitch of `channels`: the next multiple of [`CHANNEL_ALIGN`].
pub fn pitch(channels: u64) -> u64 {
    round_up(channels, CHANNEL_ALIGN)
}

/// `value` as `usize`, or an error that names `what`.
pub fn to_usize(what: &str, value: u64) -> Result<usize> {
    usize::try_from(value).map_err(|_| {
        Error::new(Kind::Limit, "extent", format!("{what}: {value} does not fit this machine's address size"))
    })
}

/// `value` as `u32`, or an error that names `what`.
pub fn to_u32(what: &str, value: u64) -> Result<u32> {
    u32::try_from(value).map_err(|_| Error::new(Kind::Limit, "extent", format!("{what}: {value} does not fit 32 bits")))
}

/// The least number that both `a` and `b` divide; 0 where one of them is 0 or it does not fit.
pub fn common_multiple(a: u32, b: u32) -> u32 {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a.checked_div(x).and_then(|a| a.checked_mul(b)).unwrap_or(0)
}

/// Output side of a picture: `round(side * scale)`, half away from zero, at least 1.
///
/// `scale` must be finite and positive; the caller has checked it.
pub fn scaled_side(side: u64, scale: f64) -> u64 {
    let exact = (side as f64 * scale).round();
    if exact < 1.0 { 1 } else { exact as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_refuse_to_wrap() {
        assert_eq!(product("p", &[3, 5, 7]).expect("small"), 105);
        let e = product("canvas", &[u64::MAX, 2]).expect_err("wraps");
        assert_eq!(e.kind(), Kind::Limit);
        assert!(e.message().contains("canvas"));
    }

    #[test]
    fn rounding() {
        assert_eq!([round_up(0, 8), round_up(1, 8), round_up(8, 8), round_up(9, 8)], [0, 8, 8, 16]);
        assert_eq!(pitch(3), 8);
        assert_eq!([common_multiple(16, 5), common_multiple(8, 16), common_multiple(0, 3)], [80, 16, 0]);
        assert_eq!(scaled_side(3, 1.5), 5);
        assert_eq!(scaled_side(1, 0.1), 1);
    }
}
