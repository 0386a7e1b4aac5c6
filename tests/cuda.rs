//! The CUDA side without a GPU: what the kernel table says against the kernels' own files, and the backend
//! on the mock driver of `tests/cuda`, which runs the same kernels compiled for the host.
//!
//! The driver is a shared library that is found when the process starts, so each test on it is a child: this
//! binary again, with the mock in its library path, running one of the ignored tests below.

use crate::problem;
use crate::reference;
use crate::source;
use crate::tolerance;
use crate::twin;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use tessera::abi::generate::STRUCTS;
use tessera::abi::table::cuda::Target;
use tessera::abi::table::{self, cuda};
use tessera::abi::{BackendKind, Caps, Stem, Types};
use tessera::backend::cuda::{CudaBackend, devices, ptx};
use tessera::backend::{Backend, BufferId};
use tessera::graph::DType;
use tessera::knobs;
use tessera::limits;
use tessera::plan::command::{Slot, SlotKind};
use tessera::run::Engine;

/// Every combination of types that the planner may ask a stem for.
fn types(stem: Stem) -> Vec<Types> {
    let f32 = DType::F32;
    let mut out = vec![Types { x: f32, w: f32, y: f32 }];
    for half in [DType::F16, DType::Bf16] {
        for (x, y) in [(half, half), (half, f32), (f32, half), (f32, f32)] {
            let w = if matches!(stem, Stem::Conv2d | Stem::Gemm) { half } else { x };
            out.push(Types { x, w, y });
        }
    }
    out
}

/// The kernels that rows name, by what a launch of each row may have for types.
fn entries() -> Vec<(Stem, Target, String)> {
    let mut out = Vec::new();
    for l in cuda::LAUNCHES {
        let half = l.variant.contains("mma") || l.variant.contains("tma");
        for t in types(l.stem) {
            let f32 = [t.x, t.w, t.y] == [DType::F32; 3];
            let served = if l.variant.contains("tf32") { f32 } else { !half || (t.x != DType::F32 && t.w == t.x) };
            if served {
                out.push((l.stem, l.target(), cuda::entry(l.stem, l.variant, t)));
            }
        }
    }
    out.sort_by(|a, b| a.2.cmp(&b.2));
    out.dedup();
    out
}

#[test]
fn launches_are_what_the_kernels_say() {
    let text = source::read(Path::new("kernels/launch.txt"));
    let mut said: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    let mut ours: Vec<String> =
        cuda::LAUNCHES.iter().map(|l| format!("{}_{} {} {}", l.stem.name(), l.variant, l.threads, l.shared)).collect();
    said.sort_unstable();
    ours.sort();
    assert_eq!(ours, said, "src/abi/table/cuda.rs and kernels/launch.txt");
}

#[test]
fn every_kernel_of_the_table_is_in_its_module() {
    let mut missing = Vec::new();
    for (stem, target, entry) in entries() {
        if !ptx(stem, target).is_some_and(|text| text.contains(&format!(".entry {entry}("))) {
            missing.push(entry);
        }
    }
    assert!(missing.is_empty(), "not in kernels/ptx: {}", missing.join(", "));
    let both = |stem| [(Target::Sm80, 7), (Target::Sm90a, 8)].map(|(t, major)| (stem, t, major));
    for (stem, target, major) in Stem::ALL.into_iter().flat_map(both) {
        let Some(text) = ptx(stem, target) else {
            assert!(target != Target::Sm80, "{} has no kernels", stem.name());
            continue;
        };
        let name = format!("{} for {}", stem.name(), target.name());
        assert!(text.contains(&format!("\n.target {}\n", target.name())), "{name}: built for another card");
        let prefix = format!(".version {major}.");
        let version = text.lines().find_map(|l| l.strip_prefix(&prefix)).expect("that version of PTX");
        assert!(version.parse::<u32>().is_ok_and(|v| v <= 8), "{name}: PTX {major}.{version}");
        assert!(!text.contains(".local"), "{name}: a kernel uses local memory");
        // The first parameter is the struct, by value.
        let params = stem.name().split('_').map(|w| w[..1].to_uppercase() + &w[1..]).collect::<String>() + "Params";
        let bytes = STRUCTS.iter().find(|(n, ..)| *n == params).expect("its parameters").2;
        let expected = text.matches(".entry ").count();
        let found = text.matches(&format!("_param_0[{bytes}]")).count();
        assert_eq!(found, expected, "{name}: kernels that take {bytes} bytes of parameters");
    }
}

