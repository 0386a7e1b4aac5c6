//! Which format a file has: by its first bytes on input, by its extension on output.

use super::{Format, bad};
use crate::error::{Error, Kind, Result};
use std::path::Path;

/// PNG's signature.
pub(super) const PNG_SIGNATURE: [u8; 8] = *b"\x89PNG\r\n\x1a\n";

/// First bytes of formats that are not read, so that the error can name them.
const KNOWN: [(usize, &[u8], &str); 16] = [
    (0, b"GIF8", "a GIF"),
    (0, b"BM", "a BMP"),
    (4, b"ftypavif", "an AVIF picture"),
    (4, b"ftyphei", "a HEIC picture"),
    (4, b"ftypmif1", "a HEIF picture"),
    (4, b"ftyp", "an MP4 or HEIF container"),
    (0, b"\x00\x00\x00\x0cJXL ", "a JPEG XL picture"),
    (0, b"\xff\x0a", "a JPEG XL picture"),
    (0, b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 picture"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"v/1\x01", "an OpenEXR picture"),
    (0, b"#?RADIANCE", "a Radiance HDR picture"),
    (0, b"%PDF", "a PDF"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"qoif", "a QOI picture"),
    (0, b"DDS ", "a DDS texture"),
];

/// The format whose first bytes these are.
pub(super) fn sniff(head: &[u8]) -> Result<Format> {
    if head.starts_with(&PNG_SIGNATURE) {
        return Ok(Format::Png);
    }
    if head.starts_with(b"\xff\xd8\xff") {
        return Ok(Format::Jpeg);
    }
    if [&b"II*\0"[..], b"MM\0*", b"II+\0", b"MM\0+"].iter().any(|magic| head.starts_with(magic)) {
        return Ok(Format::Tiff);
    }
    if head.starts_with(b"RIFF") && head.get(8..12) == Some(b"WEBP") {
        return Ok(Format::WebP);
    }
    match head {
        [b'P', b'5' | b'6', space, ..] if space.is_ascii_whitespace() || *space == b'#' => return Ok(Format::Ppm),
        [b'P', b'7', b'\n' | b'\r', ..] => return Ok(Format::Pam),
        _ => {}
    }
    Err(unknown(head).advise("convert it to PNG, JPEG, TIFF, WebP or PPM"))
}

fn unknown(head: &[u8]) -> Error {
    for (offset, magic, name) in KNOWN {
        if head.get(offset..).is_some_and(|rest| rest.starts_with(magic)) {
            return bad(format!("this is {name}, which is not read"));
        }
    }
    if [&PNG_SIGNATURE[..], b"\xff\xd8\xff", b"II*\0", b"MM\0*"].iter().any(|magic| magic.starts_with(head)) {
        return bad(format!("the file ends after {} bytes", head.len()));
    }
    if let [b'P', kind @ (b'1'..=b'4'), space, ..] = head
        && space.is_ascii_whitespace()
    {
        let what = if *kind == b'4' { "a bitmap of one bit a pixel" } else { "the text form of a PBM, PGM or PPM" };
        return bad(format!("this is {what} (P{}), which is not read", char::from(*kind)));
    }
    if head.iter().all(|&b| b == 0) {
        return bad("the file begins with zeros: it is damaged or was never filled");
    }
    if head.iter().all(|&b| b.is_ascii_graphic() || b.is_ascii_whitespace()) {
        let text: String = head.iter().take(16).map(|&b| char::from(b)).collect();
        return bad(format!("this is text ({text:?}...), not a picture"));
    }
    let hex: Vec<String> = head.iter().take(8).map(|b| format!("{b:02x}")).collect();
    bad(format!("no picture format begins with the bytes {}", hex.join(" ")))
}

/// The format an extension names.
pub(super) fn of_extension(path: &Path) -> Option<Format> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    match extension.as_str() {
        "png" => Some(Format::Png),
        "jpg" | "jpeg" | "jpe" | "jfif" => Some(Format::Jpeg),
        "tif" | "tiff" => Some(Format::Tiff),
        "ppm" | "pgm" | "pnm" => Some(Format::Ppm),
        "pam" => Some(Format::Pam),
        "webp" => Some(Format::WebP),
        "avif" => Some(Format::Avif),
        _ => None,
    }
}

