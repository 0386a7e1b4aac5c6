//! `tessera upscale`: the main job.

use super::progress::{Display, Style, say};
use super::units::{bytes, format, lossy, mebibytes, named, vae};
use super::{again, folder, out};
use clap::Args;
use serde_json::{Value, json};
use std::path::PathBuf;
use tessera::run::{
    self, Base, Cancel, Cascade, FolderOptions, Format, LabelRule, Off, Reference, Report, Resume, Sampler, Size,
    UpscaleOptions, VaeMode, is_pipe,
};
use tessera::{Error, Kind, Result};

/// Shown below the options.
pub(super) const HELP: &str = "\
Examples:
  tessera upscale -i photo.jpg                        photo_4x.jpg beside it, four times as large
  tessera upscale -i photo.png -o big.tif -s 2.5      any factor from 1
  tessera upscale -i photo.png -o wall.png --width 7680 --ram 4GiB
  tessera upscale -i photo.png -o wall.png --width 7680 --resume     goes on where it was interrupted
  decode a.raw | tessera upscale -i - -o - | encode   PPM or PNG in, PAM out, nothing on disk
  tessera upscale -i photos -o large -f png --skip-existing          every picture of a folder
  tessera upscale -i photo.png --dry-run              what it would do, and with how much memory";

#[derive(Debug, Args)]
pub(super) struct UpscaleArgs {
    /// The picture: PNG, JPEG, TIFF, WebP, PPM or PAM; - is standard input; or a folder of pictures
    #[arg(short, long, value_name = "FILE")]
    input: PathBuf,
    /// Where it goes; - is standard output; a folder for a folder [default: {stem}_{scale}x.{ext} beside the input]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The output's format: png, jpg, tif, webp, avif, ppm or pam [default: by the name's ending; pam into a pipe]
    #[arg(short, long, value_name = "FORMAT", value_parser = format)]
    format: Option<Format>,
    /// Replaces an output that exists, and begins an unfinished one anew
    #[arg(long)]
    overwrite: bool,
    /// Leaves an output that exists as it is
    #[arg(long, conflicts_with = "overwrite")]
    skip_existing: bool,
    /// With a folder: also the folders in it, and those in them
    #[arg(long)]
    recursive: bool,
    /// Goes on with an unfinished job; keeps finished rows on disk, however short the job
    #[arg(long, conflicts_with = "no_resume")]
    resume: bool,
    /// Keeps no finished rows on disk, however long the job, and begins an unfinished one anew
    #[arg(long)]
    no_resume: bool,
    /// Where the rows of unfinished jobs are kept [default: OUTPUT.tessera beside the output]
    #[arg(long, value_name = "FOLDER")]
    spool_dir: Option<PathBuf>,

    /// Factor from 1, not only whole ones [default: 4]
    #[arg(short, long, value_name = "FACTOR", help_heading = "Size", allow_negative_numbers = true)]
    #[arg(conflicts_with_all = ["width", "height", "megapixels"])]
    scale: Option<f64>,
    /// Output width in pixels; the height follows unless it is given too
    #[arg(long, value_name = "PIXELS", help_heading = "Size")]
    width: Option<u64>,
    /// Output height in pixels; the width follows unless it is given too
    #[arg(long, value_name = "PIXELS", help_heading = "Size")]
    height: Option<u64>,
    /// About so many million pixels, in proportion
    #[arg(long, value_name = "N", help_heading = "Size", allow_negative_numbers = true)]
    #[arg(conflicts_with_all = ["width", "height"])]
    megapixels: Option<f64>,