/// `kernels/resources.txt` has a line for each kernel and card: no local memory, shared memory within bounds.
#[test]
fn resources_are_listed_for_every_kernel() {
    let text = source::read(Path::new("kernels/resources.txt"));
    let mut rows: Vec<(&str, &str)> = Vec::new();
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [kernel, card, registers, shared, local] = words[..] else { panic!("resources.txt: {line}") };
        let number = |w: &str| w.parse::<u32>().unwrap_or_else(|_| panic!("resources.txt: {line}"));
        assert!(number(registers) <= 255 && number(local) == 0, "{line}");
        let most = if card == "sm_90a" { limits::CUDA_MAX_SHARED_HOPPER } else { limits::CUDA_MAX_SHARED };
        assert!(number(shared) <= most, "{line}");
        // 256 threads of the products on tensor cores: two blocks share a processor's 65536 registers.
        let product = ["mma", "tf32"].iter().any(|way| kernel.contains(way)) && !kernel.starts_with("attention");
        assert!(!product || number(registers) <= 128, "one block a processor: {line}");
        // What 384 threads begin with, before those that copy give theirs to those that multiply.
        assert!(!kernel.contains("tma") || number(registers) <= 168, "no block a processor: {line}");
        rows.push((kernel, card));
    }
    for (_, target, entry) in entries() {
        let cards: Vec<&str> = rows.iter().filter(|(k, _)| *k == entry).map(|(_, card)| *card).collect();
        let wanted: &[&str] =
            if target == Target::Sm80 { &["sm_80", "sm_86", "sm_89", "sm_90", "sm_120"] } else { &["sm_90a"] };
        assert_eq!(cards, wanted, "{entry}");
    }
}

/// The folder of the mock driver and of the program that runs probes, built once; `None` where there is no compiler for them.
pub fn mock() -> Option<&'static Path> {
    static MOCK: OnceLock<Option<PathBuf>> = OnceLock::new();
    let built = MOCK.get_or_init(|| {
        let folder = source::root().join("target/mock-cuda");
        let build = Command::new("bash")
            .args(["tests/cuda/build", "--probes"])
            .arg(&folder)
            .current_dir(source::root())
            .output();
        match build {
            Ok(out) if out.status.success() => Some(folder),
            // 3: no compiler. Anything else is a mistake in what it compiles.
            Ok(out) if out.status.code() == Some(3) => None,
            Err(_) => None,
            Ok(out) => panic!(
                "tests/cuda/build: {}\n{}{}",
                out.status,
                String::from_utf8_lossy(&out.stdout),
                String::from_utf8_lossy(&out.stderr)
            ),
        }
    });
    if built.is_none() {
        assert!(!knobs::is_on("TESSERA_REQUIRE_MOCK"), "the mock CUDA driver is required and cannot be built");
        println!("SKIPPED: no C++ compiler for the mock CUDA driver");
    }
    built.as_deref()
}

/// Runs the ignored test `name` on the mock driver in a process of its own.
fn child(folder: &Path, name: &str, settings: &[(&str, &str)]) -> Output {
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command.args(["--exact", name, "--ignored", "--nocapture", "--test-threads=1"]);
    command.env("LD_LIBRARY_PATH", folder).envs(settings.iter().copied());
    command.output().expect("the test binary runs")
}

/// The same; its output, after it passed.
fn pass(name: &str, settings: &[(&str, &str)]) -> Option<String> {
    let out = child(mock()?, name, settings);
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && text.contains("test result: ok. 1 passed"), "{name} {settings:?}:\n{text}");
    Some(text)
}

