// ptrace: attaching, stops of every kind, registers, memory, single steps, events, threads, exec, ends.
#include "check.h"
#include <elf.h>
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>

static int status;

static void say(const char *what) {
    printf("%s: ", what);
    if (WIFSTOPPED(status)) printf("stopped by %d, event %d\n", WSTOPSIG(status), status >> 16);
    else if (WIFEXITED(status)) printf("exit %d\n", WEXITSTATUS(status));
    else if (WIFSIGNALED(status)) printf("killed by %d\n", WTERMSIG(status));
    else printf("%x\n", status);
    fflush(stdout);
}

static void wait_for(const char *what, pid_t pid) {
    CHECK(waitpid(pid, &status, __WALL) == pid);
    say(what);
}

static long pt(int request, pid_t pid, unsigned long addr, unsigned long data) {
    errno = 0;
    return syscall(SYS_ptrace, request, pid, addr, data);
}

static void show(const char *what, long n) {
    printf("%s: %ld %s\n", what, n, n < 0 ? strerrorname_np(errno) : "");
    fflush(stdout);
}

static pid_t traced(void (*body)(void)) {
    pid_t pid = fork();
    if (pid == 0) {
        CHECK(ptrace(PTRACE_TRACEME, 0, 0, 0) == 0);
        raise(SIGSTOP);
        body();
        _exit(0);
    }
    wait_for("start", pid);
    return pid;
}

static volatile long cell = 41;
static volatile int handled;
static void handler(int n) { handled = n; }

static void calls(void) {
    syscall(SYS_getppid);
    syscall(SYS_close, 1000);
    cell = syscall(SYS_getuid, 7, 8, 9);
    _exit(cell == 4711 ? 12 : 13);
}

static void system_calls(void) {
    pid_t pid = traced(calls);
    CHECK(pt(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD) == 0);
    show("bad options", pt(PTRACE_SETOPTIONS, pid, 0, 0x40000000));
    for (int i = 0; i < 7; i++) {
        CHECK(pt(PTRACE_SYSCALL, pid, 0, 0) == 0);
        wait_for("call", pid);
        if (!WIFSTOPPED(status)) break;
        struct user_regs_struct r;
        CHECK(pt(PTRACE_GETREGS, pid, 0, (long)&r) == 0);
        struct __ptrace_syscall_info info;
        memset(&info, 0, sizeof info);
        long size = pt(PTRACE_GET_SYSCALL_INFO, pid, sizeof info, (long)&info);
        siginfo_t si;
        unsigned long message;
        CHECK(pt(PTRACE_GETSIGINFO, pid, 0, (long)&si) == 0 && pt(PTRACE_GETEVENTMSG, pid, 0, (long)&message) == 0);
        printf("  nr %ld info size %ld op %d ip %d sp %d code %x pid %d message %lu cs %llx ss %llx\n", (long)r.orig_rax, size,
               info.op, info.instruction_pointer == r.rip, info.stack_pointer == r.rsp, si.si_code, si.si_pid == pid, message,
               r.cs, r.ss);
        if (info.op == 1) printf("  entry %llu rax %lld args %d\n", (unsigned long long)info.entry.nr, (long long)r.rax,
                                 info.entry.nr == SYS_getuid ? (int)info.entry.args[2] : 0);
        if (info.op == 2 && r.orig_rax != SYS_getppid)
            printf("  exit %lld error %d\n", (long long)info.exit.rval, info.exit.is_error);
        if (i == 5) {
            r.rax = 4711;
            CHECK(pt(PTRACE_SETREGS, pid, 0, (long)&r) == 0);
        }
    }
    CHECK(pt(PTRACE_CONT, pid, 0, 0) == 0);
    wait_for("end", pid);
    // A call that is not made, and one that becomes another.
    pid = traced(calls);
    CHECK(pt(PTRACE_SYSEMU, pid, 0, 0) == 0);
    wait_for("emulated", pid);
    CHECK(pt(PTRACE_SYSCALL, pid, 0, 0) == 0);
    wait_for("next entry", pid);
    struct user_regs_struct r;
    CHECK(pt(PTRACE_GETREGS, pid, 0, (long)&r) == 0);
    printf("nr %lld\n", r.orig_rax);
    r.orig_rax = -1;
    CHECK(pt(PTRACE_SETREGS, pid, 0, (long)&r) == 0 && pt(PTRACE_SYSCALL, pid, 0, 0) == 0);
    wait_for("its exit", pid);
    CHECK(pt(PTRACE_GETREGS, pid, 0, (long)&r) == 0);
    printf("rax %lld\n", (long long)r.rax);
    CHECK(pt(PTRACE_KILL, pid, 0, 0) == 0);
    wait_for("killed", pid);
    show("gone", pt(PTRACE_CONT, pid, 0, 0));
}

