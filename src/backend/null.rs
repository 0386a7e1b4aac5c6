//! A backend that checks everything and computes nothing. It holds every plan to what real devices take
//! for granted and mostly do not check: ranges inside their slot and of the size the parameters imply,
//! alignment, no two bindings of a launch over the same bytes, grids and bindings within limits, weights
//! only where weights belong, and nothing read that this launch has not written.
//!
//! Every written range carries a tag: a hash of what made it (host bytes, or the launch's parameters and
//! the tags of what it read). Equal tags mean that the same computation ended up there, so two plans of
//! one graph can be compared without running a kernel.

use super::{Account, Backend, BufferId, ListId, Stop};
use crate::abi::table;
use crate::abi::{Access, Caps, operands};
use crate::error::{Error, Kind, Result};
use crate::extent::ARENA_ALIGN;
use crate::graph::DType;
use crate::plan::command::{Dispatch, Range, Slot, SlotKind};
use std::fmt;

/// How often each call was made, and what is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Successful `alloc` calls.
    pub allocs: u64,
    /// `free` calls.
    pub frees: u64,
    /// `write` calls.
    pub writes: u64,
    /// `read` calls.
    pub reads: u64,
    /// `prepare` calls.
    pub prepares: u64,
    /// `run` calls.
    pub runs: u64,
    /// Commands run.
    pub commands: u64,
}

/// A written range of a buffer.
#[derive(Debug, Clone, Copy)]
struct Segment {
    start: u64,
    end: u64,
    tag: u64,
    /// The run in which it is valid, for arena buffers: the run that wrote it, or the one after the host's write.
    run: u64,
    /// Whether `Buffer::data` holds its bytes.
    host: bool,
}

struct Buffer {
    kind: SlotKind,
    bytes: u64,
    /// Host-written bytes; empty for weights, whose contents nothing reads back.
    data: Vec<u8>,
    /// Sorted, without overlap.
    segments: Vec<Segment>,
}

struct List {
    commands: Vec<Dispatch>,
    slots: Vec<BufferId>,
}

/// See the module.
pub struct Null {
    caps: Caps,
    buffers: Vec<Option<Buffer>>,
    lists: Vec<Option<List>>,
    counts: Counts,
    account: Account,
    run: u64,
    /// The list that may still be running.
    started: Option<ListId>,
}

impl fmt::Debug for Null {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Null").field("caps", &self.caps.name).field("counts", &self.counts).finish_non_exhaustive()
    }
}

fn bad(why: impl fmt::Display) -> Error {
    Error::new(Kind::Internal, "null", why.to_string())
}

