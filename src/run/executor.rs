//! Runs one plan on one device: owns its buffers, converts between the host's plain f32 pixels and the
//! ports' types and pitch, writes the items, checks what came out.
//!
//! All host memory is taken when the executor is made; a run allocates nothing of ours.

use crate::abi::params::{CONTROL_HEADER_WORDS, STATUS_NARROW};
use crate::abi::{Caps, Item};
use crate::backend::{Backend, BufferId, ListId};
use crate::error::{Error, Kind, Result};
use crate::extent;
use crate::graph::DType;
use crate::limits;
use crate::plan::command::{PackedWeight, Plan, Port, SlotKind};
use half::{bf16, f16};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// A backend and the weights that several plans on it share.
pub struct Device {
    backend: Box<dyn Backend>,
    /// Packed weights by model and recipe, with the number of executors that use each.
    weights: HashMap<String, (BufferId, usize)>,
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

    /// A panic while the lock was held leaves a device whose state is unknown only to that panic's
    /// job, whose executors are gone; the next job makes its own.
    fn lock(&self) -> MutexGuard<'_, Device> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Carries out packing recipes: the bytes of one packed weight.
pub type WeightSource<'a> = dyn FnMut(&PackedWeight) -> Result<Vec<u8>> + 'a;

/// One plan, resident on its device.
pub struct Executor {
    device: SharedDevice,
    plan: Plan,
    buffers: Vec<BufferId>,
    /// Key of the shared weight behind a slot; `None` where the buffer is this executor's own.
    shared: Vec<Option<String>>,
    setup: Option<ListId>,
    body: Option<ListId>,
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
        let largest = plan.inputs.iter().chain(&plan.outputs).map(|p| p.range.bytes).max().unwrap_or(0);
        let control_bytes = plan.slots.get(plan.control.0 as usize).map_or(0, |s| s.bytes);
        let needed = u64::from(CONTROL_HEADER_WORDS) * 4 + u64::from(plan.items) * size_of::<Item>() as u64;
        if control_bytes < needed {
            return Err(internal(format!("{}: the control slot has {control_bytes} bytes, not {needed}", plan.name)));
        }
        let mut executor = Executor {
            device: device.clone(),
            buffers: Vec::with_capacity(plan.slots.len()),
            shared: Vec::with_capacity(plan.slots.len()),
            setup: None,
            body: None,
            staging: vec![0; extent::to_usize("staging", largest)?],
            control: vec![0; extent::to_usize("control", needed)?],
            set_up: false,
            mixed: false,
            plan,
        };
        // From here on `Drop` gives back what was taken, whatever fails.
        let shared_device = device.clone();
        let mut guard = shared_device.lock();
        for slot in &executor.plan.slots {
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
        if !executor.plan.setup.is_empty() {
            executor.setup = Some(guard.backend.prepare(&executor.plan.setup, &executor.buffers)?);
        }
        executor.body = Some(guard.backend.prepare(&executor.plan.body, &executor.buffers)?);
        drop(guard);
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

    /// The plan it runs.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Items per launch.
    pub fn batch(&self) -> usize {
        self.plan.items as usize
    }

    /// Host bytes this executor holds.
    pub fn host_bytes(&self) -> u64 {
        (self.staging.len() + self.control.len()) as u64
    }

    /// Writes an input: NHWC without pitch padding, whole items (or table rows). Fewer than the port has
    /// are completed by repeating the first, so that dummy items compute on finite values.
    pub fn write_input(&mut self, name: &str, values: &[f32]) -> Result<()> {
        let Some(index) = self.plan.inputs.iter().position(|p| p.name == name) else {
            return self.plan.input(name).map(|_| ());
        };
        let port = &self.plan.inputs[index];
        let count = items_in(port, values.len())?;
        let bytes = extent::to_usize(name, port.range.bytes)?;
        let item_bytes = bytes / port.shape.n as usize;
        let staging = &mut self.staging[..bytes];
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
        let buffer = self.buffers[slot.0 as usize];
        self.device.lock().backend.write(buffer, offset, &self.staging[..bytes])
    }

    /// Runs what does not depend on the window. Call it after the inputs that outlive a window are written.
    pub fn setup(&mut self) -> Result<()> {
        self.check_weights()?;
        self.set_up = true;
        if let Some(list) = self.setup {
            self.write_items(&[])?;
            self.device.lock().backend.run(list)?;
            self.check_status()?;
        }
        Ok(())
    }

    /// Runs one launch over `items` (at most the batch; dummies complete it).
    pub fn run(&mut self, items: &[Item]) -> Result<()> {
        if items.is_empty() || items.len() > self.batch() {
            return Err(internal(format!("{} items for a batch of {}", items.len(), self.batch())));
        }
        self.check_weights()?;
        self.write_items(items)?;
        if let Some(list) = self.body {
            self.device.lock().backend.run(list)?;
        }
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
fn packed(recipe: &PackedWeight, room: u64, weights: &mut WeightSource<'_>) -> Result<Vec<u8>> {
    let mut bytes = weights(recipe)?;
    if bytes.len() as u64 > room {
        return Err(internal(format!("{recipe:?} packed to {} bytes, its slot has {room}", bytes.len())));
    }
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    Ok(bytes)
}

fn internal(message: String) -> Error {
    Error::new(Kind::Internal, "run", message)
}

/// How many whole items `len` plain values are; at least one, at most what the port has.
fn items_in(port: &Port, len: usize) -> Result<usize> {
    let item = port.shape.pixels() as usize * port.shape.c as usize;
    if item == 0 || len == 0 || !len.is_multiple_of(item) || len / item > port.shape.n as usize {
        return Err(internal(format!("`{}` is {}, got {len} values", port.name, port.shape)));
    }
    Ok(len / item)
}

/// Plain values to the port's type and pitch; false when one is not finite or too large for the type.
fn encode(port: &Port, values: &[f32], bytes: &mut [u8]) -> bool {
    let (c, pitch) = (port.shape.c as usize, port.shape.pitch() as usize);
    let mut good = true;
    let rows = values.chunks_exact(c);
    match port.dtype {
        DType::F32 => {
            for (from, to) in rows.zip(bytes.chunks_exact_mut(pitch * 4)) {
                for (v, b) in from.iter().zip(to.chunks_exact_mut(4)) {
                    good &= v.is_finite();
                    b.copy_from_slice(&v.to_le_bytes());
                }
                to[c * 4..].fill(0);
            }
        }
        DType::F16 => {
            for (from, to) in rows.zip(bytes.chunks_exact_mut(pitch * 2)) {
                for (v, b) in from.iter().zip(to.chunks_exact_mut(2)) {
                    good &= v.abs() <= limits::F16_MAX;
                    b.copy_from_slice(&f16::from_f32(*v).to_le_bytes());
                }
                to[c * 2..].fill(0);
            }
        }
        DType::Bf16 => {
            for (from, to) in rows.zip(bytes.chunks_exact_mut(pitch * 2)) {
                for (v, b) in from.iter().zip(to.chunks_exact_mut(2)) {
                    good &= v.is_finite();
                    b.copy_from_slice(&bf16::from_f32(*v).to_le_bytes());
                }
                to[c * 2..].fill(0);
            }
        }
    }
    good
}

/// The port's values to plain f32; false when one is not finite (read from the bits, so that no
/// optimisation that assumes finite arithmetic can remove the test).
fn decode(port: &Port, bytes: &[u8], values: &mut [f32]) -> bool {
    let (c, pitch) = (port.shape.c as usize, port.shape.pitch() as usize);
    let mut worst = 0u32;
    let mut put = |to: &mut f32, v: f32| {
        worst = worst.max(v.to_bits() & 0x7f80_0000);
        *to = v;
    };
    let rows = values.chunks_exact_mut(c);
    match port.dtype {
        DType::F32 => {
            for (to, from) in rows.zip(bytes.chunks_exact(pitch * 4)) {
                for (t, b) in to.iter_mut().zip(from.chunks_exact(4)) {
                    put(t, f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                }
            }
        }
        DType::F16 => {
            for (to, from) in rows.zip(bytes.chunks_exact(pitch * 2)) {
                for (t, b) in to.iter_mut().zip(from.chunks_exact(2)) {
                    put(t, f16::from_le_bytes([b[0], b[1]]).to_f32());
                }
            }
        }
        DType::Bf16 => {
            for (to, from) in rows.zip(bytes.chunks_exact(pitch * 2)) {
                for (t, b) in to.iter_mut().zip(from.chunks_exact(2)) {
                    put(t, bf16::from_le_bytes([b[0], b[1]]).to_f32());
                }
            }
        }
    }
    worst != 0x7f80_0000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Lifetime, Shape};
    use crate::plan::command::{Range, SlotId};

    fn port(shape: Shape, dtype: DType) -> Port {
        let bytes = shape.elements() * dtype.bytes();
        let range = Range { slot: SlotId(0), offset: 0, bytes };
        Port { name: "x".into(), range, shape, dtype, lifetime: Lifetime::Window }
    }

    #[test]
    fn ports_convert_both_ways_with_zero_padding() {
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            let port = port(Shape::new(2, 1, 2, 3), dtype);
            let values: Vec<f32> = (0..12).map(|i| i as f32 * 0.5 - 2.0).collect();
            let mut bytes = vec![0xffu8; port.range.bytes as usize];
            assert!(encode(&port, &values, &mut bytes));
            let mut back = vec![0.0; 12];
            assert!(decode(&port, &bytes, &mut back));
            assert_eq!(values, back, "{dtype:?}: halves are exact in every type");
            let e = dtype.bytes() as usize;
            assert!(bytes.chunks_exact(8 * e).all(|row| row[3 * e..].iter().all(|&b| b == 0)));
        }
    }

    #[test]
    fn values_a_type_cannot_hold_are_seen() {
        let shape = Shape::new(1, 1, 1, 8);
        let mut bytes = [0u8; 32];
        let mut values = [0.0f32; 8];
        values[5] = 70_000.0;
        assert!(encode(&port(shape, DType::F32), &values, &mut bytes));
        assert!(!encode(&port(shape, DType::F16), &values, &mut bytes[..16]));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            values[5] = bad;
            assert!(!encode(&port(shape, DType::F32), &values, &mut bytes));
            let mut out = [0.0f32; 8];
            assert!(!decode(&port(shape, DType::F32), &bytes, &mut out));
        }
    }

    #[test]
    fn only_whole_items_are_taken() {
        let port = port(Shape::new(2, 1, 2, 3), DType::F32);
        assert_eq!(items_in(&port, 12).expect("two"), 2);
        assert_eq!(items_in(&port, 6).expect("one"), 1);
        for len in [0, 5, 7, 18] {
            assert!(items_in(&port, len).is_err());
        }
    }
}
