// SIGSEGV on an alternate stack: a null access, a stack overflow, a write to read-only memory; si_code and si_addr.
#include "check.h"
#include <setjmp.h>
#include <ucontext.h>
static sigjmp_buf back;
static volatile sig_atomic_t code, on_alternate;
static void *volatile address;
static char *alternate;
static void handler(int signo, siginfo_t *info, void *context) {
    (void)signo;
    char here;
    code = info->si_code;
    address = info->si_addr;
    on_alternate = &here >= alternate && &here < alternate + 65536;
    CHECK(((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] != 0);
    siglongjmp(back, 1);
}
static int overflow(int n) {
    volatile char big[4096];
    big[0] = (char)n;
    return n == -1 ? 0 : overflow(n + 1) + big[0];
}
int main(void) {
    alternate = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    stack_t stack = {.ss_sp = alternate, .ss_size = 65536}, old;
    CHECK(sigaltstack(&stack, &old) == 0 && old.ss_flags == SS_DISABLE);
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    CHECK(sigaction(SIGSEGV, &action, NULL) == 0 && sigaction(SIGBUS, &action, NULL) == 0);
    if (sigsetjmp(back, 1) == 0) *(volatile int *)8 = 1;
    printf("null: code %d address %p alternate %d\n", code, address, on_alternate);
    if (sigsetjmp(back, 1) == 0) overflow(0);
    printf("overflow: code %d alternate %d\n", code, on_alternate);
    char *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (sigsetjmp(back, 1) == 0) page[5] = 1;
    printf("read-only: code %d offset %ld alternate %d\n", code, (long)((char *)address - page), on_alternate);
    // Non-canonical: a general protection fault, address 0.
    if (sigsetjmp(back, 1) == 0) *(volatile char *)0x8000000000000000 = 1;
    printf("non-canonical: code %d address %p\n", code, address);
    int fd = open("/tmp/bus", O_RDWR | O_CREAT, 0600);
    CHECK(ftruncate(fd, 100) == 0);
    char *file = mmap(NULL, 8192, PROT_READ, MAP_SHARED, fd, 0);
    if (sigsetjmp(back, 1) == 0) printf("%d\n", file[5000]);
    printf("past the end: code %d offset %ld\n", code, (long)((char *)address - file));
    CHECK(sigaltstack(NULL, &old) == 0 && old.ss_sp == alternate && old.ss_flags == 0);
    fflush(stdout);
    signal(SIGSEGV, SIG_DFL);
    *(volatile int *)16 = 1;
    return 1;
}
