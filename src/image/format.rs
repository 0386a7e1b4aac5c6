//! Which format a file has: by its first bytes on input, by its extension on output.

use super::{Format, bad};
use crate::error::{Error, Kind, Result};
use std::path::Path;

/// PNG's signature.
pub(super) const PNG_SIGNATURE: [u8; 8] = *b"\x89PNG\r\n\x1a\n";

/// First bytes of formats that are not read, so that the error can name them.
const KNOWN: [(usize, &[u8], &str); 17] = [
    (0, b"GIF8", "a GIF"),
    (0, b"BM", "a BMP"),
    (8, b"WEBP", "a WebP picture"),
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
    Err(unknown(head).advise("convert it to PNG, JPEG or TIFF"))
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
        _ => None,
    }
}

/// The format an output path asks for.
pub(super) fn of_output(path: &Path) -> Result<Format> {
    of_extension(path).ok_or_else(|| {
        let what = match path.extension() {
            Some(e) => format!("the output format .{} is not known", e.to_string_lossy()),
            None => format!("{} has no extension to tell the output format", path.display()),
        };
        Error::new(Kind::Usage, "image", what).advise("end the name in .png, .jpg or .tif")
    })
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
        for (head, word) in [
            (&b"GIF89a"[..], "GIF"),
            (b"RIFF....WEBPVP8 ", "WebP"),
            (b"\0\0\0\x1cftypavif", "AVIF"),
            (b"\x89PN", "ends after 3 bytes"),
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
        assert_eq!(of_output(Path::new("a.JPG")).unwrap(), Format::Jpeg);
        assert_eq!(of_output(Path::new("a.b.tiff")).unwrap(), Format::Tiff);
        assert_eq!(of_output(Path::new("a.webp")).expect_err("unknown").kind(), Kind::Usage);
        assert!(of_output(Path::new("png")).is_err());
        assert!(mislabelled(Path::new("a.png"), Format::Jpeg).is_some());
        assert!(mislabelled(Path::new("a.bin"), Format::Jpeg).is_none());
    }
}
