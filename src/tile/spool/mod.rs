//! The spool of an unfinished picture: its finished rows in a folder of its own beside the output, and the
//! journal that proves them. A run that was killed at any moment is continued from there.

mod place;
mod points;

use super::journal::{Journal, Key, Proved, Record, Stored};
use crate::error::{Error, Kind, Result};
use crate::extent;
use crate::fs::{self, LockedFolder, RowFile};
use flate2::Crc;
pub use place::{ENDING, Found, JOURNAL, ROWS, is_busy, is_ours, key_part, look, path_of, placed, remove};
use std::path::Path;
use std::time::{Duration, Instant};

/// Finished rows are journalled when a row of windows is complete, but not more often than this: two syncs
/// take some milliseconds.
const EVERY: Duration = Duration::from_millis(250);
/// Bytes read at a time where the spool is checked.
const CHUNK: usize = 1 << 20;

/// An open spool, locked against other runs. It stays when it is dropped.
#[derive(Debug)]
pub struct Spool {
    folder: LockedFolder,
    rows: RowFile,
    journal: Journal,
    /// Rows that the journal has.
    done: u64,
    /// Rows written since.
    pending: u64,
    crc: Crc,
    last: Instant,
    /// When a point was saved.
    saved: Option<Instant>,
    point: Option<(u64, Vec<Stored>)>,
}

impl Spool {
    /// Opens the spool at `path` of an output of `rows` rows of `row_bytes` bytes whose bytes `key` decides.
    /// With `resume` everything that an earlier run left and that can be proved is kept, the rest is redone;
    /// without, it begins anew. Also gives sentences for the user.
    pub fn open(path: &Path, key: &Key, row_bytes: usize, rows: u64, resume: bool) -> Result<(Spool, Vec<String>)> {
        let folder = LockedFolder::create(path)?;
        if !is_ours(path)? {
            let why = format!("{} holds files that are no spool's", path.display());
            return Err(Error::new(Kind::Io, "spool", why).advise("move them, or name another output"));
        }
        let mut notes = Vec::new();
        if resume && folder.file(JOURNAL).exists() {
            match Spool::take_up(&folder, key, row_bytes, rows, &mut notes) {
                Ok(Some((file, journal, kept))) => {
                    let mut spool = Spool::new(folder, file, journal);
                    spool.adopt(&kept);
                    return Ok((spool, notes));
                }
                Ok(None) => {}
                // What cannot be read proves nothing either.
                Err(e) => notes.push(format!("the unfinished job cannot be read ({}); all is done again", e.message())),
            }
        }
        folder.clear()?;
        let mut file = RowFile::create(&folder.file(ROWS), row_bytes, rows)?;
        let journal = Journal::create(&folder.file(JOURNAL), key)?;
        folder.sync()?;
        file.keep();
        Ok((Spool::new(folder, file, journal), notes))
    }

    fn new(folder: LockedFolder, rows: RowFile, journal: Journal) -> Spool {
        let (crc, last) = (Crc::new(), Instant::now());
        Spool { folder, rows, journal, done: 0, pending: 0, crc, last, saved: None, point: None }
    }

    /// What an earlier run left, cut off behind the last record that its files prove.
    fn take_up(
        folder: &LockedFolder,
        key: &Key,
        row_bytes: usize,
        rows: u64,
        notes: &mut Vec<String>,
    ) -> Result<Option<(RowFile, Journal, Vec<Record>)>> {
        let (mut journal, proved, more) = Journal::open(&folder.file(JOURNAL))?;
        let Some(found) = &proved.key else {
            notes.push("the journal of the unfinished job is damaged; all is done again".into());
            return Ok(None);
        };
        let differ = found.differences(key);
        if !differ.is_empty() {
            let why = differ.join(", ");
            notes.push(format!("the unfinished job differs in: {why}; all is done again"));
            return Ok(None);
        }
        let file = RowFile::open(&folder.file(ROWS), row_bytes, rows)?;
        let keep = believed(&file, &proved)?;
        if more {
            notes.push(
                "the journal of the unfinished job ends in the middle; what it does not prove is done again".into(),
            );
        }
        if keep < proved.records.len() {
            notes.push("rows of the unfinished job are damaged; they are done again".into());
        }
        journal.proceed(&proved, keep)?;
        Ok(Some((file, journal, proved.records[..keep].to_vec())))
    }

