//! What a job asks of a system, and what it may ask of every system: the one interface between those who choose how
//! work is done and the systems that say what it is.

use super::latent::LatentForm;
use super::onestep::{Conditioning, OneStep, Plane, Shaping};
use super::program::Program;
use super::superpixels::LabelRule;
use crate::error::{Error, Kind, Result};
use crate::graph::layout::Packing;
use crate::graph::{DType, Graph};
use crate::weights::{Checkpoint, Model, Part};
use std::fmt;
use std::path::Path;

/// How a scale is shared out over the stages of a cascade.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cascade {
    /// Twice as large in every stage, what remains (above 1, at most 2) in the last.
    RemainderLast,
    /// What remains first.
    RemainderFirst,
    /// The same factor in every stage.
    Uniform,
    /// One stage.
    Single,
    /// At most 4 in every stage, the largest first: up to 4 one stage, up to 16 the factor 4 and the rest, up to 48 then 4,
    /// 3 and the rest, beyond that one more 4 at a time (CASR's published x18 = 4 x 3 x 1.5).
    LargestFirst,
}

/// A part of a system that a job switches off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Off {
    /// Superpixel pictures: the enlargement takes their place.
    Superpixels,
    /// Depth, and the ControlNet that reads it.
    Depth,
    /// The refinement over all tiles.
    Sarm,
    /// The semantic tokens in the refinement.
    Semantic,
    /// The base picture's network: the enlargement takes its place.
    Liif,
    /// Sampling: the base picture is the result.
    Denoiser,
}

impl Off {
    /// Every part with its name.
    pub const ALL: [(&'static str, Off); 6] = [
        ("superpixels", Off::Superpixels),
        ("depth", Off::Depth),
        ("sarm", Off::Sarm),
        ("semantic", Off::Semantic),
        ("liif", Off::Liif),
        ("denoiser", Off::Denoiser),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Off::ALL.iter().find(|(_, off)| *off == self).map_or("", |(name, _)| name)
    }
}

/// What guidance holds a sample against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reference {
    /// Nothing: no guidance.
    Off,
    /// The job's picture.
    Original,
    /// What the stage enlarges.
    Previous,
}

/// The picture that residuals are added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Base {
    /// Made of the stage's input.
    StageInput,
    /// Made of the job's picture.
    Original,
}

/// How a cascaded sampler runs, as far as a job says so; the rest is the model's own choice.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sampler {
    /// Sampling steps of a stage.
    pub steps: Option<u32>,
    /// See [`Cascade`].
    pub cascade: Option<Cascade>,
    /// Strength of the guidance in each stage, the last one in all further ones; 0 switches it off.
    pub guidance: Option<Vec<f32>>,
    /// See [`Reference`].
    pub reference: Option<Reference>,
    /// See [`Base`].
    pub base: Option<Base>,
    /// The coordinate adapter is left out.
    pub no_adapter: bool,
    /// Parts that are left out.
    pub off: Vec<Off>,
    /// Side of a superpixel cell, pixels of a stage's input.
    pub cell: Option<u32>,
    /// See [`LabelRule`].
    pub rule: Option<LabelRule>,
    /// What semantic tokens are made of.
    pub semantic: Option<Base>,
    /// By how much the job's picture was enlarged before: a system that enlarges first and then adds detail is told of the
    /// whole factor, and does so also where the job itself enlarges no more.
    pub enlarged: Option<f64>,
}

