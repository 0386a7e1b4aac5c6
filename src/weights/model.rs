//! What a model's path holds: which networks, each one's config text and its tensors under diffusers' names.
//!
//! Three layouts are read: a diffusers folder (`model_index.json` and one folder per network), the folder
//! of one network or of a whole CLIP (its own `config.json`), and single files: of the ldm layout, or one
//! network in diffusers' naming. Single files have no config (or one beside them): [`Model::config`] then
//! infers it.

use super::Checkpoint;
use super::fold;
use super::infer::Shapes;
use super::json::{self, quoted};
use super::layout::{self, Found};
use crate::error::{Error, Kind, Result};
use crate::{fs, limits};
use std::path::{Path, PathBuf};

/// A network that a model may have, by its folder in the diffusers layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// The denoiser.
    Unet,
    /// The autoencoder.
    Vae,
    /// A ControlNet.
    ControlNet,
    /// The text encoder.
    TextEncoder,
    /// The vision encoder.
    ImageEncoder,
    /// The superpixel network.
    Superpixel,
    /// The depth network.
    Depth,
    /// SAM's picture encoder.
    Sam,
}

impl Part {
    /// Every part, in the order they are reported.
    pub const ALL: [Part; 8] = [
        Part::Unet,
        Part::Vae,
        Part::ControlNet,
        Part::TextEncoder,
        Part::ImageEncoder,
        Part::Superpixel,
        Part::Depth,
        Part::Sam,
    ];

    /// Folder name in the diffusers layout.
    pub fn folder(self) -> &'static str {
        match self {
            Part::Unet => "unet",
            Part::Vae => "vae",
            Part::ControlNet => "controlnet",
            Part::TextEncoder => "text_encoder",
            Part::ImageEncoder => "image_encoder",
            Part::Superpixel => "superpixel",
            Part::Depth => "depth",
            Part::Sam => "sam",
        }
    }

    /// Whether its tensors are looked through for their naming and for layers to fold, also in a folder of its own.
    pub(super) fn is_looked_at(self) -> bool {
        match self {
            Part::Superpixel | Part::Depth | Part::Sam => true,
            Part::Unet | Part::Vae | Part::ControlNet | Part::TextEncoder | Part::ImageEncoder => false,
        }
    }

    /// The part that a config's class belongs to: `_class_name` of diffusers, `architectures[0]` of
    /// transformers.
    pub fn of_class(class: &str) -> Option<Part> {
        Some(match class {
            "UNet2DConditionModel" => Part::Unet,
            "AutoencoderKL" => Part::Vae,
            "ControlNetModel" => Part::ControlNet,
            "CLIPTextModel" | "CLIPTextModelWithProjection" => Part::TextEncoder,
            "CLIPVisionModel" | "CLIPVisionModelWithProjection" => Part::ImageEncoder,
            "SpixelNet1l_bn" => Part::Superpixel,
            "DepthAnythingForDepthEstimation" => Part::Depth,
            "SamVisionModel" | "SamModel" => Part::Sam,
            _ => return None,
        })
    }

    /// The parts that a config of `class` describes: both towers where it is a whole CLIP's.
    fn all_of_class(class: &str) -> Vec<Part> {
        match class {
            "CLIPModel" => vec![Part::TextEncoder, Part::ImageEncoder],
            _ => Part::of_class(class).into_iter().collect(),
        }
    }
}

/// How the networks lie on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Layout {
    /// A folder per network.
    Folders,
    /// One folder with its own config.json: one network, or both towers of a whole CLIP.
    Single(Vec<Part>),
    /// One file (or one index of shards) with these networks, and the config that lies beside it where that
    /// describes them.
    File(Vec<Found>, Option<String>),
}

/// A model as it was published.
#[derive(Debug, Clone)]
pub struct Model {
    path: PathBuf,
    layout: Layout,
}

