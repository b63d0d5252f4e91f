/*
 * Copyright (C) clawd authors
 *
 * The spool: what append() took is replayed, whatever is killed, torn or full
 * meanwhile, and however many append and replay at once.
 *
 * link: src/ledger/ngx_http_clawd_spool.c
 */

#include "ngx_http_clawd_spool.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "files.h"

#include <sched.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>


#define WRITERS    8
#define SEQS       100000          /* of one writer, at most */
#define BATCH      64


/* what several processes tell each other */

typedef struct {
    ngx_atomic_t   stop;
    ngx_atomic_t   appended[WRITERS];           /* seqs below are in */
    unsigned char  seen[WRITERS][SEQS];         /* how often replayed */
} test_shared_t;


static ngx_log_t               test_log;
static ngx_str_t               test_path;
static ngx_http_clawd_spool_t  test_spool;
static test_shared_t          *test_shared;

static int                     test_syncs;
static int                     test_sync_fails;


/* in place of the system's */

int
fdatasync(int fd)
{
    test_syncs++;

    if (test_sync_fails) {
        errno = EIO;
        return -1;
    }

    return 0;
}


/* called once, before the next lock: another process is that quick */
static void                  (*test_before_lock)(void);


int
flock(int fd, int operation)
{
    void  (*before)(void);

    before = test_before_lock;
    test_before_lock = NULL;

    if (before) {
        before();
    }

    return syscall(SYS_flock, fd, operation);
}


static int
test_setup(void **state)
{
    test_log.log_level = NGX_LOG_DEBUG;
    test_syncs = 0;
    test_sync_fails = 0;
    files_nlogged = 0;

    if (files_make(0) != 0) {
        return -1;
    }

    test_path.data = (u_char *) strdup(files_path("spool"));
    test_path.len = strlen((char *) test_path.data);

    ngx_http_clawd_spool_init(&test_spool, &test_path, &test_log);

    test_shared = mmap(NULL, sizeof(test_shared_t), PROT_READ|PROT_WRITE,
                       MAP_ANON|MAP_SHARED, -1, 0);

    return test_shared == MAP_FAILED ? -1 : 0;
}


static int
test_teardown(void **state)
{
    ngx_http_clawd_spool_abandon(&test_spool);
    (void) munmap(test_shared, sizeof(test_shared_t));
    free(test_path.data);
    files_remove();

    return 0;
}


/* The settlement of a writer's seq: each field follows from these. */

static ngx_http_clawd_settlement_t
test_make(unsigned writer, unsigned seq)
{
    ngx_http_clawd_settlement_t  s;

    char  rid[NGX_HTTP_CLAWD_RID_HEX + 1];

    memset(&s, 0, sizeof(s));

    snprintf(rid, sizeof(rid), "%016x%016x", writer, seq);
    memcpy(s.rid, rid, NGX_HTTP_CLAWD_RID_HEX);

    s.user_len = 1 + seq % NGX_HTTP_CLAWD_NAME_LEN;
    memset(s.user, 'a' + seq % 26, s.user_len);
    s.offset = 3600 - (int32_t) (seq % 3) * 3600;
    s.est = seq;
    s.actual = (int64_t) seq << 32;
    s.tpm = (seq % 2) ? -1 : 1000000000000LL;
    s.windows.epoch = seq % 5;
    s.windows.minute = 29400000 + seq;
    s.windows.day = 20417;
    s.windows.month = 670;
    s.offline = seq % 2;

    return s;
}


static ngx_int_t
test_append(unsigned writer, unsigned seq, unsigned n)
{
    unsigned                      i;
    ngx_int_t                     rc;
    ngx_http_clawd_settlement_t  *s;

    s = malloc(n * sizeof(ngx_http_clawd_settlement_t));
    if (s == NULL) {
        abort();
    }

    for (i = 0; i < n; i++) {
        s[i] = test_make(writer, seq + i);
    }

    rc = ngx_http_clawd_spool_append(&test_spool, s, n);

    free(s);

    return rc;
}


/* Counts it as seen; -1 if it is none of ours. */

