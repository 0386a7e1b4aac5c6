// y[row] = sin(t f_0) .. sin(t f_(half - 1)), cos(t f_0) ..; f_i = exp(-ln(max_period) i / (half - shift))
// Bindings: abi's order.
// Grid: one invocation per 4 channels of a row, channels fastest, workgroups of 64 folded into two dimensions.
// Layout: t [rows] with pitch 8; y [rows][pitch].
// Numerics: f32. exp, sin and cos are computed here: WGSL grants sin only 2^-11 absolute and only within
//   -pi..pi, and t is near 1000.
// Limits: |t f| below 8192, so that the reduction by pi / 2 stays exact in its first part.
// Ladder: v1 this; the cost is nil.
// Source: Cephes' minimax polynomials for single precision.

#import abi
#import load_store

@group(0) @binding(0) var<storage, read_write> t: array<XElem>;
@group(0) @binding(1) var<storage, read_write> y: array<YElem>;
@group(0) @binding(2) var<storage, read_write> control: Control;
@group(1) @binding(0) var<uniform> p: TimeEmbeddingParams;

// exp of x in -80..0.
fn exp_exact(x: f32) -> f32 {
    let n = round(x * 1.44269504088896341);
    let r = (x - n * 0.693359375) + n * 2.12194440e-4;
    let poly = ((((1.9875691500e-4 * r + 1.3981999507e-3) * r + 8.3334519073e-3) * r + 4.1665795894e-2) * r
        + 1.6666665459e-1) * r + 5.0000001201e-1;
    return ldexp(poly * r * r + r + 1.0, i32(n));
}

// sin(x + quarter * pi / 2) for x >= 0.
fn sin_exact(x: f32, quarter: u32) -> f32 {
    let n = round(x * 0.63661977236758134);
    let r = ((x - n * 1.5703125) - n * 4.837512969970703125e-4) - n * 7.54978995489188216e-8;
    let z = r * r;
    let s = ((-1.9515295891e-4 * z + 8.3321608736e-3) * z - 1.6666654611e-1) * z * r + r;
    let c = ((2.443315711809948e-5 * z - 1.388731625493765e-3) * z + 4.166664568298827e-2) * z * z - 0.5 * z + 1.0;
    let quadrant = (u32(n) + quarter) & 3u;
    let v = select(s, c, (quadrant & 1u) != 0u);
    return select(v, -v, (quadrant & 2u) != 0u);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let pitch4 = p.pitch / 4u;
    let id = (wg.y * groups.x + wg.x) * 64u + lane;
    let row = id / pitch4;
    let c = (id % pitch4) * 4u;
    if (row >= p.rows) {
        return;
    }
    let value = load_X(t[row * 2u]).x;
    let half = p.dim / 2u;
    var v = vec4<f32>(0.0);
    for (var j = 0u; j < 4u; j++) {
        let channel = c + j;
        if (channel < p.dim) {
            let second = channel >= half;
            let i = select(channel, channel - half, second);
            let frequency = exp_exact(-log(p.max_period) * f32(i) / (f32(half) - p.shift));
            let angle = value * frequency;
            let cosine = second != (p.flip != 0u);
            // sin(-a) = -sin(a), cos(-a) = cos(a).
            let e = sin_exact(abs(angle), select(0u, 1u, cosine));
            v[j] = select(e, -e, angle < 0.0 && !cosine);
        }
    }
    store_y(row * pitch4 + c / 4u, v);
}
