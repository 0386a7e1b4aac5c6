//! The journal of an unfinished picture: what of its spool is certainly on disk.
//!
//! Text, a line a record: eight hex digits, a space, the record. The digits are the CRC-32 of the line before's
//! digits and of the record, so no line can be changed, lost, doubled or moved without all lines from there on
//! being void. The first line is the key: everything that decides the picture's bytes. Nothing is believed
//! that does not follow from a key that is equal to the job's own.

use crate::error::Result;
use crate::fs::AppendFile;
use crate::limits;
use flate2::Crc;
use std::path::Path;

/// First word of every journal, with the version of this format.
const MAGIC: &str = "tessera-journal-1";

/// What decides a picture's bytes, by name: the hash of the input, the options, the weights and so on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Key(Vec<(String, String)>);

impl Key {
    /// Adds a part. White space and `=` in a value become `_`.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl std::fmt::Display) -> Key {
        let plain = |c: char| if c.is_whitespace() || c.is_control() || c == '=' { '_' } else { c };
        self.0.push((name.to_owned(), value.to_string().chars().map(plain).collect()));
        self
    }

    /// The value of a part.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Names of the parts in which two keys differ, each once.
    pub fn differences(&self, other: &Key) -> Vec<String> {
        let missing = |a: &Key, b: &Key| -> Vec<String> {
            a.0.iter().filter(|p| !b.0.contains(p)).map(|(n, _)| n.clone()).collect()
        };
        let mut names = missing(self, other);
        names.extend(missing(other, self).into_iter().filter(|n| !names.contains(n)).collect::<Vec<_>>());
        if names.is_empty() && self != other {
            names.push("order".into());
        }
        names
    }

    fn line(&self) -> String {
        let parts: Vec<String> = self.0.iter().map(|(n, v)| format!("{n}={v}")).collect();
        format!("{MAGIC} {}", parts.join(" "))
    }

    fn read(text: &str) -> Option<Key> {
        let mut words = text.split(' ');
        if words.next() != Some(MAGIC) {
            return None;
        }
        let part = |w: &str| w.split_once('=').map(|(n, v)| (n.to_owned(), v.to_owned()));
        words.map(part).collect::<Option<Vec<_>>>().map(Key)
    }
}

/// A state that was written to a file beside the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Name of the file.
    pub file: String,
    /// Its bytes.
    pub bytes: u64,
    /// Their CRC-32.
    pub crc: u32,
}

/// One thing that is certainly on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// Rows of the output.
    Rows {
        /// The first.
        first: u64,
        /// How many.
        count: u64,
        /// CRC-32 of their bytes in the spool.
        crc: u32,
    },
    /// The states of the job after its unit of work number `at`.
    Point {
        /// Units of work done.
        at: u64,
        /// Where the states lie.
        states: Vec<Stored>,
    },
    /// The complete output is about to be moved to its place; its file has this identity.
    Placing([u64; 2]),
}

impl Record {
    fn line(&self) -> String {
        match self {
            Record::Rows { first, count, crc } => format!("rows {first} {count} {crc:08x}"),
            Record::Point { at, states } => {
                let states: Vec<String> =
                    states.iter().map(|s| format!(" {}:{}:{:08x}", s.file, s.bytes, s.crc)).collect();
                format!("point {at}{}", states.concat())
            }
            Record::Placing([a, b]) => format!("placing {a} {b}"),
        }
    }

    fn read(text: &str) -> Option<Record> {
        let mut words = text.split(' ');
        let kind = words.next()?;
        let record = match kind {
            "rows" => Record::Rows {
                first: words.next()?.parse().ok()?,
                count: words.next()?.parse().ok()?,
                crc: u32::from_str_radix(words.next()?, 16).ok()?,
            },
            "point" => {
                let at = words.next()?.parse().ok()?;
                let state = |w: &str| {
                    let mut parts = w.split(':');
                    let (file, bytes, crc) = (parts.next()?, parts.next()?, parts.next()?);
                    // A name, never a path: what is read lies beside the journal.
                    let plain = file.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '.');
                    let name = plain && !file.is_empty() && !file.starts_with('.');
                    let crc = u32::from_str_radix(crc, 16).ok()?;
                    (name && parts.next().is_none()).then_some(Stored {
                        file: file.to_owned(),
                        bytes: bytes.parse().ok()?,
                        crc,
                    })
                };
                Record::Point { at, states: words.by_ref().map(state).collect::<Option<_>>()? }
            }
            "placing" => Record::Placing([words.next()?.parse().ok()?, words.next()?.parse().ok()?]),
            _ => return None,
        };
        words.next().is_none().then_some(record)
    }
}