static int
test_see(ngx_http_clawd_settlement_t *s)
{
    unsigned                     writer, seq;
    ngx_http_clawd_settlement_t  want;

    if (sscanf((char *) s->rid, "%16x%16x", &writer, &seq) != 2
        || writer >= WRITERS || seq >= SEQS)
    {
        return -1;
    }

    want = test_make(writer, seq);

    if (memcmp(s, &want, sizeof(want)) != 0) {
        return -1;
    }

    if (test_shared->seen[writer][seq] < 255) {
        (void) __sync_fetch_and_add(&test_shared->seen[writer][seq], 1);
    }

    return 0;
}


/*
 * Replays all that is there, max at a time, and counts; what is read is seen
 * once done() removes it.  The number of records, or -1.
 */

static int
test_replay(ngx_uint_t max)
{
    int                          total;
    ngx_int_t                    rc;
    ngx_uint_t                   i, n;
    ngx_http_clawd_settlement_t  s[BATCH];

    total = 0;

    for ( ;; ) {
        rc = ngx_http_clawd_spool_next(&test_spool, s, max, &n);

        if (rc == NGX_DECLINED) {
            return total;
        }

        if (rc == NGX_DONE) {
            if (n != 0) {
                return -1;
            }

            ngx_http_clawd_spool_done(&test_spool);
            continue;
        }

        if (rc != NGX_OK || n == 0 || n > max) {
            return -1;
        }

        for (i = 0; i < n; i++) {
            if (test_see(&s[i]) != 0) {
                return -1;
            }
        }

        total += n;
    }
}


/* seqs from..to of a writer were seen as often as times says */

static void
test_seen(unsigned writer, unsigned from, unsigned to, int times)
{
    for ( /* void */ ; from <= to; from++) {
        if (test_shared->seen[writer][from] != times) {
            fail_msg("writer %u, seq %u: seen %d times", writer, from,
                     test_shared->seen[writer][from]);
        }
    }
}


static size_t
test_read(const char *name, u_char *data, size_t size)
{
    int      fd;
    ssize_t  n;

    fd = open(files_path(name), O_RDONLY);
    assert_true(fd != -1);
    n = read(fd, data, size);
    assert_true(n >= 0);
    close(fd);

    return n;
}


static int
test_exists(const char *name)
{
    return access(files_path(name), F_OK) == 0;
}


