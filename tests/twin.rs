//! The twin test: every row of the kernel table, on every backend present, against the naive f64
//! references of `problem/`, at odd sizes and with guard bands around every operand.

use crate::problem::{self, Case, Operand, Rows};
use crate::tolerance;
use std::collections::BTreeMap;
use tessera::abi::params::{CONTROL_HEADER_WORDS, STATUS_NARROW};
use tessera::abi::table::{self, Row, WeightForm};
use tessera::abi::{Access, BackendKind, Item, Params, Stem};
use tessera::backend::cuda::{self, CudaBackend};
use tessera::backend::wgpu::{WgpuBackend, adapters};
use tessera::backend::{Backend, BufferId};
use tessera::extent;
use tessera::graph::DType;
use tessera::graph::layout::Packing;
use tessera::plan::command::{Dispatch, PackedWeight, Range, Slot, SlotId, SlotKind};
use tessera::{Result, knobs};

/// A backend under test: its family and how to open it; `Ok(None)` where the machine has no such device.
struct Subject {
    kind: BackendKind,
    open: fn() -> Result<Option<Box<dyn Backend>>>,
}

/// Every backend. A new one adds a line here.
const SUBJECTS: &[Subject] = &[
    Subject { kind: BackendKind::Cpu, open: || Ok(Some(Box::new(tessera::backend::cpu::Cpu::new()?))) },
    Subject { kind: BackendKind::Wgpu, open: wgpu },
    Subject { kind: BackendKind::Wgpu, open: wgpu_as_the_other },
    Subject { kind: BackendKind::Cuda, open: open_cuda },
];

/// The first CUDA device, where there is one: a card, or the mock driver.
fn open_cuda() -> Result<Option<Box<dyn Backend>>> {
    if cuda::devices()?.is_empty() {
        return Ok(None);
    }
    Ok(Some(Box::new(CudaBackend::open(0)?)))
}

/// The first adapter: hardware where there is some.
fn open_wgpu() -> Result<Option<WgpuBackend>> {
    if adapters().is_empty() { Ok(None) } else { WgpuBackend::open(0).map(Some) }
}

fn wgpu() -> Result<Option<Box<dyn Backend>>> {
    Ok(open_wgpu()?.map(|b| Box::new(b) as Box<dyn Backend>))
}

/// The same device taken for the other class, so that every row runs on every machine.
fn wgpu_as_the_other() -> Result<Option<Box<dyn Backend>>> {
    Ok(open_wgpu()?.map(|mut b| {
        b.set_software(!b.caps().software);
        Box::new(b) as Box<dyn Backend>
    }))
}

/// Bytes of guard before and after every range.
const GUARD: u64 = 256;
/// Fills guards and outputs: NaN when read as f32, and each half NaN when read as f16 or bf16.
const POISON: [u8; 4] = 0x7fc1_7fc1u32.to_le_bytes();

/// One buffer as the host sees it: what was written, and which bytes may change.
struct Image {
    kind: SlotKind,
    bytes: Vec<u8>,
}

impl Image {
    fn new(kind: SlotKind) -> Image {
        Image { kind, bytes: Vec::new() }
    }

    /// Appends a guard, then `content`, then poison up to the alignment; returns the content's range.
    fn place(&mut self, slot: u32, content: &[u8]) -> Range {
        let start = extent::round_up(self.bytes.len() as u64 + GUARD, extent::ARENA_ALIGN);
        self.poison_to(start);
        self.bytes.extend_from_slice(content);
        self.poison_to(extent::round_up(start + content.len() as u64 + GUARD, extent::ARENA_ALIGN));
        Range { slot: SlotId(slot), offset: start, bytes: content.len() as u64 }
    }

    fn poison_to(&mut self, end: u64) {
        while (self.bytes.len() as u64) < end {
            self.bytes.push(POISON[self.bytes.len() % 4]);
        }
    }
}

fn weight_kind(dtype: DType, len: usize) -> SlotKind {
    // The backend copies bytes; the recipe is only carried along.
    let packing = Packing::Vectors { lengths: vec![len as u32] };
    SlotKind::Weight(PackedWeight { tensors: vec![None], packing, dtype })
}

