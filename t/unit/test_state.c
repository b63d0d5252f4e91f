/*
 * Copyright (C) clawd authors
 *
 * The state file: what is written is read, what was damaged is refused, and no
 * failure, kill or second writer leaves anything but a whole file.
 *
 * link: src/ledger/ngx_http_clawd_state.c
 */

#include "ngx_http_clawd_state.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "files.h"

#include <sys/file.h>
#include <sys/resource.h>
#include <sys/wait.h>


#define LIMIT  (1LL << 53)

#define USAGE(minute, tokens)                                                 \
    "{\"epoch\":0,\"n\":12,\"request_tat\":1,\"token_tat\":2,"                \
    "\"minute\":" minute ",\"minute_requests\":4,\"minute_tokens\":5,"        \
    "\"day\":20417,\"day_tokens\":6,\"month\":670,"                           \
    "\"month_tokens\":" tokens "}"

#define FILE_OF(users)  "{\"clawd\":1,\"minute\":-1,\"users\":{" users "}}\n"


static ngx_log_t    test_log;
static ngx_str_t    test_path;
static const char  *test_what;

static int          test_fsyncs;       /* calls so far */
static int          test_fsync_fails;  /* …of which this one fails */


/* in place of the system's: what the disk can do wrong */

int
fsync(int fd)
{
    if (++test_fsyncs == test_fsync_fails) {
        errno = EIO;
        return -1;
    }

    return 0;
}


static int
test_setup(void **state)
{
    test_log.log_level = NGX_LOG_DEBUG;
    test_fsyncs = 0;
    test_fsync_fails = 0;
    files_nlogged = 0;

    if (files_make(0) != 0) {
        return -1;
    }

    test_path.data = (u_char *) strdup(files_path("state.json"));
    test_path.len = strlen((char *) test_path.data);

    return 0;
}


static int
test_teardown(void **state)
{
    free(test_path.data);
    files_remove();

    return 0;
}


static ngx_http_clawd_state_t
test_state(ngx_uint_t n, int64_t value)
{
    ngx_uint_t                    i, k;
    ngx_http_clawd_state_t        st;
    ngx_http_clawd_state_user_t  *user;

    st.minute = value;
    st.nusers = n;
    st.users = calloc(n + 1, sizeof(ngx_http_clawd_state_user_t));
    assert_non_null(st.users);

    for (i = 0; i < n; i++) {
        user = &st.users[i];
        user->name_len = snprintf((char *) user->name, sizeof(user->name),
                                  "user-%u", (unsigned) i);

        for (k = 0; k < sizeof(user->usage) / sizeof(int64_t); k++) {
            ((int64_t *) &user->usage)[k] = value;
        }

        user->usage.day = i;
    }

    return st;
}


static ngx_int_t
test_write(ngx_uint_t n, int64_t value)
{
    int                     err;
    ngx_int_t               rc;
    ngx_http_clawd_state_t  st;

    st = test_state(n, value);

    test_what = NULL;
    errno = 0;
    rc = ngx_http_clawd_state_write(&test_path, &st, &test_what);
    err = errno;

    free(st.users);
    errno = err;

    return rc;
}


/* the file holds n users of that value, and there is no other beside it */

static void
test_holds(ngx_uint_t n, int64_t value)
{
    ngx_uint_t              i;
    ngx_http_clawd_state_t  st, want;

    assert_int_equal(access(files_path("state.json.tmp"), F_OK), -1);
    assert_int_equal(ngx_http_clawd_state_read(&test_path, &st, &test_log),
                     NGX_OK);

    want = test_state(n, value);

    assert_int_equal(st.minute, value);
    assert_int_equal(st.nusers, n);

    for (i = 0; i < n; i++) {
        assert_memory_equal(&st.users[i], &want.users[i],
                            sizeof(ngx_http_clawd_state_user_t));
    }

    free(want.users);
    free(st.users);
}


static void
test_fails(const char *what, int err)
{
    assert_string_equal(test_what, what);
    assert_int_equal(errno, err);
}