/// What the bytes of a journal prove.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Proved {
    /// The key, when the first line is whole.
    pub key: Option<Key>,
    /// The records up to the first line that is not whole.
    pub records: Vec<Record>,
    /// Bytes of those lines.
    pub bytes: u64,
    /// The check of the last of them.
    check: u32,
}

fn check(before: u32, record: &str) -> u32 {
    let mut crc = Crc::new();
    crc.update(format!("{before:08x}").as_bytes());
    crc.update(record.as_bytes());
    crc.sum()
}

/// Reads a journal up to its first line that is not whole.
pub fn prove(bytes: &[u8]) -> Proved {
    let mut proved = Proved::default();
    let mut rest = bytes;
    while let Some(end) = rest.iter().position(|&b| b == b'\n') {
        let Some(record) = record_of(&rest[..end], proved.check) else { break };
        if proved.key.is_none() {
            let Some(key) = Key::read(record) else { break };
            proved.key = Some(key);
        } else {
            let Some(record) = Record::read(record) else { break };
            proved.records.push(record);
        }
        proved.check = check(proved.check, record);
        proved.bytes += end as u64 + 1;
        rest = &rest[end + 1..];
    }
    proved
}

/// The record of a line whose check is right.
fn record_of(line: &[u8], before: u32) -> Option<&str> {
    let text = std::str::from_utf8(line).ok()?;
    let (digits, record) = text.split_at_checked(9)?;
    // Compared as text: only what would be written is read.
    (digits == format!("{:08x} ", check(before, record))).then_some(record)
}

/// A journal being written.
#[derive(Debug)]
pub struct Journal {
    file: AppendFile,
    check: u32,
}

impl Journal {
    /// Begins a journal at `path`; one that lies there is lost.
    pub fn create(path: &Path, key: &Key) -> Result<Journal> {
        let mut journal = Journal { file: AppendFile::create(path)?, check: 0 };
        journal.write(&key.line())?;
        Ok(journal)
    }

    /// Opens the journal at `path` and tells what it proves, and whether more lies behind that. What is not
    /// proved is cut off by [`Journal::proceed`].
    pub fn open(path: &Path) -> Result<(Journal, Proved, bool)> {
        let (file, bytes) = AppendFile::open(path, false, limits::MAX_JOURNAL_BYTES)?;
        let proved = prove(&bytes);
        let more = proved.bytes < bytes.len() as u64;
        Ok((Journal { file, check: proved.check }, proved, more))
    }

    /// Goes on behind the first `records` of what was proved.
    pub fn proceed(&mut self, proved: &Proved, records: usize) -> Result<()> {
        let key = proved.key.clone().unwrap_or_default();
        let lines = std::iter::once(key.line()).chain(proved.records[..records].iter().map(Record::line));
        let (mut at, mut sum) = (0, 0);
        for line in lines {
            sum = check(sum, &line);
            at += 10 + line.len() as u64;
        }
        self.check = sum;
        self.file.truncate(at)
    }

    /// Adds a record; it is on disk when this returns.
    pub fn append(&mut self, record: &Record) -> Result<()> {
        self.write(&record.line())
    }

    fn write(&mut self, record: &str) -> Result<()> {
        let sum = check(self.check, record);
        self.file.append(format!("{sum:08x} {record}\n").as_bytes())?;
        self.check = sum;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::default().with("input", "abc").with("device", "cpu x86 (2 threads)")
    }

