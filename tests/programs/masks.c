// Signal masks for the time of one call: the old one is back afterwards, however the call ends. And pidfd_send_signal.
#include "check.h"
#include <poll.h>
#include <sys/epoll.h>
#include <sys/select.h>

static volatile sig_atomic_t handled;
static void handler(int s) { handled = s; }

static void show(const char *what, long result) {
    int error = errno;
    sigset_t now_blocked, pending;
    CHECK(sigprocmask(SIG_BLOCK, NULL, &now_blocked) == 0 && sigpending(&pending) == 0);
    printf("%s: %ld%s%s; blocked %d %d, pending %d %d, handled %d\n", what, result, result < 0 ? " " : "",
           result < 0 ? strerrorname_np(error) : "", sigismember(&now_blocked, SIGUSR1), sigismember(&now_blocked, SIGUSR2),
           sigismember(&pending, SIGUSR1), sigismember(&pending, SIGUSR2), handled);
    fflush(stdout);
    handled = 0;
}

int main(void) {
    int p[2];
    CHECK(pipe(p) == 0);
    int epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN}, got;
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, p[0], &event) == 0);
    struct sigaction action = {.sa_handler = handler};
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGUSR2, &action, NULL);
    sigset_t usr1, usr2, none;
    sigemptyset(&none);
    sigemptyset(&usr1);
    sigemptyset(&usr2);
    sigaddset(&usr1, SIGUSR1);
    sigaddset(&usr2, SIGUSR2);
    struct pollfd fd = {p[0], POLLIN, 0};
    struct timespec soon = {0, 20000000}, at_once = {0, 0};
    fd_set set;

    // Nothing comes: USR1, blocked for the call only, is not blocked after it.
    show("ppoll times out", ppoll(&fd, 1, &soon, &usr1));
    show("ppoll at once", ppoll(&fd, 1, &at_once, &usr1));
    FD_ZERO(&set);
    FD_SET(p[0], &set);
    show("pselect times out", pselect(p[0] + 1, &set, NULL, NULL, &soon, &usr1));
    show("epoll_pwait times out", epoll_pwait(epoll, &got, 1, 20, &usr1));
    show("epoll_pwait at once", epoll_pwait(epoll, &got, 1, 0, &usr1));
    show("epoll_pwait of nothing", epoll_pwait(epoll, &got, 0, 0, &usr1));
    show("epoll_pwait2 times out", syscall(SYS_epoll_pwait2, epoll, &got, 1, &soon, &usr1, 8L));
    show("ppoll of a bad address", ppoll((void *)8, 1, &at_once, &usr1));

    // A signal that the call blocks comes right after it.
    pid_t pid = fork();
    if (pid == 0) {
        sleep_ms(50);
        kill(getppid(), SIGUSR1);
        _exit(0);
    }
    struct timespec long_enough = {0, 150000000};
    show("ppoll while blocked", ppoll(&fd, 1, &long_enough, &usr1));
    waitpid(pid, NULL, 0);
    if (handled) handled = 0;

    // Blocked before and unblocked by the call: it interrupts, its handler runs, and it is blocked again.
    sigprocmask(SIG_BLOCK, &usr2, NULL);
    kill(getpid(), SIGUSR2);
    show("pending", 0);
    show("ppoll unblocks", ppoll(&fd, 1, &soon, &none));
    kill(getpid(), SIGUSR2);
    show("epoll_pwait unblocks", epoll_pwait(epoll, &got, 1, 1000, &none));
    kill(getpid(), SIGUSR2);
    show("sigsuspend unblocks", sigsuspend(&none));
    // Where there is something to report, the signal stays where it is.
    CHECK(write(p[1], "x", 1) == 1);
    kill(getpid(), SIGUSR2);
    show("ppoll ready", ppoll(&fd, 1, &soon, &none));
    show("epoll_pwait ready", epoll_pwait(epoll, &got, 1, 1000, &none));
    show("pselect ready", pselect(p[0] + 1, &set, NULL, NULL, &soon, &none));
    sigprocmask(SIG_UNBLOCK, &usr2, NULL);
    show("unblocked", 0);

    // A process is named by a pidfd, and by its folder in /proc; not by what is in it, nor by a path alone.
    int self = syscall(SYS_pidfd_open, getpid(), 0);
    CHECK(self >= 0);
    show("pidfd", syscall(SYS_pidfd_send_signal, self, SIGUSR1, NULL, 0));
    int folder = open("/proc/self", O_RDONLY | O_DIRECTORY);
    CHECK(folder >= 0);
    show("folder", syscall(SYS_pidfd_send_signal, folder, SIGUSR1, NULL, 0));
    show("file", syscall(SYS_pidfd_send_signal, open("/proc/self/stat", O_RDONLY), SIGUSR1, NULL, 0));
    show("other folder", syscall(SYS_pidfd_send_signal, open("/proc/self/fd", O_RDONLY), SIGUSR1, NULL, 0));
    show("root", syscall(SYS_pidfd_send_signal, open("/proc", O_RDONLY), SIGUSR1, NULL, 0));
    show("path", syscall(SYS_pidfd_send_signal, open("/proc/self", O_PATH), SIGUSR1, NULL, 0));
    show("pipe", syscall(SYS_pidfd_send_signal, p[0], SIGUSR1, NULL, 0));
    show("flags", syscall(SYS_pidfd_send_signal, self, SIGUSR1, NULL, 99));
    return 0;
}
