// Runs the probes by the driver that is found: a card's own, or the mock one.
//
//   probes list                    each probe and the wrappers it covers
//   probes record PTX FOLDER       what comes out of each, with what went in, as FOLDER/<probe>.txt
//   probes replay PTX FOLDER       the recorded inputs again: does the same come out?
//
// PTX is the folder with probes.sm80.ptx and probes.sm90.ptx; those of the latter are left out on other cards than Hopper, as is
// said. Ends with 1 when a replay differs, with 2 when it could not run. A record is text: what the card is, then two lines a case.
#include <fstream>
#include <iostream>
#include <sstream>

#include "cases.hpp"
#include "drivertest/api.hpp"

using probes::Probe;
using probes::Words;

namespace {

[[noreturn]] void stop(const std::string& why) {
    std::cerr << "probes: " << why << "\n";
    exit(2);
}

// Calls the driver's function `name`; ends the program where that fails.
template <class... A> void cuda(const char* name, A... arguments) {
    CUresult r = drivertest::api(name, arguments...);
    if (r == CUDA_SUCCESS) return;
    const char* text = "unknown";
    drivertest::api("cuGetErrorString", r, &text);
    stop(std::string(name) + ": error " + std::to_string(static_cast<int>(r)) + ": " + text);
}

std::string file_text(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) stop("cannot read " + path);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
}

// The first device with the probes' modules on it.
struct Card {
    void* modules[2] = {};  // for all cards; for Hopper, or null
    std::string about;

    explicit Card(const std::string& ptx) {
        drivertest::library = dlopen("libcuda.so.1", RTLD_NOW);
        if (drivertest::library == nullptr) stop(std::string("there is no CUDA driver: ") + dlerror());
        cuda("cuInit", 0u);
        int device = 0, driver = 0, major = 0, minor = 0;
        void* context = nullptr;
        char name[256] = {};
        cuda("cuDeviceGet", &device, 0);
        cuda("cuDeviceGetName", &name[0], 256, device);
        cuda("cuDriverGetVersion", &driver);
        cuda("cuDeviceGetAttribute", &major, 75, device);
        cuda("cuDeviceGetAttribute", &minor, 76, device);
        cuda("cuDevicePrimaryCtxRetain", &context, device);
        cuda("cuCtxSetCurrent", context);
        load(ptx + "/probes.sm80.ptx", modules[0]);
        if (major == 9 && minor == 0) load(ptx + "/probes.sm90.ptx", modules[1]);
        about = std::string(name) + ", compute capability " + std::to_string(major) + "." + std::to_string(minor) +
                ", driver of CUDA " + std::to_string(driver / 1000) + "." + std::to_string(driver % 1000 / 10);
    }

    static void load(const std::string& path, void*& module) {
        std::string text = file_text(path);
        cuda("cuModuleLoadData", &module, static_cast<const void*>(text.c_str()));
    }

    // Whether it has what the probe is of; says so where not.
    bool takes(const Probe& p) const {
        if (modules[p.hopper] != nullptr) return true;
        std::cout << p.name << ": LEFT OUT, for compute capability 9.0\n";
        return false;
    }

    struct alignas(128) Map {
        uint64_t words[16];
    };

    // The driver's map of the array at `from`.
    static Map encode(const probes::Mapped& m, CUdeviceptr from, unsigned cases) {
        constexpr unsigned f16 = 6, no_interleave = 0, swizzle_128 = 3, promotion = 0, zeros = 0;
        Map map{};
        auto rank = static_cast<unsigned>(m.sides.size());
        auto sides = m.sides;
        if (sides.back() == 0) sides.back() = cases;
        void *at = &map, *array = reinterpret_cast<void*>(from);
        const uint64_t *extents = sides.data(), *pitches = m.pitches.data();
        std::vector<unsigned> steps(rank, 1);
        if (m.step == 0) {
            const unsigned *box = m.box.data(), *step = steps.data();
            cuda("cuTensorMapEncodeTiled", at, f16, rank, array, extents, pitches, box, step, no_interleave, swizzle_128, promotion, zeros);
            return map;
        }
        steps[1] = steps[2] = m.step;
        const int lower[2] = {m.lower, m.lower}, upper[2] = {m.upper, m.upper};
        const int *first = lower, *last = upper;
        const unsigned* step = steps.data();
        cuda("cuTensorMapEncodeIm2col", at, f16, rank, array, extents, pitches, first, last, m.box[0], m.box[1], step, no_interleave,
             swizzle_128, promotion, zeros);
        return map;
    }

