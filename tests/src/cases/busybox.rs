//! A static busybox: its shell, and its applets that need no network.

use crate::differential::{Case, Ignore, Root};

macro_rules! sh {
    ($name:literal, $script:expr) => {
        Case::new(Root::Busybox, $name, &["sh", "-c", $script])
    };
}

/// A file of numbers, words and blanks that many tests read.
macro_rules! on_text {
    ($name:literal, $script:literal) => {
        sh!(
            $name,
            concat!("cd /tmp; seq 1 40 | sed 's/$/ word line/' >t; echo 'Tail end' >>t; ", $script)
        )
    };
}

/// A small tree of files that many tests walk.
macro_rules! on_tree {
    ($name:literal, $script:literal) => {
        sh!(
            $name,
            concat!("umask 022; mkdir -p /tmp/w/a/b /tmp/w/c; cd /tmp/w; echo one >a/1; echo two >a/b/2.txt; ln -s 1 a/l; : >c/empty; ", $script)
        )
    };
}

pub(super) const CASES: &[Case] = &[
    // The plainest first: where these fail, nothing else is worth reading.
    Case::new(Root::Busybox, "true", &["true"]),
    Case::new(Root::Busybox, "false", &["false"]),
    Case::new(Root::Busybox, "echo", &["echo", "hello", "", "world"]),
    sh!("exit-status", "exit 37"),
    sh!("killed-by-signal", "sh -c 'kill -SEGV $$'; echo $?; sh -c 'kill -9 $$'; echo $?"),
    sh!("pid-1-ignores-signals", "kill -TERM $$; kill -INT $$; echo still here"),
    sh!("stderr", "echo out; echo err >&2"),
    Case::new(Root::Busybox, "stdin", &["cat"]).stdin("one\ntwo\nno newline"),
    sh!("env", "env | sort").env(&[("FOO", "bar baz"), ("EMPTY", "")]),
    sh!("cwd-and-identity", "pwd; id; whoami; hostname; echo $HOME; tty; umask"),
    // The shell.
    sh!(
        "pipe",
        "echo abc | tr a-c A-C | cat; seq 1 20000 | tail -n 1; yes | head -n 3; echo ${PIPESTATUS:-none}"
    ),
    sh!("pipe-status", "true | false; echo $?; set -o pipefail; false | true; echo $?"),
    sh!(
        "pipe-large",
        "head -c 3000000 /dev/zero | tr '\\0' x | wc -c; dd if=/dev/zero bs=64k count=40 2>/dev/null | md5sum"
    ),
    sh!(
        "pipe-sigpipe",
        "(while :; do echo y || exit 9; done) | head -n 1; (trap '' PIPE; echo a; echo b 2>&1) | cat"
    ),
    sh!("background", "sleep 0.2 & sleep 0.1 & wait; echo done; (exit 5) & wait $!; echo $?"),
    sh!(
        "background-many",
        "for i in $(seq 1 20); do (exit $i) & p=\"$p $!\"; done; for q in $p; do wait $q; echo $?; done"
    ),
    sh!(
        "background-kill",
        "sleep 100 & p=$!; kill $p; wait $p 2>/dev/null; echo $?; sleep 100 & kill -9 $!; wait $! 2>/dev/null; echo $?"
    ),
    // Whether the shell says "Terminated" depends on whether the job has died before it waits: on Linux
    // it has in some 3 of 100 runs.
    sh!("jobs", "set -m; sleep 100 & jobs | sed 's/ *$//'; kill %1; wait %1 2>/dev/null; echo $?"),
    sh!("trap-exit", "trap 'echo bye' EXIT; echo hello; exit 4"),
    sh!(
        "trap-signal",
        "trap 'echo usr1' USR1; kill -USR1 $$; kill -USR1 $$; trap - USR1; echo end"
    ),
    sh!(
        "trap-in-wait",
        "trap 'echo got' USR1; sleep 2 & (sleep 0.2; kill -USR1 $$) & wait %1; echo $?; kill %1"
    ),
    sh!(
        "trap-child",
        "(trap 'echo term; exit 3' TERM; echo ready; while :; do sleep 0.05; done) & sleep 0.4; kill $!; wait $!; echo $?"
    ),
    sh!("trap-ignore", "trap '' TERM; sh -c 'kill -TERM $$; echo survived'"),
    sh!("here-document", "a=x; cat <<E; cat <<'F'\n$a $(echo sub) $((1+2))\nE\n$a raw\nF"),
    sh!("here-document-large", "cat <<E | wc\n$(seq 1 20000)\nE"),
    sh!("subshell", "x=1; (x=2; cd /tmp; echo $x $PWD); echo $x $PWD; { x=3; }; echo $x"),
    sh!(
        "command-substitution",
        "echo $(echo $(echo deep)) `echo old`; x=$(exit 3); echo $?; echo \"$(printf 'a\\n\\n')\"."
    ),
    sh!(
        "functions",
        "f() { local a=$1; [ $a -gt 0 ] && f $((a-1)); echo $a; return $a; }; f 5; echo $?"
    ),
    sh!(
        "loops",
        "for i in a b; do for j in 1 2; do [ $i$j = b1 ] && continue; echo $i$j; done; done; i=0; until [ $i = 3 ]; do i=$((i+1)); done; echo $i; while true; do break; done"
    ),
    sh!(
        "case-and-patterns",
        "case abc.txt in *.c) echo c;; a*.t??) echo t;; esac; x=/a/b.c.d; echo ${x##*/} ${x%.*} ${x%%.*} ${#x} ${x:2:3}"
    ),
    sh!(
        "arithmetic",
        "echo $((7/2)) $((-7%3)) $((1<<40)) $((0x1f)) $((5>3?1:2)) $((9223372036854775807+1)); echo $((1/0)); echo unreached"
    ),
    sh!(
        "redirections",
        "cd /tmp; echo a >f; echo b >>f; cat <f; exec 3>g; echo three >&3; exec 3>&-; cat g; echo x 2>/dev/null >&2; cat nofile 2>&1; set -C; echo c >f"
    ),
    sh!(
        "descriptors",
        "exec 5</etc/passwd; read -r l <&5; echo \"$l\"; read -r l <&5; echo \"$l\"; exec 5<&-; cat <&5"
    ),
    sh!(
        "read-lines",
        "printf 'a b\\nc\\\\d\\n' | while read -r x y; do echo \"[$x][$y]\"; done; echo 'p:q' | (IFS=: read a b; echo $b)"
    ),
    sh!("read-timeout", "sleep 0.6 | (read -t 0.2 x; echo $?)"),
    sh!("exec", "exec echo replaced"),
    sh!("exec-missing", "exec /no/such/program"),
    sh!("not-found", "nosuchcommand; echo $?; /etc/passwd; echo $?; /; echo $?"),
    sh!(
        "script",
        "cd /tmp; printf '#!/bin/sh\\necho $0 \"$@\"; exit 6\\n' >s; chmod +x s; ./s 1 '2 3'; echo $?; printf '#!/bin/busybox awk -f\\nBEGIN { print \"awk\", ARGC }' >b; chmod +x b; ./b x y"
    ),
    sh!(
        "script-without-interpreter",
        "cd /tmp; echo '#!/no/such' >s; chmod +x s; ./s; echo $?; echo 'echo plain' >p; chmod +x p; ./p; echo $?"
    ),
    sh!(
        "globs",
        "cd /bin; echo [a-c]*sh z*at /etc/pass*d no*match; cd /tmp; touch .h a1 a2; echo * .[a-z]*; set -f; echo *"
    ),
    sh!(
        "set-options",
        "set -eu; echo a; (set +e; false; echo b); f() { false; }; if f; then :; fi; echo c; echo ${undef-d}; echo $undef"
    ),
    sh!("times-and-ulimit", "ulimit -n; ulimit -n 64; ulimit -n; times | wc -l"),
    sh!(
        "kill-group",
        "setsid sh -c 'sleep 100 & sleep 100' & sleep 0.3; kill -- -$!; sleep 0.2; wait $! 2>/dev/null; echo $?"
    ),
    sh!(
        "orphans",
        "(sleep 0.2; echo orphan >/tmp/o) & sh -c '(sleep 0.1; cut -d\" \" -f4 /proc/self/stat >/tmp/p) &'; sleep 0.8; cat /tmp/p /tmp/o"
    ),
    sh!("many-processes", "i=0; while [ $i -lt 200 ]; do /bin/true; i=$((i+1)); done; echo $i"),
    sh!("deep-subshells", "(((((((((((((((echo deep)))))))))))))))"),
    sh!(
        "large-arguments",
        "x=$(head -c 100000 /dev/zero | tr '\\0' a); /bin/echo $x | wc -c; /bin/true $x $x; echo $?"
    ),
    sh!("argument-too-long", "x=$(head -c 140000 /dev/zero | tr '\\0' a); /bin/true $x; echo $?"),
    // Files.
    on_tree!(
        "find",
        "find . | sort; find . -type f -name '*.txt'; find . -type l; find . -empty; touch -t 200102030405 a/1; find . -newer a/1 | wc -l; find . -type f -exec cat {} +; find . -perm 755 | sort; find a -mindepth 2; find . -size -1k | sort"
    ),
    on_tree!(
        "find-delete",
        "find . -name '*.txt' -delete; find . | sort; find . -type f | xargs rm; find . | sort"
    ),
    on_tree!(
        "ls",
        "ls; ls -R; ls -a a; ls -1F a; ls -l a/1 | cut -c1-10; ls -d */; ls -S a; ls nofile; echo $?"
    ),
    on_tree!(
        "ls-long-numeric",
        "touch -d '2020-01-02 03:04:05' a/1; ls -ln --full-time a/1; ls -lnd a/b | cut -d' ' -f1-4"
    ),
    on_tree!(
        "stat",
        "stat -c '%n %s %F %a %u %g %h' a a/1 a/l c/empty; stat -L -c %F a/l; stat -f -c %T /proc; stat nofile; touch -d @1000000 a/1; stat -c %Y a/1"
    ),
    on_tree!(
        "cp-mv-rm",
        "cp a/1 x; cp -r a y; cp -a a z; cat x y/b/2.txt; ls -l z/l | sed 's/.*l ->/l ->/'; mv x c/; mv y c/yy; ls c; rm -r c/yy; rm c; rm -rf c z; ls; cp nofile x; rm nofile"
    ),
    on_tree!(
        "cp-across",
        "cp -a /tmp/w /root/w; cd /root/w; find . | sort; mv /root/w /tmp/w2; find /tmp/w2 | sort; ls /root"
    ),
    on_tree!(
        "ln-readlink",
        "ln a/1 hard; echo more >>hard; cat a/1; stat -c %h hard; ln -s nowhere d; readlink d; readlink -f a/l; cat d; ln -s loop loop; cat loop; realpath a/../c; ln a x"
    ),
    on_tree!(
        "chmod-chown",
        "chmod 640 a/1; stat -c %a a/1; chmod u+x,o=r a/1; stat -c %a a/1; chown 12:34 a/1; stat -c '%u %g' a/1; chmod 4755 a/1; stat -c %a a/1; chown 5 a/1; stat -c '%a %u' a/1; chgrp 7 a; stat -c %g a; chmod -R go-rwx a; stat -c %a a/b/2.txt"
    ),
    on_tree!(
        "mkdir-rmdir",
        "mkdir a; mkdir -p x/y/z; mkdir -m 700 m; stat -c %a m; rmdir x; rmdir -p x/y/z; ls; rmdir a; (umask 077; mkdir u; touch v; stat -c %a u v)"
    ),
    on_tree!(
        "touch-truncate",
        "touch -d '2001-02-03 04:05:06' a/1; date -r a/1 '+%F %T'; truncate -s 10 a/1; wc -c a/1; truncate -s 2 a/1; od -c a/1; touch -c n; ls n; touch -d @5000 a/1; touch -r a/1 c/empty; date -r c/empty +%s"
    ),
    on_tree!(
        "du-df",
        "du -s a >/dev/null && echo du; df /tmp | head -n 1; df -k / | wc -l; stat -f -c '%S' /tmp"
    ),
    on_tree!(
        "tar",
        "tar cf t.tar a c; tar tf t.tar; mkdir x; tar xf t.tar -C x; find x | sort; cat x/a/b/2.txt; tar czf t.tgz a; gunzip -c t.tgz | tar tf -; tar cf - a | (cd x; tar xvf -); tar tf nofile"
    ),
    on_tree!(
        "cpio",
        "find a | sort | cpio -o -H newc >t.cpio 2>/dev/null; cpio -t <t.cpio 2>/dev/null; mkdir x; cd x; cpio -id <../t.cpio 2>/dev/null; find . | sort"
    ),
    on_tree!(
        "install-mktemp",
        "install -m 600 a/1 in; stat -c %a in; install -d q/r; ls q; f=$(mktemp); [ -f $f ] && stat -c %a $f; d=$(mktemp -d); [ -d $d ] && stat -c %a $d"
    ),
    on_tree!(
        "mkfifo",
        "mkfifo p; stat -c %F p; (echo through >p) & cat p; wait; (for i in 1 2 3; do echo $i; done >p) & wc -l <p"
    ),
    on_tree!(
        "mknod",
        "mknod n c 1 3; stat -c '%F %t %T' n; echo gone >n; wc -c <n; mknod p p; stat -c %F p"
    ),
    on_tree!(
        "permissions",
        "echo secret >s; chmod 600 s; chmod 711 .; su -s /bin/sh nobody -c 'id -u; cat s; cat a/1; echo x >a/1; touch a/n; cd a && ls'; echo $?"
    ),
    on_tree!(
        "root-file-system",
        "mkdir /new; echo data >/new/f; cat /new/f; mv /new/f /g; ln /g /h; rm /g; cat /h; rm -r /new /h; ls -d /new; echo x >>/etc/hosts; tail -n 1 /etc/hosts"
    ),
    on_tree!(
        "unlinked",
        "exec 3>f 4<f; echo kept >&3; rm f; cat <&4; ls f; mkdir d; cd d; rmdir ../d; pwd; ls; touch x"
    ),
    on_tree!(
        "flock",
        "flock l echo locked; (flock -n 9 || echo busy; sleep 0.5) 9>l & sleep 0.2; flock -n l true; echo $?; wait; flock -n l echo free"
    ),
    sh!(
        "cat-dd",
        "cd /tmp; dd if=/dev/zero of=f bs=1k count=10 2>/dev/null; wc -c f; dd if=f bs=3 skip=1 count=2 2>/dev/null | wc -c; echo abcdef | dd bs=1 count=3 2>/dev/null; dd if=/dev/zero of=f bs=1 seek=20000 count=1 conv=notrunc 2>/dev/null; wc -c f; cat -n /etc/group; cat -A /etc/hosts"
    ),
    sh!(
        "full-and-null",
        "echo x >/dev/full; echo $?; cat /dev/null; echo y >/dev/null; head -c 5 /dev/urandom | wc -c; head -c 4 /dev/zero | od -x; ls -l /dev/null | cut -c1-10"
    ),
    sh!(
        "dev",
        "ls /dev | grep -v core; ls -l /dev/fd /dev/stdin /dev/ptmx | sed 's/.*\\(\\/dev\\)/\\1/'; echo via >/dev/stdout; ls -ld /dev/shm /dev/pts | cut -c1-10; echo s >/dev/shm/f; cat /dev/shm/f"
    ),
    sh!(
        "sync-fsync",
        "cd /tmp; echo a >f; sync; fsync f; echo $?; cd /root; echo b >g; fsync g; echo $?; cat g"
    ),
    sh!(
        "read-only-proc",
        "echo x >/proc/sys/kernel/hostname; echo $?; rm /proc/cpuinfo; mkdir /proc/x; echo $?"
    ),
    // Text.
    on_text!(
        "grep",
        "grep 3 t; grep -c word t; grep -n '^1.* ' t; grep -v word t; grep -i tail t; grep -o '[0-9]*5' t; grep -E '(7|8) ' t; grep -q none t; echo $?; grep -l word t /etc/passwd; grep -F . t; grep -A1 -B1 20 t; grep x nofile; echo $?"
    ),
    on_text!(
        "sed",
        "sed -n '3,5p' t; sed '2,$d' t; sed -e 's/word/WORD/' -e '2q' t; sed -i '1d' t; head -n 1 t; sed -n '$=' t; echo hello | sed 's/\\(.\\)\\(.\\)/\\2\\1/;y/lo/01/'; sed -n '/10/,/12/p' t"
    ),
    on_text!(
        "awk",
        "awk '{ s += $1 } END { print s, NR, NF }' t; awk -F: '{ print $1 }' /etc/passwd; awk 'BEGIN { printf \"%5.2f|%-5s|%x\\n\", 3.14159, \"ab\", 255; print substr(\"hello\", 2, 3), length(\"abc\"), toupper(\"x\") }'; awk '/1/ { c++ } END { print c }' t; awk 'BEGIN { while ((\"echo a; echo b\" | getline l) > 0) print l; system(\"echo sys\") ; a[1]=2; for (k in a) print k, a[k]; exit 3 }'; echo $?"
    ),
    on_text!(
        "sort-uniq",
        "sort -r t | head -n 3; sort -n t | tail -n 3; printf 'b\\na\\nb\\n' | sort | uniq -c | sed 's/ *//'; printf '3 x\\n1 y\\n' | sort -k2; sort -u /etc/group; printf '10\\n9\\n' | sort; sort -t: -k3n /etc/passwd"
    ),
    on_text!(
        "head-tail",
        "head -n 2 t; tail -n 2 t; head -c 5 t; tail -c 5 t; tail -n +40 t; seq 10 | head -n -8; (sleep 0.2; echo late >>t; sleep 1.2) & timeout 2 tail -n 1 -f t; wait"
    ),
    on_text!(
        "cut-paste",
        "cut -d' ' -f1 t | paste -s -d, -; echo abcdef | cut -c2-4; paste -d: t t | head -n 1; cut -c-3 t | tail -n 1"
    ),
    on_text!(
        "tr-wc-rev",
        "tr a-z A-Z <t | head -n 1; wc t; wc -l <t; echo abc | rev; tr -d '0-9' <t | sort -u; tr -s ' ' <t | head -n 1; echo aabb | tr -s a; tac t | head -n 1; nl t | tail -n 1"
    ),
    on_text!(
        "diff-cmp-patch",
        "sed 's/^7 .*/seven/' t >u; diff t u; diff -u t u | tail -n +3; cmp t u; cmp t t; echo $?; diff -u t u >p; patch t <p; cmp t u; echo $?; comm -12 t u 2>/dev/null | wc -l"
    ),
    on_text!(
        "split-fold",
        "split -l 15 t s; wc -l s*; fold -w 5 t | head -n 3; echo 'a b c d' | fold -s -w 4; expand t | head -n 1; printf 'a\\tb\\n' | expand -t 4; printf '    x\\n' | unexpand -a"
    ),
    on_text!(
        "od-hexdump-strings",
        "head -c 20 t | od -c; head -c 20 t | hexdump -C; head -c 16 t | xxd; strings -n 5 t | head -n 1; echo 68656c6c6f | xxd -r -p"
    ),
    on_text!(
        "checksums",
        "md5sum t; sha1sum t; sha256sum t; sha512sum t; sha3sum t; cksum t; sum t; crc32 t; md5sum t >s; md5sum -c s; echo x >>t; md5sum -c s; echo $?"
    ),
    on_text!(
        "compress",
        "gzip -k t; gunzip -c t.gz | cmp - t; bzip2 -k t; bzcat t.bz2 | cmp - t; gzip -d <t.gz | wc -c; zcat t.gz | md5sum; echo junk >j.gz; gunzip j.gz; echo $?; xz -dc t 2>&1; lzop -c t | lzop -dc | cmp - t; echo $?"
    ),
    on_text!(
        "decompress",
        "echo /Td6WFoAAATm1rRGAgAhARwAAAAQz1jMAQAIaGVsbG8geHoKAAAAAMFJOvpjUhRaAAEhCWwYxdUftvN9AQAAAAAEWVo= | base64 -d >x.xz; unxz -c x.xz; xzcat x.xz; echo XQAAAAT//////////wA0GUnujekUimql1d5wKZ///ZlAAA== | base64 -d >l.lzma; lzcat l.lzma; unlzma l.lzma; cat l; bzip2 -c t | bunzip2 | cmp - t; echo UEsDBBQAAAAIAEuYel2ogIqnDwAAAMgAAAAFAAAAei50eHTLSM3JyVeoyizgyhjSLABQSwECFAMUAAAACABLmHpdqICKpw8AAADIAAAABQAAAAAAAAAAAAAAgAEAAAAAei50eHRQSwUGAAAAAAEAAQAzAAAAMgAAAAAA | base64 -d >z.zip; unzip -q z.zip; wc z.txt; unzip -l z.zip | tail -n 1"
    ),
    on_text!(
        "old-names",
        "egrep '^1[0-3] ' t; fgrep -c word t; ascii | head -n 3; hostid | wc -c; link t u; unlink t; wc -l u; shred -n 1 -u u; ls; linux32 uname -m; linux64 uname -m; ipcalc -n 10.1.2.3 255.255.0.0; who; echo one | ts x"
    ),
    sh!(
        "make-file-systems",
        "cd /tmp; dd if=/dev/zero of=img bs=1k count=512 2>/dev/null; mke2fs -F img >/dev/null; echo $?; od -A n -t x2 -j 1080 -N 2 img; mkdosfs img; echo $?; od -A n -c -j 54 -N 5 img"
    ),
    on_text!(
        "encode",
        "base64 t | head -n 1; base64 t | base64 -d | cmp - t; uuencode t x | head -n 2; uuencode -m t x | uudecode -o u; cmp t u; echo $?; printf 'a\\r\\n' | dos2unix | od -c; echo hi | unix2dos | od -c"
    ),
    on_text!(
        "ed",
        "printf '2,3d\\n1a\\nnew\\n.\\nw\\nq\\n' | ed t; head -n 4 t; printf 'g/word/s//W/\\n1,2p\\nQ\\n' | ed t"
    ),
    sh!(
        "vi",
        "cd /tmp; printf 'one\\ntwo\\nthree\\n' >f; printf ':2d\\n:$\\nofour\\033:wq\\n' | vi f >/dev/null 2>&1; cat f"
    ),
    sh!(
        "vi-command",
        "cd /tmp; printf 'alpha\\nbeta\\n' >f; vi -c ':%s/alpha/omega/' -c ':wq' f </dev/null >/dev/null 2>&1; cat f"
    ),
    sh!(
        "printf-echo",
        "printf '%s %d %5.1f %x %c %%\\n' str 42 2.55 255 z; printf '%b' 'a\\tb\\n'; echo -e 'x\\ty'; echo -n no; printf '%03d|%-4s|%+d\\n' 7 ab 5; printf '\\101\\n'"
    ),
    sh!(
        "expr-test-bc-dc",
        "expr 3 + 4 \\* 2; expr abc : 'a\\(.\\)'; expr length hello; [ 3 -lt 10 -a -d /tmp ]; echo $?; test -s /etc/passwd -o -f /no; echo $?; echo '2^64; scale=5; 1/3' | bc; echo '3 4 * p' | dc; factor 360"
    ),
    sh!(
        "seq-shuf-yes",
        "seq -w 8 11; seq 0 0.5 2; seq -s, 3; seq 100 | shuf | sort -n | cmp - /dev/fd/3 3<<E\n$(seq 100)\nE\nyes abc | head -n 2; seq 5 | tsort 2>/dev/null | wc -l"
    ),
    sh!(
        "basename-dirname",
        "basename /a/b.c .c; dirname /a/b/c; basename /; dirname x; realpath /tmp/../etc; which sh; which nosuch; echo $?"
    ),
    sh!(
        "date-cal",
        "date -u -d @86400 '+%F %T %a %j'; date -u -d '2024-02-29 12:00' +%s; cal 2 2024; TZ=EST5EDT date -d @0 +%H; [ $(date +%s) -gt 1700000000 ] && echo now"
    ),
    sh!(
        "xargs-tee",
        "seq 5 | xargs -n 2 echo; seq 3 | xargs -I{} echo '<{}>'; echo 'a b' | xargs -n1; printf 'x\\0y z\\0' | xargs -0 -n1 echo; seq 4 | xargs -P 3 -n 1 sh -c 'exit 0'; echo $?; cd /tmp; echo t | tee a b; cat a b; echo u | tee -a a; cat a; false | xargs false; echo $?"
    ),
    // Processes and the system.
    sh!("ps", "/bin/sleep 50 & sleep 0.2; ps -o pid,ppid,args; kill $!").ignore(&[Ignore::Numbers]),
    sh!(
        "ps-columns",
        "ps -o user,comm | head -n 2; ps -o pid,pgid,tty,args | tail -n +2 | head -n 1"
    ),
    sh!("ps-plain", "ps").ignore(&[Ignore::Numbers]),
    sh!("top", "top -b -n 1 | tail -n +5 | sed 's/[0-9.]*m\\{0,1\\}//g'")
        .ignore(&[Ignore::AllButFirstWords]),
    sh!(
        "pidof-killall",
        "/bin/sleep 77 & sleep 0.2; pidof sleep | wc -w; killall sleep; wait $! 2>/dev/null; echo $?; killall nosuch; echo $?"
    ),
    sh!(
        "uptime-free",
        "uptime | grep -c 'load average'; free | head -n 1; free | wc -l; cat /proc/loadavg | wc -w; nproc >/dev/null && echo nproc"
    ),
    sh!("uname", "uname -s; uname -m; uname -n; arch"),
    sh!(
        "time-timeout",
        "timeout 0.3 sleep 10; echo $?; timeout -s KILL 0.3 sleep 10; echo $?; timeout 5 sh -c 'exit 3'; echo $?; time -f %C true; usleep 1000; sleep 0.1; echo slept"
    ),
    sh!(
        "nice-nohup-setsid",
        "nice; nice -n 5 nice; nice -n 5 sh -c 'renice -n 8 $$ >/dev/null; nice'; nohup echo hup 2>/dev/null; setsid sh -c 'ps -o pid,sid | awk -v p=$$ \"\\$1==p\" | awk \"{print (\\$1==\\$2)}\"'"
    ),
    sh!(
        "proc-self",
        "cat /proc/self/comm; tr '\\0' ' ' </proc/self/cmdline; echo; readlink /proc/self/exe /proc/self/cwd /proc/self/root; ls /proc/self/fd | wc -l; grep -E '^(Name|PPid|Uid|Gid|Threads):' /proc/self/status; wc -w </proc/self/stat; tr '\\0' '\\n' </proc/1/environ | sort"
    ),
    sh!(
        "proc-files",
        "for f in cpuinfo meminfo stat uptime version loadavg mounts filesystems self/maps self/statm self/mountinfo self/limits sys/kernel/pid_max; do [ -r /proc/$f ] && [ -n \"$(head -c 1 /proc/$f)\" ] && echo $f; done; grep -c MemTotal /proc/meminfo; ls -d /proc/[0-9]* | head -n 1"
    ),
    sh!(
        "proc-maps",
        "awk '{ print $2, $6 }' /proc/self/maps | grep -E 'busybox|stack|heap' | uniq"
    ),
    sh!("sys", "ls -d /sys/class /sys/devices /sys/kernel; touch /sys/x; echo $?"),
    sh!(
        "mounts",
        "awk '{ print $2, $3 }' /proc/mounts | grep -vE 'overlay|cgroup|acpi|keys|timer|firmware|scsi|/proc/|kcore|latency|sched_debug|9p|sys/fs'; mountpoint /proc; mountpoint /etc"
    ),
    sh!(
        "users",
        "id nobody; id -u nobody; groups; su -s /bin/sh daemon -c 'id; touch /etc/x'; echo $?; getopt ab: -a -b c d; logname 2>/dev/null || echo none"
    ),
    sh!(
        "setuid-program",
        "cp /bin/busybox /tmp/id; su -s /bin/sh nobody -c 'chmod 600 /etc/passwd'; echo $?; su -s /bin/sh nobody -c 'kill -0 1'; echo $?"
    ),
    sh!(
        "chroot",
        "mkdir -p /tmp/r/bin; cp /bin/busybox /tmp/r/bin/sh; chroot /tmp/r /bin/sh -c 'pwd; echo /*; cd ..; pwd'; chroot /tmp/none sh; echo $?"
    ),
    sh!(
        "start-stop-daemon",
        "start-stop-daemon -S -b -m -p /tmp/p -x /bin/sleep -- 100; sleep 0.3; kill -0 $(cat /tmp/p) && echo up; start-stop-daemon -K -q -p /tmp/p; sleep 0.3; kill -0 $(cat /tmp/p) 2>/dev/null || echo down"
    ),
    sh!("watch", "timeout 1 watch -n 5 -t echo seen | head -c 200 | grep -c seen"),
    sh!(
        "script-tty",
        "stty 2>&1; tty -s; echo $?; ttysize 2>&1; reset >/dev/null 2>&1; clear | od -c"
    ),
    sh!(
        "script-pty",
        "script -q -c 'tty; stty size; echo in pty' /dev/null </dev/null | tr -d '\\r'"
    ),
    sh!("more-less", "seq 3 | more; seq 3 | less; man 2>&1 | head -n 1"),
    sh!("lsof-fuser", "sleep 30 </etc/group & sleep 0.2; lsof | grep -c /etc/group; kill $!"),
    sh!("logger-syslog", "logger hello; echo $?; dmesg >/dev/null 2>&1; echo done"),
    sh!(
        "sysctl",
        "sysctl -n kernel.ostype; sysctl -w kernel.hostname=x; echo $?; sysctl -n kernel.hostname"
    ),
    sh!(
        "no-mount",
        "mount -t tmpfs x /tmp; echo $?; umount /proc; echo $?; hostname new; echo $?; swapon -a; echo $?"
    ),
    sh!(
        "ipcs-mesg",
        "ipcs | grep -c Semaphore; mesg; echo $?; setarch x86_64 uname -m; linux64 uname -m; ionice; chrt -p $$ | sed 's/pid [0-9]*/pid/'; taskset -p 1 2>&1 | grep -c affinity"
    ),
    sh!("hush", "hush -c 'for i in 1 2; do echo $i; done | cat; false || echo or'"),
    sh!(
        "ash-script-file",
        "cat >/tmp/x <<'E'\nset -- a b\nwhile [ $# -gt 0 ]; do echo $1; shift; done\nE\nash /tmp/x; . /tmp/x; echo $#"
    ),
    sh!(
        "inotify",
        "cd /tmp; mkdir d; timeout 1 inotifyd - d:n >log & sleep 0.4; touch d/f; wait; cat log"
    ),
    sh!(
        "crypt-passwd",
        "cryptpw -m sha512 -S abcdefgh secret; mkpasswd -m md5 -S abcdefgh x; echo $?"
    ),
    sh!(
        "dpkg-rpm-ar",
        "cd /tmp; echo a >a; ar -p nofile 2>&1; dpkg-deb 2>&1 | head -n 1; rpm2cpio nofile 2>&1"
    ),
    sh!(
        "fs-tools",
        "cd /tmp; dd if=/dev/zero of=i bs=1k count=200 2>/dev/null; mkfs.ext2 -F i >/dev/null 2>&1; echo $?; mkfs.minix i >/dev/null 2>&1; echo $?; fsck.minix i >/dev/null 2>&1; echo $?; blkid i; mkswap i >/dev/null; echo $?; fallocate -l 5000 g; wc -c <g; mkfs.vfat i >/dev/null 2>&1; echo $?"
    ),
    sh!(
        "xattr-chattr",
        "cd /tmp; echo a >f; chattr +a f 2>/dev/null; lsattr f 2>/dev/null | wc -l; setfattr -n user.x -v y f 2>/dev/null; echo done"
    ),
    sh!(
        "run-parts-which",
        "mkdir /tmp/d; printf '#!/bin/sh\\necho ran $0\\n' >/tmp/d/a; chmod +x /tmp/d/a; run-parts /tmp/d; envdir /tmp/d env 2>/dev/null | grep -c '^a='; printenv HOME; env -i A=b env; env -u HOME sh -c 'echo ${HOME-unset}'"
    ),
    sh!("applet-list", "busybox --list | wc -l; busybox nosuch; echo $?; busybox | head -n 1"),
];
