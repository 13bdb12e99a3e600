/* Operators that take each pixel for itself. */
#pragma once
#include "numbers.h"
#include "planes.h"

/* The second input is a map as large as the first, or one pixel for all of it. */
static inline V second(const Job *job, const Data *data, int c, int at, int plane) {
    if (job->broadcast) return Q6_V_vsplat_R(*(const int32_t *)(data->x2 + c * BYTES));
    return *(const V *)(data->x2 + c * plane + at);
}

/* The shift that makes bytes reaches 15 bits: the rest comes first. */
static inline V to_bytes_in_two(const Job *job, V *words) {
    UNROLL for (int k = 0; k < 4; k++) words[k] = Q6_Vw_vasr_VwR(words[k], job->before);
    return to_bytes(words[0], words[1], words[2], words[3], job->shift);
}

/* (a * scale[0] + b * scale[1] + bias) >> before >> shift, the scales below 2^21 */
static void add(const Job *job, const Data *data) {
    int plane = 4 * pitch_of(job->height * job->width);
    V bias = Q6_V_vsplat_R(data->bias[0]);
    V first = Q6_V_vsplat_R(data->scale[0]), other = Q6_V_vsplat_R(data->scale[1]);
    for (int c = 0; c < job->in4; c++)
        for (int at = 0; at < plane; at += BYTES) {
            V a[4], b[4];
            to_words(*(const V *)(data->x + c * plane + at), a);
            to_words(second(job, data, c, at, plane), b);
            UNROLL for (int k = 0; k < 4; k++)
                a[k] = Q6_Vw_vmpyieacc_VwVwVuh(Q6_Vw_vmpyieacc_VwVwVuh(bias, first, a[k]), other, b[k]);
            *(V *)(data->y + c * plane + at) = to_bytes_in_two(job, a);
        }
}

/* (a - bias[0]) * (b - bias[1]) * scale, requantised */
static void multiply(const Job *job, const Data *data) {
    int plane = 4 * pitch_of(job->height * job->width);
    V round = rounding(job, job->zero), scale = Q6_V_vsplat_R(data->scale[0]);
    V first = Q6_Vh_vsplat_R(data->bias[0]), other = Q6_Vh_vsplat_R(data->bias[1]);
    for (int c = 0; c < job->in4; c++)
        for (int at = 0; at < plane; at += BYTES) {
            W a = Q6_Wuh_vzxt_Vub(*(const V *)(data->x + c * plane + at));
            W b = Q6_Wuh_vzxt_Vub(second(job, data, c, at, plane));
            W even = Q6_Ww_vmpy_VhVh(Q6_Vh_vsub_VhVh(Q6_V_lo_W(a), first), Q6_Vh_vsub_VhVh(Q6_V_lo_W(b), other));
            W odd = Q6_Ww_vmpy_VhVh(Q6_Vh_vsub_VhVh(Q6_V_hi_W(a), first), Q6_Vh_vsub_VhVh(Q6_V_hi_W(b), other));
            V words[4] = {Q6_V_lo_W(even), Q6_V_lo_W(odd), Q6_V_hi_W(even), Q6_V_hi_W(odd)};
            UNROLL for (int k = 0; k < 4; k++)
                words[k] = Q6_Vw_vadd_VwVw(scaled(Q6_Vw_vasl_VwR(words[k], job->before), scale), round);
            *(V *)(data->y + c * plane + at) = to_bytes(words[0], words[1], words[2], words[3], job->shift);
        }
}

/* (x * scale[channel] + bias[channel]) >> before >> shift, the scales below 2^22 */
static void scale_channels(const Job *job, const Data *data) {
    int plane = 4 * pitch_of(job->height * job->width);
    for (int c = 0; c < job->in4; c++)
        for (int at = 0; at < plane; at += BYTES) {
            V words[4];
            to_words(*(const V *)(data->x + c * plane + at), words);
            UNROLL for (int k = 0; k < 4; k++)
                words[k] = Q6_Vw_vmpyieacc_VwVwVuh(Q6_V_vsplat_R(data->bias[4 * c + k]),
                                                   Q6_V_vsplat_R(data->scale[4 * c + k]), words[k]);
            *(V *)(data->y + c * plane + at) = to_bytes_in_two(job, words);
        }
}

/* Any function of a byte, by its 256 values. vlut32 finds those of 32 indices in the low or high bytes of halfwords. */
static void look_up(const Job *job, const Data *data) {
    int size = 4 * pitch_of(job->height * job->width) * job->in4;
    const V *table = (const V *)data->weights;
    for (int at = 0; at < size; at += BYTES) {
        V x = *(const V *)(data->x + at);
        V y = Q6_Vb_vlut32_VbVbR(x, table[0], 0);
        y = Q6_Vb_vlut32or_VbVbVbR(y, x, table[0], 1);
        y = Q6_Vb_vlut32or_VbVbVbR(y, x, table[0], 2);
        y = Q6_Vb_vlut32or_VbVbVbR(y, x, table[0], 3);
        y = Q6_Vb_vlut32or_VbVbVbR(y, x, table[1], 4);
        y = Q6_Vb_vlut32or_VbVbVbR(y, x, table[1], 5);
        y = Q6_Vb_vlut32or_VbVbVbR(y, x, table[1], 6);
        y = Q6_Vb_vlut32or_VbVbVbR(y, x, table[1], 7);
        *(V *)(data->y + at) = y;
    }
}

/* Output channel i is channel bias[i] of the input: concatenation, splitting and shuffling. */
static void choose_channels(const Job *job, const Data *data) {
    int plane = 4 * pitch_of(job->height * job->width);
    V mask = Q6_V_vsplat_R(0xff);
    for (int c = 0; c < job->out4; c++) {
        const int32_t *from = data->bias + 4 * c;
        uint8_t *y = data->y + c * plane;
        const uint8_t *x[4];
        UNROLL for (int k = 0; k < 4; k++) x[k] = data->x + from[k] / 4 * plane;
        int whole = from[0] % 4 == 0;
        for (int k = 1; k < 4; k++) whole &= from[k] == from[0] + k;
        if (whole) {
            for (int at = 0; at < plane; at += BYTES) *(V *)(y + at) = *(const V *)(x[0] + at);
            continue;
        }
        for (int at = 0; at < plane; at += BYTES) {
            V word = Q6_V_vzero();
            UNROLL for (int k = 0; k < 4; k++) {
                V byte = Q6_V_vand_VV(Q6_Vuw_vlsr_VuwR(*(const V *)(x[k] + at), 8 * (from[k] % 4)), mask);
                word = Q6_V_vor_VV(word, Q6_Vw_vasl_VwR(byte, 8 * k));
            }
            *(V *)(y + at) = word;
        }
    }
}