static void
test_layout(void **state)
{
    int          bit;
    u_char       data[256];
    size_t       i, n;
    uint32_t     crc;
    struct stat  st;

    static const u_char  expected[] =
        "\xc5SP\x01"
        "\x65\0\0\0"
        "\0\0\0\0"
        "0000000000000002" "0000000000000004"
        "\0\0\0\0"
        "\0\0\0\0"
        "\4\0\0\0\0\0\0\0"
        "\0\0\0\0\4\0\0\0"
        "\0\x10\xa5\xd4\xe8\0\0\0"
        "\4\0\0\0\0\0\0\0"
        "\xc4\x9b\xc0\1\0\0\0\0"
        "\xc1\x4f\0\0\0\0\0\0"
        "\x9e\2\0\0\0\0\0\0"
        "eeeee";

    assert_int_equal(test_append(2, 4, 1), NGX_OK);
    n = test_read("spool", data, sizeof(data));

    assert_int_equal(n, sizeof(expected) - 1);
    assert_memory_equal(data, expected, 8);
    assert_memory_equal(data + 12, expected + 12, n - 12);

    /* the checksum by its definition, bit by bit */

    crc = 0xffffffff;

    for (i = 4; i < n; i++) {
        if (i == 8) {
            i = 12;
        }

        for (bit = 0, crc ^= data[i]; bit < 8; bit++) {
            crc = (crc >> 1) ^ ((crc & 1) ? 0x82f63b78 : 0);
        }
    }

    crc = ~crc;

    for (i = 0; i < 4; i++) {
        assert_int_equal(data[8 + i], (crc >> (8 * i)) & 0xff);
    }

    assert_int_equal(stat((char *) test_path.data, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
}


static void
test_round_trip(void **state)
{
    unsigned  max;

    for (max = 1; max <= BATCH; max += 9) {
        memset(test_shared, 0, sizeof(test_shared_t));

        assert_int_equal(test_append(0, 0, 1), NGX_OK);
        assert_int_equal(test_append(0, 1, 700), NGX_OK);
        assert_int_equal(test_append(1, 0, 77), NGX_OK);
        assert_int_equal(test_append(1, 0, 0), NGX_OK);

        assert_int_equal(test_replay(max), 778);
        test_seen(0, 0, 700, 1);
        test_seen(1, 0, 76, 1);

        assert_false(test_exists("spool"));
        assert_false(test_exists("spool.replay"));
        assert_int_equal(test_replay(max), 0);
    }

    assert_int_equal(files_nlogged, 0);
}


static void
test_nothing(void **state)
{
    ngx_uint_t  n;

    n = 9;
    assert_int_equal(ngx_http_clawd_spool_next(&test_spool, NULL, 1, &n),
                     NGX_DECLINED);
    assert_int_equal(n, 0);

    ngx_http_clawd_spool_done(&test_spool);
    ngx_http_clawd_spool_abandon(&test_spool);

    assert_int_equal(files_put("spool", "", 0), 0);
    assert_int_equal(test_replay(1), 0);
    assert_true(test_exists("spool"));

    /* of one that died before it removed it */

    assert_int_equal(files_put("spool.replay", "", 0), 0);
    assert_int_equal(test_replay(1), 0);
    assert_false(test_exists("spool.replay"));
    assert_int_equal(files_nlogged, 0);

    /* no room to read into is no end of the file */

    assert_int_equal(test_append(0, 0, 1), NGX_OK);
    assert_int_equal(ngx_http_clawd_spool_next(&test_spool, NULL, 0, &n),
                     NGX_OK);
    assert_int_equal(test_replay(1), 1);
}


static void
test_abandon(void **state)
{
    ngx_uint_t                   n;
    ngx_http_clawd_spool_t       other;
    ngx_http_clawd_settlement_t  s[BATCH];

    ngx_http_clawd_spool_init(&other, &test_path, &test_log);

    assert_int_equal(test_append(0, 0, 100), NGX_OK);
    assert_int_equal(ngx_http_clawd_spool_next(&test_spool, s, 10, &n),
                     NGX_OK);
    assert_int_equal(n, 10);

    /* one at a time, and meanwhile appends go elsewhere */

    assert_int_equal(ngx_http_clawd_spool_next(&other, s, 10, &n),
                     NGX_DECLINED);
    assert_int_equal(test_append(0, 100, 50), NGX_OK);
    assert_int_equal(ngx_http_clawd_spool_next(&other, s, 10, &n),
                     NGX_DECLINED);
    assert_true(test_exists("spool"));

    ngx_http_clawd_spool_abandon(&test_spool);

    /* anew from the start, the older file first */

    assert_int_equal(ngx_http_clawd_spool_next(&other, s, BATCH, &n), NGX_OK);
    assert_int_equal(n, BATCH);
    assert_memory_equal(s[0].rid, "00000000000000000000000000000000", 32);
    ngx_http_clawd_spool_abandon(&other);

    assert_int_equal(test_replay(BATCH), 150);
    test_seen(0, 0, 149, 1);
    assert_int_equal(files_nlogged, 0);
}


/* a file cut anywhere gives all records that are whole, and no others */

static void
test_torn(void **state)
{
    u_char  data[2048];
    size_t  len, two, n;

    assert_int_equal(test_append(0, 0, 2), NGX_OK);
    two = test_read("spool", data, sizeof(data));
    assert_int_equal(test_append(0, 2, 1), NGX_OK);
    len = test_read("spool", data, sizeof(data));

    for (n = two; n <= len; n++) {
        memset(test_shared, 0, sizeof(test_shared_t));
        files_nlogged = 0;

        assert_int_equal(truncate((char *) test_path.data, n), 0);
        assert_int_equal(test_replay(BATCH), n == len ? 3 : 2);
        test_seen(0, 0, 1, 1);

        assert_int_equal(files_nlogged, n > two && n < len);

        /* what comes behind it is found */

        memset(test_shared, 0, sizeof(test_shared_t));

        assert_int_equal(files_put("spool", data, n), 0);
        assert_int_equal(test_append(0, 3, 20), NGX_OK);
        assert_int_equal(test_replay(3), n == len ? 23 : 22);
        test_seen(0, 0, 1, 1);
        test_seen(0, 3, 22, 1);

        assert_int_equal(files_put("spool", data, len), 0);
    }
}


/* a byte that changed costs its record and no other */

static void
test_damaged(void **state)
{
    u_char  data[4096];
    size_t  i, first, second, len;
    char    text[64];

    assert_int_equal(test_append(0, 0, 1), NGX_OK);
    first = test_read("spool", data, sizeof(data));
    assert_int_equal(test_append(0, 1, 1), NGX_OK);
    second = test_read("spool", data, sizeof(data));
    assert_int_equal(test_append(0, 2, 4), NGX_OK);
    len = test_read("spool", data, sizeof(data));

    for (i = first; i < second; i++) {
        memset(test_shared, 0, sizeof(test_shared_t));
        files_nlogged = 0;

        data[i] ^= 1 << (i % 8);
        assert_int_equal(unlink((char *) test_path.data), 0);
        assert_int_equal(files_put("spool", data, len), 0);
        data[i] ^= 1 << (i % 8);

        assert_int_equal(test_replay(2), 5);
        test_seen(0, 0, 0, 1);
        test_seen(0, 1, 1, 0);
        test_seen(0, 2, 5, 1);

        assert_int_equal(files_nlogged, 1);
        assert_int_equal(files_level, NGX_LOG_ERR);
        assert_non_null(strstr(files_logged, (char *) test_path.data));
        snprintf(text, sizeof(text), " %d bytes", (int) (second - first));
        assert_non_null(strstr(files_logged, text));

        assert_int_equal(files_put("spool", data, len), 0);
    }
}


/* much of it, over the limits of what is read at once */

static void
test_rubbish(void **state)
{
    u_char  *data;
    size_t   i;

    data = malloc(100000);
    assert_non_null(data);

    for (i = 0; i < 100000; i++) {
        data[i] = "\xc5SP\x01g"[(i * 7919 / 13) % 5];
    }

    assert_int_equal(test_append(0, 0, 500), NGX_OK);
    assert_int_equal(files_put("spool", data, 100000), 0);
    assert_int_equal(test_append(0, 500, 500), NGX_OK);
    free(data);

    assert_int_equal(test_replay(BATCH), 1000);
    test_seen(0, 0, 999, 1);
    assert_int_equal(files_nlogged, 1);
    assert_non_null(strstr(files_logged, " 100000 bytes"));
}


/* records with a right checksum that we would not have written */

static void
test_foreign(void **state)
{
    ngx_http_clawd_settlement_t  s;

    s = test_make(0, 5);
    s.user[2] = '\n';
    assert_int_equal(ngx_http_clawd_spool_append(&test_spool, &s, 1),
                     NGX_ERROR);

    s.user_len = 0;
    assert_int_equal(ngx_http_clawd_spool_append(&test_spool, &s, 1),
                     NGX_ERROR);

    s.user_len = NGX_HTTP_CLAWD_NAME_LEN + 1;
    assert_int_equal(ngx_http_clawd_spool_append(&test_spool, &s, 1),
                     NGX_ERROR);

    assert_false(test_exists("spool"));
    assert_int_equal(files_nlogged, 1);
}


static void
test_sync(void **state)
{
    assert_int_equal(test_append(0, 0, 1), NGX_OK);
    assert_int_equal(test_append(0, 1, 1), NGX_OK);
    assert_int_equal(test_syncs, 1);

    files_time.sec++;
    assert_int_equal(test_append(0, 2, 1), NGX_OK);
    assert_int_equal(test_append(0, 3, 1), NGX_OK);
    assert_int_equal(test_syncs, 2);

    /* perhaps it is lost: it isn't taken */

    files_time.sec++;
    test_sync_fails = 1;
    assert_int_equal(test_append(0, 4, 1), NGX_ERROR);
    assert_int_equal(files_nlogged, 1);
}


static void
test_full(void **state)
{
    assert_int_equal(test_append(0, 0, 10), NGX_OK);
    assert_int_equal(truncate((char *) test_path.data,
                              NGX_HTTP_CLAWD_SPOOL_MAX - 300), 0);
    assert_int_equal(test_append(0, 10, 1), NGX_OK);
    assert_int_equal(test_append(0, 11, 3), NGX_ERROR);
    assert_int_equal(test_append(0, 11, 2), NGX_ERROR);
    assert_int_equal(test_append(0, 11, 1), NGX_OK);

    /* once a second */

    assert_int_equal(files_nlogged, 1);
    files_time.sec++;
    assert_int_equal(test_append(0, 12, 3), NGX_ERROR);
    assert_int_equal(files_nlogged, 2);

    /* what is being replayed counts */

    assert_int_equal(rename((char *) test_path.data,
                            files_path("spool.replay")), 0);
    assert_int_equal(test_append(0, 12, 3), NGX_ERROR);
    assert_true(test_exists("spool"));

    assert_int_equal(test_replay(BATCH), 12);
    test_seen(0, 0, 11, 1);
    assert_int_equal(test_append(0, 12, 3), NGX_OK);
    assert_int_equal(test_replay(BATCH), 3);
}


/* a write that got half way leaves nothing */

static void
test_no_space(void **state)
{
    struct stat    st, after;
    struct rlimit  limit, old;

    assert_int_equal(test_append(0, 0, 3), NGX_OK);
    assert_int_equal(stat((char *) test_path.data, &st), 0);

    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);

    for (limit = old, limit.rlim_cur = st.st_size;
         (off_t) limit.rlim_cur < st.st_size + 5000;
         limit.rlim_cur += 997)
    {
        files_time.sec++;
        files_nlogged = 0;

        assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
        assert_int_equal(test_append(0, 3, 50), NGX_ERROR);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);

        assert_int_equal(files_nlogged, 1);
        assert_int_equal(stat((char *) test_path.data, &after), 0);
        assert_int_equal(after.st_size, st.st_size);
    }

    assert_int_equal(test_append(0, 3, 50), NGX_OK);
    assert_int_equal(test_replay(BATCH), 53);
    test_seen(0, 0, 52, 1);
}


