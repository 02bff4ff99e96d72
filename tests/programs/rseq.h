// Restartable sequences for the test programs: the thread's area, and a sequence that increments a word of memory.
#pragma once
#include "check.h"
#include <sched.h>
#include <sys/auxv.h>
#include <sys/rseq.h>

#ifndef AT_RSEQ_FEATURE_SIZE
#define AT_RSEQ_FEATURE_SIZE 27
#define AT_RSEQ_ALIGN 28
#endif

// The area that the C library has registered.
static inline volatile struct rseq *own_area(void) {
    return (volatile struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
}

static inline long sys_rseq(volatile void *area, unsigned len, int flags, unsigned sig) {
    return syscall(SYS_rseq, area, len, flags, sig);
}

// The head of a sequence: descriptor, and telling the kernel of it. Labels: 1 start, 2 end, 4 the abort handler.
#define SEQUENCE_BEGIN(flags)                                                                         \
    ".pushsection .data.rseq, \"aw\"\n"                                                               \
    ".balign 32\n"                                                                                    \
    "3: .long 0, " #flags "\n"                                                                        \
    ".quad 1f, 2f - 1f, 4f\n"                                                                         \
    ".popsection\n"                                                                                   \
    "leaq 3b(%%rip), %%rax\n"                                                                         \
    "movq %%rax, 8(%[area])\n"                                                                        \
    "1:\n"

// The abort handler, with the signature before it; it goes to the C label `aborted`.
#define SEQUENCE_END                                                                                  \
    "2:\n"                                                                                            \
    ".pushsection .text.rseq, \"ax\"\n"                                                               \
    ".byte 0x0f, 0xb9, 0x3d\n"                                                                        \
    ".long 0x53053053\n"                                                                              \
    "4: jmp %l[aborted]\n"                                                                            \
    ".popsection\n"

// counters[cpu]++ in one go on this CPU, with a long pause in the middle; false where it was aborted.
static inline bool increment(volatile struct rseq *area, volatile uint64_t *counters, long pause) {
    unsigned cpu = area->cpu_id_start;
    __asm__ goto(SEQUENCE_BEGIN(0)
                 "cmpl %[cpu], 4(%[area])\n"
                 "jnz %l[aborted]\n"
                 "movq (%[counter]), %%rcx\n"
                 "movq %[pause], %%rdx\n"
                 "5: decq %%rdx\n"
                 "jnz 5b\n"
                 "incq %%rcx\n"
                 "movq %%rcx, (%[counter])\n" SEQUENCE_END
                 :
                 : [area] "r"(area), [cpu] "r"(cpu), [counter] "r"(&counters[cpu * 8]), [pause] "r"(pause)
                 : "rax", "rcx", "rdx", "memory", "cc"
                 : aborted);
    return true;
aborted:
    return false;
}

// Stores to *target (found through `pointer` at the beginning) for ever, until it is aborted.
static inline void store_until_aborted(volatile struct rseq *area, uint64_t *volatile *pointer) {
    __asm__ goto(SEQUENCE_BEGIN(0)
                 "movq (%[pointer]), %%rcx\n"
                 "5: incq (%%rcx)\n"
                 "jmp 5b\n" SEQUENCE_END
                 :
                 : [area] "r"(area), [pointer] "r"(pointer)
                 : "rax", "rcx", "memory", "cc"
                 : aborted);
aborted:
    return;
}

static inline void pin(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    CHECK(sched_setaffinity(0, sizeof set, &set) == 0);
}
