//! Hand-written CUDA kernels through the driver API. The driver is opened at run time: nothing of CUDA is
//! needed to build, and a machine without it only lacks this backend.
//!
//! A list runs as recorded graphs, one for each bounded segment. Everything goes through one stream, so order
//! is program order. What a context does not survive is remembered: every later call is
//! [`Kind::DeviceLost`] with the first cause.

mod adapter;
mod driver;
mod faults;
mod memory;
mod modules;
mod run;

use super::{Account, Backend, BufferId, Launches, ListId, Rows, Stop, insert};
use crate::abi::table::cuda::Target;
use crate::abi::{Caps, Stem};
use crate::error::{Error, Kind, Result};
use crate::extent;
use crate::limits;
use crate::plan::command::{Dispatch, Slot, SlotKind};
pub use adapter::{CudaDevice, devices, version};
use driver::{Context, Event, Staging, Stream};
use faults::Faults;
use memory::Memory;
use modules::Modules;
pub use modules::ptx;
use run::{List, Starting};
use std::sync::Arc;
use std::time::Duration;

/// What every part of the backend works with.
struct Gpu {
    faults: Faults,
    starting: Starting,
    launches: Launches,
    /// Of the device.
    processors: u32,
    /// Ends of the last two segments.
    marks: [Event; 2],
    /// Where the list started last begins.
    begun: Event,
    /// Segments of what was started and not yet waited for, and which mark ends them.
    pending: Option<(usize, u32)>,
    stream: Stream,
    /// Uploads beside the kernels go through these.
    copies: [Stream; 2],
    context: Arc<Context>,
}

impl Drop for Gpu {
    fn drop(&mut self) {
        self.marks.iter().chain([&self.begun]).for_each(|m| self.stream.forget(m));
    }
}

/// A CUDA device as a [`Backend`].
///
/// Fields are given back in their order: lists before the kernels and buffers they name, the context last.
pub struct CudaBackend {
    caps: Caps,
    lists: Vec<Option<List>>,
    modules: Modules,
    memory: Memory,
    gpu: Gpu,
}

impl CudaBackend {
    /// Opens device `index`, a number of [`devices`]. One module is compiled, so that a driver that refuses
    /// the kernels does so here.
    pub fn open(index: usize) -> Result<CudaBackend> {
        let device = adapter::choose(index)?;
        let mut faults = Faults::default();
        let name = &device.name;
        let mut failed = |doing: &str, e| faults.error(format_args!("{name}: {doing}"), e);
        let context = Context::retain(index).map_err(|e| failed("opening a context", e))?;
        let patience = Duration::from_secs(limits::CUDA_WAIT_SECONDS);
        let stream = Stream::new(&context, patience).map_err(|e| failed("making a stream", e))?;
        let mut mark = || stream.event().map_err(|e| failed("making an event", e));
        let marks = [mark()?, mark()?];
        let begun = mark()?;
        let mut copy = || Stream::new(&context, patience).map_err(|e| failed("making a stream", e));
        let copies = [copy()?, copy()?];
        let mut pinned = |bytes: u64| -> Result<Staging> {
            let bytes = extent::to_usize("staging", bytes)?;
            Staging::new(&context, bytes).map_err(|e| failed("allocating pinned memory", e))
        };
        let staging = pinned(limits::CUDA_STAGING_BYTES)?;
        let beside = [pinned(limits::CUDA_BESIDE_BYTES)?, pinned(limits::CUDA_BESIDE_BYTES)?];
        let one_by_one = crate::knobs::is_on("TESSERA_CUDA_SYNC");
        let starting = if one_by_one { Starting::Synchronous } else { Starting::Graphs };
        let processors = device.processors;
        let mut gpu = Gpu {
            faults,
            starting,
            launches: Launches::default(),
            processors,
            marks,
            begun,
            pending: None,
            stream,
            copies,
            context,
        };
        let mut modules = Modules::new(device.driver);
        modules.load(&gpu.context, &mut gpu.faults, Stem::Pointwise, Target::Sm80).map_err(|e| e.at(&device.name))?;
        let caps = adapter::caps(&device);
        Ok(CudaBackend { caps, lists: Vec::new(), modules, memory: Memory::new(staging, beside), gpu })
    }

