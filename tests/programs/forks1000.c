// 1,000 forks: one after another, then many at once.
#include "check.h"
int main(void) {
    int sum = 0, status;
    for (int i = 0; i < 900; i++) {
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) _exit(i % 7);
        CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
        sum += WEXITSTATUS(status);
    }
    printf("sum %d\n", sum);
    pid_t pids[100];
    for (int i = 0; i < 100; i++) {
        CHECK((pids[i] = fork()) >= 0);
        if (pids[i] == 0) {
            sleep_ms(20);
            _exit(i);
        }
    }
    sum = 0;
    for (int i = 0; i < 100; i++) {
        CHECK(wait(&status) > 0 && WIFEXITED(status));
        sum += WEXITSTATUS(status);
    }
    printf("sum %d\n", sum);
    CHECK(wait(&status) == -1 && errno == ECHILD);
    return 0;
}
