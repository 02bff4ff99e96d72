// Unix sockets: kinds, names, credentials, descriptors, readiness, options, ends and errors.
#include "check.h"
#include <poll.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

static socklen_t name(struct sockaddr_un *a, const char *text) {
    memset(a, 0, sizeof *a);
    a->sun_family = AF_UNIX;
    if (text[0] == '@') {
        memcpy(a->sun_path + 1, text + 1, strlen(text) - 1);
        return offsetof(struct sockaddr_un, sun_path) + strlen(text);
    }
    strcpy(a->sun_path, text);
    return offsetof(struct sockaddr_un, sun_path) + strlen(text) + 1;
}
#define NAMED(call, fd, text)                                                                         \
    ({                                                                                                \
        struct sockaddr_un a_;                                                                        \
        socklen_t l_ = name(&a_, text);                                                               \
        call(fd, (struct sockaddr *)&a_, l_);                                                         \
    })

static void show_name(const char *what, struct sockaddr_un *a, socklen_t len) {
    int n = (int)len - (int)offsetof(struct sockaddr_un, sun_path);
    printf("%s: length %d", what, (int)len);
    if (n > 0 && a->sun_path[0]) printf(" path %s", a->sun_path);
    if (n > 0 && !a->sun_path[0]) printf(" abstract %.*s", n - 1, a->sun_path + 1);
    printf("\n");
}

static int ready(int fd) {
    struct pollfd p = {fd, POLLIN | POLLOUT | POLLRDHUP, 0};
    CHECK(poll(&p, 1, 0) >= 0);
    return p.revents;
}

static int option(int fd, int which) {
    int value = -1;
    socklen_t len = sizeof value;
    CHECK(getsockopt(fd, SOL_SOCKET, which, &value, &len) == 0 && len == sizeof value);
    return value;
}

static void kinds(void) {
    SHOW(socket(AF_UNIX, SOCK_STREAM, 7));
    SHOW(socket(AF_UNIX, 4, 0));
    SHOW(socket(AF_UNIX, 15, 0));
    SHOW(socket(AF_UNIX, SOCK_STREAM | 0x10, 0));
    SHOW(socket(200, SOCK_STREAM, 0));
    SHOW(listen(0, 1));
    SHOW(listen(99, 1));
    int types[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET};
    for (int i = 0; i < 3; i++) {
        int s = socket(AF_UNIX, types[i] | SOCK_CLOEXEC, 0);
        CHECK(s >= 0 && fcntl(s, F_GETFD) == FD_CLOEXEC);
        printf("type %d domain %d protocol %d accepts %d buffer %d\n", option(s, SO_TYPE), option(s, SO_DOMAIN),
               option(s, SO_PROTOCOL), option(s, SO_ACCEPTCONN), option(s, SO_SNDBUF));
        printf("unconnected: %x\n", ready(s));
        char c;
        SHOW(send(s, "x", 1, MSG_NOSIGNAL));
        SHOW(recv(s, &c, 1, MSG_DONTWAIT));
        SHOW(listen(s, 5));
        SHOW(lseek(s, 0, SEEK_SET));
        struct stat st;
        CHECK(fstat(s, &st) == 0);
        printf("mode %o\n", st.st_mode);
        close(s);
    }
}

