//! One kernel at a time, by the variant that selection takes, over operands that rotate.

use super::BenchOptions;
use super::figure::Figure;
use super::held::{Held, filler};
use super::layers::Layer;
use super::timing::sustained;
use crate::abi::{Access, BackendKind, Params, Types, operands, table};
use crate::backend::Backend;
use crate::error::Result;
use crate::graph::DType;
use crate::graph::layout::Packing;
use crate::plan::command::{Dispatch, PackedWeight, Range, Slot, SlotId, SlotKind};
use crate::run::options::Cancel;

/// Bytes that rotating operands take at least: twice the last cache of the largest cards and of most hosts.
const ROTATING: u64 = 128 << 20;
/// Copies of the operands at most.
const MOST_COPIES: u64 = 64;
/// Seconds that one list should take on a GPU, so that the host's wait for it does not count.
const LIST_SECONDS: f64 = 0.01;
/// Launches of a list at most.
const MOST_LAUNCHES: f64 = 256.0;

/// Times one layer.
pub(super) fn measure(
    backend: &mut dyn Backend,
    layer: &Layer,
    dtype: DType,
    o: &BenchOptions,
    cancel: &Cancel,
) -> Result<Figure> {
    let types = Types { x: dtype, w: dtype, y: dtype };
    let row = table::select(&layer.params, types, backend.caps())?;
    let own: u64 = operands::operands(&layer.params, types, row).into_iter().flatten().map(|op| op.bytes).sum();
    let copies = if o.cached { 1 } else { ROTATING.div_ceil(own.max(1)).clamp(2, MOST_COPIES) };
    let gpu = backend.caps().kind != BackendKind::Cpu && !backend.caps().software;
    let mut held = Held::new(backend);
    let one: Vec<Dispatch> = (0..copies).map(|_| dispatch(&mut held, layer, types, row)).collect::<Result<_>>()?;
    let of = |launches: usize| one.iter().cycle().take(launches).cloned().collect::<Vec<_>>();
    let mut launches = one.len();
    if gpu {
        // How long one takes decides how many share a wait.
        let list = held.backend.prepare(&of(launches), &held.buffers)?;
        let short = sustained(0.0, launches, cancel, || held.backend.run(list));
        held.backend.discard(list);
        let wanted = (LIST_SECONDS / short?.best).clamp(1.0, MOST_LAUNCHES) as usize;
        launches = wanted.max(launches);
    }
    let list = held.backend.prepare(&of(launches), &held.buffers)?;
    let timing = sustained(o.seconds, launches, cancel, || held.backend.run(list));
    let clock_mhz = super::clock::under_load(held.backend.caps().kind, || held.backend.run(list));
    held.backend.discard(list);
    let figure = super::figure(o, held.backend.caps(), dtype, timing?);
    Ok(Figure {
        what: "kernel".into(),
        name: layer.name.clone(),
        variant: row.variant.into(),
        flops: layer.flops,
        bytes: own as f64,
        working_set: (copies * own) as f64,
        clock_mhz: clock_mhz?,
        ..figure
    })
}

/// One launch with operands of its own, small and not regular.
fn dispatch(held: &mut Held<'_>, layer: &Layer, types: Types, row: &table::Row) -> Result<Dispatch> {
    let stem = layer.params.stem();
    let (mut bindings, mut total) = (Vec::new(), 0);
    for (binding, operand) in stem.bindings().iter().zip(operands::operands(&layer.params, types, row)) {
        let Some(mut operand) = operand else {
            bindings.push(None);
            continue;
        };
        let kind = match binding.access {
            Access::Weight => SlotKind::Weight(PackedWeight {
                tensors: vec![None],
                packing: Packing::Vectors { lengths: vec![(operand.bytes / 4) as u32] },
                dtype: types.w,
            }),
            Access::Control => SlotKind::Control,
            Access::Read | Access::Write => SlotKind::Arena,
        };
        if binding.access == Access::Control {
            // One item at least, as every plan has; zeros there mean a whole window.
            operand.bytes = operand.bytes.max(operands::control_bytes(1));
        }
        total += operand.bytes;
        let buffer = held.alloc(&Slot { kind, bytes: operand.bytes })?;
        if binding.access != Access::Control {
            let mut values = filler(operand.bytes, types.x);
            // Tables of taps are read in order across the side.
            if let (Params::Resample(p), "table") = (&layer.params, binding.name) {
                let side = if p.axis == 0 { p.h } else { p.w };
                values = filler(operand.bytes, DType::F32);
                for (o, row) in values.chunks_exact_mut(4 * p.pitch_table as usize).enumerate() {
                    let first = (o * side as usize / p.out as usize) as f32;
                    row[..4].copy_from_slice(&first.to_ne_bytes());
                }
            }
            held.backend.write(buffer, 0, &values)?;
        }
        let slot = SlotId(held.buffers.len() as u32 - 1);
        bindings.push(Some(Range { slot, offset: 0, bytes: operand.bytes }));
    }
    Ok(Dispatch {
        stem,
        variant: row.variant,
        types,
        params: layer.params,
        grid: (row.grid)(&layer.params, types),
        bindings,
        label: layer.name.clone(),
        flops: layer.flops as u64,
        bytes: total,
    })
}
