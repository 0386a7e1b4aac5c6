//! TIFF in: strips or rows of tiles, one at a time.
//!
//! The directory and the decompression are the `tiff` crate's; extents, bounds, sample conversion,
//! orientation and profile are ours. Only the first picture of a file is read.

use super::input::Input;
use super::orient::Orientation;
use super::raster::{Raster, from_u8, from_u16};
use super::{Colour, Depth, Format, Header, ReadOptions, Stored, bad, check_decode, check_extent, zeroed};
use crate::error::{Error, Kind, Result};
use crate::{extent, limits};
use std::sync::Arc;
use tiff::decoder::{ChunkType, Decoder, Limits};
use tiff::tags::{PhotometricInterpretation, PlanarConfiguration, SampleFormat, Tag, Type, ValueBuffer};
use tiff::{ColorType, TiffError};

/// Largest output for a byte of input over all compressions read (LZW's codes reach furthest).
const MOST_EXPANSION: u64 = 4096;

/// What the samples of a pixel stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Plain,
    /// The colour is multiplied by alpha.
    Premultiplied,
    /// Four inks, 0 is none.
    Inks,
}

/// How a sample is stored, in native byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sample {
    /// 1, 2 or 4 bits, packed from the high end; rows begin at a byte.
    Packed(usize),
    U8,
    U16,
    U32,
    F16,
    F32,
    F64,
}

impl Sample {
    /// Bytes of `n` samples of one row.
    fn row_bytes(self, n: u64) -> u64 {
        match self {
            Sample::Packed(bits) => (n * bits as u64).div_ceil(8),
            Sample::U8 => n,
            Sample::U16 | Sample::F16 => 2 * n,
            Sample::U32 | Sample::F32 => 4 * n,
            Sample::F64 => 8 * n,
        }
    }
}

struct TiffRows {
    header: Header,
    decoder: Decoder<Input>,
    sample: Sample,
    meaning: Meaning,
    /// Samples of a pixel in the file, alpha and inks included.
    samples: usize,
    /// Planes that hold one sample each, or 1 when samples are interleaved.
    planes: usize,
    across: u32,
    chunk_rows: u64,
    chunks_per_plane: u32,
    /// Rows of chunks decoded last, all planes one after the other, and how many bytes one row of
    /// one plane has.
    band: Vec<u8>,
    stride: usize,
    chunk: Vec<u8>,
    values: Vec<f32>,
    next: u64,
    /// Bytes of the file that are held because it came through a pipe.
    held: u64,
}

fn decode_error(e: TiffError) -> Error {
    match e {
        TiffError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            bad("the TIFF is truncated: the file ends early")
        }
        // What the system says has a number; the rest is the decompressors' way to say "damaged". A
        // place that can't be sought (above 2^63) is damage too.
        TiffError::IoError(e) if e.raw_os_error().is_none() || e.kind() == std::io::ErrorKind::InvalidInput => {
            bad(format!("damaged TIFF: {e}"))
        }
        TiffError::IoError(e) => Error::new(Kind::Io, "image", format!("cannot read: {e}")),
        TiffError::LimitsExceeded => {
            Error::new(Kind::Limit, "image", "the TIFF's tables need more memory than allowed")
        }
        TiffError::UnsupportedError(e) => {
            bad(format!("this kind of TIFF is not read: {e}")).advise("convert it to PNG, or a plain RGB TIFF")
        }
        other => bad(format!("damaged TIFF: {other}")),
    }
}

fn unsupported(what: impl std::fmt::Display) -> Error {
    bad(format!("{what} TIFF pictures are not read")).advise("convert it to PNG, or a plain RGB TIFF")
}

