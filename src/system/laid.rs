//! The frame that programs of cascades share: whole canvases of f32 between stages, a band for the last one's result, and
//! what each stage adds to the program while it is laid.

use super::cascade::{Stage, stages};
use super::footprint::Crop;
use super::job::{Cascade, Job};
use super::onestep::OUTPUT;
use super::phase::{GridAxis, Source};
use super::program::{Canvas, CanvasId, Extent, GridId, PICTURE, Program, Residency, Saved, SavedId, Table, TableId};
use crate::error::Result;
use crate::graph::Shape;
use crate::tile::Grid;

/// Name of the canvas of a stage's result, with its number from 1.
pub const STAGE: &str = "stage ";
/// Both axes with the names of their tables.
pub(super) const AXES: [(GridAxis, &str); 2] = [(GridAxis::Rows, "rows"), (GridAxis::Columns, "columns")];

/// A stage being laid.
pub(super) struct Laid<'a> {
    pub(super) program: &'a mut Program,
    /// Number from 0.
    pub(super) number: usize,
    /// How many stages the job has.
    pub(super) of: usize,
    pub(super) stage: Stage,
    /// The windows over its result.
    pub(super) grid: GridId,
    /// The job's picture, the stage's input, its result.
    pub(super) picture: CanvasId,
    pub(super) input: CanvasId,
    pub(super) output: CanvasId,
}

/// The program `name` of a job: `grid` gives the windows over a stage's result, `lay` adds its phases.
pub(super) fn program(
    name: &str,
    job: &Job,
    cascade: Cascade,
    grid: impl Fn(&Stage) -> Result<Grid>,
    mut lay: impl FnMut(Laid<'_>) -> Result<()>,
) -> Result<Program> {
    let all = stages(job.source, job.target, cascade)?;
    let mut program = Program::new(name, job.target, job.seed);
    let canvas = |program: &mut Program, name: String, extent: Extent, residency: Residency| {
        program.canvases.push(Canvas { name, extent, channels: 3, residency });
        CanvasId(program.canvases.len() - 1)
    };
    let picture = canvas(&mut program, PICTURE.into(), Extent::Fixed(job.source), Residency::Whole);
    program.transient.push(picture);
    let result = canvas(&mut program, OUTPUT.into(), Extent::OfTarget { num: 1, den: 1 }, Residency::Band);
    // The result's windows are told of: the first grid.
    for stage in all.iter().rev().take(1).chain(&all[..all.len() - 1]) {
        program.grids.push(grid(stage)?);
    }
    let mut input = picture;
    for (number, &stage) in all.iter().enumerate() {
        let last = number + 1 == all.len();
        let output = if last {
            result
        } else {
            let id = canvas(&mut program, format!("{STAGE}{}", number + 1), Extent::Fixed(stage.to), Residency::Whole);
            if !job.keep_stages {
                program.transient.push(id);
            }
            id
        };
        let grid = GridId(if last { 0 } else { number + 1 });
        lay(Laid { program: &mut program, number, of: all.len(), stage, grid, picture, input, output })?;
        input = output;
    }
    program.check()?;
    Ok(program)
}

impl Laid<'_> {
    /// `values` as a table of so many rows.
    pub(super) fn table(&mut self, name: &str, rows: usize, values: Vec<f32>) -> TableId {
        let name = format!("{STAGE}{} {name}", self.number + 1);
        self.program.tables.push(Table { name, width: values.len() / rows.max(1), values });
        TableId(self.program.tables.len() - 1)
    }

    /// A value kept for each window of `grid`.
    pub(super) fn saved(&mut self, what: &str, grid: GridId, shape: Shape) -> SavedId {
        let name = format!("{STAGE}{} {what}", self.number + 1);
        self.program.saved.push(Saved { name, grid, shape });
        SavedId(self.program.saved.len() - 1)
    }

    /// The source `name`: a table's row for each row, or column, of the stage's windows.
    pub(super) fn along(&mut self, name: &str, axis: GridAxis, values: Vec<f32>) -> (String, Source) {
        let grid = &self.program.grids[self.grid.0];
        let rows = match axis {
            GridAxis::Rows => grid.rows.count(),
            GridAxis::Columns => grid.cols.count(),
        };
        let table = self.table(name, rows, values);
        (name.to_owned(), Source::Along { table, axis })
    }
}

/// The source `name`: `gain * canvas + shift` where `crops` say, for each row and each column of windows.
pub(super) fn crop(name: &str, canvas: CanvasId, crops: &[Crop; 2], [gain, shift]: [f32; 2]) -> (String, Source) {
    let (rows, cols) = (crops[0].origins.clone(), crops[1].origins.clone());
    (name.to_owned(), Source::CropAt { canvas, rows, cols, gain, shift })
}