static void streams(void) {
    int p[2];
    char b[64];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, p) == 0);
    printf("pair: %x\n", ready(p[0]));
    CHECK(write(p[0], "hello", 5) == 5 && write(p[0], " world", 6) == 6);
    int n;
    CHECK(ioctl(p[1], FIONREAD, &n) == 0);
    printf("there are %d\n", n);
    CHECK(recv(p[1], b, 3, MSG_PEEK) == 3 && memcmp(b, "hel", 3) == 0);
    CHECK(read(p[1], b, 64) == 11 && memcmp(b, "hello world", 11) == 0);
    SHOW(recv(p[1], b, 64, MSG_DONTWAIT));
    // A full buffer, and when it is writable again.
    fcntl(p[0], F_SETFL, O_NONBLOCK);
    static char page[4096];
    long sent = 0;
    while ((n = write(p[0], page, sizeof page)) > 0) sent += n;
    printf("full: %s, some 200 KiB %d, %x\n", strerrorname_np(errno), sent > 100000 && sent < 300000, ready(p[0]) & POLLOUT);
    long got = 0;
    while (got < sent) got += read(p[1], page, sizeof page);
    printf("drained: %x\n", ready(p[0]) & POLLOUT);
    fcntl(p[0], F_SETFL, 0);
    // More than fits, to a reader who comes late; MSG_WAITALL gets it whole.
    pid_t pid = fork();
    if (pid == 0) {
        static char big[1000000];
        close(p[1]);
        memset(big, 'b', sizeof big);
        _exit(write(p[0], big, sizeof big) == sizeof big ? 7 : 8);
    }
    static char all[1000000];
    sleep_ms(20);
    CHECK(recv(p[1], all, sizeof all, MSG_WAITALL) == sizeof all && all[999999] == 'b');
    show_wait("writer", pid);
    // Half and whole ends.
    CHECK(shutdown(p[0], SHUT_WR) == 0);
    printf("half: %x %x\n", ready(p[0]), ready(p[1]));
    CHECK(read(p[1], b, 1) == 0);
    signal(SIGPIPE, SIG_IGN);
    SHOW(write(p[0], "x", 1));
    CHECK(write(p[1], "back", 4) == 4 && read(p[0], b, 9) == 4);
    CHECK(write(p[1], "unread", 6) == 6);
    SHOW(shutdown(p[0], 3));
    close(p[0]);
    printf("closed: %x error %d %d\n", ready(p[1]), option(p[1], SO_ERROR), option(p[1], SO_ERROR));
    SHOW(read(p[1], b, 1));
    SHOW(send(p[1], "x", 1, MSG_NOSIGNAL));
    close(p[1]);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, p) == 0);
    CHECK(write(p[1], "unread", 6) == 6);
    close(p[0]);
    SHOW(read(p[1], b, 1));
    SHOW(read(p[1], b, 1));
    close(p[1]);
    signal(SIGPIPE, SIG_DFL);
    pid = fork();
    if (pid == 0) {
        CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, p) == 0);
        close(p[0]);
        send(p[1], "x", 1, MSG_NOSIGNAL);
        printf("no signal\n");
        fflush(stdout);
        send(p[1], "x", 1, 0);
        _exit(0);
    }
    show_wait("broken pipe", pid);
}

static void messages(int type) {
    int p[2];
    char b[64];
    CHECK(socketpair(AF_UNIX, type, 0, p) == 0);
    CHECK(write(p[0], "one", 3) == 3 && write(p[0], "second", 6) == 6 && send(p[0], "", 0, 0) == 0);
    int n;
    CHECK(ioctl(p[1], FIONREAD, &n) == 0);
    printf("first has %d\n", n);
    CHECK(recv(p[1], b, 64, MSG_PEEK) == 3);
    SHOW(recv(p[1], b, 2, MSG_TRUNC) == 3 ? 1 : -1);
    struct iovec v = {b, 4};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
    CHECK(recvmsg(p[1], &m, 0) == 4);
    printf("cut %x\n", m.msg_flags);
    SHOW(recv(p[1], b, 64, 0));
    SHOW(recv(p[1], b, 64, MSG_DONTWAIT));
    static char big[300000];
    SHOW(send(p[0], big, sizeof big, 0));
    SHOW(send(p[0], "xy", 2, 0));
    close(p[0]);
    printf("closed: %x\n", ready(p[1]));
    SHOW(recv(p[1], b, 64, MSG_DONTWAIT));
    SHOW(recv(p[1], b, 64, MSG_DONTWAIT));
    SHOW(send(p[1], "x", 1, MSG_NOSIGNAL));
    SHOW(send(p[1], "x", 1, MSG_NOSIGNAL));
    close(p[1]);
}

