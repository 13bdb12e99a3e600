/* Convolutions, depthwise convolutions and matrix products, by vrmpy: four products of bytes added to each word. */
#pragma once
#include "numbers.h"
#include "planes.h"

/* `vectors` times 32 pixels of `outputs` channels. Weights are scalars, [step][outputs][4]: two products a packet. */
INLINE void convolve(V round, int shift, const uint8_t *x, const int32_t *where, int steps, const int8_t *weights,
                     const int32_t *bias, const int32_t *scale, uint8_t *y, int plane, const int vectors,
                     const int outputs) {
    V sum[16];
    UNROLL for (int o = 0; o < outputs; o++) {
        V start = Q6_V_vsplat_R(bias[o]);
        UNROLL for (int v = 0; v < vectors; v++) sum[o * vectors + v] = start;
    }
    const uint64_t *pairs = (const uint64_t *)weights;
    for (int step = 0; step < steps; step++) {
        const uint8_t *at = x + where[step];
        V pixels[2];
        UNROLL for (int v = 0; v < vectors; v++) pixels[v] = *(const U *)(at + v * BYTES);
        UNROLL for (int o = 0; o < outputs; o += 2) {
            uint64_t pair = *pairs++;
            UNROLL for (int v = 0; v < vectors; v++) {
                sum[o * vectors + v] = Q6_Vw_vrmpyacc_VwVubRb(sum[o * vectors + v], pixels[v], (int32_t)pair);
                sum[(o + 1) * vectors + v] =
                    Q6_Vw_vrmpyacc_VwVubRb(sum[(o + 1) * vectors + v], pixels[v], (int32_t)(pair >> 32));
            }
        }
    }
    UNROLL for (int o = 0; o < outputs; o++) {
        V factor = Q6_V_vsplat_R(scale[o]);
        UNROLL for (int v = 0; v < vectors; v++)
            sum[o * vectors + v] = Q6_Vw_vadd_VwVw(scaled(sum[o * vectors + v], factor), round);
    }
    UNROLL for (int o = 0; o < outputs; o += 4)
        UNROLL for (int v = 0; v < vectors; v++)
            *(V *)(y + o / 4 * plane + v * BYTES) =
                to_bytes(sum[o * vectors + v], sum[(o + 1) * vectors + v], sum[(o + 2) * vectors + v],
                         sum[(o + 3) * vectors + v], shift);
}

static void convolution(const Job *job, const Data *data) {
    Field field;
    open_field(job, data->x, &field);
    uint8_t *made = open_output(job, &field, data->y);
    V round = rounding(job, job->zero);
    int shift = job->shift, steps = job->in4 * field.taps, plane = 4 * pitch_of(field.pixels), vectors = plane / BYTES;
    int32_t *where = allocate(4 * steps);
    for (int c = 0, step = 0; c < job->in4; c++)
        for (int t = 0; t < field.taps; t++) where[step++] = 4 * c * field.plane + field.offset[t];
    const int8_t *weights = data->weights;
    for (int group = 0; group < job->out4; group += 2) {
        uint8_t *y = made + group * plane;
        const int32_t *bias = data->bias + 4 * group, *scale = data->scale + 4 * group;
        int v = 0, both = group + 2 <= job->out4;
        for (; both && v + 2 <= vectors; v += 2)
            convolve(round, shift, field.base + v * BYTES, where, steps, weights, bias, scale, y + v * BYTES, plane, 2, 8);
        for (; both && v < vectors; v++)
            convolve(round, shift, field.base + v * BYTES, where, steps, weights, bias, scale, y + v * BYTES, plane, 1, 8);
        for (; v + 2 <= vectors; v += 2)
            convolve(round, shift, field.base + v * BYTES, where, steps, weights, bias, scale, y + v * BYTES, plane, 2, 4);
        for (; v < vectors; v++)
            convolve(round, shift, field.base + v * BYTES, where, steps, weights, bias, scale, y + v * BYTES, plane, 1, 4);
        weights += steps * (both ? 32 : 16);
    }
    close_output(job, &field, made, data->y);
}

/* Four vectors [pixel][channel], one a tap, become four vectors [pixel][tap], one a channel. */
INLINE void transpose(const V *taps, V *channels) {
    W first = Q6_Wb_vshuffoe_VbVb(taps[1], taps[0]), second = Q6_Wb_vshuffoe_VbVb(taps[3], taps[2]);
    W even = Q6_Wh_vshuffoe_VhVh(Q6_V_lo_W(second), Q6_V_lo_W(first));
    W odd = Q6_Wh_vshuffoe_VhVh(Q6_V_hi_W(second), Q6_V_hi_W(first));
    channels[0] = Q6_V_lo_W(even), channels[2] = Q6_V_hi_W(even);
    channels[1] = Q6_V_lo_W(odd), channels[3] = Q6_V_hi_W(odd);
}

