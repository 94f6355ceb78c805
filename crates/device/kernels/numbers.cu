// Element types and the rounding of each, by the rules of the crate `tensor`: to the nearest
// value, ties to even. f16 goes to infinity, f8e4m3 saturates at 448, NaN stays NaN.
//
// The text stands in front of all other sources: NVRTC has no headers of CUDA, so none is used.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

struct f16 { u16 bits; };
struct bf16 { u16 bits; };
struct f8e4m3 { u8 bits; };

__device__ __forceinline__ float widen(float x) { return x; }

__device__ __forceinline__ float widen(f16 x) {
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(x.bits));
    return result;
}

__device__ __forceinline__ float widen(bf16 x) {
    return __uint_as_float((u32)x.bits << 16);
}

// The exponent's bias is 7 against 127; the product is exact, for subnormals too.
__device__ __forceinline__ float widen(f8e4m3 x) {
    u32 magnitude = x.bits & 0x7fu;
    float value = __uint_as_float(magnitude << 20) * 0x1p120f;
    value = magnitude == 0x7fu ? __uint_as_float(0x7fc00000u) : value;
    return x.bits & 0x80u ? -value : value;
}

template <class T> struct Round;

template <> struct Round<float> {
    static __device__ __forceinline__ float of(float x) { return x; }
};

template <> struct Round<f16> {
    static __device__ __forceinline__ f16 of(float x) {
        f16 result;
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(x));
        return result;
    }
};

// The sum carries into the exponent as it must; NaN would carry into infinity or zero.
template <> struct Round<bf16> {
    static __device__ __forceinline__ bf16 of(float x) {
        u32 bits = __float_as_uint(x);
        u32 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
        bf16 result;
        result.bits = (u16)(x != x ? (bits >> 16) | 0x40u : rounded);
        return result;
    }
};

// From sm_90 on, and on sm_89 from CUDA 12.1 on.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
#if __CUDA_ARCH__ >= 900 || __CUDACC_VER_MAJOR__ > 12 || __CUDACC_VER_MINOR__ >= 1
#define HAS_F8_CONVERSION
#endif
#endif

template <> struct Round<f8e4m3> {
    static __device__ __forceinline__ f8e4m3 of(float x) {
        u32 bits = __float_as_uint(x);
        u32 sign = (bits >> 24) & 0x80u;
#ifdef HAS_F8_CONVERSION
        // The first of the pair is the upper half.
        u16 pair;
        asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(0.0f), "f"(x));
        f8e4m3 converted;
        converted.bits = (u8)(x != x ? sign | 0x7fu : (u32)pair & 0xffu);
        return converted;
#else
        u32 magnitude = bits & 0x7fffffffu;
        u32 code;
        if (magnitude > 0x7f800000u) {
            code = 0x7fu;
        } else if (magnitude >= 0x43e00000u) {
            // 448 and all above.
            code = 0x7eu;
        } else if (magnitude < 0x3c800000u) {
            // Below 2^-6 the spacing is 2^-9: f32 has that spacing in [2^14, 2^15).
            code = __float_as_uint(__uint_as_float(magnitude) + 16384.0f) - 0x46800000u;
        } else {
            // 20 bits of the mantissa go; the bias falls from 127 to 7.
            u32 rounded = magnitude + 0x7ffffu + ((magnitude >> 20) & 1u);
            code = (rounded >> 20) - (120u << 3);
            code = code > 0x7eu ? 0x7eu : code;
        }
        f8e4m3 result;
        result.bits = (u8)(sign | code);
        return result;
#endif
    }
};

// `Count` elements that are read or written together, 16 bytes at a time where they have them.
template <class T, int Count> struct alignas(sizeof(T) * Count < 16 ? sizeof(T) * Count : 16) Pack {
    T values[Count];
};

__device__ __forceinline__ u64 thread_index() {
    return (u64)blockIdx.x * blockDim.x + threadIdx.x;
}

__device__ __forceinline__ u64 thread_count() {
    return (u64)gridDim.x * blockDim.x;
}