/// FNV-1a over words: any stable hash will do, tags are only compared.
fn mix(hash: u64, word: u64) -> u64 {
    (hash ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(23)
}

fn hash_bytes(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(mix(0xcbf2_9ce4_8422_2325, bytes.len() as u64), |h, c| {
        let mut word = [0; 8];
        word[..c.len()].copy_from_slice(c);
        mix(h, u64::from_le_bytes(word))
    })
}

impl Null {
    /// A null device that pretends to be the one `caps` describes.
    pub fn new(caps: Caps) -> Null {
        let (counts, account) = (Counts::default(), Account::default());
        Null { caps, buffers: Vec::new(), lists: Vec::new(), counts, account, run: 0, started: None }
    }

    /// What has been called so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Hash of the computation whose result lies in the range; `None` if it was never written as a whole.
    pub fn tag(&self, buffer: BufferId, offset: u64, bytes: u64) -> Option<u64> {
        self.buffer(buffer).ok()?.tag(offset, bytes, None)
    }

    fn buffer(&self, id: BufferId) -> Result<&Buffer> {
        let buffer = self.buffers.get(id.0 as usize).and_then(Option::as_ref);
        buffer.ok_or_else(|| bad(format!("buffer {} is not allocated", id.0)))
    }

    fn buffer_mut(&mut self, id: BufferId) -> Result<&mut Buffer> {
        let buffer = self.buffers.get_mut(id.0 as usize).and_then(Option::as_mut);
        buffer.ok_or_else(|| bad(format!("buffer {} is not allocated", id.0)))
    }

    /// Everything about one command that does not depend on what ran before.
    fn check(&self, d: &Dispatch, slots: &[BufferId]) -> Result<()> {
        let declared = d.stem.bindings();
        let row = table::find(self.caps.kind, d.stem, d.variant)
            .ok_or_else(|| bad(format!("no variant `{}` of {}", d.variant, d.stem.name())))?;
        if d.params.stem() != d.stem || d.bindings.len() != declared.len() {
            return Err(bad(format!("{} has {} bindings", d.stem.name(), d.bindings.len())));
        }
        if !row.takes(&d.params, d.types, &self.caps) {
            return Err(bad(format!("variant `{}` does not take {:?}", d.variant, d.params)));
        }
        if [d.types.x, d.types.w, d.types.y].iter().any(|t| !self.caps.dtypes.contains(t)) {
            return Err(bad(format!("{} does not store {:?}", self.caps.name, d.types)));
        }
        if d.grid.iter().any(|&g| g == 0 || g > self.caps.max_grid) {
            return Err(bad(format!("grid {:?} exceeds {}", d.grid, self.caps.max_grid)));
        }
        let needs = operands::operands(&d.params, d.types, row);
        for (i, (range, binding)) in d.bindings.iter().zip(declared).enumerate() {
            let check = || -> Result<()> {
                let (range, need) = match (range, needs[i]) {
                    (None, None) => return Ok(()),
                    (Some(range), Some(need)) => (range, need),
                    (None, Some(_)) => return Err(bad("is missing")),
                    (Some(_), None) => return Err(bad("must be absent")),
                };
                if range.bytes < need.bytes || (need.exact && range.bytes != need.bytes) {
                    return Err(bad(format!("{} bytes, the parameters imply {}", range.bytes, need.bytes)));
                }
                self.check_range(range, binding.access, slots)
            };
            check().map_err(|e| e.at(binding.name))?;
        }
        self.check_aliases(d, slots)
    }

    fn check_range(&self, range: &Range, access: Access, slots: &[BufferId]) -> Result<()> {
        let id = slots.get(range.slot.0 as usize).ok_or_else(|| bad(format!("slot {} of none", range.slot.0)))?;
        let buffer = self.buffer(*id)?;
        if !range.offset.is_multiple_of(ARENA_ALIGN) {
            return Err(bad(format!("offset {} is not a multiple of {ARENA_ALIGN}", range.offset)));
        }
        let end = range.offset.saturating_add(range.bytes);
        if range.bytes == 0 || end > buffer.bytes {
            return Err(bad(format!("{}+{} is outside a slot of {}", range.offset, range.bytes, buffer.bytes)));
        }
        if range.bytes > self.caps.max_binding {
            return Err(bad(format!("{} bytes exceed the binding limit {}", range.bytes, self.caps.max_binding)));
        }
        let fits = match buffer.kind {
            SlotKind::Arena | SlotKind::Persistent => matches!(access, Access::Read | Access::Write),
            SlotKind::Weight(_) | SlotKind::Ring => access == Access::Weight,
            SlotKind::Control => access == Access::Control,
        };
        if fits { Ok(()) } else { Err(bad(format!("{access:?} of a slot of kind {:?}", buffer.kind))) }
    }

    /// A written range overlaps no other binding of the launch, except the operand that an in-place kernel
    /// replaces: that one must be the very same range.
    fn check_aliases(&self, d: &Dispatch, slots: &[BufferId]) -> Result<()> {
        let declared = d.stem.bindings();
        let allowed = table::in_place(self.caps.kind, &d.params, d.types);
        for (i, a) in d.bindings.iter().enumerate() {
            let Some(a) = a else { continue };
            if declared[i].access != Access::Write {
                continue;
            }
            for (j, b) in d.bindings.iter().enumerate() {
                let Some(b) = b else { continue };
                let buffer = |r: &Range| slots.get(r.slot.0 as usize);
                let apart = buffer(a) != buffer(b) || a.offset + a.bytes <= b.offset || b.offset + b.bytes <= a.offset;
                let replaced = declared[i].name == "y" && allowed == Some(j) && a == b;
                if i != j && !apart && !replaced {
                    return Err(bad(format!("`{}` is written over `{}`", declared[i].name, declared[j].name)));
                }
            }
        }
        Ok(())
    }

    fn execute(&mut self, list: &List) -> Result<()> {
        for d in &list.commands {
            let declared = d.stem.bindings();
            let mut tag = hash_bytes(d.params.bytes());
            tag = [d.types.x, d.types.w, d.types.y].iter().fold(tag, |h, &t| mix(h, dtype_code(t)));
            tag = mix(tag, d.stem as u64);
            let run = self.run;
            let range_of = |i: usize| d.bindings[i].map(|r| (list.slots[r.slot.0 as usize], r));
            for (i, binding) in declared.iter().enumerate() {
                let Some((id, r)) = range_of(i) else { continue };
                match binding.access {
                    Access::Read => {
                        let buffer = self.buffer(id)?;
                        let fresh = matches!(buffer.kind, SlotKind::Arena).then_some(run);
                        let found = buffer.tag(r.offset, r.bytes, fresh).ok_or_else(|| {
                            let why = format!("{}+{} of slot {}", r.offset, r.bytes, r.slot.0);
                            bad(format!("reads {why}, which nothing has written whole in this run"))
                                .at(binding.name)
                                .at(&d.label)
                        })?;
                        tag = mix(tag, found);
                    }
                    Access::Weight => {
                        // Which tensors, not which slot: plans may number slots differently.
                        let buffer = self.buffer(id)?;
                        if let SlotKind::Weight(w) = &buffer.kind {
                            tag = w.tensors.iter().flatten().fold(tag, |h, t| mix(h, hash_bytes(t.as_bytes())));
                        } else if buffer.tag(r.offset, r.bytes, None).is_none() {
                            let why = format!("weights at {}+{} that were never uploaded", r.offset, r.bytes);
                            return Err(bad(why).at(binding.name).at(&d.label));
                        }
                    }
                    Access::Write | Access::Control => {}
                }
            }
            for (i, binding) in declared.iter().enumerate() {
                let Some((id, r)) = range_of(i) else { continue };
                if binding.access == Access::Write {
                    let tag = mix(tag, i as u64);
                    let segment = Segment { start: r.offset, end: r.offset + r.bytes, tag, run, host: false };
                    self.buffer_mut(id)?.put(segment);
                }
            }
        }
        Ok(())
    }
}

fn dtype_code(t: DType) -> u64 {
    match t {
        DType::F32 => 1,
        DType::F16 => 2,
        DType::Bf16 => 3,
    }
}

impl Buffer {
    /// Replaces whatever `new` covers; what it covers in part keeps its rest.
    fn put(&mut self, new: Segment) {
        let first = self.segments.partition_point(|s| s.end <= new.start);
        let last = self.segments.partition_point(|s| s.start < new.end);
        let cut = |s: Segment, start: u64, end: u64| (start < end).then_some(Segment { start, end, ..s });
        let left = self.segments[first..last].first().and_then(|s| cut(*s, s.start, new.start));
        let right = self.segments[first..last].last().and_then(|s| cut(*s, new.end, s.end));
        self.segments.splice(first..last, left.into_iter().chain([new]).chain(right));
    }

    /// Combined tag of the segments that cover the range without a hole, of run `fresh` if given.
    fn tag(&self, offset: u64, bytes: u64, fresh: Option<u64>) -> Option<u64> {
        let end = offset + bytes;
        let first = self.segments.partition_point(|s| s.end <= offset);
        let (mut at, mut tag) = (offset, None);
        for s in self.segments[first..].iter().take_while(|s| s.start < end) {
            if s.start > at || fresh.is_some_and(|run| s.run != run) {
                return None;
            }
            // A value that is one whole segment keeps its tag; pieces are hashed with their place.
            let whole = s.start == offset && s.end == end;
            tag = Some(if whole { s.tag } else { mix(mix(tag.unwrap_or(1), s.tag), s.end - s.start) });
            at = s.end;
        }
        if at >= end { tag } else { None }
    }

    fn bounds(&self, offset: u64, len: usize) -> Result<std::ops::Range<usize>> {
        let end = offset.checked_add(len as u64).filter(|&e| e <= self.bytes);
        match end {
            Some(end) if offset.is_multiple_of(4) && len.is_multiple_of(4) => Ok(offset as usize..end as usize),
            _ => Err(bad(format!("{offset}+{len} is outside a buffer of {} or not in words", self.bytes))),
        }
    }
}

impl Backend for Null {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn alloc(&mut self, slot: &Slot) -> Result<BufferId> {
        let limit = match slot.kind {
            // A weight is bound as one range.
            SlotKind::Weight(_) => self.caps.max_binding,
            SlotKind::Arena | SlotKind::Persistent | SlotKind::Ring | SlotKind::Control => self.caps.max_chunk,
        };
        if slot.bytes == 0 || slot.bytes > limit {
            return Err(bad(format!("a slot of {} bytes, the limit is {limit}", slot.bytes)));
        }
        if let SlotKind::Weight(w) = &slot.kind
            && w.packing.elements() * w.dtype.bytes() != slot.bytes
        {
            return Err(bad(format!("a weight slot of {} bytes for {:?}", slot.bytes, w.packing)));
        }
        self.account.take(slot.bytes, "a slot")?;
        let data = match slot.kind {
            SlotKind::Weight(_) | SlotKind::Ring => Vec::new(),
            SlotKind::Arena | SlotKind::Persistent | SlotKind::Control => vec![0; slot.bytes as usize],
        };
        self.counts.allocs += 1;
        let buffer = Buffer { kind: slot.kind.clone(), bytes: slot.bytes, data, segments: Vec::new() };
        self.buffers.push(Some(buffer));
        Ok(BufferId(self.buffers.len() as u32 - 1))
    }

    fn free(&mut self, buffer: BufferId) {
        if let Some(b) = self.buffers.get_mut(buffer.0 as usize).and_then(Option::take) {
            self.counts.frees += 1;
            self.account.give(b.bytes);
        }
    }

    fn write(&mut self, buffer: BufferId, offset: u64, bytes: &[u8]) -> Result<()> {
        self.counts.writes += 1;
        let run = self.run + 1;
        let buffer = self.buffer_mut(buffer)?;
        let range = buffer.bounds(offset, bytes.len())?;
        if bytes.is_empty() {
            return Ok(());
        }
        let (start, end) = (offset, range.end as u64);
        if !buffer.data.is_empty() {
            buffer.data[range].copy_from_slice(bytes);
        }
        buffer.put(Segment { start, end, tag: hash_bytes(bytes), run, host: true });
        Ok(())
    }

    fn read(&mut self, buffer: BufferId, offset: u64, bytes: &mut [u8]) -> Result<()> {
        self.counts.reads += 1;
        let buffer = self.buffer(buffer)?;
        let range = buffer.bounds(offset, bytes.len())?;
        // Only what the host wrote and no launch has written over has contents; the rest reads as zeros.
        bytes.fill(0);
        for s in buffer.segments.iter().filter(|s| s.host && !buffer.data.is_empty()) {
            let (from, to) = (range.start.max(s.start as usize), range.end.min(s.end as usize));
            if from < to {
                bytes[from - range.start..to - range.start].copy_from_slice(&buffer.data[from..to]);
            }
        }
        Ok(())
    }

    fn prepare(&mut self, commands: &[Dispatch], slots: &[BufferId]) -> Result<ListId> {
        self.counts.prepares += 1;
        for (i, d) in commands.iter().enumerate() {
            self.check(d, slots).map_err(|e| e.at(format!("command {i} `{}` ({})", d.label, d.stem.name())))?;
        }
        self.lists.push(Some(List { commands: commands.to_vec(), slots: slots.to_vec() }));
        Ok(ListId(self.lists.len() as u32 - 1))
    }

    fn discard(&mut self, list: ListId) {
        if let Some(l) = self.lists.get_mut(list.0 as usize) {
            *l = None;
        }
    }

    fn run_until(&mut self, list: ListId, stop: &Stop<'_>) -> Result<()> {
        stop()?;
        let slot = self.lists.get_mut(list.0 as usize).and_then(Option::take);
        let commands = slot.ok_or_else(|| bad(format!("list {} is not prepared", list.0)))?;
        self.counts.runs += 1;
        self.started = None;
        self.counts.commands += commands.commands.len() as u64;
        self.run += 1;
        // The list is lent out and put back, so that a run allocates nothing once segments have settled.
        let result = self.execute(&commands);
        self.lists[list.0 as usize] = Some(commands);
        result
    }

    fn start(&mut self, list: ListId, stop: &Stop<'_>) -> Result<()> {
        // Lists started one after the other, before they are waited for, are one run: what the first writes, the
        // later ones may read.
        if self.started.is_some() {
            self.run -= 1;
        }
        self.run_until(list, stop)?;
        self.started = Some(list);
        Ok(())
    }

    fn upload(&mut self, buffer: BufferId, offset: u64, bytes: &[u8]) -> Result<()> {
        if let Some(list) = self.started.and_then(|l| self.lists.get(l.0 as usize)).and_then(Option::as_ref) {
            let used = |d: &Dispatch| d.bindings.iter().flatten().any(|r| list.slots[r.slot.0 as usize] == buffer);
            if let Some(d) = list.commands.iter().find(|d| used(d)) {
                return Err(bad(format!("an upload into what `{}` may still be reading", d.label)));
            }
        }
        self.write(buffer, offset, bytes)
    }

    fn finish(&mut self) -> Result<()> {
        self.started = None;
        Ok(())
    }

    fn account(&mut self) -> &mut Account {
        &mut self.account
    }

    fn allocated(&self) -> u64 {
        self.account.held()
    }
}

#[cfg(test)]
mod tests;
