/*
 * Copyright (C) clawd authors
 *
 * A record, numbers being little-endian:
 *
 *      0  magic, whose last byte is the version of the form
 *      4  length of what follows the checksum
 *      8  CRC-32C of the length and of what follows the checksum
 *     12  rid
 *     44  offset of the zone
 *     48  1: offline
 *     52  est, actual, tpm, epoch, minute, day, month: 8 bytes each
 *    108  user, to the end
 *
 * Two names, "path" and "path.replay".  Who holds the lock of an inode and has
 * then seen that "path" still is its name may write to it or move it: no append
 * goes to a file that is already being replayed.  Who replays holds the lock of
 * "path.replay" for as long as that takes; should it die, the lock is free.
 */


#include "ngx_http_clawd_spool.h"

#include <sys/file.h>


#define NGX_HTTP_CLAWD_SPOOL_MAGIC    "\xc5SP\x01"

#define NGX_HTTP_CLAWD_SPOOL_LENGTH   4
#define NGX_HTTP_CLAWD_SPOOL_CRC      8
#define NGX_HTTP_CLAWD_SPOOL_PAYLOAD  12
#define NGX_HTTP_CLAWD_SPOOL_USER     108
#define NGX_HTTP_CLAWD_SPOOL_RECORD                                           \
    (NGX_HTTP_CLAWD_SPOOL_USER + NGX_HTTP_CLAWD_NAME_LEN)

#define NGX_HTTP_CLAWD_SPOOL_BUF      16384

/* how often a lock is asked for, at once and then a millisecond apart */
#define NGX_HTTP_CLAWD_SPOOL_YIELDS   16
#define NGX_HTTP_CLAWD_SPOOL_TRIES    64


typedef struct {
    u_char      *pos;           /* what was read of the file */
    u_char      *last;
    ngx_uint_t   end;           /* last is the file's end */
} ngx_http_clawd_spool_in_t;


static u_char *ngx_http_clawd_spool_encode(u_char *p,
    ngx_http_clawd_settlement_t *s);
static ngx_int_t ngx_http_clawd_spool_decode(u_char *p, size_t len,
    ngx_http_clawd_settlement_t *s);
static u_char *ngx_http_clawd_spool_put(u_char *p, uint64_t n, size_t bytes);
static uint64_t ngx_http_clawd_spool_get(u_char *p, size_t bytes);
static uint32_t ngx_http_clawd_spool_crc(u_char *record, size_t len);
static ngx_int_t ngx_http_clawd_spool_write(ngx_http_clawd_spool_t *spool,
    u_char *data, size_t len);
static ngx_int_t ngx_http_clawd_spool_write_locked(
    ngx_http_clawd_spool_t *spool, ngx_fd_t fd, u_char *data, size_t len);
static ngx_fd_t ngx_http_clawd_spool_open(const char *path, int flags,
    ngx_uint_t tries);
static ngx_fd_t ngx_http_clawd_spool_try(const char *path, int flags);
static ngx_err_t ngx_http_clawd_spool_named(ngx_fd_t fd, const char *path);
static const char *ngx_http_clawd_spool_replay(ngx_http_clawd_spool_t *spool,
    char *buf);
static ngx_int_t ngx_http_clawd_spool_begin(ngx_http_clawd_spool_t *spool);
static ngx_int_t ngx_http_clawd_spool_move(ngx_http_clawd_spool_t *spool,
    const char *replay);
static ngx_int_t ngx_http_clawd_spool_read(ngx_http_clawd_spool_t *spool,
    u_char *buf, ngx_http_clawd_spool_in_t *in);
static ngx_int_t ngx_http_clawd_spool_record(ngx_http_clawd_spool_in_t *in,
    ngx_http_clawd_settlement_t *s);
static void ngx_http_clawd_spool_resume(ngx_http_clawd_spool_in_t *in);
static ngx_int_t ngx_http_clawd_spool_fault(ngx_http_clawd_spool_t *spool,
    ngx_err_t err, const char *fault);


