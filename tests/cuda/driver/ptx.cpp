#include "ptx.hpp"

#include <cctype>
#include <cstdlib>
#include <cstring>

namespace mock {

namespace {

// Words of PTX: names with dots, %, $ and _, numbers, single signs. Comments and strings are left out.
std::vector<std::string> words_of(const std::string& text) {
    std::vector<std::string> words;
    auto part = [](char c) { return isalnum(static_cast<unsigned char>(c)) || strchr("._$%", c) != nullptr; };
    for (size_t i = 0; i < text.size();) {
        char c = text[i];
        if (isspace(static_cast<unsigned char>(c))) {
            i++;
        } else if (text.compare(i, 2, "//") == 0) {
            i = text.find('\n', i) == std::string::npos ? text.size() : text.find('\n', i);
        } else if (text.compare(i, 2, "/*") == 0) {
            i = text.find("*/", i + 2) == std::string::npos ? text.size() : text.find("*/", i + 2) + 2;
        } else if (c == '"') {
            i = text.find('"', i + 1) == std::string::npos ? text.size() : text.find('"', i + 1) + 1;
        } else if (part(c)) {
            size_t end = i;
            while (end < text.size() && part(text[end])) end++;
            words.push_back(text.substr(i, end - i));
            i = end;
        } else {
            words.push_back(std::string(1, c));
            i++;
        }
    }
    return words;
}

// ".u64" is 8 bytes, ".b8" one.
unsigned type_bytes(const std::string& type) {
    if (type.size() < 3 || type[0] != '.' || strchr("busf", type[1]) == nullptr) return 0;
    return static_cast<unsigned>(strtoul(type.c_str() + 2, nullptr, 10)) / 8;
}

}  // namespace

Ptx parse_ptx(const std::string& text) {
    Ptx ptx;
    auto words = words_of(text);
    auto at = [&](size_t i) { return i < words.size() ? words[i] : std::string(); };
    for (size_t i = 0; i < words.size(); i++) {
        if (words[i] == ".version") {
            std::string v = at(i + 1);
            size_t dot = v.find('.');
            if (dot == std::string::npos) ptx.problem = "a .version without a point";
            else
                ptx.version = static_cast<unsigned>(atoi(v.c_str()) * 10 + atoi(v.c_str() + dot + 1));
        } else if (words[i] == ".target") {
            std::string t = at(i + 1);
            if (t.compare(0, 3, "sm_") == 0) ptx.target = static_cast<unsigned>(atoi(t.c_str() + 3));
            ptx.exact = !t.empty() && t.back() == 'a';
        } else if (words[i] == ".entry") {
            PtxEntry entry;
            entry.name = at(++i);
            size_t j = i + 1;
            if (at(j) == "(") {
                // .param [.align N] .type [.ptr [.space] [.align N]] name [ [N] ] , ...
                for (j++; j < words.size() && words[j] != ")"; j++) {
                    if (words[j] != ".param") continue;
                    unsigned bytes = 0, count = 1;
                    for (j++; j < words.size() && words[j] != "," && words[j] != ")"; j++) {
                        if (bytes == 0) bytes = type_bytes(words[j]);
                        if (words[j] == "[") count = static_cast<unsigned>(atoi(at(j + 1).c_str()));
                    }
                    entry.parameter_bytes.push_back(bytes * count);
                    if (at(j) == ")") break;
                }
                j++;
            }
            for (; j < words.size() && words[j] != "{" && words[j] != ";"; j++)
                if (words[j] == ".maxntid" || words[j] == ".reqntid") {
                    unsigned threads = static_cast<unsigned>(atoi(at(j + 1).c_str()));
                    for (size_t k = j + 2; at(k) == ","; k += 2) threads *= static_cast<unsigned>(atoi(at(k + 1).c_str()));
                    entry.threads = threads;
                }
            ptx.entries.push_back(entry);
        }
    }
    if (ptx.version == 0 || ptx.target == 0) ptx.problem = "no .version or no .target";
    return ptx;
}

}  // namespace mock
