//! Runs the pieces of a streamed plan: while one piece runs, the weights of the next are packed or taken from host
//! memory and uploaded into the other buffer of the ring.

use super::executor::{SharedWeights, packed};
use super::port::internal;
use crate::backend::{Backend, BufferId, ListId, Stop};
use crate::error::Result;
use crate::extent;
use crate::plan::stream::{Piece, RING, Streamed};

/// A piece made ready.
struct Stage {
    piece: Piece,
    list: ListId,
    /// Its packed weights, where host memory was allowed for them.
    kept: Option<Vec<u8>>,
}

/// The pieces of one plan on one device.
pub(super) struct Pieces {
    /// Those of the setup list, then those of the body.
    stages: Vec<Stage>,
    /// How many belong to the setup list.
    setup: usize,
    ring: [BufferId; RING],
    /// The piece whose weights lie in each buffer.
    loaded: [Option<usize>; RING],
    source: SharedWeights,
    /// Host bytes that may still be kept.
    room: u64,
    /// Where a piece is packed that is not kept.
    scratch: Vec<u8>,
}

impl Pieces {
    /// Makes the lists of all pieces ready; `buffers` are those of the plan's slots. Up to `keep` bytes of packed
    /// weights stay in host memory after their first use, the others are read and packed for every run.
    pub(super) fn new(
        backend: &mut dyn Backend,
        streamed: &Streamed,
        buffers: &[BufferId],
        source: SharedWeights,
        keep: u64,
    ) -> Result<Pieces> {
        let &[.., first, second] = buffers else { return Err(internal("a streamed plan without a ring".into())) };
        let mut pieces = Pieces {
            stages: Vec::with_capacity(streamed.setup.len() + streamed.body.len()),
            setup: streamed.setup.len(),
            ring: [first, second],
            loaded: [None; RING],
            source,
            room: keep,
            scratch: Vec::new(),
        };
        let setup = streamed.setup.iter().map(|p| (p, &streamed.plan.setup));
        let body = streamed.body.iter().map(|p| (p, &streamed.plan.body));
        for (piece, commands) in setup.chain(body) {
            match backend.prepare(&commands[piece.commands.clone()], buffers) {
                Ok(list) => pieces.stages.push(Stage { piece: piece.clone(), list, kept: None }),
                Err(e) => {
                    pieces.discard(backend);
                    return Err(e);
                }
            }
        }
        // The room is taken before the first launch, not in the middle of a run.
        let scratch = if keep >= streamed.kept_bytes() { 0 } else { streamed.largest_piece() };
        pieces.scratch = Vec::with_capacity(extent::to_usize("a piece", scratch)?);
        Ok(pieces)
    }

    /// Gives the lists back.
    pub(super) fn discard(&mut self, backend: &mut dyn Backend) {
        self.stages.drain(..).for_each(|s| backend.discard(s.list));
    }

    /// Host bytes held for weights.
    pub(super) fn host_bytes(&self) -> u64 {
        let kept = self.stages.iter().filter_map(|s| s.kept.as_ref()).map(Vec::len).sum::<usize>();
        (kept + self.scratch.capacity()) as u64
    }

    /// Runs the setup list.
    pub(super) fn run_setup(&mut self, backend: &mut dyn Backend) -> Result<()> {
        self.run(backend, 0..self.setup, &|| Ok(()))
    }

    /// Runs the body.
    pub(super) fn run_body(&mut self, backend: &mut dyn Backend, stop: &Stop<'_>) -> Result<()> {
        self.run(backend, self.setup..self.stages.len(), stop)
    }

    fn run(&mut self, backend: &mut dyn Backend, range: std::ops::Range<usize>, stop: &Stop<'_>) -> Result<()> {
        let (first, end) = (range.start, range.end);
        let run = || -> Result<()> {
            if !range.is_empty() {
                self.fill(backend, first)?;
            }
            for i in range {
                backend.start(self.stages[i].list, stop)?;
                // The body begins again after its end, and follows the setup list.
                let next = if i + 1 < self.stages.len() { i + 1 } else { self.setup };
                let free = self.stages[next].piece.ring != self.stages[i].piece.ring;
                if free && (i + 1 < end || next >= self.setup) {
                    self.fill(backend, next)?;
                }
            }
            Ok(())
        };
        let done = run();
        // Whatever was met, nothing is under way afterwards.
        let finished = backend.finish();
        if done.is_err() || finished.is_err() {
            self.loaded = [None; RING];
        }
        done.and(finished)
    }

    /// Brings the weights of piece `i` into its buffer, unless they are there.
    fn fill(&mut self, backend: &mut dyn Backend, i: usize) -> Result<()> {
        let Stage { piece, kept, .. } = &mut self.stages[i];
        if self.loaded[piece.ring] == Some(i) || piece.weights.is_empty() {
            return Ok(());
        }
        self.loaded[piece.ring] = None;
        let buffer = self.ring[piece.ring];
        if kept.is_none() && piece.bytes <= self.room {
            let mut bytes = Vec::with_capacity(extent::to_usize("a piece", piece.bytes)?);
            assemble(piece, &self.source, &mut bytes)?;
            self.room -= piece.bytes;
            *kept = Some(bytes);
        }
        match kept {
            Some(bytes) => backend.upload(buffer, 0, bytes)?,
            None => {
                assemble(piece, &self.source, &mut self.scratch)?;
                backend.upload(buffer, 0, &self.scratch)?;
            }
        }
        self.loaded[piece.ring] = Some(i);
        Ok(())
    }
}

/// The packed weights of a piece, each at its offset.
fn assemble(piece: &Piece, source: &SharedWeights, into: &mut Vec<u8>) -> Result<()> {
    into.clear();
    into.resize(extent::to_usize("a piece", piece.bytes)?, 0);
    for (recipe, offset) in &piece.weights {
        let at = extent::to_usize("offset", *offset)?;
        let bytes = packed(recipe, piece.bytes - offset, &mut |w| source(w))?;
        into[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    Ok(())
}
