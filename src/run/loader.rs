//! The executors of a choice: all resident, or each loaded when its turn comes and given back before the next; and
//! what they can do when a launch fails: a wider type, fewer items, a device opened again.

use super::budget::{Choice, DeviceNeeds, Part, Residency, wider};
use super::engine::Engine;
use super::executor::{Executor, SharedDevice, SharedWeights};
use super::executors::Executors;
use crate::error::{Error, Kind, Result};
use crate::graph::{DType, Graph};
use std::collections::HashMap;

/// How often one job opens a lost device again.
const REOPENINGS: u32 = 3;

/// Loads the parts of a choice on an engine, and leaves them warm there when it is dropped.
pub struct Loader<'a> {
    engine: &'a mut Engine,
    graphs: &'a [Graph],
    parts: Vec<Part>,
    residency: Residency,
    /// The network that each graph is a part of.
    networks: Vec<usize>,
    cap: Option<u64>,
    /// Whose weights they are.
    scope: String,
    weights: SharedWeights,
    held: Vec<Option<Executor>>,
    /// The wide executor of one graph: it takes the place of all others.
    wide: Option<(usize, Part, Executor)>,
    reopened: u32,
    /// What was done to recover, in words.
    notes: Vec<String>,
}

impl<'a> Loader<'a> {
    /// Loads what stays, or the first part; where memory runs out with fewer items a launch. `scope` names the
    /// model whose weights `weights` packs.
    pub fn new(engine: &'a mut Engine, choice: &'a Choice, scope: &str, weights: SharedWeights) -> Result<Loader<'a>> {
        let (graphs, parts, residency) =
            (choice.taken.program.graphs.as_slice(), choice.taken.parts.clone(), choice.taken.residency);
        let held = parts.iter().map(|_| None).collect();
        let (scope, cap, notes) = (scope.to_owned(), choice.cap, Vec::new());
        let networks = choice.taken.program.networks();
        let (wide, reopened) = (None, 0);
        let mut loader =
            Loader { engine, graphs, parts, residency, networks, cap, scope, weights, held, wide, reopened, notes };
        let first = match residency {
            Residency::All | Residency::OneArena => 0..graphs.len(),
            Residency::Networks => 0..graphs.len().min(1),
        };
        for graph in first {
            while let Err(e) = loader.load(graph) {
                loader.recover(graph, e)?;
            }
        }
        Ok(loader)
    }

    /// Sentences on what failed and what was done about it.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The device they are loaded on now.
    pub fn device(&self) -> SharedDevice {
        self.engine.device().clone()
    }

    /// Device bytes of the executors there are now: those it holds, and those that wait for another turn. Buffers that
    /// several share are counted once.
    pub fn device_bytes(&self) -> u64 {
        let wide = self.wide.iter().map(|(_, _, e)| e);
        let all = self.held.iter().flatten().chain(wide).chain(self.engine.warm());
        all.flat_map(Executor::buffers).collect::<HashMap<_, _>>().into_values().sum()
    }

    fn load(&mut self, graph: usize) -> Result<()> {
        // Asked before every launch: nothing is allocated where it is there.
        if self.held.get(graph).is_some_and(Option::is_some) && self.wide.is_none() {
            return Ok(());
        }
        let missing = || Error::new(Kind::Internal, "run", format!("there is no executor of graph {graph}"));
        let part = self.parts.get(graph).ok_or_else(missing)?.clone();
        if self.residency == Residency::Networks || self.wide.is_some() {
            // The one before makes room: it stays warm only where there is room for both.
            self.give_back(Some(graph));
        }
        self.held[graph] = Some(self.engine.load(&part, &self.scope, &self.weights)?);
        Ok(())
    }

    /// Gives back what is loaded, but for the other parts of the network of `graph`.
    fn give_back(&mut self, graph: Option<usize>) {
        if let Some((_, part, executor)) = self.wide.take() {
            self.engine.keep(&part, &self.scope, executor);
        }
        let stays = graph.and_then(|g| self.networks.get(g)).copied();
        let others = self.networks.iter().zip(self.parts.iter().zip(&mut self.held));
        for (_, (part, held)) in others.filter(|(network, _)| Some(**network) != stays) {
            if let Some(executor) = held.take() {
                self.engine.keep(part, &self.scope, executor);
            }
        }
    }

    /// Half the items a launch.
    fn halve(&mut self, graph: usize, error: Error) -> Result<String> {
        let (Some(part), Some(whole)) = (self.parts.get(graph), self.graphs.get(graph)) else { return Err(error) };
        let items = part.plan.items;
        if items < 2 {
            return Err(error);
        }
        let half = part.with_items(self.engine, &self.scope, whole, items / 2)?;
        self.held[graph] = None;
        self.parts[graph] = half;
        Ok(format!("{}: {} windows a launch from here on, not {items}", error.message(), items / 2))
    }

    /// The device opened again.
    fn reopen(&mut self, error: Error) -> Result<String> {
        if self.reopened == REOPENINGS {
            let why = format!("{}, after it was opened again {REOPENINGS} times", error.message());
            return Err(
                Error::new(Kind::DeviceLost, "device", why).advise("see what the system's log says of the driver")
            );
        }
        self.reopened += 1;
        self.wide = None;
        self.held.iter_mut().for_each(|e| *e = None);
        self.engine.reopen().map_err(|e| {
            let why = format!("{}; {}", error.message(), e.message());
            Error::new(Kind::DeviceLost, "device", why).advise(e.advice().unwrap_or("start the program again"))
        })?;
        Ok(format!("{}; it was opened again", error.message()))
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

    fn make_room(&mut self, bytes: u64) {
        self.engine.make_room(bytes);
    }

    fn host_bytes(&self) -> u64 {
        let wide = self.wide.iter().map(|(_, _, e)| e.host_bytes());
        self.held.iter().flatten().map(Executor::host_bytes).chain(wide).sum()
    }

    fn wide(&mut self, graph: usize) -> Result<Option<(&mut Executor, DType)>> {
        let caps = self.engine.caps().clone();
        let (Some(dtype), Some(whole)) = (wider(&caps), self.graphs.get(graph)) else { return Ok(None) };
        if self.wide.as_ref().is_none_or(|(g, ..)| *g != graph) {
            self.give_back(None);
            let left = self.cap.unwrap_or(u64::MAX).saturating_sub(DeviceNeeds::fixed(&caps).allocated());
            let part = Part::wide(self.engine, &self.scope, whole, dtype, left)?;
            let executor = self.engine.load(&part, &self.scope, &self.weights)?;
            self.wide = Some((graph, part, executor));
        }
        Ok(self.wide.as_mut().map(|(_, _, e)| (e, dtype)))
    }

    fn recover(&mut self, graph: usize, error: Error) -> Result<String> {
        let what = match error.kind() {
            Kind::Memory => self.halve(graph, error)?,
            Kind::DeviceLost => self.reopen(error)?,
            _ => return Err(error),
        };
        self.notes.push(what.clone());
        Ok(what)
    }
}

impl Drop for Loader<'_> {
    fn drop(&mut self) {
        self.give_back(None);
    }
}
