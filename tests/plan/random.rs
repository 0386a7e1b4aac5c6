//! Random graphs: whatever shape a network takes, its plan is sound.

use super::{run, tags};
use std::panic::{AssertUnwindSafe, catch_unwind};
use tessera::abi::{Caps, Stem};
use tessera::backend::null::Null;
use tessera::graph::op::{Linear, Padding, Rearrange};
use tessera::graph::taps::Filter;
use tessera::graph::{Act, Builder, DType, Graph, Lifetime, Op, Shape, ValueId, passes, verify};
use tessera::plan::{self, Options, report};

/// SplitMix64: enough randomness, and the same graphs everywhere.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// A graph of 5 to 60 ops with branches, concatenations, long skips, strides, doublings, attention over
/// items and contexts, tables, mixed types, and values that nothing reads.
pub(super) fn random_graph(seed: u64, dtypes: &[DType]) -> Graph {
    let mut r = Rng(seed);
    let batch = r.pick(&[1, 1, 2, 3]);
    let main = r.pick(dtypes);
    let mut b = Builder::new(format!("random {seed}"), main);
    let mut pool: Vec<ValueId> = Vec::new();
    for i in 0..1 + r.below(3) {
        let shape = Shape::new(batch, r.pick(&[4, 7, 8, 16]), r.pick(&[4, 5, 8, 16]), r.pick(&[3, 4, 8, 12, 16]));
        let dtype = r.pick(dtypes);
        pool.push(b.input(&format!("x{i}"), shape, dtype, Lifetime::Window));
    }
    let t = b.input("t", Shape::new(4, 1, 1, 1), DType::F32, Lifetime::Step);
    let time = tessera::graph::op::TimeEmbedding { dim: 16, flip_sin_to_cos: true, freq_shift: 0.0, max_period: 1e4 };
    let time = b.time_embedding("time", t, time).expect("time embedding");
    let time = b.linear("time_proj", time, 24, true).expect("linear");
    let time = b.activation("time_act", time, Act::Silu).expect("activation");
    let context = b.input("context", Shape::new(2, 1, 5, 12), r.pick(dtypes), Lifetime::Context);
    for i in 0..5 + r.below(56) {
        // Mostly recent values, sometimes old ones: those become long skips.
        let recent = pool.len() - 1 - r.below(pool.len().min(4));
        let x = if r.below(4) == 0 { pool[r.below(pool.len())] } else { pool[recent] };
        if let Some(y) = random_op(&mut r, &mut b, &pool, x, i, time, context, dtypes) {
            pool.push(y);
        }
    }
    for (i, &v) in pool.iter().rev().take(1 + r.below(3)).enumerate() {
        b.output(&format!("y{i}"), v);
    }
    if r.below(8) == 0 {
        b.output("table", time);
    }
    b.finish()
}

