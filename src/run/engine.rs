//! One device and what is resident on it: the choice of a backend, the cache of plans, and executors that
//! stay warm from picture to picture.

use super::budget::{Decision, DeviceNeeds, Part};
use super::executor::{Executor, SharedDevice, SharedWeights};
use crate::abi::{BackendKind, Caps};
use crate::backend::Backend;
use crate::error::{Error, Kind, Result};
use crate::graph::Graph;
use crate::plan;
use crate::plan::command::Plan;
use std::sync::Arc;

/// Plans kept.
const PLANS: usize = 48;
/// Executors kept: each holds an arena, so few; one network at a time needs three.
const EXECUTORS: usize = 3;
/// Choices remembered.
const DECISIONS: usize = 64;

/// Opens an engine's device once more.
type Opener = Box<dyn FnMut() -> Result<Box<dyn Backend>> + Send>;

/// A device that runs jobs.
pub struct Engine {
    /// Where the device came from, when it can be opened again.
    opener: Option<Opener>,
    device: SharedDevice,
    caps: Caps,
    name: String,
    why: String,
    /// Most recently used last.
    plans: Vec<(String, Arc<Plan>)>,
    executors: Vec<(String, Executor)>,
    decisions: Vec<(String, Decision)>,
    /// The device is one of this machine, whose speed may be measured.
    real: bool,
    /// Executors made since the engine was.
    made: u64,
    /// Device bytes that may be allocated.
    cap: Option<u64>,
}

impl Engine {
    /// Opens the device that `spec` names: `cpu`, `cuda`, `cuda:N`, `wgpu`, `wgpu:N`, or `auto` (a CUDA device,
    /// else a hardware wgpu adapter, else the host's cores). `threads` bounds the host's cores, all by default.
    pub fn open(spec: &str, threads: Option<usize>) -> Result<Engine> {
        let chosen = super::devices::open(spec, threads)?;
        let spec = spec.to_owned();
        let opener = move || Ok(super::devices::open(&spec, threads)?.backend);
        let engine = Engine::with_backend(chosen.backend, chosen.name, chosen.why);
        Ok(Engine { opener: Some(Box::new(opener)), real: true, ..engine })
    }

    /// An engine on the backend that `opener` gives, which is called again when the device is lost.
    pub fn with_opener(
        mut opener: impl FnMut() -> Result<Box<dyn Backend>> + Send + 'static,
        name: impl Into<String>,
        why: impl Into<String>,
    ) -> Result<Engine> {
        let engine = Engine::with_backend(opener()?, name, why);
        Ok(Engine { opener: Some(Box::new(opener)), ..engine })
    }

    /// An engine on a given backend.
    pub fn with_backend(backend: Box<dyn Backend>, name: impl Into<String>, why: impl Into<String>) -> Engine {
        let caps = backend.caps().clone();
        let device = SharedDevice::new(backend);
        let (name, why) = (name.into(), why.into());
        let (plans, executors, decisions) = (Vec::new(), Vec::new(), Vec::new());
        Engine { opener: None, device, caps, name, why, plans, executors, decisions, real: false, made: 0, cap: None }
    }

