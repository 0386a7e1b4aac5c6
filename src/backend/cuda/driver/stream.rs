//! The queue of a device's work: marks in it, waits, recorded launches.
#![allow(unsafe_code)]

use super::memory::check;
use super::{Call, Context, DeviceMemory, Failure};
use cudarc::driver::{result, sys};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// For so long the wait for a list's end asks without pause, then it sleeps between questions: of a short list a sleep would be
/// a large part.
pub(in super::super) const SPIN: Duration = Duration::from_micros(500);
/// See [`SPIN`].
const PAUSE: Duration = Duration::from_micros(50);

/// A mark in a stream that the host can wait for.
pub(in super::super) struct Event(sys::CUevent);

/// One queue of work of a device.
pub(in super::super) struct Stream {
    pub(super) context: Arc<Context>,
    pub(super) handle: sys::CUstream,
    /// Marks the end of the last transfer.
    pub(super) done: Event,
    /// Longest wait.
    patience: Duration,
}

// SAFETY: streams and events may be used from any thread whose current context is theirs.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Send for Event {}

impl Stream {
    /// A stream of its own, which the default stream of others does not wait for.
    pub(in super::super) fn new(context: &Arc<Context>, patience: Duration) -> Call<Stream> {
        context.bind()?;
        let handle = result::stream::create(result::stream::StreamKind::NonBlocking)?;
        let mut stream = Stream { context: context.clone(), handle, done: Event(std::ptr::null_mut()), patience };
        stream.done = stream.event()?;
        Ok(stream)
    }

    /// Waits at most so long from now on.
    pub(in super::super) fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// The end of the last transfer through this stream.
    pub(in super::super) fn done(&self) -> &Event {
        &self.done
    }

    /// A new event; the caller gives it back with [`Stream::forget`].
    pub(in super::super) fn event(&self) -> Call<Event> {
        self.context.bind()?;
        Ok(Event(result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?))
    }

    /// Gives an event back.
    pub(in super::super) fn forget(&self, event: &Event) {
        if self.context.can_free() && !event.0.is_null() {
            // SAFETY: made by `event`; the caller has no further use for it.
            let _ = unsafe { result::event::destroy(event.0) };
        }
    }

    /// Copies `bytes` from one allocation to another, behind everything in the stream.
    pub(in super::super) fn copy(
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
    pub(in super::super) fn mark(&self, event: &Event) -> Call<()> {
        self.context.bind()?;
        // SAFETY: both handles are live.
        Ok(unsafe { result::event::record(event.0, self.handle) }?)
    }

    /// What is put into this stream from now on begins when the mark, of whatever stream, is reached.
    pub(in super::super) fn after(&self, event: &Event) -> Call<()> {
        self.context.bind()?;
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: both handles are live.
        Ok(unsafe { result::stream::wait_event(self.handle, event.0, flags) }?)
    }

    /// Waits for the mark. A device that does not reach it in time is given up for good.
    pub(in super::super) fn wait(&self, event: &Event) -> Call<()> {
        self.wait_for(event, 1, SPIN)
    }

    /// Like [`Stream::wait`], with `times` the patience; asks without pause only for `spin`.
    pub(in super::super) fn wait_for(&self, event: &Event, times: u32, spin: Duration) -> Call<()> {
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
    pub(in super::super) fn capture(&self, work: impl FnOnce() -> Call<()>) -> Call<Graph> {
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
    pub(in super::super) fn replay(&self, graph: &Graph) -> Call<()> {
        self.context.bind()?;
        // SAFETY: both handles are live.
        Ok(unsafe { result::graph::launch(graph.handle, self.handle) }?)
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

/// A recorded list of launches.
pub(in super::super) struct Graph {
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
