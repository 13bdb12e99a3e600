/* The operators of profilers/hexagon in plain C: what benchmarks/hexagon_sim.py compares the vector kernels with.
 * The same arrays, the same fixed-point numbers, so the same output to the byte. */
#include "kernels.h"

static int plane_of(int height, int width) { return 4 * pitch_of(height * width); }

static uint8_t byte_of(const Job *j, int64_t sum, int32_t scale, int zero) {
    int64_t scaled = ((sum << j->before) * scale) >> 31;
    int64_t value = (scaled + ((int64_t)zero << j->shift) + (1 << (j->shift - 1))) >> j->shift;
    return value < 0 ? 0 : value > 255 ? 255 : (uint8_t)value;
}

static uint8_t clamped(const Job *j, int32_t sum) {
    int32_t value = sum >> j->before >> j->shift;
    return value < 0 ? 0 : value > 255 ? 255 : (uint8_t)value;
}

/* The four channels of a pixel that tap (i, k) of the window at (r, c) sees; null outside of the map. */
static const uint8_t *seen(const Job *j, const uint8_t *plane, int r, int c, int i, int k) {
    int y = r * j->stride + i * j->dilation - j->top, x = c * j->stride + k * j->dilation - j->left;
    return y < 0 || y >= j->height || x < 0 || x >= j->width ? 0 : plane + 4 * (y * j->width + x);
}

static void convolution(const Job *j, const Data *d) {
    int in = plane_of(j->height, j->width), out = plane_of(j->out_height, j->out_width);
    int taps = j->kernel_height * j->kernel_width, steps = j->in4 * taps;
    for (int o = 0; o < 4 * j->out4; o++) {
        int together = o / 8 * 2 + 2 <= j->out4 ? 8 : 4;
        const int8_t *weights = d->weights + o / 8 * 32 * steps + o % 8 * 4;
        for (int r = 0; r < j->out_height; r++)
            for (int c = 0; c < j->out_width; c++) {
                int32_t sum = d->bias[o];
                for (int i = 0; i < j->kernel_height; i++)
                    for (int k = 0; k < j->kernel_width; k++) {
                        const uint8_t *x = seen(j, d->x, r, c, i, k), *last = x + j->in4 * in;
                        const int8_t *w = weights + (i * j->kernel_width + k) * together * 4;
                        if (x)
                            for (; x < last; x += in, w += taps * together * 4)
                                sum += x[0] * w[0] + x[1] * w[1] + x[2] * w[2] + x[3] * w[3];
                        else
                            for (int g = 0; g < j->in4; g++, w += taps * together * 4)
                                sum += j->pad * (w[0] + w[1] + w[2] + w[3]);
                    }
                d->y[o / 4 * out + 4 * (r * j->out_width + c) + o % 4] = byte_of(j, sum, d->scale[o], j->zero);
            }
    }
}

static void depthwise(const Job *j, const Data *d) {
    int in = plane_of(j->height, j->width), out = plane_of(j->out_height, j->out_width);
    int groups = (j->kernel_height * j->kernel_width + 3) / 4;
    for (int o = 0; o < 4 * j->out4; o++) {
        const int8_t *weights = d->weights + o / 4 * 16 * groups + o % 4 * 4;
        for (int r = 0; r < j->out_height; r++)
            for (int c = 0; c < j->out_width; c++) {
                int32_t sum = d->bias[o];
                for (int i = 0, t = 0; i < j->kernel_height; i++)
                    for (int k = 0; k < j->kernel_width; k++, t++) {
                        const uint8_t *x = seen(j, d->x + o / 4 * in, r, c, i, k);
                        sum += (x ? x[o % 4] : j->pad) * weights[t / 4 * 16 + t % 4];
                    }
                d->y[o / 4 * out + 4 * (r * j->out_width + c) + o % 4] = byte_of(j, sum, d->scale[o], j->zero);
            }
    }
}

