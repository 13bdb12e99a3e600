/* A plugin for qemu-hexagon: a cache with the least recently used line replaced, and what it misses while a kernel runs.
 *
 * Built for the host. Its interface is QEMU's of version 1 (7.x), declared here because Debian ships no header of it.
 * Arguments: sets=, ways=, line= (the logarithm of a line's bytes). The program reads its packet counter before and
 * after the kernel; each of these reads turns the counting on or off. The misses go to standard error in the end. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
typedef uint32_t qemu_plugin_meminfo_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
extern void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
extern void qemu_plugin_register_vcpu_mem_cb(
    struct qemu_plugin_insn *, void (*)(unsigned, qemu_plugin_meminfo_t, uint64_t, void *), int, int, void *);
extern void qemu_plugin_register_vcpu_insn_exec_cb(
    struct qemu_plugin_insn *, void (*)(unsigned, void *), int, void *);
extern void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, void *), void *);
extern unsigned qemu_plugin_mem_size_shift(qemu_plugin_meminfo_t);
int qemu_plugin_version = 1;

enum { NO_REGISTERS = 0, READ_AND_WRITE = 3, COUNTER_READ = 0x6a14c000 };

static uint64_t *tags, *ages, misses, now;
static unsigned sets = 1024, ways = 16, line = 6;
static int counting;

static void touch(uint64_t number) {
    uint64_t *tag = tags + number % sets * ways, *age = ages + number % sets * ways;
    unsigned oldest = 0;
    now++;
    for (unsigned way = 0; way < ways; way++) {
        if (tag[way] == number + 1) {
            age[way] = now;
            return;
        }
        if (age[way] < age[oldest]) oldest = way;
    }
    misses++;
    tag[oldest] = number + 1;
    age[oldest] = now;
}

static void on_memory(unsigned cpu, qemu_plugin_meminfo_t info, uint64_t address, void *data) {
    (void)cpu, (void)data;
    if (!counting) return;
    uint64_t last = (address + (1u << qemu_plugin_mem_size_shift(info)) - 1) >> line;
    for (uint64_t number = address >> line; number <= last; number++) touch(number);
}

static void on_mark(unsigned cpu, void *data) {
    (void)cpu, (void)data;
    counting = !counting;
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
    (void)id;
    for (size_t index = 0; index < qemu_plugin_tb_n_insns(block); index++) {
        struct qemu_plugin_insn *packet = qemu_plugin_tb_get_insn(block, index);
        uint32_t word;
        memcpy(&word, qemu_plugin_insn_data(packet), sizeof word);
        if ((word & ~0x1fu) == COUNTER_READ) qemu_plugin_register_vcpu_insn_exec_cb(packet, on_mark, NO_REGISTERS, NULL);
        qemu_plugin_register_vcpu_mem_cb(packet, on_memory, NO_REGISTERS, READ_AND_WRITE, NULL);
    }
}

static void on_end(qemu_plugin_id_t id, void *data) {
    (void)id, (void)data;
    fprintf(stderr, "\nmisses %llu\n", (unsigned long long)misses);
}

int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int count, char **values) {
    (void)info;
    for (int index = 0; index < count; index++) {
        if (!strncmp(values[index], "sets=", 5)) sets = (unsigned)strtoul(values[index] + 5, NULL, 10);
        if (!strncmp(values[index], "ways=", 5)) ways = (unsigned)strtoul(values[index] + 5, NULL, 10);
        if (!strncmp(values[index], "line=", 5)) line = (unsigned)strtoul(values[index] + 5, NULL, 10);
    }
    if (!sets || !ways || line > 12) return -1;
    tags = calloc((size_t)sets * ways, sizeof *tags);
    ages = calloc((size_t)sets * ways, sizeof *ages);
    if (!tags || !ages) return -1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    qemu_plugin_register_atexit_cb(id, on_end, NULL);
    return 0;
}
