//! Superpixel pictures of CASR: labels from the nine probabilities of SpixelFCN (Yang, Sun, Jin, Zhou 2020), the mean
//! colour of each region, and windows of the enlarged picture that shows them.
//!
//! A pixel belongs to one of the nine cells around it: neighbour `q` lies `(q / 3 - 1, q % 3 - 1)` cells away, clamped
//! to the grid. Its own cell is that of the input pixel it falls on. Probabilities of another size than the one asked
//! for are enlarged bilinearly (half-pixel centres, edges clamped); the first largest wins.

use crate::system::superpixels::LabelRule;
use crate::tile::geometry::mirror;
use rayon::prelude::*;

/// Probabilities of a pixel.
pub(super) const NEIGHBOURS: usize = 9;
/// Fixed point of the sums: 32 bits behind the point, so that no order of additions changes a bit.
const ONE: f64 = 4_294_967_296.0;

/// The probabilities of a stage input and the grid of its cells.
#[derive(Clone, Copy)]
pub(super) struct Cells<'a> {
    /// `[rows, columns]` times nine values.
    pub(super) probabilities: &'a [f32],
    /// Rows and columns of the probabilities.
    pub(super) extent: [u32; 2],
    /// Rows and columns of the stage input.
    pub(super) low: [u32; 2],
    /// Side of a cell in pixels of the stage input.
    pub(super) cell: u32,
}

/// Two neighbours of a position and the weight of the second one.
#[derive(Clone, Copy)]
struct Between {
    first: usize,
    second: usize,
    weight: f32,
}

/// Position `i` of `to` pixels among `from` pixels.
fn between(i: u32, from: u32, to: u32) -> Between {
    let at = ((f64::from(i) + 0.5) * f64::from(from) / f64::from(to) - 0.5).max(0.0);
    let first = (at.floor() as u32).min(from - 1);
    Between { first: first as usize, second: (first + 1).min(from - 1) as usize, weight: (at - at.floor()) as f32 }
}

/// The pixel of `from` that the middle of pixel `i` of `to` falls on.
fn nearest(i: u32, from: u32, to: u32) -> u32 {
    (((f64::from(i) + 0.5) * f64::from(from) / f64::from(to)).floor() as u32).min(from - 1)
}

