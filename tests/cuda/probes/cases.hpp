// What goes into each probe, and when what an emulator gives agrees with what a card gave.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace probes {

using Words = std::vector<uint32_t>;

// What a probe of the tensor memory accelerator has a map of: all cases' inputs as an array of f16, pitches in bytes; im2col where
// there are corners.
struct Mapped {
    std::vector<uint64_t> sides, pitches;  // of the last side, as many as there are cases, where it says 0
    std::vector<unsigned> box;             // im2col: channels and places
    int lower = 0, upper = 0;
    unsigned step = 0;                     // im2col: pixels from place to place; 0 for boxes
};

struct Probe {
    const char* name;      // of the entry in probes.*.cu, without "probe_"
    const char* wrappers;  // of kernels/shared that it holds to the card, by spaces
    bool hopper;           // of probes.sm90.cu: for compute capability 9.0 alone
    unsigned threads;      // of its block
    unsigned shared;       // bytes of dynamic shared memory
    unsigned in, out;      // words of one case
    Words (*cases)();
    // Empty, or where two answers to one case differ beyond what is allowed; `in` is that case's input.
    std::string (*difference)(const uint32_t* in, const uint32_t* card, const uint32_t* other, unsigned out);
    const Mapped* map = nullptr;
};

extern const std::vector<Probe> all;

}  // namespace probes
