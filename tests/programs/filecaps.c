// Capabilities of files: the attribute and who may set it, what executing such a file gives, what takes them away, and
// how it all looks from other user namespaces; on the root, in a tmpfs and in an overlay.
#include "family.h"
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sched.h>
#include <sys/auxv.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#define CAPS "security.capability"
#define BIT(cap) (1u << (cap))
#define EFFECTIVE VFS_CAP_FLAGS_EFFECTIVE

static int set(const char *path, uint32_t magic, uint32_t permitted, uint32_t inheritable, int root) {
    uint32_t words[6] = {magic, permitted, inheritable, 0, 0, root};
    uint32_t revision = magic & VFS_CAP_REVISION_MASK;
    size_t size = revision == VFS_CAP_REVISION_1 ? 12 : revision == VFS_CAP_REVISION_2 ? 20 : 24;
    return setxattr(path, CAPS, words, size, 0);
}
static int set2(const char *path, uint32_t flags, uint32_t permitted, uint32_t inheritable) {
    return set(path, VFS_CAP_REVISION_2 | flags, permitted, inheritable, 0);
}
static void show(const char *label, const char *path) {
    uint32_t words[16] = {0};
    ssize_t n = lgetxattr(path, CAPS, words, sizeof words);
    if (n < 0) printf("%s: %s\n", label, strerrorname_np(errno));
    else {
        printf("%s: %zd bytes:", label, n);
        for (int i = 0; i * 4 < n; i++) printf(" %x", words[i]);
        printf("\n");
    }
    fflush(stdout);
}
static int report(void) {
    FILE *f = fopen("/proc/self/status", "r");
    char text[256];
    CHECK(f != NULL);
    while (fgets(text, sizeof text, f) != NULL)
        if (!strncmp(text, "Cap", 3) || !strncmp(text, "Uid", 3) || !strncmp(text, "Gid", 3)) printf("  %s", text);
    fclose(f);
    printf("  secure %lu, dumpable %d, securebits %x\n", getauxval(AT_SECURE), prctl(PR_GET_DUMPABLE),
           prctl(PR_GET_SECUREBITS));
    fflush(stdout);
    return 0;
}
// What a child that has become somebody gets of a program.
enum { ROOT = 1, NO_NEW_PRIVS = 2, NOROOT = 4, INHERITABLE = 8, AMBIENT = 16, UNBOUND = 32, TRACED = 64, KEEP = 128, SHARED = 256, BY_THREAD = 512 };
static void sets(uint32_t effective, uint32_t permitted, uint32_t inheritable) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{effective, permitted, inheritable}, {0, 0, 0}};
    CHECK(syscall(SYS_capset, &header, data) == 0);
}
static void inherit(uint32_t set) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    CHECK(syscall(SYS_capget, &header, data) == 0);
    data[0].inheritable |= set;
    CHECK(syscall(SYS_capset, &header, data) == 0);
}
// Somebody who has the caller's root and working directory as well: another process, or only another thread.
static char stack[65536];
static int waits_there(void *arg) {
    pause();
    return *(int *)arg;
}
static pid_t shares(int flags) {
    static int none;
    pid_t pid = clone(waits_there, stack + sizeof stack, CLONE_FS | flags, &none);
    CHECK(pid > 0);
    return pid;
}
static void run(const char *label, const char *path, int how) {
    int sharer[2];
    CHECK(pipe2(sharer, O_CLOEXEC) == 0);
    printf("%s:\n", label);
    pid_t pid = born(0);
    if (pid == 0) {
        if (how & INHERITABLE) inherit(BIT(CAP_NET_RAW));
        if (how & UNBOUND) CHECK(prctl(PR_CAPBSET_DROP, CAP_NET_RAW) == 0);
        if (how & NOROOT) CHECK(prctl(PR_SET_SECUREBITS, SECBIT_NOROOT) == 0);
        if (how & (AMBIENT | KEEP)) CHECK(prctl(PR_SET_KEEPCAPS, 1) == 0);
        if (!(how & ROOT)) {
            CHECK(setgroups(0, NULL) == 0);
            CHECK(setresgid(1000, 1000, 1000) == 0 && setresuid(1000, 1000, 1000) == 0);
        }
        if (how & KEEP) sets(0, BIT(CAP_KILL), 0);
        if (how & AMBIENT) {
            sets(0, BIT(CAP_KILL), BIT(CAP_KILL));
            CHECK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_KILL, 0, 0) == 0);
        }
        if (how & NO_NEW_PRIVS) CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
        if (how & TRACED) CHECK(ptrace(PTRACE_TRACEME, 0, 0, 0) == 0);
        if (how & SHARED) CHECK(write(sharer[1], (pid_t[]){shares(SIGCHLD)}, sizeof(pid_t)) == sizeof(pid_t));
        if (how & BY_THREAD) shares(CLONE_VM | CLONE_SIGHAND | CLONE_THREAD);
        execl(path, path, "report", NULL);
        printf("  exec: %s\n", strerrorname_np(errno));
        finish(0);
    }
    int status;
    while (waitpid(pid, &status, 0) == pid && WIFSTOPPED(status))
        CHECK(ptrace(PTRACE_CONT, pid, 0, WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status)) == 0);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    pid_t left;
    if (how & SHARED) CHECK(read(sharer[0], &left, sizeof left) == sizeof left && kill(left, SIGKILL) == 0);
    CHECK(close(sharer[0]) == 0 && close(sharer[1]) == 0);
}
static void copy(const char *to, mode_t mode) {
    int in = open("/proc/self/exe", O_RDONLY), out = open(to, O_CREAT | O_TRUNC | O_WRONLY, 0700);
    CHECK(in >= 0 && out >= 0);
    while (sendfile(out, in, NULL, 1 << 20) > 0) {
    }
    CHECK(fchmod(out, mode) == 0 && close(in) == 0 && close(out) == 0);
}
static char *in(const char *dir, const char *name) {
    static char paths[8][64];
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, 64, "%s/%s", dir, name);
    return path;
}

