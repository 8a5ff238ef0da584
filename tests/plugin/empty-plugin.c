/* A plugin that does nothing, with as many hooks and options as Parallax has. Slurm itself pays for every plugin: it maps
 * it, resolves its symbols, hands its options to the nodes and calls its hooks. `make bench` measures by this one how much,
 * and says how many OPTIONS there are. */
#include <slurm/spank.h>
#include <stdio.h>

SPANK_PLUGIN(empty, 1)

static int take(int value, const char *argument, int remote)
{
    (void)value, (void)argument, (void)remote;
    return ESPANK_SUCCESS;
}

int slurm_spank_init(spank_t spank, int argc, char *argv[])
{
    (void)argc, (void)argv;
    spank_context_t context = spank_context();
    if (context != S_CTX_LOCAL && context != S_CTX_ALLOCATOR && context != S_CTX_REMOTE)
        return 0;
    for (int number = 0; number < OPTIONS; number++) {
        char name[32];
        snprintf(name, sizeof name, "empty-%d", number);
        /* Slurm copies it. */
        struct spank_option option = {name, "VALUE", "is not looked at", 1, number, take};
        if (spank_option_register(spank, &option))
            return -1;
    }
    return 0;
}

#define NOTHING(hook)                            \
    int hook(spank_t spank, int argc, char *argv[]) \
    {                                            \
        (void)spank, (void)argc, (void)argv;     \
        return 0;                                \
    }

NOTHING(slurm_spank_init_post_opt)
NOTHING(slurm_spank_user_init)
NOTHING(slurm_spank_task_init_privileged)
NOTHING(slurm_spank_task_init)
NOTHING(slurm_spank_exit)
