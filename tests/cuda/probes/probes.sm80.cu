#include "shared/device.cuh"

// Probes: each runs one instruction, or a few of a kind, on words it is given and keeps what came out, bit by bit. All have one
// shape, a block for every case, so that one program runs them: `in` and `out` hold the words of case after case. The same file
// is a kernel on a card and, on the host, what the emulator says of it. cases.cpp says what goes in and when two answers agree.

TS_D const unsigned* case_in(const unsigned* in, unsigned words) { return in + blockIdx.x * words; }
TS_D unsigned* case_out(unsigned* out, unsigned words) { return out + blockIdx.x * words; }

// Ten words a lane: fragments of a (4) and b (2), and four accumulators as f32. Out: the accumulators. Of floats, as tf32.
template <class T> TS_D void product(const unsigned* in, unsigned* out) {
    const unsigned* mine = case_in(in, 320) + lane() * 10;
    unsigned a[4], b[2];
    float d[4];
    for (unsigned i = 0; i < 4; i++) a[i] = mine[i];
    for (unsigned i = 0; i < 2; i++) b[i] = mine[4 + i];
    for (unsigned i = 0; i < 4; i++) d[i] = bits_to_f32(mine[6 + i]);
    if constexpr (sizeof(T) == 4) mma_m16n8k8_tf32(d, a, b);
    else mma_m16n8k16<T>(d, a, b);
    for (unsigned i = 0; i < 4; i++) case_out(out, 128)[lane() * 4 + i] = f32_to_bits(d[i]);
}
TS_ENTRY(32, probe_mma_f16, const unsigned* in, unsigned* out) { product<half_t>(in, out); }
TS_ENTRY(32, probe_mma_bf16, const unsigned* in, unsigned* out) { product<bf16_t>(in, out); }
TS_ENTRY(32, probe_mma_tf32, const unsigned* in, unsigned* out) { product<float>(in, out); }

// Thirty-two rows of 16 bytes, then the row that each lane names. Out, by lane: x4, x4 transposed, x2, x2 transposed.
TS_ENTRY(32, probe_ldmatrix, const unsigned* in, unsigned* out) {
    TS_SHARED(uint4, tile, 32);
    const unsigned* mine = case_in(in, 160);
    store16(tile + threadIdx.x, load16(mine + 4 * threadIdx.x));
    sync_block();
    const void* row = tile + mine[128 + threadIdx.x] % 32;
    unsigned four[4], two[2];
    unsigned* to = case_out(out, 384) + threadIdx.x * 12;
    ldmatrix_x4(four, row);
    for (unsigned i = 0; i < 4; i++) to[i] = four[i];
    ldmatrix_x4_trans(four, row);
    for (unsigned i = 0; i < 4; i++) to[4 + i] = four[i];
    ldmatrix_x2(two, row);
    for (unsigned i = 0; i < 2; i++) to[8 + i] = two[i];
    ldmatrix_x2_trans(two, row);
    for (unsigned i = 0; i < 2; i++) to[10 + i] = two[i];
}

// Two groups of a copy of 16 bytes for each lane (256 words), and whether each copy is valid (64 words: 0 gives zeros). Out, by
// lane: its own of the first group while the second may be under way, then its neighbour's of the second.
TS_ENTRY(32, probe_cp_async, const unsigned* in, unsigned* out) {
    TS_SHARED(uint4, stage, 64);
    const unsigned* mine = case_in(in, 320);
    for (unsigned group = 0; group < 2; group++) {
        unsigned at = group * 32 + threadIdx.x;
        bool valid = mine[256 + at] != 0u;
        cp_async16(stage + at, valid ? mine + 4 * at : nullptr, valid);
        cp_async_commit();
    }
    unsigned* to = case_out(out, 256) + threadIdx.x * 8;
    cp_async_wait<1>();
    store16(to, stage[threadIdx.x]);
    cp_async_wait<0>();
    sync_block();
    store16(to + 4, stage[32 + (threadIdx.x ^ 1u)]);
}

// A value and an argument for each lane. Out, by lane: by xor, by distance, by lane; the same as floats.
TS_ENTRY(32, probe_shuffle, const unsigned* in, unsigned* out) {
    unsigned value = case_in(in, 64)[threadIdx.x], argument = case_in(in, 64)[32 + threadIdx.x];
    unsigned* to = case_out(out, 192) + threadIdx.x * 6;
    to[0] = shuffle_xor(value, argument);
    to[1] = shuffle_down(value, argument);
    to[2] = shuffle(value, argument);
    to[3] = f32_to_bits(shuffle_xor(bits_to_f32(value), argument));
    to[4] = f32_to_bits(shuffle_down(bits_to_f32(value), argument));
    to[5] = f32_to_bits(shuffle(bits_to_f32(value), argument));
}

