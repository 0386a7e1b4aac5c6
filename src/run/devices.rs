//! The devices `--device` may name, and how one is chosen.

use crate::backend::Backend;
use crate::backend::cpu::Cpu;
use crate::backend::cuda::{self, CudaBackend};
use crate::backend::wgpu::{WgpuBackend, adapters};
use crate::error::{Error, Kind, Result};

/// One device a job can run on.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceInfo {
    /// What `--device` takes: `cpu`, `cuda:0`, `wgpu:0`.
    pub id: String,
    /// The device's own name.
    pub name: String,
    /// The interface it is reached through: `host`, `cuda`, `vulkan`, `metal`, `dx12`.
    pub interface: String,
    /// Driver name and version, empty where there is none.
    pub driver: String,
    /// Whether it is hardware (a software rasteriser is not).
    pub hardware: bool,
    /// Device memory in bytes, where it can be known.
    pub memory: Option<u64>,
    /// What it lacks or how it is limited.
    pub notes: Vec<String>,
}

/// A backend, opened.
pub(super) struct Chosen {
    pub(super) backend: Box<dyn Backend>,
    pub(super) name: String,
    pub(super) why: String,
}

/// Every device of this machine, the host's cores first. A CUDA driver that does not work is listed as a device
/// that says so; a machine without one has none.
pub fn devices() -> Vec<DeviceInfo> {
    let cuda = match cuda::devices() {
        Ok(found) => found.into_iter().map(cuda_info).collect(),
        Err(e) => vec![DeviceInfo {
            id: "cuda".into(),
            name: "a driver that does not work".into(),
            interface: "cuda".into(),
            driver: String::new(),
            hardware: true,
            memory: None,
            notes: vec![e.to_string()],
        }],
    };
    let adapters = adapters().into_iter().map(|a| {
        let mut notes = a.lacks;
        if a.software {
            notes.push("its memory is the host's: only --vram and --ram bound a plan".into());
            notes.push("a software rasteriser: `auto` never chooses it".into());
        }
        if !a.software {
            let assumed = super::budget::mib(super::budget::ASSUMED);
            notes.push(format!("does not tell its memory: plans take at most {assumed} unless --vram says more"));
        }
        if !a.usable {
            notes.push("not usable".into());
        }
        DeviceInfo {
            id: format!("wgpu:{}", a.index),
            name: a.name,
            interface: a.interface,
            driver: a.driver,
            hardware: !a.software,
            memory: None,
            notes,
        }
    });
    std::iter::once(cpu_info()).chain(cuda).chain(adapters).collect()
}

fn cuda_info(d: cuda::CudaDevice) -> DeviceInfo {
    let [major, minor] = d.capability;
    let mut notes = vec![format!("compute capability {major}.{minor}")];
    let usable = d.usable();
    notes.extend(d.lacks);
    if !usable {
        notes.push("not usable".into());
    }
    DeviceInfo {
        id: format!("cuda:{}", d.index),
        name: d.name,
        interface: "cuda".into(),
        driver: format!("for CUDA {}", cuda::version(d.driver)),
        hardware: true,
        memory: Some(d.memory),
        notes,
    }
}

fn cpu_info() -> DeviceInfo {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    DeviceInfo {
        id: "cpu".into(),
        name: format!("{} ({cores} threads)", std::env::consts::ARCH),
        interface: "host".into(),
        driver: String::new(),
        hardware: true,
        memory: None,
        notes: super::budget::available_memory().map(available).into_iter().collect(),
    }
}

fn available(bytes: u64) -> String {
    format!("{} of memory available now", super::budget::mib(bytes))
}

/// Opens what `spec` names. `auto` says why it chose; a named device is opened or refused, never replaced.
/// `threads` bounds the host cores that compute.
pub(super) fn open(spec: &str, threads: Option<usize>) -> Result<Chosen> {
    let most = crate::limits::MAX_THREADS;
    if let Some(n) = threads
        && (n == 0 || n > most)
    {
        return Err(Error::new(Kind::Usage, "device", format!("{n} threads; it must be from 1 to {most}")));
    }
    let (kind, index) = match spec.split_once(':') {
        None => (spec, None),
        Some((kind, number)) => match number.parse::<usize>() {
            Ok(n) => (kind, Some(n)),
            Err(_) => return Err(unknown(spec)),
        },
    };
    match (kind, index) {
        ("cpu", None) => open_cpu(threads, "asked for"),
        ("auto", None) => open_auto(threads),
        ("cuda", index) => open_cuda(index.unwrap_or(0), "asked for"),
        ("wgpu", index) => open_wgpu(index.unwrap_or(0), "asked for"),
        _ => Err(unknown(spec)),
    }
}

fn unknown(spec: &str) -> Error {
    Error::new(Kind::Device, "device", format!("there is no device `{spec}`"))
        .advise("use cpu, cuda, cuda:N, wgpu, wgpu:N (a number from `tessera devices`) or auto")
}

/// The first CUDA device that opens, else the first hardware adapter of wgpu, else the host's cores. What there
/// is of CUDA but does not serve is named.
fn open_auto(threads: Option<usize>) -> Result<Chosen> {
    let mut passed = String::new();
    let mut pass = |why: &dyn std::fmt::Display| passed.push_str(&format!("; not CUDA: {why}"));
    match cuda::devices() {
        Err(e) => pass(&e.message()),
        Ok(found) => {
            for device in &found {
                if !device.usable() {
                    pass(&format!("cuda:{} {}: {}", device.index, device.name, device.lacks.join(", ")));
                    continue;
                }
                match open_cuda(device.index, "auto: the first CUDA device that serves") {
                    Ok(chosen) => return Ok(chosen),
                    Err(e) => pass(&format!("cuda:{}: {}", device.index, e.message())),
                }
            }
        }
    }
    match adapters().iter().find(|a| a.usable && !a.software) {
        Some(a) => open_wgpu(a.index, &format!("auto: the first hardware adapter{passed}")),
        None => open_cpu(threads, &format!("auto: there is no usable GPU{passed}")),
    }
}

fn open_cuda(index: usize, why: &str) -> Result<Chosen> {
    let backend = CudaBackend::open(index)?;
    let name = backend.caps().name.clone();
    Ok(Chosen { backend: Box::new(backend), name, why: why.into() })
}

fn open_wgpu(index: usize, why: &str) -> Result<Chosen> {
    let backend = WgpuBackend::open(index)?;
    let name = backend.caps().name.clone();
    Ok(Chosen { backend: Box::new(backend), name, why: why.into() })
}

fn open_cpu(threads: Option<usize>, why: &str) -> Result<Chosen> {
    let backend = match threads {
        Some(n) => Cpu::with_threads(n)?,
        None => Cpu::new()?,
    };
    let name = backend.caps().name.clone();
    Ok(Chosen { backend: Box::new(backend), name, why: why.into() })
}
