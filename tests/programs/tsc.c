// Whose time stamp counter may be read: what a read raises that may not, whose choice it is, who has it from whom.
#include "check.h"
#include <sched.h>
#include <sys/prctl.h>
#include <ucontext.h>

static volatile int came, code, where, trap, error;
static __thread volatile int here;
extern char counter[], counter_and_cpu[];
asm(".text\nread_counter:\ncounter: rdtsc\nret\nread_counter_and_cpu:\ncounter_and_cpu: rdtscp\nret\n");
extern void read_counter(void), read_counter_and_cpu(void);
static void reads(void) { asm volatile("call read_counter" ::: "rax", "rdx", "memory"); }
static void reads_both(void) { asm volatile("call read_counter_and_cpu" ::: "rax", "rcx", "rdx", "memory"); }

static void segv(int signal, siginfo_t *info, void *context) {
    ucontext_t *u = context;
    greg_t *rip = &u->uc_mcontext.gregs[REG_RIP];
    came++, here++, code = info->si_code;
    where = info->si_addr == NULL;
    trap = u->uc_mcontext.gregs[REG_TRAPNO], error = u->uc_mcontext.gregs[REG_ERR];
    if (*rip == (greg_t)counter) *rip += 2;
    else if (*rip == (greg_t)counter_and_cpu) *rip += 3;
    else _exit(98);
    (void)signal;
}

static void show(const char *what) {
    int mode = 0;
    CHECK(prctl(PR_GET_TSC, &mode) == 0);
    int before = here;
    reads();
    int first = here - before;
    reads_both();
    printf("%s: mode %d, rdtsc raises %d, rdtscp raises %d\n", what, mode, first, here - before - first);
    fflush(stdout);
}

static void *thread(void *what) {
    show(what);
    return NULL;
}

// Reads again and again, and gives others the CPU; whether it was always as it should be.
static void *many(void *allowed) {
    CHECK(prctl(PR_SET_TSC, allowed ? PR_TSC_ENABLE : PR_TSC_SIGSEGV) == 0);
    for (int i = 0; i < 300; i++) {
        int before = here;
        reads();
        if (here - before != !allowed) return (void *)1L;
        if (i % 3 == 0) sched_yield();
    }
    return NULL;
}

int main(int argc, char **argv) {
    if (argc > 1) {
        int mode = 0;
        CHECK(prctl(PR_GET_TSC, &mode) == 0);
        printf("after exec: mode %d\n", mode);
        fflush(stdout);
        reads();
        printf("not reached\n");
        return 0;
    }
    SHOW(prctl(PR_GET_TSC, 8));
    SHOW(prctl(PR_SET_TSC, 0));
    SHOW(prctl(PR_SET_TSC, 3));
    SHOW(prctl(PR_SET_TSC, PR_TSC_ENABLE));
    SHOW(prctl(PR_SET_TSC, PR_TSC_ENABLE, 1, 2, 3));
    struct sigaction action = {.sa_sigaction = segv, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
    show("at first");
    SHOW(prctl(PR_SET_TSC, PR_TSC_SIGSEGV));
    show("forbidden");
    printf("code %d, no address %d, trap %d, error %d\n", code == SI_KERNEL, where, trap, error);
    pthread_t one;
    CHECK(pthread_create(&one, NULL, thread, "a new thread") == 0 && pthread_join(one, NULL) == 0);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        show("a child");
        CHECK(prctl(PR_SET_TSC, PR_TSC_ENABLE) == 0);
        show("a child that may");
        _exit(0);
    }
    show_wait("child", pid);
    show("its parent");
    pid = fork();
    if (pid == 0) {
        signal(SIGSEGV, SIG_DFL);
        reads();
        _exit(0);
    }
    show_wait("without a handler", pid);
    pid = fork();
    if (pid == 0) {
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGSEGV);
        sigprocmask(SIG_BLOCK, &set, NULL);
        reads();
        _exit(0);
    }
    show_wait("the signal blocked", pid);
    pid = fork();
    if (pid == 0) {
        execl("/proc/self/exe", argv[0], "again", NULL);
        _exit(1);
    }
    show_wait("exec", pid);
    CHECK(prctl(PR_SET_TSC, PR_TSC_ENABLE) == 0);
    show("allowed again");
    pthread_t threads[6];
    for (long i = 0; i < 6; i++) CHECK(pthread_create(&threads[i], NULL, many, (void *)(i & 1)) == 0);
    int wrong = 0;
    for (int i = 0; i < 6; i++) {
        void *result;
        CHECK(pthread_join(threads[i], &result) == 0);
        wrong += result != NULL;
    }
    printf("threads that differ: %d wrong\n", wrong);
    show("at the end");
    return 0;
}
