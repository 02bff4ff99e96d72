// Memory policies on a machine with one node, names of areas, remap_file_pages, process_madvise, process_mrelease, and
// the rarer options of prctl.
#include "check.h"
#include <linux/mempolicy.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/utsname.h>

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif

#define set_mempolicy(mode, mask, max) syscall(SYS_set_mempolicy, mode, mask, max)
#define get_mempolicy(mode, mask, max, addr, flags) syscall(SYS_get_mempolicy, mode, mask, max, addr, flags)
#define mbind(addr, len, mode, mask, max, flags) syscall(SYS_mbind, addr, len, mode, mask, max, flags)

static unsigned long mask[1024];

static void show_policy(const char *what, void *addr, int flags) {
    int mode = -1;
    unsigned long nodes[16];
    memset(nodes, 0xff, sizeof nodes);
    errno = 0;
    long r = get_mempolicy(&mode, nodes, 1024 + 1, addr, flags);
    printf("%s: %ld %s mode %d nodes %lx %lx\n", what, r, r ? strerrorname_np(errno) : "", r ? 0 : mode, r ? 0 : nodes[0],
           r ? 0 : nodes[1]);
}

static void own_policies(void) {
    unsigned long one = 1, two = 2, both = 3, none = 0;
    show_policy("at first", 0, 0);
    SHOW(set_mempolicy(MPOL_BIND, &one, 64));
    show_policy("bind", 0, 0);
    SHOW(set_mempolicy(MPOL_BIND, &both, 64));
    show_policy("bind to more", 0, 0);
    SHOW(set_mempolicy(MPOL_BIND, &two, 64));
    SHOW(set_mempolicy(MPOL_BIND, &none, 64));
    SHOW(set_mempolicy(MPOL_BIND, 0, 0));
    SHOW(set_mempolicy(MPOL_BIND, &one, 0));
    SHOW(set_mempolicy(MPOL_BIND, &one, 1));
    SHOW(set_mempolicy(MPOL_BIND, &one, 2));
    SHOW(set_mempolicy(MPOL_BIND, (void *)8, 64));
    SHOW(set_mempolicy(MPOL_BIND, mask, 32769));
    mask[0] = 1;
    SHOW(set_mempolicy(MPOL_BIND, mask, 32769));
    SHOW(set_mempolicy(MPOL_BIND, mask, 32770));
    mask[500] = 1;
    SHOW(set_mempolicy(MPOL_BIND, mask, 32769));
    mask[500] = 0;
    SHOW(set_mempolicy(MPOL_PREFERRED, &one, 64));
    show_policy("preferred", 0, 0);
    SHOW(set_mempolicy(MPOL_PREFERRED, 0, 0));
    show_policy("preferred, none", 0, 0);
    SHOW(set_mempolicy(MPOL_PREFERRED | MPOL_F_STATIC_NODES, 0, 0));
    SHOW(set_mempolicy(MPOL_LOCAL, 0, 0));
    show_policy("local", 0, 0);
    SHOW(set_mempolicy(MPOL_LOCAL, &one, 64));
    SHOW(set_mempolicy(MPOL_DEFAULT, &one, 64));
    SHOW(set_mempolicy(MPOL_INTERLEAVE, &one, 64));
    show_policy("interleave", 0, 0);
    show_policy("the next node", 0, MPOL_F_NODE);
    SHOW(set_mempolicy(MPOL_BIND | MPOL_F_STATIC_NODES, &both, 64));
    show_policy("bind by number", 0, 0);
    SHOW(set_mempolicy(MPOL_BIND | MPOL_F_RELATIVE_NODES, &two, 64));
    show_policy("bind by place", 0, 0);
    SHOW(set_mempolicy(MPOL_BIND | MPOL_F_STATIC_NODES | MPOL_F_RELATIVE_NODES, &one, 64));
    SHOW(set_mempolicy(MPOL_PREFERRED | (1 << 13), &one, 64));
    SHOW(set_mempolicy(9, &one, 64));
    SHOW(set_mempolicy(-1, &one, 64));
    show_policy("allowed", 0, MPOL_F_MEMS_ALLOWED);
    show_policy("allowed and more", 0, MPOL_F_MEMS_ALLOWED | MPOL_F_ADDR);
    show_policy("a node without interleaving", 0, MPOL_F_NODE);
    show_policy("flags", 0, 8);
    show_policy("an address without its flag", &one, 0);
    SHOW(get_mempolicy(0, mask, 0, 0, 0));
    SHOW(get_mempolicy(0, 0, 0, 0, 0));
    SHOW(get_mempolicy((void *)8, 0, 0, 0, 0));
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        show_policy("a child's", 0, 0);
        fflush(stdout);
        _exit(0);
    }
    show_wait("child", pid);
    SHOW(set_mempolicy(MPOL_DEFAULT, 0, 0));
    show_policy("the default again", 0, 0);
}