void
ngx_http_clawd_spool_init(ngx_http_clawd_spool_t *spool, ngx_str_t *path,
    ngx_log_t *log)
{
    ngx_memzero(spool, sizeof(ngx_http_clawd_spool_t));

    spool->path = *path;
    spool->log = log;
    spool->fd = NGX_INVALID_FILE;
}


static u_char *
ngx_http_clawd_spool_encode(u_char *p, ngx_http_clawd_settlement_t *s)
{
    u_char  *start;
    size_t   len;

    start = p;
    len = NGX_HTTP_CLAWD_SPOOL_USER + s->user_len;

    p = ngx_cpymem(p, NGX_HTTP_CLAWD_SPOOL_MAGIC, 4);
    p = ngx_http_clawd_spool_put(p, len - NGX_HTTP_CLAWD_SPOOL_PAYLOAD, 4);
    p += 4;
    p = ngx_cpymem(p, s->rid, NGX_HTTP_CLAWD_RID_HEX);
    p = ngx_http_clawd_spool_put(p, s->offset, 4);
    p = ngx_http_clawd_spool_put(p, s->offline != 0, 4);
    p = ngx_http_clawd_spool_put(p, s->est, 8);
    p = ngx_http_clawd_spool_put(p, s->actual, 8);
    p = ngx_http_clawd_spool_put(p, s->tpm, 8);
    p = ngx_http_clawd_spool_put(p, s->windows.epoch, 8);
    p = ngx_http_clawd_spool_put(p, s->windows.minute, 8);
    p = ngx_http_clawd_spool_put(p, s->windows.day, 8);
    p = ngx_http_clawd_spool_put(p, s->windows.month, 8);
    p = ngx_cpymem(p, s->user, s->user_len);

    (void) ngx_http_clawd_spool_put(start + NGX_HTTP_CLAWD_SPOOL_CRC,
                                    ngx_http_clawd_spool_crc(start, len), 4);

    return p;
}


/* len bytes whose checksum is right: NGX_ERROR if we did not write them */

static ngx_int_t
ngx_http_clawd_spool_decode(u_char *p, size_t len,
    ngx_http_clawd_settlement_t *s)
{
    ngx_str_t  user;

    user.data = p + NGX_HTTP_CLAWD_SPOOL_USER;
    user.len = len - NGX_HTTP_CLAWD_SPOOL_USER;

    if (ngx_http_clawd_name_valid(&user) != NGX_OK) {
        return NGX_ERROR;
    }

    /* what is behind the name is not left to chance */

    ngx_memzero(s, sizeof(ngx_http_clawd_settlement_t));

    p += NGX_HTTP_CLAWD_SPOOL_PAYLOAD;

    ngx_memcpy(s->rid, p, NGX_HTTP_CLAWD_RID_HEX);
    ngx_memcpy(s->user, user.data, user.len);
    s->user_len = user.len;

    p += NGX_HTTP_CLAWD_RID_HEX;

    s->offset = (int32_t) ngx_http_clawd_spool_get(p, 4);
    s->offline = ngx_http_clawd_spool_get(p + 4, 4);
    s->est = ngx_http_clawd_spool_get(p + 8, 8);
    s->actual = ngx_http_clawd_spool_get(p + 16, 8);
    s->tpm = ngx_http_clawd_spool_get(p + 24, 8);
    s->windows.epoch = ngx_http_clawd_spool_get(p + 32, 8);
    s->windows.minute = ngx_http_clawd_spool_get(p + 40, 8);
    s->windows.day = ngx_http_clawd_spool_get(p + 48, 8);
    s->windows.month = ngx_http_clawd_spool_get(p + 56, 8);

    return s->offline > 1 ? NGX_ERROR : NGX_OK;
}


static u_char *
ngx_http_clawd_spool_put(u_char *p, uint64_t n, size_t bytes)
{
    while (bytes--) {
        *p++ = (u_char) n;
        n >>= 8;
    }

    return p;
}


