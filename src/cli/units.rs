//! Sizes and names as people and JSON write them.

use std::path::{Path, PathBuf};
use tessera::run::{Format, VaeMode};

/// Bytes in MiB with one decimal.
pub(super) fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// JSON is Unicode: a file name that is not gets replacement characters.
pub(super) fn lossy(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Reads a size in bytes: `4GiB`, `512MiB`, `1.5G` (binary like GiB), `2GB` (decimal), `1048576`.
pub(super) fn bytes(text: &str) -> std::result::Result<u64, String> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1024.0 * 1024.0,
        "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
        "t" | "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        other => return Err(format!("`{other}` is no unit of size; write 4GiB, 512MiB or a number of bytes")),
    };
    let value =
        number.parse::<f64>().map_err(|_| format!("`{text}` is no size; write 4GiB, 512MiB or a number of bytes"))?;
    let exact = value * factor;
    // Below 2^53 a float holds every whole number; no machine has more memory than that.
    if (1.0..9e15).contains(&exact) { Ok(exact as u64) } else { Err(format!("`{text}` is out of range")) }
}

/// Reads the name of a picture format.
pub(super) fn format(text: &str) -> std::result::Result<Format, String> {
    Format::from_name(text).ok_or_else(|| {
        let names: Vec<&str> = Format::ALL.iter().map(|f| f.extension()).collect();
        format!("`{text}` is no format that is written; there are {}", names.join(", "))
    })
}

/// Reads `FILE[:STRENGTH]`. A number behind the last colon is a strength; anything else belongs to the name.
pub(super) fn adapter(text: &str) -> std::result::Result<(PathBuf, f32), String> {
    let split = text.rsplit_once(':').and_then(|(file, number)| Some((file, number.trim().parse::<f32>().ok()?)));
    let (file, strength) = split.unwrap_or((text, 1.0));
    if file.is_empty() || !strength.is_finite() {
        return Err(format!("`{text}` is no FILE[:STRENGTH]; write style.safetensors:0.8"));
    }
    Ok((PathBuf::from(file), strength))
}

/// Reads `WxH`, both from 1.
pub(super) fn sides(text: &str) -> std::result::Result<[u32; 2], String> {
    let side = |t: &str| t.trim().parse::<u32>().ok().filter(|&n| n > 0);
    let sides = text.split_once(['x', 'X']).and_then(|(w, h)| Some([side(w)?, side(h)?]));
    sides.ok_or_else(|| format!("`{text}` is no width and height; write 64x48"))
}

/// The mode of an autoencoder of that name.
pub(super) fn vae(text: &str) -> Result<VaeMode, String> {
    let names: Vec<&str> = VaeMode::ALL.iter().map(|m| m.name()).collect();
    VaeMode::parse(text).ok_or_else(|| format!("one of {}", names.join(", ")))
}

/// One of some named values.
pub(super) fn named<T: Copy>(all: &'static [(&'static str, T)]) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| {
        let found = all.iter().find(|(name, _)| *name == text);
        found.map(|f| f.1).ok_or_else(|| {
            let names: Vec<&str> = all.iter().map(|a| a.0).collect();
            format!("one of {}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_with_and_without_a_strength() {
        let read = |text| adapter(text).map(|(p, s)| (p.to_string_lossy().into_owned(), s));
        assert_eq!(read("a.safetensors"), Ok(("a.safetensors".into(), 1.0)));
        assert_eq!(read("a.safetensors:-0.5"), Ok(("a.safetensors".into(), -0.5)));
        assert_eq!(read(r"C:\loras\a.safetensors"), Ok((r"C:\loras\a.safetensors".into(), 1.0)));
        assert_eq!(read("b:2:0"), Ok(("b:2".into(), 0.0)));
        for bad in ["", ":1", "a:inf", "a:NaN"] {
            assert!(adapter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn widths_and_heights() {
        assert_eq!(sides("64x48"), Ok([64, 48]));
        for bad in ["", "64", "64x", "0x4", "-1x4", "64x48x3", "a x b", "99999999999x1"] {
            assert!(sides(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(bytes("4GiB"), Ok(4 << 30));
        assert_eq!(bytes("512MiB"), Ok(512 << 20));
        assert_eq!(bytes("1.5g"), Ok(3 << 29));
        assert_eq!(bytes("2 GB"), Ok(2_000_000_000));
        assert_eq!(bytes("1048576"), Ok(1 << 20));
        for bad in ["", "GiB", "-1GiB", "4 apples", "1e9", "nan", "0", "99999999TiB", "1.2.3M"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
