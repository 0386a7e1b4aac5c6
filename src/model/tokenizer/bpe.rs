//! Vocabulary and merges: a piece of a word becomes ids.

use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::weights::json::{self, quoted};
use serde_json::Value;
use std::collections::HashMap;

/// Stands behind the last character of a piece.
const END: &str = "</w>";
/// Merges that count: CLIP's vocabulary less 256 bytes, as often ended ones and two marks. transformers reads no
/// more, however long the file is.
const MERGES: usize = 49_152 - 256 - 2;

/// `vocab.json`.
pub(super) fn vocabulary(text: &str) -> Result<HashMap<String, u32>> {
    let bad = |why: String| Error::new(Kind::Weights, "model", format!("vocab.json: {why}"));
    if text.len() as u64 > limits::MAX_VOCABULARY_BYTES {
        let why = format!("vocab.json: {} bytes, the limit is {}", text.len(), limits::MAX_VOCABULARY_BYTES);
        return Err(Error::new(Kind::Limit, "model", why));
    }
    let map = json::object("vocab.json", text.as_bytes())?;
    if map.is_empty() {
        return Err(bad("no tokens".into()));
    }
    let id = |(token, value): (String, Value)| match value.as_u64() {
        Some(id) if id < limits::MAX_VOCABULARY => Ok((token, id as u32)),
        _ => Err(bad(format!(
            "`{}` is {}, expected an id below {}",
            quoted(&token),
            quoted(&value.to_string()),
            limits::MAX_VOCABULARY
        ))),
    };
    map.into_iter().map(id).collect()
}

/// A symbol: a byte, or several that were merged.
type Symbol = u32;

/// The merges over interned symbols.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Merges {
    /// Symbol of each byte, inside a piece and at its end.
    bytes: [[Symbol; 2]; 256],
    /// Rank and result of each pair.
    pairs: HashMap<(Symbol, Symbol), (u32, Symbol)>,
    /// Id of each symbol.
    ids: Vec<u32>,
}

impl Merges {
    /// Reads `merges.txt`: one line of heading, then a pair a line.
    pub(super) fn read(text: &str, vocabulary: HashMap<String, u32>, unknown: u32) -> Result<Merges> {
        if text.len() as u64 > limits::MAX_VOCABULARY_BYTES {
            let why = format!("merges.txt: {} bytes, the limit is {}", text.len(), limits::MAX_VOCABULARY_BYTES);
            return Err(Error::new(Kind::Limit, "model", why));
        }
        let mut symbols: HashMap<String, Symbol> = HashMap::new();
        let mut ids = Vec::new();
        let mut intern = |name: String| {
            let id = vocabulary.get(&name).copied().unwrap_or(unknown);
            *symbols.entry(name).or_insert_with(|| {
                ids.push(id);
                ids.len() as Symbol - 1
            })
        };
        let mut bytes = [[0; 2]; 256];
        for (pair, c) in bytes.iter_mut().zip(printable()) {
            *pair = [intern(c.to_string()), intern(format!("{c}{END}"))];
        }
        let mut pairs = HashMap::new();
        for (rank, line) in text.trim().lines().skip(1).take(MERGES).enumerate() {
            let mut parts = line.split_whitespace();
            let (Some(a), Some(b), None) = (parts.next(), parts.next(), parts.next()) else {
                let why = format!("merges.txt: line {} is `{}`, expected two symbols", rank + 2, quoted(line));
                return Err(Error::new(Kind::Weights, "model", why));
            };
            let whole = intern(format!("{a}{b}"));
            // Of a pair that stands twice, the later line counts, as in Python's dict.
            pairs.insert((intern(a.to_owned()), intern(b.to_owned())), (rank as u32, whole));
        }
        Ok(Merges { bytes, pairs, ids })
    }

