/* Code that TVM generated, run where the kernels of hexagon/ run: one part of a network, its operators in order. What
 * they are is in calls.h, which is written for each part: `arrays`, of which the first INPUTS are read, `places` of
 * those that are written, and `calls`. */
#include "hexagon_math.h"
#include "runtime.h"

/* TVM's C interface: an array on the CPU, and an argument that holds one. */
typedef struct {
    void *data;
    struct { int32_t kind, number; } device;
    int32_t axes;
    struct { uint8_t code, bits; uint16_t lanes; } type;
    int64_t *shape, *strides;
    uint64_t offset;
} Array;
typedef struct {
    int32_t type;
    uint32_t unused;
    union { int64_t number; void *pointer; } value;
} Argument;
enum { ARRAY = 7, MOST = 16 };

/* `bytes` of it; `output` says where in the output it lies, -1 if it is not part of it. */
typedef struct { int64_t bytes, output; } Place;
typedef struct {
    int (*function)(void *, const Argument *, int32_t, Argument *);
    int count, arrays[MOST];
} Invocation;

#include "calls.h"

/* What generated code calls. */
void *TVMBackendAllocWorkspace(int device, int number, uint64_t bytes, int code, int bits) {
    (void)device, (void)number, (void)code, (void)bits;
    return allocate((uint32_t)bytes);
}
int TVMBackendFreeWorkspace(int device, int number, void *workspace) {
    (void)device, (void)number, (void)workspace;
    return 0;
}
typedef struct { void *sync; int32_t tasks; } Parallel;
int TVMBackendParallelLaunch(int (*task)(int, Parallel *, void *), void *closure, int tasks) {
    (void)tasks;
    Parallel one = {0, 1};
    return task(0, &one, closure);
}
int TVMBackendParallelBarrier(int task, Parallel *parallel) {
    (void)task, (void)parallel;
    return 0;
}
void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *text) { (void)kind, (void)text; }
void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
    (void)kind, (void)parts, (void)count;
}
/* It finds some of them by these. */
void *__TVMBackendAllocWorkspace = (void *)TVMBackendAllocWorkspace;
void *__TVMBackendFreeWorkspace = (void *)TVMBackendFreeWorkspace;
void *__TVMBackendParallelLaunch = (void *)TVMBackendParallelLaunch;
void *__TVMBackendParallelBarrier = (void *)TVMBackendParallelBarrier;
void *__TVMFFIErrorSetRaisedFromCStrParts = (void *)TVMFFIErrorSetRaisedFromCStrParts;
/* LLVM's own name for a copy of whole double words. */
void __hexagon_memcpy_likely_aligned_min32bytes_mult8bytes(void *to, const void *from, uint32_t bytes) {
    for (uint32_t i = 0; i < bytes / 8; i++) ((volatile uint64_t *)to)[i] = ((const uint64_t *)from)[i];
}

int run(const Job *job, const Data *data) {
    (void)job;
    const uint8_t *given = data->x;
    for (int i = 0; i < ARRAYS; i++) {
        if (i < INPUTS) {
            arrays[i].data = (void *)given;
            given += (places[i].bytes + 127) & ~127;
        } else {
            arrays[i].data = places[i].output < 0 ? allocate((uint32_t)places[i].bytes) : data->y + places[i].output;
        }
    }
    for (int i = 0; i < CALLS; i++) {
        Argument arguments[MOST], result = {0};
        for (int j = 0; j < calls[i].count; j++)
            arguments[j] = (Argument){ARRAY, 0, {.pointer = &arrays[calls[i].arrays[j]]}};
        if (calls[i].function(0, arguments, calls[i].count, &result)) return 0;
    }
    return 1;
}