static void attribute(const char *dir) {
    char *file = in(dir, "attribute"), *link = in(dir, "link"), *pipe = in(dir, "pipe");
    CHECK(close(creat(file, 0666)) == 0 && chmod(file, 0666) == 0);
    show("none", file);
    SHOW(removexattr(file, CAPS));
    uint32_t words[8] = {VFS_CAP_REVISION_2, 1, 2, 3, 4, 5};
    for (size_t size = 4; size <= 28; size += 4) SHOW(setxattr(file, CAPS, words, size, 0));
    words[0] = VFS_CAP_REVISION_3 | EFFECTIVE;
    words[5] = 0;
    for (size_t size = 20; size <= 28; size += 4) SHOW(setxattr(file, CAPS, words, size, 0));
    show("of revision 3 for root", file);
    SHOW(set(file, VFS_CAP_REVISION_1, 1, 1, 0));
    SHOW(set(file, 0x04000000, 1, 1, 0));
    SHOW(set(file, VFS_CAP_REVISION_3, 1, 2, 1000));
    show("for another", file);
    SHOW(set(file, VFS_CAP_REVISION_3, 1, 2, -1));
    SHOW(setxattr(file, CAPS, words, 24, XATTR_CREATE));
    SHOW(removexattr(file, CAPS));
    SHOW(setxattr(file, CAPS, words, 24, XATTR_REPLACE));
    // With flags that mean nothing, and sets that do not.
    SHOW(set2(file, 0x00fffffe, ~0u, ~0u));
    show("all", file);
    SHOW(getxattr(file, CAPS, words, 0));
    SHOW(getxattr(file, CAPS, words, 19));
    char list[256];
    ssize_t n = listxattr(file, list, sizeof list);
    CHECK(n >= 0);
    int listed = 0;
    for (char *name = list; name < list + n; name += strlen(name) + 1) listed += !strcmp(name, CAPS);
    printf("listed %d\n", listed);
    pid_t pid = born(0);
    if (pid == 0) {
        become(1000);
        SHOW(set2(file, 0, 1, 0));
        SHOW(setxattr(file, CAPS, words, 4, 0));
        show("as seen by others", file);
        // Whether it may remove them, or set others of that kind, depends on Linux's security modules.
        finish(0);
    }
    show_wait("another", pid);
    SHOW(symlink(file, link));
    SHOW(lsetxattr(link, CAPS, words, 20, 0));
    show("link", link);
    SHOW(mkfifo(pipe, 0600));
    SHOW(set2(pipe, 0, 1, 0));
    show("pipe", pipe);
    SHOW(set2(dir, 0, 1, 0));
    show("directory", dir);
    SHOW(chown(dir, 0, 0));
    show("directory that is given away", dir);
    SHOW(removexattr(dir, CAPS));
    unlink(file), unlink(link), unlink(pipe);
}

