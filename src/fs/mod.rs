//! Every file call of the program, in one place, so that tests can make any of them fail.
//!
//! [`File`] and the free functions count their calls per thread; [`fault`] arms one of them to
//! fail. [`AtomicFile`] is the only way a result reaches its place: after any failure, a kill
//! included, the path holds the old file, the complete new one, or nothing. [`RowFile`] is what a job keeps
//! on disk while it works.

mod append;
mod atomic;
pub mod fault;
mod folder;
mod row_file;

pub use append::AppendFile;
pub use atomic::{AtomicFile, exists, is_temp, refuse_existing, remove_stale, remove_unfinished, temp_path, write};
pub use folder::{Entry, Lock, LockedFolder, entries, make_folder, remove_file};
pub use row_file::RowFile;

use crate::error::{Error, Kind, Result};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Runs a call again while a signal interrupts it.
fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    retry_short(|_| call())
}

/// The same for calls that can be told to move one byte only.
fn retry_short<T>(mut call: impl FnMut(bool) -> io::Result<T>) -> io::Result<T> {
    loop {
        match fault::gate().and_then(&mut call) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// The error of a file call: `action` is a verb phrase such as "cannot write".
pub fn io_error(action: &str, path: &Path, e: &io::Error) -> Error {
    let error = Error::new(Kind::Io, "files", format!("{action} {}: {e}", path.display()));
    match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            error.advise("free some space, or write elsewhere")
        }
        io::ErrorKind::PermissionDenied => error.advise("check the permissions of the file and its folder"),
        io::ErrorKind::BrokenPipe => error.advise("the program at the other end has ended: see what it says"),
        io::ErrorKind::ReadOnlyFilesystem => error.advise("write to another place"),
        _ => error,
    }
}

/// An open file that knows its path; every call passes the fault gate.
#[derive(Debug)]
pub struct File {
    inner: std::fs::File,
    path: PathBuf,
}

impl File {
    /// Opens an existing regular file for reading. Folders, pipes and devices are refused before
    /// they are opened: opening a pipe would wait for its writer.
    pub fn open(path: &Path) -> Result<File> {
        let meta = retry(|| std::fs::metadata(path)).map_err(|e| io_error("cannot open", path, &e))?;
        refuse_irregular(path, &meta)?;
        let inner = retry(|| std::fs::File::open(path)).map_err(|e| io_error("cannot open", path, &e))?;
        // The path may have been swapped in between; what is open decides.
        let meta = inner.metadata().map_err(|e| io_error("cannot examine", path, &e))?;
        refuse_irregular(path, &meta)?;
        Ok(File { inner, path: path.to_owned() })
    }

    /// Standard input, whatever it is: bytes that come once. A terminal is refused.
    pub fn stdin() -> Result<File> {
        use std::io::IsTerminal;
        let name = Path::new("standard input");
        if io::stdin().is_terminal() {
            return Err(terminal(name).advise("pipe a picture into it, or name a file"));
        }
        #[cfg(unix)]
        let handle = retry(|| std::os::fd::AsFd::as_fd(&io::stdin()).try_clone_to_owned());
        #[cfg(windows)]
        let handle = retry(|| std::os::windows::io::AsHandle::as_handle(&io::stdin()).try_clone_to_owned());
        let inner = handle.map_err(|e| io_error("cannot open", name, &e))?.into();
        Ok(File { inner, path: name.to_owned() })
    }

    /// Standard output, past the buffer of the standard library. A terminal is refused.
    pub fn stdout() -> Result<File> {
        use std::io::IsTerminal;
        let name = Path::new("standard output");
        if io::stdout().is_terminal() {
            return Err(terminal(name).advise("pipe it into a program, or name a file"));
        }
        #[cfg(unix)]
        let handle = retry(|| std::os::fd::AsFd::as_fd(&io::stdout()).try_clone_to_owned());
        #[cfg(windows)]
        let handle = retry(|| std::os::windows::io::AsHandle::as_handle(&io::stdout()).try_clone_to_owned());
        let inner = handle.map_err(|e| io_error("cannot open", name, &e))?.into();
        Ok(File { inner, path: name.to_owned() })
    }