static void signals_body(void) {
    struct sigaction act = {.sa_handler = handler};
    sigaction(SIGUSR1, &act, NULL);
    sigaction(SIGUSR2, &act, NULL);
    signal(SIGHUP, SIG_IGN);
    raise(SIGUSR1);
    int first = handled;
    raise(SIGUSR1);
    int second = handled;
    raise(SIGHUP);
    raise(SIGTERM);
    _exit(first * 10 + (second == SIGUSR2));
}

static void signals(void) {
    pid_t pid = traced(signals_body);
    siginfo_t si;
    CHECK(pt(PTRACE_GETSIGINFO, pid, 0, (long)&si) == 0);
    printf("signo %d code %d pid %d\n", si.si_signo, si.si_code, si.si_pid == pid);
    CHECK(pt(PTRACE_CONT, pid, 0, 0) == 0);
    wait_for("first", pid);
    CHECK(pt(PTRACE_CONT, pid, 0, SIGUSR1) == 0);
    wait_for("second", pid);
    CHECK(pt(PTRACE_CONT, pid, 0, SIGUSR2) == 0);
    wait_for("ignored", pid);
    CHECK(pt(PTRACE_CONT, pid, 0, SIGHUP) == 0);
    wait_for("deadly", pid);
    show("bad signal", pt(PTRACE_CONT, pid, 0, 65));
    unsigned long mask = 0;
    show("mask size", pt(PTRACE_GETSIGMASK, pid, 4, (long)&mask));
    CHECK(pt(PTRACE_GETSIGMASK, pid, 8, (long)&mask) == 0);
    printf("mask %lx\n", mask);
    mask = 1ul << (SIGALRM - 1);
    CHECK(pt(PTRACE_SETSIGMASK, pid, 8, (long)&mask) == 0);
    kill(pid, SIGALRM);
    kill(pid, SIGUSR1);
    siginfo_t queued[4];
    struct __ptrace_peeksiginfo_args args = {.off = 0, .flags = PTRACE_PEEKSIGINFO_SHARED, .nr = 4};
    long n = pt(PTRACE_PEEKSIGINFO, pid, (long)&args, (long)queued);
    printf("queued %ld: %d %d\n", n, queued[0].si_signo, queued[1].si_signo);
    CHECK(pt(PTRACE_CONT, pid, 0, 0) == 0);
    wait_for("the one that is not blocked", pid);
    CHECK(pt(PTRACE_CONT, pid, 0, 0) == 0);
    wait_for("end", pid);
}

__attribute__((noinline)) static long target(long n) { return n * 3 + 1; }

static void memory_body(void) {
    cell = target(cell);
    raise(SIGUSR1);
    _exit((int)cell);
}

