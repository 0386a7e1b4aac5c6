//! The arena drawn: steps from left to right, bytes from bottom to top, one box per stay of a value.

use super::command::{Plan, SlotId, SlotKind};
use super::report::{self, Stay};
use std::fmt::Write;

/// Size of the drawing, pixels, and the gap between chunks.
const WIDTH: f64 = 1600.0;
const HEIGHT: f64 = 800.0;
const GAP: f64 = 8.0;

/// The arena map of the body as an SVG document; hovering over a box names its value.
pub fn arena(plan: &Plan) -> String {
    let stays = report::stays(plan);
    let chunks: Vec<(usize, u64)> =
        plan.slots.iter().enumerate().filter(|(_, s)| s.kind == SlotKind::Arena).map(|(i, s)| (i, s.bytes)).collect();
    let total: u64 = chunks.iter().map(|c| c.1).sum::<u64>().max(1);
    let scale = (HEIGHT - GAP * chunks.len() as f64) / total as f64;
    let step = WIDTH / plan.body.len().max(1) as f64;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\">\n\
         <title>{}: {total} bytes of arena, {} steps</title>\n",
        escape(&plan.name),
        plan.body.len()
    );
    let mut bottom = HEIGHT;
    for (slot, bytes) in chunks {
        let height = bytes as f64 * scale;
        // Writing to a String cannot fail.
        let top = bottom - height;
        let _ = writeln!(text, "<rect x=\"0\" y=\"{top:.2}\" width=\"{WIDTH}\" height=\"{height:.2}\" fill=\"#eee\"/>");
        for stay in stays.iter().filter(|s| s.range.slot == SlotId(slot as u32)) {
            text += &draw(stay, bottom, scale, step);
        }
        bottom = top - GAP;
    }
    text + "</svg>\n"
}

fn draw(stay: &Stay, bottom: f64, scale: f64, step: f64) -> String {
    let (height, range) = (stay.range.bytes as f64 * scale, stay.range);
    let y = bottom - (range.offset as f64 * scale) - height;
    let (x, width) = (stay.start as f64 * step, (stay.end - stay.start) as f64 * step);
    // A hue that only the name fixes, so that two drawings of one network can be compared.
    let hue = stay.label.bytes().fold(7u32, |h, b| h.wrapping_mul(31).wrapping_add(u32::from(b))) % 360;
    format!(
        "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{width:.2}\" height=\"{height:.2}\" fill=\"hsl({hue} 60% 65%)\" \
         stroke=\"#333\" stroke-width=\"0.3\"><title>{}: {} bytes at {}, steps {}..{}</title></rect>\n",
        escape(&stay.label),
        range.bytes,
        range.offset,
        stay.start,
        stay.end
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::Caps;
    use crate::graph::op::Padding;
    use crate::graph::{Act, Builder, DType, Lifetime, Shape};
    use crate::plan::compile;

    #[test]
    fn every_stay_is_a_box_inside_the_drawing() {
        let mut b = Builder::new("a<b", DType::F32);
        let x = b.input("x", Shape::new(1, 8, 8, 8), DType::F32, Lifetime::Window);
        let n = b.group_norm("norm", x, 2, 1e-5, Act::Silu).expect("norm");
        let y = b.conv("conv", n, 8, 3, 1, Padding::all(1)).expect("conv");
        b.output("y", y);
        let plan = compile(b.finish(), &Caps::cpu()).expect("plans");
        let text = arena(&plan);
        assert!(text.contains("a&lt;b") && text.starts_with("<svg") && text.ends_with("</svg>\n"));
        // One box for the chunk, one for each stay: x, partials, ab, the norm, the convolution.
        assert_eq!(text.matches("<rect").count(), 1 + 5);
        assert_eq!(report::stays(&plan).len(), 5);
        let numbers = |key: &str| -> Vec<f64> {
            text.split(&format!(" {key}=\"")).skip(1).filter_map(|s| s.split('"').next()?.parse().ok()).collect()
        };
        assert!(numbers("y").iter().zip(numbers("height")).all(|(y, h)| *y >= 0.0 && y + h <= HEIGHT + 0.1));
    }
}
