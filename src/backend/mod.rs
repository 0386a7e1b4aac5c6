//! Backends run the commands of a plan. A backend sees commands only, never a graph or a model.

pub mod account;
pub mod cpu;
pub mod cuda;
pub mod fault;
pub mod null;
pub mod wgpu;

use crate::abi::Caps;
use crate::error::Result;
use crate::extent;
use crate::plan::command::{Dispatch, Slot};
pub use account::Account;
use std::ops::Range;
use std::time::Duration;

/// A device buffer of one backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub u32);

/// A command list made ready by a backend (pipelines, bind groups, ranges resolved).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ListId(pub u32);

/// A rectangle of bytes in one buffer and its place in another. Offsets, pitches and lengths are multiples of 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    /// Read.
    pub from: BufferId,
    /// First byte read.
    pub from_offset: u64,
    /// Bytes from a row read to the next.
    pub from_pitch: u64,
    /// Written; another buffer.
    pub to: BufferId,
    /// First byte written.
    pub to_offset: u64,
    /// Bytes from a row written to the next.
    pub to_pitch: u64,
    /// Bytes of a row.
    pub bytes: u64,
    /// Number of rows.
    pub rows: u32,
}

/// What it took the host to start recorded segments, waiting apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Launches {
    /// Segments started.
    pub count: u64,
    /// Time in the calls that started them.
    pub time: Duration,
}

/// Says between two segments of a run whether it is to end, by the error to end with.
pub type Stop<'a> = dyn Fn() -> Result<()> + Sync + 'a;

/// A device that executes dispatches. One arena, in-order execution; every method is synchronous in its
/// effects (a `read` after a `run` sees the results).
pub trait Backend: Send {
    /// What the planner may assume.
    fn caps(&self) -> &Caps;

    /// A zeroed buffer that fits `slot` (size rounded up as the device needs).
    fn alloc(&mut self, slot: &Slot) -> Result<BufferId>;

    /// Gives a buffer back.
    fn free(&mut self, buffer: BufferId);

    /// Copies `bytes` into the buffer. `offset` and length are multiples of 4.
    fn write(&mut self, buffer: BufferId, offset: u64, bytes: &[u8]) -> Result<()>;

    /// Copies from the buffer.
    fn read(&mut self, buffer: BufferId, offset: u64, bytes: &mut [u8]) -> Result<()>;

    /// Copies rows from one buffer to another. Devices with memory of their own do it there; this way, through
    /// the host, is for backends that check calls.
    fn copy_rows(&mut self, copy: &Rows) -> Result<()> {
        let mut row = vec![0; extent::to_usize("row", copy.bytes)?];
        for i in 0..u64::from(copy.rows) {
            self.read(copy.from, copy.from_offset + i * copy.from_pitch, &mut row)?;
            self.write(copy.to, copy.to_offset + i * copy.to_pitch, &row)?;
        }
        Ok(())
    }

    /// Makes a command list ready; `slots[i]` is the buffer of slot `i`. Nothing is compiled or
    /// allocated on the device after this.
    fn prepare(&mut self, commands: &[Dispatch], slots: &[BufferId]) -> Result<ListId>;

    /// Forgets a command list.
    fn discard(&mut self, list: ListId);

    /// Runs a prepared list to its end, or until `stop` gives an error, which is returned. It is asked before every
    /// segment of at most about 50 ms (on the host, before every command); what has begun ends by itself, and
    /// nothing that the list writes may be relied on then.
    fn run_until(&mut self, list: ListId, stop: &Stop<'_>) -> Result<()>;

    /// Runs a prepared list to its end.
    fn run(&mut self, list: ListId) -> Result<()> {
        self.run_until(list, &|| Ok(()))
    }

    /// Puts a prepared list behind everything before it; it may still be running when this returns, and what it
    /// met may be told by a later call. `stop` is as for [`Backend::run_until`].
    fn start(&mut self, list: ListId, stop: &Stop<'_>) -> Result<()> {
        self.run_until(list, stop)
    }

    /// Copies `bytes` into a buffer that the list started last does not name, while that list may still be running;
    /// lists started later see them. `offset` and length are multiples of 4.
    fn upload(&mut self, buffer: BufferId, offset: u64, bytes: &[u8]) -> Result<()> {
        self.write(buffer, offset, bytes)
    }

    /// Waits for everything that was started.
    fn finish(&mut self) -> Result<()> {
        Ok(())
    }

    /// What starting recorded segments has taken so far; nothing where none are recorded.
    fn launches(&self) -> Launches {
        Launches::default()
    }

    /// Device memory that is free now, of this program and of others, where the device tells.
    fn free_memory(&self) -> Option<u64> {
        None
    }

    /// The account of device memory: everything the backend allocates on the device goes through it.
    fn account(&mut self) -> &mut Account;

    /// Device bytes held by `alloc` now.
    fn allocated(&self) -> u64;
}

/// Puts `value` into the first free place of `list` and returns its index.
fn insert<T>(list: &mut Vec<Option<T>>, value: T) -> Result<u32> {
    let index = list.iter().position(Option::is_none).unwrap_or_else(|| {
        list.push(None);
        list.len() - 1
    });
    list[index] = Some(value);
    extent::to_u32("buffers or lists", index as u64)
}

/// Cuts a list where the work since the last cut reaches `most_flops` or `most_bytes`: what a GPU may be given at
/// once.
fn segments(commands: &[Dispatch], most_flops: u64, most_bytes: u64) -> Vec<Range<usize>> {
    let mut out = Vec::new();
    let (mut start, mut flops, mut bytes) = (0, 0u64, 0u64);
    for (i, c) in commands.iter().enumerate() {
        flops = flops.saturating_add(c.flops);
        bytes = bytes.saturating_add(c.bytes);
        if flops >= most_flops || bytes >= most_bytes {
            out.push(start..i + 1);
            (start, flops, bytes) = (i + 1, 0, 0);
        }
    }
    if start < commands.len() {
        out.push(start..commands.len());
    }
    out
}
