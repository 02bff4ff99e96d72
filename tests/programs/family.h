// Parents and children that take turns, of which some are other users or in other namespaces.
#pragma once
#include "check.h"
#include <grp.h>
#include <sys/prctl.h>

static int to_child[2], to_parent[2];
static inline void pipes(void) { CHECK(pipe(to_child) == 0 && pipe(to_parent) == 0); }
static inline void no_pipes(void) {
    for (int i = 0; i < 2; i++) close(to_child[i]), close(to_parent[i]);
}

// The other side's turn, and the wait for one's own.
static inline void give(int *ends) { CHECK(write(ends[1], "x", 1) == 1); }
static inline void take(int *ends) {
    char c;
    CHECK(read(ends[0], &c, 1) == 1);
}

// A child, made with more flags of clone(2).
static inline pid_t born(unsigned long flags) {
    fflush(stdout);
    pid_t pid = (pid_t)syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
    CHECK(pid >= 0);
    return pid;
}
static inline void finish(int status) {
    fflush(stdout);
    _exit(status);
}

// Becomes another user for good, whom others of the same may still look at.
static inline void become(uid_t id) {
    CHECK(setgroups(0, NULL) == 0 && setresgid(id, id, id) == 0 && setresuid(id, id, id) == 0);
    CHECK(prctl(PR_SET_DUMPABLE, 1) == 0);
}

// Writes a file whole; 0, or -1 and errno of the opening or the writing.
static inline int put(const char *path, const char *text) {
    int fd = open(path, O_WRONLY);
    if (fd < 0) return -1;
    ssize_t n = write(fd, text, strlen(text));
    int e = errno;
    close(fd);
    errno = e;
    return n == (ssize_t)strlen(text) ? 0 : -1;
}