static void executing(const char *dir) {
    char *file = in(dir, "executed"), *script = in(dir, "script");
    copy(file, 0755);
    run("as root without", file, ROOT);
    run("as another without", file, 0);
    run("as another with an ambient one", file, AMBIENT);
    CHECK(set2(file, 0, BIT(CAP_NET_RAW), 0) == 0);
    run("permitted", file, 0);
    run("permitted, out of bounds", file, UNBOUND);
    run("permitted, as root", file, ROOT);
    run("permitted, as a root without rights", file, ROOT | NOROOT);
    run("permitted, with an ambient one", file, AMBIENT);
    run("permitted, with one kept", file, KEEP);
    run("permitted, and none may come", file, NO_NEW_PRIVS);
    run("permitted, and traced", file, TRACED);
    CHECK(set2(file, EFFECTIVE, BIT(CAP_NET_RAW), 0) == 0);
    run("effective", file, 0);
    run("effective, out of bounds", file, UNBOUND);
    run("effective, as root out of bounds", file, ROOT | UNBOUND);
    run("effective, as a root without rights", file, ROOT | NOROOT);
    run("effective, with an ambient one", file, AMBIENT);
    run("effective, and none may come", file, NO_NEW_PRIVS);
    run("effective, and traced", file, TRACED);
    run("effective, and with a root that another has", file, SHARED);
    run("effective, and with a root that another thread has", file, BY_THREAD);
    run("effective, as root, and with a root that another has", file, ROOT | UNBOUND | SHARED);
    int fd = open(script, O_CREAT | O_WRONLY, 0755);
    dprintf(fd, "#!%s report\n", file);
    CHECK(close(fd) == 0);
    run("script", script, 0);
    CHECK(set2(script, EFFECTIVE, BIT(CAP_KILL), 0) == 0);
    run("script with others", script, 0);
    CHECK(set2(file, EFFECTIVE, 0, BIT(CAP_NET_RAW)) == 0);
    run("inheritable, but not inherited", file, 0);
    run("inheritable", file, INHERITABLE);
    run("inheritable, out of bounds", file, INHERITABLE | UNBOUND);
    CHECK(set2(file, EFFECTIVE, 0, 0) == 0);
    run("none", file, 0);
    run("none, with an ambient one", file, AMBIENT);
    run("none, as root", file, ROOT);
    CHECK(set2(file, 0, BIT(CAP_NET_RAW) | BIT(CAP_SYS_TIME), 0) == 0);
    run("more than there are", file, 0);
    CHECK(set2(file, EFFECTIVE, BIT(CAP_NET_RAW) | BIT(CAP_SYS_TIME), 0) == 0);
    run("more than there are, effective", file, 0);
    run("more than there are, effective, as root", file, ROOT);
    CHECK(set2(file, EFFECTIVE, BIT(CAP_NET_RAW), 0) == 0 && chmod(file, 04755) == 0);
    run("set-user-ID root", file, 0);
    run("set-user-ID root, and none may come", file, NO_NEW_PRIVS);
    run("set-user-ID root, and traced", file, TRACED);
    run("set-user-ID root, and with a root that another has", file, SHARED);
    run("set-user-ID root, as root without rights, with a root that another has", file, ROOT | NOROOT | SHARED);
    run("set-user-ID root, as root", file, ROOT);
    CHECK(chown(file, 1001, 2000) == 0 && set2(file, EFFECTIVE, BIT(CAP_NET_RAW), 0) == 0 && chmod(file, 06755) == 0);
    run("set-user-ID and set-group-ID", file, 0);
    run("set-user-ID and set-group-ID, and with a root that another has", file, SHARED);
    run("set-user-ID and set-group-ID, as root, with a root that another has", file, ROOT | SHARED);
    run("set-user-ID and set-group-ID, with an ambient one", file, AMBIENT);
    run("set-user-ID and set-group-ID, and none may come", file, NO_NEW_PRIVS);
    CHECK(set(file, VFS_CAP_REVISION_3 | EFFECTIVE, BIT(CAP_NET_RAW), 0, 5) == 0 && chmod(file, 0755) == 0);
    run("for others", file, 0);
    unlink(file), unlink(script);
}

