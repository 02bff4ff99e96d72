// Overlay file systems: what is merged, what is written to the upper layer and how, and what is refused.
#include "check.h"
#include <dirent.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/statfs.h>
#include <sys/utsname.h>
#include <sys/xattr.h>
#define BASE "/tmp/overlay"

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

// The names of a directory, sorted.
static int names(const char *dir, char **out, int most) {
    DIR *d = opendir(dir);
    int n = 0;
    if (!d) return -1;
    for (struct dirent *e; (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        CHECK(n < most);
        out[n++] = strdup(e->d_name);
    }
    closedir(d);
    qsort(out, n, sizeof *out, by_name);
    return n;
}

// Extended attributes, but those of whose values no two overlays have the same.
static void show_xattrs(const char *path) {
    char list[4096], *all[64];
    ssize_t len = llistxattr(path, list, sizeof list);
    int n = 0;
    for (char *at = list; at < list + len; at += strlen(at) + 1) {
        if (!strcmp(at, "trusted.overlay.origin") || !strcmp(at, "trusted.overlay.uuid")) continue;
        all[n++] = at;
    }
    qsort(all, n, sizeof *all, by_name);
    for (int i = 0; i < n; i++) {
        char value[256];
        ssize_t got = lgetxattr(path, all[i], value, sizeof value);
        printf(" %s=%.*s", all[i], got < 0 ? 1 : (int)got, got < 0 ? "?" : value);
    }
}

// A tree: kinds, modes, owners, link counts, times that are old, contents.
static void tree(const char *path, int depth) {
    char *all[256], at[512];
    int n = names(path, all, 256);
    for (int i = 0; i < n; i++) {
        struct stat st;
        snprintf(at, sizeof at, "%s/%s", path, all[i]);
        printf("%*s%s", 2 * depth + 2, "", all[i]);
        if (lstat(at, &st) != 0) {
            printf(" %s\n", strerrorname_np(errno));
            continue;
        }
        // Linux makes one whiteout and links it, where others make one each.
        if (S_ISCHR(st.st_mode) && st.st_rdev == 0) {
            printf(" whiteout\n");
            free(all[i]);
            continue;
        }
        printf(" %o %d:%d n%d", st.st_mode, st.st_uid, st.st_gid, (int)st.st_nlink);
        if (st.st_mtime < 2000000) printf(" t%ld", (long)st.st_mtime);
        if (S_ISCHR(st.st_mode)) printf(" dev %lx", (long)st.st_rdev);
        if (S_ISREG(st.st_mode)) {
            char text[64];
            int fd = open(at, O_RDONLY);
            CHECK(fd >= 0);
            ssize_t got = read(fd, text, sizeof text);
            close(fd);
            printf(" %ld '%.*s'", (long)st.st_size, got < 0 ? 0 : (int)got, text);
        }
        if (S_ISLNK(st.st_mode)) {
            char text[64];
            ssize_t got = readlink(at, text, sizeof text);
            printf(" -> %.*s", (int)got, text);
        }
        show_xattrs(at);
        printf("\n");
        if (S_ISDIR(st.st_mode)) tree(at, depth + 1);
        free(all[i]);
    }
    if (n < 0) printf("%*s%s\n", 2 * depth + 2, "", strerrorname_np(errno));
}

static void show(const char *what, const char *path) {
    printf("-- %s: %s\n", what, path);
    tree(path, 0);
}

static void put(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    CHECK(fd >= 0);
    CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

static void get(const char *path) {
    char text[64];
    int fd = open(path, O_RDONLY);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text);
    if (n < 0) printf("%s: %s\n", path, strerrorname_np(errno));
    else printf("%s: '%.*s'\n", path, (int)n, text);
    if (fd >= 0) close(fd);
}

// Gives everything below the layers old times, each its own.
static int clock_;
static void age(const char *path) {
    char *all[256], at[512];
    int n = names(path, all, 256);
    for (int i = 0; i < n; i++) {
        struct stat st;
        snprintf(at, sizeof at, "%s/%s", path, all[i]);
        CHECK(lstat(at, &st) == 0);
        if (S_ISDIR(st.st_mode)) age(at);
        struct timespec t[2] = {{1000000 + clock_, 0}, {1000000 + clock_, 0}};
        CHECK(utimensat(AT_FDCWD, at, t, AT_SYMLINK_NOFOLLOW) == 0);
        clock_++;
        free(all[i]);
    }
}

static void layers(void) {
    CHECK(mount("tmpfs", BASE, "tmpfs", 0, "mode=755") == 0 && chdir(BASE) == 0);
    for (char *save, list[] = "l1 l2 up work at l1/d l1/d/deep l2/d l2/d/deep l1/opaque l2/opaque l1/only l2/fd l1/df", *d = strtok_r(list, " ", &save); d;
         d = strtok_r(NULL, " ", &save))
        CHECK(mkdir(d, 0755) == 0);
    put("l1/a", "a one");
    put("l2/a", "a two");
    put("l2/b", "b two");
    put("l1/d/x", "x one");
    put("l2/d/x", "x two");
    put("l2/d/y", "y two");
    put("l1/d/deep/p", "p one");
    put("l2/d/deep/q", "q two");
    put("l1/opaque/in", "in one");
    put("l2/opaque/hidden", "hidden");
    put("l2/gone", "gone");
    put("l1/fd", "a file over a directory");
    put("l2/fd/hidden", "hidden");
    put("l2/df", "a file below a directory");
    put("l1/only/o", "only");
    put("l2/twin", "twin");
    CHECK(link("l2/twin", "l2/twin2") == 0);
    CHECK(symlink("d/x", "l2/link") == 0);
    CHECK(mkfifo("l2/fifo", 0640) == 0);
    CHECK(mknod("l1/gone", S_IFCHR, 0) == 0);
    CHECK(mknod("l1/d/nothing", S_IFCHR, 0) == 0);
    CHECK(setxattr("l1/opaque", "trusted.overlay.opaque", "y", 1, 0) == 0);
    CHECK(setxattr("l2/b", "trusted.colour", "blue", 4, 0) == 0);
    CHECK(setxattr("l2/b", "trusted.secret", "no", 2, 0) == 0);
    CHECK(chown("l2/b", 12, 34) == 0 && chmod("l2/b", 04751) == 0);
    CHECK(chown("l2/d", 56, 78) == 0 && chmod("l1/d", 01775) == 0);
    age("l1");
    age("l2");
}

static void drop(void) {
    while (umount2("at", 0) == 0) {
    }
    CHECK(chdir("/") == 0 && umount2(BASE, 0) == 0);
}

static void over(const char *options, int flags) {
    CHECK(mount("overlay", "at", "overlay", flags, options) == 0);
}

#define UPPER "lowerdir=l1:l2,upperdir=up,workdir=work"

static void refusals(void) {
    static const char *const options[] = {
        "lowerdir=l1", "upperdir=up,workdir=work", "lowerdir=l1,upperdir=up", "lowerdir=l1,upperdir=up,workdir=up",
        "lowerdir=l1,upperdir=up,workdir=up/x", "lowerdir=l1,upperdir=up/x,workdir=up", "lowerdir=l1/a:l1",
        "lowerdir=none:l1", "lowerdir=l1,upperdir=none,workdir=work", "lowerdir=l1,upperdir=up,workdir=none",
        "lowerdir=l1,upperdir=l1,workdir=work", "lowerdir=l1,upperdir=up,workdir=l1", "lowerdir=l1:l1/d",
        "lowerdir=l1:l1", "lowerdir=l1/d,upperdir=l1,workdir=work", "lowerdir=l1:l2,colour=blue", "", "lowerdir",
        "lowerdir=", "lowerdir=:l1", "lowerdir=l1:l2,redirect_dir=sideways", "lowerdir=l1,upperdir=up,workdir=other",
    };
    CHECK(mkdir("up/x", 0755) == 0 && mkdir("other", 0755) == 0 && mount("tmpfs", "other", "tmpfs", 0, NULL) == 0);
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        errno = 0;
        long r = mount("overlay", "at", "overlay", 0, options[i]);
        printf("'%s': %s\n", options[i], r == 0 ? "mounted" : strerrorname_np(errno));
        if (r == 0) CHECK(umount2("at", 0) == 0);
    }
    CHECK(umount2("other", 0) == 0 && rmdir("other") == 0 && rmdir("up/x") == 0);
    // Of two upper layers none may be an overlay.
    over("lowerdir=l1:l2,upperdir=up,workdir=work", 0);
    CHECK(mkdir("next", 0755) == 0 && mkdir("at/u", 0755) == 0 && mkdir("at/w", 0755) == 0);
    SHOW(mount("overlay", "next", "overlay", 0, "lowerdir=l1,upperdir=at/u,workdir=at/w"));
    // Two may lie on each other, three may not.
    SHOW(mount("overlay", "next", "overlay", 0, "lowerdir=at:l2/d"));
    CHECK(mkdir("third", 0755) == 0);
    SHOW(mount("overlay", "third", "overlay", 0, "lowerdir=next:l1"));
    SHOW(umount2("next", 0));
    CHECK(rmdir("next") == 0 && rmdir("third") == 0 && umount2("at", 0) == 0);
}

