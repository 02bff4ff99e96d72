// Delivery, masks, queues, restart and EINTR, siginfo, signals to threads, and what a handler sees.
#include "check.h"
#include <sys/prctl.h>
static volatile sig_atomic_t count, last, value;
static volatile sig_atomic_t order[16], ordered;
static void plain(int s) { count++, last = s; }
static void detailed(int s, siginfo_t *i, void *c) {
    (void)c;
    last = s;
    value = i->si_value.sival_int;
    if (ordered < 16) order[ordered++] = i->si_value.sival_int;
    count++;
}
static void set(int s, void *h, int flags) {
    struct sigaction a = {.sa_flags = flags};
    a.sa_handler = h;
    CHECK(sigaction(s, &a, NULL) == 0);
}
static pid_t later(int ms, int s) {
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) {
        sleep_ms(ms);
        kill(parent, s);
        _exit(0);
    }
    return pid;
}
static void *target(void *arg) {
    sigset_t set;
    int s;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    CHECK(sigwait(&set, &s) == 0);
    *(int *)arg = s;
    return NULL;
}
int main(void) {
    set(SIGUSR1, plain, 0);
    raise(SIGUSR1);
    printf("raised %d\n", count);
    // Blocked: a standard signal is kept once, real-time signals queue in order with their values.
    sigset_t all, old, pending;
    sigfillset(&all);
    CHECK(sigprocmask(SIG_SETMASK, &all, &old) == 0);
    for (int i = 0; i < 3; i++) kill(getpid(), SIGUSR1);
    set(SIGRTMIN, detailed, SA_SIGINFO);
    set(SIGRTMIN + 1, detailed, SA_SIGINFO);
    for (int i = 0; i < 3; i++) {
        union sigval v = {.sival_int = 10 + i};
        CHECK(sigqueue(getpid(), SIGRTMIN + 1, v) == 0);
        v.sival_int = i;
        CHECK(sigqueue(getpid(), SIGRTMIN, v) == 0);
    }
    sigpending(&pending);
    printf("pending %d %d %d\n", sigismember(&pending, SIGUSR1), sigismember(&pending, SIGRTMIN), sigismember(&pending, SIGUSR2));
    count = 0;
    CHECK(sigprocmask(SIG_SETMASK, &old, NULL) == 0);
    printf("delivered %d:", count);
    for (int i = 0; i < ordered; i++) printf(" %d", order[i]);
    printf("\n");
    // A read is interrupted without SA_RESTART and restarted with it.
    int p[2];
    char c;
    CHECK(pipe(p) == 0);
    fflush(stdout);
    pid_t child = later(100, SIGUSR1);
    SHOW(read(p[0], &c, 1));
    waitpid(child, NULL, 0);
    set(SIGUSR1, plain, SA_RESTART);
    child = later(100, SIGUSR1);
    pid_t writer = fork();
    if (writer == 0) {
        sleep_ms(400);
        CHECK(write(p[1], "r", 1) == 1);
        _exit(0);
    }
    count = 0;
    ssize_t got_ = read(p[0], &c, 1);
    printf("restarted read %zd %c after %d\n", got_, c, count);
    waitpid(child, NULL, 0), waitpid(writer, NULL, 0);
    // pause, nanosleep and poll are interrupted whatever the flag; nanosleep tells the rest.
    fflush(stdout);
    child = later(100, SIGUSR1);
    SHOW(pause());
    waitpid(child, NULL, 0);
    child = later(100, SIGUSR1);
    struct timespec want = {10, 0}, rest = {0, 0};
    SHOW(nanosleep(&want, &rest));
    printf("rest %d\n", rest.tv_sec == 9);
    waitpid(child, NULL, 0);
    // sigsuspend takes its mask for its time only.
    sigemptyset(&all);
    sigset_t block;
    sigemptyset(&block);
    sigaddset(&block, SIGUSR1);
    CHECK(sigprocmask(SIG_BLOCK, &block, NULL) == 0);
    count = 0;
    raise(SIGUSR1);
    printf("blocked %d\n", count);
    SHOW(sigsuspend(&all));
    CHECK(sigprocmask(SIG_SETMASK, NULL, &old) == 0);
    printf("after suspend %d, still blocked %d\n", count, sigismember(&old, SIGUSR1));
    CHECK(sigprocmask(SIG_UNBLOCK, &block, NULL) == 0);
    // SA_RESETHAND, SA_NODEFER, and a mask during the handler.
    set(SIGUSR2, plain, (int)SA_RESETHAND);
    raise(SIGUSR2);
    struct sigaction now_;
    sigaction(SIGUSR2, NULL, &now_);
    printf("reset %d\n", now_.sa_handler == SIG_DFL);
    SHOW(sigaction(SIGKILL, &(struct sigaction){.sa_handler = SIG_IGN}, NULL));
    SHOW(kill(getpid(), 0));
    SHOW(kill(999999, SIGTERM));
    SHOW(kill(getpid(), 65));
    // sigtimedwait with and without a signal; signals to one thread.
    sigaddset(&block, SIGUSR2);
    CHECK(pthread_sigmask(SIG_BLOCK, &block, NULL) == 0);
    raise(SIGUSR2);
    siginfo_t info;
    struct timespec short_ = {0, 50000000};
    int taken = sigtimedwait(&block, &info, &short_);
    printf("timedwait %d code %d\n", taken, info.si_code);
    SHOW(sigtimedwait(&block, &info, &short_));
    pthread_t thread;
    int got = 0;
    CHECK(pthread_create(&thread, NULL, target, &got) == 0);
    sleep_ms(50);
    CHECK(pthread_kill(thread, SIGUSR2) == 0);
    pthread_join(thread, NULL);
    printf("thread got %d\n", got == SIGUSR2);
    // SIGCHLD's siginfo; ignored SIGCHLD reaps by itself.
    set(SIGCHLD, detailed, SA_SIGINFO);
    last = 0;
    child = fork();
    if (child == 0) _exit(1);
    waitpid(child, NULL, 0);
    printf("SIGCHLD %d\n", last == SIGCHLD);
    signal(SIGCHLD, SIG_IGN);
    if (fork() == 0) _exit(1);
    SHOW(wait(NULL));
    signal(SIGCHLD, SIG_DFL);
    // The parent's death, told to a grandchild.
    fflush(stdout);
    CHECK(pipe(p) == 0);
    child = fork();
    if (child == 0) {
        if (fork() == 0) {
            prctl(PR_SET_PDEATHSIG, SIGUSR2);
            CHECK(write(p[1], "r", 1) == 1);
            int s = sigwaitinfo(&block, &info);
            CHECK(write(p[1], s == SIGUSR2 ? "d" : "?", 1) == 1);
            _exit(0);
        }
        CHECK(read(p[0], &c, 1) == 1);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    CHECK(read(p[0], &c, 1) == 1);
    printf("death signal %c\n", c);
    return 0;
}
