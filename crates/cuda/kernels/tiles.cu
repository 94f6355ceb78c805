// output[m, n] = Σ left[m, k] · right[n, k] (+ bias[n], then GELU), on tensor cores.
//
// A block computes 128 × 128 elements, a warp 64 × 32 of them. Tiles of 32 along k go through
// three stages of shared memory. `Left`, `Right` and `Output` in front of this text say where
// elements lie; `place` is false where there is none, which counts as zero.

constexpr u32 TILE = 128, DEPTH = 32, PITCH = DEPTH + 8, STAGES = 3;
constexpr u32 TILE_BYTES = TILE * PITCH * 2;

// An element as it is multiplied. Codes of 8 bits are bf16 exactly.
__device__ __forceinline__ Element element(Element x) { return x; }

template <class Code> __device__ __forceinline__ Element element(Code x) {
    Element wide;
    wide.bits = (u16)(__float_as_uint(widen(x)) >> 16);
    return wide;
}

// The same of 8, or zeros where there is nothing.
template <class Code> __device__ __forceinline__ void bring_codes(
    u8* to, const Code* from, bool is_there
) {
    Pack<Code, 8> codes = {};
    if (is_there) {
        codes = *reinterpret_cast<const Pack<Code, 8>*>(from);
    }
    Pack<Element, 8> wide;
#pragma unroll
    for (u32 e = 0; e < 8; ++e) {
        wide.values[e] = element(codes.values[e]);
    }
    *reinterpret_cast<Pack<Element, 8>*>(to) = wide;
}

// Brings a tile of an operand: in packs of 16 bytes along k, in packs of 8 codes, or element by
// element.
template <class Operand>
__device__ __forceinline__ void bring(
    u8* tile, const Source* source, u32 batch, u32 first, u32 first_k
) {
    if constexpr (Operand::PACKED) {
        // Codes pass through registers, of which there are few.
#pragma unroll (sizeof(Source) == sizeof(Element) ? 2 : 1)
        for (u32 i = 0; i < 2; ++i) {
            const u32 chunk = threadIdx.x + i * 256;
            const u32 row = chunk / 4, column = chunk % 4 * 8;
            u64 place = 0;
            const bool is_there = first + row < Operand::ROWS && first_k + column < K
                && Operand::place(batch, first + row, first_k + column, place);
            u8* to = tile + (row * PITCH + column) * 2;
            if constexpr (sizeof(Source) == sizeof(Element)) {
                copy_16(to, source + (is_there ? place : 0), is_there);
            } else {
                bring_codes(to, source + (is_there ? place : 0), is_there);
            }
        }
    } else {
        Element* elements = reinterpret_cast<Element*>(tile);
#pragma unroll 4
        for (u32 i = 0; i < TILE * DEPTH / 256; ++i) {
            const u32 number = threadIdx.x + i * 256;
            const u32 row = Operand::ALONG_ROWS ? number % TILE : number / DEPTH;
            const u32 column = Operand::ALONG_ROWS ? number / TILE : number % DEPTH;
            u64 place = 0;
            const bool is_there = first + row < Operand::ROWS && first_k + column < K
                && Operand::place(batch, first + row, first_k + column, place);
            Element value;
            value.bits = 0;
            if (is_there) {
                value = element(source[place]);
            }
            elements[row * PITCH + column] = value;
        }
    }
}

__device__ __forceinline__ void multiply_tiles(
    float (&sums)[4][4][4], const u8* left, const u8* right
) {
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const u32 left_row = warp / 4 * 64 + lane % 16, left_column = lane / 16 * 8;
    const u32 right_row = warp % 4 * 32 + lane / 16 * 8 + lane % 8;
    const u32 right_column = lane / 8 % 2 * 8;
#pragma unroll
    for (u32 k = 0; k < DEPTH; k += 16) {
        u32 b[2][4];
#pragma unroll
        for (u32 j = 0; j < 2; ++j) {
            load_matrices(b[j], right + ((right_row + j * 16) * PITCH + k + right_column) * 2);
        }
#pragma unroll
        for (u32 i = 0; i < 4; ++i) {
            u32 a[4];
            load_matrices(a, left + ((left_row + i * 16) * PITCH + k + left_column) * 2);
#pragma unroll
            for (u32 j = 0; j < 4; ++j) {
                multiply<Element>(sums[i][j], a, b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
            }
        }
    }
}

__device__ __forceinline__ void store_tile(
    const float (&sums)[4][4][4], MORE_PARAMETERS Result* output, u32 batch, u32 first_m,
    u32 first_n
) {
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (u32 half = 0; half < 8; ++half) {
        const u32 m = first_m + warp / 4 * 64 + half * 8 + lane / 4;
        if (m >= Left::ROWS) {
            continue;
        }
        const u64 row = Output::place(batch, m);
#pragma unroll
        for (u32 j = 0; j < 4; ++j) {
            const u32 n = first_n + warp % 4 * 32 + j * 8 + lane % 4 * 2;
            if (n >= Right::ROWS) {
                continue;
            }
            const bool is_pair = n + 1 < Right::ROWS;
            const float* pair_of_sums = &sums[half / 2][j][half % 2 * 2];
            const float low = finish(pair_of_sums[0], MORE_ARGUMENTS batch, m, n);
            const u32 next = is_pair ? n + 1 : n;
            const float high = finish(pair_of_sums[1], MORE_ARGUMENTS batch, m, next);
            if constexpr (Output::PAIRED) {
                Pack<Result, 2> pair;
                pair.values[0] = Round<Result>::of(low);
                pair.values[1] = Round<Result>::of(high);
                *reinterpret_cast<Pack<Result, 2>*>(output + row + n) = pair;
            } else {
                output[row + n * Output::STEP] = Round<Result>::of(low);
                if (is_pair) {
                    output[row + (n + 1) * Output::STEP] = Round<Result>::of(high);
                }
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(256, 2) KERNEL(
    const Source* left, const Source* right, MORE_PARAMETERS Result* output
) {
    DYNAMIC_SHARED(memory);
    u32 batch, first_m, first_n;
    tile_of_block(TILE, batch, first_m, first_n);
    auto bring_stage = [&](u32 step) {
        u8* tile = memory + step % STAGES * 2 * TILE_BYTES;
        bring<Left>(tile, left, batch, first_m, step * DEPTH);
        bring<Right>(tile + TILE_BYTES, right, batch, first_n, step * DEPTH);
    };
    constexpr u32 STEPS = (K + DEPTH - 1) / DEPTH;
#pragma unroll
    for (u32 step = 0; step < STAGES - 1; ++step) {
        if (step < STEPS) {
            bring_stage(step);
        }
        commit_copies();
    }
    float sums[4][4][4] = {};
#pragma unroll 1
    for (u32 step = 0; step < STEPS; ++step) {
        wait_copies<STAGES - 2>();
        // All have the stage, and are done with the one that is overwritten next.
        __syncthreads();
        if (step + STAGES - 1 < STEPS) {
            bring_stage(step + STAGES - 1);
        }
        commit_copies();
        const u8* tile = memory + step % STAGES * 2 * TILE_BYTES;
        multiply_tiles(sums, tile, tile + TILE_BYTES);
    }
    store_tile(sums, MORE_ARGUMENTS output, batch, first_m, first_n);
}