// A line of /proc/self/mounts, without options of which versions of Linux show different ones.
static void show_mount(void) {
    FILE *f = fopen("/proc/self/mounts", "r");
    char line[4096];
    CHECK(f);
    while (fgets(line, sizeof line, f)) {
        char at[256], type[64], options[2048];
        if (sscanf(line, "%*s %255s %63s %2047s", at, type, options) != 3 || strcmp(at, BASE "/at") != 0) continue;
        printf("%s", type);
        for (char *save, *o = strtok_r(options, ",", &save); o; o = strtok_r(NULL, ",", &save))
            if (strncmp(o, "uuid=", 5) != 0 && strncmp(o, "redirect_dir=", 13) != 0) printf(" %s", o);
        printf("\n");
    }
    fclose(f);
}

static void read_only(void) {
    struct statfs fs;
    struct stat a, b, c;
    over("lowerdir=l1:l2", 0);
    show_mount();
    show("two lower layers", "at");
    CHECK(statfs("at", &fs) == 0);
    printf("magic %lx namelen %ld\n", (long)fs.f_type, (long)fs.f_namelen);
    // One device, and the numbers that the files have below.
    CHECK(stat("at/b", &a) == 0 && stat("l2/b", &b) == 0 && stat("at", &c) == 0);
    printf("ino %d dev %d own %d\n", a.st_ino == b.st_ino, a.st_dev == c.st_dev, a.st_dev != b.st_dev);
    CHECK(stat("at/d", &a) == 0 && stat("l1/d", &b) == 0);
    printf("dir ino %d dev %d\n", a.st_ino == b.st_ino, a.st_dev == c.st_dev);
    CHECK(stat("at/twin", &a) == 0 && stat("at/twin2", &b) == 0);
    printf("twins %d\n", a.st_ino == b.st_ino);
    SHOW(open("at/a", O_WRONLY));
    SHOW(open("at/new", O_WRONLY | O_CREAT, 0644));
    SHOW(mkdir("at/new", 0755));
    SHOW(unlink("at/a"));
    SHOW(rename("at/a", "at/z"));
    SHOW(chmod("at/a", 0600));
    SHOW(access("at/a", W_OK));
    SHOW(setxattr("at/a", "trusted.x", "y", 1, 0));
    SHOW(mount(NULL, "at", NULL, MS_REMOUNT, NULL));
    get("at/link");
    CHECK(umount2("at", 0) == 0);
}