static void again(const char *path) {
    CHECK(set2(path, EFFECTIVE, 1, 0) == 0 && chmod(path, 06777) == 0);
}
static void after(const char *label, const char *path) {
    struct stat s;
    CHECK(stat(path, &s) == 0);
    printf("%s: mode %o, ", label, s.st_mode & 07777);
    show("caps", path);
    again(path);
}
static void losing(const char *dir) {
    char *file = in(dir, "lost"), *other = in(dir, "other"), *beside = in(dir, "beside");
    CHECK(close(creat(file, 0666)) == 0 && close(creat(other, 0666)) == 0 && truncate(other, 4096) == 0);
    for (int who = 0; who < 2; who++) {
        printf("what takes them away, of %s\n", who == 0 ? "root" : "another");
        again(file);
        fflush(stdout);
        // Only root can set them again: it does so for the other too.
        for (int step = 0; step < 17; step++) {
            static const char *const names[] = {"open", "no bytes", "write", "pwrite", "writev", "truncate", "to the same size",
                                                "ftruncate", "O_TRUNC", "fallocate", "sendfile", "copy_file_range", "a map",
                                                "chmod", "times", "read", "append"};
            pid_t pid = born(0);
            if (pid == 0) {
                if (who == 1) become(1000);
                int fd = open(file, O_RDWR | (step == 8 ? O_TRUNC : 0) | (step == 16 ? O_APPEND : 0));
                int from = open(other, O_RDONLY);
                CHECK(fd >= 0 && from >= 0);
                char c = 'c';
                struct iovec v = {&c, 1};
                struct timespec times[2] = {{1, 0}, {1, 0}};
                errno = 0;
                switch (step) {
                case 1: write(fd, &c, 0); break;
                case 2: write(fd, &c, 1); break;
                case 3: pwrite(fd, &c, 1, 5); break;
                case 4: writev(fd, &v, 1); break;
                case 5: truncate(file, 100); break;
                case 6: truncate(file, 100); break;
                case 7: ftruncate(fd, 50); break;
                case 9: fallocate(fd, 0, 0, 8192); break;
                case 10: sendfile(fd, from, NULL, 10); break;
                case 11: copy_file_range(from, NULL, fd, NULL, 10, 0); break;
                case 12: *(volatile char *)mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) = 1; break;
                case 13: chmod(file, 06777); break;
                case 14: utimensat(AT_FDCWD, file, times, 0); break;
                case 15: read(fd, &c, 1); break;
                case 16: write(fd, &c, 1); break;
                }
                if (errno) printf("%s, ", strerrorname_np(errno));
                finish(0);
            }
            CHECK(waitpid(pid, NULL, 0) == pid);
            after(names[step], file);
        }
    }
    CHECK(link(file, beside) == 0);
    after("linked", beside);
    CHECK(rename(beside, other) == 0);
    after("renamed", other);
    CHECK(chown(file, -1, -1) == 0);
    after("given to nobody else", file);
    CHECK(chown(file, 0, -1) == 0);
    after("given to the owner", file);
    CHECK(chown(file, -1, 1000) == 0);
    after("given to a group", file);
    CHECK(chown(file, 1000, 0) == 0);
    after("given away", file);
    unlink(file), unlink(other), unlink(beside);
}

static void mapped(pid_t pid, const char *uids) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/uid_map", pid);
    CHECK(put(path, uids) == 0);
    snprintf(path, sizeof path, "/proc/%d/gid_map", pid);
    CHECK(put(path, uids) == 0);
}
static void namespaces(const char *dir) {
    char *file = in(dir, "inside"), *twos = in(dir, "twos"), *others = in(dir, "others");
    copy(file, 0755);
    copy(twos, 0755);
    copy(others, 0755);
    CHECK(chown(file, 1000, 1000) == 0);
    CHECK(set2(twos, EFFECTIVE, BIT(CAP_NET_RAW), 0) == 0);
    CHECK(set(others, VFS_CAP_REVISION_3, BIT(CAP_NET_RAW), 0, 1001) == 0);
    pipes();
    pid_t pid = born(CLONE_NEWUSER);
    if (pid == 0) {
        take(to_child);
        CHECK(setresgid(0, 0, 0) == 0 && setresuid(0, 0, 0) == 0);
        show("of the one outside", twos);
        show("of another", others);
        SHOW(set2(twos, 0, 1, 0));
        SHOW(set2(file, EFFECTIVE, BIT(CAP_NET_RAW), 0));
        show("own", file);
        give(to_parent), take(to_child);
        SHOW(set(file, VFS_CAP_REVISION_3 | EFFECTIVE, BIT(CAP_NET_RAW), 0, 1));
        show("own, of a user", file);
        give(to_parent), take(to_child);
        SHOW(set(file, VFS_CAP_REVISION_3, 1, 0, 2));
        SHOW(set(file, VFS_CAP_REVISION_3 | EFFECTIVE, BIT(CAP_NET_RAW), 0, 0));
        // Another user of the namespace.
        pid_t child = born(0);
        if (child == 0) {
            CHECK(setresgid(1, 1, 1) == 0 && setresuid(1, 1, 1) == 0);
            show("as another sees it", file);
            run("what is own", file, ROOT);
            run("what is the one's outside", twos, ROOT);
            run("what is another's", others, ROOT);
            finish(0);
        }
        show_wait("child", child);
        child = born(CLONE_NEWUSER);
        if (child == 0) {
            show("without maps", file);
            show("without maps, outside", twos);
            run("in one below", file, ROOT);
            SHOW(set2(file, 0, 1, 0));
            finish(0);
        }
        show_wait("below", child);
        give(to_parent);
        take(to_child);
        finish(0);
    }
    mapped(pid, "0 1000 2");
    give(to_child), take(to_parent);
    show("seen from outside", file);
    run("outside", file, 0);
    run("outside, as root", file, ROOT);
    give(to_child), take(to_parent);
    show("seen from outside", file);
    give(to_child), take(to_parent);
    show("seen from outside", file);
    SHOW(removexattr(file, CAPS));
    give(to_child);
    show_wait("namespace", pid);
    no_pipes();
    unlink(file), unlink(twos), unlink(others);
}

