//! `tessera compare`: how alike two pictures are.

use super::out;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use tessera::Result;
use tessera::metrics::{self, Picture};

/// Shown below the options.
pub(super) const HELP: &str = "\
Values are those of the piq package with its defaults, on all channels but alpha. Higher is better for PSNR, SSIM and
HaarPSI, lower for GMSD.

Example:
  tessera compare out.png original.png
  tessera compare --bicubic small.png original.png    what plain enlarging reaches";

/// Options of the command.
#[derive(Debug, Args)]
pub(super) struct CompareArgs {
    /// The picture to be judged
    a: PathBuf,
    /// The picture it should be
    b: PathBuf,
    /// First enlarges A to B's size by bicubic interpolation: the baseline to hold an upscaled picture against
    #[arg(long)]
    bicubic: bool,
    /// Prints one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

/// Compares two pictures.
pub(super) fn run(args: &CompareArgs) -> Result<()> {
    let (mut a, b) = (Picture::read(&args.a)?, Picture::read(&args.b)?);
    if args.bicubic {
        a = a.resized(b.width, b.height)?;
    }
    let s = metrics::compare(&a, &b)?;
    if args.json {
        // JSON has no infinity: equal pictures have no PSNR.
        let psnr = s.psnr.is_finite().then_some(s.psnr);
        let scores = json!({"psnr": psnr, "ssim": s.ssim, "gmsd": s.gmsd, "haarpsi": s.haarpsi});
        return out(&scores.to_string());
    }
    out(&format!(
        "psnr    {:8.4} dB\nssim    {:8.6}\ngmsd    {:8.6}\nhaarpsi {:8.6}",
        s.psnr, s.ssim, s.gmsd, s.haarpsi
    ))
}