/// A card of compute capability 9.0 and what is only done when asked for, so that every row of the table runs: also that no more
/// of a real card's processors are counted than small shapes have tiles for, as `tools/gpu_check` does on one.
const HOPPER: [(&str, &str); 5] = [
    ("TESSERA_MOCK_SM", "90"),
    ("TESSERA_CUDA_WGMMA", "tma"),
    ("TESSERA_CUDA_TF32", "1"),
    ("TESSERA_MOCK_PROCESSORS", "132"),
    ("TESSERA_CUDA_PROCESSORS", "2"),
];

/// A test of kernels that leaves no row of the table out.
fn hold_all(name: &str, settings: &[(&str, &str)]) {
    if let Some(text) = pass(name, settings) {
        assert!(!text.contains("LEFT OUT"), "{text}");
        println!("{text}");
    }
}

#[test]
fn the_mock_driver_runs_the_products() {
    hold_all("cuda::child_products", &HOPPER);
}

#[test]
fn the_mock_driver_runs_the_other_kernels() {
    // Work that waits until something waits for it: a host that looks too early would see.
    hold_all("cuda::child_others", &[&HOPPER[..], &[("TESSERA_MOCK_DEFER", "1")]].concat());
}

/// With more processors than tiles, so that a tile's K goes into several parts.
#[test]
fn the_mock_driver_runs_products_in_parts() {
    for processors in ["3", "7"] {
        let more = [("TESSERA_CUDA_PROCESSORS", processors), ("TESSERA_MOCK_TWICE", "1")];
        pass("cuda::child_parts", &[&HOPPER[..], &more].concat()).iter().for_each(|text| println!("{text}"));
    }
}

/// With and without processors for more tiles than one item has.
#[test]
fn items_have_the_same_bytes_alone_on_the_mock_driver() {
    for processors in ["3", "7", "132"] {
        let more = [("TESSERA_CUDA_PROCESSORS", processors)];
        pass("cuda::child_items", &[&HOPPER[..], &more].concat()).iter().for_each(|text| println!("{text}"));
    }
}

#[test]
#[ignore = "runs on the mock driver, see `child`"]
fn child_items() {
    twin::hold_cuda_items();
}

#[test]
#[ignore = "runs on the mock driver, see `child`"]
fn child_parts() {
    twin::hold_cuda_rows(&[Stem::Conv2d, Stem::Gemm], |variant| variant.contains("split"));
}

#[test]
#[ignore = "runs on the mock driver, see `child`"]
fn child_products() {
    twin::hold_cuda(&[Stem::Conv2d, Stem::Gemm]);
}

#[test]
#[ignore = "runs on the mock driver, see `child`"]
fn child_others() {
    let products = [Stem::Conv2d, Stem::Gemm];
    let others: Vec<Stem> = Stem::ALL.into_iter().filter(|s| !products.contains(s)).collect();
    twin::hold_cuda(&others);
}

// One test for each type, so that they run beside each other.
#[test]
fn weights_are_streamed_beside_the_kernels_on_the_mock_driver() {
    pass("cuda::child_streamed", &[]).iter().for_each(|text| println!("{text}"));
}

#[test]
#[ignore = "runs on the mock driver, see `child`"]
fn child_streamed() {
    crate::budget::hold_streamed(&|| Box::new(CudaBackend::open(0).expect("opens")), 1);
}

#[test]
fn the_mock_driver_runs_the_networks_in_f16() {
    pass("cuda::child_networks_f16", &[]).iter().for_each(|text| println!("{text}"));
}

#[test]
fn the_mock_driver_runs_the_networks_in_bf16() {
    pass("cuda::child_networks_bf16", &[]).iter().for_each(|text| println!("{text}"));
}

#[test]
fn the_mock_driver_runs_the_networks_in_f32() {
    pass("cuda::child_networks_f32", &[]).iter().for_each(|text| println!("{text}"));
}

