//! Whole networks of a model: as many runs as asked, and on demand every kernel in them by itself.

use super::BenchOptions;
use super::figure::Figure;
use super::held::{Held, filler};
use super::timing::sustained;
use crate::abi::Stem;
use crate::backend::Backend;
use crate::error::Result;
use crate::graph::{DType, Graph};
use crate::plan::command::{Dispatch, Plan, SlotKind};
use crate::run::options::Cancel;
use std::collections::BTreeMap;

/// Share of a figure's time that each launch of a profile gets.
const OF_A_LAUNCH: f64 = 0.05;

/// Times `graph` by a plan for the device; its weights are noise, since their values do not change the work. With `profile`
/// also every launch by itself, summed by kernel variant: on a GPU their sum is less than the whole by what launches wait.
pub(super) fn measure(
    backend: &mut dyn Backend,
    name: &str,
    graph: Graph,
    dtype: DType,
    profile: bool,
    o: &BenchOptions,
    cancel: &Cancel,
) -> Result<Vec<Figure>> {
    let plan = crate::plan::compile(graph, backend.caps())?;
    let mut held = resident(backend, &plan)?;
    if !plan.setup.is_empty() {
        let setup = held.backend.prepare(&plan.setup, &held.buffers)?;
        let outcome = held.backend.run(setup);
        held.backend.discard(setup);
        outcome?;
    }
    let list = held.backend.prepare(&plan.body, &held.buffers)?;
    let before = held.backend.launches();
    let timing = sustained(o.seconds, 1, cancel, || held.backend.run(list));
    let after = held.backend.launches();
    let (segments, taken) = (after.count - before.count, after.time - before.time);
    let clock_mhz = super::clock::under_load(held.backend.caps().kind, || held.backend.run(list));
    held.backend.discard(list);
    let held_bytes: u64 = plan.slots.iter().map(|s| s.bytes).sum();
    let whole = Figure {
        what: "network".into(),
        name: name.into(),
        flops: plan.body.iter().map(|d| d.flops).sum::<u64>() as f64,
        bytes: plan.body.iter().map(|d| d.bytes).sum::<u64>() as f64,
        working_set: held_bytes as f64,
        clock_mhz: clock_mhz?,
        launch: (segments > 0).then(|| taken.as_secs_f64() / segments as f64),
        ..super::figure(o, held.backend.caps(), dtype, timing?)
    };
    let mut figures = vec![whole];
    if profile {
        figures.extend(stems(&mut held, name, &plan, dtype, o, cancel)?);
    }
    Ok(figures)
}

/// Buffers for every slot of a plan, filled.
fn resident<'a>(backend: &'a mut dyn Backend, plan: &Plan) -> Result<Held<'a>> {
    let mut held = Held::new(backend);
    for slot in &plan.slots {
        let buffer = held.alloc(slot)?;
        match &slot.kind {
            SlotKind::Weight(recipe) => held.backend.write(buffer, 0, &filler(slot.bytes, recipe.dtype))?,
            SlotKind::Persistent | SlotKind::Ring => {
                held.backend.write(buffer, 0, &filler(slot.bytes, DType::F32))?;
            }
            // A new buffer is zero, and items of zeros are whole windows.
            SlotKind::Control | SlotKind::Arena => {}
        }
    }
    Ok(held)
}

/// Every launch by itself, summed by stem and variant, the longest first.
fn stems(
    held: &mut Held<'_>,
    name: &str,
    plan: &Plan,
    dtype: DType,
    o: &BenchOptions,
    cancel: &Cancel,
) -> Result<Vec<Figure>> {
    let mut sums: BTreeMap<(Stem, &str), (usize, Figure)> = BTreeMap::new();
    for launch in &plan.body {
        let one = alone(held, launch, dtype, o, cancel)?;
        let zero =
            Figure { seconds: 0.0, spread: 0.0, best: 0.0, processor: one.processor.map(|_| 0.0), ..one.clone() };
        let (count, sum) = sums.entry((launch.stem, launch.variant)).or_insert((0, zero));
        *count += 1;
        (sum.seconds, sum.spread, sum.best) = (sum.seconds + one.seconds, sum.spread + one.spread, sum.best + one.best);
        sum.processor = sum.processor.zip(one.processor).map(|(a, b)| a + b);
        (sum.flops, sum.bytes) = (sum.flops + launch.flops as f64, sum.bytes + launch.bytes as f64);
    }
    let mut figures: Vec<Figure> = sums
        .into_iter()
        .map(|((stem, variant), (count, sum))| Figure {
            what: "stem".into(),
            name: format!("{name}: {} x{count}", stem.name()),
            variant: variant.into(),
            ..sum
        })
        .collect();
    figures.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    Ok(figures)
}

fn alone(held: &mut Held<'_>, launch: &Dispatch, dtype: DType, o: &BenchOptions, cancel: &Cancel) -> Result<Figure> {
    let list = held.backend.prepare(std::slice::from_ref(launch), &held.buffers)?;
    let timing = sustained(o.seconds * OF_A_LAUNCH, 1, cancel, || held.backend.run(list));
    held.backend.discard(list);
    Ok(super::figure(o, held.backend.caps(), dtype, timing?))
}
