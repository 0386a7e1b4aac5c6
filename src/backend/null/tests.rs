//! Each rule of the null backend refuses its breach.

use super::*;
use crate::abi::params::{NormApplyParams, PointwiseParams};
use crate::abi::{Params, Stem, Types};
use crate::plan::command::SlotId;

const BYTES: u64 = 1024;

/// Two arena chunks, a control slot.
fn device(caps: Caps) -> (Null, Vec<BufferId>) {
    let mut null = Null::new(caps);
    let kinds = [(SlotKind::Arena, 4 * BYTES), (SlotKind::Arena, BYTES), (SlotKind::Control, 128)];
    let buffers = kinds.map(|(kind, bytes)| null.alloc(&Slot { kind, bytes }).expect("alloc"));
    (null, buffers.to_vec())
}

fn range(slot: u32, offset: u64, bytes: u64) -> Option<Range> {
    Some(Range { slot: SlotId(slot), offset, bytes })
}

/// `y = a` over 32 pixels of 8 f32 channels, in place if `y` says so.
fn copy(a: Option<Range>, y: Option<Range>) -> Dispatch {
    let params =
        PointwiseParams { n: 1, pixels: 32, c: 8, pitch_a: 8, pitch_y: 8, alpha: 1.0, ..PointwiseParams::default() };
    let f32 = DType::F32;
    Dispatch {
        stem: Stem::Pointwise,
        variant: "base",
        types: Types { x: f32, w: f32, y: f32 },
        params: Params::Pointwise(params),
        grid: [1, 1, 1],
        bindings: vec![a, None, None, y, range(2, 0, 128)],
        label: "copy".into(),
        flops: 0,
        bytes: 0,
    }
}

fn sound() -> Dispatch {
    copy(range(0, 0, BYTES), range(0, BYTES, BYTES))
}

#[track_caller]
fn refused(d: Dispatch, why: &str) {
    let (mut null, buffers) = device(Caps::wgpu_default());
    let e = null.prepare(&[d], &buffers).expect_err(why);
    assert_eq!(e.kind(), Kind::Internal);
    assert!(e.message().contains(why), "{e} does not say `{why}`");
}

#[test]
fn a_sound_command_runs_and_is_counted() {
    let (mut null, buffers) = device(Caps::wgpu_default());
    let list = null.prepare(&[sound(), sound()], &buffers).expect("sound");
    null.write(buffers[0], 0, &[7; BYTES as usize]).expect("input");
    null.run(list).expect("runs");
    let c = null.counts();
    assert_eq!((c.allocs, c.writes, c.prepares, c.runs, c.commands), (3, 1, 1, 1, 2));
    assert_eq!(null.allocated(), 5 * BYTES + 128);
    null.free(buffers[1]);
    null.free(buffers[1]);
    assert_eq!((null.allocated(), null.counts().frees), (4 * BYTES + 128, 1));
}

#[test]
fn ranges_are_held_to_slot_alignment_size_and_class() {
    refused(copy(range(0, 128, BYTES), range(0, 2 * BYTES, BYTES)), "not a multiple of 256");
    refused(copy(range(0, 3 * BYTES + 256, BYTES), range(1, 0, BYTES)), "outside a slot");
    refused(copy(range(9, 0, BYTES), range(1, 0, BYTES)), "slot 9 of none");
    refused(copy(range(0, 0, 512), range(1, 0, BYTES)), "512 bytes, the parameters imply 1024");
    refused(copy(range(0, 0, 2 * BYTES), range(1, 0, BYTES)), "2048 bytes, the parameters imply 1024");
    refused(copy(None, range(1, 0, BYTES)), "a: is missing");
    let mut d = sound();
    d.bindings[1] = range(1, 0, BYTES);
    refused(d, "b: must be absent");
    let mut d = sound();
    d.bindings[4] = range(1, 0, 128);
    refused(d, "Control of a slot of kind Arena");
    let (mut null, buffers) = device(Caps { max_binding: 512, ..Caps::wgpu_default() });
    assert!(null.prepare(&[sound()], &buffers).expect_err("too wide").message().contains("binding limit"));
}

#[test]
fn grids_variants_and_types_are_checked() {
    refused(Dispatch { grid: [70_000, 1, 1], ..sound() }, "grid");
    refused(Dispatch { grid: [0, 1, 1], ..sound() }, "grid");
    refused(Dispatch { variant: "fast", ..sound() }, "no variant `fast`");
    refused(Dispatch { stem: Stem::LayerNorm, ..sound() }, "has 5 bindings");
    let bf16 = Types { x: DType::Bf16, w: DType::F32, y: DType::Bf16 };
    refused(Dispatch { types: bf16, ..sound() }, "does not store");
}