    /// The model's folder [default: the one that ships]
    #[arg(short, long, value_name = "FOLDER", help_heading = "Model")]
    model: Option<PathBuf>,
    /// The system to run [default: the one the model's folder names]
    #[arg(long, value_name = "NAME", help_heading = "Model")]
    system: Option<String>,
    /// Sampling steps of each stage of a cascade [default: the model's]
    #[arg(long, value_name = "N", help_heading = "Cascade")]
    steps: Option<u32>,
    /// How the factor is shared out over stages: remainder-last, remainder-first, uniform, single or largest-first
    #[arg(long, value_name = "ORDER", value_parser = named(&Cascade::ALL), help_heading = "Cascade")]
    cascade: Option<Cascade>,
    /// Strength of the self-consistency guidance, 0 to 1, or one for each stage, separated by commas; 0 is off
    #[arg(long, value_name = "STRENGTH", value_delimiter = ',', help_heading = "Cascade")]
    guidance: Option<Vec<f32>>,
    /// What the guidance holds a sample against: off, original or previous
    #[arg(long, value_name = "PICTURE", value_parser = named(&Reference::ALL), help_heading = "Cascade")]
    guidance_reference: Option<Reference>,
    /// What the picture that residuals are added to is made of: stage-input or original
    #[arg(long, value_name = "PICTURE", value_parser = named(&Base::ALL), help_heading = "Cascade")]
    base: Option<Base>,
    /// Leaves the coordinate adapter out
    #[arg(long, help_heading = "Cascade")]
    no_adapter: bool,
    /// Leaves parts out, separated by commas: superpixels, depth, sarm, semantic of casr; liif, denoiser of casarbi
    #[arg(long, value_name = "PARTS", value_delimiter = ',', value_parser = named(&Off::ALL), help_heading = "Cascade")]
    off: Vec<Off>,
    /// Side of a superpixel cell in pixels of a stage's input; 3, 4, 5 and 8 are published
    #[arg(long, value_name = "PIXELS", help_heading = "Cascade")]
    cell: Option<u32>,
    /// How superpixels are enlarged: probabilities or nearest
    #[arg(long, value_name = "RULE", value_parser = named(&LabelRule::ALL), help_heading = "Cascade")]
    labels: Option<LabelRule>,
    /// What semantic tokens are made of: stage-input or original
    #[arg(long, value_name = "PICTURE", value_parser = named(&Base::ALL), help_heading = "Cascade")]
    semantic_reference: Option<Base>,
    /// The picture was enlarged by this before: the one-step network adds detail as after so large an enlargement, also at the
    /// same size
    #[arg(long, value_name = "FACTOR", help_heading = "Model")]
    enlarged: Option<f64>,
    /// Makes N samples with seeds from --seed on, as {stem}_sample{seed}, with their mean and deviation
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Cascade")]
    samples: u32,
    /// Also writes what every stage but the last made, as {stem}_stage{number}.png of 16 bits
    #[arg(long, help_heading = "Cascade")]
    save_stages: bool,
    /// Noise in the input, 0 to 1
    #[arg(long, value_name = "STRENGTH", default_value_t = 0.0, help_heading = "Model", allow_negative_numbers = true)]
    noise: f32,
    /// Compression artefacts in the input, 0 to 1
    #[arg(long, value_name = "STRENGTH", default_value_t = 0.0, help_heading = "Model", allow_negative_numbers = true)]
    jpeg: f32,
    /// Seed of everything random
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Model")]
    seed: u64,

    /// cpu, cuda, cuda:N, wgpu, wgpu:N or auto; a device that is named is used or refused, never replaced by another
    #[arg(short = 'g', long, value_name = "DEVICE", default_value = "auto", help_heading = "Device and memory")]
    device: String,
    /// Cap on device memory, for example 4GiB or 512MiB
    #[arg(long, value_name = "SIZE", value_parser = bytes, help_heading = "Device and memory")]
    vram: Option<u64>,
    /// Cap on host memory
    #[arg(long, value_name = "SIZE", value_parser = bytes, help_heading = "Device and memory")]
    ram: Option<u64>,
    /// Side of a window in output pixels [default: chosen to fit the memory]
    #[arg(short, long, value_name = "PIXELS", help_heading = "Device and memory")]
    tile: Option<u32>,
    /// Pixels by which neighbouring windows overlap [default: the system's]
    #[arg(long, value_name = "PIXELS", help_heading = "Device and memory")]
    overlap: Option<u32>,
    /// How the autoencoder works on pictures larger than a window: auto, whole, exact, shared or tile
    #[arg(long, value_name = "MODE", default_value = "auto", value_parser = vae, help_heading = "Device and memory")]
    vae: VaeMode,
    /// Windows per launch [default: chosen]
    #[arg(long, value_name = "N", help_heading = "Device and memory")]
    batch: Option<u32>,
    /// Host threads [default: all cores]
    #[arg(long, value_name = "N", help_heading = "Device and memory")]
    threads: Option<usize>,

    /// Only says what would be done
    #[arg(long, help_heading = "Output")]
    dry_run: bool,
    /// Prints the report as one JSON object on stdout
    #[arg(long, help_heading = "Output")]
    pub(super) json: bool,
    /// How progress is shown on stderr [default: bar on a terminal, plain elsewhere]
    #[arg(long, value_enum, value_name = "STYLE", help_heading = "Output")]
    progress: Option<Style>,
}

