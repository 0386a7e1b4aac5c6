//! The executors of a choice: all resident, or each loaded when its turn comes and given back before the next.

use super::budget::{Part, Residency};
use super::engine::Engine;
use super::executor::{Executor, SharedWeights};
use super::executors::Executors;
use crate::error::{Error, Kind, Result};

/// Loads the parts of a choice on an engine, and leaves them warm there when it is dropped.
pub struct Loader<'a> {
    engine: &'a mut Engine,
    parts: &'a [Part],
    residency: Residency,
    /// Whose weights they are.
    scope: String,
    weights: SharedWeights,
    held: Vec<Option<Executor>>,
}

impl<'a> Loader<'a> {
    /// Loads what stays, or the first part. `scope` names the model whose weights `weights` packs.
    pub fn new(
        engine: &'a mut Engine,
        parts: &'a [Part],
        residency: Residency,
        scope: &str,
        weights: SharedWeights,
    ) -> Result<Loader<'a>> {
        let held = parts.iter().map(|_| None).collect();
        let mut loader = Loader { engine, parts, residency, scope: scope.into(), weights, held };
        let first = match residency {
            Residency::All | Residency::OneArena => 0..parts.len(),
            Residency::Networks => 0..parts.len().min(1),
        };
        first.into_iter().try_for_each(|graph| loader.load(graph))?;
        Ok(loader)
    }

    /// Device bytes of the executors it holds now.
    pub fn device_bytes(&self) -> u64 {
        self.held.iter().flatten().map(Executor::device_bytes).sum()
    }

    fn load(&mut self, graph: usize) -> Result<()> {
        let missing = || Error::new(Kind::Internal, "run", format!("there is no executor of graph {graph}"));
        let part = self.parts.get(graph).ok_or_else(missing)?;
        if self.held[graph].is_some() {
            return Ok(());
        }
        if self.residency == Residency::Networks {
            // The one before makes room: it stays warm only where there is room for both.
            self.give_back();
        }
        self.held[graph] = Some(self.engine.load(part, &self.scope, &self.weights)?);
        Ok(())
    }

    fn give_back(&mut self) {
        for (part, held) in self.parts.iter().zip(&mut self.held) {
            if let Some(executor) = held.take() {
                self.engine.keep(&part.key, &self.scope, executor);
            }
        }
    }
}

impl Executors for Loader<'_> {
    fn count(&self) -> usize {
        self.parts.len()
    }

    fn executor(&mut self, graph: usize) -> Result<&mut Executor> {
        self.load(graph)?;
        let held = self.held.get_mut(graph).and_then(Option::as_mut);
        held.ok_or_else(|| Error::new(Kind::Internal, "run", format!("graph {graph} was not loaded")))
    }

    fn host_bytes(&self) -> u64 {
        self.held.iter().flatten().map(Executor::host_bytes).sum()
    }
}

impl Drop for Loader<'_> {
    fn drop(&mut self) {
        self.give_back();
    }
}
