//! Starting a picture: by its name's format, refused up front where it cannot be written.

use super::format::is_pipe;
use super::raster;
use super::target::Target;
use super::{
    Depth, Format, Header, RowSink, avif_write, format, jpeg_write, png_write, pnm_write, tiff_write, whole_write,
};
use crate::error::{Error, Kind, Result};
use crate::fs::{self, AtomicFile};
use crate::{extent, limits};
use std::path::Path;

/// Fraction of its raw size below which no photograph compresses in each format; less free space
/// than that is refused before any work.
const fn least_share(format: Format) -> u64 {
    match format {
        Format::Png | Format::Tiff | Format::WebP => 5,
        Format::Jpeg => 50,
        Format::Avif => 100,
        // Not compressed at all.
        Format::Ppm | Format::Pam => 1,
    }
}

/// How a picture is written, beside where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// The format; without it the one that the name's extension tells. Standard output needs it.
    pub format: Option<Format>,
    /// Replaces a file that exists.
    pub overwrite: bool,
    /// Side of the tiles of a TIFF, a multiple of 16; without it there are strips.
    pub tiles: Option<u32>,
}

impl WriteOptions {
    /// The format the extension names; an existing file is replaced where `overwrite` says so.
    pub fn new(overwrite: bool) -> WriteOptions {
        WriteOptions { format: None, overwrite, tiles: None }
    }
}

/// Starts a picture at `path`, in the format its extension names: [`create_with`] with plain options.
pub fn create(path: &Path, header: &Header, overwrite: bool) -> Result<Box<dyn RowSink>> {
    create_with(path, header, &WriteOptions::new(overwrite))
}

/// Starts a picture at `path` with the extents, colour, depth and profile of `header`. A file takes its
/// place in [`RowSink::finish`]; the path `-` is standard output, which gets the rows as they come.
pub fn create_with(path: &Path, header: &Header, options: &WriteOptions) -> Result<Box<dyn RowSink>> {
    check_folder(path)?;
    let format = format::of_output(path, options.format)?;
    let file = if is_pipe(path) {
        check_fits(format, path, header)?;
        Target::stdout()?
    } else {
        check_path(path, options.overwrite)?;
        check_fits(format, path, header)?;
        Target::File(AtomicFile::create(path, options.overwrite)?)
    };
    Ok(match format {
        Format::Png => Box::new(png_write::PngSink::create(file, header)?),
        Format::Jpeg => Box::new(jpeg_write::JpegSink::create(file, header)?),
        Format::Tiff => Box::new(tiff_write::TiffSink::create(file, header, options.tiles)?),
        Format::Ppm | Format::Pam => Box::new(pnm_write::PnmSink::create(file, format, header)?),
        Format::WebP | Format::Avif => Box::new(whole_write::WholeSink::create(file, format, header)?),
    })
}

/// [`check_output_with`] with plain options.
pub fn check_output(path: &Path, input: Option<&Path>, header: &Header, overwrite: bool) -> Result<()> {
    check_output_with(path, input, header, &WriteOptions::new(overwrite))
}

/// Refuses up front what [`create_with`] or the writing after hours of work would refuse: a folder, a
/// missing or unwritable parent, an existing file without `overwrite`, the input itself (through
/// links too), an extension or picture the format can't hold, a full disk.
pub fn check_output_with(path: &Path, input: Option<&Path>, header: &Header, options: &WriteOptions) -> Result<()> {
    check_folder(path)?;
    let format = format::of_output(path, options.format)?;
    if is_pipe(path) {
        check_fits(format, path, header)?;
        return Target::stdout().map(drop);
    }
    // Before "exists": to advise --overwrite would be wrong here.
    if input.is_some_and(|input| fs::same_file(path, input)) {
        return Err(refused(format!("{} is the input itself", path.display())).advise("name another output"));
    }
    check_path(path, options.overwrite)?;
    check_fits(format, path, header)?;
    let raw = raster::bytes(header.width, header.height, header.colour, depth_in(format, header))?;
    if let Some(free) = fs::free_space(fs::parent(path)) {
        let least = raw / least_share(format);
        if free < least {
            let text = format!("{} bytes are free for {}, which needs at least {least}", free, path.display());
            return Err(Error::new(Kind::Io, "image", text).advise("free some space, or write elsewhere"));
        }
    }
    // The only sure test of a folder, a name and a lock is to make the file; dropped, it is removed.
    AtomicFile::create(path, options.overwrite).map(drop)
}

/// [`output_notes_with`] with plain options.
pub fn output_notes(path: &Path, header: &Header) -> Vec<String> {
    output_notes_with(path, header, &WriteOptions::default())
}

/// What the output format will not keep of `header`, for the user to read.
pub fn output_notes_with(path: &Path, header: &Header, options: &WriteOptions) -> Vec<String> {
    let mut notes = Vec::new();
    let Ok(format) = format::of_output(path, options.format) else { return notes };
    if depth_in(format, header) != header.depth {
        notes.push(format!("{} holds 8 bits a sample: the 16 bits of the picture are rounded", format.name()));
    }
    if header.icc.is_some() && matches!(format, Format::Ppm | Format::Pam | Format::Avif) {
        notes.push(format!("{} holds no colour profile: that of the picture is not carried", format.name()));
    }
    notes
}

