//! Carries out a [`Packing`]: tensors in the checkpoint's order in, the bytes a kernel reads out.
//!
//! Every packing is a K x N matrix whose columns are output channels, so packing is a transposition. It
//! works on blocks of input channels (each block's rows are written by one thread) and, inside, on runs of
//! columns that are first copied side by side: channel counts are powers of two times a little, and rows
//! that far apart fall on the same few cache sets.

use super::reorder;
use crate::error::{Error, Kind, Result};
use crate::extent;
use crate::graph::dtype::DType;
use crate::graph::layout::Packing;
use crate::limits;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

/// Values of one column copied at a time: input channels of a block times taps, at most.
const BLOCK_VALUES: usize = 16 * 16;
/// Columns gathered at a time; one more than a block's values lie between them in the copy, so that
/// neighbours in a row fall on different cache sets.
const RUN: usize = 32;

/// One tensor of a recipe: its name, for errors, and its values.
#[derive(Debug, Clone, Copy)]
pub struct Tensor<'a> {
    /// Name.
    pub name: &'a str,
    /// Values in the checkpoint's order.
    pub values: &'a [f32],
}

/// Packs `sources` (in the order the packing wants them; `None` = zeros) as `packing` says, stored as
/// `dtype`, rounding to nearest even. A value beyond the type's range is an error that names its tensor.
pub fn pack(sources: &[Option<Tensor<'_>>], packing: &Packing, dtype: DType) -> Result<Vec<u8>> {
    let elements = extent::to_usize("packed weight", packing.elements())?;
    match packing {
        Packing::ConvKn { taps, sources: inputs, out } => {
            let t = single(sources, packing)?;
            let (taps, out) = (*taps as usize, *out as usize);
            let channels: usize = inputs.iter().map(|&c| c as usize).sum();
            expect_len(t, out * channels * taps, packing)?;
            let mut rows = Rows::new(taps, pitch(out));
            for &c in inputs {
                rows.push_source(c as usize);
            }
            let part = Part { tensor: t, first_row: 0, rows: out, column: 0 };
            rows.pack(&[part], channels, elements, dtype)
        }
        Packing::LinearKn { input, outs, geglu } => {
            let input = *input as usize;
            let total: usize = outs.iter().map(|&o| o as usize).sum();
            let mut parts = Vec::with_capacity(sources.len());
            let columns = if *geglu {
                let t = single(sources, packing)?;
                expect_len(t, 2 * total * input, packing)?;
                for half in [0, 1] {
                    parts.push(Part { tensor: t, first_row: half * total, rows: total, column: half * pitch(total) });
                }
                2 * pitch(total)
            } else {
                if sources.len() != outs.len() {
                    return Err(misfit(packing, format!("{} tensors given", sources.len())));
                }
                let mut column = 0;
                for (source, &rows) in sources.iter().zip(outs) {
                    if let Some(t) = source {
                        expect_len(*t, rows as usize * input, packing)?;
                        parts.push(Part { tensor: *t, first_row: 0, rows: rows as usize, column });
                    }
                    column += rows as usize;
                }
                pitch(total)
            };
            let mut rows = Rows::new(1, columns);
            rows.push_source(input);
            rows.pack(&parts, input, elements, dtype)
        }
        Packing::ConvUp2x2 { input, out } => {
            let t = single(sources, packing)?;
            let (input, out) = (*input as usize, *out as usize);
            expect_len(t, out * input * 9, packing)?;
            let folded = fold_up2x2(t.values);
            let t = Tensor { name: t.name, values: &folded };
            let mut rows = Rows::new(16, pitch(out));
            rows.push_source(input);
            let part = Part { tensor: t, first_row: 0, rows: out, column: 0 };
            rows.pack(&[part], input, elements, dtype)
        }
        Packing::Vectors { lengths } => vectors(sources, lengths, packing, dtype),
        Packing::Reordered { order, shape, then } => {
            let t = single(sources, packing)?;
            expect_len(t, shape.iter().map(|&s| s as usize).product(), packing)?;
            let values = reorder::reorder(t.values, *order, shape)
                .ok_or_else(|| misfit(packing, "a shape without this order"))?;
            pack(&[Some(Tensor { name: t.name, values: &values })], then, dtype)
        }
    }
}

fn pitch(c: usize) -> usize {
    c.next_multiple_of(extent::CHANNEL_ALIGN as usize)
}

fn misfit(packing: &Packing, why: impl std::fmt::Display) -> Error {
    Error::new(Kind::Internal, "weights", format!("{packing:?}: {why}"))
}

fn single<'a>(sources: &[Option<Tensor<'a>>], packing: &Packing) -> Result<Tensor<'a>> {
    match sources {
        [Some(t)] => Ok(*t),
        _ => Err(misfit(packing, format!("wants one tensor, {} given", sources.iter().flatten().count()))),
    }
}

