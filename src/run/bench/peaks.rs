//! What a device can do at most: as its maker states it, as it was given, or on the host as two loops measure it.

use crate::abi::{BackendKind, Caps};
use crate::graph::DType;
use pulp::{Arch, Simd, WithSimd};
use std::time::Instant;

/// A device's peaks.
#[derive(Debug, Clone, PartialEq)]
pub struct Peaks {
    /// Floating-point operations a second in the type that is used.
    pub flops: f64,
    /// Bytes a second between the device and its memory.
    pub bytes: f64,
    /// Where they come from, for people.
    pub source: String,
}

/// What makers state for cards: a part of the name that the driver tells, TFLOP/s of dense f16 and bf16 products with f32 sums, of
/// plain f32, and GB/s. More particular names come first.
const CARDS: [(&str, f64, f64, f64); 10] = [
    ("H200", 989.4, 66.9, 4800.0),
    ("H100 PCIe", 756.0, 51.2, 2000.0),
    ("H100 NVL", 835.0, 60.0, 3900.0),
    ("H100", 989.4, 66.9, 3350.0),
    ("A100-SXM4-80GB", 312.0, 19.5, 2039.0),
    ("A100 80GB PCIe", 312.0, 19.5, 1935.0),
    ("A100", 312.0, 19.5, 1555.0),
    ("RTX 4090", 165.2, 82.6, 1008.0),
    ("RTX 3090", 71.0, 35.6, 936.0),
    ("L40S", 362.0, 91.6, 864.0),
];

impl Peaks {
    /// Those of the device that `caps` describes, in `dtype`; `None` where nobody tells. `threads` of the host compute.
    pub(super) fn of(caps: &Caps, dtype: DType, threads: Option<usize>) -> Option<Peaks> {
        if caps.kind == BackendKind::Cpu {
            let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
            let (flops, bytes) = (fused_rate(threads), reading_rate(threads));
            let source = format!("measured: multiply-adds in registers, reads of memory, {threads} threads");
            return Some(Peaks { flops, bytes, source });
        }
        let &(name, half, single, gigabytes) = CARDS.iter().find(|(name, ..)| caps.name.contains(name))?;
        let tera = match dtype {
            // Makers state half of the half types' rate for tf32, of all of these.
            DType::F32 if caps.tf32 => half / 2.0,
            DType::F32 => single,
            DType::F16 | DType::Bf16 => half,
        };
        Some(Peaks { flops: tera * 1e12, bytes: gigabytes * 1e9, source: format!("its maker's figures for {name}") })
    }
}

/// Sums kept in registers: enough to hide the latency of a multiply-add, few enough for 16 registers.
const SUMS: usize = 10;
/// Rounds of one measurement: some 10 ms.
const ROUNDS: usize = 4_000_000;
/// Measurements, of which the fastest counts.
const TRIES: usize = 5;
/// Words of 64 bits that all threads read together, each its own: more than most caches hold.
const WORDS: usize = 32 << 20;

/// Multiply-adds as fast as one core goes.
struct Fused;

impl WithSimd for Fused {
    /// Operations done, and a value that keeps them from being left out.
    type Output = (f64, f32);

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> (f64, f32) {
        let (factor, term) = (simd.splat_f32s(0.999), simd.splat_f32s(1e-3));
        let mut sums = [simd.splat_f32s(0.5); SUMS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = simd.mul_add_f32s(*sum, factor, term);
            }
        }
        let total = sums.into_iter().fold(simd.splat_f32s(0.0), |a, b| simd.add_f32s(a, b));
        ((2 * ROUNDS * SUMS * S::F32_LANES) as f64, simd.reduce_sum_f32s(total))
    }
}

/// Floating-point operations a second of `threads` threads.
fn fused_rate(threads: usize) -> f64 {
    fastest(threads, &|_| {
        let (operations, value) = Arch::new().dispatch(Fused);
        std::hint::black_box(value);
        operations
    })
}

/// Bytes a second that `threads` threads read.
fn reading_rate(threads: usize) -> f64 {
    let words = vec![1u64; WORDS];
    let share = WORDS.div_ceil(threads);
    fastest(threads, &|thread| {
        let own = words.chunks(share).nth(thread).unwrap_or_default();
        std::hint::black_box(own.iter().fold(0u64, |a, &b| a.wrapping_add(b)));
        size_of_val(own) as f64
    })
}

/// The best rate of all threads doing `work`, which is told the thread's number and tells how much it did.
fn fastest(threads: usize, work: &(dyn Fn(usize) -> f64 + Sync)) -> f64 {
    let once = || {
        let began = Instant::now();
        let done: f64 = std::thread::scope(|s| {
            let running: Vec<_> = (0..threads).map(|i| s.spawn(move || work(i))).collect();
            running.into_iter().map(|t| t.join().unwrap_or(0.0)).sum()
        });
        done / began.elapsed().as_secs_f64()
    };
    (0..TRIES).map(|_| once()).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_known_by_their_names() {
        let asked = |name: &str, dtype, tf32| {
            let caps = Caps { name: name.into(), tf32, ..Caps::cuda_default() };
            Peaks::of(&caps, dtype, None).map(|p| (p.flops, p.bytes))
        };
        let of = |name: &str, dtype| asked(name, dtype, false);
        assert_eq!(asked("NVIDIA H100 80GB HBM3 (tf32)", DType::F32, true), Some((494.7e12, 3.35e12)));
        assert_eq!(asked("NVIDIA H100 80GB HBM3 (tf32)", DType::F16, true), of("NVIDIA H100 80GB HBM3", DType::F16));
        assert_eq!(of("NVIDIA H100 80GB HBM3", DType::F16), Some((989.4e12, 3.35e12)));
        assert_eq!(of("NVIDIA H100 PCIe", DType::Bf16), Some((756e12, 2e12)));
        assert_eq!(of("NVIDIA GeForce RTX 4090", DType::F32), Some((82.6e12, 1.008e12)));
        assert_eq!(of("a card of tomorrow", DType::F16), None);
    }

    #[test]
    fn the_host_is_measured() {
        let p = Peaks::of(&Caps::cpu(), DType::F32, Some(1)).unwrap();
        // Any core of these decades; a loop that was left out would be beyond.
        assert!((1e8..1e13).contains(&p.flops) && (1e8..1e13).contains(&p.bytes), "{p:?}");
    }
}
