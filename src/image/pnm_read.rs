//! PGM, PPM and PAM in: a short header of text, then plain rows. The formats of pipes.
//!
//! The binary forms only (P5, P6, P7). Samples of more than 8 bits have two bytes, the high one first; what
//! stands for full brightness is the header's `maxval`. Several pictures may follow one another in a
//! file: the first is read.

use super::input::Input;
use super::orient::Orientation;
use super::raster::{Raster, from_u8, from_u16};
use super::{Colour, Depth, Format, Header, ReadOptions, Stored, bad, check_extent, zeroed};
use crate::error::{Error, Kind, Result};
use crate::{extent, limits};
use std::io::{ErrorKind, Read};

/// What the header says.
struct Layout {
    width: u64,
    height: u64,
    colour: Colour,
    /// The sample of full brightness.
    most: u32,
}

fn truncated(what: impl std::fmt::Display) -> Error {
    bad(format!("the picture is truncated: {what}"))
}

fn read_error(e: &std::io::Error) -> Error {
    match e.kind() {
        ErrorKind::UnexpectedEof => truncated("the data end early"),
        _ => Error::new(Kind::Io, "image", format!("cannot read: {e}")),
    }
}

/// Bytes of the header, counted and bounded.
struct Text<'a> {
    input: &'a mut Input,
    read: u64,
}

impl Text<'_> {
    fn byte(&mut self) -> Result<u8> {
        if self.read >= limits::MAX_PNM_HEADER {
            let text = format!("the header takes more than {} bytes", limits::MAX_PNM_HEADER);
            return Err(Error::new(Kind::Limit, "image", text).advise("remove its comments"));
        }
        let mut one = [0u8];
        self.input.read_exact(&mut one).map_err(|e| read_error(&e))?;
        self.read += 1;
        Ok(one[0])
    }

    /// The next byte outside comments, which run from `#` to the end of their line.
    fn visible(&mut self) -> Result<u8> {
        let mut byte = self.byte()?;
        if byte == b'#' {
            while byte != b'\n' && byte != b'\r' {
                byte = self.byte()?;
            }
        }
        Ok(byte)
    }

    /// The number that comes next, and the one byte of white space behind it.
    fn number(&mut self, what: &str) -> Result<u64> {
        let mut byte = self.visible()?;
        while byte.is_ascii_whitespace() {
            byte = self.visible()?;
        }
        let mut digits = String::new();
        while byte.is_ascii_digit() {
            digits.push(char::from(byte));
            byte = self.visible()?;
        }
        if digits.is_empty() || !byte.is_ascii_whitespace() {
            return Err(bad(format!("damaged header: the {what} is not a number")));
        }
        parse(what, &digits)
    }

    /// The next line of a PAM header, without its end.
    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        loop {
            match self.byte()? {
                b'\n' => return Ok(line.trim().to_owned()),
                byte => line.push(char::from(byte)),
            }
        }
    }
}

fn parse(what: &str, digits: &str) -> Result<u64> {
    // Longer numbers are above every limit, whatever they are.
    match digits.parse::<u64>() {
        Ok(n) if !digits.starts_with('+') => Ok(n),
        _ if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
            let text = format!("the {what} has {} digits", digits.len());
            Err(Error::new(Kind::Limit, "image", text))
        }
        _ => Err(bad(format!("damaged header: the {what} is not a number"))),
    }
}

/// The header of a PGM or PPM, whose two letters are read already.
fn plain(text: &mut Text<'_>, gray: bool) -> Result<Layout> {
    let width = text.number("width")?;
    let height = text.number("height")?;
    let most = text.number("maxval")?;
    Ok(Layout { width, height, colour: Colour::new(gray, false), most: maxval(most)? })
}

fn maxval(most: u64) -> Result<u32> {
    match u32::try_from(most) {
        Ok(m @ 1..=65_535) => Ok(m),
        _ => Err(bad(format!("damaged header: a maxval of {most}, it must be from 1 to 65535"))),
    }
}

