//! The rows of a job between its files and its program: decoded and enlarged on the way in, joined with the alpha
//! channel (enlarged apart) on the way out. No more than a band of any of them exists at a time.

use super::clock::Clock;
use super::connections::{Connections, RowsOut};
use super::control::Control;
use super::delivery::Delivery;
use super::interpreter::{Interpreter, RunStats};
use super::options::{Cancel, Target, UpscaleOptions};
use crate::error::Result;
use crate::extent;
use crate::image::{self, Colour, Header, ReadOptions, RowSource, colour, resample::Resampler};
use crate::system::onestep;
use crate::system::program::Residency;
use crate::tile::RowRing;
use std::cell::RefCell;
use std::path::Path;
use std::time::Instant;

/// Seconds spent on rows: within the interpreter's gathering and scattering.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Times {
    /// Reading and enlarging.
    pub(super) read: f64,
    /// Packing, encoding or spooling.
    pub(super) write: f64,
}

/// Connects file, enlargement, program and delivery, and runs the program.
pub(super) fn run(
    interpreter: &mut Interpreter<'_>,
    control: &mut Control<'_>,
    options: &UpscaleOptions,
    reading: &ReadOptions,
    colour: Colour,
    target: &Target,
    delivery: &mut Delivery,
) -> Result<(RunStats, Times)> {
    let program = interpreter.program();
    let (from, to) = (program.canvas(onestep::INPUT)?, program.canvas(onestep::OUTPUT)?);
    let width = extent::to_usize("width", target.width)?;
    let again = program.canvas(onestep::INPUT_AGAIN).ok();
    // Where the result is made in a later pass than the first, the picture is read a second time: for what is added
    // to the result, and for alpha.
    let passing = program.canvases[from.0].residency == Residency::Band;
    let later = !passing
        || !program.window_phases().any(|(phase, _)| {
            phase.sinks.iter().any(|(_, s)| s.canvas() == Some(to))
                && phase.sources.iter().any(|(_, s)| s.canvas() == Some(from))
        });
    // Alpha waits for its row to come out of the network: a band of input and a row of windows at most.
    let waiting = if passing { interpreter.rows_in_flight(again.unwrap_or(from)) } else { 2 };
    let times = RefCell::new(Times::default());
    let columns = if colour.has_alpha() { width } else { 1 };
    let held = RefCell::new(RowRing::new(extent::to_u32("columns", columns as u64)?, 1, waiting));

    let mut source = Enlarged::open(&options.input, reading, target)?;
    let twice = later && (again.is_some() || colour.has_alpha());
    let second = RefCell::new(if twice { Some(Enlarged::open(&options.input, reading, target)?) } else { None });
    let mut unused = vec![0.0f32; columns];
    interpreter.resume_at(to, extent::to_u32("rows", delivery.done())?);
    let mut rows_in = |row: &mut [f32]| -> Result<()> {
        let at = Instant::now();
        let mut held = held.borrow_mut();
        let alpha_row = if later { unused.as_mut_slice() } else { held.push() };
        source.next_row(row, alpha_row)?;
        times.borrow_mut().read += at.elapsed().as_secs_f64();
        Ok(())
    };
    let read_again = |row: &mut [f32]| -> Result<()> {
        let at = Instant::now();
        if let Some(source) = second.borrow_mut().as_mut() {
            source.next_row(row, held.borrow_mut().push())?;
        }
        times.borrow_mut().read += at.elapsed().as_secs_f64();
        Ok(())
    };
    let mut rows_again = read_again;
    let mut colours = vec![0.0f32; 3 * width];
    let mut next_alpha = || read_again(&mut colours);
    // Nothing but alpha is wanted of the second reading, where nothing else pulls it.
    let alpha = (later && again.is_none() && colour.has_alpha()).then_some(&mut next_alpha as &mut AlphaRows<'_>);
    let joined = vec![0.0f32; width * colour.channels()];
    let mut rows_out = Out { colour, held: &held, times: &times, joined, alpha, delivery };
    let mut io = Connections { inputs: vec![(from, &mut rows_in)], outputs: vec![(to, &mut rows_out)] };
    if let Some(again) = again {
        io.inputs.push((again, &mut rows_again));
    }
    let stats = interpreter.run(&mut io, control)?;
    drop(io);
    // Damage after the last row that was needed is damage all the same.
    source.drain()?;
    Ok((stats, times.into_inner()))
}

/// Reads the next row of alpha.
type AlphaRows<'a> = dyn FnMut() -> Result<()> + 'a;

/// Takes finished rows of the program to the delivery.
struct Out<'a> {
    colour: Colour,
    held: &'a RefCell<RowRing>,
    times: &'a RefCell<Times>,
    joined: Vec<f32>,
    /// Where alpha has to be read here.
    alpha: Option<&'a mut AlphaRows<'a>>,
    delivery: &'a mut Delivery,
}

