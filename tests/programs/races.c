// Kicks and signals that race with everything: none may be lost, none may be seen twice.
#include "check.h"
#include <sched.h>
static volatile sig_atomic_t count;
static void handler(int s) { (void)s, count++; }
static volatile int stop;
static void *burn(void *arg) {
    (void)arg;
    while (!stop) {
    }
    return NULL;
}
static void *victim(void *arg) {
    (void)arg;
    sleep(1000);
    return NULL;
}
static void *killer(void *arg) {
    sleep_ms((long)arg);
    exit(33);
}
static void *execs(void *arg) {
    (void)arg;
    sleep_ms(20);
    execl("/bin/sh", "sh", "-c", "exit 44", NULL);
    return NULL;
}
int main(void) {
    // Signals to a loop that makes no system call.
    signal(SIGUSR1, handler);
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) {
        for (int i = 0; i < 50; i++) kill(parent, SIGUSR1), sleep_ms(1);
        _exit(0);
    }
    while (count == 0) {
    }
    waitpid(pid, NULL, 0);
    printf("a busy loop was reached\n");
    // Each of 2,000 acknowledged signals arrives exactly once.
    int p[2], q[2];
    CHECK(pipe(p) == 0 && pipe(q) == 0);
    pid = fork();
    char c = 'x';
    if (pid == 0) {
        close(p[1]), close(q[0]);
        count = 0;
        CHECK(write(q[1], &c, 1) == 1);
        for (int seen = 0; seen < 2000;) {
            if (count > seen) {
                CHECK(count == seen + 1);
                seen++;
                CHECK(write(q[1], &c, 1) == 1);
            } else if (seen % 3 == 0) {
                sched_yield();
            }
        }
        _exit(5);
    }
    close(q[1]);
    CHECK(read(q[0], &c, 1) == 1);
    for (int i = 0; i < 2000; i++) {
        CHECK(kill(pid, SIGUSR1) == 0);
        CHECK(read(q[0], &c, 1) == 1);
    }
    show_wait("acknowledged", pid);
    // Busy threads share the processors, and exit_group ends all.
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        pthread_t t[6];
        for (int i = 0; i < 4; i++) pthread_create(&t[i], NULL, burn, NULL);
        for (int i = 4; i < 6; i++) pthread_create(&t[i], NULL, victim, NULL);
        sleep_ms(30);
        _exit(9);
    }
    show_wait("exit_group", pid);
    pid = fork();
    if (pid == 0) {
        pthread_t t;
        pthread_create(&t, NULL, killer, (void *)20);
        for (;;) pause();
    }
    show_wait("exit by another thread", pid);
    pid = fork();
    if (pid == 0) {
        pthread_t t;
        pthread_create(&t, NULL, burn, NULL);
        pthread_create(&t, NULL, execs, NULL);
        // Not pthread_exit: it wants a library that the root may not have, and aborts where the exec comes late.
        syscall(SYS_exit, 0);
    }
    show_wait("exec by another thread", pid);
    // SIGKILL at every moment of a fork-and-exec loop; nothing is left to wait for.
    for (int i = 0; i < 30; i++) {
        pid = fork();
        if (pid == 0) {
            setpgid(0, 0);
            for (;;) {
                pid_t inner = vfork();
                if (inner == 0) {
                    execl("/bin/true", "true", NULL);
                    _exit(1);
                }
                waitpid(inner, NULL, 0);
            }
        }
        setpgid(pid, pid);
        sleep_ms(i % 10);
        CHECK(kill(-pid, SIGKILL) == 0);
        int status;
        CHECK(waitpid(pid, &status, 0) == pid && WTERMSIG(status) == SIGKILL);
    }
    printf("killed\n");
    // munmap under another thread's feet: it faults, or it was done.
    pthread_t t;
    stop = 0;
    CHECK(pthread_create(&t, NULL, burn, NULL) == 0);
    for (int i = 0; i < 300; i++) {
        char *m = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        memset(m, 1, 65536);
        CHECK(mprotect(m, 4096, PROT_READ) == 0);
        munmap(m, 65536);
    }
    stop = 1;
    pthread_join(t, NULL);
    printf("unmapped\n");
    return 0;
}
