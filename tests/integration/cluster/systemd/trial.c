/* Tries what the agent's unit forbids, and what it must not forbid; a line for each: what, and 0 or the error's number. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void tell(const char *what, long result) {
    printf("%s: %s\n", what, result < 0 ? strerrorname_np(errno) : "can");
}

static long executable_memory(void) {
    void *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    /* By systemd's filter or, on newer kernels, by PR_SET_MDWE. */
    if (errno == EACCES)
        errno = EPERM;
    return memory == MAP_FAILED ? -1 : 0;
}

static long real_time(void) {
    struct sched_param parameters = {.sched_priority = 1};
    return sched_setscheduler(0, SCHED_FIFO, &parameters);
}

static long more_privileges(void) {
    errno = EPERM;
    return prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 ? -1 : 0;
}

static long beneath_a_directory(void) {
    struct open_how how = {.flags = O_RDONLY, .resolve = RESOLVE_BENEATH};
    int directory = open("/etc", O_PATH | O_DIRECTORY);
    return syscall(SYS_openat2, directory, "passwd", &how, sizeof how);
}

static long mount_something(void) {
    if (mkdir("/run/trial", 0755) < 0 || mount("trial", "/run/trial", "tmpfs", 0, NULL) < 0)
        return -1;
    int file = open("/run/trial/seen", O_WRONLY | O_CREAT, 0644);
    return write(file, "by the service", 14);
}

static long namespace_of_its_own(void) {
    struct stat own, first;
    if (stat("/proc/self/ns/mnt", &own) < 0 || stat("/proc/1/ns/mnt", &first) < 0)
        return -1;
    errno = EEXIST;
    return own.st_ino == first.st_ino ? -1 : 0;
}

int main(void) {
    tell("memory that can be written and executed", executable_memory());
    tell("a packet socket", socket(AF_PACKET, SOCK_RAW, 0));
    tell("a socket of a virtual machine", socket(AF_VSOCK, SOCK_STREAM, 0));
    tell("a real-time process", real_time());
    tell("another personality", personality(ADDR_NO_RANDOMIZE));
    tell("more privileges", more_privileges());
    tell("a local socket", socket(AF_UNIX, SOCK_STREAM, 0));
    tell("a file beneath a directory", beneath_a_directory());
    tell("a mount namespace of its own", namespace_of_its_own());
    tell("a mount", mount_something());
    return 0;
}
