// Operations with a kernel of their own. What differs stands in front of this text.

#ifdef ROTARY_TABLE
// Cosine and sine of each angle, computed in f64.
extern "C" __global__ void __launch_bounds__(256) rotary_table(const Element* ids, float* table) {
    for (u64 index = thread_index(); index < COUNT; index += thread_count()) {
        const u32 pair = (u32)(index % PAIRS);
        const u64 token = index / PAIRS;
        const double angle = (double)widen(ids[token * AXES + AXIS_OF[pair]]) * FREQUENCIES[pair];
        double sine, cosine;
        sincos(angle, &sine, &cosine);
        table[2 * index] = (float)cosine;
        table[2 * index + 1] = (float)sine;
    }
}
#endif

#ifdef RELATIVE_BUCKETS
// `STARTS[i]` is the least distance with a bucket of at least i + 1.
extern "C" __global__ void __launch_bounds__(256) relative_buckets(Result* buckets) {
    for (u64 index = thread_index(); index < COUNT; index += thread_count()) {
        const u32 query = (u32)(index / KEYS), key = (u32)(index % KEYS);
        const bool is_later = key > query;
        const u32 distance = is_later ? (BOTH_DIRECTIONS ? key - query : 0) : query - key;
        u32 bucket = is_later && BOTH_DIRECTIONS ? LATER : 0;
        for (u32 i = 0; i < START_COUNT; ++i) {
            bucket += distance >= STARTS[i] ? 1 : 0;
        }
        buckets[index] = (Result)bucket;
    }
}
#endif

#ifdef ARGMAX
// A block for each row. The first of equal values wins; NaN wins in the first place only.
extern "C" __global__ void __launch_bounds__(256) argmax(const Element* values, i64* positions) {
    __shared__ Value best_values[256];
    __shared__ u32 best_positions[256];
    const u32 NONE = 0xffffffffu;
    const Element* row = values + (u64)blockIdx.x * WIDTH;
    Value best = 0;
    u32 position = NONE;
    for (u64 at = threadIdx.x; at < WIDTH; at += 256) {
        const Value value = WIDEN(row[at]);
        if (value == value && (position == NONE || value > best)) {
            best = value;
            position = (u32)at;
        }
    }
    best_values[threadIdx.x] = best;
    best_positions[threadIdx.x] = position;
    __syncthreads();
    for (u32 width = 128; width > 0; width /= 2) {
        if (threadIdx.x < width) {
            const Value other = best_values[threadIdx.x + width];
            const u32 other_position = best_positions[threadIdx.x + width];
            const bool is_better = other_position != NONE
                && (position == NONE || other > best
                    || (other == best && other_position < position));
            if (is_better) {
                best = other;
                position = other_position;
                best_values[threadIdx.x] = best;
                best_positions[threadIdx.x] = position;
            }
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        const Value first = WIDEN(row[0]);
        positions[blockIdx.x] = first == first && position != NONE ? position : 0;
    }
}
#endif
