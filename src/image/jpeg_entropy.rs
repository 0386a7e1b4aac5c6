//! Whether the coded data of a JPEG are all there: every block of every scan is walked, nothing is
//! reconstructed.
//!
//! The decoder fills what is missing with zeros as long as an end mark follows, so a picture cut
//! inside (a bad copy, a byte that turned into a marker) would come out grey at the bottom. Here the
//! Huffman codes are followed bit by bit, and data that end before the last block are an error.

use super::bad;
use super::jpeg_end::entropy_end;
use crate::error::{Error, Result};

/// Bits looked at once for a code; longer codes go bit by bit.
const FAST_BITS: u32 = 9;

/// Decodes one Huffman table's codes.
#[derive(Clone)]
struct Table {
    /// By the next bits: length of the code and its symbol; length 0 for longer ones.
    fast: Vec<(u8, u8)>,
    /// One past the largest code of each length, at the top of 16 bits, and what to add to a code to
    /// get the index of its symbol.
    limit: [u32; 17],
    offset: [i32; 17],
    symbols: Vec<u8>,
}

impl Table {
    fn new(counts: &[u8], symbols: &[u8]) -> Result<Table> {
        let mut table =
            Table { fast: vec![(0, 0); 1 << FAST_BITS], limit: [0; 17], offset: [0; 17], symbols: symbols.to_vec() };
        let (mut code, mut index) = (0u32, 0usize);
        for length in 1..=16u32 {
            let count = u32::from(counts[length as usize - 1]);
            if code + count > 1 << length {
                return Err(bad("damaged JPEG: a Huffman table with too many codes"));
            }
            table.offset[length as usize] = index as i32 - code as i32;
            for _ in 0..count {
                if length <= FAST_BITS {
                    let low = (code << (FAST_BITS - length)) as usize;
                    table.fast[low..low + (1 << (FAST_BITS - length))].fill((length as u8, symbols[index]));
                }
                code += 1;
                index += 1;
            }
            table.limit[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Ok(table)
    }
}

/// Bits of entropy-coded data, up to the next marker.
struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    /// The next bits, from the top; zeros below the real ones.
    window: u64,
    real: u32,
}

/// Why a walk stopped early.
enum Stop {
    /// The data ended.
    Short,
    /// No code begins like that.
    Damaged,
}

impl Bits<'_> {
    fn fill(&mut self) {
        while self.real <= 56 {
            let Some(&byte) = self.data.get(self.at) else { return };
            if byte == 0xff {
                // 0 after it is stuffing; anything else a marker, where the bits end.
                if self.data.get(self.at + 1) != Some(&0) {
                    return;
                }
                self.at += 1;
            }
            self.at += 1;
            self.window |= u64::from(byte) << (56 - self.real);
            self.real += 8;
        }
    }

    /// Takes `n` bits, at most 16.
    fn take(&mut self, n: u32) -> Result<u32, Stop> {
        if self.real < n {
            self.fill();
        }
        if self.real < n {
            return Err(Stop::Short);
        }
        let value = if n == 0 { 0 } else { (self.window >> (64 - n)) as u32 };
        self.window <<= n;
        self.real -= n;
        Ok(value)
    }

    fn symbol(&mut self, table: &Table) -> Result<u8, Stop> {
        if self.real < 16 {
            self.fill();
        }
        let (length, symbol) = table.fast[(self.window >> (64 - FAST_BITS)) as usize];
        if length > 0 {
            self.take(u32::from(length))?;
            return Ok(symbol);
        }
        let next = (self.window >> 48) as u32;
        for length in FAST_BITS + 1..=16 {
            if next < table.limit[length as usize] {
                let index = (next >> (16 - length)) as i32 + table.offset[length as usize];
                self.take(length)?;
                return table.symbols.get(index as usize).copied().ok_or(Stop::Damaged);
            }
        }
        // All ones pads the last byte of a scan: with too few bits left, the data ended.
        Err(if self.real < 16 { Stop::Short } else { Stop::Damaged })
    }

