// y = (x - mean) / sqrt(var + eps) * weight + bias over the channels of each row
// Bindings: abi's order.
// Grid: one invocation per row, workgroups of 64; COOPERATIVE: one workgroup of 64 per row. Folded into two
//   dimensions.
// Layout: rows of pitch channels; affine weight then bias, pitch values each.
// Numerics: f32, two passes: mean as a shift plus the mean distance from it, then the mean squared distance.
// Limits: none.
// Ladder: v1 a row an invocation, which software rasterisers prefer to barriers; v2 COOPERATIVE; figures in
//   benches/runs.
// Source: own.

#import abi
#import load_store

@group(0) @binding(0) var<storage, read_write> x: array<XElem>;
@group(0) @binding(1) var<storage, read> affine: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<YElem>;
@group(0) @binding(3) var<storage, read_write> control: Control;
@group(1) @binding(0) var<uniform> p: LayerNormParams;

#ifdef COOPERATIVE
var<workgroup> sums: array<f32, 64>;

// The sum over the workgroup, in a fixed tree; every invocation gets it.
fn sum_all(lane: u32, v: f32) -> f32 {
    workgroupBarrier();
    sums[lane] = v;
    workgroupBarrier();
    for (var step = 32u; step > 0u; step = step >> 1u) {
        if (lane < step) {
            sums[lane] += sums[lane + step];
        }
        workgroupBarrier();
    }
    return sums[0];
}
#endif

// 1 for the channels of vector `c4` that exist, 0 for pad channels.
fn exists(c4: u32) -> vec4<f32> {
    let position = vec4<u32>(0u, 1u, 2u, 3u) + vec4<u32>(c4 * 4u);
    return select(vec4<f32>(0.0), vec4<f32>(1.0), position < vec4<u32>(p.c));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
#ifdef COOPERATIVE
    let row = wg.y * groups.x + wg.x;
    let begin = lane;
    let stride = 64u;
#else
    let row = (wg.y * groups.x + wg.x) * 64u + lane;
    let begin = 0u;
    let stride = 1u;
#endif
    if (row >= p.rows) {
        return;
    }
    let pitch4 = p.pitch / 4u;
    let base = row * pitch4;
    let over = 1.0 / f32(p.c);
    let shift = load_X(x[base]).x;
    var part = vec4<f32>(0.0);
    for (var i = begin; i < pitch4; i += stride) {
        part += (load_X(x[base + i]) - vec4<f32>(shift)) * exists(i);
    }
    var sum = part.x + part.y + part.z + part.w;
#ifdef COOPERATIVE
    sum = sum_all(lane, sum);
#endif
    let mean = shift + sum * over;
    part = vec4<f32>(0.0);
    for (var i = begin; i < pitch4; i += stride) {
        let d = (load_X(x[base + i]) - vec4<f32>(mean)) * exists(i);
        part += d * d;
    }
    sum = part.x + part.y + part.z + part.w;
#ifdef COOPERATIVE
    sum = sum_all(lane, sum);
#endif
    let scale = 1.0 / sqrt(sum * over + p.eps);
    for (var i = begin; i < pitch4; i += stride) {
        let v = (load_X(x[base + i]) - vec4<f32>(mean)) * scale * affine[i] + affine[pitch4 + i];
        store_y(base + i, v * exists(i));
    }
}
