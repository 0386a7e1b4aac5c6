//! `kernels/*.cu` to committed PTX, and what the assembler says of it for every card it must run on.

use crate::toolchain::Toolchain;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a kind of source is compiled for.
struct Target {
    /// In its name, before `.cu`.
    tag: &'static str,
    /// As the compiler calls it.
    arch: &'static str,
    /// Cards that the PTX is assembled for.
    cards: &'static [&'static str],
    /// Versions of PTX that may have it, oldest first. A driver reads its own version and all before it.
    versions: &'static [&'static str],
    /// Most bytes of shared memory of a block, static and dynamic: what the smallest of the cards grants.
    shared: u32,
}

/// Ampere large and small, Ada, Hopper and consumer Blackwell run the same PTX; what Hopper alone has is apart.
const TARGETS: [Target; 2] = [
    Target {
        tag: "sm80",
        arch: "sm_80",
        cards: &["sm_80", "sm_86", "sm_89", "sm_90", "sm_120"],
        versions: &["7.0", "7.1", "7.2", "7.3", "7.4", "7.5", "7.6", "7.7", "7.8"],
        shared: 99 << 10,
    },
    Target {
        tag: "sm90",
        arch: "sm_90a",
        cards: &["sm_90a"],
        versions: &["8.0", "8.1", "8.2", "8.3", "8.4", "8.5", "8.6", "8.7", "8.8"],
        shared: 227 << 10,
    },
];

/// Besides the kernels: the probes, which no table of the engine names. Their PTX lies beside them.
const PROBES: &str = "tests/cuda/probes";

/// How often a source is compiled before the compiler is believed to give nothing else: the text of a large kernel
/// varies between a few, of which one in two or three is the committed one.
const ATTEMPTS: usize = 48;

/// What the assembler reports of one kernel on one card.
struct Resources {
    registers: u32,
    shared: u32,
    local: u32,
}

/// Everything that is committed: file below the root, content.
type Files = BTreeMap<PathBuf, String>;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// Writes kernels/ptx and kernels/resources.txt.
pub fn build() -> Result<(), String> {
    for (file, text) in make(false)? {
        let path = root().join(&file);
        std::fs::create_dir_all(path.parent().unwrap_or(root())).map_err(|e| e.to_string())?;
        std::fs::write(&path, text).map_err(|e| format!("{}: {e}", file.display()))?;
        println!("wrote {}", file.display());
    }
    Ok(())
}

/// Compares what is committed with fresh builds: each kernel's text must be one of those that the compiler gives.
pub fn check() -> Result<(), String> {
    let made = make(true)?;
    let mut wrong: Vec<String> = Vec::new();
    for (file, text) in &made {
        match std::fs::read_to_string(root().join(file)) {
            Ok(committed) if committed == *text => {}
            Ok(_) => wrong.push(format!("{} differs from what its source gives", file.display())),
            Err(e) => wrong.push(format!("{}: {e}", file.display())),
        }
    }
    for entry in std::fs::read_dir(root().join("kernels/ptx")).map_err(|e| format!("kernels/ptx: {e}"))?.flatten() {
        let file = Path::new("kernels/ptx").join(entry.file_name());
        if !made.contains_key(&file) {
            wrong.push(format!("{} has no source", file.display()));
        }
    }
    if wrong.is_empty() {
        println!("{} files are what their sources give", made.len());
        return Ok(());
    }
    Err(format!("{}\nrun `cargo xtask kernels` and commit what it writes", wrong.join("\n")))
}

