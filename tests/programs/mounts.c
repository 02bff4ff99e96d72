// Mounts: propagation along peers and slaves, moves, binds, umounts, their refusals, pivot_root, and what /proc shows.
#include "check.h"
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#define BASE "/tmp/mounts"
static int groups[64], known;
// The number of a peer group, in the order in which one picture shows them: Linux uses numbers again.
static int group(int id) {
    for (int i = 0; i < known; i++)
        if (groups[i] == id) return i + 1;
    CHECK(known < 64);
    groups[known++] = id;
    return known;
}
// What is mounted below BASE: place, root, flags and whom it tells.
static void show(const char *what) {
    static char text[1 << 20];
    int fd = open("/proc/self/mountinfo", O_RDONLY);
    size_t n = 0;
    ssize_t got;
    CHECK(fd >= 0);
    while ((got = read(fd, text + n, sizeof text - 1 - n)) > 0) n += got;
    text[n] = 0;
    close(fd);
    char *lines[256];
    int count = 0;
    printf("-- %s\n", what);
    known = 0;
    for (char *save, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char root[256], at[256], flags[256], out[2048], *fields, *word;
        int used;
        CHECK(sscanf(line, "%*d %*d %*s %255s %255s %255s%n", root, at, flags, &used) == 3);
        if (strncmp(at, BASE, strlen(BASE)) != 0 || !at[strlen(BASE)]) continue;
        int len = snprintf(out, sizeof out, "%s %s %s", at + strlen(BASE), root, flags);
        fields = line + used;
        for (char *inner; (word = strtok_r(fields, " ", &inner)) && strcmp(word, "-") != 0; fields = NULL) {
            char *colon = strchr(word, ':');
            if (colon)
                len += snprintf(out + len, sizeof out - len, " %.*s:%d", (int)(colon - word), word, group(atoi(colon + 1)));
            else len += snprintf(out + len, sizeof out - len, " %s", word);
        }
        CHECK(count < 256);
        lines[count++] = strdup(out);
    }
    // As places; of two at one place the order in which they came.
    show_sorted(lines, count, as_text);
}
static void dir(const char *name) {
    char path[256];
    snprintf(path, sizeof path, BASE "/%s", name);
    CHECK(mkdir(path, 0755) == 0 || errno == EEXIST);
}
static int tmpfs(const char *at) {
    return mount("tmpfs", at, "tmpfs", 0, "size=1m");
}
static int bind(const char *from, const char *to, unsigned long more) {
    return mount(from, to, NULL, MS_BIND | more, NULL);
}
static int as(const char *at, unsigned long kind) {
    return mount(NULL, at, NULL, kind, NULL);
}
static int move(const char *from, const char *to) {
    return mount(from, to, NULL, MS_MOVE, NULL);
}
static int umount_all(const char *at) {
    return umount2(at, MNT_DETACH);
}
// A new empty tree to work in.
static void begin(const char *what) {
    printf("== %s\n", what);
    fflush(stdout);
    known = 0;
    CHECK(tmpfs(BASE) == 0 && as(BASE, MS_PRIVATE) == 0 && chdir(BASE) == 0);
}
static void end(void) {
    CHECK(chdir("/") == 0 && umount_all(BASE) == 0);
}
static void peers(void) {
    begin("peers");
    dir("a"), dir("b"), dir("c"), dir("d");
    CHECK(tmpfs("a") == 0);
    dir("a/x"), dir("a/y");
    SHOW(as("a", MS_SHARED));
    SHOW(bind("a", "b", 0));
    SHOW(bind("a", "c", 0));
    SHOW(bind("a/x", "d", 0));
    SHOW(as("c", MS_SLAVE));
    show("two peers, one slave, one of a part");
    SHOW(tmpfs("a/x"));
    show("mounted on a/x");
    SHOW(tmpfs("c/y"));
    show("mounted on the slave's y");
    SHOW(tmpfs("b/y"));
    show("mounted on b/y: the slave's goes on top");
    SHOW(umount("a/y"));
    show("taken off a/y");
    SHOW(umount("c/y"));
    SHOW(umount("d"));
    SHOW(umount("d"));
    SHOW(umount("b/x"));
    show("taken off");
    SHOW(as("c", MS_SHARED));
    SHOW(bind("c", "d", 0));
    SHOW(as("d", MS_SLAVE));
    show("a slave of a shared slave");
    SHOW(tmpfs("a/x"));
    show("down the tree");
    SHOW(as("b", MS_PRIVATE));
    SHOW(as("a", MS_PRIVATE));
    show("the top has left");
    SHOW(as("c", MS_PRIVATE));
    show("the middle too");
    end();
}
static void kinds(void) {
    begin("kinds");
    dir("a"), dir("b");
    CHECK(tmpfs("a") == 0);
    dir("a/x");
    SHOW(as("a/x", MS_SHARED));
    SHOW(as("a", MS_SHARED | MS_PRIVATE));
    SHOW(as("a", MS_SHARED | MS_RDONLY));
    SHOW(as("a", MS_SHARED | MS_SILENT));
    SHOW(as("a", MS_UNBINDABLE));
    show("unbindable");
    SHOW(bind("a", "b", 0));
    SHOW(bind("a/x", "b", 0));
    SHOW(as("a", MS_SLAVE));
    show("a slave of nobody");
    SHOW(as("a", MS_SHARED));
    SHOW(as("a", MS_SLAVE));
    show("was shared alone");
    CHECK(tmpfs("a/x") == 0);
    SHOW(as("a", MS_SHARED | MS_REC));
    SHOW(as("a/x", MS_UNBINDABLE));
    SHOW(bind("a", "b", MS_REC));
    show("all but the unbindable");
    end();
}
static void moves(void) {
    begin("moves");
    dir("a"), dir("b"), dir("c"), dir("file");
    CHECK(tmpfs("a") == 0 && tmpfs("b") == 0);
    dir("a/x"), dir("b/y"), dir("b/z");
    CHECK(close(creat("a/file", 0600)) == 0);
    CHECK(tmpfs("a/x") == 0);
    dir("a/x/deep");
    SHOW(move("a", "a/x"));
    SHOW(move("a", "a/x/deep"));
    SHOW(move("a/x/deep", "c"));
    SHOW(move("", "c"));
    SHOW(move("nowhere", "c"));
    SHOW(bind("a/file", "c", 0));
    SHOW(bind("a", "a/file", 0));
    SHOW(move("a", "a/file"));
    SHOW(move("a", "c"));
    show("a moved to c");
    SHOW(as("c", MS_SHARED));
    SHOW(move("c/x", "b/y"));
    SHOW(as("c", MS_PRIVATE));
    SHOW(as("b", MS_SHARED));
    SHOW(bind("b", "a", 0));
    SHOW(move("c/x", "b/y"));
    show("moved into a shared one");
    SHOW(as("c", MS_UNBINDABLE));
    SHOW(move("c", "b/z"));
    SHOW(bind("b", "b/z", MS_REC));
    show("onto itself");
    SHOW(umount("a/z/y"));
    SHOW(umount_all("b/z"));
    show("and off");
    end();
}
static void umounts(void) {
    begin("umounts");
    dir("a"), dir("b");
    SHOW(umount("a"));
    SHOW(umount("nowhere"));
    SHOW(umount2("a", 64));
    CHECK(tmpfs("a") == 0);
    dir("a/x");
    CHECK(symlink("a", "link") == 0);
    SHOW(umount2("link", UMOUNT_NOFOLLOW));
    int fd = open("a", O_RDONLY);
    SHOW(umount("a"));
    SHOW(umount2("a", MNT_EXPIRE));
    close(fd);
    CHECK(tmpfs("a/x") == 0);
    SHOW(umount("a"));
    SHOW(umount2("a", MNT_EXPIRE));
    SHOW(umount2("a", MNT_EXPIRE | MNT_FORCE));
    SHOW(umount("a/x"));
    SHOW(umount2("a", MNT_EXPIRE));
    SHOW(access("a/x", F_OK));
    SHOW(umount2("a", MNT_EXPIRE));
    SHOW(umount2("a", MNT_EXPIRE));
    SHOW(access("a/x", F_OK));
    CHECK(tmpfs("a") == 0);
    SHOW(umount2("link", MNT_FORCE));
    // In use where it spread to.
    CHECK(tmpfs("a") == 0 && as("a", MS_SHARED) == 0 && bind("a", "b", 0) == 0);
    dir("a/x");
    CHECK(tmpfs("a/x") == 0);
    dir("a/x/sub");
    fd = open("b/x", O_RDONLY);
    SHOW(umount("a/x"));
    close(fd);
    CHECK(as("b/x", MS_PRIVATE) == 0 && tmpfs("b/x/sub") == 0);
    SHOW(umount("a/x"));
    show("the other has something on it");
    SHOW(umount_all("b/x"));
    fd = open("a", O_RDONLY);
    SHOW(umount_all("a"));
    SHOW(mkdirat(fd, "still", 0700));
    SHOW(access("b/still", F_OK));
    close(fd);
    // Names with something on them.
    SHOW(rmdir("b"));
    SHOW(rename("b", "c"));
    CHECK(umount("b") == 0);
    SHOW(rename("b", "c"));
    end();
}
static void elsewhere(void) {
    begin("another namespace");
    dir("a"), dir("gone"), dir("kept");
    CHECK(tmpfs("a") == 0 && as("a", MS_SHARED) == 0);
    dir("a/x"), dir("a/y");
    int to[2], back[2];
    char byte = 0;
    CHECK(pipe(to) == 0 && pipe(back) == 0);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        CHECK(unshare(CLONE_NEWNS) == 0);
        CHECK(tmpfs("a/x") == 0 && tmpfs("gone") == 0);
        CHECK(write(back[1], &byte, 1) == 1 && read(to[0], &byte, 1) == 1);
        show("the child's");
        _exit(0);
    }
    CHECK(read(back[0], &byte, 1) == 1);
    show("the parent's: what a peer there mounted");
    CHECK(tmpfs("a/y") == 0);
    // Not a mount point here.
    SHOW(rmdir("gone"));
    CHECK(write(to[1], &byte, 1) == 1);
    show_wait("child", pid);
    show("after the child");
    end();
}
static int closed(int fd) {
    return fd < 0 ? fd : close(fd);
}
static void flags(void) {
    begin("flags");
    dir("a"), dir("b");
    CHECK(mount("a # name", "a", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) == 0);
    show("nosuid, nodev, noexec");
    static const unsigned long all[] = {
        0, MS_RDONLY, MS_NOATIME, MS_STRICTATIME, MS_NODIRATIME, MS_RELATIME, MS_NOSUID | MS_NODEV, MS_NOSYMFOLLOW,
        MS_NOEXEC | MS_NOATIME | MS_NODIRATIME, MS_NOATIME | MS_STRICTATIME,
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct statvfs s;
        CHECK(mount(NULL, "a", NULL, MS_REMOUNT | MS_BIND | all[i], NULL) == 0 && statvfs("a", &s) == 0);
        printf("%lx: %lx\n", all[i], s.f_flag);
        show("remounted");
    }
    CHECK(mount(NULL, "a", NULL, MS_REMOUNT | MS_BIND, NULL) == 0);
    CHECK(close(creat("a/file", 0600)) == 0 && symlink("file", "a/link") == 0 && bind("a", "b", 0) == 0);
    CHECK(mount(NULL, "b", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSYMFOLLOW, NULL) == 0);
    SHOW(closed(creat("b/new", 0600)));
    SHOW(closed(open("b/file", O_RDWR)));
    SHOW(unlink("b/file"));
    SHOW(closed(open("b/link", O_RDONLY)));
    SHOW(closed(open("a/link", O_RDWR)));
    int fd = open("a/file", O_WRONLY);
    SHOW(mount(NULL, "a", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL));
    SHOW(mount(NULL, "b", NULL, MS_REMOUNT | MS_RDONLY, NULL));
    close(fd);
    SHOW(mount(NULL, "a", NULL, MS_REMOUNT | MS_RDONLY, "size=2m"));
    show("all read-only");
    SHOW(closed(creat("a/new", 0600)));
    SHOW(mount(NULL, "b", NULL, MS_REMOUNT | MS_BIND, NULL));
    SHOW(closed(creat("b/new", 0600)));
    SHOW(mount(NULL, "a", NULL, MS_REMOUNT, NULL));
    SHOW(closed(creat("b/new", 0600)));
    SHOW(mount(NULL, "a/file", NULL, MS_REMOUNT | MS_BIND, NULL));
    SHOW(mount("x", "a", "nothing", 0, NULL));
    SHOW(mount("x", "a", NULL, 0, NULL));
    SHOW(mount("x", "a", "tmpfs", 0, "nonsense=1"));
    SHOW(mount("x", "a", "tmpfs", MS_NOUSER, NULL));
    SHOW(mount("x", "nowhere", "tmpfs", 0, NULL));
    SHOW(mount("x", "a/file", "tmpfs", 0, NULL));
    end();
}
static void names(void) {
    begin("names");
    dir("a b"), dir("c\td\\e"), dir("f#g\nh"), dir("\xc3\xa4\xff");
    CHECK(tmpfs("a b") == 0 && tmpfs("c\td\\e") == 0 && tmpfs("f#g\nh") == 0 && tmpfs("\xc3\xa4\xff") == 0);
    CHECK(mount("s p#c\\", "a b", "tmpfs", 0, NULL) == 0);
    show("escaped");
    char line[4096];
    FILE *mounts = fopen("/proc/self/mounts", "r");
    while (fgets(line, sizeof line, mounts))
        if (strstr(line, "s\\040p")) printf("%.*s\n", (int)(strstr(line, " tmpfs") - line), line);
    fclose(mounts);
    mounts = fopen("/proc/self/mountstats", "r");
    while (fgets(line, sizeof line, mounts))
        if (strstr(line, "s\\040p")) printf("%s", line);
    fclose(mounts);
    dir("dead"), dir("to");
    CHECK(bind("dead", "to", 0) == 0 && rmdir("dead") == 0);
    show("the root of a mount is removed");
    SHOW(bind("to", "a b", 0));
    end();
}
static void polled(struct pollfd *p, int timeout) {
    int n = poll(p, 1, timeout);
    printf("%d %x\n", n, n > 0 ? p->revents : 0);
    fflush(stdout);
}
static void polls(void) {
    begin("polls");
    dir("a");
    struct pollfd p = {open("/proc/self/mounts", O_RDONLY), POLLPRI | POLLIN, 0};
    CHECK(p.fd >= 0);
    polled(&p, 0);
    CHECK(tmpfs("a") == 0);
    polled(&p, 0);
    polled(&p, 0);
    p.events = POLLPRI;
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        sleep_ms(20);
        CHECK(umount("a") == 0);
        _exit(0);
    }
    polled(&p, 10000);
    show_wait("child", pid);
    close(p.fd);
    end();
}
static void show_root(void) {
    struct stat root, cwd;
    char text[256];
    CHECK(stat("/", &root) == 0 && stat(".", &cwd) == 0);
    SHOW(syscall(SYS_getcwd, text, sizeof text));
    printf("at %s: root is cwd: %d, here: %d\n", text, root.st_dev == cwd.st_dev && root.st_ino == cwd.st_ino, access("/here", F_OK));
    fflush(stdout);
}
static void pivots(void) {
    begin("pivot_root");
    dir("new"), dir("file");
    CHECK(tmpfs("new") == 0);
    dir("new/old"), dir("new/here"), dir("new/plain"), dir("new/proc");
    CHECK(close(creat("new/empty", 0600)) == 0);
    fflush(stdout);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        CHECK(unshare(CLONE_NEWNS) == 0 && as("/", MS_PRIVATE | MS_REC) == 0);
        SHOW(syscall(SYS_pivot_root, "new/plain", "new/plain"));
        SHOW(syscall(SYS_pivot_root, "new/empty", "new"));
        SHOW(syscall(SYS_pivot_root, "new", "new/empty"));
        SHOW(syscall(SYS_pivot_root, "new", "nowhere"));
        SHOW(syscall(SYS_pivot_root, "new", "/tmp"));
        SHOW(syscall(SYS_pivot_root, "new", BASE));
        SHOW(syscall(SYS_pivot_root, "/", "new"));
        CHECK(as("new", MS_SHARED) == 0);
        SHOW(syscall(SYS_pivot_root, "new", "new/old"));
        CHECK(as("new", MS_PRIVATE) == 0 && as(BASE, MS_SHARED) == 0);
        SHOW(syscall(SYS_pivot_root, "new", "new/old"));
        CHECK(as(BASE, MS_PRIVATE) == 0);
        // Others at the old root go along, those elsewhere stay.
        int go[2], done[2];
        char byte = 0;
        CHECK(pipe(go) == 0 && pipe(done) == 0);
        pid_t other = fork();
        CHECK(other >= 0);
        if (other == 0) {
            CHECK(chdir("/") == 0 && write(done[1], &byte, 1) == 1 && read(go[0], &byte, 1) == 1);
            show_root();
            _exit(0);
        }
        CHECK(read(done[0], &byte, 1) == 1 && chdir("/") == 0);
        SHOW(syscall(SYS_pivot_root, BASE "/new", BASE "/new/old"));
        CHECK(write(go[1], &byte, 1) == 1);
        show_wait("other", other);
        show_root();
        SHOW(access("/old/programs", F_OK));
        // In place of oneself.
        CHECK(bind("/plain", "/plain", 0) == 0);
        CHECK(chdir("/plain") == 0 && mkdir("here", 0700) == 0);
        SHOW(syscall(SYS_pivot_root, ".", "."));
        SHOW(umount_all("."));
        SHOW(chdir("/"));
        show_root();
        SHOW(access("/old", F_OK));
        SHOW(umount("/"));
        SHOW(mkdir("/ro", 0700));
        _exit(0);
    }
    show_wait("pivoted", pid);
    end();
}
static void many(void) {
    begin("many");
    dir("a"), dir("b"), dir("plain");
    CHECK(tmpfs("a") == 0 && as("a", MS_SHARED) == 0 && bind("a", "b", 0) == 0);
    for (int i = 0; i < 300; i++) {
        char path[64];
        snprintf(path, sizeof path, "a/%d", i);
        CHECK(mkdir(path, 0700) == 0 && bind("plain", path, 0) == 0);
    }
    SHOW(umount("a"));
    SHOW(umount_all("a"));
    SHOW(umount_all("b"));
    end();
}
static void without_rights(void) {
    begin("without rights");
    dir("a");
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        CHECK(setresuid(1000, 1000, 1000) == 0);
        SHOW(tmpfs("a"));
        SHOW(mount(NULL, "nowhere", NULL, MS_REMOUNT, NULL));
        SHOW(umount("a"));
        SHOW(umount("nowhere"));
        SHOW(umount2("a", 64));
        SHOW(syscall(SYS_pivot_root, "nowhere", "nowhere"));
        _exit(0);
    }
    show_wait("user", pid);
    end();
}
int main(void) {
    // What is done to mounts stays here, natively too.
    CHECK(unshare(CLONE_NEWNS) == 0 && as("/", MS_PRIVATE | MS_REC) == 0);
    CHECK(mkdir(BASE, 0755) == 0 || errno == EEXIST);
    umask(022);
    peers();
    kinds();
    moves();
    umounts();
    elsewhere();
    flags();
    names();
    polls();
    pivots();
    many();
    without_rights();
    CHECK(rmdir(BASE) == 0);
    return 0;
}
