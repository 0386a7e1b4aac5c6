//! Which module may use which: the arrows of `docs/architecture.md`, held against every path in `src/`.
//!
//! A path counts wherever it stands: `use crate::a::{b, c}`, `crate::a::b()` in code, `super::super::a`, and
//! `tessera::a` in the program. Comments and strings do not count.

use crate::source::{self, Token};
use std::path::Path;

/// Every module may use these.
const BASE: [&str; 6] = ["error", "limits", "extent", "fs", "knobs", "noise"];

/// Module (first path segment below the crate) and what it may use besides base and itself. An entry
/// `a::b` allows that path and what lies below it, an entry `a` all of `a`.
///
/// `abi`, `weights` and `backend` know of graphs only the element types and the layouts, which they
/// share with it; `DType` is the name under which `graph` re-exports `graph::dtype::DType`.
const ARROWS: [(&str, &[&str]); 15] = [
    ("image", &[]),
    ("tile", &[]),
    ("graph", &[]),
    ("abi", &["graph::dtype", "graph::layout", "graph::DType"]),
    ("metrics", &["image"]),
    ("weights", &["graph::dtype", "graph::layout", "graph::DType"]),
    ("model", &["graph", "weights"]),
    ("system", &["graph", "model", "weights", "tile"]),
    ("plan", &["graph", "abi"]),
    ("backend", &["abi", "plan::command", "graph::dtype", "graph::layout", "graph::DType"]),
    ("run", &["image", "tile", "graph", "abi", "metrics", "weights", "model", "system", "plan", "backend"]),
    ("ffi", &["run", "metrics"]),
    ("main", &["run", "metrics", "cli"]),
    ("cli", &["run", "metrics"]),
    // The list of modules itself: re-exports only the error type.
    ("lib", &[]),
];

/// Files of `base` may use each other, in this order only: each may use those before it.
const BASE_ORDER: [&str; 6] = ["error", "limits", "knobs", "extent", "fs", "noise"];

/// A path from the crate's root, met at a line.
#[derive(Debug, PartialEq)]
struct Use {
    line: usize,
    path: Vec<String>,
}

/// The module path of a source file: `src/graph/builder.rs` -> `[graph, builder]`, `src/graph/mod.rs` -> `[graph]`.
fn module_of(file: &Path) -> Vec<String> {
    let mut parts: Vec<String> = file
        .with_extension("")
        .components()
        .map(|c| c.as_os_str().to_string_lossy().into_owned())
        .skip_while(|c| c == "src")
        .collect();
    if parts.last().is_some_and(|p| p == "mod") {
        parts.pop();
    }
    parts
}

/// Every path from the crate's root that `text` names. `module` is where the text stands.
fn uses(module: &[String], text: &str) -> Vec<Use> {
    let tokens = source::tokens(text);
    let is = |i: usize, s: &str| tokens.get(i).is_some_and(|t: &Token| t.text == s);
    let (mut found, mut i) = (Vec::new(), 0);
    // Inline modules open at this token, with the brace depth they close at.
    let (mut depth, mut inline): (usize, Vec<(usize, String)>) = (0, Vec::new());
    while i < tokens.len() {
        match tokens[i].text.as_str() {
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                inline.retain(|&(at, _)| at < depth + 1);
            }
            "mod" if is(i + 2, "{") => inline.push((depth + 1, tokens[i + 1].text.clone())),
            "crate" | "tessera" if is(i + 1, "::") && !is(i.wrapping_sub(1), "::") => {
                i = tree(&tokens, i + 2, &[], &mut found);
                continue;
            }
            "super" if is(i + 1, "::") && !is(i.wrapping_sub(1), "::") => {
                let mut here: Vec<String> = module.to_vec();
                here.extend(inline.iter().map(|(_, name)| name.clone()));
                while is(i, "super") && is(i + 1, "::") {
                    here.pop();
                    i += 2;
                }
                i = tree(&tokens, i, &here, &mut found);
                continue;
            }
            _ => {}
        }
        i += 1;
    }
    found.retain(|u| !u.path.is_empty());
    found
}

/// Reads a path or a use tree (`a::{b, c::d}`) from token `i`, prefixed by `prefix`; returns the token behind.
fn tree(tokens: &[Token], mut i: usize, prefix: &[String], found: &mut Vec<Use>) -> usize {
    let text = |i: usize| tokens.get(i).map_or("", |t: &Token| t.text.as_str());
    let line = tokens.get(i).map_or(0, |t| t.line);
    let mut path = prefix.to_vec();
    loop {
        match text(i) {
            "{" => {
                i += 1;
                while !text(i).is_empty() && text(i) != "}" {
                    i = tree(tokens, i, &path, found);
                    if text(i) == "as" {
                        i += 2;
                    }
                    // Anything but a separator here is no use tree; the loop must go on all the same.
                    if text(i) != "}" {
                        i += 1;
                    }
                }
                return i + 1;
            }
            "*" => {
                found.push(Use { line, path });
                return i + 1;
            }
            word if word.chars().next().is_some_and(|c| c.is_alphanumeric() || c == '_') => {
                if word != "self" {
                    path.push(word.to_string());
                }
                if text(i + 1) != "::" || text(i + 2) == "<" {
                    found.push(Use { line, path });
                    return i + 1;
                }
                i += 2;
            }
            _ => {
                found.push(Use { line, path });
                return i;
            }
        }
    }
}