static void memory(void) {
    pid_t pid = traced(memory_body);
    printf("cell %ld\n", ptrace(PTRACE_PEEKDATA, pid, &cell, 0));
    CHECK(ptrace(PTRACE_POKEDATA, pid, &cell, 5L) == 0);
    show("peek nothing", pt(PTRACE_PEEKDATA, pid, 8, (long)&handled));
    show("poke nothing", pt(PTRACE_POKEDATA, pid, 8, 1));
    // A breakpoint.
    long code = ptrace(PTRACE_PEEKTEXT, pid, target, 0);
    CHECK(ptrace(PTRACE_POKETEXT, pid, target, (code & ~0xffL) | 0xcc) == 0);
    CHECK(pt(PTRACE_CONT, pid, 0, 0) == 0);
    wait_for("breakpoint", pid);
    struct user_regs_struct r;
    siginfo_t si;
    CHECK(pt(PTRACE_GETREGS, pid, 0, (long)&r) == 0 && pt(PTRACE_GETSIGINFO, pid, 0, (long)&si) == 0);
    printf("at %lld, argument %lld, code %x; here %d\n", r.rip - (unsigned long)target, r.rdi, si.si_code,
           *(unsigned char *)target != 0xcc);
    CHECK(ptrace(PTRACE_POKETEXT, pid, target, code) == 0);
    r.rip = (unsigned long)target;
    CHECK(pt(PTRACE_SETREGS, pid, 0, (long)&r) == 0);
    CHECK(pt(PTRACE_POKEUSER, pid, offsetof(struct user_regs_struct, rdi), 7) == 0);
    long rdi = 0;
    CHECK(pt(PTRACE_PEEKUSER, pid, offsetof(struct user_regs_struct, rdi), (long)&rdi) == 0);
    printf("rdi %ld\n", rdi);
    show("peek user unaligned", pt(PTRACE_PEEKUSER, pid, 3, (long)&rdi));
    show("peek user outside", pt(PTRACE_PEEKUSER, pid, sizeof(struct user) + 16, (long)&rdi));
    show("poke user outside", pt(PTRACE_POKEUSER, pid, sizeof(struct user), 0));
    show("poke user, no register", pt(PTRACE_POKEUSER, pid, 400, 0));
    show("null selector", pt(PTRACE_POKEUSER, pid, offsetof(struct user_regs_struct, cs), 0));
    show("kernel base", pt(PTRACE_POKEUSER, pid, offsetof(struct user_regs_struct, fs_base), 0xffff800000000000));
    show("no debug register", pt(PTRACE_POKEUSER, pid, offsetof(struct user, u_debugreg[4]), 0));
    // Step through the function.
    int steps = 0;
    unsigned long rsp = r.rsp;
    do {
        CHECK(pt(PTRACE_SINGLESTEP, pid, 0, 0) == 0);
        CHECK(waitpid(pid, &status, 0) == pid);
        CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP);
        CHECK(pt(PTRACE_GETREGS, pid, 0, (long)&r) == 0 && pt(PTRACE_GETSIGINFO, pid, 0, (long)&si) == 0);
        CHECK(si.si_code == 2 && !(r.eflags & 0x100) && si.si_addr == (void *)r.rip);
        steps++;
    } while (r.rsp <= rsp && steps < 100);
    printf("steps %d result %lld\n", steps, r.rax);
    CHECK(pt(PTRACE_CONT, pid, 0, 0) == 0);
    wait_for("raise", pid);
    // Vector registers.
    struct user_fpregs_struct f;
    CHECK(pt(PTRACE_GETFPREGS, pid, 0, (long)&f) == 0);
    printf("cwd %x mxcsr %x\n", f.cwd, f.mxcsr);
    f.xmm_space[12] = 0x1234;
    CHECK(pt(PTRACE_SETFPREGS, pid, 0, (long)&f) == 0);
    memset(&f, 0, sizeof f);
    struct iovec v = {&f, sizeof f};
    CHECK(pt(PTRACE_GETREGSET, pid, NT_PRFPREG, (long)&v) == 0);
    printf("xmm3 %x size %zu\n", f.xmm_space[12], v.iov_len);
    static char image[16384];
    v = (struct iovec){image, sizeof image};
    CHECK(pt(PTRACE_GETREGSET, pid, NT_X86_XSTATE, (long)&v) == 0);
    unsigned long components;
    memcpy(&components, image + 464, 8);
    printf("xmm3 %x, x87 and SSE %lu, long enough %d\n", *(int *)(image + 160 + 48), components & 3, v.iov_len >= 576);
    size_t whole = v.iov_len;
    CHECK(pt(PTRACE_SETREGSET, pid, NT_X86_XSTATE, (long)&v) == 0);
    v.iov_len = 8;
    show("a part", pt(PTRACE_SETREGSET, pid, NT_X86_XSTATE, (long)&v));
    v.iov_len = whole;
    image[520] = 1;
    show("a bad header", pt(PTRACE_SETREGSET, pid, NT_X86_XSTATE, (long)&v));
    v = (struct iovec){&r, sizeof r};
    CHECK(pt(PTRACE_GETREGSET, pid, NT_PRSTATUS, (long)&v) == 0);
    printf("general %zu\n", v.iov_len);
    v.iov_len = 16;
    CHECK(pt(PTRACE_GETREGSET, pid, NT_PRSTATUS, (long)&v) == 0);
    printf("general %zu\n", v.iov_len);
    v.iov_len = 9;
    show("odd", pt(PTRACE_GETREGSET, pid, NT_PRSTATUS, (long)&v));
    show("no such set", pt(PTRACE_GETREGSET, pid, 99, (long)&v));
    show("bad iovec", pt(PTRACE_GETREGSET, pid, NT_PRSTATUS, 8));
    show("no such request", pt(0x4300, pid, 0, 0));
    CHECK(pt(PTRACE_CONT, pid, 0, 0) == 0);
    wait_for("end", pid);
}

