# gcc and make: a tree of fifty files, built with two jobs, tested, changed and built again.
set -e
mkdir -p /tmp/tree/src /tmp/tree/obj && cd /tmp/tree
for i in $(seq 50); do
  cat > src/unit$i.c <<C
#include <stdio.h>
#include <stdlib.h>
#include "all.h"
static int cmp(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }
int unit$i(int n) {
    int *v = malloc(sizeof *v * 64); long s = 0;
    for (int k = 0; k < 64; k++) v[k] = (n * (k + $i) * 7919) % 1009;
    qsort(v, 64, sizeof *v, cmp);
    for (int k = 0; k < 64; k++) s = s * 31 % 1000003 + v[k];
    free(v);
    return (int)s;
}
C
  echo "int unit$i(int);" >> src/all.h
done
{ echo '#include <stdio.h>'; echo '#include "all.h"'; echo 'int main(void) { int bad = 0;'; for i in $(seq 50); do echo "printf(\"unit$i %d\\n\", unit$i($i));"; done; echo 'return bad; }'; } > src/main.c
cat > Makefile <<'M'
OBJS := $(patsubst src/%.c,obj/%.o,$(wildcard src/*.c))
CFLAGS := -O1 -Wall -Werror -g
all: prog libunits.so libunits.a
prog: $(OBJS) ; @$(CC) -o $@ $^ && echo linked $@
libunits.a: $(filter-out obj/main.o,$(OBJS)) ; @ar rcs $@ $(sort $^) && echo archived
libunits.so: $(filter-out obj/main.o,$(OBJS)) ; @$(CC) -shared -o $@ $^ && echo shared
obj/%.o: src/%.c src/all.h ; @$(CC) $(CFLAGS) -fPIC -c -o $@ $< && echo $@ >> built
test: prog ; @./prog | sha256sum
.PHONY: all test
M
make -s -j2 all | sort
sort built | sha256sum; grep -c . built
make -s test
touch src/unit7.c; : > built; make -s -j2 all | sort; cat built
make -s -q all && echo 'up to date'
cat > use.c <<'C'
#include "src/all.h"
#include <stdio.h>
int main(void) { printf("%d %d\n", unit3(3), unit9(9)); return 0; }
C
gcc -o use use.c -L. -lunits -Wl,-rpath,/tmp/tree && ./use; ldd use | grep -c libunits
gcc -O2 -static -o use2 use.c libunits.a && ./use2
gcc -E use.c | grep -c unit; nm libunits.a | grep -c ' T unit'; strip prog && ./prog | tail -1; objdump -d prog | grep -q main && echo disassembled
echo 'int main(void) { return undeclared; }' > bad.c; gcc -c bad.c; echo "status $?"
