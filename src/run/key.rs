//! What decides the bytes of a job's picture, as the key of its journal: two jobs of equal keys make equal rows.

use super::budget::Choice;
use super::engine::Engine;
use super::options::{Size, Target, UpscaleOptions};
use crate::error::{Error, Kind, Result};
use crate::fs::{self, File};
use crate::image::{Depth, Header};
use crate::limits;
use crate::tile::Key;
use sha2::{Digest, Sha256};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;
/// Pieces of a weights file that are hashed beside its head, and their bytes.
const PIECES: u64 = 256;
/// See [`PIECES`].
const PIECE: usize = 4096;

/// What a job's key is made of. Files are read only when the key is asked for: small jobs never do.
pub(super) struct Deciding {
    parts: Key,
    input: PathBuf,
    /// Of the input, when the job began.
    stamp: Option<fs::Stamp>,
    model: PathBuf,
}

impl Deciding {
    /// Notes options, windows, device and version; `depth` is that of the finished rows.
    pub(super) fn new(
        engine: &Engine,
        options: &UpscaleOptions,
        header: &Header,
        target: &Target,
        depth: Depth,
        model: &Path,
        choice: &Choice,
    ) -> Deciding {
        let program = &choice.taken.program;
        // What the windows and phases are; the networks follow from model, options and version, their batch is free.
        let states = (&program.target, &program.canvases, &program.saved, &program.statistics, program.seed);
        let windows = text_hash(&format!("{states:?} {:?} {:?}", program.grids, program.blocks));
        let rows = format!("{}x{}:{:?}:{}", target.width, target.height, header.colour, 8 * depth.bytes());
        let parts = Key::default()
            .with("version", env!("CARGO_PKG_VERSION"))
            .with("rows", rows)
            .with("options", text_hash(&format!("{:?} {:?}", deciding(options), target.scale.to_bits())))
            .with("device", format!("{:?}:{}:{}", engine.caps().kind, engine.name(), choice.taken.shaping.dtype.name()))
            .with("vae", choice.vae.name())
            .with("windows", format!("{}+{}:{windows}", choice.taken.shaping.tile, choice.taken.shaping.overlap));
        let (input, model) = (options.input.clone(), model.to_owned());
        Deciding { parts, stamp: fs::stamp(&input), input, model }
    }

    /// The key. An error when the input is not what it was when the job began.
    pub(super) fn key(&self) -> Result<Key> {
        let input = file_hash(&self.input)?;
        if fs::stamp(&self.input) != self.stamp {
            let why = format!("{} changed while it was read", self.input.display());
            return Err(Error::new(Kind::BadInput, "run", why).advise("try again when nobody writes it"));
        }
        Ok(self.parts.clone().with("input", input).with("model", model_hash(&self.model)?))
    }
}

