// Names and files on the root and on a tmpfs: every call's success and its refusals.
#include "check.h"
#include <dirent.h>
#include <sys/mman.h>
#include <sys/uio.h>
static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }
static void list(const char *path) {
    DIR *d = opendir(path);
    CHECK(d);
    char *names[100];
    int n = 0;
    for (struct dirent *e; (e = readdir(d));) {
        char line[300];
        snprintf(line, sizeof line, "%s:%d", e->d_name, e->d_type);
        names[n++] = strdup(line);
    }
    closedir(d);
    qsort(names, (size_t)n, sizeof *names, by_name);
    printf("%s:", path);
    for (int i = 0; i < n; i++) printf(" %s", names[i]);
    printf("\n");
}
// What a large read leaves in memory that is partly missing, read-only, untouched or shared with a child.
static unsigned long sum(const unsigned char *p, size_t n) {
    unsigned long h = 5381;
    for (size_t i = 0; i < n; i++) h = h * 33 + p[i];
    return h;
}
static void large_reads(void) {
    enum { PAGE = 4096, PAGES = 32, SIZE = 20 * PAGE + 123 };
    static unsigned char content[SIZE];
    for (int i = 0; i < SIZE; i++) content[i] = (unsigned char)(i * 7 + i / 256);
    int fd = open("large", O_RDWR | O_CREAT | O_EXCL, 0600);
    CHECK(fd >= 0 && write(fd, content, SIZE) == SIZE);
    unsigned char *m = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(m != MAP_FAILED);
    for (int touched = 0; touched < 3; touched++) {
        ssize_t n = pread(fd, m + 5, PAGES * PAGE - 5, 77);
        printf("whole %zd %lx\n", n, sum(m, PAGES * PAGE));
    }
    CHECK(mprotect(m + 8 * PAGE, PAGE, PROT_READ) == 0);
    ssize_t n = pread(fd, m + 100, 16 * PAGE, 3 * PAGE + 1);
    printf("read-only page %zd %lx\n", n, sum(m, PAGES * PAGE));
    n = pread(fd, m + 8 * PAGE, 8 * PAGE, 0);
    printf("at its start %zd %d\n", n, n < 0 ? errno : 0);
    CHECK(munmap(m + 8 * PAGE, PAGE) == 0);
    n = pread(fd, m + PAGE, 16 * PAGE, 11);
    printf("missing page %zd %lx\n", n, sum(m, 8 * PAGE));
    struct iovec parts[4] = {{m, 5000}, {m + 6000, 0}, {m + 6001, 1999}, {m + 9 * PAGE + 1, 10 * PAGE}};
    n = preadv(fd, parts, 4, SIZE - 50000);
    printf("pieces %zd %lx %lx\n", n, sum(m, 8 * PAGE), sum(m + 9 * PAGE, 16 * PAGE));
    n = pread(fd, m, 8 * PAGE, SIZE - 10);
    printf("end %zd", n);
    n = pread(fd, m, 8 * PAGE, SIZE);
    printf(" %zd\n", n);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        n = pread(fd, m, 8 * PAGE, 2);
        printf("child %zd %lx\n", n, sum(m, 8 * PAGE));
        fflush(stdout);
        _exit(0);
    }
    CHECK(waitpid(pid, NULL, 0) == pid);
    printf("parent %lx\n", sum(m, 8 * PAGE));
    unsigned char *own = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(own != MAP_FAILED);
    n = pread(fd, own + 3, 3 * PAGE, 8 * PAGE);
    printf("into itself %zd %lx\n", n, sum(own, 4 * PAGE));
    CHECK(munmap(own, 4 * PAGE) == 0);
    CHECK(ftruncate(fd, PAGE + 10) == 0);
    printf("cut %zd", pread(fd, m, 8 * PAGE, 0));
    printf(" %zd\n", pread(fd, m, 100, PAGE));
    close(fd);
    CHECK(unlink("large") == 0);
}
static void on(const char *base) {
    CHECK(chdir(base) == 0);
    SHOW(mkdir("w", 0755));
    SHOW(mkdir("w", 0755));
    CHECK(chdir("w") == 0);
    large_reads();
    int fd = open("f", O_RDWR | O_CREAT | O_EXCL, 0640);
    CHECK(fd >= 0);
    SHOW(open("f", O_RDWR | O_CREAT | O_EXCL, 0640));
    SHOW(open("none", O_RDONLY));
    SHOW(open("f/x", O_RDONLY));
    SHOW(open(".", O_WRONLY));
    SHOW(open("f", O_RDONLY | O_DIRECTORY));
    printf("write %zd\n", write(fd, "hello world", 11));
    struct stat s;
    CHECK(fstat(fd, &s) == 0);
    printf("mode %o size %ld links %d blocks %d\n", s.st_mode, (long)s.st_size, (int)s.st_nlink, s.st_blocks > 0);
    printf("seek %ld", (long)lseek(fd, -5, SEEK_END));
    printf(" %ld", (long)lseek(fd, 2, SEEK_CUR));
    printf(" %ld\n", (long)lseek(fd, 100, SEEK_SET));
    SHOW(lseek(fd, -1, SEEK_SET));
    CHECK(write(fd, "!", 1) == 1);
    char b[200] = {0};
    ssize_t got = pread(fd, b, 200, 0);
    printf("hole %zd %d %c\n", got, b[50], b[100]);
    SHOW(ftruncate(fd, 5));
    memset(b, 0, sizeof b);
    got = pread(fd, b, 200, 0);
    printf("cut %zd %.10s\n", got, b);
    int append = open("f", O_WRONLY | O_APPEND);
    CHECK(write(append, "++", 2) == 2);
    printf("append at %ld\n", (long)lseek(append, 0, SEEK_CUR));
    SHOW(read(append, b, 1));
    close(append);
    SHOW(link("f", "g"));
    SHOW(link("f", "g"));
    SHOW(link(".", "h"));
    SHOW(symlink("f", "s"));
    SHOW(symlink("s2", "s1")); SHOW(symlink("s1", "s2"));
    SHOW(open("s1", O_RDONLY));
    SHOW(open("s", O_RDONLY | O_NOFOLLOW));
    got = readlink("s", b, 200);
    printf("readlink %zd %.1s\n", got, b);
    SHOW(readlink("f", b, 200));
    CHECK(stat("s", &s) == 0);
    printf("links %d\n", (int)s.st_nlink);
    CHECK(mkdir("d", 0700) == 0 && mkdir("d/e", 0700) == 0);
    list(".");
    SHOW(rename("f", "d/f"));
    SHOW(rename("d", "d/e/x"));
    SHOW(rename("g", "d"));
    SHOW(rename("d", "g"));
    SHOW(rename("none", "x"));
    SHOW(rename("g", "d/f"));
    SHOW(syscall(SYS_renameat2, AT_FDCWD, "s", AT_FDCWD, "d/f", 1));
    SHOW(syscall(SYS_renameat2, AT_FDCWD, "s", AT_FDCWD, "d/f", 2));
    SHOW(rmdir("d"));
    SHOW(unlink("d"));
    SHOW(rmdir("s1"));
    SHOW(rmdir("d/e/."));
    SHOW(access("d", R_OK)); SHOW(access("none", F_OK));
    SHOW(chmod("d", 0711)); SHOW(fchmod(fd, 04711)); SHOW(fchown(fd, 3, 4));
    CHECK(fstat(fd, &s) == 0);
    printf("mode %o owner %d %d\n", s.st_mode, s.st_uid, s.st_gid);
    struct timespec times[2] = {{1000, 5}, {2000, 7}};
    SHOW(utimensat(AT_FDCWD, "d", times, 0));
    CHECK(stat("d", &s) == 0);
    printf("times %ld %ld %ld\n", (long)s.st_atime, (long)s.st_mtime, s.st_mtim.tv_nsec);
    list("d");
    // Deleted while open and while listed.
    SHOW(unlink("d/f"));
    SHOW(unlink("s"));
    SHOW(unlink("none"));
    CHECK(fstat(fd, &s) == 0);
    printf("links %d, still %zd\n", (int)s.st_nlink, pread(fd, b, 5, 0));
    close(fd);
    SHOW(close(fd));
    for (int i = 0; i < 300; i++) {
        snprintf(b, sizeof b, "d/%0100d", i);
        CHECK((fd = open(b, O_CREAT | O_WRONLY, 0600)) >= 0);
        close(fd);
    }
    DIR *d = opendir("d");
    int n = 0;
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.' || !strcmp(e->d_name, "e")) continue;
        CHECK(unlinkat(dirfd(d), e->d_name, 0) == 0);
        n++;
    }
    closedir(d);
    printf("unlinked while reading %d\n", n);
    memset(b, 'x', 199), b[199] = 0;
    char longer[300];
    memset(longer, 'y', 299), longer[299] = 0;
    SHOW(mkdir(longer, 0700));
    SHOW(mkdir("", 0700));
    // Descriptors.
    fd = open("/dev/null", O_RDWR);
    int dup1 = fcntl(fd, F_DUPFD_CLOEXEC, 50);
    printf("dup %d cloexec %d %d\n", dup1, fcntl(dup1, F_GETFD), fcntl(fd, F_GETFD));
    SHOW(dup2(fd, 5000));
    SHOW(dup2(99, 98));
    SHOW(fcntl(fd, F_SETFL, O_APPEND | O_NONBLOCK));
    printf("flags %x\n", fcntl(fd, F_GETFL) & (O_APPEND | O_NONBLOCK | O_ACCMODE));
    close(dup1), close(fd);
    struct flock lock = {F_WRLCK, SEEK_SET, 0, 10, 0};
    fd = open("l", O_RDWR | O_CREAT, 0600);
    SHOW(fcntl(fd, F_SETLK, &lock));
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        struct flock mine = {F_WRLCK, SEEK_SET, 5, 1, 0};
        SHOW(fcntl(fd, F_SETLK, &mine));
        CHECK(fcntl(fd, F_GETLK, &mine) == 0);
        printf("held by parent %d from %ld\n", mine.l_pid == getppid(), (long)mine.l_start);
        fflush(stdout);
        _exit(0);
    }
    waitpid(pid, NULL, 0);
    close(fd);
    CHECK(chdir(base) == 0);
    SHOW(unlink("w/l")); SHOW(unlink("w/s1")); SHOW(unlink("w/s2")); SHOW(unlink("w/g")); SHOW(rmdir("w/d/e"));
    SHOW(rmdir("w/d")); SHOW(rmdir("w"));
}
int main(void) {
    umask(022);
    on("/tmp");
    on("/root");
    return 0;
}
