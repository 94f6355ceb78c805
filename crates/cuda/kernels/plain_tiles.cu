// output[m, n] = Σ left[m, k] · right[n, k] (+ bias[n], then GELU), for elements of any kind.
//
// A block computes 64 × 64 elements in f32, a thread 4 × 4 of them. `Left`, `Right` and `Output`
// in front of this text say where elements lie; `place` is false where there is none, which
// counts as zero.

constexpr u32 TILE = 64, DEPTH = 16, PITCH = TILE + 4;

template <class Operand>
__device__ __forceinline__ void bring(
    float (&tile)[DEPTH][PITCH], const Source* source, u32 batch, u32 first, u32 first_k
) {
#pragma unroll
    for (u32 i = 0; i < TILE * DEPTH / 256; ++i) {
        const u32 number = threadIdx.x + i * 256;
        const u32 row = Operand::ALONG_ROWS ? number % TILE : number / DEPTH;
        const u32 column = Operand::ALONG_ROWS ? number / TILE : number % DEPTH;
        u64 place = 0;
        const bool is_there = first + row < Operand::ROWS && first_k + column < K
            && Operand::place(batch, first + row, first_k + column, place);
        tile[column][row] = is_there ? widen(source[place]) : 0.0f;
    }
}

extern "C" __global__ void __launch_bounds__(256) KERNEL(
    const Source* left, const Source* right, MORE_PARAMETERS Result* output
) {
    __shared__ float left_tile[DEPTH][PITCH];
    __shared__ float right_tile[DEPTH][PITCH];
    u32 batch, first_m, first_n;
    tile_of_block(TILE, batch, first_m, first_n);
    // Rows lie along the lanes of a warp where they do so in the output.
    const u32 own_m = Output::ALONG_ROWS ? threadIdx.x % 16 : threadIdx.x / 16;
    const u32 own_n = Output::ALONG_ROWS ? threadIdx.x / 16 : threadIdx.x % 16;
    float sums[4][4] = {};
#pragma unroll 1
    for (u32 k = 0; k < K; k += DEPTH) {
        __syncthreads();
        bring<Left>(left_tile, left, batch, first_m, k);
        bring<Right>(right_tile, right, batch, first_n, k);
        __syncthreads();
#pragma unroll
        for (u32 at = 0; at < DEPTH; ++at) {
            float a[4], b[4];
#pragma unroll
            for (u32 i = 0; i < 4; ++i) {
                a[i] = left_tile[at][own_m + i * 16];
                b[i] = right_tile[at][own_n + i * 16];
            }
#pragma unroll
            for (u32 i = 0; i < 4; ++i) {
#pragma unroll
                for (u32 j = 0; j < 4; ++j) {
                    sums[i][j] += a[i] * b[j];
                }
            }
        }
    }
#pragma unroll
    for (u32 i = 0; i < 4; ++i) {
        const u32 m = first_m + own_m + i * 16;
        if (m >= Left::ROWS) {
            continue;
        }
        const u64 row = Output::place(batch, m);
#pragma unroll
        for (u32 j = 0; j < 4; ++j) {
            const u32 n = first_n + own_n + j * 16;
            if (n < Right::ROWS) {
                const float value = finish(sums[i][j], MORE_ARGUMENTS batch, m, n);
                output[row + n * Output::STEP] = Round<Result>::of(value);
            }
        }
    }
}
