// System V shared memory: segments, attachments across fork, exec and exit, removal, permissions, what shmctl tells.
#include "check.h"
#include <grp.h>
#include <sys/ipc.h>
#include <sys/shm.h>
static unsigned long attached(int id) {
    struct shmid_ds ds;
    CHECK(shmctl(id, IPC_STAT, &ds) == 0);
    return ds.shm_nattch;
}
static void show_stat(const char *what, int id) {
    struct shmid_ds ds;
    CHECK(shmctl(id, IPC_STAT, &ds) == 0);
    printf("%s: key %d uid %d gid %d cuid %d mode %o size %zu attached %lu, times %d %d %d, pids %d %d\n", what,
           (int)ds.shm_perm.__key, ds.shm_perm.uid, ds.shm_perm.gid, ds.shm_perm.cuid, ds.shm_perm.mode, ds.shm_segsz,
           (unsigned long)ds.shm_nattch, ds.shm_atime != 0, ds.shm_dtime != 0, ds.shm_ctime != 0, ds.shm_cpid == getpid(),
           ds.shm_lpid == getpid());
    fflush(stdout);
}
// The lines of a file that hold a word, with the numbers in them that differ left out.
static void show_maps(void) {
    FILE *f = fopen("/proc/self/maps", "r");
    char line[512], perms[8], name[128], inode[32];
    while (fgets(line, sizeof line, f)) {
        if (!strstr(line, "/SYSV")) continue;
        unsigned long from, to, offset;
        CHECK(sscanf(line, "%lx-%lx %7s %lx %*s %31s %127[^\n]", &from, &to, perms, &offset, inode, name) == 6);
        printf("map %lu %s %lx%s\n", to - from, perms, offset, name);
    }
    fclose(f);
}
static void *attach(int id, void *at, int flags) {
    void *p = shmat(id, at, flags);
    return p == (void *)-1 ? NULL : p;
}
int main(int argc, char **argv) {
    if (argc > 1) {
        // After exec nothing is attached.
        printf("after exec %lu\n", attached(atoi(argv[1])));
        return 0;
    }
    SHOW(shmget(4712, 4096, 0));
    SHOW(shmget(4712, 0, IPC_CREAT | 0600));
    SHOW(shmget(4712, -1, IPC_CREAT | 0600));
    SHOW(shmget(4712, 1ul << 60, IPC_CREAT | 0600));
    int id = shmget(4712, 10000, IPC_CREAT | 0640);
    CHECK(id >= 0);
    printf("same %d %d\n", shmget(4712, 10000, 0) == id, shmget(4712, 0, IPC_CREAT) == id);
    SHOW(shmget(4712, 10001, 0));
    SHOW(shmget(4712, 1, IPC_CREAT | IPC_EXCL));
    show_stat("new", id);
    SHOW(shmctl(-1, IPC_STAT, NULL));
    SHOW(shmctl(id, 99, NULL));
    SHOW(shmctl(id, IPC_STAT, (void *)8));
    SHOW(shmctl(id + 40000, IPC_STAT, NULL));
    // Attaching.
    SHOW((long)shmat(-1, NULL, 0));
    SHOW((long)shmat(id + 32768, NULL, 0));
    SHOW((long)shmat(id, (void *)1, 0));
    SHOW((long)shmat(id, NULL, SHM_REMAP));
    char *a = attach(id, NULL, 0);
    CHECK(a);
    strcpy(a, "hello");
    a[9999] = 1;
    a[12287] = 2;
    char *b = attach(id, NULL, SHM_RDONLY);
    CHECK(b && b != a);
    printf("read %s %d %d\n", b, b[9999], b[12287]);
    show_stat("twice", id);
    SHOW(mprotect(b, 4096, PROT_READ | PROT_WRITE));
    show_maps();
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        b[0] = 'x';
        _exit(0);
    }
    show_wait("read only", pid);
    // Places.
    char *room = mmap(NULL, 1 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(room != MAP_FAILED);
    SHOW((long)shmat(id, room, 0));
    SHOW((long)shmat(id, room + 100, 0));
    SHOW(attach(id, room + 100, SHM_RND | SHM_REMAP) == room);
    printf("there %s\n", room);
    CHECK(munmap(room + (1 << 19), 1 << 19) == 0);
    SHOW(attach(id, room + (1 << 19) + 5, SHM_RND) == room + (1 << 19));
    SHOW(attach(id, a, SHM_REMAP) == a);
    printf("attached %lu\n", attached(id));
    // Fork, exit, exec.
    pid = fork();
    if (pid == 0) {
        printf("in the child %lu\n", attached(id));
        fflush(stdout);
        strcpy(a, "from the child");
        CHECK(shmdt(b) == 0);
        printf("one less %lu\n", attached(id));
        fflush(stdout);
        char number[16];
        snprintf(number, sizeof number, "%d", id);
        execl("/proc/self/exe", "sharedmem", number, NULL);
        _exit(1);
    }
    show_wait("child", pid);
    printf("%s, attached %lu\n", b, attached(id));
    // Detaching.
    SHOW(shmdt(a + 4096));
    SHOW(shmdt(a + 1));
    SHOW(shmdt(room + 8192));
    SHOW(shmdt(room));
    SHOW(shmdt(room));
    SHOW(shmdt(room + (1 << 19)));
    show_stat("detached", id);
    // A part that was unmapped is no hindrance.
    CHECK(munmap(b, 4096) == 0);
    printf("part %lu\n", attached(id));
    SHOW(shmdt(b));
    printf("attached %lu\n", attached(id));
    // Locks show in the mode.
    SHOW(shmctl(id, SHM_LOCK, NULL));
    show_stat("locked", id);
    SHOW(shmctl(id, SHM_UNLOCK, NULL));
    struct shmid_ds ds;
    CHECK(shmctl(id, IPC_STAT, &ds) == 0);
    ds.shm_perm.uid = 1234;
    ds.shm_perm.gid = 2345;
    ds.shm_perm.mode = 01604;
    SHOW(shmctl(id, IPC_SET, &ds));
    show_stat("set", id);
    fflush(stdout);
    // Others.
    pid = fork();
    if (pid == 0) {
        CHECK(setgroups(0, NULL) == 0 && setgid(77) == 0 && setuid(77) == 0);
        SHOW((long)shmat(id, NULL, 0));
        SHOW(attach(id, NULL, SHM_RDONLY) != NULL);
        SHOW((long)shmat(id, NULL, SHM_RDONLY | SHM_EXEC));
        SHOW(shmget(4712, 1, 0600));
        SHOW(shmget(4712, 1, 0400) == id);
        SHOW(shmctl(id, IPC_RMID, NULL));
        SHOW(shmctl(id, IPC_SET, &ds));
        SHOW(shmctl(id, SHM_LOCK, NULL));
        SHOW(shmctl(id, IPC_STAT, &ds));
        _exit(0);
    }
    show_wait("others", pid);
    // Lists. Other segments may be there when this runs natively, so only what is about this one is shown.
    struct shminfo info;
    struct shm_info all;
    int highest = shmctl(0, IPC_INFO, (struct shmid_ds *)&info);
    printf("info %d: max %lx min %lu mni %lu seg %lu all %lx\n", highest >= 0, info.shmmax, info.shmmin, info.shmmni,
           info.shmseg, info.shmall);
    highest = shmctl(0, SHM_INFO, (struct shmid_ds *)&all);
    printf("used %d, pages %d, resident %d, swapped %lu\n", all.used_ids > 0, all.shm_tot >= 3, all.shm_rss >= 2, all.shm_swp);
    int found = 0;
    for (int i = 0; i <= highest; i++)
        if (shmctl(i, SHM_STAT, &ds) == id) found += ds.shm_segsz == 10000;
    printf("found %d\n", found);
    SHOW(shmctl(highest + 1, SHM_STAT, &ds));
    FILE *f = fopen("/proc/sysvipc/shm", "r");
    char line[512];
    CHECK(f && fgets(line, sizeof line, f));
    fputs(line, stdout);
    while (fgets(line, sizeof line, f)) {
        int key, n, mode;
        unsigned long size, count;
        int uid, rest;
        CHECK(sscanf(line, "%d %d %o %lu %*d %*d %lu %d%n", &key, &n, &mode, &size, &count, &uid, &rest) == 6);
        if (n == id) printf("key %d mode %o size %lu attached %lu uid %d, %zu long\n", key, mode, size, count, uid, strlen(line));
    }
    fclose(f);
    // Removal: at once, or with the last one attached.
    char *c = attach(id, NULL, 0);
    SHOW(shmctl(id, IPC_RMID, NULL));
    show_stat("removed", id);
    SHOW(shmget(4712, 1, 0));
    char *d = attach(id, NULL, 0);
    printf("still %s\n", d);
    SHOW(shmdt(c));
    SHOW(shmdt(d));
    SHOW(shmctl(id, IPC_STAT, &ds));
    SHOW(shmdt(a));
    SHOW(shmctl(id, IPC_STAT, &ds));
    SHOW((long)shmat(id, NULL, 0));
    // The end of a process is the last one, too.
    id = shmget(IPC_PRIVATE, 4096, 0600);
    pid = fork();
    if (pid == 0) {
        CHECK(attach(id, NULL, 0) && shmctl(id, IPC_RMID, NULL) == 0 && attached(id) == 1);
        _exit(5);
    }
    show_wait("last", pid);
    SHOW(shmctl(id, IPC_RMID, NULL));
    // Processes count together.
    id = shmget(IPC_PRIVATE, 4096, 0600);
    _Atomic int *n = (_Atomic int *)attach(id, NULL, 0);
    CHECK(n && shmctl(id, IPC_RMID, NULL) == 0);
    for (int i = 0; i < 4; i++)
        if (fork() == 0) {
            for (int j = 0; j < 10000; j++) ++*n;
            _exit(0);
        }
    while (wait(NULL) > 0) {
    }
    printf("counted %d\n", *n);
    return 0;
}