/// The options without those that change no pixel or that other parts of the key stand for.
pub(super) fn deciding(options: &UpscaleOptions) -> UpscaleOptions {
    let free = UpscaleOptions::new("", Size::Scale(1.0));
    UpscaleOptions {
        input: free.input,
        output: free.output,
        format: free.format,
        size: free.size,
        model: free.model,
        device: free.device,
        vram: free.vram,
        ram: free.ram,
        tile: free.tile,
        overlap: free.overlap,
        batch: free.batch,
        save_stages: free.save_stages,
        stage_folder: free.stage_folder,
        overwrite: free.overwrite,
        dry_run: free.dry_run,
        threads: free.threads,
        tile_order: free.tile_order,
        resume: free.resume,
        spool_dir: free.spool_dir,
        skip_existing: free.skip_existing,
        ..options.clone()
    }
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

pub(super) fn text_hash(text: &str) -> String {
    hex(Sha256::new_with_prefix(text))
}

/// SHA-256 of all bytes of a file.
fn file_hash(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    let mut file = File::open(path)?;
    read_into(&mut file, u64::MAX, &mut hash)?;
    Ok(hex(hash))
}

/// Reads at most `most` bytes into a hash.
fn read_into(file: &mut File, most: u64, hash: &mut Sha256) -> Result<()> {
    let mut bytes = vec![0; CHUNK.min(usize::try_from(most).unwrap_or(CHUNK))];
    let mut left = most;
    while left > 0 {
        let want = bytes.len().min(usize::try_from(left).unwrap_or(CHUNK));
        let n = file.read(&mut bytes[..want]).map_err(|e| fs::io_error("cannot read", file.path(), &e))?;
        if n == 0 {
            break;
        }
        hash.update(&bytes[..n]);
        left -= n as u64;
    }
    Ok(())
}

/// A hash of a model's folder. Small files count whole. Of a checkpoint the name, length, time of change, the head
/// (which lists every tensor with its place) and pieces spread over all of it count: a file that was exchanged or
/// written again is told, at a hundredth of what reading gigabytes would cost.
fn model_hash(folder: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    let mut folders = vec![folder.to_owned()];
    let mut files = 0;
    while let Some(at) = folders.pop() {
        for entry in fs::entries(&at)? {
            if entry.is_folder {
                folders.push(entry.path);
                continue;
            }
            let counts = entry.path.extension().is_some_and(|e| e == "json" || e == "safetensors" || e == "txt");
            if !counts || !entry.is_file {
                continue;
            }
            files += 1;
            if files > limits::MAX_MODEL_FILES {
                let why = format!("{} holds more than {} files", folder.display(), limits::MAX_MODEL_FILES);
                return Err(Error::new(Kind::Limit, "run", why));
            }
            let name = entry.path.strip_prefix(folder).unwrap_or(&entry.path);
            hash.update(name.as_os_str().as_encoded_bytes());
            hash.update(entry.bytes.to_le_bytes());
            weigh(&entry, &mut hash)?;
        }
    }
    Ok(hex(hash))
}

fn weigh(entry: &fs::Entry, hash: &mut Sha256) -> Result<()> {
    let mut file = File::open(&entry.path)?;
    let whole = CHUNK as u64 + PIECES * PIECE as u64;
    if entry.bytes <= whole {
        return read_into(&mut file, whole, hash);
    }
    hash.update(entry.changed.to_le_bytes());
    read_into(&mut file, CHUNK as u64, hash)?;
    let span = entry.bytes - CHUNK as u64 - PIECE as u64;
    for i in 0..PIECES {
        // The last piece ends where the file does.
        let at = SeekFrom::Start(CHUNK as u64 + (u128::from(span) * u128::from(i) / u128::from(PIECES - 1)) as u64);
        file.seek(at).map_err(|e| fs::io_error("cannot read", &entry.path, &e))?;
        read_into(&mut file, PIECE as u64, hash)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_changed_has_another_hash() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("unet")).unwrap();
        std::fs::write(dir.path().join("model_index.json"), b"{}").unwrap();
        let weights = dir.path().join("unet/model.safetensors");
        let bytes = vec![7u8; 3 * CHUNK];
        std::fs::write(&weights, &bytes).unwrap();
        let time = std::fs::metadata(&weights).unwrap().modified().unwrap();
        let set = |bytes: &[u8]| {
            std::fs::write(&weights, bytes).unwrap();
            std::fs::OpenOptions::new().write(true).open(&weights).unwrap().set_modified(time).unwrap();
            model_hash(dir.path()).unwrap()
        };
        let first = set(&bytes);
        assert_eq!(first, set(&bytes));
        std::fs::write(dir.path().join("README.md"), b"words").unwrap();
        assert_eq!(first, set(&bytes));
        // In the head, at the end, a byte more.
        for at in [0, CHUNK - 1, CHUNK, bytes.len() - 1] {
            let mut other = bytes.clone();
            other[at] = 8;
            assert_ne!(first, set(&other), "byte {at}");
        }
        assert_ne!(first, set(&vec![7u8; 3 * CHUNK + 1]));
        std::fs::write(&weights, &bytes).unwrap();
        assert_ne!(first, model_hash(dir.path()).unwrap(), "written again");
        set(&bytes);
        std::fs::write(dir.path().join("model_index.json"), b"{ }").unwrap();
        assert_ne!(first, model_hash(dir.path()).unwrap());
        assert_eq!(file_hash(&weights).unwrap(), text_hash(std::str::from_utf8(&bytes).unwrap()));
    }
}
