//! What a model's path holds: which networks, each one's config text and its tensors under diffusers' names.
//!
//! Three layouts are read: a diffusers folder (`model_index.json` and one folder per network), the folder
//! of one network (its own `config.json`), and single files.

use super::Checkpoint;
use super::json::{self, quoted};
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
}

impl Part {
    /// Every part, in the order they are reported.
    pub const ALL: [Part; 5] = [Part::Unet, Part::Vae, Part::ControlNet, Part::TextEncoder, Part::ImageEncoder];

    /// Folder name in the diffusers layout.
    pub fn folder(self) -> &'static str {
        match self {
            Part::Unet => "unet",
            Part::Vae => "vae",
            Part::ControlNet => "controlnet",
            Part::TextEncoder => "text_encoder",
            Part::ImageEncoder => "image_encoder",
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
            _ => return None,
        })
    }
}

/// How the networks lie on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Layout {
    /// A folder per network.
    Folders,
    /// The folder of this one network.
    Single(Part),
}

/// A model as it was published.
#[derive(Debug, Clone)]
pub struct Model {
    path: PathBuf,
    layout: Layout,
}

impl Model {
    /// Looks at what `path` holds; reads configs, no weights.
    pub fn open(path: &Path) -> Result<Model> {
        let layout = if path.join("model_index.json").is_file() {
            Layout::Folders
        } else {
            let config = read_text(&path.join("config.json"))?;
            Layout::Single(part_of(&path.join("config.json"), &config)?)
        };
        Ok(Model { path: path.to_owned(), layout })
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The networks that are here.
    pub fn parts(&self) -> Vec<Part> {
        Part::ALL.into_iter().filter(|&p| self.folder(p).is_some_and(|f| f.join("config.json").is_file())).collect()
    }

    fn folder(&self, part: Part) -> Option<PathBuf> {
        match self.layout {
            Layout::Folders => Some(self.path.join(part.folder())),
            Layout::Single(p) => (p == part).then(|| self.path.clone()),
        }
    }

    fn need(&self, part: Part) -> Result<PathBuf> {
        self.folder(part).ok_or_else(|| {
            let have: Vec<&str> = self.parts().into_iter().map(Part::folder).collect();
            let why = format!("{} has no {}; it has: {}", self.path.display(), part.folder(), have.join(", "));
            Error::new(Kind::Weights, "weights", why)
        })
    }

    /// The text of the part's `config.json`.
    pub fn config(&self, part: Part) -> Result<String> {
        read_text(&self.need(part)?.join("config.json"))
    }

    /// The part's tensors, under the names its graph asks for.
    pub fn checkpoint(&self, part: Part) -> Result<Checkpoint> {
        Checkpoint::open(&self.need(part)?)
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

/// The part that a config describes.
fn part_of(path: &Path, config: &str) -> Result<Part> {
    let map = json::object(&path.display().to_string(), config.as_bytes())?;
    let class = map.get("_class_name").or_else(|| map.get("architectures").and_then(|a| a.get(0)));
    let class = class.and_then(|v| v.as_str()).unwrap_or_default();
    Part::of_class(class).ok_or_else(|| {
        let why = format!("{}: class `{}` is not known", path.display(), quoted(class));
        Error::new(Kind::Weights, "weights", why)
            .advise("known are UNet2DConditionModel, AutoencoderKL, ControlNetModel, CLIPTextModel, CLIPVisionModel")
    })
}
