// The device layer of every kernel: whatever is not plain C++ stands here behind one named wrapper, with an
// implementation for the GPU (device_ptx.cuh) and one for the host (device_host.cuh with tests/cuda/emulator),
// so that the same .cu file is a kernel under nvcc and a program that can be checked under g++.
//
// Rules for kernels:
// - The first line is `#include "shared/device.cuh"`. Compile with `-I kernels`; `-DTESSERA_HOST` for the host.
// - An entry is written TS_ENTRY(threads, name, parameters...) { body }, `threads` being its block size, a multiple
//   of 32 and the launch bound. TS_ENTRY_BLOCKS(threads, blocks, name, ...) also asks for `blocks` per processor.
//   The macro makes `extern "C" __global__`, and on the host it registers the entry; nothing else is needed. It may be
//   used inside a macro that instantiates element types, with a pasted name.
// - Parameters are passed by value or are pointers to global memory; no references.
// - Functions on the device are TS_D. Static shared memory is TS_SHARED(type, name, count) inside a function (on the
//   host `name` is a pointer, so no sizeof of it); the dynamic kind is dynamic_shared<T>(), one per entry, 128-byte
//   aligned. No `__shared__`, no raw `__syncthreads`, `__shfl_*`, `atomic*` or `asm` outside this folder.
// - threadIdx.x, blockIdx, blockDim, gridDim are read as in CUDA. Blocks are one-dimensional.
// - Warp collectives (sync_warp, shuffle*, vote*, warp_*, ldmatrix*, mma*) are called by all 32 lanes of the warp at the
//   same place; sync_block by all threads of the block at the same place: a thread that has left counts as missing.
// - Plain loads and stores are fine, in global and in shared memory: the host build instruments each of them. It refuses
//   one outside an allocation, a misaligned one, one of shared memory that nobody wrote in this block, and one that
//   another thread's access isn't ordered with by sync_block (or sync_warp within a warp).
// - The target of cp_async16 may not be touched from its issue until the issuing thread's cp_async_wait has covered it,
//   nor by another thread before the sync_block after that. Every copy is waited for before the thread ends.
// - Functions that the host's C library has too (expf, sqrtf, fminf, fmaf...) are fine. std:: is not.
#pragma once

// Rounding to f16 or bf16 of |v| > 65504 or of a value that is not finite, in the status word; equals STATUS_NARROW.
#define TS_NARROW 1u

// An f16 and a bf16 in memory: bits alone; arithmetic is in f32.
struct half_t {
    unsigned short bits;
};
struct bf16_t {
    unsigned short bits;
};

#ifdef TESSERA_HOST
#include "device_host.cuh"
#else
#include "device_ptx.cuh"
#endif

// Value of a stored element.
template <class T> TS_D float to_f32(T v);
template <> TS_D float to_f32<float>(float v) { return v; }
template <> TS_D float to_f32<half_t>(half_t v) { return f16_to_f32(v.bits); }
template <> TS_D float to_f32<bf16_t>(bf16_t v) { return bits_to_f32(static_cast<unsigned>(v.bits) << 16); }

// Rounded to nearest, ties to even.
template <class T> TS_D T from_f32(float v);
template <> TS_D float from_f32<float>(float v) { return v; }
template <> TS_D half_t from_f32<half_t>(float v) { return half_t{f32_to_f16(v)}; }
template <> TS_D bf16_t from_f32<bf16_t>(float v) { return bf16_t{f32_to_bf16(v)}; }

// False for infinities and NaN, whatever the compiler assumes about them.
TS_D bool isfinite_bits(float v) { return (f32_to_bits(v) & 0x7f800000u) != 0x7f800000u; }

// TS_NARROW where v can't be held by T: f16 alone has too narrow a range.
template <class T> TS_D unsigned narrow_bits(float) { return 0u; }
template <> TS_D unsigned narrow_bits<half_t>(float v) { return fabsf(v) <= 65504.0f ? 0u : TS_NARROW; }

// As from_f32, gathering status bits in `status`, a register to hand to report_status once at the end.
template <class T> TS_D T from_f32(float v, unsigned& status) {
    status |= narrow_bits<T>(v);
    return from_f32<T>(v);
}

// Sets status bits in control word 0; bits of zero cost no memory access.
TS_D void report_status(unsigned* control, unsigned status) {
    if (status != 0u) atomic_or(control, status);
}

// As from_f32, reporting at once to control word 0.
template <class T> TS_D T from_f32(float v, unsigned* control) {
    report_status(control, narrow_bits<T>(v));
    return from_f32<T>(v);
}

// Two elements in a word, the first in the lower half: mma's operands and the order in memory.
template <class T> TS_D unsigned pack2(float lo, float hi);
template <> TS_D unsigned pack2<half_t>(float lo, float hi) { return f32x2_to_f16x2(lo, hi); }
template <> TS_D unsigned pack2<bf16_t>(float lo, float hi) { return f32x2_to_bf16x2(lo, hi); }

// As pack2, gathering status bits.
template <class T> TS_D unsigned pack2(float lo, float hi, unsigned& status) {
    status |= narrow_bits<T>(lo) | narrow_bits<T>(hi);
    return pack2<T>(lo, hi);
}

// The two elements of a word, the lower half first.
template <class T> TS_D float2 unpack2(unsigned word);
template <> TS_D float2 unpack2<half_t>(unsigned word) {
    return make_float2(f16_to_f32(static_cast<unsigned short>(word & 0xffffu)),
                       f16_to_f32(static_cast<unsigned short>(word >> 16)));
}
template <> TS_D float2 unpack2<bf16_t>(unsigned word) {
    return make_float2(bits_to_f32(word << 16), bits_to_f32(word & 0xffff0000u));
}

// Lane within the warp and warp within the block, of one-dimensional blocks.
TS_D unsigned lane() { return threadIdx.x & 31u; }
TS_D unsigned warp() { return threadIdx.x >> 5; }

// Sum and maximum over the warp, the same bits in every lane: the tree is fixed.
TS_D float warp_sum(float v) {
#pragma unroll
    for (unsigned mask = 16; mask != 0; mask >>= 1) v += shuffle_xor(v, mask);
    return v;
}
TS_D float warp_max(float v) {
#pragma unroll
    for (unsigned mask = 16; mask != 0; mask >>= 1) v = fmaxf(v, shuffle_xor(v, mask));
    return v;
}

// erf, accurate to about one unit in the last place.
TS_D float erf_f32(float v) { return erff(v); }

// 1 / (1 + e^-v); the exponent is clamped so that no infinity arises.
TS_D float sigmoid(float v) { return 1.0f / (1.0f + expf(fminf(-v, 87.0f))); }
TS_D float silu(float v) { return v * sigmoid(v); }
TS_D float gelu(float v) { return 0.5f * v * (1.0f + erf_f32(v * 0.70710678118654752f)); }
TS_D float quick_gelu(float v) { return v * sigmoid(1.702f * v); }
TS_D float relu(float v) { return fmaxf(v, 0.0f); }
