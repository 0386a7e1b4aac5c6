//! The arena drawn: steps from left to right, bytes from bottom to top, one box per stay of a value. The hue
//! is the level (how many pixels an item has there), the lightness tells neighbours apart.

use super::command::{Plan, SlotId, SlotKind};
use super::report::{self, Stay};
use crate::abi::Params;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Size of the map itself, pixels.
const WIDTH: f64 = 1600.0;
const HEIGHT: f64 = 800.0;
/// Between the chunks of an arena.
const GAP: f64 = 8.0;
/// Around the map: bytes on the left, the legend on the right, title above, steps below.
const LEFT: f64 = 90.0;
const RIGHT: f64 = 170.0;
const TOP: f64 = 60.0;
const BOTTOM: f64 = 50.0;
/// A box of at least this width and height carries its name.
const NAMED: [f64; 2] = [90.0, 9.0];
/// Average width of a letter of the names, pixels.
const LETTER: f64 = 4.4;
/// Hues of the levels, finest first; they repeat after the last.
const HUES: [u32; 8] = [210, 30, 130, 350, 270, 55, 175, 310];

/// A drawing's horizontal and vertical scale: pixels per step and per byte.
#[derive(Debug, Clone, Copy)]
struct Scale {
    step: f64,
    byte: f64,
}

/// The arena map of the body as an SVG document; hovering over a box names its value.
pub fn arena(plan: &Plan) -> String {
    let stays = report::stays(plan);
    let chunks: Vec<(usize, u64)> =
        plan.slots.iter().enumerate().filter(|(_, s)| s.kind == SlotKind::Arena).map(|(i, s)| (i, s.bytes)).collect();
    let total: u64 = chunks.iter().map(|c| c.1).sum::<u64>().max(1);
    let steps = plan.body.len().max(1);
    let room = HEIGHT - GAP * chunks.len().saturating_sub(1) as f64;
    let scale = Scale { step: WIDTH / steps as f64, byte: room / total as f64 };
    let levels = Levels::of(plan, &stays);
    let (width, height) = (LEFT + WIDTH + RIGHT, TOP + HEIGHT + BOTTOM);
    let heading = format!("{}: {} of arena, {steps} steps", plan.name, size(total));
    let mut text = begin([width, height], LEFT, &format!("{}: arena", plan.name), &heading);
    text += &steps_axis(steps, scale);
    let mut bottom = TOP + HEIGHT;
    for (slot, bytes) in chunks {
        text += &bytes_axis(bytes, bottom, scale);
        for stay in stays.iter().filter(|s| s.range.slot == SlotId(slot as u32)) {
            text += &draw(stay, &levels, bottom, scale, plan);
        }
        bottom -= bytes as f64 * scale.byte + GAP;
    }
    text + &peak(plan, scale) + &levels.legend() + "</svg>\n"
}

/// The levels of a plan: pixels of an item, finest first, with their names.
struct Levels {
    /// Index of the level and its name, by pixels.
    by_pixels: BTreeMap<u64, (usize, String)>,
}

/// Pixels (or tokens) of each item of what a command makes.
fn pixels(plan: &Plan, stay: &Stay) -> Option<u64> {
    let Some(step) = stay.made_by else {
        let port = plan.inputs.iter().find(|p| p.range == stay.range && p.name == stay.label)?;
        return Some(port.shape.pixels());
    };
    Some(match &plan.body.get(step)?.params {
        Params::Conv2d(p) => u64::from(p.oh) * u64::from(p.ow),
        Params::Gemm(p) => u64::from(p.m) / u64::from(plan.items.max(1)),
        Params::Attention(p) => u64::from(p.queries),
        Params::GroupNormStats(p) => u64::from(p.h) * u64::from(p.w),
        Params::NormApply(p) => u64::from(p.pixels),
        Params::LayerNorm(p) => u64::from(p.rows) / u64::from(plan.items.max(1)),
        Params::Pointwise(p) => u64::from(p.pixels),
        Params::Resample(p) => u64::from(p.out) * u64::from(if p.axis == 0 { p.w } else { p.h }),
        Params::Rearrange(p) => u64::from(p.oh) * u64::from(p.ow),
        Params::Modulate(p) => u64::from(p.pixels) / u64::from(plan.items.max(1)),
        Params::NormFinalize(_) | Params::TimeEmbedding(_) => return None,
    })
}

