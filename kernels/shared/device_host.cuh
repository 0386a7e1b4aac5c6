// device.cuh on the host: the same wrappers as declarations, which tests/cuda/emulator implements. Comments here say
// what each one does on both sides.
#pragma once

#include <math.h>
#include <string.h>

#include <source_location>
#include <tuple>
#include <type_traits>
#include <utility>

struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) int2 {
    int x, y;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }

template <class T> inline T min(T a, T b) { return b < a ? b : a; }
template <class T> inline T max(T a, T b) { return a < b ? b : a; }

namespace ts_host {

using Site = std::source_location;

struct Dim {
    unsigned x, y, z;
};
// Of the thread that runs now.
extern Dim thread_index, block_index, block_dim, grid_dim;

// Position of one shared array of the running entry; the same for all threads of the block.
struct SharedSite {
    unsigned long long launch = 0;
    void* start = nullptr;
};
void* shared_array(SharedSite& site, unsigned bytes);
void* dynamic_shared_memory();

// One kernel parameter as the driver's parameter list holds it.
struct Parameter {
    unsigned bytes;
    bool pointer;
};

// An entry of a .cu file: its body behind a type-free call with the driver's array of parameter addresses.
struct Entry {
    const char* name;
    unsigned threads;
    void (*body)();
    void (*call)(void (*body)(), void** parameters);
    const Parameter* parameters;
    unsigned parameter_count;
    const Entry* next;
};
void register_entry(Entry& entry);

template <class... P> struct Unpack {
    static inline const Parameter parameters[sizeof...(P) + 1] = {{sizeof(P), std::is_pointer_v<P>}..., {0, false}};
    template <size_t... I> static void run(void (*body)(), void** values, std::index_sequence<I...>) {
        reinterpret_cast<void (*)(P...)>(body)(*static_cast<P*>(values[I])...);
    }
    static void call(void (*body)(), void** values) { run(body, values, std::index_sequence_for<P...>{}); }
};

// Made once per entry before main.
struct Registration {
    Entry entry;
    template <class... P> Registration(const char* name, unsigned threads, void (*body)(P...)) {
        static_assert((std::is_trivially_copyable_v<P> && ...), "parameters are plain bytes");
        entry = {name, threads, reinterpret_cast<void (*)()>(body), &Unpack<P...>::call, Unpack<P...>::parameters,
                 sizeof...(P), nullptr};
        register_entry(entry);
    }
};

void cp_async_wait_group(unsigned pending, Site where);
void load_matrix(unsigned* r, unsigned matrices, bool transposed, const void* row, Site where);
void mma_16x8x16(float* d, const unsigned* a, const unsigned* b, bool bf16, Site where);
void mma_16x8x8_tf32(float* d, const unsigned* a, const unsigned* b, Site where);

}  // namespace ts_host

// A default argument: where the kernel called.
#define TS_WHERE ts_host::Site where = ts_host::Site::current()

#define TS_D inline
#define TS_NAME_TEXT(name) #name
#define TS_ENTRY(threads, name, ...)                                                                   \
    extern "C" void name(__VA_ARGS__);                                                                 \
    static const ts_host::Registration ts_registration_##name(TS_NAME_TEXT(name), (threads), &name); \
    extern "C" void name(__VA_ARGS__)
