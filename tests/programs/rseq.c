// Restartable sequences: registration and its errors, what the area says, aborts at preemption and at signals, broken
// descriptors, fork, vfork and exec.
#include "rseq.h"
#include <sys/syscall.h>
#include <ucontext.h>

#define THREADS 4
#define ROUNDS 20000

static volatile uint64_t counters[64 * 8];
static _Atomic long aborts;
static struct rseq mine __attribute__((aligned(64)));

static void *count(void *arg) {
    (void)arg;
    volatile struct rseq *area = own_area();
    for (int n = 0; n < ROUNDS;) {
        if (increment(area, counters, 8000)) n++;
        else aborts++;
    }
    return NULL;
}

static _Atomic int handled, inside, left;
static volatile struct rseq *spinner_area;
static char *volatile sequence_start, *volatile sequence_end;

static void on_signal(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)info;
    ucontext_t *uc = context;
    char *rip = (char *)uc->uc_mcontext.gregs[REG_RIP];
    if (rip >= sequence_start && rip < sequence_end) inside++;
    if (own_area()->rseq_cs != 0) left++;
    handled++;
}

// In a sequence all the time but for its beginning and its abort.
static void *spin(void *arg) {
    (void)arg;
    spinner_area = own_area();
    extern char spin_start[], spin_end[];
    sequence_start = spin_start;
    sequence_end = spin_end;
    while (handled < 50) {
        __asm__ goto(SEQUENCE_BEGIN(0)
                     "spin_start: pause\n"
                     "jmp spin_start\n"
                     "spin_end:\n" SEQUENCE_END
                     :
                     : [area] "r"(spinner_area)
                     : "rax", "memory", "cc"
                     : aborted);
    aborted:;
    }
    return NULL;
}

static void nothing(int signal) { (void)signal; }

// struct rseq_cs, as an application may make it wrong.
struct descriptor {
    uint32_t version, flags;
    uint64_t start, len, abort;
} __attribute__((aligned(32)));

static struct descriptor bad;

