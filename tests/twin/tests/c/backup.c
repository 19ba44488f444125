/* Takes a backup of argv[1] to argv[2] while it writes there, in the way that it was compiled for: linked with the
 * library; with the library preloaded (PRELOADED); or loading argv[3] itself (LOADED), after a file was opened. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tokubackup.h"

static int file;
static char path[4096], moved[4096];
static const char *order = "";

static int poll_fun(float progress, const char *text, void *extra) {
    return progress < 0 || progress > 1 || text == NULL || extra != &file;
}

static void error_fun(int number, const char *text, void *extra) {
    (void)extra;
    fprintf(stderr, "error %d: %s\n", number, text);
}

static int exclude(const char *source, void *extra) {
    return strstr(source, "left-out") != NULL || extra != &moved;
}

static void before_stop(void *extra) {
    *(const char **)extra = "before";
    if (pwrite(file, "HOT", 3, 0) != 3 || rename(path, moved) != 0)
        abort();
}

static void after_stop(void *extra) {
    if (strcmp(*(const char **)extra, "before") != 0)
        abort();
    *(const char **)extra = "after";
}

typedef int create_backup(const char *[], const char *[], int, tokubackup_poll_fun_t, void *, tokubackup_error_fun_t,
                          void *, tokubackup_exclude_copy_fun_t, void *, tokubackup_before_stop_capt_fun_t, void *,
                          tokubackup_after_stop_capt_fun_t, void *);

int main(int argc, char **argv) {
    const char *source = argv[1], *image = argv[2];
    create_backup *backup;
    const char *version;
    int result;
    if (argc < 3)
        return 2;
    snprintf(path, sizeof path, "%s/file", source);
    snprintf(moved, sizeof moved, "%s/moved", source);
    file = open(path, O_RDWR);
    if (file < 0)
        return 2;
#if defined(LOADED)
    {
        void *library = dlopen(argv[3], RTLD_NOW | RTLD_LOCAL);
        if (library == NULL)
            return 3;
        *(void **)&backup = dlsym(library, "tokubackup_create_backup");
        version = *(const char **)dlsym(library, "tokubackup_version_string");
    }
#elif defined(PRELOADED)
    *(void **)&backup = dlsym(RTLD_DEFAULT, "tokubackup_create_backup");
    if (backup == NULL)
        return 3;
    version = *(const char **)dlsym(RTLD_DEFAULT, "tokubackup_version_string");
#else
    backup = tokubackup_create_backup;
    version = tokubackup_version_string;
    tokubackup_throttle_backup(~0UL);
#endif
    result = backup(&source, &image, 1, poll_fun, &file, error_fun, NULL, exclude, &moved, before_stop, &order,
                    after_stop, &order);
    printf("%s %d %s\n", version, result, order);
    return result != BACKUP_SUCCESS;
}
