//! Command lists: ranges resolved to bind groups once, then encoded and submitted in bounded segments.

use super::memory::Memory;
use super::pipeline::Pipelines;
use super::shared::{Faults, scoped, wait};
use crate::abi::{BackendKind, Caps};
use crate::backend::{BufferId, Stop, segments};
use crate::error::{Error, Kind, Result};
use crate::extent;
use crate::limits::{WGPU_SEGMENT_BYTES, WGPU_SEGMENT_FLOPS};
use crate::plan::command::Dispatch;
use std::num::NonZeroU64;
use std::ops::Range;

/// One dispatch, ready to encode.
struct Step {
    pipeline: wgpu::ComputePipeline,
    bindings: wgpu::BindGroup,
    /// Offset of its parameters in the list's uniform buffer.
    params: u32,
    grid: [u32; 3],
}

/// A prepared list.
pub(super) struct List {
    steps: Vec<Step>,
    params: wgpu::BindGroup,
    /// Steps of each submission.
    segments: Vec<Range<usize>>,
    /// Bytes of the parameters on the device.
    pub(super) bytes: u64,
}

/// What the device would refuse, said in terms of the command.
fn check(command: &Dispatch, caps: &Caps, memory: &Memory, slots: &[BufferId]) -> Result<()> {
    let bad = |why: String| {
        Error::new(
            Kind::Internal,
            "wgpu",
            format!("{}: {} {}: {why}", command.label, command.stem.name(), command.variant),
        )
    };
    let declared = command.stem.bindings();
    if command.params.stem() != command.stem || command.bindings.len() != declared.len() {
        return Err(bad(format!("{} bindings, parameters {:?}", command.bindings.len(), command.params)));
    }
    if command.grid.iter().any(|&g| g == 0 || g > caps.max_grid) {
        return Err(bad(format!("grid {:?}, at most {} a side", command.grid, caps.max_grid)));
    }
    for (binding, range) in declared.iter().zip(&command.bindings) {
        let Some(range) = range else {
            if binding.optional {
                continue;
            }
            return Err(bad(format!("`{}` is missing", binding.name)));
        };
        if !binding.on(BackendKind::Wgpu) {
            return Err(bad(format!("there is no `{}` here", binding.name)));
        }
        let slot = slots.get(range.slot.0 as usize).ok_or_else(|| bad(format!("no slot {}", range.slot.0)))?;
        let (_, size) = memory.get(*slot)?;
        let inside = range.offset.checked_add(range.bytes).is_some_and(|end| end <= size);
        let fits = range.bytes > 0 && range.bytes % 4 == 0 && range.bytes <= caps.max_binding;
        if !inside || !fits || range.offset % extent::ARENA_ALIGN != 0 {
            return Err(bad(format!(
                "`{}` is {} bytes at {} of a buffer of {size}; a binding starts at a multiple of {} and has at most {}",
                binding.name,
                range.bytes,
                range.offset,
                extent::ARENA_ALIGN,
                caps.max_binding
            )));
        }
    }
    Ok(())
}

