//! Which CUDA devices there are, what each lacks, and what it takes to open one.

use super::driver::{self, Failure, Properties};
use crate::abi::{BackendKind, Caps};
use crate::error::{Error, Kind, Result};
use crate::graph::DType;
use crate::knobs;
use crate::limits;
use cudarc::driver::sys::CUresult as Code;

/// The knob that has fewer processors counted than there are.
const PROCESSORS: &str = "TESSERA_CUDA_PROCESSORS";

/// One device as `tessera devices` prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CudaDevice {
    /// Number in `--device cuda:N`.
    pub index: usize,
    /// The device's own name.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: [u32; 2],
    /// Bytes of memory.
    pub memory: u64,
    /// Processors, each of which runs blocks of its own.
    pub processors: u32,
    /// CUDA version of the driver, 1000 times the major plus 10 times the minor number.
    pub driver: u32,
    /// What it lacks; empty when it can run the kernels.
    pub lacks: Vec<String>,
}

impl CudaDevice {
    /// Whether it can run the kernels.
    pub fn usable(&self) -> bool {
        self.lacks.is_empty()
    }
}

/// A CUDA version as people write it: 12.8.
pub fn version(number: u32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

/// Every device of this machine; none where there is no driver. An error where there is a driver that does
/// not work.
pub fn devices() -> Result<Vec<CudaDevice>> {
    if driver::present() { list() } else { Ok(Vec::new()) }
}

fn list() -> Result<Vec<CudaDevice>> {
    let failed = |doing: &str, e: Failure| {
        Error::new(Kind::Device, "cuda", format!("{doing}: {e}"))
            .advise("see whether `nvidia-smi` works, or choose another --device")
    };
    let driver = match driver::init() {
        Ok(version) => version,
        Err(Failure::Status(Code::CUDA_ERROR_NO_DEVICE)) => return Ok(Vec::new()),
        Err(e) => return Err(failed("starting the CUDA driver", e)),
    };
    let count = driver::count().map_err(|e| failed("counting devices", e))?;
    let describe = |index| {
        let p = driver::properties(index).map_err(|e| failed(&format!("asking device {index}"), e))?;
        let lacks = shortfalls(driver, p.capability, p.shared);
        let Properties { name, capability, memory, processors, .. } = p;
        Ok(CudaDevice { index, name, capability, memory, processors, driver, lacks })
    };
    (0..count).map(describe).collect()
}

/// What keeps a device from running the kernels.
fn shortfalls(driver: u32, capability: [u32; 2], shared: u32) -> Vec<String> {
    let mut lacks = Vec::new();
    if driver < limits::CUDA_MIN_DRIVER {
        let need = version(limits::CUDA_MIN_DRIVER);
        lacks.push(format!("the driver is for CUDA {}; kernels need {need} or later", version(driver)));
    }
    let [major, minor] = capability;
    if major < limits::CUDA_MIN_CAPABILITY {
        let need = limits::CUDA_MIN_CAPABILITY;
        lacks.push(format!("its compute capability is {major}.{minor}; kernels need {need}.0 (Ampere) or later"));
    } else if shared < limits::CUDA_MAX_SHARED {
        lacks.push(format!(
            "a block may have {shared} bytes of shared memory; kernels need {}",
            limits::CUDA_MAX_SHARED
        ));
    }
    lacks
}

/// The device `index`, or why it can't be used.
pub(super) fn choose(index: usize) -> Result<CudaDevice> {
    if !driver::present() {
        let why = format!("no device `cuda:{index}`: there is no CUDA driver here (libcuda.so.1, nvcuda.dll)");
        return Err(Error::new(Kind::Device, "cuda", why).advise("install NVIDIA's driver, or choose another --device"));
    }
    let all = list()?;
    let Some(device) = all.get(index) else {
        let names: Vec<String> = all.iter().map(|d| format!("cuda:{} is {}", d.index, d.name)).collect();
        let have = if names.is_empty() { "there is none".to_owned() } else { names.join(", ") };
        return Err(Error::new(Kind::Device, "cuda", format!("no device `cuda:{index}`: {have}"))
            .advise("`tessera devices` lists what this machine has"));
    };
    if !device.usable() {
        return Err(Error::new(Kind::Device, "cuda", format!("{}: {}", device.name, device.lacks.join("; ")))
            .advise("update the driver if that is what it lacks, or choose another --device"));
    }
    let processors = match asked_processors()? {
        Some(most) => device.processors.min(most),
        None => device.processors,
    };
    Ok(CudaDevice { processors, ..device.clone() })
}

/// How many processors are asked for at most, where that is said.
fn asked_processors() -> Result<Option<u32>> {
    let Some(text) = knobs::get(PROCESSORS) else { return Ok(None) };
    match text.parse() {
        Ok(0) | Err(_) => Err(Error::new(Kind::Usage, PROCESSORS, format!("`{text}` is not a number of processors"))
            .advise("unset it: it serves to check kernels on small shapes")),
        Ok(most) => Ok(Some(most)),
    }
}

/// What the planner may assume of `device`.
pub(super) fn caps(device: &CudaDevice) -> Caps {
    // Until a card has confirmed what the emulator makes of them they are asked for.
    let asked = if device.capability == [9, 0] { knobs::get("TESSERA_CUDA_WGMMA") } else { None };
    let tma = asked.as_deref() == Some("tma");
    let tf32 = knobs::is_on("TESSERA_CUDA_TF32");
    let statistics = knobs::get("TESSERA_CUDA_STATISTICS").as_deref() != Some("apart");
    let ways = [(tf32, " (tf32)"), (!statistics, " (statistics apart)")];
    let ways: String = ways.iter().filter(|(so, _)| *so).map(|(_, way)| *way).collect();
    let few = knobs::get(PROCESSORS).map(|_| format!(" ({} processors)", device.processors)).unwrap_or_default();
    Caps {
        kind: BackendKind::Cuda,
        name: format!("cuda:{} {}{ways}{few}", device.index, device.name),
        max_chunk: device.memory,
        max_binding: device.memory,
        memory: Some(device.memory),
        storage: DType::F16,
        wgmma: tma || asked.as_deref() == Some("1"),
        tma,
        tf32,
        statistics,
        processors: device.processors,
        ..Caps::cuda_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_drivers_and_cards_are_told_what_they_lack() {
        assert_eq!(shortfalls(12_000, [8, 0], 163 << 10), Vec::<String>::new());
        assert_eq!(shortfalls(13_000, [12, 0], 99 << 10), Vec::<String>::new());
        let old = shortfalls(11_040, [7, 5], 64 << 10);
        assert!(old.len() == 2 && old[0].contains("CUDA 11.4") && old[1].contains("is 7.5"), "{old:?}");
        assert!(shortfalls(12_000, [8, 7], 1 << 10)[0].contains("1024 bytes"));
        assert_eq!(version(12_080), "12.8");
    }
}
