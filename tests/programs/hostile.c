// Wild arguments to system calls, one wild one at a time among good ones: pointers, descriptors, flags, sizes. Prints how
// each call answers; a call in a child of its own, so that what it does to itself ends there.
//
// SPECS has a line for each call: its arguments as letters, some with a number (the value of the good argument).
//   f k r w s E T S e   a descriptor that never blocks: regular file, folder, pipe's ends, socket, epoll, timerfd, signalfd,
//                       eventfd. Wild ones are those of the other kinds, too
//   g                   a regular file where the last four have answers of a kernel's version
//   a                   a folder for an *at call: that of `k`
//   p d n v             a path: of a file, of a folder, of nothing; an attribute's name
//   i o                 memory that the call reads (zeros), or writes
//   t                   memory that the call reads, a time that is none: null would be forever
//   x                   the address of a mapping of four pages
//   F B c               flags; flags of a message, without MSG_OOB and with MSG_DONTWAIT; a count, size or other number
//   j                   an id that is not 1: that of process 1, or of a second IPC object, which is each kernel's own affair
//   # .                 a number that stays; 0
#include "check.h"
#include <linux/futex.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/timerfd.h>

#define C(name, args) {#name, SYS_##name, args}
static const struct {
    const char *name;
    long number;
    const char *args;
} SPECS[] = {
    C(read, "foc16"), C(write, "fic8"), C(open, "pF#0"), C(stat, "po"), C(fstat, "fo"), C(lstat, "po"),
    C(poll, "oc1."), C(lseek, "fcc"), C(mmap, "x#4096F3F2fc"), C(mprotect, "x#4096F1"), C(munmap, "x#4096"),
    C(rt_sigaction, "c10ioc8"), C(rt_sigprocmask, "cioc8"), C(ioctl, "gF#0"), C(pread64, "foc16c"), C(pwrite64, "fic16c"),
    C(readv, "fic1"), C(writev, "fic1"), C(access, "pF"), C(pipe, "o"), C(select, "c1ooot"), C(mremap, "x#4096#8192F1#0"),
    C(msync, "xc4096F1"), C(mincore, "xc4096o"), C(madvise, "xc4096c"), C(shmget, "#0c4096F384"), C(shmat, "j#0F"),
    C(shmctl, "jc2o"), C(dup, "f"), C(nanosleep, "io"), C(getitimer, "co"), C(setitimer, "cio"), C(sendfile, "wfoc16"),
    C(socket, "c1c1c"), C(connect, "sic16"), C(accept, "soo"), C(sendto, "sic16B#0#0"), C(recvfrom, "soc16B64oo"),
    C(sendmsg, "siB"), C(recvmsg, "siB64"), C(shutdown, "sc"), C(bind, "sic16"), C(listen, "sc"), C(getsockname, "soo"),
    C(getpeername, "soo"), C(socketpair, "c1c1co"), C(setsockopt, "sc1c2ic4"), C(getsockopt, "sc1c2oo"),
    C(wait4, "#1oFo"), C(uname, "o"), C(semget, "#0c1F384"), C(semop, "jic1"), C(semctl, "jccF"), C(shmdt, "x"), C(msgget, "#0F384"),
    C(msgsnd, "jic8F"), C(msgrcv, "joc8c#2048"), C(msgctl, "jco"), C(fcntl, "fcF"), C(flock, "fF8"), C(fsync, "f"),
    C(fdatasync, "f"), C(truncate, "pc"), C(ftruncate, "fc"), C(getdents, "koc512"), C(getcwd, "oc64"), C(chdir, "d"),
    C(fchdir, "k"), C(rename, "pn"), C(mkdir, "n#493"), C(rmdir, "n"), C(creat, "p#420"), C(link, "pn"), C(unlink, "n"),
    C(symlink, "pn"), C(readlink, "poc16"), C(chmod, "p#420"), C(fchmod, "g#493"), C(chown, "p##"), C(fchown, "g##"),
    C(lchown, "p##"), C(gettimeofday, "oo"), C(getrlimit, "co"), C(setrlimit, "#4i"), C(getrusage, "co"), C(sysinfo, "o"),
    C(times, "o"), C(getgroups, "c#0"), C(getgroups, "c16o"), C(setgroups, "c1i"), C(getresuid, "ooo"), C(getresgid, "ooo"),
    C(getpgid, "c"), C(getsid, "c"), C(setpgid, "cc"), C(capget, "oo"), C(capset, "ii"), C(rt_sigpending, "oc8"),
    C(rt_sigtimedwait, "iotc8"), C(rt_sigqueueinfo, "#0c1i"), C(sigaltstack, "io"), C(utime, "pi"), C(mknod, "n#33188#0"),
    C(statfs, "po"), C(fstatfs, "fo"), C(getpriority, "cc"), C(setpriority, "c#0c"), C(sched_setparam, "#0i"),
    C(sched_getparam, "co"), C(sched_setscheduler, "#0ci"), C(sched_getscheduler, "c"), C(sched_get_priority_max, "c"),
    C(sched_get_priority_min, "c"), C(sched_rr_get_interval, "co"), C(mlock, "xc4096"), C(munlock, "xc4096"), C(mlockall, "F"),
    C(prctl, "c3..##"), C(arch_prctl, "c4100o"), C(setuid, "#4294967295"), C(chroot, "n"), C(setxattr, "pvic4F"),
    C(getxattr, "pvoc16"), C(fgetxattr, "fvoc16"), C(listxattr, "poc64"), C(flistxattr, "foc64"), C(removexattr, "pv"),
    C(tkill, "c#0"), C(tgkill, "cc#0"), C(time, "o"), C(futex, "oF1ct"), C(futex, "o#0c1t"), C(futex, "o#3ccx"),
    C(sched_setaffinity, "#0c8i"), C(sched_getaffinity, "cc128o"), C(epoll_create, "c1"), C(epoll_create1, "F"),
    C(getdents64, "koc512"), C(semtimedop, "jic1i"), C(fadvise64, "fccc"), C(readahead, "fcc16"), C(timer_create, "coo"),
    C(timer_settime, "cFio"), C(timer_gettime, "co"), C(timer_getoverrun, "c"), C(timer_delete, "c"), C(clock_gettime, "co"),
    C(clock_getres, "co"), C(clock_nanosleep, "cFio"), C(epoll_wait, "Eoc4#0"), C(epoll_ctl, "Ec1wi"), C(epoll_pwait, "Eoc4#0ic8"),
    C(utimes, "pi"), C(waitid, "ccoF1o"), C(inotify_init1, "F"), C(inotify_add_watch, "fpF1"), C(inotify_rm_watch, "fc"),
    C(openat, "apF#0"), C(mkdirat, "an#493"), C(mknodat, "an#33188#0"), C(fchownat, "ap##F"), C(futimesat, "api"),
    C(newfstatat, "apoF"), C(unlinkat, "anF"), C(renameat, "apan"), C(linkat, "apanF"), C(symlinkat, "pan"),
    C(readlinkat, "apoc16"), C(fchmodat, "ap#420"), C(faccessat, "apF"), C(pselect6, "c1ooot#0"), C(ppoll, "oc1tic8"),
    C(unshare, "F"), C(set_robust_list, "oc24"), C(get_robust_list, "coo"), C(splice, "roroc16F2"), C(splice, "fowoc16F2"),
    C(tee, "rwc16F2"), C(sync_file_range, "fccF"), C(vmsplice, "wic1F2"), C(utimensat, "apiF"), C(signalfd, "Sic8"),
    C(signalfd4, "Sic8F"), C(timerfd_create, "c1F"), C(timerfd_settime, "TFio"), C(timerfd_gettime, "To"), C(eventfd, "c"),
    C(eventfd2, "cF"), C(fallocate, "fFcc16"), C(accept4, "sooF"), C(dup3, "f#77F"), C(pipe2, "oF"), C(preadv, "fic1c."),
    C(pwritev, "fic1c."), C(rt_tgsigqueueinfo, "cc#1i"), C(recvmmsg, "sic1B64i"), C(sendmmsg, "sic1B"), C(prlimit64, "j#4io"),
    C(syncfs, "f"), C(setns, "fF"), C(getcpu, "oo"), C(process_vm_readv, "cic1ic1F"), C(process_vm_writev, "cic1ic1F"),
    C(sched_getattr, "co#48F"), C(sched_setattr, "#0iF"), C(renameat2, "apanF"), C(getrandom, "oc16F"), C(memfd_create, "iF"),
    C(execveat, "anooF"), C(execve, "noo"), C(mlock2, "xc4096F"), C(copy_file_range, "fofoc16F"), C(preadv2, "fic1c.F"),
    C(pwritev2, "fic1c.F"), C(statx, "apFF2047o"), C(pidfd_send_signal, "f#0oF"), C(pidfd_open, "cF"), C(close_range, "#900#901F"),
    C(openat2, "api#24"), C(faccessat2, "apFF"), C(epoll_pwait2, "Eoc4tic8"), C(mq_unlink, "i"), C(mq_timedsend, "fic1c#0"),
    C(mq_timedreceive, "foc16o#0"), C(mq_getsetattr, "f#0o"), C(seccomp, "c7Fi"), C(personality, "#4294967295"),
};

