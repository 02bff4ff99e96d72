// poll, select, ppoll with masks, epoll and eventfd: readiness as it is and as it changes.
#include "check.h"
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
static void handler(int s) { (void)s; }
int main(void) {
    int p[2];
    CHECK(pipe(p) == 0);
    struct pollfd f[4] = {{p[0], POLLIN, 0}, {p[1], POLLOUT, 0}, {-1, POLLIN, 9}, {77, POLLIN, 0}};
    int n_ = poll(f, 4, 0);
    printf("poll %d: %x %x %x %x\n", n_, f[0].revents, f[1].revents, f[2].revents, f[3].revents);
    double start = now();
    n_ = poll(f, 1, 60);
    printf("timeout %d %d\n", n_, now() - start >= 0.06);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        sleep_ms(60);
        CHECK(write(p[1], "x", 1) == 1);
        _exit(0);
    }
    n_ = poll(f, 1, 10000);
    printf("woken %d %x\n", n_, f[0].revents);
    waitpid(pid, NULL, 0);
    fd_set r, w;
    FD_ZERO(&r);
    FD_ZERO(&w);
    FD_SET(p[0], &r);
    FD_SET(p[1], &w);
    struct timeval none = {0, 0};
    n_ = select(p[1] + 1, &r, &w, NULL, &none);
    printf("select %d %d %d\n", n_, FD_ISSET(p[0], &r) != 0, FD_ISSET(p[1], &w) != 0);
    FD_ZERO(&r);
    FD_SET(40, &r);
    SHOW(select(41, &r, NULL, NULL, &none));
    // ppoll unblocks a pending signal for its time.
    signal(SIGUSR1, handler);
    sigset_t block, empty;
    sigemptyset(&empty), sigemptyset(&block), sigaddset(&block, SIGUSR1);
    sigprocmask(SIG_BLOCK, &block, NULL);
    raise(SIGUSR1);
    char c;
    CHECK(read(p[0], &c, 1) == 1);
    SHOW(ppoll(f, 1, NULL, &empty));
    // epoll: level, edge, one-shot, modification, a closed descriptor.
    int e = epoll_create1(EPOLL_CLOEXEC);
    CHECK(e >= 0);
    struct epoll_event in = {EPOLLIN, {.u32 = 1}}, out[4];
    SHOW(epoll_ctl(e, EPOLL_CTL_ADD, p[0], &in));
    SHOW(epoll_ctl(e, EPOLL_CTL_ADD, p[0], &in));
    SHOW(epoll_ctl(e, EPOLL_CTL_DEL, p[1], NULL));
    SHOW(epoll_ctl(e, EPOLL_CTL_ADD, e, &in));
    CHECK(write(p[1], "ab", 2) == 2);
    printf("level %d %d\n", epoll_wait(e, out, 4, 0), epoll_wait(e, out, 4, 0));
    in.events = EPOLLIN | EPOLLET;
    CHECK(epoll_ctl(e, EPOLL_CTL_MOD, p[0], &in) == 0);
    printf("edge %d", epoll_wait(e, out, 4, 0));
    printf(" %d", epoll_wait(e, out, 4, 0));
    CHECK(write(p[1], "c", 1) == 1);
    printf(" %d\n", epoll_wait(e, out, 4, 0));
    in.events = EPOLLIN | EPOLLONESHOT;
    CHECK(epoll_ctl(e, EPOLL_CTL_MOD, p[0], &in) == 0);
    printf("one shot %d", epoll_wait(e, out, 4, 0));
    printf(" %d\n", epoll_wait(e, out, 4, 0));
    int v = eventfd(3, EFD_NONBLOCK | EFD_SEMAPHORE);
    struct epoll_event ev = {EPOLLIN | EPOLLOUT, {.u64 = 0x1122334455667788}};
    CHECK(epoll_ctl(e, EPOLL_CTL_ADD, v, &ev) == 0);
    n_ = epoll_wait(e, out, 4, 0);
    printf("eventfd %d %x %llx\n", n_, out[0].events, (unsigned long long)out[0].data.u64);
    uint64_t n;
    for (int i = 0; i < 3; i++) CHECK(read(v, &n, 8) == 8 && n == 1);
    SHOW(read(v, &n, 8));
    n = UINT64_MAX;
    SHOW(write(v, &n, 8));
    close(v);
    printf("after close %d\n", epoll_wait(e, out, 4, 0));
    close(p[1]);
    in.events = EPOLLIN | EPOLLRDHUP;
    CHECK(epoll_ctl(e, EPOLL_CTL_MOD, p[0], &in) == 0);
    n_ = epoll_wait(e, out, 4, 0);
    printf("hang-up %d %x\n", n_, out[0].events);
    return 0;
}
