// Asynchronous I/O: contexts and their rings, reads, writes, syncs and polls, events by every way, errors and limits.
#include "family.h"
#include <linux/aio_abi.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
struct ring {
    unsigned id, nr, head, tail, magic, compat, incompat, header;
    struct io_event events[];
};
static int setup(unsigned n, aio_context_t *c) { return syscall(SYS_io_setup, n, c); }
static int destroy(aio_context_t c) { return syscall(SYS_io_destroy, c); }
static int submit(aio_context_t c, long n, struct iocb **i) { return syscall(SYS_io_submit, c, n, i); }
static int get(aio_context_t c, long least, long most, struct io_event *e, struct timespec *t) {
    return syscall(SYS_io_getevents, c, least, most, e, t);
}
static struct timespec at_once, soon = {0, 20000000};
static struct iocb made(int command, int fd, void *buf, size_t len, long long offset) {
    static long number;
    return (struct iocb){.aio_data = ++number, .aio_lio_opcode = command, .aio_fildes = fd,
                         .aio_buf = (uintptr_t)buf, .aio_nbytes = len, .aio_offset = offset};
}
static int one(aio_context_t c, struct iocb *i) { return submit(c, 1, &i); }
static void events(aio_context_t c, const char *label) {
    struct io_event e[8];
    int n = get(c, 0, 8, e, &at_once);
    printf("%s: %d:", label, n < 0 ? -errno : n);
    for (int i = 0; i < n; i++) printf(" %s%lld/%lld", e[i].res < 0 ? strerrorname_np(-e[i].res) : "", e[i].res < 0 ? 0 : e[i].res, e[i].res2);
    printf("\n");
    fflush(stdout);
}
// One operation: what submitting it says, and what its event does.
static void run(aio_context_t c, const char *label, struct iocb i) {
    errno = 0;
    int r = one(c, &i);
    printf("%s: %d %s", label, r, r < 0 ? strerrorname_np(errno) : "");
    if (r == 1) {
        struct io_event e = {0};
        CHECK(get(c, 1, 1, &e, NULL) == 1);
        CHECK(e.data == i.aio_data && e.obj == (uintptr_t)&i);
        printf("gives %s%lld/%lld", e.res < 0 ? strerrorname_np(-e.res) : "", e.res < 0 ? 0 : e.res, e.res2);
    }
    printf("\n");
    fflush(stdout);
}
static long number(const char *path) {
    char text[32] = "";
    int fd = open(path, O_RDONLY);
    CHECK(fd >= 0 && read(fd, text, 31) > 0 && close(fd) == 0);
    return atol(text);
}

