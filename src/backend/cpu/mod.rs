//! Host cores. Heavy products run on panels of pixels whose height follows the layer alone, so every
//! result is the same for any number of threads and any batch; panels are spread over a thread pool.

mod attention;
mod conv2d;
mod gemm;
mod group_norm_stats;
mod kernel;
mod layer_norm;
mod memory;
mod modulate;
mod norm_apply;
mod norm_finalize;
mod pointwise;
mod product;
mod rearrange;
mod resample;
mod scratch;
mod time_embedding;
mod vector;

use super::{Account, Backend, BufferId, ListId, Rows, Stop, insert};
use crate::abi::params::STATUS_NARROW;
use crate::abi::{Access, Caps};
use crate::error::{Error, Kind, Result};
use crate::extent;
use crate::plan::command::{Dispatch, Slot};
use bytemuck::Zeroable;
use kernel::Kernel;
use memory::{Block, Line, MAX_OPERANDS, Place};
use pulp::Arch;
use scratch::{Scratch, with_scratch};

/// The backend.
pub struct Cpu {
    caps: Caps,
    /// Threads of its own, or the process's pool.
    pool: Option<rayon::ThreadPool>,
    arch: Arch,
    buffers: Vec<Option<Block>>,
    lists: Vec<Option<Vec<Kernel>>>,
    /// Operands widened to f32, one space per binding; empty while everything is f32.
    wide: [Vec<Line>; MAX_OPERANDS],
    account: Account,
}

impl Cpu {
    /// On the process's thread pool, whose size the program has set.
    pub fn new() -> Result<Cpu> {
        Cpu::build(None)
    }

    /// On `threads` threads of its own, 0 for one per core.
    pub fn with_threads(threads: usize) -> Result<Cpu> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("tessera-cpu-{i}"))
            .build()
            .map_err(|e| Error::new(Kind::Device, "cpu", format!("no thread pool: {e}")))?;
        Cpu::build(Some(pool))
    }

    fn build(pool: Option<rayon::ThreadPool>) -> Result<Cpu> {
        let arch = Arch::new();
        let threads = pool.as_ref().map_or_else(rayon::current_num_threads, rayon::ThreadPool::current_num_threads);
        let mut caps = Caps::cpu();
        caps.name = format!("cpu ({threads} threads, {})", instruction_set(arch));
        Ok(Cpu {
            caps,
            pool,
            arch,
            buffers: Vec::new(),
            lists: Vec::new(),
            wide: Default::default(),
            account: Account::default(),
        })
    }

    fn block(&self, buffer: BufferId) -> Result<&Block> {
        self.buffers.get(buffer.0 as usize).and_then(Option::as_ref).ok_or_else(|| no_buffer(buffer))
    }
}

/// Name of what [`Arch::new`] found, for reports.
fn instruction_set(arch: Arch) -> &'static str {
    struct Lanes;
    impl pulp::WithSimd for Lanes {
        type Output = usize;
        fn with_simd<S: pulp::Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }
    match arch.dispatch(Lanes) {
        16 => "AVX-512",
        8 => "AVX2",
        4 => "128-bit vectors",
        _ => "no vectors",
    }
}

fn no_buffer(buffer: BufferId) -> Error {
    Error::new(Kind::Internal, "cpu", format!("there is no buffer {}", buffer.0))
}

/// Bytes `offset .. offset + len` of a block of `size` bytes, or an error.
fn span(size: u64, offset: u64, len: usize) -> Result<std::ops::Range<usize>> {
    let end = offset.checked_add(len as u64);
    match end.filter(|&end| end <= size) {
        Some(end) => Ok(extent::to_usize("offset", offset)?..extent::to_usize("end", end)?),
        None => Err(Error::new(
            Kind::Internal,
            "cpu",
            format!("bytes {offset} and {len} after it lie outside a buffer of {size} bytes"),
        )),
    }
}

impl Backend for Cpu {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn alloc(&mut self, slot: &Slot) -> Result<BufferId> {
        let bytes = extent::round_up(slot.bytes, 64);
        self.account.take(bytes, "a buffer")?;
        let block = Block::new(slot.bytes).inspect_err(|_| self.account.give(bytes))?;
        Ok(BufferId(insert(&mut self.buffers, block)?))
    }

    fn free(&mut self, buffer: BufferId) {
        if let Some(block) = self.buffers.get_mut(buffer.0 as usize).and_then(Option::take) {
            self.account.give(block.len());
        }
    }

