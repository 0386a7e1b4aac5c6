//! `rearrange`: copies, each of as many channels as lie together.

use super::product::panel_height;
use crate::abi::params::{
    MOVE_DEPTH_TO_SPACE, MOVE_PIXELS, MOVE_SPACE_TO_DEPTH, MOVE_SPLIT_CHANNELS, MOVE_UNWINDOWS, MOVE_WINDOWS,
    RearrangeParams,
};
use rayon::prelude::*;

/// The one variant.
pub(super) fn base(p: &RearrangeParams, x: &[f32], y: &mut [f32]) {
    let (pixels, pitch) = (p.oh as usize * p.ow as usize, p.pitch_y as usize);
    let source = p.h as usize * p.w as usize * p.pitch_x as usize;
    let height = panel_height(pixels);
    y.par_chunks_mut(pixels * pitch).zip(x.par_chunks(source)).for_each(|(y, x)| {
        y.par_chunks_mut(height * pitch).enumerate().for_each(|(index, y)| panel(p, index * height, x, y));
    });
}

/// Pixels `first ..` of an item.
fn panel(p: &RearrangeParams, first: usize, x: &[f32], y: &mut [f32]) {
    let [h, w, ow, c, size, across] = [p.h, p.w, p.ow, p.c, p.size, p.across].map(|v| v as usize);
    let (pitch_x, pitch) = (p.pitch_x as usize, p.pitch_y as usize);
    let pixels = y.chunks_exact_mut(pitch).enumerate().map(|(i, y)| ((first + i) / ow, (first + i) % ow, y));
    // All channels of a pixel, or zeros.
    let whole = |y: &mut [f32], at: Option<usize>| match at {
        Some(at) => {
            y[..c].copy_from_slice(&x[at * pitch_x..][..c]);
            y[c..].fill(0.0);
        }
        None => y.fill(0.0),
    };
    match p.kind {
        MOVE_DEPTH_TO_SPACE => {
            for (oy, ox, y) in pixels {
                let at = (oy / size * w + ox / size) * pitch_x + (oy % size * size + ox % size) * c;
                y[..c].copy_from_slice(&x[at..][..c]);
                y[c..].fill(0.0);
            }
        }
        MOVE_SPACE_TO_DEPTH => {
            let part = p.c_x as usize;
            for (oy, ox, y) in pixels {
                for (i, y) in y[..c].chunks_exact_mut(part).enumerate() {
                    let at = (oy * size + i / size) * w + ox * size + i % size;
                    y.copy_from_slice(&x[at * pitch_x..][..part]);
                }
                y[c..].fill(0.0);
            }
        }
        MOVE_WINDOWS => {
            for (oy, ox, y) in pixels {
                let (row, column) = (oy / across * size + ox / size, oy % across * size + ox % size);
                whole(y, (row < h && column < w).then_some(row * w + column));
            }
        }
        MOVE_UNWINDOWS => {
            for (oy, ox, y) in pixels {
                let window = oy / size * across + ox / size;
                whole(y, Some(window * w + oy % size * size + ox % size));
            }
        }
        MOVE_PIXELS => {
            for (oy, ox, y) in pixels {
                whole(y, Some(size + oy * ow + ox));
            }
        }
        // MOVE_SPLIT_CHANNELS; `prepare` refuses other codes.
        _ => {
            for (oy, ox, y) in pixels {
                let at = (oy * w + ox / size) * pitch_x + ox % size * c;
                y[..c].copy_from_slice(&x[at..][..c]);
                y[c..].fill(0.0);
            }
        }
    }
}

/// Whether every pixel and channel that the move names is there.
pub(super) fn sound(p: &RearrangeParams) -> bool {
    let [h, w, oh, ow, c_x, c, size, across] = [p.h, p.w, p.oh, p.ow, p.c_x, p.c, p.size, p.across].map(u64::from);
    let sides = |a: [u64; 2], b: [u64; 2]| a == b;
    let fits = match p.kind {
        MOVE_PIXELS => size + oh * ow <= h * w && c == c_x,
        _ if size == 0 => false,
        MOVE_DEPTH_TO_SPACE => sides([oh, ow], [h * size, w * size]) && c_x == c * size * size,
        MOVE_SPACE_TO_DEPTH => sides([h, w], [oh * size, ow * size]) && c == c_x * size * size,
        MOVE_WINDOWS => {
            sides([oh, ow], [h.div_ceil(size) * across, size * size]) && across == w.div_ceil(size) && c == c_x
        }
        MOVE_UNWINDOWS => {
            sides([h, w], [oh.div_ceil(size) * across, size * size]) && across == ow.div_ceil(size) && c == c_x
        }
        MOVE_SPLIT_CHANNELS => sides([oh, ow], [h, w * size]) && c_x == c * size,
        _ => false,
    };
    fits && c_x <= p.pitch_x.into() && c <= p.pitch_y.into() && oh * ow > 0 && c_x > 0 && c > 0
}
