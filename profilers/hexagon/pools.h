/* Pooling: the greatest, or the mean, of a window or of a whole map. */
#pragma once
#include "numbers.h"
#include "planes.h"

static void max_pool(const Job *job, const Data *data) {
    Field field;
    open_field(job, data->x, &field);
    uint8_t *made = open_output(job, &field, data->y);
    int plane = 4 * pitch_of(field.pixels);
    for (int c = 0; c < job->in4; c++) {
        const uint8_t *x = field.base + 4 * c * field.plane;
        for (int at = 0; at < plane; at += BYTES) {
            V most = *(const U *)(x + at);
            for (int t = 1; t < field.taps; t++) most = Q6_Vub_vmax_VubVub(most, *(const U *)(x + at + field.offset[t]));
            *(V *)(made + c * plane + at) = most;
        }
    }
    close_output(job, &field, made, data->y);
}

/* The scale is a pixel's own, because windows at the border hold fewer pixels; up to 256 taps. */
static void average_pool(const Job *job, const Data *data) {
    Field field;
    open_field(job, data->x, &field);
    uint8_t *made = open_output(job, &field, data->y);
    int plane = 4 * pitch_of(field.pixels);
    V round = rounding(job, job->zero), bias = Q6_V_vsplat_R(data->bias[0]), none = Q6_V_vzero();
    for (int c = 0; c < job->in4; c++) {
        const uint8_t *x = field.base + 4 * c * field.plane;
        for (int at = 0; at < plane; at += BYTES) {
            W sum = Q6_W_vcombine_VV(none, none);
            int t = 0;
            for (; t + 2 <= field.taps; t += 2)
                sum = Q6_Wh_vaddacc_WhVubVub(sum, *(const U *)(x + at + field.offset[t]),
                                             *(const U *)(x + at + field.offset[t + 1]));
            if (t < field.taps) sum = Q6_Wh_vaddacc_WhVubVub(sum, *(const U *)(x + at + field.offset[t]), none);
            W even = Q6_Wuw_vzxt_Vuh(Q6_V_lo_W(sum)), odd = Q6_Wuw_vzxt_Vuh(Q6_V_hi_W(sum));
            V words[4] = {Q6_V_lo_W(even), Q6_V_lo_W(odd), Q6_V_hi_W(even), Q6_V_hi_W(odd)};
            V scale = *(const V *)((const uint8_t *)data->scale + at);
            UNROLL for (int k = 0; k < 4; k++) {
                V centred = Q6_Vw_vasl_VwR(Q6_Vw_vadd_VwVw(words[k], bias), job->before);
                words[k] = Q6_Vw_vadd_VwVw(scaled(centred, scale), round);
            }
            *(V *)(made + c * plane + at) = to_bytes(words[0], words[1], words[2], words[3], job->shift);
        }
    }
    close_output(job, &field, made, data->y);
}

/* The mean of a whole map; the output has one pixel. */
static void global_pool(const Job *job, const Data *data) {
    int pixels = job->height * job->width, plane = 4 * pitch_of(pixels), rest = 4 * (pixels % LANES);
    V round = rounding(job, job->zero), bias = Q6_V_vsplat_R(data->bias[0]), scale = Q6_V_vsplat_R(data->scale[0]);
    HVX_VectorPred inside = Q6_Q_vsetq_R(rest);
    for (int c = 0; c < job->in4; c++) {
        const uint8_t *x = data->x + c * plane;
        V sums[4] = {Q6_V_vzero(), Q6_V_vzero(), Q6_V_vzero(), Q6_V_vzero()};
        for (int at = 0; at < plane; at += BYTES) {
            V some = *(const V *)(x + at);
            if (rest && at + BYTES == plane) some = Q6_V_vmux_QVV(inside, some, Q6_V_vzero());
            sums[0] = Q6_Vw_vrmpyacc_VwVubRb(sums[0], some, 0x00000001);
            sums[1] = Q6_Vw_vrmpyacc_VwVubRb(sums[1], some, 0x00000100);
            sums[2] = Q6_Vw_vrmpyacc_VwVubRb(sums[2], some, 0x00010000);
            sums[3] = Q6_Vw_vrmpyacc_VwVubRb(sums[3], some, 0x01000000);
        }
        UNROLL for (int k = 0; k < 4; k++) {
            for (int turn = BYTES / 2; turn >= 4; turn /= 2)
                sums[k] = Q6_Vw_vadd_VwVw(sums[k], Q6_V_vror_VR(sums[k], turn));
            V centred = Q6_Vw_vasl_VwR(Q6_Vw_vadd_VwVw(sums[k], bias), job->before);
            sums[k] = Q6_Vw_vadd_VwVw(scaled(centred, scale), round);
        }
        *(V *)(data->y + c * BYTES) = to_bytes(sums[0], sums[1], sums[2], sums[3], job->shift);
    }
}