static uint64_t
ngx_http_clawd_spool_get(u_char *p, size_t bytes)
{
    uint64_t  n;

    n = 0;

    while (bytes--) {
        n = (n << 8) | p[bytes];
    }

    return n;
}


/* of a whole record, but for its magic and the checksum itself */

static uint32_t
ngx_http_clawd_spool_crc(u_char *record, size_t len)
{
    size_t    i;
    uint32_t  crc;

    /* Castagnoli's polynomial, reflected: by half bytes */

    static const uint32_t  table[] = {
        0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1,
        0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
        0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
        0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75
    };

    crc = 0xffffffff;

    for (i = NGX_HTTP_CLAWD_SPOOL_LENGTH; i < len; i++) {

        if (i == NGX_HTTP_CLAWD_SPOOL_CRC) {
            i = NGX_HTTP_CLAWD_SPOOL_PAYLOAD;
        }

        crc ^= record[i];
        crc = table[crc & 0xf] ^ (crc >> 4);
        crc = table[crc & 0xf] ^ (crc >> 4);
    }

    return crc ^ 0xffffffff;
}


ngx_int_t
ngx_http_clawd_spool_append(ngx_http_clawd_spool_t *spool,
    ngx_http_clawd_settlement_t *s, ngx_uint_t n)
{
    u_char      *data, *p;
    ngx_int_t    rc;
    ngx_str_t    user;
    ngx_uint_t   i;

    if (n == 0) {
        return NGX_OK;
    }

    data = ngx_alloc(n * NGX_HTTP_CLAWD_SPOOL_RECORD, spool->log);
    if (data == NULL) {
        return NGX_ERROR;
    }

    p = data;

    for (i = 0; i < n; i++) {
        user.data = s[i].user;
        user.len = s[i].user_len;

        if (user.len > NGX_HTTP_CLAWD_NAME_LEN
            || ngx_http_clawd_name_valid(&user) != NGX_OK)
        {
            rc = ngx_http_clawd_spool_fault(spool, 0,
                                            "is given an invalid user");
            goto done;
        }

        p = ngx_http_clawd_spool_encode(p, &s[i]);
    }

    rc = ngx_http_clawd_spool_write(spool, data, p - data);

done:

    ngx_free(data);

    return rc;
}


static ngx_int_t
ngx_http_clawd_spool_write(ngx_http_clawd_spool_t *spool, u_char *data,
    size_t len)
{
    ngx_fd_t   fd;
    ngx_int_t  rc;

    fd = ngx_http_clawd_spool_open((char *) spool->path.data,
                                   O_WRONLY|O_APPEND|O_CREAT,
                                   NGX_HTTP_CLAWD_SPOOL_TRIES);
    if (fd == NGX_INVALID_FILE) {
        return ngx_http_clawd_spool_fault(spool, ngx_errno, "can't be opened");
    }

    rc = ngx_http_clawd_spool_write_locked(spool, fd, data, len);

    /* the others need not wait for the disk */

    (void) flock(fd, LOCK_UN);

    if (rc == NGX_OK && spool->synced != ngx_time()) {
        spool->synced = ngx_time();

        if (fdatasync(fd) == -1) {
            rc = ngx_http_clawd_spool_fault(spool, ngx_errno,
                                            "can't be synced");
        }
    }

    (void) close(fd);

    return rc;
}


static ngx_int_t
ngx_http_clawd_spool_write_locked(ngx_http_clawd_spool_t *spool, ngx_fd_t fd,
    u_char *data, size_t len)
{
    char          buf[NGX_MAX_PATH];
    off_t         size;
    ssize_t       n;
    ngx_err_t     err;
    const char   *replay;
    struct stat   st;

    if (fstat(fd, &st) == -1) {
        return ngx_http_clawd_spool_fault(spool, ngx_errno, "can't be read");
    }

    size = st.st_size;

    replay = ngx_http_clawd_spool_replay(spool, buf);

    if (replay == NULL || lstat(replay, &st) == -1) {
        st.st_size = 0;
    }

    if (size + st.st_size + (off_t) len > NGX_HTTP_CLAWD_SPOOL_MAX) {
        return ngx_http_clawd_spool_fault(spool, 0, "has its full size");
    }

    n = write(fd, data, len);

    if (n == (ssize_t) len) {
        return NGX_OK;
    }

    err = (n == -1) ? ngx_errno : ENOSPC;

    /* if this fails, too, the replay finds what is torn */

    if (n > 0 && ftruncate(fd, size) == -1) {
        return ngx_http_clawd_spool_fault(spool, ngx_errno,
                                          "can't be cut to what it was");
    }

    return ngx_http_clawd_spool_fault(spool, err, "can't be written");
}