/// The header of a PAM, whose first line is read already.
fn pam(text: &mut Text<'_>) -> Result<Layout> {
    let (mut sides, mut kind) = ([None; 4], String::new());
    loop {
        let line = text.line()?;
        let (key, value) = line.split_once(|c: char| c.is_ascii_whitespace()).unwrap_or((&line, ""));
        let value = value.trim();
        let slot = match key {
            "ENDHDR" if value.is_empty() => break,
            "" => continue,
            _ if key.starts_with('#') => continue,
            "TUPLTYPE" => {
                // Several lines are one name with spaces, which no reader knows.
                kind = if kind.is_empty() { value.to_owned() } else { format!("{kind} {value}") };
                continue;
            }
            "WIDTH" => 0,
            "HEIGHT" => 1,
            "DEPTH" => 2,
            "MAXVAL" => 3,
            _ => return Err(bad(format!("damaged PAM header: the line {:?} is not known", cut(&line)))),
        };
        if sides[slot].replace(parse(key, value)?).is_some() {
            return Err(bad(format!("damaged PAM header: two lines {key}")));
        }
    }
    let [Some(width), Some(height), Some(depth), Some(most)] = sides else {
        return Err(bad("damaged PAM header: WIDTH, HEIGHT, DEPTH or MAXVAL is missing"));
    };
    let colour = match (kind.as_str(), depth) {
        ("" | "GRAYSCALE" | "BLACKANDWHITE", 1) => Colour::Gray,
        ("" | "GRAYSCALE_ALPHA" | "BLACKANDWHITE_ALPHA", 2) => Colour::GrayAlpha,
        ("" | "RGB", 3) => Colour::Rgb,
        ("" | "RGB_ALPHA", 4) => Colour::Rgba,
        _ => {
            let text = format!("a PAM of {depth} channels named {:?} is not read", cut(&kind));
            return Err(bad(text).advise("convert it to RGB or grey, with alpha or without"));
        }
    };
    Ok(Layout { width, height, colour, most: maxval(most)? })
}

fn cut(text: &str) -> String {
    text.chars().take(limits::MAX_QUOTED).collect()
}

struct PnmRows {
    header: Header,
    input: Input,
    most: u32,
    raw: Vec<u8>,
}

/// Opens a PGM, PPM or PAM. `notes` is what is known already.
pub(super) fn open(mut input: Input, format: Format, mut notes: Vec<String>) -> Result<(Box<dyn Stored>, Orientation)> {
    let mut text = Text { input: &mut input, read: 0 };
    let magic = [text.byte()?, text.byte()?];
    let layout = match magic {
        // The line of its own that "P7" stands on.
        [b'P', b'7'] => text.line().and_then(|_| pam(&mut text))?,
        _ => plain(&mut text, magic[1] == b'5')?,
    };
    let at = text.read;
    check_extent(layout.width, layout.height)?;
    let depth = if layout.most > 255 { Depth::Sixteen } else { Depth::Eight };
    let row_bytes = extent::product("row", &[layout.width, layout.colour.channels() as u64, depth.bytes() as u64])?;
    if let Some(len) = input.len() {
        let total = extent::product("picture", &[row_bytes, layout.height])?;
        match len.checked_sub(at).and_then(|left| left.checked_sub(total)) {
            None => {
                let text =
                    format!("{} x {} pixels need {total} bytes, {} are there", layout.width, layout.height, len - at);
                return Err(truncated(text));
            }
            Some(0) => {}
            Some(more) => notes.push(format!("{more} bytes after the end of the picture are ignored")),
        }
    }
    if layout.most != 255 && layout.most != 65_535 {
        notes.push(format!("samples from 0 to {} are scaled to 0 to {}", layout.most, depth.max()));
    }
    let header =
        Header { width: layout.width, height: layout.height, colour: layout.colour, depth, icc: None, format, notes };
    let raw = zeroed("a row", extent::to_usize("row", row_bytes)?)?;
    Ok((Box::new(PnmRows { header, input, most: layout.most, raw }), Orientation::UPRIGHT))
}

impl Stored for PnmRows {
    fn header(&self) -> &Header {
        &self.header
    }

    fn read_row(&mut self, row: &mut [f32]) -> Result<()> {
        self.input.read_exact(&mut self.raw).map_err(|e| read_error(&e))?;
        let wide = self.raw.chunks_exact(2).map(|b| u16::from_be_bytes([b[0], b[1]]));
        match (self.most, self.header.depth) {
            (255, _) => row.iter_mut().zip(&self.raw).for_each(|(o, v)| *o = from_u8(*v)),
            (65_535, _) => row.iter_mut().zip(wide).for_each(|(o, v)| *o = from_u16(v)),
            (most, Depth::Eight) => scaled(row, self.raw.iter().map(|v| u32::from(*v)), most)?,
            (most, Depth::Sixteen) => scaled(row, wide.map(u32::from), most)?,
        }
        Ok(())
    }

    fn resident_bytes(&self, _: &ReadOptions) -> u64 {
        self.input.held()
    }

    fn into_raster(self: Box<Self>) -> Result<Raster> {
        Raster::collect(self)
    }
}

fn scaled(row: &mut [f32], samples: impl Iterator<Item = u32>, most: u32) -> Result<()> {
    for (i, (out, v)) in row.iter_mut().zip(samples).enumerate() {
        if v > most {
            return Err(bad(format!("sample {i} is {v}, above the maxval of {most}")));
        }
        *out = v as f32 / most as f32;
    }
    Ok(())
}
