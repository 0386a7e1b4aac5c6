//! Backends run the commands of a plan. A backend sees commands only, never a graph or a model.

pub mod cpu;
pub mod cuda;
pub mod fault;
pub mod null;
pub mod wgpu;

use crate::abi::Caps;
use crate::error::Result;
use crate::plan::command::{Dispatch, Slot};

/// A device buffer of one backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub u32);

/// A command list made ready by a backend (pipelines, bind groups, ranges resolved).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ListId(pub u32);

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

    /// Makes a command list ready; `slots[i]` is the buffer of slot `i`. Nothing is compiled or
    /// allocated on the device after this.
    fn prepare(&mut self, commands: &[Dispatch], slots: &[BufferId]) -> Result<ListId>;

    /// Forgets a command list.
    fn discard(&mut self, list: ListId);

    /// Runs a prepared list to its end.
    fn run(&mut self, list: ListId) -> Result<()>;

    /// Device bytes held by `alloc` now.
    fn allocated(&self) -> u64;
}
