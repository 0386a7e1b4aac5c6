#include "shared/device.cuh"

// Kernels of the self tests that do wrong, each in one way; faults.cpp says what must be reported.

TS_ENTRY(64, no_barrier_before_reading, unsigned* out) {
    TS_SHARED(unsigned, t, 64);
    t[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = t[63 - threadIdx.x];
}

// Every thread has read before anyone overwrites only if there is a second barrier.
TS_ENTRY(64, no_barrier_before_overwriting, unsigned* out) {
    TS_SHARED(unsigned, t, 64);
    t[threadIdx.x] = threadIdx.x;
    sync_block();
    out[threadIdx.x] = t[63 - threadIdx.x];
    t[threadIdx.x] = 0;
}

TS_ENTRY(64, two_write_the_same, unsigned* out) {
    TS_SHARED(unsigned, t, 32);
    t[threadIdx.x % 32] = threadIdx.x;
    sync_block();
    out[threadIdx.x] = t[threadIdx.x % 32];
}

TS_ENTRY(64, warp_barrier_between_warps, unsigned* out) {
    TS_SHARED(unsigned, t, 64);
    t[threadIdx.x] = threadIdx.x;
    sync_warp();
    out[threadIdx.x] = t[63 - threadIdx.x];
}

// As above with nothing unwritten: whichever warp comes first, the other's access is not ordered with it.
TS_ENTRY(64, warp_barrier_after_writing, unsigned* out) {
    TS_SHARED(unsigned, t, 32);
    if (threadIdx.x < 32) t[threadIdx.x] = 0;
    sync_block();
    if (threadIdx.x < 32) t[threadIdx.x] = threadIdx.x;
    sync_warp();
    if (threadIdx.x >= 32) out[threadIdx.x] = t[threadIdx.x - 32];
}

TS_ENTRY(32, no_warp_barrier, unsigned* out) {
    TS_SHARED(unsigned, t, 32);
    t[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = t[threadIdx.x ^ 1];
}

TS_ENTRY(64, barrier_in_a_branch, unsigned* out) {
    if (threadIdx.x < 32) sync_block();
    out[threadIdx.x] = 0;
}

TS_ENTRY(64, two_barriers, unsigned* out) {
    if (threadIdx.x < 32)
        sync_block();
    else
        sync_block();
    out[threadIdx.x] = 0;
}

TS_ENTRY(32, shuffle_in_a_branch, unsigned* out) {
    unsigned v = threadIdx.x;
    if (threadIdx.x < 16) v = shuffle_xor(v, 1u);
    out[threadIdx.x] = v;
}

TS_ENTRY(32, two_collectives, unsigned* out) {
    unsigned v = threadIdx.x;
    if (threadIdx.x < 16)
        v = shuffle_xor(v, 1u);
    else
        v = vote_any(v == 3);
    out[threadIdx.x] = v;
}

TS_ENTRY(32, same_collective_elsewhere, unsigned* out) {
    unsigned v = threadIdx.x;
    if (threadIdx.x < 16)
        v = shuffle_xor(v, 1u);
    else
        v = shuffle_xor(v, 1u);
    out[threadIdx.x] = v;
}

TS_ENTRY(32, matrix_of_copies_in_flight, const uint4* in, uint4* out) {
    TS_SHARED(uint4, t, 32);
    unsigned r[4];
    cp_async16(t + threadIdx.x, in + threadIdx.x, true);
    cp_async_commit();
    ldmatrix_x4(r, t + threadIdx.x);
    cp_async_wait<0>();
    out[threadIdx.x] = make_uint4(r[0], r[1], r[2], r[3]);
}

// Lane 16 names the first row past the array; lanes past 15 name none in the x2 form.
TS_ENTRY(32, matrix_past_the_end, const uint4* in, uint4* out) {
    TS_SHARED(uint4, t, 16);
    unsigned r[4], two[2];
    if (threadIdx.x < 16) t[threadIdx.x] = in[threadIdx.x];
    sync_block();
    ldmatrix_x2(two, t + threadIdx.x);
    ldmatrix_x4(r, t + threadIdx.x);
    out[threadIdx.x] = make_uint4(r[0], r[1], two[0], two[1]);
}

TS_ENTRY(32, matrix_of_global_memory, const uint4* in, uint4* out) {
    unsigned r[4];
    ldmatrix_x4(r, in + threadIdx.x);
    out[threadIdx.x] = make_uint4(r[0], r[1], r[2], r[3]);
}

TS_ENTRY(32, copy_read_before_wait, const uint4* in, uint4* out) {
    TS_SHARED(uint4, t, 32);
    cp_async16(t + threadIdx.x, in + threadIdx.x, true);
    cp_async_commit();
    out[threadIdx.x] = t[threadIdx.x];
    cp_async_wait<0>();
}

TS_ENTRY(32, copy_waited_for_too_few, const uint4* in, uint4* out) {
    TS_SHARED(uint4, t, 64);
    for (unsigned s = 0; s < 2; s++) {
        cp_async16(t + 32 * s + threadIdx.x, in + threadIdx.x, true);
        cp_async_commit();
    }
    cp_async_wait<1>();
    out[threadIdx.x] = load16(t + 32 + threadIdx.x);
    cp_async_wait<0>();
}

TS_ENTRY(32, copy_not_committed, const uint4* in, uint4* out) {
    TS_SHARED(uint4, t, 32);
    cp_async16(t + threadIdx.x, in + threadIdx.x, true);
    cp_async_wait<0>();
    out[threadIdx.x] = load16(t + threadIdx.x);
}

TS_ENTRY(32, copy_without_barrier, const uint4* in, uint4* out) {
    TS_SHARED(uint4, t, 32);
    cp_async16(t + threadIdx.x, in + threadIdx.x, true);
    cp_async_commit();
    cp_async_wait<0>();
    out[threadIdx.x] = t[threadIdx.x ^ 1];
}

TS_ENTRY(32, copy_over_what_is_read, const uint4* in, uint4* out) {
    TS_SHARED(uint4, t, 32);
    t[threadIdx.x] = in[threadIdx.x];
    sync_block();
    out[threadIdx.x] = t[threadIdx.x ^ 1];
    cp_async16(t + threadIdx.x, in + threadIdx.x, true);
    cp_async_commit();
    cp_async_wait<0>();
}

TS_ENTRY(32, copy_left_behind, const uint4* in, uint4* out) {
    TS_SHARED(uint4, t, 32);
    cp_async16(t + threadIdx.x, in + threadIdx.x, true);
    cp_async_commit();
    out[threadIdx.x] = in[threadIdx.x];
}

TS_ENTRY(32, copy_misaligned, const uint4* in, uint4* out) {
    TS_SHARED(unsigned, t, 132);
    cp_async16(t + 4 * threadIdx.x + 1, in + threadIdx.x, true);
    out[threadIdx.x] = in[threadIdx.x];
}

TS_ENTRY(32, reads_past_the_end, const unsigned* in, unsigned* out) { out[threadIdx.x] = in[threadIdx.x + 1]; }

TS_ENTRY(32, writes_before_the_start, unsigned* out) { (out - 1)[threadIdx.x] = 0; }

TS_ENTRY(32, reads_misaligned, const unsigned char* in, unsigned* out) {
    out[threadIdx.x] = *reinterpret_cast<const unsigned*>(in + 2 + 4 * (threadIdx.x % 16));
}

TS_ENTRY(32, loads_misaligned, const unsigned* in, uint4* out) { out[threadIdx.x] = load16(in + 1); }

TS_ENTRY(32, writes_to_null, unsigned* out) { out[threadIdx.x] = 0; }

TS_ENTRY(32, reads_far_away, const unsigned* in, unsigned* out) { out[threadIdx.x] = in[threadIdx.x + (1ull << 60)]; }

TS_ENTRY(32, shared_past_the_end, unsigned* out) {
    TS_SHARED(unsigned, t, 32);
    t[threadIdx.x + 1] = threadIdx.x;
    sync_block();
    out[threadIdx.x] = 0;
}

TS_ENTRY(32, dynamic_past_the_end, unsigned* out) {
    dynamic_shared<unsigned>()[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = 0;
}

TS_ENTRY(32, shared_unwritten, unsigned* out) {
    TS_SHARED(unsigned, t, 32);
    if (threadIdx.x != 7) t[threadIdx.x] = 0;
    out[threadIdx.x] = t[threadIdx.x];
}

TS_ENTRY(32, too_much_shared, unsigned* out) {
    TS_SHARED(unsigned, t, 30000);
    t[threadIdx.x] = 0;
    out[threadIdx.x] = t[threadIdx.x];
}

TS_ENTRY(32, stack_overflow, unsigned* out) {
    volatile unsigned large[100000];
    for (unsigned i = 0; i < 100000; i++) large[i] = i;
    out[threadIdx.x] = large[threadIdx.x];
}

// Right by every rule but one: which block finds the word clear hangs on the order of blocks.
TS_ENTRY(32, depends_on_order, unsigned* word, unsigned* out) {
    if (threadIdx.x == 0) out[blockIdx.x] = atomic_or(word, 1u << blockIdx.x);
}
