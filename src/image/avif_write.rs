//! AVIF out, in programs built with the feature `avif`, whose encoder is a large thing to build.

use super::Header;
use super::target::Target;
use crate::error::{Error, Kind, Result};

/// Whether this program can write AVIF.
pub(super) const BUILT_IN: bool = cfg!(feature = "avif");

/// The refusal of a program that cannot.
pub(super) fn missing() -> Error {
    Error::new(Kind::Usage, "image", "this program was built without AVIF")
        .advise("build it with `cargo build --release --features avif`, or write png, tif or webp")
}

#[cfg(not(feature = "avif"))]
pub(super) fn encode(_: &mut Target, _: &Header, _: Vec<u8>) -> Result<()> {
    Err(missing())
}

/// Encodes the whole picture, `samples` of 8 bits.
#[cfg(feature = "avif")]
pub(super) fn encode(file: &mut Target, header: &Header, samples: Vec<u8>) -> Result<()> {
    use super::rows::write_error;
    use crate::extent;
    use ravif::{Encoder, Img, RGB8, RGBA8};
    use std::io::Write;
    /// Quality, of 100, and speed, of 10: at 6 an 8K picture takes minutes on two cores.
    const QUALITY: f32 = 90.0;
    const SPEED: u8 = 8;
    let (w, h) = (extent::to_usize("width", header.width)?, extent::to_usize("height", header.height)?);
    let encoder = Encoder::new().with_quality(QUALITY).with_alpha_quality(QUALITY).with_speed(SPEED);
    let gray = header.colour.is_gray();
    let done = if header.colour.has_alpha() {
        let pixel =
            |p: &[u8]| if gray { RGBA8::new(p[0], p[0], p[0], p[1]) } else { RGBA8::new(p[0], p[1], p[2], p[3]) };
        let all: Vec<RGBA8> = samples.chunks_exact(header.colour.channels()).map(pixel).collect();
        drop(samples);
        encoder.encode_rgba(Img::new(&all[..], w, h))
    } else {
        let pixel = |p: &[u8]| if gray { RGB8::new(p[0], p[0], p[0]) } else { RGB8::new(p[0], p[1], p[2]) };
        let all: Vec<RGB8> = samples.chunks_exact(header.colour.channels()).map(pixel).collect();
        drop(samples);
        encoder.encode_rgb(Img::new(&all[..], w, h))
    };
    let encoded = done.map_err(|e| Error::new(Kind::Internal, "image", format!("the AVIF encoder refused: {e}")))?;
    file.write_all(&encoded.avif_file).map_err(|e| write_error(file, &e))
}
