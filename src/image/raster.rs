//! A whole decoded picture in its own depth.

use super::{Colour, Depth, Stored, check_decode, zeroed};
use crate::error::Result;
use crate::extent;

/// Samples in native byte order.
pub(super) enum Samples {
    Eight(Vec<u8>),
    Sixteen(Vec<u16>),
}

/// A whole picture, interleaved.
pub(super) struct Raster {
    pub(super) width: usize,
    pub(super) channels: usize,
    pub(super) samples: Samples,
}

/// Bytes of a picture of these properties.
pub(super) fn bytes(width: u64, height: u64, colour: Colour, depth: Depth) -> Result<u64> {
    extent::product("picture", &[width, height, colour.channels() as u64, depth.bytes() as u64])
}

impl Raster {
    /// Reads every row of `stored`. Exact: 8- and 16-bit values survive the way through `f32`.
    pub(super) fn collect(mut stored: Box<dyn Stored + '_>) -> Result<Raster> {
        let header = stored.header().clone();
        let size = check_decode(
            "a picture that must be turned",
            bytes(header.width, header.height, header.colour, header.depth)?,
        )?;
        let len = size / header.depth.bytes();
        let mut row = zeroed::<f32>("a row", header.row_len())?;
        let samples = match header.depth {
            Depth::Eight => {
                let mut all = zeroed::<u8>("a turned picture", len)?;
                for out in all.chunks_exact_mut(row.len()) {
                    stored.read_row(&mut row)?;
                    out.iter_mut().zip(&row).for_each(|(o, v)| *o = to_u8(*v));
                }
                Samples::Eight(all)
            }
            Depth::Sixteen => {
                let mut all = zeroed::<u16>("a turned picture", len)?;
                for out in all.chunks_exact_mut(row.len()) {
                    stored.read_row(&mut row)?;
                    out.iter_mut().zip(&row).for_each(|(o, v)| *o = to_u16(*v));
                }
                Samples::Sixteen(all)
            }
        };
        let channels = header.colour.channels();
        Ok(Raster { width: header.width as usize, channels, samples })
    }

    /// Fills `row` with pixels `start`, `start + stride`, ...: indices of pixels, not of samples.
    pub(super) fn read_walk(&self, start: usize, stride: isize, row: &mut [f32]) {
        fn walk<T: Copy>(
            all: &[T],
            channels: usize,
            start: usize,
            stride: isize,
            row: &mut [f32],
            value: impl Fn(T) -> f32,
        ) {
            let mut at = start as isize;
            for pixel in row.chunks_exact_mut(channels) {
                let from = at as usize * channels;
                pixel.iter_mut().zip(&all[from..from + channels]).for_each(|(o, v)| *o = value(*v));
                at += stride;
            }
        }
        match &self.samples {
            Samples::Eight(all) => walk(all, self.channels, start, stride, row, from_u8),
            Samples::Sixteen(all) => walk(all, self.channels, start, stride, row, from_u16),
        }
    }

    /// Fills `row` with row `y`.
    pub(super) fn read_row(&self, y: usize, row: &mut [f32]) {
        let len = self.width * self.channels;
        match &self.samples {
            Samples::Eight(all) => row.iter_mut().zip(&all[y * len..][..len]).for_each(|(o, v)| *o = from_u8(*v)),
            Samples::Sixteen(all) => row.iter_mut().zip(&all[y * len..][..len]).for_each(|(o, v)| *o = from_u16(*v)),
        }
    }
}

/// An 8-bit sample in [0, 1].
pub(super) fn from_u8(v: u8) -> f32 {
    f32::from(v) / 255.0
}

/// A 16-bit sample in [0, 1].
pub(super) fn from_u16(v: u16) -> f32 {
    f32::from(v) / 65_535.0
}

/// Clamped, rounded half up; NaN gives 0.
pub(super) fn to_u8(v: f32) -> u8 {
    // `as` saturates and maps NaN to 0; both ends are clamped by it.
    (v * 255.0 + 0.5) as u8
}

/// Clamped, rounded half up; NaN gives 0.
pub(super) fn to_u16(v: f32) -> u16 {
    (v * 65_535.0 + 0.5) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_survives_the_way_through_f32() {
        assert!((0..=255u8).all(|v| to_u8(from_u8(v)) == v));
        assert!((0..=65_535u16).all(|v| to_u16(from_u16(v)) == v));
    }

    #[test]
    fn rounding_is_half_up_and_clamped() {
        assert_eq!([to_u8(0.5 / 255.0), to_u8(1.4 / 255.0), to_u8(-3.0), to_u8(7.0)], [1, 1, 0, 255]);
        assert_eq!([to_u8(f32::NAN), to_u8(f32::INFINITY), to_u8(f32::NEG_INFINITY)], [0, 255, 0]);
        assert_eq!([to_u16(f32::NAN), to_u16(1.5), to_u16(0.5 / 65_535.0)], [0, 65_535, 1]);
    }
}
