// What /proc tells of sockets, locks and a few more things that lsof, ss, java and the like read there; and memory whose
// content is taken away, which shows in a file.
#include "check.h"
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/sysinfo.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
static ino_t inode(int fd) {
    struct stat s;
    CHECK(fstat(fd, &s) == 0);
    return s.st_ino;
}
// The line of /proc/net/unix that has a socket's inode, or a name and no inode.
static void socket_line(const char *what, int fd, const char *name) {
    FILE *f = fopen("/proc/self/net/unix", "r");
    CHECK(f);
    char line[300];
    bool found = false;
    CHECK(fgets(line, sizeof line, f));
    if (!what) printf("%s", line);
    while (fgets(line, sizeof line, f)) {
        unsigned long number, ino;
        unsigned refs, protocol, flags, type, state;
        char path[120] = "";
        CHECK(sscanf(line, "%lx: %x %x %x %x %x %lu %100s", &number, &refs, &protocol, &flags, &type, &state, &ino, path) >= 7);
        if (fd >= 0 ? ino != inode(fd) : !name || ino != 0 || strcmp(path, name)) continue;
        printf("%s: refs %u protocol %u flags %x type %u state %u %s\n", what, refs, protocol, flags, type, state, path);
        found = true;
    }
    if (what && !found) printf("%s: no line\n", what);
    fclose(f);
}
static int named(int type, const char *name, bool listens) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    size_t n = strlen(name);
    memcpy(a.sun_path, name, n);
    if (name[0] == '@') a.sun_path[0] = 0;
    int fd = socket(AF_UNIX, type, 0);
    CHECK(fd >= 0 && bind(fd, (void *)&a, offsetof(struct sockaddr_un, sun_path) + n + (name[0] != '@')) == 0);
    if (listens) CHECK(listen(fd, 5) == 0);
    return fd;
}
static int connected(int type, const char *name) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    size_t n = strlen(name);
    memcpy(a.sun_path, name, n);
    if (name[0] == '@') a.sun_path[0] = 0;
    int fd = socket(AF_UNIX, type, 0);
    CHECK(fd >= 0 && connect(fd, (void *)&a, offsetof(struct sockaddr_un, sun_path) + n + (name[0] != '@')) == 0);
    return fd;
}
static int compare(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }
// Lines of a file that are about one inode, in an order of our own, without numbers that differ.
static void lock_lines(const char *what, const char *path, ino_t ino) {
    char *lines[32], line[200];
    int n = 0;
    FILE *f = fopen(path, "r");
    CHECK(f);
    while (fgets(line, sizeof line, f)) {
        char kind[20], sort[20], way[20], range[60];
        unsigned major, minor;
        unsigned long its;
        long pid;
        const char *at = strncmp(line, "lock:\t", 6) ? line : line + 6;
        if (sscanf(at, "%*u: %10s %10s %10s %ld %x:%x:%lu %50[^\n]", kind, sort, way, &pid, &major, &minor, &its, range) != 8 || its != ino) continue;
        CHECK(n < 32 && asprintf(&lines[n++], "%s %s %s %s %s", kind, sort, way, pid == getpid() ? "mine" : pid == -1 ? "nobody's" : "another's", range) > 0);
    }
    fclose(f);
    qsort(lines, n, sizeof *lines, compare);
    printf("%s:\n", what);
    for (int i = 0; i < n; i++) printf("  %s\n", lines[i]), free(lines[i]);
    fflush(stdout);
}
static void sockets(void) {
    socket_line(NULL, -1, NULL);
    int path = named(SOCK_STREAM, "/tmp/procfiles.sock", true), plain = named(SOCK_DGRAM, "/tmp/procfiles.dgram", false);
    int hidden = named(SOCK_SEQPACKET, "@procfiles", true), none = socket(AF_UNIX, SOCK_STREAM, 0);
    socket_line("listens", path, NULL);
    socket_line("bound", plain, NULL);
    socket_line("abstract", hidden, NULL);
    socket_line("nothing yet", none, NULL);
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    socket_line("of a pair", ends[0], NULL);
    int c = connected(SOCK_STREAM, "/tmp/procfiles.sock"), d = connected(SOCK_DGRAM, "/tmp/procfiles.dgram"), s = connected(SOCK_SEQPACKET, "@procfiles");
    socket_line("connected", c, NULL);
    socket_line("not accepted", -1, "/tmp/procfiles.sock");
    socket_line("not accepted", -1, "@procfiles");
    socket_line("datagrams connected", d, NULL);
    int a = accept(path, NULL, NULL);
    CHECK(a >= 0);
    socket_line("accepted", a, NULL);
    close(c), close(d), close(s);
    socket_line("of one that is gone", a, NULL);
    CHECK(unlink("/tmp/procfiles.sock") == 0 && unlink("/tmp/procfiles.dgram") == 0);
    close(path), close(plain), close(hidden), close(none);
}
static void locks(void) {
    int fd = open("/tmp/procfiles", O_RDWR | O_CREAT, 0600), other = open("/tmp/procfiles", O_RDWR);
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 10, .l_len = 5};
    CHECK(fd >= 0 && other >= 0 && fcntl(fd, F_SETLK, &l) == 0);
    l.l_type = F_RDLCK, l.l_start = 100, l.l_len = 0;
    CHECK(fcntl(fd, F_SETLK, &l) == 0);
    l.l_start = 50, l.l_len = 3;
    CHECK(fcntl(other, F_OFD_SETLK, &l) == 0 && flock(other, LOCK_EX) == 0);
    lock_lines("locks", "/proc/locks", inode(fd));
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", other);
    lock_lines("of the second", path, inode(fd));
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        l.l_start = 200, l.l_len = 7;
        CHECK(fcntl(fd, F_SETLK, &l) == 0);
        lock_lines("for a child", "/proc/locks", inode(fd));
        _exit(0);
    }
    show_wait("child", pid);
    close(other);
    lock_lines("after closing", "/proc/locks", inode(fd));
    close(fd);
    CHECK(unlink("/tmp/procfiles") == 0);
}
static void text(const char *path) {
    char b[200] = "";
    int fd = open(path, O_RDONLY);
    CHECK(fd >= 0 && read(fd, b, sizeof b - 1) >= 0);
    printf("%s: %s", path, b);
    close(fd);
}
static void filters(void) {
    const char *path = "/proc/self/coredump_filter", *values[] = {"0x1f\n", "7", "010", "4096", "-1", "x", ""};
    text(path);
    for (int i = 0; i < 7; i++) {
        int fd = open(path, O_RDWR);
        CHECK(fd >= 0);
        long n = write(fd, values[i], strlen(values[i]));
        printf("writes %s\n", n == (long)strlen(values[i]) ? "all" : n < 0 ? strerrorname_np(errno) : "some");
        close(fd);
        text(path);
    }
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        text(path);
        fflush(stdout);
        _exit(0);
    }
    show_wait("child", pid);
}
static void removed(void) {
    int fd = open("/tmp/procfiles", O_RDWR | O_CREAT, 0600);
    CHECK(fd >= 0 && ftruncate(fd, 16384) == 0);
    char *shared = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    char *private = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    char *anonymous = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    char *alone = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int ro = open("/tmp/procfiles", O_RDONLY);
    char *reading = mmap(NULL, 16384, PROT_READ, MAP_SHARED, ro, 0);
    memset(shared, 'a', 16384), memset(anonymous, 'b', 16384);
    SHOW(madvise(private, 4096, MADV_REMOVE));
    SHOW(madvise(alone, 4096, MADV_REMOVE));
    SHOW(madvise(reading, 4096, MADV_REMOVE));
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        SHOW(madvise(anonymous + 4096, 4096, MADV_REMOVE));
        _exit(0);
    }
    show_wait("child", pid);
    for (int i = 0; i < 4; i++) printf("%d", anonymous[4096 * i]);
    puts("");
    CHECK(mlock(anonymous, 4096) == 0);
    SHOW(madvise(anonymous, 4096, MADV_REMOVE));
    printf("%d\n", anonymous[0]);
    // Of a file system that can, the file loses what the memory does.
    if (madvise(shared + 8192, 4096, MADV_REMOVE) == 0) {
        char b[16384];
        CHECK(pread(fd, b, sizeof b, 0) == 16384 && b[0] == 'a' && b[8191] == 'a' && b[8192] == 0 && b[12287] == 0 && b[12288] == 'a');
        CHECK(shared[8192] == 0 && shared[12288] == 'a' && private[8192] == 0);
    } else {
        CHECK(errno == EOPNOTSUPP);
    }
    CHECK(unlink("/tmp/procfiles") == 0);
}
// What fdinfo says of what is no file.
static void descriptors(void) {
    char path[64], b[512];
    int event = eventfd(3, 0), epoll = epoll_create1(0), file = open("/proc/self/fdinfo", O_RDONLY);
    int ends[2];
    CHECK(event >= 0 && epoll >= 0 && pipe(ends) == 0);
    int watched[] = {event, ends[0]};
    for (int i = 0; i < 2; i++) {
        struct epoll_event e = {i ? EPOLLIN | EPOLLONESHOT : EPOLLIN, {.u64 = 0xabcdef}};
        CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, watched[i], &e) == 0);
    }
    snprintf(path, sizeof path, "%d", event);
    int fd = openat(file, path, O_RDONLY);
    ssize_t n = read(fd, b, sizeof b - 1);
    CHECK(n > 0);
    b[n] = 0;
    printf("eventfd: %d %d\n", strstr(b, "eventfd-count:                3\n") != NULL, strstr(b, "\neventfd-id: ") != NULL);
    close(fd);
    snprintf(path, sizeof path, "%d", epoll);
    fd = openat(file, path, O_RDONLY);
    CHECK((n = read(fd, b, sizeof b - 1)) > 0);
    b[n] = 0;
    // Their order is that of addresses in the kernel.
    for (int i = 0; i < 2; i++) {
        for (char *line = strstr(b, "tfd:"); line; line = strstr(line + 1, "tfd:")) {
            int of;
            unsigned events, sdev;
            unsigned long long data, pos, ino;
            int got = sscanf(line, "tfd: %d events: %x data: %llx  pos:%llu ino:%llx sdev:%x\n", &of, &events, &data, &pos, &ino, &sdev);
            struct stat st;
            CHECK(got == 6);
            if (of != watched[i]) continue;
            CHECK(fstat(of, &st) == 0);
            printf("epoll: events %x data %llx pos %llu, file %d\n", events, data, pos,
                   st.st_ino == ino && st.st_dev == makedev(sdev >> 20, sdev & 0xfffff));
        }
    }
    close(fd);
    close(event), close(epoll), close(file), close(ends[0]), close(ends[1]);
}