/// Runs `case` by `row` and returns the largest error as a share of the allowed one and the output's bytes,
/// or what is wrong.
pub fn run_case(backend: &mut dyn Backend, row: &Row, case: &Case) -> std::result::Result<(f64, Vec<u8>), String> {
    let stem = case.params.stem();
    // Slot 0 is the arena, slot 1 control, weights follow.
    let mut images = vec![Image::new(SlotKind::Arena), Image::new(SlotKind::Control)];
    let mut control = vec![0u8; 4 * CONTROL_HEADER_WORDS as usize];
    control.extend_from_slice(bytemuck::cast_slice::<Item, u8>(&case.items));
    images[1].bytes = control;
    let control_range = Range { slot: SlotId(1), offset: 0, bytes: images[1].bytes.len() as u64 };

    let mut bindings: Vec<Option<Range>> = Vec::new();
    let mut outputs = Vec::new();
    for (index, binding) in stem.bindings().iter().enumerate() {
        let range = if binding.access == Access::Control {
            Some(control_range)
        } else {
            match case.operand(index, row.weight) {
                None => None,
                Some(Operand::Same(other)) => bindings[*other],
                Some(Operand::Output(len, dtype)) => {
                    let poison: Vec<u8> = (0..*len as u64 * dtype.bytes()).map(|i| POISON[i as usize % 4]).collect();
                    let range = images[0].place(0, &poison);
                    outputs.push((range, *dtype));
                    Some(range)
                }
                Some(Operand::Data(values, dtype)) => {
                    let bytes = problem::encode(values, *dtype);
                    if binding.access == Access::Weight {
                        let slot = images.len() as u32;
                        images.push(Image::new(weight_kind(*dtype, values.len())));
                        Some(images[slot as usize].place(slot, &bytes))
                    } else {
                        Some(images[0].place(0, &bytes))
                    }
                }
            }
        };
        if range.is_none() && !binding.optional {
            return Err(format!("the case lacks the operand `{}`", binding.name));
        }
        bindings.push(range);
    }
    let scratch = (row.scratch)(&case.params, case.types);
    if scratch > 0 {
        let index = stem.bindings().iter().position(|b| b.name == "scratch").ok_or("no scratch binding")?;
        bindings[index] = Some(images[0].place(0, &vec![0xff; scratch as usize]));
    }
    let &(out, dtype) = outputs.first().ok_or("the case has no output")?;

    let say = |e: tessera::Error| format!("{e:?}");
    let mut buffers: Vec<BufferId> = Vec::new();
    for image in &images {
        let slot = Slot { kind: image.kind.clone(), bytes: image.bytes.len() as u64 };
        let buffer = backend.alloc(&slot).map_err(say)?;
        backend.write(buffer, 0, &image.bytes).map_err(say)?;
        buffers.push(buffer);
    }
    let dispatch = Dispatch {
        stem,
        variant: row.variant,
        types: case.types,
        params: case.params,
        grid: (row.grid)(&case.params, case.types),
        bindings: bindings.clone(),
        label: case.name.clone(),
        flops: 0,
        bytes: 0,
    };
    let list = backend.prepare(&[dispatch], &buffers).map_err(say)?;
    backend.run(list).map_err(say)?;
    let mut after: Vec<Vec<u8>> = Vec::new();
    for (image, &buffer) in images.iter().zip(&buffers) {
        let mut bytes = vec![0; image.bytes.len()];
        backend.read(buffer, 0, &mut bytes).map_err(say)?;
        after.push(bytes);
    }
    // A second run over other numbers must give the same bytes: nothing may depend on what lay there, or be left from the first.
    for (range, _) in &outputs {
        backend.write(buffers[0], range.offset, &vec![0x3c; range.bytes as usize]).map_err(say)?;
    }
    backend.run(list).map_err(say)?;
    let mut again: Vec<Vec<u8>> = Vec::new();
    for (range, _) in &outputs {
        let mut bytes = vec![0; range.bytes as usize];
        backend.read(buffers[0], range.offset, &mut bytes).map_err(say)?;
        again.push(bytes);
    }
    backend.discard(list);
    for buffer in buffers {
        backend.free(buffer);
    }

    let written = |r: &Range| &after[0][r.offset as usize..(r.offset + r.bytes) as usize];
    if outputs.iter().zip(&again).any(|((range, _), again)| written(range) != again) {
        return Err("a second run gives other bytes".into());
    }
    let again = again.swap_remove(0);
    check_untouched(&images, &after, &bindings, stem)?;
    let status = u32::from_le_bytes([after[1][0], after[1][1], after[1][2], after[1][3]]);
    let wanted = if case.narrows { STATUS_NARROW } else { 0 };
    if status != wanted {
        return Err(format!("status word {status:#x}, expected {wanted:#x}"));
    }
    if case.narrows {
        return Ok((0.0, again));
    }
    let got = problem::decode(written(&out), dtype);
    let mut worst = compare(&case.expected, &got, case.rows(), case.exact, limit(row, case, dtype))?;
    if let (Params::Conv2d(p), Some((range, _))) = (&case.params, outputs.get(1)) {
        let expected = problem::conv2d::statistics(p, &case.items, &got, row.weight);
        let limit = tolerance::kernel(Stem::GroupNormStats, DType::F32);
        let rows = Rows { kinds: problem::MOMENTS, width: p.pitch_y as usize };
        let error = compare(&expected, &problem::decode(written(range), DType::F32), rows, false, limit);
        worst = worst.max(error.map_err(|e| format!("statistics: {e}"))?);
    }
    Ok((worst, again))
}