static void names(const char *at) {
    struct sockaddr_un a;
    socklen_t len;
    int s = socket(AF_UNIX, SOCK_STREAM, 0), c = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    printf("%s\n", at);
    SHOW(NAMED(connect, c, at));
    SHOW(listen(s, 1));
    SHOW(NAMED(bind, s, at));
    SHOW(NAMED(bind, s, at));
    int t = socket(AF_UNIX, SOCK_STREAM, 0);
    SHOW(NAMED(bind, t, at));
    SHOW(NAMED(connect, c, at));
    SHOW(listen(s, 1));
    printf("listening: %x accepts %d\n", ready(s), option(s, SO_ACCEPTCONN));
    SHOW(NAMED(connect, s, at));
    int d = socket(AF_UNIX, SOCK_DGRAM, 0);
    SHOW(NAMED(connect, d, at));
    SHOW(NAMED(connect, c, at));
    SHOW(NAMED(connect, c, at));
    int more[4];
    for (int i = 0; i < 3; i++) {
        more[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
        SHOW(NAMED(connect, more[i], at));
    }
    printf("waiting: %x\n", ready(s));
    CHECK(write(c, "early", 5) == 5);
    len = sizeof a;
    int x = accept4(s, (struct sockaddr *)&a, &len, SOCK_NONBLOCK);
    CHECK(x >= 0 && fcntl(x, F_GETFL) == (O_RDWR | O_NONBLOCK));
    show_name("whom", &a, len);
    len = sizeof a;
    CHECK(getsockname(x, (struct sockaddr *)&a, &len) == 0);
    show_name("accepted", &a, len);
    len = sizeof a;
    CHECK(getpeername(c, (struct sockaddr *)&a, &len) == 0);
    show_name("peer", &a, len);
    len = sizeof a;
    SHOW(getpeername(s, (struct sockaddr *)&a, &len));
    len = 3;
    CHECK(getsockname(x, (struct sockaddr *)&a, &len) == 0);
    printf("wanted %d\n", (int)len);
    char b[8];
    CHECK(read(x, b, 8) == 5);
    struct ucred u;
    len = sizeof u;
    CHECK(getsockopt(c, SOL_SOCKET, SO_PEERCRED, &u, &len) == 0);
    printf("peer is me %d %d %d\n", u.pid == getpid(), u.uid == geteuid(), u.gid == getegid());
    len = sizeof u;
    CHECK(getsockopt(t, SOL_SOCKET, SO_PEERCRED, &u, &len) == 0);
    printf("nobody is %d %d %d\n", u.pid, (int)u.uid, (int)u.gid);
    close(s);
    // One that was never accepted.
    printf("dropped: %x\n", ready(more[0]));
    SHOW(read(more[0], b, 1));
    SHOW(NAMED(connect, t, at));
    if (at[0] != '@') {
        struct stat st;
        CHECK(stat(at, &st) == 0 && S_ISSOCK(st.st_mode));
        SHOW(open(at, O_RDWR));
        SHOW(NAMED(bind, t, at));
        CHECK(unlink(at) == 0);
    }
    SHOW(NAMED(bind, t, at));
    if (at[0] != '@') unlink(at);
    for (int i = 0; i < 3; i++) close(more[i]);
    close(c), close(x), close(t), close(d);
}

static void datagrams(void) {
    int r = socket(AF_UNIX, SOCK_DGRAM, 0), s = socket(AF_UNIX, SOCK_DGRAM, 0), o = socket(AF_UNIX, SOCK_DGRAM, 0);
    struct sockaddr_un a;
    socklen_t len = name(&a, "@receiver");
    CHECK(bind(r, (struct sockaddr *)&a, len) == 0);
    CHECK(NAMED(bind, s, "@sender") == 0);
    CHECK(sendto(s, "to you", 6, 0, (struct sockaddr *)&a, len) == 6);
    struct sockaddr_un from;
    socklen_t from_len = sizeof from;
    char b[64];
    CHECK(recvfrom(r, b, 64, 0, (struct sockaddr *)&from, &from_len) == 6);
    show_name("from", &from, from_len);
    from_len = sizeof from;
    CHECK(sendto(o, "x", 1, 0, (struct sockaddr *)&a, len) == 1);
    CHECK(recvfrom(r, b, 64, 0, (struct sockaddr *)&from, &from_len) == 1);
    printf("nameless %d\n", (int)from_len);
    // Ten and one fit.
    int n = 0;
    while (sendto(s, "x", 1, MSG_DONTWAIT, (struct sockaddr *)&a, len) == 1) n++;
    printf("%d fit, %s\n", n, strerrorname_np(errno));
    CHECK(NAMED(connect, s, "@receiver") == 0);
    printf("full: %x\n", ready(s));
    pid_t pid = fork();
    if (pid == 0) _exit(send(s, "waits", 5, 0) == 5 ? 5 : 6);
    sleep_ms(30);
    CHECK(recv(r, b, 64, 0) == 1);
    show_wait("blocked sender", pid);
    while (recv(r, b, 64, MSG_DONTWAIT) > 0) {
    }
    printf("empty: %x\n", ready(s));
    // Who is connected takes from nobody else.
    CHECK(NAMED(connect, r, "@sender") == 0);
    SHOW(sendto(o, "x", 1, 0, (struct sockaddr *)&a, len));
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    CHECK(connect(s, &none, sizeof none) == 0);
    printf("error %s\n", strerrorname_np(option(r, SO_ERROR)));
    SHOW(send(s, "x", 1, 0));
    CHECK(NAMED(connect, s, "@receiver") == 0);
    close(r);
    SHOW(send(s, "x", 1, 0));
    SHOW(send(s, "x", 1, 0));
    struct sockaddr_un self = {.sun_family = AF_UNIX};
    CHECK(bind(o, (struct sockaddr *)&self, 2) == 0);
    from_len = sizeof from;
    CHECK(getsockname(o, (struct sockaddr *)&from, &from_len) == 0);
    printf("chosen name: length %d\n", (int)from_len);
    SHOW(bind(s, (struct sockaddr *)&self, 1));
    SHOW(sendto(s, "x", 1, 0, (struct sockaddr *)&self, 2));
    close(s), close(o);
}

static int pass(int s, int count, const int *fds, struct ucred *who) {
    char control[256] = {0};
    struct iovec v = {"f", 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control};
    struct cmsghdr *c = (struct cmsghdr *)control;
    if (count) {
        c->cmsg_level = SOL_SOCKET, c->cmsg_type = SCM_RIGHTS, c->cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(c), fds, count * sizeof(int));
        m.msg_controllen += CMSG_SPACE(count * sizeof(int));
        c = (struct cmsghdr *)(control + m.msg_controllen);
    }
    if (who) {
        c->cmsg_level = SOL_SOCKET, c->cmsg_type = SCM_CREDENTIALS, c->cmsg_len = CMSG_LEN(sizeof *who);
        memcpy(CMSG_DATA(c), who, sizeof *who);
        m.msg_controllen += CMSG_SPACE(sizeof *who);
    }
    return sendmsg(s, &m, 0);
}

