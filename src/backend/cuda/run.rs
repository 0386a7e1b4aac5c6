//! Command lists: ranges resolved to addresses once, then recorded as one graph for each bounded segment.
#![allow(unsafe_code)]

use super::Gpu;
use super::driver::{DeviceMemory, Event, Failure, Function, Graph, Launch, Partials, SPIN, Stream, TensorMap, encode};
use super::faults::Faults;
use super::memory::Memory;
use super::modules::Modules;
use crate::abi::table::tma::{self, Map, parts};
use crate::abi::table::{self, cuda};
use crate::abi::{BackendKind, Params, operands};
use crate::backend::{BufferId, Stop, segments};
use crate::error::{Error, Kind, Result};
use crate::extent;
use crate::limits::{CUDA_SEGMENT_BYTES, CUDA_SEGMENT_FLOPS, MAX_BINDINGS};
use crate::plan::command::Dispatch;
use std::ops::Range;
use std::time::{Duration, Instant};

/// One launch, ready to start.
struct Step {
    function: Function,
    params: Params,
    /// Addresses of the bindings, 0 where absent; the first `count` count.
    pointers: [u64; MAX_BINDINGS],
    count: usize,
    maps: Vec<TensorMap>,
    /// Where the kernel's tiles are in parts.
    partials: Option<Partials>,
    grid: [u32; 3],
    threads: u32,
    shared: u32,
    label: String,
}

/// Steps that are started together.
struct Segment {
    steps: Range<usize>,
    /// The steps recorded; `None` where they are started one by one.
    graph: Option<Graph>,
}

/// A prepared list.
pub(super) struct List {
    steps: Vec<Step>,
    segments: Vec<Segment>,
    /// For parts of sums; launches take it one after another, and each leaves it as it was. Kept for their sake alone.
    _partials: Option<DeviceMemory>,
}

/// How lists are started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Starting {
    /// A graph for each segment.
    #[default]
    Graphs,
    /// Kernel by kernel, because the driver would not record: its reason.
    Plain(String),
    /// Kernel by kernel, each waited for.
    Synchronous,
}

/// A command's step without its kernel: whatever the kernel will read and write lies inside its buffers.
fn resolve(command: &Dispatch, memory: &Memory, slots: &[BufferId]) -> Result<([u64; MAX_BINDINGS], cuda::Launch)> {
    let bad = |why: String| {
        let what = format!("{}: {} {}: {why}", command.label, command.stem.name(), command.variant);
        Error::new(Kind::Internal, "cuda", what)
    };
    let declared = command.stem.bindings();
    if command.params.stem() != command.stem || command.bindings.len() != declared.len() {
        return Err(bad(format!("{} bindings, parameters {:?}", command.bindings.len(), command.params)));
    }
    let row = table::find(BackendKind::Cuda, command.stem, command.variant);
    let (Some(row), Some(launch)) = (row, cuda::find(command.stem, command.variant)) else {
        return Err(bad("no such kernel".into()));
    };
    let most = crate::limits::MAX_GRID_DIM;
    if command.grid.iter().any(|&g| g == 0 || g > most) {
        return Err(bad(format!("grid {:?}, at most {most} a side", command.grid)));
    }
    let needs = operands::operands(&command.params, command.types, row);
    let mut pointers = [0; MAX_BINDINGS];
    for (i, (binding, range)) in declared.iter().zip(&command.bindings).enumerate() {
        let (range, need) = match (range, needs[i]) {
            (None, None) => continue,
            (Some(range), Some(need)) => (range, need),
            (None, Some(_)) => return Err(bad(format!("`{}` is missing", binding.name))),
            (Some(_), None) => return Err(bad(format!("`{}` is not wanted", binding.name))),
        };
        let slot = slots.get(range.slot.0 as usize).ok_or_else(|| bad(format!("no slot {}", range.slot.0)))?;
        let buffer = memory.get(*slot)?;
        let inside = range.offset.checked_add(range.bytes).is_some_and(|end| end <= buffer.bytes());
        let fits = range.bytes >= need.bytes && range.offset.is_multiple_of(extent::ARENA_ALIGN);
        if !inside || !fits {
            return Err(bad(format!(
                "`{}` is {} bytes at {} of a buffer of {}; the kernel needs {} at a multiple of {}",
                binding.name,
                range.bytes,
                range.offset,
                buffer.bytes(),
                need.bytes,
                extent::ARENA_ALIGN
            )));
        }
        pointers[i] = buffer.address() + range.offset;
    }
    Ok((pointers, *launch))
}

/// The blocks that take all of `grid` among them, one a processor.
fn staying(grid: [u32; 3], processors: u32) -> [u32; 3] {
    let tiles = grid.iter().fold(1u32, |all, &side| all.saturating_mul(side));
    [tiles.min(processors.max(1)), 1, 1]
}

