// a = weight / sqrt(M2 / count + eps), b = bias - mean * a per channel, from a group's merged partials
// Bindings: abi's order.
// Grid: one workgroup of 64 per (item, group), folded into two dimensions.
// Layout: partials [n][blocks][3][pitch_x + pitch_x2]; ab [n][2][pitch_x + pitch_x2] in the sources' channel
//   positions; affine weight then bias in concatenated channel order.
// Numerics: f32; invocation i merges partials i, i + 64, .. in order, then a fixed tree over the 64 (Chan).
// Limits: none.
// Ladder: v1 this; figures in benches/runs.
// Source: Chan, Golub and LeVeque 1983.

#import abi

@group(0) @binding(0) var<storage, read_write> partials: array<f32>;
@group(0) @binding(1) var<storage, read> affine: array<f32>;
@group(0) @binding(2) var<storage, read_write> ab: array<f32>;
@group(0) @binding(3) var<storage, read_write> control: Control;
@group(1) @binding(0) var<uniform> p: NormFinalizeParams;

// (count, mean, M2) of each invocation.
var<workgroup> parts: array<vec3<f32>, 64>;

// The union of two samples.
fn merge(a: vec3<f32>, b: vec3<f32>) -> vec3<f32> {
    let count = a.x + b.x;
    if (b.x == 0.0) {
        return a;
    }
    let share = b.x / count;
    let distance = b.y - a.y;
    return vec3<f32>(count, a.y + distance * share, a.z + b.z + distance * distance * a.x * share);
}

// Position of concatenated channel `c` in a row of the partials.
fn position(c: u32) -> u32 {
    return select(p.pitch_x + c - p.c, c, c < p.c);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let id = wg.y * groups.x + wg.x;
    let group = id % p.groups;
    let item = id / p.groups;
    if (item >= p.n) {
        return;
    }
    let total = p.pitch_x + p.pitch_x2;
    let channels = p.c + p.c2;
    let width = channels / p.groups;
    let first = group * width;
    var mine = vec3<f32>(0.0);
    for (var i = lane; i < p.blocks * width; i += 64u) {
        let at = (item * p.blocks + i / width) * 3u * total + position(first + i % width);
        mine = merge(mine, vec3<f32>(partials[at], partials[at + total], partials[at + 2u * total]));
    }
    parts[lane] = mine;
    workgroupBarrier();
    for (var step = 32u; step > 0u; step = step >> 1u) {
        if (lane < step) {
            parts[lane] = merge(parts[lane], parts[lane + step]);
        }
        workgroupBarrier();
    }
    let all = parts[0];
    let variance = select(0.0, all.z / max(all.x, 1.0), all.x > 0.0);
    let scale = 1.0 / sqrt(variance + p.eps);
    let affine_pitch = (channels + 7u) / 8u * 8u;
    for (var i = lane; i < width; i += 64u) {
        let a = affine[first + i] * scale;
        let at = item * 2u * total + position(first + i);
        ab[at] = a;
        ab[at + total] = affine[affine_pitch + first + i] - all.y * a;
    }
    // Pad positions of both sources, by the last group's workgroup.
    if (group + 1u == p.groups) {
        let gap = p.pitch_x - p.c;
        let pads = total - channels;
        for (var i = lane; i < pads; i += 64u) {
            let at = item * 2u * total + select(p.pitch_x + p.c2 + i - gap, p.c + i, i < gap);
            ab[at] = 0.0;
            ab[at + total] = 0.0;
        }
    }
}