static char *lines; // shared with the children
static char *page;  // readable and writable, before a page that is neither
static char *read_only, *unmapped, *spare;
static const long NUMBERS[] = {0, 1, -1, 0x7fffffff, 0x80000000, 0xffffffff, INT64_MAX, INT64_MIN, 4095, 0x55555555};
static const long FLAGS[] = {-1, 0x40000000, 0x80000000, 0x7fffffff, 1L << 40, 0x00800000, 0x4000};

struct arg {
    char kind;
    long good;
};

static int parse(const char *text, struct arg *args) {
    int n = 0;
    while (*text) {
        args[n].kind = *text++;
        char *end = (char *)text;
        args[n].good = *text >= '0' && *text <= '9' ? strtol(text, &end, 10) : args[n].kind == '#' ? -1 : 0;
        text = end;
        n++;
    }
    return n;
}

static int descriptor(char kind) {
    int two[2];
    sigset_t none;
    sigemptyset(&none);
    switch (kind) {
    case 'f': case 'g': return open("f", O_RDWR);
    case 'k': case 'a': return open(".", O_RDONLY | O_DIRECTORY);
    case 'r': CHECK(pipe2(two, O_NONBLOCK) == 0); return two[0];
    case 'w': CHECK(pipe2(two, O_NONBLOCK) == 0); return two[1];
    case 's': CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, two) == 0); return two[0];
    case 'E': return epoll_create1(0);
    case 'T': return timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    case 'S': return signalfd(-1, &none, SFD_NONBLOCK);
    case 'e': return eventfd(0, EFD_NONBLOCK);
    }
    return -1;
}

