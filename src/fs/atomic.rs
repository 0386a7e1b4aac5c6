//! Files that take their place only when they are complete.

use super::{File, fault, io_error, parent, retry};
use crate::error::{Error, Kind, Result};
use std::fs::TryLockError;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bytes gathered before one write call reaches the system.
const WRITE_BUFFER: usize = 1 << 18;
/// Tries to lock a temporary file that another run keeps renaming away.
const LOCK_TRIES: usize = 8;
/// How often, and for how long, a lock is waited for that may be about to go.
const LOCK_WAITS: usize = 20;
/// See [`LOCK_WAITS`].
const LOCK_WAIT: Duration = Duration::from_millis(5);
/// Longest file name that still leaves room for the affixes of its temporary file: file systems
/// allow 255 bytes.
const LONGEST_NAME: usize = 220;

/// Where the unfinished file of `target` lies: in the same folder, since a rename is atomic only
/// within one file system, and named after it, so that a later run finds what a killed one left.
pub fn temp_path(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default();
    let mut temp = std::ffi::OsString::from(".");
    if name.len() <= LONGEST_NAME {
        temp.push(name);
    } else {
        // FNV-1a: names must only be told apart, and the same in every run.
        let hash = name
            .as_encoded_bytes()
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        temp.push(format!("{hash:016x}"));
    }
    temp.push(".tessera-part");
    target.with_file_name(temp)
}

/// Whether `path` has the name of an unfinished file.
pub fn is_temp(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    name.starts_with('.') && name.ends_with(".tessera-part")
}

/// Removes the unfinished file `temp` that a killed run left; false when a living run holds it. With `only_look`
/// it stays.
pub fn remove_stale(temp: &Path, only_look: bool) -> Result<bool> {
    let failed = |e: &io::Error| io_error("cannot remove", temp, e);
    let file = retry(|| std::fs::OpenOptions::new().write(true).open(temp)).map_err(|e| failed(&e))?;
    if let Err(TryLockError::WouldBlock) = try_lock(&file) {
        return Ok(false);
    }
    if !only_look && still_named(&file, temp) {
        retry(|| std::fs::remove_file(temp)).map_err(|e| failed(&e))?;
    }
    Ok(true)
}

/// The temporary files of this process that go when it ends.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

pub(super) fn unfinished() -> MutexGuard<'static, Vec<PathBuf>> {
    // A list of paths is whole after any panic.
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes the unfinished files of this process: for a program that must end at once and can't wait for
/// [`AtomicFile`]s to be dropped. Writers that still run get errors.
pub fn remove_unfinished() {
    for temp in unfinished().iter() {
        let _ = std::fs::remove_file(temp);
    }
}

/// A file that takes its place only when it is complete.
///
/// It is written beside its target and locked; [`AtomicFile::commit`] syncs it, renames it over
/// the target and syncs the folder. Dropped before that, it is removed.
#[derive(Debug)]
pub struct AtomicFile {
    // `None` once committed or abandoned: the file must be closed before it is removed on systems
    // that lock open files.
    file: Option<BufWriter<File>>,
    temp: PathBuf,
    target: PathBuf,
    overwrite: bool,
    in_place: bool,
}

impl AtomicFile {
    /// Starts a new file for `target`. An unfinished file that a killed run left is taken over; one
    /// that a living run holds is an error.
    pub fn create(target: &Path, overwrite: bool) -> Result<AtomicFile> {
        let temp = temp_path(target);
        for _ in 0..LOCK_TRIES {
            let Some(inner) = open_locked(&temp)? else { continue };
            let file = File { inner, path: temp.clone() };
            unfinished().push(temp.clone());
            let mut this = AtomicFile {
                file: Some(BufWriter::with_capacity(WRITE_BUFFER, file)),
                temp,
                target: target.to_owned(),
                overwrite,
                in_place: false,
            };
            // Only now is it certainly ours to empty.
            let cleared = this.buffer().and_then(|b| retry(|| b.get_ref().inner.set_len(0)));
            cleared.map_err(|e| io_error("cannot empty", &this.temp, &e))?;
            return Ok(this);
        }
        Err(busy(&temp))
    }

    fn buffer(&mut self) -> io::Result<&mut BufWriter<File>> {
        self.file.as_mut().ok_or_else(|| io::Error::other("the file is already finished"))
    }

