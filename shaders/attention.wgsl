// y[query][head] = softmax(scale * q k^T [+ rel] [causal]) v, per item and head, online over tiles of 64 keys
// Bindings: abi's order; `scratch` is not used.
// Grid: one workgroup of 64 per 8 queries of one head of one item; REGISTERS: one invocation per 4 queries of
//   one head of one item, query blocks fastest. Folded into two dimensions.
// Layout: tokens x pitch; head h takes channels offset + h * head_dim. Scores of a tile lie in workgroup
//   memory; an invocation owns one key of the tile while scores are made, then a share of (query, 4 channels)
//   of the output, which it keeps in registers. REGISTERS keeps 4 queries and their output, D4 vectors each.
// Numerics: scores, exponentials and sums f32; keys in order, so the result depends on nothing but its operands.
// Limits: head_dim a multiple of 8, at most 512; REGISTERS: exactly 4 * D4, and no `rel` (the table checks).
// Ladder: v1 the cooperative form; v2 REGISTERS, for software rasterisers, whose barriers are emulated; figures in
//   benches/runs.
// Source: online softmax (Milakov and Gimelshein 2018), tiles as in flash attention.

#import abi
#import load_store

@group(0) @binding(0) var<storage, read_write> q: array<XElem>;
@group(0) @binding(1) var<storage, read_write> k: array<XElem>;
@group(0) @binding(2) var<storage, read_write> v: array<XElem>;
@group(0) @binding(3) var<storage, read_write> rel: array<XElem>;
@group(0) @binding(4) var<storage, read_write> y: array<YElem>;
@group(0) @binding(5) var<storage, read_write> scratch: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> control: Control;
@group(1) @binding(0) var<uniform> p: AttentionParams;

// Below every score; a finite number, because infinities may be assumed away.
const LOWEST: f32 = -3.0e38;

#ifdef REGISTERS

// Keys between two rescalings of the output.
const KEYS: u32 = 16u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let blocks = (p.queries + 3u) / 4u;
    let id = (wg.y * groups.x + wg.x) * 64u + lane;
    let first = (id % blocks) * 4u;
    let head = (id / blocks) % p.heads;
    let item = id / (blocks * p.heads);
    if (item >= p.n) {
        return;
    }
    var row = item;
    var end = p.keys;
    if ((p.parts & 2u) != 0u) {
        row = control.items[item].ctx_row;
        let counted = control.items[item].keys;
        end = select(end, min(end, counted), counted != 0u);
    }
    let causal = (p.parts & 1u) != 0u;
    let q4 = p.pitch_q / 4u;
    let k4 = p.pitch_k / 4u;
    let v4 = p.pitch_v / 4u;
    let q_base = (item * p.queries) * q4 + (p.offset_q + head * p.head_dim) / 4u;
    let k_base = (row * p.keys) * k4 + (p.offset_k + head * p.head_dim) / 4u;
    let v_base = (row * p.keys) * v4 + (p.offset_v + head * p.head_dim) / 4u;
#for Q in 0..4
    // Queries past the end repeat the last one and are not stored.
    let q_at${Q} = q_base + min(first + ${Q}u, p.queries - 1u) * q4;
#for D in 0..${D4}
    let q${Q}_${D} = load_X(q[q_at${Q} + ${D}u]) * p.scale;
    var o${Q}_${D} = vec4<f32>(0.0);