static void events_body(void) {
    pid_t pid = fork();
    if (pid == 0) _exit(3);
    int s;
    waitpid(pid, &s, 0);
    pid = vfork();
    if (pid == 0) _exit(4);
    waitpid(pid, &s, 0);
    execl("/proc/self/exe", "ptrace", "child", NULL);
    _exit(9);
}

static void events(void) {
    pid_t pid = traced(events_body);
    CHECK(pt(PTRACE_SETOPTIONS, pid, 0,
             PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEVFORKDONE | PTRACE_O_TRACEEXEC | PTRACE_O_TRACEEXIT |
                 PTRACE_O_EXITKILL) == 0);
    CHECK(pt(PTRACE_CONT, pid, 0, 0) == 0);
    for (int i = 0; i < 2; i++) {
        wait_for(i ? "vfork" : "fork", pid);
        unsigned long child = 0, message = 0;
        CHECK(pt(PTRACE_GETEVENTMSG, pid, 0, (long)&child) == 0);
        wait_for("the child", (pid_t)child);
        siginfo_t si;
        CHECK(pt(PTRACE_GETSIGINFO, (pid_t)child, 0, (long)&si) == 0);
        printf("signo %d code %d\n", si.si_signo, si.si_code);
        CHECK(pt(PTRACE_CONT, (pid_t)child, 0, 0) == 0);
        wait_for("its end begins", (pid_t)child);
        CHECK(pt(PTRACE_GETEVENTMSG, (pid_t)child, 0, (long)&message) == 0);
        printf("status %lx\n", message);
        CHECK(pt(PTRACE_CONT, (pid_t)child, 0, 0) == 0);
        wait_for("its end", (pid_t)child);
        CHECK(pt(PTRACE_CONT, pid, 0, 0) == 0);
        if (i) {
            wait_for("vfork is over", pid);
            CHECK(pt(PTRACE_GETEVENTMSG, pid, 0, (long)&message) == 0 && message == child);
            CHECK(pt(PTRACE_CONT, pid, 0, 0) == 0);
        }
        wait_for("SIGCHLD", pid);
        CHECK(pt(PTRACE_CONT, pid, 0, SIGCHLD) == 0);
    }
    wait_for("exec", pid);
    unsigned long message = 0;
    CHECK(pt(PTRACE_GETEVENTMSG, pid, 0, (long)&message) == 0);
    printf("the same task %d\n", message == (unsigned long)pid);
    CHECK(pt(PTRACE_CONT, pid, 0, 0) == 0);
    wait_for("end begins", pid);
    CHECK(pt(PTRACE_CONT, pid, 0, 0) == 0);
    wait_for("end", pid);
    // Without options exec is a SIGTRAP.
    pid = fork();
    if (pid == 0) {
        CHECK(ptrace(PTRACE_TRACEME, 0, 0, 0) == 0);
        execl("/proc/self/exe", "ptrace", "child", NULL);
        _exit(9);
    }
    wait_for("exec", pid);
    CHECK(pt(PTRACE_DETACH, pid, 0, 0) == 0);
    wait_for("end", pid);
}

