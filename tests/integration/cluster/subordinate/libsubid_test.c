/*
 * A module for the line `subid: test` of nsswitch.conf, as sssd's is one: u3 has ranges, all other users are unknown. While
 * /run/subid-hangs exists, it does not answer.
 *
 * The functions are those of struct subid_nss_ops in shadow's lib/prototypes.h.
 */

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS, UNKNOWN_USER };
enum { UIDS = 1, GIDS = 2 };

struct subid_range {
    unsigned long start;
    unsigned long count;
};

static const struct subid_range *range_of(const char *owner, int type) {
    static const struct subid_range uids = {600000, 65536}, gids = {700000, 65536};
    while (access("/run/subid-hangs", F_OK) == 0)
        pause();
    if (strcmp(owner, "u3") != 0)
        return NULL;
    return type == UIDS ? &uids : &gids;
}

int shadow_subid_has_range(const char *owner, unsigned long start, unsigned long count, int type, bool *result) {
    const struct subid_range *range = range_of(owner, type);
    *result = range != NULL && start >= range->start && start + count <= range->start + range->count;
    return range == NULL ? UNKNOWN_USER : SUCCESS;
}

int shadow_subid_list_owner_ranges(const char *owner, int type, struct subid_range **ranges, int *count) {
    const struct subid_range *range = range_of(owner, type);
    *ranges = NULL;
    *count = 0;
    if (range == NULL)
        return UNKNOWN_USER;
    *ranges = malloc(sizeof **ranges);
    if (*ranges != NULL)
        **ranges = *range;
    *count = *ranges != NULL;
    return SUCCESS;
}

int shadow_subid_find_subid_owners(unsigned long id, int type, uid_t **uids, int *count) {
    (void)id;
    (void)type;
    *uids = NULL;
    *count = 0;
    return SUCCESS;
}

void shadow_subid_free(void *pointer) {
    free(pointer);
}