/// A decoder on tiles whose levels are whole blocks of rows, so that its convolutions make the statistics of the norms behind them:
/// as near the host's result as with norms that read their input, and other bytes, since sums are others.
#[test]
fn networks_are_the_same_whoever_makes_the_statistics() {
    let Some(driver) = mock() else { return };
    let folder = tempfile::tempdir().expect("folder");
    let row = reference::rows().into_iter().find(|r| r.name == "vae_decoder").expect("the case");
    let input = folder.path().join("in.safetensors");
    reference::noise(&input, "sample", [3, 4, 8, 16]);
    let run = |name: &str, settings: &[(&str, &str)], device: &str, dtype: &str| {
        let out = folder.path().join(name);
        let mut command = Command::new(env!("CARGO_BIN_EXE_tessera"));
        command.args(["run", row.component.name(), "-g", device, "--dtype", dtype, "-m"]).arg(row.model());
        command.arg("--in").arg(&input).arg("--out").arg(&out).env("LD_LIBRARY_PATH", driver);
        let ran = command.envs(settings.iter().copied()).output().expect("the program runs");
        assert!(ran.status.success(), "{name}: {}", String::from_utf8_lossy(&ran.stderr));
        reference::output(&out)
    };
    let host = run("host", &[], "cpu", "f32");
    let plain: &[(&str, &str)] = &[];
    for (dtype, settings) in [("f16", plain), ("bf16", plain), ("f16", &HOPPER[..])] {
        let limit = if dtype == "f16" { reference::half_limit(&row) } else { reference::bf16_limit(&row) };
        let apart: Vec<_> = settings.iter().copied().chain([("TESSERA_CUDA_STATISTICS", "apart")]).collect();
        let made = run(&format!("{dtype} made {}", settings.len()), settings, "cuda", dtype);
        let apart = run(&format!("{dtype} apart {}", settings.len()), &apart, "cuda", dtype);
        let errors = [&made, &apart].map(|v| reference::relative_l2(v.iter().map(|&v| f64::from(v)), &host));
        println!(
            "{dtype} {settings:?}: relative L2 {:.2e} and apart {:.2e}, allowed {limit:.2e}",
            errors[0], errors[1]
        );
        assert!(errors.iter().all(|&e| e <= limit), "{dtype} {settings:?}: {errors:?}, allowed {limit:e}");
        assert!(made != apart, "{dtype} {settings:?}: no convolution made statistics");
    }
}

#[test]
#[ignore = "runs on the mock driver, see `child`"]
fn child_networks_f16() {
    reference::hold("cuda:0", "f16", reference::half_limit);
}

#[test]
#[ignore = "runs on the mock driver, see `child`"]
fn child_networks_bf16() {
    reference::hold("cuda:0", "bf16", reference::bf16_limit);
}

#[test]
#[ignore = "runs on the mock driver, see `child`"]
fn child_networks_f32() {
    reference::hold("cuda:0", "f32", |_| tolerance::NETWORK_F32);
}

/// Opens the first device, and runs one small case by its row: twice the launch, two transfers each way.
fn small_case() -> Result<(), String> {
    let mut backend = CudaBackend::open(0).map_err(|e| format!("{e:?}"))?;
    let result = run_small(&mut backend);
    println!("graphs: {}", backend.why_not_graphs().unwrap_or("yes"));
    result
}

fn run_small(backend: &mut CudaBackend) -> Result<(), String> {
    let row = table::find(BackendKind::Cuda, Stem::Pointwise, "base").expect("a row");
    let cases = problem::cases(Stem::Pointwise);
    let case = cases.iter().find(|c| c.types == problem::F32 && !c.narrows).expect("a case");
    twin::run_case(backend, row, case).map(|_| ())
}

#[test]
#[ignore = "runs on the mock driver, see `child`"]
fn child_small() {
    match small_case() {
        Ok(()) => println!("RESULT right"),
        Err(why) => println!("RESULT {why}"),
    }
    println!("AUTO {}", Engine::open("auto", None).expect("auto always opens").why());
    println!("DEVICES {:?}", devices());
}

