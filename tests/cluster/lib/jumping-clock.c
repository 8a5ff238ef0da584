/* Has the programs that are meant see a wall clock that jumps ten years forward and back, at every look at it.
 * Other clocks stay as they are. Loaded by /etc/ld.so.preload; built by the test that uses it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const long TEN_YEARS = 10L * 365 * 24 * 3600;

static int is_meant(void)
{
    return strncmp(program_invocation_short_name, "parallax", 8) == 0 ||
           strcmp(program_invocation_short_name, "slurmstepd") == 0;
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    static int looks;
    int result = (int)syscall(SYS_clock_gettime, clock, time);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) && is_meant())
        time->tv_sec += looks++ % 2 == 0 ? TEN_YEARS : -TEN_YEARS;
    return result;
}
