// device.cuh on the GPU: inline PTX for sm_80, PTX 7.0. Semantics stand with the host's declarations in
// device_host.cuh and in the PTX manual's section named beside each wrapper.
#pragma once

#define TS_D __device__ __forceinline__
#define TS_ENTRY(threads, name, ...) extern "C" __global__ void __launch_bounds__(threads) name(__VA_ARGS__)
#define TS_ENTRY_BLOCKS(threads, blocks, name, ...) \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(__VA_ARGS__)
#define TS_SHARED(type, name, count) __shared__ __align__(16) type name[count]

// Every launch of a kernel that uses dynamic shared memory names its bytes; one array serves all of a module.
extern __shared__ __align__(128) unsigned char ts_dynamic_shared[];
template <class T> TS_D T* dynamic_shared() { return reinterpret_cast<T*>(ts_dynamic_shared); }

TS_D void sync_block() { __syncthreads(); }
TS_D void sync_warp() { __syncwarp(); }

TS_D float shuffle_xor(float v, unsigned mask) { return __shfl_xor_sync(0xffffffffu, v, static_cast<int>(mask)); }
TS_D unsigned shuffle_xor(unsigned v, unsigned mask) { return __shfl_xor_sync(0xffffffffu, v, static_cast<int>(mask)); }
TS_D float shuffle_down(float v, unsigned delta) { return __shfl_down_sync(0xffffffffu, v, delta); }
TS_D unsigned shuffle_down(unsigned v, unsigned delta) { return __shfl_down_sync(0xffffffffu, v, delta); }
TS_D float shuffle(float v, unsigned source) { return __shfl_sync(0xffffffffu, v, static_cast<int>(source)); }
TS_D unsigned shuffle(unsigned v, unsigned source) { return __shfl_sync(0xffffffffu, v, static_cast<int>(source)); }
TS_D bool vote_any(bool v) { return __any_sync(0xffffffffu, v) != 0; }
TS_D bool vote_all(bool v) { return __all_sync(0xffffffffu, v) != 0; }

TS_D unsigned atomic_or(unsigned* word, unsigned bits) { return atomicOr(word, bits); }
TS_D unsigned atomic_add(unsigned* word, unsigned v) { return atomicAdd(word, v); }
TS_D void fence_device() { __threadfence(); }

TS_D unsigned f32_to_bits(float v) { return __float_as_uint(v); }
TS_D float bits_to_f32(unsigned v) { return __uint_as_float(v); }

// PTX: cvt.
TS_D float f16_to_f32(unsigned short v) {
    float r;
    asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(v));
    return r;
}
TS_D unsigned short f32_to_f16(float v) {
    unsigned short r;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(v));
    return r;
}
TS_D unsigned short f32_to_bf16(float v) {
    unsigned short r;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r) : "f"(v));
    return r;
}
// To nearest, ties away from zero: there is no other way to tf32.
TS_D unsigned f32_to_tf32(float v) {
    unsigned r;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(v));
    return r;
}
// The packed forms take the upper half first.
TS_D unsigned f32x2_to_f16x2(float lo, float hi) {
    unsigned r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}
TS_D unsigned f32x2_to_bf16x2(float lo, float hi) {
    unsigned r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}

// PTX: ex2, rcp.
TS_D float exp2_approx(float v) {
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v));
    return r;
}
TS_D float rcp_approx(float v) {
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v));
    return r;
}

TS_D uint4 load16(const void* p) { return *reinterpret_cast<const uint4*>(p); }
TS_D void store16(void* p, uint4 v) { *reinterpret_cast<uint4*>(p) = v; }
// PTX: ld.global.nc. Of memory that nothing writes during the launch.
TS_D uint4 load_global_nc16(const void* p) {
    uint4 v;
    asm("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
        : "l"(__cvta_generic_to_global(p)));
    return v;
}

// PTX: ld.global.cg. Of memory that other blocks write during the launch: not from this processor's own cache.
TS_D uint4 load_device16(const void* p) {
    uint4 v;
    asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(__cvta_generic_to_global(p))
                 : "memory");
    return v;
}

TS_D unsigned shared_address(const void* p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); }

// PTX: cp.async, cp.async.commit_group, cp.async.wait_group.
TS_D void cp_async16(void* shared_dst, const void* global_src, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared_dst)),
                 "l"(__cvta_generic_to_global(global_src)), "r"(valid ? 16 : 0)
                 : "memory");
}
TS_D void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int pending> TS_D void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory"); }

// PTX: ldmatrix.
TS_D void ldmatrix_x4(unsigned (&r)[4], const void* shared_row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(shared_row))
                 : "memory");
}
TS_D void ldmatrix_x4_trans(unsigned (&r)[4], const void* shared_row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(shared_row))
                 : "memory");
}
TS_D void ldmatrix_x2(unsigned (&r)[2], const void* shared_row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(shared_row))
                 : "memory");
}
TS_D void ldmatrix_x2_trans(unsigned (&r)[2], const void* shared_row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(shared_row))
                 : "memory");
}

// PTX: mma.sync.m16n8k16, f32 accumulators. Volatile, so that it stays where the whole warp passes.
template <class T> TS_D void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]);
template <> TS_D void mma_m16n8k16<half_t>(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <> TS_D void mma_m16n8k16<bf16_t>(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// PTX: mma.sync.m16n8k8, tf32, f32 accumulators.
TS_D void mma_m16n8k8_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
