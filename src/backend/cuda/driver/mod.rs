//! The CUDA driver behind handles that own what they name: the only folder that calls it, and, with the
//! launches, the only files of the library that need `unsafe`. Nothing here knows plans, kernels or this program's
//! errors: a call that fails gives a [`Failure`].
//!
//! A handle keeps its context alive and makes it current before each call, so that a backend may move between
//! threads and two backends may share a card. No events are attached to memory: order is the one stream's.
#![allow(unsafe_code)]

mod kernels;
mod memory;
mod stream;
mod tensor_map;

use cudarc::driver::{result, sys};
pub(super) use kernels::{Function, Launch, Module, Partials};
pub(super) use memory::{DeviceMemory, Staging};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
pub(super) use stream::{Event, Graph, SPIN, Stream};
pub(super) use tensor_map::{TensorMap, encode};

/// Why a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The driver's status.
    Status(sys::CUresult),
    /// The device did not finish within this time.
    Timeout(Duration),
    /// A range outside its memory: a mistake in this program, found before the driver was called.
    Range,
}

impl From<result::DriverError> for Failure {
    fn from(e: result::DriverError) -> Failure {
        Failure::Status(e.0)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Status(code) => {
                let what = result::DriverError(*code).error_string().map(|s| s.to_string_lossy().into_owned());
                let what = what.unwrap_or_else(|_| "the driver has no text for it".into());
                write!(f, "{code:?} ({}): {what}", *code as u32)
            }
            Failure::Timeout(patience) => write!(f, "no answer within {} s", patience.as_secs_f64()),
            Failure::Range => f.write_str("a range outside its memory"),
        }
    }
}

/// The result of a driver call.
pub(super) type Call<T> = Result<T, Failure>;

/// Whether the driver's library can be opened. Nothing else here may be called where it can't.
pub(super) fn present() -> bool {
    // SAFETY: opens and closes a shared library of a fixed name; its initialisers are the driver's own.
    unsafe { sys::is_culib_present() }
}

/// Starts the driver and gives its version, 1000 times the major plus 10 times the minor number.
pub(super) fn init() -> Call<u32> {
    result::init()?;
    let mut version = 0;
    // SAFETY: writes one int.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result()?;
    Ok(u32::try_from(version).unwrap_or(0))
}

/// Number of devices.
pub(super) fn count() -> Call<usize> {
    Ok(usize::try_from(result::device::get_count()?).unwrap_or(0))
}

/// What the driver tells of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Properties {
    /// Its name.
    pub(super) name: String,
    /// Compute capability: major, minor.
    pub(super) capability: [u32; 2],
    /// Bytes of memory.
    pub(super) memory: u64,
    /// Bytes of shared memory that one block may ask for.
    pub(super) shared: u32,
    /// Processors, each of which runs blocks of its own.
    pub(super) processors: u32,
}

fn ordinal(index: usize) -> i32 {
    i32::try_from(index).unwrap_or(i32::MAX)
}

/// Asks for the properties of device `index`.
pub(super) fn properties(index: usize) -> Call<Properties> {
    use sys::CUdevice_attribute as Attribute;
    let device = result::device::get(ordinal(index))?;
    // SAFETY: `device` comes from the driver.
    let ask = |a| unsafe { result::device::get_attribute(device, a) }.map(|v| u32::try_from(v).unwrap_or(0));
    let major = ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let shared = ask(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
    let processors = ask(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
    // SAFETY: as above.
    let memory = unsafe { result::device::total_mem(device) }? as u64;
    Ok(Properties { name: result::device::get_name(device)?, capability: [major, minor], memory, shared, processors })
}

/// Bytes of memory that are free on the device of a context: of this program and of all others.
pub(super) fn free_memory(context: &Context) -> Call<u64> {
    context.bind()?;
    Ok(result::mem_get_info()?.0 as u64)
}

/// The primary context of one device, held.
pub(super) struct Context {
    device: sys::CUdevice,
    handle: sys::CUcontext,
    /// A kernel did not return: every further call might wait for it for ever, so nothing is given back.
    abandoned: AtomicBool,
}

// SAFETY: contexts may be used from any thread that makes them current, which every call here does first.
unsafe impl Send for Context {}
// SAFETY: as above; the driver serialises calls to one context.
unsafe impl Sync for Context {}

impl Context {
    /// Holds the primary context of device `index`.
    pub(super) fn retain(index: usize) -> Call<Arc<Context>> {
        let device = result::device::get(ordinal(index))?;
        // SAFETY: `device` comes from the driver; `Drop` releases what is retained here.
        let handle = unsafe { result::primary_ctx::retain(device) }?;
        Ok(Arc::new(Context { device, handle, abandoned: AtomicBool::new(false) }))
    }

    /// Makes the context current in this thread.
    fn bind(&self) -> Call<()> {
        // SAFETY: the context is held as long as `self` lives.
        Ok(unsafe { result::ctx::set_current(self.handle) }?)
    }

    /// Whether handles may still be given back; binds if so.
    fn can_free(&self) -> bool {
        !self.abandoned.load(Ordering::Relaxed) && self.bind().is_ok()
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if !self.abandoned.load(Ordering::Relaxed) {
            // SAFETY: retained once, released once. There is nobody to tell of a failure.
            let _ = unsafe { result::primary_ctx::release(self.device) };
        }
    }
}
