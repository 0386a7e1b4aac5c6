//! Where the spool of an output lies, and what lies there before it is opened.

use crate::error::{Error, Kind, Result};
use crate::fs::{self, Lock, LockedFolder};
use crate::tile::journal::{self, Journal, Key, Record};
use std::path::{Path, PathBuf};

/// What the name of every spool ends in.
pub const ENDING: &str = ".tessera";
/// The journal's file.
pub const JOURNAL: &str = "journal";
/// The finished rows' file.
pub const ROWS: &str = "output.rows";
/// Longest name of an output that is repeated in its spool's name; file systems allow 255 bytes.
const LONGEST_NAME: usize = 200;

/// Where the spool of `output` lies: `<output>.tessera` beside it, or in `dir` under a name that no other
/// output's spool has.
pub fn path_of(output: &Path, dir: Option<&Path>) -> PathBuf {
    let name = output.file_name().unwrap_or_default();
    let mut hash = 0;
    if dir.is_some() || name.len() > LONGEST_NAME {
        // Absolute, so that one picture has one spool wherever the program is started.
        let folder = std::path::absolute(fs::parent(output)).unwrap_or_else(|_| fs::parent(output).to_owned());
        let folder = std::fs::canonicalize(&folder).unwrap_or(folder);
        // FNV-1a: names must only be told apart, and the same in every run.
        hash = folder
            .join(name)
            .as_os_str()
            .as_encoded_bytes()
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    }
    let mut own = std::ffi::OsString::new();
    if name.len() <= LONGEST_NAME {
        own.push(name);
    }
    if hash != 0 {
        own.push(format!("-{hash:016x}"));
    }
    own.push(ENDING);
    dir.map_or_else(|| output.with_file_name(&own), |dir| dir.join(&own))
}

/// What lies at the place of a spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing, or nothing worth keeping.
    Nothing,
    /// A spool in which something is finished.
    Unfinished,
    /// A spool that a living run works in.
    Busy,
}

/// Looks for a spool at `path`.
pub fn look(path: &Path) -> Result<Found> {
    if !path.join(JOURNAL).exists() {
        return Ok(Found::Nothing);
    }
    let folder = match LockedFolder::open(path)? {
        Lock::Absent => return Ok(Found::Nothing),
        Lock::Busy => return Ok(Found::Busy),
        Lock::Held(folder) => folder,
    };
    Ok(match Journal::open(&folder.file(JOURNAL)) {
        Ok((_, proved, _)) if !proved.records.is_empty() => Found::Unfinished,
        // A journal that cannot be read proves nothing.
        _ => Found::Nothing,
    })
}

/// Whether a living run works in the spool at `path`.
pub fn is_busy(path: &Path) -> Result<bool> {
    Ok(matches!(LockedFolder::open(path)?, Lock::Busy))
}

/// Removes the spool at `path`, when there is one; gives its bytes. `None`: a living run works in it.
pub fn remove(path: &Path) -> Result<Option<u64>> {
    if path.is_dir() && !is_ours(path)? {
        return Err(Error::new(Kind::Io, "spool", format!("{} holds files that are no spool's", path.display())));
    }
    match LockedFolder::open(path)? {
        Lock::Absent => Ok(Some(0)),
        Lock::Busy => Ok(None),
        Lock::Held(folder) => folder.remove(JOURNAL).map(Some),
    }
}

/// Whether a folder holds nothing but what a spool is made of: only then may it be emptied.
pub fn is_ours(folder: &Path) -> Result<bool> {
    let own = |e: &fs::Entry| {
        let name = e.path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        !e.is_folder && (name == "lock" || name == JOURNAL || name.ends_with(".rows") || name.ends_with(".state"))
    };
    Ok(fs::entries(folder)?.iter().all(own))
}

/// The key of the job of the spool at `path` when `output` is the very file that it moved to its place. Its rows may
/// be gone by then.
pub fn placed(path: &Path, output: &Path) -> Option<Key> {
    let journal = fs::File::open(&path.join(JOURNAL)).and_then(|mut f| f.read_all(crate::limits::MAX_JOURNAL_BYTES));
    let proved = journal::prove(&journal.ok()?);
    let placing = |r: &Record| if let Record::Placing(identity) = r { Some(*identity) } else { None };
    let last = proved.records.iter().rev().find_map(placing)?;
    proved.key.filter(|_| fs::identity(output) == Some(last))
}

/// What the key of the spool at `path` says of one part, when it can be read.
pub fn key_part(path: &Path, name: &str) -> Option<String> {
    let mut file = fs::File::open(&path.join(JOURNAL)).ok()?;
    let bytes = file.read_all(crate::limits::MAX_JOURNAL_BYTES).ok()?;
    journal::prove(&bytes).key?.get(name).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_output_has_a_spool_of_its_own() {
        let at = |out: &str, dir: Option<&str>| path_of(Path::new(out), dir.map(Path::new));
        assert_eq!(at("a/b.png", None), Path::new("a/b.png.tessera"));
        assert_eq!(at("b.png", None), Path::new("b.png.tessera"));
        let (one, two) = (at("/x/b.png", Some("/s")), at("/y/b.png", Some("/s")));
        assert!(one != two && one.starts_with("/s") && one.to_string_lossy().contains("b.png-"));
        assert_eq!(one, at("/x/b.png", Some("/s")));
        let long = at(&"n".repeat(250), None);
        assert!(long.to_string_lossy().len() < 60 && long != at(&"n".repeat(251), None));
    }
}
