//! What a job connects to the canvases of a program: the rows that come and the rows that go.

use crate::error::Result;
use crate::system::program::CanvasId;

/// Rows that feed a canvas, top to bottom.
pub trait RowsIn {
    /// The next row, `width * channels` values.
    fn next_row(&mut self, row: &mut [f32]) -> Result<()>;
}

/// Where the finished rows of a canvas go, top to bottom.
pub trait RowsOut {
    /// Row `y`, `width * channels` values.
    fn put_row(&mut self, y: u32, row: &[f32]) -> Result<()>;

    /// Called when all rows that a row of windows finished have been put.
    fn settle(&mut self) -> Result<()> {
        Ok(())
    }

    /// Whether the states of the program shall be saved at the point it has come to.
    fn wants_point(&mut self) -> Result<bool> {
        Ok(false)
    }

    /// Saves the states at point `at`.
    fn save_point(&mut self, _at: u64, _states: &[&[u8]]) -> Result<()> {
        Ok(())
    }

    /// The last point that an earlier run saved.
    fn point(&self) -> Option<u64> {
        None
    }

    /// The states of that point, of these lengths; `None` when they cannot be proved.
    fn load_point(&mut self, _lengths: &[usize]) -> Result<Option<Vec<Vec<u8>>>> {
        Ok(None)
    }
}

impl<F: FnMut(&mut [f32]) -> Result<()>> RowsIn for F {
    fn next_row(&mut self, row: &mut [f32]) -> Result<()> {
        self(row)
    }
}

impl<F: FnMut(u32, &[f32]) -> Result<()>> RowsOut for F {
    fn put_row(&mut self, y: u32, row: &[f32]) -> Result<()> {
        self(y, row)
    }
}

/// What a job connects to a program's canvases. Whole canvases that are fed are read before the first
/// phase, those that are drained are written after the last.
#[derive(Default)]
pub struct Connections<'a> {
    /// Canvases fed by rows.
    pub inputs: Vec<(CanvasId, &'a mut dyn RowsIn)>,
    /// Canvases drained by rows.
    pub outputs: Vec<(CanvasId, &'a mut dyn RowsOut)>,
}
