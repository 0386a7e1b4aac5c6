//! The kernel table: stems, their bindings in order, their parameter structs, and per backend the
//! variants with what each supports. `shaders/shared/abi.wgsl` and `kernels/shared/abi.cuh` are generated
//! from here.
//!
//! A stem is a meaning with declared optional parts; a variant is one way to compute it on one backend.

pub mod generate;
pub mod operands;
pub mod params;
pub mod table;

use crate::graph::dtype::DType;
pub use params::{Control, Item, Params};

/// A kernel's meaning. One stem, one shader of the same name, one cpu twin, one problem file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stem {
    /// 2-D convolution, NHWC, two sources, bias, table row, residual, activation.
    Conv2d,
    /// `y = act(x W + bias) + residual`, GEGLU.
    Gemm,
    /// Multi-head softmax attention.
    Attention,
    /// Per-channel (count, mean, M2) of fixed pixel blocks.
    GroupNormStats,
    /// Merges partial statistics in fixed order into per-channel (a, b).
    NormFinalize,
    /// `y = act(x * a + b)` per channel, two sources.
    NormApply,
    /// Layer norm over channels.
    LayerNorm,
    /// Sinusoidal embedding.
    TimeEmbedding,
    /// Elementwise combination, channel slice, type change.
    Pointwise,
    /// Weighted sums of a few neighbours along one axis, by a table.
    Resample,
    /// Moves of pixels and channels.
    Rearrange,
    /// `y = act(x * (1 + gamma) + beta)`, gamma and beta for every value.
    Modulate,
}

/// Whether a kernel reads or writes a binding, and what lies there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// An activation that is read (bound read-write on wgpu all the same, see `docs/decisions`).
    Read,
    /// An activation that is written.
    Write,
    /// A packed weight or vector: read-only buffer.
    Weight,
    /// The control buffer: status word (atomic) and items.
    Control,
}

/// One binding of a stem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    /// Name, the same in Rust, WGSL and CUDA.
    pub name: &'static str,
    /// Direction and memory class.
    pub access: Access,
    /// The stem runs without it.
    pub optional: bool,
    /// The only backend whose kernels have it; all do where there is none.
    pub only: Option<BackendKind>,
}

impl Binding {
    /// Whether the kernels of `kind` have it.
    pub fn on(&self, kind: BackendKind) -> bool {
        self.only.is_none_or(|only| only == kind)
    }
}

const fn b(name: &'static str, access: Access, optional: bool) -> Binding {
    Binding { name, access, optional, only: None }
}

impl Stem {
    /// Every stem.
    pub const ALL: [Stem; 12] = [
        Stem::Conv2d,
        Stem::Gemm,
        Stem::Attention,
        Stem::GroupNormStats,
        Stem::NormFinalize,
        Stem::NormApply,
        Stem::LayerNorm,
        Stem::TimeEmbedding,
        Stem::Pointwise,
        Stem::Resample,
        Stem::Rearrange,
        Stem::Modulate,
    ];

    /// File stem of the shader, the CUDA kernel, the cpu twin and the problem file.
    pub fn name(self) -> &'static str {
        match self {
            Stem::Conv2d => "conv2d",
            Stem::Gemm => "gemm",
            Stem::Attention => "attention",
            Stem::GroupNormStats => "group_norm_stats",
            Stem::NormFinalize => "norm_finalize",
            Stem::NormApply => "norm_apply",
            Stem::LayerNorm => "layer_norm",
            Stem::TimeEmbedding => "time_embedding",
            Stem::Pointwise => "pointwise",
            Stem::Resample => "resample",
            Stem::Rearrange => "rearrange",
            Stem::Modulate => "modulate",
        }
    }

    /// Bindings in order; their index is the binding number in every shader.
    pub fn bindings(self) -> &'static [Binding] {
        use Access::{Control, Read, Weight, Write};
        match self {
            Stem::Conv2d => {
                const B: [Binding; 9] = [
                    b("x", Read, false),
                    b("x2", Read, true),
                    b("weight", Weight, false),
                    b("bias", Weight, false),
                    b("row_bias", Read, true),
                    b("residual", Read, true),
                    b("y", Write, false),
                    b("control", Control, false),
                    // Behind the others, whose numbers are in the shaders: these have no ninth.
                    Binding { only: Some(BackendKind::Cuda), ..b("statistics", Write, true) },
                ];
                &B
            }
            Stem::Gemm => {
                const B: [Binding; 6] = [
                    b("x", Read, false),
                    b("weight", Weight, false),
                    b("bias", Weight, false),
                    b("residual", Read, true),
                    b("y", Write, false),
                    b("control", Control, false),
                ];
                &B
            }
            Stem::Attention => {
                const B: [Binding; 7] = [
                    b("q", Read, false),
                    b("k", Read, false),
                    b("v", Read, false),
                    b("rel", Read, true),
                    b("y", Write, false),
                    b("scratch", Write, true),
                    b("control", Control, false),
                ];
                &B
            }
            Stem::GroupNormStats => {
                const B: [Binding; 4] = [
                    b("x", Read, false),
                    b("x2", Read, true),
                    b("partials", Write, false),
                    b("control", Control, false),
                ];
                &B
            }
            Stem::NormFinalize => {
                const B: [Binding; 4] = [
                    b("partials", Read, false),
                    b("affine", Weight, false),
                    b("ab", Write, false),
                    b("control", Control, false),
                ];
                &B
            }
            Stem::NormApply => {
                const B: [Binding; 5] = [
                    b("x", Read, false),
                    b("x2", Read, true),
                    b("ab", Read, false),
                    b("y", Write, false),
                    b("control", Control, false),
                ];
                &B
            }
            Stem::LayerNorm => {
                const B: [Binding; 4] = [
                    b("x", Read, false),
                    b("affine", Weight, false),
                    b("y", Write, false),
                    b("control", Control, false),
                ];
                &B
            }
            Stem::TimeEmbedding => {
                const B: [Binding; 3] = [b("t", Read, false), b("y", Write, false), b("control", Control, false)];
                &B
            }
            Stem::Pointwise => {
                const B: [Binding; 5] = [
                    b("a", Read, false),
                    b("b", Read, true),
                    b("table", Read, true),
                    b("y", Write, false),
                    b("control", Control, false),
                ];
                &B
            }
            Stem::Resample => {
                const B: [Binding; 4] =
                    [b("x", Read, false), b("table", Read, false), b("y", Write, false), b("control", Control, false)];
                &B
            }
            Stem::Rearrange => {
                const B: [Binding; 3] = [b("x", Read, false), b("y", Write, false), b("control", Control, false)];
                &B
            }
            Stem::Modulate => {
                const B: [Binding; 4] =
                    [b("x", Read, false), b("gb", Read, false), b("y", Write, false), b("control", Control, false)];
                &B
            }
        }
    }
}