fn start(stream: &Stream, step: &Step) -> Result<(), Failure> {
    let launch = Launch {
        function: step.function,
        grid: step.grid,
        threads: step.threads,
        shared: step.shared,
        params: step.params.bytes(),
        pointers: &step.pointers[..step.count],
        maps: &step.maps,
        partials: step.partials,
    };
    // SAFETY: the kernel of a row takes its stem's parameter struct, bindings, maps and partials in order (the generated header
    // and the twin test hold it to that), and its maps describe bindings by the same parameters; `resolve` held each binding to the extent the parameters imply, inside
    // a buffer that outlives the list: the executor discards a list before it frees what the list names.
    unsafe { stream.launch(&launch) }
}

impl Gpu {
    /// Enters what starting `segment` took the host since `began`, where it is a graph.
    fn launched(&mut self, segment: &Segment, began: Instant) {
        if segment.graph.is_some() {
            self.launches.count += 1;
            self.launches.time += began.elapsed();
        }
    }
}

/// Ready for a list: uploads beside the kernels come before it, and those that follow know where it begins.
fn begin(gpu: &mut Gpu) -> Result<()> {
    gpu.faults.check("a run")?;
    let ordered = gpu.copies.iter().try_for_each(|c| gpu.stream.after(c.done()));
    ordered.and_then(|()| gpu.stream.mark(&gpu.begun)).map_err(|e| gpu.faults.error("ordering uploads", e))
}

/// What is uploaded beside the kernels from now on waits for everything before the list that runs, or before now.
pub(super) fn order_uploads(gpu: &mut Gpu) -> Result<()> {
    gpu.faults.check("an upload")?;
    let marked = if gpu.pending.is_none() { gpu.stream.mark(&gpu.begun) } else { Ok(()) };
    let ordered = marked.and_then(|()| gpu.copies.iter().try_for_each(|c| c.after(&gpu.begun)));
    ordered.map_err(|e| gpu.faults.error("ordering uploads", e))
}

/// Waits for what was started.
pub(super) fn finish(gpu: &mut Gpu) -> Result<()> {
    let Some((turn, segments)) = gpu.pending.take() else { return Ok(()) };
    // Segments are meant to be short; the patience is for two of them.
    let waited = gpu.stream.wait_for(&gpu.marks[turn], segments.div_ceil(2).max(1), SPIN);
    waited.map_err(|e| gpu.faults.error("a run", e))
}

impl List {
    /// Compiles what is missing, resolves every range and records the segments.
    pub(super) fn new(
        gpu: &mut Gpu,
        memory: &Memory,
        modules: &mut Modules,
        commands: &[Dispatch],
        slots: &[BufferId],
    ) -> Result<List> {
        gpu.faults.check("preparing a command list")?;
        let mut steps = Vec::with_capacity(commands.len());
        let mut partials: Option<DeviceMemory> = None;
        for c in commands {
            let (pointers, launch) = resolve(c, memory, slots)?;
            let function =
                modules.get(&gpu.context, &mut gpu.faults, c.stem, &launch, c.types).map_err(|e| e.at(&c.label))?;
            let map = |(binding, map): (usize, Map)| encode(&map, pointers[binding], c.types.x, modules.driver());
            let maps: Result<Vec<_>, Failure> = tma::maps(&c.params, c.variant).into_iter().map(map).collect();
            let maps = maps.map_err(|e| gpu.faults.error(format_args!("mapping the operands of {}", c.label), e))?;
            let parts = parts::parts(&c.params, c.variant, gpu.processors);
            if parts.is_some() && partials.is_none() {
                let made = DeviceMemory::zeroed(&gpu.stream, launch.partial_bytes(gpu.processors));
                partials = Some(made.map_err(|e| gpu.faults.error("memory for parts of sums", e))?);
            }
            steps.push(Step {
                function,
                params: c.params,
                pointers,
                count: c.bindings.len(),
                maps,
                partials: parts.zip(partials.as_ref()).map(|(parts, memory)| Partials::new(memory.address(), parts)),
                grid: if launch.stays() { staying(c.grid, gpu.processors) } else { c.grid },
                threads: launch.threads,
                shared: launch.shared,
                label: c.label.clone(),
            });
        }
        let mut list = List { steps, segments: Vec::new(), _partials: partials };
        for range in segments(commands, CUDA_SEGMENT_FLOPS, CUDA_SEGMENT_BYTES) {
            let graph = list.record(gpu, range.clone())?;
            list.segments.push(Segment { steps: range, graph });
        }
        Ok(list)
    }

    /// The steps as a graph; `None` where steps are started one by one.
    fn record(&self, gpu: &mut Gpu, range: Range<usize>) -> Result<Option<Graph>> {
        if gpu.starting != Starting::Graphs {
            return Ok(None);
        }
        let stream = &gpu.stream;
        match stream.capture(|| self.steps[range].iter().try_for_each(|s| start(stream, s))) {
            Ok(graph) => Ok(Some(graph)),
            Err(failure) => {
                let e = gpu.faults.error("recording a command list", failure);
                // Plain launches need neither the memory of a graph nor the feature; a lost device stays lost.
                if e.kind() == Kind::DeviceLost {
                    return Err(e);
                }
                gpu.starting = Starting::Plain(e.message().to_owned());
                Ok(None)
            }
        }
    }

