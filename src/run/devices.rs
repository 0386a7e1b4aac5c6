//! The devices `--device` may name, and how one is chosen.

use crate::backend::Backend;
use crate::backend::cpu::Cpu;
use crate::backend::wgpu::{WgpuBackend, adapters};
use crate::error::{Error, Kind, Result};

/// One device a job can run on.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceInfo {
    /// What `--device` takes: `cpu`, `wgpu:0`.
    pub id: String,
    /// The device's own name.
    pub name: String,
    /// The interface it is reached through: `host`, `vulkan`, `metal`, `dx12`.
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

/// Every device of this machine, the host's cores first.
pub fn devices() -> Vec<DeviceInfo> {
    let adapters = adapters().into_iter().map(|a| {
        let mut notes = a.lacks;
        if a.software {
            notes.push("a software rasteriser: `auto` never chooses it".into());
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
    std::iter::once(cpu_info()).chain(adapters).collect()
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
        notes: Vec::new(),
    }
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
        ("auto", None) => match adapters().iter().find(|a| a.usable && !a.software) {
            Some(a) => open_wgpu(a.index, "auto: the first hardware adapter"),
            None => open_cpu(threads, "auto: there is no usable hardware adapter for wgpu"),
        },
        ("wgpu", index) => open_wgpu(index.unwrap_or(0), "asked for"),
        _ => Err(unknown(spec)),
    }
}

fn unknown(spec: &str) -> Error {
    Error::new(Kind::Device, "device", format!("there is no device `{spec}`"))
        .advise("use cpu, wgpu, wgpu:N (a number from `tessera devices`) or auto")
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
