// Signals of files that are ready: O_ASYNC, F_SETOWN and F_SETOWN_EX, F_SETSIG with si_band and si_fd, FIOASYNC, on pipes,
// sockets, terminals and inotify; who is told, and who may be.
#include "check.h"
#include <poll.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <termios.h>

#ifndef F_SETOWN_EX
#define F_SETOWN_EX 15
#define F_GETOWN_EX 16
#endif
struct owner {
    int type, pid;
};
enum { TID, PID, PGRP };
// glibc gives SIGIO's number to SIGPOLL, and keeps the first two real-time signals.
#define RT (SIGRTMIN + 3)

// What has come, and its information, without waiting.
static void got(const char *what) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGIO);
    sigaddset(&set, SIGURG);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, RT);
    printf("%s:", what);
    siginfo_t info;
    struct timespec none = {0, 0};
    memset(&info, 0, sizeof info);
    int signal;
    while ((signal = sigtimedwait(&set, &info, &none)) > 0) {
        printf(" %s code %d", signal == RT ? "RT" : sigabbrev_np(signal), info.si_code);
        if (signal != SIGCHLD && info.si_code > 0 && info.si_code < 0x80) printf(" band %lx fd %d", info.si_band, info.si_fd);
        if (info.si_code == -5) printf(" band %lx fd %d", info.si_band, info.si_fd);
        memset(&info, 0, sizeof info);
    }
    printf("\n");
    fflush(stdout);
}

// A pipe at 100 and 101.
static void make_pipe(void) {
    int p[2];
    CHECK(pipe(p) == 0 && dup2(p[0], 100) == 100 && dup2(p[1], 101) == 101);
    close(p[0]);
    close(p[1]);
}
static void async(int fd, int signal) {
    CHECK(fcntl(fd, F_SETOWN, getpid()) == 0);
    CHECK(fcntl(fd, F_SETSIG, signal) == 0);
    CHECK(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_ASYNC) == 0);
}