impl Model {
    /// Looks at what `path` holds: reads configs and the headers of single files, no weights. Pickles and
    /// single files of families that are not run are refused by name.
    pub fn open(path: &Path) -> Result<Model> {
        let holds = |part: &Part| path.join(part.folder()).join("config.json").is_file();
        let config = path.join("config.json").is_file();
        // a folder of networks is one also where its index was not copied with them
        let layout = if path.join("model_index.json").is_file() || (!config && Part::ALL.iter().any(holds)) {
            Layout::Folders
        } else if path.is_dir() {
            let config = read_text(&path.join("config.json"))?;
            Layout::Single(parts_of(&path.join("config.json"), &config)?)
        } else {
            if !path.exists() {
                let why = format!("{} does not exist", path.display());
                return Err(Error::new(Kind::Weights, "weights", why).advise("name a model's folder, or a file of it"));
            }
            let file = Checkpoint::open(path)?;
            let found = layout::detect(&path.display().to_string(), file.tensors())?;
            let config = config_beside(path, &found)?;
            Layout::File(found, config)
        };
        Ok(Model { path: path.to_owned(), layout })
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The networks that are here.
    pub fn parts(&self) -> Vec<Part> {
        let here = |part: &Part| match &self.layout {
            Layout::Folders => self.path.join(part.folder()).join("config.json").is_file(),
            Layout::Single(parts) => parts.contains(part),
            Layout::File(found, _) => found.iter().any(|f| f.part == *part),
        };
        Part::ALL.into_iter().filter(here).collect()
    }

    fn none(&self, part: Part) -> Error {
        let have: Vec<&str> = self.parts().into_iter().map(Part::folder).collect();
        let why = format!("{} has no {}; it has: {}", self.path.display(), part.folder(), have.join(", "));
        Error::new(Kind::Weights, "weights", why)
    }

    /// Where the part lies: its folder, or the file and what was found in it.
    fn place(&self, part: Part) -> Result<Place<'_>> {
        match &self.layout {
            Layout::Folders => Ok(Place::Folder(self.path.join(part.folder()))),
            Layout::Single(parts) if *parts == [part] => Ok(Place::Folder(self.path.clone())),
            Layout::Single(parts) if parts.contains(&part) => Ok(Place::Tower(layout::tower(part))),
            Layout::Single(_) => Err(self.none(part)),
            Layout::File(found, config) => match found.iter().find(|f| f.part == part) {
                Some(f) => Ok(Place::File(f, config.as_deref())),
                None => Err(self.none(part)),
            },
        }
    }

    /// The text of the part's `config.json`; for a single file without one, the config that its tensors'
    /// shapes imply. What no shape tells (head counts, the activation of a text encoder, an autoencoder's
    /// scaling factor) is that of the published network of that shape; an error where there is none.
    pub fn config(&self, part: Part) -> Result<String> {
        match self.place(part)? {
            Place::Folder(folder) => read_text(&folder.join("config.json")),
            Place::Tower(_) => read_text(&self.path.join("config.json")),
            Place::File(_, Some(config)) => Ok(config.to_owned()),
            Place::File(found, None) => self.shapes(part, |shapes| shapes.config(part, found.naming)),
        }
    }

    /// The text of the scheduler's config. A single file has none: then the one that SD 1.x and 2.x were
    /// published with, and, since weights do not tell what a UNet predicts, what diffusers assumes: v for
    /// a context width of 1024, else epsilon. SD 2.x base and Turbo files predict epsilon all the same.
    pub fn scheduler(&self) -> Result<String> {
        match &self.layout {
            Layout::Folders => read_text(&self.path.join("scheduler").join("scheduler_config.json")),
            Layout::Single(_) => Err(Error::new(
                Kind::Weights,
                "weights",
                format!("{} is one network's folder; it has no scheduler", self.path.display()),
            )),
            Layout::File(..) => self.shapes(Part::Unet, |shapes| shapes.scheduler()),
        }
    }

