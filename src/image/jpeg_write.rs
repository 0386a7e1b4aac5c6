//! JPEG out: the encoder wants the whole picture, which JPEG's own limit of 65,535 bounds.

use super::rows::{Packer, RowCount, write_error};
use super::target::Target;
use super::{Depth, Header, RowSink, check_decode, raster, zeroed};
use crate::error::{Error, Kind, Result};
use jpeg_encoder::{ColorType, Encoder, EncodingError, SamplingFactor};

/// Quality, of 100.
const QUALITY: u8 = 95;

pub(super) struct JpegSink {
    file: Target,
    header: Header,
    rows: RowCount,
    samples: Vec<u8>,
    filled: usize,
}

impl JpegSink {
    pub(super) fn create(file: Target, header: &Header) -> Result<JpegSink> {
        let bytes = raster::bytes(header.width, header.height, header.colour, Depth::Eight)?;
        let samples = zeroed("a JPEG to be written", check_decode("a JPEG to be written", bytes)?)?;
        Ok(JpegSink { file, header: header.clone(), rows: RowCount::new(header), samples, filled: 0 })
    }

    fn encode(&mut self) -> Result<(), EncodingError> {
        let mut encoder = Encoder::new(&mut self.file, QUALITY);
        // 4:4:4: colour detail is what the picture was enlarged for.
        encoder.set_sampling_factor(SamplingFactor::F_1_1);
        if let Some(icc) = &self.header.icc {
            encoder.add_icc_profile(icc)?;
        }
        let colour = if self.header.colour.is_gray() { ColorType::Luma } else { ColorType::Rgb };
        encoder.encode(&self.samples, self.header.width as u16, self.header.height as u16, colour)
    }
}

impl RowSink for JpegSink {
    fn write_row(&mut self, row: &[f32]) -> Result<()> {
        self.rows.next(row.len())?;
        let packer = Packer { depth: Depth::Eight, big_endian: false };
        packer.pack(row, &mut self.samples[self.filled..][..row.len()]);
        self.filled += row.len();
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.rows.complete()?;
        self.encode().map_err(|e| match e {
            EncodingError::IoError(e) => write_error(&self.file, &e),
            other => Error::new(Kind::Internal, "image", format!("the JPEG encoder refused: {other}")),
        })?;
        self.file.commit()
    }
}
