// y = act(x W + bias) + residual; GEGLU: y = (x Wv + bv) * gelu(x Wg + bg) + residual
// Bindings: abi's order; weight [k][pitch_y], GEGLU [k][2 * pitch_y], value columns first.
// Grid: one invocation per PIXELS rows x 4 * COLUMNS columns, column blocks fastest, workgroups of 64 folded
//   into two dimensions; TILED: one workgroup of 64 per 64 rows x 64 columns.
// Layout: rows of k channels (a multiple of 8), pad channels zero.
// Numerics: f32 accumulation, K in order, whatever the tile; one rounding at the store.
// Limits: GEGLU is a permutation of its own, without TILED; the table checks.
// Ladder: v1 PIXELS = 1; v2 PIXELS = 8, COLUMNS = 2; figures in benches/runs. TILED is for hardware.
// Source: register-tiled product without workgroup memory, which software rasterisers only emulate.

#import abi
#import load_store
#import act

@group(0) @binding(0) var<storage, read_write> x: array<XElem>;
@group(0) @binding(1) var<storage, read> weight: array<WElem>;
@group(0) @binding(2) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> residual: array<YElem>;
@group(0) @binding(4) var<storage, read_write> y: array<YElem>;
@group(0) @binding(5) var<storage, read_write> control: Control;
@group(1) @binding(0) var<uniform> p: GemmParams;

// Everything after the product, for four columns of one row; `v` has its bias and activation.
fn finish(row: u32, c4: u32, v: vec4<f32>) {
    let at = row * (p.pitch_y / 4u) + c4;
    if ((p.parts & 4u) != 0u) {
        store_y(at, v + load_Y(residual[at]));
    } else {
        store_y(at, v);
    }
}

#ifdef TILED

#import tile64

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let columns = (p.pitch_y + 63u) / 64u;
    let id = wg.y * groups.x + wg.x;
    let column_block = id % columns;
    let first = (id / columns) * 64u;
    if (first >= p.m) {
        return;
    }
    let pitch4 = p.pitch_y / 4u;
    let source_pitch4 = p.k / 4u;
    let part = lane % 4u;
    let a_row = lane / 4u;
    let b_row = lane / 16u;
    let b_column = min(column_block * 16u + lane % 16u, pitch4 - 1u);
    let tx = lane % 8u;
    let ty = lane / 8u;
    for (var k4 = 0u; k4 < source_pitch4; k4 += 4u) {
        workgroupBarrier();
#for I in 0..4
        {
            var v = vec4<f32>(0.0);
            if (k4 + part < source_pitch4) {
                let row = min(first + a_row + ${I}u * 16u, p.m - 1u);
                v = load_X(x[row * source_pitch4 + k4 + part]);
            }
            a_tile[(a_row + ${I}u * 16u) * A_PITCH + part] = v;
        }
        {
            let k = k4 * 4u + b_row + ${I}u * 4u;
            var v = vec4<f32>(0.0);
            if (k < p.k) {
                v = load_W(weight[k * pitch4 + b_column]);
            }
            b_tile[(b_row + ${I}u * 4u) * 16u + lane % 16u] = v;
        }
#endfor
        workgroupBarrier();
        multiply_tiles(tx, ty);
    }
#for P in 0..8
    {
        let row = first + ty * 8u + ${P}u;
        let c4 = column_block * 16u + tx * 2u;
        // The pitch is a multiple of 8: both vectors are inside, or neither.
        if (row < p.m && c4 < pitch4) {
            finish(row, c4, act4(p.act, acc${P}_0 + bias[c4]));
            finish(row, c4 + 1u, act4(p.act, acc${P}_1 + bias[c4 + 1u]));
        }
    }
#endfor
}

#else

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let pitch4 = p.pitch_y / 4u;
    let blocks = (pitch4 + ${COLUMNS}u - 1u) / ${COLUMNS}u;
    let id = (wg.y * groups.x + wg.x) * 64u + lane;
    let first = (id / blocks) * ${PIXELS}u;
    let c4 = (id % blocks) * ${COLUMNS}u;
    if (first >= p.m) {
        return;
    }
    let source_pitch4 = p.k / 4u;
#ifdef GEGLU
    let w_pitch4 = 2u * pitch4;
#else
    let w_pitch4 = pitch4;
#endif
#for P in 0..${PIXELS}
    let base${P} = min(first + ${P}u, p.m - 1u) * source_pitch4;
#for C in 0..${COLUMNS}
    var acc${P}_${C} = vec4<f32>(0.0);
#ifdef GEGLU
    var gate${P}_${C} = vec4<f32>(0.0);
#endif
#endfor
#endfor
    for (var k4 = 0u; k4 < source_pitch4; k4++) {
#for P in 0..${PIXELS}
        let v${P} = load_X(x[base${P} + k4]);
#endfor
        let w_at = k4 * 4u * w_pitch4 + c4;
#for J in 0..4
        {
#for C in 0..${COLUMNS}
            let w${C} = load_W(weight[w_at + ${J}u * w_pitch4 + ${C}u]);
#ifdef GEGLU
            let g${C} = load_W(weight[w_at + ${J}u * w_pitch4 + pitch4 + ${C}u]);
#endif
#endfor
#for P in 0..${PIXELS}
#for C in 0..${COLUMNS}
            acc${P}_${C} += v${P}[${J}] * w${C};
#ifdef GEGLU
            gate${P}_${C} += v${P}[${J}] * g${C};
#endif
#endfor
#endfor
        }
#endfor
    }
#for P in 0..${PIXELS}
    if (first + ${P}u < p.m) {
#for C in 0..${COLUMNS}
        {
            let c = c4 + ${C}u;
#ifdef GEGLU
            finish(first + ${P}u, c, (acc${P}_${C} + bias[c]) * gelu4(gate${P}_${C} + bias[pitch4 + c]));
#else
            finish(first + ${P}u, c, act4(p.act, acc${P}_${C} + bias[c]));
#endif
        }
#endfor
    }
#endfor
}

#endif
