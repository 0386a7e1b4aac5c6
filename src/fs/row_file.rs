//! Rows of one size in one file, read and written in any order: what a job keeps on disk while it works.

use super::atomic::{still_named, unfinished};
use super::{io_error, retry, retry_short};
use crate::error::{Error, Kind, Result};
use crate::extent;
use std::io;
use std::path::{Path, PathBuf};

/// A file of `rows` records of `row_bytes` bytes each, with positioned reads and writes. Rows that were never
/// written read as zeros. A file made here is removed when dropped (and by [`super::remove_unfinished`]) unless
/// [`RowFile::keep`] was called; one that was opened stays.
#[derive(Debug)]
pub struct RowFile {
    // `None` once removed: the handle must be closed first on systems that lock open files.
    inner: Option<std::fs::File>,
    path: PathBuf,
    row_bytes: usize,
    rows: u64,
    kept: bool,
}

impl RowFile {
    /// Makes the file at `path`, or empties the one that lies there, and reserves its space where the system
    /// can: a disk that is too full is an error here. Links and folders in the way are refused.
    pub fn create(path: &Path, row_bytes: usize, rows: u64) -> Result<RowFile> {
        let len = extent::product("row file", &[row_bytes as u64, rows])?;
        refuse_link(path)?;
        let failed = |e: &io::Error| io_error("cannot create", path, e);
        let inner =
            retry(|| std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path))
                .map_err(|e| failed(&e))?;
        if !still_named(&inner, path) {
            return Err(in_the_way(path));
        }
        unfinished().push(path.to_owned());
        let this = RowFile { inner: Some(inner), path: path.to_owned(), row_bytes, rows, kept: false };
        let file = this.file()?;
        retry(|| file.set_len(0)).map_err(|e| failed(&e))?;
        retry(|| file.set_len(len)).map_err(|e| failed(&e))?;
        retry(|| reserve(file, len)).map_err(|e| io_error(&format!("cannot reserve {len} bytes for"), path, &e))?;
        Ok(this)
    }

    /// Opens the file an earlier run kept. Its length must be exactly that of `rows` rows.
    pub fn open(path: &Path, row_bytes: usize, rows: u64) -> Result<RowFile> {
        let len = extent::product("row file", &[row_bytes as u64, rows])?;
        refuse_link(path)?;
        let failed = |e: &io::Error| io_error("cannot open", path, e);
        let inner = retry(|| std::fs::OpenOptions::new().read(true).write(true).open(path)).map_err(|e| failed(&e))?;
        let meta = retry(|| inner.metadata()).map_err(|e| failed(&e))?;
        if !meta.is_file() || !still_named(&inner, path) {
            return Err(in_the_way(path));
        }
        if meta.len() != len {
            let why = format!("{} holds {} bytes, {len} are expected", path.display(), meta.len());
            return Err(Error::new(Kind::Io, "files", why));
        }
        Ok(RowFile { inner: Some(inner), path: path.to_owned(), row_bytes, rows, kept: true })
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// Number of rows.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes whole rows, the first at `y`.
    pub fn write(&self, y: u64, bytes: &[u8]) -> Result<()> {
        let at = self.range(y, bytes.len())?;
        let file = self.file()?;
        write_all_at(file, bytes, at).map_err(|e| io_error("cannot write", &self.path, &e))
    }

    /// Reads whole rows, the first at `y`.
    pub fn read(&self, y: u64, bytes: &mut [u8]) -> Result<()> {
        let at = self.range(y, bytes.len())?;
        let file = self.file()?;
        let mut done = 0;
        while done < bytes.len() {
            let read = retry_short(|short| {
                let end = if short { done + 1 } else { bytes.len() };
                read_at(file, &mut bytes[done..end], at + done as u64)
            });
            match read {
                // Somebody cut the file off.
                Ok(0) => return Err(io_error("cannot read", &self.path, &io::ErrorKind::UnexpectedEof.into())),
                Ok(n) => done += n,
                Err(e) => return Err(io_error("cannot read", &self.path, &e)),
            }
        }
        Ok(())
    }

    /// Makes what was written survive a power cut.
    pub fn sync(&self) -> Result<()> {
        let file = self.file()?;
        retry(|| file.sync_data()).map_err(|e| io_error("cannot sync", &self.path, &e))
    }

    /// Takes the file's name away while it stays open, on systems that can: then a killed process leaves nothing.
    pub fn hide(&mut self) {
        if cfg!(unix) && !self.kept && retry(|| std::fs::remove_file(&self.path)).is_ok() {
            self.keep();
        }
    }

    /// Leaves the file where it is when this is dropped, or the program ends.
    pub fn keep(&mut self) {
        self.kept = true;
        unfinished().retain(|p| *p != self.path);
    }

    /// Removes the file now.
    pub fn remove(mut self) -> Result<()> {
        self.kept = true;
        unfinished().retain(|p| *p != self.path);
        self.inner = None;
        retry(|| std::fs::remove_file(&self.path)).map_err(|e| io_error("cannot remove", &self.path, &e))
    }

    fn file(&self) -> Result<&std::fs::File> {
        self.inner.as_ref().ok_or_else(|| Error::new(Kind::Internal, "files", "the file is closed already"))
    }

    /// Offset of row `y`, when `len` bytes from there are whole rows of the file.
    fn range(&self, y: u64, len: usize) -> Result<u64> {
        let whole = self.row_bytes > 0 && len.is_multiple_of(self.row_bytes);
        let count = if whole { (len / self.row_bytes) as u64 } else { 0 };
        if !whole || y.checked_add(count).is_none_or(|end| end > self.rows) {
            let why = format!("{len} bytes at row {y} of {} rows of {} bytes", self.rows, self.row_bytes);
            return Err(Error::new(Kind::Internal, "files", why));
        }
        extent::product("row offset", &[y, self.row_bytes as u64])
    }
}

