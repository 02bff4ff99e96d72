// F_NOTIFY: signals for what happens in a directory, by descriptor, once or many times; and hints of how long data lives.
#include "check.h"
#ifndef F_GET_RW_HINT
#define F_GET_RW_HINT 1035
#define F_SET_RW_HINT 1036
#endif
#define F_GET_FILE_RW_HINT_ 1037
static sigset_t set;
// All that has come since, in order.
static void told(const char *what) {
    struct timespec none = {0, 0};
    siginfo_t info;
    printf("%s:", what);
    for (int signal; (signal = sigtimedwait(&set, &info, &none)) > 0;) {
        if (signal == SIGIO) printf(" SIGIO code %d", info.si_code);
        else printf(" fd %d code %d band %lx", info.si_fd, info.si_code, info.si_band);
    }
    puts("");
    fflush(stdout);
}
static void touch(const char *path) {
    int fd = open(path, O_CREAT | O_RDWR, 0644);
    CHECK(fd >= 0 && write(fd, "abc", 3) == 3);
    char b[4];
    CHECK(pread(fd, b, 3, 0) == 3);
    close(fd);
}
static void all(const char *dir, const char *other) {
    char a[80], b[80], c[80], sub[80];
    snprintf(a, sizeof a, "%s/a", dir), snprintf(b, sizeof b, "%s/b", dir), snprintf(c, sizeof c, "%s/c", other);
    snprintf(sub, sizeof sub, "%s/sub", dir);
    touch(a);
    told("made, written and read");
    CHECK(chmod(a, 0600) == 0);
    told("chmod");
    CHECK(rename(a, b) == 0);
    told("renamed within");
    CHECK(rename(b, c) == 0);
    told("renamed away");
    CHECK(rename(c, a) == 0);
    told("renamed back");
    CHECK(truncate(a, 1) == 0);
    told("truncate");
    CHECK(link(a, b) == 0);
    told("link");
    CHECK(unlink(a) == 0 && unlink(b) == 0);
    told("unlink");
    CHECK(mkdir(sub, 0755) == 0);
    told("mkdir");
    CHECK(rmdir(sub) == 0);
    told("rmdir");
    CHECK(chmod(dir, 0755) == 0);
    told("chmod of itself");
}
static void hints(const char *path) {
    int fd = open(path, O_RDONLY), other = open(path, O_RDONLY);
    uint64_t hint = 77;
    SHOW(fcntl(fd, F_GET_RW_HINT, &hint));
    printf("hint %lu\n", hint);
    hint = 5;
    SHOW(fcntl(fd, F_SET_RW_HINT, &hint));
    hint = 6;
    SHOW(fcntl(fd, F_SET_RW_HINT, &hint));
    SHOW(fcntl(fd, F_SET_RW_HINT, (void *)8));
    SHOW(fcntl(fd, F_GET_RW_HINT, (void *)8));
    hint = 77;
    SHOW(fcntl(other, F_GET_RW_HINT, &hint));
    printf("hint %lu\n", hint);
    SHOW(fcntl(fd, F_GET_FILE_RW_HINT_, &hint));
    hint = 0;
    SHOW(fcntl(fd, F_SET_RW_HINT, &hint));
    close(fd), close(other);
}
int main(void) {
    sigemptyset(&set);
    sigaddset(&set, SIGIO), sigaddset(&set, SIGRTMIN), sigaddset(&set, SIGRTMIN + 1);
    CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
    const char *base = "/tmp";
    char dir[64], other[64], file[80];
    snprintf(dir, sizeof dir, "%s/dnotify-dir", base), snprintf(other, sizeof other, "%s/dnotify-other", base);
    snprintf(file, sizeof file, "%s/file", other);
    CHECK(mkdir(dir, 0755) == 0 && mkdir(other, 0755) == 0);
    touch(file);
    const struct {
        const char *name;
        unsigned mask;
    } kinds[] = {{"access", DN_ACCESS}, {"modify", DN_MODIFY}, {"create", DN_CREATE}, {"delete", DN_DELETE}, {"rename", DN_RENAME}, {"attrib", DN_ATTRIB}};
    int fd = open(dir, O_RDONLY), plain = open(file, O_RDONLY), path = open(dir, O_PATH);
    SHOW(fcntl(plain, F_NOTIFY, DN_CREATE));
    SHOW(fcntl(plain, F_NOTIFY, 0));
    SHOW(fcntl(path, F_NOTIFY, DN_CREATE));
    SHOW(fcntl(fd, F_NOTIFY, 0));
    SHOW(fcntl(fd, F_NOTIFY, DN_MULTISHOT));
    close(path), close(plain);
    // Each kind alone, many times, with a signal that says which directory.
    CHECK(fcntl(fd, F_SETSIG, SIGRTMIN) == 0);
    for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        printf("-- %s\n", kinds[i].name);
        SHOW(fcntl(fd, F_NOTIFY, kinds[i].mask | DN_MULTISHOT));
        printf("owner %s\n", fcntl(fd, F_GETOWN) == getpid() ? "is this process" : "is not");
        all(dir, other);
        CHECK(fcntl(fd, F_NOTIFY, 0) == 0);
        all(dir, other);
    }
    // Once, and together with another kind that comes later.
    puts("-- once");
    CHECK(fcntl(fd, F_NOTIFY, DN_CREATE) == 0);
    all(dir, other);
    CHECK(fcntl(fd, F_NOTIFY, DN_CREATE) == 0 && fcntl(fd, F_NOTIFY, DN_DELETE | DN_MULTISHOT) == 0);
    all(dir, other);
    CHECK(fcntl(fd, F_NOTIFY, 0) == 0);
    // SIGIO without information, two descriptors, and what is left of them when one is closed.
    puts("-- two");
    CHECK(fcntl(fd, F_SETSIG, 0) == 0);
    int second = open(dir, O_RDONLY), copy = dup(second);
    CHECK(second >= 0 && copy >= 0 && fcntl(second, F_SETSIG, SIGRTMIN + 1) == 0);
    CHECK(fcntl(fd, F_NOTIFY, DN_CREATE | DN_MULTISHOT) == 0);
    CHECK(fcntl(second, F_NOTIFY, DN_CREATE | DN_MULTISHOT) == 0);
    CHECK(fcntl(copy, F_NOTIFY, DN_DELETE | DN_MULTISHOT) == 0);
    all(dir, other);
    close(copy);
    all(dir, other);
    // A child that closes it takes nothing away; one that asks itself has its own.
    CHECK(fcntl(second, F_NOTIFY, DN_CREATE | DN_MULTISHOT) == 0);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        CHECK(fcntl(second, F_NOTIFY, DN_DELETE | DN_MULTISHOT) == 0);
        close(second), close(fd);
        _exit(0);
    }
    show_wait("child", pid);
    all(dir, other);
    close(fd);
    touch("/tmp/dnotify-dir/x");
    told("after one is closed");
    close(second);
    CHECK(unlink("/tmp/dnotify-dir/x") == 0);
    told("after both are closed");
    puts("-- hints");
    hints(file);
    hints(dir);
    CHECK(unlink(file) == 0 && rmdir(dir) == 0 && rmdir(other) == 0);
    return 0;
}
