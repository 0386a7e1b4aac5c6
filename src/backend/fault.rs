//! A backend around another that fails on purpose: the n-th call of a kind runs out of memory, loses the
//! device, or corrupts what is read. Recovery is tested with it.

use super::{Account, Backend, BufferId, Launches, ListId, Stop};
use crate::abi::Caps;
use crate::error::{Error, Kind, Result};
use crate::plan::command::{Dispatch, Slot, SlotKind};
use std::collections::HashSet;
use std::fmt;

/// A method of [`Backend`] that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// `alloc`
    Alloc,
    /// `write`
    Write,
    /// `read`
    Read,
    /// `prepare`
    Prepare,
    /// `run`
    Run,
}

impl Call {
    /// Every call.
    pub const ALL: [Call; 5] = [Call::Alloc, Call::Write, Call::Read, Call::Prepare, Call::Run];
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// That one call fails for want of memory; the device stays usable.
    OutOfMemory,
    /// That call and every later one of its kind fail for want of memory.
    OutOfMemoryForever,
    /// The device is lost: that call and every later one of any kind fail.
    Lost,
    /// The call succeeds, but what it leaves behind is damaged: after a `run` (until the next) every read of
    /// an activation gives NaN, and a damaged `read` gives NaN itself. Other calls are not affected.
    Corrupt,
}

/// One planned failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fault {
    /// Which method.
    pub call: Call,
    /// Which call of it, from 0.
    pub nth: u64,
    /// What happens.
    pub failure: Failure,
}

/// See the module.
pub struct Faulty {
    inner: Box<dyn Backend>,
    faults: Vec<Fault>,
    calls: [u64; Call::ALL.len()],
    /// Buffers of values: the only ones corruption shows in, so that the control words stay believable.
    values: HashSet<BufferId>,
    lost: bool,
    corrupt: bool,
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty").field("faults", &self.faults).field("calls", &self.calls).finish_non_exhaustive()
    }
}

impl Faulty {
    /// Wraps `inner`, to fail as `faults` says.
    pub fn new(inner: Box<dyn Backend>, faults: Vec<Fault>) -> Faulty {
        let calls = [0; Call::ALL.len()];
        Faulty { inner, faults, calls, values: HashSet::new(), lost: false, corrupt: false }
    }

    /// How often `call` was made, failed calls included.
    pub fn calls(&self, call: Call) -> u64 {
        self.calls[call as usize]
    }

    /// Counts a call; an error if it is to fail, else whether it is to be corrupted.
    fn enter(&mut self, call: Call) -> Result<bool> {
        let nth = self.calls[call as usize];
        self.calls[call as usize] += 1;
        let mut corrupt = false;
        for fault in self.faults.iter().filter(|f| f.call == call) {
            let now = fault.nth == nth;
            match fault.failure {
                Failure::OutOfMemory if now => return Err(out_of_memory(call, nth)),
                Failure::OutOfMemoryForever if fault.nth <= nth => return Err(out_of_memory(call, nth)),
                Failure::Lost if now => self.lost = true,
                Failure::Corrupt if now => corrupt = true,
                Failure::OutOfMemory | Failure::OutOfMemoryForever | Failure::Lost | Failure::Corrupt => {}
            }
        }
        if self.lost {
            let why = format!("the device is gone ({call:?} {nth})");
            return Err(Error::new(Kind::DeviceLost, "backend", why).advise("open the device again"));
        }
        Ok(corrupt)
    }
}

fn out_of_memory(call: Call, nth: u64) -> Error {
    Error::new(Kind::Memory, "backend", format!("out of device memory ({call:?} {nth})"))
        .advise("use a smaller tile or batch")
}

impl Backend for Faulty {
    fn caps(&self) -> &Caps {
        self.inner.caps()
    }

    fn alloc(&mut self, slot: &Slot) -> Result<BufferId> {
        self.enter(Call::Alloc)?;
        let buffer = self.inner.alloc(slot)?;
        if matches!(slot.kind, SlotKind::Arena | SlotKind::Persistent) {
            self.values.insert(buffer);
        }
        Ok(buffer)
    }

    fn free(&mut self, buffer: BufferId) {
        self.values.remove(&buffer);
        self.inner.free(buffer);
    }

    fn write(&mut self, buffer: BufferId, offset: u64, bytes: &[u8]) -> Result<()> {
        self.enter(Call::Write)?;
        self.inner.write(buffer, offset, bytes)
    }

