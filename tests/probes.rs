//! The emulator of `tests/cuda` against recordings of a card: `tests/probes/<card>` holds what each probe of
//! `tests/cuda/probes` gave there, word for word, as `tools/gpu_check` brings it.

use crate::cuda::mock;
use crate::source;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Where the probes' PTX is.
const PTX: &str = "tests/cuda/probes";
/// The wrappers of instructions, as the GPU has them.
const WRAPPERS: [&str; 3] =
    ["kernels/shared/device_ptx.cuh", "kernels/shared/tma_ptx.cuh", "kernels/shared/wgmma_ptx.cuh"];
/// What these have that is no instruction of its own: addresses, casts and plain accesses.
const PLAIN: [&str; 8] = [
    "dynamic_shared",
    "swizzled_shared",
    "wgmma_hold",
    "f32_to_bits",
    "bits_to_f32",
    "load16",
    "store16",
    "shared_address",
];

/// The program that runs probes, on the mock driver; `None` where there is no compiler for it.
fn probes(arguments: &[&str]) -> Option<Output> {
    let folder = mock()?;
    let mut command = Command::new(folder.join("probes"));
    // As Hopper, so that every probe runs.
    command.args(arguments).current_dir(source::root()).env("LD_LIBRARY_PATH", folder).env("TESSERA_MOCK_SM", "90");
    Some(command.output().expect("the program runs"))
}

fn said(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

/// Folders with a card's recordings.
fn cards() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(source::root().join("tests/probes")).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries.map(|e| e.path()).filter(|p| p.is_dir()).collect();
    found.sort();
    found
}

/// Rows of PROBES.md: the wrappers in the first cell, and the last cell.
fn rows() -> Vec<(Vec<String>, String)> {
    let text = source::read(Path::new("tests/cuda/PROBES.md"));
    let rows = text.lines().filter(|l| l.starts_with("| `"));
    rows.map(|l| {
        let cells: Vec<&str> = l.split('|').map(str::trim).collect();
        let names = cells[1].split(", ").map(|n| n.trim_matches('`').to_owned());
        (names.collect(), cells[4].to_owned())
    })
    .collect()
}

#[test]
fn the_emulator_gives_what_cards_gave() {
    let cards = cards();
    if cards.is_empty() {
        println!(
            "UNVERIFIED: no card has run the probes; {} emulated instructions rest on the PTX manual",
            rows().len()
        );
    }
    for card in cards {
        let Some(out) = probes(&["replay", PTX, &card.to_string_lossy()]) else { return };
        assert!(out.status.success(), "{}:\n{}", card.display(), said(&out));
    }
}

/// What the mock records it gives again; a record of a card that does otherwise in one bit would be found.
#[test]
fn a_card_that_does_otherwise_is_found() {
    let folder = tempfile::tempdir().expect("folder");
    let at = folder.path().to_string_lossy().into_owned();
    let Some(out) = probes(&["record", PTX, &at]) else { return };
    assert!(out.status.success(), "{}", said(&out));
    let out = probes(&["replay", PTX, &at]).expect("runs");
    assert!(out.status.success() && said(&out).ends_with(" hold, 0 do not\n"), "{}", said(&out));
    for entry in std::fs::read_dir(folder.path()).expect("records").flatten() {
        let text = std::fs::read_to_string(entry.path()).expect("text");
        // The second digit of the first word that came out: of numbers, their exponent.
        let digit = text.find("\nout ").expect("a case") + 6;
        let mut other = text.clone();
        other.replace_range(digit..=digit, if &text[digit..=digit] == "3" { "4" } else { "3" });
        std::fs::write(entry.path(), other).expect("written");
        let out = probes(&["replay", PTX, &at]).expect("runs");
        let name = entry.file_name().to_string_lossy().replace(".txt", "");
        assert_eq!(out.status.code(), Some(1), "{name}: {}", said(&out));
        assert!(said(&out).contains(&format!("{name}, case 0: word 0 is ")), "{name}: {}", said(&out));
        std::fs::write(entry.path(), text.replacen("out ", "out 0 ", 1)).expect("written");
        let out = probes(&["replay", PTX, &at]).expect("runs");
        assert!(said(&out).contains("is not a record of this probe"), "{name}: {}", said(&out));
        std::fs::write(entry.path(), text).expect("written");
    }
}

/// The probes that have been recorded on some card, by the wrappers they cover.
fn recorded(probes: &str) -> BTreeSet<String> {
    let cards = cards();
    let lists = probes.lines().filter_map(|l| l.split_once(": "));
    let there = lists.filter(|(name, _)| cards.iter().any(|c| c.join(format!("{name}.txt")).is_file()));
    there.flat_map(|(_, names)| names.split(' ').map(str::to_owned)).collect()
}

#[test]
fn every_emulated_instruction_has_a_probe() {
    let name = |l: &str| {
        let before = l.split_once("TS_D ")?.1.split('(').next()?;
        Some(before.split('<').next()?.rsplit([' ', '*']).next()?.to_owned())
    };
    let text = WRAPPERS.map(|f| source::read(Path::new(f))).concat();
    // Not what macros paste together.
    let wrappers = text.lines().filter(|l| !l.starts_with('#') && !l.contains("##")).filter_map(name);
    let wrappers: BTreeSet<String> = wrappers.filter(|n| !PLAIN.contains(&n.as_str())).collect();
    let rows = rows();
    let plain = |name: &str| name.split('<').next().unwrap_or_default().to_owned();
    let told: BTreeSet<String> = rows.iter().flat_map(|(names, _)| names.iter().map(|n| plain(n))).collect();
    assert_eq!(wrappers, told, "{WRAPPERS:?} and tests/cuda/PROBES.md");
    let Some(out) = probes(&["list"]) else { return };
    let list = said(&out);
    let covered: BTreeSet<&str> =
        list.lines().filter_map(|l| l.split_once(": ")).flat_map(|(_, n)| n.split(' ')).collect();
    let told: BTreeSet<&str> = rows.iter().flat_map(|(names, _)| names.iter().map(String::as_str)).collect();
    assert_eq!(covered, told, "what the probes cover and tests/cuda/PROBES.md");
    // What is told of them is what has been recorded.
    let recorded = recorded(&list);
    let mut verified = 0;
    for (names, state) in &rows {
        let there = names.iter().all(|n| recorded.contains(n));
        assert_eq!(state.contains("UNVERIFIED"), !there, "PROBES.md: {names:?}");
        verified += usize::from(there);
    }
    let count = format!("{verified} of the {} emulated instructions", rows.len());
    for file in ["README.md", "docs/decisions/014-cuda-is-proved-without-a-gpu.md", "tests/cuda/PROBES.md"] {
        let text = source::read(Path::new(file)).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(&count), "{file} does not say {count}");
    }
}
