//! WebP and AVIF out: their encoders want the whole picture, of 8 bits a sample, at once.

use super::rows::{Packer, RowCount, write_error};
use super::target::Target;
use super::{Depth, Format, Header, RowSink, raster, zeroed};
use crate::error::{Error, Kind, Result};
use crate::{extent, limits};

/// Bytes that writing `header` as `format` takes at its peak: the samples, and what the encoder makes of them.
pub(super) fn resident_bytes(format: Format, header: &Header) -> Result<u64> {
    let samples = raster::bytes(header.width, header.height, header.colour, Depth::Eight)?;
    let pixels = extent::product("picture", &[header.width, header.height])?;
    Ok(match format {
        // Four bytes a pixel of the encoder's own, and the coded frame, whose buffer doubles as it grows.
        Format::WebP => samples.saturating_mul(3).saturating_add(4 * pixels),
        Format::Avif => samples.saturating_add(pixels.saturating_mul(limits::AVIF_PIXEL_BYTES)),
        _ => 0,
    })
}

pub(super) struct WholeSink {
    file: Target,
    format: Format,
    header: Header,
    rows: RowCount,
    samples: Vec<u8>,
    filled: usize,
}

impl WholeSink {
    pub(super) fn create(file: Target, format: Format, header: &Header) -> Result<WholeSink> {
        let bytes = raster::bytes(header.width, header.height, header.colour, Depth::Eight)?;
        let samples = zeroed("a picture to be encoded", extent::to_usize("picture", bytes)?)?;
        Ok(WholeSink { file, format, header: header.clone(), rows: RowCount::new(header), samples, filled: 0 })
    }
}

impl RowSink for WholeSink {
    fn write_row(&mut self, row: &[f32]) -> Result<()> {
        self.rows.next(row.len())?;
        let packer = Packer { depth: Depth::Eight, big_endian: false };
        packer.pack(row, &mut self.samples[self.filled..][..row.len()]);
        self.filled += row.len();
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.rows.complete()?;
        let samples = std::mem::take(&mut self.samples);
        match self.format {
            Format::Avif => super::avif_write::encode(&mut self.file, &self.header, samples)?,
            _ => webp(&mut self.file, &self.header, &samples)?,
        }
        self.file.commit()
    }
}

fn webp(file: &mut Target, header: &Header, samples: &[u8]) -> Result<()> {
    use image_webp::{ColorType, EncodingError, WebPEncoder};
    let colour = match (header.colour.is_gray(), header.colour.has_alpha()) {
        (true, false) => ColorType::L8,
        (true, true) => ColorType::La8,
        (false, false) => ColorType::Rgb8,
        (false, true) => ColorType::Rgba8,
    };
    let mut encoder = WebPEncoder::new(&mut *file);
    if let Some(icc) = &header.icc {
        encoder.set_icc_profile(icc.to_vec());
    }
    let (width, height) = (extent::to_u32("width", header.width)?, extent::to_u32("height", header.height)?);
    encoder.encode(samples, width, height, colour).map_err(|e| match e {
        EncodingError::IoError(e) => write_error(file, &e),
        other => Error::new(Kind::Internal, "image", format!("the WebP encoder refused: {other}")),
    })
}
