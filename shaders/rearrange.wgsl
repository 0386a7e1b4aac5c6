// every y is an x, or zero: depth to space, space to depth, windows and back, a run of pixels, channels as columns
// Bindings: abi's order.
// Grid: one invocation per 4 channels of an output pixel, channels fastest, workgroups of 64 folded into two
//   dimensions.
// Layout: NHWC. Where the channels of a part begin on no multiple of 4 they are gathered one by one.
// Numerics: none; a store may narrow.
// Limits: none.
// Ladder: v1 this.
// Source: own.

#import abi
#import load_store

@group(0) @binding(0) var<storage, read_write> x: array<XElem>;
@group(0) @binding(1) var<storage, read_write> y: array<YElem>;
@group(0) @binding(2) var<storage, read_write> control: Control;
@group(1) @binding(0) var<uniform> p: RearrangeParams;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let pitch4 = p.pitch_y / 4u;
    let id = (wg.y * groups.x + wg.x) * 64u + lane;
    let c4 = id % pitch4;
    let pixel = id / pitch4;
    if (pixel >= p.n * p.oh * p.ow) {
        return;
    }
    let ox = pixel % p.ow;
    let oy = pixel / p.ow % p.oh;
    let item = pixel / (p.ow * p.oh);
    let s = p.size;
    // Row and column of the source pixel, and the first channel of the part; `space_to_depth` has a source for
    // every channel.
    var row = oy;
    var column = ox;
    var part = 0u;
    switch p.kind {
        case MOVE_DEPTH_TO_SPACE: {
            row = oy / s;
            column = ox / s;
            part = (oy % s * s + ox % s) * p.c;
        }
        case MOVE_SPACE_TO_DEPTH: {
            row = oy * s;
            column = ox * s;
        }
        case MOVE_WINDOWS: {
            row = oy / p.across * s + ox / s;
            column = oy % p.across * s + ox % s;
        }
        case MOVE_UNWINDOWS: {
            row = oy / s * p.across + ox / s;
            column = oy % s * s + ox % s;
        }
        case MOVE_PIXELS: {
            let at = s + oy * p.ow + ox;
            row = at / p.w;
            column = at % p.w;
        }
        default: {
            column = ox / s;
            part = ox % s * p.c;
        }
    }
    var v = vec4<f32>(0.0);
    let base = (item * p.h + row) * p.w + column;
    let spread = p.kind == MOVE_SPACE_TO_DEPTH;
    let inside = row < p.h && column < p.w;
    // The first pixel of `pixels` may be 0.
    let side = max(s, 1u);
    let x4 = p.pitch_x / 4u;
    if (inside && part % 4u == 0u && (!spread || p.c_x % 4u == 0u)) {
        let sub = select(0u, c4 * 4u / p.c_x, spread);
        let channel = part + c4 * 4u - sub * p.c_x;
        // y's pads may lie past the end of x's row.
        if (c4 * 4u < p.c) {
            v = load_X(x[(base + sub / side * p.w + sub % side) * x4 + channel / 4u]);
        }
    } else if (inside) {
#for J in 0..4
        {
            let c = min(c4 * 4u + ${J}u, p.c - 1u);
            let sub = select(0u, c / p.c_x, spread);
            let channel = part + c - sub * p.c_x;
            v[${J}] = load_X(x[(base + sub / side * p.w + sub % side) * x4 + channel / 4u])[channel % 4u];
        }
#endfor
    }
    let position = vec4<u32>(0u, 1u, 2u, 3u) + vec4<u32>(c4 * 4u);
    store_y(pixel * pitch4 + c4, select(vec4<f32>(0.0), v, position < vec4<u32>(p.c)));
}
