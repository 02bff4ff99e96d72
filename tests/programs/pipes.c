// Pipes: capacity, atomic and partial writes, non-blocking ends, hang-up, SIGPIPE, a ring of processes.
#include "check.h"
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
int main(void) {
    int p[2];
    static char buffer[70000];
    CHECK(pipe2(p, O_NONBLOCK | O_CLOEXEC) == 0);
    printf("capacity %d\n", fcntl(p[1], F_GETPIPE_SZ));
    printf("first %zd\n", write(p[1], buffer, 70000));
    SHOW(write(p[1], buffer, 1));
    int n;
    CHECK(ioctl(p[0], FIONREAD, &n) == 0);
    printf("readable %d\n", n);
    long total = 0, got;
    while ((got = read(p[0], buffer, sizeof buffer)) > 0) total += got;
    printf("read %ld then %s\n", total, strerrorname_np(errno));
    struct iovec v[2] = {{"ab", 2}, {"cde", 3}};
    printf("writev %zd", writev(p[1], v, 2));
    got = read(p[0], buffer, 10);
    printf(" read %ld %.5s\n", got, buffer);
    CHECK(fcntl(p[1], F_SETPIPE_SZ, 8192) == 8192);
    close(p[0]);
    struct pollfd f = {p[1], POLLOUT, 0};
    n = poll(&f, 1, 0);
    printf("poll %d %x\n", n, f.revents);
    signal(SIGPIPE, SIG_IGN);
    SHOW(write(p[1], "x", 1));
    fflush(stdout);
    if (fork() == 0) {
        signal(SIGPIPE, SIG_DFL);
        _exit((int)write(p[1], "x", 1));
    }
    int status;
    wait(&status);
    printf("killed by %d\n", WTERMSIG(status));
    close(p[1]);
    // A token goes round a ring of 8 processes 100 times.
    int ring[9][2];
    for (int i = 0; i < 9; i++) CHECK(pipe(ring[i]) == 0);
    for (int i = 0; i < 8; i++) {
        if (fork() == 0) {
            int token;
            for (int j = 0; j < 9; j++) {
                if (j != i) close(ring[j][0]);
                if (j != i + 1) close(ring[j][1]);
            }
            while (read(ring[i][0], &token, sizeof token) == sizeof token) {
                token++;
                CHECK(write(ring[i + 1][1], &token, sizeof token) == sizeof token);
            }
            _exit(i);
        }
    }
    int token = 0;
    for (int round = 0; round < 100; round++) {
        CHECK(write(ring[0][1], &token, sizeof token) == sizeof token);
        CHECK(read(ring[8][0], &token, sizeof token) == sizeof token);
    }
    for (int j = 0; j < 9; j++) close(ring[j][1]);
    int sum = 0;
    for (int i = 0; i < 8; i++) {
        CHECK(wait(&status) > 0);
        sum += WEXITSTATUS(status);
    }
    printf("token %d sum %d\n", token, sum);
    // A writer blocked on a full pipe is woken by a reader, and by its end.
    CHECK(pipe(p) == 0);
    pid_t child = fork();
    if (child == 0) {
        close(p[0]);
        for (int i = 0; i < 3; i++) CHECK(write(p[1], buffer, 70000) == 70000);
        _exit(0);
    }
    close(p[1]);
    total = 0;
    while ((got = read(p[0], buffer, 1000)) > 0) total += got;
    printf("total %ld\n", total);
    show_wait("writer", child);
    return 0;
}
