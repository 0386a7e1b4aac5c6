//! Buffers of a wgpu device: allocation, upload, read-back.

use super::shared::{Faults, scoped, wait};
use crate::backend::{Account, BufferId, Rows, insert};
use crate::error::{Error, Kind, Result};
use crate::extent;
use crate::limits::WGPU_STAGING_BYTES;
use std::sync::mpsc;

struct Entry {
    buffer: wgpu::Buffer,
    bytes: u64,
}

/// The buffers of one device. Slots of the table are reused, ids are not checked for reuse: the executor
/// that frees a buffer also discards the lists that name it.
pub(super) struct Memory {
    entries: Vec<Option<Entry>>,
    allocated: u64,
    /// Everything: buffers, the two below, uploads in flight, parameters of lists.
    pub(super) account: Account,
    /// Read-back buffer, made once: larger reads go through it in pieces.
    staging: wgpu::Buffer,
    /// Stands for absent optional bindings, one 256-byte piece per binding number.
    dummy: wgpu::Buffer,
    /// Bytes handed to the queue since it was last waited for: the queue holds a copy of them on the device.
    in_flight: u64,
}

fn unknown(id: BufferId) -> Error {
    Error::new(Kind::Internal, "wgpu", format!("buffer {} is not allocated", id.0))
}

