//! What a program holds between its phases: canvases, tables, saved values and statistics, and the indices
//! that name them.

use crate::error::{Error, Kind, Result};
use crate::extent;
use crate::graph::Shape;

/// Declares index newtypes into the program's lists.
macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub usize);
    )*};
}

ids! {
    /// Index in [`super::Program::canvases`].
    CanvasId,
    /// Index in [`super::Program::tables`].
    TableId,
    /// Index in [`super::Program::saved`].
    SavedId,
    /// Index in [`super::Program::statistics`].
    StatisticId,
    /// Index in [`super::Program::graphs`].
    GraphId,
    /// Index in [`super::Program::grids`].
    GridId,
}

/// How a canvas's size follows from the program's target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// The target's sides times `num / den`, rounded up.
    OfTarget {
        /// Factor.
        num: u32,
        /// Divisor.
        den: u32,
    },
    /// Exactly these rows and columns.
    Fixed([u32; 2]),
}

/// How much of a canvas exists at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residency {
    /// All of it, in host memory.
    Whole,
    /// Only the rows that the current row of windows needs. One phase reads it (an input) or blends into
    /// it (an output), or the phases of one chained block write and read it.
    Band,
    /// All of it, in a file of the spool folder. Written and read by chained blocks only.
    Spool,
    /// All of it, in device memory, as the ports of the graphs hold it: written by stores, read by crops of
    /// chained blocks, both without gain or mirrored rims.
    Device,
}

/// A picture-like state.
#[derive(Debug, Clone, PartialEq)]
pub struct Canvas {
    /// Name, by which a job connects rows.
    pub name: String,
    /// Size rule.
    pub extent: Extent,
    /// Values per pixel.
    pub channels: u32,
    /// Residency.
    pub residency: Residency,
}

impl Residency {
    /// Whether all of a canvas exists at once.
    pub fn is_kept(self) -> bool {
        match self {
            Residency::Whole | Residency::Spool | Residency::Device => true,
            Residency::Band => false,
        }
    }
}

/// Constants by row: coefficients per step, tokens per context, codes per window.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// Name, for messages.
    pub name: String,
    /// Values of one row.
    pub width: usize,
    /// Rows, one after another.
    pub values: Vec<f32>,
}

impl Table {
    /// Row `i`.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.width..(i + 1) * self.width]
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.values.len() / self.width.max(1)
    }
}

/// A value kept per window between phases or steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Saved {
    /// Name, for messages.
    pub name: String,
    /// The windows it belongs to.
    pub grid: GridId,
    /// Extents of one window's value; `n` is 1.
    pub shape: Shape,
}

/// A reduction over pixels: count, mean and M2 per channel, in f64.
#[derive(Debug, Clone, PartialEq)]
pub struct Statistic {
    /// Name, for messages.
    pub name: String,
    /// Channels.
    pub channels: u32,
}

/// Per-channel `a * x + b` whose factors follow from statistics.
#[derive(Debug, Clone, PartialEq)]
pub enum Affine {
    /// Group normalisation by pooled statistics.
    GroupNorm {
        /// Moments of the values to normalise.
        of: StatisticId,
        /// Number of groups.
        groups: u32,
        /// Added to the variance.
        eps: f64,
        /// Per channel.
        weight: Vec<f32>,
        /// Per channel.
        bias: Vec<f32>,
    },
    /// Gives values of moments `of` the mean and deviation of `like` (unbiased variances, plus `eps`).
    Match {
        /// Moments of the values to change.
        of: StatisticId,
        /// Moments they get.
        like: StatisticId,
        /// Added to both variances.
        eps: f64,
    },
}

/// A position rule: canvas pixels = grid pixels times `num / den`, exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ratio {
    /// Factor.
    pub num: u32,
    /// Divisor.
    pub den: u32,
}

impl Ratio {
    /// The canvas has the grid's own pixels.
    pub const ONE: Ratio = Ratio { num: 1, den: 1 };

    /// `v` grid pixels in canvas pixels, if that is a whole number.
    pub fn of(self, v: u32) -> Result<u32> {
        let scaled = u64::from(v) * u64::from(self.num);
        if self.den == 0 || !scaled.is_multiple_of(u64::from(self.den)) {
            return Err(wrong(format!("{v} grid pixels times {}/{} are not whole pixels", self.num, self.den)));
        }
        extent::to_u32("canvas position", scaled / u64::from(self.den))
    }
}

pub(super) fn wrong(message: impl Into<String>) -> Error {
    Error::new(Kind::Internal, "system", message)
}

pub(super) fn get<'a, T>(list: &'a [T], index: usize, what: &str) -> Result<&'a T> {
    list.get(index).ok_or_else(|| wrong(format!("there is no {what} {index}")))
}
