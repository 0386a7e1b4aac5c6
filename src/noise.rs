//! Counter-based noise: Philox4x32-10 (Salmon et al., SC 2011) on what the sample is for, and the normal
//! from a table of mid-quantiles. Integers decide everything, so every backend, tiling, batch size and
//! order of computation gives equal bits.

use std::sync::OnceLock;

/// What a sample is for. Two samples are independent as soon as one field differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// The job's seed.
    pub seed: u64,
    /// Stage of a cascade, 0 where there is one.
    pub stage: u16,
    /// What the noise does: 0 initial latent, 1 added per step, others as a system defines.
    pub purpose: u16,
    /// Step of the sampler.
    pub step: u32,
}

/// Entries of the normal table.
pub const TABLE: usize = 1 << 16;

const M0: u32 = 0xd251_1f53;
const M1: u32 = 0xcd9e_8d57;
const W0: u32 = 0x9e37_79b9;
const W1: u32 = 0xbb67_ae85;

fn mul(a: u32, b: u32) -> (u32, u32) {
    let p = u64::from(a) * u64::from(b);
    ((p >> 32) as u32, p as u32)
}

/// Ten rounds of Philox4x32.
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(W0), key[1].wrapping_add(W1)];
        }
        let (hi0, lo0) = mul(M0, counter[0]);
        let (hi1, lo1) = mul(M1, counter[2]);
        counter = [hi1 ^ counter[1] ^ key[0], lo1, hi0 ^ counter[3] ^ key[1], lo0];
    }
    counter
}

/// The 16 random bits of one sample. One Philox block serves eight neighbouring channels.
pub fn bits(key: Key, y: u32, x: u32, channel: u32) -> u16 {
    // The counter is (y, x, stage and purpose, step and channel block); the key is the seed. Steps stay
    // below 2^16 and channel blocks below 2^16 (MAX_CHANNELS / 8 is 2^17 only for networks that sample
    // nothing), so that the last word is a bijection.
    let block = channel / 8;
    let counter =
        [y, x, u32::from(key.stage) << 16 | u32::from(key.purpose), (key.step & 0xffff) << 16 | (block & 0xffff)];
    let words = philox4x32(counter, [key.seed as u32, (key.seed >> 32) as u32]);
    let word = words[(channel % 8 / 2) as usize];
    if channel.is_multiple_of(2) { word as u16 } else { (word >> 16) as u16 }
}

/// A standard normal sample.
pub fn normal(key: Key, y: u32, x: u32, channel: u32) -> f32 {
    table()[usize::from(bits(key, y, x, channel))]
}

/// A whole index from 0 to `below - 1` for shuffles; `index` counts the draws.
pub fn below(key: Key, index: u32, below: u32) -> u32 {
    let words = philox4x32(
        [index, u32::MAX, u32::from(key.stage) << 16 | u32::from(key.purpose), key.step],
        [key.seed as u32, (key.seed >> 32) as u32],
    );
    ((u64::from(words[0]) * u64::from(below.max(1))) >> 32) as u32
}

/// Entry `i` is the quantile of the standard normal at `(i + 0.5) / 65536`.
pub fn table() -> &'static [f32] {
    static CELL: OnceLock<Vec<f32>> = OnceLock::new();
    CELL.get_or_init(|| {
        let upper = (TABLE / 2..TABLE).map(|i| quantile((i as f64 + 0.5) / TABLE as f64) as f32);
        let upper: Vec<f32> = upper.collect();
        // The lower half is the upper one's mirror image, exactly.
        upper.iter().rev().map(|v| -v).chain(upper.iter().copied()).collect()
    })
}

/// Quantile of the standard normal for `0.5 <= p < 1`: bisection on the tail's logarithm, then Newton. Only sums,
/// products, `exp` and `ln` in f64 are used, whose last-bit differences between platforms vanish in the
/// rounding to f32 (the table's checksum in the tests says so).
fn quantile(p: f64) -> f64 {
    let (mut lo, mut hi) = (0.0f64, 9.0f64);
    for _ in 0..60 {
        let mid = 0.5 * (lo + hi);
        if cdf_above(mid) > 1.0 - p {
            lo = mid;
        } else {
            hi = mid;
        }
    }
    0.5 * (lo + hi)
}

