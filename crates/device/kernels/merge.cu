// `output = base + up · (scale · down)`, the merge of a low-rank update, in f32 and rounded once; and
// the product alone. `up` is [rows, inner], `down` [inner, columns], both row-major, of one dtype F.
//
// A block of 256 threads computes a tile of 64 × 64, each thread 4 × 4 of it. The inner axis
// goes through shared memory 16 at a time; for the ranks that updates have, reading and writing
// the base is most of the work.

constexpr u32 TILE = 64;
constexpr u32 DEPTH = 16;

template <class T, class F, bool HasBase>
__device__ __forceinline__ void merge(
    const T* base, const F* up, const F* down, T* output, u32 rows, u32 columns, u32 inner,
    float scale
) {
    // One more pack keeps the rows aligned and their writes in different banks.
    __shared__ float ups[DEPTH][TILE + 4];
    __shared__ float downs[DEPTH][TILE + 4];
    const u32 first_row = blockIdx.y * TILE, first_column = blockIdx.x * TILE;
    const u32 thread_row = threadIdx.x / 16 * 4, thread_column = threadIdx.x % 16 * 4;
    float sums[4][4] = {};
    for (u32 depth = 0; depth < inner; depth += DEPTH) {
#pragma unroll
        for (u32 part = 0; part < TILE * DEPTH / 256; ++part) {
            const u32 index = part * 256 + threadIdx.x;
            const u32 up_row = index / DEPTH, up_depth = index % DEPTH;
            const bool has_up = first_row + up_row < rows && depth + up_depth < inner;
            ups[up_depth][up_row] =
                has_up ? widen(up[(u64)(first_row + up_row) * inner + depth + up_depth]) : 0.0f;
            const u32 down_depth = index / TILE, down_column = index % TILE;
            const bool has_down = first_column + down_column < columns && depth + down_depth < inner;
            downs[down_depth][down_column] =
                has_down
                    ? scale * widen(down[(u64)(depth + down_depth) * columns + first_column + down_column])
                    : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (u32 step = 0; step < DEPTH; ++step) {
            const Pack<float, 4> left =
                *reinterpret_cast<const Pack<float, 4>*>(&ups[step][thread_row]);
            const Pack<float, 4> right =
                *reinterpret_cast<const Pack<float, 4>*>(&downs[step][thread_column]);
#pragma unroll
            for (int row = 0; row < 4; ++row) {
#pragma unroll
                for (int column = 0; column < 4; ++column) {
                    sums[row][column] =
                        fmaf(left.values[row], right.values[column], sums[row][column]);
                }
            }
        }
        __syncthreads();
    }
    const bool packed = columns % 4 == 0;
#pragma unroll
    for (int row = 0; row < 4; ++row) {
        const u32 at_row = first_row + thread_row + row;
        const u32 at_column = first_column + thread_column;
        if (at_row >= rows || at_column >= columns) {
            continue;
        }
        const u64 start = (u64)at_row * columns + at_column;
        if (packed) {
            Pack<T, 4> old = {}, result;
            if (HasBase) {
                old = *reinterpret_cast<const Pack<T, 4>*>(base + start);
            }
#pragma unroll
            for (int column = 0; column < 4; ++column) {
                const float below = HasBase ? widen(old.values[column]) : 0.0f;
                result.values[column] = Round<T>::of(below + sums[row][column]);
            }
            *reinterpret_cast<Pack<T, 4>*>(output + start) = result;
            continue;
        }
#pragma unroll
        for (int column = 0; column < 4; ++column) {
            if (at_column + column < columns) {
                const float below = HasBase ? widen(base[start + column]) : 0.0f;
                output[start + column] = Round<T>::of(below + sums[row][column]);
            }
        }
    }
}

#define MERGE(T, F)                                                                         \
    extern "C" __global__ void __launch_bounds__(256) merge_##T##_##F(                      \
        const T* base, const F* up, const F* down, T* output, u32 rows, u32 columns,        \
        u32 inner, float scale                                                              \
    ) {                                                                                     \
        merge<T, F, true>(base, up, down, output, rows, columns, inner, scale);             \
    }

#define MERGE_TO(T) MERGE(T, f32) MERGE(T, f16) MERGE(T, bf16)

MERGE_TO(f32)
MERGE_TO(f16)
MERGE_TO(bf16)
MERGE_TO(f8e4m3)

extern "C" __global__ void __launch_bounds__(256) product_f32(
    const float* up, const float* down, float* output, u32 rows, u32 columns, u32 inner
) {
    merge<float, float, false>(nullptr, up, down, output, rows, columns, inner, 1.0f);
}