/// The format an output path asks for: `asked` where it names one, else the extension's; standard output
/// has no name to tell it.
pub(super) fn of_output(path: &Path, asked: Option<Format>) -> Result<Format> {
    if let Some(format) = asked {
        return Ok(format);
    }
    if is_pipe(path) {
        return Err(Error::new(Kind::Usage, "image", "standard output has no name to tell the format")
            .advise("name the format: png, jpg, webp, avif, ppm or pam"));
    }
    of_extension(path).ok_or_else(|| {
        let what = match path.extension() {
            Some(e) => format!("the output format .{} is not known", e.to_string_lossy()),
            None => format!("{} has no extension to tell the output format", path.display()),
        };
        Error::new(Kind::Usage, "image", what).advise("end the name in .png, .jpg, .tif, .webp, .avif, .ppm or .pam")
    })
}

/// Whether `path` is `-`: standard input or standard output.
pub fn is_pipe(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// A note when the extension says another format than the bytes.
pub(super) fn mislabelled(path: &Path, format: Format) -> Option<String> {
    match of_extension(path) {
        Some(named) if named != format => {
            Some(format!("the name says {}, the bytes are {}: read as {}", named.name(), format.name(), format.name()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_decide_and_strangers_are_named() {
        assert_eq!(sniff(b"\x89PNG\r\n\x1a\nrest").unwrap(), Format::Png);
        assert_eq!(sniff(b"\xff\xd8\xff\xe0").unwrap(), Format::Jpeg);
        assert_eq!(sniff(b"MM\0*").unwrap(), Format::Tiff);
        assert_eq!(sniff(b"II+\0").unwrap(), Format::Tiff);
        assert_eq!(sniff(b"P6 3 4 255\n").unwrap(), Format::Ppm);
        assert_eq!(sniff(b"P5#a comment").unwrap(), Format::Ppm);
        assert_eq!(sniff(b"P7\nWIDTH 3").unwrap(), Format::Pam);
        assert_eq!(sniff(b"RIFF....WEBPVP8 ").unwrap(), Format::WebP);
        for (head, word) in [
            (&b"GIF89a"[..], "GIF"),
            (b"\0\0\0\x1cftypavif", "AVIF"),
            (b"\x89PN", "ends after 3 bytes"),
            (b"P3 1 1 255 0 0 0", "text form"),
            (b"P4 1 1 \0", "bitmap"),
            (b"hello there", "text"),
            (b"\0\0\0\0\0\0", "zeros"),
            (b"\x01\x02\x03\xfe", "01 02 03 fe"),
        ] {
            let e = sniff(head).expect_err("not a picture");
            assert!(e.kind() == Kind::BadInput && e.message().contains(word), "{e}");
        }
    }

    #[test]
    fn extensions() {
        let of = |name: &str| of_output(Path::new(name), None);
        assert_eq!(of("a.JPG").unwrap(), Format::Jpeg);
        assert_eq!(of("a.b.tiff").unwrap(), Format::Tiff);
        assert_eq!([of("a.pgm").unwrap(), of("a.Pam").unwrap()], [Format::Ppm, Format::Pam]);
        assert_eq!(of("a.gif").expect_err("unknown").kind(), Kind::Usage);
        assert!(of("png").is_err() && of("-").is_err());
        assert_eq!(of_output(Path::new("-"), Some(Format::Png)).unwrap(), Format::Png);
        assert!(mislabelled(Path::new("a.png"), Format::Jpeg).is_some());
        assert!(mislabelled(Path::new("a.bin"), Format::Jpeg).is_none());
    }
}
