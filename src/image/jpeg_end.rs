//! Where the data of a JPEG end, or should.

use super::bad;
use crate::error::{Error, Result};

/// The error of a file of `at` bytes that ends too early.
pub(super) fn truncated(at: usize) -> Error {
    bad(format!("the JPEG is truncated: it ends after {at} bytes, without its end mark"))
}

/// Where the entropy-coded data that begins at `at` ends: at the next marker that is not a restart.
pub(super) fn entropy_end(bytes: &[u8], mut at: usize) -> Result<usize> {
    loop {
        let rest = bytes.get(at..).ok_or_else(|| truncated(bytes.len()))?;
        let Some(skip) = rest.iter().position(|&b| b == 0xff) else { return Err(truncated(bytes.len())) };
        match rest.get(skip + 1) {
            None => return Err(truncated(bytes.len())),
            Some(0x00 | 0xd0..=0xd7) => at += skip + 2,
            Some(0xff) => at += skip + 1,
            Some(_) => return Ok(at + skip),
        }
    }
}