static int
test_tell(const char *file, const char *text)
{
    int  fd, rc;

    fd = open(file, O_WRONLY);
    if (fd == -1) {
        return -1;
    }

    rc = (write(fd, text, strlen(text)) == (ssize_t) strlen(text)) ? 0 : -1;

    return close(fd) == 0 ? rc : -1;
}


/* on a disk of 64 KB, where one may be mounted */

static int
test_small_disk_child(void)
{
    int       n;
    char      uids[32], gids[32];
    unsigned  i;

    snprintf(uids, sizeof(uids), "0 %d 1", (int) geteuid());
    snprintf(gids, sizeof(gids), "0 %d 1", (int) getegid());

    if (unshare(CLONE_NEWUSER|CLONE_NEWNS) == -1
        || test_tell("/proc/self/setgroups", "deny") == -1
        || test_tell("/proc/self/uid_map", uids) == -1
        || test_tell("/proc/self/gid_map", gids) == -1
        || mount("none", files_folder, "tmpfs", 0, "size=64k") == -1)
    {
        return 77;
    }

    for (i = 0; test_append(0, i * 10, 10) == NGX_OK; i++) {
        if (i == 1000) {
            return 1;
        }
    }

    n = i * 10;

    if (i == 0 || files_nlogged != 1 || test_replay(BATCH) != n) {
        return 2;
    }

    for (i = 0; (int) i < n; i++) {
        if (test_shared->seen[0][i] != 1) {
            return 3;
        }
    }

    return test_append(0, n, 10) == NGX_OK ? 0 : 4;
}


