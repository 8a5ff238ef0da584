// The program of the images "openmpi" and "mpich": what is tested and measured of MPI in a container.
//
//     mpi-check check           each rank sends to its neighbor and takes part in a reduction; prints a line for each rank
//     mpi-check latency N       the time of a message of 8 bytes one way, in microseconds, from N round trips of ranks 0 and 1
//     mpi-check bandwidth N     MB/s from rank 0 to rank 1, from N times 16 messages of 1 MiB

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MESSAGE = 1 << 20, WINDOW = 16, SKIPPED = 200 };

static char buffer[MESSAGE];

// Whether this process has memory of /dev/shm that it shares with others.
static const char *shared_memory(void) {
    char line[4096];
    FILE *maps = fopen("/proc/self/maps", "r");
    int found = 0;
    while (maps != NULL && fgets(line, sizeof line, maps) != NULL)
        found |= strstr(line, "rw-s") != NULL && strstr(line, " /dev/shm/") != NULL;
    if (maps != NULL)
        fclose(maps);
    return found ? "shared" : "private";
}

static void check(int rank, int size) {
    char host[MPI_MAX_PROCESSOR_NAME];
    int length, got = -1, sum = -1;
    int next = (rank + 1) % size, previous = (rank + size - 1) % size;
    MPI_Sendrecv(&rank, 1, MPI_INT, next, 7, &got, 1, MPI_INT, previous, 7, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    MPI_Get_processor_name(host, &length);
    printf("rank %d of %d: from %d, sum %d, memory %s, host %s\n", rank, size, got, sum, shared_memory(), host);
}

static void latency(int rank, int rounds) {
    double begin = 0;
    for (int round = 0; round < SKIPPED + rounds; round++) {
        if (round == SKIPPED)
            begin = MPI_Wtime();
        if (rank == 0) {
            MPI_Send(buffer, 8, MPI_CHAR, 1, 1, MPI_COMM_WORLD);
            MPI_Recv(buffer, 8, MPI_CHAR, 1, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        } else if (rank == 1) {
            MPI_Recv(buffer, 8, MPI_CHAR, 0, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            MPI_Send(buffer, 8, MPI_CHAR, 0, 1, MPI_COMM_WORLD);
        }
    }
    if (rank == 0)
        printf("%.4f\n", (MPI_Wtime() - begin) / rounds / 2 * 1e6);
}

static void bandwidth(int rank, int rounds) {
    MPI_Request requests[WINDOW];
    double begin = 0;
    for (int round = 0; round < 2 + rounds; round++) {
        if (round == 2)
            begin = MPI_Wtime();
        for (int at = 0; at < WINDOW; at++) {
            if (rank == 0)
                MPI_Isend(buffer, MESSAGE, MPI_CHAR, 1, 2, MPI_COMM_WORLD, &requests[at]);
            else
                MPI_Irecv(buffer, MESSAGE, MPI_CHAR, 0, 2, MPI_COMM_WORLD, &requests[at]);
        }
        MPI_Waitall(WINDOW, requests, MPI_STATUSES_IGNORE);
        MPI_Barrier(MPI_COMM_WORLD);
    }
    if (rank == 0)
        printf("%.3f\n", (double)rounds * WINDOW * MESSAGE / (MPI_Wtime() - begin) / 1e6);
}

int main(int argc, char **argv) {
    int rank, size;
    const char *what = argc > 1 ? argv[1] : "check";
    int rounds = argc > 2 ? atoi(argv[2]) : 1000;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (strcmp(what, "check") == 0)
        check(rank, size);
    else if (size != 2)
        fputs("mpi-check: this needs two ranks\n", stderr);
    else if (strcmp(what, "latency") == 0)
        latency(rank, rounds);
    else
        bandwidth(rank, rounds);
    MPI_Finalize();
    return 0;
}
