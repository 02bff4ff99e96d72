// System calls that a program serves itself: who has it, which calls pass, what the signal says, and how it ends.
#include "check.h"
#include <linux/audit.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/ucontext.h>
#include <sys/utsname.h>
#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#endif
static volatile unsigned char selector;
static volatile int came, number, code, arch, addressed, errors;
static volatile long first;
extern char from[], until[], behind[];
// Calls of which the first is within a stretch and the second is not.
asm(".text\nfrom:\nmov %rdi, %rax\nmov %rsi, %rdi\nmov %rdx, %rsi\nsyscall\nret\nuntil:\n"
    "outside:\nmov %rdi, %rax\nmov %rsi, %rdi\nmov %rdx, %rsi\nsyscall\nbehind:\nret\n");
extern long outside(long number, long a, long b);
static long inside(long number, long a, long b) {
    return ((long (*)(long, long, long))from)(number, a, b);
}
static void served(int signal, siginfo_t *info, void *context) {
    selector = 0;
    ucontext_t *u = context;
    came++, number = info->si_syscall, code = info->si_code, arch = info->si_arch == AUDIT_ARCH_X86_64, errors = info->si_errno;
    addressed = info->si_call_addr == (void *)behind && u->uc_mcontext.gregs[REG_RIP] == (long)behind;
    first = u->uc_mcontext.gregs[REG_RAX];
    u->uc_mcontext.gregs[REG_RAX] = 4711;
    (void)signal;
}
static void *elsewhere(void *arg) {
    // Once the other one waits.
    until_threads_sleep(1);
    selector = 1;
    *(long *)arg = outside(SYS_getppid, 0, 0) == getppid();
    selector = 0;
    return NULL;
}
static int on(void *offset, size_t len, volatile unsigned char *byte) {
    return prctl(PR_SET_SYSCALL_USER_DISPATCH, 1, offset, len, byte);
}
static int off(void) { return prctl(PR_SET_SYSCALL_USER_DISPATCH, 0, 0, 0, 0); }
// A tracer looks at it and changes it. Nothing is printed, since a Linux before 6.4 has no such requests.
struct config {
    uint64_t mode, selector, offset, len;
};
enum { SET_CONFIG = 0x4210, GET_CONFIG = 0x4211 };
static long ask(int request, pid_t pid, size_t size, void *config) { return ptrace(request, pid, size, config); }
static void stopped(pid_t pid, int signal) {
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && WIFSTOPPED(status) && WSTOPSIG(status) == signal);
}
static void traced(size_t len) {
    struct utsname uts;
    struct config config, wanted = {1, (uintptr_t)&selector, (uintptr_t)from, len};
    pid_t pid = fork();
    if (pid == 0) {
        CHECK(ptrace(PTRACE_TRACEME, 0, 0, 0) == 0);
        raise(SIGSTOP);
        selector = 1;
        CHECK(outside(SYS_getppid, 0, 0) == 4711);
        selector = 0;
        raise(SIGSTOP);
        selector = 1;
        CHECK(outside(SYS_getppid, 0, 0) == getppid());
        CHECK(prctl(PR_SET_SYSCALL_USER_DISPATCH, 1, 0, 0, &selector) == 0);
        selector = 0;
        raise(SIGSTOP);
        _exit(5);
    }
    stopped(pid, SIGSTOP);
    CHECK(uname(&uts) == 0);
    bool old = ask(GET_CONFIG, pid, sizeof config, &config) == -1 && errno == EIO;
    if (old && !strstr(uts.release, "ringwall")) {
        CHECK(kill(pid, SIGKILL) == 0 && waitpid(pid, NULL, 0) == pid);
        return;
    }
    CHECK(ask(GET_CONFIG, pid, sizeof config, &config) == 0);
    CHECK(!config.mode && !config.selector && !config.offset && !config.len);
    CHECK(ask(GET_CONFIG, pid, 31, &config) == -1 && errno == EINVAL);
    CHECK(ask(GET_CONFIG, pid, 33, &config) == -1 && errno == EINVAL);
    CHECK(ask(GET_CONFIG, pid, sizeof config, (void *)8) == -1 && errno == EFAULT);
    CHECK(ask(SET_CONFIG, pid, 31, &wanted) == -1 && errno == EINVAL);
    CHECK(ask(SET_CONFIG, pid, sizeof config, (void *)8) == -1 && errno == EFAULT);
    CHECK(ask(SET_CONFIG, getpid(), sizeof config, &wanted) == -1 && errno == ESRCH);
    struct config wrong[] = {{7, 0, 0, 0}, {0, 1, 0, 0}, {0, 0, 1, 0}, {1, 0, 1, 0}, {1, 0, 1, -1}};
    for (int i = 0; i < 5; i++) CHECK(ask(SET_CONFIG, pid, sizeof config, &wrong[i]) == -1 && errno == EINVAL);
    struct config nowhere = {1, -1, 0, 0};
    CHECK(ask(SET_CONFIG, pid, sizeof config, &nowhere) == -1 && errno == EFAULT);
    CHECK(ask(SET_CONFIG, pid, sizeof config, &wanted) == 0);
    CHECK(ask(GET_CONFIG, pid, sizeof config, &config) == 0 && memcmp(&config, &wanted, sizeof config) == 0);
    CHECK(ptrace(PTRACE_CONT, pid, 0, 0) == 0);
    stopped(pid, SIGSYS);
    CHECK(ask(GET_CONFIG, pid, sizeof config, &config) == 0 && memcmp(&config, &wanted, sizeof config) == 0);
    CHECK(ptrace(PTRACE_CONT, pid, 0, SIGSYS) == 0);
    stopped(pid, SIGSTOP);
    struct config none = {0};
    CHECK(ask(SET_CONFIG, pid, sizeof config, &none) == 0);
    CHECK(ptrace(PTRACE_CONT, pid, 0, 0) == 0);
    stopped(pid, SIGSTOP);
    CHECK(ask(GET_CONFIG, pid, sizeof config, &config) == 0);
    CHECK(config.mode == 1 && config.selector == (uintptr_t)&selector && !config.offset && !config.len);
    CHECK(ptrace(PTRACE_DETACH, pid, 0, 0) == 0);
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 5);
}
int main(int argc, char **argv) {
    if (argc > 1) {
        printf("after exec %d\n", outside(SYS_getppid, 0, 0) == getppid());
        return 0;
    }
    size_t len = until - from;
    SHOW(prctl(PR_SET_SYSCALL_USER_DISPATCH, 0, 1, 0, 0));
    SHOW(prctl(PR_SET_SYSCALL_USER_DISPATCH, 0, 0, 1, 0));
    SHOW(prctl(PR_SET_SYSCALL_USER_DISPATCH, 0, 0, 0, &selector));
    SHOW(prctl(PR_SET_SYSCALL_USER_DISPATCH, 7, 0, 0, 0));
    SHOW(prctl(PR_SET_SYSCALL_USER_DISPATCH, 1, from, 0, &selector));
    SHOW(prctl(PR_SET_SYSCALL_USER_DISPATCH, 1, from, -1L, &selector));
    SHOW(prctl(PR_SET_SYSCALL_USER_DISPATCH, 1, from, len, -1L));
    SHOW(off());
    struct sigaction action = {.sa_sigaction = served, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(SIGSYS, &action, NULL) == 0);
    SHOW(on(from, len, &selector));
    printf("passes: %d\n", outside(SYS_getppid, 0, 0) == getppid());
    fflush(stdout);
    selector = 1;
    long in = inside(SYS_getpid, 0, 0), out = outside(SYS_getppid, 1, 2);
    printf("inside %d, outside %ld: came %d, call %d, code %d, arch %d, there %d, error %d, rax %ld\n", in == getpid(), out, came,
           number == SYS_getppid, code, arch, addressed, errors, first);
    fflush(stdout);
    selector = 1;
    out = outside(100000, 0, 0);
    printf("no call %ld: came %d, call %d\n", out, came, number);
    long there = 0;
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, elsewhere, &there) == 0 && pthread_join(thread, NULL) == 0);
    printf("another thread %ld\n", there);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        selector = 1;
        int same = outside(SYS_getppid, 0, 0) == getppid();
        printf("a child %d, came %d\n", same, came);
        fflush(stdout);
        _exit(0);
    }
    selector = 0;
    show_wait("child", pid);
    for (int how = 0; how < 5; how++) {
        static const char *const what[] = {"a byte that means nothing", "no memory", "the signal blocked", "no handler", "no byte"};
        selector = 0;
        pid = fork();
        if (pid == 0) {
            sigset_t set;
            sigemptyset(&set);
            sigaddset(&set, SIGSYS);
            if (how == 2) sigprocmask(SIG_BLOCK, &set, NULL);
            if (how == 3 || how == 4) signal(SIGSYS, SIG_DFL);
            volatile unsigned char *byte = how == 1 ? (void *)4096 : how == 4 ? NULL : &selector;
            CHECK(inside(SYS_getpid, 0, 0) == getpid());
            on(from, len, byte);
            selector = how == 0 ? 2 : 1;
            outside(SYS_getppid, 0, 0);
            inside(SYS_exit_group, 0, 0);
        }
        show_wait(what[how], pid);
    }
    SHOW(off());
    selector = 1;
    printf("off: %d\n", outside(SYS_getppid, 0, 0) == getppid());
    fflush(stdout);
    selector = 0;
    traced(len);
    CHECK(on(from, len, &selector) == 0);
    execl("/proc/self/exe", argv[0], "again", NULL);
    return 1;
}
