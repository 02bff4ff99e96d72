// A writer that is faster than its reader loses nothing, whatever is between them: every byte arrives once, in order.
#include "check.h"
#include <pty.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <termios.h>
enum { SIZE = 300 * 1000 };
static char content[SIZE];
// Writes all of it, by turns in one large piece, in small ones and from two places.
static void flood(int fd) {
    static const size_t sizes[] = {100000, 1, 4097, 20000, 3, 70000};
    size_t done = 0;
    for (int turn = 0; done < SIZE; turn++) {
        size_t want = sizes[turn % 6];
        if (want > SIZE - done) want = SIZE - done;
        struct iovec parts[2] = {{content + done, want / 3}, {content + done + want / 3, want - want / 3}};
        ssize_t n = turn % 2 ? writev(fd, parts, 2) : write(fd, content + done, want);
        // A blocking write takes everything.
        CHECK(n == (ssize_t)want);
        done += (size_t)n;
    }
}
static void run(const char *what, int reader, int writer) {
    fflush(stdout);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        close(reader);
        flood(writer);
        // A terminal's end throws away what has not been read.
        char go;
        if (isatty(writer)) CHECK(read(writer, &go, 1) == 1);
        _exit(0);
    }
    static char got[SIZE + 1];
    size_t done = 0, reads = 0, wrong = 0;
    while (done < SIZE) {
        // Slowly to begin with, so that the writer meets a full buffer in the midst of its pieces.
        if (reads++ < 100) sleep_ms(1);
        ssize_t n = read(reader, got + done, reads < 100 ? 777 : SIZE - done);
        CHECK(n > 0);
        done += (size_t)n;
    }
    for (size_t i = 0; i < SIZE; i++) wrong += got[i] != content[i];
    printf("%s: %zu wrong\n", what, wrong);
    if (isatty(reader)) CHECK(write(reader, "\n", 1) == 1);
    close(writer);
    show_wait(what, pid);
    close(reader);
}
int main(void) {
    for (int i = 0; i < SIZE; i++) content[i] = (char)('!' + (i * 31 + i / 94) % 94);
    int fds[2];
    CHECK(pipe(fds) == 0);
    run("pipe", fds[0], fds[1]);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    run("socket", fds[0], fds[1]);
    struct termios raw;
    CHECK(openpty(&fds[0], &fds[1], NULL, NULL, NULL) == 0 && tcgetattr(fds[1], &raw) == 0);
    cfmakeraw(&raw);
    CHECK(tcsetattr(fds[1], TCSANOW, &raw) == 0);
    run("terminal, out", fds[0], fds[1]);
    CHECK(openpty(&fds[0], &fds[1], NULL, NULL, NULL) == 0 && tcsetattr(fds[1], TCSANOW, &raw) == 0);
    run("terminal, in", fds[1], fds[0]);
    return 0;
}
