// Private and shared file maps: across fork, with read and write, after truncation, on the root and on a tmpfs.
#include "check.h"
static void on(const char *path) {
    const long P = 4096;
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    CHECK(fd >= 0 && ftruncate(fd, 4 * P) == 0);
    CHECK(pwrite(fd, "file", 4, P) == 4);
    char *s = mmap(NULL, 4 * P, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    char *p = mmap(NULL, 4 * P, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    CHECK(s != MAP_FAILED && p != MAP_FAILED);
    printf("%s: %.4s %.4s\n", path, s + P, p + P);
    memcpy(s + P, "SHAR", 4);
    char buffer[8] = {0};
    CHECK(pread(fd, buffer, 4, P) == 4);
    printf("read after shared write %s, private sees %.4s\n", buffer, p + P);
    memcpy(p + P, "priv", 4);
    CHECK(pwrite(fd, "wrtn", 4, P) == 4);
    printf("shared %.4s private %.4s\n", s + P, p + P);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        memcpy(s, "chld", 4);
        memcpy(p + P, "cprv", 4);
        CHECK(msync(s, 4 * P, MS_SYNC) == 0);
        _exit(0);
    }
    show_wait("child", pid);
    CHECK(pread(fd, buffer, 4, 0) == 4);
    printf("after fork %.4s %.4s %s\n", s, p + P, buffer);
    // The map outlives the descriptor and the name.
    close(fd);
    CHECK(unlink(path) == 0);
    s[2 * P] = 'x';
    printf("unlinked %c %c\n", s[2 * P], p[2 * P] ? p[2 * P] : '0');
    CHECK(munmap(s, 4 * P) == 0 && munmap(p, 4 * P) == 0);
    // A read-only descriptor cannot be mapped shared and writable.
    fd = open(path, O_RDWR | O_CREAT, 0644);
    CHECK(write(fd, "abc", 3) == 3);
    close(fd);
    fd = open(path, O_RDONLY);
    SHOW(mmap(NULL, P, PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED ? -1 : 0);
    char *r = mmap(NULL, P, PROT_READ, MAP_SHARED, fd, 0);
    SHOW(mprotect(r, P, PROT_READ | PROT_WRITE));
    char *w = mmap(NULL, P, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    w[0] = 'Z';
    printf("private over read-only %.3s, file %.3s, past the end %d\n", w, r, r[100]);
    close(fd);
    unlink(path);
}
int main(void) {
    on("/tmp/filemap");
    on("/root/filemap");
    on("/dev/shm/filemap");
    int fd = (int)syscall(SYS_memfd_create, "x", 0);
    CHECK(fd >= 0 && ftruncate(fd, 8192) == 0);
    char *m = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    m[4096] = 'm';
    char c;
    CHECK(pread(fd, &c, 1, 4096) == 1);
    printf("memfd %c\n", c);
    return 0;
}