#[expect(clippy::too_many_arguments, reason = "the generator's whole state")]
fn random_op(
    r: &mut Rng,
    b: &mut Builder,
    pool: &[ValueId],
    x: ValueId,
    i: usize,
    time: ValueId,
    context: ValueId,
    dtypes: &[DType],
) -> Option<ValueId> {
    let name = format!("n{i}");
    let s = b.shape(x);
    let like = |b: &Builder, r: &mut Rng, want: &dyn Fn(Shape) -> bool| {
        let fits: Vec<ValueId> = pool.iter().copied().filter(|&v| want(b.shape(v))).collect();
        if fits.is_empty() { None } else { Some(r.pick(&fits)) }
    };
    let out = match r.below(17) {
        0 | 1 => {
            let kernel = r.pick(&[1, 3]);
            let stride = if kernel == 3 && s.h > 2 && s.w > 2 { r.pick(&[1, 1, 2]) } else { 1 };
            let channels = r.pick(&[4, 8, 12, 16, 24]);
            b.conv_as(&name, x, channels, kernel, stride, Padding::all(kernel / 2), r.pick(dtypes))
        }
        2 => b.linear(&name, x, r.pick(&[8, 16, 24]), r.below(2) == 0),
        3 | 4 => {
            let groups = r.pick(&[1, 2, 4]);
            if !s.c.is_multiple_of(groups) {
                return None;
            }
            b.group_norm(&name, x, groups, 1e-5, r.pick(&[Act::None, Act::Silu]))
        }
        5 => b.layer_norm(&name, x, 1e-5),
        6 => {
            let other = like(b, r, &|o| o == s)?;
            b.add(&name, x, other)
        }
        7 => b.activation(&name, x, r.pick(&[Act::Silu, Act::Gelu, Act::Relu])),
        8 => {
            // A concatenation is legal only in front of convolutions and group norms.
            let other = like(b, r, &|o| (o.h, o.w) == (s.h, s.w))?;
            let both = b.push(&format!("{name}.cat"), Op::Concat, &[x, other]).ok()?;
            if r.below(2) == 0 {
                b.group_norm(&name, both, 1, 1e-5, Act::Silu)
            } else {
                b.conv(&name, both, 16, 3, 1, Padding::all(1))
            }
        }
        9 if s.h <= 8 && s.w <= 8 => {
            let size = [2 * s.h - r.below(2) as u32, 2 * s.w - r.below(2) as u32];
            let up = b.push(&format!("{name}.up"), Op::Upsample { size }, &[x]).ok()?;
            b.conv(&name, up, r.pick(&[8, 16]), 3, 1, Padding::all(1))
        }
        13 => {
            let filter = r.pick(&[Filter::Nearest, Filter::Bilinear, Filter::Bicubic { a: -0.75, antialias: true }]);
            b.resize(&name, x, [r.pick(&[4, 7, 8, 12]), r.pick(&[5, 8, 16])], filter)
        }
        14 if s.h.is_multiple_of(2) && s.w.is_multiple_of(2) => {
            b.rearrange(&name, x, Rearrange::SpaceToDepth { factor: 2 })
        }
        14 if s.h <= 8 => b.conv_transpose(&name, x, r.pick(&[4, 8]), 2, 2, 0),
        15 => {
            // Attention in windows, with relative positions.
            let windows = b.rearrange(&format!("{name}.windows"), x, Rearrange::Windows { size: 3 }).ok()?;
            let qkv = ["q", "k", "v"].map(|p| b.linear(&format!("{name}.{p}"), windows, 16, true));
            let [Ok(q), Ok(k), Ok(v)] = qkv else { return None };
            let queries = b.rearrange(&format!("{name}.heads"), q, Rearrange::SplitChannels { parts: 2 }).ok()?;
            let rel = b.linear(&format!("{name}.rel"), queries, 10, false).ok()?;
            let op = tessera::graph::op::Attention {
                heads: 2,
                head_dim: 8,
                scale: 0.35,
                q_offset: 0,
                k_offset: 0,
                v_offset: 0,
                causal: false,
                rows: true,
                relative: Some([3, 3]),
            };
            let seen = b.push(&format!("{name}.attention"), Op::Attention(op), &[q, k, v, rel]).ok()?;
            b.rearrange(&name, seen, Rearrange::Unwindows { size: 3, to: [s.h, s.w] })
        }
        16 => {
            let gb = b.linear(&format!("{name}.gb"), x, 2 * s.c, true).ok()?;
            b.modulate(&name, x, gb, r.pick(&[Act::None, Act::LeakyRelu]))
        }
        10 => {
            let q = b.linear(&format!("{name}.q"), x, 16, false).ok()?;
            let source = if r.below(3) == 0 { context } else { x };
            let k = b.linear(&format!("{name}.k"), source, 16, false).ok()?;
            let v = b.linear(&format!("{name}.v"), source, 16, false).ok()?;
            b.attention(&name, [q, k, v], 2, 0.35)
        }
        11 => {
            // A convolution with the time embedding's row added, as residual networks have it.
            let op = tessera::graph::op::Conv2d {
                weight: b.weight(&format!("{name}.weight"), &[24, u64::from(s.c), 3, 3]),
                bias: None,
                out_channels: 24,
                kernel: [3, 3],
                stride: 1,
                padding: Padding::all(1),
                upsample: None,
                second: false,
                row_bias: true,
                residual: false,
                act: Act::None,
            };
            b.push(&name, Op::Conv2d(op), &[x, time])
        }
        12 => {
            let weights = vec![b.weight(&format!("{name}.weight"), &[32, u64::from(s.c)])];
            let biases = vec![b.weight(&format!("{name}.bias"), &[32])];
            let op = Linear { weights, biases, out_channels: 16, geglu: true, residual: false, act: Act::None };
            b.push(&name, Op::Linear(op), &[x])
        }
        _ => {
            let channels = 1 + r.below(s.c as usize) as u32;
            let begin = r.below((s.c - channels + 1) as usize) as u32;
            b.push(&name, Op::Slice { begin, channels }, &[x])
        }
    };
    Some(out.expect("the generator makes valid ops"))
}