/// Opens a TIFF, whose parts may stand in any order: a pipe is read into memory. `notes` is what is known already.
pub(super) fn open(input: Input, mut notes: Vec<String>) -> Result<(Box<dyn Stored>, Orientation)> {
    let input = input.seekable()?;
    let (len, held) = (input.len().unwrap_or_default(), input.held());
    let mut decoder = Decoder::new(input).map_err(decode_error)?;
    let mut bounds = Limits::default();
    // Tags are bounded by the largest one read, the profile. Pixels go into buffers of ours, checked
    // there; compressed bytes may be as many as the whole picture.
    bounds.ifd_value_size = limits::MAX_ICC_BYTES;
    bounds.decoding_buffer_size = limits::MAX_ICC_BYTES;
    bounds.intermediate_buffer_size = usize::try_from(limits::MAX_DECODE_BYTES).unwrap_or(usize::MAX);
    decoder = decoder.with_limits(bounds);

    let (width, height) = decoder.dimensions().map_err(decode_error)?;
    let (width, height) = (u64::from(width), u64::from(height));
    check_extent(width, height)?;
    let (samples, meaning, colour) = interpret(&mut decoder, &mut notes)?;
    let (sample, depth) = sample_kind(&mut decoder, &mut notes)?;
    if matches!(sample, Sample::Packed(_)) && samples != 1 {
        return Err(unsupported("packed colour"));
    }
    let planar = decoder.find_tag_unsigned::<u16>(Tag::PlanarConfiguration).map_err(decode_error)?;
    let planar = planar == Some(PlanarConfiguration::Planar.to_u16()) && samples > 1;
    let planes = if planar { samples } else { 1 };

    let (chunk_width, chunk_height) = decoder.chunk_dimensions();
    if chunk_width == 0 || chunk_height == 0 {
        return Err(bad("damaged TIFF: strips or tiles without extent"));
    }
    let across = extent::to_u32("tiles", width.div_ceil(u64::from(chunk_width)))?;
    let down = height.div_ceil(u64::from(chunk_height));
    let chunks_per_plane = extent::to_u32("strips", extent::product("strips", &[u64::from(across), down])?)?;
    let have = match decoder.get_chunk_type() {
        ChunkType::Strip => decoder.strip_count(),
        ChunkType::Tile => decoder.tile_count(),
    };
    let need = u64::from(chunks_per_plane) * planes as u64;
    if u64::from(have.map_err(decode_error)?) < need {
        return Err(bad(format!("damaged TIFF: fewer strips or tiles than the {need} it needs")));
    }
    if across > 1 && matches!(sample, Sample::Packed(_)) && chunk_width % 8 != 0 {
        return Err(unsupported("packed and tiled"));
    }

    let in_pixel = (samples / planes) as u64;
    let stride = sample.row_bytes(width * in_pixel);
    let chunk_rows = u64::from(chunk_height).min(height);
    let total = extent::product("TIFF", &[stride, height, planes as u64])?;
    if total / MOST_EXPANSION > len {
        return Err(bad(format!("the TIFF is truncated: {width} x {height} pixels cannot be in {len} bytes")));
    }
    let band =
        check_decode("a strip of the TIFF", extent::product("TIFF strip", &[stride, chunk_rows, planes as u64])?)?;

    let orientation = decoder.find_tag_unsigned::<u32>(Tag::Orientation).ok().flatten();
    let icc = profile(&mut decoder, &mut notes);
    if decoder.more_images() {
        notes.push("the TIFF holds more pictures: only the first is read".into());
    }
    let icc = if meaning == Meaning::Inks { None } else { icc };
    let header = Header { width, height, colour, depth, icc, format: Format::Tiff, notes };
    let rows = TiffRows {
        values: zeroed("a TIFF row", extent::to_usize("row", width * samples as u64)?)?,
        header,
        decoder,
        sample,
        meaning,
        samples,
        planes,
        across,
        chunk_rows: u64::from(chunk_height),
        chunks_per_plane,
        // Filled at the first row, so that probing a picture of one strip stays cheap.
        band: Vec::with_capacity(0),
        stride: extent::to_usize("row", stride)?,
        chunk: Vec::new(),
        next: 0,
        held,
    };
    debug_assert!(band >= rows.stride);
    Ok((Box::new(rows), orientation.and_then(Orientation::from_tag).unwrap_or(Orientation::UPRIGHT)))
}

/// Samples of a pixel as the decoder gives them, what they mean, and the colour they become.
fn interpret(decoder: &mut Decoder<Input>, notes: &mut Vec<String>) -> Result<(usize, Meaning, Colour)> {
    let photometric = decoder.find_tag_unsigned::<u16>(Tag::PhotometricInterpretation).map_err(decode_error)?;
    let photometric = photometric.and_then(PhotometricInterpretation::from_u16);
    match photometric {
        Some(PhotometricInterpretation::RGBPalette) => return Err(unsupported("palette")),
        Some(PhotometricInterpretation::CIELab | PhotometricInterpretation::IccLab) => return Err(unsupported("Lab")),
        _ => {}
    }
    let extra = decoder.find_tag_unsigned_vec::<u16>(Tag::ExtraSamples).map_err(decode_error)?.unwrap_or_default();
    let alpha = |notes: &mut Vec<String>| {
        if extra.first() == Some(&1) {
            notes.push("alpha was premultiplied: divided out".into());
            Meaning::Premultiplied
        } else {
            Meaning::Plain
        }
    };
    let ignored = |notes: &mut Vec<String>| {
        if !extra.is_empty() {
            notes.push("channels beside the colour are ignored".into());
        }
    };
    Ok(match decoder.colortype().map_err(decode_error)? {
        ColorType::Gray(_) => (1, Meaning::Plain, Colour::Gray),
        ColorType::GrayA(_) => (2, alpha(notes), Colour::GrayAlpha),
        ColorType::Multiband { num_samples: 2, .. } if photometric == Some(PhotometricInterpretation::BlackIsZero) => {
            (2, alpha(notes), Colour::GrayAlpha)
        }
        // JPEG inside TIFF comes out of the decoder as RGB.
        ColorType::RGB(_) | ColorType::YCbCr(8) => {
            ignored(notes);
            (3, Meaning::Plain, Colour::Rgb)
        }
        ColorType::RGBA(_) => (4, alpha(notes), Colour::Rgba),
        ColorType::CMYK(_) => {
            notes.push("converted from CMYK without its profile".into());
            (4, Meaning::Inks, Colour::Rgb)
        }
        other => return Err(unsupported(format!("{other:?}"))),
    })
}

