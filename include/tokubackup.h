/* tokubackup.h: hot backup of directories that a program writes while it runs.
 *
 * This file is part of tokudb_backup, which is free software: you can redistribute it and/or modify it under the
 * terms of the GNU General Public License as published by the Free Software Foundation, either version 2 of the
 * License, or (at your option) any later version. It comes without any warranty; see the file LICENSE.
 *
 * Link with libHotBackup.so, preload it, or dlopen it: all three are the same. Files that were opened before the
 * library was loaded are seen too. Nothing of the program is intercepted unless a backup runs, and the library
 * writes nothing to standard output or standard error.
 */
#ifndef TOKUBACKUP_H
#define TOKUBACKUP_H

#ifdef __cplusplus
#define TOKUBACKUP_OPTIONAL = 0
extern "C" {
#else
#define TOKUBACKUP_OPTIONAL
#endif

/* What tokubackup_create_backup returns when the images are complete and on disk. */
enum { BACKUP_SUCCESS = 0 };

/* Called about ten times a second while a backup runs.
 *   progress         0 to 1, never less than the call before
 *   progress_string  what is being done, in English; valid during the call
 * 0: go on. Anything else ends the backup, which then returns this value. */
typedef int (*tokubackup_poll_fun_t)(float progress, const char *progress_string, void *poll_extra);

/* Called exactly once, with the first cause, when a backup fails; error_number is what tokubackup_create_backup is
 * going to return. The string is valid during the call. */
typedef void (*tokubackup_error_fun_t)(int error_number, const char *error_string, void *error_extra);

/* Whether a file or directory of a source is left out of the image: 0 is no, anything else yes. A directory is left
 * out with all that is in it. source_file is its full path: the source directory without symbolic links, then the
 * name below it. It is never a path of an image. A file may be asked for more than once. */
typedef int (*tokubackup_exclude_copy_fun_t)(const char *source_file, void *exclude_copy_extra);

/* See before_stop_capt_fun and after_stop_capt_fun below. */
typedef void (*tokubackup_before_stop_capt_fun_t)(void *before_stop_capt_extra);
typedef void (*tokubackup_after_stop_capt_fun_t)(void *after_stop_capt_extra);

/* Backs up dir_count directories while this program goes on writing them, and returns when the images are complete
 * and on disk.
 *
 *   source_dirs[i]  existing directory. All that is below it is backed up: files, with their holes, hard links,
 *                   modes, owners, times and extended attributes; directories; symbolic links, as links and
 *                   unfollowed. Sockets, fifos and devices are left out. May itself be reached through a symbolic
 *                   link.
 *   dest_dirs[i]    existing empty directory. It becomes the image of source_dirs[i]: nothing else is in it when
 *                   the backup has succeeded.
 *
 * The images are together exactly what the sources were at one instant between the call of before_stop_capt_fun and
 * that of after_stop_capt_fun: every write, by whatever call and in whatever thread, that was over before the
 * instant is in them, and none that began after it. Two kinds of writes cannot be stopped at the instant, and are
 * exact to within a few milliseconds: those of stdio streams (FILE *) and stores to shared mappings. Writes by other
 * processes are seen by size and time only.
 *
 * No directory may be given twice, or lie inside another (source or destination). One backup runs at a time.
 *
 * Every callback may be NULL. They are called on the thread that called this function, while the backup holds
 * nothing: they may do whatever the program does elsewhere, with two exceptions. They must return: no exception may
 * leave them, and no longjmp. And they cannot begin another backup, which fails with EBUSY.
 *
 *   before_stop_capt_fun  called once all files are copied and the backup is about to end: what is written in it is
 *                         in the images
 *   after_stop_capt_fun   called when the instant is past
 *
 * These two are called, once each and in this order, also when the backup failed or was ended by poll_fun; but not
 * when it never began because an argument was wrong or another backup runs. After a failure nothing more comes into
 * an image, whatever is written in them.
 *
 * Returns BACKUP_SUCCESS (0); or what poll_fun returned, if that was not 0; or an errno value:
 *
 *   EINVAL    dir_count is not positive; source_dirs, dest_dirs or an entry is NULL; a directory is given twice or
 *             lies inside another; a destination is not a directory or is not empty
 *   ENOENT    a directory does not exist (or what realpath(3) says: EACCES, ELOOP, ENAMETOOLONG, ENOTDIR)
 *   ENOTDIR   a source is not a directory
 *   EBUSY     another backup runs in this process
 *   others    what the system said: ENOSPC, EIO, EACCES, ...; the error string names the file
 *
 * After a failure the destinations may hold a part of an image, which is of no use: only 0 means that there is a
 * backup. Nothing in a destination tells the two apart, so note it elsewhere (or rename the directory) after 0.
 *
 * No call of the program ever fails because of a backup, and none waits for the destination.
 *
 * The last four parameters came later than the others. A C program that was compiled for the nine before them leaves
 * the rest undefined, which the library cannot see: compile such programs again. In C++ they are optional. */
int tokubackup_create_backup(const char *source_dirs[], const char *dest_dirs[], int dir_count,
                             tokubackup_poll_fun_t poll_fun, void *poll_extra,
                             tokubackup_error_fun_t error_fun, void *error_extra,
                             tokubackup_exclude_copy_fun_t exclude_copy_fun, void *exclude_copy_extra,
                             tokubackup_before_stop_capt_fun_t before_stop_capt_fun TOKUBACKUP_OPTIONAL,
                             void *before_stop_capt_extra TOKUBACKUP_OPTIONAL,
                             tokubackup_after_stop_capt_fun_t after_stop_capt_fun TOKUBACKUP_OPTIONAL,
                             void *after_stop_capt_extra TOKUBACKUP_OPTIONAL);

/* Bounds the bytes per second that the first copying of the files takes, in all. May be called at any time and from
 * any thread or callback, and holds at once for a running backup and for later ones. ULONG_MAX, with which a process
 * starts, is no bound; 0 pauses the backup, which goes on following the program's writes meanwhile. */
void tokubackup_throttle_backup(unsigned long bytes_per_second);

/* The library's version. */
extern const char *tokubackup_version_string;

#ifdef __cplusplus
}
#endif
#undef TOKUBACKUP_OPTIONAL

#endif
