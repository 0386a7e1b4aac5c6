// What the words of a TensorMap are here: the mock's driver writes them, the emulator reads them. A card's are other ones.
#pragma once

#include <cstdint>

namespace emu {

struct MapWords {
    static constexpr uint64_t kind = 0x7465'6e73'0000'0000;  // a driver may be asked to clear bits of the second word

    uint64_t address;
    uint64_t magic;      // `kind` where this is a map
    uint64_t pitch[4];   // bytes from one element to the next of each side but the first
    uint32_t side[5];    // elements, fastest first
    uint16_t box[5];     // elements of one copy; im2col: channels and pixels in its first two
    uint16_t rank;
    bool im2col;
    int8_t lower[2], upper[2];  // im2col: corners of the bounding box across and down, from the first and from the last pixel
    uint8_t step[2];            // im2col: pixels from one place of the bounding box to the next, across and down
};
static_assert(sizeof(MapWords) <= 128, "a map has 128 bytes");

}  // namespace emu
