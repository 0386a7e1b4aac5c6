//! One side of a stage as its windows see it: which part of the source a window needs, and the tables by which that part
//! becomes the window.

use super::state::wrong;
use crate::error::Result;
use crate::graph::taps::{Filter, Taps};
use crate::model::liif::Liif;
use crate::tile::Axis;
use crate::tile::geometry::mirror;

/// The published cubic kernel.
const A: f64 = -0.5;
/// LIIF's shift that keeps a place off the border between two cells, in sides of the picture.
const EPS_SHIFT: f64 = 1e-6;

/// The part of a source that each window of one side needs: flush with the source's ends, so that what a network sees
/// at its end is the picture's own end, and of one length for all windows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crop {
    /// Pixels.
    pub length: u32,
    /// The first one for each window.
    pub origins: Vec<u32>,
}

/// One side of a stage: `windows` over the result's pixels.
pub struct Side<'a> {
    /// The windows.
    pub windows: &'a Axis,
}

impl Side<'_> {
    /// Pixels of the result that window `k` shows, mirrored beyond its end.
    fn pixels(&self, k: usize) -> impl Iterator<Item = u32> + '_ {
        let first = i64::from(self.windows.origins[k]);
        (0..i64::from(self.windows.size)).map(move |i| mirror(first + i, self.windows.extent))
    }

    /// The part of `from` pixels that every window needs, `reach` pixels beyond what it covers.
    pub fn crop(&self, from: u32, reach: u32) -> Crop {
        let ratio = f64::from(from) / f64::from(self.windows.extent);
        let covered = (f64::from(self.windows.size) * ratio).ceil() as u32 + 1;
        let length = covered.saturating_add(2 * reach).min(from);
        let begin = |o: &u32| (f64::from(*o) * ratio).floor() as u32;
        let origin = |o: &u32| begin(o).saturating_sub(reach).min(from - length);
        Crop { length, origins: self.windows.origins.iter().map(origin).collect() }
    }

    /// Values of every window from those of all pixels; `values` are so many to a pixel, the first of which is a source
    /// index that is counted from the window's crop.
    fn windows_of(&self, rows: &[f32], width: usize, crop: &Crop) -> Vec<f32> {
        let mut out = Vec::with_capacity(self.windows.count() * self.windows.size as usize * width);
        for (k, &origin) in crop.origins.iter().enumerate() {
            for p in self.pixels(k) {
                let row = &rows[p as usize * width..][..width];
                out.push(row[0] - origin as f32);
                out.extend_from_slice(&row[1..]);
            }
        }
        out
    }

    /// Planes of every window: `planes` functions of the pixel.
    pub fn planes(&self, planes: &[&dyn Fn(u32) -> f64]) -> Vec<f32> {
        let of = |k: usize| planes.iter().flat_map(move |f| self.pixels(k).map(move |p| f(p) as f32));
        (0..self.windows.count()).flat_map(of).collect()
    }

    /// Bicubic enlargement of `from` pixels, seen through `crop`.
    pub fn cubic(&self, from: u32, crop: &Crop) -> Result<Vec<f32>> {
        self.taps(Filter::Bicubic { a: A, antialias: false }, from, crop)
    }

    /// Enlargement of `from` pixels by any filter, seen through `crop`.
    pub fn taps(&self, filter: Filter, from: u32, crop: &Crop) -> Result<Vec<f32>> {
        let table = Taps::of(filter, from, self.windows.extent)?;
        Ok(self.windows_of(table.values(), table.taps() as usize + 1, crop))
    }

    /// LIIF's cells: for each corner (the cell before and after; the nearest alone where `corners` is 1) the table of
    /// the cells, that of its share in the answer, and the place of the pixel in the cell.
    pub fn cells(&self, from: u32, crop: &Crop, corners: u32) -> Vec<Cells> {
        let (n, out) = (f64::from(from), f64::from(self.windows.extent));
        let at = |side: f64, o: u32| -> (f64, f64) {
            let p = (f64::from(o) + 0.5) * n / out;
            let eps = EPS_SHIFT * n / 2.0;
            let shifted = p + side / 2.0 + if side == 0.0 { 0.0 } else { eps };
            let cell = shifted.clamp(eps, n - eps).floor().clamp(0.0, n - 1.0);
            (cell, 2.0 * (p - (cell + 0.5)))
        };
        let sides: &[f64] = if corners == 1 { &[0.0] } else { &[-1.0, 1.0] };
        let cells = |(c, &side): (usize, &f64)| {
            let rows: Vec<f32> = (0..self.windows.extent).flat_map(|o| [at(side, o).0 as f32, 1.0]).collect();
            // A cell's answer counts as much as the other one is away.
            let other = sides[sides.len() - 1 - c];
            let share = |o: u32| {
                let (own, opposite) = (at(side, o).1.abs(), at(other, o).1.abs());
                if own + opposite > 0.0 { opposite / (own + opposite) } else { 0.5 }
            };
            let mut shares = Vec::new();
            for k in 0..self.windows.count() {
                let list = self.pixels(k).enumerate().flat_map(|(i, p)| [i as f32, share(p) as f32]);
                shares.extend(list);
            }
            Cells { near: self.windows_of(&rows, 2, crop), shares, place: self.planes(&[&|o| at(side, o).1]) }
        };
        sides.iter().enumerate().map(cells).collect()
    }

    /// The operator that reduces the result to `to` pixels, as far as it reads nothing beyond a window, and its adjoint
    /// times `factor`: their tables for every window, with the number of their taps.
    pub fn reduction(&self, to: u32, crop: &Crop, factor: f64) -> Result<[(u32, Vec<f32>); 2]> {
        let extent = self.windows.extent;
        let filter = Filter::Bicubic { a: A, antialias: extent > to };
        let forth = Taps::of(filter, extent, to)?;
        let back = Taps::adjoint(filter, extent, to, 0..extent, 0)?;
        let (wide, long) = (forth.taps() as usize + 1, back.taps() as usize + 1);
        let (mut reduce, mut adjoint) = (Vec::new(), Vec::new());
        for (k, &origin) in crop.origins.iter().enumerate() {
            let begin = self.windows.origins[k];
            let end = (begin + self.windows.size).min(extent);
            // What a reduced pixel reads lies in the window; indices beyond the picture are those of its ends.
            let inside = |r: u32| {
                let row = &forth.values()[r as usize * wide..][..wide];
                let mut read =
                    row[1..].iter().enumerate().filter(|(_, w)| **w != 0.0).map(|(i, _)| row[0] as i64 + i as i64);
                read.all(|i| (i64::from(begin)..i64::from(end)).contains(&i.clamp(0, i64::from(extent) - 1)))
            };
            for r in origin..origin + crop.length {
                let row = &forth.values()[r as usize * wide..][..wide];
                if inside(r) {
                    reduce.push(row[0] - begin as f32);
                    reduce.extend_from_slice(&row[1..]);
                } else {
                    reduce.extend(std::iter::repeat_n(0.0, wide));
                }
            }
            let covered =
                |r: i64| u32::try_from(r).is_ok_and(|r| (origin..origin + crop.length).contains(&r) && inside(r));
            for p in self.pixels(k) {
                let row = &back.values()[p as usize * long..][..long];
                adjoint.push(row[0] - origin as f32);
                let weights = row[1..].iter().enumerate();
                adjoint.extend(weights.map(|(i, w)| {
                    if covered(row[0] as i64 + i as i64) { (f64::from(*w) * factor) as f32 } else { 0.0 }
                }));
            }
        }
        Ok([(forth.taps(), reduce), (back.taps(), adjoint)])
    }
}

