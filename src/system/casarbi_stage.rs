//! The graphs of a CasArbi stage: what is prepared for a window once, a step over it, and the base picture alone.

use super::casarbi::{CasArbi, PLAIN, Settings};
use super::laid::AXES;
use crate::error::Result;
use crate::graph::op::{Axis as Way, Pointwise};
use crate::graph::{Act, Builder, DType, Graph, Lifetime, Op, Shape, ValueId};
use crate::model::casarbi::Seen;
use crate::model::liif::{CUBIC, LiifExtents, along, narrow};

/// Side of a window over which the networks are built to be held against their files, per pixel of the coarsest level.
const BUILT: u32 = 2;

/// What fixes the graph that prepares a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Prepare {
    pub(super) batch: u32,
    /// Of the stage's input, as far as a window needs it.
    pub(super) from: [u32; 2],
    /// The same of the picture that the base is made of.
    pub(super) base: [u32; 2],
    pub(super) window: [u32; 2],
    pub(super) adapter: bool,
    /// Else the base is a bicubic enlargement.
    pub(super) liif: bool,
    pub(super) dtype: DType,
}

/// What fixes the graph of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) batch: u32,
    pub(super) steps: u32,
    pub(super) window: [u32; 2],
    /// Guidance: the reference as far as a window needs it, taps of the reduction and of its adjoint on each axis.
    pub(super) guidance: Option<([u32; 2], [[u32; 2]; 2])>,
    pub(super) adapter: bool,
    pub(super) dtype: DType,
}

fn pointwise(alpha: f64, beta: Option<f64>, gamma: f32) -> Op {
    let (alpha, beta) = (alpha as f32, beta.map(|b| b as f32));
    Op::Pointwise(Pointwise { alpha, beta, gamma, act: Act::None, clamp: None, table: false })
}

fn by_table(two: bool) -> Op {
    let beta = two.then_some(0.0);
    Op::Pointwise(Pointwise { alpha: 0.0, beta, gamma: 0.0, act: Act::None, clamp: None, table: true })
}

fn input(b: &mut Builder, name: &str, n: u32, [h, w]: [u32; 2], c: u32, dtype: DType) -> ValueId {
    b.input(name, Shape::new(n, h, w, c), dtype, Lifetime::Window)
}

/// The tables `{name}.rows` and `{name}.columns`, each with rows for `out` pixels of an item.
fn tables(b: &mut Builder, name: &str, n: u32, out: [u32; 2], taps: [u32; 2]) -> [ValueId; 2] {
    [0, 1].map(|i| input(b, &format!("{name}.{}", AXES[i].1), n, [1, out[i]], 1 + taps[i], DType::F32))
}

/// `x` by the tables of both axes, rows first.
fn resized(b: &mut Builder, name: &str, x: ValueId, [rows, columns]: [ValueId; 2], taps: [u32; 2]) -> Result<ValueId> {
    let x = along(b, &format!("{name}.down"), Way::Rows, taps[0], x, rows)?;
    along(b, &format!("{name}.across"), Way::Columns, taps[1], x, columns)
}

impl CasArbi {
    /// The base picture of a window.
    fn base(&self, b: &mut Builder, p: &Prepare) -> Result<ValueId> {
        let source = input(b, "source", p.batch, p.base, 3, DType::F32);
        if p.liif {
            let extents = LiifExtents { batch: p.batch, from: p.base, to: p.window };
            return b.module("liif", |b| self.liif.apply(b, source, &extents, "liif."));
        }
        let tables = tables(b, "plain", p.batch, p.window, [CUBIC; 2]);
        resized(b, "plain", source, tables, [CUBIC; 2])
    }

    /// The base picture as a window's result.
    pub(super) fn base_alone(&self, p: &Prepare) -> Result<Graph> {
        let Prepare { batch, base, window, liif, dtype, .. } = p;
        let name = format!("casarbi base {base:?} to {window:?} b{batch} liif {liif} {}", dtype.name());
        let mut b = Builder::new(name, p.dtype);
        let base = self.base(&mut b, p)?;
        let picture = b.push_as("picture", pointwise(0.5, None, 0.5), &[base], DType::F32)?;
        b.output("picture", picture);
        Ok(b.finish())
    }

