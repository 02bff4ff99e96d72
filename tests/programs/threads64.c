// 64 threads that share a mutex and a condition variable, keep thread-local values, and are joined.
#include "check.h"
#define N 64
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn_changed = PTHREAD_COND_INITIALIZER;
static int turn, counter;
static _Thread_local int local;
static pthread_barrier_t barrier;
static void *work(void *arg) {
    int me = (int)(intptr_t)arg;
    local = me;
    for (int i = 0; i < 200; i++) {
        pthread_mutex_lock(&lock);
        counter++;
        pthread_mutex_unlock(&lock);
    }
    pthread_barrier_wait(&barrier);
    // Strictly in order of their numbers.
    pthread_mutex_lock(&lock);
    while (turn != me) pthread_cond_wait(&turn_changed, &lock);
    turn++;
    pthread_cond_broadcast(&turn_changed);
    pthread_mutex_unlock(&lock);
    CHECK(local == me);
    return (void *)(intptr_t)(me * me);
}
static void *sleeper(void *arg) {
    sleep(1000);
    return arg;
}
int main(void) {
    pthread_t threads[N];
    pthread_barrier_init(&barrier, NULL, N);
    for (intptr_t i = 0; i < N; i++) CHECK(pthread_create(&threads[i], NULL, work, (void *)i) == 0);
    long sum = 0;
    for (int i = 0; i < N; i++) {
        void *result;
        CHECK(pthread_join(threads[i], &result) == 0);
        sum += (intptr_t)result;
    }
    printf("counter %d turn %d sum %ld\n", counter, turn, sum);
    // Detached threads and exit while others sleep.
    pthread_t idle;
    CHECK(pthread_create(&idle, NULL, sleeper, NULL) == 0);
    pthread_detach(idle);
    return 3;
}