    fn read(&mut self, buffer: BufferId, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let corrupt = self.enter(Call::Read)?;
        self.inner.read(buffer, offset, bytes)?;
        if (corrupt || self.corrupt) && self.values.contains(&buffer) {
            // All ones is a NaN in f32, f16 and bf16 alike.
            bytes.fill(0xff);
        }
        Ok(())
    }

    fn prepare(&mut self, commands: &[Dispatch], slots: &[BufferId]) -> Result<ListId> {
        self.enter(Call::Prepare)?;
        self.inner.prepare(commands, slots)
    }

    fn discard(&mut self, list: ListId) {
        self.inner.discard(list);
    }

    fn run_until(&mut self, list: ListId, stop: &Stop<'_>) -> Result<()> {
        self.corrupt = self.enter(Call::Run)?;
        self.inner.run_until(list, stop)
    }

    fn start(&mut self, list: ListId, stop: &Stop<'_>) -> Result<()> {
        self.corrupt = self.enter(Call::Run)?;
        self.inner.start(list, stop)
    }

    fn upload(&mut self, buffer: BufferId, offset: u64, bytes: &[u8]) -> Result<()> {
        self.enter(Call::Write)?;
        self.inner.upload(buffer, offset, bytes)
    }

    fn finish(&mut self) -> Result<()> {
        if self.lost {
            return Err(Error::new(Kind::DeviceLost, "backend", "the device is gone").advise("open the device again"));
        }
        self.inner.finish()
    }

    fn launches(&self) -> Launches {
        self.inner.launches()
    }

    fn free_memory(&self) -> Option<u64> {
        self.inner.free_memory()
    }

    fn account(&mut self) -> &mut Account {
        self.inner.account()
    }

    fn allocated(&self) -> u64 {
        self.inner.allocated()
    }
}

#[cfg(test)]
mod tests {
    use super::super::null::Null;
    use super::*;

    fn backend(fault: Fault) -> Faulty {
        Faulty::new(Box::new(Null::new(Caps::cpu())), vec![fault])
    }

    fn slot() -> Slot {
        Slot { kind: SlotKind::Arena, bytes: 256 }
    }

    #[test]
    fn memory_fails_once_or_forever() {
        let mut b = backend(Fault { call: Call::Alloc, nth: 1, failure: Failure::OutOfMemory });
        let kinds: Vec<_> = (0..3).map(|_| b.alloc(&slot()).map_err(|e| e.kind())).collect();
        assert!(kinds[0].is_ok() && kinds[2].is_ok());
        assert_eq!(kinds[1], Err(Kind::Memory));
        assert_eq!((b.calls(Call::Alloc), b.allocated()), (3, 512));

        let mut b = backend(Fault { call: Call::Alloc, nth: 1, failure: Failure::OutOfMemoryForever });
        assert!(b.alloc(&slot()).is_ok() && b.alloc(&slot()).is_err() && b.alloc(&slot()).is_err());
    }

    #[test]
    fn a_lost_device_stays_lost() {
        let mut b = backend(Fault { call: Call::Write, nth: 0, failure: Failure::Lost });
        let buffer = b.alloc(&slot()).expect("still there");
        assert_eq!(b.write(buffer, 0, &[0; 4]).expect_err("lost").kind(), Kind::DeviceLost);
        assert_eq!(b.read(buffer, 0, &mut [0; 4]).expect_err("lost").kind(), Kind::DeviceLost);
        assert_eq!(b.alloc(&slot()).expect_err("lost").kind(), Kind::DeviceLost);
    }

    #[test]
    fn a_corrupted_run_shows_in_values_until_the_next() {
        let mut b = backend(Fault { call: Call::Run, nth: 0, failure: Failure::Corrupt });
        let value = b.alloc(&slot()).expect("value");
        let control = b.alloc(&Slot { kind: SlotKind::Control, bytes: 64 }).expect("control");
        let list = b.prepare(&[], &[value, control]).expect("empty list");
        let mut word = [0u8; 4];
        b.run(list).expect("runs");
        b.read(value, 0, &mut word).expect("reads");
        assert!(f32::from_le_bytes(word).is_nan());
        b.read(control, 0, &mut word).expect("reads");
        assert_eq!(word, [0; 4]);
        b.run(list).expect("runs");
        b.read(value, 0, &mut word).expect("reads");
        assert_eq!(word, [0; 4]);
    }
}
