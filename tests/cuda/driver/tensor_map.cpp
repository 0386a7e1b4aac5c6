// Maps for the tensor memory accelerator, with the rules that the driver API's reference names for what is used here: f16 and bf16,
// the swizzle of 128 bytes, zeros outside.
#include <cstring>

#include "emulator/tensor_map.hpp"
#include "state.hpp"

using namespace mock;

namespace {

constexpr unsigned f16 = 6, bf16 = 9, no_interleave = 0, swizzle_128 = 3, zeros = 0;

struct Array {
    unsigned type, rank;
    void* address;
    const uint64_t* sides;
    const uint64_t* pitches;
    const unsigned* steps;
    unsigned interleave, swizzle, fill;
};

// What both kinds have; false where the driver would refuse it.
bool describe(void* map, const Array& a, emu::MapWords& m) {
    auto address = reinterpret_cast<uintptr_t>(a.address);
    if (map == nullptr || reinterpret_cast<uintptr_t>(map) % 64 != 0 || capability() < 90) return false;
    if ((a.type != f16 && a.type != bf16) || a.interleave != no_interleave || a.swizzle != swizzle_128 || a.fill != zeros) return false;
    if (a.rank < 1 || a.rank > 5 || address % 16 != 0) return false;
    m.address = address;
    m.magic = emu::MapWords::kind;
    m.rank = static_cast<uint16_t>(a.rank);
    for (unsigned i = 0; i < a.rank; i++) {
        if (a.sides[i] == 0 || a.sides[i] > 1ull << 32 || a.steps[i] < 1 || a.steps[i] > 8) return false;
        m.side[i] = static_cast<uint32_t>(a.sides[i]);
        if (i + 1 == a.rank) break;
        if (a.pitches[i] % 16 != 0 || a.pitches[i] >= 1ull << 40 || a.pitches[i] < (i == 0 ? 2 * a.sides[0] : a.pitches[i - 1])) return false;
        m.pitch[i] = a.pitches[i];
    }
    return true;
}

CUresult give(void* map, const emu::MapWords& m) {
    memset(map, 0, 128);
    memcpy(map, &m, sizeof m);
    return CUDA_SUCCESS;
}

}  // namespace

API cuTensorMapEncodeTiled(void* map, unsigned type, unsigned rank, void* address, const uint64_t* sides, const uint64_t* pitches,
                           const unsigned* box, const unsigned* steps, unsigned interleave, unsigned swizzle, unsigned,
                           unsigned fill) {
    return call("cuTensorMapEncodeTiled", Needs::init, [&] {
        emu::MapWords m{};
        if (!describe(map, {type, rank, address, sides, pitches, steps, interleave, swizzle, fill}, m)) return CUDA_ERROR_INVALID_VALUE;
        for (unsigned i = 0; i < rank; i++) {
            // The emulator has boxes of whole rows of the swizzle, and no steps.
            if (box[i] < 1 || box[i] > 256 || steps[i] != 1 || (i == 0 && box[0] != 64)) return CUDA_ERROR_INVALID_VALUE;
            m.box[i] = static_cast<uint16_t>(box[i]);
        }
        return give(map, m);
    });
}

API cuTensorMapEncodeIm2col(void* map, unsigned type, unsigned rank, void* address, const uint64_t* sides, const uint64_t* pitches,
                            const int* lower, const int* upper, unsigned channels, unsigned pixels, const unsigned* steps,
                            unsigned interleave, unsigned swizzle, unsigned, unsigned fill) {
    return call("cuTensorMapEncodeIm2col", Needs::init, [&] {
        emu::MapWords m{};
        if (rank != 4 || channels != 64 || pixels < 1 || pixels > 1024) return CUDA_ERROR_INVALID_VALUE;
        if (!describe(map, {type, rank, address, sides, pitches, steps, interleave, swizzle, fill}, m)) return CUDA_ERROR_INVALID_VALUE;
        m.im2col = true;
        m.box[0] = static_cast<uint16_t>(channels);
        m.box[1] = static_cast<uint16_t>(pixels);
        for (unsigned i = 0; i < 2; i++) {
            bool inside = lower[i] >= -128 && lower[i] <= 127 && upper[i] >= -128 && upper[i] <= 127;
            if (!inside || static_cast<long long>(sides[1 + i]) - 1 + upper[i] < lower[i]) return CUDA_ERROR_INVALID_VALUE;
            m.lower[i] = static_cast<int8_t>(lower[i]);
            m.upper[i] = static_cast<int8_t>(upper[i]);
            m.step[i] = static_cast<uint8_t>(steps[1 + i]);
        }
        if (steps[0] != 1 || steps[3] != 1) return CUDA_ERROR_INVALID_VALUE;
        return give(map, m);
    });
}