/// Element types of one launch: activations in, weights, activations out. Residual and second sources
/// have the type of `x` (second source) and `y` (residual); tables, biases, statistics and (a, b) are f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Types {
    /// Type of `x`, `x2`, `q`, `k`, `v`, `rel`, `a`, `b`, `gb`.
    pub x: DType,
    /// Type of `weight`.
    pub w: DType,
    /// Type of `y` and `residual`.
    pub y: DType,
}

/// Which backend a plan is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BackendKind {
    /// Host cores.
    Cpu,
    /// WGSL through wgpu.
    Wgpu,
    /// PTX through the CUDA driver.
    Cuda,
}

/// What the planner knows of a device: plain data, no handles.
#[derive(Debug, Clone, PartialEq)]
pub struct Caps {
    /// Family of kernels.
    pub kind: BackendKind,
    /// Name for reports.
    pub name: String,
    /// Largest arena chunk (and single buffer), bytes; no value is larger.
    pub max_chunk: u64,
    /// Largest range of one binding, bytes.
    pub max_binding: u64,
    /// Workgroups per grid dimension; `u32::MAX` where there is no grid.
    pub max_grid: u32,
    /// Default storage type of activations and weights.
    pub storage: DType,
    /// Types the device stores.
    pub dtypes: Vec<DType>,
    /// Device memory in bytes where it can be known.
    pub memory: Option<u64>,
    /// A software rasteriser: barriers and workgroup memory are emulated, so kernels without them win.
    pub software: bool,
    /// A CUDA device whose tensor cores read shared memory by themselves (`wgmma`), and may be used so.
    pub wgmma: bool,
    /// One whose tensor memory accelerator may be used beside that.
    pub tma: bool,
    /// A CUDA device that was asked to multiply f32 through tf32: factors of 11 bits, sums of f32.
    pub tf32: bool,
    /// A CUDA device whose convolutions make the statistics of the norms that read them.
    pub statistics: bool,
    /// Processors of a CUDA device; 0 where nobody asks.
    pub processors: u32,
}

impl Caps {
    /// The host's cores: one block, f32.
    pub fn cpu() -> Caps {
        Caps {
            kind: BackendKind::Cpu,
            name: "cpu".into(),
            max_chunk: u64::MAX,
            max_binding: u64::MAX,
            max_grid: u32::MAX,
            storage: DType::F32,
            dtypes: vec![DType::F32, DType::F16, DType::Bf16],
            memory: None,
            software: false,
            wgmma: false,
            tma: false,
            tf32: false,
            statistics: false,
            processors: 0,
        }
    }

    /// The limits every WebGPU implementation grants (also what a plan for an unknown GPU assumes).
    pub fn wgpu_default() -> Caps {
        Caps {
            kind: BackendKind::Wgpu,
            name: "wgpu (default limits)".into(),
            max_chunk: 256 << 20,
            max_binding: 128 << 20,
            max_grid: crate::limits::MAX_GRID_DIM,
            storage: DType::F16,
            dtypes: vec![DType::F32, DType::F16],
            memory: None,
            software: false,
            wgmma: false,
            tma: false,
            tf32: false,
            statistics: false,
            processors: 0,
        }
    }

    /// Any CUDA device that runs the kernels (also what a plan without one assumes).
    pub fn cuda_default() -> Caps {
        Caps {
            kind: BackendKind::Cuda,
            name: "cuda (any device)".into(),
            max_chunk: u64::MAX,
            max_binding: u64::MAX,
            max_grid: crate::limits::MAX_GRID_DIM,
            storage: DType::F16,
            dtypes: vec![DType::F32, DType::F16, DType::Bf16],
            memory: None,
            software: false,
            wgmma: false,
            tma: false,
            tf32: false,
            statistics: true,
            processors: 0,
        }
    }
}
