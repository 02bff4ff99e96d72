// Clocks never go back; sleeps are never short; interval timers, POSIX timers and timerfds fire as often as they say.
#include "check.h"
#include <poll.h>
#include <sys/time.h>
#include <sys/timerfd.h>
static volatile sig_atomic_t ticks;
static void tick(int s) { (void)s, ticks++; }
int main(void) {
    const clockid_t clocks[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_MONOTONIC_RAW, CLOCK_REALTIME_COARSE,
                                CLOCK_MONOTONIC_COARSE, CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID};
    for (int i = 0; i < 8; i++) {
        struct timespec a, b;
        CHECK(clock_gettime(clocks[i], &a) == 0);
        for (int j = 0; j < 2000; j++) {
            CHECK(clock_gettime(clocks[i], &b) == 0);
            CHECK(b.tv_sec > a.tv_sec || (b.tv_sec == a.tv_sec && b.tv_nsec >= a.tv_nsec));
            a = b;
        }
        CHECK(clock_getres(clocks[i], &a) == 0);
    }
    struct timespec wall, by_call;
    clock_gettime(CLOCK_REALTIME, &wall);
    syscall(SYS_clock_gettime, CLOCK_REALTIME, &by_call);
    double apart = (by_call.tv_sec - wall.tv_sec) + (by_call.tv_nsec - wall.tv_nsec) / 1e9;
    printf("vdso and call agree %d, year %d\n", apart > -0.1 && apart < 1, wall.tv_sec > 1700000000);
    SHOW(clock_gettime(99, &wall));
    const long ms[] = {0, 1, 20, 100};
    for (int i = 0; i < 4; i++) {
        double start = now();
        struct timespec t = {0, ms[i] * 1000000};
        CHECK(nanosleep(&t, NULL) == 0);
        printf("sleep %ld enough %d\n", ms[i], now() - start >= ms[i] / 1e3);
    }
    struct timespec bad = {0, 1000000000};
    SHOW(nanosleep(&bad, NULL));
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec -= 1;
    SHOW(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL));
    signal(SIGALRM, tick);
    struct itimerval it = {{0, 20000}, {0, 20000}}, left;
    CHECK(setitimer(ITIMER_REAL, &it, NULL) == 0);
    while (ticks < 5) pause();
    it = (struct itimerval){{0, 0}, {0, 0}};
    CHECK(setitimer(ITIMER_REAL, &it, &left) == 0 && left.it_interval.tv_usec == 20000);
    printf("itimer ticked\n");
    ticks = 0;
    alarm(1);
    printf("alarm left %u\n", alarm(0));
    signal(SIGVTALRM, tick);
    it = (struct itimerval){{0, 0}, {0, 30000}};
    CHECK(setitimer(ITIMER_VIRTUAL, &it, NULL) == 0);
    while (ticks == 0) {
    }
    printf("virtual timer\n");
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
    signal(SIGRTMIN, tick);
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
    struct itimerspec spec = {{0, 10000000}, {0, 10000000}};
    ticks = 0;
    CHECK(timer_settime(timer, 0, &spec, NULL) == 0);
    while (ticks < 3) pause();
    CHECK(timer_delete(timer) == 0);
    printf("posix timer\n");
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    CHECK(fd >= 0);
    uint64_t expired;
    SHOW(read(fd, &expired, 8));
    CHECK(timerfd_settime(fd, 0, &spec, NULL) == 0);
    struct pollfd p = {fd, POLLIN, 0};
    CHECK(poll(&p, 1, 5000) == 1 && read(fd, &expired, 8) == 8 && expired >= 1);
    printf("timerfd\n");
    return 0;
}