static bool is_descriptor(char kind) { return strchr("fgkrwsETSea", kind) != NULL; }
static bool is_pointer(char kind) { return strchr("pdnviot", kind) != NULL; }

// The values that are tried in the place of an argument.
static int wild(struct arg arg, long *values) {
    int n = 0;
    if (is_pointer(arg.kind) || arg.kind == 'x') {
        if (arg.kind != 't') values[n++] = 0;
        values[n++] = (long)unmapped;
        values[n++] = (long)0xffff888000000000;
        // No address with either four or five levels of page tables.
        values[n++] = 0x0100000000000000;
        values[n++] = (long)0x8000000000000000;
        values[n++] = -1;
        values[n++] = (long)page + 4095;
        values[n++] = (long)page + 4096;
        if (arg.kind == 'o') values[n++] = (long)read_only;
    } else if (is_descriptor(arg.kind)) {
        values[n++] = -1;
        values[n++] = 9999;
        values[n++] = INT32_MIN;
        values[n++] = INT32_MAX;
        values[n++] = arg.good | 1L << 32;
        for (const char *other = arg.kind == 'g' ? "krw" : "krwETSe"; *other; other++) values[n++] = descriptor(*other);
        values[n++] = open("f", O_PATH);
    } else if (arg.kind == 'F') {
        for (size_t i = 0; i < sizeof FLAGS / sizeof *FLAGS; i++) values[n++] = FLAGS[i];
    } else if (arg.kind == 'B') {
        for (size_t i = 0; i < sizeof FLAGS / sizeof *FLAGS; i++) values[n++] = (FLAGS[i] & ~1L) | MSG_DONTWAIT;
    } else if (arg.kind == 'c' || arg.kind == 'j') {
        for (size_t i = 0; i < sizeof NUMBERS / sizeof *NUMBERS; i++) if (arg.kind == 'c' || NUMBERS[i] != 1) values[n++] = NUMBERS[i];
    }
    return n;
}

