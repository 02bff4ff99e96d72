// prctl(PR_SET_MM): each field, all of them at once, the auxiliary vector and the program's file; who may.
#include "family.h"
#include <linux/prctl.h>
#include <sys/auxv.h>
#include <sys/resource.h>
static struct prctl_mm_map now_is(void) {
    FILE *f = fopen("/proc/self/stat", "r");
    CHECK(f);
    char text[2048];
    CHECK(fgets(text, sizeof text, f));
    fclose(f);
    unsigned long v[64] = {0};
    char *at = strrchr(text, ')') + 2;
    at++;
    for (int n = 4; n < 53; n++) v[n] = strtoul(at, &at, 10);
    struct prctl_mm_map m = {.start_code = v[26], .end_code = v[27], .start_stack = v[28], .start_data = v[45], .end_data = v[46],
                             .start_brk = v[47], .brk = (uintptr_t)sbrk(0), .arg_start = v[48], .arg_end = v[49],
                             .env_start = v[50], .env_end = v[51], .exe_fd = -1};
    return m;
}
static int set(int what, uint64_t addr) { return prctl(PR_SET_MM, what, addr, 0, 0); }
static void cmdline(void) {
    char text[64] = "";
    int fd = open("/proc/self/cmdline", O_RDONLY);
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    printf("cmdline %zd [%s]\n", n, text);
}
static void all(const char *label, struct prctl_mm_map m) {
    errno = 0;
    int r = prctl(PR_SET_MM, PR_SET_MM_MAP, &m, sizeof m, 0);
    printf("%s: %d %s\n", label, r, r ? strerrorname_np(errno) : "");
}
static void shown(const char *label, const char *file) {
    static char text[20000];
    int fd = open(file, O_RDONLY);
    ssize_t n = read(fd, text, sizeof text);
    close(fd);
    unsigned sum = 0;
    for (ssize_t i = 0; i < n; i++) sum = sum * 31 + (unsigned char)text[i];
    printf("  %s, %s: %zd %u [%.*s]\n", label, file + 11, n, sum, n < 60 ? (int)n : 0, text);
}
// Where arguments and environment may lie, and what is shown of them then.
static void places(struct prctl_mm_map was) {
    char *anon = mmap(NULL, 5 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int fd = open("/tmp/words", O_CREAT | O_RDWR, 0644);
    CHECK(fd >= 0 && ftruncate(fd, 4096) == 0);
    char *file = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    CHECK(anon != MAP_FAILED && shared != MAP_FAILED && file != MAP_FAILED);
    static const char words[] = "one\0two\0three";
    for (int i = 0; i < 3; i++) memcpy(i == 0 ? anon : i == 1 ? shared : file, words, sizeof words);
    struct {
        const char *label;
        char *start, *end, *env, *env_end;
    } cases[] = {
        {"anonymous", anon, anon + sizeof words, anon + 100, anon + 120},
        {"shared", shared, shared + sizeof words, shared, shared + 8},
        {"of a file", file, file + sizeof words, file, file + 8},
        {"empty", anon, anon, anon, anon},
        {"a title", anon, anon + 3, anon + 3, anon + 3},
        {"a title that goes on", anon, anon + 2, anon + 2, anon + 100},
        {"a title that goes on a little", anon, anon + 2, anon + 2, anon + 3},
        {"a title with the environment elsewhere", anon, anon + 2, anon + 3, anon + 100},
        {"a title of many words", anon, anon + sizeof words - 1, anon + sizeof words - 1, anon + 100},
        {"long", anon, anon + 3 * 4096, anon, anon + 3 * 4096},
        {"into what is gone", anon + 3 * 4096 - 10, anon + 3 * 4096 + 10, anon + 3 * 4096 - 10, anon + 3 * 4096 + 10},
        {"what is gone", anon + 3 * 4096, anon + 3 * 4096 + 10, anon + 3 * 4096, anon + 3 * 4096 + 10},
        {"into what cannot be read", anon + 3 * 4096 + 4090, anon + 4 * 4096 + 10, anon + 4 * 4096, anon + 4 * 4096 + 10},
        {"a long title", anon + 4000, anon + 4010, anon + 4010, anon + 3 * 4096},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct prctl_mm_map m = was;
        m.arg_start = (uintptr_t)cases[i].start, m.arg_end = (uintptr_t)cases[i].end;
        m.env_start = (uintptr_t)cases[i].env, m.env_end = (uintptr_t)cases[i].env_end;
        if (i == 9) {
            for (int n = 0; n < 3 * 4096; n++) anon[n] = n % 100 == 99 ? 0 : 'a' + n % 26;
            anon[3 * 4096 - 1] = 0;
        }
        all(cases[i].label, m);
        if (i == 10) CHECK(mprotect(anon + 4 * 4096, 4096, PROT_NONE) == 0);
        if (i == 10) CHECK(munmap(anon + 3 * 4096, 4096) == 0);
        if (i == 12) CHECK(mmap(anon + 3 * 4096, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
        if (i == 13) memset(anon, 'x', 3 * 4096);
        shown(cases[i].label, "/proc/self/cmdline");
        shown(cases[i].label, "/proc/self/environ");
    }
    all("as it was", was);
}
int main(void) {
    static char data[64];
    // Linux shows no arguments that lie in a file's pages.
    char *name = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(name != MAP_FAILED);
    strcpy(name, "another name");
    unsigned size = 0;
    struct prctl_mm_map was = now_is(), m;
    SHOW(prctl(PR_SET_MM, PR_SET_MM_MAP_SIZE, &size, 0, 0));
    printf("%u\n", size);
    SHOW(prctl(PR_SET_MM, PR_SET_MM_MAP_SIZE, 0, 0, 0));
    SHOW(prctl(PR_SET_MM, PR_SET_MM_MAP, &was, 103, 0));
    SHOW(prctl(PR_SET_MM, PR_SET_MM_MAP, 8, sizeof was, 0));
    SHOW(prctl(PR_SET_MM, PR_SET_MM_BRK, data, 1, 0));
    SHOW(prctl(PR_SET_MM, PR_SET_MM_BRK, data, 0, 1));
    SHOW(prctl(PR_SET_MM, 0, data, 0, 0));
    SHOW(prctl(PR_SET_MM, 16, data, 0, 0));
    all("as it is", was);
    places(was);
    m = was, m.arg_start = (uintptr_t)name, m.arg_end = (uintptr_t)name + 13;
    all("arguments", m);
    cmdline();
    m.arg_end = m.arg_start - 1;
    all("arguments backwards", m);
    m = was, m.start_code = m.end_code;
    all("no code", m);
    m = was, m.start_brk = m.brk + 1;
    all("heap backwards", m);
    m = was, m.env_start = 4096;
    all("low", m);
    m = was, m.env_end = -1;
    all("high", m);
    m = was, m.auxv_size = 16;
    all("auxv of nothing", m);
    m.auxv = (void *)data, m.auxv_size = 4096;
    all("auxv that is long", m);
    m.auxv_size = 16;
    unsigned long pair[2] = {4242, 17};
    memcpy(data, pair, sizeof pair);
    all("auxv", m);
    int fd = open("/proc/self/auxv", O_RDONLY);
    unsigned long read_back[4] = {1, 1, 1, 1};
    CHECK(read(fd, read_back, sizeof read_back) == sizeof read_back);
    printf("%lu %lu %lu\n", read_back[0], read_back[1], read_back[2]);
    pair[0] = 77;
    SHOW(prctl(PR_SET_MM, PR_SET_MM_AUXV, pair, sizeof pair, 0));
    SHOW(prctl(PR_SET_MM, PR_SET_MM_AUXV, pair, 4096, 0));
    SHOW(prctl(PR_SET_MM, PR_SET_MM_AUXV, 8, 16, 0));
    CHECK(lseek(fd, 0, SEEK_SET) == 0 && read(fd, read_back, 16) == 16);
    printf("%lu %lu\n", read_back[0], read_back[1]);
    for (int what = 1; what <= 11; what++) {
        printf("field %d: %d", what, set(what, 4096));
        printf(" %d", set(what, -4096ul));
        uint64_t values[] = {was.start_code, was.end_code, was.start_data, was.end_data, was.start_stack, was.start_brk, was.brk,
                             (uintptr_t)name, (uintptr_t)name + 13, was.env_start, was.env_end};
        printf(" %d\n", what == PR_SET_MM_ARG_START ? 0 : set(what, values[what - 1]));
    }
    SHOW(set(PR_SET_MM_ARG_START, (uintptr_t)name));
    SHOW(set(PR_SET_MM_ARG_END, (uintptr_t)name + 4));
    cmdline();
    m = now_is();
    printf("stat %d %d\n", m.arg_start == (uintptr_t)name, m.arg_end == (uintptr_t)name + 4);
    SHOW(set(PR_SET_MM_START_CODE, was.end_code));
    SHOW(set(PR_SET_MM_END_DATA, was.start_data - 1));
    SHOW(set(PR_SET_MM_BRK, was.start_brk - 1));
    SHOW(set(PR_SET_MM_ENV_START, was.env_end + 1));
    struct rlimit limit = {4096, RLIM_INFINITY}, old;
    CHECK(getrlimit(RLIMIT_DATA, &old) == 0 && setrlimit(RLIMIT_DATA, &limit) == 0);
    SHOW(set(PR_SET_MM_BRK, was.brk + (1 << 20)));
    CHECK(setrlimit(RLIMIT_DATA, &old) == 0);
    int exe = open("/proc/self/exe", O_RDONLY), dir = open("/", O_RDONLY), plain = open("/tmp/plain", O_CREAT | O_RDWR, 0644);
    SHOW(prctl(PR_SET_MM, PR_SET_MM_EXE_FILE, 999, 0, 0));
    SHOW(prctl(PR_SET_MM, PR_SET_MM_EXE_FILE, dir, 0, 0));
    SHOW(prctl(PR_SET_MM, PR_SET_MM_EXE_FILE, plain, 0, 0));
    SHOW(prctl(PR_SET_MM, PR_SET_MM_EXE_FILE, exe, 0, 0));
    m = was, m.exe_fd = 999;
    all("no file", m);
    pid_t pid = born(0);
    if (pid == 0) {
        become(1000);
        SHOW(set(PR_SET_MM_ARG_START, (uintptr_t)name));
        SHOW(set(99, 0));
        SHOW(prctl(PR_SET_MM, PR_SET_MM_AUXV, pair, sizeof pair, 0));
        SHOW(prctl(PR_SET_MM, PR_SET_MM_EXE_FILE, exe, 0, 0));
        all("as another", was);
        m.exe_fd = exe;
        all("with a file", m);
        finish(0);
    }
    show_wait("another", pid);
    SHOW(prctl(PR_GET_SPECULATION_CTRL, 99, 0, 0, 0));
    SHOW(prctl(PR_GET_SPECULATION_CTRL, 0, 1, 0, 0));
    SHOW(prctl(PR_SET_SPECULATION_CTRL, 99, 2, 0, 0));
    SHOW(prctl(PR_SET_SPECULATION_CTRL, 0, 2, 1, 0));
    return 0;
}
