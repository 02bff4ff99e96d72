// membarrier: its commands and their errors, registrations and what becomes of them, and that it is a barrier.
#include "rseq.h"
#include <linux/membarrier.h>

#ifndef MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ
#define MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ (1 << 7)
#define MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ (1 << 8)
#define MEMBARRIER_CMD_FLAG_CPU 1
#endif
#define GET_REGISTRATIONS (1 << 9)

static long membarrier(int command, unsigned flags, int cpu) { return syscall(SYS_membarrier, command, flags, cpu); }

static bool lists;

// The registrations, where the kernel tells.
static void registrations(int wanted) {
    if (lists) CHECK(membarrier(GET_REGISTRATIONS, 0, 0) == wanted);
}

static _Atomic int rounds, turn;
static volatile int x, y, seen_by_reader;

#define ROUNDS 400

// Stores x and loads y, with nothing in between that would keep the CPU from doing so in the other order.
static void *reader(void *arg) {
    (void)arg;
    for (int n = 1; n <= ROUNDS; n++) {
        while (atomic_load(&turn) != n) {
        }
        x = 1;
        __asm__ volatile("" ::: "memory");
        seen_by_reader = y;
        atomic_store(&rounds, n);
    }
    return NULL;
}

static uint64_t targets[2];
static uint64_t *volatile target;
static _Atomic int stop, running;

static void *store(void *arg) {
    pin(*(int *)arg);
    running = 1;
    while (!stop) store_until_aborted(own_area(), &target);
    return NULL;
}

int main(int argc, char **argv) {
    long known = membarrier(MEMBARRIER_CMD_QUERY, 0, 0);
    lists = known & GET_REGISTRATIONS;
    if (argc > 1) {
        registrations(0);
        SHOW(membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0));
        return 0;
    }
    printf("known: %lx\n", known & ~(long)GET_REGISTRATIONS);
    SHOW(membarrier(MEMBARRIER_CMD_QUERY, 1, 0));
    SHOW(membarrier(3, 0, 0));
    SHOW(membarrier(1 << 20, 0, 0));
    SHOW(membarrier(-1, 0, 0));
    SHOW(membarrier(MEMBARRIER_CMD_GLOBAL, 1, 0));
    SHOW(membarrier(MEMBARRIER_CMD_GLOBAL, 0, 0));
    SHOW(membarrier(MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0));
    SHOW(membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0));
    SHOW(membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0));
    SHOW(membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ, 0, 0));
    registrations(0);
    SHOW(membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0));
    registrations(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE | MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED);
    SHOW(membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0));
    SHOW(membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0));
    SHOW(membarrier(MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0));
    SHOW(membarrier(MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0));
    SHOW(membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0));
    SHOW(membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 1, 0));
    SHOW(membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0));
    SHOW(membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0));
    SHOW(membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED, MEMBARRIER_CMD_FLAG_CPU, 0));
    SHOW(membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ, MEMBARRIER_CMD_FLAG_CPU, 0));
    SHOW(membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ, 0, 0));
    SHOW(membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ, 0, 0));
    SHOW(membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ, MEMBARRIER_CMD_FLAG_CPU, 0));
    SHOW(membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ, MEMBARRIER_CMD_FLAG_CPU, -1));
    SHOW(membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ, MEMBARRIER_CMD_FLAG_CPU, 4096));
    SHOW(membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ, 2, 0));
    int all = MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED | MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED |
              MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE | MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ;
    registrations(all);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        registrations(all);
        SHOW(membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0));
        SHOW(membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ, 0, 0));
        fflush(stdout);
        execl(argv[0], argv[0], "again", NULL);
        _exit(1);
    }
    show_wait("fork and exec", pid);

    // Whoever stores and then loads on the slow side has the barrier for both.
    static const int commands[] = {MEMBARRIER_CMD_PRIVATE_EXPEDITED, MEMBARRIER_CMD_GLOBAL_EXPEDITED,
                                   MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ};
    pthread_t thread;
    rounds = turn = 0;
    CHECK(pthread_create(&thread, NULL, reader, NULL) == 0);
    int missed = 0;
    for (int n = 1; n <= ROUNDS; n++) {
        x = y = 0;
        // The global one may take as long as a grace period.
        int command = n % 100 == 0 ? commands[1] : commands[n % 2 * 2 + (n % 4 == 3)];
        atomic_store(&turn, n);
        y = 1;
        CHECK(membarrier(command, 0, 0) == 0);
        int seen = x;
        while (atomic_load(&rounds) != n) {
        }
        missed += seen == 0 && seen_by_reader == 0;
    }
    CHECK(pthread_join(thread, NULL) == 0);
    printf("missed each other: %d\n", missed);

    // After it no sequence that began before goes on.
    cpu_set_t set;
    CHECK(sched_getaffinity(0, sizeof set, &set) == 0);
    int first = -1, last = -1;
    for (int n = 0; n < CPU_SETSIZE; n++) {
        if (!CPU_ISSET(n, &set)) continue;
        if (first < 0) first = n;
        last = n;
    }
    pin(first);
    target = &targets[0];
    CHECK(pthread_create(&thread, NULL, store, &last) == 0);
    while (!running) sched_yield();
    int late = 0;
    for (int n = 0; n < 40; n++) {
        int old = n & 1;
        while (__atomic_load_n(&targets[old], __ATOMIC_SEQ_CST) == 0) sched_yield();
        target = &targets[!old];
        unsigned flags = n & 2 ? MEMBARRIER_CMD_FLAG_CPU : 0;
        CHECK(membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ, flags, last) == 0);
        uint64_t then = __atomic_exchange_n(&targets[old], 0, __ATOMIC_SEQ_CST);
        for (int k = 0; k < 20000; k++) late += __atomic_load_n(&targets[old], __ATOMIC_SEQ_CST) != 0;
        CHECK(then != 0);
    }
    stop = 1;
    CHECK(membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ, 0, 0) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    printf("late: %d\n", late);
    return 0;
}
