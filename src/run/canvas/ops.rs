//! Operations on whole canvases between the passes over windows.

use super::World;
use crate::error::Result;
use crate::noise;
use crate::run::statistics::{Factors, Moments};
use crate::run::superpixels::Cells;
use crate::system::phase::{CanvasOp, Coefficient};
use crate::system::program::CanvasId;
use crate::system::superpixels::Superpixels;
use rayon::prelude::*;

/// Keeps a flat map from dividing by nothing.
const SPAN_EPS: f32 = 1e-6;

impl World<'_> {
    /// Carries out an operation on whole canvases.
    pub(in crate::run) fn canvas_op(&mut self, op: &CanvasOp, step: u32) -> Result<()> {
        match op {
            CanvasOp::Combine { to, terms, noise, constant, clamp } => {
                self.combine(*to, terms, *noise, *constant, *clamp, step)
            }
            CanvasOp::Resize { from, to } => {
                let ([fh, fw], [th, tw]) = (self.program.extent(*from), self.program.extent(*to));
                let channels = self.program.canvases[from.0].channels as usize;
                let values = crate::image::resample::resize(
                    self.whole(*from)?,
                    (u64::from(fw), u64::from(fh)),
                    (u64::from(tw), u64::from(th)),
                    channels,
                )?;
                self.whole_mut(*to)?.copy_from_slice(&values);
                Ok(())
            }
            CanvasOp::Place { from, to, size, fill } => self.place(*from, *to, *size, fill),
            CanvasOp::Softmax { canvas } => {
                let channels = self.program.canvases[canvas.0].channels as usize;
                let values = self.whole_mut(*canvas)?;
                values.par_chunks_exact_mut(channels).with_min_len(4096).for_each(softmax);
                Ok(())
            }
            CanvasOp::Span { from, to } => {
                let channels = self.program.canvases[to.0].channels as usize;
                let values = self.whole(*from)?;
                let fold = |[lo, hi]: [f32; 2], v: &f32| [lo.min(*v), hi.max(*v)];
                let [lo, hi] = values.iter().fold([f32::INFINITY, f32::NEG_INFINITY], fold);
                let values: Vec<f32> = values.iter().map(|v| (*v - lo) / (hi - lo + SPAN_EPS)).collect();
                for (pixel, v) in self.whole_mut(*to)?.chunks_exact_mut(channels).zip(values) {
                    pixel.fill(v);
                }
                Ok(())
            }
            CanvasOp::RegionMeans(of) => {
                let (cells, _) = self.superpixels(of)?;
                let colours =
                    cells.colours(self.whole(of.picture)?, self.program.canvases[of.picture.0].channels as usize);
                self.whole_mut(of.colours)?.copy_from_slice(&colours);
                Ok(())
            }
            CanvasOp::Paint { of, to } => {
                let size = self.program.extent(*to);
                let (cells, colours) = self.superpixels(of)?;
                let mut values = vec![0.0; self.whole(*to)?.len()];
                cells.window(colours, of.rule, size, [0; 2], size, &mut values);
                self.whole_mut(*to)?.copy_from_slice(&values);
                Ok(())
            }
            CanvasOp::Sample { from, to, blocks } => self.sample(*from, *to, *blocks),
            CanvasOp::Moments { from, to } => {
                let channels = self.program.canvases[from.0].channels as usize;
                let mut moments = vec![Moments::default(); channels];
                Moments::add_rows(&mut moments, self.whole(*from)?);
                self.set_statistic(*to, moments);
                Ok(())
            }
            CanvasOp::Affine { from, affine, to } => {
                let factors = Factors::new(affine, |id| self.statistic(id));
                let mut values = self.whole(*from)?.to_vec();
                factors.apply(&mut values);
                self.whole_mut(*to)?.copy_from_slice(&values);
                Ok(())
            }
        }
    }

    /// What the windows of a superpixel picture are made from: its cells, and their colours.
    pub(in crate::run) fn superpixels(&self, of: &Superpixels) -> Result<(Cells<'_>, &[f32])> {
        let extent = self.program.extent(of.probabilities);
        let low = self.program.extent(of.picture);
        let cells = Cells { probabilities: self.whole(of.probabilities)?, extent, low, cell: of.cell };
        Ok((cells, self.whole(of.colours)?))
    }

    fn place(&mut self, from: CanvasId, to: CanvasId, size: [u32; 2], fill: &[f32]) -> Result<()> {
        let ([fh, fw], [_, tw]) = (self.program.extent(from), self.program.extent(to));
        let c = fill.len();
        let small = crate::image::resample::resize(
            self.whole(from)?,
            (u64::from(fw), u64::from(fh)),
            (u64::from(size[1]), u64::from(size[0])),
            c,
        )?;
        let values = self.whole_mut(to)?;
        values.chunks_exact_mut(c).for_each(|pixel| pixel.copy_from_slice(fill));
        let n = size[1] as usize * c;
        for (row, placed) in values.chunks_exact_mut(tw as usize * c).zip(small.chunks_exact(n)) {
            row[..n].copy_from_slice(placed);
        }
        Ok(())
    }

    fn sample(&mut self, from: CanvasId, to: CanvasId, blocks: [u32; 2]) -> Result<()> {
        let (large, small) = (self.program.extent(from), self.program.extent(to));
        let c = self.program.canvases[from.0].channels as usize;
        let size = [small[0] / blocks[0].max(1), small[1] / blocks[1].max(1)];
        // One block alone is taken from the middle.
        let place = |i: usize, k: u32| {
            let room = u64::from(large[i].saturating_sub(size[i]));
            if blocks[i] == 1 { room / 2 } else { room * u64::from(k) / u64::from(blocks[i] - 1) }
        };
        let mut cut = vec![0.0f32; size[0] as usize * size[1] as usize * c];
        for (row, column) in (0..blocks[0]).flat_map(|r| (0..blocks[1]).map(move |c| (r, c))) {
            let at = [place(0, row), place(1, column)].map(|v| v as i64);
            self.crop(from, at, size, &mut cut)?;
            let (n, width) = (size[1] as usize * c, small[1] as usize * c);
            let first = row as usize * size[0] as usize * width + column as usize * n;
            for (values, y) in cut.chunks_exact(n).zip(0..) {
                self.whole_mut(to)?[first + y * width..][..n].copy_from_slice(values);
            }
        }
        Ok(())
    }

    fn combine(
        &mut self,
        to: CanvasId,
        terms: &[(CanvasId, Coefficient)],
        noise: Option<(u16, u16, Coefficient)>,
        constant: f32,
        clamp: Option<[f32; 2]>,
        step: u32,
    ) -> Result<()> {
        let factor = |c: Coefficient| match c {
            Coefficient::Value(v) => v,
            Coefficient::Step(table, column) => self.program.tables[table.0].row(step as usize)[column],
        };
        let [_, w] = self.program.extent(to);
        let channels = self.program.canvases[to.0].channels as usize;
        let mut out = vec![constant; self.whole(to)?.len()];
        for (from, c) in terms {
            let c = factor(*c);
            for (o, v) in out.iter_mut().zip(self.whole(*from)?) {
                *o += c * v;
            }
        }
        if let Some((stage, purpose, c)) = noise {
            let (key, gain) = (self.program.noise_key(stage, purpose, step), factor(c));
            for (i, pixel) in out.chunks_exact_mut(channels).enumerate() {
                let (y, x) = (i / w as usize, i % w as usize);
                for (o, channel) in pixel.iter_mut().zip(0..) {
                    *o += gain * noise::normal(key, y as u32, x as u32, channel);
                }
            }
        }
        if let Some([lo, hi]) = clamp {
            out.iter_mut().for_each(|o| *o = o.clamp(lo, hi));
        }
        self.whole_mut(to)?.copy_from_slice(&out);
        Ok(())
    }
}

/// Values to probabilities; the largest is taken off first, so that none overflows.
fn softmax(pixel: &mut [f32]) {
    let largest = pixel.iter().fold(f32::NEG_INFINITY, |a, v| a.max(*v));
    pixel.iter_mut().for_each(|v| *v = (*v - largest).exp());
    let sum: f32 = pixel.iter().sum();
    pixel.iter_mut().for_each(|v| *v /= sum);
}