    fn adopt(&mut self, records: &[Record]) {
        for record in records {
            match record {
                Record::Rows { first, count, .. } => self.done = first + count,
                Record::Point { at, states } => self.point = Some((*at, states.clone())),
                Record::Placing(_) => {}
            }
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Rows that are certainly on disk, from the top.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// Whether all rows are.
    pub fn is_complete(&self) -> bool {
        self.done == self.rows.rows()
    }

    /// Whether there is anything that a later run could use.
    pub fn has_work(&self) -> bool {
        self.done > 0 || self.point.is_some()
    }

    /// Takes row `y`: the next one, or one that is done already and is left as it is.
    pub fn push(&mut self, y: u64, bytes: &[u8]) -> Result<()> {
        let next = self.done + self.pending;
        if y < next {
            return Ok(());
        }
        if y > next {
            return Err(Error::new(Kind::Internal, "spool", format!("row {y} came, {next} was expected")));
        }
        self.rows.write(y, bytes)?;
        self.crc.update(bytes);
        self.pending += 1;
        Ok(())
    }

    /// A row of windows is complete: journals its rows, unless that was done a moment ago.
    pub fn settle(&mut self) -> Result<()> {
        if self.last.elapsed() < EVERY && self.done + self.pending < self.rows.rows() {
            return Ok(());
        }
        self.commit()
    }

    /// Journals all rows taken so far.
    pub fn commit(&mut self) -> Result<()> {
        if self.pending == 0 {
            return Ok(());
        }
        self.rows.sync()?;
        let record = Record::Rows { first: self.done, count: self.pending, crc: self.crc.sum() };
        self.journal.append(&record)?;
        self.done += self.pending;
        self.pending = 0;
        self.crc.reset();
        self.last = Instant::now();
        Ok(())
    }

    /// Reads row `y`.
    pub fn read(&self, y: u64, bytes: &mut [u8]) -> Result<()> {
        self.rows.read(y, bytes)
    }

    /// Notes that the complete output, now called `temp`, is about to be moved to its place.
    pub fn placing(&mut self, temp: &Path) -> Result<()> {
        match fs::identity(temp) {
            Some(identity) => self.journal.append(&Record::Placing(identity)),
            None => Ok(()),
        }
    }

    /// Removes the spool: the picture is in its place, or nothing in it is of use.
    pub fn remove(self) -> Result<()> {
        drop(self.rows);
        drop(self.journal);
        self.folder.remove(JOURNAL).map(drop)
    }
}

/// How many records of the journal the rows on disk prove: bands from the top, without a gap, of the right sum.
fn believed(file: &RowFile, proved: &Proved) -> Result<usize> {
    let mut done = 0;
    for (i, record) in proved.records.iter().enumerate() {
        match record {
            Record::Rows { first, count, crc } => {
                let end = first.checked_add(*count).filter(|&end| *first == done && *count > 0 && end <= file.rows());
                let Some(end) = end else { return Ok(i) };
                if sum_of(file, *first, end)? != *crc {
                    return Ok(i);
                }
                done = end;
            }
            // Points are held to their files when they are loaded.
            Record::Point { .. } => {}
            Record::Placing(_) if done == file.rows() => {}
            Record::Placing(_) => return Ok(i),
        }
    }
    Ok(proved.records.len())
}

fn sum_of(file: &RowFile, first: u64, end: u64) -> Result<u32> {
    let at_once = (CHUNK / file.row_bytes().max(1)).max(1);
    let mut bytes = vec![0; at_once * file.row_bytes()];
    let (mut crc, mut y) = (Crc::new(), first);
    while y < end {
        let n = extent::to_usize("rows", end - y)?.min(at_once);
        let part = &mut bytes[..n * file.row_bytes()];
        file.read(y, part)?;
        crc.update(part);
        y += n as u64;
    }
    Ok(crc.sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::fault::{Fault, arm};

    const BYTES: usize = 6;
    const ROWS_IN_ALL: u64 = 9;

    fn key() -> Key {
        Key::default().with("input", "abc")
    }

    fn row(y: u64) -> [u8; BYTES] {
        std::array::from_fn(|i| (y * 10 + i as u64) as u8)
    }

    /// A spool with two bands of three rows, and a row that no journal has.
    fn begun(path: &Path) {
        let (mut spool, notes) = Spool::open(path, &key(), BYTES, ROWS_IN_ALL, true).unwrap();
        assert!(notes.is_empty() && !spool.has_work(), "{notes:?}");
        for y in 0..7 {
            spool.push(y, &row(y)).unwrap();
            if y == 2 || y == 5 {
                spool.commit().unwrap();
            }
        }
    }

    #[test]
    fn what_was_finished_is_taken_up_and_the_rest_done_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.png.tessera");
        assert_eq!(look(&path).unwrap(), Found::Nothing);
        begun(&path);
        assert_eq!(look(&path).unwrap(), Found::Unfinished);
        let (mut spool, notes) = Spool::open(&path, &key(), BYTES, ROWS_IN_ALL, true).unwrap();
        assert_eq!((spool.done(), notes.len()), (6, 0));
        assert_eq!(look(&path).unwrap(), Found::Busy);
        assert_eq!(remove(&path).unwrap(), None);
        assert!(Spool::open(&path, &key(), BYTES, ROWS_IN_ALL, true).is_err(), "one run at a time");
        for y in 4..ROWS_IN_ALL {
            // Rows that are done are left as they are.
            spool.push(y, &if y < 6 { [0xff; BYTES] } else { row(y) }).unwrap();
        }
        assert!(spool.push(11, &row(11)).is_err());
        spool.settle().unwrap();
        assert!(spool.is_complete());
        let temp = dir.path().join("temp");
        std::fs::write(&temp, b"").unwrap();
        spool.placing(&temp).unwrap();
        drop(spool);
        let (spool, _) = Spool::open(&path, &key(), BYTES, ROWS_IN_ALL, true).unwrap();
        let mut bytes = [0; BYTES];
        for y in 0..ROWS_IN_ALL {
            spool.read(y, &mut bytes).unwrap();
            assert_eq!(bytes, row(y));
        }
        if cfg!(unix) {
            let out = dir.path().join("out.png");
            assert_eq!(placed(&path, &out), None);
            std::fs::rename(&temp, &out).unwrap();
            assert_eq!(placed(&path, &out), Some(key()));
        }
        spool.remove().unwrap();
        assert!(!path.exists());
        assert_eq!(remove(&path).unwrap(), Some(0));
    }

    #[test]
    fn nothing_unproved_is_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.png.tessera");
        let open = |key: &Key, rows| Spool::open(&path, key, BYTES, rows, true).unwrap();
        let spoil = |name: &str, at: usize| {
            let mut bytes = std::fs::read(path.join(name)).unwrap();
            bytes[at] ^= 1;
            std::fs::write(path.join(name), bytes).unwrap();
        };
        begun(&path);
        spoil(ROWS, 4 * BYTES);
        let (spool, notes) = open(&key(), ROWS_IN_ALL);
        assert_eq!((spool.done(), notes.len()), (3, 1), "{notes:?}");
        drop(spool);
        spoil(ROWS, 0);
        assert_eq!(open(&key(), ROWS_IN_ALL).0.done(), 0);
        for (other, rows) in [(key().with("more", 1), ROWS_IN_ALL), (Key::default(), ROWS_IN_ALL), (key(), 10)] {
            begun(&path);
            let (spool, notes) = open(&other, rows);
            assert_eq!((spool.done(), notes.len()), (0, 1), "{notes:?}");
            spool.remove().unwrap();
        }
        begun(&path);
        assert_eq!(Spool::open(&path, &key(), BYTES, ROWS_IN_ALL, false).unwrap().0.done(), 0, "begun anew");
        begun(&path);
        std::fs::write(path.join("holiday.jpg"), b"mine").unwrap();
        assert!(Spool::open(&path, &key(), BYTES, ROWS_IN_ALL, false).is_err());
        assert!(remove(&path).is_err());
        assert_eq!(std::fs::read(path.join("holiday.jpg")).unwrap(), b"mine");
    }

    #[test]
    fn states_survive_and_a_point_that_failed_leaves_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.png.tessera");
        for n in 0.. {
            let (mut spool, _) = Spool::open(&path, &key(), BYTES, ROWS_IN_ALL, false).unwrap();
            spool.save_point(1, &[b"one", b""]).unwrap();
            spool.save_point(2, &[b"two", b""]).unwrap();
            let armed = arm(n, Fault::NoSpace, false);
            let third = spool.save_point(3, &[b"abc", b"defg"]);
            let hits = armed.hits();
            drop(armed);
            drop(spool);
            let (spool, _) = Spool::open(&path, &key(), BYTES, ROWS_IN_ALL, true).unwrap();
            if third.is_ok() {
                assert_eq!(spool.point(), Some(3));
                assert_eq!(spool.load_point(&[3, 4]).unwrap(), Some(vec![b"abc".to_vec(), b"defg".to_vec()]));
            } else {
                assert_eq!(spool.point(), Some(2));
                assert_eq!(spool.load_point(&[3, 0]).unwrap(), Some(vec![b"two".to_vec(), Vec::new()]));
            }
            assert_eq!(spool.load_point(&[3]).unwrap(), None, "another program");
            let name = if third.is_ok() { "0-a.state" } else { "0-b.state" };
            std::fs::write(path.join(name), b"twO").unwrap();
            assert_eq!(spool.load_point(&[3, if third.is_ok() { 4 } else { 0 }]).unwrap(), None, "damaged");
            if hits == 0 {
                assert!(n > 5);
                break;
            }
        }
    }
}