impl Drop for RowFile {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        unfinished().retain(|p| *p != self.path);
        self.inner = None;
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Writes all of `bytes` at `at`, whatever part of them each call takes.
pub(super) fn write_all_at(file: &std::fs::File, bytes: &[u8], at: u64) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        let wrote = retry_short(|short| {
            let end = if short { done + 1 } else { bytes.len() };
            write_at(file, &bytes[done..end], at + done as u64)
        })?;
        if wrote == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        done += wrote;
    }
    Ok(())
}

pub(super) fn in_the_way(path: &Path) -> Error {
    Error::new(Kind::Io, "files", format!("{} is in the way", path.display())).advise("remove it")
}

/// Nothing is ever written through a link that someone planted, or into a device.
pub(super) fn refuse_link(path: &Path) -> Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if !meta.is_file() => Err(in_the_way(path)),
        _ => Ok(()),
    }
}

#[cfg(target_os = "linux")]
fn reserve(file: &std::fs::File, len: u64) -> io::Result<()> {
    use rustix::io::Errno;
    if len == 0 {
        return Ok(());
    }
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, len) {
        // File systems that cannot reserve say so; there the write that finds the disk full is the error.
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::PERM) => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(not(target_os = "linux"))]
fn reserve(_: &std::fs::File, _: u64) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
use std::os::unix::fs::FileExt;
#[cfg(windows)]
use std::os::windows::fs::FileExt;

fn write_at(file: &std::fs::File, bytes: &[u8], at: u64) -> io::Result<usize> {
    #[cfg(unix)]
    return file.write_at(bytes, at);
    #[cfg(windows)]
    return file.seek_write(bytes, at);
}

fn read_at(file: &std::fs::File, bytes: &mut [u8], at: u64) -> io::Result<usize> {
    #[cfg(unix)]
    return file.read_at(bytes, at);
    #[cfg(windows)]
    return file.seek_read(bytes, at);
}

#[cfg(test)]
mod tests {
    use super::super::fault::{Fault, arm};
    use super::*;

    fn rows(n: u8, len: usize) -> Vec<u8> {
        (0..n).flat_map(|y| std::iter::repeat_n(y + 1, len)).collect()
    }

