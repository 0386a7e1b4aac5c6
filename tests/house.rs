//! Rules of the house that no compiler checks: what lives in exactly one place, how long files are, what
//! may be tracked, under which licences we build.

use crate::source::{self, Token};
use std::path::Path;
use std::process::Command;
use tessera::abi::Stem;
use tessera::{Kind, knobs};

/// Files that may hold `unsafe`, with the reason. Each block there must carry a `SAFETY:` comment.
const UNSAFE: [(&str, &str); 7] = [
    ("benches/gemm_crate/src/main.rs", "the crate measured beside our products takes pointers"),
    ("src/backend/cuda/driver/kernels.rs", "every call of the CUDA driver takes handles and pointers"),
    ("src/backend/cuda/driver/memory.rs", "see above"),
    ("src/backend/cuda/driver/mod.rs", "see above"),
    ("src/backend/cuda/driver/stream.rs", "see above"),
    ("src/backend/cuda/driver/tensor_map.rs", "two more of those calls, which write to memory of ours"),
    ("src/backend/cuda/run.rs", "what a kernel does with its pointers is the kernel table's promise"),
];

/// Lines of one Rust file without its unit tests: the hard stop, and where a warning starts.
const RUST_LINES: (usize, usize) = (800, 400);
/// Lines of one shader, or of one CUDA file.
const SHADER_LINES: usize = 500;
/// Bytes of all tracked files, of `weights/`, and of the one-step model.
const TRACKED_BYTES: u64 = 36 << 20;
const WEIGHTS_BYTES: u64 = 24_000_000;
const ONE_STEP_BYTES: u64 = 12_000_000;

/// Licences a dependency may have. Where it offers several, one of them is enough.
const LICENCES: [&str; 12] = [
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "Zlib",
    "ISC",
    "Unicode-3.0",
    "CC0-1.0",
    "Unlicense",
    "0BSD",
];
/// Packages that may come under a further licence: (package, licence).
const NAMED_LICENCES: [(&str, &str); 1] = [
    // The code of the Independent JPEG Group: free for any use; the README carries the line it asks for.
    ("jpeg-encoder", "IJG"),
];

fn listed(problems: &[String]) -> String {
    format!("{} problems:\n{}", problems.len(), problems.join("\n"))
}

#[test]
fn environment_variables_are_read_in_knobs_only() {
    let mut bad = Vec::new();
    for file in ["src", "tests", "benches"].iter().flat_map(|f| source::files_in(f, "rs")) {
        if file != Path::new("src/knobs.rs") {
            bad.extend(environment_reads(&source::read(&file)).iter().map(|l| format!("{}:{l}", file.display())));
        }
    }
    assert!(bad.is_empty(), "read through tessera::knobs instead: {}", listed(&bad));
    assert_eq!(environment_reads("// env::var\nlet a = std::env::var(x); use std::env::{self, vars_os};"), [2, 2]);
    assert_eq!(environment_reads("env!(\"A\"); std::env::temp_dir(); std::env::args()"), Vec::<usize>::new());
}

/// Lines that read the environment.
fn environment_reads(text: &str) -> Vec<usize> {
    let tokens = source::tokens(text);
    let reader = |t: &&Token| ["var", "var_os", "vars", "vars_os", "option_env"].contains(&t.text.as_str());
    // The names count only in files that name `env` at all: `var` alone is a common word.
    if !tokens.iter().any(|t| t.text == "env") {
        return Vec::new();
    }
    let mut lines = Vec::new();
    for (i, t) in tokens.iter().enumerate() {
        let behind = |n: usize| i.checked_sub(n).map_or("", |j| tokens[j].text.as_str());
        let imported = ["{", ","].contains(&behind(1)) && t.text != "var";
        if reader(&t) && ((behind(1) == "::" && behind(2) == "env") || imported || t.text == "option_env") {
            lines.push(t.line);
        }
    }
    lines
}

#[test]
fn unsafe_only_where_named() {
    let mut bad = Vec::new();
    for file in ["src", "tests", "benches"].iter().flat_map(|f| source::files_in(f, "rs")) {
        let text = source::read(&file);
        let name = file.to_string_lossy().replace('\\', "/");
        let blocks = source::tokens(&text).iter().filter(|t| t.text == "unsafe").count();
        if blocks == 0 {
            continue;
        }
        if !UNSAFE.iter().any(|(f, _)| *f == name) {
            bad.push(format!("{name}: {blocks} unsafe, not in the list of tests/house.rs"));
        } else if text.matches("SAFETY:").count() == 0 {
            bad.push(format!("{name}: {blocks} unsafe, no SAFETY comment"));
        }
    }
    for (file, _) in UNSAFE {
        if !source::root().join(file).is_file() {
            bad.push(format!("{file}: in the list, but there is no such file"));
        }
    }
    assert!(bad.is_empty(), "{}", listed(&bad));
}