impl Levels {
    fn of(plan: &Plan, stays: &[Stay]) -> Levels {
        let mut names: BTreeMap<u64, Option<String>> = BTreeMap::new();
        for stay in stays.iter().filter(|s| !s.scratch) {
            if let Some(n) = pixels(plan, stay) {
                names.entry(n).or_default();
            }
        }
        // Only what has rows and columns tells how they are; products see pixels one after another.
        let ports = plan.inputs.iter().map(|p| (p.shape.h, p.shape.w));
        let convs = plan.body.iter().filter_map(|d| match &d.params {
            Params::Conv2d(p) => Some((p.oh, p.ow)),
            Params::GroupNormStats(p) => Some((p.h, p.w)),
            Params::Resample(p) => Some(if p.axis == 0 { (p.out, p.w) } else { (p.h, p.out) }),
            Params::Rearrange(p) => Some((p.oh, p.ow)),
            Params::Gemm(_)
            | Params::Attention(_)
            | Params::NormFinalize(_)
            | Params::NormApply(_)
            | Params::LayerNorm(_)
            | Params::TimeEmbedding(_)
            | Params::Pointwise(_)
            | Params::Modulate(_) => None,
        });
        for (h, w) in ports.chain(convs).filter(|&(h, _)| h > 1) {
            if let Some(name) = names.get_mut(&(u64::from(h) * u64::from(w))) {
                name.get_or_insert_with(|| format!("{h} x {w}"));
            }
        }
        let finest_first = names.into_iter().rev().enumerate();
        let named = finest_first.map(|(i, (n, name))| (n, (i, name.unwrap_or_else(|| format!("{n} rows")))));
        Levels { by_pixels: named.collect() }
    }

    /// The colour of a stay.
    fn colour(&self, plan_pixels: Option<u64>, label: &str) -> String {
        match plan_pixels.and_then(|n| self.by_pixels.get(&n)) {
            Some(&(level, _)) => {
                // Fixed by the name alone, so that two drawings of one network can be compared.
                let hash = label.bytes().fold(7u32, |h, b| h.wrapping_mul(31).wrapping_add(u32::from(b)));
                shade(HUES[level % HUES.len()], 58 + hash % 22)
            }
            None => "#bbb".into(),
        }
    }

    fn legend(&self) -> String {
        let x = LEFT + WIDTH + 16.0;
        let mut text = format!("<text x=\"{x}\" y=\"{}\" font-weight=\"bold\">level</text>\n", TOP + 12.0);
        let mut levels: Vec<(usize, &str)> = self.by_pixels.values().map(|(i, name)| (*i, name.as_str())).collect();
        levels.sort_unstable();
        let entries = levels.iter().map(|&(i, name)| (shade(HUES[i % HUES.len()], 68), name));
        for (i, (colour, name)) in entries.chain([("#bbb".to_owned(), "scratch, tables")]).enumerate() {
            let y = TOP + 22.0 + 20.0 * i as f64;
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "<path d=\"M{x} {y}h14v14h-14z\" fill=\"{colour}\"/><text x=\"{}\" y=\"{}\">{name}</text>",
                x + 20.0,
                y + 12.0
            );
        }
        text
    }
}

/// A colour by hue and lightness (percent), as hexadecimal: not every viewer reads `hsl()`.
fn shade(hue: u32, lightness: u32) -> String {
    let (h, l, s) = (f64::from(hue) / 60.0, f64::from(lightness) / 100.0, 0.6);
    let chroma = (1.0 - (2.0 * l - 1.0).abs()) * s;
    let x = chroma * (1.0 - (h % 2.0 - 1.0).abs());
    let [r, g, b] = match h as u32 {
        0 => [chroma, x, 0.0],
        1 => [x, chroma, 0.0],
        2 => [0.0, chroma, x],
        3 => [0.0, x, chroma],
        4 => [x, 0.0, chroma],
        _ => [chroma, 0.0, x],
    };
    let level = |v: f64| ((v + l - chroma / 2.0) * 255.0).round() as u8;
    format!("#{:02x}{:02x}{:02x}", level(r), level(g), level(b))
}

