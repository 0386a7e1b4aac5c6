//! JPEG in: decoded whole and strictly, so that a truncated picture is an error and never grey at
//! the bottom.
//!
//! Our own walk over the markers comes first: extents and limits before any allocation, profile
//! and orientation within bounds, and the end mark, without which the file is truncated. The
//! pixels are `zune-jpeg`'s; CMYK is converted here.

use super::input::Input;
use super::jpeg_end::{entropy_end, truncated};
use super::orient::Orientation;
use super::whole::{Decode, Pending};
use super::{Colour, Depth, Format, Header, Stored, bad, check_decode, check_extent, exif, jpeg_entropy, zeroed};
use crate::error::{Error, Result};
use crate::{extent, limits};
use std::sync::Arc;
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;

/// Most pixels a byte of entropy-coded data can stand for, rounded up: an 8x8 block takes at least
/// a bit, and with 4:2:0 chroma six blocks cover 256 pixels.
const MOST_PIXELS_PER_BYTE: u64 = 1024;

/// What the walk over the markers finds.
#[derive(Debug, Default)]
struct Markers {
    width: u64,
    height: u64,
    components: u8,
    progressive: bool,
    /// The colour transform Adobe's marker names, where there is one.
    adobe: Option<u8>,
    orientation: Option<Orientation>,
    icc: Option<Vec<u8>>,
    notes: Vec<String>,
    /// Bytes up to and with the end mark.
    end: usize,
}

fn unsupported(what: &str) -> Error {
    bad(format!("the JPEG is {what}, which is not read")).advise("convert it to PNG or TIFF")
}

/// The body of the segment whose length field is at `at`, and where it ends.
fn segment(bytes: &[u8], at: usize) -> Result<(&[u8], usize)> {
    let length = bytes.get(at..at + 2).ok_or_else(|| truncated(bytes.len()))?;
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    if length < 2 {
        return Err(bad(format!("damaged JPEG: a segment of length {length} at byte {at}")));
    }
    let body = bytes.get(at + 2..at + length).ok_or_else(|| truncated(bytes.len()))?;
    Ok((body, at + length))
}

/// Walks all markers from SOI to EOI.
fn walk(bytes: &[u8]) -> Result<Markers> {
    let mut found = Markers::default();
    let mut profile: Vec<(u8, u8, &[u8])> = Vec::new();
    let mut at = 2;
    let mut scans = 0;
    loop {
        // Between segments: any number of fill bytes, then the marker.
        let mark = bytes.get(at..).ok_or_else(|| truncated(bytes.len()))?;
        let Some(&first) = mark.first() else { return Err(truncated(bytes.len())) };
        if first != 0xff {
            return Err(bad(format!("damaged JPEG: no marker at byte {at}")));
        }
        let fill = mark.iter().take_while(|&&b| b == 0xff).count();
        let Some(&code) = mark.get(fill) else { return Err(truncated(bytes.len())) };
        at += fill + 1;
        match code {
            0xd9 => break,
            0x01 | 0xd0..=0xd7 => continue,
            0x00 | 0xd8 => return Err(bad(format!("damaged JPEG: marker {code:02x} at byte {}", at - 2))),
            _ => {}
        }
        let (body, next) = segment(bytes, at)?;
        at = next;
        match code {
            0xc0..=0xcf if !matches!(code, 0xc4 | 0xc8 | 0xcc) => frame(code, body, &mut found)?,
            0xe1 if body.starts_with(b"Exif\0\0") && found.orientation.is_none() => {
                found.orientation = exif::orientation(body);
            }
            0xe2 if body.starts_with(b"ICC_PROFILE\0") && body.len() > 14 => {
                profile.push((body[12], body[13], &body[14..]))
            }
            0xee if body.starts_with(b"Adobe") && body.len() >= 12 => found.adobe = Some(body[11]),
            0xda => {
                scans += 1;
                if found.width == 0 || scans > limits::MAX_JPEG_SCANS {
                    return Err(bad(format!(
                        "damaged JPEG: scan {scans} at byte {at}, {} are allowed",
                        limits::MAX_JPEG_SCANS
                    )));
                }
                at = entropy_end(bytes, at)?;
            }
            _ => {}
        }
    }
    if scans == 0 {
        return Err(bad("the JPEG holds no picture data"));
    }
    found.end = at;
    if at < bytes.len() {
        found.notes.push(format!("{} bytes after the end of the JPEG are ignored", bytes.len() - at));
    }
    found.icc = assemble(profile, &mut found.notes);
    Ok(found)
}

