//! WGSL kernels through wgpu: Vulkan, Metal, DX12.
//!
//! Nothing here panics on a device's account: every call that can fail runs inside error scopes, and a lost
//! device is an error of its own kind, after which the backend is dropped and opened anew.

mod adapter;
mod memory;
mod pipeline;
mod preprocess;
mod run;
mod shared;

use super::{Account, Backend, BufferId, ListId, Rows, Stop, insert};
use crate::abi::Caps;
use crate::error::{Error, Kind, Result};
use crate::plan::command::{Dispatch, Slot, SlotKind};
pub use adapter::{AdapterInfo, adapters};
use memory::Memory;
use pipeline::Pipelines;
pub use pipeline::wgsl;
use run::List;
use shared::Faults;
use std::sync::Arc;

/// A wgpu device as a [`Backend`].
pub struct WgpuBackend {
    device: wgpu::Device,
    queue: wgpu::Queue,
    caps: Caps,
    faults: Arc<Faults>,
    memory: Memory,
    pipelines: Pipelines,
    lists: Vec<Option<List>>,
    /// The last submission of what was started and not yet waited for.
    before: Option<wgpu::SubmissionIndex>,
}

impl WgpuBackend {
    /// Opens adapter `index`, a number of [`adapters`].
    pub fn open(index: usize) -> Result<WgpuBackend> {
        let adapter::Opened { device, queue, caps, faults } = adapter::open(index)?;
        let memory = Memory::new(&device, &faults)?;
        let pipelines = shared::scoped(&device, &faults, "making layouts", || Pipelines::new(&device))?;
        Ok(WgpuBackend { device, queue, caps, faults, memory, pipelines, lists: Vec::new(), before: None })
    }

    /// Selects kernels as on hardware, or as on a software rasteriser, whatever the device is: how the
    /// hardware's kernels are tested where there is none.
    pub fn set_software(&mut self, software: bool) {
        self.caps.software = software;
    }

    /// Pipelines compiled so far.
    pub fn pipelines(&self) -> usize {
        self.pipelines.count()
    }

    fn submit(&mut self, list: ListId, steady: bool, stop: &Stop<'_>) -> Result<()> {
        let Some(prepared) = self.lists.get(list.0 as usize).and_then(Option::as_ref) else {
            return Err(Error::new(Kind::Internal, "wgpu", format!("list {} was not prepared", list.0)));
        };
        prepared.start(&self.device, &self.queue, &self.faults, &mut self.before, steady, stop)
    }

    /// Gives the device up, as a driver reset would: every later call is [`Kind::DeviceLost`].
    pub fn lose(&mut self) {
        self.device.destroy();
        self.faults.lose("given up".into());
    }
}

impl Backend for WgpuBackend {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn alloc(&mut self, slot: &Slot) -> Result<BufferId> {
        if slot.bytes > self.caps.max_chunk {
            return Err(Error::new(
                Kind::Memory,
                "wgpu",
                format!("a buffer of {} bytes; {} grants {}", slot.bytes, self.caps.name, self.caps.max_chunk),
            )
            .advise("use a smaller tile"));
        }
        let label = match &slot.kind {
            SlotKind::Arena => "arena",
            SlotKind::Persistent => "persistent",
            SlotKind::Weight(_) => "weight",
            SlotKind::Ring => "streamed weights",
            SlotKind::Control => "control",
        };
        self.memory.alloc(&self.device, &self.faults, slot.bytes, label)
    }

    fn free(&mut self, buffer: BufferId) {
        self.memory.free(buffer);
    }

    fn write(&mut self, buffer: BufferId, offset: u64, bytes: &[u8]) -> Result<()> {
        self.memory.write(&self.device, &self.queue, &self.faults, buffer, offset, bytes)
    }

    fn read(&mut self, buffer: BufferId, offset: u64, bytes: &mut [u8]) -> Result<()> {
        self.memory.read(&self.device, &self.queue, &self.faults, buffer, offset, bytes)
    }

    fn copy_rows(&mut self, copy: &Rows) -> Result<()> {
        self.memory.copy_rows(&self.device, &self.queue, &self.faults, copy)
    }