static void contexts(void) {
    aio_context_t c = 0, d = 5, e = 0;
    SHOW(setup(0, &c));
    SHOW(setup(1, &d));
    SHOW(setup(1, NULL));
    SHOW(setup(1, (void *)1));
    SHOW(setup(-1, &c));
    SHOW(setup(0x800000, &c));
    SHOW(setup(0x300000, &c));
    printf("of %ld\n", number("/proc/sys/fs/aio-max-nr"));
    long before = number("/proc/sys/fs/aio-nr");
    SHOW(setup(100, &c));
    struct ring *ring = (void *)c;
    printf("counted %ld, nr %d, head %u, tail %u, magic %x, features %u %u, header %u\n", number("/proc/sys/fs/aio-nr") - before,
           ring->nr >= 101, ring->head, ring->tail, ring->magic, ring->compat, ring->incompat, ring->header);
    SHOW(setup(1, &e));
    printf("other places %d\n", c != e);
    char line[256];
    FILE *maps = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, maps)) {
        char *name = strchr(line, '/');
        if (name && strstr(name, "aio") && !strstr(name, "programs")) {
            char access[8] = "";
            sscanf(line, "%*s %7s", access);
            printf("%s %s", access, name);
        }
    }
    fclose(maps);
    SHOW(destroy(0));
    SHOW(destroy(c + 4096 * 64));
    SHOW(destroy(e));
    SHOW(destroy(e));
    SHOW(submit(e, 0, NULL));
    SHOW(get(e, 0, 0, NULL, NULL));
    SHOW(submit(c, -1, NULL));
    SHOW(submit(c, 0, NULL));
    SHOW(submit(c, 1, NULL));
    struct iocb *bad[] = {NULL, (void *)8};
    SHOW(submit(c, 2, bad));
    struct io_event events[4];
    SHOW(get(c, 1, 0, events, NULL));
    SHOW(get(c, -1, 1, events, NULL));
    SHOW(get(c, 0, -1, events, NULL));
    SHOW(get(c, 0, 4, events, NULL));
    SHOW(get(c, 1, 4, events, &at_once));
    SHOW(get(c, 1, 4, events, &soon));
    SHOW(get(c, 1, 4, events, (void *)8));
    // Of another process it is nobody's.
    pid_t pid = born(0);
    if (pid == 0) {
        SHOW(get(c, 0, 1, events, &at_once));
        SHOW(destroy(c));
        aio_context_t own = 0;
        SHOW(setup(3, &own));
        SHOW(get(own, 0, 1, events, &at_once));
        finish(0);
    }
    show_wait("child", pid);
    printf("counted %ld\n", number("/proc/sys/fs/aio-nr") - before);
    // Moved, and gone.
    void *moved = mremap((void *)c, 4096, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)0x700000000);
    (void)moved;
    CHECK(destroy(c) == 0 || destroy(0x700000000) == 0);
    c = 0;
    SHOW(setup(10, &c));
    SHOW(munmap((void *)c, 4096));
    SHOW(get(c, 0, 1, events, &at_once));
    SHOW(destroy(c));
    // As many as there may be.
    aio_context_t most = 0;
    long left = number("/proc/sys/fs/aio-max-nr") - number("/proc/sys/fs/aio-nr");
    SHOW(setup(left + 1, &most));
}

