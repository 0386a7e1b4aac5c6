//! Tensors in an order other than the one their op was written for, see [`Order`].

use crate::graph::layout::Order;

/// The elements of a tensor of `shape` in the order an op takes them; `None` where the order does not suit the shape.
pub(super) fn reorder(values: &[f32], order: Order, shape: &[u32]) -> Option<Vec<f32>> {
    let stored: Vec<u64> = shape.iter().map(|&s| u64::from(s)).collect();
    let taken = order.taken(&stored)?;
    let side: Vec<usize> = shape.iter().map(|&s| s as usize).collect();
    Some(match (order, side.as_slice()) {
        (Order::Stored, _) => values.to_vec(),
        (Order::Transposed { stride, padding }, &[input, out, k, _]) => {
            let taps = taken.get(2).map_or(1, |&t| t as usize);
            transposed(values, [input, out, k], stride as usize, padding as usize, taps)
        }
        (Order::Patches, &[out, c, p, _]) => {
            let mut to = Vec::with_capacity(values.len());
            for o in 0..out {
                for at in 0..p * p {
                    to.extend((0..c).map(|k| values[(o * c + k) * p * p + at]));
                }
            }
            to
        }
        (Order::Columns { begin, end, .. }, &[_, input]) if input > 0 => {
            values.chunks_exact(input).flat_map(|row| &row[begin as usize..end as usize]).copied().collect()
        }
        (Order::Repeated { times }, _) => values.repeat(times as usize),
        (Order::Transposed { .. } | Order::Patches | Order::Columns { .. }, _) => return None,
    })
}

/// `[in, out, k, k]` to `[s * s * out, in, taps, taps]`.
fn transposed(values: &[f32], [input, out, k]: [usize; 3], s: usize, padding: usize, taps: usize) -> Vec<f32> {
    // The kernel row (or column) that a pixel of a phase sees through a tap, if there is one.
    let seen = |phase: usize, tap: usize| (phase + padding + s * (taps / 2)).checked_sub(s * tap).filter(|&at| at < k);
    let mut to = Vec::with_capacity(s * s * out * input * taps * taps);
    for phase in 0..s * s {
        for o in 0..out {
            for i in 0..input {
                for tap in 0..taps * taps {
                    let at = seen(phase / s, tap / taps).zip(seen(phase % s, tap % taps));
                    to.push(at.map_or(0.0, |(ky, kx)| values[((i * out + o) * k + ky) * k + kx]));
                }
            }
        }
    }
    to
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A transposed convolution by its definition: every input pixel adds its kernel to the output.
    fn scattered(x: &[f32], w: &[f32], n: usize, k: usize, s: usize, p: usize) -> Vec<f32> {
        let side = (n - 1) * s + k - 2 * p;
        let mut y = vec![0.0; side * side];
        for (at, x) in x.iter().enumerate() {
            for (tap, w) in w.iter().enumerate() {
                let [row, column] = [at / n * s + tap / k, at % n * s + tap % k].map(|v| v.wrapping_sub(p));
                if row < side && column < side {
                    y[row * side + column] += x * w;
                }
            }
        }
        y
    }

    #[test]
    fn transposed_kernels_are_convolutions_of_phases() {
        let n = 5;
        let x: Vec<f32> = (0..n * n).map(|i| ((i * 7) % 11) as f32).collect();
        for (k, s, p) in [(2, 2, 0), (4, 4, 0), (4, 2, 1)] {
            let w: Vec<f32> = (0..k * k).map(|i| (i + 1) as f32).collect();
            let order = Order::Transposed { stride: s as u32, padding: p as u32 };
            let taken = reorder(&w, order, &[1, 1, k as u32, k as u32]).expect("an order that suits");
            let t = if k == s { 1 } else { 3 };
            let side = n * s;
            let mut y = vec![0.0; side * side];
            for row in 0..side {
                for column in 0..side {
                    let phase = row % s * s + column % s;
                    for tap in 0..t * t {
                        let [r, c] = [row / s + tap / t, column / s + tap % t].map(|v| v.wrapping_sub(t / 2));
                        if r < n && c < n {
                            y[row * side + column] += x[r * n + c] * taken[phase * t * t + tap];
                        }
                    }
                }
            }
            assert_eq!(y, scattered(&x, &w, n, k, s, p), "kernel {k} stride {s}");
        }
    }

    #[test]
    fn patches_and_vectors_are_put_in_order() {
        let values: Vec<f32> = (0..12).map(|v| v as f32).collect();
        // One output, 3 channels, 2 x 2: channels beside each other, pixel by pixel.
        let patches = reorder(&values, Order::Patches, &[1, 3, 2, 2]).expect("an order that suits");
        assert_eq!(patches, [0.0, 4.0, 8.0, 1.0, 5.0, 9.0, 2.0, 6.0, 10.0, 3.0, 7.0, 11.0]);
        let twice = reorder(&values[..2], Order::Repeated { times: 2 }, &[2]).expect("an order that suits");
        assert_eq!(twice, [0.0, 1.0, 0.0, 1.0]);
        assert!(reorder(&values, Order::Transposed { stride: 3, padding: 1 }, &[1, 3, 2, 2]).is_none());
    }
}
