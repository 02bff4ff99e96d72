// Mounts by descriptors: open_tree, move_mount, fsopen, fsconfig, fsmount, fspick, mount_setattr.
#include "check.h"
#include <linux/mount.h>
#include <sched.h>
#include <sys/statvfs.h>
#define BASE "/tmp/mountfds"
// linux/mount.h and sys/mount.h define the same names: these are the calls of the latter.
int mount(const char *, const char *, const char *, unsigned long, const void *);
int umount2(const char *, int);
#define AT_RECURSIVE_ 0x8000
#define MNT_DETACH_ 2
static int open_tree_(int fd, const char *path, unsigned flags) {
    return (int)syscall(SYS_open_tree, fd, path, flags);
}
static int move_mount_(int from, const char *path, int to, const char *there, unsigned flags) {
    return (int)syscall(SYS_move_mount, from, path, to, there, flags);
}
static int fsopen_(const char *type, unsigned flags) {
    return (int)syscall(SYS_fsopen, type, flags);
}
static int fsconfig_(int fd, unsigned command, const char *key, const void *value, int aux) {
    return (int)syscall(SYS_fsconfig, fd, command, key, value, aux);
}
static int fsmount_(int fd, unsigned flags, unsigned attr) {
    return (int)syscall(SYS_fsmount, fd, flags, attr);
}
static int fspick_(int fd, const char *path, unsigned flags) {
    return (int)syscall(SYS_fspick, fd, path, flags);
}
static int setattr(int fd, const char *path, unsigned flags, uint64_t set, uint64_t clear, uint64_t propagation, uint64_t user) {
    struct mount_attr attr = {set, clear, propagation, user};
    return (int)syscall(SYS_mount_setattr, fd, path, flags, &attr, sizeof attr);
}
static int at(const char *path, uint64_t set, uint64_t clear) {
    return setattr(AT_FDCWD, path, 0, set, clear, 0, 0);
}
// The mounts below BASE in the order of their places: place, flags, propagation without numbers, flags of the file system.
static void show(const char *what) {
    char line[4096], *lines[64];
    int count = 0;
    FILE *f = fopen("/proc/self/mountinfo", "r");
    CHECK(f);
    printf("-- %s\n", what);
    while (fgets(line, sizeof line, f)) {
        char place[256], flags[256], tag[64] = "", type[64], source[64], super[256], out[1024];
        int used;
        CHECK(sscanf(line, "%*d %*d %*s %*s %255s %255s %n", place, flags, &used) == 2);
        if (strncmp(place, BASE, strlen(BASE)) != 0 || !place[strlen(BASE)]) continue;
        char *dash = strstr(line + used, "- ");
        CHECK(dash && sscanf(dash, "- %63s %63s %255s", type, source, super) == 3);
        for (char *p = line + used; p < dash; p++)
            if (*p < '0' || *p > '9') strncat(tag, p, 1);
        super[strcspn(super, ",")] = 0;
        snprintf(out, sizeof out, "%s %s %s- %s %s %s", place + strlen(BASE), flags, tag, type, source, super);
        CHECK(count < 64);
        lines[count++] = strdup(out);
    }
    fclose(f);
    show_sorted(lines, count, as_text);
}
static void messages(int fd) {
    char text[256];
    ssize_t n;
    while ((n = read(fd, text, sizeof text - 1)) > 0) printf("message: %.*s\n", (int)n, text);
    printf("then %s\n", strerrorname_np(errno));
}
static void dir(const char *path) {
    CHECK(mkdir(path, 0755) == 0 || errno == EEXIST);
}
static int tmpfs(const char *at) {
    return mount("tmpfs", at, "tmpfs", 0, "size=1m");
}
static void trees(void) {
    printf("== open_tree and move_mount\n");
    dir("a"), dir("b"), dir("c");
    CHECK(tmpfs("a") == 0);
    dir("a/x"), dir("a/plain");
    CHECK(tmpfs("a/x") == 0);
    dir("a/x/deep");
    CHECK(close(creat("a/file", 0600)) == 0);
    SHOW(open_tree_(AT_FDCWD, "a", 2));
    SHOW(open_tree_(AT_FDCWD, "a", AT_RECURSIVE_));
    SHOW(open_tree_(AT_FDCWD, "nowhere", OPEN_TREE_CLONE));
    int plain = open_tree_(AT_FDCWD, "a/plain", OPEN_TREE_CLOEXEC);
    CHECK(plain >= 0);
    printf("O_PATH: %d, cloexec: %d\n", !!(fcntl(plain, F_GETFL) & O_PATH), fcntl(plain, F_GETFD));
    SHOW(move_mount_(plain, "", AT_FDCWD, "b", MOVE_MOUNT_F_EMPTY_PATH));
    close(plain);
    int one = open_tree_(AT_FDCWD, "a", OPEN_TREE_CLONE), all = open_tree_(AT_FDCWD, "a", OPEN_TREE_CLONE | AT_RECURSIVE_);
    CHECK(one >= 0 && all >= 0);
    SHOW(faccessat(one, "x/deep", F_OK, 0));
    SHOW(faccessat(all, "x/deep", F_OK, 0));
    SHOW(faccessat(all, "../..", F_OK, 0));
    SHOW(move_mount_(one, "", AT_FDCWD, "a/file", MOVE_MOUNT_F_EMPTY_PATH));
    SHOW(move_mount_(one, "", AT_FDCWD, "b", 0));
    SHOW(move_mount_(one, "", AT_FDCWD, "nowhere", MOVE_MOUNT_F_EMPTY_PATH));
    SHOW(move_mount_(one, "", AT_FDCWD, "b", 0x1000));
    SHOW(move_mount_(one, "plain", AT_FDCWD, "b", 0));
    SHOW(move_mount_(all, "x", AT_FDCWD, "b", 0));
    SHOW(move_mount_(one, "", AT_FDCWD, "b", MOVE_MOUNT_F_EMPTY_PATH));
    int to = open("c", O_PATH);
    SHOW(move_mount_(all, "", to, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH));
    show("moved in");
    SHOW(umount2("b", 0));
    close(one);
    SHOW(umount2("b", 0));
    SHOW(umount2("c", MNT_DETACH_));
    SHOW(faccessat(all, "x/deep", F_OK, 0));
    close(all);
    close(to);
    SHOW(move_mount_(AT_FDCWD, "a", AT_FDCWD, "a/x", 0));
    SHOW(move_mount_(AT_FDCWD, "a", AT_FDCWD, "b", 0));
    CHECK(symlink("b", "link") == 0);
    SHOW(move_mount_(AT_FDCWD, "link", AT_FDCWD, "c", 0));
    SHOW(move_mount_(AT_FDCWD, "link", AT_FDCWD, "c", MOVE_MOUNT_F_SYMLINKS));
    show("moved about");
    // A tree that goes away with its descriptor.
    one = open_tree_(AT_FDCWD, "c", OPEN_TREE_CLONE | AT_RECURSIVE_);
    int inside = openat(one, "x", O_RDONLY);
    CHECK(one >= 0 && inside >= 0);
    close(one);
    SHOW(faccessat(inside, "deep", F_OK, 0));
    SHOW(faccessat(inside, "../plain", F_OK, 0));
    close(inside);
    CHECK(unlink("link") == 0);
    // Groups.
    CHECK(mount(NULL, "c", NULL, 1 << 20, NULL) == 0 && mount("c/plain", "b", NULL, 4096, NULL) == 0);
    CHECK(mount(NULL, "b", NULL, 1 << 18, NULL) == 0);
    SHOW(move_mount_(AT_FDCWD, "c/x", AT_FDCWD, "b", MOVE_MOUNT_SET_GROUP));
    SHOW(move_mount_(AT_FDCWD, "b", AT_FDCWD, "c", MOVE_MOUNT_SET_GROUP));
    SHOW(move_mount_(AT_FDCWD, "c", AT_FDCWD, "b", MOVE_MOUNT_SET_GROUP));
    SHOW(move_mount_(AT_FDCWD, "c", AT_FDCWD, "b", MOVE_MOUNT_SET_GROUP));
    show("a group joined");
    CHECK(umount2("b", 0) == 0 && umount2("c", MNT_DETACH_) == 0);
}
static void contexts(void) {
    printf("== fsopen\n");
    dir("a"), dir("b");
    SHOW(fsopen_("nothing", 0));
    SHOW(fsopen_("tmpfs", 2));
    SHOW(fsopen_(NULL, 0));
    int fd = fsopen_("tmpfs", FSOPEN_CLOEXEC), null = open("/dev/null", O_RDWR);
    CHECK(fd >= 0 && null >= 0);
    printf("cloexec: %d\n", fcntl(fd, F_GETFD));
    messages(fd);
    SHOW(fsmount_(fd, 0, 0));
    SHOW(fsmount_(null, 0, 0));
    SHOW(fsmount_(-1, 0, 0));
    SHOW(fsmount_(fd, 2, 0));
    SHOW(fsmount_(fd, 0, 0x8000));
    SHOW(fsmount_(fd, 0, 0x30));
    SHOW(fsconfig_(-1, FSCONFIG_CMD_CREATE, NULL, NULL, 0));
    SHOW(fsconfig_(999, FSCONFIG_CMD_CREATE, NULL, NULL, 0));
    SHOW(fsconfig_(null, FSCONFIG_CMD_CREATE, NULL, NULL, 0));
    SHOW(fsconfig_(fd, 77, NULL, NULL, 0));
    SHOW(fsconfig_(fd, FSCONFIG_CMD_CREATE, "key", NULL, 0));
    SHOW(fsconfig_(fd, FSCONFIG_SET_FLAG, "ro", "value", 0));
    SHOW(fsconfig_(fd, FSCONFIG_SET_STRING, "size", NULL, 0));
    SHOW(fsconfig_(fd, FSCONFIG_SET_STRING, "size", "1m", 1));
    SHOW(fsconfig_(fd, FSCONFIG_SET_FD, "size", NULL, 999));
    SHOW(fsconfig_(fd, FSCONFIG_SET_BINARY, "size", "x", 0));
    SHOW(fsconfig_(fd, FSCONFIG_SET_PATH, "size", "x", -7));
    SHOW(fsconfig_(fd, FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0));
    messages(fd);
    SHOW(fsconfig_(fd, FSCONFIG_SET_STRING, "nonsense", "1", 0));
    char byte, text[256];
    SHOW(read(fd, &byte, 1));
    // Whether the message is lost by that differs between versions.
    while (read(fd, text, sizeof text) > 0) {
    }
    SHOW(fsconfig_(fd, FSCONFIG_SET_FLAG, "nonsense", NULL, 0));
    SHOW(fsconfig_(fd, FSCONFIG_SET_STRING, "mode", "rwx", 0));
    SHOW(fsconfig_(fd, FSCONFIG_SET_FLAG, "source", NULL, 0));
    messages(fd);
    SHOW(fsconfig_(fd, FSCONFIG_SET_STRING, "source", "a-source", 0));
    SHOW(fsconfig_(fd, FSCONFIG_SET_STRING, "source", "another", 0));
    messages(fd);
    SHOW(fsconfig_(fd, FSCONFIG_SET_STRING, "mode", "0750", 0));
    SHOW(fsconfig_(fd, FSCONFIG_SET_STRING, "size", "64k", 0));
    SHOW(fsconfig_(fd, FSCONFIG_SET_FLAG, "ro", NULL, 0));
    SHOW(fsconfig_(fd, FSCONFIG_SET_FLAG, "rw", NULL, 0));
    SHOW(fsconfig_(fd, FSCONFIG_CMD_CREATE, NULL, NULL, 0));
    SHOW(fsconfig_(fd, FSCONFIG_CMD_CREATE, NULL, NULL, 0));
    SHOW(fsconfig_(fd, FSCONFIG_SET_STRING, "size", "64k", 0));
    SHOW(write(fd, "x", 1));
    int tree = fsmount_(fd, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOATIME);
    CHECK(tree >= 0);
    SHOW(fsmount_(fd, 0, 0));
    struct stat s;
    CHECK(fstat(tree, &s) == 0);
    printf("root of mode %o\n", s.st_mode);
    SHOW(mkdirat(tree, "before", 0700));
    SHOW(move_mount_(tree, "", AT_FDCWD, "a", MOVE_MOUNT_F_EMPTY_PATH));
    SHOW(move_mount_(tree, "", AT_FDCWD, "b", MOVE_MOUNT_F_EMPTY_PATH));
    SHOW(access("b/before", F_OK));
    show("mounted");
    close(tree);
    // Its own context may change it.
    SHOW(fsconfig_(fd, FSCONFIG_SET_FLAG, "ro", NULL, 0));
    SHOW(fsconfig_(fd, FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0));
    show("read-only");
    close(fd);
    printf("== fspick\n");
    SHOW(fspick_(AT_FDCWD, "b/before", 0));
    SHOW(fspick_(AT_FDCWD, "b", 64));
    SHOW(fspick_(AT_FDCWD, "nowhere", 0));
    fd = fspick_(AT_FDCWD, "b", FSPICK_CLOEXEC);
    CHECK(fd >= 0);
    SHOW(fsconfig_(fd, FSCONFIG_CMD_CREATE, NULL, NULL, 0));
    SHOW(fsconfig_(fd, FSCONFIG_SET_STRING, "size", "128k", 0));
    SHOW(fsconfig_(fd, FSCONFIG_SET_FLAG, "rw", NULL, 0));
    SHOW(fsconfig_(fd, FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0));
    struct statvfs v;
    CHECK(statvfs("b", &v) == 0);
    printf("%lu blocks, flags %lx\n", v.f_blocks, v.f_flag);
    SHOW(fsmount_(fd, 0, 0));
    show("writable");
    SHOW(umount2("b", 0));
    close(fd);
    close(null);
}
static void attributes(void) {
    printf("== mount_setattr\n");
    CHECK(tmpfs("a") == 0);
    dir("a/x");
    CHECK(tmpfs("a/x") == 0);
    dir("a/x/y");
    struct mount_attr none[2] = {0};
    SHOW(syscall(SYS_mount_setattr, AT_FDCWD, "nowhere", 0, none, 31));
    SHOW(syscall(SYS_mount_setattr, AT_FDCWD, "nowhere", 0, none, 8192));
    SHOW(syscall(SYS_mount_setattr, AT_FDCWD, "nowhere", 0, none, sizeof none));
    none[1].attr_set = 1;
    SHOW(syscall(SYS_mount_setattr, AT_FDCWD, "nowhere", 0, none, sizeof none));
    SHOW(syscall(SYS_mount_setattr, AT_FDCWD, "a", 2, none, sizeof *none));
    SHOW(at("a/x/y", MOUNT_ATTR_RDONLY, 0));
    SHOW(at("nowhere", MOUNT_ATTR_RDONLY, 0));
    SHOW(at("a", 1 << 10, 0));
    SHOW(at("a", MOUNT_ATTR_NOATIME, 0));
    SHOW(at("a", MOUNT_ATTR_NOATIME, MOUNT_ATTR_NOATIME));
    SHOW(at("a", 0x30, MOUNT_ATTR__ATIME));
    SHOW(at("a", MOUNT_ATTR_NOATIME, MOUNT_ATTR__ATIME));
    SHOW(at("a/x", MOUNT_ATTR_STRICTATIME | MOUNT_ATTR_NODIRATIME, MOUNT_ATTR__ATIME));
    show("noatime; strictatime, nodiratime");
    SHOW(setattr(AT_FDCWD, "a", AT_RECURSIVE_, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSYMFOLLOW | MOUNT_ATTR_NOEXEC, 0, 0, 0));
    show("all read-only");
    SHOW(mkdir("a/x/z", 0700));
    SHOW(at("a/x", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOEXEC));
    show("a/x writable");
    int fd = creat("a/x/file", 0600);
    CHECK(fd >= 0);
    SHOW(setattr(AT_FDCWD, "a", AT_RECURSIVE_, MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSYMFOLLOW, 0, 0));
    show("nothing has changed");
    close(fd);
    SHOW(setattr(AT_FDCWD, "a", AT_RECURSIVE_, 0, MOUNT_ATTR_NOSYMFOLLOW, 1 << 20, 0));
    show("shared");
    SHOW(setattr(AT_FDCWD, "a", 0, 0, 0, 1 << 20 | 1 << 18, 0));
    SHOW(setattr(AT_FDCWD, "a", 0, 0, 0, 1, 0));
    SHOW(setattr(AT_FDCWD, "a", AT_RECURSIVE_, 0, 0, 1 << 18, 0));
    SHOW(setattr(AT_FDCWD, "a", 0, 0, 0, 1 << 17, 0));
    show("unbindable");
    // Id maps.
    int user = open("/proc/self/ns/user", O_RDONLY), uts = open("/proc/self/ns/uts", O_RDONLY);
    CHECK(user >= 0 && uts >= 0);
    SHOW(setattr(AT_FDCWD, "a", 0, 0, MOUNT_ATTR_IDMAP, 0, user));
    SHOW(setattr(AT_FDCWD, "a", 0, MOUNT_ATTR_IDMAP, 0, 0, user));
    SHOW(setattr(AT_FDCWD, "a", 0, MOUNT_ATTR_IDMAP, 0, 0, uts));
    SHOW(setattr(AT_FDCWD, "a", 0, MOUNT_ATTR_IDMAP, 0, 0, 999));
    SHOW(setattr(AT_FDCWD, "a", 0, MOUNT_ATTR_IDMAP, 0, 0, 1ul << 40));
    close(user);
    close(uts);
    // Of what is nowhere yet.
    CHECK(mount(NULL, "a", NULL, 1 << 18, NULL) == 0);
    int tree = open_tree_(AT_FDCWD, "a", OPEN_TREE_CLONE | AT_RECURSIVE_);
    CHECK(tree >= 0);
    SHOW(setattr(tree, "", AT_EMPTY_PATH, MOUNT_ATTR_RDONLY, 0, 0, 0));
    SHOW(mkdirat(tree, "z", 0700));
    SHOW(move_mount_(tree, "", AT_FDCWD, "b", MOVE_MOUNT_F_EMPTY_PATH));
    show("a read-only copy");
    close(tree);
    CHECK(umount2("b", MNT_DETACH_) == 0 && umount2("a", MNT_DETACH_) == 0);
}
static void without_rights(void) {
    printf("== without rights\n");
    fflush(stdout);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        CHECK(setresuid(1000, 1000, 1000) == 0);
        SHOW(open_tree_(AT_FDCWD, "a", OPEN_TREE_CLONE));
        SHOW(open_tree_(AT_FDCWD, "a", 0));
        SHOW(move_mount_(AT_FDCWD, "a", AT_FDCWD, "b", 0x1000));
        SHOW(fsopen_("nothing", 2));
        SHOW(fsmount_(-1, 0, 0));
        SHOW(fspick_(AT_FDCWD, "nowhere", 64));
        SHOW(at("nowhere", 1, 0));
        _exit(0);
    }
    show_wait("user", pid);
}
int main(void) {
    // What is done to mounts stays here, natively too.
    CHECK(unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, 1 << 18 | 16384, NULL) == 0);
    CHECK(mkdir(BASE, 0755) == 0 || errno == EEXIST);
    umask(022);
    CHECK(tmpfs(BASE) == 0 && mount(NULL, BASE, NULL, 1 << 18, NULL) == 0 && chdir(BASE) == 0);
    trees();
    contexts();
    attributes();
    without_rights();
    CHECK(chdir("/") == 0 && umount2(BASE, MNT_DETACH_) == 0 && rmdir(BASE) == 0);
    return 0;
}
