/*
 * Copyright (C) clawd authors
 *
 * What the files of the ledger need of NGINX and of their room, and folders to
 * try them in, for units and fuzzers.
 */

#ifndef FILES_H_INCLUDED
#define FILES_H_INCLUDED


#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_http_clawd_record.h"

#include <dirent.h>
#include <sys/prctl.h>


static ngx_time_t     files_time = { 1000, 0, 0 };
volatile ngx_time_t  *ngx_cached_time = &files_time;

static char           files_logged[512];   /* the last sentence */
static ngx_uint_t     files_level;
static unsigned       files_nlogged;

static char           files_folder[128];


/* as much of the format as is used: %V %s %O */

void
ngx_log_error_core(ngx_uint_t level, ngx_log_t *log, ngx_err_t err,
    const char *fmt, ...)
{
    char       *p, *last;
    va_list     args;
    ngx_str_t  *v;

    p = files_logged;
    last = p + sizeof(files_logged) - 1;

    va_start(args, fmt);

    for ( /* void */ ; *fmt && p < last; fmt++) {

        if (*fmt != '%') {
            *p++ = *fmt;
            continue;
        }

        switch (*++fmt) {
        case 'V':
            v = va_arg(args, ngx_str_t *);
            p += snprintf(p, last - p, "%.*s", (int) v->len, v->data);
            break;
        case 's':
            p += snprintf(p, last - p, "%s", va_arg(args, char *));
            break;
        case 'O':
            p += snprintf(p, last - p, "%lld",
                          (long long) va_arg(args, off_t));
            break;
        default:
            abort();
        }
    }

    va_end(args);

    *p = '\0';
    files_level = level;
    files_nlogged++;
}


void *
ngx_alloc(size_t size, ngx_log_t *log)
{
    return malloc(size);
}


ngx_int_t
ngx_http_clawd_name_valid(ngx_str_t *name)
{
    size_t  i;

    for (i = 0; i < name->len; i++) {
        if (name->data[i] == '\0'
            || strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                      "0123456789._@+-", name->data[i])
               == NULL)
        {
            return NGX_ERROR;
        }
    }

    return name->len > 0 && name->len <= 64 ? NGX_OK : NGX_ERROR;
}


/* An empty folder, of memory if there is such a one and it is asked for. */

static inline int
files_make(int memory)
{
    strcpy(files_folder, "/tmp/clawd-files-XXXXXX");

    if (memory && access("/dev/shm", W_OK) == 0) {
        strcpy(files_folder, "/dev/shm/clawd-files-XXXXXX");
    }

    return mkdtemp(files_folder) ? 0 : -1;
}


static inline void
files_remove(void)
{
    DIR            *dir;
    char            name[512];
    struct dirent  *entry;

    (void) chmod(files_folder, 0700);

    dir = opendir(files_folder);

    while (dir && (entry = readdir(dir)) != NULL) {
        snprintf(name, sizeof(name), "%s/%s", files_folder, entry->d_name);

        if (unlink(name) == -1) {
            (void) rmdir(name);
        }
    }

    if (dir) {
        (void) closedir(dir);
    }

    (void) rmdir(files_folder);
}


/* A child, which does not outlive a test that failed. */

static inline pid_t
files_fork(void)
{
    pid_t  pid;

    pid = fork();

    if (pid == 0) {
        (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
    }

    return pid;
}


/* A path within, of which two are kept at a time. */

static inline char *
files_path(const char *name)
{
    static char      paths[2][256];
    static unsigned  i;

    i = !i;
    snprintf(paths[i], sizeof(paths[i]), "%s/%s", files_folder, name);

    return paths[i];
}


static inline int
files_put(const char *name, const void *data, size_t len)
{
    int  fd, rc;

    fd = open(files_path(name), O_WRONLY|O_CREAT|O_APPEND, 0600);
    if (fd == -1) {
        return -1;
    }

    rc = (write(fd, data, len) == (ssize_t) len) ? 0 : -1;

    return close(fd) == 0 ? rc : -1;
}


#endif /* FILES_H_INCLUDED */
