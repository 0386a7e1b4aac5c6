//! What is done before a job is given up: fewer items where memory runs out, the device opened again where it was
//! lost, a wider type where a window leaves the range of f16.

use crate::upscale::{model, picture};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tessera::backend::Backend;
use tessera::backend::cpu::Cpu;
use tessera::backend::fault::{Call, Failure, Fault, Faulty};
use tessera::backend::wgpu::WgpuBackend;
use tessera::image::{self, Colour, Depth};
use tessera::run::{Cancel, Engine, Report, Silent, Size, UpscaleOptions, upscale_with};
use tessera::{Error, Kind};

/// A model, a picture of nine windows, and a device that fails as told.
struct Bench {
    folder: tempfile::TempDir,
}

/// What a job gave: its report, or why it has none, and the picture's rows.
struct Outcome {
    report: Result<Report, Error>,
    rows: Option<Vec<Vec<f32>>>,
    opened: usize,
}

impl Bench {
    fn new(blown: Option<(&str, f32)>) -> Bench {
        let folder = tempfile::tempdir().expect("folder");
        model(&folder.path().join("model"), blown);
        picture(&folder.path().join("in.png"), 61, 47, Colour::Rgb, Depth::Sixteen);
        Bench { folder }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs the job on devices that fail as `faults` says: the first while the first device lives, and so on.
    fn run(&self, open: fn() -> Box<dyn Backend>, faults: Vec<Vec<Fault>>, batch: u32) -> Outcome {
        let mut options = UpscaleOptions::new(self.at("in.png"), Size::Scale(2.5));
        options.model = Some(self.at("model"));
        options.output = Some(self.at("out.png"));
        (options.tile, options.overlap, options.batch) = (Some(64), Some(16), Some(batch));
        let _ = std::fs::remove_file(self.at("out.png"));
        let opened = Arc::new(Mutex::new(0));
        let count = opened.clone();
        let opener = move || {
            let mut n = count.lock().expect("not poisoned");
            *n += 1;
            let faults = faults.get(*n - 1).cloned().unwrap_or_default();
            Ok(Box::new(Faulty::new(open(), faults)) as Box<dyn Backend>)
        };
        let mut engine = Engine::with_opener(opener, "faulty", "a test").expect("engine");
        let report = upscale_with(&mut engine, &options, &mut Silent, &Cancel::new());
        let out = self.at("out.png");
        assert_eq!(report.is_ok(), out.exists(), "a picture if and only if it is complete");
        let rows = out.exists().then(|| {
            let mut source = image::open(&out).expect("opens");
            let mut row = vec![0.0; source.header().row_len()];
            let height = source.header().height;
            (0..height).map(|_| source.read_row(&mut row).map(|()| row.clone()).expect("row")).collect()
        });
        let opened = *opened.lock().expect("not poisoned");
        Outcome { report, rows, opened }
    }
}

fn cpu() -> Box<dyn Backend> {
    Box::new(Cpu::new().expect("cpu"))
}

fn wgpu() -> Box<dyn Backend> {
    Box::new(WgpuBackend::open(0).expect("wgpu"))
}

fn at(call: Call, nth: u64, failure: Failure) -> Vec<Fault> {
    vec![Fault { call, nth, failure }]
}

#[test]
fn a_lost_device_is_opened_again_and_the_job_goes_on_with_the_same_bytes() {
    let bench = Bench::new(None);
    let want = bench.run(cpu, Vec::new(), 2);
    assert_eq!((want.report.as_ref().expect("runs").windows, want.opened), (9, 1));
    let mut survived = 0;
    for call in Call::ALL {
        for nth in (0..).step_by(if matches!(call, Call::Run | Call::Prepare) { 1 } else { 5 }) {
            let got = bench.run(cpu, vec![at(call, nth, Failure::Lost)], 2);
            assert!(got.report.is_ok(), "{call:?} {nth}: {:?}", got.report);
            assert!(got.rows == want.rows, "{call:?} {nth}");
            // The fault lies beyond what the job calls.
            if got.opened == 1 {
                assert!(nth > 0, "{call:?} is never made");
                break;
            }
            survived += 1;
        }
    }
    assert!(survived > 20, "{survived}");
    // Twice, at different places; and not for ever.
    let twice = vec![at(Call::Run, 2, Failure::Lost), at(Call::Run, 1, Failure::Lost)];
    let got = bench.run(cpu, twice, 1);
    assert!(got.rows == want.rows && got.opened == 3);
    let got = bench.run(cpu, vec![at(Call::Run, 0, Failure::Lost); 9], 1);
    let e = got.report.expect_err("given up");
    assert!(e.kind() == Kind::DeviceLost && e.message().contains("opened again 3 times"), "{e}");
    assert_eq!(got.opened, 4);
}

#[test]
fn where_memory_runs_out_launches_take_half_the_windows_and_the_bytes_stay() {
    let bench = Bench::new(None);
    let want = bench.run(cpu, Vec::new(), 1);
    for batch in [2, 4, 8] {
        for call in [Call::Alloc, Call::Prepare, Call::Write, Call::Run, Call::Read] {
            // Two lists are prepared, and eight windows at once take two launches after the setup list.
            for nth in 0..if call == Call::Prepare { 2 } else { 3 } {
                let got = bench.run(cpu, vec![at(call, nth, Failure::OutOfMemory)], batch);
                let report = got.report.unwrap_or_else(|e| panic!("{call:?} {nth}: {e}"));
                assert!(got.rows == want.rows, "{call:?} {nth} at {batch}");
                assert_eq!((report.windows, got.opened), (9, 1));
                let told = report.notes.iter().any(|n| n.contains(&format!("{} windows a launch", batch / 2)));
                assert!(told, "{call:?} {nth} at {batch}: {:?}", report.notes);
            }
        }
    }
    let got = bench.run(cpu, vec![at(Call::Run, 3, Failure::OutOfMemoryForever)], 4);
    let e = got.report.expect_err("no memory at all");
    assert!(e.kind() == Kind::Memory && e.message().contains("window"), "{e}");
}

#[test]
fn a_window_that_is_not_finite_is_computed_again_in_f32_or_refused_with_its_place() {
    // The first run of all is the setup list's. The host stores f32: there is no wider type.
    let bench = Bench::new(None);
    let want = bench.run(cpu, Vec::new(), 1);
    let got = bench.run(cpu, vec![at(Call::Run, 5, Failure::Corrupt)], 1);
    let e = got.report.expect_err("refused");
    assert!(e.kind() == Kind::NonFinite && e.message().contains("window 5 of 9"), "{e}");
    // In a batch each window is tried alone first: what failed once and not again was no fault of the numbers.
    let got = bench.run(cpu, vec![at(Call::Run, 1, Failure::Corrupt)], 3);
    assert!(got.rows == want.rows && got.report.expect("runs").redone == 0);
    if !crate::reference::have_wgpu() {
        return;
    }
    let want = bench.run(wgpu, Vec::new(), 1);
    assert_eq!(want.report.as_ref().expect("runs").dtype, "f16");
    let got = bench.run(wgpu, vec![at(Call::Run, 5, Failure::Corrupt)], 1);
    let report = got.report.expect("computed again");
    assert_eq!(report.redone, 1);
    assert!(report.notes.iter().any(|n| n.contains("window 5 of 9") && n.contains("f32")), "{:?}", report.notes);
    // Only that window's pixels may differ, by what f16 rounds.
    let (want, got) = (want.rows.expect("rows"), got.rows.expect("rows"));
    let mut differ = 0;
    for (y, (a, b)) in want.iter().zip(&got).enumerate() {
        for (x, (a, b)) in a.chunks_exact(3).zip(b.chunks_exact(3)).enumerate() {
            if a != b {
                differ += 1;
                assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < crate::tolerance::ONE_WINDOW_WIDER), "{y} {x}");
                // Windows of 64 over 153 x 118 pixels, three a row: the fifth is the one in the middle.
                assert!((46..110).contains(&x) && (26..92).contains(&y), "{y} {x}");
            }
        }
    }
    assert!(differ > 100, "{differ}");
    // The wider network runs its own setup list first.
    let both =
        vec![Fault { call: Call::Run, nth: 7, failure: Failure::Corrupt }, at(Call::Run, 5, Failure::Corrupt)[0]];
    let e = bench.run(wgpu, vec![both], 1).report.expect_err("in f32 as well");
    assert!(e.kind() == Kind::NonFinite && e.message().contains("in f32 as well"), "{e}");
}

#[test]
fn values_beyond_f16_do_not_cost_the_picture() {
    if !crate::reference::have_wgpu() {
        return;
    }
    // A first convolution far too large: its values pass 65,504, and the norm behind it undoes it.
    let bench = Bench::new(Some(("encoder.conv_in", 1.5e5)));
    let want = bench.run(cpu, Vec::new(), 1).rows.expect("f32 holds it");
    for batch in [1, 4] {
        let got = bench.run(wgpu, Vec::new(), batch);
        let report = got.report.expect("computed again");
        assert_eq!((report.redone, report.dtype.as_str()), (9, "f16"));
        assert!(report.notes.iter().any(|n| n.contains("9 windows")), "{:?}", report.notes);
        let got = got.rows.expect("rows");
        let worst = got.iter().flatten().zip(want.iter().flatten()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < crate::tolerance::REDONE, "{worst}");
    }
}