/*
 * Opens and locks what is called path now.  A lock is held for one write, or
 * for a replay of a file that then has another name: so the name is opened
 * anew each time.  NGX_INVALID_FILE with errno EAGAIN when others hold it.
 */

static ngx_fd_t
ngx_http_clawd_spool_open(const char *path, int flags, ngx_uint_t tries)
{
    ngx_fd_t    fd;
    ngx_uint_t  i;

    for (i = 1; /* void */ ; i++) {
        fd = ngx_http_clawd_spool_try(path, flags);

        if (fd != NGX_INVALID_FILE || ngx_errno != EAGAIN || i >= tries) {
            return fd;
        }

        if (i < NGX_HTTP_CLAWD_SPOOL_YIELDS) {
            ngx_sched_yield();

        } else {
            ngx_msleep(1);
        }
    }
}


static ngx_fd_t
ngx_http_clawd_spool_try(const char *path, int flags)
{
    ngx_fd_t   fd;
    ngx_err_t  err;

    fd = open(path, flags|O_NOFOLLOW|O_NONBLOCK|O_CLOEXEC, 0600);

    if (fd == -1) {
        return NGX_INVALID_FILE;
    }

    if (flock(fd, LOCK_EX|LOCK_NB) == -1) {
        err = (ngx_errno == EINTR) ? EAGAIN : ngx_errno;

    } else {
        err = ngx_http_clawd_spool_named(fd, path);
    }

    if (err == 0) {
        return fd;
    }

    (void) close(fd);
    ngx_set_errno(err);

    return NGX_INVALID_FILE;
}


/* 0 if path is the name of this regular file, else the errno that fits */

static ngx_err_t
ngx_http_clawd_spool_named(ngx_fd_t fd, const char *path)
{
    struct stat  own, named;

    if (fstat(fd, &own) == -1) {
        return ngx_errno;
    }

    if (!S_ISREG(own.st_mode)) {
        return EINVAL;
    }

    if (lstat(path, &named) == -1) {
        return ngx_errno == ENOENT ? EAGAIN : ngx_errno;
    }

    if (own.st_ino != named.st_ino || own.st_dev != named.st_dev) {
        return EAGAIN;
    }

    return 0;
}


static const char *
ngx_http_clawd_spool_replay(ngx_http_clawd_spool_t *spool, char *buf)
{
    if (spool->path.len + sizeof(".replay") > NGX_MAX_PATH) {
        return NULL;
    }

    ngx_memcpy(buf, spool->path.data, spool->path.len);
    ngx_memcpy(buf + spool->path.len, ".replay", sizeof(".replay"));

    return buf;
}