// What has been left in the work directory, but for the whiteout that Linux keeps there.
static void show_work(void) {
    char *all[64], at[512];
    int n = names("work/work", all, 64), left = 0;
    for (int i = 0; i < n; i++) {
        struct stat st;
        snprintf(at, sizeof at, "work/work/%s", all[i]);
        CHECK(lstat(at, &st) == 0);
        left += !S_ISCHR(st.st_mode);
        free(all[i]);
    }
    printf("left behind: %d\n", left);
}

static void old_time(const char *path, struct stat *st) {
    CHECK(lstat(path, st) == 0);
    printf("%s: %o %d:%d n%d size %ld old %d\n", path, st->st_mode, st->st_uid, st->st_gid, (int)st->st_nlink,
           (long)st->st_size, st->st_mtime < 2000000);
}

// Each way to change a file copies it up.
static void copy_up(void) {
    struct stat before, st;
    over(UPPER, 0);
    show_mount();
    show("nothing changed", "up");
    CHECK(stat("at/d/deep/p", &before) == 0);
    int reader = open("at/d/deep/p", O_RDONLY), fd = open("at/d/deep/p", O_WRONLY | O_APPEND);
    char *map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, reader, 0);
    CHECK(reader >= 0 && fd >= 0 && map != MAP_FAILED);
    show("opened for writing", "up");
    CHECK(write(fd, " more", 5) == 5);
    char text[64] = "";
    CHECK(fsync(fd) == 0 && pread(reader, text, sizeof text, 0) == 10);
    printf("reader: '%s' map: '%.5s' %d\n", text, map, map[5]);
    CHECK(stat("at/d/deep/p", &st) == 0);
    printf("same ino %d dev %d\n", st.st_ino == before.st_ino, st.st_dev == before.st_dev);
    CHECK(close(fd) == 0 && close(reader) == 0 && munmap(map, 4096) == 0);
    // Attributes: the times stay what they were, but for what is changed.
    SHOW(chmod("at/a", 0600));
    old_time("up/a", &st);
    SHOW(chown("at/only/o", 5, 6));
    old_time("up/only/o", &st);
    SHOW(chown("at/b", 7, 8));
    old_time("up/b", &st);
    struct timespec times[2] = {{5, 0}, {6, 0}};
    SHOW(utimensat(AT_FDCWD, "at/d/x", times, 0));
    CHECK(stat("up/d/x", &st) == 0);
    printf("times %ld %ld\n", (long)st.st_atime, (long)st.st_mtime);
    SHOW(setxattr("at/d/y", "trusted.new", "v", 1, 0));
    SHOW(lchown("at/link", 1, 2));
    SHOW(chmod("at/fifo", 0600));
    SHOW(truncate("at/fd", 6));
    SHOW(chmod("at/opaque", 0700));
    SHOW(removexattr("at/df", "trusted.none"));
    SHOW(lchown("at/twin", 3, 4));
    old_time("at/twin", &st);
    old_time("at/twin2", &st);
    show("upper", "up");
    show("overlay", "at");
    show_work();
    CHECK(umount2("at", 0) == 0);
    over(UPPER, 0);
    show("again", "at");
    CHECK(umount2("at", 0) == 0);
}