static int pipes[2];

static void attached(void) {
    char c;
    CHECK(write(pipes[1], "r", 1) == 1);
    for (;;) pause();
    (void)c;
}

static void attach(void) {
    char c;
    CHECK(pipe(pipes) == 0);
    pid_t pid = fork();
    if (pid == 0) attached();
    CHECK(read(pipes[0], &c, 1) == 1);
    // Until it is in pause.
    char path[64], line[256];
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    for (bool sleeps = false; !sleeps; sleep_ms(1)) {
        FILE *f = fopen(path, "r");
        while (fgets(line, sizeof line, f)) sleeps |= strncmp(line, "State:\tS", 8) == 0;
        fclose(f);
    }
    show("not ours", pt(PTRACE_CONT, pid, 0, 0));
    show("self", pt(PTRACE_ATTACH, getpid(), 0, 0));
    show("nobody", pt(PTRACE_ATTACH, 0x3fffff, 0, 0));
    CHECK(pt(PTRACE_ATTACH, pid, 0, 0) == 0);
    wait_for("attach", pid);
    show("twice", pt(PTRACE_ATTACH, pid, 0, 0));
    struct user_regs_struct r;
    CHECK(pt(PTRACE_GETREGS, pid, 0, (long)&r) == 0);
    printf("in call %lld rax %lld\n", (long long)r.orig_rax, (long long)r.rax);
    FILE *f = fopen(path, "r");
    while (fgets(line, sizeof line, f))
        if (strncmp(line, "State", 5) == 0) fputs(line, stdout);
        else if (strncmp(line, "TracerPid", 9) == 0) printf("traced by me %d\n", atoi(line + 10) == getpid());
    fclose(f);
    // It waits again after this.
    CHECK(pt(PTRACE_CONT, pid, 0, 0) == 0);
    show("running", pt(PTRACE_GETREGS, pid, 0, (long)&r));
    show("interrupt of one that is not seized", pt(PTRACE_INTERRUPT, pid, 0, 0));
    kill(pid, SIGWINCH);
    wait_for("another signal", pid);
    CHECK(pt(PTRACE_DETACH, pid, 0, 0) == 0);
    show("detached", pt(PTRACE_CONT, pid, 0, 0));
    CHECK(waitpid(pid, &status, WNOHANG | WUNTRACED) == 0);

    show("seize with an address", pt(PTRACE_SEIZE, pid, 8, 0));
    show("seize with bad options", pt(PTRACE_SEIZE, pid, 0, 0x40000000));
    CHECK(pt(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACESYSGOOD) == 0);
    CHECK(waitpid(pid, &status, WNOHANG) == 0);
    CHECK(pt(PTRACE_INTERRUPT, pid, 0, 0) == 0);
    wait_for("interrupted", pid);
    siginfo_t si;
    CHECK(pt(PTRACE_GETSIGINFO, pid, 0, (long)&si) == 0);
    printf("signo %d code %x\n", si.si_signo, si.si_code);
    CHECK(pt(PTRACE_CONT, pid, 0, 0) == 0);
    // A stop of the group, of which one hears twice: the signal, and the stop.
    kill(pid, SIGSTOP);
    wait_for("SIGSTOP", pid);
    show("listen at a signal", pt(PTRACE_LISTEN, pid, 0, 0));
    CHECK(pt(PTRACE_CONT, pid, 0, SIGSTOP) == 0);
    wait_for("the group stops", pid);
    CHECK(pt(PTRACE_LISTEN, pid, 0, 0) == 0);
    show("listening", pt(PTRACE_GETREGS, pid, 0, (long)&r));
    CHECK(waitpid(pid, &status, WNOHANG) == 0);
    kill(pid, SIGCONT);
    wait_for("it goes on", pid);
    CHECK(pt(PTRACE_CONT, pid, 0, 0) == 0);
    wait_for("SIGCONT", pid);
    CHECK(pt(PTRACE_CONT, pid, 0, SIGCONT) == 0);
    kill(pid, SIGKILL);
    wait_for("killed", pid);
}

