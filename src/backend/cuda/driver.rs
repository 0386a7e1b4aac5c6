//! The CUDA driver behind handles that own what they name: the only file that calls it beside `tensor_map.rs`, and, with the
//! launches, the only ones of the library that need `unsafe`. Nothing here knows plans, kernels or this program's
//! errors: a call that fails gives a [`Failure`].
//!
//! A handle keeps its context alive and makes it current before each call, so that a backend may move between
//! threads and two backends may share a card. No events are attached to memory: order is the one stream's.
#![allow(unsafe_code)]

use crate::abi::table::tma::MAX_MAPS;
use cudarc::driver::{result, sys};
use std::ffi::{CStr, c_void};
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Bytes of the log that the driver may write when it refuses a module.
const LOG_BYTES: usize = 8 << 10;
/// For so long the wait for a list's end asks without pause, then it sleeps between questions: of a short list a sleep would be
/// a large part.
pub(super) const SPIN: Duration = Duration::from_micros(500);
/// See [`SPIN`].
const PAUSE: Duration = Duration::from_micros(50);

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

/// A range of device memory.
pub(super) struct DeviceMemory {
    context: Arc<Context>,
    at: sys::CUdeviceptr,
    bytes: u64,
}

impl DeviceMemory {
    /// `bytes` of device memory, at least one, zeroed in the order of `stream`.
    pub(super) fn zeroed(stream: &Stream, bytes: u64) -> Call<DeviceMemory> {
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
    pub(super) fn address(&self) -> u64 {
        self.at
    }

    /// Its size.
    pub(super) fn bytes(&self) -> u64 {
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
pub(super) struct Staging {
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
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// `bytes` of pinned memory.
    pub(super) fn new(context: &Arc<Context>, bytes: usize) -> Call<Staging> {
        context.bind()?;
        // SAFETY: owned by the value made here. No flags: write-combined memory would be slow to read.
        let at = unsafe { result::malloc_host(bytes, 0) }?.cast::<u8>();
        // SAFETY: `bytes` were just allocated; from here on they are initialised.
        unsafe { at.write_bytes(0, bytes) };
        Ok(Staging { context: context.clone(), at, bytes, busy: false })
    }

    /// Copies `from` into `to` at `offset`, in pieces; returns when the last piece is under way.
    pub(super) fn upload(&mut self, stream: &Stream, to: &DeviceMemory, offset: u64, from: &[u8]) -> Call<()> {
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
    pub(super) fn download(&mut self, stream: &Stream, from: &DeviceMemory, offset: u64, into: &mut [u8]) -> Call<()> {
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

fn check(memory: &DeviceMemory, offset: u64, len: usize) -> Call<()> {
    match offset.checked_add(len as u64) {
        Some(end) if end <= memory.bytes => Ok(()),
        _ => Err(Failure::Range),
    }
}

/// A mark in a stream that the host can wait for.
pub(super) struct Event(sys::CUevent);

/// One queue of work of a device.
pub(super) struct Stream {
    context: Arc<Context>,
    handle: sys::CUstream,
    /// Marks the end of the last transfer.
    done: Event,
    /// Longest wait.
    patience: Duration,
}

// SAFETY: streams and events may be used from any thread whose current context is theirs.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Send for Event {}

impl Stream {
    /// A stream of its own, which the default stream of others does not wait for.
    pub(super) fn new(context: &Arc<Context>, patience: Duration) -> Call<Stream> {
        context.bind()?;
        let handle = result::stream::create(result::stream::StreamKind::NonBlocking)?;
        let mut stream = Stream { context: context.clone(), handle, done: Event(std::ptr::null_mut()), patience };
        stream.done = stream.event()?;
        Ok(stream)
    }

    /// Waits at most so long from now on.
    pub(super) fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// The end of the last transfer through this stream.
    pub(super) fn done(&self) -> &Event {
        &self.done
    }

    /// A new event; the caller gives it back with [`Stream::forget`].
    pub(super) fn event(&self) -> Call<Event> {
        self.context.bind()?;
        Ok(Event(result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?))
    }

    /// Gives an event back.
    pub(super) fn forget(&self, event: &Event) {
        if self.context.can_free() && !event.0.is_null() {
            // SAFETY: made by `event`; the caller has no further use for it.
            let _ = unsafe { result::event::destroy(event.0) };
        }
    }

    /// Copies `bytes` from one allocation to another, behind everything in the stream.
    pub(super) fn copy(
        &self,
        from: &DeviceMemory,
        read: u64,
        to: &DeviceMemory,
        written: u64,
        bytes: usize,
    ) -> Call<()> {
        check(from, read, bytes)?;
        check(to, written, bytes)?;
        self.context.bind()?;
        // SAFETY: both ranges lie in their allocations (checked above), which the stream outlives.
        Ok(unsafe { result::memcpy_dtod_async(to.at + written, from.at + read, bytes, self.handle) }?)
    }

    /// Puts the mark behind everything in the stream.
    pub(super) fn mark(&self, event: &Event) -> Call<()> {
        self.context.bind()?;
        // SAFETY: both handles are live.
        Ok(unsafe { result::event::record(event.0, self.handle) }?)
    }

    /// What is put into this stream from now on begins when the mark, of whatever stream, is reached.
    pub(super) fn after(&self, event: &Event) -> Call<()> {
        self.context.bind()?;
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: both handles are live.
        Ok(unsafe { result::stream::wait_event(self.handle, event.0, flags) }?)
    }

    /// Waits for the mark. A device that does not reach it in time is given up for good.
    pub(super) fn wait(&self, event: &Event) -> Call<()> {
        self.wait_for(event, 1, SPIN)
    }

    /// Like [`Stream::wait`], with `times` the patience; asks without pause only for `spin`.
    pub(super) fn wait_for(&self, event: &Event, times: u32, spin: Duration) -> Call<()> {
        let patience = self.patience.saturating_mul(times);
        self.context.bind()?;
        let began = Instant::now();
        loop {
            // SAFETY: the event is live.
            match unsafe { result::event::query(event.0) } {
                Ok(()) => return Ok(()),
                Err(e) if e.0 == sys::CUresult::CUDA_ERROR_NOT_READY => {}
                Err(e) => return Err(e.into()),
            }
            let waited = began.elapsed();
            if waited > patience {
                self.context.abandoned.store(true, Ordering::Relaxed);
                return Err(Failure::Timeout(patience));
            }
            if waited > spin {
                std::thread::sleep(PAUSE);
            } else {
                std::thread::yield_now();
            }
        }
    }

    /// Records what `work` puts into the stream instead of running it.
    pub(super) fn capture(&self, work: impl FnOnce() -> Call<()>) -> Call<Graph> {
        self.context.bind()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is live and not capturing: captures begin and end in this function.
        unsafe { result::stream::begin_capture(self.handle, mode) }?;
        let recorded = work();
        // SAFETY: begun above; ended whatever `work` met.
        let graph = unsafe { result::stream::end_capture(self.handle) };
        let graph = graph?;
        // SAFETY: `graph` was just made; its executable form does not refer to it.
        let made = unsafe { result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)) };
        // SAFETY: as above; destroyed once.
        let _ = unsafe { result::graph::destroy(graph) };
        let graph = Graph { context: self.context.clone(), handle: made? };
        recorded.map(|()| graph)
    }

    /// Puts a recorded graph into the stream.
    pub(super) fn replay(&self, graph: &Graph) -> Call<()> {
        self.context.bind()?;
        // SAFETY: both handles are live.
        Ok(unsafe { result::graph::launch(graph.handle, self.handle) }?)
    }

    /// Puts a kernel into the stream.
    ///
    /// # Safety
    /// The kernel takes `params` by value, then `pointers`, `maps` and `partials` in order, and what it reads and writes through
    /// them lies in live device memory, also when a graph that recorded the launch runs again.
    pub(super) unsafe fn launch(&self, launch: &Launch<'_>) -> Call<()> {
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

impl Drop for Stream {
    fn drop(&mut self) {
        self.forget(&self.done);
        if self.context.can_free() {
            // SAFETY: made by `new`, destroyed once.
            let _ = unsafe { result::stream::destroy(self.handle) };
        }
    }
}

/// What the driver made of an operand for the tensor memory accelerator; kernels take it by value.
#[derive(Clone, Copy)]
pub(super) struct TensorMap(sys::CUtensorMap);

impl TensorMap {
    /// As the driver wrote it.
    pub(super) fn new(made: sys::CUtensorMap) -> TensorMap {
        TensorMap(made)
    }
}

/// One launch.
pub(super) struct Launch<'a> {
    /// The kernel.
    pub(super) function: Function,
    /// Blocks.
    pub(super) grid: [u32; 3],
    /// Threads of a block.
    pub(super) threads: u32,
    /// Bytes of dynamic shared memory of a block.
    pub(super) shared: u32,
    /// The parameter struct's bytes.
    pub(super) params: &'a [u8],
    /// Addresses of the bindings, 0 where absent.
    pub(super) pointers: &'a [u64],
    /// Maps of operands, behind them.
    pub(super) maps: &'a [TensorMap],
    /// Address of memory for parts of sums, last.
    pub(super) partials: Option<u64>,
}

/// A recorded list of launches.
pub(super) struct Graph {
    context: Arc<Context>,
    handle: sys::CUgraphExec,
}

// SAFETY: used by one thread at a time, with the context current.
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.context.can_free() {
            // SAFETY: made by `capture`, destroyed once.
            let _ = unsafe { result::graph::exec_destroy(self.handle) };
        }
    }
}

/// A loaded module. Its functions are valid as long as it lives.
pub(super) struct Module {
    context: Arc<Context>,
    handle: sys::CUmodule,
}

// SAFETY: modules may be used from any thread whose current context is theirs.
unsafe impl Send for Module {}

/// A kernel of a module.
#[derive(Clone, Copy)]
pub(super) struct Function(sys::CUfunction);

// SAFETY: as for the module.
unsafe impl Send for Function {}

impl Module {
    /// Compiles PTX for the context's device; the driver's log comes with a failure.
    pub(super) fn load(context: &Arc<Context>, ptx: &CStr) -> Result<Module, (Failure, String)> {
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
    pub(super) fn function(&self, name: &CStr, shared: u32) -> Call<Function> {
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
