//! Buffers of a CUDA device: one allocation each, transfers through pinned memory.

use super::driver::{DeviceMemory, Staging, Stream};
use super::faults::Faults;
use crate::backend::{Account, BufferId, Rows, insert};
use crate::error::{Error, Kind, Result};
use crate::extent;

/// The buffers of one device. Places in the table are reused; the executor that frees a buffer also discards
/// the lists that name it.
pub(super) struct Memory {
    entries: Vec<Option<DeviceMemory>>,
    pub(super) account: Account,
    staging: Staging,
    /// The way of uploads beside a list that runs: they take turns, so that one is filled while the other is read.
    beside: [Staging; 2],
    turn: usize,
}

fn bad(why: String) -> Error {
    Error::new(Kind::Internal, "cuda", why)
}

impl Memory {
    pub(super) fn new(staging: Staging, beside: [Staging; 2]) -> Memory {
        Memory { entries: Vec::new(), account: Account::default(), staging, beside, turn: 0 }
    }

    /// A zeroed buffer of at least `bytes`.
    pub(super) fn alloc(&mut self, stream: &Stream, faults: &mut Faults, bytes: u64, label: &str) -> Result<BufferId> {
        let size = extent::round_up(bytes.max(1), extent::ARENA_ALIGN);
        let doing = format_args!("allocating {size} bytes ({label})");
        faults.check(doing)?;
        self.account.take(size, label)?;
        let made = DeviceMemory::zeroed(stream, size).map_err(|e| faults.error(doing, e));
        let memory = made.inspect_err(|_| self.account.give(size))?;
        if !memory.address().is_multiple_of(extent::ARENA_ALIGN) {
            return Err(bad(format!("an allocation at {:#x} is not aligned", memory.address())));
        }
        Ok(BufferId(insert(&mut self.entries, memory)?))
    }

    /// Gives a buffer back.
    pub(super) fn free(&mut self, id: BufferId) {
        if let Some(memory) = self.entries.get_mut(id.0 as usize).and_then(Option::take) {
            self.account.give(memory.bytes());
        }
    }

    /// The buffer.
    pub(super) fn get(&self, id: BufferId) -> Result<&DeviceMemory> {
        let entry = self.entries.get(id.0 as usize).and_then(Option::as_ref);
        entry.ok_or_else(|| bad(format!("buffer {} is not allocated", id.0)))
    }

    fn check_range(&self, id: BufferId, offset: u64, bytes: usize) -> Result<()> {
        let size = self.get(id)?.bytes();
        let end = offset.checked_add(bytes as u64);
        if !(offset | bytes as u64).is_multiple_of(4) || end.is_none_or(|e| e > size) {
            return Err(bad(format!("{bytes} bytes at {offset} of a buffer of {size} (multiples of 4 only)")));
        }
        Ok(())
    }

    /// Uploads.
    pub(super) fn write(
        &mut self,
        stream: &Stream,
        faults: &mut Faults,
        id: BufferId,
        offset: u64,
        bytes: &[u8],
    ) -> Result<()> {
        faults.check("an upload")?;
        self.check_range(id, offset, bytes.len())?;
        let to = self.entries.get(id.0 as usize).and_then(Option::as_ref);
        let to = to.ok_or_else(|| bad(format!("buffer {} is not allocated", id.0)))?;
        self.staging.upload(stream, to, offset, bytes).map_err(|e| faults.error("an upload", e))
    }

    /// Uploads beside the kernels, in pieces that take turns in two staging buffers with a stream each.
    pub(super) fn upload(
        &mut self,
        copies: &[Stream; 2],
        faults: &mut Faults,
        id: BufferId,
        offset: u64,
        bytes: &[u8],
    ) -> Result<()> {
        faults.check("an upload")?;
        self.check_range(id, offset, bytes.len())?;
        let to = self.entries.get(id.0 as usize).and_then(Option::as_ref);
        let to = to.ok_or_else(|| bad(format!("buffer {} is not allocated", id.0)))?;
        let mut at = offset;
        let size = self.beside[0].bytes().max(1);
        for piece in bytes.chunks(size) {
            let k = self.turn % 2;
            self.beside[k].upload(&copies[k], to, at, piece).map_err(|e| faults.error("an upload", e))?;
            self.turn += 1;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Reads back after everything put into the stream so far.
    pub(super) fn read(
        &mut self,
        stream: &Stream,
        faults: &mut Faults,
        id: BufferId,
        offset: u64,
        bytes: &mut [u8],
    ) -> Result<()> {
        faults.check("a read")?;
        self.check_range(id, offset, bytes.len())?;
        let from = self.entries.get(id.0 as usize).and_then(Option::as_ref);
        let from = from.ok_or_else(|| bad(format!("buffer {} is not allocated", id.0)))?;
        self.staging.download(stream, from, offset, bytes).map_err(|e| faults.error("a read", e))
    }

    /// Copies rows between two buffers, in the order of the stream.
    pub(super) fn copy_rows(&mut self, stream: &Stream, faults: &mut Faults, copy: &Rows) -> Result<()> {
        faults.check("a copy")?;
        let len = extent::to_usize("row", copy.bytes)?;
        for i in 0..u64::from(copy.rows) {
            let (read, written) = (copy.from_offset + i * copy.from_pitch, copy.to_offset + i * copy.to_pitch);
            self.check_range(copy.from, read, len)?;
            self.check_range(copy.to, written, len)?;
            let (from, to) = (self.get(copy.from)?, self.get(copy.to)?);
            stream.copy(from, read, to, written, len).map_err(|e| faults.error("a copy", e))?;
        }
        Ok(())
    }

    /// Bytes held by `alloc` now.
    pub(super) fn allocated(&self) -> u64 {
        self.account.held()
    }
}
