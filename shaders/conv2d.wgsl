// y = act(conv(concat(x, x2)) + bias + row_bias[step_row]) + residual
// Bindings: abi's order; weight [tap][pitch_x + pitch_x2][pitch_y], up2x2: [phase][2 x 2][pitch_x][pitch_y].
// Grid: one invocation per PIXELS output pixels x 4 * COLUMNS channels, channel blocks fastest, workgroups of
//   64 folded into two dimensions; TILED: one workgroup of 64 per 64 pixels x 64 channels.
// Layout: NHWC, pitch a multiple of 8, pad channels zero. Pixels of a tile may span rows and items.
// Numerics: f32 accumulation, K in order tap, source, channel, whatever the tile; one rounding at the store.
// Limits: kernel any, stride any, UP2X2 only where the doubled input is not cropped (the table checks).
// Ladder: v1 PIXELS = 1; v2 PIXELS = 8, COLUMNS = 2; figures in benches/runs. TILED is for hardware.
// Source: implicit GEMM with a register tile; the fold of nearest-2x + 3x3 into four 2x2 is graph/layout.rs'.

#import abi
#import load_store
#import act

@group(0) @binding(0) var<storage, read_write> x: array<XElem>;
@group(0) @binding(1) var<storage, read_write> x2: array<XElem>;
@group(0) @binding(2) var<storage, read> weight: array<WElem>;
@group(0) @binding(3) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> row_bias: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> residual: array<YElem>;
@group(0) @binding(6) var<storage, read_write> y: array<YElem>;
@group(0) @binding(7) var<storage, read_write> control: Control;
@group(1) @binding(0) var<uniform> p: Conv2dParams;

// Everything after the sum, for four channels of output pixel `pixel` (counted over all items).
fn finish(pixel: u32, c4: u32, sum: vec4<f32>) {
    var v = sum + bias[c4];
    if ((p.parts & 2u) != 0u) {
        let item = pixel / (p.oh * p.ow);
        v += row_bias[control.items[item].step_row * (p.pitch_row_bias / 4u) + c4];
    }
    v = act4(p.act, v);
    let at = pixel * (p.pitch_y / 4u) + c4;
    if ((p.parts & 4u) != 0u) {
        v += load_Y(residual[at]);
    }
    store_y(at, v);
}

// Where a pixel of the launch lies: item, first input row and column, and the output pixel it makes.
struct Place {
    item: u32,
    row: i32,
    column: i32,
    // Index of the output pixel.
    out: u32,
}

fn place(index: u32) -> Place {
#ifdef UP2X2
    // Index over [item][phase][h][w]; tap (i, j) of phase (a, b) reads (row + i - 1 + a, column + j - 1 + b).
    let column = index % p.w;
    let row = (index / p.w) % p.h;
    let phase = (index / (p.w * p.h)) % 4u;
    let item = index / (p.w * p.h * 4u);
    let a = phase >> 1u;
    let b = phase & 1u;
    let out = (item * p.oh + 2u * row + a) * p.ow + 2u * column + b;
    return Place(item, i32(row + a) - 1, i32(column + b) - 1, out);
#else
    let column = index % p.ow;
    let row = (index / p.ow) % p.oh;
    let item = index / (p.ow * p.oh);
    return Place(item, i32(row * p.stride) - i32(p.pad_top), i32(column * p.stride) - i32(p.pad_left), index);
#endif
}

// Index of the input pixel under a tap, or 0xffffffff where it lies outside.
fn source(at: Place, dy: u32, dx: u32) -> u32 {
    var sy = at.row + i32(dy);
    var sx = at.column + i32(dx);
    var height = p.h;
    var width = p.w;
#ifndef UP2X2
    if (p.upsample != 0u) {
        height = p.oh;
        width = p.ow;
    }
#endif
    let inside = u32(sy) < height && u32(sx) < width;
#ifndef UP2X2
    if (p.upsample != 0u) {
        sy = sy >> 1u;
        sx = sx >> 1u;
    }
#endif
    return select(0xffffffffu, (at.item * p.h + u32(sy)) * p.w + u32(sx), inside);
}

fn taps() -> u32 {
#ifdef UP2X2
    return 4u;
#else
    return p.kernel * p.kernel;
#endif
}

fn side() -> u32 {
#ifdef UP2X2
    return 2u;
#else
    return p.kernel;
#endif
}

// Pixels of the launch, and pixels that share their weights.
fn pixels() -> u32 {
#ifdef UP2X2
    return p.n * 4u * p.h * p.w;
#else
    return p.n * p.oh * p.ow;
#endif
}

#ifdef TILED

#import tile64

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let columns = (p.pitch_y + 63u) / 64u;
    let id = wg.y * groups.x + wg.x;
    let column_block = id % columns;
    let pitch4 = p.pitch_y / 4u;
#ifdef UP2X2
    // A tile stays within one phase of one item: its pixels share the weights.
    let per_phase = (p.h * p.w + 63u) / 64u;
    let tile = id / columns;
    if (tile >= p.n * 4u * per_phase) {
        return;
    }
    let image = tile / per_phase;
    let first = image * p.h * p.w + (tile % per_phase) * 64u;
    let last = (image + 1u) * p.h * p.w;
    let weight_base = (image % 4u) * 4u * p.pitch_x;
