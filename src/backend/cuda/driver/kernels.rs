//! Modules of kernels, and their launches.
#![allow(unsafe_code)]

use super::tensor_map::TensorMap;
use super::{Call, Context, Failure, Stream, ordinal};
use crate::abi::table::tma::MAX_MAPS;
use crate::abi::table::tma::parts::Parts;
use cudarc::driver::{result, sys};
use std::ffi::{CStr, c_void};
use std::mem::MaybeUninit;
use std::sync::Arc;

/// Bytes of the log that the driver may write when it refuses a module.
const LOG_BYTES: usize = 8 << 10;

/// A loaded module. Its functions are valid as long as it lives.
pub(in super::super) struct Module {
    context: Arc<Context>,
    handle: sys::CUmodule,
}

// SAFETY: modules may be used from any thread whose current context is theirs.
unsafe impl Send for Module {}

/// A kernel of a module.
#[derive(Clone, Copy)]
pub(in super::super) struct Function(sys::CUfunction);

// SAFETY: as for the module.
unsafe impl Send for Function {}

impl Module {
    /// Compiles PTX for the context's device; the driver's log comes with a failure.
    pub(in super::super) fn load(context: &Arc<Context>, ptx: &CStr) -> Result<Module, (Failure, String)> {
        context.bind().map_err(|e| (e, String::new()))?;
        let mut log = [0u8; LOG_BYTES];
        let mut options =
            [sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER, sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
        // An option that is a number travels in the pointer itself.
        let mut values = [log.as_mut_ptr().cast::<c_void>(), std::ptr::without_provenance_mut(LOG_BYTES)];
        let mut handle = MaybeUninit::uninit();
        // SAFETY: `ptx` ends in a zero byte; two options with two values; the log has the size that is told.
        let status = unsafe {
            let (names, values) = (options.as_mut_ptr(), values.as_mut_ptr());
            sys::cuModuleLoadDataEx(handle.as_mut_ptr(), ptx.as_ptr().cast(), 2, names, values)
        };
        if let Err(e) = status.result() {
            let text = CStr::from_bytes_until_nul(&log).map(|t| t.to_string_lossy().trim().to_owned());
            return Err((e.into(), text.unwrap_or_default()));
        }
        // SAFETY: the call succeeded, so the handle was written.
        Ok(Module { context: context.clone(), handle: unsafe { handle.assume_init() } })
    }

    /// The kernel called `name`, allowed to use `shared` bytes of dynamic shared memory a block.
    pub(in super::super) fn function(&self, name: &CStr, shared: u32) -> Call<Function> {
        self.context.bind()?;
        // SAFETY: the module is live.
        let handle = unsafe { result::module::get_function(self.handle, name.to_owned()) }?;
        if shared > crate::limits::CUDA_PLAIN_SHARED {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is live.
            unsafe { result::function::set_function_attribute(handle, attribute, ordinal(shared as usize)) }?;
        }
        Ok(Function(handle))
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if self.context.can_free() {
            // SAFETY: loaded by `load`, unloaded once; nobody holds its functions any more.
            let _ = unsafe { result::module::unload(self.handle) };
        }
    }
}

/// What a kernel takes by value whose tiles are in parts; `Partials` of `kernels/shared/tma_split.cuh`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(in super::super) struct Partials {
    memory: u64,
    count: u32,
    kept: u32,
}

impl Partials {
    /// Of parts whose sums lie at `memory`.
    pub(in super::super) fn new(memory: u64, parts: Parts) -> Partials {
        Partials { memory, count: parts.count, kept: u32::from(parts.kept) }
    }
}

/// One launch.
pub(in super::super) struct Launch<'a> {
    /// The kernel.
    pub(in super::super) function: Function,
    /// Blocks.
    pub(in super::super) grid: [u32; 3],
    /// Threads of a block.
    pub(in super::super) threads: u32,
    /// Bytes of dynamic shared memory of a block.
    pub(in super::super) shared: u32,
    /// The parameter struct's bytes.
    pub(in super::super) params: &'a [u8],
    /// Addresses of the bindings, 0 where absent.
    pub(in super::super) pointers: &'a [u64],
    /// Maps of operands, behind them.
    pub(in super::super) maps: &'a [TensorMap],
    /// Where tiles are in parts, last.
    pub(in super::super) partials: Option<Partials>,
}

impl Stream {
    /// Puts a kernel into the stream.
    ///
    /// # Safety
    /// The kernel takes `params` by value, then `pointers`, `maps` and `partials` in order, and what it reads and writes through
    /// them lies in live device memory, also when a graph that recorded the launch runs again.
    pub(in super::super) unsafe fn launch(&self, launch: &Launch<'_>) -> Call<()> {
        let mut arguments = [std::ptr::null_mut::<c_void>(); 1 + crate::limits::MAX_BINDINGS + MAX_MAPS + 1];
        let named = 1 + launch.pointers.len() + launch.maps.len();
        let count = named + usize::from(launch.partials.is_some());
        if count > arguments.len() {
            return Err(Failure::Range);
        }
        arguments[0] = launch.params.as_ptr().cast_mut().cast();
        for (argument, pointer) in arguments[1..].iter_mut().zip(launch.pointers) {
            *argument = std::ptr::from_ref(pointer).cast_mut().cast();
        }
        for (argument, map) in arguments[1 + launch.pointers.len()..].iter_mut().zip(launch.maps) {
            *argument = std::ptr::from_ref(&map.0).cast_mut().cast();
        }
        if let Some(partials) = &launch.partials {
            arguments[named] = std::ptr::from_ref(partials).cast_mut().cast();
        }
        let [x, y, z] = launch.grid;
        let (grid, block) = ((x, y, z), (launch.threads, 1, 1));
        let handle = launch.function.0;
        // SAFETY: the driver copies the arguments before it returns; the rest is the caller's promise.
        Ok(unsafe { result::launch_kernel(handle, grid, block, launch.shared, self.handle, &mut arguments[..count]) }?)
    }
}
