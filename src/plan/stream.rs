//! Weights that do not stay on the device: a plan's lists are cut into consecutive pieces, and the weights of a
//! piece lie in one of two buffers that the pieces take turns in. While one piece runs, the other buffer can be
//! filled for the next. The commands themselves are the plan's own: only where their weights lie differs, so a
//! streamed plan gives the bytes of the resident one.

use super::command::{Dispatch, PackedWeight, Plan, Range, Slot, SlotId, SlotKind};
use crate::error::{Error, Kind, Result};
use crate::extent::{ARENA_ALIGN, round_up};
use std::ops;

/// Buffers that pieces take turns in.
pub const RING: usize = 2;

/// Consecutive commands of one list with their weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// The commands, of [`Plan::setup`] or of [`Plan::body`].
    pub commands: ops::Range<usize>,
    /// Which buffer of the ring its weights lie in: its number among all pieces modulo [`RING`].
    pub ring: usize,
    /// Its weights with their offset in that buffer, in order and without overlap.
    pub weights: Vec<(PackedWeight, u64)>,
    /// Bytes up to the end of the last weight.
    pub bytes: u64,
}

/// A plan whose weights are streamed.
#[derive(Debug, Clone, PartialEq)]
pub struct Streamed {
    /// The plan: its weight slots gave way to [`RING`] slots of kind `Ring`, the last of all.
    pub plan: Plan,
    /// Pieces of the setup list, in order.
    pub setup: Vec<Piece>,
    /// Pieces of the body, in order.
    pub body: Vec<Piece>,
    /// Bytes of all weights that one run of the body uploads.
    pub uploaded: u64,
}

impl Streamed {
    /// Bytes of the largest piece.
    pub fn largest_piece(&self) -> u64 {
        self.setup.iter().chain(&self.body).map(|p| p.bytes).max().unwrap_or(0)
    }

    /// Host bytes of all pieces, packed.
    pub fn kept_bytes(&self) -> u64 {
        self.setup.iter().chain(&self.body).map(|p| p.bytes).sum()
    }
}

/// Weight bytes of the command that has most: no piece can be smaller.
pub fn largest_command(plan: &Plan) -> u64 {
    plan.setup.iter().chain(&plan.body).map(|d| weight_bytes(plan, d)).max().unwrap_or(0)
}

fn is_weight(plan: &Plan, range: &Range) -> bool {
    matches!(plan.slots.get(range.slot.0 as usize), Some(Slot { kind: SlotKind::Weight(_), .. }))
}

fn weight_bytes(plan: &Plan, d: &Dispatch) -> u64 {
    let ranges = d.bindings.iter().flatten().filter(|r| is_weight(plan, r));
    ranges.map(|r| round_up(plan.slots[r.slot.0 as usize].bytes, ARENA_ALIGN)).sum()
}

/// Cuts `plan` into pieces of at most `piece` bytes of weights; `piece` is at least [`largest_command`]. A command
/// without weights belongs to the piece before it.
pub fn stream(plan: &Plan, piece: u64) -> Result<Streamed> {
    let least = largest_command(plan);
    if piece < least {
        let why = format!("{}: pieces of {piece} bytes, one command has weights of {least}", plan.name);
        return Err(Error::new(Kind::Internal, "plan", why));
    }
    // Slots that stay keep their order; the ring comes last.
    let mut slots = Vec::new();
    let mut moved = vec![None; plan.slots.len()];
    for (to, slot) in moved.iter_mut().zip(&plan.slots) {
        if !matches!(slot.kind, SlotKind::Weight(_)) {
            *to = Some(SlotId(slots.len() as u32));
            slots.push(slot.clone());
        }
    }
    let mut cut = Cut { plan, moved, first_ring: slots.len() as u32, limit: piece, number: 0, largest: [0; RING] };
    let (setup, setup_pieces) = cut.list(&plan.setup);
    let (body, body_pieces) = cut.list(&plan.body);
    // Both buffers exist even where one would do, so that slot numbers do not depend on the sizes.
    slots.extend(cut.largest.map(|bytes| Slot { kind: SlotKind::Ring, bytes: bytes.max(ARENA_ALIGN) }));
    let moved = cut.moved;
    let to = |id: SlotId| moved[id.0 as usize].unwrap_or(id);
    let port = |p: &super::command::Port| {
        let mut p = p.clone();
        p.range.slot = to(p.range.slot);
        p
    };
    let mut streamed = Plan {
        name: plan.name.clone(),
        items: plan.items,
        inputs: plan.inputs.iter().map(port).collect(),
        constants: plan.constants.iter().map(|(p, values)| (port(p), values.clone())).collect(),
        outputs: plan.outputs.iter().map(port).collect(),
        control: to(plan.control),
        cost: plan.cost.clone(),
        slots,
        setup,
        body,
    };
    streamed.cost.weight_bytes = cut.largest.iter().sum();
    let uploaded = body_pieces.iter().map(|p: &Piece| p.bytes).sum();
    Ok(Streamed { plan: streamed, setup: setup_pieces, body: body_pieces, uploaded })
}

/// The cutting of one plan.
struct Cut<'a> {
    plan: &'a Plan,
    /// New number of each slot that stays.
    moved: Vec<Option<SlotId>>,
    first_ring: u32,
    limit: u64,
    /// Pieces so far.
    number: usize,
    /// Largest piece of each buffer of the ring.
    largest: [u64; RING],
}

impl Cut<'_> {
    /// The commands of one list with their weights in the ring, and the pieces.
    fn list(&mut self, commands: &[Dispatch]) -> (Vec<Dispatch>, Vec<Piece>) {
        let mut out = Vec::with_capacity(commands.len());
        let mut pieces: Vec<Piece> = Vec::new();
        // Slots of the piece's weights, in the order of its list.
        let mut held: Vec<SlotId> = Vec::new();
        for (i, command) in commands.iter().enumerate() {
            let own: Vec<SlotId> =
                command.bindings.iter().flatten().filter(|r| is_weight(self.plan, r)).map(|r| r.slot).collect();
            let bytes = |id: &SlotId| round_up(self.plan.slots[id.0 as usize].bytes, ARENA_ALIGN);
            let more: u64 = own.iter().filter(|id| !held.contains(id)).map(bytes).sum();
            match pieces.last_mut() {
                Some(last) if last.bytes + more <= self.limit => last.commands.end = i + 1,
                _ => {
                    let ring = self.number % RING;
                    self.number += 1;
                    held.clear();
                    pieces.push(Piece { commands: i..i + 1, ring, weights: Vec::new(), bytes: 0 });
                }
            }
            let Some(piece) = pieces.last_mut() else { continue };
            for id in own {
                if held.contains(&id) {
                    continue;
                }
                if let SlotKind::Weight(recipe) = &self.plan.slots[id.0 as usize].kind {
                    piece.weights.push((recipe.clone(), piece.bytes));
                    piece.bytes += bytes(&id);
                    held.push(id);
                }
            }
            self.largest[piece.ring] = self.largest[piece.ring].max(piece.bytes);
            let ring = SlotId(self.first_ring + piece.ring as u32);
            let place = |r: &Range| match self.moved[r.slot.0 as usize] {
                Some(slot) => Range { slot, ..*r },
                None => {
                    let at = held.iter().position(|id| *id == r.slot).map_or(0, |k| piece.weights[k].1);
                    Range { slot: ring, offset: at + r.offset, bytes: r.bytes }
                }
            };
            let bindings = command.bindings.iter().map(|b| b.as_ref().map(place)).collect();
            out.push(Dispatch { bindings, ..command.clone() });
        }
        (out, pieces)
    }
}
