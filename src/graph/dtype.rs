//! Element types and the NHWC layout rule.

use crate::extent;

/// Element type of a stored value or weight. Accumulation is always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE single.
    F32,
    /// IEEE half; on wgpu stored as packed pairs in u32.
    F16,
    /// bfloat16; cuda and cpu only.
    Bf16,
}

impl DType {
    /// Bytes of one element.
    pub fn bytes(self) -> u64 {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::Bf16 => 2,
        }
    }

    /// Name as printed and as accepted on the command line.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
        }
    }
}

/// Bytes of an NHWC value of `n*h*w` pixels and `channels` channels, pitch padding included.
pub fn value_bytes(pixels: u64, channels: u64, dtype: DType) -> u64 {
    pixels * extent::pitch(channels) * dtype.bytes()
}
