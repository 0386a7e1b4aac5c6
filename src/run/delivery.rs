//! Where finished rows go: a short job encodes them at once; a long one keeps them in a spool, from which the
//! picture is encoded in a last pass, so that a job that was interrupted goes on where it ended.

use super::key::Deciding;
use super::options::{Cancel, Resume, UpscaleOptions, VaeMode};
use crate::error::{Error, Kind, Result};
use crate::extent;
use crate::fs;
use crate::image::{self, Depth, Header, RowSink};
use crate::tile::Spool;
use crate::tile::spool::{self, Found};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// A job that takes longer than this by the time its first row of windows took keeps its rows, seconds. What a
/// shorter one loses is done again as soon as its spool would be read.
const LONG: f64 = 10.0;
/// Share of its raw size that a picture takes at least beside its spool (as for outputs without one).
const LEAST_SHARE: u64 = 5;

/// The spool this process works in and would leave.
static UNFINISHED: Mutex<Option<PathBuf>> = Mutex::new(None);

/// The spool that stays when this process ends now: what `--resume` would take up.
pub fn unfinished_spool() -> Option<PathBuf> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn note_unfinished(path: Option<PathBuf>) {
    *UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner) = path;
}

enum Place {
    /// Short or long? The first row tells.
    Undecided(Box<Deciding>),
    /// Rows are encoded as they come.
    Direct,
    /// Rows are kept.
    Kept(Box<Spool>),
}

/// Takes the finished rows of one job and makes the file of them.
pub(super) struct Delivery {
    sink: Option<Box<dyn RowSink>>,
    place: Place,
    output: PathBuf,
    spool: PathBuf,
    depth: Depth,
    rows: u64,
    row: Vec<f32>,
    packed: Vec<u8>,
    /// Rows of windows of the whole job, and when its first one began.
    window_rows: usize,
    began: Instant,
    /// Whether the output is in its place already.
    placed: bool,
    /// Whether the folder is needed while the job runs only: `--no-resume`.
    passing: bool,
    /// Sentences for the user.
    pub(super) notes: Vec<String>,
}

/// Where the spool of a job lies.
pub(super) fn spool_of(options: &UpscaleOptions, output: &Path) -> PathBuf {
    spool::path_of(output, options.spool_dir.as_deref())
}

/// What a pipe brought or took is gone: there is nothing to go on from.
fn resume_of(options: &UpscaleOptions, output: &Path) -> Resume {
    if image::is_pipe(&options.input) || image::is_pipe(output) { Resume::Never } else { options.resume }
}

/// Looks for what an earlier run of the same output left. An error when it would be lost although nobody said
/// so, when another run works on it, or when the folder for spools is missing. True when the output that is
/// there may be what that run moved to its place before it was killed.
pub(super) fn check_spool(options: &UpscaleOptions, output: &Path) -> Result<bool> {
    if options.resume == Resume::Always && resume_of(options, output) == Resume::Never {
        let why = "a job that reads or writes a pipe cannot be resumed";
        return Err(Error::new(Kind::Usage, "run", why).advise("use files, or leave --resume away"));
    }
    if image::is_pipe(output) {
        return Ok(false);
    }
    if let Some(dir) = options.spool_dir.as_deref().filter(|dir| !dir.is_dir()) {
        let why = format!("the folder {} for unfinished jobs does not exist", dir.display());
        return Err(Error::new(Kind::Io, "spool", why).advise("make it first, or leave out --spool-dir"));
    }
    let path = spool_of(options, output);
    match (spool::look(&path)?, options.resume) {
        (Found::Nothing, _) => {
            // A run that was killed when all was done, or before anything was. A journal that proves nothing is told
            // of by who opens it to go on.
            let told_later = options.resume == Resume::Always && path.join(spool::JOURNAL).exists();
            if path.is_dir() && !options.dry_run && !told_later {
                spool::remove(&path)?;
            }
            Ok(false)
        }
        (Found::Unfinished, Resume::Never) => Ok(false),
        (Found::Busy, _) => Err(Error::new(Kind::Io, "spool", format!("another run is working in {}", path.display()))
            .advise("wait for it, or name another output")),
        (Found::Unfinished, Resume::Always) => Ok(spool::placed(&path, output).is_some()),
        (Found::Unfinished, Resume::Auto) if options.overwrite || options.dry_run => Ok(false),
        (Found::Unfinished, Resume::Auto) => {
            let why = format!("an unfinished job for {} lies in {}", output.display(), path.display());
            Err(Error::new(Kind::Io, "spool", why)
                .advise("pass --resume to go on with it, --overwrite to begin anew, or remove it by tessera clean"))
        }
    }
}

/// The side of the windows of the job that would be gone on with: memory may have had more or less room then, and
/// other windows would make other bytes.
pub(super) fn earlier_tile(options: &UpscaleOptions, output: &Path) -> Option<u32> {
    if options.resume != Resume::Always || options.tile.is_some() || image::is_pipe(output) {
        return None;
    }
    spool::key_part(&spool_of(options, output), "windows")?.split('+').next()?.parse().ok()
}