#[test]
fn tolerances_live_in_one_file() {
    let mut bad = Vec::new();
    for file in source::files_in("tests", "rs") {
        if file != Path::new("tests/tolerance.rs") {
            let found = asserted_floats(&source::read(&file));
            bad.extend(found.iter().map(|(l, t)| format!("{}:{l}: compared with {t}", file.display())));
        }
    }
    assert!(bad.is_empty(), "name it in tests/tolerance.rs, with its reason: {}", listed(&bad));
    let flagged = asserted_floats("assert!(a.abs() < 1e-3, \"{b}\");\nassert!(x <= 0.5 * y);\nassert!(0.25 > z);");
    assert_eq!(flagged.len(), 3, "{flagged:?}");
    let fine =
        "assert!(x > 0.0 && y <= 1.0); assert_eq!(a, 0.5); if x < 1e-3 {} assert!(n < 7); assert!(d < T, \"{}\", 2.5);";
    assert_eq!(asserted_floats(fine), []);
}

/// Float literals other than 0.0 and 1.0 that stand beside `<`, `>`, `<=`, `>=` in the condition of an `assert!`.
fn asserted_floats(text: &str) -> Vec<(usize, String)> {
    let tokens = source::tokens(text);
    let at = |i: usize| tokens.get(i).map_or("", |t| t.text.as_str());
    let is_float = |t: &str| {
        t.starts_with(|c: char| c.is_ascii_digit())
            && !t.starts_with("0x")
            && (t.contains('.') || t.contains(['e', 'E']))
            && t.trim_end_matches("f32").trim_end_matches("f64").parse::<f64>().is_ok_and(|v| v != 0.0 && v != 1.0)
    };
    let comparison = |t: &str| ["<", ">", "<=", ">="].contains(&t);
    let mut found = Vec::new();
    for start in 0..tokens.len() {
        if !["assert", "debug_assert"].contains(&at(start)) || at(start + 1) != "!" || at(start + 2) != "(" {
            continue;
        }
        let (mut i, mut depth) = (start + 3, 1);
        // The condition ends at the first comma outside brackets: behind it stands the message.
        while depth > 0 && i < tokens.len() && !(depth == 1 && at(i) == ",") {
            match at(i) {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth -= 1,
                t if is_float(t) && (comparison(at(i - 1)) || comparison(at(i + 1))) => {
                    found.push((tokens[i].line, t.to_string()));
                }
                _ => {}
            }
            i += 1;
        }
    }
    found
}

#[test]
fn files_stay_short() {
    let (mut bad, mut long) = (Vec::new(), Vec::new());
    for file in source::files_in("src", "rs").into_iter().chain(source::files_in("tests", "rs")) {
        let text = source::read(&file);
        let lines = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().lines().count();
        if lines > RUST_LINES.0 {
            bad.push(format!("{}: {lines} lines, at most {}", file.display(), RUST_LINES.0));
        } else if lines > RUST_LINES.1 {
            long.push(format!("{} ({lines})", file.display()));
        }
    }
    let kernels = ["cu", "cuh"].into_iter().flat_map(|ext| source::files_in("kernels", ext));
    for file in source::files_in("shaders", "wgsl").into_iter().chain(kernels) {
        let lines = source::read(&file).lines().count();
        if lines > SHADER_LINES {
            bad.push(format!("{}: {lines} lines, at most {SHADER_LINES}", file.display()));
        }
    }
    if !long.is_empty() {
        eprintln!("warning: over {} lines: {}", RUST_LINES.1, long.join(", "));
    }
    assert!(bad.is_empty(), "{}", listed(&bad));
}

#[test]
fn every_stem_has_shader_kernel_cpu_twin_and_problem() {
    let mut bad = Vec::new();
    for stem in Stem::ALL {
        let name = stem.name();
        let shader = source::root().join(format!("shaders/{name}.wgsl"));
        let others = [
            format!("src/backend/cpu/{name}.rs"),
            format!("kernels/{name}.sm80.cu"),
            format!("kernels/ptx/{name}.sm80.ptx"),
            format!("tests/problem/{name}.rs"),
        ];
        if !shader.is_file() {
            bad.push(format!("shaders/{name}.wgsl is missing"));
        }
        bad.extend(others.iter().filter(|p| !source::root().join(p).is_file()).map(|p| format!("{p} is missing")));
    }
    assert!(bad.is_empty(), "{}", listed(&bad));
}

