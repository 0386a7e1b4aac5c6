//! From (stem, variant, types) to WGSL text and compiled pipelines, each made once.

use super::preprocess::{self, Definitions};
use super::shared::{Faults, scoped};
use crate::abi::table::wgpu::{PERMUTATIONS, Permutation};
use crate::abi::{Access, BackendKind, Stem, Types};
use crate::error::{Error, Kind, Result};
use crate::graph::DType;
use std::collections::HashMap;

/// The shader of a stem, before preprocessing.
fn source(stem: Stem) -> &'static str {
    match stem {
        Stem::Conv2d => include_str!("../../../shaders/conv2d.wgsl"),
        Stem::Gemm => include_str!("../../../shaders/gemm.wgsl"),
        Stem::Attention => include_str!("../../../shaders/attention.wgsl"),
        Stem::GroupNormStats => include_str!("../../../shaders/group_norm_stats.wgsl"),
        Stem::NormFinalize => include_str!("../../../shaders/norm_finalize.wgsl"),
        Stem::NormApply => include_str!("../../../shaders/norm_apply.wgsl"),
        Stem::LayerNorm => include_str!("../../../shaders/layer_norm.wgsl"),
        Stem::TimeEmbedding => include_str!("../../../shaders/time_embedding.wgsl"),
        Stem::Pointwise => include_str!("../../../shaders/pointwise.wgsl"),
        Stem::Resample => include_str!("../../../shaders/resample.wgsl"),
        Stem::Rearrange => include_str!("../../../shaders/rearrange.wgsl"),
        Stem::Modulate => include_str!("../../../shaders/modulate.wgsl"),
    }
}

/// A file of `shaders/shared/`.
fn shared(name: &str) -> Option<&'static str> {
    match name {
        "abi" => Some(include_str!("../../../shaders/shared/abi.wgsl")),
        "load_store" => Some(include_str!("../../../shaders/shared/load_store.wgsl")),
        "act" => Some(include_str!("../../../shaders/shared/act.wgsl")),
        "tile64" => Some(include_str!("../../../shaders/shared/tile64.wgsl")),
        _ => None,
    }
}

fn permutation(stem: Stem, variant: &str) -> Result<&'static Permutation> {
    PERMUTATIONS.iter().find(|p| p.stem == stem && p.variant == variant).ok_or_else(|| {
        Error::new(Kind::Internal, "wgpu", format!("{} has no variant `{variant}` on wgpu", stem.name()))
    })
}

/// The WGSL of one permutation, ready for a compiler.
pub fn wgsl(stem: Stem, variant: &str, types: Types) -> Result<String> {
    let p = permutation(stem, variant)?;
    let mut d = Definitions::default();
    for flag in p.flags {
        d.flag(flag);
    }
    for (name, value) in p.constants {
        d.constant(name, value);
    }
    for (flag, dtype) in [("X_F16", types.x), ("W_F16", types.w), ("Y_F16", types.y)] {
        match dtype {
            DType::F32 => {}
            DType::F16 => d.flag(flag),
            DType::Bf16 => {
                return Err(Error::new(Kind::Device, "wgpu", "bf16 is not stored by WGSL kernels")
                    .advise("use f16 or f32, or --device cpu"));
            }
        }
    }
    if stem.bindings().iter().any(|b| b.name == "y") {
        d.flag("STORES_Y");
    }
    preprocess::expand(stem.name(), source(stem), &d, &shared)
}

/// Layouts of one stem: its own bindings in group 0, the parameters in group 1.
struct StemLayout {
    bindings: wgpu::BindGroupLayout,
    pipeline: wgpu::PipelineLayout,
}

/// Every pipeline of one device.
pub(super) struct Pipelines {
    /// Group 1: one uniform with a dynamic offset, the same for all stems.
    params: wgpu::BindGroupLayout,
    layouts: HashMap<Stem, StemLayout>,
    compiled: HashMap<(Stem, &'static str, Types), wgpu::ComputePipeline>,
}

fn entry(binding: u32, ty: wgpu::BufferBindingType, has_dynamic_offset: bool) -> wgpu::BindGroupLayoutEntry {
    wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset, min_binding_size: None },
        count: None,
    }
}

impl Pipelines {
    pub(super) fn new(device: &wgpu::Device) -> Pipelines {
        let params = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some("params"),
            entries: &[entry(0, wgpu::BufferBindingType::Uniform, true)],
        });
        let mut layouts = HashMap::new();
        for stem in Stem::ALL {
            // Activations are read-write even where they are only read: arena buffers are tracked whole, and
            // two kinds of use of one buffer in one dispatch are refused.
            let entries: Vec<_> = (0u32..)
                .zip(stem.bindings())
                .filter(|(_, b)| b.on(BackendKind::Wgpu))
                .map(|(i, b)| {
                    entry(i, wgpu::BufferBindingType::Storage { read_only: b.access == Access::Weight }, false)
                })
                .collect();
            let bindings = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: Some(stem.name()),
                entries: &entries,
            });
            let pipeline = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(stem.name()),
                bind_group_layouts: &[Some(&bindings), Some(&params)],
                immediate_size: 0,
            });
            layouts.insert(stem, StemLayout { bindings, pipeline });
        }
        Pipelines { params, layouts, compiled: HashMap::new() }
    }

    /// Layout of group 1.
    pub(super) fn params(&self) -> &wgpu::BindGroupLayout {
        &self.params
    }

    fn layout(&self, stem: Stem) -> Result<&StemLayout> {
        self.layouts.get(&stem).ok_or_else(|| Error::new(Kind::Internal, "wgpu", format!("no layout for {stem:?}")))
    }

    /// Layout of group 0 of a stem.
    pub(super) fn bindings(&self, stem: Stem) -> Result<&wgpu::BindGroupLayout> {
        Ok(&self.layout(stem)?.bindings)
    }

    /// The pipeline of a permutation, compiled at its first use.
    pub(super) fn get(
        &mut self,
        device: &wgpu::Device,
        faults: &Faults,
        stem: Stem,
        variant: &str,
        types: Types,
    ) -> Result<wgpu::ComputePipeline> {
        let variant = permutation(stem, variant)?.variant;
        if let Some(p) = self.compiled.get(&(stem, variant, types)) {
            return Ok(p.clone());
        }
        let text = wgsl(stem, variant, types)?;
        let label = format!("{} {variant} {}-{}-{}", stem.name(), types.x.name(), types.w.name(), types.y.name());
        let layout = &self.layout(stem)?.pipeline;
        let pipeline = scoped(device, faults, format_args!("compiling {label}"), || {
            let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some(&label),
                source: wgpu::ShaderSource::Wgsl(text.into()),
            });
            device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(&label),
                layout: Some(layout),
                module: &module,
                entry_point: Some("main"),
                // Every kernel writes its workgroup memory before reading it.
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &[],
                    zero_initialize_workgroup_memory: false,
                },
                cache: None,
            })
        })?;
        self.compiled.insert((stem, variant, types), pipeline.clone());
        Ok(pipeline)
    }

    /// Number of pipelines compiled so far.
    pub(super) fn count(&self) -> usize {
        self.compiled.len()
    }
}
