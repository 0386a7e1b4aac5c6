// Copies by Hopper's tensor memory accelerator and the barriers in shared memory that tell when they have landed. For
// kernels/*.sm90.cu alone: they are compiled for sm_90a.
//
// A TensorMap describes an array in global memory and the box that one copy takes from it; the host makes it for each launch
// (src/abi/table/tma/mod.rs). Every array here has a half type, every box 128 bytes of its fastest side, swizzled as wgmma.cuh has
// operands: of each 128 bytes, 16-byte chunk c at place c ^ (r % 8), r counting rows of 128 bytes from a multiple of 1024. What
// lies outside the array arrives as zeros and counts as bytes.
//
// Rules, besides wgmma.cuh's:
// - A kernel takes its maps as TS_MAP(name), by value, behind its other parameters.
// - One thread makes the barriers (mbarrier_init) and calls mbarrier_init_fence; they may be used behind the next sync_block.
// - A phase of a barrier ends when as many threads have arrived as it was made for and all bytes expected in it have landed.
//   mbarrier_wait(b, parity) returns when the phase of that parity has ended; phases count from 0, and before the first one ends
//   those of parity 1 count as ended.
// - What was copied may be read by a thread that has waited for the phase its bytes were expected in. It may be overwritten by
//   a copy when its readers (products: behind their wgmma_wait) have arrived at a barrier that the copying thread has waited for.
// - Every copy has landed before its block ends.
// - registers_give and registers_take are called by all four warps of a warpgroup.
#pragma once

// In shared memory, not to be touched but by what follows.
struct alignas(8) Barrier {
    unsigned long long word;
};

#ifdef TESSERA_HOST
#include "tma_host.cuh"
#else
#include "tma_ptx.cuh"
#endif
