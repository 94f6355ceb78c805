// Elements at other places: transpose, slice, concat, broadcast. Nothing is computed, so an
// element is a unit of 1 to 16 bytes.

struct alignas(16) Unit16 { u64 halves[2]; };
typedef u8 Unit1;
typedef u16 Unit2;
typedef u32 Unit4;
typedef u64 Unit8;

// `first` are strides of the input, `second` those of the output; less than 2^32 units.
template <class Unit>
__device__ __forceinline__ void copy(
    const Unit* input, Unit* output, u64 count, u64 input_start, u64 output_start,
    const Strides& strides
) {
    for (u64 index = thread_index(); index < count; index += thread_count()) {
        u32 rest = (u32)index;
        u64 from = input_start, to = output_start;
        for (int axis = (int)strides.rank - 1; axis >= 0; --axis) {
            u32 position = rest % strides.sizes[axis];
            rest /= strides.sizes[axis];
            from += position * strides.first[axis];
            to += position * strides.second[axis];
        }
        output[to] = input[from];
    }
}

// `output[b, column, row] = input[b, row, column]` through tiles of 32 × 32, which are read
// and written along rows. Blocks have 32 × 8 threads; the one more column keeps threads that
// read a column of the tile in different banks.
template <class Unit>
__device__ __forceinline__ void transpose(const Unit* input, Unit* output, u32 rows, u32 columns) {
    __shared__ Unit tile[32][33];
    const u64 matrix = (u64)blockIdx.z * rows * columns;
    const u32 lane = threadIdx.x % 32, line = threadIdx.x / 32;
    const u32 column = blockIdx.x * 32 + lane;
    for (u32 step = line; step < 32; step += 8) {
        const u32 row = blockIdx.y * 32 + step;
        if (row < rows && column < columns) {
            tile[step][lane] = input[matrix + (u64)row * columns + column];
        }
    }
    __syncthreads();
    const u32 row = blockIdx.y * 32 + lane;
    for (u32 step = line; step < 32; step += 8) {
        const u32 column = blockIdx.x * 32 + step;
        if (row < rows && column < columns) {
            output[matrix + (u64)column * rows + row] = tile[lane][step];
        }
    }
}

#define LAYOUT(Size)                                                                        \
    extern "C" __global__ void copy_##Size(                                                 \
        const Unit##Size* input, Unit##Size* output, u64 count, u64 input_start,            \
        u64 output_start, const __grid_constant__ Strides strides                                             \
    ) {                                                                                     \
        copy<Unit##Size>(input, output, count, input_start, output_start, strides);         \
    }                                                                                       \
    extern "C" __global__ void transpose_##Size(                                            \
        const Unit##Size* input, Unit##Size* output, u32 rows, u32 columns                  \
    ) {                                                                                     \
        transpose<Unit##Size>(input, output, rows, columns);                                \
    }

LAYOUT(1)
LAYOUT(2)
LAYOUT(4)
LAYOUT(8)
LAYOUT(16)
