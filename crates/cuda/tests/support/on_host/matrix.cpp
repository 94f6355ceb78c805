// The functions of `kernels/matrix.cu` on the host, by the layouts of fragments that the PTX ISA
// gives for `ldmatrix` and for `mma.m16n8k16`. Copies happen as late as they may.

#define DYNAMIC_SHARED(name) u8* name = shared_memory

static void copy_16(void* to, const void* from, bool is_there) {
    if (((uintptr_t)to | (uintptr_t)from) % 16 != 0) {
        fprintf(stderr, "a copy of 16 bytes that is not aligned\n");
        exit(1);
    }
    fibers[current].copies.push_back({to, from, is_there});
}
static void commit_copies() {
    fibers[current].groups.push_back(fibers[current].copies);
    fibers[current].copies.clear();
}
template <int Left> static void wait_copies() {
    auto& groups = fibers[current].groups;
    while (groups.size() > Left) {
        for (const Copy& copy : groups.front()) {
            if (copy.is_there) {
                memcpy(copy.to, copy.from, 16);
            } else {
                memset(copy.to, 0, 16);
            }
        }
        groups.erase(groups.begin());
    }
}

static const u8* rows_of[1024];
static u32 element_at(u32 matrix, u32 row, u32 column) {
    u16 bits;
    const u32 warp = threadIdx.x / 32 * 32;
    memcpy(&bits, rows_of[warp + matrix * 8 + row] + column * 2, 2);
    return bits;
}
static void load_matrices(u32 (&to)[4], const void* row) {
    const u32 lane = threadIdx.x % 32;
    rows_of[threadIdx.x] = (const u8*)row;
    sync_warp();
    for (u32 i = 0; i < 4; ++i) {
        const u32 column = lane % 4 * 2;
        to[i] = element_at(i, lane / 4, column) | element_at(i, lane / 4, column + 1) << 16;
    }
    sync_warp();
}
static void load_turned_matrices(u32 (&to)[4], const void* row) {
    const u32 lane = threadIdx.x % 32;
    rows_of[threadIdx.x] = (const u8*)row;
    sync_warp();
    for (u32 i = 0; i < 4; ++i) {
        const u32 first = lane % 4 * 2;
        to[i] = element_at(i, first, lane / 4) | element_at(i, first + 1, lane / 4) << 16;
    }
    sync_warp();
}

static u32 left_of[1024][4], right_of[1024][2];
template <class T> static float half_of(u32 pair, u32 index) {
    T element;
    element.bits = (u16)(pair >> (index * 16));
    return widen(element);
}
template <class T> static void multiply(float (&sums)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32 * 32;
    memcpy(left_of[threadIdx.x], a, sizeof a);
    right_of[threadIdx.x][0] = b0;
    right_of[threadIdx.x][1] = b1;
    sync_warp();
    for (u32 i = 0; i < 4; ++i) {
        const u32 row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (u32 k = 0; k < 16; ++k) {
            const u32 left_lane = row % 8 * 4 + k % 8 / 2, left_register = row / 8 + k / 8 * 2;
            const u32 right_lane = column * 4 + k % 8 / 2;
            sums[i] += half_of<T>(left_of[warp + left_lane][left_register], k % 2)
                * half_of<T>(right_of[warp + right_lane][k / 8], k % 2);
        }
    }
    sync_warp();
}

template <class T> static u32 pair_of(float low, float high) {
    return (u32)Round<T>::of(low).bits | (u32)Round<T>::of(high).bits << 16;
}
