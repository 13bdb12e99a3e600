/* The program, which runs without an operating system in qemu-hexagon: it reads one operator and its data, runs it, and
 * writes the counters and the output. */
#include "kernels.h"

/* The packet, instruction and HVX-instruction counters of QEMU's Hexagon are control registers 20 to 22 of the user
 * level; the assembler knows no names for them, so the transfer to a register is written as its code. */
#define COUNTER(name, code)                                                                                            \
    static inline uint32_t name(void) {                                                                                \
        register uint32_t value __asm__("r0");                                                                         \
        __asm__ volatile(".word " #code : "=r"(value)::"memory");                                                      \
        return value;                                                                                                  \
    }
COUNTER(packets, 0x6a14c000)
COUNTER(instructions, 0x6a15c000)
COUNTER(hvx_instructions, 0x6a16c000)

static long system_call(long number, long a, long b, long c) {
    register long r6 __asm__("r6") = number;
    register long r0 __asm__("r0") = a;
    register long r1 __asm__("r1") = b;
    register long r2 __asm__("r2") = c;
    __asm__ volatile("trap0(#1)" : "+r"(r0) : "r"(r6), "r"(r1), "r"(r2) : "memory");
    return r0;
}

static void leave(int status) {
    system_call(94, status, 0, 0);
    __builtin_trap();
}

static void read_exactly(void *to, long size) {
    for (long done = 0; done < size;) {
        long got = system_call(63, 0, (long)to + done, size - done);
        if (got <= 0) leave(3);
        done += got;
    }
}

static void write_exactly(const void *from, long size) {
    for (long done = 0; done < size;) {
        long put = system_call(64, 1, (long)from + done, size - done);
        if (put <= 0) leave(4);
        done += put;
    }
}

/* Memory is handed out in order and never taken back; pages that nobody touches cost nothing. */
static uint8_t arena[768u << 20] __attribute__((aligned(128)));
static uint32_t arena_used;

void *allocate(uint32_t size) {
    uint32_t rounded = (size + 4 * BYTES + 127u) & ~127u;
    if (size > sizeof(arena) || rounded > sizeof(arena) - arena_used) leave(5);
    void *found = arena + arena_used;
    arena_used += rounded;
    return found;
}

/* Compilers turn loops into calls of these two. */
void *memcpy(void *restrict to, const void *restrict from, unsigned long size) {
    for (unsigned long i = 0; i < size; i++) ((volatile uint8_t *)to)[i] = ((const uint8_t *)from)[i];
    return to;
}
void *memset(void *to, int value, unsigned long size) {
    for (unsigned long i = 0; i < size; i++) ((volatile uint8_t *)to)[i] = (uint8_t)value;
    return to;
}

enum { BLOBS = 5, MAGIC = 0x48584b31 };

static uint8_t *read_blob(uint32_t size) {
    uint8_t *blob = allocate(size);
    read_exactly(blob, size);
    return blob;
}

void _start(void) {
    struct {
        uint32_t magic, sizes[BLOBS], output;
        Job job;
    } head;
    read_exactly(&head, sizeof head);
    if (head.magic != MAGIC) leave(2);
    uint8_t *blobs[BLOBS];
    for (int i = 0; i < BLOBS; i++) blobs[i] = read_blob(head.sizes[i]);
    Data data = {blobs[0], blobs[1], (int8_t *)blobs[2], (int32_t *)blobs[3], (int32_t *)blobs[4],
                 allocate(head.output)};
    uint32_t before[3] = {packets(), instructions(), hvx_instructions()};
    int known = run(&head.job, &data);
    uint32_t after[3] = {packets(), instructions(), hvx_instructions()};
    if (!known) leave(6);
    for (int i = 0; i < 3; i++) after[i] -= before[i];
    write_exactly(after, sizeof after);
    write_exactly(data.y, head.output);
    leave(0);
}
