//! LIIF (Chen et al. 2021): a picture as a function of continuous coordinates, at any resolution.
//!
//! The first layer of the published network sees features (unfolded 3x3), where the output pixel lies in its cell, and
//! how large a pixel is. Unfolding and a linear layer are a 3x3 convolution, and taking a cell's row commutes with it:
//! so features go through it once per input pixel, and what depends on the output pixel is added after the nearest
//! cell was taken by tables. The areas that weigh the four cells are products of a row's and a column's share.

use super::config::Fields;
use super::edsr::Edsr;
use crate::error::Result;
use crate::graph::layout::Order;
use crate::graph::op::{Axis, Conv2d, Lifetime, Linear, Padding, Pointwise, Resample};
use crate::graph::{Act, Builder, DType, Graph, Op, Shape, ValueId};
use serde_json::json;

/// Taps of a bicubic enlargement.
pub const CUBIC: u32 = 4;

/// A network as its config describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Liif {
    /// The encoder, `encoder.*`.
    pub encoder: Edsr,
    hidden: Vec<u32>,
    ensemble: bool,
    unfold: bool,
    cell: bool,
    skip: bool,
}

/// Sides of one launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiifExtents {
    /// Items.
    pub batch: u32,
    /// Rows and columns of the picture, or the part of it, that is seen.
    pub from: [u32; 2],
    /// Rows and columns of what is made of it.
    pub to: [u32; 2],
}

impl Liif {
    /// Reads `config.json`.
    pub fn from_config(text: &str) -> Result<Liif> {
        let mut f = Fields::new("LIIF", text)?;
        let encoder = Edsr::read(&mut f)?;
        let hidden = f.channels_list("hidden", &[256, 256, 256, 256])?;
        let net = Liif {
            encoder,
            hidden,
            ensemble: f.bool("local_ensemble", true)?,
            unfold: f.bool("feat_unfold", true)?,
            cell: f.bool("cell_decode", true)?,
            skip: f.choice("skip", 0, &["none", "bicubic"])? == Some(1),
        };
        f.only("n_colors", &[json!(3)])?;
        f.finish()?;
        Ok(net)
    }

    /// Cells on each axis whose answers are blended: two, or the nearest alone.
    pub fn corners(&self) -> u32 {
        if self.ensemble { 2 } else { 1 }
    }

    /// Whether the bicubic enlargement is added.
    pub fn skips(&self) -> bool {
        self.skip
    }

    /// Whether the network is told how large an output pixel is.
    pub fn decodes_cell(&self) -> bool {
        self.cell
    }

    /// Pixels around an output pixel's place on which it depends.
    pub fn reach(&self) -> u32 {
        self.encoder.reach() + 3
    }

    /// Planes that say where an output pixel lies: relative y and x, then (where the cell is decoded) its height and
    /// width in cells, twice.
    pub fn planes(&self) -> u32 {
        if self.cell { 4 } else { 2 }
    }

    /// The graph: `sample` `[n, from, 3]` in -1 to 1 to `picture` `[n, to, 3]`, f32, with the inputs of
    /// [`Liif::apply`].
    pub fn build(&self, e: &LiifExtents, dtype: DType) -> Result<Graph> {
        let ([h, w], [oh, ow]) = (e.from, e.to);
        let name = format!("liif {h}x{w} to {oh}x{ow} b{} {}", e.batch, dtype.name());
        let mut b = Builder::new(name, dtype);
        let x = b.input("sample", Shape::new(e.batch, h, w, 3), DType::F32, Lifetime::Window);
        let y = self.apply(&mut b, x, e, "")?;
        b.output("picture", y);
        Ok(b.finish())
    }

    /// Adds the network to `b`: the picture of `x`, f32. Inputs, each with `prefix` before its name, for corners `i`
    /// and `j` from 0: `rows.i` and `columns.j` (tables of one tap: the nearest cell), `row_weights.i` and
    /// `column_weights.j` (tables of one tap: the pixel itself, its share), `planes.ij` ([`Liif::planes`]), and
    /// for the bicubic enlargement `cubic.rows` and `cubic.columns` (tables of four taps).
    pub(crate) fn apply(&self, b: &mut Builder, x: ValueId, e: &LiifExtents, prefix: &str) -> Result<ValueId> {
        let stored = narrow(b, "sample.stored", x)?;
        let features = b.module("encoder", |b| self.encoder.apply(b, stored))?;
        let first = self.first(b, features)?;
        let table = |b: &mut Builder, name: String, taps: u32, side: usize| {
            let shape = Shape::new(e.batch, 1, e.to[side], 1 + taps);
            b.input(&format!("{prefix}{name}"), shape, DType::F32, Lifetime::Window)
        };
        let (corners, mut picture) = (self.corners(), None);
        let columns: Vec<ValueId> = (0..corners).map(|j| table(b, format!("columns.{j}"), 1, 1)).collect();
        let shares = if self.ensemble { corners } else { 0 };
        let shares: Vec<ValueId> = (0..shares).map(|j| table(b, format!("column_weights.{j}"), 1, 1)).collect();
        for i in 0..corners {
            let rows = table(b, format!("rows.{i}"), 1, 0);
            let near = along(b, &format!("rows.{i}.near"), Axis::Rows, 1, first, rows)?;
            let mut line: Option<ValueId> = None;
            for (j, &columns) in columns.iter().enumerate() {
                let name = format!("corner.{i}{j}");
                let cell = along(b, &format!("{name}.near"), Axis::Columns, 1, near, columns)?;
                let shape = Shape::new(e.batch, e.to[0], e.to[1], self.planes());
                let dtype = b.dtype();
                let planes = b.input(&format!("{prefix}planes.{i}{j}"), shape, dtype, Lifetime::Window);
                let answer = self.answer(b, &name, cell, planes)?;
                let Some(&share) = shares.get(j) else {
                    line = Some(answer);
                    continue;
                };
                let part = along(b, &format!("{name}.share"), Axis::Columns, 1, answer, share)?;
                line = Some(sum(b, &format!("{name}.sum"), line, part)?);
            }
            let Some(line) = line else { continue };
            if !self.ensemble {
                picture = Some(line);
                continue;
            }
            let share = table(b, format!("row_weights.{i}"), 1, 0);
            let part = along(b, &format!("rows.{i}.share"), Axis::Rows, 1, line, share)?;
            picture = Some(sum(b, &format!("rows.{i}.sum"), picture, part)?);
        }
        if self.skip {
            let (rows, columns) = (table(b, "cubic.rows".into(), CUBIC, 0), table(b, "cubic.columns".into(), CUBIC, 1));
            let up = along(b, "cubic.up", Axis::Rows, CUBIC, x, rows)?;
            let up = along(b, "cubic.across", Axis::Columns, CUBIC, up, columns)?;
            picture = Some(sum(b, "picture", picture, up)?);
        }
        // Two corners or one: there is a picture.
        Ok(picture.unwrap_or(x))
    }

