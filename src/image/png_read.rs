//! PNG in: by rows, interlaced pictures whole.
//!
//! Our own walk over the chunks comes first: it finds truncation without decoding, profiles and
//! orientation wherever they stand, and bounds what is inflated. The pixels are the `png` crate's.

use super::orient::Orientation;
use super::raster::{Raster, from_u8, from_u16};
use super::{Colour, Depth, Format, Header, Stored, bad, check_decode, check_extent, exif, zeroed};
use crate::error::{Error, Kind, Result};
use crate::fs::File;
use crate::limits;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::sync::Arc;

/// Largest output of deflate for a byte of input, rounded up.
const MOST_EXPANSION: u64 = 1040;

/// What the walk over the chunks finds.
#[derive(Default)]
struct Chunks {
    icc: Option<Vec<u8>>,
    orientation: Option<Orientation>,
    notes: Vec<String>,
    seen_idat: bool,
}

fn truncated(what: impl std::fmt::Display) -> Error {
    bad(format!("the PNG is truncated: {what}"))
}

fn read_error(e: std::io::Error) -> Error {
    match e.kind() {
        std::io::ErrorKind::UnexpectedEof => truncated("the file ends early"),
        // What the system says has a number.
        _ if e.raw_os_error().is_none() => bad(format!("damaged PNG: {e}")),
        _ => Error::new(Kind::Io, "image", format!("cannot read: {e}")),
    }
}

