//! Folders: what they hold, and one that belongs to one run at a time.

use super::atomic::{still_named, sync_folder, try_lock};
use super::row_file::{in_the_way, refuse_link};
use super::{fault, io_error, parent, retry};
use crate::error::{Error, Kind, Result};
use std::fs::TryLockError;
use std::io;
use std::path::{Path, PathBuf};

/// Name of the file by which a folder is locked.
const LOCK: &str = "lock";
/// Tries to lock a folder that another run keeps removing.
const LOCK_TRIES: usize = 8;

/// One thing in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path: the folder's with its name.
    pub path: PathBuf,
    /// Whether it is a folder; links are not followed and are neither.
    pub is_folder: bool,
    /// Whether it is a regular file, or a link that leads to one.
    pub is_file: bool,
    /// Bytes of a file.
    pub bytes: u64,
    /// When it was last changed, nanoseconds since 1970; 0 where that is not known.
    pub changed: u128,
}

/// What lies in `folder`, by name.
pub fn entries(folder: &Path) -> Result<Vec<Entry>> {
    let failed = |e: &io::Error| io_error("cannot list", folder, e);
    let mut all = Vec::new();
    for entry in retry(|| std::fs::read_dir(folder)).map_err(|e| failed(&e))? {
        let entry = entry.map_err(|e| failed(&e))?;
        let path = entry.path();
        // What vanished meanwhile is not there.
        let Ok(own) = retry(|| std::fs::symlink_metadata(&path)) else { continue };
        let target = if own.is_symlink() { retry(|| std::fs::metadata(&path)).ok() } else { Some(own.clone()) };
        let is_file = target.as_ref().is_some_and(std::fs::Metadata::is_file);
        let bytes = if is_file { target.as_ref().map_or(0, std::fs::Metadata::len) } else { 0 };
        let time = target.and_then(|m| m.modified().ok()).and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
        let changed = time.map_or(0, |t| t.as_nanos());
        all.push(Entry { path, is_folder: own.is_dir(), is_file, bytes, changed });
    }
    all.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(all)
}

/// Makes a folder, and those it lies in, where they are missing.
pub fn make_folder(path: &Path) -> Result<()> {
    retry(|| std::fs::create_dir_all(path)).map_err(|e| io_error("cannot make the folder", path, &e))
}

/// Removes a file; one that is not there is no error.
pub fn remove_file(path: &Path) -> Result<()> {
    match retry(|| std::fs::remove_file(path)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("cannot remove", path, &e)),
        _ => Ok(()),
    }
}

/// A folder that belongs to this run until it is dropped.
#[derive(Debug)]
pub struct LockedFolder {
    path: PathBuf,
    lock: std::fs::File,
}

/// What an attempt to lock a folder found.
#[derive(Debug)]
pub enum Lock {
    /// It is ours.
    Held(LockedFolder),
    /// A living run has it.
    Busy,
    /// There is no such folder.
    Absent,
}

impl LockedFolder {
    /// Makes the folder at `path` where it is missing, and locks it. An error when a living run has it.
    pub fn create(path: &Path) -> Result<LockedFolder> {
        for _ in 0..LOCK_TRIES {
            match retry(|| std::fs::create_dir(path)) {
                Ok(()) => sync_folder(parent(path))?,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(io_error("cannot make the folder", path, &e)),
            }
            match LockedFolder::open(path)? {
                Lock::Held(folder) => return Ok(folder),
                Lock::Busy => break,
                // Another run removed it in between.
                Lock::Absent => {}
            }
        }
        Err(busy(path))
    }

