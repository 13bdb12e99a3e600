/* What the program and its operators share: types, the job, memory. */
#pragma once
#include <hexagon_types.h>
#include <hvx_hexagon_protos.h>
#include <stdint.h>

typedef HVX_Vector V;
typedef HVX_VectorPair W;
/* a vector at any address */
typedef HVX_UVector U;

enum { LANES = 32, BYTES = 128 };

/* One operator on one input, in the order in which the driver writes these numbers. `in4` and `out4` count groups of
 * four channels; `pad` is the byte around the input, `zero` the zero point of the output. */
typedef struct {
    int32_t kind, in4, out4, height, width, out_height, out_width, kernel_height, kernel_width, stride, dilation, top,
        left, phases, phase_height, phase_width, pad, zero, before, shift, broadcast;
} Job;

/* The data of an operator, in the order in which the driver writes them. */
typedef struct {
    const uint8_t *x, *x2;
    const int8_t *weights;
    const int32_t *bias, *scale;
    uint8_t *y;
} Data;

/* `size` bytes at a whole vector, with room behind them for vectors that begin inside; never taken back. */
void *allocate(uint32_t size);

static inline int round_up(int value, int step) { return (value + step - 1) / step * step; }
/* Words of a plane of `pixels` pixels: whole vectors. */
static inline int pitch_of(int pixels) { return round_up(pixels, LANES); }