/// Builds every file. With `again` a source is compiled until each of its kernels has had the committed text, or for the
/// last time.
fn make(again: bool) -> Result<Files, String> {
    let toolchain = Toolchain::open(root())?;
    let scratch = root().join("target/xtask/ptx");
    std::fs::create_dir_all(&scratch).map_err(|e| format!("{}: {e}", scratch.display()))?;
    let mut sources = Vec::new();
    for folder in ["kernels", PROBES] {
        let entries = std::fs::read_dir(root().join(folder)).map_err(|e| format!("{folder}: {e}"))?;
        let names = entries.flatten().map(|e| Path::new(folder).join(e.file_name()));
        sources.extend(names.filter(|p| p.extension().is_some_and(|e| e == "cu")));
    }
    sources.sort();
    let dynamic = dynamic_shared()?;
    // One source per thread at a time.
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(source) = sources.get(next.fetch_add(1, Ordering::Relaxed)) {
            let result = translate(&toolchain, source, &scratch, &dynamic, again);
            println!("{}", source.display());
            done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(result);
        }
    };
    std::thread::scope(|s| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(sources.len());
        for _ in 0..threads {
            s.spawn(work);
        }
    });
    let (mut files, mut lines, mut wrong) = (Files::new(), Vec::new(), Vec::new());
    for result in done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        match result {
            Ok((file, text, rows)) => {
                files.insert(file, text);
                lines.extend(rows);
            }
            Err(why) => wrong.push(why),
        }
    }
    if !wrong.is_empty() {
        return Err(wrong.join("\n"));
    }
    lines.sort();
    let head = "# kernel, card, registers of a thread, bytes of shared memory of a block (static and dynamic), bytes of\n\
                # local memory of a thread. Written by `cargo xtask kernels` from what ptxas says.\n";
    let body: String = lines.into_iter().map(|(_, _, line)| line + "\n").collect();
    files.insert("kernels/resources.txt".into(), head.to_owned() + &body);
    Ok(files)
}

/// Dynamic shared memory by the kernels' common name, from kernels/launch.txt.
fn dynamic_shared() -> Result<BTreeMap<String, u32>, String> {
    let text = std::fs::read_to_string(root().join("kernels/launch.txt")).map_err(|e| format!("launch.txt: {e}"))?;
    let mut out = BTreeMap::new();
    for line in text.lines().filter(|l| !l.trim().is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let bytes = words.get(2).and_then(|w| w.parse().ok()).ok_or_else(|| format!("launch.txt: {line}"))?;
        out.insert(words[0].to_owned(), bytes);
    }
    Ok(out)
}

/// A line of resources.txt with what it is sorted by: kernel, place of the card.
type Row = (String, usize, String);

/// Compiles one source, lowers its PTX, and assembles that for every card.
fn translate(
    toolchain: &Toolchain,
    source: &Path,
    scratch: &Path,
    dynamic: &BTreeMap<String, u32>,
    again: bool,
) -> Result<(PathBuf, String, Vec<Row>), String> {
    let probes = source.starts_with(PROBES);
    let name = PathBuf::from(source.file_name().unwrap_or_default()).with_extension("ptx");
    let tag = name.file_stem().map(Path::new).and_then(Path::extension);
    let target = TARGETS.iter().find(|t| tag.is_some_and(|tag| tag == t.tag));
    let target = target.ok_or_else(|| format!("{} names no target, as x.sm80.cu does", source.display()))?;
    let path = scratch.join(&name);
    let file = if probes { source.with_file_name(&name) } else { Path::new("kernels/ptx").join(&name) };
    let committed = std::fs::read_to_string(root().join(&file)).ok().filter(|_| again);
    let (text, first) = match &committed {
        None => fresh(toolchain, source, &path, target)?,
        Some(committed) => {
            let wanted = pieces(committed);
            let mut unseen: Vec<usize> = (0..wanted.len()).collect();
            for attempt in 0..ATTEMPTS {
                let text = compiled(toolchain, source, &path, target, attempt == 0)?;
                let made = pieces(&text);
                unseen.retain(|&i| made.len() != wanted.len() || made[i] != wanted[i]);
                if unseen.is_empty() {
                    break;
                }
            }
            if let Some(&first) = unseen.first() {
                let head = wanted[first].first().copied().unwrap_or_default();
                return Err(format!(
                    "{}: {} kernels of {} differ from every text that it gave in {ATTEMPTS} attempts; the first: {head}",
                    file.display(),
                    unseen.len(),
                    source.display()
                ));
            }
            lower(toolchain, committed, &path, target)?
        }
    };
    let mut rows = Vec::new();
    for (place, card) in target.cards.iter().enumerate() {
        let log = if place == 0 { first.clone() } else { toolchain.assemble(&path, card)? };
        if log.contains("serialized") {
            return Err(format!("{} on {card}: products wait for each other:\n{log}", source.display()));
        }
        for (kernel, r) in resources(&log)? {
            // A kernel is named after its types; launch.txt knows what comes before them.
            let family: Vec<&str> = kernel.rsplitn(4, '_').collect();
            let extra = if probes { Some(0) } else { dynamic.get(family[family.len() - 1]).copied() };
            let shared = r.shared + extra.ok_or_else(|| format!("{kernel} is not in kernels/launch.txt"))?;
            if r.local > 0 || shared > target.shared {
                return Err(format!(
                    "{kernel} on {card}: {} bytes of local memory, {shared} of shared memory",
                    r.local
                ));
            }
            if !probes {
                rows.push((kernel.clone(), place, format!("{kernel} {card} {} {shared} {}", r.registers, r.local)));
            }
        }
    }
    Ok((file, text, rows))
}