#define TS_ENTRY_BLOCKS(threads, blocks, name, ...) TS_ENTRY(threads, name, __VA_ARGS__)
#define TS_SHARED(type, name, count)               \
    static ts_host::SharedSite ts_site_##name;     \
    type* const name = static_cast<type*>(ts_host::shared_array(ts_site_##name, sizeof(type) * (count)))

#define threadIdx ts_host::thread_index
#define blockIdx ts_host::block_index
#define blockDim ts_host::block_dim
#define gridDim ts_host::grid_dim

template <class T> inline T* dynamic_shared() { return static_cast<T*>(ts_host::dynamic_shared_memory()); }

// Barrier of the block, of the warp; memory accesses before it are visible after it.
void sync_block(TS_WHERE);
void sync_warp(TS_WHERE);

// The value of lane `lane ^ mask`; of lane `lane + delta`, one's own past the last lane; of lane `source & 31`.
float shuffle_xor(float v, unsigned mask, TS_WHERE);
unsigned shuffle_xor(unsigned v, unsigned mask, TS_WHERE);
float shuffle_down(float v, unsigned delta, TS_WHERE);
unsigned shuffle_down(unsigned v, unsigned delta, TS_WHERE);
float shuffle(float v, unsigned source, TS_WHERE);
unsigned shuffle(unsigned v, unsigned source, TS_WHERE);
// Whether `v` holds in any lane, in all lanes.
bool vote_any(bool v, TS_WHERE);
bool vote_all(bool v, TS_WHERE);

// Sets bits in a word of global or shared memory, adds to it; returns what it held.
unsigned atomic_or(unsigned* word, unsigned bits, TS_WHERE);
unsigned atomic_add(unsigned* word, unsigned v, TS_WHERE);
// What this thread wrote to global memory before is seen by who sees what it writes after.
void fence_device(TS_WHERE);

inline unsigned f32_to_bits(float v) {
    unsigned r;
    memcpy(&r, &v, 4);
    return r;
}
inline float bits_to_f32(unsigned v) {
    float r;
    memcpy(&r, &v, 4);
    return r;
}

// Exact, and rounded to nearest with ties to even; a NaN stays one.
float f16_to_f32(unsigned short v);
unsigned short f32_to_f16(float v);
unsigned short f32_to_bf16(float v);
// To nearest with ties away from zero: an f32 whose last 13 bits are zero.
unsigned f32_to_tf32(float v);
inline unsigned f32x2_to_f16x2(float lo, float hi) {
    return static_cast<unsigned>(f32_to_f16(hi)) << 16 | f32_to_f16(lo);
}
inline unsigned f32x2_to_bf16x2(float lo, float hi) {
    return static_cast<unsigned>(f32_to_bf16(hi)) << 16 | f32_to_bf16(lo);
}

// 2^v and 1/v, approximate on the GPU (relative error up to about 2^-22 and 2^-23); subnormals count as zero.
float exp2_approx(float v);
float rcp_approx(float v);

// 16 bytes from and to a 16-byte aligned address, global or shared; the nc form only of global memory that nothing
// writes during the launch.
uint4 load16(const void* p, TS_WHERE);
void store16(void* p, uint4 v, TS_WHERE);
uint4 load_global_nc16(const void* p, TS_WHERE);
// The same of global memory that other blocks write during the launch.
uint4 load_device16(const void* p, TS_WHERE);

// Starts copying 16 bytes to shared memory, or zeros where not valid (the source is then not read). A commit puts the
// thread's copies since the last one into a group; a wait holds until at most `pending` of its newest groups are
// unfinished. What a copy brings is visible to other threads after a wait and a barrier.
void cp_async16(void* shared_dst, const void* global_src, bool valid, TS_WHERE);
void cp_async_commit(TS_WHERE);
template <int pending> inline void cp_async_wait(TS_WHERE) { ts_host::cp_async_wait_group(pending, where); }

// 8x8 matrices of 16-bit elements from shared memory. Lane 8 i + j names the 16-byte row j of matrix i (x2: lanes 16 and
// up name nothing). Register i of lane t holds row t / 4, columns 2 (t % 4) and the next, of matrix i; transposed it
// holds rows 2 (t % 4) and the next of column t / 4.
inline void ldmatrix_x4(unsigned (&r)[4], const void* row, TS_WHERE) { ts_host::load_matrix(r, 4, false, row, where); }
inline void ldmatrix_x4_trans(unsigned (&r)[4], const void* row, TS_WHERE) { ts_host::load_matrix(r, 4, true, row, where); }
inline void ldmatrix_x2(unsigned (&r)[2], const void* row, TS_WHERE) { ts_host::load_matrix(r, 2, false, row, where); }
inline void ldmatrix_x2_trans(unsigned (&r)[2], const void* row, TS_WHERE) { ts_host::load_matrix(r, 2, true, row, where); }

// d += a b over the warp, a 16x16 by rows, b 16x8 by columns, d 16x8 in f32. With g = lane / 4 and t = lane % 4:
// a[0] row g, columns 2t, 2t+1; a[1] row g+8; a[2] row g, columns 2t+8, 2t+9; a[3] row g+8 of those;
// b[0] rows 2t, 2t+1 of column g; b[1] rows 2t+8, 2t+9; d[0], d[1] row g, columns 2t, 2t+1; d[2], d[3] row g+8.
template <class T> inline void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], TS_WHERE) {
    static_assert(std::is_same_v<T, half_t> || std::is_same_v<T, bf16_t>, "f16 or bf16");
    ts_host::mma_16x8x16(d, a, b, std::is_same_v<T, bf16_t>, where);
}

// The same with a 16x8 and b 8x8 of tf32, an element a register: a[0] row g, column t; a[1] row g+8; a[2] row g, column t+4; a[3]
// row g+8 of that; b[0] row t of column g; b[1] row t+4; d as above. The last 13 bits of an element do not count.
inline void mma_m16n8k8_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], TS_WHERE) {
    ts_host::mma_16x8x8_tf32(d, a, b, where);
}
