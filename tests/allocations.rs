//! What a tile allocates on the host, counted at the allocator. A binary of its own, because a counting
//! allocator counts every thread of its process.

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use std::alloc::System;
use std::path::{Path, PathBuf};
use tessera::abi::Caps;
use tessera::backend::Backend;
use tessera::backend::cpu::Cpu;
use tessera::backend::null::Null;
use tessera::run::{Cancel, Engine, Observer, Progress, Size, UpscaleOptions, upscale_with};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Window side and overlap: 48 new pixels a window, so 43 windows a row at 2048 pixels, 1,849 in all.
const TILE: u32 = 64;
const OVERLAP: u32 = 16;
const ROW: usize = 43;

/// Allocations so far, at the end of every launch.
struct Counter {
    at: Vec<usize>,
}

impl Observer for Counter {
    fn progress(&mut self, progress: &Progress<'_>) {
        if progress.stage == "upscale" && self.at.len() < self.at.capacity() {
            let stats = ALLOCATOR.stats();
            self.at.push(stats.allocations + stats.reallocations);
        }
    }

    fn note(&mut self, _: &str) {}
}

fn picture(folder: &Path) -> PathBuf {
    let path = folder.join("in.png");
    let side = 512;
    let mut encoder = png::Encoder::new(std::fs::File::create(&path).expect("file"), side, side);
    encoder.set_color(png::ColorType::Rgb);
    let pixels: Vec<u8> = (0..side * side * 3).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    encoder.write_header().expect("header").write_image_data(&pixels).expect("pixels");
    path
}

/// Allocations of each launch after the first row of windows.
fn count(backend: Box<dyn Backend>) -> Vec<usize> {
    let folder = tempfile::tempdir().expect("folder");
    let mut options = UpscaleOptions::new(picture(folder.path()), Size::Scale(4.0));
    options.model = Some(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("weights/onestep"));
    options.output = Some(folder.path().join("out.png"));
    (options.tile, options.overlap) = (Some(TILE), Some(OVERLAP));
    let mut engine = Engine::with_backend(backend, "counted", "for a count");
    let mut counter = Counter { at: Vec::with_capacity(4 * ROW * ROW) };
    upscale_with(&mut engine, &options, &mut counter, &Cancel::new()).expect("upscales");
    let each: Vec<usize> = counter.at.windows(2).map(|w| w[1] - w[0]).collect();
    assert!(each.len() >= ROW * ROW - 1, "{} launches", each.len());
    each[2 * ROW..].to_vec()
}

/// One test, because two would count each other's.
#[test]
fn a_tile_allocates_nothing() {
    for (name, backend) in [
        ("null", Box::new(Null::new(Caps::cpu())) as Box<dyn Backend>),
        ("cpu", Box::new(Cpu::with_threads(1).expect("cpu"))),
    ] {
        let each = count(backend);
        let quiet = each.iter().filter(|&&n| n == 0).count();
        let most = each.iter().max().copied().unwrap_or(0);
        println!("{name}: {} launches, {quiet} without an allocation, at most {most} in one", each.len());
        // A launch that ends a row of windows also moves rows through the decoder and the encoder, which are not
        // ours; every other launch is nothing but our own code (and, on cpu, rayon's).
        let rows = each.len().div_ceil(ROW);
        assert!(each.len() - quiet <= 2 * rows, "{name}: {each:?}");
    }
}
