//! The main job end to end.

use std::path::{Path, PathBuf};
use tessera::Kind;
use tessera::image::{self, Colour, Depth, Format, Header};
use tessera::run::{Cancel, Engine, Observer, Progress, Report, Silent, Size, UpscaleOptions, upscale_with};

/// Writes a picture whose samples are smooth with an edge and some texture.
pub(crate) fn picture(path: &Path, width: u64, height: u64, colour: Colour, depth: Depth) {
    let header = Header { width, height, colour, depth, icc: None, format: Format::Png, notes: Vec::new() };
    let mut sink = image::create(path, &header, true).expect("sink");
    let mut row = vec![0.0f32; header.row_len()];
    for y in 0..height {
        for (i, v) in row.iter_mut().enumerate() {
            let (x, c) = ((i / colour.channels()) as f32, (i % colour.channels()) as f32);
            let y = y as f32;
            let edge = if (x - 20.0).hypot(y - 15.0) < 11.0 { 0.4 } else { 0.0 };
            *v = (0.2 + 0.3 * x / width as f32 + 0.1 * (y * (0.4 + 0.1 * c)).sin().abs() + edge).clamp(0.0, 1.0);
        }
        sink.write_row(&row).expect("row");
    }
    sink.finish().expect("finished");
}

pub(crate) fn read(path: &Path) -> (Header, Vec<f32>) {
    let mut source = image::open(path).expect("opens");
    let header = source.header().clone();
    let mut all = vec![0.0f32; header.row_len() * header.height as usize];
    all.chunks_exact_mut(header.row_len()).for_each(|row| source.read_row(row).expect("row"));
    (header, all)
}

#[test]
fn _placeholder() {}