static void layers(void) {
    const char *const dirs[] = {"lower", "upper", "work", "merged"};
    for (int i = 0; i < 4; i++) CHECK(mkdir(in("/layers", dirs[i]), 0755) == 0);
    const char *const names[] = {"looked", "opened", "written", "chmodded", "chowned", "set", "removed", "cut"};
    for (int i = 0; i < 8; i++) {
        copy(in("/layers/lower", names[i]), 0755);
        CHECK(set2(in("/layers/lower", names[i]), EFFECTIVE, BIT(CAP_NET_RAW), 0) == 0);
    }
    CHECK(mount("overlay", "/layers/merged", "overlay", 0, "lowerdir=/layers/lower,upperdir=/layers/upper,workdir=/layers/work") == 0);
    const char *merged = "/layers/merged";
    show("below", in(merged, "looked"));
    run("below", in(merged, "looked"), 0);
    int fd = open(in(merged, "opened"), O_RDWR);
    CHECK(fd >= 0 && close(fd) == 0);
    show("opened", in(merged, "opened"));
    run("opened", in(merged, "opened"), 0);
    fd = open(in(merged, "written"), O_RDWR);
    CHECK(fd >= 0 && write(fd, "\x7f", 1) == 1 && close(fd) == 0);
    show("written", in(merged, "written"));
    SHOW(chmod(in(merged, "chmodded"), 0711));
    show("chmodded", in(merged, "chmodded"));
    SHOW(chown(in(merged, "chowned"), 5, 5));
    show("chowned", in(merged, "chowned"));
    SHOW(set2(in(merged, "set"), 0, 1, 0));
    show("set", in(merged, "set"));
    SHOW(removexattr(in(merged, "removed"), CAPS));
    show("removed", in(merged, "removed"));
    SHOW(truncate(in(merged, "cut"), 10));
    show("cut", in(merged, "cut"));
    for (int i = 0; i < 8; i++) show(names[i], in("/layers/upper", names[i]));
    for (int i = 0; i < 8; i++) show(names[i], in("/layers/lower", names[i]));
    CHECK(umount(merged) == 0);
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "report")) return report();
    umask(0);
    const char *const places[] = {"/root.caps", "/mounted"};
    for (int i = 0; i < 2; i++) {
        CHECK(mkdir(places[i], 0755) == 0);
        if (i == 1) CHECK(mount("tmpfs", places[i], "tmpfs", 0, "mode=755") == 0);
        printf("in %s\n", i == 0 ? "the root" : "a tmpfs");
        attribute(places[i]);
        executing(places[i]);
        losing(places[i]);
        namespaces(places[i]);
    }
    copy("/mounted/nosuid", 0755);
    CHECK(set2("/mounted/nosuid", EFFECTIVE, BIT(CAP_NET_RAW), 0) == 0);
    CHECK(mount(NULL, "/mounted", NULL, MS_REMOUNT | MS_NOSUID, NULL) == 0);
    run("nosuid", "/mounted/nosuid", 0);
    CHECK(mkdir("/layers", 0755) == 0 && mount("tmpfs", "/layers", "tmpfs", 0, "mode=755") == 0);
    layers();
    return 0;
}
