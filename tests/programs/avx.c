// Vector registers across system calls, signals and preemption: two processes of two threads each hold different values in
// every register while they yield, are signalled and compete.
#include "check.h"
#include <cpuid.h>
#include <sched.h>
static _Thread_local volatile sig_atomic_t hits;
// Fills the vector registers in the handler: they must be whole again after it.
static void handler(int signo) {
    (void)signo;
    hits++;
    __asm__ volatile("pxor %%xmm0, %%xmm0\n pxor %%xmm7, %%xmm7\n pxor %%xmm15, %%xmm15" ::: "xmm0", "xmm7", "xmm15");
}
// Loads all ymm registers from `in`, makes one system call (or burns time if number is -1), stores them to `out`.
__attribute__((target("avx"), noinline)) static long avx_call(long number, long a, long b, const uint8_t *in, uint8_t *out, long spin) {
    long result = number;
    register long r_in __asm__("r12") = (long)in;
    register long r_out __asm__("r13") = (long)out;
    register long r_spin __asm__("r14") = spin;
    __asm__ volatile(
        "vmovdqu 0x000(%%r12), %%ymm0\n vmovdqu 0x020(%%r12), %%ymm1\n vmovdqu 0x040(%%r12), %%ymm2\n vmovdqu 0x060(%%r12), %%ymm3\n"
        "vmovdqu 0x080(%%r12), %%ymm4\n vmovdqu 0x0a0(%%r12), %%ymm5\n vmovdqu 0x0c0(%%r12), %%ymm6\n vmovdqu 0x0e0(%%r12), %%ymm7\n"
        "vmovdqu 0x100(%%r12), %%ymm8\n vmovdqu 0x120(%%r12), %%ymm9\n vmovdqu 0x140(%%r12), %%ymm10\n vmovdqu 0x160(%%r12), %%ymm11\n"
        "vmovdqu 0x180(%%r12), %%ymm12\n vmovdqu 0x1a0(%%r12), %%ymm13\n vmovdqu 0x1c0(%%r12), %%ymm14\n vmovdqu 0x1e0(%%r12), %%ymm15\n"
        "test %%r14, %%r14\n jz 2f\n 1: dec %%r14\n jnz 1b\n jmp 3f\n 2: syscall\n 3:\n"
        "vmovdqu %%ymm0, 0x000(%%r13)\n vmovdqu %%ymm1, 0x020(%%r13)\n vmovdqu %%ymm2, 0x040(%%r13)\n vmovdqu %%ymm3, 0x060(%%r13)\n"
        "vmovdqu %%ymm4, 0x080(%%r13)\n vmovdqu %%ymm5, 0x0a0(%%r13)\n vmovdqu %%ymm6, 0x0c0(%%r13)\n vmovdqu %%ymm7, 0x0e0(%%r13)\n"
        "vmovdqu %%ymm8, 0x100(%%r13)\n vmovdqu %%ymm9, 0x120(%%r13)\n vmovdqu %%ymm10, 0x140(%%r13)\n vmovdqu %%ymm11, 0x160(%%r13)\n"
        "vmovdqu %%ymm12, 0x180(%%r13)\n vmovdqu %%ymm13, 0x1a0(%%r13)\n vmovdqu %%ymm14, 0x1c0(%%r13)\n vmovdqu %%ymm15, 0x1e0(%%r13)\n"
        "vzeroupper"
        : "+a"(result), "+r"(r_spin)
        : "D"(a), "S"(b), "r"(r_in), "r"(r_out)
        : "rcx", "r11", "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
          "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
    return result;
}
static pid_t own;
static void *work(void *arg) {
    int seed = (int)(intptr_t)arg;
    uint8_t in[512], out[512];
    for (int round = 0; round < 300; round++) {
        for (int i = 0; i < 512; i++) in[i] = (uint8_t)(seed * 37 + round * 11 + i * 7);
        memset(out, 0, sizeof out);
        switch (round % 3) {
        case 0: avx_call(SYS_sched_yield, 0, 0, in, out, 0); break;
        case 1: avx_call(-1, 0, 0, in, out, 200000); break;
        default: {
            int before = hits;
            // A signal to itself is delivered before the call returns.
            register long tid = syscall(SYS_gettid);
            CHECK(avx_call(SYS_tkill, tid, SIGUSR1, in, out, 0) == 0);
            CHECK(hits == before + 1);
        }
        }
        CHECK(memcmp(in, out, sizeof in) == 0);
    }
    return NULL;
}
int main(void) {
    unsigned a, b, c, d;
    CHECK(__get_cpuid(1, &a, &b, &c, &d));
    if (!(c & bit_OSXSAVE) || !(c & bit_AVX)) {
        printf("no AVX here\n");
        return 0;
    }
    signal(SIGUSR1, handler);
    int other = fork() == 0;
    own = getpid();
    pthread_t threads[2];
    for (intptr_t i = 0; i < 2; i++) CHECK(pthread_create(&threads[i], NULL, work, (void *)(i + 1 + 10 * other)) == 0);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    if (other) _exit(7);
    int status;
    CHECK(wait(&status) > 0);
    printf("whole; the other exits %d\n", WEXITSTATUS(status));
    return 0;
}
