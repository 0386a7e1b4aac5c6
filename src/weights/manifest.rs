//! `weights/manifest.json`: what the shipped models' files must be. Each file's length and SHA-256 is
//! checked when the model is loaded, so that a damaged or half-written copy is an error and not a bad picture.

use super::json::quoted;
use crate::error::{Error, Kind, Result};
use crate::fs::File;
use crate::limits;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::{Component, Path};

/// Bytes hashed per read.
const CHUNK: usize = 1 << 18;

/// One file of a shipped model.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShippedFile {
    /// Path from the manifest's folder, with `/`.
    pub path: String,
    /// Length.
    pub bytes: u64,
    /// SHA-256 in lower-case hexadecimal.
    pub sha256: String,
}

/// One shipped model.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShippedModel {
    /// Name, also the name of its folder.
    pub name: String,
    /// SPDX expression.
    pub licence: String,
    /// Every file of the model.
    pub files: Vec<ShippedFile>,
}

/// Every shipped model.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The models.
    pub models: Vec<ShippedModel>,
}

/// Name of the manifest in its folder.
pub const FILE_NAME: &str = "manifest.json";

impl Manifest {
    /// Reads the manifest in `folder`.
    pub fn open(folder: &Path) -> Result<Manifest> {
        let path = folder.join(FILE_NAME);
        let text = File::open(&path)?.read_all(limits::MAX_MANIFEST_BYTES)?;
        let bad = |why: String| Error::new(Kind::Weights, "weights", format!("{}: {why}", path.display()));
        let manifest: Manifest = serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))?;
        for f in manifest.models.iter().flat_map(|m| &m.files) {
            let plain = Path::new(&f.path).components().all(|c| matches!(c, Component::Normal(_)));
            if f.path.is_empty() || !plain {
                return Err(bad(format!("`{}` is not a path inside the folder", quoted(&f.path))));
            }
        }
        Ok(manifest)
    }

    /// The model called `name`.
    pub fn model(&self, name: &str) -> Option<&ShippedModel> {
        self.models.iter().find(|m| m.name == name)
    }
}

impl ShippedModel {
    /// Checks length and SHA-256 of every file; `folder` is the manifest's.
    pub fn verify(&self, folder: &Path) -> Result<()> {
        self.files.iter().try_for_each(|f| f.verify(folder))
    }
}

impl ShippedFile {
    fn verify(&self, folder: &Path) -> Result<()> {
        let path = folder.join(&self.path);
        let bad = |why: String| {
            Error::new(Kind::Weights, "weights", format!("{}: {why}", path.display()))
                .advise("the shipped model is damaged: copy it again from the release or the repository")
        };
        let mut file = File::open(&path)?;
        let length = file.len()?;
        if length != self.bytes {
            return Err(bad(format!("{length} bytes, the manifest says {}", self.bytes)));
        }
        let mut hash = Sha256::new();
        let mut chunk = vec![0u8; CHUNK];
        loop {
            let n = file.read(&mut chunk).map_err(|e| crate::fs::io_error("cannot read", &path, &e))?;
            if n == 0 {
                break;
            }
            hash.update(&chunk[..n]);
        }
        let found: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        if found == self.sha256 {
            Ok(())
        } else {
            Err(bad(format!("SHA-256 {found}, the manifest says {}", self.sha256)))
        }
    }
}