    /// Locks the folder at `path`, when it is there.
    pub fn open(path: &Path) -> Result<Lock> {
        for _ in 0..LOCK_TRIES {
            match retry(|| std::fs::symlink_metadata(path)) {
                Ok(meta) if meta.is_dir() => {}
                Ok(_) => return Err(in_the_way(path)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Lock::Absent),
                Err(e) => return Err(io_error("cannot examine", path, &e)),
            }
            let name = path.join(LOCK);
            refuse_link(&name)?;
            let open = || std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(&name);
            let lock = match retry(open) {
                Ok(lock) => lock,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(io_error("cannot create", &name, &e)),
            };
            match fault::gate().map_err(TryLockError::Error).and_then(|_| try_lock(&lock)) {
                Err(TryLockError::WouldBlock) => return Ok(Lock::Busy),
                // Some network file systems cannot lock; there two runs with one output are the user's care.
                Ok(()) | Err(TryLockError::Error(_)) => {}
            }
            // What was removed between opening and locking is nobody's folder any more.
            if still_named(&lock, &name) {
                return Ok(Lock::Held(LockedFolder { path: path.to_owned(), lock }));
            }
        }
        Ok(Lock::Busy)
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of `name` in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Bytes of the files in it.
    pub fn bytes(&self) -> Result<u64> {
        Ok(entries(&self.path)?.iter().map(|e| e.bytes).sum())
    }

    /// Makes the names of new files in it survive a power cut.
    pub fn sync(&self) -> Result<()> {
        sync_folder(&self.path)
    }

    /// Removes the files in it but the lock.
    pub fn clear(&self) -> Result<()> {
        self.clear_but(LOCK)
    }

    fn clear_but(&self, kept: &str) -> Result<()> {
        for entry in entries(&self.path)? {
            if entry.is_folder {
                return Err(in_the_way(&entry.path));
            }
            if entry.path.file_name().is_some_and(|n| n != LOCK && n != kept) {
                remove_file(&entry.path)?;
            }
        }
        Ok(())
    }

    /// Removes it with all files in it, `last` after the others, so that whoever finds it half removed still has
    /// what that file says; gives their bytes. A folder inside is nothing of ours: an error.
    pub fn remove(self, last: &str) -> Result<u64> {
        let bytes = self.bytes()?;
        self.clear_but(last)?;
        self.clear()?;
        remove_file(&self.file(LOCK))?;
        let path = self.path.clone();
        // Systems that lock open files need the handle closed before the folder can go.
        drop(self.lock);
        retry(|| std::fs::remove_dir(&path)).map_err(|e| io_error("cannot remove", &path, &e))?;
        Ok(bytes)
    }
}

fn busy(path: &Path) -> Error {
    Error::new(Kind::Io, "files", format!("another run is working in {}", path.display()))
        .advise("wait for it, or name another output")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_belongs_to_one_run_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png.tessera");
        assert!(matches!(LockedFolder::open(&path).unwrap(), Lock::Absent));
        let held = LockedFolder::create(&path).unwrap();
        assert!(matches!(LockedFolder::open(&path).unwrap(), Lock::Busy));
        let e = LockedFolder::create(&path).expect_err("locked");
        assert!(e.message().contains("another run"), "{e}");
        drop(held);
        let held = LockedFolder::create(&path).unwrap();
        std::fs::write(held.file("rows"), b"12345").unwrap();
        assert_eq!(held.remove("journal").unwrap(), 5);
        assert!(!path.exists());
        let held = LockedFolder::create(&path).unwrap();
        std::fs::create_dir(held.file("mine")).unwrap();
        assert!(held.remove("journal").is_err(), "what is not ours stays");
        assert!(path.join("mine").exists());
        std::fs::write(dir.path().join("file"), b"").unwrap();
        assert!(LockedFolder::create(&dir.path().join("file")).is_err());
        assert!(LockedFolder::create(&dir.path().join("none/a")).is_err());
    }

    #[test]
    fn folders_are_listed_by_name() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b", "a", "c"] {
            std::fs::write(dir.path().join(name), name.repeat(3)).unwrap();
        }
        make_folder(&dir.path().join("d/e")).unwrap();
        let all = entries(dir.path()).unwrap();
        let names: Vec<_> = all.iter().filter_map(|e| e.path.file_name()?.to_str()).collect();
        assert_eq!(names, ["a", "b", "c", "d"]);
        assert!(all[0].is_file && all[0].bytes == 3 && all[3].is_folder && !all[3].is_file);
        remove_file(&all[0].path).unwrap();
        remove_file(&all[0].path).unwrap();
        assert!(entries(&dir.path().join("none")).is_err());
    }
}