static void
test_round_trip(void **state)
{
    struct stat  st;

    assert_int_equal(test_write(0, -1), NGX_OK);
    test_holds(0, -1);

    assert_int_equal(test_write(3, 0), NGX_OK);
    test_holds(3, 0);

    assert_int_equal(test_write(5000, LIMIT), NGX_OK);
    test_holds(5000, LIMIT);

    assert_int_equal(test_write(1, 7), NGX_OK);
    test_holds(1, 7);

    assert_int_equal(stat((char *) test_path.data, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(files_nlogged, 0);

    /* the file and its folder, each time */
    assert_int_equal(test_fsyncs, 8);
}


static void
test_text(void **state)
{
    int                     fd;
    char                    text[1024];
    ssize_t                 n;
    ngx_http_clawd_state_t  st;

    static const char  expected[] =
        "{\"clawd\":1,\"minute\":29400000,\"users\":{\n"
        "\"user-0\":{\"epoch\":29400000,\"n\":29400000,"
        "\"request_tat\":29400000,\"token_tat\":29400000,"
        "\"minute\":29400000,\"minute_requests\":29400000,"
        "\"minute_tokens\":29400000,\"day\":0,\"day_tokens\":29400000,"
        "\"month\":29400000,\"month_tokens\":8}\n}}\n";

    st = test_state(1, 29400000);
    st.users[0].usage.month_tokens = 8;

    assert_int_equal(ngx_http_clawd_state_write(&test_path, &st, &test_what),
                     NGX_OK);
    free(st.users);

    fd = open((char *) test_path.data, O_RDONLY);
    assert_true(fd != -1);
    n = read(fd, text, sizeof(text) - 1);
    close(fd);

    assert_true(n > 0);
    text[n] = '\0';
    assert_string_equal(text, expected);
}


/* a path without a folder is of the present one */

static void
test_relative(void **state)
{
    int                     here;
    ngx_str_t               path = ngx_string("other.json");
    ngx_http_clawd_state_t  st, got;

    here = open(".", O_RDONLY);
    assert_true(here != -1);
    assert_int_equal(chdir(files_folder), 0);

    st = test_state(1, 3);

    assert_int_equal(ngx_http_clawd_state_write(&path, &st, &test_what),
                     NGX_OK);
    assert_int_equal(ngx_http_clawd_state_read(&path, &got, &test_log),
                     NGX_OK);
    assert_int_equal(got.nusers, 1);

    free(st.users);
    free(got.users);

    assert_int_equal(fchdir(here), 0);
    close(here);
}


static ngx_int_t
test_read_text(const char *text, size_t len)
{
    ngx_int_t               rc;
    ngx_http_clawd_state_t  st;

    (void) unlink((char *) test_path.data);
    assert_int_equal(files_put("state.json", text, len), 0);

    files_nlogged = 0;
    rc = ngx_http_clawd_state_read(&test_path, &st, &test_log);

    if (rc == NGX_OK) {
        assert_int_equal(files_nlogged, 0);
        free(st.users);
        return rc;
    }

    assert_null(st.users);
    assert_int_equal(st.nusers, 0);
    assert_int_equal(st.minute, -1);

    assert_int_equal(files_nlogged, 1);
    assert_int_equal(files_level, NGX_LOG_EMERG);
    assert_non_null(strstr(files_logged, (char *) test_path.data));
    assert_non_null(strstr(files_logged, "restore"));

    return rc;
}


static void
test_refused(void **state)
{
    size_t  i;

    static const char  *bad[] = {
        "",
        "{",
        "null",
        "[]",
        "{}",
        "\xff",
        "{\"clawd\":2,\"minute\":-1,\"users\":{}}",
        "{\"clawd\":\"1\",\"minute\":-1,\"users\":{}}",
        "{\"clawd\":1.0,\"minute\":-1,\"users\":{}}",
        "{\"clawd\":1,\"minute\":-1}",
        "{\"clawd\":1,\"users\":{}}",
        "{\"clawd\":1,\"minute\":-2,\"users\":{}}",
        "{\"clawd\":1,\"minute\":1.5,\"users\":{}}",
        "{\"clawd\":1,\"minute\":9007199254740993,\"users\":{}}",
        "{\"clawd\":1,\"minute\":99999999999999999999,\"users\":{}}",
        "{\"clawd\":1,\"minute\":null,\"users\":{}}",
        "{\"clawd\":1,\"minute\":-1,\"users\":[]}",
        "{\"clawd\":1,\"minute\":-1,\"users\":null}",
        "{\"clawd\":1,\"minute\":-1,\"users\":{},\"more\":1}",
        "{\"clawd\":1,\"clawd\":1,\"minute\":-1,\"users\":{}}",
        FILE_OF("") "x",
        FILE_OF("") FILE_OF(""),
        FILE_OF("\"alice\":null"),
        FILE_OF("\"alice\":{}"),
        FILE_OF("\"alice\":" USAGE("3", "-1")),
        FILE_OF("\"alice\":" USAGE("-1", "7")),
        FILE_OF("\"alice\":" USAGE("3", "7.0")),
        FILE_OF("\"alice\":" USAGE("3", "\"7\"")),
        FILE_OF("\"alice\":" USAGE("3", "true")),
        FILE_OF("\"alice\":" USAGE("3", "1e3")),
        FILE_OF("\"alice\":" USAGE("3", "9007199254740993")),
        FILE_OF("\"alice\":" USAGE("3", "7,\"more\":1")),
        FILE_OF("\"alice\":" USAGE("3,\"minute\":4", "7")),
        FILE_OF("\"\":" USAGE("3", "7")),
        FILE_OF("\"a b\":" USAGE("3", "7")),
        FILE_OF("\"a\\u0000\":" USAGE("3", "7")),
        FILE_OF("\"a\\n\":" USAGE("3", "7")),
        FILE_OF("\"{x}\":" USAGE("3", "7")),
        FILE_OF("\"\xc3\xa9\":" USAGE("3", "7")),
        FILE_OF("\"0123456789012345678901234567890123456789"
                "0123456789012345678901234\":" USAGE("3", "7")),
        FILE_OF("\"a\":" USAGE("3", "7") ",\"a\":" USAGE("3", "7")),
        FILE_OF("\"a\":" USAGE("3", "7") ",\"\\u0061\":" USAGE("3", "7")),
        FILE_OF("\"a\":" USAGE("3", "7") ",\"b\":" USAGE("3", "-7")),
    };

    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        if (test_read_text(bad[i], strlen(bad[i])) != NGX_ERROR) {
            fail_msg("accepted: %s", bad[i]);
        }
    }

    /* a zero byte does not end it */
    assert_int_equal(test_read_text(FILE_OF(""), sizeof(FILE_OF(""))),
                     NGX_ERROR);
}


/* as people may have put it */

static void
test_accepted(void **state)
{
    size_t  i;

    static const char  *good[] = {
        FILE_OF(""),
        FILE_OF("\"alice\":" USAGE("3", "7")),
        FILE_OF("\"A.b_c@d+e-f\":" USAGE("3", "9007199254740992")),
        FILE_OF("\"0123456789012345678901234567890123456789"
                "012345678901234567890123\":" USAGE("3", "7")),
        " {\n\"users\" : {} ,\r\n\t\"minute\":0, \"clawd\":1 } \n\n",
    };

    for (i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        if (test_read_text(good[i], strlen(good[i])) != NGX_OK) {
            fail_msg("%s: %s", files_logged, good[i]);
        }
    }
}


/* no cut of a file is a file */

static void
test_cut(void **state)
{
    size_t  i;

    static const char  text[] = FILE_OF("\"alice\":" USAGE("3", "7"));

    for (i = 0; i < sizeof(text) - 2; i++) {
        assert_int_equal(test_read_text(text, i), NGX_ERROR);
    }
}


static void
test_no_file(void **state)
{
    int                     fd;
    ngx_http_clawd_state_t  st;

    assert_int_equal(ngx_http_clawd_state_read(&test_path, &st, &test_log),
                     NGX_DECLINED);
    assert_int_equal(files_nlogged, 0);
    assert_int_equal(st.minute, -1);
    assert_int_equal(st.nusers, 0);

    assert_int_equal(mkdir((char *) test_path.data, 0700), 0);
    assert_int_equal(ngx_http_clawd_state_read(&test_path, &st, &test_log),
                     NGX_ERROR);
    assert_int_equal(rmdir((char *) test_path.data), 0);

    /* does not wait for somebody to write into it */

    assert_int_equal(mkfifo((char *) test_path.data, 0600), 0);
    assert_int_equal(ngx_http_clawd_state_read(&test_path, &st, &test_log),
                     NGX_ERROR);
    assert_int_equal(unlink((char *) test_path.data), 0);

    fd = open((char *) test_path.data, O_WRONLY|O_CREAT, 0600);
    assert_true(fd != -1);
    assert_int_equal(ftruncate(fd, 64 * 1024 * 1024 + 1), 0);
    close(fd);
    assert_int_equal(ngx_http_clawd_state_read(&test_path, &st, &test_log),
                     NGX_ERROR);
    assert_non_null(strstr(files_logged, "64 MB"));
}


static void
test_unwritable_values(void **state)
{
    ngx_http_clawd_state_t  st;

    assert_int_equal(test_write(2, 5), NGX_OK);

    assert_int_equal(test_write(0, -2), NGX_ERROR);
    test_fails("write", ERANGE);
    assert_int_equal(test_write(0, LIMIT + 1), NGX_ERROR);
    test_fails("write", ERANGE);
    assert_int_equal(test_write(1, -1), NGX_ERROR);
    test_fails("write", ERANGE);

    st = test_state(2, 1);
    st.users[1].name[0] = '"';
    assert_int_equal(ngx_http_clawd_state_write(&test_path, &st, &test_what),
                     NGX_ERROR);
    test_fails("write", EINVAL);

    st.users[1].name_len = NGX_HTTP_CLAWD_NAME_LEN + 1;
    assert_int_equal(ngx_http_clawd_state_write(&test_path, &st, &test_what),
                     NGX_ERROR);
    st.users[1].name_len = 0;
    assert_int_equal(ngx_http_clawd_state_write(&test_path, &st, &test_what),
                     NGX_ERROR);
    free(st.users);

    test_holds(2, 5);
}


/* more than could be read again */

static void
test_too_many(void **state)
{
    assert_int_equal(test_write(2, 5), NGX_OK);
    assert_int_equal(test_write(260000, LIMIT), NGX_ERROR);
    test_fails("write", EFBIG);
    test_holds(2, 5);
}


static void
test_failures(void **state)
{
    struct rlimit  limit, old;

    assert_int_equal(test_write(2, 5), NGX_OK);

    test_fsyncs = 0;
    test_fsync_fails = 1;
    assert_int_equal(test_write(2, 6), NGX_ERROR);
    test_fails("fsync", EIO);
    test_holds(2, 5);

    /* replaced already, but who knows for how long */

    test_fsyncs = 0;
    test_fsync_fails = 2;
    assert_int_equal(test_write(2, 7), NGX_ERROR);
    test_fails("fsync folder", EIO);
    test_holds(2, 7);
    test_fsync_fails = 0;

    /* the disk is full at once, or after some of it */

    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);

    for (limit = old, limit.rlim_cur = 0; limit.rlim_cur < 20000;
         limit.rlim_cur += 9999)
    {
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
        assert_int_equal(test_write(500, 8), NGX_ERROR);
        test_fails("write", EFBIG);
    }

    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    test_holds(2, 7);

    /* the name is a folder's */

    assert_int_equal(unlink((char *) test_path.data), 0);
    assert_int_equal(mkdir((char *) test_path.data, 0700), 0);
    assert_int_equal(test_write(2, 8), NGX_ERROR);
    test_fails("rename", EISDIR);
    assert_int_equal(access(files_path("state.json.tmp"), F_OK), -1);
}


