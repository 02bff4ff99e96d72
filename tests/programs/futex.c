// Futexes directly: wait and wake counts, mismatches, time-outs, requeue, bitsets, across processes, robust lists.
#include "check.h"
#include <linux/futex.h>
#include <limits.h>
static long futex(void *a, int op, unsigned v, const struct timespec *t, void *b, unsigned w) {
    return syscall(SYS_futex, a, op, v, t, b, w);
}
static _Atomic unsigned word, other, awake, ready;
static void *sleeper(void *arg) {
    (void)arg;
    ready++;
    while (futex(&word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0) == -1 && errno == EINTR) {
    }
    awake++;
    return NULL;
}
static void *dies_holding(void *mutex) {
    pthread_mutex_lock(mutex);
    return NULL;
}
int main(void) {
    SHOW(futex(&word, FUTEX_WAIT_PRIVATE, 1, NULL, NULL, 0));
    struct timespec t = {0, 50000000};
    double start = now();
    SHOW(futex(&word, FUTEX_WAIT_PRIVATE, 0, &t, NULL, 0));
    printf("waited %d\n", now() - start >= 0.05);
    SHOW(futex(&word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0));
    SHOW(futex((char *)&word + 1, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0));
    SHOW(futex((void *)16, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0));
    SHOW(futex(&word, 77, 0, NULL, NULL, 0));
    pthread_t threads[6];
    for (int i = 0; i < 6; i++) pthread_create(&threads[i], NULL, sleeper, NULL);
    while (ready < 6) sleep_ms(1);
    sleep_ms(200);
    printf("woken %ld\n", futex(&word, FUTEX_WAKE_PRIVATE, 2, NULL, NULL, 0));
    while (awake < 2) sleep_ms(1);
    printf("requeued %ld\n", futex(&word, FUTEX_CMP_REQUEUE_PRIVATE, 1, (void *)10, &other, 0));
    while (awake < 3) sleep_ms(1);
    printf("on the first %ld\n", futex(&word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0));
    printf("on the other %ld\n", futex(&other, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0));
    for (int i = 0; i < 6; i++) pthread_join(threads[i], NULL);
    printf("awake %u\n", awake);
    // Shared between processes.
    _Atomic unsigned *s = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        while (*s == 0) futex(s, FUTEX_WAIT, 0, NULL, NULL, 0);
        _exit((int)*s);
    }
    sleep_ms(100);
    *s = 23;
    futex(s, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    show_wait("shared", pid);
    // Ping-pong.
    pid = fork();
    for (unsigned i = 0; i < 500; i++) {
        unsigned mine = pid == 0;
        // One read: what is waited for is what was looked at.
        for (unsigned seen; (seen = s[1]) % 2 != mine;) futex(&s[1], FUTEX_WAIT, seen, NULL, NULL, 0);
        s[1]++;
        futex(&s[1], FUTEX_WAKE, 1, NULL, NULL, 0);
    }
    if (pid == 0) _exit(0);
    show_wait("ping-pong", pid);
    printf("rounds %u\n", s[1]);
    // Absolute deadline and bitset.
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_nsec += 50000000;
    if (t.tv_nsec >= 1000000000) t.tv_nsec -= 1000000000, t.tv_sec++;
    SHOW(futex(&word, FUTEX_WAIT_BITSET_PRIVATE, 0, &t, NULL, FUTEX_BITSET_MATCH_ANY));
    SHOW(futex(&word, FUTEX_WAIT_BITSET_PRIVATE, 0, &t, NULL, 0));
    // A robust mutex whose owner died.
    pthread_mutexattr_t attribute;
    pthread_mutex_t robust;
    pthread_mutexattr_init(&attribute);
    pthread_mutexattr_setrobust(&attribute, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&robust, &attribute);
    pthread_create(&threads[0], NULL, dies_holding, &robust);
    pthread_join(threads[0], NULL);
    int r = pthread_mutex_lock(&robust);
    printf("robust %s\n", r == EOWNERDEAD ? "EOWNERDEAD" : strerror(r));
    return 0;
}
