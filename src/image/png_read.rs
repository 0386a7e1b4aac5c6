//! PNG in: by rows, interlaced pictures whole.
//!
//! Our own walk over the chunks comes first: it finds truncation without decoding, profiles and
//! orientation wherever they stand, and bounds what is inflated. The pixels are the `png` crate's.

use super::input::Input;
use super::orient::Orientation;
use super::png_chunks::{check_ihdr, read_error, truncated, walk, walk_pipe};
use super::raster::{self, Raster, from_u8, from_u16};
use super::spooled::Spooled;
use super::{Colour, Depth, Format, Header, ReadOptions, Stored, bad, check_decode, zeroed};
use crate::error::{Error, Kind, Result};
use crate::limits;
use std::io::{Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

/// Largest output of deflate for a byte of input, rounded up.
const MOST_EXPANSION: u64 = 1040;

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
    Rows(Box<png::Reader<Input>>),
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

/// Opens a PNG. `notes` is what is known already.
pub(super) fn open(mut input: Input, notes: Vec<String>) -> Result<(Box<dyn Stored>, Orientation)> {
    let len = input.len();
    let chunks = if let Input::Pipe(pipe) = &mut input {
        walk_pipe(pipe)?
    } else {
        check_ihdr(&mut input, len.unwrap_or_default())?;
        let chunks = walk(&mut input, len)?;
        input.seek(SeekFrom::Start(0)).map_err(read_error)?;
        chunks
    };

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
    if let Some(len) = len.filter(|len| raw_bytes / MOST_EXPANSION > *len) {
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
    let stored: Box<dyn Stored> = if interlaced {
        Box::new(Interlaced { rows, options: ReadOptions::default(), spooled: None })
    } else {
        Box::new(rows)
    };
    Ok((stored, chunks.orientation.unwrap_or(Orientation::UPRIGHT)))
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

/// An interlaced picture: its rows come in seven passes, so it is decoded whole at the first row, into memory
/// or into the spool.
struct Interlaced {
    rows: PngRows,
    options: ReadOptions,
    spooled: Option<Spooled>,
}

impl Interlaced {
    fn decode(&mut self) -> Result<()> {
        let rows = &mut self.rows;
        let Pixels::Rows(reader) = &mut rows.pixels else { return Ok(()) };
        let header = &rows.header;
        let held = raster::bytes(header.width, header.height, header.colour, header.depth)?;
        if let Some(folder) = self.options.folder(held) {
            if self.spooled.is_none() {
                self.spooled = Some(passes(reader, &rows.unpack, header, folder)?);
            }
            return Ok(());
        }
        let bytes = crate::extent::product("PNG", &[rows.stride as u64, header.height])?;
        let mut all = zeroed("an interlaced PNG", check_decode("an interlaced PNG", bytes)?)?;
        reader.next_frame(&mut all).map_err(decode_error)?;
        reader.finish().map_err(decode_error)?;
        rows.pixels = Pixels::Whole(all);
        Ok(())
    }
}

/// Origin and step, across and down, of the seven passes of Adam7.
const PASSES: [(usize, usize, u64, u64); 7] =
    [(0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2)];

/// Decodes all passes into rows of the spool: memory of a few rows.
fn passes(reader: &mut png::Reader<Input>, unpack: &Unpack, header: &Header, folder: &Path) -> Result<Spooled> {
    let mut spooled = Spooled::create(folder, header)?;
    let channels = header.colour.channels();
    let mut values = zeroed::<f32>("a PNG row", header.row_len())?;
    for (x, dx, y, dy) in PASSES {
        let across = (header.width as usize).saturating_sub(x).div_ceil(dx);
        if across == 0 {
            // A pass without columns has no rows in the file either.
            continue;
        }
        for line in (y..header.height).step_by(dy as usize) {
            let raw = reader.next_interlaced_row().map_err(decode_error)?;
            let raw = raw.ok_or_else(|| truncated(format!("row {line} is missing")))?;
            let values = &mut values[..across * channels];
            unpack.row(raw.data(), values)?;
            spooled.merge(line, values, channels, x, dx)?;
        }
    }
    reader.finish().map_err(decode_error)?;
    Ok(spooled)
}

impl Stored for Interlaced {
    fn header(&self) -> &Header {
        &self.rows.header
    }

    fn hold(&mut self, options: &ReadOptions) {
        self.options = options.clone();
    }

    fn resident_bytes(&self, options: &ReadOptions) -> u64 {
        let raw = self.rows.stride as u64 * self.rows.header.height;
        let header = &self.rows.header;
        let held = raster::bytes(header.width, header.height, header.colour, header.depth).unwrap_or(u64::MAX);
        if options.folder(held).is_some() { 0 } else { raw }
    }

    fn read_row(&mut self, row: &mut [f32]) -> Result<()> {
        self.decode()?;
        match &mut self.spooled {
            None => self.rows.read_row(row),
            Some(spooled) => {
                self.rows.next += 1;
                spooled.read_row(self.rows.next - 1, row)
            }
        }
    }

    fn into_raster(mut self: Box<Self>) -> Result<Raster> {
        self.decode()?;
        Raster::collect(Box::new(self.rows))
    }
}
