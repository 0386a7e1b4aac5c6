// The variables by which a test steers the mock; README.md lists them.
#include <cstdlib>
#include <cstring>
#include <map>
#include <sstream>

#include "state.hpp"

namespace mock {

std::string text_setting(const char* name, const char* otherwise) {
    const char* value = getenv(name);
    return value == nullptr || *value == 0 ? otherwise : value;
}

long long number_setting(const char* name, long long otherwise) {
    const char* value = getenv(name);
    return value == nullptr || *value == 0 ? otherwise : strtoll(value, nullptr, 10);
}

namespace {

// "NAME:N" counted from when the variable took its value: 0 for another name, else the number of this call.
struct Counter {
    std::string setting;
    std::map<std::string, long long> calls;
    // Whether the variable's value is another than before; then counting begins anew.
    void follow(const std::string& value) {
        if (value == setting) return;
        setting = value;
        calls.clear();
    }
};
Counter faults, hangings;

std::vector<std::string> split(const std::string& text, char at) {
    std::vector<std::string> parts;
    std::stringstream stream(text);
    for (std::string part; std::getline(stream, part, at);) parts.push_back(part);
    return parts;
}

// Whether call number `n` is meant by "3" or, from the third on, "3+".
bool is_meant(const std::string& which, long long n) {
    long long first = strtoll(which.c_str(), nullptr, 10);
    return which.find('+') != std::string::npos ? n >= first : n == first;
}

}  // namespace

CUresult asked_fault(const char* name, bool& sticky) {
    std::string value = text_setting("TESSERA_MOCK_FAIL", "");
    faults.follow(value);
    if (value.empty()) return CUDA_SUCCESS;
    // A program that has started itself again finds a driver that works.
    if (number_setting("TESSERA_MOCK_ONCE", 0) != 0 && getenv("TESSERA_RESTARTS") != nullptr) return CUDA_SUCCESS;
    long long n = ++faults.calls[name];
    for (const auto& one : split(value, ',')) {
        auto parts = split(one, ':');
        if (parts.size() < 3 || parts[0] != name || !is_meant(parts[1], n)) continue;
        sticky = parts.size() > 3 && parts[3] == "sticky";
        return static_cast<CUresult>(strtoul(parts[2].c_str(), nullptr, 10));
    }
    return CUDA_SUCCESS;
}

bool hangs(const char* kernel) {
    std::string value = text_setting("TESSERA_MOCK_HANG", "");
    hangings.follow(value);
    if (value.empty()) return false;
    auto parts = split(value, ':');
    // "*" is any kernel.
    if (parts[0] != kernel && parts[0] != "*") return false;
    return is_meant(parts.size() > 1 ? parts[1] : "1", ++hangings.calls[parts[0]]);
}

}  // namespace mock
