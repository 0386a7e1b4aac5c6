//! Runs one plan on one device: owns its buffers, converts between the host's plain f32 pixels and the
//! ports' types and pitch, writes the items, checks what came out.
//!
//! All host memory is taken when the executor is made; a run allocates nothing of ours.

use super::port::{decode, encode, internal, items_in};
use super::streamed::Pieces;
use crate::abi::params::{CONTROL_HEADER_WORDS, STATUS_NARROW};
use crate::abi::{Caps, Item};
use crate::backend::{Backend, BufferId, ListId, Stop};
use crate::error::{Error, Kind, Result};
use crate::extent;
use crate::limits;
use crate::plan::command::{PackedWeight, Plan, Port, Slot, SlotId, SlotKind};
use crate::plan::stream::Streamed;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// Executors made by this process.
static MADE: AtomicU64 = AtomicU64::new(0);

/// A backend and the weights that several plans on it share.
pub struct Device {
    backend: Box<dyn Backend>,
    /// Packed weights by model and recipe, and shared arenas by size, with the number of executors that use each.
    weights: HashMap<String, (BufferId, usize)>,
}

impl Device {
    /// The backend itself.
    pub(super) fn backend(&mut self) -> &mut dyn Backend {
        self.backend.as_mut()
    }
}

/// A device used by several executors; calls are serialised, as the device's own queue is.
#[derive(Clone)]
pub struct SharedDevice(Arc<Mutex<Device>>);

impl SharedDevice {
    /// Wraps a backend.
    pub fn new(backend: Box<dyn Backend>) -> SharedDevice {
        SharedDevice(Arc::new(Mutex::new(Device { backend, weights: HashMap::new() })))
    }

    /// What the planner may assume of it.
    pub fn caps(&self) -> Caps {
        self.lock().backend.caps().clone()
    }

    /// Device bytes held now.
    pub fn allocated(&self) -> u64 {
        self.lock().backend.allocated()
    }

    /// Refuses from now on what would bring the device bytes held above `cap`; counts the peak anew.
    pub fn limit(&self, cap: Option<u64>) {
        self.lock().backend.account().limit(cap);
    }

    /// Device bytes held now by everything the backend allocates, transfers and parameters included.
    pub fn held(&self) -> u64 {
        self.lock().backend.account().held()
    }

    /// Most of [`SharedDevice::held`] since [`SharedDevice::limit`].
    pub fn peak(&self) -> u64 {
        self.lock().backend.account().peak()
    }

    /// Whether `bytes` more may be held.
    pub fn fits(&self, bytes: u64) -> bool {
        self.lock().backend.account().fits(bytes)
    }

    /// Device memory free now, where the device tells.
    pub fn free_memory(&self) -> Option<u64> {
        self.lock().backend.free_memory()
    }

    /// A panic while the lock was held leaves a device whose state is unknown only to that panic's
    /// job, whose executors are gone; the next job makes its own.
    pub(super) fn lock(&self) -> MutexGuard<'_, Device> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Carries out packing recipes: the bytes of one packed weight.
pub type WeightSource<'a> = dyn FnMut(&PackedWeight) -> Result<Vec<u8>> + 'a;

/// A source of packed weights that an executor keeps: weights that do not stay on the device are asked for again.
pub type SharedWeights = Arc<dyn Fn(&PackedWeight) -> Result<Vec<u8>> + Send + Sync>;

/// One plan, resident on its device.
pub struct Executor {
    device: SharedDevice,
    serial: u64,
    plan: Plan,
    buffers: Vec<BufferId>,
    /// What each of them takes on the device.
    bytes: Vec<u64>,
    /// Key of the shared weight behind a slot; `None` where the buffer is this executor's own.
    shared: Vec<Option<String>>,
    setup: Option<ListId>,
    body: Option<ListId>,
    /// Setup and body instead of the two lists, where weights are streamed.
    pieces: Option<Pieces>,
    /// Bytes of the largest port, reused by every transfer.
    staging: Vec<u8>,
    control: Vec<u8>,
    /// The setup list has run, so what it made follows the weights.
    set_up: bool,
    /// A reload failed half way: the weights are of two kinds.
    mixed: bool,
}

impl Executor {
    /// Makes `plan` resident. `weights` carries out the recipe of each packed weight; with a `scope` (the
    /// identity of a model) a weight that another executor of that scope already uploaded is shared.
    pub fn new(
        device: &SharedDevice,
        plan: Plan,
        scope: Option<&str>,
        weights: &mut WeightSource<'_>,
    ) -> Result<Executor> {
        Executor::in_arena(device, plan, scope, weights, &[])
    }