/// What follows `key` on its line; the test's own name may stand before it.
fn line<'a>(text: &'a str, key: &str) -> &'a str {
    let found = text.lines().find_map(|l| l.split_once(key).map(|(_, rest)| rest));
    found.unwrap_or_else(|| panic!("no {key} in:\n{text}"))
}

/// Holds the lines of a run of [`child_small`] under `settings` to what they must name.
fn faulty(settings: &[(&str, &str)], expected: &[(&str, &[&str])]) {
    let Some(text) = pass("cuda::child_small", settings) else { return };
    for (key, words) in expected {
        let found = line(&text, key);
        let missing: Vec<&&str> = words.iter().filter(|w| !found.contains(**w)).collect();
        assert!(missing.is_empty(), "{settings:?}: {key} lacks {missing:?}:\n{text}");
    }
}

#[test]
fn without_a_fault_everything_works_as_recorded_graphs() {
    faulty(
        &[],
        &[
            ("RESULT", &["right"]),
            ("graphs:", &["yes"]),
            ("AUTO", &["the first CUDA device that serves"]),
            ("DEVICES", &["capability: [8, 0]", "lacks: []"]),
        ],
    );
    // Kernel by kernel the result is the same, and so it is where the driver records nothing: it says why.
    faulty(&[("TESSERA_CUDA_SYNC", "1")], &[("RESULT", &["right"]), ("graphs:", &["TESSERA_CUDA_SYNC"])]);
    let refuses = [("TESSERA_MOCK_FAIL", "cuStreamBeginCapture_v2:1:900")];
    faulty(&refuses, &[("RESULT", &["right"]), ("graphs:", &["CAPTURE_UNSUPPORTED"])]);
}

#[test]
fn devices_that_do_not_serve_are_refused_with_the_reason() {
    // No device at all; a driver that does not start; a card too old; PTX newer than the driver reads.
    let absent = [("TESSERA_MOCK_FAIL", "cuInit:1:100"), ("TESSERA_MOCK_SM", "80")];
    faulty(&absent, &[("RESULT", &["Device: cuda: no device `cuda:0`: there is none"])]);
    let broken = [("TESSERA_MOCK_FAIL", "cuDeviceGetCount:1:803")];
    faulty(&broken, &[("RESULT", &["Device: cuda: counting devices", "MISMATCH", "nvidia-smi"])]);
    let old = ["the driver is for CUDA 11.4; kernels need 12.0", "update the driver"];
    faulty(&[("TESSERA_MOCK_DRIVER", "11040")], &[("RESULT", &old), ("AUTO", &old[..1])]);
    let old = ["compute capability is 7.5", "need 8.0"];
    faulty(&[("TESSERA_MOCK_SM", "75")], &[("RESULT", &old), ("AUTO", &old), ("DEVICES", &["is 7.5"])]);
    let ptx = ["Device:", "they are PTX 7.", "newer than its CUDA", "update the driver"];
    faulty(&[("TESSERA_MOCK_PTX", "6.5")], &[("RESULT", &ptx), ("AUTO", &["they are PTX 7."])]);
}

#[test]
fn memory_that_runs_out_is_an_error_of_its_own() {
    let expected: &[&str] = &["Memory: cuda: allocating", "OUT_OF_MEMORY", "use a smaller tile"];
    faulty(&[("TESSERA_MOCK_FAIL", "cuMemAlloc_v2:2:2")], &[("RESULT", expected)]);
    faulty(&[("TESSERA_MOCK_FAIL", "cuMemHostAlloc:1:2")], &[("RESULT", &["Memory:", "pinned memory"])]);
}

