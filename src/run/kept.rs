//! Canvases that exist whole outside the host's memory: in a file of the spool, or on the device.

use super::cell::Cell;
use super::executor::{Executor, SharedDevice};
use crate::backend::{BufferId, Rows};
use crate::error::{Error, Kind, Result};
use crate::extent;
use crate::fs::RowFile;
use crate::graph::DType;
use crate::plan::command::{Port, Slot, SlotKind};
use crate::tile::geometry::mirror;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Files made by this process.
static MADE: AtomicU64 = AtomicU64::new(0);

/// A canvas in a file: f32, a record per pixel, so that any run of pixels of a row is one read or write.
pub(super) struct SpoolCanvas {
    file: RowFile,
    extent: [u32; 2],
    channels: usize,
}

impl SpoolCanvas {
    /// An empty canvas in `folder`, in a file that no other canvas of any running process has.
    pub(super) fn create(folder: &Path, extent: [u32; 2], channels: u32) -> Result<SpoolCanvas> {
        let pixels = extent::product("canvas", &[extent[0].into(), extent[1].into()])?;
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!(".tessera-canvas-{}-{number}.raw", std::process::id()));
        let channels = channels as usize;
        Ok(SpoolCanvas { file: RowFile::create(&path, channels * 4, pixels)?, extent, channels })
    }

    fn at(&self, y: u32, x: u32) -> u64 {
        u64::from(y) * u64::from(self.extent[1]) + u64::from(x)
    }

    /// Writes pixels of row `y` from column `x` on.
    pub(super) fn write(&self, y: u32, x: u32, values: &[f32]) -> Result<()> {
        self.file.write(self.at(y, x), bytemuck::cast_slice(values))
    }

    /// Cuts `size` pixels at `at`, mirrored beyond the canvas.
    pub(super) fn crop(&self, at: [i64; 2], size: [u32; 2], out: &mut [f32]) -> Result<()> {
        let n = size[1] as usize * self.channels;
        let inside = at[1] >= 0 && at[1] + i64::from(size[1]) <= i64::from(self.extent[1]);
        for (i, row) in out.chunks_exact_mut(n).take(size[0] as usize).enumerate() {
            let y = mirror(at[0] + i as i64, self.extent[0]);
            if inside {
                self.file.read(self.at(y, at[1] as u32), bytemuck::cast_slice_mut(row))?;
                continue;
            }
            for (j, pixel) in row.chunks_exact_mut(self.channels).enumerate() {
                let x = mirror(at[1] + j as i64, self.extent[1]);
                self.file.read(self.at(y, x), bytemuck::cast_slice_mut(pixel))?;
            }
        }
        Ok(())
    }
}

/// A canvas in buffers of the device, as ports hold it (NHWC with pitch): strips of whole rows, since a device
/// bounds the size of one buffer.
pub(super) struct DeviceCanvas {
    device: SharedDevice,
    strips: Vec<BufferId>,
    /// Rows of a strip; the last may have fewer.
    rows: u32,
    extent: [u32; 2],
    /// Bytes of a pixel.
    pixel: u64,
}

/// One port of an executor and the item of its batch that is meant.
pub(super) struct Place<'a> {
    pub(super) port: &'a Port,
    pub(super) buffer: BufferId,
    pub(super) item: usize,
}

impl Place<'_> {
    fn offset(&self, pixel: u64, y: u32, x: u32) -> u64 {
        let s = self.port.shape;
        let item = self.item as u64 * s.pixels();
        self.port.range.offset + (item + u64::from(y) * u64::from(s.w) + u64::from(x)) * pixel
    }
}