/// Reads a start-of-frame segment.
fn frame(code: u8, body: &[u8], found: &mut Markers) -> Result<()> {
    match code {
        0xc0..=0xc2 => found.progressive = code == 0xc2,
        0xc3 | 0xc7 | 0xcb | 0xcf => return Err(unsupported("lossless")),
        0xc9..=0xce => return Err(unsupported("arithmetic-coded")),
        _ => return Err(unsupported("hierarchical")),
    }
    let [precision, h1, h0, w1, w0, components, ..] = *body else {
        return Err(bad("damaged JPEG: its frame header is too short"));
    };
    if found.width != 0 {
        return Err(bad("damaged JPEG: two frame headers"));
    }
    if precision != 8 {
        return Err(unsupported(&format!("of {precision} bits a sample")));
    }
    found.width = u64::from(u16::from_be_bytes([w1, w0]));
    found.height = u64::from(u16::from_be_bytes([h1, h0]));
    found.components = components;
    if !matches!(components, 1 | 3 | 4) {
        return Err(unsupported(&format!("of {components} components")));
    }
    check_extent(found.width, found.height)
}

/// The profile from its numbered parts; `None`, with a note, when it is damaged or too large.
fn assemble(mut parts: Vec<(u8, u8, &[u8])>, notes: &mut Vec<String>) -> Option<Vec<u8>> {
    if parts.is_empty() {
        return None;
    }
    parts.sort_by_key(|p| p.0);
    let whole = parts.iter().enumerate().all(|(i, p)| usize::from(p.0) == i + 1 && usize::from(p.1) == parts.len());
    let size: usize = parts.iter().map(|p| p.2.len()).sum();
    if !whole {
        notes.push("the colour profile is damaged and not carried".into());
        return None;
    }
    if size > limits::MAX_ICC_BYTES {
        notes.push(format!("the colour profile of {size} bytes is not carried: too large"));
        return None;
    }
    Some(parts.iter().flat_map(|p| p.2).copied().collect())
}

/// Opens a JPEG. `notes` is what is known already.
pub(super) fn open(input: Input, notes: Vec<String>) -> Result<(Box<dyn Stored>, Orientation)> {
    let most = if input.len().is_some() { limits::MAX_DECODE_BYTES } else { limits::MAX_PIPE_BYTES };
    check_decode("a JPEG", input.len().unwrap_or_default())?;
    let bytes = input.into_bytes(most)?;
    let len = bytes.len() as u64;
    let mut markers = walk(&bytes)?;
    let pixels = extent::product("JPEG", &[markers.width, markers.height])?;
    if pixels / MOST_PIXELS_PER_BYTE > len {
        let text = format!("{} x {} pixels cannot be in {len} bytes", markers.width, markers.height);
        return Err(bad(format!("the JPEG is truncated: {text}")));
    }
    let per_pixel = u64::from(markers.components) * per_sample(&markers);
    check_decode("a JPEG", extent::product("JPEG", &[pixels, per_pixel])?)?;

    let colour = if markers.components == 1 { Colour::Gray } else { Colour::Rgb };
    let mut header = Header {
        width: markers.width,
        height: markers.height,
        colour,
        depth: Depth::Eight,
        icc: markers.icc.take().map(Arc::from),
        format: Format::Jpeg,
        notes,
    };
    header.notes.append(&mut markers.notes);
    if markers.components == 4 {
        header.notes.push("converted from CMYK without its profile".into());
        // A profile for inks says nothing about the RGB that is left.
        header.icc = None;
    }
    let orientation = markers.orientation.unwrap_or(Orientation::UPRIGHT);
    Ok((Box::new(Pending::new(header, Box::new(Undecoded { markers, bytes }))), orientation))
}

