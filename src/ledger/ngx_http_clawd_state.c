/*
 * Copyright (C) clawd authors
 *
 * The file, which people may read, has a line for each user:
 *
 *     {"clawd":1,"minute":29400000,"users":{
 *     "alice":{"epoch":0,"n":12,"request_tat":…,"token_tat":…,"minute":…,
 *              "minute_requests":…,"minute_tokens":…,"day":20417,
 *              "day_tokens":…,"month":…,"month_tokens":…}
 *     }}
 *
 * "clawd" is the version of the form; the other names are those of
 * ngx_http_clawd_state_t and ngx_http_clawd_usage_t.  Numbers are whole, from
 * 0 (the outer minute: -1) to 2^53.  All members are there and no others: what
 * is read otherwise was damaged, or written by a version that knows better.
 */


#include "ngx_http_clawd_state.h"

#include <sys/file.h>
#include <jansson.h>


#define NGX_HTTP_CLAWD_STATE_VERSION  1
#define NGX_HTTP_CLAWD_STATE_SIZE     (64 * 1024 * 1024)
#define NGX_HTTP_CLAWD_STATE_NUMBER   (1LL << 53)

/* what a user's line takes at most, and what is written at once */
#define NGX_HTTP_CLAWD_STATE_LINE     1024
#define NGX_HTTP_CLAWD_STATE_BUF      (16 * NGX_HTTP_CLAWD_STATE_LINE)


typedef struct {
    const char     *name;
    size_t          offset;
} ngx_http_clawd_state_field_t;


typedef struct {
    ngx_fd_t        fd;
    const char     *what;
    size_t          len;              /* of what is in the buffer */
    size_t          size;             /* of the file so far */
    char            buf[NGX_HTTP_CLAWD_STATE_BUF];
} ngx_http_clawd_state_out_t;


typedef struct {
    ngx_str_t      *path;
    ngx_log_t      *log;
} ngx_http_clawd_state_in_t;


static ngx_int_t ngx_http_clawd_state_replace(const char *path,
    const char *tmp, ngx_fd_t dir, ngx_http_clawd_state_t *state,
    const char **what);
static ngx_fd_t ngx_http_clawd_state_folder(ngx_str_t *path);
static ngx_fd_t ngx_http_clawd_state_create(const char *tmp);
static ngx_int_t ngx_http_clawd_state_stale(const char *tmp);
static ngx_int_t ngx_http_clawd_state_own(ngx_fd_t fd, const char *tmp);
static ngx_int_t ngx_http_clawd_state_put(ngx_http_clawd_state_out_t *out,
    ngx_http_clawd_state_t *state);
static ngx_int_t ngx_http_clawd_state_put_user(ngx_http_clawd_state_out_t *out,
    ngx_http_clawd_state_user_t *user, const char *lead);
static ngx_int_t ngx_http_clawd_state_flush(ngx_http_clawd_state_out_t *out);
static ngx_int_t ngx_http_clawd_state_fault(ngx_http_clawd_state_in_t *in,
    ngx_err_t err, const char *fault);
static ngx_int_t ngx_http_clawd_state_load(ngx_http_clawd_state_in_t *in,
    ngx_fd_t fd, ngx_http_clawd_state_t *state);
static ngx_int_t ngx_http_clawd_state_parse(ngx_http_clawd_state_in_t *in,
    const char *text, size_t len, ngx_http_clawd_state_t *state);
static ngx_int_t ngx_http_clawd_state_top(ngx_http_clawd_state_in_t *in,
    json_t *root, ngx_http_clawd_state_t *state);
static ngx_int_t ngx_http_clawd_state_users(ngx_http_clawd_state_in_t *in,
    json_t *users, ngx_http_clawd_state_t *state);
static ngx_int_t ngx_http_clawd_state_user(ngx_http_clawd_state_user_t *user,
    const char *name, json_t *value);
static ngx_int_t ngx_http_clawd_state_number(json_t *value, int64_t least,
    int64_t *n);


