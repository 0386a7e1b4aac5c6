//! `group_norm_stats`: two passes over each block of pixels, a strip of channels at a time, so that the
//! second pass finds the strip in the cache and nothing cancels.

use super::vector::vectorised;
use crate::abi::Item;
use crate::abi::params::{GroupNormStatsParams, NORM_BLOCK};
use pulp::Arch;
use rayon::prelude::*;

/// The one variant. `x[1]` is empty without a second source.
pub(super) fn base(arch: Arch, p: &GroupNormStatsParams, items: &[Item], x: [&[f32]; 2], partials: &mut [f32]) {
    let (h, w) = (p.h as usize, p.w as usize);
    let pitches = [p.pitch_x as usize, p.pitch_x2 as usize];
    let total = pitches[0] + pitches[1];
    let block = NORM_BLOCK as usize;
    partials.par_chunks_mut(3 * total).enumerate().for_each(|(index, out)| {
        let (item, b) = (index / p.blocks as usize, index % p.blocks as usize);
        let pixels = b * block..((b + 1) * block).min(h * w);
        let rect = rect_pixels(items[item].stats_rect, h, w);
        let whole = rect == [0, 0, h, w];
        let mut counted = [0u32; NORM_BLOCK as usize];
        let mut count = 0;
        for pixel in pixels {
            let (y, x) = (pixel / w, pixel % w);
            if whole || (rect[0]..rect[2]).contains(&y) && (rect[1]..rect[3]).contains(&x) {
                counted[count] = pixel as u32;
                count += 1;
            }
        }
        let (counts, rest) = out.split_at_mut(total);
        let (means, m2s) = rest.split_at_mut(total);
        counts.fill(count as f32);
        let mut start = 0;
        for (x, pitch) in x.into_iter().zip(pitches) {
            let item_len = h * w * pitch;
            let mut c = 0;
            while c < pitch {
                // Pitches are multiples of 8, so constant lengths always suffice.
                let n = [64, 32, 16, 8].into_iter().find(|&n| n <= pitch - c).unwrap_or(pitch - c);
                let (mean, m2) = (&mut means[start + c..][..n], &mut m2s[start + c..][..n]);
                let x = &x[item * item_len..][..item_len];
                let counted = &counted[..count];
                vectorised(
                    arch,
                    #[inline(always)]
                    || match n {
                        64 => strip::<64>(x, pitch, c, counted, mean, m2),
                        32 => strip::<32>(x, pitch, c, counted, mean, m2),
                        16 => strip::<16>(x, pitch, c, counted, mean, m2),
                        _ => strip::<8>(x, pitch, c, counted, mean, m2),
                    },
                );
                c += n;
            }
            start += pitch;
        }
    });
}

/// `Item::stats_rect` in pixels, see there.
fn rect_pixels(rect: [i32; 4], h: usize, w: usize) -> [usize; 4] {
    if rect == [0; 4] {
        return [0, 0, h, w];
    }
    let edge = |part: i32, side: usize| (part.max(0) as usize * side).div_ceil(1 << 16).min(side);
    [edge(rect[0], h), edge(rect[1], w), edge(rect[2], h), edge(rect[3], w)]
}

#[inline(always)]
fn strip<const N: usize>(x: &[f32], pitch: usize, c: usize, pixels: &[u32], mean: &mut [f32], m2: &mut [f32]) {
    let (mut sums, mut squares) = ([0f32; N], [0f32; N]);
    for &pixel in pixels {
        let row = &x[pixel as usize * pitch + c..][..N];
        for i in 0..N {
            sums[i] += row[i];
        }
    }
    let factor = if pixels.is_empty() { 0.0 } else { 1.0 / pixels.len() as f32 };
    sums.iter_mut().for_each(|s| *s *= factor);
    for &pixel in pixels {
        let row = &x[pixel as usize * pitch + c..][..N];
        for i in 0..N {
            let d = row[i] - sums[i];
            squares[i] += d * d;
        }
    }
    mean.copy_from_slice(&sums);
    m2.copy_from_slice(&squares);
}