    /// The same in arena buffers of these sizes, which all executors of the device that name the same sizes share:
    /// for those that run one after another, each from its inputs to its outputs. None: in buffers of its own.
    pub fn in_arena(
        device: &SharedDevice,
        plan: Plan,
        scope: Option<&str>,
        weights: &mut WeightSource<'_>,
        arena: &[u64],
    ) -> Result<Executor> {
        let mut executor = Executor::with_buffers(device, plan, scope, weights, arena)?;
        let mut guard = device.lock();
        if !executor.plan.setup.is_empty() {
            executor.setup = Some(guard.backend.prepare(&executor.plan.setup, &executor.buffers)?);
        }
        executor.body = Some(guard.backend.prepare(&executor.plan.body, &executor.buffers)?);
        drop(guard);
        Ok(executor)
    }

    /// Makes a plan resident but for its weights, which `source` gives piece by piece whenever they are needed. Up
    /// to `keep` bytes of them stay packed in host memory. The results are those of the resident plan, bit by bit.
    pub fn streamed(device: &SharedDevice, plan: &Streamed, source: SharedWeights, keep: u64) -> Result<Executor> {
        let mut none = |w: &PackedWeight| Err(internal(format!("{w:?} is not streamed")));
        let mut executor = Executor::with_buffers(device, plan.plan.clone(), None, &mut none, &[])?;
        let mut guard = device.lock();
        executor.pieces = Some(Pieces::new(guard.backend.as_mut(), plan, &executor.buffers, source, keep)?);
        drop(guard);
        Ok(executor)
    }

    /// The buffers of a plan and its weights, without lists.
    fn with_buffers(
        device: &SharedDevice,
        plan: Plan,
        scope: Option<&str>,
        weights: &mut WeightSource<'_>,
        arena: &[u64],
    ) -> Result<Executor> {
        let constants = plan.constants.iter().map(|(p, _)| p);
        let largest =
            plan.inputs.iter().chain(constants).chain(&plan.outputs).map(|p| p.range.bytes).max().unwrap_or(0);
        let control_bytes = plan.slots.get(plan.control.0 as usize).map_or(0, |s| s.bytes);
        let needed = u64::from(CONTROL_HEADER_WORDS) * 4 + u64::from(plan.items) * size_of::<Item>() as u64;
        if control_bytes < needed {
            return Err(internal(format!("{}: the control slot has {control_bytes} bytes, not {needed}", plan.name)));
        }
        let mut executor = Executor {
            device: device.clone(),
            serial: MADE.fetch_add(1, Ordering::Relaxed),
            buffers: Vec::with_capacity(plan.slots.len()),
            bytes: plan.slots.iter().map(|s| s.bytes).collect(),
            shared: Vec::with_capacity(plan.slots.len()),
            setup: None,
            body: None,
            pieces: None,
            staging: vec![0; extent::to_usize("staging", largest)?],
            control: vec![0; extent::to_usize("control", needed)?],
            set_up: false,
            mixed: false,
            plan,
        };
        // From here on `Drop` gives back what was taken, whatever fails.
        let shared_device = device.clone();
        let mut guard = shared_device.lock();
        let mut chunks = arena.iter().enumerate();
        for (slot, own) in executor.plan.slots.iter().zip(&mut executor.bytes) {
            if slot.kind == SlotKind::Arena
                && let Some((i, &bytes)) = chunks.next().filter(|(_, bytes)| **bytes >= slot.bytes)
            {
                *own = bytes;
                let key = format!("arena {i} of {bytes}");
                let buffer = match guard.weights.get_mut(&key) {
                    Some((buffer, users)) => {
                        *users += 1;
                        *buffer
                    }
                    None => {
                        let buffer = guard.backend.alloc(&Slot { kind: SlotKind::Arena, bytes })?;
                        guard.weights.insert(key.clone(), (buffer, 1));
                        buffer
                    }
                };
                executor.buffers.push(buffer);
                executor.shared.push(Some(key));
                continue;
            }
            let SlotKind::Weight(recipe) = &slot.kind else {
                executor.buffers.push(guard.backend.alloc(slot)?);
                executor.shared.push(None);
                continue;
            };
            let key = scope.map(|s| format!("{s}\n{recipe:?}"));
            if let Some((buffer, users)) = key.as_ref().and_then(|k| guard.weights.get_mut(k)) {
                *users += 1;
                executor.buffers.push(*buffer);
                executor.shared.push(key);
                continue;
            }
            let bytes = packed(recipe, slot.bytes, weights)?;
            let buffer = guard.backend.alloc(slot)?;
            executor.buffers.push(buffer);
            executor.shared.push(None);
            guard.backend.write(buffer, 0, &bytes)?;
            if let Some(key) = key {
                guard.weights.insert(key.clone(), (buffer, 1));
                if let Some(last) = executor.shared.last_mut() {
                    *last = Some(key);
                }
            }
        }
        drop(guard);
        for (port, values) in &executor.plan.constants {
            write_port(port, values, &mut executor.staging, &executor.buffers, &executor.device)?;
        }
        Ok(executor)
    }

