//! `tessera bench`: how long kernels, networks and whole jobs take on a device, beside what it could do at most.
//!
//! Every figure is the median of runs that last [`BenchOptions::seconds`] together, after others that warm up, with shape,
//! type, kernel variant and clock beside it; operands of kernels rotate over more than the caches hold.

mod chart;
mod clock;
mod figure;
mod held;
mod job;
mod kernel;
mod layers;
mod network;
mod peaks;
mod timing;

use super::component::{self, Component};
use super::devices;
use super::options::{Cancel, Observer};
use crate::abi::{BackendKind, Caps};
use crate::error::{Error, Kind, Result};
use crate::graph::DType;
use crate::weights::Model;
use std::path::PathBuf;

pub use chart::roofline;
pub use figure::{Figure, comparison, json_lines, read};
pub use job::jobs;
pub use peaks::Peaks;

/// Seconds of timed runs of one figure at most.
const MOST_SECONDS: f64 = 600.0;
/// Operations of a layer from which on a host's cores measure it only when it is asked for by name.
const HOST_FLOPS: f64 = 4e11;

/// What all measurements share.
#[derive(Debug, Clone, PartialEq)]
pub struct BenchOptions {
    /// `cpu`, `cuda`, `cuda:N`, `wgpu`, `wgpu:N` or `auto`.
    pub device: String,
    /// Host threads, all cores by default.
    pub threads: Option<usize>,
    /// `f32`, `f16` or `bf16`; by default as the device prefers.
    pub dtype: Option<String>,
    /// Seconds of timed runs of one figure, 0 for as few runs as tell anything.
    pub seconds: f64,
    /// Operands of kernels stay where they are, so small ones are read from caches.
    pub cached: bool,
    /// Floating-point operations and bytes a second that the device can do at most; by default what [`Peaks`] knows.
    pub peaks: Option<[f64; 2]>,
}

impl Default for BenchOptions {
    fn default() -> BenchOptions {
        BenchOptions { device: "auto".into(), threads: None, dtype: None, seconds: 0.5, cached: false, peaks: None }
    }
}

/// Which networks.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkOptions {
    /// The model: a folder or a file; of its files only the configs are read.
    pub model: PathBuf,
    /// One of its networks; without it all that run by themselves.
    pub component: Option<Component>,
    /// Rows and columns of its input, where they are free; by default those for a picture of 512x512 pixels.
    pub size: Option<[u32; 2]>,
    /// Items of one run.
    pub batch: u32,
    /// Also every kernel of a network by itself.
    pub profile: bool,
}

/// A device, open, and what figures on it have in common.
struct Bench {
    backend: Box<dyn crate::backend::Backend>,
    dtype: DType,
    /// The options, with peaks where they are known.
    options: BenchOptions,
}

impl Bench {
    fn open(o: &BenchOptions, observer: &mut dyn Observer) -> Result<Bench> {
        check(o)?;
        let devices::Chosen { backend, name, why } = devices::open(&o.device, o.threads)?;
        let dtype = component::storage(backend.caps(), o.dtype.as_deref())?;
        let mut options = o.clone();
        let peaks = match o.peaks {
            Some([flops, bytes]) => Some(Peaks { flops, bytes, source: "as given".into() }),
            None => Peaks::of(backend.caps(), dtype, o.threads),
        };
        let at_most = match &peaks {
            Some(p) => format!("at most {:.1} GFLOP/s and {:.1} GB/s ({})", p.flops * 1e-9, p.bytes * 1e-9, p.source),
            None => "what it can do at most is not known here: --peaks says it".into(),
        };
        observer.note(&format!("{name} ({why}), {}: {at_most}", dtype.name()));
        options.peaks = peaks.map(|p| [p.flops, p.bytes]);
        Ok(Bench { backend, dtype, options })
    }
}

fn check(o: &BenchOptions) -> Result<()> {
    let usage = |why: String| Err(Error::new(Kind::Usage, "bench", why));
    if !(0.0..=MOST_SECONDS).contains(&o.seconds) {
        return usage(format!("{} seconds; it must be from 0 to {MOST_SECONDS}", o.seconds));
    }
    match o.peaks {
        Some(peaks) if !peaks.iter().all(|p| p.is_finite() && *p > 0.0) => {
            usage(format!("peaks of {} and {}; both must be above 0", peaks[0], peaks[1]))
        }
        _ => Ok(()),
    }
}

