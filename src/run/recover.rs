//! What is done before a launch is given up. An item whose values leave the range of the storage type is computed
//! again in a wider one; a launch for which memory ran out, or that lost its device, is tried again once the
//! executors have found a way. Nothing but the storage type of such an item changes a bit of the result.

use super::canvas::World;
use super::control::Control;
use super::executor::Executor;
use super::executors::Executors;
use super::window_phase::Prepared;
use crate::error::{Error, Kind, Result};
use crate::graph::DType;

/// The phase whose job inputs the executor of a graph holds, and which executor that was.
pub(super) type Holds = Vec<Option<(usize, u64)>>;

/// How a launch ended.
pub(super) enum Outcome {
    /// The results are there; so many items were computed again, some of which are told of in words.
    Done { redone: u64, told: Vec<String> },
    /// Nothing was computed, but it is worth trying again.
    Again,
}

/// The executor of a phase with the inputs that outlive a window written.
pub(super) fn settled<'e>(
    prepared: &mut Prepared<'_>,
    p: usize,
    executors: &'e mut dyn Executors,
    holds: &mut Holds,
    world: &World<'_>,
) -> Result<&'e mut Executor> {
    let graph = prepared.phase.graph.0;
    let executor = executors.executor(graph)?;
    let held = Some((p, executor.serial()));
    if holds[graph] != held {
        prepared.settle(executor, world)?;
        holds[graph] = held;
    }
    Ok(executor)
}

/// Runs what was gathered for `batch` (window and branch of each item).
pub(super) fn compute(
    prepared: &mut Prepared<'_>,
    batch: &[(usize, u32)],
    executors: &mut dyn Executors,
    holds: &mut Holds,
    world: &World<'_>,
    control: &mut Control<'_>,
) -> Result<Outcome> {
    let graph = prepared.phase.graph.0;
    let computed = executors.executor(graph).and_then(|e| prepared.compute(e, 0..batch.len(), control.cancel));
    match computed {
        Ok(()) => Ok(Outcome::Done { redone: 0, told: Vec::new() }),
        Err(e) if e.kind() == Kind::NonFinite => redo(prepared, batch, executors, holds, world, control, e),
        Err(e) => {
            again(prepared, batch, executors, holds, e, control)?;
            Ok(Outcome::Again)
        }
    }
}

/// Asks the executors for a way to try again, or gives the error with its position.
pub(super) fn again(
    prepared: &Prepared<'_>,
    batch: &[(usize, u32)],
    executors: &mut dyn Executors,
    holds: &mut Holds,
    error: Error,
    control: &mut Control<'_>,
) -> Result<()> {
    retry(prepared.phase.graph.0, executors, holds, placed(error, prepared, batch), control)
}

/// The same for a launch of `graph` whose error has its position.
pub(super) fn retry(
    graph: usize,
    executors: &mut dyn Executors,
    holds: &mut Holds,
    error: Error,
    control: &mut Control<'_>,
) -> Result<()> {
    if !matches!(error.kind(), Kind::Memory | Kind::DeviceLost) {
        return Err(error);
    }
    let what = executors.recover(graph, error)?;
    // Whatever the executors held went with the device or the buffers.
    holds.fill(None);
    control.observer.note(&what);
    Ok(())
}

/// Computes the items one by one, those that are not finite in the wider type. Item by item, because which of a
/// batch failed is not known, and because an item's bytes must not depend on what else was in its launch.
fn redo(
    prepared: &mut Prepared<'_>,
    batch: &[(usize, u32)],
    executors: &mut dyn Executors,
    holds: &mut Holds,
    world: &World<'_>,
    control: &mut Control<'_>,
    error: Error,
) -> Result<Outcome> {
    let graph = prepared.phase.graph.0;
    let mut error = Some(error);
    let (mut redone, mut told) = (0, Vec::new());
    for i in 0..batch.len() {
        let one = &batch[i..i + 1];
        // Alone in its launch it has failed already.
        let failed = if batch.len() == 1 {
            error.take()
        } else {
            let again = executors.executor(graph).and_then(|e| prepared.compute(e, i..i + 1, control.cancel));
            match again {
                Ok(()) => None,
                Err(e) if e.kind() == Kind::NonFinite => Some(e),
                Err(e) => return Err(placed(e, prepared, one)),
            }
        };
        let Some(failed) = failed else { continue };
        let failed = placed(failed, prepared, one);
        let Some((wide, dtype)) = executors.wide(graph)? else { return Err(failed) };
        holds[graph] = None;
        prepared.settle(wide, world)?;
        prepared.compute(wide, i..i + 1, control.cancel).map_err(|e| refused_wider(&failed, dtype, e))?;
        redone += 1;
        told.push(redone_in(dtype, &failed));
        // The narrow executor may have gone to make room.
        settled_again(prepared, executors, holds, world)?;
    }
    Ok(Outcome::Done { redone, told })
}

/// Brings the phase's own executor back after a wider one took its place.
fn settled_again(
    prepared: &mut Prepared<'_>,
    executors: &mut dyn Executors,
    holds: &mut Holds,
    world: &World<'_>,
) -> Result<()> {
    let graph = prepared.phase.graph.0;
    prepared.settle(executors.executor(graph)?, world)?;
    // Not known here as which phase: the next launch settles once more, which only costs time.
    holds[graph] = None;
    Ok(())
}

/// The error of an item that failed in the storage type with `failed` and in the wider `dtype` with `e`.
pub(super) fn refused_wider(failed: &Error, dtype: DType, e: Error) -> Error {
    if e.kind() != Kind::NonFinite {
        return e;
    }
    let why = format!("{}, in {} as well", failed.message(), dtype.name());
    Error::new(Kind::NonFinite, "run", why).advise("the weights or the picture hold values that are not sane")
}

/// What is told of an item that `failed` and was computed again.
pub(super) fn redone_in(dtype: DType, failed: &Error) -> String {
    format!("computed again in {}: {}", dtype.name(), failed.message())
}

/// The error with the windows it happened in.
fn placed(e: Error, prepared: &Prepared<'_>, batch: &[(usize, u32)]) -> Error {
    let more = if batch.len() > 1 { format!(" and {} more", batch.len() - 1) } else { String::new() };
    e.at(format!("{}: {}{more}", prepared.phase.name, prepared.grid.describe(batch[0].0)))
}
