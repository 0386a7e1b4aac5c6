//! Tables for [`super::op::Resample`]: which source pixels make an output pixel, and with what weights. Pure functions,
//! f64 inside.
//!
//! A table is made for a range of outputs of a resize from `from` to `to` pixels, and its indices count from `origin`,
//! so that a window of the source gives the window of the result that the whole source would. Its number of taps
//! depends on the filter, `from` and `to` alone: the tables of all windows have the same shape.

use crate::error::{Error, Kind, Result};
use crate::limits;
use std::ops::Range;

/// How a side is resized. Pixel `i` of `from` lies at `(i + 0.5) / from` of the side but where said otherwise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Filter {
    /// Pixel `floor(o * from / to)` (PyTorch's `nearest`).
    Nearest,
    /// Linear between the two neighbours (PyTorch's `bilinear` with `align_corners=False`, without antialiasing).
    Bilinear,
    /// The same where the first and the last pixels lie at the ends of the side (`align_corners=True`).
    BilinearCorners,
    /// Cubic convolution, R. Keys, "Cubic Convolution Interpolation for Digital Image Processing", IEEE Trans. ASSP
    /// 29(6), 1981.
    Bicubic {
        /// Keys' free parameter: -0.75 in PyTorch without antialiasing, -0.5 in Pillow and in PyTorch with it.
        a: f64,
        /// The kernel is widened by the factor of a reduction, and what of it lies beyond the side is left out, the
        /// rest weighing one in all (PyTorch's `antialias=True`, Pillow).
        antialias: bool,
    },
}

/// A table: for each output the first source index and the weights of it and those that follow.
#[derive(Debug, Clone, PartialEq)]
pub struct Taps {
    taps: u32,
    values: Vec<f32>,
}

/// One output: its first source index and its weights.
type Row = (i64, Vec<f64>);

impl Taps {
    /// The table of a whole side.
    pub fn of(filter: Filter, from: u32, to: u32) -> Result<Taps> {
        Taps::window(filter, from, to, 0..to, 0)
    }

    /// The rows of outputs `range` (of the `to` in all), for a source that begins at pixel `origin` of the `from`.
    pub fn window(filter: Filter, from: u32, to: u32, range: Range<u32>, origin: i64) -> Result<Taps> {
        check(from, to)?;
        let rows = range.map(|o| row(filter, from, to, o)).collect();
        Taps::pack(count(filter, from, to), rows, origin)
    }

    /// The adjoint of a resize from `from` to `to` pixels, which leads back from `to` to `from`: the rows of pixels
    /// `range` of the `from`, for a source that begins at pixel `origin` of the `to`. Its weights are those of the
    /// resize, transposed; they do not add up to one.
    pub fn adjoint(filter: Filter, from: u32, to: u32, range: Range<u32>, origin: i64) -> Result<Taps> {
        check(from, to)?;
        // Per source pixel the outputs that see it, in order; a clamped index counts for the pixel at the border.
        let mut seen: Vec<Row> = vec![(0, Vec::new()); from as usize];
        for o in 0..to {
            let (first, weights) = row(filter, from, to, o);
            for (i, weight) in weights.into_iter().enumerate() {
                let at = (first + i as i64).clamp(0, i64::from(from) - 1) as usize;
                let (begin, list) = &mut seen[at];
                if list.is_empty() {
                    *begin = o.into();
                }
                list.resize((i64::from(o) - *begin + 1) as usize, 0.0);
                if let Some(last) = list.last_mut() {
                    *last += weight;
                }
            }
        }
        let taps = seen.iter().map(|(_, w)| w.len()).max().unwrap_or(0).max(1);
        let rows = range.map(|i| seen.get(i as usize).cloned().unwrap_or_default()).collect();
        Taps::pack(u32::try_from(taps).unwrap_or(u32::MAX), rows, origin)
    }

    /// Every pixel by itself, times its factor.
    pub fn factors(factors: &[f32]) -> Taps {
        let values = factors.iter().enumerate().flat_map(|(i, &f)| [i as f32, f]).collect();
        Taps { taps: 1, values }
    }

    fn pack(taps: u32, rows: Vec<Row>, origin: i64) -> Result<Taps> {
        if u64::from(taps) >= limits::MAX_CHANNELS {
            let why = format!("a resize with {taps} taps, the limit is {}", limits::MAX_CHANNELS - 1);
            return Err(Error::new(Kind::Limit, "graph", why).advise("resize in two steps"));
        }
        let mut values = Vec::with_capacity(rows.len() * (taps as usize + 1));
        for (first, weights) in rows {
            values.push((first - origin) as f32);
            values.extend(weights.iter().map(|&w| w as f32));
            values.extend(std::iter::repeat_n(0.0, (taps as usize).saturating_sub(weights.len())));
        }
        Ok(Taps { taps, values })
    }

