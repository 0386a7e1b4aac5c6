//! The kernels: PTX built ahead of time and embedded, compiled by the driver when a stem is first needed.

use super::driver::{Context, Failure, Function, Module};
use super::faults::Faults;
use super::version;
use crate::abi::table::cuda::{self, Target};
use crate::abi::{Stem, Types};
use crate::error::{Error, Kind, Result};
use cudarc::driver::sys::CUresult as Code;
use std::collections::HashMap;
use std::ffi::CString;
use std::sync::Arc;

/// The PTX of a stem's kernels for a target, as `cargo xtask kernels` builds it; `None` where it has none of its own there.
pub fn ptx(stem: Stem, target: Target) -> Option<&'static str> {
    macro_rules! built {
        ($name:literal) => {
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/ptx/", $name, ".ptx"))
        };
    }
    let text = match (stem, target) {
        (Stem::Conv2d, Target::Sm80) => built!("conv2d.sm80"),
        (Stem::Conv2d, Target::Sm90a) => built!("conv2d.sm90"),
        (Stem::Gemm, Target::Sm80) => built!("gemm.sm80"),
        (Stem::Gemm, Target::Sm90a) => built!("gemm.sm90"),
        (Stem::Attention, Target::Sm80) => built!("attention.sm80"),
        (Stem::Attention, Target::Sm90a) => built!("attention.sm90"),
        (_, Target::Sm90a) => return None,
        (Stem::GroupNormStats, _) => built!("group_norm_stats.sm80"),
        (Stem::NormFinalize, _) => built!("norm_finalize.sm80"),
        (Stem::NormApply, _) => built!("norm_apply.sm80"),
        (Stem::LayerNorm, _) => built!("layer_norm.sm80"),
        (Stem::TimeEmbedding, _) => built!("time_embedding.sm80"),
        (Stem::Pointwise, _) => built!("pointwise.sm80"),
        (Stem::Resample, _) => built!("resample.sm80"),
        (Stem::Rearrange, _) => built!("rearrange.sm80"),
        (Stem::Modulate, _) => built!("modulate.sm80"),
    };
    Some(text)
}

/// The version of the PTX language that `text` is written in.
fn language(text: &str) -> &str {
    text.lines().find_map(|l| l.strip_prefix(".version")).map_or("unknown", str::trim)
}

/// Modules and kernels of one context, loaded so far.
pub(super) struct Modules {
    /// Before `modules`: a function is good as long as its module.
    functions: HashMap<(Stem, &'static str, Types), Function>,
    modules: HashMap<(Stem, Target), Module>,
    /// CUDA version of the driver.
    driver: u32,
}

impl Modules {
    pub(super) fn new(driver: u32) -> Modules {
        Modules { functions: HashMap::new(), modules: HashMap::new(), driver }
    }

    /// CUDA version of the driver.
    pub(super) fn driver(&self) -> u32 {
        self.driver
    }

    /// Kernels made ready so far.
    pub(super) fn count(&self) -> usize {
        self.functions.len()
    }

    /// Compiles the stem's module for a target, once.
    pub(super) fn load(
        &mut self,
        context: &Arc<Context>,
        faults: &mut Faults,
        stem: Stem,
        target: Target,
    ) -> Result<()> {
        if self.modules.contains_key(&(stem, target)) {
            return Ok(());
        }
        let none = || internal(format!("no kernels of {} for {}", stem.name(), target.name()));
        let text = ptx(stem, target).ok_or_else(none)?;
        let image = CString::new(text).map_err(|_| internal(format!("the PTX of {} is not text", stem.name())))?;
        let module = Module::load(context, &image)
            .map_err(|(failure, log)| refused(faults, stem, language(text), self.driver, failure, &log))?;
        self.modules.insert((stem, target), module);
        Ok(())
    }

    /// The kernel of a launch.
    pub(super) fn get(
        &mut self,
        context: &Arc<Context>,
        faults: &mut Faults,
        stem: Stem,
        launch: &cuda::Launch,
        types: Types,
    ) -> Result<Function> {
        let key = (stem, launch.variant, types);
        if let Some(&function) = self.functions.get(&key) {
            return Ok(function);
        }
        let target = launch.target();
        self.load(context, faults, stem, target)?;
        let module =
            self.modules.get(&(stem, target)).ok_or_else(|| internal(format!("{} is not loaded", stem.name())))?;
        let name = cuda::entry(stem, launch.variant, types);
        let symbol = CString::new(name.as_str()).map_err(|_| internal(format!("the kernel name {name}")))?;
        let function = module
            .function(&symbol, launch.shared)
            .map_err(|e| faults.error(format_args!("making the kernel {name} ready"), e))?;
        self.functions.insert(key, function);
        Ok(function)
    }
}

fn internal(message: String) -> Error {
    Error::new(Kind::Internal, "cuda", message)
}

/// The error for a module that the driver refused.
fn refused(faults: &mut Faults, stem: Stem, language: &str, driver: u32, failure: Failure, log: &str) -> Error {
    let log = if log.is_empty() { String::new() } else { format!("; the driver says: {log}") };
    if failure == Failure::Status(Code::CUDA_ERROR_UNSUPPORTED_PTX_VERSION) {
        let why = format!(
            "the driver refuses the {} kernels: they are PTX {language}, newer than its CUDA {} reads{log}",
            stem.name(),
            version(driver)
        );
        return Error::new(Kind::Device, "cuda", why).advise("update the driver, or use --device wgpu");
    }
    faults.error(format_args!("compiling the {} kernels (PTX {language}{log})", stem.name()), failure)
}
