//! The preprocessor for WGSL, which lacks include, conditions and unrolling. One directive per line:
//!
//! - `#import NAME` inserts `shaders/shared/NAME.wgsl`, once per shader;
//! - `#ifdef FLAG`, `#ifndef FLAG`, `#else`, `#endif`;
//! - `#for NAME in 0..COUNT` or `#for NAME in a b c`, `#endfor`: the block once per value;
//! - `${NAME}` is replaced by a constant of the permutation or the value of a `#for`.
//!
//! Loops are unrolled here because private arrays with a run-time index end up in memory on several
//! drivers; a register tile has to be written out. A missing import, an unknown constant and an unbalanced
//! block are errors.

use crate::error::{Error, Kind, Result};
use std::collections::HashSet;

/// Flags and constants of one permutation. A flag is a name with an empty value.
#[derive(Debug, Clone, Default)]
pub(super) struct Definitions(Vec<(String, String)>);

impl Definitions {
    /// Adds a flag for `#ifdef`.
    pub(super) fn flag(&mut self, name: &str) {
        self.constant(name, "");
    }

    /// Adds a constant for `${name}`; it also counts as a flag.
    pub(super) fn constant(&mut self, name: &str, value: impl ToString) {
        self.0.push((name.into(), value.to_string()));
    }

    /// The latest definition wins, so that an inner `#for` may shadow an outer one.
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// Expands `source` (named `name` in errors). `import` finds the text of a shared file.
pub(super) fn expand(
    name: &str,
    source: &str,
    definitions: &Definitions,
    import: &dyn Fn(&str) -> Option<&'static str>,
) -> Result<String> {
    let mut expander =
        Expander { import, definitions: definitions.clone(), imported: HashSet::new(), out: String::new() };
    expander.file(name, source)?;
    Ok(expander.out)
}

struct Expander<'a> {
    import: &'a dyn Fn(&str) -> Option<&'static str>,
    definitions: Definitions,
    imported: HashSet<String>,
    out: String,
}

/// A line with its number, for errors.
type Line<'t> = (usize, &'t str);

fn fail(file: &str, line: usize, why: impl std::fmt::Display) -> Error {
    Error::new(Kind::Internal, "shader", format!("{file}.wgsl:{line}: {why}"))
}

