//! The roofline drawn: operations for each byte from left to right, operations a second from bottom to top, both by powers
//! of ten; one dot a figure.

use super::figure::Figure;
use crate::plan::svg::{begin, escape};
use std::fmt::Write;

/// The plot itself, pixels.
const WIDTH: f64 = 900.0;
/// See [`WIDTH`].
const HEIGHT: f64 = 560.0;
/// Around it: rates on the left, the legend on the right, the title above, intensities below.
const LEFT: f64 = 80.0;
/// See [`LEFT`].
const RIGHT: f64 = 210.0;
/// See [`LEFT`].
const TOP: f64 = 60.0;
/// See [`LEFT`].
const BOTTOM: f64 = 60.0;
/// Hues of the kinds of dots, repeated after the last.
const HUES: [u32; 8] = [210, 30, 130, 350, 270, 55, 175, 310];

/// Powers of ten from the first to the last.
#[derive(Debug, Clone, Copy)]
struct Decades {
    first: f64,
    last: f64,
    /// Pixels from the first to the last.
    length: f64,
}

impl Decades {
    /// Those that hold all of `values`, which are above 0.
    fn of(values: impl Iterator<Item = f64>, length: f64) -> Decades {
        let (low, high) = values.fold((f64::INFINITY, 0.0f64), |(l, h), v| (l.min(v), h.max(v)));
        let first = low.log10().floor();
        Decades { first, last: high.log10().ceil().max(first + 1.0), length }
    }

    fn at(self, value: f64) -> f64 {
        (value.log10() - self.first) / (self.last - self.first) * self.length
    }

    fn ticks(self) -> impl Iterator<Item = f64> {
        (self.first as i32..=self.last as i32).map(|e| 10f64.powi(e))
    }
}

/// An SVG document of all figures that have operations and bytes; `None` where there is none. Hovering over a dot names it.
pub fn roofline(figures: &[Figure]) -> Option<String> {
    let dots: Vec<&Figure> = figures.iter().filter(|f| f.flops > 0.0 && f.bytes > 0.0 && f.seconds > 0.0).collect();
    let first = dots.first()?;
    let peaks = first.peak_flops.zip(first.peak_bytes);
    let ridge = peaks.map(|(flops, bytes)| flops / bytes);
    let x = Decades::of(dots.iter().map(|f| f.flops / f.bytes).chain(ridge), WIDTH);
    let y = Decades::of(dots.iter().map(|f| f.flops_rate()).chain(peaks.map(|p| p.0)), HEIGHT);
    let (width, height) = (LEFT + WIDTH + RIGHT, TOP + HEIGHT + BOTTOM);
    let heading = format!("{}, {}: {} figures", first.device, first.dtype, dots.len());
    let mut text = begin([width, height], LEFT, "roofline", &heading);
    axes(&mut text, x, y);
    if let (Some((flops, bytes)), Some(ridge)) = (peaks, ridge) {
        roof(&mut text, x, y, flops, bytes, ridge);
    }
    let mut kinds: Vec<String> = Vec::new();
    for f in dots {
        let kind = kind(f);
        let index = kinds.iter().position(|k| *k == kind).unwrap_or_else(|| {
            kinds.push(kind.clone());
            kinds.len() - 1
        });
        let (cx, cy) = (LEFT + x.at(f.flops / f.bytes), TOP + HEIGHT - y.at(f.flops_rate()));
        let roof = f.of_roofline().map(|s| format!(", {:.0}% of the roofline", 100.0 * s)).unwrap_or_default();
        let _ = writeln!(
            text,
            "<circle cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"5\" fill=\"hsl({},65%,45%)\" fill-opacity=\"0.75\"><title>{} {}: {:.4} ms, {:.1} \
             GFLOP/s, {:.1} GB/s{roof}</title></circle>",
            HUES[index % HUES.len()],
            escape(&f.name),
            escape(&f.variant),
            f.seconds * 1e3,
            f.flops_rate() * 1e-9,
            f.bytes_rate() * 1e-9
        );
    }
    for (i, kind) in kinds.iter().enumerate() {
        let (lx, ly) = (LEFT + WIDTH + 20.0, TOP + 10.0 + 22.0 * i as f64);
        let hue = HUES[i % HUES.len()];
        let _ = writeln!(
            text,
            "<circle cx=\"{lx}\" cy=\"{ly}\" r=\"5\" fill=\"hsl({hue},65%,45%)\"/><text x=\"{}\" y=\"{}\">{}</text>",
            lx + 12.0,
            ly + 4.0,
            escape(kind)
        );
    }
    Some(text + "</svg>\n")
}

/// What a dot's colour stands for: the kernel of a layer, whose name is its second word without the shape; else what was run.
fn kind(f: &Figure) -> String {
    if f.what != "kernel" {
        return f.what.clone();
    }
    let known = ["conv", "gemm", "geglu", "attention", "norm", "stats", "resample", "rearrange", "modulate"];
    let found = known.into_iter().find(|k| f.name.split_whitespace().any(|w| w.contains(k)));
    found.unwrap_or("other").into()
}

fn axes(text: &mut String, x: Decades, y: Decades) {
    let bottom = TOP + HEIGHT;
    for value in x.ticks() {
        let at = LEFT + x.at(value);
        let _ = writeln!(
            text,
            "<path d=\"M{at:.1} {TOP}V{bottom}\" stroke=\"#ddd\"/><text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{value}</text>",
            bottom + 18.0
        );
    }
    for value in y.ticks() {
        let at = bottom - y.at(value);
        let _ = writeln!(
            text,
            "<path d=\"M{LEFT} {at:.1}h{WIDTH}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            at + 4.0,
            value * 1e-9
        );
    }
    let _ = writeln!(
        text,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">operations for each byte</text><text x=\"{}\" y=\"{}\">GFLOP/s</text>",
        LEFT + WIDTH / 2.0,
        bottom + 42.0,
        LEFT - 60.0,
        TOP - 12.0
    );
}

fn roof(text: &mut String, x: Decades, y: Decades, flops: f64, bytes: f64, ridge: f64) {
    let bottom = TOP + HEIGHT;
    // From where memory binds, as far down or left as the plot goes, to the ridge, then level.
    let from = 10f64.powf(x.first).max(10f64.powf(y.first) / bytes);
    let _ = writeln!(
        text,
        "<path d=\"M{:.1} {:.1}L{:.1} {:.1}H{}\" fill=\"none\" stroke=\"#222\" stroke-width=\"2\"/>",
        LEFT + x.at(from),
        bottom - y.at(from * bytes),
        LEFT + x.at(ridge),
        bottom - y.at(flops),
        LEFT + WIDTH
    );
}

#[cfg(test)]
mod tests {
    use super::super::figure::example;
    use super::*;

    #[test]
    fn a_dot_for_each_figure_under_the_roof() {
        let mut figures = vec![example("unet conv3x3 <a>", 0.5), example("unet gemm", 0.7), example("move", 1.0)];
        figures[2].flops = 0.0;
        let svg = roofline(&figures).unwrap();
        // Two dots, two in the legend.
        assert_eq!(svg.matches("<circle").count(), 4, "{svg}");
        assert!(svg.contains("conv3x3 &lt;a&gt;") && svg.contains(">conv<") && svg.contains("50% of the roofline"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        let bare: Vec<Figure> = figures.iter().map(|f| Figure { peak_flops: None, ..f.clone() }).collect();
        assert!(!roofline(&bare).unwrap().contains("stroke-width"));
        assert_eq!(roofline(&figures[2..]), None);
    }
}
