// Products of a warpgroup. One is only noted when it is issued, its sums filled with NaN, and carried out when its warp waits for
// its group, the latest moment the manual allows: sums that are touched too early, and operands that are overwritten too early, so
// show in the values. Each warp carries out its own 16 rows; that the four of a group issue the same is checked.
#include <cstring>

#include "product.hpp"
#include "state.hpp"

#include "shared/wgmma.cuh"

namespace emu {

namespace {

// One product of one warp.
struct Product {
    float* d[32];                      // each lane's sums
    std::vector<float> sums[32];       // what they held when it was issued, unless `chained`
    bool chained = false;              // it adds to the sums of one before it that is not carried out yet
    ts_host::Wgmma what;
    const unsigned* a[32];             // each lane's part of the left operand, where it is not in shared memory
    Site where;
};

// What a warp has issued; groups hold indices into `issued`.
struct Queue {
    std::vector<Product> issued;
    std::vector<size_t> groups;  // end of each committed group
    size_t carried_out = 0, finished_groups = 0;
    bool fenced = false;
};

std::vector<Queue> queues;
unsigned long long block = 0;  // that they belong to

Queue& mine() {
    if (block != now.number) {
        block = now.number;
        queues.assign(now.warps.size(), Queue{});
    }
    return queues[now.current / 32];
}

// What one lane brings to a call.
struct Call {
    float* d;
    const unsigned* a;
    const ts_host::Wgmma* what;
    const Site* where;
};

struct Descriptor {
    unsigned start, leading, stride;

    Descriptor(unsigned long long d, const Site& where)
        : start(static_cast<unsigned>(d & 0x3fff) << 4), leading(static_cast<unsigned>(d >> 16 & 0x3fff) << 4),
          stride(static_cast<unsigned>(d >> 32 & 0x3fff) << 4) {
        if (d >> 62 != 1 || (d >> 49 & 7) != 0)
            fail(Fault::violation, 0, &where, "a descriptor that is not of 128-byte swizzle without an offset: %llx", d);
    }

