// Locks of priority inheritance: owners that die with and without a robust list, circles of owners, words that lie.
#include "check.h"
#include <linux/futex.h>
static long futex(void *a, int op, unsigned v, const void *t, void *b, unsigned w) {
    return syscall(SYS_futex, a, op | FUTEX_PRIVATE_FLAG, v, t, b, w);
}
static _Atomic unsigned one, two, three, go, failures, plain_word;
static void lock(_Atomic unsigned *word) { CHECK(futex((void *)word, FUTEX_LOCK_PI, 0, NULL, NULL, 0) == 0); }
static void unlock(_Atomic unsigned *word) { CHECK(futex((void *)word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0) == 0); }
// What a word says, without numbers that differ.
static void word(const char *what, unsigned value, unsigned tid) {
    printf("%s: %s%s%s\n", what, (value & FUTEX_TID_MASK) == tid ? "mine" : value & FUTEX_TID_MASK ? "another's" : "nobody's",
           value & FUTEX_WAITERS ? ", waited for" : "", value & FUTEX_OWNER_DIED ? ", its owner died" : "");
    fflush(stdout);
}
// Holds one and goes for two, which is held by who goes for one: of both, one learns of the circle.
static void *circle(void *arg) {
    _Atomic unsigned *mine = arg, *next = mine == &one ? &two : mine == &two ? &three : &one;
    lock(mine);
    go++;
    while (go < 3) sleep_ms(1);
    long r = futex((void *)next, FUTEX_LOCK_PI, 0, NULL, NULL, 0);
    if (r == 0) {
        unlock(next);
    } else {
        CHECK(errno == EDEADLK);
        failures++;
    }
    unlock(mine);
    return NULL;
}
// Ends while it holds a lock, of which nothing tells the kernel but that somebody waits.
static void *dies(void *arg) {
    lock(arg);
    go++;
    while (go < 2) sleep_ms(1);
    syscall(SYS_exit, 0);
    return NULL;
}
static void *inherits(void *arg) {
    lock(arg);
    unsigned seen = *(_Atomic unsigned *)arg;
    word("inherited", seen, gettid());
    unlock(arg);
    return NULL;
}
static void *plain(void *arg) {
    (void)arg;
    return (void *)futex((void *)&plain_word, FUTEX_WAIT, plain_word, NULL, NULL, 0);
}
static void *robust(void *mutex) {
    CHECK(pthread_mutex_lock(mutex) == 0);
    go++;
    while (go < 2) sleep_ms(1);
    return NULL;
}
static void *takes(void *mutex) {
    int r = pthread_mutex_lock(mutex);
    printf("%s\n", r == EOWNERDEAD ? "EOWNERDEAD" : strerror(r));
    CHECK(pthread_mutex_consistent(mutex) == 0 && pthread_mutex_unlock(mutex) == 0);
    return NULL;
}
static void *tries(void *arg) {
    SHOW(futex(arg, FUTEX_TRYLOCK_PI, 0, NULL, NULL, 0));
    SHOW(futex(arg, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0));
    struct timespec t = {0, 20000000}, past = {0, 0};
    SHOW(futex(arg, FUTEX_LOCK_PI, 0, &past, NULL, 0));
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_nsec += 20000000, t.tv_sec += t.tv_nsec / 1000000000, t.tv_nsec %= 1000000000;
    SHOW(futex(arg, FUTEX_LOCK_PI2, 0, &t, NULL, 0));
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_nsec += 20000000, t.tv_sec += t.tv_nsec / 1000000000, t.tv_nsec %= 1000000000;
    SHOW(futex(arg, FUTEX_LOCK_PI2 | FUTEX_CLOCK_REALTIME, 0, &t, NULL, 0));
    SHOW(futex(arg, FUTEX_LOCK_PI | FUTEX_CLOCK_REALTIME, 0, &t, NULL, 0));
    return NULL;
}
int main(void) {
    unsigned me = gettid();
    pthread_t threads[3];
    // One's own, another's, and what nobody can own.
    lock(&one);
    word("taken", one, me);
    SHOW(futex((void *)&one, FUTEX_LOCK_PI, 0, NULL, NULL, 0));
    SHOW(futex((void *)&one, FUTEX_TRYLOCK_PI, 0, NULL, NULL, 0));
    CHECK(pthread_create(threads, NULL, tries, (void *)&one) == 0 && pthread_join(*threads, NULL) == 0);
    word("tried", one, me);
    unlock(&one);
    word("free", one, me);
    SHOW(futex((void *)&one, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0));
    one = 0x3ffffff0;
    SHOW(futex((void *)&one, FUTEX_LOCK_PI, 0, NULL, NULL, 0));
    one = FUTEX_OWNER_DIED;
    lock(&one);
    word("of one that died", one, me);
    unlock(&one);
    word("free", one, me);
    SHOW(futex((char *)&one + 1, FUTEX_LOCK_PI, 0, NULL, NULL, 0));
    SHOW(futex((void *)16, FUTEX_LOCK_PI, 0, NULL, NULL, 0));
    SHOW(futex((void *)16, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0));
    // A circle of three.
    for (int i = 0; i < 3; i++) {
        void *start = (void *)(i == 0 ? &one : i == 1 ? &two : &three);
        CHECK(pthread_create(&threads[i], NULL, circle, start) == 0);
    }
    for (int i = 0; i < 3; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    printf("circles found: %u\n", failures);
    // Owners that die, with two that wait.
    go = 0;
    CHECK(pthread_create(&threads[0], NULL, dies, (void *)&two) == 0);
    while (!go) sleep_ms(1);
    CHECK(pthread_create(&threads[1], NULL, inherits, (void *)&two) == 0);
    CHECK(pthread_create(&threads[2], NULL, inherits, (void *)&two) == 0);
    while (!(two & FUTEX_WAITERS)) sleep_ms(1);
    go++;
    for (int i = 0; i < 3; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    word("after both", two, me);
    pthread_mutexattr_t attributes;
    pthread_mutex_t mutex;
    CHECK(pthread_mutexattr_init(&attributes) == 0);
    CHECK(pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT) == 0);
    CHECK(pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST) == 0);
    CHECK(pthread_mutex_init(&mutex, &attributes) == 0);
    for (int waited = 0; waited < 2; waited++) {
        go = 0;
        CHECK(pthread_create(&threads[0], NULL, robust, &mutex) == 0);
        while (!go) sleep_ms(1);
        if (waited) {
            CHECK(pthread_create(&threads[1], NULL, takes, &mutex) == 0);
            while (!(*(_Atomic unsigned *)&mutex & FUTEX_WAITERS)) sleep_ms(1);
        }
        go++;
        CHECK(pthread_join(threads[0], NULL) == 0);
        if (!waited) takes(&mutex);
        else CHECK(pthread_join(threads[1], NULL) == 0);
    }
    // In another process.
    _Atomic unsigned *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        CHECK(syscall(SYS_futex, shared, FUTEX_LOCK_PI, 0, NULL, NULL, 0) == 0);
        while (!(*shared & FUTEX_WAITERS)) sleep_ms(1);
        _exit(0);
    }
    while (!*shared) sleep_ms(1);
    SHOW(syscall(SYS_futex, shared, FUTEX_LOCK_PI, 0, NULL, NULL, 0));
    word("a dead process's", *shared, me);
    SHOW(syscall(SYS_futex, shared, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0));
    show_wait("child", child);
    // Who waits there in the plain way.
    plain_word = me;
    CHECK(pthread_create(threads, NULL, plain, NULL) == 0);
    until_threads_sleep(1);
    SHOW(futex((void *)&plain_word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0));
    plain_word = 0;
    SHOW(futex((void *)&plain_word, FUTEX_LOCK_PI, 0, NULL, NULL, 0));
    SHOW(futex((void *)&plain_word, FUTEX_TRYLOCK_PI, 0, NULL, NULL, 0));
    SHOW(futex((void *)&plain_word, FUTEX_WAKE, 1, NULL, NULL, 0));
    CHECK(pthread_join(*threads, NULL) == 0);
    // A word that is changed while it is waited for.
    go = 0;
    lock(&three);
    CHECK(pthread_create(threads, NULL, inherits, (void *)&three) == 0);
    until_threads_sleep(1);
    three = FUTEX_WAITERS;
    SHOW(futex((void *)&three, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0));
    SHOW(futex((void *)&three, FUTEX_LOCK_PI, 0, NULL, NULL, 0));
    three = FUTEX_WAITERS | me;
    unlock(&three);
    CHECK(pthread_join(*threads, NULL) == 0);
    puts("done");
    return 0;
}
