// futex_waitv, the newer futex calls, and requeueing to a lock of priority inheritance.
#include "check.h"
#include <limits.h>
#include <linux/futex.h>
#include <sys/time.h>
#include <sys/utsname.h>
#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif
#define WAKE2 454
#define WAIT2 455
#define REQUEUE2 456
#define U32 2
struct word {
    uint64_t value, addr;
    uint32_t flags, reserved;
};
static long futex(void *a, int op, unsigned v, const void *t, void *b, unsigned w) {
    return syscall(SYS_futex, a, op, v, t, b, w);
}
static _Atomic unsigned words[130], awake, ready;
static struct word vector[130];
static long waitv(unsigned count, unsigned flags, const struct timespec *t, int clock) {
    return syscall(SYS_futex_waitv, vector, count, flags, t, clock);
}
static struct timespec in(int clock, long ms) {
    struct timespec t;
    clock_gettime(clock, &t);
    t.tv_nsec += ms * 1000000;
    t.tv_sec += t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    return t;
}
static void *any(void *arg) {
    (void)arg;
    ready++;
    long n;
    while ((n = waitv(8, 0, NULL, 0)) == -1 && errno == EINTR) {
    }
    return (void *)n;
}
static void nothing(int signal) { (void)signal; }
static _Atomic unsigned condition, lock;
static void *waits_on_condition(void *arg) {
    (void)arg;
    unsigned tid = gettid();
    ready++;
    long r = futex(&condition, FUTEX_WAIT_REQUEUE_PI_PRIVATE, 0, NULL, (void *)&lock, 0);
    CHECK(r == 0);
    // The lock is this task's now.
    CHECK((lock & FUTEX_TID_MASK) == tid);
    awake++;
    CHECK(futex(&lock, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0) == 0);
    return NULL;
}
static void *plain(void *arg) {
    (void)arg;
    ready++;
    while (futex(&condition, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0) == -1 && errno == EINTR) {
    }
    return NULL;
}
static void *waits2(void *arg) {
    ready++;
    while (syscall(WAIT2, arg, 0ul, 2ul, U32 | FUTEX_PRIVATE_FLAG, NULL, 0) == -1 && errno == EINTR) {
    }
    awake++;
    return NULL;
}
int main(void) {
    for (int i = 0; i < 130; i++) vector[i] = (struct word){0, (uintptr_t)&words[i], U32 | FUTEX_PRIVATE_FLAG, 0};
    // Errors.
    SHOW(waitv(0, 0, NULL, 0));
    SHOW(waitv(129, 0, NULL, 0));
    SHOW(waitv(1, 1, NULL, 0));
    SHOW(syscall(SYS_futex_waitv, NULL, 1, 0, NULL, 0));
    SHOW(syscall(SYS_futex_waitv, 8, 1, 0, NULL, 0));
    struct timespec t = in(CLOCK_MONOTONIC, 30), wrong = {0, -1};
    SHOW(waitv(1, 0, &t, CLOCK_BOOTTIME));
    SHOW(waitv(1, 0, &wrong, CLOCK_MONOTONIC));
    SHOW(waitv(1, 0, (void *)8, CLOCK_MONOTONIC));
    vector[1].reserved = 1;
    SHOW(waitv(2, 0, NULL, 0));
    vector[1].reserved = 0;
    vector[1].flags = U32 | 64;
    SHOW(waitv(2, 0, NULL, 0));
    vector[1].flags = 0;
    SHOW(waitv(2, 0, NULL, 0));
    vector[1].flags = U32;
    vector[1].addr++;
    SHOW(waitv(2, 0, NULL, 0));
    vector[1].addr = 16;
    SHOW(waitv(2, 0, NULL, 0));
    vector[1].addr = (uintptr_t)&words[1];
    words[1] = 1;
    SHOW(waitv(2, 0, NULL, 0));
    words[1] = 0;
    vector[1].flags = U32 | FUTEX_PRIVATE_FLAG;
    // Timeouts.
    t = in(CLOCK_MONOTONIC, 30);
    SHOW(waitv(2, 0, &t, CLOCK_MONOTONIC));
    t = in(CLOCK_REALTIME, 30);
    SHOW(waitv(128, 0, &t, CLOCK_REALTIME));
    t = in(CLOCK_MONOTONIC, 0);
    SHOW(waitv(1, 0, &t, CLOCK_MONOTONIC));
    // One of several words.
    for (int n = 0; n < 8; n += 3) {
        pthread_t thread;
        void *result;
        ready = 0;
        CHECK(pthread_create(&thread, NULL, any, NULL) == 0);
        while (!ready) sleep_ms(1);
        until_threads_sleep(1);
        printf("woken %ld\n", futex(&words[n], FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0));
        CHECK(pthread_join(thread, &result) == 0);
        printf("by word %ld\n", (long)result);
    }
    // Nothing of it is left behind.
    for (int n = 0; n < 8; n++) CHECK(futex(&words[n], FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0) == 0);
    // Moved to another word, it is woken there.
    pthread_t thread;
    void *result;
    ready = 0;
    CHECK(pthread_create(&thread, NULL, any, NULL) == 0);
    while (!ready) sleep_ms(1);
    until_threads_sleep(1);
    printf("moved %ld\n", futex(&words[5], FUTEX_CMP_REQUEUE_PRIVATE, 0, (void *)1, &words[100], 0));
    printf("on the first %ld\n", futex(&words[5], FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0));
    printf("on the other %ld\n", futex(&words[100], FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0));
    CHECK(pthread_join(thread, &result) == 0);
    printf("by word %ld\n", (long)result);
    // A handler ends the wait.
    struct sigaction sa = {.sa_handler = nothing};
    sigaction(SIGALRM, &sa, NULL);
    struct itimerval every = {{0, 20000}, {0, 20000}}, never = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &every, NULL);
    SHOW(waitv(8, 0, NULL, 0));
    setitimer(ITIMER_REAL, &never, NULL);
    // Requeueing to a lock.
    SHOW(futex(&condition, FUTEX_WAIT_REQUEUE_PI_PRIVATE, 1, NULL, (void *)&lock, 0));
    SHOW(futex(&condition, FUTEX_WAIT_REQUEUE_PI_PRIVATE, 0, NULL, (void *)&condition, 0));
    t = in(CLOCK_MONOTONIC, 30);
    SHOW(futex(&condition, FUTEX_WAIT_REQUEUE_PI_PRIVATE, 0, &t, (void *)&lock, 0));
    t = in(CLOCK_REALTIME, 30);
    SHOW(futex(&condition, FUTEX_WAIT_REQUEUE_PI_PRIVATE | FUTEX_CLOCK_REALTIME, 0, &t, (void *)&lock, 0));
    SHOW(futex(&condition, FUTEX_CMP_REQUEUE_PI_PRIVATE, 1, (void *)0, (void *)&lock, 1));
    SHOW(futex(&condition, FUTEX_CMP_REQUEUE_PI_PRIVATE, 0, (void *)0, (void *)&lock, 0));
    SHOW(futex(&condition, FUTEX_CMP_REQUEUE_PI_PRIVATE, 2, (void *)0, (void *)&lock, 0));
    SHOW(futex(&condition, FUTEX_CMP_REQUEUE_PI_PRIVATE, 1, (void *)-1l, (void *)&lock, 0));
    SHOW(futex(&condition, FUTEX_CMP_REQUEUE_PI_PRIVATE, 1, (void *)0, (void *)&condition, 0));
    SHOW(futex(&condition, FUTEX_CMP_REQUEUE_PI_PRIVATE, 1, (void *)0, (void *)&lock, 0));
    for (int held = 0; held < 2; held++) {
        pthread_t threads[4];
        ready = awake = 0;
        for (int i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, waits_on_condition, NULL) == 0);
        while (ready < 4) sleep_ms(1);
        until_threads_sleep(4);
        SHOW(futex(&condition, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0));
        SHOW(futex(&condition, FUTEX_CMP_REQUEUE_PRIVATE, 1, (void *)1, (void *)&words[0], 0));
        SHOW(futex(&condition, FUTEX_CMP_REQUEUE_PI_PRIVATE, 1, (void *)1, (void *)&words[0], 0));
        if (held) CHECK(futex(&lock, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0) == 0);
        printf("first %ld\n", futex(&condition, FUTEX_CMP_REQUEUE_PI_PRIVATE, 1, (void *)0, (void *)&lock, 0));
        printf("rest %ld\n", futex(&condition, FUTEX_CMP_REQUEUE_PI_PRIVATE, 1, (void *)(long)INT_MAX, (void *)&lock, 0));
        if (held) {
            until_threads_sleep(4);
            printf("held, waiters %d, awake %u\n", (lock & FUTEX_WAITERS) != 0, awake);
            CHECK(futex(&lock, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0) == 0);
        }
        for (int i = 0; i < 4; i++) CHECK(pthread_join(threads[i], NULL) == 0);
        printf("awake %u, lock %x\n", awake, lock);
    }
    ready = 0;
    CHECK(pthread_create(&thread, NULL, plain, NULL) == 0);
    while (!ready) sleep_ms(1);
    until_threads_sleep(1);
    SHOW(futex(&condition, FUTEX_CMP_REQUEUE_PI_PRIVATE, 1, (void *)0, (void *)&lock, 0));
    SHOW(futex(&condition, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0) == 1);
    CHECK(pthread_join(thread, NULL) == 0);
    // The newer calls, which a Linux before 6.7 does not have: nothing that differs is printed.
    struct utsname uts;
    CHECK(uname(&uts) == 0);
    bool old = syscall(WAKE2, &words[0], 1ul, 1, U32) == -1 && errno == ENOSYS;
    if (!old || strstr(uts.release, "ringwall")) {
        CHECK(syscall(WAKE2, &words[0], 1ul, 1, 0) == -1 && errno == EINVAL);
        CHECK(syscall(WAKE2, &words[0], 0ul, 1, U32) == -1 && errno == EINVAL);
        CHECK(syscall(WAKE2, &words[0], 1ul << 32, 1, U32) == -1 && errno == EINVAL);
        CHECK(syscall(WAKE2, 16, 1ul, 1, U32) == -1 && errno == EFAULT);
        CHECK(syscall(WAIT2, &words[0], 1ul, 1ul, U32, NULL, 0) == -1 && errno == EAGAIN);
        CHECK(syscall(WAIT2, &words[0], 0ul, 0ul, U32, NULL, 0) == -1 && errno == EINVAL);
        t = in(CLOCK_MONOTONIC, 20);
        CHECK(syscall(WAIT2, &words[0], 0ul, 1ul, U32, &t, CLOCK_MONOTONIC) == -1 && errno == ETIMEDOUT);
        CHECK(syscall(WAIT2, &words[0], 0ul, 1ul, U32, &t, CLOCK_BOOTTIME) == -1 && errno == EINVAL);
        pthread_t threads[3];
        ready = awake = 0;
        for (int i = 0; i < 3; i++) CHECK(pthread_create(&threads[i], NULL, waits2, (void *)&words[0]) == 0);
        while (ready < 3) sleep_ms(1);
        until_threads_sleep(3);
        CHECK(syscall(WAKE2, &words[0], 1ul, 9, U32 | FUTEX_PRIVATE_FLAG) == 0);
        CHECK(syscall(WAKE2, &words[0], 2ul, 0, U32 | FUTEX_PRIVATE_FLAG) == 0);
        CHECK(syscall(WAKE2, &words[0], 2ul, 1, U32 | FUTEX_PRIVATE_FLAG) == 1);
        struct word two[2] = {vector[0], vector[9]};
        CHECK(syscall(REQUEUE2, two, 1, 0, 9) == -1 && errno == EINVAL);
        CHECK(syscall(REQUEUE2, two, 0, -1, 9) == -1 && errno == EINVAL);
        two[0].value = 7;
        CHECK(syscall(REQUEUE2, two, 0, 0, 9) == -1 && errno == EAGAIN);
        two[0].value = 0;
        CHECK(syscall(REQUEUE2, two, 0, 1, 9) == 2);
        CHECK(syscall(WAKE2, &words[9], 2ul, 9, U32 | FUTEX_PRIVATE_FLAG) == 1);
        for (int i = 0; i < 3; i++) CHECK(pthread_join(threads[i], NULL) == 0);
        CHECK(awake == 3);
    }
    puts("done");
    return 0;
}
