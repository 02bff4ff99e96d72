// Debug registers by ptrace: what they can be set to, what stops at them, who has them after fork, exec and detaching.
#include "check.h"
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/user.h>
static volatile int watched, other, quiet;
static volatile unsigned short stack_segment __attribute__((aligned(8))) = 0x2b;
static volatile long wide __attribute__((aligned(8)));
static pid_t tracee;
// QEMU's software CPU has no breakpoints while it makes single steps, and hangs where one is kept back into the kernel.
static bool emulated;
static void look_at_cpu(void) {
    FILE *f = fopen("/proc/cpuinfo", "r");
    CHECK(f);
    // An AMD CPU of a family that none with 64 bits is of.
    bool amd = false, old = false;
    for (char line[4096]; fgets(line, sizeof line, f);) {
        amd |= strstr(line, "AuthenticAMD") != NULL;
        old |= strcmp(line, "cpu family\t: 6\n") == 0;
    }
    emulated = amd && old;
    fclose(f);
}
__attribute__((noinline)) static void function(void) { __asm__ volatile("nop"); }
// Where a hypervisor gives back the exception of INT1 as that of the instruction, it is raised there for ever.
static bool stuck;
static void again(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)info;
    _exit(*(unsigned char *)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] == 0xf1);
}
static void look_for_int1(void) {
    pid_t pid = fork();
    if (pid == 0) {
        struct sigaction act = {.sa_sigaction = again, .sa_flags = SA_SIGINFO};
        sigaction(SIGTRAP, &act, NULL);
        __asm__ volatile(".byte 0xf1");
        _exit(0);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
    stuck = WEXITSTATUS(status);
}
static long peek(int n) {
    errno = 0;
    return ptrace(PTRACE_PEEKUSER, tracee, offsetof(struct user, u_debugreg) + 8 * n, 0);
}
static long poke(int n, unsigned long value) {
    return ptrace(PTRACE_POKEUSER, tracee, offsetof(struct user, u_debugreg) + 8 * n, value);
}
// The bits of DR7 that enable register n, for this kind (0 execution, 1 writing, 3 both) and length less one.
static unsigned long control(int n, int kind, int length) {
    return 1ul << 2 * n | (unsigned long)(length << 2 | kind) << (16 + 4 * n);
}
static void go(int request, int signal) { CHECK(ptrace(request, tracee, 0, signal) == 0); }
static const char *text(int code) {
    return code == TRAP_TRACE ? "TRAP_TRACE" : code == TRAP_HWBKPT ? "TRAP_HWBKPT" : code == TRAP_BRKPT ? "TRAP_BRKPT" : code == SI_KERNEL ? "SI_KERNEL" : "other";
}
// The next stop: what it was, and what the registers say.
static int stop(const char *what) {
    int status;
    CHECK(waitpid(tracee, &status, __WALL) == tracee);
    if (!WIFSTOPPED(status)) {
        if (WIFEXITED(status)) printf("%s: exit %d\n", what, WEXITSTATUS(status));
        else printf("%s: killed by %d\n", what, WTERMSIG(status));
        return 0;
    }
    siginfo_t info;
    struct user_regs_struct regs;
    CHECK(ptrace(PTRACE_GETSIGINFO, tracee, 0, &info) == 0 && ptrace(PTRACE_GETREGS, tracee, 0, &regs) == 0);
    printf("%s: signal %d event %d", what, WSTOPSIG(status), status >> 16);
    if (WSTOPSIG(status) == SIGTRAP && status >> 16 == 0) {
        printf(" %s at rip %d, dr6 %lx", text(info.si_code), (unsigned long)info.si_addr == regs.rip, peek(6) & 0x400f);
        printf(", in the function %d, resume flag %d", regs.rip == (unsigned long)function, (regs.eflags & 0x10000) != 0);
    }
    puts("");
    fflush(stdout);
    return WSTOPSIG(status);
}
static void caught(int signal, siginfo_t *info, void *context) {
    ucontext_t *u = context;
    CHECK(signal == SIGTRAP && (greg_t)info->si_addr == u->uc_mcontext.gregs[REG_RIP]);
    printf("handler: %s, trap %lld, error %lld\n", text(info->si_code), u->uc_mcontext.gregs[REG_TRAPNO], u->uc_mcontext.gregs[REG_ERR]);
    fflush(stdout);
}
static void *thread(void *arg) {
    (void)arg;
    watched = 7;
    return NULL;
}
static void work(void) {
    CHECK(ptrace(PTRACE_TRACEME, 0, 0, 0) == 0);
    int ends[2];
    CHECK(pipe(ends) == 0 && write(ends[1], "abcdefgh", 8) == 8);
    raise(SIGSTOP);
    // 1: a write, then a read that nobody watches, then a call of the kernel's that writes there.
    watched = 1;
    quiet = watched;
    CHECK(read(ends[0], (void *)&watched, 4) == 4);
    raise(SIGSTOP);
    // 2: reads and writes of several.
    quiet = other;
    other = 2;
    wide = 3;
    ((volatile char *)&wide)[7] = 1;
    raise(SIGSTOP);
    // 3: execution, twice.
    function();
    function();
    raise(SIGSTOP);
    // 4: by single steps.
    if (!emulated) {
        watched = 4;
        raise(SIGSTOP);
    }
    // 5: a handler.
    struct sigaction act = {.sa_sigaction = caught, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(SIGTRAP, &act, NULL) == 0);
    watched = 5;
    raise(SIGSTOP);
    if (!stuck) {
        __asm__ volatile(".byte 0xf1");
        raise(SIGSTOP);
    }
    // 6: children and threads.
    pid_t pid = fork();
    if (pid == 0) {
        watched = 6;
        _exit(0);
    }
    CHECK(waitpid(pid, NULL, 0) == pid);
    raise(SIGSTOP);
    pthread_t id;
    CHECK(pthread_create(&id, NULL, thread, NULL) == 0 && pthread_join(id, NULL) == 0);
    raise(SIGSTOP);
    // 7: what is watched is read by an instruction that keeps its exception back for one more.
    if (!emulated) {
        long nr = SYS_getpid;
        __asm__ volatile("mov %1, %%ss\n\tsyscall" : "+a"(nr) : "m"(stack_segment) : "rcx", "r11", "memory");
        CHECK(nr == getpid());
        raise(SIGSTOP);
        __asm__ volatile("mov %0, %%ss\n\tint3" ::"m"(stack_segment) : "memory");
        raise(SIGSTOP);
        __asm__ volatile("mov %0, %%ss\n\tnop\n\tnop" ::"m"(stack_segment) : "memory");
        raise(SIGSTOP);
    }
    // 8: another program.
    execl("/proc/self/exe", "breakpoints", "nothing", NULL);
    CHECK(!"exec");
}
static pid_t begin(void (*work)(void)) {
    fflush(stdout);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        work();
        _exit(0);
    }
    return pid;
}
static void show(const char *what) {
    printf("%s:", what);
    for (int n = 0; n < 8; n++) {
        unsigned long value = peek(n);
        printf(" %lx", n == 6 ? value & 0x400f : value == (unsigned long)&watched ? 0xa0 : value == (unsigned long)&watched + 1 ? 0xa1 : value == (unsigned long)&other ? 0xb0 : value == (unsigned long)&wide ? 0xc0 : value == (unsigned long)function ? 0xd0 : value);
    }
    puts("");
    fflush(stdout);
}
// By single steps, of which one writes.
static void steps(void) {
    CHECK(poke(7, control(0, 1, 3)) == 0);
    for (int steps = 0;; steps++) {
        CHECK(steps < 100000);
        go(PTRACE_SINGLESTEP, 0);
        int status;
        siginfo_t info;
        CHECK(waitpid(tracee, &status, 0) == tracee && WSTOPSIG(status) == SIGTRAP);
        CHECK(ptrace(PTRACE_GETSIGINFO, tracee, 0, &info) == 0);
        long dr6 = peek(6) & 0x400f;
        if (dr6 & 1) {
            printf("step: %s, dr6 %lx\n", text(info.si_code), dr6);
            break;
        }
        CHECK(info.si_code == TRAP_BRKPT || dr6 == 0x4000);
    }
    go(PTRACE_CONT, 0);
    stop("no more");
}
// Exceptions that an instruction keeps back for one more.
static void kept_back(void) {
    CHECK(poke(0, (unsigned long)&stack_segment) == 0 && poke(7, control(0, 3, 1)) == 0);
    for (int i = 0; i < 5; i++) {
        go(PTRACE_CONT, 0);
        stop("kept back");
    }
}
static void left(void) {
    CHECK(ptrace(PTRACE_TRACEME, 0, 0, 0) == 0);
    raise(SIGSTOP);
    watched = 8;
}
int main(int argc, char **argv) {
    (void)argv;
    if (argc > 1) return 3;
    look_at_cpu();
    look_for_int1();
    tracee = begin(work);
    stop("begin");
    show("at first");
    // Beside them, the restartable-sequences area (PTRACE_GET_RSEQ_CONFIGURATION) that the C library has registered.
    struct {
        uint64_t area;
        uint32_t size, signature, flags, pad;
    } rseq = {0};
    SHOW(ptrace(0x420f, tracee, 8, &rseq) == sizeof rseq && rseq.area && !rseq.size);
    SHOW(ptrace(0x420f, tracee, sizeof rseq, &rseq) == sizeof rseq);
    printf("rseq of %u bytes, signature %x, flags %u\n", rseq.size, rseq.signature, rseq.flags);
    // What can be set.
    SHOW(poke(0, 0xffff800000000000));
    SHOW(poke(0, 0x7fffffffefff));
    SHOW(poke(0, 0x8000000000000000));
    SHOW(poke(4, 0));
    SHOW(poke(5, 0));
    SHOW(poke(6, 0xf));
    printf("dr6 %lx\n", peek(6));
    SHOW(poke(6, 0));
    printf("dr6 %lx\n", peek(6));
    SHOW(poke(0, (unsigned long)&watched + 1));
    SHOW(poke(7, control(0, 1, 3)));
    show("after a length that does not fit");
    SHOW(poke(7, control(0, 1, 0)));
    SHOW(poke(7, control(0, 2, 0)));
    SHOW(poke(7, control(0, 0, 1)));
    SHOW(poke(7, control(1, 2, 0)));
    SHOW(poke(7, control(1, 2, 0) & ~0xffful));
    show("after kinds that are not there");
    SHOW(poke(7, control(0, 1, 1)));
    SHOW(poke(0, (unsigned long)&watched));
    SHOW(poke(7, control(0, 1, 3) | control(1, 1, 0)));
    show("of one without an address");
    SHOW(poke(7, 0xfffffffff000ff00));
    show("with what is reserved");
    SHOW(poke(7, 0));
    SHOW(poke(8, 0));
    // 1
    CHECK(poke(0, (unsigned long)&watched) == 0 && poke(7, control(0, 1, 3)) == 0);
    show("1");
    go(PTRACE_CONT, 0);
    stop("write");
    CHECK(poke(6, 0) == 0);
    go(PTRACE_CONT, 0);
    stop("no more");
    // 2
    CHECK(poke(1, (unsigned long)&other) == 0 && poke(2, (unsigned long)&wide) == 0);
    CHECK(poke(7, control(1, 3, 3) | control(2, 1, 2)) == 0);
    show("2");
    for (int i = 0; i < 4; i++) {
        go(PTRACE_CONT, 0);
        stop("several");
    }
    go(PTRACE_CONT, 0);
    stop("no more");
    // 3
    CHECK(poke(3, (unsigned long)function) == 0 && poke(7, control(3, 0, 0)) == 0);
    show("3");
    for (int i = 0; i < 3; i++) {
        go(PTRACE_CONT, 0);
        stop("execution");
    }
    // 4
    if (!emulated) steps();
    CHECK(poke(7, control(0, 1, 3)) == 0);
    // 5
    go(PTRACE_CONT, 0);
    stop("to a handler");
    go(PTRACE_CONT, SIGTRAP);
    stop("no more");
    CHECK(poke(7, 0) == 0);
    if (!stuck) {
        go(PTRACE_CONT, 0);
        stop("INT1");
        go(PTRACE_CONT, SIGTRAP);
        stop("no more");
    }
    // 6
    CHECK(poke(7, control(0, 1, 3)) == 0);
    CHECK(ptrace(PTRACE_SETOPTIONS, tracee, 0, PTRACE_O_TRACEFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC) == 0);
    for (int i = 0; i < 2; i++) {
        go(PTRACE_CONT, 0);
        stop("child");
        unsigned long child;
        CHECK(ptrace(PTRACE_GETEVENTMSG, tracee, 0, &child) == 0);
        pid_t parent = tracee;
        tracee = (pid_t)child;
        stop("child");
        show("child");
        go(PTRACE_CONT, 0);
        if (i == 0) stop("child");
        else CHECK(waitpid(tracee, NULL, __WALL) == tracee);
        tracee = parent;
        go(PTRACE_CONT, 0);
        int signal = stop("parent");
        if (signal == SIGCHLD) {
            go(PTRACE_CONT, SIGCHLD);
            stop("parent");
        }
        show("parent");
    }
    // 7
    if (!emulated) kept_back();
    // 8
    go(PTRACE_CONT, 0);
    stop("exec");
    show("after exec");
    go(PTRACE_CONT, 0);
    stop("end");
    // Left alone, it has them still.
    tracee = begin(left);
    stop("begin");
    CHECK(poke(0, (unsigned long)&watched) == 0 && poke(7, control(0, 1, 3)) == 0);
    go(PTRACE_DETACH, 0);
    stop("left alone");
    return 0;
}
