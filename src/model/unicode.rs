//! What CLIP's tokenizer has to know about characters: letter, number or neither, and Unicode's normal form C.
//!
//! From a table of Unicode 14.0 (`unicode.txt`, made by `tools/reference/make_unicode.py`): characters
//! added since count as unassigned, as they do for the Python that the reference outputs were made with. The
//! standard library knows neither categories (its `is_alphabetic` takes in marks) nor normal forms.

use std::collections::HashMap;
use std::sync::OnceLock;

const TABLE: &str = include_str!("unicode.txt");

/// First Hangul syllable, its three kinds of letters, and how many there are of each (Unicode 14, 3.12).
const HANGUL: [u32; 4] = [0xAC00, 0x1100, 0x1161, 0x11A7];
const HANGUL_COUNTS: [u32; 3] = [19, 21, 28];

/// Major category of a character, as far as the tokenizer tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Control, format, private use, unassigned.
    Control,
    /// A letter.
    Letter,
    /// A digit or another number.
    Number,
    /// Marks, punctuation, symbols, separators.
    Other,
}

struct Tables {
    /// First code point of each run, ascending.
    classes: Vec<(u32, Class)>,
    /// First code point, length and class of each run of marks, ascending.
    combining: Vec<(u32, u32, u8)>,
    decompositions: HashMap<char, (char, Option<char>)>,
    compositions: HashMap<(char, char), char>,
}

fn hex(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 16).ok()
}

fn tables() -> &'static Tables {
    static TABLES: OnceLock<Tables> = OnceLock::new();
    TABLES.get_or_init(|| {
        let mut lines = TABLE.lines().skip(1);
        let mut next = || lines.next().unwrap_or_default().split(' ');
        let mut start = 0;
        let classes = next().filter_map(|run| {
            let (kind, length) = run.split_at_checked(1)?;
            let class = match kind {
                "c" => Class::Control,
                "l" => Class::Letter,
                "n" => Class::Number,
                _ => Class::Other,
            };
            start += length.parse::<u32>().ok()?;
            Some((start - length.parse::<u32>().ok()?, class))
        });
        let classes = classes.collect();
        let combining = next().filter_map(|run| {
            let mut parts = run.split(':').filter_map(hex);
            Some((parts.next()?, parts.next()?, parts.next()? as u8))
        });
        let combining = combining.collect();
        let (mut decompositions, mut compositions) = (HashMap::new(), HashMap::new());
        for entry in next() {
            let Some((whole, parts)) = entry.split_once(['=', '>']) else { continue };
            let mut parts = parts.split(',').filter_map(hex).filter_map(char::from_u32);
            let (Some(whole), Some(first)) = (hex(whole).and_then(char::from_u32), parts.next()) else { continue };
            let second = parts.next();
            decompositions.insert(whole, (first, second));
            if let Some(second) = second.filter(|_| entry.contains('=')) {
                compositions.insert((first, second), whole);
            }
        }
        Tables { classes, combining, decompositions, compositions }
    })
}

/// The class of `c`.
pub(super) fn class(c: char) -> Class {
    let runs = &tables().classes;
    let after = runs.partition_point(|&(start, _)| start <= u32::from(c));
    after.checked_sub(1).and_then(|i| runs.get(i)).map_or(Class::Control, |r| r.1)
}

/// Canonical combining class: 0 for everything that is no mark.
fn combining(c: char) -> u8 {
    let runs = &tables().combining;
    let after = runs.partition_point(|&(start, ..)| start <= u32::from(c));
    let run = after.checked_sub(1).and_then(|i| runs.get(i));
    run.filter(|(start, length, _)| u32::from(c) - start < *length).map_or(0, |r| r.2)
}

fn decompose(c: char, out: &mut Vec<char>) {
    let syllable = u32::from(c).wrapping_sub(HANGUL[0]);
    let [_, vowels, tails] = HANGUL_COUNTS;
    if syllable < HANGUL_COUNTS.iter().product() {
        let (lead, vowel, tail) = (syllable / (vowels * tails), syllable / tails % vowels, syllable % tails);
        let letters = [HANGUL[1] + lead, HANGUL[2] + vowel, HANGUL[3] + tail];
        out.extend(letters[..2 + usize::from(tail > 0)].iter().filter_map(|&l| char::from_u32(l)));
    } else if let Some(&(first, second)) = tables().decompositions.get(&c) {
        // tables hold one step; chains are at most three long
        decompose(first, out);
        second.into_iter().for_each(|s| decompose(s, out));
    } else {
        out.push(c);
    }
}