impl DeviceCanvas {
    /// A canvas on the device of `executor`.
    pub(super) fn create(device: &SharedDevice, extent: [u32; 2], channels: u32, dtype: DType) -> Result<DeviceCanvas> {
        let pixel = extent::pitch(channels.into()) * dtype.bytes();
        let row = extent::product("canvas row", &[extent[1].into(), pixel])?;
        let most = device.caps().max_chunk.min(u64::from(u32::MAX) * 1024);
        let rows = (most / row.max(1)).min(extent[0].into());
        if rows == 0 {
            let why = format!("a row of {row} bytes exceeds the device's largest buffer of {most}");
            return Err(Error::new(Kind::Limit, "run", why));
        }
        let rows = extent::to_u32("strip", rows)?;
        let mut canvas = DeviceCanvas { device: device.clone(), strips: Vec::new(), rows, extent, pixel };
        for first in (0..extent[0]).step_by(rows as usize) {
            let bytes = extent::product("strip", &[rows.min(extent[0] - first).into(), row])?;
            let buffer = device.lock().backend().alloc(&Slot { kind: SlotKind::Persistent, bytes })?;
            canvas.strips.push(buffer);
        }
        Ok(canvas)
    }

    /// Copies a window at `at` into an input.
    pub(super) fn load(&self, at: [u32; 2], to: &Place<'_>) -> Result<()> {
        let s = to.port.shape;
        self.check(to.port, at, [s.h, s.w])?;
        self.strips(at[0], s.h, |strip, y, skipped, rows| {
            let from = (u64::from(y) * u64::from(self.extent[1]) + u64::from(at[1])) * self.pixel;
            let copy = Rows {
                from: strip,
                from_offset: from,
                from_pitch: u64::from(self.extent[1]) * self.pixel,
                to: to.buffer,
                to_offset: to.offset(self.pixel, skipped, 0),
                to_pitch: u64::from(s.w) * self.pixel,
                bytes: u64::from(s.w) * self.pixel,
                rows,
            };
            self.device.lock().backend().copy_rows(&copy)
        })
    }

    /// Copies a window's cell out of an output.
    pub(super) fn store(&self, cell: &Cell, from: &Place<'_>) -> Result<()> {
        self.check(from.port, cell.at, cell.size)?;
        self.strips(cell.at[0], cell.size[0], |strip, y, skipped, rows| {
            let to = (u64::from(y) * u64::from(self.extent[1]) + u64::from(cell.at[1])) * self.pixel;
            let copy = Rows {
                from: from.buffer,
                from_offset: from.offset(self.pixel, cell.from[0] + skipped, cell.from[1]),
                from_pitch: u64::from(from.port.shape.w) * self.pixel,
                to: strip,
                to_offset: to,
                to_pitch: u64::from(self.extent[1]) * self.pixel,
                bytes: u64::from(cell.size[1]) * self.pixel,
                rows,
            };
            self.device.lock().backend().copy_rows(&copy)
        })
    }

    fn check(&self, port: &Port, at: [u32; 2], size: [u32; 2]) -> Result<()> {
        let pixel = u64::from(port.shape.pitch()) * port.dtype.bytes();
        let beyond = (0..2).any(|i| at[i].checked_add(size[i]).is_none_or(|end| end > self.extent[i]));
        if pixel != self.pixel || beyond {
            let why = format!("`{}` at {at:?}, {size:?} does not lie on a canvas of {:?}", port.name, self.extent);
            return Err(Error::new(Kind::Internal, "run", why));
        }
        Ok(())
    }

    /// Every strip that rows `y .. y + h` touch: its buffer, the row in it, rows before, rows.
    fn strips(&self, y: u32, h: u32, mut each: impl FnMut(BufferId, u32, u32, u32) -> Result<()>) -> Result<()> {
        let mut done = 0;
        while done < h {
            let (strip, inside) = ((y + done) / self.rows, (y + done) % self.rows);
            let rows = (self.rows - inside).min(h - done);
            let Some(&buffer) = self.strips.get(strip as usize) else {
                return Err(Error::new(Kind::Internal, "run", format!("row {} of no strip", y + done)));
            };
            each(buffer, inside, done, rows)?;
            done += rows;
        }
        Ok(())
    }
}

impl Drop for DeviceCanvas {
    fn drop(&mut self) {
        let mut device = self.device.lock();
        self.strips.drain(..).for_each(|b| device.backend().free(b));
    }
}

impl Executor {
    /// Where item `item` of an input or output lies on the device.
    pub(super) fn place(&self, name: &str, output: bool, item: usize) -> Result<Place<'_>> {
        let port = if output { self.plan().output(name)? } else { self.plan().input(name)? };
        Ok(Place { port, buffer: self.buffer(port.range.slot)?, item })
    }
}