static void restore(void) {
    memset(page, 0, 4096);
    strcpy(page + 3000, "f");
    strcpy(page + 3010, ".");
    strcpy(page + 3020, "n");
    strcpy(page + 3030, "user.x");
}

static char *out;

static void try(long number, const struct arg *args, int count, int which, long value) {
    long v[6] = {0};
    for (int i = 0; i < count; i++) v[i] = i == which ? value : args[i].good;
    restore();
    long result = syscall(number, v[0], v[1], v[2], v[3], v[4], v[5]);
    out += sprintf(out, " %s", result == -1 ? strerrorname_np(errno) : "ok");
}

static void one(size_t at) {
    struct arg args[6];
    int count = parse(SPECS[at].args, args);
    for (int i = 0; i < count; i++) {
        if (is_descriptor(args[i].kind)) args[i].good = descriptor(args[i].kind);
        if (args[i].kind == 'p') args[i].good = (long)page + 3000;
        if (args[i].kind == 'd') args[i].good = (long)page + 3010;
        if (args[i].kind == 'n') args[i].good = (long)page + 3020;
        if (args[i].kind == 'v') args[i].good = (long)page + 3030;
        if (args[i].kind == 'i' || args[i].kind == 't') args[i].good = (long)page + 256 * i;
        if (args[i].kind == 'o') args[i].good = (long)page + 256 * i;
        if (args[i].kind == 'x') args[i].good = (long)spare;
    }
    out = lines;
    try(SPECS[at].number, args, count, -1, 0);
    for (int i = 0; i < count; i++) {
        long values[32];
        int n = wild(args[i], values);
        if (n > 0) out += sprintf(out, " | %c%d", args[i].kind, i);
        for (int j = 0; j < n; j++) try(SPECS[at].number, args, count, i, values[j]);
    }
}

// ---- `hostile random SEED ROUNDS`: every call, there or not, with wild words in all its arguments at once. What it answers is
// not looked at: only that everything goes on.

static uint64_t seed;

static uint64_t next(void) {
    seed = seed * 6364136223846793005 + 1442695040888963407;
    return seed >> 33;
}

static long word(void) {
    static const char KINDS[] = "fkrwsETSe";
    switch (next() % 10) {
    case 0: return (long)page + next() % 8192;
    case 1: return (long)page + 256 * (next() % 16);
    case 2: return descriptor(KINDS[next() % (sizeof KINDS - 1)]);
    case 3: return NUMBERS[next() % (sizeof NUMBERS / sizeof *NUMBERS)];
    case 4: return FLAGS[next() % (sizeof FLAGS / sizeof *FLAGS)];
    case 5: return next() % 16;
    case 6: return 1L << next() % 64;
    case 7: return (long)spare + 4096 * (next() % 4);
    case 8: return next() << 33 ^ next();
    default: return (long)(next() % 2 ? unmapped : read_only) + next() % 4096;
    }
}

static void interrupt(int signal) { (void)signal; }