    /// Carries out every recipe again, into the same buffers: for other adapters, or another checkpoint of the
    /// same config. Nothing is planned, compiled or allocated on the device. What the setup list made is made
    /// again where it had run, from the inputs written before.
    ///
    /// Weights that another executor shares are refused, before anything is changed; afterwards the weights are
    /// this executor's own. After any other error the weights are of two kinds, and every run is refused until
    /// a reload succeeds.
    pub fn reload_weights(&mut self, weights: &mut WeightSource<'_>) -> Result<()> {
        if self.pieces.is_some() {
            return Err(internal(format!("{}: its weights are streamed", self.plan.name)));
        }
        let shared_device = self.device.clone();
        let mut guard = shared_device.lock();
        let used_elsewhere = |key: &String| guard.weights.get(key).is_some_and(|(_, users)| *users > 1);
        if self.shared.iter().flatten().any(used_elsewhere) {
            return Err(internal(format!("{}: its weights are shared with another executor", self.plan.name)));
        }
        // Later executors of that scope must find what its checkpoint holds, not what is loaded here now.
        for key in self.shared.iter_mut().filter_map(Option::take) {
            guard.weights.remove(&key);
        }
        self.mixed = true;
        for (slot, &buffer) in self.plan.slots.iter().zip(&self.buffers) {
            if let SlotKind::Weight(recipe) = &slot.kind {
                let bytes = packed(recipe, slot.bytes, weights)?;
                guard.backend.write(buffer, 0, &bytes)?;
            }
        }
        drop(guard);
        self.mixed = false;
        if self.set_up { self.setup() } else { Ok(()) }
    }

    /// The device it runs on.
    pub(super) fn device(&self) -> &SharedDevice {
        &self.device
    }

    /// The buffer of a slot.
    pub(super) fn buffer(&self, slot: SlotId) -> Result<BufferId> {
        let found = self.buffers.get(slot.0 as usize).copied();
        found.ok_or_else(|| internal(format!("{}: there is no slot {}", self.plan.name, slot.0)))
    }

    /// The plan it runs.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Its number among all executors this process made: nothing that was written to one of another number
    /// is here.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Its device buffers and their bytes; those of weights may be other executors' too.
    pub(super) fn buffers(&self) -> impl Iterator<Item = (BufferId, u64)> {
        self.buffers.iter().copied().zip(self.bytes.iter().map(|&b| extent::round_up(b.max(1), extent::ARENA_ALIGN)))
    }

    /// Items per launch.
    pub fn batch(&self) -> usize {
        self.plan.items as usize
    }

    /// Host bytes this executor holds.
    pub fn host_bytes(&self) -> u64 {
        let pieces = self.pieces.as_ref().map_or(0, Pieces::host_bytes);
        (self.staging.len() + self.control.len()) as u64 + pieces
    }

    /// Writes an input: NHWC without pitch padding, whole items (or table rows). Fewer than the port has
    /// are completed by repeating the first, so that dummy items compute on finite values.
    pub fn write_input(&mut self, name: &str, values: &[f32]) -> Result<()> {
        let Some(index) = self.plan.inputs.iter().position(|p| p.name == name) else {
            return self.plan.input(name).map(|_| ());
        };
        write_port(&self.plan.inputs[index], values, &mut self.staging, &self.buffers, &self.device)
    }

    /// Runs what does not depend on the window. Call it after the inputs that outlive a window are written.
    pub fn setup(&mut self) -> Result<()> {
        self.check_weights()?;
        self.set_up = true;
        if self.plan.setup.is_empty() {
            return Ok(());
        }
        self.write_items(&[])?;
        let mut device = self.device.lock();
        match (&mut self.pieces, self.setup) {
            (Some(pieces), _) => pieces.run_setup(device.backend.as_mut())?,
            (None, Some(list)) => device.backend.run(list)?,
            (None, None) => {}
        }
        drop(device);
        self.check_status()
    }

    /// Runs one launch over `items` (at most the batch; dummies complete it).
    pub fn run(&mut self, items: &[Item]) -> Result<()> {
        self.run_until(items, &|| Ok(()))
    }

    /// Like [`Executor::run`], or until `stop` gives an error, see [`Backend::run_until`].
    pub fn run_until(&mut self, items: &[Item], stop: &Stop<'_>) -> Result<()> {
        if items.is_empty() || items.len() > self.batch() {
            return Err(internal(format!("{} items for a batch of {}", items.len(), self.batch())));
        }
        self.check_weights()?;
        self.write_items(items)?;
        let mut device = self.device.lock();
        match (&mut self.pieces, self.body) {
            (Some(pieces), _) => pieces.run_body(device.backend.as_mut(), stop)?,
            (None, Some(list)) => device.backend.run_until(list, stop)?,
            (None, None) => {}
        }
        drop(device);
        self.check_status()
    }

