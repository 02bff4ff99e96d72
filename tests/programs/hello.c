// The least: a line and an exit status.
#include "check.h"
int main(int argc, char **argv) {
    printf("hello, %d arguments, last %s\n", argc - 1, argv[argc - 1]);
    return 42;
}