impl RowsOut for Out<'_> {
    fn put_row(&mut self, y: u32, row: &[f32]) -> Result<()> {
        // An earlier run finished it.
        if u64::from(y) < self.delivery.done() {
            return Ok(());
        }
        if let Some(read) = &mut self.alpha {
            while self.held.borrow().end() <= y {
                read()?;
            }
        }
        let at = Instant::now();
        let held = self.held.borrow();
        let alpha_row: &[f32] = if self.colour.has_alpha() { held.row(y)? } else { &[] };
        colour::join_row(self.colour, row, alpha_row, &mut self.joined);
        self.delivery.put(u64::from(y), &self.joined)?;
        self.times.borrow_mut().write += at.elapsed().as_secs_f64();
        Ok(())
    }

    fn settle(&mut self) -> Result<()> {
        let at = Instant::now();
        self.delivery.settle()?;
        self.times.borrow_mut().write += at.elapsed().as_secs_f64();
        Ok(())
    }

    fn wants_point(&mut self) -> Result<bool> {
        Ok(self.delivery.wants_point())
    }

    fn save_point(&mut self, at: u64, states: &[&[u8]]) -> Result<()> {
        self.delivery.save_point(at, states)
    }

    fn point(&self) -> Option<u64> {
        // Alpha comes with the input's rows: where it is needed they are read from the first one on.
        if self.colour.has_alpha() { None } else { self.delivery.point() }
    }

    fn load_point(&mut self, lengths: &[usize]) -> Result<Option<Vec<Vec<u8>>>> {
        self.delivery.load_point(lengths)
    }
}

/// Writes the picture's own rows.
pub(super) fn copy(
    options: &UpscaleOptions,
    path: &Path,
    header: &Header,
    target: &Target,
    cancel: &Cancel,
) -> Result<()> {
    let mut source = Enlarged::open(&options.input, &options.reading(), target)?;
    let mut sink = image::create_with(path, header, &options.writing())?;
    for _ in 0..target.height {
        cancel.check()?;
        source.next_wide()?;
        sink.write_row(&source.wide)?;
    }
    source.drain()?;
    sink.finish()
}

/// Reads the picture to its end without keeping anything: damage anywhere in it is an error.
pub(super) fn check(options: &UpscaleOptions, reading: &ReadOptions, target: &Target, clock: &mut Clock) -> Result<()> {
    Enlarged::open(&options.input, reading, target)?.drain()?;
    clock.lap("read");
    Ok(())
}

/// A picture read by rows and enlarged. Every channel is enlarged on its own, alpha included; grey becomes
/// RGB after it is enlarged.
struct Enlarged {
    source: Box<dyn RowSource>,
    colour: Colour,
    resampler: Resampler,
    wide: Vec<f32>,
}

impl Enlarged {
    fn open(input: &Path, reading: &ReadOptions, target: &Target) -> Result<Enlarged> {
        let source = image::open_with(input, reading)?;
        let header = source.header();
        let (colour, from) = (header.colour, (header.width, header.height));
        let resampler = Resampler::new(from, (target.width, target.height), colour.channels())?;
        let wide = vec![0.0; resampler.row_len()];
        Ok(Enlarged { source, colour, resampler, wide })
    }

    /// The next enlarged row into `wide`, the file's own channels.
    fn next_wide(&mut self) -> Result<()> {
        let source = &mut self.source;
        self.resampler.next_row(|row| source.read_row(row), &mut self.wide)
    }

    fn next_row(&mut self, rgb: &mut [f32], alpha: &mut [f32]) -> Result<()> {
        self.next_wide()?;
        colour::split_row(self.colour, &self.wide, rgb, alpha);
        Ok(())
    }

    fn drain(&mut self) -> Result<()> {
        let source = &mut self.source;
        self.resampler.drain(|row| source.read_row(row))
    }
}

/// Host bytes of what brings and takes rows: the resampler's ring, the rows in between, and `held`, what reader
/// and writer keep of pictures that do not go by rows.
pub(super) fn host_bytes(header: &Header, target: &Target, held: u64) -> Result<u64> {
    let channels = header.colour.channels() as u64;
    let wide = extent::product("row", &[target.width, channels, 4])?;
    let alpha = if header.colour.has_alpha() { extent::product("alpha", &[target.width, 4, 2048])? } else { 0 };
    Ok(held.saturating_add(8 * wide).saturating_add(alpha))
}
