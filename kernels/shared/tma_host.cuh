// tma.cuh on the host: the same wrappers as declarations, which tests/cuda/emulator implements.
#pragma once

// As tests/cuda/driver makes it.
struct TensorMap {
    unsigned long long words[16];
};
#define TS_MAP(name) const TensorMap name

namespace ts_host {

// Coordinates of a copy in the map's order; the last two are an im2col copy's offsets.
struct Place {
    unsigned rank;
    int at[4];
    bool im2col;
    unsigned dx, dy;
};
void tma_load(const char* name, void* to, const TensorMap& map, Barrier* b, const Place& place, Site where);
void registers_of_a_thread(const char* name, bool give, unsigned registers, Site where);

}  // namespace ts_host

// Makes a barrier whose phases end with so many arrivals; makes all barriers that this thread made known to copies.
void mbarrier_init(Barrier* b, unsigned arrivals, TS_WHERE);
void mbarrier_init_fence(TS_WHERE);
// One of the arrivals of the phase at hand; the second also expects so many more bytes in it, before it arrives.
void mbarrier_arrive(Barrier* b, TS_WHERE);
void mbarrier_arrive_expect(Barrier* b, unsigned bytes, TS_WHERE);
// Holds until the phase of this parity, 0 or 1, has ended.
void mbarrier_wait(Barrier* b, unsigned parity, TS_WHERE);

// Begins to copy the map's box at these coordinates of its array, in elements, to shared memory at `to`, a multiple of 1024
// bytes from its start; the bytes count for the phase of `b` that is at hand. Fastest coordinate first; those past the sides give zeros.
inline void tma_load_2d(void* to, const TensorMap& map, Barrier* b, unsigned x, unsigned y, TS_WHERE) {
    ts_host::tma_load("tma_load_2d", to, map, b, {2, {int(x), int(y), 0, 0}, false, 0, 0}, where);
}
inline void tma_load_3d(void* to, const TensorMap& map, Barrier* b, unsigned x, unsigned y, unsigned z, TS_WHERE) {
    ts_host::tma_load("tma_load_3d", to, map, b, {3, {int(x), int(y), int(z), 0}, false, 0, 0}, where);
}
// The same of a convolution's pixels, of a map that says how many: 64 channels from `c` on of the pixel at (w, h, n), and of
// those after it in the map's bounding box, row by row and item by item, each moved by (dx, dy).
inline void tma_load_im2col(void* to, const TensorMap& map, Barrier* b, unsigned c, int w, int h, unsigned n, unsigned dx,
                            unsigned dy, TS_WHERE) {
    ts_host::tma_load("tma_load_im2col", to, map, b, {4, {int(c), w, h, int(n)}, true, dx, dy}, where);
}

// The registers of each thread of the warpgroup from here on, a multiple of 8 from 24 to 256: fewer than it had, whose rest others
// may take; or more, which holds until others have given them.
template <unsigned registers> inline void registers_give(TS_WHERE) {
    static_assert(registers % 8 == 0 && registers >= 24 && registers <= 256, "what setmaxnreg takes");
    ts_host::registers_of_a_thread("registers_give", true, registers, where);
}
template <unsigned registers> inline void registers_take(TS_WHERE) {
    static_assert(registers % 8 == 0 && registers >= 24 && registers <= 256, "what setmaxnreg takes");
    ts_host::registers_of_a_thread("registers_take", false, registers, where);
}
