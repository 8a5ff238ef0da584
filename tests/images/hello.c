// The only program of the test image "static", which has no shell and no libraries.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "hello";
    if (argc == 3 && strcmp(what, "sleep") == 0) {
        sleep((unsigned)atoi(argv[2]));
    } else if (argc == 3 && strcmp(what, "exit") == 0) {
        return atoi(argv[2]);
    } else if (argc == 2 && strcmp(what, "id") == 0) {
        printf("uid=%u gid=%u\n", (unsigned)getuid(), (unsigned)getgid());
    } else if (argc <= 2 && strcmp(what, "hello") == 0) {
        puts("hello from a static binary");
    } else {
        fputs("usage: hello [hello | id | sleep SECONDS | exit STATUS]\n", stderr);
        return 2;
    }
    return 0;
}
