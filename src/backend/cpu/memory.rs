//! Buffers of host memory, and the disjoint views one launch needs of them, without unsafe code.

use crate::error::{Error, Kind, Result};
use crate::extent;
use crate::plan::command::Range;
use bytemuck::{Pod, Zeroable};

/// One cache line: buffers start on one, so every value (256-byte aligned in its arena) does too.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub(super) struct Line([u32; 16]);

/// A buffer.
#[derive(Debug)]
pub(super) struct Block {
    lines: Vec<Line>,
}

impl Block {
    /// A zeroed block of at least `bytes`.
    pub(super) fn new(bytes: u64) -> Result<Block> {
        let refuse = || Error::new(Kind::Memory, "cpu", format!("the host can't give {bytes} bytes in one block"));
        let count = extent::to_usize("buffer", bytes.div_ceil(64))?;
        let mut lines = Vec::new();
        lines.try_reserve_exact(count).map_err(|_| refuse().advise("use a smaller tile or lower --ram"))?;
        lines.resize(count, Line::zeroed());
        Ok(Block { lines })
    }

    /// Length in bytes: the size asked for, rounded up to a line.
    pub(super) fn len(&self) -> u64 {
        self.lines.len() as u64 * 64
    }

    /// Everything, as bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.lines)
    }

    /// Everything, as bytes that may change.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.lines)
    }
}

/// Most operands one launch has.
pub(super) const MAX_OPERANDS: usize = crate::limits::MAX_BINDINGS;

/// Where one operand lies; `buffer` indexes the backend's buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Index of the buffer.
    pub(super) buffer: usize,
    /// First byte.
    pub(super) offset: usize,
    /// Length in bytes.
    pub(super) bytes: usize,
    /// The kernel writes it.
    pub(super) write: bool,
}

impl Place {
    /// The place of a range whose buffer is `buffer`, `len` bytes long.
    pub(super) fn new(range: &Range, buffer: usize, len: u64, write: bool) -> Result<Place> {
        let end = range.offset.checked_add(range.bytes);
        if end.is_none_or(|end| end > len) {
            return Err(Error::new(
                Kind::Internal,
                "cpu",
                format!("range {range:?} ends outside its buffer of {len} bytes"),
            ));
        }
        if !range.offset.is_multiple_of(extent::ARENA_ALIGN) {
            return Err(Error::new(Kind::Internal, "cpu", format!("range {range:?} is not aligned")));
        }
        Ok(Place {
            buffer,
            offset: extent::to_usize("offset", range.offset)?,
            bytes: extent::to_usize("range", range.bytes)?,
            write,
        })
    }

    fn end(&self) -> usize {
        self.offset + self.bytes
    }

    fn overlaps(&self, other: &Place) -> bool {
        self.buffer == other.buffer && self.offset < other.end() && other.offset < self.end()
    }
}

/// Refuses a launch that writes what it also reads or writes elsewhere.
pub(super) fn check_aliases(places: &[Option<Place>]) -> Result<()> {
    for (i, a) in places.iter().enumerate() {
        for b in places[..i].iter().flatten() {
            if let Some(a) = a
                && (a.write || b.write)
                && a.overlaps(b)
            {
                return Err(Error::new(Kind::Internal, "cpu", format!("{a:?} is written and overlaps {b:?}")));
            }
        }
    }
    Ok(())
}

/// A view of one operand.
#[derive(Debug, Default)]
pub(super) enum View<'a> {
    /// The optional part is absent (or its view was taken).
    #[default]
    None,
    /// Only read.
    Read(&'a [u8]),
    /// Written.
    Write(&'a mut [u8]),
}

impl<'a> View<'a> {
    /// The bytes of an operand that is only read; empty where it is absent.
    pub(super) fn read(&self) -> &[u8] {
        match self {
            View::None => &[],
            View::Read(b) => b,
            View::Write(b) => b,
        }
    }

    /// Takes the bytes of an operand that is written; empty where it is absent.
    pub(super) fn take_write(&mut self) -> &'a mut [u8] {
        match std::mem::take(self) {
            View::Write(b) => b,
            View::None | View::Read(_) => &mut [],
        }
    }
}