static void area_policies(void) {
    unsigned long one = 1, two = 2;
    char *a = mmap(0, 8 << 12, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(a != MAP_FAILED);
    SHOW(mbind(a, 2 << 12, MPOL_BIND, &one, 64, 0));
    show_policy("first page", a, MPOL_F_ADDR);
    show_policy("second page", a + 4096 + 5, MPOL_F_ADDR);
    show_policy("third page", a + 8192, MPOL_F_ADDR);
    show_policy("its node", a, MPOL_F_ADDR | MPOL_F_NODE);
    SHOW(mbind(a + 1, 4096, MPOL_BIND, &one, 64, 0));
    SHOW(mbind(a, 1, MPOL_DEFAULT, 0, 0, MPOL_MF_STRICT));
    show_policy("first page", a, MPOL_F_ADDR);
    SHOW(mbind(a, 4096, MPOL_BIND, &two, 64, 0));
    SHOW(mbind(a, 0, MPOL_BIND, &two, 64, 0));
    SHOW(mbind(a, -4096L, MPOL_BIND, &one, 64, 0));
    SHOW(mbind(a, 4096, MPOL_BIND, &one, 64, 8));
    SHOW(mbind(a, 4096, MPOL_BIND, &one, 64, MPOL_MF_MOVE | MPOL_MF_STRICT));
    CHECK(munmap(a + 4 * 4096, 4096) == 0);
    SHOW(mbind(a, 8 << 12, MPOL_BIND, &one, 64, 0));
    show_policy("nothing", a + 4 * 4096, MPOL_F_ADDR);
    SHOW(syscall(SYS_set_mempolicy_home_node, a, 4096, 0, 0));
    SHOW(syscall(SYS_set_mempolicy_home_node, a + 8192, 4096, 0, 0));
    SHOW(syscall(SYS_set_mempolicy_home_node, a, 4096, 0, 1));
    SHOW(syscall(SYS_set_mempolicy_home_node, a, 4096, 5000, 0));

    a[0] = 1;
    // Of a page that nobody has touched Linux has said EFAULT, and says ENOENT.
    void *pages[] = {a, a + 4 * 4096, (void *)&one};
    int status[] = {77, 77, 77}, nodes[] = {0, 0, 0};
    SHOW(syscall(SYS_move_pages, 0, 3, pages, 0, status, 0));
    for (int i = 0; i < 3; i++) printf("page %d: %d\n", i, status[i]);
    SHOW(syscall(SYS_move_pages, 0, 1, pages, nodes, status, MPOL_MF_MOVE));
    printf("moved: %d\n", status[0]);
    nodes[0] = 9999;
    SHOW(syscall(SYS_move_pages, 0, 1, pages, nodes, status, MPOL_MF_MOVE));
    nodes[0] = -1;
    SHOW(syscall(SYS_move_pages, 0, 1, pages, nodes, status, MPOL_MF_MOVE));
    SHOW(syscall(SYS_move_pages, 0, 1, pages, 0, status, 1));
    SHOW(syscall(SYS_move_pages, 0, 1, (void *)8, 0, status, 0));
    SHOW(syscall(SYS_move_pages, 1 << 22, 1, pages, 0, status, 0));
    SHOW(syscall(SYS_migrate_pages, 0, 64, &one, &one));
    SHOW(syscall(SYS_migrate_pages, 0, 64, &one, &two));
    SHOW(syscall(SYS_migrate_pages, 1 << 22, 64, &one, &one));
}

static const char *name_of(void *addr) {
    static char line[500];
    char start[20];
    snprintf(start, sizeof start, "%08lx-", (unsigned long)addr);
    FILE *f = fopen("/proc/self/maps", "r");
    CHECK(f);
    const char *name = "";
    while (fgets(line, sizeof line, f))
        if (!strncmp(line, start, strlen(start))) {
            line[strcspn(line, "\n")] = 0;
            name = strchr(line, '[');
            break;
        }
    fclose(f);
    return name ? name : "";
}

#define NAME(addr, len, name) (errno = 0, prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, addr, len, name) ? errno : 0)

// Checked here, not compared: a kernel may be built without (CONFIG_ANON_VMA_NAME); Ringwall's is not.
static void names(void) {
    char *a = mmap(0, 8 << 12, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(a != MAP_FAILED && munmap(a + 6 * 4096, 4096) == 0);
    struct utsname uts;
    CHECK(uname(&uts) == 0);
    int e = NAME(a + 4096, 4096, "a name");
    if (strstr(uts.release, "ringwall") || e == 0) {
        CHECK(e == 0 && !strcmp(name_of(a + 4096), "[anon:a name]"));
        CHECK(!NAME(a + 4096, 8192, "b") && !strcmp(name_of(a + 4096), "[anon:b]"));
        CHECK(!NAME(a + 4096, 8192, 0L) && !strcmp(name_of(a), ""));
        CHECK(NAME(a, 4096, "a[0]") == EINVAL && NAME(a, 4096, "a\n") == EINVAL);
        char more[100];
        memset(more, 'x', sizeof more);
        more[80] = 0;
        CHECK(NAME(a, 4096, more) == EINVAL);
        more[79] = 0;
        CHECK(NAME(a, 4096, more) == 0);
        CHECK(NAME(a, 4096, 8L) == EFAULT);
        CHECK(NAME(a + 1, 4096, "c") == EINVAL && NAME(a, 0L, "c") == 0);
        CHECK(NAME(a, -1L, "c") == EINVAL && NAME(a, -8192L, "c") == EINVAL);
        CHECK(NAME(a + 5 * 4096, 3 * 4096L, "hole") == ENOMEM);
        CHECK(!strcmp(name_of(a + 5 * 4096), "[anon:hole]") && !strcmp(name_of(a + 7 * 4096), "[anon:hole]"));
        int fd = memfd_create("file", 0);
        CHECK(fd >= 0 && ftruncate(fd, 4096) == 0);
        char *file = mmap(0, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
        CHECK(file != MAP_FAILED && NAME(file, 4096, "c") == EBADF);
    } else {
        CHECK(e == EINVAL);
    }
    SHOW(prctl(PR_SET_VMA, 1, a, 4096, "c"));
}

static void other_parts(void) {
    int fd = memfd_create("parts", 0);
    CHECK(fd >= 0 && ftruncate(fd, 4 << 12) == 0);
    for (int i = 0; i < 4; i++) CHECK(pwrite(fd, &(char){'a' + i}, 1, i << 12) == 1);
    char *a = mmap(0, 4 << 12, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(a != MAP_FAILED);
    SHOW(syscall(SYS_remap_file_pages, a, 4096, 0, 3, 0));
    SHOW(syscall(SYS_remap_file_pages, a + 3 * 4096, 4096, 0, 0, 0));
    printf("now %c%c%c%c\n", a[0], a[4096], a[8192], a[12288]);
    a[0] = 'D';
    char byte;
    CHECK(pread(fd, &byte, 1, 3 << 12) == 1);
    printf("written %c\n", byte);
    SHOW(syscall(SYS_remap_file_pages, a, 4096, PROT_READ, 0, 0));
    SHOW(syscall(SYS_remap_file_pages, a, 0, 0, 0, 0));
    SHOW(syscall(SYS_remap_file_pages, a, 8192, 0, 0, 0));
    SHOW(syscall(SYS_remap_file_pages, a + 3 * 4096, 2 * 4096, 0, 0, 0));
    SHOW(syscall(SYS_remap_file_pages, a, 4096, 0, -1L, 0));
    char *private = mmap(0, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
    SHOW(syscall(SYS_remap_file_pages, private, 4096, 0, 0, 0));
}

static void others(void) {
    char *a = mmap(0, 4 << 12, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(a != MAP_FAILED);
    struct iovec v[] = {{a, 4096}, {a + 8192, 4096}, {(void *)8, 4096}};
    int self = syscall(SYS_pidfd_open, getpid(), 0);
    int pipes[2];
    CHECK(self >= 0 && pipe(pipes) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        char byte;
        CHECK(read(pipes[0], &byte, 1) == 1);
        _exit(0);
    }
    int child = syscall(SYS_pidfd_open, pid, 0);
    printf("advised %ld\n", syscall(SYS_process_madvise, child, v, 2, MADV_COLD, 0));
    SHOW(syscall(SYS_process_madvise, child, v + 2, 1, MADV_COLD, 0));
    SHOW(syscall(SYS_process_madvise, child, v, 2, MADV_DONTFORK, 0));
    SHOW(syscall(SYS_process_madvise, child, v, 2, MADV_WILLNEED, 1));
    SHOW(syscall(SYS_process_madvise, pipes[0], v, 2, MADV_WILLNEED, 0));
    SHOW(syscall(SYS_process_madvise, -1, v, 2, MADV_WILLNEED, 0));
    SHOW(syscall(SYS_process_madvise, child, v, 2000, MADV_WILLNEED, 0));
    SHOW(syscall(SYS_process_madvise, child, 8, 1, MADV_WILLNEED, 0));
    SHOW(syscall(SYS_process_mrelease, child, 0));
    SHOW(syscall(SYS_process_mrelease, child, 1));
    SHOW(syscall(SYS_process_mrelease, pipes[0], 0));
    SHOW(syscall(SYS_process_mrelease, -1, 0));
    CHECK(write(pipes[1], "", 1) == 1);
    show_wait("child", pid);
    SHOW(syscall(SYS_process_mrelease, child, 0));
    SHOW(syscall(SYS_process_madvise, child, v, 2, MADV_WILLNEED, 0));

    SHOW(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0) == PR_MCE_KILL_DEFAULT);
    SHOW(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0));
    SHOW(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0) == PR_MCE_KILL_EARLY);
    SHOW(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_LATE, 0, 0));
    SHOW(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0));
    SHOW(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, 3, 0, 0));
    SHOW(prctl(PR_MCE_KILL, PR_MCE_KILL_CLEAR, 1, 0, 0));
    SHOW(prctl(PR_MCE_KILL, PR_MCE_KILL_CLEAR, 0, 0, 0));
    SHOW(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0));
    SHOW(prctl(PR_MCE_KILL, 2, 0, 0, 0));
    SHOW(prctl(PR_MCE_KILL, 0, 0, 1, 0));
    SHOW(prctl(PR_MCE_KILL_GET, 1, 0, 0, 0));
    SHOW(prctl(PR_SET_TSC, PR_TSC_ENABLE, 0, 0, 0));
    SHOW(prctl(PR_SET_TSC, 3, 0, 0, 0));
}

int main(void) {
    own_policies();
    area_policies();
    names();
    other_parts();
    others();
    return 0;
}