/// Bytes held for each sample while decoding: itself, and the 16-bit coefficients of all of a
/// progressive picture.
fn per_sample(markers: &Markers) -> u64 {
    if markers.progressive { 3 } else { 1 }
}

/// A JPEG whose pixels are still to be decoded.
struct Undecoded {
    markers: Markers,
    bytes: Vec<u8>,
}

impl Decode for Undecoded {
    fn decode(self: Box<Self>) -> Result<Vec<u8>> {
        let whole = &self.bytes[..self.markers.end];
        // Side by side: the walk takes about a third of the decoding time.
        let (complete, samples) = rayon::join(|| jpeg_entropy::check(whole), || pixels(whole, &self.markers));
        complete?;
        samples
    }

    fn resident_bytes(&self) -> u64 {
        let pixels = self.markers.width * self.markers.height;
        pixels * u64::from(self.markers.components) * per_sample(&self.markers) + self.bytes.len() as u64
    }
}

/// Decodes all pixels, as grey or RGB.
fn pixels(bytes: &[u8], markers: &Markers) -> Result<Vec<u8>> {
    // Adobe's marker: 2 says YCbCr with black, anything else plain inks. Without it, inks.
    let out = match (markers.components, markers.adobe) {
        (1, _) => ColorSpace::Luma,
        (4, Some(2)) => ColorSpace::YCCK,
        (4, _) => ColorSpace::CMYK,
        _ => ColorSpace::RGB,
    };
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(limits::MAX_JPEG_SIDE as usize)
        .set_max_height(limits::MAX_JPEG_SIDE as usize)
        .jpeg_set_max_scans(limits::MAX_JPEG_SCANS)
        .jpeg_set_out_colorspace(out);
    let mut decoder = zune_jpeg::JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    let damaged = |e: zune_jpeg::errors::DecodeErrors| bad(format!("damaged JPEG: {}", short(&e.to_string())));
    decoder.decode_headers().map_err(damaged)?;
    let expected = extent::product("JPEG", &[markers.width, markers.height, u64::from(markers.components)])?;
    let size = extent::to_usize("JPEG", expected)?;
    if decoder.output_buffer_size() != Some(size) {
        let text = format!("it decodes to {:?} bytes where its header says {size}", decoder.output_buffer_size());
        return Err(bad(format!("damaged JPEG: {text}")));
    }
    let mut samples = zeroed::<u8>("a JPEG", size)?;
    decoder.decode_into(&mut samples).map_err(damaged)?;
    if markers.components == 4 {
        to_rgb(&mut samples, markers.adobe);
    }
    Ok(samples)
}

/// Decoders print whole tables into some messages; the first line tells enough.
fn short(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(200).collect()
}

/// Turns four inks into RGB in place: each of red, green, blue is (255 - ink) * (255 - black) / 255,
/// rounded. Adobe stores its inks inverted, and as YCbCr when its transform is 2.
fn to_rgb(samples: &mut Vec<u8>, adobe: Option<u8>) {
    let pixels = samples.len() / 4;
    for i in 0..pixels {
        let [a, b, c, k] = [samples[4 * i], samples[4 * i + 1], samples[4 * i + 2], samples[4 * i + 3]];
        let light = match adobe {
            Some(2) => ycc(a, b, c).map(|v| 255 - v),
            Some(_) => [a, b, c],
            None => [255 - a, 255 - b, 255 - c],
        };
        let black = if adobe.is_some() { k } else { 255 - k };
        for (j, v) in light.into_iter().enumerate() {
            samples[3 * i + j] = ((u32::from(v) * u32::from(black) + 127) / 255) as u8;
        }
    }
    samples.truncate(pixels * 3);
}

/// JFIF's YCbCr to RGB.
fn ycc(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    let (y, cb, cr) = (f32::from(y), f32::from(cb) - 128.0, f32::from(cr) - 128.0);
    let rgb = [y + 1.402 * cr, y - 0.344_136 * cb - 0.714_136 * cr, y + 1.772 * cb];
    // `as` clamps to 0..=255.
    rgb.map(|v| (v + 0.5) as u8)
}