// In a child that may do nothing to its parent: another user's, in a session of its own, with little memory.
static void wild_calls(long number, int rounds) {
    for (int limit = 0; limit < 2; limit++) {
        struct rlimit most = {256 << 20, 256 << 20};
        if (limit == 1) most.rlim_cur = most.rlim_max = 1 << 20;
        CHECK(setrlimit(limit == 0 ? RLIMIT_AS : RLIMIT_FSIZE, &most) == 0);
    }
    CHECK(setsid() > 0 && setgid(65534) == 0 && setuid(65534) == 0);
    struct sigaction action = {.sa_handler = interrupt};
    sigaction(SIGALRM, &action, NULL);
    pid_t me = getpid();
    for (int round = 0; round < rounds; round++) {
        long v[6];
        for (int i = 0; i < 6; i++) v[i] = word();
        restore();
        // What waits is ended by a signal, unless the call has seen to it that it is not.
        struct itimerval soon = {{0, 20000}, {0, 20000}};
        setitimer(ITIMER_REAL, &soon, NULL);
        syscall(number, v[0], v[1], v[2], v[3], v[4], v[5]);
        if (getpid() != me) _exit(0);
        for (int fd = 3; fd < 64; fd++) close(fd);
    }
    _exit(0);
}

// Calls whose child would run on this one's stack, or has none; they have tests of their own.
static bool makes_tasks(long number) {
    return number == SYS_clone || number == SYS_vfork || number == SYS_clone3;
}

static void random_calls(int rounds) {
    int calls = 0, killed = 0;
    for (long number = 0; number < 470; number++) {
        if (makes_tasks(number)) continue;
        fflush(stdout);
        seed += number << 20;
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) wild_calls(number, rounds);
        double until = now() + 1.5;
        int status;
        pid_t ended = 0;
        while (ended != child) {
            ended = waitpid(-1, &status, WNOHANG);
            if (ended != 0) continue;
            if (now() > until) {
                // SIGKILL ends everything at once. `until` is far enough for a slow machine.
                kill(child, SIGKILL);
                until = now() + 60;
                if (++killed > 100) printf("too many calls do not come back: %ld\n", number), exit(1);
            }
            sleep_ms(1);
        }
        calls++;
    }
    printf("%d calls\n", calls);
}

int main(int argc, char **argv) {
    lines = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    page = mmap(NULL, 4 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(mprotect(page + 4096, 3 * 4096, PROT_NONE) == 0);
    read_only = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    unmapped = mmap(NULL, 1 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(munmap(unmapped, 1 << 20) == 0);
    unmapped += 1 << 19;
    spare = mmap(NULL, 4 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(mkdir("/tmp/hostile", 0755) == 0 && chdir("/tmp/hostile") == 0);
    signal(SIGPIPE, SIG_IGN);
    if (argc == 4) {
        seed = strtoull(argv[2], NULL, 10);
        int fd = open("f", O_RDWR | O_CREAT, 0666);
        CHECK(fd >= 0 && close(fd) == 0 && chmod("f", 0666) == 0 && chmod(".", 0777) == 0);
        random_calls(atoi(argv[3]));
        return 0;
    }
    for (size_t i = 0; i < sizeof SPECS / sizeof *SPECS; i++) {
        if (argc > 1 && strcmp(argv[1], SPECS[i].name) != 0) continue;
        int fd = open("f", O_RDWR | O_CREAT | O_TRUNC, 0644);
        CHECK(fd >= 0 && write(fd, "0123456789", 10) == 10 && close(fd) == 0);
        unlink("n"), rmdir("n");
        memset(lines, 0, 1 << 16);
        fflush(stdout);
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            close(0);
            CHECK(open("/dev/null", O_RDONLY) == 0);
            alarm(20);
            one(i);
            _exit(0);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child);
        printf("%s%s", SPECS[i].name, lines);
        if (WIFSIGNALED(status)) printf(" signal %d", WTERMSIG(status));
        printf("\n");
    }
    return 0;
}