impl UpscaleArgs {
    pub(super) fn size(&self) -> Size {
        match (self.scale, self.width, self.height, self.megapixels) {
            (Some(s), ..) => Size::Scale(s),
            (None, Some(w), Some(h), _) => Size::Both(w, h),
            (None, Some(w), None, _) => Size::Width(w),
            (None, None, Some(h), _) => Size::Height(h),
            (None, None, None, Some(m)) => Size::Megapixels(m),
            (None, None, None, None) => Size::Scale(4.0),
        }
    }

    pub(super) fn options(&self) -> UpscaleOptions {
        let mut o = UpscaleOptions::new(&self.input, self.size());
        o.output.clone_from(&self.output);
        o.format = self.format;
        if self.output.as_deref().is_some_and(is_pipe) {
            o.format = o.format.or(Some(Format::Pam));
        }
        o.model.clone_from(&self.model);
        o.system.clone_from(&self.system);
        o.device.clone_from(&self.device);
        (o.vram, o.ram) = (self.vram, self.ram);
        (o.tile, o.overlap, o.batch, o.threads) = (self.tile, self.overlap, self.batch, self.threads);
        o.vae = self.vae;
        o.sampler = Sampler {
            steps: self.steps,
            cascade: self.cascade,
            guidance: self.guidance.clone(),
            reference: self.guidance_reference,
            base: self.base,
            no_adapter: self.no_adapter,
            off: self.off.clone(),
            cell: self.cell,
            rule: self.labels,
            semantic: self.semantic_reference,
            enlarged: self.enlarged,
        };
        o.save_stages = self.save_stages;
        (o.noise, o.jpeg, o.seed) = (self.noise, self.jpeg, self.seed);
        (o.overwrite, o.dry_run) = (self.overwrite, self.dry_run);
        o.resume = match (self.resume, self.no_resume) {
            (true, _) => Resume::Always,
            (_, true) => Resume::Never,
            _ => Resume::Auto,
        };
        o.spool_dir.clone_from(&self.spool_dir);
        o.skip_existing = self.skip_existing;
        o
    }
}

/// Upscales, shows progress on stderr, prints the path or the report.
/// True when nothing failed, which can be false for folders only.
pub(super) fn run(args: &UpscaleArgs, cancel: &Cancel) -> Result<bool> {
    let piped = args.output.as_deref().is_some_and(is_pipe);
    if piped && args.json && !args.dry_run {
        return Err(Error::new(Kind::Usage, "usage", "--json writes to standard output, where the picture goes")
            .advise("name an output file, or leave --json away"));
    }
    let mut display = Display::new(args.progress);
    if args.input.is_dir() {
        if args.samples != 1 {
            return Err(Error::new(Kind::Usage, "usage", format!("{} samples of a folder", args.samples))
                .advise("name one picture, or leave --samples away"));
        }
        let options = FolderOptions { each: args.options(), recursive: args.recursive };
        return folder::run(&options, args.json, display, cancel);
    }
    if args.samples != 1 {
        let outcome = run::samples(&args.options(), args.samples, &mut display, cancel);
        display.finish();
        let done = outcome?;
        let mut paths = done.reports.iter().map(|r| &r.path).chain(&done.pictures);
        match done.reports.first() {
            _ if args.json => {
                let reports: Vec<Value> = done.reports.iter().map(report_json).collect();
                out(&json!({ "samples": reports, "pictures": done.pictures }).to_string())?;
            }
            // Only seeds and names differ.
            Some(first) if first.dry_run => out(&dry_run_text(first))?,
            _ => paths.try_for_each(|path| out(&path.display().to_string()))?,
        }
        return Ok(true);
    }
    let outcome = run::upscale(&args.options(), &mut display, cancel);
    display.finish();
    let report = match outcome {
        Ok(report) => report,
        Err(e) => {
            again::start_again(&e, &args.input, args.output.as_deref(), run::unfinished_spool().is_some());
            return Err(e);
        }
    };
    if args.json {
        out(&report_json(&report).to_string())?;
    } else if report.dry_run {
        out(&dry_run_text(&report))?;
    } else {
        if !report.skipped {
            say(&summary(&report));
        }
        if !piped {
            out(&report.path.display().to_string())?;
        }
    }
    Ok(true)
}

fn summary(r: &Report) -> String {
    let phases: Vec<String> = r.phases.iter().map(|(name, seconds)| format!("{name} {seconds:.2}")).collect();
    let (from, to) = (r.input, r.output);
    format!("{}x{} to {}x{} in {:.2} s ({})", from.0, from.1, to.0, to.1, r.seconds, phases.join(", "))
}

