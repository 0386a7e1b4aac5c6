//! The driver's descriptions of operands for the tensor memory accelerator.
#![allow(unsafe_code)]

use super::{Call, Failure};
use crate::abi::table::tma::Map;
use crate::graph::dtype::DType;
use cudarc::driver::sys;
use std::ffi::c_void;

/// What the driver made of an operand for the tensor memory accelerator; kernels take it by value.
#[derive(Clone, Copy)]
pub(in super::super) struct TensorMap(pub(super) sys::CUtensorMap);

impl TensorMap {
    /// As the driver wrote it.
    pub(in super::super) fn new(made: sys::CUtensorMap) -> TensorMap {
        TensorMap(made)
    }
}

/// Drivers up to this version (of CUDA, 1000 times the major plus 10 times the minor number) set a bit that makes copies from small
/// arrays wrong; CUTLASS clears it, so do we.
const SMALL_BIT_DRIVER: u32 = 13_010;
/// Bytes from which on an array is not small to them.
const SMALL_BYTES: u64 = 131_072;
/// The bit, of the second word.
const SMALL_BIT: u64 = 1 << 21;

/// No interleaving, the swizzle that `kernels/shared/wgmma.cuh` tells of, zeros outside.
const INTERLEAVE: sys::CUtensorMapInterleave = sys::CUtensorMapInterleave_enum::CU_TENSOR_MAP_INTERLEAVE_NONE;
/// See [`INTERLEAVE`].
const SWIZZLE: sys::CUtensorMapSwizzle = sys::CUtensorMapSwizzle_enum::CU_TENSOR_MAP_SWIZZLE_128B;
/// See [`INTERLEAVE`].
const FILL: sys::CUtensorMapFloatOOBfill = sys::CUtensorMapFloatOOBfill_enum::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE;
/// What L2 fetches at a time.
const PROMOTION: sys::CUtensorMapL2promotion = sys::CUtensorMapL2promotion_enum::CU_TENSOR_MAP_L2_PROMOTION_L2_128B;

/// Bytes from one element to the next of every side, and of the whole: elements follow each other without gaps.
fn pitches<const N: usize>(sides: &[u64; N]) -> [u64; N] {
    let mut bytes = 2u64;
    sides.map(|side| {
        bytes = bytes.saturating_mul(side);
        bytes
    })
}

/// A map of boxes, and the bytes of its array.
fn tiled<const N: usize>(
    kind: sys::CUtensorMapDataType,
    at: *mut c_void,
    sides: [u64; N],
    taken: [u32; N],
) -> Call<(sys::CUtensorMap, u64)> {
    let mut made = sys::CUtensorMap { opaque: [0; 16] };
    let (pitches, steps) = (pitches(&sides), [1u32; N]);
    // SAFETY: `N` sides and at least as many numbers of each kind; the map is written to `made`. The address is not looked at
    // here; the launches that are handed the map hold it to the operand's extent.
    unsafe {
        sys::cuTensorMapEncodeTiled(
            &mut made,
            kind,
            N as u32,
            at,
            sides.as_ptr(),
            pitches.as_ptr(),
            taken.as_ptr(),
            steps.as_ptr(),
            INTERLEAVE,
            SWIZZLE,
            PROMOTION,
            FILL,
        )
    }
    .result()?;
    Ok((made, pitches[N - 1]))
}

/// A map of pictures' pixels, and the bytes of its array.
fn pictures(
    kind: sys::CUtensorMapDataType,
    at: *mut c_void,
    sides: [u64; 4],
    [lower, upper]: [[i32; 2]; 2],
    stride: u32,
    pixels: u32,
) -> Call<(sys::CUtensorMap, u64)> {
    let mut made = sys::CUtensorMap { opaque: [0; 16] };
    let (pitches, steps) = (pitches(&sides), [1, stride, stride, 1]);
    // SAFETY: four sides and four numbers of each kind, two of a corner; otherwise as for `tiled`.
    unsafe {
        sys::cuTensorMapEncodeIm2col(
            &mut made,
            kind,
            4,
            at,
            sides.as_ptr(),
            pitches.as_ptr(),
            lower.as_ptr(),
            upper.as_ptr(),
            64,
            pixels,
            steps.as_ptr(),
            INTERLEAVE,
            SWIZZLE,
            PROMOTION,
            FILL,
        )
    }
    .result()?;
    Ok((made, pitches[3]))
}

/// The map of an operand at `address`, a multiple of 16, of half type `dtype`; `driver` is the driver's version.
pub(in super::super) fn encode(map: &Map, address: u64, dtype: DType, driver: u32) -> Call<TensorMap> {
    use sys::CUtensorMapDataType_enum as Kind;
    let kind = match dtype {
        DType::F16 => Kind::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        DType::Bf16 => Kind::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        DType::F32 => return Err(Failure::Range),
    };
    let at = std::ptr::without_provenance_mut::<c_void>(usize::try_from(address).map_err(|_| Failure::Range)?);
    let (mut made, bytes) = match *map {
        Map::Rows { columns, rows, box_rows } => tiled(kind, at, [u64::from(columns), rows], [64, box_rows])?,
        Map::Tokens { sides, box_tokens } => tiled(kind, at, sides.map(u64::from), [64, box_tokens, 1])?,
        Map::Pixels { sides, lower, upper, stride, pixels } => {
            pictures(kind, at, sides.map(u64::from), [lower, upper], stride, pixels)?
        }
    };
    if driver <= SMALL_BIT_DRIVER && bytes < SMALL_BYTES {
        made.opaque[1] &= !SMALL_BIT;
    }
    Ok(TensorMap::new(made))
}