#[test]
fn a_kernel_that_fails_loses_the_device_and_is_named() {
    let graph = [("TESSERA_MOCK_FAIL", "cuGraphLaunch:1:719:sticky")];
    faulty(&graph, &[("RESULT", &["DeviceLost: cuda: the kernel pointwise", "LAUNCH_FAILED"])]);
    let plain = [("TESSERA_MOCK_FAIL", "cuLaunchKernel:1:700:sticky"), ("TESSERA_CUDA_SYNC", "1")];
    faulty(&plain, &[("RESULT", &["DeviceLost: cuda: the kernel pointwise", "ILLEGAL_ADDRESS"])]);
    let late = [("TESSERA_MOCK_FAIL", "cuEventQuery:2:719:sticky")];
    faulty(&late, &[("RESULT", &["DeviceLost", "LAUNCH_FAILED"])]);
}

#[test]
fn a_lost_device_stays_lost_and_engines_do_not_disturb_each_other() {
    pass("cuda::child_lost", &[("TESSERA_MOCK_FAIL", "cuGraphLaunch:1:719:sticky")]);
    pass("cuda::child_two_threads", &[]);
}

#[test]
fn a_kernel_that_does_not_return_is_given_up() {
    pass("cuda::child_hangs", &[("TESSERA_MOCK_HANG", "*:1")]);
}

#[test]
#[ignore = "runs on the mock driver, see `child`"]
fn child_hangs() {
    let mut backend = CudaBackend::open(0).expect("opens");
    backend.set_patience(std::time::Duration::from_millis(300));
    let e = run_small(&mut backend).expect_err("it hangs");
    assert!(e.starts_with("DeviceLost: cuda: the kernel pointwise") && e.contains("no answer within 0.3 s"), "{e}");
    assert!(run_small(&mut backend).expect_err("lost").contains("the device was lost"));
    // And it is dropped without waiting for the kernel.
}

#[test]
#[ignore = "runs on the mock driver, see `child`"]
fn child_lost() {
    let mut backend = CudaBackend::open(0).expect("opens");
    let slot = Slot { kind: SlotKind::Arena, bytes: 256 };
    let buffer = backend.alloc(&slot).expect("fits");
    assert!(run_small(&mut backend).expect_err("the launch fails").starts_with("DeviceLost"));
    let lost = tessera::Kind::DeviceLost;
    assert_eq!(backend.alloc(&slot).expect_err("lost").kind(), lost);
    assert_eq!(backend.write(buffer, 0, &[0; 4]).expect_err("lost").kind(), lost);
    let e = backend.read(buffer, 0, &mut [0; 4]).expect_err("lost");
    assert!(e.kind() == lost && e.message().contains("LAUNCH_FAILED"), "the first cause: {e}");
    assert_eq!(backend.prepare(&[], &[]).expect_err("lost").kind(), lost);
}

#[test]
#[ignore = "runs on the mock driver, see `child`"]
fn child_two_threads() {
    let work = || {
        let mut backend = CudaBackend::open(0).expect("opens");
        for _ in 0..4 {
            run_small(&mut backend).expect("right");
        }
        assert_eq!(backend.allocated(), 0);
    };
    std::thread::scope(|s| {
        let both = [s.spawn(work), s.spawn(work)];
        both.into_iter().for_each(|t| t.join().expect("no panic"));
    });
}

#[test]
fn transfers_keep_bytes_and_refuse_ranges_outside() {
    pass("cuda::child_transfers", &[]);
}