/// The lines of `--dry-run`.
fn dry_run_text(r: &Report) -> String {
    let mut rows = vec![
        ("input".to_string(), format!("{}x{}", r.input.0, r.input.1)),
        ("output".into(), format!("{}x{}, scale {:.4}, {}", r.output.0, r.output.1, r.scale, r.path.display())),
        ("model".into(), format!("{} ({})", r.model.display(), r.system)),
        ("device".into(), format!("{}: {}", r.device, r.why)),
        ("storage".into(), r.dtype.clone()),
        (
            "windows".into(),
            format!("{} of {}x{}, overlap {}, {} a launch", r.windows, r.tile.1, r.tile.0, r.overlap, batches(r)),
        ),
        ("autoencoder".into(), autoencoder(r)),
        ("work".into(), format!("{:.1} GFLOP a launch", r.flops as f64 / 1e9)),
        ("residency".into(), r.residency.clone()),
        ("device memory".into(), memory(r.device_bytes, &r.bounds[0], &r.device_parts)),
        ("host memory".into(), memory(r.host_bytes, &r.bounds[1], &r.host_parts)),
    ];
    if let Some(e) = &r.estimate {
        rows.push(("estimate".into(), format!("{} ({})", duration(e.seconds), e.origin)));
    }
    rows.extend(r.notes.iter().map(|n| ("note".to_string(), n.clone())));
    rows.iter().map(|(name, value)| format!("{name:14} {value}")).collect::<Vec<_>>().join("\n")
}

/// The autoencoder's mode and why it was chosen.
fn autoencoder(r: &Report) -> String {
    if r.vae_why.is_empty() { r.vae.clone() } else { format!("{} (auto: {})", r.vae, r.vae_why) }
}

/// A peak, what it is held to, and what it consists of.
fn memory(total: u64, bound: &Option<String>, parts: &[(String, u64)]) -> String {
    let named = parts.iter().filter(|p| p.1 > 0).map(|(name, bytes)| format!("{name} {}", mebibytes(*bytes)));
    let of = bound.as_ref().map(|b| format!(" of {b}")).unwrap_or_default();
    format!("{}{of}: {}", mebibytes(total), named.collect::<Vec<_>>().join(", "))
}

/// Windows per launch, of each network where they differ.
fn batches(r: &Report) -> String {
    match r.batches.as_slice() {
        [first, rest @ ..] if rest.iter().any(|b| b != first) => {
            r.batches.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
        }
        _ => r.batch.to_string(),
    }
}

/// Seconds in a reader's units.
fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..=9 => format!("{seconds:.1} s"),
        10..=119 => format!("{whole} s"),
        120..=7199 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

/// The report as `--json` prints it. Keys are never renamed; new ones may come.
pub(super) fn report_json(r: &Report) -> Value {
    let phases: Vec<Value> = r.phases.iter().map(|(name, s)| json!({"name": name, "seconds": s})).collect();
    let parts = |parts: &[(String, u64)]| -> Value {
        parts.iter().map(|(name, bytes)| (name.clone(), json!(bytes))).collect::<serde_json::Map<_, _>>().into()
    };
    json!({
        "input": {"width": r.input.0, "height": r.input.1},
        "output": {"width": r.output.0, "height": r.output.1, "path": lossy(&r.path)},
        "scale": r.scale,
        "model": lossy(&r.model),
        "system": r.system,
        "device": {"name": r.device, "why": r.why},
        "dtype": r.dtype,
        "tile": {"height": r.tile.0, "width": r.tile.1, "overlap": r.overlap},
        "batch": r.batch,
        "windows": r.windows,
        "resumed_rows": r.resumed_rows,
        "parameters": r.parameters,
        "flops_per_launch": r.flops,
        "phases": phases,
        "seconds": r.seconds,
        "residency": r.residency,
        "vae": r.vae,
        "vae_why": r.vae_why,
        "batches": r.batches,
        "device_bytes": r.device_bytes,
        "device_parts": parts(&r.device_parts),
        "device_peak": r.device_peak,
        "bounds": {"device": r.bounds[0], "host": r.bounds[1]},
        "redone": r.redone,
        "host_bytes": r.host_bytes,
        "host_parts": parts(&r.host_parts),
        "estimate": r.estimate.as_ref().map(|e| json!({"seconds": e.seconds, "origin": e.origin})),
        "allocations": {
            "device_before": r.allocations.device_before,
            "device_after": r.allocations.device_after,
            "host_growths": r.allocations.host_growths,
        },
        "stages": r.stages.iter().map(|path| lossy(path)).collect::<Vec<_>>(),
        "notes": r.notes,
        "dry_run": r.dry_run,
        "skipped": r.skipped,
    })
}
