/*
 * Copyright (C) clawd authors
 *
 * What the targets of answers share: an input is read whole and in pieces,
 * with the same facts, ends and events, to the byte.
 */

#ifndef FUZZ_ANSWER_H_INCLUDED
#define FUZZ_ANSWER_H_INCLUDED


#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define fuzz_assert(x)    do { if (!(x)) { abort(); } } while (0)
#define ANSWER_CHECK(x)   fuzz_assert(x)

#include "../t/unit/answer_run.h"


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


static inline void
fuzz_answer(answer_result_t *whole, ngx_http_clawd_format_e format,
    ngx_http_clawd_framing_e framing, uint32_t seed, const u_char *body,
    size_t len)
{
    uint32_t         i;
    answer_cuts_t    cuts;
    answer_result_t  got;

    memset(&cuts, 0, sizeof(answer_cuts_t));
    answer_run(whole, format, framing, body, len, cuts);

    for (i = 1; i <= 3; i++) {
        cuts.seed = seed * 4 + i;
        answer_run(&got, format, framing, body, len, cuts);
        fuzz_assert(answer_same(&got, whole));
    }
}


#endif /* FUZZ_ANSWER_H_INCLUDED */