    // The probe's answers to all cases of `in`.
    Words run(const Probe& p, const Words& in) const {
        auto cases = static_cast<unsigned>(in.size() / p.in);
        Words out(size_t(cases) * p.out);
        CUdeviceptr from = 0, to = 0;
        void* function = nullptr;
        cuda("cuModuleGetFunction", &function, modules[p.hopper], ("probe_" + std::string(p.name)).c_str());
        cuda("cuMemAlloc_v2", &from, in.size() * 4);
        cuda("cuMemAlloc_v2", &to, out.size() * 4);
        cuda("cuMemcpyHtoD_v2", from, static_cast<const void*>(in.data()), in.size() * 4);
        cuda("cuMemsetD32_v2", to, 0u, out.size());
        Map map = p.map == nullptr ? Map{} : encode(*p.map, from, cases);
        void* parameters[] = {&from, &to, &map};
        void* stream = nullptr;
        void** extra = nullptr;
        cuda("cuLaunchKernel", function, cases, 1u, 1u, p.threads, 1u, 1u, p.shared, stream, &parameters[0], extra);
        cuda("cuCtxSynchronize");
        cuda("cuMemcpyDtoH_v2", static_cast<void*>(out.data()), to, out.size() * 4);
        cuda("cuMemFree_v2", from);
        cuda("cuMemFree_v2", to);
        return out;
    }
};

std::string hex(const uint32_t* words, unsigned count) {
    std::string text;
    char word[12];
    for (unsigned i = 0; i < count; i++) {
        snprintf(word, sizeof word, " %08x", words[i]);
        text += word;
    }
    return text;
}

int record(const Card& card, const std::string& folder) {
    for (const auto& p : probes::all) {
        if (!card.takes(p)) continue;
        Words in = p.cases(), out = card.run(p, in);
        std::ofstream file(folder + "/" + p.name + ".txt", std::ios::binary);
        file << "# " << card.about << "\n";
        for (size_t c = 0; c * p.in < in.size(); c++)
            file << "in" << hex(&in[c * p.in], p.in) << "\nout" << hex(&out[c * p.out], p.out) << "\n";
        if (!file.flush()) stop("cannot write " + folder + "/" + p.name + ".txt");
        std::cout << p.name << ": " << in.size() / p.in << " cases\n";
    }
    return 0;
}

// Appends the words of a line that begins with `head`; whether there were `count`.
bool words(const std::string& line, const char* head, unsigned count, Words& to) {
    std::istringstream text(line);
    std::string first;
    text >> first >> std::hex;
    size_t before = to.size();
    for (uint32_t w; text >> w;) to.push_back(w);
    return first == head && text.eof() && to.size() - before == count;
}

int replay(const Card& card, const std::string& folder) {
    unsigned held = 0, wrong = 0;
    for (const auto& p : probes::all) {
        if (!card.takes(p)) continue;
        std::string path = folder + "/" + p.name + ".txt", line, about;
        std::istringstream text(file_text(path));
        Words in, out;
        getline(text, about);
        while (getline(text, line)) {
            std::string second;
            getline(text, second);
            if (!words(line, "in", p.in, in) || !words(second, "out", p.out, out))
                stop(path + ": case " + std::to_string(in.size() / p.in) + " is not a record of this probe; record it again");
        }
        if (in.empty()) stop(path + " holds no case");
        Words again = card.run(p, in);
        unsigned differ = 0;
        for (size_t c = 0; c * p.in < in.size(); c++) {
            std::string why = p.difference(&in[c * p.in], &out[c * p.out], &again[c * p.out], p.out);
            if (!why.empty() && differ++ == 0) std::cout << p.name << ", case " << c << ": " << why << "\n";
        }
        if (differ > 0) std::cout << p.name << ": " << differ << " cases differ from " << about.substr(2) << "\n";
        (differ > 0 ? wrong : held)++;
    }
    std::cout << held << " probes hold, " << wrong << " do not\n";
    return wrong > 0;
}

}  // namespace

int main(int count, char** arguments) {
    std::string what = count > 1 ? arguments[1] : "";
    if (what == "list" && count == 2) {
        for (const auto& p : probes::all) std::cout << p.name << ": " << p.wrappers << "\n";
        return 0;
    }
    if ((what == "record" || what == "replay") && count == 4) {
        Card card(arguments[2]);
        return what == "record" ? record(card, arguments[3]) : replay(card, arguments[3]);
    }
    std::cerr << "usage: probes list | record PTX FOLDER | replay PTX FOLDER\n";
    return 2;
}