/// What a timing is a figure of, to be filled in.
fn figure(o: &BenchOptions, caps: &Caps, dtype: DType, t: timing::Timing) -> Figure {
    Figure {
        what: String::new(),
        name: String::new(),
        device: caps.name.clone(),
        dtype: dtype.name().into(),
        variant: String::new(),
        runs: t.runs,
        seconds: t.median,
        spread: t.spread,
        best: t.best,
        // Of other devices the host's time tells nothing.
        processor: t.processor.filter(|_| caps.kind == BackendKind::Cpu),
        launch: None,
        flops: 0.0,
        bytes: 0.0,
        working_set: 0.0,
        clock_mhz: None,
        peak_flops: o.peaks.map(|p| p[0]),
        peak_bytes: o.peaks.map(|p| p[1]),
        version: env!("CARGO_PKG_VERSION").into(),
    }
}

/// Kernels on the shapes of published networks; those whose names contain all of `filter`. `each` gets every figure as it
/// comes. A layer that the device cannot hold is left out and told.
pub fn kernels(
    o: &BenchOptions,
    filter: &[String],
    each: &mut dyn FnMut(Figure),
    observer: &mut dyn Observer,
    cancel: &Cancel,
) -> Result<()> {
    let mut chosen: Vec<layers::Layer> =
        layers::layers()?.into_iter().filter(|l| filter.iter().all(|f| l.name.contains(f.as_str()))).collect();
    if chosen.is_empty() {
        let why = format!("no kernel's name contains {}", filter.join(" and "));
        return Err(
            Error::new(Kind::Usage, "bench", why).advise("`tessera bench kernels` without a filter runs all of them")
        );
    }
    let Bench { mut backend, dtype, options } = Bench::open(o, observer)?;
    let host = backend.caps().kind == BackendKind::Cpu || backend.caps().software;
    chosen.retain(|l| !host || !filter.is_empty() || l.flops < HOST_FLOPS);
    // Statistics in a product's ending are some devices' own.
    chosen.retain(|l| backend.caps().statistics || !l.params.wants_statistics());
    let mut left_out = 0;
    for layer in &chosen {
        cancel.check()?;
        match kernel::measure(backend.as_mut(), layer, dtype, &options, cancel) {
            Ok(figure) => each(figure),
            // Some layers are larger than a device's largest buffer: the planner would cut them.
            Err(e) if matches!(e.kind(), Kind::Device | Kind::Memory | Kind::Limit) => {
                left_out += 1;
                observer.note(&format!("{} is left out: {e}", layer.name));
            }
            Err(e) => return Err(e),
        }
    }
    if left_out > 0 {
        observer.note(&format!("{left_out} of {} kernels were left out", chosen.len()));
    }
    if left_out == chosen.len() {
        return Err(Error::new(Kind::Device, "bench", format!("{} could run none of them", backend.caps().name)));
    }
    Ok(())
}

/// Whole networks; see [`NetworkOptions`].
pub fn networks(
    o: &BenchOptions,
    n: &NetworkOptions,
    each: &mut dyn FnMut(Figure),
    observer: &mut dyn Observer,
    cancel: &Cancel,
) -> Result<()> {
    let usage = |why: String| Error::new(Kind::Usage, "bench", why);
    if n.batch == 0 || n.batch > crate::limits::MAX_BATCH {
        return Err(usage(format!("a batch of {}; it must be from 1 to {}", n.batch, crate::limits::MAX_BATCH)));
    }
    let model = Model::open(&n.model)?;
    let chosen: Vec<Component> = match n.component {
        Some(c) => vec![c],
        None => model.parts().into_iter().flat_map(Component::of_part).collect(),
    };
    let free = chosen.iter().filter(|c| c.has_sizes()).count();
    if n.size.is_some() && (free != 1 || chosen.len() != 1) {
        let names: Vec<&str> = chosen.iter().map(|c| c.name()).collect();
        return Err(usage(format!("--size is that of one network; chosen are {}", names.join(", ")))
            .advise("choose one that takes any size with --component"));
    }
    let Bench { mut backend, dtype, options } = Bench::open(o, observer)?;
    for component in chosen {
        cancel.check()?;
        let config = model.config(component.part()).map_err(|e| e.at(component.name()))?;
        let size = n.size.map_or_else(|| component.usual_size(&config), |s| Ok(Some(s)))?;
        let graph = component.graph(&config, n.batch, n.size, dtype).map_err(|e| e.at(component.name()))?;
        let shape = size.map(|[h, w]| format!(" {w}x{h}")).unwrap_or_default();
        let name = format!("{}{shape} b{}", component.name(), n.batch);
        let figures = network::measure(backend.as_mut(), &name, graph, dtype, n.profile, &options, cancel)?;
        figures.into_iter().for_each(&mut *each);
    }
    Ok(())
}