/// What [`Side::cells`] gives for one corner, window after window.
pub struct Cells {
    /// Table of one tap: the cell.
    pub near: Vec<f32>,
    /// Table of one tap: the pixel itself, times the share of the answer.
    pub shares: Vec<f32>,
    /// Where the pixel lies in the cell: -1 to 1 where it is the nearest.
    pub place: Vec<f32>,
}

/// The tables and planes of [`Liif::build`] for whole pictures of `from` made to `to` pixels, by name, for one item.
pub fn whole_picture(liif: &Liif, from: [u32; 2], to: [u32; 2]) -> Result<Vec<(String, Vec<f32>)>> {
    let mut inputs = Vec::new();
    let mut places: [Vec<Vec<f32>>; 2] = Default::default();
    for (i, [name, short]) in [["rows", "row"], ["columns", "column"]].into_iter().enumerate() {
        let axis = Axis { extent: to[i], padded: to[i], size: to[i], origins: vec![0] };
        let side = Side { windows: &axis };
        let crop = Crop { length: from[i], origins: vec![0] };
        for (c, cells) in side.cells(from[i], &crop, liif.corners()).into_iter().enumerate() {
            inputs.push((format!("{name}.{c}"), cells.near));
            if liif.corners() > 1 {
                inputs.push((format!("{short}_weights.{c}"), cells.shares));
            }
            places[i].push(cells.place);
        }
        if liif.skips() {
            inputs.push((format!("cubic.{name}"), side.cubic(from[i], &crop)?));
        }
    }
    let cell = [0, 1].map(|i| (2.0 * f64::from(from[i]) / f64::from(to[i])) as f32);
    for (i, rows) in places[0].iter().enumerate() {
        for (j, columns) in places[1].iter().enumerate() {
            let mut planes = Vec::new();
            for (y, x) in rows.iter().flat_map(|y| columns.iter().map(move |x| (y, x))) {
                planes.extend([*y, *x]);
                if liif.decodes_cell() {
                    planes.extend(cell);
                }
            }
            inputs.push((format!("planes.{i}{j}"), planes));
        }
    }
    Ok(inputs)
}

