/* Padding, strides and dilations, so that the kernels see nothing but taps at fixed distances. */
#pragma once
#include "runtime.h"

enum { MOST_TAPS = 256, MOST_PHASES = 32 };

/* Where the kernels read; how many words it is to the next plane and the next row, and bytes to each tap. */
typedef struct {
    const uint8_t *base;
    int plane, pitch, pixels, taps;
    int offset[MOST_TAPS + 4];
} Field;

/* a / b for small numbers: the processor has no division, and its library takes a minute to build. */
static inline int quotient(int a, int b) {
    int found = 0;
    for (; a >= b; a -= b) found++;
    return found;
}

/* Both write whole vectors, and one at least: up to 32 words too many, which what is written next puts right. */
static inline void fill(uint32_t *to, int words, V value) {
    *(U *)to = value;
    for (int i = LANES; i < words; i += LANES) *(U *)(to + i) = value;
}

static inline void copy(uint32_t *to, const uint32_t *from, int words) {
    *(U *)to = *(const U *)from;
    for (int i = LANES; i < words; i += LANES) *(U *)(to + i) = *(const U *)(from + i);
}

/* Even words to one place, odd words to another. */
static inline void deal(uint32_t *even, uint32_t *odd, const uint32_t *from, int words) {
    for (int i = 0; i < words; i += 2 * LANES) {
        W parts = Q6_W_vdeal_VVR(*(const U *)(from + i + LANES), *(const U *)(from + i), -4);
        *(U *)(even + i / 2) = Q6_V_lo_W(parts);
        *(U *)(odd + i / 2) = Q6_V_hi_W(parts);
    }
}

/* What a phase of columns takes of a row: `before` words of padding, `inside` of the map from its column `begin` on, and
 * `after` words of padding. */
typedef struct {
    int before, inside, begin, after;
} Span;

static Span span_of(const Job *job, int column) {
    int s = job->stride, before = job->left > column ? quotient(job->left - column + s - 1, s) : 0;
    int begin = before * s + column - job->left;
    int inside = begin < job->width ? quotient(job->width - begin + s - 1, s) : 0;
    if (before > job->phase_width) before = job->phase_width;
    if (inside > job->phase_width - before) inside = job->phase_width - before;
    return (Span){before, inside, begin, job->phase_width - before - inside};
}

/* One row of one phase of columns; rows are made in the order of their addresses, see `copy`. */
static inline void line_of(const uint32_t *from, uint32_t *to, Span span, int s, V zero) {
    fill(to, span.before, zero);
    to += span.before, from += span.begin;
    if (s == 1)
        copy(to, from, span.inside);
    else
        for (int i = 0; i < span.inside; i++) to[i] = from[i * s];
    fill(to + span.inside, span.after, zero);
}

/* The same of both phases of a stride of two, `phase` words apart; `first` is that of the map's first column. */
static inline void two_lines_of(const uint32_t *from, uint32_t *to, Span first, Span second, int phase, int words,
                                V zero) {
    uint32_t *other = to + phase;
    fill(to, first.before, zero);
    fill(other, second.before, zero);
    to += first.before, other += second.before;
    deal(to, other, from, words);
    fill(to + first.inside, first.after, zero);
    fill(other + second.inside, second.after, zero);
}

/* Every phase of one plane: its rows and columns of equal rest when divided by the stride. */
static void split(const Job *job, const Span *spans, const uint32_t *from, uint32_t *to, int phase, V zero) {
    const int s = job->stride, phases = job->phases, height = job->height, width = job->width, top = job->top;
    const int phase_height = job->phase_height, phase_width = job->phase_width;
    const int two = s == 2 && phases == 2, swapped = two && spans[0].begin, step = swapped ? -phase : phase;
    const Span first = spans[swapped], second = spans[two && !swapped];
    for (int row = 0; row < phases; row++, to += phases * phase) {
        uint32_t *at = to;
        int source = row - top;
        for (int r = 0; r < phase_height; r++, at += phase_width, source += s) {
            const uint32_t *line = from + source * width;
            if (source < 0 || source >= height)
                for (int column = 0; column < phases; column++) fill(at + column * phase, phase_width, zero);
            else if (two)
                two_lines_of(line, swapped ? at + phase : at, first, second, step, width, zero);
            else if (s == 1)
                line_of(line, at, first, 1, zero);
            else
                for (int column = 0; column < phases; column++)
                    line_of(line, at + column * phase, spans[column], s, zero);
        }
    }
}

/* Makes the field that a window of the job's kernel moves over; the input itself where nothing has to be padded. */
static void open_field(const Job *job, const uint8_t *x, Field *field) {
    int plain = pitch_of(job->height * job->width), taps = 0;
    int phase = pitch_of(job->phase_height * job->phase_width + 2 * LANES);
    int bare = job->stride == 1 && job->phase_height == job->height && job->phase_width == job->width;
    for (int i = 0; i < job->kernel_height; i++)
        for (int j = 0; j < job->kernel_width; j++) {
            int down = i * job->dilation, right = j * job->dilation, s = job->stride;
            int rows = quotient(down, s), columns = quotient(right, s);
            int part = (down - rows * s) * job->phases + right - columns * s;
            field->offset[taps++] = 4 * (part * phase + rows * job->phase_width + columns);
        }
    for (int i = 0; i < 4; i++) field->offset[taps + i] = 0;
    field->taps = taps;
    field->pitch = job->phase_width;
    field->pixels = (job->out_height - 1) * job->phase_width + job->out_width;
    field->plane = bare ? plain : job->phases * job->phases * phase;
    field->base = x;
    if (bare) return;
    uint32_t *padded = allocate(4 * field->plane * job->in4);
    V zero = Q6_V_vsplat_R(job->pad * 0x01010101u);
    field->base = (const uint8_t *)padded;
    Span spans[MOST_PHASES];
    for (int column = 0; column < job->phases; column++) spans[column] = span_of(job, column);
    for (int c = 0; c < job->in4; c++)
        split(job, spans, (const uint32_t *)x + c * plain, padded + c * field->plane, phase, zero);
}

/* Where the kernels write: the output itself if its rows are as long as the field's, else room for them. */
static uint8_t *open_output(const Job *job, const Field *field, uint8_t *y) {
    return field->pitch == job->out_width ? y : allocate(4 * pitch_of(field->pixels) * job->out4);
}

/* Leaves out what a field has between its rows. */
static void close_output(const Job *job, const Field *field, const uint8_t *made, uint8_t *y) {
    if (made == y) return;
    const int from = pitch_of(field->pixels), to = pitch_of(job->out_height * job->out_width);
    const int height = job->out_height, width = job->out_width, pitch = field->pitch;
    for (int c = 0; c < job->out4; c++) {
        uint32_t *row = (uint32_t *)y + c * to;
        const uint32_t *source = (const uint32_t *)made + c * from;
        for (int r = 0; r < height; r++, row += width, source += pitch) copy(row, source, width);
    }
}
