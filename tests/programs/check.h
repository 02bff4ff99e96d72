// What the test programs share. A program prints what it found, the same on every Linux; a check that fails says where.
#pragma once
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHECK(condition)                                                                              \
    do {                                                                                              \
        if (!(condition)) {                                                                           \
            int e_ = errno;                                                                           \
            fprintf(stderr, "%s:%d: %s (errno %d: %s)\n", __FILE_NAME__, __LINE__, #condition, e_,    \
                    strerror(e_));                                                                    \
            _exit(99);                                                                                \
        }                                                                                             \
    } while (0)

// Prints a call's result, and its errno by name where it failed.
#define SHOW(call)                                                                                    \
    do {                                                                                              \
        errno = 0;                                                                                    \
        long r_ = (long)(call);                                                                       \
        printf("%s = %s%s\n", #call, r_ < 0 ? "-1 " : r_ == 0 ? "0" : "positive",                     \
               r_ < 0 ? strerrorname_np(errno) : "");                                                 \
        fflush(stdout);                                                                               \
    } while (0)

static inline void sleep_ms(long ms) {
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&t, &t) != 0 && errno == EINTR) {
    }
}

static inline double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

// Prints lines in their order and frees them; those that are alike stay as they came.
static inline void show_sorted(char **lines, int count, int (*compare)(const void *, const void *)) {
    for (int i = 1; i < count; i++)
        for (int j = i; j > 0 && compare(&lines[j - 1], &lines[j]) > 0; j--) {
            char *swap = lines[j];
            lines[j] = lines[j - 1];
            lines[j - 1] = swap;
        }
    for (int i = 0; i < count; i++) {
        printf("%s\n", lines[i]);
        free(lines[i]);
    }
    fflush(stdout);
}
static inline int as_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

// Waits until so many of the process's other threads sleep.
static inline void until_threads_sleep(int threads) {
    for (int asleep = -1; asleep != threads;) {
        asleep = 0;
        DIR *tasks = opendir("/proc/self/task");
        CHECK(tasks);
        for (struct dirent *e; (e = readdir(tasks));) {
            char path[300], state;
            snprintf(path, sizeof path, "/proc/self/task/%s/stat", e->d_name);
            FILE *f = atoi(e->d_name) > 0 && atoi(e->d_name) != gettid() ? fopen(path, "r") : NULL;
            if (!f) continue;
            if (fscanf(f, "%*d (%*[^)]) %c", &state) == 1) asleep += state == 'S';
            fclose(f);
        }
        closedir(tasks);
        sleep_ms(1);
    }
}

// Waits for a child and prints how it ended.
static inline void show_wait(const char *what, pid_t pid) {
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    if (WIFEXITED(status)) printf("%s: exit %d\n", what, WEXITSTATUS(status));
    else printf("%s: signal %d\n", what, WTERMSIG(status));
    fflush(stdout);
}
