// y[p][c] = clamp(act(alpha a[p][offset + c] + beta b[p][c] + gamma), lo, hi)
// Bindings: abi's order.
// Grid: one invocation per 4 channels of a pixel, channels fastest, workgroups of 64 folded into two dimensions.
// Layout: NHWC; `a` may have more channels than y, from any offset on (a channel slice).
// Numerics: f32, one rounding at the store. y may be a's very range: an invocation reads what it writes.
// Limits: none; an offset that is no multiple of 4 gathers channels one by one.
// Ladder: v1 this; figures in benches/runs.
// Source: own.

#import abi
#import load_store
#import act

@group(0) @binding(0) var<storage, read_write> a: array<XElem>;
@group(0) @binding(1) var<storage, read_write> b: array<XElem>;
@group(0) @binding(2) var<storage, read_write> table: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<YElem>;
@group(0) @binding(4) var<storage, read_write> control: Control;
@group(1) @binding(0) var<uniform> p: PointwiseParams;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let pitch4 = p.pitch_y / 4u;
    let id = (wg.y * groups.x + wg.x) * 64u + lane;
    let c4 = id % pitch4;
    let pixel = id / pitch4;
    if (pixel >= p.n * p.pixels) {
        return;
    }
    var alpha = p.alpha;
    var beta = p.beta;
    if ((p.parts & 2u) != 0u) {
        let item = pixel / p.pixels;
        let row = table[control.items[item].step_row * 2u];
        alpha = row.x;
        beta = row.y;
    }
    let position = vec4<u32>(0u, 1u, 2u, 3u) + vec4<u32>(c4 * 4u);
    let base = pixel * (p.pitch_a / 4u);
    var v = vec4<f32>(0.0);
    if (p.offset % 4u == 0u) {
        // y's pad channels may lie past the end of a's row.
        v = load_X(a[base + min(p.offset / 4u + c4, p.pitch_a / 4u - 1u)]);
    } else {
#for J in 0..4
        {
            let c = min(p.offset + position[${J}], p.pitch_a - 1u);
            v[${J}] = load_X(a[base + c / 4u])[c % 4u];
        }
#endfor
    }
    v = alpha * v + vec4<f32>(p.gamma);
    if ((p.parts & 1u) != 0u) {
        v += beta * load_X(b[pixel * (p.pitch_b / 4u) + c4]);
    }
    v = act4(p.act, v);
    // Comparisons, not min and max: a NaN must stay one.
    v = select(v, vec4<f32>(p.lo), v < vec4<f32>(p.lo));
    v = select(v, vec4<f32>(p.hi), v > vec4<f32>(p.hi));
    store_y(pixel * pitch4 + c4, select(vec4<f32>(0.0), v, position < vec4<u32>(p.c)));
}
