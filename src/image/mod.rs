//! Pictures in and out: PNG, JPEG, TIFF, WebP and PPM, by rows where the format permits. The path `-` is standard
//! input and standard output.
//!
//! Values are `f32` in [0, 1], interleaved, top to bottom, alpha straight (not premultiplied). The
//! EXIF orientation is applied while reading; the extents in a [`Header`] are the turned ones. The
//! format of an input is decided by its bytes, that of an output by its extension.

mod avif_write;
pub mod colour;
mod exif;
mod format;
mod guard;
mod input;
mod jpeg_end;
mod jpeg_entropy;
mod jpeg_read;
mod jpeg_write;
mod orient;
mod output;
mod pipe;
mod png_chunks;
mod png_read;
mod png_write;
mod pnm_read;
mod pnm_write;
mod raster;
pub mod resample;
mod rows;
mod spooled;
mod target;
mod tiff_read;
mod tiff_write;
mod webp_read;
mod whole;
mod whole_write;

use crate::error::{Error, Kind, Result};
use crate::fs::File;
use crate::{extent, limits};
use input::Input;
use std::path::Path;
use std::sync::Arc;

pub use format::is_pipe;
pub use output::{
    WriteOptions, check_output, check_output_with, create, create_with, output_depth, output_notes, output_notes_with,
    output_resident_bytes, output_resident_bytes_with,
};
pub use rows::{pack_row, unpack_row};
pub use spooled::ReadOptions;

/// What the channels of a picture mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Colour {
    /// One channel of grey.
    Gray,
    /// Grey and straight alpha.
    GrayAlpha,
    /// Red, green, blue.
    Rgb,
    /// Red, green, blue and straight alpha.
    Rgba,
}

impl Colour {
    /// Channels of a pixel, alpha included.
    pub fn channels(self) -> usize {
        match self {
            Colour::Gray => 1,
            Colour::GrayAlpha => 2,
            Colour::Rgb => 3,
            Colour::Rgba => 4,
        }
    }

    /// Whether the last channel is alpha.
    pub fn has_alpha(self) -> bool {
        matches!(self, Colour::GrayAlpha | Colour::Rgba)
    }

    /// Whether the colour is a single grey channel.
    pub fn is_gray(self) -> bool {
        matches!(self, Colour::Gray | Colour::GrayAlpha)
    }

    /// The colour with these properties.
    pub fn new(gray: bool, alpha: bool) -> Colour {
        match (gray, alpha) {
            (true, false) => Colour::Gray,
            (true, true) => Colour::GrayAlpha,
            (false, false) => Colour::Rgb,
            (false, true) => Colour::Rgba,
        }
    }
}

/// Bits of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Depth {
    /// 8 bits; also what fewer bits are widened to.
    Eight,
    /// 16 bits.
    Sixteen,
}

impl Depth {
    /// Bytes of a sample.
    pub fn bytes(self) -> usize {
        match self {
            Depth::Eight => 1,
            Depth::Sixteen => 2,
        }
    }

    /// The largest sample.
    pub fn max(self) -> f32 {
        match self {
            Depth::Eight => 255.0,
            Depth::Sixteen => 65_535.0,
        }
    }
}

/// A file format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Portable Network Graphics.
    Png,
    /// JPEG, baseline or progressive Huffman.
    Jpeg,
    /// TIFF and BigTIFF.
    Tiff,
    /// Portable pixmap and graymap, binary (P5, P6).
    Ppm,
    /// Portable arbitrary map (P7), which may have alpha.
    Pam,
    /// WebP: read in both kinds, written without loss.
    WebP,
    /// AVIF, which is written only.
    Avif,
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 7] =
        [Format::Png, Format::Jpeg, Format::Tiff, Format::Ppm, Format::Pam, Format::WebP, Format::Avif];

    /// The format that people name so, in any case: an extension, without its dot.
    pub fn from_name(name: &str) -> Option<Format> {
        if name.contains(['.', '/', '\\']) {
            return None;
        }
        format::of_extension(Path::new(&format!("x.{name}")))
    }

    /// Its usual extension.
    pub fn extension(self) -> &'static str {
        match self {
            Format::Png => "png",
            Format::Jpeg => "jpg",
            Format::Tiff => "tif",
            Format::Ppm => "ppm",
            Format::Pam => "pam",
            Format::WebP => "webp",
            Format::Avif => "avif",
        }
    }

    /// Its usual name.
    pub fn name(self) -> &'static str {
        match self {
            Format::Png => "PNG",
            Format::Jpeg => "JPEG",
            Format::Tiff => "TIFF",
            Format::Ppm => "PPM",
            Format::Pam => "PAM",
            Format::WebP => "WebP",
            Format::Avif => "AVIF",
        }
    }
}

