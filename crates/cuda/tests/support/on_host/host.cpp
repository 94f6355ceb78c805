// Memory of a kernel that runs on the host: read from files, and written back.

#include <fstream>
#include <map>
#include <string>

struct Address {
    char* bytes;
    template <class T> operator T*() const { return reinterpret_cast<T*>(bytes); }
};
static std::map<char*, size_t> sizes;
static char* load(const char* path) {
    std::ifstream file(path, std::ios::binary);
    std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    char* memory = (char*)aligned_alloc(256, (bytes.size() + 511) / 256 * 256);
    memcpy(memory, bytes.data(), bytes.size());
    sizes[memory] = bytes.size();
    return memory;
}
static void save(const char* path, char* memory) {
    std::ofstream(path, std::ios::binary).write(memory, sizes[memory]);
}