// Names that come, go and come back.
static void names_(void) {
    struct stat st;
    over(UPPER, 0);
    put("at/new", "new");
    SHOW(mkdir("at/dir", 0751));
    SHOW(symlink("new", "at/sym"));
    SHOW(mkfifo("at/pipe", 0600));
    SHOW(mknod("at/white", S_IFCHR, 0));
    SHOW(mknod("at/null", S_IFCHR | 0666, 0x103));
    SHOW(link("at/new", "at/d/new2"));
    SHOW(link("at/b", "at/d/b2"));
    CHECK(stat("at/b", &st) == 0);
    printf("b has %d names\n", (int)st.st_nlink);
    put("at/d/deep/made", "made");
    show("made", "up");
    SHOW(unlink("at/new"));
    SHOW(unlink("at/a"));
    SHOW(unlink("at/d/x"));
    SHOW(unlink("at/gone"));
    SHOW(unlink("at/twin"));
    SHOW(rmdir("at/dir"));
    SHOW(rmdir("at/d"));
    SHOW(rmdir("at/only"));
    SHOW(unlink("at/only/o"));
    SHOW(rmdir("at/only"));
    SHOW(unlink("at/df"));
    SHOW(rmdir("at/df"));
    SHOW(open("at/df/x", O_RDONLY));
    show("removed", "up");
    show("removed", "at");
    // What comes where a whiteout is.
    put("at/a", "again");
    put("at/gone", "back");
    SHOW(mkdir("at/only", 0711));
    SHOW(mkdir("at/df", 0711));
    SHOW(link("at/b", "at/d/x"));
    SHOW(symlink("there", "at/twin"));
    SHOW(mkdir("at/d/nothing", 0700));
    show("back", "up");
    show("back", "at");
    SHOW(unlink("at/a"));
    SHOW(rmdir("at/only"));
    SHOW(rmdir("at/d/nothing"));
    show("and gone", "up");
    show_work();
    // A directory whose files are all gone.
    SHOW(unlink("at/opaque/in"));
    SHOW(rmdir("at/opaque"));
    SHOW(unlink("at/d/deep/made"));
    SHOW(unlink("at/d/deep/p"));
    SHOW(unlink("at/d/deep/q"));
    SHOW(rmdir("at/d/deep"));
    show("emptied", "up");
    int fd = open("at/d", O_TMPFILE | O_RDWR, 0640);
    if (fd >= 0) CHECK(write(fd, "tmp", 3) == 3 && close(fd) == 0);
    CHECK(umount2("at", 0) == 0);
    show_work();
}