fn draw(stay: &Stay, levels: &Levels, bottom: f64, scale: Scale, plan: &Plan) -> String {
    let range = stay.range;
    let height = range.bytes as f64 * scale.byte;
    let y = bottom - (range.offset as f64 * scale.byte) - height;
    let (x, width) = (LEFT + stay.start as f64 * scale.step, (stay.end - stay.start) as f64 * scale.step);
    let known = if stay.scratch { None } else { pixels(plan, stay) };
    let mut text = format!(
        "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{width:.2}\" height=\"{height:.2}\" fill=\"{}\" \
         stroke=\"#333\" stroke-width=\"0.3\"><title>{}: {} ({} bytes) at {}, steps {}..{}</title></rect>\n",
        levels.colour(known, &stay.label),
        escape(&stay.label),
        size(range.bytes),
        range.bytes,
        range.offset,
        stay.start,
        stay.end
    );
    if width >= NAMED[0] && height >= NAMED[1] {
        let letters = (width / LETTER) as usize;
        // The end of a path tells more than its beginning.
        let skipped = stay.label.chars().count().saturating_sub(letters);
        let mut name: String = stay.label.chars().skip(skipped).collect();
        if let Some(dot) = name.find('.').filter(|_| skipped > 0) {
            name.drain(..=dot);
        }
        let _ = writeln!(
            text,
            "<text x=\"{:.2}\" y=\"{:.2}\" font-size=\"8\" pointer-events=\"none\">{}</text>",
            x + 2.0,
            y + height / 2.0 + 3.0,
            escape(&name)
        );
    }
    text
}

/// The smallest of 1, 2, 5, 10, 20.. steps that gives at most `most` intervals.
fn tick(total: usize, most: usize) -> usize {
    let decades = std::iter::successors(Some(1usize), |d| d.checked_mul(10));
    decades
        .flat_map(|d| [d, d.saturating_mul(2), d.saturating_mul(5)])
        .find(|t| total / t <= most)
        .unwrap_or(total.max(1))
}

