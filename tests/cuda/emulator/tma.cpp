// Copies of the tensor memory accelerator. One is checked and noted when it is issued, its target filled with NaN, and carried out
// when no thread can go on without it, the latest moment there is; then its bytes land at its barrier. Registers that warpgroups
// give and take are counted here too.
#include <cstring>

#include "state.hpp"
#include "tensor_map.hpp"

#include "shared/tma.cuh"
#include "shared/wgmma.cuh"

namespace emu {

namespace {

struct Transfer {
    MapWords map;
    ts_host::Place place;
    unsigned char* to;  // the block's shared memory
    unsigned offset;    // where in it
    unsigned barrier;
    Site where;
};

std::vector<Transfer> under_way;
std::vector<unsigned> registers;  // by warp, as the last call left them; 0 where there was none

unsigned rows_of(const MapWords& m) {
    if (m.im2col) return m.box[1];
    unsigned rows = 1;
    for (unsigned i = 1; i < m.rank; i++) rows *= m.box[i];
    return rows;
}

// Coordinates of element 0 of row `row`; false where the whole row lies outside.
bool row_start(const Transfer& t, unsigned row, long long (&at)[4]) {
    const MapWords& m = t.map;
    for (unsigned i = 0; i < m.rank; i++) at[i] = t.place.at[i];
    if (m.im2col) {
        // The bounding box's places, row by row and item by item.
        long long across = (static_cast<long long>(m.side[1]) - 1 + m.upper[0] - m.lower[0]) / m.step[0] + 1;
        long long down = (static_cast<long long>(m.side[2]) - 1 + m.upper[1] - m.lower[1]) / m.step[1] + 1;
        long long place = (at[1] - m.lower[0]) / m.step[0] + row;
        long long line = (at[2] - m.lower[1]) / m.step[1] + place / across;
        at[1] = m.lower[0] + place % across * m.step[0] + t.place.dx;
        at[2] = m.lower[1] + line % down * m.step[1] + t.place.dy;
        at[3] += line / down;
    } else {
        for (unsigned i = 1; i < m.rank; i++) {
            at[i] += row % m.box[i];
            row /= m.box[i];
        }
    }
    for (unsigned i = 1; i < m.rank; i++)
        if (at[i] < 0 || at[i] >= m.side[i]) return false;
    return true;
}

// The 8 elements from `chunk` * 8 on of a row that begins at `at`, zeros outside; `check`: whether they may be read, instead.
void chunk_of(const Transfer& t, const long long (&at)[4], unsigned chunk, bool check, unsigned char* to) {
    const MapWords& m = t.map;
    uint64_t line = m.address;
    for (unsigned i = 1; i < m.rank; i++) line += static_cast<uint64_t>(at[i]) * m.pitch[i - 1];
    for (unsigned e = 0; e < 8; e++) {
        long long c = at[0] + chunk * 8 + e;
        if (c < 0 || c >= m.side[0]) continue;
        const void* from = reinterpret_cast<const void*>(line + static_cast<uint64_t>(c) * 2);
        if (check)
            check_global(from, 2, false, true, 0, &t.where);
        else
            memcpy(to + 2 * e, from, 2);
    }
}

void check_place(const char* name, const MapWords& m, const ts_host::Place& place, const Site& where) {
    if (m.magic != MapWords::kind) fail(Fault::violation, 0, &where, "%s by what is not a map", name);
    if (m.rank != place.rank || m.im2col != place.im2col)
        fail(Fault::violation, 0, &where, "%s by a map of %u sides%s", name, m.rank, m.im2col ? " for im2col" : "");
    if (!m.im2col) return;
    for (unsigned i = 0; i < 2; i++) {
        int at = place.at[1 + i], last = static_cast<int>(m.side[1 + i]) - 1 + m.upper[i];
        if (at < m.lower[i] || at > last || (at - m.lower[i]) % m.step[i] != 0)
            fail(Fault::violation, 0, &where, "%s begins at %d, outside its map's bounding box of %d to %d by %u", name, at,
                 m.lower[i], last, m.step[i]);
        if ((i == 0 ? place.dx : place.dy) > 255) fail(Fault::violation, 0, &where, "%s is moved by more than 255", name);
    }
}

void carry_out(const Transfer& t) {
    for (unsigned row = 0; row < rows_of(t.map); row++) {
        long long at[4];
        bool inside = row_start(t, row, at);
        for (unsigned chunk = 0; chunk < 8; chunk++) {
            unsigned char* to = t.to + swizzled_place(t.offset + row * 128 + chunk * 16);
            memset(to, 0, 16);
            if (inside) chunk_of(t, at, chunk, false, to);
        }
    }
    land_cells(t.offset, rows_of(t.map) * 128);
    land(t.barrier, rows_of(t.map) * 128);
}

}  // namespace

void begin_transfers() {
    under_way.clear();
    registers.assign(now.warps.size(), 0);
}

bool carry_out_one() {
    if (under_way.empty()) return false;
    // Copies may land in any order: the oldest first, the youngest first, or one after the other.
    Order order = now.options.order == Order::mixed ? static_cast<Order>(now.number % 3) : now.options.order;
    size_t which = order == Order::forward ? 0 : order == Order::reverse ? under_way.size() - 1 : now.stamp % under_way.size();
    Transfer t = under_way[which];
    under_way.erase(under_way.begin() + static_cast<long>(which));
    carry_out(t);
    return true;
}

std::string left_by_block() {
    if (!under_way.empty()) return "the block ends while a copy to its shared memory is under way";
    unsigned most = 65536 / now.thread_count / 8 * 8, sum = 0, taken = 0;
    for (unsigned w = 0; w < registers.size(); w++) {
        if (registers[w] != registers[w / 4 * 4]) return "the warps of a warpgroup set different numbers of registers";
        sum += registers[w] == 0 ? most : registers[w];
        taken += registers[w] > most;
    }
    if (taken != 0 && sum * 32 > 65536) return "its warpgroups take more registers than others give";
    return {};
}

}  // namespace emu