/// [`output_resident_bytes_with`] with plain options.
pub fn output_resident_bytes(path: &Path, header: &Header) -> Result<u64> {
    output_resident_bytes_with(path, header, &WriteOptions::default())
}

/// Bytes the writer of `path` holds beside a few rows: all of a picture that is encoded whole.
pub fn output_resident_bytes_with(path: &Path, header: &Header, options: &WriteOptions) -> Result<u64> {
    let format = format::of_output(path, options.format)?;
    match format {
        Format::WebP | Format::Avif => whole_write::resident_bytes(format, header),
        Format::Tiff => Ok(tiff_write::resident_bytes(header, options.tiles)),
        Format::Png | Format::Jpeg | Format::Ppm | Format::Pam => Ok(0),
    }
}

/// Bits of the samples that [`create_with`] writes to `path`.
pub fn output_depth(path: &Path, header: &Header, options: &WriteOptions) -> Result<Depth> {
    Ok(depth_in(format::of_output(path, options.format)?, header))
}

fn depth_in(format: Format, header: &Header) -> Depth {
    match format {
        Format::Jpeg | Format::WebP | Format::Avif => Depth::Eight,
        Format::Png | Format::Tiff | Format::Ppm | Format::Pam => header.depth,
    }
}

fn refused(what: String) -> Error {
    Error::new(Kind::Io, "image", what)
}

fn check_folder(path: &Path) -> Result<()> {
    if is_pipe(path) {
        return Ok(());
    }
    let ends_as_folder =
        path.as_os_str().as_encoded_bytes().last().is_some_and(|&b| std::path::is_separator(char::from(b)));
    if path.is_dir() || ends_as_folder {
        return Err(refused(format!("the output {} is a folder", path.display())).advise("name a file in it"));
    }
    Ok(())
}

fn check_path(path: &Path, overwrite: bool) -> Result<()> {
    let parent = fs::parent(path);
    if !parent.is_dir() {
        return Err(refused(format!("the folder {} does not exist", parent.display())).advise("make it first"));
    }
    if let Ok(meta) = std::fs::symlink_metadata(path) {
        if !overwrite {
            return Err(fs::exists(path));
        }
        if !meta.is_file() && !meta.is_symlink() {
            return Err(
                refused(format!("the output {} is not a regular file", path.display())).advise("name another output")
            );
        }
    }
    Ok(())
}

fn check_fits(format: Format, path: &Path, header: &Header) -> Result<()> {
    let (w, h) = (header.width, header.height);
    let pixels = extent::product("output", &[w, h])?;
    let limit = |text: String| Error::new(Kind::Limit, "image", text);
    if w == 0 || h == 0 {
        return Err(Error::new(Kind::Usage, "image", format!("an output of {w} x {h} pixels")));
    }
    if w > limits::MAX_SIDE || h > limits::MAX_SIDE || pixels > limits::MAX_OUTPUT_PIXELS {
        let (side, most) = (limits::MAX_SIDE, limits::MAX_OUTPUT_PIXELS);
        return Err(limit(format!("an output of {w} x {h} pixels: at most {side} a side and {most} in all")));
    }
    let above = |what: &str, side: u64| {
        let text = format!("{w} x {h} pixels: no side of a {what} exceeds {side}");
        Err(limit(text).advise("write a .png or .tif"))
    };
    if format == Format::Jpeg {
        if w.max(h) > limits::MAX_JPEG_SIDE {
            return above("JPEG", limits::MAX_JPEG_SIDE);
        }
        if header.colour.has_alpha() {
            return Err(Error::new(Kind::Usage, "image", "JPEG has no alpha, which the picture has")
                .advise("write a .png or .tif"));
        }
    }
    if format == Format::WebP && w.max(h) > limits::MAX_WEBP_SIDE {
        return above("WebP", limits::MAX_WEBP_SIDE);
    }
    if format == Format::Avif {
        let (across, down, most) = limits::MAX_AVIF;
        if w > across || h > down || pixels > most {
            let text = format!("{w} x {h} pixels: an AVIF has at most {across} x {down}, and {most} in all");
            return Err(limit(text).advise("write a .png or .tif"));
        }
        if !avif_write::BUILT_IN {
            return Err(avif_write::missing());
        }
    }
    let memory = whole_write::resident_bytes(format, header)?;
    if memory > limits::MAX_ENCODE_BYTES {
        let text = format!("a {} of {w} x {h} pixels takes {memory} bytes of memory to write", format.name());
        return Err(limit(text).advise("write a .png or .tif"));
    }
    if format == Format::Ppm {
        if header.colour.has_alpha() {
            return Err(Error::new(Kind::Usage, "image", "PPM has no alpha, which the picture has")
                .advise("write a .pam, .png or .tif"));
        }
        let gray_only = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("pgm"));
        if gray_only && !header.colour.is_gray() {
            return Err(Error::new(Kind::Usage, "image", "PGM has no colour, which the picture has")
                .advise("write a .ppm, .png or .tif"));
        }
    }
    if format == Format::Tiff && is_pipe(path) {
        return Err(Error::new(
            Kind::Usage,
            "image",
            "a TIFF can't be written to standard output: its beginning is filled in last",
        )
        .advise("write png, jpg, ppm or pam, or name a file"));
    }
    Ok(())
}
