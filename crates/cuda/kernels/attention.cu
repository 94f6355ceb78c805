// softmax(scale · q·kᵀ + bias) · v on tensor cores, for heads of d up to 512 and 16-bit floats.
//
// A block has 64 queries, a warp 16 of them; keys come in tiles of 64. The softmax is computed as
// the tiles come: what was summed before is scaled whenever a greater score appears. Parts of a
// tile (of k along d, then of v) alternate between two slots of shared memory, so that one is
// copied while the other is used. More than 128 columns of v are more blocks, which compute the
// scores again. Numbers in capitals stand in front of this text.
//
// Codes of 8-bit floats become f16 on their way to shared memory, each 2^8 times smaller, which the
// numbers in front make good: so their bits only move, and no value is rounded. Any GPU can do so.

constexpr u32 TILE = 64;
constexpr u32 QUERY_PITCH = D_PARTS * D_PART + 8;
constexpr u32 SLOT_PITCH = (D_PART > E_PART ? D_PART : E_PART) + 8;
constexpr u32 SLOT_BYTES = TILE * SLOT_PITCH * 2;

struct alignas(16) Chunk { u32 words[4]; };

// Two codes, in the bits from `Shift` on, as two f16. NaN stays NaN, subnormal codes are exact.
template <u32 Shift> __device__ __forceinline__ u32 halves_of(u32 codes) {
    const u32 pair = (codes >> Shift & 0xffu) | (codes >> Shift & 0xff00u) << 8;
    const u32 magnitude = pair & 0x007f007fu;
    const u32 is_nan = (magnitude + 0x00010001u) & 0x00800080u;
    return (pair & 0x00800080u) << 8 | magnitude << 7 | is_nan * 248u;
}

// 64 rows from `first` on, of `Columns` elements from `column` on; zeros where there are none.
template <u32 Columns>
__device__ __forceinline__ void bring(
    u8* to, u32 pitch, const Stored* source, u64 stride, u32 first, u32 rows, u32 column,
    u32 columns
) {
    constexpr u32 WIDTH = 16 / sizeof(Stored);
#pragma unroll
    for (u32 i = 0; i < TILE * Columns / WIDTH / 128; ++i) {
        const u32 chunk = threadIdx.x + i * 128;
        const u32 row = chunk / (Columns / WIDTH), at = chunk % (Columns / WIDTH) * WIDTH;
        const bool is_there = first + row < rows && column + at < columns;
        const u64 place = is_there ? (u64)(first + row) * stride + column + at : 0;
        u8* target = to + (row * pitch + at) * 2;
        if constexpr (sizeof(Stored) == 1) {
            Chunk codes = {};
            if (is_there) {
                codes = *reinterpret_cast<const Chunk*>(source + place);
            }
#pragma unroll
            for (u32 half = 0; half < 2; ++half) {
                const u32 low = codes.words[2 * half], high = codes.words[2 * half + 1];
                *reinterpret_cast<Chunk*>(target + 16 * half) = {
                    halves_of<0>(low), halves_of<16>(low), halves_of<0>(high), halves_of<16>(high),
                };
            }
        } else {
            copy_16(target, source + place, is_there);
        }
    }
}

// Adds q·kᵀ over a part of d.
__device__ __forceinline__ void add_scores(float (&scores)[8][4], const u8* query, const u8* key) {
    const u32 lane = threadIdx.x % 32;
#pragma unroll 2
    for (u32 k = 0; k < D_PART; k += 16) {
        u32 a[4];
        load_matrices(a, query + (lane % 16 * QUERY_PITCH + k + lane / 16 * 8) * 2);
#pragma unroll
        for (u32 j = 0; j < 4; ++j) {
            const u32 row = j * 16 + lane / 16 * 8 + lane % 8;
            u32 b[4];
            load_matrices(b, key + (row * SLOT_PITCH + k + lane / 8 % 2 * 8) * 2);
            multiply<Element>(scores[2 * j], a, b[0], b[1]);
            multiply<Element>(scores[2 * j + 1], a, b[2], b[3]);
        }
    }
}

