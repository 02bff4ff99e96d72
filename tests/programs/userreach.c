// Who reaches whom between user namespaces: signals, ptrace, memory, limits, priorities, /proc; and System V objects.
#include "family.h"
#include <sched.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/uio.h>
static char secret[8] = "secret";
static void enter(uid_t id) {
    char text[32];
    snprintf(text, sizeof text, "0 %u 1", id);
    become(id);
    CHECK(unshare(CLONE_NEWUSER) == 0 && put("/proc/self/setgroups", "deny") == 0);
    CHECK(put("/proc/self/uid_map", text) == 0 && put("/proc/self/gid_map", text) == 0);
}
static int attach(pid_t pid) {
    if (ptrace(PTRACE_SEIZE, pid, 0, 0) != 0) return -1;
    CHECK(ptrace(PTRACE_INTERRUPT, pid, 0, 0) == 0 && waitpid(pid, NULL, __WALL) == pid);
    CHECK(ptrace(PTRACE_DETACH, pid, 0, 0) == 0);
    return 0;
}
static long peek(pid_t pid) {
    char copy[8];
    struct iovec here = {copy, 8}, there = {secret, 8};
    return process_vm_readv(pid, &here, 1, &there, 1, 0);
}
static int file(pid_t pid, const char *name) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
    int fd = open(path, O_RDONLY);
    if (fd >= 0) close(fd);
    return fd < 0 ? -1 : 0;
}
static long link_of(pid_t pid) {
    char path[64], target[64];
    snprintf(path, sizeof path, "/proc/%d/ns/user", pid);
    return readlink(path, target, sizeof target);
}
static int limit_of(pid_t pid) {
    struct rlimit r;
    return prlimit(pid, RLIMIT_CORE, NULL, &r);
}
static int pin(pid_t pid) {
    cpu_set_t set;
    CHECK(sched_getaffinity(pid, sizeof set, &set) == 0);
    return sched_setaffinity(pid, sizeof set, &set);
}
static int batch(pid_t pid) {
    struct sched_param none = {0};
    return sched_setscheduler(pid, SCHED_OTHER, &none);
}
static void reach(const char *label, pid_t pid) {
    printf("-- %s\n", label);
    SHOW(kill(pid, 0));
    SHOW(attach(pid));
    SHOW(peek(pid));
    SHOW(limit_of(pid));
    SHOW(setpriority(PRIO_PROCESS, (id_t)pid, 5));
    SHOW(pin(pid));
    SHOW(batch(pid));
    SHOW(file(pid, "mem"));
    SHOW(file(pid, "environ"));
    SHOW(file(pid, "status"));
    SHOW(link_of(pid));
}
// Who waits to be reached.
static pid_t target(uid_t id, bool inside, uid_t then) {
    CHECK(pipe(to_child) == 0 && pipe(to_parent) == 0);
    pid_t pid = born(0);
    if (pid == 0) {
        if (inside) enter(id);
        else become(id);
        if (then != 0) prctl(PR_SET_DUMPABLE, 0);
        give(to_parent);
        pause();
        finish(0);
    }
    take(to_parent);
    for (int i = 0; i < 2; i++) close(to_child[i]), close(to_parent[i]);
    return pid;
}
static void from(const char *label, uid_t id, bool inside, const pid_t *targets, const char *const *names, int count) {
    pid_t pid = born(0);
    if (pid == 0) {
        if (inside) enter(id);
        else if (id != 0) become(id);
        printf("==== %s\n", label);
        for (int i = 0; i < count; i++) reach(names[i], targets[i]);
        finish(0);
    }
    show_wait(label, pid);
}
static void objects(void) {
    int queue = msgget(IPC_PRIVATE, 0600), segment = shmget(IPC_PRIVATE, 4096, 0600);
    CHECK(queue >= 0 && segment >= 0);
    struct msqid_ds m;
    struct shmid_ds s;
    pid_t pid = born(0);
    if (pid == 0) {
        enter(1000);
        SHOW(msgctl(queue, IPC_STAT, &m));
        SHOW(msgctl(queue, IPC_RMID, NULL));
        SHOW(shmctl(segment, IPC_STAT, &s));
        SHOW(shmctl(segment, SHM_LOCK, NULL));
        SHOW(unshare(CLONE_NEWIPC));
        SHOW(msgctl(queue, IPC_STAT, &m));
        queue = msgget(IPC_PRIVATE, 0);
        CHECK(queue >= 0);
        // The capability is over the namespace.
        SHOW(msgctl(queue, IPC_STAT, &m));
        printf("of %u %u, by %u %u\n", m.msg_perm.uid, m.msg_perm.gid, m.msg_perm.cuid, m.msg_perm.cgid);
        m.msg_perm.uid = 5;
        SHOW(msgctl(queue, IPC_SET, &m));
        m.msg_perm.uid = 0;
        SHOW(msgctl(queue, IPC_SET, &m));
        SHOW(msgctl(queue, IPC_RMID, NULL));
        finish(0);
    }
    show_wait("objects", pid);
    CHECK(msgctl(queue, IPC_RMID, NULL) == 0 && shmctl(segment, IPC_RMID, NULL) == 0);
}
// A child with more than its tracer's.
static void trace_me(void) {
    pid_t pid = born(0);
    if (pid == 0) {
        become(1000);
        for (int inside = 0; inside < 2; inside++) {
            pid_t child = born(inside ? CLONE_NEWUSER : 0);
            if (child == 0) {
                SHOW(ptrace(PTRACE_TRACEME, 0, 0, 0));
                finish(0);
            }
            show_wait("traced", child);
        }
        // The owner of a namespace is not that in it.
        SHOW(unshare(CLONE_NEWUSER));
        pid_t child = born(0);
        if (child == 0) {
            SHOW(ptrace(PTRACE_TRACEME, 0, 0, 0));
            finish(0);
        }
        show_wait("traced", child);
        finish(0);
    }
    show_wait("trace me", pid);
}
int main(void) {
    enum { COUNT = 6 };
    const char *names[COUNT] = {"a user", "the same who tells nothing", "another user", "a user's own namespace", "one that tells nothing there", "another's own namespace"};
    pid_t targets[COUNT] = {target(1000, false, 0), target(1000, false, 1), target(1001, false, 0), target(1000, true, 0), target(1000, true, 1), target(1001, true, 0)};
    from("a user", 1000, false, targets, names, COUNT);
    from("a user in a namespace", 1000, true, targets, names, COUNT);
    from("root", 0, false, targets, names, COUNT);
    for (int i = 0; i < COUNT; i++) {
        CHECK(kill(targets[i], SIGKILL) == 0);
        show_wait(names[i], targets[i]);
    }
    objects();
    trace_me();
    return 0;
}
