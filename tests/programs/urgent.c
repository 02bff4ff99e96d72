// Urgent bytes on unix streams (MSG_OOB, SIOCATMARK, SO_OOBINLINE, SIGURG, POLLPRI), and peeking that goes on where it was
// (SO_PEEK_OFF).
#include "check.h"
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <linux/sockios.h>
#include <sys/socket.h>

#ifndef SO_PEEK_OFF
#define SO_PEEK_OFF 42
#endif

static int s[2];

static void pair(int type) {
    if (s[0] > 0) {
        close(s[0]);
        close(s[1]);
    }
    CHECK(socketpair(AF_UNIX, type, 0, s) == 0);
}

static void get(const char *what, int flags, int size) {
    char buf[64] = "";
    struct iovec v = {buf, size};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
    errno = 0;
    ssize_t n = recvmsg(s[1], &m, flags | MSG_DONTWAIT);
    printf("%s: %zd %.*s%s flags %x\n", what, n, n > 0 ? (int)(n < size ? n : size) : 0, buf,
           n < 0 ? strerrorname_np(errno) : "", n < 0 ? 0 : m.msg_flags & ~MSG_DONTWAIT);
}

static void look(const char *what) {
    struct pollfd p = {s[1], POLLIN | POLLPRI, 0};
    int mark = -1, bytes = -1;
    CHECK(poll(&p, 1, 0) >= 0 && ioctl(s[1], SIOCATMARK, &mark) == 0 && ioctl(s[1], SIOCINQ, &bytes) == 0);
    printf("%s: poll %x mark %d bytes %d\n", what, p.revents, mark, bytes);
}

static volatile sig_atomic_t urgent;
static void on_urgent(int signal) { (void)signal, urgent++; }

int main(void) {
    pair(SOCK_STREAM);
    SHOW(send(s[0], "abc", 3, MSG_OOB));
    look("sent");
    get("urgent, peeked", MSG_OOB | MSG_PEEK, 8);
    get("urgent", MSG_OOB, 8);
    get("again", MSG_OOB, 8);
    get("rest", 0, 8);
    get("nothing", 0, 8);

    pair(SOCK_STREAM);
    SHOW(send(s[0], "ab", 2, 0));
    SHOW(send(s[0], "c", 1, MSG_OOB));
    SHOW(send(s[0], "de", 2, 0));
    get("up to it", 0, 8);
    look("at the mark");
    // What a read right at the mark gives once the byte itself was read, old kernels (6.1) saw differently.
    get("urgent", MSG_OOB, 8);

    // Not asked for, it is lost.
    pair(SOCK_STREAM);
    CHECK(send(s[0], "ab", 2, MSG_OOB) == 2 && send(s[0], "cd", 2, 0) == 2);
    get("before", 0, 8);
    get("behind", 0, 8);
    get("urgent", MSG_OOB, 8);

    // Only the last is urgent.
    pair(SOCK_STREAM);
    CHECK(send(s[0], "ab", 2, MSG_OOB) == 2 && send(s[0], "cd", 2, MSG_OOB) == 2);
    look("two");
    get("urgent", MSG_OOB, 8);
    get("the rest", 0, 8);
    get("nothing", 0, 8);

    // In line.
    pair(SOCK_STREAM);
    int one = 1, value = 0;
    socklen_t len = sizeof value;
    CHECK(setsockopt(s[1], SOL_SOCKET, SO_OOBINLINE, &one, sizeof one) == 0);
    CHECK(getsockopt(s[1], SOL_SOCKET, SO_OOBINLINE, &value, &len) == 0);
    printf("inline %d\n", value);
    CHECK(send(s[0], "abc", 3, MSG_OOB) == 3 && send(s[0], "de", 2, 0) == 2);
    get("urgent", MSG_OOB, 8);
    get("before", 0, 8);
    look("at the mark");
    get("the rest", 0, 8);

    // What cannot be.
    SHOW(send(s[0], "", 0, MSG_OOB));
    get("none", MSG_OOB, 8);
    pair(SOCK_DGRAM);
    SHOW(send(s[0], "a", 1, MSG_OOB));
    get("datagram", MSG_OOB, 8);
    pair(SOCK_SEQPACKET);
    SHOW(send(s[0], "a", 1, MSG_OOB));
    get("packet", MSG_OOB, 8);
    CHECK((s[1] = (close(s[1]), socket(AF_UNIX, SOCK_STREAM, 0))) >= 0);
    get("unconnected", MSG_OOB, 8);

    // Told by signal, with an owner and no more than that, and by epoll.
    pair(SOCK_STREAM);
    signal(SIGURG, on_urgent);
    CHECK(send(s[0], "a", 1, MSG_OOB) == 1);
    printf("signals without an owner: %d\n", urgent);
    CHECK(fcntl(s[1], F_SETOWN, getpid()) == 0);
    CHECK(send(s[0], "b", 1, 0) == 1);
    CHECK(send(s[0], "c", 1, MSG_OOB) == 1);
    printf("signals: %d\n", urgent);
    int ep = epoll_create1(0);
    struct epoll_event e = {EPOLLPRI, {0}};
    CHECK(epoll_ctl(ep, EPOLL_CTL_ADD, s[1], &e) == 0 && epoll_wait(ep, &e, 1, 0) == 1);
    printf("epoll %x\n", e.events);
    get("urgent", MSG_OOB, 8);
    printf("epoll %d\n", epoll_wait(ep, &e, 1, 0));

    // Peeking.
    pair(SOCK_STREAM);
    value = 5;
    CHECK(getsockopt(s[1], SOL_SOCKET, SO_PEEK_OFF, &value, &len) == 0);
    printf("offset at first %d\n", value);
    CHECK(write(s[0], "abcdef", 6) == 6 && write(s[0], "ghi", 3) == 3);
    get("peek", MSG_PEEK, 2);
    get("peek again", MSG_PEEK, 2);
    value = 1;
    SHOW(setsockopt(s[1], SOL_SOCKET, SO_PEEK_OFF, &value, sizeof value));
    get("peek from 1", MSG_PEEK, 3);
    get("on", MSG_PEEK, 2);
    CHECK(getsockopt(s[1], SOL_SOCKET, SO_PEEK_OFF, &value, &len) == 0);
    printf("offset %d\n", value);
    get("read", 0, 2);
    CHECK(getsockopt(s[1], SOL_SOCKET, SO_PEEK_OFF, &value, &len) == 0);
    printf("offset %d\n", value);
    get("peek", MSG_PEEK, 20);
    get("at the end", MSG_PEEK, 20);
    get("read", 0, 20);
    CHECK(getsockopt(s[1], SOL_SOCKET, SO_PEEK_OFF, &value, &len) == 0);
    printf("offset %d\n", value);
    value = -1;
    SHOW(setsockopt(s[1], SOL_SOCKET, SO_PEEK_OFF, &value, sizeof value));
    pair(SOCK_DGRAM);
    value = 0;
    SHOW(setsockopt(s[1], SOL_SOCKET, SO_PEEK_OFF, &value, sizeof value));
    CHECK(send(s[0], "abcd", 4, 0) == 4 && send(s[0], "efg", 3, 0) == 3);
    get("peek", MSG_PEEK, 2);
    get("peek on", MSG_PEEK, 8);
    get("the next", MSG_PEEK, 8);
    get("none", MSG_PEEK, 8);
    get("read", 0, 8);
    CHECK(getsockopt(s[1], SOL_SOCKET, SO_PEEK_OFF, &value, &len) == 0);
    printf("offset %d\n", value);
    get("peek", MSG_PEEK, 8);
    return 0;
}
