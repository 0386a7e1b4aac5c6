//! A folder of pictures: each one a job, on one engine that stays warm; what cannot be done is reported and the
//! rest goes on.

use super::engine::Engine;
use super::manifest::{MANIFEST, Manifest, job_hash};
use super::options::{Cancel, Observer, Report, Resume, UpscaleOptions};
use super::upscale::{check_options, upscale_with};
use crate::error::{Error, Kind, Result};
use crate::fs;
use crate::image::{self, Format};
use crate::tile::spool;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// A job over a folder.
#[derive(Debug, Clone, PartialEq)]
pub struct FolderOptions {
    /// What is done to each picture; `input` and `output` are folders.
    pub each: UpscaleOptions,
    /// Also the folders in it, and those in them.
    pub recursive: bool,
}

/// How one picture of a folder ended.
#[derive(Debug)]
pub enum Outcome {
    /// It is in its place, or would be in a dry run.
    Done(Box<Report>),
    /// It was there already.
    Skipped,
    /// It was not made.
    Failed(Error),
}

/// One file of a folder.
#[derive(Debug)]
pub struct Picture {
    /// The file.
    pub input: PathBuf,
    /// Where its picture goes; `None` where it is no picture.
    pub output: Option<PathBuf>,
    /// How it ended.
    pub outcome: Outcome,
}

/// Upscales every picture of a folder, by name; `ended` hears of each file as it ends. Files that are no pictures
/// are failures of their own. An error only where going on makes no sense: the options, the model or the device are
/// at fault, the folder of outputs is gone, or the job was cancelled.
pub fn folder(
    options: &FolderOptions,
    observer: &mut dyn Observer,
    cancel: &Cancel,
    ended: &mut dyn FnMut(&Picture),
) -> Result<Vec<Picture>> {
    check_options(&options.each)?;
    let from = &options.each.input;
    let Some(to) = &options.each.output else {
        let why = format!("{} is a folder, and no folder for the outputs is named", from.display());
        return Err(Error::new(Kind::Usage, "run", why).advise("name one with -o"));
    };
    if to.exists() && !to.is_dir() {
        let why = format!("{} is a folder, the output {} is not", from.display(), to.display());
        return Err(Error::new(Kind::Usage, "run", why).advise("name a folder"));
    }
    if fs::same_file(from, to) {
        let why = format!("{} cannot be the folder of inputs and of outputs", to.display());
        return Err(Error::new(Kind::Usage, "run", why).advise("name another folder with -o"));
    }
    let found = find(from, to, options.recursive)?;
    let mut manifest = None;
    if !options.each.dry_run {
        fs::make_folder(to)?;
        manifest = Some(Manifest::open(to)?);
    }
    let mut all = Vec::new();
    let mut good = Vec::new();
    for file in found {
        match image::probe(&file) {
            Ok(_) => good.push(file),
            Err(e) => {
                if let Some(m) = &mut manifest {
                    m.failed(&name(&file, from), None, "", &e)?;
                }
                let picture = Picture { input: file, output: None, outcome: Outcome::Failed(e) };
                ended(&picture);
                all.push(picture);
            }
        }
    }
    if good.is_empty() {
        return Ok(all);
    }
    let outputs = outputs(&good, from, to, options.each.format);
    let mut engine = Engine::open(&options.each.device, options.each.threads)?;
    let count = good.len();
    for (i, (input, output)) in good.into_iter().zip(outputs).enumerate() {
        cancel.check()?;
        observer.note(&format!("{} of {count}: {}", i + 1, input.display()));
        let each = UpscaleOptions { input: input.clone(), output: Some(output.clone()), ..options.each.clone() };
        let outcome =
            one(&mut engine, each, [&name(&input, from), &name(&output, to)], &mut manifest, observer, cancel)?;
        let picture = Picture { input, output: Some(output), outcome };
        ended(&picture);
        all.push(picture);
    }
    Ok(all)
}

/// One picture. An error ends the whole job.
fn one(
    engine: &mut Engine,
    mut options: UpscaleOptions,
    [input, output]: [&str; 2],
    manifest: &mut Option<Manifest>,
    observer: &mut dyn Observer,
    cancel: &Cancel,
) -> Result<Outcome> {
    let job = job_hash(&options, &options.input);
    let path = options.output.clone().unwrap_or_default();
    let there = std::fs::symlink_metadata(&path).is_ok();
    if let Some(manifest) = manifest {
        let done = options.resume == Resume::Always && manifest.is_done(output, &job);
        if there && (done || options.skip_existing) {
            if manifest.is_anothers(output, &job) {
                observer.note(&format!("{} was made with other options and stays", path.display()));
            }
            manifest.skipped(input, output, &job)?;
            return Ok(Outcome::Skipped);
        }
        // Where an earlier run was killed in the middle of this one, its line stands already.
        if !there {
            fs::make_folder(fs::parent(&path))?;
            manifest.started(input, output, &job, true)?;
        } else if options.overwrite {
            manifest.started(input, output, &job, false)?;
        }
    } else if !fs::parent(&path).is_dir() {
        // A dry run makes no folders, so its own check of the output would fail: it goes nowhere instead.
        options.output = Some(PathBuf::from("-"));
        options.format = options.format.or(Format::from_name(&extension(&path))).or(Some(Format::Png));
    }
    match upscale_with(engine, &options, observer, cancel) {
        Ok(report) => {
            if let Some(manifest) = manifest {
                manifest.done(input, output, &job, options.seed, &report)?;
            }
            Ok(Outcome::Done(Box::new(report)))
        }
        // These would befall every other picture too.
        Err(e)
            if matches!(e.kind(), Kind::Cancelled | Kind::Usage | Kind::Weights | Kind::Device | Kind::DeviceLost) =>
        {
            Err(e)
        }
        Err(e) => {
            if let Some(manifest) = manifest {
                manifest.failed(input, Some(output), &job, &e)?;
            }
            Ok(Outcome::Failed(e))
        }
    }
}