namespace ts_host {

void tma_load(const char* name, void* to, const TensorMap& map, Barrier* b, const Place& place, Site where) {
    using namespace emu;
    Transfer t{};
    memcpy(&t.map, &map, sizeof t.map);
    check_place(name, t.map, place, where);
    t.place = place;
    t.barrier = barrier_at(b, where);
    t.where = where;
    check_fenced(t.barrier, where);
    t.offset = shared_offset(to, where);
    t.to = static_cast<unsigned char*>(dynamic_shared_memory());
    if (t.offset % 1024 != 0) fail(Fault::alignment, 0, &where, "%s to byte %u of shared memory, no multiple of 1024", name, t.offset);
    for (unsigned row = 0; row < rows_of(t.map); row++) {
        long long at[4];
        if (row_start(t, row, at))
            for (unsigned chunk = 0; chunk < 8; chunk++) chunk_of(t, at, chunk, true, nullptr);
    }
    begin_cells(t.offset, rows_of(t.map) * 128, t.barrier, where);
    under_way.push_back(t);
}

void registers_of_a_thread(const char* name, bool give, unsigned n, Site where) {
    using namespace emu;
    struct Call {
        bool give;
        unsigned n;
    } call{give, n};
    warp_collective(name, where, &call, [](void** lanes) {
        const Call& c = *static_cast<Call*>(lanes[0]);
        unsigned had = registers[now.current / 32] == 0 ? 65536 / now.thread_count / 8 * 8 : registers[now.current / 32];
        if (c.give ? c.n > had : c.n < had)
            fail(Fault::violation, 0, nullptr, "%s %u registers, and had %u", c.give ? "gives all but" : "takes", c.n, had);
        registers[now.current / 32] = c.n;
    });
}

}  // namespace ts_host