static int catch(int s, size_t room, int flags, int *fds) {
    char control[256] = {0}, b[64];
    struct iovec v = {b, 64};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = room};
    int n = recvmsg(s, &m, flags), got = 0;
    printf("got %d flags %x control %d:", n, m.msg_flags & ~MSG_CMSG_CLOEXEC, (int)m.msg_controllen);
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
        if (c->cmsg_type == SCM_RIGHTS) {
            got = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            memcpy(fds, CMSG_DATA(c), got * sizeof(int));
            printf(" %d files", got);
        } else {
            struct ucred u;
            memcpy(&u, CMSG_DATA(c), sizeof u);
            printf(" from %s %d %d", u.pid == getpid() ? "me" : u.pid ? "other" : "0", u.uid, u.gid);
        }
    }
    printf("\n");
    return got;
}

static void controls(int type) {
    int p[2], got[8], on = 1, off = 0;
    char b[8];
    CHECK(socketpair(AF_UNIX, type, 0, p) == 0);
    int pipefd[2];
    CHECK(pipe(pipefd) == 0);
    CHECK(pass(p[0], 2, pipefd, NULL) == 1);
    close(pipefd[0]);
    CHECK(catch(p[1], 200, MSG_CMSG_CLOEXEC, got) == 2 && fcntl(got[0], F_GETFD) == FD_CLOEXEC);
    CHECK(write(pipefd[1], "through", 7) == 7 && read(got[0], b, 8) == 7);
    close(got[0]), close(got[1]);
    // Room for one only, for none, and asked twice.
    int three[] = {0, 1, 2};
    CHECK(pass(p[0], 3, three, NULL) == 1);
    CHECK(catch(p[1], CMSG_LEN(sizeof(int)), 0, got) == 1);
    close(got[0]);
    CHECK(pass(p[0], 3, three, NULL) == 1);
    catch(p[1], 0, 0, got);
    CHECK(pass(p[0], 1, three, NULL) == 1);
    CHECK(catch(p[1], 200, MSG_PEEK, got) == 1);
    close(got[0]);
    CHECK(catch(p[1], 200, 0, got) == 1);
    close(got[0]);
    CHECK(pass(p[0], 1, three, NULL) == 1);
    CHECK(read(p[1], b, 8) == 1);
    int bad = 99;
    SHOW(pass(p[0], 1, &bad, NULL));
    // Bytes with descriptors begin no read of bytes after them.
    CHECK(write(p[0], "before", 6) == 6 && pass(p[0], 1, three, NULL) == 1 && write(p[0], "after", 5) == 5);
    while (catch(p[1], 200, MSG_DONTWAIT, got) > 0) close(got[0]);
    while (recv(p[1], b, 8, MSG_DONTWAIT) > 0) {
    }
    // Credentials.
    CHECK(write(p[0], "x", 1) == 1);
    CHECK(setsockopt(p[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0);
    catch(p[1], 200, 0, got);
    CHECK(write(p[0], "x", 1) == 1);
    catch(p[1], 200, 0, got);
    struct ucred me = {getpid(), getuid(), getgid()}, other = {getpid(), 12345, 54321}, gone = {99999, 0, 0};
    CHECK(pass(p[0], 1, three, &me) == 1);
    CHECK(catch(p[1], 200, 0, got) == 1);
    close(got[0]);
    SHOW(pass(p[0], 0, NULL, &other));
    SHOW(pass(p[0], 0, NULL, &gone));
    while (recv(p[1], b, 8, MSG_DONTWAIT) > 0) {
    }
    CHECK(setsockopt(p[1], SOL_SOCKET, SO_PASSCRED, &off, sizeof off) == 0);
    close(p[0]), close(p[1]), close(pipefd[1]);
}

static volatile int caught;
static void on_signal(int s) { caught = s; }

static void waits(void) {
    int p[2];
    char b[8];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, p) == 0);
    struct sigaction act = {.sa_handler = on_signal};
    sigaction(SIGALRM, &act, NULL);
    struct itimerval t = {.it_value.tv_usec = 30000};
    setitimer(ITIMER_REAL, &t, NULL);
    SHOW(read(p[0], b, 1));
    act.sa_flags = SA_RESTART;
    sigaction(SIGALRM, &act, NULL);
    pid_t pid = fork();
    if (pid == 0) {
        sleep_ms(100);
        _exit(write(p[1], "x", 1) == 1 ? 0 : 1);
    }
    setitimer(ITIMER_REAL, &t, NULL);
    SHOW(read(p[0], b, 1));
    show_wait("late writer", pid);
    struct timeval limit = {0, 20000};
    CHECK(setsockopt(p[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
    double from = now();
    SHOW(read(p[0], b, 1));
    printf("in time %d\n", now() - from >= 0.019 && now() - from < 5);
    limit.tv_usec = 900000;
    CHECK(setsockopt(p[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
    setitimer(ITIMER_REAL, &t, NULL);
    SHOW(read(p[0], b, 1));
    int e = epoll_create1(0);
    struct epoll_event ev = {EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, {.u32 = 5}}, out;
    CHECK(epoll_ctl(e, EPOLL_CTL_ADD, p[0], &ev) == 0);
    CHECK(epoll_wait(e, &out, 1, 0) == 1);
    printf("epoll %x", out.events);
    printf(" then %d", epoll_wait(e, &out, 1, 0));
    CHECK(write(p[1], "x", 1) == 1);
    CHECK(epoll_wait(e, &out, 1, 1000) == 1);
    printf(" data %x", out.events);
    close(p[1]);
    CHECK(epoll_wait(e, &out, 1, 1000) == 1);
    printf(" end %x\n", out.events);
    close(e), close(p[0]);
}

static void options(void) {
    int s = socket(AF_UNIX, SOCK_STREAM, 0), v = 100, on = 1;
    CHECK(setsockopt(s, SOL_SOCKET, SO_SNDBUF, &v, sizeof v) == 0);
    CHECK(setsockopt(s, SOL_SOCKET, SO_RCVBUF, &v, sizeof v) == 0);
    printf("buffers %d %d\n", option(s, SO_SNDBUF), option(s, SO_RCVBUF));
    v = 50000;
    CHECK(setsockopt(s, SOL_SOCKET, SO_SNDBUF, &v, sizeof v) == 0);
    printf("buffer %d\n", option(s, SO_SNDBUF));
    CHECK(setsockopt(s, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on) == 0);
    printf("keepalive %d reuse %d\n", option(s, SO_KEEPALIVE), option(s, SO_REUSEADDR));
    SHOW(setsockopt(s, SOL_SOCKET, SO_TYPE, &v, sizeof v));
    SHOW(setsockopt(s, SOL_SOCKET, 9999, &v, sizeof v));
    SHOW(setsockopt(s, SOL_SOCKET, SO_KEEPALIVE, &v, 2));
    SHOW(setsockopt(s, 6, 1, &v, sizeof v));
    SHOW(shutdown(s, 0));
    struct timeval t = {5, 240000}, back;
    socklen_t len = sizeof back;
    CHECK(setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t) == 0);
    CHECK(getsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &back, &len) == 0);
    printf("timeout %ld.%06ld %d\n", (long)back.tv_sec, (long)back.tv_usec, (int)len);
    close(s);
}

static void many(void) {
    int p[2];
    char b[3][8];
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, p) == 0);
    struct iovec v[3] = {{"a", 1}, {"bb", 2}, {"ccc", 3}};
    struct mmsghdr m[3] = {0};
    for (int i = 0; i < 3; i++) m[i].msg_hdr.msg_iov = &v[i], m[i].msg_hdr.msg_iovlen = 1;
    CHECK(sendmmsg(p[0], m, 3, 0) == 3);
    printf("sent %d %d %d\n", m[0].msg_len, m[1].msg_len, m[2].msg_len);
    for (int i = 0; i < 3; i++) v[i].iov_base = b[i], v[i].iov_len = 8;
    CHECK(recvmmsg(p[1], m, 3, MSG_WAITFORONE, NULL) == 3);
    printf("received %d %d %d\n", m[0].msg_len, m[1].msg_len, m[2].msg_len);
    // A chain of sockets, each under way in the next one, and nobody holds the last.
    int at = p[0];
    for (int i = 0; i < 200; i++) {
        int q[2];
        CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, q) == 0);
        if (pass(q[0], 1, &at, NULL) != 1) {
            close(q[0]), close(q[1]);
            break;
        }
        close(at), close(q[0]);
        at = q[1];
    }
    close(at), close(p[1]);
    printf("chain is gone\n");
}

