//! Quality tables: pictures are reduced by exactly the scale, enlarged again by each method, and measured against
//! themselves. Every picture made is kept, in folders that other programs' measures can read.

mod inception;
mod method;
mod page;
mod protocol;
mod sheet;
mod stages;
mod table;

use super::engine::Engine;
use super::options::{Cancel, Observer, Progress, Report, Resume, Silent, Size, UpscaleOptions};
use super::upscale::{check_options, upscale_with};
use crate::error::{Error, Kind, Result};
use crate::metrics::{self, FeatureMap, Picture, Scores};
use crate::{fs, image, limits};
use method::Models;
use stages::Making;
use std::path::{Path, PathBuf};
use std::time::Instant;

pub use inception::inception;
pub use method::{How, Method};
pub use protocol::{PROTOCOLS, Protocol, protocol};
pub use table::{json_lines, markdown};

/// What is measured.
#[derive(Debug, Clone, PartialEq)]
pub struct EvalOptions {
    /// A folder of pictures: the originals, or with `inputs_only` small pictures that have none.
    pub pictures: PathBuf,
    /// The pictures are inputs as they are; measures against an original are left out.
    pub inputs_only: bool,
    /// A folder for everything that is made; it must not exist, or be empty.
    pub output: PathBuf,
    /// Factors.
    pub scales: Vec<f64>,
    /// Rows.
    pub methods: Vec<Method>,
    /// Only so many pictures, the last ones by name as published splits take them; `None`: all.
    pub last: Option<usize>,
    /// Only so many, the first ones.
    pub first: Option<usize>,
    /// The middle of each original of at most so many pixels a side, for a quick look; `None`: all of it.
    pub crop: Option<u32>,
    /// Also enlarges the input of the largest scale to all scales, and compares the results with each other.
    pub self_ssim: bool,
    /// A safetensors file of Inception v3 (see [`inception()`]): Frechet distances are SIFID, in its features; `None`: they are in
    /// the fixed map.
    pub inception: Option<PathBuf>,
}

/// What was measured of one result.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// The method's name.
    pub method: String,
    /// Factor.
    pub scale: f64,
    /// The picture's name without its ending.
    pub picture: String,
    /// The result, below the output folder.
    pub path: PathBuf,
    /// Against the original, where there is one.
    pub scores: Option<Scores>,
    /// Frechet distance to the original's features (see [`FeatureMap::frechet`]); where there is none, to those of the input as
    /// it is. `None` where a picture is too small for it.
    pub frechet: Option<f64>,
    /// See [`metrics::self_similarity_error`].
    pub similarity: Option<f64>,
    /// Root mean square difference from the row it is an ablation of, in 255ths.
    pub apart: Option<f64>,
    /// Seconds of the job, reading and writing included.
    pub seconds: f64,
    /// Pixels of the result.
    pub pixels: u64,
    /// Most device bytes allocated at once.
    pub device_peak: u64,
    /// Parameters of the networks that ran, each once.
    pub parameters: u64,
    /// The smallest and the largest factor of a model's training, where this scale, or a stage of it, lies outside of them.
    pub outside: Option<[f64; 2]>,
    /// The Frechet distance after each stage of a cascade, against the original reduced to the stage's size; where there is none,
    /// against the input as it is. `None` for a stage that is too small for it.
    pub drift: Vec<Option<f64>>,
}

/// All results, and SelfSSIM: for each method the mean over pictures, row = from, column = to.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Evaluation {
    /// One entry for each method, scale and picture.
    pub measured: Vec<Measured>,
    /// Method, then scales x scales.
    pub self_ssim: Vec<(String, Vec<Vec<f64>>)>,
    /// Pictures that were left out, and why.
    pub left_out: Vec<(PathBuf, String)>,
    /// Frechet distances are SIFID, not those of the fixed map.
    pub sifid: bool,
    /// Frechet distances are to the inputs: there were no originals.
    pub inputs_only: bool,
}

