//! The command line: what people type becomes plain options, what the library reports becomes text or
//! JSON. Results go to stdout, messages to stderr; the exit code is the error's kind.

mod progress;
mod signal;

use clap::{Args, Parser, Subcommand};
use progress::{Display, Style, say};
use serde_json::{Value, json};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tessera::metrics::{self, Picture};
use tessera::run::{self, Cancel, Report, Size, UpscaleOptions};
use tessera::{Error, Kind, Result};

/// Upscales pictures by diffusion, at any scale, inside a memory budget.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_help = TOP_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const TOP_HELP: &str = "\
Results go to stdout, messages to stderr. Exit codes: 0 done, 2 usage, 3 model or weights, 4 device,
5 memory or budget, 6 input or output file, 7 bad numeric result, 130 interrupted, 143 terminated.

Example:
  tessera upscale -i photo.jpg -o large.png -s 4";

const UPSCALE_HELP: &str = "\
Examples:
  tessera upscale -i photo.jpg                        photo_4x.jpg beside it, four times as large
  tessera upscale -i photo.png -o big.tif -s 2.5      any factor from 1
  tessera upscale -i photo.png -o wall.png --width 7680 --ram 4GiB
  tessera upscale -i photo.png --dry-run              what it would do, and with how much memory";

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes a picture larger
    #[command(after_help = UPSCALE_HELP)]
    Upscale(Box<UpscaleArgs>),
    /// Lists the devices that --device takes
    Devices {
        /// Prints one JSON array
        #[arg(long)]
        json: bool,
    },
    /// Describes a model's folder: networks, parameters, the system it serves
    Inspect {
        /// The folder
        model: PathBuf,
        /// Also prints the plan of one window, step by step with its memory offsets
        #[arg(long)]
        plan: bool,
    },
    /// Says how alike two pictures of one size are: PSNR, SSIM, GMSD, HaarPSI
    #[command(after_help = COMPARE_HELP)]
    Compare {
        /// The picture to be judged
        a: PathBuf,
        /// The picture it should be
        b: PathBuf,
        /// First enlarges A to B's size by bicubic interpolation: the baseline to hold an upscaled picture against
        #[arg(long)]
        bicubic: bool,
        /// Prints one JSON object
        #[arg(long)]
        json: bool,
    },
}

const COMPARE_HELP: &str = "\
Values are those of the piq package with its defaults, on all channels but alpha. Higher is better for PSNR, SSIM and
HaarPSI, lower for GMSD.

Example:
  tessera compare out.png original.png
  tessera compare --bicubic small.png original.png    what plain enlarging reaches";

#[derive(Debug, Args)]
struct UpscaleArgs {
    /// The picture: PNG, JPEG or TIFF
    #[arg(short, long, value_name = "FILE")]
    input: PathBuf,
    /// Where it goes; the name's ending chooses the format [default: {stem}_{scale}x.{ext} beside the input]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replaces an output that exists
    #[arg(long)]
    overwrite: bool,

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
    /// Noise in the input, 0 to 1
    #[arg(long, value_name = "STRENGTH", default_value_t = 0.0, help_heading = "Model", allow_negative_numbers = true)]
    noise: f32,
    /// Compression artefacts in the input, 0 to 1
    #[arg(long, value_name = "STRENGTH", default_value_t = 0.0, help_heading = "Model", allow_negative_numbers = true)]
    jpeg: f32,
    /// Seed of everything random
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Model")]
    seed: u64,

    /// cpu, wgpu, wgpu:N or auto; a device that is named is used or refused, never replaced by another
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
    json: bool,
    /// How progress is shown on stderr [default: bar on a terminal, plain elsewhere]
    #[arg(long, value_enum, value_name = "STYLE", help_heading = "Output")]
    progress: Option<Style>,
}

impl UpscaleArgs {
    fn size(&self) -> Size {
        match (self.scale, self.width, self.height, self.megapixels) {
            (Some(s), ..) => Size::Scale(s),
            (None, Some(w), Some(h), _) => Size::Both(w, h),
            (None, Some(w), None, _) => Size::Width(w),
            (None, None, Some(h), _) => Size::Height(h),
            (None, None, None, Some(m)) => Size::Megapixels(m),
            (None, None, None, None) => Size::Scale(4.0),
        }
    }

    fn options(&self) -> UpscaleOptions {
        let mut o = UpscaleOptions::new(&self.input, self.size());
        o.output.clone_from(&self.output);
        o.model.clone_from(&self.model);
        o.system.clone_from(&self.system);
        o.device.clone_from(&self.device);
        (o.vram, o.ram) = (self.vram, self.ram);
        (o.tile, o.overlap, o.batch, o.threads) = (self.tile, self.overlap, self.batch, self.threads);
        (o.noise, o.jpeg, o.seed) = (self.noise, self.jpeg, self.seed);
        (o.overwrite, o.dry_run) = (self.overwrite, self.dry_run);
        o
    }
}