    /// Bytes in the file now.
    pub fn len(&self) -> Result<u64> {
        let meta = retry(|| self.inner.metadata()).map_err(|e| io_error("cannot examine", &self.path, &e))?;
        Ok(meta.len())
    }

    /// Whether the file holds nothing.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Everything in the file, at most `limit` bytes.
    pub fn read_all(&mut self, limit: u64) -> Result<Vec<u8>> {
        let len = self.len()?;
        let path = self.path.clone();
        let too_big = |n: u64| {
            Error::new(
                Kind::Limit,
                "files",
                format!("{} holds {n} bytes, more than the {limit} allowed", path.display()),
            )
        };
        if len > limit {
            return Err(too_big(len));
        }
        let size = crate::extent::to_usize("file", len)?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(size).map_err(|_| {
            Error::new(Kind::Memory, "files", format!("no memory for the {len} bytes of {}", path.display()))
        })?;
        let read = Read::take(&mut *self, limit + 1).read_to_end(&mut bytes);
        read.map_err(|e| io_error("cannot read", &path, &e))?;
        if bytes.len() as u64 > limit {
            return Err(too_big(bytes.len() as u64));
        }
        Ok(bytes)
    }
}

fn terminal(name: &Path) -> Error {
    Error::new(Kind::Usage, "files", format!("{} is a terminal, not a picture", name.display()))
}

fn refuse_irregular(path: &Path, meta: &std::fs::Metadata) -> Result<()> {
    if meta.is_dir() {
        return Err(
            Error::new(Kind::Io, "files", format!("{} is a folder", path.display())).advise("name a file in it")
        );
    }
    if !meta.is_file() {
        let what = format!("{} is not a regular file (a pipe, socket or device)", path.display());
        return Err(Error::new(Kind::Io, "files", what).advise("copy it to a file first"));
    }
    Ok(())
}

impl Read for File {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        // Interruptions end here: not every decoder retries.
        retry_short(|short| {
            let n = if short { buf.len().min(1) } else { buf.len() };
            self.inner.read(&mut buf[..n])
        })
    }
}

impl Write for File {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        retry_short(|short| {
            let n = if short { buf.len().min(1) } else { buf.len() };
            self.inner.write(&buf[..n])
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Seek for File {
    fn seek(&mut self, pos: SeekFrom) -> io::Result<u64> {
        retry(|| self.inner.seek(pos))
    }
}

/// The folder a path lies in; the current one for a bare name.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

/// Whether two paths lead to one file, through links of either kind. False where one is absent.
pub fn same_file(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        match (std::fs::metadata(a), std::fs::metadata(b)) {
            (Ok(a), Ok(b)) => a.dev() == b.dev() && a.ino() == b.ino(),
            _ => false,
        }
    }
    #[cfg(not(unix))]
    {
        matches!((std::fs::canonicalize(a), std::fs::canonicalize(b)), (Ok(a), Ok(b)) if a == b)
    }
}

/// Length and time of the last change of a file, by which a change is noticed.
pub type Stamp = (u64, std::time::SystemTime);

/// The [`Stamp`] of a file; `None` where there is none, or the system keeps no times.
pub fn stamp(path: &Path) -> Option<Stamp> {
    let meta = retry(|| std::fs::metadata(path)).ok()?;
    Some((meta.len(), meta.modified().ok()?))
}

/// What tells one file from every other on this machine, whatever it is called; `None` where the system has no
/// such thing or there is no file.
pub fn identity(path: &Path) -> Option<[u64; 2]> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        retry(|| std::fs::symlink_metadata(path)).ok().map(|m| [m.dev(), m.ino()])
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        None
    }
}

/// Whether two folders lie on one file system; true where that is not known.
pub fn same_volume(a: &Path, b: &Path) -> bool {
    match (identity(a), identity(b)) {
        (Some(a), Some(b)) => a[0] == b[0],
        _ => true,
    }
}

/// Bytes that may still be written to the file system that holds `folder`; `None` where the system
/// does not tell.
pub fn free_space(folder: &Path) -> Option<u64> {
    fault::gate().ok()?;
    #[cfg(unix)]
    {
        let stat = rustix::fs::statvfs(folder).ok()?;
        stat.f_bavail.checked_mul(stat.f_frsize)
    }
    #[cfg(not(unix))]
    {
        let _ = folder;
        None
    }
}