impl Cascade {
    /// Every cascade with its name.
    pub const ALL: [(&'static str, Cascade); 5] = [
        ("remainder-last", Cascade::RemainderLast),
        ("remainder-first", Cascade::RemainderFirst),
        ("uniform", Cascade::Uniform),
        ("single", Cascade::Single),
        ("largest-first", Cascade::LargestFirst),
    ];
}

impl Reference {
    /// Every reference with its name.
    pub const ALL: [(&'static str, Reference); 3] =
        [("off", Reference::Off), ("original", Reference::Original), ("previous", Reference::Previous)];
}

impl Base {
    /// Every base with its name.
    pub const ALL: [(&'static str, Base); 2] = [("stage-input", Base::StageInput), ("original", Base::Original)];
}

impl Sampler {
    /// An error where the job asks for something that `system` does not have; `own` are the options it has, by their
    /// names on the command line.
    pub fn only(&self, system: &str, own: &[&str]) -> Result<()> {
        let asked = [
            ("steps", self.steps.is_some()),
            ("cascade", self.cascade.is_some()),
            ("guidance", self.guidance.is_some()),
            ("guidance-reference", self.reference.is_some()),
            ("base", self.base.is_some()),
            ("no-adapter", self.no_adapter),
            ("off", !self.off.is_empty()),
            ("cell", self.cell.is_some()),
            ("labels", self.rule.is_some()),
            ("semantic-reference", self.semantic.is_some()),
            ("enlarged", self.enlarged.is_some()),
        ];
        let foreign: Vec<String> = asked
            .iter()
            .filter(|(name, set)| *set && !own.contains(name))
            .map(|(name, _)| format!("--{name}"))
            .collect();
        if foreign.is_empty() {
            return Ok(());
        }
        let why = format!("the system {system} has no {}", foreign.join(", no "));
        let has: Vec<String> = own.iter().map(|name| format!("--{name}")).collect();
        let advice = if has.is_empty() { "leave it away".to_owned() } else { format!("it has {}", has.join(", ")) };
        Err(Error::new(Kind::Usage, "system", why).advise(advice))
    }

    /// An error where the job switches off a part that `system` does not have; `own` are those it has.
    pub fn only_off(&self, system: &str, own: &[Off]) -> Result<()> {
        let Some(foreign) = self.off.iter().find(|off| !own.contains(off)) else { return Ok(()) };
        let why = format!("the system {system} has no part `{}` to leave out", foreign.name());
        let has: Vec<&str> = own.iter().map(|off| off.name()).collect();
        Err(Error::new(Kind::Usage, "system", why).advise(format!("it has {}", has.join(", "))))
    }
}

/// One job as a system sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Rows and columns of the picture.
    pub source: [u32; 2],
    /// Rows and columns of the result.
    pub target: [u32; 2],
    /// What is known of the picture.
    pub conditioning: Conditioning,
    /// Seed of the noise.
    pub seed: u64,
    /// See [`Sampler`].
    pub sampler: Sampler,
    /// Whether what lies between the stages of a cascade shall be there when the program has run.
    pub keep_stages: bool,
}

/// How a program's graphs are divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As the system likes best.
    Joined,
    /// A graph for each network, each over all windows before the next, with so many windows a launch each.
    Apart([u32; 3]),
}

/// A system, opened on a model's folder: configs only.
pub trait System: fmt::Debug {
    /// Its name.
    fn name(&self) -> &'static str;

    /// The model's folder.
    fn folder(&self) -> &Path;

    /// Output pixels per pixel of the coarsest level: windows start at its multiples.
    fn stride(&self) -> u32;

    /// Window sides to try, largest first.
    fn sides(&self) -> Vec<u32>;

    /// By how much windows of this side overlap.
    fn overlap(&self, side: u32) -> u32;

    /// Whether its graphs share weights and run one after another, so that one arena serves them all.
    fn in_turn(&self) -> bool;

    /// Whether it has the form [`Form::Apart`]. A system without it lets its graphs take turns as they are.
    fn divides(&self) -> bool;

    /// The program of a job. An error where the system cannot do what the job asks.
    fn program(&self, job: &Job, shaping: &Shaping, form: Form) -> Result<Program>;

    /// The networks, whole and over a small window: what the checkpoints must hold.
    fn networks(&self) -> Result<Vec<Graph>>;

    /// The weights.
    fn checkpoints(&self) -> Result<Checkpoints>;

    /// Sentences about the model.
    fn describe(&self) -> Result<Vec<String>>;

    /// Sentences on what jobs go without because the model has no network for it, and where the network comes from.
    fn lacks(&self) -> Vec<String> {
        Vec::new()
    }

    /// What its denoiser is told of the picture, in planes of its input.
    fn planes(&self) -> &[Plane] {
        &[]
    }

    /// How a job's scale is shared out over stages; `None`: it is always one jump.
    fn cascade(&self, _sampler: &Sampler) -> Option<Cascade> {
        None
    }

    /// Smallest and largest factor, of a stage where there are any, that the checkpoint was trained for, where its index
    /// says so.
    fn trained_scales(&self, sampler: &Sampler) -> Option<[f64; 2]>;

    /// Tensors of the networks that may be read by the host instead of a graph: names as in graphs, and shapes.
    fn host_tensors(&self) -> Result<Vec<(String, Vec<u64>)>> {
        Ok(Vec::new())
    }

    /// Its form over latent canvases, where it has one.
    fn latent_form(&self) -> Option<&dyn LatentForm> {
        None
    }

    /// The one-step system, whose measured figures decide on the autoencoder's mode.
    fn as_one_step(&self) -> Option<&OneStep> {
        None
    }
}

/// Networks whose published checkpoints hold more than their graphs read: tensors of training, of other heads, and those
/// that the host reads.
const WIDER: [&str; 2] = ["depth", "sam"];

/// The checkpoint of the network `part` of a model folder, its tensors under the names and folded as its graph asks for
/// them.
pub(super) fn checkpoint(folder: &Path, part: &str) -> Result<Checkpoint> {
    match Part::ALL.into_iter().find(|p| p.folder() == part) {
        Some(part) => Model::open(folder)?.checkpoint(part),
        None => Checkpoint::open(&folder.join(part)),
    }
}

/// The weights of a model folder: a checkpoint for each of its networks, whose tensors the joined graphs call by the
/// network's name and a dot before their own.
#[derive(Debug)]
pub struct Checkpoints {
    parts: Vec<(&'static str, Checkpoint)>,
}

impl Checkpoints {
    /// Opens the networks in the folders `parts`.
    pub fn open(folder: &Path, parts: &[&'static str]) -> Result<Checkpoints> {
        Checkpoints::opened(parts, |part| checkpoint(folder, part))
    }

    /// The networks `parts`, each as `open` opens it.
    pub(super) fn opened(parts: &[&'static str], open: impl Fn(&str) -> Result<Checkpoint>) -> Result<Checkpoints> {
        let each = |&part: &&'static str| Ok((part, open(part)?));
        Ok(Checkpoints { parts: parts.iter().map(each).collect::<Result<_>>()? })
    }

    /// Checks that every tensor of `graphs` is there in the right shape; returns the names nobody wants.
    pub fn check(&self, graphs: &[Graph]) -> Result<Vec<String>> {
        let mut extra = Vec::new();
        for (part, checkpoint) in &self.parts {
            let weights = graphs.iter().flat_map(|g| &g.weights);
            let wanted = weights.filter_map(|w| {
                let (prefix, name) = w.name.split_once('.')?;
                (prefix == *part).then_some((name, w.shape.as_slice()))
            });
            let unused = checkpoint.check(wanted)?;
            if !WIDER.contains(part) {
                extra.extend(unused.into_iter().map(|name| format!("{part}.{name}")));
            }
        }
        Ok(extra)
    }

    /// Carries out one packing recipe.
    pub fn packed(&self, recipe: &[Option<String>], packing: &Packing, dtype: DType) -> Result<Vec<u8>> {
        let prefix = recipe.iter().flatten().next().and_then(|n| n.split_once('.')).map(|p| p.0);
        // Zeros that stand in for tensors that are not there are nobody's.
        let found = self.parts.iter().find(|(part, _)| prefix.is_none_or(|p| p == *part));
        let Some((_, checkpoint)) = found else {
            let prefix = prefix.unwrap_or_default();
            return Err(Error::new(Kind::Internal, "system", format!("no checkpoint holds `{prefix}`")));
        };
        let names: Vec<Option<String>> = recipe
            .iter()
            .map(|n| n.as_ref().map(|n| n.split_once('.').map_or(n.as_str(), |p| p.1).to_owned()))
            .collect();
        checkpoint.packed(&names, packing, dtype)
    }

    /// A tensor of a network, by the joined graph's name for it.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let found = name
            .split_once('.')
            .and_then(|(prefix, own)| Some((self.parts.iter().find(|(part, _)| *part == prefix)?, own)));
        match found {
            Some(((_, checkpoint), own)) => checkpoint.read_f32(own),
            None => Err(Error::new(Kind::Internal, "system", format!("no checkpoint holds `{name}`"))),
        }
    }
}
