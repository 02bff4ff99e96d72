// sched_setattr(2): what is kept of the policy and of its parameters, and what it refuses.
#include "check.h"
#include <sched.h>

struct attr {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t times[3];
    uint32_t clamps[2];
};

enum { RESET_ON_FORK = 1, KEEP_POLICY = 8, KEEP_PARAMS = 0x10, CLAMP_MIN = 0x20, BASIC = 48 };

static void set(const char *what, struct attr attr) {
    if (attr.size == 0) attr.size = BASIC;
    errno = 0;
    long result = syscall(SYS_sched_setattr, 0, &attr, 0);
    struct attr now = {0};
    CHECK(syscall(SYS_sched_getattr, 0, &now, BASIC, 0) == 0);
    printf("%s: %ld %s, now policy %u flags %llx nice %d priority %u\n", what, result, result ? strerrorname_np(errno) : "",
           now.policy, (unsigned long long)now.flags, now.nice, now.priority);
}

int main(void) {
    set("nice", (struct attr){.nice = 3});
    set("keep parameters", (struct attr){.policy = SCHED_BATCH, .flags = KEEP_PARAMS, .nice = 7});
    set("keep policy", (struct attr){.flags = KEEP_POLICY, .nice = 5});
    set("keep both", (struct attr){.policy = SCHED_IDLE, .flags = KEEP_POLICY | KEEP_PARAMS, .nice = 9});
    set("reset on fork", (struct attr){.policy = SCHED_BATCH, .flags = RESET_ON_FORK, .nice = 5});
    set("keep that too", (struct attr){.flags = KEEP_POLICY, .nice = 6});
    set("negative policy", (struct attr){.policy = -1u, .flags = KEEP_POLICY, .nice = 6});
    set("unknown flag", (struct attr){.flags = 0x100, .nice = 6});
    set("clamp without room", (struct attr){.flags = CLAMP_MIN | KEEP_POLICY | KEEP_PARAMS});
    set("priority for none", (struct attr){.priority = 4});
    return 0;
}