// A child that has this descriptor, spins at an address that it covers, and gets a signal.
static void broken(const char *what, const struct descriptor *descriptor, uint64_t pointer, uint32_t flags) {
    int ready[2];
    char c;
    CHECK(pipe(ready) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        signal(SIGUSR1, nothing);
        volatile struct rseq *area = own_area();
        bad = *descriptor;
        area->flags = flags;
        CHECK(write(ready[1], "r", 1) == 1);
        area->rseq_cs = pointer;
        __asm__ volatile(".global broken_here\n"
                         "broken_here: testl $1, handled_child(%%rip)\n"
                         "jz broken_here\n" ::: "memory", "cc");
        _exit(0);
    }
    CHECK(read(ready[0], &c, 1) == 1);
    // It ends by itself at its next interruption, or by this one's.
    for (int n = 0; n < 1000; n++) {
        siginfo_t info = {0};
        CHECK(waitid(P_PID, pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0);
        if (info.si_pid == pid) break;
        kill(pid, SIGUSR1);
        sleep_ms(2);
    }
    kill(pid, SIGTERM);
    show_wait(what, pid);
    close(ready[0]);
    close(ready[1]);
}

int handled_child;
extern char broken_here[];

int main(int argc, char **argv) {
    volatile struct rseq *area = own_area();
    if (argc > 1) {
        printf("after exec: size %u, registered %d\n", __rseq_size, (int)area->cpu_id >= 0);
        return 0;
    }
    long cpus = sysconf(_SC_NPROCESSORS_CONF);
    // Old kernels do not say.
    unsigned long feature = getauxval(AT_RSEQ_FEATURE_SIZE), align = getauxval(AT_RSEQ_ALIGN);
    CHECK(feature == 0 || (feature >= 20 && align >= feature && (align & (align - 1)) == 0));
    printf("size %u flags %u\n", __rseq_size, __rseq_flags);
    CHECK(area->cpu_id_start == area->cpu_id && area->cpu_id < cpus);
    if (feature >= 28) {
        const volatile uint32_t *words = (const volatile uint32_t *)area;
        CHECK(words[5] == 0 && words[6] < cpus);
    }

    // What is registered already.
    SHOW(sys_rseq(area, 32, 0, RSEQ_SIG));
    SHOW(sys_rseq(area, 32, 0, 1));
    SHOW(sys_rseq(area, 64, 0, RSEQ_SIG));
    SHOW(sys_rseq(&mine, 32, 0, RSEQ_SIG));
    SHOW(sys_rseq(area, 32, 2, RSEQ_SIG));
    SHOW(sys_rseq(area, 32, 3, RSEQ_SIG));
    SHOW(sys_rseq(area, 32, 1, 1));
    SHOW(sys_rseq(area, 31, 1, RSEQ_SIG));
    SHOW(sys_rseq(&mine, 32, 1, RSEQ_SIG));
    SHOW(sys_rseq(NULL, 32, 1, RSEQ_SIG));
    // And what is not any more.
    SHOW(sys_rseq(area, 32, 1, RSEQ_SIG));
    printf("unregistered: cpu_id_start %u cpu_id %d\n", area->cpu_id_start, (int)area->cpu_id);
    SHOW(sys_rseq(area, 32, 1, RSEQ_SIG));
    SHOW(sys_rseq(&mine, 31, 0, 7));
    SHOW(sys_rseq(&mine, 0, 0, 7));
    SHOW(sys_rseq((char *)&mine + 16, 32, 0, 7));
    SHOW(sys_rseq((void *)0xffff800000000000, 32, 0, 7));
    SHOW(sys_rseq((void *)(0x7fffffffefe0 + 32), 32, 0, 7));
    if (feature != 0) {
        CHECK(sys_rseq((void *)32, 32, 0, 7) == -1 && errno == EFAULT);
        CHECK(sys_rseq(&mine, 64, 0, 7) == 0 && sys_rseq(&mine, 32, 1, 7) == -1 && errno == EINVAL);
        CHECK(sys_rseq(&mine, 64, 1, 7) == 0);
    }
    mine.cpu_id = 12345;
    SHOW(sys_rseq(&mine, 32, 0, 7));
    printf("registered: %d\n", mine.cpu_id < cpus && mine.cpu_id == mine.cpu_id_start);
    SHOW(sys_rseq(&mine, 32, 0, 7));
    SHOW(sys_rseq(&mine, 32, 1, 7));
    SHOW(sys_rseq(area, 32, 0, RSEQ_SIG));

    // Where the affinity puts it, it is at once.
    cpu_set_t all;
    CHECK(sched_getaffinity(0, sizeof all, &all) == 0);
    for (int round = 0; round < 6; round++) {
        for (int cpu = 0; cpu < cpus && cpu < 4; cpu++) {
            if (!CPU_ISSET(cpu, &all)) continue;
            pin(cpu);
            CHECK(area->cpu_id == (unsigned)cpu && area->cpu_id_start == (unsigned)cpu);
            CHECK(sched_getcpu() == cpu);
        }
    }
    CHECK(sched_setaffinity(0, sizeof all, &all) == 0);

    // Nothing is lost however the threads interrupt each other.
    pthread_t threads[THREADS];
    for (int n = 0; n < THREADS; n++) CHECK(pthread_create(&threads[n], NULL, count, NULL) == 0);
    for (int n = 0; n < THREADS; n++) CHECK(pthread_join(threads[n], NULL) == 0);
    uint64_t sum = 0;
    for (int n = 0; n < 64; n++) sum += counters[n * 8];
    printf("counted %lu of %d, some aborted: %d\n", sum, THREADS * ROUNDS, aborts > 0);

    // A handler never finds a sequence that it has interrupted.
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    pthread_t spinner;
    CHECK(pthread_create(&spinner, NULL, spin, NULL) == 0);
    while (handled < 50) {
        int before = handled;
        CHECK(pthread_kill(spinner, SIGUSR1) == 0);
        while (handled == before) sched_yield();
    }
    CHECK(pthread_join(spinner, NULL) == 0);
    printf("handlers: %d, inside %d, left %d\n", handled >= 50, inside, left);

    // The address of the loop, its length rounded up; the abort handler is anything behind a signature.
    uint64_t here = (uint64_t)broken_here;
    static const uint32_t signed_code[2] = {RSEQ_SIG, 0xcccccccc};
    uint64_t handler = (uint64_t)&signed_code[1], at = (uint64_t)&bad;
    broken("unsigned handler", &(struct descriptor){0, 0, here, 32, handler + 4}, at, 0);
    broken("handler inside", &(struct descriptor){0, 0, here, 32, here + 8}, at, 0);
    broken("version", &(struct descriptor){1, 0, here, 32, handler}, at, 0);
    broken("flags", &(struct descriptor){0, 1, here, 32, handler}, at, 0);
    broken("unknown flags", &(struct descriptor){0, 64, here, 32, handler}, at, 0);
    broken("flags of the thread", &(struct descriptor){0, 0, here, 32, handler}, at, 1);
    broken("beyond the end", &(struct descriptor){0, 0, here, UINT64_MAX - 64, handler}, at, 0);
    broken("in the kernel", &(struct descriptor){0, 0, 0xffff800000000000, 32, handler}, at, 0);
    broken("pointer into the kernel", &(struct descriptor){0}, 0xffff800000000000, 0);
    broken("pointer to nothing", &(struct descriptor){0}, 64, 0);

    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        CHECK(area->cpu_id == area->cpu_id_start && area->cpu_id < cpus);
        SHOW(sys_rseq(area, 32, 0, RSEQ_SIG));
        SHOW(sys_rseq(area, 32, 1, RSEQ_SIG));
        _exit(0);
    }
    show_wait("fork", pid);
    pid = vfork();
    if (pid == 0) {
        errno = 0;
        _exit(sys_rseq(area, 32, 1, RSEQ_SIG) == -1 ? errno : 0);
    }
    show_wait("vfork", pid);
    printf("still registered: %d\n", sys_rseq(area, 32, 0, RSEQ_SIG) == -1 && errno == EBUSY);
    fflush(stdout);
    execl(argv[0], argv[0], "again", NULL);
    return 1;
}