    /// Passes the restart marker that must come next.
    fn restart(&mut self) -> Result<(), Stop> {
        (self.window, self.real) = (0, 0);
        match self.data.get(self.at..self.at + 2) {
            Some([0xff, 0xd0..=0xd7]) => {
                self.at += 2;
                Ok(())
            }
            Some(_) => Err(Stop::Damaged),
            None => Err(Stop::Short),
        }
    }
}

/// One component of the frame.
struct Component {
    id: u8,
    /// Blocks of an interleaved unit, across and down.
    h: usize,
    v: usize,
    /// Blocks that hold samples, across and down: what a scan of this component alone codes.
    wide: usize,
    high: usize,
    /// Blocks of a row with the padding that interleaving brings.
    stride: usize,
    /// For progressive pictures: which coefficients of each block are not zero so far.
    known: Vec<u64>,
    /// Low bits of each coefficient that no scan has brought so far; [`NO_SCAN`] before the first.
    missing: [u8; 64],
}

/// More bits than any coefficient has.
const NO_SCAN: u8 = 255;

/// What a scan codes: band of coefficients and bit positions (progressive), or all of it.
#[derive(Clone, Copy)]
struct Scan {
    progressive: bool,
    from: u32,
    to: u32,
    refines: bool,
    missing: u8,
}

/// Walks the JPEG in `bytes`, whose markers are known to be in order.
pub(super) fn check(bytes: &[u8]) -> Result<()> {
    let mut tables: [Option<Table>; 8] = [const { None }; 8];
    let mut frame: Vec<Component> = Vec::new();
    let mut units = (0, 0);
    let mut progressive = false;
    let mut interval = 0usize;
    let mut at = 2;
    let cut = || bad("damaged JPEG: a segment is too short");
    loop {
        while bytes.get(at + 1) == Some(&0xff) {
            at += 1;
        }
        let code = *bytes.get(at + 1).ok_or_else(cut)?;
        at += 2;
        match code {
            0xd9 if frame.iter().all(|c| c.missing == [0; 64]) => return Ok(()),
            0xd9 => return Err(bad("the JPEG is truncated: its last scans are missing")),
            0x01 | 0xd0..=0xd7 => continue,
            _ => {}
        }
        let length = bytes.get(at..at + 2).map(|b| usize::from(u16::from_be_bytes([b[0], b[1]]))).ok_or_else(cut)?;
        let body = bytes.get(at + 2..at + length).ok_or_else(cut)?;
        at += length;
        match code {
            0xc4 => read_tables(body, &mut tables)?,
            0xc0..=0xc2 => {
                progressive = code == 0xc2;
                (frame, units) = read_frame(body, progressive)?;
            }
            0xdd => interval = body.get(..2).map(|b| usize::from(u16::from_be_bytes([b[0], b[1]]))).ok_or_else(cut)?,
            0xda => {
                let mut bits = Bits { data: bytes, at, window: 0, real: 0 };
                walk_scan(body, &mut bits, &mut frame, units, progressive, interval, &tables)?;
                // What is left before the next marker is padding; the markers were walked before.
                at = entropy_end(bytes, at)?;
            }
            _ => {}
        }
    }
}

fn read_tables(mut body: &[u8], tables: &mut [Option<Table>; 8]) -> Result<()> {
    let cut = || bad("damaged JPEG: a Huffman table is too short");
    while let Some((&which, rest)) = body.split_first() {
        let counts = rest.get(..16).ok_or_else(cut)?;
        let total: usize = counts.iter().map(|&c| usize::from(c)).sum();
        let symbols = rest.get(16..16 + total).ok_or_else(cut)?;
        // Class (direct or alternating current) in the high half, number in the low one.
        let slot = usize::from(which >> 4) * 4 + usize::from(which & 15);
        if which & 15 > 3 || which >> 4 > 1 {
            return Err(bad("damaged JPEG: a Huffman table with a wrong number"));
        }
        tables[slot] = Some(Table::new(counts, symbols)?);
        body = &rest[16 + total..];
    }
    Ok(())
}