/// Walks all chunks from the signature to IEND. `len` is the file's size.
fn walk(input: &mut BufReader<File>, len: u64) -> Result<Chunks> {
    let mut found = Chunks::default();
    let mut at = 8u64;
    let (mut srgb, mut gamma) = (false, None);
    input.seek(SeekFrom::Start(at)).map_err(read_error)?;
    loop {
        let mut head = [0u8; 8];
        if len - at < 12 {
            return Err(truncated(format!("no end mark in its {len} bytes")));
        }
        input.read_exact(&mut head).map_err(read_error)?;
        let size = u64::from(u32::from_be_bytes([head[0], head[1], head[2], head[3]]));
        let kind = [head[4], head[5], head[6], head[7]];
        if size > i32::MAX as u64 || !kind.iter().all(u8::is_ascii_alphabetic) {
            return Err(bad(format!("damaged PNG: no chunk begins at byte {at}")));
        }
        let next = at + 12 + size;
        if next > len {
            let name = String::from_utf8_lossy(&kind).into_owned();
            return Err(truncated(format!("chunk {name} at byte {at} needs {} bytes more than there are", next - len)));
        }
        let mut unread = size;
        match &kind {
            b"IEND" => {
                if next < len {
                    found.notes.push(format!("{} bytes after the end of the PNG are ignored", len - next));
                }
                break;
            }
            b"IDAT" => found.seen_idat = true,
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

/// How the bytes of a decoded row become values.
struct Unpack {
    colour: png::ColorType,
    bits: u32,
    /// Red, green, blue of each palette entry.
    palette: Vec<[u8; 3]>,
    /// Alpha of the first palette entries.
    palette_alpha: Vec<u8>,
    /// The colour that is transparent, where tRNS names one.
    key: Option<Vec<u16>>,
}

impl Unpack {
    fn new(info: &png::Info<'_>) -> Unpack {
        let indexed = info.color_type == png::ColorType::Indexed;
        let trns = info.trns.as_deref().unwrap_or_default();
        let key = |samples: usize| -> Option<Vec<u16>> {
            // The decoder drops the high bytes, which are zero, where samples have 8 bits or fewer.
            let all: Vec<u16> = match trns.len() == samples {
                true => trns.iter().map(|&b| u16::from(b)).collect(),
                false => trns.chunks_exact(2).map(|b| u16::from_be_bytes([b[0], b[1]])).collect(),
            };
            (all.len() == samples).then_some(all)
        };
        Unpack {
            colour: info.color_type,
            bits: info.bit_depth as u32,
            palette: info.palette.as_deref().unwrap_or_default().chunks_exact(3).map(|c| [c[0], c[1], c[2]]).collect(),
            palette_alpha: if indexed { trns.to_vec() } else { Vec::new() },
            key: match info.color_type {
                png::ColorType::Grayscale => key(1),
                png::ColorType::Rgb => key(3),
                _ => None,
            },
        }
    }

    fn out(&self) -> Colour {
        match self.colour {
            png::ColorType::Grayscale => Colour::new(true, self.key.is_some()),
            png::ColorType::GrayscaleAlpha => Colour::GrayAlpha,
            png::ColorType::Rgb => Colour::new(false, self.key.is_some()),
            png::ColorType::Rgba => Colour::Rgba,
            png::ColorType::Indexed => Colour::new(false, !self.palette_alpha.is_empty()),
        }
    }

    fn depth(&self) -> Depth {
        if self.bits == 16 { Depth::Sixteen } else { Depth::Eight }
    }

    /// Sample `i` of a row, unscaled.
    fn sample(&self, raw: &[u8], i: usize) -> u16 {
        match self.bits {
            16 => u16::from_be_bytes([raw[2 * i], raw[2 * i + 1]]),
            8 => u16::from(raw[i]),
            bits => {
                let per_byte = 8 / bits as usize;
                let shift = 8 - bits * (i % per_byte + 1) as u32;
                u16::from(raw[i / per_byte] >> shift) & ((1 << bits) - 1)
            }
        }
    }

    fn row(&self, raw: &[u8], row: &mut [f32]) -> Result<()> {
        if self.colour == png::ColorType::Indexed {
            return self.indexed(raw, row);
        }
        let Some(key) = &self.key else {
            match self.bits {
                8 => row.iter_mut().zip(raw).for_each(|(o, v)| *o = from_u8(*v)),
                16 => row
                    .iter_mut()
                    .zip(raw.chunks_exact(2))
                    .for_each(|(o, v)| *o = from_u16(u16::from_be_bytes([v[0], v[1]]))),
                bits => {
                    let max = f32::from((1u16 << bits) - 1);
                    row.iter_mut().enumerate().for_each(|(i, o)| *o = f32::from(self.sample(raw, i)) / max);
                }
            }
            return Ok(());
        };
        let samples = key.len();
        let max = ((1u32 << self.bits) - 1) as f32;
        for (x, pixel) in row.chunks_exact_mut(samples + 1).enumerate() {
            let mut equal = true;
            for (c, k) in key.iter().enumerate() {
                let v = self.sample(raw, x * samples + c);
                equal &= v == *k;
                pixel[c] = f32::from(v) / max;
            }
            pixel[samples] = if equal { 0.0 } else { 1.0 };
        }
        Ok(())
    }

    fn indexed(&self, raw: &[u8], row: &mut [f32]) -> Result<()> {
        let channels = self.out().channels();
        for (x, pixel) in row.chunks_exact_mut(channels).enumerate() {
            let index = usize::from(self.sample(raw, x));
            let Some(rgb) = self.palette.get(index) else {
                let text = format!("pixel {x} has colour {index} of a palette of {}", self.palette.len());
                return Err(bad(text).advise("the file is damaged: save it again with the program that made it"));
            };
            pixel.iter_mut().zip(rgb).for_each(|(o, v)| *o = from_u8(*v));
            if channels == 4 {
                pixel[3] = from_u8(self.palette_alpha.get(index).copied().unwrap_or(255));
            }
        }
        Ok(())
    }
}

enum Pixels {
    Rows(Box<png::Reader<BufReader<File>>>),
    Whole(Vec<u8>),
}

struct PngRows {
    header: Header,
    unpack: Unpack,
    pixels: Pixels,
    /// Bytes of a row as decoded.
    stride: usize,
    raw: Vec<u8>,
    next: u64,
}

fn decode_error(e: png::DecodingError) -> Error {
    match e {
        png::DecodingError::IoError(e) => read_error(e),
        png::DecodingError::LimitsExceeded => {
            Error::new(Kind::Limit, "image", "the PNG needs more memory than allowed")
        }
        other => bad(format!("damaged PNG: {other}")),
    }
}

/// Opens a PNG. `len` is the file's size, `notes` what is known already.
pub(super) fn open(file: File, len: u64, notes: Vec<String>) -> Result<(Box<dyn Stored>, Orientation)> {
    let mut input = BufReader::with_capacity(1 << 16, file);
    check_ihdr(&mut input, len)?;
    let chunks = walk(&mut input, len)?;
    input.seek(SeekFrom::Start(0)).map_err(read_error)?;

    let mut decoder = png::Decoder::new_with_limits(input, png::Limits { bytes: limits::MAX_PNG_DECODER_BYTES });
    // Text may inflate without end; the profile is read above, within a bound.
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(png::Transformations::IDENTITY);
    let reader = decoder.read_info().map_err(decode_error)?;
    let info = reader.info();
    let (width, height) = (u64::from(info.width), u64::from(info.height));
    if info.color_type == png::ColorType::Indexed && info.palette.is_none() {
        return Err(bad("the PNG has no palette, but its colours are numbers of one"));
    }
    let unpack = Unpack::new(info);
    let interlaced = info.interlaced;
    let stride = reader.output_line_size(info.width).ok_or_else(|| bad("the PNG's rows are too long"))?;
    let raw_bytes = crate::extent::product("PNG", &[stride as u64, height])?;
    if raw_bytes / MOST_EXPANSION > len {
        return Err(truncated(format!("{width} x {height} pixels cannot be in {len} bytes")));
    }
    let mut header = Header {
        width,
        height,
        colour: unpack.out(),
        depth: unpack.depth(),
        icc: chunks.icc.map(Arc::from),
        format: Format::Png,
        notes,
    };
    header.notes.extend(chunks.notes);
    if unpack.bits < 8 && unpack.colour != png::ColorType::Indexed {
        header.notes.push(format!("{} bits a sample widened to 8", unpack.bits));
    }
    let raw = if interlaced { Vec::new() } else { zeroed("a PNG row", stride)? };
    let pixels = Pixels::Rows(Box::new(reader));
    let rows = PngRows { header, unpack, pixels, stride, raw, next: 0 };
    let stored: Box<dyn Stored> = if interlaced { Box::new(Interlaced(rows)) } else { Box::new(rows) };
    Ok((stored, chunks.orientation.unwrap_or(Orientation::UPRIGHT)))
}

/// Checks the extents where they stand, before any decoder sees the file.
fn check_ihdr(input: &mut impl Read, len: u64) -> Result<()> {
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

impl Stored for PngRows {
    fn header(&self) -> &Header {
        &self.header
    }

    fn read_row(&mut self, row: &mut [f32]) -> Result<()> {
        match &mut self.pixels {
            Pixels::Whole(all) => self.unpack.row(&all[self.next as usize * self.stride..][..self.stride], row)?,
            Pixels::Rows(reader) => {
                if reader.read_row(&mut self.raw).map_err(decode_error)?.is_none() {
                    return Err(truncated(format!("row {} is missing", self.next)));
                }
                self.unpack.row(&self.raw, row)?;
                // Check sums of the last chunks are verified only when they are read to the end.
                if self.next + 1 == self.header.height {
                    reader.finish().map_err(decode_error)?;
                }
            }
        }
        self.next += 1;
        Ok(())
    }

    fn into_raster(self: Box<Self>) -> Result<Raster> {
        Raster::collect(self)
    }
}

/// An interlaced picture: its rows come in seven passes, so it is decoded whole at the first row.
struct Interlaced(PngRows);

impl Interlaced {
    fn decode(&mut self) -> Result<()> {
        let Pixels::Rows(reader) = &mut self.0.pixels else { return Ok(()) };
        let bytes = crate::extent::product("PNG", &[self.0.stride as u64, self.0.header.height])?;
        let mut all = zeroed("an interlaced PNG", check_decode("an interlaced PNG", bytes)?)?;
        reader.next_frame(&mut all).map_err(decode_error)?;
        reader.finish().map_err(decode_error)?;
        self.0.pixels = Pixels::Whole(all);
        Ok(())
    }
}

impl Stored for Interlaced {
    fn header(&self) -> &Header {
        &self.0.header
    }

    fn resident_bytes(&self) -> u64 {
        self.0.stride as u64 * self.0.header.height
    }

    fn read_row(&mut self, row: &mut [f32]) -> Result<()> {
        self.decode()?;
        self.0.read_row(row)
    }

    fn into_raster(mut self: Box<Self>) -> Result<Raster> {
        self.decode()?;
        Raster::collect(Box::new(self.0))
    }
}
