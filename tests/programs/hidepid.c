// Procfs that hides processes: what who sees of whose, by which options, and what of it /proc/PID/mounts tells.
#include "family.h"
#include <sys/mount.h>

static pid_t theirs, mine;
// With hidepid=ptraceable Linux says ENOENT, or EPERM where it still knows the name from somebody who may.
static int alike;
static char *at(pid_t pid, const char *what) {
    static char paths[4][64];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, 64, "/hidden/%d%s", pid, what);
    return path;
}
static const char *done(long result) {
    static char texts[8][32];
    static int next;
    char *text = texts[next++ % 8];
    if (result < 0 && alike && errno == EPERM) errno = ENOENT;
    snprintf(text, 32, "%s", result < 0 ? strerrorname_np(errno) : "ok");
    if (result > 2) close(result);
    return text;
}
static int listed(pid_t pid) {
    DIR *dir = opendir("/hidden");
    CHECK(dir != NULL);
    int found = 0;
    for (struct dirent *e; (e = readdir(dir));) found += atoi(e->d_name) == pid;
    closedir(dir);
    return found;
}
static void look(const char *who, const char *whose, pid_t pid) {
    struct stat s;
    printf("  %s at %s: listed %d, stat %s,", who, whose, listed(pid), done(stat(at(pid, ""), &s)));
    printf(" access %s, into it %s,", done(access(at(pid, ""), R_OK | X_OK)), done(chdir(at(pid, ""))));
    printf(" open %s, what is there %s,", done(open(at(pid, ""), O_RDONLY | O_DIRECTORY)), done(open(at(pid, "/status"), O_RDONLY)));
    printf(" a task %s\n", done(stat(at(pid, "/task"), &s)));
    CHECK(chdir("/") == 0);
}
static void all(const char *who) {
    look(who, "root's", theirs);
    look(who, "a user's", mine);
    look(who, "the own", getpid());
    printf("  %s: self %s, stat %s\n", who, done(open("/hidden/self/status", O_RDONLY)), done(open("/hidden/stat", O_RDONLY)));
}
static pid_t sleeper(uid_t id) {
    pid_t pid = born(0);
    if (pid == 0) {
        if (id != 0) become(id);
        give(to_parent);
        pause();
    }
    take(to_parent);
    return pid;
}
static void as(uid_t uid, gid_t group, const char *who) {
    pid_t pid = born(0);
    if (pid == 0) {
        become(uid);
        if (group != 0) CHECK(setresgid(group, group, group) == 0);
        all(who);
        finish(0);
    }
    CHECK(waitpid(pid, NULL, 0) == pid);
}
static void shown(void) {
    char line[512];
    FILE *f = fopen("/proc/self/mounts", "r");
    CHECK(f != NULL);
    while (fgets(line, sizeof line, f))
        if (strstr(line, " /hidden ")) printf("  %s", strstr(line, " /hidden "));
    fclose(f);
    fflush(stdout);
}
static void with(const char *options) {
    printf("%s\n", options);
    int r = mount("proc", "/hidden", "proc", 0, options);
    if (r != 0) {
        printf("  %s\n", strerrorname_np(errno));
        fflush(stdout);
        return;
    }
    alike = strstr(options, "hidepid=4") || strstr(options, "ptraceable");
    shown();
    all("root");
    fflush(stdout);
    as(1000, 0, "the user");
    as(1001, 0, "another");
    pid_t pid = born(0);
    if (pid == 0) {
        // In the group beside the own one.
        CHECK(setgroups(1, (gid_t[]){77}) == 0 && setresgid(1001, 1001, 1001) == 0 && setresuid(1001, 1001, 1001) == 0);
        CHECK(prctl(PR_SET_DUMPABLE, 1) == 0);
        all("one of the group");
        finish(0);
    }
    CHECK(waitpid(pid, NULL, 0) == pid);
    CHECK(umount("/hidden") == 0);
}

int main(void) {
    pipes();
    umask(0);
    CHECK(mkdir("/hidden", 0755) == 0);
    theirs = sleeper(0);
    mine = sleeper(1000);
    static const char *const options[] = {
        "", "hidepid=0", "hidepid=1", "hidepid=2", "hidepid=4", "hidepid=off", "hidepid=noaccess", "hidepid=invisible",
        "hidepid=ptraceable", "hidepid=1,gid=77", "hidepid=2,gid=77", "hidepid=4,gid=77", "gid=77", "gid=0", "hidepid=3",
        "hidepid=5", "hidepid=", "hidepid", "hidepid=nothing", "gid=", "gid=x", "gid=-1", "subset=pid", "subset=pid,hidepid=2",
        "subset=all", "subset=", "other", "hidepid=1,hidepid=0", "hidepid=2,,gid=77,",
    };
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) with(options[i]);
    // Each has its own, and a remount changes what it names.
    CHECK(mount("proc", "/hidden", "proc", 0, "hidepid=1,gid=77") == 0);
    SHOW(mount(NULL, "/hidden", NULL, MS_REMOUNT, "hidepid=2"));
    shown();
    SHOW(mount(NULL, "/hidden", NULL, MS_REMOUNT, "hidepid=9"));
    SHOW(mount(NULL, "/hidden", NULL, MS_REMOUNT, ""));
    shown();
    as(1001, 0, "another");
    SHOW(mount(NULL, "/hidden", NULL, MS_REMOUNT, "hidepid=0"));
    as(1001, 0, "another");
    printf("elsewhere %d\n", access("/proc/1/status", F_OK));
    // A folder that was entered before.
    pid_t pid = born(0);
    if (pid == 0) {
        CHECK(chdir(at(theirs, "")) == 0);
        CHECK(mount(NULL, "/hidden", NULL, MS_REMOUNT, "hidepid=2") == 0);
        become(1001);
        printf("from inside: %s\n", done(open("status", O_RDONLY)));
        finish(0);
    }
    CHECK(waitpid(pid, NULL, 0) == pid);
    CHECK(umount("/hidden") == 0);
    CHECK(kill(theirs, SIGKILL) == 0 && kill(mine, SIGKILL) == 0);
    return 0;
}