static void renames(void) {
    over(UPPER, 0);
    SHOW(rename("at/a", "at/a2"));
    SHOW(rename("at/b", "at/d/x"));
    SHOW(rename("at/d/y", "at/b"));
    SHOW(rename("at/d", "at/e"));
    SHOW(rename("at/only", "at/e"));
    SHOW(rename("at/opaque", "at/e"));
    SHOW(rename("at/df", "at/dg"));
    show("files", "up");
    show("files", "at");
    // Directories of the upper layer alone.
    CHECK(mkdir("at/pure", 0755) == 0);
    put("at/pure/f", "f");
    SHOW(rename("at/pure", "at/d"));
    SHOW(rename("at/pure", "at/a"));
    SHOW(rename("at/a", "at/d/nothing"));
    SHOW(unlink("at/only/o"));
    SHOW(rename("at/d/nothing", "at/only"));
    show("directories", "up");
    show("directories", "at");
    SHOW(unlink("at/only/f"));
    SHOW(rename("at/only", "at/other"));
    SHOW(rmdir("at/other"));
    // renameat2.
    SHOW(renameat2(AT_FDCWD, "at/fd", AT_FDCWD, "at/b", RENAME_NOREPLACE));
    SHOW(renameat2(AT_FDCWD, "at/fd", AT_FDCWD, "at/gone", RENAME_NOREPLACE));
    SHOW(renameat2(AT_FDCWD, "at/a2", AT_FDCWD, "at/b", RENAME_EXCHANGE));
    SHOW(renameat2(AT_FDCWD, "at/twin", AT_FDCWD, "at/gone", RENAME_EXCHANGE));
    SHOW(renameat2(AT_FDCWD, "at/twin2", AT_FDCWD, "at/d", RENAME_EXCHANGE));
    CHECK(mkdir("at/pure", 0755) == 0);
    SHOW(renameat2(AT_FDCWD, "at/link", AT_FDCWD, "at/pure", RENAME_EXCHANGE));
    SHOW(renameat2(AT_FDCWD, "at/b", AT_FDCWD, "at/z", RENAME_WHITEOUT));
    SHOW(rename("at/twin", "at/twin2"));
    show("exchanged", "up");
    show("exchanged", "at");
    show_work();
    CHECK(umount2("at", 0) == 0);
}

