//! The chunks of a PNG around its pixels: what makes it whole, and what it says of itself.
//!
//! A file is walked to its end mark, which finds truncation without decoding. Of a pipe only what stands before
//! the pixels is seen.

use super::input::Pipe;
use super::orient::Orientation;
use super::{bad, check_extent, exif};
use crate::error::{Error, Kind, Result};
use crate::limits;
use std::io::{BufRead, Cursor, Read, Seek, SeekFrom};

/// What the walk over the chunks finds.
#[derive(Default)]
pub(super) struct Chunks {
    pub(super) icc: Option<Vec<u8>>,
    pub(super) orientation: Option<Orientation>,
    pub(super) notes: Vec<String>,
    seen_idat: bool,
}

pub(super) fn truncated(what: impl std::fmt::Display) -> Error {
    bad(format!("the PNG is truncated: {what}"))
}

pub(super) fn read_error(e: std::io::Error) -> Error {
    match e.kind() {
        std::io::ErrorKind::UnexpectedEof => truncated("the file ends early"),
        // What the system says has a number.
        _ if e.raw_os_error().is_none() => bad(format!("damaged PNG: {e}")),
        _ => Error::new(Kind::Io, "image", format!("cannot read: {e}")),
    }
}

/// Reads what stands before the pixels of a PNG that comes through a pipe.
pub(super) fn walk_pipe(pipe: &mut Pipe) -> Result<Chunks> {
    let mut at = 8usize;
    loop {
        let kept = pipe.keep(at + 8).map_err(read_error)?;
        let Some(head) = kept.get(at..at + 8) else {
            return Err(truncated(format!("no picture data in its {} bytes", kept.len())));
        };
        if matches!(&head[4..], b"IDAT" | b"IEND") {
            break;
        }
        let size = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let next = at as u64 + 12 + u64::from(size);
        if next > limits::MAX_PIPE_HEAD {
            let text = format!("more than {} bytes before the pixels of a PNG", limits::MAX_PIPE_HEAD);
            return Err(Error::new(Kind::Limit, "image", text).advise("save the picture to a file first"));
        }
        at = next as usize;
    }
    let kept = pipe.keep(at + 8).map_err(read_error)?;
    check_ihdr(&mut &*kept, kept.len() as u64)?;
    walk(&mut Cursor::new(kept), None)
}

/// Walks all chunks from the signature to IEND. `len` is the file's size; without it the walk ends at the pixels.
pub(super) fn walk(input: &mut (impl BufRead + Seek), len: Option<u64>) -> Result<Chunks> {
    let mut found = Chunks::default();
    let mut at = 8u64;
    let (mut srgb, mut gamma) = (false, None);
    input.seek(SeekFrom::Start(at)).map_err(read_error)?;
    loop {
        let mut head = [0u8; 8];
        if let Some(len) = len.filter(|len| len - at < 12) {
            return Err(truncated(format!("no end mark in its {len} bytes")));
        }
        input.read_exact(&mut head).map_err(read_error)?;
        let size = u64::from(u32::from_be_bytes([head[0], head[1], head[2], head[3]]));
        let kind = [head[4], head[5], head[6], head[7]];
        if size > i32::MAX as u64 || !kind.iter().all(u8::is_ascii_alphabetic) {
            return Err(bad(format!("damaged PNG: no chunk begins at byte {at}")));
        }
        let next = at + 12 + size;
        if let Some(len) = len.filter(|len| next > *len) {
            let name = String::from_utf8_lossy(&kind).into_owned();
            return Err(truncated(format!("chunk {name} at byte {at} needs {} bytes more than there are", next - len)));
        }
        let mut unread = size;
        match &kind {
            b"IEND" => {
                if let Some(len) = len.filter(|len| next < *len) {
                    found.notes.push(format!("{} bytes after the end of the PNG are ignored", len - next));
                }
                break;
            }
            b"IDAT" => {
                found.seen_idat = true;
                if len.is_none() {
                    break;
                }
            }
            b"iCCP" if found.icc.is_none() && size <= limits::MAX_ICC_BYTES as u64 => {
                found.icc = profile(&body(input, &mut unread)?, &mut found.notes);
            }
            b"iCCP" => found.notes.push(format!("a colour profile of {size} bytes is not carried")),
            b"eXIf" => {
                if size > limits::MAX_EXIF_BYTES as u64 {
                    found.notes.push(format!("the EXIF block of {size} bytes is ignored: too large"));
                } else {
                    found.orientation = exif::orientation(&body(input, &mut unread)?);
                }
            }
            b"sRGB" => srgb = true,
            b"gAMA" if size == 4 => gamma = body(input, &mut unread)?.try_into().ok().map(u32::from_be_bytes),
            b"acTL" => found.notes.push("the PNG is animated: only its still picture is read".into()),
            b"cICP" => found.notes.push("the PNG's cICP colour description is not carried".into()),
            _ => {}
        }
        at = next;
        // Relative, so that what is buffered stays: a large PNG has a hundred thousand chunks.
        input.seek_relative(unread as i64 + 4).map_err(read_error)?;
    }
    if !found.seen_idat {
        return Err(bad("the PNG holds no picture data"));
    }
    // 45455 is the gamma of sRGB; any other one changes how the values look.
    if let Some(g) = gamma.filter(|&g| !srgb && found.icc.is_none() && g.abs_diff(45_455) > 500) {
        found.notes.push(format!("the PNG's gamma of {} is not applied and not carried", f64::from(g) / 1e5));
    }
    Ok(found)
}

/// The body of the chunk that comes next, all `unread` bytes of it.
fn body(input: &mut impl Read, unread: &mut u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(*unread).read_to_end(&mut bytes).map_err(read_error)?;
    *unread -= bytes.len() as u64;
    Ok(bytes)
}

/// The profile of an iCCP chunk: name, 0, method 0, then zlib; inflated up to the limit only.
fn profile(chunk: &[u8], notes: &mut Vec<String>) -> Option<Vec<u8>> {
    let limit = limits::MAX_ICC_BYTES as u64;
    let name = chunk.iter().take(80).position(|&b| b == 0);
    let mut icc = Vec::new();
    let inflated = match name.and_then(|end| chunk.get(end + 1..)).and_then(<[u8]>::split_first) {
        Some((0, packed)) => flate2::read::ZlibDecoder::new(packed).take(limit + 1).read_to_end(&mut icc).ok(),
        _ => None,
    };
    match inflated {
        Some(n) if n as u64 > limit => {
            notes.push(format!("the colour profile is not carried: it inflates to more than {limit} bytes"));
            None
        }
        None | Some(0) => {
            notes.push("the colour profile is damaged and not carried".into());
            None
        }
        Some(_) => Some(icc),
    }
}

/// Checks the extents where they stand, before any decoder sees the file.
pub(super) fn check_ihdr(input: &mut impl Read, len: u64) -> Result<()> {
    let mut head = [0u8; 24];
    if len < 33 {
        return Err(truncated(format!("{len} bytes are no header")));
    }
    input.read_exact(&mut head).map_err(read_error)?;
    if head[8..16] != *b"\0\0\0\x0dIHDR" {
        return Err(bad("damaged PNG: it does not begin with its header chunk"));
    }
    let side = |at: usize| u64::from(u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]));
    check_extent(side(16), side(20))
}
