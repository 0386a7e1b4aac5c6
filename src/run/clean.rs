//! What interrupted jobs left behind: spools, and unfinished files.

use crate::error::{Error, Kind, Result};
use crate::fs;
use crate::tile::spool;
use std::path::{Path, PathBuf};

/// What becomes of something left behind.
#[derive(Debug)]
pub enum Fate {
    /// It was removed, or would be in a dry run.
    Removed,
    /// A living run needs it.
    InUse,
    /// It could not be removed.
    Failed(Error),
}

/// Something left behind.
#[derive(Debug)]
pub struct Left {
    /// Where.
    pub path: PathBuf,
    /// Its bytes.
    pub bytes: u64,
    /// What became of it.
    pub fate: Fate,
}

/// Removes the spools and unfinished files in `folders` (and in the folders in them, with `recursive`); a folder may
/// be a spool itself. With `dry_run` nothing is removed.
pub fn clean(folders: &[PathBuf], recursive: bool, dry_run: bool) -> Result<Vec<Left>> {
    let mut left = Vec::new();
    let mut todo: Vec<PathBuf> = folders.iter().rev().cloned().collect();
    while let Some(folder) = todo.pop() {
        if !folder.is_dir() {
            let why = format!("the folder {} does not exist", folder.display());
            return Err(Error::new(Kind::Io, "clean", why));
        }
        if is_spool(&folder)? {
            left.push(spool_left(&folder, dry_run)?);
            continue;
        }
        for entry in fs::entries(&folder)? {
            if entry.is_folder && is_spool(&entry.path)? {
                left.push(spool_left(&entry.path, dry_run)?);
            } else if entry.is_folder && recursive {
                todo.push(entry.path);
            } else if entry.is_file && fs::is_temp(&entry.path) {
                let fate = match fs::remove_stale(&entry.path, dry_run) {
                    Ok(true) => Fate::Removed,
                    Ok(false) => Fate::InUse,
                    Err(e) => Fate::Failed(e),
                };
                left.push(Left { path: entry.path, bytes: entry.bytes, fate });
            }
        }
    }
    Ok(left)
}

/// Whether a folder is a spool: by its name, and because nothing else lies in it.
fn is_spool(folder: &Path) -> Result<bool> {
    let named = folder.file_name().is_some_and(|n| n.to_string_lossy().ends_with(spool::ENDING));
    Ok(named && spool::is_ours(folder)?)
}

fn spool_left(path: &Path, dry_run: bool) -> Result<Left> {
    let bytes = fs::entries(path)?.iter().map(|e| e.bytes).sum();
    let fate = if dry_run {
        if spool::is_busy(path)? { Fate::InUse } else { Fate::Removed }
    } else {
        match spool::remove(path) {
            Ok(Some(_)) => Fate::Removed,
            Ok(None) => Fate::InUse,
            Err(e) => Fate::Failed(e),
        }
    };
    Ok(Left { path: path.to_owned(), bytes, fate })
}
