// Calls that a filter leaves to a supervisor (SECCOMP_RET_USER_NOTIF): answers, going on, descriptors given, signals in
// between, either side's end, and what is refused.
#include "check.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>

static int seccomp(unsigned op, unsigned flags, void *arg) { return syscall(SYS_seccomp, op, flags, arg); }

// getppid, getpgrp and dup are another's to decide.
static int install(unsigned flags) {
    struct sock_filter f[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getpgrp, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_dup, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
    };
    struct sock_fprog p = {sizeof f / sizeof *f, f};
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    return seccomp(SECCOMP_SET_MODE_FILTER, flags, &p);
}

static int s[2];

static void pass(int fd) {
    char c = 'x', control[CMSG_SPACE(sizeof fd)] = "";
    struct iovec v = {&c, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    h->cmsg_level = SOL_SOCKET;
    h->cmsg_type = SCM_RIGHTS;
    h->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(h), &fd, sizeof fd);
    CHECK(sendmsg(s[0], &m, 0) == 1);
}

static int take(void) {
    int fd;
    char c, control[CMSG_SPACE(sizeof fd)] = "";
    struct iovec v = {&c, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    CHECK(recvmsg(s[1], &m, 0) == 1 && CMSG_FIRSTHDR(&m));
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd);
    return fd;
}

static volatile sig_atomic_t handled;
static void on_signal(int signal) { (void)signal, handled++; }

// What the one under supervision does.
static void supervised(void) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    action.sa_flags = 0;
    CHECK(sigaction(SIGUSR2, &action, NULL) == 0);
    int listener = install(SECCOMP_FILTER_FLAG_NEW_LISTENER);
    CHECK(listener >= 0);
    printf("close-on-exec %d, flags %x\n", fcntl(listener, F_GETFD), fcntl(listener, F_GETFL));
    SHOW(install(SECCOMP_FILTER_FLAG_NEW_LISTENER));
    pass(listener);
    close(listener);
    fflush(stdout);
    errno = 0;
    printf("a value: %ld\n", syscall(SYS_getppid, 1, 2, 3, 4, 5, 6));
    printf("an error: %ld", syscall(SYS_getppid));
    printf(" %s\n", strerrorname_np(errno));
    printf("going on: %d\n", syscall(SYS_getpgrp) == getpgid(0));
    long fd = syscall(SYS_dup, 0);
    char c = 0;
    CHECK(read(fd, &c, 1) == 1);
    printf("a descriptor: %d, %c, %d\n", fd == 50, c, fcntl(fd, F_GETFD));
    fd = syscall(SYS_dup, 0);
    CHECK(read(fd, &c, 1) == 1);
    printf("another: %d, %c, %d\n", fd > 2, c, fcntl(fd, F_GETFD));
    printf("after a signal: %ld", syscall(SYS_getppid));
    printf(", handled %d\n", handled);
    errno = 0;
    printf("interrupted: %ld", syscall(SYS_getppid));
    printf(" %s, handled %d\n", strerrorname_np(errno), handled);
    errno = 0;
    printf("nobody listens: %ld", syscall(SYS_getppid));
    printf(" %s\n", strerrorname_np(errno));
    errno = 0;
    printf("nor again: %ld", syscall(SYS_getppid));
    printf(" %s\n", strerrorname_np(errno));
    fflush(stdout);
    _exit(7);
}

static void get(int fd, struct seccomp_notif *n) {
    struct pollfd p = {fd, POLLIN, 0};
    CHECK(poll(&p, 1, 20000) == 1);
    memset(n, 0, sizeof *n);
    CHECK(ioctl(fd, SECCOMP_IOCTL_NOTIF_RECV, n) == 0);
}

static int answer(int fd, uint64_t id, int64_t val, int32_t error, uint32_t flags) {
    struct seccomp_notif_resp r = {id, val, error, flags};
    return ioctl(fd, SECCOMP_IOCTL_NOTIF_SEND, &r);
}

static void events(int fd, const char *what) {
    struct pollfd p = {fd, POLLIN | POLLOUT, 0};
    CHECK(poll(&p, 1, 0) >= 0);
    printf("%s: poll %x\n", what, p.revents);
    fflush(stdout);
}