/// The README's exit codes, one row per kind of error.
fn exit_code_block() -> String {
    let mut rows = vec!["| code | kind | meaning |".to_string(), "|---|---|---|".into(), "| 0 | | done |".into()];
    rows.push("| 1 | | some of many files failed, the others are done |".into());
    for kind in Kind::ALL {
        rows.push(format!("| {} | `{}` | {} |", kind.exit_code(), kind.name(), meaning(kind)));
    }
    rows.push("| 130, 143 | | interrupted (Ctrl-C), terminated |".into());
    rows.join("\n")
}

fn meaning(kind: Kind) -> &'static str {
    match kind {
        Kind::Usage => "an option that makes no sense",
        Kind::BadInput => "an input picture is missing, damaged, or not what it says it is",
        Kind::Limit => "a stated limit was exceeded (`src/limits.rs`)",
        Kind::Weights => "a model folder, its config or its tensors are missing, damaged or do not fit",
        Kind::Device => "the device asked for does not exist or cannot run the plan",
        Kind::DeviceLost => "the device went away while working",
        Kind::Memory => "memory ran out, or the budget is too small for any plan",
        Kind::Io => "a file or folder could not be read or written",
        Kind::NonFinite => "a computed value is not finite",
        Kind::Cancelled => "the job was cancelled",
        Kind::Internal => "a broken promise inside the program: a bug, please report it",
        _ => "",
    }
}

fn knob_block() -> String {
    let mut rows = vec!["| variable | what it does |".to_string(), "|---|---|".into()];
    rows.extend(knobs::KNOBS.iter().map(|k| format!("| `{}` | {} |", k.name, k.meaning)));
    rows.join("\n")
}

#[test]
fn readme_tables_equal_the_code() {
    let readme = source::read(Path::new("README.md"));
    for (name, expected) in [("exit codes", exit_code_block()), ("knobs", knob_block())] {
        let (open, close) = (format!("<!-- {name} -->\n"), format!("\n<!-- end of {name} -->"));
        let found = readme.split_once(&open).and_then(|(_, rest)| rest.split_once(&close)).map(|(block, _)| block);
        assert_eq!(found, Some(expected.as_str()), "README.md, block `{name}`, must read:\n{expected}\n");
    }
}

/// A path in backticks that starts in a top-level folder must exist: documents age by what they point at.
#[test]
fn documents_name_files_that_exist() {
    let folders = ["src/", "tests/", "docs/", "tools/", "weights/", "shaders/", "kernels/", "benches/"];
    let documents = source::files().into_iter().filter(|p| p.extension().is_some_and(|e| e == "md"));
    let mut bad = Vec::new();
    for document in documents {
        let text = source::read(&document);
        // What stands between backticks is every second piece.
        for quoted in text.split('`').skip(1).step_by(2) {
            let word = quoted.split_whitespace().next().unwrap_or_default();
            let is_path = folders.iter().any(|f| word.starts_with(f)) && !word.contains(['<', '*', '{', '$']);
            if is_path && !source::root().join(word).exists() {
                bad.push(format!("{}: {word}", document.display()));
            }
        }
    }
    assert!(bad.is_empty(), "documents name what is not there: {}", listed(&bad));
}

#[test]
fn tracked_files_stay_small() {
    let size = |p: &Path| std::fs::metadata(source::root().join(p)).map_or(0, |m| m.len());
    let sum = |under: &str| source::files().iter().filter(|p| p.starts_with(under)).map(|p| size(p)).sum::<u64>();
    let (all, weights) = (source::files().iter().map(|p| size(p)).sum::<u64>(), sum("weights"));
    let one_step = sum("weights/onestep");
    assert!(all <= TRACKED_BYTES, "tracked files: {all} bytes, at most {TRACKED_BYTES}");
    assert!(weights <= WEIGHTS_BYTES, "weights/: {weights} bytes, at most {WEIGHTS_BYTES}");
    assert!(one_step <= ONE_STEP_BYTES, "weights/onestep: {one_step} bytes, at most {ONE_STEP_BYTES}");
}

