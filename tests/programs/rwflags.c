// The flags of preadv2 and pwritev2: appending for once, or just not, and not waiting.
#include "check.h"
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#undef RWF_NOAPPEND
#define RWF_NOAPPEND 0x20
// The calls by number: the C library refuses what it does not know.
static long readv2(int fd, void *b, size_t n, off_t at, int flags) {
    struct iovec v = {b, n};
    return syscall(SYS_preadv2, fd, &v, 1ul, at, 0ul, flags);
}
static long writev2(int fd, const void *b, size_t n, off_t at, int flags) {
    struct iovec v = {(void *)b, n};
    return syscall(SYS_pwritev2, fd, &v, 1ul, at, 0ul, flags);
}
static void content(const char *what, int fd) {
    char b[64] = "";
    CHECK(pread(fd, b, sizeof b - 1, 0) >= 0);
    printf("%s: %s, at %ld\n", what, b, (long)lseek(fd, 0, SEEK_CUR));
}
static void file(const char *path) {
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0 && write(fd, "0123456789", 10) == 10);
    SHOW(writev2(fd, "ab", 2, 1, RWF_APPEND));
    content("at an offset", fd);
    CHECK(lseek(fd, 3, SEEK_SET) == 3);
    SHOW(writev2(fd, "cd", 2, -1, RWF_APPEND));
    content("at the file's own", fd);
    SHOW(writev2(fd, "ef", 2, 0, RWF_APPEND | RWF_DSYNC));
    SHOW(writev2(fd, "x", 1, 0, 1 << 20));
    SHOW(readv2(fd, (char[4]){0}, 4, 0, RWF_APPEND));
    close(fd);
    CHECK(unlink(path) == 0);
}
// What has data and room, and then nothing.
static void hurry(int from, int to) {
    char b[8] = "abcdefg";
    CHECK(readv2(from, b, 8, -1, RWF_NOWAIT) == -1 && errno == EAGAIN);
    CHECK(writev2(to, b, 8, -1, RWF_NOWAIT) == 8 && readv2(from, b, 8, -1, RWF_NOWAIT) == 8);
    static char much[1 << 20];
    long n = writev2(to, much, sizeof much, -1, RWF_NOWAIT);
    CHECK(n > 0 && n < (long)sizeof much);
    while (writev2(to, much, 4096, -1, RWF_NOWAIT) > 0) {
    }
    CHECK(errno == EAGAIN);
}
static void refuses(int fd, bool reads) {
    char b[8] = {0};
    if (reads) CHECK(readv2(fd, b, 8, -1, RWF_NOWAIT) == -1 && errno == EOPNOTSUPP);
    CHECK(writev2(fd, b, 8, -1, RWF_NOWAIT) == -1 && errno == EOPNOTSUPP);
}
static void newer(void) {
    char b[128], path[] = "/tmp/rwflags";
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_APPEND, 0600);
    CHECK(fd >= 0 && write(fd, "0123", 4) == 4);
    CHECK(writev2(fd, "x", 1, 0, RWF_APPEND | RWF_NOAPPEND) == -1 && errno == EINVAL);
    CHECK(writev2(fd, "gh", 2, 1, RWF_NOAPPEND) == 2 && writev2(fd, "ij", 2, 1, 0) == 2);
    CHECK(pread(fd, b, sizeof b, 0) == 6 && memcmp(b, "0gh3ij", 6) == 0);
    close(fd);
    CHECK(unlink(path) == 0);
    int ends[2];
    CHECK(pipe(ends) == 0);
    hurry(ends[0], ends[1]);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    hurry(ends[0], ends[1]);
    sigset_t set;
    sigemptyset(&set);
    int waiting[] = {eventfd(0, 0), timerfd_create(CLOCK_MONOTONIC, 0), signalfd(-1, &set, 0)};
    for (int i = 0; i < 3; i++) CHECK(readv2(waiting[i], b, 128, -1, RWF_NOWAIT) == -1 && errno == EAGAIN);
    refuses(waiting[0], false);
    CHECK(mkfifo("/tmp/rwfifo", 0600) == 0);
    fd = open("/tmp/rwfifo", O_RDWR);
    refuses(fd, true);
    CHECK(unlink("/tmp/rwfifo") == 0);
    refuses(memfd_create("x", 0), true);
    fd = open("/dev/null", O_RDWR);
    CHECK(readv2(fd, b, 8, -1, RWF_NOWAIT) == 0 && writev2(fd, b, 8, -1, RWF_NOWAIT) == 8);
    fd = open("/dev/zero", O_RDONLY);
    CHECK(readv2(fd, b, 8, -1, RWF_NOWAIT) == 8);
    fd = open("/proc/self/comm", O_RDWR);
    refuses(fd, true);
}
int main(void) {
    struct utsname uts;
    int major = 0, minor = 0;
    CHECK(uname(&uts) == 0 && sscanf(uts.release, "%d.%d", &major, &minor) == 2);
    file("/tmp/rwflags");
    // What a Linux before 6.10 does not have, or not of all these: nothing is printed.
    if (major * 100 + minor >= 610 || strstr(uts.release, "ringwall")) newer();
    puts("done");
    return 0;
}