/// Views of `places`, whose aliases [`check_aliases`] has accepted. Nothing is allocated: buffers and
/// ranges are at most [`MAX_OPERANDS`], so they are found by walking them in order of address.
pub(super) fn views<'a>(buffers: &'a mut [Option<Block>], places: &[Option<Place>]) -> [View<'a>; MAX_OPERANDS] {
    let mut views: [View<'a>; MAX_OPERANDS] = Default::default();
    let mut rest = buffers;
    let mut taken = 0;
    // The next buffer in index order that an operand lies in.
    while let Some(next) = places.iter().flatten().map(|p| p.buffer).filter(|&b| b >= taken).min() {
        let (head, tail) = std::mem::take(&mut rest).split_at_mut(next - taken + 1);
        rest = tail;
        taken = next + 1;
        if let Some(Some(block)) = head.last_mut() {
            carve(block.bytes_mut(), next, places, &mut views);
        }
    }
    views
}

/// Cuts one buffer at the bounds of its operands. Runs of overlapping ranges are all reads.
fn carve<'a>(bytes: &'a mut [u8], buffer: usize, places: &[Option<Place>], views: &mut [View<'a>; MAX_OPERANDS]) {
    let mut rest = bytes;
    let mut start = 0;
    let inside = |at: usize| places.iter().flatten().filter(move |p| p.buffer == buffer && p.offset >= at);
    while let Some(first) = inside(start).min_by_key(|p| (p.offset, p.end())) {
        // Grow the run while a range begins inside it.
        let mut end = first.end();
        while let Some(further) = inside(start).filter(|p| p.offset < end && p.end() > end).map(Place::end).max() {
            end = further;
        }
        let (_, from) = std::mem::take(&mut rest).split_at_mut(first.offset - start);
        let (run, tail) = from.split_at_mut(end - first.offset);
        rest = tail;
        let offset = first.offset;
        if first.write {
            // Nothing overlaps a range that is written, so the run is this one operand.
            if let Some(index) = places.iter().position(|p| p.as_ref() == Some(first)) {
                views[index] = View::Write(run);
            }
        } else {
            let run: &'a [u8] = run;
            for (view, place) in views.iter_mut().zip(places) {
                if let Some(p) = place
                    && p.buffer == buffer
                    && p.offset >= offset
                    && p.end() <= end
                {
                    *view = View::Read(&run[p.offset - offset..p.end() - offset]);
                }
            }
        }
        start = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(buffer: usize, offset: usize, bytes: usize, write: bool) -> Option<Place> {
        Some(Place { buffer, offset, bytes, write })
    }

    #[test]
    fn views_are_the_ranges_asked_for() {
        let mut buffers: Vec<Option<Block>> =
            vec![Some(Block::new(1024).unwrap()), None, Some(Block::new(512).unwrap())];
        for block in buffers.iter_mut().flatten() {
            let n = block.bytes().len();
            block.bytes_mut().copy_from_slice(&(0..n).map(|i| (i / 4) as u8).collect::<Vec<_>>());
        }
        // Two equal reads, a read that overlaps them, an empty read, a write between, another buffer.
        let places = [
            place(0, 256, 128, false),
            place(0, 256, 128, false),
            None,
            place(0, 320, 128, false),
            place(0, 512, 64, true),
            place(2, 0, 512, false),
            place(0, 768, 256, false),
        ];
        check_aliases(&places).unwrap();
        let mut views = views(&mut buffers, &places);
        assert_eq!(views[0].read().len(), 128);
        assert_eq!(views[0].read(), views[1].read());
        assert!(views[2].read().is_empty());
        assert_eq!((views[3].read()[0], views[3].read().len()), (80, 128));
        assert_eq!(views[5].read().len(), 512);
        assert_eq!(views[6].read()[0], 192);
        let y = views[4].take_write();
        assert_eq!((y.len(), y[0]), (64, 128));
        y[0] = 7;
        assert_eq!(buffers[0].as_ref().unwrap().bytes()[512], 7);
    }

    #[test]
    fn writing_what_is_read_is_refused() {
        assert!(check_aliases(&[place(0, 0, 256, false), place(0, 128, 256, true)]).is_err());
        assert!(check_aliases(&[place(0, 0, 256, false), place(1, 0, 256, true)]).is_ok());
        assert!(check_aliases(&[place(0, 0, 256, false), place(0, 128, 256, false)]).is_ok());
    }
}