int main(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGIO);
    sigaddset(&set, SIGURG);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, RT);
    CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
    char buf[65536];
    int one = 1, zero = 0;
    // Descriptors whose numbers are the same everywhere.
    make_pipe();

    // Without an owner nobody is told.
    SHOW(fcntl(100, F_GETOWN));
    SHOW(fcntl(100, F_GETSIG));
    CHECK(fcntl(100, F_SETFL, O_ASYNC) == 0);
    printf("flags %x\n", fcntl(100, F_GETFL));
    CHECK(write(101, "a", 1) == 1);
    got("no owner");
    async(100, 0);
    SHOW(fcntl(100, F_GETOWN) == getpid());
    CHECK(write(101, "a", 1) == 1);
    got("plain");
    CHECK(fcntl(100, F_SETSIG, SIGIO) == 0);
    CHECK(write(101, "a", 1) == 1);
    got("SIGIO with information");
    CHECK(fcntl(100, F_SETSIG, RT) == 0);
    CHECK(write(101, "a", 1) == 1 && write(101, "b", 1) == 1);
    got("real-time, twice");
    CHECK(fcntl(100, F_SETSIG, SIGCHLD) == 0);
    CHECK(write(101, "a", 1) == 1);
    got("with codes of its own");
    CHECK(read(100, buf, 2) == 2);
    got("read by itself");
    async(101, RT);
    CHECK(fcntl(100, F_SETFL, 0) == 0);
    CHECK(write(101, "a", 1) == 1);
    got("written by itself");
    CHECK(read(100, buf, 1) == 1);
    got("room");
    SHOW(fcntl(100, F_SETSIG, 65));
    SHOW(fcntl(100, F_SETSIG, -1));
    SHOW(fcntl(100, F_SETOWN, 99999999));
    SHOW(fcntl(100, F_SETOWN, -99999999));
    SHOW(fcntl(100, F_SETOWN, 0x80000000));
    // The other end's going away.
    async(100, RT);
    close(101);
    got("writers gone");
    close(100);
    make_pipe();
    async(101, RT);
    close(100);
    got("readers gone");
    close(101);

    // By ioctl, and what has no such thing.
    make_pipe();
    CHECK(fcntl(100, F_SETOWN, getpid()) == 0);
    SHOW(ioctl(100, FIOASYNC, &one));
    printf("flags %x\n", fcntl(100, F_GETFL));
    CHECK(write(101, "a", 1) == 1);
    got("FIOASYNC");
    SHOW(ioctl(100, FIOASYNC, &zero));
    CHECK(write(101, "a", 1) == 1);
    got("off");
    int null = open("/tmp", O_RDONLY | O_DIRECTORY);
    CHECK(null >= 0);
    SHOW(ioctl(null, FIOASYNC, &zero));
    SHOW(ioctl(null, FIOASYNC, &one));
    SHOW(fcntl(null, F_SETFL, O_ASYNC));
    printf("flags %x\n", fcntl(null, F_GETFL) & O_ASYNC);

    // A task, a group, and who is gone.
    struct owner owner = {TID, gettid()};
    SHOW(fcntl(100, F_SETOWN_EX, &owner));
    CHECK(fcntl(100, F_SETSIG, RT) == 0 && fcntl(100, F_SETFL, O_ASYNC) == 0);
    CHECK(write(101, "a", 1) == 1);
    got("a task");
    memset(&owner, 0, sizeof owner);
    SHOW(fcntl(100, F_GETOWN_EX, &owner));
    printf("owner %d, %d\n", owner.type, owner.pid == gettid());
    CHECK(setpgid(0, 0) == 0 || getpgid(0) == getpid());
    owner = (struct owner){PGRP, getpgrp()};
    SHOW(fcntl(100, F_SETOWN_EX, &owner));
    SHOW(fcntl(100, F_GETOWN) == -getpgrp());
    CHECK(write(101, "a", 1) == 1);
    got("a group");
    owner = (struct owner){3, getpgrp()};
    SHOW(fcntl(100, F_SETOWN_EX, &owner));
    pid_t child = fork();
    if (child == 0) pause();
    SHOW(fcntl(100, F_SETOWN, child));
    kill(child, SIGKILL);
    CHECK(waitpid(child, NULL, 0) == child);
    got("the child's end");
    SHOW(fcntl(100, F_GETOWN));
    CHECK(write(101, "a", 1) == 1);
    got("nobody any more");
    // Somebody else's process is not told what we say.
    int ready[2];
    char c;
    CHECK(pipe(ready) == 0);
    child = fork();
    if (child == 0) {
        int other[2];
        CHECK(pipe(other) == 0 && setgid(1234) == 0 && setuid(1234) == 0);
        CHECK(fcntl(other[0], F_SETOWN, getppid()) == 0 && fcntl(other[0], F_SETFL, O_ASYNC) == 0);
        CHECK(write(other[1], "a", 1) == 1 && write(ready[1], "r", 1) == 1);
        _exit(0);
    }
    CHECK(read(ready[0], &c, 1) == 1 && waitpid(child, NULL, 0) == child);
    got("not allowed, and its end");

    // Sockets.
    int s[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s) == 0 && dup2(s[0], 110) == 110 && dup2(s[1], 111) == 111);
    close(s[0]);
    close(s[1]);
    async(110, RT);
    CHECK(write(111, "abc", 3) == 3);
    got("stream");
    CHECK(read(110, buf, 3) == 3);
    got("read");
    CHECK(write(110, "abc", 3) == 3 && read(111, buf, 3) == 3);
    got("read there");
    while (write(110, buf, sizeof buf) > 0) {
    }
    CHECK(errno == EAGAIN);
    while (read(111, buf, sizeof buf) > 0) {
    }
    sigset_t only;
    sigemptyset(&only);
    sigaddset(&only, RT);
    siginfo_t info;
    struct timespec none = {0, 0};
    int outs = 0, others = 0;
    while (sigtimedwait(&only, &info, &none) > 0) {
        if (info.si_code == POLL_OUT) outs++;
        else others++;
    }
    printf("room: %d, else %d\n", outs > 0, others);
    CHECK(shutdown(111, SHUT_WR) == 0);
    got("shut down");
    close(111);
    got("closed");
    close(110);
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, s) == 0 && dup2(s[0], 110) == 110 && dup2(s[1], 111) == 111);
    close(s[0]);
    close(s[1]);
    async(110, RT);
    CHECK(write(111, "abc", 3) == 3);
    got("datagram");
    close(111);
    close(110);
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "\0fasync"};
    CHECK(bind(listener, (void *)&name, sizeof(sa_family_t) + 7) == 0 && listen(listener, 1) == 0);
    CHECK(dup2(listener, 110) == 110);
    async(110, RT);
    int caller = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(connect(caller, (void *)&name, sizeof(sa_family_t) + 7) == 0);
    got("a connection");
    close(caller);
    close(110);

    // Watches.
    int watch = inotify_init1(IN_NONBLOCK);
    char dir[] = "/tmp/fasync-XXXXXX";
    CHECK(watch >= 0 && mkdtemp(dir) && inotify_add_watch(watch, dir, IN_CREATE) >= 0 && dup2(watch, 110) == 110);
    async(110, RT);
    char file[64];
    snprintf(file, sizeof file, "%s/a", dir);
    close(open(file, O_CREAT | O_RDWR, 0600));
    got("inotify");
    unlink(file);
    rmdir(dir);
    got("the watch's end");
    close(110);
    close(watch);

    // A terminal that has nobody in the foreground tells whoever set the flag; both sides can.
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    CHECK(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
    int slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    struct termios raw;
    CHECK(slave >= 0 && tcgetattr(slave, &raw) == 0 && dup2(slave, 110) == 110 && dup2(master, 111) == 111);
    raw.c_lflag &= ~ECHO;
    CHECK(tcsetattr(slave, TCSANOW, &raw) == 0);
    SHOW(fcntl(110, F_GETOWN));
    CHECK(fcntl(110, F_SETSIG, RT) == 0 && fcntl(110, F_SETFL, O_RDWR | O_ASYNC) == 0);
    SHOW(fcntl(110, F_GETOWN) == getpid());
    // Input crosses in its own time.
    struct pollfd poll_slave = {110, POLLIN, 0}, poll_master = {111, POLLIN, 0};
    CHECK(write(111, "ab", 2) == 2);
    sleep_ms(50);
    got("part of a line");
    CHECK(write(111, "\n", 1) == 1 && poll(&poll_slave, 1, -1) == 1);
    sleep_ms(20);
    got("a line");
    async(111, RT);
    CHECK(fcntl(110, F_SETFL, O_RDWR) == 0);
    CHECK(write(110, "x", 1) == 1 && poll(&poll_master, 1, -1) == 1);
    sleep_ms(20);
    got("to the master");
    return 0;
}
