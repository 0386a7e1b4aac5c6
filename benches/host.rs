//! Benches of host code: `cargo bench --bench host`. Kernels are measured elsewhere, on their device.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::path::Path;
use tessera::image;

/// Bicubic resampling, the base of every output picture: 512x512 to 2048x2048.
fn resample(c: &mut Criterion) {
    let (from, to) = (512u64, 2048u64);
    let source: Vec<f32> = (0..from * from * 3).map(|i| (i % 251) as f32 / 250.0).collect();
    let mut group = c.benchmark_group("resample");
    group.throughput(Throughput::Elements(to * to));
    group.bench_function("bicubic_x4_rgb", |b| {
        b.iter(|| image::resample::resize(&source, (from, from), (to, to), 3).expect("resized"));
    });
    group.finish();
}

/// Reading a picture by rows, with all the checks.
fn read(c: &mut Criterion) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/example/astronaut_512.png");
    let mut group = c.benchmark_group("read");
    group.throughput(Throughput::Elements(512 * 512));
    group.bench_function("png_512", |b| {
        b.iter(|| {
            let mut rows = image::open(&path).expect("a picture");
            let mut row = vec![0.0; rows.header().row_len()];
            for _ in 0..rows.header().height {
                rows.read_row(&mut row).expect("a row");
            }
            row
        });
    });
    group.finish();
}

criterion_group!(benches, resample, read);
criterion_main!(benches);