/// How the samples are stored, and the depth they become.
fn sample_kind(decoder: &mut Decoder<Input>, notes: &mut Vec<String>) -> Result<(Sample, Depth)> {
    let formats = decoder.find_tag_unsigned_vec::<u16>(Tag::SampleFormat).map_err(decode_error)?.unwrap_or_default();
    let format = formats.first().and_then(|&f| SampleFormat::from_u16(f)).unwrap_or(SampleFormat::Uint);
    if formats.iter().any(|f| *f != formats[0]) {
        return Err(unsupported("mixed-sample"));
    }
    let bits = decoder.colortype().map_err(decode_error)?.bit_depth();
    let kind = match (format, bits) {
        (SampleFormat::Uint, 1 | 2 | 4) => {
            notes.push(format!("{bits} bits a sample widened to 8"));
            (Sample::Packed(usize::from(bits)), Depth::Eight)
        }
        (SampleFormat::Uint, 8) => (Sample::U8, Depth::Eight),
        (SampleFormat::Uint, 16) => (Sample::U16, Depth::Sixteen),
        (SampleFormat::Uint, 32) => (Sample::U32, Depth::Sixteen),
        (SampleFormat::IEEEFP, 16) => (Sample::F16, Depth::Sixteen),
        (SampleFormat::IEEEFP, 32) => (Sample::F32, Depth::Sixteen),
        (SampleFormat::IEEEFP, 64) => (Sample::F64, Depth::Sixteen),
        _ => return Err(unsupported(format!("{bits}-bit {format:?}"))),
    };
    match kind.0 {
        Sample::U32 => notes.push("32 bits a sample narrowed to 16".into()),
        Sample::F16 | Sample::F32 | Sample::F64 => {
            notes.push("floating-point samples clamped to [0, 1] and narrowed to 16 bits".into());
        }
        Sample::Packed(_) | Sample::U8 | Sample::U16 => {}
    }
    Ok(kind)
}

fn profile(decoder: &mut Decoder<Input>, notes: &mut Vec<String>) -> Option<Arc<[u8]>> {
    // Read as bytes: as values every byte of it would take thirty-two.
    let mut icc = ValueBuffer::empty(Type::UNDEFINED);
    match decoder.image_ifd().find_tag_buf(Tag::IccProfile, &mut icc) {
        Ok(None) => None,
        Ok(Some(_)) if !icc.as_bytes().is_empty() && icc.as_bytes().len() <= limits::MAX_ICC_BYTES => {
            Some(Arc::from(icc.as_bytes()))
        }
        Ok(Some(_)) | Err(_) => {
            notes.push("the colour profile is damaged or too large and not carried".into());
            None
        }
    }
}

impl TiffRows {
    /// Decodes the strip, or the row of tiles, that holds row `y`.
    fn load_band(&mut self, y: u64) -> Result<()> {
        let band_index = y / self.chunk_rows;
        let rows = self.chunk_rows.min(self.header.height - band_index * self.chunk_rows);
        let rows = extent::to_usize("strip", rows)?;
        let plane_bytes = rows * self.stride;
        if self.band.len() != plane_bytes * self.planes {
            self.band = Vec::new();
            self.band = zeroed("a strip of the TIFF", plane_bytes * self.planes)?;
        }
        let (chunk_width, _) = self.decoder.chunk_dimensions();
        let chunk_stride = self.sample.row_bytes(u64::from(chunk_width) * (self.samples / self.planes) as u64) as usize;
        for plane in 0..self.planes {
            for column in 0..self.across {
                let index = plane as u32 * self.chunks_per_plane + band_index as u32 * self.across + column;
                let layout = self.decoder.image_chunk_buffer_layout(index).map_err(decode_error)?;
                let size = check_decode("a strip of the TIFF", layout.len as u64)?;
                let row_bytes = size / rows.max(1);
                if row_bytes * rows != size || column as usize * chunk_stride + row_bytes > self.stride {
                    return Err(bad("damaged TIFF: a strip or tile has another size than its place"));
                }
                let plane_band = &mut self.band[plane * plane_bytes..][..plane_bytes];
                if self.across == 1 && row_bytes == self.stride {
                    self.decoder.read_chunk_bytes(index, plane_band).map_err(decode_error)?;
                    continue;
                }
                self.chunk.clear();
                self.chunk.resize(size, 0);
                self.decoder.read_chunk_bytes(index, &mut self.chunk).map_err(decode_error)?;
                for (from, to) in self.chunk.chunks_exact(row_bytes).zip(plane_band.chunks_exact_mut(self.stride)) {
                    to[column as usize * chunk_stride..][..row_bytes].copy_from_slice(from);
                }
            }
        }
        Ok(())
    }

