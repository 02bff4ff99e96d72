//! Debian's coreutils and their neighbours, dynamically linked.

use crate::differential::{Case, Ignore, Root};

macro_rules! sh {
    ($name:literal, $script:expr) => {
        Case::new(Root::Debian, $name, &["sh", "-c", $script])
    };
}

pub(super) const CASES: &[Case] = &[
    Case::new(Root::Debian, "true", &["/usr/bin/true"]),
    Case::new(Root::Debian, "ls-root", &["ls", "-1", "/"]),
    sh!("ls", "cd /tmp; mkdir d; echo a >f; ln -s f l; touch -hd '2020-01-01 UTC' d f l; ls -lA --time-style=+%s | tail -n +2; ls -F; ls --sort=size -r; ls -i f | wc -w; ls nofile; echo $?"),
    sh!("stat", "cd /tmp; echo abc >f; chmod 604 f; stat -c '%n %s %a %F %h %u %U' f; stat -fc %T /proc; stat -c '%t %T' /dev/null; stat nofile"),
    sh!("cp", "cd /tmp; seq 1000 >a; cp a b; cmp a b && echo same; cp -r /etc e; diff -r /etc e && echo tree; cp --sparse=always a s; cmp a s; cp -l a h; stat -c %h a; cp -a a p; cp -s /tmp/a sl; readlink sl; cp --reflink=auto a r; cmp a r; cp a /root/x; cmp a /root/x && echo across; cp a nodir/x"),
    sh!("mv-rm-ln", "cd /tmp; echo 1 >a; mv -v a b; echo 2 >a; mv -n a b; cat b; mv -T a b; cat b; mkdir -p d/e; mv b d; rm d; rm -r d; ls; ln -s x y; ln -sf z y; readlink y; ln y y2; rm -f none; rm none; unlink y"),
    sh!("mkdir-install", "cd /tmp; mkdir -pv a/b; install -Dm 711 /bin/true x/y/z; stat -c %a x/y/z; rmdir --ignore-fail-on-non-empty a; rmdir a/b; mktemp -u XXXX | wc -c; mkfifo -m 600 p; stat -c '%a %F' p; mknod n p; realpath --relative-to=/usr /usr/bin/ls"),
    sh!("chmod-chown", "cd /tmp; touch f; chmod 0 f; stat -c %A f; chmod a+rwX,g-w f; stat -c %A f; chmod +t .; chown nobody:daemon f; stat -c '%U:%G' f; chown --reference=/etc/passwd f; stat -c %u f; chgrp 77 f; stat -c %g f; chmod 2755 f; stat -c %a f"),
    sh!("truncate-dd", "cd /tmp; truncate -s 1M f; stat -c '%s %b' f; dd if=/dev/zero of=f bs=4k count=3 seek=10 conv=notrunc status=none; stat -c %s f; dd if=f of=g bs=1000 count=5 iflag=fullblock status=none; wc -c <g; truncate -s -100 f; stat -c %s f; fallocate -l 3000 h; stat -c %s h; shred -u h; ls h"),
    sh!("text-filters", "cd /tmp; seq 100 >t; head -n 3 t; tail -n 2 t; tac t | head -n 1; nl t | tail -n 1; cut -c1 t | sort | uniq -c; paste -d, t t | tail -n 1; join t t | wc -l; comm -13 t t; fold -w 1 t | wc -l; pr -l 20 -h x t | wc -l; fmt -w 30 /etc/passwd; split -n 4 t; wc -c x??; csplit -s t 50; wc -l xx*; shuf --random-source=/dev/zero -n 3 t; numfmt --to=si 123456; expand /etc/hosts; ptx /etc/hosts | wc -l; tsort <<E\na b\nb c\nE"),
    sh!("sort", "seq 20000 -1 1 | sort -n | md5sum; seq 30000 | sort --parallel=4 -S 100k -T /tmp | md5sum; printf 'b 2\\na 10\\n' | sort -k2n; sort -c /etc/passwd; echo $?; printf '1.10\\n1.9\\n' | sort -V; sort -m /etc/group /etc/hosts | wc -l"),
    sh!("checksums", "cd /tmp; seq 5000 >t; for s in md5sum sha1sum sha224sum sha256sum sha384sum sha512sum b2sum cksum sum; do $s t; done; sha256sum t >c; sha256sum -c c; basenc --base64url <<<x 2>/dev/null; base32 </etc/hosts"),
    sh!("timeout-sleep", "timeout 0.2 sleep 5; echo $?; timeout -k 0.2 0.2 sh -c 'trap \"\" TERM; sleep 3; sleep 3'; echo $?; timeout --foreground 5 true; echo $?; sleep 0.05 0.05; nohup true; echo $?; nice -n 3 nice; stdbuf -o0 echo buf; env -S 'A=1 sh -c \"echo $A\"'"),
    sh!("env-id", "env -i X=1 env; printenv PATH; id; id -un; groups; whoami; uname -sm; arch; hostname; nproc >/dev/null; tty; pwd; pathchk /tmp; logname 2>&1; users; who | wc -l"),
    sh!("test-expr-printf", "expr 5 '>' 3; test a = b; echo $?; [ -L /bin ]; echo $?; printf '%d %o %s\\n' 0x10 8 x; factor 1000000007; seq -f %.2f 1 .5 2; echo 'scale' | wc -c; yes | head -c 6; date -u -d @0 +%c; date -d 'x' ; echo $?"),
    sh!("tee-fds", "echo x | tee /tmp/a /tmp/b | tee /dev/stderr; cat /tmp/a /tmp/b; cat - /tmp/a </tmp/b; cat /dev/fd/0 </tmp/a; wc -l <<E\na\nE"),
    sh!("tail-follow", "cd /tmp; echo 1 >f; (sleep 0.4; echo 2 >>f; sleep 0.4; echo 3 >>f; sleep 1) & timeout 1.5 tail -f f; wait"),
    sh!("du-df", "mkdir -p /tmp/d; head -c 10000 /dev/zero >/tmp/d/f; du -b /tmp/d/f; du --apparent-size -s /tmp/d | wc -l; df --output=target /tmp; df -i / | wc -l; df /nofile"),
    sh!("grep-sed-awk", "seq 50 | grep -cE '^[1-3]'; grep -rl root /etc/passwd; grep -P '^\\w+:x' /etc/group | head -n 1; seq 5 | sed -E 's/([0-9])/<\\1>/;3!d'; sed -i s/root/toor/ /etc/group; head -n 1 /etc/group; seq 10 | gawk '{ a[$1%3] += $1 } END { PROCINFO[\"sorted_in\"]=\"@ind_num_asc\"; for (k in a) print k, a[k] }'; gawk 'BEGIN { print strftime(\"%Y\", 0, 1), systime() > 0; \"date -u -d @5 +%S\" | getline x; print x }'"),
    sh!("find-xargs", "cd /tmp; mkdir -p a/b/c; touch a/1 a/b/2; find . | sort; find a -type f -printf '%f %s %m\\n' | sort; find . -name '[12]' -print0 | sort -z | xargs -0 -n1 echo; find . -depth -delete; ls -A; seq 100 | xargs -P 4 -n 10 echo | wc -l; find / -xdev -maxdepth 1 -type d | sort"),
    sh!("tar-gzip", "cd /tmp; mkdir d; seq 1000 >d/f; ln -s f d/l; ln d/f d/h; tar cf t.tar d; tar tvf t.tar | awk '{ print $1, $NF }'; rm -r d; tar xf t.tar; stat -c %h d/f; tar czf t.tgz d; tar tzf t.tgz | wc -l; gzip -9 t.tar; gzip -t t.tar.gz; zcat t.tar.gz | tar t | sort; tar x -f none"),
    sh!("diff", "seq 10 >/tmp/a; seq 2 11 >/tmp/b; diff /tmp/a /tmp/b; diff -y -W 20 /tmp/a /tmp/b; diff -q /tmp/a /tmp/b; cmp /tmp/a /tmp/b; sdiff -s /tmp/a /tmp/b; diff3 /tmp/a /tmp/b /tmp/a"),
    // The shell may not have gone to sleep yet when ps looks at it.
    sh!("ps", "sleep 60 & ps -eo pid,ppid,stat,comm --no-headers >/tmp/ps; sed -E 's/ R(s?) +sh$/ S\\1 sh/; s/ +/ /g' /tmp/ps; ps -p 1 -o args=; ps -o pid,nlwp -p 1 --no-headers; pgrep -c sleep; pkill sleep; wait $! 2>/dev/null; echo $?").ignore(&[Ignore::Numbers]),
    sh!("ps-full", "ps -ef; ps aux").ignore(&[Ignore::AllButFirstWords]),
    sh!("top-free-uptime", "top -b -n 1 | sed -n '7,8p'; free | head -n 1; uptime | grep -c load; vmstat | head -n 2; w -h | wc -l; pidof sh; pmap 1 | head -n 1; slabtop -o 2>/dev/null | wc -l >/dev/null; pwdx 1; sysctl -n kernel.ostype").ignore(&[Ignore::AllButFirstWords]),
    sh!("util-linux", "setsid -w sh -c 'echo $?'; flock /tmp/l echo l; getopt -o a: -- -a x y; lscpu | grep -c Architecture; rev </etc/hosts; look root /etc/passwd; mountpoint /proc; findmnt -n -o FSTYPE /proc; cal 1 2000 | head -n 1; ipcmk -S 1 | sed 's/[0-9]*//g'; hexdump -C /etc/hosts; logger x; echo $?; prlimit -n -o SOFT --noheadings; taskset -p $$ | grep -c mask; chrt -p $$ | wc -l; nsenter --help >/dev/null; unshare -u true 2>&1 | grep -c unshare; namei /etc/hosts; column -t /etc/hosts; uuidgen | wc -c; whereis -b sh; script -qc 'tty' /dev/null </dev/null | tr -d '\\r'"),
    sh!("ld-so", "ldd /bin/bash | awk '{ print $1 }'; LD_DEBUG=libs /bin/true 2>&1 | grep -c 'calling init' ; /lib64/ld-linux-x86-64.so.2 --list /bin/true | awk '{print $1}'; LD_PRELOAD=/none.so true; LD_BIND_NOW=1 ls -d /; getent passwd root; locale -a; iconv -f utf8 -t latin1 /etc/hosts"),
    sh!("tput-stty", "TERM=xterm tput cols; TERM=xterm tput setaf 1 | od -c; stty -a; infocmp -1 xterm | wc -l; tset -q; dircolors | head -n 1"),
    sh!("file-locale", "file /etc/passwd /bin/sh /dev/null /tmp; LC_ALL=C.UTF-8 sh -c 'echo é | wc -m'; LC_ALL=C sh -c 'echo é | wc -m'"),
    sh!("signals", "sh -c 'kill -STOP $$' & sleep 0.2; kill -CONT $!; wait $!; echo $?; kill -l 11; /usr/bin/kill -L | head -n 1; sleep 100 & kill -s USR1 $!; wait $! 2>/dev/null; echo $?"),
];