    /// Weights of each row.
    pub fn taps(&self) -> u32 {
        self.taps
    }

    /// Row by row: the first index, then the weights.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The same, given away.
    pub fn into_values(self) -> Vec<f32> {
        self.values
    }
}

fn check(from: u32, to: u32) -> Result<()> {
    // Indices are stored as f32, which has every whole number up to 2^24.
    let most = 1 << 24;
    if from == 0 || to == 0 || from > most || to > most {
        let why = format!("a resize from {from} to {to} pixels; both are 1 to {most}");
        return Err(Error::new(Kind::Limit, "graph", why));
    }
    Ok(())
}

/// Factor by which an antialiased kernel is widened.
fn widening(from: u32, to: u32) -> f64 {
    (f64::from(from) / f64::from(to)).max(1.0)
}

/// Taps of every row.
fn count(filter: Filter, from: u32, to: u32) -> u32 {
    match filter {
        Filter::Nearest => 1,
        Filter::Bilinear | Filter::BilinearCorners => 2,
        Filter::Bicubic { antialias: false, .. } => 4,
        Filter::Bicubic { antialias: true, .. } => ((4.0 * widening(from, to)).ceil() as u32).min(from),
    }
}

/// The source indices and weights of output `o`.
fn row(filter: Filter, from: u32, to: u32, o: u32) -> Row {
    let scale = f64::from(from) / f64::from(to);
    let centre = (f64::from(o) + 0.5) * scale;
    match filter {
        Filter::Nearest => ((u64::from(o) * u64::from(from) / u64::from(to)) as i64, vec![1.0]),
        Filter::Bilinear => linear(centre - 0.5),
        Filter::BilinearCorners if to == 1 => linear(0.0),
        Filter::BilinearCorners => {
            // Whole pixels of the source are met exactly.
            let (at, of) = (u64::from(o) * u64::from(from - 1), u64::from(to - 1));
            let t = (at % of) as f64 / of as f64;
            ((at / of) as i64, vec![1.0 - t, t])
        }
        Filter::Bicubic { a, antialias: false } => {
            let first = (centre - 0.5).floor();
            let t = centre - 0.5 - first;
            let weights = [1.0 + t, t, 1.0 - t, 2.0 - t].map(|d| keys(a, d));
            (first as i64 - 1, weights.to_vec())
        }
        Filter::Bicubic { a, antialias: true } => {
            let width = widening(from, to);
            let begin = (centre - 2.0 * width + 0.5).floor().max(0.0);
            let end = (centre + 2.0 * width + 0.5).floor().min(f64::from(from));
            let count = (end - begin).max(0.0) as usize;
            let raw: Vec<f64> = (0..count).map(|i| keys(a, (begin + i as f64 - centre + 0.5) / width)).collect();
            let sum: f64 = raw.iter().sum();
            (begin as i64, raw.iter().map(|w| w / sum).collect())
        }
    }
}

fn linear(at: f64) -> Row {
    let first = at.floor();
    (first as i64, vec![1.0 - (at - first), at - first])
}

