// The floating-point control words and flags belong to the task: across calls, signals and other tasks.
#include "check.h"
#include <sched.h>
static unsigned get(void) {
    unsigned v;
    __asm__ volatile("stmxcsr %0" : "=m"(v));
    return v;
}
static void set(unsigned v) { __asm__ volatile("ldmxcsr %0" ::"m"(v)); }
static unsigned short x87(void) {
    unsigned short v;
    __asm__ volatile("fnstcw %0" : "=m"(v));
    return v;
}
static unsigned in_handler;
static void handler(int s) {
    (void)s;
    in_handler = get();
    set(0x1f80);
}
int main(void) {
    printf("start %x %x\n", get(), x87());
    signal(SIGUSR1, handler);
    set(0x7f80);
    unsigned short cw = 0x27f;
    __asm__ volatile("fldcw %0" ::"m"(cw));
    getppid();
    raise(SIGUSR1);
    printf("handler %x after %x %x\n", in_handler, get(), x87());
    if (fork() == 0) {
        printf("child %x %x\n", get(), x87());
        fflush(stdout);
        set(0x1f80);
        _exit(0);
    }
    wait(NULL);
    for (int i = 0; i < 100; i++) sched_yield();
    printf("parent %x %x\n", get(), x87());
    // The direction and alignment flags across a call.
    unsigned long flags;
    __asm__ volatile("std\n mov $39, %%eax\n syscall\n pushfq\n cld\n pop %0" : "=r"(flags)::"rax", "rcx", "r11", "memory");
    printf("direction kept %d\n", (int)(flags >> 10 & 1));
    volatile double zero = 0;
    set(0x1f80);
    printf("%f\n", 1 / zero);
    fflush(stdout);
    set(0x1d80);
    printf("%f\n", 1 / zero);
    return 0;
}