#define ngx_http_clawd_state_field(name)                                      \
    { #name, offsetof(ngx_http_clawd_usage_t, name) }

#define ngx_http_clawd_state_at(usage, i)                                     \
    ((int64_t *) ((u_char *) (usage)                                          \
                  + ngx_http_clawd_state_fields[i].offset))

#define NGX_HTTP_CLAWD_STATE_FIELDS                                           \
    (sizeof(ngx_http_clawd_state_fields)                                      \
     / sizeof(ngx_http_clawd_state_fields[0]))


static const ngx_http_clawd_state_field_t  ngx_http_clawd_state_fields[] = {
    ngx_http_clawd_state_field(epoch),
    ngx_http_clawd_state_field(n),
    ngx_http_clawd_state_field(request_tat),
    ngx_http_clawd_state_field(token_tat),
    ngx_http_clawd_state_field(minute),
    ngx_http_clawd_state_field(minute_requests),
    ngx_http_clawd_state_field(minute_tokens),
    ngx_http_clawd_state_field(day),
    ngx_http_clawd_state_field(day_tokens),
    ngx_http_clawd_state_field(month),
    ngx_http_clawd_state_field(month_tokens)
};


ngx_int_t
ngx_http_clawd_state_write(ngx_str_t *path, ngx_http_clawd_state_t *state,
    const char **what)
{
    char       tmp[NGX_MAX_PATH];
    ngx_fd_t   dir;
    ngx_err_t  err;
    ngx_int_t  rc;

    *what = "open";

    if (path->len + sizeof(".tmp") > sizeof(tmp)) {
        ngx_set_errno(ENAMETOOLONG);
        return NGX_ERROR;
    }

    ngx_memcpy(tmp, path->data, path->len);
    ngx_memcpy(tmp + path->len, ".tmp", sizeof(".tmp"));

    /* first, so that it can't fail once the file is replaced */

    dir = ngx_http_clawd_state_folder(path);
    if (dir == NGX_INVALID_FILE) {
        *what = "open folder";
        return NGX_ERROR;
    }

    rc = ngx_http_clawd_state_replace((char *) path->data, tmp, dir, state,
                                      what);

    err = ngx_errno;
    (void) close(dir);
    ngx_set_errno(err);

    return rc;
}


static ngx_int_t
ngx_http_clawd_state_replace(const char *path, const char *tmp, ngx_fd_t dir,
    ngx_http_clawd_state_t *state, const char **what)
{
    ngx_err_t                   err;
    ngx_http_clawd_state_out_t  out;

    out.fd = ngx_http_clawd_state_create(tmp);
    if (out.fd == NGX_INVALID_FILE) {
        return NGX_ERROR;
    }

    if (ngx_http_clawd_state_put(&out, state) != NGX_OK) {
        *what = out.what;
        goto failed;
    }

    if (fsync(out.fd) == -1) {
        *what = "fsync";
        goto failed;
    }

    /* still locked: else another writer could put a half file in its place */

    if (rename(tmp, path) == -1) {
        *what = "rename";
        goto failed;
    }

    (void) close(out.fd);

    /* file systems that don't sync folders say so with EINVAL */

    if (fsync(dir) == -1 && ngx_errno != EINVAL) {
        *what = "fsync folder";
        return NGX_ERROR;
    }

    return NGX_OK;

failed:

    err = ngx_errno;
    (void) unlink(tmp);
    (void) close(out.fd);
    ngx_set_errno(err);

    return NGX_ERROR;
}


static ngx_fd_t
ngx_http_clawd_state_folder(ngx_str_t *path)
{
    char    name[NGX_MAX_PATH];
    size_t  len;

    len = path->len;

    while (len && path->data[len - 1] != '/') {
        len--;
    }

    ngx_memcpy(name, path->data, len);

    if (len == 0) {
        name[len++] = '.';
    }

    name[len] = '\0';

    return open(name, O_RDONLY|O_DIRECTORY|O_CLOEXEC);
}


/*
 * A new file, empty and locked.  The lock is what tells a writer at work from
 * the rest of one that died: nobody else removes the name while we hold it.
 */

static ngx_fd_t
ngx_http_clawd_state_create(const char *tmp)
{
    ngx_fd_t   fd;
    ngx_err_t  err;

    fd = open(tmp, O_WRONLY|O_CREAT|O_EXCL|O_NOFOLLOW|O_CLOEXEC, 0600);

    if (fd == -1 && ngx_errno == EEXIST) {
        if (ngx_http_clawd_state_stale(tmp) != NGX_OK) {
            return NGX_INVALID_FILE;
        }

        fd = open(tmp, O_WRONLY|O_CREAT|O_EXCL|O_NOFOLLOW|O_CLOEXEC, 0600);
    }

    if (fd == -1) {
        return NGX_INVALID_FILE;
    }

    if (ngx_http_clawd_state_own(fd, tmp) == NGX_OK) {
        return fd;
    }

    /* another writer took it for a stale one: the name is not ours */

    err = ngx_errno;
    (void) close(fd);
    ngx_set_errno(err);

    return NGX_INVALID_FILE;
}


static ngx_int_t
ngx_http_clawd_state_stale(const char *tmp)
{
    ngx_fd_t   fd;
    ngx_err_t  err;
    ngx_int_t  rc;

    fd = open(tmp, O_RDONLY|O_NOFOLLOW|O_NONBLOCK|O_CLOEXEC);

    if (fd == -1) {

        /* a link: no writer made it */

        if (ngx_errno == ELOOP) {
            return unlink(tmp) == -1 ? NGX_ERROR : NGX_OK;
        }

        return ngx_errno == ENOENT ? NGX_OK : NGX_ERROR;
    }

    rc = ngx_http_clawd_state_own(fd, tmp);

    if (rc == NGX_OK && unlink(tmp) == -1) {
        rc = NGX_ERROR;
    }

    err = ngx_errno;
    (void) close(fd);
    ngx_set_errno(err);

    return rc;
}


void
ngx_http_clawd_state_clean(ngx_str_t *path)
{
    char  tmp[NGX_MAX_PATH];

    if (path->len + sizeof(".tmp") > sizeof(tmp)) {
        return;
    }

    ngx_memcpy(tmp, path->data, path->len);
    ngx_memcpy(tmp + path->len, ".tmp", sizeof(".tmp"));

    (void) ngx_http_clawd_state_stale(tmp);
}


static ngx_int_t
ngx_http_clawd_state_own(ngx_fd_t fd, const char *tmp)
{
    struct stat  own, named;

    if (flock(fd, LOCK_EX|LOCK_NB) == -1
        || fstat(fd, &own) == -1 || lstat(tmp, &named) == -1)
    {
        return NGX_ERROR;
    }

    if (own.st_ino != named.st_ino || own.st_dev != named.st_dev) {
        ngx_set_errno(EAGAIN);
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_clawd_state_put(ngx_http_clawd_state_out_t *out,
    ngx_http_clawd_state_t *state)
{
    ngx_uint_t  i;

    out->size = 0;
    out->what = "write";

    if (state->minute < -1 || state->minute > NGX_HTTP_CLAWD_STATE_NUMBER) {
        ngx_set_errno(ERANGE);
        return NGX_ERROR;
    }

    out->len = snprintf(out->buf, NGX_HTTP_CLAWD_STATE_LINE,
                        "{\"clawd\":%d,\"minute\":%lld,\"users\":{",
                        NGX_HTTP_CLAWD_STATE_VERSION,
                        (long long) state->minute);

    for (i = 0; i < state->nusers; i++) {
        if (ngx_http_clawd_state_put_user(out, &state->users[i],
                                          i ? ",\n" : "\n")
            != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    ngx_memcpy(out->buf + out->len, "\n}}\n", 4);
    out->len += 4;

    return ngx_http_clawd_state_flush(out);
}


/* What could not be read again is not written: the old file is worth more. */

static ngx_int_t
ngx_http_clawd_state_put_user(ngx_http_clawd_state_out_t *out,
    ngx_http_clawd_state_user_t *user, const char *lead)
{
    char       *p, *last;
    int64_t     n;
    ngx_str_t   name;
    ngx_uint_t  i;

    name.data = user->name;
    name.len = user->name_len;

    if (ngx_http_clawd_name_valid(&name) != NGX_OK) {
        ngx_set_errno(EINVAL);
        return NGX_ERROR;
    }

    p = out->buf + out->len;
    last = p + NGX_HTTP_CLAWD_STATE_LINE;

    p += snprintf(p, last - p, "%s\"%.*s\":", lead, (int) name.len, name.data);

    for (i = 0; i < NGX_HTTP_CLAWD_STATE_FIELDS; i++) {
        n = *ngx_http_clawd_state_at(&user->usage, i);

        if (n < 0 || n > NGX_HTTP_CLAWD_STATE_NUMBER) {
            ngx_set_errno(ERANGE);
            return NGX_ERROR;
        }

        p += snprintf(p, last - p, "%c\"%s\":%lld", i ? ',' : '{',
                      ngx_http_clawd_state_fields[i].name, (long long) n);
    }

    *p++ = '}';

    out->len = p - out->buf;

    /* room for another line, or for the end, is left always */

    if (out->len > sizeof(out->buf) - 2 * NGX_HTTP_CLAWD_STATE_LINE) {
        return ngx_http_clawd_state_flush(out);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_clawd_state_flush(ngx_http_clawd_state_out_t *out)
{
    size_t   sent;
    ssize_t  n;

    out->size += out->len;

    if (out->size > NGX_HTTP_CLAWD_STATE_SIZE) {
        ngx_set_errno(EFBIG);
        return NGX_ERROR;
    }

    for (sent = 0; sent < out->len; sent += n) {
        n = write(out->fd, out->buf + sent, out->len - sent);

        if (n == -1 && ngx_errno == EINTR) {
            n = 0;
        }

        if (n == -1) {
            return NGX_ERROR;
        }
    }

    out->len = 0;

    return NGX_OK;
}


ngx_int_t
ngx_http_clawd_state_read(ngx_str_t *path, ngx_http_clawd_state_t *state,
    ngx_log_t *log)
{
    ngx_fd_t                   fd;
    ngx_int_t                  rc;
    ngx_http_clawd_state_in_t  in;

    state->minute = -1;
    state->nusers = 0;
    state->users = NULL;

    in.path = path;
    in.log = log;

    fd = open((char *) path->data, O_RDONLY|O_NONBLOCK|O_CLOEXEC);

    if (fd == -1) {
        if (ngx_errno == ENOENT) {
            return NGX_DECLINED;
        }

        return ngx_http_clawd_state_fault(&in, ngx_errno, "can't be opened");
    }

    rc = ngx_http_clawd_state_load(&in, fd, state);

    (void) close(fd);

    if (rc != NGX_OK) {
        free(state->users);

        state->minute = -1;
        state->nusers = 0;
        state->users = NULL;
    }

    return rc;
}


static ngx_int_t
ngx_http_clawd_state_fault(ngx_http_clawd_state_in_t *in, ngx_err_t err,
    const char *fault)
{
    ngx_log_error(NGX_LOG_EMERG, in->log, err,
                  "the state file \"%V\" %s: put that right or restore a "
                  "copy, or move the file away to begin with no usage",
                  in->path, fault);

    return NGX_ERROR;
}


static ngx_int_t
ngx_http_clawd_state_load(ngx_http_clawd_state_in_t *in, ngx_fd_t fd,
    ngx_http_clawd_state_t *state)
{
    char         *text;
    size_t        len, size;
    ssize_t       n;
    ngx_int_t     rc;
    struct stat   st;

    if (fstat(fd, &st) == -1) {
        return ngx_http_clawd_state_fault(in, ngx_errno, "can't be read");
    }

    if (!S_ISREG(st.st_mode)) {
        return ngx_http_clawd_state_fault(in, 0, "is no regular file");
    }

    if (st.st_size > NGX_HTTP_CLAWD_STATE_SIZE) {
        return ngx_http_clawd_state_fault(in, 0, "is larger than 64 MB");
    }

    size = st.st_size;

    text = malloc(size + 1);
    if (text == NULL) {
        return ngx_http_clawd_state_fault(in, ngx_errno,
                                          "finds no memory to be read");
    }

    for (len = 0; len < size; len += n) {
        n = read(fd, text + len, size - len);

        if (n <= 0) {
            rc = ngx_http_clawd_state_fault(in, n ? ngx_errno : 0,
                                            "can't be read whole");
            free(text);
            return rc;
        }
    }

    rc = ngx_http_clawd_state_parse(in, text, len, state);

    free(text);

    return rc;
}


static ngx_int_t
ngx_http_clawd_state_parse(ngx_http_clawd_state_in_t *in, const char *text,
    size_t len, ngx_http_clawd_state_t *state)
{
    char          fault[64];
    json_t       *root;
    ngx_int_t     rc;
    json_error_t  error;

    root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &error);

    if (root == NULL) {

        /* not jansson's own words, which quote bytes of the file */

        (void) snprintf(fault, sizeof(fault),
                        "is damaged in line %d, column %d", error.line,
                        error.column);

        return ngx_http_clawd_state_fault(in, 0, fault);
    }

    rc = ngx_http_clawd_state_top(in, root, state);

    json_decref(root);

    return rc;
}


static ngx_int_t
ngx_http_clawd_state_top(ngx_http_clawd_state_in_t *in, json_t *root,
    ngx_http_clawd_state_t *state)
{
    json_t   *users;
    int64_t   version;

    if (ngx_http_clawd_state_number(json_object_get(root, "clawd"), 0,
                                    &version)
        != NGX_OK)
    {
        return ngx_http_clawd_state_fault(in, 0, "is no state file");
    }

    if (version != NGX_HTTP_CLAWD_STATE_VERSION) {
        return ngx_http_clawd_state_fault(in, 0,
                                          "is of another version of clawd");
    }

    users = json_object_get(root, "users");

    if (json_object_size(root) != 3 || !json_is_object(users)
        || ngx_http_clawd_state_number(json_object_get(root, "minute"), -1,
                                       &state->minute)
           != NGX_OK)
    {
        return ngx_http_clawd_state_fault(in, 0, "has no valid \"minute\" and "
                                          "\"users\", and nothing else");
    }

    return ngx_http_clawd_state_users(in, users, state);
}


static ngx_int_t
ngx_http_clawd_state_users(ngx_http_clawd_state_in_t *in, json_t *users,
    ngx_http_clawd_state_t *state)
{
    char        fault[64];
    size_t      n;
    json_t     *value;
    const char *name;

    n = json_object_size(users);

    if (n == 0) {
        return NGX_OK;
    }

    state->users = calloc(n, sizeof(ngx_http_clawd_state_user_t));
    if (state->users == NULL) {
        return ngx_http_clawd_state_fault(in, ngx_errno,
                                          "finds no memory to be read");
    }

    json_object_foreach(users, name, value) {

        if (ngx_http_clawd_state_user(&state->users[state->nusers], name,
                                      value)
            != NGX_OK)
        {
            (void) snprintf(fault, sizeof(fault),
                            "has an invalid user, the %zu. of them",
                            (size_t) state->nusers + 1);

            return ngx_http_clawd_state_fault(in, 0, fault);
        }

        state->nusers++;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_clawd_state_user(ngx_http_clawd_state_user_t *user, const char *name,
    json_t *value)
{
    json_t      *field;
    ngx_str_t    s;
    ngx_uint_t   i;

    s.data = (u_char *) name;
    s.len = ngx_strlen(name);

    if (s.len > NGX_HTTP_CLAWD_NAME_LEN
        || ngx_http_clawd_name_valid(&s) != NGX_OK
        || json_object_size(value) != NGX_HTTP_CLAWD_STATE_FIELDS)
    {
        return NGX_ERROR;
    }

    ngx_memcpy(user->name, s.data, s.len);
    user->name_len = s.len;

    for (i = 0; i < NGX_HTTP_CLAWD_STATE_FIELDS; i++) {
        field = json_object_get(value, ngx_http_clawd_state_fields[i].name);

        if (ngx_http_clawd_state_number(field, 0,
                                   ngx_http_clawd_state_at(&user->usage, i))
            != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


/* value may be NULL, as all that jansson is asked here */

static ngx_int_t
ngx_http_clawd_state_number(json_t *value, int64_t least, int64_t *n)
{
    if (!json_is_integer(value)) {
        return NGX_ERROR;
    }

    *n = json_integer_value(value);

    if (*n < least || *n > NGX_HTTP_CLAWD_STATE_NUMBER) {
        return NGX_ERROR;
    }

    return NGX_OK;
}
