// NVRTC without a GPU: the functions of libnvrtc that Tintype calls. Kernels become a shared library
// by the compiler of C++ that SIMULATED_CXX names, whose threads are fibers (`on_host/fibers.cpp`).

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <regex>
#include <sstream>
#include <string>
#include <unistd.h>

struct Program {
    std::string text, name, code, log;
};

static std::string read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::stringstream bytes;
    bytes << file.rdbuf();
    return bytes.str();
}
static void write(const std::string& path, const std::string& text) {
    std::ofstream(path, std::ios::binary) << text;
}
static void replace(std::string& text, const std::string& from, const std::string& to) {
    for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) {
        text.replace(at, from.size(), to);
    }
}

// The text with C++ in the place of what only a GPU has.
static std::string with_host(std::string text) {
    replace(text, read(KERNELS "/matrix.cu"), read(ON_HOST "/matrix.cpp"));
    std::ifstream pairs(ON_HOST "/conversions.txt");
    for (std::string device, host; getline(pairs, device) && getline(pairs, host);) {
        replace(text, device, host);
    }
    return text;
}

// What `driver.cpp` calls of each kernel.
static std::string calls(const std::string& text) {
    std::string all;
    const std::regex kernel("__attribute__\\(\\(used\\)\\)\\s+void\\s+(\\w+)\\s*\\(");
    for (std::sregex_iterator at(text.begin(), text.end(), kernel), end; at != end; ++at) {
        const std::string name = (*at)[1];
        all += "extern \"C\" void simulated_" + name + "(void** p) { invoke(" + name + ", p); }\n";
        all += "extern \"C\" { auto simulated_sizes_" + name + " = sizes_of(" + name + "); }\n";
    }
    return all;
}

static bool run(const std::string& command, const std::string& log) {
    return system((command + " 2>" + log).c_str()) == 0;
}

static bool build(Program& program) {
    static std::atomic<unsigned> count = 0;
    const char* folder = getenv("TMPDIR");
    const std::string base = std::string(folder ? folder : "/tmp") + "/simulated-"
        + std::to_string(getpid()) + "-" + std::to_string(count++);
    const char* named = getenv("SIMULATED_CXX");
    const std::string compiler
        = std::string(named ? named : "c++") + " -std=c++20 -O1 -w -ffp-contract=off ";
    write(base + ".cpp", read(ON_HOST "/fibers.cpp") + with_host(program.text) + read(ON_HOST "/launch.cpp"));
    bool is_built = run(compiler + "-E -P " + base + ".cpp -o " + base + ".ii", base + ".log");
    if (is_built) {
        const std::string text = read(base + ".ii");
        write(base + ".ii", text + calls(text));
        is_built = run(compiler + "-shared -fPIC " + base + ".ii -o " + base + ".so", base + ".log");
    }
    program.log = read(base + ".log");
    program.code = is_built ? read(base + ".so") : "";
    for (const char* end : {".cpp", ".ii", ".so", ".log"}) {
        remove((base + end).c_str());
    }
    return is_built;
}

extern "C" {

int nvrtcVersion(int* major, int* minor) { *major = 13; *minor = 0; return 0; }
const char* nvrtcGetErrorString(int) { return "an error of the simulated compiler"; }
static const int ARCHITECTURES[] = {80, 86, 89, 90, 100, 120};
int nvrtcGetNumSupportedArchs(int* count) { *count = 6; return 0; }
int nvrtcGetSupportedArchs(int* numbers) {
    memcpy(numbers, ARCHITECTURES, sizeof ARCHITECTURES);
    return 0;
}
int nvrtcCreateProgram(Program** program, const char* text, const char* name, int headers,
    const char* const*, const char* const*) {
    *program = new Program{text, name, "", ""};
    return headers == 0 ? 0 : 3;
}
int nvrtcDestroyProgram(Program** program) { delete *program; *program = nullptr; return 0; }
int nvrtcCompileProgram(Program* program, int, const char* const*) { return build(*program) ? 0 : 6; }
int nvrtcGetProgramLogSize(Program* program, size_t* size) {
    *size = program->log.size() + 1;
    return 0;
}
int nvrtcGetProgramLog(Program* program, char* text) { strcpy(text, program->log.c_str()); return 0; }
int nvrtcGetCUBINSize(Program* program, size_t* size) { *size = program->code.size(); return 0; }
int nvrtcGetCUBIN(Program* program, char* bytes) {
    memcpy(bytes, program->code.data(), program->code.size());
    return 0;
}

} // extern "C"
