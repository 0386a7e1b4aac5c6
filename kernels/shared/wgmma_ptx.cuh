// wgmma.cuh on the GPU: inline PTX for sm_90a, PTX 8.0. Semantics stand with the host's declarations in wgmma_host.cuh and in the
// PTX manual's section on wgmma.
#pragma once

extern __shared__ __align__(1024) unsigned char ts_swizzled_shared[];
template <class T> TS_D T* swizzled_shared() { return reinterpret_cast<T*>(ts_swizzled_shared); }

// PTX: matrix descriptor. Bits 0 to 13 the address, 16 to 29 the leading and 32 to 45 the stride offset, all in units of 16
// bytes; bits 62 and 63 the swizzle, 1 for 128 bytes.
TS_D unsigned long long wgmma_descriptor(const void* at, unsigned leading, unsigned stride) {
    return static_cast<unsigned long long>((shared_address(at) & 0x3ffffu) >> 4) |
           static_cast<unsigned long long>(leading >> 4) << 16 | static_cast<unsigned long long>(stride >> 4) << 32 |
           1ull << 62;
}

// PTX: fence.proxy.async, wgmma.fence, wgmma.commit_group, wgmma.wait_group.
TS_D void fence_async_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
TS_D void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
TS_D void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int pending> TS_D void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}

// No instruction: as far as the compiler knows, registers change here. It does not know that products begun earlier write them until
// a wait, nor that a fence orders them, and would move what comes before or behind past either.
template <unsigned N> TS_D void wgmma_hold(float (&d)[N]) {
#pragma unroll
    for (unsigned i = 0; i < N; i++) asm volatile("" : "+f"(d[i])::"memory");
}
template <unsigned N> TS_D void wgmma_hold(unsigned (&a)[N]) {
#pragma unroll
    for (unsigned i = 0; i < N; i++) asm volatile("" : "+r"(a[i])::"memory");
}

// PTX: wgmma.mma_async, f32 accumulators. The numbers behind the operands: add to d (a predicate), signs of a and b, whether a and
// b are transposed (a in registers never is). b by rows of K, columns contiguous, counts as transposed.
#define TS_WGMMA_SUM4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define TS_WGMMA_SUM16(d, i) \
    TS_WGMMA_SUM4(d, i), TS_WGMMA_SUM4(d, i + 4), TS_WGMMA_SUM4(d, i + 8), TS_WGMMA_SUM4(d, i + 12)
#define TS_WGMMA_D32 \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
#define TS_WGMMA_D64 \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
#define TS_WGMMA(SHAPE, TYPE) "{.reg .pred add; setp.eq.u32 add, 0, 0; wgmma.mma_async.sync.aligned." SHAPE ".f32." TYPE "." TYPE " "

template <class T> TS_D void wgmma_m64n64k16(float (&d)[32], unsigned long long a, unsigned long long b);
template <class T> TS_D void wgmma_m64n128k16(float (&d)[64], unsigned long long a, unsigned long long b);
template <class T> TS_D void wgmma_m64n64k16_nk(float (&d)[32], unsigned long long a, unsigned long long b);
template <class T> TS_D void wgmma_m64n64k16_rs(float (&d)[32], const unsigned (&a)[4], unsigned long long b);

#define TS_WGMMA_OF(T, TYPE) \
    template <> TS_D void wgmma_m64n64k16<T>(float (&d)[32], unsigned long long a, unsigned long long b) { \
        asm volatile(TS_WGMMA("m64n64k16", TYPE) TS_WGMMA_D32 "%32, %33, add, 1, 1, 0, 1;}" \
                     : TS_WGMMA_SUM16(d, 0), TS_WGMMA_SUM16(d, 16) \
                     : "l"(a), "l"(b)); \
    } \
    template <> TS_D void wgmma_m64n128k16<T>(float (&d)[64], unsigned long long a, unsigned long long b) { \
        asm volatile(TS_WGMMA("m64n128k16", TYPE) TS_WGMMA_D64 "%64, %65, add, 1, 1, 0, 1;}" \
                     : TS_WGMMA_SUM16(d, 0), TS_WGMMA_SUM16(d, 16), TS_WGMMA_SUM16(d, 32), TS_WGMMA_SUM16(d, 48) \
                     : "l"(a), "l"(b)); \
    } \
    template <> TS_D void wgmma_m64n64k16_nk<T>(float (&d)[32], unsigned long long a, unsigned long long b) { \
        asm volatile(TS_WGMMA("m64n64k16", TYPE) TS_WGMMA_D32 "%32, %33, add, 1, 1, 0, 0;}" \
                     : TS_WGMMA_SUM16(d, 0), TS_WGMMA_SUM16(d, 16) \
                     : "l"(a), "l"(b)); \
    } \
    template <> TS_D void wgmma_m64n64k16_rs<T>(float (&d)[32], const unsigned (&a)[4], unsigned long long b) { \
        asm volatile(TS_WGMMA("m64n64k16", TYPE) TS_WGMMA_D32 "{%32, %33, %34, %35}, %36, add, 1, 1, 1;}" \
                     : TS_WGMMA_SUM16(d, 0), TS_WGMMA_SUM16(d, 16) \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)); \
    }
TS_WGMMA_OF(half_t, "f16")
TS_WGMMA_OF(bf16_t, "bf16")