static void transfers(void) {
    aio_context_t c = 0;
    CHECK(setup(16, &c) == 0);
    char text[] = "0123456789abcdef", buf[64] = "";
    int fd = open("/tmp/aio", O_CREAT | O_RDWR, 0600), r = open("/tmp/aio", O_RDONLY), w = open("/tmp/aio", O_WRONLY | O_APPEND);
    run(c, "write", made(IOCB_CMD_PWRITE, fd, text, 16, 0));
    run(c, "write further", made(IOCB_CMD_PWRITE, fd, text, 4, 100));
    run(c, "append", made(IOCB_CMD_PWRITE, w, text, 4, 0));
    run(c, "read", made(IOCB_CMD_PREAD, fd, buf, 10, 2));
    printf("[%.10s]\n", buf);
    run(c, "read across the end", made(IOCB_CMD_PREAD, fd, buf, 64, 90));
    run(c, "read beyond", made(IOCB_CMD_PREAD, fd, buf, 64, 1000));
    run(c, "nothing", made(IOCB_CMD_PREAD, fd, buf, 0, 0));
    struct iovec v[3] = {{buf, 2}, {buf + 10, 3}, {buf + 20, 4}};
    run(c, "readv", made(IOCB_CMD_PREADV, fd, v, 3, 1));
    printf("[%.2s][%.3s][%.4s]\n", buf, buf + 10, buf + 20);
    run(c, "writev", made(IOCB_CMD_PWRITEV, fd, v, 3, 50));
    run(c, "readv of nothing", made(IOCB_CMD_PREADV, fd, v, 0, 0));
    run(c, "readv of too many", made(IOCB_CMD_PREADV, fd, v, 1025, 0));
    run(c, "fsync", made(IOCB_CMD_FSYNC, fd, NULL, 0, 0));
    run(c, "fdsync", made(IOCB_CMD_FDSYNC, fd, NULL, 0, 0));
    run(c, "fsync with a length", made(IOCB_CMD_FSYNC, fd, NULL, 1, 0));
    run(c, "noop", made(IOCB_CMD_NOOP, fd, NULL, 0, 0));
    run(c, "nonsense", made(4, fd, NULL, 0, 0));
    run(c, "read for writing only", made(IOCB_CMD_PREAD, w, buf, 1, 0));
    run(c, "write for reading only", made(IOCB_CMD_PWRITE, r, buf, 1, 0));
    run(c, "no file", made(IOCB_CMD_PREAD, 999, buf, 1, 0));
    int place = open("/tmp", O_PATH), dir = open("/tmp", O_RDONLY);
    run(c, "a place", made(IOCB_CMD_PREAD, place, buf, 1, 0));
    run(c, "a directory", made(IOCB_CMD_PREAD, dir, buf, 1, 0));
    run(c, "a directory's sync", made(IOCB_CMD_FSYNC, dir, NULL, 0, 0));
    run(c, "before the beginning", made(IOCB_CMD_PREAD, fd, buf, 1, -1));
    run(c, "beyond all ends", made(IOCB_CMD_PREAD, fd, buf, 10, 0x7ffffffffffffffc));
    run(c, "no memory", made(IOCB_CMD_PREAD, fd, (void *)4096, 1, 0));
    run(c, "memory of the kernel's", made(IOCB_CMD_PREAD, fd, (void *)-4096, 1, 0));
    run(c, "a negative length", made(IOCB_CMD_PREAD, fd, buf, -1, 0));
    struct iocb i = made(IOCB_CMD_PREAD, fd, buf, 4, 0);
    i.aio_reserved2 = 1;
    run(c, "reserved", i);
    i.aio_reserved2 = 0, i.aio_key = 77;
    CHECK(one(c, &i) == 1);
    printf("key %u\n", i.aio_key);
    events(c, "read");
    int event = eventfd(0, EFD_NONBLOCK);
    uint64_t count = 0;
    i.aio_flags = IOCB_FLAG_RESFD, i.aio_resfd = event;
    run(c, "told", i);
    CHECK(read(event, &count, 8) == 8);
    printf("told %lu\n", count);
    i.aio_resfd = fd;
    run(c, "told to a file", i);
    i.aio_resfd = 999;
    run(c, "told to nobody", i);
    i.aio_flags = IOCB_FLAG_IOPRIO;
    for (int class = 0; class < 5; class++) {
        i.aio_reqprio = class << 13;
        run(c, "priority", i);
    }
    i.aio_flags = 0;
    static const int flags[] = {1, 2, 4, 0x10, 0x100000, -1};
    for (int n = 0; n < 6; n++) {
        i.aio_rw_flags = flags[n];
        i.aio_lio_opcode = flags[n] == 0x10 ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
        run(c, "flags", i);
    }
    // Several, of which one cannot be.
    struct iocb a = made(IOCB_CMD_PREAD, fd, buf, 1, 0), b = made(IOCB_CMD_PREAD, 999, buf, 1, 0), d = a;
    struct iocb *all[] = {&a, &d, &b, &a};
    SHOW(submit(c, 4, all));
    printf("%d\n", submit(c, 2, all));
    SHOW(submit(c, 2, all + 2));
    struct io_event e[8];
    printf("%d of ", get(c, 1, 3, e, NULL));
    printf("%d\n", 3 + get(c, 1, 8, e, NULL));
    events(c, "rest");
    // Where events cannot be put they stay.
    CHECK(one(c, &a) == 1);
    SHOW(get(c, 1, 1, (void *)8, NULL));
    events(c, "kept");
    // Taken by hand, as libaio may.
    CHECK(one(c, &a) == 1);
    struct ring *ring = (void *)c;
    printf("ring %u, ", (ring->tail + ring->nr - ring->head) % ring->nr);
    printf("%d %lld\n", ring->events[ring->head].data == a.aio_data, (long long)ring->events[ring->head].res);
    ring->head = (ring->head + 1) % ring->nr;
    events(c, "none left");
    // What stands in the ring is the application's business.
    ring->nr = 5, ring->tail = 1 << 30, ring->magic = 0;
    CHECK(one(c, &a) == 1);
    ring->head = ring->tail + 4000000000u;
    int n = get(c, 0, 8, e, &at_once);
    printf("%d\n", n >= 0);
    CHECK(destroy(c) == 0);
    // Full.
    c = 0;
    CHECK(setup(1, &c) == 0);
    int done = 0;
    while (one(c, &a) == 1) done++;
    printf("full %s %d\n", strerrorname_np(errno), done >= 1);
    int got = 0;
    for (int n; (n = get(c, 0, 8, e, &at_once)) > 0;) got += n;
    printf("all %d\n", got == done);
    CHECK(destroy(c) == 0);
}