static void
test_small_disk(void **state)
{
    int    status;
    pid_t  pid;

    pid = files_fork();

    if (pid == 0) {
        _exit(test_small_disk_child());
    }

    assert_int_equal(waitpid(pid, &status, 0), pid);

    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        skip();
    }

    assert_int_equal(status, 0);
}


static void
test_bad_paths(void **state)
{
    ngx_uint_t                   n;
    ngx_http_clawd_settlement_t  s;

    /* links are not followed, neither to write nor to read */

    assert_int_equal(files_put("victim", "keep", 4), 0);
    assert_int_equal(symlink(files_path("victim"), (char *) test_path.data),
                     0);
    assert_int_equal(test_append(0, 0, 1), NGX_ERROR);
    assert_int_equal(ngx_http_clawd_spool_next(&test_spool, &s, 1, &n),
                     NGX_ERROR);
    assert_int_equal(unlink((char *) test_path.data), 0);

    assert_int_equal(symlink(files_path("victim"),
                             files_path("spool.replay")), 0);
    assert_int_equal(ngx_http_clawd_spool_next(&test_spool, &s, 1, &n),
                     NGX_ERROR);
    assert_int_equal(unlink(files_path("spool.replay")), 0);
    assert_int_equal(test_read("victim", s.rid, 32), 4);

    assert_int_equal(mkfifo((char *) test_path.data, 0600), 0);
    assert_int_equal(test_append(0, 0, 1), NGX_ERROR);
    assert_int_equal(ngx_http_clawd_spool_next(&test_spool, &s, 1, &n),
                     NGX_ERROR);
    assert_int_equal(unlink((char *) test_path.data), 0);

    assert_int_equal(mkdir((char *) test_path.data, 0700), 0);
    assert_int_equal(test_append(0, 0, 1), NGX_ERROR);
    assert_int_equal(ngx_http_clawd_spool_next(&test_spool, &s, 1, &n),
                     NGX_ERROR);
    assert_int_equal(rmdir((char *) test_path.data), 0);

    test_spool.path.data = (u_char *) "/nowhere-at-all/spool";
    test_spool.path.len = strlen("/nowhere-at-all/spool");
    assert_int_equal(test_append(0, 0, 1), NGX_ERROR);
    assert_int_equal(ngx_http_clawd_spool_next(&test_spool, &s, 1, &n),
                     NGX_DECLINED);
}


