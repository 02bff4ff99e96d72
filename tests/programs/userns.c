// User namespaces: who makes them, maps and who may write them, ids and capabilities inside, seen from outside, and
// what the other namespaces of their owners allow.
#include "family.h"
#include <sched.h>
#include <sys/fsuid.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#define GET_USERNS 0xb701
#define GET_PARENT 0xb702
#define GET_TYPE 0xb703
#define GET_OWNER 0xb704
static char *file(pid_t pid, const char *name) {
    static char path[64];
    if (pid == 0) snprintf(path, sizeof path, "/proc/self/%s", name);
    else snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
    return path;
}
static void cat(const char *label, const char *path) {
    char text[4096];
    int fd = open(path, O_RDONLY);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (n < 0) printf("%s: %s\n", label, strerrorname_np(errno));
    else printf("%s: %zd bytes:\n%.*s", label, n, (int)n, text);
    close(fd);
}
static void line(pid_t pid, const char *name) {
    FILE *f = fopen(file(pid, "status"), "r");
    char text[256];
    CHECK(f != NULL);
    while (fgets(text, sizeof text, f) != NULL)
        if (strncmp(text, name, strlen(name)) == 0) printf("%s", text);
    fclose(f);
}
static void ids(const char *label) {
    uid_t r, e, s;
    gid_t g, h, i;
    CHECK(getresuid(&r, &e, &s) == 0 && getresgid(&g, &h, &i) == 0);
    printf("%s: %u %u %u, %u %u %u\n", label, r, e, s, g, h, i);
}
static void owner(const char *path) {
    struct stat s;
    if (stat(path, &s) != 0) printf("%s: %s\n", path, strerrorname_np(errno));
    else printf("%s: %u %u\n", path, s.st_uid, s.st_gid);
}
static int ns(pid_t pid, const char *kind) {
    char name[32];
    snprintf(name, sizeof name, "ns/%s", kind);
    int fd = open(file(pid, name), O_RDONLY);
    CHECK(fd >= 0);
    return fd;
}
static unsigned long number(int fd) {
    struct stat s;
    CHECK(fstat(fd, &s) == 0);
    return s.st_ino;
}
// An ordinary user's own: what `unshare -Ur` does.
static void unprivileged(void) {
    // One of somebody else's, and one that is the user's but that it may not read.
    CHECK(close(creat("/tmp/userns.secret", 0)) == 0 && close(creat("/tmp/userns.mine", 0)) == 0);
    CHECK(chown("/tmp/userns.mine", 1000, 1000) == 0);
    pid_t pid = born(0);
    if (pid == 0) {
        become(1000);
        int before = ns(0, "user");
        SHOW(unshare(CLONE_NEWUTS));
        SHOW(unshare(CLONE_NEWUSER));
        ids("without maps");
        line(0, "Uid");
        line(0, "Cap");
        cat("uid_map", "/proc/self/uid_map");
        cat("gid_map", "/proc/self/gid_map");
        cat("projid_map", "/proc/self/projid_map");
        cat("setgroups", "/proc/self/setgroups");
        owner("/");
        owner("/proc/self");
        SHOW(setuid(0));
        SHOW(setgroups(0, NULL));
        SHOW(unshare(CLONE_NEWUSER));
        SHOW(put("/proc/self/gid_map", "0 1000 1"));
        SHOW(put("/proc/self/uid_map", "0 1001 1"));
        SHOW(put("/proc/self/uid_map", "0 0 1"));
        SHOW(put("/proc/self/uid_map", "0 1000 2"));
        SHOW(put("/proc/self/uid_map", "0 1000 1\n1 1001 1"));
        SHOW(put("/proc/self/uid_map", "0 1000 1"));
        SHOW(put("/proc/self/uid_map", "0 1000 1"));
        SHOW(put("/proc/self/setgroups", "no"));
        SHOW(put("/proc/self/setgroups", "denys"));
        SHOW(put("/proc/self/setgroups", "allow"));
        SHOW(put("/proc/self/setgroups", "deny\n"));
        SHOW(put("/proc/self/setgroups", "allow"));
        SHOW(put("/proc/self/gid_map", "0 1000 1\n"));
        SHOW(put("/proc/self/setgroups", "deny"));
        ids("mapped");
        line(0, "Uid");
        line(0, "Gid");
        line(0, "Groups");
        line(0, "Cap");
        cat("uid_map", "/proc/self/uid_map");
        cat("gid_map", "/proc/self/gid_map");
        cat("setgroups", "/proc/self/setgroups");
        owner("/");
        owner("/proc/self");
        SHOW(setgroups(0, NULL));
        SHOW(setuid(1));
        SHOW(setuid(0));
        SHOW(setresuid(-1, 0, -1));
        SHOW(chown("/tmp", 0, 0));
        SHOW(chmod("/tmp", 01777));
        SHOW(open("/tmp/userns.secret", O_RDONLY));
        SHOW(open("/tmp/userns.mine", O_RDONLY));
        SHOW(sethostname("x", 1));
        SHOW(setns(before, CLONE_NEWUSER));
        SHOW(unshare(CLONE_NEWUTS));
        SHOW(sethostname("inside", 6));
        char name[65];
        CHECK(gethostname(name, sizeof name) == 0);
        printf("named %s\n", name);
        SHOW(setns(ns(0, "uts"), CLONE_NEWUTS));
        SHOW(chroot("/"));
        SHOW(mknod("/tmp/userns.null", S_IFCHR | 0600, 0x103));
        SHOW(nice(-1));
        finish(0);
    }
    show_wait("unprivileged", pid);
    CHECK(unlink("/tmp/userns.secret") == 0 && unlink("/tmp/userns.mine") == 0);
}
// What a parent with capabilities maps for its child.
static void mapped_by_parent(void) {
    pipes();
    pid_t pid = born(CLONE_NEWUSER);
    if (pid == 0) {
        take(to_child);
        ids("child");
        line(0, "Groups");
        cat("uid_map inside", "/proc/self/uid_map");
        SHOW(setresgid(5, 6, 7));
        SHOW(setresuid(10, 11, 12));
        ids("others");
        give(to_parent);
        take(to_child);
        SHOW(setuid(0));
        SHOW(kill(getppid(), 0));
        finish(0);
    }
    SHOW(put(file(pid, "uid_map"), ""));
    SHOW(put(file(pid, "uid_map"), "0 100000 0"));
    SHOW(put(file(pid, "uid_map"), "0 100000 10 10"));
    SHOW(put(file(pid, "uid_map"), "0 100000 10\n5 200000 10"));
    SHOW(put(file(pid, "uid_map"), "0 100000 10\n20 100005 10"));
    SHOW(put(file(pid, "uid_map"), "4294967295 100000 1"));
    SHOW(put(file(pid, "uid_map"), "x"));
    SHOW(put(file(pid, "uid_map"), "  0 100000 1000\n5000 0 1\n"));
    SHOW(put(file(pid, "uid_map"), "0 100000 1000\n"));
    SHOW(put(file(pid, "gid_map"), "0 100000 1000\n5000 0 1\n"));
    SHOW(put(file(pid, "projid_map"), "0 0 10"));
    cat("uid_map outside", file(pid, "uid_map"));
    cat("setgroups outside", file(pid, "setgroups"));
    give(to_child);
    take(to_parent);
    line(pid, "Uid");
    line(pid, "Gid");
    owner("/proc/self/cwd/.");
    give(to_child);
    show_wait("mapped", pid);
    no_pipes();
}
static void many_lines(void) {
    char text[8192];
    for (int lines = 340; lines <= 341; lines++) {
        pipes();
        pid_t pid = born(CLONE_NEWUSER);
        if (pid == 0) {
            take(to_child);
            finish(0);
        }
        size_t n = 0;
        for (int i = 0; i < lines; i++) n += (size_t)sprintf(text + n, "%d %d 1\n", i, 1000 + i);
        SHOW(put(file(pid, "uid_map"), text));
        give(to_child);
        show_wait("lines", pid);
        no_pipes();
    }
    // Many are sorted.
    pipes();
    pid_t pid = born(CLONE_NEWUSER);
    if (pid == 0) {
        take(to_child);
        finish(0);
    }
    SHOW(put(file(pid, "uid_map"), "50 1 1\n40 2 1\n30 3 1\n20 4 1\n10 5 1\n0 6 1\n"));
    cat("sorted", file(pid, "uid_map"));
    give(to_child);
    show_wait("sorted", pid);
    no_pipes();
}
static void relations(void) {
    pipes();
    pid_t pid = born(CLONE_NEWUSER);
    if (pid == 0) {
        take(to_child);
        int own = ns(0, "user"), uts = ns(0, "uts");
        SHOW(ioctl(own, GET_USERNS));
        SHOW(ioctl(own, GET_PARENT));
        SHOW(ioctl(uts, GET_USERNS));
        SHOW(unshare(CLONE_NEWUTS));
        int of_uts = ioctl(ns(0, "uts"), GET_USERNS);
        printf("the owner of a uts namespace is this one: %d\n", number(of_uts) == number(own));
        pid_t below = born(CLONE_NEWUSER | CLONE_NEWIPC);
        if (below == 0) {
            int parent = ioctl(ns(0, "user"), GET_PARENT);
            printf("parent %s\n", parent < 0 ? strerrorname_np(errno) : "there");
            give(to_parent);
            take(to_child);
            finish(0);
        }
        take(to_parent);
        int theirs = ns(below, "user");
        int parent = ioctl(theirs, GET_PARENT), of_ipc = ioctl(ns(below, "ipc"), GET_USERNS);
        printf("parent %d, of ipc %d\n", number(parent) == number(own), number(of_ipc) == number(theirs));
        printf("type %#x\n", (unsigned)ioctl(theirs, GET_TYPE));
        uid_t uid = 77;
        SHOW(ioctl(theirs, GET_OWNER, &uid));
        printf("owner %u\n", uid);
        SHOW(ioctl(uts, GET_OWNER, &uid));
        SHOW(put(file(below, "uid_map"), "7 3 1"));
        cat("below, seen from its parent", file(below, "uid_map"));
        SHOW(setns(theirs, CLONE_NEWUTS));
        SHOW(setns(theirs, CLONE_NEWUSER));
        line(0, "Cap");
        ids("below");
        fflush(stdout);
        give(to_child);
        show_wait("one below", below);
        finish(0);
    }
    CHECK(put(file(pid, "uid_map"), "0 1000 100\n1000 0 1") == 0 && put(file(pid, "gid_map"), "0 1000 100\n1000 0 1") == 0);
    give(to_child);
    show_wait("relations", pid);
    no_pipes();
}
static volatile sig_atomic_t seen_uid;
static void handler(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)context;
    seen_uid = (int)info->si_uid;
}
static void credentials(int fd, const char *label) {
    char c, control[CMSG_SPACE(sizeof(struct ucred))];
    struct iovec one = {&c, 1};
    struct msghdr m = {.msg_iov = &one, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    CHECK(recvmsg(fd, &m, 0) == 1);
    struct ucred *u = (struct ucred *)CMSG_DATA(CMSG_FIRSTHDR(&m));
    printf("%s: %u %u\n", label, u->uid, u->gid);
}
static int send_as(int fd, uid_t uid, gid_t gid) {
    char c = 'c', control[CMSG_SPACE(sizeof(struct ucred))] = {0};
    struct iovec one = {&c, 1};
    struct msghdr m = {.msg_iov = &one, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    *h = (struct cmsghdr){CMSG_LEN(sizeof(struct ucred)), SOL_SOCKET, SCM_CREDENTIALS};
    struct ucred u = {getpid(), uid, gid};
    memcpy(CMSG_DATA(h), &u, sizeof u);
    return (int)sendmsg(fd, &m, 0);
}
// Ids that cross from one namespace to another in signals and messages.
static void across(void) {
    pipes();
    int pair[2], on = 1;
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0);
    for (int i = 0; i < 2; i++) CHECK(setsockopt(pair[i], SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0);
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_RESTART};
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
    pid_t pid = born(CLONE_NEWUSER);
    if (pid == 0) {
        take(to_child);
        siginfo_t info;
        CHECK(sigwaitinfo(&set, &info) == SIGUSR1);
        printf("signalled inside by %u\n", info.si_uid);
        SHOW(kill(getppid(), SIGUSR1));
        credentials(pair[1], "received inside");
        SHOW(setresgid(4, 4, 4));
        SHOW(setresuid(3, 3, 3));
        CHECK(write(pair[1], "y", 1) == 1);
        SHOW(send_as(pair[1], 3, 4));
        SHOW(send_as(pair[1], 5, 4));
        SHOW(send_as(pair[1], 2000, 4));
        struct ucred u;
        socklen_t size = sizeof u;
        CHECK(getsockopt(pair[1], SOL_SOCKET, SO_PEERCRED, &u, &size) == 0);
        printf("peer %u %u\n", u.uid, u.gid);
        finish(0);
    }
    CHECK(put(file(pid, "uid_map"), "0 1000 100") == 0 && put(file(pid, "gid_map"), "0 1000 100") == 0);
    give(to_child);
    CHECK(kill(pid, SIGUSR1) == 0);
    CHECK(write(pair[0], "x", 1) == 1);
    credentials(pair[0], "received outside");
    credentials(pair[0], "claimed inside");
    siginfo_t info;
    CHECK(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT) == 0);
    printf("ended as %u\n", info.si_uid);
    show_wait("across", pid);
    CHECK(sigprocmask(SIG_UNBLOCK, &set, NULL) == 0);
    close(pair[0]), close(pair[1]);
    no_pipes();
}
static void *sleeper(void *arg) {
    take(to_child);
    return arg;
}
static void refusals(void) {
    SHOW(syscall(SYS_clone, CLONE_NEWUSER | CLONE_FS | SIGCHLD, 0, 0, 0, 0));
    SHOW(syscall(SYS_clone, CLONE_NEWUSER | CLONE_THREAD | CLONE_SIGHAND | CLONE_VM, 0, 0, 0, 0));
    int own = ns(0, "user");
    SHOW(setns(own, 0));
    SHOW(put("/proc/self/uid_map", "0 0 1"));
    SHOW(put("/proc/self/setgroups", "deny"));
    SHOW(put("/proc/self/setgroups", "allow"));
    cat("initial", "/proc/self/uid_map");
    pid_t pid = born(0);
    if (pid == 0) {
        pipes();
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, sleeper, NULL) == 0);
        SHOW(unshare(CLONE_NEWUSER));
        give(to_child);
        CHECK(pthread_join(thread, NULL) == 0);
        finish(0);
    }
    show_wait("with threads", pid);
    // In a process of its own: a thread that was joined may still be about to be gone.
    pid = born(0);
    if (pid == 0) {
        CHECK(mkdir("/tmp/userns.root", 0755) == 0 || errno == EEXIST);
        CHECK(chroot("/tmp/userns.root") == 0);
        SHOW(unshare(CLONE_NEWUSER));
        finish(0);
    }
    show_wait("refusals", pid);
    rmdir("/tmp/userns.root");
}
static void depth(void) {
    pid_t pid = born(0);
    if (pid == 0) {
        int levels = 0;
        while (unshare(CLONE_NEWUSER) == 0) {
            levels++;
            if (put("/proc/self/setgroups", "deny") != 0 && errno != EPERM) break;
            if (put("/proc/self/uid_map", "0 0 1") != 0 || put("/proc/self/gid_map", "0 0 1") != 0) break;
        }
        printf("%d levels, then %s\n", levels, strerrorname_np(errno));
        finish(0);
    }
    show_wait("depth", pid);
}
int main(void) {
    unprivileged();
    mapped_by_parent();
    many_lines();
    relations();
    across();
    refusals();
    depth();
    return 0;
}