// Times that come with messages, and the switches that share a state with them.
static void stamps(int type) {
    static const int options[] = {SO_TIMESTAMP, SO_TIMESTAMPNS, SO_TIMESTAMP_NEW, SO_TIMESTAMPNS_NEW};
    for (int o = 0; o < 4; o++) {
        int p[2], on = 1;
        CHECK(socketpair(AF_UNIX, type, 0, p) == 0);
        CHECK(setsockopt(p[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0);
        CHECK(setsockopt(p[1], SOL_SOCKET, options[o], &on, sizeof on) == 0);
        printf("stamps %d, option %d:", type, options[o]);
        for (int i = 0; i < 4; i++) printf(" %d", option(p[1], options[i]));
        time_t before = time(NULL);
        CHECK(write(p[0], "x", 1) == 1);
        char byte, control[200];
        struct iovec v = {&byte, 1};
        struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
        CHECK(recvmsg(p[1], &m, 0) == 1);
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
            long at[2] = {0, 0};
            memcpy(at, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0) < sizeof at ? c->cmsg_len - CMSG_LEN(0) : sizeof at);
            printf(" type %d of %zu%s", c->cmsg_type, (size_t)c->cmsg_len,
                   c->cmsg_type == SCM_CREDENTIALS ? "" : at[0] >= before && at[0] <= time(NULL) + 1 ? " now" : " wrong");
        }
        on = 0;
        CHECK(setsockopt(p[1], SOL_SOCKET, SO_TIMESTAMP, &on, sizeof on) == 0);
        for (int i = 0; i < 4; i++) printf(" %d", option(p[1], options[i]));
        printf("\n");
        close(p[0]);
        close(p[1]);
    }
}

