//! Runs the real program for the tests of its outside.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a run of the program left behind.
#[derive(Debug)]
pub(crate) struct Run {
    /// Exit code; `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

impl Run {
    /// The last line on stderr, where an error stands.
    pub(crate) fn last_line(&self) -> &str {
        self.stderr.lines().last().unwrap_or_default()
    }

    /// Standard output as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e} in stdout: {self:?}"))
    }
}

/// The program, ready to be started with `args`.
pub(crate) fn command<S: AsRef<OsStr>>(args: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tessera"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs the program to its end.
pub(crate) fn run<S: AsRef<OsStr>>(args: &[S]) -> Run {
    let out = command(args).output().expect("the program starts");
    Run {
        code: out.status.code(),
        stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

/// Names and contents of everything below `folder`, to be compared before and after a run.
pub(crate) fn snapshot(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![folder.to_path_buf()]);
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(&at).expect("readable folder").flatten() {
            let path = entry.path();
            let name = path.strip_prefix(folder).expect("below the folder").to_path_buf();
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
                found.insert(name, Vec::new());
            } else {
                found.insert(name, std::fs::read(&path).unwrap_or_default());
            }
        }
    }
    found
}

/// A photograph-like RGB picture as PNG bytes: gradients and a few edges, no two rows alike.
pub(crate) fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().expect("header");
    writer.write_image_data(&rgb(width, height)).expect("data");
    writer.finish().expect("end");
    bytes
}

/// The same picture as JPEG bytes.
pub(crate) fn jpeg(width: u16, height: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    let pixels = rgb(width.into(), height.into());
    jpeg_encoder::Encoder::new(&mut bytes, 90)
        .encode(&pixels, width, height, jpeg_encoder::ColorType::Rgb)
        .expect("encoded");
    bytes
}

/// The same picture as TIFF bytes.
pub(crate) fn tiff(width: u32, height: u32) -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    let mut encoder = tiff::encoder::TiffEncoder::new(&mut file).expect("encoder");
    encoder.write_image::<tiff::encoder::colortype::RGB8>(width, height, &rgb(width, height)).expect("data");
    file.into_inner()
}

fn rgb(width: u32, height: u32) -> Vec<u8> {
    let mut pixels = Vec::new();
    for y in 0..height {
        for x in 0..width {
            let edge = if (x / 5 + y / 7) % 2 == 0 { 40 } else { 0 };
            pixels.extend([(x * 3 + y) % 216 + edge, (x + y * 5) % 216 + edge, (x * y) % 216 + edge].map(|v| v as u8));
        }
    }
    pixels
}