static int
test_read_only_child(void)
{
    ngx_uint_t                   n;
    ngx_http_clawd_settlement_t  s;

    /* modes don't bind root */

    if (geteuid() == 0 && setuid(65534) != 0) {
        return 1;
    }

    /* the file is another's, and then there is none */

    if (test_append(0, 3, 1) != NGX_ERROR
        || ngx_http_clawd_spool_next(&test_spool, &s, 1, &n) != NGX_ERROR)
    {
        return 2;
    }

    test_spool.path.data = (u_char *) files_path("other");
    test_spool.path.len = strlen((char *) test_spool.path.data);

    return test_append(0, 3, 1) == NGX_ERROR ? 0 : 3;
}


static void
test_read_only_folder(void **state)
{
    int    status;
    pid_t  pid;

    assert_int_equal(test_append(0, 0, 3), NGX_OK);
    assert_int_equal(chmod((char *) test_path.data, 0400), 0);
    assert_int_equal(chmod(files_folder, 0555), 0);

    pid = files_fork();

    if (pid == 0) {
        _exit(test_read_only_child());
    }

    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);

    assert_int_equal(chmod(files_folder, 0700), 0);
    assert_int_equal(test_replay(BATCH), 3);
}


/* one that replays died between link() and unlink(): both names are there */

static void
test_two_names(void **state)
{
    ngx_uint_t                   n;
    ngx_http_clawd_settlement_t  s;

    assert_int_equal(test_append(0, 0, 5), NGX_OK);
    assert_int_equal(link((char *) test_path.data,
                          files_path("spool.replay")), 0);

    /* nobody replays it yet, so that this is replayed, too */

    assert_int_equal(test_append(0, 5, 5), NGX_OK);

    assert_int_equal(ngx_http_clawd_spool_next(&test_spool, &s, 1, &n),
                     NGX_OK);
    assert_false(test_exists("spool"));
    assert_int_equal(test_append(0, 10, 5), NGX_OK);
    ngx_http_clawd_spool_abandon(&test_spool);

    assert_int_equal(test_replay(3), 15);
    test_seen(0, 0, 14, 1);
}


static void
test_move_all(void)
{
    assert_int_equal(rename((char *) test_path.data,
                            files_path("spool.replay")), 0);
    assert_int_equal(test_append(0, 5, 5), NGX_OK);
}


static void
test_begin_replay(void)
{
    assert_int_equal(files_put("spool.replay", "held", 4), 0);
}


/* another process begins just now: what it replays is not replaced */