    /// Reads an output's first items: as many as `values` holds, NHWC without pitch padding. A value that
    /// is not finite is an error of kind `NonFinite`.
    pub fn read_output(&mut self, name: &str, values: &mut [f32]) -> Result<()> {
        let Some(index) = self.plan.outputs.iter().position(|p| p.name == name) else {
            return self.plan.output(name).map(|_| ());
        };
        let port = &self.plan.outputs[index];
        let count = items_in(port, values.len())?;
        let bytes = extent::to_usize(name, port.range.bytes)? / port.shape.n as usize * count;
        let (slot, offset) = (port.range.slot, port.range.offset);
        let buffer = self.buffers[slot.0 as usize];
        self.device.lock().backend.read(buffer, offset, &mut self.staging[..bytes])?;
        if !decode(port, &self.staging[..bytes], values) {
            return Err(Error::new(
                Kind::NonFinite,
                "run",
                format!("output `{name}` of {} has a value that is not finite", self.plan.name),
            ));
        }
        Ok(())
    }

    fn check_weights(&self) -> Result<()> {
        if self.mixed { Err(internal(format!("{}: its weights were not reloaded", self.plan.name))) } else { Ok(()) }
    }

    fn write_items(&mut self, items: &[Item]) -> Result<()> {
        let header = CONTROL_HEADER_WORDS as usize * 4;
        self.control[..header].fill(0);
        let dummy = items.first().copied().unwrap_or_default();
        for i in 0..self.batch() {
            let item = items.get(i).copied().unwrap_or(dummy);
            let at = header + i * size_of::<Item>();
            self.control[at..at + size_of::<Item>()].copy_from_slice(bytemuck::bytes_of(&item));
        }
        let buffer = self.buffers[self.plan.control.0 as usize];
        self.device.lock().backend.write(buffer, 0, &self.control)
    }

    fn check_status(&mut self) -> Result<()> {
        let buffer = self.buffers[self.plan.control.0 as usize];
        let mut word = [0u8; 4];
        self.device.lock().backend.read(buffer, 0, &mut word)?;
        if u32::from_le_bytes(word) & STATUS_NARROW != 0 {
            return Err(Error::new(
                Kind::NonFinite,
                "run",
                format!(
                    "{}: a value was not finite, or above {}, where f16 stores it",
                    self.plan.name,
                    limits::F16_MAX
                ),
            )
            .advise("try --device cpu, which stores f32"));
        }
        Ok(())
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        let device = self.device.clone();
        let mut guard = device.lock();
        for list in [self.setup.take(), self.body.take()].into_iter().flatten() {
            guard.backend.discard(list);
        }
        if let Some(mut pieces) = self.pieces.take() {
            pieces.discard(guard.backend.as_mut());
        }
        for (buffer, key) in self.buffers.drain(..).zip(self.shared.drain(..)) {
            let last = match &key {
                None => true,
                Some(key) => match guard.weights.get_mut(key) {
                    Some((_, users)) if *users > 1 => {
                        *users -= 1;
                        false
                    }
                    _ => guard.weights.remove(key).is_some(),
                },
            };
            if last {
                guard.backend.free(buffer);
            }
        }
    }
}

/// Carries out one recipe, for a slot of `room` bytes; whole words, as backends take them.
pub(super) fn packed(recipe: &PackedWeight, room: u64, weights: &mut WeightSource<'_>) -> Result<Vec<u8>> {
    let mut bytes = weights(recipe)?;
    if bytes.len() as u64 > room {
        return Err(internal(format!("{recipe:?} packed to {} bytes, its slot has {room}", bytes.len())));
    }
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    Ok(bytes)
}

/// Writes the values of a port: see [`Executor::write_input`]. Nothing is allocated.
fn write_port(
    port: &Port,
    values: &[f32],
    staging: &mut [u8],
    buffers: &[BufferId],
    device: &SharedDevice,
) -> Result<()> {
    let name = &port.name;
    let count = items_in(port, values.len())?;
    let bytes = extent::to_usize(name, port.range.bytes)?;
    let item_bytes = bytes / port.shape.n as usize;
    let staging = &mut staging[..bytes];
    let finite = encode(port, values, &mut staging[..item_bytes * count]);
    if !finite {
        return Err(Error::new(
            Kind::NonFinite,
            "run",
            format!("input `{name}` has a value that {} cannot hold", port.dtype.name()),
        ));
    }
    for i in count..port.shape.n as usize {
        staging.copy_within(..item_bytes, i * item_bytes);
    }
    let (slot, offset) = (port.range.slot, port.range.offset);
    device.lock().backend.write(buffers[slot.0 as usize], offset, staging)
}
