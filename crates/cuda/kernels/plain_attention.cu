// softmax(scale · q·kᵀ + bias) · v in f32, for elements of any kind, any strides and any d.
//
// A block has 32 queries, eight threads one of them; keys come in tiles of 32, and so do d and the
// columns of v. The softmax is computed as the tiles come: what was summed before is scaled
// whenever a greater score appears. Numbers in capitals stand in front of this text.

constexpr u32 TILE = 32;

__device__ __forceinline__ void bring(
    float (&tile)[TILE][TILE + 1], const Stored* source, u64 stride, u64 step, u32 first, u32 rows,
    u32 first_column, u32 columns
) {
#pragma unroll
    for (u32 i = 0; i < TILE * TILE / 256; ++i) {
        const u32 number = threadIdx.x + i * 256;
        const u32 row = first + number / TILE, column = first_column + number % TILE;
        const bool is_there = row < rows && column < columns;
        tile[number / TILE][number % TILE] =
            is_there ? widen(source[row * stride + column * step]) : 0.0f;
    }
}

extern "C" __global__ void __launch_bounds__(256) plain_attention(
    const Stored* query, const Stored* key, const Stored* value, BIAS_PARAMETER FACTOR_PARAMETER
    Result* output
) {
    __shared__ float queries[TILE][TILE + 1];
    __shared__ float others[TILE][TILE + 1];
    __shared__ float weights[TILE][TILE + 1];
    const u32 first_query = blockIdx.x % QUERY_TILES * TILE;
    const u32 first_e = blockIdx.x / QUERY_TILES % E_PARTS * E_PART;
    const u32 head = blockIdx.x / (QUERY_TILES * E_PARTS) % HEADS;
    const u64 batch = blockIdx.x / (QUERY_TILES * E_PARTS * HEADS);
    query += batch * QUERY_BATCH + head * QUERY_HEAD;
    key += batch * KEY_BATCH + head * KEY_HEAD;
    value += batch * VALUE_BATCH + head * VALUE_HEAD;
    output += batch * OUTPUT_BATCH + head * OUTPUT_HEAD;
    MOVE_BIAS
    const u32 row = threadIdx.x / 8, lane = threadIdx.x % 8;
    const u32 own_query = first_query + row;
    const u32 seen = first_query / TILE + 1;
    const u32 tiles = CAUSAL && seen < KEY_TILES ? seen : KEY_TILES;
    float greatest = NOTHING, total = 0.0f;
    float sums[E_PART / 8] = {};
#pragma unroll 1
    for (u32 first_key = 0; first_key < tiles * TILE; first_key += TILE) {
        float scores[4] = {};
#pragma unroll 1
        for (u32 d = 0; d < D; d += TILE) {
            __syncthreads();
            bring(queries, query, QUERY_TOKEN, QUERY_STEP, first_query, QUERIES, d, D);
            bring(others, key, KEY_TOKEN, KEY_STEP, first_key, KEYS, d, D);
            __syncthreads();
#pragma unroll 8
            for (u32 at = 0; at < TILE; ++at) {
#pragma unroll
                for (u32 i = 0; i < 4; ++i) {
                    scores[i] += queries[row][at] * others[lane + i * 8][at];
                }
            }
        }
        float most = greatest;
#pragma unroll
        for (u32 i = 0; i < 4; ++i) {
            const u32 key = first_key + lane + i * 8;
            float score = scores[i] * SCALE;
            ADD_BIAS(score, own_query, key)
            const bool is_seen = key < KEYS && (!CAUSAL || key <= own_query);
            scores[i] = is_seen ? score * LOG2_E : NOTHING;
            most = fmaxf(most, scores[i]);
        }
#pragma unroll
        for (u32 distance = 1; distance < 8; distance *= 2) {
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, distance));
        }
        // Where nothing is seen yet, any finite number does.
        const float base = most == NOTHING ? 0.0f : most;
        const float factor = exp2f(greatest - base);
        greatest = most;
        total *= factor;
#pragma unroll
        for (u32 i = 0; i < 4; ++i) {
            const float weight = exp2f(scores[i] - base);
            weights[row][lane + i * 8] = weight;
            total += weight;
        }
#pragma unroll
        for (u32 e = 0; e < E_PART / 8; ++e) {
            sums[e] *= factor;
        }
#pragma unroll
        for (u32 e = 0; e < E_PART; e += TILE) {
            __syncthreads();
            bring(others, value, VALUE_TOKEN, VALUE_STEP, first_key, KEYS, first_e + e, E);
            __syncthreads();
#pragma unroll 8
            for (u32 at = 0; at < TILE; ++at) {
#pragma unroll
                for (u32 i = 0; i < 4; ++i) {
                    sums[e / 8 + i] += weights[row][at] * others[at][lane + i * 8];
                }
            }
        }
    }
#pragma unroll
    for (u32 distance = 1; distance < 8; distance *= 2) {
        total += __shfl_xor_sync(0xffffffffu, total, distance);
    }
    if (own_query >= QUERIES) {
        return;
    }
#pragma unroll
    for (u32 e = 0; e < E_PART / 8; ++e) {
        const u32 column = first_e + e * 8 + lane;
        if (column < E) {
            output[(u64)own_query * OUTPUT_TOKEN + column * OUTPUT_STEP] =
                Round<Result>::of(sums[e] / total * (OUTPUT_SCALE FACTOR));
        }
    }
}