#endfor
#endfor
    // One component per query.
    var highest = vec4<f32>(LOWEST);
    var sum = vec4<f32>(0.0);
    var scores: array<vec4<f32>, KEYS>;
    let query = vec4<u32>(first) + vec4<u32>(0u, 1u, 2u, 3u);
    if (causal) {
        end = min(end, first + 4u);
    }
    for (var start = 0u; start < end; start += KEYS) {
        let count = min(KEYS, end - start);
        var now = highest;
        for (var i = 0u; i < count; i++) {
            let at = k_base + (start + i) * k4;
            var s = vec4<f32>(0.0);
#for D in 0..${D4}
            {
                let e = load_X(k[at + ${D}u]);
                s += vec4<f32>(dot(q0_${D}, e), dot(q1_${D}, e), dot(q2_${D}, e), dot(q3_${D}, e));
            }
#endfor
            if (causal) {
                s = select(s, vec4<f32>(LOWEST), vec4<u32>(start + i) > query);
            }
            scores[i] = s;
            now = max(now, s);
        }
        let factor = exp(highest - now);
        highest = now;
        sum = sum * factor;
#for Q in 0..4
#for D in 0..${D4}
        o${Q}_${D} *= factor[${Q}];
#endfor
#endfor
        for (var i = 0u; i < count; i++) {
            let s = scores[i];
            let e = select(exp(s - now), vec4<f32>(0.0), s <= vec4<f32>(LOWEST));
            sum += e;
            let at = v_base + (start + i) * v4;
#for D in 0..${D4}
            {
                let value = load_X(v[at + ${D}u]);
                o0_${D} += e.x * value;
                o1_${D} += e.y * value;
                o2_${D} += e.z * value;
                o3_${D} += e.w * value;
            }
#endfor
        }
    }
    let y_at = (item * p.queries + first) * (p.pitch_y / 4u) + head * ${D4}u;
#for Q in 0..4
    if (first + ${Q}u < p.queries) {
        let scale = 1.0 / sum[${Q}];
#for D in 0..${D4}
        store_y(y_at + ${Q}u * (p.pitch_y / 4u) + ${D}u, o${Q}_${D} * scale);
#endfor
    }
#endfor
}

#else

// What the relative position of a query and a key adds to their score.
fn lift(item: u32, query: u32, head: u32, key: u32) -> f32 {
    let pitch = (2u * (p.rel_h + p.rel_w) - 2u + 7u) / 8u * 8u;
    let row = ((item * p.queries + query) * p.heads + head) * (pitch / 4u);
    let a = query / p.rel_w + p.rel_h - 1u - key / p.rel_w;
    let b = 2u * p.rel_h - 1u + query % p.rel_w + p.rel_w - 1u - key % p.rel_w;
    return load_X(rel[row + a / 4u])[a % 4u] + load_X(rel[row + b / 4u])[b % 4u];
}

const QUERIES: u32 = 8u;
const KEYS: u32 = 64u;
var<workgroup> scores: array<f32, 512>;
var<workgroup> partial: array<f32, 64>;
var<workgroup> rescale: array<f32, 8>;
var<workgroup> total: array<f32, 8>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let blocks = (p.queries + QUERIES - 1u) / QUERIES;
    let id = wg.y * groups.x + wg.x;
    let first = (id % blocks) * QUERIES;
    let head = (id / blocks) % p.heads;
    let item = id / (blocks * p.heads);
    if (item >= p.n) {
        return;
    }
    var row = item;
    // Keys that count; the loop over tiles runs to `end` all the same: barriers are inside, so its bound must be
    // the same for the whole workgroup, which cannot be known of what is read from a buffer.
    var keys = p.keys;
    if ((p.parts & 2u) != 0u) {
        row = control.items[item].ctx_row;
        let counted = control.items[item].keys;
        keys = select(keys, min(keys, counted), counted != 0u);
    }
    let causal = (p.parts & 1u) != 0u;
    let relative = (p.parts & 4u) != 0u;
    let d4 = p.head_dim / 4u;
    let q4 = p.pitch_q / 4u;
    let k4 = p.pitch_k / 4u;
    let v4 = p.pitch_v / 4u;
    let q_base = (item * p.queries) * q4 + (p.offset_q + head * p.head_dim) / 4u;
    let k_base = (row * p.keys) * k4 + (p.offset_k + head * p.head_dim) / 4u;
    let v_base = (row * p.keys) * v4 + (p.offset_v + head * p.head_dim) / 4u;
    // Queries past the end repeat the last one and are not stored.
#for Q in 0..8
    let q_at${Q} = q_base + min(first + ${Q}u, p.queries - 1u) * q4;
#endfor

    // Roles in the softmax: 8 invocations a query, 8 keys each.
    let my_query = lane / 8u;
    let my_keys = lane % 8u * 8u;
    var highest = LOWEST;
    var sum = 0.0;

    // Roles in the output: with few channels several invocations share them and split the queries. A lane
    // has `spans` vectors of channels, 64 apart, for queries `o_first`, `o_first + o_step`, ..
    let split = select(1u, min(8u, 64u / d4), d4 <= 32u);
    let owns = lane < split * d4 || d4 > 64u;
    let o_channel = select(lane % d4, lane, d4 > 32u);
    let o_first = select(lane / d4, 0u, d4 > 32u);