/// What is known of a picture before its rows are read.
#[derive(Debug, Clone)]
pub struct Header {
    /// Pixels across, after orientation.
    pub width: u64,
    /// Pixels down, after orientation.
    pub height: u64,
    /// What the channels mean.
    pub colour: Colour,
    /// Bits of a sample, as stored.
    pub depth: Depth,
    /// The ICC profile, carried to the output unread.
    pub icc: Option<Arc<[u8]>>,
    /// The format of the bytes.
    pub format: Format,
    /// What a reader of the picture should be told: conversions, oddities tolerated.
    pub notes: Vec<String>,
}

impl Header {
    /// Values of one row.
    pub fn row_len(&self) -> usize {
        self.width as usize * self.colour.channels()
    }
}

/// A picture being read, row by row.
pub trait RowSource: Send {
    /// What is known of it.
    fn header(&self) -> &Header;
    /// Reads the next row: `width * channels` values in [0, 1]. An error when there is none left.
    fn read_row(&mut self, row: &mut [f32]) -> Result<()>;
    /// Bytes it holds at its peak, beside a few rows: all of a picture that can't be read by rows.
    fn resident_bytes(&self) -> u64;
}

/// A picture being written, row by row. Dropped unfinished, it leaves nothing.
pub trait RowSink: Send {
    /// Writes the next row: `width * channels` values, clamped to [0, 1] (NaN to 0) and rounded half up.
    fn write_row(&mut self, row: &[f32]) -> Result<()>;
    /// Completes the file and moves it to its place. An error when rows are missing.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// What every reader gives before orientation is applied.
trait Stored: Send {
    /// Extents and properties as stored, not turned.
    fn header(&self) -> &Header;
    /// The next row as stored.
    fn read_row(&mut self, row: &mut [f32]) -> Result<()>;
    /// Says where all of it is to be held, if it must be. Called before any row is read.
    fn hold(&mut self, _options: &ReadOptions) {}
    /// Bytes that reading it takes at its peak, beside a few rows, when it is held so.
    fn resident_bytes(&self, _options: &ReadOptions) -> u64 {
        0
    }
    /// All of it at once, for pictures that must be turned. Called before any row is read.
    fn into_raster(self: Box<Self>) -> Result<raster::Raster>;
}

/// An error about an input picture: what it says is wrong with the file itself.
pub(crate) fn bad(message: impl Into<String>) -> Error {
    Error::new(Kind::BadInput, "image", message)
}

/// Refuses extents that are zero or above the limits, before anything is allocated for them.
pub(crate) fn check_extent(width: u64, height: u64) -> Result<()> {
    if width == 0 || height == 0 {
        return Err(bad(format!("the picture is empty: {width} x {height} pixels")));
    }
    let limit = |what: String| Error::new(Kind::Limit, "image", what).advise("cut the picture into parts");
    if width > limits::MAX_SIDE || height > limits::MAX_SIDE {
        return Err(limit(format!("{width} x {height} pixels: no side may exceed {}", limits::MAX_SIDE)));
    }
    let pixels = extent::product("picture", &[width, height])?;
    if pixels > limits::MAX_INPUT_PIXELS {
        return Err(limit(format!("{width} x {height} pixels: more than the {} allowed", limits::MAX_INPUT_PIXELS)));
    }
    Ok(())
}

/// Refuses a decode that would hold more than [`limits::MAX_DECODE_BYTES`]; gives the size back.
pub(crate) fn check_decode(what: &str, bytes: u64) -> Result<usize> {
    if bytes > limits::MAX_DECODE_BYTES {
        let text = format!("{what} needs {bytes} bytes, more than the {} allowed", limits::MAX_DECODE_BYTES);
        return Err(
            Error::new(Kind::Limit, "image", text).advise("store it as a PNG without interlacing, or a TIFF in strips")
        );
    }
    extent::to_usize(what, bytes)
}

/// Zeroed bytes, or an error when there is no memory for them.
pub(crate) fn zeroed<T: Clone + Default>(what: &str, len: usize) -> Result<Vec<T>> {
    let no_memory = || Error::new(Kind::Memory, "image", format!("no memory for {what}: {len} values"));
    // Asked for and given back first: `vec!` of zeros takes untouched pages from the system, which
    // `resize` would not, but it ends the process where there are none.
    Vec::<T>::new().try_reserve_exact(len).map_err(|_| no_memory())?;
    Ok(vec![T::default(); len])
}

/// Opens `path`, decides its format by its bytes and gives the reader before orientation.
fn open_stored(path: &Path) -> Result<(Box<dyn Stored>, orient::Orientation)> {
    if is_pipe(path) {
        return pipe::take();
    }
    let file = File::open(path).map_err(|e| {
        // For a picture that is missing or no file at all the input is to blame, not the disk.
        if path.is_file() { e } else { input_error(path, &e) }
    })?;
    if file.is_empty()? {
        return Err(bad(format!("{} is empty (0 bytes)", path.display())));
    }
    open_input(Input::of_file(file)?, Some(path))
}

/// The same for bytes from anywhere; `name` is the path they have, if any.
fn open_input(mut input: Input, name: Option<&Path>) -> Result<(Box<dyn Stored>, orient::Orientation)> {
    let what = name.unwrap_or(Path::new("standard input"));
    let head = input.head(32).map_err(|e| crate::fs::io_error("cannot read", what, &e))?;
    if head.is_empty() {
        return Err(bad(format!("{} is empty (0 bytes)", what.display())));
    }
    let format = format::sniff(&head)?;
    let notes = name.and_then(|path| format::mislabelled(path, format)).into_iter().collect();
    guard::guard(|| match format {
        Format::Png => png_read::open(input, notes),
        Format::Jpeg => jpeg_read::open(input, notes),
        Format::Tiff => tiff_read::open(input, notes),
        Format::Ppm | Format::Pam => pnm_read::open(input, format, notes),
        Format::WebP => webp_read::open(input, notes),
        Format::Avif => Err(bad("AVIF is not read").advise("convert it to PNG, JPEG, TIFF, WebP or PPM")),
    })
}

fn input_error(path: &Path, e: &Error) -> Error {
    let what = if path.exists() { e.message().to_owned() } else { format!("{} does not exist", path.display()) };
    let error = bad(what);
    match e.advice() {
        Some(advice) => error.advise(advice),
        None => error,
    }
}

fn at(path: &Path, e: Error) -> Error {
    // The path is in the message already when the file call failed.
    if is_pipe(path) {
        let named = e.message().contains("standard input");
        return if named { e } else { e.at("standard input") };
    }
    if e.message().contains(path.to_string_lossy().as_ref()) { e } else { e.at(path.display()) }
}

/// What a probe tells.
#[derive(Debug, Clone)]
pub struct Probe {
    /// What is known of the picture.
    pub header: Header,
    /// Bytes that reading it takes at its peak, beside a few rows.
    pub resident_bytes: u64,
}

/// The header of the picture at `path`: [`probe_with`] with plain options.
pub fn probe(path: &Path) -> Result<Header> {
    Ok(probe_with(path, &ReadOptions::default())?.header)
}

/// What is known of the picture at `path` before it is read; no pixel is decoded. Standard input is kept for
/// [`open_with`].
pub fn probe_with(path: &Path, options: &ReadOptions) -> Result<Probe> {
    let (stored, orientation) = open_stored(path).map_err(|e| at(path, e))?;
    let header = stored.header();
    let (width, height) = orientation.turned(header.width, header.height);
    let header = Header { width, height, ..header.clone() };
    let resident_bytes = orient::resident(&*stored, orientation, options)?;
    if is_pipe(path) {
        pipe::put_back(stored, orientation);
    }
    Ok(Probe { header, resident_bytes })
}

/// Opens the picture at `path` for reading by rows, upright: [`open_with`] with plain options.
pub fn open(path: &Path) -> Result<Box<dyn RowSource>> {
    open_with(path, &ReadOptions::default())
}

/// Opens the picture at `path` for reading by rows, upright. Standard input can be opened once.
pub fn open_with(path: &Path, options: &ReadOptions) -> Result<Box<dyn RowSource>> {
    let (stored, orientation) = open_stored(path).map_err(|e| at(path, e))?;
    let upright = guard::guard(|| orient::upright(stored, orientation, options)).map_err(|e| at(path, e))?;
    Ok(Box::new(guard::Guarded::new(upright, path)))
}
