// /proc/PID/loginuid and sessionid, as pam_loginuid(8) writes them: who has logged in is told once, and children have it.
#include "check.h"
#include <linux/capability.h>

static void show(const char *what) {
    char uid[32] = "", session[32] = "";
    int fd = open("/proc/self/loginuid", O_RDONLY);
    CHECK(fd >= 0 && read(fd, uid, 31) > 0 && close(fd) == 0);
    fd = open("/proc/self/sessionid", O_RDONLY);
    CHECK(fd >= 0 && read(fd, session, 31) > 0 && close(fd) == 0);
    printf("%s: %s, session %s\n", what, uid, strcmp(session, "4294967295") ? "some" : "none");
    fflush(stdout);
}

static long store(const char *path, const char *text) {
    int fd = open(path, O_RDWR | O_NOFOLLOW);
    if (fd < 0) return -1;
    long n = write(fd, text, strlen(text));
    int e = errno;
    close(fd);
    errno = e;
    return n;
}

int main(void) {
    // What the machine may have said before.
    store("/proc/self/loginuid", "4294967295");
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    CHECK(syscall(SYS_capget, &header, data) == 0);
    data[0].effective &= ~(1u << CAP_AUDIT_CONTROL);
    CHECK(syscall(SYS_capset, &header, data) == 0);
    struct stat st;
    CHECK(stat("/proc/self/loginuid", &st) == 0);
    printf("mode %o\n", st.st_mode);
    show("nobody");
    SHOW(store("/proc/self/loginuid", "x"));
    SHOW(store("/proc/self/loginuid", ""));
    SHOW(store("/proc/self/loginuid", "-1"));
    SHOW(store("/proc/self/loginuid", "4294967296"));
    char parent[64];
    snprintf(parent, sizeof parent, "/proc/%d/loginuid", getpid());
    pid_t pid = fork();
    if (pid == 0) {
        SHOW(store(parent, "5"));
        fflush(stdout);
        _exit(0);
    }
    CHECK(waitpid(pid, NULL, 0) == pid);
    SHOW(store("/proc/self/loginuid", "1000\n"));
    show("somebody");
    SHOW(store("/proc/self/loginuid", "1001"));
    SHOW(store("/proc/self/loginuid", "4294967295"));
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        show("a child");
        _exit(0);
    }
    CHECK(waitpid(pid, NULL, 0) == pid);
    return 0;
}