int main(void) {
    uint32_t action = SECCOMP_RET_USER_NOTIF;
    SHOW(seccomp(SECCOMP_GET_ACTION_AVAIL, 0, &action));
    struct seccomp_notif_sizes sizes;
    CHECK(seccomp(SECCOMP_GET_NOTIF_SIZES, 0, &sizes) == 0);
    printf("sizes %d %d %d\n", sizes.seccomp_notif, sizes.seccomp_notif_resp, sizes.seccomp_data);
    fflush(stdout);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        // In a child of its own, so that the filters below do not meet these.
        SHOW(install(SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_TSYNC));
        SHOW(install(SECCOMP_FILTER_FLAG_NEW_LISTENER | 1 << 10));
        SHOW(install(0));
        errno = 0;
        printf("without a listener: %ld", syscall(SYS_getppid));
        printf(" %s\n", strerrorname_np(errno));
        fflush(stdout);
        _exit(0);
    }
    show_wait("first", pid);
    fflush(stdout);
    pid = fork();
    if (pid == 0) supervised();
    int fd = take();
    struct seccomp_notif n, other;
    get(fd, &n);
    printf("pid %d, flags %u, nr %d, arch %x, args %llu %llu %llu %llu %llu %llu\n", n.pid == (uint32_t)pid, n.flags, n.data.nr,
           n.data.arch, n.data.args[0], n.data.args[1], n.data.args[2], n.data.args[3], n.data.args[4], n.data.args[5]);
    events(fd, "one is under way");
    SHOW(ioctl(fd, SECCOMP_IOCTL_NOTIF_ID_VALID, &n.id));
    uint64_t wrong = n.id + 100;
    SHOW(ioctl(fd, SECCOMP_IOCTL_NOTIF_ID_VALID, &wrong));
    SHOW(answer(fd, wrong, 1, 0, 0));
    SHOW(answer(fd, n.id, 1, 0, 2));
    SHOW(answer(fd, n.id, 1, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE));
    SHOW(answer(fd, n.id, 0, -1, SECCOMP_USER_NOTIF_FLAG_CONTINUE));
    SHOW(ioctl(fd, SECCOMP_IOCTL_NOTIF_RECV, &n));
    SHOW(ioctl(fd, SECCOMP_IOCTL_NOTIF_RECV, 8));
    SHOW(ioctl(fd, SECCOMP_IOCTL_NOTIF_SEND, 8));
    SHOW(ioctl(fd, 0x2150));
    SHOW(read(fd, &n, 0));
    uint64_t first = n.id;
    SHOW(answer(fd, n.id, 4711, 0, 0));
    get(fd, &n);
    printf("another id %d\n", n.id != first);
    SHOW(answer(fd, first, 1, 0, 0));
    SHOW(answer(fd, n.id, 0, -EXDEV, 0));
    get(fd, &n);
    SHOW(answer(fd, n.id, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE));
    // Descriptors.
    int p[2];
    CHECK(pipe(p) == 0 && write(p[1], "abcd", 4) == 4);
    get(fd, &n);
    struct seccomp_notif_addfd a = {.id = n.id, .srcfd = 999};
    SHOW(ioctl(fd, SECCOMP_IOCTL_NOTIF_ADDFD, &a));
    a.srcfd = p[0];
    a.flags = 8;
    SHOW(ioctl(fd, SECCOMP_IOCTL_NOTIF_ADDFD, &a));
    a.flags = 0;
    a.newfd = 50;
    SHOW(ioctl(fd, SECCOMP_IOCTL_NOTIF_ADDFD, &a));
    a.flags = SECCOMP_ADDFD_FLAG_SETFD;
    a.newfd_flags = O_APPEND;
    SHOW(ioctl(fd, SECCOMP_IOCTL_NOTIF_ADDFD, &a));
    a.newfd_flags = 0;
    a.id = n.id + 5;
    SHOW(ioctl(fd, SECCOMP_IOCTL_NOTIF_ADDFD, &a));
    a.id = n.id;
    printf("set: %d\n", ioctl(fd, SECCOMP_IOCTL_NOTIF_ADDFD, &a));
    SHOW(answer(fd, n.id, 50, 0, 0));
    get(fd, &n);
    a = (struct seccomp_notif_addfd){.id = n.id, .srcfd = p[0], .flags = SECCOMP_ADDFD_FLAG_SEND, .newfd_flags = O_CLOEXEC};
    printf("sent: %d\n", ioctl(fd, SECCOMP_IOCTL_NOTIF_ADDFD, &a) > 2);
    // A signal takes the call away; it comes again where the handler says so.
    get(fd, &n);
    CHECK(kill(pid, SIGUSR1) == 0);
    get(fd, &other);
    printf("again with another id: %d\n", n.id != other.id);
    SHOW(answer(fd, n.id, 1, 0, 0));
    SHOW(answer(fd, other.id, 2, 0, 0));
    get(fd, &n);
    CHECK(kill(pid, SIGUSR2) == 0);
    while (ioctl(fd, SECCOMP_IOCTL_NOTIF_ID_VALID, &n.id) == 0) sleep_ms(1);
    // The call that follows is never answered.
    get(fd, &n);
    close(fd);
    show_wait("supervised", pid);

    // The end of the last one that has the filter.
    pid = fork();
    if (pid == 0) {
        int listener = install(SECCOMP_FILTER_FLAG_NEW_LISTENER);
        CHECK(listener >= 0);
        pass(listener);
        _exit(0);
    }
    fd = take();
    CHECK(waitpid(pid, NULL, 0) == pid);
    events(fd, "nobody has it");
    // One that is killed while it waits.
    pid = fork();
    if (pid == 0) {
        int listener = install(SECCOMP_FILTER_FLAG_NEW_LISTENER);
        CHECK(listener >= 0);
        pass(listener);
        syscall(SYS_getppid);
        _exit(0);
    }
    fd = take();
    get(fd, &n);
    CHECK(kill(pid, SIGKILL) == 0);
    show_wait("killed", pid);
    SHOW(answer(fd, n.id, 1, 0, 0));
    events(fd, "after that");
    return 0;
}