// What is open while its file is copied up, loses its name, or is watched and locked.
static void open_files(void) {
    struct stat st;
    char text[64] = "";
    over(UPPER, 0);
    int reader = open("at/a", O_RDONLY);
    CHECK(reader >= 0);
    SHOW(unlink("at/a"));
    CHECK(read(reader, text, sizeof text) == 5 && fstat(reader, &st) == 0);
    printf("unlinked: '%s' n%d\n", text, (int)st.st_nlink);
    CHECK(close(reader) == 0);
    // Locks are of the overlay's file, before and after.
    int one = open("at/b", O_RDONLY), two = open("at/b", O_RDONLY);
    SHOW(flock(one, LOCK_EX | LOCK_NB));
    SHOW(flock(two, LOCK_EX | LOCK_NB));
    SHOW(chmod("at/b", 0644));
    int three = open("at/b", O_RDWR);
    SHOW(flock(three, LOCK_EX | LOCK_NB));
    CHECK(close(one) == 0 && close(two) == 0);
    SHOW(flock(three, LOCK_EX | LOCK_NB));
    char *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, three, 0);
    CHECK(map != MAP_FAILED);
    memcpy(map, "B", 1);
    CHECK(msync(map, 4096, MS_SYNC) == 0);
    get("at/b");
    get("up/b");
    get("l2/b");
    CHECK(munmap(map, 4096) == 0 && close(three) == 0);
    // A directory and a file of it are watched.
    int in = inotify_init1(IN_NONBLOCK);
    int dir = inotify_add_watch(in, "at/d", IN_ALL_EVENTS & ~(IN_ACCESS | IN_OPEN | IN_CLOSE_NOWRITE));
    int file = inotify_add_watch(in, "at/d/x", IN_MODIFY | IN_ATTRIB | IN_CLOSE_WRITE);
    CHECK(dir > 0 && file > 0);
    put("at/d/x", "changed");
    CHECK(chmod("at/d/y", 0600) == 0 && rename("at/d/y", "at/d/z") == 0 && unlink("at/d/z") == 0);
    static char events[4096];
    ssize_t n = read(in, events, sizeof events);
    for (char *at = events; at < events + n;) {
        struct inotify_event *e = (void *)at;
        printf("%s %x %s\n", e->wd == dir ? "dir" : "file", e->mask, e->len ? e->name : "");
        at += sizeof *e + e->len;
    }
    close(in);
    CHECK(umount2("at", 0) == 0);
}

static void as_somebody(void) {
    over(UPPER, 0);
    CHECK(mkdir("at/mine", 0755) == 0 && chown("at/mine", 1000, 1000) == 0 && chmod("at/b", 0600) == 0);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        struct stat st;
        CHECK(setgid(1000) == 0 && setuid(1000) == 0);
        SHOW(open("at/a", O_WRONLY));
        SHOW(open("at/b", O_RDONLY));
        SHOW(unlink("at/a"));
        SHOW(chmod("at/a", 0777));
        SHOW(mkdir("at/new", 0755));
        SHOW(open("at/mine/f", O_WRONLY | O_CREAT, 04755));
        SHOW(mkdir("at/mine/d", 0700));
        SHOW(symlink("x", "at/mine/l"));
        CHECK(stat("at/mine/f", &st) == 0);
        printf("%o %d:%d\n", st.st_mode, st.st_uid, st.st_gid);
        fflush(stdout);
        _exit(0);
    }
    show_wait("child", pid);
    show("as somebody", "up");
    CHECK(umount2("at", 0) == 0);
}

static void by_descriptor(void) {
    int fs = syscall(SYS_fsopen, "overlay", 0);
    CHECK(fs >= 0);
    SHOW(syscall(SYS_fsconfig, fs, 1, "lowerdir", "l1:l2", 0));
    SHOW(syscall(SYS_fsconfig, fs, 1, "upperdir", "up", 0));
    SHOW(syscall(SYS_fsconfig, fs, 1, "workdir", "work", 0));
    SHOW(syscall(SYS_fsconfig, fs, 6, NULL, NULL, 0));
    int mnt = syscall(SYS_fsmount, fs, 0, 0);
    CHECK(mnt >= 0);
    SHOW(syscall(SYS_move_mount, mnt, "", AT_FDCWD, "at", 4));
    CHECK(close(fs) == 0 && close(mnt) == 0);
    put("at/a", "by descriptor");
    get("up/a");
    SHOW(mount(NULL, "at", NULL, MS_REMOUNT | MS_RDONLY, NULL));
    SHOW(open("at/a", O_WRONLY));
    show_mount();
    // One overlay below another.
    CHECK(mkdir("up2", 0755) == 0 && mkdir("work2", 0755) == 0 && mkdir("two", 0755) == 0);
    SHOW(mount("overlay", "two", "overlay", 0, "lowerdir=at,upperdir=up2,workdir=work2"));
    SHOW(unlink("two/a"));
    SHOW(chmod("two/d/x", 0600));
    SHOW(rename("two/b", "two/bb"));
    show("over an overlay", "up2");
    show("over an overlay", "two");
    CHECK(umount2("two", 0) == 0 && umount2("at", 0) == 0);
}

