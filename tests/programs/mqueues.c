// POSIX message queues: attributes, priorities, waiting, limits, notification, and their file system.
#include "check.h"
#include <dirent.h>
#include <grp.h>
#include <mqueue.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/vfs.h>
static char buf[20000];
static void show_attr(const char *what, mqd_t q) {
    struct mq_attr a;
    CHECK(mq_getattr(q, &a) == 0);
    printf("%s: flags %lx, %ld of %ld messages of %ld\n", what, a.mq_flags, a.mq_curmsgs, a.mq_maxmsg, a.mq_msgsize);
    fflush(stdout);
}
static void get(const char *what, mqd_t q) {
    unsigned priority = 99;
    memset(buf, 0, sizeof buf);
    ssize_t n = mq_receive(q, buf, sizeof buf, &priority);
    if (n < 0) printf("%s: %s\n", what, strerrorname_np(errno));
    else printf("%s: %zd bytes, priority %u, %s\n", what, n, priority, buf);
    fflush(stdout);
}
static void show_file(const char *path) {
    // By a child: who is registered and closes any descriptor of the queue is so no more.
    char text[128];
    fflush(stdout);
    pid_t child = fork();
    if (child != 0) {
        CHECK(waitpid(child, NULL, 0) == child);
        return;
    }
    int fd = open(path, O_RDONLY);
    CHECK(fd >= 0);
    ssize_t n = read(fd, text, sizeof text - 1);
    CHECK(n > 0);
    text[n] = 0;
    char *pid = strstr(text, "NOTIFY_PID:");
    CHECK(pid);
    int owner = atoi(pid + 11);
    *pid = 0;
    printf("file: %spid %s, %zd bytes\n", text, owner == getppid() ? "own" : owner ? "other" : "0", n);
    fflush(stdout);
    _exit(0);
}
static int ready(mqd_t q) {
    struct pollfd p = {q, POLLIN | POLLOUT, 0};
    CHECK(poll(&p, 1, 0) >= 0);
    return p.revents;
}
static struct timespec soon(long ms) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_nsec += ms * 1000000;
    t.tv_sec += t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    return t;
}
static void nothing(int signal) { (void)signal; }
int main(void) {
    mq_unlink("/ringwall");
    struct mq_attr a = {.mq_maxmsg = 4, .mq_msgsize = 100};
    SHOW(mq_open("/ringwall", O_RDWR));
    SHOW(mq_open("/ring/wall", O_RDWR | O_CREAT, 0600, NULL));
    SHOW(syscall(SYS_mq_open, "", O_RDWR | O_CREAT, 0600, NULL));
    SHOW(syscall(SYS_mq_open, "/x", O_RDWR | O_CREAT, 0600, NULL));
    SHOW(syscall(SYS_mq_open, "..", O_RDWR | O_CREAT, 0600, NULL));
    SHOW(syscall(SYS_mq_open, 8, O_RDWR | O_CREAT, 0600, NULL));
    SHOW(syscall(SYS_mq_open, "x", O_RDWR | O_CREAT, 0600, 8));
    char longest[300];
    memset(longest, 'x', sizeof longest);
    longest[256] = 0;
    SHOW(syscall(SYS_mq_open, longest, O_RDWR | O_CREAT, 0600, NULL));
    struct mq_attr bad[] = {{.mq_maxmsg = 0, .mq_msgsize = 1}, {.mq_maxmsg = 1, .mq_msgsize = 0},
                            {.mq_maxmsg = -1, .mq_msgsize = 1}, {.mq_maxmsg = 65537, .mq_msgsize = 1},
                            {.mq_maxmsg = 1, .mq_msgsize = (16 << 20) + 1}};
    for (int i = 0; i < 5; i++) SHOW(mq_open("/ringwall", O_RDWR | O_CREAT, 0600, &bad[i]));
    umask(022);
    mqd_t q = mq_open("/ringwall", O_RDWR | O_CREAT, 0666, &a);
    CHECK(q >= 0);
    SHOW(mq_open("/ringwall", O_RDWR | O_CREAT | O_EXCL, 0600, &a));
    printf("cloexec %d, flags %o\n", fcntl(q, F_GETFD), fcntl(q, F_GETFL) & ~O_LARGEFILE);
    struct stat st;
    CHECK(fstat(q, &st) == 0);
    printf("mode %o size %ld links %ld\n", st.st_mode, (long)st.st_size, (long)st.st_nlink);
    show_attr("new", q);
    printf("ready %x\n", ready(q));
    // Priorities.
    SHOW(mq_send(q, "low", 4, 1));
    SHOW(mq_send(q, "high", 5, 32767));
    SHOW(mq_send(q, "low too", 8, 1));
    SHOW(mq_send(q, "", 0, 0));
    printf("ready %x\n", ready(q));
    SHOW(mq_send(q, "x", 1, 32768));
    SHOW(mq_send(q, buf, 101, 0));
    SHOW(mq_receive(q, buf, 99, NULL));
    show_attr("full", q);
    show_file("/dev/mqueue/ringwall");
    struct timespec t = soon(30), wrong = {0, -1};
    SHOW(mq_timedsend(q, "x", 1, 0, &t));
    SHOW(mq_timedsend(q, "x", 1, 0, &wrong));
    struct mq_attr nonblock = {.mq_flags = O_NONBLOCK}, old;
    SHOW(mq_setattr(q, &nonblock, &old));
    printf("was %lx now %o\n", old.mq_flags, fcntl(q, F_GETFL) & ~O_LARGEFILE);
    SHOW(mq_send(q, "x", 1, 0));
    for (int i = 0; i < 5; i++) get("get", q);
    nonblock.mq_flags = O_APPEND;
    SHOW(mq_setattr(q, &nonblock, NULL));
    nonblock.mq_flags = 0;
    SHOW(mq_setattr(q, &nonblock, NULL));
    t = soon(30);
    SHOW(mq_timedreceive(q, buf, 100, NULL, &t));
    // Other descriptors.
    SHOW(mq_send(0, "x", 1, 0));
    SHOW(mq_send(-1, "x", 1, 0));
    mqd_t reader = mq_open("/ringwall", O_RDONLY), writer = mq_open("/ringwall", O_WRONLY);
    CHECK(reader >= 0 && writer >= 0);
    SHOW(mq_send(reader, "x", 1, 0));
    SHOW(mq_receive(writer, buf, 100, NULL));
    SHOW(write(writer, "x", 1));
    SHOW(syscall(SYS_mq_timedsend, q, 8, 5, 0, NULL));
    SHOW(syscall(SYS_mq_getsetattr, q, 8, NULL));
    CHECK(mq_send(q, "gone", 5, 3) == 0);
    SHOW(syscall(SYS_mq_timedreceive, q, 8, 100, NULL, NULL));
    show_attr("lost", q);
    // Waiting on both sides.
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        for (int i = 0; i < 300; i++) CHECK(mq_send(writer, (char *)&i, sizeof i, 5) == 0);
        _exit(0);
    }
    for (int i = 0, n; i < 300; i++) CHECK(mq_receive(reader, (char *)&n, 100, NULL) == sizeof n && n == i);
    show_wait("stream", pid);
    struct sigaction sa = {.sa_handler = nothing};
    sigaction(SIGALRM, &sa, NULL);
    struct itimerval every = {{0, 20000}, {0, 20000}}, never = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &every, NULL);
    get("interrupted", q);
    setitimer(ITIMER_REAL, &never, NULL);
    // Notification.
    sigset_t usr;
    sigemptyset(&usr);
    sigaddset(&usr, SIGUSR1);
    CHECK(sigprocmask(SIG_BLOCK, &usr, NULL) == 0);
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 42};
    SHOW(mq_notify(q, &event));
    SHOW(mq_notify(q, &event));
    show_file("/dev/mqueue/ringwall");
    CHECK(mq_send(q, "first", 6, 0) == 0);
    siginfo_t info;
    CHECK(sigwaitinfo(&usr, &info) == SIGUSR1);
    printf("told: code %d value %d pid %d uid %d\n", info.si_code, info.si_value.sival_int, info.si_pid == getpid(),
           info.si_uid);
    show_file("/dev/mqueue/ringwall");
    // Only the empty queue's first message counts, and once.
    SHOW(mq_notify(q, &event));
    CHECK(mq_send(q, "second", 7, 0) == 0);
    struct timespec zero = {0, 0};
    SHOW(sigtimedwait(&usr, &info, &zero));
    get("get", q);
    get("get", q);
    SHOW(mq_notify(q, NULL));
    CHECK(mq_send(q, "third", 6, 0) == 0);
    SHOW(sigtimedwait(&usr, &info, &zero));
    get("get", q);
    event.sigev_notify = SIGEV_NONE;
    SHOW(mq_notify(q, &event));
    show_file("/dev/mqueue/ringwall");
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        SHOW(mq_notify(q, &event));
        SHOW(mq_notify(q, NULL));
        _exit(0);
    }
    show_wait("other", pid);
    show_file("/dev/mqueue/ringwall");
    SHOW(mq_close(dup(q)));
    SHOW(mq_notify(q, &event));
    SHOW(mq_notify(q, NULL));
    event.sigev_notify = 77;
    SHOW(mq_notify(q, &event));
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = 65;
    SHOW(mq_notify(q, &event));
    SHOW(mq_notify(0, NULL));
    fflush(stdout);
    // The registration of a process goes with it.
    pid = fork();
    if (pid == 0) {
        event.sigev_signo = SIGUSR1;
        CHECK(mq_notify(q, &event) == 0);
        _exit(0);
    }
    show_wait("registered", pid);
    show_file("/dev/mqueue/ringwall");
    // The file system.
    struct statfs fs;
    CHECK(statfs("/dev/mqueue", &fs) == 0);
    printf("magic %lx, names %ld\n", (long)fs.f_type, (long)fs.f_namelen);
    CHECK(stat("/dev/mqueue", &st) == 0);
    printf("directory %o\n", st.st_mode);
    int fd = open("/dev/mqueue/made", O_RDWR | O_CREAT, 0640);
    CHECK(fd >= 0);
    show_attr("made", fd);
    SHOW(mkdir("/dev/mqueue/folder", 0700));
    SHOW(rename("/dev/mqueue/made", "/dev/mqueue/other"));
    DIR *d = opendir("/dev/mqueue");
    int found = 0;
    for (struct dirent *e; (e = readdir(d));) found += !strcmp(e->d_name, "made") + !strcmp(e->d_name, "ringwall");
    closedir(d);
    printf("found %d\n", found);
    mqd_t again = mq_open("/made", O_RDWR | O_CREAT, 0600, &a);
    show_attr("again", again);
    CHECK(mq_send(again, "through", 8, 7) == 0);
    get("through", fd);
    mq_close(again);
    SHOW(unlink("/dev/mqueue/made"));
    SHOW(mq_unlink("/made"));
    SHOW(access("/dev/mqueue/made", F_OK));
    CHECK(mq_send(fd, "still", 6, 0) == 0);
    get("still", fd);
    close(fd);
    // Permissions and limits.
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        CHECK(setgroups(0, NULL) == 0 && setgid(77) == 0 && setuid(77) == 0);
        SHOW(mq_open("/ringwall", O_RDWR));
        SHOW(mq_open("/ringwall", O_RDONLY));
        SHOW(mq_unlink("/ringwall"));
        a.mq_maxmsg = 11;
        SHOW(mq_open("/others", O_RDWR | O_CREAT, 0600, &a));
        a.mq_maxmsg = 10;
        a.mq_msgsize = 8193;
        SHOW(mq_open("/others", O_RDWR | O_CREAT, 0600, &a));
        a.mq_msgsize = 100;
        // 10 messages of 100 bytes and what they cost, exactly.
        struct rlimit limit = {1959, 1960};
        CHECK(setrlimit(RLIMIT_MSGQUEUE, &limit) == 0);
        SHOW(mq_open("/others", O_RDWR | O_CREAT, 0600, &a));
        limit.rlim_cur = 1960;
        CHECK(setrlimit(RLIMIT_MSGQUEUE, &limit) == 0);
        mqd_t one = mq_open("/others", O_RDWR | O_CREAT, 0600, &a);
        CHECK(one >= 0);
        SHOW(mq_open("/more", O_RDWR | O_CREAT, 0600, &a));
        SHOW(mq_unlink("/others"));
        SHOW(mq_open("/more", O_RDWR | O_CREAT, 0600, &a));
        CHECK(mq_close(one) == 0);
        SHOW(mq_open("/more", O_RDWR | O_CREAT, 0600, &a));
        SHOW(mq_unlink("/more"));
        _exit(0);
    }
    show_wait("others", pid);
    const char *limits[] = {"msg_default", "msg_max", "msgsize_default", "msgsize_max", "queues_max"};
    for (int i = 0; i < 5; i++) {
        char path[64], text[32];
        snprintf(path, sizeof path, "/proc/sys/fs/mqueue/%s", limits[i]);
        FILE *f = fopen(path, "r");
        CHECK(f && fgets(text, sizeof text, f));
        fclose(f);
        printf("%s %s", limits[i], text);
    }
    SHOW(mq_unlink("/ringwall"));
    CHECK(fstat(q, &st) == 0);
    printf("links %ld\n", (long)st.st_nlink);
    return 0;
}