// Adds p·v; the weights are the scores' registers, rounded.
__device__ __forceinline__ void add_values(
    float (&sums)[E_PART / 8][4], const float (&weights)[8][4], const u8* value
) {
    const u32 lane = threadIdx.x % 32;
#pragma unroll
    for (u32 j = 0; j < 4; ++j) {
        const u32 a[4] = {
            pair_of<Element>(weights[2 * j][0], weights[2 * j][1]),
            pair_of<Element>(weights[2 * j][2], weights[2 * j][3]),
            pair_of<Element>(weights[2 * j + 1][0], weights[2 * j + 1][1]),
            pair_of<Element>(weights[2 * j + 1][2], weights[2 * j + 1][3]),
        };
#pragma unroll
        for (u32 e = 0; e < E_PART; e += 16) {
            u32 b[4];
            const u32 row = j * 16 + lane % 16;
            load_turned_matrices(b, value + (row * SLOT_PITCH + e + lane / 16 * 8) * 2);
            multiply<Element>(sums[e / 8], a, b[0], b[1]);
            multiply<Element>(sums[e / 8 + 1], a, b[2], b[3]);
        }
    }
}

// Scales scores to powers of two, adds the bias and hides what is not seen.
__device__ __forceinline__ void finish_scores(
    float (&scores)[8][4], BIAS_PARAMETER u32 first_query, u32 first_key
) {
    const u32 lane = threadIdx.x % 32;
    const u32 own_query = first_query + threadIdx.x / 32 * 16 + lane / 4;
    const bool is_whole = first_key + TILE <= KEYS && (!CAUSAL || first_key + TILE <= first_query);
#pragma unroll
    for (u32 j = 0; j < 8; ++j) {
#pragma unroll
        for (u32 e = 0; e < 4; ++e) {
            const u32 query = own_query + e / 2 * 8;
            const u32 key = first_key + j * 8 + lane % 4 * 2 + e % 2;
            float score = scores[j][e] * SCALE;
            ADD_BIAS(score, query, key)
            if (!is_whole && (key >= KEYS || (CAUSAL && key > query))) {
                score = NOTHING;
            }
            scores[j][e] = score * LOG2_E;
        }
    }
}

// Turns scores to weights and scales what was summed before. A lane has two queries, four lanes
// have the same.
__device__ __forceinline__ void weigh(
    float (&scores)[8][4], float (&sums)[E_PART / 8][4], float (&greatest)[2], float (&totals)[2]
) {
#pragma unroll
    for (u32 half = 0; half < 2; ++half) {
        float most = greatest[half];
#pragma unroll
        for (u32 j = 0; j < 8; ++j) {
            most = fmaxf(most, fmaxf(scores[j][2 * half], scores[j][2 * half + 1]));
        }
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
        // Where nothing is seen yet, any finite number does.
        const float base = most == NOTHING ? 0.0f : most;
        const float factor = exp2f(greatest[half] - base);
        float total = totals[half] * factor;
#pragma unroll
        for (u32 j = 0; j < 8; ++j) {
#pragma unroll
            for (u32 e = 0; e < 2; ++e) {
                const float weight = exp2f(scores[j][2 * half + e] - base);
                scores[j][2 * half + e] = weight;
                total += weight;
            }
        }
#pragma unroll
        for (u32 e = 0; e < E_PART / 8; ++e) {
            sums[e][2 * half] *= factor;
            sums[e][2 * half + 1] *= factor;
        }
        greatest[half] = most;
        totals[half] = total;
    }
}