/// Runs an evaluation. A picture that cannot be used is left out and named; an error of a method ends all.
pub fn eval(options: &EvalOptions, observer: &mut dyn Observer, cancel: &Cancel) -> Result<Evaluation> {
    check(options)?;
    let mut names = pictures(options)?;
    let features = match &options.inception {
        Some(path) => FeatureMap::Inception(Box::new(inception(path)?)),
        None => FeatureMap::Fixed,
    };
    let models = options.methods.iter().map(Models::of).collect::<Result<Vec<_>>>()?;
    let first = options.methods.iter().flat_map(|m| m.how.jobs()).map(|o| (o.device.clone(), o.threads)).next();
    let (device, threads) = first.unwrap_or_else(|| ("cpu".into(), None));
    let mut engine = Engine::open(&device, threads)?;
    fs::make_folder(&options.output)?;
    let sifid = options.inception.is_some();
    let mut evaluation = Evaluation { sifid, inputs_only: options.inputs_only, ..Evaluation::default() };
    let mut matrices = vec![Vec::new(); options.methods.len()];
    let (began, total) = (Instant::now(), names.len() as u64);
    for (i, path) in names.drain(..).enumerate() {
        let (models, features, name, done) = (&*models, &features, stem(&path), i as u64);
        let one = One { options, models, features, name, path: &path, began, done, total };
        match one.original() {
            Ok(original) => one.run(&original, &mut engine, &mut evaluation, &mut matrices, observer, cancel)?,
            Err(e) => {
                observer.note(&format!("{} is left out: {e}", path.display()));
                evaluation.left_out.push((path, e.to_string()));
            }
        }
    }
    if evaluation.measured.is_empty() {
        let why = format!("{} holds no picture that could be used", options.pictures.display());
        return Err(Error::new(Kind::BadInput, "eval", why));
    }
    for (method, matrices) in options.methods.iter().zip(matrices).filter(|(_, m)| !m.is_empty()) {
        evaluation.self_ssim.push((method.name.clone(), mean(&matrices)));
    }
    page::write(options, &evaluation)?;
    sheet::write(options, &evaluation)?;
    Ok(evaluation)
}

fn check(options: &EvalOptions) -> Result<()> {
    let refuse = |why: String| Err(Error::new(Kind::Usage, "eval", why));
    if options.methods.is_empty() || options.scales.is_empty() {
        return refuse("at least one method and one scale are needed".into());
    }
    for scale in &options.scales {
        if !(1.0..=limits::MAX_SCALE).contains(scale) {
            return refuse(format!("the scale {scale} is not between 1 and {}", limits::MAX_SCALE));
        }
    }
    let mut names: Vec<String> = options.methods.iter().map(|m| folder_name(&m.name)).collect();
    names.sort();
    if let Some(pair) = names.windows(2).find(|n| n[0] == n[1]) {
        return refuse(format!("two methods are called `{}`", pair[0]));
    }
    for method in &options.methods {
        method.how.jobs().into_iter().try_for_each(check_options)?;
    }
    if options.output.exists() && fs::entries(&options.output).map_or(true, |e| !e.is_empty()) {
        return Err(Error::new(Kind::Usage, "eval", format!("{} is there and not empty", options.output.display()))
            .advise("name a new folder with -o"));
    }
    Ok(())
}

/// The pictures of the split, by name.
fn pictures(options: &EvalOptions) -> Result<Vec<PathBuf>> {
    let entries = fs::entries(&options.pictures)?;
    let mut names: Vec<PathBuf> = entries.into_iter().filter(|e| e.is_file).map(|e| e.path).collect();
    names.retain(|p| image::Format::from_name(&p.extension().unwrap_or_default().to_string_lossy()).is_some());
    names.sort();
    if let Some(last) = options.last {
        names.drain(..names.len().saturating_sub(last));
    }
    names.truncate(options.first.unwrap_or(usize::MAX));
    if names.is_empty() {
        let why = format!("{} holds no pictures", options.pictures.display());
        return Err(Error::new(Kind::BadInput, "eval", why));
    }
    Ok(names)
}

fn stem(path: &Path) -> String {
    path.file_stem().map_or_else(|| "picture".into(), |s| s.to_string_lossy().into_owned())
}

