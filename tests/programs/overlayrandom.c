// Random operations on overlays with two lower layers, from seeds, each with its result; then what is merged, and what the
// upper layer has. Small sets of names and of modes, so that operations meet.
#include "check.h"
#include <sched.h>
#include <sys/mount.h>
#define BASE "/tmp/random"

static uint64_t state;

static unsigned pick(unsigned n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(state >> 33) % n;
}

// A path of up to three names below `base`.
static const char *path(const char *base) {
    static char all[4][200];
    static int next;
    static const char *const words[] = {"a", "b", "c", "d"};
    char *at = all[next++ % 4];
    int n = snprintf(at, 200, "%s", base);
    for (int depth = 1 + pick(3); depth > 0; depth--) n += snprintf(at + n, 200 - n, "/%s", words[pick(4)]);
    return at;
}

static long report(const char *what, const char *where, long result) {
    int e = errno;
    printf("%s %s: %s\n", what, where, result < 0 ? strerrorname_np(e) : "done");
    return result;
}

static void fill(const char *base, int operations) {
    CHECK(mkdir(base, 0755) == 0);
    for (int i = 0; i < operations; i++) {
        const char *at = path(base);
        int fd;
        switch (pick(4)) {
        case 0:
        case 1: mkdir(at, 0700 + pick(2) * 055); break;
        case 2:
            if ((fd = open(at, O_CREAT | O_EXCL | O_WRONLY, 0600 + pick(2) * 044)) >= 0) {
                CHECK(write(fd, at, strlen(at)) > 0);
                close(fd);
            }
            break;
        case 3: (void)!symlink("a/b", at); break;
        }
    }
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void tree(const char *dir, int depth) {
    char *names[64], at[300];
    int n = 0;
    DIR *d = opendir(dir);
    CHECK(d);
    for (struct dirent *e; (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        CHECK(n < 64);
        names[n++] = strdup(e->d_name);
    }
    closedir(d);
    qsort(names, n, sizeof *names, by_name);
    for (int i = 0; i < n; i++) {
        struct stat st;
        snprintf(at, sizeof at, "%s/%s", dir, names[i]);
        CHECK(lstat(at, &st) == 0);
        printf("%*s%s %o", depth * 2, "", names[i], st.st_mode);
        if (S_ISCHR(st.st_mode)) printf(" device %lx", (long)st.st_rdev);
        else if (!S_ISDIR(st.st_mode)) printf(" links %ld size %ld", (long)st.st_nlink, (long)st.st_size);
        char value[100];
        ssize_t len;
        if (S_ISREG(st.st_mode)) {
            int fd = open(at, O_RDONLY);
            CHECK(fd >= 0 && (len = read(fd, value, sizeof value)) >= 0);
            printf(" %.*s", (int)len, value);
            close(fd);
        } else if (S_ISLNK(st.st_mode)) {
            CHECK((len = readlink(at, value, sizeof value)) >= 0);
            printf(" -> %.*s", (int)len, value);
        }
        printf("\n");
        if (S_ISDIR(st.st_mode)) tree(at, depth + 1);
        free(names[i]);
    }
}

static void operation(const char *base) {
    const char *a = path(base), *b;
    char both[500];
    struct stat st;
    int fd;
    switch (pick(14)) {
    case 0: report("mkdir", a, mkdir(a, 0755)); break;
    case 1: report("rmdir", a, rmdir(a)); break;
    case 2:
    case 3: report("unlink", a, unlink(a)); break;
    case 4:
        if (report("create", a, fd = open(a, O_CREAT | O_EXCL | O_WRONLY, 0644)) >= 0) close(fd);
        break;
    case 5:
        if (report("append", a, fd = open(a, O_WRONLY | O_APPEND)) >= 0) {
            CHECK(write(fd, "+", 1) == 1);
            close(fd);
        }
        break;
    case 6: report("truncate", a, truncate(a, pick(5))); break;
    case 7: report("chmod", a, chmod(a, 0700 + pick(2) * 055)); break;
    case 8: report("symlink", a, symlink("../a", a)); break;
    case 9:
        b = path(base);
        snprintf(both, sizeof both, "%s to %s", a, b);
        report("link", both, link(a, b));
        break;
    case 10:
    case 11:
        b = path(base);
        snprintf(both, sizeof both, "%s to %s", a, b);
        report("rename", both, rename(a, b));
        break;
    case 12: {
        unsigned flags = 1 + pick(2);
        b = path(base);
        snprintf(both, sizeof both, "%s to %s", a, b);
        report(flags == RENAME_NOREPLACE ? "rename anew" : "exchange", both, renameat2(AT_FDCWD, a, AT_FDCWD, b, flags));
        break;
    }
    case 13:
        report("stat", a, lstat(a, &st));
        break;
    }
}

int main(int argc, char **argv) {
    CHECK(unshare(CLONE_NEWNS) == 0 && mount(0, "/", 0, MS_REC | MS_PRIVATE, 0) == 0);
    CHECK(mkdir(BASE, 0755) == 0 && mount("tmpfs", BASE, "tmpfs", 0, 0) == 0);
    int first = argc > 1 ? atoi(argv[1]) : 1, last = argc > 1 ? first : 12;
    for (int seed = first; seed <= last; seed++) {
        char base[100], merged[200], work[200], options[900];
        state = seed;
        snprintf(base, sizeof base, BASE "/%d", seed);
        CHECK(mkdir(base, 0755) == 0);
        static const char *const layers[] = {"one", "two", "upper"};
        for (int i = 0; i < 3; i++) {
            snprintf(merged, sizeof merged, "%s/%s", base, layers[i]);
            fill(merged, i < 2 ? 30 : 4);
        }
        snprintf(work, sizeof work, "%s/work", base);
        snprintf(merged, sizeof merged, "%s/merged", base);
        CHECK(mkdir(work, 0755) == 0 && mkdir(merged, 0755) == 0);
        snprintf(options, sizeof options, "lowerdir=%s/one:%s/two,upperdir=%s/upper,workdir=%s,redirect_dir=off", base, base,
                 base, work);
        CHECK(mount("overlay", merged, "overlay", 0, options) == 0);
        printf("== %d\n", seed);
        for (int i = 0; i < 800; i++) operation(merged);
        printf("merged\n");
        tree(merged, 1);
        CHECK(umount(merged) == 0);
        char layer[200];
        snprintf(layer, sizeof layer, "%s/upper", base);
        printf("upper\n");
        tree(layer, 1);
        snprintf(layer, sizeof layer, "%s/one", base);
        tree(layer, 1);
        // The marks of directories are not shown: a rename that fails may leave one. What they are for is.
        CHECK(mount("overlay", merged, "overlay", 0, options) == 0);
        printf("again\n");
        tree(merged, 1);
        CHECK(umount(merged) == 0);
    }
    CHECK(umount(BASE) == 0 && rmdir(BASE) == 0);
    return 0;
}