TS_ENTRY(32, probe_vote, const unsigned* in, unsigned* out) {
    bool holds = case_in(in, 32)[threadIdx.x] != 0u;
    case_out(out, 64)[threadIdx.x] = vote_any(holds);
    case_out(out, 64)[32 + threadIdx.x] = vote_all(holds);
}

// Four warps hand values round: through the block by sync_block, then within the warp by sync_warp.
TS_ENTRY(128, probe_barriers, const unsigned* in, unsigned* out) {
    TS_SHARED(unsigned, board, 128);
    unsigned value = case_in(in, 128)[threadIdx.x];
    for (unsigned round = 1; round < 8; round++) {
        board[threadIdx.x] = value;
        sync_block();
        value = value * 5u + board[(threadIdx.x + 37u * round) % 128u];
        sync_block();
    }
    case_out(out, 256)[threadIdx.x] = value;
    for (unsigned round = 1; round < 8; round++) {
        board[threadIdx.x] = value;
        sync_warp();
        value = value * 3u + board[threadIdx.x ^ round];
        sync_warp();
    }
    case_out(out, 256)[128 + threadIdx.x] = value;
}

// Each thread sets its bits in one word; of what it gets back only its own bits are the same in every order, where no other sets
// them. Out: the word, then those bits of each thread.
TS_ENTRY(64, probe_atomic_or, const unsigned* in, unsigned* out) {
    unsigned bits = case_in(in, 64)[threadIdx.x];
    unsigned* to = case_out(out, 65);
    unsigned before = atomic_or(to, bits);
    to[1 + threadIdx.x] = before & bits;
}

// A word is added to twice, and by all lanes; then lanes read what others of their warp wrote, behind a fence. Out: what was read,
// what the two additions found and left, what all lanes summed.
TS_ENTRY(32, probe_atomic_add, const unsigned* in, unsigned* out) {
    unsigned* mine = case_out(out, 36);
    if (lane() == 0) {
        mine[32] = atomic_add(mine + 33, case_in(in, 32)[0]);
        mine[34] = atomic_add(mine + 33, ~0u);
    }
    sync_warp();
    atomic_add(mine + 35, case_in(in, 32)[lane()]);
    store16(mine + lane() / 4 * 4, load16(case_in(in, 32) + lane() / 4 * 4));
    fence_device();
    sync_warp();
    uint4 v = load_device16(mine + (lane() / 4 * 4 + 4) % 32);
    sync_warp();
    mine[lane()] = lane() % 4 == 0 ? v.x : lane() % 4 == 1 ? v.y : lane() % 4 == 2 ? v.z : v.w;
}

TS_ENTRY(32, probe_from_f16, const unsigned* in, unsigned* out) {
    auto v = static_cast<unsigned short>(case_in(in, 32)[threadIdx.x]);
    case_out(out, 32)[threadIdx.x] = f32_to_bits(f16_to_f32(v));
}

TS_ENTRY(32, probe_to_tf32, const unsigned* in, unsigned* out) {
    case_out(out, 32)[threadIdx.x] = f32_to_tf32(bits_to_f32(case_in(in, 32)[threadIdx.x]));
}

// Two floats for each lane. Out, by lane: the first as f16 and as bf16, both as f16x2 and as bf16x2.
TS_ENTRY(32, probe_rounding, const unsigned* in, unsigned* out) {
    float lo = bits_to_f32(case_in(in, 64)[2 * threadIdx.x]), hi = bits_to_f32(case_in(in, 64)[2 * threadIdx.x + 1]);
    unsigned* to = case_out(out, 128) + 4 * threadIdx.x;
    to[0] = f32_to_f16(lo);
    to[1] = f32_to_bf16(lo);
    to[2] = f32x2_to_f16x2(lo, hi);
    to[3] = f32x2_to_bf16x2(lo, hi);
}

TS_ENTRY(32, probe_exp2, const unsigned* in, unsigned* out) {
    case_out(out, 32)[threadIdx.x] = f32_to_bits(exp2_approx(bits_to_f32(case_in(in, 32)[threadIdx.x])));
}
TS_ENTRY(32, probe_rcp, const unsigned* in, unsigned* out) {
    case_out(out, 32)[threadIdx.x] = f32_to_bits(rcp_approx(bits_to_f32(case_in(in, 32)[threadIdx.x])));
}

TS_ENTRY(32, probe_load_nc, const unsigned* in, unsigned* out) {
    store16(case_out(out, 128) + 4 * threadIdx.x, load_global_nc16(case_in(in, 128) + 4 * threadIdx.x));
}