    fn prepare(&mut self, commands: &[Dispatch], slots: &[BufferId]) -> Result<ListId> {
        let memory = &mut self.memory;
        let list = List::new(&self.device, &self.faults, &self.caps, memory, &mut self.pipelines, commands, slots)?;
        Ok(ListId(insert(&mut self.lists, list)?))
    }

    fn discard(&mut self, list: ListId) {
        if let Some(list) = self.lists.get_mut(list.0 as usize).and_then(Option::take) {
            self.memory.account.give(list.bytes);
        }
    }

    fn run_until(&mut self, list: ListId, stop: &Stop<'_>) -> Result<()> {
        let run = self.submit(list, true, stop);
        // What has begun ends, whatever was met.
        let finished = self.finish();
        run.and(finished)
    }

    fn start(&mut self, list: ListId, stop: &Stop<'_>) -> Result<()> {
        self.submit(list, false, stop)
    }

    fn finish(&mut self) -> Result<()> {
        if let Some(last) = self.before.take() {
            shared::wait(&self.device, &self.faults, "a run", Some(last))?;
            self.memory.settled();
        }
        Ok(())
    }

    fn account(&mut self) -> &mut Account {
        &mut self.memory.account
    }

    fn allocated(&self) -> u64 {
        self.memory.allocated()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::knobs;

    /// The first adapter, or `None` where there is none and none is required.
    fn first() -> Option<WgpuBackend> {
        if adapters().is_empty() {
            assert!(!knobs::is_on("TESSERA_REQUIRE_WGPU"), "no wgpu adapter");
            println!("SKIPPED: no wgpu adapter");
            return None;
        }
        Some(WgpuBackend::open(0).expect("the first adapter opens"))
    }

    fn arena(bytes: u64) -> Slot {
        Slot { kind: SlotKind::Arena, bytes }
    }

    #[test]
    fn an_adapter_that_is_not_there_is_named() {
        let e = WgpuBackend::open(1_000).err().expect("there are not so many");
        assert_eq!(e.kind(), Kind::Device);
        assert!(e.message().contains("no adapter 1000"), "{e}");
    }

    #[test]
    fn transfers_keep_bytes_and_refuse_ranges_outside() {
        let Some(mut backend) = first() else { return };
        let buffer = backend.alloc(&arena(1_000)).expect("fits");
        let mut got = [1u8; 16];
        backend.read(buffer, 984, &mut got).expect("inside");
        assert_eq!(got, [0; 16], "new buffers are zero");
        let sent: Vec<u8> = (0..16).collect();
        backend.write(buffer, 8, &sent).expect("inside");
        backend.read(buffer, 8, &mut got).expect("inside");
        assert_eq!(got.as_slice(), sent);
        for (offset, len) in [(1_024, 4), (2, 4), (0, 6), (u64::MAX - 3, 4)] {
            let e = backend.write(buffer, offset, &vec![0; len]).expect_err("outside or unaligned");
            assert_eq!(e.kind(), Kind::Internal, "{offset} {len}");
        }
        let e = backend.alloc(&arena(backend.caps().max_chunk + 1)).expect_err("too large");
        assert_eq!(e.kind(), Kind::Memory);
        backend.free(buffer);
        assert_eq!(backend.allocated(), 0);
        assert_eq!(backend.read(buffer, 0, &mut got).expect_err("freed").kind(), Kind::Internal);
    }

    #[test]
    fn a_lost_device_is_an_error_of_its_own_everywhere() {
        let Some(mut backend) = first() else { return };
        let buffer = backend.alloc(&arena(256)).expect("fits");
        let list = backend.prepare(&[], &[]).expect("an empty list");
        backend.run(list).expect("nothing to do");
        backend.lose();
        assert_eq!(backend.alloc(&arena(256)).expect_err("lost").kind(), Kind::DeviceLost);
        assert_eq!(backend.write(buffer, 0, &[0; 4]).expect_err("lost").kind(), Kind::DeviceLost);
        assert_eq!(backend.read(buffer, 0, &mut [0; 4]).expect_err("lost").kind(), Kind::DeviceLost);
        assert_eq!(backend.run(list).expect_err("lost").kind(), Kind::DeviceLost);
    }
}
