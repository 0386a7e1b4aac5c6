//! Where models are found: the folder the user names, or one that ships, held to its manifest.

use super::options::UpscaleOptions;
use crate::error::{Error, Kind, Result};
use crate::knobs;
use crate::system::registry;
use crate::weights::manifest::{self, Manifest};
use std::path::{Path, PathBuf};

/// The model's folder: the one named, else the one that ships for the system asked for.
pub(super) fn model_folder(options: &UpscaleOptions) -> Result<PathBuf> {
    if let Some(folder) = &options.model {
        if folder.join("model_index.json").is_file() {
            return Ok(folder.clone());
        }
        let why = format!("{} has no model_index.json", folder.display());
        return Err(Error::new(Kind::Weights, "run", why).advise("name a model's own folder"));
    }
    let system = options.system.as_deref().map_or(Ok(&registry::SYSTEMS[0]), registry::find)?;
    shipped_model(system.system)
}

/// The folder of a shipped model: in `TESSERA_WEIGHTS`, beside the program, or in the source tree.
pub fn shipped_model(name: &str) -> Result<PathBuf> {
    let mut tried: Vec<PathBuf> = Vec::new();
    match knobs::get("TESSERA_WEIGHTS") {
        Some(folder) => tried.push(PathBuf::from(folder).join(name)),
        None => {
            if let Some(program) = std::env::current_exe().ok().as_deref().and_then(Path::parent) {
                tried.push(program.join("weights").join(name));
            }
            tried.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("weights").join(name));
        }
    }
    if let Some(found) = tried.iter().find(|f| f.join("model_index.json").is_file()) {
        verify(name, found)?;
        return Ok(found.clone());
    }
    let list: Vec<String> = tried.iter().map(|f| f.display().to_string()).collect();
    Err(Error::new(Kind::Weights, "run", format!("the model `{name}` is not in {}", list.join(" nor in ")))
        .advise("name a model folder with --model, or set TESSERA_WEIGHTS"))
}

/// Holds a shipped model's files to the manifest beside its folder, where there is one: a damaged copy is an
/// error, not a bad picture.
fn verify(name: &str, model: &Path) -> Result<()> {
    let Some(folder) = model.parent().filter(|f| f.join(manifest::FILE_NAME).is_file()) else { return Ok(()) };
    match Manifest::open(folder)?.model(name) {
        Some(shipped) => shipped.verify(folder),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_copy_is_refused_and_a_folder_without_manifest_is_not() {
        let folder = tempfile::tempdir().expect("folder");
        let model = folder.path().join("m");
        std::fs::create_dir(&model).expect("folder");
        std::fs::write(model.join("a"), b"abc").expect("file");
        assert!(verify("m", &model).is_ok());
        // SHA-256 of "abc", FIPS 180-2's first example.
        let sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let entry = format!(r#"{{"path": "m/a", "bytes": 3, "sha256": "{sha}"}}"#);
        let text = format!(r#"{{"models": [{{"name": "m", "licence": "MIT", "files": [{entry}]}}]}}"#);
        std::fs::write(folder.path().join(manifest::FILE_NAME), text).expect("manifest");
        assert!(verify("m", &model).is_ok());
        std::fs::write(model.join("a"), b"abd").expect("file");
        let e = verify("m", &model).expect_err("damaged");
        assert_eq!(e.kind(), Kind::Weights);
        assert!(e.message().contains("SHA-256"), "{e}");
    }
}