/// Index of the line that closes the block opened before `lines[from]`; `#else` counts at depth 0.
fn closing(file: &str, lines: &[Line<'_>], from: usize, opener: Line<'_>, ends: &[&str]) -> Result<usize> {
    let mut depth = 0usize;
    for (i, (number, line)) in lines.iter().enumerate().skip(from) {
        let word = directive(line).unwrap_or_default();
        if depth == 0 && ends.contains(&word) {
            return Ok(i);
        }
        match word {
            "ifdef" | "ifndef" | "for" => depth += 1,
            "else" | "endif" | "endfor" if depth == 0 => {
                return Err(fail(
                    file,
                    *number,
                    format!("#{word} in the block of line {}: {}", opener.0, opener.1.trim()),
                ));
            }
            "endif" | "endfor" => depth -= 1,
            _ => {}
        }
    }
    Err(fail(file, opener.0, format!("`{}` is not closed", opener.1.trim())))
}

/// The directive's word without `#`, if the line is one.
fn directive(line: &str) -> Option<&str> {
    line.trim_start().strip_prefix('#').map(|rest| rest.split_whitespace().next().unwrap_or_default())
}

impl Expander<'_> {
    fn file(&mut self, name: &str, source: &str) -> Result<()> {
        let lines: Vec<Line<'_>> = source.lines().enumerate().map(|(i, l)| (i + 1, l)).collect();
        self.block(name, &lines)
    }

    fn block(&mut self, file: &str, lines: &[Line<'_>]) -> Result<()> {
        let mut i = 0;
        while i < lines.len() {
            let (number, line) = lines[i];
            let Some(word) = directive(line) else {
                self.text(file, number, line)?;
                i += 1;
                continue;
            };
            let argument = line.trim().strip_prefix('#').unwrap_or_default()[word.len()..].trim();
            match word {
                "import" => {
                    if self.imported.insert(argument.into()) {
                        let text = (self.import)(argument)
                            .ok_or_else(|| fail(file, number, format!("there is no shared/{argument}.wgsl")))?;
                        self.file(argument, text)?;
                    }
                    i += 1;
                }
                "ifdef" | "ifndef" => {
                    let end = closing(file, lines, i + 1, lines[i], &["else", "endif"])?;
                    let is_else = directive(lines[end].1) == Some("else");
                    let last = if is_else { closing(file, lines, end + 1, lines[i], &["endif"])? } else { end };
                    let flag = self.substitute(file, number, argument)?;
                    let holds = self.definitions.get(&flag).is_some() == (word == "ifdef");
                    if holds {
                        self.block(file, &lines[i + 1..end])?;
                    } else if is_else {
                        self.block(file, &lines[end + 1..last])?;
                    }
                    i = last + 1;
                }
                "for" => {
                    let end = closing(file, lines, i + 1, lines[i], &["endfor"])?;
                    let (name, values) = self.values(file, number, argument)?;
                    for value in values {
                        self.definitions.constant(&name, value);
                        self.block(file, &lines[i + 1..end])?;
                        self.definitions.0.pop();
                    }
                    i = end + 1;
                }
                other => return Err(fail(file, number, format!("unexpected #{other}"))),
            }
        }
        Ok(())
    }

    /// The name and the values of a `#for`.
    fn values(&self, file: &str, number: usize, argument: &str) -> Result<(String, Vec<String>)> {
        let argument = self.substitute(file, number, argument)?;
        let bad = || fail(file, number, format!("`#for {argument}`: expected `NAME in 0..COUNT` or `NAME in a b`"));
        let (name, range) = argument.split_once(" in ").ok_or_else(bad)?;
        let values = match range.trim().split_once("..") {
            Some((from, to)) => {
                let from: u32 = from.trim().parse().map_err(|_| bad())?;
                let to: u32 = to.trim().parse().map_err(|_| bad())?;
                (from..to).map(|v| v.to_string()).collect()
            }
            None => range.split_whitespace().map(str::to_owned).collect(),
        };
        Ok((name.trim().to_owned(), values))
    }

    fn text(&mut self, file: &str, number: usize, line: &str) -> Result<()> {
        // Comments go: the text is compiled, and tens of permutations of it are kept in memory.
        let code = line.find("//").map_or(line, |at| &line[..at]).trim_end();
        if !code.is_empty() {
            let code = self.substitute(file, number, code)?;
            self.out.push_str(&code);
            self.out.push('\n');
        }
        Ok(())
    }

    fn substitute(&self, file: &str, number: usize, text: &str) -> Result<String> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let end = rest[at..].find('}').ok_or_else(|| fail(file, number, "`${` is not closed"))? + at;
            let name = &rest[at + 2..end];
            let value = self
                .definitions
                .get(name)
                .ok_or_else(|| fail(file, number, format!("the permutation has no constant `{name}`")))?;
            out.push_str(&rest[..at]);
            out.push_str(value);
            rest = &rest[end + 1..];
        }
        out.push_str(rest);
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(source: &str) -> Result<String> {
        let mut d = Definitions::default();
        d.flag("ON");
        d.constant("N", 2);
        expand("t", source, &d, &|name| (name == "part").then_some("part\n#import part\n"))
    }

    fn message(source: &str) -> String {
        run(source).expect_err("must fail").message().to_owned()
    }

    #[test]
    fn conditions_nest() {
        let source = "#ifdef ON\na\n#ifndef ON\nb\n#else\nc\n#endif\n#else\nd\n#endif\ne";
        assert_eq!(run(source).expect("balanced"), "a\nc\ne\n");
    }

    #[test]
    fn loops_unroll_and_nest() {
        let source = "#for I in 0..${N}\n#for S in x y\n${S}${I}\n#endfor\n#endfor";
        assert_eq!(run(source).expect("balanced"), "x0\ny0\nx1\ny1\n");
    }

    #[test]
    fn a_loop_may_name_flags() {
        assert_eq!(run("#for S in ON OFF\n#ifdef ${S}\n${S}\n#endif\n#endfor").expect("balanced"), "ON\n");
    }

    #[test]
    fn imports_come_once_and_comments_go() {
        assert_eq!(run("#import part\n#import part\na // b").expect("known"), "part\na\n");
    }

    #[test]
    fn mistakes_are_errors_with_a_line() {
        assert!(message("a\n#import none").contains("t.wgsl:2: there is no shared/none.wgsl"));
        assert!(message("${M}").contains("no constant `M`"));
        assert!(message("#ifdef A\nx").contains("not closed"));
        assert!(message("#endif").contains("unexpected #endif"));
        assert!(message("#for I in 0..2\n#endif\n#endfor").contains("#endif in the block of line 1"));
        assert!(message("#ifdef ON\n#else\n#else\n#endif").contains("#else"));
        assert!(message("#for I\n#endfor").contains("expected"));
        assert!(message("#fro").contains("unexpected #fro"));
    }
}