/// The device with the smallest chunks that can hold the graph: arenas of several chunks are the rule.
fn tight(fused: &Graph, caps: &Caps) -> Caps {
    let plan = plan::plan(fused, caps).expect("plans");
    let commands = plan.body.iter().chain(&plan.setup);
    let ports = plan.inputs.iter().chain(&plan.outputs).map(|p| p.range.bytes);
    let widest = commands.flat_map(|d| d.bindings.iter().flatten().map(|r| r.bytes)).chain(ports).max();
    let chunk = widest.unwrap_or(1).next_multiple_of(256);
    Caps { max_chunk: chunk, max_binding: chunk, ..caps.clone() }
}

/// Checks one graph; the size of its arena over the peak of live bytes.
fn check(seed: u64, caps: &Caps) -> f64 {
    let graph = random_graph(seed, &caps.dtypes);
    verify::verify(&graph).expect("valid as built");
    let fused = passes::fuse(graph).expect("fuses");
    let caps = &if seed % 8 < 4 { caps.clone() } else { tight(&fused, caps) };
    let plan = plan::plan(&fused, caps).expect("plans");
    // The null backend checks ranges, alignment, aliases, limits, and that nothing is read that was written over.
    let result = tags(&plan, caps).expect("sound");
    let capacity = caps.max_chunk.min(caps.max_binding);
    assert!(plan.slots.iter().all(|s| s.bytes <= capacity));
    assert!(plan.cost.arena_bytes >= plan.cost.peak_live_bytes);
    // The same computation as with every value in memory of its own, in the graph's order.
    let apart = Options { reuse: false, reorder: false };
    let plain = plan::plan_with(&fused, caps, apart).expect("plans");
    assert_eq!(result, tags(&plain, caps).expect("sound"), "reuse changed a result");
    // What the report reads back from the commands never overlaps while alive.
    let stays = report::stays(&plan);
    for (i, a) in stays.iter().enumerate() {
        for b in &stays[i + 1..] {
            let (p, q) = (a.range, b.range);
            let together = a.start < b.end && b.start < a.end;
            let over = p.slot == q.slot && p.offset < q.offset + q.bytes && q.offset < p.offset + p.bytes;
            // A result that takes over its operand's memory meets it in that one step.
            let replaced = p == q && (a.end == b.start + 1 || b.end == a.start + 1);
            assert!(!(together && over) || replaced, "{a:?} and {b:?}");
        }
    }
    plan.cost.arena_bytes as f64 / plan.cost.peak_live_bytes as f64
}

/// Ten thousand graphs over both kinds of caps, as they are and with tight chunks; two threads, as the work
/// is independent.
#[test]
fn plans_of_ten_thousand_random_graphs_are_sound() {
    let kinds = [Caps::cpu(), Caps::wgpu_default()];
    let half = |first: u64| -> Vec<(u64, f64)> {
        let checked = |seed: u64| {
            let caps = &kinds[(seed / 2 % 2) as usize];
            let ratio = catch_unwind(AssertUnwindSafe(|| check(seed, caps)));
            (seed, ratio.unwrap_or_else(|_| panic!("graph {seed} on {}", caps.name)))
        };
        (first..10_000).step_by(2).map(checked).collect()
    };
    let all = std::thread::scope(|scope| {
        let halves = [0, 1].map(|first| scope.spawn(move || half(first)));
        halves.into_iter().flat_map(|h| h.join().expect("see above")).collect::<Vec<_>>()
    });
    for (name, tight) in [("one block", false), ("tight chunks", true)] {
        let ratios = || all.iter().filter(|(seed, _)| (seed % 8 >= 4) == tight).map(|(_, ratio)| *ratio);
        let (count, sum) = (ratios().count() as f64, ratios().sum::<f64>());
        let perfect = ratios().filter(|&r| r == 1.0).count() as f64;
        let worst = ratios().fold(0.0, f64::max);
        println!(
            "{name}: arena / peak mean {:.4}, worst {worst:.3}, equal {:.1}%",
            sum / count,
            100.0 * perfect / count
        );
    }
}