/// Keys' kernel at distance `d`.
fn keys(a: f64, d: f64) -> f64 {
    let d = d.abs();
    if d < 1.0 {
        ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0
    } else if d < 2.0 {
        (((d - 5.0) * d + 8.0) * d - 4.0) * a
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILTERS: [Filter; 6] = [
        Filter::Nearest,
        Filter::Bilinear,
        Filter::BilinearCorners,
        Filter::Bicubic { a: -0.75, antialias: false },
        Filter::Bicubic { a: -0.5, antialias: true },
        Filter::Bicubic { a: -0.5, antialias: false },
    ];

    /// What the op does with a table.
    fn apply(t: &Taps, x: &[f64]) -> Vec<f64> {
        let rows = t.values().chunks(t.taps() as usize + 1);
        rows.map(|r| {
            let at = |i: usize| (r[0] as i64 + i as i64).clamp(0, x.len() as i64 - 1) as usize;
            r[1..].iter().enumerate().map(|(i, &w)| f64::from(w) * x[at(i)]).sum()
        })
        .collect()
    }

    fn picture(n: u32) -> Vec<f64> {
        (0..n).map(|i| f64::from((i * 37 + 5) % 23) - 11.0).collect()
    }

    #[test]
    fn what_is_constant_stays_and_equal_sides_are_kept() {
        for filter in FILTERS {
            for (from, to) in [(7, 7), (5, 13), (64, 9), (1, 4), (9, 1), (3, 2)] {
                let table = Taps::of(filter, from, to).expect("a table");
                let flat = apply(&table, &vec![3.0; from as usize]);
                assert!(flat.iter().all(|v| (v - 3.0).abs() < 1e-5), "{filter:?} {from} {to}");
                if from == to {
                    let x = picture(from);
                    let near = apply(&table, &x).iter().zip(&x).all(|(a, b)| (a - b).abs() < 1e-6);
                    assert!(near, "{filter:?} {from}");
                }
            }
        }
    }

    #[test]
    fn windows_give_what_the_whole_gives() {
        for filter in FILTERS {
            for (from, to) in [(40, 100), (100, 40), (64, 64)] {
                let x = picture(from);
                let whole = apply(&Taps::of(filter, from, to).expect("a table"), &x);
                let table = Taps::window(filter, from, to, to / 4..to / 2, 3).expect("a table");
                assert_eq!(table.taps(), Taps::of(filter, from, to).expect("a table").taps());
                let part = apply(&table, &x[3..]);
                let near = part.iter().zip(&whole[(to / 4) as usize..]).all(|(a, b)| (a - b).abs() < 1e-5);
                assert!(near, "{filter:?} {from} {to}");
            }
        }
    }

    #[test]
    fn adjoints_are_transposed() {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        for filter in FILTERS {
            for (from, to) in [(11, 29), (29, 11), (8, 8), (5, 1)] {
                let (x, y) = (picture(from), picture(to + 3)[3..].to_vec());
                let forth = apply(&Taps::of(filter, from, to).expect("a table"), &x);
                let back = apply(&Taps::adjoint(filter, from, to, 0..from, 0).expect("a table"), &y);
                let (a, b) = (dot(&forth, &y), dot(&x, &back));
                assert!((a - b).abs() < 1e-3, "{filter:?} {from} {to}: {a} {b}");
            }
        }
    }

    /// Values of PyTorch 2's `interpolate` of 0, 1, 4, 9, 16 (align_corners and antialias as the filter says).
    #[test]
    fn tables_are_pytorchs() {
        let x = [0.0, 1.0, 4.0, 9.0, 16.0];
        let near = |filter, to, expected: &[f64]| {
            let got = apply(&Taps::of(filter, 5, to).expect("a table"), &x);
            let close = got.len() == expected.len() && got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-4);
            assert!(close, "{filter:?} {to}: {got:?}");
        };
        let bicubic = |a, antialias| Filter::Bicubic { a, antialias };
        near(Filter::Nearest, 8, &[0.0, 0.0, 1.0, 1.0, 4.0, 9.0, 9.0, 16.0]);
        near(Filter::Bilinear, 8, &[0.0, 0.4375, 1.1875, 3.0625, 5.5625, 8.6875, 12.9375, 16.0]);
        near(Filter::BilinearCorners, 8, &[0.0, 0.571429, 1.428571, 3.142857, 5.428571, 8.285714, 12.0, 16.0]);
        near(
            bicubic(-0.75, false),
            8,
            &[-0.092834, 0.187561, 1.176514, 2.619385, 5.441650, 8.471436, 13.395081, 16.649841],
        );
        near(
            bicubic(-0.5, true),
            8,
            &[-0.071956, 0.243749, 1.128906, 2.847656, 5.347656, 8.628906, 13.488184, 16.503690],
        );
        near(Filter::Nearest, 3, &[0.0, 1.0, 9.0]);
        near(Filter::Bilinear, 3, &[0.333333, 4.0, 13.666667]);
        near(Filter::BilinearCorners, 3, &[0.0, 4.0, 16.0]);
        near(bicubic(-0.75, false), 3, &[0.148148, 4.0, 14.074074]);
        near(bicubic(-0.5, true), 3, &[0.169231, 4.195349, 13.338462]);
    }

    #[test]
    fn sizes_beyond_the_tables_are_refused() {
        assert!(Taps::of(Filter::Nearest, 0, 3).is_err() && Taps::of(Filter::Nearest, 3, 0).is_err());
        let wide = Filter::Bicubic { a: -0.5, antialias: true };
        assert!(Taps::of(wide, 1 << 22, 1).is_err());
    }
}