    /// Waits at most so long for two segments of a list, instead of [`limits::CUDA_WAIT_SECONDS`], before the
    /// device is given up.
    pub fn set_patience(&mut self, patience: Duration) {
        self.gpu.stream.set_patience(patience);
        self.gpu.copies.iter_mut().for_each(|s| s.set_patience(patience));
    }

    /// Kernels made ready so far.
    pub fn kernels(&self) -> usize {
        self.modules.count()
    }

    /// Why kernels are started one by one instead of as recorded graphs, where they are.
    pub fn why_not_graphs(&self) -> Option<&str> {
        match &self.gpu.starting {
            Starting::Graphs => None,
            Starting::Plain(why) => Some(why),
            Starting::Synchronous => Some("TESSERA_CUDA_SYNC=1"),
        }
    }
}

impl Backend for CudaBackend {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn alloc(&mut self, slot: &Slot) -> Result<BufferId> {
        if slot.bytes > self.caps.max_chunk {
            let why = format!("a buffer of {} bytes; {} has {}", slot.bytes, self.caps.name, self.caps.max_chunk);
            return Err(Error::new(Kind::Memory, "cuda", why).advise("use a smaller tile"));
        }
        let label = match &slot.kind {
            SlotKind::Arena => "arena",
            SlotKind::Persistent => "persistent",
            SlotKind::Weight(_) => "weight",
            SlotKind::Ring => "streamed weights",
            SlotKind::Control => "control",
        };
        self.memory.alloc(&self.gpu.stream, &mut self.gpu.faults, slot.bytes, label)
    }

    fn free(&mut self, buffer: BufferId) {
        self.memory.free(buffer);
    }

    fn write(&mut self, buffer: BufferId, offset: u64, bytes: &[u8]) -> Result<()> {
        self.memory.write(&self.gpu.stream, &mut self.gpu.faults, buffer, offset, bytes)
    }

    fn read(&mut self, buffer: BufferId, offset: u64, bytes: &mut [u8]) -> Result<()> {
        self.memory.read(&self.gpu.stream, &mut self.gpu.faults, buffer, offset, bytes)
    }

    fn copy_rows(&mut self, copy: &Rows) -> Result<()> {
        self.memory.copy_rows(&self.gpu.stream, &mut self.gpu.faults, copy)
    }

    fn prepare(&mut self, commands: &[Dispatch], slots: &[BufferId]) -> Result<ListId> {
        let list = List::new(&mut self.gpu, &self.memory, &mut self.modules, commands, slots)?;
        Ok(ListId(insert(&mut self.lists, list)?))
    }

    fn discard(&mut self, list: ListId) {
        if let Some(slot) = self.lists.get_mut(list.0 as usize) {
            *slot = None;
        }
    }

    fn run_until(&mut self, list: ListId, stop: &Stop<'_>) -> Result<()> {
        let Some(prepared) = self.lists.get(list.0 as usize).and_then(Option::as_ref) else {
            return Err(Error::new(Kind::Internal, "cuda", format!("list {} was not prepared", list.0)));
        };
        prepared.run(&mut self.gpu, stop)
    }

    fn start(&mut self, list: ListId, stop: &Stop<'_>) -> Result<()> {
        let Some(prepared) = self.lists.get(list.0 as usize).and_then(Option::as_ref) else {
            return Err(Error::new(Kind::Internal, "cuda", format!("list {} was not prepared", list.0)));
        };
        prepared.start(&mut self.gpu, stop)
    }

    fn upload(&mut self, buffer: BufferId, offset: u64, bytes: &[u8]) -> Result<()> {
        run::order_uploads(&mut self.gpu)?;
        self.memory.upload(&self.gpu.copies, &mut self.gpu.faults, buffer, offset, bytes)
    }

    fn finish(&mut self) -> Result<()> {
        run::finish(&mut self.gpu)
    }

    fn launches(&self) -> Launches {
        self.gpu.launches
    }

    fn free_memory(&self) -> Option<u64> {
        driver::free_memory(&self.gpu.context).ok()
    }

    fn account(&mut self) -> &mut Account {
        &mut self.memory.account
    }

    fn allocated(&self) -> u64 {
        self.memory.allocated()
    }
}