impl Cells<'_> {
    /// Rows and columns of cells.
    pub(super) fn grid(&self) -> [u32; 2] {
        self.low.map(|side| side.div_ceil(self.cell))
    }

    /// Ids of the regions of some pixels of row `y` at a size of `size` pixels; `columns` are theirs.
    fn row(&self, y: u32, columns: impl Iterator<Item = u32>, size: [u32; 2], out: &mut [u32]) {
        let [count, width] = self.grid();
        let own = nearest(y, self.low[0], size[0]) / self.cell;
        let down = between(y, self.extent[0], size[0]);
        let length = self.extent[1] as usize * NEIGHBOURS;
        let (above, below) = (&self.probabilities[down.first * length..], &self.probabilities[down.second * length..]);
        for (id, x) in out.iter_mut().zip(columns) {
            let across = between(x, self.extent[1], size[1]);
            let (l, r) = (across.first * NEIGHBOURS, across.second * NEIGHBOURS);
            let (mut best, mut largest) = (0, f32::NEG_INFINITY);
            for q in 0..NEIGHBOURS {
                let upper = above[l + q] * (1.0 - across.weight) + above[r + q] * across.weight;
                let lower = below[l + q] * (1.0 - across.weight) + below[r + q] * across.weight;
                let p = upper * (1.0 - down.weight) + lower * down.weight;
                if p > largest {
                    (best, largest) = (q as u32, p);
                }
            }
            let column = nearest(x, self.low[1], size[1]) / self.cell;
            let neighbour = |own: u32, step: u32, count: u32| (own + step).saturating_sub(1).min(count - 1);
            *id = neighbour(own, best / 3, count) * width + neighbour(column, best % 3, width);
        }
    }

    /// The same under either rule.
    fn labels(&self, rule: LabelRule, y: u32, columns: impl Iterator<Item = u32>, size: [u32; 2], out: &mut [u32]) {
        match rule {
            LabelRule::Probabilities => self.row(y, columns, size, out),
            LabelRule::Nearest => {
                let columns = columns.map(|x| nearest(x, self.low[1], size[1]));
                self.row(nearest(y, self.low[0], size[0]), columns, self.low, out);
            }
        }
    }

    /// Mean colour of every region over its members in `picture` (`low` pixels of `channels` values); a region without
    /// members has the mean of its cell.
    pub(super) fn colours(&self, picture: &[f32], channels: usize) -> Vec<f32> {
        let [rows, columns] = self.grid();
        let count = (rows * columns) as usize;
        let width = self.low[1] as usize;
        let empty = || vec![0i64; count * (channels + 1)];
        // Two tables of sums: by label, and by the pixel's own cell.
        let add = |mut sums: [Vec<i64>; 2], y: usize| {
            let mut ids = vec![0; width];
            self.row(y as u32, 0..self.low[1], self.low, &mut ids);
            for (x, pixel) in picture[y * width * channels..][..width * channels].chunks_exact(channels).enumerate() {
                let own = (y as u32 / self.cell) * columns + x as u32 / self.cell;
                for (sums, id) in sums.iter_mut().zip([ids[x], own]) {
                    let sums = &mut sums[id as usize * (channels + 1)..][..channels + 1];
                    sums.iter_mut().zip(pixel).for_each(|(s, v)| *s += (f64::from(*v) * ONE).round() as i64);
                    sums[channels] += 1;
                }
            }
            sums
        };
        let join = |mut a: [Vec<i64>; 2], b: [Vec<i64>; 2]| {
            for (a, b) in a.iter_mut().zip(&b) {
                a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
            }
            a
        };
        let none = || [empty(), empty()];
        let [labelled, own] =
            (0..self.low[0] as usize).into_par_iter().with_min_len(64).fold(none, add).reduce(none, join);
        let mut colours = Vec::with_capacity(count * channels);
        for (l, o) in labelled.chunks_exact(channels + 1).zip(own.chunks_exact(channels + 1)) {
            let sums = if l[channels] > 0 { l } else { o };
            let members = (sums[channels].max(1)) as f64 * ONE;
            colours.extend(sums[..channels].iter().map(|&s| (s as f64 / members) as f32));
        }
        colours
    }

    /// A window of the picture of `size` pixels in which every region has its colour: `extent` pixels from `origin`
    /// on, what lies beyond the picture is mirrored.
    pub(super) fn window(
        &self,
        colours: &[f32],
        rule: LabelRule,
        size: [u32; 2],
        origin: [u32; 2],
        extent: [u32; 2],
        to: &mut [f32],
    ) {
        let [width, pixels] = [extent[1], extent[0] * extent[1]].map(|v| v as usize);
        let channels = to.len() / pixels;
        to.par_chunks_exact_mut(width * channels).enumerate().for_each(|(dy, row)| {
            let at = |i: u32, side: u32| mirror(i64::from(i), side);
            let mut ids = vec![0; width];
            let columns = (origin[1]..).map(|x| at(x, size[1]));
            self.labels(rule, at(origin[0] + dy as u32, size[0]), columns, size, &mut ids);
            for (pixel, &id) in row.chunks_exact_mut(channels).zip(&ids) {
                pixel.copy_from_slice(&colours[id as usize * channels..][..channels]);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Probabilities that give every pixel of `low` its own neighbour, by `q(y, x)`.
    fn probabilities(low: [u32; 2], q: impl Fn(u32, u32) -> usize) -> Vec<f32> {
        let mut p = Vec::new();
        for (y, x) in (0..low[0]).flat_map(|y| (0..low[1]).map(move |x| (y, x))) {
            let mut nine = [0.05; NEIGHBOURS];
            nine[q(y, x)] = 0.6;
            p.extend(nine);
        }
        p
    }

    #[test]
    fn own_cells_are_block_means_and_enlarge_to_blocks() {
        let low = [6, 8];
        let p = probabilities(low, |_, _| 4);
        let cells = Cells { probabilities: &p, extent: low, low, cell: 4 };
        assert_eq!(cells.grid(), [2, 2]);
        let picture: Vec<f32> = (0..48).map(|i| i as f32 / 64.0).collect();
        let colours = cells.colours(&picture, 1);
        let mean = |ys: std::ops::Range<usize>, xs: std::ops::Range<usize>| {
            let n = (ys.len() * xs.len()) as f32;
            ys.flat_map(|y| xs.clone().map(move |x| y * 8 + x)).map(|i| picture[i]).sum::<f32>() / n
        };
        for (got, wanted) in
            colours.iter().zip([mean(0..4, 0..4), mean(0..4, 4..8), mean(4..6, 0..4), mean(4..6, 4..8)])
        {
            assert!((got - wanted).abs() < 1e-6, "{got} {wanted}");
        }
        // Twice as large: blocks of 8 pixels; a window that begins inside and ends beyond is mirrored there.
        for rule in [LabelRule::Probabilities, LabelRule::Nearest] {
            let mut window = vec![0.0; 4 * 12];
            cells.window(&colours, rule, [12, 16], [6, 6], [4, 12], &mut window);
            for (i, v) in window.iter().enumerate() {
                let (y, x) = (6 + i / 12, mirror((6 + i % 12) as i64, 16) as usize);
                assert_eq!(*v, colours[y / 8 * 2 + x / 8], "{rule:?} {y} {x}");
            }
        }
    }

    #[test]
    fn pixels_join_neighbours_and_empty_regions_keep_their_cell() {
        // All of the left cell joins the right one; neighbours beyond the grid are the edge's own.
        let low = [2, 4];
        let p = probabilities(low, |y, x| if x < 2 { 5 } else { 7 * usize::from(y == 0) + 5 * usize::from(y == 1) });
        let cells = Cells { probabilities: &p, extent: low, low, cell: 2 };
        let picture = [0.0, 0.0, 0.5, 0.5, 0.0, 0.0, 1.0, 1.0];
        assert_eq!(cells.colours(&picture, 1), [0.0, 0.375]);
        let mut all = [9.0; 8];
        cells.window(&[0.0, 0.375], LabelRule::Probabilities, low, [0, 0], low, &mut all);
        assert_eq!(all, [0.375; 8]);
    }
}
