//! States of a job at a point from which it can go on, beside its rows.

use super::{EVERY, Spool};
use crate::error::Result;
use crate::fs::RowFile;
use crate::tile::journal::{Record, Stored};
use flate2::Crc;
use std::time::Instant;

impl Spool {
    /// The last point at which the states of the job were saved.
    pub fn point(&self) -> Option<u64> {
        self.point.as_ref().map(|(at, _)| *at)
    }

    /// Whether the last point was saved long enough ago.
    pub fn wants_point(&self) -> bool {
        self.saved.is_none_or(|at| at.elapsed() >= EVERY)
    }

    /// Saves the states of the job at point `at`. Of two points one is always whole.
    pub fn save_point(&mut self, at: u64, states: &[&[u8]]) -> Result<()> {
        let mut stored = Vec::new();
        // Another letter than the last point's: its files stay until the new point is on disk.
        let letter = match &self.point {
            Some((_, old)) if old.first().is_some_and(|s| s.file.ends_with("-a.state")) => 'b',
            _ => 'a',
        };
        for (i, bytes) in states.iter().enumerate() {
            let name = format!("{i}-{letter}.state");
            let mut crc = Crc::new();
            crc.update(bytes);
            if !bytes.is_empty() {
                let mut file = RowFile::create(&self.folder.file(&name), bytes.len(), 1)?;
                file.write(0, bytes)?;
                file.sync()?;
                file.keep();
            }
            stored.push(Stored { file: name, bytes: bytes.len() as u64, crc: crc.sum() });
        }
        self.folder.sync()?;
        self.journal.append(&Record::Point { at, states: stored.clone() })?;
        self.point = Some((at, stored));
        self.saved = Some(Instant::now());
        Ok(())
    }

    /// The states of the last point, each of the length given. `None` when they are not what was saved.
    pub fn load_point(&self, lengths: &[usize]) -> Result<Option<Vec<Vec<u8>>>> {
        let Some((_, stored)) = &self.point else { return Ok(None) };
        if stored.len() != lengths.len() || stored.iter().zip(lengths).any(|(s, &n)| s.bytes != n as u64) {
            return Ok(None);
        }
        let mut all = Vec::new();
        for (state, &len) in stored.iter().zip(lengths) {
            let mut bytes = vec![0; len];
            if len > 0 {
                match RowFile::open(&self.folder.file(&state.file), len, 1) {
                    Ok(file) => file.read(0, &mut bytes)?,
                    Err(_) => return Ok(None),
                }
            }
            let mut crc = Crc::new();
            crc.update(&bytes);
            if crc.sum() != state.crc {
                return Ok(None);
            }
            all.push(bytes);
        }
        Ok(Some(all))
    }
}