__device__ __forceinline__ void store_rows(
    const float (&sums)[E_PART / 8][4], const float (&totals)[2], float factor, Result* output,
    u32 first_query, u32 first_e
) {
    const u32 lane = threadIdx.x % 32;
#pragma unroll
    for (u32 half = 0; half < 2; ++half) {
        float total = totals[half];
        total += __shfl_xor_sync(0xffffffffu, total, 1);
        total += __shfl_xor_sync(0xffffffffu, total, 2);
        const u32 query = first_query + threadIdx.x / 32 * 16 + lane / 4 + half * 8;
        if (query >= QUERIES) {
            continue;
        }
        Result* row = output + (u64)query * OUTPUT_TOKEN;
#pragma unroll
        for (u32 j = 0; j < E_PART / 8; ++j) {
            const u32 e = first_e + j * 8 + lane % 4 * 2;
            if (e >= E) {
                continue;
            }
            Pack<Result, 2> pair;
            pair.values[0] = Round<Result>::of(sums[j][2 * half] / total * factor);
            pair.values[1] = Round<Result>::of(sums[j][2 * half + 1] / total * factor);
            if constexpr (OUTPUT_PAIRED) {
                *reinterpret_cast<Pack<Result, 2>*>(row + e) = pair;
            } else {
                row[e * OUTPUT_STEP] = pair.values[0];
                row[(e + 1) * OUTPUT_STEP] = pair.values[1];
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(128) attention(
    const Stored* query, const Stored* key, const Stored* value, BIAS_PARAMETER FACTOR_PARAMETER
    Result* output
) {
    DYNAMIC_SHARED(memory);
    u8* slots = memory + TILE * QUERY_PITCH * 2;
    const u32 first_query = blockIdx.x % QUERY_TILES * TILE;
    const u32 first_e = blockIdx.x / QUERY_TILES % E_PARTS * E_PART;
    const u32 head = blockIdx.x / (QUERY_TILES * E_PARTS) % HEADS;
    const u64 batch = blockIdx.x / (QUERY_TILES * E_PARTS * HEADS);
    query += batch * QUERY_BATCH + head * QUERY_HEAD;
    key += batch * KEY_BATCH + head * KEY_HEAD;
    value += batch * VALUE_BATCH + head * VALUE_HEAD;
    output += batch * OUTPUT_BATCH + head * OUTPUT_HEAD;
    MOVE_BIAS
    const u32 seen = first_query / TILE + 1;
    const u32 tiles = CAUSAL && seen < KEY_TILES ? seen : KEY_TILES;

    // Parts in order: those of k of a tile, then its v.
    auto bring_part = [&](u32 number) {
        const u32 tile = number / (D_PARTS + 1), part = number % (D_PARTS + 1);
        u8* slot = slots + number % 2 * SLOT_BYTES;
        if (tile >= tiles) {
            return;
        }
        if (part < D_PARTS) {
            bring<D_PART>(slot, SLOT_PITCH, key, KEY_TOKEN, tile * TILE, KEYS, part * D_PART, D);
        } else {
            bring<E_PART>(slot, SLOT_PITCH, value, VALUE_TOKEN, tile * TILE, KEYS, first_e, E);
        }
    };
    // Waits for a part, and lets the next one come in the slot that all are done with.
    auto part_of = [&](u32 number) {
        wait_copies<0>();
        __syncthreads();
        bring_part(number + 1);
        commit_copies();
        return slots + number % 2 * SLOT_BYTES;
    };

    bring<D_PARTS * D_PART>(memory, QUERY_PITCH, query, QUERY_TOKEN, first_query, QUERIES, 0, D);
    bring_part(0);
    commit_copies();
    const u8* own_queries = memory + threadIdx.x / 32 * 16 * QUERY_PITCH * 2;
    float sums[E_PART / 8][4] = {};
    float greatest[2] = {NOTHING, NOTHING}, totals[2] = {};
#pragma unroll 1
    for (u32 tile = 0; tile < tiles; ++tile) {
        const u32 number = tile * (D_PARTS + 1);
        float scores[8][4] = {};
#pragma unroll 1
        for (u32 part = 0; part < D_PARTS; ++part) {
            const u8* slot = part_of(number + part);
            add_scores(scores, own_queries + part * D_PART * 2, slot);
        }
        finish_scores(scores, BIAS_ARGUMENT first_query, tile * TILE);
        weigh(scores, sums, greatest, totals);
        add_values(sums, scores, part_of(number + D_PARTS));
    }
    store_rows(sums, totals, OUTPUT_SCALE FACTOR, output, first_query, first_e);
}