impl List {
    /// Compiles what is missing and resolves every range.
    pub(super) fn new(
        device: &wgpu::Device,
        faults: &Faults,
        caps: &Caps,
        memory: &mut Memory,
        pipelines: &mut Pipelines,
        commands: &[Dispatch],
        slots: &[BufferId],
    ) -> Result<List> {
        for command in commands {
            check(command, caps, memory, slots)?;
        }
        let limits = device.limits();
        let align = u64::from(limits.min_uniform_buffer_offset_alignment);
        // One stride for all, so that the binding's size is one number.
        let largest = commands.iter().map(|c| c.params.bytes().len() as u64).max().unwrap_or(16);
        let stride = extent::round_up(largest, align);
        let bytes = extent::product("parameters", &[stride, commands.len().max(1) as u64])?;
        extent::to_u32("parameters of a list", bytes)?;
        let mut content = vec![0u8; extent::to_usize("parameters", bytes)?];
        for (chunk, command) in content.chunks_exact_mut(extent::to_usize("stride", stride)?).zip(commands) {
            let params = command.params.bytes();
            chunk[..params.len()].copy_from_slice(params);
        }
        let mut kernels = Vec::with_capacity(commands.len());
        for c in commands {
            kernels.push(pipelines.get(device, faults, c.stem, c.variant, c.types).map_err(|e| e.at(&c.label))?);
        }
        let pipelines = &*pipelines;
        memory.account.take(bytes, "parameters")?;
        let held = &*memory;
        let make = || -> Result<List> {
            let uniform = device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("params"),
                size: bytes,
                usage: wgpu::BufferUsages::UNIFORM,
                mapped_at_creation: true,
            });
            let mapped = uniform.get_mapped_range_mut(..).map(|mut view| view.copy_from_slice(&content));
            mapped.map_err(|e| Error::new(Kind::Memory, "wgpu", format!("parameters of {bytes} bytes: {e}")))?;
            uniform.unmap();
            let params = device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some("params"),
                layout: pipelines.params(),
                entries: &[wgpu::BindGroupEntry {
                    binding: 0,
                    resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer: &uniform,
                        offset: 0,
                        size: NonZeroU64::new(stride),
                    }),
                }],
            });
            let mut steps = Vec::with_capacity(commands.len());
            for ((command, pipeline), at) in commands.iter().zip(kernels).zip(0u64..) {
                let mut entries = Vec::with_capacity(command.bindings.len());
                for (number, (binding, range)) in command.stem.bindings().iter().zip(&command.bindings).enumerate() {
                    if !binding.on(BackendKind::Wgpu) {
                        continue;
                    }
                    let buffer = match range {
                        None => held.absent(number),
                        Some(r) => wgpu::BufferBinding {
                            buffer: held.get(slots[r.slot.0 as usize])?.0,
                            offset: r.offset,
                            size: NonZeroU64::new(r.bytes),
                        },
                    };
                    entries.push(wgpu::BindGroupEntry {
                        binding: extent::to_u32("binding", number as u64)?,
                        resource: wgpu::BindingResource::Buffer(buffer),
                    });
                }
                let bindings = device.create_bind_group(&wgpu::BindGroupDescriptor {
                    label: Some(&command.label),
                    layout: pipelines.bindings(command.stem)?,
                    entries: &entries,
                });
                let params = extent::to_u32("parameters", at * stride)?;
                steps.push(Step { pipeline, bindings, params, grid: command.grid });
            }
            let segments = segments(commands, WGPU_SEGMENT_FLOPS, WGPU_SEGMENT_BYTES);
            Ok(List { steps, params, segments, bytes })
        };
        let made = scoped(device, faults, "preparing a command list", make).and_then(|list| list);
        made.inspect_err(|_| memory.account.give(bytes))
    }

    /// Submits every segment; `before` is the submission still to be waited for, before and after. Where `steady`,
    /// at most two segments are in flight, so that a lost device is noticed early; else nothing is waited for but
    /// `before`, so that the host can go on while the list runs.
    pub(super) fn start(
        &self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        faults: &Faults,
        before: &mut Option<wgpu::SubmissionIndex>,
        steady: bool,
        stop: &Stop<'_>,
    ) -> Result<()> {
        faults.check("a run")?;
        let mut earlier = before.clone();
        for segment in &self.segments {
            stop()?;
            let submission = scoped(device, faults, "a run", || {
                let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("run") });
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                for step in &self.steps[segment.clone()] {
                    pass.set_pipeline(&step.pipeline);
                    pass.set_bind_group(0, &step.bindings, &[]);
                    pass.set_bind_group(1, &self.params, &[step.params]);
                    let [x, y, z] = step.grid;
                    pass.dispatch_workgroups(x, y, z);
                }
                drop(pass);
                queue.submit([encoder.finish()])
            })?;
            let previous = before.replace(submission);
            if let Some(previous) = earlier.take().or(previous.filter(|_| steady)) {
                wait(device, faults, "a run", Some(previous))?;
            }
        }
        Ok(())
    }
}
