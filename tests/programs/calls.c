// Which system calls there are: makes every call of a number below 512, and some beyond, each in a child of its own, with
// arguments that no call can do anything with, and prints the numbers that give ENOSYS, and those that never come back.
//
// All arguments are -1: no descriptor, no address, no process, no flags that any call knows, no size that can be had. A call
// that is there says EBADF, EFAULT, EINVAL, EPERM or the like, succeeds, blocks (a timer's signal ends that), or ends its
// child; one that is not there says ENOSYS. A call that is there in part answers like a whole one.
#include "check.h"
#include <sys/time.h>

enum { THERE = 4, NOT_THERE = 3 };

// Calls that say ENOSYS to an operation that they do not know, by a call's number: the operation goes first or second.
static const struct {
    long number, first, second;
} KNOWN[] = {
    {SYS_futex, -1, 1 /* FUTEX_WAKE */},
    {SYS_modify_ldt, 0 /* read */, -1},
};

static void interrupted(int signal) { (void)signal; }

static long call(long number) {
    long first = -1, second = -1, result;
    for (size_t i = 0; i < sizeof KNOWN / sizeof *KNOWN; i++)
        if (KNOWN[i].number == number) first = KNOWN[i].first, second = KNOWN[i].second;
    register long r10 asm("r10") = -1, r8 asm("r8") = -1, r9 asm("r9") = -1;
    if (number == SYS_rt_sigreturn) {
        // It restores what the stack holds: nothing.
        asm volatile("mov %%rsp, %%rbx\n\txor %%esp, %%esp\n\tsyscall\n\tmov %%rbx, %%rsp"
                     : "=a"(result)
                     : "0"(number)
                     : "rbx", "rcx", "r11", "memory");
        return result;
    }
    asm volatile("syscall" : "=a"(result) : "0"(number), "D"(first), "S"(second), "d"(-1L), "r"(r10), "r"(r8), "r"(r9)
                 : "rcx", "r11", "memory");
    return result;
}

// A child of vfork borrows the stack: it must end before anything returns.
static long call_vfork(void) {
    long result;
    asm volatile("syscall\n\ttest %%eax, %%eax\n\tjnz 1f\n\tmov %2, %%eax\n\tmov %3, %%edi\n\tsyscall\n1:"
                 : "=a"(result)
                 : "0"((long)SYS_vfork), "i"(SYS_exit), "i"(THERE)
                 : "rcx", "rdi", "r11", "memory");
    return result;
}

// Whether the call is there.
static bool probe(long number) {
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        struct sigaction action = {.sa_handler = interrupted};
        sigaction(SIGALRM, &action, NULL);
        struct itimerval soon = {{0, 50000}, {0, 50000}};
        setitimer(ITIMER_REAL, &soon, NULL);
        long result = number == SYS_vfork ? call_vfork() : call(number);
        syscall(SYS_exit_group, result == -ENOSYS ? NOT_THERE : THERE);
    }
    int status = 0;
    double until = now() + 60;
    pid_t ended;
    // What comes back at once is not slept for.
    for (int round = 0; (ended = waitpid(child, &status, WNOHANG)) == 0 && now() < until; round++)
        if (round < 100) sched_yield();
        else sleep_ms(1);
    if (ended == 0) {
        printf("hangs %ld\n", number);
        kill(child, SIGKILL);
        CHECK(waitpid(child, &status, 0) == child);
    } else if (WIFEXITED(status) && WEXITSTATUS(status) == NOT_THERE) {
        printf("ENOSYS %ld\n", number);
        return false;
    }
    return true;
}

int main(void) {
    static const long BEYOND[] = {512, 547, 548, 1000, 0xffff, 0x40000000, 0x7fffffff};
    enum { NUMBERS = 512 };
    for (long number = 0; number < NUMBERS; number++) probe(number);
    printf("probed %d\n", NUMBERS);
    // Nothing may be there.
    for (size_t i = 0; i < sizeof BEYOND / sizeof *BEYOND; i++) CHECK(!probe(BEYOND[i]));
    return 0;
}