static void linear(const Job *j, const Data *d) {
    int outputs = 4 * j->out4, parts = outputs > LANES ? 4 : 1, block = LANES * parts;
    for (int o = 0; o < outputs; o++) {
        int part = o % block % parts, lane = o % block / parts, at = o / block * block + part * LANES + lane;
        const int8_t *weights = d->weights + o / block * block * 4 * j->in4 + (part * LANES + lane) * 4;
        int32_t sum = d->bias[at];
        for (int g = 0; g < j->in4; g++)
            for (int b = 0; b < 4; b++) sum += d->x[g * BYTES + b] * weights[g * block * 4 + b];
        d->y[o / 4 * BYTES + o % 4] = byte_of(j, sum, d->scale[at], j->zero);
    }
}

static void pool(const Job *j, const Data *d, int mean) {
    int in = plane_of(j->height, j->width), out = plane_of(j->out_height, j->out_width);
    for (int o = 0; o < 4 * j->out4; o++)
        for (int r = 0; r < j->out_height; r++)
            for (int c = 0; c < j->out_width; c++) {
                int sum = 0, most = 0;
                for (int i = 0; i < j->kernel_height; i++)
                    for (int k = 0; k < j->kernel_width; k++) {
                        const uint8_t *x = seen(j, d->x + o / 4 * in, r, c, i, k);
                        int value = x ? x[o % 4] : j->pad;
                        sum += value;
                        if (value > most) most = value;
                    }
                int scale = mean ? d->scale[r * j->phase_width + c] : 0;
                d->y[o / 4 * out + 4 * (r * j->out_width + c) + o % 4] =
                    mean ? byte_of(j, sum + d->bias[0], scale, j->zero) : (uint8_t)most;
            }
}

static void global_pool(const Job *j, const Data *d) {
    int in = plane_of(j->height, j->width);
    for (int o = 0; o < 4 * j->in4; o++) {
        int sum = 0;
        for (int at = 0; at < j->height * j->width; at++) sum += d->x[o / 4 * in + 4 * at + o % 4];
        d->y[o / 4 * BYTES + o % 4] = byte_of(j, sum + d->bias[0], d->scale[0], j->zero);
    }
}

static void pixels(const Job *j, const Data *d) {
    int plane = plane_of(j->height, j->width), used = 4 * j->height * j->width;
    for (int c = 0; c < j->out4; c++)
        for (int at = 0; at < used; at++) {
            int i = c * plane + at, channel = 4 * c + at % 4;
            int other = j->broadcast ? c * BYTES + at % 4 : i;
            if (j->kind == ADD)
                d->y[i] = clamped(j, d->x[i] * d->scale[0] + d->x2[other] * d->scale[1] + d->bias[0]);
            else if (j->kind == MULTIPLY)
                d->y[i] = byte_of(j, (d->x[i] - d->bias[0]) * (d->x2[other] - d->bias[1]), d->scale[0], j->zero);
            else if (j->kind == SCALE)
                d->y[i] = clamped(j, d->x[i] * d->scale[channel] + d->bias[channel]);
            else if (j->kind == LOOKUP)
                d->y[i] = d->weights[d->x[i] / 128 * 128 + d->x[i] % 64 * 2 + d->x[i] / 64 % 2];
            else
                d->y[i] = d->x[d->bias[channel] / 4 * plane + at / 4 * 4 + d->bias[channel] % 4];
        }
}

int run(const Job *job, const Data *data) {
    switch (job->kind) {
        case CONV: convolution(job, data); return 1;
        case DEPTHWISE: depthwise(job, data); return 1;
        case LINEAR: linear(job, data); return 1;
        case MAX_POOL: pool(job, data, 0); return 1;
        case AVERAGE_POOL: pool(job, data, 1); return 1;
        case GLOBAL_POOL: global_pool(job, data); return 1;
        default: pixels(job, data); return job->kind <= CHANNELS;
    }
}