impl Memory {
    pub(super) fn new(device: &wgpu::Device, faults: &Faults) -> Result<Memory> {
        let mut account = Account::default();
        let absent = extent::ARENA_ALIGN * crate::limits::WGPU_BINDINGS as u64;
        account.take(WGPU_STAGING_BYTES + absent, "transfers")?;
        scoped(device, faults, "allocating the transfer buffers", || Memory {
            entries: Vec::new(),
            allocated: 0,
            account,
            staging: device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("staging"),
                size: WGPU_STAGING_BYTES,
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            }),
            dummy: device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("absent"),
                size: absent,
                usage: wgpu::BufferUsages::STORAGE,
                mapped_at_creation: false,
            }),
            in_flight: 0,
        })
    }

    /// A zeroed buffer of at least `bytes`.
    pub(super) fn alloc(
        &mut self,
        device: &wgpu::Device,
        faults: &Faults,
        bytes: u64,
        label: &str,
    ) -> Result<BufferId> {
        let size = extent::round_up(bytes.max(1), extent::ARENA_ALIGN);
        self.account.take(size, label)?;
        let buffer = scoped(device, faults, format_args!("allocating {size} bytes ({label})"), || {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size,
                usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        })
        .inspect_err(|_| self.account.give(size))?;
        self.allocated += size;
        Ok(BufferId(insert(&mut self.entries, Entry { buffer, bytes: size })?))
    }

    /// Gives a buffer back; the driver's memory goes when the last list that names it does.
    pub(super) fn free(&mut self, id: BufferId) {
        if let Some(entry) = self.entries.get_mut(id.0 as usize).and_then(Option::take) {
            self.allocated -= entry.bytes;
            self.account.give(entry.bytes);
            entry.buffer.destroy();
        }
    }

    fn entry(&self, id: BufferId) -> Result<&Entry> {
        self.entries.get(id.0 as usize).and_then(Option::as_ref).ok_or_else(|| unknown(id))
    }

    /// The buffer and its size.
    pub(super) fn get(&self, id: BufferId) -> Result<(&wgpu::Buffer, u64)> {
        self.entry(id).map(|e| (&e.buffer, e.bytes))
    }

    /// The piece that stands for the absent binding `number`.
    pub(super) fn absent(&self, number: usize) -> wgpu::BufferBinding<'_> {
        wgpu::BufferBinding {
            buffer: &self.dummy,
            offset: extent::ARENA_ALIGN * number as u64,
            size: std::num::NonZeroU64::new(extent::ARENA_ALIGN),
        }
    }

    fn check_range(&self, id: BufferId, offset: u64, bytes: usize) -> Result<&Entry> {
        let entry = self.entry(id)?;
        let end = offset.checked_add(bytes as u64);
        let aligned = (offset | bytes as u64).is_multiple_of(wgpu::COPY_BUFFER_ALIGNMENT);
        if !aligned || end.is_none_or(|e| e > entry.bytes) {
            return Err(Error::new(
                Kind::Internal,
                "wgpu",
                format!("{bytes} bytes at {offset} of a buffer of {} (multiples of 4 only)", entry.bytes),
            ));
        }
        Ok(entry)
    }

    /// Uploads. The queue keeps a copy of what is in flight, so large uploads go in bounded pieces.
    pub(super) fn write(
        &mut self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        faults: &Faults,
        id: BufferId,
        offset: u64,
        bytes: &[u8],
    ) -> Result<()> {
        self.check_range(id, offset, bytes.len())?;
        let piece = extent::to_usize("staging", WGPU_STAGING_BYTES)?;
        let mut at = offset;
        for part in bytes.chunks(piece) {
            if self.in_flight + part.len() as u64 > WGPU_STAGING_BYTES {
                let flushed = queue.submit([]);
                wait(device, faults, "an upload", Some(flushed))?;
                self.settled();
            }
            self.account.take(part.len() as u64, "an upload")?;
            self.in_flight += part.len() as u64;
            let buffer = self.entry(id)?.buffer.clone();
            scoped(device, faults, "an upload", || queue.write_buffer(&buffer, at, part))?;
            at += part.len() as u64;
        }
        Ok(())
    }

    /// The queue has been waited for: its copies of all uploads are gone.
    pub(super) fn settled(&mut self) {
        self.account.give(self.in_flight);
        self.in_flight = 0;
    }

    /// Reads back after everything submitted so far.
    pub(super) fn read(
        &mut self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        faults: &Faults,
        id: BufferId,
        offset: u64,
        bytes: &mut [u8],
    ) -> Result<()> {
        self.check_range(id, offset, bytes.len())?;
        let piece = extent::to_usize("staging", WGPU_STAGING_BYTES)?;
        let mut at = offset;
        for part in bytes.chunks_mut(piece) {
            let size = part.len() as u64;
            let source = self.entry(id)?.buffer.clone();
            let staging = self.staging.clone();
            let (sender, receiver) = mpsc::channel();
            let submission = scoped(device, faults, "a read", || {
                let mut encoder =
                    device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("read") });
                encoder.copy_buffer_to_buffer(&source, at, &staging, 0, size);
                let submission = queue.submit([encoder.finish()]);
                // A send fails only when this function has already given up.
                staging.map_async(wgpu::MapMode::Read, 0..size, move |r| drop(sender.send(r)));
                submission
            })?;
            wait(device, faults, "a read", Some(submission))?;
            self.settled();
            let failed = |why: String| Error::new(Kind::Internal, "wgpu", format!("a read of {size} bytes: {why}"));
            match receiver.try_recv() {
                Ok(Ok(())) => {}
                Ok(Err(e)) => return Err(failed(e.to_string())),
                Err(e) => return Err(failed(format!("the buffer was not mapped: {e}"))),
            }
            let copied = staging.get_mapped_range(0..size).map(|view| part.copy_from_slice(&view));
            staging.unmap();
            copied.map_err(|e| failed(e.to_string()))?;
            at += size;
        }
        Ok(())
    }

    /// Copies rows between two buffers, in the order of the queue.
    pub(super) fn copy_rows(
        &mut self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        faults: &Faults,
        copy: &Rows,
    ) -> Result<()> {
        let len = extent::to_usize("row", copy.bytes)?;
        let last = u64::from(copy.rows).saturating_sub(1);
        let mut places = Vec::with_capacity(2);
        for (id, offset, pitch) in
            [(copy.from, copy.from_offset, copy.from_pitch), (copy.to, copy.to_offset, copy.to_pitch)]
        {
            self.check_range(id, offset, len)?;
            places.push(&self.check_range(id, offset.saturating_add(last.saturating_mul(pitch)), len)?.buffer);
        }
        let [from, to] = places[..] else { return Err(unknown(copy.to)) };
        scoped(device, faults, "a copy", || {
            let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("copy") });
            for i in 0..u64::from(copy.rows) {
                let (read, written) = (copy.from_offset + i * copy.from_pitch, copy.to_offset + i * copy.to_pitch);
                encoder.copy_buffer_to_buffer(from, read, to, written, copy.bytes);
            }
            queue.submit([encoder.finish()]);
        })?;
        self.in_flight = 0;
        Ok(())
    }

    /// Bytes held by `alloc` now.
    pub(super) fn allocated(&self) -> u64 {
        self.allocated
    }
}
