// exec: arguments and environment whole, descriptors closed or kept, from a thread, 100 in a row, scripts in scripts.
#include "check.h"
int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "count")) {
        int n = atoi(argv[2]);
        if (n == 0) {
            printf("counted down\n");
            return 0;
        }
        char text[20];
        snprintf(text, sizeof text, "%d", n - 1);
        execl("/proc/self/exe", argv[0], "count", text, NULL);
        return 1;
    }
    if (argc > 1 && !strcmp(argv[1], "show")) {
        extern char **environ;
        for (int i = 2; i < argc; i++) printf("[%s]", argv[i]);
        for (char **e = environ; *e; e++) printf(" %s", *e);
        printf(" fds %d %d\n", fcntl(20, F_GETFD) != -1, fcntl(21, F_GETFD) != -1);
        return 0;
    }
    int fd = open("/dev/null", O_RDONLY);
    CHECK(dup3(fd, 20, O_CLOEXEC) == 20 && dup2(fd, 21) == 21);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) execle("/proc/self/exe", "self", "show", "", "a b", "\xff", NULL, (char *[]){"X=1", "Y=", NULL});
    show_wait("show", pid);
    pid = fork();
    if (pid == 0) execl("/proc/self/exe", "self", "count", "100", NULL);
    show_wait("count", pid);
    fd = open("/tmp/s1", O_CREAT | O_WRONLY, 0755);
    dprintf(fd, "#!/bin/sh\necho inner \"$@\"\n");
    close(fd);
    fd = open("/tmp/s2", O_CREAT | O_WRONLY, 0755);
    dprintf(fd, "#!/tmp/s1 one arg\n");
    close(fd);
    pid = fork();
    if (pid == 0) {
        execl("/tmp/s2", "s2", "z", NULL);
        _exit(errno);
    }
    show_wait("nested", pid);
    fd = open("/tmp/bad", O_CREAT | O_WRONLY, 0755);
    dprintf(fd, "\x7f" "ELF nonsense");
    close(fd);
    SHOW(execl("/tmp/bad", "bad", NULL));
    fd = open("/tmp/empty", O_CREAT | O_WRONLY, 0755);
    close(fd);
    SHOW(execl("/tmp/empty", "empty", NULL));
    // Too long.
    char *huge = malloc(200000);
    memset(huge, 'a', 199999);
    huge[199999] = 0;
    SHOW(execl("/bin/true", "true", huge, NULL));
    int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    pid = fork();
    if (pid == 0) {
        char *args[] = {"fexec", "show", "by descriptor", NULL}, *env[] = {NULL};
        fexecve(self, args, env);
        _exit(errno);
    }
    show_wait("fexecve", pid);
    return 0;
}
