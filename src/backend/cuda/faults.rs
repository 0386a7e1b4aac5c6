//! What the driver's failures mean here, and the memory of those after which a context is good for nothing.

use super::driver::Failure;
use crate::error::{Error, Kind, Result};
use cudarc::driver::sys::CUresult as Code;
use std::fmt::Display;

/// Whether a context still works, and if not, since what.
#[derive(Debug, Default)]
pub(super) struct Faults {
    lost: Option<String>,
}

/// What a status says about the context it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// Memory ran out; the context stays usable.
    Memory,
    /// The context is gone: every later call in it fails, also those of other engines on the same card.
    Lost,
    /// The device or its driver cannot serve this program.
    Unfit,
    /// A call that should not have been made.
    Mistake,
}

fn meaning(code: Code) -> Meaning {
    match code {
        Code::CUDA_ERROR_OUT_OF_MEMORY => Meaning::Memory,
        Code::CUDA_ERROR_ILLEGAL_ADDRESS
        | Code::CUDA_ERROR_LAUNCH_TIMEOUT
        | Code::CUDA_ERROR_ASSERT
        | Code::CUDA_ERROR_HARDWARE_STACK_ERROR
        | Code::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | Code::CUDA_ERROR_MISALIGNED_ADDRESS
        | Code::CUDA_ERROR_INVALID_ADDRESS_SPACE
        | Code::CUDA_ERROR_INVALID_PC
        | Code::CUDA_ERROR_LAUNCH_FAILED
        | Code::CUDA_ERROR_ECC_UNCORRECTABLE
        | Code::CUDA_ERROR_NVLINK_UNCORRECTABLE
        | Code::CUDA_ERROR_CONTAINED
        | Code::CUDA_ERROR_CONTEXT_IS_DESTROYED
        | Code::CUDA_ERROR_DEINITIALIZED
        | Code::CUDA_ERROR_EXTERNAL_DEVICE
        | Code::CUDA_ERROR_UNKNOWN => Meaning::Lost,
        Code::CUDA_ERROR_NO_DEVICE
        | Code::CUDA_ERROR_INVALID_DEVICE
        | Code::CUDA_ERROR_DEVICE_NOT_LICENSED
        | Code::CUDA_ERROR_DEVICE_UNAVAILABLE
        | Code::CUDA_ERROR_STUB_LIBRARY
        | Code::CUDA_ERROR_NO_BINARY_FOR_GPU
        | Code::CUDA_ERROR_INVALID_PTX
        | Code::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
        | Code::CUDA_ERROR_JIT_COMPILER_NOT_FOUND
        | Code::CUDA_ERROR_JIT_COMPILATION_DISABLED
        | Code::CUDA_ERROR_NOT_PERMITTED
        | Code::CUDA_ERROR_NOT_SUPPORTED
        | Code::CUDA_ERROR_OPERATING_SYSTEM
        | Code::CUDA_ERROR_SYSTEM_NOT_READY
        | Code::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH
        | Code::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE => Meaning::Unfit,
        _ => Meaning::Mistake,
    }
}

impl Faults {
    /// An error once the context is gone.
    pub(super) fn check(&self, doing: impl Display) -> Result<()> {
        match &self.lost {
            None => Ok(()),
            Some(why) => Err(lost(format!("{doing}: the device was lost: {why}"))),
        }
    }

    /// The error for `failure`, met while `doing`. One that the context does not survive is remembered.
    pub(super) fn error(&mut self, doing: impl Display, failure: Failure) -> Error {
        if let Err(e) = self.check(&doing) {
            return e;
        }
        let text = format!("{doing}: {failure}");
        match failure {
            Failure::Range => Error::new(Kind::Internal, "cuda", text),
            Failure::Timeout(_) => {
                self.lost = Some(text.clone());
                lost(text)
            }
            Failure::Status(code) => match meaning(code) {
                Meaning::Memory => {
                    Error::new(Kind::Memory, "cuda", text).advise("use a smaller tile, or a smaller --vram")
                }
                Meaning::Lost => {
                    self.lost = Some(text.clone());
                    lost(text)
                }
                Meaning::Unfit => Error::new(Kind::Device, "cuda", text).advise("choose another --device"),
                Meaning::Mistake => Error::new(Kind::Internal, "cuda", text),
            },
        }
    }
}

fn lost(text: String) -> Error {
    Error::new(Kind::DeviceLost, "cuda", text)
        .advise("the context is gone for this process: start again, and see `dmesg` for the driver's own report")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_context_does_not_survive_is_remembered_with_its_cause() {
        let mut faults = Faults::default();
        let hung = Failure::Timeout(std::time::Duration::from_secs(3));
        assert_eq!(faults.error("a", hung).kind(), Kind::DeviceLost);
        let e = faults.check("b").expect_err("lost");
        assert!(e.kind() == Kind::DeviceLost && e.message().contains("b: the device was lost: a: no answer"), "{e}");
        assert_eq!(faults.error("c", Failure::Range).kind(), Kind::DeviceLost, "the first cause stays");
        let mut faults = Faults::default();
        assert_eq!(faults.error("a", Failure::Range).kind(), Kind::Internal);
        assert!(faults.check("b").is_ok());
        assert_eq!(meaning(Code::CUDA_ERROR_OUT_OF_MEMORY), Meaning::Memory);
        assert_eq!(meaning(Code::CUDA_ERROR_LAUNCH_FAILED), Meaning::Lost);
        assert_eq!(meaning(Code::CUDA_ERROR_UNSUPPORTED_PTX_VERSION), Meaning::Unfit);
        assert_eq!(meaning(Code::CUDA_ERROR_INVALID_VALUE), Meaning::Mistake);
    }
}
