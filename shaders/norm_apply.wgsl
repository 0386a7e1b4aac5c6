// y = act(concat(x, x2) * a + b), per item and channel
// Bindings: abi's order.
// Grid: one invocation per 4 channels of a pixel, channels fastest, workgroups of 64 folded into two dimensions.
// Layout: x, x2 NHWC; ab [n][2][pitch_x + pitch_x2] in the sources' positions; y concatenated without inner padding.
// Numerics: f32, one rounding at the store. y may be x's very range: an invocation reads what it writes.
// Limits: none; where x's channels are no multiple of 4 the channels are gathered one by one.
// Ladder: v1 this; figures in benches/runs.
// Source: own.

#import abi
#import load_store
#import act

@group(0) @binding(0) var<storage, read_write> x: array<XElem>;
@group(0) @binding(1) var<storage, read_write> x2: array<XElem>;
@group(0) @binding(2) var<storage, read_write> ab: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<YElem>;
@group(0) @binding(4) var<storage, read_write> control: Control;
@group(1) @binding(0) var<uniform> p: NormApplyParams;

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
    let item = pixel / p.pixels;
    let total4 = (p.pitch_x + p.pitch_x2) / 4u;
    let x4 = p.pitch_x / 4u;
    let x24 = p.pitch_x2 / 4u;
    let c = c4 * 4u;
    let channels = p.c + p.c2;
    let ab_at = item * 2u * total4;
    var v = vec4<f32>(0.0);
    if (p.pitch_x2 == 0u || c + 4u <= p.c) {
        v = load_X(x[pixel * x4 + c4]) * ab[ab_at + c4] + ab[ab_at + total4 + c4];
    } else if (p.c % 4u == 0u) {
        let s4 = c4 - p.c / 4u;
        // Past x2's pitch there are pad channels only.
        if (s4 < x24) {
            v = load_X(x2[pixel * x24 + s4]) * ab[ab_at + x4 + s4] + ab[ab_at + total4 + x4 + s4];
        }
    } else {
#for J in 0..4
        {
            let channel = c + ${J}u;
            if (channel < p.c) {
                let e = load_X(x[pixel * x4 + channel / 4u])[channel % 4u];
                let at = ab_at + channel / 4u;
                v[${J}] = e * ab[at][channel % 4u] + ab[at + total4][channel % 4u];
            } else if (channel < channels) {
                let s = channel - p.c;
                let e = load_X(x2[pixel * x24 + s / 4u])[s % 4u];
                let at = ab_at + x4 + s / 4u;
                v[${J}] = e * ab[at][s % 4u] + ab[at + total4][s % 4u];
            }
        }
#endfor
    }
    v = act4(p.act, v);
    // (a, b) of pad positions may hold anything.
    let position = vec4<u32>(c, c + 1u, c + 2u, c + 3u);
    store_y(pixel * pitch4 + c4, select(vec4<f32>(0.0), v, position < vec4<u32>(channels)));
}
