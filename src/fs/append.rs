//! A file that only grows, piece by piece, each piece safe on disk before the next: journals. It belongs to one run
//! at a time.

use super::atomic::still_named;
use super::row_file::{in_the_way, refuse_link, write_all_at};
use super::{File, io_error, retry};
use crate::error::{Error, Kind, Result};
use std::fs::TryLockError;
use std::path::{Path, PathBuf};

/// See the module's text. The file stays when this is dropped.
#[derive(Debug)]
pub struct AppendFile {
    inner: std::fs::File,
    path: PathBuf,
    /// Bytes that count; a failed piece may lie behind them until the next one covers it.
    len: u64,
}

impl AppendFile {
    /// Makes an empty file at `path`, or empties the one that lies there.
    pub fn create(path: &Path) -> Result<AppendFile> {
        let mut this = AppendFile::at(path, true)?;
        this.truncate(0)?;
        Ok(this)
    }

    /// Opens the file at `path` and gives what it holds, at most `limit` bytes. With `create` it is made where
    /// there is none.
    pub fn open(path: &Path, create: bool, limit: u64) -> Result<(AppendFile, Vec<u8>)> {
        let mut this = AppendFile::at(path, create)?;
        let bytes = File::open(path)?.read_all(limit)?;
        this.len = bytes.len() as u64;
        Ok((this, bytes))
    }

    fn at(path: &Path, create: bool) -> Result<AppendFile> {
        refuse_link(path)?;
        let open = || std::fs::OpenOptions::new().read(true).write(true).create(create).truncate(false).open(path);
        let inner = retry(open).map_err(|e| io_error("cannot open", path, &e))?;
        if !still_named(&inner, path) {
            return Err(in_the_way(path));
        }
        if let Err(TryLockError::WouldBlock) = inner.try_lock() {
            let why = format!("another run is writing {}", path.display());
            return Err(Error::new(Kind::Io, "files", why).advise("wait for it"));
        }
        Ok(AppendFile { inner, path: path.to_owned(), len: 0 })
    }

    /// Bytes in it.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets everything behind the first `len` bytes.
    pub fn truncate(&mut self, len: u64) -> Result<()> {
        retry(|| self.inner.set_len(len)).map_err(|e| io_error("cannot empty", &self.path, &e))?;
        self.len = len;
        Ok(())
    }

    /// Adds a piece and makes it survive a power cut. After an error the file holds what it did, as far as
    /// its next reader is concerned: what a failed write left is cut off, or covered by the next piece.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let wrote = write_all_at(&self.inner, bytes, self.len).and_then(|()| retry(|| self.inner.sync_data()));
        if let Err(e) = wrote {
            let _ = self.inner.set_len(self.len);
            return Err(io_error("cannot write", &self.path, &e));
        }
        self.len += bytes.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::fault::{Fault, arm};
    use super::*;

    #[test]
    fn pieces_follow_each_other_and_a_failed_one_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        assert!(AppendFile::open(&path, false, 100).is_err());
        for fault in [Fault::NoSpace, Fault::Device, Fault::Denied, Fault::Interrupted, Fault::Short] {
            for n in 0.. {
                let mut file = AppendFile::create(&path).unwrap();
                file.append(b"first\n").unwrap();
                let armed = arm(n, fault, false);
                let second = file.append(b"second\n");
                let hits = armed.hits();
                drop(armed);
                assert_eq!(second.is_ok(), hits == 0 || matches!(fault, Fault::Interrupted | Fault::Short));
                file.append(b"third\n").unwrap();
                let expected: &[u8] = if second.is_ok() { b"first\nsecond\nthird\n" } else { b"first\nthird\n" };
                assert!(AppendFile::open(&path, false, 100).is_err(), "one at a time");
                drop(file);
                let (mut again, bytes) = AppendFile::open(&path, false, 100).unwrap();
                assert_eq!(bytes, expected);
                assert_eq!(again.len(), expected.len() as u64);
                drop(again);
                assert!(AppendFile::open(&path, false, 5).is_err(), "more than allowed");
                (again, _) = AppendFile::open(&path, false, 100).unwrap();
                again.truncate(6).unwrap();
                again.append(b"x").unwrap();
                assert_eq!(std::fs::read(&path).unwrap(), b"first\nx");
                if hits == 0 {
                    break;
                }
            }
        }
    }
}