// How strace(1) begins: what has stopped itself is seized, interrupted and continued in one moment. Whether the group's stop
// is told of first or not, its end is heard of.
static void seized_and_continued(void) {
    for (int i = 0; i < 200; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            raise(SIGSTOP);
            _exit(3);
        }
        CHECK(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status));
        CHECK(pt(PTRACE_SEIZE, pid, 0, 0) == 0 && pt(PTRACE_INTERRUPT, pid, 0, 0) == 0);
        CHECK(kill(pid, SIGCONT) == 0);
        while (waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status)) {
            int event = status >> 16, sig = WSTOPSIG(status);
            int listen = event == PTRACE_EVENT_STOP && sig == SIGSTOP;
            CHECK(pt(listen ? PTRACE_LISTEN : PTRACE_CONT, pid, 0, event ? 0 : sig) == 0);
        }
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 3);
    }
    say("seized and continued");
}

static atomic_int threads_ready;
static void *thread(void *arg) {
    atomic_fetch_add(&threads_ready, 1);
    if (arg) return NULL;
    for (;;) pause();
}

static void threads_body(void) {
    pthread_t t;
    pthread_create(&t, NULL, thread, (void *)1);
    pthread_join(t, NULL);
    pthread_create(&t, NULL, thread, NULL);
    while (atomic_load(&threads_ready) != 2) sleep_ms(1);
    _exit(7);
}

static void threads(void) {
    pid_t pid = traced(threads_body);
    CHECK(pt(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACECLONE) == 0 && pt(PTRACE_CONT, pid, 0, 0) == 0);
    int clones = 0, starts = 0, ends = 0, others = 0;
    for (;;) {
        pid_t who = waitpid(-1, &status, __WALL);
        CHECK(who > 0);
        if (who == pid && (WIFEXITED(status) || WIFSIGNALED(status))) break;
        if (WIFEXITED(status) || WIFSIGNALED(status)) ends++;
        else {
            if (status >> 8 == (SIGTRAP | PTRACE_EVENT_CLONE << 8)) clones++;
            else if (who != pid && WSTOPSIG(status) == SIGSTOP) starts++;
            else others++;
            CHECK(pt(PTRACE_CONT, who, 0, 0) == 0);
        }
    }
    printf("threads: clones %d starts %d ends %d others %d\n", clones, starts, ends, others);
    say("end");
    CHECK(waitpid(-1, &status, __WALL) == -1 && errno == ECHILD);
}

