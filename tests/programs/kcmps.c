// kcmp, pidfd_getfd, and I/O priorities.
#include "check.h"
#include <grp.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif
enum { FILE_, VM, FILES, FS, SIGHAND, IO, SYSVSEM, EPOLL_TFD };
static long kcmp(pid_t a, pid_t b, int type, unsigned long x, unsigned long y) {
    return syscall(SYS_kcmp, a, b, type, x, y);
}
// Whether they are the same: which is less says nothing.
static long same(pid_t a, pid_t b, int type, unsigned long x, unsigned long y) {
    long r = kcmp(a, b, type, x, y);
    return r < 0 ? r : r == 0;
}
static int go[2];
static pid_t waits(int flags) {
    pid_t pid = syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
    if (pid == 0) {
        char c;
        CHECK(read(go[0], &c, 1) == 1);
        _exit(0);
    }
    return pid;
}
static void let_go(pid_t pid) {
    CHECK(write(go[1], "x", 1) == 1);
    show_wait("child", pid);
}
static void *thread(void *tid) {
    *(pid_t *)tid = gettid();
    pid_t me = getpid();
    for (int type = VM; type <= SYSVSEM; type++) printf("thread %d: %ld\n", type, same(me, gettid(), type, 0, 0));
    return NULL;
}
#define IOPRIO(class, level) ((class) << 13 | (level))
static long set(int which, int who, int priority) { return syscall(SYS_ioprio_set, which, who, priority); }
static long get(int which, int who) { return syscall(SYS_ioprio_get, which, who); }
int main(void) {
    CHECK(pipe(go) == 0);
    pid_t me = getpid(), tid;
    int a = open("/dev/null", O_RDONLY), b = dup(a), c = open("/dev/null", O_RDONLY);
    SHOW(same(me, me, FILE_, a, b));
    SHOW(same(me, me, FILE_, a, c));
    long ab = kcmp(me, me, FILE_, a, c), ba = kcmp(me, me, FILE_, c, a);
    printf("ordered %d\n", ab + ba == 3);
    SHOW(same(me, me, FILE_, a, 999));
    SHOW(same(me, me, FILE_, -1, a));
    SHOW(same(me, me, 8, 0, 0));
    SHOW(same(me, me, -1, 0, 0));
    SHOW(same(me, -1, VM, 0, 0));
    SHOW(same(0, me, VM, 0, 0));
    SHOW(same(me, 99999999, VM, 0, 0));
    pthread_t t;
    CHECK(pthread_create(&t, NULL, thread, &tid) == 0 && pthread_join(t, NULL) == 0);
    fflush(stdout);
    int kinds[] = {0, CLONE_FILES, CLONE_FS, CLONE_FILES | CLONE_FS};
    for (int i = 0; i < 4; i++) {
        pid_t pid = waits(kinds[i]);
        for (int type = VM; type <= SYSVSEM; type++) printf("%d %d: %ld\n", i, type, same(me, pid, type, 0, 0));
        printf("file %ld\n", same(me, pid, FILE_, a, b));
        let_go(pid);
    }
    int ep = epoll_create1(0);
    struct epoll_event e = {EPOLLIN, {0}};
    CHECK(epoll_ctl(ep, EPOLL_CTL_ADD, go[0], &e) == 0);
    struct { uint32_t efd, tfd, toff; } slot = {ep, go[0], 0};
    SHOW(same(me, me, EPOLL_TFD, go[0], (uintptr_t)&slot));
    SHOW(same(me, me, EPOLL_TFD, a, (uintptr_t)&slot));
    slot.tfd = a;
    SHOW(same(me, me, EPOLL_TFD, a, (uintptr_t)&slot));
    slot.efd = a;
    SHOW(same(me, me, EPOLL_TFD, a, (uintptr_t)&slot));
    slot.efd = 999;
    SHOW(same(me, me, EPOLL_TFD, a, (uintptr_t)&slot));
    SHOW(same(me, me, EPOLL_TFD, a, 8));
    // pidfd_getfd.
    int data[2];
    CHECK(pipe(data) == 0);
    pid_t pid = waits(0);
    close(data[0]);
    int pidfd = syscall(SYS_pidfd_open, pid, 0);
    CHECK(pidfd >= 0);
    int got = syscall(SYS_pidfd_getfd, pidfd, data[0], 0);
    CHECK(got >= 0);
    printf("cloexec %d\n", fcntl(got, F_GETFD));
    char byte = 0;
    CHECK(write(data[1], "y", 1) == 1 && read(got, &byte, 1) == 1);
    printf("read %c, same %ld\n", byte, same(me, pid, FILE_, got, data[0]));
    SHOW(syscall(SYS_pidfd_getfd, pidfd, 999, 0));
    SHOW(syscall(SYS_pidfd_getfd, pidfd, -1, 0));
    SHOW(syscall(SYS_pidfd_getfd, pidfd, 0, 1));
    SHOW(syscall(SYS_pidfd_getfd, a, 0, 0));
    SHOW(syscall(SYS_pidfd_getfd, 999, 0, 0));
    fflush(stdout);
    pid_t other = fork();
    if (other == 0) {
        CHECK(setgroups(0, NULL) == 0 && setgid(77) == 0 && setuid(77) == 0);
        SHOW(syscall(SYS_pidfd_getfd, pidfd, 0, 0));
        SHOW(same(me, getpid(), VM, 0, 0));
        SHOW(same(getpid(), getpid(), VM, 0, 0));
        _exit(0);
    }
    show_wait("other", other);
    let_go(pid);
    SHOW(syscall(SYS_pidfd_getfd, pidfd, 0, 0));
    // I/O priorities.
    SHOW(set(0, 0, 0));
    SHOW(set(4, 0, 0));
    SHOW(set(1, 99999999, 0));
    SHOW(set(1, 0, IOPRIO(4, 0)));
    SHOW(set(1, 0, IOPRIO(0, 1)));
    SHOW(get(0, 0));
    SHOW(get(1, 99999999));
    printf("at first %lx\n", get(1, 0));
    SHOW(set(1, 0, IOPRIO(2, 7)));
    printf("set %lx\n", get(1, 0));
    pid = waits(0);
    printf("inherited %lx\n", get(1, pid));
    SHOW(set(1, pid, IOPRIO(3, 0)));
    printf("child's %lx, own %lx\n", get(1, pid), get(1, 0));
    printf("apart %ld\n", same(me, pid, IO, 0, 0));
    let_go(pid);
    SHOW(set(1, 0, IOPRIO(0, 0)));
    printf("none %lx\n", get(1, 0));
    return 0;
}