ngx_int_t
ngx_http_clawd_spool_next(ngx_http_clawd_spool_t *spool,
    ngx_http_clawd_settlement_t *s, ngx_uint_t max, ngx_uint_t *n)
{
    u_char                      buf[NGX_HTTP_CLAWD_SPOOL_BUF], *start;
    ngx_int_t                   rc;
    ngx_http_clawd_spool_in_t   in;

    *n = 0;

    if (spool->fd == NGX_INVALID_FILE) {
        rc = ngx_http_clawd_spool_begin(spool);

        if (rc != NGX_OK) {
            return rc;
        }
    }

    do {
        rc = ngx_http_clawd_spool_read(spool, buf, &in);

        if (rc != NGX_OK) {
            return rc;
        }

        while (*n < max) {
            start = in.pos;
            rc = ngx_http_clawd_spool_record(&in, &s[*n]);

            if (rc == NGX_AGAIN) {
                break;
            }

            spool->offset += in.pos - start;

            if (rc == NGX_OK) {
                (*n)++;

            } else {
                spool->passed += in.pos - start;
            }
        }

    } while (*n < max && !in.end);

    if (*n || max == 0) {
        return NGX_OK;
    }

    if (spool->passed) {
        ngx_log_error(NGX_LOG_ERR, spool->log, 0,
                      "the spool \"%V\" is damaged: %O bytes of it were "
                      "passed over", &spool->path, spool->passed);
        spool->passed = 0;
    }

    return NGX_DONE;
}


/* What a replay left comes first: it is older, and its name is taken. */

static ngx_int_t
ngx_http_clawd_spool_begin(ngx_http_clawd_spool_t *spool)
{
    char         buf[NGX_MAX_PATH];
    ngx_fd_t     fd;
    const char  *replay;

    replay = ngx_http_clawd_spool_replay(spool, buf);

    if (replay == NULL) {
        return ngx_http_clawd_spool_fault(spool, ENAMETOOLONG,
                                          "can't be replayed");
    }

    fd = ngx_http_clawd_spool_open(replay, O_RDONLY, 1);

    if (fd == NGX_INVALID_FILE && ngx_errno == ENOENT) {
        return ngx_http_clawd_spool_move(spool, replay);
    }

    if (fd == NGX_INVALID_FILE) {
        if (ngx_errno == EAGAIN) {
            return NGX_DECLINED;
        }

        return ngx_http_clawd_spool_fault(spool, ngx_errno,
                                          "can't be replayed");
    }

    /*
     * One that died between link() and unlink() left both names.  While we
     * hold the lock, no append comes in between.
     */

    if (ngx_http_clawd_spool_named(fd, (char *) spool->path.data) == 0
        && unlink((char *) spool->path.data) == -1)
    {
        (void) ngx_http_clawd_spool_fault(spool, ngx_errno, "can't be moved");
        (void) close(fd);
        return NGX_ERROR;
    }

    spool->fd = fd;
    spool->offset = 0;
    spool->passed = 0;

    return NGX_OK;
}


/* rename() would replace the file of a replay that has just begun */

static ngx_int_t
ngx_http_clawd_spool_move(ngx_http_clawd_spool_t *spool, const char *replay)
{
    char         *path;
    ngx_fd_t      fd;
    ngx_err_t     err;
    struct stat   st;

    path = (char *) spool->path.data;

    fd = ngx_http_clawd_spool_open(path, O_RDONLY, NGX_HTTP_CLAWD_SPOOL_TRIES);

    if (fd == NGX_INVALID_FILE) {
        if (ngx_errno == ENOENT || ngx_errno == EAGAIN) {
            return NGX_DECLINED;
        }

        return ngx_http_clawd_spool_fault(spool, ngx_errno, "can't be opened");
    }

    if (fstat(fd, &st) == 0 && st.st_size == 0) {
        (void) close(fd);
        return NGX_DECLINED;
    }

    if (link(path, replay) == -1 || unlink(path) == -1) {
        err = ngx_errno;
        (void) close(fd);

        if (err == EEXIST) {
            return NGX_DECLINED;
        }

        return ngx_http_clawd_spool_fault(spool, err, "can't be moved");
    }

    spool->fd = fd;
    spool->offset = 0;
    spool->passed = 0;

    return NGX_OK;
}


static ngx_int_t
ngx_http_clawd_spool_read(ngx_http_clawd_spool_t *spool, u_char *buf,
    ngx_http_clawd_spool_in_t *in)
{
    ssize_t  n;

    do {
        n = pread(spool->fd, buf, NGX_HTTP_CLAWD_SPOOL_BUF, spool->offset);
    } while (n == -1 && ngx_errno == EINTR);

    if (n == -1) {
        (void) ngx_http_clawd_spool_fault(spool, ngx_errno, "can't be read");
        ngx_http_clawd_spool_abandon(spool);
        return NGX_ERROR;
    }

    in->pos = buf;
    in->last = buf + n;

    /* nobody writes to it any more, so less is the end */

    in->end = (n < NGX_HTTP_CLAWD_SPOOL_BUF);

    return NGX_OK;
}