static void streams(void) {
    aio_context_t c = 0;
    CHECK(setup(16, &c) == 0);
    char buf[16] = "x";
    int p[2], s[2];
    CHECK(pipe2(p, O_NONBLOCK) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
    run(c, "an empty pipe", made(IOCB_CMD_PREAD, p[0], buf, 1, 0));
    run(c, "a pipe", made(IOCB_CMD_PWRITE, p[1], buf, 3, 7));
    run(c, "from it", made(IOCB_CMD_PREAD, p[0], buf, 16, 7));
    run(c, "a socket", made(IOCB_CMD_PWRITE, s[0], buf, 5, 0));
    run(c, "from it", made(IOCB_CMD_PREAD, s[1], buf, 16, 0));
    run(c, "a pipe's sync", made(IOCB_CMD_FSYNC, p[0], NULL, 0, 0));
    CHECK(close(p[0]) == 0);
    signal(SIGPIPE, SIG_IGN);
    run(c, "a broken one", made(IOCB_CMD_PWRITE, p[1], buf, 3, 0));
    int event = eventfd(3, 0);
    run(c, "an eventfd", made(IOCB_CMD_PREAD, event, buf, 8, 0));
    run(c, "into it", made(IOCB_CMD_PWRITE, event, buf, 8, 0));
    int null = open("/dev/null", O_RDWR), zero = open("/dev/zero", O_RDWR);
    run(c, "null", made(IOCB_CMD_PREAD, null, buf, 8, 0));
    run(c, "null", made(IOCB_CMD_PWRITE, null, buf, 8, 0));
    run(c, "zero", made(IOCB_CMD_PREAD, zero, buf, 8, 0));
    int epoll = epoll_create1(0);
    run(c, "an epoll", made(IOCB_CMD_PREAD, epoll, buf, 8, 0));
    CHECK(destroy(c) == 0);
}

static void *later(void *arg) {
    sleep_ms(30);
    CHECK(write(*(int *)arg, "x", 1) == 1);
    return NULL;
}
static void *ends(void *arg) {
    sleep_ms(30);
    CHECK(destroy(*(aio_context_t *)arg) == 0);
    return NULL;
}
static void nothing(int signal) { (void)signal; }
static void *interrupts(void *arg) {
    sleep_ms(30);
    pthread_kill(*(pthread_t *)arg, SIGUSR1);
    return NULL;
}
static void *drains(void *arg) {
    static char all[65536];
    sleep_ms(30);
    CHECK(read(*(int *)arg, all, sizeof all) == sizeof all);
    return NULL;
}

// Reads and writes that have to wait do so where they are submitted, and a signal ends them.
static void waits(aio_context_t c, const char *label, struct iocb i, void *(*ends)(void *), void *arg) {
    pthread_t thread;
    double before = now();
    CHECK(pthread_create(&thread, NULL, ends, arg) == 0);
    errno = 0;
    int r = one(c, &i);
    int waited = now() - before > 0.02;
    CHECK(pthread_join(thread, NULL) == 0);
    printf("%s: %d %s, waited %d\n", label, r, r < 0 ? strerrorname_np(errno) : "", waited);
    events(c, label);
}
static void waiting(void) {
    aio_context_t c = 0;
    CHECK(setup(16, &c) == 0);
    int p[2], s[2], d[2];
    static char buf[65536];
    CHECK(pipe(p) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0 && socketpair(AF_UNIX, SOCK_DGRAM, 0, d) == 0);
    waits(c, "an empty pipe", made(IOCB_CMD_PREAD, p[0], buf, 8, 0), later, &p[1]);
    CHECK(write(p[1], buf, sizeof buf) == sizeof buf);
    waits(c, "a full pipe", made(IOCB_CMD_PWRITE, p[1], buf, 8, 0), drains, &p[0]);
    CHECK(read(p[0], buf, 8) == 8);
    waits(c, "a socket", made(IOCB_CMD_PREAD, s[0], buf, 8, 0), later, &s[1]);
    waits(c, "datagrams", made(IOCB_CMD_PREAD, d[0], buf, 8, 0), later, &d[1]);
    run(c, "a socket has no offset", made(IOCB_CMD_PREAD, s[0], buf, 8, 1));
    run(c, "nor to write", made(IOCB_CMD_PWRITE, s[0], buf, 8, 1));
    run(c, "nothing to write", made(IOCB_CMD_PWRITE, s[0], buf, 0, 1));
    pthread_t self = pthread_self();
    struct sigaction action = {.sa_handler = nothing};
    for (int restart = 0; restart < 2; restart++) {
        action.sa_flags = restart ? SA_RESTART : 0;
        CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
        waits(c, "interrupted", made(IOCB_CMD_PREAD, p[0], buf, 8, 0), interrupts, &self);
        waits(c, "a socket interrupted", made(IOCB_CMD_PREAD, s[0], buf, 8, 0), interrupts, &self);
    }
    // Those behind one that waits wait with it.
    struct iocb first = made(IOCB_CMD_PREAD, p[0], buf, 8, 0), second = made(IOCB_CMD_PWRITE, s[0], buf, 1, 0);
    struct iocb *both[] = {&first, &second};
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, later, &p[1]) == 0);
    SHOW(submit(c, 2, both));
    CHECK(pthread_join(thread, NULL) == 0);
    events(c, "both");
    CHECK(destroy(c) == 0);
}

