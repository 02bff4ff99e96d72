// Mounts in user namespaces: what their owners may mount and take away, what is locked, and set-id files.
#include "family.h"
#include <dirent.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/statfs.h>
#include <linux/magic.h>
#define HERE "/tmp/usermounts"
static void maps(pid_t pid, const char *users, const char *groups) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/uid_map", pid);
    CHECK(put(path, users) == 0);
    snprintf(path, sizeof path, "/proc/%d/gid_map", pid);
    CHECK(put(path, groups) == 0);
}
// What `unshare -Urm` makes of an ordinary user.
static void enter(unsigned long more) {
    become(1000);
    CHECK(unshare((int)(CLONE_NEWUSER | CLONE_NEWNS | more)) == 0);
    CHECK(put("/proc/self/setgroups", "deny") == 0 && put("/proc/self/uid_map", "0 1000 1") == 0);
    CHECK(put("/proc/self/gid_map", "0 1000 1") == 0);
}
static void make(const char *path) { CHECK(mkdir(path, 0755) == 0 && chown(path, 1000, 1000) == 0); }
static void owner(const char *path) {
    struct stat s;
    if (stat(path, &s) != 0) printf("%s: %s\n", path, strerrorname_np(errno));
    else printf("%s: %u %u %o\n", path, s.st_uid, s.st_gid, s.st_mode);
}
static void entries(const char *path) {
    DIR *d = opendir(path);
    int n = 0;
    if (d == NULL) {
        printf("%s: %s\n", path, strerrorname_np(errno));
        return;
    }
    while (readdir(d) != NULL) n++;
    closedir(d);
    printf("%s: %d entries\n", path, n);
}
// Whether mountinfo says that a mount is a slave, a peer, both or neither.
static void sharing(const char *at) {
    FILE *f = fopen("/proc/self/mountinfo", "r");
    char text[1024], want[128];
    CHECK(f != NULL);
    snprintf(want, sizeof want, " %s ", at);
    while (fgets(text, sizeof text, f) != NULL)
        if (strstr(text, want) != NULL)
            printf("%s:%s%s\n", at, strstr(text, " shared:") ? " shared" : "", strstr(text, " master:") ? " slave" : "");
    fclose(f);
}
static int bind(const char *from, const char *to, unsigned long flags) { return mount(from, to, NULL, MS_BIND | flags, NULL); }
static int again(const char *at, unsigned long flags) { return mount(NULL, at, NULL, MS_REMOUNT | MS_BIND | flags, NULL); }
static void types(void) {
    pid_t pid = born(0);
    if (pid == 0) {
        enter(0);
        SHOW(mount("none", HERE "/a", "tmpfs", 0, "mode=750"));
        owner(HERE "/a");
        SHOW(close(creat(HERE "/a/file", 0644)));
        owner(HERE "/a/file");
        SHOW(chown(HERE "/a/file", 1, 0));
        SHOW(chown(HERE "/a/file", 0, 0));
        SHOW(mknod(HERE "/a/null", S_IFCHR | 0666, 0x103));
        SHOW(mknod(HERE "/a/fifo", S_IFIFO | 0666, 0));
        SHOW(mount(NULL, HERE "/a", NULL, MS_REMOUNT | MS_RDONLY, NULL));
        SHOW(creat(HERE "/a/more", 0644));
        SHOW(umount(HERE "/a"));
        SHOW(mount("none", HERE "/a", "tmpfs", 0, "uid=0,gid=0"));
        SHOW(mount("none", HERE "/a", "tmpfs", 0, "uid=1"));
        SHOW(mount("none", HERE "/a", "devpts", 0, "newinstance,ptmxmode=0666,mode=0620"));
        SHOW(mount("none", HERE "/b", "devtmpfs", 0, NULL));
        SHOW(mount("none", HERE "/b", "mqueue", 0, NULL));
        SHOW(mount("none", HERE "/b", "sysfs", 0, NULL));
        SHOW(mount("none", HERE "/b", "proc", 0, NULL));
        SHOW(mount("none", HERE "/b", "nonesuch", 0, NULL));
        SHOW(unshare(CLONE_NEWIPC));
        SHOW(mount("none", HERE "/b", "mqueue", 0, NULL));
        // One's own pid namespace, but what hides parts of proc stays hidden.
        SHOW(unshare(CLONE_NEWPID));
        pid_t child = born(0);
        if (child == 0) {
            SHOW(mount("none", HERE "/b", "proc", 0, NULL));
            SHOW(mount("none", "/proc", "proc", 0, NULL));
            finish(0);
        }
        show_wait("types inside", child);
        finish(0);
    }
    show_wait("types", pid);
}
// A proc can be mounted where one is seen whole.
static void whole_proc(void) {
    CHECK(mount("none", HERE "/p", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) == 0);
    pid_t pid = born(0);
    if (pid == 0) {
        enter(CLONE_NEWPID);
        pid_t child = born(0);
        if (child == 0) {
            SHOW(mount("none", HERE "/b", "proc", MS_NOATIME, NULL));
            SHOW(mount("none", HERE "/b", "proc", 0, NULL));
            char target[16] = "";
            SHOW(readlink(HERE "/b/self", target, sizeof target - 1));
            printf("self is %s\n", target);
            SHOW(again(HERE "/b", MS_NOATIME));
            finish(0);
        }
        show_wait("proc inside", child);
        SHOW(mount("none", HERE "/b", "proc", 0, NULL));
        finish(0);
    }
    show_wait("whole proc", pid);
    CHECK(umount(HERE "/p") == 0);
}
static void locked(void) {
    CHECK(mount("none", HERE "/a", "tmpfs", 0, NULL) == 0 && mkdir(HERE "/a/under", 0755) == 0);
    CHECK(close(creat(HERE "/a/under/secret", 0600)) == 0);
    CHECK(mount("none", HERE "/a/under", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, NULL) == 0);
    pid_t pid = born(0);
    if (pid == 0) {
        enter(0);
        sharing(HERE "/a");
        SHOW(umount(HERE "/a/under"));
        SHOW(umount2(HERE "/a/under", MNT_DETACH));
        SHOW(umount2(HERE "/a", MNT_DETACH));
        SHOW(umount2(HERE "/a", MNT_FORCE));
        SHOW(umount2("/", MNT_DETACH));
        SHOW(umount2("/", 0));
        SHOW(mount(HERE "/a/under", HERE "/b", NULL, MS_MOVE, NULL));
        SHOW(bind(HERE "/a", HERE "/b", 0));
        SHOW(bind(HERE "/a/under", HERE "/b", 0));
        SHOW(umount(HERE "/b"));
        SHOW(bind(HERE "/a", HERE "/b", MS_REC));
        SHOW(umount(HERE "/b/under"));
        SHOW(umount(HERE "/b"));
        int fd = open(HERE "/b", O_RDONLY | O_DIRECTORY);
        CHECK(fd >= 0);
        SHOW(umount2(HERE "/b", MNT_DETACH));
        entries(HERE "/b");
        // What went along hides it still.
        CHECK(fchdir(fd) == 0);
        entries("under");
        SHOW(open("under/secret", O_RDONLY));
        SHOW(umount2("under", MNT_DETACH));
        CHECK(chdir("/") == 0);
        close(fd);
        SHOW(again(HERE "/a/under", 0));
        SHOW(again(HERE "/a/under", MS_RDONLY));
        SHOW(again(HERE "/a/under", MS_RDONLY | MS_NOSUID | MS_NODEV));
        SHOW(again(HERE "/a/under", MS_RDONLY | MS_NOSUID | MS_NOEXEC));
        SHOW(again(HERE "/a/under", MS_RDONLY | MS_NODEV | MS_NOEXEC));
        SHOW(again(HERE "/a/under", MS_NOSUID | MS_NODEV | MS_NOEXEC));
        SHOW(again(HERE "/a/under", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC));
        SHOW(again(HERE "/a/under", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME));
        SHOW(again(HERE "/a", MS_RDONLY));
        SHOW(again(HERE "/a", 0));
        SHOW(mount(NULL, HERE "/a", NULL, MS_REMOUNT | MS_RDONLY, NULL));
        SHOW(mount(NULL, HERE "/a", NULL, MS_PRIVATE, NULL));
        SHOW(mount("none", HERE "/a/under", "tmpfs", 0, NULL));
        SHOW(umount(HERE "/a/under"));
        SHOW(umount(HERE "/a/under"));
        // A second one of the same owner keeps what is locked.
        SHOW(unshare(CLONE_NEWNS));
        SHOW(umount(HERE "/a/under"));
        SHOW(mount("none", HERE "/b", "tmpfs", 0, NULL));
        SHOW(umount(HERE "/b"));
        finish(0);
    }
    show_wait("locked", pid);
    CHECK(umount(HERE "/a/under") == 0 && umount(HERE "/a") == 0);
}
static void propagation(void) {
    CHECK(mount("none", HERE "/a", "tmpfs", 0, NULL) == 0 && mount(NULL, HERE "/a", NULL, MS_SHARED, NULL) == 0);
    make(HERE "/a/in"), make(HERE "/a/out");
    pipes();
    pid_t pid = born(0);
    if (pid == 0) {
        enter(0);
        sharing(HERE "/a");
        SHOW(mount("none", HERE "/a/in", "tmpfs", 0, NULL));
        SHOW(mkdir(HERE "/a/in/x", 0755));
        give(to_parent);
        take(to_child);
        sharing(HERE "/a/out");
        entries(HERE "/a/out");
        SHOW(umount(HERE "/a/out/deep"));
        SHOW(again(HERE "/a/out", 0));
        SHOW(umount2(HERE "/a/out", MNT_DETACH));
        SHOW(mount(NULL, HERE "/a", NULL, MS_SHARED, NULL));
        sharing(HERE "/a");
        finish(0);
    }
    take(to_parent);
    entries(HERE "/a/in");
    CHECK(mount("none", HERE "/b", "tmpfs", MS_NOEXEC, NULL) == 0 && mkdir(HERE "/b/deep", 0755) == 0);
    CHECK(mount("none", HERE "/b/deep", "tmpfs", 0, NULL) == 0);
    CHECK(mount(HERE "/b", HERE "/a/out", NULL, MS_BIND | MS_REC, NULL) == 0);
    give(to_child);
    show_wait("propagation", pid);
    no_pipes();
    CHECK(umount2(HERE "/b", MNT_DETACH) == 0 && umount2(HERE "/a", MNT_DETACH) == 0);
}
// As bubblewrap does it: a root of one's own in a tmpfs, and the old one let go of.
static void new_root(void) {
    pid_t pid = born(0);
    if (pid == 0) {
        enter(0);
        SHOW(mount(NULL, "/", NULL, MS_SILENT | MS_SLAVE | MS_REC, NULL));
        SHOW(mount("tmpfs", "/tmp", "tmpfs", MS_NODEV | MS_NOSUID, NULL));
        CHECK(chdir("/tmp") == 0);
        SHOW(mkdir("newroot", 0755));
        SHOW(bind("newroot", "newroot", MS_REC));
        SHOW(mkdir("oldroot", 0755));
        SHOW(syscall(SYS_pivot_root, ".", "oldroot"));
        CHECK(chdir("/") == 0);
        SHOW(mkdir("/newroot/proc", 0755));
        SHOW(bind("/oldroot/proc", "/newroot/proc", 0));
        SHOW(bind("/oldroot/proc", "/newroot/proc", MS_REC));
        SHOW(mkdir("/newroot/old", 0755));
        SHOW(bind("/oldroot/", "/newroot/old", MS_REC));
        SHOW(again("/newroot/old", MS_RDONLY | MS_NOSUID));
        SHOW(umount2("oldroot", MNT_DETACH));
        int old = open("/", O_PATH | O_DIRECTORY);
        CHECK(old >= 0 && chdir("/newroot") == 0);
        SHOW(syscall(SYS_pivot_root, ".", "."));
        CHECK(fchdir(old) == 0);
        SHOW(umount2(".", MNT_DETACH));
        CHECK(chdir("/") == 0);
        SHOW(access("/proc/self/uid_map", R_OK));
        SHOW(access("/oldroot", F_OK));
        SHOW(mkdir("/old/made", 0755));
        SHOW(mkdir("/made", 0755));
        SHOW(unshare(CLONE_NEWUSER));
        finish(0);
    }
    show_wait("new root", pid);
}
static void say(const char *what) {
    uid_t r, e, s;
    gid_t g, h, i;
    CHECK(getresuid(&r, &e, &s) == 0 && getresgid(&g, &h, &i) == 0);
    printf("%s: %u %u %u, %u %u %u\n", what, r, e, s, g, h, i);
    fflush(stdout);
}
static void executed(const char *program, const char *what) {
    pid_t pid = born(0);
    if (pid == 0) {
        execl(program, program, "say", what, NULL);
        printf("%s: %s\n", what, strerrorname_np(errno));
        finish(1);
    }
    show_wait(what, pid);
}
static void copy(const char *from, const char *to, uid_t user, gid_t group, mode_t mode) {
    char buffer[65536];
    int in = open(from, O_RDONLY), out = open(to, O_WRONLY | O_CREAT | O_EXCL, 0700);
    ssize_t n;
    CHECK(in >= 0 && out >= 0);
    while ((n = read(in, buffer, sizeof buffer)) > 0) CHECK(write(out, buffer, (size_t)n) == n);
    CHECK(n == 0 && close(out) == 0 && close(in) == 0);
    CHECK(chown(to, user, group) == 0 && chmod(to, mode) == 0);
}
// Set-id files count where their owners have numbers, and on mounts of the namespace and those above.
static void set_ids(void) {
    copy("/proc/self/exe", HERE "/unknown", 0, 0, 06755);
    copy("/proc/self/exe", HERE "/half", 1005, 0, 06755);
    copy("/proc/self/exe", HERE "/known", 1005, 1006, 06755);
    pipes();
    pid_t pid = born(CLONE_NEWUSER | CLONE_NEWNS);
    if (pid == 0) {
        take(to_child);
        CHECK(setgroups(0, NULL) == 0 && setresgid(2, 2, 2) == 0 && setresuid(3, 3, 3) == 0);
        executed(HERE "/unknown", "of nobody here");
        executed(HERE "/half", "of no group here");
        executed(HERE "/known", "of somebody here");
        finish(0);
    }
    maps(pid, "0 1000 100", "0 1000 100");
    give(to_child);
    show_wait("set ids", pid);
    no_pipes();
    // Mounted by the owner of a namespace, they are nothing to others.
    pipes();
    pid = born(CLONE_NEWUSER | CLONE_NEWNS);
    if (pid == 0) {
        take(to_child);
        CHECK(mount("none", HERE "/a", "tmpfs", 0, "mode=1777,uid=0,gid=0") == 0);
        // Who has no number there owns nothing there.
        SHOW(creat(HERE "/a/foreign", 0644));
        SHOW(mkdir(HERE "/a/foreign", 0755));
        SHOW(link("/proc/self/exe", HERE "/a/foreign"));
        CHECK(setgroups(0, NULL) == 0 && setresgid(0, 0, 0) == 0 && setresuid(0, 0, 0) == 0);
        copy("/proc/self/exe", HERE "/a/mine", 5, 6, 06755);
        executed(HERE "/a/mine", "of the mounter");
        give(to_parent);
        take(to_child);
        finish(0);
    }
    maps(pid, "0 1000 100", "0 1000 100");
    give(to_child);
    take(to_parent);
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/root" HERE "/a/mine", pid);
    executed(path, "from outside");
    give(to_child);
    show_wait("mounter", pid);
    no_pipes();
    CHECK(unlink(HERE "/unknown") == 0 && unlink(HERE "/half") == 0 && unlink(HERE "/known") == 0);
}
int main(int argc, char **argv) {
    if (argc == 3) {
        say(argv[2]);
        return 0;
    }
    umask(022);
    CHECK(unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
    CHECK(mkdir(HERE, 0755) == 0);
    make(HERE "/a"), make(HERE "/b"), make(HERE "/p");
    types();
    whole_proc();
    locked();
    propagation();
    new_root();
    set_ids();
    CHECK(rmdir(HERE "/a") == 0 && rmdir(HERE "/b") == 0 && rmdir(HERE "/p") == 0 && rmdir(HERE) == 0);
    return 0;
}