#else
    let first = (id / columns) * 64u;
    let last = pixels();
    let weight_base = 0u;
    if (first >= last) {
        return;
    }
#endif
    // Loading: this invocation fetches vector `lane % 4` of K for rows `lane / 4 + 16 i`.
    let part = lane % 4u;
    let a_row = lane / 4u;
    let b_row = lane / 16u;
    let b_column = min(column_block * 16u + lane % 16u, pitch4 - 1u);
#for I in 0..4
    let place${I} = place(min(first + a_row + ${I}u * 16u, last - 1u));
#endfor
    let tx = lane % 8u;
    let ty = lane / 8u;
    var k_base = weight_base;
    for (var tap = 0u; tap < taps(); tap++) {
        let dy = tap / side();
        let dx = tap % side();
#for I in 0..4
        let at${I} = source(place${I}, dy, dx);
#endfor
#for S in x x2
        {
            let source_pitch4 = p.pitch_${S} / 4u;
            for (var k4 = 0u; k4 < source_pitch4; k4 += 4u) {
                let inside = k4 + part < source_pitch4;
                workgroupBarrier();
#for I in 0..4
                {
                    var v = vec4<f32>(0.0);
                    if (inside && at${I} != 0xffffffffu) {
                        v = load_X(${S}[at${I} * source_pitch4 + k4 + part]);
                    }
                    a_tile[(a_row + ${I}u * 16u) * A_PITCH + part] = v;
                }
                {
                    let k = k4 * 4u + b_row + ${I}u * 4u;
                    var v = vec4<f32>(0.0);
                    if (k < p.pitch_${S}) {
                        v = load_W(weight[(k_base + k) * pitch4 + b_column]);
                    }
                    b_tile[(b_row + ${I}u * 4u) * 16u + lane % 16u] = v;
                }
#endfor
                workgroupBarrier();
                multiply_tiles(tx, ty);
            }
            k_base += p.pitch_${S};
        }
#endfor
    }
#for P in 0..8
    {
        let index = first + ty * 8u + ${P}u;
        let c4 = column_block * 16u + tx * 2u;
        // The pitch is a multiple of 8: both vectors are inside, or neither.
        if (index < last && c4 < pitch4) {
            let out = place(index).out;
            finish(out, c4, acc${P}_0);
            finish(out, c4 + 1u, acc${P}_1);
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
    let block = id / blocks;
    let c4 = (id % blocks) * ${COLUMNS}u;
#ifdef UP2X2
    // A tile stays within one phase of one item: its pixels share the weights.
    let per_phase = (p.h * p.w + ${PIXELS}u - 1u) / ${PIXELS}u;
    if (block >= p.n * 4u * per_phase) {
        return;
    }
    let image = block / per_phase;
    let first = image * p.h * p.w + (block % per_phase) * ${PIXELS}u;
    let last = (image + 1u) * p.h * p.w;
    var k_base = (image % 4u) * 4u * p.pitch_x;
#else
    let first = block * ${PIXELS}u;
    let last = pixels();
    if (first >= last) {
        return;
    }
    var k_base = 0u;
#endif
#for P in 0..${PIXELS}
    // Pixels past the end repeat the last one and are not stored.
    let place${P} = place(min(first + ${P}u, last - 1u));
#for C in 0..${COLUMNS}
    var acc${P}_${C} = vec4<f32>(0.0);
#endfor
#endfor
    for (var tap = 0u; tap < taps(); tap++) {
        let dy = tap / side();
        let dx = tap % side();
#for P in 0..${PIXELS}
        let at${P} = source(place${P}, dy, dx);
#endfor
#for S in x x2
        {
            let source_pitch4 = p.pitch_${S} / 4u;
            // Outside the input a tap reads pixel 0 and is then masked: cheaper than a branch.
#for P in 0..${PIXELS}
            let inside${P} = at${P} != 0xffffffffu;
            let base${P} = select(0u, at${P} * source_pitch4, inside${P});
#endfor
            for (var k4 = 0u; k4 < source_pitch4; k4++) {
#for P in 0..${PIXELS}
                let v${P} = select(vec4<f32>(0.0), load_X(${S}[base${P} + k4]), inside${P});
#endfor
                let w_at = (k_base + k4 * 4u) * pitch4 + c4;
#for J in 0..4
                {
#for C in 0..${COLUMNS}
                    let w${C} = load_W(weight[w_at + ${J}u * pitch4 + ${C}u]);
#endfor
#for P in 0..${PIXELS}
#for C in 0..${COLUMNS}
                    acc${P}_${C} += v${P}[${J}] * w${C};
#endfor
#endfor
                }
#endfor
            }
            k_base += p.pitch_${S};
        }
#endfor
    }
#for P in 0..${PIXELS}
    if (first + ${P}u < last) {
#for C in 0..${COLUMNS}
        finish(place${P}.out, c4 + ${C}u, acc${P}_${C});
#endfor
    }
#endfor
}

#endif