/* Weights are [group of four taps][4 channels][4 taps]. */
INLINE void filter(V round, int shift, const uint8_t *x, const int32_t *offset, int groups, const int8_t *weights,
                   const int32_t *bias, const int32_t *scale, uint8_t *y, const int vectors) {
    V sum[8];
    UNROLL for (int c = 0; c < 4; c++)
        UNROLL for (int v = 0; v < vectors; v++) sum[4 * v + c] = Q6_V_vsplat_R(bias[c]);
    const uint64_t *pairs = (const uint64_t *)weights;
    for (int g = 0; g < groups; g++) {
        uint64_t low = *pairs++, high = *pairs++;
        UNROLL for (int v = 0; v < vectors; v++) {
            V taps[4], channels[4];
            UNROLL for (int t = 0; t < 4; t++) taps[t] = *(const U *)(x + offset[4 * g + t] + v * BYTES);
            transpose(taps, channels);
            sum[4 * v] = Q6_Vw_vrmpyacc_VwVubRb(sum[4 * v], channels[0], (int32_t)low);
            sum[4 * v + 1] = Q6_Vw_vrmpyacc_VwVubRb(sum[4 * v + 1], channels[1], (int32_t)(low >> 32));
            sum[4 * v + 2] = Q6_Vw_vrmpyacc_VwVubRb(sum[4 * v + 2], channels[2], (int32_t)high);
            sum[4 * v + 3] = Q6_Vw_vrmpyacc_VwVubRb(sum[4 * v + 3], channels[3], (int32_t)(high >> 32));
        }
    }
    UNROLL for (int v = 0; v < vectors; v++) {
        UNROLL for (int c = 0; c < 4; c++)
            sum[4 * v + c] = Q6_Vw_vadd_VwVw(scaled(sum[4 * v + c], Q6_V_vsplat_R(scale[c])), round);
        *(V *)(y + v * BYTES) = to_bytes(sum[4 * v], sum[4 * v + 1], sum[4 * v + 2], sum[4 * v + 3], shift);
    }
}

static void depthwise(const Job *job, const Data *data) {
    Field field;
    open_field(job, data->x, &field);
    uint8_t *made = open_output(job, &field, data->y);
    V round = rounding(job, job->zero);
    int shift = job->shift, groups = (field.taps + 3) / 4, plane = 4 * pitch_of(field.pixels), vectors = plane / BYTES;
    for (int c = 0; c < job->in4; c++) {
        const uint8_t *x = field.base + 4 * c * field.plane;
        const int8_t *weights = data->weights + 16 * c * groups;
        uint8_t *y = made + c * plane;
        int v = 0;
        for (; v + 2 <= vectors; v += 2)
            filter(round, shift, x + v * BYTES, field.offset, groups, weights, data->bias + 4 * c, data->scale + 4 * c,
                   y + v * BYTES, 2);
        for (; v < vectors; v++)
            filter(round, shift, x + v * BYTES, field.offset, groups, weights, data->bias + 4 * c, data->scale + 4 * c,
                   y + v * BYTES, 1);
    }
    close_output(job, &field, made, data->y);
}

/* 32 times `parts` outputs of one pixel. Weights are vectors, [step][parts][32 outputs][4]; output lane * parts + part. */
INLINE void multiply_matrix(V round, int shift, const uint8_t *x, int steps, const int8_t *weights,
                            const int32_t *bias, const int32_t *scale, uint8_t *bytes, const int parts) {
    V sum[4];
    UNROLL for (int p = 0; p < parts; p++) sum[p] = *(const V *)(bias + LANES * p);
    const V *row = (const V *)weights;
    for (int c = 0; c < steps; c++) {
        V word = Q6_V_vsplat_R(*(const int32_t *)(x + BYTES * c));
        UNROLL for (int p = 0; p < parts; p++) sum[p] = Q6_Vw_vrmpyacc_VwVubVb(sum[p], word, *row++);
    }
    UNROLL for (int p = 0; p < parts; p++)
        sum[p] = Q6_Vw_vadd_VwVw(scaled(sum[p], *(const V *)(scale + LANES * p)), round);
    *(V *)bytes = to_bytes(sum[0], sum[1 % parts], sum[2 % parts], sum[3 % parts], shift);
}

/* One pixel in, one out: a plane holds one word of use. */
static void linear(const Job *job, const Data *data) {
    V round = rounding(job, job->zero);
    int shift = job->shift, steps = job->in4, outputs = 4 * job->out4, parts = outputs > LANES ? 4 : 1, step = LANES * parts;
    const int8_t *weights = data->weights;
    for (int o = 0; o < outputs; o += step) {
        uint8_t bytes[BYTES] __attribute__((aligned(128)));
        if (parts == 4)
            multiply_matrix(round, shift, data->x, steps, weights, data->bias + o, data->scale + o, bytes, 4);
        else
            multiply_matrix(round, shift, data->x, steps, weights, data->bias + o, data->scale + o, bytes, 1);
        for (int i = 0; i < step && o + i < outputs; i++)
            data->y[(o + i) / 4 * BYTES + i % 4] = bytes[parts == 4 ? i : 4 * i];
        weights += step * 4 * steps;
    }
}
