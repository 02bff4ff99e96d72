// A sparse file of more pieces of 2 MiB than a KVM guest can have in view at once: reads, writes and maps of all of it
// see the same bytes, in whatever order they come.
#include "check.h"
enum { PIECES = 8500, EVERY = 20, MAPS = 40 };
static const long PIECE = 2 << 20;
// Marks lie at various places of their pages.
static long place(long piece) { return piece * PIECE + piece * 8 % 4096; }
static unsigned long mark(long piece) { return piece % EVERY == 0 ? (unsigned long)piece * 0x9e3779b97f4a7c15u + 1 : 0; }
static void read_pieces(int fd, const char *what, long first, long last) {
    long wrong = 0;
    for (long piece = first; piece != last; piece += last > first ? 1 : -1) {
        unsigned long found = 1;
        CHECK(pread(fd, &found, 8, place(piece)) == 8);
        wrong += found != mark(piece);
    }
    printf("%s: %ld wrong\n", what, wrong);
}
int main(void) {
    int fd = open("/root/sparse", O_RDWR | O_CREAT | O_EXCL, 0600);
    CHECK(fd >= 0 && ftruncate(fd, PIECES * PIECE) == 0);
    for (long piece = 0; piece < PIECES; piece += EVERY) {
        unsigned long value = mark(piece);
        CHECK(pwrite(fd, &value, 8, place(piece)) == 8);
    }
    read_pieces(fd, "forwards", 0, PIECES);
    read_pieces(fd, "backwards", PIECES - 1, PIECES - 600);
    // Maps take places away from what was only read, and keep what they show while others come.
    volatile unsigned long *maps[MAPS];
    long wrong = 0;
    for (int i = 0; i < MAPS; i++) {
        long piece = (long)i * EVERY * (PIECES / EVERY / MAPS);
        maps[i] = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, piece * PIECE);
        CHECK(maps[i] != MAP_FAILED);
        wrong += maps[i][place(piece) % PIECE / 8] != mark(piece);
        maps[i][0] = maps[i][0] | 1;
    }
    printf("maps: %ld wrong\n", wrong);
    read_pieces(fd, "once more", 0, 300);
    wrong = 0;
    for (int i = 0; i < MAPS; i++) {
        long piece = (long)i * EVERY * (PIECES / EVERY / MAPS);
        unsigned long found;
        CHECK(pread(fd, &found, 8, piece * PIECE) == 8);
        wrong += (found & 1) != 1 || maps[i][0] != found;
    }
    printf("stores through maps: %ld wrong\n", wrong);
    // The last page's content goes with the end of the file, for reads past the window as for others.
    CHECK(ftruncate(fd, place(PIECES - 1) + 3) == 0);
    char rest[8];
    printf("short: %zd", pread(fd, rest, 8, place(PIECES - 1)));
    printf(" %zd\n", pread(fd, rest, 8, place(PIECES - 1) + 3));
    CHECK(unlink("/root/sparse") == 0);
    return 0;
}
