//! PGM, PPM and PAM out: a header of text, then plain rows; the high byte of 16-bit samples first.

use super::rows::{Packer, RowCount, write_error};
use super::target::Target;
use super::{Colour, Format, Header, RowSink};
use crate::error::Result;
use std::io::Write;

pub(super) struct PnmSink {
    file: Target,
    packer: Packer,
    rows: RowCount,
    raw: Vec<u8>,
}

impl PnmSink {
    pub(super) fn create(mut file: Target, format: Format, header: &Header) -> Result<PnmSink> {
        let (w, h, most) = (header.width, header.height, header.depth.max());
        let text = if format == Format::Pam {
            let kind = match header.colour {
                Colour::Gray => "GRAYSCALE",
                Colour::GrayAlpha => "GRAYSCALE_ALPHA",
                Colour::Rgb => "RGB",
                Colour::Rgba => "RGB_ALPHA",
            };
            let channels = header.colour.channels();
            format!("P7\nWIDTH {w}\nHEIGHT {h}\nDEPTH {channels}\nMAXVAL {most}\nTUPLTYPE {kind}\nENDHDR\n")
        } else {
            // A PGM is what a reader of PPM must take for grey.
            format!("P{}\n{w} {h}\n{most}\n", if header.colour.is_gray() { 5 } else { 6 })
        };
        file.write_all(text.as_bytes()).map_err(|e| write_error(&file, &e))?;
        let raw = super::zeroed("a row", header.row_len() * header.depth.bytes())?;
        let packer = Packer { depth: header.depth, big_endian: true };
        Ok(PnmSink { file, packer, rows: RowCount::new(header), raw })
    }
}

impl RowSink for PnmSink {
    fn write_row(&mut self, row: &[f32]) -> Result<()> {
        self.rows.next(row.len())?;
        self.packer.pack(row, &mut self.raw);
        self.file.write_all(&self.raw).map_err(|e| write_error(&self.file, &e))
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.rows.complete()?;
        self.file.commit()
    }
}