/// Everything but the ranges that are written, and the status word, must be as it was.
fn check_untouched(
    images: &[Image],
    after: &[Vec<u8>],
    bindings: &[Option<Range>],
    stem: Stem,
) -> std::result::Result<(), String> {
    for (slot, (image, after)) in images.iter().zip(after).enumerate() {
        let written: Vec<&Range> = stem
            .bindings()
            .iter()
            .zip(bindings)
            .filter(|(b, _)| b.access == Access::Write)
            .filter_map(|(_, r)| r.as_ref())
            .filter(|r| r.slot.0 as usize == slot)
            .collect();
        for (at, (was, is)) in image.bytes.iter().zip(after).enumerate() {
            let at = at as u64;
            let free = written.iter().any(|r| (r.offset..r.offset + r.bytes).contains(&at)) || (slot == 1 && at < 4);
            if was != is && !free {
                return Err(format!("byte {at} of slot {slot} was changed outside every output; outputs: {written:?}"));
            }
        }
    }
    Ok(())
}

/// What a row may be away from a case's expected values.
fn limit(row: &Row, case: &Case, dtype: DType) -> tolerance::Tolerance {
    let mut limit = tolerance::kernel(row.stem, dtype);
    if row.stem == Stem::Attention && (row.variant.contains("mma") || row.variant.contains("tma")) {
        limit.absolute += tolerance::rounded_exponentials(case.types.x);
    }
    if row.variant.contains("tf32") {
        limit.absolute += tolerance::TF32;
    }
    limit
}

/// The largest error as a share of the allowed one, each kind of row held to its own largest value.
fn compare(
    expected: &[f64],
    got: &[f64],
    rows: Rows,
    exact: bool,
    limit: tolerance::Tolerance,
) -> std::result::Result<f64, String> {
    let kind = |i: usize| (i / rows.width) % rows.kinds;
    let mut largest = vec![0f64; rows.kinds];
    for (i, e) in expected.iter().enumerate() {
        largest[kind(i)] = largest[kind(i)].max(e.abs());
    }
    let allowed =
        |i: usize| if exact { 0.0 } else { limit.relative * expected[i].abs() + limit.absolute * largest[kind(i)] };
    let mut worst = 0f64;
    for (i, (&g, &e)) in got.iter().zip(expected).enumerate() {
        let allowed_here = allowed(i);
        let error = (g - e).abs();
        if !within(g, e, allowed_here) {
            let wrong = (0..got.len()).filter(|&i| !within(got[i], expected[i], allowed(i))).count();
            return Err(format!(
                "element {i} is {g}, expected {e} (+-{allowed_here:.2e}); {wrong} of {} differ by more",
                got.len()
            ));
        }
        if allowed_here > 0.0 {
            worst = worst.max(error / allowed_here);
        }
    }
    Ok(worst)
}

