// partials[item][block] = (count, mean, M2) per channel over the block's 256 pixels inside stats_rect
// Bindings: abi's order.
// Grid: one invocation per (item, block, 4 channels), channels fastest, workgroups of 64 folded into two dimensions.
// Layout: x and x2 NHWC; partials [n][blocks][3][pitch_x + pitch_x2], x's channels first.
// Numerics: f32, two passes: mean as a shift plus the mean distance from it, then M2 about that mean, with
//   the second pass' own mean distance taken out, so that nothing cancels.
// Limits: sides at most 65,535, so that rectangles fit u32.
// Ladder: v1 this; figures in benches/runs.
// Source: Chan, Golub and LeVeque 1983 for the partials' form.

#import abi
#import load_store

@group(0) @binding(0) var<storage, read_write> x: array<XElem>;
@group(0) @binding(1) var<storage, read_write> x2: array<XElem>;
@group(0) @binding(2) var<storage, read_write> partials: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> control: Control;
@group(1) @binding(0) var<uniform> p: GroupNormStatsParams;

// First pixel row (or column) at or past `part` / 65536 of `side`.
fn edge(part: i32, side: u32) -> u32 {
    return (u32(part) * side + 65535u) / 65536u;
}

const x_IS_SECOND: u32 = 0u;
const x2_IS_SECOND: u32 = 1u;

// Whether pixel `i` of the item lies in `rect` = (y0, x0, y1, x1).
fn counts(i: u32, rect: vec4<u32>) -> bool {
    let row = i / p.w;
    let column = i % p.w;
    return row >= rect.x && row < rect.z && column >= rect.y && column < rect.w;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let total4 = (p.pitch_x + p.pitch_x2) / 4u;
    let id = (wg.y * groups.x + wg.x) * 64u + lane;
    let c4 = id % total4;
    let block = (id / total4) % p.blocks;
    let item = id / (total4 * p.blocks);
    if (item >= p.n) {
        return;
    }
    let part = control.items[item].stats_rect;
    var rect = vec4<u32>(0u, 0u, p.h, p.w);
    if (part[0] != 0 || part[1] != 0 || part[2] != 0 || part[3] != 0) {
        rect = vec4<u32>(edge(part[0], p.h), edge(part[1], p.w), edge(part[2], p.h), edge(part[3], p.w));
    }
    let begin = block * NORM_BLOCK;
    let end = min(begin + NORM_BLOCK, p.h * p.w);
    let x4 = p.pitch_x / 4u;
    let x24 = p.pitch_x2 / 4u;
    let second = c4 >= x4;
    // The two passes, over whichever source holds these channels.
#for S in x x2
    if (second == (${S}_IS_SECOND != 0u)) {
        let pitch4 = select(x4, x24, second);
        let base = item * p.h * p.w * pitch4 + select(c4, c4 - x4, second);
        let shift = load_X(${S}[base + begin * pitch4]);
        var count = 0.0;
        var sum = vec4<f32>(0.0);
        for (var i = begin; i < end; i++) {
            if (counts(i, rect)) {
                count += 1.0;
                sum += load_X(${S}[base + i * pitch4]) - shift;
            }
        }
        let over = 1.0 / max(count, 1.0);
        let mean = select(vec4<f32>(0.0), shift + sum * over, count > 0.0);
        var distance = vec4<f32>(0.0);
        var m2 = vec4<f32>(0.0);
        for (var i = begin; i < end; i++) {
            if (counts(i, rect)) {
                let d = load_X(${S}[base + i * pitch4]) - mean;
                distance += d;
                m2 += d * d;
            }
        }
        let at = (item * p.blocks + block) * 3u * total4 + c4;
        partials[at] = vec4<f32>(count);
        partials[at + total4] = mean;
        partials[at + 2u * total4] = max(m2 - distance * distance * over, vec4<f32>(0.0));
    }
#endfor
}
