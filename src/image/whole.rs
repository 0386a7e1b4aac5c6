//! Pictures of 8-bit samples that decode only whole: held in memory or in the spool, then read by rows.

use super::raster::{Raster, Samples};
use super::spooled::{ReadOptions, Spooled};
use super::{Header, Stored, bad};
use crate::error::Result;
use crate::extent;

/// A picture whose pixels are still to be decoded.
pub(super) trait Decode: Send {
    /// All samples, interleaved, rows in order.
    fn decode(self: Box<Self>) -> Result<Vec<u8>>;
    /// Bytes that decoding takes at its peak, the samples included.
    fn resident_bytes(&self) -> u64;
}

/// A picture that is decoded when its first row is asked for, so that probing stays cheap.
pub(super) struct Pending {
    header: Header,
    resident: u64,
    options: ReadOptions,
    state: State,
    next: u64,
}

enum State {
    Undecoded(Box<dyn Decode>),
    Memory(Raster),
    Spooled(Spooled),
    /// Decoding failed.
    Broken,
}

impl Pending {
    pub(super) fn new(header: Header, decode: Box<dyn Decode>) -> Pending {
        let resident = decode.resident_bytes();
        Pending { header, resident, options: ReadOptions::default(), state: State::Undecoded(decode), next: 0 }
    }

    fn decode(&mut self) -> Result<()> {
        let decoder = match std::mem::replace(&mut self.state, State::Broken) {
            State::Undecoded(decoder) => decoder,
            done => {
                self.state = done;
                return Ok(());
            }
        };
        let samples = decoder.decode()?;
        self.state = match self.options.folder(samples.len() as u64) {
            Some(folder) => State::Spooled(Spooled::of_bytes(folder, &self.header, &samples)?),
            None => State::Memory(Raster {
                width: extent::to_usize("width", self.header.width)?,
                channels: self.header.colour.channels(),
                samples: Samples::Eight(samples),
            }),
        };
        Ok(())
    }
}

impl Stored for Pending {
    fn header(&self) -> &Header {
        &self.header
    }

    fn hold(&mut self, options: &ReadOptions) {
        self.options = options.clone();
    }

    /// Decoding needs all of it, wherever it is held afterwards.
    fn resident_bytes(&self, _: &ReadOptions) -> u64 {
        self.resident
    }

    fn read_row(&mut self, row: &mut [f32]) -> Result<()> {
        self.decode()?;
        self.next += 1;
        match &mut self.state {
            State::Memory(raster) => raster.read_row(self.next as usize - 1, row),
            State::Spooled(rows) => rows.read_row(self.next - 1, row)?,
            State::Undecoded(_) | State::Broken => return Err(bad("the picture could not be decoded")),
        }
        Ok(())
    }

    fn into_raster(mut self: Box<Self>) -> Result<Raster> {
        self.decode()?;
        match self.state {
            State::Memory(raster) => Ok(raster),
            _ => Err(bad("the picture could not be decoded")),
        }
    }
}