fn expect_len(t: Tensor<'_>, wanted: usize, packing: &Packing) -> Result<()> {
    if t.values.len() == wanted {
        return Ok(());
    }
    Err(misfit(packing, format!("`{}` has {} values, {wanted} are wanted", t.name, t.values.len())))
}

/// The 3x3 taps that fall on pixel `i` (of 2) of a phase `a` along one axis: output `2y + a` reads doubled
/// rows `2y + a - 1 ..= 2y + a + 1`, which are source rows `(2y + a - 1 + k) / 2`; the first of the two source
/// rows is `y - 1 + a`.
const FOLD: [[&[usize]; 2]; 2] = [[&[0], &[1, 2]], [&[0, 1], &[2]]];

/// `[o][i][3][3]` to `[o][i][phase = 2a + b][tap = 2i + j]`, sums in f32 in a fixed order.
fn fold_up2x2(values: &[f32]) -> Vec<f32> {
    let mut folded = vec![0.0f32; values.len() / 9 * 16];
    folded.par_chunks_mut(16 * 256).zip(values.par_chunks(9 * 256)).for_each(|(out, taps)| {
        for (out, taps) in out.chunks_exact_mut(16).zip(taps.chunks_exact(9)) {
            for (slot, value) in out.iter_mut().enumerate() {
                let (a, b, i, j) = (slot >> 3, (slot >> 2) & 1, (slot >> 1) & 1, slot & 1);
                let mut sum = 0.0;
                for &y in FOLD[a][i] {
                    for &x in FOLD[b][j] {
                        sum += taps[3 * y + x];
                    }
                }
                *value = sum;
            }
        }
    });
    folded
}

/// Rows `first_row ..` of a tensor, which become the columns `column ..` of the packed matrix.
struct Part<'a> {
    tensor: Tensor<'a>,
    first_row: usize,
    rows: usize,
    column: usize,
}

/// The K axis of a packed matrix: taps, each with the padded channels of every source.
struct Rows {
    taps: usize,
    columns: usize,
    /// Blocks of rows in the order they lie in one tap: first channel (`None`: padding only), and rows.
    blocks: Vec<(Option<usize>, usize)>,
    channels: usize,
}

impl Rows {
    fn new(taps: usize, columns: usize) -> Rows {
        Rows { taps, columns, blocks: Vec::new(), channels: 0 }
    }

    /// Appends a source of `c` channels and its padding.
    fn push_source(&mut self, c: usize) {
        let rows = (BLOCK_VALUES / self.taps).min(64);
        for first in (0..c).step_by(rows) {
            self.blocks.push((Some(self.channels + first), rows.min(c - first)));
        }
        if pitch(c) != c {
            self.blocks.push((None, pitch(c) - c));
        }
        self.channels += c;
    }

