//! What an output is called when the user does not say.

use super::options::{Size, Target};
use std::path::{Path, PathBuf};

/// `{stem}_{scale}x.{ext}` beside the input; extensions that are not written become `png`.
pub(super) fn default_output(input: &Path, size: Size, target: &Target) -> PathBuf {
    let stem = input.file_stem().map_or_else(|| "picture".into(), |s| s.to_string_lossy().into_owned());
    let extension = input.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    let extension = match extension.as_str() {
        e @ ("png" | "jpg" | "jpeg" | "tif" | "tiff") => e,
        _ => "png",
    };
    // The factor asked for: that of the rounded sides differs in the last digits.
    let scale = if let Size::Scale(asked) = size { asked } else { target.scale };
    let scale = (scale * 100.0).round() / 100.0;
    input.with_file_name(format!("{stem}_{scale}x.{extension}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_named_after_their_scale() {
        let t = |scale| Target { width: 1, height: 1, scale };
        let (asked, width) = (Size::Scale(2.5), Size::Width(9));
        assert_eq!(default_output(Path::new("a/b.c.JPG"), width, &t(4.0)), Path::new("a/b.c_4x.jpg"));
        assert_eq!(default_output(Path::new("x.webp"), asked, &t(2.52)), Path::new("x_2.5x.png"));
        assert_eq!(default_output(Path::new("x"), width, &t(1.0 + 1.0 / 3.0)), Path::new("x_1.33x.png"));
    }
}