/// Runs the program.
pub(crate) fn main() -> ExitCode {
    // A panic is a bug of ours: it ends as an error of one line and the code of its kind, like every other.
    std::panic::set_hook(Box::new(|info| {
        let text = info.payload_as_str().unwrap_or("no message");
        let place = info.location().map(|l| format!("{}:{}", l.file(), l.line())).unwrap_or_default();
        say(&format!("internal: {place}: {text} [a bug in this program, please report it]"));
    }));
    match std::panic::catch_unwind(start) {
        Ok(code) => code,
        Err(_) => ExitCode::from(Kind::Internal.exit_code()),
    }
}

fn start() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and the version are results, not errors.
        Err(e) if e.exit_code() == 0 => {
            let _ = e.print();
            return ExitCode::SUCCESS;
        }
        Err(e) => return fail(&usage_error(&e), false),
    };
    let cancel = Cancel::new();
    signal::listen(&cancel);
    let (outcome, as_json) = match &cli.command {
        Command::Upscale(args) => (upscale(args, &cancel), args.json),
        Command::Devices { json } => (devices(*json), *json),
        Command::Compare { a, b, bicubic, json } => (compare(a, b, *bicubic, *json), *json),
        Command::Inspect { model, plan } => (run::inspect(model, *plan).and_then(|text| out(text.trim_end())), false),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(&e, as_json),
    }
}

/// Prints an error and gives its exit code.
fn fail(e: &Error, as_json: bool) -> ExitCode {
    let code = match (e.kind(), signal::exit_code()) {
        (Kind::Cancelled, Some(code)) => code,
        _ => e.exit_code(),
    };
    // One line, whatever a file name or a library's message contains.
    say(&one_line(&e.to_string()));
    if as_json {
        let error = json!({"kind": e.kind().name(), "stage": e.stage(), "message": e.message(), "advice": e.advice(), "exit_code": code});
        // The error itself has been said; that stdout is gone too changes nothing.
        let _ = out(&json!({"error": error}).to_string());
    }
    ExitCode::from(code)
}

fn one_line(text: &str) -> String {
    text.split(['\n', '\r']).map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" ")
}

/// What the parser of the command line says, without its usage text.
fn usage_error(e: &clap::Error) -> Error {
    let text = e.render().to_string();
    let before_usage = text.split("\n\nUsage:").next().unwrap_or(&text);
    let before_hint = before_usage.split("\n\nFor more information").next().unwrap_or(before_usage);
    let message = one_line(before_hint.trim_start_matches("error:").trim());
    Error::new(Kind::Usage, "usage", message).advise("see tessera --help, tessera upscale --help")
}

/// Writes a result to stdout. A reader that has gone away (`| head`) is no error.
fn out(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Error::new(Kind::Io, "stdout", e.to_string())),
        _ => Ok(()),
    }
}

fn upscale(args: &UpscaleArgs, cancel: &Cancel) -> Result<()> {
    let mut display = Display::new(args.progress);
    let outcome = run::upscale(&args.options(), &mut display, cancel);
    display.finish();
    let report = outcome?;
    if args.json {
        return out(&report_json(&report).to_string());
    }
    if report.dry_run {
        return out(&dry_run_text(&report));
    }
    say(&summary(&report));
    out(&report.path.display().to_string())
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
            format!("{} of {}x{}, overlap {}, {} a launch", r.windows, r.tile.1, r.tile.0, r.overlap, r.batch),
        ),
        ("work".into(), format!("{:.1} GFLOP a launch", r.flops as f64 / 1e9)),
        ("device memory".into(), mebibytes(r.device_bytes)),
        ("host memory".into(), mebibytes(r.host_bytes)),
    ];
    rows.extend(r.notes.iter().map(|n| ("note".to_string(), n.clone())));
    rows.iter().map(|(name, value)| format!("{name:14} {value}")).collect::<Vec<_>>().join("\n")
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// The report as `--json` prints it. Keys are never renamed; new ones may come.
fn report_json(r: &Report) -> Value {
    let phases: Vec<Value> = r.phases.iter().map(|(name, s)| json!({"name": name, "seconds": s})).collect();
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
        "flops_per_launch": r.flops,
        "phases": phases,
        "seconds": r.seconds,
        "device_bytes": r.device_bytes,
        "host_bytes": r.host_bytes,
        "allocations": {
            "device_before": r.allocations.device_before,
            "device_after": r.allocations.device_after,
            "host_growths": r.allocations.host_growths,
        },
        "notes": r.notes,
        "dry_run": r.dry_run,
    })
}