    /// What the planner may assume of the device.
    pub fn caps(&self) -> &Caps {
        &self.caps
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Opens the device again after it was lost: nothing is resident afterwards, plans stay. An error when it cannot
    /// be opened, when another device answers, or for CUDA, whose errors outlive a context: there only a new
    /// process helps.
    pub fn reopen(&mut self) -> Result<()> {
        let lost = |why: String| Error::new(Kind::DeviceLost, "device", why).advise("start the program again");
        let opener = match &mut self.opener {
            Some(opener) if self.caps.kind != BackendKind::Cuda => opener,
            _ => return Err(lost(format!("{} was lost and cannot be opened again here", self.name))),
        };
        self.executors.clear();
        let backend = opener()?;
        // What is free changes; what the device is must not, or plans and bytes would be others.
        let identity = |caps: &Caps| Caps { memory: None, ..caps.clone() };
        if identity(backend.caps()) != identity(&self.caps) {
            return Err(lost(format!("{} was lost; {} answered instead", self.name, backend.caps().name)));
        }
        self.device = SharedDevice::new(backend);
        self.device.limit(self.cap);
        Ok(())
    }

    /// Why this device.
    pub fn why(&self) -> &str {
        &self.why
    }

    /// The device itself.
    pub fn device(&self) -> &SharedDevice {
        &self.device
    }

    /// Executors made so far; a warm call makes none.
    pub fn executors_made(&self) -> u64 {
        self.made
    }

    /// The plan of `graph`, whose identity beside the device is `key`.
    pub fn plan(&mut self, key: &str, graph: &Graph) -> Result<Arc<Plan>> {
        if let Some(i) = self.plans.iter().position(|(k, _)| k == key) {
            let found = self.plans.remove(i);
            let plan = found.1.clone();
            self.plans.push(found);
            return Ok(plan);
        }
        let plan = Arc::new(plan::compile(graph.clone(), &self.caps)?);
        if crate::knobs::is_on("TESSERA_PRINT_PLAN") {
            eprintln!("{}", plan::report::report(&plan));
        }
        if self.plans.len() == PLANS {
            self.plans.remove(0);
        }
        self.plans.push((key.to_owned(), plan.clone()));
        Ok(plan)
    }

    /// Whether the device is one of this machine, opened by [`Engine::open`].
    pub fn is_real(&self) -> bool {
        self.real
    }

    /// What was chosen for the same job before.
    pub fn decision(&self, key: &str) -> Option<Decision> {
        self.decisions.iter().find(|(k, _)| k == key).map(|d| d.1)
    }

    /// Remembers a choice.
    pub fn remember(&mut self, key: String, decision: Decision) {
        self.decisions.retain(|(k, _)| *k != key);
        if self.decisions.len() == DECISIONS {
            self.decisions.remove(0);
        }
        self.decisions.push((key, decision));
    }

    /// Refuses from now on what would bring the bytes allocated on the device above `cap`, and counts the peak anew.
    /// What is resident beyond it goes first.
    pub fn limit(&mut self, cap: Option<u64>) {
        while !self.executors.is_empty() && cap.is_some_and(|cap| self.device.held() > cap) {
            self.executors.remove(0);
        }
        self.cap = cap;
        self.device.limit(cap);
    }

    /// The executor of `part`, made when it is not resident. `scope` names the model whose weights `weights` packs.
    /// The caller gives it back with [`Engine::keep`].
    pub fn load(&mut self, part: &Part, scope: &str, weights: &SharedWeights) -> Result<Executor> {
        let key = resident(part, scope);
        if let Some(i) = self.executors.iter().position(|(k, _)| *k == key) {
            return Ok(self.executors.remove(i).1);
        }
        // What is resident for other plans makes room first; its weights stay while they are shared.
        let plan = part.streamed.as_ref().map_or(part.plan.as_ref(), |s| &s.plan);
        let own = DeviceNeeds::of(plan);
        // An arena that it shares may be larger than what it needs itself.
        let bytes = own.total() - own.arena + own.arena.max(part.arena.iter().sum());
        while self.executors.len() >= EXECUTORS {
            self.executors.remove(0);
        }
        self.make_room(bytes);
        self.made += 1;
        match &part.streamed {
            Some(streamed) => Executor::streamed(&self.device, streamed, weights.clone(), part.keep),
            None => Executor::in_arena(&self.device, plan.clone(), Some(scope), &mut |w| weights(w), &part.arena),
        }
    }

    /// Gives back warm executors, the least recently used first, until `bytes` more fit the device.
    pub(super) fn make_room(&mut self, bytes: u64) {
        while !self.executors.is_empty() && !self.device.fits(bytes) {
            self.executors.remove(0);
        }
    }

    /// Keeps the executor of `part` warm.
    pub fn keep(&mut self, part: &Part, scope: &str, executor: Executor) {
        self.executors.push((resident(part, scope), executor));
    }

    /// The executors that are kept warm.
    pub(super) fn warm(&self) -> impl Iterator<Item = &Executor> {
        self.executors.iter().map(|(_, e)| e)
    }

    /// Gives all resident executors back to the device.
    pub fn clear(&mut self) {
        self.executors.clear();
    }
}

/// What tells resident executors apart: in another arena the same part is another one.
fn resident(part: &Part, scope: &str) -> String {
    format!("{scope}\n{} in {:?}", part.key, part.arena)
}
