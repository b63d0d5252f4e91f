/*
 * Copyright (C) clawd authors
 *
 * The state file.  The input is the file.  It must hold that:
 *
 *  - it is read, or refused with one sentence and nothing kept of it;
 *  - what was read can be written, and is read again as it was.
 *
 * link: src/ledger/ngx_http_clawd_state.c
 */

#include "ngx_http_clawd_state.h"

#include "../t/unit/files.h"


#define fuzz_assert(x)  do { if (!(x)) { abort(); } } while (0)


static ngx_log_t  fuzz_log;
static ngx_str_t  fuzz_path;


int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


/* the disk is not what is tried here */

int
fsync(int fd)
{
    return 0;
}


int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
    fuzz_log.log_level = NGX_LOG_DEBUG;

    fuzz_assert(files_make(1) == 0);
    fuzz_assert(atexit(files_remove) == 0);

    fuzz_path.data = (u_char *) strdup(files_path("state.json"));
    fuzz_assert(fuzz_path.data);
    fuzz_path.len = strlen((char *) fuzz_path.data);

    return 0;
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ngx_int_t               rc;
    ngx_uint_t              i;
    const char             *what;
    ngx_http_clawd_state_t  st, again;

    (void) unlink((char *) fuzz_path.data);
    fuzz_assert(files_put("state.json", data, size) == 0);

    files_nlogged = 0;
    rc = ngx_http_clawd_state_read(&fuzz_path, &st, &fuzz_log);

    if (rc != NGX_OK) {
        fuzz_assert(rc == NGX_ERROR && files_nlogged == 1);
        fuzz_assert(st.nusers == 0 && st.users == NULL && st.minute == -1);
        return 0;
    }

    fuzz_assert(files_nlogged == 0);

    fuzz_assert(ngx_http_clawd_state_write(&fuzz_path, &st, &what) == NGX_OK);
    fuzz_assert(ngx_http_clawd_state_read(&fuzz_path, &again, &fuzz_log)
                == NGX_OK);

    fuzz_assert(again.minute == st.minute && again.nusers == st.nusers);

    for (i = 0; i < st.nusers; i++) {
        fuzz_assert(memcmp(&again.users[i], &st.users[i],
                           sizeof(ngx_http_clawd_state_user_t))
                    == 0);
    }

    free(st.users);
    free(again.users);

    return 0;
}
