// along one axis y[o] = sum over i < taps of weight[o][i] * x[clamp(first[o] + i)]
// Bindings: abi's order.
// Grid: one invocation per 4 channels of an output pixel, channels fastest, workgroups of 64 folded into two
//   dimensions.
// Layout: NHWC; row o of the table is the first index, then the weights.
// Numerics: f32, taps in order, one rounding at the store.
// Limits: none.
// Ladder: v1 this.
// Source: own.

#import abi
#import load_store

@group(0) @binding(0) var<storage, read_write> x: array<XElem>;
@group(0) @binding(1) var<storage, read_write> table: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<YElem>;
@group(0) @binding(3) var<storage, read_write> control: Control;
@group(1) @binding(0) var<uniform> p: ResampleParams;

// Whole numbers up to here are exact.
const FARTHEST: f32 = 16777216.0;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let along_rows = p.axis == 0u;
    let oh = select(p.h, p.out, along_rows);
    let ow = select(p.out, p.w, along_rows);
    let pitch4 = p.pitch / 4u;
    let id = (wg.y * groups.x + wg.x) * 64u + lane;
    let c4 = id % pitch4;
    let pixel = id / pitch4;
    if (pixel >= p.n * oh * ow) {
        return;
    }
    let column = pixel % ow;
    let row = pixel / ow % oh;
    let item = pixel / (ow * oh);
    let o = select(column, row, along_rows);
    // Where the line of pixels along the axis begins, and how far apart they are.
    let begin = select((item * p.h + row) * p.w, item * p.h * p.w + column, along_rows);
    let step = select(1u, p.w, along_rows);
    let last = i32(select(p.w, p.h, along_rows)) - 1;
    let entry = (select(0u, item, (p.parts & 1u) != 0u) * p.out + o) * p.pitch_table;
    let first = i32(clamp(table[entry], -FARTHEST, FARTHEST));
    var v = vec4<f32>(0.0);
    for (var i = 0u; i < p.taps; i++) {
        let at = u32(clamp(first + i32(i), 0, last));
        v += table[entry + 1u + i] * load_X(x[(begin + at * step) * pitch4 + c4]);
    }
    store_y(pixel * pitch4 + c4, v);
}
