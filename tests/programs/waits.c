// wait4, waitid, stops and continues, exit codes, orphans, process groups and sessions.
#include "check.h"
#include <sys/resource.h>
#include <sys/prctl.h>
int main(void) {
    int status;
    pid_t pid;
    const int codes[] = {0, 1, 127, 255, 256, -1};
    for (int i = 0; i < 6; i++) {
        pid = fork();
        if (pid == 0) exit(codes[i]);
        waitpid(pid, &status, 0);
        printf("exit(%d) %x\n", codes[i], status);
    }
    const int signals[] = {SIGHUP, SIGKILL, SIGABRT, SIGSEGV, SIGTERM, SIGRTMIN + 3};
    struct rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    for (int i = 0; i < 6; i++) {
        pid = fork();
        if (pid == 0) {
            raise(signals[i]);
            _exit(50);
        }
        waitpid(pid, &status, 0);
        printf("signal %d: %d\n", i, WTERMSIG(status) == signals[i]);
    }
    // Not before its going on was seen: an end that comes first is all that wait tells.
    int go[2];
    CHECK(pipe(go) == 0);
    pid = fork();
    if (pid == 0) {
        char c;
        raise(SIGSTOP);
        _exit(read(go[0], &c, 1) == 1 ? 4 : 5);
    }
    CHECK(waitpid(pid, &status, WUNTRACED) == pid);
    printf("stopped %d %d\n", WIFSTOPPED(status), WSTOPSIG(status) == SIGSTOP);
    CHECK(waitpid(pid, &status, WNOHANG | WUNTRACED) == 0);
    kill(pid, SIGCONT);
    CHECK(waitpid(pid, &status, WCONTINUED) == pid);
    printf("continued %d\n", WIFCONTINUED(status));
    CHECK(write(go[1], "x", 1) == 1);
    siginfo_t info;
    CHECK(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT) == 0);
    printf("waitid code %d status %d pid %d\n", info.si_code == CLD_EXITED, info.si_status, info.si_pid == pid);
    struct rusage usage;
    CHECK(wait4(pid, &status, 0, &usage) == pid);
    printf("again %d, usage %d\n", WEXITSTATUS(status), usage.ru_utime.tv_sec >= 0);
    SHOW(waitpid(pid, &status, 0));
    SHOW(waitpid(-1, &status, WNOHANG));
    SHOW(waitpid(1, &status, 0x1000));
    SHOW(waitid(P_ALL, 0, &info, 0));
    // Groups: wait for one only; signal a whole one.
    pid_t a = fork();
    if (a == 0) {
        setpgid(0, 0);
        pause();
        _exit(0);
    }
    setpgid(a, a);
    pid_t b = fork();
    if (b == 0) {
        setpgid(0, a);
        pause();
        _exit(0);
    }
    setpgid(b, a);
    printf("group %d %d\n", getpgid(a) == a, getpgid(b) == a);
    CHECK(kill(-a, SIGTERM) == 0);
    int n = 0;
    while (waitpid(-a, &status, 0) > 0) n += WTERMSIG(status) == SIGTERM;
    printf("group ended %d\n", n);
    SHOW(kill(-a, SIGTERM));
    SHOW(setpgid(0, 999999));
    // A session of its own; its leader cannot make another.
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        CHECK(setsid() == getpid() && getpgid(0) == getpid() && getsid(0) == getpid());
        _exit(setsid() == -1 && errno == EPERM ? 11 : 12);
    }
    show_wait("session", pid);
    // An orphan is adopted by the subreaper.
    CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
    pid = fork();
    if (pid == 0) {
        if (fork() == 0) {
            sleep_ms(100);
            _exit(21);
        }
        _exit(20);
    }
    waitpid(pid, &status, 0);
    printf("child %d", WEXITSTATUS(status));
    CHECK(wait(&status) > 0);
    printf(" orphan %d\n", WEXITSTATUS(status));
    // vfork shares and suspends.
    volatile int shared = 0;
    pid = vfork();
    if (pid == 0) {
        shared = 5;
        _exit(6);
    }
    waitpid(pid, &status, 0);
    printf("vfork %d %d\n", shared, WEXITSTATUS(status));
    // exec: missing, not executable, a directory, and what it keeps.
    char *args[] = {"x", NULL};
    SHOW(execv("/no/such", args));
    SHOW(execv("/etc/passwd", args));
    SHOW(execv("/tmp", args));
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        signal(SIGUSR1, SIG_IGN);
        execl("/bin/sh", "sh", "-c", "kill -USR1 $$; echo survived; exit 8", NULL);
    }
    show_wait("exec", pid);
    return 0;
}
