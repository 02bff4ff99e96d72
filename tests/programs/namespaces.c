// Namespaces: files that stand for them, unshare, clone and setns into those of mounts, names, IPC and sockets.
#include "check.h"
#include <sched.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/un.h>
#define GET_PARENT 0xb702
#define GET_NSTYPE 0xb703
static int ns(const char *name) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/ns/%s", name);
    return open(path, O_RDONLY | O_CLOEXEC);
}
static ino_t number(int fd) {
    struct stat s;
    CHECK(fstat(fd, &s) == 0 && S_ISREG(s.st_mode) && (s.st_mode & 0777) == 0444);
    return s.st_ino;
}
static void show_host(const char *when) {
    char name[65];
    CHECK(gethostname(name, sizeof name) == 0);
    printf("%s: %s\n", when, name);
    fflush(stdout);
}
static int abstract(void) {
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un a = {AF_UNIX, "\0ringwall-test"};
    CHECK(fd >= 0);
    return bind(fd, (struct sockaddr *)&a, offsetof(struct sockaddr_un, sun_path) + 14);
}
static void files(void) {
    static const char *const names[] = {"cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time",
                                        "time_for_children", "user", "uts"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[64], text[64], expect[64];
        snprintf(path, sizeof path, "/proc/self/ns/%s", names[i]);
        int fd = ns(names[i]);
        CHECK(fd >= 0);
        ssize_t n = readlink(path, text, sizeof text - 1);
        CHECK(n > 0);
        text[n] = 0;
        snprintf(expect, sizeof expect, "%.*s:[%lu]", (int)(strchr(text, ':') - text), text, (unsigned long)number(fd));
        printf("%s: %.*s %s type %x\n", names[i], (int)(strchr(text, ':') - text), text, strcmp(text, expect) ? text : "fits",
               ioctl(fd, GET_NSTYPE));
        SHOW(open(path, O_RDWR));
        char byte;
        SHOW(read(fd, &byte, 1));
        close(fd);
    }
    int uts = ns("uts"), user = ns("user"), null = open("/dev/null", O_RDONLY);
    SHOW(ioctl(uts, GET_PARENT));
    SHOW(setns(uts, CLONE_NEWIPC));
    SHOW(setns(uts, CLONE_NEWUTS));
    SHOW(setns(user, 0));
    SHOW(setns(null, 0));
    SHOW(setns(-1, 0));
    int self = (int)syscall(SYS_pidfd_open, getpid(), 0);
    SHOW(setns(self, 0));
    SHOW(setns(self, 1));
    SHOW(setns(self, CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNS));
}
static void names_of_hosts(void) {
    int old = ns("uts");
    CHECK(sethostname("first", 5) == 0);
    SHOW(unshare(CLONE_NEWUTS));
    printf("another: %d\n", number(ns("uts")) != number(old));
    show_host("taken along");
    CHECK(sethostname("second", 6) == 0);
    int new = ns("uts");
    SHOW(setns(old, 0));
    show_host("back");
    SHOW(setns(new, CLONE_NEWUTS));
    show_host("there again");
    close(old);
    close(new);
}
static void semaphores(void) {
    int id = semget(4711, 1, IPC_CREAT | 0600);
    CHECK(id >= 0 && semctl(id, 0, SETVAL, 5) == 0);
    int old = ns("ipc");
    struct sembuf down = {0, -2, SEM_UNDO};
    CHECK(semop(id, &down, 1) == 0);
    SHOW(unshare(CLONE_NEWIPC));
    SHOW(semget(4711, 1, 0));
    SHOW(semget(4711, 2, IPC_CREAT | 0600));
    SHOW(setns(old, CLONE_NEWIPC));
    CHECK(semget(4711, 1, 0) == id);
    printf("undone: %d\n", semctl(id, 0, GETVAL));
    CHECK(semctl(id, 0, IPC_RMID) == 0);
    close(old);
}
static void sockets(void) {
    SHOW(abstract());
    SHOW(abstract());
    int old = ns("net");
    SHOW(unshare(CLONE_NEWNET));
    SHOW(abstract());
    SHOW(setns(old, 0));
    SHOW(abstract());
    close(old);
}
static void mounts(void) {
    int old = ns("mnt");
    CHECK(unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
    CHECK(mkdir("/tmp/ns", 0755) == 0 || errno == EEXIST);
    CHECK(mount("tmpfs", "/tmp/ns", "tmpfs", 0, "size=64k") == 0);
    CHECK(close(open("/tmp/ns/inside", O_CREAT | O_WRONLY, 0600)) == 0);
    int new = ns("mnt");
    SHOW(access("/tmp/ns/inside", F_OK));
    SHOW(setns(new, CLONE_NEWNS));
    printf("at the root: %s\n", getcwd((char[64]){0}, 64));
    close(new);
    close(old);
}
static int child(void *arg) {
    (void)arg;
    show_host("child");
    CHECK(sethostname("childs", 6) == 0);
    SHOW(semget(4712, 1, 0));
    SHOW(abstract());
    return 0;
}
static void clones(void) {
    static char stack[65536] __attribute__((aligned(16)));
    int id = semget(4712, 1, IPC_CREAT | 0600);
    CHECK(id >= 0);
    pid_t pid = clone(child, stack + sizeof stack, CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | SIGCHLD, NULL);
    CHECK(pid > 0);
    show_wait("child", pid);
    show_host("parent");
    SHOW(clone(child, stack + sizeof stack, CLONE_NEWIPC | CLONE_SYSVSEM | SIGCHLD, NULL));
    CHECK(semctl(id, 0, IPC_RMID) == 0);
}
static void without_rights(void) {
    int uts = ns("uts");
    CHECK(setresuid(1000, 1000, 1000) == 0);
    SHOW(unshare(CLONE_NEWUTS));
    SHOW(unshare(CLONE_NEWIPC));
    SHOW(unshare(CLONE_NEWNET));
    SHOW(setns(uts, 0));
}
int main(void) {
    // What is done to names and mounts stays here, natively too.
    CHECK(unshare(CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWNS) == 0);
    files();
    names_of_hosts();
    semaphores();
    sockets();
    mounts();
    clones();
    without_rights();
    return 0;
}
