// Attention on Hopper's tensor cores for heads of 64 channels, whose operands the tensor memory accelerator brings: 512 threads, of
// which the first warpgroup's first thread copies; the other three keep 64 queries' output each in registers and share keys and
// values, 128 at a time. While one takes exponentials another multiplies.
#pragma once

#include "flash_wgmma.cuh"
#include "tma.cuh"
#include "turn.cuh"

constexpr unsigned FLASH_TMA_THREADS = 512;
// Registers of a thread that copies, and of one that works: 128 and 384 of them share 65536.
constexpr unsigned FLASH_TMA_COPIER_REGISTERS = 24;
constexpr unsigned FLASH_TMA_WORKER_REGISTERS = 160;
constexpr unsigned FLASH_TMA_WORKERS = 12;
constexpr unsigned FLASH_TMA_QUERIES = 192;
constexpr unsigned FLASH_TMA_KEYS = 128;
constexpr unsigned FLASH_TMA_STAGES = 3;
// Elements of 64 queries, and of a stage: keys, then values.
constexpr unsigned FLASH_TMA_Q = 64 * 64;
constexpr unsigned FLASH_TMA_STAGE = 2 * FLASH_TMA_KEYS * 64;
constexpr unsigned FLASH_TMA_STAGED = 16 * HEAD_STAGED_PITCH<64>;
// Queries, stages, each warp's staged output, barriers.
constexpr unsigned FLASH_TMA_OUT = (3 * FLASH_TMA_Q + FLASH_TMA_STAGES * FLASH_TMA_STAGE) * 2;
constexpr unsigned FLASH_TMA_BARRIERS = FLASH_TMA_OUT + FLASH_TMA_WORKERS * FLASH_TMA_STAGED * 4;
constexpr unsigned FLASH_TMA_BYTES = FLASH_TMA_BARRIERS + (1 + 2 * FLASH_TMA_STAGES) * sizeof(Barrier);
static_assert(FLASH_TMA_BYTES <= 178240, "what launch.txt says");

// A working warp's part: its 16 queries against all keys. `queries` are its warpgroup's 64.
template <class X, class Y>
TS_D void work_flash_tma(const AttentionParams& p, const Head<X>& at, const X* queries, const X* stages, Barrier* full,
                         Barrier* empty, float* staged, Y* y, Control* control) {
    // Scores in units of log2, for exp2.
    const float scale = p.scale * 1.44269504088896341f;
    const unsigned row = at.first + (warp() - 4) * 16;
    float out[8][4] = {};
    float highest[2] = {LOWEST_SCORE, LOWEST_SCORE};
    float sum[2] = {};
    Turn<FLASH_TMA_STAGES> turn;
    for (unsigned start = 0; start < at.end; start += FLASH_TMA_KEYS) {
        mbarrier_wait(full + turn.stage, turn.parity);
        const X* const keys = stages + turn.stage * FLASH_TMA_STAGE;
        float scores[16][4] = {};
        float(&score_sums)[2][32] = reinterpret_cast<float(&)[2][32]>(scores);
        wgmma_hold(score_sums[0]);
        wgmma_hold(score_sums[1]);
        wgmma_fence();
#pragma unroll
        for (unsigned step = 0; step < 4; step++) {
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                wgmma_m64n64k16_nk<X>(score_sums[half], wgmma_descriptor(queries + step * 16, 0, WGMMA_STRIDE),
                                      wgmma_descriptor(keys + half * (64 * 64) + step * 16, 0, WGMMA_STRIDE));
            }
        }
        wgmma_commit();
        wgmma_wait<0>();
        wgmma_hold(score_sums[0]);
        wgmma_hold(score_sums[1]);
        soften(scores, out, highest, sum, scale, start + FLASH_TMA_KEYS > at.end, at, row, start);
        add_weighed(out, scores, keys + FLASH_TMA_KEYS * 64);
        if (lane() == 0) {
            mbarrier_arrive(empty + turn.stage);
        }
        turn.next();
    }
    store_head<64>(p, at, row, out, sum, staged, y, control);
}

// A block's 192 queries of one head of one item. Every key counts: no mask, no contexts.
template <class X, class Y>
TS_D void attention_tma_64(const AttentionParams& p, Y* y, Control* control, const TensorMap& q, const TensorMap& k,
                           const TensorMap& v) {
    const Head<X> at(p, nullptr, nullptr, nullptr, control, FLASH_TMA_QUERIES);
    if (at.item >= p.n) {
        return;
    }
    X* const queries = swizzled_shared<X>();
    X* const stages = queries + 3 * FLASH_TMA_Q;
    float* const out = reinterpret_cast<float*>(swizzled_shared<unsigned char>() + FLASH_TMA_OUT);
    Barrier* const ready = reinterpret_cast<Barrier*>(swizzled_shared<unsigned char>() + FLASH_TMA_BARRIERS);
    Barrier* const full = ready + 1;
    Barrier* const empty = full + FLASH_TMA_STAGES;
    if (threadIdx.x == 0) {
        mbarrier_init(ready, 1);
        for (unsigned s = 0; s < FLASH_TMA_STAGES; s++) {
            mbarrier_init(full + s, 1);
            mbarrier_init(empty + s, FLASH_TMA_WORKERS);
        }
        mbarrier_init_fence();
    }
    sync_block();
    if (threadIdx.x < 128) {
        registers_give<FLASH_TMA_COPIER_REGISTERS>();
        if (threadIdx.x == 0) {
            const unsigned channel = at.head * 64;
            mbarrier_arrive_expect(ready, 3 * FLASH_TMA_Q * 2);
            for (unsigned part = 0; part < 3; part++) {
                tma_load_3d(queries + part * FLASH_TMA_Q, q, ready, p.offset_q + channel, at.first + 64 * part, at.item);
            }
            Turn<FLASH_TMA_STAGES> turn;
            for (unsigned start = 0; start < at.end; start += FLASH_TMA_KEYS) {
                mbarrier_wait(empty + turn.stage, turn.parity ^ 1);
                mbarrier_arrive_expect(full + turn.stage, FLASH_TMA_STAGE * 2);
                X* const stage = stages + turn.stage * FLASH_TMA_STAGE;
                tma_load_3d(stage, k, full + turn.stage, p.offset_k + channel, start, at.item);
                tma_load_3d(stage + FLASH_TMA_KEYS * 64, v, full + turn.stage, p.offset_v + channel, start, at.item);
                turn.next();
            }
        }
    } else {
        registers_take<FLASH_TMA_WORKER_REGISTERS>();
        mbarrier_wait(ready, 0);
        const unsigned worker = warp() - 4;
        work_flash_tma(p, at, queries + worker / 4 * FLASH_TMA_Q, stages, full, empty, out + worker * FLASH_TMA_STAGED, y, control);
    }
    clear_past_heads(p, at.item, at.head, at.first, FLASH_TMA_QUERIES, FLASH_TMA_THREADS, y, control);
}
