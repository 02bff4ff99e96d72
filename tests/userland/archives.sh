# tar with every compressor, and cpio: what comes out is what went in.
set -e
cd /tmp
mkdir -p tree/deep/er
for i in $(seq 200); do seq "$i" $((i * 20)) > "tree/file$i"; done
head -c 3000000 /dev/zero | tr '\0' x > tree/deep/large
truncate -s 5M tree/deep/sparse
ln tree/file1 tree/hard
ln -s ../file2 tree/deep/soft
ln -s /nowhere tree/dangling
mkfifo tree/fifo
chmod 4751 tree/file3
chmod 1777 tree/deep
touch -d '2001-02-03 04:05:06.789' tree/file4
chown 12:34 tree/file5
listing() { (cd "$1" && find . -printf '%p %y %m %n %U %G %s %TY-%Tm-%Td %l\n' | grep -v '^\./deep d\|^\. d' | sort && find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum); }
listing tree > before
for kind in '' --gzip --xz --zstd; do
  tar -c --sparse $kind -f out.tar tree
  tar -t -f out.tar | sort | sha256sum
  mkdir out && tar -x -p -f out.tar -C out
  listing out/tree | diff before - && echo "tar $kind: same"
  rm -r out out.tar
done
for format in newc odc ustar; do
  (cd tree && find . -depth -print0 | cpio -0 -o -H "$format" --quiet) > out.cpio
  mkdir out && (cd out && cpio -i -d -m -p 2>/dev/null < /dev/null || true; cpio -i -d -m --quiet < ../out.cpio)
  listing out | sed 's/ 20..-..-.. / /' | grep -c .
  (cd out && find . -type f ! -name large ! -name sparse -print0 | sort -z | xargs -0 sha256sum | sha256sum)
  rm -r out
done
for program in gzip xz zstd; do
  $program -q -k tree/deep/large && $program -q -d -c tree/deep/large.* | cmp - tree/deep/large && echo "$program: same"
  rm tree/deep/large.*
done
