//! Between plain f32 values and the type and channel pitch of a plan's ports.

use crate::error::{Error, Kind, Result};
use crate::graph::DType;
use crate::limits;
use crate::plan::command::Port;
use half::{bf16, f16};

/// A broken promise between a plan and who runs it.
pub(super) fn internal(message: String) -> Error {
    Error::new(Kind::Internal, "run", message)
}

/// How many whole items `len` plain values are; at least one, at most what the port has.
pub(super) fn items_in(port: &Port, len: usize) -> Result<usize> {
    let item = port.shape.pixels() as usize * port.shape.c as usize;
    if item == 0 || len == 0 || !len.is_multiple_of(item) || len / item > port.shape.n as usize {
        return Err(internal(format!("`{}` is {}, got {len} values", port.name, port.shape)));
    }
    Ok(len / item)
}

/// Plain values to the port's type and pitch; false when one is not finite or too large for the type.
pub(super) fn encode(port: &Port, values: &[f32], bytes: &mut [u8]) -> bool {
    let (c, pitch) = (port.shape.c as usize, port.shape.pitch() as usize);
    let mut good = true;
    let rows = values.chunks_exact(c);
    match port.dtype {
        DType::F32 => {
            for (from, to) in rows.zip(bytes.chunks_exact_mut(pitch * 4)) {
                for (v, b) in from.iter().zip(to.chunks_exact_mut(4)) {
                    good &= v.is_finite();
                    b.copy_from_slice(&v.to_le_bytes());
                }
                to[c * 4..].fill(0);
            }
        }
        DType::F16 => {
            for (from, to) in rows.zip(bytes.chunks_exact_mut(pitch * 2)) {
                for (v, b) in from.iter().zip(to.chunks_exact_mut(2)) {
                    good &= v.abs() <= limits::F16_MAX;
                    b.copy_from_slice(&f16::from_f32(*v).to_le_bytes());
                }
                to[c * 2..].fill(0);
            }
        }
        DType::Bf16 => {
            for (from, to) in rows.zip(bytes.chunks_exact_mut(pitch * 2)) {
                for (v, b) in from.iter().zip(to.chunks_exact_mut(2)) {
                    good &= v.is_finite();
                    b.copy_from_slice(&bf16::from_f32(*v).to_le_bytes());
                }
                to[c * 2..].fill(0);
            }
        }
    }
    good
}

/// The port's values to plain f32; false when one is not finite (read from the bits, so that no
/// optimisation that assumes finite arithmetic can remove the test).
pub(super) fn decode(port: &Port, bytes: &[u8], values: &mut [f32]) -> bool {
    let (c, pitch) = (port.shape.c as usize, port.shape.pitch() as usize);
    let mut worst = 0u32;
    let mut put = |to: &mut f32, v: f32| {
        worst = worst.max(v.to_bits() & 0x7f80_0000);
        *to = v;
    };
    let rows = values.chunks_exact_mut(c);
    match port.dtype {
        DType::F32 => {
            for (to, from) in rows.zip(bytes.chunks_exact(pitch * 4)) {
                for (t, b) in to.iter_mut().zip(from.chunks_exact(4)) {
                    put(t, f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                }
            }
        }
        DType::F16 => {
            for (to, from) in rows.zip(bytes.chunks_exact(pitch * 2)) {
                for (t, b) in to.iter_mut().zip(from.chunks_exact(2)) {
                    put(t, f16::from_le_bytes([b[0], b[1]]).to_f32());
                }
            }
        }
        DType::Bf16 => {
            for (to, from) in rows.zip(bytes.chunks_exact(pitch * 2)) {
                for (t, b) in to.iter_mut().zip(from.chunks_exact(2)) {
                    put(t, bf16::from_le_bytes([b[0], b[1]]).to_f32());
                }
            }
        }
    }
    worst != 0x7f80_0000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Lifetime, Shape};
    use crate::plan::command::{Range, SlotId};

    fn port(shape: Shape, dtype: DType) -> Port {
        let bytes = shape.elements() * dtype.bytes();
        let range = Range { slot: SlotId(0), offset: 0, bytes };
        Port { name: "x".into(), range, shape, dtype, lifetime: Lifetime::Window }
    }

    #[test]
    fn ports_convert_both_ways_with_zero_padding() {
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            let port = port(Shape::new(2, 1, 2, 3), dtype);
            let values: Vec<f32> = (0..12).map(|i| i as f32 * 0.5 - 2.0).collect();
            let mut bytes = vec![0xffu8; port.range.bytes as usize];
            assert!(encode(&port, &values, &mut bytes));
            let mut back = vec![0.0; 12];
            assert!(decode(&port, &bytes, &mut back));
            assert_eq!(values, back, "{dtype:?}: halves are exact in every type");
            let e = dtype.bytes() as usize;
            assert!(bytes.chunks_exact(8 * e).all(|row| row[3 * e..].iter().all(|&b| b == 0)));
        }
    }

    #[test]
    fn values_a_type_cannot_hold_are_seen() {
        let shape = Shape::new(1, 1, 1, 8);
        let mut bytes = [0u8; 32];
        let mut values = [0.0f32; 8];
        values[5] = 70_000.0;
        assert!(encode(&port(shape, DType::F32), &values, &mut bytes));
        assert!(!encode(&port(shape, DType::F16), &values, &mut bytes[..16]));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            values[5] = bad;
            assert!(!encode(&port(shape, DType::F32), &values, &mut bytes));
            let mut out = [0.0f32; 8];
            assert!(!decode(&port(shape, DType::F32), &bytes, &mut out));
        }
    }

    #[test]
    fn only_whole_items_are_taken() {
        let port = port(Shape::new(2, 1, 2, 3), DType::F32);
        assert_eq!(items_in(&port, 12).expect("two"), 2);
        assert_eq!(items_in(&port, 6).expect("one"), 1);
        for len in [0, 5, 7, 18] {
            assert!(items_in(&port, len).is_err());
        }
    }
}
