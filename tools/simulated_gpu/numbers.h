// Numbers of the dtypes that libraries of the simulated GPU read and write, by the numbers that CUDA
// gives these dtypes.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

enum Type : int { F32 = 0, F16 = 2, BF16 = 14, F8 = 28 };

static double value_at(uintptr_t memory, Type type, size_t at) {
    if (type == F32) {
        return ((const float*)memory)[at];
    }
    if (type == F16) {
        return (float)((const _Float16*)memory)[at];
    }
    if (type == BF16) {
        const uint32_t bits = (uint32_t)((const uint16_t*)memory)[at] << 16;
        float value;
        memcpy(&value, &bits, 4);
        return value;
    }
    const uint8_t code = ((const uint8_t*)memory)[at];
    const int exponent = code >> 3 & 15, fraction = code & 7;
    const double sign = code & 128 ? -1 : 1;
    if (exponent == 15 && fraction == 7) {
        return NAN;
    }
    return sign * (exponent ? std::ldexp(8 + fraction, exponent - 10) : std::ldexp(fraction, -9));
}
static uint8_t code_of(double value) {
    if (std::isnan(value)) {
        return 0x7f;
    }
    const uint8_t sign = std::signbit(value) ? 128 : 0;
    const double size = std::fabs(value);
    uint8_t best = 0;
    for (int code = 0; code < 127; ++code) {
        const uint8_t own = (uint8_t)code;
        const double left = std::fabs(value_at((uintptr_t)&own, F8, 0) - size);
        const double least = std::fabs(value_at((uintptr_t)&best, F8, 0) - size);
        if (left < least || (left == least && code % 2 == 0)) {
            best = own;
        }
    }
    return sign | best;
}
static void put_at(uintptr_t memory, Type type, size_t at, double value) {
    const float narrow = (float)value;
    if (type == F32) {
        ((float*)memory)[at] = narrow;
    } else if (type == F16) {
        ((_Float16*)memory)[at] = (_Float16)narrow;
    } else if (type == BF16) {
        uint32_t bits;
        memcpy(&bits, &narrow, 4);
        const uint32_t even = bits >> 16 & 1;
        ((uint16_t*)memory)[at] = std::isnan(narrow) ? 0x7fff : (uint16_t)((bits + 0x7fff + even) >> 16);
    } else {
        ((uint8_t*)memory)[at] = code_of(value);
    }
}
