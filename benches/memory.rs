//! What a job holds of the host's memory, and what a pixel costs: `cargo bench --bench memory -- [FILTER] [keep]`.
//!
//! Runs the real program on pictures made here, on the cpu with two threads, in pixel tiles (VAE `tile`), and reads
//! the peak of its resident memory from the system (VmHWM, so Linux only; polled, the last reading stands), and the time its threads spent on cores, which tells more
//! than the clock where others work. The
//! cases named `copy` enlarge nothing: they show what readers and writers hold. `keep` leaves the pictures in
//! `target/memory`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tessera::Result;
use tessera::image::{Colour, Depth, Format, Header, create};

/// Name, input (width, height, file), scale, output file.
type Case = (&'static str, (u64, u64, &'static str), &'static str, &'static str);

const CASES: [Case; 13] = [
    ("1 megapixel", (320, 200, "png"), "4", "png"),
    ("8K", (1920, 1080, "png"), "4", "png"),
    ("8K, twice as high", (1920, 2160, "png"), "4", "png"),
    ("16K x 4K", (4096, 1024, "png"), "4", "png"),
    ("16K x 4K to TIFF", (4096, 1024, "png"), "4", "tif"),
    ("16K x 16K", (4096, 4096, "png"), "4", "png"),
    ("16K x 16K to TIFF", (4096, 4096, "png"), "4", "tif"),
    ("copy 16K x 16K, PPM to PNG", (16_384, 16_384, "ppm"), "1", "png"),
    ("copy 16K x 16K, PNG to TIFF", (16_384, 16_384, "png"), "1", "tif"),
    ("copy 16K x 16K, TIFF to JPEG", (16_384, 16_384, "tif"), "1", "jpg"),
    ("copy 8K, JPEG to PAM", (7680, 4320, "jpg"), "1", "pam"),
    ("copy 8K, WebP to WebP", (7680, 4320, "webp"), "1", "webp"),
    ("copy 8K, PNG to PNG", (7680, 4320, "png"), "1", "png"),
];

/// Waves and grain: compresses about as a photograph does.
fn make(path: &Path, width: u64, height: u64) -> Result<()> {
    let depth = Depth::Eight;
    let header =
        Header { width, height, colour: Colour::Rgb, depth, icc: None, format: Format::Png, notes: Vec::new() };
    let mut sink = create(path, &header, true)?;
    let mut state = 1u32;
    let mut row = vec![0.0f32; header.row_len()];
    for y in 0..height {
        for (i, v) in row.iter_mut().enumerate() {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (x, c) = ((i / 3) as f32, (i % 3) as f32);
            let grain = (state >> 24) as f32 / 256.0 - 0.5;
            *v = 0.5 + 0.3 * (x / 37.0 + c).sin() * (y as f32 / 53.0).cos() + 0.04 * grain;
        }
        sink.write_row(&row)?;
    }
    sink.finish()
}

/// The high-water mark of a process's resident memory, MiB.
fn peak(pid: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<f64>().ok().map(|kib| kib / 1024.0)
}

/// Seconds that a process's threads spent on cores, own and the system's; ticks are hundredths on Linux.
fn busy(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name, which may hold spaces: utime and stime are the 12th and 13th words.
    let words: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = words.get(11)?.parse::<f64>().ok()? + words.get(12)?.parse::<f64>().ok()?;
    Some(ticks / 100.0)
}

/// What a run took.
struct Taken {
    peak: Option<f64>,
    busy: Option<f64>,
    seconds: f64,
    ok: bool,
}

fn measure(input: &Path, output: &Path, scale: &str) -> Taken {
    let started = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_tessera"))
        .args(["upscale", "-g", "cpu", "--threads", "2", "--overwrite", "--progress", "none", "-s", scale, "-i"])
        .arg(input)
        .arg("-o")
        .arg(output)
        .stdout(Stdio::null())
        .spawn()
        .expect("the program starts");
    let (mut most, mut cores) = (None, None);
    let ok = loop {
        most = peak(child.id()).or(most);
        cores = busy(child.id()).filter(|s| *s > 0.0).or(cores);
        if let Some(status) = child.try_wait().expect("a child") {
            break status.success();
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    Taken { peak: most, busy: cores, seconds: started.elapsed().as_secs_f64(), ok }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let keep = words.iter().any(|w| w == "keep");
    let filter = words.iter().find(|w| *w != "keep");
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/memory");
    std::fs::create_dir_all(&folder).expect("a folder");
    println!(
        "| case | output Mpx | peak MiB | seconds | s per Mpx | core seconds per Mpx |\n|---|---|---|---|---|---|"
    );
    for (name, (w, h, ext), scale, out) in CASES {
        if filter.is_some_and(|f| !name.contains(f.as_str())) {
            continue;
        }
        let (input, output) = (folder.join(format!("in-{w}x{h}.{ext}")), folder.join(format!("out.{out}")));
        if !input.exists() {
            make(&input, w, h).expect("an input");
        }
        let taken = measure(&input, &output, scale);
        let times = scale.parse::<f64>().unwrap_or(1.0);
        let pixels = (w * h) as f64 * times * times / 1e6;
        let shown = |value: Option<f64>, digits: usize| value.map_or("?".into(), |v| format!("{v:.digits$}"));
        println!(
            "| {name}{} | {pixels:.2} | {} | {:.2} | {:.4} | {} |",
            if taken.ok { "" } else { " FAILED" },
            shown(taken.peak, 1),
            taken.seconds,
            taken.seconds / pixels,
            shown(taken.busy.map(|b| b / pixels), 4)
        );
        let _ = std::fs::remove_file(&output);
        if !keep {
            let _ = std::fs::remove_file(&input);
        }
    }
}
