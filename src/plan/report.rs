//! A plan as people read it: totals, what lives at the peak, and the map of steps by offsets. Everything
//! here is read back from the plan's commands, so it shows what will run, not what was meant.

use super::command::{Dispatch, Plan, Range, SlotId, SlotKind};
use crate::abi::{Access, Stem};
use crate::extent::{ARENA_ALIGN, round_up};
use std::collections::HashMap;
use std::fmt::Write;

/// How many values [`report`] names at the peak.
const TOP: usize = 12;

/// A value's stay in an arena chunk, in steps of the body: `[start, end)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stay {
    /// The value's name; scratch is named after the step and the binding.
    pub label: String,
    /// Where it lies.
    pub range: Range,
    /// First step; 0 for inputs.
    pub start: usize,
    /// One past the last step that uses it; the number of steps for outputs.
    pub end: usize,
    /// The command that makes it, by index; `None` for inputs.
    pub made_by: Option<usize>,
    /// Room that a command works in, not a value of the graph.
    pub scratch: bool,
}

/// Every stay of the body, in order of start. A value that takes over its operand's memory starts in the
/// step in which the operand ends.
pub fn stays(plan: &Plan) -> Vec<Stay> {
    let arena = |r: &Range| plan.slots.get(r.slot.0 as usize).is_some_and(|s| s.kind == SlotKind::Arena);
    let mut stays: Vec<Stay> = Vec::new();
    let mut current: HashMap<(SlotId, u64), usize> = HashMap::new();
    for port in plan.inputs.iter().filter(|p| arena(&p.range)) {
        current.insert((port.range.slot, port.range.offset), stays.len());
        stays.push(Stay {
            label: port.name.clone(),
            range: port.range,
            start: 0,
            end: 1,
            made_by: None,
            scratch: false,
        });
    }
    for (step, command) in plan.body.iter().enumerate() {
        let bindings = || command.stem.bindings().iter().zip(&command.bindings);
        for (_, range) in bindings().filter(|(b, _)| b.access == Access::Read) {
            if let Some(range) = range.filter(|r| arena(r))
                && let Some(&at) = current.get(&(range.slot, range.offset))
            {
                stays[at].end = step + 1;
            }
        }
        for (binding, range) in bindings().filter(|(b, _)| b.access == Access::Write) {
            if let Some(range) = range.filter(|r| arena(r)) {
                current.insert((range.slot, range.offset), stays.len());
                let plain = binding.name == "y";
                let label = if plain { command.label.clone() } else { format!("{} ({})", command.label, binding.name) };
                stays.push(Stay { label, range, start: step, end: step + 1, made_by: Some(step), scratch: !plain });
            }
        }
    }
    for port in &plan.outputs {
        if let Some(&at) = current.get(&(port.range.slot, port.range.offset)) {
            stays[at].end = plan.body.len().max(1);
        }
    }
    stays
}

/// The step of the body with the most live bytes, those bytes, and who is alive there, largest first.
/// A result that takes over its operand's memory is counted once.
pub fn peak(plan: &Plan) -> (usize, u64, Vec<Stay>) {
    let stays = stays(plan);
    let mut best = (0, 0);
    for step in 0..plan.body.len().max(1) {
        let bytes = alive(&stays, step).iter().map(|s| round_up(s.range.bytes, ARENA_ALIGN)).sum();
        if bytes > best.1 {
            best = (step, bytes);
        }
    }
    let mut there: Vec<Stay> = alive(&stays, best.0).into_iter().cloned().collect();
    there.sort_by_key(|s| std::cmp::Reverse(s.range.bytes));
    (best.0, best.1, there)
}

fn alive(stays: &[Stay], step: usize) -> Vec<&Stay> {
    let mut alive: Vec<&Stay> = stays.iter().filter(|s| s.start <= step && step < s.end).collect();
    // Of two stays of one range, the later one (the result) stands for both.
    alive.sort_by_key(|s| (s.range.slot, s.range.offset, std::cmp::Reverse(s.start)));
    alive.dedup_by_key(|s| (s.range.slot, s.range.offset));
    alive
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1u32 << 20)
}

/// Totals and the live set at the peak.
pub fn report(plan: &Plan) -> String {
    let mut text = String::new();
    let c = &plan.cost;
    let chunks = plan.slots.iter().filter(|s| s.kind == SlotKind::Arena).count();
    let ratio = c.arena_bytes as f64 / c.peak_live_bytes.max(1) as f64;
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "plan {}: {} item(s), {} commands, {} in setup",
        plan.name,
        plan.items,
        plan.body.len(),
        plan.setup.len()
    );
    let _ = writeln!(
        text,
        "  arena       {:10.2} MiB in {chunks} chunk(s), {ratio:.3} x the peak of live bytes",
        mib(c.arena_bytes)
    );
    let _ = writeln!(text, "  persistent  {:10.2} MiB", mib(c.persistent_bytes));
    let _ = writeln!(text, "  weights     {:10.2} MiB", mib(c.weight_bytes));
    let _ = writeln!(text, "  work        {:10.2} GFLOP, {:.2} GiB moved", c.flops as f64 / 1e9, mib(c.bytes) / 1024.0);
    let (step, bytes, there) = peak(plan);
    let at = plan.body.get(step).map_or("", |d| d.label.as_str());
    let _ = writeln!(text, "  live at the peak: {:.2} MiB in {} values, step {step} ({at})", mib(bytes), there.len());
    for s in there.iter().take(TOP) {
        let _ = writeln!(text, "    {:10.3} MiB  steps {:4}..{:<4} {}", mib(s.range.bytes), s.start, s.end, s.label);
    }
    text
}

/// The whole plan: the report, the stays (steps x offsets), and every command.
pub fn listing(plan: &Plan) -> String {
    let mut text = report(plan);
    text += "  map (chunk:offset+bytes, steps, value)\n";
    for s in stays(plan) {
        let r = s.range;
        let _ = writeln!(
            text,
            "    {}:{:#010x}+{:<10} {:4}..{:<4} {}",
            r.slot.0, r.offset, r.bytes, s.start, s.end, s.label
        );
    }
    for (name, list) in [("setup", &plan.setup), ("body", &plan.body)] {
        let _ = writeln!(text, "  {name}");
        for (i, d) in list.iter().enumerate() {
            text += &command(i, d);
        }
    }
    text
}

fn command(i: usize, d: &Dispatch) -> String {
    let bindings = d.stem.bindings().iter().zip(&d.bindings);
    let shown: Vec<String> = bindings
        .filter_map(|(b, r)| r.filter(|_| b.access != Access::Control).map(|r| (b.name, r)))
        .map(|(name, r)| format!("{name}={}:{:#x}+{}", r.slot.0, r.offset, r.bytes))
        .collect();
    let types = [d.types.x, d.types.w, d.types.y].map(|t| t.name()).join("/");
    let stem: Stem = d.stem;
    format!("    {i:4} {}.{} {types} {:?} {}  # {}\n", stem.name(), d.variant, d.grid, shown.join(" "), d.label)
}
