//! WebP in, lossless and lossy: decoded whole.
//!
//! Our own walk over the chunks comes first: truncation, profile and orientation within bounds. The pixels are
//! the `image-webp` crate's.

use super::input::Input;
use super::orient::Orientation;
use super::whole::{Decode, Pending};
use super::{Colour, Depth, Format, Header, Stored, bad, check_decode, check_extent, exif, zeroed};
use crate::error::{Error, Kind, Result};
use crate::{extent, limits};
use image_webp::{DecodingError, WebPDecoder};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::sync::Arc;

/// What the walk over the chunks finds.
#[derive(Default)]
struct Chunks {
    icc: Option<Vec<u8>>,
    orientation: Option<Orientation>,
    notes: Vec<String>,
}

fn truncated(what: impl std::fmt::Display) -> Error {
    bad(format!("the WebP is truncated: {what}"))
}

fn read_error(e: &std::io::Error) -> Error {
    match e.kind() {
        ErrorKind::UnexpectedEof => truncated("the file ends early"),
        _ if e.raw_os_error().is_none() => bad(format!("damaged WebP: {e}")),
        _ => Error::new(Kind::Io, "image", format!("cannot read: {e}")),
    }
}

fn decode_error(e: DecodingError) -> Error {
    match e {
        DecodingError::IoError(e) => read_error(&e),
        DecodingError::MemoryLimitExceeded => {
            Error::new(Kind::Limit, "image", "the WebP needs more memory than allowed")
        }
        other => bad(format!("damaged WebP: {other}")),
    }
}

/// Walks the chunks of the `len` bytes, which begin with `RIFF`, a size and `WEBP`.
fn walk(input: &mut Input, len: u64) -> Result<Chunks> {
    let mut found = Chunks::default();
    let mut head = [0u8; 12];
    input.read_exact(&mut head).map_err(|e| read_error(&e))?;
    let end = 8 + u64::from(u32::from_le_bytes([head[4], head[5], head[6], head[7]]));
    if end > len {
        return Err(truncated(format!("{} bytes are missing", end - len)));
    }
    if end < len {
        found.notes.push(format!("{} bytes after the end of the WebP are ignored", len - end));
    }
    let mut at = 12;
    while at + 8 <= end {
        let mut head = [0u8; 8];
        input.read_exact(&mut head).map_err(|e| read_error(&e))?;
        let size = u64::from(u32::from_le_bytes([head[4], head[5], head[6], head[7]]));
        let name = &head[..4];
        if at + 8 + size > end {
            return Err(bad(format!("damaged WebP: chunk {:?} reaches past the end", String::from_utf8_lossy(name))));
        }
        let mut unread = size + size % 2;
        let mut body = |most: u64| -> Result<Option<Vec<u8>>> {
            if size > most {
                return Ok(None);
            }
            let mut bytes = zeroed::<u8>("a chunk", extent::to_usize("chunk", size)?)?;
            input.read_exact(&mut bytes).map_err(|e| read_error(&e))?;
            unread -= size;
            Ok(Some(bytes))
        };
        match name {
            b"ICCP" => match body(limits::MAX_ICC_BYTES as u64)? {
                Some(icc) if !icc.is_empty() => found.icc = Some(icc),
                _ => found.notes.push(format!("a colour profile of {size} bytes is not carried")),
            },
            b"EXIF" => match body(limits::MAX_EXIF_BYTES as u64)? {
                Some(block) => found.orientation = exif::orientation(&block),
                None => found.notes.push(format!("the EXIF block of {size} bytes is ignored: too large")),
            },
            b"ANIM" => found.notes.push("the WebP is animated: only its first picture is read".into()),
            _ => {}
        }
        at += 8 + size + size % 2;
        input.seek_relative(unread as i64).map_err(|e| read_error(&e))?;
    }
    Ok(found)
}

/// Opens a WebP. `notes` is what is known already.
pub(super) fn open(input: Input, notes: Vec<String>) -> Result<(Box<dyn Stored>, Orientation)> {
    let mut input = input.seekable()?;
    let (len, held) = (input.len().unwrap_or_default(), input.held());
    let mut chunks = walk(&mut input, len)?;
    input.seek(SeekFrom::Start(0)).map_err(|e| read_error(&e))?;
    let mut decoder = WebPDecoder::new(input).map_err(decode_error)?;
    let (width, height) = decoder.dimensions();
    let (width, height) = (u64::from(width), u64::from(height));
    check_extent(width, height)?;
    let colour = Colour::new(false, decoder.has_alpha());
    // The samples, and what the decoder holds of the whole picture meanwhile: four bytes a pixel when
    // lossless, the planes of luma and chroma and the coded data when not.
    let each = colour.channels() as u64 + 4;
    let resident = extent::product("WebP", &[width, height, each])?.saturating_add(2 * held.max(len));
    check_decode("a WebP", resident)?;
    decoder.set_memory_limit(extent::to_usize("WebP", limits::MAX_DECODE_BYTES)?);
    let mut header = Header {
        width,
        height,
        colour,
        depth: Depth::Eight,
        icc: chunks.icc.map(Arc::from),
        format: Format::WebP,
        notes,
    };
    header.notes.append(&mut chunks.notes);
    let pending = Pending::new(header, Box::new(Undecoded { decoder, resident }));
    Ok((Box::new(pending), chunks.orientation.unwrap_or(Orientation::UPRIGHT)))
}

struct Undecoded {
    decoder: WebPDecoder<Input>,
    resident: u64,
}

impl Decode for Undecoded {
    fn decode(mut self: Box<Self>) -> Result<Vec<u8>> {
        let size = self.decoder.output_buffer_size().ok_or_else(|| bad("damaged WebP: too large"))?;
        let mut samples = zeroed("a WebP", size)?;
        self.decoder.read_image(&mut samples).map_err(decode_error)?;
        Ok(samples)
    }

    fn resident_bytes(&self) -> u64 {
        self.resident
    }
}