/// `P(Z > x)` for `x >= 0`, relative error near 1e-15: the series of the density for small `x`, Legendre's
/// continued fraction beyond.
fn cdf_above(x: f64) -> f64 {
    let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
    if x < 3.0 {
        // P(0 < Z < x) = density(x) * sum x^(2k+1) / (1 * 3 * .. * (2k+1))
        let (mut term, mut sum, mut k) = (x, x, 1.0);
        while term > sum * 1e-18 {
            term *= x * x / (2.0 * k + 1.0);
            sum += term;
            k += 1.0;
        }
        0.5 - density * sum
    } else {
        let mut fraction = x;
        for k in (1..=80).rev() {
            fraction = x + f64::from(k) / fraction;
        }
        density / fraction
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_vectors() {
        // Known-answer vectors of the Random123 distribution.
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32([!0; 4], [!0; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox4x32([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn the_table_is_the_normal_distribution() {
        let t = table();
        assert_eq!(t.len(), TABLE);
        assert!(t.windows(2).all(|w| w[0] < w[1]), "quantiles rise");
        let n = TABLE as f64;
        let mean = t.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let var = t.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n;
        assert!(mean.abs() < 1e-12, "symmetric: {mean}");
        // Mid-quantiles miss a little of the tails' variance.
        assert!((0.9995..1.0).contains(&var), "{var}");
        // Quantiles known from tables: p = 0.975 lies between two entries, the ends are Phi^-1(1 - 2^-17).
        let at = |p: f64| f64::from(t[(p * n) as usize]);
        assert!((at(0.975) - 1.959_964).abs() < 3e-4);
        assert!((at(0.841_344_7) - 1.0).abs() < 1e-4);
        assert!((f64::from(t[TABLE - 1]) - 4.324_919).abs() < 1e-4, "{}", t[TABLE - 1]);
    }

    #[test]
    fn every_coordinate_matters_and_neighbours_are_uncorrelated() {
        let key = Key { seed: 7, stage: 0, purpose: 0, step: 0 };
        let base = bits(key, 3, 4, 5);
        let others = [
            bits(Key { seed: 8, ..key }, 3, 4, 5),
            bits(Key { seed: 7 | 1 << 40, ..key }, 3, 4, 5),
            bits(Key { stage: 1, ..key }, 3, 4, 5),
            bits(Key { purpose: 1, ..key }, 3, 4, 5),
            bits(Key { step: 1, ..key }, 3, 4, 5),
            bits(key, 4, 4, 5),
            bits(key, 3, 5, 5),
            bits(key, 3, 4, 4),
            bits(key, 3, 4, 13),
        ];
        assert!(others.iter().all(|&o| o != base), "{base} {others:?}");
        let (mut sum, mut right, mut next) = (0.0f64, 0.0f64, 0.0f64);
        for y in 0..64 {
            for x in 0..64 {
                let v = f64::from(normal(key, y, x, 0));
                sum += v;
                right += v * f64::from(normal(key, y, x + 1, 0));
                next += v * f64::from(normal(key, y, x, 1));
            }
        }
        // Each is the sum of 4096 products of deviation 1: five deviations are 320.
        assert!(sum.abs() < 320.0 && right.abs() < 320.0 && next.abs() < 320.0, "{sum} {right} {next}");
    }

    #[test]
    fn draws_for_shuffles_stay_in_range() {
        let key = Key { seed: 1, stage: 0, purpose: 9, step: 0 };
        let mut seen = [false; 7];
        for i in 0..200 {
            seen[below(key, i, 7) as usize] = true;
        }
        assert_eq!(seen, [true; 7]);
    }
}
