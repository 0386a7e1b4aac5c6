//! Several samples of one picture, with their mean and deviation per pixel: what a sampler is sure of and what not.

use super::engine::Engine;
use super::naming::default_output;
use super::options::{Cancel, Observer, Report, UpscaleOptions};
use super::upscale::{check_options, upscale_with};
use crate::error::{Error, Kind, Result};
use crate::image::{self, Header, RowSource, is_pipe};
use crate::limits;
use std::path::{Path, PathBuf};

/// What [`samples`] made.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Samples {
    /// One for each sample.
    pub reports: Vec<Report>,
    /// The mean, and the deviation (of the samples themselves, not of their mean).
    pub pictures: Vec<PathBuf>,
}

/// Upscales one picture `count` times, with the seeds from `options.seed` on: `{stem}_sample{seed}`, then `{stem}_mean`
/// and `{stem}_deviation` of the finished files.
pub fn samples(options: &UpscaleOptions, count: u32, observer: &mut dyn Observer, cancel: &Cancel) -> Result<Samples> {
    let most = limits::MAX_SAMPLES;
    let usage = |why: String| Error::new(Kind::Usage, "run", why);
    if count == 0 || count > most {
        return Err(usage(format!("{count} samples; there are 1 to {most}")));
    }
    if is_pipe(&options.input) || options.output.as_deref().is_some_and(is_pipe) {
        return Err(usage("several samples are several files".into()).advise("name an input and an output file"));
    }
    check_options(options)?;
    let header = image::probe(&options.input)?;
    let target = options.size.resolve(header.width, header.height)?;
    let base = match &options.output {
        Some(path) => path.clone(),
        None => default_output(&options.input, options.format, options.size, &target),
    };
    let outputs: Vec<PathBuf> =
        (0..count).map(|i| beside(&base, &format!("sample{}", options.seed.wrapping_add(i.into())))).collect();
    let pictures = vec![beside(&base, "mean"), beside(&base, "deviation")];
    let taken = |path: &&PathBuf| std::fs::symlink_metadata(path).is_ok();
    if let Some(path) = pictures.iter().find(taken).filter(|_| !options.overwrite) {
        return Err(crate::fs::exists(path));
    }
    let mut engine = Engine::open(&options.device, options.threads)?;
    let mut reports = Vec::new();
    for (i, output) in outputs.iter().enumerate() {
        let seed = options.seed.wrapping_add(i as u64);
        let one = UpscaleOptions { seed, output: Some(output.clone()), ..options.clone() };
        reports.push(upscale_with(&mut engine, &one, observer, cancel)?);
    }
    if options.dry_run {
        return Ok(Samples { reports, pictures: Vec::new() });
    }
    if !spread(&outputs, &pictures, options)? && count > 1 {
        observer.note("all samples are the same picture: nothing in this model's run is random");
    }
    Ok(Samples { reports, pictures })
}

fn beside(path: &Path, what: &str) -> PathBuf {
    let stem = path.file_stem().map_or_else(|| "picture".into(), |s| s.to_string_lossy().into_owned());
    let extension = path.extension().map_or_else(String::new, |e| format!(".{}", e.to_string_lossy()));
    path.with_file_name(format!("{stem}_{what}{extension}"))
}

/// Mean and deviation of the files `from`, row by row; alpha is that of the first. Whether they differ anywhere.
fn spread(from: &[PathBuf], to: &[PathBuf], options: &UpscaleOptions) -> Result<bool> {
    let mut sources = from.iter().map(|p| image::open(p)).collect::<Result<Vec<Box<dyn RowSource>>>>()?;
    let Some(header) = sources.first().map(|s| Header { notes: Vec::new(), ..s.header().clone() }) else {
        return Ok(false);
    };
    let create = |path: &PathBuf| image::create_with(path, &header, &options.writing());
    let mut sinks = to.iter().map(create).collect::<Result<Vec<_>>>()?;
    let (channels, len, count) = (header.colour.channels(), header.row_len(), from.len() as f64);
    let (mut sums, mut squares, mut row) = (vec![0.0f64; len], vec![0.0f64; len], vec![0.0f32; len]);
    let (mut first, mut differ) = (vec![0.0f32; len], false);
    for _ in 0..header.height {
        sums.fill(0.0);
        squares.fill(0.0);
        for (i, source) in sources.iter_mut().enumerate() {
            source.read_row(&mut row)?;
            if i == 0 {
                first.copy_from_slice(&row);
            }
            differ |= first != row;
            for ((s, q), v) in sums.iter_mut().zip(&mut squares).zip(&row) {
                *s += f64::from(*v);
                *q += f64::from(*v).powi(2);
            }
        }
        for (which, sink) in sinks.iter_mut().enumerate() {
            for (i, out) in row.iter_mut().enumerate() {
                let (mean, is_alpha) = (sums[i] / count, header.colour.has_alpha() && i % channels == channels - 1);
                let deviation = (squares[i] / count - mean * mean).max(0.0).sqrt();
                *out = match (is_alpha, which) {
                    (true, _) => first[i],
                    (false, 0) => mean as f32,
                    (false, _) => deviation as f32,
                };
            }
            sink.write_row(&row)?;
        }
    }
    sinks.into_iter().try_for_each(|s| s.finish())?;
    Ok(differ)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_by_what_they_hold() {
        assert_eq!(beside(Path::new("a/b_4x.png"), "mean"), Path::new("a/b_4x_mean.png"));
        assert_eq!(beside(Path::new("b"), "sample3"), Path::new("b_sample3"));
    }
}
