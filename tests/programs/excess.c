// Too much of everything: stacks that overflow, paths too deep, links in circles, descriptors up to the limit, signals to
// everybody at once. With the argument "descriptors" only those.
#include "check.h"
#include <sys/resource.h>
#include <sys/socket.h>

static volatile int depth;

static int recurse(int n) {
    volatile char frame[4096];
    memset((char *)frame, n, sizeof frame);
    depth = n;
    return recurse(n + 1) + frame[n % 4096];
}

static void on_segv(int signal, siginfo_t *info, void *context) {
    (void)context;
    // On a stack of its own: there is no other left.
    _exit(signal == SIGSEGV && info->si_code == SEGV_MAPERR ? 40 : 41);
}

static void stacks(void) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) _exit(recurse(0));
    show_wait("stack overflow", child);
    child = fork();
    if (child == 0) {
        static char alternate[65536];
        stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
        struct sigaction action = {.sa_sigaction = on_segv, .sa_flags = SA_SIGINFO | SA_ONSTACK};
        CHECK(sigaltstack(&stack, NULL) == 0 && sigaction(SIGSEGV, &action, NULL) == 0);
        struct rlimit limit = {256 << 10, 256 << 10};
        CHECK(setrlimit(RLIMIT_STACK, &limit) == 0);
        _exit(recurse(0));
    }
    show_wait("stack overflow with a handler", child);
    child = fork();
    if (child == 0) {
        // A handler that needs the stack that is gone: the signal cannot be delivered, and kills.
        struct sigaction action = {.sa_sigaction = on_segv, .sa_flags = SA_SIGINFO};
        CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
        _exit(recurse(0));
    }
    show_wait("stack overflow with a handler on the same stack", child);
    child = fork();
    if (child == 0) {
        asm volatile("xor %%esp, %%esp\n\tpush %%rax" ::: "memory");
        _exit(0);
    }
    show_wait("no stack at all", child);
}

static void paths(void) {
    CHECK(mkdir("/tmp/excess", 0755) == 0 && chdir("/tmp/excess") == 0);
    // 3,000 folders deep, one step at a time: longer than any path can say.
    int made = 0;
    while (made < 3000 && mkdir("d", 0755) == 0 && chdir("d") == 0) made++;
    printf("%d deep\n", made);
    char buffer[5000];
    SHOW(getcwd(buffer, 4096) != NULL ? 1 : -1);
    SHOW(open("f", O_CREAT | O_RDWR, 0644));
    SHOW(access("f", F_OK));
    memset(buffer, 0, sizeof buffer);
    for (int i = 0; i < 2047; i++) memcpy(buffer + 2 * i, "./", 2);
    buffer[4094] = 'f';
    SHOW(access(buffer, F_OK));
    buffer[4094] = '/', buffer[4095] = 'f';
    SHOW(access(buffer, F_OK));
    memset(buffer, 'n', 256), buffer[256] = 0;
    SHOW(access(buffer, F_OK));
    buffer[255] = 0;
    SHOW(access(buffer, F_OK));
    // Back up, and away with it.
    CHECK(unlink("f") == 0);
    for (int i = 0; i < made; i++) CHECK(chdir("..") == 0 && rmdir("d") == 0);
    SHOW(symlink("a", "b"));
    SHOW(symlink("b", "a"));
    SHOW(open("a", O_RDONLY));
    SHOW(open("a", O_CREAT | O_WRONLY, 0644));
    SHOW(access("a/x", F_OK));
    SHOW(symlink("self/self", "self"));
    SHOW(access("self", F_OK));
    // 40 links are followed, 41 are not.
    CHECK(mkdir("end", 0755) == 0);
    char from[16], to[16] = "end";
    for (int i = 1; i <= 41; i++) {
        snprintf(from, sizeof from, "l%d", i);
        CHECK(symlink(to, from) == 0);
        strcpy(to, from);
    }
    SHOW(access("l40", F_OK));
    SHOW(access("l41", F_OK));
    SHOW(open("l41", O_PATH | O_NOFOLLOW));
}

static void descriptors(void) {
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    int last = -1, fd;
    while ((fd = dup(0)) >= 0) last = fd;
    int error = errno;
    printf("the last is the limit's: %s, then %s\n", last == (int)limit.rlim_cur - 1 ? "yes" : "no", strerrorname_np(error));
    if (limit.rlim_cur > 1024) printf("%d\n", last);
    SHOW(pipe((int[2]){0}));
    SHOW(dup2(0, limit.rlim_cur));
    SHOW(fcntl(0, F_DUPFD, limit.rlim_cur));
    SHOW(socket(AF_UNIX, SOCK_STREAM, 0));
    pid_t child = fork();
    if (child == 0) _exit(fcntl(last, F_GETFD) == 0 ? 0 : 1);
    show_wait("a child has them too", child);
    SHOW(close_range(3, ~0U, 0));
    SHOW(fcntl(last, F_GETFD));
}

static volatile sig_atomic_t seen;

static void count(int signal) {
    (void)signal;
    seen++;
}

static void *spin(void *arg) {
    while (!*(volatile int *)arg) {
    }
    return NULL;
}

static void everybody(void) {
    enum { CHILDREN = 40 };
    // Whoever else there is would be a stranger.
    CHECK(getpid() == 1);
    fflush(stdout);
    int ready[2];
    CHECK(pipe(ready) == 0);
    pid_t children[CHILDREN];
    for (int i = 0; i < CHILDREN; i++) {
        children[i] = fork();
        CHECK(children[i] >= 0);
        if (children[i] != 0) continue;
        signal(SIGUSR1, count);
        static int never;
        pthread_t thread;
        // Some run, some sleep, some have threads.
        if (i % 4 == 0) CHECK(pthread_create(&thread, NULL, spin, &never) == 0);
        CHECK(write(ready[1], "x", 1) == 1);
        for (;;)
            if (i % 2 == 0) pause();
    }
    char byte;
    for (int i = 0; i < CHILDREN; i++) CHECK(read(ready[0], &byte, 1) == 1);
    signal(SIGUSR1, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    for (int round = 0; round < 20; round++) CHECK(kill(-1, SIGUSR1) == 0);
    CHECK(kill(-1, SIGSTOP) == 0 && kill(-1, SIGCONT) == 0);
    CHECK(kill(-1, SIGTERM) == 0);
    int terminated = 0, status;
    for (int i = 0; i < CHILDREN; i++) {
        CHECK(waitpid(children[i], &status, 0) == children[i]);
        terminated += WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM;
    }
    printf("%d of %d terminated\n", terminated, CHILDREN);
    SHOW(kill(-1, SIGUSR1));
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "descriptors") == 0) {
        descriptors();
        return 0;
    }
    stacks();
    paths();
    descriptors();
    everybody();
    return 0;
}