    #[test]
    fn rows_come_back_from_any_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows");
        std::fs::write(&path, b"what a killed run left, longer than nothing").unwrap();
        let mut file = RowFile::create(&path, 7, 5).unwrap();
        assert_eq!((file.row_bytes(), file.rows(), file.path()), (7, 5, path.as_path()));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 35);
        file.write(4, &[9; 7]).unwrap();
        file.write(1, &rows(2, 7)).unwrap();
        let mut back = vec![0xff; 35];
        file.read(0, &mut back).unwrap();
        assert_eq!(back, [vec![0; 7], rows(2, 7), vec![0; 7], vec![9; 7]].concat());
        file.sync().unwrap();
        for (y, len) in [(5, 7), (4, 14), (0, 6), (u64::MAX, 7)] {
            assert_eq!(file.write(y, &vec![0; len]).expect_err("outside").kind(), Kind::Internal);
            assert_eq!(file.read(y, &mut vec![0; len]).expect_err("outside").kind(), Kind::Internal);
        }
        file.keep();
        drop(file);
        let again = RowFile::open(&path, 7, 5).unwrap();
        let mut row = [0; 7];
        again.read(4, &mut row).unwrap();
        assert_eq!(row, [9; 7]);
        assert_eq!(RowFile::open(&path, 7, 6).expect_err("another length").kind(), Kind::Io);
        drop(again);
        assert!(path.exists(), "what was opened stays");
        RowFile::open(&path, 7, 5).unwrap().remove().unwrap();
        assert!(!path.exists());
        drop(RowFile::create(&path, 7, 5).unwrap());
        assert!(!path.exists(), "what was made and not kept goes");
        assert!(RowFile::create(&path, usize::MAX, u64::MAX).is_err());
        assert!(RowFile::create(&dir.path().join("none/rows"), 1, 1).is_err());
    }

    #[test]
    fn a_file_cut_off_meanwhile_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = RowFile::create(&dir.path().join("rows"), 4, 4).unwrap();
        std::fs::OpenOptions::new().write(true).open(file.path()).unwrap().set_len(6).unwrap();
        assert!(file.read(0, &mut [0; 4]).is_ok());
        assert_eq!(file.read(1, &mut [0; 4]).expect_err("half a row").kind(), Kind::Io);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (victim, path) = (dir.path().join("victim"), dir.path().join("rows"));
        std::fs::write(&victim, b"precious").unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        assert!(RowFile::create(&path, 4, 2).is_err());
        assert!(RowFile::open(&path, 4, 2).is_err());
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
        assert!(RowFile::create(dir.path(), 4, 2).is_err());
    }

    #[test]
    fn a_failure_at_any_call_is_an_error_or_the_right_rows() {
        let body = rows(6, 11);
        let run = |path: &Path| -> Result<Vec<u8>> {
            let mut file = RowFile::create(path, 11, 6)?;
            file.write(3, &body[33..])?;
            file.write(0, &body[..33])?;
            file.sync()?;
            file.keep();
            let file = RowFile::open(path, 11, 6)?;
            let mut back = vec![0; 66];
            file.read(0, &mut back)?;
            file.remove()?;
            Ok(back)
        };
        for fault in [Fault::NoSpace, Fault::Device, Fault::Denied, Fault::Interrupted, Fault::Short] {
            for persistent in [false, true] {
                // A signal that interrupts forever would loop forever, as it must.
                if persistent && fault == Fault::Interrupted {
                    continue;
                }
                for n in 0.. {
                    let dir = tempfile::tempdir().unwrap();
                    let path = dir.path().join("rows");
                    let armed = arm(n, fault, persistent);
                    let done = run(&path);
                    let hits = armed.hits();
                    drop(armed);
                    match done {
                        Ok(back) => assert_eq!(back, body, "{fault:?} at call {n}"),
                        Err(e) => {
                            assert_eq!(e.kind(), Kind::Io, "{e}");
                            assert!(e.message().contains("rows"), "{e} names the file");
                            assert!(hits > 0 && !matches!(fault, Fault::Interrupted | Fault::Short), "{e}");
                        }
                    }
                    if hits == 0 {
                        assert!(n > 8, "the gate must have seen the calls");
                        break;
                    }
                }
            }
        }
    }
}