/// The mode of the autoencoder of that job: what `auto` takes depends on memory as well.
pub(super) fn earlier_mode(options: &UpscaleOptions, output: &Path) -> Option<VaeMode> {
    if options.resume != Resume::Always || image::is_pipe(output) {
        return None;
    }
    VaeMode::parse(&spool::key_part(&spool_of(options, output), "vae")?)
}

impl Delivery {
    /// Begins the file and, where the options ask for one, the spool. `placed`: what [`check_spool`] found.
    /// `needs_folder`: other things than finished rows are kept on disk, so there is a spool from the start.
    pub(super) fn open(
        options: &UpscaleOptions,
        output: &Path,
        header: &Header,
        deciding: Deciding,
        window_rows: usize,
        placed: bool,
        needs_folder: bool,
    ) -> Result<Delivery> {
        let writing = options.writing();
        let depth = image::output_depth(output, header, &writing)?;
        let row_bytes = header.row_len() * depth.bytes();
        let mut this = Delivery {
            sink: None,
            place: Place::Direct,
            output: output.to_owned(),
            spool: spool_of(options, output),
            depth,
            rows: header.height,
            row: vec![0.0; header.row_len()],
            packed: vec![0; row_bytes],
            window_rows,
            began: Instant::now(),
            placed: false,
            passing: false,
            notes: Vec::new(),
        };
        match resume_of(options, output) {
            Resume::Always => {
                if placed && spool::placed(&this.spool, output) == Some(deciding.key()?) {
                    spool::remove(&this.spool)?;
                    this.placed = true;
                    return Ok(this);
                }
                if placed && !options.overwrite {
                    return Err(fs::exists(output));
                }
                if spool::look(&this.spool)? == Found::Nothing {
                    this.check_space()?;
                }
                this.keep(&deciding, true)?;
            }
            Resume::Auto | Resume::Never => {
                // Allowed, or refused by now; what is not worth keeping goes without a word.
                if !image::is_pipe(output) && this.spool.is_dir() {
                    spool::remove(&this.spool)?;
                }
                this.passing = resume_of(options, output) == Resume::Never;
                if needs_folder && !image::is_pipe(output) {
                    this.keep(&deciding, false)?;
                } else if !this.passing {
                    this.place = Place::Undecided(Box::new(deciding));
                }
            }
        }
        this.sink = Some(image::create_with(output, header, &writing)?);
        Ok(this)
    }

    /// The folder of the job's files, where it has one.
    pub(super) fn folder(&self) -> Option<PathBuf> {
        match &self.place {
            Place::Kept(spool) => Some(spool.path().to_owned()),
            Place::Undecided(_) | Place::Direct => None,
        }
    }

    /// The first window begins.
    pub(super) fn begin(&mut self) {
        self.began = Instant::now();
    }

    /// Opens the spool.
    fn keep(&mut self, deciding: &Deciding, resume: bool) -> Result<()> {
        let (spool, notes) = Spool::open(&self.spool, &deciding.key()?, self.packed.len(), self.rows, resume)?;
        self.notes.extend(notes);
        if spool.done() > 0 {
            let (done, all) = (spool.done(), self.rows);
            self.notes.push(format!("{done} of {all} rows are there from the interrupted job"));
        }
        note_unfinished((spool.has_work() && !self.passing).then(|| self.spool.clone()));
        self.place = Place::Kept(Box::new(spool));
        Ok(())
    }

    /// Refuses a disk too full for the spool, and for the output when that goes to the same disk.
    fn check_space(&self) -> Result<()> {
        let (folder, out) = (fs::parent(&self.spool), fs::parent(&self.output));
        let spool = extent::product("spool", &[self.packed.len() as u64, self.rows])?;
        let more = if fs::same_volume(folder, out) { spool / LEAST_SHARE } else { 0 };
        let need = spool.saturating_add(more);
        match fs::free_space(folder) {
            Some(free) if free < need => {
                let why =
                    format!("{free} bytes are free in {}, a job that can be resumed needs {need}", folder.display());
                Err(Error::new(Kind::Io, "spool", why)
                    .advise("free some space, name another disk with --spool-dir, or pass --no-resume"))
            }
            _ => Ok(()),
        }
    }

    /// Rows finished by an earlier run, or kept by this one.
    pub(super) fn done(&self) -> u64 {
        match &self.place {
            Place::Kept(spool) => spool.done(),
            Place::Undecided(_) | Place::Direct => 0,
        }
    }

    /// Whether no row is missing.
    pub(super) fn is_complete(&self) -> bool {
        self.placed || self.done() == self.rows
    }

    /// Whether nothing is left to do at all.
    pub(super) fn is_placed(&self) -> bool {
        self.placed
    }

    /// Takes row `y`.
    pub(super) fn put(&mut self, y: u64, row: &[f32]) -> Result<()> {
        if matches!(self.place, Place::Undecided(_)) {
            self.decide();
        }
        match &mut self.place {
            Place::Kept(spool) => {
                image::pack_row(self.depth, row, &mut self.packed);
                spool.push(y, &self.packed)
            }
            Place::Undecided(_) | Place::Direct => match &mut self.sink {
                Some(sink) => sink.write_row(row),
                None => Err(Error::new(Kind::Internal, "run", "a row came after the last")),
            },
        }
    }

