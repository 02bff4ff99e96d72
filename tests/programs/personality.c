// personality(2): where a program is without chance, and a release that begins with 2.6.
#include "check.h"
#include <sys/personality.h>
#include <sys/utsname.h>

// What the program sees of itself, in a line.
static int addresses(void) {
    int on_stack;
    void *map = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(map != MAP_FAILED);
    printf("%p %p %p %p %x", (void *)&on_stack, map, (void *)addresses, sbrk(0), personality(-1));
    return 0;
}

static void run(const char *self, char *line, size_t len) {
    int ends[2];
    CHECK(pipe(ends) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(ends[1], 1);
        execl(self, self, "addresses", NULL);
        _exit(1);
    }
    close(ends[1]);
    ssize_t n, all = 0;
    while ((n = read(ends[0], line + all, len - 1 - all)) > 0) all += n;
    line[all] = 0;
    close(ends[0]);
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

static void twice(const char *what, const char *self) {
    char one[200], two[200];
    unsigned long stack, map, function, brk, kept;
    run(self, one, sizeof one);
    run(self, two, sizeof two);
    CHECK(sscanf(one, "%lx %lx %lx %lx %lx", &stack, &map, &function, &brk, &kept) == 5);
    printf("%s: the same twice %d, personality after exec %lx\n", what, strcmp(one, two) == 0, kept);
    if (kept & ADDR_NO_RANDOMIZE)
        // What is mapped before differs in length between kernels, and what is on the stack too.
        printf("stack %lx, maps %lx, function %lx, heap %lx\n", stack >> 16, map >> 24, function, brk >> 20);
}

int main(int argc, char **argv) {
    if (argc > 1) return addresses();
    struct utsname names;
    twice("by chance", "/proc/self/exe");
    CHECK(personality(ADDR_NO_RANDOMIZE) == 0);
    twice("fixed", "/proc/self/exe");
    CHECK(personality(ADDR_NO_RANDOMIZE | READ_IMPLIES_EXEC | ADDR_COMPAT_LAYOUT) == ADDR_NO_RANDOMIZE);
    CHECK(personality(UNAME26 | ADDR_NO_RANDOMIZE | READ_IMPLIES_EXEC) != -1 && uname(&names) == 0);
    printf("release %.4s\n", names.release);
    twice("fixed, and old", "/proc/self/exe");
    CHECK(personality(0) != -1 && uname(&names) == 0);
    printf("release 2.6: %d\n", strncmp(names.release, "2.6.", 4) == 0);
    return 0;
}