/// JSON is Unicode: a file name that is not gets replacement characters.
fn lossy(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn devices(as_json: bool) -> Result<()> {
    let devices = run::devices();
    if as_json {
        let list: Vec<Value> = devices
            .iter()
            .map(|d| {
                json!({"id": d.id, "name": d.name, "interface": d.interface, "driver": d.driver, "hardware": d.hardware,
                    "memory": d.memory, "notes": d.notes})
            })
            .collect();
        return out(&Value::from(list).to_string());
    }
    let mut lines = Vec::new();
    for d in &devices {
        let memory = d.memory.map(|m| format!(", {}", mebibytes(m))).unwrap_or_default();
        let driver = if d.driver.is_empty() { String::new() } else { format!(", driver {}", d.driver) };
        let kind = if d.hardware { "" } else { ", software" };
        lines.push(format!("{:8} {} ({}{kind}{driver}{memory})", d.id, d.name, d.interface));
        lines.extend(d.notes.iter().map(|n| format!("{:8} - {n}", "")));
    }
    out(&lines.join("\n"))
}

fn compare(a: &Path, b: &Path, bicubic: bool, as_json: bool) -> Result<()> {
    let (mut a, b) = (Picture::read(a)?, Picture::read(b)?);
    if bicubic {
        a = a.enlarged(b.width, b.height)?;
    }
    let s = metrics::compare(&a, &b)?;
    if as_json {
        // JSON has no infinity: equal pictures have no PSNR.
        let psnr = s.psnr.is_finite().then_some(s.psnr);
        let scores = json!({"psnr": psnr, "ssim": s.ssim, "gmsd": s.gmsd, "haarpsi": s.haarpsi});
        return out(&scores.to_string());
    }
    out(&format!(
        "psnr    {:8.4} dB\nssim    {:8.6}\ngmsd    {:8.6}\nhaarpsi {:8.6}",
        s.psnr, s.ssim, s.gmsd, s.haarpsi
    ))
}

/// Reads a size in bytes: `4GiB`, `512MiB`, `1.5G` (binary like GiB), `2GB` (decimal), `1048576`.
fn bytes(text: &str) -> std::result::Result<u64, String> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1024.0 * 1024.0,
        "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
        "t" | "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        other => return Err(format!("`{other}` is no unit of size; write 4GiB, 512MiB or a number of bytes")),
    };
    let value =
        number.parse::<f64>().map_err(|_| format!("`{text}` is no size; write 4GiB, 512MiB or a number of bytes"))?;
    let exact = value * factor;
    // Below 2^53 a float holds every whole number; no machine has more memory than that.
    if (1.0..9e15).contains(&exact) { Ok(exact as u64) } else { Err(format!("`{text}` is out of range")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes() {
        assert_eq!(bytes("4GiB"), Ok(4 << 30));
        assert_eq!(bytes("512MiB"), Ok(512 << 20));
        assert_eq!(bytes("1.5g"), Ok(3 << 29));
        assert_eq!(bytes("2 GB"), Ok(2_000_000_000));
        assert_eq!(bytes("1048576"), Ok(1 << 20));
        for bad in ["", "GiB", "-1GiB", "4 apples", "1e9", "nan", "0", "99999999TiB", "1.2.3M"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn size_options() {
        let size = |args: &[&str]| {
            let all = ["tessera", "upscale", "-i", "a.png"].iter().chain(args);
            match Cli::try_parse_from(all).map(|c| c.command) {
                Ok(Command::Upscale(args)) => Some(args.size()),
                _ => None,
            }
        };
        assert_eq!(size(&[]), Some(Size::Scale(4.0)));
        assert_eq!(size(&["-s", "2.5"]), Some(Size::Scale(2.5)));
        assert_eq!(size(&["-s", "-2"]), Some(Size::Scale(-2.0)));
        assert_eq!(size(&["--width", "9"]), Some(Size::Width(9)));
        assert_eq!(size(&["--height", "9"]), Some(Size::Height(9)));
        assert_eq!(size(&["--height", "9", "--width", "8"]), Some(Size::Both(8, 9)));
        assert_eq!(size(&["--megapixels", "33"]), Some(Size::Megapixels(33.0)));
        assert_eq!(size(&["-s", "2", "--width", "8"]), None);
        assert_eq!(size(&["--megapixels", "2", "--width", "8"]), None);
    }

    #[test]
    fn errors_take_one_line() {
        let e = Cli::try_parse_from(["tessera", "upscale"]).expect_err("no input");
        let text = usage_error(&e).to_string();
        assert!(text.contains("--input") && !text.contains('\n') && !text.contains("Usage:"), "{text}");
        assert_eq!(one_line("a\n  b\r\n\nc"), "a b c");
    }
}
