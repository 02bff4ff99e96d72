// What fills a tmpfs beside the data of its files: long links its pages, attributes its inodes.
#include "check.h"
#include <sys/mount.h>
#include <sys/statfs.h>
#include <sys/utsname.h>
#include <sys/xattr.h>

static char text[70000];
static void room(const char *label) {
    struct statfs s;
    CHECK(statfs("/room", &s) == 0);
    printf("%s: %ld pages and %ld inodes free\n", label, (long)s.f_bfree, (long)s.f_ffree);
    fflush(stdout);
}
static long inodes(void) {
    struct statfs s;
    CHECK(statfs("/room", &s) == 0);
    return s.f_ffree;
}
static void target(int length) {
    char name[32], back[4200];
    struct stat s;
    text[length] = 0;
    snprintf(name, sizeof name, "/room/%d", length);
    CHECK(symlink(text, name) == 0 && lstat(name, &s) == 0);
    ssize_t n = readlink(name, back, sizeof back);
    printf("link of %d: size %ld, blocks %ld, %d\n", length, (long)s.st_size, (long)s.st_blocks, n == length && !memcmp(back, text, n));
    text[length] = 'x';
    room("with it");
}
// Nothing is printed, since a Linux before 6.6 has other attributes here, and counts none.
static void attributes(void) {
    struct utsname uts;
    int major = 0, minor = 0;
    CHECK(uname(&uts) == 0 && sscanf(uts.release, "%d.%d", &major, &minor) == 2);
    if (major * 100 + minor < 606 && !strstr(uts.release, "ringwall")) return;
    CHECK(mount("tmpfs", "/room", "tmpfs", 0, "size=64k,nr_inodes=20") == 0);
    CHECK(inodes() == 19 && close(creat("/room/f", 0600)) == 0 && inodes() == 18);
    // Of 1024 bytes each, of which 40, the name's and the value's are taken.
    CHECK(setxattr("/room/f", "user.a", text, 1024 - 40 - 6, 0) == 0 && inodes() == 17);
    CHECK(setxattr("/room/f", "user.a", text, 1024 - 40 - 5, 0) == 0 && inodes() == 16);
    CHECK(setxattr("/room/f", "user.a", text, 10, XATTR_CREATE) == -1 && errno == EEXIST && inodes() == 16);
    CHECK(setxattr("/room/f", "user.b", text, 10, XATTR_REPLACE) == -1 && errno == ENODATA && inodes() == 16);
    CHECK(setxattr("/room/f", "user.a", text, 10, 0) == 0 && inodes() == 17);
    CHECK(setxattr("/room/f", "user.b", text, 18 * 1024 - 56 - 46 + 1, 0) == -1 && errno == ENOSPC && inodes() == 17);
    CHECK(setxattr("/room/f", "user.b", text, 18 * 1024 - 56 - 46, 0) == 0);
    CHECK(inodes() == 0 && creat("/room/g", 0600) == -1 && errno == ENOSPC);
    // Even less is too much while the old one is there.
    CHECK(setxattr("/room/f", "user.b", text, 16 * 1024, 0) == -1 && errno == ENOSPC);
    CHECK(mount(NULL, "/room", NULL, MS_REMOUNT, "nr_inodes=19") == -1 && errno == EINVAL);
    CHECK(mount(NULL, "/room", NULL, MS_REMOUNT, "nr_inodes=22") == 0 && inodes() == 2);
    CHECK(removexattr("/room/f", "user.b") == 0 && inodes() == 19);
    CHECK(setxattr("/room/f", "user.b", text, 2000, 0) == 0 && inodes() == 17);
    CHECK(unlink("/room/f") == 0 && inodes() == 21);
    CHECK(umount("/room") == 0);
    // Without a limit of inodes they count nothing.
    CHECK(mount("tmpfs", "/room", "tmpfs", 0, "nr_inodes=0") == 0 && close(creat("/room/f", 0600)) == 0);
    for (int i = 0; i < 20; i++) {
        char name[32];
        snprintf(name, sizeof name, "user.%d", i);
        CHECK(setxattr("/room/f", name, text, 65536, 0) == 0);
    }
    CHECK(inodes() == 0 && umount("/room") == 0);
}
int main(void) {
    memset(text, 'x', sizeof text);
    CHECK(mkdir("/room", 0755) == 0 && mount("tmpfs", "/room", "tmpfs", 0, "size=16k,nr_inodes=10") == 0);
    room("empty");
    static const int lengths[] = {1, 60, 127, 128, 129, 200, 4095};
    for (int i = 0; i < 7; i++) target(lengths[i]);
    text[300] = 0;
    SHOW(symlink(text, "/room/a"));
    SHOW(symlink(text, "/room/b"));
    SHOW(unlink("/room/4095"));
    room("without the longest");
    SHOW(symlink(text, "/room/b"));
    room("again");
    text[300] = 'x';
    CHECK(umount("/room") == 0);
    attributes();
    return 0;
}