static void tracer_ends(void) {
    // What a tracer leaves goes on, or is killed with it.
    for (int kill_it = 0; kill_it < 2; kill_it++) {
        int link[2];
        CHECK(pipe(link) == 0);
        pid_t pid = fork();
        if (pid == 0) {
            char c;
            close(link[1]);
            // Until the tracer is gone.
            _exit(read(link[0], &c, 1) == 0 ? 21 : 22);
        }
        pid_t tracer = fork();
        if (tracer == 0) {
            CHECK(pt(PTRACE_SEIZE, pid, 0, kill_it ? PTRACE_O_EXITKILL : 0) == 0);
            CHECK(pt(PTRACE_INTERRUPT, pid, 0, 0) == 0 && waitpid(pid, &status, 0) == pid);
            _exit(0);
        }
        close(link[0]);
        wait_for("tracer", tracer);
        close(link[1]);
        wait_for(kill_it ? "killed with it" : "left alone", pid);
    }
    // The end of one that somebody else traces is the tracer's to hear first.
    int go[2], done[2];
    char c;
    CHECK(pipe(go) == 0 && pipe(done) == 0);
    pid_t pid = fork();
    if (pid == 0) _exit(read(go[0], &c, 1) == 1 ? 5 : 6);
    pid_t tracer = fork();
    if (tracer == 0) {
        CHECK(pt(PTRACE_SEIZE, pid, 0, 0) == 0 && write(go[1], "g", 1) == 1);
        siginfo_t si;
        CHECK(waitid(P_PID, (id_t)pid, &si, WEXITED | WNOWAIT) == 0);
        CHECK(write(done[1], "d", 1) == 1 && read(done[0], &c, 0) == 0);
        sleep_ms(50);
        CHECK(waitpid(pid, &status, 0) == pid);
        say("tracer hears");
        _exit(0);
    }
    CHECK(read(done[0], &c, 1) == 1);
    printf("parent hears nothing yet: %d\n", waitpid(pid, &status, WNOHANG));
    fflush(stdout);
    wait_for("tracer", tracer);
    wait_for("parent hears", pid);
}

static void others(void) {
    pid_t pid = fork();
    if (pid == 0) {
        for (;;) pause();
    }
    pid_t other = fork();
    if (other == 0) {
        CHECK(setgid(1234) == 0 && setuid(1234) == 0);
        show("another user", pt(PTRACE_ATTACH, pid, 0, 0));
        show("another user", pt(PTRACE_SEIZE, pid, 0, 0));
        _exit(0);
    }
    wait_for("other", other);
    kill(pid, SIGKILL);
    wait_for("killed", pid);
    // waitid of a stop.
    pid = fork();
    if (pid == 0) {
        CHECK(ptrace(PTRACE_TRACEME, 0, 0, 0) == 0);
        show("twice", ptrace(PTRACE_TRACEME, 0, 0, 0));
        raise(SIGUSR1);
        _exit(0);
    }
    siginfo_t si;
    CHECK(waitid(P_PID, (id_t)pid, &si, WSTOPPED) == 0);
    printf("code %d status %d\n", si.si_code, si.si_status);
    CHECK(pt(PTRACE_CONT, pid, 0, SIGKILL) == 0);
    wait_for("killed", pid);
}

// What a tracer has let go does not look stopped any more, whoever has run since.
static void let_go(void) {
    pid_t pid = fork();
    if (pid == 0) {
        CHECK(ptrace(PTRACE_TRACEME, 0, 0, 0) == 0);
        for (;;) {}
    }
    char path[64], text[128];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int wrong = 0;
    sleep_ms(50);
    for (int i = 0; i < 100; i++) {
        int status;
        CHECK(kill(pid, SIGSTOP) == 0 && waitpid(pid, &status, 0) == pid && WIFSTOPPED(status));
        CHECK(ptrace(PTRACE_CONT, pid, 0, 0) == 0);
        int fd = open(path, O_RDONLY);
        ssize_t n = read(fd, text, sizeof text - 1);
        CHECK(n > 0 && close(fd) == 0);
        text[n] = 0;
        wrong += strstr(text, ") t ") != NULL;
    }
    printf("let go, and looked stopped: %d\n", wrong);
    kill(pid, SIGKILL);
    wait_for("killed", pid);
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "child") == 0) return 6;
    system_calls();
    signals();
    memory();
    events();
    attach();
    seized_and_continued();
    threads();
    tracer_ends();
    others();
    let_go();
    return 0;
}
