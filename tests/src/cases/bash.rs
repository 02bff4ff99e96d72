//! Debian's bash, dynamically linked.

use crate::differential::{Case, Ignore, Root};

macro_rules! bash {
    ($name:literal, $script:expr) => {
        Case::new(Root::Debian, $name, &["bash", "-c", $script])
    };
}

pub(super) const CASES: &[Case] = &[
    bash!("hello", "echo hello from $BASH"),
    bash!("arrays", "a=(x y 'z w'); echo ${#a[@]} \"${a[2]}\" ${!a[@]}; declare -A m=([k]=v [l]=w); for k in k l; do echo $k=${m[$k]}; done; a+=(end); printf '%s,' \"${a[@]}\"; echo; mapfile -t l < <(seq 3); echo ${l[1]}"),
    bash!("process-substitution", "diff <(seq 3) <(seq 2); tee >(wc -l >/tmp/n) < <(seq 7) >/dev/null; sleep 0.3; cat /tmp/n; cat <(echo a) <(echo b)"),
    bash!("coprocess", "coproc C { while read -r l; do echo \"<$l>\"; done; }; echo one >&${C[1]}; read -r x <&${C[0]}; echo $x; echo two >&${C[1]}; read -r x <&${C[0]}; echo $x; exec {C[1]}>&-; wait; echo $?"),
    bash!("here-string", "read -r a b <<<'x y'; echo $b $a; cat <<<\"$(seq 3)\"; wc -c <<<$(head -c 70000 /dev/zero | tr '\\0' a)"),
    bash!("regex", "[[ foo123 =~ ([a-z]+)([0-9]+) ]] && echo ${BASH_REMATCH[2]}; [[ a < b && -d /tmp ]]; echo $?; [[ abc == a*c ]]; echo $?"),
    bash!("expansion", "s='Hello World'; echo ${s,,} ${s^^} ${s/o/0} ${s//o/0} ${s:6} ${s: -3}; echo {1..5} {a,b}{1,2}; echo $((2**40)) $'a\\tb'; shopt -s extglob; echo ${s##+([^ ]) }"),
    bash!("jobs", "set -m; sleep 0.3 & sleep 100 & jobs | sed 's/  *$//'; kill %2; wait; echo $?"),
    bash!("wait-n", "(sleep 0.1; exit 3) & (sleep 0.5; exit 4) & wait -n; echo $?; wait -n; echo $?; wait -n; echo $?"),
    bash!("traps", "trap 'echo exit' EXIT; trap 'echo usr1' USR1; trap 'echo chld' CHLD; kill -USR1 $BASHPID; (exit 2); trap - CHLD; trap 'echo err $?' ERR; false; true; trap 'echo int' INT; kill -INT $$"),
    bash!("trap-debug-return", "f() { echo in; }; trap 'echo dbg' DEBUG; f; trap - DEBUG; set -T; trap 'echo ret' RETURN; f"),
    bash!("pipestatus", "true | false | (exit 3); echo ${PIPESTATUS[@]}; shopt -s lastpipe; echo v | read -r x; echo $x"),
    bash!("redirect-fds", "exec {fd}>/tmp/f; echo a >&$fd; echo b >&$fd; exec {fd}>&-; cat /tmp/f; { echo o; echo e >&2; } 2>&1 >/dev/null; echo both &>/tmp/g; cat /tmp/g; exec 3<>/tmp/g; read -r x <&3; echo y >&3; cat /tmp/g"),
    bash!("time-and-seconds", "SECONDS=5; [ $SECONDS -ge 5 ] && echo s; [ $EPOCHSECONDS -gt 1700000000 ] && echo e; TIMEFORMAT=%U; time true 2>/dev/null; [ $RANDOM -ne $RANDOM -o 1 = 1 ] && echo r").ignore(&[Ignore::Numbers]),
    bash!("read-options", "printf 'abc' | { read -r -n 2 x; echo $x; read -r x; echo $? $x; }; read -r -t 0.1 x < <(sleep 1); echo $?; read -r -d : x <<<'p:q'; echo $x"),
    bash!("many-forks", "for ((i = 0; i < 150; i++)); do x=$(echo $i); done; echo $x; for ((i = 0; i < 50; i++)); do /bin/true; done; echo end"),
    bash!("signals-default", "for s in HUP INT QUIT TERM USR1 ALRM; do bash -c \"kill -$s \\$\\$\"; echo $s $?; done 2>&1 | grep -v 'core dumped'").ignore(&[Ignore::Numbers]),
    bash!("stop-continue", "sleep 100 & p=$!; kill -STOP $p; sleep 0.2; cut -d' ' -f3 /proc/$p/stat; kill -CONT $p; sleep 0.2; cut -d' ' -f3 /proc/$p/stat; kill $p; wait $p; echo $?"),
    bash!("ulimit", "ulimit -Sn; ulimit -Hn; ulimit -s; (ulimit -f 1; head -c 5000 /dev/zero >/tmp/big) ; echo $?; (ulimit -c 0; ulimit -c)").ignore(&[Ignore::Numbers]),
    bash!("script-file", "cat >/tmp/s <<'E'\n#!/bin/bash\necho \"$0 $# ${BASH_SOURCE[0]} $LINENO\"\nexit 9\nE\nchmod +x /tmp/s; /tmp/s a b; echo $?; bash /tmp/s; source /tmp/s x"),
    Case::new(Root::Debian, "interactive-input", &["bash"]).stdin("x=4\necho $((x * 2))\ncat <<E\ninner\nE\nexit 2\n"),
    bash!("getopts-select", "f() { while getopts ab: o; do echo $o $OPTARG; done; }; f -a -b v; select x in p q; do echo $x; break; done <<<2 2>/dev/null"),
    bash!("printf-time", "TZ=UTC printf '%(%F %T)T\\n' 0; printf '%q\\n' 'a b'; printf -v z '%05d' 42; echo $z"),
    bash!("exec-a", "(exec -a renamed bash -c 'echo $0'); exec -c env"),
    bash!("errors", "nosuch; echo $?; /tmp; echo $?; cd /none; cat </none; echo >/none/x; exit 300"),
    bash!("deep-recursion", "f() { (($1 > 0)) && f $(($1 - 1)); return 0; }; f 500; echo deep"),
    bash!("large-data", "x=$(head -c 1000000 /dev/zero | tr '\\0' q); echo ${#x}; echo $x | md5sum"),
    bash!("namespace-files", "cd /proc/self/ns; for n in *; do stat -L -c \"$n %F %a %s\" $n; readlink $n; exec 3<$n && readlink /proc/self/fd/3; done; for n in uts mnt; do [ $n -ef /proc/$$/ns/$n ] && echo same; unshare --$n bash -c \"[ $n -ef /proc/\\$\\$/ns/$n ] && echo same\" 2>&1; done; [ ipc -ef net ] || echo different; lsns -n -o TYPE -p $$ | sort").ignore(&[Ignore::Numbers]),
    bash!("pid-namespace", "unshare -pf --mount-proc bash -c 'echo $$; ls /proc | grep -c ^[0-9]*$; sleep 50 & ps -e -o pid,ppid,comm; kill %1; wait; readlink /proc/self/ns/pid; cat /proc/1/comm; unshare -pf true; echo $?; kill -9 $$; echo alive'; echo $?; unshare -p sh -c 'true; true' 2>&1 | tail -n 1; unshare -pf --kill-child sh -c 'kill -9 -1; exit 7'; echo $?; nsenter -t $$ -p -m echo entered").ignore(&[Ignore::Numbers]).capabilities(&["CAP_SYS_ADMIN"]),
    // The quick part of the userland's lists.
    bash!("features", include_str!("../../userland/shells.sh")),
];
