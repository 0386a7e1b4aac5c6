//! Where a picture goes: a file that takes its place when it is complete, or standard output.

use crate::error::Result;
use crate::fs::{AtomicFile, File, io_error};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Bytes gathered before one write call reaches the system.
const BUFFER: usize = 1 << 18;

/// The bytes of a picture being written.
pub(super) enum Target {
    File(AtomicFile),
    Pipe(Pipe),
}

/// Standard output. Dropped unfinished, what is gathered is not sent: its reader may be gone, or stand still.
pub(super) struct Pipe {
    // `None` once completed.
    writer: Option<BufWriter<File>>,
    name: PathBuf,
}

impl Pipe {
    fn writer(&mut self) -> io::Result<&mut BufWriter<File>> {
        self.writer.as_mut().ok_or_else(|| io::Error::other("the pipe is already closed"))
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // Taken apart, the buffer is not flushed.
        drop(self.writer.take().map(BufWriter::into_parts));
    }
}

impl Target {
    /// Standard output.
    pub(super) fn stdout() -> Result<Target> {
        let file = File::stdout()?;
        let name = file.path().to_owned();
        Ok(Target::Pipe(Pipe { writer: Some(BufWriter::with_capacity(BUFFER, file)), name }))
    }

    /// What errors name.
    pub(super) fn name(&self) -> &Path {
        match self {
            Target::File(file) => file.target(),
            Target::Pipe(pipe) => &pipe.name,
        }
    }

    /// Completes it: moves a file to its place, sends what is left into a pipe.
    pub(super) fn commit(self) -> Result<()> {
        match self {
            Target::File(file) => file.commit(),
            Target::Pipe(mut pipe) => {
                let sent = pipe.writer().and_then(Write::flush);
                sent.map_err(|e| io_error("cannot write", &pipe.name, &e))
            }
        }
    }
}

impl Write for Target {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Target::File(file) => file.write(buf),
            Target::Pipe(pipe) => pipe.writer()?.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Target::File(file) => file.flush(),
            Target::Pipe(pipe) => pipe.writer()?.flush(),
        }
    }
}

impl Seek for Target {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self {
            Target::File(file) => file.seek(to),
            Target::Pipe(_) => Err(io::Error::new(io::ErrorKind::Unsupported, "a pipe cannot be sought")),
        }
    }
}