static void
test_no_folder(void **state)
{
    u_char     name[NGX_MAX_PATH + 1];
    ngx_str_t  path;

    path = test_path;

    test_path.data = (u_char *) "/nowhere-at-all/state.json";
    test_path.len = strlen((char *) test_path.data);
    assert_int_equal(test_write(1, 1), NGX_ERROR);
    test_fails("open folder", ENOENT);

    memset(name, 'a', sizeof(name));
    name[NGX_MAX_PATH - 4] = '\0';
    test_path.data = name;
    test_path.len = NGX_MAX_PATH - 4;
    assert_int_equal(test_write(1, 1), NGX_ERROR);
    test_fails("open", ENAMETOOLONG);

    test_path = path;
}


static void
test_read_only_folder(void **state)
{
    int    status;
    pid_t  pid;

    assert_int_equal(test_write(2, 5), NGX_OK);
    assert_int_equal(chmod(files_folder, 0555), 0);

    pid = files_fork();

    if (pid == 0) {

        /* modes don't bind root */

        if (geteuid() == 0 && setuid(65534) != 0) {
            _exit(2);
        }

        if (test_write(2, 6) != NGX_ERROR || errno != EACCES) {
            _exit(1);
        }

        _exit(strcmp(test_what, "open") != 0);
    }

    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    test_holds(2, 5);
}


