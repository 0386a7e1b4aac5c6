//! `conv2d`: implicit products on panels of output pixels. Variant `base` takes every launch; `up2x2`
//! computes nearest-neighbour doubling and a 3x3 convolution as four 2x2 convolutions.

use super::product::{
    COLUMNS, Epilogue, MOST_PIXELS, NOWHERE, Operands, Order, PACKED, SLACK, block_columns, panel, panel_height,
};
use super::scratch::{Scratch, with_scratch};
use crate::abi::Item;
use crate::abi::params::Conv2dParams;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Operands as f32 slices; absent parts are empty.
pub(super) struct Conv<'a> {
    pub(super) p: Conv2dParams,
    pub(super) items: &'a [Item],
    pub(super) x: [&'a [f32]; 2],
    pub(super) weight: &'a [f32],
    pub(super) bias: &'a [f32],
    pub(super) row_bias: &'a [f32],
    pub(super) residual: &'a [f32],
    pub(super) order: &'a Order,
}

/// The K order of a launch.
pub(super) fn order(p: &Conv2dParams, folded: bool) -> Order {
    let taps = if folded { 4 } else { p.kernel * p.kernel };
    Order::new(taps as usize, [p.pitch_x as usize, p.pitch_x2 as usize], p.pitch_y as usize)
}

/// Thread scratch of a launch, in floats and table entries.
pub(super) fn scratch(p: &Conv2dParams, folded: bool) -> Scratch {
    let pixels = MOST_PIXELS + SLACK;
    let taps = if folded { 4 } else { (p.kernel * p.kernel) as usize };
    Scratch { floats: PACKED + pixels * COLUMNS, indices: taps * pixels }
}

/// Input row (pixel of the item) that output position `out` reads through tap `k` on one axis, before
/// doubling is undone: `None` outside.
#[inline(always)]
fn source(out: usize, stride: u32, k: u32, pad: u32, extent: usize) -> Option<usize> {
    (out * stride as usize + k as usize).checked_sub(pad as usize).filter(|&at| at < extent)
}

/// Fills the table of one tap for `pixels` output pixels from `first` on, of rows `width` long: `row(y)` is the
/// first pixel of the source's row, `column(x)` its column; either may lie outside.
#[inline(always)]
fn fill(
    table: &mut [u32],
    pixels: usize,
    [first, width]: [usize; 2],
    row: impl Fn(usize) -> Option<usize>,
    column: impl Fn(usize) -> Option<usize>,
) {
    let (table, slack) = table.split_at_mut(pixels);
    slack.fill(NOWHERE);
    let (mut y, mut x) = (first / width, first % width);
    let mut done = 0;
    while done < pixels {
        let run = (width - x).min(pixels - done);
        let entries = &mut table[done..done + run];
        match row(y) {
            None => entries.fill(NOWHERE),
            Some(start) => {
                for (i, entry) in entries.iter_mut().enumerate() {
                    *entry = column(x + i).map_or(NOWHERE, |c| (start + c) as u32);
                }
            }
        }
        (y, x, done) = (y + 1, 0, done + run);
    }
}

/// One panel of variant `base`, or one phase of a panel of `up2x2`.
struct Panel<'a, 'b> {
    conv: &'a Conv<'a>,
    item: usize,
    /// Weight matrix and input of this item.
    weight: &'a [f32],
    x: [&'a [f32]; 2],
    table: &'a [u32],
    stride: usize,
    pixels: usize,
    /// Scratch.
    packed: &'b mut [f32],
    acc: &'b mut [f32],
    zeros: &'a [f32],
    /// The output rows this panel may write, and the first output pixel of the item in them.
    y: &'b mut [f32],
    base: usize,
    /// Output pixel of the item where the panel's `i`-th result goes: `first + i` when `phase` is `None`,
    /// else the pixel of the doubled picture.
    first: usize,
    phase: Option<[usize; 2]>,
}

impl WithSimd for Panel<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Panel { conv, item, weight, x, table, stride, pixels, packed, acc, zeros, y, base, first, phase } = self;
        let p = &conv.p;
        let pitch = p.pitch_y as usize;
        let op = Operands {
            x,
            pitch: [p.pitch_x as usize, p.pitch_x2 as usize],
            w: weight,
            ld: pitch,
            zeros,
            order: conv.order,
            table,
            stride,
            pixels,
        };
        let mut column = 0;
        while column < pitch {
            let columns = COLUMNS.min(pitch - column);
            let nb = block_columns(columns);
            panel(simd, &op, column, columns, packed, acc);
            let row_bias = if conv.row_bias.is_empty() {
                &conv.row_bias[..0]
            } else {
                let row = conv.items[item].step_row as usize * p.pitch_row_bias as usize;
                &conv.row_bias[row + column..][..columns]
            };
            let end = Epilogue::new(p.act, &conv.bias[column..][..columns], row_bias);
            let item_pixels = p.oh as usize * p.ow as usize;
            let w = p.w as usize;
            let (mut q, mut r) = (first / w, first % w);
            for (i, sums) in acc.chunks_exact_mut(nb).take(pixels).enumerate() {
                let pixel = match phase {
                    None => first + i,
                    Some([a, b]) => (2 * q + a) * p.ow as usize + 2 * r + b,
                };
                r += 1;
                if r == w {
                    (q, r) = (q + 1, 0);
                }
                let residual = (!conv.residual.is_empty())
                    .then(|| &conv.residual[(item * item_pixels + pixel) * pitch + column..][..columns]);
                end.row(sums, residual, &mut y[(pixel - base) * pitch + column..][..columns]);
            }
            column += columns;
        }
    }
}

