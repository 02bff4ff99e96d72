// Maps, protections, brk, copy on write, mremap, and what each of them refuses.
#include "check.h"
#include <setjmp.h>
static sigjmp_buf back;
static void handler(int s) { siglongjmp(back, s); }
static const char *probe(volatile char *p, int write) {
    int s = sigsetjmp(back, 1);
    if (s == 0) {
        if (write) *p = *p + 1;
        else (void)*p;
        return "ok";
    }
    return s == SIGSEGV ? "SEGV" : "BUS";
}
int main(void) {
    signal(SIGSEGV, handler);
    signal(SIGBUS, handler);
    const long P = 4096;
    char *m = mmap(NULL, 16 * P, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(m != MAP_FAILED);
    for (int i = 0; i < 16; i++) {
        CHECK(m[i * P] == 0);
        m[i * P] = (char)i;
    }
    CHECK(mprotect(m + P, P, PROT_READ) == 0 && mprotect(m + 2 * P, P, PROT_NONE) == 0 && munmap(m + 3 * P, P) == 0);
    for (int i = 0; i < 5; i++) {
        printf("page %d read %s", i, probe(m + i * P, 0));
        printf(" write %s\n", probe(m + i * P, 1));
    }
    CHECK(mprotect(m + 2 * P, P, PROT_READ) == 0);
    printf("kept %d\n", m[2 * P]);
    SHOW(mprotect(m, 4 * P, PROT_READ));
    SHOW(mprotect(m + 1, P, PROT_READ));
    SHOW(munmap(m + 1, P));
    SHOW(munmap(m, 0));
    SHOW(mmap(NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? -1 : 0);
    SHOW(mmap(NULL, P, PROT_READ, MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? -1 : 0);
    SHOW(mmap(NULL, P, PROT_READ, MAP_PRIVATE, 99, 0) == MAP_FAILED ? -1 : 0);
    SHOW(mmap(m + 8 * P, P, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED ? -1 : 0);
    SHOW(mmap(NULL, 1ul << 50, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? -1 : 0);
    SHOW(msync(m + 8 * P, P, MS_SYNC));
    SHOW(msync(m + 3 * P, P, MS_SYNC));
    SHOW(madvise(m + 8 * P, P, MADV_DONTNEED));
    printf("after DONTNEED %d\n", m[8 * P]);
    // mremap: grow in place or move, keep contents; shrink.
    char *r = mremap(m + 10 * P, 2 * P, 64 * P, MREMAP_MAYMOVE);
    CHECK(r != MAP_FAILED);
    printf("moved %d %d %d\n", r[0], r[P], r[2 * P]);
    CHECK(mremap(r, 64 * P, P, 0) == r);
    printf("shrunk %s %s\n", probe(r, 0), probe(r + P, 0));
    // Executable memory that is written, then run.
    unsigned char *code = mmap(NULL, P, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(code, "\xb8\x2a\x00\x00\x00\xc3", 6);
    CHECK(mprotect(code, P, PROT_READ | PROT_EXEC) == 0);
    printf("code %d\n", ((int (*)(void))code)());
    CHECK(mprotect(code, P, PROT_READ) == 0);
    if (sigsetjmp(back, 1) == 0) ((int (*)(void))code)(), printf("ran\n");
    else printf("not executable\n");
    // brk.
    char *start = sbrk(0);
    CHECK(sbrk(10 * P) == start && sbrk(0) == start + 10 * P);
    memset(start, 7, 10 * P);
    CHECK(sbrk(-5 * P) == start + 10 * P);
    printf("brk %d %s\n", start[4 * P], probe(start + 9 * P, 0));
    CHECK(sbrk(5 * P) != (void *)-1);
    printf("brk again %d\n", start[9 * P]);
    // Copy on write, both ways, through a grandchild.
    char *c = mmap(NULL, 64 * P, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(c, 1, 64 * P);
    char *s = mmap(NULL, P, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        memset(c, 2, 32 * P);
        if (fork() == 0) {
            CHECK(c[0] == 2 && c[40 * P] == 1);
            c[0] = 3;
            s[0] += 1;
            _exit(0);
        }
        wait(NULL);
        CHECK(c[0] == 2);
        s[0] += 10;
        _exit(c[31 * P] * 10 + c[32 * P]);
    }
    c[50 * P] = 9;
    show_wait("child", pid);
    printf("parent sees %d %d, shared %d\n", c[0], c[50 * P], s[0]);
    // MAP_STACK growth and many small maps.
    for (int i = 0; i < 1000; i++) {
        char *x = mmap(NULL, P, i % 2 ? PROT_READ : PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(x != MAP_FAILED);
        if (i % 3 == 0) CHECK(munmap(x, P) == 0);
    }
    char *big = mmap(NULL, 64 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    for (long i = 0; i < 64 << 20; i += 1 << 20) big[i] = 1;
    unsigned char vec[4];
    CHECK(mincore(big, 4 * P, vec) == 0);
    printf("in core %d\n", vec[0] & 1);
    return 0;
}
