// Time and cgroup namespaces: clocks that are ahead, who has them from when on, and what may be written when.
#include "check.h"
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/timerfd.h>
#include <linux/futex.h>
#define GET_USERNS 0xb701
#define GET_PARENT 0xb702
#define DAY 86400
static void show_wait_status(pid_t pid) { show_wait("ended", pid); }
static ino_t number(const char *name) {
    char path[64];
    struct stat s;
    snprintf(path, sizeof path, "/proc/self/ns/%s", name);
    CHECK(stat(path, &s) == 0);
    return s.st_ino;
}
static long seconds(clockid_t clock) {
    struct timespec t;
    CHECK(clock_gettime(clock, &t) == 0);
    return t.tv_sec;
}
static long base[2];
// Whole days that a clock is ahead of what it was at the beginning.
static void days(const char *who) {
    struct sysinfo info;
    CHECK(sysinfo(&info) == 0);
    double up;
    FILE *f = fopen("/proc/uptime", "r");
    CHECK(f && fscanf(f, "%lf", &up) == 1);
    fclose(f);
    printf("%s: monotonic %ld raw %ld coarse %ld boottime %ld sysinfo %ld uptime %ld\n", who,
           (seconds(CLOCK_MONOTONIC) - base[0]) / DAY, (seconds(CLOCK_MONOTONIC_RAW) - base[0] + 60) / DAY,
           (seconds(CLOCK_MONOTONIC_COARSE) - base[0] + 1) / DAY, (seconds(CLOCK_BOOTTIME) - base[1]) / DAY,
           (info.uptime - base[1] + 1) / DAY, ((long)up - base[1] + 1) / DAY);
    fflush(stdout);
}
static int put(const char *text) {
    int fd = open("/proc/self/timens_offsets", O_WRONLY);
    CHECK(fd >= 0);
    int n = (int)write(fd, text, strlen(text)), e = errno;
    close(fd);
    errno = e;
    return n;
}
static void offsets(void) {
    char text[256] = {0};
    int fd = open("/proc/self/timens_offsets", O_RDONLY);
    CHECK(fd >= 0 && read(fd, text, sizeof text - 1) > 0);
    printf("%s", text);
    fflush(stdout);
    close(fd);
}
// What waits for a time of these clocks waits as long as it should.
static void waits(void) {
    struct timespec t;
    double begin = now();
    CHECK(clock_gettime(CLOCK_MONOTONIC, &t) == 0);
    t.tv_nsec += 20000000;
    t.tv_sec += t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    SHOW(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL));
    int fd = timerfd_create(CLOCK_BOOTTIME, 0);
    CHECK(fd >= 0 && clock_gettime(CLOCK_BOOTTIME, &t) == 0);
    t.tv_nsec += 20000000;
    t.tv_sec += t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    struct itimerspec set = {.it_value = t};
    CHECK(timerfd_settime(fd, TFD_TIMER_ABSTIME, &set, NULL) == 0);
    unsigned long count;
    SHOW(read(fd, &count, sizeof count));
    CHECK(clock_gettime(CLOCK_MONOTONIC, &t) == 0);
    t.tv_nsec += 20000000;
    t.tv_sec += t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    int word = 1;
    SHOW(syscall(SYS_futex, &word, FUTEX_WAIT_BITSET, 1, &t, NULL, FUTEX_BITSET_MATCH_ANY));
    timer_t timer;
    sigset_t mask;
    CHECK(sigemptyset(&mask) == 0 && sigaddset(&mask, SIGALRM) == 0 && sigprocmask(SIG_BLOCK, &mask, NULL) == 0);
    CHECK(timer_create(CLOCK_MONOTONIC, NULL, &timer) == 0 && clock_gettime(CLOCK_MONOTONIC, &set.it_value) == 0);
    set.it_value.tv_sec += 1000;
    CHECK(timer_settime(timer, TIMER_ABSTIME, &set, NULL) == 0 && timer_gettime(timer, &set) == 0);
    printf("left: %d\n", set.it_value.tv_sec >= 900 && set.it_value.tv_sec <= 1000);
    sleep_ms(20);
    double took = now() - begin;
    printf("in time: %d\n", took >= 0.075 && took < 60);
    fflush(stdout);
}
static void times(void) {
    base[0] = seconds(CLOCK_MONOTONIC);
    base[1] = seconds(CLOCK_BOOTTIME);
    offsets();
    SHOW(put("monotonic 1 0"));
    ino_t own = number("time");
    printf("one: %d\n", own == number("time_for_children"));
    SHOW(unshare(CLONE_NEWTIME));
    printf("itself stays: %d, children not: %d\n", own == number("time"), own != number("time_for_children"));
    SHOW(put(""));
    SHOW(put("monotonic"));
    SHOW(put("monotonic 1 1000000000"));
    SHOW(put("other 1 0"));
    SHOW(put("monotonic 9999999999 0"));
    SHOW(put("boottime -9999999999 0"));
    SHOW(put("boottime -999999999 0"));
    SHOW(put("monotonic 864000 5\nboottime 1728000 0\n"));
    offsets();
    SHOW(put("7 2592000 0"));
    offsets();
    days("itself");
    fflush(stdout);
    int old = open("/proc/self/ns/time", O_RDONLY), new = open("/proc/self/ns/time_for_children", O_RDONLY);
    CHECK(old >= 0 && new >= 0);
    pid_t pid = fork();
    if (pid == 0) {
        printf("its own: %d\n", number("time") == number("time_for_children") && own != number("time"));
        days("child");
        SHOW(put("monotonic 1 0"));
        waits();
        _exit(0);
    }
    show_wait_status(pid);
    SHOW(put("monotonic 1 0"));
    SHOW(unshare(CLONE_NEWTIME));
    offsets();
    SHOW(put("1 864001 500000000"));
    offsets();
    int parent = ioctl(new, GET_PARENT);
    printf("parent: %d %s, owner: %d\n", parent, strerrorname_np(errno), ioctl(new, GET_USERNS) >= 0);
    SHOW(setns(new, CLONE_NEWTIME));
    days("entered");
    SHOW(setns(old, 0));
    days("back");
    printf("as before: %d\n", own == number("time") && own == number("time_for_children"));
    struct clone_args args = {.flags = CLONE_NEWTIME, .exit_signal = SIGCHLD};
    fflush(stdout);
    pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);
    if (pid == 0) {
        printf("cloned: %d\n", own != number("time"));
        offsets();
        days("cloned");
        _exit(0);
    }
    show_wait_status(pid);
}
static void groups(void) {
    ino_t own = number("cgroup");
    int old = open("/proc/self/ns/cgroup", O_RDONLY);
    CHECK(old >= 0);
    SHOW(unshare(CLONE_NEWCGROUP));
    printf("another: %d\n", own != number("cgroup"));
    SHOW(ioctl(old, GET_PARENT));
    SHOW(setns(old, CLONE_NEWCGROUP));
    printf("back: %d\n", own == number("cgroup"));
    fflush(stdout);
    pid_t pid = (pid_t)syscall(SYS_clone, CLONE_NEWCGROUP | SIGCHLD, 0, 0, 0, 0);
    if (pid == 0) {
        printf("child: %d\n", own != number("cgroup"));
        fflush(stdout);
        _exit(0);
    }
    show_wait_status(pid);
}
static void *idle(void *arg) {
    (void)arg;
    pause();
    return NULL;
}
static void refused(void) {
    int time = open("/proc/self/ns/time", O_RDONLY), cgroup = open("/proc/self/ns/cgroup", O_RDONLY);
    CHECK(time >= 0 && cgroup >= 0);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, idle, NULL) == 0);
    SHOW(setns(time, 0));
    CHECK(setresuid(1000, 1000, 1000) == 0);
    SHOW(unshare(CLONE_NEWTIME));
    SHOW(unshare(CLONE_NEWCGROUP));
    SHOW(setns(cgroup, 0));
}
int main(void) {
    times();
    groups();
    refused();
    return 0;
}