// Layers that are file systems of their own.
static void several(void) {
    static const char *const each[] = {"s1", "s2", "su", "s1/d", "s2/d", "su/up", "su/work"};
    for (size_t i = 0; i < sizeof each / sizeof *each; i++) {
        CHECK(mkdir(each[i], 0755) == 0);
        if (i < 3) CHECK(mount("tmpfs", each[i], "tmpfs", 0, "mode=755") == 0);
    }
    put("s1/a", "a one");
    put("s2/a", "a two");
    put("s1/d/x", "x one");
    put("s2/d/x", "x two");
    put("s2/d/y", "y two");
    put("s2/twin", "twin");
    CHECK(link("s2/twin", "s2/d/twin") == 0);
    CHECK(mknod("s1/d/gone", S_IFCHR, 0) == 0 && setxattr("s1/d/x", "trusted.colour", "red", 3, 0) == 0);
    put("s2/d/gone", "gone");
    age("s1");
    age("s2");
    over("lowerdir=s1:s2,upperdir=su/up,workdir=su/work", 0);
    show("of three file systems", "at");
    put("at/d/y", "y new");
    SHOW(chmod("at/twin", 0600));
    SHOW(link("at/a", "at/d/a"));
    SHOW(rename("at/d/x", "at/x"));
    SHOW(rename("at/d", "at/e"));
    SHOW(unlink("at/a"));
    SHOW(rename("at/x", "su/x"));
    show("of three file systems", "su/up");
    show("of three file systems", "at");
    // Upper and work directory on two of them.
    CHECK(umount2("at", 0) == 0 && mkdir("s2/work", 0755) == 0);
    SHOW(mount("overlay", "at", "overlay", 0, "lowerdir=s1,upperdir=su/up,workdir=s2/work"));
    for (int i = 0; i < 3; i++) CHECK(umount2(each[i], 0) == 0);
}

// Marks that everybody may make: `user.overlay.` in place of `trusted.overlay.`. Nothing is printed, since a Linux before 6.6
// has no such attributes on a tmpfs.
static void user_marks(void) {
    struct utsname uts;
    int major = 0, minor = 0;
    char list[512];
    CHECK(uname(&uts) == 0 && sscanf(uts.release, "%d.%d", &major, &minor) == 2);
    if (major * 100 + minor < 606 && !strstr(uts.release, "ringwall")) return;
    CHECK(mkdir("l1/user", 0755) == 0 && mkdir("l2/user", 0755) == 0);
    put("l2/user/hidden", "hidden");
    CHECK(setxattr("l1/user", "user.overlay.opaque", "y", 1, 0) == 0);
    over(UPPER ",userxattr", 0);
    CHECK(access("at/user/hidden", F_OK) != 0 && errno == ENOENT);
    // The other marks mean nothing here.
    CHECK(access("at/opaque/hidden", F_OK) == 0);
    CHECK(listxattr("at/user", list, sizeof list) == 0);
    CHECK(unlink("at/d/x") == 0 && unlink("at/d/y") == 0 && unlink("at/d/deep/p") == 0 && unlink("at/d/deep/q") == 0);
    CHECK(rmdir("at/d/deep") == 0 && rmdir("at/d") == 0 && mkdir("at/d", 0755) == 0);
    char value[8];
    CHECK(getxattr("up/d", "user.overlay.opaque", value, sizeof value) == 1 && value[0] == 'y');
    CHECK(getxattr("up/d", "trusted.overlay.opaque", value, sizeof value) == -1 && errno == ENODATA);
    CHECK(names("at/d", (char *[4]){0}, 4) == 0);
    CHECK(umount2("at", 0) == 0);
}

int main(void) {
    CHECK(unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
    umask(022);
    mkdir(BASE, 0755);
    static void (*const parts[])(void) = {refusals, read_only, copy_up, names_, renames, open_files, as_somebody, by_descriptor, several, user_marks};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        layers();
        parts[i]();
        drop();
    }
    CHECK(rmdir(BASE) == 0);
}