    fn pack(&self, parts: &[Part<'_>], channels: usize, elements: usize, dtype: DType) -> Result<Vec<u8>> {
        let limit = match dtype {
            DType::F32 => f32::MAX,
            DType::F16 => limits::F16_MAX,
            DType::Bf16 => bf16::MAX.to_f32(),
        };
        for part in parts {
            refuse_beyond(part.tensor, limit, dtype)?;
        }
        Ok(match dtype {
            DType::F32 => self.transpose::<f32>(parts, channels, elements),
            DType::F16 => self.transpose::<u16>(parts, channels, elements),
            DType::Bf16 => self.transpose::<Bf16Bits>(parts, channels, elements),
        })
    }

    fn transpose<T: Store>(&self, parts: &[Part<'_>], channels: usize, elements: usize) -> Vec<u8> {
        as_bytes(elements, |packed| self.transpose_into::<T>(parts, channels, packed))
    }

    fn transpose_into<T: Store>(&self, parts: &[Part<'_>], channels: usize, packed: &mut [T]) {
        // Each job owns its block's rows in every tap.
        let mut jobs: Vec<(usize, usize, Vec<&mut [T]>)> =
            self.blocks.iter().filter_map(|&(c, rows)| c.map(|c| (c, rows, Vec::with_capacity(self.taps)))).collect();
        let mut rest = packed;
        for _ in 0..self.taps {
            let mut job = 0;
            for &(first, rows) in &self.blocks {
                let (block, tail) = rest.split_at_mut(rows * self.columns);
                rest = tail;
                if first.is_some() {
                    jobs[job].2.push(block);
                    job += 1;
                }
            }
        }
        jobs.par_iter_mut().for_each(|(first, rows, blocks)| {
            for part in parts {
                self.block(part, channels, *first, *rows, blocks);
            }
        });
    }

    /// Writes one part's columns of one block of rows.
    fn block<T: Store>(&self, p: &Part<'_>, channels: usize, first: usize, rows: usize, blocks: &mut [&mut [T]]) {
        let (stride, length) = (channels * self.taps, rows * self.taps);
        let mut copy = [0.0f32; RUN * (BLOCK_VALUES + 1)];
        let mut run = [0.0f32; RUN];
        for begin in (0..p.rows).step_by(RUN) {
            let count = RUN.min(p.rows - begin);
            for (o, column) in copy.chunks_exact_mut(length + 1).take(count).enumerate() {
                let at = (p.first_row + begin + o) * stride + first * self.taps;
                column[..length].copy_from_slice(&p.tensor.values[at..at + length]);
            }
            for r in 0..rows {
                for (tap, block) in blocks.iter_mut().enumerate() {
                    let columns = copy[r * self.taps + tap..].iter().step_by(length + 1);
                    for (to, from) in run[..count].iter_mut().zip(columns) {
                        *to = *from;
                    }
                    let to = r * self.columns + p.column + begin;
                    T::store(&run[..count], &mut block[to..to + count]);
                }
            }
        }
    }
}

/// Element types of packed buffers; half types as bit patterns.
trait Store: bytemuck::Pod + Send + Sync {
    fn store(from: &[f32], to: &mut [Self]);
}

impl Store for f32 {
    fn store(from: &[f32], to: &mut [f32]) {
        to.copy_from_slice(from);
    }
}

/// f16.
impl Store for u16 {
    fn store(from: &[f32], to: &mut [u16]) {
        bytemuck::cast_slice_mut::<u16, f16>(to).convert_from_f32_slice(from);
    }
}

/// bf16; a type of its own so that it does not collide with f16's patterns.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Bf16Bits(u16);

impl Store for Bf16Bits {
    fn store(from: &[f32], to: &mut [Bf16Bits]) {
        bytemuck::cast_slice_mut::<Bf16Bits, bf16>(to).convert_from_f32_slice(from);
    }
}

/// Bytes of `elements` values that `fill` writes, in place where the allocation happens to be aligned for
/// them (it is, with every allocator met so far).
fn as_bytes<T: Store>(elements: usize, fill: impl FnOnce(&mut [T])) -> Vec<u8> {
    let mut out = vec![0u8; elements * size_of::<T>()];
    if let Ok(values) = bytemuck::try_cast_slice_mut(&mut out) {
        fill(values);
        return out;
    }
    let mut values = vec![T::zeroed(); elements];
    fill(&mut values);
    out.copy_from_slice(bytemuck::cast_slice(&values));
    out
}

/// Index of the first value that is not within `limit` (NaN is not).
pub(super) fn first_beyond(values: &[f32], limit: f32) -> Option<usize> {
    const CHUNK: usize = 1 << 14;
    // Without an early exit inside, so that the comparison is vectorised.
    let within = |chunk: &[f32]| chunk.iter().fold(true, |all, v| all & (v.abs() <= limit));
    let bad = values.par_chunks(CHUNK).position_first(|chunk| !within(chunk))?;
    let begin = bad * CHUNK;
    values[begin..].iter().position(|v| v.is_nan() || v.abs() > limit).map(|i| begin + i)
}

fn refuse_beyond(t: Tensor<'_>, limit: f32, dtype: DType) -> Result<()> {
    match first_beyond(t.values, limit) {
        None => Ok(()),
        Some(i) => {
            let (name, value) = (t.name, t.values[i]);
            let why = format!("`{name}` element {i} is {value}, beyond the range of {} ({limit})", dtype.name());
            Err(Error::new(Kind::Weights, "weights", why).advise("store the weights in f32"))
        }
    }
}

/// Tensors poured one after another into the vectors: stacked biases fill one vector, a GEGLU bias two.
fn vectors(sources: &[Option<Tensor<'_>>], lengths: &[u32], packing: &Packing, dtype: DType) -> Result<Vec<u8>> {
    if dtype != DType::F32 {
        return Err(misfit(packing, format!("vectors are f32, not {}", dtype.name())));
    }
    let elements = extent::to_usize("vectors", packing.elements())?;
    if sources.iter().all(Option::is_none) {
        return Ok(vec![0; elements * size_of::<f32>()]);
    }
    let mut packed = vec![0.0f32; elements];
    let (mut index, mut begin, mut filled) = (0, 0, 0);
    for source in sources {
        let Some(t) = source else {
            // a tensor that is not there leaves the vector it would have begun at zero
            if filled == 0 && index < lengths.len() {
                begin += pitch(lengths[index] as usize);
                index += 1;
            }
            continue;
        };
        refuse_beyond(*t, f32::MAX, dtype)?;
        let mut values = t.values;
        while !values.is_empty() {
            let Some(&length) = lengths.get(index) else {
                return Err(misfit(packing, format!("`{}` has {} values too many", t.name, values.len())));
            };
            let length = length as usize;
            let count = values.len().min(length - filled);
            packed[begin + filled..begin + filled + count].copy_from_slice(&values[..count]);
            (values, filled) = (&values[count..], filled + count);
            if filled == length {
                (index, begin, filled) = (index + 1, begin + pitch(length), 0);
            }
        }
    }
    if filled != 0 || index < lengths.len() {
        return Err(misfit(packing, format!("only {index} vectors are filled")));
    }
    Ok(bytemuck::cast_slice(&packed).to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers without symmetry, exact in f16.
    fn numbers(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37 + 11) % 2039) as f32 - 1019.0).collect()
    }

    fn tensor<'a>(name: &'a str, values: &'a [f32]) -> Option<Tensor<'a>> {
        Some(Tensor { name, values })
    }

    fn as_f32(bytes: &[u8]) -> Vec<f32> {
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    #[test]
    fn convolutions_follow_the_formula_with_two_sources_and_padding() {
        for (taps, a, b, out) in [(9, 5, 19, 11), (1, 40, 8, 70), (9, 33, 0, 8)] {
            let inputs: Vec<u32> = [a, b].into_iter().filter(|&c| c > 0).collect();
            let w = numbers((out * (a + b) * taps) as usize);
            let packing = Packing::ConvKn { taps, sources: inputs, out };
            let got = as_f32(&pack(&[tensor("w", &w)], &packing, DType::F32).expect("packs"));
            assert_eq!(got.len() as u64, packing.elements());
            let (pa, pb, po) = (pitch(a as usize), pitch(b as usize), pitch(out as usize));
            let mut expected = vec![0.0; taps as usize * (pa + pb) * po];
            for o in 0..out as usize {
                for i in 0..(a + b) as usize {
                    for t in 0..taps as usize {
                        let k = t * (pa + pb) + if i < a as usize { i } else { pa + i - a as usize };
                        expected[k * po + o] = w[(o * (a + b) as usize + i) * taps as usize + t];
                    }
                }
            }
            assert_eq!(got, expected);
        }
    }

    #[test]
    fn linear_weights_stack_and_geglu_separates_its_halves() {
        let (q, k, v) = (numbers(13 * 20), numbers(5 * 20 + 1)[1..].to_vec(), numbers(70 * 20 + 3)[3..].to_vec());
        let packing = Packing::LinearKn { input: 20, outs: vec![13, 5, 70], geglu: false };
        let got =
            as_f32(&pack(&[tensor("q", &q), tensor("k", &k), tensor("v", &v)], &packing, DType::F32).expect("packs"));
        let (columns, stacked) = (88, [&q[..], &k[..], &v[..]].concat());
        for i in 0..24 {
            for o in 0..columns {
                let e = if i < 20 { stacked[o * 20 + i] } else { 0.0 };
                assert_eq!(got[i * columns + o], e, "{i},{o}");
            }
        }
        let packing = Packing::LinearKn { input: 20, outs: vec![13], geglu: true };
        let w = numbers(26 * 20);
        let got = as_f32(&pack(&[tensor("w", &w)], &packing, DType::F32).expect("packs"));
        for i in 0..24 {
            for o in 0..32 {
                let row = match o {
                    0..13 => Some(o),
                    16..29 => Some(13 + o - 16),
                    _ => None,
                };
                let e = row.filter(|_| i < 20).map_or(0.0, |r| w[r * 20 + i]);
                assert_eq!(got[i * 32 + o], e, "{i},{o}");
            }
        }
    }

    #[test]
    fn the_folded_upsampling_convolution_computes_what_the_plain_one_does() {
        let (h, w, ci, co) = (3usize, 4usize, 3usize, 2usize);
        let (x, k) = (numbers(h * w * ci), numbers(co * ci * 9));
        let packing = Packing::ConvUp2x2 { input: ci as u32, out: co as u32 };
        let got = as_f32(&pack(&[tensor("w", &k)], &packing, DType::F32).expect("packs"));
        let at = |y: i64, xx: i64, c: usize, scale: i64| {
            let inside = y >= 0 && xx >= 0 && y < scale * h as i64 && xx < scale * w as i64;
            if inside { x[((y / scale) as usize * w + (xx / scale) as usize) * ci + c] } else { 0.0 }
        };
        for y in 0..2 * h as i64 {
            for xx in 0..2 * w as i64 {
                for o in 0..co {
                    let (mut direct, mut folded) = (0.0f64, 0.0f64);
                    for c in 0..ci {
                        for t in 0..9 {
                            let value = at(y + t / 3 - 1, xx + t % 3 - 1, c, 2);
                            direct += f64::from(value * k[(o * ci + c) * 9 + t as usize]);
                        }
                        let (a, b) = (y & 1, xx & 1);
                        for tap in 0..4 {
                            let value = at(y / 2 + tap / 2 - 1 + a, xx / 2 + tap % 2 - 1 + b, c, 1);
                            let row = ((2 * a + b) * 4 + tap) as usize * 8 + c;
                            folded += f64::from(value * got[row * 8 + o]);
                        }
                    }
                    // whole numbers below 2^53: equal or wrong
                    assert!(direct == folded, "{y},{xx},{o}: {direct} {folded}");
                }
            }
        }
    }

    #[test]
    fn half_types_round_to_nearest_even_and_refuse_what_they_cannot_hold() {
        let packing = Packing::LinearKn { input: 8, outs: vec![1], geglu: false };
        // 2049 lies between 2048 and 2050, 2051 between 2050 and 2052: both go to the even mantissa
        let w = [2049.0, 2051.0, 65_504.0, -65_504.0, 6e-8, 1.0 / 3.0, 0.0, -0.0];
        let got = pack(&[tensor("w", &w)], &packing, DType::F16).expect("packs");
        let halves: Vec<f32> = got.chunks_exact(16).map(|row| f16::from_le_bytes([row[0], row[1]]).to_f32()).collect();
        assert_eq!(halves, [2048.0, 2052.0, 65_504.0, -65_504.0, f16::from_f32(6e-8).to_f32(), 0.333_251_95, 0.0, 0.0]);
        let got = pack(&[tensor("w", &w)], &packing, DType::Bf16).expect("packs");
        assert_eq!(bf16::from_le_bytes([got[16 * 5], got[16 * 5 + 1]]).to_f32(), bf16::from_f32(1.0 / 3.0).to_f32());
        for bad in [65_505.0, -7e4, f32::NAN, f32::INFINITY] {
            let mut w = w;
            w[3] = bad;
            let e = pack(&[tensor("proj.weight", &w)], &packing, DType::F16).expect_err("beyond");
            assert_eq!(e.kind(), Kind::Weights);
            assert!(e.message().contains("proj.weight") && e.message().contains("element 3"), "{e}");
        }
    }

    #[test]
    fn vectors_are_padded_stacked_and_zero_where_missing() {
        let (a, b) = (numbers(3), numbers(10));
        let packing = Packing::Vectors { lengths: vec![3, 5, 10] };
        let got = as_f32(&pack(&[tensor("a", &a), None, tensor("b", &b)], &packing, DType::F32).expect("packs"));
        let mut expected = vec![0.0; 32];
        expected[..3].copy_from_slice(&a);
        expected[16..26].copy_from_slice(&b);
        assert_eq!(got, expected);
        // one tensor over two vectors (GEGLU), and two tensors in one vector (stacked biases)
        let got = as_f32(&pack(&[tensor("b", &b)], &Packing::Vectors { lengths: vec![5, 5] }, DType::F32).expect("ok"));
        assert_eq!((&got[..5], &got[8..13]), (&b[..5], &b[5..]));
        let packing = Packing::Vectors { lengths: vec![13] };
        let got = as_f32(&pack(&[tensor("a", &a), tensor("b", &b)], &packing, DType::F32).expect("packs"));
        assert_eq!((&got[..3], &got[3..13]), (&a[..], &b[..]));
        assert!(pack(&[tensor("a", &a)], &packing, DType::F32).is_err());
        assert!(pack(&[tensor("b", &b), tensor("b", &b)], &packing, DType::F32).is_err());
        assert!(pack(&[tensor("a", &a)], &Packing::Vectors { lengths: vec![3] }, DType::F16).is_err());
    }

    #[test]
    fn tensors_of_another_size_are_refused() {
        let packing = Packing::ConvKn { taps: 9, sources: vec![4], out: 4 };
        let w = numbers(143);
        assert!(pack(&[tensor("w", &w)], &packing, DType::F32).expect_err("143").message().contains("144"));
        assert!(pack(&[None], &packing, DType::F32).is_err());
        assert!(pack(&[], &packing, DType::F32).is_err());
    }
}