    fn records() -> Vec<Record> {
        let state = Stored { file: "canvas-1-a.rows".into(), bytes: 4096, crc: 7 };
        vec![
            Record::Point { at: 3, states: vec![state.clone(), Stored { file: "moments".into(), ..state }] },
            Record::Point { at: 4, states: Vec::new() },
            Record::Rows { first: 0, count: 480, crc: 0xdead_beef },
            Record::Rows { first: 480, count: 480, crc: 1 },
            Record::Placing([12, u64::MAX]),
        ]
    }

    fn written() -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let mut journal = Journal::create(&path, &key()).unwrap();
        records().iter().for_each(|r| journal.append(r).unwrap());
        std::fs::read(path).unwrap()
    }

    #[test]
    fn what_is_written_is_proved() {
        let proved = prove(&written());
        assert_eq!((proved.key, proved.records, proved.bytes), (Some(key()), records(), written().len() as u64));
        assert_eq!(key().get("device"), Some("cpu_x86_(2_threads)"));
        let other = Key::default().with("input", "abd").with("device", "cpu x86 (2 threads)");
        assert_eq!(key().differences(&other), ["input"]);
        assert_eq!(key().differences(&other.with("more", 1)), ["input", "more"]);
        assert!(key().differences(&key()).is_empty());
    }

    #[test]
    fn every_flipped_bit_voids_all_from_its_line_on() {
        let good = written();
        let starts: Vec<usize> = std::iter::once(0)
            .chain(good.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1))
            .collect();
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                let proved = prove(&bad);
                let line = starts.iter().rposition(|&s| s <= at).unwrap();
                assert_eq!(proved.bytes, starts[line] as u64, "byte {at} bit {bit}");
                assert_eq!(proved.records.len(), line.saturating_sub(1));
                assert_eq!(proved.key.is_some(), line > 0);
            }
        }
    }

    #[test]
    fn every_prefix_proves_its_whole_lines() {
        let good = written();
        for cut in 0..good.len() {
            let lines = good[..cut].iter().filter(|&&b| b == b'\n').count();
            let proved = prove(&good[..cut]);
            assert_eq!(proved.records, records()[..lines.saturating_sub(1)]);
            assert_eq!(proved.key.is_some(), lines > 0);
        }
    }

    #[test]
    fn lines_lost_doubled_or_moved_are_seen() {
        let text = String::from_utf8(written()).unwrap();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        for i in 1..lines.len() - 1 {
            let mut lost = lines.clone();
            lost.remove(i);
            assert_eq!(prove(lost.concat().as_bytes()).records.len(), i - 1);
            let mut moved = lines.clone();
            moved.swap(i, i + 1);
            assert_eq!(prove(moved.concat().as_bytes()).records.len(), i - 1);
            let mut doubled = lines.clone();
            doubled.insert(i, lines[i]);
            assert_eq!(prove(doubled.concat().as_bytes()).records.len(), i);
        }
        for text in ["", "\n", "garbage", "\0\0\0\0\0\0\0\0\0\0\n", "00000000 tessera-journal-1\n"] {
            assert_eq!(prove(text.as_bytes()).key, None, "{text:?}");
        }
        // A record of the right check that means nothing.
        for record in ["rows 1 2", "rows 1 2 3 4", "point x", "point 1 ../a:1:00", "point 1 a:1", "fine", "rows -1 2 3"]
        {
            assert_eq!(Record::read(record), None, "{record}");
        }
    }

    #[test]
    fn a_journal_goes_on_where_it_was_proved() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let mut bytes = written();
        bytes.extend_from_slice(b"half a li");
        std::fs::write(&path, &bytes).unwrap();
        for keep in (0..=records().len()).rev() {
            let (mut journal, proved, more) = Journal::open(&path).unwrap();
            assert_eq!(more, keep == records().len());
            journal.proceed(&proved, keep).unwrap();
            drop(journal);
            assert_eq!(prove(&std::fs::read(&path).unwrap()).records, records()[..keep]);
        }
        let (mut journal, proved, _) = Journal::open(&path).unwrap();
        journal.proceed(&proved, 0).unwrap();
        journal.append(&records()[2]).unwrap();
        assert_eq!(prove(&std::fs::read(&path).unwrap()).records, records()[2..3]);
    }
}