    /// The path it will have.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Writes everything out and moves the file to its place.
    pub fn commit(mut self) -> Result<()> {
        let temp = self.temp.clone();
        let failed = |e: &io::Error| io_error("cannot write", &temp, e);
        self.buffer().and_then(Write::flush).map_err(|e| failed(&e))?;
        self.buffer().and_then(|b| retry(|| b.get_ref().inner.sync_all())).map_err(|e| failed(&e))?;
        if !self.overwrite && std::fs::symlink_metadata(&self.target).is_ok() {
            return Err(exists(&self.target));
        }
        // The lock must outlive the rename, or another run could take the file over in between; so
        // the handle is closed only afterwards.
        retry(|| std::fs::rename(&self.temp, &self.target))
            .map_err(|e| io_error("cannot replace", &self.target, &e))?;
        self.in_place = true;
        self.file = None;
        sync_folder(parent(&self.target))
    }
}

impl Write for AtomicFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.buffer()?.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.buffer()?.flush()
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, pos: SeekFrom) -> io::Result<u64> {
        self.buffer()?.seek(pos)
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        unfinished().retain(|temp| *temp != self.temp);
        if self.in_place {
            return;
        }
        // What is buffered is thrown away, not flushed: it may be what failed. The file is removed
        // while it is still locked, so that no other run can have taken it over.
        if let Some(buffer) = self.file.take() {
            let (file, _) = buffer.into_parts();
            let _ = std::fs::remove_file(&self.temp);
            drop(file);
        }
    }
}

/// Writes a file at once that becomes `target` when it is complete.
pub fn write(target: &Path, overwrite: bool, bytes: &[u8]) -> Result<()> {
    let mut file = AtomicFile::create(target, overwrite)?;
    file.write_all(bytes).map_err(|e| io_error("cannot write", target, &e))?;
    file.commit()
}

/// Refuses a target that is there already and may not be replaced: what [`AtomicFile::commit`] would find out at the end.
pub fn refuse_existing(target: &Path, overwrite: bool) -> Result<()> {
    if !overwrite && std::fs::symlink_metadata(target).is_ok() { Err(exists(target)) } else { Ok(()) }
}

/// The error for a target that is there already.
pub fn exists(target: &Path) -> Error {
    Error::new(Kind::Io, "files", format!("{} exists", target.display()))
        .advise("pass --overwrite to replace it, or name another output")
}

fn busy(temp: &Path) -> Error {
    Error::new(Kind::Io, "files", format!("another run is writing {}", temp.display()))
        .advise("wait for it, or name another output")
}

/// Opens and locks `temp`, without emptying it. `None` when another run moved it away meanwhile.
fn open_locked(temp: &Path) -> Result<Option<std::fs::File>> {
    let failed = |e: io::Error| io_error("cannot create", temp, &e);
    if let Ok(meta) = std::fs::symlink_metadata(temp) {
        // Never write through a link that someone planted in a shared folder.
        if !meta.is_file() {
            return Err(Error::new(Kind::Io, "files", format!("{} is in the way", temp.display())).advise("remove it"));
        }
    }
    let file =
        retry(|| std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(temp)).map_err(failed)?;
    match fault::gate().map_err(TryLockError::Error).and_then(|_| try_lock(&file)) {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(busy(temp)),
        // Some network file systems cannot lock; there two runs with one output are the user's care.
        Err(TryLockError::Error(_)) => {}
    }
    Ok(still_named(&file, temp).then_some(file))
}

/// Locks `file` unless another run holds it. A lock that was just given up can be held for an instant more: by a
/// process that another thread is starting, which has its files until it begins its own program.
pub(super) fn try_lock(file: &std::fs::File) -> std::result::Result<(), TryLockError> {
    for _ in 0..LOCK_WAITS {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_WAIT),
            other => return other,
        }
    }
    file.try_lock()
}

/// Whether `file` is what `path` names, not something a link leads to or that was replaced.
pub(super) fn still_named(file: &std::fs::File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        match (file.metadata(), std::fs::symlink_metadata(path)) {
            (Ok(a), Ok(b)) => a.dev() == b.dev() && a.ino() == b.ino(),
            _ => false,
        }
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        std::fs::symlink_metadata(path).is_ok_and(|m| m.is_file())
    }
}

