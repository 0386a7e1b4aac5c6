//! Adapters: which there are, what each lacks, and opening one.

use super::shared::Faults;
use crate::abi::{BackendKind, Caps};
use crate::error::{Error, Kind, Result};
use crate::graph::DType;
use crate::limits;
use std::sync::Arc;

/// One adapter as `tessera devices` prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterInfo {
    /// Number in `--device wgpu:N`.
    pub index: usize,
    /// The device's own name.
    pub name: String,
    /// `vulkan`, `metal` or `dx12`.
    pub interface: String,
    /// Driver name and version.
    pub driver: String,
    /// `discrete`, `integrated`, `virtual`, `software` or `other`.
    pub class: &'static str,
    /// A software rasteriser: slow, and never chosen unasked.
    pub software: bool,
    /// Largest single value, bytes.
    pub max_binding: u64,
    /// What it lacks or how it is limited; empty when nothing is wrong.
    pub lacks: Vec<String>,
    /// Whether it can run the kernels at all.
    pub usable: bool,
}

/// The class of a device and its place in the list: hardware first, software last.
fn class(t: wgpu::DeviceType) -> (&'static str, u8) {
    match t {
        wgpu::DeviceType::DiscreteGpu => ("discrete", 0),
        wgpu::DeviceType::IntegratedGpu => ("integrated", 1),
        wgpu::DeviceType::VirtualGpu => ("virtual", 2),
        wgpu::DeviceType::Other => ("other", 3),
        wgpu::DeviceType::Cpu => ("software", 4),
    }
}

/// Every adapter in the order of their numbers. The order is stable: class first, then as the drivers list them.
fn enumerate() -> Vec<wgpu::Adapter> {
    let backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends,
        // Where a driver tells of its budget (VK_EXT_memory_budget, DXGI), what would go beyond this share of it is an
        // error of the allocation, which a job answers with smaller windows, and not of a later submission.
        memory_budget_thresholds: wgpu::MemoryBudgetThresholds {
            for_resource_creation: Some(limits::WGPU_BUDGET_PERCENT),
            for_device_loss: None,
        },
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let mut adapters = pollster::block_on(instance.enumerate_adapters(backends));
    adapters.sort_by_key(|a| class(a.get_info().device_type).1);
    adapters
}

/// What keeps an adapter from running the kernels (all of them stay within WebGPU's default limits).
fn shortfalls(limits: &wgpu::Limits) -> Vec<String> {
    let need = wgpu::Limits::default();
    let mut out = Vec::new();
    let mut check = |name: &str, have: u64, want: u64| {
        if have < want {
            out.push(format!("{name} is {have}, kernels need {want}"));
        }
    };
    check(
        "storage buffers per stage",
        limits.max_storage_buffers_per_shader_stage.into(),
        limits::WGPU_BINDINGS as u64,
    );
    check(
        "workgroup memory",
        limits.max_compute_workgroup_storage_size.into(),
        need.max_compute_workgroup_storage_size.into(),
    );
    check(
        "workgroup size",
        limits.max_compute_invocations_per_workgroup.into(),
        need.max_compute_invocations_per_workgroup.into(),
    );
    check("workgroups per dimension", limits.max_compute_workgroups_per_dimension.into(), limits::MAX_GRID_DIM.into());
    check("bind groups", limits.max_bind_groups.into(), 2);
    out
}

fn describe(index: usize, adapter: &wgpu::Adapter) -> AdapterInfo {
    let info = adapter.get_info();
    let device_limits = adapter.limits();
    let mut lacks = shortfalls(&device_limits);
    let usable = lacks.is_empty();
    let max_binding = device_limits.max_storage_buffer_binding_size.min(device_limits.max_buffer_size);
    if max_binding < 1 << 30 {
        lacks.push(format!("values of at most {} MiB, so tiles stay small", max_binding >> 20));
    }
    let (class, order) = class(info.device_type);
    AdapterInfo {
        index,
        name: info.name,
        interface: info.backend.to_str().to_owned(),
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        class,
        software: order == 4,
        max_binding,
        lacks,
        usable,
    }
}

/// Every adapter of this machine; software rasterisers come last.
pub fn adapters() -> Vec<AdapterInfo> {
    enumerate().iter().enumerate().map(|(i, a)| describe(i, a)).collect()
}

/// An open device.
pub(super) struct Opened {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) caps: Caps,
    pub(super) faults: Arc<Faults>,
}

/// Opens adapter `index`.
pub(super) fn open(index: usize) -> Result<Opened> {
    let all = enumerate();
    let adapter = all.get(index).ok_or_else(|| {
        let names: Vec<String> =
            all.iter().enumerate().map(|(i, a)| format!("wgpu:{i} is {}", a.get_info().name)).collect();
        let have = if names.is_empty() { "there is none".to_owned() } else { names.join(", ") };
        Error::new(Kind::Device, "wgpu", format!("no adapter {index}: {have}"))
            .advise("`tessera devices` lists what this machine has")
    })?;
    let info = describe(index, adapter);
    if !info.usable {
        return Err(Error::new(Kind::Device, "wgpu", format!("{} lacks: {}", info.name, info.lacks.join("; ")))
            .advise("choose another --device"));
    }
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("tessera"),
        required_features: wgpu::Features::empty(),
        required_limits: adapter.limits(),
        experimental_features: wgpu::ExperimentalFeatures::disabled(),
        // Few large buffers, each asked for once: no sub-allocation blocks beside them.
        memory_hints: wgpu::MemoryHints::MemoryUsage,
        trace: wgpu::Trace::Off,
    };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).map_err(|e| {
        Error::new(Kind::Device, "wgpu", format!("{} does not open: {e}", info.name)).advise("choose another --device")
    })?;
    let faults = Arc::new(Faults::default());
    let (lost, stray) = (Arc::clone(&faults), Arc::clone(&faults));
    device.set_device_lost_callback(move |reason, message| lost.lose(format!("{reason:?}: {message}")));
    device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| stray.remember(e.to_string())));
    let device_limits = device.limits();
    let max_binding = device_limits.max_storage_buffer_binding_size;
    let caps = Caps {
        kind: BackendKind::Wgpu,
        name: format!("wgpu:{index} {}", info.name),
        max_chunk: device_limits.max_buffer_size.min(max_binding),
        max_binding,
        // The table folds grids by MAX_GRID_DIM, whatever more a device grants.
        max_grid: limits::MAX_GRID_DIM,
        storage: DType::F16,
        dtypes: vec![DType::F32, DType::F16],
        // wgpu does not tell the size of device memory.
        memory: None,
        software: info.software,
        wgmma: false,
        tf32: false,
        statistics: false,
        tma: false,
        processors: 0,
    };
    Ok(Opened { device, queue, caps, faults })
}