fn steps_axis(steps: usize, scale: Scale) -> String {
    let mut text = String::new();
    let bottom = TOP + HEIGHT;
    for at in (0..=steps).step_by(tick(steps, 16)) {
        let x = LEFT + at as f64 * scale.step;
        let _ = writeln!(
            text,
            "<path d=\"M{x:.2} {bottom}v6\" stroke=\"#333\"/><text x=\"{x:.2}\" y=\"{}\" text-anchor=\"middle\">{at}</text>",
            bottom + 20.0
        );
    }
    let (x, y) = (LEFT + WIDTH / 2.0, bottom + 40.0);
    text + &format!("<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">step</text>\n")
}

/// Frame and byte offsets of one chunk.
fn bytes_axis(bytes: u64, bottom: f64, scale: Scale) -> String {
    let height = bytes as f64 * scale.byte;
    let mut text = format!(
        "<rect x=\"{LEFT}\" y=\"{:.2}\" width=\"{WIDTH}\" height=\"{height:.2}\" fill=\"#f2f2f2\"/>\n",
        bottom - height
    );
    // Powers of two, about 40 pixels apart.
    let apart = ((40.0 / scale.byte) as u64).max(1).next_power_of_two();
    let mut at = 0;
    while at <= bytes {
        let y = bottom - at as f64 * scale.byte;
        let _ = writeln!(
            text,
            "<path d=\"M{:.2} {y:.2}h5\" stroke=\"#333\"/><text x=\"{:.2}\" y=\"{:.2}\" text-anchor=\"end\">{}</text>",
            LEFT - 5.0,
            LEFT - 9.0,
            y + 4.0,
            size(at)
        );
        at = at.saturating_add(apart);
    }
    text
}

/// Where the most bytes are alive.
fn peak(plan: &Plan, scale: Scale) -> String {
    let (step, bytes, there) = report::peak(plan);
    let x = LEFT + (step as f64 + 0.5) * scale.step;
    let label = plan.body.get(step).map_or("", |d| d.label.as_str());
    format!(
        "<path d=\"M{x:.2} {TOP}v{HEIGHT}\" stroke=\"#000\" stroke-dasharray=\"4 3\"/>\n\
         <text x=\"{LEFT}\" y=\"46\">dashed: the peak, {} alive in {} values at step {step} ({})</text>\n",
        size(bytes),
        there.len(),
        escape(label)
    )
}

/// Bytes in the unit that keeps them readable.
fn size(bytes: u64) -> String {
    let units = [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.into_iter().find(|&(_, unit)| bytes >= unit) {
        Some((name, unit)) if bytes.is_multiple_of(unit) => format!("{} {name}", bytes / unit),
        Some((name, unit)) => format!("{:.2} {name}", bytes as f64 / unit as f64),
        None => format!("{bytes} B"),
    }
}

/// The begin of a document of that width and height in pixels, white, with a title for whoever lists it and a heading
/// `left` pixels from its edge.
pub(crate) fn begin([width, height]: [f64; 2], left: f64, title: &str, heading: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<title>{}</title>\n<path d=\"M0 0h{width}v{height}h-{width}z\" fill=\"#fff\"/>\n\
         <text x=\"{left}\" y=\"24\" font-size=\"18\">{}</text>\n",
        escape(title),
        escape(heading)
    )
}

/// Text as it stands between tags.
pub(crate) fn escape(text: &str) -> String {
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
    fn every_stay_is_a_box_inside_the_drawing_and_every_level_is_in_the_legend() {
        let mut b = Builder::new("a<b", DType::F32);
        let x = b.input("x", Shape::new(1, 8, 8, 8), DType::F32, Lifetime::Window);
        let n = b.group_norm("norm", x, 2, 1e-5, Act::Silu).expect("norm");
        let y = b.conv("conv", n, 8, 3, 2, Padding::all(1)).expect("conv");
        b.output("y", y);
        let plan = compile(b.finish(), &Caps::cpu()).expect("plans");
        let text = arena(&plan);
        assert!(text.contains("a&lt;b") && text.starts_with("<svg") && text.ends_with("</svg>\n"));
        // One box for the chunk, one for each stay: x, partials, ab, the norm, the convolution.
        assert_eq!(text.matches("<rect").count(), 1 + 5);
        assert_eq!(report::stays(&plan).len(), 5);
        let numbers = |key: &str| -> Vec<f64> {
            let boxes = text.split("<rect").skip(1).filter_map(|b| b.split(&format!(" {key}=\"")).nth(1));
            boxes.filter_map(|s| s.split('"').next()?.parse().ok()).collect()
        };
        let inside = |at: &str, size: &str, from: f64, room: f64| {
            let (at, size) = (numbers(at), numbers(size));
            at.len() == 6 && at.iter().zip(size).all(|(p, s)| *p >= from - 0.1 && p + s <= from + room + 0.1)
        };
        assert!(inside("y", "height", TOP, HEIGHT) && inside("x", "width", LEFT, WIDTH));
        for level in [">8 x 8<", ">4 x 4<", ">scratch, tables<"] {
            assert!(text.contains(level), "no {level} in the legend");
        }
        assert!(text.contains("dashed: the peak"));
    }

    #[test]
    fn ticks_and_sizes_are_round() {
        assert_eq!([tick(3, 16), tick(700, 16), tick(17, 16), tick(0, 16)], [1, 50, 2, 1]);
        assert_eq!([size(0), size(512), size(3 << 20), size(3 << 19)], ["0 B", "512 B", "3 MiB", "1.50 MiB"]);
        assert_eq!([shade(0, 50), shade(120, 50)], ["#cc3333", "#33cc33"]);
    }
}
