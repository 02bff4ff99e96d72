// System V message queues: types, lengths, waiting, copies, limits, removal, permissions, what msgctl tells.
#include "check.h"
#include <grp.h>
#include <limits.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/time.h>
#ifndef MSG_COPY
#define MSG_COPY 040000
#endif
struct text {
    long type;
    char text[20000];
};
static struct text in, out;
static int put(int id, long type, const char *text, int flags) {
    out.type = type;
    strcpy(out.text, text);
    return msgsnd(id, &out, strlen(text) + 1, flags);
}
static void get(int id, size_t room, long type, int flags) {
    memset(&in, 0, sizeof in);
    errno = 0;
    ssize_t n = msgrcv(id, &in, room, type, flags);
    if (n < 0) printf("get %ld %o: %s\n", type, flags, strerrorname_np(errno));
    else printf("get %ld %o: %zd bytes, type %ld, %s\n", type, flags, n, in.type, in.text);
    fflush(stdout);
}
static void show_stat(const char *what, int id) {
    struct msqid_ds ds;
    CHECK(msgctl(id, IPC_STAT, &ds) == 0);
    printf("%s: key %d uid %d gid %d mode %o, %lu messages, %lu bytes of %lu, times %d %d %d, pids %d %d\n", what,
           (int)ds.msg_perm.__key, ds.msg_perm.uid, ds.msg_perm.gid, ds.msg_perm.mode, (unsigned long)ds.msg_qnum,
           (unsigned long)ds.__msg_cbytes, (unsigned long)ds.msg_qbytes, ds.msg_stime != 0, ds.msg_rtime != 0,
           ds.msg_ctime != 0, ds.msg_lspid == getpid(), ds.msg_lrpid == getpid());
    fflush(stdout);
}
// Waits until a child sleeps, in the call that it has announced.
static void until_asleep(pid_t pid) {
    char path[64], state = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    while (state != 'S') {
        FILE *f = fopen(path, "r");
        CHECK(f && fscanf(f, "%*d (%*[^)]) %c", &state) == 1);
        fclose(f);
        sleep_ms(1);
    }
}
static void nothing(int signal) { (void)signal; }
int main(void) {
    SHOW(msgget(4713, 0));
    int id = msgget(4713, IPC_CREAT | 0640);
    CHECK(id >= 0);
    printf("same %d\n", msgget(4713, 0) == id && msgget(4713, IPC_CREAT) == id);
    SHOW(msgget(4713, IPC_CREAT | IPC_EXCL));
    show_stat("new", id);
    out.type = 0;
    SHOW(msgsnd(id, &out, 1, 0));
    out.type = -1;
    SHOW(msgsnd(id, &out, 1, 0));
    out.type = 1;
    SHOW(msgsnd(id, &out, 8193, 0));
    SHOW(msgsnd(id, &out, -1, 0));
    SHOW(msgsnd(-1, &out, 1, 0));
    SHOW(msgsnd(id + 32768, &out, 1, 0));
    SHOW(msgsnd(id, (void *)8, 1, 0));
    get(id, sizeof in.text, 0, IPC_NOWAIT);
    get(-1, 1, 0, IPC_NOWAIT);
    get(id, -1, 0, IPC_NOWAIT);
    // Types.
    const char *texts[] = {"three", "one", "five", "one again", "two"};
    long types[] = {3, 1, 5, 1, 2};
    for (int i = 0; i < 5; i++) CHECK(put(id, types[i], texts[i], 0) == 0);
    show_stat("five", id);
    get(id, 3, 0, 0);
    get(id, 3, 0, MSG_NOERROR);
    get(id, 100, -4, 0);
    get(id, 100, 1, MSG_EXCEPT);
    get(id, 100, 7, IPC_NOWAIT);
    get(id, 100, LONG_MIN, 0);
    get(id, 100, 0, 0);
    get(id, 100, 0, IPC_NOWAIT);
    show_stat("empty", id);
    // Copies.
    put(id, 9, "first", 0);
    put(id, 8, "second", 0);
    get(id, 100, 0, MSG_COPY);
    get(id, 100, 0, MSG_COPY | IPC_NOWAIT | MSG_EXCEPT);
    get(id, 100, 1, MSG_COPY | IPC_NOWAIT);
    get(id, 100, 0, MSG_COPY | IPC_NOWAIT);
    get(id, 100, 2, MSG_COPY | IPC_NOWAIT);
    get(id, 100, -1, MSG_COPY | IPC_NOWAIT);
    get(id, 2, 0, MSG_COPY | IPC_NOWAIT);
    get(id, 2, 0, MSG_COPY | IPC_NOWAIT | MSG_NOERROR);
    get(id, 100, 0, 0);
    // A message that cannot be told is lost.
    SHOW(msgrcv(id, (void *)8, 100, 0, 0));
    show_stat("lost", id);
    // An empty one is one.
    out.type = 4;
    SHOW(msgsnd(id, &out, 0, 0));
    get(id, 0, 0, 0);
    // Limits of a queue.
    out.type = 1;
    SHOW(msgsnd(id, &out, 8192, IPC_NOWAIT));
    SHOW(msgsnd(id, &out, 8192, IPC_NOWAIT));
    SHOW(msgsnd(id, &out, 1, IPC_NOWAIT));
    SHOW(msgsnd(id, &out, 0, IPC_NOWAIT));
    show_stat("full", id);
    // Who waits for room gets it, and who waits for a message too.
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) _exit(put(id, 6, "late", 0) == 0 ? 7 : errno);
    sleep_ms(20);
    for (int i = 0; i < 3; i++) CHECK(msgrcv(id, &in, sizeof in.text, 1, 0) >= 0);
    get(id, 100, 6, 0);
    show_wait("sender", pid);
    pid = fork();
    if (pid == 0) {
        get(id, 100, 5, 0);
        _exit(0);
    }
    sleep_ms(20);
    CHECK(put(id, 4, "not this", 0) == 0);
    CHECK(put(id, 5, "this", 0) == 0);
    show_wait("receiver", pid);
    get(id, 100, 0, IPC_NOWAIT);
    struct msqid_ds ds;
    CHECK(msgctl(id, IPC_STAT, &ds) == 0);
    printf("last receiver %d, sender %d\n", ds.msg_lrpid == getpid(), ds.msg_lspid == getpid());
    // A handler ends a wait, even with SA_RESTART.
    struct sigaction sa = {.sa_handler = nothing, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &sa, NULL);
    struct itimerval soon = {{0, 50000}, {0, 50000}}, never = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &soon, NULL);
    get(id, 100, 0, 0);
    setitimer(ITIMER_REAL, &never, NULL);
    // IPC_SET.
    ds.msg_qbytes = 10;
    ds.msg_perm.uid = 1234;
    ds.msg_perm.mode = 01602;
    SHOW(msgctl(id, IPC_SET, &ds));
    show_stat("set", id);
    SHOW(put(id, 1, "ten bytes", IPC_NOWAIT));
    SHOW(put(id, 1, "", IPC_NOWAIT));
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        CHECK(setgroups(0, NULL) == 0 && setgid(77) == 0 && setuid(77) == 0);
        get(id, 100, 0, IPC_NOWAIT);
        SHOW(put(id, 1, "", IPC_NOWAIT));
        SHOW(msgctl(id, IPC_STAT, &ds));
        SHOW(msgctl(id, IPC_SET, &ds));
        SHOW(msgctl(id, IPC_RMID, NULL));
        SHOW(msgget(4713, 0400));
        _exit(0);
    }
    show_wait("others", pid);
    // Lists.
    struct msginfo info;
    int highest = msgctl(0, IPC_INFO, (struct msqid_ds *)&info);
    printf("info %d: pool %d map %d max %d mnb %d ssz %d tql %d seg %d\n", highest >= 0, info.msgpool, info.msgmap,
           info.msgmax, info.msgmnb, info.msgssz, info.msgtql, info.msgseg);
    highest = msgctl(0, MSG_INFO, (struct msqid_ds *)&info);
    printf("used %d, messages %d, bytes %d\n", info.msgpool > 0, info.msgmap >= 1, info.msgtql >= 10);
    int found = 0;
    for (int i = 0; i <= highest; i++)
        if (msgctl(i, MSG_STAT, &ds) == id) found += ds.msg_qnum == 1;
    printf("found %d\n", found);
    SHOW(msgctl(highest + 1, MSG_STAT, &ds));
    SHOW(msgctl(id, 99, &ds));
    SHOW(msgctl(-1, IPC_STAT, &ds));
    SHOW(msgctl(id, IPC_STAT, (void *)8));
    FILE *f = fopen("/proc/sysvipc/msg", "r");
    char line[512];
    CHECK(f && fgets(line, sizeof line, f));
    fputs(line, stdout);
    while (fgets(line, sizeof line, f)) {
        int key, n, mode;
        unsigned long bytes, count;
        CHECK(sscanf(line, "%d %d %o %lu %lu", &key, &n, &mode, &bytes, &count) == 5);
        if (n == id) printf("key %d mode %o bytes %lu messages %lu, %zu long\n", key, mode, bytes, count, strlen(line));
    }
    fclose(f);
    get(id, 100, 0, 0);
    fflush(stdout);
    // Removal ends waits.
    int announce[2];
    CHECK(pipe(announce) == 0);
    pid = fork();
    if (pid == 0) {
        CHECK(write(announce[1], "x", 1) == 1);
        _exit(msgrcv(id, &in, 100, 0, 0) == -1 ? (errno == EIDRM ? 9 : errno) : 1);
    }
    char byte;
    CHECK(read(announce[0], &byte, 1) == 1);
    until_asleep(pid);
    SHOW(msgctl(id, IPC_RMID, NULL));
    show_wait("removed", pid);
    get(id, 100, 0, 0);
    SHOW(msgctl(id, IPC_RMID, NULL));
    // Many messages through a queue keep their order.
    id = msgget(IPC_PRIVATE, 0600);
    fflush(stdout);
    pid = fork();
    for (int i = 0; i < 2000; i++) {
        char text[16];
        if (pid == 0) {
            snprintf(text, sizeof text, "%d", i);
            CHECK(put(id, 1 + i % 3, text, 0) == 0);
        } else {
            CHECK(msgrcv(id, &in, sizeof in.text, 0, 0) > 0 && atoi(in.text) == i);
        }
    }
    if (pid == 0) _exit(0);
    show_wait("stream", pid);
    SHOW(msgctl(id, IPC_RMID, NULL));
    return 0;
}