#[test]
fn no_path_of_a_developers_machine() {
    // Written in halves, so that this file does not find itself.
    let words =
        [["/ho", "me/"], ["/ro", "ot/"], ["/Us", "ers/"], ["/wo", "rk/"], ["C:\\", "Users"]].map(|w| w.concat());
    let mut bad = Vec::new();
    for file in source::files() {
        let Ok(text) = std::fs::read_to_string(source::root().join(&file)) else { continue };
        for (n, line) in text.lines().enumerate() {
            for word in words.iter().filter(|w| is_absolute(line, w)) {
                bad.push(format!("{}:{}: {word}", file.display(), n + 1));
            }
        }
    }
    assert!(bad.is_empty(), "{}", listed(&bad));
    assert!(is_absolute("see \"/tmp/x\"", "/tmp/") && !is_absolute("a/tmp/x", "/tmp/"));
}

/// Whether `word` starts a path in `line` (and is not the middle of a longer one).
fn is_absolute(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        !line[..at].ends_with(|c: char| c.is_alphanumeric() || ['/', '.', '_', '-', '}', '$'].contains(&c))
    })
}

#[test]
fn licences_of_dependencies_are_allowed() {
    let packages = cargo_packages();
    assert!(packages.len() > 50, "cargo metadata lists {} packages only", packages.len());
    let bad: Vec<String> = packages
        .iter()
        .filter(|(name, licence)| name != "tessera" && !licence_allowed(name, licence))
        .map(|(name, licence)| format!("{name}: `{licence}`"))
        .collect();
    assert!(bad.is_empty(), "licences not in the list of tests/house.rs: {}", listed(&bad));
    assert!(licence_allowed("a", "MIT/Apache-2.0") && licence_allowed("a", "(GPL-2.0 OR ISC) AND (Zlib OR MIT)"));
    assert!(licence_allowed("a", "Apache-2.0 WITH LLVM-exception OR GPL-3.0"));
    assert!(!licence_allowed("a", "MIT AND GPL-2.0") && !licence_allowed("a", "") && !licence_allowed("a", "MPL-2.0"));
}

/// Name and licence of every package in the lock file, from cargo itself, without the network.
fn cargo_packages() -> Vec<(String, String)> {
    let ask = |extra: &[&str]| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["metadata", "--offline", "--locked", "--format-version", "1"]).args(extra);
        cargo.current_dir(source::root()).output().expect("cargo runs")
    };
    let mut out = ask(&[]);
    if !out.status.success() {
        // Packages that only other systems need are fetched by `cargo fetch` alone, not by a build.
        eprintln!("warning: licences of this system's dependencies only (run `cargo fetch` to check them all)");
        out = ask(&["--filter-platform", &host()]);
    }
    assert!(out.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&out.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&out.stdout).expect("cargo prints JSON");
    let text = |p: &serde_json::Value, key: &str| p[key].as_str().unwrap_or_default().to_string();
    metadata["packages"].as_array().expect("packages").iter().map(|p| (text(p, "name"), text(p, "license"))).collect()
}

fn host() -> String {
    let out = Command::new(env!("CARGO")).arg("-vV").output().expect("cargo runs");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.lines().find_map(|l| l.strip_prefix("host: ")).expect("cargo -vV names the host").to_string()
}

/// Whether an SPDX expression can be met from the list: `AND` needs all, `OR` and the old `/` need one.
fn licence_allowed(package: &str, expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    // Splits at `word` outside brackets.
    fn split<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
        let (mut parts, mut depth, mut from) = (Vec::new(), 0i32, 0);
        for (i, c) in text.char_indices() {
            depth += i32::from(c == '(') - i32::from(c == ')');
            if depth == 0 && i >= from && text[i..].starts_with(word) {
                parts.push(&text[from..i]);
                from = i + word.len();
            }
        }
        parts.push(&text[from..]);
        parts
    }
    fn met(package: &str, text: &str) -> bool {
        let text = text.trim();
        let any = split(text, " OR ");
        if any.len() > 1 {
            return any.iter().any(|t| met(package, t));
        }
        let all = split(text, " AND ");
        if all.len() > 1 {
            return all.iter().all(|t| met(package, t));
        }
        if let Some(inner) = text.strip_prefix('(').and_then(|t| t.strip_suffix(')')) {
            return met(package, inner);
        }
        LICENCES.contains(&text) || NAMED_LICENCES.contains(&(package, text))
    }
    met(package, &expression)
}
