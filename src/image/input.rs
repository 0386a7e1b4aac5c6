//! Where the bytes of a picture come from: a file that can be sought, standard input, or memory.

use super::bad;
use crate::error::{Error, Kind, Result};
use crate::fs::{self, File};
use crate::limits;
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek, SeekFrom};

/// Bytes asked from the system at once.
const BUFFER: usize = 1 << 16;

/// The bytes of one picture.
pub(super) enum Input {
    /// A regular file of this many bytes.
    File(BufReader<File>, u64),
    /// A pipe. Its bytes come once; those looked at are kept, and given again by the reads.
    Pipe(Pipe),
    /// All of it.
    Memory(Cursor<Vec<u8>>),
}

/// Bytes that come once.
pub(super) struct Pipe {
    kept: Cursor<Vec<u8>>,
    rest: BufReader<File>,
}

impl Input {
    /// The bytes of a regular file.
    pub(super) fn of_file(file: File) -> Result<Input> {
        let len = file.len()?;
        Ok(Input::File(BufReader::with_capacity(BUFFER, file), len))
    }

    /// The bytes of a pipe.
    pub(super) fn of_pipe(file: File) -> Input {
        Input::Pipe(Pipe { kept: Cursor::new(Vec::new()), rest: BufReader::with_capacity(BUFFER, file) })
    }

    /// Bytes in all, where that is known before they are read.
    pub(super) fn len(&self) -> Option<u64> {
        match self {
            Input::File(_, len) => Some(*len),
            Input::Pipe(_) => None,
            Input::Memory(bytes) => Some(bytes.get_ref().len() as u64),
        }
    }

    /// Bytes of the file held in memory.
    pub(super) fn held(&self) -> u64 {
        match self {
            Input::File(..) => 0,
            Input::Pipe(pipe) => pipe.kept.get_ref().len() as u64,
            Input::Memory(bytes) => bytes.get_ref().len() as u64,
        }
    }

    /// The first `n` bytes, or as many as there are; reading begins with them all the same.
    pub(super) fn head(&mut self, n: usize) -> io::Result<Vec<u8>> {
        let mut head = Vec::new();
        match self {
            Input::File(file, _) => {
                file.take(n as u64).read_to_end(&mut head)?;
                file.seek(SeekFrom::Start(0))?;
            }
            Input::Pipe(pipe) => {
                let kept = pipe.keep(n)?;
                head.extend(&kept[..kept.len().min(n)]);
            }
            Input::Memory(bytes) => head.extend(&bytes.get_ref()[..bytes.get_ref().len().min(n)]),
        }
        Ok(head)
    }

    /// Everything, at most `limit` bytes.
    pub(super) fn into_bytes(self, limit: u64) -> Result<Vec<u8>> {
        match self {
            Input::File(file, _) => {
                // Nothing was read through the buffer but the head, which was sought back.
                let mut file = file.into_inner();
                file.seek(SeekFrom::Start(0)).map_err(|e| read_error("the file", &e))?;
                file.read_all(limit)
            }
            Input::Memory(bytes) => Ok(bytes.into_inner()),
            Input::Pipe(mut pipe) => {
                let mut bytes = Vec::new();
                let mut block = super::zeroed::<u8>("a block of standard input", BUFFER)?;
                loop {
                    let n = pipe.read(&mut block).map_err(|e| read_error("standard input", &e))?;
                    if n == 0 {
                        return Ok(bytes);
                    }
                    if bytes.len() as u64 + n as u64 > limit {
                        let text = format!("standard input holds more than the {limit} bytes allowed");
                        return Err(Error::new(Kind::Limit, "image", text).advise("save the picture to a file first"));
                    }
                    if bytes.try_reserve(n).is_err() {
                        let text = format!("no memory for more than {} bytes of standard input", bytes.len());
                        return Err(Error::new(Kind::Memory, "image", text));
                    }
                    bytes.extend(&block[..n]);
                }
            }
        }
    }

    /// The same bytes where they can be sought: a pipe is read into memory.
    pub(super) fn seekable(self) -> Result<Input> {
        match self {
            Input::Pipe(_) => Ok(Input::Memory(Cursor::new(self.into_bytes(limits::MAX_PIPE_BYTES)?))),
            other => Ok(other),
        }
    }
}

/// The error of reading `what`: the system's own, or damage that a decoder found.
pub(super) fn read_error(what: &str, e: &io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::UnexpectedEof => bad(format!("{what} ends early")),
        _ => fs::io_error("cannot read", std::path::Path::new(what), e),
    }
}

impl Pipe {
    /// Keeps at least the first `n` bytes, or as many as come, and shows them. For before anything is read.
    pub(super) fn keep(&mut self, n: usize) -> io::Result<&[u8]> {
        let kept = self.kept.get_mut();
        (&mut self.rest).take(n.saturating_sub(kept.len()) as u64).read_to_end(kept)?;
        Ok(kept)
    }

    fn kept_left(&self) -> bool {
        self.kept.position() < self.kept.get_ref().len() as u64
    }
}

impl Read for Pipe {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.kept_left() { self.kept.read(buf) } else { self.rest.read(buf) }
    }
}

impl Read for Input {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Input::File(file, _) => file.read(buf),
            Input::Pipe(pipe) => pipe.read(buf),
            Input::Memory(bytes) => bytes.read(buf),
        }
    }
}

impl BufRead for Input {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self {
            Input::File(file, _) => file.fill_buf(),
            Input::Pipe(pipe) => {
                if pipe.kept_left() {
                    pipe.kept.fill_buf()
                } else {
                    pipe.rest.fill_buf()
                }
            }
            Input::Memory(bytes) => bytes.fill_buf(),
        }
    }

    fn consume(&mut self, n: usize) {
        match self {
            Input::File(file, _) => file.consume(n),
            Input::Pipe(pipe) if pipe.kept_left() => pipe.kept.consume(n),
            Input::Pipe(pipe) => pipe.rest.consume(n),
            Input::Memory(bytes) => bytes.consume(n),
        }
    }
}

impl Seek for Input {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self {
            Input::File(file, _) => file.seek(to),
            Input::Pipe(_) => Err(io::Error::new(io::ErrorKind::Unsupported, "a pipe cannot be sought")),
            Input::Memory(bytes) => bytes.seek(to),
        }
    }

    fn seek_relative(&mut self, by: i64) -> io::Result<()> {
        match self {
            // What is buffered stays buffered.
            Input::File(file, _) => file.seek_relative(by),
            other => other.seek(SeekFrom::Current(by)).map(drop),
        }
    }
}
