/* A plugin with one of pyxis' options, as pyxis registers it. */
#include <slurm/spank.h>

SPANK_PLUGIN(pyxis, 1)

static int take(int value, const char *argument, int remote)
{
    (void)value, (void)argument, (void)remote;
    return ESPANK_SUCCESS;
}

int slurm_spank_init(spank_t spank, int argc, char *argv[])
{
    (void)argc, (void)argv;
    struct spank_option option = {"container-image", "IMAGE", "the image", 1, 0, take};
    return spank_option_register(spank, &option) == ESPANK_SUCCESS ? 0 : -1;
}
