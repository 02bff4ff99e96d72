// Another process's memory: process_vm_readv, process_vm_writev, /proc/PID/mem; partial transfers, errors, who may.
#include "check.h"
#include <sys/prctl.h>
#include <sys/uio.h>

static const char constant[64] = "in memory that is read-only";
static char variable[64] = "the child's own";

static ssize_t readv1(pid_t pid, void *to, void *from, size_t len) {
    struct iovec l = {to, len}, r = {from, len};
    return process_vm_readv(pid, &l, 1, &r, 1, 0);
}

static void show(const char *what, ssize_t n) {
    printf("%s: %zd %s\n", what, n, n < 0 ? strerrorname_np(errno) : "");
    fflush(stdout);
}

int main(void) {
    int ready[2], go[2];
    CHECK(pipe(ready) == 0 && pipe(go) == 0);
    // Two pages that can be had, then one that cannot; a page without any right; a shared one; a private one of a file.
    char *area = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *none = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(area != MAP_FAILED && none != MAP_FAILED && shared != MAP_FAILED);
    CHECK(munmap(area + 8192, 4096) == 0);
    memset(area, 'a', 8192);
    strcpy(none, "behind a wall");
    strcpy(shared, "shared");
    pid_t pid = fork();
    if (pid == 0) {
        char c;
        strcpy(variable, "changed in the child");
        memset(area, 'b', 8192);
        CHECK(mprotect(none, 4096, PROT_NONE) == 0);
        CHECK(mprotect(shared, 4096, PROT_READ) == 0);
        CHECK(write(ready[1], "r", 1) == 1);
        CHECK(read(go[0], &c, 1) == 1);
        // What the parent wrote, as the child sees it.
        printf("child: %s, %s, %.4s\n", variable, constant, area + 4094);
        CHECK(mprotect(none, 4096, PROT_READ) == 0);
        printf("child: %s, %s\n", none, shared);
        fflush(stdout);
        CHECK(write(ready[1], "r", 1) == 1);
        CHECK(read(go[0], &c, 1) == 1);
        _exit(0);
    }
    char buf[12288], c;
    CHECK(read(ready[0], &c, 1) == 1);
    show("read", readv1(pid, buf, variable, sizeof variable));
    printf("%s; here %s\n", buf, variable);
    show("past the end", readv1(pid, buf, area + 4096, 8192));
    show("nothing there", readv1(pid, buf, area + 8192, 8));
    show("null", readv1(pid, buf, NULL, 8));
    show("kernel", readv1(pid, buf, (void *)0xffff800000000000, 8));
    show("no right", readv1(pid, buf, none, 8));
    show("nobody", readv1(0x3fffff, buf, variable, 8));
    show("negative", readv1(-1, buf, variable, 8));
    show("nothing", readv1(0x3fffff, buf, variable, 0));
    show("bad local", readv1(pid, area + 8192, variable, 8));
    show("local too short", readv1(pid, area + 8192 - 16, variable, 64));
    // Pieces of different sizes on both sides.
    struct iovec l[3] = {{buf, 5}, {buf + 100, 0}, {buf + 200, 30}};
    struct iovec r[2] = {{variable, 8}, {area + 8190, 20}};
    memset(buf, 0, sizeof buf);
    show("scattered", process_vm_readv(pid, l, 3, r, 2, 0));
    printf("%s|%s\n", buf, buf + 200);
    show("flags", process_vm_readv(pid, l, 3, r, 2, 1));
    show("too many", process_vm_readv(pid, l, 1025, r, 2, 0));
    show("too many", process_vm_readv(pid, l, 3, r, 1025, 0));
    l[0].iov_len = (size_t)-1;
    show("huge", process_vm_readv(pid, l, 3, r, 2, 0));
    l[0].iov_len = 5;
    r[0].iov_len = (size_t)-1;
    show("huge", process_vm_readv(pid, l, 3, r, 2, 0));
    show("bad vector", process_vm_readv(pid, (void *)8, 1, r, 1, 0));
    struct iovec lw = {"written from outside", 21}, rw = {variable, 21};
    show("write", process_vm_writev(pid, &lw, 1, &rw, 1, 0));
    rw.iov_base = (void *)constant;
    show("write to read-only", process_vm_writev(pid, &lw, 1, &rw, 1, 0));
    rw.iov_base = area + 8192 - 4;
    show("write past the end", process_vm_writev(pid, &lw, 1, &rw, 1, 0));
    rw.iov_base = area + 4094;
    rw.iov_len = lw.iov_len = 4;
    show("write across pages", process_vm_writev(pid, &lw, 1, &rw, 1, 0));

    char path[64];
    snprintf(path, sizeof path, "/proc/%d/mem", pid);
    int fd = open(path, O_RDWR);
    CHECK(fd >= 0);
    memset(buf, 0, sizeof buf);
    show("mem: read", pread(fd, buf, 64, (off_t)variable));
    printf("%s\n", buf);
    show("mem: no right", pread(fd, buf, 14, (off_t)none));
    printf("%s\n", buf);
    show("mem: past the end", pread(fd, buf, 8192, (off_t)area + 4096));
    show("mem: nothing there", pread(fd, buf, 8, (off_t)area + 8192));
    show("mem: null", pread(fd, buf, 8, 0));
    show("mem: write to read-only", pwrite(fd, "read-only was it once", 22, (off_t)constant));
    show("mem: write without right", pwrite(fd, "through the wall", 17, (off_t)none));
    show("mem: write shared read-only", pwrite(fd, "no", 3, (off_t)shared));
    show("mem: write nowhere", pwrite(fd, "no", 3, (off_t)area + 8192));
    show("mem: write past the end", pwrite(fd, "12345678", 8, (off_t)area + 8192 - 4));
    show("mem: negative", pread(fd, buf, 8, -8));
    CHECK(lseek(fd, (off_t)variable, SEEK_SET) == (off_t)variable);
    show("mem: seek and read", read(fd, buf, 7));
    CHECK(lseek(fd, 0, SEEK_CUR) == (off_t)variable + 7);
    CHECK(lseek(fd, -7, SEEK_CUR) == (off_t)variable);
    show("mem: seek from the end", lseek(fd, 0, SEEK_END));
    show("mem: seek to the kernel", (long)lseek(fd, (off_t)0xffff800000000000, SEEK_SET) == (long)0xffff800000000000);
    show("mem: read the kernel", read(fd, buf, 8));
    struct stat st;
    CHECK(fstat(fd, &st) == 0);
    printf("mem: mode %o size %ld\n", st.st_mode, (long)st.st_size);
    CHECK(write(go[1], "g", 1) == 1 && read(ready[0], &c, 1) == 1);
    printf("parent still has: %s, %.4s\n", constant, area + 4094);
    fflush(stdout);

    // Somebody else may not, whoever owns the file; nor may the same user a process that is not to be dumped.
    pid_t other = fork();
    if (other == 0) {
        CHECK(setgid(1234) == 0 && setuid(1234) == 0);
        show("other: read", readv1(pid, buf, variable, 8));
        show("other: mem", open(path, O_RDONLY));
        pid_t target = fork();
        if (target == 0) {
            CHECK(prctl(PR_SET_DUMPABLE, 0) == 0 && write(ready[1], "r", 1) == 1);
            pause();
        }
        CHECK(read(ready[0], &c, 1) == 1);
        show("undumpable: read", readv1(target, buf, variable, 8));
        kill(target, SIGKILL);
        show_wait("target", target);
        show("own: read", readv1(getpid(), buf, variable, 8));
        _exit(0);
    }
    show_wait("other", other);
    kill(pid, SIGKILL);
    CHECK(waitpid(pid, NULL, 0) == pid);
    show("dead: read", readv1(pid, buf, variable, 8));
    show("dead: mem", pread(fd, buf, 8, (off_t)variable));
    close(fd);

    // After exec it is another memory.
    pid = fork();
    if (pid == 0) {
        CHECK(read(go[0], &c, 1) == 1);
        execl("/bin/sleep", "sleep", "100", NULL);
        _exit(1);
    }
    snprintf(path, sizeof path, "/proc/%d/mem", pid);
    fd = open(path, O_RDONLY);
    show("before exec", pread(fd, buf, 8, (off_t)variable));
    CHECK(write(go[1], "g", 1) == 1);
    char exe[256] = "";
    char link[64];
    snprintf(link, sizeof link, "/proc/%d/exe", pid);
    do {
        ssize_t n = readlink(link, exe, sizeof exe - 1);
        CHECK(n > 0);
        exe[n] = 0;
        sleep_ms(1);
    } while (strstr(exe, "remote"));
    ssize_t n;
    // The name of the program changes a moment before the memory does, or after it.
    while ((n = pread(fd, buf, 8, (off_t)variable)) > 0) sleep_ms(1);
    show("after exec", n);
    kill(pid, SIGKILL);
    CHECK(waitpid(pid, NULL, 0) == pid);
    return 0;
}