/// Makes a rename in `folder` survive a power cut.
pub(super) fn sync_folder(folder: &Path) -> Result<()> {
    #[cfg(unix)]
    {
        let handle = retry(|| std::fs::File::open(folder)).map_err(|e| io_error("cannot open", folder, &e))?;
        match retry(|| handle.sync_all()) {
            // File systems that cannot sync a folder say so; the file itself is safe by then.
            Err(e) if e.kind() == io::ErrorKind::InvalidInput || e.kind() == io::ErrorKind::Unsupported => Ok(()),
            other => other.map_err(|e| io_error("cannot sync", folder, &e)),
        }
    }
    #[cfg(not(unix))]
    {
        let _ = folder;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::fault::{Fault, arm};
    use super::super::{free_space, same_file};
    use super::*;

    fn write(target: &Path, overwrite: bool, body: &[u8]) -> Result<()> {
        let mut f = AtomicFile::create(target, overwrite)?;
        f.write_all(body).map_err(|e| io_error("cannot write", target, &e))?;
        f.commit()
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut all: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        all.sort();
        all
    }

    #[test]
    fn a_failure_at_any_call_leaves_the_old_or_the_new_file() {
        let body: Vec<u8> = (0..3 * WRITE_BUFFER).map(|i| (i % 251) as u8).collect();
        for old in [None, Some(&b"old"[..])] {
            for fault in [Fault::NoSpace, Fault::Device, Fault::Denied, Fault::Interrupted, Fault::Short] {
                for persistent in [false, true] {
                    // A signal that interrupts forever would loop forever, as it must.
                    if persistent && fault == Fault::Interrupted {
                        continue;
                    }
                    for n in 0.. {
                        let dir = tempfile::tempdir().unwrap();
                        let target = dir.path().join("a.bin");
                        if let Some(old) = old {
                            std::fs::write(&target, old).unwrap();
                        }
                        let armed = arm(n, fault, persistent);
                        // Short for ever means a call per byte: keep that one small.
                        let body = if persistent && fault == Fault::Short { &body[..64] } else { &body[..] };
                        let done = write(&target, true, body);
                        let hits = armed.hits();
                        drop(armed);
                        let now = std::fs::read(&target).ok();
                        match done {
                            Ok(()) => assert_eq!(now.as_deref(), Some(body)),
                            // The last call syncs the folder: the new file is there by then.
                            Err(_) => assert!(now.as_deref() == old || now.as_deref() == Some(body)),
                        }
                        let expected: Vec<String> = now.iter().map(|_| "a.bin".to_owned()).collect();
                        assert_eq!(names(dir.path()), expected, "{fault:?} at call {n}");
                        if hits == 0 {
                            assert!(n > 5, "the gate must have seen the calls");
                            break;
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_stray_unfinished_file_is_taken_over_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a.bin");
        std::fs::write(temp_path(&target), b"what a killed run left, longer than the new one").unwrap();
        write(&target, false, b"new").unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"new");
        assert_eq!(names(dir.path()), ["a.bin"]);

        let held = AtomicFile::create(&target, true).unwrap();
        assert!(is_temp(&temp_path(&target)) && !is_temp(&target));
        assert!(!remove_stale(&temp_path(&target), false).unwrap(), "a living run needs it");
        let e = write(&target, true, b"second").expect_err("locked");
        assert!(e.message().contains("another run"), "{e}");
        drop(held);
        assert_eq!(names(dir.path()), ["a.bin"]);
        assert_eq!(write(&target, false, b"x").expect_err("exists").kind(), Kind::Io);
        std::fs::write(temp_path(&target), b"stray").unwrap();
        assert!(remove_stale(&temp_path(&target), true).unwrap() && temp_path(&target).exists());
        assert!(remove_stale(&temp_path(&target), false).unwrap());
        assert_eq!(names(dir.path()), ["a.bin"]);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_never_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        std::fs::write(&victim, b"precious").unwrap();
        let target = dir.path().join("out.bin");
        std::os::unix::fs::symlink(&victim, temp_path(&target)).unwrap();
        assert!(write(&target, true, b"new").is_err());
        std::fs::remove_file(temp_path(&target)).unwrap();
        std::os::unix::fs::symlink(&victim, &target).unwrap();
        assert!(same_file(&victim, &target));
        write(&target, true, b"new").unwrap();
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
        assert_eq!(std::fs::read(&target).unwrap(), b"new");
    }

    #[test]
    fn folders_and_missing_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(File::open(dir.path()).expect_err("folder").message().contains("is a folder"));
        assert!(File::open(&dir.path().join("none")).is_err());
        let long = dir.path().join("n".repeat(250));
        write(&long, false, b"x").unwrap();
        assert_eq!(std::fs::read(long).unwrap(), b"x");
        assert!(free_space(dir.path()).is_none_or(|b| b > 0));
    }
}
