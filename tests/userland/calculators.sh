# bc, dc's arithmetic through bc, awk, perl and sqlite: numbers, strings, files, processes.
cd /tmp
echo 'scale=60; 4*a(1); e(1); sqrt(2)' | bc -l
echo 'define f(n) { if (n < 2) return 1; return n * f(n - 1); } f(60); obase=16; 2^64-1; ibase=2; 1010' | bc
seq 2000 | awk '{ s += $1; h[$1 % 7] += $1 } END { print s; for (i = 0; i < 7; i++) print i, h[i] | "sort -r"; close("sort -r"); print substr("hello", 2, 3), toupper("x"), sprintf("%08.3f", 3.14159) }'
awk 'BEGIN { "date -u -d @0 +%Y" | getline y; print y; cmd = "cat"; print "to cat" |& cmd; close(cmd, "to"); cmd |& getline x; print x; system("exit 3") }'
perl -e 'use strict; use warnings; my %h; $h{$_ % 5} .= chr(65 + $_ % 26) for 1..100; print "$_ $h{$_}\n" for sort keys %h;'
perl -MPOSIX -e '
  pipe(my $r, my $w); my $pid = fork; if (!$pid) { close $r; print $w "child $$\n" =~ s/\d+/N/r; exit 7 } close $w; print <$r>; waitpid $pid, 0; print $? >> 8, "\n";
  $SIG{USR1} = sub { print "usr1\n" }; kill USR1 => $$; local $SIG{ALRM} = sub { die "alarm\n" }; eval { alarm 1; sleep 10 }; print $@;
  print strftime("%Y-%m-%d", gmtime 86400 * 365), " ", floor(-1.5), "\n"; my $t = `echo sub; exit 2`; print $t, $? >> 8, "\n";'
perl -MFile::Find -MFile::Temp=tempdir -MFcntl=:flock,:seek -e '
  my $d = tempdir(CLEANUP => 1); for (1..20) { open my $f, ">", "$d/$_" or die; print $f "x" x $_ } my $n = 0; find(sub { $n += -s if -f }, $d); print "$n\n";
  open my $f, "+<", "$d/5"; flock($f, LOCK_EX | LOCK_NB) or die; open my $g, "+<", "$d/5"; print flock($g, LOCK_EX | LOCK_NB) ? "got" : "busy", "\n"; seek $f, 2, SEEK_SET; read $f, my $b, 9; print "$b\n"; print -e "$d/none" ? 1 : 0, "\n"; print((stat "$d/7")[7], "\n");'
perl -MSocket -MIO::Select -e 'socketpair(my $a, my $b, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or die; syswrite $a, "ping"; my $s = IO::Select->new($b); print scalar($s->can_read(5)), "\n"; sysread $b, my $x, 10; print "$x\n"; print defined $s->can_read(0.05) ? "data" : "none", "\n"'
perl -MThread::Queue -Mthreads -e 'my $q = Thread::Queue->new(1..50); $q->end; my @t = map { threads->create(sub { my $s = 0; while (defined(my $x = $q->dequeue)) { $s += $x } $s }) } 1..4; my $s = 0; $s += $_->join for @t; print "$s\n"'
perl -MDB_File -e 1 2>/dev/null; perl -MStorable=dclone -MTime::HiRes=usleep,time -MDigest::SHA=sha256_hex -e 'my $t = time; usleep 20000; print time - $t >= 0.02 ? "slept\n" : "early\n"; print sha256_hex("abc"), "\n"; print scalar @{dclone([1..5])}, "\n"'
sqlite3 test.db 'create table t(a integer primary key, b text); begin; with recursive c(x) as (select 1 union all select x + 1 from c where x < 3000) insert into t select x, hex(x * x) from c; commit; select count(*), sum(a), max(length(b)) from t; pragma integrity_check;'
sqlite3 test.db 'pragma journal_mode = wal; update t set b = a where a % 3 = 0; select count(*) from t where b = a; vacuum; pragma wal_checkpoint;'
# Four writers at once, each with its own process: none is lost.
for w in 1 2 3 4; do (for i in $(seq 15); do sqlite3 -cmd '.timeout 20000' test.db "insert into t(b) values('w$w-$i')"; done) & done; wait
sqlite3 test.db "select count(*) from t where b like 'w%'; select group_concat(n) from (select count(*) n from t where b like 'w%' group by substr(b, 1, 2)); pragma integrity_check"
