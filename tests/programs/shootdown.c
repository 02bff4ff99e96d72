// A page that one thread unmaps or protects is gone for a thread on another processor at once.
#include "check.h"
#include <setjmp.h>
static char *volatile page;
static _Atomic int phase;
static _Thread_local sigjmp_buf back;
static void handler(int s) { (void)s, siglongjmp(back, 1); }
static void *reader(void *arg) {
    int *late = arg;
    for (int round = 1; round <= 500; round++) {
        while (phase != 2 * round - 1) {
        }
        if (sigsetjmp(back, 1) == 0) {
            page[0] = 2;
            // The write was before the protection or it is an error; after the answer below it must fault.
        }
        phase = 2 * round;
        while (phase == 2 * round) {
        }
        if (sigsetjmp(back, 1) == 0) {
            page[0] = 3;
            (*late)++;
        }
        phase = 2 * round;
        while (phase == 2 * round) {
        }
    }
    return NULL;
}
int main(void) {
    signal(SIGSEGV, handler);
    int late = 0;
    page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pthread_t t;
    CHECK(pthread_create(&t, NULL, reader, &late) == 0);
    for (int round = 1; round <= 500; round++) {
        CHECK(mprotect(page, 4096, PROT_READ | PROT_WRITE) == 0);
        phase = 2 * round - 1;
        while (phase != 2 * round) {
        }
        CHECK(mprotect(page, 4096, PROT_READ) == 0);
        phase = -1;
        while (phase != 2 * round) {
        }
        phase = -2;
    }
    pthread_join(t, NULL);
    printf("late writes %d\n", late);
    return 0;
}