/// The files of a folder, by name; hidden ones, spools and what lies in the folder of outputs left out.
fn find(folder: &Path, outputs: &Path, recursive: bool) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        let mut inner = Vec::new();
        for entry in fs::entries(&at)? {
            let name = entry.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            if name.starts_with('.') || name == MANIFEST || name.ends_with(spool::ENDING) {
                continue;
            }
            if entry.is_file {
                found.push(entry.path);
            } else if entry.is_folder && recursive && !fs::same_file(&entry.path, outputs) {
                inner.push(entry.path);
            }
        }
        folders.extend(inner);
    }
    found.sort();
    Ok(found)
}

fn extension(path: &Path) -> String {
    path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default()
}

/// A path relative to its folder, as the manifest has it.
fn name(path: &Path, folder: &Path) -> String {
    path.strip_prefix(folder).unwrap_or(path).to_string_lossy().into_owned()
}

/// The outputs of `files`, in order: `{stem}.{ext}` at the same place below `to`. Where two would be the same file,
/// both keep their whole names: `a.jpg` and `a.png` become `a.jpg.png` and `a.png.png`; and what is still the same
/// then is numbered. Upper and lower case are not told apart, as some file systems do not.
fn outputs(files: &[PathBuf], from: &Path, to: &Path, format: Option<Format>) -> Vec<PathBuf> {
    let place = |file: &PathBuf, whole: bool| {
        let known = Format::from_name(&extension(file));
        let ending = match (format, known) {
            (Some(format), known) if known != Some(format) => format.extension().to_owned(),
            (_, Some(_)) => extension(file),
            (_, None) => "png".to_owned(),
        };
        let stem = if whole { file.file_name() } else { file.file_stem() };
        let mut name = stem.unwrap_or_default().to_os_string();
        name.push(format!(".{ending}"));
        to.join(file.strip_prefix(from).unwrap_or(file)).with_file_name(name)
    };
    let lower = |path: &Path| path.to_string_lossy().to_lowercase();
    let count = |paths: &[PathBuf]| {
        let mut counts: HashMap<String, usize> = HashMap::new();
        paths.iter().for_each(|p| *counts.entry(lower(p)).or_default() += 1);
        counts
    };
    let plain: Vec<PathBuf> = files.iter().map(|f| place(f, false)).collect();
    let counts = count(&plain);
    let named: Vec<PathBuf> = files
        .iter()
        .zip(plain)
        .map(|(f, p)| if counts.get(&lower(&p)).is_some_and(|&n| n > 1) { place(f, true) } else { p })
        .collect();
    let mut taken: HashMap<String, usize> = HashMap::new();
    let mut made = Vec::new();
    for path in named {
        let mut own = path.clone();
        let mut n = 1;
        while taken.contains_key(&lower(&own)) {
            n += 1;
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            own = path.with_file_name(format!("{stem}-{n}.{}", extension(&path)));
        }
        taken.insert(lower(&own), n);
        made.push(own);
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_named_predictably() {
        let of = |names: &[&str], format| -> Vec<String> {
            let files: Vec<PathBuf> = names.iter().map(|n| Path::new("in").join(n)).collect();
            let made = outputs(&files, Path::new("in"), Path::new("out"), format);
            made.iter().map(|p| p.to_string_lossy().replace('\\', "/")).collect()
        };
        let png = Some(Format::Png);
        assert_eq!(
            of(&["a.JPG", "b.png", "c.bin", "s/a.tif"], None),
            ["out/a.jpg", "out/b.png", "out/c.png", "out/s/a.tif"]
        );
        assert_eq!(of(&["a.jpg", "a.png", "b.jpg"], png), ["out/a.jpg.png", "out/a.png.png", "out/b.png"]);
        assert_eq!(of(&["A.jpg", "a.tif", "a/x.jpg"], png), ["out/A.jpg.png", "out/a.tif.png", "out/a/x.png"]);
        assert_eq!(of(&["a.jpg", "a.jpg.tif", "a.png"], png), ["out/a.jpg.png", "out/a.jpg-2.png", "out/a.png.png"]);
        // The order of the folder decides, nothing else: a picture more changes no other's name unless it has it.
        assert_eq!(of(&["b.jpg"], png), ["out/b.png"]);
    }
}
