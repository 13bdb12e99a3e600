/* The operators. Tensors of unsigned bytes lie as planes of four channels, [channels / 4][height * width][4]: a word
 * is one pixel's four channels, a vector 32 pixels. A plane takes whole vectors, and vectors read or written past the
 * pixels of a plane hold nothing of use. */
#pragma once
#include "runtime.h"

enum { CONV = 1, DEPTHWISE, LINEAR, MAX_POOL, AVERAGE_POOL, GLOBAL_POOL, ADD, MULTIPLY, SCALE, LOOKUP, CHANNELS };

/* Runs a job; 0 if there is no such kind. */
int run(const Job *job, const Data *data);
