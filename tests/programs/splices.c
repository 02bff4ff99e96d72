// splice, tee, vmsplice and sendfile to pipes: what moves, what waits, and which descriptors do.
#include "check.h"
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
static int file_of(const char *name, size_t size) {
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0);
    for (size_t i = 0; i < size; i += 4096) {
        char page[4096];
        memset(page, 'a' + i / 4096 % 26, sizeof page);
        CHECK(write(fd, page, size - i < 4096 ? size - i : 4096) > 0);
    }
    CHECK(lseek(fd, 0, SEEK_SET) == 0);
    return fd;
}
static void drain(const char *what, int fd) {
    char buf[70000];
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    size_t all = 0;
    unsigned sum = 0;
    ssize_t n;
    while ((n = read(fd, buf, sizeof buf)) > 0) {
        for (ssize_t i = 0; i < n; i++) sum = sum * 31 + (unsigned char)buf[i];
        all += n;
    }
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
    printf("%s holds %zu, sum %u\n", what, all, sum);
    fflush(stdout);
}
// The exact number that a call moves.
#define MOVED(call)                                                                                   \
    do {                                                                                              \
        errno = 0;                                                                                    \
        long r_ = (long)(call);                                                                       \
        printf("%s = %ld %s\n", #call, r_, r_ < 0 ? strerrorname_np(errno) : "");                     \
        fflush(stdout);                                                                               \
    } while (0)
static void later_write(int fd, const char *text) {
    sleep_ms(20);
    CHECK(write(fd, text, strlen(text)) > 0);
    _exit(0);
}
int main(void) {
    signal(SIGPIPE, SIG_IGN);
    char dir[] = "/tmp/splices.XXXXXX";
    CHECK(mkdtemp(dir) && chdir(dir) == 0);
    int p[2], q[2], s[2];
    CHECK(pipe(p) == 0 && pipe(q) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
    int in = file_of("in", 10000), out = file_of("out", 0), big = file_of("big", 300000);
    // Errors, in the order that the kernel finds them.
    MOVED(splice(-1, NULL, -1, NULL, 0, 99));
    MOVED(splice(-1, NULL, -1, NULL, 1, 16));
    MOVED(splice(-1, NULL, p[1], NULL, 1, 0));
    MOVED(splice(in, NULL, -1, NULL, 1, 0));
    MOVED(splice(in, NULL, out, NULL, 1, 0));
    MOVED(splice(p[1], NULL, q[1], NULL, 1, 0));
    MOVED(splice(p[0], NULL, q[0], NULL, 1, 0));
    MOVED(splice(p[0], NULL, p[1], NULL, 1, 0));
    loff_t at = 0;
    MOVED(splice(p[0], &at, out, NULL, 1, 0));
    MOVED(splice(in, NULL, p[1], &at, 1, 0));
    MOVED(splice(in, (loff_t *)8, p[1], NULL, 1, 0));
    MOVED(splice(s[0], &at, p[1], NULL, 1, SPLICE_F_NONBLOCK));
    MOVED(splice(s[0], NULL, p[1], NULL, 1, SPLICE_F_NONBLOCK));
    at = -1;
    MOVED(splice(in, &at, p[1], NULL, 1, 0));
    int here = open(".", O_RDONLY | O_DIRECTORY), event = eventfd(1, 0);
    MOVED(splice(here, NULL, p[1], NULL, 8, 0));
    MOVED(splice(event, NULL, p[1], NULL, 8, 0));
    MOVED(splice(p[0], NULL, q[1], NULL, 1, SPLICE_F_NONBLOCK));
    MOVED(splice(p[0], NULL, out, NULL, 1, SPLICE_F_NONBLOCK));
    int append = open("out", O_WRONLY | O_APPEND);
    CHECK(write(p[1], "12345678", 8) == 8);
    MOVED(splice(p[0], NULL, append, NULL, 1, 0));
    MOVED(splice(p[0], NULL, event, NULL, 8, 0));
    int readonly = open("in", O_RDONLY);
    MOVED(splice(p[0], NULL, readonly, NULL, 8, 0));
    drain("p", p[0]);
    // File to pipe, by its own offset and by one that is given.
    MOVED(splice(in, NULL, p[1], NULL, 5000, 0));
    MOVED(lseek(in, 0, SEEK_CUR));
    at = 4096;
    MOVED(splice(in, &at, p[1], NULL, 100000, 0));
    printf("at %ld, own %ld\n", (long)at, (long)lseek(in, 0, SEEK_CUR));
    MOVED(splice(in, NULL, p[1], NULL, 100000, 0));
    MOVED(splice(in, NULL, p[1], NULL, 100000, 0));
    drain("p", p[0]);
    // More than the pipe holds.
    MOVED(splice(big, NULL, p[1], NULL, 300000, 0));
    MOVED(splice(big, NULL, p[1], NULL, 300000, SPLICE_F_NONBLOCK));
    // Pipe to file.
    at = 100;
    MOVED(splice(p[0], NULL, out, &at, 50, 0));
    MOVED(splice(p[0], NULL, out, NULL, 60, 0));
    printf("at %ld, own %ld, size %ld\n", (long)at, (long)lseek(out, 0, SEEK_CUR), (long)lseek(out, 0, SEEK_END));
    MOVED(splice(p[0], NULL, out, NULL, 1000000, 0));
    lseek(out, 0, SEEK_SET);
    drain("out", out);
    // Pipe to pipe, and tee.
    CHECK(write(p[1], "hello world", 11) == 11);
    MOVED(tee(p[0], q[1], 5, 0));
    MOVED(tee(p[0], q[1], 1 << 20, 0));
    drain("q", q[0]);
    MOVED(splice(p[0], NULL, q[1], NULL, 5, 0));
    MOVED(splice(p[0], NULL, q[1], NULL, 1 << 20, 0));
    drain("p", p[0]);
    drain("q", q[0]);
    MOVED(tee(p[0], q[1], 0, 0));
    MOVED(tee(p[0], q[1], 1, 16));
    MOVED(tee(p[0], p[1], 1, 0));
    MOVED(tee(in, q[1], 1, 0));
    MOVED(tee(p[0], out, 1, 0));
    MOVED(tee(p[1], q[1], 1, 0));
    MOVED(tee(p[0], q[1], 1, SPLICE_F_NONBLOCK));
    fcntl(p[0], F_SETFL, O_NONBLOCK);
    MOVED(tee(p[0], q[1], 1, 0));
    MOVED(splice(p[0], NULL, q[1], NULL, 1, 0));
    MOVED(splice(p[0], NULL, out, NULL, 1, 0));
    fcntl(p[0], F_SETFL, 0);
    // Waiting for data, and for room.
    pid_t pid = fork();
    if (pid == 0) later_write(p[1], "later");
    MOVED(splice(p[0], NULL, q[1], NULL, 100, 0));
    show_wait("writer", pid);
    drain("q", q[0]);
    pid = fork();
    if (pid == 0) later_write(p[1], "again");
    MOVED(tee(p[0], q[1], 100, 0));
    show_wait("writer", pid);
    MOVED(splice(p[0], NULL, out, NULL, 100, 0));
    drain("q", q[0]);
    at = 0;
    while (splice(big, &at, p[1], NULL, 65536, SPLICE_F_NONBLOCK) > 0) {
    }
    pid = fork();
    if (pid == 0) {
        char some[8192];
        sleep_ms(20);
        CHECK(read(p[0], some, sizeof some) == sizeof some);
        _exit(0);
    }
    at = 0;
    MOVED(splice(big, &at, p[1], NULL, 4096, 0));
    show_wait("reader", pid);
    drain("p", p[0]);
    // Sockets.
    CHECK(write(s[0], "socket", 6) == 6);
    MOVED(splice(s[1], NULL, p[1], NULL, 100, 0));
    MOVED(splice(p[0], NULL, s[1], NULL, 100, 0));
    drain("s", s[0]);
    // Ends.
    int e[2];
    CHECK(pipe(e) == 0);
    CHECK(write(e[1], "last", 4) == 4);
    close(e[1]);
    MOVED(splice(e[0], NULL, out, NULL, 100, 0));
    MOVED(splice(e[0], NULL, out, NULL, 100, 0));
    MOVED(splice(e[0], NULL, q[1], NULL, 100, 0));
    MOVED(tee(e[0], q[1], 100, 0));
    close(e[0]);
    CHECK(pipe(e) == 0);
    close(e[0]);
    at = 0;
    MOVED(splice(big, &at, e[1], NULL, 100, 0));
    CHECK(write(p[1], "x", 1) == 1);
    MOVED(splice(p[0], NULL, e[1], NULL, 100, 0));
    MOVED(tee(p[0], e[1], 100, 0));
    drain("p", p[0]);
    signal(SIGPIPE, SIG_DFL);
    pid = fork();
    if (pid == 0) {
        splice(big, &at, e[1], NULL, 100, 0);
        _exit(1);
    }
    show_wait("broken", pid);
    signal(SIGPIPE, SIG_IGN);
    // vmsplice.
    char text[] = "vectors of memory", back[20] = "";
    struct iovec v[2] = {{text, 8}, {text + 8, 9}}, r[2] = {{back, 3}, {back + 3, 16}};
    MOVED(vmsplice(in, v, 2, 0));
    MOVED(vmsplice(p[1], v, 2, 16));
    MOVED(vmsplice(-1, v, 2, 0));
    MOVED(vmsplice(p[1], v, 1025, 0));
    MOVED(vmsplice(p[1], NULL, 0, 0));
    MOVED(syscall(SYS_vmsplice, p[1], 8, 1, 0));
    MOVED(vmsplice(p[0], r, 2, SPLICE_F_NONBLOCK));
    MOVED(vmsplice(p[1], v, 2, SPLICE_F_GIFT));
    MOVED(vmsplice(p[0], r, 2, 0));
    puts(back);
    struct iovec wild = {(void *)8, 5};
    MOVED(vmsplice(p[1], &wild, 1, 0));
    CHECK(write(p[1], "12345", 5) == 5);
    MOVED(vmsplice(p[0], &wild, 1, 0));
    drain("p", p[0]);
    char *large = malloc(200000);
    memset(large, 'v', 200000);
    fcntl(p[1], F_SETFL, O_NONBLOCK);
    MOVED(write(p[1], large, 65536));
    MOVED(vmsplice(p[1], &(struct iovec){large, 100}, 1, SPLICE_F_NONBLOCK));
    fcntl(p[1], F_SETFL, 0);
    MOVED(vmsplice(p[0], &(struct iovec){large, 200000}, 1, 0));
    MOVED(vmsplice(e[1], v, 2, 0));
    // sendfile.
    at = 4096;
    MOVED(sendfile(p[1], in, &at, 3000));
    lseek(in, 9000, SEEK_SET);
    MOVED(sendfile(p[1], in, NULL, 3000));
    printf("at %ld, own %ld\n", (long)at, (long)lseek(in, 0, SEEK_CUR));
    MOVED(sendfile(p[1], in, NULL, 3000));
    drain("p", p[0]);
    at = 0;
    MOVED(sendfile(p[1], big, &at, 300000));
    fcntl(p[1], F_SETFL, O_NONBLOCK);
    MOVED(sendfile(p[1], big, &at, 300000));
    fcntl(p[1], F_SETFL, 0);
    drain("p", p[0]);
    MOVED(sendfile(p[1], q[0], NULL, 1));
    MOVED(sendfile(p[1], q[0], &at, 1));
    MOVED(sendfile(p[1], here, NULL, 1));
    // A stream from end to end.
    pid = fork();
    if (pid == 0) {
        close(p[0]);
        at = 0;
        ssize_t n;
        while (at < 300000 && (n = splice(big, &at, p[1], NULL, 300000 - at, 0)) > 0) {
        }
        CHECK(n > 0);
        _exit(0);
    }
    close(p[1]);
    int copy = file_of("copy", 0);
    size_t total = 0;
    ssize_t n;
    while ((n = splice(p[0], NULL, copy, NULL, 50000, SPLICE_F_MOVE | SPLICE_F_MORE)) > 0) total += n;
    printf("copied %zu\n", total);
    show_wait("source", pid);
    lseek(copy, 0, SEEK_SET);
    lseek(big, 0, SEEK_SET);
    drain("copy", copy);
    drain("big", big);
    MOVED(unlink("in") | unlink("out") | unlink("big") | unlink("copy") | rmdir(dir));
    return 0;
}
