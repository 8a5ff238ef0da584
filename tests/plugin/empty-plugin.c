/* A plugin that does nothing, with as many hooks and options as Parallax has. Slurm itself pays for every plugin: it maps
 * it, resolves its symbols, hands its options to the nodes and calls its hooks. `make bench` measures by this one how much. */
#include <slurm/spank.h>
#include <stddef.h>

SPANK_PLUGIN(empty, 1)

static int take(int value, const char *argument, int remote)
{
    (void)value, (void)argument, (void)remote;
    return ESPANK_SUCCESS;
}

static struct spank_option options[] = {
    {"empty-image", "IMAGE", "is not looked at", 1, 0, take},
    {"empty-mode", "MODE", "is not looked at", 1, 0, take},
    {"empty-mount", "MOUNT", "is not looked at", 1, 0, take},
    {"empty-workdir", "DIRECTORY", "is not looked at", 1, 0, take},
    {"empty-env", "VARIABLE", "is not looked at", 1, 0, take},
    {"empty-device", "DEVICE", "is not looked at", 1, 0, take},
    {"empty-annotation", "ANNOTATION", "is not looked at", 1, 0, take},
    {"empty-writable", NULL, "is not looked at", 0, 0, take},
    {"empty-readonly", NULL, "is not looked at", 0, 0, take},
    {"empty-entrypoint", NULL, "is not looked at", 0, 0, take},
    {"empty-mount-home", NULL, "is not looked at", 0, 0, take},
    {"empty-no-mount-home", NULL, "is not looked at", 0, 0, take},
    {"empty-edf", "EDF", "is not looked at", 1, 0, take},
    {"empty-timings", NULL, "is not looked at", 0, 0, take},
};

int slurm_spank_init(spank_t spank, int argc, char *argv[])
{
    (void)argc, (void)argv;
    spank_context_t context = spank_context();
    if (context != S_CTX_LOCAL && context != S_CTX_ALLOCATOR && context != S_CTX_REMOTE)
        return 0;
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        if (spank_option_register(spank, &options[i]))
            return -1;
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
