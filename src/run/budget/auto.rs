//! The mode of the autoencoder where the user leaves it open: the cheapest that measured figures justify, and where there are
//! none, the best that fits and does not take out of proportion long.

use super::search::Search;
use super::{Choice, mib};
use crate::error::{Kind, Result};
use crate::limits;
use crate::run::options::VaeMode;
use crate::system::onestep::VaeFigures;
use crate::system::program::Residency;

/// Distance from `whole` at which another mode does as well, dB: `20 log10(255)`, where pictures differ by one level of 8
/// bits (root mean square), the least that a picture of 8 bits can show.
const ENOUGH: f64 = 48.13;
/// A better mode may take this many times as long as `tile`. `whole`, `shared`, and `exact` with its states kept take one to
/// three times as long, `exact` with states computed again ten times and more (`docs/vae-modes.md`).
const LONGER: f64 = 4.0;
/// The modes from the best down; `tile` comes after them.
const BETTER: [VaeMode; 3] = [VaeMode::Whole, VaeMode::Exact, VaeMode::Shared];

impl Search<'_> {
    /// What `--vae auto` takes. A job that is resumed keeps the mode it began with, where that still fits: other bytes would
    /// make all that was done useless.
    pub(super) fn auto(&mut self, earlier: Option<VaeMode>) -> Result<Choice> {
        if let Some(mode) = earlier.filter(|mode| *mode != VaeMode::Auto)
            && let Ok(choice) = self.mode(mode)
        {
            return Ok(because(choice, "the unfinished job began with it".into()));
        }
        // In any case: its windows say which figure holds, its time is what others are measured against. It streams weights and
        // needs the least memory where those matter: a job that is too large for it is refused with its advice.
        let tile = self.mode(VaeMode::Tile)?;
        let figures = self.model.as_one_step().map_or(&[][..], |m| &m.figures.tile);
        let measured = VaeFigures::at(figures, tile.taken.shaping.tile);
        if let Some(db) = measured.filter(|db| *db >= ENOUGH) {
            return Ok(because(tile, format!("{db:.1} dB from whole as measured for this model")));
        }
        let mut why = vec![match measured {
            Some(db) => format!("tile is only {db:.1} dB from whole as measured for this model"),
            None => "nothing was measured for this model at such windows".to_owned(),
        }];
        for mode in BETTER {
            match self.mode(mode) {
                Ok(found) if found.taken.seconds > LONGER * tile.taken.seconds => {
                    let times = found.taken.seconds / tile.taken.seconds;
                    why.push(format!("{} would take {times:.0} times as long as tile", mode.name()));
                }
                Ok(found) if in_files(&found) > limits::AUTO_FILES => {
                    why.push(format!("{} would keep {} in files at once", mode.name(), mib(in_files(&found))));
                }
                Ok(found) => {
                    why.push(format!("{} is the best that fits", mode.name()));
                    return Ok(because(found, why.join("; ")));
                }
                // Windows may be too small for the halo of `exact`: a usage error where the user asks for both.
                Err(e) if matches!(e.kind(), Kind::Memory | Kind::Limit | Kind::Usage) => {
                    why.push(format!("{} does not fit", mode.name()));
                }
                Err(e) => return Err(e),
            }
        }
        Ok(because(tile, why.join("; ")))
    }
}

/// Bytes of canvases that lie in files at the moment when most do.
fn in_files(choice: &Choice) -> u64 {
    let program = &choice.taken.program;
    (0..program.blocks.len()).map(|b| program.transient_bytes(b, Residency::Spool)).max().unwrap_or(0)
}

fn because(choice: Choice, why: String) -> Choice {
    Choice { why, ..choice }
}
