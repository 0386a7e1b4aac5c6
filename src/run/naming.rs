//! What an output is called when the user does not say.

use super::options::{Size, Target};
use crate::image::Format;
use std::path::{Path, PathBuf};

/// `{stem}_{scale}x.{ext}` beside the input. Without a format asked for, the input's extension stays where
/// it is that of a format that is written, else it becomes `png`.
pub(super) fn default_output(input: &Path, format: Option<Format>, size: Size, target: &Target) -> PathBuf {
    let stem = input.file_stem().map_or_else(|| "picture".into(), |s| s.to_string_lossy().into_owned());
    let extension = input.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    let named = Format::from_name(&extension);
    let extension = match format {
        Some(format) if named != Some(format) => format.extension(),
        _ if named.is_some() => &extension,
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
        assert_eq!(default_output(Path::new("a/b.c.JPG"), None, width, &t(4.0)), Path::new("a/b.c_4x.jpg"));
        assert_eq!(default_output(Path::new("x.gif"), None, asked, &t(2.52)), Path::new("x_2.5x.png"));
        assert_eq!(
            default_output(Path::new("x"), Some(Format::Pam), width, &t(1.0 + 1.0 / 3.0)),
            Path::new("x_1.33x.pam")
        );
    }
}