    pub(super) fn prepare(&self, p: &Prepare, s: &Settings) -> Result<Graph> {
        let name = format!(
            "casarbi prepare {:?} and {:?} to {:?} b{} adapter {} liif {} gain {} {}",
            p.from,
            p.base,
            p.window,
            p.batch,
            p.adapter,
            p.liif,
            s.gain,
            p.dtype.name()
        );
        let mut builder = Builder::new(name, p.dtype);
        let b = &mut builder;
        let [h, w] = p.window;
        let lr = input(b, "input", p.batch, p.from, 3, DType::F32);
        let base = self.base(b, p)?;
        // y = gain (bicubic - base), x_T = y + noise
        let tables = tables(b, "cubic", p.batch, p.window, [CUBIC; 2]);
        let up = resized(b, "cubic", lr, tables, [CUBIC; 2])?;
        let y = b.push_as("y", pointwise(s.gain, Some(-s.gain), 0.0), &[up, base], DType::F32)?;
        let noise = input(b, "noise", p.batch, p.window, 3, DType::F32);
        let x = b.add_as("x", y, noise, DType::F32)?;
        let stored = narrow(b, "input.stored", lr)?;
        let lr = b.module("lr_encoder", |b| self.lr_encoder.apply(b, stored))?;
        let lr = resized(b, "features", lr, tables, [CUBIC; 2])?;
        let stored = narrow(b, "base.stored", base)?;
        let hr = b.module("hr_encoder", |b| self.hr_encoder.apply(b, stored))?;
        let condition = b.module("denoiser", |b| self.denoiser.condition(b, lr, hr))?;
        for (name, value) in [("base", base), ("x", x), ("condition", condition)] {
            b.output(name, value);
        }
        if p.adapter {
            let planes = input(b, "coordinates", p.batch, [h, w], 2 * (1 + 2 * self.denoiser.bands()), p.dtype);
            let features = b.module("denoiser", |b| self.denoiser.coordinates(b, planes))?;
            b.output("coordinate_features", features);
        }
        Ok(builder.finish())
    }

    pub(super) fn step(&self, p: &Step, s: &Settings) -> Result<Graph> {
        let name = format!(
            "casarbi step {:?} b{} of {} guidance {:?} adapter {} gain {} {}",
            p.window,
            p.batch,
            p.steps,
            p.guidance,
            p.adapter,
            s.gain,
            p.dtype.name()
        );
        let mut builder = Builder::new(name, p.dtype);
        let b = &mut builder;
        let table = |b: &mut Builder, name: &str, c: u32| {
            b.input(name, Shape::new(p.steps, 1, 1, c), DType::F32, Lifetime::Step)
        };
        let x = input(b, "x", p.batch, p.window, 3, DType::F32);
        let base = input(b, "base", p.batch, p.window, 3, DType::F32);
        let condition = input(b, "condition", p.batch, p.window, self.denoiser.condition_channels(), p.dtype);
        let features = |b: &mut Builder| {
            let c = self.denoiser.coordinate_channels();
            input(b, "coordinate_features", p.batch, p.window, c, p.dtype)
        };
        let coordinates = if p.adapter { Some(features(b)) } else { None };
        let factor = table(b, "input", 2);
        let skip = b.push_as("x.seen", by_table(false), &[x, factor], DType::F32)?;
        let seen = narrow(b, "x.stored", skip)?;
        let (time, scale) = (table(b, "timestep", 1), table(b, "scale", 1));
        let seen = Seen { x: seen, skip, condition, time, scale, coordinates };
        let x0 = b.module("denoiser", |b| self.denoiser.predict(b, &seen))?;
        let mut u = b.push_as("u", pointwise(1.0, Some(1.0 / s.gain), 0.0), &[base, x0], DType::F32)?;
        let mut clean = x0;
        if let Some((size, [reduce, adjoint])) = p.guidance {
            let reference = input(b, "reference", p.batch, size, 3, DType::F32);
            let forth = tables(b, "reduce", p.batch, size, reduce);
            let back = tables(b, "adjoint", p.batch, p.window, adjoint);
            let small = resized(b, "reduce", u, forth, reduce)?;
            let rest = b.push_as("rest", pointwise(1.0, Some(-1.0), 0.0), &[small, reference], DType::F32)?;
            let gradient = resized(b, "adjoint", rest, back, adjoint)?;
            u = b.push_as("u.guided", pointwise(1.0, Some(-1.0), 0.0), &[u, gradient], DType::F32)?;
            clean = b.push_as("x0.guided", pointwise(s.gain, Some(-s.gain), 0.0), &[u, base], DType::F32)?;
        }
        let (next, added) = (table(b, "next", 2), table(b, "added", 2));
        let noise = input(b, "noise", p.batch, p.window, 3, DType::F32);
        let mean = b.push_as("x.mean", by_table(true), &[x, clean, next], DType::F32)?;
        let next = b.push_as("x.next", by_table(true), &[mean, noise, added], DType::F32)?;
        let picture = b.push_as("picture", pointwise(0.5, None, 0.5), &[u], DType::F32)?;
        b.output("x", next);
        b.output("picture", picture);
        Ok(builder.finish())
    }
}

/// The graphs of a small window: every tensor of every network.
pub(super) fn networks(model: &CasArbi) -> Result<Vec<Graph>> {
    let side = BUILT * model.denoiser.stride();
    let (from, window, dtype) = ([side; 2], [side; 2], PLAIN);
    let adapter = model.denoiser.has_adapter();
    let prepare = Prepare { batch: 1, from, base: from, window, adapter, liif: true, dtype };
    let step = Step { batch: 1, steps: 1, window, guidance: None, adapter, dtype };
    Ok(vec![model.prepare(&prepare, &model.settings)?, model.step(&step, &model.settings)?])
}
