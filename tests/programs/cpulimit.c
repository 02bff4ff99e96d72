// RLIMIT_CPU: SIGXCPU at the soft limit and once a second from then on, SIGKILL at the hard one; by process, all its threads
// together; a child has the limit, and its own time.
#include "check.h"
#include <sys/resource.h>

static volatile long told;

static void on_xcpu(int signal) {
    (void)signal;
    struct timespec t;
    struct rlimit r;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    getrlimit(RLIMIT_CPU, &r);
    // Linux looks at a tick, and may count a little ahead.
    double used = t.tv_sec + t.tv_nsec / 1e9;
    printf("told %ld, %s, soft now %ld\n", told + 1, used > told - 0.3 ? "in time" : "too soon", (long)r.rlim_cur);
    told++;
    fflush(stdout);
}

static void limit(long soft, long hard) {
    struct rlimit r = {soft, hard};
    CHECK(setrlimit(RLIMIT_CPU, &r) == 0);
}

static void *spin(void *arg) {
    for (volatile unsigned long n = 0;; n++) {}
    return arg;
}

static void ended(const char *what, pid_t pid) {
    int status;
    struct rusage use;
    CHECK(wait4(pid, &status, 0, &use) == pid);
    double used = use.ru_utime.tv_sec + use.ru_stime.tv_sec + (use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6;
    printf("%s: signal %d, %s\n", what, WIFSIGNALED(status) ? WTERMSIG(status) : 0, used < 0.7 ? "too soon" : "not too soon");
    fflush(stdout);
}

int main(void) {
    pid_t pid = fork();
    if (pid == 0) {
        signal(SIGXCPU, on_xcpu);
        limit(0, 2);
        spin(NULL);
    }
    ended("told, then killed", pid);
    // Passed on by fork; two threads spend it.
    pid = fork();
    if (pid == 0) {
        limit(1, RLIM_INFINITY);
        pid_t child = fork();
        if (child == 0) {
            pthread_t thread;
            CHECK(pthread_create(&thread, NULL, spin, NULL) == 0);
            spin(NULL);
        }
        ended("a child's threads", child);
        _exit(0);
    }
    CHECK(waitpid(pid, NULL, 0) == pid);
    // Taken back in time.
    pid = fork();
    if (pid == 0) {
        limit(1, RLIM_INFINITY);
        limit(RLIM_INFINITY, RLIM_INFINITY);
        struct timespec t;
        do clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
        while (t.tv_sec < 1 || t.tv_nsec < 200000000);
        raise(SIGUSR1);
    }
    ended("taken back", pid);
    return 0;
}
