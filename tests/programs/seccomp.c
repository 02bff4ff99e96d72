// seccomp: strict mode and filters, every action, what is refused, threads, inheritance, who may.
#include "check.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/uio.h>

#ifndef SECCOMP_RET_KILL_PROCESS
#define SECCOMP_RET_KILL_PROCESS 0x80000000U
#endif
#define NR (offsetof(struct seccomp_data, nr))
#define ARG(n) (offsetof(struct seccomp_data, args) + 8 * (n))

static void show(const char *what, long n) {
    printf("%s: %ld %s\n", what, n, n < 0 ? strerrorname_np(errno) : "");
    fflush(stdout);
}

static long set(unsigned flags, struct sock_filter *insns, int n) {
    struct sock_fprog prog = {.len = (unsigned short)n, .filter = insns};
    errno = 0;
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &prog);
}

// `number` gives `answer`, all others are allowed.
static long on(unsigned flags, int number, unsigned answer) {
    struct sock_filter f[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, NR),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, answer),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    return set(flags, f, 4);
}

static void in_child(const char *what, void (*body)(void)) {
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
        body();
        fflush(stdout);
        _exit(0);
    }
    show_wait(what, pid);
}

static void status_lines(void) {
    char line[256];
    FILE *f = fopen("/proc/thread-self/status", "r");
    while (fgets(line, sizeof line, f))
        if (strncmp(line, "Seccomp", 7) == 0 || strncmp(line, "NoNewPrivs", 10) == 0) fputs(line, stdout);
    fclose(f);
    fflush(stdout);
}

