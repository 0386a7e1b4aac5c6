// Products of a warpgroup (four warps that follow each other) on Hopper: both operands lie in shared memory and the tensor
// cores read them while the threads go on. For kernels/*.sm90.cu alone: they are compiled for sm_90a.
//
// Rules, besides device.cuh's:
// - What threads write to shared memory, cp_async16 included, the tensor cores see only after fence_async_shared by the writing
//   thread (after its cp_async_wait) and a barrier behind that.
// - wgmma_fence comes before the first product and again after a wait, before the sums are handed to products again.
// - wgmma_hold of the sums, and of a left operand in registers, comes before each wgmma_fence and after each wgmma_wait.
// - Neither sums nor operands may be touched between a product and the wgmma_wait that covers it. All four warps of the group
//   make the same calls. Every product is committed and waited for before the thread ends.
// - Shared memory of operands comes from swizzled_shared<T>() at offsets of multiples of 1024 bytes.
//
// Operands, both swizzled: of each 128 bytes of a row, the 16-byte chunk c of row r lies at place c ^ (r % 8).
//   a: 64 rows, 16 of K; a row is 128 bytes (64 of K), 8 rows follow each other, 8 more `stride` bytes on.
//   b: 16 rows of K by columns; a row is 128 bytes (64 columns), 8 rows of K follow each other, 8 more `stride` bytes on, the next
//      64 columns `leading` bytes on. Or (`nk`) columns by 16 of K, as a has them.
// A descriptor moves on along K by its address: a, and b in `nk`, by 32 bytes for 16 of K, else b by 16 rows.
#pragma once

#ifdef TESSERA_HOST
#include "wgmma_host.cuh"
#else
#include "wgmma_ptx.cuh"
#endif

// Bytes from one group of 8 rows to the next where rows of 128 bytes follow each other.
constexpr unsigned WGMMA_STRIDE = 1024;
