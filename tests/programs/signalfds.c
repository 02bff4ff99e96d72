// signalfd: what is read for a signal of each origin, waiting, poll and epoll, descriptors that a child inherits, errors.
#include "check.h"
#include <poll.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/time.h>
static sigset_t set_of(int first, ...) {
    sigset_t set;
    sigemptyset(&set);
    va_list ap;
    va_start(ap, first);
    for (int s = first; s; s = va_arg(ap, int)) sigaddset(&set, s);
    va_end(ap);
    return set;
}
static int ready(int fd) {
    struct pollfd p = {fd, POLLIN, 0};
    int n = poll(&p, 1, 0);
    return n == 1 ? p.revents : n;
}
static void show(const char *what, struct signalfd_siginfo *i) {
    printf("%s: signo %u errno %d code %d pid %s uid %u fd %d band %u overrun %d trapno %u status %d int %d ptr %#lx addr %#lx\n",
           what, i->ssi_signo, i->ssi_errno, i->ssi_code, i->ssi_pid == (unsigned)getpid() ? "own" : i->ssi_pid ? "other" : "0",
           i->ssi_uid, i->ssi_fd, i->ssi_band, i->ssi_overrun > 0, i->ssi_trapno, i->ssi_status, i->ssi_int,
           (unsigned long)i->ssi_ptr, (unsigned long)i->ssi_addr);
    fflush(stdout);
}
static void get(const char *what, int fd) {
    struct signalfd_siginfo i;
    memset(&i, 0xff, sizeof i);
    CHECK(read(fd, &i, sizeof i) == sizeof i);
    show(what, &i);
}
static void *reader(void *fd) {
    get("thread", *(int *)fd);
    return NULL;
}
static void *poller(void *fd) {
    // A signal for another thread alone is not this one's.
    printf("another's %d\n", ready(*(int *)fd));
    return NULL;
}
static void nothing(int signal) { (void)signal; }
int main(void) {
    sigset_t all = set_of(SIGUSR1, SIGUSR2, SIGCHLD, SIGALRM, SIGSEGV, SIGIO, SIGRTMIN, SIGRTMIN + 1, 0);
    CHECK(sigprocmask(SIG_BLOCK, &all, NULL) == 0);
    SHOW(syscall(SYS_signalfd4, -1, &all, 7, 0));
    SHOW(syscall(SYS_signalfd4, -1, NULL, 8, 0));
    SHOW(syscall(SYS_signalfd4, -1, &all, 8, 1));
    SHOW(syscall(SYS_signalfd4, -2, &all, 8, 0));
    SHOW(syscall(SYS_signalfd4, 0, &all, 8, 0));
    SHOW(syscall(SYS_signalfd4, 999, &all, 8, 0));
    int fd = signalfd(-1, &all, SFD_NONBLOCK | SFD_CLOEXEC);
    CHECK(fd >= 0);
    printf("flags %x %x\n", fcntl(fd, F_GETFL), fcntl(fd, F_GETFD));
    char small[127];
    SHOW(read(fd, small, sizeof small));
    struct signalfd_siginfo many[4];
    SHOW(read(fd, many, sizeof many));
    SHOW(write(fd, many, sizeof many));
    SHOW(pread(fd, many, sizeof many, 0));
    printf("ready %d\n", ready(fd));
    char text[256], path[64];
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    int info = open(path, O_RDONLY);
    ssize_t n = read(info, text, sizeof text - 1);
    CHECK(n > 0);
    text[n] = 0;
    printf("%s", strstr(text, "sigmask"));
    close(info);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    n = readlink(path, text, sizeof text - 1);
    text[n] = 0;
    puts(text);
    // Every origin.
    kill(getpid(), SIGUSR1);
    printf("ready %d\n", ready(fd));
    get("kill", fd);
    raise(SIGUSR2);
    get("tgkill", fd);
    kill(getpid(), SIGSEGV);
    get("segv", fd);
    union sigval v = {.sival_ptr = (void *)0x123456789a};
    sigqueue(getpid(), SIGRTMIN + 1, v);
    v.sival_ptr = (void *)-5l;
    sigqueue(getpid(), SIGRTMIN, v);
    sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 3});
    n = read(fd, many, sizeof many - 1);
    printf("%zd records\n", n / 128);
    for (int i = 0; i < n / 128; i++) show("queued", &many[i]);
    pid_t pid = fork();
    if (pid == 0) _exit(3);
    struct pollfd p = {fd, POLLIN, 0};
    CHECK(poll(&p, 1, -1) == 1);
    get("child", fd);
    CHECK(waitpid(pid, NULL, 0) == pid);
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM, .sigev_value.sival_int = 77};
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
    struct itimerspec soon = {{0, 0}, {0, 1000000}};
    CHECK(timer_settime(timer, 0, &soon, NULL) == 0);
    CHECK(poll(&p, 1, -1) == 1);
    get("timer", fd);
    CHECK(timer_delete(timer) == 0);
    siginfo_t raw = {.si_signo = SIGUSR1, .si_code = 3};
    raw.si_band = 0x11;
    raw.si_fd = 42;
    SHOW(syscall(SYS_rt_sigqueueinfo, getpid(), SIGUSR1, &raw));
    get("poll", fd);
    raw.si_code = 1;
    SHOW(syscall(SYS_rt_sigqueueinfo, getpid(), SIGSEGV, &raw));
    get("fault", fd);
    // Another set: what is pending and not in it stays.
    kill(getpid(), SIGUSR1);
    sigset_t two = set_of(SIGUSR2, SIGKILL, SIGSTOP, 0);
    SHOW(signalfd(fd, &two, 0) == fd);
    printf("not in the set %d\n", ready(fd));
    SHOW(read(fd, many, sizeof many));
    SHOW(signalfd(fd, &all, 0) == fd);
    printf("again %d\n", ready(fd));
    // A record that cannot be told is lost.
    SHOW(syscall(SYS_read, fd, 8, 128));
    SHOW(read(fd, many, sizeof many));
    // Blocking, woken from another process and from another thread.
    CHECK(fcntl(fd, F_SETFL, 0) == 0);
    pid = fork();
    if (pid == 0) {
        sleep_ms(20);
        kill(getppid(), SIGUSR1);
        _exit(0);
    }
    get("blocking", fd);
    CHECK(waitpid(pid, NULL, 0) == pid);
    get("end", fd);
    pthread_t t;
    CHECK(pthread_create(&t, NULL, reader, &fd) == 0);
    sleep_ms(20);
    kill(getpid(), SIGUSR2);
    CHECK(pthread_join(t, NULL) == 0);
    raise(SIGUSR2);
    CHECK(pthread_create(&t, NULL, poller, &fd) == 0);
    CHECK(pthread_join(t, NULL) == 0);
    get("mine", fd);
    // epoll.
    int ep = epoll_create1(0);
    struct epoll_event e = {EPOLLIN, {.u32 = 5}}, got;
    CHECK(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e) == 0);
    SHOW(epoll_wait(ep, &got, 1, 0));
    pid = fork();
    if (pid == 0) {
        sleep_ms(20);
        kill(getppid(), SIGUSR1);
        // The child has not been signalled.
        _exit(ready(fd));
    }
    SHOW(epoll_wait(ep, &got, 1, -1));
    get("epoll", fd);
    SHOW(epoll_wait(ep, &got, 1, -1));
    get("its end", fd);
    show_wait("child", pid);
    int outer = epoll_create1(0);
    CHECK(epoll_ctl(outer, EPOLL_CTL_ADD, ep, &e) == 0);
    SHOW(epoll_wait(outer, &got, 1, 0));
    kill(getpid(), SIGUSR1);
    SHOW(epoll_wait(outer, &got, 1, 0));
    get("nested", fd);
    // An inherited descriptor gives the child's signals to the child.
    kill(getpid(), SIGUSR1);
    pid = fork();
    if (pid == 0) {
        printf("inherited %d\n", ready(fd));
        kill(getpid(), SIGUSR2);
        get("in the child", fd);
        fcntl(fd, F_SETFL, O_NONBLOCK);
        SHOW(read(fd, many, sizeof many));
        _exit(0);
    }
    show_wait("child", pid);
    fcntl(fd, F_SETFL, 0);
    get("parent's", fd);
    get("parent's", fd);
    // A signal with a handler interrupts the read.
    struct sigaction sa = {.sa_handler = nothing};
    sigaction(SIGTERM, &sa, NULL);
    pid = fork();
    if (pid == 0) {
        for (;;) {
            kill(getppid(), SIGTERM);
            sleep_ms(10);
        }
    }
    SHOW(read(fd, many, 128));
    sigset_t term = set_of(SIGTERM, 0);
    CHECK(sigprocmask(SIG_BLOCK, &term, NULL) == 0);
    kill(pid, SIGKILL);
    get("its end", fd);
    CHECK(waitpid(pid, NULL, 0) == pid);
    return 0;
}