/// A name as a folder: letters, digits and a few signs.
pub(super) fn folder_name(name: &str) -> String {
    let kept = name.chars().map(|c| if c.is_alphanumeric() || "._-+=".contains(c) { c } else { '_' });
    let kept: String = kept.collect();
    kept.trim_matches('_').to_owned()
}

/// Where a result is kept, relative to the output folder.
fn place(method: &str, scale: f64) -> PathBuf {
    PathBuf::from(folder_name(method)).join(format!("x{scale}"))
}

fn mean(all: &[Vec<Vec<f64>>]) -> Vec<Vec<f64>> {
    let mut sum = all[0].clone();
    for matrix in &all[1..] {
        for (row, other) in sum.iter_mut().zip(matrix) {
            row.iter_mut().zip(other).for_each(|(a, b)| *a += b);
        }
    }
    sum.iter_mut().flatten().for_each(|v| *v /= all.len() as f64);
    sum
}

/// One picture on its way through all methods and scales.
struct One<'a> {
    options: &'a EvalOptions,
    /// Of each method.
    models: &'a [Models],
    features: &'a FeatureMap,
    name: String,
    path: &'a Path,
    began: Instant,
    done: u64,
    total: u64,
}

impl One<'_> {
    fn tell(&self, observer: &mut dyn Observer, stage: &str) {
        let elapsed = self.began.elapsed().as_secs_f64();
        let left = (self.done > 0).then(|| elapsed / self.done as f64 * (self.total - self.done) as f64);
        observer.progress(&Progress { stage, done: self.done, total: self.total, elapsed, left });
    }

    /// The original, cut to the middle where that was asked for.
    fn original(&self) -> Result<Picture> {
        let picture = Picture::read(self.path)?.into_rgb();
        let Some(side) = self.options.crop else { return Ok(picture) };
        let (w, h) = (picture.width.min(side as usize), picture.height.min(side as usize));
        Ok(picture.window((picture.width - w) / 2, (picture.height - h) / 2, w, h))
    }

    fn run(
        &self,
        original: &Picture,
        engine: &mut Engine,
        to: &mut Evaluation,
        matrices: &mut [Vec<Vec<Vec<f64>>>],
        observer: &mut dyn Observer,
        cancel: &Cancel,
    ) -> Result<()> {
        let options = self.options;
        for &scale in &options.scales {
            let Some((input, reference)) = self.pair(original, scale, to)? else { continue };
            for (method, models) in options.methods.iter().zip(self.models) {
                cancel.check()?;
                self.tell(observer, &format!("{} x{scale} {}", self.name, method.name));
                let folder = options.output.join(place(&method.name, scale));
                let mut making = Making { folder: &folder, name: &self.name, engine: &mut *engine, cancel };
                let made = making.enlarge(&method.how, &input, scale, models.own_stages)?;
                let mut measured = self.measure(method, scale, made, reference.as_ref(), &input)?;
                measured.outside = models.outside(scale)?;
                if let Some(whole) = method.of.and_then(|i| options.methods.get(i)) {
                    let whole = options.output.join(place(&whole.name, scale)).join(format!("{}.png", self.name));
                    let (a, b) = (Picture::read(&options.output.join(&measured.path))?, Picture::read(&whole)?);
                    // PSNR is 20 log10 of 255 over it.
                    measured.apart = Some(255.0 * 10f64.powf(-metrics::psnr(&a, &b)? / 20.0));
                }
                to.measured.push(measured);
            }
        }
        if options.self_ssim && options.scales.len() > 1 {
            let largest = options.scales.iter().copied().fold(1.0, f64::max);
            let Some((input, _)) = self.pair(original, largest, to)? else { return Ok(()) };
            for (method, matrices) in options.methods.iter().zip(matrices) {
                cancel.check()?;
                self.tell(observer, &format!("{} SelfSSIM {}", self.name, method.name));
                let mut results = Vec::new();
                for &scale in &options.scales {
                    let folder = options.output.join("self_ssim").join(place(&method.name, scale));
                    let mut making = Making { folder: &folder, name: &self.name, engine: &mut *engine, cancel };
                    let made = making.enlarge(&method.how, &input, scale, false)?;
                    results.push(Picture::read(&made.path)?.into_rgb());
                }
                let row = |a: &Picture| results.iter().map(|b| metrics::self_ssim(a, b)).collect::<Result<Vec<_>>>();
                matrices.push(results.iter().map(row).collect::<Result<Vec<_>>>()?);
            }
        }
        Ok(())
    }

    /// The input for a scale, as a file, and the original cut to the result's size.
    fn pair(&self, original: &Picture, scale: f64, to: &mut Evaluation) -> Result<Option<(PathBuf, Option<Picture>)>> {
        if self.options.inputs_only {
            return Ok(Some((self.path.to_owned(), None)));
        }
        let small = [original.width, original.height].map(|side| (side as f64 / scale).floor() as usize);
        if small.contains(&0) {
            let why = format!("{}x{} cannot be reduced by {scale}", original.width, original.height);
            to.left_out.push((self.path.to_owned(), why));
            return Ok(None);
        }
        // Sides of the result; the original loses what does not divide.
        let [w, h] = small.map(|side| (side as f64 * scale).round() as usize);
        let reference = original.window(0, 0, w, h);
        let folder = self.options.output.join("input").join(format!("x{scale}"));
        let path = folder.join(format!("{}.png", self.name));
        if !path.exists() {
            fs::make_folder(&folder)?;
            reference.resized(small[0], small[1])?.write(&path, image::Depth::Eight, false)?;
            let folder = self.options.output.join("reference").join(format!("x{scale}"));
            fs::make_folder(&folder)?;
            reference.write(&folder.join(format!("{}.png", self.name)), image::Depth::Eight, false)?;
        }
        Ok(Some((path, Some(reference))))
    }

    fn measure(
        &self,
        method: &Method,
        scale: f64,
        made: stages::Made,
        reference: Option<&Picture>,
        input: &Path,
    ) -> Result<Measured> {
        let result = Picture::read(&made.path)?.into_rgb();
        let scores = reference.map(|r| metrics::compare(&result, r)).transpose()?;
        let beside = match reference {
            Some(r) => r.clone(),
            None => Picture::read(input)?.into_rgb(),
        };
        // Pictures too small for a measure have none.
        let similarity = reference.and_then(|r| metrics::self_similarity_error(&result, r).ok());
        let least = self.features.least_side();
        let frechet = |a: &Picture, b: &Picture| {
            let sides = [a.width, a.height, b.width, b.height];
            sides.iter().all(|&side| side >= least).then(|| self.features.frechet(a, b)).transpose()
        };
        let mut drift = Vec::new();
        for stage in &made.stages {
            let stage = Picture::read(stage)?.into_rgb();
            // An input is held beside as it is: enlarged it would have another texture.
            drift.push(match reference {
                Some(r) => frechet(&stage, &r.resized(stage.width, stage.height)?)?,
                None => frechet(&stage, &beside)?,
            });
        }
        Ok(Measured {
            method: method.name.clone(),
            scale,
            picture: self.name.clone(),
            scores,
            frechet: frechet(&result, &beside)?,
            similarity,
            apart: None,
            seconds: made.seconds,
            pixels: (result.width * result.height) as u64,
            device_peak: made.device_peak,
            parameters: made.parameters,
            outside: None,
            drift,
            path: made.path.strip_prefix(&self.options.output).unwrap_or(&made.path).to_owned(),
        })
    }
}

/// The job of a method for one picture.
fn job(of: &UpscaleOptions, input: &Path, output: &Path, size: Size) -> UpscaleOptions {
    UpscaleOptions {
        input: input.to_owned(),
        output: Some(output.to_owned()),
        size,
        resume: Resume::Never,
        overwrite: false,
        skip_existing: false,
        dry_run: false,
        ..of.clone()
    }
}

/// Runs one job.
fn run_job(engine: &mut Engine, options: &UpscaleOptions, cancel: &Cancel) -> Result<Report> {
    // What hundreds of jobs have to say would bury the evaluation's own words.
    upscale_with(engine, options, &mut Silent, cancel)
}
