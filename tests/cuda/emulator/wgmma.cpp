// Products of a warpgroup. One is only noted when it is issued, its sums filled with NaN, and carried out when its warp waits for
// its group, the latest moment the manual allows: sums that are touched too early, and operands that are overwritten too early, so
// show in the values. Each warp carries out its own 16 rows; that the four of a group issue the same is checked.
#include <cstring>

#include "product.hpp"
#include "state.hpp"

namespace emu {

namespace {

// One product of one warp.
struct Product {
    float* d[32];                      // each lane's sums
    std::vector<float> sums[32];       // what they held when it was issued, unless `chained`
    bool chained = false;              // it adds to the sums of one before it that is not carried out yet
    unsigned columns;
    unsigned long long a, b;
    bool bf16;
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
    unsigned columns;
    unsigned long long a, b;
    bool bf16;
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

    // The address of 16 bytes at `offset`: bits 4 to 6 are exchanged by bits 7 to 9.
    unsigned swizzled(unsigned offset) const {
        unsigned at = start + offset;
        return at ^ (at >> 3 & 0x70);
    }
};

// 8 elements of an operand, checked.
void read8(unsigned at, bool bf16, const Site& where, double* to, unsigned step) {
    const unsigned char* p = async_operand(at, where);
    for (unsigned i = 0; i < 8; i++) {
        unsigned short bits;
        memcpy(&bits, p + 2 * i, 2);
        to[i * step] = half_value(bits, bf16);
    }
}

// The operands of a product, of warp `part` of its group: 16 x 16 by rows, 16 x columns by rows of K.
void read_operands(const Product& p, unsigned part, double* a, double* b) {
    Descriptor of_a(p.a, p.where), of_b(p.b, p.where);
    for (unsigned row = 0; row < 16; row++)
        for (unsigned k = 0; k < 16; k += 8) {
            unsigned r = 16 * part + row;
            read8(of_a.swizzled(r / 8 * of_a.stride + r % 8 * 128 + 2 * k), p.bf16, p.where, a + row * 16 + k, 1);
        }
    for (unsigned k = 0; k < 16; k++)
        for (unsigned c = 0; c < p.columns; c += 8)
            read8(of_b.swizzled(c / 64 * of_b.leading + k / 8 * of_b.stride + k % 8 * 128 + 2 * (c % 64)), p.bf16, p.where,
                  b + k * p.columns + c, 1);
}

void issue(void** lanes) {
    Queue& q = mine();
    const Call& first = *static_cast<Call*>(lanes[0]);
    if (!q.fenced) fail(Fault::violation, 0, first.where, "a product without wgmma_fence before it");
    Product p{};
    p.columns = first.columns;
    p.a = first.a;
    p.b = first.b;
    p.bf16 = first.bf16;
    p.where = *first.where;
    for (size_t i = q.carried_out; i < q.issued.size(); i++) p.chained = p.chained || q.issued[i].d[0] == first.d;
    for (unsigned l = 0; l < 32; l++) {
        const Call& c = *static_cast<Call*>(lanes[l]);
        if (c.a != first.a || c.b != first.b)
            fail(Fault::violation, 0, first.where, "the lanes of a warp name different operands");
        p.d[l] = c.d;
        if (!p.chained) {
            p.sums[l].assign(c.d, c.d + p.columns / 2);
            memset(c.d, 0xff, p.columns / 2 * sizeof(float));
        }
    }
    // The warps of a group issue the same, whichever comes first.
    unsigned warp = now.current / 32, leader = warp / 4 * 4;
    for (unsigned w = leader; w < leader + 4 && w < queues.size(); w++) {
        const Queue& other = queues[w];
        if (w != warp && other.issued.size() > q.issued.size() &&
            (other.issued[q.issued.size()].a != p.a || other.issued[q.issued.size()].b != p.b))
            fail(Fault::violation, 0, first.where, "the warps of a warpgroup name different operands");
    }
    // Whether it may read its operands now; their values are taken later.
    std::vector<double> a(256), b(16 * p.columns);
    read_operands(p, warp % 4, a.data(), b.data());
    q.issued.push_back(std::move(p));
}

void carry_out(Queue& q, unsigned part) {
    Product& p = q.issued[q.carried_out++];
    std::vector<double> a(256), b(16 * p.columns);
    read_operands(p, part, a.data(), b.data());
    for (unsigned row = 0; row < 16; row++) {
        std::vector<float*> sums(p.columns);
        for (unsigned c = 0; c < p.columns; c++)
            sums[c] = &p.sums[row % 8 * 4 + c % 8 / 2][c / 8 * 4 + row / 8 * 2 + c % 2];
        add_products(a.data() + row * 16, b.data(), p.columns, sums.data());
    }
    // To the one that goes on with them, or to the lanes.
    for (size_t i = q.carried_out; i < q.issued.size(); i++)
        if (q.issued[i].d[0] == p.d[0]) {
            for (unsigned l = 0; l < 32; l++) q.issued[i].sums[l] = std::move(p.sums[l]);
            q.issued[i].chained = false;
            return;
        }
    for (unsigned l = 0; l < 32; l++) memcpy(p.d[l], p.sums[l].data(), p.columns / 2 * sizeof(float));
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
    q.fenced = false;
}

}  // namespace

void check_no_products_pending() {
    if (block != now.number) return;
    Queue& q = mine();
    if (q.carried_out < q.issued.size())
        fail(Fault::violation, 0, &q.issued[q.carried_out].where, "ends without having waited for its product");
    for (const Queue& other : queues)
        if (&other >= &queues[now.current / 128 * 4] && &other < &queues[now.current / 128 * 4] + 4 &&
            other.issued.size() < q.issued.size() && now.threads[32 * (&other - queues.data())].state == State::done)
            fail(Fault::violation, 0, &q.issued.back().where, "the warps of a warpgroup issue different numbers of products");
}

}  // namespace emu

void wgmma_fence(ts_host::Site where) { emu::warp_collective("wgmma_fence", where, nullptr, emu::fence); }
void wgmma_commit(ts_host::Site where) { emu::warp_collective("wgmma_commit", where, nullptr, emu::commit); }
void fence_async_shared(ts_host::Site) { emu::now.threads[emu::now.current].unfenced = 0; }

namespace ts_host {

void wgmma_wait_group(unsigned pending, Site where) { emu::warp_collective("wgmma_wait", where, &pending, emu::wait); }

void wgmma(float* d, unsigned columns, unsigned long long a, unsigned long long b, bool bf16, Site where) {
    emu::Call c{d, columns, a, b, bf16, &where};
    emu::warp_collective(columns == 64 ? "wgmma_m64n64k16" : "wgmma_m64n128k16", where, &c, emu::issue);
}

}  // namespace ts_host
