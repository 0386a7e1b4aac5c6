#include "shared/device.cuh"
#include "shared/tma.cuh"
#include "shared/wgmma.cuh"

// Kernels of the self tests with copies by the tensor memory accelerator: ones that do right, and one for each mistake.

// Where element i of row `row` of a box stands.
TS_D unsigned place(unsigned row, unsigned i) { return row * 64 + ((i / 8) ^ (row % 8)) * 8 + i % 8; }

// Gives `rows` rows of 64 elements, as a copy brings them, to `to`. LOAD(target, barrier) begins it.
#define COPIED(LOAD) \
    half_t* shared = swizzled_shared<half_t>(); \
    Barrier* barrier = reinterpret_cast<Barrier*>(shared + rows * 64); \
    if (threadIdx.x == 0) { \
        mbarrier_init(barrier, 1); \
        mbarrier_init_fence(); \
    } \
    sync_block(); \
    if (threadIdx.x == 0) { \
        mbarrier_arrive_expect(barrier, rows * 128); \
        LOAD; \
    } \
    mbarrier_wait(barrier, 0); \
    for (unsigned at = threadIdx.x; at < rows * 64; at += 128) to[at] = shared[place(at / 64, at % 64)];

TS_ENTRY(128, copies_of_a_plane, TS_MAP(map), const int x, const int y, const unsigned rows, half_t* to) {
    COPIED(tma_load_2d(shared, map, barrier, unsigned(x), unsigned(y)))
}
TS_ENTRY(128, copies_of_a_block, TS_MAP(map), const int x, const int y, const int z, const unsigned rows, half_t* to) {
    COPIED(tma_load_3d(shared, map, barrier, unsigned(x), unsigned(y), unsigned(z)))
}
TS_ENTRY(128, copies_of_pixels, TS_MAP(map), const unsigned c, const int w, const int h, const unsigned n, const unsigned dx,
         const unsigned dy, const unsigned rows, half_t* to) {
    COPIED(tma_load_im2col(shared, map, barrier, c, w, h, n, dx, dy))
}

// The mistakes: `map` is of 64 by 64 elements, all of which a copy takes; `d` has a place for each thread. Behind 16 KiB lie
// two barriers, of one and of four arrivals.
#define WRONG(NAME, ...) \
    TS_ENTRY(128, NAME, TS_MAP(map), float* d) { \
        half_t* shared = swizzled_shared<half_t>(); \
        Barrier* full = reinterpret_cast<Barrier*>(shared + 8192); \
        Barrier* empty = full + 1; \
        float sums[32] = {}; \
        (void)map, (void)empty; \
        if (FIRST) { \
            mbarrier_init(full, 1); \
            mbarrier_init(empty, 4); \
        } \
        __VA_ARGS__ \
        d[threadIdx.x] = sums[5]; \
    }
#define FIRST (threadIdx.x == 0)
#define READY if (FIRST) mbarrier_init_fence(); sync_block();
#define COPY if (FIRST) { mbarrier_arrive_expect(full, 8192); tma_load_2d(shared, map, full, 0, 0); }
#define MULTIPLY wgmma_fence(); \
    wgmma_m64n64k16<half_t>(sums, wgmma_descriptor(shared, 0, WGMMA_STRIDE), wgmma_descriptor(shared, 0, WGMMA_STRIDE)); \
    wgmma_commit();
#define ARRIVE if (lane() == 0) mbarrier_arrive(empty);

// Does right: what is copied is multiplied, and copied anew when all have arrived.
WRONG(copy_after_copy, READY COPY mbarrier_wait(full, 0); MULTIPLY wgmma_wait<0>(); ARRIVE
      if (FIRST) mbarrier_wait(empty, 0); COPY mbarrier_wait(full, 1); MULTIPLY wgmma_wait<0>();)

WRONG(copy_read_before_its_wait, READY COPY sync_block(); sums[5] = to_f32(shared[0]); mbarrier_wait(full, 0);)
WRONG(copy_multiplied_before_its_wait, READY COPY MULTIPLY wgmma_wait<0>(); mbarrier_wait(full, 0);)
WRONG(copy_that_others_waited_for, READY COPY if (FIRST) mbarrier_wait(full, 0);
      if (threadIdx.x == 1) { mbarrier_wait(full, 0); } else if (!FIRST) { sums[5] = to_f32(shared[0]); })
WRONG(copy_for_a_barrier_unknown_to_it, sync_block(); COPY mbarrier_wait(full, 0);)
WRONG(barrier_before_the_block_meets, if (threadIdx.x == 127) mbarrier_arrive(full); sync_block();)
WRONG(copy_over_a_product_that_did_not_arrive, READY COPY mbarrier_wait(full, 0); MULTIPLY wgmma_wait<0>(); COPY
      mbarrier_wait(full, 1);)
WRONG(copy_under_a_product, READY COPY mbarrier_wait(full, 0); MULTIPLY ARRIVE if (FIRST) mbarrier_wait(empty, 0); COPY
      wgmma_wait<0>(); mbarrier_wait(full, 1);)
WRONG(copy_under_a_younger_product, READY COPY mbarrier_wait(full, 0); MULTIPLY MULTIPLY wgmma_wait<1>(); ARRIVE
      if (FIRST) mbarrier_wait(empty, 0); COPY wgmma_wait<0>(); mbarrier_wait(full, 1);)
WRONG(copy_over_what_is_not_fenced, shared[threadIdx.x] = half_t{0}; READY COPY mbarrier_wait(full, 0);)
WRONG(copy_over_a_copy, READY COPY if (FIRST) tma_load_2d(shared, map, empty, 0, 0); mbarrier_wait(full, 0);)
WRONG(copy_of_too_little, READY if (FIRST) { mbarrier_arrive_expect(full, 8192 * 2); tma_load_2d(shared, map, full, 0, 0); }
      mbarrier_wait(full, 0);)
WRONG(arrival_too_many, READY if (FIRST) { mbarrier_arrive_expect(full, 8192); mbarrier_arrive(full); })
WRONG(wait_for_nobody, READY mbarrier_wait(empty, 0);)
WRONG(box_left_behind, READY COPY)
WRONG(copy_to_an_odd_place, READY if (FIRST) { mbarrier_arrive_expect(full, 8192); tma_load_2d(shared + 64, map, full, 0, 0); })
WRONG(copy_past_the_end, READY if (FIRST) { mbarrier_arrive_expect(full, 8192); tma_load_2d(shared + 8192 + 512, map, full, 0, 0); })
WRONG(copy_by_no_map, READY if (FIRST) { const TensorMap none = {}; tma_load_2d(shared, none, full, 0, 0); })
WRONG(copy_by_another_map, READY if (FIRST) tma_load_3d(shared, map, full, 0, 0, 0);)
WRONG(barrier_written_to, READY if (FIRST) full->word = 0;)
WRONG(registers_of_some_warps, READY if (warp() == 0) registers_give<40>();)
WRONG(registers_of_nobody, READY registers_take<256>();)
WRONG(registers_given_that_are_not_there, READY registers_give<40>(); registers_give<64>();)
TS_ENTRY(384, registers_that_others_keep, float* d) {
    if (warp() < 4) {
        registers_give<152>();
    } else {
        registers_take<232>();
    }
    d[threadIdx.x] = 0.0f;
}
