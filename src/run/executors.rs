//! Where the interpreter gets the executor of a graph from: all of them resident, or loaded when asked for.

use super::executor::Executor;
use crate::error::{Error, Kind, Result};
use crate::graph::DType;

/// The executors of a program's graphs, by graph number.
///
/// Not all of them need be resident at once: asking for one may load it, and give another back to the device
/// first. Whoever asks must not assume that a different graph's executor still exists afterwards, and tells by
/// [`Executor::serial`] whether it is the one to which the job's inputs were written.
pub trait Executors {
    /// Number of graphs.
    fn count(&self) -> usize;

    /// The executor of `graph`, resident when this returns.
    fn executor(&mut self, graph: usize) -> Result<&mut Executor>;

    /// Called before `bytes` are taken on the device beside the executors: gives back what only waits for another turn,
    /// as far as they need it.
    fn make_room(&mut self, bytes: u64) {
        let _ = bytes;
    }

    /// Host bytes the executors hold at once, at most.
    fn host_bytes(&self) -> u64;

    /// An executor of `graph` for one item in a wider storage type, resident when this returns: for an item whose
    /// values left the range of the type, with that type. `None` where there is no wider one.
    fn wide(&mut self, graph: usize) -> Result<Option<(&mut Executor, DType)>> {
        let _ = graph;
        Ok(None)
    }

    /// Called when a launch of `graph` failed with `error`, before it is given up: does what makes it worth trying
    /// again (opens a lost device anew, makes an executor for fewer items where memory ran out) and says in a
    /// sentence what that was. The error itself where nothing is left to try.
    fn recover(&mut self, graph: usize, error: Error) -> Result<String> {
        let _ = graph;
        Err(error)
    }
}

fn missing(graph: usize) -> Error {
    Error::new(Kind::Internal, "run", format!("there is no executor of graph {graph}"))
}

/// All resident.
impl Executors for Vec<Executor> {
    fn count(&self) -> usize {
        self.len()
    }

    fn executor(&mut self, graph: usize) -> Result<&mut Executor> {
        self.get_mut(graph).ok_or_else(|| missing(graph))
    }

    fn host_bytes(&self) -> u64 {
        self.iter().map(Executor::host_bytes).sum()
    }
}