/*
 * NGX_OK and a record; NGX_ERROR: the bytes up to pos are none; NGX_AGAIN when
 * more must be read, or nothing is left.
 */

static ngx_int_t
ngx_http_clawd_spool_record(ngx_http_clawd_spool_in_t *in,
    ngx_http_clawd_settlement_t *s)
{
    size_t     len, left;
    u_char    *p;
    uint64_t   n;

    p = in->pos;
    left = in->last - p;

    /* a whole record fits: or it is the file's end */

    if (left == 0 || (left < NGX_HTTP_CLAWD_SPOOL_RECORD && !in->end)) {
        return NGX_AGAIN;
    }

    if (left <= NGX_HTTP_CLAWD_SPOOL_USER
        || ngx_memcmp(p, NGX_HTTP_CLAWD_SPOOL_MAGIC, 4) != 0)
    {
        goto damaged;
    }

    n = ngx_http_clawd_spool_get(p + NGX_HTTP_CLAWD_SPOOL_LENGTH, 4);
    len = NGX_HTTP_CLAWD_SPOOL_PAYLOAD + n;

    if (len <= NGX_HTTP_CLAWD_SPOOL_USER
        || len > NGX_HTTP_CLAWD_SPOOL_RECORD || len > left
        || ngx_http_clawd_spool_get(p + NGX_HTTP_CLAWD_SPOOL_CRC, 4)
           != ngx_http_clawd_spool_crc(p, len)
        || ngx_http_clawd_spool_decode(p, len, s) != NGX_OK)
    {
        goto damaged;
    }

    in->pos += len;

    return NGX_OK;

damaged:

    ngx_http_clawd_spool_resume(in);

    return NGX_ERROR;
}


/*
 * To where the next record may begin, at least a byte on: a torn one is
 * shorter than it says, and the next lies within the length that it gives.
 */

static void
ngx_http_clawd_spool_resume(ngx_http_clawd_spool_in_t *in)
{
    u_char  *p;
    size_t   left;

    left = in->last - in->pos - 1;
    p = memchr(in->pos + 1, NGX_HTTP_CLAWD_SPOOL_MAGIC[0] & 0xff, left);

    in->pos = p ? p : in->last;
}


void
ngx_http_clawd_spool_done(ngx_http_clawd_spool_t *spool)
{
    char         buf[NGX_MAX_PATH];
    const char  *replay;

    if (spool->fd == NGX_INVALID_FILE) {
        return;
    }

    replay = ngx_http_clawd_spool_replay(spool, buf);

    /* still locked, so that nobody else begins with it */

    if (replay && ngx_http_clawd_spool_named(spool->fd, replay) == 0
        && unlink(replay) == -1)
    {
        (void) ngx_http_clawd_spool_fault(spool, ngx_errno,
                                          "can't be removed");
    }

    ngx_http_clawd_spool_abandon(spool);
}


void
ngx_http_clawd_spool_abandon(ngx_http_clawd_spool_t *spool)
{
    if (spool->fd != NGX_INVALID_FILE) {
        (void) close(spool->fd);
    }

    spool->fd = NGX_INVALID_FILE;
    spool->offset = 0;
    spool->passed = 0;
}


static ngx_int_t
ngx_http_clawd_spool_fault(ngx_http_clawd_spool_t *spool, ngx_err_t err,
    const char *fault)
{
    if (spool->told != ngx_time()) {
        spool->told = ngx_time();

        ngx_log_error(NGX_LOG_CRIT, spool->log, err,
                      "the spool \"%V\" %s", &spool->path, fault);
    }

    return NGX_ERROR;
}
