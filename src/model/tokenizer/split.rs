//! Text into words, words into the pieces that are encoded one by one.

use super::unicode::{self, Class};

/// Behind an apostrophe, in the order the original's expression tries them.
const CONTRACTIONS: [&str; 7] = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"];
/// Found inside a word even after lower-casing.
pub(super) const MARKS: [&str; 2] = ["<|startoftext|>", "<|endoftext|>"];
/// First and last code point of each block of CJK ideographs (not kana, not Hangul).
const IDEOGRAPHS: [(u32, u32); 8] = [
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
];

/// The cleaned, lower-cased words of `text`.
pub(super) fn words(text: &str) -> Vec<String> {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        let is_control = !matches!(c, '\t' | '\n' | '\r') && unicode::class(c) == Class::Control;
        if is_control || c == '\u{FFFD}' {
            continue;
        }
        if c.is_whitespace() {
            clean.push(' ');
        } else if IDEOGRAPHS.iter().any(|&(first, last)| (first..=last).contains(&u32::from(c))) {
            clean.extend([' ', c, ' ']);
        } else {
            clean.push(c);
        }
    }
    unicode::nfc(&clean).split_whitespace().map(str::to_lowercase).collect()
}

/// The pieces of a word, which together are the whole of it.
pub(super) fn pieces(word: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let mut rest = word;
    while let Some(first) = rest.chars().next() {
        let fixed = MARKS.iter().chain(&CONTRACTIONS).find_map(|p| matched(rest, p));
        let length = fixed.unwrap_or_else(|| match kind(first) {
            Class::Number => first.len_utf8(),
            class => rest.find(|c| kind(c) != class).unwrap_or(rest.len()),
        });
        let (piece, after) = rest.split_at(length);
        out.push(piece);
        rest = after;
    }
    out
}

/// Letter, number, or anything else.
fn kind(c: char) -> Class {
    match unicode::class(c) {
        Class::Control => Class::Other,
        class => class,
    }
}

/// Bytes of `text` that match `pattern` without regard to case. The text is in lower case, so what is left of
/// that is the long s.
fn matched(text: &str, pattern: &str) -> Option<usize> {
    let mut chars = text.chars();
    let same = |p: char| chars.next().is_some_and(|c| c == p || (c == 'ſ' && p == 's'));
    pattern.chars().all(same).then(|| text.len() - chars.as_str().len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_clean_lower_case_and_composed() {
        let w = words(" A\tCafe\u{301}\u{0}\u{FFFD}  ΟΔΟΣ \u{200b}x\u{2028}y日本 İ\u{3000}z\u{b}w ");
        assert_eq!(w, ["a", "café", "οδος", "x", "y", "日", "本", "i\u{307}", "zw"]);
        assert!(words(" \u{feff}\r\n").is_empty() && words("").is_empty());
    }

    #[test]
    fn pieces_are_the_originals() {
        for (word, expected) in [
            ("don't", vec!["don", "'t"]),
            ("we'll've", vec!["we", "'ll", "'ve"]),
            ("'d's", vec!["'d", "'s"]),
            ("!'s", vec!["!'", "s"]),
            ("a1b22", vec!["a", "1", "b", "2", "2"]),
            ("½x²", vec!["½", "x", "²"]),
            ("e\u{301}x", vec!["e", "\u{301}", "x"]),
            ("<|endoftext|>a", vec!["<|endoftext|>", "a"]),
            ("a<|endoftext|>", vec!["a", "<|endoftext|>"]),
            ("!<|endoftext|>", vec!["!<|", "endoftext", "|>"]),
            ("'ſx", vec!["'ſ", "x"]),
            ("...", vec!["..."]),
        ] {
            assert_eq!(pieces(word), expected, "{word}");
        }
    }
}