/// The components of a frame, and its interleaved units across and down.
fn read_frame(body: &[u8], progressive: bool) -> Result<(Vec<Component>, (usize, usize))> {
    let cut = || bad("damaged JPEG: its frame header is too short");
    let head = body.get(..6).ok_or_else(cut)?;
    let height = usize::from(u16::from_be_bytes([head[1], head[2]]));
    let width = usize::from(u16::from_be_bytes([head[3], head[4]]));
    let parts = body.get(6..6 + 3 * usize::from(head[5])).ok_or_else(cut)?;
    let sides = |p: &[u8]| (usize::from(p[1] >> 4), usize::from(p[1] & 15));
    if parts.chunks_exact(3).map(sides).any(|(h, v)| !(1..=4).contains(&h) || !(1..=4).contains(&v)) {
        return Err(bad("damaged JPEG: wrong sampling factors"));
    }
    let most_h = parts.chunks_exact(3).map(|p| sides(p).0).max().unwrap_or(1);
    let most_v = parts.chunks_exact(3).map(|p| sides(p).1).max().unwrap_or(1);
    let units = (width.div_ceil(8 * most_h), height.div_ceil(8 * most_v));
    let mut frame = Vec::new();
    for p in parts.chunks_exact(3) {
        let (h, v) = sides(p);
        let stride = units.0 * h;
        let blocks = if progressive { stride * units.1 * v } else { 0 };
        frame.push(Component {
            id: p[0],
            h,
            v,
            wide: (width * h).div_ceil(most_h).div_ceil(8),
            high: (height * v).div_ceil(most_v).div_ceil(8),
            stride,
            known: super::zeroed("a JPEG's blocks", blocks)?,
            missing: [NO_SCAN; 64],
        });
    }
    Ok((frame, units))
}

fn walk_scan(
    body: &[u8],
    bits: &mut Bits<'_>,
    frame: &mut [Component],
    units: (usize, usize),
    progressive: bool,
    interval: usize,
    tables: &[Option<Table>; 8],
) -> Result<()> {
    let damaged = || bad("damaged JPEG: a scan header that fits no frame");
    let count = usize::from(*body.first().ok_or_else(damaged)?);
    let parts = body.get(1..1 + 2 * count).ok_or_else(damaged)?;
    let band = body.get(1 + 2 * count..4 + 2 * count).ok_or_else(damaged)?;
    let scan = Scan {
        progressive,
        from: band[0].into(),
        to: band[1].into(),
        refines: band[2] >> 4 != 0,
        missing: band[2] & 15,
    };
    if progressive && (scan.from > scan.to || scan.to > 63 || (scan.from > 0 && count != 1)) {
        return Err(damaged());
    }
    // Index of each component, and its two tables.
    let mut members = Vec::new();
    for p in parts.chunks_exact(2) {
        let index = frame.iter().position(|c| c.id == p[0]).ok_or_else(damaged)?;
        members.push((index, usize::from(p[1] >> 4), usize::from(p[1] & 15)));
    }
    for &(index, ..) in &members {
        let missing = &mut frame[index].missing;
        match progressive {
            true => missing[scan.from as usize..=scan.to as usize].fill(scan.missing),
            false => missing.fill(0),
        }
    }
    let (across, down) = match members[..] {
        [] => return Err(damaged()),
        [(only, ..)] => (frame[only].wide, frame[only].high),
        _ => units,
    };
    let mut run = 0u32;
    for unit in 0..across * down {
        let step = || -> Result<(), Stop> {
            if interval > 0 && unit > 0 && unit % interval == 0 {
                bits.restart()?;
                run = 0;
            }
            let (x, y) = (unit % across, unit / across);
            for &(index, direct, alternating) in &members {
                let c = &mut frame[index];
                let direct = tables.get(direct).filter(|_| direct < 4).and_then(Option::as_ref);
                let alternating = tables.get(4 + alternating).and_then(Option::as_ref);
                let (h, v) = if members.len() > 1 { (c.h, c.v) } else { (1, 1) };
                for i in 0..h * v {
                    let place = (y * v + i / h) * c.stride + x * h + i % h;
                    let mut none = 0;
                    let known = c.known.get_mut(place).unwrap_or(&mut none);
                    block(bits, scan, direct, alternating, &mut run, known)?;
                }
            }
            Ok(())
        };
        step_error(step, unit, across * down)?;
    }
    Ok(())
}

