//! The picture sheet: for each picture and scale a row of details, one for each method, the original last.

use super::{EvalOptions, Evaluation, place, table};
use crate::error::Result;
use crate::image::Depth;
use crate::metrics::Picture;
use std::path::Path;

/// Side of a detail, pixels.
const SIDE: usize = 192;
/// Pixels between details.
const GAP: usize = 4;
/// Rows at most: what fits on one sheet.
const ROWS: usize = 24;

/// The file's name in the output folder.
pub(super) const NAME: &str = "sheet.png";

/// Writes the sheet: columns are the methods in order, then the original where there is one.
pub(super) fn write(options: &EvalOptions, evaluation: &Evaluation) -> Result<()> {
    let mut names: Vec<&str> = Vec::new();
    evaluation.measured.iter().for_each(|m| {
        if !names.contains(&m.picture.as_str()) {
            names.push(&m.picture);
        }
    });
    let scales = table::rows(evaluation).into_iter().map(|r| r.0);
    let scales = scales.fold(Vec::<f64>::new(), |mut all, s| {
        if all.last() != Some(&s) {
            all.push(s);
        }
        all
    });
    let mut rows = Vec::new();
    for name in &names {
        for &scale in &scales {
            let of = |method: &str| options.output.join(place(method, scale)).join(format!("{name}.png"));
            let mut paths: Vec<_> = options.methods.iter().map(|m| of(&m.name)).collect();
            if !options.inputs_only {
                paths.push(of("reference"));
            }
            rows.push(paths);
        }
    }
    rows.truncate(ROWS);
    let columns = options.methods.len() + usize::from(!options.inputs_only);
    let (width, height) = (columns * (SIDE + GAP) - GAP, rows.len() * (SIDE + GAP) - GAP);
    let mut sheet = Picture { width, height, channels: 3, values: vec![1.0; width * height * 3] };
    for (y, paths) in rows.iter().enumerate() {
        for (x, path) in paths.iter().enumerate().filter(|(_, p)| p.exists()) {
            put(&mut sheet, path, x * (SIDE + GAP), y * (SIDE + GAP))?;
        }
    }
    sheet.write(&options.output.join(NAME), Depth::Eight, false)
}

/// The middle of the picture at `path`, or all of it where it is smaller.
fn put(sheet: &mut Picture, path: &Path, x0: usize, y0: usize) -> Result<()> {
    let picture = Picture::read(path)?.into_rgb();
    let (w, h) = (picture.width.min(SIDE), picture.height.min(SIDE));
    let detail = picture.window((picture.width - w) / 2, (picture.height - h) / 2, w, h);
    for (y, row) in detail.values.chunks_exact(w * 3).enumerate() {
        sheet.values[((y0 + y) * sheet.width + x0) * 3..][..w * 3].copy_from_slice(row);
    }
    Ok(())
}
