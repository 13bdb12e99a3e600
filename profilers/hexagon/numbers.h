/* Requantisation, without floating point: HVX has none before v68. */
#pragma once
#include "runtime.h"

#define UNROLL _Pragma("clang loop unroll(full)")
#define INLINE static inline __attribute__((always_inline))

/* floor(a * scale / 2^31); the scale has 31 bits, so that nothing is lost that float32 would have kept */
static inline V scaled(V a, V scale) {
    return Q6_Vw_vmpyoacc_VwVwVh_s1_sat_shift(Q6_Vw_vmpye_VwVuh(a, scale), a, scale);
}

/* What is added before the last shift: half of the last place, and the zero point. */
static inline V rounding(const Job *job, int zero) {
    return Q6_V_vsplat_R((zero << job->shift) + (job->shift ? 1 << (job->shift - 1) : 0));
}

/* Four vectors of words, one a channel, into one of bytes: shifted by 15 bits at most, saturated and interleaved. */
static inline V to_bytes(V a, V b, V c, V d, int shift) {
    V even = Q6_Vh_vasr_VwVwR_sat(c, a, shift), odd = Q6_Vh_vasr_VwVwR_sat(d, b, shift);
    return Q6_Vub_vsat_VhVh(odd, even);
}

/* The four channels of 32 pixels as words: the inverse of `to_bytes`. */
static inline void to_words(V x, V *words) {
    W halves = Q6_Wuh_vzxt_Vub(x);
    W even = Q6_Wuw_vzxt_Vuh(Q6_V_lo_W(halves)), odd = Q6_Wuw_vzxt_Vuh(Q6_V_hi_W(halves));
    words[0] = Q6_V_lo_W(even), words[2] = Q6_V_hi_W(even), words[1] = Q6_V_lo_W(odd), words[3] = Q6_V_hi_W(odd);
}
