/* Which function computes which kind of operator. */
#include "kernels.h"
#include "convolutions.h"
#include "elementwise.h"
#include "pools.h"

int run(const Job *job, const Data *data) {
    switch (job->kind) {
        case CONV: convolution(job, data); return 1;
        case DEPTHWISE: depthwise(job, data); return 1;
        case LINEAR: linear(job, data); return 1;
        case MAX_POOL: max_pool(job, data); return 1;
        case AVERAGE_POOL: average_pool(job, data); return 1;
        case GLOBAL_POOL: global_pool(job, data); return 1;
        case ADD: add(job, data); return 1;
        case MULTIPLY: multiply(job, data); return 1;
        case SCALE: scale_channels(job, data); return 1;
        case LOOKUP: look_up(job, data); return 1;
        case CHANNELS: choose_channels(job, data); return 1;
        default: return 0;
    }
}