/// Compiles a source until it gives a text that an old version of the language has: some of its texts do not.
fn fresh(toolchain: &Toolchain, source: &Path, path: &Path, target: &Target) -> Result<(String, String), String> {
    let mut last = String::new();
    for attempt in 0..ATTEMPTS {
        match lower(toolchain, &compiled(toolchain, source, path, target, attempt == 0)?, path, target) {
            Ok(lowered) => return Ok(lowered),
            Err(why) => last = why,
        }
    }
    Err(format!("{}: {last}", source.display()))
}

/// Compiles a source once: its text.
fn compiled(
    toolchain: &Toolchain,
    source: &Path,
    path: &Path,
    target: &Target,
    fixed: bool,
) -> Result<String, String> {
    let raw = path.with_extension("raw.ptx");
    toolchain.compile(root(), source, &raw, target.arch, fixed)?;
    std::fs::read_to_string(&raw).map_err(|e| format!("{}: {e}", raw.display()))
}

/// The lines of a text by kernel; what comes before the first one first, without the version of the language.
fn pieces(text: &str) -> Vec<Vec<&str>> {
    let mut out = vec![Vec::new()];
    for line in text.lines().filter(|l| !l.starts_with(".version ")) {
        if line.contains(".entry ") {
            out.push(Vec::new());
        }
        if let Some(last) = out.last_mut() {
            last.push(line);
        }
    }
    out
}

/// The text under the oldest version of the language that it assembles as, written to `path`; and the
/// assembler's report for the first card.
fn lower(toolchain: &Toolchain, text: &str, path: &Path, target: &Target) -> Result<(String, String), String> {
    let version = text.lines().find(|l| l.starts_with(".version ")).ok_or("PTX without a version")?;
    let mut last = String::new();
    for older in target.versions {
        let lowered = text.replacen(version, &format!(".version {older}"), 1);
        std::fs::write(path, &lowered).map_err(|e| format!("{}: {e}", path.display()))?;
        match toolchain.assemble(path, target.cards[0]) {
            Ok(log) => return Ok((lowered, log)),
            Err(why) => last = why,
        }
    }
    Err(format!("no old version of PTX has what this needs: {last}"))
}

/// Each kernel's resources from the report of `ptxas -v`.
fn resources(log: &str) -> Result<Vec<(String, Resources)>, String> {
    let number_before = |line: &str, unit: &str| -> u32 {
        let before = line.split(unit).next().unwrap_or_default();
        before.rsplit([' ', ',']).find(|w| !w.is_empty()).and_then(|w| w.parse().ok()).unwrap_or(0)
    };
    let (mut out, mut kernel, mut local) = (Vec::new(), None, 0);
    for line in log.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            kernel = rest.split('\'').next().map(str::to_owned);
        } else if line.contains("bytes stack frame") {
            local = number_before(line, " bytes stack frame") + number_before(line, " bytes spill stores");
        } else if line.contains(" registers") {
            let name = kernel.take().ok_or_else(|| format!("a report without a kernel: {line}"))?;
            let shared = if line.contains(" bytes smem") { number_before(line, " bytes smem") } else { 0 };
            out.push((name, Resources { registers: number_before(line, " registers"), shared, local }));
        }
    }
    if out.is_empty() { Err(format!("the assembler names no kernel:\n{log}")) } else { Ok(out) }
}