fn step_error(step: impl FnOnce() -> Result<(), Stop>, unit: usize, units: usize) -> Result<()> {
    step().map_err(|stop| -> Error {
        match stop {
            Stop::Short => bad(format!("the JPEG is truncated: its data end in unit {unit} of {units} of a scan")),
            Stop::Damaged => bad(format!("damaged JPEG: no code fits in unit {unit} of {units} of a scan")),
        }
    })
}

/// Walks one block. `run` counts blocks that are passed without code, `known` is its nonzero
/// coefficients.
fn block(
    bits: &mut Bits<'_>,
    scan: Scan,
    direct: Option<&Table>,
    alternating: Option<&Table>,
    run: &mut u32,
    known: &mut u64,
) -> Result<(), Stop> {
    let (mut k, last) = if scan.progressive { (scan.from, scan.to) } else { (0, 63) };
    if k == 0 {
        if scan.progressive && scan.refines {
            bits.take(1)?;
        } else {
            let size = bits.symbol(direct.ok_or(Stop::Damaged)?)?;
            bits.take(u32::from(size).min(16))?;
        }
        k = 1;
        if scan.progressive && last == 0 {
            return Ok(());
        }
    }
    if scan.progressive && scan.refines {
        return refine(bits, k, last, alternating.ok_or(Stop::Damaged)?, run, known);
    }
    if *run > 0 {
        *run -= 1;
        return Ok(());
    }
    let table = alternating.ok_or(Stop::Damaged)?;
    while k <= last {
        let symbol = bits.symbol(table)?;
        let (zeros, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
        if size == 0 {
            if zeros == 15 {
                k += 16;
                continue;
            }
            if scan.progressive {
                // This block and 2^zeros - 1 + the next bits more end here.
                *run = (1 << zeros) - 1 + bits.take(zeros)?;
            }
            return Ok(());
        }
        k += zeros;
        if k > last {
            return Err(Stop::Damaged);
        }
        bits.take(size)?;
        *known |= 1 << k;
        k += 1;
    }
    Ok(())
}

/// Walks one block of a scan that adds a bit to coefficients known, and finds new ones between them.
fn refine(
    bits: &mut Bits<'_>,
    mut k: u32,
    last: u32,
    table: &Table,
    run: &mut u32,
    known: &mut u64,
) -> Result<(), Stop> {
    while *run == 0 && k <= last {
        let symbol = bits.symbol(table)?;
        let (mut zeros, size) = (u32::from(symbol >> 4), symbol & 15);
        if size == 0 && zeros < 15 {
            *run = (1 << zeros) + bits.take(zeros)?;
            break;
        }
        if size != 0 {
            bits.take(1)?;
        }
        // Known coefficients on the way give a bit each; `zeros` unknown ones are passed.
        while k <= last {
            if *known >> k & 1 == 1 {
                bits.take(1)?;
            } else if zeros == 0 {
                break;
            } else {
                zeros -= 1;
            }
            k += 1;
        }
        if size != 0 && k <= last {
            *known |= 1 << k;
        }
        k += 1;
    }
    if *run > 0 {
        while k <= last {
            if *known >> k & 1 == 1 {
                bits.take(1)?;
            }
            k += 1;
        }
        *run -= 1;
    }
    Ok(())
}
