//! The `gemm` crate on rows of `src/run/bench/layers.rs`, one thread:
//! `cargo run --release --manifest-path benches/gemm_crate/Cargo.toml`.
//!
//! Products are the crate's alone. A 3x3 convolution is done in the two ways a general product offers:
//! `unrolled` copies the nine neighbours of a panel of pixels into a matrix and multiplies once, `nine` reads
//! a padded picture in place and adds up nine products per row. Epilogues are left out, which favours the crate.

use gemm::Parallelism;
use std::time::Instant;

/// Pixels whose neighbourhoods are unrolled at a time; the best of 256, 1024 and 4096 is printed.
const PANELS: [usize; 3] = [256, 1024, 4096];

fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i.wrapping_mul(2_654_435_761) >> 8) % 1999) as f32 / 1e5 - 0.01).collect()
}

/// `c = a b (+ c)`, rows of `a` and `c` `lda` and `ldc` apart.
fn product(
    m: usize,
    n: usize,
    k: usize,
    (a, lda): (&[f32], usize),
    b: &[f32],
    (c, ldc): (&mut [f32], usize),
    add: bool,
) {
    assert!(a.len() >= (m - 1) * lda + k && b.len() >= k * n && c.len() >= (m - 1) * ldc + n);
    // SAFETY: the assertion above holds every access of the three matrices inside its slice.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            ldc as isize,
            add,
            a.as_ptr(),
            1,
            lda as isize,
            b.as_ptr(),
            1,
            n as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// The least wall time of a few runs, in seconds: measure where nothing else runs.
fn best(mut run: impl FnMut()) -> f64 {
    let (begin, mut best, mut count) = (Instant::now(), f64::INFINITY, 0);
    while count < 3 || (begin.elapsed().as_secs_f64() < 1.0 && count < 200) {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
        count += 1;
    }
    best
}

fn linear(m: usize, k: usize, n: usize) {
    let (a, b, mut c) = (values(m * k), values(k * n), vec![0.0; m * n]);
    let t = best(|| product(m, n, k, (&a, k), &b, (&mut c, n), false));
    row(&format!("gemm {m}x{k}->{n}"), "crate", t, 2.0 * (m * k * n) as f64);
}

fn conv(side: usize, c: usize, oc: usize) {
    let flops = 2.0 * (side * side * 9 * c * oc) as f64;
    let name = format!("conv3x3 {c}->{oc} @{side}");
    let wide = side + 2;
    let (x, w, mut y) = (values(wide * wide * c), values(9 * c * oc), vec![0.0; side * side * oc]);
    let mut unrolled = f64::INFINITY;
    for panel in PANELS {
        let mut matrix = vec![0.0f32; panel * 9 * c];
        let t = best(|| {
            for first in (0..side * side).step_by(panel) {
                let count = panel.min(side * side - first);
                for p in 0..count {
                    let (i, j) = ((first + p) / side, (first + p) % side);
                    for dy in 0..3 {
                        let from = ((i + dy) * wide + j) * c;
                        let to = (p * 9 + dy * 3) * c;
                        matrix[to..to + 3 * c].copy_from_slice(&x[from..from + 3 * c]);
                    }
                }
                product(count, oc, 9 * c, (&matrix, 9 * c), &w, (&mut y[first * oc..], oc), false);
            }
        });
        unrolled = unrolled.min(t);
    }
    row(&name, "unrolled", unrolled, flops);
    let nine = best(|| {
        for i in 0..side {
            for tap in 0..9 {
                let from = ((i + tap / 3) * wide + tap % 3) * c;
                let weights = &w[tap * c * oc..(tap + 1) * c * oc];
                product(side, oc, c, (&x[from..], c), weights, (&mut y[i * side * oc..], oc), tap > 0);
            }
        }
    });
    row(&name, "nine", nine, flops);
}

fn row(name: &str, way: &str, seconds: f64, flops: f64) {
    println!("{name:<32} {way:<10} {:>9.3} ms {:>8.1} GFLOP/s", seconds * 1e3, flops / seconds * 1e-9);
}

fn main() {
    for (m, k, n) in
        [(4096, 320, 320), (4096, 320, 2560), (4096, 1280, 320), (1024, 640, 5120), (256, 1280, 10240), (77, 1024, 320)]
    {
        linear(m, k, n);
    }
    for (side, c, oc) in [
        (64, 512, 512),
        (128, 512, 512),
        (128, 128, 128),
        (64, 320, 320),
        (32, 640, 640),
        (16, 1280, 1280),
        (8, 1280, 1280),
        (512, 16, 16),
        (256, 32, 32),
        (128, 64, 64),
    ] {
        conv(side, c, oc);
    }
}
