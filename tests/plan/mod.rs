//! Planner tests: published networks against the bars for arena size and planning time, and thousands of
//! random graphs against the null backend.

mod fusion;
mod networks;
mod random;

use std::collections::HashMap;
use tessera::Result;
use tessera::abi::Caps;
use tessera::backend::null::Null;
use tessera::backend::{Backend, BufferId};
use tessera::graph::Lifetime;
use tessera::plan::command::{Plan, Port};

/// A plan on the null backend.
struct Run {
    null: Null,
    buffers: Vec<BufferId>,
}

/// Takes `plan` through alloc, job inputs, setup, and `launches` launches; any broken rule is an error.
fn run(plan: &Plan, caps: &Caps, launches: usize) -> Result<Run> {
    let mut null = Null::new(caps.clone());
    let buffers: Vec<BufferId> = plan.slots.iter().map(|s| null.alloc(s)).collect::<Result<_>>()?;
    let setup = null.prepare(&plan.setup, &buffers)?;
    let body = null.prepare(&plan.body, &buffers)?;
    let give = |null: &mut Null, port: &Port| {
        // Contents only need to tell inputs apart: the name, repeated.
        let bytes: Vec<u8> = port.name.bytes().cycle().take(port.range.bytes as usize).collect();
        null.write(buffers[port.range.slot.0 as usize], port.range.offset, &bytes)
    };
    for port in plan.inputs.iter().filter(|p| p.lifetime != Lifetime::Window) {
        give(&mut null, port)?;
    }
    for (port, _) in &plan.constants {
        give(&mut null, port)?;
    }
    null.run(setup)?;
    for _ in 0..launches {
        for port in plan.inputs.iter().filter(|p| p.lifetime == Lifetime::Window) {
            give(&mut null, port)?;
        }
        null.run(body)?;
    }
    Ok(Run { null, buffers })
}

/// What was computed into each output, as the null backend's tags.
fn tags(plan: &Plan, caps: &Caps) -> Result<HashMap<String, u64>> {
    let run = run(plan, caps, 2)?;
    let tag = |p: &Port| {
        let r = p.range;
        run.null
            .tag(run.buffers[r.slot.0 as usize], r.offset, r.bytes)
            .unwrap_or_else(|| panic!("{} is not written", p.name))
    };
    Ok(plan.outputs.iter().map(|p| (p.name.clone(), tag(p))).collect())
}