#[test]
#[ignore = "runs on the mock driver, see `child`"]
fn child_transfers() {
    let mut backend = CudaBackend::open(0).expect("opens");
    let large = 2 * tessera::limits::CUDA_STAGING_BYTES + 12;
    let arena = |bytes| Slot { kind: SlotKind::Arena, bytes };
    let buffer = backend.alloc(&arena(large)).expect("fits");
    let mut got = vec![1u8; large as usize];
    backend.read(buffer, 0, &mut got).expect("inside");
    assert!(got.iter().all(|&b| b == 0), "new buffers are zero");
    // More than the pinned memory holds, so it goes in pieces.
    let sent: Vec<u8> = (0..large as usize).map(|i| (i * 7 + i / 251) as u8).collect();
    backend.write(buffer, 0, &sent).expect("inside");
    backend.read(buffer, 0, &mut got).expect("inside");
    assert!(got == sent);
    for (offset, len) in [(large + 256, 4), (2, 4), (0, 6), (u64::MAX - 3, 4)] {
        let e = backend.write(buffer, offset, &vec![0; len]).expect_err("outside or unaligned");
        assert_eq!(e.kind(), tessera::Kind::Internal, "{offset} {len}");
    }
    let most = backend.caps().max_chunk;
    assert_eq!(backend.alloc(&arena(most + 1)).expect_err("too large").kind(), tessera::Kind::Memory);
    backend.free(buffer);
    assert_eq!(backend.allocated(), 0);
    assert_eq!(backend.read(buffer, 0, &mut [0; 4]).expect_err("freed").kind(), tessera::Kind::Internal);
    assert_eq!(backend.read(BufferId(77), 0, &mut [0; 4]).expect_err("never made").kind(), tessera::Kind::Internal);
    let e = CudaBackend::open(9).err().expect("there are not so many");
    assert!(e.message().contains("no device `cuda:9`: cuda:0 is"), "{e}");
}

/// A plan for any CUDA device has a kernel of the table for each step, on tensor cores where types allow.
#[test]
fn plans_without_a_device_find_their_kernels() {
    let caps = Caps::cuda_default();
    for stem in Stem::ALL {
        // f32's convolutions make statistics through tf32 alone, and are asked for them there alone.
        let asked = |c: &problem::Case| c.types != problem::F32 || !c.params.wants_statistics();
        for case in problem::cases(stem).iter().filter(|c| asked(c)) {
            let row = table::select(&case.params, case.types, &caps).expect("a row");
            let grid = (row.grid)(&case.params, case.types);
            assert!(grid.iter().all(|&g| g > 0), "{} {}: {grid:?}", stem.name(), case.name);
        }
    }
}

/// The program on the mock driver: a small picture through a small model.
fn upscaled(settings: &[(&str, &str)]) -> Option<(Output, PathBuf, tempfile::TempDir)> {
    let driver = mock()?;
    let folder = tempfile::tempdir().expect("folder");
    let (input, output) = (folder.path().join("in.png"), folder.path().join("out.png"));
    crate::upscale::model(&folder.path().join("model"), None);
    crate::upscale::picture(&input, 20, 14, tessera::image::Colour::Rgb, tessera::image::Depth::Eight);
    let mut command = Command::new(env!("CARGO_BIN_EXE_tessera"));
    command.args(["upscale", "-g", "cuda", "-s", "2", "--progress", "none", "-m"]).arg(folder.path().join("model"));
    command.arg("-i").arg(&input).arg("-o").arg(&output);
    command.env("LD_LIBRARY_PATH", driver).envs(settings.iter().copied());
    Some((command.output().expect("the program runs"), output, folder))
}

#[test]
fn the_program_starts_itself_again_after_an_error_that_outlives_its_context() {
    let Some((plain, output, _folder)) = upscaled(&[]) else { return };
    let text = |o: &Output| String::from_utf8_lossy(&o.stderr).into_owned();
    assert!(plain.status.success(), "{}", text(&plain));
    let want = std::fs::read(output).expect("a picture");
    let fault = ("TESSERA_MOCK_FAIL", "cuGraphLaunch:2:719:sticky");
    let Some((once, output, _folder)) = upscaled(&[fault, ("TESSERA_MOCK_ONCE", "1")]) else { return };
    let said = text(&once);
    assert!(once.status.success() && said.contains("starting again (1 of 2)"), "{said}");
    assert!(std::fs::read(output).expect("a picture") == want);
    let Some((ever, output, _folder)) = upscaled(&[fault]) else { return };
    let said = text(&ever);
    assert_eq!(ever.status.code(), Some(4), "{said}");
    assert!(said.contains("(2 of 2)") && !said.contains("(3 of"), "{said}");
    assert!(!output.exists());
}
