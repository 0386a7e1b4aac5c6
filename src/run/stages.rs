//! The pictures between the stages of a cascade, written beside the output.

use super::interpreter::Interpreter;
use crate::error::Result;
use crate::image::{self, Colour, Depth, Header, WriteOptions};
use crate::system::laid::STAGE;
use crate::system::program::CanvasId;
use std::path::{Path, PathBuf};

/// `{stem}_stage{number}.png` beside `output`.
pub(super) fn path_of(output: &Path, number: &str) -> PathBuf {
    let stem = output.file_stem().map_or_else(|| "picture".into(), |s| s.to_string_lossy().into_owned());
    output.with_file_name(format!("{stem}_stage{number}.png"))
}

/// Writes every canvas that a stage filled; returns where.
pub(super) fn write(
    interpreter: &Interpreter<'_>,
    output: &Path,
    header: &Header,
    overwrite: bool,
) -> Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    for (i, canvas) in interpreter.program().canvases.iter().enumerate() {
        let Some(number) = canvas.name.strip_prefix(STAGE) else { continue };
        let id = CanvasId(i);
        let [h, w] = interpreter.program().extent(id);
        // Between stages nothing is rounded to 8 bits.
        let depth = Depth::Sixteen;
        // The profile of a grey picture means nothing for the RGB that networks make of it.
        let icc = if header.colour.is_gray() { None } else { header.icc.clone() };
        let header = Header {
            width: w.into(),
            height: h.into(),
            colour: Colour::Rgb,
            icc,
            depth,
            notes: Vec::new(),
            ..header.clone()
        };
        let path = path_of(output, number);
        let mut sink = image::create_with(&path, &header, &WriteOptions::new(overwrite))?;
        for row in interpreter.canvas(id)?.chunks_exact(3 * w as usize) {
            sink.write_row(row)?;
        }
        sink.finish()?;
        written.push(path);
    }
    Ok(written)
}