/// The character that `a` followed by `b` makes.
fn compose(a: char, b: char) -> Option<char> {
    let [leads, vowels, tails] = HANGUL_COUNTS;
    let at = |c: char, first: u32| u32::from(c).wrapping_sub(first);
    if at(a, HANGUL[1]) < leads && at(b, HANGUL[2]) < vowels {
        return char::from_u32(HANGUL[0] + (at(a, HANGUL[1]) * vowels + at(b, HANGUL[2])) * tails);
    }
    let syllable = at(a, HANGUL[0]);
    if syllable < leads * vowels * tails && syllable % tails == 0 && (1..tails).contains(&at(b, HANGUL[3])) {
        return char::from_u32(u32::from(a) + at(b, HANGUL[3]));
    }
    tables().compositions.get(&(a, b)).copied()
}

/// `text` in normal form C (Unicode Standard Annex 15).
pub(super) fn nfc(text: &str) -> String {
    // Nothing below U+0300 changes: there are no marks, and Latin letters are whole.
    if text.chars().all(|c| c < '\u{300}') {
        return text.to_owned();
    }
    let mut chars = Vec::with_capacity(text.len());
    text.chars().for_each(|c| decompose(c, &mut chars));
    // Marks behind one base go by class; equal ones keep their order.
    for run in chars.chunk_by_mut(|_, b| combining(*b) != 0) {
        let marks = usize::from(combining(run[0]) == 0);
        run[marks..].sort_by_key(|c| combining(*c));
    }
    let mut out: Vec<char> = Vec::with_capacity(chars.len());
    // Place of the last base, and the class of the character put behind it last.
    let (mut base, mut last) = (None::<usize>, 0u8);
    for c in chars {
        let mark = combining(c);
        if let Some(b) = base {
            let reaches = out.len() == b + 1 || (last != 0 && last < mark);
            if let Some(whole) = compose(out[b], c).filter(|_| reaches) {
                out[b] = whole;
                continue;
            }
        }
        if mark == 0 {
            base = Some(out.len());
        }
        last = mark;
        out.push(c);
    }
    out.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_whole() {
        let t = tables();
        let composing = t.decompositions.iter().filter(|(w, (a, b))| b.and_then(|b| compose(*a, b)) == Some(**w));
        assert_eq!((t.classes.len(), t.decompositions.len(), composing.count()), (2018, 2061, t.compositions.len()));
        assert_eq!(t.combining.iter().map(|r| r.1).sum::<u32>(), 912);
        for (c, is) in [
            ('a', Class::Letter),
            ('ß', Class::Letter),
            ('漢', Class::Letter),
            ('7', Class::Number),
            ('½', Class::Number),
            ('Ⅷ', Class::Number),
            ('ⓐ', Class::Other),
            ('\u{301}', Class::Other),
            ('€', Class::Other),
            ('\u{7f}', Class::Control),
            ('\u{200d}', Class::Control),
            ('\u{e000}', Class::Control),
            ('\u{10ffff}', Class::Control),
            // a letter, but only since Unicode 15
            ('\u{11f04}', Class::Control),
        ] {
            assert_eq!(class(c), is, "{c:?}");
        }
    }

    #[test]
    fn parts_compose_in_their_order() {
        for (parts, whole) in [
            ("e\u{301}", "é"),
            ("A\u{30a}", "Å"),
            ("\u{212b}", "Å"),
            ("q\u{307}\u{323}", "q\u{323}\u{307}"),
            ("a\u{323}\u{302}", "ậ"),
            ("a\u{302}\u{323}", "ậ"),
            ("각", "각"),
            ("ᄒ\u{1161}\u{11ab}", "한"),
            // excluded from composition
            ("\u{915}\u{93c}", "\u{915}\u{93c}"),
            ("\u{958}", "\u{915}\u{93c}"),
            ("\u{301}e", "\u{301}e"),
            ("e\u{301}\u{301}", "é\u{301}"),
            ("plain", "plain"),
        ] {
            assert_eq!(nfc(parts), whole, "{parts:?}");
        }
    }

    /// Every character against Python's own normal forms, by a digest that `make_unicode.py` prints.
    #[test]
    fn every_normal_form_is_pythons() {
        let mut digest = 0xCBF2_9CE4_8422_2325u64;
        for c in (0..=u32::from(char::MAX)).filter_map(char::from_u32).filter(|c| class(*c) != Class::Control) {
            for text in [c.to_string(), format!("a{c}"), format!("{c}\u{301}\u{323}")] {
                for byte in nfc(&text).bytes() {
                    digest = (digest ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3);
                }
            }
        }
        assert_eq!(digest, 0x6DA0_4033_F596_7991);
    }
}
