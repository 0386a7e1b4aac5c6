// y = act(x * (1 + gamma) + beta), gamma and beta for every value
// Bindings: abi's order.
// Grid: one invocation per 4 channels of a pixel, channels fastest, workgroups of 64 folded into two dimensions.
// Layout: NHWC; gb has gamma in channels 0 .. c, beta in c .. 2 c.
// Numerics: f32, one rounding at the store. y may be x's very range: an invocation reads what it writes.
// Limits: none; where c is no multiple of 4, beta is gathered channel by channel.
// Ladder: v1 this.
// Source: own.

#import abi
#import load_store
#import act

@group(0) @binding(0) var<storage, read_write> x: array<XElem>;
@group(0) @binding(1) var<storage, read_write> gb: array<XElem>;
@group(0) @binding(2) var<storage, read_write> y: array<YElem>;
@group(0) @binding(3) var<storage, read_write> control: Control;
@group(1) @binding(0) var<uniform> p: ModulateParams;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let pitch4 = p.pitch / 4u;
    let id = (wg.y * groups.x + wg.x) * 64u + lane;
    let c4 = id % pitch4;
    let pixel = id / pitch4;
    if (pixel >= p.pixels) {
        return;
    }
    let base = pixel * (p.pitch_gb / 4u);
    let position = vec4<u32>(0u, 1u, 2u, 3u) + vec4<u32>(c4 * 4u);
    // Pads of y may lie past the end of gb's row.
    let most = p.pitch_gb / 4u - 1u;
    let gamma = load_X(gb[base + min(c4, most)]);
    var beta = vec4<f32>(0.0);
    if (p.c % 4u == 0u) {
        beta = load_X(gb[base + min(p.c / 4u + c4, most)]);
    } else {
#for J in 0..4
        {
            let c = min(p.c + position[${J}], p.pitch_gb - 1u);
            beta[${J}] = load_X(gb[base + c / 4u])[c % 4u];
        }
#endfor
    }
    let v = act4(p.act, load_X(x[pixel * pitch4 + c4]) * (vec4<f32>(1.0) + gamma) + beta);
    store_y(pixel * pitch4 + c4, select(vec4<f32>(0.0), v, position < vec4<u32>(p.c)));
}
