//! Rows and cells of canvases: read as windows need them, written as they are finished.

use super::{State, World, wrong};
use crate::error::Result;
use crate::run::cell::Cell;
use crate::run::connections::Connections;
use crate::system::program::CanvasId;
use crate::tile::band;

impl World<'_> {
    /// Reads the whole canvases that are fed.
    pub(in crate::run) fn load(&mut self, io: &mut Connections<'_>) -> Result<()> {
        for (id, rows) in &mut io.inputs {
            let [_, w] = self.program.extent(*id);
            let n = w as usize * self.program.canvases[id.0].channels as usize;
            if let State::Whole(values) = &mut self.canvases[id.0] {
                values.chunks_exact_mut(n).try_for_each(|row| rows.next_row(row))?;
            }
        }
        Ok(())
    }

    /// Writes the whole canvases that are drained.
    pub(in crate::run) fn unload(&self, io: &mut Connections<'_>) -> Result<()> {
        for (id, rows) in &mut io.outputs {
            let [_, w] = self.program.extent(*id);
            let n = w as usize * self.program.canvases[id.0].channels as usize;
            if let State::Whole(values) = &self.canvases[id.0] {
                values.chunks_exact(n).zip(0..).try_for_each(|(row, y)| rows.put_row(y, row))?;
                rows.settle()?;
            }
        }
        Ok(())
    }

    /// Pulls rows so that a band holds everything above row `until`.
    pub(in crate::run) fn pull(&mut self, id: CanvasId, until: u32, io: &mut Connections<'_>) -> Result<()> {
        let [h, _] = self.program.extent(id);
        if let State::Band(ring) = &mut self.canvases[id.0] {
            while ring.end() < until.min(h) {
                let Some((_, rows)) = io.inputs.iter_mut().find(|(c, _)| *c == id) else {
                    return Err(wrong(format!("nothing feeds canvas `{}`", self.program.canvases[id.0].name)));
                };
                rows.next_row(ring.push())?;
            }
        }
        Ok(())
    }

    /// Takes a finished row of a blended canvas.
    pub(in crate::run) fn put(&mut self, id: CanvasId, y: u32, row: &[f32], io: &mut Connections<'_>) -> Result<()> {
        match &mut self.canvases[id.0] {
            State::Whole(values) => {
                values[y as usize * row.len()..][..row.len()].copy_from_slice(row);
                Ok(())
            }
            State::Spool(file) => file.write(y, 0, row),
            State::Band(ring) if io.outputs.iter().all(|(c, _)| *c != id) => {
                ring.push().copy_from_slice(row);
                Ok(())
            }
            State::Device(_) | State::Absent => {
                Err(wrong(format!("canvas `{}` takes no rows", self.program.canvases[id.0].name)))
            }
            State::Band(_) | State::Passing => match io.outputs.iter_mut().find(|(c, _)| *c == id) {
                Some((_, rows)) => rows.put_row(y, row),
                None => Err(wrong(format!("nothing takes canvas `{}`", self.program.canvases[id.0].name))),
            },
        }
    }

    /// Tells who takes the rows of a band that a row of windows is complete.
    pub(in crate::run) fn settle(&mut self, id: CanvasId, io: &mut Connections<'_>) -> Result<()> {
        match (&self.canvases[id.0], io.outputs.iter_mut().find(|(c, _)| *c == id)) {
            (State::Band(_) | State::Passing, Some((_, rows))) => rows.settle(),
            _ => Ok(()),
        }
    }

    /// Rows a canvas holds at a time.
    pub(in crate::run) fn band_capacity(&self, id: CanvasId) -> u32 {
        match &self.canvases[id.0] {
            State::Band(ring) => ring.capacity(),
            State::Whole(_) | State::Passing | State::Spool(_) | State::Device(_) | State::Absent => {
                self.program.extent(id)[0]
            }
        }
    }

    /// Cuts `[h, w]` pixels at (`y`, `x`), mirrored beyond the canvas.
    pub(in crate::run) fn crop(&self, id: CanvasId, at: [i64; 2], size: [u32; 2], out: &mut [f32]) -> Result<()> {
        let extent = self.program.extent(id);
        let channels = self.program.canvases[id.0].channels as usize;
        let n = extent[1] as usize * channels;
        match &self.canvases[id.0] {
            State::Whole(values) => band::crop(|y| Ok(&values[y as usize * n..][..n]), extent, channels, at, size, out),
            State::Band(ring) => band::crop(|y| ring.row(y), extent, channels, at, size, out),
            State::Spool(file) => file.crop(at, size, out),
            State::Passing | State::Device(_) | State::Absent => {
                Err(wrong(format!("canvas `{}` cannot be read", self.program.canvases[id.0].name)))
            }
        }
    }

    /// Extends a band down to row `end`.
    pub(in crate::run) fn make_room(&mut self, id: CanvasId, end: u32) -> Result<()> {
        let [h, _] = self.program.extent(id);
        if let State::Band(ring) = &mut self.canvases[id.0] {
            while ring.end() < end.min(h) {
                ring.push().fill(0.0);
            }
        }
        Ok(())
    }

    /// Writes a window's cell; what lies beyond the canvas is left out.
    pub(in crate::run) fn store(&mut self, id: CanvasId, cell: &Cell, values: &[f32]) -> Result<()> {
        let [h, w] = self.program.extent(id);
        let c = self.program.canvases[id.0].channels as usize;
        let count = cell.size[1].min(w.saturating_sub(cell.at[1])) as usize * c;
        for i in 0..cell.size[0].min(h.saturating_sub(cell.at[0])) {
            let from = (cell.from[0] + i) as usize * cell.width as usize + cell.from[1] as usize;
            let (y, x) = (cell.at[0] + i, cell.at[1] as usize * c);
            let values = &values[from * c..][..count];
            match &mut self.canvases[id.0] {
                State::Whole(to) => to[y as usize * w as usize * c + x..][..count].copy_from_slice(values),
                State::Band(ring) => ring.row_mut(y)?[x..x + count].copy_from_slice(values),
                State::Spool(file) => file.write(y, cell.at[1], values)?,
                State::Passing | State::Device(_) | State::Absent => {
                    let name = &self.program.canvases[id.0].name;
                    return Err(wrong(format!("canvas `{name}` takes no cells from the host")));
                }
            }
        }
        Ok(())
    }

    /// Hands rows `first..end` of a band that is connected to an output to it.
    pub(in crate::run) fn drain(&mut self, id: CanvasId, first: u32, end: u32, io: &mut Connections<'_>) -> Result<()> {
        let [h, _] = self.program.extent(id);
        if let State::Band(ring) = &self.canvases[id.0]
            && let Some((_, rows)) = io.outputs.iter_mut().find(|(c, _)| *c == id)
        {
            for y in first..end.min(h) {
                rows.put_row(y, ring.row(y)?)?;
            }
            rows.settle()?;
        }
        Ok(())
    }
}