    /// Appends the ids of `piece`. In each round the pair of the lowest rank is merged wherever it stands, from
    /// the left; ranks of the other pairs are kept, so a round costs one pass.
    pub(super) fn encode(&self, piece: &str, out: &mut Vec<u32>) {
        let last = piece.len().saturating_sub(1);
        let symbol = |(i, b): (usize, u8)| self.bytes[usize::from(b)][usize::from(i == last)];
        let mut word: Vec<Symbol> = piece.bytes().enumerate().map(symbol).collect();
        let find = |pair: &[Symbol]| self.pairs.get(&(pair[0], pair[1])).copied();
        let mut ranks: Vec<Option<(u32, Symbol)>> = word.windows(2).map(find).collect();
        while let Some((rank, whole)) = ranks.iter().copied().flatten().min() {
            let (mut read, mut write) = (0, 0);
            while read < word.len() {
                let merges = ranks.get(read).is_some_and(|r| r.is_some_and(|r| r.0 == rank));
                word[write] = if merges { whole } else { word[read] };
                // A pair's rank stays unless one of its two changes.
                if write < ranks.len() {
                    ranks[write] = ranks.get(read).copied().flatten().filter(|_| !merges);
                }
                read += if merges { 2 } else { 1 };
                write += 1;
            }
            word.truncate(write);
            ranks.truncate(write.saturating_sub(1));
            for (i, pair) in word.windows(2).enumerate() {
                if pair.contains(&whole) {
                    ranks[i] = find(pair);
                }
            }
        }
        out.extend(word.into_iter().filter_map(|s| self.ids.get(s as usize)));
    }
}

/// The printable character that stands for each byte: itself where Latin-1 has one, else one from U+0100 on.
fn printable() -> [char; 256] {
    let mut next = 0x100u32;
    std::array::from_fn(|b| {
        let own = matches!(b, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
        let code = if own {
            b as u32
        } else {
            next += 1;
            next - 1
        };
        char::from_u32(code).unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Letters a to d, their ends, and what the merges make.
    fn small(merges: &str) -> Merges {
        let names: Vec<String> = "abcd".chars().flat_map(|c| [c.to_string(), format!("{c}{END}")]).collect();
        let vocabulary = names.into_iter().zip(10..);
        let made = ["ab", "abab", "aba", "bc</w>", "abc</w>"].map(str::to_owned).into_iter().zip(30..);
        Merges::read(&format!("#version\n{merges}\n"), vocabulary.chain(made).collect(), 99).expect("merges")
    }

    fn encoded(m: &Merges, piece: &str) -> Vec<u32> {
        let mut out = Vec::new();
        m.encode(piece, &mut out);
        out
    }

    #[test]
    fn the_lowest_rank_is_merged_everywhere_first() {
        let m = small("a b\nb c</w>\nab c</w>");
        assert_eq!(encoded(&m, "abc"), [34]);
        assert_eq!(encoded(&m, "bc"), [33]);
        assert_eq!(encoded(&m, "c"), [15]);
        assert_eq!(encoded(&m, "dab"), [16, 10, 13], "the end of a piece is another symbol");
        assert_eq!(encoded(&m, "ab\u{e9}a"), [30, 99, 99, 11]);
        assert!(encoded(&m, "").is_empty());
        // a new pair of a lower rank waits until the round is over
        let m = small("ab a\na b\nab ab");
        assert_eq!(encoded(&m, "ababd"), [31, 17]);
        assert_eq!(encoded(&m, "aaa"), [10, 10, 11]);
        let overlap = small("a a");
        assert_eq!(encoded(&overlap, "aaaa"), [99, 10, 11]);
    }

    #[test]
    fn long_pieces_end_in_time() {
        let m = small("a b\nab ab\nabab abab");
        let start = std::time::Instant::now();
        assert!(!encoded(&m, &"ab".repeat(limits::MAX_PROMPT_BYTES / 2)).is_empty());
        assert!(start.elapsed().as_secs() < 5);
    }

    #[test]
    fn damaged_files_are_refused() {
        for (text, says) in [
            ("[]", "not a JSON object"),
            ("{}", "no tokens"),
            (r#"{"a":-1}"#, "`a` is -1"),
            (r#"{"a":1048576}"#, "`a` is 1048576"),
            (r#"{"a":1,"a":2}"#, "a"),
        ] {
            let e = vocabulary(text).expect_err(says);
            assert!(e.kind() == Kind::Weights && e.message().contains(says), "{e}");
        }
        for text in ["#version\na b c", "#version\na", "#version\na b\n\nc d"] {
            let e = Merges::read(text, HashMap::new(), 0).expect_err(text);
            assert!(e.kind() == Kind::Weights && e.message().contains("line"), "{e}");
        }
    }

    #[test]
    fn every_byte_has_its_own_character() {
        let all: std::collections::HashSet<char> = printable().into_iter().collect();
        assert_eq!(all.len(), 256);
        let p = printable();
        assert_eq!((p[0x20], p[0x21], p[0], p[0xAD], p[0xFF]), ('Ġ', '!', 'Ā', 'Ń', 'ÿ'));
    }
}