static void
test_at_once(void **state)
{
    ngx_uint_t                   n;
    ngx_http_clawd_settlement_t  s;

    assert_int_equal(test_append(0, 0, 5), NGX_OK);

    test_before_lock = test_begin_replay;
    assert_int_equal(ngx_http_clawd_spool_next(&test_spool, &s, 1, &n),
                     NGX_DECLINED);
    assert_true(test_exists("spool"));
    assert_int_equal(test_read("spool.replay", s.rid, 32), 4);
    assert_int_equal(unlink(files_path("spool.replay")), 0);

    /* the name that was opened is another file's by now */

    test_before_lock = test_move_all;
    assert_int_equal(ngx_http_clawd_spool_next(&test_spool, &s, 1, &n),
                     NGX_DECLINED);

    assert_int_equal(test_replay(BATCH), 10);
    test_seen(0, 0, 9, 1);

    test_before_lock = test_move_all;
    assert_int_equal(test_append(0, 10, 5), NGX_OK);
    assert_int_equal(test_replay(BATCH), 10);
    test_seen(0, 10, 14, 1);
    assert_int_equal(files_nlogged, 0);
}


/* the names mean other files now: these are left alone */

static void
test_replaced(void **state)
{
    ngx_uint_t                   n;
    ngx_http_clawd_settlement_t  s;

    assert_int_equal(test_append(0, 0, 1), NGX_OK);
    assert_int_equal(ngx_http_clawd_spool_next(&test_spool, &s, 1, &n),
                     NGX_OK);
    assert_int_equal(unlink(files_path("spool.replay")), 0);
    assert_int_equal(files_put("spool.replay", "", 0), 0);

    ngx_http_clawd_spool_done(&test_spool);
    assert_true(test_exists("spool.replay"));
}


/* somebody keeps the lock: it is an error, not a wait without end */

static void
test_locked(void **state)
{
    int                          fd;
    ngx_uint_t                   n;
    ngx_http_clawd_settlement_t  s;

    assert_int_equal(test_append(0, 0, 3), NGX_OK);

    fd = open((char *) test_path.data, O_RDONLY);
    assert_true(fd != -1);
    assert_int_equal(flock(fd, LOCK_EX), 0);

    assert_int_equal(test_append(0, 3, 1), NGX_ERROR);
    assert_int_equal(ngx_http_clawd_spool_next(&test_spool, &s, 1, &n),
                     NGX_DECLINED);

    close(fd);
    assert_int_equal(test_append(0, 3, 1), NGX_OK);
    assert_int_equal(test_replay(BATCH), 4);
}


/* Appends until it is told to stop, or is killed; some batches are large. */

static void
test_writer(unsigned writer, unsigned seed)
{
    unsigned  seq, n;

    seq = test_shared->appended[writer];

    while (!test_shared->stop) {
        seed = seed * 1664525 + 1013904223;
        n = (seed & 0x700000) ? 1 + (seed >> 24) % 5 : 1000;

        if (seq + n > SEQS) {
            break;
        }

        if (test_append(writer, seq, n) == NGX_OK) {
            seq += n;
            test_shared->appended[writer] = seq;
        }
    }

    _exit(0);
}


static void
test_killed_writers(void **state)
{
    int       i;
    pid_t     pid;
    unsigned  seed, seq, end, n;

    seed = getpid();
    print_message("# seed %u\n", seed);

    for (i = 0; i < 200; i++) {
        memset(test_shared, 0, sizeof(test_shared_t));

        pid = files_fork();
        if (pid == 0) {
            test_writer(0, seed + i);
        }

        seed = seed * 1664525 + 1013904223;

        for (n = 0; test_shared->appended[0] == 0 && n < 10000; n++) {
            usleep(100);
        }

        usleep((seed >> 16) % 3000);
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, NULL, 0), pid);

        end = test_shared->appended[0];
        assert_true(end > 0);

        /* what comes next is not lost in what is torn */

        assert_int_equal(test_append(1, 0, 3), NGX_OK);
        assert_true(test_replay(BATCH) >= (int) end + 3);

        test_seen(0, 0, end - 1, 1);
        test_seen(1, 0, 2, 1);

        /* of the batch under way a part, in order, each once */

        for (seq = end; seq < SEQS && test_shared->seen[0][seq]; seq++) {
            assert_int_equal(test_shared->seen[0][seq], 1);
        }

        assert_true(seq <= end + 1000);
        test_seen(0, seq, SEQS - 1, 0);
    }
}