    /// Puts the samples of row `y` of `plane` into `values`, `step` apart.
    fn unpack(&mut self, y: usize, rows: usize, plane: usize) {
        let raw = &self.band[(plane * rows + y) * self.stride..][..self.stride];
        let step = self.planes;
        let out = self.values.iter_mut().skip(plane).step_by(step);
        match self.sample {
            Sample::Packed(bits) => {
                let max = (1u16 << bits) - 1;
                for (i, o) in out.enumerate() {
                    let at = i * bits;
                    let v = u16::from(raw[at / 8] >> (8 - bits - at % 8)) & max;
                    *o = f32::from(v) / f32::from(max);
                }
            }
            Sample::U8 => out.zip(raw).for_each(|(o, v)| *o = from_u8(*v)),
            Sample::U16 => {
                out.zip(raw.chunks_exact(2)).for_each(|(o, v)| *o = from_u16(u16::from_ne_bytes([v[0], v[1]])))
            }
            Sample::U32 => out.zip(raw.chunks_exact(4)).for_each(|(o, v)| {
                let v = u32::from_ne_bytes([v[0], v[1], v[2], v[3]]);
                *o = (f64::from(v) / f64::from(u32::MAX)) as f32;
            }),
            Sample::F16 => out.zip(raw.chunks_exact(2)).for_each(|(o, v)| {
                *o = unit(half::f16::from_ne_bytes([v[0], v[1]]).to_f32());
            }),
            Sample::F32 => out.zip(raw.chunks_exact(4)).for_each(|(o, v)| {
                *o = unit(f32::from_ne_bytes([v[0], v[1], v[2], v[3]]));
            }),
            Sample::F64 => out.zip(raw.chunks_exact(8)).for_each(|(o, v)| {
                let bytes = [v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]];
                *o = unit(f64::from_ne_bytes(bytes) as f32);
            }),
        }
    }
}

/// Clamped to [0, 1]; NaN gives 0.
fn unit(v: f32) -> f32 {
    if v > 0.0 { v.min(1.0) } else { 0.0 }
}

impl Stored for TiffRows {
    fn header(&self) -> &Header {
        &self.header
    }

    fn read_row(&mut self, row: &mut [f32]) -> Result<()> {
        let y = self.next;
        if y.is_multiple_of(self.chunk_rows) {
            self.load_band(y)?;
        }
        let rows = self.band.len() / self.stride / self.planes;
        let in_band = (y % self.chunk_rows) as usize;
        for plane in 0..self.planes {
            self.unpack(in_band, rows, plane);
        }
        match self.meaning {
            Meaning::Plain => row.copy_from_slice(&self.values),
            Meaning::Premultiplied => {
                row.copy_from_slice(&self.values);
                for pixel in row.chunks_exact_mut(self.samples) {
                    let [colour @ .., alpha] = pixel else { continue };
                    if *alpha > 0.0 {
                        colour.iter_mut().for_each(|v| *v = (*v / *alpha).min(1.0));
                    }
                }
            }
            Meaning::Inks => {
                for (pixel, inks) in row.chunks_exact_mut(3).zip(self.values.chunks_exact(4)) {
                    pixel.iter_mut().zip(inks).for_each(|(o, ink)| *o = (1.0 - ink) * (1.0 - inks[3]));
                }
            }
        }
        self.next += 1;
        Ok(())
    }

    fn resident_bytes(&self, _: &ReadOptions) -> u64 {
        self.stride as u64 * self.chunk_rows.min(self.header.height) * self.planes as u64 + self.held
    }

    fn into_raster(self: Box<Self>) -> Result<Raster> {
        Raster::collect(self)
    }
}
