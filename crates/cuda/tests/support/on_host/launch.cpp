// Calls of kernels with arguments that are known by their addresses, as a driver's are.

#include <array>
#include <utility>

template <class... A, size_t... I>
static void invoke_with(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*(A*)arguments[I]...);
}
template <class... A> static void invoke(void (*kernel)(A...), void** arguments) {
    invoke_with(kernel, arguments, std::index_sequence_for<A...>());
}
// Their number, and the bytes of each.
template <class... A> static std::array<unsigned, sizeof...(A) + 1> sizes_of(void (*)(A...)) {
    return {(unsigned)sizeof...(A), (unsigned)sizeof(A)...};
}

static void (*invoked)(void**);
static void** arguments_of_invoked;
static void call_invoked() { invoked(arguments_of_invoked); }

// Whether the kernel left alone what lies behind its shared memory.
extern "C" bool simulated_run(void (*invoke)(void**), void** arguments, const unsigned* blocks,
    const unsigned* threads, unsigned bytes) {
    invoked = invoke;
    arguments_of_invoked = arguments;
    gridDim = {blocks[0], blocks[1], blocks[2]};
    blockDim = {threads[0], threads[1], threads[2]};
    shared_bytes = bytes;
    const size_t behind = sizeof shared_memory - bytes;
    memset(shared_memory + bytes, 0xff, behind);
    run(call_invoked);
    for (size_t at = 0; at < behind; ++at) {
        if (shared_memory[bytes + at] != 0xff) {
            return false;
        }
    }
    return true;
}