static void rare_options(void) {
    int s = socket(AF_UNIX, SOCK_DGRAM, 0), t = socket(AF_UNIX, SOCK_DGRAM, 0), on = 1, off = 0;
    static const int switches[] = {SO_NO_CHECK, SO_PASSSEC, SO_RXQ_OVFL, SO_WIFI_STATUS, SO_LOCK_FILTER, SO_SELECT_ERR_QUEUE};
    for (int i = 0; i < 6; i++) {
        printf("option %d: %d", switches[i], option(s, switches[i]));
        CHECK(setsockopt(s, SOL_SOCKET, switches[i], &(int){7}, sizeof(int)) == 0);
        printf(" %d\n", option(s, switches[i]));
    }
    SHOW(setsockopt(s, SOL_SOCKET, SO_LOCK_FILTER, &off, sizeof off));
    SHOW(setsockopt(s, SOL_SOCKET, SO_NO_CHECK, &on, 2));
    uint64_t a, b, c;
    socklen_t len = sizeof a;
    CHECK(getsockopt(s, SOL_SOCKET, SO_COOKIE, &a, &len) == 0 && len == 8);
    CHECK(getsockopt(s, SOL_SOCKET, SO_COOKIE, &b, &len) == 0 && a == b);
    CHECK(getsockopt(t, SOL_SOCKET, SO_COOKIE, &c, &len) == 0 && a != c);
    len = 4;
    SHOW(getsockopt(s, SOL_SOCKET, SO_COOKIE, &a, &len));
    SHOW(setsockopt(s, SOL_SOCKET, SO_COOKIE, &a, sizeof a));
    close(s);
    close(t);
}

int main(void) {
    stamps(SOCK_STREAM);
    stamps(SOCK_DGRAM);
    stamps(SOCK_SEQPACKET);
    rare_options();
    kinds();
    streams();
    messages(SOCK_DGRAM);
    messages(SOCK_SEQPACKET);
    names("/tmp/socket");
    names("/root/socket");
    names("@name");
    datagrams();
    controls(SOCK_STREAM);
    controls(SOCK_DGRAM);
    controls(SOCK_SEQPACKET);
    waits();
    options();
    many();
    return 0;
}
