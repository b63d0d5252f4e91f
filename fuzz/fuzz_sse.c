/*
 * Copyright (C) clawd authors
 *
 * Answers as events.  Of the input the first byte chooses the format, the
 * second the cuts; the rest is the body.  Beside what holds of every answer,
 * events that were added in front and behind must be read as they are.
 */

#include "fuzz_answer.h"


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    u_char           *body;
    answer_result_t   alone, more;

    static const u_char  before[] = ": hello\n\ndata: [DONE]\n\n";
    static const u_char  behind[] = "\n\ndata: {\"error\":\"late\"}\n\n";

    if (size < 2) {
        return 0;
    }

    fuzz_answer(&alone, data[0] % 6 + 1, NGX_HTTP_CLAWD_FRAMING_SSE, data[1],
                data + 2, size - 2);

    body = malloc(size + sizeof(before) + sizeof(behind));
    fuzz_assert(body);

    memcpy(body, before, sizeof(before) - 1);
    memcpy(body + sizeof(before) - 1, data + 2, size - 2);
    memcpy(body + sizeof(before) - 1 + size - 2, behind, sizeof(behind) - 1);

    fuzz_answer(&more, data[0] % 6 + 1, NGX_HTTP_CLAWD_FRAMING_SSE, data[1],
                body, sizeof(before) + sizeof(behind) + size - 4);

    free(body);

    /* a byte order mark counts at the start alone; a CR may take the LF */

    fuzz_assert(more.done >= 1);
    fuzz_assert(more.facts.error && more.facts.told);
    fuzz_assert(more.end == NGX_HTTP_CLAWD_END_BOUNDARY);

    if (size > 2 && data[2] != 0xef) {
        fuzz_assert(more.facts.deltas >= alone.facts.deltas);
        fuzz_assert(more.facts.complete >= alone.facts.complete);
    }

    return 0;
}
