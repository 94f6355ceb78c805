// Memory of the simulated GPU, and pinned memory of the host: each piece has pages of its own between
// others that cannot be touched, and is full of ones, which are NaN.
#pragma once

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <csignal>

static std::string doing = "nothing";

static long number(const char* name, long otherwise) {
    const char* text = getenv(name);
    return text ? atol(text) : otherwise;
}
// The message and the end: the program has done what a GPU may answer in any way.
[[noreturn]] static void fail(const char* format, ...) {
    va_list values;
    va_start(values, format);
    fprintf(stderr, "simulated GPU: while doing %s: ", doing.c_str());
    vfprintf(stderr, format, values);
    fprintf(stderr, "\n");
    va_end(values);
    _exit(98);
}

struct Piece {
    char* mapped;
    size_t mapped_bytes, bytes;
    bool is_host, is_freed;
};
static std::map<uintptr_t, Piece> pieces;
static size_t used, allocations;
static size_t capacity() { return (size_t)number("SIMULATED_MEMORY", 4L << 30); }
static constexpr size_t PAGE = 4096, ALIGNMENT = 256;

static void* take(size_t bytes, bool is_host) {
    if ((long)++allocations == number("SIMULATED_FAIL", 0)) {
        return nullptr;
    }
    const size_t rounded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    const size_t pages = (rounded + PAGE - 1) / PAGE * PAGE;
    if (!is_host && used + rounded > capacity()) {
        return nullptr;
    }
    char* mapped = (char*)mmap(
        nullptr, pages + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) {
        return nullptr;
    }
    mprotect(mapped + PAGE, pages, PROT_READ | PROT_WRITE);
    char* start = mapped + PAGE + pages - rounded;
    memset(start, 0xff, rounded);
    pieces[(uintptr_t)start] = {mapped, pages + 2 * PAGE, bytes, is_host, false};
    used += is_host ? 0 : rounded;
    return start;
}

static Piece* piece_of(uintptr_t address) {
    auto after = pieces.upper_bound(address);
    if (after == pieces.begin()) {
        return nullptr;
    }
    auto& [start, piece] = *std::prev(after);
    return address < start + piece.mapped_bytes ? &piece : nullptr;
}

// Its addresses are never given again.
static void give_back(uintptr_t start) {
    auto found = pieces.find(start);
    if (found == pieces.end() || found->second.is_freed) {
        fail("memory at %#lx is freed that is not there", start);
    }
    Piece& piece = found->second;
    piece.is_freed = true;
    used -= piece.is_host ? 0 : (piece.bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    mmap(piece.mapped, piece.mapped_bytes, PROT_NONE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

static bool is_pinned(const void* host) {
    const Piece* piece = piece_of((uintptr_t)host);
    return piece && piece->is_host && !piece->is_freed;
}

static void expect_device(uintptr_t address, size_t bytes, const char* what) {
    auto after = pieces.upper_bound(address);
    if (after != pieces.begin()) {
        const auto& [start, piece] = *std::prev(after);
        if (!piece.is_host && !piece.is_freed && address + bytes <= start + piece.bytes) {
            return;
        }
    }
    fail("%s %zu bytes at %#lx, which are not the device's", what, bytes, address);
}

static void on_fault(int, siginfo_t* info, void*) {
    const uintptr_t address = (uintptr_t)info->si_addr;
    const auto after = pieces.upper_bound(address + 2 * PAGE);
    for (auto at = after; at != pieces.begin();) {
        const auto& [start, piece] = *--at;
        const uintptr_t mapped = (uintptr_t)piece.mapped;
        if (address >= mapped && address < mapped + piece.mapped_bytes) {
            fail("%#lx was touched, at %ld of %s %zu bytes%s", address, (long)(address - start),
                piece.is_host ? "pinned" : "the device's", piece.bytes,
                piece.is_freed ? " that are freed" : "");
        }
    }
    fail("%#lx was touched, which is nothing of a device", address);
}