#[test]
fn the_generator_reaches_every_stem_and_every_kind_of_slot() {
    let mut stems: Vec<Stem> = Vec::new();
    let (mut chunks, mut in_place, mut setup) = (0, 0, 0);
    for seed in 0..200 {
        let caps = Caps::wgpu_default();
        let fused = passes::fuse(random_graph(seed, &caps.dtypes)).expect("fuses");
        let plan = plan::plan(&fused, &tight(&fused, &caps)).expect("plans");
        stems.extend(plan.body.iter().chain(&plan.setup).map(|d| d.stem));
        chunks += usize::from(plan.slots.iter().filter(|s| s.kind == plan::command::SlotKind::Arena).count() > 1);
        setup += usize::from(!plan.setup.is_empty());
        in_place += plan
            .body
            .iter()
            .filter(|d| matches!(d.stem, Stem::NormApply | Stem::Pointwise) && d.bindings[3] == d.bindings[0])
            .count();
    }
    stems.sort();
    stems.dedup();
    assert_eq!(stems.len(), Stem::ALL.len());
    assert!(chunks > 20 && in_place > 20 && setup > 20, "{chunks} {in_place} {setup}");
}

/// The null backend must notice a wrong arena: shift one value onto another and it refuses the plan, or
/// the result's tag changes.
#[test]
fn a_planted_overlap_is_found() {
    let caps = Caps::cpu();
    let (mut planted, mut missed) = (0, 0);
    for seed in 0..100 {
        let good = plan::compile(random_graph(seed, &caps.dtypes), &caps).expect("plans");
        let right = tags(&good, &caps).expect("sound");
        // Two values alive at the peak that something still reads (an unused input may be written over).
        let (_, _, mut there) = report::peak(&good);
        there.retain(|s| good.body.iter().any(|d| d.bindings[..2].contains(&Some(s.range))));
        let [Some(a), Some(b)] = [0, 1].map(|i| there.get(i).map(|s| s.range)) else { continue };
        let mut bad = good.clone();
        let moved = |r: &mut plan::command::Range| {
            if *r == b {
                r.offset = a.offset;
            }
        };
        bad.body.iter_mut().flat_map(|d| d.bindings.iter_mut().flatten()).for_each(moved);
        bad.inputs.iter_mut().chain(&mut bad.outputs).for_each(|p| moved(&mut p.range));
        if bad == good || b.offset == a.offset {
            continue;
        }
        planted += 1;
        // Either refused, or (both dead by then in effect) the same computation.
        missed += usize::from(tags_or_error(&bad, &caps).is_some_and(|t| t == right));
    }
    assert!(planted > 50 && missed == 0, "{missed} of {planted} overlaps were not found");
}

fn tags_or_error(plan: &plan::command::Plan, caps: &Caps) -> Option<std::collections::HashMap<String, u64>> {
    run(plan, caps, 1).ok()?;
    tags(plan, caps).ok()
}

#[test]
fn a_null_device_counts_what_it_is_asked() {
    let caps = Caps::cpu();
    let plan = plan::compile(random_graph(3, &caps.dtypes), &caps).expect("plans");
    let done = run(&plan, &caps, 5).expect("sound");
    let counts = done.null.counts();
    assert_eq!((counts.allocs, counts.runs), (plan.slots.len() as u64, 6));
    assert_eq!(counts.commands, (plan.setup.len() + 5 * plan.body.len()) as u64);
    drop::<Null>(done.null);
}