/*
 * Replays until it is told to stop; every so often, if it is asked to, it gives
 * up.  What it read counts only when done() was called.
 */

static void
test_replayer(unsigned fickle)
{
    ngx_int_t                     rc;
    ngx_uint_t                    i, n, total;
    ngx_http_clawd_settlement_t  *s;

    s = malloc((WRITERS * SEQS + BATCH) * sizeof(ngx_http_clawd_settlement_t));
    if (s == NULL) {
        _exit(1);
    }

    total = 0;

    while (!test_shared->stop) {
        rc = ngx_http_clawd_spool_next(&test_spool, s + total, BATCH, &n);
        total += n;

        if (rc == NGX_DONE) {
            for (i = 0; i < total; i++) {
                if (test_see(&s[i]) != 0) {
                    _exit(2);
                }
            }

            ngx_http_clawd_spool_done(&test_spool);
            total = 0;

        } else if (rc == NGX_ERROR) {
            _exit(3);

        } else if (rc == NGX_OK && fickle && total % 7 == 3) {
            ngx_http_clawd_spool_abandon(&test_spool);
            total = 0;
        }
    }

    ngx_http_clawd_spool_abandon(&test_spool);
    _exit(0);
}


/*
 * Eight append while two replay: nothing is lost, and if no replay is given up
 * or killed, nothing comes twice.
 */

static void
test_together(unsigned fickle, unsigned kills)
{
    int       i, k, status;
    pid_t     pids[WRITERS + 2];
    unsigned  n, least;

    for (i = 0; i < WRITERS; i++) {
        pids[i] = files_fork();
        if (pids[i] == 0) {
            test_writer(i, i);
        }
    }

    for ( /* void */ ; i < WRITERS + 2; i++) {
        pids[i] = files_fork();
        if (pids[i] == 0) {
            test_replayer(fickle);
        }
    }

    for (k = 0; k < (int) kills; k++) {
        i = WRITERS + k % 2;
        usleep(k * 7919 % 9000);

        assert_int_equal(kill(pids[i], SIGKILL), 0);
        assert_int_equal(waitpid(pids[i], NULL, 0), pids[i]);

        pids[i] = files_fork();
        if (pids[i] == 0) {
            test_replayer(fickle);
        }
    }

    /* until every writer has written, and something was replayed */

    for (n = 0; n < 60000; n++) {
        for (i = 0, least = SEQS; i < WRITERS; i++) {
            least = ngx_min(least, test_shared->appended[i]);
        }

        if (least > 3000 && (fickle || test_shared->seen[0][0])) {
            break;
        }

        usleep(1000);
    }

    test_shared->stop = 1;

    for (i = 0; i < WRITERS + 2; i++) {
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_int_equal(status, 0);
    }

    assert_true(least > 3000);
    assert_true(test_replay(BATCH) >= 0);
    assert_int_equal(files_nlogged, 0);

    for (i = 0; i < WRITERS; i++) {
        for (n = 0; n < test_shared->appended[i]; n++) {
            if (test_shared->seen[i][n] == 0
                || (kills == 0 && test_shared->seen[i][n] != 1))
            {
                fail_msg("writer %d, seq %u: seen %d times", i, n,
                         test_shared->seen[i][n]);
            }
        }
    }
}


static void
test_many(void **state)
{
    test_together(0, 0);
}


static void
test_many_fickle(void **state)
{
    test_together(1, 0);
}


static void
test_many_killed(void **state)
{
    test_together(0, 100);
}


#define test_case(f)  cmocka_unit_test_setup_teardown(f, test_setup,          \
                                                      test_teardown)


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        test_case(test_layout),
        test_case(test_round_trip),
        test_case(test_nothing),
        test_case(test_abandon),
        test_case(test_torn),
        test_case(test_damaged),
        test_case(test_rubbish),
        test_case(test_foreign),
        test_case(test_sync),
        test_case(test_full),
        test_case(test_no_space),
        test_case(test_small_disk),
        test_case(test_bad_paths),
        test_case(test_read_only_folder),
        test_case(test_two_names),
        test_case(test_at_once),
        test_case(test_replaced),
        test_case(test_locked),
        test_case(test_killed_writers),
        test_case(test_many),
        test_case(test_many_fickle),
        test_case(test_many_killed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