    // The address of 16 bytes at `offset`.
    unsigned swizzled(unsigned offset) const { return swizzled_place(start + offset); }
};

// 8 elements of an operand, checked.
void read8(unsigned at, const Product& p, double* to, unsigned step) {
    const unsigned char* from = async_operand(at, p.where);
    for (unsigned i = 0; i < 8; i++) {
        unsigned short bits;
        memcpy(&bits, from + 2 * i, 2);
        to[i * step] = half_value(bits, p.what.bf16);
    }
}

// Rows of 128 bytes from `row` on, 8 after another, of which 16 elements count.
void read_rows(const Product& p, const Descriptor& d, unsigned row, unsigned rows, double* to, unsigned pitch, unsigned step) {
    for (unsigned i = 0; i < rows; i++)
        for (unsigned k = 0; k < 16; k += 8) {
            unsigned r = row + i;
            read8(d.swizzled(r / 8 * d.stride + r % 8 * 128 + 2 * k), p, to + i * pitch + k * step, step);
        }
}

// The operands of a product, of warp `part` of its group: 16 x 16 by rows, 16 x columns by rows of K.
void read_operands(const Product& p, unsigned part, double* a, double* b) {
    const unsigned columns = p.what.columns;
    if (p.a[0] == nullptr) {
        read_rows(p, Descriptor(p.what.a, p.where), 16 * part, 16, a, 16, 1);
    } else {
        for (unsigned l = 0; l < 32; l++)
            for (unsigned i = 0; i < 8; i++) {
                unsigned row = l / 4 + i / 2 % 2 * 8, k = l % 4 * 2 + i % 2 + i / 4 * 8;
                a[row * 16 + k] = half_value(static_cast<unsigned short>(p.a[l][i / 2] >> (16 * (i % 2))), p.what.bf16);
            }
    }
    Descriptor of_b(p.what.b, p.where);
    if (p.what.by_columns) return read_rows(p, of_b, 0, columns, b, 1, columns);
    for (unsigned k = 0; k < 16; k++)
        for (unsigned c = 0; c < columns; c += 8)
            read8(of_b.swizzled(c / 64 * of_b.leading + k / 8 * of_b.stride + k % 8 * 128 + 2 * (c % 64)), p,
                  b + k * columns + c, 1);
}

void issue(void** lanes) {
    Queue& q = mine();
    const Call& first = *static_cast<Call*>(lanes[0]);
    if (!q.fenced) fail(Fault::violation, 0, first.where, "a product without wgmma_fence before it");
    Product p{};
    p.what = *first.what;
    p.where = *first.where;
    const unsigned sums = p.what.columns / 2;
    auto differs = [&](const ts_host::Wgmma& w) { return w.a != p.what.a || w.b != p.what.b; };
    for (size_t i = q.carried_out; i < q.issued.size(); i++) p.chained = p.chained || q.issued[i].d[0] == first.d;
    for (unsigned l = 0; l < 32; l++) {
        const Call& c = *static_cast<Call*>(lanes[l]);
        if (differs(*c.what))
            fail(Fault::violation, 0, first.where, "the lanes of a warp name different operands");
        p.d[l] = c.d;
        p.a[l] = c.a;
        if (!p.chained) {
            p.sums[l].assign(c.d, c.d + sums);
            memset(c.d, 0xff, sums * sizeof(float));
        }
    }
    // The warps of a group issue the same, whichever comes first.
    unsigned warp = now.current / 32, leader = warp / 4 * 4;
    for (unsigned w = leader; w < leader + 4 && w < queues.size(); w++) {
        const Queue& other = queues[w];
        if (w != warp && other.issued.size() > q.issued.size() && differs(other.issued[q.issued.size()].what))
            fail(Fault::violation, 0, first.where, "the warps of a warpgroup name different operands");
    }
    // Whether it may read its operands now; their values are taken later.
    std::vector<double> a(256), b(16 * p.what.columns);
    read_operands(p, warp % 4, a.data(), b.data());
    q.issued.push_back(std::move(p));
}

void carry_out(Queue& q, unsigned part) {
    Product& p = q.issued[q.carried_out++];
    std::vector<double> a(256), b(16 * p.what.columns);
    read_operands(p, part, a.data(), b.data());
    for (unsigned row = 0; row < 16; row++) {
        std::vector<float*> sums(p.what.columns);
        for (unsigned c = 0; c < p.what.columns; c++)
            sums[c] = &p.sums[row % 8 * 4 + c % 8 / 2][c / 8 * 4 + row / 8 * 2 + c % 2];
        add_products(a.data() + row * 16, b.data(), 16, p.what.columns, sums.data());
    }
    // To the one that goes on with them, or to the lanes.
    for (size_t i = q.carried_out; i < q.issued.size(); i++)
        if (q.issued[i].d[0] == p.d[0]) {
            for (unsigned l = 0; l < 32; l++) q.issued[i].sums[l] = std::move(p.sums[l]);
            q.issued[i].chained = false;
            return;
        }
    for (unsigned l = 0; l < 32; l++) memcpy(p.d[l], p.sums[l].data(), p.what.columns / 2 * sizeof(float));
}

void fence(void**) { mine().fenced = true; }
void commit(void**) { mine().groups.push_back(mine().issued.size()); }

void wait(void** lanes) {
    Queue& q = mine();
    unsigned pending = *static_cast<unsigned*>(lanes[0]);
    while (q.groups.size() - q.finished_groups > pending) {
        while (q.carried_out < q.groups[q.finished_groups]) carry_out(q, now.current / 32 % 4);
        q.finished_groups++;
    }
    now.warps[now.current / 32].products = ++now.stamp;
    // Those that are under way go on reading.
    for (size_t i = q.carried_out; i < q.issued.size(); i++) {
        std::vector<double> a(256), b(16 * q.issued[i].what.columns);
        read_operands(q.issued[i], now.current / 32 % 4, a.data(), b.data());
    }
    q.fenced = false;
}

}  // namespace

void check_no_products_pending() {
    if (block != now.number) return;
    Queue& q = mine();
    if (q.carried_out < q.issued.size())
        fail(Fault::violation, 0, &q.issued[q.carried_out].where, "ends without having waited for its product");
    unsigned first = now.current / 128 * 4;
    for (unsigned w = first; w < first + 4 && w < queues.size(); w++)
        if (queues[w].issued.size() != q.issued.size() && now.threads[32 * w].state == State::done)
            fail(Fault::violation, 0, nullptr, "the warps of a warpgroup issued different numbers of products");
}

}  // namespace emu

void wgmma_fence(ts_host::Site where) { emu::warp_collective("wgmma_fence", where, nullptr, emu::fence); }
void wgmma_commit(ts_host::Site where) { emu::warp_collective("wgmma_commit", where, nullptr, emu::commit); }
void fence_async_shared(ts_host::Site) { emu::now.threads[emu::now.current].unfenced = 0; }

namespace ts_host {

void wgmma_wait_group(unsigned pending, Site where) { emu::warp_collective("wgmma_wait", where, &pending, emu::wait); }

void wgmma(const char* name, float* d, const unsigned* a, const Wgmma& what, Site where) {
    emu::Call c{d, a, &what, &where};
    emu::warp_collective(name, where, &c, emu::issue);
}

}  // namespace ts_host