#[test]
fn only_the_operand_that_an_in_place_kernel_replaces_may_be_written_over() {
    let same = copy(range(0, 0, BYTES), range(0, 0, BYTES));
    let (mut null, buffers) = device(Caps::wgpu_default());
    null.prepare(std::slice::from_ref(&same), &buffers).expect("the very same range");
    refused(copy(range(0, 0, BYTES), range(0, 256, BYTES)), "`y` is written over `a`");
    // The host's kernels do not work in place.
    let (mut null, buffers) = device(Caps::cpu());
    assert!(null.prepare(&[same], &buffers).expect_err("cpu").message().contains("written over"));
    // A second source keeps a norm's result apart.
    let f32 = DType::F32;
    let params = NormApplyParams { n: 1, pixels: 16, c: 8, c2: 8, pitch_x: 8, pitch_x2: 8, pitch_y: 16, act: 0 };
    refused(
        Dispatch {
            stem: Stem::NormApply,
            types: Types { x: f32, w: f32, y: f32 },
            params: Params::NormApply(params),
            bindings: vec![
                range(0, 0, 512),
                range(0, 512, 512),
                range(1, 0, 128),
                range(0, 0, BYTES),
                range(2, 0, 128),
            ],
            ..sound()
        },
        "`y` is written over `x`",
    );
}

#[test]
fn what_this_run_did_not_write_can_not_be_read() {
    let (mut null, buffers) = device(Caps::wgpu_default());
    let list = null.prepare(&[sound()], &buffers).expect("sound");
    assert!(null.run(list).expect_err("nothing written").message().contains("nothing has written"));
    null.write(buffers[0], 0, &[1; 512]).expect("half");
    assert!(null.run(list).is_err(), "half an input");
    null.write(buffers[0], 0, &[1; 512]).expect("half");
    null.write(buffers[0], 512, &[1; 512]).expect("the other half");
    null.run(list).expect("whole");
    // The arena is reused within a run: an input from before the last run counts as gone.
    assert!(null.run(list).is_err(), "stale input");
}

#[test]
fn persistent_values_outlive_runs() {
    let mut null = Null::new(Caps::wgpu_default());
    let kinds = [SlotKind::Persistent, SlotKind::Arena, SlotKind::Control];
    let buffers = kinds.map(|kind| null.alloc(&Slot { kind, bytes: BYTES }).expect("alloc"));
    let list = null.prepare(&[copy(range(0, 0, BYTES), range(1, 0, BYTES))], &buffers).expect("sound");
    null.write(buffers[0], 0, &[3; BYTES as usize]).expect("once");
    for _ in 0..3 {
        null.run(list).expect("still there");
    }
}

#[test]
fn reads_give_what_the_host_wrote_and_zeros_where_a_launch_wrote() {
    let (mut null, buffers) = device(Caps::wgpu_default());
    let list = null.prepare(&[sound()], &buffers).expect("sound");
    null.write(buffers[0], 0, &[7; 2 * BYTES as usize]).expect("input and more");
    null.run(list).expect("runs");
    let mut bytes = [9u8; 2 * BYTES as usize];
    null.read(buffers[0], 0, &mut bytes).expect("reads");
    assert!(bytes[..BYTES as usize].iter().all(|&b| b == 7) && bytes[BYTES as usize..].iter().all(|&b| b == 0));
    assert!(null.read(buffers[0], 2, &mut [0; 4]).is_err() && null.read(buffers[0], 4 * BYTES, &mut [0; 4]).is_err());
}

#[test]
fn tags_tell_computations_apart() {
    let tag = |input: u8, alpha: f32| {
        let (mut null, buffers) = device(Caps::wgpu_default());
        let mut d = sound();
        if let Params::Pointwise(p) = &mut d.params {
            p.alpha = alpha;
        }
        let list = null.prepare(&[d], &buffers).expect("sound");
        null.write(buffers[0], 0, &[input; BYTES as usize]).expect("input");
        null.run(list).expect("runs");
        null.tag(buffers[0], BYTES, BYTES).expect("written")
    };
    assert_eq!(tag(1, 1.0), tag(1, 1.0));
    assert_ne!(tag(1, 1.0), tag(2, 1.0));
    assert_ne!(tag(1, 1.0), tag(1, 2.0));
}