/// Variant `base`.
pub(super) fn base(arch: Arch, conv: &Conv<'_>, y: &mut [f32]) {
    let p = &conv.p;
    let (oh, ow, pitch) = (p.oh as usize, p.ow as usize, p.pitch_y as usize);
    let height = panel_height(oh * ow);
    let need = scratch(p, false);
    let (stride, taps) = (height + SLACK, (p.kernel * p.kernel) as usize);
    // The input as the taps see it: doubled and cropped where there is an upsampling.
    let (h, w) = (p.h as usize, p.w as usize);
    let [uh, uw] = if p.upsample == 1 { [oh, ow] } else { [h, w] };
    y.par_chunks_mut(oh * ow * pitch).enumerate().for_each(|(item, y)| {
        y.par_chunks_mut(height * pitch).enumerate().for_each(|(index, y)| {
            let first = index * height;
            let pixels = y.len() / pitch;
            with_scratch(need, |floats, indices, zeros| {
                let table = &mut indices[..taps * stride];
                for (tap, table) in table.chunks_exact_mut(stride).enumerate() {
                    let (ky, kx) = (tap as u32 / p.kernel, tap as u32 % p.kernel);
                    fill(
                        table,
                        pixels,
                        [first, ow],
                        |oy| Some((source(oy, p.stride, ky, p.pad_top, uh)? >> p.upsample) * w),
                        |ox| Some(source(ox, p.stride, kx, p.pad_left, uw)? >> p.upsample),
                    );
                }
                let (packed, rest) = floats.split_at_mut(PACKED);
                arch.dispatch(Panel {
                    conv,
                    item,
                    weight: conv.weight,
                    x: sources(conv, item),
                    table,
                    stride,
                    pixels,
                    packed,
                    acc: rest,
                    zeros,
                    y,
                    base: first,
                    first,
                    phase: None,
                });
            });
        });
    });
}

/// The inputs of one item.
fn sources<'a>(conv: &Conv<'a>, item: usize) -> [&'a [f32]; 2] {
    let pixels = conv.p.h as usize * conv.p.w as usize;
    let of = |x: &'a [f32], pitch: u32| {
        let len = pixels * pitch as usize;
        if x.is_empty() { x } else { &x[item * len..][..len] }
    };
    [of(conv.x[0], conv.p.pitch_x), of(conv.x[1], conv.p.pitch_x2)]
}

/// Variant `up2x2`: see `Packing::ConvUp2x2`.
pub(super) fn up2x2(arch: Arch, conv: &Conv<'_>, y: &mut [f32]) {
    let p = &conv.p;
    let (h, w, pitch) = (p.h as usize, p.w as usize, p.pitch_y as usize);
    let height = panel_height(h * w);
    let need = scratch(p, true);
    let stride = height + SLACK;
    // Whole input rows per task, because the four phases of a pixel lie in two output rows.
    let rows = (height / w).max(1);
    let matrix = 4 * p.pitch_x as usize * pitch;
    y.par_chunks_mut(4 * h * w * pitch).enumerate().for_each(|(item, y)| {
        y.par_chunks_mut(4 * rows * w * pitch).enumerate().for_each(|(index, y)| {
            let begin = index * rows * w;
            let end = begin + y.len() / (4 * pitch);
            with_scratch(need, |floats, indices, zeros| {
                let (packed, acc) = floats.split_at_mut(PACKED);
                for phase in 0..4 {
                    let (a, b) = (phase / 2, phase % 2);
                    let mut first = begin;
                    while first < end {
                        let pixels = height.min(end - first);
                        let table = &mut indices[..4 * stride];
                        for (tap, table) in table.chunks_exact_mut(stride).enumerate() {
                            fill(
                                table,
                                pixels,
                                [first, w],
                                |q| (q + tap / 2 + a).checked_sub(1).filter(|&s| s < h).map(|s| s * w),
                                |r| (r + tap % 2 + b).checked_sub(1).filter(|&s| s < w),
                            );
                        }
                        arch.dispatch(Panel {
                            conv,
                            item,
                            weight: &conv.weight[phase * matrix..][..matrix],
                            x: sources(conv, item),
                            table,
                            stride,
                            pixels,
                            packed: &mut *packed,
                            acc: &mut *acc,
                            zeros,
                            y: &mut *y,
                            base: 4 * begin,
                            first,
                            phase: Some([a, b]),
                        });
                        first += pixels;
                    }
                }
            });
        });
    });
}
