/* Functions of single precision that code of TVM calls: right to a few units of the last place where networks use
 * them, with polynomials and without tables. Building a C library for Hexagon instead takes zig a minute. */
#pragma once
#include <stdint.h>

static inline uint32_t bits_of(float x) {
    union { float x; uint32_t bits; } both = {x};
    return both.bits;
}
static inline float float_of(uint32_t bits) {
    union { uint32_t bits; float x; } both = {bits};
    return both.x;
}

/* Halves go to the even number: adding so much leaves no bits behind the point. */
float nearbyintf(float x) {
    if (!(__builtin_fabsf(x) < 4194304.0f)) return x;
    volatile float moved = x + 12582912.0f;
    return moved - 12582912.0f;
}
float floorf(float x) {
    float near = nearbyintf(x);
    return near > x ? near - 1 : near;
}
float ceilf(float x) { return -floorf(-x); }
float truncf(float x) { return x < 0 ? ceilf(x) : floorf(x); }
float roundf(float x) { return x < 0 ? -floorf(0.5f - x) : floorf(x + 0.5f); }

/* 2^n times the series of what is left, which is below half of log 2. */
float expf(float x) {
    if (x < -87.3f) return 0;
    if (x > 88.7f) return float_of(0x7f800000);
    float n = nearbyintf(x * 1.44269504f), r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float sum = 1 + r * (1 + r * (0.5f + r * (1 / 6.0f + r * (1 / 24.0f + r * (1 / 120.0f + r * (1 / 720.0f))))));
    return float_of(bits_of(sum) + ((uint32_t)(int32_t)n << 23));
}

/* Twice the area hyperbolic tangent of (m - 1) / (m + 1), m between 0.7 and 1.4, and the exponent's share. */
float logf(float x) {
    if (x < 0) return float_of(0x7fc00000);
    if (x < 1.17549435e-38f) return float_of(0xff800000);
    int32_t exponent = (int32_t)((bits_of(x) - 0x3f3504f3) & 0xff800000);
    float m = float_of(bits_of(x) - (uint32_t)exponent), n = (float)(exponent >> 23);
    float s = (m - 1) / (m + 1), q = s * s;
    float series = 2 * s * (1 + q * (1 / 3.0f + q * (1 / 5.0f + q * (1 / 7.0f + q * (1 / 9.0f)))));
    return n * 0.693359375f + (series - n * 2.12194440e-4f);
}

float powf(float x, float y) {
    if (y == 0) return 1;
    if (x == 0) return y > 0 ? 0 : float_of(0x7f800000);
    if (x > 0) return expf(y * logf(x));
    if (nearbyintf(y) != y) return float_of(0x7fc00000);
    float size = expf(y * logf(-x)), half = y / 2;
    return nearbyintf(half) == half ? size : -size;
}

/* Newton's steps on the reciprocal of the root. */
float __hexagon_sqrtf(float x) {
    if (x < 1.17549435e-38f) return x < 0 ? float_of(0x7fc00000) : 0;
    float y = float_of(0x5f375a86 - (bits_of(x) >> 1));
    for (int i = 0; i < 3; i++) y *= 1.5f - 0.5f * x * y * y;
    float root = x * y;
    return root + 0.5f * y * (x - root * root);
}
float sqrtf(float x) { return __hexagon_sqrtf(x); }

/* The rational approximation 7.1.26 of Abramowitz and Stegun, off by 1.5e-7 at most. */
float erff(float x) {
    float size = __builtin_fabsf(x), t = 1 / (1 + 0.3275911f * size);
    float sum = t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
    float found = 1 - sum * expf(-size * size);
    return x < 0 ? -found : found;
}

float tanhf(float x) {
    float e = expf(-2 * __builtin_fabsf(x)), found = (1 - e) / (1 + e);
    return x < 0 ? -found : found;
}

/* Sine of x less so many quarters of a turn; `quarter` 1 makes it the cosine. */
static float turned(float x, int32_t quarter) {
    float n = nearbyintf(x * 0.636619772f), r = x - n * 1.5703125f - n * 4.83751297e-4f - n * 7.549789948e-8f;
    float q = r * r;
    quarter += (int32_t)n;
    float found = quarter & 1 ? 1 + q * (-0.5f + q * (1 / 24.0f + q * (-1 / 720.0f + q * (1 / 40320.0f))))
                              : r * (1 + q * (-1 / 6.0f + q * (1 / 120.0f + q * (-1 / 5040.0f))));
    return quarter & 2 ? -found : found;
}
float sinf(float x) { return turned(x, 0); }
float cosf(float x) { return turned(x, 1); }
