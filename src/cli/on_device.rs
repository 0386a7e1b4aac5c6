//! Which device computes, for the commands that run networks by themselves.

use clap::Args;

/// The options.
#[derive(Debug, Args)]
pub(super) struct OnDevice {
    /// cpu, cuda, cuda:N, wgpu, wgpu:N or auto; a device that is named is used or refused, never replaced by another
    #[arg(short = 'g', long, value_name = "DEVICE", default_value = "auto")]
    pub(super) device: String,
    /// How activations are stored [default: f32 on cpu, f16 elsewhere]
    #[arg(long, value_name = "TYPE", value_parser = ["f32", "f16", "bf16"])]
    pub(super) dtype: Option<String>,
    /// Host threads [default: all cores]
    #[arg(long, value_name = "N")]
    pub(super) threads: Option<usize>,
}
