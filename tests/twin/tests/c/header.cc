// The header in C++: the last arguments are optional.
#include "tokubackup.h"

int main() {
    const char *none[] = {0};
    return tokubackup_create_backup(none, none, 0, 0, 0, 0, 0, 0, 0) == BACKUP_SUCCESS;
}