static void *wait_for_it(void *arg) {
    pthread_barrier_wait(arg);
    return NULL;
}

// The links of /proc/PID/task say how many threads there are.
static void threads(void) {
    struct stat st;
    pthread_t thread;
    pthread_barrier_t barrier;
    CHECK(stat("/proc/self/task", &st) == 0);
    printf("one thread: %lu links\n", (unsigned long)st.st_nlink);
    CHECK(pthread_barrier_init(&barrier, NULL, 2) == 0);
    CHECK(pthread_create(&thread, NULL, wait_for_it, &barrier) == 0 && stat("/proc/self/task", &st) == 0);
    printf("two threads: %lu links\n", (unsigned long)st.st_nlink);
    pthread_barrier_wait(&barrier);
    CHECK(pthread_join(thread, NULL) == 0);
}

int main(void) {
    sockets();
    threads();
    descriptors();
    locks();
    filters();
    removed();
    // Numbers that differ, but say the same.
    struct sysinfo info;
    double loads[3];
    FILE *f = fopen("/proc/loadavg", "r");
    CHECK(f && sysinfo(&info) == 0 && fscanf(f, "%lf %lf %lf", &loads[0], &loads[1], &loads[2]) == 3);
    for (int i = 0; i < 3; i++) {
        double it = info.loads[i] / 65536.0 - loads[i];
        printf("load averages agree: %d\n", it > -0.3 && it < 0.3);
    }
    int fd = open("/sys/devices/system/node/node0/meminfo", O_RDONLY);
    char b[4096] = "";
    unsigned long total = 0, node = 0;
    if (fd >= 0) {
        CHECK(read(fd, b, sizeof b - 1) > 0 && sscanf(b, "Node 0 MemTotal: %lu kB", &node) == 1);
        f = fopen("/proc/meminfo", "r");
        CHECK(f && fscanf(f, "MemTotal: %lu kB", &total) == 1);
        // A host whose memory has grown since its boot may have some that it counts to no node.
        CHECK(node > 0 && node <= total);
    }
    puts("done");
    return 0;
}