    fn shapes<T>(&self, part: Part, read: impl FnOnce(&Shapes<'_>) -> Result<T>) -> Result<T> {
        let checkpoint = self.checkpoint(part)?;
        let path = self.path.display().to_string();
        read(&Shapes::new(&path, checkpoint.tensors().iter().map(|t| (t.name.as_str(), &t.shape[..]))))
    }

    /// Those of the tensors that `found` tells.
    fn selected(&self, found: &Found) -> Result<Checkpoint> {
        select(Checkpoint::open(&self.path)?, found)
    }

    /// The part's tensors, under the names its graph asks for.
    pub fn checkpoint(&self, part: Part) -> Result<Checkpoint> {
        match self.place(part)? {
            Place::Folder(folder) => {
                let file = Checkpoint::open(&folder)?;
                if !part.is_looked_at() {
                    return Ok(file);
                }
                let found = layout::of_folder(part, file.tensors());
                select(file, &found)
            }
            Place::File(found, _) => self.selected(found),
            Place::Tower(found) => self.selected(&found),
        }
    }
}

/// Where one network lies.
enum Place<'a> {
    Folder(PathBuf),
    /// Among the tensors of the model's own folder.
    Tower(Found),
    File(&'a Found, Option<&'a str>),
}

/// Those tensors of `file` that `found` tells, with what is folded into them.
fn select(file: Checkpoint, found: &Found) -> Result<Checkpoint> {
    let views = found.select(&file.path().display().to_string(), file.tensors())?;
    let (views, folds) = match found.part {
        Part::Superpixel => fold::batch_norms(views).map_err(|why| file.error(why))?,
        Part::Depth => fold::layer_scales(views),
        Part::Unet | Part::Vae | Part::ControlNet | Part::TextEncoder | Part::ImageEncoder | Part::Sam => {
            (views, Vec::new())
        }
    };
    Ok(file.with_views(views).with_folds(folds))
}

/// The config.json in the folder of a file, where it describes the networks in it; beside a file of one
/// network it must.
fn config_beside(file: &Path, found: &[Found]) -> Result<Option<String>> {
    let path = fs::parent(file).join("config.json");
    if !path.is_file() {
        return Ok(None);
    }
    let read = read_text(&path).and_then(|config| Ok((parts_of(&path, &config)?, config)));
    let (described, config) = match (read, found) {
        (Ok(read), _) => read,
        (Err(e), [_]) => return Err(e),
        // a file of several networks is whole without one
        (Err(_), _) => return Ok(None),
    };
    match found.iter().find(|f| !described.contains(&f.part)) {
        None => Ok(Some(config)),
        Some(one) if found.len() == 1 => {
            let names: Vec<&str> = described.into_iter().map(Part::folder).collect();
            let (beside, names, part) = (path.display(), names.join(" and a "), one.part.folder());
            let why = format!("{beside} describes a {names}, {} holds a {part}", file.display());
            Err(Error::new(Kind::Weights, "weights", why).advise("put the file beside its own config.json"))
        }
        Some(_) => Ok(None),
    }
}

/// Reads a text file of a model folder.
fn read_text(path: &Path) -> Result<String> {
    let bytes = fs::File::open(path).and_then(|mut f| f.read_all(limits::MAX_CONFIG_BYTES)).map_err(|e| {
        let e = Error::new(Kind::Weights, "weights", e.message().to_owned());
        e.advise("a model folder holds model_index.json and one folder per network with its config.json")
    })?;
    String::from_utf8(bytes)
        .map_err(|_| Error::new(Kind::Weights, "weights", format!("{} is not UTF-8 text", path.display())))
}

/// The parts that a config describes; at least one.
fn parts_of(path: &Path, config: &str) -> Result<Vec<Part>> {
    let map = json::object(&path.display().to_string(), config.as_bytes())?;
    let class = map.get("_class_name").or_else(|| map.get("architectures").and_then(|a| a.get(0)));
    let class = class.and_then(|v| v.as_str()).unwrap_or_default();
    let parts = Part::all_of_class(class);
    if !parts.is_empty() {
        return Ok(parts);
    }
    let why = format!("{}: class `{}` is not known", path.display(), quoted(class));
    Err(Error::new(Kind::Weights, "weights", why).advise(
        "known are UNet2DConditionModel, AutoencoderKL, ControlNetModel, CLIPTextModel, CLIPVisionModel, CLIPModel, \
         SpixelNet1l_bn, DepthAnythingForDepthEstimation, SamVisionModel, SamModel",
    ))
}
