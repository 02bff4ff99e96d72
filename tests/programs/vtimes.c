// Reads of a terminal that is not in canonical mode: VMIN and VTIME in all their forms; and what the master hears in packet
// mode (TIOCPKT).
#include "check.h"
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>

static int master, slave;

static void modes(int min, int time) {
    struct termios t;
    CHECK(tcgetattr(slave, &t) == 0);
    cfmakeraw(&t);
    t.c_cc[VMIN] = min;
    t.c_cc[VTIME] = time;
    CHECK(tcsetattr(slave, TCSANOW, &t) == 0);
}

// Bytes that are typed one after the other, with so many milliseconds in between.
static pid_t type(const char *bytes, int first, int between) {
    pid_t pid = fork();
    if (pid == 0) {
        sleep_ms(first);
        for (const char *c = bytes; *c; c++) {
            CHECK(write(master, c, 1) == 1);
            if (c[1]) sleep_ms(between);
        }
        _exit(0);
    }
    CHECK(pid > 0);
    return pid;
}

// A read, whether it took at least as long as that, and what is left.
static void get(const char *what, int size, double least) {
    char buf[64] = "";
    double start = now();
    ssize_t n = read(slave, buf, size);
    double took = now() - start;
    printf("%s: %zd %.*s, %s\n", what, n, n > 0 ? (int)n : 0, buf, took >= least ? "in time" : "too soon");
    fflush(stdout);
}

static void settle(pid_t pid) { CHECK(waitpid(pid, NULL, 0) == pid); }

static void packet(const char *what) {
    struct pollfd p = {master, POLLIN | POLLPRI, 0};
    CHECK(poll(&p, 1, 5000) == 1);
    unsigned char buf[64];
    ssize_t n = read(master, buf, sizeof buf);
    printf("%s: poll %x, %zd, first %x %.*s\n", what, p.revents, n, buf[0], n > 1 ? (int)n - 1 : 0, buf + 1);
    fflush(stdout);
}

int main(void) {
    master = posix_openpt(O_RDWR | O_NOCTTY);
    CHECK(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
    slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    CHECK(slave >= 0);

    // Between bytes: it waits for the first as long as it takes, and ends when the next is late.
    modes(10, 5);
    pid_t pid = type("ab", 100, 20);
    get("two of ten", 64, 0.55);
    settle(pid);
    // Each byte begins the time anew.
    pid = type("abcdef", 0, 100);
    get("six, slowly", 64, 0.9);
    settle(pid);
    // VMIN ends it, and so does what is asked for.
    modes(3, 100);
    CHECK(write(master, "abcde", 5) == 5);
    get("more than three", 64, 0);
    CHECK(write(master, "ab", 2) == 2);
    get("two are asked for", 2, 0);
    pid = type("abc", 0, 30);
    get("three", 64, 0.05);
    settle(pid);

    // The others.
    modes(0, 3);
    get("nothing in time", 64, 0.25);
    modes(0, 50);
    pid = type("x", 50, 0);
    get("one in time", 64, 0.02);
    settle(pid);
    modes(0, 0);
    get("at once", 64, 0);
    modes(3, 0);
    pid = type("abc", 0, 50);
    get("three without a time", 64, 0.08);
    settle(pid);
    CHECK(fcntl(slave, F_SETFL, O_NONBLOCK) == 0);
    modes(10, 3);
    CHECK(write(master, "ab", 2) == 2);
    struct pollfd p = {slave, POLLIN, 0};
    CHECK(poll(&p, 1, 5000) == 1);
    get("without waiting", 64, 0);
    errno = 0;
    char c;
    CHECK(read(slave, &c, 1) == -1);
    printf("nothing without waiting: %s\n", strerrorname_np(errno));
    CHECK(fcntl(slave, F_SETFL, 0) == 0);

    // Packets.
    int on = 1, off = 0, is = -1;
    CHECK(ioctl(master, TIOCPKT, &on) == 0 && ioctl(master, TIOCGPKT, &is) == 0);
    printf("packets %d\n", is);
    CHECK(write(slave, "data", 4) == 4);
    packet("data");
    CHECK(tcflush(slave, TCIFLUSH) == 0);
    packet("input flushed");
    CHECK(tcflush(slave, TCOFLUSH) == 0);
    packet("output flushed");
    CHECK(tcflow(slave, TCOOFF) == 0);
    packet("stopped");
    CHECK(tcflow(slave, TCOON) == 0);
    packet("started");
    struct termios t;
    CHECK(tcgetattr(slave, &t) == 0);
    t.c_iflag |= IXON;
    CHECK(tcsetattr(slave, TCSANOW, &t) == 0);
    packet("flow control by characters");
    t.c_iflag &= ~IXON;
    CHECK(tcsetattr(slave, TCSANOW, &t) == 0);
    packet("and without");
    CHECK(ioctl(master, TIOCPKT, &off) == 0);
    CHECK(write(slave, "plain", 5) == 5);
    packet("off");
    return 0;
}