static void polls(void) {
    aio_context_t c = 0;
    CHECK(setup(16, &c) == 0);
    int p[2], event = eventfd(0, EFD_NONBLOCK);
    CHECK(pipe(p) == 0);
    struct io_event e;
    uint64_t count = 0;
    char buf[8];
    struct iocb in = made(IOCB_CMD_POLL, p[0], (void *)(POLLIN | POLLRDNORM), 0, 0);
    in.aio_flags = IOCB_FLAG_RESFD, in.aio_resfd = event;
    CHECK(one(c, &in) == 1);
    events(c, "waits");
    CHECK(write(p[1], "x", 1) == 1);
    events(c, "came");
    CHECK(read(event, &count, 8) == 8);
    CHECK(write(p[1], "x", 1) == 1);
    events(c, "once");
    run(c, "at once", in);
    CHECK(read(p[0], buf, 8) == 2 && read(event, &count, 8) == 8);
    run(c, "writable", made(IOCB_CMD_POLL, p[1], (void *)POLLOUT, 0, 0));
    CHECK(one(c, &in) == 1);
    pthread_t thread, self = pthread_self();
    CHECK(pthread_create(&thread, NULL, later, &p[1]) == 0);
    int n = get(c, 1, 1, &e, NULL);
    printf("waited for: %d %lld\n", n, (long long)e.res);
    CHECK(pthread_join(thread, NULL) == 0 && read(p[0], buf, 8) == 1);
    CHECK(read(event, &count, 8) == 8);
    // What io_getevents says on its way out.
    signal(SIGUSR1, nothing);
    CHECK(pthread_create(&thread, NULL, interrupts, &self) == 0);
    SHOW(get(c, 1, 1, &e, NULL));
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(one(c, &in) == 1);
    struct iocb other = in;
    SHOW(syscall(SYS_io_cancel, c, &other, &e));
    other.aio_key = 5;
    SHOW(syscall(SYS_io_cancel, c, &other, &e));
    SHOW(syscall(SYS_io_cancel, c, NULL, &e));
    SHOW(syscall(SYS_io_cancel, 0, &in, &e));
    SHOW(syscall(SYS_io_cancel, c, &in, &e));
    n = get(c, 1, 1, &e, NULL);
    printf("cancelled: %d %lld\n", n, (long long)e.res);
    SHOW(syscall(SYS_io_cancel, c, &in, &e));
    // Errors and ends are always told.
    other = made(IOCB_CMD_POLL, p[0], (void *)POLLPRI, 0, 0);
    CHECK(one(c, &other) == 1 && close(p[1]) == 0);
    n = get(c, 1, 1, &e, NULL);
    printf("closed: %d %lld\n", n, (long long)e.res);
    int fd = open("/tmp/aio", O_RDWR);
    run(c, "a file", made(IOCB_CMD_POLL, fd, (void *)POLLIN, 0, 0));
    run(c, "a file", made(IOCB_CMD_POLL, fd, (void *)POLLPRI, 0, 0));
    run(c, "too many bits", made(IOCB_CMD_POLL, fd, (void *)0x10001, 0, 0));
    run(c, "a length", made(IOCB_CMD_POLL, fd, (void *)POLLIN, 1, 0));
    run(c, "an offset", made(IOCB_CMD_POLL, fd, (void *)POLLIN, 0, 1));
    // An epoll instance, told by the file that it watches.
    int epoll = epoll_create1(0);
    struct epoll_event want = {EPOLLIN, {0}};
    CHECK(pipe(p) == 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, p[0], &want) == 0);
    other = made(IOCB_CMD_POLL, epoll, (void *)POLLIN, 0, 0);
    CHECK(one(c, &other) == 1);
    events(c, "epoll waits");
    CHECK(pthread_create(&thread, NULL, later, &p[1]) == 0);
    n = get(c, 1, 1, &e, NULL);
    printf("epoll: %d %lld\n", n, (long long)e.res);
    CHECK(pthread_join(thread, NULL) == 0);
    // An eventfd that tells of itself.
    other = made(IOCB_CMD_POLL, event, (void *)POLLIN, 0, 0);
    other.aio_flags = IOCB_FLAG_RESFD, other.aio_resfd = event;
    CHECK(one(c, &other) == 1);
    count = 1;
    CHECK(write(event, &count, 8) == 8);
    n = get(c, 1, 1, &e, NULL);
    printf("itself: %d %lld\n", n, (long long)e.res);
    // Timers and signals.
    int timer = timerfd_create(CLOCK_MONOTONIC, 0);
    struct itimerspec when = {.it_value = {0, 10000000}};
    CHECK(timerfd_settime(timer, 0, &when, NULL) == 0);
    run(c, "timer", made(IOCB_CMD_POLL, timer, (void *)POLLIN, 0, 0));
    // A mask for the wait.
    sigset_t mask, none;
    sigemptyset(&none);
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR1);
    CHECK(pthread_sigmask(SIG_BLOCK, &mask, NULL) == 0);
    struct { sigset_t *set; size_t size; } with = {&none, 8}, odd = {&none, 4};
    raise(SIGUSR1);
    SHOW(syscall(SYS_io_pgetevents, c, 1, 1, &e, NULL, &with));
    SHOW(syscall(SYS_io_pgetevents, c, 1, 1, &e, &at_once, &odd));
    SHOW(syscall(SYS_io_pgetevents, c, 1, 1, &e, &at_once, (void *)8));
    SHOW(syscall(SYS_io_pgetevents, c, 1, 1, &e, &soon, NULL));
    // A context that ends while somebody waits, with a poll under way.
    other = made(IOCB_CMD_POLL, p[1], (void *)POLLPRI, 0, 0);
    CHECK(one(c, &other) == 1);
    CHECK(pthread_create(&thread, NULL, ends, &c) == 0);
    SHOW(get(c, 1, 1, &e, NULL));
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(close(p[0]) == 0 && close(p[1]) == 0);
}

int main(int argc, char **argv) {
    if (argc > 2) {
        printf("after exec %ld\n", number("/proc/sys/fs/aio-nr") - atol(argv[2]));
        aio_context_t c = strtoul(argv[1], NULL, 16);
        SHOW(destroy(c));
        return 0;
    }
    long before = number("/proc/sys/fs/aio-nr");
    contexts();
    transfers();
    streams();
    waiting();
    polls();
    aio_context_t c = 0;
    CHECK(setup(8, &c) == 0);
    int p[2];
    CHECK(pipe(p) == 0);
    struct iocb left = made(IOCB_CMD_POLL, p[0], (void *)POLLIN, 0, 0);
    CHECK(one(c, &left) == 1);
    char text[32], base[32];
    snprintf(text, sizeof text, "%lx", (unsigned long)c);
    snprintf(base, sizeof base, "%ld", before);
    fflush(stdout);
    execl("/proc/self/exe", argv[0], text, base, NULL);
    return 1;
}