static void
test_stale(void **state)
{
    int          fd;
    char         text[8];
    struct stat  st;

    /* longer than what is written, and with the rights of old */

    assert_int_equal(test_write(9, 5), NGX_OK);
    assert_int_equal(rename((char *) test_path.data,
                            files_path("state.json.tmp")), 0);
    assert_int_equal(chmod(files_path("state.json.tmp"), 0644), 0);
    assert_int_equal(test_write(2, 6), NGX_OK);
    test_holds(2, 6);
    assert_int_equal(stat((char *) test_path.data, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);

    /* links lead nowhere */

    assert_int_equal(files_put("victim", "keep", 4), 0);
    assert_int_equal(symlink(files_path("victim"),
                             files_path("state.json.tmp")), 0);
    assert_int_equal(test_write(2, 7), NGX_OK);
    test_holds(2, 7);

    assert_int_equal(link(files_path("victim"),
                          files_path("state.json.tmp")), 0);
    assert_int_equal(test_write(2, 8), NGX_OK);
    test_holds(2, 8);

    fd = open(files_path("victim"), O_RDONLY);
    assert_true(fd != -1);
    assert_int_equal(read(fd, text, sizeof(text)), 4);
    assert_memory_equal(text, "keep", 4);
    close(fd);

    /* a folder is nobody's rest */

    assert_int_equal(mkdir(files_path("state.json.tmp"), 0700), 0);
    assert_int_equal(test_write(2, 9), NGX_ERROR);
    assert_string_equal(test_what, "open");
    assert_int_equal(rmdir(files_path("state.json.tmp")), 0);
    test_holds(2, 8);
}


/* another writer is at work: its file is left to it */

static void
test_second_writer(void **state)
{
    int  fd;

    assert_int_equal(test_write(2, 5), NGX_OK);

    assert_int_equal(files_put("state.json.tmp", "half", 4), 0);
    fd = open(files_path("state.json.tmp"), O_WRONLY);
    assert_true(fd != -1);
    assert_int_equal(flock(fd, LOCK_EX), 0);

    assert_int_equal(test_write(2, 6), NGX_ERROR);
    test_fails("open", EAGAIN);
    ngx_http_clawd_state_clean(&test_path);
    assert_int_equal(access(files_path("state.json.tmp"), F_OK), 0);

    /* it died */

    close(fd);
    ngx_http_clawd_state_clean(&test_path);
    assert_int_equal(access(files_path("state.json.tmp"), F_OK), -1);
    ngx_http_clawd_state_clean(&test_path);

    assert_int_equal(files_put("state.json.tmp", "half", 4), 0);
    assert_int_equal(test_write(2, 7), NGX_OK);
    test_holds(2, 7);
}


static void
test_child(unsigned seed)
{
    for ( ;; ) {
        seed = seed * 1664525 + 1013904223;
        (void) test_write((seed >> 16) % 200, seed >> 20);
    }
}


/* four write, and are killed and replaced at random: the file is whole */

static void
test_writers(void **state)
{
    int                     k;
    pid_t                   pids[4];
    ngx_uint_t              i, n;
    ngx_http_clawd_state_t  st;

    assert_int_equal(test_write(1, 1), NGX_OK);

    for (k = 0; k < 4; k++) {
        pids[k] = files_fork();
        if (pids[k] == 0) {
            test_child(k);
        }
    }

    for (n = 0; n < 400; n++) {
        assert_int_equal(ngx_http_clawd_state_read(&test_path, &st, &test_log),
                         NGX_OK);

        for (i = 0; i < st.nusers; i++) {
            assert_int_equal(st.users[i].usage.n, st.minute);
            assert_int_equal(st.users[i].usage.day, i);
        }

        free(st.users);

        if (n % 4 == 0) {
            k = (n / 4) % 4;
            usleep(n * 7 % 500);
            assert_int_equal(kill(pids[k], SIGKILL), 0);
            assert_int_equal(waitpid(pids[k], NULL, 0), pids[k]);

            pids[k] = files_fork();
            if (pids[k] == 0) {
                test_child(n);
            }
        }
    }

    for (k = 0; k < 4; k++) {
        assert_int_equal(kill(pids[k], SIGKILL), 0);
        assert_int_equal(waitpid(pids[k], NULL, 0), pids[k]);
    }

    assert_int_equal(test_write(3, 2), NGX_OK);
    test_holds(3, 2);
}


#define test_case(f)  cmocka_unit_test_setup_teardown(f, test_setup,          \
                                                      test_teardown)


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        test_case(test_round_trip),
        test_case(test_text),
        test_case(test_relative),
        test_case(test_refused),
        test_case(test_accepted),
        test_case(test_cut),
        test_case(test_no_file),
        test_case(test_unwritable_values),
        test_case(test_too_many),
        test_case(test_failures),
        test_case(test_no_folder),
        test_case(test_read_only_folder),
        test_case(test_stale),
        test_case(test_second_writer),
        test_case(test_writers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