#for Q in 0..8
    var low${Q} = vec4<f32>(0.0);
    var high${Q} = vec4<f32>(0.0);
#endfor

    var end = p.keys;
    if (causal) {
        end = min(end, first + QUERIES);
    }
    for (var start = 0u; start < end; start += KEYS) {
        let key = start + lane;
        {
            let at = k_base + min(key, p.keys - 1u) * k4;
#for Q in 0..8
            var s${Q} = 0.0;
#endfor
            for (var d = 0u; d < d4; d++) {
                let kv = load_X(k[at + d]);
#for Q in 0..8
                s${Q} += dot(load_X(q[q_at${Q} + d]), kv);
#endfor
            }
#for Q in 0..8
            {
                var score = s${Q} * p.scale;
                if (relative) {
                    score += lift(item, min(first + ${Q}u, p.queries - 1u), head, min(key, p.keys - 1u));
                }
                let hidden = key >= keys || (causal && key > first + ${Q}u);
                scores[${Q}u * KEYS + lane] = select(score, LOWEST, hidden);
            }
#endfor
        }
        workgroupBarrier();
        // Highest score of each query so far.
        var top = LOWEST;
        for (var i = 0u; i < 8u; i++) {
            top = max(top, scores[my_query * KEYS + my_keys + i]);
        }
        partial[lane] = top;
        workgroupBarrier();
        var now = highest;
        for (var i = 0u; i < 8u; i++) {
            now = max(now, partial[my_query * 8u + i]);
        }
        let factor = exp(highest - now);
        highest = now;
        // Exponentials in place of the scores, and their sum.
        var share = 0.0;
        for (var i = 0u; i < 8u; i++) {
            let at = my_query * KEYS + my_keys + i;
            let s = scores[at];
            let e = select(exp(s - now), 0.0, s <= LOWEST);
            scores[at] = e;
            share += e;
        }
        workgroupBarrier();
        partial[lane] = share;
        rescale[my_query] = factor;
        workgroupBarrier();
        sum = sum * factor;
        for (var i = 0u; i < 8u; i++) {
            sum += partial[my_query * 8u + i];
        }
        // Output: old values rescaled, plus this tile's.
        if (owns) {
            let count = min(KEYS, end - start);
            let v_at = v_base + start * v4 + o_channel;
#for Q in 0..8
            // With `split` invocations a channel, register Q of the lane holds query o_first + Q * split.
            let query${Q} = o_first + ${Q}u * split;
            let mine${Q} = query${Q} < QUERIES;
            let row${Q} = select(0u, query${Q}, mine${Q}) * KEYS;
            low${Q} *= rescale[select(0u, query${Q}, mine${Q})];
            high${Q} *= rescale[select(0u, query${Q}, mine${Q})];
#endfor
            if (o_channel < d4) {
                for (var i = 0u; i < count; i++) {
                    let value = load_X(v[v_at + i * v4]);
#for Q in 0..8
                    if (${Q}u * split < QUERIES) {
                        low${Q} += scores[row${Q} + i] * value;
                    }
#endfor
                }
            }
            if (o_channel + 64u < d4) {
                for (var i = 0u; i < count; i++) {
                    let value = load_X(v[v_at + 64u + i * v4]);
#for Q in 0..8
                    high${Q} += scores[row${Q} + i] * value;
#endfor
                }
            }
        }
        workgroupBarrier();
    }
    total[my_query] = sum;
    workgroupBarrier();
    let y_at = (item * p.queries + first) * (p.pitch_y / 4u) + head * d4 + o_channel;
    if (owns) {
#for Q in 0..8
        {
            let query = o_first + ${Q}u * split;
            if (query < QUERIES && first + query < p.queries) {
                let at = y_at + query * (p.pitch_y / 4u);
                if (o_channel < d4) {
                    store_y(at, low${Q} / total[query]);
                }
                if (o_channel + 64u < d4) {
                    store_y(at + 64u, high${Q} / total[query]);
                }
            }
        }
#endfor
    }
}

#endif
