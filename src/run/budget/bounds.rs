//! How much memory a job may take: the caps the user set, else what is free now less some headroom.

use super::super::engine::Engine;
use super::super::options::UpscaleOptions;
use super::mib;
use crate::abi::BackendKind;
use crate::error::{Error, Kind, Result};
use crate::fs;
use std::path::Path;

/// Of the free device memory, this share is left alone (one in so many): a desktop and other programs go on.
const DEVICE_HEADROOM: u64 = 20;
/// And no less than this.
const DEVICE_HEADROOM_LEAST: u64 = 256 << 20;
/// Of the free host memory, this share is left alone: the file cache, other programs.
const HOST_HEADROOM: u64 = 10;
/// And no less than this.
const HOST_HEADROOM_LEAST: u64 = 256 << 20;
/// Device memory that is assumed where the device does not tell: most cards have it.
pub const ASSUMED: u64 = 4 << 30;
/// What Linux tells of its memory.
const MEMINFO: &str = "/proc/meminfo";

/// One bound and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// Bytes.
    pub bytes: u64,
    /// The option, or what was read.
    pub origin: String,
    /// The user set it.
    pub asked: bool,
}

/// Both bounds; `None` where nothing is known and nothing was asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bounds {
    /// On the device.
    pub device: Option<Bound>,
    /// On the host.
    pub host: Option<Bound>,
}

impl Bounds {
    /// The bounds of a job on `engine`.
    pub fn new(engine: &Engine, options: &UpscaleOptions) -> Result<Bounds> {
        for (name, cap) in [("--vram", options.vram), ("--ram", options.ram)] {
            if cap == Some(0) {
                return Err(Error::new(Kind::Usage, "budget", format!("{name} 0 leaves no memory to work in"))
                    .advise("name a size such as 512MiB, or leave the option out"));
            }
        }
        let asked = |bytes: u64, name: &str| Bound { bytes, origin: name.into(), asked: true };
        let device = match (options.vram, engine.caps().memory) {
            (Some(cap), Some(whole)) if cap > whole => {
                let why = format!("--vram {} is more than {} has: {}", mib(cap), engine.name(), mib(whole));
                return Err(Error::new(Kind::Memory, "budget", why)
                    .advise(format!("--vram {} at most, or leave it out", mib_down(whole))));
            }
            (Some(cap), _) => Some(asked(cap, "--vram")),
            (None, _) => auto_device(engine),
        };
        let host = match options.ram {
            Some(cap) => Some(asked(cap, "--ram")),
            None => auto_host(engine),
        };
        Ok(Bounds { device, host })
    }
}

/// What the device has free, less the headroom. What this engine holds already is its own to use.
fn auto_device(engine: &Engine) -> Option<Bound> {
    let held = engine.device().held();
    let bound = |bytes, origin: String| Some(Bound { bytes, origin, asked: false });
    match (engine.caps().kind, engine.device().free_memory()) {
        (_, Some(free)) => {
            let free = free + held;
            let left = (free / DEVICE_HEADROOM).max(DEVICE_HEADROOM_LEAST);
            let origin = format!("{} free on the device less {} of headroom", mib_down(free), mib(left));
            bound(free.saturating_sub(left), origin)
        }
        // The device is the host.
        (BackendKind::Cpu, None) => None,
        (BackendKind::Wgpu, None) if engine.caps().software => None,
        (BackendKind::Wgpu | BackendKind::Cuda, None) => {
            let whole = engine.caps().memory.unwrap_or(ASSUMED);
            bound(whole, format!("{} assumed: the device does not tell what is free", mib_down(whole)))
        }
    }
}

/// What the host has available, less the headroom, where the system tells.
fn auto_host(engine: &Engine) -> Option<Bound> {
    let held = if engine.caps().kind == BackendKind::Cpu { engine.device().held() } else { 0 };
    let free = available_memory()? + held;
    let left = (free / HOST_HEADROOM).max(HOST_HEADROOM_LEAST);
    let origin = format!("{} available less {} of headroom", mib_down(free), mib(left));
    Some(Bound { bytes: free.saturating_sub(left), origin, asked: false })
}

/// Host memory that programs can still get without swapping, where the system tells.
pub fn available_memory() -> Option<u64> {
    let bytes = fs::File::open(Path::new(MEMINFO)).and_then(|mut f| f.read_all(1 << 16)).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1 << 10)
}

/// Bytes as the command line takes them, rounded down.
fn mib_down(bytes: u64) -> String {
    format!("{}MiB", bytes >> 20)
}