/// A NaN is within nothing.
fn within(got: f64, expected: f64, allowed: f64) -> bool {
    (got - expected).abs() <= allowed
}

/// Whether the row and the device take this case.
fn takes(backend: &dyn Backend, row: &Row, case: &Case) -> bool {
    let caps = backend.caps();
    let t = case.types;
    let has_form = row.weight != WeightForm::Up2x2 || case.other_weights.iter().any(|(f, _)| *f == row.weight);
    [t.x, t.w, t.y].iter().all(|d| caps.dtypes.contains(d)) && row.takes(&case.params, t, caps) && has_form
}

fn kind_name(kind: BackendKind) -> &'static str {
    match kind {
        BackendKind::Cpu => "cpu",
        BackendKind::Wgpu => "wgpu",
        BackendKind::Cuda => "cuda",
    }
}

#[test]
fn every_kernel_matches_its_reference() {
    let failures = hold(SUBJECTS, &Stem::ALL, |_| true);
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

/// Holds every CUDA row of `stems` to its references, on a device that must be there.
pub fn hold_cuda(stems: &[Stem]) {
    hold_cuda_rows(stems, |_| true);
}

/// The same of the rows whose variants are `chosen`.
pub fn hold_cuda_rows(stems: &[Stem], chosen: fn(&str) -> bool) {
    assert!(open_cuda().expect("the device opens").is_some(), "no CUDA device");
    let failures = hold(&[Subject { kind: BackendKind::Cuda, open: open_cuda }], stems, chosen);
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

/// Runs every case of `stems` on every chosen row of every subject; what went wrong.
fn hold(subjects: &[Subject], stems: &[Stem], chosen: fn(&str) -> bool) -> Vec<String> {
    let cases: BTreeMap<Stem, Vec<Case>> = stems.iter().map(|&s| (s, problem::cases(s))).collect();
    let mut failures = Vec::new();
    let mut skipped = 0;
    // Cases each row ran, over all subjects of its kind: a row for hardware alone is covered by one of them.
    let mut covered: BTreeMap<(&str, Stem, &str), usize> = BTreeMap::new();
    println!("{:<6} {:<18} {:<13} {:>5} {:>22}", "device", "stem", "variant", "cases", "worst error / allowed");
    for subject in subjects {
        let mut backend = match (subject.open)() {
            Ok(Some(backend)) => backend,
            Ok(None) if subject.kind == BackendKind::Cuda => {
                // Its rows run on the mock driver wherever that can be built, see `cuda.rs`.
                println!("no CUDA device here");
                continue;
            }
            Ok(None) => {
                skipped += 1;
                println!("SKIPPED {:?}: no such device here", subject.kind);
                if knobs::is_on("TESSERA_REQUIRE_WGPU") {
                    failures.push(format!("{:?} is required and absent", subject.kind));
                }
                continue;
            }
            Err(e) => {
                failures.push(format!("{:?} does not open: {e:?}", subject.kind));
                continue;
            }
        };
        for row in table::rows(subject.kind).iter().filter(|r| stems.contains(&r.stem) && chosen(r.variant)) {
            let caps = backend.caps();
            let asked = [("wgmma", caps.wgmma), ("tma", caps.tma), ("tf32", caps.tf32)];
            if asked.iter().any(|(way, has)| row.variant.contains(way) && !has) {
                println!("LEFT OUT: {} {}: not there or not asked for", row.stem.name(), row.variant);
                continue;
            }
            let began = std::time::Instant::now();
            let mut worst = 0f64;
            let mut ran = 0;
            for case in &cases[&row.stem] {
                if !takes(backend.as_ref(), row, case) {
                    continue;
                }
                ran += 1;
                match run_case(backend.as_mut(), row, case) {
                    Ok((error, _)) => worst = worst.max(error),
                    Err(why) => failures.push(format!(
                        "{:?} {} {} `{}`: {why}",
                        subject.kind,
                        row.stem.name(),
                        row.variant,
                        case.name
                    )),
                }
            }
            println!(
                "{:<6} {:<18} {:<13} {ran:>5} {worst:>22.3} {:>7.1} s",
                kind_name(subject.kind),
                row.stem.name(),
                row.variant,
                began.elapsed().as_secs_f64()
            );
            *covered.entry((kind_name(subject.kind), row.stem, row.variant)).or_default() += ran;
        }
        if backend.allocated() != 0 {
            failures.push(format!(
                "{:?} holds {} bytes after every buffer was freed",
                subject.kind,
                backend.allocated()
            ));
        }
    }
    for ((kind, stem, variant), _) in covered.iter().filter(|(_, ran)| **ran == 0) {
        failures.push(format!("{kind} {} {variant}: no case covers it", stem.name()));
    }
    println!("{} backends, {skipped} skipped", subjects.len());
    failures
}

/// Compares the bytes of the first item of each case of `stem`, alone and among the others, by what the table chooses for either. Gives how
/// many there were, and how many of them could differ since K goes into parts and sums are rounded.
fn hold_items(backend: &mut dyn Backend, stem: Stem) -> [usize; 2] {
    let mut compared = [0; 2];
    for case in problem::cases(stem) {
        let Some(alone) = case.first_item() else { continue };
        let row = |case: &Case, backend: &dyn Backend| {
            let row = table::select(&case.params, case.types, backend.caps()).ok()?;
            takes(backend, row, case).then_some(row)
        };
        let (Some(of_one), Some(of_all)) = (row(&alone, backend), row(&case, backend)) else { continue };
        let one = run_case(backend, of_one, &alone).unwrap_or_else(|e| panic!("`{}` alone: {e}", case.name)).1;
        let all = run_case(backend, of_all, &case).unwrap_or_else(|e| panic!("`{}`: {e}", case.name)).1;
        let ways = [of_one.variant, of_all.variant];
        assert!(one == all[..one.len()], "{} `{}`: other bytes alone, {ways:?}", stem.name(), case.name);
        compared[0] += 1;
        compared[1] += usize::from(!case.exact && ways.iter().all(|way| way.contains("split")));
    }
    println!("{} {}: {} cases, {} in parts", kind_name(backend.caps().kind), stem.name(), compared[0], compared[1]);
    assert!(compared[0] >= 4, "{}: {} cases", stem.name(), compared[0]);
    compared
}

/// The stems whose sums are long and go by items.
const LONG_SUMS: [Stem; 3] = [Stem::Conv2d, Stem::Gemm, Stem::Attention];

#[test]
fn items_have_the_same_bytes_alone() {
    for subject in &SUBJECTS[..3] {
        let Ok(Some(mut backend)) = (subject.open)() else {
            println!("SKIPPED {}: no such device here", kind_name(subject.kind));
            continue;
        };
        for stem in LONG_SUMS {
            hold_items(backend.as_mut(), stem);
        }
    }
}

/// The same on the CUDA device, which must be there and put K into parts.
pub fn hold_cuda_items() {
    let mut backend = open_cuda().expect("the device opens").expect("a CUDA device");
    for stem in LONG_SUMS {
        let [_, in_parts] = hold_items(backend.as_mut(), stem);
        assert!(in_parts >= 3 || stem == Stem::Attention, "{}: {in_parts} cases in parts", stem.name());
    }
}

/// Panels follow the layer alone, so the number of threads changes no bit of any result.
#[test]
fn threads_do_not_change_the_result() {
    let open = |threads| tessera::backend::cpu::Cpu::with_threads(threads).expect("a thread pool");
    let (mut one, mut three) = (open(1), open(3));
    let mut compared = 0;
    for row in table::rows(BackendKind::Cpu) {
        for case in problem::cases(row.stem).iter().filter(|c| c.types == problem::F32) {
            if takes(&one, row, case) {
                let a = run_case(&mut one, row, case).expect("one thread");
                let b = run_case(&mut three, row, case).expect("three threads");
                assert!(a.1 == b.1, "{} {} `{}`", row.stem.name(), row.variant, case.name);
                compared += 1;
            }
        }
    }
    assert!(compared > 50, "{compared} cases");
}
