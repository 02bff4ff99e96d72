// System V semaphores: sets, permissions, waiting, time-outs, undo at the end of a process, removal.
#include "check.h"
#include <sys/ipc.h>
#include <sys/sem.h>
#include <sys/time.h>
union arg {
    int value;
    struct semid_ds *ds;
    unsigned short *array;
    struct seminfo *info;
};
static int op(int id, unsigned short num, short by, short flags) {
    struct sembuf b = {num, by, flags};
    return semop(id, &b, 1);
}
static void nothing(int signal) { (void)signal; }
static int value(int id, int num) { return semctl(id, num, GETVAL); }
int main(void) {
    SHOW(semget(4711, 1, 0));
    SHOW(semget(4711, 0, IPC_CREAT | 0600));
    SHOW(semget(4711, 32001, IPC_CREAT | 0600));
    int id = semget(4711, 3, IPC_CREAT | 0640);
    CHECK(id >= 0);
    printf("same %d\n", semget(4711, 3, 0) == id && semget(4711, 0, IPC_CREAT) == id);
    SHOW(semget(4711, 4, 0));
    SHOW(semget(4711, 3, IPC_CREAT | IPC_EXCL));
    unsigned short all[3] = {5, 0, 32767};
    SHOW(semctl(id, 0, SETALL, (union arg){.array = all}));
    memset(all, 0, sizeof all);
    SHOW(semctl(id, 0, GETALL, (union arg){.array = all}));
    printf("all %u %u %u\n", all[0], all[1], all[2]);
    SHOW(semctl(id, 1, SETVAL, (union arg){.value = 32768}));
    SHOW(semctl(id, 3, GETVAL));
    SHOW(semctl(id, 0, 99));
    SHOW(op(id, 2, 1, 0));
    SHOW(op(id, 3, 1, 0));
    SHOW(op(id, 1, -1, IPC_NOWAIT));
    SHOW(op(id, 0, 0, IPC_NOWAIT));
    SHOW(semop(id, NULL, 0));
    SHOW(semop(-1, NULL, 1));
    // All or nothing.
    struct sembuf both[] = {{0, -5, 0}, {1, -1, IPC_NOWAIT}};
    SHOW(semop(id, both, 2));
    printf("still %d\n", value(id, 0));
    struct timespec t = {0, 50000000};
    struct sembuf down = {1, -1, 0};
    double start = now();
    SHOW(semtimedop(id, &down, 1, &t));
    printf("waited %d\n", now() - start >= 0.05);
    struct semid_ds ds;
    SHOW(semctl(id, 0, IPC_STAT, (union arg){.ds = &ds}));
    printf("mode %o, %lu semaphores, key %d, times %d\n", ds.sem_perm.mode, ds.sem_nsems, (int)ds.sem_perm.__key,
           ds.sem_ctime != 0);
    // Another process waits, and is seen to.
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) _exit(op(id, 1, -2, SEM_UNDO) == 0 ? 7 : errno);
    while (semctl(id, 1, GETNCNT) != 1) sleep_ms(1);
    SHOW(op(id, 1, 1, 0));
    SHOW(op(id, 1, 1, 0));
    show_wait("waiter", pid);
    printf("undone %d, last %d\n", value(id, 1), semctl(id, 1, GETPID) == pid);
    // To zero.
    SHOW(semctl(id, 1, SETVAL, (union arg){.value = 1}));
    pid = fork();
    if (pid == 0) _exit(op(id, 1, 0, 0) == 0 ? 8 : errno);
    while (semctl(id, 1, GETZCNT) != 1) sleep_ms(1);
    SHOW(op(id, 1, -1, 0));
    show_wait("zero", pid);
    // Two processes take turns.
    int two = semget(IPC_PRIVATE, 2, 0600);
    pid = fork();
    for (int i = 0; i < 300; i++) {
        if (pid == 0) {
            CHECK(op(two, 0, -1, 0) == 0);
            CHECK(op(two, 1, 1, 0) == 0);
        } else {
            CHECK(op(two, 0, 1, 0) == 0);
            CHECK(op(two, 1, -1, 0) == 0);
        }
    }
    if (pid == 0) _exit(0);
    show_wait("turns", pid);
    printf("left %d %d\n", value(two, 0), value(two, 1));
    // A signal ends a wait, and it is not begun again.
    struct sigaction sa = {.sa_handler = nothing, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &sa, NULL);
    struct itimerval soon = {{0, 0}, {0, 50000}};
    setitimer(ITIMER_REAL, &soon, NULL);
    SHOW(op(two, 0, -1, 0));
    // So does removal.
    pid = fork();
    if (pid == 0) _exit(op(id, 1, -1, 0) == -1 && errno == EIDRM ? 9 : 1);
    while (semctl(id, 1, GETNCNT) != 1) sleep_ms(1);
    SHOW(semctl(id, 0, IPC_RMID));
    show_wait("removed", pid);
    SHOW(op(id, 0, 1, 0));
    SHOW(semctl(two, 0, IPC_RMID));
    SHOW(semctl(two, 0, IPC_RMID));
    return 0;
}
