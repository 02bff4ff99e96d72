# strace and gdb on programs of this container: ptrace(2) as debuggers use it. Addresses and process ids are cut out.
cd /tmp
clean() { sed -E 's/0x[0-9a-f]+/ADDR/g; s/\((process|LWP|Thread ADDR \(LWP) [0-9]+\)+/(N)/g; s/(process|LWP) [0-9]+/\1 N/g'; }
cat > p.c <<'EOF'
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>
int global = 5;
int depth(int n) { return n == 0 ? 7 : depth(n - 1) + 1; }
void *work(void *arg) { global += *(int *)arg; return arg; }
int main(int argc, char **argv) {
  int s = 0;
  for (int i = 0; i < 3; i++) { s += depth(i); global = s; }
  printf("sum %d\n", s); fflush(stdout);
  signal(SIGUSR1, SIG_IGN); raise(SIGUSR1);
  pthread_t t; pthread_create(&t, 0, work, &s); pthread_join(t, 0);
  if (argc > 1) { int *p = 0; *p = global; }
  return global & 15;
}
EOF
gcc -g -O0 -pthread -o p p.c || exit 1
./p; echo "alone: $?"
# Which calls a program makes, and what they return.
strace -o t echo hello; grep -E '^(execve|write|exit_group|\+\+\+)' t | clean | sed 's/ADDR .*vars/vars/'
strace -o t -e trace=openat,close ls /etc/passwd; grep -v ENOENT t | clean | sort | uniq -c
strace -f -o t sh -c 'true | /bin/true; (exit 3); kill -USR2 $$'; sed -E 's/^[0-9]+ +//' t | grep -oE '^(clone|vfork|execve|kill|--- SIG[A-Z0-9]+|\+\+\+ [a-z]+ [a-zA-Z]+ [A-Z0-9]+)' | grep -v SIGCHLD | sort | uniq -c
strace -f -c -o t ./p; awk '$4 ~ /^[0-9]+$/ && $NF != "total" { print $NF, $4 }' t | grep -E '^(execve|clone3?|write|exit_group|tgkill)' | sort
strace -f -e inject=write:error=ENOSPC -o t ./p; grep -c INJECTED t
sleep 100 & pid=$!; timeout 2 strace -p $pid -o t; echo "detached: $?"; kill $pid; wait $pid; echo "killed: $?"
# gdb: breakpoints, stacks, steps, hardware watchpoints, signals, threads, a
# fault, system calls, exec, attach.
printf '/bin/echo child\nexit 4\n' > child
dbg() { timeout 60 gdb -q -nx -batch -ex 'set confirm off' -ex 'set startup-with-shell off' -ex 'handle SIGUSR1 nostop noprint pass' "$@" 2>&1 | clean | grep -vE '^(warning|\[Thread|\[New (Thread|process)|\[Switching|Using host|Download|SIGUSR1|Signal  )|libthread_db|^$'; }
dbg -ex 'break depth if n == 0' -ex run -ex bt -ex 'print n' -ex finish -ex 'info breakpoints' -ex delete -ex next -ex 'print s' -ex 'set var s = 1000' -ex continue ./p
dbg -ex 'break main' -ex run -ex 'watch global' -ex continue -ex continue -ex 'info watchpoints' -ex kill ./p
dbg -ex 'handle SIGUSR1 stop print' -ex run -ex 'print $_siginfo.si_signo' -ex 'signal 0' ./p
dbg -ex 'break work' -ex run -ex 'info threads' -ex stepi -ex 'print *(int *)arg' -ex continue ./p | sed 's/  *ADDR in .*//'
dbg -ex run -ex 'print $_siginfo.si_code' -ex 'print argc' -ex 'print $rip == (long)$pc' -ex kill --args ./p fault
dbg -ex 'catch syscall 1' -ex run -ex 'print $rdi' -ex continue -ex 'print $rax' -ex delete -ex continue ./p | sed 's/ADDR in .*//'
dbg -ex 'set follow-fork-mode child' -ex 'catch exec' -ex run -ex continue --args /bin/sh child | grep -v symbols
sleep 100 & pid=$!; dbg -p $pid -ex 'call (int)getppid() > 0' -ex detach | grep -E '^(\$1|\[Inferior)'; kill $pid; wait $pid; echo "attached and killed: $?"