    /// Runs every segment and waits for the last. At most two segments are in flight, so that a lost device is
    /// noticed early.
    pub(super) fn run(&self, gpu: &mut Gpu, stop: &Stop<'_>) -> Result<()> {
        finish(gpu)?;
        begin(gpu)?;
        let synchronous = gpu.starting == Starting::Synchronous;
        let mut before: Option<usize> = None;
        for (i, segment) in self.segments.iter().enumerate() {
            if let Err(e) = stop() {
                // What is in flight ends before its marks are used again.
                if let Some(last) = before {
                    self.finish(gpu, last, last..last + 1, SPIN)?;
                }
                return Err(e);
            }
            let began = Instant::now();
            let mark = &gpu.marks[i % 2];
            let started = match &segment.graph {
                Some(graph) => gpu.stream.replay(graph).map_err(|e| (e, segment.steps.clone())),
                None => self.start_all(&gpu.stream, &gpu.marks[i % 2], segment.steps.clone(), synchronous),
            };
            let marked = started.and_then(|()| gpu.stream.mark(mark).map_err(|e| (e, segment.steps.clone())));
            marked.map_err(|(e, steps)| self.failed(&mut gpu.faults, e, steps))?;
            gpu.launched(segment, began);
            if let Some(previous) = before.replace(i) {
                // The segment just started keeps the device busy: a processor that spun meanwhile would be wasted.
                self.finish(gpu, previous, previous..i + 1, Duration::ZERO)?;
            }
        }
        match before {
            Some(last) => self.finish(gpu, last, last..last + 1, SPIN),
            None => Ok(()),
        }
    }

    /// Puts every segment into the stream, behind all uploads, and waits for none: at most this list and the one
    /// started before it are under way.
    pub(super) fn start(&self, gpu: &mut Gpu, stop: &Stop<'_>) -> Result<()> {
        let turn = gpu.pending.map_or(0, |(turn, _)| 1 - turn);
        stop()?;
        begin(gpu)?;
        let synchronous = gpu.starting == Starting::Synchronous;
        for segment in &self.segments {
            let began = Instant::now();
            let started = match &segment.graph {
                Some(graph) => gpu.stream.replay(graph).map_err(|e| (e, segment.steps.clone())),
                None => self.start_all(&gpu.stream, &gpu.marks[turn], segment.steps.clone(), synchronous),
            };
            started.map_err(|(e, steps)| self.failed(&mut gpu.faults, e, steps))?;
            gpu.launched(segment, began);
        }
        gpu.stream.mark(&gpu.marks[turn]).map_err(|e| self.failed(&mut gpu.faults, e, 0..self.steps.len()))?;
        // The one before has ended when this wait does.
        finish(gpu)?;
        gpu.pending = Some((turn, u32::try_from(self.segments.len()).unwrap_or(u32::MAX)));
        Ok(())
    }

    /// Starts steps one by one; an error comes with the steps that may have caused it.
    fn start_all(
        &self,
        stream: &Stream,
        mark: &Event,
        steps: Range<usize>,
        synchronous: bool,
    ) -> Result<(), (Failure, Range<usize>)> {
        for i in steps {
            let started = start(stream, &self.steps[i]);
            let done = if synchronous {
                started.and_then(|()| stream.mark(mark)).and_then(|()| stream.wait(mark))
            } else {
                started
            };
            done.map_err(|e| (e, i..i + 1))?;
        }
        Ok(())
    }

    /// Waits for the segment `last`, without pause for `spin`; the segments `in_flight` may have failed.
    fn finish(&self, gpu: &mut Gpu, last: usize, in_flight: Range<usize>, spin: Duration) -> Result<()> {
        let steps = self.segments[in_flight.start].steps.start..self.segments[in_flight.end - 1].steps.end;
        gpu.stream.wait_for(&gpu.marks[last % 2], 1, spin).map_err(|e| self.failed(&mut gpu.faults, e, steps))
    }

    /// The error for a failure of one of `steps`.
    fn failed(&self, faults: &mut Faults, failure: Failure, steps: Range<usize>) -> Error {
        let named = |s: &Step| format!("{} `{}`", s.params.stem().name(), s.label);
        let doing = match &self.steps[steps] {
            [] => "a run".to_owned(),
            [one] => format!("the kernel {}", named(one)),
            [first, .., last] => {
                let hint = "TESSERA_CUDA_SYNC=1 finds out which";
                format!("a kernel from {} to {} ({hint})", named(first), named(last))
            }
        };
        faults.error(doing, failure)
    }
}