    fn write(&mut self, buffer: BufferId, offset: u64, bytes: &[u8]) -> Result<()> {
        let block =
            self.buffers.get_mut(buffer.0 as usize).and_then(Option::as_mut).ok_or_else(|| no_buffer(buffer))?;
        let span = span(block.len(), offset, bytes.len())?;
        block.bytes_mut()[span].copy_from_slice(bytes);
        Ok(())
    }

    fn read(&mut self, buffer: BufferId, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let block = self.block(buffer)?;
        let span = span(block.len(), offset, bytes.len())?;
        bytes.copy_from_slice(&block.bytes()[span]);
        Ok(())
    }

    fn copy_rows(&mut self, copy: &Rows) -> Result<()> {
        let index = |b: BufferId| extent::to_usize("buffer", b.0.into());
        let (from, to) = (index(copy.from)?, index(copy.to)?);
        let Ok([Some(from), Some(to)]) = self.buffers.get_disjoint_mut([from, to]) else {
            return Err(no_buffer(copy.to));
        };
        let len = extent::to_usize("row", copy.bytes)?;
        for i in 0..u64::from(copy.rows) {
            let source = span(from.len(), copy.from_offset + i * copy.from_pitch, len)?;
            let target = span(to.len(), copy.to_offset + i * copy.to_pitch, len)?;
            to.bytes_mut()[target].copy_from_slice(&from.bytes()[source]);
        }
        Ok(())
    }

    fn prepare(&mut self, commands: &[Dispatch], slots: &[BufferId]) -> Result<ListId> {
        let mut kernels = Vec::with_capacity(commands.len());
        let mut need = Scratch::default();
        for dispatch in commands {
            let mut places = [None; MAX_OPERANDS];
            for (place, (range, binding)) in
                places.iter_mut().zip(dispatch.bindings.iter().zip(dispatch.stem.bindings()))
            {
                if let Some(range) = range {
                    let buffer = *slots.get(range.slot.0 as usize).ok_or_else(|| {
                        Error::new(Kind::Internal, "cpu", format!("{}: {range:?} names no slot", dispatch.label))
                    })?;
                    let len = self.block(buffer)?.len();
                    *place = Some(Place::new(range, buffer.0 as usize, len, binding.access == Access::Write)?);
                }
            }
            memory::check_aliases(&places).map_err(|e| e.at(&dispatch.label))?;
            let kernel = Kernel::new(dispatch, places)?;
            need = need.max(kernel.scratch());
            for (i, wide) in self.wide.iter_mut().enumerate() {
                let lines = kernel.widened(i).div_ceil(16);
                if wide.len() < lines {
                    wide.resize(lines, Line::zeroed());
                }
            }
            kernels.push(kernel);
        }
        // Every worker grows its scratch now rather than in the middle of a run.
        let grow = |_: rayon::BroadcastContext<'_>| with_scratch(need, |_, _, _| ());
        match &self.pool {
            Some(pool) => pool.broadcast(grow),
            None => rayon::broadcast(grow),
        };
        Ok(ListId(insert(&mut self.lists, kernels)?))
    }

    fn discard(&mut self, list: ListId) {
        if let Some(kernels) = self.lists.get_mut(list.0 as usize) {
            *kernels = None;
        }
    }

    fn run_until(&mut self, list: ListId, stop: &Stop<'_>) -> Result<()> {
        let Cpu { pool, arch, buffers, lists, wide, .. } = self;
        let kernels = lists
            .get(list.0 as usize)
            .and_then(Option::as_ref)
            .ok_or_else(|| Error::new(Kind::Internal, "cpu", format!("there is no list {}", list.0)))?;
        let mut work = || {
            for kernel in kernels {
                stop()?;
                let overflow = kernel.run(*arch, memory::views(buffers, &kernel.places), wide)?;
                if overflow {
                    kernel.raise(buffers, STATUS_NARROW);
                }
            }
            Ok(())
        };
        match pool {
            Some(pool) => pool.install(work),
            // A scope's body runs on a worker, so that launches follow each other without a thread switch.
            None => rayon::scope(|_| work()),
        }
    }

    fn account(&mut self) -> &mut Account {
        &mut self.account
    }

    fn allocated(&self) -> u64 {
        self.account.held()
    }
}