/// Whether code of the module `from` may name `path`.
fn allowed(from: &str, path: &[String]) -> bool {
    let to = path[0].as_str();
    // Names of the crate's root: the re-exported error type, and macros, which start in lower case but have no module.
    if from == to || ["Error", "Kind", "Result"].contains(&to) {
        return true;
    }
    if let Some(rank) = BASE_ORDER.iter().position(|m| *m == from) {
        return BASE_ORDER[..rank].contains(&to);
    }
    if BASE.contains(&to) {
        return true;
    }
    let Some((_, may)) = ARROWS.iter().find(|(m, _)| *m == from) else { return false };
    may.iter().any(|entry| {
        let entry: Vec<&str> = entry.split("::").collect();
        path.len() >= entry.len() && entry.iter().zip(path).all(|(e, p)| e == p)
    })
}

/// The forbidden arrows of one file, as printed.
fn violations(file: &Path, text: &str) -> Vec<String> {
    let module = module_of(file);
    let from = module.first().cloned().unwrap_or_default();
    uses(&module, text)
        .into_iter()
        .filter(|u| !allowed(&from, &u.path))
        .map(|u| format!("{}:{}: {from} -> {}", file.display(), u.line, u.path.join("::")))
        .collect()
}

#[test]
fn modules_use_only_what_they_may() {
    let files = source::files_in("src", "rs");
    let mut bad = Vec::new();
    for file in &files {
        let from = module_of(file).first().cloned().unwrap_or_default();
        if !BASE.contains(&from.as_str()) && !ARROWS.iter().any(|(m, _)| *m == from) {
            bad.push(format!("{}: module `{from}` has no row in ARROWS", file.display()));
        }
        bad.extend(violations(file, &source::read(file)));
    }
    assert!(bad.is_empty(), "{} forbidden arrows (see docs/architecture.md):\n{}", bad.len(), bad.join("\n"));
}

#[test]
fn forbidden_arrows_are_found() {
    let bad = [
        ("src/graph/shape.rs", "use crate::model::unet;", "src/graph/shape.rs:1: graph -> model::unet"),
        ("src/backend/cpu/mod.rs", "\n\nuse crate::graph::Graph;", "src/backend/cpu/mod.rs:3: backend -> graph::Graph"),
        (
            "src/backend/wgpu.rs",
            "use crate::{abi::Caps, plan::arena};",
            "src/backend/wgpu.rs:1: backend -> plan::arena",
        ),
        ("src/plan/mod.rs", "fn f() { crate::backend::null::new() }", "src/plan/mod.rs:1: plan -> backend::null::new"),
        ("src/tile/band.rs", "use super::super::image::Rows;", "src/tile/band.rs:1: tile -> image::Rows"),
        ("src/tile/mod.rs", "mod t { use super::super::image::Rows; }", "src/tile/mod.rs:1: tile -> image::Rows"),
        ("src/abi/mod.rs", "use crate::graph::{dtype::DType,\n  op::Op};", "src/abi/mod.rs:2: abi -> graph::op::Op"),
        ("src/cli.rs", "use tessera::plan;", "src/cli.rs:1: cli -> plan"),
        ("src/error.rs", "use crate::fs::open;", "src/error.rs:1: error -> fs::open"),
        ("src/weights/mod.rs", "use crate::graph::*;", "src/weights/mod.rs:1: weights -> graph"),
        (
            "src/system/x.rs",
            "use crate::model::{self as m, unet};\nuse crate::run::{a, b::{c}};",
            "src/system/x.rs:2: system -> run::a",
        ),
        ("src/new/mod.rs", "use crate::graph::Op;", "src/new/mod.rs:1: new -> graph::Op"),
    ];
    for (file, text, expected) in bad {
        let found = violations(Path::new(file), text);
        assert!(found.first().is_some_and(|f| f == expected), "{file}: `{text}` gave {found:?}, not `{expected}`");
    }
}

#[test]
fn allowed_arrows_pass() {
    let good = [
        (
            "src/plan/select.rs",
            "use crate::abi::{Caps, table};\nuse crate::graph::{DType, Graph, op::Op};\nuse crate::error::Result;",
        ),
        (
            "src/backend/cpu/conv2d.rs",
            "use crate::plan::command::Dispatch; use crate::abi; use super::gemm; use super::super::null;",
        ),
        (
            "src/graph/builder.rs",
            "use super::{Op, shape};\n// use crate::model::unet;\nconst S: &str = \"crate::model::unet\";",
        ),
        ("src/tile/mod.rs", "mod tests { use super::*; use super::window::Window; }\nfn f() { super::limits::X }"),
        ("src/run/mod.rs", "use crate::{backend::cpu, image::png, metrics, system, weights::manifest};"),
        ("src/main.rs", "mod cli; fn main() { cli::main(tessera::run::upscale()) }"),
        ("src/image/mod.rs", "use crate::{Error, Kind, Result}; pub(crate) fn f() {} use crate::fs;"),
        ("src/fs.rs", "use crate::{error::Result, limits};"),
    ];
    for (file, text) in good {
        assert_eq!(violations(Path::new(file), text), Vec::<String>::new(), "{file}");
    }
}