/// An error where a window of a stage cannot be cut.
pub(super) fn fits(side: u32, what: &str) -> Result<u32> {
    if side == 0 { Err(wrong(format!("{what} has no pixels"))) } else { Ok(side) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::geometry::{Placement, Tiling};

    fn windows(extent: u32, tile: u32) -> Axis {
        let t = Tiling { tile, overlap: tile / 4, stride: 4, quantum: 4, placement: Placement::Even };
        Axis::new(extent, &t).expect("windows")
    }

    /// What a table of one window does with its crop.
    fn apply(table: &[f32], taps: usize, x: &[f64]) -> Vec<f64> {
        let at = |r: &[f32], i: usize| (r[0] as i64 + i as i64).clamp(0, x.len() as i64 - 1) as usize;
        let sum = |r: &[f32]| (0..taps).map(|i| f64::from(r[1 + i]) * x[at(r, i)]).sum();
        table.chunks(taps + 1).map(sum).collect()
    }

    #[test]
    fn windows_enlarge_as_the_whole_does() {
        for (from, extent, tile) in [(40, 132, 32), (40, 80, 80), (5, 10, 32), (100, 120, 48)] {
            let axis = windows(extent, tile);
            let side = Side { windows: &axis };
            let x: Vec<f64> = (0..from).map(|i| f64::from((i * 37 + 5) % 23)).collect();
            let whole = Taps::of(Filter::Bicubic { a: A, antialias: false }, from, extent).expect("table");
            let whole = apply(whole.values(), 4, &x);
            let crop = side.crop(from, 3);
            let table = side.cubic(from, &crop).expect("table");
            let width = axis.size as usize * 5;
            for (k, &o) in crop.origins.iter().enumerate() {
                let seen = &x[o as usize..(o + crop.length) as usize];
                let got = apply(&table[k * width..][..width], 4, seen);
                for (p, g) in side.pixels(k).zip(got) {
                    assert!((g - whole[p as usize]).abs() < 1e-4, "{from} {extent} {tile}: {p}");
                }
            }
        }
    }

    #[test]
    fn the_restricted_reduction_and_its_adjoint_belong_together() {
        let axis = windows(132, 48);
        let side = Side { windows: &axis };
        for to in [40, 66, 132] {
            let crop = side.crop(to, 1);
            let [(taps, reduce), (back, adjoint)] = side.reduction(to, &crop, 1.0).expect("tables");
            let (wide, long) = (crop.length as usize * (taps as usize + 1), 48 * (back as usize + 1));
            for k in 0..axis.count() {
                let x: Vec<f64> = (0..48).map(|i| f64::from((i * 37 + k as i32) % 23) - 11.0).collect();
                let y: Vec<f64> = (0..crop.length).map(|i| f64::from((i * 29 + 3) % 19) - 9.0).collect();
                let forth = apply(&reduce[k * wide..][..wide], taps as usize, &x);
                let there = apply(&adjoint[k * long..][..long], back as usize, &y);
                let (a, b): (f64, f64) =
                    (forth.iter().zip(&y).map(|(a, b)| a * b).sum(), x.iter().zip(&there).map(|(a, b)| a * b).sum());
                assert!((a - b).abs() < 1e-3 * a.abs().max(1.0), "{to} {k}: {a} {b}");
                // Most of the reduced pixels count.
                assert!(forth.iter().filter(|v| **v != 0.0).count() * 5 >= forth.len() * 3, "{to} {k}");
            }
        }
    }
}
