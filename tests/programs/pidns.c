// Pid namespaces: numbers on every level, init and its end, signals, waits and what else tells a pid.
#include "family.h"
#include <linux/sched.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mount.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#define GET_USERNS 0xb701
#define GET_PARENT 0xb702
static pid_t with_tid(unsigned long long flags, const pid_t *tids, size_t count) {
    struct clone_args a = {.flags = flags, .exit_signal = SIGCHLD};
    a.set_tid = (unsigned long)tids;
    a.set_tid_size = count;
    fflush(stdout);
    pid_t pid = (pid_t)syscall(SYS_clone3, &a, sizeof a);
    if (pid == 0)
        _exit(7);
    return pid;
}
static void show_wait_status(pid_t pid) { show_wait("ended", pid); }
static int one_pipe[2];
static void numbers(void) {
    pid_t outer = getpid();
    pid_t pid = born(CLONE_NEWPID);
    if (pid == 0) {
        printf("inside: %d %d of %d, group %d, session %d\n", getpid(), (int)syscall(SYS_gettid), getppid(), getpgrp(), getsid(0));
        SHOW(kill(outer + 100000, 0));
        SHOW(getpgid(0));
        pid_t child = born(0);
        if (child == 0) {
            printf("child: %d of %d\n", getpid(), getppid());
            SHOW(setsid());
            SHOW(getsid(0));
            SHOW(getpgid(1));
            finish(3);
        }
        printf("made %d\n", child);
        show_wait("child", child);
        SHOW(setpgid(0, 0));
        SHOW(getpgrp());
        SHOW(waitpid(5, NULL, 0));
        SHOW(kill(5, 0));
        SHOW((int)syscall(SYS_pidfd_open, 5, 0));
        SHOW(sched_getscheduler(1));
        SHOW(sched_getscheduler(outer + 100000));
        finish(4);
    }
    printf("another outside: %d\n", pid != 1);
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    printf("ended with %d\n", WEXITSTATUS(status));
}
static volatile sig_atomic_t seen_pid = -1, seen_code;
static void handler(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)context;
    seen_pid = info->si_pid;
    seen_code = info->si_code;
}
static void init_and_signals(void) {
    CHECK(pipe(one_pipe) == 0);
    pid_t pid = born(CLONE_NEWPID);
    if (pid == 0) {
        struct sigaction act = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_RESTART};
        CHECK(sigaction(SIGUSR1, &act, NULL) == 0);
        SHOW(kill(1, SIGKILL));
        SHOW(kill(1, SIGTERM));
        SHOW(kill(-1, SIGTERM));
        pid_t child = born(0);
        if (child == 0) {
            SHOW(kill(1, SIGKILL));
            SHOW(kill(1, SIGSTOP));
            SHOW(kill(1, SIGUSR1));
            finish(0);
        }
        show_wait("child", child);
        printf("from inside: pid %d code %d\n", (int)seen_pid, (int)seen_code);
        fflush(stdout);
        sigset_t mask, none;
        CHECK(sigemptyset(&mask) == 0 && sigemptyset(&none) == 0 && sigaddset(&mask, SIGUSR1) == 0);
        CHECK(sigprocmask(SIG_BLOCK, &mask, NULL) == 0);
        seen_pid = -1;
        give(one_pipe);
        sigsuspend(&none);
        printf("from outside: pid %d code %d\n", (int)seen_pid, (int)seen_code);
        fflush(stdout);
        give(one_pipe);
        for (;;)
            pause();
    }
    take(one_pipe);
    CHECK(kill(pid, SIGUSR1) == 0);
    take(one_pipe);
    CHECK(kill(pid, SIGTERM) == 0);
    CHECK(kill(pid, SIGKILL) == 0);
    int status;
    siginfo_t info;
    CHECK(waitid(P_PID, pid, &info, WEXITED | WNOWAIT) == 0);
    printf("waitid names it: %d, code %d status %d\n", info.si_pid == pid, info.si_code, info.si_status);
    CHECK(waitpid(pid, &status, 0) == pid);
    printf("killed by %d\n", WTERMSIG(status));
}
static void orphans(void) {
    CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
    pid_t pid = born(CLONE_NEWPID);
    if (pid == 0) {
        // A subreaper above the namespace gets none of its orphans.
        CHECK(pipe(one_pipe) == 0);
        pid_t middle = born(0);
        if (middle == 0) {
            if (born(0) == 0) {
                take(one_pipe);
                while (getppid() != 1)
                    sched_yield();
                printf("adopted by %d\n", getppid());
                finish(5);
            }
            finish(0);
        }
        show_wait("middle", middle);
        fflush(stdout);
        give(one_pipe);
        int status;
        pid_t orphan = wait(&status);
        printf("orphan %d ended with %d\n", orphan, WEXITSTATUS(status));
        // One that sleeps is killed when its init ends.
        CHECK(pipe(one_pipe) == 0);
        if (born(0) == 0) {
            give(one_pipe);
            for (;;)
                pause();
        }
        take(one_pipe);
        finish(6);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    printf("init ended with %d\n", WEXITSTATUS(status));
}
static void unshared(void) {
    int old = open("/proc/self/ns/pid", O_RDONLY);
    struct stat a, b;
    CHECK(old >= 0 && fstat(old, &a) == 0);
    SHOW(unshare(CLONE_NEWPID));
    SHOW(unshare(CLONE_NEWPID));
    printf("itself stays: %d\n", stat("/proc/self/ns/pid", &b) == 0 && a.st_ino == b.st_ino);
    SHOW(open("/proc/self/ns/pid_for_children", O_RDONLY));
    static char stack[4096] __attribute__((aligned(16)));
    SHOW((int)syscall(SYS_clone, CLONE_VM | CLONE_SIGHAND | CLONE_THREAD, stack + 4096, 0, 0, 0));
    SHOW((int)syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, 0, 0, 0, 0));
    CHECK(pipe(one_pipe) == 0);
    int end[2];
    CHECK(pipe(end) == 0);
    pid_t init = born(0);
    if (init == 0) {
        CHECK(close(end[1]) == 0);
        printf("first: %d of %d\n", getpid(), getppid());
        fflush(stdout);
        give(one_pipe);
        char c;
        CHECK(read(end[0], &c, 1) == 0);
        _exit(0);
    }
    take(one_pipe);
    int child = open("/proc/self/ns/pid_for_children", O_RDONLY);
    CHECK(child >= 0 && fstat(child, &b) == 0);
    printf("another: %d\n", a.st_ino != b.st_ino);
    int parent = ioctl(child, GET_PARENT), owner = ioctl(child, GET_USERNS);
    CHECK(parent >= 0 && fstat(parent, &b) == 0);
    printf("parent: %d owner: %d\n", a.st_ino == b.st_ino, owner >= 0);
    pid_t second = born(0);
    if (second == 0) {
        printf("second: %d of %d\n", getpid(), getppid());
        SHOW(setns(old, CLONE_NEWPID));
        finish(0);
    }
    CHECK(waitpid(second, NULL, 0) == second);
    // Back and in again.
    SHOW(setns(old, 0));
    pid_t same = born(0);
    if (same == 0) {
        printf("at home: %d\n", getpid() != 1 && getppid() != 0);
        SHOW(setns(child, CLONE_NEWPID));
        pid_t third = born(0);
        if (third == 0) {
            printf("third: %d of %d\n", getpid(), getppid());
            finish(0);
        }
        CHECK(waitpid(third, NULL, 0) == third);
        finish(0);
    }
    CHECK(waitpid(same, NULL, 0) == same);
    int fd = (int)syscall(SYS_pidfd_open, init, 0);
    CHECK(fd >= 0);
    SHOW(setns(fd, CLONE_NEWPID));
    CHECK(close(end[1]) == 0);
    CHECK(waitpid(init, NULL, 0) == init);
    SHOW(fork());
    SHOW(setns(old, 0));
    pid_t again = born(0);
    if (again == 0)
        _exit(0);
    CHECK(waitpid(again, NULL, 0) == again);
}
static void set_tid(void) {
    pid_t tids[] = {1, 0, 0};
    SHOW(with_tid(CLONE_NEWPID, (pid_t[]){2}, 1));
    SHOW(with_tid(0, (pid_t[]){getpid()}, 1));
    SHOW(with_tid(0, (pid_t[]){0}, 1));
    SHOW(with_tid(0, (pid_t[]){-1}, 1));
    SHOW(with_tid(0, tids, 0));
    SHOW(with_tid(0, NULL, 1));
    pid_t pid = born(CLONE_NEWPID);
    if (pid == 0) {
        SHOW(with_tid(0, (pid_t[]){77}, 1));
        show_wait("77", 77);
        SHOW(with_tid(0, (pid_t[]){1}, 1));
        SHOW(with_tid(CLONE_NEWPID, (pid_t[]){1, 99}, 2));
        show_wait("99", 99);
        SHOW(with_tid(0, (pid_t[]){5, 6, 7, 8, 9, 10, 11, 12}, 8));
        SHOW(with_tid(0, (pid_t[40]){5}, 40));
        pid_t next = born(0);
        if (next == 0)
            _exit(0);
        printf("next: %d\n", next);
        show_wait("next", next);
        finish(0);
    }
    show_wait_status(pid);
}
static void who_tells(void) {
    int pair[2], on = 1;
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0);
    CHECK(setsockopt(pair[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0);
    CHECK(setsockopt(pair[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0);
    FILE *file = tmpfile();
    CHECK(file);
    int sem = semget(IPC_PRIVATE, 1, 0600);
    CHECK(sem >= 0);
    CHECK(pipe(one_pipe) == 0);
    int back[2];
    CHECK(pipe(back) == 0);
    pid_t outer = getpid();
    struct flock lock = {.l_type = F_WRLCK, .l_len = 10};
    CHECK(fcntl(fileno(file), F_SETLK, &lock) == 0);
    CHECK(fcntl(pair[0], F_SETOWN, outer) == 0);
    CHECK(send(pair[0], "a", 1, 0) == 1);
    pid_t pid = born(CLONE_NEWPID);
    struct {
        struct cmsghdr head;
        struct ucred creds;
    } control;
    char byte;
    struct iovec iov = {&byte, 1};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    if (pid == 0) {
        CHECK(recvmsg(pair[1], &message, 0) == 1);
        printf("message from %d\n", control.creds.pid);
        CHECK(send(pair[1], "b", 1, 0) == 1);
        struct ucred peer;
        socklen_t len = sizeof peer;
        CHECK(getsockopt(pair[1], SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0);
        printf("peer %d\n", peer.pid);
        // One that is gone keeps its number here.
        int listener = socket(AF_UNIX, SOCK_STREAM, 0);
        struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "\0pidns"};
        CHECK(bind(listener, (void *)&name, sizeof(sa_family_t) + 6) == 0 && listen(listener, 1) == 0);
        pid_t caller = born(0);
        if (caller == 0) {
            int fd = socket(AF_UNIX, SOCK_STREAM, 0);
            CHECK(connect(fd, (void *)&name, sizeof(sa_family_t) + 6) == 0);
            _exit(0);
        }
        CHECK(waitpid(caller, NULL, 0) == caller);
        int accepted = accept(listener, NULL, NULL);
        CHECK(accepted >= 0 && getsockopt(accepted, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0);
        printf("peer that has ended: %d\n", peer.pid == caller);
        struct flock other = {.l_type = F_WRLCK};
        CHECK(fcntl(fileno(file), F_GETLK, &other) == 0);
        printf("lock %d of %d\n", other.l_type, other.l_pid);
        SHOW(fcntl(pair[0], F_GETOWN));
        SHOW(fcntl(pair[0], F_SETOWN, 1));
        SHOW(fcntl(pair[0], F_GETOWN));
        SHOW(fcntl(pair[0], F_SETOWN, -4));
        struct f_owner_ex ex;
        CHECK(fcntl(pair[0], F_GETOWN_EX, &ex) == 0);
        printf("owner: type %d, %d\n", ex.type, ex.pid);
        SHOW(fcntl(pair[0], F_SETOWN_EX, &(struct f_owner_ex){3, 1}));
        SHOW(fcntl(pair[0], F_SETOWN_EX, &(struct f_owner_ex){F_OWNER_TID, 9}));
        SHOW(fcntl(pair[0], F_SETOWN_EX, &(struct f_owner_ex){F_OWNER_TID, 1}));
        struct flock mine = {.l_type = F_WRLCK, .l_start = 100, .l_len = 10};
        CHECK(fcntl(fileno(file), F_SETLK, &mine) == 0);
        union {
            int val;
        } value = {2};
        CHECK(semctl(sem, 0, SETVAL, value) == 0);
        SHOW(semctl(sem, 0, GETPID));
        fflush(stdout);
        give(one_pipe);
        char c;
        CHECK(read(back[0], &c, 1) == 1);
        finish(0);
    }
    take(one_pipe);
    message.msg_controllen = sizeof control;
    CHECK(recvmsg(pair[0], &message, 0) == 1);
    printf("message names it: %d\n", control.creds.pid == pid);
    struct flock other = {.l_type = F_WRLCK, .l_start = 100, .l_len = 10};
    CHECK(fcntl(fileno(file), F_GETLK, &other) == 0);
    printf("lock names it: %d\n", other.l_pid == pid);
    printf("owner names it: %d\n", fcntl(pair[0], F_GETOWN) == pid);
    printf("semaphore names it: %d\n", semctl(sem, 0, GETPID) == pid);
    CHECK(write(back[1], "x", 1) == 1);
    show_wait_status(pid);
    CHECK(semctl(sem, 0, IPC_RMID) == 0);
}
static void line(const char *path, const char *name, int skip) {
    char text[4096], *at;
    int fd = open(path, O_RDONLY);
    CHECK(fd >= 0);
    ssize_t n = read(fd, text, sizeof text - 1);
    CHECK(n > 0);
    text[n] = 0;
    CHECK((at = strstr(text, name)));
    at[strcspn(at, "\n")] = 0;
    // What the number outside is differs from run to run.
    if (skip) {
        char *rest = strchr(strchr(at, '\t') + 1, '\t');
        printf("%s *%s\n", name, rest ? rest : " alone");
    } else
        puts(at);
    close(fd);
}
static void proc(void) {
    CHECK(pipe(one_pipe) == 0);
    int back[2];
    CHECK(pipe(back) == 0);
    pid_t pid = born(CLONE_NEWPID | CLONE_NEWNS);
    if (pid == 0) {
        CHECK(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
        char link[32] = {0};
        // The proc of before shows nothing of it by its own numbers.
        SHOW((int)readlink("/proc/self", link, sizeof link) > 1);
        CHECK(mount("proc", "/proc", "proc", 0, NULL) == 0);
        memset(link, 0, sizeof link);
        CHECK(readlink("/proc/self", link, sizeof link - 1) > 0);
        printf("self: %s\n", link);
        memset(link, 0, sizeof link);
        CHECK(readlink("/proc/thread-self", link, sizeof link - 1) > 0);
        printf("thread: %s\n", link);
        line("/proc/self/status", "Pid:", 0);
        line("/proc/self/status", "PPid:", 0);
        line("/proc/self/status", "NStgid:", 0);
        line("/proc/1/status", "NSpid:", 0);
        line("/proc/1/task/1/status", "NSpgid:", 0);
        SHOW(access("/proc/2", F_OK));
        pid_t child = born(CLONE_NEWPID);
        if (child == 0) {
            line("/proc/2/status", "NSpid:", 0);
            SHOW(readlink("/proc/self", link, sizeof link) > 0 && link[0] == '2');
            finish(0);
        }
        show_wait("child", child);
        int fd = (int)syscall(SYS_pidfd_open, 1, 0);
        char path[64];
        snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
        line(path, "NSpid:", 0);
        line(path, "Pid:", 0);
        fflush(stdout);
        give(one_pipe);
        char c;
        CHECK(read(back[0], &c, 1) == 1);
        finish(0);
    }
    take(one_pipe);
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    line(path, "NSpid:", 1);
    line(path, "NStgid:", 1);
    line("/proc/self/status", "NSpid:", 1);
    CHECK(write(back[1], "x", 1) == 1);
    show_wait_status(pid);
}
static void depth(void) {
    // Each of these is init of its own, and the last one has no room below.
    int levels = 0;
    fflush(stdout);
    for (;;) {
        pid_t pid = (pid_t)syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, 0, 0, 0, 0);
        if (pid < 0) {
            printf("one more: %s, as init: %d\n", strerrorname_np(errno), getpid() == 1);
            finish(0);
        }
        if (pid == 0) {
            levels++;
            continue;
        }
        int status;
        CHECK(waitpid(pid, &status, 0) == pid && status == 0);
        if (levels == 0)
            return;
        _exit(0);
    }
}
static void without_rights(void) {
    int pid = open("/proc/self/ns/pid", O_RDONLY);
    CHECK(pid >= 0 && setresuid(1000, 1000, 1000) == 0);
    SHOW(unshare(CLONE_NEWPID));
    SHOW((int)syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, 0, 0, 0, 0));
    SHOW(setns(pid, 0));
}
int main(void) {
    CHECK(unshare(CLONE_NEWNS) == 0);
    numbers();
    init_and_signals();
    orphans();
    unshared();
    set_tid();
    who_tells();
    proc();
    depth();
    without_rights();
    return 0;
}