static void strict(void) {
    show("mode", prctl(PR_GET_SECCOMP));
    CHECK(write(1, "before\n", 7) == 7);
    CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 0, NULL) == 0);
    (void)!write(1, "within\n", 7);
    syscall(SYS_exit, 3);
}
static void strict_killed(void) {
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) == 0);
    syscall(SYS_getpid);
    syscall(SYS_exit, 3);
}
static void errnos(void) {
    CHECK(on(0, SYS_getuid, SECCOMP_RET_ERRNO | EXDEV) == 0);
    show("errno", syscall(SYS_getuid));
    CHECK(on(0, SYS_getgid, SECCOMP_RET_ERRNO | 0) == 0);
    CHECK(on(0, SYS_geteuid, SECCOMP_RET_ERRNO | 0xffff) == 0);
    show("no error", syscall(SYS_getgid));
    errno = 0;
    long r = syscall(SYS_geteuid);
    printf("most: %ld %d\n", r, errno);
    // The newest of equals, and the strictest of all.
    CHECK(on(0, SYS_getuid, SECCOMP_RET_ERRNO | ENOTTY) == 0);
    show("newest", syscall(SYS_getuid));
    CHECK(on(0, SYS_getuid, SECCOMP_RET_LOG) == 0);
    show("strictest", syscall(SYS_getuid));
    show("mode", prctl(PR_GET_SECCOMP));
    show("strict now", prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
    status_lines();
    // A child has them too, over exec as well.
    pid_t pid = fork();
    if (pid == 0) {
        show("child", syscall(SYS_getuid));
        execl("/proc/self/exe", "seccomp", "child", NULL);
        _exit(9);
    }
    show_wait("child", pid);
}
static void arguments(void) {
    // By arguments, both halves; with scratch memory and arithmetic.
    struct sock_filter f[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, NR),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_close, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, ARG(0) + 4),
        BPF_STMT(BPF_ST, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, ARG(0)),
        BPF_STMT(BPF_LDX | BPF_MEM, 3),
        BPF_STMT(BPF_ALU | BPF_ADD | BPF_X, 0),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xfff),
        BPF_STMT(BPF_ALU | BPF_OR | BPF_K, SECCOMP_RET_ERRNO),
        BPF_STMT(BPF_RET | BPF_A, 0),
    };
    CHECK(set(0, f, sizeof f / sizeof *f) == 0);
    show("sum", syscall(SYS_close, 0x300000010L));
}
static void kill_process(void) {
    CHECK(on(0, SYS_getuid, SECCOMP_RET_KILL_PROCESS) == 0);
    syscall(SYS_getuid);
}
static void unknown_action(void) {
    CHECK(on(0, SYS_getuid, 0x00010000) == 0);
    syscall(SYS_getuid);
}
static void *killed(void *arg) {
    syscall(SYS_getuid);
    return arg;
}
static void kill_thread(void) {
    CHECK(on(0, SYS_getuid, SECCOMP_RET_KILL_THREAD) == 0);
    pthread_t t;
    CHECK(pthread_create(&t, NULL, killed, NULL) == 0);
    pthread_join(t, NULL);
    printf("the thread is dead, the process lives\n");
    fflush(stdout);
    syscall(SYS_getuid);
}
static volatile int caught;
static void on_sys(int n, siginfo_t *info, void *context) {
    caught = n;
    printf("SIGSYS code %d errno %d call %d arch %x address %d\n", info->si_code, info->si_errno, info->si_syscall,
           info->si_arch, info->si_call_addr != NULL);
    (void)context;
}
static void trap(void) {
    struct sigaction act = {.sa_sigaction = on_sys, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(SIGSYS, &act, NULL) == 0);
    CHECK(on(0, SYS_getuid, SECCOMP_RET_TRAP | 77) == 0);
    show("trapped", syscall(SYS_getuid));
    signal(SIGSYS, SIG_DFL);
    syscall(SYS_getuid);
}
static void trace_alone(void) {
    CHECK(on(0, SYS_getuid, SECCOMP_RET_TRACE | 5) == 0);
    show("nobody traces", syscall(SYS_getuid));
    CHECK(on(0, SYS_getgid, SECCOMP_RET_USER_NOTIF) == 0);
    show("nobody listens", syscall(SYS_getgid));
}
static void traced(void) {
    CHECK(ptrace(PTRACE_TRACEME, 0, 0, 0) == 0);
    raise(SIGSTOP);
    CHECK(on(0, SYS_getuid, SECCOMP_RET_TRACE | 5) == 0);
    syscall(SYS_getuid, 1, 2, 3);
    _exit(0);
}
static void refused(void) {
    struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_filter bad[][3] = {
        {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 64), allow, allow},
        {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 2), allow, allow},
        {BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 0), allow, allow},
        {BPF_STMT(BPF_LD | BPF_W | BPF_IND, 0), allow, allow},
        {BPF_STMT(BPF_LD | BPF_MEM, 0), allow, allow},
        {BPF_STMT(BPF_ST, 16), allow, allow},
        {BPF_STMT(BPF_ALU | BPF_DIV | BPF_K, 0), allow, allow},
        {BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, 3), allow, allow},
        {BPF_STMT(BPF_ALU | BPF_LSH | BPF_K, 32), allow, allow},
        {BPF_JUMP(BPF_JMP | BPF_JA, 2, 0, 0), allow, allow},
        {BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 2, 0), allow, allow},
        {allow, allow, BPF_STMT(BPF_LD | BPF_IMM, 0)},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        printf("%zu ", i);
        show("bad", set(0, bad[i], 3));
    }
    show("empty", set(0, &allow, 0));
    static struct sock_filter many[5000];
    for (int i = 0; i < 5000; i++) many[i] = allow;
    show("too long", set(0, many, 4097));
    show("longest", set(0, many, 4096));
    show("flags", set(1 << 20, &allow, 1));
    show("null", syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, NULL));
    struct sock_fprog nowhere = {.len = 1, .filter = (void *)8};
    show("nowhere", syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &nowhere));
    show("strict with flags", syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 1, NULL));
    show("strict with an argument", syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 0, &allow));
    show("no operation", syscall(SYS_seccomp, 99, 0, NULL));
    show("no mode", prctl(PR_SET_SECCOMP, 7, 0));
    unsigned actions[] = {SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_KILL_THREAD, SECCOMP_RET_TRAP, SECCOMP_RET_ERRNO,
                          SECCOMP_RET_TRACE, SECCOMP_RET_LOG, SECCOMP_RET_ALLOW, 0x12340000};
    for (int i = 0; i < 8; i++) show("action", syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &actions[i]));
    show("action flags", syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 1, &actions[0]));
    // Many filters: up to a number of instructions in all.
    int n = 0;
    while (set(0, many, 4000) == 0) n++;
    show("enough", set(0, many, 4000));
    printf("several %d\n", n >= 2);
}
static atomic_int phase;
static void *follower(void *arg) {
    atomic_fetch_add(&phase, 1);
    while (atomic_load(&phase) < 3) sleep_ms(1);
    long r = syscall(SYS_getuid);
    printf("thread: %ld %d nnp %d\n", r, errno, prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    fflush(stdout);
    return arg;
}
static void *other_filter(void *arg) {
    CHECK(on(0, SYS_getgid, SECCOMP_RET_ERRNO | 1) == 0);
    atomic_fetch_add(&phase, 1);
    while (atomic_load(&phase) < 6) sleep_ms(1);
    return arg;
}
static void tsync(void) {
    pthread_t t, u;
    CHECK(pthread_create(&t, NULL, follower, NULL) == 0);
    while (atomic_load(&phase) < 1) sleep_ms(1);
    show("tsync", on(SECCOMP_FILTER_FLAG_TSYNC, SYS_getuid, SECCOMP_RET_ERRNO | EXDEV));
    atomic_store(&phase, 3);
    pthread_join(t, NULL);
    CHECK(pthread_create(&u, NULL, other_filter, NULL) == 0);
    while (atomic_load(&phase) < 4) sleep_ms(1);
    long r = on(SECCOMP_FILTER_FLAG_TSYNC, SYS_geteuid, SECCOMP_RET_ERRNO | EXDEV);
    printf("another's filter: %d\n", r > 0 && r != getpid());
    show("as an error", on(SECCOMP_FILTER_FLAG_TSYNC | 16, SYS_geteuid, SECCOMP_RET_ERRNO | EXDEV));
    atomic_store(&phase, 6);
    pthread_join(u, NULL);
    status_lines();
}
static void blocked_call(void) {
    // What no filter touches works as before: signals, restarts, vfork.
    CHECK(on(0, SYS_getuid, SECCOMP_RET_ERRNO | 1) == 0);
    pid_t pid = vfork();
    if (pid == 0) _exit(4);
    show_wait("vfork", pid);
    struct timespec t = {0, 1000000};
    show("sleep", nanosleep(&t, NULL));
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "child") == 0) {
        show("after exec", syscall(SYS_getuid));
        return 6;
    }
    in_child("strict", strict);
    in_child("strict, another call", strict_killed);
    in_child("errno", errnos);
    in_child("arguments", arguments);
    in_child("kill process", kill_process);
    in_child("unknown action", unknown_action);
    in_child("kill thread", kill_thread);
    in_child("trap", trap);
    in_child("trace alone", trace_alone);
    in_child("refused", refused);
    in_child("tsync", tsync);
    in_child("others", blocked_call);
    // A tracer decides.
    for (int i = 0; i < 3; i++) {
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) traced();
        int status;
        CHECK(waitpid(pid, &status, 0) == pid);
        CHECK(ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESECCOMP | PTRACE_O_TRACESYSGOOD) == 0);
        CHECK(ptrace(PTRACE_CONT, pid, 0, 0) == 0);
        CHECK(waitpid(pid, &status, 0) == pid);
        unsigned long message = 0;
        CHECK(ptrace(PTRACE_GETEVENTMSG, pid, 0, &message) == 0);
        struct __ptrace_syscall_info info;
        memset(&info, 0, sizeof info);
        long size = ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof info, &info);
        // With the number of `struct user_regs_struct`'s orig_rax.
        printf("event %x message %lu op %d size %ld nr %llu data %u\n", status >> 8, message, info.op, size,
               (unsigned long long)info.seccomp.nr, info.seccomp.ret_data);
        if (i == 1) CHECK(ptrace(PTRACE_POKEUSER, pid, 15 * 8, -1L) == 0);
        if (i == 2) CHECK(ptrace(PTRACE_POKEUSER, pid, 15 * 8, (long)SYS_exit_group) == 0);
        CHECK(ptrace(PTRACE_CONT, pid, 0, 0) == 0);
        show_wait("traced", pid);
    }
    // Without no_new_privs only who administers may.
    pid_t pid = fork();
    if (pid == 0) {
        CHECK(setgid(1234) == 0 && setuid(1234) == 0);
        show("unprivileged", on(0, SYS_getuid, SECCOMP_RET_ERRNO));
        CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
        show("without rights to gain", on(0, SYS_getuid, SECCOMP_RET_ERRNO));
        _exit(0);
    }
    show_wait("unprivileged", pid);
    return 0;
}
