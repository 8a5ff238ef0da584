/* A Slurm that fails: loads the plugin as slurmstepd does, calls its hooks in their order, and tells what they return.
 *
 *     fake-slurm PLUGIN CONTEXT FAILURE IMAGE ARGUMENT...
 *
 * CONTEXT is a number of slurm/spank.h (S_CTX_...). FAILURE is a word: which of Slurm's functions fail. IMAGE is the option's
 * value, or "-". ARGUMENTs are those of plugstack.conf. Prints a line for each hook, and for what it did to the task. */
#include <dirent.h>
#include <dlfcn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct option {
    char *name, *arginfo, *usage;
    int has_arg, value;
    int (*callback)(int value, const char *argument, int remote);
};

/* slurm/slurm_errno.h */
enum { SUCCESS = 0, FAILED = 3000, NOT_THERE = 3010 };
enum { REMOTE = 2 };

static int context;
static const char *failure, *image;
static struct option image_option;

static int fails(const char *what)
{
    return strcmp(failure, what) == 0 || strcmp(failure, "everything") == 0;
}

int spank_context(void)
{
    return fails("context") ? 99 : context;
}

int spank_get_item(void *spank, int item, ...)
{
    va_list arguments;
    if (fails("items"))
        return FAILED;
    va_start(arguments, item);
    void *first = va_arg(arguments, void *);
    va_end(arguments);
    (void)spank;
    *(uint32_t *)first = 0;
    return SUCCESS;
}

int spank_getenv(void *spank, const char *name, char *buffer, int size)
{
    (void)spank;
    if (fails("getenv"))
        return FAILED;
    if (strcmp(image, "-") == 0 || strcmp(name, "_SLURM_SPANK_OPTION_parallax_parallax_image") != 0)
        return NOT_THERE;
    snprintf(buffer, size, "%s", image);
    return SUCCESS;
}

int spank_setenv(void *spank, const char *name, const char *value, int overwrite)
{
    (void)spank, (void)name, (void)value, (void)overwrite;
    return fails("setenv") ? FAILED : SUCCESS;
}

int spank_unsetenv(void *spank, const char *name)
{
    (void)spank, (void)name;
    return fails("setenv") ? FAILED : SUCCESS;
}

int spank_option_register(void *spank, struct option *option)
{
    (void)spank;
    if (fails("register"))
        return FAILED;
    if (strcmp(option->name, "parallax-image") == 0)
        image_option = *option;
    return SUCCESS;
}

int spank_option_getopt(void *spank, struct option *option, char **value)
{
    (void)spank, (void)option, (void)value;
    return FAILED;
}

int spank_prepend_task_argv(void *spank, int count, const char *arguments[])
{
    (void)spank;
    if (fails("prepend"))
        return FAILED;
    printf("task:");
    for (int i = 0; i < count; i++)
        printf(" %s", arguments[i]);
    printf("\n");
    return SUCCESS;
}

const char *spank_strerror(int error)
{
    (void)error;
    return "what Slurm says";
}

#define LOG(function)                                                                                                          \
    void function(const char *format, ...)                                                                                     \
    {                                                                                                                          \
        va_list arguments;                                                                                                     \
        va_start(arguments, format);                                                                                           \
        vfprintf(stderr, format, arguments);                                                                                   \
        va_end(arguments);                                                                                                     \
        fputc('\n', stderr);                                                                                                   \
    }

LOG(slurm_error)
LOG(slurm_info)
LOG(slurm_verbose)
LOG(slurm_debug)
LOG(slurm_debug2)
LOG(slurm_debug3)
LOG(slurm_spank_log)

static int entries(const char *path)
{
    int count = 0;
    DIR *directory = opendir(path);
    while (directory && readdir(directory))
        count++;
    if (directory)
        closedir(directory);
    return count;
}

int main(int count, char **arguments)
{
    static const char *const hooks[] = {"init", "init_post_opt", "user_init", "task_init_privileged", "task_init", "exit"};
    if (count < 5)
        return 2;
    context = atoi(arguments[2]);
    failure = arguments[3];
    image = arguments[4];
    void *plugin = dlopen(arguments[1], RTLD_LAZY);
    if (!plugin) {
        fprintf(stderr, "%s\n", dlerror());
        return 2;
    }
    int descriptors = entries("/proc/self/fd");
    for (size_t i = 0; i < sizeof hooks / sizeof *hooks; i++) {
        char name[64];
        snprintf(name, sizeof name, "slurm_spank_%s", hooks[i]);
        int (*hook)(void *, int, char **) = (int (*)(void *, int, char **))dlsym(plugin, name);
        if (!hook)
            return 2;
        printf("%s: %d\n", hooks[i], hook(NULL, count - 5, arguments + 5));
        if (i == 0 && image_option.callback && strcmp(image, "-") != 0)
            printf("option: %d\n", image_option.callback(image_option.value, image, context == REMOTE));
    }
    printf("threads: %d\n", entries("/proc/self/task") - 2);
    printf("descriptors: %d\n", entries("/proc/self/fd") - descriptors);
    return 0;
}
