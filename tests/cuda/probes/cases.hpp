// What goes into each probe, and when what an emulator gives agrees with what a card gave.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace probes {

using Words = std::vector<uint32_t>;

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
};

extern const std::vector<Probe> all;

}  // namespace probes