    /// The first row is here: whether the rest will take long.
    fn decide(&mut self) {
        let expected = self.began.elapsed().as_secs_f64() * self.window_rows as f64;
        if expected < LONG || self.window_rows < 2 {
            self.place = Place::Direct;
        } else {
            self.keep_if_possible();
        }
    }

    /// Opens the spool of a job that is undecided. Not asked for, so what stands in its way is no error.
    fn keep_if_possible(&mut self) {
        let Place::Undecided(deciding) = std::mem::replace(&mut self.place, Place::Direct) else { return };
        if let Err(e) = self.check_space().and_then(|()| self.keep(&deciding, false)) {
            self.notes.push(format!("this job cannot be resumed if it is interrupted: {}", e.message()));
        }
    }

    /// All rows that a row of windows finished have come.
    pub(super) fn settle(&mut self) -> Result<()> {
        if let Place::Kept(spool) = &mut self.place {
            spool.settle()?;
            if spool.has_work() && !self.passing {
                note_unfinished(Some(self.spool.clone()));
            }
        }
        Ok(())
    }

    /// Whether the job's states are to be saved now: when it keeps its rows, or has taken long already.
    pub(super) fn wants_point(&mut self) -> bool {
        if matches!(self.place, Place::Undecided(_)) && self.began.elapsed().as_secs_f64() >= LONG {
            self.keep_if_possible();
        }
        match &self.place {
            Place::Kept(spool) => spool.wants_point(),
            Place::Undecided(_) | Place::Direct => false,
        }
    }

    /// Saves the job's states.
    pub(super) fn save_point(&mut self, at: u64, states: &[&[u8]]) -> Result<()> {
        if let Place::Kept(spool) = &mut self.place {
            spool.save_point(at, states)?;
            note_unfinished((!self.passing).then(|| self.spool.clone()));
        }
        Ok(())
    }

    /// The last point that was saved.
    pub(super) fn point(&self) -> Option<u64> {
        match &self.place {
            Place::Kept(spool) => spool.point(),
            Place::Undecided(_) | Place::Direct => None,
        }
    }

    /// Its states.
    pub(super) fn load_point(&mut self, lengths: &[usize]) -> Result<Option<Vec<Vec<u8>>>> {
        let Place::Kept(spool) = &self.place else { return Ok(None) };
        let states = spool.load_point(lengths)?;
        if states.is_none() {
            self.notes.push("states of the interrupted job are damaged; they are computed again".into());
        }
        Ok(states)
    }

    /// All rows have come: encodes those that were kept, and moves the file to its place.
    pub(super) fn finish(&mut self, cancel: &Cancel) -> Result<()> {
        let Some(mut sink) = self.sink.take() else { return Ok(()) };
        if let Place::Kept(spool) = &mut self.place {
            spool.commit()?;
            note_unfinished((!self.passing).then(|| self.spool.clone()));
            for y in 0..self.rows {
                cancel.check()?;
                spool.read(y, &mut self.packed)?;
                image::unpack_row(self.depth, &self.packed, &mut self.row);
                sink.write_row(&self.row)?;
            }
            spool.placing(&fs::temp_path(&self.output))?;
        }
        cancel.check()?;
        sink.finish()
    }

    /// The file is in its place: what was kept goes.
    pub(super) fn close(self) -> Vec<String> {
        let mut notes = self.notes;
        if let Place::Kept(spool) = self.place
            && let Err(e) = spool.remove()
        {
            notes.push(format!("the picture is complete, but its spool stays: {}", e.message()));
        }
        note_unfinished(None);
        notes
    }

    /// The job begins anew with other windows: nothing that was made is of use.
    pub(super) fn abandon(mut self) -> Result<()> {
        self.sink = None;
        note_unfinished(None);
        match self.place {
            Place::Kept(spool) => spool.remove(),
            Place::Undecided(_) | Place::Direct => Ok(()),
        }
    }

    /// The job failed with `e`: what is finished is kept, where anything is, and the error says how to go on.
    pub(super) fn fail(mut self, e: Error) -> Error {
        // The unfinished file goes first: on a full disk the journal needs its place.
        self.sink = None;
        let Place::Kept(mut spool) = self.place else { return e };
        // The rows are written; that they cannot be journalled changes nothing about the error.
        let _ = spool.commit();
        if self.passing || !spool.has_work() {
            note_unfinished(None);
            let _ = spool.remove();
            return e;
        }
        note_unfinished(Some(self.spool.clone()));
        let how = format!(
            "{} of {} rows are kept in {}: --resume goes on, tessera clean removes them",
            spool.done(),
            self.rows,
            self.spool.display()
        );
        let advice = e.advice().map_or_else(|| how.clone(), |a| format!("{a}; {how}"));
        e.advise(advice)
    }
}
