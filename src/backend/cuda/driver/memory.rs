//! Memory of the device, and host memory that it reads and writes.
#![allow(unsafe_code)]

use super::{Call, Context, Failure, Stream};
use cudarc::driver::{result, sys};
use std::sync::Arc;

/// A range of device memory.
pub(in super::super) struct DeviceMemory {
    context: Arc<Context>,
    pub(super) at: sys::CUdeviceptr,
    bytes: u64,
}

impl DeviceMemory {
    /// `bytes` of device memory, at least one, zeroed in the order of `stream`.
    pub(in super::super) fn zeroed(stream: &Stream, bytes: u64) -> Call<DeviceMemory> {
        stream.context.bind()?;
        let size = usize::try_from(bytes).map_err(|_| Failure::Range)?;
        // SAFETY: the memory is owned by the value made here and freed by its `Drop`.
        let at = unsafe { result::malloc_sync(size) }?;
        let memory = DeviceMemory { context: stream.context.clone(), at, bytes };
        // SAFETY: `size` bytes at `at` were just allocated.
        unsafe { result::memset_d8_async(at, 0, size, stream.handle) }?;
        Ok(memory)
    }

    /// Its address, 256-byte aligned.
    pub(in super::super) fn address(&self) -> u64 {
        self.at
    }

    /// Its size.
    pub(in super::super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        if self.context.can_free() {
            // SAFETY: allocated by `zeroed`, freed once; the driver waits for work that uses it.
            let _ = unsafe { result::free_sync(self.at) };
        }
    }
}

/// Host memory the device reads and writes directly; the way of every transfer.
pub(in super::super) struct Staging {
    context: Arc<Context>,
    at: *mut u8,
    bytes: usize,
    /// The device may still be reading it.
    busy: bool,
}

// SAFETY: the memory belongs to the value alone and is not bound to a thread.
unsafe impl Send for Staging {}

impl Staging {
    /// Its size.
    pub(in super::super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// `bytes` of pinned memory.
    pub(in super::super) fn new(context: &Arc<Context>, bytes: usize) -> Call<Staging> {
        context.bind()?;
        // SAFETY: owned by the value made here. No flags: write-combined memory would be slow to read.
        let at = unsafe { result::malloc_host(bytes, 0) }?.cast::<u8>();
        // SAFETY: `bytes` were just allocated; from here on they are initialised.
        unsafe { at.write_bytes(0, bytes) };
        Ok(Staging { context: context.clone(), at, bytes, busy: false })
    }

    /// Copies `from` into `to` at `offset`, in pieces; returns when the last piece is under way.
    pub(in super::super) fn upload(
        &mut self,
        stream: &Stream,
        to: &DeviceMemory,
        offset: u64,
        from: &[u8],
    ) -> Call<()> {
        check(to, offset, from.len())?;
        let mut at = to.at + offset;
        for piece in from.chunks(self.bytes.max(1)) {
            if self.busy {
                stream.wait(&stream.done)?;
                self.busy = false;
            }
            stream.context.bind()?;
            // SAFETY: `piece` fits, and the device is not reading the memory: nothing of `busy` is under way.
            let staged = unsafe {
                self.at.copy_from_nonoverlapping(piece.as_ptr(), piece.len());
                std::slice::from_raw_parts(self.at, piece.len())
            };
            self.busy = true;
            // SAFETY: the range lies in `to` (checked above); the staging memory stays until `wait` says done.
            unsafe { result::memcpy_htod_async(at, staged, stream.handle) }?;
            stream.mark(&stream.done)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Copies from `from` at `offset` into `into`, after everything in the stream.
    pub(in super::super) fn download(
        &mut self,
        stream: &Stream,
        from: &DeviceMemory,
        offset: u64,
        into: &mut [u8],
    ) -> Call<()> {
        check(from, offset, into.len())?;
        let mut at = from.at + offset;
        for piece in into.chunks_mut(self.bytes.max(1)) {
            stream.context.bind()?;
            self.busy = true;
            // SAFETY: the staging memory has room for `piece`; the stream orders this behind an upload that reads
            // it, and the host looks at it only after `wait`.
            let staged = unsafe { std::slice::from_raw_parts_mut(self.at, piece.len()) };
            // SAFETY: the range lies in `from` (checked above).
            unsafe { result::memcpy_dtoh_async(staged, at, stream.handle) }?;
            stream.mark(&stream.done)?;
            stream.wait(&stream.done)?;
            self.busy = false;
            piece.copy_from_slice(staged);
            at += piece.len() as u64;
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.context.can_free() {
            // SAFETY: allocated by `new`, freed once; the driver waits for copies that use it.
            let _ = unsafe { result::free_host(self.at.cast()) };
        }
    }
}

/// Whether a range lies in its memory.
pub(super) fn check(memory: &DeviceMemory, offset: u64, len: usize) -> Call<()> {
    match offset.checked_add(len as u64) {
        Some(end) if end <= memory.bytes => Ok(()),
        _ => Err(Failure::Range),
    }
}
