// inotify: what is told of a folder and of a file, in which words and order.
#include "check.h"
#include <poll.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>

static const struct {
    unsigned bit;
    const char *name;
} BITS[] = {{IN_ACCESS, "ACCESS"},         {IN_MODIFY, "MODIFY"},           {IN_ATTRIB, "ATTRIB"},
            {IN_CLOSE_WRITE, "CLOSE_WRITE"}, {IN_CLOSE_NOWRITE, "CLOSE_NOWRITE"}, {IN_OPEN, "OPEN"},
            {IN_MOVED_FROM, "MOVED_FROM"}, {IN_MOVED_TO, "MOVED_TO"},       {IN_CREATE, "CREATE"},
            {IN_DELETE, "DELETE"},         {IN_DELETE_SELF, "DELETE_SELF"}, {IN_MOVE_SELF, "MOVE_SELF"},
            {IN_IGNORED, "IGNORED"},       {IN_ISDIR, "ISDIR"},             {IN_Q_OVERFLOW, "OVERFLOW"}};

static void show(const char *what, int fd) {
    _Alignas(8) char buffer[8192];
    printf("%s\n", what);
    unsigned cookie = 0;
    for (;;) {
        long n = read(fd, buffer, sizeof buffer);
        if (n < 0) {
            CHECK(errno == EAGAIN);
            return;
        }
        for (char *at = buffer; at < buffer + n;) {
            struct inotify_event *e = (struct inotify_event *)at;
            printf("  %d", e->wd);
            for (size_t i = 0; i < sizeof BITS / sizeof *BITS; i++)
                if (e->mask & BITS[i].bit) printf(" %s", BITS[i].name);
            if (e->len) printf(" %s (%u)", e->name, e->len);
            if (e->cookie) printf(" cookie %s", e->cookie == cookie ? "same" : "new");
            cookie = e->cookie;
            printf("\n");
            at += sizeof *e + e->len;
        }
    }
}

static void on(const char *dir) {
    char file[64], other[64], sub[64], b[8];
    snprintf(file, sizeof file, "%s/file", dir);
    snprintf(other, sizeof other, "%s/a-longer-name-than-that", dir);
    snprintf(sub, sizeof sub, "%s/sub", dir);
    CHECK(mkdir(dir, 0755) == 0);
    int n = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    CHECK(n >= 0);
    printf("%s: watch %d\n", dir, inotify_add_watch(n, dir, IN_ALL_EVENTS));
    struct pollfd p = {n, POLLIN, 0};
    CHECK(poll(&p, 1, 0) == 0);
    int fd = open(file, O_RDWR | O_CREAT, 0644);
    show("create", n);
    printf("watch %d again %d\n", inotify_add_watch(n, file, IN_ALL_EVENTS), inotify_add_watch(n, file, IN_ALL_EVENTS));
    CHECK(write(fd, "abc", 3) == 3 && write(fd, "def", 3) == 3);
    CHECK(poll(&p, 1, 0) == 1);
    int bytes;
    CHECK(ioctl(n, FIONREAD, &bytes) == 0);
    printf("bytes %d\n", bytes);
    SHOW(read(n, b, 8));
    show("write", n);
    CHECK(pread(fd, b, 2, 0) == 2 && pwrite(fd, "x", 1, 0) == 1);
    show("pread, pwrite", n);
    CHECK(ftruncate(fd, 1) == 0 && fchmod(fd, 0600) == 0 && truncate(file, 0) == 0);
    show("truncate, chmod", n);
    CHECK(utimensat(AT_FDCWD, file, NULL, 0) == 0);
    show("times", n);
    close(fd);
    // Without O_TRUNC: whether MODIFY comes before OPEN or after it differs between versions of Linux.
    close(open(file, O_WRONLY));
    show("close, open for writing", n);
    CHECK(link(file, other) == 0);
    show("link", n);
    CHECK(unlink(other) == 0);
    show("unlink of one", n);
    CHECK(rename(file, other) == 0);
    show("rename", n);
    CHECK(mkdir(sub, 0755) == 0 && symlink("x", file) == 0);
    show("mkdir, symlink", n);
    fd = open(dir, O_RDONLY | O_DIRECTORY);
    CHECK(syscall(SYS_getdents64, fd, (char[1024]){0}, 1024) > 0);
    close(fd);
    show("list", n);
    CHECK(unlink(file) == 0 && rmdir(sub) == 0);
    show("unlink, rmdir", n);
    fd = open(other, O_RDONLY);
    CHECK(unlink(other) == 0);
    show("unlink of an open file", n);
    close(fd);
    show("its close", n);
    SHOW(inotify_rm_watch(n, 2));
    SHOW(inotify_add_watch(n, other, IN_OPEN));
    SHOW(inotify_add_watch(n, dir, 0));
    SHOW(inotify_add_watch(n, "/etc/passwd", IN_OPEN | IN_ONLYDIR));
    SHOW(inotify_add_watch(n, dir, IN_OPEN | IN_MASK_CREATE));
    CHECK(inotify_add_watch(n, dir, IN_CREATE | IN_ONESHOT) == 1);
    close(open(file, O_RDWR | O_CREAT, 0644));
    unlink(file);
    show("once", n);
    CHECK(inotify_add_watch(n, dir, IN_DELETE_SELF) == 3);
    CHECK(rmdir(dir) == 0);
    show("rmdir of the watched", n);
    close(n);
}

int main(void) {
    on("/tmp/watched");
    on("/root/watched");
    SHOW(inotify_init1(1));
    SHOW(inotify_add_watch(0, "/", IN_OPEN));
    SHOW(inotify_rm_watch(99, 1));
    int n = inotify_init();
    CHECK(n >= 0 && inotify_add_watch(n, "/tmp", IN_CREATE) == 1);
    pid_t pid = fork();
    if (pid == 0) {
        sleep_ms(50);
        close(open("/tmp/late", O_CREAT | O_WRONLY, 0600));
        _exit(0);
    }
    char b[64];
    printf("waited for %d\n", (int)read(n, b, 64));
    show_wait("maker", pid);
    unlink("/tmp/late");
    return 0;
}
