//! Between the channels of a file and the RGB a network sees: alpha apart, grey replicated.

use super::Colour;

/// Splits one row of `colour` into RGB and alpha. `rgb` has three values a pixel, `alpha` one a
/// pixel where the colour has alpha and is left alone otherwise.
pub fn split_row(colour: Colour, row: &[f32], rgb: &mut [f32], alpha: &mut [f32]) {
    let pixels = row.chunks_exact(colour.channels()).zip(rgb.chunks_exact_mut(3));
    match colour {
        Colour::Gray => pixels.for_each(|(p, o)| o.fill(p[0])),
        Colour::Rgb => rgb[..row.len()].copy_from_slice(row),
        Colour::GrayAlpha => pixels.zip(alpha).for_each(|((p, o), a)| {
            o.fill(p[0]);
            *a = p[1];
        }),
        Colour::Rgba => pixels.zip(alpha).for_each(|((p, o), a)| {
            o.copy_from_slice(&p[..3]);
            *a = p[3];
        }),
    }
}

/// The inverse of [`split_row`]: grey is the mean of the three channels, which is the grey itself
/// where nothing made them differ.
pub fn join_row(colour: Colour, rgb: &[f32], alpha: &[f32], row: &mut [f32]) {
    let pixels = rgb.chunks_exact(3).zip(row.chunks_exact_mut(colour.channels()));
    match colour {
        Colour::Gray => pixels.for_each(|(p, o)| o[0] = mean(p)),
        Colour::Rgb => row.copy_from_slice(&rgb[..row.len()]),
        Colour::GrayAlpha => pixels.zip(alpha).for_each(|((p, o), a)| {
            o[0] = mean(p);
            o[1] = *a;
        }),
        Colour::Rgba => pixels.zip(alpha).for_each(|((p, o), a)| {
            o[..3].copy_from_slice(p);
            o[3] = *a;
        }),
    }
}

fn mean(p: &[f32]) -> f32 {
    // Three equal values give themselves back: their differences to the first are zero.
    p[0] + ((p[1] - p[0]) + (p[2] - p[0])) / 3.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn join_undoes_split_exactly() {
        for colour in [Colour::Gray, Colour::GrayAlpha, Colour::Rgb, Colour::Rgba] {
            let n = colour.channels();
            let row: Vec<f32> = (0..7 * n).map(|i| (i * 37 % 101) as f32 / 100.0).collect();
            let (mut rgb, mut alpha, mut back) = (vec![0.0; 21], vec![0.5; 7], vec![9.0; row.len()]);
            split_row(colour, &row, &mut rgb, &mut alpha);
            join_row(colour, &rgb, &alpha, &mut back);
            assert_eq!(back, row, "{colour:?}");
            assert!(colour.has_alpha() || alpha == [0.5; 7]);
        }
    }
}
