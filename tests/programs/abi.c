// What a program finds at its start and at the edge of the ABI: auxiliary vector, stack, unknown calls, the 32-bit entry, CPUID.
#include "check.h"
#include <cpuid.h>
#include <elf.h>
#include <sys/auxv.h>
#include <sys/utsname.h>
#include <asm/prctl.h>
#include <setjmp.h>
static sigjmp_buf back;
static volatile sig_atomic_t caught;
static void handler(int s) { caught = s, siglongjmp(back, 1); }
int main(int argc, char **argv) {
    printf("argc %d argv0 %s\n", argc, argv[0]);
    printf("page %lu clock %lu uid %lu secure %lu\n", getauxval(AT_PAGESZ), getauxval(AT_CLKTCK), getauxval(AT_UID), getauxval(AT_SECURE));
    printf("entry %d phdr %d random %d vdso %d execfn %s platform %s\n", getauxval(AT_ENTRY) != 0, getauxval(AT_PHDR) != 0,
           getauxval(AT_RANDOM) != 0, getauxval(AT_SYSINFO_EHDR) != 0, (char *)getauxval(AT_EXECFN), (char *)getauxval(AT_PLATFORM));
    unsigned a, b, c, d;
    CHECK(__get_cpuid(1, &a, &b, &c, &d));
    printf("SSE2 %d\n", (d & bit_SSE2) != 0);
    SHOW(syscall(5000));
    SHOW(syscall(-1));
    SHOW(syscall(0x40000000 | SYS_getpid));
    SHOW(syscall(SYS_gettid) - getpid() == 0 ? 0 : -1);
    // Registers survive a system call but for rax, rcx and r11.
    unsigned long rbx = 1, r8, r9, r10, rdx, rsi, rdi;
    __asm__ volatile("mov $39, %%eax\n mov $0x1111, %%edi\n mov $0x2222, %%esi\n mov $0x3333, %%edx\n mov $0x4444, %%r10d\n"
                     "mov $0x5555, %%r8d\n mov $0x6666, %%r9d\n mov $0x7777, %%ebx\n syscall\n mov %%r8, %0\n mov %%r9, %1\n mov %%r10, %2\n mov %%rbx, %3"
                     : "=&m"(r8), "=&m"(r9), "=&m"(r10), "=&m"(rbx), "=&d"(rdx), "=&S"(rsi), "=&D"(rdi)
                     :
                     : "rax", "rbx", "rcx", "r8", "r9", "r10", "r11", "memory");
    printf("kept %lx %lx %lx %lx %lx %lx %lx\n", rdi, rsi, rdx, r10, r8, r9, rbx);
    unsigned long fs, gs = 0;
    CHECK(syscall(SYS_arch_prctl, ARCH_GET_FS, &fs) == 0);
    unsigned long self;
    __asm__("mov %%fs:0, %0" : "=r"(self));
    printf("fs base %d\n", fs == self);
    CHECK(syscall(SYS_arch_prctl, ARCH_SET_GS, &gs) == 0 || 1);
    unsigned long word = 0x1234;
    CHECK(syscall(SYS_arch_prctl, ARCH_SET_GS, (unsigned long)&word) == 0);
    unsigned long through;
    __asm__("mov %%gs:0, %0" : "=r"(through));
    printf("gs base %lx\n", through);
    SHOW(syscall(SYS_arch_prctl, ARCH_SET_FS, 0x8000000000000000));
    // Addresses that are not the program's are EFAULT, never a crash.
    SHOW(write(1, (void *)0xffffffff80000000, 1));
    SHOW(read(0, (void *)8, 0));
    SHOW(syscall(SYS_uname, (void *)0x7ffffffff000));
    SHOW(open((char *)16, O_RDONLY));
    SHOW(syscall(SYS_rt_sigaction, SIGUSR1, (void *)1, NULL, 8));
    SHOW(syscall(SYS_pipe2, (void *)3, 0));
    // Privileged instructions are faults of the program.
    signal(SIGSEGV, handler), signal(SIGILL, handler), signal(SIGTRAP, handler), signal(SIGFPE, handler);
    if (sigsetjmp(back, 1) == 0) __asm__ volatile("hlt");
    printf("hlt %d\n", caught);
    if (sigsetjmp(back, 1) == 0) __asm__ volatile("cli");
    printf("cli %d\n", caught);
    if (sigsetjmp(back, 1) == 0) __asm__ volatile("ud2");
    printf("ud2 %d\n", caught);
    if (sigsetjmp(back, 1) == 0) __asm__ volatile("int3");
    printf("int3 %d\n", caught);
    if (sigsetjmp(back, 1) == 0) __asm__ volatile("int $0x77");
    printf("int 77 %d\n", caught);
    if (sigsetjmp(back, 1) == 0) __asm__ volatile("mov %%cr0, %%rax" ::: "rax");
    printf("cr0 %d\n", caught);
    if (sigsetjmp(back, 1) == 0) __asm__ volatile("mov $0xc0000080, %%ecx\n rdmsr" ::: "rax", "rcx", "rdx");
    printf("rdmsr %d\n", caught);
    volatile int zero = 0;
    if (sigsetjmp(back, 1) == 0) zero = 10 / zero;
    printf("divide %d\n", caught);
    struct utsname u;
    CHECK(uname(&u) == 0);
    printf("%s %s %s\n", u.sysname, u.nodename, u.machine);
    return 0;
}
