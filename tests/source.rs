//! Reads the repository as text for the guard tests: which files there are, and Rust source as tokens
//! without comments and string contents.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The repository's root: where the tests run, if that is one (the binary may have been carried to another
/// machine with a GPU, see `tools/gpu_check`), else where they were built.
pub(crate) fn root() -> &'static Path {
    let here = Path::new(".");
    if here.join("tests/source.rs").is_file() { here } else { Path::new(env!("CARGO_MANIFEST_DIR")) }
}

/// Every file of the repository, relative to its root: what git tracks, or, where there is no git
/// (a source archive), every file outside build folders.
pub(crate) fn files() -> Vec<PathBuf> {
    let git = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output();
    let mut files: Vec<PathBuf> = match git {
        Ok(out) if out.status.success() && !out.stdout.is_empty() => {
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            text.split('\0').filter(|p| !p.is_empty()).map(PathBuf::from).collect()
        }
        _ => walk(),
    };
    // A file deleted but not yet committed is still listed.
    files.retain(|p| root().join(p).is_file());
    files.sort();
    assert!(files.len() > 20, "only {} files found under {}", files.len(), root().display());
    files
}

fn walk() -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![root().to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("readable folder").flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let skip =
                ["target", ".git", ".venv", "__pycache__"].contains(&name.as_str()) || name.ends_with(".tessera");
            if path.is_dir() && !skip {
                folders.push(path);
            } else if path.is_file() {
                found.push(path.strip_prefix(root()).expect("under the root").to_path_buf());
            }
        }
    }
    found
}

/// The tracked files below `folder` that end in `.ext`.
pub(crate) fn files_in(folder: &str, ext: &str) -> Vec<PathBuf> {
    files().into_iter().filter(|p| p.starts_with(folder) && p.extension().is_some_and(|e| e == ext)).collect()
}

/// The text of a file of the repository.
pub(crate) fn read(path: &Path) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// One token of Rust source.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Token {
    /// Its text; string and character literals are reduced to `""`.
    pub(crate) text: String,
    /// Line, from 1.
    pub(crate) line: usize,
}

/// Splits Rust source into words, numbers and single punctuation characters (`::` is one token, so are
/// the two-character comparisons). Comments vanish; literals lose their content.
pub(crate) fn tokens(source: &str) -> Vec<Token> {
    let c: Vec<char> = source.chars().collect();
    let (mut i, mut line, mut out) = (0, 1, Vec::new());
    while i < c.len() {
        let start = i;
        match c[i] {
            '\n' => {
                line += 1;
                i += 1;
            }
            ch if ch.is_whitespace() => i += 1,
            '/' if c.get(i + 1) == Some(&'/') => i = end_of_line(&c, i),
            '/' if c.get(i + 1) == Some(&'*') => {
                i = end_of_block_comment(&c, i);
                line += newlines(&c[start..i]);
            }
            '"' => {
                i = end_of_string(&c, i);
                out.push(Token { text: "\"\"".into(), line });
                line += newlines(&c[start..i]);
            }
            'r' | 'b' if raw_string(&c, i).is_some() => {
                i = raw_string(&c, i).expect("just matched");
                out.push(Token { text: "\"\"".into(), line });
                line += newlines(&c[start..i]);
            }
            '\'' => {
                // A lifetime ('a) or a character literal ('a', '\n').
                let literal = c.get(i + 1) == Some(&'\\') || c.get(i + 2) == Some(&'\'');
                if literal {
                    i += if c.get(i + 1) == Some(&'\\') { 3 } else { 2 };
                    while i < c.len() && c[i] != '\'' {
                        i += 1;
                    }
                    i += 1;
                    out.push(Token { text: "\"\"".into(), line });
                } else {
                    i += 1;
                }
            }
            ch if ch.is_ascii_digit() => {
                i += 1;
                while i < c.len() && number_goes_on(&c, i) {
                    i += 1;
                }
                out.push(Token { text: c[start..i].iter().collect(), line });
            }
            ch if ch.is_alphanumeric() || ch == '_' => {
                while i < c.len() && (c[i].is_alphanumeric() || c[i] == '_') {
                    i += 1;
                }
                out.push(Token { text: c[start..i].iter().collect(), line });
            }
            _ => {
                let two: String = c[i..(i + 2).min(c.len())].iter().collect();
                let len = if ["::", "<=", ">=", "==", "!=", "->", "=>"].contains(&two.as_str()) { 2 } else { 1 };
                i += len;
                out.push(Token { text: c[start..i].iter().collect(), line });
            }
        }
    }
    out
}

fn newlines(c: &[char]) -> usize {
    c.iter().filter(|&&ch| ch == '\n').count()
}

fn end_of_line(c: &[char], from: usize) -> usize {
    (from..c.len()).find(|&i| c[i] == '\n').unwrap_or(c.len())
}

fn end_of_block_comment(c: &[char], from: usize) -> usize {
    let (mut i, mut depth) = (from, 0);
    while i < c.len() {
        match (c[i], c.get(i + 1)) {
            ('/', Some('*')) => (depth, i) = (depth + 1, i + 2),
            ('*', Some('/')) => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    c.len()
}

fn end_of_string(c: &[char], from: usize) -> usize {
    let mut i = from + 1;
    while i < c.len() && c[i] != '"' {
        i += if c[i] == '\\' { 2 } else { 1 };
    }
    (i + 1).min(c.len())
}

/// Where the raw or byte string that starts at `from` ends; `None` where none starts.
fn raw_string(c: &[char], from: usize) -> Option<usize> {
    let mut i = from;
    if c.get(i) == Some(&'b') {
        i += 1;
        if c.get(i) == Some(&'"') {
            return Some(end_of_string(c, i));
        }
    }
    if c.get(i) != Some(&'r') {
        return None;
    }
    i += 1;
    let hashes = c[i..].iter().take_while(|&&ch| ch == '#').count();
    i += hashes;
    if c.get(i) != Some(&'"') {
        return None;
    }
    i += 1;
    while i < c.len() {
        if c[i] == '"' && c[i + 1..].iter().take_while(|&&ch| ch == '#').take(hashes).count() == hashes {
            return Some(i + 1 + hashes);
        }
        i += 1;
    }
    Some(c.len())
}

fn number_goes_on(c: &[char], i: usize) -> bool {
    match c[i] {
        ch if ch.is_alphanumeric() || ch == '_' => true,
        // `1.5` but neither `1..2` nor `1.max(2)`.
        '.' => c.get(i + 1).is_none_or(|n| n.is_ascii_digit()) && c.get(i.wrapping_sub(1)) != Some(&'.'),
        // `1e-3`
        '-' | '+' => matches!(c[i - 1], 'e' | 'E') && c.get(i + 1).is_some_and(char::is_ascii_digit),
        _ => false,
    }
}

#[test]
fn tokens_drop_comments_and_literals() {
    let source = "a // b::c\n/* d /* e */\n f */ \"g \\\" h\" r#\"i \" j\"# 'k' 'l '\\n' 1.5e-3..2 x<=y b\"m\" n::o";
    let texts: Vec<String> = tokens(source).into_iter().map(|t| t.text).collect();
    assert_eq!(
        texts,
        ["a", "\"\"", "\"\"", "\"\"", "l", "\"\"", "1.5e-3", ".", ".", "2", "x", "<=", "y", "\"\"", "n", "::", "o"]
    );
    let lines: Vec<usize> = tokens("a\n/*\n*/ b\n\"x\ny\" c").iter().map(|t| t.line).collect();
    assert_eq!(lines, [1, 3, 4, 5]);
}