    /// `imnet.layers.0` as far as it sees features, at their own resolution.
    fn first(&self, b: &mut Builder, features: ValueId) -> Result<ValueId> {
        let (feats, out) = (self.encoder.feats(), self.hidden[0]);
        let kernel = if self.unfold { 3 } else { 1 };
        let all = u64::from(feats * kernel * kernel + self.planes());
        b.module("imnet.layers.0", |b| {
            let order = Order::Columns { begin: 0, end: feats * kernel * kernel, kernel };
            let weight = b.weight_in("weight", &[u64::from(out), all], order);
            let bias = Some(b.weight("bias", &[u64::from(out)]));
            let op = Conv2d {
                weight,
                bias,
                out_channels: out,
                kernel: [kernel, kernel],
                stride: 1,
                padding: Padding::all(kernel / 2),
                upsample: None,
                second: false,
                row_bias: false,
                residual: false,
                act: Act::None,
            };
            b.push("features", Op::Conv2d(op), &[features])
        })
    }

    /// The answer of one cell: the rest of the first layer on the planes, then the other layers.
    fn answer(&self, b: &mut Builder, name: &str, cell: ValueId, planes: ValueId) -> Result<ValueId> {
        let kernel = if self.unfold { 3 } else { 1 };
        let begin = self.encoder.feats() * kernel * kernel;
        let mut x = b.module("imnet.layers.0", |b| {
            let order = Order::Columns { begin, end: begin + self.planes(), kernel: 1 };
            let shape = [u64::from(self.hidden[0]), u64::from(begin + self.planes())];
            let weights = vec![b.weight_in("weight", &shape, order)];
            let out_channels = self.hidden[0];
            let op =
                Linear { weights, biases: Vec::new(), out_channels, geglu: false, residual: false, act: Act::None };
            let place = b.push(&format!("{name}.place"), Op::Linear(op), &[planes])?;
            let op = Pointwise { alpha: 1.0, beta: Some(1.0), gamma: 0.0, act: Act::Relu, clamp: None, table: false };
            b.push(&format!("{name}.relu"), Op::Pointwise(op), &[cell, place])
        })?;
        b.module("imnet.layers", |b| {
            let count = self.hidden.len();
            for (i, out) in self.hidden[1..].iter().copied().chain([3]).enumerate() {
                let layer = format!("{}", 2 * (i + 1));
                let last = i + 1 == count;
                x = linear(b, &layer, name, x, out, if last { Act::None } else { Act::Relu }, last)?;
            }
            Ok(x)
        })
    }
}

/// A layer used for several cells: its value is named by the cell.
fn linear(b: &mut Builder, layer: &str, name: &str, x: ValueId, out: u32, act: Act, last: bool) -> Result<ValueId> {
    let c = u64::from(b.shape(x).c);
    b.module(layer, |b| {
        let weights = vec![b.weight("weight", &[u64::from(out), c])];
        let biases = vec![b.weight("bias", &[u64::from(out)])];
        let op = Linear { weights, biases, out_channels: out, geglu: false, residual: false, act };
        let dtype = if last { DType::F32 } else { b.dtype() };
        b.push_as(name, Op::Linear(op), &[x], dtype)
    })
}

/// A resampling along one axis. f32 stays f32.
pub(crate) fn along(b: &mut Builder, name: &str, axis: Axis, taps: u32, x: ValueId, table: ValueId) -> Result<ValueId> {
    let dtype = b.dtype_of(x);
    b.push_as(name, Op::Resample(Resample { axis, taps }), &[x, table], dtype)
}

/// `x` in the storage type of the graph.
pub(crate) fn narrow(b: &mut Builder, name: &str, x: ValueId) -> Result<ValueId> {
    if b.dtype_of(x) == b.dtype() {
        return Ok(x);
    }
    let op = Pointwise { alpha: 1.0, beta: None, gamma: 0.0, act: Act::None, clamp: None, table: false };
    b.push(name, Op::Pointwise(op), &[x])
}

fn sum(b: &mut Builder, name: &str, a: Option<ValueId>, x: ValueId) -> Result<ValueId> {
    match a {
        Some(a) => b.add_as(name, a, x, DType::F32),
        None => Ok(x),
    }
}
